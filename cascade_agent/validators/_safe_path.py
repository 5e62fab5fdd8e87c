"""JSON pointers for the record: names that a schema declares stay, names that the model made up become `*`.

A key of an object can be as private as a value (people by their address). The name of an argument itself stays although
nobody declared it, where it looks like a name: it says which argument was made up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, get_args, get_type_hints

if TYPE_CHECKING:
    from cascade_agent.core.records import StepContext

_PARTS: Final = (
    "tool_calls invalid_tool_calls args id name text content parsed finish_reason additional_kwargs refusal steps tool "
    "depends_on"
)
_OURS: Final = frozenset(_PARTS.split())
"""Words that a path is built of."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_INDEX: Final = re.compile(r"\d{1,6}")
_MAX_PARTS: Final = 16
_MAX_NAMES: Final = 2_000


def redact_path(pointer: str, context: StepContext) -> str:
    """Return a JSON pointer without the names that neither the tools of a step nor its output schema declare."""
    parts = pointer.split("/")[1 : _MAX_PARTS + 1]
    known: frozenset[str] | None = None
    for index, part in enumerate(parts):
        # the name of an argument of a call, or of a step of a plan
        named = index > 1 and parts[index - 1] == "args" and _INDEX.fullmatch(parts[index - 2])
        if part in _OURS or _INDEX.fullmatch(part) or (named and _NAME.fullmatch(part)):
            continue
        known = _declared_names(context) if known is None else known
        if part.replace("~1", "/").replace("~0", "~") not in known:
            parts[index] = "*"
    return "".join([f"/{part}" for part in parts])


def _declared_names(context: StepContext) -> frozenset[str]:
    output = context.output_schema  # a strategy of langchain's create_agent holds the schema
    schemas: list[object] = [output if isinstance(output, type | Mapping) else getattr(output, "schema", output)]
    for tool in context.tools:
        schemas += (tool.parameters, getattr(tool.native, "args_schema", None))
    return names_in(*schemas)


def names_in(*schemas: object) -> frozenset[str]:
    """Return the fields that schemas declare at any depth: JSON Schema, pydantic model, TypedDict or dataclass."""
    names: set[str] = set()
    seen: set[int] = set()
    stack: list[object] = list(schemas)
    for _ in range(_MAX_NAMES):
        if not stack:
            break
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            properties = item.get("properties")
            if isinstance(properties, Mapping):
                names.update(key for key in properties if isinstance(key, str))
            required = item.get("required")
            if isinstance(required, list | tuple):
                names.update(key for key in required[:_MAX_NAMES] if isinstance(key, str))
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif isinstance(item, type) and not item.__module__.startswith("builtins"):
            for key, annotation in _fields(item).items():
                names.add(key)
                stack.append(annotation)
        else:
            stack.extend(get_args(item))
    return frozenset(names)


def _fields(cls: type) -> dict[str, object]:
    model_fields = getattr(cls, "model_fields", None)
    if not isinstance(model_fields, Mapping):
        try:
            return get_type_hints(cls, include_extras=True)
        except Exception:  # noqa: BLE001 - a stranger's annotations may raise anything
            return {name: None for name in getattr(cls, "__annotations__", ())}  # noqa: C420 - of type object
    out: dict[str, object] = {}
    for key, info in model_fields.items():
        alias = getattr(info, "alias", None)
        names = (str(key), alias) if isinstance(alias, str) else (str(key),)
        out.update(dict.fromkeys(names, getattr(info, "annotation", None)))
    return out
