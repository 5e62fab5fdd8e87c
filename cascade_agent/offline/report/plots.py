"""The charts: each drawn for a desk and for a phone, because a shrunk chart has unreadable words."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec

from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report.data import PARTS
from cascade_agent.offline.report.markup import PHONE, Chart, Placer, Scale, el, log_ticks, share, ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markupsafe import Markup

    from cascade_agent.offline.report.data import Frontier, Latency, Period, Point, Reliability, Spending

P = ParamSpec("P")
_NARROW: Final = 328.0
_MIDDLE: Final = 660.0
MARKS: Final = {"as it ran": "run", "always small": "small", "always large": "large"}
_REFERENCES: Final = ("small", "large")
_FIFTHS: Final = (0, 0.2, 0.4, 0.6, 0.8, 1)


def both(draw: Callable[Concatenate[float, P], Markup], wide: float, *data: P.args, **more: P.kwargs) -> Markup:
    """A chart for each width; style sheets show one of them."""
    widths = {"desk": wide, "middle": _MIDDLE} if wide > _MIDDLE else {"wide": wide}
    drawn = {kind: draw(width, *data, **more) for kind, width in {**widths, "narrow": _NARROW}.items()}
    return el("div", {"class": "plot"}, *(el("div", {"class": kind}, chart) for kind, chart in drawn.items()))


def bar(parts: Sequence[tuple[str, float]], kind: str = "bar") -> Markup:
    """Parts of a whole as one bar that takes all the room it gets: (class, share)."""
    chart, at = Chart(1000, 10), 0.0
    for name, part in parts:
        chart.rect(at * 1000, 0, part * 1000, 10, f"fill-{name}")
        at += part
    box = {"viewBox": "0 0 1000 10", "preserveAspectRatio": "none", "class": kind, "aria-hidden": "true"}
    return el("svg", box, *chart.shapes)


def frontier(width: float, data: Frontier) -> Markup:
    """Quality over cost: the swept curve with its interval, and the marks."""
    points, marks = ([p for p in some if p.known] for some in (data.curve, data.marks))
    chart = Chart(width, 400.0 if width > PHONE else 340.0, top=42.0)
    lows = [p.quality.low or 0.0 for p in points] + [p.quality.value or 0.0 for p in marks]
    floor = max(0.0, math.floor((min(lows, default=0.9) - 0.02) * 20) / 20)
    x = Scale(0.0, max([1.1, *((p.cost or 0.0) * 1.04 for p in [*points, *marks])]), chart.left, chart.right)
    y = Scale(floor, 1.0, chart.bottom, chart.top)

    def at(p: Point, quality: float | None) -> tuple[float, float]:
        return x(p.cost or 0), y(max(quality or 0, floor))

    upper, lower = [at(p, p.quality.high) for p in points], [at(p, p.quality.low) for p in points]
    middle = [at(p, p.quality.value) for p in points]
    chart.label(2, 14, "answers at least as good as the large model's" if chart.wide else "as good as large")
    chart.levels(ticks(floor, 1.0, 5), y)
    chart.base("cost, always large = 100%", ticks(0.0, x.high, 6 if chart.wide else 4), x, share)
    if points:
        chart.path([*upper, *reversed(lower)], "band", closed=True)
        chart.path(middle, "curve")
    placer = Placer(chart.left, 17.0, chart.right + 6, chart.bottom)  # from below the words of the axis on
    placer.block_line(middle)
    for p, place in zip(points, middle, strict=True):
        chart.dot(*place, 3, "dot", _sentence(p))
        placer.block(*place, 4)
    whiskers = {p.name: [at(p, p.quality.low), at(p, p.quality.high)] for p in marks if _whiskered(p)}
    for p in marks:
        placer.block(*at(p, p.quality.value), 8)
    for whisker in whiskers.values():
        placer.block_line(whisker)
    for p in marks:
        if whisker := whiskers.get(p.name, []):
            chart.line(*whisker[0], *whisker[1], "whisker")
        _mark(chart, p, *at(p, p.quality.value), placer)
    sentence = "; ".join(_sentence(p) for p in marks)
    return chart.svg(f"Cost and quality of {len(points)} thresholds. {sentence}", "frontier")


def _whiskered(point: Point) -> bool:
    """Return whether the interval of a mark is drawn."""
    return bool(MARKS.get(point.name) not in _REFERENCES and point.quality.n and point.quality.low is not None)


def _mark(chart: Chart, point: Point, x: float, y: float, placer: Placer) -> None:
    kind, sentence = MARKS.get(point.name, "policy"), _sentence(point)
    if kind == "run":
        chart.dot(x, y, 7.5, "mark-run", sentence)
    elif kind in _REFERENCES:
        chart.rect(x - 6, y - 6, 12, 12, f"mark-{kind}", tip=sentence)
    else:
        corners = f"{x},{y - 9:.1f} {x + 9:.1f},{y} {x},{y + 9:.1f} {x - 9:.1f},{y}"
        chart.add("polygon", {"points": corners, "class": "mark-policy"}, sentence)
    name = fmt.short(point.name, 24 if chart.wide else 10)
    words_x, words_y, anchor = placer.put(x, y, name, bold=kind not in _REFERENCES)
    chart.label(words_x, words_y, name, "axis strong" if kind in _REFERENCES else "name", anchor)


def sweep(width: float, data: Frontier) -> Markup:
    """Draw the cost of each threshold (or its escalations, where no cost is known); quality is not known here."""
    by_cost = any(p.cost is not None for p in data.curve)
    values = [(p.threshold, p.cost if by_cost else p.escalated) for p in data.curve]
    points = [(t, v) for t, v in values if t is not None and v is not None]
    run = next((mark.cost if by_cost else mark.escalated for mark in data.marks), None)
    most = max([1.0, *(v for _, v in points)]) * 1.05
    chart = Chart(width, 300.0)
    x, y = Scale(0.0, 1.0, chart.left, chart.right), Scale(0.0, most, chart.bottom, chart.top)
    chart.label(2, 14, "cost, always large = 100%" if by_cost else "share of steps that escalate")
    chart.levels(ticks(0.0, most, 4), y)
    chart.base("threshold on the confidence", _FIFTHS, x)
    if points:
        chart.path([(x(t), y(v)) for t, v in points], "curve")
    for t, v in points:
        chart.dot(x(t), y(v), 3, "dot", f"threshold {t:.3f}: {share(v)}")
    if run is not None:
        chart.line(chart.left, y(run), chart.right, y(run), "whisker dashed")
        chart.label(chart.left + 6, y(run) - 7, f"as it ran: {fmt.percent(run)}", "name")
    return chart.svg(f"What {len(points)} thresholds cost", "sweep")


def _sentence(point: Point) -> str:
    quality = point.quality
    good = fmt.percent(quality.value)
    if quality.n:
        good += f" ({fmt.between(quality.low, quality.high)}, {fmt.plural(quality.n, 'label')})"
    return (
        f"{point.name}: cost {fmt.percent(point.cost)} of always large, {good} as good as large, "
        f"escalates {fmt.percent(point.escalated)}"
    )


def reliability(width: float, data: Reliability) -> Markup:
    """Share of right drafts over confidence with exact intervals; below, how many steps have each confidence."""
    height = 34.0 + min(290.0, width * 0.72) if data.bins else 22.0  # of the curve, above the bars
    chart = Chart(width, height + (122.0 if data.bins else 142.0))
    x, y = Scale(0.0, 1.0, chart.left + 8, chart.right), Scale(0.0, 1.0, height, chart.top)
    if data.bins:
        chart.label(2, 14, "right drafts among the labelled")
        chart.levels((0.0, 0.25, 0.5, 0.75, 1.0), y)
        chart.line(x(0), y(0), x(1), y(1), "diagonal")
    for b in data.bins:
        place, size = x(b.confidence), math.sqrt(b.n / max(other.n for other in data.bins))
        interval = fmt.between(b.interval_low, b.interval_high)
        sentence = f"confidence {b.low:g} to {b.high:g}: {b.right} of {b.n} right, 95% interval {interval}"
        chart.line(place, y(b.interval_low), place, y(b.interval_high), "whisker")
        chart.dot(place, y(b.share), 3.5 + 5.5 * size, "mark-run", sentence)
    tallest = max((a + b for a, b in data.histogram), default=0) or 1
    up = Scale(0.0, tallest, chart.bottom, height + 16.0)
    for i, (taken, escalated) in enumerate(data.histogram):
        start, end = x(i / len(data.histogram)) + 1, x((i + 1) / len(data.histogram)) - 1
        sentence = f"confidence {i / 20:.2f} to {(i + 1) / 20:.2f}: {taken} taken, {escalated} escalated"
        top, between = up(taken + escalated), up(taken)
        chart.rect(start, between, end - start, chart.bottom - between, "fill-small", tip=sentence)
        chart.rect(start, top, end - start, between - top, "fill-large", tip=sentence)
    chart.label(chart.left - 8, up(tallest) + 4, f"{tallest:,}", anchor="end")
    chart.base("confidence in the small draft", _FIFTHS, x)
    labelled = f"{data.n} labelled drafts in {len(data.bins)} bins of confidence"
    return chart.svg(labelled if data.bins else "Confidences of all steps", "reliability")


def latency(width: float, rows: Sequence[Latency]) -> Markup:
    """Median, 95th and 99th percentile of each row on one logarithmic axis."""
    kept = [row for row in rows if row.p99 > 0]
    low = min((max(row.p50, row.p99 / 1e6) for row in kept), default=0.001) / 1.6
    high = max((row.p99 for row in kept), default=1.0) * 1.4
    step = 78.0 if width > PHONE else 60.0
    chart = Chart(width, 58.0 + step * len(kept), left=10.0)
    x = Scale(low, high, chart.left, chart.right, log=True)
    marks = log_ticks(low * 1.15, high / 1.15)
    for value in marks:
        chart.line(x(value), 10, x(value), chart.bottom, "grid")
    for index, row in enumerate(kept):
        top = 32.0 + step * index
        y, kind = top + 24.0, row.who if row.who in PARTS else "ink"
        p50, p95, p99 = (fmt.seconds(value) for value in (row.p50, row.p95, row.p99))
        start, end = x(max(row.p50, low)), x(row.p99)
        chart.label(chart.left, top, row.who, "name")
        chart.label(chart.right, top, f"{p50} · {p95} · {p99}", "axis strong", "end")
        chart.line(start, y, end, y, f"range stroke-{kind}")
        chart.dot(start, y, 6.5, f"fill-{kind} ring", f"{row.who}, median {p50}")
        chart.dot(x(max(row.p95, low)), y, 5, f"hollow stroke-{kind}", f"{row.who}, 95th percentile {p95}")
        chart.line(end, y - 6, end, y + 6, f"range stroke-{kind}")
    chart.base("median ● · p95 ○ · p99 |", marks, x, lambda value: fmt.seconds(value, "{:g}".format))
    sentence = "; ".join(f"{row.who}: median {fmt.seconds(row.p50)}, p99 {fmt.seconds(row.p99)}" for row in rows)
    return chart.svg(f"Latency. {sentence}", "latency")


def spending(width: float, data: Spending, currency: str) -> Markup:
    """Stacked bars of what was paid, a stroke where always-large would be; below, the share of escalated steps."""
    chart, strip_top, strip = Chart(width, 380.0, left=58.0, below=144.0), 298.0, 364.0
    first, last = _time(data.periods[0]), _time(data.periods[-1])
    slots = round((last - first) / data.width) + 1
    slot = (chart.right - chart.left) / slots
    inset = min(slot * 0.14, 6.0)
    most = max(max(_paid(p), p.always_large or 0.0) for p in data.periods) or 1.0
    y, rate = Scale(0.0, most * 1.04, chart.bottom, chart.top), Scale(0.0, 1.0, strip, strip_top)
    chart.label(2, 14, f"{fmt.unit(currency)} per {fmt.width(data.width)}")
    chart.label(2, strip_top - 14, "escalated steps")
    chart.levels(ticks(0.0, most, 4), y, "{:g}".format)
    chart.levels((0.0, 0.5, 1.0), rate)
    for p in data.periods:
        start = chart.left + round((_time(p) - first) / data.width) * slot + inset
        wide, at = slot - 2 * inset, 0.0
        for part in PARTS:
            if (cost := getattr(p, part)) > 0:
                chart.rect(start, y(at + cost), wide, y(at) - y(at + cost), f"fill-{part}", tip=_spent(p, currency))
                at += cost
        if p.always_large is not None:
            chart.line(start, y(p.always_large), start + wide, y(p.always_large), "always")
        escalated = rate(p.escalated / p.steps)
        sentence = f"{fmt.clock(p.start)}: {p.escalated} of {p.steps} steps escalated"
        chart.rect(start, escalated, wide, strip - escalated, "fill-quiet", tip=sentence)
    for at in (chart.bottom, strip):
        chart.line(chart.left, at, chart.right, at, "base")
    for index in range(0, slots, max(1, math.ceil(slots / (7 if chart.wide else 3)))):
        time = dt.datetime.fromtimestamp(first + index * data.width, dt.UTC)
        place = chart.left + slot / 2 + index * slot
        chart.label(place, chart.bottom + 20.0, fmt.tick_time(time, data.width), anchor="middle")
    total = fmt.money(sum(map(_paid, data.periods)), currency)
    return chart.svg(f"{total} over {len(data.periods)} periods", "spending")


def _time(period: Period) -> float:
    return dt.datetime.fromisoformat(period.start).timestamp()


def _paid(period: Period) -> float:
    return period.small + period.large + period.evidence + period.shadow


def _spent(period: Period, currency: str) -> str:
    parts = ", ".join(f"{part} {fmt.figure(cost)}" for part in PARTS if (cost := getattr(period, part)) > 0)
    always = "" if period.always_large is None else f"; always large {fmt.money(period.always_large, currency)}"
    return f"{fmt.clock(period.start)}: {fmt.plural(period.steps, 'step')}, {parts or 'nothing'}{always}"
