"""Spans, events and metrics of a step for OpenTelemetry and callback handlers; only here is opentelemetry imported.

Telemetry never fails or slows a step: whatever a provider, processor or handler raises is logged once and counted.
`configure` sets what is written, `invoke_workflow` makes a root span for one run of a graph. Of OpenTelemetry only the
API is needed; the application brings the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_agent.telemetry import log_events, metrics, spans
from cascade_agent.telemetry.callbacks import EvidenceCall, ModelCall
from cascade_agent.telemetry.instrumentations import visible_to
from cascade_agent.telemetry.metrics import count_losses, record_cost, record_validation
from cascade_agent.telemetry.settings import TelemetrySettings, configure, current
from cascade_agent.telemetry.spans import (
    AttemptScope,
    Scope,
    StepRun,
    StepScope,
    drop_attempt,
    start_attempt,
    start_step,
    using,
)
from cascade_agent.telemetry.workflow import invoke_workflow

if TYPE_CHECKING:
    from cascade_agent.core.records import Attempt, Decision, StepTrace

__all__ = [
    "AttemptScope",
    "EvidenceCall",
    "ModelCall",
    "Scope",
    "StepRun",
    "StepScope",
    "TelemetrySettings",
    "configure",
    "count_losses",
    "drop_attempt",
    "end_attempt",
    "end_step",
    "invoke_workflow",
    "record_cost",
    "record_escalation",
    "record_validation",
    "start_attempt",
    "start_step",
    "using",
    "visible_to",
]


def end_attempt(scope: AttemptScope, attempt: Attempt) -> None:
    """Report an attempt's verdicts and close its span and its run."""
    if attempt.verdicts and current().events != "span":
        log_events.emit_verdicts(scope.current, attempt, scope.response_id)
    spans.end_attempt(scope, attempt)


def record_escalation(scope: StepScope, decision: Decision) -> None:
    """Report that small handed over to large, and why."""
    log_events.emit_escalation(scope.current, decision)
    spans.record_escalation(scope, decision)


def end_step(scope: StepScope, trace: StepTrace) -> None:
    """Count a step in the metrics and close its span."""
    metrics.record(scope.span, trace)
    spans.end_step(scope, trace)
