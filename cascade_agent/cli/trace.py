"""`cascade-agent trace`: the steps of a journal as a tree; a large file in bounded memory."""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.text import Text
from rich.tree import Tree

from cascade_agent.cli import _app as ui
from cascade_agent.cli._app import SkipBad, clear_errors
from cascade_agent.cli._tree import label_line, plain, step_line, step_tree, thread_name
from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import RecordError
from cascade_agent.journal.format import MAX_LINE, kind_of, parse
from cascade_agent.journal.labels import LabelStore
from cascade_agent.journal.reader import expand, lines, named, records_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from cascade_agent.core.clean_json import JsonMapping

    Wanted = Callable[["_Step"], bool]

_GROUPED = 1000
"""Steps that wait to be printed under the heading of their thread."""
_FIRST = 10
"""Steps that `--follow` begins with, as `tail` does."""
_KNOWN = 10_000
"""Steps whose names are kept for the labels that come later."""
_LOOK = 0.2
_PIPE = 10_000
"""Width of a pipe: a step stays on its line there."""
_NO_LINES = (b"\x1f\x8b", b"PAR1")
"""First bytes of gzip and Parquet files."""
_PIECE = 2**20


@clear_errors()
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

    def wanted(step: _Step) -> bool:
        name = str(step.data.get("thread_id") or "")
        return name.startswith(thread or "") and (not escalated or step.record().escalated)

    if follow:
        if len(files) > 1:
            ui.fail(f"--follow takes one file, not {len(files)}")
        with suppress(KeyboardInterrupt):
            _follow(files[0], wanted, last or _FIRST, quiet=quiet, as_json=as_json)
        return
    show = _print_json if as_json else _print_lines if quiet else _print_threads
    paths = expand(files)
    found = _entries(paths, skip_bad=skip_bad)
    if last is None:  # printed while it is read: labels stand behind their steps, so they are looked for first
        with ui.reading_progress(wanted=not sys.stdout.isatty()):
            labels = LabelStore(_labels_of(paths), texts=True)
            show((one.record() for one in found if isinstance(one, _Step) and wanted(one)), labels)
    else:
        labels = LabelStore(texts=True)
        with ui.reading_progress():
            steps = _last(found, wanted, labels, last)
        show((step.record() for step in steps), labels)


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that was read, and is made a record only when it is looked at, which takes thrice as long."""

    data: JsonMapping
    at: str
    """File and line."""

    def record(self) -> StepTrace:
        """Return the step."""
        try:
            return StepTrace.from_json(self.data)
        except RecordError as error:
            raise named(error, self.at) from error


def _entry(data: JsonMapping, at: str = "", *, check: bool) -> _Step | Label:
    """Return the record of a line; `check` refuses a step that cannot be one at once."""
    if kind_of(data) == "label":
        return Label.from_json(data)
    if check:
        StepTrace.from_json(data)
    return _Step(data, at)


def _entries(files: Sequence[Path], *, skip_bad: bool) -> Iterator[_Step | Label]:
    """Yield steps and labels, one in memory at a time."""
    seen, build = 0, partial(_entry, check=skip_bad)
    for file in files:
        found: Generator[_Step | Label, None, int] = records_of(file, build, "skip" if skip_bad else "raise")
        seen += yield from found
    if not seen:
        msg = f"{', '.join(map(str, files))}: no record yet; is CASCADE_JOURNAL set where the steps run?"
        raise RecordError(msg)


def _labels_of(files: Sequence[Path]) -> Iterator[Label]:
    """Yield the labels alone, without reading the steps; a file that cannot be read twice has none.

    Faults are left to `_entries`.
    """
    for file in files:
        for _, line in lines(file, lenient=True) if file.is_file() else ():
            with suppress(RecordError):
                if b'"step_id"' in line and isinstance(found := _entry(parse(line), check=False), Label):
                    yield found


def _last(found: Iterable[_Step | Label], wanted: Wanted, labels: LabelStore, count: int) -> Iterable[_Step]:
    """Return the last steps, and keep the labels of all."""
    steps: deque[_Step] = deque(maxlen=count)
    for one in found:
        if isinstance(one, Label):
            labels.add(one)
        elif wanted(one):
            steps.append(one)
    return steps


# ---- printing --------------------------------------------------------------------------------------------------------


def _print_json(steps: Iterable[StepTrace], labels: LabelStore) -> None:
    """Print an array, one record a line; it is closed too where a later line cannot be read."""
    before = "[\n"
    try:
        for step in steps:
            sys.stdout.write(before + _json(step, labels))
            before = ",\n"
    finally:
        with suppress(BrokenPipeError):
            sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
            sys.stdout.flush()


def _json(step: StepTrace, labels: LabelStore) -> str:
    known = [label.to_json() for label in labels.of_step(step.id, once=False)]
    return ui.safe_json({**step.to_json(), "labels": known} if known else step.to_json())


def _print_lines(steps: Iterable[StepTrace], labels: LabelStore) -> None:
    show = _printer(labels, quiet=True)
    for step in steps:
        show(step)


def _print_threads(steps: Iterable[StepTrace], labels: LabelStore) -> None:
    """Print steps under their threads, those first that began first.

    At most `_GROUPED` steps wait, so a thread that goes on much later gets a second heading.
    """
    console, count = ui.make_console(piped=_PIPE), 0
    threads, printed = OrderedDict[str, dict[str, tuple[StepTrace, Tree]]](), OrderedDict[str, None]()

    def print_first() -> int:
        name, thread = threads.popitem(last=False)
        heading = _heading(f"{name} (continued)" if name in printed else name, [step for step, _ in thread.values()])
        tree = Tree(Text(heading, "bold"), guide_style="dim")
        tree.children.extend(tree for _, tree in thread.values())
        console.print(tree)
        printed[name] = None
        if len(printed) > _KNOWN:
            printed.popitem(last=False)
        return len(thread)

    for step in steps:
        thread = threads.setdefault(thread_name(step), {})
        count += step.id not in thread
        if step.id not in thread or thread[step.id][0].final is None:  # LangGraph ran it again after no answer
            thread[step.id] = step, step_tree(step, labels.of_step(step.id, once=False))
        if count > _GROUPED:
            count -= print_first()
    while threads:
        print_first()
    if not printed:
        ui.say("No steps.")


def _heading(name: str, steps: Sequence[StepTrace]) -> str:
    facts = [name]
    if len(steps) > 1:
        escalated, currencies = sum(step.escalated for step in steps), {step.currency for step in steps}
        amounts = [step.cost for step in steps if step.cost is not None]
        facts.append(f"{len(steps)} steps")
        if escalated:
            facts.append(f"{escalated} escalated")
        if len(currencies) == 1 and len(amounts) == len(steps):
            facts.append(f"{sum(amounts):.6f} {plain(currencies.pop(), 8)}")
    return ", ".join(facts)


# ---- a file that grows -----------------------------------------------------------------------------------------------


def _follow(file: Path, wanted: Wanted, count: int, *, quiet: bool, as_json: bool) -> None:
    """Print the last steps, each step that comes, and what is known later about one that was printed."""
    if not _grows(file):
        ui.fail(f"{file} does not grow line by line; --follow takes one file of lines")
    if not file.exists():
        ui.complain(f"waiting for {file}")
    labels, found = LabelStore(texts=True), _grown(file)
    show = _printer(labels, quiet=quiet, as_json=as_json)
    for one in chain(_last(iter(partial(next, found), None), wanted, labels, count), found):
        if one is None:
            time.sleep(_LOOK)
        elif isinstance(one, Label):
            show(one)
        elif wanted(one):
            show(one.record())


def _printer(labels: LabelStore, *, quiet: bool, as_json: bool = False) -> Callable[[StepTrace | Label], None]:
    """Return what prints a step as it comes, and a label of one that was printed."""
    console, heading, names = ui.make_console(piped=_PIPE), "", OrderedDict[str, str]()

    def show(one: StepTrace | Label) -> None:
        nonlocal heading
        if as_json:
            text = ui.safe_json({"type": "label", **one.to_json()}) if isinstance(one, Label) else _json(one, labels)
            typer.echo(text)
            return
        if isinstance(one, Label):
            if one.step_id in names:
                console.print(label_line(one).append(f"  for {ui.safe_text(names[one.step_id])}", "dim"))
                heading = ""
            return
        name = thread_name(one)
        if quiet:
            thread = Text(f"{plain(one.thread_id or '-', 40)} ", "dim")
            console.print(thread, step_line(one), sep="", soft_wrap=True)
        else:
            if name != heading:
                console.print(Text(name, "bold"))
                heading = name
            console.print(Padding(step_tree(one, labels.of_step(one.id, once=False)), (0, 0, 0, 2)))
        names[one.id] = f"{name}, {plain(one.step)}"
        if len(names) > _KNOWN:
            names.popitem(last=False)

    return show


def _grown(file: Path) -> Iterator[_Step | Label | None]:
    """Yield the records of a file that others write; the first line that is none is complained of and all left out."""
    complained = False
    for line in _tail(file):
        if line is None:
            yield None
        elif line.strip():
            try:
                yield _entry(parse(line), check=True)
            except RecordError as error:
                if not complained:
                    ui.complain(f"a line is left out: {error}")
                complained = True


def _grows(file: Path) -> bool:
    """Return whether a file is one of lines, which may get more of them; one that is not there yet may become so."""
    if not file.is_file():
        return not file.is_dir()
    with file.open("rb") as stream:
        return not stream.read(4).startswith(_NO_LINES)


def _tail(path: Path) -> Iterator[bytes | None]:
    """Yield the whole lines of a file as they come, from its beginning; None where there is none for now.

    As `tail -F` does it goes on in the file that takes the name, in one that was emptied, and before it is there.
    """
    while True:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            yield None
            continue
        with file:
            own, part, current = os.fstat(file.fileno()), b"", True
            while current:
                with suppress(FileNotFoundError):  # put away, and the next one is not there: this may still grow
                    state = path.stat()
                    current = os.path.samestat(state, own)
                    if current and state.st_size < file.tell():
                        file.seek(0)
                        part = b""
                while piece := file.readline(_PIECE):  # of a file that was put away what came since the last look
                    part += piece if len(part) <= MAX_LINE else b""
                    if piece.endswith(b"\n"):
                        if len(part) <= MAX_LINE:
                            yield part
                        part = b""
                if current:
                    yield None
