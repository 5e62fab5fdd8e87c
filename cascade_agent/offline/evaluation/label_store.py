"""Labels by step, in bounded memory: in a temporary database that goes to disk when it outgrows its cache."""

from __future__ import annotations

import json
import sqlite3
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Self

from cascade_agent.core.records import Label
from cascade_agent.journal.reader import checked_label, records

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from cascade_agent.journal.format import OnError

_CACHE_KIB: Final = 32_768


class LabelStore:
    """Labels of many steps, without their notes and answers. Belongs to the thread that made it."""

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # private, and on disk as far as the cache is too small
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE label (step TEXT NOT NULL, record TEXT NOT NULL)")
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO label VALUES (?, ?)", map(_row, labels))
        self._db.execute("CREATE INDEX by_step ON label (step)")
        self._db.execute("COMMIT")
        self.steps: int = self._db.execute("SELECT COUNT(DISTINCT step) FROM label").fetchone()[0]
        """How many steps have a label."""

    @classmethod
    def of(
        cls,
        journals: Sequence[str | os.PathLike[str]],
        files: Sequence[str | os.PathLike[str]] = (),
        *,
        on_error: OnError = "raise",
    ) -> Self:
        """The labels that stand in journals, and those of label files.

        Raises:
            RecordError: a line that is no record, an impossible label. Names file, line and mend.
        """
        # a label has this key; most lines of a journal are steps and are read, with their faults told, later
        among = records(*journals, kind="label", build=_label, on_error=on_error, containing=b'"step_id"')
        return cls(chain(among, records(*files, kind="label", build=_label, on_error=on_error)))

    def of_step(self, step_id: str) -> list[Label]:
        """The labels of a step in the order in which they were read."""
        if not self.steps:
            return []
        found = self._db.execute("SELECT record FROM label WHERE step = ? ORDER BY rowid", (step_id,)).fetchall()
        return [Label.from_json(json.loads(record)) for (record,) in found]

    def __iter__(self) -> Iterator[Label]:
        """All labels in the order in which they were read."""
        for (record,) in self._db.execute("SELECT record FROM label ORDER BY rowid"):
            yield Label.from_json(json.loads(record))

    def close(self) -> None:
        """Drop them."""
        self._db.close()

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Drop them."""
        self.close()


def _label(data: Mapping[str, Any]) -> Label:
    return checked_label(Label.from_json(data))


def _row(label: Label) -> tuple[str, str]:
    data = label.to_json()
    data.pop("answer", None)
    data.pop("note", None)
    return label.step_id, json.dumps(data)
