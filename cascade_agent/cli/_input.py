"""Steps and labels out of files that a journal or OpenTelemetry wrote, told apart line by line.

Law: one line, a bounded number of spans and a page of labels are in memory, however large the files are.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cascade_agent.cli._span_files import Steps, format_of, spans_of
from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import RecordError
from cascade_agent.journal.format import NotJsonError, kind_of, lines, parse
from cascade_agent.journal.reader import expand

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_LOG = logging.getLogger("cascade_agent")
_NO_LINES: Final = (b"\x1f\x8b", b"PAR1")
"""How files of gzip and Parquet begin."""
_CANCELED: Final = b"\x18\n"
_EXPECTED: Final = (
    "expected a journal's lines, or spans: OTLP as JSON with a request per line, or the SDK's JSON per line"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A step that was read, and made a record only when it is looked at: that takes ten times as long as reading."""

    data: Mapping[str, Any] | StepTrace
    at: str = ""
    """File and line."""

    def is_of(self, thread: str | None, *, escalated: bool) -> bool:
        """Whether its thread's id starts so, and whether it reached the large model where that is asked."""
        step = self.data
        if isinstance(step, StepTrace):
            name, large = step.thread_id, step.escalated
        else:
            name = step.get("thread_id")
            large = escalated and self.record().escalated
        return (thread is None or str(name or "").startswith(thread)) and (large or not escalated)

    def record(self) -> StepTrace:
        """The step.

        Raises:
            RecordError: it makes no record.
        """
        if isinstance(self.data, StepTrace):
            return self.data
        try:
            return StepTrace.from_json(self.data)
        except RecordError as error:
            raise RecordError(f"{self.at}: {error}" if self.at else str(error)) from error


class Reader:
    """Turns lines into steps and labels, whoever wrote them."""

    def __init__(self) -> None:
        self.skipped = 0
        """Lines of a file of spans that are none, as a process that was killed leaves them."""
        self._steps = Steps()
        self._spans = False

    def line(self, line: bytes, *, now: float = 0.0, at: str = "") -> Iterator[Found | Label]:
        """The records that a line completes.

        Raises:
            RecordError: it is no record.
        """
        try:
            data = parse(line)
        except NotJsonError:
            if not (self._spans and line.endswith(b"\n")):
                raise
            self.skipped += 1
            return
        if format_of(data) != "other":
            self._spans = True
            for span in spans_of(data):
                yield from map(Found, self._steps.feed(span, now=now))
            return
        try:
            kind = kind_of(data)
        except RecordError as error:
            msg = f"{error}; {_EXPECTED}"
            raise RecordError(msg) from error
        yield Found(data, at) if kind == "step" else Label.from_json(data)

    def tolerant(self, line: bytes, *, now: float) -> Iterator[Found | Label]:
        """As `line`, of a file that others write while it is read: what is no record is said once and left out."""
        if not line.strip() or line.endswith(_CANCELED):
            return
        try:
            for found in self.line(line, now=now):
                yield Found(found.record()) if isinstance(found, Found) else found
        except RecordError as error:
            if not self.skipped:
                _LOG.warning("a line is left out: %s", error)
            self.skipped += 1

    def ready(self, *, before: float) -> Iterator[Found]:
        """The steps whose spans came before a time and that wait for nothing any more."""
        return map(Found, self._steps.ready(before=before))

    def rest(self) -> Iterator[Found]:
        """The steps that still wait for spans, as they are."""
        return map(Found, self._steps.rest())

    def complaints(self) -> Iterator[str]:
        """What could not be shown."""
        if self.skipped:
            yield f"{self.skipped} lines are no JSON and were left out"
        if self._steps.alone:
            yield f"{self._steps.alone} attempts belong to steps whose span is not in the file; they are not shown"
        if self._steps.unread:
            yield f"{self._steps.unread} spans are named as ours and make no record; they are not shown"


def grows(file: Path) -> bool:
    """Whether a file is one of lines, which may get more of them; one that is not there yet may become so."""
    if not file.is_file():
        return not file.is_dir()
    with file.open("rb") as stream:
        return not stream.read(4).startswith(_NO_LINES)


class Files:
    """The records of files, in the order of their lines.

    Raises:
        RecordError: no such file.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.files = expand(paths)
        self._reader = Reader()

    def records(self) -> Iterator[Found | Label]:
        """Steps and labels.

        Raises:
            RecordError: a line that is no record; an unfinished last line is left out with a warning.
        """
        for file in self.files:
            for number, line in lines(file):
                try:
                    yield from self._reader.line(line, at=f"{file}:{number}")
                except RecordError as error:
                    if isinstance(error, NotJsonError) and not line.endswith(b"\n"):
                        _LOG.warning("%s:%d: the last line is unfinished; it was left out", file, number)
                        break
                    hint = f"; {_EXPECTED}" if isinstance(error, NotJsonError) else ""
                    msg = f"{file}:{number}: {error}{hint}"
                    raise RecordError(msg) from error
        yield from self._reader.rest()

    def labels(self) -> Iterator[Label]:
        """The labels alone, without reading the steps; a file that cannot be read twice has none.

        Raises:
            RecordError: a label that cannot be read.
        """
        for file in self.files:
            for number, line in lines(file) if file.is_file() else ():
                if number == 1 and b'"resourceSpans"' in line:
                    break
                if b'"step_id"' not in line:
                    continue
                try:
                    data = parse(line)
                    if format_of(data) == "other" and kind_of(data) == "label":
                        yield Label.from_json(data)
                except NotJsonError:  # told where the steps are read
                    continue

    def complaints(self) -> Iterator[str]:
        """What could not be shown."""
        return self._reader.complaints()


class Labels:
    """Labels by their step, on disk as soon as they are many."""

    def __init__(self) -> None:
        self._store: sqlite3.Connection | None = None

    def add(self, label: Label) -> None:
        """Keep one."""
        if self._store is None:
            import sqlite3

            self._store = sqlite3.connect("")  # a file of its own without a name, written when its cache is full
            self._store.execute("CREATE TABLE label (step TEXT, line TEXT)")
            self._store.execute("CREATE INDEX by_step ON label (step)")
        self._store.execute("INSERT INTO label VALUES (?, ?)", (label.step_id, json.dumps(label.to_json())))

    def of(self, step_id: str) -> list[Label]:
        """Those of a step, oldest first."""
        if self._store is None:
            return []
        found = self._store.execute("SELECT line FROM label WHERE step = ? ORDER BY rowid", (step_id,))
        return [Label.from_json(json.loads(line)) for (line,) in found]
