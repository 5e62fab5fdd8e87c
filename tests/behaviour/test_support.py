"""The support graph: a person for large refunds, errors that are named, actions on one's own orders."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade_agent import Draft, StepContext
from cascade_agent.testing import ScriptedChatModel
from graphs import support
from graphs.evaluation.run import UnsteadyDatabase
from tools.orders import order_tools


def call(name: str, number: str = "1", **args) -> dict:
    """A tool call."""
    return {"name": name, "args": args, "id": number}


LARGE = call("refund_order", "r", order_id="O-2138", amount=566.6, reason="damaged")
SMALL = call("refund_order", "s", order_id="O-2140", amount=20.0, reason="goodwill")


def started(*calls):
    """A graph that was asked for refunds and stands where it stands; its database."""
    db = UnsteadyDatabase()
    model = ScriptedChatModel([AIMessage("", tool_calls=list(calls)), "Done."])
    graph = support.build_alone(model, db=db, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    return graph, config, graph.invoke({"messages": [HumanMessage("refund")]}, config), db


def refunds(db) -> list[tuple[str, int]]:
    """The refunds that were paid on the shop's day."""
    rows = db.snapshot()["refunds"].values()
    return sorted((row["order_id"], row["amount_cents"]) for row in rows if row["refunded_on"] == "2026-03-15")


@pytest.mark.parametrize("amount", [100.01, "100.01", "a lot", None, float("nan")])
def test_a_large_or_unreadable_refund_needs_a_person(amount):
    """An amount that is not known to be small is asked about."""
    assert support.needs_person(call("refund_order", amount=amount))
    assert support.needs_person(call("refund_order"))
    assert not support.needs_person(call("refund_order", amount=100))
    assert not support.needs_person(call("cancel_order", amount=amount))


EDIT = {"type": "edit", "edited_action": {"name": "refund_order", "args": {**LARGE["args"], "amount": 300.0}}}


@pytest.mark.parametrize(
    ("decision", "paid", "words"),
    [
        ({"type": "approve"}, [("O-2138", 56660)], "566.60"),
        ({"type": "reject", "message": "send it back first"}, [], "send it back first"),
        (EDIT, [("O-2138", 30000)], "300.00"),
    ],
    ids=["approve", "reject", "edit"],
)
def test_a_person_decides(decision, paid, words):
    """The question is in the form of LangChain's front ends; what is decided is done, and the model reads it.

    What is small is paid at once where nothing large stands next to it.
    """
    graph, config, state, db = started(LARGE, SMALL)
    question = state["__interrupt__"][0].value
    assert [(r["name"], r["args"]) for r in question["action_requests"]] == [("refund_order", LARGE["args"])]
    assert question["review_configs"][0]["allowed_decisions"] == ["approve", "edit", "reject"]
    assert refunds(db) == []
    state = graph.invoke(Command(resume={"decisions": [decision]}), config)
    assert refunds(db) == sorted([*paid, ("O-2140", 2000)])
    results = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    assert {m.tool_call_id for m in results} == {"r", "s"}
    assert any(words in m.text for m in results)
    assert state["messages"][-1].text == "Done."
    _, _, state, db = started(SMALL)
    assert ("__interrupt__" in state, refunds(db)) == (False, [("O-2140", 2000)])


@pytest.mark.parametrize("wrong", ["yes", {"decisions": [{"type": "maybe"}]}, {"decisions": [{"type": "edit"}]}])
@pytest.mark.parametrize("reply", [[{"action": "APPROVE"}], "approve", {"decisions": [True]}])
def test_replies_of_every_front_end_are_understood_or_asked_again(wrong, reply):
    """The question comes again with what was expected; then the inbox's form or a plain word means the same."""
    graph, config, _, db = started(LARGE)
    state = graph.invoke(Command(resume=wrong), config)
    assert "approve, edit, reject" in state["__interrupt__"][0].value["error"]
    assert refunds(db) == []
    graph.invoke(Command(resume=reply), config)
    assert refunds(db) == [("O-2138", 56660)]


def after(*results: tuple[dict, str, str]) -> tuple:
    """A conversation of `my mail` with tool results: (call, text, status)."""
    messages = [HumanMessage("I am ana@example.com. Cancel O-1111.")]
    for made, text, status in results:
        messages += [AIMessage("", tool_calls=[made]), ToolMessage(text, tool_call_id=made["id"], status=status)]
    return tuple(messages)


ERROR = (call("get_order", order_id="O-1111"), "There is no order O-1111.", "error")
ORDER = '{{"order_id": "O-1111", "customer_id": "{}", "status": "processing", "paid": "9.00"}}'
ACCOUNT = '{"customer_id": "C-1", "email": "ana@example.com"}'
ME = (call("get_customer", "2", email="ana@example.com"), ACCOUNT, "success")


def seen(name: str, text: str) -> tuple:
    """A look-up that succeeded."""
    return call(name, "3"), text, "success"


CANCEL = AIMessage("", tool_calls=[call("cancel_order", "9", order_id="O-1111", reason="other")])


@pytest.mark.parametrize(
    ("rule", "message", "results", "found"),
    [
        (support.error_told, AIMessage("It is on its way."), [ERROR], "error_not_told"),
        (support.error_told, AIMessage("Sorry, there is no such order."), [ERROR], ""),
        (support.error_told, AIMessage("Which order is it?"), [ERROR], ""),
        (support.error_told, AIMessage("It is on its way."), [ERROR, ME], None),
        (support.error_told, CANCEL, [ERROR], None),
        (support.owner_checked, CANCEL, [], "owner_unchecked"),
        (support.owner_checked, CANCEL, [ME], "owner_unchecked"),
        (support.owner_checked, CANCEL, [ME, seen("get_order", ORDER.format("C-2"))], "owner_unchecked"),
        (support.owner_checked, CANCEL, [ME, seen("get_order", ORDER.format("C-1"))], ""),
        (support.owner_checked, CANCEL, [ME, seen("list_orders", f'{{"orders": [{ORDER.format("C-1")}]}}')], ""),
        (support.owner_checked, AIMessage("", tool_calls=[call("get_order", order_id="O-1111")]), [], None),
    ],
)  # fmt: skip
def test_what_the_rules_of_the_desk_find(rule, message, results, found):
    """An error must be named; an action for a named account needs an order that was seen to be of that account.

    Who gives only an order number may act on it, as the shop's rules have it.
    """
    draft = Draft(message=message, tier="small")
    verdict = rule(draft, StepContext(messages=after(*results)))
    assert (None if verdict is None else verdict.code) == found
    assert support.owner_checked(draft, StepContext(messages=(HumanMessage("Cancel O-1111."),))) is None


def test_a_table_that_does_not_answer_is_an_error_to_the_model():
    """A read that fails is reported with what may be done; the next one works, and nothing was half written."""
    db = UnsteadyDatabase()
    tools = {tool.name: tool for tool in order_tools(db)}
    before = db.snapshot()
    db.failing = {"orders": 1}
    first = tools["refund_order"].invoke({**SMALL, "type": "tool_call"})
    assert (first.status, "did not answer" in first.text) == ("error", True)
    assert db.snapshot() == before
    assert tools["refund_order"].invoke({**SMALL, "type": "tool_call"}).status == "success"
