"""Streams: drafts are unheard by those who stream, and an accepted answer comes in chunks that add up to it."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler

from cascade_agent.engine.streaming import HIDDEN, MAX_CHUNKS, AnswerStream, chunks, is_streaming, silence
from tests.builders import json_values

texts = st.text(max_size=60)
values = json_values(texts, size=3, leaves=6, odd=False)
calls = st.builds(
    lambda name, args, call_id: {"name": name, "args": args, "id": call_id},
    st.text(min_size=1, max_size=9),
    st.dictionaries(texts, values, max_size=3),
    st.none() | st.text(min_size=1, max_size=5),
)
messages = st.builds(
    AIMessage,
    content=texts,
    tool_calls=st.lists(calls, max_size=3),
    id=st.none() | st.just("m1"),
    additional_kwargs=st.dictionaries(st.just("k"), values, max_size=1),
    response_metadata=st.dictionaries(st.sampled_from(["finish_reason", "n"]), texts | st.integers(0, 9), max_size=2),
    usage_metadata=st.none() | st.just({"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}),
)


def total(message: AIMessage) -> Any:
    """The sum of a message's chunks."""
    parts = list(chunks(message))
    assert len(parts) <= MAX_CHUNKS + len(message.tool_calls) + 1
    assert [c.chunk_position for c in parts] == [None] * (len(parts) - 1) + ["last"]
    full = parts[0]
    for chunk in parts[1:]:
        full = full + chunk
    return full


@settings(deadline=None)
@given(messages)
def test_the_chunks_add_up_to_the_message(message):
    """Text, calls with their ids, metadata and usage, each exactly once."""
    full = total(message)
    assert full.content == message.content
    assert full.tool_calls == message.tool_calls
    assert full.invalid_tool_calls == []
    assert (full.id, full.usage_metadata) == (message.id, message.usage_metadata)
    assert (full.additional_kwargs, full.response_metadata) == (message.additional_kwargs, message.response_metadata)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "a", " a  b ", "a\n\n b\n", "x" * 100_000, "w " * 100_000])
def test_no_character_is_lost(text):
    """White space at either end, long words, long texts."""
    assert total(AIMessage(text)).content == text


def test_calls_that_are_no_json_are_never_repaired():
    """They come in one piece: adding chunks up would turn a cut call into a valid one."""
    cut = {"name": "f", "args": '{"a": "b', "id": "1", "error": None}
    message = AIMessage("look", invalid_tool_calls=[cut], tool_calls=[{"name": "g", "args": {}, "id": "2"}])
    (only,) = chunks(message)
    assert [c["args"] for c in only.invalid_tool_calls] == ['{"a": "b']
    assert [c["name"] for c in only.tool_calls] == ["g"]
    assert (only.content, only.chunk_position) == ("look", "last")


# ---- who hears what -------------------------------------------------------------------------------------------------
class Heard(BaseCallbackHandler):
    """A tracer."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_chat_model_start(self, _serialized, _messages, **kwargs):
        self.events.append(("start", kwargs["tags"], kwargs["name"], kwargs["parent_run_id"]))

    def on_llm_new_token(self, token, **_):
        self.events.append(("token", token))

    def on_stream_event(self, event, **_):
        self.events.append(("event", event["event"]))

    def on_llm_end(self, result, **_):
        self.events.append(("end", result.generations[0][0].message.text))


class Streaming(Heard, _StreamingCallbackHandler):
    """A handler that makes models stream."""

    def tap_output_iter(self, _run_id, output):
        return output

    def tap_output_aiter(self, _run_id, output):
        return output


class Events(Heard, _V2StreamingCallbackHandler):
    """A handler that makes models tell content-block events."""


def test_drafts_are_unheard_by_those_who_stream():
    """No silenced handler makes a model stream; each still hears every event; tracers are left as they are."""
    plain, streaming, events = Heard(), Streaming(), Events()
    manager = silence(CallbackManager(handlers=[plain, streaming, events], inheritable_handlers=[streaming]))
    assert manager.handlers[0] is plain
    assert [is_streaming(h) for h in (plain, streaming, events)] == [False, True, True]
    assert not any(is_streaming(h) for h in (*manager.handlers, *manager.inheritable_handlers))
    assert not any(isinstance(h, _StreamingCallbackHandler | _V2StreamingCallbackHandler) for h in manager.handlers)
    assert manager.tags == [HIDDEN]
    manager.on_chat_model_start({}, [[HumanMessage("x")]], name="x")
    assert [len(h.events) for h in (plain, streaming, events)] == [1, 1, 1]


def run_of(kind: Any, handlers: list[Any], tags: list[str]) -> Any:
    """A chain run that these handlers listen to."""
    manager = {"handlers": handlers, "inheritable_handlers": handlers, "run_id": uuid4(), "tags": tags}
    return kind(**manager, parent_run_id=None, inheritable_tags=[], metadata={"m": 1}, inheritable_metadata={})


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("content", ["one two", [{"type": "text", "text": "one two"}]], ids=["text", "blocks"])
async def test_an_accepted_answer_is_named_to_those_who_stream(way, content):
    """Handlers that stream hear a run with the answer's tokens, or its events; the others hear nothing."""
    plain, streaming, events = Heard(), Streaming(), Events()
    kind = CallbackManagerForChainRun if way == "sync" else AsyncCallbackManagerForChainRun
    run = run_of(kind, [plain, streaming, events], ["mine"])
    replay = AnswerStream(run, [HumanMessage("x")], name="desk", tier=None)
    assert replay.handlers
    message = AIMessage(content, id="m1")
    if way == "sync":
        assert "".join(chunk.text for chunk in replay.emit(message)) == "one two"
    else:
        assert "".join([chunk.text async for chunk in replay.aemit(message)]) == "one two"
    assert plain.events == []
    assert streaming.events[0] == ("start", ["mine"], "desk", run.run_id)
    assert "".join(e[1] for e in streaming.events if e[0] == "token") == ("one two" if content == "one two" else "")
    assert streaming.events[-1] == ("end", "one two")
    entry = [e[1] for e in events.events if e[0] == "event"]
    assert (entry[0], entry[-1]) == ("message-start", "message-finish")


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_with_nobody_to_hear_nothing_is_said(way):
    """Without a handler that streams there is no extra run."""
    plain = Heard()
    if way == "sync":
        replay = AnswerStream(run_of(CallbackManagerForChainRun, [plain], []), [], name="x", tier=None)
        assert [chunk.text for chunk in replay.emit(AIMessage("x"))] == ["x", ""]
    else:
        replay = AnswerStream(run_of(AsyncCallbackManagerForChainRun, [plain], []), [], name="x", tier=None)
        assert [chunk.text async for chunk in replay.aemit(AIMessage("x"))] == ["x", ""]
    assert not replay.handlers
    assert plain.events == []
    assert silence(AsyncCallbackManager(handlers=[])).tags == [HIDDEN]
