"""The journal: an append-only file of step traces and labels, one JSON object per line.

Law: writing never raises and never slows a step (a record that cannot be written is counted and said once); reading
never hides a fault (a line that cannot be read names file, line and mend, unless the reader asks to skip it).

A line is `{"type": "step", ...StepTrace.to_json()}` or `{"type": "label", ...Label.to_json()}`, UTF-8, ended by one
newline and written by one `write` on a file opened for appending, so that threads and processes may share a journal and
a killed process leaves at most its own last line unfinished.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import glob
import gzip
import json
import math
import os
import shutil
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, Self, TypeAlias, TypeVar, cast

from cascade_agent._log import LOG
from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal import parquet

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Journal",
    "Redact",
    "checked_label",
    "files_of",
    "lost_records",
    "read",
    "read_labels",
    "records",
    "to_parquet",
]


Redact: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Takes the JSON of one record (with its `type`) and returns what may be written; may change it in place."""

OnError: TypeAlias = Literal["raise", "skip", "strict"]
PathLike: TypeAlias = str | os.PathLike[str]

_ENV = "CASCADE_JOURNAL"
_CANCEL = b"\x18\n"
"""Ends a line that a failed or killed write left unfinished; no JSON text holds this character, so readers know it."""
_MAX_LINE = 64 * 2**20
_LOCK_TRIES = 1000
_ROTATE_TRIES = 5
_LOCK_WAIT = 0.001
T = TypeVar("T")
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Journal:
    """An append-only file of step traces and labels. Safe among threads and processes, and after a fork.

    Iterating over it gives its step traces, oldest first, rotated files included; `labels()` gives its labels.

    Args:
        path: the file. It and its directories are made at the first record, readable by the owner only.
        redact: takes the JSON of a record and returns what may be written. A record for which it fails is written
            without anything that people or models said.
        max_bytes: when the file has grown beyond this it is renamed to `name.<UTC time>.suffix` and a new one begun;
            None never rotates. All writers of one file must agree on this.
        compress: whether rotated files are compressed (`.gz`), in a thread of their own.
        keep: how many rotated files are kept; None keeps all.

    Raises:
        ConfigurationError: `path` is a directory, or a limit is below 1.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        redact: Redact | None = None,
        max_bytes: int | None = None,
        compress: bool = False,
        keep: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.redact = redact
        self.max_bytes = max_bytes
        self.compress = compress
        self.keep = keep
        self.lost = 0
        """Records that could not be written since this object was made."""
        self.unredacted = 0
        """Records whose redaction failed, so that they were written without their content."""
        for name, limit in (("max_bytes", max_bytes), ("keep", keep)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                msg = f"Journal.{name} is {limit!r}; expected None or a number >= 1"
                raise ConfigurationError(msg)
        if self.path.is_dir():
            msg = f"Journal path {str(path)!r} is a directory; give a file in it, such as 'journal.jsonl'"
            raise ConfigurationError(msg)
        self._closed = False
        self._warned = False
        self._reset()
        _journals.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._inode: tuple[int, int] = (0, 0)
        self._sweeping = False
        self._stuck = False

    @staticmethod
    def of(value: Any) -> Any:
        """What a door was given as its journal: None, a path, or anything with `append(trace)`.

        Raises:
            ConfigurationError: nothing of these.
        """
        if isinstance(value, str | os.PathLike):
            return Journal(cast("PathLike", value))
        if value is None or callable(getattr(value, "append", None)):
            return value
        msg = f"journal is {type(value).__name__}; expected a Journal, a path, or None"
        raise ConfigurationError(msg)

    @classmethod
    def from_env(cls) -> Journal | None:
        """The journal that `CASCADE_JOURNAL` names; None when it is unset, empty or impossible.

        Cheap enough to call at every step: one object per value is kept for the life of the process.
        """
        path = os.environ.get(_ENV)
        return _journal_at(path) if path else None

    # ---- writing ----------------------------------------------------------------------------------------------------

    def append(self, trace: StepTrace) -> bool:
        """Write one step trace. Never raises; False means that it was lost (see `lost` and the log)."""
        return self._append("step", trace)

    def append_label(self, label: Label) -> bool:
        """Write one label. Never raises; False means that it was lost (see `lost` and the log)."""
        return self._append("label", label)

    def label(  # noqa: PLR0913 - the fields of a label
        self,
        step_id: str,
        *,
        source: str,
        right: bool | None = None,
        harm: bool | None = None,
        propensity: float | None = None,
        note: str = "",
    ) -> bool:
        """Write what is known now about a step, and who says so (see `Label`). Never raises."""
        return self.append_label(
            Label(
                step_id=step_id,
                source=source,
                right=right,
                harm=harm,
                propensity=propensity,
                note=note,
                at=dt.datetime.now(dt.UTC).isoformat(),
            )
        )

    def close(self) -> None:
        """Close the file; what is appended later is lost and counted. Closing twice is fine."""
        with self._lock:
            self._closed = True
            self._close_fd()

    def _append(self, kind: str, record: StepTrace | Label) -> bool:
        try:
            line = self._line(kind, record)
            with self._lock:
                self._write(line)
                self._warned = False
        except Exception as error:  # noqa: BLE001 - law 4: the journal never fails a step
            self.lost += 1
            _note_loss()
            if not self._warned:
                self._warned = True
                LOG.warning(
                    "journal %s: a record could not be written (%s: %s); counting losses until one can",
                    self.path,
                    type(error).__name__,
                    error,
                )
            return False
        return True

    def _line(self, kind: str, record: StepTrace | Label) -> bytes:
        data: Mapping[str, Any] = {"type": kind, **record.to_json()}
        if self.redact is not None:
            data = self._redacted(data, kind, record)
        try:
            line = _encode(data).encode() + b"\n"
        except (ValueError, TypeError, RecursionError):  # not plain JSON, which `records.clean` can mend
            line = _encode(clean(data)).encode() + b"\n"
        if len(line) >= _MAX_LINE:
            msg = f"the record has {len(line)} bytes, readers take {_MAX_LINE}"
            raise ValueError(msg)
        return line

    def _redacted(self, data: Mapping[str, Any], kind: str, record: StepTrace | Label) -> Mapping[str, Any]:
        try:
            kept = cast("Redact", self.redact)(dict(data))
            if isinstance(kept, Mapping):
                return {"type": kind, **kept}
            fault = f"returned {type(kept).__name__}, expected a dict"
        except Exception as error:  # noqa: BLE001 - a faulty redaction must not leak and must not fail a step
            fault = f"raised {type(error).__name__}"
        self.unredacted += 1
        if self.unredacted == 1:
            LOG.warning("journal %s: redact %s; such records are written without their content", self.path, fault)
        return {"type": kind, **_without_content(record)}

    def _write(self, line: bytes) -> None:
        if self._closed:
            msg = "the journal is closed"
            raise ValueError(msg)
        try:
            fd, size = self._current(len(line))
            if size and not _ends_line(fd, size):  # a writer was stopped in its last line
                line = _CANCEL + line
            written = os.write(fd, line)
        finally:
            if self.max_bytes is not None and self._fd is not None:
                _unlock(self._fd)
        if written != len(line):
            msg = f"only {written} of {len(line)} bytes could be written"
            raise OSError(msg)

    def _current(self, more: int) -> tuple[int, int]:
        """The descriptor and size of the file that has our name now, with room for `more` bytes.

        With rotation it is locked against it: nobody writes to a file that somebody else has put away.
        """
        may_rotate = True
        for _ in range(_LOCK_TRIES):
            fd = self._open() if self._fd is None else self._fd
            if self.max_bytes is not None and not _lock(fd, exclusive=False):
                if self._warned:  # after a loss nobody waits again
                    break
                time.sleep(_LOCK_WAIT)
                continue
            state = self._state()
            if state is None:
                self._close_fd()
                continue
            full = self.max_bytes is not None and state.st_size > 0 and state.st_size + more > self.max_bytes
            if not (full and may_rotate):
                return fd, state.st_size
            may_rotate = self._rotate(fd)
        msg = "other writers hold it locked"
        raise TimeoutError(msg)

    def _state(self) -> os.stat_result | None:
        """Of the file that has our name now; None when it is not the one that we have open."""
        try:
            state = os.stat(self.path)  # noqa: PTH116 - on the path of every step
        except FileNotFoundError:
            return None
        return state if (state.st_dev, state.st_ino) == self._inode else None

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            fd = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, flags, 0o600)
        self._fd = fd
        state = os.fstat(fd)
        self._inode = (state.st_dev, state.st_ino)
        return fd

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    # ---- rotation ---------------------------------------------------------------------------------------------------

    def _rotate(self, fd: int) -> bool:
        """Put the full file away. False: not now (others are writing, the directory is read-only), write on."""
        if not _lock_alone(fd):
            return False
        mine = self._state() is not None  # or somebody else has put it away
        if mine:
            try:
                self.path.rename(self._rotated_name())
            except OSError as error:
                if not self._stuck:
                    LOG.warning("journal %s cannot be rotated (%s) and grows on", self.path, error)
                self._stuck = True
                return False
            self._stuck = False
        self._close_fd()  # gives the lock back
        if mine:
            self._sweep()
        return True

    def _rotated_name(self) -> Path:
        while True:
            stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            name = self.path.with_name(f"{self.path.stem}.{stamp}{self.path.suffix}")
            if not name.exists():  # pragma: no branch - two rotations within a microsecond
                return name

    def files(self) -> list[Path]:
        """The rotated files, oldest first, and the current one; only those that exist."""
        found: dict[str, str] = {}
        for name in self._rotated():
            plain = name.removesuffix(".gz")
            found[plain] = min(found.get(plain, name), name)  # while it is compressed both are there: take the plain
        files = [self.path.with_name(found[plain]) for plain in sorted(found)]
        return [*files, self.path] if self.path.exists() else files

    def _rotated(self) -> list[str]:
        stem, suffix = f"{self.path.stem}.", self.path.suffix
        try:
            names = [file.name for file in self.path.parent.iterdir()]
        except FileNotFoundError:
            return []
        return [
            name
            for name in names
            if name.startswith(stem) and _is_stamp(name.removesuffix(".gz").removesuffix(suffix)[len(stem) :])
        ]

    def _sweep(self) -> None:
        """Delete rotated files beyond `keep` and compress the rest, beside the step."""
        if (self.compress or self.keep is not None) and not self._sweeping:
            self._sweeping = True
            threading.Thread(target=self._tidy, name="cascade-agent-journal", daemon=True).start()

    def _tidy(self) -> None:
        try:
            rotated = [file for file in self.files() if file != self.path]
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
        """Its step traces, oldest first. A journal that nothing was written to yet is empty.

        Raises:
            RecordError: a line that is no record (see `read` for a way to skip it).
        """
        return _steps(self.files(), "raise")

    def labels(self) -> Iterator[Label]:
        """Its labels, oldest first.

        Raises:
            RecordError: a line that is no record (see `read_labels` for a way to skip it).
        """
        return _labels(self.files(), "raise")

    # ---- an object that may be copied, pickled, left open -----------------------------------------------------------

    def __enter__(self) -> Self:
        """Nothing is opened before the first record."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def __del__(self) -> None:
        """Give the descriptor back."""
        if getattr(self, "_fd", None) is not None:
            self._close_fd()

    def __repr__(self) -> str:
        """The path and what was lost."""
        return f"Journal({str(self.path)!r}, lost={self.lost})"

    def __reduce__(self) -> tuple[object, ...]:
        """A copy is another writer of the same file."""
        settings = {"redact": self.redact, "max_bytes": self.max_bytes, "compress": self.compress, "keep": self.keep}
        return (_rebuild, (os.fspath(self.path), settings))


_lost_here = 0


def _note_loss() -> None:
    global _lost_here  # noqa: PLW0603 - a counter of the process, by design
    _lost_here += 1


def lost_records() -> int:
    """How many records the journals of this process could not write, those of journals long gone too."""
    return _lost_here


def _rebuild(path: str, settings: dict[str, Any]) -> Journal:
    return Journal(path, **settings)


_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has its own locks and its own open file; its copy of the parent's descriptor is closed."""
    for journal in _journals:
        journal._close_fd()  # noqa: SLF001 - same module
        journal._reset()  # noqa: SLF001 - same module


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


@lru_cache(maxsize=64)
def _journal_at(path: str) -> Journal | None:
    try:
        return Journal(path)
    except ConfigurationError as error:
        LOG.warning("%s: %s; no journal is kept", _ENV, error)
        return None


def _without_content(record: StepTrace | Label) -> dict[str, Any]:
    """A record reduced to numbers, names of ours and its ids: nothing that a person or a model said."""
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


def _lock(fd: int, *, exclusive: bool) -> bool:
    """Take a lock among processes without waiting; where the system has none, go on without."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _lock_alone(fd: int) -> bool:
    """Take the exclusive lock, with a few milliseconds of patience for those who are just writing."""
    for _ in range(_ROTATE_TRIES):
        if _lock(fd, exclusive=True):
            return True
        time.sleep(_LOCK_WAIT)
    return False


def _unlock(fd: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def _ends_line(fd: int, size: int) -> bool:
    """Whether the file ends with a newline. Seeing another writer's half is harmless: readers ignore a lone mark."""
    if sys.platform == "win32":
        os.lseek(fd, size - 1, os.SEEK_SET)
        return os.read(fd, 1) == b"\n"
    return os.pread(fd, 1, size - 1) == b"\n"


def _is_stamp(text: str) -> bool:
    try:
        dt.datetime.strptime(text, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=dt.UTC)
    except ValueError:
        return False
    return True


def _compress(file: Path) -> None:
    """Put `file.gz` in the place of `file`; a reader sees one or both, a crash loses nothing."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with file.open("rb") as source, gzip.open(part, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
        part.chmod(0o600)
        part.rename(file.with_name(f"{file.name}.gz"))
        file.unlink()
    finally:
        part.unlink(missing_ok=True)


# ---- reading files --------------------------------------------------------------------------------------------------


def read(*paths: PathLike, on_error: OnError = "raise") -> Iterator[StepTrace]:
    """Stream the step traces of journal files, one record in memory at a time.

    Args:
        paths: files or glob patterns (`"runs/*.jsonl*"`), plain or gzip JSON lines or Parquet (see `to_parquet`), read
            in this order, a pattern's files by name.
        on_error: what a line that is no record does: `"raise"`, or `"skip"` it with one warning per file. An unfinished
            last line (a writer was killed, or is just writing) is then skipped with a warning; `"strict"` raises for it
            too, and for a compressed file that is cut off.

    Raises:
        RecordError: no such file, a line that is no record, a record of a newer version. Names file, line and mend.
    """
    return _steps(expand(paths), _checked(on_error))


def read_labels(
    *paths: PathLike, on_error: OnError = "raise", check: Callable[[Label], Label] | None = None
) -> Iterator[Label]:
    """Stream the labels of journal files; arguments and errors as in `read`.

    `check` gives the label back or raises `RecordError`, which then counts as a fault of the line (`checked_label`).
    """
    return _labels(expand(paths), _checked(on_error), check)


def records(
    *paths: PathLike,
    kind: Literal["step", "label"],
    build: Callable[[Mapping[str, Any]], T],
    on_error: OnError = "raise",
    containing: bytes = b"",
) -> Iterator[T]:
    """Stream what `build` makes of the records of one kind; a `RecordError` that it raises is told with file and line.

    `containing` leaves out, unread, the lines without these bytes; faults in them are then not seen. Arguments and
    errors else as in `read`.
    """
    on_error = _checked(on_error)
    return chain.from_iterable(_records(file, kind, build, on_error, containing) for file in expand(paths))


def files_of(*paths: PathLike) -> list[Path]:
    """The files that paths and glob patterns name, each once.

    Raises:
        RecordError: a path or pattern without a file, or a directory.
    """
    return list({file.resolve(): file for file in expand(paths)}.values())


def to_parquet(*paths: PathLike, out: PathLike) -> int:
    """Write the records of journals, steps and labels, into one Parquet file, and give their number.

    A row holds a record as it stands in the journal (`record`, JSON), and beside it for other tools what is asked for
    most: `type`, `id`, `step`, `kind`, `outcome`, `thread_id`, `started_at`, `cost`, `currency`. Needs the extra
    `parquet`.

    Raises:
        RecordError: a journal that cannot be read (an unfinished last line is), or a place that cannot be written to.
        ConfigurationError: pyarrow is not installed.
    """

    def rows() -> Iterator[tuple[dict[str, Any], bytes]]:
        for file in expand(paths):
            for number, line in lines(file):
                try:
                    data = parse(line)
                    kind_of(data)
                except RecordError as error:
                    msg = f"{file}:{number}: {error}; repair or delete the line"
                    raise RecordError(msg) from error
                yield data, line

    return parquet.write(rows(), Path(out))


def _checked(on_error: OnError) -> OnError:
    if on_error not in ("raise", "skip", "strict"):
        msg = f"on_error is {on_error!r}; expected 'raise', 'skip' or 'strict'"
        raise ConfigurationError(msg)
    return on_error


def expand(paths: Iterable[PathLike]) -> list[Path]:
    """The files that paths and glob patterns name, in this order.

    Raises:
        RecordError: a directory, or nothing of that name.
    """
    files: list[Path] = []
    for path in paths:
        if Path(path).is_dir():
            msg = f"{os.fspath(path)!r} is a directory; give its journals, such as '{os.fspath(path)}/*.jsonl*'"
            raise RecordError(msg)
        found = [path] if Path(path).exists() else sorted(glob.glob(os.fspath(path), recursive=True))  # noqa: PTH207
        if not found:
            msg = f"no journal matches {os.fspath(path)!r}; is {_ENV} set where the steps ran?"
            raise RecordError(msg)
        files.extend(Path(name) for name in found if not Path(name).is_dir())
    return files


def _steps(files: Iterable[Path], on_error: OnError) -> Iterator[StepTrace]:
    return chain.from_iterable(_records(file, "step", StepTrace.from_json, on_error) for file in files)


def _labels(files: Iterable[Path], on_error: OnError, check: Callable[[Label], Label] | None = None) -> Iterator[Label]:
    def build(data: Mapping[str, Any]) -> Label:
        label = Label.from_json(data)
        return label if check is None else check(label)

    return chain.from_iterable(_records(file, "label", build, on_error) for file in files)


def checked_label(label: Label) -> Label:
    """The label itself.

    Raises:
        RecordError: it says what cannot be.
    """
    p = label.propensity
    if p is not None and not (isinstance(p, int | float) and math.isfinite(p) and 0.0 < p <= 1.0):
        msg = f"label of step {label.step_id!r} has propensity {p!r}; expected a number in (0, 1]"
        raise RecordError(msg)
    for name in ("right", "harm"):
        value = getattr(label, name)
        if value is not None and not isinstance(value, bool):
            msg = f"label of step {label.step_id!r} has {name}={value!r}; expected true, false or null"
            raise RecordError(msg)
    if label.right and label.harm:
        msg = f"label of step {label.step_id!r} says right and harm at once; harm is small wrong and large right"
        raise RecordError(msg)
    return label


class NotJsonError(RecordError):
    """A line that no writer finished, or no writer wrote."""


def _records(
    file: Path, kind: str, build: Callable[[Mapping[str, Any]], T], on_error: OnError, containing: bytes = b""
) -> Iterator[T]:
    skipped = first = 0
    for number, line in lines(file, strict=on_error == "strict"):
        if containing not in line and line.endswith(b"\n"):
            continue
        try:
            data = parse(line)
            record = build(data) if kind_of(data) == kind else None
        except RecordError as error:
            unfinished = isinstance(error, NotJsonError) and not line.endswith(b"\n")
            if unfinished and on_error == "strict":
                msg = (
                    f"{file}:{number}: the last line is unfinished (a writer was killed, or is just writing): wait for "
                    "it, delete the line, or read with on_error='skip'"
                )
                raise RecordError(msg) from error
            if unfinished:
                LOG.warning("%s:%d: the last line is unfinished; it was left out", file, number)
                break
            if on_error != "skip":
                msg = f"{file}:{number}: {error}; repair or delete the line, or read with on_error='skip'"
                raise RecordError(msg) from error
            skipped, first = skipped + 1, first or number
        else:
            if record is not None:
                yield record
    if skipped:
        LOG.warning("%s: %d lines are no records and were skipped, the first is line %d", file, skipped, first)


def parse(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        RecordError: it is none; `NotJsonError` when it is no JSON at all.
    """
    try:
        data = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        msg = f"not a line of JSON ({type(error).__name__})"
        raise NotJsonError(msg) from error
    if not isinstance(data, dict):
        msg = f"expected a JSON object, found {type(data).__name__}"
        raise RecordError(msg)
    return data


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is not JSON"
    raise ValueError(msg)


def kind_of(data: Mapping[str, Any]) -> str:
    """What a line holds. Bare records (`StepTrace.to_json()` written by hand) are known by their fields."""
    kind = data.get("type")
    if kind is None:
        kind = "step" if "attempts" in data else "label" if "step_id" in data else None
    if kind in ("step", "label"):
        return cast("str", kind)
    msg = f"a record of type {kind!r}; this version reads 'step' and 'label': upgrade cascade_agent if it should"
    raise RecordError(msg)


def lines(file: Path, *, strict: bool = False) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, or the records of a Parquet file with those of their rows."""
    return parquet.lines(file) if parquet.is_parquet(file) else _text_lines(file, strict=strict)


def _text_lines(file: Path, *, strict: bool) -> Iterator[tuple[int, bytes]]:
    """The lines of a plain or gzip file; blank and cancelled ones are left out.

    `strict` makes a compressed file that is cut off an error.
    """
    number = 0
    with _opened(file) as stream:
        while True:
            number += 1
            try:
                line = stream.readline(_MAX_LINE)
                ended = len(line) < _MAX_LINE or line.endswith(b"\n")
                while not ended:  # drop what no record can be, piece by piece
                    line = stream.readline(_MAX_LINE)
                    ended = not line or line.endswith(b"\n")
                    line = b"too long\n"
            except EOFError as error:
                if strict:
                    msg = f"{file}:{number}: the compressed file is cut off; restore it, or read with on_error='skip'"
                    raise RecordError(msg) from error
                LOG.warning("%s:%d: the compressed file is cut off; what is whole was read", file, number)
                return
            except (OSError, zlib.error) as error:
                msg = f"{file}:{number}: cannot be read ({error}); restore the file, or take it out of the list"
                raise RecordError(msg) from error
            if not line:
                return
            if line.endswith(_CANCEL):
                if line != _CANCEL:
                    LOG.warning("%s:%d: a writer was stopped in this line; it was left out", file, number)
            elif line.strip():
                yield number, line


def _opened(file: Path) -> IO[bytes]:
    try:
        stream = file.open("rb")
    except FileNotFoundError:  # compressed since it was listed
        stream = file.with_name(f"{file.name}.gz").open("rb")
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    stream.close()
    return cast("IO[bytes]", gzip.open(stream.name, "rb"))
