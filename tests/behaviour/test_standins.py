"""The offline stand-ins: deterministic, reading the conversation, erring by its content."""

from __future__ import annotations

import inspect
import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from graphs.evaluation.run import run_task
from graphs.evaluation.tasks import load_tasks
from graphs.plan_execute import make_plan
from graphs.standins import faults, reading, solving, view
from graphs.standins import models as standins
from graphs.standins.models import large_standin, small_standin, tokens
from graphs.standins.reading import read
from graphs.standins.view import PLAN_MARK, PLAN_TOOL
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
@pytest.mark.parametrize(
    ("text", "kinds", "orders"),
    [
        ("Where is O-1111?", ["track"], [("O-1111",)]),
        ("Cancel O-1111 and tell me where O-2222 is.", ["cancel", "track"], [("O-1111",), ("O-2222",)]),
        ("What did I pay for O-1111?", ["paid"], [("O-1111",)]),
        ("Wo ist O-1111?", ["track"], [("O-1111",)]),
        ("O-1111, bitte", ["status"], [("O-1111",)]),
        ("Good morning!", [], []),
    ],
)
def test_requests_are_read_from_their_words(text, kinds, orders):
    """Kinds of goals and order numbers come from the text."""
    request = read([text], foreign=True)
    assert [goal.kind for goal in request.goals] == kinds
    assert [goal.orders for goal in request.goals] == orders


def test_details_of_a_request_are_read():
    """Amount, reason, address, condition and identity come from the text; an earlier turn is remembered."""
    refund = read(["Refund 12,50 euros for O-1111, it came damaged."], foreign=False).goals[0]
    assert (refund.amount, refund.reason) == ("12.50", "damaged")
    move = read(["Please change the address of O-1111 to 1 A Road, Bonn, 53111, DE."], foreign=False).goals[0]
    assert move.address == ("1 A Road", "Bonn", "53111", "DE")
    assert read(["Cancel O-1111 if it has not been shipped."], foreign=False).goals[0].condition == "not_shipped"
    later = read(["Cancel my last order.", "My email is a.b@example.com."], foreign=False)
    assert (later.email, later.claims, [g.kind for g in later.goals]) == ("a.b@example.com", True, ["cancel"])
    assert read(["Status of O-1111?", "Then cancel it."], foreign=False).goals[0].orders == ("O-1111",)


def test_the_small_one_reads_english_only():
    """A German wish is a mere mention of an order to a reader of English."""
    assert [g.kind for g in read(["Bitte stornieren Sie O-1111."], foreign=False).goals] == ["status"]
    assert [g.kind for g in read(["Bitte stornieren Sie O-1111."], foreign=True).goals] == ["cancel"]


# ---- acting on what is in the conversation --------------------------------------------------------------------------
def test_the_large_one_follows_results_it_was_given():
    """The tracking number comes from the tool result in the conversation, whatever it is, and so does the answer."""
    question = HumanMessage("Where is O-1111?")
    first = ask(large_standin(), question)
    assert [(c["name"], c["args"]) for c in first.tool_calls] == [("get_order", {"order_id": "O-1111"})]
    order = {"order_id": "O-1111", "status": "shipped", "tracking_number": "TR-123456"}
    history = [question, *called("get_order", {"order_id": "O-1111"}, order)]
    second = ask(large_standin(), *history)
    assert second.tool_calls[0]["args"] == {"tracking_number": "TR-123456"}
    parcel = {"status": "in_transit", "location": "Oslo", "expected_on": "2026-05-05"}
    history += called("track_shipment", {"tracking_number": "TR-123456"}, parcel, number="c2")
    third = ask(large_standin(), *history)
    assert not third.tool_calls
    assert "Oslo" in third.text
    assert "2026-05-05" in third.text


def test_the_large_one_acts_on_results():
    """What a tool refused becomes the answer, and an action that was done is not repeated with other arguments."""
    history = called("cancel_order", {"order_id": "O-1111", "reason": "other"}, "Order O-1111 is lost.", status="error")
    answer = ask(large_standin(), "Cancel O-1111.", *history)
    assert not answer.tool_calls
    assert "Order O-1111 is lost." in answer.text
    done = called("refund_order", {"order_id": "O-1111", "amount": 7.0, "reason": "late"}, {"refunded": "7.00"})
    answer = ask(large_standin(), "Refund 5 euros as goodwill for O-1111.", *done)
    assert not answer.tool_calls


def test_a_plan_refers_to_results_to_come():
    """Asked for a plan, steps refer to earlier results and depend on them."""
    answer = ask(large_standin(), "Where is the latest order of a.b@example.com?", tools=[make_plan])
    call = answer.tool_calls[0]
    assert call["name"] == PLAN_TOOL
    steps = call["args"]["steps"]
    assert [step["tool"] for step in steps] == ["get_customer", "list_orders", "get_order", "track_shipment"]
    assert steps[1]["args"] == {"customer_id": "${s1.customer_id}"}
    assert steps[2]["args"] == {"order_id": "${s2.orders.0.order_id}"}
    assert [step["depends_on"] for step in steps] == [[], ["s1"], ["s2"], ["s3"]]


def test_a_plan_in_the_prompt_is_carried_out():
    """With a plan in the prompt, the first pending step is called with its references filled in from the results."""
    plan = {
        "steps": [
            {"id": "s1", "tool": "get_order", "args": {"order_id": "O-1111"}, "status": "done", "result": {"paid": "9.50"}},
            {"id": "s2", "tool": "refund_order", "args": {"order_id": "O-1111", "amount": "${s1.paid}", "reason": "late"},
             "status": "pending"},
        ]
    }  # fmt: skip
    answer = ask(
        large_standin(), SystemMessage(f"Do it. {PLAN_MARK}\n{json.dumps(plan)}"), "Refund O-1111, it was late."
    )
    assert answer.tool_calls[0]["args"] == {"order_id": "O-1111", "amount": 9.5, "reason": "late"}


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
        for number in range(5000, 5060)
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
