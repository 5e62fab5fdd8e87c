"""Thresholds per kind of draft, chosen together: the cheapest ones for a bound on the loss over all steps.

One threshold spends the allowed loss where it happens to fall. Here every kind gives up escalations down to the same
price of a loss, and that price is the one number along which a certificate walks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cascade_agent.offline.calibration.certificate import Unit

GRID: Final = (*(i / 50 for i in range(50)), 0.99, 0.995, 1.0)
"""Thresholds that are considered; 1 accepts nothing of the shipped validators'."""

_WORTHS: Final = tuple(200.0 * 0.85**i for i in range(40))
"""Large calls that one loss is worth, from the most careful on."""

Path = tuple["Mapping[str, float]", ...]
"""Thresholds by kind, `""` for the kinds that were not seen; each entry accepts what the one before it does."""


def path_by_kind(units: Iterable[Unit]) -> Path:
    """Return thresholds by kind from the most careful to the laxest, each the cheapest for what a loss is worth there.

    A kind's threshold minimises the price of escalated steps + worth * harms of accepted ones, on these units
    alone: certify on others.
    """
    kinds: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        if unit.confidence is not None:
            kinds[unit.kind].append(unit)
            kinds[""].append(unit)
    mean = math.fsum(u.price for u in kinds[""]) / max(1, len(kinds[""]))
    sums = {kind: _sums(members, mean or 1.0) for kind, members in kinds.items()}
    held = dict.fromkeys(sums, 1.0)
    path = []
    for worth in _WORTHS:
        for kind, rows in sums.items():
            _, found = min((escalated + worth * harms, -t) for t, escalated, harms in rows)
            held[kind] = min(held[kind], -found)
        path.append(dict(held))
    return tuple(path)


def _sums(units: Sequence[Unit], mean: float) -> list[tuple[float, float, int]]:
    """Return per threshold of the grid what escalated steps cost, in mean large calls, and the harms accepted."""
    rows = []
    for t in GRID:
        up = math.fsum(u.price for u in units if (u.confidence or 0.0) < t) / mean
        rows.append((t, up, sum(u.harm for u in units if (u.confidence or 0.0) >= t)))
    return rows


def along(path: Path, units: Iterable[Unit]) -> list[Unit]:
    """Return the units with their place on the path as confidence: `1 - i / n` where entry i is the first to accept."""
    out = []
    for unit in units:
        p = unit.confidence
        held = [-_of(entry, unit.kind) for entry in path]  # ascending: thresholds only fall
        at = len(path) if p is None else bisect_left(held, -p)
        out.append(replace(unit, confidence=1.0 - at / len(path) if at < len(path) else None))
    return out


def entry_at(path: Path, level: float) -> Mapping[str, float]:
    """Return the thresholds at a level that was certified along the path."""
    return path[min(len(path) - 1, math.floor((1.0 - level) * len(path) + 1e-9))]


def _of(entry: Mapping[str, float], kind: str) -> float:
    return entry.get(kind, 1.0)
