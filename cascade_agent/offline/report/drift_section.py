"""Drift as the report shows it: alarms, what to do about them, and the state of each monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report.markup import Child, Markup, behind, el, section

if TYPE_CHECKING:
    from cascade_agent.offline.drift import Alarm, DriftReport, Fact, Monitor

_ALARMS = 20
_FACTS = 12


def drift_section(report: DriftReport) -> Markup:
    """Return the section of what the monitors found in the same journal."""
    lead = (
        f"{fmt.plural(len(report.monitors), 'monitor')} watched {fmt.plural(report.steps, 'step')} and "
        f"{fmt.plural(report.labels, 'label')}. The chance that any of them alarms without a change is set to "
        f"{fmt.percent(report.false_alarms, 0)} within {report.horizon:,} steps."
    )
    count, alarms = sum(monitor.count for monitor in report.monitors), reversed(report.alarms[-_ALARMS:])
    words = fmt.plural(count, "alarm") if count else "no alarm"
    caption = "Monitors as they stand at the end of the journal"
    head = ("monitor", "step", "value", "alarms at", "seen", "alarms")
    rows = [_cells(monitor) for monitor in report.monitors]
    return section(
        "drift",
        "Did anything change?",
        lead,
        el("p", "state", el("span", "pill pill-error" if count else "pill", words)),
        el("ul", "alarms", *map(_alarm, alarms)) if report.alarms else None,
        el("ul", "facts drift-facts", *map(_fact, report.facts[-_FACTS:])) if report.facts else None,
        behind(
            caption,
            head,
            rows,
            identifier="drift-table",
            summary="All monitors",
        ),
        el("p", "small", " ".join(f"{note.rstrip('.')}." for note in report.notes)) if report.notes else None,
    )


def _alarm(alarm: Alarm) -> Markup:
    change = "" if alarm.before is None or alarm.after is None else f" ({alarm.before:.3g} → {alarm.after:.3g})"
    return el(
        "li",
        "block from-alarm",
        el("h3", None, el("bdi", None, f"{alarm.monitor}{change}")),
        el("p", None, el("bdi", None, alarm.what)),
        el("p", "small", f"{fmt.clock(alarm.at)}, step {alarm.index:,}. To do: ", el("bdi", None, alarm.advice)),
    )


def _fact(fact: Fact) -> Markup:
    what = fact.what.replace("_", " ")
    return el("li", None, el("bdi", None, f"{fact.step}: {what} {fact.before} → {fact.after}, {fmt.clock(fact.at)}"))


def _cells(monitor: Monitor) -> list[Child]:
    limit = "below 0" if monitor.method == "saving" else _number(monitor.limit)
    return [
        el("bdi", {"title": monitor.note or None}, monitor.name),
        el("bdi", "word", monitor.step or "all"),
        _number(monitor.value),
        limit,
        fmt.count(monitor.n),
        fmt.count(monitor.count),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else fmt.figure(value)
