"""Fakes for tests of your own graphs: a scripted chat model, validators with a fixed opinion, a journal in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, SkipValidation

from cascade_agent.core.records import Label, StepTrace, Verdict
from cascade_agent.engine.streaming import chunks
from cascade_agent.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.runnables import Runnable

    from cascade_agent.core.records import Draft, StepContext

Reply = AIMessage | str | BaseException | type[BaseException] | Callable[[list[BaseMessage]], AIMessage | str]
"""One answer of a script: a message, its text, an exception to raise, or a function of the messages."""

_LOCK = threading.Lock()  # one for all scripts: a lock inside a model could not be pickled or copied

__all__ = ["Reply", "ScriptedChatModel", "TraceCapture", "always_fail", "always_pass"]


class ScriptedChatModel(BaseChatModel):
    """A chat model that answers from a list, each reply once and in order.

    ```python
    small = ScriptedChatModel(["4", TimeoutError("busy")], name="small", usage=(12, 1))
    ```

    `calls` holds the messages of every call, `offered` the tools (OpenAI form) of every call. `usage` is the (input,
    output) tokens of a reply that brings none, or a list with one entry per reply; None reports no usage. `delay` is
    in seconds, slept before each reply (`asyncio.sleep` in async calls). With `streams=True` the model also streams,
    in pieces; LangChain then streams it wherever it would stream a real one. Safe to share between threads.

    Raises:
        ConfigurationError: at construction, for an empty script.
        IndexError: from a call, when the script is at its end (unless `loop`, which starts again).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    replies: SkipValidation[Sequence[Reply]]
    name: str | None = "scripted"
    usage: SkipValidation[tuple[int, int] | Sequence[tuple[int, int] | None] | None] = None
    delay: float = 0.0
    loop: bool = False
    streams: bool = False

    calls: list[list[BaseMessage]] = Field(default_factory=list, exclude=True, repr=False)
    offered: list[list[dict[str, Any]]] = Field(default_factory=list, exclude=True, repr=False)
    options: list[dict[str, Any]] = Field(default_factory=list, exclude=True, repr=False)
    """The other arguments of every call, as the model got them (`stop` among them when it was given)."""

    def __init__(self, replies: Sequence[Reply] | Reply, **kwargs: Any) -> None:
        script = [replies] if isinstance(replies, AIMessage | str | BaseException) or callable(replies) else replies
        if not script:
            msg = "ScriptedChatModel has no replies; expected at least one"
            raise ConfigurationError(msg)
        super().__init__(**{"replies": script, **kwargs})
        if not self.streams:
            self.disable_streaming = True

    @property
    def asked(self) -> int:
        """Number of calls of the model."""
        return len(self.calls)

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Offer tools: they are kept in `offered`, and change no answer."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        """Words count as tokens."""
        del tools
        return sum(len(str(message.text).split()) for message in messages)

    def _next(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> AIMessage:
        with _LOCK:
            position = len(self.calls)
            self.calls.append(list(messages))
            self.offered.append(list(kwargs.get("tools") or []))
            rest = {k: v for k, v in kwargs.items() if k != "tools"}
            self.options.append({**rest, "stop": stop} if stop else rest)
        if position >= len(self.replies) and not self.loop:
            msg = f"{self.name}: the script has {len(self.replies)} replies and was asked once more"
            raise IndexError(msg)
        index = position % len(self.replies)
        reply = self.replies[index]
        made = reply(list(messages)) if callable(reply) and not _raises(reply) else reply
        if _raises(made):
            raise cast("BaseException", made)
        message = AIMessage(content=made) if isinstance(made, str) else cast("AIMessage", made).model_copy()
        message.response_metadata = {"model_name": self.name, **message.response_metadata}
        if message.usage_metadata is None:
            message.usage_metadata = self._usage(index)
        return message

    def _usage(self, index: int) -> UsageMetadata | None:
        usage: Any = self.usage
        if usage and not isinstance(usage[0], int):
            usage = usage[index]
        return usage and UsageMetadata(input_tokens=usage[0], output_tokens=usage[1], total_tokens=sum(usage))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        if self.delay:
            time.sleep(self.delay)
        return ChatResult(generations=[ChatGeneration(message=self._next(messages, stop, kwargs))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        await asyncio.sleep(self.delay)
        return ChatResult(generations=[ChatGeneration(message=self._next(messages, stop, kwargs))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if self.delay:
            time.sleep(self.delay)
        for piece in _as_streamed(self._next(messages, stop, kwargs)):
            chunk = ChatGenerationChunk(message=piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"name": self.name, "replies": [repr(reply) for reply in self.replies]}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_model_name"] = kwargs.get("model") or self.name or "scripted"
        return params


def _raises(reply: object) -> bool:
    return isinstance(reply, BaseException) or (isinstance(reply, type) and issubclass(reply, BaseException))


def _as_streamed(message: AIMessage) -> Iterator[AIMessageChunk]:
    """Yield the message as a provider streams it: the arguments of a call are raw text, JSON or not."""
    if not message.invalid_tool_calls:
        yield from chunks(message)
        return
    whole = message.model_copy(update={"invalid_tool_calls": []})
    *head, last = chunks(whole)
    yield from head
    for index, call in enumerate(message.invalid_tool_calls, start=len(message.tool_calls)):
        chunk = tool_call_chunk(name=call.get("name"), args=call.get("args"), id=call.get("id"), index=index)
        yield AIMessageChunk(content="", id=message.id, tool_call_chunks=[chunk])
    yield last


class _Fixed:
    """A validator that gives the same verdict on every draft."""

    def __init__(self, verdict: Verdict) -> None:
        self.name, self._verdict = verdict.validator, verdict

    def __call__(self, draft: Draft, context: StepContext) -> Verdict:
        """Return the verdict."""
        del draft, context
        return self._verdict


def always_pass() -> Callable[[Draft, StepContext], Verdict]:
    """Return a validator that has no objection to any draft."""
    return _Fixed(Verdict(outcome="pass", validator="always_pass"))


def always_fail(*, code: str = "refused", score: float | None = None) -> Callable[[Draft, StepContext], Verdict]:
    """Return a validator that refuses every draft: a hard fail, or with `score` a soft one."""
    reason = "this validator refuses every draft"
    return _Fixed(Verdict(outcome="fail", code=code, reason=reason, score=score, validator="always_fail"))


class TraceCapture:
    """A journal in memory: give it as `journal=`, read `traces` and `labels`, oldest first. Safe among threads."""

    in_place = True
    """A step itself appends, since that never waits."""

    def __init__(self) -> None:
        self.traces: list[StepTrace] = []
        self.labels: list[Label] = []

    def append(self, trace: StepTrace) -> bool:
        """Keep a step."""
        self.traces.append(trace)
        return True

    def append_label(self, label: Label) -> bool:
        """Keep what a shadow call found."""
        self.labels.append(label)
        return True

    def clear(self) -> None:
        """Forget all steps and labels."""
        self.traces.clear()
        self.labels.clear()

    def __len__(self) -> int:
        """Return the number of steps that were kept."""
        return len(self.traces)

    def __iter__(self) -> Iterator[StepTrace]:
        """The steps, oldest first."""
        return iter(list(self.traces))
