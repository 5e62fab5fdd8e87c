"""Labelled steps as what is learned from and what is tested: a fair sample, the confidence of each, units, examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade_agent.core.decide import decide
from cascade_agent.offline.calibration.certificate import Unit
from cascade_agent.offline.calibration.fit import Example
from cascade_agent.offline.evaluation.dataset import LOOKING, unit_hash
from cascade_agent.offline.evaluation.replay import accept_all, rescored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.offline.evaluation.dataset import Dataset, LabelledStep
    from cascade_agent.offline.evaluation.estimates import Basis

_MAX_WEIGHT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The steps whose labels may stand for all steps, and how they came to be drawn.

    `basis` is `all_escalated` (small answered no step: every label counts), `propensity` (accepted steps were shadowed
    with a known probability, the other steps are thinned to the least of them, `rate`), `share` (accepted steps were
    labelled by people or an evaluator; **assumed** not to be chosen by their outcome or their confidence) or `none`
    (accepted steps have no such label, so nothing is known of them). `unclear` counts drawn steps whose label is
    unknown; they are left out.
    """

    steps: tuple[LabelledStep, ...]
    basis: Basis
    rate: float
    unclear: int


def draw(dataset: Dataset, policy: Policy, *, seed: int = 0) -> Sample:
    """Return a sample in which every step of the journal had the same chance to be, and whose losses are known.

    Labels come unevenly: an escalated step labels itself, an accepted one only when it was shadowed, or when somebody
    looked. Escalated steps alone say nothing about accepted ones. So all are thinned, by a hash of `seed` and the id,
    to the rate at which accepted steps have labels. A step that no threshold accepts needs no label: it does no harm.
    """
    accepted = [step for step in dataset.steps if step.answered]
    shadowed = [step for step in accepted if step.outcome.propensity is not None]
    looked_at = [step for step in accepted if step.outcome.source in LOOKING]
    basis: Basis
    if not dataset.answered:
        basis, rate, kept = "all_escalated", 1.0, []
    elif looked_at and len(looked_at) >= len(shadowed):
        basis, rate, kept = "share", len(looked_at) / dataset.answered, looked_at
    elif shadowed:
        rate = min(step.outcome.propensity or 1.0 for step in shadowed)
        chosen = [step for step in accepted if step.outcome.propensity is not None or _tool_failed(step)]
        basis, kept = "propensity", [step for step in chosen if _coin(step, seed) < rate / _chance(step)]
    else:
        return Sample(steps=(), basis="none", rate=0.0, unclear=0)
    drawn = [step for step in dataset.steps if not step.answered and _coin(step, seed) < rate]
    known = [step for step in drawn if step.labelled or replayed_confidence(step, policy) is None]
    steps = sorted([*kept, *known], key=lambda step: step.id)
    return Sample(steps=tuple(steps), basis=basis, rate=rate, unclear=len(drawn) - len(known))


def _chance(step: LabelledStep) -> float:
    """Return with which probability an accepted step came to be labelled: a tool's error is always seen."""
    return 1.0 if step.outcome.propensity is None or _tool_failed(step) else step.outcome.propensity


def _tool_failed(step: LabelledStep) -> bool:
    return any(label.source == "tool_error" for label in step.labels)


def _coin(step: LabelledStep, seed: int) -> float:
    return unit_hash(f"draw\0{seed}\0{step.id}")


def replayed_confidence(step: LabelledStep, policy: Policy) -> float | None:
    """Return the confidence with which the policy would decide a step; None when every threshold escalates it."""
    if not step.drafted:
        return None
    policy, attempt = accept_all(policy), rescored(policy, step.small, ())
    while True:
        move = decide(policy, (attempt,), evidence=step.small.gathered)
        if move.action != "ask_evidence" or move.evidence is None:
            return attempt.confidence if move.action == "accept" else None
        attempt = rescored(policy, step.small, (*attempt.gathered, move.evidence))


def to_units(steps: Sequence[LabelledStep], policy: Policy) -> list[Unit]:
    """Return labelled steps as units of a certificate for this policy's scorer."""
    costs = [next((a.cost for a in s.trace.attempts if a.tier == "large" and a.cost is not None), None) for s in steps]
    known = [cost for cost in costs if cost]
    mean = math.fsum(known) / len(known) if known else 1.0
    return [
        Unit(
            episode=step.episode,
            step_id=step.id,
            confidence=replayed_confidence(step, policy),
            harm=step.loss,
            wrong=step.outcome.right is False,
            kind=step.trace.kind,
            turn=step.trace.run_id or "",
            price=cost or mean,
        )
        for step, cost in zip(steps, costs, strict=True)
    ]


def examples_of(steps: Sequence[LabelledStep], sample: Sample) -> list[Example]:
    """Return labelled drafts to fit on, each weighed by one over the chance of its label, at most 10."""

    def chance(step: LabelledStep) -> float:
        looked_at = sample.basis == "share" and step.answered and step.outcome.source in LOOKING
        return sample.rate if looked_at else _chance(step)

    return [
        Example(
            verdicts=step.small.verdicts,
            wrong=not step.outcome.right,
            gain=step.loss,
            episode=step.episode,
            weight=min(_MAX_WEIGHT, 1.0 / chance(step)),
        )
        for step in steps
        if step.outcome.right is not None and step.drafted
    ]
