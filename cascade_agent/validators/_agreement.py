"""How far two answers to the same step say the same thing: the comparison behind cross-checks and free labels.

Calls are compared after normalising (declared defaults stripped, empty optional values stripped, 5 and 5.0 and "5",
case and white space), independent of their order; texts are equal, equal as numbers, equal as JSON, or similar.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_agent.records import Draft, StepContext, ToolSpec

Similarity = Callable[[str, str], float]
_MAX_CALLS = 64
_MAX_DEPTH = 32
_MAX_ITEMS = 2_000
_MAX_TEXT = 20_000
_WORD = re.compile(r"\w+")


def agreement(a: Draft, b: Draft, context: StepContext, *, similarity: Similarity | None = None) -> float | None:
    """Agreement of two answers in [0, 1]: 1 the same, 0 nothing in common; None when `b` is no usable answer."""
    if context.output_schema is not None:
        if b.parsed is None:
            return None
        return float(normal(_plain(a.parsed)) == normal(_plain(b.parsed)))
    if b.invalid_tool_calls or not (b.tool_calls or b.text.strip()):
        return None
    if a.tool_calls or b.tool_calls:
        return _calls(a.tool_calls, b.tool_calls, context)
    if a.invalid_tool_calls:
        return 0.0
    return text_agreement(a.text, b.text, similarity=similarity)


def text_agreement(a: str, b: str, *, similarity: Similarity | None = None) -> float:
    """Agreement of two texts: 1 when equal, equal as numbers or equal as JSON; else their similarity."""
    left, right = normal(a), normal(b)
    if left == right:
        return 1.0
    if isinstance(left, float) and isinstance(right, float):
        return 0.0
    one, two = _json(a), _json(b)
    if one is not None and two is not None:
        return float(normal(one) == normal(two))
    return max(0.0, min(1.0, (similarity or words_in_common)(a, b)))


def words_in_common(a: str, b: str) -> float:
    """Dice similarity of the sets of words of two texts."""
    one, two = (set(_WORD.findall(t[:_MAX_TEXT].casefold())) for t in (a, b))
    return 2 * len(one & two) / (len(one) + len(two)) if one and two else 0.0


def _calls(ours: Sequence[Any], theirs: Sequence[Any], context: StepContext) -> float:
    """Share of calls that have an equal partner, out of the longer list."""
    if not ours or not theirs:
        return 0.0
    if len(ours) > _MAX_CALLS or len(theirs) > _MAX_CALLS:
        return 0.0
    open_calls = [(c["name"], arguments(c["args"], context.tools_by_name.get(c["name"]))) for c in theirs]
    matched = 0
    for call in ours:
        key = (call["name"], arguments(call["args"], context.tools_by_name.get(call["name"])))
        if key in open_calls:
            open_calls.remove(key)
            matched += 1
    return matched / max(len(ours), len(theirs))


def arguments(args: Mapping[str, Any], spec: ToolSpec | None) -> Any:
    """The arguments of a call, normalised: without declared defaults and without empty optional values."""
    properties = None if spec is None else spec.parameters.get("properties")
    required = () if spec is None else spec.parameters.get("required") or ()
    kept = {}
    for key, value in args.items():
        schema = properties.get(key) if isinstance(properties, Mapping) else None
        if isinstance(schema, Mapping) and "default" in schema and normal(schema["default"]) == normal(value):
            continue
        if value in (None, "") and isinstance(required, Sequence) and key not in required:
            continue
        kept[key] = value
    return normal(kept)


def normal(value: Any, depth: int = _MAX_DEPTH) -> Any:  # noqa: PLR0911 - one return per JSON type
    """A JSON value in the form in which equal meanings are equal; hashable parts, floats for all numbers."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return _float(value)
    if isinstance(value, str):
        text = " ".join(value[:_MAX_TEXT].casefold().split())
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text
    if depth <= 0:
        return "..."
    if isinstance(value, Mapping):
        items = [(str(k), normal(v, depth - 1)) for k, v in list(value.items())[:_MAX_ITEMS]]
        return tuple(sorted(items, key=_key))
    if isinstance(value, list | tuple):
        return tuple(normal(v, depth - 1) for v in value[:_MAX_ITEMS])
    return str(value)


def _key(item: Any) -> str:
    return str(item[0])


def _float(value: float) -> float | str:
    try:
        return float(value)
    except OverflowError:
        return f"{value.bit_length()} bits" if isinstance(value, int) else str(value)


def _json(text: str) -> Any:
    text = text.strip()
    if not text or text[0] not in "[{":
        return None
    try:
        return json.loads(text[: _MAX_TEXT * 10])
    except (ValueError, RecursionError):
        return None


def _plain(value: object) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else value
