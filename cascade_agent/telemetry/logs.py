"""Verdicts and escalations as log events, where the settings ask for them; with spans turned off and unsampled too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_agent import semconv as names
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import log_events as log_api
from cascade_agent.telemetry.settings import current
from cascade_agent.telemetry.spans import escalation_event, evaluation_event, told_verdicts

if TYPE_CHECKING:
    from cascade_agent.core.records import Attempt, Decision
    from cascade_agent.telemetry.spans import AttemptScope, StepScope


def tell_attempt(scope: AttemptScope, attempt: Attempt) -> None:
    """Emit `gen_ai.evaluation.result` for each verdict, as of the attempt's span."""
    try:
        if attempt.verdicts and current().events != "span":
            for verdict in told_verdicts(attempt):
                event = evaluation_event(verdict, scope.response_id)
                log_api.emit(scope.current, names.EVALUATION_RESULT, event)
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)


def tell_escalation(scope: StepScope, decision: Decision) -> None:
    """Emit `cascade.escalation`, as of the step's span."""
    try:
        if current().events != "span":
            log_api.emit(scope.current, names.ESCALATION, escalation_event(decision))
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
