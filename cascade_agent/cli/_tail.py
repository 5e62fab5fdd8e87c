"""The lines of a file that grows, as `tail -F` gives them: over rotation, truncation and before the file is there."""

from __future__ import annotations

import contextlib
import os
from typing import IO, TYPE_CHECKING, Literal

from cascade_agent.journal.format import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 2**20


class Tail:
    """Reads what is appended to a file from its beginning on, and goes on in the file that takes its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        """Lines that were left unfinished in a file that was put away, or are longer than a record may be."""
        self._file: IO[bytes] | None = None
        self._part = b""
        self._too_long = False

    def new(self) -> Iterator[bytes]:
        """Yield the whole lines that came since the last call, and those of a file that took the name since."""
        while (file := self._file or self._open()) is not None:
            yield from self._lines(file)
            match self._state(file):
                case "same":
                    return
                case "emptied":
                    self._forget()
                    file.seek(0)
                case "replaced":
                    yield from self._lines(file)  # what was written between the last look and the rotation
                    self._close()

    def _open(self) -> IO[bytes] | None:
        with contextlib.suppress(FileNotFoundError):
            self._file = self.path.open("rb")
        return self._file

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        while piece := file.read(_PIECE):
            *whole, rest = piece.split(b"\n")
            for line in whole:
                if not self._too_long:
                    yield self._part + line + b"\n"
                self._part, self._too_long = b"", False
            if len(self._part) + len(rest) > MAX_LINE:
                self.dropped += not self._too_long
                self._too_long = True
            self._part = b"" if self._too_long else self._part + rest

    def _state(self, file: IO[bytes]) -> Literal["same", "emptied", "replaced"]:
        """Return whether the name belongs to another file now, or the file was emptied."""
        own = os.fstat(file.fileno())
        try:
            named = self.path.stat()
        except FileNotFoundError:  # put away, and the next one is not there yet: this one may still be written to
            return "same"
        if (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino):
            return "replaced"
        return "emptied" if named.st_size < file.tell() else "same"

    def _forget(self) -> None:
        self.dropped += bool(self._part)
        self._part, self._too_long = b"", False

    def _close(self) -> None:
        self._forget()
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._close()
