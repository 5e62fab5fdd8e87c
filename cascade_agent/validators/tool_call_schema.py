"""`ToolCallSchema`: every call of a draft is one that its tool accepts and a checkpoint can hold.

Valid means what the tool itself accepts. A Python tool is asked through its own pydantic model (`"2"` for an integer is
fine there); where only a JSON Schema stands, that schema decides, because nothing after it will.
"""

from __future__ import annotations

import copy
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cascade_agent._log import LOG
from cascade_agent.core.clean_json import Json, JsonObject
from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators._cache import IdentityCache
from cascade_agent.validators._words import unstorable_text
from cascade_agent.validators.json_schema.schema import Schema, pointer_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from langchain_core.messages import ToolCall


MAX_ARGUMENT_BYTES = 1_000_000
"""Size of one call's arguments, about as JSON."""
MAX_ARGUMENT_DEPTH = 64
_INT_MIN, _INT_END = -(2**63), 2**64
"""Bounds of msgpack, in which LangGraph stores a checkpoint."""
_MAX_VERDICTS = 10
_MAX_ERRORS = 200
_MAX_WARNINGS = 512


class Problem(NamedTuple):
    """One thing wrong with a call: pointer below the call, code, reason without values."""

    path: str
    code: str
    reason: str


_MALFORMED = Problem("/args", "malformed_arguments", "the arguments are not a JSON object")


class ToolCallSchema:
    """Refuse calls that cannot be executed or stored. Every finding is a hard fail.

    Codes: `unknown_tool`, `malformed_arguments`, `missing_argument`, `wrong_type`, `not_in_enum`, `out_of_range`,
    `pattern_mismatch`, `extra_argument` (an argument that the tool does not declare), `schema_violation` for any other
    rule, `unstorable_argument`. `unchecked` is an abstain: the schema is too costly to
    follow to its end.

    A tool with a pydantic model is asked through that model. Any other tool is held to its JSON Schema, compiled once.
    What a schema demands but cannot be enforced (a remote reference, a pattern that could hang) is logged once, as a
    warning, and then not held against any call.

    Where structured output was asked for, only storability is looked at: its shape is another validator's business.

    Args:
        strict: Hold Python tools to their JSON Schema too, so that `"2"` is no integer.
    """

    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "schema_invalid"

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict

    def __repr__(self) -> str:
        """The constructor call."""
        return f"ToolCallSchema(strict={self.strict})"

    def __call__(self, draft: Draft, context: StepContext) -> list[Verdict] | None:
        """Return the faults of the calls; None when there is nothing to object."""
        found: list[Verdict] = []
        structured = context.output_schema is not None
        if draft.invalid_tool_calls and not structured:
            found += [_verdict(f"/invalid_tool_calls/{i}", _MALFORMED) for i in range(len(draft.invalid_tool_calls))]
        for index, call in enumerate(draft.tool_calls):
            problems = self._problems(call, context, structured=structured)
            if problems:
                found += [_verdict(f"/tool_calls/{index}", problem) for problem in problems]
                if len(found) >= _MAX_VERDICTS:
                    break
        return found[:_MAX_VERDICTS] or None

    def prepare(self, tools: Sequence[ToolSpec]) -> None:
        """Compile the tools now and log what cannot be enforced, so that the first step does not have to."""
        for spec in tools:
            _checker(spec, strict=self.strict)

    def _problems(self, call: ToolCall, context: StepContext, *, structured: bool) -> Sequence[Problem]:
        name: object = call.get("name")
        arguments: object = call.get("args")
        if not isinstance(arguments, dict):
            return (_MALFORMED,)
        unstorable = _unstorable(arguments)
        found = [] if unstorable is None else [unstorable]
        spec = context.tools_by_name.get(name) if isinstance(name, str) and name else None
        if structured or (spec is not None and found):
            return found
        if spec is not None:
            if list(arguments) == [""] and not arguments[""] and not spec.parameters.get("properties"):
                arguments = {}  # how some models call a tool without parameters; it names nothing
            return _checker(spec, strict=self.strict)(arguments)
        if not isinstance(name, str) or not name:
            found.append(Problem("/name", "unknown_tool", "the call names no tool"))
        elif context.tools:
            found.append(Problem("/name", "unknown_tool", "no tool of this name was offered"))
        elif context.tool_choice != "none":
            found.append(Problem("/name", "unknown_tool", "a call although no tool was offered"))
        return found


def _verdict(base: str, problem: Problem) -> Verdict:
    path, code, reason = problem
    if code == "unchecked":
        return Verdict(outcome="abstain", code=code, reason=reason, path=base)
    return Verdict(outcome="fail", code=code, reason=reason, path=base + path)


# ---- storability ----------------------------------------------------------------------------------------------------


def _unstorable(arguments: JsonObject) -> Problem | None:
    """Return the first thing in the arguments that a checkpoint cannot hold; without recursion, in linear time."""
    stack: list[tuple[JsonObject | list[Json], tuple[object, ...]]] = [(arguments, ())]
    size = 0
    while stack:
        value, path = stack.pop()
        size += 2 * len(value)
        if len(path) >= MAX_ARGUMENT_DEPTH:
            return _cannot(path, f"nested more than {MAX_ARGUMENT_DEPTH} deep")
        items: Iterable[tuple[object, object]] = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(value, dict):
                if wrong := "" if isinstance(key, str) and key.isidentifier() else _bad_name(key):
                    return _cannot((*path, key), wrong)
                size += len(str(key))
            if isinstance(item, dict | list):
                stack.append((item, (*path, key)))
            elif wrong := _bad_scalar(item):
                return _cannot((*path, key), wrong)
            elif isinstance(item, str):
                size += len(item)
        if size > MAX_ARGUMENT_BYTES:
            return _cannot((), f"larger than {MAX_ARGUMENT_BYTES:,} bytes")
    return None


def _cannot(path: tuple[object, ...], reason: str) -> Problem:
    return Problem("/args" + pointer_of(path), "unstorable_argument", f"a checkpoint cannot hold it: {reason}")


def _bad_name(key: object) -> str:
    return unstorable_text(key) if isinstance(key, str) else "a name that is not a string"


def _bad_scalar(value: object) -> str:
    if isinstance(value, str):
        return unstorable_text(value)
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if _INT_MIN <= value < _INT_END else "an integer over 64 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "a number that is not finite"
    return "no JSON value"


# ---- one checker per tool -------------------------------------------------------------------------------------------

Checker = Callable[[JsonObject], list[Problem]]

_checkers: weakref.WeakKeyDictionary[ToolSpec, dict[bool, Checker]] = weakref.WeakKeyDictionary()
_schemas: IdentityCache[Schema] = IdentityCache()
_warned: set[tuple[str, object]] = set()
_lock = threading.RLock()


def _checker(spec: ToolSpec, *, strict: bool) -> Checker:
    held = _checkers.get(spec)
    found = held.get(strict) if held is not None else None
    if found is None:
        with _lock:
            found = None if strict or spec.strict else _native_checker(spec)
            if found is None:  # hosts describe the same tool anew for each step: its schema is found by its object
                found = partial(_check_schema, _schemas.get(spec.parameters, lambda: _compile(spec)))
            _checkers.setdefault(spec, {})[strict] = found
    return found


def _compile(spec: ToolSpec) -> Schema:
    made = Schema(spec.parameters)
    key = (spec.name, made.unchecked)
    if made.unchecked and key not in _warned and len(_warned) < _MAX_WARNINGS:
        _warned.add(key)
        parts = [f"{f.path or '/'} {f.keyword}: {f.message}".replace(" :", ":") for f in made.unchecked[:5]]
        more = len(made.unchecked) - len(parts)
        LOG.warning(
            "tool %r: parts of its schema cannot be enforced and are not held against a call: %s%s",
            spec.name[:80],
            "; ".join(parts),
            f"; and {more} more" if more else "",
        )
    return made


_CODES = {
    **dict.fromkeys(("required", "dependentRequired"), "missing_argument"),
    **dict.fromkeys(("enum", "const"), "not_in_enum"),
    **dict.fromkeys(("additionalProperties", "unevaluatedProperties"), "extra_argument"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "out_of_range"),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), "out_of_range"),
    **dict.fromkeys(("minProperties", "maxProperties"), "out_of_range"),
    "type": "wrong_type",
    "pattern": "pattern_mismatch",
}


def _check_schema(schema: Schema, arguments: JsonObject) -> list[Problem]:
    """Hold a call to a JSON Schema, and to the arguments that it lists."""
    report = schema.check(arguments)
    found = [Problem("/args" + f.path, _CODES.get(f.keyword, "schema_violation"), f.message) for f in report.faults]
    for key in schema.undeclared(arguments):
        extra = _extra(key)
        if all(problem.path != extra.path for problem in found):
            found.append(extra)
    if not report.complete:
        found.append(Problem("", "unchecked", "the schema takes too many steps to follow to its end"))
    return found


def _extra(key: object) -> Problem:
    return Problem("/args" + pointer_of([key]), "extra_argument", "the tool declares no such argument")


# ---- Python tools ---------------------------------------------------------------------------------------------------


def _native_checker(spec: ToolSpec) -> Checker | None:
    """Return the checker that asks a Python tool's own model; None when the tool has none that validates."""
    tool = spec.native
    if tool is None:
        return None
    model: object = tool.args_schema
    if model is None and spec.parameters.get("properties", {}).keys() == {"__arg1"}:
        return _one_argument
    if model is None:
        model = tool.tool_call_schema
    if not isinstance(model, type):
        return None
    # LangGraph fills in a parameter named `runtime`, annotated or not.
    injected = (_fields(model).keys() - _fields(tool.tool_call_schema).keys()) | ({"runtime"} & _fields(model).keys())
    return _ModelChecker(model, injected=injected)


def _one_argument(arguments: JsonObject) -> list[Problem]:
    """Refuse all but one argument, whatever the model calls it: so a LangChain `Tool` works."""
    if len(arguments) == 1:
        return []
    code = "missing_argument" if not arguments else "extra_argument"
    return [Problem("/args", code, "the tool takes exactly one argument")]


def _fields(model: object) -> Mapping[str, object]:
    fields = getattr(model, "model_fields", None)
    if fields is None:
        fields = getattr(model, "__fields__", None)  # pydantic's v1 classes
    return fields if isinstance(fields, Mapping) else {}


class _ModelChecker:
    """Asks a pydantic model, without what the host injects, and looks for arguments that the model would drop."""

    def __init__(self, model: type, *, injected: AbstractSet[str]) -> None:
        self.injected = injected
        validate = getattr(model, "model_validate", None) or model.parse_obj  # type: ignore[attr-defined] # of v1
        self.validate: Callable[[JsonObject], object] = validate
        self.known = frozenset(_accepted_names(model) - injected)
        self.open = _is_open(model)
        decorators = getattr(model, "__pydantic_decorators__", None)
        # A validator of the tool's author may change what it is given; a draft must stay as it is.
        custom = decorators is None or decorators.model_validators or decorators.field_validators
        self.copy: Callable[[JsonObject], JsonObject] = copy.deepcopy if custom else dict

    def __call__(self, arguments: JsonObject) -> list[Problem]:
        found: list[Problem] = []
        try:
            self.validate(self.copy(arguments))
        except Exception as error:  # noqa: BLE001 - whatever the tool's own validator raises
            found += self.problems(error)
        if not (self.open or self.known.issuperset(arguments)):
            found += [_extra(key) for key in arguments if key not in self.known][:_MAX_VERDICTS]
        return found

    def problems(self, error: Exception) -> Iterator[Problem]:
        from pydantic import ValidationError

        if isinstance(error, ValidationError):
            if error.error_count() > _MAX_ERRORS:
                yield Problem("/args", "schema_violation", f"the tool's model finds {error.error_count()} errors")
                return
            found: list[Any] = list(error.errors(include_url=False, include_context=False, include_input=False))
        elif type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic"):
            found = error.errors()  # type: ignore[attr-defined]  # pydantic's v1 classes have no type of ours
        else:
            host = sys.modules.get("langgraph.errors")  # whoever raises its control flow has imported it
            if host is not None and isinstance(error, host.GraphBubbleUp):
                raise error
            if not self.injected:  # with injected arguments it may be their absence that made it raise
                yield Problem("/args", "schema_violation", f"the tool's own validation raised {type(error).__name__}")
            return
        for item in found:
            if item["loc"] and item["loc"][0] in self.injected:
                continue
            kind = str(item["type"])
            code = _pydantic_code(kind)
            if code == "extra_argument" and len(item["loc"]) == 1:
                continue  # found by the checker, for every model
            reason = "refused by the tool's own validation" if code == "schema_violation" else kind.replace("_", " ")
            yield Problem("/args" + pointer_of(item["loc"]), code, reason)


_RANGES = (
    "greater_than greater_than_equal less_than less_than_equal multiple_of finite_number too_short too_long "
    "string_too_short string_too_long bytes_too_short bytes_too_long decimal_max_digits decimal_max_places "
    "decimal_whole_digits"
)
_KINDS = {
    **dict.fromkeys(("missing", "value_error.missing"), "missing_argument"),
    **dict.fromkeys(("enum", "literal_error", "type_error.enum", "value_error.const"), "not_in_enum"),
    **dict.fromkeys(("string_pattern_mismatch", "value_error.str.regex"), "pattern_mismatch"),
    **dict.fromkeys(("extra_forbidden", "value_error.extra"), "extra_argument"),
    "int_from_float": "wrong_type",
    **dict.fromkeys(_RANGES.split(), "out_of_range"),
}
"""Codes of pydantic's kinds of errors, those of its v1 classes too."""


def _pydantic_code(kind: str) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    if kind.startswith(("value_error.number", "value_error.any_str", "value_error.list")):
        return "out_of_range"
    return "wrong_type" if kind.endswith(("_type", "_parsing")) or kind.startswith("type_error") else "schema_violation"


def _accepted_names(model: type) -> set[str]:
    """Field names and aliases; a name that the model does not take by itself is then missing, not invented."""
    names: set[str] = set()
    for name, field in _fields(model).items():
        names.add(name)
        for alias in (getattr(field, "alias", None), getattr(field, "validation_alias", None)):
            names.update(_first_names(alias))
    return names


def _first_names(alias: object) -> Iterator[str]:
    """Yield the top-level keys that an alias reads: a name, an `AliasPath` or an `AliasChoices`."""
    if isinstance(alias, str):
        yield alias
    for choice in getattr(alias, "choices", ()):
        yield from _first_names(choice)
    path = getattr(alias, "path", None)
    if path and isinstance(path[0], str):
        yield path[0]


def _is_open(model: type) -> bool:
    """Return whether the tool takes arguments that it does not list: `extra="allow"`, `**kwargs`, or a root model."""
    config: object = getattr(model, "model_config", None)
    old = getattr(getattr(model, "Config", None), "extra", None)
    extra = old if config is None else config.get("extra") if isinstance(config, Mapping) else None
    open_ = getattr(extra, "value", extra) == "allow" or "kwargs" in _fields(model)
    return open_ or bool(getattr(model, "__pydantic_root_model__", False))
