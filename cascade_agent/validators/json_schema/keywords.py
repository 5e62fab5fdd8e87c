"""The keywords of JSON Schema Draft 2020-12 as closures over compiled nodes.

Law: a keyword that is malformed is reported to the compiler and then left out; it never makes a good value fail. A
check never raises but for `BudgetSpent`, counts its steps, and its messages name types and bounds, never a value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from types import NoneType
from typing import Any, NamedTuple, Protocol

from cascade_agent.validators.json_schema.regex import Budget, BudgetSpent, Pattern, PatternError, compile_pattern

MAX_FAULTS = 10
"""Faults reported for one value; more say nothing more."""
_MAX_FRAMES = 150
_MAX_DEPTH = 64
_MAX_BITS = 4_096

Path = tuple[Any, ...]
"""Where a value stands: `()` for the root, else `(path of the parent, key or index)`."""


class Fault(NamedTuple):
    """One broken constraint: JSON pointer to the value, keyword of the schema, a message without values."""

    path: str
    keyword: str
    message: str


class Run(Budget):
    """The state of one check: steps left, nodes entered, faults found so far (bounded)."""

    __slots__ = ("depth", "faults")

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.depth = 0
        self.faults: list[tuple[Path, str, str]] = []

    def fail(self, path: Path, keyword: str, message: str) -> bool:
        """Note a fault; always False, so that a check can return it."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append((path, keyword, message))
        return False


Check = Callable[[Any, Path, Run], bool]

_TYPES: tuple[type, ...] = (NoneType, bool, int, float, str, list, dict, object)
"""The Python types of JSON values, and `object` for anything else."""
_NUMBERS = (int, float)


class Node:
    """One compiled (sub)schema: which checks a value of which Python type has to pass.

    `exact` is false when something in it cannot be enforced: a value that fails is surely invalid, one that passes may
    still be invalid. `in_place` lists the subschemas that look at the same value, `links` all subschemas.
    """

    __slots__ = ("annotations", "exact", "in_place", "links", "opaque", "pointer", "table")

    def __init__(self, pointer: str = "") -> None:
        self.table: dict[type, tuple[Check, ...]] = dict.fromkeys(_TYPES, ())
        self.pointer = pointer
        self.exact = True
        self.opaque = False
        self.in_place: list[list[Node]] = []
        self.links: list[list[Node]] = []
        self.annotations = Annotations()

    def add(self, check: Check, *types: type) -> None:
        """Have values of these types (all, when none is named) pass `check`."""
        for kind in types or _TYPES:
            self.table[kind] += (check,)


class Annotations:
    """What of an object or array a node evaluates itself, for `unevaluated*` and for the question what is declared."""

    __slots__ = (
        "all_items", "all_properties", "any_of", "contains", "declares", "demanded", "dependent", "every",
        "if_then_else", "leftover_items", "leftover_properties", "names", "one_of", "open", "patterns", "prefix",
    )  # fmt: skip

    def __init__(self) -> None:
        self.declares = False
        self.names: frozenset[str] = frozenset()
        self.demanded: frozenset[str] = frozenset()
        self.patterns: list[Pattern] = []
        self.all_properties = False
        self.open = False
        self.prefix = 0
        self.all_items = False
        self.leftover_properties = False
        self.leftover_items = False
        self.contains: list[Node] = []
        self.every: list[list[Node]] = []
        self.any_of: list[Node] = []
        self.one_of: list[Node] = []
        self.if_then_else: list[Node] = []
        self.dependent: dict[str, list[Node]] = {}


def run(node: Node, value: Any, path: Path, st: Run) -> bool:
    """Check one value against one node.

    Raises:
        BudgetSpent: out of steps, or nodes nested too deep.
    """
    checks = node.table.get(type(value))
    if checks is None:
        checks = node.table[_base_type(value)]
    if not checks:
        return True
    st.steps -= 1
    st.depth += 1
    if st.steps < 0 or st.depth > _MAX_FRAMES:
        raise BudgetSpent
    ok = True
    for check in checks:
        if not check(value, path, st):
            ok = False
    st.depth -= 1
    return ok


def _base_type(value: object) -> type:
    return next(kind for kind in _TYPES if isinstance(value, kind))  # bool before int; object matches everything


def _trial(node: Node, value: Any, path: Path, st: Run) -> tuple[bool, list[tuple[Path, str, str]]]:
    """Check without reporting: whether it passed, and the faults it would have reported."""
    outer, inner = st.faults, list[tuple[Path, str, str]]()
    st.faults = inner
    ok = run(node, value, path, st)
    st.faults = outer
    return ok, inner


class Compiler(Protocol):
    """What a keyword needs of the compiler."""

    def child(self, node: Node, schema: object, *tokens: str | int) -> Node:
        """Compile a subschema that stands at `tokens` below `node`."""
        ...

    def target(self, node: Node, reference: object, keyword: str) -> Node | None:
        """Compile what a reference leads to; None (and reported) when it leads nowhere."""
        ...

    def unchecked(self, node: Node, keyword: str, reason: str) -> None:
        """Report that a keyword cannot be enforced; `node` is no longer exact."""
        ...


Builder = Callable[[Compiler, Node, dict[str, Any], Any], None]

# ---- types ----------------------------------------------------------------------------------------------------------

_TYPE_NAMES = {
    "null": "null", "none": "null", "nonetype": "null",
    "boolean": "boolean", "bool": "boolean",
    "integer": "integer", "int": "integer", "int32": "integer", "int64": "integer", "long": "integer",
    "number": "number", "float": "number", "double": "number", "decimal": "number",
    "string": "string", "str": "string", "text": "string",
    "array": "array", "list": "array", "tuple": "array", "set": "array", "sequence": "array",
    "object": "object", "dict": "object", "map": "object", "mapping": "object",
    "any": "any", "type_unspecified": "any",
}  # fmt: skip
"""Type names of JSON Schema, of Python and of provider dialects, lower case."""

_KIND_OF = {NoneType: "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


def kind_of(value: object) -> str:
    """The JSON name of a value's type."""
    return "object" if isinstance(value, dict) else _KIND_OF.get(_base_type(value), "no JSON value")


def _type_set(value: object) -> frozenset[str] | None:
    """The declared types in JSON Schema's names, `any` for no constraint; None when that is not readable."""
    names = value if isinstance(value, list) else [value]
    found = {_TYPE_NAMES.get(name.strip().lower()) if isinstance(name, str) else None for name in names}
    if not found or None in found:
        return None
    return frozenset(name for name in found if name is not None)


def _type(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    types = _type_set(value)
    if types is None:
        c.unchecked(node, "type", "not a type of JSON Schema")
        return
    if "any" in types:
        return
    expected = " or ".join(sorted(types))
    if schema.get("nullable") is True:
        types |= {"null"}

    def mismatch(value: Any, path: Path, st: Run) -> bool:
        return st.fail(path, "type", f"expected {expected}, found {kind_of(value)}")

    def integral(value: Any, path: Path, st: Run) -> bool:
        return value.is_integer() or mismatch(value, path, st)

    for kind in _TYPES:
        name = "object" if kind is dict else _KIND_OF.get(kind, "")
        if name in types or (kind is int and "number" in types):
            continue
        if kind is float and "integer" in types:
            node.table[kind] = (integral, *node.table[kind])
        else:
            node.table[kind] = (mismatch,)  # what else is wrong with a value of another type says nothing


def _has_type(value: object, types: frozenset[str]) -> bool:
    kind = kind_of(value)
    return kind in types or (kind in ("integer", "number") and bool(types & {"integer", "number"}))


# ---- any type -------------------------------------------------------------------------------------------------------


def json_key(value: Any, st: Budget) -> Any:
    """A hashable stand-in that is equal for equal JSON values: `1 == 1.0`, `true != 1`.

    Containers become JSON text, whose hash a stranger cannot steer.
    """
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return (value,)
    if isinstance(value, int | float):
        return value
    return ("json", _canonical(value, st, 0)) if isinstance(value, list | dict) else ("foreign", id(value))


def _canonical(value: Any, st: Budget, depth: int) -> str:
    st.spend(1)
    if isinstance(value, list):
        if depth >= _MAX_DEPTH:
            raise BudgetSpent
        return "[" + ",".join([_canonical(v, st, depth + 1) for v in value]) + "]"
    if isinstance(value, dict):
        if depth >= _MAX_DEPTH:
            raise BudgetSpent
        parts = [(json.dumps(str(k)), _canonical(v, st, depth + 1)) for k, v in value.items()]
        return "{" + ",".join([f"{k}:{v}" for k, v in sorted(parts)]) + "}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise BudgetSpent
    if isinstance(value, str):
        st.spend(len(value) >> 6)
    return json.dumps(value) if value is None or isinstance(value, int | float | str) else f"foreign {id(value)}"


def _members(c: Compiler, node: Node, keyword: str, schema: dict[str, Any], values: list[Any]) -> None:
    types = _type_set(schema["type"]) if "type" in schema else None
    if types and "any" not in types and not any(_has_type(v, types) for v in values):
        c.unchecked(node, keyword, "no listed value has the declared type")
        return
    budget = Budget(1_000_000)
    try:
        keys = frozenset(json_key(v, budget) for v in values)
    except BudgetSpent:
        c.unchecked(node, keyword, "a listed value is nested too deep or too large")
        return
    nullable = schema.get("nullable") is True

    def member(value: Any, path: Path, st: Run) -> bool:
        return (
            json_key(value, st) in keys
            or (nullable and value is None)
            or st.fail(path, keyword, "not one of the allowed values")
        )

    node.add(member)


def _enum(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    if not isinstance(value, list) or not value:
        c.unchecked(node, "enum", "not a list of values")
        return
    _members(c, node, "enum", schema, value)


def _const(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    _members(c, node, "const", schema, [value])


# ---- numbers --------------------------------------------------------------------------------------------------------


def _number(value: object) -> int | float | None:
    """A finite number of a schema; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value.bit_length() <= _MAX_BITS else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def _finite(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _bound(keyword: str) -> Builder:
    exclusive = keyword.startswith("exclusive")
    lower = keyword in ("minimum", "exclusiveMinimum")
    other = "exclusiveMinimum" if keyword == "minimum" else "exclusiveMaximum"

    def build(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
        if exclusive and isinstance(value, bool):
            return  # Draft 4: a switch beside `minimum`
        limit = _number(value)
        if limit is None:
            c.unchecked(node, keyword, "not a finite number")
            return
        strict = exclusive or schema.get(other) is True
        sign = (">" if lower else "<") if strict else (">=" if lower else "<=")
        message = f"expected a number {sign} {limit}"

        def check(value: Any, path: Path, st: Run) -> bool:
            wrong = (value < limit if lower else value > limit) or (strict and value == limit)
            return not wrong or st.fail(path, keyword, message)

        node.add(check, *_NUMBERS)

    return build


def _multiple_of(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    step = _number(value)
    if step is None or step <= 0:
        c.unchecked(node, "multipleOf", "not a finite number above 0")
        return
    step_digits, step_exponent = _decimal(step)
    message = f"expected a multiple of {step}"

    def check(value: Any, path: Path, st: Run) -> bool:
        if not _finite(value):
            return st.fail(path, "multipleOf", message)
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise BudgetSpent
        digits, exponent = _decimal(value)
        low = min(exponent, step_exponent)
        st.spend(1)
        rest: int = (digits * 10 ** (exponent - low)) % (step_digits * 10 ** (step_exponent - low))
        return rest == 0 or st.fail(path, "multipleOf", message)

    node.add(check, *_NUMBERS)


def _decimal(value: float) -> tuple[int, int]:
    """A finite number as (digits, exponent of ten), exactly as JSON writes it: 19.99 is (1999, -2)."""
    if isinstance(value, int):
        return value, 0
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    number = int("".join(map(str, digits)))
    return (-number if sign else number), int(exponent)


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 or number != int(number) else int(number)


def _size(keyword: str, kind: type, what: str) -> Builder:
    lower = keyword.startswith("min")

    def build(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
        del schema
        limit = _count(value)
        if limit is None:
            c.unchecked(node, keyword, "not a count")
            return
        message = f"expected at {'least' if lower else 'most'} {limit} {what}"

        def at_least(value: Any, path: Path, st: Run) -> bool:
            return len(value) >= limit or st.fail(path, keyword, message)

        def at_most(value: Any, path: Path, st: Run) -> bool:
            return len(value) <= limit or st.fail(path, keyword, message)

        node.add(at_least if lower else at_most, kind)

    return build


# ---- strings --------------------------------------------------------------------------------------------------------


def _compiled(c: Compiler, node: Node, keyword: str, source: object) -> Pattern | None:
    if not isinstance(source, str):
        c.unchecked(node, keyword, "not a string")
        return None
    try:
        pattern = compile_pattern(source)
    except PatternError as error:
        c.unchecked(node, keyword, f"pattern with {error}" if "pattern" not in str(error) else str(error))
        return None
    if not pattern.exact:
        node.exact = False
    return pattern


def _pattern(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    pattern = _compiled(c, node, "pattern", value)
    if pattern is None:
        return

    def check(value: Any, path: Path, st: Run) -> bool:
        return pattern.search(value, st) is not False or st.fail(path, "pattern", "does not match the pattern")

    node.add(check, str)


# ---- objects --------------------------------------------------------------------------------------------------------


def _required(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    if not isinstance(value, list):
        c.unchecked(node, "required", "not a list of names")
        return
    names = tuple(dict.fromkeys(name for name in value if isinstance(name, str)))
    if any(not isinstance(name, str) for name in value):
        c.unchecked(node, "required", "a name that is not a string")
    node.annotations.demanded = frozenset(names)

    def check(value: Any, path: Path, st: Run) -> bool:
        ok = True
        for name in names:
            if name not in value:
                ok = st.fail((path, name), "required", "missing")
        return ok

    if names:
        node.add(check, dict)


def _subschemas(c: Compiler, node: Node, keyword: str, value: object) -> dict[str, Node]:
    """Compile a map of names to subschemas; not in place."""
    if not isinstance(value, dict):
        c.unchecked(node, keyword, "not an object")
        return {}
    kids = {name: c.child(node, sub, keyword, name) for name, sub in value.items()}
    node.links.append(list(kids.values()))
    return kids


def _fields(c: Compiler, node: Node, schema: dict[str, Any], _value: Any) -> None:
    """`properties`, `patternProperties` and `additionalProperties` in one pass over the object."""
    properties = _subschemas(c, node, "properties", schema["properties"]) if "properties" in schema else {}
    patterns: list[tuple[Pattern, Node]] = []
    unreadable = False
    if "patternProperties" in schema:
        for source, kid in _subschemas(c, node, "patternProperties", schema["patternProperties"]).items():
            pattern = _compiled(c, node, "patternProperties", source)
            if pattern is None:
                unreadable = True
            else:
                patterns.append((pattern, kid))
    rest: list[Node] = []
    if "additionalProperties" in schema:
        kid = c.child(node, schema["additionalProperties"], "additionalProperties")
        if unreadable and schema["additionalProperties"] is not True:
            c.unchecked(node, "additionalProperties", "stands beside a pattern that cannot be checked")
            node.opaque = True
        else:
            rest.append(kid)
        node.links.append(rest)
    note = node.annotations
    note.declares = isinstance(schema.get("properties"), dict)
    note.names = frozenset(properties)
    note.patterns = [pattern for pattern, _ in patterns]
    note.all_properties = note.all_properties or "additionalProperties" in schema
    note.open = note.open or schema.get("additionalProperties", False) is not False
    closed = schema.get("additionalProperties") is False
    node.add(_field_check(properties, patterns, rest, closed=closed), dict)


def _field_check(
    properties: dict[str, Node], patterns: list[tuple[Pattern, Node]], rest: list[Node], *, closed: bool
) -> Check:
    def check(value: Any, path: Path, st: Run) -> bool:
        ok = True
        st.steps -= len(value) >> 2
        for key, item in value.items():
            kid = properties.get(key)
            known = kid is not None
            if kid is not None and kid.table.get(type(item)) != () and not run(kid, item, (path, key), st):
                ok = False
            for pattern, other in patterns:
                if pattern.search(str(key), st) is not False:
                    known = True
                    ok = run(other, item, (path, key), st) and ok
            if not known and rest:
                if closed:
                    ok = st.fail((path, key), "additionalProperties", "not declared")
                else:
                    ok = run(rest[0], item, (path, key), st) and ok
            if not ok and len(st.faults) >= MAX_FAULTS:
                return False
        return ok

    return check


def _property_names(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    kids = [c.child(node, value, "propertyNames")]
    node.links.append(kids)

    def check(value: Any, path: Path, st: Run) -> bool:
        ok = True
        for key in value:
            st.spend(1)
            if not _trial(kids[0], str(key), path, st)[0]:
                ok = st.fail((path, key), "propertyNames", "a name that is not allowed")
                if len(st.faults) >= MAX_FAULTS:
                    return False
        return ok

    node.add(check, dict)


def _dependent_required(keyword: str) -> Builder:
    """`dependentRequired`, and `dependencies` of Draft 7, which may also hold schemas."""
    older = keyword == "dependencies"

    def build(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
        del schema
        if not isinstance(value, dict):
            c.unchecked(node, keyword, "not an object")
            return
        needs: dict[str, tuple[str, ...]] = {}
        for name, names in value.items():
            listed = [names] if older and isinstance(names, str) else names
            if isinstance(listed, list) and all(isinstance(n, str) for n in listed):
                needs[name] = tuple(listed)
            elif not (older and isinstance(names, dict | bool)):
                c.unchecked(node, keyword, "not a list of names")
        if needs:
            node.add(_needs_check(needs), dict)
        if older:
            _dependent(c, node, keyword, {n: s for n, s in value.items() if isinstance(s, dict | bool)})

    return build


def _needs_check(needs: dict[str, tuple[str, ...]]) -> Check:
    def check(value: Any, path: Path, st: Run) -> bool:
        missing = [other for name, names in needs.items() if name in value for other in names if other not in value]
        for other in missing:
            st.fail((path, other), "dependentRequired", "missing beside another argument")
        return not missing

    return check


def _dependent_schemas(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    if not isinstance(value, dict):
        c.unchecked(node, "dependentSchemas", "not an object")
        return
    _dependent(c, node, "dependentSchemas", value)


def _dependent(c: Compiler, node: Node, keyword: str, value: dict[str, Any]) -> None:
    kids = {name: [c.child(node, sub, keyword, name)] for name, sub in value.items()}
    node.in_place += kids.values()
    node.links += kids.values()
    node.annotations.dependent.update(kids)

    def check(value: Any, path: Path, st: Run) -> bool:
        ok = True
        for name, kid in kids.items():
            if name in value:
                ok = run(kid[0], value, path, st) and ok
        return ok

    if kids:
        node.add(check, dict)


# ---- arrays ---------------------------------------------------------------------------------------------------------


def _elements(c: Compiler, node: Node, schema: dict[str, Any], _value: Any) -> None:
    """`prefixItems` and `items`, and the tuple form of older drafts."""
    prefix: object = schema.get("prefixItems", [])
    rest_key = "items"
    if isinstance(schema.get("items"), list) and "prefixItems" not in schema:
        prefix, rest_key = schema["items"], "additionalItems"
    if not isinstance(prefix, list):
        c.unchecked(node, "prefixItems", "not a list")
        node.opaque = True
        return
    where = "prefixItems" if rest_key == "items" else "items"
    firsts = [c.child(node, sub, where, i) for i, sub in enumerate(prefix)]
    rest = [c.child(node, schema[rest_key], rest_key)] if rest_key in schema else []
    node.links += [firsts, rest]
    node.annotations.prefix = len(firsts)
    node.annotations.all_items = node.annotations.all_items or bool(rest)

    def check(value: Any, path: Path, st: Run) -> bool:
        ok = True
        st.spend(len(value) >> 2)
        for index, kid in zip(range(len(value)), firsts, strict=False):
            ok = run(kid, value[index], (path, index), st) and ok
        if rest:
            kid = rest[0]
            table = kid.table
            for index in range(len(firsts), len(value)):
                item = value[index]
                if table.get(type(item)) != () and not run(kid, item, (path, index), st):
                    ok = False
                    if len(st.faults) >= MAX_FAULTS:
                        return False
        return ok

    node.add(check, list)


def _contains(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    low, high = 1, None
    if "minContains" in schema:
        count = _count(schema["minContains"])
        if count is None:
            c.unchecked(node, "minContains", "not a count")
        low = 0 if count is None else count
    if "maxContains" in schema:
        high = _count(schema["maxContains"])
        if high is None:
            c.unchecked(node, "maxContains", "not a count")
    kids = [c.child(node, value, "contains")]
    node.links.append(kids)
    node.annotations.contains = kids

    def check(value: Any, path: Path, st: Run) -> bool:
        st.spend(len(value) >> 1)
        found = 0
        for index, item in enumerate(value):
            if _trial(kids[0], item, (path, index), st)[0]:
                found += 1
                if found >= low and high is None:
                    return True
        if found < low:
            return st.fail(path, "contains", f"expected at least {low} matching items")
        too_many = high is not None and found > high and kids[0].exact
        return not too_many or st.fail(path, "contains", f"expected at most {high} matching items")

    node.add(check, list)


def _unique_items(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    if not isinstance(value, bool):
        c.unchecked(node, "uniqueItems", "not true or false")
        return

    def check(value: Any, path: Path, st: Run) -> bool:
        st.spend(len(value) >> 1)
        seen = {json_key(item, st) for item in value}
        return len(seen) == len(value) or st.fail(path, "uniqueItems", "an item stands twice")

    if value:
        node.add(check, list)


# ---- the same value -------------------------------------------------------------------------------------------------


def _branches(c: Compiler, node: Node, keyword: str, value: object) -> list[Node] | None:
    if not isinstance(value, list) or not value:
        c.unchecked(node, keyword, "not a list of schemas")
        node.opaque = True
        return None
    kids = [c.child(node, sub, keyword, i) for i, sub in enumerate(value)]
    node.in_place.append(kids)
    node.links.append(kids)
    return kids


def _all_of(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    kids = _branches(c, node, "allOf", value)
    if kids is None:
        return
    node.annotations.every.append(kids)

    def check(value: Any, path: Path, st: Run) -> bool:
        ok = True
        for kid in kids:
            ok = run(kid, value, path, st) and ok
        return ok

    node.add(check)


def _any_of(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    kids = _branches(c, node, "anyOf", value)
    if kids is None:
        return
    node.annotations.any_of = kids

    def check(value: Any, path: Path, st: Run) -> bool:
        tried = []
        for kid in kids:
            ok, faults = _trial(kid, value, path, st)
            if ok:
                return True
            tried.append(faults)
        return _none_fits("anyOf", tried, path, st)

    node.add(check)


def _none_fits(keyword: str, tried: list[list[tuple[Path, str, str]]], path: Path, st: Run) -> bool:
    """Say what is wrong in the one branch that was meant, when the type of the value tells which one that is."""
    meant = [faults for faults in tried if not any(k == "type" and p == path for p, k, _ in faults)]
    if len(meant) == 1 and meant[0]:
        for fault in meant[0]:
            st.fail(*fault)
        return False
    if not meant:
        return st.fail(path, "type", "a type that no alternative allows")
    if all(k in ("enum", "const") and p == path for faults in meant for p, k, _ in faults):
        return st.fail(path, "enum", "not one of the allowed values")
    return st.fail(path, keyword, "fits none of the alternatives")


def _one_of(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    kids = _branches(c, node, "oneOf", value)
    if kids is None:
        return
    node.annotations.one_of = kids

    def check(value: Any, path: Path, st: Run) -> bool:
        tried, fitting, surely = [], 0, 0
        for kid in kids:
            ok, faults = _trial(kid, value, path, st)
            fitting += ok
            surely += ok and kid.exact
            if surely > 1:
                return st.fail(path, "oneOf", "fits more than one of the alternatives")
            tried.append(faults)
        return fitting > 0 or _none_fits("oneOf", tried, path, st)

    node.add(check)


def _not(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    del schema
    kids = [c.child(node, value, "not")]
    node.in_place.append(kids)
    node.links.append(kids)

    def check(value: Any, path: Path, st: Run) -> bool:
        ok, _ = _trial(kids[0], value, path, st)
        return not (ok and kids[0].exact) or st.fail(path, "not", "fits what is forbidden")

    node.add(check)


def _if(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
    kids = [
        c.child(node, value, "if"),
        c.child(node, schema.get("then", True), "then"),
        c.child(node, schema.get("else", True), "else"),
    ]
    node.in_place.append(kids)
    node.links.append(kids)
    node.annotations.if_then_else = kids

    def check(value: Any, path: Path, st: Run) -> bool:
        ok, _ = _trial(kids[0], value, path, st)
        if not ok:
            return run(kids[2], value, path, st)
        return not kids[0].exact or run(kids[1], value, path, st)

    node.add(check)


def _ref(keyword: str) -> Builder:
    def build(c: Compiler, node: Node, schema: dict[str, Any], value: Any) -> None:
        del schema
        found = c.target(node, value, keyword)
        if found is None:
            node.opaque = True
            return
        kids = [found]
        node.in_place.append(kids)
        node.links.append(kids)
        node.annotations.every.append(kids)

        def check(value: Any, path: Path, st: Run) -> bool:
            return run(kids[0], value, path, st)

        node.add(check)

    return build


# ---- what nothing else looked at ------------------------------------------------------------------------------------


def _applied(node: Node, value: Any, path: Path, st: Run) -> list[Node]:
    """The subschemas that evaluated the same value successfully."""
    note = node.annotations
    found = [kid for kids in note.every for kid in kids]
    found += [kid for kid in (*note.any_of, *note.one_of) if _trial(kid, value, path, st)[0]]
    if note.if_then_else:
        condition, then, otherwise = note.if_then_else
        ok = _trial(condition, value, path, st)[0]
        found += [condition, then] if ok else [otherwise]
        if ok and not condition.exact:
            found.append(otherwise)
    if isinstance(value, dict):
        found += [kid for name, kids in note.dependent.items() if name in value for kid in kids]
    return found


def _seen_names(node: Node, value: dict[str, Any], path: Path, st: Run) -> set[str] | None:
    """Names of properties that something evaluated; None for all."""
    note = node.annotations
    if note.all_properties or node.opaque:
        return None
    st.spend(1 + len(value))
    names = {k for k in value if k in note.names or any(p.search(str(k), st) is not False for p in note.patterns)}
    for kid in _applied(node, value, path, st):
        more = None if kid.annotations.leftover_properties else _seen_names(kid, value, path, st)
        if more is None:
            return None
        names |= more
    return names


def _seen_items(node: Node, value: list[Any], path: Path, st: Run) -> set[int] | None:
    """Indexes of items that something evaluated; None for all."""
    note = node.annotations
    if note.all_items or node.opaque:
        return None
    st.spend(1 + len(value))
    seen = set(range(min(note.prefix, len(value))))
    for kid in note.contains:
        seen |= {i for i, item in enumerate(value) if _trial(kid, item, (path, i), st)[0]}
    for kid in _applied(node, value, path, st):
        more = None if kid.annotations.leftover_items else _seen_items(kid, value, path, st)
        if more is None:
            return None
        seen |= more
    return seen


def unevaluated(c: Compiler, node: Node, schema: dict[str, Any]) -> None:
    """`unevaluatedProperties` and `unevaluatedItems`: to be built after all other keywords of the node."""
    if "unevaluatedProperties" in schema:
        _leftover(c, node, schema, "unevaluatedProperties")
        node.annotations.open = node.annotations.open or schema["unevaluatedProperties"] is not False
    if "unevaluatedItems" in schema:
        _leftover(c, node, schema, "unevaluatedItems")


def _leftover(c: Compiler, node: Node, schema: dict[str, Any], keyword: str) -> None:
    kids = [c.child(node, schema[keyword], keyword)]
    node.links.append(kids)
    of_object = keyword == "unevaluatedProperties"
    if of_object:
        node.annotations.leftover_properties = True
    else:
        node.annotations.leftover_items = True
    collect = _seen_names if of_object else _seen_items

    def check(value: Any, path: Path, st: Run) -> bool:
        seen = collect(node, value, path, st)
        if seen is None:
            return True
        ok = True
        for key, item in value.items() if of_object else enumerate(value):
            if key in seen:
                continue
            if not _trial(kids[0], item, (path, key), st)[0]:
                ok = st.fail((path, key), keyword, "not declared")
                if len(st.faults) >= MAX_FAULTS:
                    return False
        return ok

    node.add(check, dict if of_object else list)


def false_check(_value: Any, path: Path, st: Run) -> bool:
    """The schema `false`."""
    return st.fail(path, "false", "no value is allowed here")


BUILDERS: dict[str, Builder] = {
    "enum": _enum,
    "const": _const,
    "minimum": _bound("minimum"),
    "maximum": _bound("maximum"),
    "exclusiveMinimum": _bound("exclusiveMinimum"),
    "exclusiveMaximum": _bound("exclusiveMaximum"),
    "multipleOf": _multiple_of,
    "minLength": _size("minLength", str, "characters"),
    "maxLength": _size("maxLength", str, "characters"),
    "pattern": _pattern,
    "required": _required,
    "minProperties": _size("minProperties", dict, "properties"),
    "maxProperties": _size("maxProperties", dict, "properties"),
    "propertyNames": _property_names,
    "dependentRequired": _dependent_required("dependentRequired"),
    "dependencies": _dependent_required("dependencies"),
    "dependentSchemas": _dependent_schemas,
    "minItems": _size("minItems", list, "items"),
    "maxItems": _size("maxItems", list, "items"),
    "contains": _contains,
    "uniqueItems": _unique_items,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "$ref": _ref("$ref"),
    "$dynamicRef": _ref("$dynamicRef"),
    "$recursiveRef": _ref("$recursiveRef"),
}
"""Keyword to builder. `type`, the fields, the elements and `unevaluated*` are built by `build`."""

_FIELD_KEYS = ("properties", "patternProperties", "additionalProperties")
_ELEMENT_KEYS = ("prefixItems", "items")


def build(c: Compiler, node: Node, schema: dict[str, Any]) -> None:
    """Fill a node with the checks of one schema object."""
    for keyword, builder in BUILDERS.items():
        if keyword in schema:
            builder(c, node, schema, schema[keyword])
    if any(key in schema for key in _FIELD_KEYS):
        _fields(c, node, schema, None)
    if any(key in schema for key in _ELEMENT_KEYS):
        _elements(c, node, schema, None)
    unevaluated(c, node, schema)
    if "type" in schema:
        _type(c, node, schema, schema["type"])
    if schema.get("nullable") is True:
        node.table[NoneType] = ()
