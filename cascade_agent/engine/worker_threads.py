"""A deadline for a synchronous call.

Python cannot stop a thread, so the call runs in a worker thread and the result of a late one is not used. Workers are
kept for the next call (a hand-over costs about 15 us, a new thread 60) and are daemons: a hung call never holds up the
exit of the interpreter, as the threads of a `ThreadPoolExecutor` would.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cascade_agent._fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")
Y = TypeVar("Y")
_MAX_IDLE = 64
MAX_LATE = 64
"""Late calls of one tier that may still be running; while so many are, it is not called again."""


class LateError(TimeoutError):
    """Our own deadline passed; a `TimeoutError` of the callee's is an error like any other."""

    @classmethod
    def after(cls, seconds: float | None) -> LateError:
        """The error of a call that was given `seconds`."""
        return cls(f"no answer in {seconds:g} s")


class SupersededError(LateError):
    """Nothing was late: a call in parallel to this one answered first."""

    def __init__(self) -> None:
        super().__init__("large answered first")


class _Box(SimpleQueue[tuple[object, BaseException | None]]):
    """The place where a worker leaves its result; `late_for` says whose it is once nobody waits for it."""

    late_for: str | None = None


class _Worker:
    __slots__ = ("inbox",)

    def __init__(self) -> None:
        self.inbox: SimpleQueue[tuple[Context, Callable[[], object], _Box]] = SimpleQueue()
        threading.Thread(target=self._work, name="cascade-tier", daemon=True).start()

    def _work(self) -> None:
        keep = True
        while keep:
            context, call, box = self.inbox.get()
            outcome = _outcome(context, call)
            keep = len(_idle) < _MAX_IDLE
            if keep:
                _idle.append(self)  # before the answer is out: the caller's next call finds this worker free
            with _counting:
                box.put(outcome)
                if box.late_for is not None:
                    _late[box.late_for] -= 1
            del context, call, box, outcome  # an idle worker keeps nothing alive


def _outcome(context: Context, call: Callable[[], object]) -> tuple[object, BaseException | None]:
    """Return what a call returns or raises, to be raised again in the thread that waits for it."""
    try:
        return context.run(call), None
    except BaseException as error:  # noqa: BLE001 - see above
        return None, error


_idle: list[_Worker] = []
_late: Counter[str] = Counter()
_counting = threading.Lock()


def _after_fork() -> None:  # threads do not survive a fork
    _idle.clear()
    _late.clear()


after_fork(_after_fork)


def is_full(callee: str) -> bool:
    """Return whether so many late calls of a callee still run that it is not to be called again."""
    return _late[callee] >= MAX_LATE


def run_within(seconds: float | None, call: Callable[[], T], *, callee: str = "") -> T:
    """Call and wait at most `seconds` (None: as long as it takes, in this thread). Context variables are carried over.

    Raises:
        LateError: the call did not return in time; it counts among the late ones of `callee` until it ends.
    """
    if seconds is None:
        return call()
    box = _handed_over(call)
    try:
        value, error = box.get(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))
    except Empty:
        _count_late(box, callee)
        raise LateError.after(seconds) from None
    if error is not None:
        raise error
    return cast("T", value)


def _count_late(box: _Box, callee: str) -> None:
    """Count a call that nobody waits for any more, until its worker leaves its result in the box."""
    with _counting:
        if box.empty():
            box.late_for = callee
            _late[callee] += 1


_LEAVING = 0.5
"""Seconds that whoever leaves a stream waits for the model's client to close it; it does so at the next token."""
_End = tuple[Any, BaseException | None]


def stream_within(
    seconds: float | None, make: Callable[[], Generator[Y, None, T]], *, callee: str = ""
) -> Generator[Y, None, T]:
    """Yield what a generator yields and return what it returns, in at most `seconds`.

    It runs in a context of its own: what it sets there, whoever reads the stream does not see.

    Raises:
        LateError: it did not return in time; it counts among the late ones of `callee` until it ends.
    """
    context, made = copy_context(), make()
    if seconds is None:
        try:
            while True:
                yield context.run(next, made)
        except StopIteration as stop:
            return cast("T", stop.value)
        finally:
            context.run(made.close)
    found: SimpleQueue[tuple[Y | None, _End | None]] = SimpleQueue()
    left = threading.Event()
    closed = _handed_over(partial(_feed, made, found, left), context)
    deadline = perf_counter() + min(seconds, threading.TIMEOUT_MAX)
    try:
        while True:
            item, end = found.get(timeout=max(deadline - perf_counter(), 0.0))
            if end is not None:
                break
            yield cast("Y", item)
    except Empty:
        _count_late(closed, callee)
        raise LateError.after(seconds) from None
    except GeneratorExit:
        left.set()
        with suppress(Empty):
            closed.get(timeout=_LEAVING)
        raise
    finally:
        left.set()
    value, error = end
    if error is not None:
        raise error
    return cast("T", value)


def _feed(made: Generator[Y, None, T], found: SimpleQueue[tuple[Y | None, _End | None]], left: threading.Event) -> None:
    """Put what a generator yields into a queue, and then its end; close it when the reader left."""
    end: _End = (None, None)
    try:
        while not left.is_set():
            found.put((next(made), None))
    except StopIteration as stop:
        end = (stop.value, None)
    except BaseException as error:  # noqa: BLE001 - raised again where the stream is read
        end = (None, error)
    with suppress(Exception):
        made.close()
    found.put((None, end))


class BackgroundCall(Future[T]):
    """A call that runs in parallel to its caller, or will after a while."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped = threading.Event()

    def drop(self) -> None:
        """Give the call up: it is not made if it did not start yet, else it goes on and its result is not used."""
        self._dropped.set()
        self.cancel()

    def drop_unless_made(self) -> bool:
        """Give the call up if it was not made yet; return whether it is given up."""
        if self.cancel():
            self._dropped.set()
        return self.cancelled()

    @property
    def is_made(self) -> bool:
        """Return whether the call was made, or is being made."""
        return self.running() or (self.done() and not self.cancelled())

    def work(self, call: Callable[[], T], after: float) -> None:
        """Make the call `after` seconds from now, if it was not dropped until then."""
        if (after and self._dropped.wait(after)) or not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where its result is read
            self.set_exception(error)


def start(call: Callable[[], T], *, after: float = 0.0) -> BackgroundCall[T]:
    """Let a worker make a call, `after` seconds from now, in a copy of this context."""
    background: BackgroundCall[T] = BackgroundCall()
    _handed_over(lambda: background.work(call, after))
    return background


def hand_over(context: Context, call: Callable[[], object]) -> _Box:
    """Let a worker make a call; return where it leaves the result.

    Raises:
        RuntimeError: no worker is free, and no thread can be started.
    """
    box = _Box()
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    worker.inbox.put((context, call, box))
    return box


def _handed_over(call: Callable[[], object], context: Context | None = None) -> _Box:
    context = copy_context() if context is None else context
    try:
        return hand_over(context, call)
    except RuntimeError:  # no more threads, or the main one has ended: an answer without a deadline is one
        box = _Box()
        box.put(_outcome(context, call))
        return box
