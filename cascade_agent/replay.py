"""The third driver of `decide()`: a recorded step under another policy, without asking any model.

What was not recorded is not invented: a policy that would have asked a tier or evidence that the record lacks gives a
step whose end and cost are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cascade_agent.policy import decide
from cascade_agent.records import Situation

if TYPE_CHECKING:
    from cascade_agent.policy import Policy
    from cascade_agent.records import Attempt, Decision, StepTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a policy would have done with a recorded step.

    `final_tier` is who would have answered, None when nobody would have or when the record cannot tell (`known` is
    False then). `cost` is in the record's currency; None when a part of it is unknown.
    """

    decisions: tuple[Decision, ...]
    known: bool
    escalated: bool
    final_tier: str | None
    cost: float | None


def replay(trace: StepTrace, policy: Policy) -> Replayed:
    """Decide a recorded step anew."""
    done: list[Attempt] = []
    costs: list[float | None] = []
    decisions: list[Decision] = []
    small = trace.attempts[0]
    drafted = small.outcome not in ("skipped", "pending")
    attempt = replace(small, outcome="pending", verdicts=() if drafted else small.verdicts, gathered=())
    evidence = {spend.name: spend for spend in trace.evidence}
    known = True
    larges = iter([a for a in trace.attempts if a.tier == "large"])
    situations = trace.situations or (Situation(),)
    while True:
        situation = situations[min(len(decisions), len(situations) - 1)]
        if policy.thresholds:
            situation = replace(situation, kind=trace.kind)
        decision = decide(policy, (*done, attempt), evidence=trace.askable, situation=situation)
        decisions.append(decision)
        if decision.action == "gather":
            if decision.evidence is None:
                if not drafted:
                    known = False
                    break
                attempt = _rescored(policy, small, ())
                costs.append(small.cost)
            elif decision.evidence not in evidence:
                known = False
                break
            else:
                attempt = _rescored(policy, small, (*attempt.gathered, decision.evidence))
                costs.append(evidence[decision.evidence].cost)
        elif decision.action == "escalate":
            done.append(attempt)
            large = next(larges, None)
            if large is None:
                known = False
                break
            attempt = _rescored(policy, large, large.gathered)
            costs.append(large.cost)
        else:
            break
    final = decision.attempt if decision.action in ("accept", "exhausted") else None
    if decision.action == "exhausted" and policy.on_exhausted != "return":
        final = None
    return Replayed(
        decisions=tuple(decisions),
        known=known,
        escalated=bool(done),
        final_tier=None if final is None else (*done, attempt)[final].tier,
        cost=sum(c for c in costs if c is not None) if known and None not in costs else None,
    )


def _rescored(policy: Policy, attempt: Attempt, gathered: tuple[str, ...]) -> Attempt:
    """The recorded attempt as this policy would see it: its own scorer, and only the evidence it asked for."""
    unasked = {name for name in attempt.gathered if name not in gathered}
    verdicts = tuple(v for v in attempt.verdicts if v.validator not in unasked)
    outcome = "rejected" if attempt.outcome == "accepted" else attempt.outcome
    confidence = policy.scorer.confidence(verdicts) if attempt.error is None else None
    return replace(attempt, outcome=outcome, verdicts=verdicts, gathered=gathered, confidence=confidence)
