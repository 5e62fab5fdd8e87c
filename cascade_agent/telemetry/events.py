"""The events of a step, on its spans, as log events, or both: one per verdict, one for the hand-over to large.

From 1.38 on a logger takes an event by its name; before, `opentelemetry._events` is the way, and the SDK wants an event
logger provider next to the logger provider (its own configurator sets both). Where neither exists events stay on their
spans, whatever the settings say.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry import trace as otel_trace

from cascade_agent import semconv as names
from cascade_agent._log import LOG
from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.settings import current

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from cascade_agent.core.records import Attempt, Verdict
    from cascade_agent.telemetry.settings import TelemetrySettings

_SCOPE = "cascade_agent"
_MAX_EXPLANATION = 512
MAX_EVENTS = 64  # a span keeps 128 events and drops the oldest
Attributes = Mapping[str, "AttributeValue"]
Emitter = Callable[["Span", str, Attributes], None]


def report_verdicts(span: Span, attempt: Attempt, response_id: str | None) -> None:
    """Report `gen_ai.evaluation.result` for each verdict, or for the first 64, objections first."""
    verdicts: Sequence[Verdict] = attempt.verdicts
    if len(verdicts) > MAX_EVENTS:
        verdicts = sorted(verdicts, key=lambda v: v.outcome != "fail")[:MAX_EVENTS]
    settings = current()
    if verdicts and (span.is_recording() or settings.events != "span"):
        events = [_evaluation(verdict, response_id, settings) for verdict in verdicts]
        report(span, names.EVALUATION_RESULT, events)


def report(span: Span, name: str, events: Sequence[Attributes]) -> None:
    """Report events where the settings want them; as log events also where the span is not sampled, or none."""
    where = current().events
    emit = None if where == "span" else _emitter()
    adds = span.is_recording() and (emit is None or where == "both")
    for attributes in events:
        if emit is not None:
            with guarded:
                emit(span if span.get_span_context().is_valid else otel_trace.get_current_span(), name, attributes)
        if adds:
            span.add_event(name, attributes)


def _evaluation(verdict: Verdict, response_id: str | None, settings: TelemetrySettings) -> Attributes:
    """Return the attributes of a verdict: its path and rule, never the value."""
    where = f"{verdict.path}: " if verdict.path else ""
    explanation = f"{where}{verdict.code} {verdict.reason}".strip()
    if settings.redact is not None:
        explanation = settings.redacted(explanation)
    event: dict[str, AttributeValue] = {
        names.EVALUATION_NAME: verdict.validator,
        names.EVALUATION_LABEL: label_of(verdict),
        names.EVALUATION_EXPLANATION: explanation[:_MAX_EXPLANATION],
    }
    if verdict.score is not None:
        event[names.EVALUATION_SCORE] = verdict.score
    if response_id is not None:
        event[names.RESPONSE_ID] = response_id
    return event


def label_of(verdict: Verdict) -> str:
    """Return a verdict in one word: pass, fail, error or skipped."""
    if verdict.outcome != "abstain":
        return verdict.outcome
    return "error" if verdict.broken else "skipped"


@lru_cache(maxsize=1)
def _emitter() -> Emitter | None:
    for make in (_by_logger, _by_event_logger):
        try:
            emitter = make()
        except (ImportError, AttributeError, TypeError):
            continue
        if emitter is not None:
            return emitter
    LOG.warning("this version of OpenTelemetry has no log events that are known here; they go to the spans instead")
    return None


def _by_logger() -> Emitter | None:
    api = importlib.import_module("opentelemetry._logs")
    if "event_name" not in inspect.signature(api.Logger.emit).parameters:
        return None
    logger, severity = api.get_logger(_SCOPE), api.SeverityNumber.INFO

    def emitter(span: Span, name: str, attributes: Attributes) -> None:
        where = otel_trace.set_span_in_context(span)
        logger.emit(
            event_name=name, timestamp=time_ns(), context=where, severity_number=severity, attributes=attributes
        )

    return emitter


def _by_event_logger() -> Emitter | None:
    api = importlib.import_module("opentelemetry._events")
    severity = importlib.import_module("opentelemetry._logs").SeverityNumber.INFO
    logger = api.get_event_logger(_SCOPE)

    def emitter(span: Span, name: str, attributes: Attributes) -> None:
        at = span.get_span_context()
        ids = {"trace_id": at.trace_id, "span_id": at.span_id, "trace_flags": at.trace_flags}
        event = api.Event(name, timestamp=time_ns(), severity_number=severity, attributes=dict(attributes), **ids)
        logger.emit(event)

    return emitter
