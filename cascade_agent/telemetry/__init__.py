"""Spans, events and metrics of a step for OpenTelemetry and callback handlers; only here is opentelemetry imported.

Telemetry never fails or slows a step: whatever a provider, processor or handler raises is logged once and counted.
`configure` sets what is written, `invoke_workflow` makes a root span for one run of a graph. Of OpenTelemetry only the
API is needed; the application brings the SDK.
"""

from cascade_agent.telemetry.callbacks import EvidenceCall, ModelCall
from cascade_agent.telemetry.instrumentations import visible_to
from cascade_agent.telemetry.metrics import count_losses, record_cost, record_validation
from cascade_agent.telemetry.settings import TelemetrySettings, configure
from cascade_agent.telemetry.spans import (
    AttemptScope,
    Scope,
    StepRun,
    StepScope,
    drop_attempt,
    end_attempt,
    end_step,
    invoke_workflow,
    record_escalation,
    start_attempt,
    start_step,
    using,
)

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
