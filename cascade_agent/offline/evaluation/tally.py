"""Sums over many steps under many policies, in memory that does not grow with their number.

All sums are of whole numbers, so a tally does not depend on the order of the steps, and the merge of the tallies of any
parts of a journal is the tally of the whole, to the last bit.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add, sub
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import SideCall
from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.dataset import WORLDS, contradict, money, text_hash
from cascade_agent.offline.evaluation.replay import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cascade_agent.core.records import StepTrace
    from cascade_agent.offline.evaluation.dataset import Facts, LabelledStep
    from cascade_agent.offline.evaluation.replay import Replayed

K = TypeVar("K")

GROUPS: Final = 400
"""Episodes are gathered into so many groups, by a hash, and groups are drawn for intervals (random groups: Wolter,
Introduction to Variance Estimation, 2007, chapter 2). The standard error of an interval's width is about 4 % then."""

MAX_POLICIES: Final = 1_000
_SKETCH: Final = 4_096
_RATIO: Final = math.log(1.02)  # latencies are counted in buckets 2 % wide

BY_SMALL, BY_LARGE, BY_NOBODY, BY_OTHERS = 1, 2, 4, 8
"""Those who may have answered, as bits; `BY_OTHERS` is a human, or an answer of which nothing is known."""
_BITS: Final = {None: BY_NOBODY, "small": BY_SMALL, "large": BY_LARGE, "human": BY_OTHERS}

BASELINES: Final = ("as recorded", "always small", "always large", "oracle")
"""The baselines of policies; the oracle escalates exactly where small is wrong and large right."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The policies to compare, in the order in which they were asked for, and how they are swept.

    A family are policies that differ in their threshold alone, ascending; `places` says for each policy which family
    and which place in it is its own. A plan without policies counts what was recorded.
    """

    titles: tuple[str, ...] = ()
    policies: tuple[Policy, ...] = ()
    families: tuple[tuple[Policy, ...], ...] = ()
    places: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, policies: Policy | Mapping[str, Policy] | None = None, grid: Sequence[float] = ()) -> Self:
        """Return the plan of each policy as it is, and with each threshold of the grid in the place of its own."""
        if policies is None:
            policies = Policy()
        named = {"policy": policies} if isinstance(policies, Policy) else dict(policies)
        wanted: dict[str, Policy] = {}
        for title, policy in named.items():
            wanted[title] = policy
            for threshold in dict.fromkeys(grid):
                at = f"threshold {threshold:g}" if len(named) == 1 else f"{title} at {threshold:g}"
                wanted[at] = policy.with_threshold(threshold)
        if not 1 <= len(wanted) <= MAX_POLICIES:
            msg = f"{len(wanted)} policies to compare; expected 1 to {MAX_POLICIES}: a coarser grid says as much"
            raise ConfigurationError(msg)
        families: dict[str, dict[float, Policy]] = {}
        keys: list[tuple[str, float]] = []
        for policy in wanted.values():
            base = policy.base_threshold
            same = policy.with_threshold(None if base is None else 0.0).version
            keys.append((same, -1.0 if base is None else float(base)))
            families.setdefault(same, {})[keys[-1][1]] = policy
        ascending = {same: dict(sorted(members.items())) for same, members in families.items()}
        order = list(ascending)
        return cls(
            titles=tuple(wanted),
            policies=tuple(wanted.values()),
            families=tuple(tuple(members.values()) for members in ascending.values()),
            places=tuple((order.index(same), list(ascending[same]).index(value)) for same, value in keys),
        )


class Ending(NamedTuple):
    """The way a step ended, or may have ended, under a policy: the key of the sums that are kept of it.

    `finals` are bits of who may have answered, `escalated` is 0, 1, or 2 for "may be". `sure` names calls that were
    made at an unknown cost, `maybe` calls that may have been made at an unknown cost.
    """

    stratum: str
    finals: int
    escalated: int
    worlds: int
    sure: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()


class Sums(NamedTuple):
    """Sums over steps with the same `Ending`; money in trillionths.

    `own` is what small and evidence cost, `large` what large cost, `own_more` and `large_more` what they may have cost
    more. `weight` is of drawn steps, `w_large` and `w_more` are `large` and `large_more` times it.
    """

    n: int
    own: int
    large: int
    own_more: int
    large_more: int
    weight: int
    w_large: int
    w_more: int


Row = list[tuple[int, ...]]
"""Differences over the policies of a family: the sums of one are those of all places up to its own."""
Cell = tuple[str, str]
"""Name and kind of a step."""
Place = Cell | int
"""Where sums are kept: in the cell of a step, and in the group of its episode."""
When = tuple[Cell, str, int | None]
"""Cell, stratum and bucket of a latency; None where it is unknown."""


@dataclass(slots=True)
class Tally:
    """Sums over steps. Two of the same plan are equal when they are of the same steps, in whatever order.

    `rows` and `times` hold a table for the `BASELINES`, then one for each family of the plan: by where and how a step
    ended, a row of `Sums`, or of numbers of steps and their weights. `ranges` are the least and the greatest recorded
    cost of a call, by step name and role.
    """

    plan: SweepPlan
    steps: int = 0
    unfinished: int = 0
    conflicts: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    currencies: set[str] = field(default_factory=set)
    validators: set[str] = field(default_factory=set)
    episodes: set[int] = field(default_factory=set)
    rows: list[dict[tuple[Place, Ending], Row]] = field(default_factory=list)
    times: list[dict[When, Row]] = field(default_factory=list)
    ranges: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the tables."""
        self.rows = self.rows or [{} for _ in (BASELINES, *self.plan.families)]
        self.times = self.times or [{} for _ in (BASELINES, *self.plan.families)]

    def add(self, step: LabelledStep) -> None:
        """Count a step under every policy."""
        trace, facts = step.trace, step.facts
        self.steps += 1
        if facts is None:
            self.unfinished += 1
            return
        if step.outcome.source is not None:
            self.sources[step.outcome.source] += 1
        self.conflicts += contradict(step.labels)
        if trace.cost:
            self.currencies.add(trace.currency)
        self.validators.update(verdict.validator for verdict in step.small.verdicts)
        number = text_hash(step.episode)
        self.episodes.add(number)
        if len(self.episodes) > 2 * _SKETCH:  # the least hashes say by where they lie how many there are
            self.episodes = set(sorted(self.episodes)[:_SKETCH])
        cell, group = (trace.step, trace.kind), number % GROUPS
        self.count(cell, group, facts)
        for family, rows, times in zip(self.plan.families, self.rows[1:], self.times[1:], strict=True):
            for first, end, replayed in sweep(trace, family):
                ending, sums, latency = _ending(trace, family[first], replayed, facts)
                span = first, end, len(family)
                for place in (cell, group):
                    _add_to(rows, (place, ending), sums, span)
                _add_to(times, _when(cell, facts, latency), (1, facts.weight), span)

    def count(self, cell: Cell, group: int, facts: Facts, *, sign: int = 1) -> None:
        """Count what was recorded of a step; with a `sign` of -1 take it back, for facts that a late label changes."""
        for role, cost in facts.priced:
            if cost is not None:
                widen(self.ranges, (cell[0], role), (cost, cost))
        spans = [(i, i + 1, len(BASELINES)) for i in range(len(BASELINES))]
        for span, (ending, sums) in zip(spans, _baselines(facts), strict=True):
            for place in (cell, group):
                _add_to(self.rows[0], (place, ending), sums, span, sign)
        own = None if facts.skipped else facts.small_time
        for span, time in zip(spans, (facts.time, own, facts.large_time), strict=False):
            _add_to(self.times[0], _when(cell, facts, time), (1, facts.weight), span, sign)

    def merge(self, other: Tally) -> Tally:
        """Add another tally to this one, and return it. The other is left as it was."""
        if self.plan != other.plan:
            msg = "tallies of different policies cannot be merged; sweep every part with the same plan"
            raise ConfigurationError(msg)
        for name in ("steps", "unfinished", "conflicts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sources.update(other.sources)
        for name in ("currencies", "validators", "episodes"):
            getattr(self, name).update(getattr(other, name))
        for mine, theirs in zip(self.rows, other.rows, strict=True):
            _merge_rows(mine, theirs)
        for mine_times, theirs_times in zip(self.times, other.times, strict=True):
            _merge_rows(mine_times, theirs_times)
        for of, limits in other.ranges.items():
            widen(self.ranges, of, limits)
        return self

    @property
    def unseen(self) -> int:
        """Number of steps of which nothing is known: every world is possible."""
        anything, alone = (1 << len(WORLDS)) - 1, BASELINES.index("always large")
        rows = (row for (place, key), row in self.rows[0].items() if key.worlds == anything and type(place) is tuple)
        return sum(totals(row)[alone][0] for row in rows)

    @property
    def episode_count(self) -> tuple[int, bool]:
        """Number of episodes, and whether it is exact (Bar-Yossef et al. 2002: k least hashes)."""
        least = sorted(self.episodes)[:_SKETCH]
        if len(least) < _SKETCH:
            return len(least), True
        return round((_SKETCH - 1) * 2**64 / least[-1]), False


def _when(cell: Cell, facts: Facts, latency: float | None) -> When:
    return cell, facts.stratum, None if latency is None else bucket(latency)


def _add_to(table: dict[K, Row], key: K, sums: tuple[int, ...], span: tuple[int, int, int], sign: int = 1) -> None:
    """Add to a row of differences: what begins at the first place, less what ends before the end."""
    first, end, size = span
    row = table.get(key)
    if row is None:
        row = table[key] = [(0,) * len(sums)] * size
    more, less = (add, sub) if sign > 0 else (sub, add)
    row[first] = tuple(map(more, row[first], sums))
    if end < size:
        row[end] = tuple(map(less, row[end], sums))


def _merge_rows(mine: dict[K, Row], theirs: Mapping[K, Row]) -> None:
    for key, row in theirs.items():
        own = mine.get(key)
        mine[key] = list(row) if own is None else [tuple(map(add, a, b)) for a, b in zip(own, row, strict=True)]


def totals(row: Row) -> Row:
    """Return a row of differences as the sums at each place."""
    return list(accumulate(row, lambda a, b: tuple(map(add, a, b))))


def widen(ranges: dict[K, tuple[int, int]], of: K, limits: tuple[int, int]) -> None:
    """Take limits into a range."""
    least, most = ranges.get(of, limits)
    ranges[of] = min(limits[0], least), max(limits[1], most)


def bucket(latency: float) -> int:
    """Return the number of the bucket of a latency in seconds."""
    return round(math.log(max(latency, 1e-6)) / _RATIO)


def middle(number: int) -> float:
    """Return the latency in seconds that stands for a bucket."""
    return math.exp(number * _RATIO)


def _sums(facts: Facts, own: int = 0, large: int = 0, own_more: int = 0, large_more: int = 0) -> Sums:
    weight = facts.weight
    return Sums(1, own, large, own_more, large_more, weight, weight * large, weight * large_more)


def _baselines(facts: Facts) -> Iterator[tuple[Ending, Sums]]:
    """Return how a step ends, and its sums, under each of the `BASELINES`."""
    stratum, worlds = facts.stratum, facts.worlds
    small, large = None if facts.skipped else facts.small, facts.large
    cheap, dear = ("small",) if small is None else (), ("large",) if large is None else ()
    small, large = small or 0, large or 0
    unknown = tuple(sorted(name for name, cost in facts.calls if cost is None))
    paid = sum(cost or 0 for _, cost in facts.calls)
    finals, asked = _BITS.get(facts.final, BY_LARGE), int(facts.asked_large)
    yield Ending(stratum, finals, asked, worlds, unknown), _sums(facts, paid)
    by_small = Ending(stratum, BY_SMALL, 0, worlds, cheap), _sums(facts, small)
    yield by_small
    yield Ending(stratum, BY_LARGE, 1, worlds, dear), _sums(facts, 0, large)
    harms = {not one and two for bit, (one, two) in enumerate(WORLDS) if worlds >> bit & 1}
    if harms == {False}:
        yield by_small
    elif harms == {True}:
        yield Ending(stratum, BY_LARGE, 1, worlds, (*cheap, *dear)), _sums(facts, small, large)
    else:
        yield Ending(stratum, BY_SMALL | BY_LARGE, 2, worlds, cheap, dear), _sums(facts, small, large_more=large)


# ---- one step under one policy --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Paid:
    """The cost of a step: `known` are `own` to `large_more` of its `Sums`, the others roles of an unknown cost."""

    known: list[int] = field(default_factory=lambda: [0] * 4)
    sure: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)

    def call(self, role: str, cost: int | None, *, made: bool = True) -> None:
        """Add a call that was `made`, or that may have been."""
        if cost is None:
            (self.sure if made else self.maybe).append(role)
        else:
            self.known[(role in ("large", "shadow")) + 2 * (not made)] += cost


def _ending(trace: StepTrace, policy: Policy, replayed: Replayed, facts: Facts) -> tuple[Ending, Sums, float | None]:
    """Return what is kept of a step under a policy: its ending, its sums, and its latency."""
    paid, latency, escalated = _Paid(), replayed.latency, int(replayed.escalated)
    for call in replayed.calls:
        role = call.name if isinstance(call, SideCall) else "small" if call.tier == "small" else "large"
        cost = money(call.cost, trace.id)
        paid.call(role, facts.large if cost is None and role == "hedge" else cost)  # dropped, and billed in full
    if replayed.missing is None:
        nobody = BY_OTHERS if policy.on_exhausted == "interrupt" else BY_NOBODY
        finals = {None: nobody, "small": BY_SMALL}.get(replayed.final_tier, BY_LARGE)
        if policy.shadow_rate and replayed.decisions[-1].action == "accept" and not replayed.escalated:
            # in expectation: the journal may come from a policy that drew more often, or never
            paid.call("shadow", None if facts.large is None else round(policy.shadow_rate * facts.large))
    elif replayed.missing == "large":
        again = facts.asked_large  # once more than in the record; else a shadow call says what large answered
        finals = BY_LARGE | BY_OTHERS if again else BY_LARGE
        paid.call("large", None if again else facts.large)
        times = [*(call.latency for call in replayed.calls), facts.large_time]
        latency = None if again or None in times else sum(time for time in times if time is not None)
    else:  # its draft, or evidence about it, is not in the record: it may end either way, at more cost
        finals, escalated = BY_SMALL | BY_LARGE, 2
        _undecided(paid, trace, replayed, facts)
    key = Ending(facts.stratum, finals, escalated, facts.worlds, tuple(sorted(paid.sure)), tuple(sorted(paid.maybe)))
    return key, _sums(facts, *paid.known), latency


def _undecided(paid: _Paid, trace: StepTrace, replayed: Replayed, facts: Facts) -> None:
    if replayed.missing == "draft":
        paid.call("small", None)
    made = {call.name for call in replayed.calls if isinstance(call, SideCall)}
    for name in trace.askable:
        if name == replayed.decisions[-1].evidence:
            paid.call(name, None)
        elif name not in made:
            paid.call(name, facts.evidence.get(name), made=False)
    paid.call("large", facts.large, made=False)
