"""A scorer from labels: logistic regression on verdict scores, drawn towards the shipped rules, plain Python.

The same fit, on steps in which both answered, says where a second model disagrees with small drafts; that needs no
label.

The same examples give the same scorer to the last bit, and nothing but verdict codes and scores is looked at.

The fit is the most probable one under a Gaussian prior whose centre is the rules and whose width is chosen on episodes
left out (grouped cross-validation); with few labels the prior wins, with many the data. Weights stay >= 0, which
`Scorer` demands and a plain logistic regression does not give; scikit-learn is a cross-check of the tests.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import groupby
from operator import mul
from typing import TYPE_CHECKING, Final, Literal

from cascade_agent.core.scoring import LOOP, EvidenceShare, Scorer
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.reader import read
from cascade_agent.offline.evaluation.dataset import DRAFTED, episode_of, sha, split_hash
from cascade_agent.offline.evaluation.metrics import auroc_within, calibration_error
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import StepTrace, Verdict
    from cascade_agent.journal.format import OnError, PathLike

Target = Literal["error", "gain"]
Knots = tuple[tuple[float, float], ...]
Sparse = list[tuple[int, float]]
Matrix = list[list[float]]

STRENGTHS: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Strengths of the prior that cross-validation chooses from: how many labels it weighs against, about."""

FEW: Final = 20  # labels of the rarer kind below which cross-validation is a coin toss
FEW_STRENGTH: Final = 300.0
ENOUGH_FOR_KNOTS: Final = 1000  # below, an isotonic table overfits (Niculescu-Mizil & Caruana, ICML 2005)
MIN_SEEN: Final = 30  # labelled steps in which a code must have spoken, unless the rules weigh it already
NEW_WEIGHT: Final = 2.0  # where the prior puts the weight of a new code: among the rules' middling ones

MIN_ASKED: Final = 50
"""Steps in which both models answered below which nothing is learned; 100 to 300 are what helped on recorded steps."""

_FOLDS = 5
_SPREAD = 0.05  # least standard deviation of a feature; a code that hardly ever varies keeps the rules' weight
_BIAS_WIDTH, _SCALE_WIDTH = 3.0, 0.5
_LIMIT = 60.0
_NEWTON_STEPS, _ENOUGH, _LEAST_STEP = 60, 1e-9, 1e-6
_SWEEPS, _STILL = 300, 1e-9  # of a standard error: coordinate descent has arrived
_AGREES, _HALF = 0.5, 0.5  # score from which the second model agrees; share of the conversations that are learned from
_STRENGTH = 30.0  # labels that the rules weigh against: they know what is wrong, the fit shall learn what is contested
_LEAST = 0.3  # confidence below which a draft goes to large without asking anybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One labelled draft; `gain`: it was wrong and large right (None: nobody knows; it counts as wrong alone does).

    `weight` is one over the probability with which the label was had.
    """

    verdicts: tuple[Verdict, ...]
    wrong: bool
    gain: bool | None = None
    episode: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted scorer and what it did on episodes that it had not seen.

    `held_out` has one confidence per example, in order, `folds` the part in which each was left out. `auroc` (pairs
    inside of a fold) and `error` (calibration) are of `held_out` against the target.
    """

    scorer: Scorer
    target: Target
    strength: float
    n: int
    held_out: tuple[float, ...]
    folds: tuple[int, ...]
    auroc: float | None
    error: float | None


def fit(
    examples: Sequence[Example],
    *,
    target: Target = "error",
    prior: Scorer | None = None,
    strength: float | None = None,
    seed: int = 0,
) -> Fit:
    """Fit a scorer on labelled drafts.

    With `target="error"` the confidence is P(draft right); with `"gain"` it is P(escalating gains nothing), which is
    what a harm-bounded threshold asks for: half of the errors of a small model are errors of its large one too. `prior`
    is what the fit is drawn to (None: the shipped rules), with a `strength` > 0 (None chooses it). `seed` is of the
    folds.

    Raises:
        ConfigurationError: no examples, or an impossible setting.
    """
    if not examples:
        msg = "fit() was given no examples; label some steps first"
        raise ConfigurationError(msg)
    if target not in ("error", "gain") or (strength is not None and not 0.0 < strength < math.inf):
        msg = f"target={target!r}, strength={strength!r}; expected 'error' or 'gain', and None or a number > 0"
        raise ConfigurationError(msg)
    right = [not (e.wrong if target == "error" or e.gain is None else e.gain) for e in examples]
    model = _Model(examples, right, shipped_scorer() if prior is None else prior)
    folds = [sha(f"{seed}\0{e.episode}") % _FOLDS for e in examples]
    if strength is None:
        strength = model.choose(folds) if min(sum(right), len(right) - sum(right)) >= FEW else FEW_STRENGTH
    theta = model.solve(range(len(right)), strength)
    held, knots = model.held_out(folds, strength, theta), Knots()
    if len(examples) >= ENOUGH_FOR_KNOTS:
        knots = isotonic(held, right, weights=model.weights)
        held = _held_out_knots(held, right, model.weights, folds)
    return Fit(
        scorer=model.scorer(theta, strength, knots),
        target=target,
        strength=strength,
        n=len(examples),
        held_out=tuple(held),
        folds=tuple(folds),
        auroc=auroc_within(held, right, folds),
        error=calibration_error(held, right),
    )


def read_codes(verdicts: Iterable[Verdict], reader: Scorer) -> dict[str, float]:
    """Return what a scorer reads of the codes that it weighs; a hard fail that it does not weigh is no feature."""
    return {code: score for code, score in reader.read(verdicts).items() if code in reader.weights}


def _new_codes(examples: Iterable[Example], prior: Scorer) -> dict[str, float]:
    """Return graded codes (a pass or abstain with a score) that the prior does not weigh and that spoke often enough.

    Each with the mean of its scores, which is what its silence will stand for.
    """
    spoken: dict[str, list[float]] = defaultdict(list)
    for example in examples:
        spoke: dict[str, float] = {}
        for verdict in example.verdicts:
            code, score = verdict.code, verdict.score
            if code and score is not None and verdict.outcome != "fail" and code not in prior.weights:
                spoke[code] = min(score, spoke.get(code, 1.0))
        for code, score in spoke.items():
            spoken[code].append(score)
    return {c: math.fsum(v) / len(v) for c, v in sorted(spoken.items()) if len(v) >= MIN_SEEN}


class _Model:
    """Labelled drafts as sparse rows of (place, what is taken from the logit per unit of the parameter), and the prior.

    The parameters are [bias, weight of each of `codes`, shift of each of `shifted`]. A weight meets `mean - score`. A
    shift meets every draft on which its code spoke, whatever it said, and moves the code's mean (the score that says
    nothing) by `-shift / weight`; local rules have none, their silence is 1 by meaning. `partner` leads from the place
    of a weight to that of its shift and back, with the mean that the shift starts from. Codes that never spoke are not
    among them: `scorer` gives them what the prior expects. In loops a code keeps the share of its weight that it has
    there in the prior: one parameter is fitted on both sorts of steps, not two on half of the labels each.
    """

    def __init__(self, examples: Sequence[Example], right: list[bool], prior: Scorer) -> None:
        new = _new_codes(examples, prior)
        reader = Scorer(weights=dict.fromkeys({*prior.weights, *new}, 1.0), bias=0.0)
        read = [read_codes(e.verdicts, reader) for e in examples]
        self.prior, self.right = prior, right
        self.codes = sorted({code for scores in read for code in scores})
        self.means = means = {code: new.get(code, prior.means.get(code, 1.0)) for code in self.codes}
        self.shifted = [code for code in self.codes if means[code] != 1.0]
        place = {code: i for i, code in enumerate(self.codes, 1)}
        shift = {code: i for i, code in enumerate(self.shifted, 1 + len(self.codes))}
        self.partner = {place[c]: (shift[c], means[c]) for c in shift} | {shift[c]: (place[c], means[c]) for c in shift}
        left = _left_in_loops(prior)
        self.rows: list[Sparse] = []
        for scores in read:
            spoke = [(c, score, left.get(c, 1.0) if LOOP in scores else 1.0) for c, score in sorted(scores.items())]
            row = [(place[code], share * (means[code] - score)) for code, score, share in spoke if score != means[code]]
            self.rows.append(row + [(shift[code], -share) for code, _, share in spoke if code in shift])
        total = math.fsum(e.weight for e in examples)
        effective = total**2 / math.fsum(e.weight**2 for e in examples)
        self.weights = [e.weight * effective / total for e in examples]
        self.centre = [prior.bias, *(prior.weights.get(c, NEW_WEIGHT) for c in self.codes), *(0.0 for _ in shift)]
        self.spread = _spread(self.rows, len(self.centre))

    def limits(self, i: int, point: list[float]) -> tuple[float, float]:
        """Return between which numbers a parameter may move: weights stay >= 0 and means inside of [0, 1]."""
        if i == 0:
            return -math.inf, math.inf
        other, mean = self.partner.get(i, (0, 1.0))
        if i > len(self.codes):
            return point[other] * (mean - 1.0), point[other] * mean
        shift = point[other] if other else 0.0
        if shift == 0.0:
            return 0.0, math.inf
        share = mean if shift > 0.0 else mean - 1.0
        return (shift / share if share else point[i]), math.inf

    def solve(self, members: Iterable[int], strength: float, start: list[float] | None = None) -> list[float]:
        """Return the most probable parameters, by Newton steps whose quadratic is minimised within the bounds."""
        members, penalty = list(members), self._penalty(strength)
        theta = list(self.centre if start is None else start)
        value = self._loss(members, theta, penalty)
        for _ in range(_NEWTON_STEPS):
            step, size = self._step(theta, *self._derivatives(members, theta, penalty)), 1.0
            while True:
                trial = [t + size * s for t, s in zip(theta, step, strict=True)]
                trial_value = self._loss(members, trial, penalty)
                if trial_value <= value or size < _LEAST_STEP:
                    break
                size /= 2
            done = value - trial_value < _ENOUGH * (1.0 + abs(value))
            if trial_value <= value:
                theta, value = trial, trial_value
            if done:
                break
        return theta

    def _step(self, theta: list[float], gradient: list[float], hessian: Matrix) -> list[float]:
        """Return the step that minimises the quadratic inside of the limits, by coordinate descent."""
        point, slope = list(theta), list(gradient)
        for _ in range(_SWEEPS):
            moved = 0.0
            for i, line in enumerate(hessian):
                low, high = self.limits(i, point)
                new = min(high, max(low, point[i] - slope[i] / line[i]))
                change = new - point[i]
                if change:
                    point[i] = new
                    for j, bend in enumerate(line):
                        slope[j] += change * bend
                    moved = max(moved, abs(change) * math.sqrt(line[i]))
            if moved < _STILL:
                break
        return [p - t for p, t in zip(point, theta, strict=True)]

    def _pull(self, strength: float) -> tuple[list[float], float]:
        """Return what each parameter says about the common factor of the prior, and the precision of that factor."""
        pull = [s * s * strength * c for s, c in zip(self.spread, self.centre, strict=True)]
        pull[0] = 0.0
        return pull, 1.0 / _SCALE_WIDTH**2 + _dot(pull, self.centre)

    def _penalty(self, strength: float) -> Matrix:
        """Return the precision of the prior around `centre`: each weight on the scale of its feature, one factor free.

        The rules may be right about what matters more and wrong about how much everything matters on these steps, so
        stretching all weights by one factor costs far less than changing one against the others. A weight is
        `(1 + f) * centre + own` with f ~ N(0, _SCALE_WIDTH) and own ~ N(0, 1 / (strength * spread)); f is integrated
        out (Sherman-Morrison).
        """
        pull, total = self._pull(strength)
        matrix = [[-a * b / total for b in pull] for a in pull]
        for i, spread in enumerate(self.spread):
            matrix[i][i] += spread**2 * strength
        matrix[0][0] = 1.0 / _BIAS_WIDTH**2
        return matrix

    def _logit(self, row: Sparse, theta: list[float]) -> float:
        logit = theta[0]
        for i, x in row:
            logit -= theta[i] * x
        return max(-_LIMIT, min(_LIMIT, logit))

    def _loss(self, members: list[int], theta: list[float], penalty: Matrix) -> float:
        off = [t - c for t, c in zip(theta, self.centre, strict=True)]
        loss = 0.5 * _dot(off, [_dot(line, off) for line in penalty])
        for m in members:
            logit = self._logit(self.rows[m], theta)
            loss += self.weights[m] * math.log1p(math.exp(-logit if self.right[m] else logit))
        return loss

    def _derivatives(self, members: list[int], theta: list[float], penalty: Matrix) -> tuple[list[float], Matrix]:
        off = [t - c for t, c in zip(theta, self.centre, strict=True)]
        gradient, hessian = [_dot(line, off) for line in penalty], [list(line) for line in penalty]
        for m in members:
            row, weight, p = self.rows[m], self.weights[m], self.predict(m, theta)
            pull, bend = weight * (p - self.right[m]), weight * p * (1.0 - p)
            gradient[0] += pull
            hessian[0][0] += bend
            for place, (i, x) in enumerate(row):
                gradient[i] -= pull * x
                line, bent = hessian[i], bend * x
                line[0] -= bent
                for j, y in row[: place + 1]:  # a row is in the order of its places: the lower triangle is enough
                    line[j] += bent * y
        for i, line in enumerate(hessian):
            for j in range(i):
                hessian[j][i] = line[j]
        return gradient, hessian

    def predict(self, member: int, theta: list[float]) -> float:
        """Return the confidence of an example under these parameters."""
        return 1.0 / (1.0 + math.exp(-self._logit(self.rows[member], theta)))

    def held_out(self, folds: list[int], strength: float, start: list[float]) -> list[float]:
        """Return each example's confidence by a fit on the other folds; `start` is where the search begins."""

        def predictor(others: list[int]) -> Callable[[int], float]:
            theta = self.solve(others, strength, start)
            return lambda member: self.predict(member, theta)

        return _by_fold(folds, predictor)

    def choose(self, folds: list[int]) -> float:
        """Return the strongest prior whose log loss on held-out episodes is within a standard error of the least one's.

        The error is that of the paired difference (the one-standard-error rule of Breiman et al., 1984).
        """
        losses: dict[float, list[float]] = {}
        start: list[float] | None = None
        for strength in reversed(STRENGTHS):
            start = self.solve(range(len(folds)), strength, start)
            rows = zip(self.held_out(folds, strength, start), self.right, self.weights, strict=True)
            losses[strength] = [-w * math.log(max(1e-12, p if y else 1.0 - p)) for p, y, w in rows]
        best = losses[min(STRENGTHS, key=lambda strength: (math.fsum(losses[strength]), -strength))]
        return next(s for s in reversed(STRENGTHS) if _no_worse(losses[s], best))

    def scorer(self, theta: list[float], strength: float, knots: Knots = ()) -> Scorer:
        """Return the parameters as a scorer; codes that never spoke are stretched as the others were."""
        pull, total = self._pull(strength)
        factor = math.fsum(p * (t - c) for p, t, c in zip(pull, theta, self.centre, strict=True)) / total
        weights = {code: max(0.0, 1.0 + factor) * weight for code, weight in self.prior.weights.items()}
        weights |= {code: theta[i + 1] for i, code in enumerate(self.codes)}
        weights, means = dict(sorted(weights.items())), dict(self.prior.means)
        for code in self.shifted:
            i = self.codes.index(code) + 1
            mean = self.means[code] - (theta[self.partner[i][0]] / theta[i] if theta[i] else 0.0)
            means[code] = min(1.0, max(0.0, mean))
        in_loops = {code: weights[code] * share for code, share in _left_in_loops(self.prior).items()}
        return Scorer(weights=weights, bias=theta[0], means=means, knots=knots, in_loops=in_loops)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(map(mul, a, b))


def _spread(rows: Sequence[Sparse], size: int) -> list[float]:
    """Return the standard deviation of each feature, at least `_SPREAD`; that of the bias is 1."""
    sums, squares, n = [0.0] * size, [0.0] * size, len(rows)
    for row in rows:
        for i, x in row:
            sums[i] += x
            squares[i] += x * x
    found = (max(0.0, square / n - (total / n) ** 2) for total, square in zip(sums[1:], squares[1:], strict=True))
    return [1.0, *(max(_SPREAD, math.sqrt(variance)) for variance in found)]


def _left_in_loops(scorer: Scorer) -> dict[str, float]:
    """Return the share of its weight that a code keeps in loops, where that is another weight."""
    return {code: own / scorer.weights[code] for code, own in scorer.in_loops.items() if scorer.weights.get(code)}


def _no_worse(some: Sequence[float], best: Sequence[float]) -> bool:
    """Return whether the mean of `some` is within one standard error (of the paired difference) of that of `best`."""
    gaps = [a - b for a, b in zip(some, best, strict=True)]
    mean = math.fsum(gaps) / len(gaps)
    return mean <= math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps)) / len(gaps)


def pava(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the nearest not falling sequence (weighted least squares), by pooling adjacent violators."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, heavy, length = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            other, more, count = blocks.pop()
            mean = (mean * heavy + other * more) / (heavy + more)
            heavy, length = heavy + more, length + count
        blocks.append((mean, heavy, length))
    return [mean for mean, _, length in blocks for _ in range(length)]


def isotonic(confidence: Sequence[float], right: Sequence[bool], *, weights: Sequence[float] | None = None) -> Knots:
    """Return knots of a rising table confidence -> share of right drafts, for `Scorer.knots`.

    The knots stand at the centres of the blocks that `pava` finds and lines join them (centred isotonic regression,
    Oron & Flournoy, 2017), so that steps keep their order; 0 and 1 stay themselves.
    """
    pooled: dict[float, tuple[float, float]] = {}
    for p, y, w in zip(confidence, right, weights or [1.0] * len(right), strict=True):
        total, good = pooled.get(p, (0.0, 0.0))
        pooled[p] = (total + w, good + w * y)
    xs = sorted(pooled)
    heavy = [pooled[x][0] for x in xs]
    n, knots = math.fsum(heavy), [(0.0, 0.0)]
    levels = pava([pooled[x][1] / pooled[x][0] for x in xs], heavy)
    for height, block in groupby(zip(xs, heavy, levels, strict=True), key=lambda row: row[2]):
        inside = [(x, w) for x, w, _ in block]
        centre = math.fsum(x * w for x, w in inside) / math.fsum(w for _, w in inside)
        if knots[-1][0] < centre < 1.0:
            knots.append((centre, min(1.0, max(knots[-1][1], (n * height + 0.5) / (n + 1.0)))))
    return (*knots, (1.0, 1.0))


def _held_out_knots(held: list[float], right: list[bool], weights: list[float], folds: list[int]) -> list[float]:
    """Return held-out confidences through tables that were fitted without their own fold."""

    def table(others: list[int]) -> Callable[[int], float]:
        some = [held[m] for m in others], [right[m] for m in others], [weights[m] for m in others]
        knots = isotonic(some[0], some[1], weights=some[2])
        reader = Scorer(weights={}, bias=0.0, knots=knots)
        return lambda member: reader._calibrated(held[member])  # noqa: SLF001 - the one reading of a table

    return _by_fold(folds, table)


def _by_fold(folds: list[int], fit_on: Callable[[list[int]], Callable[[int], float]]) -> list[float]:
    """Return for each member what is fitted on the members of the other folds says of it."""
    fitted = [fit_on([m for m, f in enumerate(folds) if f != fold]) for fold in range(_FOLDS)]
    return [fitted[fold](m) for m, fold in enumerate(folds)]


# ---- where a second model disagrees ----------------------------------------------------------------------------------


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
