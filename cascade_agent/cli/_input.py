"""Steps and labels out of journals, in the order of their lines, and the lines of a file that grows."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import RecordError
from cascade_agent.journal.format import MAX_LINE, kind_of, parse
from cascade_agent.journal.reader import lines, named, records_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from cascade_agent.core.clean_json import JsonMapping

_NO_LINES: Final = (b"\x1f\x8b", b"PAR1")
"""First bytes of gzip and Parquet files."""
_PIECE: Final = 2**20


@dataclass(frozen=True, slots=True)
class Step:
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


def entry(data: JsonMapping, at: str = "", *, check: bool) -> Step | Label:
    """Return the record of a line; `check` refuses a step that cannot be one at once."""
    if kind_of(data) == "label":
        return Label.from_json(data)
    if check:
        StepTrace.from_json(data)
    return Step(data, at)


def entries(files: Sequence[Path], *, skip_bad: bool) -> Iterator[Step | Label]:
    """Yield steps and labels, one in memory at a time."""
    seen, build = 0, partial(entry, check=skip_bad)
    for file in files:
        found: Generator[Step | Label, None, int] = records_of(file, build, "skip" if skip_bad else "raise")
        seen += yield from found
    if not seen:
        msg = f"{', '.join(map(str, files))}: no record yet; is CASCADE_JOURNAL set where the steps run?"
        raise RecordError(msg)


def labels_of(files: Sequence[Path]) -> Iterator[Label]:
    """Yield the labels alone, without reading the steps; a file that cannot be read twice has none.

    Faults are left to `entries`.
    """
    for file in files:
        for _, line in lines(file, lenient=True) if file.is_file() else ():
            with suppress(RecordError):
                if b'"step_id"' in line and isinstance(found := entry(parse(line), check=False), Label):
                    yield found


def grows(file: Path) -> bool:
    """Return whether a file is one of lines, which may get more of them; one that is not there yet may become so."""
    if not file.is_file():
        return not file.is_dir()
    with file.open("rb") as stream:
        return not stream.read(4).startswith(_NO_LINES)


def tail(path: Path) -> Iterator[bytes | None]:
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
