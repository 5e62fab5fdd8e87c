"""Reads journal files: no fault is passed over in silence, each names file, line and mend."""

from __future__ import annotations

import glob
import math
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cascade_agent._log import LOG
from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal import background, parquet
from cascade_agent.journal.format import NotJsonError, OnError, PathLike, kind_of, lines, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

T = TypeVar("T")


def read(*paths: PathLike, on_error: OnError = "raise") -> Iterator[StepTrace]:
    """Stream the step traces of journal files, one record in memory at a time.

    Args:
        paths: files or glob patterns (`"runs/*.jsonl*"`), plain or gzip JSON lines or Parquet (see `to_parquet`), read
            in this order, a pattern's files by name.
        on_error: what a line that is no record does: `"raise"`, or `"skip"` it with one warning per file. An unfinished
            last line (a writer was killed, or is just writing) is then left out with a warning; `"strict"` raises for
            it too.

    Raises:
        RecordError: no such file, a line that is no record, a record of a newer version. Names file, line and mend.
    """
    return records(*paths, kind="step", build=StepTrace.from_json, on_error=on_error)


def read_labels(
    *paths: PathLike, on_error: OnError = "raise", check: Callable[[Label], Label] | None = None
) -> Iterator[Label]:
    """Stream the labels of journal files; arguments and errors as in `read`.

    `check` gives the label back or raises `RecordError`, which then counts as a fault of the line (`checked_label`).
    """

    def build(data: Mapping[str, Any]) -> Label:
        label = Label.from_json(data)
        return label if check is None else check(label)

    return records(*paths, kind="label", build=build, on_error=on_error)


def records(
    *paths: PathLike,
    kind: Literal["step", "label"],
    build: Callable[[Mapping[str, Any]], T],
    on_error: OnError = "raise",
    containing: bytes = b"",
) -> Iterator[T]:
    """Stream what `build` makes of the records of one kind; a `RecordError` of it is raised with file and line.

    `containing` leaves out, unread, the lines without these bytes; faults in them are then not seen. Arguments and
    errors else as in `read`.
    """
    if on_error not in ("raise", "skip", "strict"):
        msg = f"on_error is {on_error!r}; expected 'raise', 'skip' or 'strict'"
        raise ConfigurationError(msg)
    return chain.from_iterable(_records(file, kind, build, on_error, containing) for file in expand(paths))


def _records(
    file: Path, kind: str, build: Callable[[Mapping[str, Any]], T], on_error: OnError, containing: bytes
) -> Iterator[T]:
    skipped = first = 0
    for number, line in lines(file, lenient=on_error == "skip"):
        if containing not in line and line.endswith(b"\n"):
            continue
        try:
            data = parse(line)
            record = build(data) if kind_of(data) == kind else None
        except RecordError as error:
            if not keep_on(error, file, number, line, on_error):
                break
            skipped, first = skipped + 1, first or number
        else:
            if record is not None:
                yield record
    if skipped:
        LOG.warning("%s: %d lines are no records and were skipped, the first is line %d", file, skipped, first)


def keep_on(error: RecordError, file: Path, number: int, line: bytes, on_error: OnError) -> bool:
    """Return True where a line that is no record is passed over, False where it is the unfinished last one."""
    at = f"{file}:{number}"
    unfinished = isinstance(error, NotJsonError) and not line.endswith(b"\n")
    if unfinished and on_error == "strict":
        msg = (
            f"{at}: the last line is unfinished (a writer was killed, or is just writing): wait for it, delete the "
            "line, or read with on_error='skip'"
        )
        raise RecordError(msg) from error
    if unfinished:
        LOG.warning("%s: the last line is unfinished; it was left out", at)
        return False
    if on_error != "skip":
        msg = f"{at}: {error}; repair or delete the line, or read with on_error='skip'"
        raise RecordError(msg) from error
    return True


def expand(paths: Iterable[PathLike]) -> list[Path]:
    """Return the files that paths and glob patterns name, in this order."""
    background.flush()  # what this process appended from its event loops is to be found
    files: list[Path] = []
    for path in paths:
        name = os.fspath(path)
        try:
            if Path(path).is_dir():
                msg = f"{name!r} is a directory; give its journals, such as '{name}/*.jsonl*'"
                raise RecordError(msg)
            found = [path] if Path(path).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            if not found:
                msg = f"no journal matches {name!r}; is CASCADE_JOURNAL set where the steps ran?"
                raise RecordError(msg)
            files.extend(Path(file) for file in found if not Path(file).is_dir())
        except OSError as error:
            msg = f"{name!r} cannot be looked at ({error.strerror or error}); give a file that you may read"
            raise RecordError(msg) from error
    return files


def files_of(*paths: PathLike) -> list[Path]:
    """Return the files that paths and glob patterns name, each once."""
    return list({file.resolve(): file for file in expand(paths)}.values())


def to_parquet(*paths: PathLike, out: PathLike) -> int:
    """Write the records of journals, steps and labels, into one Parquet file, and return their number.

    A row holds a record as it stands in the journal (`record`, JSON), and for other tools the columns that are asked
    for most: `type`, `id`, `step`, `kind`, `outcome`, `thread_id`, `started_at`, `cost`, `currency`. Needs the extra
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


def checked_label(label: Label) -> Label:
    """Return the label itself."""
    name, p = f"label of step {label.step_id!r}", label.propensity
    if p is not None and not (isinstance(p, int | float) and math.isfinite(p) and 0.0 < p <= 1.0):
        msg = f"{name} has propensity {p!r}; expected a number in (0, 1]"
        raise RecordError(msg)
    for key in ("right", "harm"):
        value = getattr(label, key)
        if value is not None and not isinstance(value, bool):
            msg = f"{name} has {key}={value!r}; expected true, false or null"
            raise RecordError(msg)
    if label.right and label.harm:
        msg = f"{name} says right and harm at once; harm is small wrong and large right"
        raise RecordError(msg)
    return label
