"""A journal of the user's own: called on another thread in the order of the steps, so that it can hold up none.

A step waits a moment for its record, so that one of an ordinary journal can be read when the step is over. A journal
whose last record took long is not waited for.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from contextvars import copy_context
from functools import partial
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any, cast

from cascade_agent._log import LOG
from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.background import Writer, in_event_loop
from cascade_agent.journal.writer import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_agent.core.records import StepTrace
    from cascade_agent.journal.format import PathLike

_PATIENCE = 0.25
"""Seconds that a step waits for its record, while the journal is not known to be slow."""
_SLOW = 0.02
"""Seconds of writing from which on it is."""


class OwnJournal:
    """The queue before a journal of the user's own."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self.requests = bool(getattr(journal, "requests", False))
        self.append_label = getattr(journal, "append_label", None)
        """Called by the threads of shadow calls, which hold up no step either."""
        self._late = False
        self._writer = Writer()

    def append(self, trace: StepTrace, **more: object) -> None:
        """Have a record written. Outside of an event loop wait a moment for it; inside of one see `written`."""
        self._writer.submit(partial(self._write, partial(copy_context().run, self._journal.append, trace, **more)))
        if not self._late and not in_event_loop():
            self._late |= not self._writer.flush(_PATIENCE)

    async def written(self) -> None:
        """Wait a moment for what was appended."""
        if not self._late:
            mark = asyncio.wrap_future(self._writer.mark())
            self._late |= not (await asyncio.wait((mark,), timeout=_PATIENCE))[0]

    def _write(self, write: Callable[[], object]) -> None:
        started = time.perf_counter()
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - whatever the user's journal raises, the next record is written
            log_loss(error)
        self._late = time.perf_counter() - started > _SLOW

    def __reduce__(self) -> tuple[object, ...]:
        """A copy writes into a copy of the journal."""
        return OwnJournal, (self._journal,)


def journal_of(value: Any) -> Any:
    """Return a setting as what a step may write into: None, a `Journal`, that of a path, or what has `append(trace)`.

    That is called in place where it never waits: a list's, or one that says so by `in_place = True`.

    Raises:
        ConfigurationError: it is none of these, or its `append` is async.
    """
    journal = Journal(cast("PathLike", value)) if isinstance(value, str | os.PathLike) else value
    append = getattr(journal, "append", None)
    if journal is not None and not callable(append):
        msg = f"journal is {type(value).__name__}; expected a Journal, a path, or None"
        raise ConfigurationError(msg)
    if inspect.iscoroutinefunction(append):
        msg = f"{type(value).__name__}.append is async; expected a plain function: it is called on a thread of its own"
        raise ConfigurationError(msg)
    in_place = isinstance(append, BuiltinMethodType) or getattr(journal, "in_place", False) is True
    return journal if journal is None or isinstance(journal, Journal) or in_place else OwnJournal(journal)


_logged: set[str] = set()


def log_loss(error: BaseException) -> None:
    """Log that a record is lost, once for each kind of error."""
    kind = type(error).__name__
    if kind not in _logged:
        _logged.add(kind)
        LOG.warning("the journal lost a record: %s: %s (logged once)", kind, error)
