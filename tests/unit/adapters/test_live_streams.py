"""The answer of the tier with the last word goes out as it comes, and is the one that is judged and recorded."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from contextvars import copy_context
from functools import reduce
from operator import add
from typing import Any

import pytest
import streams
from httpx import RemoteProtocolError
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from openai import APIConnectionError
from streams import TEXT, WAYS, Script, TokenServer, graph_of

from cascade_agent import CascadeChatModel, CascadeExhausted, Policy, cascade_node
from cascade_agent.engine.step import trace_of
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from tests.builders import City, Refused, Runs, behind, eventually, pair, streamed

EVERY_WAY = pytest.mark.parametrize(("adapter", "way"), WAYS, ids=lambda value: value.replace(" ", "_"))
OFF = {"configurable": {"cascade_disabled": True}}
pytestmark = pytest.mark.filterwarnings("ignore:The v3 streaming protocol")


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: 21"


def call_deltas(args: str, call_id: str = "call_1", name: str = "weather") -> list[dict[str, Any]]:
    """A call whose arguments come in two pieces."""
    half = len(args) // 2
    first = {"index": 0, "id": call_id, "type": "function", "function": {"name": name, "arguments": args[:half]}}
    return [{"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": args[half:]}}]}]


def scripts(**large: Any) -> dict[str, Script]:
    """Small says nothing that can be used; large answers as given, fast."""
    return {"small": Script(deltas=[{"content": ""}], rate=1e9), "large": Script(**{"rate": 500.0, **large})}


def cascade(server: TokenServer, **settings: Any) -> CascadeChatModel:
    """A cascade of the two models of a server."""
    large = server.model("large", stream_usage=True)
    return CascadeChatModel(small=server.model("small"), large=large, **settings)


async def read(app: Any, adapter: str, way: str, config: Any = None, seen: Any = None) -> str:
    """All the text that a reader of a stream sees; `seen` is called at the first."""
    found: list[str] = []

    def look(text: str) -> None:
        if text and not found and seen is not None:
            seen()
        found.append(text)

    if way in ("astream", "events v2"):
        async for text in streams.atexts(app, config, adapter, way):
            look(text)
    else:
        for text in streams.texts(app, config, adapter, way):
            look(text)
    return "".join(found)


@EVERY_WAY
@pytest.mark.parametrize("config", [None, OFF], ids=["escalated", "disabled"])
async def test_the_last_tier_is_read_while_it_speaks(adapter, way, config):
    """The server goes on only after its first token was read; each token is seen once."""
    gate = threading.Event()
    with TokenServer(scripts(gate=gate)) as server:
        app = streams.apps(server.model("small"), server.model("large"))[adapter][1]
        assert await read(app, adapter, way, config, gate.set) == TEXT
    assert server.requests == (1 if config else 2)


REFUSING = [
    *({"policy": Policy(on_exhausted=ending)} for ending in ("raise", "interrupt", "return")),
    {"policy": Policy(side_effects={"weather": "write"})},
]


@pytest.mark.parametrize("settings", REFUSING, ids=["raise", "interrupt", "return", "write"])
@pytest.mark.parametrize(("adapter", "way"), [("chat model", "stream"), ("node", "astream"), ("node", "events v3")])
async def test_an_answer_that_may_be_refused_is_held_back(adapter, way, settings):
    """Nothing is seen before all of it came and was judged."""
    with TokenServer(scripts()) as server:
        small, large = server.model("small"), server.model("large")
        app: Any
        if adapter == "chat model":
            app = CascadeChatModel(small=small, large=large, **settings).bind_tools([weather])
        else:
            app = graph_of(cascade_node(small, large, tools=[weather], **settings))
        done: list[int] = []
        assert await read(app, adapter, way, None, lambda: done.append(server.done)) == TEXT
    assert done == [2]


def visible(message: Any) -> Any:
    """Return what a host reads of a message, but for what differs between two calls."""
    metadata = {k: v for k, v in message.response_metadata.items() if k != "cascade"}
    for key in ("token_usage", "logprobs", "model_provider", "system_fingerprint", "id", "object", "service_tier"):
        metadata.pop(key, None)
    usage = {k: v for k, v in (message.usage_metadata or {}).items() if k.endswith("tokens")}
    calls = [(c["name"], c["args"], c["id"]) for c in message.tool_calls]
    return message.content, calls, metadata, usage


@pytest.mark.parametrize("deltas", [streams.words(TEXT), call_deltas('{"city": "Lyon"}')], ids=["text", "call"])
@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_the_chunks_add_up_to_the_answer_that_was_judged(deltas, way):
    """They give what `invoke` gives, and carry the record that the journal holds."""
    journal = TraceCapture()
    with TokenServer(scripts(deltas=deltas, finish="tool_calls" if "tool_calls" in deltas[0] else "stop")) as server:
        model = cascade(server, journal=journal).bind_tools([weather])
        whole = model.invoke("hi")
        parts = list(model.stream("hi")) if way == "stream" else [part async for part in model.astream("hi")]
    total = reduce(add, parts)
    assert visible(total) == visible(whole)
    assert [part.chunk_position for part in parts] == [None] * (len(parts) - 1) + ["last"]
    assert {part.id for part in parts} == {total.id}
    record = trace_of(total)
    assert record is not None
    assert (record.id, record.final_tier) == (journal.traces[-1].id, "large")
    assert record.attempts[1].usage == trace_of(whole).attempts[1].usage
    judged = journal.traces[-1].attempts[1].answer
    assert judged is not None
    assert (judged["text"], [c["args"] for c in judged["tool_calls"]]) == (
        total.text,
        [c["args"] for c in total.tool_calls],
    )


@pytest.mark.parametrize("finish", ["length", "tool_calls", None])
@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware", "structured"])
async def test_a_call_that_was_cut_off_is_no_valid_one(adapter, finish):
    """LangChain repairs its arguments when it streams; it is judged, recorded and handed on as it came."""
    journal, name = TraceCapture(), "City" if adapter == "structured" else "weather"
    with TokenServer(scripts(deltas=call_deltas('{"city": "Par', name=name), finish=finish)) as server:
        small, large = server.model("small"), server.model("large")
        if adapter == "structured":
            typed = pair(small, large, journal=journal).with_structured_output(City, method="function_calling")
            graph = graph_of(lambda state: {"messages": [AIMessage(repr(typed.invoke(state["messages"])))]})
        else:
            graph = behind(adapter, small, large, tools=[weather], journal=journal)
        parts = await streamed(graph, streams.QUESTION, stream_mode=["messages", "values"])
    message = [value for mode, value in parts if mode == "values"][-1]["messages"][-1]
    if adapter == "structured":
        assert message.text == "None"
    else:
        assert message.tool_calls == []
        assert [c["args"] for c in message.invalid_tool_calls] == ['{"city": "Par']
    (trace,) = journal
    assert trace.degraded
    assert any(v.outcome == "fail" for v in trace.attempts[1].verdicts)


def test_a_call_without_arguments_is_a_valid_one():
    """Where none came it is a call of nothing, if the stream ended as one does."""
    with TokenServer(scripts(deltas=call_deltas("", name="now"), finish="tool_calls")) as server:

        @tool
        def now() -> str:
            """The time."""
            return "noon"

        total = reduce(add, cascade(server).bind_tools([now]).stream("hi"))
    assert [(c["name"], c["args"]) for c in total.tool_calls] == [("now", {})]
    assert not trace_of(total).degraded


@EVERY_WAY
async def test_a_stream_that_is_cut_gives_the_error_of_large_alone(adapter, way):
    """Of the same type and words, after the same text."""
    with TokenServer(scripts(cut=3)) as server:
        small, large = server.model("small"), server.model("large")
        ended = []
        for app in streams.apps(small, large)[adapter]:
            with pytest.raises(Exception) as caught:
                await read(app, adapter, way)
            ended.append((type(caught.value), str(caught.value)))
    assert ended[0] == ended[1]


async def test_what_was_paid_for_a_cut_stream_is_unknown():
    """Not 0: it was answered in part, and the provider gave no usage. The host gets what large alone raises."""
    journal = TraceCapture()
    with TokenServer(scripts(cut=3)) as server:
        with pytest.raises((APIConnectionError, RemoteProtocolError)) as alone:  # by the client's version
            list(server.model("large").stream("hi"))
        with pytest.raises(type(alone.value)):
            list(cascade(server, journal=journal).stream("hi"))
    (trace,) = journal
    assert (trace.outcome, trace.attempts[1].outcome) == ("exhausted", "error")
    assert (trace.attempts[1].usage, trace.attempts[1].cost, trace.cost) == (None, None, None)


@pytest.mark.parametrize("budget", [180.0, None])
@pytest.mark.parametrize("way", ["close", "aclose", "break", "cancel"])
async def test_leaving_a_stream_early_leaves_nothing_behind(way, budget):
    """No run, no task, no request; the record says that it was cancelled, and that the price is unknown."""
    journal, runs, policy = TraceCapture(), Runs(), Policy(latency_budget=budget)
    config: Any = {"callbacks": [runs]}
    with TokenServer(scripts(deltas=streams.words("w " * 4000), rate=200.0)) as server:
        model, seen = cascade(server, journal=journal, policy=policy), asyncio.Event()

        async def leave(*, waits: bool = False) -> None:
            async with aclosing(model.astream("hi", config)) as parts:
                async for part in parts:
                    if part.text and waits:
                        seen.set()
                        await asyncio.Event().wait()
                    if part.text:
                        break

        if way == "close":
            parts: Any = model.stream("hi", config)
            next(part for part in parts if part.text)
            parts.close()
        elif way == "cancel":
            task = asyncio.create_task(leave(waits=True))
            await seen.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif way == "break":
            async for part in model.astream("hi", config):
                if part.text:
                    break
            await eventually(lambda: len(journal) > 0)
        else:
            await leave()
        waits = way in ("break", "cancel")  # the loop closes what was dropped, and ends what was cancelled
        await eventually(lambda: not waits or len(tasks()) == 1)
        assert tasks() == {asyncio.current_task()}
        (trace,) = journal
        assert (trace.outcome, trace.attempts[1].outcome) == ("cancelled", "cancelled")
        assert (trace.attempts[1].usage, trace.cost) == (None, None)
        assert all(run["end"] for run in runs.runs.values())
        await eventually(lambda: server.left == 1)


def tasks() -> set[asyncio.Task[Any]]:
    """All tasks, but for those in which the collector of garbage has clients of other tests closed."""
    return {
        task for task in asyncio.all_tasks() if not repr(task.get_coro()).startswith("<coroutine object AsyncClient.")
    }


class Unstoppable(ScriptedChatModel):
    """Streams on when its task is cancelled, as `asyncio.wait_for` in a client can before Python 3.12."""

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for _ in range(300):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
            self.calls.append([])
            yield ChatGenerationChunk(message=AIMessageChunk("w "))


async def test_a_client_that_swallows_a_cancellation_is_left_at_its_next_token():
    """The record says so too."""
    journal = TraceCapture()
    large = Unstoppable(["w"], streams=True)
    model = pair([""], large, journal=journal)
    async with aclosing(model.astream("hi")) as parts:
        async for part in parts:
            if part.text:
                break
    (trace,) = journal
    assert (trace.outcome, trace.attempts[1].outcome) == ("cancelled", "cancelled")
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert large.asked < 300


async def test_what_a_reader_sets_between_chunks_is_his_own():
    """A cascade that he asks while he reads has its own record: it is no part of the step that is streamed."""
    journal = TraceCapture()
    with TokenServer(scripts()) as server:
        model = cascade(server, journal=journal)
        other = pair(ScriptedChatModel(["fine"], loop=True), ["x"])
        for parts in (model.stream("hi"), [part async for part in model.astream("hi")]):
            for _ in parts:
                assert trace_of(other.invoke("hi")).run_id is not None
    assert [trace.outcome for trace in journal] == ["escalated", "escalated"]


@pytest.mark.parametrize("budget", [180.0, None])
@pytest.mark.parametrize("small", ["", "one two three"], ids=["live", "whole"])
@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_reader_may_go_on_in_another_context(how, small, budget):
    """As web servers do, which take each part of a stream on whatever thread or task is free."""
    large = ScriptedChatModel("one two three", streams=True)
    model, parts = pair(small, large, policy=Policy(latency_budget=budget)), []
    if how == "sync":
        stream = model.stream("hi")
        while (part := copy_context().run(next, stream, None)) is not None:
            parts.append(part)
    else:
        later = model.astream("hi")
        while (part := await asyncio.create_task(anext(later, None))) is not None:
            parts.append(part)
    assert reduce(add, parts).text == "one two three"


@pytest.mark.parametrize("used", ["call_1", ""])
async def test_ids_of_calls_are_the_same_in_stream_and_state(used):
    """One that is empty, or that an earlier turn had, is replaced before anybody sees it."""
    earlier = [
        HumanMessage("a"),
        AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "A"}, "id": "call_1"}]),
        ToolMessage("21", tool_call_id="call_1"),
    ]
    with TokenServer(scripts(deltas=call_deltas('{"city": "Lyon"}', used), finish="tool_calls")) as server:
        node = cascade_node(server.model("small"), server.model("large"), tools=[weather])
        parts, state = [], None
        for mode, value in graph_of(node).stream({"messages": earlier}, stream_mode=["messages", "values"]):
            if mode == "values":
                state = value
            else:
                parts.append(value[0])
    ids = [c["id"] for c in reduce(add, parts).tool_calls]
    assert ids == [c["id"] for c in state["messages"][-1].tool_calls]
    assert ids[0]
    assert ids != ["call_1"]


@pytest.mark.parametrize("way", ["stream", "astream", "messages"])
async def test_wrapped_and_nested_tiers_are_live_too(way):
    """Behind fallbacks, set to stream, durable, or as a cascade in the place of large."""
    for wrap in ("fallbacks", "streaming", "durable", "cascade"):
        gate = threading.Event()
        with TokenServer(scripts(gate=gate)) as server:
            small, large = server.model("small"), server.model("large")
            tier: Any = large
            if wrap == "fallbacks":
                tier = server.model("large").with_fallbacks([ScriptedChatModel(["x"])])
            elif wrap == "streaming":
                tier = server.model("large", streaming=True)
            elif wrap == "cascade":
                tier = pair(small, large)
            if wrap == "durable" and way != "messages":
                continue
            model: Any = pair(small, tier, durable=wrap == "durable")
            if way == "messages":
                graph = streams.StateGraph(streams.MessagesState)
                graph.add_node("agent", lambda state, m=model: {"messages": [m.invoke(state["messages"])]})
                saver = InMemorySaver()
                app = graph.add_edge(streams.START, "agent").compile(checkpointer=saver)
                config = {"configurable": {"thread_id": "t"}}
                assert await read(app, "node", "stream", config, gate.set) == TEXT
            else:
                assert await read(model, "chat model", way, None, gate.set) == TEXT


def test_a_refused_call_is_made_again_before_anything_went_out():
    """A provider that says when is asked once more; the reader sees one answer."""
    large = ScriptedChatModel([Refused(after="0.01"), "one two three"], streams=True)
    model = pair(ScriptedChatModel([""], loop=True), large)
    total = reduce(add, model.stream("hi"))
    assert (total.content, large.asked) == ("one two three", 2)


def test_a_policy_that_raises_shows_nothing_of_what_it_refuses():
    """Not a token of a large draft that fails its checks."""
    large = ScriptedChatModel(
        [AIMessage("cut off in the", response_metadata={"finish_reason": "length"})], streams=True
    )
    small = ScriptedChatModel([""])
    model = pair(small, large, policy=Policy(on_exhausted="raise"))
    seen: list[Any] = []
    with pytest.raises(CascadeExhausted):
        seen.extend(model.stream("hi"))
    assert seen == []


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("include_raw", [True, False])
async def test_a_model_without_include_raw_still_gives_structured_output(strict, include_raw):
    """A fake that knows the schema alone, or ignores the rest, answers as small and as large."""

    class Fake(ScriptedChatModel):
        def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
            if strict and kwargs:
                msg = f"got an unexpected keyword argument {next(iter(kwargs))!r}"
                raise TypeError(msg)
            return RunnableLambda(lambda value: schema(name="Lyon", size=3) if self.invoke(value) else None)

    for small in (Fake(["x"], loop=True), ScriptedChatModel([ConnectionError("down")], loop=True)):
        model = pair(small, Fake(["x"], loop=True))
        typed = model.with_structured_output(City, include_raw=include_raw)
        for got in (typed.invoke("hi"), await typed.ainvoke("hi")):
            assert (got["parsed"] if include_raw else got) == City(name="Lyon", size=3)


def test_a_fake_at_its_end_raises_what_it_raises_alone():
    """Also a `StopIteration`, which no generator may raise."""
    model = pair([""], GenericFakeChatModel(messages=iter(())))
    with pytest.raises(StopIteration):
        model.invoke("hi")
