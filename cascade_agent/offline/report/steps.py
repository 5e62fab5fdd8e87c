"""Steps shown in full: a table to sort and filter, each row with its drafts, findings, decision and final answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report.markup import Child, Markup, breakable, el

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.offline.report.data import Shown, Tried

_COLUMNS: Final = (
    ("step", "Step", "text"),
    ("when", "When (UTC)", "text"),
    ("outcome", "Outcome", "text"),
    ("reason", "Reason", "text"),
    ("confidence", "Confidence", "number"),
    ("cost", "Cost", "number"),
    ("latency", "Latency", "number"),
)
_OUTCOMES: Final = {
    "accepted": "small answered",
    "escalated": "large answered",
    "exhausted": "nobody could answer",
    "human_review": "a person answered",
    "interrupted": "waits for a person",
    "cancelled": "cancelled",
    "error": "failed",
}


def _columns(*, of_small: bool) -> list[tuple[str, str, str]]:
    words = {"Confidence": "Confidence in small"} if of_small else {}
    return [(key, words.get(name, name), kind) for key, name, kind in _COLUMNS]


def steps_section(  # noqa: PLR0913 - the parts of a section
    identifier: str, title: str, lead: str, steps: Sequence[Shown], currency: str, *, of_small: bool = False
) -> Markup:
    """Return a sortable table of steps; `of_small` shows the confidence in small's draft, not in the answer."""
    heading = el("h2", {"id": f"{identifier}-title"}, title)
    attributes = {"class": "card steps", "id": identifier, "aria-labelledby": f"{identifier}-title"}
    if not steps:
        return el("section", attributes, heading, el("p", "lead", "There is none in this journal."))
    search = {"type": "search", "data-filter": "text", "autocomplete": "off", "placeholder": "step, reason, text …"}
    outcomes = {"": "all"} | {name: _OUTCOMES.get(name, name) for name in sorted({step.outcome for step in steps})}
    options = (el("option", {"value": outcome}, words) for outcome, words in outcomes.items())
    tools = el(
        "div",
        "tools",
        el("label", None, "Search ", el("input", search)),
        el("label", None, "Outcome ", el("select", {"data-filter": "outcome"}, *options)),
        el("output", {"class": "shown", "aria-live": "polite"}, f"{len(steps)} of {len(steps)} steps"),
    )
    head = []
    for key, name, kind in _columns(of_small=of_small):
        head.append(el("th", {"scope": "col", "class": kind, "data-key": key}, el("button", {"type": "button"}, name)))
    bodies = [_body(f"{identifier}-{index}", step, currency, of_small=of_small) for index, step in enumerate(steps)]
    caption = el("caption", "hidden", f"{title}. Column heads are buttons that sort.")
    table = el("table", "steps-table", caption, el("thead", None, el("tr", None, *head)), *bodies)
    return el("section", attributes, heading, el("p", "lead", lead), tools, table)


def _body(identifier: str, step: Shown, currency: str, *, of_small: bool) -> Markup:
    first = step.attempts[0] if step.attempts else None
    drafted = first.confidence if first is not None and first.tier == "small" else None
    confidence = drafted if of_small else step.confidence
    opens = {"type": "button", "class": "open", "aria-expanded": "false", "aria-controls": identifier}
    arrow = el("span", {"class": "arrow", "aria-hidden": "true"}, "›")
    cells: list[tuple[Child, object]] = [
        (el("button", opens, arrow, el("bdi", None, step.step or "(no name)")), step.step),
        (fmt.clock(step.started_at), step.started_at),
        (_pill(step), step.outcome),
        (el("bdi", None, breakable(step.reason)), step.reason),
        (fmt.UNKNOWN if confidence is None else f"{confidence:.3f}", confidence),
        (fmt.money(step.cost, currency), step.cost),
        (fmt.seconds(step.latency), step.latency),
    ]
    row = []
    for (key, name, kind), (cell, value) in zip(_columns(of_small=of_small), cells, strict=True):
        sorts_by = "" if value is None else repr(value) if kind == "number" else str(value)
        row.append(el("td", {"class": f"{kind} c-{key}", "data-name": name, "data-value": sorts_by}, cell))
    detail = el("td", {"colspan": len(_COLUMNS)}, _detail(step, currency))
    return el(
        "tbody",
        {"data-outcome": step.outcome, "data-id": step.id},
        el("tr", "row", *row),
        el("tr", {"class": "detail", "id": identifier}, detail),
    )


def _pill(step: Shown) -> Markup:
    kind = step.outcome if step.outcome in _OUTCOMES else "other"
    doubt = ", with a doubt" if step.degraded else ""
    return el("span", f"pill pill-{kind}", _OUTCOMES.get(step.outcome, step.outcome) + doubt)


def _detail(step: Shown, currency: str) -> Markup:
    facts = [
        ("step id", step.id),
        ("thread", step.thread),
        ("at", fmt.clock(step.started_at) if step.started_at else ""),
        ("kind", step.kind),
        ("policy", step.policy),
    ]
    blocks: list[Child] = [
        el("p", "ids", *(el("span", None, f"{name} ", el("code", None, value)) for name, value in facts if value))
    ]
    blocks += [_attempt(index, tried, currency) for index, tried in enumerate(step.attempts)]
    moves = [
        el("li", None, el("b", None, action), f" {reason}", el("span", "muted", f" {detail}") if detail else None)
        for action, reason, detail in step.decisions
    ]
    if moves:
        blocks.append(el("div", "block", el("h3", None, "Decision"), el("ol", "moves", *moves)))
    final = step.attempts[step.final] if step.final is not None and step.final < len(step.attempts) else None
    if final is None:
        blocks.append(el("p", "final", "No answer was returned."))
    else:
        blocks.append(el("div", "block final", el("h3", None, f"Final answer, from {final.tier}"), _answer(final)))
    return el("div", "story", *blocks)


def _attempt(index: int, tried: Tried, currency: str) -> Markup:
    which = "First answer" if index == 0 else f"Answer {index + 1}"
    tokens = (tried.input_tokens, tried.output_tokens)
    parts = [
        tried.model,
        tried.outcome,
        "" if tried.confidence is None else f"confidence {tried.confidence:.3f}",
        fmt.money(tried.cost, currency),
        fmt.seconds(tried.latency),
        "" if tokens == (None, None) else f"{fmt.count(tokens[0])} → {fmt.count(tokens[1])} tokens",
    ]
    return el(
        "div",
        f"block from-{'small' if tried.tier == 'small' else 'large'}",
        el("h3", None, f"{which}: ", el("bdi", None, tried.tier)),
        el("p", "small", *(el("span", "bit", el("bdi", None, part)) for part in parts if part)),
        _answer(tried),
        el("p", "error", tried.error) if tried.error else None,
        _verdicts(tried) if tried.verdicts else el("p", "small", "No validator said anything."),
    )


def _answer(tried: Tried) -> Markup:
    if not tried.answer:
        return el("p", "small", "no answer in the record")
    return el("pre", None, tried.answer)


def _verdicts(tried: Tried) -> Markup:
    items = []
    for validator, outcome, code, score, path, reason in tried.verdicts:
        parts: tuple[Child, ...] = (
            el("span", f"verdict verdict-{outcome}", outcome if score is None else f"{outcome} {score:.2f}"),
            " ",
            el("b", None, el("bdi", None, validator)),
            " ",
            el("code", None, code) if code else None,
            el("span", "muted", " at ", el("code", None, path)) if path else None,
            el("span", "muted", f" {reason}") if reason else None,
        )
        items.append(el("li", None, *parts))
    return el("ul", "verdicts", *items)
