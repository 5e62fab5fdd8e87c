"""`cascade-agent report`: journals as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cascade_agent.cli import _app as ui
from cascade_agent.cli._app import Journals, JsonFlag, SkipBad, clear_errors
from cascade_agent.journal.format import whole_file
from cascade_agent.offline.calibration.policy_file import load_policy
from cascade_agent.offline.report import build_report, render


@clear_errors()
def report(
    journals: Journals,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file. Default: report.html.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file: its scorer and its place on the curve.", metavar="FILE")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Cascade report",
    no_content: Annotated[
        bool, typer.Option("--no-content", help="Leave out what people and models said (answers, errors, reasons).")
    ] = False,
    made_up_prices: Annotated[
        bool, typer.Option("--made-up-prices", help="Mark the page: the costs come from invented prices, as a demo's.")
    ] = False,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what a journal says in one HTML file that needs no network.

    With --json the same figures are printed as JSON; the page is then written only if --out is given.
    """
    target = out or (None if as_json else Path("report.html"))
    if target is not None:
        _refuse_to_destroy(target)
    with ui.reading_progress():
        found = build_report(
            journals,
            policy=None if policy is None else load_policy(policy),
            policy_name="this policy" if policy is None else policy.name,
            title=title,
            content=not no_content,
            made_up_prices=made_up_prices,
            on_error="skip" if skip_bad else "raise",
        )
        if target is not None:
            _write(target, render(found))
    if as_json:
        ui.print_json(found.to_json())
    else:
        ui.say(f"{target}: {found.totals.steps} steps, {found.totals.escalated} escalated")


def _refuse_to_destroy(target: Path) -> None:
    """Refuse to write over anything but a page: not a journal, not a policy."""
    if target.is_dir():
        ui.fail(f"{target}: is a directory; give a file in it, such as {target}/report.html")
    if target.is_file() and target.stat().st_size:
        with target.open("rb") as file:
            if not file.read(64).lstrip().lower().startswith(b"<!doctype html"):
                ui.fail(f"{target}: exists and is no HTML page; give another file, or remove it")


def _write(target: Path, page: str) -> None:
    """Write the page for its owner only, whole or not at all."""
    target = target.resolve()
    if target.exists() and not target.is_file():  # a pipe, a terminal
        target.write_text(page, encoding="utf-8")
        return
    try:
        with whole_file(target) as part:
            part.touch(mode=0o600)  # it holds answers
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        ui.fail(f"{target}: the report cannot be written ({error}); give a file in an existing, writable directory")
