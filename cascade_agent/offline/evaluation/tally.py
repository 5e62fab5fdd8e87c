"""Sums over many steps under many policies, in memory that does not grow with their number.

All sums are of whole numbers, so a tally does not depend on the order of the steps, and the merge of the tallies of any
parts of a journal is the tally of the whole, to the last bit.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import SideCall
from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.dataset import WORLDS, contradict, money, text_hash
from cascade_agent.offline.evaluation.replay import sweep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascade_agent.core.records import StepTrace
    from cascade_agent.offline.evaluation.dataset import Facts, LabelledStep
    from cascade_agent.offline.evaluation.replay import Replayed

K = TypeVar("K")

GROUPS: Final = 400
"""Episodes are gathered into so many groups, by a hash, and groups are drawn for intervals (random groups: Wolter,
Introduction to Variance Estimation, 2007, chapter 2). The standard error of an interval's width is about 4 % then."""

MAX_POLICIES: Final = 1_000
_SKETCH: Final = 4_096
_RATIO: Final = math.log(1.02)
"""Latencies are counted in buckets 2 % wide."""

BY_SMALL, BY_LARGE, BY_NOBODY, BY_OTHERS = 1, 2, 4, 8
"""Those who may have answered, as bits; `BY_OTHERS` is a human, or an answer of which nothing is known."""

_BITS: Final = {"small": BY_SMALL, "large": BY_LARGE, "human": BY_OTHERS}


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
    calibrated: bool = False
    """Return whether one of them says with which validators it was measured."""

    @classmethod
    def of(cls, policies: Policy | Mapping[str, Policy] | None = None, grid: Sequence[float] = ()) -> Self:
        """Each policy as it is, and with each threshold of the grid in the place of its own."""
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
            same = policy.with_threshold(None if policy.base_threshold is None else 0.0).version
            value = -1.0 if policy.base_threshold is None else float(policy.base_threshold)
            families.setdefault(same, {})[value] = policy
            keys.append((same, value))
        order = list(families)
        sizes = {same: sorted(members) for same, members in families.items()}
        return cls(
            titles=tuple(wanted),
            policies=tuple(wanted.values()),
            families=tuple(tuple(families[same][value] for value in sizes[same]) for same in order),
            places=tuple((order.index(same), sizes[same].index(value)) for same, value in keys),
            calibrated=any("validators" in policy.provenance for policy in wanted.values()),
        )

    @property
    def version(self) -> tuple[tuple[str, ...], ...]:
        """The same for the same policies in the same order."""
        return self.titles, tuple(policy.version for policy in self.policies)


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


class Base(NamedTuple):
    """A step without any policy: what is possible, and what happened."""

    stratum: str
    worlds: int
    small: tuple[str, ...]
    large: tuple[str, ...]
    finals: int
    escalated: int
    recorded: tuple[str, ...]


class BaseSums(NamedTuple):
    """Sums over steps with the same `Base`: cost of the draft, of large, and what was paid (shadow calls included)."""

    n: int
    small: int
    large: int
    paid: int
    weight: int
    w_large: int


Cell = tuple[str, str]
"""Name and kind of a step."""


@dataclass(slots=True)
class Tally:  # noqa: PLW1641 - it changes, so it has no hash
    """Sums over steps. Two of the same plan are equal when they are of the same steps, in whatever order."""

    plan: SweepPlan
    steps: int = 0
    unfinished: int = 0
    given: int = 0
    conflicts: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    currencies: set[str] = field(default_factory=set)
    validators: set[str] = field(default_factory=set)
    episodes: set[int] = field(default_factory=set)
    base: dict[tuple[Cell | int, Base], int] = field(default_factory=dict)
    rows: list[dict[tuple[Cell | int, Ending], list[int]]] = field(default_factory=list)
    times: list[dict[tuple[Cell, str, int | None], list[int]]] = field(default_factory=list)
    base_times: dict[tuple[Cell, str, str, int | None], int] = field(default_factory=dict)
    ranges: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make a table for each family."""
        self.rows = self.rows or [{} for _ in self.plan.families]
        self.times = self.times or [{} for _ in self.plan.families]

    # ---- adding -----------------------------------------------------------------------------------------------------

    def add(self, step: LabelledStep) -> None:
        """Count a step under every policy."""
        trace, facts = step.trace, step.facts
        self.steps += 1
        self.given += bool(step.given)
        if facts is None:
            self.unfinished += 1
            return
        if step.outcome.source is not None:
            self.sources[step.outcome.source] += 1
        self.conflicts += contradict(step.labels)
        if trace.cost:
            self.currencies.add(trace.currency)
        if self.plan.calibrated:
            self.validators.update(verdict.validator for verdict in step.small.verdicts)
        number = text_hash(step.episode)
        self._count_episode(number)
        cell, group = (trace.step, trace.kind), number % GROUPS
        self.count(cell, group, facts)
        for family, rows, times in zip(self.plan.families, self.rows, self.times, strict=True):
            size = len(family)
            for first, end, replayed in sweep(trace, family):
                ending, sums, latency = _ending(trace, family[first], replayed, facts)
                _span(rows, (cell, ending), sums, first, end, size)
                _span(rows, (group, ending), sums, first, end, size)
                key = (cell, facts.stratum, None if latency is None else bucket(latency))
                _span(times, key, pack(1, facts.weight), first, end, size)

    def _range(self, step: str, role: str, cost: int) -> None:
        low, high = self.ranges.get((step, role), (cost, -1))
        if cost < low or cost > high:
            self.ranges[step, role] = min(low, cost), max(high, cost)

    def _count_episode(self, number: int) -> None:
        """Keep the least hashes: their number, or where they lie, says how many episodes there are."""
        self.episodes.add(number)
        if len(self.episodes) > 2 * _SKETCH:
            self.episodes = set(sorted(self.episodes)[:_SKETCH])

    def count(self, cell: Cell, group: int, facts: Facts, *, sign: int = 1) -> None:
        """Count what was recorded of a step; with a `sign` of -1 take it back, for facts that a late label changes."""
        for role, cost in facts.priced:
            if cost is not None:
                self._range(cell[0], role, cost)
        small, large = None if facts.skipped else facts.small, facts.large or 0
        key = Base(
            stratum=facts.stratum,
            worlds=facts.worlds,
            small=("small",) if small is None else (),
            large=("large",) if facts.large is None else (),
            finals=BY_NOBODY if facts.final is None else _BITS.get(facts.final, BY_LARGE),
            escalated=int(facts.asked_large),
            recorded=tuple(sorted(name for name, cost in facts.calls if cost is None)),
        )
        paid = sum(cost or 0 for _, cost in facts.calls)
        sums = sign * pack(*BaseSums(1, small or 0, large, paid, facts.weight, facts.weight * large))
        for place in (cell, group):
            at: tuple[Cell | int, Base] = (place, key)
            _merge_sums(self.base, {at: sums})
        own = None if facts.skipped else facts.small_time
        for column, time in (("small", own), ("large", facts.large_time), ("recorded", facts.time)):
            when: tuple[Cell, str, str, int | None] = (
                cell,
                facts.stratum,
                column,
                None if time is None else bucket(time),
            )
            _merge_sums(self.base_times, {when: sign * pack(1, facts.weight)})

    # ---- merging ----------------------------------------------------------------------------------------------------

    def merge(self, other: Tally) -> Tally:
        """Add another tally to this one, and return it. The other is left as it was."""
        if self.plan.version != other.plan.version:
            msg = "tallies of different policies cannot be merged; sweep every part with the same plan"
            raise ConfigurationError(msg)
        self.steps += other.steps
        self.unfinished += other.unfinished
        self.given += other.given
        self.conflicts += other.conflicts
        self.sources.update(other.sources)
        self.currencies |= other.currencies
        self.validators |= other.validators
        self.episodes |= other.episodes
        _merge_sums(self.base, other.base)
        _merge_sums(self.base_times, other.base_times)
        for mine, theirs in zip(self.rows, other.rows, strict=True):
            _merge_rows(mine, theirs)
        for mine_times, theirs_times in zip(self.times, other.times, strict=True):
            _merge_rows(mine_times, theirs_times)
        for (step, role), (low, high) in other.ranges.items():
            self._range(step, role, low)
            self._range(step, role, high)
        return self

    def __eq__(self, other: object) -> bool:
        """Return whether it is of the same steps and policies."""
        return isinstance(other, Tally) and self._facts() == other._facts()

    def _facts(self) -> tuple[object, ...]:
        counts = (self.steps, self.unfinished, self.given, self.conflicts, +self.sources)
        least = sorted(self.episodes)[:_SKETCH]
        found = (self.currencies, self.validators, least, self.base, self.rows, self.times, self.base_times)
        return (self.plan.version, *counts, *found, self.ranges)

    @property
    def unseen(self) -> int:
        """Number of steps of which nothing is known: every world is possible."""
        anything = (1 << len(WORLDS)) - 1
        cells = ((key, sums) for (place, key), sums in self.base.items() if not isinstance(place, int))
        return sum(unpack(sums, 1)[0] for key, sums in cells if key.worlds == anything)

    @property
    def episode_count(self) -> tuple[int, bool]:
        """Number of episodes, and whether it is exact (Bar-Yossef et al. 2002: k least hashes)."""
        least = sorted(self.episodes)[:_SKETCH]
        if len(least) < _SKETCH:
            return len(least), True
        return round((_SKETCH - 1) * 2**64 / least[-1]), False


def bucket(latency: float) -> int:
    """The number of the bucket of a latency in seconds."""
    return round(math.log(max(latency, 1e-6)) / _RATIO)


def middle(number: int) -> float:
    """The latency in seconds that stands for a bucket."""
    return math.exp(number * _RATIO)


# ---- one step under one policy --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Estimate:
    """The sums of a step under a policy, while they are made up."""

    finals: int = BY_SMALL
    escalated: int = 0
    latency: float | None = None
    own: int = 0
    large: int = 0
    own_more: int = 0
    large_more: int = 0
    sure: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)


def _ending(trace: StepTrace, policy: Policy, replayed: Replayed, facts: Facts) -> tuple[Ending, int, float | None]:
    """Return what is kept of a step under a policy: its ending, its sums, and its latency."""
    found = _Estimate(escalated=int(replayed.escalated), latency=replayed.latency)
    for call in replayed.calls:
        role = call.name if isinstance(call, SideCall) else "small" if call.tier == "small" else "large"
        cost = money(call.cost, trace.id)
        if cost is None and role == "hedge":
            cost = facts.large  # dropped, and billed in full
        if cost is None:
            found.sure.append(role)
        elif role == "large":
            found.large += cost
        else:
            found.own += cost
    if replayed.missing is None:
        _known_end(found, policy, replayed, facts)
    elif replayed.missing == "large":
        _without_large(found, replayed, facts)
    else:
        _undecided(found, trace, replayed, facts)
    sure, maybe = tuple(sorted(found.sure)), tuple(sorted(found.maybe))
    key = Ending(facts.stratum, found.finals, found.escalated, facts.worlds, sure, maybe)
    weight = facts.weight
    more = (found.own_more, found.large_more, weight, weight * found.large, weight * found.large_more)
    return key, pack(1, found.own, found.large, *more), found.latency


def _known_end(found: _Estimate, policy: Policy, replayed: Replayed, facts: Facts) -> None:
    """The record holds all that the policy asks for."""
    tier = replayed.final_tier
    if tier is not None:
        found.finals = BY_SMALL if tier == "small" else BY_LARGE
    else:
        found.finals = BY_OTHERS if policy.on_exhausted == "interrupt" else BY_NOBODY
    if policy.shadow_rate and replayed.decisions[-1].action == "accept" and not replayed.escalated:
        if facts.large is None:  # in expectation: the journal may come from a policy that drew more often, or never
            found.sure.append("shadow")
        else:
            found.large += round(policy.shadow_rate * facts.large)


def _without_large(found: _Estimate, replayed: Replayed, facts: Facts) -> None:
    """The policy escalates where the record did not; a shadow call says what large answered."""
    found.finals, found.latency = BY_LARGE, None
    if facts.asked_large:  # once more than in the record
        found.finals = BY_LARGE | BY_OTHERS
        found.sure.append("large")
        return
    if facts.large is None:
        found.sure.append("large")
    else:
        found.large += facts.large
    times = [call.latency for call in replayed.calls]
    if facts.large_time is not None and None not in times:
        found.latency = facts.large_time + sum(time for time in times if time is not None)


def _undecided(found: _Estimate, trace: StepTrace, replayed: Replayed, facts: Facts) -> None:
    """The draft, or evidence about it, is not in the record: the step may end either way, after more evidence."""
    found.finals, found.latency, found.escalated = BY_SMALL | BY_LARGE, None, 2
    if replayed.missing == "draft":
        found.sure.append("small")
    wanted = replayed.decisions[-1].evidence
    made = {call.name for call in replayed.calls if isinstance(call, SideCall)}
    for name in trace.askable:
        cost = facts.evidence.get(name)
        if name == wanted:
            found.sure.append(name)
        elif name not in made and cost is None:
            found.maybe.append(name)
        elif name not in made:
            found.own_more += cost or 0
    if facts.large is None:
        found.maybe.append("large")
    else:
        found.large_more += facts.large


def _span(  # noqa: PLR0913, PLR0917 - called thrice per stretch of every step
    table: dict[K, list[int]], key: K, sums: int, first: int, end: int, size: int
) -> None:
    """Add to the places `first` to `end` of a row of differences: what begins at a place, less what ends there."""
    row = table.get(key)
    if row is None:
        row = table[key] = [0] * size
    row[first] += sums
    if end < size:
        row[end] -= sums


def _merge_sums(mine: dict[K, int], theirs: Mapping[K, int]) -> None:
    for key, sums in theirs.items():
        total = mine.get(key, 0) + sums
        if total:
            mine[key] = total
        else:
            mine.pop(key, None)


def _merge_rows(mine: dict[K, list[int]], theirs: Mapping[K, list[int]]) -> None:
    for key, row in theirs.items():
        own = mine.get(key)
        mine[key] = list(row) if own is None else list(map(add, own, row))


# ---- several sums in one number -------------------------------------------------------------------------------------

_BITS_EACH: Final = 192
_MASK: Final = (1 << _BITS_EACH) - 1
"""Room for 2^60 steps that cost 1e9 each and were drawn once in 1e9."""


def pack(*sums: int) -> int:
    """Several numbers >= 0 as one, so that one addition adds all of them."""
    packed = 0
    for value in reversed(sums):
        packed = packed << _BITS_EACH | value
    return packed


def unpack(packed: int, count: int) -> tuple[int, ...]:
    """The numbers again."""
    return tuple(packed >> _BITS_EACH * i & _MASK for i in range(count))


def totals(row: list[int], count: int) -> list[tuple[int, ...]]:
    """A row of differences as the sums at each place."""
    return [unpack(packed, count) for packed in accumulate(row)]
