"""A JSON Schema of a stranger, compiled once into a checker that is bounded in every direction.

Law: nothing is ever fetched: a reference leads into the schema itself or nowhere. A schema is copied and bounded first
(size, depth, number of subschemas); what cannot be enforced is reported as `unchecked` when compiled and then abstains
for exactly that constraint. A check counts its steps and never raises. Draft 2020-12, with the forms of Draft 4 to 7
and the dialects of providers that cannot be mistaken for anything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin

from cascade_agent.validators.json_schema.keywords import MAX_FAULTS, Fault, Node, Path, Run, build, false_check, run
from cascade_agent.validators.json_schema.regex import BudgetSpent

MAX_DEPTH = 128
"""Nesting of the schema's JSON; 64 levels of `properties`."""
MAX_NODES = 2_000
MAX_BYTES = 256_000
MAX_STEPS = 60_000
"""Budget of one check: about 100 ms at worst, and 5,000 objects of six checked properties fit."""
_MAX_REPORTS = 20
_TEXT = 300
_KEY = 80


class Report(NamedTuple):
    """Outcome of one check. `complete` is false when the budget ended it: then more faults may exist."""

    faults: tuple[Fault, ...]
    complete: bool


class Schema:
    """A compiled schema: immutable, shareable between threads.

    `unchecked` lists the constraints that cannot be enforced, at most 20.
    """

    __slots__ = ("_declared", "root", "unchecked")

    def __init__(self, schema: object) -> None:
        """Compile `schema`; never raises, whatever it is."""
        compiler = _Compiler()
        self.root = compiler.compile(schema)
        self.unchecked: tuple[Fault, ...] = tuple(compiler.reports)
        self._declared = _declared(self.root)

    def check(self, value: object, *, steps: int = MAX_STEPS) -> Report:
        """Check one JSON value; at most 10 faults are reported."""
        st = Run(steps)
        faults = st.faults
        complete = True
        try:
            run(self.root, value, (), st)
        except (BudgetSpent, RecursionError):
            complete = False
        if not faults:
            return Report((), complete)
        return Report(tuple(Fault(pointer_of(p), k, m[:_TEXT]) for p, k, m in faults[:MAX_FAULTS]), complete)

    def undeclared(self, value: Mapping[str, object], *, limit: int = MAX_FAULTS) -> list[str]:
        """Keys of an object that the schema neither declares nor allows, at most `limit`.

        JSON Schema lets an object hold anything unless `additionalProperties` forbids it; whoever offers a tool and
        lists its arguments means these. A schema without `properties`, or one that says it is open, allows all.
        """
        names, patterns = self._declared
        if names is None:
            return []
        found: list[str] = []
        for key in value:
            if key in names:
                continue
            try:
                st = Run(MAX_STEPS // 10)
                if any(pattern.search(str(key), st) is not False for pattern in patterns):
                    continue
            except BudgetSpent:
                continue
            found.append(str(key))
            if len(found) >= limit:
                break
        return found


def pointer_of(path: Path) -> str:
    """A JSON pointer (RFC 6901) with clipped, printable segments."""
    parts: list[str] = []
    while path:
        path, key = path
        parts.append(segment(key))
    parts.reverse()
    return "".join(["/" + part for part in parts])[:_TEXT]


def segment(key: object) -> str:
    """One segment of a JSON pointer, clipped and free of characters that a store cannot hold."""
    text = key if isinstance(key, str) else str(key)
    if len(text) > _KEY:
        text = text[:_KEY] + "…"
    return _printable(text).replace("~", "~0").replace("/", "~1")


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join([c if c.isprintable() else "\ufffd" for c in text])


# ---- the copy -------------------------------------------------------------------------------------------------------


class _Foreign:
    """Stands for a Python value that JSON does not have."""


_FOREIGN = _Foreign()


class _Unusable(Exception):  # noqa: N818 - a signal
    """Why a schema as a whole cannot be used."""


_IDENTIFIERS = frozenset(("$anchor", "$dynamicAnchor", "$id"))


def _copy(schema: object, report: list[Fault]) -> tuple[object, bool]:
    """A private copy made of plain dicts and lists, and whether anything in it may be an identifier.

    Built without recursion, so that depth and cycles cannot hurt.

    Raises:
        _Unusable: too large or nested too deep (a cyclic value is both).
    """
    out: list[object] = [None]
    stack: list[tuple[object, Any, Any, int]] = [(schema, out, 0, 0)]
    size, named = 0, False
    while stack:
        value, into, key, depth = stack.pop()
        if depth > MAX_DEPTH:
            msg = f"is nested more than {MAX_DEPTH} deep"
            raise _Unusable(msg)
        copied: object
        if isinstance(value, Mapping):
            names = [k for k in value if isinstance(k, str)]
            if len(names) < len(value):
                report.append(Fault("", "", "a name that is not a string"))
            named = named or not _IDENTIFIERS.isdisjoint(names)
            copied = dict.fromkeys(names)  # keeps the order while the stack fills in backwards
            stack.extend((value[k], copied, k, depth + 1) for k in names)
            size += 2 + sum(map(len, names)) + 4 * len(names)
        elif isinstance(value, list | tuple):
            copied = [None] * len(value)
            stack.extend((v, copied, i, depth + 1) for i, v in enumerate(value))
            size += 2 + len(value)
        else:
            copied, length = _scalar(value)
            size += length
        into[key] = copied
        if size > MAX_BYTES:
            msg = f"is larger than {MAX_BYTES:,} bytes"
            raise _Unusable(msg)
    return out[0], named


def _scalar(value: object) -> tuple[object, int]:
    if value is None or isinstance(value, bool | float):
        return value, 4
    if isinstance(value, int):
        return value, 1 + value.bit_length() // 3
    if isinstance(value, str):
        return str(value), 2 + len(value)
    return _FOREIGN, 4


# ---- compiling ------------------------------------------------------------------------------------------------------

_ONE = (
    "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def _subschemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas that stand directly in a schema, by position: a property *named* `$ref` is found as a property."""
    found: list[Any] = [schema[key] for key in _ONE if key in schema]
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            found += schema[key]
    for key in _MAPS:
        if isinstance(schema.get(key), dict):
            found += schema[key].values()
    return [sub for sub in found if isinstance(sub, dict)]


class _Compiler:
    """Turns one schema into nodes, breadth first, so that bounds cut off the far end and recursion is impossible."""

    def __init__(self) -> None:
        self.reports: list[Fault] = []
        self.nodes: dict[int, Node] = {}
        self.queue: deque[tuple[Node, dict[str, Any]]] = deque()
        self.order: list[Node] = []
        self.resources: dict[str, object] = {}
        self.anchors: dict[tuple[str, str], dict[str, Any]] = {}
        self.bases: dict[int, str] = {}
        self.dynamic: list[str] = []
        self.owner: dict[int, dict[str, Any]] = {}
        self.full = False
        self.unknown = Node()
        self.unknown.exact = False
        self.unknown.opaque = True
        self.true = Node()
        self.false = Node()
        self.false.add(false_check)

    def compile(self, schema: object) -> Node:
        try:
            copied, named = _copy(schema, self.reports)
        except _Unusable as error:
            return self.give_up(str(error))
        except Exception as error:  # noqa: BLE001 - a Mapping of a stranger may raise anything
            return self.give_up(f"cannot be read ({type(error).__name__})")
        if not isinstance(copied, dict | bool):
            return self.give_up("is not an object")
        if isinstance(copied, dict):
            self.resources[""] = copied
            if named:
                self.index(copied)
        root = self.node(copied, "")
        while self.queue:
            node, item = self.queue.popleft()
            build(self, node, item)
        self.cut_cycles()
        self.spread_doubt()
        return root

    def give_up(self, reason: str) -> Node:
        self.reports.append(Fault("", "", f"the schema {reason}"))
        return self.unknown

    def index(self, root: dict[str, Any]) -> None:
        """Find base URIs and anchors, by position."""
        stack: list[tuple[dict[str, Any], str]] = [(root, "")]
        while stack:
            schema, base = stack.pop()
            base = self.enter(schema, base)
            self.bases[id(schema)] = base
            for key in ("$anchor", "$dynamicAnchor"):
                name = schema.get(key)
                if isinstance(name, str):
                    self.anchors.setdefault((base, name), schema)
                    if key == "$dynamicAnchor":
                        self.dynamic.append(name)
            stack += [(sub, base) for sub in _subschemas(schema)]

    def enter(self, schema: dict[str, Any], base: str) -> str:
        name = schema.get("$id")
        if not isinstance(name, str):
            return base
        if name.startswith("#"):  # Draft 6 and 7: an anchor
            self.anchors.setdefault((base, name[1:]), schema)
            return base
        url = _join(base, name)
        if url is None:
            return base
        address = url.partition("#")[0]
        self.resources.setdefault(address, schema)
        return address

    # ---- what keywords ask for

    def child(self, node: Node, schema: object, *tokens: str | int) -> Node:
        pointer = (node.pointer + "".join(["/" + segment(t) for t in tokens]))[:_TEXT]
        if isinstance(schema, dict | bool):
            return self.node(schema, pointer)
        self.report(pointer, "", "not a schema")
        return self.unknown

    def node(self, schema: dict[str, Any] | bool, pointer: str) -> Node:
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
        self.order.append(made)
        self.queue.append((made, schema))
        self.owner[id(made)] = schema
        return made

    def target(self, node: Node, reference: object, keyword: str) -> Node | None:
        found = self.resolve(self.owner[id(node)], reference, keyword)
        if isinstance(found, str):
            self.unchecked(node, keyword, found)
            return None
        return self.node(found, _printable(str(reference)[:_TEXT]))

    def unchecked(self, node: Node, keyword: str, reason: str) -> None:
        node.exact = False
        self.report(node.pointer, keyword, reason)

    def report(self, pointer: str, keyword: str, reason: str) -> None:
        if len(self.reports) < _MAX_REPORTS:
            self.reports.append(Fault(pointer, keyword, reason[:_TEXT]))

    # ---- references

    def resolve(self, schema: dict[str, Any], reference: object, keyword: str) -> dict[str, Any] | bool | str:
        """The schema that a reference leads to, or why it leads nowhere."""
        if not isinstance(reference, str):
            return "not a string"
        if keyword != "$ref" and (len(self.resources) > 2 or len(set(self.dynamic)) < len(self.dynamic)):  # noqa: PLR2004
            return "a dynamic reference with more than one possible target"
        url = _join(self.bases.get(id(schema), ""), reference)
        address, _, fragment = (url or "").partition("#")
        if url is None or address not in self.resources:
            return "leads outside of the schema; nothing is fetched"
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self.anchors.get((address, fragment), "leads to no anchor of the schema")
        found = _walk(self.resources[address], fragment)
        if isinstance(found, dict):
            self.bases.setdefault(id(found), address)
        return found if isinstance(found, dict | bool) else "leads to nothing in the schema"

    # ---- after compiling

    def cut_cycles(self) -> None:
        """Cut references that lead back to themselves without consuming any part of the value."""
        white, grey, black = 0, 1, 2
        color: dict[int, int] = {}
        for start in self.order:
            if color.get(id(start), white) != white:
                continue
            stack = [(start, _edges(start))]
            color[id(start)] = grey
            while stack:
                node, edges = stack[-1]
                if not edges:
                    color[id(node)] = black
                    stack.pop()
                    continue
                kids, index = edges.pop()
                state = color.get(id(kids[index]), white)
                if state == grey:
                    kids[index] = self.unknown
                    self.unchecked(node, "$ref", "leads back to itself")
                elif state == white:
                    color[id(kids[index])] = grey
                    stack.append((kids[index], _edges(kids[index])))

    def spread_doubt(self) -> None:
        """A node is exact only when everything below it is."""
        parents: dict[int, list[Node]] = {}
        for node in self.order:
            for kids in node.links:
                for kid in kids:
                    parents.setdefault(id(kid), []).append(node)
        doubtful = [self.unknown, *(node for node in self.order if not node.exact)]
        while doubtful:
            for parent in parents.pop(id(doubtful.pop()), ()):
                parent.exact = False
                doubtful.append(parent)


def _edges(node: Node) -> list[tuple[list[Node], int]]:
    return [(kids, index) for kids in node.in_place for index in range(len(kids))]


def _join(base: str, reference: str) -> str | None:
    """A reference against a base, as text alone; None when it is no URI reference."""
    try:
        return urljoin(base, reference) if base else reference
    except ValueError:
        return None


def _walk(value: object, pointer: str) -> object:
    """Follow a JSON pointer through plain dicts and lists; None when it leads nowhere."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdecimal() and int(name[:9]) < len(value):
            value = value[int(name[:9])]
        else:
            return None
    return value


def _declared(root: Node) -> tuple[frozenset[str] | None, tuple[Any, ...]]:
    """Names and patterns of properties that a schema declares at its top, through whatever stands in place.

    None instead of the names when it declares none or says that it is open.
    """
    names: set[str] = set()
    patterns: list[Any] = []
    declares = False
    seen, stack = {id(root)}, [root]
    while stack:
        node = stack.pop()
        note = node.annotations
        if note.open or node.opaque:
            return None, ()
        declares = declares or note.declares
        names |= note.names
        names |= note.demanded
        patterns += note.patterns
        for kids in node.in_place:
            for kid in kids:
                if id(kid) not in seen:
                    seen.add(id(kid))
                    stack.append(kid)
    return (frozenset(names) if declares else None), tuple(patterns)
