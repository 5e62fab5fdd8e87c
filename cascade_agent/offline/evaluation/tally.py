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
        order, sizes = list(families), {same: sorted(members) for same, members in families.items()}
        return cls(
            titles=tuple(wanted),
            policies=tuple(wanted.values()),
            families=tuple(tuple(families[same][value] for value in sizes[same]) for same in order),
            places=tuple((order.index(same), sizes[same].index(value)) for same, value in keys),
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
    ended, a row of differences over the policies of the family. `ranges` are the least and the greatest recorded cost
    of a call, by step name and role.
    """

    plan: SweepPlan
    steps: int = 0
    unfinished: int = 0
    conflicts: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    currencies: set[str] = field(default_factory=set)
    validators: set[str] = field(default_factory=set)
    episodes: set[int] = field(default_factory=set)
    rows: list[dict[tuple[Place, Ending], list[int]]] = field(default_factory=list)
    times: list[dict[When, list[int]]] = field(default_factory=list)
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
                _add_to(rows, (cell, ending), sums, span)
                _add_to(rows, (group, ending), sums, span)
                _add_to(times, _when(cell, facts, latency), pack(1, facts.weight), span)

    def count(self, cell: Cell, group: int, facts: Facts, *, sign: int = 1) -> None:
        """Count what was recorded of a step; with a `sign` of -1 take it back, for facts that a late label changes."""
        for role, cost in facts.priced:
            if cost is not None:
                widen(self.ranges, (cell[0], role), (cost, cost))
        for i, (ending, sums) in enumerate(_baselines(facts)):
            for place in (cell, group):
                _add_to(self.rows[0], (place, ending), sign * sums, (i, i + 1, len(BASELINES)))
        own = None if facts.skipped else facts.small_time
        for i, time in enumerate((facts.time, own, facts.large_time)):
            span = i, i + 1, len(BASELINES)
            _add_to(self.times[0], _when(cell, facts, time), sign * pack(1, facts.weight), span)

    def merge(self, other: Tally) -> Tally:
        """Add another tally to this one, and return it. The other is left as it was."""
        if self.plan != other.plan:
            msg = "tallies of different policies cannot be merged; sweep every part with the same plan"
            raise ConfigurationError(msg)
        for name in ("steps", "unfinished", "conflicts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sources.update(other.sources)
        self.currencies |= other.currencies
        self.validators |= other.validators
        self.episodes |= other.episodes
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
        return sum(totals(row, 1)[alone][0] for row in rows)

    @property
    def episode_count(self) -> tuple[int, bool]:
        """Number of episodes, and whether it is exact (Bar-Yossef et al. 2002: k least hashes)."""
        least = sorted(self.episodes)[:_SKETCH]
        if len(least) < _SKETCH:
            return len(least), True
        return round((_SKETCH - 1) * 2**64 / least[-1]), False


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


def _when(cell: Cell, facts: Facts, latency: float | None) -> When:
    return cell, facts.stratum, None if latency is None else bucket(latency)


def _sums(facts: Facts, own: int = 0, large: int = 0, own_more: int = 0, large_more: int = 0) -> int:
    weight = facts.weight
    return pack(*Sums(1, own, large, own_more, large_more, weight, weight * large, weight * large_more))


def _baselines(facts: Facts) -> Iterator[tuple[Ending, int]]:
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


_BY_LARGE: Final = ("large", "shadow")


@dataclass(slots=True)
class _Estimate:
    """The end of a step under a policy, while it is made up; `paid` are `own` to `large_more` of its `Sums`."""

    finals: int = BY_SMALL
    escalated: int = 0
    latency: float | None = None
    paid: list[int] = field(default_factory=lambda: [0] * 4)
    sure: list[str] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)

    def call(self, role: str, cost: int | None, *, made: bool = True) -> None:
        """Add a call that was `made`, or that may have been."""
        if cost is None:
            (self.sure if made else self.maybe).append(role)
        else:
            self.paid[(role in _BY_LARGE) + 2 * (not made)] += cost


def _ending(trace: StepTrace, policy: Policy, replayed: Replayed, facts: Facts) -> tuple[Ending, int, float | None]:
    """Return what is kept of a step under a policy: its ending, its sums, and its latency."""
    found = _Estimate(escalated=int(replayed.escalated), latency=replayed.latency)
    for call in replayed.calls:
        role = call.name if isinstance(call, SideCall) else "small" if call.tier == "small" else "large"
        cost = money(call.cost, trace.id)
        found.call(role, facts.large if cost is None and role == "hedge" else cost)  # dropped, and billed in full
    if replayed.missing is None:
        _known_end(found, policy, replayed, facts)
    elif replayed.missing == "large":
        _without_large(found, replayed, facts)
    else:
        _undecided(found, trace, replayed, facts)
    sure, maybe = tuple(sorted(found.sure)), tuple(sorted(found.maybe))
    key = Ending(facts.stratum, found.finals, found.escalated, facts.worlds, sure, maybe)
    return key, _sums(facts, *found.paid), found.latency


def _known_end(found: _Estimate, policy: Policy, replayed: Replayed, facts: Facts) -> None:
    """Take an end that the record holds in full."""
    tier = replayed.final_tier
    if tier is not None:
        found.finals = BY_SMALL if tier == "small" else BY_LARGE
    else:
        found.finals = BY_OTHERS if policy.on_exhausted == "interrupt" else BY_NOBODY
    if policy.shadow_rate and replayed.decisions[-1].action == "accept" and not replayed.escalated:
        # in expectation: the journal may come from a policy that drew more often, or never
        found.call("shadow", None if facts.large is None else round(policy.shadow_rate * facts.large))


def _without_large(found: _Estimate, replayed: Replayed, facts: Facts) -> None:
    """Take an escalation that is not in the record; a shadow call says what large answered."""
    again = facts.asked_large  # once more than in the record
    found.finals, found.latency = BY_LARGE | BY_OTHERS if again else BY_LARGE, None
    found.call("large", None if again else facts.large)
    times = [call.latency for call in replayed.calls]
    if not again and facts.large_time is not None and None not in times:
        found.latency = facts.large_time + sum(time for time in times if time is not None)


def _undecided(found: _Estimate, trace: StepTrace, replayed: Replayed, facts: Facts) -> None:
    """Take a step whose draft, or evidence about it, is not in the record: it may end either way, at more cost."""
    found.finals, found.latency, found.escalated = BY_SMALL | BY_LARGE, None, 2
    if replayed.missing == "draft":
        found.call("small", None)
    made = {call.name for call in replayed.calls if isinstance(call, SideCall)}
    for name in trace.askable:
        if name == replayed.decisions[-1].evidence:
            found.call(name, None)
        elif name not in made:
            found.call(name, facts.evidence.get(name), made=False)
    found.call("large", facts.large, made=False)


# ---- tables of sums, several in one number --------------------------------------------------------------------------


def _add_to(table: dict[K, list[int]], key: K, sums: int, span: tuple[int, int, int]) -> None:
    """Add to places of a row of differences: what begins at the first, less what ends behind the last."""
    first, end, size = span
    row = table.get(key)
    if row is None:
        row = table[key] = [0] * size
    row[first] += sums
    if end < size:
        row[end] -= sums


def _merge_rows(mine: dict[K, list[int]], theirs: Mapping[K, list[int]]) -> None:
    for key, row in theirs.items():
        own = mine.get(key)
        mine[key] = list(row) if own is None else list(map(add, own, row))


_BITS_EACH: Final = 192
_MASK: Final = (1 << _BITS_EACH) - 1
"""Room for 2^60 steps that cost 1e9 each and were drawn once in 1e9."""


def pack(*sums: int) -> int:
    """Return several numbers >= 0 as one, so that one addition adds all of them."""
    packed = 0
    for value in reversed(sums):
        packed = packed << _BITS_EACH | value
    return packed


def unpack(packed: int, count: int) -> tuple[int, ...]:
    """Return the numbers again."""
    return tuple(packed >> _BITS_EACH * i & _MASK for i in range(count))


def totals(row: list[int], count: int) -> list[tuple[int, ...]]:
    """Return a row of differences as the sums at each place."""
    return [unpack(packed, count) for packed in accumulate(row)]
