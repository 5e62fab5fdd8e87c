"""Kinds of drafts: the names by which thresholds and figures differ."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Final

_LOOP: Final = "loop."
_ONE_TOOL: Final = ".one_tool"


def kind_of(*, calls: int, tools: int, structured: bool = False, loop: bool = False) -> str:
    """Return the kind of a draft: `text`, `one_call` or `calls` (two and more), or `structured`.

    `loop.` stands before it in a conversation in which the assistant spoke before, `.one_tool` after it where a single
    tool was on offer: `loop.one_call.one_tool`.
    """
    prefix = _LOOP if loop else ""
    if structured:
        return f"{prefix}structured"
    shape = "text" if not calls else "one_call" if calls == 1 else "calls"
    return f"{prefix}{shape}{_ONE_TOOL if tools == 1 else ''}"


@cache
def keys_of(kind: str) -> tuple[str, ...]:
    """Return the keys of a mapping that fit a kind, the most specific first: itself, ... `loop`, ... `call`."""
    keys: list[str] = []
    for prefix in (_LOOP, "") if kind.startswith(_LOOP) else ("",):
        own = prefix + kind.removeprefix(_LOOP)
        shape = own.removesuffix(_ONE_TOOL)
        coarse = [prefix + "call"] if shape.removeprefix(prefix) in ("one_call", "calls") else []
        keys += [own, shape, *coarse, *([prefix[:-1]] if prefix else [])]
    return tuple(dict.fromkeys(keys))


KINDS: Final = tuple(
    kind_of(calls=calls, tools=tools, structured=structured, loop=loop)
    for loop in (False, True)
    for calls, tools, structured in [*product((0, 1, 2), (2, 1), (False,)), (0, 0, True)]
)
"""Every kind that `kind_of` gives."""

KEYS: Final = tuple(dict.fromkeys(key for kind in KINDS for key in keys_of(kind)))
"""Every key that fits some kind."""
