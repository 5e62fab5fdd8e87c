"""Steps and labels out of journals, in the order of their lines: one line and a page of labels are in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import RecordError
from cascade_agent.journal.format import kind_of, lines, parse
from cascade_agent.journal.reader import expand, keep_on

if TYPE_CHECKING:
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
