"""What OpenTelemetry and callback handlers are told of a step. The only room that imports opentelemetry, its API alone.

Law 4: telemetry never fails or slows a step. Whatever a provider, processor or handler raises is logged once and
counted. `configure` says what is told, `invoke_workflow` makes a root span for one run of a graph.
"""

from __future__ import annotations

from cascade_agent.telemetry.handlers import shown
from cascade_agent.telemetry.runs import Asking, asking, validating
from cascade_agent.telemetry.settings import TelemetrySettings, configure
from cascade_agent.telemetry.spans import (
    AttemptScope,
    Scope,
    StepRun,
    StepScope,
    drop_attempt,
    end_attempt,
    end_step,
    escalation,
    start_attempt,
    start_step,
    using,
)
from cascade_agent.telemetry.workflow import invoke_workflow

__all__ = [
    "Asking",
    "AttemptScope",
    "Scope",
    "StepRun",
    "StepScope",
    "TelemetrySettings",
    "asking",
    "configure",
    "drop_attempt",
    "end_attempt",
    "end_step",
    "escalation",
    "invoke_workflow",
    "shown",
    "start_attempt",
    "start_step",
    "using",
    "validating",
]
