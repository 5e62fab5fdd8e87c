"""`StructuredOutput`: an answer that was asked for in a schema parses, and fits it.

The reason names the error class and the kind of error, never a value. What cannot be read as a schema demands nothing;
whatever has no counterpart in JSON is left open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NotRequired, Required, Union, get_args, get_origin

from cascade_agent.core.records import Verdict
from cascade_agent.validators._cache import IdentityCache
from cascade_agent.validators.json_schema.schema import Schema

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import Draft, StepContext

_ERROR_CLASS = re.compile(r"(?:[A-Za-z_]\w{0,80}\.)*([A-Za-z_]\w{0,80}(?:Error|Exception))\b")
_PYDANTIC_LINE = re.compile(r"^(\S[^\n]{0,200})\n  [^\n]{0,2000}?\[type=([a-z_]{1,60})\b", re.MULTILINE)
_MAX_ERROR_TEXT = 20_000
_MAX_DEPTH = 32
_MAX_CLASSES = 200
_MAX_WRAPPERS = 4
_NAMES: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    NoneType: "null",
    None: "null",
}


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """Fails hard with `unparsed_output` when the answer does not parse into what was asked for.

    Acts when structured output was asked for (`context.output_schema`) or parsing it failed (`draft.parsing_error`).
    An answer that calls one of the offered tools first is not yet the structured answer and is left alone. Text that
    nobody parsed (`response_format` bound to the call) is read as JSON here.

    LangChain validates what it reads into a pydantic class and hands on everything else as it is. Plain output of a
    JSON Schema (also of a tool or a response format) or of a `TypedDict` is therefore held to that schema here; keys
    that it does not declare are a fault only where it forbids them. What a schema demands but cannot be enforced (a
    remote reference, a pattern that could hang) is not held against an answer; `unchecked` is an abstain: the output
    is too large to be followed to its end.
    """

    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "schema_invalid"

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return one hard fail, or nothing."""
        error = draft.parsing_error
        if error is not None:
            reason, path = _explain(error)
            return _fail(reason, path)
        if context.output_schema is None:
            return None
        if draft.parsed is not None:
            return _unfit(draft.parsed, context.output_schema)
        if draft.tool_calls and any(call.get("name") in context.tools_by_name for call in draft.tool_calls):
            return None
        return _unfit_text(draft.text, context.output_schema)


def _fail(reason: str, path: str) -> Verdict:
    return Verdict(outcome="fail", code="unparsed_output", reason=reason, path=path)


def _unfit_text(text: str, wanted: object) -> Verdict | None:
    """Return what keeps a text from being JSON of the schema that it was to be written in, or nothing."""
    if not text.strip():
        return _fail("the answer holds no output of the schema that was asked for", "/parsed")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _fail("the text is not JSON, where JSON of a schema was asked for", "/text")
    if not isinstance(wanted, type) or compiled(wanted) is not None:
        return _unfit(value, wanted)
    from pydantic import TypeAdapter

    try:
        TypeAdapter(wanted).validate_python(value)
    except Exception as error:  # noqa: BLE001 - a class of the user's may raise anything
        return _fail(*_explain(f"{type(error).__name__}: {error}"))
    return None


def _unfit(parsed: object, wanted: object) -> Verdict | None:
    """Return the first rule of the schema that plain output breaks, or nothing."""
    if not isinstance(parsed, dict | list | str | int | float):
        return None
    schema = compiled(wanted)
    if schema is None:
        return None
    report = schema.check(parsed)
    if report.faults:
        fault = report.faults[0]
        return _fail(f"the answer breaks a rule of the schema: {fault.keyword or 'type'}", "/parsed" + fault.path)
    if report.complete:
        return None
    reason = "the schema takes too many steps to follow to its end"
    return Verdict(outcome="abstain", code="unchecked", reason=reason, path="/parsed")


def _explain(error: object) -> tuple[str, str]:
    """Return a sentence and a path from an error's text as pydantic, json and the LangChain parsers write it."""
    text = error[:_MAX_ERROR_TEXT] if isinstance(error, str) else type(error).__name__
    found = _ERROR_CLASS.match(text)
    reason = f"the answer does not parse into the schema ({found[1] if found else 'parsing error'})"
    line = _PYDANTIC_LINE.search(text)
    if line is None:
        return reason, "/parsed"
    location = "".join(f"/{part}" for part in line[1].strip().split("."))
    return f"{reason}: {line[2]}", "/parsed" + location


# ---- the schema that was asked for ----------------------------------------------------------------------------------

_compiled: IdentityCache[Schema | None] = IdentityCache(128)


def compiled(wanted: object) -> Schema | None:
    """Return the schema that values of `wanted` are held to, compiled once per object; never raises.

    `wanted` is a `TypedDict` class, a JSON Schema, or a JSON Schema in the wrapping of a tool or a response format.
    None for anything else: pydantic classes and dataclasses are validated where they are made.
    """
    return _compiled.get(wanted, lambda: _compile(wanted))


def _compile(wanted: object) -> Schema | None:
    try:
        source = _source(wanted)
    except Exception:  # noqa: BLE001 - a Mapping or an annotation of a stranger may raise anything
        return None
    return None if source is None else Schema(source)


def _source(wanted: object) -> JsonMapping | None:
    if not isinstance(wanted, type | Mapping):
        wanted = getattr(wanted, "schema", None)  # a strategy of langchain's create_agent
    if isinstance(wanted, Mapping):
        return _unwrapped(wanted)
    if isinstance(wanted, type):
        from typing_extensions import is_typeddict

        defs: dict[str, object] = {}
        return {**_typed_dict(wanted, defs), "$defs": defs} if is_typeddict(wanted) else None
    return None


def _unwrapped(wanted: JsonMapping) -> JsonMapping:
    """Return the JSON Schema inside a tool of OpenAI, Anthropic or Bedrock or a response format of OpenAI."""
    for _ in range(_MAX_WRAPPERS):
        kind = wanted.get("type", "toolSpec")
        if kind not in ("function", "json_schema", "toolSpec") or not isinstance(wanted.get(kind), Mapping):
            break
        wanted = wanted[kind]
    if isinstance(wanted.get("name"), str):
        for key in ("parameters", "input_schema", "inputSchema", "schema"):
            inner = wanted.get(key)
            if isinstance(inner, Mapping):
                wanted = inner["json"] if key == "inputSchema" and isinstance(inner.get("json"), Mapping) else inner
                break
    if "oneOf" in wanted and "anyOf" not in wanted:  # the host takes these for schemas to choose from
        return {**{key: value for key, value in wanted.items() if key != "oneOf"}, "anyOf": wanted["oneOf"]}
    return wanted


def _typed_dict(annotation: Any, defs: dict[str, object], depth: int = 0) -> JsonObject:
    """Write a type as JSON Schema, with the `TypedDict` classes in it as `defs`.

    LangChain's own conversion makes every key required and forgets that `Optional` allows null; what it tells the model
    is stricter than the type, and only the type can be held against an answer.
    """
    from typing_extensions import get_type_hints, is_typeddict

    annotation, _ = _bare(annotation)
    origin, args, name = get_origin(annotation), get_args(annotation), str(id(annotation))
    if depth > _MAX_DEPTH:
        return {}
    if is_typeddict(annotation):
        if name not in defs and len(defs) >= _MAX_CLASSES:
            return {}
        if name not in defs:
            defs[name] = {}  # a class may hold itself
            hints = get_type_hints(annotation, include_extras=True)
            properties = {key: _typed_dict(hint, defs, depth + 1) for key, hint in hints.items()}
            required = [key for key in hints if key in annotation.__required_keys__ and not _bare(hints[key])[1]]
            defs[name] = {"type": "object", "properties": properties, "required": required}
        return {"$ref": f"#/$defs/{name}"}
    if origin in (Union, UnionType):
        return {"anyOf": [_typed_dict(arg, defs, depth + 1) for arg in args]}
    if origin is Literal:
        plain = all(arg is None or type(arg) in (str, int, bool) for arg in args)
        return {"enum": list(args)} if plain else {}
    if origin is list and len(args) == 1:
        return {"type": "array", "items": _typed_dict(args[0], defs, depth + 1)}
    if origin is dict and args:
        return {"type": "object", "additionalProperties": _typed_dict(args[1], defs, depth + 1)}
    kind = _NAMES.get(annotation) if annotation is None or isinstance(annotation, type) else None
    return {} if kind is None else {"type": kind}


def _bare(annotation: Any) -> tuple[Any, bool]:
    """Return a type without its qualifiers, and whether they say that its key may be left out.

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
