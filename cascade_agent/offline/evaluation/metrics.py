"""Quality of a confidence (ranking, calibration error, intervals over episodes), and the binomial distribution."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
_BISECTIONS = 100


def auroc(confidence: Sequence[float], right: Sequence[bool]) -> float | None:
    """P(a right draft has more confidence than a wrong one), ties count half; None when one of the two is missing."""
    order = sorted(range(len(right)), key=confidence.__getitem__)
    positives, rank_sum, at = sum(right), 0.0, 0
    while at < len(order):
        end = at
        while end < len(order) and confidence[order[end]] == confidence[order[at]]:
            end += 1
        rank_sum += (at + end + 1) / 2 * sum(right[i] for i in order[at:end])
        at = end
    negatives = len(order) - positives
    if not positives or not negatives:
        return None
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def auroc_within(confidence: Sequence[float], right: Sequence[bool], group: Sequence[int]) -> float | None:
    """AUROC over the pairs inside of each group: scores of different groups (folds, kinds) are never compared."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, g in enumerate(group):
        members[g].append(i)
    total = won = 0.0
    for some in members.values():
        rights = [right[i] for i in some]
        value = auroc([confidence[i] for i in some], rights)
        if value is not None:
            pairs = sum(rights) * (len(rights) - sum(rights))
            total, won = total + pairs, won + value * pairs
    return won / total if total else None


def calibration_error(confidence: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> float | None:
    """Mean distance between confidence and share of right drafts over `bins` bins of equal count; None without data.

    Equal confidences are never torn apart. With few steps it is too great by chance: about sqrt(p (1 - p) bins / n).
    """
    n = len(right)
    if not n:
        return None
    order = sorted(range(n), key=confidence.__getitem__)
    error, at = 0.0, 0
    for index in range(bins):
        end = max(at, n * (index + 1) // bins)
        while 0 < end < n and confidence[order[end]] == confidence[order[end - 1]]:
            end += 1
        error += abs(math.fsum(confidence[i] - right[i] for i in order[at:end]))
        at = end
    return error / n


def brier(confidence: Sequence[float], right: Sequence[bool]) -> float | None:
    """Mean squared distance between confidence and outcome; None without data."""
    n = len(right)
    return math.fsum((p - y) ** 2 for p, y in zip(confidence, right, strict=True)) / n if n else None


def interval(  # noqa: PLR0913 - the settings of a bootstrap
    rows: Sequence[T],
    statistic: Callable[[list[T]], float | None],
    *,
    episode: Callable[[T], str],
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `statistic`, drawing whole episodes; None when it cannot be computed.

    Resamples on which the statistic is None are left out.
    """
    groups: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        groups[episode(row)].append(row)
    keys, draw = sorted(groups), random.Random(seed)  # noqa: S311 - a repeatable bootstrap, no secret
    found: list[float] = []
    for _ in range(resamples if keys else 0):
        value = statistic([row for key in draw.choices(keys, k=len(keys)) for row in groups[key]])
        if value is not None:
            found.append(value)
    if not found:
        return None
    found.sort()
    tail = (1.0 - level) / 2
    low, high = math.floor(tail * (len(found) - 1)), math.ceil((1.0 - tail) * (len(found) - 1))
    return found[low], found[high]


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k), from the terms themselves, each from its neighbour: no cancellation, good beyond n = 1e6."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    down = k <= n * p
    at = k if down else k + 1
    log_term = (
        math.lgamma(n + 1)
        - math.lgamma(at + 1)
        - math.lgamma(n - at + 1)
        + at * math.log(p)
        + (n - at) * math.log1p(-p)
    )
    odds = (1.0 - p) / p if down else p / (1.0 - p)
    term = total = 1.0
    for i in range(at, 0, -1) if down else range(at, n):
        term *= odds * (i / (n - i + 1) if down else (n - i) / (i + 1))
        total += term
        if term < total * 1e-17:
            break
    tail = math.exp(log_term) * total
    return min(1.0, tail) if down else max(0.0, 1.0 - tail)


def upper_bound(losses: int, n: int, confidence: float = 0.9) -> float:
    """The one-sided Clopper-Pearson bound: the greatest rate that `losses` of `n` do not refute; 1 without data."""
    if losses >= n:
        return 1.0
    low, high = losses / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(losses, n, middle) > 1.0 - confidence else (low, middle)
    return high
