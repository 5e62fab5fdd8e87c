"""The two ways to run a body that is written once, as a coroutine: on threads, and on an event loop.

On threads nothing waits for a loop: whatever such a body awaits is done, by the calling thread or a worker, when it
comes back, so that the body runs through at once (`finished`). All that it gives out on the way are the chunks of a
stream (`streamed`).
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Awaitable
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import wait as wait_for_futures
from contextlib import AbstractAsyncContextManager, closing
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event

from cascade_agent.engine.worker_threads import (
    MAX_LATE,
    BackgroundCall,
    LateError,
    is_full,
    run_within,
    start,
    stream_within,
)
from cascade_agent.models.tier import CALL_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
    from types import TracebackType

    from langchain_core.messages import AIMessageChunk

    from cascade_agent.telemetry import EvidenceCall, ModelCall

T = TypeVar("T")
F = TypeVar("F", bound="ModelCall | EvidenceCall")
Send: TypeAlias = "Callable[..., Awaitable[None]]"
"""`await send(chunk)` gives a chunk to whoever reads a stream; with `paced=True` it waits till the next is wanted."""
Body: TypeAlias = "Callable[[], Coroutine[Any, Any, T]]"
_GRACE = 0.005
"""Seconds in which a call that was cancelled may end; nobody waits for what it does later."""


def finished(body: Coroutine[Any, Any, T]) -> T:
    """Run a body on the way of threads; nobody wants what it gives out."""
    try:
        while True:
            body.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    except RuntimeError as error:
        if (own := unwrapped(error)) is not error:
            raise own from None
        raise


def streamed(body: Coroutine[Any, Any, T]) -> Generator[AIMessageChunk, None, T]:
    """Run a body on the way of threads; yield what it gives out, and return its result."""
    return (yield from body.__await__())


@types.coroutine
def give_out(chunk: AIMessageChunk, *, paced: bool = False) -> Generator[AIMessageChunk, None, None]:
    """Give a chunk to whoever reads the stream of a body, on the way of threads."""
    del paced  # here the reader always sets the pace
    yield chunk


@types.coroutine
def _relayed(steps: Generator[AIMessageChunk, None, T]) -> Generator[AIMessageChunk, None, T]:
    return (yield from steps)


def unwrapped(error: Exception) -> Exception:
    """Return what a fake at the end of its iterator raised: Python lets no coroutine raise a `StopIteration`."""
    own = error.__cause__
    return own if isinstance(own, StopIteration) and str(error).endswith("raised StopIteration") else error


async def resolved(value: T | Awaitable[T]) -> T:
    """Return a value, or what comes of it: methods of LangChain's asynchronous managers give coroutines."""
    return cast("T", await value if isinstance(value, Awaitable) else value)


class Threads:
    """On the calling thread; what may come too late runs on a worker."""

    is_async = False
    manager = CallbackManager
    handle = staticmethod(handle_event)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251 - on this way nothing waits for a loop

    async def within(self, seconds: float | None, call: Body[T], *, callee: str, live: bool = False) -> T:
        """Make a call in at most `seconds`; one that is `live` gives out chunks.

        Raises:
            LateError: it did not return in time.
        """
        if live:
            return await _relayed(stream_within(seconds, lambda: streamed(call()), callee=callee))
        limit = CALL_SECONDS.set(seconds)
        try:
            return run_within(seconds, lambda: finished(call()), callee=callee)
        finally:
            CALL_SECONDS.reset(limit)

    def objection(self, callee: str) -> str | None:
        """Return why a callee is not to be called now, None where it may be."""
        return f"{MAX_LATE} late calls of {callee} still run" if is_full(callee) else None

    def start(self, call: Body[T], *, after: float = 0.0) -> BackgroundCall[T]:
        """Make a call in parallel, `after` seconds from now."""
        return start(lambda: finished(call()), after=after)

    async def first(self, calls: list[BackgroundCall[T]], seconds: float | None) -> None:
        """Wait at most `seconds` until one of these calls is over."""
        wait_for_futures(calls, seconds, return_when=FIRST_COMPLETED)

    async def gone(self, call: BackgroundCall[Any]) -> None:
        """Give up a call; nobody waits for it."""
        call.drop()

    def frame(self, frame: F) -> AbstractAsyncContextManager[F]:
        """Return what stands around a call of a model or of evidence, for `async with`."""
        return _Frame(frame)

    def parts(self, parts: object) -> AsyncIterator[object]:
        """Return the parts of a model's stream."""
        return _spread(cast("Generator[object]", parts))


class _Frame(AbstractAsyncContextManager[F]):
    __slots__ = ("_frame",)

    def __init__(self, frame: F) -> None:
        self._frame = frame

    async def __aenter__(self) -> F:
        self._frame.__enter__()
        return self._frame

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frame.__exit__(kind, error, trace)


async def _spread(parts: Generator[object]) -> AsyncGenerator[object, None]:
    with closing(parts):
        for part in parts:
            yield part


class EventLoop:
    """On the running event loop, where everything can be cancelled; else as `Threads`."""

    is_async = True
    manager = AsyncCallbackManager
    handle = staticmethod(ahandle_event)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def within(self, seconds: float | None, call: Body[T], *, callee: str, live: bool = False) -> T:
        """Make a call in at most `seconds`; whatever it does after it was cancelled, nobody waits for that."""
        del callee, live
        if seconds is None:
            return await call()
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        async def awaited() -> T:
            try:
                return await call()
            finally:
                _wake(over)  # not by a callback of the task, which would run a turn of the loop later

        task, timer = loop.create_task(awaited()), loop.call_later(seconds, _wake, over)
        try:
            await over
            if task.done():
                return task.result()
            raise LateError.after(seconds)
        finally:
            timer.cancel()
            if not task.done():
                task.cancel()
                _left.add(task)
                task.add_done_callback(_forget)
                await asyncio.wait({task}, timeout=_GRACE)

    def objection(self, _callee: str) -> str | None:
        """Return None: a late call is cancelled."""
        return None

    def start(self, call: Body[T], *, after: float = 0.0) -> TaskCall[T]:
        """Make a call in parallel, `after` seconds from now."""
        return TaskCall(call, after)

    async def first(self, calls: list[TaskCall[T]], seconds: float | None) -> None:
        """Wait at most `seconds` until one of these calls is over."""
        await asyncio.wait([call.task for call in calls], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def gone(self, call: TaskCall[Any]) -> None:
        """Give up a call, and wait a moment for its end."""
        call.drop()
        await asyncio.wait([call.task], timeout=_GRACE)

    def frame(self, frame: F) -> AbstractAsyncContextManager[F]:
        """Return what stands around a call of a model or of evidence."""
        return cast("AbstractAsyncContextManager[F]", frame)

    def parts(self, parts: object) -> AsyncIterator[object]:
        """Return the parts of a model's stream."""
        return cast("AsyncIterator[object]", parts)


class TaskCall(Generic[T]):
    """A call that runs in parallel to its caller, or will after a while: the `BackgroundCall` of this way."""

    def __init__(self, call: Body[T], after: float) -> None:
        self.is_made = False
        self.task = asyncio.create_task(self._work(call, after))
        self.done, self.result, self.exception = self.task.done, self.task.result, self.task.exception

    async def _work(self, call: Body[T], after: float) -> T:
        await asyncio.sleep(after)
        self.is_made = True
        return await call()

    def drop(self) -> None:
        """Give the call up."""
        self.task.cancel()

    def drop_unless_made(self) -> bool:
        """Give the call up if it was not made yet; return whether it is given up."""
        if not self.is_made:
            self.task.cancel()
        return not self.is_made


def _wake(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


_left: set[asyncio.Future[Any]] = set()
"""Calls that were cancelled and clean up; the event loop itself keeps them no longer than it must."""


def _forget(task: asyncio.Future[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # else asyncio logs that nobody retrieved it


Way: TypeAlias = Threads | EventLoop
THREADS, EVENT_LOOP = Threads(), EventLoop()
