"""A person decides a step: what a front end shows, which replies are understood, and what is paid and recorded."""

from itertools import cycle
from typing import Any

import pytest
from langchain.agents.middleware.human_in_the_loop import HITLRequest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt.interrupt import HumanInterrupt, HumanResponse
from langgraph.types import Command
from pydantic import BaseModel, TypeAdapter

from cascade_agent import CascadeExhausted, Policy
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_fail
from tests.builders import behind, run

WAYS = ("chat_model", "async"), ("node", "sync"), ("middleware", "async"), ("step", "sync")
ADAPTERS = pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
THREAD: Any = {"configurable": {"thread_id": "t"}}
ASKS = Policy(on_exhausted="interrupt", side_effects={"refund": "write", "lookup": "read"})


@tool
def refund(order: str, amount: int) -> str:
    """Refund an order."""
    return f"{amount} for {order}"


@tool
def lookup(order: str) -> str:
    """Look an order up."""
    return order


def calling(*calls: tuple[str, dict[str, Any]]) -> AIMessage:
    """A draft that calls tools."""
    return AIMessage("On it.", tool_calls=[{"name": n, "args": a, "id": f"c{i}"} for i, (n, a) in enumerate(calls)])


A1, A2 = ("refund", {"order": "A1", "amount": 30}), ("refund", {"order": "A2", "amount": 5})
DRAFTS = {"one": calling(A1), "two": calling(A1, A2), "text": AIMessage("Draft."), "none": calling(("nope", {}))}
DOUBT = always_fail(code="doubt", score=0.1)


def scripted(draft: Any) -> ScriptedChatModel:
    """A model that always says the same."""
    return ScriptedChatModel([draft], loop=True, usage=(10, 2))


def graph_of(adapter: str, *tiers: Any, **settings: Any) -> Any:
    """A graph of one reviewed step through an adapter."""
    return behind(adapter, *tiers, **{"saver": InMemorySaver(), "policy": ASKS, "tools": [refund, lookup], **settings})


def hitl(*kinds: Any) -> dict[str, Any]:
    """A reply as LangChain's front ends send it: a decision for each action."""
    return {"decisions": [k if isinstance(k, dict) else {"type": k} for k in kinds]}


def edit(order: str, amount: Any = 7) -> dict[str, Any]:
    """An edited call, as LangChain's front ends send it."""
    return {"type": "edit", "edited_action": {"name": "refund", "args": {"order": order, "amount": amount}}}


def inbox(kind: str, args: Any = None) -> dict[str, Any]:
    """A reply as LangGraph's inbox sends it."""
    return {"type": kind, "args": args}


def calls(*expected: tuple[str, int]) -> list[dict[str, Any]]:
    """The arguments of the calls of an answer."""
    return [{"order": order, "amount": amount} for order, amount in expected]


TAKEN, EDITED, BOTH_TAKEN = calls(("A1", 30)), calls(("B", 7)), calls(("A1", 30), ("A2", 5))
OWN = {"content": "Mine.", "tool_calls": [{"name": "refund", "args": EDITED[0]}]}
UNDERSTOOD: list[tuple[str, Any, Any]] = [
    # the draft as it is
    ("one", hitl("approve"), TAKEN),
    ("one", {"action": "accept"}, TAKEN),
    ("one", [inbox("accept", {"action": "refund", "args": A1[1]})], TAKEN),
    ("one", {"type": "APPROVE"}, TAKEN),
    ("one", " Accept. ", TAKEN),
    ("one", True, TAKEN),
    ("text", [inbox("ACCEPT")], "Draft."),
    ("text", "Approved", "Draft."),
    ("two", hitl("approve", "approve"), BOTH_TAKEN),
    ("two", "accept", BOTH_TAKEN),
    # changed
    ("one", hitl(edit("B")), EDITED),
    ("one", [inbox("edit", {"action": "refund", "args": EDITED[0]})], EDITED),
    ("one", inbox("Edit", EDITED[0]), EDITED),
    ("one", {"action": "edit", "args": {"name": "refund", "args": EDITED[0]}}, EDITED),
    ("one", OWN, EDITED),
    ("text", hitl({"type": "edit", "edited_action": {"name": "answer", "args": {"content": "Mine."}}}), "Mine."),
    ("two", hitl("approve", edit("B")), [TAKEN[0], *EDITED]),
    ("two", hitl({"type": "reject", "message": "never"}, "approve"), calls(("A2", 5))),
    ("two", [inbox("edit", {"action": "answer", "args": {"tool_calls": OWN["tool_calls"]}})], EDITED),
    ("none", hitl(edit("B") | {"edited_action": {"name": "answer", "args": OWN}}), EDITED),
    # answered in its place
    ("one", "No refund, sorry.", "No refund, sorry."),
    ("one", hitl({"type": "respond", "message": "Mine."}), "Mine."),
    ("two", [inbox("response", "Mine.")], "Mine."),
    ("none", {"content": "Mine."}, "Mine."),
    # nothing may be used
    ("one", hitl({"type": "reject", "message": "too much"}), None),
    ("one", [inbox("ignore")], None),
    ("text", {"action": "Reject"}, None),
    ("two", hitl("reject", {"type": "reject", "message": "too much"}), None),
    ("none", "ignore", None),
    ("text", False, None),
]
NOT_UNDERSTOOD: list[tuple[str, Any, str]] = [
    ("one", 7, "int"),
    ("one", {"colour": "red"}, "'colour'"),
    ("one", [], "0 decisions"),
    ("one", "", "without the answer"),
    ("one", "edit", "without the answer"),
    ("one", {"content": ""}, "'content'"),
    ("one", {"type": "maybe"}, "'type'"),
    ("one", inbox("response"), "'args'"),
    ("one", inbox("edit"), "'args'"),
    ("one", inbox("edit", "B"), "edited action"),
    ("one", hitl(), "0 decisions"),
    ("one", hitl("approve", "approve"), "2 decisions; expected 1"),
    ("one", hitl(edit("B", "many")), "wrong_type at "),
    ("one", hitl({"type": "edit", "edited_action": {"name": "nope", "args": {}}}), "unknown_tool"),
    ("text", hitl({"type": "edit", "edited_action": {"name": "answer", "args": {"text": "x"}}}), "content"),
    ("text", {"tool_calls": ["refund"]}, "tool_calls"),
    ("two", hitl("approve"), "1 decisions; expected 2"),
    ("two", hitl("approve", {"type": "respond", "message": "x"}), "whole step"),
    ("none", hitl("approve"), "no draft to accept"),
    ("none", "accept", "no draft to accept"),
]


async def asked(adapter: str, draft: str, how: str, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """A graph that waits for a person, its question, and its tiers."""
    small, large = scripted(DRAFTS[draft]), scripted(DRAFTS[draft])
    validators = {"validators": None} if draft == "none" else {"validators": [DOUBT]}
    graph = graph_of(adapter, small, large, **{**validators, **settings})
    out = await run(graph, {"messages": "Money back, please: A1, A2."}, THREAD, how=how)
    return graph, out["__interrupt__"][0].value, small, large


def answer_of(out: Any) -> Any:
    """The answer of the step: the arguments of its calls, or its text."""
    message = out["messages"][1]
    return [call["args"] for call in message.tool_calls] or message.text


@pytest.mark.parametrize(
    ("way", "draft", "reply", "expected"), [(w, *row) for w, row in zip(cycle(WAYS), UNDERSTOOD, strict=False)]
)
async def test_a_reply_is_understood(way, draft, reply, expected):
    """The reply makes the answer, or is why there is none; each tier is paid once, and the step is on record once."""
    (adapter, how), journal = way, TraceCapture()
    graph, _, small, large = await asked(adapter, draft, how, journal=journal)
    assert len(journal) == 0
    if expected is None:
        with pytest.raises(CascadeExhausted) as caught:
            await run(graph, Command(resume=reply), THREAD, how=how)
        assert ("too much" in [str(error) for error in caught.value.errors]) == ("too much" in str(reply))
    else:
        assert answer_of(await run(graph, Command(resume=reply), THREAD, how=how)) == expected
    drafted = expected is not None and answer_of({"messages": [None, DRAFTS[draft]]}) == expected
    final = None if expected is None else "large" if drafted else "human"
    assert [(t.outcome, t.final_tier, t.usage.calls) for t in journal] == [("human_review", final, 2)]
    assert (small.asked, large.asked) == (1, 1)


@pytest.mark.parametrize(
    ("adapter", "draft", "reply", "why"),
    [(a, *row) for a, row in zip(cycle(["middleware", "node"]), NOT_UNDERSTOOD, strict=False)],
)
async def test_a_reply_that_is_not_understood_comes_back_with_what_is(draft, reply, why, adapter):
    """No such reply becomes an answer; the next one still counts, and nothing is paid again."""
    journal = TraceCapture()
    graph, question, small, large = await asked(adapter, draft, "async", journal=journal)
    again = (await run(graph, Command(resume=reply), THREAD, how="async"))["__interrupt__"][0].value
    assert why in again["error"]
    assert "approve" in " ".join(again["understood"])
    assert again["action_requests"] == question["action_requests"]
    assert answer_of(await run(graph, Command(resume="Mine."), THREAD, how="async")) == "Mine."
    assert (small.asked, large.asked, len(journal)) == (1, 1, 1)


@pytest.mark.parametrize("draft", DRAFTS)
@ADAPTERS
async def test_the_question_is_what_both_front_ends_show(draft, adapter):
    """It is a `HITLRequest` and a `HumanInterrupt`; nothing that could be accepted stays unseen."""
    TypeAdapter(HumanResponse).validate_python(inbox("edit", {"action": "refund", "args": {}}))  # as the table above
    _, question, *_ = await asked(adapter, draft, "async")
    hitl_request: Any = TypeAdapter(HITLRequest).validate_python(question)
    interrupt: Any = TypeAdapter(HumanInterrupt).validate_python(question)
    actions = [(a["name"], a["args"]) for a in hitl_request["action_requests"]]
    whole = {"tool_calls": [{"name": n, "args": a} for n, a in (A1, A2)]}
    expected = {"one": [A1], "two": [A1, A2], "text": [("answer", {"content": "Draft."})]}
    assert actions == expected.get(draft, [("answer", {"content": ""})])
    assert {c["action_name"] for c in hitl_request["review_configs"]} == {name for name, _ in actions}
    action = interrupt["action_request"]
    assert (action["action"], action["args"]) == (("answer", whole) if draft == "two" else actions[0])
    assert interrupt["config"]["allow_accept"] == ("approve" in question["review_configs"][0]["allowed_decisions"])
    assert interrupt["config"]["allow_accept"] == (draft != "none")
    assert "nope" not in str(question["action_requests"])
    assert question["step"] in question["description"]


@ADAPTERS
@pytest.mark.parametrize(
    ("call", "asks"),
    [(("refund", {**A1[1], "order": "unknown"}), True), (("lookup", {"order": "unknown"}), False), (A1, False)],
)
async def test_a_doubtful_call_that_acts_is_decided_by_a_person(call, asks, adapter):
    """Shipped rules alone do not overrule large, but where its call acts and a person is at hand, he is asked."""
    journal = TraceCapture()
    graph = graph_of(adapter, scripted(calling(("nope", {}))), scripted(calling(call)), journal=journal)
    out = await run(graph, {"messages": "Refund order A1: 30 please."}, THREAD, how="async")
    if asks:
        assert out["__interrupt__"][0].value["action_requests"][0]["args"] == call[1]
        out = await run(graph, Command(resume=hitl("approve")), THREAD, how="async")
    assert out["messages"][1].tool_calls[0]["args"] == call[1]
    assert [t.outcome for t in journal] == ["human_review" if asks else "escalated"]


class Refund(BaseModel):
    """A refund."""

    order: str
    amount: int


def parsed(**args: Any) -> dict[str, Any]:
    """An edited structured answer, as LangChain's front ends send it."""
    return hitl({"type": "edit", "edited_action": {"name": "answer", "args": {"parsed": args}}})


@ADAPTERS
@pytest.mark.parametrize("reply", [parsed(**EDITED[0]), '{"order": "B", "amount": 7}', {"parsed": EDITED[0]}], ids=str)
async def test_structured_output_is_edited_as_an_object(reply, adapter):
    """The question has its fields; a reply of the schema is what the graph gets, any other one comes back."""
    small, large = (scripted(calling(("Refund", A1[1]))) for _ in range(2))
    graph = graph_of(adapter, small, large, schema=Refund, tools=(), validators=[DOUBT])
    question = (await run(graph, {"messages": "hi"}, THREAD, how="async"))["__interrupt__"][0].value
    assert question["action_requests"][0]["args"] == {"parsed": A1[1]}
    again = await run(graph, Command(resume=parsed(order="B")), THREAD, how="async")
    assert "error" in again["__interrupt__"][0].value
    out = await run(graph, Command(resume=reply), THREAD, how="async")
    found = out.get("structured_response")
    assert (repr(found) if found else out["messages"][-1].text) == repr(Refund(**EDITED[0]))
    assert (small.asked, large.asked) == (1, 1)


@pytest.mark.parametrize("adapter", ["node", "middleware"])
@pytest.mark.parametrize(("database", "how"), [("sqlite", "async"), ("postgres", "sync"), ("postgres", "async")])
async def test_a_review_outlives_its_process(adapter, database, how, saver_of, thread):
    """Another graph over the same checkpoints, with models that know nothing, takes the draft that was paid."""
    settings: Any = {"validators": [DOUBT]}
    async with saver_of(database, how) as saver:
        drafted = [scripted(DRAFTS["one"]) for _ in range(2)]
        await run(graph_of(adapter, *drafted, saver=saver, **settings), {"messages": "hi"}, thread, how=how)
    journal, small, large = TraceCapture(), scripted("never"), scripted("never")
    async with saver_of(database, how) as saver:
        graph = graph_of(adapter, small, large, saver=saver, journal=journal, **settings)
        assert answer_of(await run(graph, Command(resume=hitl("approve")), thread, how=how)) == TAKEN
    assert (small.asked, large.asked) == (0, 0)
    assert [(t.outcome, t.final_tier, t.usage.calls) for t in journal] == [("human_review", "large", 2)]
