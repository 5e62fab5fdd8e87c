"""A memory of values by the identity of the object that they were made of."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class IdentityCache(Generic[T]):
    """Remembers a value for each of the last `size` objects; an entry holds its object, so no id is used twice."""

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._held: OrderedDict[Hashable, tuple[object, T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, source: object, make: Callable[[], T], *also: Hashable) -> T:
        """Return what was made of `source` (and of `also`), made now if it is new."""
        key = (id(source), *also)
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found[1]
        made = make()
        with self._lock:
            self._held[key] = (source, made)
            while len(self._held) > self._size:
                self._held.popitem(last=False)
        return made
