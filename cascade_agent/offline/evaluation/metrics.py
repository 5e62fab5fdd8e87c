"""Quality of a confidence (ranking, calibration error, intervals over episodes), and the binomial distribution."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
_BISECTIONS = 100
_PRECISION, _TINY, _TERMS = 1e-15, 1e-300, 100_000


def auroc(confidence: Sequence[float], right: Sequence[bool]) -> float | None:
    """P(a right draft has more confidence than a wrong one), ties count half; None when one of the two is missing."""
    wrong = sorted(p for p, y in zip(confidence, right, strict=True) if not y)
    rights = [p for p, y in zip(confidence, right, strict=True) if y]
    won = sum(bisect_left(wrong, p) + bisect_right(wrong, p) for p in rights) / 2
    return won / (len(rights) * len(wrong)) if rights and wrong else None


def auroc_within(confidence: Sequence[float], right: Sequence[bool], group: Sequence[int]) -> float | None:
    """AUROC over the pairs inside of each group: scores of different groups (folds, kinds) are never compared."""
    total = won = 0.0
    for one in sorted(set(group)):
        inside = [(p, y) for p, y, g in zip(confidence, right, group, strict=True) if g == one]
        rights = [y for _, y in inside]
        if (value := auroc([p for p, _ in inside], rights)) is not None:
            pairs = sum(rights) * (len(rights) - sum(rights))
            total, won = total + pairs, won + value * pairs
    return won / total if total else None


def calibration_error(confidence: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> float | None:
    """Mean distance between confidence and share of right drafts over `bins` bins of equal count; None without data.

    Equal confidences are never torn apart. With few steps it is too great by chance: about sqrt(p (1 - p) bins / n).
    """
    n = len(right)
    order = sorted(range(n), key=confidence.__getitem__)
    error, at = 0.0, 0
    for index in range(bins):
        end = max(at, n * (index + 1) // bins)
        while 0 < end < n and confidence[order[end]] == confidence[order[end - 1]]:
            end += 1
        error += abs(math.fsum(confidence[i] - right[i] for i in order[at:end]))
        at = end
    return error / n if n else None


def brier(confidence: Sequence[float], right: Sequence[bool]) -> float | None:
    """Mean squared distance between confidence and outcome; None without data."""
    n = len(right)
    return math.fsum((p - y) ** 2 for p, y in zip(confidence, right, strict=True)) / n if n else None


def percentiles(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the two-sided percentile interval of one or more resampled values, rounded outwards."""
    ordered, tail, last = sorted(values), (1.0 - level) / 2, len(values) - 1
    return ordered[math.floor(tail * last)], ordered[math.ceil((1.0 - tail) * last)]


def interval(
    rows: Sequence[T],
    statistic: Callable[[list[T]], float | None],
    *,
    episode: Callable[[T], str],
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of `statistic`, drawing whole episodes; None when it cannot be computed.

    Resamples on which the statistic is None are left out.
    """
    groups: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        groups[episode(row)].append(row)
    keys, draw = sorted(groups), random.Random(seed)  # a repeatable bootstrap, no secret
    drawn = (draw.choices(keys, k=len(keys)) for _ in range(resamples if keys else 0))
    found = [statistic([row for key in some for row in groups[key]]) for some in drawn]
    known = [value for value in found if value is not None]
    return percentiles(known) if known else None


def incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Return I_x(a, b), the regularised incomplete beta function, where y is 1 - x, by its continued fraction (Lentz).

    It is P(Beta(a, b) <= x), and so the tail of the binomial distribution and of Fisher's F.
    """
    if x <= 0.0 or y <= 0.0:
        return float(x > 0.0)
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges below the mean
        return 1.0 - incomplete_beta(b, a, y, x)
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _TERMS):  # pragma: no branch - it converges
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away(1.0 + term * d)
            c = _away(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _PRECISION:
            break
    return math.exp(log_scale) * value / a


def _away(value: float) -> float:
    """Keep away from 0, so that it can be divided by."""
    return value if abs(value) > _TINY else _TINY


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) <= k), good to 1e-7 of itself for n up to 1e6."""
    if k < 0 or (p >= 1.0 and k < n):
        return 0.0
    return 1.0 if k >= n or p <= 0.0 else incomplete_beta(n - k, k + 1, 1.0 - p, p)


def upper_bound(losses: int, n: int, confidence: float = 0.9) -> float:
    """The one-sided Clopper-Pearson bound: the greatest rate that `losses` of `n` do not refute; 1 without data."""
    if losses >= n:
        return 1.0
    low, high = losses / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(losses, n, middle) > 1.0 - confidence else (low, middle)
    return high
