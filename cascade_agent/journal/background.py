"""One thread of the process that writes for its event loops: nothing here ever makes a loop wait."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from queue import Empty, Full, SimpleQueue
from typing import TYPE_CHECKING

from cascade_agent._fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], object]

_MAX_PENDING = 10_000
"""Jobs that may wait. A disk that hangs costs the records beyond them, and this much memory."""
_EXIT_WAIT = 2.0


class _Worker:
    """The queue and its thread, which is started by the first job."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[Job] = SimpleQueue()  # its `put` never waits, not even for a lock
        self.thread: threading.Thread | None = None
        self.starting = threading.Lock()

    def start(self) -> None:
        """Start the thread unless somebody else is just doing it."""
        if self.thread is None and self.starting.acquire(blocking=False):
            try:
                if self.thread is None:
                    thread = threading.Thread(target=self._run, name="cascade-agent-journal-writer", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:  # the main thread has ended: whoever has a record writes it
                        with contextlib.suppress(Empty):
                            while True:
                                self.jobs.get_nowait()()
                        return
                    self.thread = thread
            finally:
                self.starting.release()

    def _run(self) -> None:
        while True:
            self.jobs.get()()


_worker = _Worker()


def in_event_loop() -> bool:
    """Return whether the calling thread runs an event loop, which no file may hold up."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def submit(job: Job) -> None:
    """Have a job done soon, in the order of the calls. It must not raise."""
    if _worker.jobs.qsize() >= _MAX_PENDING:
        msg = f"{_MAX_PENDING} records wait to be written"
        raise Full(msg)
    _worker.jobs.put(job)
    _worker.start()


def flush(timeout: float = 5.0) -> bool:
    """Wait until what was submitted before is done; False when it took longer than `timeout` seconds."""
    if _worker.thread is None or _worker.thread is threading.current_thread():
        return True
    done = threading.Event()
    _worker.jobs.put(done.set)
    return done.wait(timeout)


def _forget() -> None:
    """Begin anew in a forked child: what waits is written by the parent, whose thread is not here."""
    global _worker  # noqa: PLW0603 - one of the process, by design
    _worker = _Worker()


atexit.register(flush, _EXIT_WAIT)
after_fork(_forget)
