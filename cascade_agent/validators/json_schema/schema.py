"""A JSON Schema of a stranger, compiled once into a checker that is bounded in every direction.

The schema is copied and bounded first (size, depth, number of subschemas). References are resolved here, by
`referencing` with a registry that fetches nothing. What cannot be enforced is reported as `unchecked`, once, and
abstains for exactly that keyword; `jsonschema` holds values to the rest. Draft 2020-12, with the forms of Draft 4 to 7
and the dialects of providers that cannot be mistaken for anything else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from cascade_agent.validators.json_schema.keywords import (
    MAX_BITS,
    MAX_FAULTS,
    RUN,
    BudgetSpent,
    Node,
    Run,
    errors,
    fraction,
    has_kind,
    key_of,
    matches,
    validator_class,
)  # fmt: skip
from cascade_agent.validators.json_schema.patterns import Pattern, PatternError, compile_pattern

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonObject

MAX_DEPTH = 128  # of the schema's JSON: 64 levels of `properties`
MAX_NODES = 2_000
MAX_BYTES = 256_000
MAX_STEPS = 60_000  # of one check: about 100 ms at worst, and 5,000 objects of six checked properties fit
_MAX_PROGRAMS = 200_000  # instructions of all patterns together: about 100 ms of compiling
_MAX_CYCLES = 50
_MAX_REPORTS = 20
_TEXT = 300
_KEY = 80


class Fault(NamedTuple):
    """One broken constraint: JSON pointer to the value, keyword of the schema, a message without values."""

    path: str
    keyword: str
    message: str


class Report(NamedTuple):
    """Outcome of one check. `complete` is false when the budget ended it: then more faults may exist."""

    faults: tuple[Fault, ...]
    complete: bool


class Schema:
    """A compiled schema: immutable, shareable between threads.

    `unchecked` lists the constraints that cannot be enforced, at most 20.
    """

    __slots__ = ("_declared", "_root", "unchecked")

    def __init__(self, schema: object) -> None:
        """Compile `schema`; never raises, whatever it is."""
        compiler = _Compiler()
        self._root = compiler.compile(schema)
        self.unchecked: tuple[Fault, ...] = tuple(compiler.reports)
        self._declared = _declared(self._root)

    def check(self, value: object, *, steps: int = MAX_STEPS) -> Report:
        """Check one JSON value; at most 10 faults are reported."""
        faults: list[Fault] = []
        token = RUN.set(Run(steps))
        try:
            found = islice(errors(self._root, value), MAX_FAULTS)
            faults.extend(Fault(pointer_of(e.path), str(e.validator), e.message[:_TEXT]) for e in found)
        except (BudgetSpent, RecursionError):
            return Report(tuple(faults), complete=False)
        finally:
            RUN.reset(token)
        return Report(tuple(faults), complete=True)

    def undeclared(self, value: Mapping[str, object], *, limit: int = MAX_FAULTS) -> list[str]:
        """Return keys of an object that the schema neither declares nor allows, at most `limit`.

        JSON Schema lets an object hold anything unless `additionalProperties` forbids it; whoever offers a tool and
        lists its arguments means these. A schema without `properties`, or one that says it is open, allows all.
        """
        names, patterns = self._declared
        if names is None:
            return []
        token = RUN.set(Run(MAX_STEPS))
        found: list[str] = []
        try:
            rest = (str(key) for key in value if key not in names)
            found.extend(islice((key for key in rest if not any(matches(p, key) for p in patterns)), limit))
        except BudgetSpent:
            pass  # an unknown is not held against the value
        finally:
            RUN.reset(token)
        return found


def pointer_of(keys: Iterable[object]) -> str:
    """Return a JSON pointer (RFC 6901) with clipped, printable segments."""
    texts = [key if isinstance(key, str) else str(key) for key in keys]
    clipped = [text if len(text) <= _KEY else text[:_KEY] + "…" for text in texts]
    return "".join(["/" + _printable(text).replace("~", "~0").replace("/", "~1") for text in clipped])[:_TEXT]


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join([c if c.isprintable() else "\ufffd" for c in text])


# ---- the copy -------------------------------------------------------------------------------------------------------

_FOREIGN = type("_Foreign", (), {"__doc__": "Stands for a Python value that JSON does not have."})()
_REFERENCES = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))


class _UnreadableError(Exception):
    """A schema, or the value of a keyword, that cannot be enforced; the message says why."""


def _refuse(reason: str) -> NoReturn:
    raise _UnreadableError(reason)


class _Copy:
    """Copies a schema into plain dicts and lists, so that it stays as it is; a cyclic one is too deep or too large."""

    def __init__(self) -> None:
        self.size, self.odd_names, self.refers = 0, False, False

    def of(self, value: object, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            _refuse(f"the schema is nested more than {MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            names = [name for name in value if isinstance(name, str)]
            self.odd_names |= len(names) < len(value)
            self.refers = self.refers or not _REFERENCES.isdisjoint(names)
            self.grow(2 + sum(map(len, names)) + 4 * len(names))
            return {name: self.of(value[name], depth + 1) for name in names}
        if isinstance(value, list | tuple):
            self.grow(2 + len(value))
            return [self.of(item, depth + 1) for item in value]
        self.grow(len(value) if isinstance(value, str) else value.bit_length() // 3 if isinstance(value, int) else 4)
        return value if value is None or isinstance(value, bool | float | int | str) else _FOREIGN

    def grow(self, size: int) -> None:
        self.size += size
        if self.size > MAX_BYTES:
            _refuse(f"the schema is larger than {MAX_BYTES:,} bytes")


# ---- references -----------------------------------------------------------------------------------------------------

_ONE = (
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def _subschemas(schema: JsonObject) -> list[JsonObject]:
    """Return the schemas that stand in a schema, by position: a property *named* `$ref` is found as a property."""
    found = [schema.get(key) for key in _ONE]
    found += [sub for key in _LISTS if isinstance(schema.get(key), list) for sub in schema[key]]
    found += [sub for key in _MAPS if isinstance(schema.get(key), dict) for sub in schema[key].values()]
    return [sub for sub in found if isinstance(sub, dict)]


class _References:
    """The resources and anchors of one schema, also of one that `referencing`'s drafts do not bear."""

    def __init__(self, root: JsonObject) -> None:
        import referencing

        self.dynamic: set[tuple[str, int]] = set()
        """Names of dynamic anchors and where they stand; a registry may ask for the same ones again."""
        draft: Any = referencing.Specification  # an attrs class, whose arguments mypy cannot see
        self.specification: Any = draft(
            name="bounded",
            id_of=_id_of,
            subresources_of=_subschemas,
            anchors_in=self.anchors,
            maybe_in_subresource=lambda resolver, subresource, **_: self.inside(resolver, subresource.contents),
        )
        resource = self.specification.create_resource(root)
        self.registry: Any = referencing.Registry().with_resource(_id_of(root) or "", resource).crawl()
        self.resolver = self.registry.resolver_with_root(resource)

    def anchors(self, specification: Any, schema: JsonObject) -> Iterator[Any]:
        import referencing

        anchor: Any = referencing.Anchor
        for keyword in ("$anchor", "$dynamicAnchor", "$id"):
            name = schema.get(keyword)
            if isinstance(name, str) and (keyword != "$id" or name.startswith("#")):  # an anchor of Draft 6 and 7
                if keyword == "$dynamicAnchor":
                    self.dynamic.add((name, id(schema)))
                yield anchor(name=name.removeprefix("#"), resource=specification.create_resource(schema))

    def inside(self, resolver: Any, schema: object) -> Any:
        try:
            return resolver.in_subresource(self.specification.create_resource(schema)) if _id_of(schema) else resolver
        except ValueError:  # two halves that make no URI together
            return resolver

    def resolve(self, resolver: Any, reference: object, keyword: str) -> tuple[Any, Any]:
        """Return the schema that a reference leads to, and its resolver."""
        names = {name for name, _ in self.dynamic}
        if keyword != "$ref" and (len(self.registry) > 1 or len(names) < len(self.dynamic)):
            _refuse("a dynamic reference with more than one possible target")
        try:
            found = resolver.lookup(reference)
        except Exception:  # noqa: BLE001 - of `referencing`, or of a stranger's text read as a URI
            found = None
        if found is None or not isinstance(found.contents, dict | bool):
            _refuse("leads outside of the schema; nothing is fetched")
        return found.contents, found.resolver


def _id_of(schema: object) -> str | None:
    name = schema.get("$id") if isinstance(schema, dict) else None
    try:
        return name if isinstance(name, str) and name[:1] != "#" and urlsplit(name) else None
    except ValueError:
        return None


# ---- compiling ------------------------------------------------------------------------------------------------------


class _Compiler:
    """Turns one schema into nodes, breadth first, so that bounds cut off the far end and recursion is impossible."""

    def __init__(self) -> None:
        self.reports: list[Fault] = []
        self.nodes: dict[int, Node] = {}
        self.queue: deque[_Builder] = deque()
        self.references: _References | None = None
        self.full = False
        self.programs = _MAX_PROGRAMS
        self.unknown, self.true, self.false = Node(), Node(), Node()
        self.unknown.exact, self.unknown.opaque = False, True
        self.false.checks["false"] = True

    def compile(self, schema: object) -> Node:
        copy = _Copy()
        try:
            copied = copy.of(schema)
            self.references = _References(copied) if copy.refers else None
        except Exception as error:  # noqa: BLE001 - a Mapping of a stranger may raise anything
            unreadable = isinstance(error, _UnreadableError)
            copied = str(error) if unreadable else f"the schema cannot be read ({type(error).__name__})"
        if not isinstance(copied, dict | bool):
            self.report("", "", copied if isinstance(copied, str) else "the schema is not an object")
            return self.unknown
        if copy.odd_names:
            self.report("", "", "a name that is not a string")
        root = self.node(copied, "", self.references and self.references.resolver)
        while self.queue:
            self.queue.popleft().build()
        self.cut_cycles()
        self.spread_doubt()
        base = validator_class()({})
        for node in [*self.nodes.values(), self.false]:
            node.validator = base.evolve(schema=node.checks)
        return root

    def node(self, schema: JsonObject | bool, pointer: str, resolver: Any) -> Node:
        if isinstance(schema, bool):
            return self.true if schema else self.false
        known = self.nodes.get(id(schema))
        if known is not None:
            return known
        if len(self.nodes) >= MAX_NODES:
            if not self.full:
                self.full = True
                self.report(pointer, "", f"the schema has more than {MAX_NODES:,} subschemas; the rest is not checked")
            return self.unknown
        made = self.nodes[id(schema)] = Node(pointer)
        self.queue.append(_Builder(self, made, schema, resolver))
        return made

    def report(self, pointer: str, keyword: str, reason: str) -> None:
        if len(self.reports) < _MAX_REPORTS:
            self.reports.append(Fault(pointer, keyword, reason[:_TEXT]))

    def cut_cycles(self) -> None:
        """Cut references that lead back to themselves without consuming any part of the value."""
        for _ in range(_MAX_CYCLES):
            graph = {node: [kid for kids in node.in_place for kid in kids] for node in self.nodes.values()}
            try:
                TopologicalSorter(graph).prepare()
            except CycleError as error:
                kid, node = error.args[1][:2]
                for kids in node.in_place:
                    kids[:] = [self.unknown if k is kid else k for k in kids]
                node.exact = False
                self.report(node.pointer, "$ref", "leads back to itself")
            else:
                return
        for node in self.nodes.values():  # too many to cut one by one
            node.exact, node.opaque = False, True
            node.checks.clear()

    def spread_doubt(self) -> None:
        """A node is exact only when everything below it is."""
        parents: dict[Node, list[Node]] = {}
        for node in self.nodes.values():
            for kid in (kid for kids in node.links for kid in kids):
                parents.setdefault(kid, []).append(node)
        doubtful = [self.unknown, *(node for node in self.nodes.values() if not node.exact)]
        while doubtful:
            for parent in parents.pop(doubtful.pop(), ()):
                parent.exact = False
                doubtful.append(parent)


class _Builder:
    """Fills one node with what the keywords of its schema ask for; a malformed keyword is reported and left out."""

    def __init__(self, compiler: _Compiler, node: Node, raw: JsonObject, resolver: Any) -> None:
        self.compiler, self.node, self.raw, self.checks = compiler, node, raw, node.checks
        self.resolver = compiler.references.inside(resolver, raw) if compiler.references else None

    def build(self) -> None:
        if self.raw.get("nullable") is True:
            self.checks["nullable"] = True
        for keyword, read in _READERS.items():
            if keyword not in self.raw:
                continue
            try:
                made = read(self, keyword, self.raw[keyword])
            except _UnreadableError as error:
                self.drop(keyword, str(error))
            else:
                if made is not None:
                    self.checks[keyword] = made

    def drop(self, keyword: str, reason: str) -> None:
        self.node.exact = False
        self.node.opaque |= keyword in _EVALUATING
        self.compiler.report(self.node.pointer, keyword, reason)

    def child(self, schema: object, *tokens: str | int) -> Node:
        pointer = (self.node.pointer + pointer_of(tokens))[:_TEXT]
        if isinstance(schema, dict | bool):
            return self.compiler.node(schema, pointer, self.resolver)
        self.compiler.report(pointer, "", "not a schema")
        return self.compiler.unknown

    def link(self, kids: list[Node], *, in_place: bool = False) -> list[Node]:
        self.node.links.append(kids)
        if in_place:
            self.node.in_place.append(kids)
        return kids

    # ---- one reader per form of keyword: the value that `keywords` works with, None for nothing to check

    def members(self, keyword: str, value: Any) -> frozenset[object]:
        values = [value] if keyword == "const" else _of(list, value)
        kinds = self.checks.get("type")
        if not values or (kinds and not any(has_kind(v, kinds) for v in values)):
            _refuse("no listed value has the declared type")
        run = Run(1_000_000)
        try:
            return frozenset(key_of(v, run) for v in values)
        except BudgetSpent:
            _refuse("a listed value is nested too deep or too large")

    def bound(self, keyword: str, value: Any) -> float | None:
        exclusive = f"exclusive{keyword.capitalize()}"
        if isinstance(value, bool) and keyword.startswith("exclusive"):
            return None  # Draft 4: a switch beside `minimum` or `maximum`
        if self.raw.get(exclusive) is True:
            self.checks[exclusive] = _number(value)
            return None
        return _number(value)

    def pattern(self, _keyword: str, source: Any) -> Pattern:
        if self.compiler.programs < 0:
            _refuse("the patterns of the schema are too large together")
        self.compiler.programs -= _MAX_PROGRAMS // 1_000
        try:
            made = compile_pattern(_of(str, source))
        except PatternError as error:
            _refuse(f"pattern with {error}")
        self.compiler.programs -= made.size
        return made

    def required(self, keyword: str, value: Any) -> tuple[str, ...] | None:
        names = tuple(dict.fromkeys(name for name in _of(list, value) if isinstance(name, str)))
        if any(not isinstance(name, str) for name in value):
            self.drop(keyword, "a name that is not a string")
        return names or None

    def one(self, keyword: str, value: Any) -> Node:
        return self.link([self.child(value, keyword)])[0]

    def unevaluated(self, keyword: str, value: Any) -> tuple[Node, Node]:
        return self.node, self.one(keyword, value)

    def negation(self, keyword: str, value: Any) -> list[Node]:
        return self.link([self.child(value, keyword)], in_place=True)

    def condition(self, keyword: str, value: Any) -> list[Node]:
        then = [self.child(self.raw.get(key, True), key) for key in ("then", "else")]
        return self.link([self.child(value, keyword), *then], in_place=True)

    def branches(self, keyword: str, value: Any) -> list[Node]:
        if not _of(list, value):
            _refuse("no alternatives")
        return self.link([self.child(sub, keyword, i) for i, sub in enumerate(value)], in_place=True)

    def reference(self, keyword: str, value: Any) -> None:
        if self.compiler.references is not None:
            contents, resolver = self.compiler.references.resolve(self.resolver, _of(str, value), keyword)
            target = self.compiler.node(contents, _printable(value[:_TEXT]), resolver)
            if "allOf" not in self.checks:
                self.checks["allOf"] = self.link([], in_place=True)
            self.checks["allOf"].append(target)

    def fields(self, keyword: str, value: Any) -> dict[str, Node]:
        kids = {name: self.child(sub, keyword, name) for name, sub in _of(dict, value).items()}
        self.link(list(kids.values()))
        return kids

    def pattern_fields(self, keyword: str, value: Any) -> list[tuple[Pattern, Node]]:
        found = []
        for name, kid in self.fields(keyword, value).items():
            try:
                found.append((self.pattern(keyword, name), kid))
            except _UnreadableError as error:
                self.drop(keyword, str(error))
        return found

    def additional(self, keyword: str, value: Any) -> Node:
        if self.node.opaque and "patternProperties" in self.raw and value is not True:
            _refuse("stands beside a pattern that cannot be checked")
        return self.one(keyword, value)

    def dependents(self, keyword: str, value: Any) -> None:
        for name, held in _of(dict, value).items():
            names = [held] if isinstance(held, str) and keyword == "dependencies" else held
            if keyword != "dependentRequired" and not isinstance(names, list):
                self.checks.setdefault("dependentSchemas", {})[name] = self.negation(keyword, held)
            elif keyword != "dependentSchemas" and isinstance(names, list) and all(isinstance(n, str) for n in names):
                self.checks.setdefault("dependentRequired", {})[name] = names
            else:
                self.drop(keyword, "not a list of names")

    def prefix(self, keyword: str, value: Any) -> list[Node]:
        return self.link([self.child(sub, keyword, i) for i, sub in enumerate(_of(list, value))])

    def items(self, keyword: str, value: Any) -> Node | None:
        if isinstance(value, list) and "prefixItems" not in self.raw:  # the tuples of older drafts
            self.checks["prefixItems"] = self.prefix(keyword, value)
            keyword, value = "additionalItems", self.raw.get("additionalItems", True)
            return self.one(keyword, value) if keyword in self.raw else None
        return self.one(keyword, value) if "prefixItems" in self.checks or "prefixItems" not in self.raw else None


_TYPE_NAMES = {
    "null": "null none nonetype", "boolean": "boolean bool", "integer": "integer int int32 int64 long",
    "number": "number float double decimal", "string": "string str text", "array": "array list tuple set sequence",
    "object": "object dict map mapping", "any": "any type_unspecified",
}  # fmt: skip
_KIND_OF = {name: kind for kind, names in _TYPE_NAMES.items() for name in names.split()}
"""Type names of JSON Schema, of Python and of provider dialects, lower case."""


def _kinds(_b: _Builder, _keyword: str, value: Any) -> frozenset[str] | None:
    names = value if isinstance(value, list) else [value]
    found = {_KIND_OF.get(_of(str, name).strip().lower()) for name in names}
    if not found or None in found:
        _refuse("not a type of JSON Schema")
    return None if "any" in found else frozenset(name for name in found if name)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        _refuse(f"not a {'schema' if kind is dict else kind.__name__}")
    return value


def _number(value: Any) -> float:
    """Return a finite number of a schema."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        pass
    elif value.bit_length() <= MAX_BITS if isinstance(value, int) else math.isfinite(value):
        return value
    _refuse("not a finite number")


def _count(_b: _Builder, _keyword: str, value: Any) -> int:
    if _number(value) < 0 or value != int(value):
        _refuse("not a count")
    return int(value)


def _step(_b: _Builder, _keyword: str, value: Any) -> Any:
    if _number(value) <= 0:
        _refuse("not a number above 0")
    return fraction(value)


_COUNTS = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
_READERS: dict[str, Callable[[_Builder, str, Any], object]] = {
    "type": _kinds, "enum": _Builder.members, "const": _Builder.members,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Builder.bound),
    "multipleOf": _step, **dict.fromkeys(_COUNTS, _count), "pattern": _Builder.pattern, "required": _Builder.required,
    "uniqueItems": lambda _b, _keyword, value: _of(bool, value) or None,
    **dict.fromkeys(("dependentRequired", "dependencies", "dependentSchemas"), _Builder.dependents),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _Builder.branches), "not": _Builder.negation, "if": _Builder.condition,
    **dict.fromkeys(("$ref", "$dynamicRef", "$recursiveRef"), _Builder.reference), "properties": _Builder.fields,
    "patternProperties": _Builder.pattern_fields, "additionalProperties": _Builder.additional,
    "propertyNames": _Builder.one, "prefixItems": _Builder.prefix, "items": _Builder.items, "contains": _Builder.one,
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), _Builder.unevaluated),
}  # fmt: skip
"""Keyword to reader, in the order in which faults are reported."""
_EVALUATING = _REFERENCES | {"allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties", "prefixItems"}
"""Keywords without which it is unknown what a schema evaluates."""


def _declared(root: Node) -> tuple[set[str] | None, list[Pattern]]:
    """Return names and patterns of properties that a schema declares at its top, through whatever stands in place.

    None instead of the names when it declares none or says that it is open.
    """
    names, patterns, declares = set[str](), list[Pattern](), False
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        checks = node.checks
        rest = [checks.get("additionalProperties"), *checks.get("unevaluatedProperties", ())[1:]]
        if node.opaque or any(kid is not None and "false" not in kid.checks for kid in rest):
            return None, []
        declares = declares or "properties" in checks
        names.update(checks.get("properties", ()), checks.get("required", ()))
        patterns += [pattern for pattern, _ in checks.get("patternProperties", ())]
        kids = {kid for kids in node.in_place for kid in kids} - seen
        seen |= kids
        stack += kids
    return (names if declares else None), patterns
