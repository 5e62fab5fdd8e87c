"""Three detectors of change, each pure Python, one observation at a time, in bounded memory: ADWIN, PSI, e-detector.

No clock, no files, no randomness; each states the chance of a false alarm that it was set to.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.metrics import incomplete_beta

if TYPE_CHECKING:
    from collections.abc import Sequence

Category = str | float | None


# ---- ADWIN ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Where a window was cut: the means of both sides and how many observations lie after the cut."""

    before: float
    after: float
    n_before: int
    n_after: int


@dataclass(slots=True)
class _Row:
    """Buckets of one size, oldest first: sum and sum of squared deviations of each."""

    totals: deque[float]
    squares: deque[float]


class Adwin:
    """ADWIN2: a window of numbers that drops its older part when the means of two parts differ too much.

    Bifet, Gavaldà, *Learning from Time-Changing Data with Adaptive Windowing*, SDM 2007. The window is kept as buckets
    of 1, 2, 4, ... observations, at most `max_buckets` of each size, so n observations need O(log n) memory. All cuts
    between buckets are tested, with the bound of the paper's section 4 on the window's own variance.

    Steps of one conversation resemble each other, and the bound is for independent ones. `blocks=True` multiplies the
    variance by the inflation seen in blocks of 32 observations (half the mean squared difference of neighbouring block
    means over what independence would give, never below 1), which a shift of the mean hardly moves.
    """

    def __init__(
        self,
        delta: float = 0.002,
        *,
        clock: int = 32,
        max_buckets: int = 5,
        min_part: int = 5,
        grace: int = 10,
        blocks: bool = False,
    ) -> None:
        _check_share("delta", delta)
        for name, value in (("clock", clock), ("max_buckets", max_buckets), ("min_part", min_part)):
            if value < 1:
                msg = f"Adwin.{name} is {value!r}; expected a number >= 1"
                raise ConfigurationError(msg)
        self.delta, self.clock, self.max_buckets = delta, clock, max_buckets
        self.min_part, self.grace, self.blocks = min_part, grace, blocks
        self.width = 0
        """Observations in the window."""
        self.total = 0.0
        self.ticks = 0
        self._squares = 0.0
        self._rows: list[_Row] = [_row()]
        self._spread = _Spread()

    @property
    def mean(self) -> float | None:
        """Mean of the window; None while it is empty."""
        return self.total / self.width if self.width else None

    @property
    def variance(self) -> float:
        """Variance of the window."""
        return max(0.0, self._squares) / self.width if self.width else 0.0

    @property
    def buckets(self) -> int:
        """Number of buckets that hold the window."""
        return sum(len(row.totals) for row in self._rows)

    @property
    def inflation(self) -> float:
        """By how much dependence inflates the variance of a mean, at least 1; 1 without `blocks`."""
        return self._spread.inflation(self.variance) if self.blocks else 1.0

    def update(self, value: float) -> Change | None:
        """Take one observation; the most telling cut if the window was shortened, else None."""
        self.ticks += 1
        if self.width:
            self._squares += self.width * (value - self.total / self.width) ** 2 / (self.width + 1)
        self.width += 1
        self.total += value
        first = self._rows[0]
        first.totals.append(value)
        first.squares.append(0.0)
        if len(first.totals) > self.max_buckets:
            self._compress()
        if self.blocks:
            self._spread.add(value)
        if self.ticks % self.clock == 0 and self.width > self.grace:
            return self._check()
        return None

    def _compress(self) -> None:
        size = 1
        for index, row in enumerate(self._rows):
            if len(row.totals) <= self.max_buckets:
                return
            one, two = row.totals.popleft(), row.totals.popleft()
            squares = row.squares.popleft() + row.squares.popleft() + (one - two) ** 2 / (2 * size)
            if index + 1 == len(self._rows):
                self._rows.append(_row())
            self._rows[index + 1].totals.append(one + two)
            self._rows[index + 1].squares.append(squares)
            size *= 2

    def _check(self) -> Change | None:
        found: Change | None = None
        while (cut := self._cut()) is not None:
            found = found or cut
            self._drop()
        return found

    def _cut(self) -> Change | None:
        """The cut that exceeds its bound the most, None when none does."""
        n, log_term = self.width, math.log(2.0 * math.log(self.width) / self.delta)
        variance, bernstein = 2.0 * self.variance * self.inflation * log_term, 2.0 / 3.0 * log_term
        best: Change | None = None
        most, n0, u0 = 1.0, 0, 0.0
        for index in range(len(self._rows) - 1, -1, -1):
            size = 1 << index
            for total in self._rows[index].totals:
                n0 += size
                u0 += total
                n1 = n - n0
                if n1 < self.min_part:
                    return best
                if n0 < self.min_part:
                    continue
                share = 1.0 / (n0 - self.min_part + 1) + 1.0 / (n1 - self.min_part + 1)
                before, after = u0 / n0, (self.total - u0) / n1
                excess = abs(before - after) / (math.sqrt(share * variance) + bernstein * share)
                if excess > most:
                    most, best = excess, Change(before=before, after=after, n_before=n0, n_after=n1)
        return best  # pragma: no cover - the last bucket leaves fewer than `min_part` after it

    def _drop(self) -> None:
        """Forget the oldest bucket."""
        row, size = self._rows[-1], 1 << (len(self._rows) - 1)
        total, squares = row.totals.popleft(), row.squares.popleft()
        if not row.totals and len(self._rows) > 1:
            self._rows.pop()
        self.width -= size
        self.total -= total
        rest = self.total / self.width - total / size
        self._squares -= squares + size * self.width * rest * rest / (size + self.width)


def _row() -> _Row:
    return _Row(totals=deque(), squares=deque())


@dataclass(slots=True)
class _Spread:
    """Difference of the means of neighbouring blocks, as a moving average over about 64 blocks."""

    size: int = 32
    total: float = 0.0
    count: int = 0
    last: float | None = None
    blocks: int = 0
    difference: float = 0.0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1
        if self.count < self.size:
            return
        mean = self.total / self.size
        if self.last is not None:
            self.blocks += 1
            self.difference += ((mean - self.last) ** 2 - self.difference) / min(self.blocks, 64)
        self.last, self.total, self.count = mean, 0.0, 0

    def inflation(self, variance: float) -> float:
        if variance <= 0.0 or not self.blocks:
            return 1.0
        return max(1.0, self.size * self.difference / 2.0 / variance)


# ---- PSI ------------------------------------------------------------------------------------------------------------


def f_tail(x: float, df: float, scale_df: float) -> float:
    """P(F > x) for Fisher's F with `df` and `scale_df` degrees of freedom: the incomplete beta function."""
    if x <= 0.0:
        return 1.0
    whole = scale_df + df * x
    return incomplete_beta(scale_df / 2.0, df / 2.0, scale_df / whole, df * x / whole)


def psi(reference: Sequence[int], current: Sequence[int]) -> float:
    """Population stability index of two rows of counts: sum of (p - q) ln(p / q), half a count added to every cell."""
    if len(reference) != len(current) or not current:
        msg = f"psi of {len(reference)} and {len(current)} cells; expected two rows of the same cells"
        raise ConfigurationError(msg)
    n, m = sum(reference) + 0.5 * len(reference), sum(current) + 0.5 * len(current)
    pairs = [((a + 0.5) / n, (b + 0.5) / m) for a, b in zip(reference, current, strict=True)]
    return math.fsum((p - q) * math.log(p / q) for p, q in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A window that differs from the reference: how much, how unlikely, and the cell that moved most."""

    psi: float
    p_value: float
    cell: str
    before: float
    after: float


OTHER: Final = "other"


class Stability:
    """PSI of the last `window` observations against the first `reference` ones, looked at every `hop` observations.

    An observation is a name, a number, or None. Numbers are put into at most ten bins of equal count, names rarer than
    five in a window are put together with those never seen (`other`), so memory is bounded by the reference.

    A window is a shift when its PSI is at least `least` and its p-value at most `level`. Steps of one conversation
    resemble each other, so the chi-squared is divided by a design effect: how much more blocks of 50 (or 100, whichever
    says more) inside of the reference differ than independent ones would, at least 1. As that is an estimate, the
    p-value is of the F distribution, with fewer degrees of freedom where the cells' own design effects are unlike
    (Rao and Scott 1981, Satterthwaite's correction). After a shift a new reference is collected.
    """

    BLOCK: Final = 50
    BINS: Final = 10
    RARE: Final = 5.0

    def __init__(
        self, level: float, *, window: int = 300, hop: int = 100, reference: int = 900, least: float = 0.1
    ) -> None:
        _check_share("level", level)
        if hop < 1 or window % hop or reference % (2 * self.BLOCK) or reference < 4 * self.BLOCK:
            msg = (
                f"window {window}, hop {hop}, reference {reference}: expected a window of whole hops and a reference "
                f"of two or more whole blocks of {2 * self.BLOCK}"
            )
            raise ConfigurationError(msg)
        self.level, self.window, self.hop, self.reference, self.least = level, window, hop, reference, least
        self.value: float | None = None
        """The last PSI, None before the first look."""
        self.restart()

    def restart(self) -> None:
        """Forget the reference and collect a new one."""
        self._waiting: list[Category] = []
        self._edges: list[float] = []
        self._cells: dict[Category, int] = {}
        self._names: list[str] = []
        self._base: list[int] = []
        self._hops: deque[list[int]] = deque(maxlen=self.window // self.hop)
        self._seen = 0
        self.effect = 1.0
        """Design effect of the reference, at least 1."""
        self._uneven = 0.0
        self._scale_df = 1

    @property
    def ready(self) -> bool:
        """Return whether the reference is complete."""
        return bool(self._base)

    def update(self, value: Category) -> Shift | None:
        """Take one observation; a shift, or None."""
        if not self._base:
            self._waiting.append(value)
            if len(self._waiting) == self.reference:
                self._fix()
            return None
        if self._seen % self.hop == 0:
            self._hops.append([0] * len(self._base))
        self._hops[-1][self._cell(value)] += 1
        self._seen += 1
        if self._seen % self.hop or self._seen < self.window:
            return None
        return self._look()

    def _fix(self) -> None:
        """Make cells of what was collected."""
        numbers = sorted(v for v in self._waiting if isinstance(v, float))
        self._edges = _edges(numbers, self.BINS)
        raw = Counter(self._key(v) for v in self._waiting)
        enough = self.RARE * self.reference / self.window
        kept = sorted((key for key, count in raw.items() if count >= enough), key=str)
        self._cells = {key: index for index, key in enumerate(kept)}
        self._names = [*(self._title(key) for key in kept), OTHER]
        cells = [self._cell(v) for v in self._waiting]
        self._waiting = []
        self._base = _counts(cells, len(self._names))
        blocks = [_counts(cells[i : i + self.BLOCK], len(self._names)) for i in range(0, len(cells), self.BLOCK)]
        self.effect, self._uneven, self._scale_df = _design_effect(self._base, blocks)

    def _key(self, value: Category) -> Category:
        if isinstance(value, float):
            return float(sum(value > edge for edge in self._edges))
        return value

    def _cell(self, value: Category) -> int:
        return self._cells.get(self._key(value), len(self._cells))

    def _title(self, key: Category) -> str:
        if not isinstance(key, float):
            return "none" if key is None else str(key)
        index = int(key)
        low = "" if index == 0 else f"{self._edges[index - 1]:.3g} < "
        return low + "value" + ("" if index == len(self._edges) else f" <= {self._edges[index]:.3g}")

    def _look(self) -> Shift | None:
        now = [sum(column) for column in zip(*self._hops, strict=True)]
        self.value = value = psi(self._base, now)
        df = sum(a + b > 0 for a, b in zip(self._base, now, strict=True)) - 1
        if value < self.least or df < 1:
            return None
        chi2 = value / (1.0 / self.reference + 1.0 / self.window) / self.effect
        fewer = 1.0 + self._uneven
        p_value = f_tail(chi2 / df, df / fewer, self._scale_df / fewer)
        if p_value > self.level:
            return None
        shares = [(a / self.reference, b / self.window) for a, b in zip(self._base, now, strict=True)]
        most = max(range(len(shares)), key=lambda i: abs(shares[i][1] - shares[i][0]))
        shift = Shift(psi=value, p_value=p_value, cell=self._names[most], before=shares[most][0], after=shares[most][1])
        self.restart()
        return shift


def _edges(numbers: list[float], bins: int) -> list[float]:
    """Upper edges of bins of about equal count; equal numbers are never torn apart."""
    if not numbers:
        return []
    edges = {numbers[max(0, len(numbers) * i // bins - 1)] for i in range(1, bins)}
    return sorted(edge for edge in edges if edge < numbers[-1])


def _counts(cells: Sequence[int], length: int) -> list[int]:
    counts = [0] * length
    for cell in cells:
        counts[cell] += 1
    return counts


def _design_effect(base: Sequence[int], blocks: Sequence[Sequence[int]]) -> tuple[float, float, int]:
    """(the design effect, the squared variation of the cells' own ones, degrees of freedom of the estimate)."""
    used = [i for i, count in enumerate(base) if count]
    if len(used) < 2:  # one cell does not vary
        return 1.0, 0.0, len(blocks) - 1
    doubled = [
        [a + b for a, b in zip(one, two, strict=True)] for one, two in zip(blocks[::2], blocks[1::2], strict=True)
    ]
    single = _cell_effects(base, used, blocks)
    rest = len(used) - 1
    effect = max(
        1.0, sum(w * d for w, d in single) / rest, sum(w * d for w, d in _cell_effects(base, used, doubled)) / rest
    )
    mean = sum(w * d for w, d in single) / rest
    square = sum(w * d * d for w, d in single) / rest
    uneven = square / (mean * mean) - 1.0 if mean > 0.0 else 0.0
    return effect, max(0.0, uneven), rest * (len(blocks) - 1)


def _cell_effects(
    base: Sequence[int], used: Sequence[int], blocks: Sequence[Sequence[int]]
) -> list[tuple[float, float]]:
    """(1 - share, design effect) of each used cell: the variance of its count over the blocks, over the binomial."""
    n, found = sum(base), []
    for i in used:
        share = base[i] / n
        squares = sum((block[i] - share * sum(block)) ** 2 / (share * sum(block)) for block in blocks)
        found.append((1.0 - share, squares / (len(blocks) - 1) / (1.0 - share)))
    return found


# ---- e-detector -----------------------------------------------------------------------------------------------------


class EDetector:
    """A mixture of Shiryaev-Roberts e-detectors for "the mean of X rose above `bound`", X >= 0.

    Shin, Ramdas, Rinaldo, *E-detectors: a nonparametric framework for sequential change detection*, NEJSDS 2024
    (arXiv:2203.03532). Each observation bets on a rise to one of several alternatives: the stake grows by
    `1 + rate * (X - bound)`, whose mean is at most 1 while the mean of X given the past is at most `bound`. The sum of
    all stakes placed so far, `R`, alarms at `horizon / level`. While the bound holds, the mean time to a false alarm is
    at least that many observations, and the chance of one within N observations at most `N * level / horizon`, whatever
    the distribution.

    X of an observation is 0 or, for a loss seen with probability `p`, `1 / p`: an unseen observation tells as 0, and
    the mean stays the rate of losses. `p` may change from one observation to the next. A loss may be reported later
    than its observation was counted: that delays an alarm.
    """

    TIMES: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
    """Alternatives, in multiples of the bound."""

    def __init__(self, bound: float, *, level: float, horizon: int = 10_000) -> None:
        _check_share("bound", bound)
        _check_share("level", level)
        self.bound, self.limit = bound, horizon / level
        self._rates: tuple[float, ...] = ()
        self._bound, self._p = 0.0, 0.0
        self._stakes = [0.0] * len(self.TIMES)
        self.n = 0

    @property
    def value(self) -> float:
        """R, the mean over the alternatives: about n without losses seen, alarm at `limit`."""
        return sum(self._stakes) / len(self._stakes)

    def restart(self) -> None:
        """Forget all evidence, after an alarm."""
        self._stakes = [0.0] * len(self._stakes)

    def count(self, *, p: float = 1.0, bound: float | None = None) -> None:
        """Count one observation, as one without a loss."""
        self.n += 1
        self._bet(p, self.bound if bound is None else bound)
        for i, rate in enumerate(self._rates):
            self._stakes[i] = (self._stakes[i] + 1.0) * (1.0 - rate * self._bound)

    def loss(self, *, p: float = 1.0) -> bool:
        """The last counted observation (or an earlier one) was a loss, seen with probability `p`; whether to alarm."""
        _check_share("p", p, one=True)
        for i, rate in enumerate(self._rates):
            nothing = 1.0 - rate * self._bound
            self._stakes[i] *= (1.0 + rate * (1.0 / p - self._bound)) / nothing
        return self.value >= self.limit

    def _bet(self, p: float, bound: float) -> None:
        """Rates that grow fastest if the mean is an alternative: those of the likelihood ratio of rare losses."""
        if (p, bound) == (self._p, self._bound):
            return
        self._p, self._bound = p, bound
        top = 0.5 * (1.0 + bound)
        self._rates = tuple(p * (min(times * bound, top) - bound) / (bound * (1.0 - p * bound)) for times in self.TIMES)


def _check_share(name: str, value: object, *, one: bool = False) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    if not (0.0 < number < 1.0 or (one and number == 1.0)):
        msg = f"{name} is {value!r}; expected a number in (0, 1{']' if one else ')'}"
        raise ConfigurationError(msg)
