"""Verdicts and escalations as OpenTelemetry log events, where the settings ask for them; unsampled steps too.

From 1.38 on a logger takes an event by its name; before, `opentelemetry._events` is the way, and the SDK wants an event
logger provider next to the logger provider (its own configurator sets both). Where neither exists events stay on their
spans, whatever the settings say.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as otel_trace

from cascade_agent import semconv as names
from cascade_agent._log import LOG
from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.events import escalation_event, evaluation_event, reported_verdicts
from cascade_agent.telemetry.settings import current

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from cascade_agent.core.records import Attempt, Decision

_SCOPE = "cascade_agent"
Emitter = Callable[["Span", str, Mapping[str, Any]], None]


def emit_verdicts(span: Span, attempt: Attempt, response_id: str | None) -> None:
    """Emit `gen_ai.evaluation.result` for each verdict, as of the attempt's span."""
    with guarded:
        for verdict in reported_verdicts(attempt):
            _emit(span, names.EVALUATION_RESULT, evaluation_event(verdict, response_id))


def emit_escalation(span: Span, decision: Decision) -> None:
    """Emit `cascade.escalation`, as of the step's span."""
    with guarded:
        if current().events != "span":
            _emit(span, names.ESCALATION, escalation_event(decision))


def on_spans() -> bool:
    """Return whether events stand on spans: not where they are log events alone, as long as these can be made."""
    return current().events != "log" or _emitter() is None


def _emit(span: Span, name: str, attributes: Mapping[str, Any]) -> None:
    emitter = _emitter()
    if emitter is not None:
        emitter(span if span.get_span_context().is_valid else otel_trace.get_current_span(), name, attributes)


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

    def emitter(span: Span, name: str, attributes: Mapping[str, Any]) -> None:
        where = otel_trace.set_span_in_context(span)
        logger.emit(
            event_name=name, timestamp=time_ns(), context=where, severity_number=severity, attributes=attributes
        )

    return emitter


def _by_event_logger() -> Emitter | None:
    api = importlib.import_module("opentelemetry._events")
    severity = importlib.import_module("opentelemetry._logs").SeverityNumber.INFO
    logger = api.get_event_logger(_SCOPE)

    def emitter(span: Span, name: str, attributes: Mapping[str, Any]) -> None:
        at = span.get_span_context()
        ids = {"trace_id": at.trace_id, "span_id": at.span_id, "trace_flags": at.trace_flags}
        event = api.Event(name, timestamp=time_ns(), severity_number=severity, attributes=dict(attributes), **ids)
        logger.emit(event)

    return emitter
