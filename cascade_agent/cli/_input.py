"""Steps and labels out of journals, in the order of their lines: one line and a page of labels are in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import RecordError
from cascade_agent.journal.format import kind_of, lines, parse
from cascade_agent.journal.reader import expand, keep_on

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

_NO_LINES: Final = (b"\x1f\x8b", b"PAR1")
"""First bytes of gzip and Parquet files."""


@dataclass(frozen=True, slots=True)
class Found:
    """A step that was read, and is made a record only when it is looked at: that takes ten times as long as reading."""

    data: Mapping[str, Any] | StepTrace
    at: str = ""
    """File and line."""

    def is_of(self, thread: str | None, *, escalated: bool) -> bool:
        """Return whether its thread's id starts so, and whether it reached the large model where that is asked."""
        name = self.data.thread_id if isinstance(self.data, StepTrace) else self.data.get("thread_id")
        return (thread is None or str(name or "").startswith(thread)) and not (
            escalated and not self.record().escalated
        )

    def record(self) -> StepTrace:
        """Return the step."""
        if isinstance(self.data, StepTrace):
            return self.data
        try:
            return StepTrace.from_json(self.data)
        except RecordError as error:
            msg = f"{self.at}: {error}; repair or delete the line, or read with on_error='skip'"
            raise RecordError(msg) from error


def record_of(line: bytes, at: str = "") -> Found | Label:
    """Return the record of a line, a step as it stands there."""
    data = parse(line)
    return Found(data, at) if kind_of(data) == "step" else Label.from_json(data)


class Source:
    """The records of files."""

    def __init__(self, paths: Iterable[Path], *, skip_bad: bool) -> None:
        self.files = expand(paths)
        self.skip_bad = skip_bad
        self.skipped = 0
        """Lines that are no records, or lie behind an unfinished one."""

    def records(self) -> Iterator[Found | Label]:
        """Yield steps and labels."""
        empty = True
        for file in self.files:
            for number, line in lines(file, lenient=self.skip_bad):
                empty = False
                try:
                    found = record_of(line, f"{file}:{number}")
                    if self.skip_bad and isinstance(found, Found):
                        found = Found(found.record())
                except RecordError as error:
                    if not keep_on(error, file, number, line, "skip" if self.skip_bad else "raise"):
                        break
                    self.skipped += 1
                else:
                    yield found
        if empty:
            msg = f"{', '.join(map(str, self.files))}: no record yet; is CASCADE_JOURNAL set where the steps run?"
            raise RecordError(msg)

    def labels(self) -> Iterator[Label]:
        """Yield the labels alone, without reading the steps; a file that cannot be read twice has none.

        Faults are left to `records`.
        """
        for file in self.files:
            for _, line in lines(file, lenient=True) if file.is_file() else ():
                if b'"step_id"' in line:
                    try:
                        found = record_of(line)
                    except RecordError:
                        continue
                    if isinstance(found, Label):
                        yield found


def grows(file: Path) -> bool:
    """Return whether a file is one of lines, which may get more of them; one that is not there yet may become so."""
    if not file.is_file():
        return not file.is_dir()
    with file.open("rb") as stream:
        return not stream.read(4).startswith(_NO_LINES)


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
        self._store.execute("INSERT INTO label VALUES (?, ?)", (_key(label.step_id), json.dumps(label.to_json())))

    def of(self, step_id: str) -> list[Label]:
        """Return those of a step, oldest first."""
        if self._store is None:
            return []
        found = self._store.execute("SELECT line FROM label WHERE step = ? ORDER BY rowid", (_key(step_id),))
        return [Label.from_json(json.loads(line)) for (line,) in found]


def _key(step_id: str) -> str:
    """Return an id that the database takes: it refuses halves of characters."""
    return step_id.encode("utf-8", "backslashreplace").decode()
