"""The charts: each drawn twice, for a desk and for a phone, because a shrunk chart has unreadable words."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Final

from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report.data import PARTS
from cascade_agent.offline.report.markup import Placer, Scale, el, label, line, log_ticks, path, rect, svg, ticks, tip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from markupsafe import Markup

    from cascade_agent.offline.report.data import Frontier, Latency, Period, Point, Reliability, Spending

_NARROW: Final = 328.0
_MIDDLE: Final = 660.0
_PHONE: Final = 420.0
_REFERENCES: Final = ("always small", "always large")
_NAME: Final = 24
_SHORT_NAME: Final = 10


def both(draw: Callable[[float], Markup], wide: float) -> Markup:
    """A chart for each width; style sheets show one of them."""
    widths = (
        {"desk": wide, "middle": _MIDDLE, "narrow": _NARROW} if wide > _MIDDLE else {"wide": wide, "narrow": _NARROW}
    )
    return el("div", {"class": "plot"}, *(el("div", {"class": kind}, draw(width)) for kind, width in widths.items()))


def bar(parts: Sequence[tuple[str, float]], kind: str = "bar") -> Markup:
    """Parts of a whole as one bar that takes all the room it gets: (class, share)."""
    at, shapes = 0.0, []
    for name, share in parts:
        shapes.append(rect(at * 1000, 0, share * 1000, 10, f"fill-{name}"))
        at += share
    box = {"viewBox": "0 0 1000 10", "preserveAspectRatio": "none", "class": kind, "aria-hidden": "true"}
    return el("svg", box, *shapes)


def frontier(data: Frontier, width: float) -> Markup:
    """Quality over cost: the swept curve with its interval, and the marks."""
    points, marks = ([p for p in some if p.known] for some in (data.curve, data.marks))
    height = 400.0 if width > _PHONE else 340.0
    left, right, top, bottom = 52.0, width - 14.0, 24.0, height - 44.0
    lows = [p.quality.low or 0.0 for p in points] + [p.quality.value or 0.0 for p in marks]
    floor = max(0.0, math.floor((min(lows, default=0.9) - 0.02) * 20) / 20)
    x = Scale(0.0, max([1.1, *((p.cost or 0.0) * 1.04 for p in [*points, *marks])]), left, right)
    y = Scale(floor, 1.0, bottom, top + 18.0)
    shapes = [label(2, 14, "answers at least as good as the large model's" if width > _PHONE else "as good as large")]
    shapes += _levels(ticks(floor, 1.0, 5), y, left, right)
    for value in ticks(0.0, x.high, 6 if width > _PHONE else 4):
        shapes.append(label(x(value), bottom + 20, _share(value), anchor="middle"))
    shapes += _base(left, right, bottom, "cost, always large = 100%")
    upper, lower, middle = (
        [(x(p.cost or 0), y(getattr(p.quality, end) or 0)) for p in points] for end in ("high", "low", "value")
    )
    shapes += [path([*upper, *reversed(lower)], "band", closed=True), path(middle, "curve")] if points else []
    shapes += [_dot(x(p.cost or 0), y(p.quality.value or 0), 3, "dot", _sentence(p)) for p in points]
    placer = Placer(left, 17.0, right + 6, bottom)  # from below the words of the axis on
    placer.block_line(middle)
    for p in [*points, *marks]:
        placer.block(x(p.cost or 0), y(p.quality.value or 0), 8 if p in marks else 4)
    for p in marks:
        placer.block_line([(x(p.cost or 0), end) for end in _whisker(p, y)])
    for p in marks:
        shapes += _mark(p, x(p.cost or 0), y(p.quality.value or 0), y, placer)
    sentence = "; ".join(_sentence(p) for p in marks)
    return svg(width, height, f"Cost and quality of {len(points)} thresholds. {sentence}", "frontier", *shapes)


def _mark(point: Point, x: float, y: float, scale: Scale, placer: Placer) -> list[Markup]:
    reference = point.name in _REFERENCES
    shapes = [line(x, ends[0], x, ends[1], "whisker")] if (ends := _whisker(point, scale)) else []
    if point.name == "as it ran":
        shapes.append(_dot(x, y, 7.5, "mark-run", _sentence(point)))
    elif reference:
        kind = "mark-small" if point.name == "always small" else "mark-large"
        shapes.append(rect(x - 6, y - 6, 12, 12, kind, tip(_sentence(point))))
    else:
        corners = f"{x},{y - 9:.1f} {x + 9:.1f},{y} {x},{y + 9:.1f} {x - 9:.1f},{y}"
        shapes.append(el("polygon", {"points": corners, "class": "mark-policy"}, tip(_sentence(point))))
    length = _NAME if placer.right > _PHONE else _SHORT_NAME
    name = point.name if len(point.name) <= length else point.name[: length - 1] + "…"
    words_x, words_y, anchor = placer.put(x, y, name, bold=not reference)
    shapes.append(label(words_x, words_y, name, "name" if not reference else "axis strong", anchor))
    return shapes


def _whisker(point: Point, scale: Scale) -> list[float]:
    """Return where the interval of a mark ends; nothing where none is drawn."""
    low, high = point.quality.low, point.quality.high
    if point.name in _REFERENCES or not point.quality.n or low is None or high is None:
        return []
    return [scale(max(low, scale.low)), scale(high)]


def sweep(data: Frontier, width: float) -> Markup:
    """Draw the cost of each threshold (or its escalations, where no cost is known); quality is not known here."""
    by_cost = any(p.cost is not None for p in data.curve)
    values = [(p.threshold, p.cost if by_cost else p.escalated) for p in data.curve if p.threshold is not None]
    points = [(t, v) for t, v in values if v is not None]
    height, left, right, top = 300.0, 52.0, width - 14.0, 34.0
    bottom = height - 44.0
    run = next((mark.cost if by_cost else mark.escalated for mark in data.marks), None)
    most = max([1.0, *(v for _, v in points)]) * 1.05
    x, y = Scale(0.0, 1.0, left, right), Scale(0.0, most, bottom, top)
    shapes = [label(2, 14, "cost, always large = 100%" if by_cost else "share of steps that escalate")]
    shapes += _levels(ticks(0.0, most, 4), y, left, right)
    shapes += [label(x(value), bottom + 20, f"{value:g}", anchor="middle") for value in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    shapes += _base(left, right, bottom, "threshold on the confidence")
    shapes += [path([(x(t), y(v)) for t, v in points], "curve")] if points else []
    shapes += [_dot(x(t), y(v), 3, "dot", f"threshold {t:.3f}: {_share(v)}") for t, v in points]
    if run is not None:
        shapes += [
            line(left, y(run), right, y(run), "whisker dashed"),
            label(left + 6, y(run) - 7, f"as it ran: {fmt.percent(run)}", "name"),
        ]
    return svg(width, height, f"What {len(points)} thresholds cost", "sweep", *shapes)


def _sentence(point: Point) -> str:
    quality = point.quality
    good = fmt.percent(quality.value)
    if quality.n and quality.low is not None and quality.high is not None:
        good += f" ({fmt.between(quality.low, quality.high)}, {fmt.plural(quality.n, 'label')})"
    return (
        f"{point.name}: cost {fmt.percent(point.cost)} of always large, {good} as good as large, "
        f"escalates {fmt.percent(point.escalated)}"
    )


def _share(value: float) -> str:
    return f"{round(value * 100, 6):g}%"


def _levels(
    values: Iterable[float], y: Scale, left: float, right: float, words: Callable[[float], str] = _share
) -> Iterator[Markup]:
    """Yield the lines and numbers of an upright axis."""
    for value in values:
        yield line(left, y(value), right, y(value), "grid")
        yield label(left - 8, y(value) + 4, words(value), anchor="end")


def _base(left: float, right: float, bottom: float, words: str) -> Iterator[Markup]:
    """Yield the line at the bottom and what the axis below it says."""
    yield line(left, bottom, right, bottom, "base")
    yield label(right, bottom + 38, words, anchor="end")


def _dot(x: float, y: float, radius: float, kind: str, sentence: str) -> Markup:
    return el("circle", {"cx": x, "cy": y, "r": round(radius, 1), "class": kind}, tip(sentence))


def reliability(data: Reliability, width: float) -> Markup:
    """Share of right drafts over confidence with exact intervals; below, how many steps have each confidence."""
    left, right, top = 52.0, width - 14.0, 34.0
    bottom = top + min(290.0, width * 0.72)
    floor, height = bottom + 78.0, bottom + 78.0 + 44.0
    x, y = Scale(0.0, 1.0, left + 8, right), Scale(0.0, 1.0, bottom, top)
    shapes: list[Markup] = []
    if data.bins:
        shapes.append(label(2, 14, "right drafts among the labelled"))
        shapes += _levels((0.0, 0.25, 0.5, 0.75, 1.0), y, left, right)
        shapes.append(line(x(0), y(0), x(1), y(1), "diagonal"))
        most = max(b.n for b in data.bins)
        for b in data.bins:
            place = x(b.confidence)
            shapes += [
                line(place, y(b.interval_low), place, y(b.interval_high), "whisker"),
                _dot(place, y(b.share), 3.5 + 5.5 * math.sqrt(b.n / most), "mark-run",
                     f"confidence {b.low:g} to {b.high:g}: {b.right} of {b.n} right, "
                     f"95% interval {fmt.between(b.interval_low, b.interval_high)}"),
            ]  # fmt: skip
    else:
        bottom, floor, height = 22.0, 120.0, 164.0
    counts = data.histogram
    tallest = max((a + b for a, b in counts), default=0) or 1
    up = Scale(0.0, tallest, floor, bottom + 16.0)
    for index, (taken, escalated) in enumerate(counts):
        start, end = x(index / len(counts)) + 1, x((index + 1) / len(counts)) - 1
        sentence = tip(f"confidence {index / 20:.2f} to {(index + 1) / 20:.2f}: {taken} taken, {escalated} escalated")
        shapes += [
            rect(start, up(taken), end - start, floor - up(taken), "fill-small", sentence),
            rect(start, up(taken + escalated), end - start, up(taken) - up(taken + escalated), "fill-large", sentence),
        ]
    shapes += [line(left, floor, right, floor, "base"), label(left - 8, up(tallest) + 4, f"{tallest:,}", anchor="end")]
    shapes += [label(x(value), floor + 20, f"{value:g}", anchor="middle") for value in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    shapes.append(label(right, height - 6, "confidence in the small draft", anchor="end"))
    title = (
        f"{data.n} labelled drafts in {len(data.bins)} bins of confidence" if data.bins else "Confidences of all steps"
    )
    return svg(width, height, title, "reliability", *shapes)


def latency(rows: Sequence[Latency], width: float) -> Markup:
    """Median, 95th and 99th percentile of each row on one logarithmic axis."""
    kept = [row for row in rows if row.p99 > 0]
    row_height = 78.0 if width > _PHONE else 60.0
    left, right = 10.0, width - 14.0
    bottom = 14.0 + row_height * len(kept)
    height = bottom + 44.0
    low = min((max(row.p50, row.p99 / 1e6) for row in kept), default=0.001) / 1.6
    high = max((row.p99 for row in kept), default=1.0) * 1.4
    x = Scale(low, high, left, right, log=True)
    shapes: list[Markup] = []
    for value in log_ticks(low * 1.15, high / 1.15):
        shapes += [
            line(x(value), 10, x(value), bottom, "grid"),
            label(x(value), bottom + 20, fmt.seconds(value, "{:g}".format), anchor="middle"),
        ]
    for index, row in enumerate(kept):
        top = 14.0 + row_height * index
        y = top + 42.0
        kind = row.who if row.who in PARTS else "ink"
        p50 = max(row.p50, low)
        p95 = f"95th percentile {fmt.seconds(row.p95)}"
        values = " · ".join(fmt.seconds(v) for v in (row.p50, row.p95, row.p99))
        shapes += [
            label(left, top + 18, row.who, "name"),
            label(right, top + 18, values, "axis strong", "end"),
            line(x(p50), y, x(row.p99), y, f"range stroke-{kind}"),
            _dot(x(p50), y, 6.5, f"fill-{kind} ring", f"{row.who}, median {fmt.seconds(row.p50)}"),
            _dot(x(max(row.p95, low)), y, 5, f"hollow stroke-{kind}", f"{row.who}, {p95}"),
            line(x(row.p99), y - 6, x(row.p99), y + 6, f"range stroke-{kind}"),
        ]
    shapes += _base(left, right, bottom, "median ● · p95 ○ · p99 |")
    sentence = "; ".join(f"{row.who}: median {fmt.seconds(row.p50)}, p99 {fmt.seconds(row.p99)}" for row in rows)
    return svg(width, height, f"Latency. {sentence}", "latency", *shapes)


def spending(data: Spending, currency: str, width: float) -> Markup:
    """Stacked bars of what was paid, a stroke where always-large would be; below, the share of escalated steps."""
    periods = data.periods
    left, right, top, bottom = 58.0, width - 14.0, 34.0, 236.0
    strip_top, strip = bottom + 62.0, bottom + 128.0
    height = strip + 16.0
    first = _time(periods[0])
    slots = round((_time(periods[-1]) - first) / data.width) + 1
    slot = (right - left) / slots
    most = max(max(_paid(p), p.always_large or 0.0) for p in periods) or 1.0
    y, rate = Scale(0.0, most * 1.04, bottom, top), Scale(0.0, 1.0, strip, strip_top)
    shapes = [
        label(2, 14, f"{fmt.unit(currency)} per {fmt.width(data.width)}"),
        label(2, strip_top - 14, "escalated steps"),
    ]
    shapes += _levels(ticks(0.0, most, 4), y, left, right, "{:g}".format)
    shapes += _levels((0.0, 0.5, 1.0), rate, left, right)
    inset = min(slot * 0.14, 6.0)
    for period in periods:
        index = round((_time(period) - first) / data.width)
        start, wide, at = left + index * slot + inset, slot - 2 * inset, 0.0
        sentence = tip(_spent(period, currency))
        for part in PARTS:
            cost = getattr(period, part)
            if cost > 0:
                shapes.append(rect(start, y(at + cost), wide, y(at) - y(at + cost), f"fill-{part}", sentence))
                at += cost
        if period.always_large is not None:
            shapes.append(line(start, y(period.always_large), start + wide, y(period.always_large), "always"))
        if period.steps:
            share = period.escalated / period.steps
            sentence = tip(f"{fmt.clock(period.start)}: {period.escalated} of {period.steps} steps escalated")
            shapes.append(rect(start, rate(share), wide, strip - rate(share), "fill-quiet", sentence))
    shapes += [line(left, bottom, right, bottom, "base"), line(left, strip, right, strip, "base")]
    for index in range(0, slots, max(1, math.ceil(slots / (7 if width > _PHONE else 3)))):
        time = dt.datetime.fromtimestamp(first + index * data.width, dt.UTC)
        words = fmt.tick_time(time, data.width)
        shapes.append(label(left + slot / 2 + index * slot, bottom + 20.0, words, anchor="middle"))
    total = sum(_paid(p) for p in periods)
    return svg(width, height, f"{fmt.money(total, currency)} over {len(periods)} periods", "spending", *shapes)


def _time(period: Period) -> float:
    return dt.datetime.fromisoformat(period.start).timestamp()


def _paid(period: Period) -> float:
    return period.small + period.large + period.evidence + period.shadow


def _spent(period: Period, currency: str) -> str:
    parts = ", ".join(f"{part} {fmt.figure(cost)}" for part in PARTS if (cost := getattr(period, part)) > 0)
    always = "" if period.always_large is None else f"; always large {fmt.money(period.always_large, currency)}"
    return f"{fmt.clock(period.start)}: {fmt.plural(period.steps, 'step')}, {parts or 'nothing'}{always}"
