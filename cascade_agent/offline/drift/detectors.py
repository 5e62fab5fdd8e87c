"""Two detectors of change, each pure Python, one observation at a time, in bounded memory: PSI, e-detector.

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


# ---- PSI ------------------------------------------------------------------------------------------------------------


def f_tail(x: float, df: float, scale_df: float) -> float:
    """Return P(F > x) for Fisher's F with `df` and `scale_df` degrees of freedom."""
    z = scale_df / (scale_df + df * max(0.0, x))
    return incomplete_beta(scale_df / 2.0, df / 2.0, z, 1.0 - z)


def psi(reference: Sequence[int], current: Sequence[int]) -> float:
    """Return the population stability index of two rows of counts: sum of (p - q) ln(p / q), each count plus a half."""
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
        """Take one observation; return a shift, or None."""
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
        cells, size = [self._cell(v) for v in self._waiting], len(self._names)
        self._waiting = []
        self._base = _counts(cells, size)
        blocks = [_counts(cells[i : i + self.BLOCK], size) for i in range(0, len(cells), self.BLOCK)]
        self.effect, self._uneven, self._scale_df = _design_effect(self._base, blocks)

    def _key(self, value: Category) -> Category:
        return float(sum(value > edge for edge in self._edges)) if isinstance(value, float) else value

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
    found = Counter(cells)
    return [found[cell] for cell in range(length)]


def _design_effect(base: Sequence[int], blocks: Sequence[Sequence[int]]) -> tuple[float, float, int]:
    """Return the design effect, the squared variation of the cells' own ones, degrees of freedom of the estimate."""
    used = [i for i, count in enumerate(base) if count]
    rest = len(used) - 1
    if rest < 1:  # one cell does not vary
        return 1.0, 0.0, len(blocks) - 1
    pairs = zip(blocks[::2], blocks[1::2], strict=True)
    doubled = [[a + b for a, b in zip(one, two, strict=True)] for one, two in pairs]
    single = _cell_effects(base, used, blocks)
    mean = sum(w * d for w, d in single) / rest
    effect = max(1.0, mean, sum(w * d for w, d in _cell_effects(base, used, doubled)) / rest)
    square = sum(w * d * d for w, d in single) / rest
    uneven = square / (mean * mean) - 1.0 if mean > 0.0 else 0.0
    return effect, max(0.0, uneven), rest * (len(blocks) - 1)


def _cell_effects(
    base: Sequence[int], used: Sequence[int], blocks: Sequence[Sequence[int]]
) -> list[tuple[float, float]]:
    """Return (1 - share, design effect) of each used cell: variance of its count over the blocks, over the binomial."""
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
    all stakes placed so far, `R`, alarms at `horizon / level`: the chance of a false alarm within N observations is at
    most `N * level / horizon`, whatever the distribution.

    X is 0 or, for a loss seen with probability `p`, `1 / p`: an unseen observation counts as 0, and the mean stays the
    rate of losses. `p` may change from one observation to the next. A loss may be reported later than its observation
    was counted: that delays an alarm.
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
        """Count the last observation (or an earlier one) as a loss seen with chance `p`; return whether to alarm."""
        _check_share("p", p, one=True)
        for i, rate in enumerate(self._rates):
            nothing = 1.0 - rate * self._bound
            self._stakes[i] *= (1.0 + rate * (1.0 / p - self._bound)) / nothing
        return self.value >= self.limit

    def _bet(self, p: float, bound: float) -> None:
        """Set the rates that grow fastest if the mean is an alternative: the likelihood ratio of rare losses."""
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
