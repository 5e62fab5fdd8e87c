"""`cascade-agent trace`: the steps of a journal, or of spans in a file, as a tree; a large file in bounded memory."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade_agent.cli._app import app, clear_errors, fail, make_console
from cascade_agent.core.records import Label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console
    from rich.tree import Tree

    from cascade_agent.cli._input import Found, Labels, Reader
    from cascade_agent.core.records import StepTrace

_GROUPED = 1000
"""Steps that wait to be printed under the heading of their thread."""
_FIRST = 10
"""Steps that `--follow` begins with, as `tail` does."""
_KNOWN = 10_000
"""Steps whose names are kept for the labels that come later."""
_LOOK = 0.2
_SETTLE = 1.0
"""Seconds that a step read from spans waits for late ones, when a file is followed."""


@app.command()
def trace(  # noqa: PLR0913 - the options of the command
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Journals, or spans as JSON lines (OTLP, or the SDK's own): files or patterns, plain or gzip.",
            metavar="FILE...",
        ),
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
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print an array of records, one per line, and nothing else; with --follow the lines alone."
        ),
    ] = False,
) -> None:
    """Print the steps of a journal, or of spans in a file, as a tree: thread, step, attempts, findings, labels."""
    with suppress(AttributeError, ValueError):  # what the output's encoding lacks is escaped, not an error
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    def wanted(found: Found) -> bool:
        return found.is_of(thread, escalated=escalated)

    with clear_errors():
        if not follow:
            _show(files, wanted, last, as_json=as_json)
        elif len(files) > 1:
            fail(f"--follow takes one file, not {len(files)}", code=2)
        else:
            with suppress(KeyboardInterrupt):
                _follow(files[0], wanted, last or _FIRST, as_json=as_json)


# ---- what is in the files -------------------------------------------------------------------------------------------


def _show(files: list[Path], wanted: Callable[[Found], bool], last: int | None, *, as_json: bool) -> None:
    from cascade_agent.cli._input import Files, Labels

    source, labels = Files(files), Labels()
    if last is None:  # printed while it is read: labels stand behind their steps, so they are looked for first
        for label in source.labels():
            labels.add(label)
        steps = (found.record() for found in source.records() if not isinstance(found, Label) and wanted(found))
    else:
        steps = (found.record() for found in _last(source.records(), wanted, labels, last))
    if as_json:
        _print_array(steps, labels)
    else:
        _print_threads(steps, labels)
    for complaint in source.complaints():
        typer.echo(f"cascade-agent: {complaint}", err=True)


def _last(
    records: Iterable[Found | Label], wanted: Callable[[Found], bool], labels: Labels, count: int
) -> deque[Found]:
    steps: deque[Found] = deque(maxlen=count)
    for found in records:
        if isinstance(found, Label):
            labels.add(found)
        elif wanted(found):
            steps.append(found)
    return steps


def _print_array(steps: Iterable[StepTrace], labels: Labels) -> None:
    from cascade_agent.cli._tree import harmless_json

    before = "[\n"
    for step in steps:
        sys.stdout.write(before + harmless_json(_record(step, labels)))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
    sys.stdout.flush()


def _record(step: StepTrace, labels: Labels) -> dict[str, Any]:
    known = [label.to_json() for label in labels.of(step.id)]
    return {**step.to_json(), "labels": known} if known else step.to_json()


@dataclass(slots=True)
class _Thread:
    """The steps of a thread that wait to be printed."""

    trees: list[Tree] = field(default_factory=list)
    escalated: int = 0
    costs: list[tuple[float | None, str]] = field(default_factory=list)
    again: bool = False

    def heading(self, name: str) -> str:
        several = len(self.trees) > 1
        facts = [f"{len(self.trees)} steps"] if several else []
        if several and self.escalated:
            facts.append(f"{self.escalated} escalated")
        currencies = {currency for _, currency in self.costs}
        amounts = [cost for cost, _ in self.costs if cost is not None]
        if several and len(currencies) == 1 and len(amounts) == len(self.costs):
            facts.append(f"{sum(amounts):.6f} {currencies.pop()}")
        return ", ".join([f"{name} (continued)" if self.again else name, *facts])


def _print_threads(steps: Iterable[StepTrace], labels: Labels) -> None:
    """Steps under their threads, those first that began first.

    The steps wait in a room of fixed size, so a thread that goes on much later gets a second heading.
    """
    from cascade_agent.cli._tree import plain, step_tree, thread_name

    console, threads, printed = make_console(), OrderedDict[str, _Thread](), OrderedDict[str, None]()
    waiting = 0
    for step in steps:
        name = thread_name(step)
        thread = threads.setdefault(name, _Thread(again=name in printed))
        thread.trees.append(step_tree(step, labels.of(step.id)))
        thread.escalated += step.escalated
        thread.costs.append((step.cost, plain(step.currency, 8)))
        waiting += 1
        if waiting > _GROUPED:
            first, thread = threads.popitem(last=False)
            waiting -= len(thread.trees)
            printed[first] = None
            if len(printed) > _KNOWN:
                printed.popitem(last=False)
            _print_thread(console, first, thread)
    if not threads and not printed:
        console.print("No steps.")
    for name, thread in threads.items():
        _print_thread(console, name, thread)


def _print_thread(console: Console, name: str, thread: _Thread) -> None:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(thread.heading(name), "bold"), guide_style="dim")
    tree.children.extend(thread.trees)
    console.print(tree)


# ---- what comes -----------------------------------------------------------------------------------------------------


def _follow(file: Path, wanted: Callable[[Found], bool], count: int, *, as_json: bool) -> None:
    from cascade_agent.cli._input import Labels, Reader, grows
    from cascade_agent.cli._tail import Tail

    if not grows(file):
        fail(f"{file} does not grow line by line; --follow takes one file of lines", code=2)
    if not file.exists():
        typer.echo(f"cascade-agent: waiting for {file}", err=True)
    tail, reader, labels = Tail(file), Reader(), Labels()
    show = _Follower(labels, as_json=as_json)
    try:
        seen = _last(_new(tail, reader), wanted, labels, count)
        seen.extend(filter(wanted, reader.ready(before=time.monotonic())))
        for found in seen:
            show.step(found.record())
        while True:
            time.sleep(_LOOK)
            for new in _new(tail, reader):
                if isinstance(new, Label):
                    show.label(new)
                elif wanted(new):
                    show.step(new.record())
            for found in filter(wanted, reader.ready(before=time.monotonic() - _SETTLE)):
                show.step(found.record())
    finally:
        for found in filter(wanted, reader.rest()):
            show.step(found.record())
        tail.close()


def _new(tail: Any, reader: Reader) -> Iterator[Found | Label]:
    """The records of the lines that came since the last look. Whatever is none is told once and left out."""
    for line in tail.new():
        yield from reader.tolerant(line, now=time.monotonic())


class _Follower:
    """Prints a step, and what is known about one later, as they come."""

    def __init__(self, labels: Labels, *, as_json: bool) -> None:
        self._labels = labels
        self._as_json = as_json
        self._console = make_console()
        self._thread: str | None = None
        self._names = OrderedDict[str, str]()

    def step(self, step: StepTrace) -> None:
        """Print one, below the heading of its thread where that is another one than before."""
        from rich.padding import Padding
        from rich.text import Text

        from cascade_agent.cli._tree import harmless_json, plain, step_tree, thread_name

        if self._as_json:
            typer.echo(harmless_json(_record(step, self._labels)))
            return
        name = thread_name(step)
        if name != self._thread:
            self._console.print(Text(name, "bold"))
            self._thread = name
        self._console.print(Padding(step_tree(step, self._labels.of(step.id)), (0, 0, 0, 2)))
        self._names[step.id] = f"{name}, {plain(step.step)}"
        if len(self._names) > _KNOWN:
            self._names.popitem(last=False)

    def label(self, label: Label) -> None:
        """Print what is known now about a step that was printed; of others it is not said."""
        from cascade_agent.cli._tree import harmless_json, label_line

        if self._as_json:
            typer.echo(harmless_json({"type": "label", **label.to_json()}))
        elif label.step_id in self._names:
            line = label_line(label)
            line.append(f"  for {self._names[label.step_id]}", "dim")
            self._console.print(line)
            self._thread = None
