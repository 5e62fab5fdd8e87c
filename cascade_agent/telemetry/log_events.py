"""Emitting a log event by the OpenTelemetry API alone, in whichever form the installed version has it.

From 1.38 on a logger takes an event by its name; before, `opentelemetry._events` is the way, and the SDK wants an event
logger provider beside the logger provider (its own configurator sets both). Where neither exists nothing is emitted,
and events stay on their spans whatever the settings say.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as otel_trace

from cascade_agent._log import LOG

if TYPE_CHECKING:
    from opentelemetry.trace import Span


_SCOPE = "cascade_agent"
Emitter = Callable[["Span", str, Mapping[str, Any]], None]


def emit(span: Span, name: str, attributes: Mapping[str, Any]) -> None:
    """Emit an event that belongs to a span, or to the current one where that belongs to no trace."""
    emitter = _emitter()
    if emitter is not None:
        emitter(span if span.get_span_context().is_valid else otel_trace.get_current_span(), name, attributes)


def possible() -> bool:
    """Whether this version of OpenTelemetry has a way to emit events."""
    return _emitter() is not None


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
        logger.emit(
            event_name=name,
            timestamp=time_ns(),
            context=otel_trace.set_span_in_context(span),
            severity_number=severity,
            attributes=attributes,
        )

    return emitter


def _by_event_logger() -> Emitter | None:
    api = importlib.import_module("opentelemetry._events")
    severity = importlib.import_module("opentelemetry._logs").SeverityNumber.INFO
    logger = api.get_event_logger(_SCOPE)

    def emitter(span: Span, name: str, attributes: Mapping[str, Any]) -> None:
        where = span.get_span_context()
        logger.emit(
            api.Event(
                name,
                timestamp=time_ns(),
                trace_id=where.trace_id,
                span_id=where.span_id,
                trace_flags=where.trace_flags,
                severity_number=severity,
                attributes=dict(attributes),
            )
        )

    return emitter
