"""One reading of the journals for a report: everything it counts, in bounded memory and in parts that can be merged."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Protocol, Self, TypeVar

from cascade_agent.core.policy import Policy
from cascade_agent.offline.drift.values import moment
from cascade_agent.offline.evaluation.dataset import MONEY, UNFINISHED, episode_of, text_hash
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cascade_agent.core.records import Attempt, StepTrace
    from cascade_agent.offline.drift import DriftWatch
    from cascade_agent.offline.evaluation.dataset import LabelledStep

K = TypeVar("K")
T = TypeVar("T")

MAX_SAMPLE: Final = 10_000
"""Labelled drafts kept for the calibration curve, and values for each percentile; of more, those of least hashes."""

MAX_THREADS: Final = 200_000
MAX_NAMES: Final = 64
MAX_CODES: Final = 40
MAX_STEPS: Final = 20

GRID: Final = (*(i / 20 for i in range(18)), *(i / 200 for i in range(180, 200)), 0.998, 0.999, 1.0)
"""Thresholds that are swept; closer near 1, where most drafts are."""

WIDTHS: Final = (
    0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 21600.0, 43200.0, 86400.0,
    7 * 86400.0, 28 * 86400.0, 364 * 86400.0, 3640 * 86400.0,
)  # fmt: skip
"""Lengths of a period in seconds; each divides the next, so that periods can be joined."""

MONDAY: Final = 4 * 86400.0  # a Monday, 1970-01-05 in UTC: periods are counted from here

MAX_PERIODS: Final = 96
_CLOCKS: Final = (946_684_800.0, 7_258_118_400.0)  # 2000 to 2200: outside of it a clock was never set
_OUTCOMES: Final = ("accepted", "escalated", "exhausted", "human_review", *UNFINISHED)
_NO_ANSWER: Final = -1.0  # confidence of a step without any answer: before all that have one
_ROUNDING: Final = 1e-6


class Part(Protocol):
    """A value that takes in what was counted in another part of the journals."""

    def merge(self, other: Self, /) -> object:
        """Take in another part."""


M = TypeVar("M", bound=Part)


class Sums(dict[K, float]):
    """Sums by name; what was never added is 0."""

    def __missing__(self, key: K) -> float:
        """Return 0."""
        return 0

    def merge(self, other: Self) -> None:
        """Take in other sums."""
        for name, value in other.items():
            self[name] += value


class Counts(Sums[str]):
    """Counts of names. The first `limit` names are told apart, later ones are counted together under `rest`."""

    def __init__(self, limit: int = MAX_CODES, rest: str = "(others)") -> None:
        super().__init__()
        self.limit, self.rest = limit, rest

    def add(self, name: str, times: float = 1) -> str:
        """Count a name; return the one under which it was counted."""
        name = name if name in self or len(self) < self.limit else self.rest
        self[name] += times
        return name

    def merge(self, other: Sums[str]) -> None:
        """Take in other counts."""
        for name, times in other.items():
            self.add(name, times)

    def ordered(self) -> dict[str, int]:
        """Return the counts, the most frequent first, then by name."""
        return {name: int(times) for name, times in sorted(self.items(), key=lambda pair: (-pair[1], pair[0]))}


class Table(dict[str, M]):
    """Parts by name; one that was not there is made."""

    def __init__(self, make: Callable[[], M]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> M:
        """Make a part."""
        return self.setdefault(name, self.make())

    def merge(self, other: Self) -> None:
        """Take in the parts of another one."""
        for name, part in other.items():
            self[name].merge(part)


class Least(Generic[T]):
    """The items of the least keys of a stream, and how many there were; with hashes as keys a uniform sample."""

    def __init__(self, size: int) -> None:
        self.size, self.n = size, 0
        self._heap: list[tuple[float, int, T]] = []

    def add(self, key: float, item: T) -> None:
        """Take an item; among equal keys the later ones are kept."""
        self.n += 1
        push = heapq.heappush if len(self._heap) < self.size else heapq.heappushpop
        push(self._heap, (-key, self.n, item))

    def merge(self, other: Self) -> None:
        """Take in what another one kept."""
        n = self.n + other.n
        for key, _, item in sorted(other._heap, key=lambda entry: entry[1]):
            self.add(-key, item)
        self.n = n

    def items(self) -> list[T]:
        """Return what was kept, by key."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def percentiles(values: Iterable[float], *shares: float) -> list[float]:
    """Return the values below which these shares lie: nearest ranks, so that each was measured."""
    ordered = sorted(values)
    return [ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in shares]


class Timeline:
    """Periods of equal length, at most `MAX_PERIODS` from the first to the last; they grow with the time they cover."""

    def __init__(self) -> None:
        self._level = 0
        self._cells: dict[int, Sums[str]] = {}

    @property
    def width(self) -> float:
        """Length of a period in seconds."""
        return WIDTHS[self._level]

    def at(self, time: float) -> Sums[str]:
        """Return the sums of the period of a time (seconds since 1970)."""
        while True:
            index = math.floor((time - MONDAY) / self.width)
            known = (index, *self._cells) if index not in self._cells else (index,)
            if max(known) - min(known) < MAX_PERIODS or self._level == len(WIDTHS) - 1:
                return self._cells.setdefault(index, Sums())
            self._widen()

    def merge(self, other: Self) -> None:
        """Take in another timeline."""
        while self._level < other._level:
            self._widen()
        for start, cell in other.cells():
            self.at(start + other.width / 2).merge(cell)

    def cells(self) -> list[tuple[float, Sums[str]]]:
        """Return (start in seconds since 1970, sums), in order; periods without any step are left out."""
        return [(MONDAY + index * self.width, cell) for index, cell in sorted(self._cells.items())]

    def _widen(self) -> None:
        factor = round(WIDTHS[self._level + 1] / self.width)
        joined: dict[int, Sums[str]] = {}
        for index, cell in self._cells.items():
            joined.setdefault(index // factor, Sums()).merge(cell)
        self._cells, self._level = joined, self._level + 1


class Account:
    """Cost of the steps in one currency: the tally that all estimates come from, `_amounts` in all and by period."""

    def __init__(self, plan: SweepPlan) -> None:
        self.tally, self.timeline, self.sums = Tally(plan), Timeline(), Sums[str]()

    def add(self, step: LabelledStep, time: float | None) -> None:
        """Take a step."""
        self.tally.add(step)
        cell = Sums[str]() if time is None else self.timeline.at(time)
        for name, amount in _amounts(step):
            self.sums[name] += amount
            cell[name] += amount

    def merge(self, other: Self) -> None:
        """Take in the sums of other steps."""
        self.tally.merge(other.tally)
        self.timeline.merge(other.timeline)
        self.sums.merge(other.sums)


def _amounts(step: LabelledStep) -> Iterator[tuple[str, float]]:
    """Yield what is summed of a step: counts, what was paid and for what, and what always-large cost (`alone`).

    `alone` is known on all but the steps that shadow calls have to speak for (`lottery`), and those of which nothing is
    known (`unpriced`).
    """
    trace, facts = step.trace, step.facts
    yield "steps", 1
    yield "escalated", trace.escalated
    yield "unknown", trace.cost is None
    if trace.cost is not None:
        yield "known", trace.cost
        for attempt in _made(trace):
            yield _tier(attempt.tier), attempt.cost or 0.0
        yield "evidence", sum(call.cost or 0.0 for call in trace.evidence)
    for call in (label.side_call for label in step.given if label.side_call is not None):
        yield "shadow_calls", 1
        yield "shadow", call.cost or 0.0
        yield "shadow_unknown", call.cost is None
    if facts is not None and facts.stratum != "known":
        yield "lottery", 1
    elif facts is None or facts.large is None:
        yield "unpriced", 1
    else:
        yield "alone", facts.large / MONEY


class Collected:
    """Counts, sums and samples of the steps of some journals."""

    def __init__(self, policy: Policy | None, name: str, drift: DriftWatch | None = None) -> None:
        self._scorer = (policy and policy.scorer) or shipped_scorer()
        self._rescore = policy is not None
        self.plan = SweepPlan.of({name: policy or Policy()}, GRID)
        self.drift = drift
        self.sums, self.histogram = Sums[str](), Sums[tuple[int, bool]]()
        self.outcomes, self.answers, self.sources, self.policies, self.kinds = (Counts() for _ in range(5))
        self.names, self.threads = Counts(MAX_NAMES, "(other steps)"), Counts(MAX_THREADS, "")
        self.models = Table[Counts](Counts)
        self.reasons = Table[Counts](partial(Counts, MAX_CODES, "(other reasons)"))
        self.accounts = Table[Account](partial(Account, self.plan))
        self.latency = Table[Least[float]](partial(Least, MAX_SAMPLE))
        self.drafts = Least[tuple[float, bool, str]](MAX_SAMPLE)
        self.expensive: Least[StepTrace] = Least(MAX_STEPS)
        self.doubtful: Least[StepTrace] = Least(MAX_STEPS)
        self.first, self.last = Least[float](1), Least[float](1)

    @property
    def currency(self) -> str:
        """The currency of most steps."""
        return max(self.accounts, key=lambda code: self.accounts[code].sums["steps"], default="USD")

    @property
    def account(self) -> Account:
        """The account in that currency."""
        return self.accounts.get(self.currency) or Account(self.plan)

    def merge(self, other: Self) -> None:
        """Take in the steps of another part of the journals."""
        for name, part in vars(self).items():
            if isinstance(part, Sums | Table | Least):
                part.merge(getattr(other, name))

    def add(self, step: LabelledStep) -> None:
        """Take a step."""
        trace = step.trace
        self.sums["steps"] += 1
        self.sums["labels"] += len(step.given)
        self.outcomes.add(trace.outcome if trace.outcome in _OUTCOMES else "(others)")
        if self.drift is not None:
            self.drift.take(trace, step.given)
        if not trace.attempts:
            return
        name, kind = self.names.add(trace.step), self.kinds.add(trace.kind)
        if (name, kind) != (trace.step, trace.kind):
            step = replace(step, trace=replace(trace, step=name, kind=kind))
        self._count(trace, name)
        self._latency(trace)
        self._confidence(step)
        code = trace.currency or "?"
        known = code in self.accounts or len(self.accounts) < MAX_CODES
        self.accounts[code if known else "(others)"].add(step, self._time(trace))
        if trace.cost is not None:
            self.expensive.add(-trace.cost, trace)
        unanswered = trace.outcome not in UNFINISHED and trace.final is None
        doubt = _NO_ANSWER if unanswered else trace.confidence
        if doubt is not None:
            self.doubtful.add(doubt, trace)

    def _count(self, trace: StepTrace, name: str) -> None:
        answered = "nobody" if trace.final_tier is None else _tier(trace.final_tier)
        self.answers.add("unfinished" if trace.outcome in UNFINISHED else answered)
        self.sums["degraded"] += trace.degraded is True
        self.threads.add(f"{text_hash(episode_of(trace)):x}")
        self.policies.add(trace.policy or "(not recorded)")
        for attempt in _made(trace):
            self.models[_tier(attempt.tier)].add(attempt.model or "(not recorded)")
        if trace.escalated:
            self.sums["escalated"] += 1
            reason = next((d.reason for d in trace.decisions if d.action == "escalate"), trace.reason)
            self.reasons[name].add(reason or "(not recorded)")

    def _latency(self, trace: StepTrace) -> None:
        times = [(_tier(attempt.tier), attempt.latency) for attempt in _made(trace)]
        times += [("evidence", call.latency) for call in trace.evidence]
        times.append(("step, escalated" if trace.escalated else "step, small only", trace.latency))
        for i, (who, spent) in enumerate(times):
            if spent is not None:
                self.latency[who].add(text_hash(f"{i} {trace.id}"), spent)

    def _time(self, trace: StepTrace) -> float | None:
        """Return the time of a step in seconds since 1970; None is unknown."""
        time = moment(trace.started_at)
        seconds = 0.0 if time is None else time.timestamp()
        if not _CLOCKS[0] <= seconds < _CLOCKS[1]:
            self.sums["undated"] += 1
            return None
        self.first.add(seconds, seconds)
        self.last.add(-seconds, seconds)
        return seconds

    def _confidence(self, step: LabelledStep) -> None:
        if step.outcome.source is not None:
            self.sources.add(step.outcome.source)
        if not step.drafted:
            return
        confidence, ours = step.small.confidence, self._scorer.confidence(step.small.verdicts)
        same = confidence is ours if confidence is None or ours is None else abs(confidence - ours) <= _ROUNDING
        self.sums["differing"] += not same
        confidence = ours if self._rescore else confidence
        if confidence is None:
            self.sums["unmeasured"] += 1
            return
        self.histogram[min(19, int(confidence * 20)), step.trace.escalated] += 1
        if step.outcome.right is not None and step.facts is not None:
            self.drafts.add(text_hash(step.id), (confidence, step.outcome.right, step.outcome.source or "?"))


def _made(trace: StepTrace) -> list[Attempt]:
    return [attempt for attempt in trace.attempts if attempt.outcome != "skipped"]


def _tier(name: str) -> str:
    return "small" if name == "small" else "large"
