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


def called(name, args, result):
    """A call and its result, as a conversation holds them."""
    made = {"name": name, "args": args, "id": "c1"}
    return AIMessage("", tool_calls=[made]), ToolMessage(json.dumps(result), tool_call_id="c1")


WORDS = {"cancel", "track", "paid", "items", "count", "address", "total", "delivered_on", "goodwill", "refund_item"}
"""Ids of tasks that are also plain words of the trade."""


def test_no_stand_in_module_knows_tasks_or_the_database():
    """The modules of the stand-ins import neither the tasks nor the tools, and hold no task's id or order number."""
    for module in (standins, faults, reading, solving, view):
        text = inspect.getsource(module)
        assert not [word for word in ("evaluation", "import tools", "from tools") if word in text]
        for task in load_tasks():
            assert task.id in WORDS or task.id not in text
            assert not set(reading.ORDER.findall(" ".join(task.turns))) & set(reading.ORDER.findall(text))


@BOTH
def test_equal_conversations_get_equal_answers(model):
    """Content, calls, ids and tokens are a function of the conversation; the thread id changes nothing."""
    tasks = load_tasks()
    for task in tasks[::4]:
        one, two = (ask(model, task.turns[0]).model_copy(update={"id": None}) for _ in range(2))
        assert one == two
    one, two = (run_task(tasks[0], lambda **kw: support_alone(model, **kw), thread_id=name) for name in "ab")
    assert (one.calls, one.answers, one.missed) == (two.calls, two.answers, two.missed)


@pytest.mark.parametrize(("foreign", "kind"), [(False, "status"), (True, "cancel")])
def test_the_small_one_reads_english_only(foreign, kind):
    """A German wish is a mere mention of an order to a reader of English."""
    assert [g.kind for g in read(["Bitte stornieren Sie O-1111."], foreign=foreign).goals] == [kind]


def test_the_large_one_carries_out_tasks():
    """It reads requests and results, plans, acts and asks: some tasks of each graph succeed."""
    build = {"support": support_alone, "plan_execute": plan_alone}
    results = [run_task(t, partial(build[t.graph], large_standin())) for t in choose(load_tasks(), 8)]
    assert [result.missed for result in results] == [()] * 8


def test_the_small_one_errs_in_many_ways():
    """Over many requests the small one's first answers show each visible fault, and the large one's show none.

    The faults: empty, prose, broken JSON, unknown tools, bad arguments.
    """
    wishes = (
        "Where is O-{}?",
        "Please refund 12.50 euros for O-{}, it came damaged.",
        "Please change the address of O-{} to 77 Very Long Boulevard of the Republic, Luxembourg, L-2449, LU.",
    )
    texts = [wish.format(number) for number in range(5000, 5020) for wish in wishes]
    offered = {tool.name: tool for tool in TOOLS}

    def fault(answer: AIMessage) -> str | None:
        if answer.invalid_tool_calls or not answer.tool_calls:
            return "broken JSON" if answer.invalid_tool_calls else "prose" if answer.text else "empty"
        (call, *_) = answer.tool_calls
        if call["name"] not in offered:
            return "unknown tool"
        result = offered[call["name"]].invoke({**call, "type": "tool_call"}).content
        return "bad arguments" if result.startswith("Invalid arguments") else None

    small, large = ({fault(ask(model, text)) for text in texts} for model in (small_standin(), large_standin()))
    assert small == {None, "broken JSON", "prose", "empty", "unknown tool", "bad arguments"}
    assert large == {None}


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


@BOTH
def test_usage_is_counted_from_the_real_messages(model):
    """Input tokens grow with the prompt and the offered tools by characters / 4; the model names itself."""
    short, long = (model.invoke(text) for text in ("Hello", "Hello" + "!" * 400))
    assert long.usage_metadata["input_tokens"] - short.usage_metadata["input_tokens"] == 100
    assert short.usage_metadata["input_tokens"] == tokens("Hello") == 2
    assert ask(model, "Hello").usage_metadata["input_tokens"] > 500
    assert short.response_metadata["model_name"] == model.model_name
