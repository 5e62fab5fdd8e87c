"""Makes the calls of a step, on threads or on an event loop, and keeps its clock."""

from __future__ import annotations

import random
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from cascade_agent import telemetry
from cascade_agent.engine.step import Reply
from cascade_agent.engine.ways import resolved, unwrapped
from cascade_agent.engine.worker_threads import LateError, SupersededError
from cascade_agent.validators.validator_set import gathered, is_control_flow, own_copy

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_agent.core.records import Attempt, Decision, Draft, StepContext, Verdict
    from cascade_agent.engine.budget import Budget
    from cascade_agent.engine.recorder import StepRecorder
    from cascade_agent.engine.step import Pending, StepRequest
    from cascade_agent.engine.ways import Body, Way
    from cascade_agent.models.tier import Role, Tier
    from cascade_agent.validators.validator_set import Evidence

_JITTER = 0.1
"""Share of a provider's waiting time that is added at random, so that those who were refused together do not return
together."""


class Executor:
    """The calls of one step: of its tiers, validators and evidence. No call of a tier raises: see `Reply`."""

    __slots__ = ("_way", "recorder", "request", "rival", "started")

    def __init__(self, request: StepRequest, recorder: StepRecorder, way: Way) -> None:
        self.request, self.recorder, self.started = request, recorder, perf_counter()
        self._way: Any = way
        self.rival: Any = None
        """A call of large in parallel to the one of small."""

    def elapsed(self) -> float:
        """Return the seconds since the step began."""
        return perf_counter() - self.started

    async def validate(self, draft: Draft | None, context: StepContext) -> tuple[Verdict, ...]:
        """Run the local validators on a draft; without one, those that look at the context alone."""
        judges = self.request.validators
        if not self._way.is_async:
            return judges.validate(draft, context)
        return await judges.avalidate(draft, context, seconds=self.request.policy.validator_timeout)

    async def hand_over(self, attempt: Attempt, decision: Decision) -> None:
        """Record that an attempt is over and large is next, and wait as long as it asked for."""
        self.recorder.hand_over(attempt, decision)
        if decision.wait:
            await self._way.sleep(decision.wait * (1.0 + _JITTER * random.random()))

    async def await_money(self, amount: float, seconds: float | None) -> None:
        """Wait at most `seconds` until a call that money is set aside for is over, and the amount may be there."""
        budget = cast("Budget", self.request.budget)
        await resolved((budget.await_money if self._way.is_async else budget.wait)(amount, seconds))

    async def call_tier(
        self, role: Role, seconds: float | None, note: str | None = None, *, hedge: float | None = None, live: bool
    ) -> Reply:
        """Ask a tier for its draft within `seconds`; one that is `live` goes out as it comes.

        `hedge` starts the call of large, that many seconds later, in parallel to this one of small; should large answer
        first, small is given up. Then large is not asked again: what runs already is waited for.
        """
        scope, label = self.recorder.open_attempt(role), self.request.tiers[role].label
        if (unmade := self._unmade(seconds, label)) is not None:
            return unmade
        call = partial(self.request.ask, role, note, live=live)
        if hedge is not None:
            small = self._way.start(partial(self._reply, call, None, scope, label))
            if not small.done():  # it is where there are no more threads
                later, large = self.recorder.open_attempt("large", later=True), self.request.tiers["large"].label
                ask = partial(self.request.ask, "large", None, live=False)
                self.rival = self._way.start(partial(self._reply, ask, None, later, large), after=hedge)
            return await self._first(small, self.rival, seconds)
        rival, self.rival = self.rival, None
        if rival is not None and not rival.drop_unless_made():
            return await self._first(rival, None, seconds)
        return await self._reply(call, seconds, scope, label, live=live)

    async def _first(self, own: Any, rival: Any, seconds: float | None) -> Reply:
        """Wait for a call; give it up when its time is over, or when large answered first."""
        started = perf_counter()
        waiting = [own] if rival is None else [own, rival]
        try:
            while not own.done():
                left = None if seconds is None else seconds - (perf_counter() - started)
                await self._way.first(waiting, left)
                over = [call for call in waiting if call.done()]
                if own not in over and (not over or over[0].result().error is None):
                    error, latency = SupersededError() if over else LateError.after(seconds), perf_counter() - started
                    await self._way.gone(own)
                    return Reply(None, error, late=True, latency=latency)
                waiting = [own]  # large failed: small is all there is
            return cast("Reply", own.result())
        finally:
            own.drop()

    async def drop_rival(self) -> Pending:
        """Give up the call of large that still runs; return its `Reply`, `"running"`, or None when it was not made."""
        rival, self.rival = self.rival, None
        if rival is None:
            return None
        pending: Pending = None
        if rival.is_made:
            pending = rival.result() if rival.done() and rival.exception() is None else "running"
        await self._way.gone(rival)
        return pending

    def cancel(self) -> None:
        """Give up the call that still runs; nobody waits for it."""
        if self.rival is not None:
            self.rival.drop()

    async def ask_evidence(
        self, evidence: Evidence, draft: Draft, context: StepContext, seconds: float | None
    ) -> Reply:
        """Ask a piece of evidence about a draft within `seconds`; one that asks small itself is given that tier."""
        scope = self.recorder.scope
        if (unmade := self._unmade(seconds, evidence.name)) is not None:
            return unmade

        async def ask() -> object:
            for_tier: Callable[[Tier], Evidence] | None = getattr(evidence, "for_tier", None)
            own = evidence if for_tier is None else for_tier(self.request.tiers["small"])
            async with self._way.frame(telemetry.EvidenceCall(scope, own, self.request.config)) as call:
                gather = own.agather if self._way.is_async else own.gather
                found: Any = await resolved(cast("Any", gather(own_copy(draft), context, config=call.config)))
                return call.record_verdict(gathered(own, found))

        return await self._reply(ask, seconds, scope, evidence.name)

    def _unmade(self, seconds: float | None, callee: str) -> Reply | None:
        """Return the reply of a call that is not made: no time is left, or too many late ones of it still run."""
        why: str | None = "the step's latency budget was spent before this call"
        if seconds is None or seconds > 0:
            why = self._way.objection(callee)
        return None if why is None else Reply(None, LateError(why), late=True, latency=0.0, made=False)

    async def _reply(
        self, call: Body[object], seconds: float | None, scope: telemetry.Scope, callee: str, *, live: bool = False
    ) -> Reply:
        started, value, error = perf_counter(), None, None

        async def scoped() -> object:  # here: between two chunks a reader may go on in another context
            with telemetry.using(scope):
                return await call()

        try:
            value = await self._way.within(seconds, scoped, callee=callee, live=live)
        except Exception as raised:  # a tier that fails is what the cascade is for
            error, host_raised = unwrapped(raised), self.request.host_raised
            if not isinstance(error, LateError) and (
                is_control_flow(error) or (host_raised is not None and host_raised(error))
            ):
                raise
        return Reply(value, error, late=isinstance(error, LateError), latency=perf_counter() - started)
