"""From a tally to figures: what is known, what it may be at best and at worst, and what a sample says it is.

Law: a figure that the journal cannot say is an interval. `low` and `high` hold whatever the unrecorded answers were,
and as far as money goes if an unrecorded call costs no less and no more than the recorded ones of that tier in steps of
that name. `estimate` rests on logged propensities alone.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import starmap
from operator import mul
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cascade_agent.offline.evaluation.facts import MONEY, WORLDS
from cascade_agent.offline.evaluation.tally import (
    BY_LARGE,
    BY_NOBODY,
    BY_OTHERS,
    BY_SMALL,
    Base,
    BaseSums,
    Outcome,
    Sums,
    middle,
    totals,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from cascade_agent.offline.evaluation.tally import Cell, Tally

Pair = tuple[float, float]
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure. None is "cannot be told".

    `low` and `high` are what it can be, given what is recorded. `estimate` is what the steps with known propensities
    say (inverse propensity weighted and normalised: Hájek 1971; Swaminathan and Joachims, The Self-Normalized
    Estimator, 2015): two numbers, equal unless some label of a drawn step is unclear. `interval` is a 95 % bootstrap
    interval over episodes of the estimate, or of `low` and `high` where there is none.
    """

    low: float | None = None
    high: float | None = None
    estimate: Pair | None = None
    interval: Pair | None = None

    @property
    def value(self) -> float | None:
        """The figure where it is one number: what is known, else what is estimated."""
        for low, high in ((self.low, self.high), self.estimate or (None, None)):
            if low is not None and high is not None and math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
                return low
        return None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "estimate": None if self.estimate is None else list(self.estimate),
            "interval": None if self.interval is None else list(self.interval),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What some steps come to under a policy. Shares and ratios are plain numbers: 0.02 is 2 %.

    `success` is the share of right answers (large's answer counts as right where it was the measure of small's),
    `loss` that of always-large less it, `harm` the share of steps whose answer is wrong and large's right. `saving` is
    one less cost over cost of always-large, drafts, evidence and the policy's own shadow calls included; `oracle_share`
    that over the saving of a cascade that escalates exactly where small is wrong and large right. `cost` is per step,
    `cost_per_success` per right answer. `escalation` is the share of steps that reach large. `p50` and `p95` are
    latencies over those of always-large, to 2 %.
    """

    steps: int
    success: Figure
    loss: Figure
    harm: Figure
    escalation: Figure
    cost: Figure
    saving: Figure
    oracle_share: Figure
    cost_per_success: Figure
    p50: Figure
    p95: Figure

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {f.name: v.to_json() if isinstance(v := getattr(self, f.name), Figure) else v for f in fields(self)}


# ---- sums that figures are made of ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """What figures of a policy are made of; every entry is a sum over steps.

    Ends `_lo` and `_hi` are at best and at worst. `told_` are sums over steps outside of the lottery of shadow calls,
    `drawn_` weighted sums over those drawn in it. `big` is the recorded cost of large calls, `big_more` of those that
    may have been made; `x` the cost of unrecorded large calls, `y` of those that may have been made, `shadow` that of
    the policy's own shadow calls. `_none` counts those of which not even a range is known.
    """

    esc_lo: float
    esc_hi: float
    success_lo: float
    success_hi: float
    loss_lo: float
    loss_hi: float
    harm_lo: float
    harm_hi: float
    told_success_lo: float
    told_success_hi: float
    told_loss_lo: float
    told_loss_hi: float
    told_harm_lo: float
    told_harm_hi: float
    drawn_success_lo: float
    drawn_success_hi: float
    drawn_loss_lo: float
    drawn_loss_hi: float
    drawn_harm_lo: float
    drawn_harm_hi: float
    own_lo: float
    own_hi: float
    own_none: float
    big: float
    big_more: float
    x_lo: float
    x_hi: float
    x_none: float
    y_lo: float
    y_hi: float
    y_none: float
    shadow_lo: float
    shadow_hi: float
    shadow_none: float
    told_big_lo: float
    told_big_hi: float
    drawn_big_lo: float
    drawn_big_hi: float
    sample_none: float


class Ground(NamedTuple):
    """The same for always-large, and how many steps there are; `lottery` of them took part in that of shadow calls."""

    n: float
    lottery: float
    open: float
    weight: float
    big: float
    x_lo: float
    x_hi: float
    x_none: float
    told_lo: float
    told_hi: float
    drawn_lo: float
    drawn_hi: float
    sample_none: float


_LINE: Final = {name: i for i, name in enumerate(Line._fields)}
_GROUND: Final = {name: i for i, name in enumerate(Ground._fields)}
_SUM: Final = {name: i for i, name in enumerate(Sums._fields)}
_BASE: Final = {name: i for i, name in enumerate(BaseSums._fields)}
_TRUTHS: Final = ("success", "loss", "harm")

Ranges = dict[str, tuple[float, float]]
Recipe = tuple[tuple[int, int, float], ...]
"""(entry of the line, entry of the sums, factor): how sums of one outcome go into a line."""


@lru_cache(maxsize=4096)
def ends(worlds: int, finals: int) -> dict[str, tuple[int, int]]:
    """Least and greatest success, loss and harm of one step, over the worlds and whoever may have answered."""
    found: dict[str, set[int]] = {name: set() for name in _TRUTHS}
    for bit, (small, large) in enumerate(WORLDS):
        if not worlds >> bit & 1:
            continue
        answers = ((BY_SMALL, (small,)), (BY_LARGE, (large,)), (BY_NOBODY, (False,)), (BY_OTHERS, (False, True)))
        for who, values in answers:
            for value in values if finals & who else ():
                found["success"].add(int(value))
                found["loss"].add(int(large) - int(value))
                found["harm"].add(max(0, int(large) - int(value)))
    return {name: (min(values), max(values)) for name, values in found.items()}


def recipe_of(key: Outcome, ranges: Ranges, rate: float) -> Recipe:
    """How steps of one outcome count. `rate` is the policy's own rate of shadow calls."""
    parts: list[tuple[str, str, float]] = [
        ("esc_lo", "n", key.escalated == 1),
        ("esc_hi", "n", key.escalated > 0),
        ("own_lo", "own", 1),
        ("own_hi", "own", 1),
        ("own_hi", "own_more", 1),
        ("big", "large", 1),
        ("big_more", "large_more", 1),
    ]
    sample = {"told": ("told_", "n", "large", "large_more"), "drawn": ("drawn_", "weight", "w_large", "w_more")}
    prefix, count, large, more = sample.get(key.stratum, ("", "", "", ""))
    for name, (low, high) in ends(key.worlds, key.finals).items():
        for where, by in (("", "n"), (prefix, count)) if prefix else (("", "n"),):
            parts += (f"{where}{name}_lo", by, low), (f"{where}{name}_hi", by, high)
    if prefix:
        parts += (f"{prefix}big_lo", large, 1), (f"{prefix}big_hi", large, 1), (f"{prefix}big_hi", more, 1)
    for role in key.sure:
        parts += _unknown_parts(role, ranges, rate, prefix, count, sure=True)
    for role in key.maybe:
        parts += _unknown_parts(role, ranges, rate, prefix, count, sure=False)
    return tuple((_LINE[line], _SUM[entry], factor) for line, entry, factor in parts if factor)


def _unknown_parts(  # noqa: PLR0913 - where it goes
    role: str, ranges: Ranges, rate: float, prefix: str, count: str, *, sure: bool
) -> Iterator[tuple[str, str, float]]:
    """How a call of unknown cost counts. Of small and evidence it is known that they were made, in whatever sample."""
    sampled = prefix and role in ("large", "shadow")
    into = "shadow" if role == "shadow" else "own" if role != "large" else "x" if sure else "y"
    bounds = ranges.get("large" if role in ("hedge", "shadow") else role)
    if bounds is None:
        yield f"{into}_none", "n", 1
        if sampled:
            yield "sample_none", "n", 1
        return
    low, high = (rate * bound if role == "shadow" else bound for bound in bounds)
    if sure or into == "y":
        yield f"{into}_lo", "n", low
    yield f"{into}_hi", "n", high
    if sampled:
        yield f"{prefix}big_lo", count, low * sure
        yield f"{prefix}big_hi", count, high


def line_of(rows: Iterable[tuple[Recipe, Sequence[int]]]) -> Line:
    """Sum rows of outcomes."""
    return Line(*_cooked(rows, len(_LINE)))


def ground_of(rows: Iterable[tuple[Ranges, Base, Sequence[int]]]) -> Ground:
    """Sum rows of what is known without any policy."""
    return Ground(*_cooked(((_ground_recipe(key, ranges), sums) for ranges, key, sums in rows), len(_GROUND)))


def _cooked(rows: Iterable[tuple[Recipe, Sequence[int]]], size: int) -> list[float]:
    out: list[float] = [0] * size
    for recipe, sums in rows:
        for entry, source, factor in recipe:
            out[entry] += sums[source] * factor
    return out


def _ground_recipe(key: Base, ranges: Ranges) -> Recipe:
    told = key.stratum == "told"
    parts: list[tuple[str, str, float]] = [("n", "n", 1), ("big", "large", 1)]
    if not told:
        parts.append(("lottery", "n", 1))
    if key.stratum == "open":
        parts.append(("open", "n", 1))
    if key.stratum == "drawn":
        parts += ("weight", "weight", 1), ("drawn_lo", "w_large", 1), ("drawn_hi", "w_large", 1)
    if told:
        parts += ("told_lo", "large", 1), ("told_hi", "large", 1)
    if key.large:
        bounds, count = ranges.get("large"), "n" if told else "weight"
        if bounds is None:
            parts.append(("x_none", "n", 1))
            if key.stratum != "open":
                parts.append(("sample_none", "n", 1))
        else:
            parts += ("x_lo", "n", bounds[0]), ("x_hi", "n", bounds[1])
            if key.stratum != "open":
                where = "told" if told else "drawn"
                parts += (f"{where}_lo", count, bounds[0]), (f"{where}_hi", count, bounds[1])
    return tuple((_GROUND[line], _BASE[entry], factor) for line, entry, factor in parts)


# ---- baselines as policies ------------------------------------------------------------------------------------------

BASELINES: Final = ("as recorded", "always small", "always large", "oracle")


def baseline(title: str, key: Base, numbers: Sequence[int]) -> tuple[Outcome, Sums]:
    """A row of what is known as the row of a baseline."""
    sums = BaseSums(*numbers)
    n, weight = sums.n, sums.weight
    none = Sums(n, 0, 0, 0, 0, weight, 0, 0)
    if title == "as recorded":
        outcome = Outcome(key.stratum, key.finals, key.escalated, key.worlds, key.recorded)
        return outcome, none._replace(own=sums.paid)
    if title == "always small":
        return Outcome(key.stratum, BY_SMALL, 0, key.worlds, key.small), none._replace(own=sums.small)
    if title == "always large":
        outcome = Outcome(key.stratum, BY_LARGE, 1, key.worlds, key.large)
        return outcome, none._replace(large=sums.large, w_large=sums.w_large)
    harms = {not small and large for bit, (small, large) in enumerate(WORLDS) if key.worlds >> bit & 1}
    if harms == {False}:
        return Outcome(key.stratum, BY_SMALL, 0, key.worlds, key.small), none._replace(own=sums.small)
    sure = harms == {True}
    outcome = Outcome(
        key.stratum,
        BY_LARGE if sure else BY_SMALL | BY_LARGE,
        1 if sure else 2,
        key.worlds,
        (*key.small, *(key.large if sure else ())),
        () if sure else key.large,
    )
    if sure:
        return outcome, none._replace(own=sums.small, large=sums.large, w_large=sums.w_large)
    return outcome, none._replace(own=sums.small, large_more=sums.large, w_more=sums.w_large)


# ---- figures from sums ----------------------------------------------------------------------------------------------


def _money_of(line: Line, ground: Ground) -> tuple[Figure, Figure, Figure]:
    """(cost per step, saving, cost per success)."""
    n = ground.n
    unbounded = line.own_none + line.x_none + line.y_none + line.shadow_none
    low = line.own_lo + line.big + line.x_lo + line.shadow_lo
    high = line.own_hi + line.big + line.big_more + line.x_hi + line.y_hi + line.shadow_hi
    cost: Pair = (low, math.inf if unbounded else high)
    saving = _saving(line, ground)
    estimate: Pair | None = None
    saved: Pair | None = None
    success = (line.success_lo, line.success_hi)
    if ground.open == 0:
        estimate, saved = cost, _pair(*saving)
    elif ground.weight and not line.own_none and not line.sample_none and not ground.sample_none:
        scale = ground.lottery / ground.weight
        estimate = (
            line.own_lo + line.told_big_lo + scale * line.drawn_big_lo,
            line.own_hi + line.told_big_hi + scale * line.drawn_big_hi,
        )
        ratio = _over(estimate, (ground.told_lo + scale * ground.drawn_lo, ground.told_hi + scale * ground.drawn_hi))
        saved = None if ratio is None else (1.0 - ratio[1], 1.0 - ratio[0])
        success = _estimated(line, ground, "success")
    per = _over(cost, (line.success_lo, line.success_hi))
    per_estimate = None if estimate is None else _over(estimate, success)
    return (
        _figure(_scaled(cost, n * MONEY), _scaled(estimate, n * MONEY)),
        _figure(saving, saved),
        _figure(_scaled(per, MONEY), _scaled(per_estimate, MONEY)),
    )


def _saving(line: Line, ground: Ground) -> tuple[float | None, float | None]:
    """Least and greatest saving.

    What an unrecorded large call costs stands on both sides of the ratio, so each of them moves it one way only: the
    ends are where those that the policy makes are all cheap or all dear, and the others too.
    """
    most: list[float] = []
    least: list[float] = []
    rest = (ground.x_lo - line.x_lo - line.y_lo, ground.x_hi - line.x_hi - line.y_hi)
    rest_none = ground.x_none - line.x_none - line.y_none
    for others, shadow in zip(rest, (line.shadow_lo, line.shadow_hi), strict=True):
        for x, y in ((line.x_lo, line.y_lo), (line.x_hi, line.y_hi)):
            made = line.own_hi + line.big + line.big_more + shadow + x + y
            most += _ratio(made, ground.big + others + x + y)
            least += _ratio(line.own_lo + line.big + shadow + x, ground.big + others + x + y)
    if line.x_none or line.y_none:  # dear beyond all bounds, and made
        most.append(1.0)
        least.append(1.0)
    if rest_none or line.y_none:  # and not made
        least.append(0.0)
    if line.own_none or (line.shadow_none and rest_none):
        most.append(math.inf)
    return 1.0 - max(most) if most else None, 1.0 - min(least) if least else None


def _ratio(a: float, b: float) -> list[float]:
    """A / b, as far as that is a number: nothing over nothing is none."""
    return [a / b] if b > 0 else [math.inf] if a > 0 else []


def _estimated(line: Line, ground: Ground, name: str) -> Pair:
    scale = ground.lottery / ground.weight
    low, high = (
        getattr(line, f"told_{name}_{end}") + scale * getattr(line, f"drawn_{name}_{end}") for end in ("lo", "hi")
    )
    return low, high


def _truth(line: Line, ground: Ground, name: str) -> Figure:
    n = ground.n
    low, high = getattr(line, f"{name}_lo") / n, getattr(line, f"{name}_hi") / n
    estimate: Pair | None = None
    if ground.open == 0 or low == high:
        estimate = (low, high)
    elif ground.weight:
        a, b = _estimated(line, ground, name)
        estimate = a / n, b / n
    return _figure((low, high), estimate)


def _escalation(line: Line, ground: Ground) -> Figure:
    bounds = line.esc_lo / ground.n, line.esc_hi / ground.n
    return _figure(bounds, bounds)


def _figure(bounds: tuple[float | None, float | None] | None, estimate: Pair | None = None) -> Figure:
    low, high = bounds or (None, None)
    finite = estimate is not None and all(map(math.isfinite, estimate))
    return Figure(low=_finite(low), high=_finite(high), estimate=estimate if finite else None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _pair(low: float | None, high: float | None) -> Pair | None:
    return None if low is None or high is None else (low, high)


def _scaled(pair: Pair | None, by: float) -> Pair | None:
    return None if pair is None else (pair[0] / by, pair[1] / by)


def _over(a: Pair, b: Pair) -> Pair | None:
    """An interval of numbers >= 0 over another; None where it may be divided by nothing."""
    return (a[0] / b[1] if math.isfinite(b[1]) else 0.0, a[1] / b[0]) if b[0] > 0 else None


def _share(saving: Figure, best: Figure) -> Figure:
    """Share of the oracle's saving; what it is of nothing cannot be told."""

    def divide(a: Pair | None, b: Pair | None) -> Pair | None:
        if a is None or b is None or b[0] <= 0:
            return None
        corners = [x / y for x in a for y in b]
        return min(corners), max(corners)

    bounds = divide(_pair(saving.low, saving.high), _pair(best.low, best.high))
    return _figure(bounds, divide(saving.estimate, best.estimate))


# ---- latency --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Times:
    """How many steps took how long: by stratum and bucket, the number of steps and their weights."""

    counts: Counter[tuple[str, int | None]]
    weights: Counter[tuple[str, int | None]]

    def quantile(self, q: float, ground: Ground) -> tuple[Pair | None, Pair | None]:
        """(least and greatest quantile, estimate) in seconds; unknown times may lie at either end."""
        bounds = _quantile({key: float(n) for key, n in self.counts.items()}, q)
        if ground.open == 0:
            return bounds, bounds
        if not ground.weight:
            return bounds, None
        scale = ground.lottery / ground.weight
        mixed = {key: float(n) for key, n in self.counts.items() if key[0] == "told"}
        mixed |= {key: scale * w for key, w in self.weights.items() if key[0] == "drawn"}
        return bounds, _quantile(mixed, q)


def _quantile(counts: Mapping[tuple[str, int | None], float], q: float) -> Pair | None:
    """Where a share `q` of the steps is done, unknown times coming first, and coming last; None without steps."""
    known: dict[int, float] = defaultdict(float)
    unknown = 0.0
    for (_, place), n in counts.items():
        if place is None:
            unknown += n
        else:
            known[place] += n
    wanted = q * (unknown + sum(known.values()))
    if not wanted:
        return None

    def reached(passed: float) -> float:
        for place in sorted(known):
            passed += known[place]
            if passed >= wanted:
                return middle(place)
        return math.inf

    return 0.0 if unknown and unknown >= wanted else reached(unknown), reached(0.0)


def _latency(own: Times | None, alone: Times, q: float, ground: Ground) -> Figure:
    if own is None:
        return Figure()
    (a, a_estimate), (b, b_estimate) = own.quantile(q, ground), alone.quantile(q, ground)
    bounds = None if a is None or b is None else _over(a, b)
    estimate = None if a_estimate is None or b_estimate is None else _over(a_estimate, b_estimate)
    return _figure(bounds, estimate)


# ---- a tally as figures ---------------------------------------------------------------------------------------------

Subset = tuple[str, str | None]
"""(`all`, None), (`step`, name) or (`kind`, kind)."""
ALL: Final[Subset] = ("all", None)


def figures_of(
    tally: Tally, *, resamples: int, seed: int
) -> tuple[list[dict[Subset, Figures]], list[dict[Subset, Figures]]]:
    """The figures of the baselines and of the policies, each for all steps, by step name and by kind."""
    maker = _Maker(tally, resamples, seed)
    baselines = [maker.baseline(title) for title in BASELINES]
    return baselines, [maker.policy(*place, policy.shadow_rate) for place, policy in _places(tally)]


def _places(tally: Tally) -> Iterable[tuple[tuple[int, int], Any]]:
    return zip(tally.plan.places, tally.plan.policies, strict=True)


class _Maker:
    """Reads a tally once per family and hands out figures."""

    def __init__(self, tally: Tally, resamples: int, seed: int) -> None:
        self.tally = tally
        self.ranges: dict[str, Ranges] = defaultdict(dict)
        self.widest: Ranges = {}
        for (step, role), (low, high) in tally.ranges.items():
            self.ranges[step][role] = (low, high)
            least, most = self.widest.get(role, (low, high))
            self.widest[role] = (min(low, least), max(high, most))
        self.recipes: dict[tuple[str | None, Outcome, float], Recipe] = {}
        self.bases: dict[Cell | int, list[tuple[Base, tuple[int, ...]]]] = defaultdict(list)
        for (place, key), packed in tally.base.items():
            self.bases[place].append((key, unpack(packed, len(_BASE))))
        self.groups = sorted(place for place in self.bases if isinstance(place, int))
        cells = sorted(place for place in self.bases if not isinstance(place, int))
        self.subsets: dict[Subset, list[Cell]] = {ALL: cells}
        for cell in cells:
            self.subsets.setdefault(("step", cell[0]), []).append(cell)
            self.subsets.setdefault(("kind", cell[1]), []).append(cell)
        self.grounds = {subset: self._ground(places) for subset, places in self.subsets.items()}
        self.group_grounds = [self._ground([group]) for group in self.groups]
        self.draws = _draws(len(self.group_grounds), resamples, seed)
        self.drawn_grounds = _resampled(self.group_grounds, self.draws, Ground)
        self.alone = {subset: self._base_times("large", cells) for subset, cells in self.subsets.items()}
        self.best: dict[Subset, Figure] = {}
        self.cache: dict[int, Any] = {}
        oracle = self.baseline("oracle")
        self.best = {subset: found.saving for subset, found in oracle.items()}

    def _ground(self, places: Sequence[Cell | int]) -> Ground:
        return ground_of((self._ranges_at(place), key, sums) for place in places for key, sums in self.bases[place])

    def _ranges_at(self, place: Cell | int) -> Ranges:
        return self.widest if isinstance(place, int) else self.ranges[place[0]]

    def _recipe(self, place: Cell | int, key: Outcome, rate: float) -> Recipe:
        """Made once per step name: a group of episodes holds many, and takes the widest range of all."""
        at = (None if isinstance(place, int) else place[0], key, rate)
        found = self.recipes.get(at)
        if found is None:
            found = self.recipes[at] = recipe_of(key, self._ranges_at(place), rate)
        return found

    def baseline(self, title: str) -> dict[Subset, Figures]:
        def rows(place: Cell | int) -> Iterable[tuple[Recipe, Sequence[int]]]:
            for key, numbers in self.bases[place]:
                outcome, sums = baseline(title, key, numbers)
                yield self._recipe(place, outcome, 0.0), sums

        column = {"as recorded": "recorded", "always small": "small", "always large": "large"}.get(title)
        times = {s: None if column is None else self._base_times(column, cells) for s, cells in self.subsets.items()}
        return self._figures(rows, times)

    def policy(self, family: int, index: int, rate: float) -> dict[Subset, Figures]:
        by_place, times = self._family(family)

        def rows(place: Cell | int) -> Iterable[tuple[Recipe, Sequence[int]]]:
            return ((self._recipe(place, key, rate), row[index]) for key, row in by_place[place] if row[index][0])

        own = {}
        for subset, cells in self.subsets.items():
            chosen = set(cells)
            own[subset] = Times(Counter(), Counter())
            for (cell, stratum, place), row in times.items():
                if cell in chosen:
                    n, weight = row[index]
                    own[subset].counts[stratum, place] += n
                    own[subset].weights[stratum, place] += weight
        return self._figures(rows, own)

    def _family(self, family: int) -> tuple[dict[Any, list[Any]], dict[Any, list[Any]]]:
        if family not in self.cache:
            by_place: dict[Any, list[Any]] = defaultdict(list)
            for (place, key), row in self.tally.rows[family].items():
                by_place[place].append((key, totals(row, len(_SUM))))
            self.cache = {family: (by_place, {key: totals(row, 2) for key, row in self.tally.times[family].items()})}
        found: tuple[dict[Any, list[Any]], dict[Any, list[Any]]] = self.cache[family]
        return found

    def _base_times(self, column: str, cells: Iterable[Cell]) -> Times:
        chosen, times = set(cells), Times(Counter(), Counter())
        for (cell, stratum, of, place), packed in self.tally.base_times.items():
            if of == column and cell in chosen:
                n, weight = unpack(packed, 2)
                times.counts[stratum, place] += n
                times.weights[stratum, place] += weight
        return times

    def _figures(
        self,
        rows: Callable[[Cell | int], Iterable[tuple[Recipe, Sequence[int]]]],
        times: Mapping[Subset, Times | None],
    ) -> dict[Subset, Figures]:
        out = {}
        for subset, cells in self.subsets.items():
            line = line_of(row for cell in cells for row in rows(cell))
            ground = self.grounds[subset]
            cost, saving, per_success = _money_of(line, ground)
            if len(self.tally.currencies) > 1:
                cost = saving = per_success = Figure()
            out[subset] = Figures(
                steps=int(ground.n),
                success=_truth(line, ground, "success"),
                loss=_truth(line, ground, "loss"),
                harm=_truth(line, ground, "harm"),
                escalation=_escalation(line, ground),
                cost=cost,
                saving=saving,
                oracle_share=_share(saving, self.best.get(subset, Figure())),
                cost_per_success=per_success,
                p50=_latency(times[subset], self.alone[subset], 0.5, ground),
                p95=_latency(times[subset], self.alone[subset], 0.95, ground),
            )
        if self.draws and ALL in out:
            out[ALL] = self._with_intervals(out[ALL], rows)
        return out

    def _with_intervals(
        self, found: Figures, rows: Callable[[Cell | int], Iterable[tuple[Recipe, Sequence[int]]]]
    ) -> Figures:
        lines = [line_of(rows(group)) for group in self.groups]
        resampled = _resampled(lines, self.draws, Line)
        again = [(line, ground) for line, ground in zip(resampled, self.drawn_grounds, strict=True) if ground.n]
        makers: dict[str, Callable[[Line, Ground], Figure]] = {
            "success": lambda line, ground: _truth(line, ground, "success"),
            "loss": lambda line, ground: _truth(line, ground, "loss"),
            "harm": lambda line, ground: _truth(line, ground, "harm"),
            "escalation": _escalation,
            "saving": lambda line, ground: _money_of(line, ground)[1],
        }
        new: dict[str, Figure] = {}
        for name, make in makers.items():
            figure: Figure = getattr(found, name)
            if figure.estimate is not None or figure.low is not None:
                interval = _interval(starmap(make, again), estimated=figure.estimate is not None)
                new[name] = replace(figure, interval=interval)
        return replace(found, **new)  # type: ignore[arg-type] # all of these are figures


def _draws(groups: int, resamples: int, seed: int) -> list[list[float]]:
    """How often each group is in each resample."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable bootstrap, no secret
    out = []
    for _ in range(resamples if groups > 1 else 0):
        times = Counter(chance.choices(range(groups), k=groups))
        out.append([float(times[g]) for g in range(groups)])
    return out


def _resampled(lines: Sequence[Any], draws: Sequence[Sequence[float]], make: Any) -> list[Any]:
    """The sum of the lines of each resample."""
    columns = [[float(v) for v in column] for column in zip(*lines, strict=True)]
    empty = [not any(column) for column in columns]
    return [
        make(*(0.0 if blank else sum(map(mul, times, column)) for column, blank in zip(columns, empty, strict=True)))
        for times in draws
    ]


def _interval(found: Iterable[Figure], *, estimated: bool) -> Pair | None:
    """The 95 % percentile interval of what resamples say: of the estimate, or of the bounds where there is none."""
    pairs = [figure.estimate if estimated else _pair(figure.low, figure.high) for figure in found]
    told = [pair for pair in pairs if pair is not None]
    if not told:
        return None
    lows, highs = sorted(low for low, _ in told), sorted(high for _, high in told)
    tail = (1.0 - LEVEL) / 2
    last = len(told) - 1
    return lows[math.floor(tail * last)], highs[math.ceil((1.0 - tail) * last)]
