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
    Ending,
    Sums,
    middle,
    totals,
    widen,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.offline.evaluation.tally import Cell, Place, Tally, When

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


# ---- sums that figures are made of ----------------------------------------------------------------------------------


class Line(dict[str, float]):
    """Sums over steps under one policy; what is not there is 0.

    Ends `_lo` and `_hi` are at best and at worst. `known_` are sums over steps outside of the lottery of shadow calls,
    `drawn_` weighted sums over those drawn in it, `judged_` sums over those that somebody looked at. `big` is the
    recorded cost of large calls, `big_more` of those that may have been made; `x` the cost of unrecorded large calls,
    `y` of those that may have been made, `shadow` that of the policy's own shadow calls. `_none` counts those of which
    not even a range is known. Steps are counted too: `n` in all, `lottery` of them accepted, `open` of these not drawn,
    `judged`, and the `weight` of those drawn. The line of always-large is the `ground` that others are held against.
    """

    __slots__ = ()

    def __missing__(self, key: str) -> float:
        """Return 0 for what was never added."""
        return 0.0

    def pair(self, name: str, prefix: str = "") -> Pair:
        """Both ends of a sum."""
        return self[f"{prefix}{name}_lo"], self[f"{prefix}{name}_hi"]


_SUM: Final = {name: i for i, name in enumerate(Sums._fields)}
_TRUTHS: Final = ("success", "loss", "harm")
_SAMPLES: Final = {"known": ("n", "large", "large_more"), "drawn": ("weight", "w_large", "w_more")}
"""Stratum -> what counts its steps, and their costs of large, in an estimate of money."""

Ranges = dict[str, tuple[int, int]]
Recipe = tuple[tuple[str, int, int], ...]
"""(entry of the line, entry of the sums, factor): how sums of one ending go into a line."""


@lru_cache(maxsize=4096)
def ends(worlds: int, finals: int) -> dict[str, tuple[int, int]]:
    """Return least and greatest success, loss and harm of one step, over the worlds and whoever may have answered."""
    found: dict[str, set[int]] = {name: set() for name in _TRUTHS}
    for bit, (small, large) in enumerate(WORLDS):
        if not worlds >> bit & 1:
            continue
        answers = ((BY_SMALL, (small,)), (BY_LARGE, (large,)), (BY_NOBODY, (False,)), (BY_OTHERS, (False, True)))
        for value in (value for who, values in answers if finals & who for value in values):
            found["success"].add(int(value))
            found["loss"].add(int(large) - int(value))
            found["harm"].add(max(0, int(large) - int(value)))
    return {name: (min(values), max(values)) for name, values in found.items()}


def recipe_of(key: Ending, ranges: Ranges, rate: float) -> Recipe:
    """Return how steps of one ending count. `rate` is the policy's own rate of shadow calls."""
    parts: list[tuple[str, str, int]] = [
        ("n", "n", 1),
        ("lottery", "n", key.stratum != "known"),
        ("open", "n", key.stratum in ("open", "judged")),
        ("judged", "n", key.stratum == "judged"),
        ("weight", "weight", key.stratum == "drawn"),
        ("esc_lo", "n", key.escalated == 1),
        ("esc_hi", "n", key.escalated > 0),
        ("own_lo", "own", 1),
        ("own_hi", "own", 1),
        ("own_hi", "own_more", 1),
        ("big", "large", 1),
        ("big_more", "large_more", 1),
    ]
    count, large, more = _SAMPLES.get(key.stratum, ("n", "", ""))
    for name, (low, high) in ends(key.worlds, key.finals).items():
        for where, by in (("", "n"), (f"{key.stratum}_", count)):
            parts += (f"{where}{name}_lo", by, low), (f"{where}{name}_hi", by, high)
    if large:
        big = f"{key.stratum}_big"
        parts += (f"{big}_lo", large, 1), (f"{big}_hi", large, 1), (f"{big}_hi", more, 1)
    for role, sure in (*((role, True) for role in key.sure), *((role, False) for role in key.maybe)):
        parts += _unknown_parts(role, ranges, rate, key.stratum, sure=sure)
    return tuple((line, _SUM[entry], int(factor)) for line, entry, factor in parts if factor)


def _unknown_parts(
    role: str, ranges: Ranges, rate: float, stratum: str, *, sure: bool
) -> Iterator[tuple[str, str, int]]:
    """Return how a call of unknown cost counts. Small and evidence are known to have been made, in whatever sample."""
    sampled = stratum in _SAMPLES and role in ("large", "shadow")
    into = "shadow" if role == "shadow" else "own" if role != "large" else "x" if sure else "y"
    bounds = ranges.get("large" if role in ("hedge", "shadow") else role)
    if bounds is None:
        yield f"{into}_none", "n", 1
        if sampled:
            yield "sample_none", "n", 1
        return
    low, high = (round(rate * bound) if role == "shadow" else bound for bound in bounds)
    if sure or into == "y":
        yield f"{into}_lo", "n", low
    yield f"{into}_hi", "n", high
    if sampled:
        count = _SAMPLES[stratum][0]
        yield f"{stratum}_big_lo", count, low * sure
        yield f"{stratum}_big_hi", count, high


# ---- figures from sums ----------------------------------------------------------------------------------------------


def _money_of(line: Line, ground: Line) -> tuple[Figure, Figure, Figure]:
    """Return (cost per step, saving, cost per success)."""
    scaled = ground["n"] * MONEY
    unbounded = line["own_none"] + line["x_none"] + line["y_none"] + line["shadow_none"]
    low = line["own_lo"] + line["big"] + line["x_lo"] + line["shadow_lo"]
    high = sum(line[name] for name in ("own_hi", "big", "big_more", "x_hi", "y_hi", "shadow_hi"))
    cost: Pair = (low, math.inf if unbounded else high)
    saving, success = _saving(line, ground), line.pair("success")
    estimate: Pair | None = None
    saved: Pair | None = None
    if ground["open"] == 0:
        estimate, saved = cost, saving
    elif ground["weight"] and not line["own_none"] and not line["sample_none"] and not ground["sample_none"]:
        own, big = line.pair("own"), _weighted(line, ground, "big")
        estimate = own[0] + big[0], own[1] + big[1]
        if (ratio := _over(estimate, _weighted(ground, ground, "big"))) is not None:
            saved = 1.0 - ratio[1], 1.0 - ratio[0]
        success = _weighted(line, ground, "success")
    per = _over(cost, line.pair("success"))
    per_estimate = None if estimate is None else _over(estimate, success)
    return _figure(cost, estimate, scaled), _figure(saving, saved), _figure(per, per_estimate, MONEY)


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
        most += _ratio(line["own_hi"] + line["big"] + line["big_more"] + shadow + x + y, alone)
        least += _ratio(line["own_lo"] + line["big"] + shadow + x, alone)
    if line["x_none"] or line["y_none"]:  # dear beyond all bounds, and made
        most.append(1.0)
        least.append(1.0)
    if rest_none or line["y_none"]:  # and not made
        least.append(0.0)
    if line["own_none"] or (line["shadow_none"] and rest_none):
        most.append(math.inf)
    return 1.0 - max(most, default=math.inf), 1.0 - min(least, default=-math.inf)


def _ratio(a: float, b: float) -> list[float]:
    """Return a / b, as far as that is a number: nothing over nothing is none."""
    return [a / b] if b > 0 else [math.inf] if a > 0 else []


def _weighted(line: Line, ground: Line, name: str, sample: str = "drawn", size: str = "weight") -> Pair:
    """Return both ends of a sum over all steps, those of the sample standing for the lottery."""
    scale, known, seen = ground["lottery"] / ground[size], line.pair(name, "known_"), line.pair(name, f"{sample}_")
    return known[0] + scale * seen[0], known[1] + scale * seen[1]


def _figure_of(name: str, line: Line, ground: Line) -> Figure:
    """Return one of the figures that have an interval."""
    if name == "saving":
        return _money_of(line, ground)[1]
    bounds, estimate = line.pair("esc" if name == "escalation" else name), None
    if name == "escalation" or ground["open"] == 0 or bounds[0] == bounds[1]:
        estimate = bounds
    elif ground["weight"]:
        estimate = _weighted(line, ground, name)
    elif ground["judged"]:
        estimate = _weighted(line, ground, name, "judged", "judged")
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


def _bounds(figure: Figure) -> Pair | None:
    return None if figure.low is None or figure.high is None else (figure.low, figure.high)


def _share(saving: Figure, best: Figure) -> Figure:
    """Return the share of the oracle's saving; of nothing there is none."""

    def divide(a: Pair | None, b: Pair | None) -> Pair | None:
        if a is None or b is None or b[0] <= 0:
            return None
        corners = [x / y for x in a for y in b]
        return min(corners), max(corners)

    return _figure(divide(_bounds(saving), _bounds(best)), divide(saving.estimate, best.estimate))


# ---- latency --------------------------------------------------------------------------------------------------------


Times = dict[tuple[str, int | None], list[int]]
"""Stratum and bucket of a latency (None: unknown) -> number of steps, and their weights."""


def _quantiles(times: Times, q: float, ground: Line) -> tuple[Pair | None, Pair | None]:
    """Return (least and greatest quantile, estimate) in seconds; unknown times may lie at either end."""
    bounds = _quantile({key: float(n) for key, (n, _) in times.items()}, q)
    if ground["open"] == 0 or not ground["weight"]:
        return bounds, bounds if ground["open"] == 0 else None
    scale = ground["lottery"] / ground["weight"]
    mixed = {key: float(n) for key, (n, _) in times.items() if key[0] == "known"}
    mixed |= {key: scale * weight for key, (_, weight) in times.items() if key[0] == "drawn"}
    return bounds, _quantile(mixed, q)


def _quantile(counts: Mapping[tuple[str, int | None], float], q: float) -> Pair | None:
    """Return where a share `q` of the steps is done, unknown times coming first, and last; None without steps."""
    known: dict[int, float] = defaultdict(float)
    unknown, wanted = 0.0, q * sum(counts.values())
    for (_, place), n in counts.items():
        if place is None:
            unknown += n
        else:
            known[place] += n
    if not wanted:
        return None

    def reached(passed: float) -> float:
        for place, n in sorted(known.items()):
            passed += n
            if passed >= wanted:
                return middle(place)
        return math.inf

    return 0.0 if unknown and unknown >= wanted else reached(unknown), reached(0.0)


def _latency(own: Times, alone: Times, q: float, ground: Line) -> Figure:
    pairs = zip(_quantiles(own, q, ground), _quantiles(alone, q, ground), strict=True)
    bounds, estimate = (None if a is None or b is None else _over(a, b) for a, b in pairs)
    return _figure(bounds, estimate)


# ---- a tally as figures ---------------------------------------------------------------------------------------------

Subset = tuple[str, str | None]
"""(`all`, None), (`step`, name) or (`kind`, kind)."""
ALL: Final[Subset] = ("all", None)
Rows = dict["Place", list[tuple[Ending, list[tuple[int, ...]]]]]
TimeRows = dict["When", list[tuple[int, ...]]]
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
        self._tally, self._wanted = tally, intervals
        self._ranges = _ranges_of(tally)
        self._widest: Ranges = {}
        for ranges in self._ranges.values():
            for role, limits in ranges.items():
                widen(self._widest, role, limits)
        self._recipes: dict[tuple[str | None, Ending, float], Recipe] = {}
        self._tables = {0: self._table(0)}
        places = self._tables[0][0]
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
        if not ground["weight"] or ground["sample_none"] or len(self._tally.currencies) > 1:
            return None
        low, high = ground.pair("big", "drawn_")
        return low / ground["weight"] / MONEY if low == high else None

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
        by_place, _ = self._family(family + 1)
        return sum(row[index][0] for cell in self.subsets[ALL] for key, row in by_place[cell] if key.escalated == 1)

    # ---- tables as sums ---------------------------------------------------------------------------------------------

    def _table(self, number: int) -> tuple[Rows, TimeRows]:
        """Return the rows of a table of the tally as sums at each place."""
        by_place: Rows = defaultdict(list)
        for (place, key), row in self._tally.rows[number].items():
            by_place[place].append((key, totals(row, len(_SUM))))
        return by_place, {when: totals(row, 2) for when, row in self._tally.times[number].items()}

    def _family(self, number: int) -> tuple[Rows, TimeRows]:
        """Return a table: that of the baselines, or of a family, of which one is kept at a time."""
        if number not in self._tables:
            self._tables = {0: self._tables[0], number: self._table(number)}
        return self._tables[number]

    def _line(self, number: int, index: int, places: Iterable[Place], rate: float = 0.0) -> Line:
        """Return the sums of one policy of a table over some places."""
        by_place, out = self._family(number)[0], Line()
        for place in places:
            for key, row in by_place[place]:
                if row[index][0]:
                    for entry, source, factor in self._recipe(place, key, rate):
                        out[entry] += row[index][source] * factor
        return out

    def _recipe(self, place: Place, key: Ending, rate: float) -> Recipe:
        """Return a recipe, made once per step name: a group of episodes holds many, and takes the widest range."""
        name = None if isinstance(place, int) else place[0]
        if (name, key, rate) not in self._recipes:
            ranges = self._widest if name is None else self._ranges[name]
            self._recipes[name, key, rate] = recipe_of(key, ranges, rate)
        return self._recipes[name, key, rate]

    def _times(self, number: int, index: int) -> dict[Subset, Times]:
        _, rows = self._family(number)
        out: dict[Subset, Times] = {}
        for subset, cells in self.subsets.items():
            chosen, times = set(cells), defaultdict[tuple[str, int | None], list[int]](lambda: [0, 0])
            for (cell, stratum, place), row in rows.items():
                if cell in chosen:
                    times[stratum, place] = list(map(add, times[stratum, place], row[index]))
            out[subset] = times
        return out

    # ---- sums as figures --------------------------------------------------------------------------------------------

    def _figures(self, number: int, index: int, rate: float = 0.0) -> dict[Subset, Figures]:
        out, times = {}, self._times(number, index)
        for subset, cells in self.subsets.items():
            line, ground = self._line(number, index, cells, rate), self.grounds[subset]
            cost, saving, per_success = _money_of(line, ground)
            if len(self._tally.currencies) > 1:
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
            lines = [self._line(number, index, [group], rate) for group in self._groups]
            out[ALL] = self._with_intervals(out[ALL], lines)
        return out

    def _with_intervals(self, found: Figures, lines: Sequence[Line]) -> Figures:
        again = [pair for pair in zip(_resampled(lines, self._draws), self._drawn_grounds, strict=True) if pair[1]["n"]]
        new: dict[str, Figure] = {}
        for name in self._wanted:
            figure: Figure = getattr(found, name)
            if figure.estimate is not None or figure.low is not None:
                drawn = (_figure_of(name, line, ground) for line, ground in again)
                new[name] = replace(figure, interval=_interval(drawn, estimated=figure.estimate is not None))
        return replace(found, **new)  # type: ignore[arg-type] # all of these are figures


def _ranges_of(tally: Tally) -> dict[str, Ranges]:
    """Return between which costs an unrecorded call lies, by step name and role."""
    found: dict[str, Ranges] = defaultdict(dict)
    for (step, role), limits in tally.ranges.items():
        found[step][role] = limits
    for ranges in found.values():
        if "large" in ranges and "shadow" not in ranges:
            low, high = ranges["large"]
            ranges["large"] = (min(low, ranges.get("small", (0, 0))[0]), high)
    return found


def _draws(groups: int, resamples: int, seed: int) -> list[list[float]]:
    """Return how often each group is in each resample."""
    chance = random.Random(seed)  # a repeatable bootstrap, no secret
    out = []
    for _ in range(resamples if groups > 1 else 0):
        times = Counter(chance.choices(range(groups), k=groups))
        out.append([float(times[g]) for g in range(groups)])
    return out


def _resampled(lines: Sequence[Line], draws: Sequence[Sequence[float]]) -> list[Line]:
    """Return the sum of the lines of each resample."""
    columns = {
        name: [float(line[name]) for line in lines] for name in sorted({name for line in lines for name in line})
    }
    return [Line({name: sum(map(mul, times, column)) for name, column in columns.items()}) for times in draws]


def _interval(found: Iterable[Figure], *, estimated: bool) -> Pair | None:
    """Return the 95 % percentile interval of what resamples say: of the estimate, or of the bounds without one."""
    pairs = [figure.estimate if estimated else _bounds(figure) for figure in found]
    known = [pair for pair in pairs if pair is not None]
    return (percentiles([p[0] for p in known])[0], percentiles([p[1] for p in known])[1]) if known else None


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
