"""JSON that every store can hold, made of any value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

JsonObject: TypeAlias = dict[str, Any]
JsonMapping: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""
Json = None | bool | int | float | str | list[Any] | JsonObject
_MAX_DEPTH = 64
_MAX_TEXT = 65_536
INT64 = 2**63
_UNHELD = re.compile("[\0\ud800-\udfff]")


def clean(value: object, *, depth: int = _MAX_DEPTH) -> Json:
    """Return any JSON-like value as JSON that every store can hold.

    Lone surrogates and NUL become U+FFFD, integers over 64 bits and non-finite floats become strings, texts over
    65,536 characters and nests over 64 deep are cut and say so.
    """
    if value is None or value is True or value is False:
        return cast("Json", value)
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value) if -INT64 <= value < INT64 else _big(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if depth <= 0:
        return "… (nested too deep)"
    if isinstance(value, Mapping):
        return {clean_text(str(k)): clean(v, depth=depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v, depth=depth - 1) for v in value]
    try:
        return clean_text(str(value))
    except Exception:  # noqa: BLE001 - a value that has no text either
        return f"… ({type(value).__name__})"


def _big(value: int) -> str:
    return str(value) if value.bit_length() < 1024 else f"… (integer of {value.bit_length()} bits)"


def clean_text(text: str) -> str:
    """Return a string without NUL and lone surrogates, at most 65,536 characters."""
    if type(text) is not str:
        text = str.__str__(text)  # a plain one: an enum's member or a subclass is no JSON to every store
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "… (cut)"
    if text.isascii() and "\0" not in text:
        return text
    return _UNHELD.sub("\ufffd", text)
