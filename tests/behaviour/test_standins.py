"""The offline stand-ins: deterministic, reading the conversation, erring by its content."""

from __future__ import annotations

import inspect
import json
from functools import partial

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from graphs.evaluation.demo import choose
from graphs.evaluation.run import run_task
from graphs.evaluation.tasks import load_tasks
from graphs.plan_execute import build_alone as plan_alone
from graphs.standins import faults, reading, solving, view
from graphs.standins import models as standins
from graphs.standins.models import large_standin, small_standin, tokens
from graphs.standins.reading import read
from graphs.support import build_alone as support_alone
from tools.database import OrderDatabase
from tools.orders import order_tools

TOOLS = order_tools(OrderDatabase())
BOTH = pytest.mark.parametrize("model", [small_standin(), large_standin()], ids=["small", "large"])


def ask(model, *messages, tools=TOOLS) -> AIMessage:
    """One answer with tools on offer."""
    return model.bind_tools(tools).invoke([m if not isinstance(m, str) else HumanMessage(m) for m in messages])


def called(name, args, result, *, status="success", number="c1"):
    """A call and its result, as a conversation holds them."""
    content = result if isinstance(result, str) else json.dumps(result)
    return (
        AIMessage("", tool_calls=[{"name": name, "args": args, "id": number}]),
        ToolMessage(content, tool_call_id=number, status=status),
    )


# ---- no hidden access -----------------------------------------------------------------------------------------------
def test_no_stand_in_module_knows_tasks_or_the_database():
    """The modules of the stand-ins import neither the tasks nor the tools, and hold no task's id or order number."""
    for module in (standins, faults, reading, solving, view):
        text = inspect.getsource(module)
        assert "evaluation" not in text
        assert "import tools" not in text
        assert "from tools" not in text
        for task in load_tasks():
            assert task.id in _WORDS or task.id not in text
            for turn in task.turns:
                assert not set(reading.ORDER.findall(turn)) & set(reading.ORDER.findall(text))


_WORDS = {"cancel", "track", "paid", "items", "count", "address", "total", "delivered_on", "goodwill", "refund_item"}
"""Ids of tasks that are also plain words of the trade."""


@BOTH
def test_the_thread_id_changes_nothing(model):
    """The same task under another thread id gives the same calls, tokens and answers."""
    task = load_tasks()[0]
    one = run_task(task, lambda **kw: support_alone(model, **kw), thread_id="a")
    two = run_task(task, lambda **kw: support_alone(model, **kw), thread_id="b")
    assert (one.calls, one.answers, one.missed) == (two.calls, two.answers, two.missed)


# ---- reading --------------------------------------------------------------------------------------------------------
def test_the_small_one_reads_english_only():
    """A German wish is a mere mention of an order to a reader of English."""
    assert [g.kind for g in read(["Bitte stornieren Sie O-1111."], foreign=False).goals] == ["status"]
    assert [g.kind for g in read(["Bitte stornieren Sie O-1111."], foreign=True).goals] == ["cancel"]


# ---- acting on what is in the conversation --------------------------------------------------------------------------
def test_the_large_one_carries_out_tasks():
    """It reads requests and results, plans, acts and asks: a dozen tasks succeed."""
    build = {"support": support_alone, "plan_execute": plan_alone}
    results = [run_task(t, partial(build[t.graph], large_standin())) for t in choose(load_tasks(), 12)]
    assert [result.missed for result in results] == [()] * 12


# ---- erring ---------------------------------------------------------------------------------------------------------
@BOTH
def test_equal_conversations_get_equal_answers(model):
    """Content, calls, ids and tokens are a function of the conversation."""
    for task in load_tasks()[::4]:
        one, two = (ask(model, task.turns[0]) for _ in range(2))
        assert one.model_copy(update={"id": None}) == two.model_copy(update={"id": None})


def test_the_small_one_errs_in_many_ways():
    """Over many requests the small one's first answers show each visible fault, and the large one's show none.

    The faults: empty, prose, broken JSON, unknown tools, bad arguments.
    """
    texts = [
        f"{wish} O-{number}{rest}"
        for number in range(5000, 5020)
        for wish, rest in (
            ("Where is", "?"),
            ("Please refund 12.50 euros for", ", it came damaged."),
            ("Please change the address of", " to 77 Very Long Boulevard of the Republic, Luxembourg, L-2449, LU."),
        )
    ]
    offered = {tool.name: tool for tool in TOOLS}
    kinds: dict[str, set[str]] = {}
    for model in (small_standin(), large_standin()):
        found = kinds.setdefault(model.model_name, set())
        for answer in (ask(model, text) for text in texts):
            if answer.invalid_tool_calls:
                found.add("broken JSON")
            elif not answer.tool_calls:
                found.add("prose" if answer.text else "empty")
            for call in answer.tool_calls:
                if call["name"] not in offered:
                    found.add("unknown tool")
                elif (
                    offered[call["name"]].invoke({**call, "type": "tool_call"}).content.startswith("Invalid arguments")
                ):
                    found.add("bad arguments")
    assert kinds["standin-small"] == {"broken JSON", "prose", "empty", "unknown tool", "bad arguments"}
    assert kinds["standin-large"] == set()


def test_some_faults_cannot_be_seen():
    """Among the small one's answers are plain sentences with a wrong fact, which the large one states right."""
    wrong = 0
    for number in range(6000, 6100):
        order = {"order_id": f"O-{number}", "status": "processing", "paid": "10.00"}
        history = [f"What did I pay for O-{number}?", *called("get_order", {"order_id": f"O-{number}"}, order)]
        small, large = ask(small_standin(), *history), ask(large_standin(), *history)
        wrong += "15.00" in small.text
        assert "15.00" not in large.text
    assert 0 < wrong < 30


# ---- the host's interface -------------------------------------------------------------------------------------------
@BOTH
def test_usage_is_counted_from_the_real_messages(model):
    """Input tokens grow with the prompt and the offered tools by characters / 4; the model names itself."""
    short, long = (model.invoke(text) for text in ("Hello", "Hello" + "!" * 400))
    assert long.usage_metadata["input_tokens"] - short.usage_metadata["input_tokens"] == 100
    assert short.usage_metadata["input_tokens"] == tokens("Hello") == 2
    assert ask(model, "Hello").usage_metadata["input_tokens"] > 500
    assert short.response_metadata["model_name"] == model.model_name
