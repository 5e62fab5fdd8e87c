"""A memo of what was read of a message, kept for as long as the message lives."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.messages import BaseMessage

T = TypeVar("T")


class MessageMemo(Generic[T]):
    """A function of a message, called once for each. Messages are values: the same object is never read twice."""

    __slots__ = ("_alive", "_found", "_read")

    def __init__(self, read: Callable[[BaseMessage], T]) -> None:
        self._read = read
        self._found: dict[int, T] = {}
        self._alive: dict[int, weakref.ref[BaseMessage]] = {}  # an entry ends before its message: no id is used twice

    def of(self, message: BaseMessage) -> T:
        """Return what a message says."""
        key = id(message)
        found = self._found.get(key)
        if found is None:
            found = self._read(message)
            self._alive[key] = weakref.ref(message, lambda _: self._forget(key))
            self._found[key] = found
        return found

    def all(self, messages: Sequence[BaseMessage]) -> list[T]:
        """Return what each message says; of a history that was read before without a call per message."""
        found = self._found
        for message in reversed(messages):  # what is new stands at the end
            if id(message) in found:
                break
            self.of(message)
        try:
            return list(map(found.__getitem__, map(id, messages)))
        except KeyError:
            return list(map(self.of, messages))

    def _forget(self, key: int) -> None:
        self._found.pop(key, None)
        self._alive.pop(key, None)
