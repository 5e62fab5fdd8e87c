"""What OpenTelemetry and callback handlers are told of a step. The only room that imports opentelemetry, its API alone.

Law 4: telemetry never fails or slows a step. Whatever a provider, processor or handler raises is logged once and
counted. `configure` says what is told, `invoke_workflow` makes a root span for one run of a graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_agent.telemetry import logs, metrics, spans
from cascade_agent.telemetry.callbacks import Asking, asking, validating
from cascade_agent.telemetry.instrumentations import shown
from cascade_agent.telemetry.metrics import count_losses, spent, validated
from cascade_agent.telemetry.settings import TelemetrySettings, configure
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
    "Asking",
    "AttemptScope",
    "Scope",
    "StepRun",
    "StepScope",
    "TelemetrySettings",
    "asking",
    "configure",
    "count_losses",
    "drop_attempt",
    "end_attempt",
    "end_step",
    "escalation",
    "invoke_workflow",
    "shown",
    "spent",
    "start_attempt",
    "start_step",
    "using",
    "validated",
    "validating",
]


def end_attempt(scope: AttemptScope, attempt: Attempt) -> None:
    """Tell an attempt's verdicts and close its span and its run."""
    logs.tell_attempt(scope, attempt)
    spans.end_attempt(scope, attempt)


def escalation(scope: StepScope, decision: Decision) -> None:
    """Tell that small handed over to large, and why."""
    logs.tell_escalation(scope, decision)
    spans.escalation(scope, decision)


def end_step(scope: StepScope, trace: StepTrace) -> None:
    """Count a step in the metrics and close its span."""
    metrics.record(scope.span, trace)
    spans.end_step(scope, trace)
