"""The spans of a step and its attempts, by the OpenTelemetry API alone.

Names follow the GenAI semantic conventions where they have one; no tokens and no cost stand under a `gen_ai.*` name on
our own spans, because backends add those up over the model's span and would count them twice.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from cascade_agent import semconv as names
from cascade_agent.core.records import Attempt
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import log_events as log_api
from cascade_agent.telemetry.instrumentations import (
    BEFORE,
    adopted,
    adopter,
    hears_runs,
    opens_llm_spans,
    parent_context,
)
from cascade_agent.telemetry.settings import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import Token

    from opentelemetry.context import Context

    from cascade_agent.core.records import Decision, StepTrace, Verdict

Attributes = dict[str, Any]
_TRACER = otel_trace.get_tracer("cascade_agent")
_NONE = otel_trace.INVALID_SPAN
_LABELS = {"pass": "pass", "fail": "fail", "abstain": "skipped"}
_MAX_EXPLANATION = 512
_MAX_EVENTS = 64
"""Verdicts told as events; a span keeps 128 events and drops the oldest, so the objections come first beyond this."""


class StepRun:
    """The LangChain run of a step, as its door opened it, and the ends of runs below that are still to be told.

    The course of a step is synchronous; where callbacks are coroutines, the end of an attempt's run waits here for the
    next place that can await.
    """

    __slots__ = ("_before", "_owed", "manager")

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self._before = BEFORE.get()
        self._owed: list[tuple[Any, Attempt, BaseException | None]] = []

    def owe(self, run: Any, attempt: Attempt, error: BaseException | None) -> None:
        """Remember an end."""
        self._owed.append((run, attempt, error))

    async def ended(self) -> None:
        """Tell what is owed at the end of the step, and leave its context."""
        await self.settled()
        if self._before is not None:
            otel_context.attach(self._before)

    async def settled(self) -> None:
        """Tell what is owed."""
        while self._owed:
            run, attempt, error = self._owed.pop(0)
            try:
                if error is None:
                    await run.on_chain_end(run_outputs(attempt))
                else:
                    await run.on_chain_error(error)
            except Exception as fault:  # noqa: BLE001 - law 4
                faults.count(fault)


class StepScope:
    """What is open for one step: its span, who hears of its runs, and whether model calls get spans of ours."""

    __slots__ = ("adopter", "chat", "is_adopted", "run", "span", "tells", "thread_id")

    def __init__(self, span: Span = _NONE, run: StepRun | None = None) -> None:
        self.span, self.run = span, run
        self.adopter: object | None = None
        self.is_adopted = self.tells = self.chat = False
        self.thread_id: str | None = None

    @property
    def current(self) -> Span:
        """The span that what happens in this step belongs under."""
        return self.span

    @property
    def live(self) -> bool:
        """Whether spans below have a place: a trace, sampled or not."""
        return self.span.get_span_context().is_valid


class AttemptScope:
    """What is open for one attempt. `span` is None while it `waits` to be asked, or for its handler to open it."""

    __slots__ = (
        "attributes",
        "ended",
        "error",
        "is_async",
        "name",
        "opened",
        "response_id",
        "run",
        "span",
        "step",
        "waits",
    )

    def __init__(self, step: StepScope, name: str, attributes: Attributes, span: Span | None) -> None:
        self.step, self.name, self.attributes, self.span = step, name, attributes, span
        self.opened = time.time_ns()
        self.run: Any = None
        self.is_async = self.ended = self.waits = False
        self.error: BaseException | None = None
        self.response_id: str | None = None

    @property
    def current(self) -> Span:
        """The span that what happens in this attempt belongs under."""
        return self.step.span if self.span is None else self.span

    def begin(self) -> None:
        """Open the span, if it waited for that."""
        if not self.waits:
            return
        self.waits, self.opened = False, time.time_ns()
        if not self.step.is_adopted:
            self.span = _attempt_span(self.step, self.name, self.attributes)


Scope = StepScope | AttemptScope
_SILENT = StepScope()
_SILENT_ATTEMPT = AttemptScope(_SILENT, "", {}, _NONE)
_ASKING: ContextVar[AttemptScope | None] = ContextVar("cascade_attempt", default=None)


def start_step(name: str, *, policy: str, thread_id: str | None, run: StepRun | None = None) -> StepScope:
    """Open `cascade.step {name}`, under the span of the run's parent where an instrumentation keeps one.

    Else it stands under the current span. What is known now is given now: samplers see nothing later.
    """
    try:
        settings = current()
        manager = None if run is None else run.manager
        handlers = () if manager is None else manager.inheritable_handlers
        if not settings.otel_spans and not handlers:
            return _SILENT
        scope = StepScope(run=run)
        if handlers:
            scope.tells = hears_runs(handlers, hides=settings.otel_spans)
        if not settings.otel_spans:
            return scope
        known = {names.STEP_NAME: name, names.POLICY_VERSION: policy, names.SPAN_KIND: names.KIND_CHAIN}
        if thread_id is not None:
            known[names.CONVERSATION_ID] = thread_id
            scope.thread_id = thread_id
        title, parent = f"{names.STEP} {name}", None
        if handlers and manager is not None:
            scope.adopter = adopter(handlers)
            span = None if scope.adopter is None else adopted(scope.adopter, manager.run_id)
            if span is not None:
                scope.span, scope.is_adopted = span, True
                take_over(span, title, known)
            else:
                parent = parent_context(handlers, manager.parent_run_id)
        if not scope.is_adopted:
            scope.span = open_span(title, parent, known)
        if not scope.live and not scope.tells:
            return _SILENT
        wanted = settings.llm_spans
        scope.chat = not opens_llm_spans(handlers) if wanted == "auto" else wanted
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
        return _SILENT
    return scope


def start_attempt(step: StepScope, index: int, *, tier: str, model: str | None, later: bool = False) -> AttemptScope:
    """Open `cascade.attempt {tier}` under the step's span; with `later` as soon as the tier is asked."""
    if step is _SILENT:
        return _SILENT_ATTEMPT
    try:
        known: Attributes = {names.ATTEMPT_INDEX: index, names.TIER_NAME: tier}
        if model is not None:
            known[names.TIER_MODEL] = model
        scope = AttemptScope(step, f"{names.ATTEMPT} {tier}", known, None)
        scope.waits = True
        if not later:
            scope.begin()
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
        return _SILENT_ATTEMPT
    return scope


def _attempt_span(step: StepScope, title: str, known: Attributes) -> Span:
    return open_span(title, otel_trace.set_span_in_context(step.span), known) if step.live else step.span


@contextmanager
def using(scope: Scope) -> Iterator[None]:
    """Make a scope's span the current one while a tier is asked; what the tier's own instrumentation opens nests there.

    Never held across a `yield` to the user: an exception of the body is not recorded here, it is the runner's to tell.
    """
    attempt = scope if isinstance(scope, AttemptScope) else None
    if attempt is not None and attempt.waits:
        try:
            attempt.begin()
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)
    mark = _ASKING.set(None if attempt is _SILENT_ATTEMPT else attempt)
    token = attach(scope.current)
    try:
        yield
    finally:
        _ASKING.reset(mark)
        detach(token)


def asked() -> AttemptScope | None:
    """The attempt whose tier is being asked here."""
    return _ASKING.get()


def end_attempt(scope: AttemptScope, attempt: Attempt) -> None:
    """Close an attempt's span with its verdicts as events and its decisive facts as attributes, and its run."""
    if scope is _SILENT_ATTEMPT:
        return
    scope.ended = True
    try:
        span, theirs = scope.span, scope.step.is_adopted
        if span is None:  # the tier was never asked, so that its handler opened nothing
            parent = otel_trace.set_span_in_context(scope.step.span)
            span, theirs = open_span(scope.name, parent, scope.attributes, start_time=scope.opened), False
        if span is not scope.step.span:
            _close(span, lambda: _tell_attempt(span, attempt, scope.response_id), ends=not theirs)
        if scope.run is not None:
            end_run(scope, attempt)
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)


def drop_attempt(scope: AttemptScope) -> None:
    """Close an attempt that was begun beside another one and is not needed; one that was never asked leaves nothing."""
    if not scope.waits:
        end_attempt(scope, Attempt(tier="large", outcome="cancelled"))


def end_run(scope: AttemptScope, attempt: Attempt) -> None:
    """Tell the handlers that the attempt's run ended, now or as soon as it can be awaited."""
    run, scope.run = scope.run, None
    error = scope.error if attempt.outcome in ("error", "timeout") else None
    if attempt.outcome == "timeout" and not isinstance(error, Exception):  # a task is cancelled, a thread told nothing
        error = TimeoutError(attempt.error or "")
    if scope.is_async and scope.step.run is not None:
        scope.step.run.owe(run, attempt, error)
    elif error is None:
        run.on_chain_end(run_outputs(attempt))
    else:
        run.on_chain_error(error)


def end_step(scope: StepScope, trace: StepTrace) -> None:
    """Close the step's span with its outcome, reason, confidence and cost."""
    if scope is not _SILENT:
        _close(scope.span, lambda: _tell_step(scope, trace), ends=not scope.is_adopted)


def escalation(scope: StepScope, decision: Decision) -> None:
    """Mark on the step's span that small handed over to large, and why."""
    try:
        if scope.span.is_recording() and _on_spans():
            scope.span.add_event(names.ESCALATION, escalation_event(decision))
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)


# ---- what is said ---------------------------------------------------------------------------------------------------


def escalation_event(decision: Decision) -> Attributes:
    """The attributes of `cascade.escalation`."""
    return {names.TIER_FROM: "small", names.TIER_TO: "large", names.ESCALATION_REASON: decision.reason}


def evaluation_event(verdict: Verdict, response_id: str | None = None) -> Attributes:
    """The attributes of `gen_ai.evaluation.result` for a verdict: its path and rule, never the value."""
    where = f"{verdict.path}: " if verdict.path else ""
    explanation = current().redacted(f"{where}{verdict.code} {verdict.reason}".strip())
    event: Attributes = {
        names.EVALUATION_NAME: verdict.validator,
        names.EVALUATION_LABEL: label_of(verdict),
        names.EVALUATION_EXPLANATION: explanation[:_MAX_EXPLANATION],
    }
    if verdict.score is not None:
        event[names.EVALUATION_SCORE] = verdict.score
    if response_id is not None:
        event[names.RESPONSE_ID] = response_id
    return event


def _on_spans() -> bool:
    """Whether events are told on spans: not where they are log records alone, as long as these can be made."""
    return current().events != "log" or not log_api.possible()


def label_of(verdict: Verdict) -> str:
    """A verdict in one word: pass, fail, error or skipped."""
    return "error" if verdict.broken else _LABELS[verdict.outcome]


def told_verdicts(attempt: Attempt) -> tuple[Verdict, ...]:
    """The verdicts that become events: all of them, or the first 64, objections first."""
    if len(attempt.verdicts) <= _MAX_EVENTS:
        return attempt.verdicts
    return tuple(sorted(attempt.verdicts, key=lambda v: v.outcome != "fail")[:_MAX_EVENTS])


def run_outputs(attempt: Attempt) -> dict[str, Any]:
    """What an attempt's LangChain run says at its end: the decision, not the draft."""
    objections = [{"validator": v.validator, "code": v.code} for v in attempt.verdicts if v.outcome == "fail"]
    return {"outcome": attempt.outcome, "confidence": attempt.confidence, "objections": objections[:_MAX_EVENTS]}


def _tell_attempt(span: Span, attempt: Attempt, response_id: str | None) -> None:
    if _on_spans():
        for verdict in told_verdicts(attempt):
            span.add_event(names.EVALUATION_RESULT, evaluation_event(verdict, response_id))
    failed = sorted({v.validator for v in attempt.verdicts if v.outcome == "fail"})
    usage = attempt.usage
    set_known(
        span,
        {
            names.ATTEMPT_SCORE: attempt.confidence,
            names.ATTEMPT_THRESHOLD: attempt.threshold,
            names.ATTEMPT_INPUT_TOKENS: usage and usage.input_tokens,
            names.ATTEMPT_OUTPUT_TOKENS: usage and usage.output_tokens,
            names.ATTEMPT_COST: attempt.cost,
            names.VALIDATION_PASSED: not failed if attempt.outcome in ("accepted", "rejected") else None,
            names.VALIDATION_FAILED: failed or None,
            names.ERROR_TYPE: (attempt.error or "").partition(":")[0] or None,
            names.ATTEMPT_OUTCOME: attempt.outcome,
        },
    )
    if attempt.outcome in ("error", "timeout"):
        span.set_status(Status(StatusCode.ERROR))


def _tell_step(scope: StepScope, trace: StepTrace) -> None:
    span = scope.span
    set_known(
        span,
        {
            names.STEP_ESCALATED: trace.escalated,
            names.STEP_ATTEMPTS: sum(a.outcome != "skipped" for a in trace.attempts),
            names.STEP_FINAL_TIER: trace.final_tier,
            names.STEP_REASON: trace.reason,
            names.STEP_CONFIDENCE: trace.confidence,
            names.STEP_COST: trace.cost,
            names.COST_CURRENCY: trace.currency if trace.cost is not None else None,
            names.ERROR_TYPE: "CascadeExhausted" if trace.outcome == "exhausted" and not trace.degraded else None,
            names.STEP_OUTCOME: trace.outcome,
        },
    )
    if trace.outcome == "error" or (trace.outcome == "exhausted" and trace.final is None):
        span.set_status(Status(StatusCode.ERROR))
    elif scope.is_adopted:  # final: its handler takes an interrupt of the host, or a stream that is left, for an error
        span.set_status(Status(StatusCode.OK))


# ---- spans ----------------------------------------------------------------------------------------------------------


def open_span(
    title: str,
    parent: Context | None,
    attributes: Mapping[str, Any],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    start_time: int | None = None,
) -> Span:
    """Open a span; without `parent` under the current one."""
    return _TRACER.start_span(title, context=parent, kind=kind, attributes=attributes, start_time=start_time)


def take_over(span: Span, title: str, attributes: Mapping[str, Any]) -> None:
    """Make a span that a handler opened ours; the handler ends it."""
    if span.is_recording():
        span.update_name(title)
        span.set_attributes(attributes)


def attach(span: Span) -> Token[Any] | None:
    """Make a span the current one; one that belongs to no trace hides no other."""
    try:
        if span is _NONE or not span.get_span_context().is_valid:
            return None
        return otel_context.attach(otel_trace.set_span_in_context(span))
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
        return None


def detach(token: Token[Any] | None) -> None:
    """Undo `attach`."""
    if token is not None:
        otel_context.detach(token)


def set_known(span: Span, attributes: Mapping[str, Any]) -> None:
    """Set what is known, in order: the last one survives when a span has more attributes than it may keep."""
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})


def _close(span: Span, tell: Callable[[], None], *, ends: bool) -> None:
    try:
        if span.is_recording():
            tell()
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
    if ends:
        try:
            span.end()
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)
