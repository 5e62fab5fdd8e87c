"""Executes what the script of a step wants done, on threads or on asyncio, and keeps the clock of the step."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, assert_never, cast

from cascade_agent import telemetry
from cascade_agent.engine.step import AskEvidence, AwaitMoney, CallTier, CancelPending, HandOver, Reply, Validate
from cascade_agent.engine.worker_threads import (
    MAX_LATE,
    BackgroundCall,
    LateError,
    SupersededError,
    is_full,
    run_within,
    start,
    stream_within,
)
from cascade_agent.models.tier import CALL_SECONDS
from cascade_agent.validators.validator_set import gathered, is_control_flow, own_copy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from langchain_core.messages import AIMessageChunk

    from cascade_agent.engine.budget import Budget
    from cascade_agent.engine.recorder import StepRecorder
    from cascade_agent.engine.step import Answer, Effect, Pending, StepRequest
    from cascade_agent.models.tier import Role, Tier
    from cascade_agent.validators.validator_set import Evidence

T = TypeVar("T")
_GRACE = 0.005
"""Seconds in which a call that was cancelled may end; nobody waits for what it does later."""
_JITTER = 0.1
"""Share of a provider's waiting time that is added at random, so that those who were refused together do not return
together."""


class _Base:
    """The parts that both executors share: the request, the recorder, the clock, a large call in parallel."""

    __slots__ = ("hedge_made", "recorder", "request", "started")

    request: StepRequest
    recorder: StepRecorder
    hedge_made: bool
    started: float

    def failed(self, error: Exception, started: float) -> Reply:
        """Return the reply of a call that raised; what the host raised passes through."""
        host_raised = self.request.host_raised
        if is_control_flow(error) or (host_raised is not None and host_raised(error)):
            raise error
        return Reply(None, error, late=False, latency=perf_counter() - started)

    def _at_small(self, evidence: Evidence) -> Evidence:
        """Return evidence as it is asked; one that asks the small tier itself is given it."""
        for_tier: Callable[[Tier], Evidence] | None = getattr(evidence, "for_tier", None)
        return evidence if for_tier is None else for_tier(self.request.tiers["small"])

    def hand_over(self, effect: HandOver) -> float:
        """Record a hand-over; return the seconds to wait before large is asked."""
        self.recorder.hand_over(effect)
        pause = effect.decision.wait or 0.0
        return pause * (1.0 + _JITTER * random.random()) if pause else 0.0


class Executor(_Base):
    """Executes on the calling thread; what may come too late runs on a worker."""

    __slots__ = ("hedge",)

    def __init__(self, request: StepRequest, recorder: StepRecorder) -> None:
        self.request, self.recorder = request, recorder
        self.hedge: BackgroundCall[Reply] | None = None
        self.hedge_made, self.started = False, perf_counter()

    def execute(self, effect: Effect) -> object:
        """Execute one effect; return what the script is to be sent."""
        if isinstance(effect, Validate):
            return self.request.validators.validate(effect.draft, effect.context)
        if isinstance(effect, CallTier):
            return self._call_tier(effect)
        if isinstance(effect, AskEvidence):
            return self._ask_evidence(effect)
        if isinstance(effect, HandOver):
            pause = self.hand_over(effect)
            if pause:
                time.sleep(pause)
            return None
        if isinstance(effect, AwaitMoney):
            cast("Budget", self.request.budget).wait(effect.amount, effect.seconds)
            return None
        if isinstance(effect, CancelPending):
            return self.cancel()
        assert_never(effect)

    def cancel(self) -> Pending:
        """Give up the call that still runs; nobody waits for it."""
        call, self.hedge = self.hedge, None
        if call is None:
            return None
        pending = _pending(call) if self.hedge_made else None
        call.drop()
        self.hedge_made = False
        return pending

    def _call_tier(self, effect: CallTier) -> Reply:
        scope = self.recorder.open_attempt(effect.role)
        call, label = self._call(effect.role, effect.note), self.request.tiers[effect.role].label
        if (unmade := _unmade(effect.seconds, label)) is not None:
            return unmade
        if effect.hedge is None:
            own, self.hedge, self.hedge_made = self.hedge, None, False
            if own is None or own.drop_unless_started():
                return self._reply(call, effect.seconds, scope, label)
            return self._first(own, None, effect.seconds)  # large is asked already
        small = start(partial(self._reply, call, None, scope))
        if small.done():
            return small.result()
        later = self.recorder.open_attempt("large", later=True)
        self.hedge = start(partial(self._hedge, later), after=effect.hedge)
        return self._first(small, self.hedge, effect.seconds)

    def stream(self, effect: CallTier) -> Generator[AIMessageChunk, None, Reply]:
        """Call the tier with the last word; yield its answer as it comes."""
        if self.hedge is not None and self.hedge.drop_unless_started():
            self.hedge, self.hedge_made = None, False
        label = self.request.tiers[effect.role].label
        if self.hedge is not None or _unmade(effect.seconds, label) is not None:
            return self._call_tier(effect)
        scope, started = self.recorder.open_attempt(effect.role), perf_counter()

        def call() -> Generator[AIMessageChunk, None, Answer]:
            with telemetry.using(scope):
                stream = cast("Callable[..., Generator[AIMessageChunk, None, Answer]]", self.request.stream)
                return (yield from stream(effect.role, effect.note))

        try:
            value = yield from stream_within(effect.seconds, call, callee=label)
        except Exception as error:  # noqa: BLE001 - as in `_reply`
            return self._no_value(error, started)
        return Reply(value, None, late=False, latency=perf_counter() - started)

    def _first(self, own: BackgroundCall[Reply], rival: BackgroundCall[Reply] | None, seconds: float | None) -> Reply:
        """Wait for a call; give it up when its time is over, or when large answered first."""
        started = perf_counter()
        waiting: set[Future[Any]] = {own} if rival is None else {own, rival}
        while waiting:
            left = None if seconds is None else seconds - (perf_counter() - started)
            done, _ = wait(waiting, left, return_when=FIRST_COMPLETED)
            if own in done:
                return own.result()
            if not done or (rival in done and rival is not None and rival.result().error is None):
                break
            waiting -= done  # large failed: small is all there is
        own.drop()
        return _overtaken(rival is not None and rival.done(), seconds, started)

    def _hedge(self, scope: telemetry.AttemptScope) -> Reply:
        self.hedge_made = True
        return self._reply(self._call("large", None), None, scope)

    def _call(self, role: Role, note: str | None) -> Callable[[], Answer]:
        return partial(cast("Callable[[Role, str | None], Answer]", self.request.call), role, note)

    def _ask_evidence(self, effect: AskEvidence) -> Reply:
        scope, name = self.recorder.scope, effect.evidence.name
        if (unmade := _unmade(effect.seconds, name)) is not None:
            return unmade

        def ask() -> object:
            evidence = self._at_small(effect.evidence)
            with telemetry.EvidenceCall(scope, evidence, self.request.config) as call:
                found = evidence.gather(own_copy(effect.draft), effect.context, config=call.config)
                return call.record_verdict(gathered(evidence, found))

        return self._reply(ask, effect.seconds, scope, name)

    def _reply(
        self, call: Callable[[], object], seconds: float | None, scope: telemetry.Scope, callee: str = ""
    ) -> Reply:
        started = perf_counter()
        limit = CALL_SECONDS.set(seconds)
        try:
            with telemetry.using(scope):
                value = run_within(seconds, call, callee=callee)
        except Exception as error:  # noqa: BLE001 - a tier that fails is what the cascade is for
            return self._no_value(error, started)
        finally:
            CALL_SECONDS.reset(limit)
        return Reply(value, None, late=False, latency=perf_counter() - started)

    def _no_value(self, error: Exception, started: float) -> Reply:
        if isinstance(error, LateError):
            return Reply(None, error, late=True, latency=perf_counter() - started)
        return self.failed(error, started)


class AsyncExecutor(_Base):
    """Async twin of `Executor`."""

    __slots__ = ("hedge",)

    def __init__(self, request: StepRequest, recorder: StepRecorder) -> None:
        self.request, self.recorder = request, recorder
        self.hedge: asyncio.Task[Reply] | None = None
        self.hedge_made, self.started = False, perf_counter()

    async def execute(self, effect: Effect) -> object:
        """Execute one effect; return what the script is to be sent."""
        if isinstance(effect, Validate):
            judges, seconds = self.request.validators, self.request.policy.validator_timeout
            return await judges.avalidate(effect.draft, effect.context, seconds=seconds)
        if isinstance(effect, CallTier):
            return await self._call_tier(effect)
        if isinstance(effect, AskEvidence):
            return await self._ask_evidence(effect)
        if isinstance(effect, HandOver):
            pause = self.hand_over(effect)
            if pause:
                await asyncio.sleep(pause)
            return None
        if isinstance(effect, AwaitMoney):
            await cast("Budget", self.request.budget).await_money(effect.amount, effect.seconds)
            return None
        if isinstance(effect, CancelPending):
            call, pending = self.hedge, self.cancel()
            if call is not None:
                await asyncio.wait({call}, timeout=_GRACE)
            return pending
        assert_never(effect)

    def cancel(self) -> Pending:
        """Cancel the call that still runs."""
        call, self.hedge = self.hedge, None
        if call is None:
            return None
        pending = _pending(call) if self.hedge_made else None
        call.cancel()
        self.hedge_made = False
        return pending

    async def _call_tier(self, effect: CallTier) -> Reply:
        scope = self.recorder.open_attempt(effect.role)
        if (unmade := _unmade(effect.seconds)) is not None:
            return unmade
        call = self._call(effect.role, effect.note, live=effect.live)
        if effect.hedge is None:
            own, made, self.hedge, self.hedge_made = self.hedge, self.hedge_made, None, False
            if own is None or not made:
                if own is not None:
                    own.cancel()
                return await self._reply(call, effect.seconds, scope)
            return await self._first(own, None, effect.seconds)  # large is asked already
        small = asyncio.create_task(self._reply(call, None, scope))
        later = self.recorder.open_attempt("large", later=True)
        self.hedge = asyncio.create_task(self._hedge(later, effect.hedge))
        return await self._first(small, self.hedge, effect.seconds)

    async def _first(self, own: asyncio.Task[Reply], rival: asyncio.Task[Reply] | None, seconds: float | None) -> Reply:
        """Wait for a call; give it up when its time is over, or when large answered first."""
        started = perf_counter()
        waiting: set[asyncio.Task[Reply]] = {own} if rival is None else {own, rival}
        try:
            while waiting:
                left = None if seconds is None else seconds - (perf_counter() - started)
                done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if own in done:
                    return own.result()
                if not done or (rival in done and rival is not None and rival.result().error is None):
                    break
                waiting -= done  # large failed: small is all there is
        finally:
            own.cancel()
        return _overtaken(rival is not None and rival.done(), seconds, started)

    async def _hedge(self, scope: telemetry.AttemptScope, after: float) -> Reply:
        await asyncio.sleep(after)
        self.hedge_made = True
        return await self._reply(self._call("large", None), None, scope)

    def _call(self, role: Role, note: str | None, *, live: bool = False) -> Callable[[], Awaitable[Answer]]:
        call = self.request.astream if live else self.request.acall
        return partial(cast("Callable[[Role, str | None], Awaitable[Answer]]", call), role, note)

    async def _ask_evidence(self, effect: AskEvidence) -> Reply:
        scope = self.recorder.scope
        if (unmade := _unmade(effect.seconds)) is not None:
            return unmade

        async def ask() -> object:
            evidence = self._at_small(effect.evidence)
            async with telemetry.EvidenceCall(scope, evidence, self.request.config) as call:
                found = await evidence.agather(own_copy(effect.draft), effect.context, config=call.config)
                return call.record_verdict(gathered(evidence, found))

        return await self._reply(ask, effect.seconds, scope)

    async def _reply(
        self, call: Callable[[], Awaitable[object]], seconds: float | None, scope: telemetry.Scope
    ) -> Reply:
        started = perf_counter()
        try:
            with telemetry.using(scope):
                value = await _await_within(seconds, call)
        except LateError as error:
            return Reply(None, error, late=True, latency=perf_counter() - started)
        except Exception as error:  # noqa: BLE001 - a tier that fails is what the cascade is for
            return self.failed(error, started)
        return Reply(value, None, late=False, latency=perf_counter() - started)


async def _await_within(seconds: float | None, call: Callable[[], Awaitable[T]]) -> T:
    """Await a call at most `seconds`; whatever it does after it was cancelled, nobody waits for that.

    Raises:
        LateError: the call did not return in time.
    """
    if seconds is None:
        return await call()
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    async def awaited() -> T:
        try:
            return await call()
        finally:
            _wake(over)  # not by a callback of the task, which would run a turn of the loop later

    task, timer = loop.create_task(awaited()), loop.call_later(seconds, _wake, over)
    try:
        await over
        if task.done():
            return task.result()
        raise LateError.after(seconds)
    finally:
        timer.cancel()
        if not task.done():
            task.cancel()
            _left.add(task)
            task.add_done_callback(_forget)
            await asyncio.wait({task}, timeout=_GRACE)


def _wake(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


_left: set[asyncio.Future[Any]] = set()
"""Calls that were cancelled and clean up; the event loop itself keeps them no longer than it must."""


def _forget(task: asyncio.Future[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # else asyncio logs that nobody retrieved it


def _unmade(seconds: float | None, callee: str | None = None) -> Reply | None:
    """Return the reply of a call that is not made: no time is left, or too many late ones of it still run."""
    if seconds is not None and seconds <= 0:
        why = "the step's latency budget was spent before this call"
    elif callee is not None and is_full(callee):
        why = f"{MAX_LATE} late calls of {callee} still run"
    else:
        return None
    return Reply(None, LateError(why), late=True, latency=0.0, made=False)


def _overtaken(rival_answered: bool, seconds: float | None, started: float) -> Reply:
    error = SupersededError() if rival_answered else LateError.after(seconds)
    return Reply(None, error, late=True, latency=perf_counter() - started)


def _pending(call: BackgroundCall[Reply] | asyncio.Task[Reply]) -> Pending:
    """Return the reply of a call that was started; "running" while it has none."""
    return call.result() if call.done() and not call.cancelled() and call.exception() is None else "running"
