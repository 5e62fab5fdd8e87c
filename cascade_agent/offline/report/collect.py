"""One reading of the journals for a report: everything it counts, in bounded memory."""

from __future__ import annotations

import datetime as dt
import heapq
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from cascade_agent.core.policy import Policy
from cascade_agent.offline.evaluation.dataset import MONEY, UNFINISHED, text_hash
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascade_agent.core.records import Attempt, StepTrace
    from cascade_agent.offline.drift import DriftWatch
    from cascade_agent.offline.evaluation.dataset import LabelledStep

T = TypeVar("T")

MAX_SAMPLE: Final = 10_000
"""Labelled drafts kept for the calibration curve, and values for each percentile; of more, those of least hashes."""

MAX_THREADS: Final = 200_000
MAX_NAMES: Final = 64
MAX_CODES: Final = 40
SHOWN: Final = 20

GRID: Final = (*(i / 20 for i in range(18)), *(i / 200 for i in range(180, 200)), 0.998, 0.999, 1.0)
"""Thresholds that are swept; closer near 1, where most drafts are."""

WIDTHS: Final = (
    0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 21600.0, 43200.0, 86400.0,
    7 * 86400.0, 28 * 86400.0, 364 * 86400.0, 3640 * 86400.0,
)  # fmt: skip
"""Lengths of a period in seconds; each divides the next, so that periods can be joined."""

MONDAY: Final = 4 * 86400.0
"""A Monday, 1970-01-05 in UTC: periods are counted from here."""

MAX_PERIODS: Final = 96
_CLOCKS = (946_684_800.0, 7_258_118_400.0)
_NO_ANSWER = -1.0  # confidence of a step without any answer: before all that have one


class Counts:
    """Counts of names. The first `limit` names are told apart, later ones are counted together under `rest`."""

    def __init__(self, limit: int, rest: str = "(others)") -> None:
        self.limit, self.rest = limit, rest
        self.of: Counter[str] = Counter()

    def add(self, name: str) -> str:
        """Count a name; return the one under which it was counted."""
        name = name if name in self.of or len(self.of) < self.limit else self.rest
        self.of[name] += 1
        return name

    def merge(self, other: Counts) -> None:
        """Take in other counts."""
        for name, count in other.of.items():
            self.of[self.add(name)] += count - 1

    def ordered(self) -> dict[str, int]:
        """Return the counts, the most frequent first, then by name."""
        return dict(sorted(self.of.items(), key=lambda pair: (-pair[1], pair[0])))


class Least(Generic[T]):
    """The items of the least keys of a stream, and how many there were; with hashes as keys a uniform sample."""

    def __init__(self, size: int) -> None:
        self.size, self.n = size, 0
        self._heap: list[tuple[float, int, T]] = []

    def add(self, key: float, item: T) -> None:
        """Take an item; among equal keys the later ones are kept."""
        self.n += 1
        entry = (-key, self.n, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def merge(self, other: Least[T]) -> None:
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


class Sums(dict[str, float]):
    """Sums by name; what was never added is 0."""

    def __missing__(self, key: str) -> float:
        """Return 0."""
        return 0

    def merge(self, other: Sums) -> None:
        """Take in other sums."""
        for name, value in other.items():
            self[name] += value


class Timeline:
    """Periods of equal length, at most `MAX_PERIODS` from the first to the last; they grow with the time they cover.

    Each has sums: `steps`, of them `escalated` and of `unknown` cost; what was paid for `small`, `large`, `evidence`
    and `shadow` calls; what always-large cost (`alone`), on all but the steps that shadow calls have to speak for
    (`lottery`) and those of which nothing is known (`unpriced`).
    """

    def __init__(self) -> None:
        self._level = 0
        self._cells: dict[int, Sums] = {}

    @property
    def width(self) -> float:
        """Length of a period in seconds."""
        return WIDTHS[self._level]

    def at(self, time: float) -> Sums:
        """Return the period of a time (seconds since 1970)."""
        while True:
            index = math.floor((time - MONDAY) / self.width)
            known = (index, *self._cells) if index not in self._cells else (index,)
            if max(known) - min(known) < MAX_PERIODS or self._level == len(WIDTHS) - 1:
                return self._cells.setdefault(index, Sums())
            self._widen()

    def merge(self, other: Timeline) -> None:
        """Take in another timeline."""
        while self._level < other._level:
            self._widen()
        for start, cell in other.cells():
            self.at(start + other.width / 2).merge(cell)

    def cells(self) -> list[tuple[float, Sums]]:
        """Return (start in seconds since 1970, period), in order; periods without any step are left out."""
        return [(MONDAY + index * self.width, cell) for index, cell in sorted(self._cells.items())]

    def _widen(self) -> None:
        factor = round(WIDTHS[self._level + 1] / self.width)
        joined: dict[int, Sums] = {}
        for index, cell in self._cells.items():
            joined.setdefault(index // factor, Sums()).merge(cell)
        self._cells, self._level = joined, self._level + 1


def moment(value: str | None) -> float | None:
    """Return an ISO 8601 time as seconds since 1970; without a zone it is UTC.

    None outside of 2000-2200: a clock that was never set.
    """
    try:
        time = dt.datetime.fromisoformat(value or "")
        stamp = (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return stamp if _CLOCKS[0] <= stamp < _CLOCKS[1] else None


@dataclass(slots=True)
class Account:
    """Cost of the steps in one currency: the tally that all estimates come from, periods, and sums.

    The sums are `steps`, their `known` cost and how many have an `unknown` one, and the same of shadow calls.
    """

    tally: Tally
    timeline: Timeline = field(default_factory=Timeline)
    sums: Sums = field(default_factory=Sums)

    def merge(self, other: Account) -> None:
        """Take in the sums of other steps."""
        self.tally.merge(other.tally)
        self.timeline.merge(other.timeline)
        self.sums.merge(other.sums)


class Collected:
    """Counts, sums and samples of the steps of some journals."""

    def __init__(self, policy: Policy | None, name: str, drift: DriftWatch | None = None) -> None:
        self._scorer = (policy and policy.scorer) or shipped_scorer()
        self._rescore = policy is not None
        self.plan = SweepPlan.of({name: policy or Policy()}, GRID)
        self.drift = drift
        self.steps = self.escalated = self.degraded = self.undated = self.unmeasured = self.differing = 0
        self.outcomes: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.threads: set[int] = set()
        self.threads_full = False
        self.policies, self.names = Counts(MAX_CODES), Counts(MAX_NAMES, "(other steps)")
        self.kinds = Counts(MAX_CODES)
        self.models: dict[str, Counts] = {}
        self.reasons: dict[str, Counts] = {}
        self.accounts: dict[str, Account] = {}
        self.latency: dict[str, Least[float]] = {}
        self.drafts: Least[tuple[float, bool, str]] = Least(MAX_SAMPLE)
        self.expensive: Least[StepTrace] = Least(SHOWN)
        self.doubtful: Least[StepTrace] = Least(SHOWN)
        self.histogram = [[0, 0] for _ in range(20)]
        self.first: float | None = None
        self.last: float | None = None
        self.labels = self.shadow_calls = 0

    @property
    def currency(self) -> str:
        """The currency of most steps."""
        return max(self.accounts, key=lambda code: self.accounts[code].sums["steps"]) if self.accounts else "USD"

    @property
    def account(self) -> Account:
        """The account in that currency."""
        return self.accounts.get(self.currency) or Account(Tally(self.plan))

    def add(self, step: LabelledStep) -> None:
        """Take a step."""
        trace = step.trace
        self.steps += 1
        self.outcomes[trace.outcome if trace.outcome in _OUTCOMES else "(others)"] += 1
        if self.drift is not None:
            self.drift.take(trace, step.given)
        self.labels += len(step.given)
        if not trace.attempts:
            return
        name, kind = self.names.add(trace.step), self.kinds.add(trace.kind)
        if (name, kind) != (trace.step, trace.kind):
            step = replace(step, trace=replace(trace, step=name, kind=kind))
        self._count(trace, name)
        self._time(trace)
        self._money(step)
        self._confidence(step)
        if trace.cost is not None:
            self.expensive.add(-trace.cost, trace)
        unanswered = trace.outcome not in UNFINISHED and trace.final is None
        doubt = _NO_ANSWER if unanswered else trace.confidence
        if doubt is not None:
            self.doubtful.add(doubt, trace)

    def merge(self, other: Collected) -> None:
        """Take in the steps of another part of the journals."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("outcomes", "answers", "sources"):
            getattr(self, name).update(getattr(other, name))
        for name in ("policies", "names", "kinds", "drafts", "expensive", "doubtful"):
            getattr(self, name).merge(getattr(other, name))
        for tier, counts in other.models.items():
            self.models.setdefault(tier, Counts(MAX_CODES)).merge(counts)
        for step, counts in other.reasons.items():
            self.reasons.setdefault(step, Counts(MAX_CODES, "(other reasons)")).merge(counts)
        for who, values in other.latency.items():
            self.latency.setdefault(who, Least(MAX_SAMPLE)).merge(values)
        for code, account in other.accounts.items():
            self.accounts.setdefault(code, Account(Tally(self.plan))).merge(account)
        self.histogram = [[a + c, b + d] for (a, b), (c, d) in zip(self.histogram, other.histogram, strict=True)]
        threads = self.threads | other.threads
        self.threads_full |= other.threads_full or len(threads) > MAX_THREADS
        self.threads = set(sorted(threads)[:MAX_THREADS])
        self.first = min(filter(None, (self.first, other.first)), default=None)
        self.last = max(filter(None, (self.last, other.last)), default=None)

    def _count(self, trace: StepTrace, name: str) -> None:
        tier = trace.final_tier
        answered = "unfinished" if trace.outcome in UNFINISHED else "nobody" if tier is None else _tier(tier)
        self.answers[answered] += 1
        self.degraded += trace.degraded is True
        thread = text_hash(trace.thread_id or f"step:{trace.id}")
        if len(self.threads) < MAX_THREADS:
            self.threads.add(thread)
        elif thread not in self.threads:
            self.threads_full = True
        self.policies.add(trace.policy or "(not recorded)")
        for attempt in _asked(trace):
            counts = self.models.setdefault(_tier(attempt.tier), Counts(MAX_CODES))
            counts.add(attempt.model or "(not recorded)")
        if trace.escalated:
            self.escalated += 1
            reason = next((d.reason for d in trace.decisions if d.action == "escalate"), trace.reason)
            self.reasons.setdefault(name, Counts(MAX_CODES, "(other reasons)")).add(reason or "(not recorded)")

    def _time(self, trace: StepTrace) -> None:
        times = [(_tier(attempt.tier), attempt.latency) for attempt in _asked(trace)]
        times += [("evidence", call.latency) for call in trace.evidence]
        times.append(("step, escalated" if trace.escalated else "step, small only", trace.latency))
        for i, (who, spent) in enumerate(times):
            if spent is not None:
                self.latency.setdefault(who, Least(MAX_SAMPLE)).add(text_hash(f"{i} {trace.id}"), spent)
        time = moment(trace.started_at)
        if time is None:
            self.undated += 1
            return
        self.first, self.last = min(time, self.first or time), max(time, self.last or time)

    def _money(self, step: LabelledStep) -> None:
        trace = step.trace
        code = trace.currency or "?"
        if code not in self.accounts and len(self.accounts) >= MAX_CODES:
            code = "(others)"
        account = self.accounts.setdefault(code, Account(Tally(self.plan)))
        account.tally.add(step)
        sums, time = account.sums, moment(trace.started_at)
        cell = Sums() if time is None else account.timeline.at(time)
        sums["steps"] += 1
        cell["steps"] += 1
        cell["escalated"] += trace.escalated
        sums["unknown"] += trace.cost is None
        cell["unknown"] += trace.cost is None
        if trace.cost is not None:
            sums["known"] += trace.cost
            for attempt in _asked(trace):
                cell[_tier(attempt.tier)] += attempt.cost or 0.0
            cell["evidence"] += sum(call.cost or 0.0 for call in trace.evidence)
        for call in (label.side_call for label in step.given if label.side_call is not None):
            self.shadow_calls += 1
            sums["shadow"] += call.cost or 0.0
            sums["shadow_unknown"] += call.cost is None
            cell["shadow"] += call.cost or 0.0
        facts = step.facts
        if facts is not None and facts.stratum != "known":
            cell["lottery"] += 1
        elif facts is None or facts.large is None:
            cell["unpriced"] += 1
        else:
            cell["alone"] += facts.large / MONEY

    def _confidence(self, step: LabelledStep) -> None:
        if step.outcome.source is not None:
            self.sources[step.outcome.source] += 1
        if not step.drafted:
            return
        small = step.small
        confidence, ours = small.confidence, self._scorer.confidence(small.verdicts)
        differ = (confidence is None) != (ours is None)
        self.differing += differ or (confidence is not None and ours is not None and abs(confidence - ours) > _ROUNDING)
        confidence = ours if self._rescore else confidence
        if confidence is None:
            self.unmeasured += 1
            return
        self.histogram[min(19, int(confidence * 20))][step.trace.escalated] += 1
        if step.outcome.right is not None and step.facts is not None:
            self.drafts.add(text_hash(step.id), (confidence, step.outcome.right, step.outcome.source or "?"))


_SUMS: Final = ("steps", "escalated", "degraded", "undated", "unmeasured", "differing", "labels", "shadow_calls")
_OUTCOMES: Final = ("accepted", "escalated", "exhausted", "human_review", *UNFINISHED)
_ROUNDING: Final = 1e-6


def _asked(trace: StepTrace) -> list[Attempt]:
    return [attempt for attempt in trace.attempts if attempt.outcome != "skipped"]


def _tier(name: str) -> str:
    return "small" if name == "small" else "large"
