"""A `Report` as one HTML file: no request to anywhere, and every text that was read is escaped.

The page's policy (CSP) allows its own style and its own script by their hashes and nothing else, so that even a text
that escaped the escaping could not act. `page.html` is the page; here is what its sentences say.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from cascade_agent.journal.format import answer_text
from cascade_agent.offline.evaluation.estimates import less
from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report import plots
from cascade_agent.offline.report.markup import breakable, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from markupsafe import Markup

    from cascade_agent.core.records import Attempt, StepTrace
    from cascade_agent.offline.report import data

_ANSWERS: Final = {
    "small": "small answered",
    "large": "large answered",
    "nobody": "nobody could answer",
    "unfinished": "unfinished",
}
_FORMATS: Final = (
    "between", "clock", "count", "figure", "money", "percent", "plural", "probability", "seconds",
    "span", "width",
)  # fmt: skip
_FEW: Final = 3
_OWN: Final = ("page.css", "page.js")


def render(report: data.Report) -> str:
    """Return the page. The report's figures stand in it once more as JSON (`#report-data`)."""
    style, script = (base64.b64encode(hashlib.sha256(_file(name).encode()).digest()).decode() for name in _OWN)
    rules = (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return templates().get_template("page.html").render(report=report, rules=rules)


@cache
def templates() -> Environment:
    """Return the environment of the templates: what they print is escaped, and cleaned of what no page may hold."""
    env = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.filters |= {name: getattr(fmt, name) for name in _FORMATS} | {"breakable": breakable, "few": few}
    for function in (answer_text, answered, believed, facts, footer, frontier_lead, frontier_notes, frontier_plot, good,
                     headline, most, plots.bar, small_confidence, spending_lead, spending_legend, tiles):  # fmt: skip
        env.globals[function.__name__] = function
    env.globals["words"] = _ANSWERS
    env.globals["reliability_plot"] = lambda data: plots.both(partial(plots.reliability, data), 480)
    env.globals["latency_plot"] = lambda rows: plots.both(partial(plots.latency, rows), 480)
    env.globals["spending_plot"] = lambda data, currency: plots.both(partial(plots.spending, data, currency), 1000)
    return env


@cache
def _file(name: str) -> str:
    return files("cascade_agent.offline.report").joinpath(name).read_text("utf-8")


# ---- head and tiles -------------------------------------------------------------------------------------------------


def few(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def headline(report: data.Report) -> str:
    """Return what was saved, who answered and how good that was."""
    totals = report.totals
    share = fmt.percent(totals.by_answer.get("small", 0) / totals.steps, 0)
    answered = f"The small model answered {share} of {fmt.plural(totals.steps, 'step')}."
    quality = next((mark.quality for mark in report.frontier.marks), None)
    if quality is None or quality.value is None:
        right = "How good the answers were is unknown: no step that small answered has a label."
    else:
        labels = f" ({fmt.plural(quality.n, 'label')})" if quality.n else ""
        right = f"{fmt.percent(quality.value, 0)} of the answers were at least as good as the large model's{labels}."
    return f"{_saving(report)} {answered} {right}{_without_shadows(report.always_large)}"


def _saving(report: data.Report) -> str:
    """Return what was saved against asking large every time: an amount, a share, its interval."""
    compared = report.always_large
    if compared.share is None or compared.large is None:
        if compared.low is None or compared.high is None:
            return f"What was saved is unknown: {compared.why}."
        return f"The cascade cost {less(1 - compared.high, 1 - compared.low, 0)} than always-large: {compared.why}."
    saving, low_high = 1 - compared.share, ""
    if compared.estimated and compared.interval is not None:
        low, high = compared.interval
        low_high = f", {fmt.between(1 - high, 1 - low) if saving >= 0 else fmt.between(low - 1, high - 1)}"
    about = "an estimated " if compared.estimated else ""
    prices = " at made-up prices" if report.made_up_prices else ""
    amount = f"{about}{fmt.money(compared.large * abs(saving), report.currency)}{prices}"
    word = "Saved" if saving >= 0 else "Cost more than always-large by"
    return f"{word} {amount} ({fmt.percent(abs(saving), 0)}{low_high})."


def _without_shadows(compared: data.AlwaysLarge) -> str:
    if not compared.shadow or compared.cascade is None or not compared.large:
        return ""
    saving = 1 - compared.cascade / compared.large
    words = f"have saved {fmt.percent(saving, 0)}" if saving >= 0 else f"cost {fmt.percent(-saving, 0)} more"
    return f" Without shadow calls, which only measure, it would {words}."


def answered(totals: data.Totals) -> list[tuple[str, float]]:
    """Return who answered which share of the steps."""
    return [(who, totals.by_answer[who] / totals.steps) for who in _ANSWERS if totals.by_answer.get(who)]


def tiles(report: data.Report) -> tuple[tuple[str, str, str, str], ...]:
    """Return the figures at the head of the page: identifier, name, value, note."""
    totals, compared = report.totals, report.always_large
    nobody = totals.by_outcome.get("exhausted", 0) + totals.by_outcome.get("human_review", 0)
    latency = {row.who: row.p50 for row in report.latency}
    escalated = f"{fmt.seconds(latency['step, escalated'])} when" if "step, escalated" in latency else "none"
    sources = few([f"{who} ({fmt.count(n)})" for who, n in totals.labelled.items()])
    reached = f"{fmt.count(totals.escalated)} steps reached the large model"
    failed = "steps in which even the large draft failed" if nobody else "every step had an answer"
    doubt = "answers returned although a check objected" if totals.degraded else "no answer that a check objected to"
    labels = f"steps, by {sources}" if totals.labelled else "no step: quality is unknown"
    median = fmt.seconds(latency.get("step, small only"))
    return (
        ("steps", "Steps", fmt.count(totals.steps), fmt.plural(totals.threads, "thread")),
        ("escalated", "Escalated", fmt.percent(totals.escalated / totals.steps), reached),
        ("cost", "Cost", *_cost(report)),
        ("share", "Against always large", _share(compared), _compared(report)),
        ("exhausted", "Nobody could answer", fmt.count(nobody), failed),
        ("degraded", "Answered with a doubt", fmt.count(totals.degraded), doubt),
        ("latency", "Median step", median, f"small only; {escalated} escalated"),
        ("labelled", "Labelled", fmt.count(sum(totals.labelled.values())), labels),
    )


def _cost(report: data.Report) -> tuple[str, str]:
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


def _share(compared: data.AlwaysLarge) -> str:
    if compared.share is not None:
        return fmt.percent(compared.share)
    known = compared.low is not None and compared.high is not None
    return fmt.between(compared.low, compared.high) if known else fmt.UNKNOWN


def _compared(report: data.Report) -> str:
    compared, currency = report.always_large, report.currency
    if compared.share is None:
        return compared.why
    text = f"of {fmt.money(compared.large, currency)}"
    if not compared.estimated:
        return text + ", as measured: the large model was asked in every step"
    return f"{text}, estimated from {fmt.plural(compared.drawn, 'shadow call')}"


# ---- sections -------------------------------------------------------------------------------------------------------


def frontier_lead(report: data.Report) -> str:
    """Return what the plot of cost and quality shows, and what is missing in it."""
    frontier = report.frontier
    if len(frontier.curve) <= 1:
        confident = any(map(any, report.reliability.histogram))
        why = "no threshold tells the steps of this journal apart"
        return f"No threshold can be tried: {why if confident else 'no finished step has a draft with a confidence'}."
    lead = "Each dot is a threshold on the confidence, replayed over this journal"
    if frontier.known:
        return (
            f"{lead}: what it would have cost, and for how many steps the answer would have been at least as good as "
            "the large model's."
        )
    if any(point.quality.value is not None for point in frontier.curve):
        return f"{lead}. What it would have cost is unknown: no shadow call says what large costs where small answered."
    return f"{lead}. How good the answers would have been is unknown: {frontier.why}."


def frontier_plot(frontier: data.Frontier) -> Markup | None:
    """Return quality over cost, or what thresholds cost where no quality is known."""
    draw = partial(plots.frontier if frontier.known else plots.sweep, frontier)
    return plots.both(draw, 640) if len(frontier.curve) > 1 else None


def frontier_notes(report: data.Report) -> Iterator[str]:
    """Yield how the cost of always-large was found, and what stands behind the thresholds."""
    compared, frontier = report.always_large, report.frontier
    if compared.share is not None and compared.estimated:
        yield (
            f"Always large is an estimate. Its cost is known in {fmt.plural(compared.measured, 'step')}; for the other "
            f"{fmt.count(compared.estimated)} the shadow calls say what it would have been, each weighed by one over "
            "its probability."
        )
    text = f"Scorer: {frontier.scorer}"
    if not frontier.agrees:
        text += ", which is not the one this journal was written with: give its policy file for its own curve"
    text += f". {frontier.steps:,} steps swept"
    if frontier.unreplayable:
        text += f", up to {frontier.unreplayable:,} of them could not be decided anew from the record"
    if frontier.basis != "none":
        text += f". Labels: {frontier.why}. Steps of one thread count as dependent in the intervals"
    yield text + "."


def good(quality: data.Share) -> str:
    """Return how often a way to answer is as good as large."""
    if quality.value is None:
        return "quality unknown"
    interval = f" ({fmt.between(quality.low, quality.high)})" if quality.n and quality.low is not None else ""
    return f"{fmt.percent(quality.value)} as good as large{interval}"


def most(rows: Iterable[data.Escalations]) -> float:
    """Return the largest share of the steps of one name that escalated for one reason."""
    return max(max(row.reasons.values()) / row.steps for row in rows)


def believed(found: data.Reliability) -> str:
    """Return whether drafts of like confidence were right, as far as labels say."""
    without = f" {fmt.plural(found.unmeasured, 'draft')} without any" if found.unmeasured else ""
    if not any(map(any, found.histogram)):
        return f"No draft of this journal has a confidence.{without}{'.' if without else ''}"
    return _labelled(found) + (f"{without} confidence." if without else "")


def _labelled(found: data.Reliability) -> str:
    if not found.bins:
        return (
            "No draft is labelled, so whether confidences can be believed is unknown. Below: how often each confidence "
            "was given."
        )
    sources = ", ".join(f"{who} ({n:,})" for who, n in found.by_source.items())
    lead = (
        "Drafts of like confidence, and how many of them were right. On the line the confidence can be believed; "
        f"whiskers are exact 95% binomial intervals. {fmt.plural(found.n, 'label')}: {sources}."
    )
    if found.auroc is not None:
        lead += f" A right draft has more confidence than a wrong one in {fmt.percent(found.auroc)} of all pairs."
    if set(found.by_source) == {"escalation"}:
        lead += " Only escalated steps are labelled, by comparing both answers: accepted ones may look otherwise."
    return lead


def spending_lead(spending: data.Spending) -> str:
    """Return what the plot of spending shows, and what is missing in it."""
    if not spending.periods:
        return f"No step has a time. {spending.prices}"
    lead = f"What was paid per {fmt.width(spending.width)} (UTC). {spending.prices}"
    unknown = sum(p.unknown for p in spending.periods)
    more = f" {fmt.plural(unknown, 'step')} without a known cost are missing in the bars." if unknown else ""
    return lead + more


def spending_legend(report: data.Report) -> Iterator[tuple[str, str]]:
    """Yield the colours that the plot of spending uses, each with its name."""
    spending, words = report.spending, {"small": "small drafts", "large": "large answers", "shadow": "shadow calls"}
    yield from ((part, words.get(part, part)) for part in spending.used)
    if any(p.always_large is not None for p in spending.periods):
        yield "always", f"always large{' (estimate)' if report.always_large.estimated else ''}"
    if any(p.escalated for p in spending.periods):
        yield "quiet", "share of steps that escalated"


def small_confidence(step: StepTrace) -> float | None:
    """Return the confidence in the draft of small; None where it was not asked first."""
    first = step.attempts[0] if step.attempts else None
    return first.confidence if first is not None and first.tier == "small" else None


def facts(attempt: Attempt, currency: str) -> Iterator[str]:
    """Yield what is known of an attempt, as far as it is."""
    usage = attempt.usage
    yield from filter(None, (attempt.model, attempt.outcome))
    if attempt.confidence is not None:
        yield f"confidence {fmt.probability(attempt.confidence)}"
    yield fmt.money(attempt.cost, currency)
    yield fmt.seconds(attempt.latency)
    if usage is not None:
        yield f"{fmt.count(usage.input_tokens)} → {fmt.count(usage.output_tokens)} tokens"


def footer(report: data.Report) -> Iterator[str]:
    """Yield which policies were in force, the notes of the report, and where the page comes from."""
    policies = (f"{name} ({fmt.plural(n, 'step')})" for name, n in report.totals.policies.items())
    yield f"Policies in this journal: {', '.join(policies)}."
    if (policy := report.policy) is not None:
        amount = "without a threshold" if policy["threshold"] is None else f"threshold {policy['threshold']:.3f}"
        dated = f", {policy['kind']} {policy['date'][:10]}" if policy["kind"] and policy["date"] else ""
        yield f"Policy kept as {policy['name']}: {policy['version']}, {amount}{dated}."
    yield from report.notes
    yield (
        "Costs include rejected drafts and evidence. Unknown is never counted as 0. "
        f"Made {fmt.clock(report.made_at)} UTC by cascade-agent {report.version}; this file holds everything it "
        "shows and asks no server."
    )
