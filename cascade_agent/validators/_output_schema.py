"""What structured output was asked for, as a compiled JSON Schema that its values can be held to.

Law: what cannot be read as a schema demands nothing; whatever has no counterpart in JSON is left open.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Required, Union, get_args, get_origin

from cascade_agent.validators.json_schema.schema import Schema

_MAX_REMEMBERED = 128
_MAX_DEPTH = 32
_MAX_CLASSES = 200
_MAX_WRAPPERS = 4
_NAMES: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
    None: "null",
    list: "array",
    dict: "object",
}


class OutputSchema(NamedTuple):
    """A schema to hold values to, and the JSON Schema that it was compiled from."""

    schema: Schema
    source: Mapping[str, Any]


_compiled: OrderedDict[int, tuple[object, OutputSchema | None]] = OrderedDict()
_lock = threading.Lock()


def compiled(wanted: object) -> OutputSchema | None:
    """The schema that values of `wanted` are held to, compiled once per object; never raises.

    `wanted` is a `TypedDict` class, a JSON Schema, or a JSON Schema in the wrapping of a tool or a response format.
    None for anything else: pydantic classes and dataclasses are validated where they are made.
    """
    with _lock:
        known = _compiled.get(id(wanted))
        if known is not None:  # the entry keeps the object alive, so its id is its own
            _compiled.move_to_end(id(wanted))
            return known[1]
    try:
        source = _source(wanted)
    except Exception:  # noqa: BLE001 - a Mapping or an annotation of a stranger may raise anything
        source = None
    made = None if source is None else OutputSchema(Schema(source), source)
    with _lock:
        _compiled[id(wanted)] = (wanted, made)
        while len(_compiled) > _MAX_REMEMBERED:
            _compiled.popitem(last=False)
    return made


def _source(wanted: object) -> Mapping[str, Any] | None:
    if not isinstance(wanted, type | Mapping):
        wanted = getattr(wanted, "schema", None)  # a strategy of langchain's create_agent
    if isinstance(wanted, Mapping):
        return _unwrapped(wanted)
    if isinstance(wanted, type):
        from typing_extensions import is_typeddict

        return _TypedDicts().schema(wanted) if is_typeddict(wanted) else None
    return None


def _unwrapped(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """A JSON Schema out of a tool of OpenAI, Anthropic or Bedrock or a response format of OpenAI."""
    for _ in range(_MAX_WRAPPERS):
        inner = None
        for kind, key in (("function", "function"), ("json_schema", "json_schema"), (None, "toolSpec")):
            if wanted.get("type") == kind and isinstance(wanted.get(key), Mapping):
                inner = wanted[key]
        if inner is None:
            break
        wanted = inner
    if isinstance(wanted.get("name"), str):
        for key in ("parameters", "input_schema", "inputSchema", "schema"):
            inner = wanted.get(key)
            if isinstance(inner, Mapping):
                wanted = inner["json"] if key == "inputSchema" and isinstance(inner.get("json"), Mapping) else inner
                break
    if "oneOf" in wanted and "anyOf" not in wanted:  # the host takes these for schemas to choose from
        return {**{key: value for key, value in wanted.items() if key != "oneOf"}, "anyOf": wanted["oneOf"]}
    return wanted


class _TypedDicts:
    """Writes `TypedDict` classes as JSON Schema.

    LangChain's own conversion makes every key required and forgets that `Optional` allows null; what it tells the model
    is stricter than the type, and only the type can be held against an answer.
    """

    def __init__(self) -> None:
        self.defs: dict[str, object] = {}
        self.names: dict[type, str] = {}

    def schema(self, cls: type) -> dict[str, Any]:
        return {**self.convert(cls, 0), "$defs": self.defs}

    def convert(self, annotation: Any, depth: int) -> dict[str, Any]:  # noqa: PLR0911 - one return per kind of type
        from typing_extensions import is_typeddict

        annotation, _ = _bare(annotation)
        if depth > _MAX_DEPTH:
            return {}
        if is_typeddict(annotation):
            return self.reference(annotation, depth)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Union, UnionType):
            return {"anyOf": [self.convert(arg, depth + 1) for arg in args]}
        if origin is Literal:
            plain = all(arg is None or type(arg) in (str, int, bool) for arg in args)
            return {"enum": list(args)} if plain else {}
        if origin is list and len(args) == 1:
            return {"type": "array", "items": self.convert(args[0], depth + 1)}
        if origin is dict and len(args) == 2:  # noqa: PLR2004 - keys and values
            return {"type": "object", "additionalProperties": self.convert(args[1], depth + 1)}
        name = _NAMES.get(annotation) if annotation is None or isinstance(annotation, type) else None
        return {} if name is None else {"type": name}

    def reference(self, cls: type, depth: int) -> dict[str, Any]:
        name = self.names.get(cls)
        if name is None:
            if len(self.names) >= _MAX_CLASSES:
                return {}
            name = self.names[cls] = str(len(self.names))
            self.defs[name] = self.object(cls, depth)
        return {"$ref": f"#/$defs/{name}"}

    def object(self, cls: Any, depth: int) -> dict[str, Any]:
        from typing_extensions import get_type_hints

        hints = get_type_hints(cls, include_extras=True)
        properties: dict[str, Any] = {}
        required: list[str] = []
        for key, annotation in hints.items():
            properties[key] = self.convert(annotation, depth + 1)
            if key in cls.__required_keys__ and not _bare(annotation)[1]:
                required.append(key)
        return {"type": "object", "properties": properties, "required": required}


def _bare(annotation: Any) -> tuple[Any, bool]:
    """A type without its qualifiers, and whether they say that its key may be left out.

    In LangChain's `Annotated[T, default, description]` a default other than `...` says so.
    """
    from typing_extensions import ReadOnly

    optional = False
    for _ in range(_MAX_WRAPPERS):
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            optional = optional or args[1] is not ...
        elif origin is NotRequired:
            optional = True
        elif origin not in (Required, ReadOnly):
            break
        annotation = args[0]
    return annotation, optional
