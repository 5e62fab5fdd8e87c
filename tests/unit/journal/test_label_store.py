"""The temporary database of labels is closed whatever becomes of its store."""

from __future__ import annotations

import gc
import sqlite3
from typing import TYPE_CHECKING

import pytest

from cascade_agent.core.records import Label
from cascade_agent.journal.labels import LabelStore

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_store_that_is_dropped_or_never_made_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 warns of a database that is left open, be it by a store that met a bad label."""
    opened, connect = list[sqlite3.Connection](), sqlite3.connect

    def keep(*args: object, **options: object) -> sqlite3.Connection:
        opened.append(connect(*args, **options))  # type: ignore[call-overload]
        return opened[-1]

    def bad() -> Iterator[Label]:
        yield Label(step_id="a", source="person", right=True)
        raise ValueError("a bad label")

    monkeypatch.setattr(sqlite3, "connect", keep)
    with pytest.raises(ValueError, match="a bad label"):
        LabelStore(bad())
    store = LabelStore([Label(step_id="a", source="person", right=True)])
    assert store.steps == 1
    del store
    gc.collect()
    assert len(opened) == 2
    for database in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            database.execute("SELECT 1")
