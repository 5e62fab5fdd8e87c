"""The one way to open, run and close a step, for every adapter and method; sync and async differ in `await` alone.

A step is a *chain* run and the tiers are the only model runs below it, so every model call is traced, counted and
rate-limited exactly once. Drafts are made whole and unseen; the accepted answer is streamed in chunks.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import patch_config

from cascade_agent import telemetry
from cascade_agent.adapters.streaming import AnswerStream, silence
from cascade_agent.engine.durable import arun_durably, run_durably
from cascade_agent.engine.recorder import recorded
from cascade_agent.engine.step import StepRequest, nested_in_tier
from cascade_agent.engine.tier_faults import raised_in_callback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
    from langchain_core.callbacks.base import BaseCallbackHandler
    from langchain_core.callbacks.manager import BaseRunManager
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.records import StepTrace
    from cascade_agent.engine.step import Answer, CascadeSettings, Rebuild
    from cascade_agent.models.tier import Role

T = TypeVar("T")


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelCall(Generic[T]):
    """One model call of a host, as an adapter hands it over.

    `call` (or `acall`) asks a tier under a config; `to_native` makes the host's own value of the accepted answer and of
    its message, which carries the record. `facts` are what `StepRequest.build` is given of the step.
    """

    settings: CascadeSettings
    name: str
    messages: list[BaseMessage]
    config: RunnableConfig
    to_native: Callable[[Answer, AIMessage], T]
    rebuild: Rebuild
    call: Callable[[Role, str | None, RunnableConfig], Answer] | None = None
    acall: Callable[[Role, str | None, RunnableConfig], Awaitable[Answer]] | None = None
    shadow: Callable[[], Answer] | None = None
    host_raised: Callable[[Exception], bool] = raised_in_callback
    facts: Mapping[str, Any] = field(default_factory=dict)
    stream_name: str = "cascade"
    run_name: str | None = None
    whole: bool = False
    """True if the accepted answer is streamed as one chunk."""
    output_version: str | None = None
    local: Mapping[str, Any] = field(default_factory=dict)
    handlers: Sequence[BaseCallbackHandler] = ()

    def manager(self, kind: type[Any]) -> Any:
        """Return who hears of this step: the call's handlers, and the model's own, which hear of the tiers too."""
        config = self.config
        manager = kind.configure(
            inheritable_callbacks=config.get("callbacks"),
            inheritable_tags=config.get("tags"),
            inheritable_metadata=config.get("metadata"),
            **self.local,
        )
        for handler in self.handlers:
            manager.add_handler(handler)
        return telemetry.visible_to(manager)

    def start(self) -> dict[str, Any]:
        """Return what the run of the step is opened with."""
        config = cast("dict[str, Any]", self.config)
        name = config.pop("run_name", None) or self.run_name or f"cascade.step {self.name}"
        return {"inputs": {"messages": self.messages}, "name": name, "run_id": config.pop("run_id", None)}

    def request(self, manager: Any, run: telemetry.StepRun, **calls: Any) -> StepRequest:
        """Return the step of this call."""
        evidence = None
        if self.settings.validators.evidence:  # asked in child runs of the step, unseen by streams
            evidence = patch_config(self.config, callbacks=silence(manager.get_child("evidence")))
        return StepRequest.build(
            self.settings,
            name=self.name,
            messages=self.messages,
            run_config=self.config,
            shadow=self.shadow,
            host_raised=self.host_raised,
            rebuild=self.rebuild,
            run_id=str(manager.run_id),
            config=evidence,
            run=run,
            **calls,
            **self.facts,
        )

    def asking(
        self, manager: BaseRunManager, role: Role, note: str | None, request: StepRequest
    ) -> telemetry.ModelCall:
        """Return what stands around the call of a tier."""
        messages = self.messages if note is None else [*self.messages, HumanMessage(note)]
        children = silence(cast("Any", manager).get_child(role))
        return telemetry.ModelCall(children, role, tier=request.tiers[role], messages=messages)

    def accepted(
        self, manager: BaseRunManager, request: StepRequest, answer: Answer, trace: StepTrace
    ) -> tuple[AIMessage, AnswerStream]:
        """Return the accepted message with the record of its step, and the stream that it is emitted through."""
        message = answer.draft.message
        if self.output_version == "v1" and message.response_metadata.get("output_version") != "v1":
            metadata = {**message.response_metadata, "output_version": "v1"}
            message = message.model_copy(update={"content": message.content_blocks, "response_metadata": metadata})
        tier = request.tiers.get(cast("Role", trace.final_tier))
        stream = AnswerStream(manager, self.messages, name=self.stream_name, tier=tier, whole=self.whole)
        return recorded(message, trace, self.messages), stream


# ---- sync -----------------------------------------------------------------------------------------------------------


def run_step(call: ModelCall[T]) -> T:
    """Run one model call as a step; return the host's own value."""
    with _opened(call) as manager:
        answer, message, stream = _decided(call, manager)
        if stream.handlers:
            for _ in stream.emit(message):
                pass
        native = call.to_native(answer, message)
        manager.on_chain_end(message)
    return native


def stream_step(call: ModelCall[Any]) -> Iterator[AIMessageChunk]:
    """Run one model call as a step; yield the accepted answer in chunks when it is decided."""
    with _opened(call) as manager:
        _, message, stream = _decided(call, manager)
        yield from stream.emit(message)
        manager.on_chain_end(message)


@contextmanager
def _opened(call: ModelCall[Any]) -> Iterator[CallbackManagerForChainRun]:
    """Open the run of the step, and close it with what goes wrong inside."""
    manager = call.manager(CallbackManager).on_chain_start(None, **call.start())
    try:
        yield manager
    except BaseException as error:
        manager.on_chain_error(error)
        raise


def _decided(call: ModelCall[Any], manager: CallbackManagerForChainRun) -> tuple[Answer, AIMessage, AnswerStream]:
    ask = cast("Callable[[Role, str | None, RunnableConfig], Answer]", call.call)

    def tier(role: Role, note: str | None) -> Answer:
        with nested_in_tier(), call.asking(manager, role, note, request) as asked:
            answer = ask(role, note, patch_config(call.config, callbacks=asked.callbacks))
            asked.record_answer(answer.draft.message)
            return answer

    request = call.request(manager, telemetry.StepRun(manager), call=tier)
    answer, trace = run_durably(request, call.rebuild)
    return answer, *call.accepted(manager, request, answer, trace)


# ---- async ----------------------------------------------------------------------------------------------------------


async def arun_step(call: ModelCall[T]) -> T:
    """Async twin of `run_step`."""
    async with _aopened(call) as manager:
        answer, message, stream = await _adecided(call, manager)
        if stream.handlers:
            async for _ in stream.aemit(message):
                pass
        native = call.to_native(answer, message)
        if manager.handlers:  # even without any it costs a task
            await manager.on_chain_end(message)
    return native


async def astream_step(call: ModelCall[Any]) -> AsyncGenerator[AIMessageChunk, None]:
    """Async twin of `stream_step`."""
    async with _aopened(call) as manager:
        _, message, stream = await _adecided(call, manager)
        async with aclosing(stream.aemit(message)) as chunks:
            async for chunk in chunks:
                yield chunk
        await manager.on_chain_end(message)


@asynccontextmanager
async def _aopened(call: ModelCall[Any]) -> AsyncIterator[AsyncCallbackManagerForChainRun]:
    """Async twin of `_opened`."""
    manager = await call.manager(AsyncCallbackManager).on_chain_start(None, **call.start())
    try:
        yield manager
    except BaseException as error:
        await manager.on_chain_error(error)
        raise


async def _adecided(
    call: ModelCall[Any], manager: AsyncCallbackManagerForChainRun
) -> tuple[Answer, AIMessage, AnswerStream]:
    ask = cast("Callable[[Role, str | None, RunnableConfig], Awaitable[Answer]]", call.acall)

    async def tier(role: Role, note: str | None) -> Answer:
        with nested_in_tier():
            async with call.asking(manager, role, note, request) as asked:
                answer = await ask(role, note, patch_config(call.config, callbacks=asked.callbacks))
                asked.record_answer(answer.draft.message)
                return answer

    run = telemetry.StepRun(manager)
    request = call.request(manager, run, acall=tier)
    try:
        answer, trace = await arun_durably(request, call.rebuild)
    finally:
        await run.close()
    return answer, *call.accepted(manager, request, answer, trace)
