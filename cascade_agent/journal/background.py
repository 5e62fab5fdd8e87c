"""Threads that write for event loops, and for journals of the user's own: nothing here ever makes a loop wait."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import weakref
from concurrent.futures import Future, wait
from functools import partial
from queue import Empty, Full, SimpleQueue
from typing import TYPE_CHECKING

from cascade_agent._fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], object]

_MAX_PENDING = 10_000
"""Jobs that may wait. A disk that hangs costs the records beyond them, and this much memory."""
_EXIT_WAIT = 2.0


class Writer:
    """A queue of jobs and its thread, which is started by the first one and ends with this object."""

    def __init__(self) -> None:
        self.reset()
        _writers.add(self)

    def reset(self) -> None:
        """Begin anew, as a forked child does: what waits is written by the parent, whose thread is not here."""
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # its `put` never waits, not even for a lock
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        weakref.finalize(self, self._jobs.put, None).atexit = False

    def submit(self, job: Job) -> None:
        """Have a job done soon, in the order of the calls. It must not raise."""
        if self._jobs.qsize() >= _MAX_PENDING:
            msg = f"{_MAX_PENDING} records wait to be written"
            raise Full(msg)
        self._jobs.put(job)
        if self._thread is None and self._starting.acquire(blocking=False):  # else somebody is just starting it
            try:
                self._start()
            finally:
                self._starting.release()

    def _start(self) -> None:
        if self._thread is None:
            name = "cascade-agent-journal-writer"
            self._thread = threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the main thread has ended: whoever has a record writes it
                self._thread = None
                with contextlib.suppress(Empty):
                    while job := self._jobs.get_nowait():
                        job()

    def mark(self) -> Future[None]:
        """Return what is done when all that was submitted before is."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # whoever stops waiting for it does not cancel it
        if self._thread is None or self._thread is threading.current_thread():
            done.set_result(None)
        else:
            self._jobs.put(partial(done.set_result, None))
        return done

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until what was submitted before is done; False when it took longer than `timeout` seconds."""
        return not wait((self.mark(),), timeout).not_done


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while job := jobs.get():
        job()
        del job  # an idle thread keeps nothing alive


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
files = Writer()
"""The one that writes the files of the process."""


def in_event_loop() -> bool:
    """Return whether the calling thread runs an event loop, which no file may hold up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _at_exit() -> None:
    wait([writer.mark() for writer in list(_writers)], _EXIT_WAIT)


def _after_fork() -> None:
    for writer in _writers:
        writer.reset()


atexit.register(_at_exit)
after_fork(_after_fork)
