"""Learn where a second model disagrees with small drafts, from steps in which both answered; no label is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cascade_agent.core.scoring import EvidenceShare
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.reader import read
from cascade_agent.offline.calibration.fit import Example, fit
from cascade_agent.offline.evaluation.dataset import DRAFTED, episode_of, split_hash
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import StepTrace, Verdict
    from cascade_agent.journal.format import OnError, PathLike

MIN_ASKED: Final = 50
"""Steps in which both models answered below which nothing is learned; 100 to 300 are what helped on recorded steps."""

_AGREES, _HALF = 0.5, 0.5  # score from which the second model agrees; share of the conversations that are learned from
_STRENGTH = 30.0  # labels that the rules weigh against: they know what is wrong, the fit shall learn what is contested
_LEAST = 0.3  # confidence below which a draft goes to large without asking anybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A draft: what the local validators found, and the second model's score of it; None where it was not asked."""

    verdicts: tuple[Verdict, ...]
    agreement: float | None = None
    episode: str = ""


def learn_disagreement(*paths: PathLike, share: float, seed: int = 0, on_error: OnError = "raise") -> EvidenceShare:
    """Learn from journals on which steps to ask the evidence, for `Policy(evidence=...)`.

    Record some hundred steps with a wide band, `Policy(evidence=(0.0, 1.0))`: what the evidence was never asked about
    is not learned. `share` of the steps are to be asked about, in (0, 1); those with a failed check never are. Half of
    the conversations, by a hash of `seed`, are learned from; `agrees` remembers them, and `calibrate` certifies a
    threshold on the others.

    Raises:
        RecordError: too few steps in which evidence spoke.
        ConfigurationError: a share that is none.
    """
    half = [
        _asked(trace)
        for trace in read(*paths, on_error=on_error)
        if trace.attempts and trace.attempts[0].outcome in DRAFTED and split_hash(seed, episode_of(trace)) < _HALF
    ]
    learned = learn_share(half, share=share, seed=seed)
    provenance: JsonObject = {"kind": "disagreement", "learned": [[seed, _HALF]]}
    return replace(learned, agrees=replace(learned.agrees, provenance=provenance))


def learn_share(steps: Sequence[Asked], *, share: float, seed: int = 0) -> EvidenceShare:
    """Learn where the second model disagrees, and the quantile of that on these steps (see `learn_disagreement`)."""
    if not 0.0 < share < 1.0:
        msg = f"share is {share!r}; expected the share of steps to ask about, between 0 and 1"
        raise ConfigurationError(msg)
    examples = [
        Example(verdicts=s.verdicts, wrong=s.agreement < _AGREES, episode=s.episode or str(i))
        for i, s in enumerate(steps)
        if s.agreement is not None
    ]
    if len(examples) < MIN_ASKED:
        msg = (
            f"evidence spoke in {len(examples)} steps, {MIN_ASKED} are needed to learn where it disagrees (of a "
            "journal half is learned from); record some with Policy(evidence=(0.0, 1.0))"
        )
        raise RecordError(msg)
    agrees, rules = fit(examples, strength=_STRENGTH, seed=seed).scorer, shipped_scorer()
    passed = [s.verdicts for s in steps if all(v.outcome != "fail" for v in s.verdicts)]
    open_ = [verdicts for verdicts in passed if (rules.confidence(verdicts) or 1.0) >= _LEAST]
    ranked = sorted(p for verdicts in open_ if (p := agrees.confidence(verdicts)) is not None)
    if not ranked:
        msg = "no step was left for evidence to decide: each failed a check, or was sure to"
        raise RecordError(msg)
    upto = {p: n for n, p in enumerate(ranked, 1)}  # drafts of which the verdicts are the same go together
    below = min(upto, key=lambda p: (abs(upto[p] - share * len(steps)), p))
    return EvidenceShare(share=share, agrees=agrees, below=below)


def _asked(trace: StepTrace) -> Asked:
    small = trace.attempts[0]
    scores = [v.score for v in small.verdicts if v.validator in small.gathered and v.score is not None]
    local = tuple(v for v in small.verdicts if v.validator not in small.gathered)
    return Asked(verdicts=local, agreement=min(scores, default=None), episode=episode_of(trace))
