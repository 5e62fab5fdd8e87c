"""Reads journal files: no fault is passed over in silence, each names file, line and mend."""

from __future__ import annotations

import glob
import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from cascade_agent._log import LOG
from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal import background, parquet
from cascade_agent.journal.format import NotJsonError, OnError, PathLike, kind_of, parse, text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from cascade_agent.core.clean_json import JsonMapping, JsonObject

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


def read_labels(*paths: PathLike, on_error: OnError = "raise") -> Iterator[Label]:
    """Stream the labels of journal files; arguments and errors as in `read`."""
    return records(*paths, kind="label", build=Label.from_json, on_error=on_error)


def records(
    *paths: PathLike,
    kind: Literal["step", "label"],
    build: Callable[[JsonMapping], T | None],
    on_error: OnError = "raise",
    containing: bytes = b"",
) -> Iterator[T]:
    """Stream what `build` makes of the records of one kind; a `RecordError` of it is raised with file and line.

    None is left out. `containing` leaves out, unread, the lines without these bytes; faults in them are then not seen.
    Arguments and errors else as in `read`.
    """
    if on_error not in ("raise", "skip", "strict"):
        msg = f"on_error is {on_error!r}; expected 'raise', 'skip' or 'strict'"
        raise ConfigurationError(msg)

    def of_kind(data: JsonMapping, _at: str) -> T | None:
        return build(data) if kind_of(data) == kind else None

    return chain.from_iterable(records_of(file, of_kind, on_error, containing) for file in expand(paths))


def lines(file: Path, *, lenient: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, or the records of a Parquet file with those of their rows.

    Blank lines are left out. `lenient` gives what is whole of a compressed file that is cut off.
    """
    return parquet.lines(file) if parquet.is_parquet(file) else text_lines(file, lenient=lenient)


def records_of(
    file: Path, build: Callable[[JsonMapping, str], T | None], on_error: OnError, containing: bytes = b""
) -> Generator[T, None, int]:
    """Stream what `build` makes of each line and its place, as `records` does; return the number of lines."""
    count = skipped = first = 0
    for number, line in lines(file, lenient=on_error == "skip"):
        count += 1
        if containing not in line and line.endswith(b"\n"):
            continue
        at = f"{file}:{number}"
        try:
            record = build(parse(line), at)
        except RecordError as error:
            unfinished = isinstance(error, NotJsonError) and not line.endswith(b"\n")
            if unfinished and on_error != "strict":
                LOG.warning("%s: the last line is unfinished; it was left out", at)
                break
            if on_error != "skip":
                raise (RecordError(f"{at}: {_UNFINISHED}") if unfinished else named(error, at)) from error
            skipped, first = skipped + 1, first or number
        else:
            if record is not None:
                yield record
    if skipped:
        LOG.warning("%s: %d lines are no records and were skipped, the first is line %d", file, skipped, first)
    return count


_UNFINISHED: Final = (
    "the last line is unfinished (a writer was killed, or is just writing): wait for it, delete the line, or read with "
    "on_error='skip'"
)


def named(error: RecordError, at: str) -> RecordError:
    """Return the error about a line with its place and the mend."""
    return RecordError(f"{at}: {error}; repair or delete the line, or read with on_error='skip'")


def expand(paths: Iterable[PathLike]) -> list[Path]:
    """Return the files that paths and glob patterns name, in this order."""
    background.files.flush()  # what this process appended from its event loops is to be found
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

    def rows() -> Iterator[tuple[JsonObject, bytes]]:
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


def checked_label(data: JsonMapping) -> Label:
    """Return the label of a record.

    Raises:
        RecordError: it is none, or an impossible one.
    """
    label = Label.from_json(data)
    name, p = f"label of step {label.step_id!r}", label.propensity
    if p is not None and not 0.0 < p <= 1.0:
        msg = f"{name} has propensity {p!r}; expected a number in (0, 1]"
        raise RecordError(msg)
    if label.right and label.harm:
        msg = f"{name} says right and harm at once; harm is small wrong and large right"
        raise RecordError(msg)
    return label
