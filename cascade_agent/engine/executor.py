"""Does what the script of a step wants done, synchronously and asynchronously: asks, judges, waits, drops.

Law: what is asked beside something else ends with the step; nothing of it is waited for that nobody needs.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, assert_never, cast

from cascade_agent import telemetry
from cascade_agent.engine.step import Ask, Check, Drop, Gather, Reply, Sleep
from cascade_agent.engine.worker_threads import Begun, LateError, OvertakenError, begin, within
from cascade_agent.validators.validator_set import is_control_flow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.engine.step import Answer, Effect, Step
    from cascade_agent.models.tier import Role


class Hands:
    """Does what a script wants done, and keeps the calls that were begun beside others, by name."""

    __slots__ = ("asked", "begun", "step")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.begun: dict[str, Begun[Reply]] = {}
        self.asked: set[str] = set()

    def do(self, effect: Effect) -> object:
        """Do one thing, and give what the script is to be sent."""
        step = self.step
        if isinstance(effect, Check):
            return step.panel.judge(effect.draft, effect.context)
        if isinstance(effect, Ask):
            if effect.hedge is not None or effect.role in self.begun:
                return self._beside(effect)
            return _reply(effect, self._asking(effect))
        if isinstance(effect, Gather):
            return self._gather(effect)
        if isinstance(effect, Sleep):
            time.sleep(effect.seconds)
            return None
        if isinstance(effect, Drop):
            made = {name: _made(call) for name, call in self.begun.items() if name in self.asked}
            self.drop()
            return made
        assert_never(effect)

    def drop(self) -> None:
        """Nobody waits for what is still running."""
        for call in self.begun.values():
            call.drop()
        self.begun.clear()

    def _asking(self, effect: Ask) -> Callable[[], object]:
        ask, role, note = cast("Callable[[Role, str | None], Answer]", self.step.ask), effect.role, effect.note
        return lambda: ask(role, note)

    def _beside(self, effect: Ask) -> Reply:
        """Ask where another call may be running: large beside small, or large that was begun before."""
        self.asked.discard(effect.role)
        own = self.begun.pop(effect.role, None) or begin(partial(_reply, effect, self._asking(effect), timed=False))
        if effect.hedge is not None:
            self.begun["large"] = begin(partial(self._hedge, effect), after=effect.hedge)
        started, rival = perf_counter(), self.begun.get("large")
        waiting: set[Future[Any]] = {own} if rival is None else {own, rival}
        while waiting:
            left = None if effect.seconds is None else effect.seconds - (perf_counter() - started)
            done, _ = wait(waiting, left, return_when=FIRST_COMPLETED)
            if own in done:
                return own.result()
            if not done or (rival in done and rival is not None and rival.result().error is None):
                break
            waiting -= done  # large failed: small is all there is
        own.drop()
        error = OvertakenError() if waiting and rival is not None and rival.done() else LateError.after(effect.seconds)
        return Reply(None, error, late=True, latency=perf_counter() - started)

    def _hedge(self, effect: Ask) -> Reply:
        self.asked.add("large")
        large = replace(effect, role="large", hedge=None, span=effect.hedge_span or effect.span)
        return _reply(large, self._asking(large), timed=False)

    def _gather(self, effect: Gather) -> Reply | None:
        evidence, draft, context, config = cast("Any", effect.evidence), effect.draft, effect.context, self.step.config

        def ask() -> object:
            with telemetry.EvidenceCall(effect.span, evidence, config) as call:
                if draft is None:
                    return call.record_answer(evidence.begin(context, config=call.config))
                return call.record_verdict(evidence.gather(draft, context, config=call.config))

        if draft is None:
            call = partial(_reply, effect, ask, timed=False)
            self.begun[evidence.name] = begin(call)
            self.asked.add(evidence.name)
            return None
        begun = self.begun.pop(evidence.name, None)
        self.asked.discard(evidence.name)
        if begun is None:
            return _reply(effect, ask)
        try:
            reply = begun.result(effect.seconds)
        except TimeoutError:
            begun.drop()
            return Reply(None, LateError.after(effect.seconds), late=True, latency=effect.seconds or 0.0)
        return _read(reply, evidence, draft, context)


class AsyncHands:
    """Async twin of `Hands`."""

    __slots__ = ("asked", "begun", "step")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.begun: dict[str, asyncio.Task[Reply]] = {}
        self.asked: set[str] = set()

    async def do(self, effect: Effect) -> object:
        """Do one thing, and give what the script is to be sent."""
        step = self.step
        if isinstance(effect, Check):
            return await step.panel.ajudge(effect.draft, effect.context, seconds=step.policy.validator_timeout)
        if isinstance(effect, Ask):
            if effect.hedge is not None or effect.role in self.begun:
                return await self._beside(effect)
            return await _areply(effect, self._asking(effect))
        if isinstance(effect, Gather):
            return await self._gather(effect)
        if isinstance(effect, Sleep):
            await asyncio.sleep(effect.seconds)
            return None
        if isinstance(effect, Drop):
            made = {name: _made(call) for name, call in self.begun.items() if name in self.asked}
            self.drop()
            return made
        assert_never(effect)

    def drop(self) -> None:
        """Cancel what is still running."""
        for call in self.begun.values():
            call.cancel()
        self.begun.clear()

    def _asking(self, effect: Ask) -> Callable[[], Awaitable[object]]:
        aask = cast("Callable[[Role, str | None], Awaitable[Answer]]", self.step.aask)
        return lambda: aask(effect.role, effect.note)

    async def _beside(self, effect: Ask) -> Reply:
        """Ask where another call may be running: large beside small, or large that was begun before."""
        self.asked.discard(effect.role)
        own = self.begun.pop(effect.role, None) or asyncio.create_task(
            _areply(effect, self._asking(effect), timed=False)
        )
        if effect.hedge is not None:
            self.begun["large"] = asyncio.create_task(self._hedge(effect, effect.hedge))
        started, rival = perf_counter(), self.begun.get("large")
        waiting: set[asyncio.Task[Reply]] = {own} if rival is None else {own, rival}
        try:
            while waiting:
                left = None if effect.seconds is None else effect.seconds - (perf_counter() - started)
                done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if own in done:
                    return own.result()
                if not done or (rival in done and rival is not None and rival.result().error is None):
                    break
                waiting -= done  # large failed: small is all there is
        finally:
            own.cancel()
        error = OvertakenError() if waiting and rival is not None and rival.done() else LateError.after(effect.seconds)
        return Reply(None, error, late=True, latency=perf_counter() - started)

    async def _hedge(self, effect: Ask, after: float) -> Reply:
        await asyncio.sleep(after)
        self.asked.add("large")
        large = replace(effect, role="large", hedge=None, span=effect.hedge_span or effect.span)
        return await _areply(large, self._asking(large), timed=False)

    async def _gather(self, effect: Gather) -> Reply | None:
        evidence, draft, context, config = cast("Any", effect.evidence), effect.draft, effect.context, self.step.config

        async def ask() -> object:
            async with telemetry.EvidenceCall(effect.span, evidence, config) as call:
                if draft is None:
                    return call.record_answer(await evidence.abegin(context, config=call.config))
                return call.record_verdict(await evidence.agather(draft, context, config=call.config))

        if draft is None:
            call = _areply(effect, ask, timed=False)
            self.begun[evidence.name] = asyncio.create_task(call)
            self.asked.add(evidence.name)
            return None
        begun = self.begun.pop(evidence.name, None)
        self.asked.discard(evidence.name)
        if begun is None:
            return await _areply(effect, ask)
        done, _ = await asyncio.wait({begun}, timeout=effect.seconds)
        if not done:
            begun.cancel()
            return Reply(None, LateError.after(effect.seconds), late=True, latency=effect.seconds or 0.0)
        return _read(begun.result(), evidence, draft, context)


def _made(call: Begun[Reply] | asyncio.Task[Reply]) -> Reply | None:
    """The reply of a call that was begun; None when it has none, or was not even made."""
    return call.result() if call.done() and not call.cancelled() and call.exception() is None else None


def _read(reply: Reply, evidence: Any, draft: Draft, context: StepContext) -> Reply:
    """What a call that was begun without a draft says of this one."""
    if reply.error is not None:
        return reply
    try:
        return replace(reply, value=evidence.read(reply.value, draft, context))
    except Exception as error:  # noqa: BLE001 - R10: evidence that breaks is an abstain
        return replace(reply, value=None, error=error)


def _reply(effect: Ask | Gather, call: Callable[[], object], *, timed: bool = True) -> Reply:
    started = perf_counter()
    try:
        with telemetry.using(effect.span):
            value = within(effect.seconds if timed else None, call)
    except LateError as error:
        return Reply(None, error, late=True, latency=perf_counter() - started)
    except Exception as error:
        if is_control_flow(error):
            raise
        return Reply(None, error, late=False, latency=perf_counter() - started)
    return Reply(value, None, late=False, latency=perf_counter() - started)


async def _areply(effect: Ask | Gather, call: Callable[[], Awaitable[object]], *, timed: bool = True) -> Reply:
    started = perf_counter()
    limit = asyncio.timeout(effect.seconds if timed else None)
    try:
        with telemetry.using(effect.span):
            async with limit:
                value = await call()
    except TimeoutError as error:
        late = limit.expired()
        return Reply(
            None, LateError.after(effect.seconds) if late else error, late=late, latency=perf_counter() - started
        )
    except Exception as error:
        if is_control_flow(error):
            raise
        return Reply(None, error, late=False, latency=perf_counter() - started)
    return Reply(value, None, late=False, latency=perf_counter() - started)
