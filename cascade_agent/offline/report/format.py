"""Figures as people read them. Unknown is called unknown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Mapping

UNKNOWN = "unknown"
FEW = 3
_LEAST = -6
_UNIT = 10
_MINUTE, _HOUR, _DAY, _YEAR = 60.0, 3600.0, 86400.0, 364 * 86400.0


def count(value: float | None) -> str:
    """Return a whole number with thousands told apart."""
    return UNKNOWN if value is None else f"{round(value):,}"


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return UNKNOWN if value is None else f"{value * 100:.{digits}f}%"


def probability(value: float | None) -> str:
    """Return a confidence."""
    return UNKNOWN if value is None else f"{value:.3f}"


def figure(value: float | None) -> str:
    """Return a number with three digits that count, whole from a thousand on; never a zero for what is not zero."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    return f"{value:.1e}" if exponent < _LEAST else f"{value:,.{max(0, 2 - exponent)}f}"


def money(value: float | None, currency: str) -> str:
    """Return an amount with its currency."""
    return UNKNOWN if value is None else f"{figure(value)} {unit(currency)}"


def unit(currency: str) -> str:
    """Return the name of a currency, short whatever a record says."""
    return short(currency, _UNIT)


def short(name: str, length: int) -> str:
    """Return a name, or its beginning."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def seconds(value: float | None, write: Callable[[float], str] = figure) -> str:
    """Return a time in the unit that fits."""
    if not value:
        return UNKNOWN if value is None else "0 s"
    unit, size = next((found for found in (("s", 1.0), ("ms", 1e-3)) if value >= found[1]), ("µs", 1e-6))
    return f"{write(value / size)} {unit}"


def clock(iso: str | None, fine: bool = False) -> str:
    """Return day and time of an ISO time, `fine` to the millisecond."""
    return UNKNOWN if not iso else iso[: 23 if fine else 19].replace("T", " ")


def between(low: float | None, high: float | None) -> str:
    """Return an interval of shares that no line end tears apart; a dash before a minus would not be read."""
    if low is None or high is None:
        return UNKNOWN
    dash = " to " if low < 0 else "\u2060–\u2060"
    return f"{low * 100:.0f}{dash}{high * 100:.0f}%"


def span(first: str | None, last: str | None) -> str:
    """Return the first and last time."""
    if not first or not last:
        return "no times recorded"
    if first[:10] == last[:10]:
        return f"{first[:10]}, {first[11:19]} – {last[11:19]} UTC"
    return f"{first[:10]} – {last[:10]}"


def width(size: float) -> str:
    """Return the length of a period."""
    for name, unit in (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE), ("second", 1.0)):
        if size >= unit:
            number = size / unit
            return name if number == 1 else f"{number:g} {name}s"
    return f"{size:g} seconds"


def tick_time(time: dt.datetime, size: float) -> str:
    """Return the start of a period on an axis."""
    if size >= _DAY:
        return f"{time.day} {time:%b}" if size < _YEAR else f"{time.year}"
    if size >= _HOUR:
        return f"{time.day} {time:%b} {time:%H}h"
    return f"{time:%H:%M}" if size >= _MINUTE else f"{time:%H:%M:%S}"


def plural(number: float, one: str) -> str:
    """Return a count with its word."""
    return f"{count(number)} {one if number == 1 else one + 's'}"


def counted(counts: Mapping[str, int]) -> list[str]:
    """Return names with their counts."""
    return [f"{name} ({count(n)})" for name, n in counts.items()]


def few(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
