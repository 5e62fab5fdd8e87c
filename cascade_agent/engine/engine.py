"""One step, from the small tier's draft to its end: decide, ask, validate, decide again.

`step_script` is the whole way of a step without I/O and without a clock: it yields what it wants done and is sent the
result. `run` and `arun` are the two loops around it, so sync and async cannot differ.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from cascade_agent.core.decide import final_attempt
from cascade_agent.core.records import SideCall, Verdict
from cascade_agent.engine.executor import AsyncExecutor, Executor
from cascade_agent.engine.progress import StepProgress
from cascade_agent.engine.recorder import StepRecorder
from cascade_agent.engine.step import (
    Answer,
    AskEvidence,
    AwaitMoney,
    CallTier,
    CancelPending,
    HandOver,
    Reply,
    StepEnd,
    StepRequest,
    StepResult,
    Validate,
)
from cascade_agent.models.usage import NOTHING, usage_and_cost_of_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from langchain_core.messages import AIMessageChunk

    from cascade_agent.core.records import Decision, Draft, StepOutcome, StepTrace
    from cascade_agent.engine.step import Effect
    from cascade_agent.models.tier import Role
    from cascade_agent.validators.validator_set import Evidence, Gathered

T = TypeVar("T")
E = TypeVar("E", Executor, AsyncExecutor)


class OpenStep(Generic[E]):
    """A step under way, which may be left at its hand-over to large and gone on with.

    `before` is what a checkpoint holds of one that another process left there.
    """

    __slots__ = ("executor", "is_left", "progress", "recorder", "script")

    def __init__(
        self, request: StepRequest, executor: Callable[[StepRequest, StepRecorder], E], before: StepTrace | None = None
    ) -> None:
        self.recorder, self.is_left = StepRecorder(request), False
        self.progress = StepProgress(request) if before is None else StepProgress.handed_over(request, before)
        self.executor: E = executor(request, self.recorder)
        self.executor.started -= self.progress.elapsed
        self.script = step_script(self.progress)

    def leaves(self, effect: Effect) -> bool:
        """Leave the step after a hand-over where nobody needs small's draft any more; return whether it is left."""
        self.is_left = isinstance(effect, HandOver) and self.progress.draft_is_spent
        return self.is_left

    def left(self) -> StepResult:
        """Return what is known of a step that was left."""
        end = StepEnd(outcome="interrupted", reason=self.progress.decisions[-1].reason)
        return StepResult(answer=None, best=None, trace=self.recorder.trace(self.progress, end), is_left=True)

    def ended(self, end: StepEnd) -> StepResult:
        """Record the end of the step; return its result."""
        self.executor.cancel()
        return self.progress.result(end, self.recorder.record(self.progress, end))

    def stopped(self, error: BaseException) -> None:
        """Record a step that the host, or something outside of it, ended."""
        self.progress.elapsed = perf_counter() - self.executor.started
        self.recorder.record(self.progress, self.progress.stopped(error, hedged=self.executor.hedge_made))
        self.executor.cancel()


def run(request: StepRequest) -> StepResult:
    """Run a step. Raises only what the host steers with (`GraphBubbleUp`, `KeyboardInterrupt`, ...)."""
    return drained(stream(OpenStep(request, Executor)))


def stream(step: OpenStep[Executor], *, leave: bool = False) -> Generator[AIMessageChunk, None, StepResult]:
    """Run a step; yield the answer of the tier with the last word as it comes, and return how the step ended.

    With `leave` it may be left at the hand-over to large: then run it on from there.
    """
    executor, step.is_left = step.executor, False
    try:
        effect = step.script.send(None)
        while True:
            if isinstance(effect, CallTier) and effect.live:
                done: object = yield from executor.stream(effect)
            else:
                done = executor.execute(effect)
            step.progress.elapsed = perf_counter() - executor.started
            if leave and step.leaves(effect):
                return step.left()
            effect = step.script.send(done)
    except StopIteration as stop:
        end: StepEnd = stop.value
    except BaseException as error:
        step.stopped(error)
        raise
    return step.ended(end)


def drained(steps: Generator[object, None, T]) -> T:
    """Return what a generator returns; nobody wants what it yields."""
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return cast("T", stop.value)
    except RuntimeError as error:  # a fake whose iterator is at its end: Python lets no generator raise that
        if isinstance(error.__cause__, StopIteration) and str(error) == "generator raised StopIteration":
            raise error.__cause__ from None
        raise


async def arun(request: StepRequest) -> StepResult:
    """Async twin of `run`."""
    return await arun_on(OpenStep(request, AsyncExecutor))


async def arun_on(step: OpenStep[AsyncExecutor], *, leave: bool = False) -> StepResult:
    """Async twin of `stream`, which yields nothing."""
    executor, step.is_left = step.executor, False
    try:
        effect = step.script.send(None)
        while True:
            done = await executor.execute(effect)
            step.progress.elapsed = perf_counter() - executor.started
            if leave and step.leaves(effect):
                return step.left()
            effect = step.script.send(done)
    except StopIteration as stop:
        end: StepEnd = stop.value
    except BaseException as error:
        step.stopped(error)
        raise
    result = step.ended(end)
    await step.recorder.written()
    return result


# ---- the way of a step, without I/O ---------------------------------------------------------------------------------


def step_script(progress: StepProgress) -> Generator[Effect, Any, StepEnd]:
    """Yield what a step wants done, from its first decision to its end."""
    request = progress.request
    if request.statistics is not None:
        progress.known = request.statistics.snapshot(request.name)
    if progress.decisions:  # it was left at this one
        yield from _large(progress, progress.decisions[-1])
    else:
        before = (yield Validate(None, request.contexts["small"])) if request.validators.before else ()
        progress.open_attempt("small", before)
    hedged = False
    while True:
        decision = progress.decide()
        if decision.action == "ask_small":
            if progress.reserve("small"):
                hedged = decision.hedge is not None
                yield from _draft(progress, "small", hedge=decision.hedge)
        elif decision.action == "ask_evidence" and decision.evidence is not None:
            yield from _evidence(progress, request.validators.evidence[decision.evidence])
        elif decision.action == "escalate":
            yield from _large(progress, decision)
        elif decision.reason == "budget" and (amount := progress.held_for_others(decision)) is not None:
            progress.take_back_decision()
            yield AwaitMoney(amount, progress.time_left)
        else:
            break
    if hedged:
        progress.dropped((yield CancelPending()))
    return _end(progress, decision)


def _large(progress: StepProgress, decision: Decision) -> Generator[Effect, Any, None]:
    """Hand the step over to the large tier."""
    if not progress.reserve("large"):
        return
    note = _note(progress) if progress.request.policy.handover == "feedback" else None
    first = progress.facts["tier"] == "small"
    yield HandOver(progress.close_attempt(), decision, first)
    progress.open_attempt("large")
    yield from _draft(progress, "large", note=note)


def _draft(
    progress: StepProgress, role: Role, *, note: str | None = None, hedge: float | None = None
) -> Generator[Effect, Any, None]:
    """Ask a tier and validate its draft."""
    live = role == "large" and progress.last_word
    reply: Reply = yield CallTier(role, progress.seconds(role), note, hedge, live)
    if reply.error is not None:
        progress.failed(reply, reply.error)
        return
    answer = cast("Answer", reply.value)
    progress.drafted(reply, answer)
    progress.judged((yield Validate(answer.draft, progress.context(role))))


def _evidence(progress: StepProgress, evidence: Evidence) -> Generator[Effect, Any, None]:
    """Ask one piece of evidence about the draft and judge anew. A piece that breaks is an abstain.

    Evidence that asks the small tier again (`for_tier`) may return a third value, another draft of small that takes the
    place of this one.
    """
    draft, context = cast("Answer", progress.answer).draft, progress.context("small")
    better: Draft | None = None
    reply: Reply = yield AskEvidence(evidence, draft, context, progress.seconds("small"))
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
        progress.judged((yield Validate(better, progress.context("small"))))
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
