"""The spans of a step and its attempts, and of the run of a graph above them, by the OpenTelemetry API alone.

Names follow the GenAI semantic conventions where they have one; no tokens and no cost stand under a `gen_ai.*` name on
our own spans, because backends add those up over the model's span and would count them twice.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from cascade_agent import semconv as names
from cascade_agent.core.records import Attempt
from cascade_agent.telemetry import metrics
from cascade_agent.telemetry.errors import count, guarded
from cascade_agent.telemetry.events import MAX_EVENTS, Attributes, report, report_verdicts
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
    from collections.abc import Iterator, Mapping
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer
    from opentelemetry.util.types import AttributeValue

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import Decision, StepTrace


def _tracer() -> Tracer:
    with guarded:
        return otel_trace.get_tracer("cascade_agent")
    return otel_trace.NoOpTracer()


_TRACER = _tracer()
_NONE = otel_trace.INVALID_SPAN
_API = "opentelemetry.trace"
"""Where the API's own providers and tracers come from, which keep nothing."""


class StepRun:
    """The LangChain run of a step, as its adapter opened it, and the ends of runs below that wait to be reported.

    The engine is synchronous; where callbacks are coroutines, the end of an attempt's run waits here for the next place
    that can await.
    """

    __slots__ = ("_before", "deferred", "manager")

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self._before = BEFORE.get()
        self.deferred: list[tuple[Any, JsonObject, BaseException | None]] = []

    async def flush(self) -> None:
        """Report the ends that wait."""
        while self.deferred:
            with guarded:
                await end_run(*self.deferred.pop(0))

    async def close(self) -> None:
        """Report the ends that wait once the step is over, and leave its context."""
        if self.deferred:
            await self.flush()
        if self._before is not None:
            otel_context.attach(self._before)


@dataclass(slots=True, eq=False)
class StepScope:
    """The open parts of one step: its span, who listens to its runs, and whether model calls get spans of ours."""

    span: Span = _NONE
    run: StepRun | None = None
    adopter: object | None = None
    """The handler whose span the step's is, where there is one."""
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
        if self.waits:
            self.waits, self.opened = False, time.time_ns()
            if self.step.adopter is None:
                self.span = open_span(self.name, self.step.span, self.attributes) if self.step.live else self.step.span


Scope = StepScope | AttemptScope
_SILENT = StepScope()
_SILENT_ATTEMPT = AttemptScope(_SILENT, "", {}, _NONE)
_ATTEMPT: ContextVar[AttemptScope | None] = ContextVar("cascade_attempt", default=None)
current_attempt = _ATTEMPT.get
"""Return the attempt whose tier is being called here."""


def start_step(name: str, *, policy: str, thread_id: str | None, run: StepRun | None = None) -> StepScope:
    """Open `cascade.step {name}`, under the span of the run's parent where an instrumentation keeps one.

    Else it stands under the current span. What is known now is set now: samplers see nothing later.
    """
    handlers = () if run is None else run.manager.inheritable_handlers
    try:  # as `guarded`, which costs a step without an SDK more than this
        metrics.listen()
        if (
            not handlers
            and type(_TRACER).__module__.startswith(_API)
            and type(otel_trace.get_tracer_provider()).__module__.startswith(_API)
            and not otel_context.get_current()
        ):
            return _SILENT  # no SDK is configured, and nothing is current that could have a trace
        settings = current()
        scope = StepScope(run=run, has_listeners=bool(handlers) and hears_runs(handlers, hides=settings.otel_spans))
        if settings.otel_spans:
            _open_step(scope, name, policy, thread_id, handlers)
            wanted = settings.llm_spans
            scope.chat = not opens_llm_spans(handlers) if wanted == "auto" else wanted
        if scope.has_listeners or scope.live or (handlers and not settings.otel_spans):
            return scope
    except Exception as error:  # noqa: BLE001 - no fault of a provider or a handler may reach the step
        count(error)
    return _SILENT


def _open_step(scope: StepScope, name: str, policy: str, thread_id: str | None, handlers: Any) -> None:
    known = {names.STEP_NAME: name, names.POLICY_VERSION: policy, names.SPAN_KIND: names.KIND_CHAIN}
    if thread_id is not None:
        known[names.CONVERSATION_ID] = thread_id
        scope.thread_id = thread_id
    title, parent = f"{names.STEP} {name}", None
    if handlers and scope.run is not None:
        manager, handler = scope.run.manager, adopter(handlers)
        span = adopted(handler, manager, title, known)
        if span is not None:
            scope.span, scope.adopter = span, handler
            return
        parent = parent_context(handlers, manager.parent_run_id)
    scope.span = _TRACER.start_span(title, context=parent, attributes=known)


def start_attempt(step: StepScope, index: int, *, tier: str, model: str | None, later: bool = False) -> AttemptScope:
    """Open `cascade.attempt {tier}` under the step's span; with `later` as soon as the tier is called."""
    if step is _SILENT:
        return _SILENT_ATTEMPT
    with guarded:
        known: dict[str, AttributeValue] = {names.ATTEMPT_INDEX: index, names.TIER_NAME: tier}
        if model is not None:
            known[names.TIER_MODEL] = model
        scope = AttemptScope(step, f"{names.ATTEMPT} {tier}", known, None, waits=True)
        if not later:
            scope.begin()
        return scope
    return _SILENT_ATTEMPT


class using:  # noqa: N801 - read as `with using(scope):`
    """Make a scope's span the current one while a tier is called; what the tier's instrumentation opens nests there.

    Never held across a `yield` to the user: an exception of the body is the engine's to report.
    """

    __slots__ = ("_mark", "_scope", "_token")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._mark: Token[AttemptScope | None] | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        """Open an attempt that waited, and make its span the current one."""
        scope = self._scope
        if (scope is _SILENT_ATTEMPT or scope is _SILENT) and _ATTEMPT.get() is None:
            return
        attempt = scope if isinstance(scope, AttemptScope) and scope is not _SILENT_ATTEMPT else None
        if attempt is not None and attempt.waits:
            with guarded:
                attempt.begin()
        self._mark = _ATTEMPT.set(attempt)
        self._token = attach(scope.current)

    def __exit__(self, *_: object) -> None:
        """Make the span before it the current one again."""
        if self._mark is not None:
            _ATTEMPT.reset(self._mark)
            detach(self._token)


def end_attempt(scope: AttemptScope, attempt: Attempt) -> None:
    """Close an attempt's span with its verdicts as events and its decisive facts as attributes, and its run."""
    if scope is _SILENT_ATTEMPT:
        if attempt.verdicts and current().events != "span":
            with guarded:
                report_verdicts(_NONE, attempt, None)
        return
    scope.ended = True
    with guarded:
        span, ends = scope.span, scope.step.adopter is None
        if span is None:  # the tier was never called, so that its handler opened nothing
            span, ends = open_span(scope.name, scope.step.span, scope.attributes, start_time=scope.opened), True
        with guarded:
            report_verdicts(span, attempt, scope.response_id)
            if span.is_recording():
                _set_attempt(span, attempt)
        if ends and span is not scope.step.span:
            close(span)
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
    objections = [{"validator": v.validator, "code": v.code} for v in attempt.verdicts if v.outcome == "fail"]
    # The decision, not the draft.
    outputs = {"outcome": attempt.outcome, "confidence": attempt.confidence, "objections": objections[:MAX_EVENTS]}
    if scope.is_async and scope.step.run is not None:
        scope.step.run.deferred.append((run, outputs, error))
    else:
        end_run(run, outputs, error)


def end_run(run: Any, outputs: JsonObject, error: BaseException | None) -> Any:
    """End a LangChain run; what an asynchronous one gives back must be awaited."""
    return run.on_chain_end(outputs) if error is None else run.on_chain_error(error)


def record_escalation(scope: StepScope, decision: Decision) -> None:
    """Report that small handed over to large, and why."""
    known = {names.TIER_FROM: "small", names.TIER_TO: "large", names.ESCALATION_REASON: decision.reason}
    with guarded:
        report(scope.span, names.ESCALATION, [known])


def end_step(scope: StepScope, trace: StepTrace) -> None:
    """Count a step in the metrics, and close its span with its outcome, reason, confidence and cost."""
    metrics.record(scope.span, trace)
    if scope is not _SILENT:
        with guarded:
            if scope.span.is_recording():
                _set_step(scope, trace)
        if scope.adopter is None:
            close(scope.span)


def _set_attempt(span: Span, attempt: Attempt) -> None:
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
            names.STEP_ATTEMPTS: len([a for a in trace.attempts if a.outcome != "skipped"]),
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
    elif scope.adopter is not None:  # final: its handler takes an interrupt, or a stream that is left, for an error
        span.set_status(Status(StatusCode.OK))


def open_span(
    title: str,
    parent: Span,
    attributes: Attributes,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    start_time: int | None = None,
) -> Span:
    """Open a span below another."""
    return _TRACER.start_span(
        title, context=otel_trace.set_span_in_context(parent), kind=kind, attributes=attributes, start_time=start_time
    )


def attach(span: Span) -> Token[Context] | None:
    """Make a span the current one; one that belongs to no trace hides no other."""
    with guarded:
        if span is not _NONE and span.get_span_context().is_valid:
            return otel_context.attach(otel_trace.set_span_in_context(span))
    return None


def detach(token: Token[Context] | None) -> None:
    """Undo `attach`."""
    if token is not None:
        otel_context.detach(token)


def set_known(span: Span, attributes: Mapping[str, Any]) -> None:
    """Set what is known, in order: the last one survives when a span has more attributes than it may keep."""
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})


def close(span: Span, error: BaseException | None = None, *, ends: bool = True) -> None:
    """End a span with the class of an error, never its message; a cancellation leaves the status as it is."""
    with guarded:
        if error is not None and span.is_recording():
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            if isinstance(error, Exception):
                span.set_status(Status(StatusCode.ERROR))
        if ends:
            span.end()


# ---- a root ---------------------------------------------------------------------------------------------------------


@contextmanager
def invoke_workflow(graph: str, *, thread_id: str | None = None) -> Iterator[Span]:
    """Put one run of a graph under a span `invoke_workflow {graph}`, so that its steps are one trace.

    ```python
    with invoke_workflow("support", thread_id="t1"):
        graph.invoke({"messages": [...]}, {"configurable": {"thread_id": "t1"}})
    ```

    Gives the span. Where a span is already current, or an instrumentation of LangChain makes a root of its own, it
    opens none and gives the current one. Around an `async for` over a stream put it inside the coroutine that reads all
    of it: a span that is current while a generator waits is current for whoever reads the generator.
    """
    from langchain_core.callbacks import CallbackManager

    span, opened = otel_trace.get_current_span(), None
    everywhere = CallbackManager(handlers=[]).handlers  # an instrumentation is in every manager
    if current().otel_spans and not span.get_span_context().is_valid and not opens_llm_spans(everywhere):
        known = {names.OPERATION_NAME: names.INVOKE_WORKFLOW, names.WORKFLOW_NAME: graph}
        if thread_id is not None:
            known[names.CONVERSATION_ID] = thread_id
        with guarded:
            opened = span = _TRACER.start_span(f"{names.INVOKE_WORKFLOW} {graph}", attributes=known)
    token = None if opened is None else attach(opened)
    failed: Exception | None = None
    try:
        yield span
    except Exception as error:
        if not any(cls.__name__ == "GraphBubbleUp" for cls in type(error).__mro__):  # the host steering is no error
            failed = error
        raise
    finally:
        detach(token)
        if opened is not None:
            close(opened, failed)
