"""What OpenTelemetry is told of a step, by its API alone. The only room that imports opentelemetry.

Law 4: telemetry never fails or slows a step. Whatever a provider or processor raises is logged once and counted.
"""

from __future__ import annotations

from cascade_agent.telemetry.spans import end_attempt, end_step, escalation, start_attempt, start_step, using

__all__ = ["end_attempt", "end_step", "escalation", "start_attempt", "start_step", "using"]
