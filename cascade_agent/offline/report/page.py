"""A `Report` as one HTML file: no request to anywhere, and every text that was read is escaped.

The page's policy (CSP) allows its own style and its own script by their hashes and nothing else, so that even a text
that escaped the escaping could not act.
"""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report import plots
from cascade_agent.offline.report.drift_section import drift_section
from cascade_agent.offline.report.markup import Child, Markup, behind, breakable, data_script, el, raw, section
from cascade_agent.offline.report.steps import steps_section

if TYPE_CHECKING:
    from cascade_agent.offline.report.data import AlwaysLarge, Escalations, Frontier, Point, Reliability, Report

_ANSWERS: Final = {
    "small": "small answered",
    "large": "large answered",
    "nobody": "nobody could answer",
    "unfinished": "unfinished",
}
_BELIEVED: Final = "Can confidences be believed?"
_PANELS: Final = 8
_FEW: Final = 3


def render(report: Report) -> str:
    """Return the page. The report's figures stand in it once more as JSON (`#report-data`)."""
    style, script = (
        files("cascade_agent.offline.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js")
    )
    rules = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        None,
        el("meta", {"charset": "utf-8"}),
        el("meta", {"http-equiv": "Content-Security-Policy", "content": rules}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", {"name": "color-scheme", "content": "light dark"}),
        el("meta", {"name": "referrer", "content": "no-referrer"}),
        el("meta", {"name": "generator", "content": f"cascade-agent {report.version}"}),
        el("title", None, report.title),
        el("style", None, raw(style)),
    )
    body = el(
        "body",
        None,
        el("a", {"class": "skip", "href": "#main"}, "Skip to the figures"),
        _header(report),
        el("main", {"id": "main"}, *_sections(report)),
        _footer(report),
        data_script("report-data", report.to_json()),
        el("script", None, raw(script)),
    )
    return "<!DOCTYPE html>\n" + el("html", {"lang": "en"}, head, body) + "\n"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sections(report: Report) -> list[Markup]:
    return [
        _tiles(report),
        _frontier(report),
        _reasons(report),
        el("div", "pair", _reliability(report.reliability), _latency(report)),
        _spending(report),
        drift_section(report.drift),
        steps_section(
            "expensive",
            "The most expensive steps",
            f"The {len(report.expensive)} steps that cost most. Open one for its drafts, findings and decision.",
            report.expensive,
            report.currency,
            of_small=True,
        ),
        steps_section(
            "doubtful",
            "The most doubtful steps",
            f"The {len(report.doubtful)} steps whose returned answer has the least confidence, those without an "
            "answer first. Steps whose confidence nothing measured are not among them.",
            report.doubtful,
            report.currency,
        ),
    ]


def swatch(kind: str) -> Markup:
    """Return the mark of a colour."""
    return el("span", {"class": f"swatch swatch-{kind}", "aria-hidden": "true"})


def legend(*names: tuple[str, str]) -> Markup:
    """Return what the colours mean: (class, name)."""
    return el("ul", "legend", *(el("li", None, swatch(kind), name) for kind, name in names))


# ---- head and tiles -------------------------------------------------------------------------------------------------


def _header(report: Report) -> Markup:
    totals = report.totals
    choices = []
    for value in ("auto", "light", "dark"):
        chosen = {"type": "radio", "name": "theme", "value": value, "checked": value == "auto"}
        choices.append(el("label", None, el("input", chosen), el("span", None, value.capitalize())))
    threads = "" if totals.threads_counted else "more than "
    facts = [
        _few(list(report.files)),
        f"{fmt.plural(totals.steps, 'step')} in {threads}{fmt.plural(totals.threads, 'thread')}",
        fmt.span(totals.first, totals.last),
        *(f"{tier}: {_few(list(models))}" for tier, models in totals.models.items()),
    ]
    theme = el("fieldset", "theme", el("legend", "hidden", "Colours"), *choices)
    return el(
        "header",
        None,
        el("div", "top", el("h1", None, report.title), theme),
        el("p", "headline", _headline(report)),
        el("p", {"class": "pill mark", "id": "made-up"}, _made_up(report)) if report.made_up_prices else None,
        el("ul", "facts", *(el("li", None, el("bdi", None, fact)) for fact in facts)),
        _who_answered(report),
    )


def _made_up(report: Report) -> str:
    return f"{'offline stand-ins, no language models; ' if report.stand_ins else ''}made-up prices"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _headline(report: Report) -> str:
    totals = report.totals
    share = fmt.percent(totals.by_answer.get("small", 0) / totals.steps, 0)
    answered = f"The small model answered {share} of {fmt.plural(totals.steps, 'step')}."
    quality = next((mark.quality for mark in report.frontier.marks), None)
    if quality is None or quality.value is None:
        good = "How good the answers were is unknown: no step that small answered has a label."
    else:
        labels = f" ({fmt.plural(quality.n, 'label')})" if quality.n else ""
        good = f"{fmt.percent(quality.value, 0)} of the answers were at least as good as the large model's{labels}."
    return f"{_saving(report)} {answered} {good}{_without_shadows(report.always_large)}"


def _saving(report: Report) -> str:
    """Return what was saved against asking large every time: an amount, a share, its interval."""
    compared = report.always_large
    if compared.share is None or compared.large is None:
        if compared.low is None or compared.high is None:
            return f"What was saved is unknown: {compared.why}."
        return f"Saved between {fmt.between(1 - compared.high, 1 - compared.low)} of always-large: {compared.why}."
    saving, low_high = 1 - compared.share, ""
    less = saving >= 0
    if compared.estimated and compared.interval is not None:
        low, high = compared.interval
        low_high = f", {fmt.between(1 - high, 1 - low) if less else fmt.between(low - 1, high - 1)}"
    about = "an estimated " if compared.estimated else ""
    prices = " at made-up prices" if report.made_up_prices else ""
    amount = f"{about}{fmt.money(compared.large * abs(saving), report.currency)}{prices}"
    word = "Saved" if less else "Cost more than always-large by"
    return f"{word} {amount} ({fmt.percent(abs(saving), 0)}{low_high})."


def _without_shadows(compared: AlwaysLarge) -> str:
    if not compared.shadow or compared.cascade is None or not compared.large:
        return ""
    saving = 1 - compared.cascade / compared.large
    words = f"have saved {fmt.percent(saving, 0)}" if saving >= 0 else f"cost {fmt.percent(-saving, 0)} more"
    return f" Without shadow calls, which only measure, it would {words}."


def _who_answered(report: Report) -> Markup:
    totals = report.totals
    parts = [(who, totals.by_answer.get(who, 0)) for who in _ANSWERS if totals.by_answer.get(who, 0)]
    names = [
        el("li", None, swatch(who), el("b", None, fmt.percent(n / totals.steps)), f" {_ANSWERS[who]} ({fmt.count(n)})")
        for who, n in parts
    ]
    whole = plots.bar([(who, n / totals.steps) for who, n in parts], kind="bar tall")
    return el("div", "who", whole, el("ul", "legend", *names))


def _tile(identifier: str, name: str, value: str, note: Child) -> Markup:
    figure = el("span", {"class": "value", "id": f"tile-{identifier}"}, value)
    return el("div", "tile", el("dt", None, name), el("dd", None, figure, el("span", "note", note)))


def _tiles(report: Report) -> Markup:
    totals, compared = report.totals, report.always_large
    nobody = totals.by_outcome.get("exhausted", 0) + totals.by_outcome.get("human_review", 0)
    latency = {row.who: row.p50 for row in report.latency}
    escalated = f"{fmt.seconds(latency['step, escalated'])} when" if "step, escalated" in latency else "none"
    sources = _few([f"{who} ({fmt.count(n)})" for who, n in totals.labelled.items()])
    reached = f"{fmt.count(totals.escalated)} steps reached the large model"
    failed = "steps in which even the large draft failed" if nobody else "every step had an answer"
    doubt = "answers returned although a check objected" if totals.degraded else "no answer that a check objected to"
    labels = f"steps, by {sources}" if totals.labelled else "no step: quality is unknown"
    median = fmt.seconds(latency.get("step, small only"))
    tiles = (
        ("steps", "Steps", fmt.count(totals.steps), fmt.plural(totals.threads, "thread")),
        ("escalated", "Escalated", fmt.percent(totals.escalated / totals.steps), reached),
        ("cost", "Cost", *_cost(report)),
        ("share", "Against always large", _share(compared), _compared(report)),
        ("exhausted", "Nobody could answer", fmt.count(nobody), failed),
        ("degraded", "Answered with a doubt", fmt.count(totals.degraded), doubt),
        ("latency", "Median step", median, f"small only; {escalated} escalated"),
        ("labelled", "Labelled", fmt.count(sum(totals.labelled.values())), labels),
    )
    return el("dl", {"class": "tiles", "aria-label": "Summary"}, *(_tile(*tile) for tile in tiles))


def _cost(report: Report) -> tuple[str, str]:
    totals, currency = report.totals, report.currency
    shadow = totals.shadow.known if not totals.other_currencies else 0.0
    known = totals.cost.known + shadow
    unknown = totals.cost.unknown
    if unknown == totals.steps:
        return fmt.UNKNOWN, "no step has a known cost"
    parts = []
    if unknown:
        parts.append(f"at least: the cost of {fmt.plural(unknown, 'step')} is unknown")
    if totals.shadow_calls:
        amount = fmt.money(shadow, currency) if shadow else "an unknown amount"
        parts.append(f"{amount} of it for {fmt.plural(totals.shadow_calls, 'shadow call')}")
    others = list(totals.other_currencies.items())
    parts += [f"and {fmt.money(m.known, code)}" for code, m in others[:_FEW]]
    if len(others) > _FEW:
        parts.append(f"and {len(others) - _FEW} more currencies")
    parts.append(f"{fmt.money(known / (totals.steps - unknown), currency)} a step")
    return ("≥ " if unknown else "") + fmt.money(known, currency), "; ".join(parts)


def _share(compared: AlwaysLarge) -> str:
    if compared.share is not None:
        return fmt.percent(compared.share)
    known = compared.low is not None and compared.high is not None
    return fmt.between(compared.low, compared.high) if known else fmt.UNKNOWN


def _compared(report: Report) -> str:
    compared, currency = report.always_large, report.currency
    if compared.share is None:
        return compared.why
    text = f"of {fmt.money(compared.large, currency)}"
    if not compared.estimated:
        return text + ", as measured: the large model was asked in every step"
    return f"{text}, estimated from {fmt.plural(compared.drawn, 'shadow call')}"


def _estimate(report: Report) -> str | None:
    """Return how the cost of always-large was found."""
    compared = report.always_large
    if compared.share is None or not compared.estimated:
        return None
    return (
        f"Always large is an estimate. Its cost is known in {fmt.plural(compared.measured, 'step')}; for the other "
        f"{fmt.count(compared.estimated)} the shadow calls say what it would have been, each weighed by one over its "
        "probability."
    )


# ---- sections -------------------------------------------------------------------------------------------------------


def _frontier(report: Report) -> Markup:
    data = report.frontier
    known = any(p.quality.value is not None and p.cost is not None for p in data.curve if p.threshold is not None)
    lead = "Each dot is a threshold on the confidence, replayed over this journal" + (
        ": what it would have cost, and for how many steps the answer would have been at least as good as the large "
        "model's."
        if known
        else f". {_unknown(data)}"
    )
    swept = len(data.curve) > 1
    if not swept:
        lead = f"No threshold can be tried: {_no_curve(report)}."
    ways = [_aside(point, report.always_large, plotted=known) for point in data.marks]
    notes = [el("p", "small", part) for part in (_estimate(report), _basis(data)) if part]
    plot = plots.both(partial(plots.frontier if known else plots.sweep, data), 640) if swept else None
    head = ("way", "escalated", "cost", "as good as large", "95% interval", "labels")
    rows = [_row(point) for point in (*data.marks, *data.curve)]
    return section(
        "frontier",
        "Cost and quality",
        lead,
        el("div", "split" if plot else None, plot, el("div", "aside", *ways, *notes)),
        behind("Thresholds and ways to answer", head, rows, identifier="frontier-table"),
    )


def _no_curve(report: Report) -> str:
    if not any(map(any, report.reliability.histogram)):
        return "no finished step has a draft with a confidence"
    return "no threshold tells the steps of this journal apart"


def _unknown(data: Frontier) -> str:
    if any(point.quality.value is not None for point in data.curve):
        return "What it would have cost is unknown: no shadow call says what large costs where small answered."
    return f"How good the answers would have been is unknown: {data.why}."


def _aside(point: Point, compared: AlwaysLarge, *, plotted: bool) -> Markup:
    kind = {"as it ran": "run", "always small": "small", "always large": "large"}.get(point.name, "policy")
    quality = point.quality
    good = f"{fmt.percent(quality.value)} as good as large" if quality.value is not None else "quality unknown"
    if quality.n and quality.low is not None and quality.high is not None:
        good += f" ({fmt.between(quality.low, quality.high)})"
    if kind == "large":
        good = "what the others are compared with"
    if kind == "run" and compared.shadow and compared.large:
        good += f"; shadow calls cost {fmt.percent(compared.shadow / compared.large)} more"
    return el(
        "div",
        "way",
        swatch(kind) if plotted and point.cost is not None and quality.value is not None else None,
        el("b", None, el("bdi", None, point.name)),
        el("span", "cost", fmt.percent(point.cost)),
        el("span", "note", f"escalates {fmt.percent(point.escalated)}; {good}"),
    )


def _basis(data: Frontier) -> str:
    text = f"Scorer: {data.scorer}"
    if not data.agrees:
        text += ", which is not the one this journal was written with: give its policy file for its own curve"
    text += f". {data.steps:,} steps swept"
    if data.unreplayable:
        text += f", up to {data.unreplayable:,} of them could not be decided anew from the record"
    if data.basis != "none":
        text += f". Labels: {data.why}. Steps of one thread count as dependent in the intervals"
    return text + "."


def _row(point: Point) -> list[Child]:
    quality = point.quality
    interval = "" if not quality.n else fmt.between(quality.low, quality.high)
    return [
        el("bdi", None, point.name),
        fmt.percent(point.escalated),
        fmt.percent(point.cost),
        fmt.percent(quality.value),
        interval,
        fmt.count(quality.n) if quality.n else "",
    ]


def _reasons(report: Report) -> Markup:
    rows = report.escalations
    kept = [row for row in rows if row.escalated][:_PANELS]
    if not kept:
        return section("reasons", "Why steps escalate", "No step of this journal escalated.")
    widest = max(max(row.reasons.values()) / row.steps for row in kept)
    left_out = len(rows) - len(kept)
    more = f" {fmt.plural(left_out, 'step')} more: in the table." if left_out else ""
    figures = [
        [
            el("bdi", None, row.step),
            fmt.count(row.steps),
            fmt.count(row.escalated),
            fmt.percent(row.escalated / row.steps),
            ", ".join(f"{reason} {fmt.count(n)}" for reason, n in row.reasons.items()),
        ]
        for row in rows
    ]
    head = ("step", "ran", "escalated", "share", "reasons")
    return section(
        "reasons",
        "Why steps escalate",
        f"Reasons by step, as a share of the times the step ran. Bars share one scale.{more}",
        el("div", "panels", *(_panel(row, widest) for row in kept)),
        behind("Steps and why they escalated", head, figures, identifier="reasons-table"),
    )


def _panel(row: Escalations, widest: float) -> Markup:
    """Return the reasons of one step as bars; a bar of the share `widest` takes the whole width."""
    lines = []
    for reason, n in row.reasons.items():
        name = el("th", {"scope": "row"}, el("bdi", None, breakable(reason)))
        bar = el("td", "bar-cell", plots.bar([("large", n / row.steps / widest)]))
        share = el("td", "muted", fmt.percent(n / row.steps))
        lines.append(el("tr", None, name, bar, el("td", None, fmt.count(n)), share))
    note = el("span", "note", f" {fmt.count(row.escalated)} of {fmt.count(row.steps)} escalated ")
    right = el("b", "right", fmt.percent(row.escalated / row.steps))
    caption = el("caption", None, el("b", None, el("bdi", None, row.step)), note, right)
    head = el("tr", None, *(el("th", {"scope": "col"}, name) for name in ("reason", "bar", "steps", "share")))
    return el("table", "bars", caption, el("thead", "hidden", head), el("tbody", None, *lines))


def _reliability(data: Reliability) -> Markup:
    taken, escalated = (sum(column) for column in zip(*data.histogram, strict=True))
    without = f" {fmt.plural(data.unmeasured, 'draft')} without any" if data.unmeasured else ""
    if not taken and not escalated:
        lead = f"No draft of this journal has a confidence.{without}{'.' if without else ''}"
        return section("calibration", _BELIEVED, lead)
    drafts = [
        [
            f"{b.low:g} – {b.high:g}",
            f"{b.confidence:.3f}",
            fmt.count(b.n),
            fmt.count(b.right),
            fmt.percent(b.share),
            fmt.between(b.interval_low, b.interval_high),
        ]
        for b in data.bins
    ]
    steps = [
        [f"{i / 20:.2f} – {(i + 1) / 20:.2f}", fmt.count(taken), fmt.count(escalated)]
        for i, (taken, escalated) in enumerate(data.histogram)
    ]
    curve = partial(behind, identifier="calibration-table", summary="The numbers behind the curve")
    bars = partial(behind, identifier="confidence-table", summary="The numbers behind the bars")
    head = ("confidence", "mean", "drafts", "right", "share", "95% interval")
    return section(
        "calibration",
        _BELIEVED,
        _believed(data) + (f"{without} confidence." if without else ""),
        plots.both(partial(plots.reliability, data), 480),
        legend(*[("small", "draft taken")] * bool(taken), *[("large", "escalated")] * bool(escalated)),
        curve("Labelled drafts by confidence", head, drafts) if drafts else None,
        bars("Steps by confidence", ("confidence", "taken", "escalated"), steps),
    )


def _believed(data: Reliability) -> str:
    """Return the sentences about labelled drafts."""
    if not data.bins:
        return (
            "No draft is labelled, so whether confidences can be believed is unknown. Below: how often each confidence "
            "was given."
        )
    sources = ", ".join(f"{who} ({n:,})" for who, n in data.by_source.items())
    lead = (
        "Drafts of like confidence, and how many of them were right. On the line the confidence can be believed; "
        f"whiskers are exact 95% binomial intervals. {fmt.plural(data.n, 'label')}: {sources}."
    )
    if data.auroc is not None:
        lead += f" A right draft has more confidence than a wrong one in {fmt.percent(data.auroc)} of all pairs."
    if set(data.by_source) == {"escalation"}:
        lead += " Only escalated steps are labelled, by comparing both answers: accepted ones may look otherwise."
    return lead


def _latency(report: Report) -> Markup:
    rows, title = report.latency, "How long calls take"
    if not any(row.p99 > 0 for row in rows):
        return section("latency", title, "No latency is recorded in this journal.")
    lead = "Median, 95th and 99th percentile of each call, and of whole steps with judging included (logarithmic axis)."
    figures = [[r.who, fmt.count(r.n), *map(fmt.seconds, (r.p50, r.p95, r.p99))] for r in rows]
    numbers = behind("Latency by tier", ("calls", "number", "p50", "p95", "p99"), figures, identifier="latency-table")
    return section("latency", title, lead, plots.both(partial(plots.latency, rows), 480), numbers)


def _spending(report: Report) -> Markup:
    data, currency, title = report.spending, report.currency, "Spending over time"
    if not data.periods:
        return section("spending", title, f"No step has a time. {data.prices}")
    used = [part for part in plots.PARTS if any(getattr(p, part) > 0 for p in data.periods)]
    words = {"small": "small drafts", "large": "large answers", "shadow": "shadow calls"}
    names = [(part, words.get(part, part)) for part in used]
    if any(p.always_large is not None for p in data.periods):
        names.append(("always", f"always large{' (estimate)' if report.always_large.estimated else ''}"))
    if any(p.escalated for p in data.periods):
        names.append(("quiet", "share of steps that escalated"))
    unknown, width = sum(p.unknown for p in data.periods), fmt.width(data.width)
    lead = f"What was paid per {width} (UTC). {data.prices}"
    if unknown:
        lead += f" {fmt.plural(unknown, 'step')} without a known cost are missing in the bars."
    figures = [
        [
            fmt.clock(p.start) if data.width >= 1 else p.start[:23].replace("T", " "),
            fmt.count(p.steps),
            fmt.count(p.escalated),
            *(fmt.figure(getattr(p, part)) for part in used),
            fmt.figure(p.always_large),
        ]
        for p in data.periods
    ]
    head = ("from (UTC)", "steps", "escalated", *used, "always large")
    plot = plots.both(partial(plots.spending, data, currency), 1000)
    numbers = behind(f"Spending per {width} in {currency}", head, figures, identifier="spending-table")
    return section("spending", title, lead, legend(*names), plot, numbers)


def _footer(report: Report) -> Markup:
    totals = report.totals
    policies = ", ".join(f"{name} ({fmt.plural(n, 'step')})" for name, n in totals.policies.items())
    parts = [f"Policies in this journal: {policies}."]
    if report.policy is not None:
        policy = report.policy
        amount = "without a threshold" if policy["threshold"] is None else f"threshold {policy['threshold']:.3f}"
        dated = f", {policy['kind']} {fmt.day(policy['date'])}" if policy["kind"] and policy["date"] else ""
        parts.append(f"Policy kept as {policy['name']}: {policy['version']}, {amount}{dated}.")
    parts += report.notes
    parts.append(
        "Costs include rejected drafts and evidence. Unknown is never counted as 0. "
        f"Made {fmt.clock(report.made_at)} UTC by cascade-agent {report.version}; this file holds everything it "
        "shows and asks no server."
    )
    return el("footer", None, *(el("p", None, el("bdi", None, part)) for part in parts))
