"""Who sees a draft while it is made, and how an accepted answer is told to stream consumers.

Law 1: no token of a draft reaches a user before it is accepted. LangChain streams a model as soon as a streaming
handler is attached and repairs cut-off tool calls while it does; so drafts run with those handlers muffled, whole, and
the accepted answer is replayed to them in pieces.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        BaseCallbackHandler,
        CallbackManagerForLLMRun,
    )
    from langchain_core.callbacks.manager import BaseRunManager
    from langchain_core.messages import BaseMessage

M = TypeVar("M", bound=BaseCallbackManager)
HIDDEN = "nostream"
"""The tag that LangGraph's message stream leaves out (`langgraph.constants.TAG_NOSTREAM`)."""
MAX_PIECES = 256
_EVENT_HANDLER = "_V2StreamingCallbackHandler"
"""LangChain's marker of a handler that takes content-block events, not tokens; by name, for it has no public one."""


class _Muffled:
    """A streaming handler that hears every event but does not make the model stream.

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
    """Whether a callback handler makes models stream (`stream_mode="messages"`, `astream_events`, `astream_log`)."""
    return hasattr(handler, "tap_output_iter") or _takes_events(handler)


def _takes_events(handler: object) -> bool:
    return any(cls.__name__ == _EVENT_HANDLER for cls in type(handler).__mro__)


def muffle(manager: M) -> M:
    """A child callback manager under which a draft runs: tagged hidden, streaming handlers muffled, in place."""
    for handlers in (manager.handlers, manager.inheritable_handlers):
        for index, handler in enumerate(handlers):
            if is_streaming(handler):
                handlers[index] = cast("BaseCallbackHandler", _Muffled(handler))
    manager.add_tags([HIDDEN])
    return manager


def pieces(message: AIMessage) -> Iterator[AIMessageChunk]:
    """A whole answer as the chunks of a stream: text word by word, then one per tool call, then the last with usage.

    Adding the chunks up gives the message again, its usage and metadata exactly once (but for `name`, which LangChain's
    own sum drops). Calls whose arguments are not JSON come as one chunk: adding chunks up would repair and offer them.
    """
    content = message.content
    if message.invalid_tool_calls:
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
    if len(words) <= MAX_PIECES:
        return words
    size = -(-len(words) // MAX_PIECES)
    return ["".join(words[i : i + size]) for i in range(0, len(words), size)]


class Replay:
    """Tells the streaming handlers of a run about an accepted answer, as if a model streamed it just now.

    Every other handler (tracers, usage counters) already saw the tier's own call and hears nothing here.
    """

    def __init__(self, run: BaseRunManager, messages: Sequence[BaseMessage], *, name: str) -> None:
        self.handlers = [h for h in run.handlers if is_streaming(h)]
        self._run, self._messages, self._name = run, messages, name

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self.handlers)

    def _manager(self, kind: type[M]) -> M:
        run = self._run
        manager = kind(
            handlers=[],
            inheritable_handlers=list(run.inheritable_handlers),  # instrumentations add themselves where they miss one
            parent_run_id=run.run_id,
            tags=list(run.tags),  # HIDDEN among them when the user asked for it
            metadata=dict(run.metadata),
        )
        manager.handlers = list(self.handlers)
        return manager

    def start(self) -> CallbackManagerForLLMRun:
        """Open the run that the pieces belong to."""
        managers = self._manager(CallbackManager).on_chat_model_start({}, [list(self._messages)], name=self._name)
        return managers[0]

    async def astart(self) -> AsyncCallbackManagerForLLMRun:
        """Async twin of `start`."""
        manager = self._manager(AsyncCallbackManager)
        return (await manager.on_chat_model_start({}, [list(self._messages)], name=self._name))[0]

    def events(self, message: AIMessage) -> Iterator[Any]:
        """The answer as content-block events, for those who listen to these (`stream_events(version="v3")`)."""
        if any(_takes_events(handler) for handler in self.handlers):
            from langchain_core.language_models._compat_bridge import chunks_to_events, message_to_events

            if isinstance(message.content, str):
                chunks = (ChatGenerationChunk(message=chunk) for chunk in pieces(message))
                yield from chunks_to_events(chunks, message_id=message.id)
            else:
                yield from message_to_events(message, message_id=message.id)

    def whole(self, message: AIMessage) -> None:
        """Tell the answer at once, piece by piece."""
        if not self:
            return
        run = self.start()
        for chunk in pieces(message):
            run.on_llm_new_token(token_of(chunk), chunk=ChatGenerationChunk(message=chunk))
        for event in self.events(message):
            run.on_stream_event(event)
        run.on_llm_end(result_of(message))

    async def awhole(self, message: AIMessage) -> None:
        """Async twin of `whole`."""
        if not self:
            return
        run = await self.astart()
        for chunk in pieces(message):
            await run.on_llm_new_token(token_of(chunk), chunk=ChatGenerationChunk(message=chunk))
        for event in self.events(message):
            await run.on_stream_event(event)
        await run.on_llm_end(result_of(message))


def token_of(chunk: AIMessageChunk) -> str:
    """The text of a chunk, as callbacks take it."""
    return chunk.content if isinstance(chunk.content, str) else ""


def result_of(message: AIMessage) -> LLMResult:
    """A message as the result that ends a model run."""
    return LLMResult(generations=[[ChatGeneration(message=message)]])
