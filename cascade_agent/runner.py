"""One step, from the small tier's draft to the record: ask, judge, decide, record.

`_script` is the whole course of a step without any I/O: it yields what it wants done (an `Ask`, a `Check`, a `Gather`)
and is sent the result. `run` and `arun` are the two loops that do it, so sync and async cannot differ.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, assert_never, cast
from uuid import uuid4

from cascade_agent import telemetry
from cascade_agent.deadline import LateError, within
from cascade_agent.errors import CascadeExhausted, RecordError, RejectedDraft
from cascade_agent.panel import is_control_flow
from cascade_agent.policy import decide
from cascade_agent.records import Attempt, Decision, Draft, Spend, StepTrace, Usage, Verdict, clean_text, load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping

    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig
    from opentelemetry.trace import Span

    from cascade_agent.journal import Journal
    from cascade_agent.panel import Evidence, Panel
    from cascade_agent.policy import Policy
    from cascade_agent.records import SideEffect, StepContext, StepOutcome
    from cascade_agent.tiers import Role, Tier

_SMALL_SHARE = 1 / 3
_NOTHING = Usage(input_tokens=0, output_tokens=0, cache_read_tokens=0, cache_write_tokens=0, calls=0)
_MAX_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tier said: the draft to be judged, and the host's own value that is returned when it is taken.

    `context` is set where the answer itself says what it is to be judged as: an agent that owes structured output in
    the end first calls ordinary tools.
    """

    draft: Draft
    native: object = None
    context: StepContext | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """One step as a door hands it over. `ask` (or `aask`) asks a tier; a note is a hand-over for the large one.

    `interruptible` says that a human can be asked when the step is exhausted; its record is then not yet the last word
    and is left to whoever asks him.
    """

    name: str
    tiers: Mapping[Role, Tier]
    contexts: Mapping[Role, StepContext]
    panel: Panel
    policy: Policy
    ask: Callable[[Role, str | None], Answer] | None = None
    aask: Callable[[Role, str | None], Awaitable[Answer]] | None = None
    journal: Journal | None = None
    run_id: str | None = None
    config: RunnableConfig | None = None
    interruptible: bool = False


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
        return CascadeExhausted(
            f"step {self.trace.step!r}: no tier gave a usable answer ({tried})", self.errors, trace=self.trace
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a tier for its draft within `seconds`."""

    role: Role
    seconds: float | None
    note: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Check:
    """Run the local validators on a draft; without one, those that look at the context alone."""

    draft: Draft | None
    context: StepContext


@dataclass(frozen=True, slots=True)
class Gather:
    """Ask a piece of evidence about a draft within `seconds`."""

    evidence: Evidence
    draft: Draft
    context: StepContext
    seconds: float | None
    span: Span


@dataclass(frozen=True, slots=True)
class Reply:
    """What asking gave: a value, or the error; `late` when the deadline passed. `latency` is in seconds."""

    value: object
    error: Exception | None
    late: bool
    latency: float


Effect = Ask | Check | Gather


# ---- the two loops --------------------------------------------------------------------------------------------------


def run(step: Step) -> Result:
    """Run a step. Raises only what the host steers with (`GraphBubbleUp`, `KeyboardInterrupt`, ...)."""
    script = _script(step)
    try:
        effect = next(script)
        while True:
            try:
                done = _perform(step, effect)
            except BaseException as error:  # noqa: BLE001 - the script records it and raises it again
                effect = script.throw(error)
            else:
                effect = script.send(done)
    except StopIteration as stop:
        return cast("Result", stop.value)


async def arun(step: Step) -> Result:
    """Async twin of `run`."""
    script = _script(step)
    try:
        effect = next(script)
        while True:
            try:
                done = await _aperform(step, effect)
            except BaseException as error:  # noqa: BLE001 - the script records it and raises it again
                effect = script.throw(error)
            else:
                effect = script.send(done)
    except StopIteration as stop:
        return cast("Result", stop.value)


def _perform(step: Step, effect: Effect) -> object:
    if isinstance(effect, Check):
        return step.panel.judge(effect.draft, effect.context)
    if isinstance(effect, Ask):
        ask, role, note = cast("Callable[[Role, str | None], Answer]", step.ask), effect.role, effect.note
        return _reply(effect, lambda: ask(role, note))
    if isinstance(effect, Gather):
        call = effect
        return _reply(effect, lambda: call.evidence.gather(call.draft, call.context, config=step.config))
    assert_never(effect)


async def _aperform(step: Step, effect: Effect) -> object:
    if isinstance(effect, Check):
        return await step.panel.ajudge(effect.draft, effect.context, seconds=step.policy.validator_timeout)
    if isinstance(effect, Ask):
        aask = cast("Callable[[Role, str | None], Awaitable[Answer]]", step.aask)
        return await _areply(effect, lambda: aask(effect.role, effect.note))
    if isinstance(effect, Gather):
        return await _areply(effect, lambda: effect.evidence.agather(effect.draft, effect.context, config=step.config))
    assert_never(effect)


def _reply(effect: Ask | Gather, call: Callable[[], object]) -> Reply:
    started = perf_counter()
    try:
        with telemetry.using(effect.span):
            value = within(effect.seconds, call)
    except LateError as error:
        return Reply(None, error, late=True, latency=perf_counter() - started)
    except Exception as error:
        if is_control_flow(error):
            raise
        return Reply(None, error, late=False, latency=perf_counter() - started)
    return Reply(value, None, late=False, latency=perf_counter() - started)


async def _areply(effect: Ask | Gather, call: Callable[[], Awaitable[object]]) -> Reply:
    started = perf_counter()
    limit = asyncio.timeout(effect.seconds)
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


# ---- the course of a step, without I/O ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Course:
    """What has happened so far in one step; lives and dies with one `_script`."""

    step: Step
    span: Span
    started: float
    done: list[Attempt] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    spends: list[Spend] = field(default_factory=list)
    attempt: Attempt = field(default_factory=lambda: Attempt(tier="small", outcome="pending"))
    attempt_span: Span | None = None
    answer: Answer | None = None
    error: Exception | None = None

    def seconds(self, role: Role) -> float | None:
        """How long a tier may take now: its own limit, and what the step's budget leaves it."""
        own, budget = self.step.tiers[role].timeout, self.step.policy.latency_budget
        if budget is None:
            return own
        left = budget - (perf_counter() - self.started)
        if own is None:
            own = budget * _SMALL_SHARE if role == "small" else budget
        return min(own, left)

    def close_attempt(self, outcome: Any = None) -> None:
        """Fix the attempt's outcome and close its span."""
        attempt = self.attempt
        if outcome is not None and attempt.outcome in ("pending", "rejected"):
            attempt = replace(attempt, outcome=outcome)
        if self.attempt_span is not None:
            telemetry.end_attempt(self.attempt_span, attempt)
            self.attempt_span = None
        self.done.append(attempt)
        self.answers.append(self.answer)
        if attempt.outcome not in ("accepted", "skipped", "cancelled"):
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
            usage=_NOTHING,
            cost=0.0,
        )


def _script(step: Step) -> Generator[Effect, Any, Result]:
    policy, panel = step.policy, step.panel
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    span = telemetry.start_step(step.name, policy=policy.version, thread_id=step.contexts["small"].thread_id)
    course = _Course(step=step, span=span, started=perf_counter())
    try:
        before = (yield Check(None, step.contexts["small"])) if panel.before else ()
        course.open_attempt("small", before)
        evidence = tuple(panel.evidence)
        while True:
            decision = decide(policy, (*course.done, course.attempt), evidence=evidence)
            course.decisions.append(decision)
            if decision.action == "gather":
                if decision.evidence is None:
                    yield from _draft(course, "small", None)
                else:
                    yield from _evidence(course, panel.evidence[decision.evidence])
            elif decision.action == "escalate":
                note = _note(course) if policy.handover == "feedback" else None
                course.close_attempt("skipped" if course.attempt.outcome == "pending" else None)
                telemetry.escalation(span, decision)
                course.open_attempt("large")
                yield from _draft(course, "large", note)
            else:
                break
    except BaseException as error:
        outcome: StepOutcome = "interrupted" if is_control_flow(error) else _stopped(error)
        if course.attempt.outcome == "pending":
            course.attempt = replace(course.attempt, usage=None, cost=None)
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


def _draft(course: _Course, role: Role, note: str | None) -> Generator[Effect, Any, None]:
    """Ask a tier, judge what it says, and put the attempt in the course."""
    step, before = course.step, course.attempt
    tier = step.tiers[role]
    course.attempt_span = span = telemetry.start_attempt(
        course.span, len(course.done), tier=role, model=tier.model_name
    )
    seconds = course.seconds(role)
    if seconds is not None and seconds <= 0:
        reply = Reply(
            None, LateError("the step's latency budget was spent before this tier was asked"), late=True, latency=0.0
        )
    else:
        reply = yield Ask(role, seconds, note, span)
    if reply.error is not None:
        course.error = reply.error
        unasked = seconds is not None and seconds <= 0
        usage, cost, inner = (_NOTHING, 0.0, None) if unasked else _bill_of_error(reply.error)
        course.attempt = replace(
            before,
            outcome="timeout" if reply.late else "error",
            error=_error_text(reply.error),
            latency=reply.latency,
            usage=usage,
            cost=cost,
            inner=inner,
        )
        return
    answer = cast("Answer", reply.value)
    course.answer = answer
    usage, cost, inner = _bill(tier, answer.draft.message)
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
        usage, cost = (_NOTHING, 0.0) if unasked else (None, None)
        spend = Spend(name=evidence.name, usage=usage, cost=cost, latency=reply.latency)
    else:
        verdict, spend = cast("tuple[Verdict, Spend]", reply.value)
        spend = replace(spend, name=evidence.name, latency=reply.latency)
        verdict = verdict if verdict.validator else replace(verdict, validator=evidence.name)
    course.spends.append(spend)
    verdicts = (*attempt.verdicts, verdict)
    course.attempt = replace(
        attempt,
        verdicts=verdicts,
        gathered=(*attempt.gathered, evidence.name),
        confidence=step.policy.scorer.confidence(verdicts),
    )


def _bill(tier: Tier, message: AIMessage) -> tuple[Usage, float | None, dict[str, Any] | None]:
    """Usage and cost of one call. A tier that is itself a cascade bills what its own record says."""
    inner = message.response_metadata.get("cascade")
    if isinstance(inner, dict) and tier.base._llm_type == "cascade":  # noqa: SLF001 - the public way to ask is this
        try:
            trace = StepTrace.from_json(inner)
        except RecordError:
            return Usage(), None, None
        return trace.usage or Usage(calls=_calls(trace)), trace.cost, inner
    usage = Usage.of(message)
    if (
        cast("dict[str, Any]", message.usage_metadata or {}).get("total_cost") == 0
    ):  # LangChain's mark of an answer from its cache
        return usage, 0.0, None
    return usage, tier.cost(usage), None


def _bill_of_error(error: BaseException) -> tuple[Usage | None, float | None, dict[str, Any] | None]:
    """Usage and cost of a call that raised: unknown, unless the provider refused it or a cascade says what it spent."""
    if isinstance(error, CascadeExhausted):
        trace = error.trace
        return trace.usage or Usage(calls=_calls(trace)), trace.cost, trace.to_json(content=False)
    if _refused_unbilled(error):
        return replace(_NOTHING, calls=1), 0.0, None
    return None, None, None


def _calls(trace: StepTrace) -> int:
    return sum(a.outcome != "skipped" for a in trace.attempts) + len(trace.evidence)


def _refused_unbilled(error: BaseException) -> bool:
    """Whether the provider answered with an error status: such a call is billed nowhere."""
    for source in (error, getattr(error, "response", None)):
        status = getattr(source, "status_code", None)
        if isinstance(status, int):
            return status >= 400  # noqa: PLR2004 - HTTP
    return False


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
        evidence=tuple(course.spends),
        askable=tuple(step.panel.evidence),
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
    for spend in course.spends:
        total = None if total is None or spend.cost is None else total + spend.cost
        asked = getattr(course.step.panel.evidence.get(spend.name), "tier", None)
        if spend.cost and asked is not None:  # evidence of the user's own counts in the currency of the step
            currencies.add(asked.currency)
    if len(currencies) > 1:
        return None, "USD"
    return total, next(iter(currencies), course.step.tiers["large"].currency)


def _total(course: _Course) -> Usage | None:
    """Tokens that the providers reported; a call that raised reported none, one that was cut off is unknown."""
    total = _NOTHING
    parts = [replace(_NOTHING, calls=1) if a.usage is None and a.outcome == "error" else a.usage for a in course.done]
    for usage in parts + [s.usage for s in course.spends]:
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
