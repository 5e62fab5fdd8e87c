"""Three detectors of change, each pure Python, one observation at a time, in bounded memory: ADWIN, PSI, e-detector.

No clock, no files, no randomness; each states the chance of a false alarm that it was set to.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.metrics import incomplete_beta

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Category = str | float | None
HORIZON: Final = 10_000  # observations within which the chance of a false alarm is stated


def check_share(name: str, value: object) -> None:
    """Refuse what is no number in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
        msg = f"{name} is {value!r}; expected a number in (0, 1), such as 0.05"
        raise ConfigurationError(msg)


# ---- ADWIN ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A cut of a window: the means of both sides, and how many observations lie after it."""

    before: float
    after: float
    n_after: int


class Adwin:
    """ADWIN2: a window of numbers that drops its older part when the means of two parts differ too much.

    Bifet, Gavaldà, *Learning from Time-Changing Data with Adaptive Windowing*, SDM 2007. The window is kept as buckets
    of 1, 2, 4, ... observations, at most five of each size, so n observations need O(log n) memory. Every 32
    observations all cuts between buckets are tested, with the bound of the paper's section 4 on the window's variance.

    Steps of one conversation resemble each other, and the bound is for independent ones, so the variance is multiplied
    by the inflation seen in blocks of 32 observations (half the mean squared difference of neighbouring block means
    over what independence would give, never below 1), which a shift of the mean hardly moves.
    """

    CLOCK: Final = 32
    BUCKETS: Final = 5
    LEAST_PART: Final = 5
    GRACE: Final = 10
    BLOCKS: Final = 64
    """Blocks over which their differences are averaged."""

    def __init__(self, delta: float) -> None:
        check_share("delta", delta)
        self.delta = delta
        self.width = self.ticks = 0
        """Observations in the window, and in all."""
        self.total = self._squares = 0.0
        self._rows: list[deque[tuple[float, float]]] = [deque()]  # of each size, oldest first: sum, squared deviations
        self._block = self._block_before = self._difference = 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the window; None while it is empty."""
        return self.total / self.width if self.width else None

    @property
    def variance(self) -> float:
        """Variance of the window."""
        return max(0.0, self._squares) / self.width if self.width else 0.0

    @property
    def inflation(self) -> float:
        """By how much dependence inflates the variance of a mean, at least 1."""
        variance = self.variance
        return max(1.0, self.CLOCK * self._difference / 2.0 / variance) if variance > 0.0 else 1.0

    def update(self, value: float) -> Change | None:
        """Take one observation; the most telling cut if the window was shortened, else None."""
        self.ticks += 1
        if self.width:
            self._squares += self.width * (value - self.total / self.width) ** 2 / (self.width + 1)
        self.width += 1
        self.total += value
        self._block += value
        self._rows[0].append((value, 0.0))
        self._compress()
        if self.ticks % self.CLOCK:
            return None
        self._end_block()
        found: Change | None = None
        while self.width > self.GRACE and (cut := self._cut()) is not None:
            found = found or cut
            self._drop()
        return found

    def _compress(self) -> None:
        for index, row in enumerate(self._rows):
            if len(row) <= self.BUCKETS:
                return
            (one, first), (two, second) = row.popleft(), row.popleft()
            if index + 1 == len(self._rows):
                self._rows.append(deque())
            self._rows[index + 1].append((one + two, first + second + (one - two) ** 2 / (2 << index)))

    def _end_block(self) -> None:
        mean, pairs = self._block / self.CLOCK, self.ticks // self.CLOCK - 1
        if pairs:
            self._difference += ((mean - self._block_before) ** 2 - self._difference) / min(pairs, self.BLOCKS)
        self._block, self._block_before = 0.0, mean

    def _cut(self) -> Change | None:
        """Return the cut that exceeds its bound the most, None when none does."""
        log_term = math.log(2.0 * math.log(self.width) / self.delta)
        variance, bernstein = 2.0 * self.variance * self.inflation * log_term, 2.0 / 3.0 * log_term
        best: Change | None = None
        most, n0, total0 = 1.0, 0, 0.0
        for index in range(len(self._rows) - 1, -1, -1):
            for total, _ in self._rows[index]:
                n0 += 1 << index
                total0 += total
                n1 = self.width - n0
                if min(n0, n1) < self.LEAST_PART:
                    continue
                share = 1.0 / (n0 - self.LEAST_PART + 1) + 1.0 / (n1 - self.LEAST_PART + 1)
                before, after = total0 / n0, (self.total - total0) / n1
                excess = abs(before - after) / (math.sqrt(share * variance) + bernstein * share)
                if excess > most:
                    most, best = excess, Change(before=before, after=after, n_after=n1)
        return best

    def _drop(self) -> None:
        """Forget the oldest bucket."""
        row, size = self._rows[-1], 1 << (len(self._rows) - 1)
        total, squares = row.popleft()
        if not row and len(self._rows) > 1:
            self._rows.pop()
        self.width -= size
        self.total -= total
        rest = self.total / self.width - total / size
        self._squares -= squares + size * self.width * rest * rest / (size + self.width)


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


class Stability:
    """PSI of the last 300 observations against the first 900, looked at every 100 observations.

    An observation is a name, a number, or None. Numbers are put into at most ten bins of equal count, names rarer than
    five in a window are put together with those never seen (`other`), so memory is bounded by the reference.

    A window is a shift when its PSI is at least `LEAST` and its p-value at most `level`. Steps of one conversation
    resemble each other, so the chi-squared is divided by a design effect: how much more blocks of 50 (or 100, whichever
    says more) inside of the reference differ than independent ones would, at least 1. As that is an estimate, the
    p-value is of the F distribution, with fewer degrees of freedom where the cells' own design effects are unlike
    (Rao and Scott 1981, Satterthwaite's correction). After a shift a new reference is collected.
    """

    WINDOW: Final = 300
    HOP: Final = 100
    REFERENCE: Final = 900
    LEAST: Final = 0.1
    BLOCK: Final = 50
    BINS: Final = 10
    RARE: Final = 5.0

    def __init__(self, level: float) -> None:
        check_share("level", level)
        self.level = level
        self.value: float | None = None
        """The last PSI, None before the first look."""
        self.n = 0
        self.restart()

    def restart(self) -> None:
        """Forget the reference and collect a new one."""
        self._waiting: list[Category] = []
        self._base: list[int] = []
        self._hops: deque[list[int]] = deque(maxlen=self.WINDOW // self.HOP)
        self._seen = 0

    @property
    def ready(self) -> bool:
        """Return whether the reference is complete."""
        return bool(self._base)

    def update(self, value: Category) -> Shift | None:
        """Take one observation; a shift, or None."""
        self.n += 1
        if not self._base:
            self._waiting.append(value)
            if len(self._waiting) == self.REFERENCE:
                self._fix(self._waiting)
            return None
        if self._seen % self.HOP == 0:
            self._hops.append([0] * len(self._base))
        self._hops[-1][self._cell(value)] += 1
        self._seen += 1
        return None if self._seen % self.HOP or self._seen < self.WINDOW else self._look()

    def _fix(self, found: list[Category]) -> None:
        """Make cells of what was collected: the last one holds the rare and the new."""
        numbers = sorted(value for value in found if isinstance(value, float))
        cuts = {numbers[max(0, len(numbers) * i // self.BINS - 1)] for i in range(1, self.BINS)} if numbers else set()
        self._edges = sorted(cut for cut in cuts if cut < numbers[-1])
        enough = self.RARE * self.REFERENCE / self.WINDOW
        counts = Counter(map(self._key, found))
        self._names = sorted((key for key, count in counts.items() if count >= enough), key=str)
        self._cells = {key: cell for cell, key in enumerate(self._names)}
        blocks = [[0] * (len(self._names) + 1) for _ in range(self.REFERENCE // self.BLOCK)]
        for i, value in enumerate(found):
            blocks[i // self.BLOCK][self._cell(value)] += 1
        self._base, self._waiting = _summed(blocks), []
        self._effect, self._uneven, self._scale_df = _design_effect(blocks)

    def _key(self, value: Category) -> Category:
        """Return what makes observations alike: a name itself, of a number the number of its bin."""
        return float(bisect_left(self._edges, value)) if isinstance(value, float) else value

    def _cell(self, value: Category) -> int:
        return self._cells.get(self._key(value), len(self._cells))

    def _title(self, cell: int) -> str:
        """Return the name of a cell; of a bin its edges."""
        key = "other" if cell == len(self._names) else self._names[cell]
        if not isinstance(key, float):
            return "none" if key is None else str(key)
        low, high = list(pairwise((None, *self._edges, None)))[int(key)]
        return ("" if low is None else f"{low:.3g} < ") + "value" + ("" if high is None else f" <= {high:.3g}")

    def _look(self) -> Shift | None:
        now = _summed(self._hops)
        self.value = value = psi(self._base, now)
        df = sum(a + b > 0 for a, b in zip(self._base, now, strict=True)) - 1
        if value < self.LEAST or df < 1:
            return None
        chi2 = value / (1.0 / self.REFERENCE + 1.0 / self.WINDOW) / self._effect
        fewer = 1.0 + self._uneven
        p_value = f_tail(chi2 / df, df / fewer, self._scale_df / fewer)
        if p_value > self.level:
            return None
        shares = [(a / self.REFERENCE, b / self.WINDOW) for a, b in zip(self._base, now, strict=True)]
        most = max(range(len(shares)), key=lambda i: abs(shares[i][1] - shares[i][0]))
        before, after = shares[most]
        shift = Shift(psi=value, p_value=p_value, cell=self._title(most), before=before, after=after)
        self.restart()
        return shift


def _summed(rows: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _design_effect(blocks: Sequence[Sequence[int]]) -> tuple[float, float, int]:
    """Return the design effect, the squared variation of the cells' own ones, degrees of freedom of the estimate."""
    single = _cell_effects(blocks)
    double = _cell_effects([_summed(pair) for pair in zip(blocks[::2], blocks[1::2], strict=True)])
    rest, among = len(single) - 1, len(blocks) - 1
    if rest < 1:  # one cell does not vary
        return 1.0, 0.0, among
    mean, longer = (sum(w * d for w, d in effects) / rest for effects in (single, double))
    square = sum(w * d * d for w, d in single) / rest
    uneven = square / (mean * mean) - 1.0 if mean > 0.0 else 0.0
    return max(1.0, mean, longer), max(0.0, uneven), rest * among


def _cell_effects(blocks: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """(1 - share, design effect) of each used cell: the variance of its count over the blocks, over the binomial."""
    base = _summed(blocks)
    found = []
    for cell, count in enumerate(base):
        if 0 < count < sum(base):
            expected, rest = count / len(blocks), 1.0 - count / sum(base)
            squares = sum((block[cell] - expected) ** 2 for block in blocks) / expected
            found.append((rest, squares / (len(blocks) - 1) / rest))
    return found


# ---- e-detector -----------------------------------------------------------------------------------------------------


class EDetector:
    """A mixture of Shiryaev-Roberts e-detectors for "the mean of X rose above `bound`", X >= 0.

    Shin, Ramdas, Rinaldo, *E-detectors: a nonparametric framework for sequential change detection*, NEJSDS 2024
    (arXiv:2203.03532). Each observation bets on a rise to one of several alternatives: the stake grows by
    `1 + rate * (X - bound)`, whose mean is at most 1 while the mean of X given the past is at most `bound`. The sum of
    all stakes placed so far, `R`, alarms at `HORIZON / level`. While the bound holds, the mean time to a false alarm is
    at least that many observations, and the chance of one within N observations at most `N * level / HORIZON`, whatever
    the distribution.

    X of an observation is 0 or, for a loss seen with probability `p`, `1 / p`: an unseen observation tells as 0, and
    the mean stays the rate of losses. `p` may change from one observation to the next. A loss may be reported later
    than its observation was counted: that delays an alarm.
    """

    TIMES: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
    """Alternatives, in multiples of the bound."""

    def __init__(self, bound: float, *, level: float) -> None:
        check_share("bound", bound)
        check_share("level", level)
        self.bound, self.limit, self.n = bound, HORIZON / level, 0
        self._sized = 0.0, 0.0  # chance and bound that the rates are for
        self._rates: tuple[float, ...] = ()
        self.restart()

    @property
    def value(self) -> float:
        """R, the mean over the alternatives: about n without losses seen, alarm at `limit`."""
        return sum(self._stakes) / len(self._stakes)

    def restart(self) -> None:
        """Forget all evidence, after an alarm."""
        self._stakes = [0.0] * len(self.TIMES)

    def count(self, *, p: float = 1.0, bound: float | None = None) -> None:
        """Count one observation, as one without a loss."""
        self.n += 1
        bound = self.bound if bound is None else bound
        if (p, bound) != self._sized:
            self._sized, top = (p, bound), 0.5 * (1.0 + bound)
            # stakes grow fastest at these rates if the mean is an alternative: the likelihood ratio of rare losses
            above = (min(times * bound, top) - bound for times in self.TIMES)
            self._rates = tuple(p * more / (bound * (1.0 - p * bound)) for more in above)
        pairs = zip(self._stakes, self._rates, strict=True)
        self._stakes = [(stake + 1.0) * (1.0 - rate * bound) for stake, rate in pairs]

    def loss(self, *, p: float = 1.0) -> bool:
        """The last counted observation (or an earlier one) was a loss, seen with probability `p`; whether to alarm."""
        if not 0.0 < p <= 1.0:
            msg = f"p is {p!r}; expected a number in (0, 1]"
            raise ConfigurationError(msg)
        bound, pairs = self._sized[1], zip(self._stakes, self._rates, strict=True)
        self._stakes = [stake * ((1.0 + rate * (1.0 / p - bound)) / (1.0 - rate * bound)) for stake, rate in pairs]
        return self.value >= self.limit
