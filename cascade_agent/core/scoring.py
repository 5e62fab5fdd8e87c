"""From verdicts to P(this draft is right): one linear rule in logits, with hand-set numbers or fitted ones.

The confidence is finite, the same for the same verdicts in any order, and never falls when a score rises; it reads
codes and scores alone, never a text, a user or a model's name.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from cascade_agent.core.clean_json import Json, JsonMapping, JsonObject, clean
from cascade_agent.core.records import SCHEMA, readable
from cascade_agent.errors import ConfigurationError, RecordError

if TYPE_CHECKING:
    from cascade_agent.core.records import Verdict

HARD_FAIL: Final = "hard_fail"
"""The code under which every hard fail of a shipped validator is weighed."""


class Weight(NamedTuple):
    """Weight of a validator's code: logits per unit of score, the reason, and the score that says nothing."""

    logit: float
    reason: str
    neutral: float = 1.0


_HARD: Final = Weight(8.0, "cannot be executed or stored: no other sign outweighs it")
_BIAS: Final = 3.5
"""Logit of a draft nobody objects to: 97 % right, as about 97 of 100 recorded answers without a sign were."""

LOOP: Final = "turn_progress"
"""The code that speaks in a loop, and only there: a later user turn, a turn in which calls were made."""

_LIMIT: Final = 60.0
_MAX: Final = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """Logits by which one code moved the confidence: `weight * (score - mean)`."""

    code: str
    weight: float
    score: float
    logit: float

    def to_json(self) -> JsonObject:
        """Return plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """`logit P(right) = bias + sum of weight * (score - mean)` over the codes that spoke, then a table of knots.

    The least score of a code counts when it spoke several times. A code that did not speak moves nothing: its mean is
    the score that says nothing, 1 where none is given. The shipped rules and a fitted scorer are this same value.

    Verdicts whose code is not in `weights` come from the user's validators and are taken at their word: the least of
    their scores (1 for a plain pass, 0 for a plain fail, an abstain says nothing) is an upper bound of the confidence.

    Attributes:
        weights: Code -> logits per unit of score, finite and not negative.
        bias: Logit of a draft on which all codes are silent.
        means: Code -> score in [0, 1] that says nothing; 1 for codes that are not here.
        knots: Points (p, calibrated p), both ascending, read with straight lines between them; empty: p stays.
        in_loops: Code -> its weight where the code `turn_progress` spoke, for those that weigh otherwise in loops.
        provenance: Where the numbers come from (data hash, date, n ...), plain JSON.

    Raises:
        ConfigurationError: a number that breaks monotony or finiteness.
    """

    weights: Mapping[str, float] = field(hash=False)
    bias: float
    means: Mapping[str, float] = field(default_factory=dict, hash=False)
    knots: tuple[tuple[float, float], ...] = ()
    in_loops: Mapping[str, float] = field(default_factory=dict, hash=False)
    provenance: Mapping[str, Json] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse numbers that would break monotony or finiteness."""
        weights, means = [*self.weights.items(), *self.in_loops.items()], self.means.items()
        for name, value, low, high, expected in (
            *((f"weights[{code!r}]", weight, 0.0, _MAX, "finite number >= 0") for code, weight in weights),
            ("bias", self.bias, -_MAX, _MAX, "finite number"),
            *((f"means[{code!r}]", mean, 0.0, 1.0, "number in [0, 1]") for code, mean in means),
        ):
            if not is_number(value, low, high):
                msg = f"Scorer.{name} is {value!r}; expected a {expected}"
                raise ConfigurationError(msg)
        shares = all(is_number(v, high=1.0) for knot in self.knots for v in knot)
        if not shares or any(b[0] <= a[0] or b[1] < a[1] for a, b in pairwise(self.knots)):
            msg = "Scorer.knots must be pairs in [0, 1] with rising first and not falling second numbers"
            raise ConfigurationError(msg)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Weight], *, in_loops: Mapping[str, float] | None = None) -> Self:
        """Build the scorer of hand-set weights, nothing fitted; hard fails are weighed too.

        `in_loops` gives for some codes the share of their weight that is left in loops.
        """
        weights = {HARD_FAIL: _HARD, **weights}
        return cls(
            weights={code: weight.logit for code, weight in weights.items()},
            bias=_BIAS,
            means={code: weight.neutral for code, weight in weights.items() if weight.neutral != 1.0},
            in_loops={code: weights[code].logit * share for code, share in (in_loops or {}).items() if code in weights},
            provenance={"kind": "rules"},
        )

    def confidence(self, verdicts: Iterable[Verdict]) -> float | None:
        """Return P(the draft is right), in [0, 1]; None when no verdict says anything about it."""
        scores, user = self._read(verdicts)
        if not scores:
            return user
        if HARD_FAIL in scores and HARD_FAIL not in self.weights:
            return 0.0
        logit, weights = self.bias, self._weights(scores)
        for code in sorted(scores):  # one order, so that the sum is the same to the last bit
            logit += weights[code] * (scores[code] - self.means.get(code, 1.0))
        p = self._calibrated(1.0 / (1.0 + math.exp(-max(-_LIMIT, min(_LIMIT, logit)))))
        return p if user is None else min(p, user)

    def read(self, verdicts: Iterable[Verdict]) -> dict[str, float]:
        """The features: each code of `weights` that spoke, with the score in [0, 1] that counts (its least one).

        A hard fail counts as 0, under its own code where that is weighed, else as `HARD_FAIL` if a shipped validator
        found it. The user's own verdicts are no features: they bound the confidence from above. Nothing else of a
        verdict is looked at, and nothing of the step.
        """
        return self._read(verdicts)[0]

    def explain(self, verdicts: Iterable[Verdict]) -> list[Contribution]:
        """Return what each code added to `bias`, the greatest loss first; codes that moved nothing are left out.

        The sum of `bias` and all `logit` is the logit of the confidence before `knots`, and before the bound that the
        user's own verdicts set. Each row goes to plain JSON by `to_json`.
        """
        scores, _ = self._read(verdicts)
        weights, means = self._weights(scores), self.means
        rows = [
            Contribution(code=c, weight=weights[c], score=s, logit=weights[c] * (s - means.get(c, 1.0)))
            for c, s in scores.items()
            if c in weights
        ]
        return sorted((r for r in rows if r.logit), key=lambda r: (r.logit, r.code))

    def _weights(self, scores: Mapping[str, float]) -> Mapping[str, float]:
        """Return the weights that hold for these features: those of a loop, or of a single step."""
        return {**self.weights, **self.in_loops} if self.in_loops and LOOP in scores else self.weights

    def _read(self, verdicts: Iterable[Verdict]) -> tuple[dict[str, float], float | None]:
        """Least score of each known code, and the least of the user's own; None where there is none."""
        scores: dict[str, float] = {}
        user: float | None = None
        weights = self.weights
        for verdict in verdicts:
            code, score = verdict.code, verdict.score
            if code in weights and score is not None:
                scores[code] = min(score, scores.get(code, 1.0))
            elif verdict.outcome == "abstain":
                continue
            elif code in weights or verdict.origin == "shipped":
                if not verdict.hard:
                    continue  # a pass, or a graded code that this scorer was fitted without
                if code not in weights:
                    code = HARD_FAIL
                scores[code] = 0.0
            else:
                claim = score if score is not None else float(verdict.outcome == "pass")
                user = claim if user is None else min(user, claim)
        return scores, user

    def _calibrated(self, p: float) -> float:
        knots = self.knots
        if not knots:
            return p
        place = bisect_right(knots, p, key=lambda k: k[0])
        if place == 0:
            return knots[0][1]
        if place == len(knots):
            return knots[-1][1]
        (x0, y0), (x1, y1) = knots[place - 1], knots[place]
        return min(y1, max(y0, y0 + (y1 - y0) * (p - x0) / (x1 - x0)))

    def to_json(self) -> JsonObject:
        """Return plain JSON."""
        return {
            "schema": SCHEMA,
            "bias": self.bias,
            "weights": dict(self.weights),
            "means": dict(self.means),
            "knots": [list(k) for k in self.knots],
            "in_loops": dict(self.in_loops),
            "provenance": clean(self.provenance),
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RecordError: not a scorer, impossible numbers, or written by a newer version.
        """
        found = readable("Scorer", data)
        try:
            mappings = {name: dict(_mapping(found, name)) for name in ("weights", "means", "in_loops", "provenance")}
            return cls(**mappings, bias=found["bias"], knots=tuple((x, y) for x, y in found.get("knots", ())))
        except (KeyError, TypeError, ValueError) as error:
            msg = f"not a Scorer: {error!r}"
            raise RecordError(msg) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceShare:
    """Evidence for a share of the steps: those in which the second model most likely disagrees with the draft.

    Learned without labels, from steps where both answered (`learn_disagreement`). How sure the policy's scorer is does
    not move the share: a band asks less the sharper a fit is (36 % instead of half on recorded steps), and loses by it.

    Attributes:
        share: Share of the steps that are to be asked about, in (0, 1).
        agrees: Verdicts -> P(the second model agrees).
        below: P(agrees) up to which it is asked; the quantile of `share` on the steps that this was learned from.

    Raises:
        ConfigurationError: a number out of its range.
    """

    share: float
    agrees: Scorer
    below: float

    def __post_init__(self) -> None:
        """Refuse numbers that are no shares."""
        if not isinstance(self.agrees, Scorer):
            msg = f"EvidenceShare.agrees is a {type(self.agrees).__name__}; expected a Scorer"
            raise ConfigurationError(msg)
        for name, value in (("share", self.share), ("below", self.below)):
            if not is_number(value, high=1.0) or not value:
                msg = f"EvidenceShare.{name} is {value!r}; expected a number in (0, 1]"
                raise ConfigurationError(msg)

    def asks(self, verdicts: Iterable[Verdict]) -> bool:
        """Return whether these verdicts of local validators are among the share that is asked about."""
        agrees = self.agrees.confidence(verdicts)
        return agrees is None or agrees <= self.below

    def to_json(self) -> JsonObject:
        """Return plain JSON."""
        return {"share": self.share, "below": self.below, "agrees": self.agrees.to_json()}

    @classmethod
    def from_json(cls, data: JsonMapping) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RecordError: not a share with its scorer.
        """
        try:
            return cls(share=data["share"], below=data["below"], agrees=Scorer.from_json(data["agrees"]))
        except (ConfigurationError, KeyError, TypeError) as error:
            msg = f"not an EvidenceShare: {error!r}; expected share, below and agrees, as learn_disagreement() gives"
            raise RecordError(msg) from error


def _mapping(data: JsonMapping, key: str) -> JsonMapping:
    value = data.get(key, {})
    if not isinstance(value, Mapping):
        msg = f"{key} is a {type(value).__name__}; expected an object"
        raise TypeError(msg)
    return value


def is_number(value: object, low: float = 0.0, high: float = _MAX) -> bool:
    """Return whether a value is a finite number from `low` to `high`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
