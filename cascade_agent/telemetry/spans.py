"""The spans of a step, by the OpenTelemetry API alone. The only file that imports opentelemetry.

Law 4: telemetry never fails or slows a step. Whatever a provider or processor raises is logged once and counted.
Names follow the GenAI semantic conventions where they have one; no tokens and no cost stand under a `gen_ai.*` name
here, because backends add those up over the model's own span and would count them twice.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Token

    from cascade_agent.records import Attempt, Decision, StepTrace, Verdict

_LOG = logging.getLogger("cascade_agent")
_TRACER = otel_trace.get_tracer("cascade_agent")
_NONE = otel_trace.INVALID_SPAN
_LABELS = {"pass": "pass", "fail": "fail", "abstain": "skipped"}
_MAX_EXPLANATION = 512

lost: int = 0
"""How many telemetry calls failed in this process."""


def _failed(error: Exception) -> None:
    global lost  # noqa: PLW0603 - a process-wide counter, by design
    if lost == 0:
        _LOG.warning("telemetry failed and is ignored from here on: %s: %s", type(error).__name__, error)
    lost += 1


def start_step(name: str, *, policy: str, thread_id: str | None) -> Span:
    """Open `cascade.step {name}` under the current span. What is known now is given now: samplers see nothing later."""
    try:
        known = {"cascade.step.name": name, "cascade.policy.version": policy, "openinference.span.kind": "CHAIN"}
        if thread_id is not None:
            known["gen_ai.conversation.id"] = thread_id
        return _TRACER.start_span(f"cascade.step {name}", kind=SpanKind.INTERNAL, attributes=known)
    except Exception as error:  # noqa: BLE001 - law 4
        _failed(error)
        return _NONE


def start_attempt(step: Span, index: int, *, tier: str, model: str | None) -> Span:
    """Open `cascade.attempt {tier}` under the step's span."""
    try:
        parent = otel_trace.set_span_in_context(step)
        known: dict[str, str | int] = {"cascade.attempt.index": index, "cascade.tier.name": tier}
        if model is not None:
            known["cascade.tier.model"] = model
        name = f"cascade.attempt {tier}"
        return _TRACER.start_span(name, context=parent, kind=SpanKind.INTERNAL, attributes=known)
    except Exception as error:  # noqa: BLE001 - law 4
        _failed(error)
        return _NONE


@contextmanager
def using(span: Span) -> Iterator[None]:
    """Make a span the current one while a tier is asked; what the tier's own instrumentation opens nests under it.

    Never held across a `yield` to the user: an exception of the body is not recorded here, it is the runner's to tell.
    """
    token: Token[Any] | None = None
    try:
        token = otel_context.attach(otel_trace.set_span_in_context(span))
    except Exception as error:  # noqa: BLE001 - law 4
        _failed(error)
    try:
        yield
    finally:
        if token is not None:
            otel_context.detach(token)


def end_attempt(span: Span, attempt: Attempt) -> None:
    """Close an attempt's span with its verdicts as events and its decisive facts as attributes."""
    _close(span, lambda: _tell_attempt(span, attempt))


def end_step(span: Span, trace: StepTrace) -> None:
    """Close the step's span with its outcome, reason, confidence and cost."""
    _close(span, lambda: _tell_step(span, trace))


def escalation(span: Span, decision: Decision) -> None:
    """Mark on the step's span that small handed over to large, and why."""
    try:
        if span.is_recording():
            span.add_event(
                "cascade.escalation",
                {
                    "cascade.tier.from": "small",
                    "cascade.tier.to": "large",
                    "cascade.escalation.reason": decision.reason,
                },
            )
    except Exception as error:  # noqa: BLE001 - law 4
        _failed(error)


def _close(span: Span, tell: Callable[[], None]) -> None:
    try:
        if span.is_recording():
            tell()
        span.end()
    except Exception as error:  # noqa: BLE001 - law 4
        _failed(error)


def _tell_attempt(span: Span, attempt: Attempt) -> None:
    for verdict in attempt.verdicts:
        span.add_event("gen_ai.evaluation.result", _evaluation(verdict))
    failed = sorted({v.validator for v in attempt.verdicts if v.outcome == "fail"})
    usage = attempt.usage
    _set(
        span,
        {
            "cascade.attempt.score": attempt.confidence,
            "cascade.attempt.threshold": attempt.threshold,
            "cascade.attempt.input_tokens": usage and usage.input_tokens,
            "cascade.attempt.output_tokens": usage and usage.output_tokens,
            "cascade.attempt.cost": attempt.cost,
            "cascade.validation.passed": not failed,
            "cascade.validation.failed": failed or None,
            "error.type": (attempt.error or "").partition(":")[0] or None,
            "cascade.attempt.outcome": attempt.outcome,
        },
    )
    if attempt.outcome in ("error", "timeout"):
        span.set_status(Status(StatusCode.ERROR))


def _evaluation(verdict: Verdict) -> dict[str, Any]:
    label = "error" if verdict.broken else _LABELS[verdict.outcome]
    where = f"{verdict.path}: " if verdict.path else ""
    event: dict[str, Any] = {
        "gen_ai.evaluation.name": verdict.validator,
        "gen_ai.evaluation.score.label": label,
        "gen_ai.evaluation.explanation": f"{where}{verdict.code} {verdict.reason}".strip()[:_MAX_EXPLANATION],
    }
    if verdict.score is not None:
        event["gen_ai.evaluation.score.value"] = verdict.score
    return event


def _tell_step(span: Span, trace: StepTrace) -> None:
    _set(
        span,
        {
            "cascade.step.escalated": trace.escalated,
            "cascade.step.attempts": sum(a.outcome != "skipped" for a in trace.attempts),
            "cascade.step.final_tier": trace.final_tier,
            "cascade.step.reason": trace.reason,
            "cascade.step.confidence": trace.confidence,
            "cascade.step.cost": trace.cost,
            "cascade.cost.currency": trace.currency if trace.cost is not None else None,
            "error.type": "CascadeExhausted" if trace.outcome == "exhausted" and not trace.degraded else None,
            "cascade.step.outcome": trace.outcome,
        },
    )
    if trace.outcome == "error" or (trace.outcome == "exhausted" and trace.final is None):
        span.set_status(Status(StatusCode.ERROR))


def _set(span: Span, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        if value is not None:
            span.set_attribute(key, value)
