"""`Journal`: an append-only file of step traces and labels, one JSON object per line, that never touches a step.

A record that cannot be written is counted and logged once. A line is written by one `write` under an advisory lock of
the file, so that threads and processes may share it; what a stopped writer left unfinished is cut off by the
next one, so that every line parses by itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import json
import os
import re
import shutil
import stat
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Self, TypeAlias

from cascade_agent._fork import after_fork
from cascade_agent._log import LOG
from cascade_agent.core.clean_json import JsonMapping, JsonObject, clean
from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal import background
from cascade_agent.journal.format import MAX_LINE, PathLike, whole_file
from cascade_agent.journal.reader import read, read_labels

if sys.platform != "win32":
    import fcntl

Redact: TypeAlias = Callable[[JsonObject], JsonMapping]
"""Takes the JSON of one record (with its `type`) and returns what may be written; may change it in place."""

_ENV = "CASCADE_JOURNAL"
_START = b'{"type":"'
"""The first bytes of every line of ours."""
_LOCK_WAIT = 1.0
_LOCK_PAUSE = 0.0005
_TRIES = 10_000
_BLOCK = 65_536
_STAMP = r"\.\d{8}T\d{6}\.\d{6}Z"
_REQUEST = ("content", "name", "tool_calls", "tool_call_id")
_lost: Counter[str] = Counter()
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Journal:
    """An append-only file of step traces and labels. Safe among threads and processes, and after a fork.

    Iterating over it gives its step traces, oldest first, rotated files included; `labels()` gives its labels. Where an
    event loop runs, records are written by a thread in the background, else in place.

    Args:
        path: the file. It and its directories are made at the first record, for the owner only.
        redact: takes the JSON of a record and returns what may be written. A record for which it fails is written
            without anything that people or models said.
        max_bytes: when the file has grown beyond this it is renamed to `name.<UTC time>.suffix` and a new one is made;
            None never rotates.
        compress: whether rotated files are compressed (`.gz`), in a thread of their own.
        keep: how many rotated files are kept; None keeps all.
        requests: whether the messages that a step was asked with are kept too (`request`), for people who label.

    Raises:
        ConfigurationError: `path` is a directory, or a limit is below 1.
    """

    _fd: int | None = None

    def __init__(
        self,
        path: PathLike,
        *,
        redact: Redact | None = None,
        max_bytes: int | None = None,
        compress: bool = False,
        keep: int | None = None,
        requests: bool = False,
    ) -> None:
        self.path = Path(path)
        self.redact = redact
        self.max_bytes = max_bytes
        self.compress = compress
        self.keep = keep
        self.requests = requests
        self.lost = 0
        """Records that could not be written since this object was made."""
        self.unredacted = 0
        """Records whose redaction failed, so that they were written without their content."""
        for name, limit in (("max_bytes", max_bytes), ("keep", keep)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                msg = f"Journal.{name} is {limit!r}; expected None or a number >= 1"
                raise ConfigurationError(msg)
        with contextlib.suppress(OSError):  # it cannot be looked at: the first record will say so
            if not background.in_event_loop() and self.path.is_dir():
                msg = f"Journal path {str(path)!r} is a directory; give a file in it, such as 'journal.jsonl'"
                raise ConfigurationError(msg)
        self._closed = False
        self._warned = False
        self._reset()
        _journals.add(self)

    def _reset(self) -> None:
        self._close_fd()
        self._lock = threading.Lock()
        self._inode: tuple[int, int] = (0, 0)
        self._regular = True
        self._torn = False
        self._sweeping = False
        self._stuck = False

    @classmethod
    def from_env(cls) -> Journal | None:
        """Return the journal that `CASCADE_JOURNAL` names; None when it is unset, empty or impossible.

        Cheap enough to call at every step: one object per value is kept for the life of the process.
        """
        path = os.environ.get(_ENV)
        return _journal_at(path) if path else None

    # ---- writing ----------------------------------------------------------------------------------------------------

    def append(self, trace: StepTrace, *, request: Sequence[object] | None = None) -> bool:
        """Write one step trace, and the messages of its request if `requests` is set. Never raises.

        False means that it was lost (see `lost` and the log).
        """
        return self._append("step", trace, request if self.requests else None)

    def append_label(self, label: Label) -> bool:
        """Write one label. Never raises; False means that it was lost (see `lost` and the log)."""
        return self._append("label", label)

    def label(
        self,
        step_id: str,
        *,
        source: str,
        right: bool | None = None,
        harm: bool | None = None,
        propensity: float | None = None,
        note: str = "",
    ) -> bool:
        """Write what is known now about a step, and from whom (see `Label`). Never raises."""
        at = dt.datetime.now(dt.UTC).isoformat()
        return self.append_label(
            Label(step_id=step_id, source=source, right=right, harm=harm, propensity=propensity, note=note, at=at)
        )

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what event loops appended is written; False when it took longer than `timeout` seconds."""
        return background.files.flush(timeout)

    def close(self) -> None:
        """Write what waits and close the file; what is appended later is lost and counted. Closing twice is fine."""
        self._closed = True
        if background.in_event_loop():
            with contextlib.suppress(Exception):  # too much waits: the descriptor goes with the object
                background.files.submit(self._close_now)
            return
        background.files.flush()
        self._close_now()

    def _close_now(self) -> None:
        with self._lock:
            self._close_fd()

    def _append(self, kind: str, record: StepTrace | Label, request: Sequence[object] | None = None) -> bool:
        if self._closed:
            return self._lose(ValueError("the journal is closed"))
        try:
            line = self._line(kind, record, request)
            if background.in_event_loop():
                background.files.submit(partial(self._write_now, line))
                return True
        except Exception as error:  # noqa: BLE001 - the journal never fails a step
            return self._lose(error)
        return self._write_now(line)

    def _write_now(self, line: bytes) -> bool:
        try:
            with self._lock:
                self._write(line)
                self._warned = False
        except Exception as error:  # noqa: BLE001 - the journal never fails a step
            return self._lose(error)
        return True

    def _lose(self, error: Exception) -> bool:
        self.lost += 1
        _lost["records"] += 1
        if not self._warned:
            self._warned = True
            msg = "journal %s: a record could not be written (%s: %s); counting losses until one can"
            LOG.warning(msg, self.path, type(error).__name__, error)
        return False

    def _line(self, kind: str, record: StepTrace | Label, request: Sequence[object] | None) -> bytes:
        given: JsonObject = {"type": kind, **record.to_json()}
        if request is not None:
            given["request"] = [_message_json(message) for message in request]
        data = given if self.redact is None else self._redacted(self.redact, given, record)
        try:
            line = _encode(data).encode() + b"\n"
        except (ValueError, TypeError, RecursionError):  # not plain JSON, which `clean` can mend
            line = _encode(clean(data)).encode() + b"\n"
        if len(line) >= MAX_LINE:
            msg = f"the record has {len(line)} bytes, readers take {MAX_LINE}"
            raise ValueError(msg)
        return line

    def _redacted(self, redact: Redact, data: JsonObject, record: StepTrace | Label) -> JsonMapping:
        kind = {"type": data["type"]}
        try:
            kept = redact(data)
            if isinstance(kept, Mapping):
                return {**kind, **kept}
            fault = f"returned {type(kept).__name__}, expected a dict"
        except Exception as error:  # noqa: BLE001 - a faulty redaction must not leak and must not fail a step
            fault = f"raised {type(error).__name__}"
        self.unredacted += 1
        if self.unredacted == 1:
            LOG.warning("journal %s: redact %s; such records are written without their content", self.path, fault)
        return {**kind, **without_content(record)}

    # ---- the file: all of this with the thread lock held ------------------------------------------------------------

    def _write(self, line: bytes) -> None:
        fd, size, locked = self._locked(len(line))
        try:
            line = self._line_end(fd, size, locked=locked) + line
            written = os.write(fd, line)
            if written != len(line):
                self._torn = not self._regular
                if locked and self._regular:  # nobody else can have written behind it
                    os.ftruncate(fd, size)
                msg = f"only {written} of {len(line)} bytes could be written"
                raise OSError(msg)
        finally:
            _unlock(fd)

    def _locked(self, more: int) -> tuple[int, int, bool]:
        """Return the descriptor of the file that has our name now, its size, and whether it could be locked."""
        until = time.monotonic() + (0.0 if self._warned else _LOCK_WAIT)  # after a loss nobody waits again
        may_rotate = self.max_bytes is not None
        for _ in range(_TRIES):
            fd = self._open() if self._fd is None else self._fd
            locked = _lock(fd)
            if locked is False:
                if time.monotonic() >= until:
                    break
                time.sleep(_LOCK_PAUSE)
                continue
            size = self._size()
            if size is None:  # moved or deleted since
                self._close_fd()
                continue
            if not (may_rotate and self.max_bytes and size > 0 and size + more > self.max_bytes):
                return fd, size, bool(locked)
            self._line_end(fd, size, locked=bool(locked))  # what a stopped writer left is not put away
            may_rotate = self._rotate()
        msg = "other writers hold it locked"
        raise TimeoutError(msg)

    def _size(self) -> int | None:
        """Return the size of the file that has our name now; None when it is not the one that we have open."""
        try:
            state = os.stat(self.path)  # noqa: PTH116 - on the path of every step
        except FileNotFoundError:
            return None
        if (state.st_dev, state.st_ino) != self._inode:
            return None
        return state.st_size if self._regular else 0

    def _line_end(self, fd: int, size: int, *, locked: bool) -> bytes:
        """Return what must stand before a record so that it begins a line; cut off what a stopped writer left."""
        torn, self._torn = self._torn, False
        if not size or _read_at(fd, size - 1, 1) == b"\n":
            return b"\n" * torn
        start, tail = _last_line(fd, size)
        if locked and _is_unfinished(tail):
            os.ftruncate(fd, start)
            LOG.warning(
                "journal %s: a writer was stopped in its last line; %d bytes were cut off", self.path, len(tail)
            )
            return b""
        return b"\n"

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody reads refuses instead of holding us up
        try:
            fd = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            for parent in (*reversed(self.path.parent.parents), self.path.parent):
                parent.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(self.path, flags, 0o600)
        self._fd = fd
        state = os.fstat(fd)
        self._inode, self._regular = (state.st_dev, state.st_ino), stat.S_ISREG(state.st_mode)
        return fd

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)  # gives the lock back

    # ---- rotation ---------------------------------------------------------------------------------------------------

    def _rotate(self) -> bool:
        """Put the full file away, which we hold locked. False where it cannot be: write on."""
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")  # two rotations take more than a microsecond
        try:
            self.path.rename(self.path.with_name(f"{self.path.stem}.{stamp}{self.path.suffix}"))
        except OSError as error:
            if not self._stuck:
                LOG.warning("journal %s cannot be rotated (%s) and grows on", self.path, error)
            self._stuck = True
            return False
        self._stuck = False
        self._close_fd()
        if (self.compress or self.keep is not None) and not self._sweeping:
            self._sweeping = True
            try:
                threading.Thread(target=self._tidy, name="cascade-agent-journal", daemon=True).start()
            except RuntimeError:  # the main thread has ended: the next rotation tidies up
                self._sweeping = False
        return True

    def files(self) -> list[Path]:
        """Return the rotated files, oldest first, and the current one; only those that exist."""
        background.files.flush()
        try:
            return [*self._rotated(), *([self.path] if self.path.exists() else [])]
        except OSError as error:
            msg = f"{str(self.path)!r} cannot be looked at ({error.strerror or error}); give a file that you may read"
            raise RecordError(msg) from error

    def _rotated(self) -> list[Path]:
        name = re.compile(re.escape(self.path.stem) + _STAMP + re.escape(self.path.suffix) + r"(\.gz)?")
        try:
            found = sorted((file for file in self.path.parent.iterdir() if name.fullmatch(file.name)), reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # while one is compressed both are there, and the plain one, which is the last here, is whole
        return sorted({file.name.removesuffix(".gz"): file for file in found}.values())

    def _tidy(self) -> None:
        """Delete rotated files beyond `keep` and compress the rest."""
        try:
            rotated = self._rotated()
            old = len(rotated) - self.keep if self.keep is not None else 0
            for index, file in enumerate(rotated):
                with contextlib.suppress(FileNotFoundError):  # another process tidied it
                    if index < old:
                        file.unlink()
                    elif self.compress and file.suffix != ".gz":
                        _compress(file)
        except OSError as error:
            LOG.warning("journal %s: rotated files could not be tidied (%s)", self.path, error)
        finally:
            self._sweeping = False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[StepTrace]:
        """Yield its step traces, oldest first. A journal that nothing was written to yet is empty."""
        return read(*self.files())

    def labels(self) -> Iterator[Label]:
        """Yield its labels, oldest first."""
        return read_labels(*self.files())

    # ---- an object that may be copied, pickled, left open -----------------------------------------------------------

    def __enter__(self) -> Self:
        """Nothing is opened before the first record."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def __del__(self) -> None:
        """Give the descriptor back."""
        self._close_fd()

    def __repr__(self) -> str:
        """The path and what was lost."""
        return f"Journal({str(self.path)!r}, lost={self.lost})"

    def __reduce__(self) -> tuple[object, ...]:
        """A copy is another writer of the same file."""
        names = ("redact", "max_bytes", "compress", "keep", "requests")
        return (partial(Journal, **{name: getattr(self, name) for name in names}), (os.fspath(self.path),))


def lost_records() -> int:
    """Return how many records the journals of this process could not write, those of journals long gone too."""
    return _lost["records"]


_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork() -> None:
    """Give a child its own locks and its own open file; its copy of the parent's descriptor is closed."""
    for journal in _journals:
        journal._reset()  # noqa: SLF001 - same module


after_fork(_after_fork)


@lru_cache(maxsize=64)
def _journal_at(path: str) -> Journal | None:
    try:
        return Journal(path)
    except ConfigurationError as error:
        LOG.warning("%s: %s; no journal is kept", _ENV, error)
        return None


def _message_json(message: object) -> JsonObject:
    """Return a message of a request as it is kept: its role, content, tool calls and their ids."""
    if isinstance(message, Mapping):
        return dict(message)
    kept = {name: value for name in _REQUEST if (value := getattr(message, name, None))}
    return {"role": str(getattr(message, "type", "")), **kept}


def without_content(record: StepTrace | Label) -> JsonObject:
    """Return a record reduced to numbers, names of ours and its ids: nothing that a person or a model said."""
    if isinstance(record, Label):
        return {key: value for key, value in record.to_json().items() if key not in ("note", "answer")}
    data = record.to_json(content=False)
    for key in ("thread_id", "run_id", "decisions"):
        data.pop(key, None)
    for attempt in data["attempts"]:
        for verdict in attempt.get("verdicts", ()):
            verdict.pop("reason", None)
            verdict.pop("path", None)
    return data


def _lock(fd: int) -> bool | None:
    """Take the lock among processes without waiting. False: somebody holds it. None: there are no locks here."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _unlock(fd: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def _last_line(fd: int, size: int) -> tuple[int, bytes]:
    """Return where the last line begins, and as much of it as a record may have."""
    start, tail = size, b""
    for count in (_BLOCK, MAX_LINE + 1):
        start = max(size - count, 0)
        before, newline, tail = _read_at(fd, start, size - start).rpartition(b"\n")
        if newline:
            return start + len(before) + 1, tail
    return start, tail


def _read_at(fd: int, start: int, count: int) -> bytes:
    os.lseek(fd, start, os.SEEK_SET)  # appending is not moved by it
    return os.read(fd, count)


def _is_unfinished(tail: bytes) -> bool:
    """Return whether a last line is a record of ours whose writer was stopped; nothing else is ever cut off."""
    if not (tail.startswith(_START) or _START.startswith(tail)) or len(tail) > MAX_LINE:
        return False
    try:
        json.loads(tail)
    except ValueError:
        return True
    return False


def _compress(file: Path) -> None:
    """Put `file.gz` in the place of `file`; a reader sees one or both, a crash loses nothing."""
    with whole_file(file.with_name(f"{file.name}.gz")) as part:
        with file.open("rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
        part.chmod(0o600)
    file.unlink()
