"""`cascade-agent trace`: the steps of a journal as a tree; a large file in bounded memory."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade_agent.cli import _app as ui
from cascade_agent.cli._app import SkipBad, app
from cascade_agent.core.records import Label
from cascade_agent.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console
    from rich.tree import Tree

    from cascade_agent.cli._input import Found
    from cascade_agent.cli._tail import Tail
    from cascade_agent.core.records import StepTrace
    from cascade_agent.journal.labels import LabelStore

    Wanted = Callable[[Found], bool]

_GROUPED = 1000
"""Steps that wait to be printed under the heading of their thread."""
_FIRST = 10
"""Steps that `--follow` begins with, as `tail` does."""
_KNOWN = 10_000
"""Steps whose names are kept for the labels that come later."""
_LOOK = 0.2
_PIPE = 10_000
"""Width of a pipe: a step stays on its line there."""


@app.command()
def trace(
    files: Annotated[
        list[Path],
        typer.Argument(help="Journals: files or quoted patterns, plain, gzip or Parquet.", metavar="FILE..."),
    ],
    *,
    thread: Annotated[str | None, typer.Option(help="Only threads whose id starts with this.")] = None,
    escalated: Annotated[bool, typer.Option("--escalated", help="Only steps that reached the large model.")] = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last N steps.")] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            "-f",
            help="Begin with the last 10 steps (or --last N), then print each new one as it comes, until Ctrl-C. The "
            "file may come later, and be rotated.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="One line a step.")] = False,
    skip_bad: SkipBad = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print an array of records, one per line, and nothing else; with --follow the lines alone."
        ),
    ] = False,
) -> None:
    """Print the steps of a journal as a tree: thread, step, attempts, verdicts, labels."""

    def wanted(found: Found) -> bool:
        return found.is_of(thread, escalated=escalated)

    show = _json_lines if as_json else _quiet_lines if quiet else _print_threads
    with ui.clear_errors():
        if not follow:
            _show(files, wanted, last, show, skip_bad=skip_bad)
        elif len(files) > 1:
            ui.fail(f"--follow takes one file, not {len(files)}", code=2)
        else:
            with suppress(KeyboardInterrupt):
                _follow(files[0], wanted, last or _FIRST, quiet=quiet, as_json=as_json)


def _show(
    files: list[Path],
    wanted: Wanted,
    last: int | None,
    show: Callable[[Iterable[StepTrace], LabelStore], None],
    *,
    skip_bad: bool,
) -> None:
    from cascade_agent.cli._input import Source
    from cascade_agent.journal.labels import LabelStore

    source, labels = Source(files, skip_bad=skip_bad), LabelStore(texts=True)
    with ui.reading_progress(wanted=last is not None or not sys.stdout.isatty()):
        if last is None:  # printed while it is read: labels stand behind their steps, so they are looked for first
            for label in source.labels():
                labels.add(label)
            show(
                (found.record() for found in source.records() if not isinstance(found, Label) and wanted(found)), labels
            )
            found = None
        else:
            found = _last(source.records(), wanted, labels, last)
    if found is not None:
        show((step.record() for step in found), labels)
    if source.skipped:
        ui.complain(f"{source.skipped} lines are no records and were left out")


def _last(
    records: Iterable[Found | Label], wanted: Callable[[Found], bool], labels: LabelStore, count: int
) -> deque[Found]:
    steps: deque[Found] = deque(maxlen=count)
    for found in records:
        if isinstance(found, Label):
            labels.add(found)
        elif wanted(found):
            steps.append(found)
    return steps


def _json_lines(steps: Iterable[StepTrace], labels: LabelStore) -> None:
    """Print an array, one record a line; it is closed too where a later line cannot be read."""
    before = "[\n"
    try:
        for step in steps:
            sys.stdout.write(before + ui.safe_json(_record(step, labels)))
            before = ",\n"
    finally:
        with suppress(BrokenPipeError):
            sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
            sys.stdout.flush()


def _record(step: StepTrace, labels: LabelStore) -> dict[str, Any]:
    known = [label.to_json() for label in labels.of_step(step.id, once=False)]
    return {**step.to_json(), "labels": known} if known else step.to_json()


def _quiet_lines(steps: Iterable[StepTrace], labels: LabelStore) -> None:  # noqa: ARG001 - a line has no room for labels
    console = ui.make_console(piped=_PIPE)
    for step in steps:
        _quiet_line(console, step)


def _quiet_line(console: Console, step: StepTrace) -> None:
    from rich.text import Text

    from cascade_agent.cli._tree import plain, step_line

    console.print(Text(f"{plain(step.thread_id or '-', 40)} ", "dim"), step_line(step), sep="", soft_wrap=True)


@dataclass(slots=True)
class _Thread:
    """The steps of a thread that wait to be printed."""

    steps: dict[str, tuple[StepTrace, Tree]] = field(default_factory=dict)
    again: bool = False

    def add(self, step: StepTrace, tree: Tree) -> None:
        """Take a step; of one that LangGraph ran again the first that has an answer."""
        known = self.steps.get(step.id)
        if known is None or known[0].final is None:
            self.steps[step.id] = step, tree

    def heading(self, name: str) -> str:
        from cascade_agent.cli._tree import plain

        steps = [step for step, _ in self.steps.values()]
        escalated = sum(step.escalated for step in steps)
        facts = [f"{len(steps)} steps"] if len(steps) > 1 else []
        if facts and escalated:
            facts.append(f"{escalated} escalated")
        currencies = {step.currency for step in steps}
        amounts = [step.cost for step in steps if step.cost is not None]
        if facts and len(currencies) == 1 and len(amounts) == len(steps):
            facts.append(f"{sum(amounts):.6f} {plain(currencies.pop(), 8)}")
        return ", ".join([f"{name} (continued)" if self.again else name, *facts])


def _print_threads(steps: Iterable[StepTrace], labels: LabelStore) -> None:
    """Print steps under their threads, those first that began first.

    At most `_GROUPED` steps wait, so a thread that goes on much later gets a second heading.
    """
    from cascade_agent.cli._tree import step_tree, thread_name

    console, threads = ui.make_console(piped=_PIPE), OrderedDict[str, _Thread]()
    printed = OrderedDict[str, None]()
    waiting = 0
    for step in steps:
        name = thread_name(step)
        thread = threads.setdefault(name, _Thread(again=name in printed))
        waiting -= len(thread.steps)
        thread.add(step, step_tree(step, labels.of_step(step.id, once=False)))
        waiting += len(thread.steps)
        if waiting > _GROUPED:
            first, thread = threads.popitem(last=False)
            waiting -= len(thread.steps)
            printed[first] = None
            if len(printed) > _KNOWN:
                printed.popitem(last=False)
            _print_thread(console, first, thread)
    if not threads and not printed:
        ui.say("No steps.")
    for name, thread in threads.items():
        _print_thread(console, name, thread)


def _print_thread(console: Console, name: str, thread: _Thread) -> None:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(thread.heading(name), "bold"), guide_style="dim")
    tree.children.extend(tree for _, tree in thread.steps.values())
    console.print(tree)


def _follow(file: Path, wanted: Wanted, count: int, *, quiet: bool, as_json: bool) -> None:
    from cascade_agent.cli._input import grows
    from cascade_agent.cli._tail import Tail
    from cascade_agent.journal.labels import LabelStore

    if not grows(file):
        ui.fail(f"{file} does not grow line by line; --follow takes one file of lines", code=2)
    if not file.exists():
        ui.complain(f"waiting for {file}")
    tail, labels = Tail(file), LabelStore(texts=True)
    show = _Follower(labels, quiet=quiet, as_json=as_json)
    records = _Tolerant(tail)
    try:
        for found in _last(records.new(), wanted, labels, count):
            show.step(found.record())
        while True:
            time.sleep(_LOOK)
            for new in records.new():
                if isinstance(new, Label):
                    show.label(new)
                elif wanted(new):
                    show.step(new.record())
    finally:
        tail.close()


class _Tolerant:
    """The records of a file that others write while it is read; what is none is named once and left out."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._skipped = 0

    def new(self) -> Iterator[Found | Label]:
        """Yield the records of the lines that came since the last look."""
        from cascade_agent.cli._input import Found, record_of

        for line in self._tail.new():
            if not line.strip():
                continue
            try:
                found = record_of(line)
                found = Found(found.record()) if isinstance(found, Found) else found
            except RecordError as error:
                if not self._skipped:
                    ui.complain(f"a line is left out: {error}")
                self._skipped += 1
            else:
                yield found


class _Follower:
    """Prints a step, and what is known about one later, as they come."""

    def __init__(self, labels: LabelStore, *, quiet: bool, as_json: bool) -> None:
        self._labels = labels
        self._quiet = quiet
        self._as_json = as_json
        self._console = ui.make_console(piped=_PIPE)
        self._thread: str | None = None
        self._names = OrderedDict[str, str]()

    def step(self, step: StepTrace) -> None:
        """Print one, below the heading of its thread where that is another one than before."""
        from rich.padding import Padding
        from rich.text import Text

        from cascade_agent.cli._tree import plain, step_tree, thread_name

        if self._as_json:
            typer.echo(ui.safe_json(_record(step, self._labels)))
            return
        name = thread_name(step)
        if self._quiet:
            _quiet_line(self._console, step)
        else:
            if name != self._thread:
                self._console.print(Text(name, "bold"))
                self._thread = name
            self._console.print(Padding(step_tree(step, self._labels.of_step(step.id, once=False)), (0, 0, 0, 2)))
        self._names[step.id] = f"{name}, {plain(step.step)}"
        if len(self._names) > _KNOWN:
            self._names.popitem(last=False)

    def label(self, label: Label) -> None:
        """Print what is known now about a step that was printed; labels of others are left out."""
        from cascade_agent.cli._tree import label_line

        if self._as_json:
            typer.echo(ui.safe_json({"type": "label", **label.to_json()}))
        elif label.step_id in self._names:
            line = label_line(label)
            line.append(f"  for {ui.safe_text(self._names[label.step_id])}", "dim")
            self._console.print(line)
            self._thread = None
