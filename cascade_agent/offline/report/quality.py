"""Cost and quality of ways to decide, and whether confidences can be believed: from samples to what a report says.

Law: labels of escalated steps say nothing about accepted ones. Where no accepted step has a label, quality is unknown.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from cascade_agent.offline.calibration.certificate import upper_bound
from cascade_agent.offline.evaluation.metrics import auroc, calibration_error
from cascade_agent.offline.report.data import AlwaysLarge, Basis, Bin, Frontier, Point, Reliability, Share

if TYPE_CHECKING:
    from cascade_agent.offline.report.collect import Book, Gathered, Record

CURVE_POINTS: Final = 24
EDGES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Bins of the calibration curve: a twentieth near 1, where most drafts are and where thresholds lie."""

_Z: Final = 1.959963984540054  # 97.5 % point of the normal distribution: 95 % between both sides
_SIDE: Final = 0.975
_LOOKING: Final = ("person", "evaluator")
_UNKNOWN: Final = Share(value=None, low=None, high=None, n=0)


Taken = Callable[["Record"], bool]
"""Whether a rule takes the small draft of a step."""


# ---- what always-large would have cost ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rates:
    """How the cost of a large call follows from the small call of the same step."""

    ratio: float | None
    per_token: float | None

    @classmethod
    def of(cls, book: Book) -> Rates:
        """From the steps in which both were asked: by cost, or by tokens where the small model is free."""
        ratio = book.pair_large / book.pair_small if book.pair_small > 0 else None
        per_token = book.pair_large / book.pair_tokens if ratio is None and book.pair_tokens else None
        return cls(ratio, per_token)

    def estimate(self, cost: float | None, tokens: float | None) -> float | None:
        """Cost of a large call; None when it cannot be told."""
        if self.ratio is not None:
            return None if cost is None else cost * self.ratio
        if self.per_token is not None:
            return None if tokens is None else tokens * self.per_token
        return None


def always_large(out: Gathered) -> AlwaysLarge:
    """The whole journal against always-large, shadow calls included on the cascade's side."""
    book = out.book
    rates = Rates.of(book)
    guessed = rates.estimate(book.whole.small, book.whole.tokens) if book.open_steps else 0.0
    compared = book.measured + book.open_steps
    why = ""
    if not compared:
        why = "the cost of no step is known"
    elif guessed is None:
        why = "the large model was asked in no step whose costs are known, so its price is not in the journal"
    cascade = book.cascade_measured + book.open_cost
    shadow = out.shadow if len(out.books) == 1 else 0.0
    large = book.whole.large + (guessed or 0.0)
    if not why and large <= 0:
        why = "the large model costs nothing here"
    return AlwaysLarge(
        steps=0 if why else compared,
        measured=book.measured,
        estimated=0 if guessed is None else book.open_steps,
        left_out=out.steps - (0 if why else compared),
        pairs=book.pairs,
        ratio=rates.ratio,
        per_token=rates.per_token,
        cascade=cascade,
        shadow=shadow,
        large=large,
        share=None if why else (cascade + shadow) / large,
        why=why,
    )


# ---- the sweep ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A sampled step: how many steps it stands for, in all and among the labelled ones (0: not labelled)."""

    record: Record
    steps: float
    weight: float
    large: float | None

    @property
    def loss(self) -> bool:
        """Whether taking the small draft counts as harm. A wrong draft whose large answer nobody knows does."""
        harm = self.record.harm
        return harm if harm is not None else self.record.right is False


def frontier(out: Gathered, compared: AlwaysLarge, *, name: str | None) -> Frontier:
    """Sweep the threshold over the sampled steps.

    Args:
        out: what was gathered.
        compared: the whole journal against always-large.
        name: of the policy that was given; None when none was.
    """
    basis, rows = _rows(out)
    usable = [row for row in rows if not row.record.unreplayable]
    known = compared.share is not None

    def at(label: str, threshold: float | None, taken: Taken, among: Sequence[_Row], *, policy: bool = False) -> Point:
        """The point of a rule that takes some small drafts."""
        return Point(
            name=label,
            threshold=threshold,
            escalated=_escalated(among, taken),
            cost=_cost(among, taken, policy=policy) if known else None,
            quality=_quality(among, taken, basis),
        )

    ran = at("as it ran", None, lambda r: r.answered, rows)
    cost = compared.cascade / compared.large if known else None
    marks = [replace(ran, escalated=out.escalated / out.steps, cost=cost)]
    differs = any(row.record.policy_small not in (row.record.answered, None) for row in rows)
    decided = [row for row in rows if row.record.policy_small is not None]
    if decided and (name is not None or differs):
        marks.append(at(name or "shipped policy", None, lambda r: r.policy_small is True, decided, policy=True))
    marks += [_always_small(rows, basis, known=known), _ALWAYS_LARGE]
    curve = [at(f"threshold {t:.3f}", t, _takes(t), usable) for t in _thresholds(usable)]
    if usable:
        curve.append(at("escalate every step", None, lambda _: False, usable))
    return Frontier(
        curve=tuple(curve),
        marks=tuple(marks),
        basis=basis,
        why=_why(basis),
        steps=len(rows),
        of=sum(sample.n for sample in out.samples.values()),
        unreplayable=len(rows) - len(usable),
        scorer=name or "shipped rules",
        agrees=not out.disagreeing,
    )


_ALWAYS_LARGE: Final = Point(
    name="always large",
    threshold=None,
    escalated=1.0,
    cost=1.0,
    quality=Share(value=1.0, low=1.0, high=1.0, n=0),
)


def _takes(threshold: float) -> Taken:
    return lambda record: record.acceptable is not None and record.acceptable >= threshold


def _why(basis: Basis) -> str:
    return {
        "all_escalated": "small answered no step: every step that can be compared labels itself",
        "propensity": "accepted steps were shadowed with a logged probability",
        "share": "people or an evaluator labelled accepted steps, assumed not to be chosen by their outcome",
        "none": "no step that small answered has a label, and escalated steps say nothing about accepted ones: "
        "set shadow_rate in the policy, or label some steps",
    }[basis]


def _rows(out: Gathered) -> tuple[Basis, list[_Row]]:
    """All sampled steps with how many each stands for."""
    currency, rates = out.currency, Rates.of(out.book)
    samples = {name: (sample.items(), sample.per_item) for name, sample in out.samples.items()}
    labelled, each = samples["labelled"]
    basis, told = _basis(labelled, out.samples["labelled"].n + out.samples["unlabelled"].n, each)
    others, each_other = samples["other"]
    reached = [r for r in others if r.acceptable is not None]
    known = [r for r in reached if r.right is not None or r.harm is not None]
    share = each_other * len(reached) / len(known) if known else 0.0
    told |= dict.fromkeys(map(id, known), share)

    def row(record: Record, steps: float) -> _Row:
        large = record.large_cost
        if large is None:
            large = rates.estimate(record.base, record.tokens)
        return _Row(record, steps, told.get(id(record), 0.0), large if record.currency == currency else None)

    return basis, [row(record, steps) for items, steps in samples.values() for record in items]


def _basis(labelled: Sequence[Record], answered: int, each: float) -> tuple[Basis, dict[int, float]]:
    """How labels of accepted steps came about, and for how many accepted steps each of them stands."""
    looked_at = [r for r in labelled if r.source in _LOOKING]
    shadowed = [r for r in labelled if r.propensity is not None]
    if not answered:
        return "all_escalated", {}
    if looked_at and len(looked_at) >= len(shadowed):
        return "share", {id(r): answered / len(looked_at) for r in looked_at}
    if not shadowed:
        return "none", {}
    failed = [r for r in labelled if r.tool_failed]  # a tool's error is always seen
    drawn = [r for r in shadowed if not r.tool_failed]
    total = sum(1.0 / (r.propensity or 1.0) for r in drawn)
    rest = answered - each * len(failed)
    weights = {id(r): each for r in failed}
    return "propensity", weights | {id(r): rest / total / (r.propensity or 1.0) for r in drawn}


def _thresholds(rows: Sequence[_Row]) -> list[float]:
    """Thresholds that tell steps apart, about evenly over the steps, ascending."""
    values = sorted({row.record.acceptable for row in rows if row.record.acceptable is not None})
    if len(values) <= CURVE_POINTS:
        return values
    counts = Counter(row.record.acceptable for row in rows if row.record.acceptable is not None)
    total, seen, wanted = sum(counts.values()), 0, 0
    chosen: list[float] = []
    for value in values:
        if seen >= wanted * total / CURVE_POINTS or value == values[-1]:
            chosen.append(value)
            wanted = math.floor(seen * CURVE_POINTS / total) + 1
        seen += counts[value]
    return chosen


def _escalated(rows: Sequence[_Row], taken: Taken) -> float | None:
    total = sum(row.steps for row in rows)
    return sum(row.steps for row in rows if not taken(row.record)) / total if total else None


def _cost(rows: Sequence[_Row], taken: Taken, *, policy: bool) -> float | None:
    paid = whole = 0.0
    for row in rows:
        draft = row.record.policy_cost if policy else row.record.draft_cost
        if draft is None or row.large is None:
            continue
        paid += row.steps * (draft + (0.0 if taken(row.record) else row.large))
        whole += row.steps * row.large
    return paid / whole if whole > 0 else None


def _quality(rows: Sequence[_Row], taken: Taken, basis: Basis) -> Share:
    """1 - harm: P(taken) is counted over all steps, P(loss | taken) estimated from the labelled ones."""
    total = sum(row.steps for row in rows)
    accepted = [row for row in rows if taken(row.record)]
    if not total or (basis == "none" and accepted):
        return _UNKNOWN
    if not accepted:
        return Share(value=1.0, low=1.0, high=1.0, n=0)
    labelled = [row for row in accepted if row.weight > 0]
    groups = {row.record.answered for row in accepted}
    if groups != {row.record.answered for row in labelled}:  # escalated steps say nothing about taken ones, nor these
        return _UNKNOWN
    share = sum(row.steps for row in accepted) / total
    loss, low, high = share_of((row.record.episode, row.weight, row.loss) for row in labelled)
    return Share(value=1.0 - share * loss, low=1.0 - share * high, high=1.0 - share * low, n=len(labelled))


def _always_small(rows: Sequence[_Row], basis: Basis, *, known: bool) -> Point:
    """Small alone: its first drafts, as they are. What was escalated is judged by the labels of escalated steps."""
    drafted = [row for row in rows if row.record.base is not None]
    paid = sum(row.steps * (row.record.base or 0.0) for row in drafted if row.large is not None)
    whole = sum(row.steps * (row.large or 0.0) for row in drafted)
    quality = _UNKNOWN
    if basis != "none":
        accepted = [row for row in rows if row.record.answered]
        others = [row for row in rows if not row.record.answered]
        known_others = [r for r in others if r.record.right is not None or r.record.harm is not None]
        each = sum(row.steps for row in others) / len(known_others) if known_others else 0.0
        told = [(row.record.episode, row.weight, row.loss) for row in accepted if row.weight > 0]
        told += [(row.record.episode, each, row.loss) for row in known_others]
        if told and (known_others or not others):
            loss, low, high = share_of(told)
            quality = Share(value=1.0 - loss, low=1.0 - high, high=1.0 - low, n=len(told))
    return Point(
        name="always small",
        threshold=None,
        escalated=0.0,
        cost=paid / whole if known and whole > 0 else None,
        quality=quality,
    )


def share_of(told: Iterable[tuple[int, float, bool]]) -> tuple[float, float, float]:
    """A weighted share of losses with a 95 % Wilson interval: (share, low, high).

    Steps of one episode depend on each other: the interval is that of as many independent steps as have the variance
    of the episodes' sums (the linearised variance of a ratio), and of no more than Kish's count of the episodes.
    """
    weights: dict[int, float] = defaultdict(float)
    losses: dict[int, float] = defaultdict(float)
    for episode, weight, loss in told:
        weights[episode] += weight
        losses[episode] += weight * loss
    total = math.fsum(weights.values())
    share = min(1.0, math.fsum(losses.values()) / total)
    count = total**2 / math.fsum(weight**2 for weight in weights.values())
    spread = math.fsum((losses[e] - share * weight) ** 2 for e, weight in weights.items()) / total**2
    if spread > 0 and len(weights) > 1:
        count = min(count, share * (1.0 - share) / (spread * len(weights) / (len(weights) - 1)))
    low, high = wilson(share, max(1.0, count))
    return share, low, high


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share of `n` independent trials."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


# ---- reliability ----------------------------------------------------------------------------------------------------


def reliability(out: Gathered) -> Reliability:
    """Confidence against the share of right drafts, in bins of `EDGES`."""
    records = [*out.samples["labelled"].items(), *out.samples["other"].items()]
    told = sorted((r.confidence, r.right) for r in records if r.confidence is not None and r.right is not None)
    confidence, right = [p for p, _ in told], [y for _, y in told]
    return Reliability(
        bins=tuple(_bins(confidence, right)),
        n=len(told),
        by_source=dict(
            sorted(
                Counter(r.source or "?" for r in records if r.right is not None and r.confidence is not None).items()
            )
        ),
        auroc=auroc(confidence, right),
        error=calibration_error(confidence, right),
        histogram=tuple((taken, escalated) for taken, escalated in out.histogram),
        unmeasured=out.unmeasured,
    )


def _bins(confidence: Sequence[float], right: Sequence[bool]) -> Iterable[Bin]:
    for low, high in pairwise(EDGES):
        inside = [i for i, p in enumerate(confidence) if low <= p < high or p == high == 1.0]
        if inside:
            count, hits = len(inside), sum(right[i] for i in inside)
            yield Bin(
                low=low,
                high=high,
                confidence=math.fsum(confidence[i] for i in inside) / count,
                n=count,
                right=hits,
                share=hits / count,
                interval_low=1.0 - upper_bound(count - hits, count, _SIDE),
                interval_high=upper_bound(hits, count, _SIDE),
            )
