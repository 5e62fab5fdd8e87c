"""A memory of values by the identity of the object that they were made of."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class IdentityCache(Generic[T]):
    """Remembers a value for each of the last `size` objects; an entry holds its object, so no id is used twice."""

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._held: dict[Hashable, tuple[object, T]] = {}
        self._lock = threading.Lock()

    def get(self, source: object, make: Callable[[], T], *also: Hashable) -> T:
        """Return what was made of `source` (and of `also`), made now if it is new."""
        key = (id(source), *also)
        found = self._held.get(key)
        if found is None:
            found = source, make()
            with self._lock:
                self._held[key] = found
                while len(self._held) > self._size:
                    del self._held[next(iter(self._held))]
        return found[1]
