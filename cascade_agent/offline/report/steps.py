"""Steps shown in full: a table to sort and filter, each row with its drafts, findings, decision and final answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cascade_agent.journal.format import answer_text
from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report.markup import Child, Markup, breakable, el, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.core.records import Attempt, StepTrace

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


def steps_section(
    identifier: str, title: str, lead: str, steps: Sequence[StepTrace], currency: str, *, of_small: bool = False
) -> Markup:
    """Return a sortable table of steps; `of_small` shows the confidence in small's draft, not in the answer."""
    if not steps:
        return section(identifier, title, "There is none in this journal.", kind="card steps")
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
    return section(identifier, title, lead, tools, table, kind="card steps")


def _body(identifier: str, step: StepTrace, currency: str, *, of_small: bool) -> Markup:
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


def _pill(step: StepTrace) -> Markup:
    kind = step.outcome if step.outcome in _OUTCOMES else "other"
    doubt = ", with a doubt" if step.degraded else ""
    return el("span", f"pill pill-{kind}", _OUTCOMES.get(step.outcome, step.outcome) + doubt)


def _detail(step: StepTrace, currency: str) -> Markup:
    facts = [
        ("step id", step.id),
        ("thread", step.thread_id),
        ("at", fmt.clock(step.started_at) if step.started_at else ""),
        ("kind", step.kind),
        ("policy", step.policy),
    ]
    blocks: list[Child] = [
        el("p", "ids", *(el("span", None, f"{name} ", el("code", None, value)) for name, value in facts if value))
    ]
    blocks += [_attempt(index, attempt, currency) for index, attempt in enumerate(step.attempts)]
    moves = []
    for d in step.decisions:
        detail = el("span", "muted", f" {d.detail}") if d.detail else None
        moves.append(el("li", None, el("b", None, d.action), f" {d.reason}", detail))
    if moves:
        blocks.append(el("div", "block", el("h3", None, "Decision"), el("ol", "moves", *moves)))
    final = None if step.final is None else step.attempts[step.final]
    if final is None:
        blocks.append(el("p", "final", "No answer was returned."))
    else:
        blocks.append(el("div", "block final", el("h3", None, f"Final answer, from {final.tier}"), _answer(final)))
    return el("div", "story", *blocks)


def _attempt(index: int, attempt: Attempt, currency: str) -> Markup:
    which = "First answer" if index == 0 else f"Answer {index + 1}"
    usage = attempt.usage
    parts = [
        attempt.model,
        attempt.outcome,
        "" if attempt.confidence is None else f"confidence {attempt.confidence:.3f}",
        fmt.money(attempt.cost, currency),
        fmt.seconds(attempt.latency),
        "" if usage is None else f"{fmt.count(usage.input_tokens)} → {fmt.count(usage.output_tokens)} tokens",
    ]
    return el(
        "div",
        f"block from-{'small' if attempt.tier == 'small' else 'large'}",
        el("h3", None, f"{which}: ", el("bdi", None, attempt.tier)),
        el("p", "small", *(el("span", "bit", el("bdi", None, part)) for part in parts if part)),
        _answer(attempt),
        el("p", "error", attempt.error) if attempt.error else None,
        _verdicts(attempt) if attempt.verdicts else el("p", "small", "No validator said anything."),
    )


def _answer(attempt: Attempt) -> Markup:
    text = answer_text(attempt.answer)
    return el("pre", None, text) if text else el("p", "small", "no answer in the record")


def _verdicts(attempt: Attempt) -> Markup:
    items = []
    for v in attempt.verdicts:
        words = v.outcome if v.score is None else f"{v.outcome} {v.score:.2f}"
        parts: tuple[Child, ...] = (
            el("span", f"verdict verdict-{v.outcome}", words),
            " ",
            el("b", None, el("bdi", None, v.validator)),
            " ",
            el("code", None, v.code) if v.code else None,
            el("span", "muted", " at ", el("code", None, v.path)) if v.path else None,
            el("span", "muted", f" {v.reason}") if v.reason else None,
        )
        items.append(el("li", None, *parts))
    return el("ul", "verdicts", *items)
