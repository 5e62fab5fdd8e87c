"""The keywords of JSON Schema as `jsonschema` calls them: bounded, counted, and without values in their messages.

The stock keywords put the value into each message, scan lists in square time, divide floats and use `re`; none of that
holds against a schema of a stranger. A keyword's value here is what the compiler made of it, a subschema is a `Node`.
"""

from __future__ import annotations

import json
import math
import operator
from contextvars import ContextVar
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.validators.json_schema.patterns import Pattern

MAX_FAULTS = 10
"""Faults reported for one value; more say nothing more."""
MAX_BITS = 4_096
_MAX_NODES_DEEP = 150
_MAX_DEPTH = 64
_COST_OF_PATTERN = 8  # bits: 256 steps of a pattern's program are one of ours

Json: TypeAlias = Any
Errors: TypeAlias = "Iterator[ValidationError]"


class BudgetSpent(Exception):
    """A check took more steps than it may, or a value is nested too deep."""


class Run:
    """The steps that are left for one check, and the depth that it has reached."""

    __slots__ = ("depth", "steps")

    def __init__(self, steps: int) -> None:
        self.steps, self.depth = steps, 0

    def spend(self, steps: int) -> None:
        """Count steps.

        Raises:
            BudgetSpent: none are left.
        """
        self.steps -= steps
        if self.steps < 0:
            raise BudgetSpent


RUN: ContextVar[Run] = ContextVar("RUN")
"""The check that is going on. `jsonschema` hands its keywords nothing of ours but the schema."""


class Node:
    """One compiled (sub)schema: `checks` is the schema that `validator` holds values to.

    `exact` is false when something in it cannot be enforced: a value that fails is surely invalid, one that passes may
    still be. `opaque`: what it evaluates or declares is unknown. `in_place` lists the subschemas that look at the same
    value, `links` all subschemas.
    """

    __slots__ = ("checks", "exact", "in_place", "links", "opaque", "pointer", "validator")

    def __init__(self, pointer: str = "") -> None:
        self.checks: JsonObject = {}
        self.pointer = pointer
        self.exact, self.opaque = True, False
        self.in_place: list[list[Node]] = []
        self.links: list[list[Node]] = []
        self.validator: Validator


@cache
def validator_class() -> type[Validator]:
    """Return Draft 2020-12 with the keywords of this module; loads `jsonschema` on first use."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    made: type[Validator] = extend(Draft202012Validator, validators=CHECKS)  # type: ignore[no-untyped-call]
    return made


def errors(node: Node, value: Json, key: str | int | None = None) -> Errors:
    """Yield what is wrong with a value that stands at `key`.

    Raises:
        BudgetSpent: out of steps, or nested too deep.
    """
    if not node.checks or (value is None and "nullable" in node.checks):
        return
    run = RUN.get()
    run.steps -= 1
    run.depth += 1
    if run.steps < 0 or run.depth > _MAX_NODES_DEEP:
        raise BudgetSpent
    try:
        for error in node.validator.iter_errors(value):
            if key is not None:
                error.path.appendleft(key)
            yield error
    finally:
        run.depth -= 1


def _fits(node: Node, value: Json) -> bool:
    return next(errors(node, value), None) is None


def _fault(message: str, *path: str | int, keyword: str | None = None) -> ValidationError:
    from jsonschema import ValidationError

    return ValidationError(message, path=path) if keyword is None else ValidationError(message, keyword, path)


# ---- any type -------------------------------------------------------------------------------------------------------

_KINDS: dict[type, str] = {
    type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
}  # fmt: skip


def kind_of(value: object) -> str:
    """Return the JSON name of a value's type."""
    known = _KINDS.get(type(value))
    return known or next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "no JSON value")


def has_kind(value: Json, kinds: frozenset[str]) -> bool:
    """Return whether a value is of one of the kinds: 5.0 is an integer, an integer is a number."""
    kind = kind_of(value)
    if kind in kinds:
        return True
    return (kind == "integer" and "number" in kinds) or (kind == "number" and "integer" in kinds and value.is_integer())


def _type(_v: Validator, kinds: frozenset[str], value: Json, _s: JsonObject) -> Errors:
    if not has_kind(value, kinds):
        yield _fault(f"expected {' or '.join(sorted(kinds))}, found {kind_of(value)}")


def key_of(value: Json, run: Run) -> object:
    """Return a hashable stand-in that is equal for equal JSON values: `1 == 1.0`, `true != 1`.

    It is text, whose hash a stranger cannot steer: looking a value up takes the same time whatever the others are.
    """
    return value if isinstance(value, str) else (_canonical(value, run, 0),)


def _canonical(value: Json, run: Run, depth: int) -> str:
    run.spend(1)
    if depth > _MAX_DEPTH:
        raise BudgetSpent
    if isinstance(value, list):
        return f"[{','.join([_canonical(item, run, depth + 1) for item in value])}]"
    if isinstance(value, dict):
        parts = [f"{json.dumps(str(key))}:{_canonical(item, run, depth + 1)}" for key, item in value.items()]
        return f"{{{','.join(sorted(parts))}}}"
    if isinstance(value, str):
        run.spend(len(value) >> 6)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise BudgetSpent
    return json.dumps(value) if value is None or isinstance(value, int | float | str) else f"foreign {id(value)}"


def _member(_v: Validator, keys: frozenset[object], value: Json, _s: JsonObject) -> Errors:
    if key_of(value, RUN.get()) not in keys:
        yield _fault("not one of the allowed values")


# ---- numbers, text and sizes ----------------------------------------------------------------------------------------

Check: TypeAlias = "Callable[[Validator, Any, Any, JsonObject], Errors]"


def _bound(wrong: Callable[[Any, Any], bool], sign: str) -> Check:
    def check(_v: Validator, limit: float, value: Json, _s: JsonObject) -> Errors:
        if isinstance(value, int | float) and not isinstance(value, bool) and wrong(value, limit):
            yield _fault(f"expected a number {sign} {limit}")

    return check


def _size(kind: type, wrong: Callable[[Any, Any], bool], side: str, unit: str) -> Check:
    def check(_v: Validator, limit: int, value: Json, _s: JsonObject) -> Errors:
        if isinstance(value, kind) and wrong(len(value), limit):  # type: ignore[arg-type]
            yield _fault(f"expected at {side} {limit} {unit}")

    return check


def fraction(value: float) -> Fraction:
    """Return a finite number as JSON writes it: 19.99 is 1999/100, which binary floats cannot say."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def _multiple_of(_v: Validator, step: Fraction, value: Json, _s: JsonObject) -> Errors:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise BudgetSpent
    if math.isfinite(value):
        exact = fraction(value)
        if exact.numerator * step.denominator % (exact.denominator * step.numerator) == 0:
            return
    yield _fault(f"expected a multiple of {step if step.denominator == 1 else float(step)}")


def matches(pattern: Pattern, text: str) -> bool:
    """Return whether a pattern is found in a text; costs steps by the length of both."""
    RUN.get().spend(len(text) * pattern.size >> _COST_OF_PATTERN)
    return pattern.search(text)


def _pattern(_v: Validator, pattern: Pattern, value: Json, _s: JsonObject) -> Errors:
    if isinstance(value, str) and not matches(pattern, value):
        yield _fault("does not match the pattern")


# ---- objects --------------------------------------------------------------------------------------------------------


def _required(_v: Validator, names: tuple[str, ...], value: Json, _s: JsonObject) -> Errors:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield _fault("missing", name)


def _properties(_v: Validator, nodes: dict[str, Node], value: Json, _s: JsonObject) -> Errors:
    if isinstance(value, dict):
        for name in nodes if len(nodes) < len(value) else value:
            if name in value and name in nodes:
                yield from errors(nodes[name], value[name], name)


def _pattern_properties(_v: Validator, pairs: list[tuple[Pattern, Node]], value: Json, _s: JsonObject) -> Errors:
    for name, item in value.items() if isinstance(value, dict) else ():
        for pattern, node in pairs:
            RUN.get().spend(1)
            if matches(pattern, str(name)):
                yield from errors(node, item, name)


def _additional(_v: Validator, node: Node, value: Json, schema: JsonObject) -> Errors:
    if isinstance(value, dict) and node.checks:
        names, pairs = schema.get("properties", ()), schema.get("patternProperties", ())
        for name, item in value.items():
            if name in names or any(matches(pattern, str(name)) for pattern, _ in pairs):
                continue
            if "false" in node.checks:
                yield _fault("not declared", name)
            else:
                yield from errors(node, item, name)


def _property_names(_v: Validator, node: Node, value: Json, _s: JsonObject) -> Errors:
    for name in value if isinstance(value, dict) else ():
        if not _fits(node, str(name)):
            yield _fault("a name that is not allowed", name)


def _dependent_required(_v: Validator, needs: dict[str, list[str]], value: Json, _s: JsonObject) -> Errors:
    for name, others in needs.items() if isinstance(value, dict) else ():
        if name in value:
            yield from (_fault("missing beside another argument", other) for other in others if other not in value)


def _dependent_schemas(_v: Validator, nodes: dict[str, list[Node]], value: Json, _s: JsonObject) -> Errors:
    for name, held in nodes.items() if isinstance(value, dict) else ():
        if name in value:
            yield from errors(held[0], value)


# ---- arrays ---------------------------------------------------------------------------------------------------------


def _prefix_items(_v: Validator, nodes: list[Node], value: Json, _s: JsonObject) -> Errors:
    for index, (node, item) in enumerate(zip(nodes, value if isinstance(value, list) else (), strict=False)):
        yield from errors(node, item, index)


def _items(_v: Validator, node: Node, value: Json, schema: JsonObject) -> Errors:
    if isinstance(value, list) and node.checks:
        for index in range(len(schema.get("prefixItems", ())), len(value)):
            yield from errors(node, value[index], index)


def _contains(_v: Validator, node: Node, value: Json, schema: JsonObject) -> Errors:
    if not isinstance(value, list):
        return
    low, high = schema.get("minContains", 1), schema.get("maxContains", math.inf)
    enough = min(low if high == math.inf else high + 1, len(value))
    RUN.get().spend(len(value) >> 2)
    found = sum(1 for _ in islice((item for item in value if _fits(node, item)), enough))
    if found < low:
        yield _fault(f"expected at least {low} matching items")
    elif found > high and node.exact:
        yield _fault(f"expected at most {high} matching items")


def _unique_items(_v: Validator, _wanted: object, value: Json, _s: JsonObject) -> Errors:
    if isinstance(value, list):
        run = RUN.get()
        if len({key_of(item, run) for item in value}) < len(value):
            yield _fault("an item stands twice")


# ---- the same value -------------------------------------------------------------------------------------------------


def _all_of(_v: Validator, nodes: list[Node], value: Json, _s: JsonObject) -> Errors:
    for node in nodes:
        yield from errors(node, value)


def _any_of(_v: Validator, nodes: list[Node], value: Json, _s: JsonObject, keyword: str = "anyOf") -> Errors:
    tried = []
    for node in nodes:
        found = list(islice(errors(node, value), MAX_FAULTS))
        if not found:
            return
        tried.append(found)
    # Say what is wrong in the one branch that was meant, when the type of the value tells which one that is.
    meant = [found for found in tried if not any(e.validator == "type" and not e.path for e in found)]
    if len(meant) == 1:
        yield from meant[0]
    elif not meant:
        yield _fault("a type that no alternative allows", keyword="type")
    elif all(error.validator in ("enum", "const") and not error.path for found in meant for error in found):
        yield _fault("not one of the allowed values", keyword="enum")
    else:
        yield _fault("fits none of the alternatives", keyword=keyword)


def _one_of(_v: Validator, nodes: list[Node], value: Json, schema: JsonObject) -> Errors:
    fitting = [node for node in nodes if _fits(node, value)]
    if not fitting:
        yield from _any_of(_v, nodes, value, schema, "oneOf")
    elif sum(node.exact for node in fitting) > 1:
        yield _fault("fits more than one of the alternatives")


def _not(_v: Validator, nodes: list[Node], value: Json, _s: JsonObject) -> Errors:
    if nodes[0].exact and _fits(nodes[0], value):
        yield _fault("fits what is forbidden")


def _if(_v: Validator, nodes: list[Node], value: Json, _s: JsonObject) -> Errors:
    condition, then, otherwise = nodes
    if not _fits(condition, value):
        yield from errors(otherwise, value)
    elif condition.exact:
        yield from errors(then, value)


def _false(_v: Validator, _true: object, _value: Json, _s: JsonObject) -> Errors:
    yield _fault("no value is allowed here")


# ---- what nothing else looked at ------------------------------------------------------------------------------------


def _applied(checks: JsonObject, value: Json) -> list[Node]:
    """Return the subschemas that evaluated the same value, successfully or perhaps so."""
    found = list(checks.get("allOf", ()))
    found += [node for node in (*checks.get("anyOf", ()), *checks.get("oneOf", ())) if _fits(node, value)]
    if "if" in checks:
        condition, then, otherwise = checks["if"]
        fits = _fits(condition, value)
        found += [condition, then] if fits else []
        found += [otherwise] if not (fits and condition.exact) else []
    dependent = checks.get("dependentSchemas", {}).items() if isinstance(value, dict) else ()
    return found + [nodes[0] for name, nodes in dependent if name in value]


def _evaluated(node: Node, value: Json) -> set[str | int] | None:
    """Return the names of properties or the indexes of items that something evaluated; None for all."""
    checks, seen = node.checks, set[str | int]()
    RUN.get().spend(1 + len(value))
    if node.opaque or ("additionalProperties" if isinstance(value, dict) else "items") in checks:
        return None
    if isinstance(value, dict):
        pairs, names = checks.get("patternProperties", ()), checks.get("properties", ())
        seen.update(k for k in value if k in names or any(matches(p, str(k)) for p, _ in pairs))
    else:
        seen.update(range(len(checks.get("prefixItems", ()))))
        if "contains" in checks:
            seen.update(index for index, item in enumerate(value) if _fits(checks["contains"], item))
    for kid in _applied(checks, value):
        more = None if _LEFTOVER[isinstance(value, dict)] in kid.checks else _evaluated(kid, value)
        if more is None:
            return None
        seen |= more
    return seen


_LEFTOVER = ("unevaluatedItems", "unevaluatedProperties")


def _unevaluated(_v: Validator, nodes: tuple[Node, Node], value: Json, schema: JsonObject) -> Errors:
    owner, node = nodes
    if not isinstance(value, dict | list) or schema.get(_LEFTOVER[isinstance(value, dict)]) is not nodes:
        return
    seen = _evaluated(owner, value)
    if seen is not None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in seen and not _fits(node, item):
                yield _fault("not declared", key)


CHECKS: dict[str, Check] = {
    "type": _type, "enum": _member, "const": _member, "multipleOf": _multiple_of, "pattern": _pattern,
    "minimum": _bound(operator.lt, ">="), "exclusiveMinimum": _bound(operator.le, ">"),
    "maximum": _bound(operator.gt, "<="), "exclusiveMaximum": _bound(operator.ge, "<"),
    "minLength": _size(str, operator.lt, "least", "characters"),
    "maxLength": _size(str, operator.gt, "most", "characters"),
    "minItems": _size(list, operator.lt, "least", "items"), "maxItems": _size(list, operator.gt, "most", "items"),
    "minProperties": _size(dict, operator.lt, "least", "properties"),
    "maxProperties": _size(dict, operator.gt, "most", "properties"),
    "required": _required, "dependentRequired": _dependent_required, "dependentSchemas": _dependent_schemas,
    "properties": _properties, "patternProperties": _pattern_properties, "additionalProperties": _additional,
    "propertyNames": _property_names, "prefixItems": _prefix_items, "items": _items, "contains": _contains,
    "uniqueItems": _unique_items, "allOf": _all_of, "anyOf": _any_of, "oneOf": _one_of, "not": _not, "if": _if,
    "false": _false, "unevaluatedProperties": _unevaluated, "unevaluatedItems": _unevaluated,
}  # fmt: skip
"""A keyword as `jsonschema` calls it: (validator, value of the keyword, value to check, schema)."""
