"""Labels of many steps in a temporary database, which goes to disk when it grows."""

from __future__ import annotations

import json
import sqlite3
import weakref
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final, Self

from cascade_agent.core.records import Label
from cascade_agent.journal.reader import checked_label, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cascade_agent.journal.format import OnError, PathLike

_CACHE_KIB: Final = 32_768


class LabelStore(AbstractContextManager["LabelStore"]):
    """Labels by their step, without the answers unless `texts` is set; of the thread that made it."""

    def __init__(self, labels: Iterable[Label] = (), *, texts: bool = False) -> None:
        self._texts = texts
        # private, and on disk as far as the cache is too small; the collector may drop it on any thread
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._close = weakref.finalize(self, self._db.close)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE label (step TEXT NOT NULL, record TEXT NOT NULL)")
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO label VALUES (?, ?)", map(self._row, labels))
        self._db.execute("CREATE INDEX by_step ON label (step)")
        self._db.execute("COMMIT")
        self.steps: int = self._db.execute("SELECT COUNT(DISTINCT step) FROM label").fetchone()[0]
        """Number of steps that had a label when the store was made."""
        self._empty = not self.steps

    @classmethod
    def of(cls, journals: Sequence[PathLike], files: Sequence[PathLike] = (), *, on_error: OnError = "raise") -> Self:
        """Read the labels that stand in journals, and those of label files."""
        # a label has this key; most lines of a journal are steps and are read, with their faults named, later
        among = records(*journals, kind="label", build=checked_label, on_error=on_error, containing=b'"step_id"')
        return cls(chain(among, records(*files, kind="label", build=checked_label, on_error=on_error)))

    def add(self, label: Label) -> None:
        """Keep one more."""
        self._empty = False
        self._db.execute("INSERT INTO label VALUES (?, ?)", self._row(label))

    def of_step(self, step_id: str, *, once: bool = True) -> list[Label]:
        """Return the labels of a step in the order in which they were read, equal ones `once`."""
        if self._empty:
            return []
        found = self._db.execute("SELECT record FROM label WHERE step = ? ORDER BY rowid", (_key(step_id),)).fetchall()
        return [Label.from_json(json.loads(record)) for (record,) in (dict.fromkeys(found) if once else found)]

    def ids(self) -> Iterator[str]:
        """Return the ids of the steps that have a label."""
        return (step for (step,) in self._db.execute("SELECT DISTINCT step FROM label ORDER BY step"))

    def __iter__(self) -> Iterator[Label]:
        """Return all labels in the order in which they were read."""
        for (record,) in self._db.execute("SELECT record FROM label ORDER BY rowid"):
            yield Label.from_json(json.loads(record))

    def __exit__(self, *_: object) -> None:
        """Drop the labels."""
        self._close()

    def _row(self, label: Label) -> tuple[str, str]:
        kept = label if self._texts else replace(label, answer=None)
        return _key(label.step_id), json.dumps(kept.to_json())


def _key(step_id: str) -> str:
    return step_id.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be stored
