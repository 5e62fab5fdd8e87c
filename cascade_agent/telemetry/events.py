"""The events of a step, wherever they go: one per verdict, and one for the hand-over from small to large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade_agent import semconv as names
from cascade_agent.telemetry.settings import current

if TYPE_CHECKING:
    from cascade_agent.core.records import Attempt, Decision, Verdict

Attributes = dict[str, Any]
_LABELS = {"pass": "pass", "fail": "fail", "abstain": "skipped"}
_MAX_EXPLANATION = 512
_MAX_EVENTS = 64  # a span keeps 128 events and drops the oldest


def escalation_event(decision: Decision) -> Attributes:
    """Return the attributes of `cascade.escalation`."""
    return {names.TIER_FROM: "small", names.TIER_TO: "large", names.ESCALATION_REASON: decision.reason}


def evaluation_event(verdict: Verdict, response_id: str | None = None) -> Attributes:
    """Return the attributes of `gen_ai.evaluation.result` for a verdict: its path and rule, never the value."""
    where = f"{verdict.path}: " if verdict.path else ""
    explanation = current().redacted(f"{where}{verdict.code} {verdict.reason}".strip())
    event: Attributes = {
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
    return "error" if verdict.broken else _LABELS[verdict.outcome]


def reported_verdicts(attempt: Attempt) -> tuple[Verdict, ...]:
    """Return the verdicts that become events: all of them, or the first 64, objections first."""
    if len(attempt.verdicts) <= _MAX_EVENTS:
        return attempt.verdicts
    return tuple(sorted(attempt.verdicts, key=lambda v: v.outcome != "fail")[:_MAX_EVENTS])


def run_outputs(attempt: Attempt) -> dict[str, Any]:
    """Return the outputs of an attempt's LangChain run: the decision, not the draft."""
    objections = [{"validator": v.validator, "code": v.code} for v in attempt.verdicts if v.outcome == "fail"]
    return {"outcome": attempt.outcome, "confidence": attempt.confidence, "objections": objections[:_MAX_EVENTS]}
