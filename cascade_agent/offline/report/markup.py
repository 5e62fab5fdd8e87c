"""HTML and SVG by construction: every text is escaped unless it is `Markup`, which only `el` and our own files make."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import markupsafe
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
"""Characters that no page may hold, and the marks that turn the direction of the text around them."""

_WORD = 16  # letters of a word that fits a column of a phone; a longer one may break inside


def escape(value: object) -> Markup:
    """Return any text as HTML that shows it; what no page may hold, or turns text around, becomes U+FFFD."""
    if isinstance(value, Markup):
        return value
    return Markup() if value is None else markupsafe.escape(_UNSHOWABLE.sub("\ufffd", str(value)))


def join(children: Iterable[object]) -> Markup:
    """Return children one after the other, escaped."""
    return Markup().join(map(escape, children))


def el(name: str, attributes: Mapping[str, str | float], *children: str) -> Markup:
    """Return an element of a drawing."""
    given = join(Markup(' {}="{}"').format(key, escape(v)) for key, v in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, join(children))


def breakable(text: str) -> Markup:
    """Return a name that lines break behind its underscores, not inside its words unless they are very long."""
    parts: list[Markup] = []
    for word in text.replace("_", "_ ").split(" "):
        whole = Markup('<span class="whole">{}</span>') if len(word) <= _WORD else Markup("<span>{}</span>")
        parts += [whole.format(escape(word)), Markup("<wbr>") if word.endswith("_") else Markup(" ")]
    return join(parts[:-1])


# ---- drawings -------------------------------------------------------------------------------------------------------

Anchor = Literal["start", "middle", "end"]

CHAR: Final = 6.7
BOLD: Final = 8.2  # mean width of a character in a label, and in one of the name of a mark, in pixels, on the safe side

LINE: Final = 15.0
PHONE: Final = 420.0  # charts up to this wide are those of a phone


@dataclass(frozen=True, slots=True)
class Scale:
    """From data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, one digit after the point."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(value) if self.log else value
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high], with 2 and 5 between them when there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(tens) > 2:  # enough to read the scale by
        return tens
    return [n * 10.0**p for p in powers for n in (1, 2, 5) if low <= n * 10.0**p <= high]


def share(value: float) -> str:
    """Return a share as an axis names it."""
    return f"{round(value * 100, 6):g}%"


class Chart:
    """A drawing that grows shape by shape; `left` to `bottom` is where its data lies, below it the words of an axis."""

    def __init__(
        self, width: float, height: float, *, left: float = 52.0, top: float = 34.0, below: float = 44.0
    ) -> None:
        self.width, self.height, self.wide = width, height, width > PHONE
        self.left, self.right, self.top, self.bottom = left, width - 14.0, top, height - below
        self.shapes: list[Markup] = []

    def add(self, name: str, attributes: Mapping[str, str | float], tip: str = "") -> None:
        """Add a shape; `tip` is what a pointer reads on it."""
        self.shapes.append(el(name, attributes, *([el("title", {}, tip)] if tip else ())))

    def label(self, x: float, y: float, words: str, kind: str = "axis", anchor: Anchor = "start") -> None:
        """Add a text."""
        place: dict[str, str | float] = {"x": round(x, 1), "y": round(y, 1), "class": kind, "text-anchor": anchor}
        self.shapes.append(el("text", place, words))

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Add a straight line."""
        ends = {"x1": round(x1, 1), "y1": round(y1, 1), "x2": round(x2, 1), "y2": round(y2, 1)}
        self.add("line", {**ends, "class": kind})

    def rect(self, x: float, y: float, width: float, height: float, kind: str, *, tip: str = "") -> None:
        """Add a bar."""
        size = {"width": max(0.0, round(width, 1)), "height": max(0.0, round(height, 1))}
        self.add("rect", {"x": round(x, 1), "y": round(y, 1), **size, "class": kind}, tip)

    def dot(self, x: float, y: float, radius: float, kind: str, tip: str) -> None:
        """Add a circle."""
        self.add("circle", {"cx": x, "cy": y, "r": round(radius, 1), "class": kind}, tip)

    def path(self, points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False) -> None:
        """Add a line through points."""
        steps = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        self.add("path", {"d": steps + (" Z" if closed else ""), "class": kind})

    def levels(self, values: Iterable[float], y: Scale, words: Callable[[float], str] = share) -> None:
        """Add the lines and numbers of an upright axis."""
        for value in values:
            self.line(self.left, y(value), self.right, y(value), "grid")
            self.label(self.left - 8, y(value) + 4, words(value), anchor="end")

    def base(
        self, words: str, values: Iterable[float], x: Scale, number: Callable[[float], str] = "{:g}".format
    ) -> None:
        """Add the numbers of the axis at the bottom, its line, and what it says."""
        for value in values:
            self.label(x(value), self.bottom + 20, number(value), anchor="middle")
        self.line(self.left, self.bottom, self.right, self.bottom, "base")
        self.label(self.right, self.bottom + 38, words, anchor="end")

    def svg(self, words: str, kind: str) -> Markup:
        """Return the drawing with a sentence for those who do not see it."""
        box = f"0 0 {self.width:g} {self.height:g}"
        return el("svg", {"viewBox": box, "class": f"chart {kind}", "role": "img", "aria-label": words}, *self.shapes)


class Placer:
    """Finds places for labels that cover neither each other nor the marks."""

    def __init__(self, left: float, top: float, right: float, bottom: float) -> None:
        self.left, self.top, self.right, self.bottom = left, top, right, bottom
        self.taken: list[tuple[float, float, float, float]] = []

    def block(self, x: float, y: float, radius: float = 7.0) -> None:
        """Keep labels off a mark."""
        self.taken.append((x - radius, y - radius, x + radius, y + radius))

    def block_line(self, points: Sequence[tuple[float, float]]) -> None:
        """Keep labels off a line."""
        for (x1, y1), (x2, y2) in pairwise(points):
            for step in range(pieces := max(1, math.ceil(max(abs(x2 - x1), abs(y2 - y1)) / 6))):
                self.block(x1 + (x2 - x1) * step / pieces, y1 + (y2 - y1) * step / pieces, 3)

    def put(self, x: float, y: float, words: str, *, bold: bool = False) -> tuple[float, float, Anchor]:
        """Where the label of a mark at (x, y) stands: the first free place around it, else the least covered one."""
        width = len(words) * (BOLD if bold else CHAR)
        around: list[tuple[float, float, Anchor]] = [
            (x + 12, y + 4, "start"), (x + 10, y + 18, "start"), (x + 10, y - 10, "start"),
            (x, y - 14, "middle"), (x - 12, y + 4, "end"), (x - 10, y + 18, "end"), (x - 10, y - 10, "end"),
            (x, y + 24, "middle"),
            (x + 10, y + 32, "start"), (x - 10, y + 32, "end"), (x + 10, y - 24, "start"), (x - 10, y - 24, "end"),
            (x + 24, y + 48, "start"), (x - 24, y - 40, "end"), (x + 24, y - 40, "start"), (x - 24, y + 48, "end"),
            *((x + side, y + down, "middle") for down in (40, 60, -30, 80, -60, -90) for side in (0, 40, -40, 80)),
        ]  # fmt: skip
        best, least = around[0], math.inf
        for spot in around:
            box = _box(*spot, width)
            cost = sum(_overlap(box, other) for other in self.taken) + 4 * self._outside(box)
            if cost < least:
                best, least = spot, cost
            if cost == 0:
                break
        self.taken.append(_box(*best, width))
        return best

    def _outside(self, box: tuple[float, float, float, float]) -> float:
        out = max(0.0, self.left - box[0]) + max(0.0, box[2] - self.right)
        return LINE * out + 50 * (max(0.0, self.top - box[1]) + max(0.0, box[3] - self.bottom))


def _box(x: float, y: float, anchor: Anchor, width: float) -> tuple[float, float, float, float]:
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
    return left, y - 11, left + width, y + 3


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
