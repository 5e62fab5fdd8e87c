"""Keeps drafts out of streams, and lets the answer that nothing can replace any more go out as it comes.

No token of a draft reaches a user before it is accepted. LangChain streams a model as soon as a streaming handler is
attached and repairs cut-off tool calls while it does; so drafts run with those handlers silenced, whole, and the
accepted answer is emitted to them afterwards (`AnswerStream`). The tier with the last word runs in their sight
(`LiveStream`): what they get is its own run, whose end waits for the record of the step.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from uuid import uuid4

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from cascade_agent.core.records import Draft
from cascade_agent.engine.ways import resolved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from uuid import UUID

    from langchain_core.callbacks.manager import BaseRunManager
    from langchain_core.messages import BaseMessage, InvalidToolCall, ToolCall

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.engine.ways import Send, Way
    from cascade_agent.models.tier import Tier

M = TypeVar("M", bound=BaseCallbackManager)
HIDDEN = "nostream"
"""The tag that LangGraph's message stream leaves out (`langgraph.constants.TAG_NOSTREAM`)."""
MAX_CHUNKS = 256
_RECORD = "cascade"
_EVENT_HANDLER = "_V2StreamingCallbackHandler"
"""LangChain's marker of a handler that takes content-block events, not tokens; by name, for it has no public one."""


class _Silenced:
    """A streaming handler that receives every event but does not make the model stream.

    Models look for the two `tap_...` methods of a handler to decide whether to stream; all else is passed through.
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: BaseCallbackHandler) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "tap_output")):
            raise AttributeError(name)
        return getattr(self._handler, name)


def is_streaming(handler: object) -> bool:
    """Return whether a callback handler makes models stream (`stream_mode="messages"`, `astream_events`)."""
    return hasattr(handler, "tap_output_iter") or _takes_events(handler)


def _takes_events(handler: object) -> bool:
    return any(cls.__name__ == _EVENT_HANDLER for cls in type(handler).__mro__)


class _Live(_Silenced):
    """A streaming handler at the run of the tier with the last word; what `LiveStream` changes or keeps is its affair.

    The two `tap_...` methods stand on the class, for Python 3.12 looks for them there.
    """

    __slots__ = ("_stream",)

    def __init__(self, handler: BaseCallbackHandler, stream: LiveStream) -> None:
        super().__init__(handler)
        self._stream = stream

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Pass an iterator on."""
        return cast("Iterator[Any]", cast("Any", self._handler).tap_output_iter(run_id, output))

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Pass an iterator on."""
        return cast("AsyncIterator[Any]", cast("Any", self._handler).tap_output_aiter(run_id, output))

    def __getattr__(self, name: str) -> Any:
        event = super().__getattr__(name)
        if name not in ("on_llm_new_token", "on_stream_event", "on_llm_end"):
            return event

        def passed(*args: Any, **more: Any) -> Any:
            given = self._stream.passed(name, self._handler, args, more)
            return None if given is None else event(*args, **given)

        async def apassed(*args: Any, **more: Any) -> None:
            await resolved(passed(*args, **more))

        return apassed if asyncio.iscoroutinefunction(event) else passed


@cache
def _live_kind(marker: type | None) -> type[_Live]:
    return _Live if marker is None else type("_LiveEvents", (_Live, marker), {})


_Event: TypeAlias = "tuple[BaseCallbackHandler, str, Any, JsonObject]"
"""A handler, the event it is due, the event's first argument and the others."""


class LiveStream(BaseCallbackHandler):
    """The answer of the tier with the last word on its way out, seen by streaming handlers or by who reads the stream.

    As the first handler of the tier's run it sees each chunk before anybody else: it gives calls ids that hosts can
    work with, and it takes back what LangChain made of calls that were cut off.
    """

    run_inline = True

    def __init__(self, history: Sequence[BaseMessage]) -> None:
        self.used = False
        """True once the tier was asked in the sight of those who stream."""
        self._read: list[AIMessageChunk] = []
        self.last: AIMessageChunk | None = None
        """The last chunk of a stream that is read; it waits for the record."""
        self._seen: set[UUID] = set()
        self._parts: list[AIMessageChunk] = []
        self._run: UUID | None = None
        self._ids = {call["id"] for m in history if isinstance(m, AIMessage) for call in m.tool_calls if call["id"]}
        self._renamed: dict[object, tuple[object, str]] = {}
        self._held: list[_Event] = []
        self._lasts: dict[tuple[int, UUID], AIMessageChunk] = {}
        self._over = False

    @property
    def pulled(self) -> bool:
        """Return whether a chunk went to who reads the stream."""
        return bool(self._read)

    def attach(self, manager: M) -> M:
        """Make a child manager the one of a run that is seen as it goes, in place."""
        self.used = True
        for handlers in (manager.handlers, manager.inheritable_handlers):
            for index, handler in enumerate(handlers):
                if is_streaming(handler):
                    marker = next((cls for cls in type(handler).__mro__ if cls.__name__ == _EVENT_HANDLER), None)
                    handlers[index] = cast("BaseCallbackHandler", _live_kind(marker)(handler, self))
            handlers.insert(0, self)
        return manager

    def sent(self) -> AIMessage | None:
        """Return what of the answer went out so far."""
        parts = self._read or self._parts
        if parts and (self._seen or self._read):
            return _message_of(parts)
        return AIMessage("") if self._seen else None

    # ---- the tier's run ---------------------------------------------------------------------------------------------

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_: Any) -> None:
        """Keep a chunk, its calls with ids that are unique in the conversation."""
        del token
        message = getattr(chunk, "message", None)
        if not isinstance(message, AIMessageChunk):
            return
        if run_id != self._run:
            self._run, self._parts, self._renamed = run_id, [], {}
        if message.tool_call_chunks:
            self._rename(message)
        self._parts.append(message)

    def _rename(self, message: AIMessageChunk) -> None:
        """Give calls whose id is absent, empty or used before another one, in place."""
        changed = False
        for position, call in enumerate(message.tool_call_chunks):
            index, own = call["index"], call["id"]
            key = (len(self._parts), position) if index is None else index
            if key not in self._renamed:
                fresh = own if own and own not in self._ids else f"call_{uuid4().hex[:24]}"
                self._ids.add(fresh)
                self._renamed[key] = (own, fresh)
                begins = True
            else:
                begins = False
            old, new = self._renamed[key]
            if new == own or (not begins and not own):
                continue
            for block in message.content if own else ():
                if isinstance(block, dict) and block.get("id") == old:
                    block["id"] = new
            call["id"], changed = new, True
        if changed:  # read anew from its chunks
            anew = AIMessageChunk(content="", tool_call_chunks=message.tool_call_chunks)
            message.tool_calls, message.invalid_tool_calls = anew.tool_calls, anew.invalid_tool_calls

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Take back, on the message that the host is about to get, what LangChain made of calls that were cut off."""
        if run_id == self._run and any(part.tool_call_chunks for part in self._parts):
            message = getattr(response.generations[0][0], "message", None)
            if isinstance(message, AIMessage):
                _unrepair(message, add_ai_message_chunks(self._parts[0], *self._parts[1:]))

    # ---- what its streaming handlers get ----------------------------------------------------------------------------

    def passed(
        self, name: str, handler: BaseCallbackHandler, args: tuple[Any, ...], more: JsonObject
    ) -> JsonObject | None:
        """Return with what an event goes on to a handler; None where it waits for the record, or is not to be seen.

        The last chunk and the end wait for the record; chunks of a call that was given up are not seen.
        """
        key = (id(handler), more["run_id"])
        if name == "on_llm_new_token":
            message = getattr(more.get("chunk"), "message", None)
            if self._over or not isinstance(message, AIMessageChunk):
                return None if self._over else more
            self._seen.add(more["run_id"])
            if key in self._lasts:
                message = add_ai_message_chunks(self._lasts.pop(key), message)
            if message.chunk_position != "last":
                return {**more, "chunk": ChatGenerationChunk(message=_outgoing(message))}
            self._lasts[key] = message
            return None
        if name == "on_stream_event":
            self._seen.add(more["run_id"])
            if args[0].get("event") != "message-finish":
                return more
        self._held.append((handler, name, args[0], more))
        return None

    def _ends(self, message: AIMessage | None) -> Iterator[_Event]:
        """Yield the events that were kept; those of the run that gave `message` with the record on it."""
        held, self._held, self._over = self._held, [], True
        runs = {more["run_id"] for _, name, end, more in held if name == "on_llm_end" and _is_of(message, end)}
        for handler, name, event, more in held:
            accepted = message if more["run_id"] in runs else None
            if name == "on_stream_event":
                metadata = {} if accepted is None else _record(accepted)
                yield handler, name, {**event, "metadata": {**event.get("metadata", {}), **metadata}}, more
                continue
            last = self._lasts.pop((id(handler), more["run_id"]), None)
            if accepted is not None and more["run_id"] in self._seen:
                last = last_chunk(accepted, last)
            if last is not None:
                own: JsonObject = {key: more[key] for key in ("run_id", "parent_run_id", "tags") if key in more}
                chunk = ChatGenerationChunk(message=last)
                yield handler, "on_llm_new_token", _token(last), {**own, "chunk": chunk}
            yield handler, name, event if accepted is None else _result(accepted), more

    async def close(self, way: Way, message: AIMessage | None = None) -> None:
        """Give the handlers what was kept for them: with the record, where there is one."""
        for handler, name, event, more in self._ends(message):
            await resolved(way.handle([handler], name, "ignore_llm", event, **more))

    # ---- who reads the stream ---------------------------------------------------------------------------------------

    async def pull(self, parts: AsyncIterator[object], send: Send) -> object:
        """Send the chunks of a model's stream; return their sum, or what a model gave that does not stream."""
        self._read, self.last = [], None
        async with aclosing(cast("Any", parts)):
            async for part in parts:
                if not isinstance(part, AIMessageChunk):
                    return part
                self._read.append(part)
                self.last, kept = (part if part.chunk_position == "last" else None), self.last
                if kept is not None:
                    await send(_outgoing(kept))
                if self.last is None:
                    await send(_outgoing(part))
        return _message_of(self._read)

    def end(self, message: AIMessage) -> Iterator[AIMessageChunk]:
        """Yield the chunk that whoever reads the stream did not get yet, with the record."""
        yield last_chunk(message, self.last)


def _message_of(parts: Sequence[AIMessageChunk]) -> AIMessage:
    """Return the sum of chunks, as it came."""
    whole = add_ai_message_chunks(parts[0], *parts[1:])
    message = cast("AIMessage", message_chunk_to_message(whole))
    _unrepair(message, whole)
    return message


def _outgoing(part: AIMessageChunk) -> AIMessageChunk:
    """Return a chunk as it goes out: not yet the last one, and without the record of a cascade inside."""
    metadata = part.response_metadata
    if part.chunk_position is None and _RECORD not in metadata:
        return part
    metadata = {key: value for key, value in metadata.items() if key != _RECORD}
    return part.model_copy(update={"chunk_position": None, "response_metadata": metadata})


def _unrepair(message: AIMessage, raw: AIMessageChunk) -> None:
    """Make calls whose arguments are no JSON object invalid ones again, as in an answer that was not streamed.

    Absent arguments are those of a call without any, unless the stream ended without a reason to end.
    """
    ended = Draft(message=message, tier="large").finish_reason is not None
    calls: list[ToolCall] = []
    broken: list[InvalidToolCall] = []
    for call in raw.tool_call_chunks:
        text = call["args"]
        try:
            args = json.loads(text, strict=False) if text else ({} if ended else None)
        except ValueError:
            args = None
        if isinstance(args, dict):
            calls.append(tool_call(name=call["name"] or "", args=args, id=call["id"]))
        else:
            broken.append(invalid_tool_call(name=call["name"], args=text, id=call["id"], error=None))
    if broken:
        message.tool_calls, message.invalid_tool_calls = calls, broken


def _is_of(message: AIMessage | None, response: Any) -> bool:
    own = getattr(response.generations[0][0], "message", None) if response.generations else None
    return message is not None and own is not None and own.id == message.id


def _record(message: AIMessage) -> JsonObject:
    return {_RECORD: message.response_metadata[_RECORD]} if _RECORD in message.response_metadata else {}


def last_chunk(message: AIMessage, last: AIMessageChunk | None) -> AIMessageChunk:
    """Return the end of a stream whose other chunks went out already: the model's last one, with the step's record."""
    if last is None:
        empty: Any = "" if isinstance(message.content, str) else []
        last = AIMessageChunk(content=empty, id=message.id, chunk_position="last")
    return last.model_copy(update={"response_metadata": {**last.response_metadata, **_record(message)}})


def silence(manager: M) -> M:
    """A child callback manager under which a draft runs: tagged hidden, streaming handlers silenced, in place."""
    for handlers in (manager.handlers, manager.inheritable_handlers):
        for index, handler in enumerate(handlers):
            if is_streaming(handler):
                handlers[index] = cast("BaseCallbackHandler", _Silenced(handler))
    manager.add_tags([HIDDEN])
    return manager


def chunks(message: AIMessage, *, whole: bool = False) -> Iterator[AIMessageChunk]:
    """Cut a whole answer into the chunks of a stream: the text word by word, one per tool call, the last with usage.

    Adding the chunks up gives the message again, its usage and metadata exactly once (but for `name`, which LangChain's
    own sum drops). With `whole` it is one chunk, and so are calls whose arguments are not JSON: adding chunks up would
    repair and offer them.
    """
    content = message.content
    if whole or message.invalid_tool_calls:
        yield AIMessageChunk(**{**message.model_dump(exclude={"type"}), "chunk_position": "last"})
        return
    for text in _words(content) if isinstance(content, str) else ([content] if content else []):
        yield AIMessageChunk(content=text, id=message.id, name=message.name)
    empty: str | list[Any] = "" if isinstance(content, str) else []
    for index, call in enumerate(message.tool_calls):
        args = json.dumps(call["args"], ensure_ascii=False)
        chunk = tool_call_chunk(name=call["name"], args=args, id=call.get("id"), index=index)
        yield AIMessageChunk(content=cast("Any", empty), tool_call_chunks=[chunk], id=message.id)
    yield AIMessageChunk(
        content=cast("Any", empty),
        id=message.id,
        name=message.name,
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )


def _words(text: str) -> list[str]:
    words = re.findall(r"\s*\S+|\s+$", text)
    if len(words) <= MAX_CHUNKS:
        return words
    size = -(-len(words) // MAX_CHUNKS)
    return ["".join(words[i : i + size]) for i in range(0, len(words), size)]


@dataclass(frozen=True, kw_only=True)
class AnswerStream:
    """The way of an accepted answer to the streaming handlers of a run, as if `tier` streamed it just now.

    Every other handler (tracers, usage counters) already saw the tier's own call and receives nothing here. Nor does
    anybody when the user keeps the tier that answered out of streams, or when it was seen as it came (`live`).
    """

    run: BaseRunManager
    messages: Sequence[BaseMessage]
    name: str
    tier: Tier | None
    whole: bool
    live: LiveStream | None

    async def emit(self, message: AIMessage, way: Way, send: Send | None) -> None:
        """Give out the answer in chunks, each to the handlers first; `send` takes them for who reads the stream."""
        tier, live, run = self.tier, self.live, None
        handlers = self._listeners()
        if handlers:
            manager = self._manager(way, handlers)
            run = (await resolved(manager.on_chat_model_start({}, [list(self.messages)], name=self.name)))[0]
        elif send is None:
            return
        parts = chunks(message, whole=self.whole) if live is None or not live.pulled else live.end(message)
        in_pieces = tier is None or tier.streams
        try:
            for chunk in parts:
                if run is not None and in_pieces:
                    await resolved(run.on_llm_new_token(_token(chunk), chunk=ChatGenerationChunk(message=chunk)))
                if send is not None:
                    await send(chunk, paced=True)
        except BaseException as error:  # the consumer left
            if run is not None:
                await resolved(run.on_llm_error(error))
            raise
        if run is not None:
            takes_events = in_pieces and not self.whole and any(map(_takes_events, handlers))
            for event in _events(message) if takes_events else ():
                await resolved(run.on_stream_event(event))
            await resolved(run.on_llm_end(_result(message)))

    def _listeners(self) -> list[BaseCallbackHandler]:
        if self.live is not None or (self.tier is not None and self.tier.hidden):
            return []
        return [handler for handler in self.run.handlers if is_streaming(handler)]

    def _manager(self, way: Way, handlers: list[BaseCallbackHandler]) -> Any:
        run, tier = self.run, self.tier
        manager = way.manager(
            handlers=[],
            inheritable_handlers=list(run.inheritable_handlers),  # instrumentations add themselves where they miss one
            parent_run_id=run.run_id,
            tags=list(run.tags),  # HIDDEN among them when the user asked for it
            metadata=dict(run.metadata) if tier is None else {**run.metadata, **_named(tier)},
        )
        manager.handlers = handlers
        return manager


def _events(message: AIMessage) -> Iterator[Any]:
    """Return the answer as content-block events, for handlers that take these (`stream_events(version="v3")`)."""
    from langchain_core.language_models._compat_bridge import chunks_to_events, message_to_events

    if not isinstance(message.content, str):
        return message_to_events(message, message_id=message.id)
    return chunks_to_events((ChatGenerationChunk(message=chunk) for chunk in chunks(message)), message_id=message.id)


def _named(tier: Tier) -> dict[str, str]:
    """Return the metadata by which tracers and stream consumers know a model."""
    names = {"ls_provider": tier.provider, "ls_model_name": tier.model_name, "ls_model_type": "chat"}
    return {key: name for key, name in names.items() if name is not None}


def _token(chunk: AIMessageChunk) -> str:
    return chunk.content if isinstance(chunk.content, str) else ""


def _result(message: AIMessage) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=message)]])


# ---- the third version of events: one model's stream ----------------------------------------------------------------


def event_stream(answer: Iterator[AIMessageChunk]) -> Any:
    """Return the events of an answer, which is asked for when they are first read."""
    from langchain_core.language_models._compat_bridge import chunks_to_events
    from langchain_core.language_models.chat_model_stream import ChatModelStream

    stream, events = ChatModelStream(), chunks_to_events(ChatGenerationChunk(message=chunk) for chunk in answer)

    def pump() -> bool:
        try:
            event = next(events, None)
            if event is not None:
                stream.dispatch(event)
        except BaseException as error:  # noqa: BLE001 - the stream raises it where it is read
            stream.fail(error)
            return False
        return event is not None

    stream.bind_pump(pump)
    return stream


async def aevent_stream(answer: AsyncIterator[AIMessageChunk]) -> Any:
    """Async twin of `event_stream`."""
    from langchain_core.language_models._compat_bridge import achunks_to_events
    from langchain_core.language_models.chat_model_stream import AsyncChatModelStream

    stream = AsyncChatModelStream()

    async def produce() -> None:
        try:
            async with aclosing(cast("Any", answer)) as parts:
                async for event in achunks_to_events(ChatGenerationChunk(message=chunk) async for chunk in parts):
                    stream.dispatch(event)
        except BaseException as error:  # the stream raises it where it is read
            stream.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise

    async def start() -> None:
        if stream._producer_task is None:
            stream._producer_task = asyncio.get_running_loop().create_task(produce())

    stream.set_start(start)
    return stream
