"""One step, from the small tier's draft to its end: decide, ask, validate, decide again.

`_played` is the whole way of a step without I/O and without a clock: these are its executor's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from cascade_agent.core.decide import final_attempt
from cascade_agent.core.records import SideCall, Verdict
from cascade_agent.engine.executor import Executor
from cascade_agent.engine.progress import StepProgress
from cascade_agent.engine.recorder import StepRecorder
from cascade_agent.engine.step import Answer, StepEnd, StepRequest, StepResult
from cascade_agent.models.usage import NOTHING, usage_and_cost_of_error

if TYPE_CHECKING:
    from cascade_agent.core.records import Decision, Draft, StepOutcome, StepTrace
    from cascade_agent.engine.ways import Way
    from cascade_agent.models.tier import Role
    from cascade_agent.validators.validator_set import Evidence, Gathered


class OpenStep:
    """A step under way, which may be left at its hand-over to large and gone on with.

    `before` is what a checkpoint holds of one that another process left there.
    """

    __slots__ = ("_way", "executor", "is_left", "progress", "recorder")

    def __init__(self, request: StepRequest, way: Way, before: StepTrace | None = None) -> None:
        self.recorder, self.is_left, self._way = StepRecorder(request), False, way
        self.executor = Executor(request, self.recorder, way)
        clock = self.executor.elapsed
        if before is None:
            self.progress = StepProgress(request, clock)
        else:
            self.progress = StepProgress.handed_over(request, clock, before)
            self.executor.started -= before.latency or 0.0
        if request.statistics is not None:
            self.progress.known = request.statistics.snapshot(request.name)

    async def run(self, *, leave: bool = False) -> StepResult:
        """Run the step; return how it ended. With `leave` it may be left at the hand-over to large: then run it on.

        Raises:
            BaseException: only what the host steers with (`GraphBubbleUp`, `KeyboardInterrupt`, ...).
        """
        self.is_left = False
        try:
            end = await _played(self.progress, self.executor, leave=leave)
        except BaseException as error:
            self.stopped(error)
            raise
        self.is_left = end is None
        if end is None:
            end = StepEnd(outcome="interrupted", reason=self.progress.decisions[-1].reason)
            return StepResult(answer=None, best=None, trace=self.recorder.trace(self.progress, end), is_left=True)
        result = self.progress.result(end, self.recorder.record(self.progress, end))
        if self._way.is_async:
            await self.recorder.written()
        return result

    def stopped(self, error: BaseException) -> None:
        """Record a step that the host, or something outside of it, ended."""
        rival = self.executor.rival
        self.recorder.record(self.progress, self.progress.stopped(error, hedged=rival is not None and rival.is_made))
        self.executor.cancel()


# ---- the way of a step, without I/O ---------------------------------------------------------------------------------


async def _played(progress: StepProgress, executor: Executor, *, leave: bool) -> StepEnd | None:
    """Take a step from where it is to its end; with `leave` return None where it is left at its hand-over to large."""
    request = progress.request
    if progress.is_closed:  # it was left there
        await _large(progress, executor)
    elif progress.decisions:  # by another process
        await _handed_over(progress, executor, progress.decisions[-1])
    else:
        before = await executor.validate(None, request.contexts["small"]) if request.validators.before else ()
        progress.open_attempt("small", before)
    while True:
        decision = progress.decide()
        if decision.action == "escalate":
            if await _handed_over(progress, executor, decision, leave=leave):
                return None
        elif not await _moved(progress, executor, decision):
            break
    if executor.rival is not None:
        progress.dropped(await executor.drop_rival())
    return _end(progress, decision)


async def _moved(progress: StepProgress, executor: Executor, decision: Decision) -> bool:
    """Do what a decision wants done, but for a hand-over; False where it is the last one."""
    if decision.action == "ask_small":
        if progress.reserve("small"):
            await _draft(progress, executor, "small", hedge=decision.hedge)
        return True
    if decision.action == "ask_evidence" and decision.evidence is not None:
        await _evidence(progress, executor, progress.request.validators.evidence[decision.evidence])
        return True
    amount = progress.held_for_others(decision) if decision.reason == "budget" else None
    if amount is not None:
        progress.take_back_decision()
        await executor.await_money(amount, progress.time_left)
    return amount is not None


async def _handed_over(progress: StepProgress, executor: Executor, decision: Decision, *, leave: bool = False) -> bool:
    """Hand the step over to the large tier; return whether it is left before that is asked.

    It is left only where nobody needs small's draft any more, which no checkpoint keeps.
    """
    if not progress.reserve("large"):
        return False
    note = _note(progress) if progress.request.policy.handover == "feedback" else None
    await executor.hand_over(progress.close_attempt(), decision)
    if leave and progress.draft_is_spent:
        return True
    await _large(progress, executor, note)
    return False


async def _large(progress: StepProgress, executor: Executor, note: str | None = None) -> None:
    progress.open_attempt("large")
    await _draft(progress, executor, "large", note=note)


async def _draft(
    progress: StepProgress, executor: Executor, role: Role, *, note: str | None = None, hedge: float | None = None
) -> None:
    """Ask a tier and validate its draft."""
    live = role == "large" and progress.last_word
    reply = await executor.call_tier(role, progress.seconds(role), note, hedge=hedge, live=live)
    if reply.error is not None:
        progress.failed(reply, reply.error)
        return
    answer = cast("Answer", reply.value)
    progress.drafted(reply, answer)
    progress.judged(await executor.validate(answer.draft, progress.context(role)))


async def _evidence(progress: StepProgress, executor: Executor, evidence: Evidence) -> None:
    """Ask one piece of evidence about the draft and judge anew. A piece that breaks is an abstain.

    Evidence that asks the small tier again (`for_tier`) may return a third value, another draft of small that takes the
    place of this one.
    """
    draft, context = cast("Answer", progress.answer).draft, progress.context("small")
    better: Draft | None = None
    reply = await executor.ask_evidence(evidence, draft, context, progress.seconds("small"))
    if reply.error is not None:
        code = "evidence_timeout" if reply.late else "evidence_error"
        verdict = Verdict(outcome="abstain", code=code, reason=type(reply.error).__name__, validator=evidence.name)
        usage, cost = usage_and_cost_of_error(reply.error)[:2] if reply.made else (NOTHING, 0.0)
        call = SideCall(name=evidence.name, usage=usage, cost=cost, latency=reply.latency)
    else:
        verdict, call, better = cast("Gathered", reply.value)
        call = replace(call, name=evidence.name, latency=reply.latency)
    progress.side_call(call)
    if better is not None and not progress.replaced(better):
        verdict = Verdict(outcome="abstain", code="evidence_error", reason="the host could not read the better draft")
    elif better is not None:
        progress.judged(await executor.validate(better, progress.context("small")))
    progress.judged((progress.request.validators.stamp(evidence.name, verdict, context),), gathered=evidence.name)


def _end(progress: StepProgress, decision: Decision) -> StepEnd:
    """Close the last attempt and say how the step ended."""
    request = progress.request
    progress.close_attempt("accepted" if decision.action == "accept" else None)
    final = final_attempt(request.policy, decision)
    outcome: StepOutcome = "accepted"
    reason = decision.reason
    if decision.action != "accept":
        outcome = "interrupted" if request.interruptible else "exhausted"
    elif len(progress.done) > 1:
        outcome = "escalated"
        reason = next((d.reason for d in progress.decisions if d.action == "escalate"), "escalated")
    waits = outcome == "interrupted"
    return StepEnd(outcome=outcome, reason=reason, final=final, best=decision.attempt, waits=waits)


def _note(progress: StepProgress) -> str | None:
    """Return the note for large under `handover="feedback"`: the objections and the failed answer, as text."""
    if progress.answer is None:
        return None
    objections = [v for v in progress.facts["verdicts"] if v.outcome == "fail"]
    why = "\n".join(f"- {v.code or v.validator}: {v.reason}" for v in objections) or "- low confidence"
    draft = progress.answer.draft.to_json()
    return f"A first attempt at this step was not accepted:\n{why}\nIt answered: {draft}"
