"""From a tally to figures: the one place that says what steps cost, or would have cost, and how good their answers are.

A figure that the journal cannot tell is an interval. `low` and `high` hold whatever the unrecorded answers were, and as
far as money goes if an unrecorded call costs no less and no more than the recorded ones of that tier in steps of that
name. Escalated steps are the harder and dearer ones, so where no shadow call says what large costs on accepted steps,
it is only taken to cost no less than small. `estimate` rests on the logged probabilities of shadow calls.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from operator import add, mul
from typing import TYPE_CHECKING, Final, Literal

from cascade_agent.offline.evaluation.dataset import MONEY, WORLDS
from cascade_agent.offline.evaluation.metrics import percentiles
from cascade_agent.offline.evaluation.plain import Plain
from cascade_agent.offline.evaluation.tally import (
    BASELINES,
    BY_LARGE,
    BY_NOBODY,
    BY_OTHERS,
    BY_SMALL,
    Sums,
    middle,
    totals,
    widen,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.offline.evaluation.tally import Cell, Ending, Place, Row, Tally, When

Pair = tuple[float, float]
RESAMPLES: Final = 300
INTERVALS: Final = ("success", "loss", "harm", "escalation", "saving")

Basis = Literal["all_escalated", "propensity", "share", "none"]
"""Figures of quality rest on: every step was escalated, so nothing is to be estimated; shadow calls with a logged
probability; labels of people or an evaluator (a share that is assumed not to be chosen by outcome); or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Plain):
    """One figure. None is unknown.

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

    @property
    def point(self) -> float | None:
        """The figure as one number: its value, else the middle of the estimate; None where there are but bounds."""
        found = self.value
        return found if found is not None or self.estimate is None else sum(self.estimate) / 2

    @property
    def bounds(self) -> Pair | None:
        """`low` and `high` where both are known."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_json(self) -> JsonObject:
        """As plain JSON, its `value` too."""
        return {"value": self.value, **Plain.to_json(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Plain):
    """The figures of some steps under a policy. Shares and ratios are plain numbers: 0.02 is 2 %.

    `success` is the share of right answers (large's answer counts as right where it was the measure of small's),
    `loss` that of always-large less it, `harm` the share of steps whose answer is wrong and large's right. `saving` is
    one less cost over cost of always-large, drafts, evidence and the policy's own shadow calls included; `oracle_share`
    that over the saving of the oracle. `cost` is per step, `cost_per_success` per right answer. `escalation` is the
    share of steps that reach large. `p50` and `p95` are latencies over those of always-large, to 2 %.
    """

    steps: int
    basis: Basis
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


class Line(dict[str, float]):
    """Sums over steps under one policy; what is not there is 0.

    Ends `_lo` and `_hi` are at best and at worst. `big` is the recorded cost of large calls, `big_more` of those that
    may have been made; `x` the cost of unrecorded large calls, `y` of those that may have been made, `shadow` that of
    the policy's own shadow calls, `own` that of small and evidence. `_none` counts those of which not even a range is
    known. Steps are counted too: `n` in all, `lottery` of them accepted, `open` of these not drawn, `judged`, and the
    `weight` of those drawn. What begins with `known_`, `drawn_` or `judged_` is of the steps of that stratum alone,
    drawn ones weighted. The line of always-large is the `ground` that others are held against.
    """

    __slots__ = ()

    def __missing__(self, key: str) -> float:
        """Return 0 for what was never added."""
        return 0.0

    def pair(self, name: str) -> Pair:
        """Both ends of a sum."""
        return self[f"{name}_lo"], self[f"{name}_hi"]

    def large(self, sample: str = "") -> Pair:
        """Least and greatest cost of large's calls; infinite where it is not known."""
        low = sum(self[sample + name] for name in ("big", "x_lo", "shadow_lo"))
        high = sum(self[sample + name] for name in ("big", "big_more", "x_hi", "y_hi", "shadow_hi"))
        return low, math.inf if any(self[f"{sample}{name}_none"] for name in ("x", "y", "shadow")) else high


_TRUTHS: Final = ("success", "loss", "harm")
_SUM: Final = {name: i for i, name in enumerate(Sums._fields)}
_WEIGHTED: Final = {"n": "weight", "large": "w_large", "large_more": "w_more"}

Ranges = dict[str, tuple[int, int]]
Recipe = tuple[tuple[str, int, int], ...]
"""(entry of the line, entry of the sums, factor): how sums of one ending go into a line."""


@lru_cache(maxsize=4096)
def ends(worlds: int, finals: int) -> dict[str, tuple[int, int]]:
    """Return least and greatest success, loss and harm of one step, over the worlds and whoever may have answered."""
    found: dict[str, set[int]] = {name: set() for name in _TRUTHS}
    for bit, (small, large) in enumerate(WORLDS):
        answers = ((BY_SMALL, (small,)), (BY_LARGE, (large,)), (BY_NOBODY, (False,)), (BY_OTHERS, (False, True)))
        for value in (value for who, values in answers if finals & who and worlds >> bit & 1 for value in values):
            found["success"].add(int(value))
            found["loss"].add(int(large) - int(value))
            found["harm"].add(int(large and not value))
    return {name: (min(values), max(values)) for name, values in found.items()}


def recipe_of(key: Ending, ranges: Ranges, rate: float) -> Recipe:
    """Return how steps of one ending count. `rate` is the policy's own rate of shadow calls."""
    stratum = key.stratum
    parts: list[tuple[str, str, int]] = [
        ("n", "n", 1),
        ("lottery", "n", stratum != "known"),
        ("open", "n", stratum in ("open", "judged")),
        ("judged", "n", stratum == "judged"),
        ("weight", "weight", stratum == "drawn"),
        ("esc_lo", "n", key.escalated == 1),
        ("esc_hi", "n", key.escalated > 0),
        ("own_lo", "own", 1),
        ("own_hi", "own", 1),
        ("own_hi", "own_more", 1),
    ]
    sampled: list[tuple[str, str, int]] = [("big", "large", 1), ("big_more", "large_more", 1)]
    for name, (low, high) in ends(key.worlds, key.finals).items():
        sampled += (f"{name}_lo", "n", low), (f"{name}_hi", "n", high)
    for role, sure in (*((role, True) for role in key.sure), *((role, False) for role in key.maybe)):
        into = "shadow" if role == "shadow" else "own" if role != "large" else "x" if sure else "y"
        bounds, share = ranges.get("large" if role in ("hedge", "shadow") else role), rate if into == "shadow" else 1
        low, high = (round(share * bound) for bound in bounds or (0, 0))
        into_parts = parts if into == "own" else sampled  # small and evidence were made, in whatever sample
        into_parts.append((f"{into}_none", "n", bounds is None))
        into_parts += (f"{into}_lo", "n", low * (sure or into == "y")), (f"{into}_hi", "n", high)
    parts += sampled
    if stratum != "open":
        weighted = _WEIGHTED if stratum == "drawn" else {}
        parts += [(f"{stratum}_{line}", weighted.get(entry, entry), factor) for line, entry, factor in sampled]
    return tuple((line, _SUM[entry], int(factor)) for line, entry, factor in parts if factor)


# ---- figures from sums ----------------------------------------------------------------------------------------------


def _money_of(line: Line, ground: Line) -> tuple[Figure, Figure, Figure]:
    """Return (cost per step, saving, cost per success)."""
    own, big, success, saving = line.pair("own"), line.large(), line.pair("success"), _saving(line, ground)
    cost = own[0] + big[0], math.inf if line["own_none"] else own[1] + big[1]
    per = _over(cost, success)
    estimate: Pair | None = None
    saved: Pair | None = None
    if ground["open"] == 0:
        estimate, saved = cost, saving
    elif ground["weight"] and not line["own_none"]:
        big, alone = (_weighted(ground, of.large("known_"), of.large("drawn_")) for of in (line, ground))
        if math.isfinite(big[1]) and math.isfinite(alone[1]):
            estimate = own[0] + big[0], own[1] + big[1]
            if (ratio := _over(estimate, alone)) is not None:
                saved = 1.0 - ratio[1], 1.0 - ratio[0]
            success = _weighted(ground, line.pair("known_success"), line.pair("drawn_success"))
    per_estimate = None if estimate is None else _over(estimate, success)
    return _figure(cost, estimate, ground["n"] * MONEY), _figure(saving, saved), _figure(per, per_estimate, MONEY)


def _saving(line: Line, ground: Line) -> Pair:
    """Return least and greatest saving; infinite where it is unknown.

    The cost of an unrecorded large call stands on both sides of the ratio, so each of them moves it one way only: the
    ends are where those that the policy makes are all cheap or all dear, and the others too.
    """
    most: list[float] = []
    least: list[float] = []
    rest_none = ground["x_none"] - line["x_none"] - line["y_none"]
    for one, two in product(("lo", "hi"), repeat=2):
        others = ground[f"x_{one}"] - line[f"x_{one}"] - line[f"y_{one}"]
        shadow, x, y = line[f"shadow_{one}"], line[f"x_{two}"], line[f"y_{two}"]
        alone = ground["big"] + others + x + y
        dear = line["own_hi"] + line["big"] + line["big_more"] + shadow + x + y
        cheap = line["own_lo"] + line["big"] + shadow + x
        for ratios, cost in ((most, dear), (least, cheap)):
            if alone > 0 or cost > 0:  # nothing over nothing is no number
                ratios.append(cost / alone if alone > 0 else math.inf)
    if line["x_none"] or line["y_none"]:  # dear beyond all bounds, and made
        most.append(1.0)
        least.append(1.0)
    if rest_none or line["y_none"]:  # and not made
        least.append(0.0)
    if line["own_none"] or (line["shadow_none"] and rest_none):
        most.append(math.inf)
    return 1.0 - max(most, default=math.inf), 1.0 - min(least, default=-math.inf)


def _weighted(ground: Line, known: Pair, seen: Pair, size: str = "weight") -> Pair:
    """Return both ends of a sum over all steps, those `seen` standing for the whole lottery."""
    scale = ground["lottery"] / ground[size]
    return known[0] + scale * seen[0], known[1] + scale * seen[1]


def _figure_of(name: str, line: Line, ground: Line) -> Figure:
    """Return one of the figures that have an interval."""
    if name == "saving":
        return _money_of(line, ground)[1]
    bounds, estimate = line.pair("esc" if name == "escalation" else name), None
    if name == "escalation" or ground["open"] == 0 or bounds[0] == bounds[1]:
        estimate = bounds
    elif ground["weight"]:
        estimate = _weighted(ground, line.pair(f"known_{name}"), line.pair(f"drawn_{name}"))
    elif ground["judged"]:
        estimate = _weighted(ground, line.pair(f"known_{name}"), line.pair(f"judged_{name}"), "judged")
    return _figure(bounds, estimate, ground["n"])


def _basis(ground: Line) -> Basis:
    if not ground["lottery"]:
        return "all_escalated"
    return "propensity" if ground["weight"] else "share" if ground["judged"] else "none"


def _figure(bounds: Pair | None, estimate: Pair | None = None, by: float = 1.0) -> Figure:
    """Return bounds and an estimate, each over a number; an infinite bound is unknown."""
    low, high = (value / by if math.isfinite(value) else None for value in bounds or (math.inf, math.inf))
    finite = estimate is not None and all(map(math.isfinite, estimate))
    return Figure(low=low, high=high, estimate=(estimate[0] / by, estimate[1] / by) if estimate and finite else None)


def _over(a: Pair, b: Pair) -> Pair | None:
    """Return an interval of numbers >= 0 over another; None where it may be divided by nothing."""
    return (a[0] / b[1] if math.isfinite(b[1]) else 0.0, a[1] / b[0]) if b[0] > 0 else None


def _share(saving: Figure, best: Figure) -> Figure:
    """Return the share of the oracle's saving; of nothing there is none."""

    def divide(a: Pair | None, b: Pair | None) -> Pair | None:
        if a is None or b is None or b[0] <= 0:
            return None
        corners = [x / y for x in a for y in b]
        return min(corners), max(corners)

    return _figure(divide(saving.bounds, best.bounds), divide(saving.estimate, best.estimate))


Times = dict[tuple[str, int | None], tuple[int, ...]]
"""Stratum and bucket of a latency (None: unknown) -> number of steps, and their weights."""


def _latency(own: Times, alone: Times, q: float, ground: Line) -> Figure:
    """Return a quantile of the latencies over that of always-large."""
    pairs = zip(_quantiles(own, q, ground), _quantiles(alone, q, ground), strict=True)
    bounds, estimate = (None if a is None or b is None else _over(a, b) for a, b in pairs)
    return _figure(bounds, estimate)


def _quantiles(times: Times, q: float, ground: Line) -> tuple[Pair | None, Pair | None]:
    """Return (least and greatest quantile, estimate) in seconds; unknown times may lie at either end."""
    bounds = _quantile(((place, n) for (_, place), (n, _) in times.items()), q)
    if ground["open"] == 0 or not ground["weight"]:
        return bounds, bounds if ground["open"] == 0 else None
    scale = ground["lottery"] / ground["weight"]
    known = [(place, n) for (stratum, place), (n, _) in times.items() if stratum == "known"]
    drawn = [(place, scale * weight) for (stratum, place), (_, weight) in times.items() if stratum == "drawn"]
    return bounds, _quantile((*known, *drawn), q)


def _quantile(counts: Iterable[tuple[int | None, float]], q: float) -> Pair | None:
    """Return where a share `q` of the steps is done, unknown times coming first, and last; None without steps."""
    known: dict[int, float] = defaultdict(float)
    unknown = total = 0.0
    for place, n in counts:
        total += n
        if place is None:
            unknown += n
        else:
            known[place] += n
    wanted = q * total
    if not wanted:
        return None

    def reached(passed: float) -> float:
        for place, n in sorted(known.items()):
            passed += n
            if passed >= wanted:
                return middle(place)
        return math.inf

    return 0.0 if unknown and unknown >= wanted else reached(unknown), reached(0.0)


Subset = tuple[str, str | None]
"""(`all`, None), (`step`, name) or (`kind`, kind)."""
ALL: Final[Subset] = ("all", None)
Rows = dict["Place", list[tuple["Ending", "Row"]]]
_ALONE, _ORACLE = BASELINES.index("always large"), BASELINES.index("oracle")


class Estimates:
    """The figures of a tally: of the baselines and of its policies, for all steps, by step name and by kind.

    `grounds` are the sums that all policies share, by subset. `parts` leaves step names and kinds out, `intervals`
    names the figures that get one.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
        parts: bool = True,
        intervals: Sequence[str] = INTERVALS,
    ) -> None:
        self._tally, self._wanted, self._ranges = tally, intervals, _ranges_of(tally)
        self._mixed = len(tally.currencies) > 1
        self._recipes: dict[tuple[str | None, Ending, float], Recipe] = {}
        self._tables: dict[int, tuple[Rows, dict[When, Row]]] = {}
        places = self._table(0)[0]
        self._groups = sorted(place for place in places if isinstance(place, int))
        self.subsets: dict[Subset, list[Cell]] = {ALL: []}
        for cell in sorted(place for place in places if not isinstance(place, int)):
            for subset in (ALL, ("step", cell[0]), ("kind", cell[1])) if parts else (ALL,):
                self.subsets.setdefault(subset, []).append(cell)
        self.grounds = {subset: self._line(0, _ALONE, cells) for subset, cells in self.subsets.items()}
        self._alone = self._times(0, _ALONE)
        self._draws: list[list[float]] = []
        self._best: dict[Subset, Figure] = {}
        self._best = {subset: found.saving for subset, found in self._figures(0, _ORACLE).items()}
        self._draws = _draws(len(self._groups), resamples, seed)
        self._drawn_grounds = _resampled([self._line(0, _ALONE, [group]) for group in self._groups], self._draws)

    @property
    def accepted_price(self) -> float | None:
        """The mean cost of large on steps that small answered, by their shadow calls; None is unknown."""
        ground = self.grounds[ALL]
        low, high = ground.large("drawn_")
        if not ground["weight"] or low != high or math.isinf(ground.large("known_")[1]) or self._mixed:
            return None
        return low / ground["weight"] / MONEY

    def recorded(self) -> Figures:
        """Return what all steps came to as they ran."""
        return self.baseline("as recorded")[ALL]

    def baseline(self, title: str) -> dict[Subset, Figures]:
        """Return the figures of one of `BASELINES`."""
        return self._figures(0, BASELINES.index(title))

    def policy(self, number: int) -> dict[Subset, Figures]:
        """Return the figures of one policy of the plan."""
        family, index = self._tally.plan.places[number]
        return self._figures(family + 1, index, self._tally.plan.policies[number].shadow_rate)

    def escalated(self, number: int) -> int:
        """Return how many steps surely reach large under one policy of the plan."""
        family, index = self._tally.plan.places[number]
        rows, _ = self._table(family + 1)
        return sum(row[index][0] for cell in self.subsets[ALL] for key, row in rows[cell] if key.escalated == 1)

    def _table(self, number: int) -> tuple[Rows, dict[When, Row]]:
        """Return the sums of a table of the tally at each place, and its times; one family is kept at a time."""
        if number not in self._tables:
            rows: Rows = defaultdict(list)
            for (place, key), row in self._tally.rows[number].items():
                rows[place].append((key, totals(row)))
            times = {when: totals(row) for when, row in self._tally.times[number].items()}
            self._tables = {n: table for n, table in self._tables.items() if n == 0} | {number: (rows, times)}
        return self._tables[number]

    def _line(self, number: int, index: int, places: Iterable[Place], rate: float = 0.0) -> Line:
        """Return the sums of one policy of a table over some places."""
        rows, out = self._table(number)[0], Line()
        for place in places:
            for key, row in rows[place]:
                if row[index][0]:
                    for entry, source, factor in self._recipe(place, key, rate):
                        out[entry] += row[index][source] * factor
        return out

    def _recipe(self, place: Place, key: Ending, rate: float) -> Recipe:
        """Return a recipe, made once per step name: a group of episodes holds many, and takes the widest range."""
        of = None if isinstance(place, int) else place[0], key, rate
        if of not in self._recipes:
            self._recipes[of] = recipe_of(key, self._ranges[of[0]], rate)
        return self._recipes[of]

    def _times(self, number: int, index: int) -> dict[Subset, Times]:
        out: dict[Subset, Times] = {}
        for subset, cells in self.subsets.items():
            chosen, times = set(cells), out.setdefault(subset, {})
            for (cell, stratum, place), row in self._table(number)[1].items():
                if cell in chosen:
                    times[stratum, place] = tuple(map(add, times.get((stratum, place), (0, 0)), row[index]))
        return out

    def _figures(self, number: int, index: int, rate: float = 0.0) -> dict[Subset, Figures]:
        out, times = {}, self._times(number, index)
        for subset, cells in self.subsets.items():
            line, ground = self._line(number, index, cells, rate), self.grounds[subset]
            cost, saving, per_success = _money_of(line, ground)
            if self._mixed:
                cost = saving = per_success = Figure()
            out[subset] = Figures(
                steps=int(ground["n"]),
                basis=_basis(ground),
                **{name: _figure_of(name, line, ground) for name in (*_TRUTHS, "escalation")},
                cost=cost,
                saving=saving,
                oracle_share=_share(saving, self._best.get(subset, Figure())),
                cost_per_success=per_success,
                p50=_latency(times[subset], self._alone[subset], 0.5, ground),
                p95=_latency(times[subset], self._alone[subset], 0.95, ground),
            )
        if self._draws:
            lines = _resampled([self._line(number, index, [group], rate) for group in self._groups], self._draws)
            out[ALL] = self._with_intervals(out[ALL], lines)
        return out

    def _with_intervals(self, found: Figures, lines: Sequence[Line]) -> Figures:
        """Return figures with 95 % percentile intervals of what resamples say: of the estimate, or of the bounds."""
        again = [pair for pair in zip(lines, self._drawn_grounds, strict=True) if pair[1]["n"]]
        new: dict[str, Figure] = {}
        for name in self._wanted:
            figure: Figure = getattr(found, name)
            if figure.estimate is not None or figure.low is not None:
                drawn = [_figure_of(name, line, ground) for line, ground in again]
                pairs = [one.bounds if figure.estimate is None else one.estimate for one in drawn]
                known = [pair for pair in pairs if pair is not None]
                low, high = ([pair[i] for pair in known] for i in (0, 1))
                interval = (percentiles(low)[0], percentiles(high)[1]) if known else None
                new[name] = replace(figure, interval=interval)
        return replace(found, **new)  # type: ignore[arg-type] # all of these are figures


def _ranges_of(tally: Tally) -> dict[str | None, Ranges]:
    """Return between which costs an unrecorded call lies, by step name and role; under None the widest."""
    found: dict[str | None, Ranges] = defaultdict(dict)
    for (step, role), limits in tally.ranges.items():
        found[step][role] = limits
    for ranges in found.values():
        if "large" in ranges and "shadow" not in ranges:
            low, high = ranges["large"]
            ranges["large"] = (min(low, ranges.get("small", (0, 0))[0]), high)
    widest: Ranges = {}
    for role, limits in (pair for ranges in found.values() for pair in ranges.items()):
        widen(widest, role, limits)
    found[None] = widest
    return found


def _draws(groups: int, resamples: int, seed: int) -> list[list[float]]:
    """Return how often each group is in each resample."""
    chance = random.Random(seed)  # a repeatable bootstrap, no secret
    drawn = (Counter(chance.choices(range(groups), k=groups)) for _ in range(resamples if groups > 1 else 0))
    return [[float(times[group]) for group in range(groups)] for times in drawn]


def _resampled(lines: Sequence[Line], draws: Sequence[Sequence[float]]) -> list[Line]:
    """Return the sum of the lines of each resample."""
    names = sorted({name for line in lines for name in line})
    columns = {name: [float(line[name]) for line in lines] for name in names}
    return [Line({name: sum(map(mul, times, column)) for name, column in columns.items()}) for times in draws]


def less(low: float | None, high: float | None, digits: int = 1) -> str:
    """Return a saving as people say it: `20.0% less`, `between 7.5% more and 68.0% less`, `at most 30.0% less`."""
    ends = sorted(value for value in (low, high) if value is not None)
    numbers = [f"{100 * abs(value):.{digits}f}" for value in ends]
    words = ["less" if value >= 0 else "more" for value in ends]
    if len(ends) < 2:
        return f"{'at least' if (high is None) == (ends[0] >= 0) else 'at most'} {numbers[0]}% {words[0]}"
    if words[0] != words[1]:
        return f"between {numbers[0]}% {words[0]} and {numbers[1]}% {words[1]}"
    one, two = sorted(numbers, key=float)
    return f"{one}% {words[0]}" if one == two else f"between {one} and {two}% {words[0]}"
