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

from cascade_agent.offline.report import format as words
from cascade_agent.offline.report import plots
from cascade_agent.offline.report.drift_section import drift_section
from cascade_agent.offline.report.markup import Child, Markup, data_script, el, raw
from cascade_agent.offline.report.steps import steps_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.offline.report.data import AlwaysLarge, Frontier, Point, Reliability, Report

_ANSWERS: Final = {"small": "small answered", "large": "large answered", "nobody": "nobody", "unfinished": "unfinished"}
_PANELS: Final = 8
_FEW: Final = 3


def render(report: Report) -> str:
    """The page. The report's figures stand in it once more as JSON (`#report-data`)."""
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
        el("div", {"class": "pair"}, _reliability(report.reliability), _latency(report)),
        _spending(report),
        drift_section(report.drift),
        steps_section(
            "expensive",
            "The most expensive steps",
            f"The {len(report.expensive)} steps that cost most. Open one for its drafts, findings and decision.",
            report.expensive,
            report.currency,
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


# ---- parts of a page ------------------------------------------------------------------------------------------------


def section(identifier: str, title: str, lead: Child, *inside: Child) -> Markup:
    """A part of the page with its heading and a sentence."""
    return el(
        "section",
        {"class": "card", "id": identifier, "aria-labelledby": f"{identifier}-title"},
        el("h2", {"id": f"{identifier}-title"}, title),
        el("p", {"class": "lead"}, lead),
        *inside,
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Child]], *, identifier: str = "") -> Markup:
    """Figures in rows; the first column names the row, the others are numbers."""
    top = el("tr", None, *(el("th", {"scope": "col"}, name) for name in head))
    body = [
        el("tr", None, el("th", {"scope": "row"}, row[0]), *(el("td", None, cell) for cell in row[1:])) for row in rows
    ]
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}
    inside = el(
        "table",
        {"id": identifier or None, "class": "figures"},
        el("caption", None, caption),
        el("thead", None, top),
        el("tbody", None, *body),
    )
    return el("div", box, inside)


def behind(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    identifier: str,
    summary: str = "The numbers behind this plot",
) -> Markup:
    """The table behind a plot."""
    return el(
        "details",
        {"class": "behind"},
        el("summary", None, summary),
        table(caption, head, rows, identifier=identifier),
    )


def legend(*names: tuple[str, str]) -> Markup:
    """What the colours mean: (class, name)."""
    return el(
        "ul",
        {"class": "legend"},
        *(
            el("li", None, el("span", {"class": f"swatch swatch-{kind}", "aria-hidden": "true"}), name)
            for kind, name in names
        ),
    )


# ---- head and tiles -------------------------------------------------------------------------------------------------


def _header(report: Report) -> Markup:
    totals = report.totals
    choices = [
        el(
            "label",
            None,
            el("input", {"type": "radio", "name": "theme", "value": value, "checked": value == "auto"}),
            el("span", None, name),
        )
        for value, name in (("auto", "Auto"), ("light", "Light"), ("dark", "Dark"))
    ]
    threads = "" if totals.threads_counted else "more than "
    facts = [
        _few(list(report.files)),
        f"{words.plural(totals.steps, 'step')} in {threads}{words.plural(totals.threads, 'thread')}",
        words.span(totals.first, totals.last),
        *(f"{tier}: {_few(list(models))}" for tier, models in totals.models.items()),
    ]
    return el(
        "header",
        None,
        el(
            "div",
            {"class": "top"},
            el("h1", None, report.title),
            el("fieldset", {"class": "theme"}, el("legend", {"class": "hidden"}, "Colours"), *choices),
        ),
        el("p", {"class": "headline"}, _headline(report)),
        el("ul", {"class": "facts"}, *(el("li", None, el("bdi", None, fact)) for fact in facts)),
        _who_answered(report),
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _headline(report: Report) -> str:
    totals, compared = report.totals, report.always_large
    small = totals.by_answer.get("small", 0)
    said = (
        f"The small model answered {words.percent(small / totals.steps, 0)} of {words.plural(totals.steps, 'step')}. "
    )
    if compared.share is None:
        return said + f"What the large model alone would have cost is unknown: {compared.why}."
    about = "an estimated " if compared.estimated else ""
    said = (
        f"The small model answered {words.percent(small / totals.steps, 0)} of {words.plural(totals.steps, 'step')}, "
        f"and the whole cost {about}{words.percent(compared.share, 0)} of asking the large model every time. "
    )
    quality = report.frontier.marks[0].quality
    if quality.value is None:
        return said + "How good the answers were is unknown: no step that small answered has a label."
    good = f"{words.percent(quality.value, 0)} of the answers were at least as good as the large model's"
    return f"{said}{good} ({words.plural(quality.n, 'label')})." if quality.n else f"{said}{good}."


def _who_answered(report: Report) -> Markup:
    totals = report.totals
    parts = [(who, totals.by_answer.get(who, 0)) for who in _ANSWERS if totals.by_answer.get(who, 0)]
    names = [
        el(
            "li",
            None,
            el("span", {"class": f"swatch swatch-{who}", "aria-hidden": "true"}),
            el("b", None, words.percent(number / totals.steps)),
            f" {_ANSWERS[who]} ({words.count(number)})",
        )
        for who, number in parts
    ]
    return el(
        "div",
        {"class": "who"},
        plots.bar([(who, number / totals.steps) for who, number in parts], kind="bar tall"),
        el("ul", {"class": "legend"}, *names),
    )


def _tile(name: str, value: str, note: Child, *, identifier: str) -> Markup:
    return el(
        "div",
        {"class": "tile"},
        el("dt", None, name),
        el(
            "dd",
            None,
            el("span", {"class": "value", "id": f"tile-{identifier}"}, value),
            el("span", {"class": "note"}, note),
        ),
    )


def _tiles(report: Report) -> Markup:
    totals, compared = report.totals, report.always_large
    nobody = totals.by_outcome.get("exhausted", 0) + totals.by_outcome.get("human_review", 0)
    whole = next((row for row in report.latency if row.who == "step, escalated"), None)
    small = next((row for row in report.latency if row.who == "step, small only"), None)
    tiles = [
        _tile("Steps", words.count(totals.steps), f"{words.plural(totals.threads, 'thread')}", identifier="steps"),
        _tile(
            "Escalated",
            words.percent(totals.escalated / totals.steps),
            f"{words.count(totals.escalated)} steps reached the large model",
            identifier="escalated",
        ),
        _tile("Cost", *_cost(report), identifier="cost"),
        _tile(
            "Against always large",
            _share(compared),
            _compared(report),
            identifier="share",
        ),
        _tile(
            "Exhausted",
            words.count(nobody),
            "steps in which even the large draft failed" if nobody else "no step ran out of models",
            identifier="exhausted",
        ),
        _tile(
            "Degraded",
            words.count(totals.degraded),
            "answers returned although they failed soft checks"
            if totals.degraded
            else "no answer returned with a doubt",
            identifier="degraded",
        ),
        _tile(
            "Median step",
            words.seconds(small.p50 if small else None),
            f"small only; {words.seconds(whole.p50)} when escalated" if whole else "small only; none escalated",
            identifier="latency",
        ),
        _tile(
            "Labelled",
            words.count(sum(totals.labelled.values())),
            "steps, by " + _few([f"{who} ({words.count(n)})" for who, n in totals.labelled.items()])
            if totals.labelled
            else "no step: quality is unknown",
            identifier="labelled",
        ),
    ]
    return el("dl", {"class": "tiles", "aria-label": "Summary"}, *tiles)


def _cost(report: Report) -> tuple[str, str]:
    totals, currency = report.totals, report.currency
    shadow = totals.shadow.known if not totals.other_currencies else 0.0
    known = totals.cost.known + shadow
    unknown = totals.cost.unknown
    if unknown == totals.steps:
        return words.UNKNOWN, "no step has a known cost"
    parts = []
    if unknown:
        parts.append(f"at least: the cost of {words.plural(unknown, 'step')} is unknown")
    if totals.shadow_calls:
        told = words.money(shadow, currency) if shadow else "an unknown amount"
        parts.append(f"{told} of it for {words.plural(totals.shadow_calls, 'shadow call')}")
    others = list(totals.other_currencies.items())
    parts += [f"and {words.money(m.known, code)}" for code, m in others[:_FEW]]
    if len(others) > _FEW:
        parts.append(f"and {len(others) - _FEW} more currencies")
    parts.append(f"{words.money(known / (totals.steps - unknown), currency)} a step")
    return ("≥ " if unknown else "") + words.money(known, currency), "; ".join(parts)


def _share(compared: AlwaysLarge) -> str:
    if compared.share is not None:
        return words.percent(compared.share)
    known = compared.low is not None and compared.high is not None
    return words.between(compared.low, compared.high) if known else words.UNKNOWN


def _compared(report: Report) -> str:
    compared, currency = report.always_large, report.currency
    if compared.share is None:
        return compared.why
    said = f"of {words.money(compared.large, currency)}"
    if not compared.estimated:
        return said + ", as measured: the large model was asked in every step"
    return f"{said}, estimated from {words.plural(compared.drawn, 'shadow call')}"


def _estimate(report: Report) -> str | None:
    """How the cost of always-large was found."""
    compared = report.always_large
    if compared.share is None or not compared.estimated:
        return None
    return (
        f"Always large is an estimate. Its cost is known in {words.plural(compared.measured, 'step')}; for the other "
        f"{words.count(compared.estimated)} the shadow calls say what it would have been, each weighed by one over its "
        "probability."
    )


# ---- sections -------------------------------------------------------------------------------------------------------


def _frontier(report: Report) -> Markup:
    data = report.frontier
    known = any(p.quality.value is not None and p.cost is not None for p in data.curve if p.threshold is not None)
    lead = (
        "Each dot is a threshold on the confidence, replayed over this journal: what it would have cost, and for how "
        "many steps the answer would have been at least as good as the large model's."
        if known
        else "Each dot is a threshold on the confidence, replayed over this journal. " + _unknown(data)
    )
    draw = partial(plots.frontier if known else plots.sweep, data)
    rows = [_row(point) for point in (*data.marks, *data.curve)]
    return section(
        "frontier",
        "Cost and quality",
        lead,
        el(
            "div",
            {"class": "split"},
            plots.both(draw, 640),
            el(
                "div",
                {"class": "aside"},
                *(_aside(point, report.always_large) for point in data.marks),
                *(el("p", {"class": "small"}, part) for part in (_estimate(report), _basis(data)) if part),
            ),
        ),
        behind(
            "Thresholds and ways to answer",
            ("way", "escalated", "cost", "as good as large", "95% interval", "labels"),
            rows,
            identifier="frontier-table",
        ),
    )


def _unknown(data: Frontier) -> str:
    if any(point.quality.value is not None for point in data.curve):
        return "What it would have cost is unknown: no shadow call says what large costs where small answered."
    return f"How good the answers would have been is unknown: {data.why}."


def _aside(point: Point, compared: AlwaysLarge) -> Markup:
    kind = {"as it ran": "run", "always small": "small", "always large": "large"}.get(point.name, "policy")
    quality = point.quality
    good = f"{words.percent(quality.value)} as good as large" if quality.value is not None else "quality unknown"
    if quality.n and quality.low is not None and quality.high is not None:
        good += f" ({words.between(quality.low, quality.high)})"
    if kind == "large":
        good = "what the others are compared with"
    if kind == "run" and compared.shadow and compared.large:
        good += f"; shadow calls cost {words.percent(compared.shadow / compared.large)} more"
    return el(
        "div",
        {"class": "way"},
        el("span", {"class": f"swatch swatch-{kind}", "aria-hidden": "true"}),
        el("b", None, el("bdi", None, point.name)),
        el("span", {"class": "cost"}, words.percent(point.cost)),
        el("span", {"class": "note"}, f"escalates {words.percent(point.escalated)}; {good}"),
    )


def _basis(data: Frontier) -> str:
    said = f"Scorer: {data.scorer}"
    if not data.agrees:
        said += ", which is not the one this journal was written with: give its policy file for its own curve"
    said += f". {data.steps:,} steps swept"
    if data.unreplayable:
        said += f", up to {data.unreplayable:,} of them could not be decided anew from the record"
    if data.basis != "none":
        said += f". Labels: {data.why}. Steps of one thread count as dependent in the intervals"
    return said + "."


def _row(point: Point) -> list[Child]:
    quality = point.quality
    interval = "" if not quality.n else words.between(quality.low, quality.high)
    return [
        el("bdi", None, point.name),
        words.percent(point.escalated),
        words.percent(point.cost),
        words.percent(quality.value),
        interval,
        words.count(quality.n) if quality.n else "",
    ]


def _reasons(report: Report) -> Markup:
    rows = report.escalations
    shown = [row for row in rows if row.escalated][:_PANELS]
    if not shown:
        return section("reasons", "Why steps escalate", "No step of this journal escalated.")
    widest = max(max(row.reasons.values()) / row.steps for row in shown)
    panels = []
    for row in shown:
        lines = [
            el(
                "tr",
                None,
                el("th", {"scope": "row"}, el("bdi", None, reason)),
                el("td", {"class": "bar-cell"}, plots.bar([("large", number / row.steps / widest)])),
                el("td", None, words.count(number)),
                el("td", {"class": "muted"}, words.percent(number / row.steps)),
            )
            for reason, number in row.reasons.items()
        ]
        caption = el(
            "caption",
            None,
            el("b", None, el("bdi", None, row.step)),
            el("span", {"class": "note"}, f" {words.count(row.escalated)} of {words.count(row.steps)} escalated "),
            el("b", {"class": "right"}, words.percent(row.escalated / row.steps)),
        )
        head = el(
            "thead", {"class": "hidden"},
            el("tr", None, *(el("th", {"scope": "col"}, name) for name in ("reason", "bar", "steps", "share"))),
        )  # fmt: skip
        panels.append(el("table", {"class": "bars"}, caption, head, el("tbody", None, *lines)))
    left_out = len(rows) - len(shown)
    more = f" {words.plural(left_out, 'step')} more: in the table." if left_out else ""
    return section(
        "reasons",
        "Why steps escalate",
        f"Reasons by step, as a share of the times the step ran. Bars share one scale.{more}",
        el("div", {"class": "panels"}, *panels),
        behind(
            "Steps and why they escalated",
            ("step", "ran", "escalated", "share", "reasons"),
            [
                [
                    el("bdi", None, row.step),
                    words.count(row.steps),
                    words.count(row.escalated),
                    words.percent(row.escalated / row.steps),
                    ", ".join(f"{reason} {words.count(n)}" for reason, n in row.reasons.items()),
                ]
                for row in rows
            ],
            identifier="reasons-table",
        ),
    )


def _reliability(data: Reliability) -> Markup:
    if data.bins:
        sources = ", ".join(f"{who} ({n:,})" for who, n in data.by_source.items())
        lead = (
            "Drafts of like confidence, and how many of them were right. On the line the confidence can be believed; "
            f"whiskers are exact 95% binomial intervals. {words.plural(data.n, 'label')}: {sources}."
        )
        if data.auroc is not None:
            lead += f" A right draft has more confidence than a wrong one in {words.percent(data.auroc)} of all pairs."
        if set(data.by_source) == {"escalation"}:
            lead += " Only escalated steps are labelled, by comparing both answers: accepted ones may look otherwise."
    else:
        lead = (
            "No draft is labelled, so whether confidences can be believed is unknown. Below: how often each confidence "
            "was given."
        )
    if data.unmeasured:
        lead += f" {words.plural(data.unmeasured, 'draft')} without any confidence."
    return section(
        "calibration",
        "Can confidences be believed?",
        lead,
        plots.both(partial(plots.reliability, data), 480),
        legend(("small", "draft taken"), ("large", "escalated")),
        behind(
            "Labelled drafts by confidence",
            ("confidence", "mean", "drafts", "right", "share", "95% interval"),
            [
                [
                    f"{b.low:g} – {b.high:g}",
                    f"{b.confidence:.3f}",
                    words.count(b.n),
                    words.count(b.right),
                    words.percent(b.share),
                    words.between(b.interval_low, b.interval_high),
                ]
                for b in data.bins
            ],
            identifier="calibration-table",
            summary="The numbers behind the curve",
        )
        if data.bins
        else None,
        behind(
            "Steps by confidence",
            ("confidence", "taken", "escalated"),
            [
                [f"{i / 20:.2f} – {(i + 1) / 20:.2f}", words.count(taken), words.count(escalated)]
                for i, (taken, escalated) in enumerate(data.histogram)
            ],
            identifier="confidence-table",
            summary="The numbers behind the bars",
        ),
    )


def _latency(report: Report) -> Markup:
    rows = report.latency
    if not any(row.p99 > 0 for row in rows):
        return section("latency", "How long calls take", "No latency is recorded in this journal.")
    return section(
        "latency",
        "How long calls take",
        "Median, 95th and 99th percentile of each call, and of whole steps with judging included (logarithmic axis).",
        plots.both(partial(plots.latency, rows), 480),
        behind(
            "Latency by tier",
            ("calls", "number", "p50", "p95", "p99"),
            [[r.who, words.count(r.n), words.seconds(r.p50), words.seconds(r.p95), words.seconds(r.p99)] for r in rows],
            identifier="latency-table",
        ),
    )


def _spending(report: Report) -> Markup:
    data, currency = report.spending, report.currency
    if not data.periods:
        return section("spending", "SideCall over time", f"No step has a time. {data.prices}")
    used = [part for part in plots.PARTS if any(getattr(p, part) > 0 for p in data.periods)]
    always = any(p.always_large is not None for p in data.periods)
    estimate = " (estimate)" if report.always_large.estimated else ""
    names = [
        (part, {"small": "small drafts", "large": "large answers", "shadow": "shadow calls"}.get(part, part))
        for part in used
    ]
    unknown = sum(p.unknown for p in data.periods)
    lead = f"What was paid per {words.width(data.width)} (UTC). {data.prices}"
    if unknown:
        lead += f" {words.plural(unknown, 'step')} without a known cost are missing in the bars."
    return section(
        "spending",
        "SideCall over time",
        lead,
        legend(
            *names,
            *([("always", f"always large{estimate}")] if always else []),
            ("quiet", "share of steps that escalated"),
        ),
        plots.both(partial(plots.spending, data, currency), 1000),
        behind(
            f"SideCall per {words.width(data.width)} in {currency}",
            ("from (UTC)", "steps", "escalated", *used, "always large"),
            [
                [
                    words.clock(p.start) if data.width >= 1 else p.start[:23].replace("T", " "),
                    words.count(p.steps),
                    words.count(p.escalated),
                    *(words.figure(getattr(p, part)) for part in used),
                    words.figure(p.always_large),
                ]
                for p in data.periods
            ],
            identifier="spending-table",
        ),
    )


def _footer(report: Report) -> Markup:
    totals = report.totals
    policies = ", ".join(f"{name} ({words.plural(n, 'step')})" for name, n in totals.policies.items())
    parts = [f"Policies in this journal: {policies}."]
    if report.policy is not None:
        policy = report.policy
        told = "without a threshold" if policy["threshold"] is None else f"threshold {policy['threshold']:.3f}"
        dated = f", {policy['kind']} {words.day(policy['date'])}" if policy["kind"] and policy["date"] else ""
        parts.append(f"Policy shown as {policy['name']}: {policy['version']}, {told}{dated}.")
    parts += report.notes
    parts.append(
        "Costs include rejected drafts and evidence. Unknown is never counted as 0. "
        f"Made {words.clock(report.made_at)} UTC by cascade-agent {report.version}; this file holds everything it "
        "shows and asks no server."
    )
    return el("footer", None, *(el("p", None, el("bdi", None, part)) for part in parts))
