"""Ceilings of what cascades may spend: accounts per run and per thread, shared by all cascades of the process."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.policy import Ceiling

_MAX_ACCOUNTS = 4096


class _Account:
    """The spending of a run or a thread, and what is reserved for calls in flight."""

    __slots__ = ("reserved", "run", "spent")

    def __init__(self, spent: float = 0.0, *, run: object = None) -> None:
        self.spent, self.reserved = spent, 0.0
        self.run = run  # kept alive, so that no other run gets its identity


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

    def remaining(self) -> float | None:
        """Return what may still be spent; None without a ceiling."""
        with _lock:
            return min((limit - account.spent - account.reserved for account, limit in self._limits), default=None)

    def reserve(self, amount: float) -> bool:
        """Set an amount aside for a call; False when it is no longer there."""
        with _lock:
            if any(limit - account.spent - account.reserved < amount for account, limit in self._limits):
                return False
            for account, _ in self._limits:
                account.reserved += amount
            return True

    def charge(self, reserved: float, cost: float | None) -> None:
        """Book a call that is over: its cost is spent, and the reserved amount where the cost is unknown."""
        with _lock:
            for account, _ in self._limits:
                account.reserved -= reserved
                account.spent += reserved if cost is None else cost


def _spent_before(messages: Sequence[BaseMessage]) -> float:
    """Return what the cascades of a conversation spent so far, by the records on its messages."""
    total = 0.0
    for message in messages:
        record = message.response_metadata.get("cascade") if message.type == "ai" else None
        cost = record.get("cost") if isinstance(record, dict) else None
        if isinstance(cost, int | float) and 0 <= cost <= sys.float_info.max:
            total += cost
    return total
