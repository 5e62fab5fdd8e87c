"""Parquet files of records, one row each with its JSON, through pyarrow, imported only here and when needed."""

from __future__ import annotations

from importlib import import_module
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any, Final

from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.format import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from cascade_agent.core.clean_json import JsonMapping, JsonObject

RECORD: Final = "record"
_TEXTS: Final = ("type", "id", "step", "kind", "outcome", "thread_id", "started_at", "currency")
_MAGIC: Final = b"PAR1"
_ROWS: Final = 5_000
"""Records in memory at a time."""


def is_parquet(file: Path) -> bool:
    """Return whether a file is Parquet by its first bytes; a pipe, which cannot be read twice, is not."""
    if not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a file with the numbers of their rows, from 1."""
    pa, pq = _pyarrow()
    number = 0
    try:
        with pq.ParquetFile(file) as source:
            if RECORD not in source.schema_arrow.names:
                msg = (
                    f"{file}: a Parquet file without a column {RECORD!r} (it has "
                    f"{', '.join(source.schema_arrow.names) or 'none'}); write it with `to_parquet`"
                )
                raise RecordError(msg)
            for batch in source.iter_batches(batch_size=_ROWS, columns=[RECORD]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(text, str):
                        msg = f"{file}:{number}: the record is {type(text).__name__}; expected JSON text"
                        raise RecordError(msg)
                    yield number, text.encode() + b"\n"
    except (OSError, pa.ArrowException) as error:
        msg = f"{file}:{number + 1}: cannot be read ({error}); restore the file, or take it out of the list"
        raise RecordError(msg) from error


def write(rows: Iterable[tuple[JsonMapping, bytes]], out: Path) -> int:
    """Write records, each parsed and as its line, whole or not at all; return their number."""
    pa, pq = _pyarrow()
    schema = pa.schema([*((name, pa.string()) for name in _TEXTS), ("cost", pa.float64()), (RECORD, pa.string())])
    count, waiting = 0, starmap(_row, rows)
    try:
        with whole_file(out) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
            while batch := list(islice(waiting, _ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema))
                count += len(batch)
    except (OSError, pa.ArrowException) as error:
        msg = f"{out}: cannot be written ({error}); give a file in an existing, writable directory"
        raise RecordError(msg) from error
    return count


def _row(data: JsonMapping, line: bytes) -> JsonObject:
    row: JsonObject = {name: value if isinstance(value := data.get(name), str) else None for name in _TEXTS}
    if "step_id" in data and row["id"] is None:
        row["id"] = str(data["step_id"])
    cost = data.get("cost")
    row["cost"] = float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None
    row[RECORD] = line.decode().rstrip("\n")
    return row


def _pyarrow() -> tuple[Any, Any]:
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")  # it has no types
    except ImportError as error:
        msg = "Parquet journals need pyarrow: pip install 'langgraph-cascade[parquet]'"
        raise ConfigurationError(msg) from error
    return pa, pq
