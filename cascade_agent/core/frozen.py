"""Frozen dataclasses that are almost as cheap to make as open ones."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def quick(cls: C) -> C:
    """Give a frozen dataclass an `__init__` that fills an object first and freezes it then.

    The one that `dataclass` writes goes around the frozen `__setattr__` by a slow call for each field, which took a
    tenth of a step's time. Here an object is of an open twin of its class while it is filled.
    """
    slots = {"__slots__": cls.__dict__["__slots__"]} if "__slots__" in cls.__dict__ else {}
    known: dict[str, Any] = {"_cls": cls, "_set": object.__setattr__, "_slow": cls.__init__}  # type: ignore[misc]
    known["_open"] = type(cls.__name__, (), slots)
    takes, makes, fills = [], [], []
    for f in sorted(fields(cls), key=lambda f: bool(f.kw_only)):
        if f.kw_only and "*" not in takes:
            takes.append("*")
        known[f"_{f.name}"] = default = f.default if f.default_factory is MISSING else f.default_factory
        takes.append(f.name if default is MISSING else f"{f.name}=_{f.name}")
        if f.default_factory is not MISSING:
            makes.append(f"if {f.name} is _{f.name}: {f.name} = _{f.name}()")
        fills.append(f"self.{f.name} = {f.name}")
    given = ", ".join(f"{f.name}={f.name}" for f in fields(cls))
    checks = ["self.__post_init__()"] if hasattr(cls, "__post_init__") else []
    lines = [*makes, f"if type(self) is not _cls: return _slow(self, {given})"]  # a subclass may have another layout
    lines += ["_set(self, '__class__', _open)", *fills, "self.__class__ = _cls", *checks]
    exec("\n  ".join((f"def __init__(self, {', '.join(takes)}):", *lines)), known)  # noqa: S102 - as `dataclass` does
    made = known["__init__"]
    made.__annotations__, made.__qualname__ = cls.__init__.__annotations__, cls.__init__.__qualname__  # type: ignore[misc]
    cls.__init__ = made  # type: ignore[misc]
    return cls
