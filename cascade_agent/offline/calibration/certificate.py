"""A threshold with a guarantee: exact binomial tests along a fixed sequence of thresholds (Learn then Test).

A threshold is returned only if, whatever the scores are worth, the chance that its risk exceeds the target is at most
`1 - confidence`; else the answer is `NoThreshold`, which says how many labels are missing.

Method: Angelopoulos, Bates, Candès, Jordan, Lei, *Learn then Test: Calibrating Predictive Algorithms to Achieve Risk
Control*, 2021 (arXiv:2110.01052), fixed-sequence testing with the binomial p-value `P(Bin(n, max_loss) <= losses)`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.dataset import sha
from cascade_agent.offline.evaluation.metrics import binomial_cdf, upper_bound
from cascade_agent.offline.evaluation.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Sized

Risk = Literal["harm", "selective_error"]
Per = Literal["step", "turn", "episode"]

SELECTIVE_GRID = (1.0, 0.999, 0.998, 0.995, *(1.0 - i / 100 for i in range(1, 101)))
"""Thresholds tested for a selective error, where the grid must not depend on the labels."""

_MAX_LABELS, _POWER = 2**40, 0.8
_FIRST_LOSSES = 2  # that a first test of selective error can bear; one that bears 0 ends at the first bad luck


def labels_needed(max_loss: float, confidence: float = 0.9, *, losses: int = 0) -> int:
    """Labelled units below which no test of `risk > max_loss` can succeed when `losses` of them are losses."""
    _check(max_loss, confidence)

    def shown(n: int) -> bool:
        return binomial_cdf(losses, n, max_loss) <= 1.0 - confidence

    high = losses + 1
    while not shown(high):
        high *= 2
        if high > _MAX_LABELS:
            msg = f"max_loss is {max_loss!r}: no number of labels shows a risk that small"
            raise ConfigurationError(msg)
    return bisect_left(range(high), True, high // 2, key=shown)


def labels_for_power(max_loss: float, confidence: float = 0.9) -> int:
    """Labelled units with which a test succeeds with a chance of 80 % at a true risk of half the target."""
    losses = 0
    while binomial_cdf(losses, n := labels_needed(max_loss, confidence, losses=losses), max_loss / 2) < _POWER:
        losses += 1
    return n


def _check(max_loss: float, confidence: float) -> None:
    for name, value in (("max_loss", max_loss), ("confidence", confidence)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
            msg = f"{name} is {value!r}; expected a number between 0 and 1, such as {0.02 if name[0] == 'm' else 0.9}"
            raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One labelled step.

    `confidence` is what the scorer under test says, None when the step escalates under every threshold. `wrong` says
    whether the small draft was wrong, `harm` whether it was wrong and the large answer right. `episode` groups the
    steps that depend on each other (a thread), `turn` those between two messages of the user. `price` is what large
    costs on it, in any unit.
    """

    episode: str
    step_id: str
    confidence: float | None
    harm: bool
    wrong: bool = False
    kind: str = ""
    turn: str = ""
    price: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found(Plain):
    """The outcome of a test: `losses` of `n` independent units, made of episodes by `per` and `seed`."""

    max_loss: float
    confidence: float
    n: int
    losses: int
    risk: Risk = "harm"
    per: Per = "step"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(_Found):
    """Accepting at `threshold` has a risk of at most `max_loss`, with probability `confidence` over the labels.

    `p_value` is the exact binomial one and `upper` the Clopper-Pearson bound of the risk. `escalated` is the share of
    the steps below the threshold.
    """

    threshold: float
    p_value: float
    upper: float
    escalated: float
    episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoThreshold(_Found):
    """No threshold holds with this much data; false in a condition.

    `reason` is a sentence for people. `missing` is how many more independent labelled units are needed if none of all
    of them is a loss, `missing_for_power` how many more give 80 % power when the true risk is half the target.
    """

    reason: str
    missing: int
    missing_for_power: int
    threshold: None = None

    def __bool__(self) -> bool:
        """Return False: there is none."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim about the risk of accepting drafts.

    Risk `harm` is P(accepted, small wrong and large right) over all steps. Its loss can only grow when the threshold
    falls, so testing every threshold that the scores tell apart costs nothing. Risk `selective_error` is P(small wrong
    | accepted), for tools whose effect cannot be taken back; it is tested on a fixed grid, beginning where enough steps
    are accepted for a test to succeed (by counts alone, which keeps the guarantee as long as steps of lower confidence
    are not more often right).

    Steps of one episode depend on each other, so units are episodes: one `step` of each, drawn by a hash of `seed` and
    the episode; one drawn `turn`, a loss if any of its steps is; or the whole `episode`.

    Raises:
        ConfigurationError: a target that is no probability, or a combination that has no test.
    """

    max_loss: float
    confidence: float = 0.9
    risk: Risk = "harm"
    per: Per = "step"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be tested."""
        _check(self.max_loss, self.confidence)
        if self.risk not in get_args(Risk) or self.per not in get_args(Per):
            msg = (
                f"risk={self.risk!r}, per={self.per!r}; expected risk 'harm' or 'selective_error', "
                "per 'step', 'turn' or 'episode'"
            )
            raise ConfigurationError(msg)
        if self.risk == "selective_error" and self.per != "step":
            msg = f"risk='selective_error' has no test per {self.per}; use per='step'"
            raise ConfigurationError(msg)

    def test(self, units: Iterable[Unit]) -> Certificate | NoThreshold:
        """Return the least threshold for which the claim holds.

        Steps that escalate under every threshold (confidence None) belong to the `units`.
        """
        episodes: dict[str, list[Unit]] = defaultdict(list)
        for unit in units:
            episodes[unit.episode].append(unit)
        every = [unit for steps in episodes.values() for unit in steps]
        found, n, losses = self._walk([self._unit(steps) for steps in episodes.values()], every)
        if found is None:
            return self.none(n=n, losses=losses)
        accepted = sum(u.confidence is not None and u.confidence >= found for u in every)
        return Certificate(
            **asdict(self),
            threshold=found,
            n=n,
            losses=losses,
            p_value=binomial_cdf(losses, n, self.max_loss),
            upper=upper_bound(losses, n, self.confidence),
            escalated=1.0 - accepted / len(every),
            episodes=len(episodes),
        )

    def test_by_kind(self, units: Iterable[Unit]) -> dict[str, Certificate | NoThreshold]:
        """Return one threshold per kind of step that has enough units, and one for the rest together (under `""`).

        All of them hold at once with probability `confidence`: each of the m groups is tested at
        `1 - (1 - confidence) / m` (Bonferroni). A kind has enough when a test without a loss would succeed at that
        level; counts alone decide.
        """
        groups: dict[str, list[Unit]] = defaultdict(list)
        for unit in units:
            groups[unit.kind].append(unit)
        need = labels_needed(self.max_loss, self._shared(groups).confidence)
        merged: dict[str, list[Unit]] = defaultdict(list)
        for kind, members in sorted(groups.items()):
            enough = len({u.episode for u in members}) >= need
            merged[kind if enough else ""] += members
        claim = self._shared(merged)
        return {kind: claim.test(members) for kind, members in sorted(merged.items())}

    def _shared(self, groups: Sized) -> Claim:
        return replace(self, confidence=1.0 - (1.0 - self.confidence) / max(1, len(groups)))

    def none(self, reason: str = "", *, n: int, losses: int) -> NoThreshold:
        """Return that nothing holds, for a reason, and what is missing."""
        need, comfortable = (f(self.max_loss, self.confidence) - n for f in (labels_needed, labels_for_power))
        what = "episodes with a label" if self.risk == "harm" else "accepted episodes with a label"
        claim = f"a risk of at most {self.max_loss:g} at confidence {self.confidence:g}"
        if need > 0:
            found = (
                f"{n} {what}, at least {n + need} without a loss are needed to show {claim}: {need} are missing "
                f"({comfortable} for 80 % power at half the target)"
            )
        elif losses:
            found = (
                f"even among the surest steps {losses} of {n} {what} are losses, too many to show {claim}: the "
                "confidence does not tell the losses apart, or the target is out of reach"
            )
        else:
            found = f"no step can be accepted: each of {n} has a failed check or no confidence"
        missing, power = max(0, need), max(0, comfortable)
        return NoThreshold(
            **asdict(self), reason=reason or found, n=n, losses=losses, missing=missing, missing_for_power=power
        )

    def _unit(self, steps: Sequence[Unit]) -> Unit:
        """Return an episode as the one unit that the claim counts."""

        def draw(some: Iterable[Unit]) -> Unit:
            ordered = sorted(some, key=lambda u: u.step_id)
            return ordered[sha(f"{self.seed}\0{steps[0].episode}") % len(ordered)]

        def turn(unit: Unit) -> str:
            return unit.turn or unit.step_id

        if self.per == "step":
            return draw(steps)
        if self.per == "turn":
            drawn = turn(draw({turn(u): u for u in steps}.values()))
            steps = [u for u in steps if turn(u) == drawn]
        # a loss from the threshold down at which the first of its harms is accepted
        harms = [u for u in steps if u.harm and u.confidence is not None]
        return max(harms, key=lambda u: u.confidence or 0.0) if harms else replace(steps[0], harm=False)

    def _walk(self, sample: Sequence[Unit], every: Sequence[Unit]) -> tuple[float | None, int, int]:
        """Return the least threshold before the first at which the test fails, from the top, with its units and losses.

        None where no test succeeds, with the units and losses of the first one that fails.
        """
        harm, need = self.risk == "harm", 0
        known = sorted((u.confidence, u.harm if harm else u.wrong) for u in sample if u.confidence is not None)
        grid: Iterable[float] = SELECTIVE_GRID
        if harm:
            grid = {u.confidence for u in every if u.confidence is not None}
        else:
            need = labels_needed(self.max_loss, self.confidence, losses=_FIRST_LOSSES)
            need = need if len(known) >= 2 * need else labels_needed(self.max_loss, self.confidence)
        accepted = losses = 0
        found: tuple[float, int, int] | None = None
        for threshold in sorted(grid, reverse=True):
            while known and known[-1][0] >= threshold:
                losses += known.pop()[1]
                accepted += 1
            n = len(sample) if harm else accepted
            if accepted < need:
                continue
            same = found is not None and found[1:] == (n, losses)
            if not same and binomial_cdf(losses, n, self.max_loss) > 1.0 - self.confidence:
                break
            found = threshold, n, losses
        return found or (None, len(sample) if harm else accepted, losses)
