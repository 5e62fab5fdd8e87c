"""`cascade-agent replay`: what other policies would have done with the steps of a journal, and at what cost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cascade_agent.cli import _app as ui
from cascade_agent.cli._app import Journals, JsonFlag, SkipBad, clear_errors
from cascade_agent.offline.calibration import load_policy
from cascade_agent.offline.evaluation import compare
from cascade_agent.offline.evaluation.estimates import less

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_agent.offline.evaluation import Comparison, Figure, Figures

_MOST: Final = 1000


@clear_errors()
def replay(
    journals: Journals,
    *,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            help="A policy file (`cascade-agent calibrate --out`); may be given again. Default: the default policy."
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Thresholds to try with each policy: FROM:TO:STEP, or a list such as 0.5,0.7,0.9."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="Further file of labels, besides those in the journals; may be given again."),
    ] = None,
    on_conflict: Annotated[
        str, typer.Option(help="Labels that contradict each other: `precedence` of sources, or `exclude` the step.")
    ] = "precedence",
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap over episodes; 0: no intervals.")] = 300,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what other policies would have done with recorded steps, and at what cost. No model is asked.

    Beside each policy stand always-small, always-large, an oracle and what was recorded. What the journal cannot say is
    an interval; where shadow calls were drawn with a logged probability, an estimate (~).
    """
    if on_conflict not in ("precedence", "exclude"):
        ui.fail(f"--on-conflict is {on_conflict!r}; expected precedence or exclude")
    with ui.reading_progress():
        policies = {str(file): load_policy(file) for file in policy or ()}
        found = compare(
            journals,
            policies if len(policies) > 1 else next(iter(policies.values()), None),
            grid=_thresholds(grid),
            labels=labels or [],
            on_conflict="exclude" if on_conflict == "exclude" else "precedence",
            on_error="skip" if skip_bad else "strict",
            resamples=resamples,
        )
    if as_json:
        ui.print_json(found.to_json())
    else:
        _show(found)


def _thresholds(text: str | None) -> list[float]:
    """The thresholds of `--grid`; in decimals, so that 0.5:0.95:0.05 is what it says."""
    if text is None:
        return []
    try:
        found = _range(*map(Decimal, text.split(":"))) if ":" in text else list(map(Decimal, text.split(",")))
    except (ArithmeticError, TypeError, ValueError):
        found = []
    thresholds = [float(threshold) for threshold in found]
    if not thresholds or not all(0.0 <= threshold <= 1.0 for threshold in thresholds):
        ui.fail(f"--grid is {text!r}; expected FROM:TO:STEP such as 0.5:0.95:0.05, or a list, all in [0, 1]")
    return thresholds


def _range(first: Decimal, last: Decimal, step: Decimal) -> list[Decimal]:
    return [first + step * i for i in range(min(_MOST, int((last - first) / step)) + 1)] if step > 0 else []


def saving_line(saving: Figure) -> str:
    """Return what the cascade saved as a sentence."""
    found = compared(saving)
    if found is None:
        return "What the cascade saved is unknown: nothing says what the large model would have cost."
    chance = "" if saving.interval is None else f"; with chance counted, {less(*saving.interval)}"
    return f"As recorded, the cascade cost {found}{chance}."


def compared(saving: Figure) -> str | None:
    """Return a cost as people say it, such as `20.0% less than always-large`; None where it is unknown."""
    known = saving.low is not None and saving.low == saving.high
    low, high = (saving.low, saving.high) if known or saving.estimate is None else saving.estimate
    if low is None and high is None:
        return None
    about = "" if known or saving.estimate is None else ", estimated from shadow calls"
    return f"{less(low, high)} than always-large{about}"


_HEAD: Final = ("success", "loss", "saving", "of oracle", "cost per success", "p50", "p95", "escalated")


def _show(found: Comparison) -> None:
    episodes = f"{found.episodes} episodes" if found.episodes_exact else f"about {found.episodes} episodes"
    sources = ", ".join(f"{n} {source}" for source, n in found.labels.items()) or "none"
    ui.say(saving_line(found.baselines[0].all.saving))
    ui.say(f"{found.steps} steps of {episodes}; labels: {sources}; nothing known of {found.unseen}")
    rows = [[row.title, *_cells(row.all)] for row in (*found.baselines, *found.policies)]
    ui.print_table("", ("policy", *_HEAD), rows)
    (row, *others) = found.policies
    for title, parts in (("step", row.by_step), ("kind", row.by_kind)):
        if len(parts) > 1:
            rows = [[f"{name} ({figures.steps})", *_cells(figures)] for name, figures in parts.items()]
            ui.print_table(f"{row.title}, by {title}", (title, *_HEAD), rows)
    notes = [
        "success, loss (against always large), escalated: shares of steps; saving: of the cost of always large",
        "a .. b: what it may be, as far as the journal says; ~: estimated from the probabilities of shadow calls",
        "(a, b): 95 % bootstrap interval over episodes",
    ]
    notes += [f"{found.unfinished} unfinished steps are in no figure"] * bool(found.unfinished)
    notes += [f"{found.conflicts} steps have labels that contradict each other"] * bool(found.conflicts)
    notes += [f"labels of {found.orphans} steps that are not here"] * bool(found.orphans)
    notes += [f"left out as a copy: {name}" for name in found.copies]
    notes += ["by step and kind for the other policies: --json"] * bool(others)
    for note in (*notes, *found.notes):
        ui.say(f"- {note}")


def _cells(figures: Figures) -> list[str]:
    return [
        percent(figures.success),
        percent(figures.loss, interval=True),
        percent(figures.saving, interval=True),
        percent(figures.oracle_share),
        _text(figures.cost_per_success, lambda value: f"{value:.3g}"),
        _text(figures.p50, lambda value: f"{value:.2f}"),
        _text(figures.p95, lambda value: f"{value:.2f}"),
        percent(figures.escalation),
    ]


def percent(figure: Figure, *, interval: bool = False) -> str:
    """Return a figure in percent: `?` unknown, `~` estimated, `a .. b` between, its interval in brackets."""
    text = _text(figure, lambda value: f"{100 * value:.1f}")
    if interval and figure.interval is not None:
        text += f" ({100 * figure.interval[0]:.1f}, {100 * figure.interval[1]:.1f})"
    return text if text == "?" else f"{text} %"


def _text(figure: Figure, form: Callable[[float], str]) -> str:
    if figure.estimate is not None and (figure.low is None or figure.low != figure.high):
        low, high = map(form, figure.estimate)
        if (figure.low, figure.high) != figure.estimate:
            return f"~{low}" if low == high else f"~{low} .. {high}"
    if figure.low is None and figure.high is None:
        return "?"
    low = "?" if figure.low is None else form(figure.low)
    high = "?" if figure.high is None else form(figure.high)
    return low if low == high else f"{low} .. {high}"
