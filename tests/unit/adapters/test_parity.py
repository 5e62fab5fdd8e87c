"""Every adapter and every method runs a step in the same way; and a swap is never worse than large alone."""

import asyncio
import copy
import logging
from functools import reduce
from operator import add
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade_agent import (
    CascadeExhausted,
    CascadeMiddleware,
    Journal,
    Policy,
    Verdict,
    default_validators,
)
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from tests.builders import City, Hanging, Refused, behind, call, cancelled, examples, get_weather, pair

WAYS = pytest.mark.parametrize("way", ["sync", "async", "stream", "astream", "events"])
ADAPTERS = pytest.mark.parametrize("adapter", ["chat_model", "structured", "node", "middleware"])
HI = {"messages": [("user", "hi")]}


def says(*replies: Any, **settings: Any) -> ScriptedChatModel:
    """A model that repeats its script."""
    return ScriptedChatModel(list(replies), loop=True, **settings)


def city(size: Any) -> AIMessage:
    """An answer by function calling."""
    return AIMessage("", tool_calls=[{"name": "City", "args": {"name": "Lyon", "size": size}, "id": uuid4().hex}])


def small_is_bad(draft: Any, _context: Any) -> bool:
    """Refuse what small says."""
    return draft.tier != "small"


def all_is_soft(_draft: Any, _context: Any) -> Verdict:
    """Doubt everything."""
    return Verdict(outcome="fail", code="meh", score=0.1)


def graph_of(adapter: str, small: Any, large: Any, *, schema: bool = False, **settings: Any) -> Any:
    """A graph of one step through an adapter, of a city where the output is structured."""
    wanted = City if schema or adapter == "structured" else None
    return behind(adapter, small, large, schema=wanted, **settings)


async def run(graph: Any, value: Any, way: str, config: Any = None) -> str:
    """Run a graph; what its message stream showed, if it was streamed."""
    if way == "sync":
        graph.invoke(value, config)
    elif way == "async":
        await graph.ainvoke(value, config)
    elif way == "events":
        events = [event async for event in graph.astream_events(value, config, version="v2")]
        streamed = (e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream")
        return "".join(str(chunk.text) for chunk in streamed)
    elif way == "stream":
        return "".join(str(m.text) for m, _ in graph.stream(value, config, stream_mode="messages"))
    else:
        return "".join([str(m.text) async for m, _ in graph.astream(value, config, stream_mode="messages")])
    return ""


@WAYS
@ADAPTERS
async def test_a_cascade_as_a_tier_is_journaled_once(adapter, way, tmp_path, monkeypatch):
    """The journal that the environment names has one line for one step."""
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "steps.jsonl"))
    reply = city(3) if adapter == "structured" else "fine"
    inner = pair(says(reply), says(reply))
    await run(graph_of(adapter, says(ConnectionError("down")), inner), HI, way)
    (trace,) = await asyncio.to_thread(list, Journal(tmp_path / "steps.jsonl"))
    assert (trace.outcome, trace.attempts[1].inner["outcome"]) == ("escalated", "accepted")


@WAYS
@ADAPTERS
@pytest.mark.parametrize("tags", [["nostream"], []], ids=["hidden", "seen"])
async def test_a_tier_that_is_tagged_nostream_is_not_streamed(adapter, way, tags):
    """The tokens of the tier that answered reach the message stream, unless its user keeps it out."""
    reply: Any = AIMessage("fine thing", tool_calls=city(3).tool_calls) if adapter == "structured" else "fine thing"

    graph = graph_of(adapter, says("draft"), says(reply, tags=tags), validators=[small_is_bad])
    seen: list[str] = []

    class Tokens(BaseCallbackHandler):
        def on_llm_new_token(self, token: str, **_: Any) -> None:
            seen.append(token)

        def tap_output_iter(self, _run: Any, output: Any) -> Any:
            return output

        def tap_output_aiter(self, _run: Any, output: Any) -> Any:
            return output

    await run(graph, HI, way, {"callbacks": [Tokens()]})
    assert "".join(seen) == ("" if tags else "fine thing")


@WAYS
@ADAPTERS
async def test_a_durable_step_answers_and_is_on_record_once(adapter, way):
    """Saved in a task of its own, it still has one record, and asks each tier once."""
    reply = city(3) if adapter == "structured" else "fine"
    journal, small, large = TraceCapture(), says(ConnectionError("down")), says(reply)
    graph = graph_of(adapter, small, large, durable=True, journal=journal, saver=InMemorySaver())
    await run(graph, HI, way, {"configurable": {"thread_id": "t"}})
    assert [t.outcome for t in journal] == ["escalated"]
    assert (small.asked, large.asked) == (1, 1)


@WAYS
@ADAPTERS
async def test_structured_output_of_small_that_does_not_parse_escalates(adapter, way):
    """It is judged as such through every adapter."""
    journal = TraceCapture()
    await run(graph_of(adapter, says(city("big")), says(city(3)), schema=True, journal=journal), HI, way)
    assert [(t.reason, t.kind, t.final_tier) for t in journal] == [("schema_invalid", "structured", "large")]


@WAYS
@ADAPTERS
async def test_an_exhausted_step_waits_for_a_human(adapter, way):
    """The graph is interrupted; resumed with `accept` it goes on with the draft, and no tier is asked again."""
    reply = city(3) if adapter == "structured" else "fine"
    journal, small, large = TraceCapture(), says(reply), says(reply)
    policy, config = Policy(on_exhausted="interrupt"), {"configurable": {"thread_id": "t"}}
    graph = graph_of(
        adapter, small, large, validators=[all_is_soft], policy=policy, journal=journal, saver=InMemorySaver()
    )
    await run(graph, HI, way, config)
    assert graph.get_state(config).tasks[0].interrupts[0].value["type"] == "cascade_exhausted"
    assert len(journal) == 0
    await run(graph, Command(resume="accept"), way, config)
    assert [t.outcome for t in journal] == ["human_review"]
    assert (small.asked, large.asked) == (1, 1)


@WAYS
@ADAPTERS
async def test_a_step_that_is_stopped_asks_nobody_else(adapter, way):
    """Control flow of the host passes through; the record says so."""
    journal, large, waits = TraceCapture(), says("late"), way in ("async", "astream", "events")
    small: Any = Hanging("a") if waits else says(KeyboardInterrupt())
    graph = graph_of(adapter, small, large, journal=journal)
    if waits:
        await cancelled(run(graph, HI, way), small)
    else:
        with pytest.raises(KeyboardInterrupt):
            await run(graph, HI, way)
    assert [t.outcome for t in journal] == ["cancelled"]
    assert large.asked == 0


@ADAPTERS
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("tools", [(), (get_weather,)], ids=["plain", "tools"])
async def test_arguments_bound_to_a_tier_stay_with_it(adapter, way, tools):
    """`small.bind(...)` and `large.bind(...)` never mix, with tools, without, and under structured output."""
    small, large = (says(city(3) if adapter == "structured" else "fine") for _ in range(2))
    tiers = small.bind(temperature=0.1, user="u"), large.bind(temperature=0.9, stop=["#"])
    await run(graph_of(adapter, *tiers, tools=tools, validators=[small_is_bad]), HI, way)
    assert [m.options[0].get("temperature") for m in (small, large)] == [0.1, 0.9]
    assert [m.options[0].get("stop") for m in (small, large)] == [None, ["#"]]
    assert [m.options[0].get("user") for m in (small, large)] == ["u", None]


# ---- never worse than large alone -----------------------------------------------------------------------------------
@tool
def lookup(city: str) -> str:
    """Look a city up."""
    return f"{city}: 21"


REPLIES = st.sampled_from(
    [
        "fine",
        "",
        AIMessage("I can't help with that.", response_metadata={"stop_reason": "refusal"}),
        AIMessage("cut off in the mid", response_metadata={"finish_reason": "length"}),
        call(city="Lyon"),
        call(town="Lyon"),
        call("nobody"),
        ConnectionError("down"),
        ContextOverflowError("too long"),
        Refused(401),
        TypeError("an option"),
        ValueError("odd"),
    ]
)


SHAPES = ("plain", "tools", "structured", "structured with raw")
METHODS = ("invoke", "ainvoke", "stream", "astream")


def shaped(model: Any, shape: str) -> Any:
    """A model as a host uses it."""
    if shape == "plain":
        return model
    if shape == "tools":
        return model.bind_tools([lookup])
    return model.with_structured_output(City, include_raw=shape.endswith("raw"))


async def chunks_of(model: Any, queried: Any) -> list[Any]:
    """All that a stream gives."""
    return [chunk async for chunk in model.astream(queried)]


def ended(model: Any, queried: Any, method: str) -> Any:
    """Return what a call ends with: the answer, or the sum of its chunks."""
    if method in ("invoke", "ainvoke"):
        return model.invoke(queried) if method == "invoke" else asyncio.run(model.ainvoke(queried))
    found = list(model.stream(queried)) if method == "stream" else asyncio.run(chunks_of(model, queried))
    if found and isinstance(found[0], AIMessage):
        return reduce(add, found)
    if found and isinstance(found[0], dict):
        return {key: value for part in found for key, value in part.items() if value is not None}
    return next((part for part in reversed(found) if part is not None), None)


def words(value: Any) -> Any:
    """Return what a host reads of an answer."""
    if isinstance(value, BaseMessage):
        calls = [(call["name"], call["args"]) for call in getattr(value, "tool_calls", ())]
        return value.type.removesuffix("MessageChunk").lower(), value.content, calls
    if isinstance(value, dict) and "messages" in value:
        return [words(message) for message in value["messages"]]
    if isinstance(value, dict):
        return value.get("parsed"), type(value.get("parsing_error"))  # a stream leaves out what is None
    return value


def seen(ask: Any) -> Any:
    """Return what the host gets: an answer, or an exception by type and words."""
    try:
        return words(ask())
    except Exception as error:
        return type(error), str(error)


STRUCTURED = st.sampled_from([city(3), city("big"), call("City"), "fine", ConnectionError("down"), ValueError("odd")])


@settings(max_examples=examples(25, 300), deadline=None)
@given(
    data=st.data(),
    shape=st.sampled_from([*SHAPES, "agent"]),
    method=st.sampled_from(METHODS),
    how=st.sampled_from(["validator", "default and validator", "soft"]),
    fails=st.booleans(),
)
def test_a_host_sees_what_large_alone_gives(data, shape, method, how, fails):
    """For any script, with any validators that reject small: the same answer or exception, and as many large calls."""
    replies = STRUCTURED if shape.startswith("structured") else REPLIES
    small, large = data.draw(replies), data.draw(replies)

    def rejects(draft: Any, _context: Any) -> Any:
        if draft.tier == "large":
            return not fails
        return Verdict(outcome="fail", code="no", score=0.1) if how == "soft" else False

    judges = [rejects] if how != "default and validator" else [*default_validators(), rejects]
    alone, paid = (ScriptedChatModel([copy.deepcopy(large), "done"]) for _ in range(2))
    tried = ScriptedChatModel([copy.deepcopy(small)], loop=True)
    if shape == "agent":
        around = CascadeMiddleware(paid, validators=judges)
        plain, agent = create_agent(alone, [lookup]), create_agent(tried, [lookup], middleware=[around])
        way = "invoke" if method in ("invoke", "stream") else "ainvoke"
        assert seen(lambda: ended(agent, HI, way)) == seen(lambda: ended(plain, HI, way))
    else:
        model = pair(tried, paid, validators=judges)
        queried = [HumanMessage("weather in Lyon?")]
        # LangChain's own parsers drop the answer of a model that does not stream, so a structured one is asked whole
        whole = {"stream": "invoke", "astream": "ainvoke"}.get(method, method) if "structured" in shape else method
        expected = seen(lambda: ended(shaped(alone, shape), queried, whole))
        assert seen(lambda: ended(shaped(model, shape), queried, method)) == expected
    assert paid.asked == alone.asked > 0


@pytest.mark.parametrize("on_exhausted", ["pass", "return", "raise"])
def test_a_large_call_that_breaks_its_schema_and_acts_is_not_passed_on(on_exhausted):
    """ToolNode runs tools of a plain JSON Schema unchecked: what is declared to change the world is raised instead."""
    schema = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
    pay = {"type": "function", "function": {"name": "pay", "description": "Pay.", "parameters": schema}}
    for effect, passes in (("irreversible", False), ("write", False), ("read", True), (None, True)):
        policy = Policy(on_exhausted=on_exhausted, side_effects={} if effect is None else {"pay": effect})
        model = pair(says(call("pay")), says(call("pay")), policy=policy).bind_tools([pay])
        if passes and on_exhausted == "pass":
            assert model.invoke("pay Ann").tool_calls[0]["args"] == {}
        else:
            with pytest.raises(CascadeExhausted) as caught:
                model.invoke("pay Ann")
            assert len(caught.value.errors) == 2
            assert caught.value.trace.final is None


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_what_host_code_raises_passes_through_and_costs_no_second_call(way):
    """An inner middleware, or a callback that is to raise: large is not asked."""

    class Inner(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            handler(request)
            raise PermissionError("not after five")

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            await handler(request)
            raise PermissionError("not after five")

    class Raises(BaseCallbackHandler):
        raise_error = True

        def on_llm_end(self, *_: Any, **__: Any) -> None:
            raise PermissionError("not after five")

    small, large = says("fine"), says("large")
    with pytest.raises(PermissionError):
        await run(create_agent(small, middleware=[CascadeMiddleware(large), Inner()]), HI, way)
    model = pair(small, large)
    with pytest.raises(PermissionError):
        await run(model, "hi", way, {"callbacks": [Raises()]})
    assert (small.asked, large.asked) == (2, 0)


# ---- call ids -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("given_ids", [[None], [""], ["x", "x"], ["old"]], ids=str)
@pytest.mark.parametrize("adapter", ["chat_model", "middleware"])
def test_calls_get_ids_that_hosts_can_work_with(given_ids, adapter):
    """Absent, empty, repeated within an answer or across turns: fresh on the accepted copy; others stay as they are."""
    calls = [{"name": "lookup", "args": {"city": f"C{i}"}, "id": own} for i, own in enumerate(given_ids)]
    spoken = AIMessage("", tool_calls=calls)
    history = [HumanMessage("a"), call(city="A").model_copy(update={"tool_calls": [{**calls[0], "id": "old"}]})]
    history = [*history, ("tool", "21")][:1] if given_ids != ["old"] else history
    if adapter == "chat_model":
        model = pair(says(spoken), says("x"), validators=[])
        message = model.bind_tools([lookup]).invoke(history)
        kept = model.invoke([HumanMessage("b")]) if given_ids == ["old"] else None
        assert kept is None or kept.tool_calls[0]["id"] == "old"
    else:
        if given_ids == ["old"]:
            pytest.skip("the agent's own history")
        agent = create_agent(
            ScriptedChatModel([spoken, "done"]), [lookup], middleware=[CascadeMiddleware(says("x"), validators=[])]
        )
        messages = agent.invoke({"messages": history})["messages"]
        message = messages[1]
        assert messages[-1].text == "done"
    ids = [c["id"] for c in message.tool_calls]
    assert len(set(ids)) == len(ids)
    assert all(isinstance(own, str) and own and own != "old" for own in ids)
    assert [c["id"] for c in spoken.tool_calls] == given_ids, "the tier's own message is not changed"


# ---- switched off, and logged once ----------------------------------------------------------------------------------
@pytest.mark.parametrize("switch", ["environment", "call", "text", "off", "text off"])
@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
def test_cascading_can_be_switched_off(adapter, switch, monkeypatch):
    """Everything goes to large, and the record says so."""
    if switch in ("environment", "off"):
        monkeypatch.setenv("CASCADE_DISABLED", "1" if switch == "environment" else "0")
    journal, small, large = TraceCapture(), says("small"), says("large")
    given = {"call": True, "text": "true", "text off": "false"}  # front ends send text
    config = {"configurable": {"cascade_disabled": given[switch]}} if switch in given else {}
    graph_of(adapter, small, large, journal=journal).invoke(HI, config)
    assert (small.asked, large.asked) == ((1, 0) if "off" in switch else (0, 1))
    assert [t.reason for t in journal] == ["accepted" if "off" in switch else "disabled"]


@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
def test_one_call_may_have_a_policy_of_its_own(adapter):
    """`cascade_policy` is JSON, over the settings of the cascade; a misspelled one is refused."""

    def doubts(_draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="pass", score=0.5)

    journal = TraceCapture()
    graph = graph_of(adapter, says("small"), says("large"), validators=[doubts], journal=journal)
    for own in ({"threshold": 0.4}, {"threshold": 0.6}):
        graph.invoke(HI, {"configurable": {"cascade_policy": own}})
    assert [t.final_tier for t in journal] == ["small", "large"]
    with pytest.raises(ValueError, match="no setting 'thresold': did you mean 'threshold'"):
        graph.invoke(HI, {"configurable": {"cascade_policy": {"thresold": 0.4}}})


def test_a_tier_that_can_never_answer_is_logged_once(caplog):
    """With the provider's words and the mend, per tier and kind of error; and a skipped small keeps the cause."""
    caplog.set_level(logging.WARNING, "cascade_agent")
    small = says(Refused(401), name=f"m{uuid4().hex}")
    journal = TraceCapture()
    model = pair(small, says("fine"), journal=journal)
    for _ in range(25):
        assert model.invoke("hi").text == "fine"
    logged = [r.getMessage() for r in caplog.records if "cannot answer" in r.getMessage()]
    assert len(logged) == 1
    assert "refused with 401" in logged[0]
    assert "check the API key" in logged[0]
    assert journal.traces[-1].reason == "skipped_small"
    assert "Refused" in journal.traces[-1].decisions[0].detail


def test_a_request_that_is_too_long_says_nothing_of_the_route():
    """After any number of overflows small is asked first as before."""
    small = says(ContextOverflowError("too long"))
    model = pair(small, says("fine"))
    for _ in range(30):
        model.invoke("hi")
    assert small.asked == 30


# ---- hostile neighbours ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_validator_cannot_change_request_or_answer(way):
    """It sees copies: what it does to them reaches neither large nor the user."""
    sent: list[Any] = []

    def vandal(draft: Any, context: Any) -> bool:
        draft.message.content = "mine"
        if draft.message.tool_calls:
            draft.message.tool_calls[0]["args"]["city"] = "mine"
        getattr(context.messages, "clear", lambda: None)()
        return draft.tier == "large"

    large = ScriptedChatModel([lambda messages: sent.extend(messages) or call(city="Lyon")])
    model = pair(says("small"), large, validators=[vandal])
    message = model.invoke("hi") if way == "sync" else await model.ainvoke("hi")
    assert [m.text for m in sent] == ["hi"]
    assert (message.content, message.tool_calls[0]["args"]) == ("", {"city": "Lyon"})
