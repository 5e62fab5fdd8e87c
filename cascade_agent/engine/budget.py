"""Ceilings of what cascades may spend: accounts per run and per thread, shared by all cascades of the process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.policy import Ceiling

_MAX_ACCOUNTS = 4096
_ROUNDING = 1e-9


class _Account:
    """The spending of a run or a thread, and what is reserved for calls in flight."""

    __slots__ = ("reserved", "run", "spent", "waiting")

    def __init__(self, spent: float = 0.0, *, run: object = None) -> None:
        self.spent, self.reserved = spent, 0.0
        self.run = run  # kept alive, so that no other run gets its identity
        self.waiting: deque[tuple[float, Callable[[], object]]] = deque()


_lock = threading.Lock()
_accounts: OrderedDict[Hashable, _Account] = OrderedDict()


def _account(key: Hashable, new: Callable[[], _Account]) -> _Account:
    account = _accounts.pop(key, None) or new()
    _accounts[key] = account
    if len(_accounts) > _MAX_ACCOUNTS:
        _accounts.popitem(last=False)
    return account


class Budget:
    """The part of the ceilings that is left to one step.

    Args:
        ceilings: the policy's, by what they limit.
        run: the host's object that lives as long as the run; None gives the step an account of its own.
        thread_id: the conversation; None has no account.
        messages: the conversation so far; the costs on its answers open the thread's account.
    """

    def __init__(
        self,
        ceilings: Mapping[Ceiling, float],
        *,
        run: object = None,
        thread_id: str | None = None,
        messages: Sequence[BaseMessage] = (),
    ) -> None:
        self._limits: list[tuple[_Account, float]] = []
        with _lock:
            if "run" in ceilings:
                account = _Account() if run is None else _account(id(run), lambda: _Account(run=run))
                self._limits.append((account, ceilings["run"]))
            if "thread" in ceilings and thread_id is not None:
                account = _account(thread_id, lambda: _Account(_spent_before(messages)))
                self._limits.append((account, ceilings["thread"]))

    def remaining(self, *, held: bool = False) -> float | None:
        """Return what may still be spent, with `held` also what is set aside for calls; None without a ceiling."""
        with _lock:
            left = [limit - account.spent - (0.0 if held else account.reserved) for account, limit in self._limits]
        return min(left, default=None)

    def reserve(self, amount: float) -> bool:
        """Set an amount aside for a call; False when it is no longer there."""
        with _lock:
            if self._short_of(amount) is not None:
                return False
            for account, _ in self._limits:
                account.reserved += amount
            return True

    def charge(self, reserved: float, cost: float | None) -> None:
        """Book a call that is over: its cost is spent, and the reserved amount where the cost is unknown."""
        woken: list[Callable[[], object]] = []
        with _lock:
            for account, limit in self._limits:
                account.spent += reserved if cost is None else cost
                account.reserved -= reserved
                if account.reserved <= limit * _ROUNDING:
                    account.reserved, left = 0.0, math.inf  # nobody else would wake those who wait
                else:
                    left = limit - account.spent - account.reserved
                while account.waiting and account.waiting[0][0] <= left:
                    amount, wake = account.waiting.popleft()
                    left -= amount
                    woken.append(wake)
        for wake in woken:
            with contextlib.suppress(RuntimeError):  # its event loop was closed
                wake()

    def _short_of(self, amount: float) -> _Account | None:
        """Return an account that does not have the amount."""
        return next((a for a, limit in self._limits if limit - a.spent - a.reserved < amount), None)

    # ---- waiting for what is set aside ------------------------------------------------------------------------------

    def wait(self, amount: float, seconds: float | None) -> None:
        """Wait until a call that money is set aside for is over, so that the amount may be there; then look again."""
        woken = threading.Event()
        entry = (amount, woken.set)
        account = self._queued(entry)
        if account is not None and not woken.wait(seconds):
            _leave(account, entry)

    async def await_money(self, amount: float, seconds: float | None) -> None:
        """Async twin of `wait`."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        entry = (amount, lambda: loop.call_soon_threadsafe(woken.set))
        account = self._queued(entry)
        if account is not None:
            try:
                async with asyncio.timeout(seconds):
                    await woken.wait()
            except TimeoutError:
                pass
            finally:
                _leave(account, entry)

    def _queued(self, entry: tuple[float, Callable[[], object]]) -> _Account | None:
        """Queue for an account that is short of an amount now, and would not be without what is set aside."""
        with _lock:
            account = self._short_of(entry[0])
            if account is None or not account.reserved:
                return None
            account.waiting.append(entry)
            return account


def _leave(account: _Account, entry: tuple[float, Callable[[], object]]) -> None:
    with _lock, contextlib.suppress(ValueError):  # it was woken in time
        account.waiting.remove(entry)


def _spent_before(messages: Sequence[BaseMessage]) -> float:
    """Return what the cascades of a conversation spent so far, by the records on its messages."""
    total = 0.0
    for message in messages:
        record = message.response_metadata.get("cascade") if message.type == "ai" else None
        cost = record.get("cost") if isinstance(record, dict) else None
        if isinstance(cost, int | float) and 0 <= cost <= sys.float_info.max:
            total += cost
    return total
