"""A journal of the user's own: called on another thread in the order of the steps, so that it can hold up none.

A step waits a moment for its record, so that one of an ordinary journal can be read when the step is over. A journal
whose last record took long is not waited for.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any

from cascade_agent._fork import after_fork
from cascade_agent._log import LOG
from cascade_agent.engine.worker_threads import start
from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.background import in_event_loop
from cascade_agent.journal.writer import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_agent.core.records import StepTrace

_PATIENCE = 0.25
"""Seconds that a step waits for its record, while the journal is not known to be slow."""
_SLOW = 0.02
"""Seconds of writing from which on it is."""
_EXIT_WAIT = 1.0
_MAX_PENDING = 10_000


class OwnJournal:
    """The queue before a journal of the user's own; a thread is borrowed while something waits in it."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self.requests = bool(getattr(journal, "requests", False))
        self.append_label = getattr(journal, "append_label", None)
        """Called by the threads of shadow calls, which hold up no step either."""
        self._late = False
        self.reset()
        _journals.add(self)

    def reset(self) -> None:
        """Begin with nothing that waits, as a forked child does: its parent writes what waited there."""
        self._lock, self._working = threading.Lock(), False
        self._waiting: deque[tuple[Callable[[], object], Future[None]]] = deque()
        self._last: Future[None] | None = None

    def append(self, trace: StepTrace, **more: Any) -> None:
        """Have a record written. Outside of an event loop wait a moment for it; inside of one see `written`."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever stops waiting for it does not cancel it
        write = partial(copy_context().run, self._journal.append, trace, **more)
        with self._lock:
            if len(self._waiting) >= _MAX_PENDING:
                msg = f"{_MAX_PENDING} records wait to be written"
                raise OverflowError(msg)
            self._waiting.append((write, done))
            self._last, idle, self._working = done, not self._working, True
        if idle:
            start(self._work)
        if not self._late and not in_event_loop():
            self._late |= not wait((done,), _PATIENCE).done

    async def written(self) -> None:
        """Wait a moment for the last record."""
        if self._last is not None and not self._late:
            last = asyncio.wrap_future(self._last)
            self._late |= not (await asyncio.wait((last,), timeout=_PATIENCE))[0]

    def flush(self, seconds: float) -> None:
        """Wait for what was appended, at most so long."""
        if self._last is not None:
            wait((self._last,), seconds)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    return
                write, done = self._waiting.popleft()
            started = time.perf_counter()
            try:
                write()
            except BaseException as error:  # noqa: BLE001 - whatever the user's journal raises, the next record is written
                log_loss(error)
            self._late = time.perf_counter() - started > _SLOW
            done.set_result(None)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy writes into a copy of the journal."""
        return OwnJournal, (self._journal,)


def journal_of(value: Any) -> Any:
    """Return a setting as what a step may write into: None, a `Journal`, or another object with `append(trace)`.

    That is called in place where it never waits: a list's, or one that says so by `in_place = True`.

    Raises:
        ConfigurationError: it is none of these, or its `append` is async.
    """
    journal = Journal.of(value)
    append = getattr(journal, "append", None)
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


_journals: weakref.WeakSet[OwnJournal] = weakref.WeakSet()


def _at_exit() -> None:
    until = time.monotonic() + _EXIT_WAIT
    for journal in list(_journals):
        journal.flush(max(until - time.monotonic(), 0.0))


def _after_fork() -> None:
    for journal in _journals:
        journal.reset()


atexit.register(_at_exit)
after_fork(_after_fork)
