"""One step, from the small tier's draft to the record: ask, judge, decide, record.

`_script` is the whole course of a step without any I/O: it yields what it wants done (an `Ask`, a `Check`, a `Gather`)
and is sent the result. `run` and `arun` are the two loops that do it, so sync and async cannot differ.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from cascade_agent import telemetry
from cascade_agent.core.clean_json import clean_text
from cascade_agent.core.decide import decide
from cascade_agent.core.records import (
    Attempt,
    Decision,
    DecisionInputs,
    Draft,
    SideCall,
    StepTrace,
    Usage,
    Verdict,
    load,
)
from cascade_agent.engine.executor import AsyncHands, Hands
from cascade_agent.engine.step import Answer, Ask, Check, Drop, Gather, Reply, Sleep, Step
from cascade_agent.engine.worker_threads import LateError, OvertakenError
from cascade_agent.errors import CascadeExhausted, ConfigurationError, RejectedDraft
from cascade_agent.models.usage import NOTHING, retry_after, usage_and_cost, usage_and_cost_of_error
from cascade_agent.validators.validator_set import is_control_flow

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping

    from langchain_core.messages import AIMessage

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import AttemptOutcome, SideEffect, StepContext, StepOutcome
    from cascade_agent.engine.step import Effect
    from cascade_agent.models.tier import Role
    from cascade_agent.validators.validator_set import Evidence

_SMALL_SHARE = 1 / 3
_MAX_ERROR = 500
_UNKNOWN = DecisionInputs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a step ended.

    `answer` is what to return, None when the policy lets nothing be returned; `best` the best draft that passed its
    hard checks, for a human to look at; `errors` hold what went wrong on the way, one per failed attempt.
    """

    answer: Answer | None
    best: Answer | None
    trace: StepTrace
    errors: tuple[Exception, ...] = ()

    def exhausted(self) -> CascadeExhausted:
        """The error that tells this end, with one leaf per attempt."""
        tried = "; ".join(_line(a) for a in self.trace.attempts)
        if self.trace.reason == "budget":
            tried += "; max_cost leaves no more"
        why = self.errors or (RejectedDraft(f"no tier was asked: {self.trace.reason}"),)
        return CascadeExhausted(
            f"step {self.trace.step!r}: no tier gave a usable answer ({tried})", why, trace=self.trace
        )


# ---- the two loops --------------------------------------------------------------------------------------------------


def run(step: Step) -> Result:
    """Run a step. Raises only what the host steers with (`GraphBubbleUp`, `KeyboardInterrupt`, ...)."""
    hands = Hands(step)
    script = _script(step, hands.asked)
    try:
        effect = next(script)
        while True:
            try:
                done = hands.do(effect)
            except BaseException as error:  # noqa: BLE001 - the script records it and raises it again
                effect = script.throw(error)
            else:
                effect = script.send(done)
    except StopIteration as stop:
        return cast("Result", stop.value)
    finally:
        hands.drop()


async def arun(step: Step) -> Result:
    """Async twin of `run`."""
    hands = AsyncHands(step)
    script = _script(step, hands.asked)
    try:
        effect = next(script)
        while True:
            try:
                done = await hands.do(effect)
            except BaseException as error:  # noqa: BLE001 - the script records it and raises it again
                effect = script.throw(error)
            else:
                effect = script.send(done)
    except StopIteration as stop:
        return cast("Result", stop.value)
    finally:
        hands.drop()


# ---- the course of a step, without I/O ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Course:
    """What has happened so far in one step; lives and dies with one `_script`."""

    step: Step
    span: telemetry.StepScope
    started: float
    done: list[Attempt] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    side_calls: list[SideCall] = field(default_factory=list)
    attempt: Attempt = field(default_factory=lambda: Attempt(tier="small", outcome="pending"))
    attempt_span: telemetry.AttemptScope | None = None
    hedge_span: telemetry.AttemptScope | None = None
    """Of the large tier's attempt that was begun beside the small one's, until it is asked for or given up."""
    answer: Answer | None = None
    error: Exception | None = None

    known: DecisionInputs = _UNKNOWN
    """What the ledger knew when the step began."""
    inputs_seen: list[DecisionInputs] = field(default_factory=list)

    @property
    def time_left(self) -> float | None:
        """What the latency budget leaves."""
        budget = self.step.policy.latency_budget
        return None if budget is None else budget - (perf_counter() - self.started)

    def seconds(self, role: Role) -> float | None:
        """How long a tier may take now: its own limit, and what the step's budget leaves it."""
        own, budget, left = self.step.tiers[role].timeout, self.step.policy.latency_budget, self.time_left
        if budget is None or left is None:
            return own
        if own is None:
            own = budget * _SMALL_SHARE if role == "small" else budget
        return min(own, left)

    def decide(self) -> Decision:
        """The next move, and what it was made on."""
        inputs = self.inputs()
        evidence = self.step.panel.evidence
        decision = decide(self.step.policy, (*self.done, self.attempt), evidence=tuple(evidence), inputs=inputs)
        self.inputs_seen.append(inputs)
        self.decisions.append(decision)
        return decision

    def inputs(self) -> DecisionInputs:
        """What is known beside the attempts now; nothing that no rule could use."""
        step, policy, context = self.step, self.step.policy, self.step.contexts["small"]
        more: dict[str, Any] = {}
        if self.known.large_latency is not None or self.attempt.retry_after is not None:
            more["time_left"] = self.time_left
        if self.answer is not None and self.attempt.tier == "small":
            if policy.thresholds:
                more["kind"] = _kind(context, self.answer)
            if policy.price_aware and step.ledger is not None:
                usage, large = self.attempt.usage, step.tiers["large"]
                more["large_cost_now"] = step.ledger.large_cost_now(step.name, large, usage, context.thread_id)
        if policy.stay_on_large:
            more["stays_on_large"] = _latched(context)
        if step.purse is not None:
            more["money_left"] = step.purse.left()
            more["small_price"], more["large_price"] = self.price("small"), self.price("large")
        return replace(self.known, **more) if more else self.known

    def price(self, role: Role) -> float | None:
        """What must be left to ask a tier: what it is expected to cost, or the most that it can."""
        step = self.step
        mean = None if step.policy.strict_cost or step.ledger is None else step.ledger.expected(step.name, role)
        if mean is not None:
            return mean
        tier, size = step.tiers[role], _size(step.contexts[role])
        found = tier.foreseen(size, most=step.policy.strict_cost)
        if found is None and step.policy.strict_cost:
            msg = f"strict_cost cannot bound a call of {tier.label}: give the tier a Price and the model a max_tokens"
            raise ConfigurationError(msg)
        return found

    def hold(self, role: Role) -> float | None:
        """Set aside what the call of a tier costs. None when a step beside this one was faster: decide again."""
        purse = self.step.purse
        if purse is None:
            return 0.0
        amount = self.price(role) or 0.0
        if purse.hold(amount):
            return amount
        self.decisions.pop()
        self.inputs_seen.pop()
        return None

    def settle(self, held: float, cost: float | None) -> None:
        """A call is over: what it cost is spent, what was set aside for it when that is unknown."""
        if self.step.purse is not None:
            self.step.purse.settle(held, cost)

    def close_attempt(self, outcome: Any = None) -> None:
        """Fix the attempt's outcome and close its span."""
        attempt = self.attempt
        if attempt.outcome == "pending":
            attempt = replace(attempt, outcome=outcome or "skipped")
        elif outcome is not None and attempt.outcome == "rejected":
            attempt = replace(attempt, outcome=outcome)
        if self.attempt_span is not None:
            telemetry.end_attempt(self.attempt_span, attempt)
            self.attempt_span = None
        self.done.append(attempt)
        self.answers.append(self.answer)
        if attempt.outcome not in ("accepted", "skipped"):
            self.errors.append(self.error or RejectedDraft(_line(attempt)))
        self.answer = self.error = None

    def open_attempt(self, role: Role, verdicts: tuple[Verdict, ...] = ()) -> None:
        threshold = self.step.policy.threshold if role == "small" else None
        self.attempt = Attempt(
            tier=role,
            model=self.step.tiers[role].model_name,
            outcome="pending",
            verdicts=verdicts,
            threshold=threshold,
            usage=NOTHING,
            cost=0.0,
        )


def _script(step: Step, beside: Collection[str]) -> Generator[Effect, Any, Result]:
    policy, panel = step.policy, step.panel
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    thread_id = step.contexts["small"].thread_id
    span = telemetry.start_step(step.name, policy=policy.version, thread_id=thread_id, run=step.run)
    course = _Course(step=step, span=span, started=perf_counter())
    try:
        if step.ledger is not None:
            course.known = step.ledger.snapshot(step.name)
        before = (yield Check(None, step.contexts["small"])) if panel.before else ()
        course.open_attempt("small", before)
        while True:
            decision = course.decide()
            if decision.action == "ask_small":
                yield from _small(course, decision)
            elif decision.action == "ask_evidence" and decision.evidence is not None:
                yield from _evidence(course, panel.evidence[decision.evidence])
            elif decision.action == "escalate":
                yield from _large(course, decision)
            else:
                break
        if beside:
            yield from _dropped(course)
    except BaseException as error:
        outcome: StepOutcome = "interrupted" if is_control_flow(error) else _stopped(error)
        if course.attempt.outcome == "pending":
            course.attempt = replace(course.attempt, usage=None, cost=None)
        course.side_calls += [SideCall(name="hedge" if name == "large" else name) for name in beside]
        course.close_attempt("cancelled")
        _record(course, outcome, outcome, final=None, started_at=started_at)
        raise
    course.close_attempt("accepted" if decision.action == "accept" else None)
    final = decision.attempt
    if decision.action == "accept":
        outcome, reason = ("accepted", "accepted") if len(course.done) == 1 else ("escalated", _why(course))
    else:
        outcome, reason = "interrupted" if step.interruptible else "exhausted", decision.reason
        final = decision.attempt if policy.on_exhausted == "return" else None
    trace = _record(course, outcome, reason, final=final, started_at=started_at, waits=outcome == "interrupted")
    answer, best = (None if index is None else course.answers[index] for index in (final, decision.attempt))
    return Result(answer=answer, best=best, trace=trace, errors=tuple(course.errors))


def _small(course: _Course, decision: Decision) -> Generator[Effect, Any, None]:
    """Ask the small tier, and beside it what the decision names."""
    step, context = course.step, course.step.contexts["small"]
    held = course.hold("small")
    if held is None:
        return
    for name in decision.beside:
        if hasattr(step.panel.evidence[name], "begin"):
            yield Gather(step.panel.evidence[name], None, context, None, course.span)
    yield from _paid(course, held, _draft(course, "small", None, hedge=decision.hedge))


def _large(course: _Course, decision: Decision) -> Generator[Effect, Any, None]:
    """Hand the step over to the large tier, after a wait when its provider asked for one."""
    held = course.hold("large")
    if held is None:
        return
    note = _note(course) if course.step.policy.handover == "feedback" else None
    first = course.attempt.tier == "small"
    course.close_attempt()
    if first:
        telemetry.escalation(course.span, decision)
    course.open_attempt("large")
    if decision.wait:
        yield Sleep(decision.wait)
    yield from _paid(course, held, _draft(course, "large", note))


def _paid(course: _Course, held: float, asking: Generator[Effect, Any, None]) -> Generator[Effect, Any, None]:
    """Ask, and account for what was set aside; a call that failed is taken not to be billed."""
    try:
        yield from asking
    except BaseException:
        course.settle(held, None)
        raise
    course.settle(held, 0.0 if course.attempt.outcome == "error" else course.attempt.cost)


def _dropped(course: _Course) -> Generator[Effect, Any, None]:
    """The step is decided: give up what was begun beside it, and put what that cost into the books."""
    made: Mapping[str, Reply | None] = yield Drop()
    for name, reply in made.items():
        spend = SideCall(name="hedge" if name == "large" else name)
        if reply is not None:
            if reply.error is not None:
                usage, cost, _ = usage_and_cost_of_error(reply.error)
            elif name == "large":
                usage, cost, _ = usage_and_cost(course.step.tiers["large"], cast("Answer", reply.value).draft.message)
            else:
                told = cast("Any", course.step.panel.evidence[name]).spent(reply.value)
                usage, cost = told.usage, told.cost
            spend = replace(spend, usage=usage, cost=cost, latency=reply.latency)
        course.settle(0.0, spend.cost)
        course.side_calls.append(spend)


def _latched(context: StepContext) -> bool:
    """Whether an answer of this turn came from a step that escalated."""
    for message in context.messages[context.turn_start + 1 :]:
        told = message.response_metadata.get("cascade") if message.type == "ai" else None
        if isinstance(told, dict) and told.get("escalated"):
            return True
    return False


def _size(context: StepContext) -> int:
    """Bytes of a request: its messages with their calls, and the tools on offer."""
    asked = [(m.content, getattr(m, "tool_calls", None)) for m in context.messages]
    tools = [(t.name, t.description, t.parameters) for t in context.tools]
    return len(repr(asked).encode("utf-8", "replace")) + len(repr(tools).encode("utf-8", "replace"))


def _draft(
    course: _Course, role: Role, note: str | None, *, hedge: float | None = None
) -> Generator[Effect, Any, None]:
    """Ask a tier, judge what it says, and put the attempt in the course."""
    step, before = course.step, course.attempt
    tier = step.tiers[role]
    span = course.hedge_span if role == "large" else None
    if span is None:
        span = telemetry.start_attempt(course.span, len(course.done), tier=role, model=tier.model_name)
    else:
        course.hedge_span = None
    course.attempt_span = span
    if hedge is not None:
        name = step.tiers["large"].model_name
        course.hedge_span = telemetry.start_attempt(
            course.span, len(course.done) + 1, tier="large", model=name, later=True
        )
    seconds = course.seconds(role)
    if seconds is not None and seconds <= 0:
        reply = Reply(
            None, LateError("the step's latency budget was spent before this tier was asked"), late=True, latency=0.0
        )
    else:
        reply = yield Ask(role, seconds, note, span, hedge, course.hedge_span)
    if reply.error is not None:
        course.error = reply.error
        unasked = seconds is not None and seconds <= 0
        usage, cost, inner = (NOTHING, 0.0, None) if unasked else usage_and_cost_of_error(reply.error)
        course.attempt = replace(
            before,
            outcome=_ended(reply),
            error=_error_text(reply.error),
            latency=reply.latency,
            usage=usage,
            cost=cost,
            inner=inner,
            retry_after=retry_after(reply.error),
        )
        return
    answer = cast("Answer", reply.value)
    course.answer = answer
    usage, cost, inner = usage_and_cost(tier, answer.draft.message)
    course.attempt = replace(
        before,
        outcome="rejected",
        latency=reply.latency,
        usage=usage,
        cost=cost,
        inner=inner,
        effect=_effect(answer.draft, step.policy) if step.policy.side_effects else None,
    )
    found: tuple[Verdict, ...] = yield Check(answer.draft, answer.context or step.contexts[role])
    verdicts = before.verdicts + found if before.verdicts else found
    confidence = step.policy.scorer.confidence(verdicts)
    course.attempt = replace(course.attempt, verdicts=verdicts, confidence=confidence)


def _ended(reply: Reply) -> AttemptOutcome:
    """What became of a call that gave no draft."""
    if isinstance(reply.error, OvertakenError):
        return "cancelled"
    return "timeout" if reply.late else "error"


def _effect(draft: Draft, policy: Policy) -> SideEffect | None:
    """The gravest declared side effect of a draft's calls."""
    declared = {policy.side_effects.get(call["name"]) for call in draft.tool_calls}
    return next((effect for effect in ("irreversible", "write", "read") if effect in declared), None)


def _evidence(course: _Course, evidence: Evidence) -> Generator[Effect, Any, None]:
    """Ask one piece of evidence about the draft and judge anew. A piece that breaks is an abstain (R10)."""
    step, attempt, answer = course.step, course.attempt, cast("Answer", course.answer)
    draft, context = answer.draft, answer.context or course.step.contexts["small"]
    seconds = course.seconds("small")
    unasked = seconds is not None and seconds <= 0
    if unasked:
        reply = Reply(None, LateError("the step's latency budget was spent"), late=True, latency=0.0)
    else:
        reply = yield Gather(evidence, draft, context, seconds, course.attempt_span or course.span)
    if reply.error is not None:
        code = "evidence_timeout" if reply.late else "evidence_error"
        verdict = Verdict(outcome="abstain", code=code, reason=type(reply.error).__name__, validator=evidence.name)
        usage, cost = (NOTHING, 0.0) if unasked else (None, None)
        spend = SideCall(name=evidence.name, usage=usage, cost=cost, latency=reply.latency)
    else:
        verdict, spend = cast("tuple[Verdict, SideCall]", reply.value)
        spend = replace(spend, name=evidence.name, latency=reply.latency)
        verdict = verdict if verdict.validator else replace(verdict, validator=evidence.name)
    course.settle(0.0, spend.cost)
    course.side_calls.append(spend)
    verdicts = (*attempt.verdicts, verdict)
    course.attempt = replace(
        attempt,
        verdicts=verdicts,
        gathered=(*attempt.gathered, evidence.name),
        confidence=step.policy.scorer.confidence(verdicts),
    )


def _error_text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error that cannot be told still is one
        text = ""
    return clean_text(f"{type(error).__name__}: {text}"[:_MAX_ERROR])


def _stopped(error: BaseException) -> StepOutcome:
    return "cancelled" if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit) else "error"


def _why(course: _Course) -> str:
    """Why the step left the small tier: the reason of its escalation."""
    return next((d.reason for d in course.decisions if d.action == "escalate"), "escalated")


def _note(course: _Course) -> str | None:
    """What the large tier is told under `handover="feedback"`: the objections and the failed answer, as text."""
    if course.answer is None:
        return None
    draft, objections = course.answer.draft, [v for v in course.attempt.verdicts if v.outcome == "fail"]
    said = draft.to_json()
    why = "\n".join(f"- {v.code or v.validator}: {v.reason}" for v in objections) or "- low confidence"
    return f"A first attempt at this step was not accepted:\n{why}\nIt answered: {said}"


def _record(  # noqa: PLR0913 - the facts of an end
    course: _Course, outcome: StepOutcome, reason: str, *, final: int | None, started_at: str, waits: bool = False
) -> StepTrace:
    """Close the books of a step: the trace, its span, its line in the journal unless it `waits` for a human."""
    step, attempts = course.step, tuple(course.done)
    if course.hedge_span is not None:
        telemetry.drop_attempt(course.hedge_span)
    context = step.contexts["small"]
    first = next((a for a in course.answers if a is not None), None)
    shown = None if final is None else attempts[final]
    if step.journal is not None or outcome == "exhausted" or waits:
        attempts = tuple(
            attempt if answer is None else replace(attempt, answer=answer.draft.to_json())
            for attempt, answer in zip(attempts, course.answers, strict=True)
        )
    cost, currency = _sum(course)
    trace = StepTrace(
        id=uuid4().hex,
        step=step.name,
        outcome=outcome,
        reason=reason,
        attempts=attempts,
        decisions=tuple(course.decisions),
        evidence=tuple(course.side_calls),
        askable=tuple(step.panel.evidence),
        inputs_seen=() if all(s == _UNKNOWN for s in course.inputs_seen) else tuple(course.inputs_seen),
        final=final,
        kind=_kind(context, first),
        degraded=outcome == "exhausted" and final is not None,
        confidence=None if shown is None else shown.confidence,
        cost=cost,
        currency=currency,
        usage=_total(course),
        latency=perf_counter() - course.started,
        started_at=started_at,
        thread_id=context.thread_id,
        run_id=step.run_id,
        policy=step.policy.version,
    )
    telemetry.end_step(course.span, trace)
    if step.ledger is not None:
        step.ledger.tell(trace)
    if step.journal is not None and not waits:
        step.journal.append(trace)
    return trace


def _sum(course: _Course) -> tuple[float | None, str]:
    """Cost of a step and its currency; None when a part is unknown, or was paid in another currency than the rest."""
    currencies: set[str] = set()
    total: float | None = 0.0
    for attempt in course.done:
        total = None if total is None or attempt.cost is None else total + attempt.cost
        if attempt.cost:
            tier = course.step.tiers["small" if attempt.tier == "small" else "large"]
            currencies.add((attempt.inner or {}).get("currency") or tier.currency)
    for spend in course.side_calls:
        total = None if total is None or spend.cost is None else total + spend.cost
        asked = getattr(course.step.panel.evidence.get(spend.name), "tier", None)
        if spend.cost and asked is not None:  # evidence of the user's own counts in the currency of the step
            currencies.add(asked.currency)
    if len(currencies) > 1:
        return None, "USD"
    return total, next(iter(currencies), course.step.tiers["large"].currency)


def _total(course: _Course) -> Usage | None:
    """Tokens that the providers reported; a call that raised reported none, one that was cut off is unknown."""
    total = NOTHING
    parts = [replace(NOTHING, calls=1) if a.usage is None and a.outcome == "error" else a.usage for a in course.done]
    for usage in parts + [s.usage for s in course.side_calls]:
        if usage is None:
            return None
        total += usage
    return total


def _kind(context: StepContext, answer: Answer | None) -> str:
    if ((answer and answer.context) or context).output_schema is not None:
        return "structured"
    draft = None if answer is None else answer.draft
    return "call" if draft is not None and (draft.tool_calls or draft.invalid_tool_calls) else "text"


def _line(attempt: Attempt) -> str:
    if attempt.error is not None:
        return f"{attempt.tier}: {attempt.error}"
    objections = [f"{v.validator}: {v.code}" for v in attempt.verdicts if v.outcome == "fail"]
    return f"{attempt.tier}: {attempt.outcome}" + (f" ({', '.join(objections)})" if objections else "")


def trace_of(message: AIMessage) -> StepTrace | None:
    """The record that stands on a message, None when it is not a cascade's.

    Raises:
        RecordError: there is one, but it cannot be read.
    """
    data = message.response_metadata.get("cascade")
    return None if data is None else load(StepTrace, data)
