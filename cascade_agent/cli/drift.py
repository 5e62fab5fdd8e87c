"""`cascade-agent drift`: what changed in a journal, and what to do about it."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade_agent.cli import _app as ui
from cascade_agent.cli._app import Journals, JsonFlag, SkipBad, clear_errors
from cascade_agent.cli.replay import compared
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.models.pricing import Price, price_of
from cascade_agent.offline.calibration import load_policy
from cascade_agent.offline.drift import watch
from cascade_agent.offline.evaluation.estimates import Figure, less

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascade_agent.journal.format import OnError
    from cascade_agent.offline.drift import DriftReport, Monitor, Saving

ALARM = 3
"""Exit code when a monitor raised an alarm."""

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@clear_errors()
def drift(
    journals: Journals,
    *,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only alarms from then on: an ISO date or time (UTC without a zone), or how long ago (90m, 12h, 7d, "
            "2w). What lies before is still learned from.",
            metavar="WHEN",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The calibrated policy in use: harm is held against its certificate.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="The greatest harm per step, where no policy was calibrated.", metavar="SHARE")
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="Price all tokens anew by the current price table: the host of the models (openai), or of one "
            "(gpt-4o=azure). The journal does not name hosts, and without one no price is known. Repeatable.",
            metavar="[MODEL=]HOST",
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help='Price tokens anew by a file: {"model": {"input": 2.5, "output": 10.0}}, per million tokens.'
        ),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Chance that any monitor alarms falsely within 10,000 steps.", metavar="CHANCE")
    ] = 0.05,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Watch a journal for drift: escalations, confidence, findings, harm, models, prices.

    Exit code 0: no alarm. 3: alarms. 2: input that cannot be used. 1: a run that failed.
    """
    if max_loss is not None and not 0.0 < max_loss < 1.0:
        ui.fail(f"--max-loss is {max_loss}; expected a share between 0 and 1, such as 0.02")
    mode: OnError = "skip" if skip_bad else "raise"
    with ui.reading_progress():
        report = watch(
            read(*journals, on_error=mode),
            read_labels(*journals, on_error=mode),
            policy=None if policy is None else load_policy(policy),
            since=None if since is None else parse_since(since, now=dt.datetime.now(dt.UTC)),
            prices=_prices(provider or [], prices),
            max_loss=max_loss,
            false_alarms=false_alarms,
        )
    if not report.steps:
        left = f" ({report.unfinished} unfinished ones)" if report.unfinished else ""
        ui.fail(f"{', '.join(journals)}: no finished step to watch{left}; is CASCADE_JOURNAL set where the agent runs?")
    if as_json:
        ui.print_json({**report.to_json(), "alarmed": report.alarmed})
    else:
        _show(report)
    if report.alarmed:
        raise typer.Exit(ALARM)


def parse_since(text: str, *, now: dt.datetime) -> dt.datetime:
    """Return the time of an ISO date or time (UTC where it has no zone), or of a duration before `now`."""
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        if found is not None:
            return now - dt.timedelta(**{_UNITS[found[2]]: int(found[1])})
        time = dt.datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError) as error:
        msg = f"--since is {text!r}; expected an ISO date or time (2026-03-02) or a duration (90m, 12h, 7d, 2w)"
        raise ConfigurationError(msg) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)


def _prices(providers: list[str], file: Path | None) -> Callable[[str], Price | None] | None:
    """Return prices by the name of a model: from the file, else from the table; None where nothing was asked for."""
    if not providers and file is None:
        return None
    given = {} if file is None else _read_prices(file)
    hosts = {model: host for model, _, host in (text.rpartition("=") for text in providers)}
    if "" in hosts.values():
        ui.fail("--provider is empty; expected a host such as openai, or MODEL=HOST")

    def price(model: str) -> Price | None:
        return given.get(model) or price_of(model, hosts.get(model) or hosts.get(""))

    return price


def _read_prices(file: Path) -> Mapping[str, Price]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{file}: cannot be read as prices ({error}); expected a JSON object of models"
        raise RecordError(msg) from error
    if not isinstance(data, dict):
        msg = f"{file}: expected a JSON object of models, found {type(data).__name__}"
        raise RecordError(msg)
    found = {}
    for model, entry in data.items():
        try:
            found[model] = Price.from_json(entry)
        except RecordError as error:
            msg = f"{file}: {model}: {error}"
            raise RecordError(msg) from error
    return found


def _show(report: DriftReport) -> None:
    span = f", {report.first} to {report.last}" if report.first else ""
    ui.say(f"{report.steps} steps, {report.labels} labels{span}")
    for alarm in report.alarms:
        ui.say(f"ALARM {alarm.monitor} at step {alarm.index}{f' ({alarm.at})' if alarm.at else ''}", style="bold red")
        ui.say(f"  {alarm.what}")
        ui.say(f"  do: {alarm.advice}")
    if not report.alarmed:
        ui.say("No alarm.")
    for fact in report.facts:
        ui.say(f"fact: {fact.what} of {fact.step!r}: {fact.before} -> {fact.after} at step {fact.index} ({fact.at})")
    ui.print_table(
        f"monitors (together at most {report.false_alarms:g} false alarms in {report.horizon:,} steps)",
        ("monitor", "step", "n", "value", "alarm at", "alarms"),
        [(m.name, m.step or "all", str(m.n), _number(m.value), _limit(m), str(m.count)) for m in report.monitors],
        left=2,
    )
    for saving in report.savings:
        ui.say(_saving(saving))
    for note in report.notes:
        ui.say(f"note: {note}")


def _saving(saving: Saving) -> str:
    head = f"at {saving.basis} prices"
    if saving.low is None or saving.high is None:
        return f"{head}: saving unknown ({saving.unknown} steps without a known cost, or nothing to compare with)"
    point = None if saving.saving is None else (saving.saving, saving.saving)
    found = compared(Figure(low=saving.low, high=saving.high, estimate=point))
    text = f"{head}: cost {found} over {saving.known} steps"
    if saving.recent is not None:
        text += f", {less(saving.recent, saving.recent)} over the last {saving.recent_steps}"
    text += f"; {saving.unknown} steps with unknown costs"
    if saving.saving is None:
        text += "; no shadow call says what large would have cost where small answered"
    return text + (f"; {saving.source}" if saving.source else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _limit(monitor: Monitor) -> str:
    if monitor.method == "saving":
        return "<= 0"
    return "-" if monitor.limit is None else f">= {monitor.limit:.3g}"
