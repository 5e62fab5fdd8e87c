"""What is kept of a stream of any length, in bounded room: counts, percentiles, a timeline, the greatest, a sample."""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")

WIDTHS: Final = (
    0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 21600.0, 43200.0, 86400.0,
    7 * 86400.0, 28 * 86400.0, 364 * 86400.0, 3640 * 86400.0,
)  # fmt: skip
"""Lengths of a period in seconds; each divides the next, so that periods can be joined."""

MONDAY: Final = 4 * 86400.0
"""A Monday, 1970-01-05 in UTC: periods are counted from here."""

MAX_PERIODS: Final = 96


def hash_of(text: str) -> int:
    """63 bits of a text that look drawn and are always the same for the same text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big") >> 1


class Counts:
    """Counts of names. The first `limit` names are told apart, later ones are counted together under `rest`."""

    def __init__(self, limit: int, rest: str = "(others)") -> None:
        self.limit, self.rest = limit, rest
        self.of: Counter[str] = Counter()

    def name(self, name: str) -> str:
        """The name under which this one is counted."""
        return name if name in self.of or len(self.of) < self.limit else self.rest

    def add(self, name: str, count: int = 1) -> str:
        """Count a name; the one under which it was counted."""
        name = self.name(name)
        self.of[name] += count
        return name

    def ordered(self) -> dict[str, int]:
        """The most frequent first, then by name."""
        return dict(sorted(self.of.items(), key=lambda pair: (-pair[1], pair[0])))


class Reservoir:
    """Percentiles of a stream: exact up to `size` values, beyond that of a uniform random sample of `size`."""

    def __init__(self, size: int) -> None:
        self.size, self.n = size, 0
        self.kept: list[float] = []
        self._draw = random.Random(0)  # noqa: S311 - a repeatable sample, no secret

    def add(self, value: float) -> None:
        """Take a value."""
        self.n += 1
        if len(self.kept) < self.size:
            self.kept.append(value)
        elif (place := self._draw.randrange(self.n)) < self.size:
            self.kept[place] = value

    def percentiles(self, *shares: float) -> list[float]:
        """Values below which these shares lie: the nearest rank, so each is a value that was measured."""
        ordered = sorted(self.kept)
        return [ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in shares]


class Top(Generic[T]):
    """The items of the greatest keys; among equal keys the later ones."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0

    def wants(self, key: float) -> bool:
        """Whether an item of this key would be kept."""
        return len(self._heap) < self.size or key >= self._heap[0][0]

    def add(self, key: float, item: T) -> None:
        """Take an item."""
        self._count += 1
        entry = (key, self._count, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[T]:
        """What was kept, the greatest first."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


class Sample(Generic[T]):
    """A uniform sample of a stream: the items with the least hashes, and how many there were."""

    def __init__(self, size: int) -> None:
        self.size, self.n = size, 0
        self._heap: list[tuple[int, int, T]] = []

    def wants(self, key: int) -> bool:
        """Count an item and say whether it would be kept."""
        self.n += 1
        return len(self._heap) < self.size or -key > self._heap[0][0]

    def add(self, key: int, item: T) -> None:
        """Take an item that is wanted."""
        entry = (-key, self.n, item)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[T]:
        """The sample, in the order of the hashes."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]

    @property
    def per_item(self) -> float:
        """How many of the stream each kept item stands for."""
        return self.n / len(self._heap) if self._heap else 1.0


@dataclass(slots=True)
class Cell:
    """One period: steps, sums by what was paid, and what an estimate of always-large needs."""

    steps: int = 0
    escalated: int = 0
    unknown: int = 0
    paid: dict[str, float] = field(default_factory=dict)
    comparable: int = 0
    large: float = 0.0
    small: float = 0.0
    tokens: int = 0

    def pay(self, what: str, cost: float) -> None:
        """Add a cost."""
        self.paid[what] = self.paid.get(what, 0.0) + cost

    def join(self, other: Cell) -> None:
        """Take in another period."""
        self.steps += other.steps
        self.escalated += other.escalated
        self.unknown += other.unknown
        self.comparable += other.comparable
        self.large += other.large
        self.small += other.small
        self.tokens += other.tokens
        for what, cost in other.paid.items():
            self.pay(what, cost)


class Timeline:
    """Periods of equal length, at most `MAX_PERIODS` from the first to the last; they grow with the time they cover."""

    def __init__(self) -> None:
        self._level = 0
        self._cells: dict[int, Cell] = {}
        self._low = self._high = 0

    @property
    def width(self) -> float:
        """Length of a period in seconds."""
        return WIDTHS[self._level]

    def at(self, time: float) -> Cell:
        """The period of a time (seconds since 1970)."""
        index = self._index(time)
        if not self._cells:
            self._low = self._high = index
        elif not self._low <= index <= self._high:
            self._low, self._high = min(self._low, index), max(self._high, index)
            while self._high - self._low >= MAX_PERIODS and self._level < len(WIDTHS) - 1:
                self._widen(self._level + 1)
            index = self._index(time)
        return self._cells.setdefault(index, Cell())

    def merge(self, other: Timeline) -> None:
        """Take in another timeline."""
        self._widen(max(self._level, other._level))
        for start, cell in other.cells():
            self.at(start + other.width / 2).join(cell)

    def cells(self) -> list[tuple[float, Cell]]:
        """(start in seconds since 1970, period), in order; periods without any step are left out."""
        return [(MONDAY + index * self.width, cell) for index, cell in sorted(self._cells.items())]

    def _index(self, time: float) -> int:
        return math.floor((time - MONDAY) / self.width)

    def _widen(self, level: int) -> None:
        if level == self._level:
            return
        factor = round(WIDTHS[level] / self.width)
        joined: dict[int, Cell] = {}
        for index, cell in self._cells.items():
            if (place := index // factor) in joined:
                joined[place].join(cell)
            else:
                joined[place] = cell
        self._cells, self._level = joined, level
        self._low, self._high = self._low // factor, self._high // factor
