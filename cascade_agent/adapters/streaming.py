"""Keeps drafts out of streams, and gives stream consumers the accepted answer in chunks.

No token of a draft reaches a user before it is accepted. LangChain streams a model as soon as a streaming handler is
attached and repairs cut-off tool calls while it does; so drafts run with those handlers silenced, whole, and the
accepted answer is emitted to them afterwards.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.callbacks.manager import BaseRunManager
    from langchain_core.messages import BaseMessage

    from cascade_agent.models.tier import Tier

M = TypeVar("M", bound=BaseCallbackManager)
HIDDEN = "nostream"
"""The tag that LangGraph's message stream leaves out (`langgraph.constants.TAG_NOSTREAM`)."""
MAX_CHUNKS = 256
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


class AnswerStream:
    """Emits an accepted answer to the streaming handlers of a run, as if a model streamed it just now.

    Every other handler (tracers, usage counters) already saw the tier's own call and receives nothing here. Nor does
    anybody when the user keeps the tier that answered out of streams.
    """

    def __init__(
        self, run: BaseRunManager, messages: Sequence[BaseMessage], *, name: str, tier: Tier | None, whole: bool = False
    ) -> None:
        self.handlers = [h for h in run.handlers if is_streaming(h)]
        if self.handlers and tier is not None and tier.hidden:
            self.handlers = []
        self._run, self._messages, self._name, self._tier, self._whole = run, messages, name, tier, whole
        self._at_once = bool(self.handlers) and tier is not None and not tier.streams

    def _manager(self, kind: type[M]) -> M:
        run, tier = self._run, self._tier
        manager = kind(
            handlers=[],
            inheritable_handlers=list(run.inheritable_handlers),  # instrumentations add themselves where they miss one
            parent_run_id=run.run_id,
            tags=list(run.tags),  # HIDDEN among them when the user asked for it
            metadata=dict(run.metadata) if tier is None else {**run.metadata, **_named(tier)},
        )
        manager.handlers = list(self.handlers)
        return manager

    def emit(self, message: AIMessage) -> Iterator[AIMessageChunk]:
        """Yield the answer in chunks, each given to the handlers first."""
        run = None
        if self.handlers:
            manager = self._manager(CallbackManager)
            run = manager.on_chat_model_start({}, [list(self._messages)], name=self._name)[0]
        try:
            for chunk in chunks(message, whole=self._whole):
                if run is not None and not self._at_once:
                    run.on_llm_new_token(_token(chunk), chunk=ChatGenerationChunk(message=chunk))
                yield chunk
        except BaseException as error:  # the consumer left
            if run is not None:
                run.on_llm_error(error)
            raise
        if run is not None:
            for event in self._events(message):
                run.on_stream_event(event)
            run.on_llm_end(_result(message))

    async def aemit(self, message: AIMessage) -> AsyncGenerator[AIMessageChunk, None]:
        """Async twin of `emit`."""
        run = None
        if self.handlers:
            manager = self._manager(AsyncCallbackManager)
            run = (await manager.on_chat_model_start({}, [list(self._messages)], name=self._name))[0]
        try:
            for chunk in chunks(message, whole=self._whole):
                if run is not None and not self._at_once:
                    await run.on_llm_new_token(_token(chunk), chunk=ChatGenerationChunk(message=chunk))
                yield chunk
        except BaseException as error:  # the consumer left
            if run is not None:
                await run.on_llm_error(error)
            raise
        if run is not None:
            for event in self._events(message):
                await run.on_stream_event(event)
            await run.on_llm_end(_result(message))

    def _events(self, message: AIMessage) -> Iterator[Any]:
        """Yield the answer as content-block events, where a handler takes these (`stream_events(version="v3")`)."""
        if not self._whole and any(_takes_events(handler) for handler in self.handlers):
            from langchain_core.language_models._compat_bridge import chunks_to_events, message_to_events

            if isinstance(message.content, str):
                parts = (ChatGenerationChunk(message=chunk) for chunk in chunks(message, whole=self._whole))
                yield from chunks_to_events(parts, message_id=message.id)
            else:
                yield from message_to_events(message, message_id=message.id)


def _named(tier: Tier) -> dict[str, str]:
    """Return the metadata by which tracers and stream consumers know a model."""
    names = {"ls_provider": tier.provider, "ls_model_name": tier.model_name, "ls_model_type": "chat"}
    return {key: name for key, name in names.items() if name is not None}


def _token(chunk: AIMessageChunk) -> str:
    return chunk.content if isinstance(chunk.content, str) else ""


def _result(message: AIMessage) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=message)]])


# ---- the third version of events: one model's stream ----------------------------------------------------------------


def event_stream(answer: Callable[[], AIMessage]) -> Any:
    """Return the stream of an answer that is made when it is first read."""
    from langchain_core.language_models._compat_bridge import message_to_events
    from langchain_core.language_models.chat_model_stream import ChatModelStream

    stream = ChatModelStream()

    def pump() -> bool:
        try:
            message = answer()
            for event in message_to_events(message, message_id=message.id):
                stream.dispatch(event)
        except BaseException as error:  # noqa: BLE001 - the stream raises it where it is read
            stream.fail(error)
        return False

    stream.bind_pump(pump)
    return stream


async def aevent_stream(answer: Callable[[], Awaitable[AIMessage]]) -> Any:
    """Async twin of `event_stream`."""
    from langchain_core.language_models._compat_bridge import message_to_events
    from langchain_core.language_models.chat_model_stream import AsyncChatModelStream

    stream = AsyncChatModelStream()

    async def produce() -> None:
        try:
            message = await answer()
            for event in message_to_events(message, message_id=message.id):
                stream.dispatch(event)
        except asyncio.CancelledError as error:
            stream.fail(error)
            raise
        except BaseException as error:  # noqa: BLE001 - the stream raises it where it is read
            stream.fail(error)

    async def start() -> None:
        if stream._producer_task is None:  # noqa: SLF001 - as BaseChatModel does; there is no public way
            stream._producer_task = asyncio.get_running_loop().create_task(produce())  # noqa: SLF001

    stream.set_start(start)
    return stream
