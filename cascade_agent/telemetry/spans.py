"""The spans of a step and its attempts, by the OpenTelemetry API alone.

Names follow the GenAI semantic conventions where they have one; no tokens and no cost stand under a `gen_ai.*` name on
our own spans, because backends add those up over the model's span and would count them twice.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from cascade_agent import semconv as names
from cascade_agent.core.records import Attempt
from cascade_agent.telemetry.errors import count, guarded
from cascade_agent.telemetry.events import (
    Attributes,
    escalation_event,
    evaluation_event,
    reported_verdicts,
    run_outputs,
)
from cascade_agent.telemetry.instrumentations import (
    BEFORE,
    adopted,
    adopter,
    hears_runs,
    opens_llm_spans,
    parent_context,
)
from cascade_agent.telemetry.log_events import on_spans
from cascade_agent.telemetry.settings import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from cascade_agent.core.records import Decision, StepTrace


def _tracer() -> Tracer:
    with guarded:
        return otel_trace.get_tracer("cascade_agent")
    return otel_trace.NoOpTracer()


_TRACER = _tracer()
_NONE = otel_trace.INVALID_SPAN


class StepRun:
    """The LangChain run of a step, as its adapter opened it, and the ends of runs below that wait to be reported.

    The engine is synchronous; where callbacks are coroutines, the end of an attempt's run waits here for the next place
    that can await.
    """

    __slots__ = ("_before", "_deferred", "manager")

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self._before = BEFORE.get()
        self._deferred: list[tuple[Any, Attempt, BaseException | None]] = []

    def defer_end(self, run: Any, attempt: Attempt, error: BaseException | None) -> None:
        """Remember the end of a run."""
        self._deferred.append((run, attempt, error))

    async def flush(self) -> None:
        """Report the ends that wait."""
        while self._deferred:
            run, attempt, error = self._deferred.pop(0)
            with guarded:
                await end_run(run, run_outputs(attempt), error)

    async def close(self) -> None:
        """Report the ends that wait once the step is over, and leave its context."""
        if self._deferred:
            await self.flush()
        if self._before is not None:
            otel_context.attach(self._before)


@dataclass(slots=True, eq=False)
class StepScope:
    """The open parts of one step: its span, who listens to its runs, and whether model calls get spans of ours."""

    span: Span = _NONE
    run: StepRun | None = None
    adopter: object | None = None
    is_adopted: bool = False
    has_listeners: bool = False
    chat: bool = False
    thread_id: str | None = None

    @property
    def current(self) -> Span:
        """The span that what happens in this step belongs under."""
        return self.span

    @property
    def live(self) -> bool:
        """Return whether spans below have a place: a trace, sampled or not."""
        return self.span.get_span_context().is_valid


@dataclass(slots=True, eq=False)
class AttemptScope:
    """The open parts of one attempt. `span` is None while it `waits` for its tier's call, or for its handler."""

    step: StepScope
    name: str
    attributes: Attributes
    span: Span | None
    opened: int = field(default_factory=time.time_ns)
    run: Any = None
    waits: bool = False
    is_async: bool = False
    ended: bool = False
    error: BaseException | None = None
    response_id: str | None = None

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
            parent = self.step.span
            within = otel_trace.set_span_in_context(parent)
            self.span = open_span(self.name, within, self.attributes) if self.step.live else parent


Scope = StepScope | AttemptScope
_SILENT = StepScope()
_SILENT_ATTEMPT = AttemptScope(_SILENT, "", {}, _NONE)
_ATTEMPT: ContextVar[AttemptScope | None] = ContextVar("cascade_attempt", default=None)


def start_step(name: str, *, policy: str, thread_id: str | None, run: StepRun | None = None) -> StepScope:
    """Open `cascade.step {name}`, under the span of the run's parent where an instrumentation keeps one.

    Else it stands under the current span. What is known now is set now: samplers see nothing later.
    """
    handlers = () if run is None else run.manager.inheritable_handlers
    if not handlers and not _reaches_anybody():
        return _SILENT
    with guarded:
        settings = current()
        if not settings.otel_spans and not handlers:
            return _SILENT
        scope = StepScope(run=run)
        if handlers:
            scope.has_listeners = hears_runs(handlers, hides=settings.otel_spans)
        if not settings.otel_spans:
            return scope
        _open_step(scope, name, policy, thread_id, handlers)
        if not scope.live and not scope.has_listeners:
            return _SILENT
        wanted = settings.llm_spans
        scope.chat = not opens_llm_spans(handlers) if wanted == "auto" else wanted
        return scope
    return _SILENT


def _reaches_anybody() -> bool:
    """Return whether a span could be kept: an SDK is configured, or a span that is current already has a trace."""
    try:
        for made in (_TRACER, otel_trace.get_tracer_provider()):
            if not type(made).__module__.startswith("opentelemetry.trace"):
                return True
        return otel_trace.get_current_span() is not _NONE
    except Exception as error:  # noqa: BLE001 - as `guarded`, which costs a step without an SDK more than this
        count(error)
        return False


def _open_step(scope: StepScope, name: str, policy: str, thread_id: str | None, handlers: Any) -> None:
    known = {names.STEP_NAME: name, names.POLICY_VERSION: policy, names.SPAN_KIND: names.KIND_CHAIN}
    if thread_id is not None:
        known[names.CONVERSATION_ID] = thread_id
        scope.thread_id = thread_id
    title, parent = f"{names.STEP} {name}", None
    if handlers and scope.run is not None:
        manager = scope.run.manager
        scope.adopter = adopter(handlers)
        span = None if scope.adopter is None else adopted(scope.adopter, manager.run_id)
        if span is not None:
            scope.span, scope.is_adopted = span, True
            take_over(span, title, known)
            return
        parent = parent_context(handlers, manager.parent_run_id)
    scope.span = open_span(title, parent, known)


def start_attempt(step: StepScope, index: int, *, tier: str, model: str | None, later: bool = False) -> AttemptScope:
    """Open `cascade.attempt {tier}` under the step's span; with `later` as soon as the tier is called."""
    if step is _SILENT:
        return _SILENT_ATTEMPT
    with guarded:
        known: Attributes = {names.ATTEMPT_INDEX: index, names.TIER_NAME: tier}
        if model is not None:
            known[names.TIER_MODEL] = model
        scope = AttemptScope(step, f"{names.ATTEMPT} {tier}", known, None, waits=True)
        if not later:
            scope.begin()
        return scope
    return _SILENT_ATTEMPT


def using(scope: Scope) -> AbstractContextManager[None]:
    """Make a scope's span the current one while a tier is called; what the tier's instrumentation opens nests there.

    Never held across a `yield` to the user: an exception of the body is the engine's to report.
    """
    if (scope is _SILENT or scope is _SILENT_ATTEMPT) and _ATTEMPT.get() is None:
        return _NOTHING
    return _using(scope)


_NOTHING = nullcontext()


@contextmanager
def _using(scope: Scope) -> Iterator[None]:
    attempt = scope if isinstance(scope, AttemptScope) else None
    if attempt is not None and attempt.waits:
        with guarded:
            attempt.begin()
    mark = _ATTEMPT.set(None if attempt is _SILENT_ATTEMPT else attempt)
    token = attach(scope.current)
    try:
        yield
    finally:
        _ATTEMPT.reset(mark)
        detach(token)


def current_attempt() -> AttemptScope | None:
    """Return the attempt whose tier is being called here."""
    return _ATTEMPT.get()


def end_attempt(scope: AttemptScope, attempt: Attempt) -> None:
    """Close an attempt's span with its verdicts as events and its decisive facts as attributes, and its run."""
    if scope is _SILENT_ATTEMPT:
        return
    scope.ended = True
    with guarded:
        span, theirs = scope.span, scope.step.is_adopted
        if span is None:  # the tier was never called, so that its handler opened nothing
            parent = otel_trace.set_span_in_context(scope.step.span)
            span, theirs = open_span(scope.name, parent, scope.attributes, start_time=scope.opened), False
        if span is not scope.step.span:
            _close(span, lambda: _set_attempt(span, attempt, scope.response_id), ends=not theirs)
        if scope.run is not None:
            _end_attempt_run(scope, attempt)


def drop_attempt(scope: AttemptScope) -> None:
    """Close an attempt that ran in parallel and is not needed; one that was never called leaves nothing."""
    if not scope.waits:
        end_attempt(scope, Attempt(tier="large", outcome="cancelled"))


def _end_attempt_run(scope: AttemptScope, attempt: Attempt) -> None:
    run, scope.run = scope.run, None
    error = scope.error if attempt.outcome in ("error", "timeout") else None
    if attempt.outcome == "timeout" and not isinstance(error, Exception):  # a cancelled task, or a thread left alone
        error = TimeoutError(attempt.error or "")
    if scope.is_async and scope.step.run is not None:
        scope.step.run.defer_end(run, attempt, error)
    else:
        end_run(run, run_outputs(attempt), error)


def end_run(run: Any, outputs: dict[str, Any], error: BaseException | None) -> Any:
    """End a LangChain run; what an asynchronous one gives back must be awaited."""
    return run.on_chain_end(outputs) if error is None else run.on_chain_error(error)


def record_escalation(scope: StepScope, decision: Decision) -> None:
    """Mark on the step's span that small handed over to large, and why."""
    with guarded:
        if scope.span.is_recording() and on_spans():
            scope.span.add_event(names.ESCALATION, escalation_event(decision))


def end_step(scope: StepScope, trace: StepTrace) -> None:
    """Close the step's span with its outcome, reason, confidence and cost."""
    if scope is not _SILENT:
        _close(scope.span, lambda: _set_step(scope, trace), ends=not scope.is_adopted)


def _set_attempt(span: Span, attempt: Attempt, response_id: str | None) -> None:
    if on_spans():
        for verdict in reported_verdicts(attempt):
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


def _set_step(scope: StepScope, trace: StepTrace) -> None:
    span = scope.span
    set_known(
        span,
        {
            names.STEP_ID: trace.id,
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


def _close(span: Span, describe: Callable[[], None], *, ends: bool) -> None:
    with guarded:
        if span.is_recording():
            describe()
    if ends:
        with guarded:
            span.end()


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
    with guarded:
        if span is not _NONE and span.get_span_context().is_valid:
            return otel_context.attach(otel_trace.set_span_in_context(span))
    return None


def detach(token: Token[Any] | None) -> None:
    """Undo `attach`."""
    if token is not None:
        otel_context.detach(token)


def set_known(span: Span, attributes: Mapping[str, Any]) -> None:
    """Set what is known, in order: the last one survives when a span has more attributes than it may keep."""
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})


def set_error(span: Span, error: BaseException | None) -> None:
    """Set the class of an error, never its message; a cancellation leaves the status as it is."""
    if error is not None and span.is_recording():
        span.set_attribute(names.ERROR_TYPE, type(error).__name__)
        if isinstance(error, Exception):
            span.set_status(Status(StatusCode.ERROR))
