"""The one way to open, run and close a step, for every adapter and method; sync and async differ in `await` alone.

A step is a *chain* run and the tiers are the only model runs below it, so every model call is traced, counted and
rate-limited exactly once. Drafts are made whole and unseen; the accepted answer is streamed in chunks, as it comes
where nothing can replace it any more.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import patch_config

from cascade_agent import telemetry
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import StepContext
from cascade_agent.engine.durable import run_durably
from cascade_agent.engine.recorder import recorded
from cascade_agent.engine.step import DISABLED, NESTED, StepRequest, is_on
from cascade_agent.engine.streaming import AnswerStream, LiveStream, is_streaming, silence
from cascade_agent.engine.tier_faults import raised_in_callback
from cascade_agent.engine.ways import EVENT_LOOP, THREADS, finished, give_out, resolved, streamed
from cascade_agent.journal.writer import Journal
from cascade_agent.validators.validator_set import check_fit

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Iterator,
        Mapping,
        Sequence,
    )

    from langchain_core.callbacks.base import BaseCallbackHandler
    from langchain_core.callbacks.manager import BaseRunManager
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import StepTrace, ToolSpec
    from cascade_agent.engine.step import Answer, CascadeSettings, Rebuild
    from cascade_agent.engine.ways import Send, Way
    from cascade_agent.models.options import BoundConstraints
    from cascade_agent.models.tier import Role, Tier

T = TypeVar("T")
Call: TypeAlias = "Callable[[Role, str | None, RunnableConfig], Any]"


@dataclass(eq=False, kw_only=True)
class ModelCall(Generic[T]):
    """One model call of a host, as an adapter hands it over.

    `call` (`acall` on an event loop) asks a tier under a config, `read` makes an answer of what it returned;
    `to_native` makes the host's own value of the accepted answer and of its message, which carries the record. `tools`
    are those on offer to small and to large, `bound` the demands on each tier's answer, `small` the tier where the
    settings have none.
    """

    settings: CascadeSettings
    name: str
    messages: list[BaseMessage]
    config: RunnableConfig
    bound: Mapping[Role, BoundConstraints]
    rebuild: Rebuild
    read: Callable[[Role, Any], Answer]
    call: Call
    acall: Call
    to_native: Callable[[Answer, AIMessage], T] | None = None
    """None where the message itself is the host's value."""
    stream: Callable[[Role, str | None, RunnableConfig], Iterator[Any]] | None = None
    astream: Callable[[Role, str | None, RunnableConfig], AsyncIterator[Any]] | None = None
    """The call of a tier as a stream, where somebody may read it."""
    shadow: Callable[[], Any] | None = None
    """Asks large out of the host's sight."""
    host_raised: Callable[[Exception], bool] = raised_in_callback
    tools: tuple[Sequence[ToolSpec], Sequence[ToolSpec]] = ((), ())
    state: object = None
    small: Tier | None = None
    stream_name: str = "cascade"
    run_name: str | None = None
    whole: bool = False
    """True if the accepted answer is streamed as one chunk."""
    output_version: str | None = None
    local: JsonMapping = field(default_factory=dict)
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
        return telemetry.visible_to(manager) if manager.handlers else manager

    def start(self) -> JsonObject:
        """Return what the run of the step is opened with."""
        config = cast("JsonObject", self.config)
        name = config.pop("run_name", None) or self.run_name or f"cascade.step {self.name}"
        return {"inputs": {"messages": self.messages}, "name": name, "run_id": config.pop("run_id", None)}

    def request(self, manager: Any, run: telemetry.StepRun, **calls: Any) -> StepRequest:
        """Return the step of this call; its config may carry a policy of this call and switch cascading off.

        Raises:
            ConfigurationError: the policy of the call cannot work.
        """
        settings, own = self.settings, self.config.get("configurable") or {}
        policy, thread_id, nested = settings.policy, own.get("thread_id"), NESTED.get()
        if "cascade_policy" in own and not nested:  # it is meant for the cascade that the caller sees
            policy = Policy.of(own["cascade_policy"], base=policy)
            check_fit(policy, settings.validators)
        evidence = None
        if settings.validators.evidence:  # asked in child runs of the step, unseen by streams
            evidence = patch_config(self.config, callbacks=silence(manager.get_child("evidence")))
        tools, bound = self.tools, self.bound
        context = StepContext(
            messages=tuple(self.messages),  # what a validator does to its list is not what the next tier is sent
            tools=tools[0],
            state=self.state,
            step=self.name,
            thread_id=None if thread_id is None else str(thread_id),
            side_effects=policy.side_effects,
            **vars(bound["small"]),
        )
        same = tools[0] is tools[1] and bound["small"] is bound["large"]
        return StepRequest(
            name=self.name,
            tiers={"small": cast("Tier", self.small or settings.small), "large": settings.large},
            contexts={
                "small": context,
                "large": context if same else replace(context, tools=tools[1], **vars(bound["large"])),
            },
            validators=settings.validators,
            policy=policy,
            shadow=self.shadow and self.shadowed,
            host_raised=self.host_raised,
            rebuild=self.rebuild,
            # the step of a cascade that is itself a tier stands in the outer one's record
            journal=Journal.from_env() if settings.journal is None and not nested else settings.journal,
            statistics=settings.statistics,
            run_id=str(manager.run_id),
            config=evidence,
            durable=settings.durable,
            disabled=is_on(own.get("cascade_disabled"), os.environ.get(DISABLED)),
            nested=nested,
            run=run,
            **calls,
        )

    def shadowed(self) -> Answer:
        """Ask large in a shadow, whose thread has a context of its own."""
        NESTED.set(True)
        return self.read("large", cast("Callable[[], Any]", self.shadow)())

    def live(self, manager: BaseRunManager, *, read: bool) -> LiveStream | None:
        """Return where an answer goes that nothing can replace; None where nobody streams, or wants it in one piece.

        `read` says that somebody reads the stream.
        """
        if not read and not any(map(is_streaming, manager.handlers)):
            return None
        large = self.settings.large
        converted = self.output_version == "v1" and getattr(large.base, "output_version", None) != "v1"
        if self.whole or converted or not large.streams_with(tools=any(self.tools)):
            return None
        return LiveStream(self.messages)

    def asking(
        self,
        manager: BaseRunManager,
        role: Role,
        note: str | None,
        request: StepRequest,
        live: LiveStream | None = None,
    ) -> telemetry.ModelCall:
        """Return what stands around the call of a tier; one that is `live` is seen by those who stream."""
        messages = self.messages if note is None else [*self.messages, HumanMessage(note)]
        tier, children = request.tiers[role], cast("Any", manager).get_child(role)
        if live is None or tier.hidden:
            silence(children)
        if live is not None:
            live.attach(children)
        return telemetry.ModelCall(children, role, tier=tier, messages=messages)

    def accepted(self, answer: Answer, trace: StepTrace) -> AIMessage:
        """Return the accepted message with the record of its step."""
        message = answer.draft.message
        if self.output_version == "v1" and message.response_metadata.get("output_version") != "v1":
            metadata = {**message.response_metadata, "output_version": "v1"}
            message = message.model_copy(update={"content": message.content_blocks, "response_metadata": metadata})
        return recorded(message, trace, self.messages)


# ---- the run of a step ----------------------------------------------------------------------------------------------


def run_step(call: ModelCall[T]) -> T:
    """Run one model call as a step; return the host's own value."""
    return finished(_run(call, THREADS))


def stream_step(call: ModelCall[Any]) -> Iterator[AIMessageChunk]:
    """Run one model call as a step; yield the accepted answer in chunks."""
    yield from streamed(_run(call, THREADS, give_out))


async def arun_step(call: ModelCall[T]) -> T:
    """Async twin of `run_step`."""
    return await _run(call, EVENT_LOOP)


async def astream_step(call: ModelCall[Any]) -> AsyncGenerator[AIMessageChunk, None]:
    """Async twin of `stream_step`.

    The step is a task: what it sets in its context, whoever reads the stream does not see.
    """
    sent: asyncio.Queue[AIMessageChunk | None] = asyncio.Queue()
    is_left = False

    async def send(chunk: AIMessageChunk, *, paced: bool = False) -> None:
        if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
            raise asyncio.CancelledError  # `asyncio.wait_for`, in a client, can swallow it before Python 3.12
        sent.put_nowait(chunk)
        if paced:
            try:
                await sent.join()
            except asyncio.CancelledError:
                raise GeneratorExit if is_left else asyncio.CancelledError from None

    step = asyncio.create_task(_run(call, EVENT_LOOP, send))
    step.add_done_callback(lambda _: sent.put_nowait(None))
    try:
        while (chunk := await sent.get()) is not None:
            yield chunk
            sent.task_done()
        step.result()
    except GeneratorExit:
        is_left = True
        raise
    finally:  # whoever reads may have left: what the step then ends with is nobody's any more
        step.cancel()
        await asyncio.wait((step,))
        if not step.cancelled():
            step.exception()


async def _run(call: ModelCall[T], way: Way, send: Send | None = None) -> T:
    """Open the run of a step, take the step to its end and close the run; `send` takes what is streamed."""
    manager: Any = await resolved(call.manager(way.manager).on_chain_start(None, **call.start()))
    try:
        answer, message, stream = await _decided(call, manager, way, send)
        if send is not None or manager.handlers:
            await stream.emit(message, way, send)
        native = cast("T", message) if call.to_native is None else call.to_native(answer, message)
        if manager.handlers:  # even without any it costs a task
            await resolved(manager.on_chain_end(message))
    except BaseException as error:
        await resolved(manager.on_chain_error(error))
        raise
    return native


async def _decided(
    call: ModelCall[Any], manager: BaseRunManager, way: Way, send: Send | None
) -> tuple[Answer, AIMessage, AnswerStream]:
    """Run the step; return its answer, that as the message with the record, and the stream that it goes out through."""
    stream = call.live(manager, read=send is not None)
    read = call.astream if way.is_async else call.stream
    if not way.is_async and call.settings.durable:  # a task gives its result alone
        read = None

    async def ask(role: Role, note: str | None, *, live: bool) -> Answer:
        nested, seen = NESTED.set(True), stream if live else None
        try:
            async with way.frame(call.asking(manager, role, note, request, seen)) as frame:
                config = cast("RunnableConfig", {**call.config, "callbacks": frame.callbacks})
                if seen is not None and send is not None and read is not None:
                    native = await seen.pull(way.parts(read(role, note, config)), send)
                else:
                    native = await resolved((call.acall if way.is_async else call.call)(role, note, config))
                answer = call.read(role, native)
                frame.record_answer(answer.draft.message)
                return answer
        finally:
            NESTED.reset(nested)

    run = telemetry.StepRun(manager)
    sent = None if stream is None else stream.sent
    request = call.request(manager, run, ask=ask, streams=stream is not None, sent=sent)
    try:
        answer, trace = await run_durably(request, call.rebuild, way)
        message = call.accepted(answer, trace)
        if stream is not None:
            await stream.close(way, message)
    finally:
        if stream is not None:
            await stream.close(way)
        if way.is_async:
            await run.close()
    tier = request.tiers.get(cast("Role", trace.final_tier))
    came = stream if stream is not None and stream.used and trace.final_tier == "large" else None
    out = AnswerStream(
        run=manager, messages=call.messages, name=call.stream_name, tier=tier, whole=call.whole, live=came
    )
    return answer, message, out
