"""Figures as people read them. Unknown is called unknown."""

from __future__ import annotations

import datetime as dt
import math

UNKNOWN = "unknown"


def count(value: float | None) -> str:
    """A whole number with thousands told apart."""
    return UNKNOWN if value is None else f"{round(value):,}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return UNKNOWN if value is None else f"{value * 100:.{digits}f} %"


def figure(value: float | None, digits: int = 3) -> str:
    """A number with `digits` that count; never a rounded zero for what is not zero."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"
    if abs(value) < 1e-6:
        return f"{value:.1e}"
    return f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"


def money(value: float | None, currency: str, digits: int = 3) -> str:
    """An amount with its currency."""
    return UNKNOWN if value is None else f"{figure(value, digits)} {currency}"


def seconds(value: float | None) -> str:
    """A time in the unit that fits."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{figure(value / size)} {unit}"
    return f"{figure(value / 1e-6)} µs"


def day(iso: str | None) -> str:
    """A day of an ISO time."""
    return UNKNOWN if not iso else iso[:10]


def clock(iso: str | None) -> str:
    """Day and time of an ISO time."""
    return UNKNOWN if not iso else iso[:19].replace("T", " ")


def span(first: str | None, last: str | None) -> str:
    """From when to when."""
    if not first or not last:
        return "no times recorded"
    if first[:10] == last[:10]:
        return f"{first[:10]}, {first[11:19]} – {last[11:19]} UTC"
    return f"{first[:10]} – {last[:10]}"


def width(size: float) -> str:
    """The length of a period."""
    for name, unit in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0)):
        if size >= unit:
            number = size / unit
            return name if number == 1 else f"{number:g} {name}s"
    return f"{size:g} seconds"


def tick_time(iso: str, size: float) -> str:
    """The start of a period on an axis."""
    time = dt.datetime.fromisoformat(iso)
    if size >= 86400:
        return f"{time.day} {time:%b}" if size < 300 * 86400 else f"{time.year}"
    if size >= 3600:
        return f"{time.day} {time:%b} {time:%H}h"
    return f"{time:%H:%M}" if size >= 60 else f"{time:%H:%M:%S}"


def plural(number: float, one: str, many: str | None = None) -> str:
    """A count with its word."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
