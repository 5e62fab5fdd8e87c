"""The compiled schema checker against an independent implementation, a table per keyword, and a hostile corpus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections import UserDict
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cascade_agent.validators.json_schema import schema as _schema
from cascade_agent.validators.json_schema.keywords import MAX_FAULTS
from cascade_agent.validators.json_schema.patterns import PatternError, compile_pattern
from cascade_agent.validators.json_schema.schema import MAX_BYTES, MAX_NODES, MAX_STEPS, Fault, Schema
from tests.builders import RUN, examples
from tests.unit.validators.hostile_schemas import CASES, HOSTILE_VALUES, NONE, Case, made

# ---- one table per keyword, the independent implementation agreeing on every row ------------------------------------
TABLE: list[tuple[Any, list[Any], list[Any]]] = [
    (True, [1, None, {}], []),
    (False, [], [1, None, {}]),
    ({}, [1, None, {}, []], []),
    ({"type": "null"}, [None], [0, False, "", [], {}]),
    ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
    ({"type": "integer"}, [1, 1.0, -0.0, 2**70], [1.5, True, "1", None]),
    ({"type": "number"}, [1, 1.5], [True, "1", None]),
    ({"type": "string"}, ["", "x", "\0"], [1, None, [], {}]),
    ({"type": "array"}, [[], [1]], [{}, "x", None]),
    ({"type": "object"}, [{}, {"a": 1}], [[], "x", None]),
    ({"type": ["string", "null"]}, ["x", None], [1, False]),
    ({"type": ["integer", "string"]}, [1, 1.0, "x"], [1.5, True]),
    ({"enum": [1, "a", None, [1], {"a": 1}]}, [1, 1.0, "a", None, [1.0], {"a": 1}], [True, "1", [True], {"a": 2}, {}]),
    ({"enum": [True, 0]}, [True, 0, 0.0], [1, False]),
    ({"const": {"a": [1, {"b": None}]}}, [{"a": [1.0, {"b": None}]}], [{"a": [1]}, None]),
    ({"const": False}, [False], [0, None]),
    ({"minimum": 2}, [2, 2.5, "x", None], [1, 1.99]),
    ({"maximum": 2}, [2, 1.5, "x"], [3, 2.01]),
    ({"exclusiveMinimum": 2}, [2.1, 3], [2, 2.0, 1]),
    ({"exclusiveMaximum": 2}, [1.9, 1], [2, 2.0, 3]),
    ({"multipleOf": 3}, [9, 0, -3, 9.0, "x"], [10, 1.5]),
    ({"minLength": 2}, ["ab", "😀😀", 1], ["a", "😀", ""]),
    ({"maxLength": 2}, ["ab", "😀😀", 1], ["abc"]),
    ({"pattern": "b+"}, ["abc", "b", 1], ["ac", ""]),
    ({"pattern": "^b"}, ["bc", 1], ["ab", ""]),
    ({"format": "email"}, ["no mail"], []),
    ({"required": ["a", "b"]}, [{"a": 1, "b": None}, [], 1], [{"a": 1}, {}]),
    ({"properties": {"a": {"type": "integer"}}}, [{}, {"a": 1}, {"b": "x"}, []], [{"a": "x"}]),
    ({"properties": {"a": False}}, [{}, {"b": 1}], [{"a": 1}]),
    ({"additionalProperties": False, "properties": {"a": {}}}, [{}, {"a": 1}], [{"b": 1}]),
    ({"additionalProperties": {"type": "integer"}, "properties": {"a": {}}}, [{"a": "x", "b": 1}], [{"b": "x"}]),
    ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, [{"x1": 1}, {}], [{"x1": "a"}, {"y": 1}]),
    ({"propertyNames": {"maxLength": 2}}, [{"ab": 1}, {}], [{"abc": 1}]),
    ({"propertyNames": False}, [{}], [{"a": 1}]),
    ({"minProperties": 1}, [{"a": 1}, []], [{}]),
    ({"maxProperties": 1}, [{"a": 1}, {}], [{"a": 1, "b": 2}]),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, [{}, {"a": 1, "b": 1}], [{"a": 1}]),
    ({"items": {"type": "integer"}}, [[], [1, 2], {}], [[1, "x"]]),
    ({"items": False}, [[]], [[1]]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[], [1], [1, "x", None]], [["x"], [1, 2]]),
    ({"prefixItems": [{"type": "integer"}], "items": False}, [[], [1]], [[1, 2]]),
    ({"contains": {"type": "integer"}}, [[1], ["x", 1], {}], [[], ["x"]]),
    ({"contains": {"type": "integer"}, "minContains": 2}, [[1, 2]], [[1], [1, "x"]]),
    ({"contains": {"type": "integer"}, "minContains": 0}, [[], ["x"], [1]], []),
    ({"contains": {"type": "integer"}, "maxContains": 1}, [[1], ["x", 1]], [[1, 2], []]),
    ({"minItems": 1}, [[1], {}], [[]]),
    ({"maxItems": 1}, [[1], []], [[1, 2]]),
    ({"uniqueItems": True}, [[], [1, "1", True, [1], {"a": 1}, None, False, 0]], [[1, 1.0], [[1], [1]], [{"a": 1}, {"a": 1.0}]]),
    ({"uniqueItems": False}, [[1, 1]], []),
    ({"allOf": [{"type": "integer"}, {"minimum": 2}]}, [2], [1, "x"]),
    ({"anyOf": [{"type": "integer"}, {"minLength": 2}]}, [1, "ab", None], ["a"]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, "x"], [2, 1.5]),
    ({"not": {"type": "integer"}}, ["x", 1.5], [1]),
    ({"not": {}}, [], [1, {}]),
    ({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}}, [{"a": 1, "b": 1}, {"c": 1}], [{"a": 1}, {}]),
    ({"if": {"type": "integer"}, "then": {"minimum": 2}}, [2, "x"], [1]),
    ({"if": {"type": "integer"}, "else": {"type": "string"}}, [2, "x"], [None]),
    ({"then": False, "else": False}, [1], []),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, [1], ["x"]),
    ({"$ref": "#/$defs/a", "minimum": 2, "$defs": {"a": {"type": "integer"}}}, [2], ["x", 1]),
    ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "integer"}}}, [1], ["x"]),
    ({"$ref": "#/$defs/a", "$defs": {"a": True}}, [1], []),
    ({"properties": {"kid": {"$ref": "#"}, "v": {"type": "integer"}}}, [{"kid": {"kid": {"v": 1}}}], [{"kid": {"kid": {"v": "1"}}}]),
    ({"$ref": "#t", "$defs": {"a": {"$anchor": "t", "type": "integer"}}}, [1], ["x"]),
    ({"$dynamicRef": "#t", "$defs": {"a": {"$dynamicAnchor": "t", "type": "integer"}}}, [1], ["x"]),
    ({"properties": {"a": {}}, "unevaluatedProperties": False}, [{"a": 1}, {}], [{"b": 1}]),
    ({"properties": {"a": {}}, "unevaluatedProperties": {"type": "integer"}}, [{"a": "x", "b": 1}], [{"b": "x"}]),
    (
        {"allOf": [{"properties": {"a": {}}}, {"patternProperties": {"^x": {}}}], "unevaluatedProperties": False},
        [{"a": 1, "x1": 1}],
        [{"a": 1, "b": 1}],
    ),
    (
        {"anyOf": [{"required": ["a"], "properties": {"a": {}}}, {"properties": {"b": {}}}], "unevaluatedProperties": False},
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
        [{"c": 1}],
    ),
    (
        {"if": {"required": ["a"]}, "then": {"properties": {"a": {}}}, "else": {"properties": {"b": {}}}, "unevaluatedProperties": False},
        [{"a": 1}, {"b": 1}],
        [{"a": 1, "b": 1}, {"c": 1}],
    ),
    ({"dependentSchemas": {"a": {"properties": {"b": {}}}}, "properties": {"a": {}}, "unevaluatedProperties": False}, [{"a": 1, "b": 1}], [{"b": 1}]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {}}}}, "unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
    ({"allOf": [{"unevaluatedProperties": True}], "unevaluatedProperties": False}, [{"b": 1}], []),
    ({"allOf": [{"additionalProperties": {}}], "unevaluatedProperties": False}, [{"b": 1}], []),
    ({"oneOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"maxProperties": 0}], "unevaluatedProperties": False}, [{"a": 1}, {}], [{"a": 1, "b": 1}]),
    ({"prefixItems": [{}], "unevaluatedItems": False}, [[1], []], [[1, 2]]),
    ({"prefixItems": [{}], "unevaluatedItems": {"type": "integer"}}, [["x", 2]], [["x", "y"]]),
    ({"allOf": [{"prefixItems": [{}, {}]}], "unevaluatedItems": False}, [[1, 2]], [[1, 2, 3]]),
    ({"allOf": [{"items": {}}], "unevaluatedItems": False}, [[1, 2]], []),
    ({"allOf": [{"unevaluatedItems": True}], "unevaluatedItems": False}, [[1, 2]], []),
    ({"contains": {"type": "integer"}, "unevaluatedItems": False}, [[1, 2]], [[1, "x"]]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), TABLE, ids=[json.dumps(s)[:60] for s, _, _ in TABLE])
def test_every_keyword_means_what_the_standard_says(schema: Any, good: list[Any], bad: list[Any]):
    """Each row is judged as the table says, the independent implementation agrees, and nothing stays unchecked."""
    ours = Schema(schema)
    oracle = jsonschema.Draft202012Validator(schema)
    assert ours.unchecked == ()
    for value in good:
        assert ours.check(value) == ((), True), value
        assert oracle.is_valid(value), value
    for value in bad:
        report = ours.check(value)
        assert report.complete
        assert report.faults, value
        assert not oracle.is_valid(value), value


# ---- the independent implementation on schemas that nobody wrote ----------------------------------------------------
NAMES = st.sampled_from(["a", "b", "x1", "é"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from([0.0, 1.0, 1.5, -2.5, 3.0]),
    st.sampled_from(["", "a", "ab", "x1", "é😀"]),
)
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(NAMES, v, max_size=3)), max_leaves=6
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
SMALL = st.integers(0, 3)
PATTERNS = st.sampled_from(["a", "^a", "^x[0-9]$", "b|é", "^.?$", "(a|b)+", "[^a]", "^$"])


def _keywords(sub: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any mixture of keywords that both implementations read the same way."""
    some = st.lists(sub, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, sub, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
            "const": VALUES,
            "minimum": st.integers(-2, 3),
            "exclusiveMaximum": st.integers(-2, 3),
            "multipleOf": st.integers(1, 3),
            "minLength": SMALL,
            "maxLength": SMALL,
            "pattern": PATTERNS,
            "required": st.lists(NAMES, max_size=2, unique=True),
            "properties": named,
            "patternProperties": st.dictionaries(PATTERNS, sub, max_size=2),
            "additionalProperties": sub,
            "propertyNames": sub,
            "minProperties": SMALL,
            "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True), max_size=2),
            "dependentSchemas": named,
            "items": sub,
            "prefixItems": some,
            "contains": sub,
            "minContains": SMALL,
            "maxContains": SMALL,
            "maxItems": SMALL,
            "uniqueItems": st.booleans(),
            "allOf": some,
            "anyOf": some,
            "oneOf": some,
            "not": sub,
            "if": sub,
            "then": sub,
            "else": sub,
            "$ref": st.sampled_from(["#/$defs/d", "#/$defs/e"]),
            "unevaluatedProperties": sub,
            "unevaluatedItems": sub,
        },
    )


LEAVES = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": TYPES}),
    st.fixed_dictionaries({"enum": st.lists(VALUES, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"minimum": st.integers(-2, 3)}),
)
SCHEMAS = st.recursive(LEAVES, _keywords, max_leaves=8)
# What `$defs` holds refers to nothing, so that no reference leads back to itself.
DEFINED = st.builds(
    lambda s, d, e: {**(s if isinstance(s, dict) else {"allOf": [s]}), "$defs": {"d": d, "e": e}},
    SCHEMAS,
    LEAVES,
    LEAVES,
)


@settings(max_examples=examples(100, 400), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip
@given(schema=DEFINED, values=st.lists(VALUES, min_size=1, max_size=4))
@example(schema={"contains": {"type": "integer"}, "unevaluatedItems": False, "$defs": {}}, values=[[1, "x"]])
def test_random_schemas_are_judged_as_the_independent_implementation_judges_them(
    schema: dict[str, Any], values: list[Any]
):
    """On random schemas and values of the common subset, valid means valid for both."""
    ours = Schema(schema)
    if any("listed value" in fault.message for fault in ours.unchecked):
        return  # we leave out a `const` that the declared type forbids, as a slip
    assert ours.unchecked == ()
    oracle = jsonschema.Draft202012Validator(schema)
    for value in values:
        report = ours.check(value)
        assert report.complete
        assert bool(report.faults) is not oracle.is_valid(value)


@settings(max_examples=examples(100, 300), deadline=None)
@given(schema=st.recursive(st.one_of(SCALARS, st.floats(), st.text(max_size=3)), lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.sampled_from([*_schema._ONE, *_schema._LISTS, *_schema._MAPS, "type", "enum", "const", "required", "pattern", "minimum", "maxLength", "multipleOf", "minContains", "uniqueItems", "nullable", "$ref", "$id", "$anchor", "$dynamicRef", "dependentRequired"]), v, max_size=5)), max_leaves=20), value=VALUES)  # fmt: skip
def test_nothing_that_a_schema_may_be_makes_the_checker_raise(schema: Any, value: Any):
    """Keywords with random JSON as their values compile and check; a report is always given."""
    assert Schema(schema).check(value).complete


# ---- the hostile corpus ---------------------------------------------------------------------------------------------
CORPUS = [pytest.param(case, id=f"{case.group}-{case.name}"[:70]) for case in CASES]


def test_the_corpus_is_large():
    """There are at least 120 hostile schemas, in every group."""
    assert len(CASES) >= 120
    groups = "ref growth pattern number size bulk garbage dialect value"
    assert {case.group for case in CASES} == {*groups.split()}


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_schema_abstains_for_what_it_cannot_say_and_holds_for_the_rest(case: Case):
    """The good value of each case is found faultless, the bad one faulty, and what is unenforceable is reported."""
    schema = Schema(case.schema())
    if case.unchecked is not None:
        assert bool(schema.unchecked) is case.unchecked
    assert len(schema.unchecked) <= 20
    assert all(len(text) <= 300 for fault in schema.unchecked for text in fault)
    if case.good is not NONE:
        assert schema.check(made(case.good)).faults == ()
    if case.bad is not NONE:
        faults = schema.check(made(case.bad)).faults
        assert faults
        assert len(faults) <= MAX_FAULTS
        assert all(len(fault.message) <= 300 and len(fault.path) <= 300 for fault in faults)


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_schema_meets_hostile_values_within_its_counted_budget(case: Case):
    """Whatever the value, a check ends by itself, and when it does not finish it has used up its steps or its depth.

    Every third value in the quick run, all of them where slow tests run.
    """
    schema = Schema(case.schema())
    for _, build in HOSTILE_VALUES[:: 1 if RUN["slow"] else 3]:
        for value in (build(), {"x": build(), "n": build()}):
            report = schema.check(value, steps=6_000)  # a tenth of what a call may take: the end is the same, earlier
            assert len(report.faults) <= MAX_FAULTS
            json.dumps(report.faults).encode()  # clean text, whatever the value was


def test_the_budget_is_counted():
    """A bomb ends after the same number of steps every time; faults found before that still count."""
    bomb = next(case for case in CASES if case.name == "reference bomb by allOf")
    schema = Schema(bomb.schema())
    assert [schema.check({}, steps=steps).complete for steps in (10, 1_000, MAX_STEPS)] == [False, False, False]
    assert schema.check({}).faults == ()
    bomb = next(case for case in CASES if case.name == "reference bomb by allOf").schema()
    report = Schema({"required": ["n"], "allOf": [bomb["$defs"]["d0"]], "$defs": bomb["$defs"]}).check({})
    assert report == ((Fault("/n", "required", "missing"),), False)


def test_no_schema_makes_the_checker_open_a_file_or_a_connection():
    """Under an audit hook, compiling and checking the whole corpus opens, connects, resolves and executes nothing."""
    seen: list[str] = []
    watched = threading.get_ident()
    active = True

    def hook(event: str, _args: object) -> None:
        if (
            active
            and threading.get_ident() == watched
            and re.match(r"open$|socket\.|urllib|subprocess|os\.(system|exec)|exec$|compile$", event)
        ):
            seen.append(event)

    for case in CASES:  # imports that happen on first use are not the schema's doing
        Schema(case.schema()).check({})
    sys.addaudithook(hook)
    try:
        for case in CASES:
            Schema(case.schema()).check({"x": "v", "n": 1})
    finally:
        active = False
    assert seen == []


# ---- bounds and reports ---------------------------------------------------------------------------------------------
def test_a_caller_near_the_recursion_limit_gets_an_incomplete_report():
    """When the stack of the caller is nearly used up, the check gives up instead of raising."""
    schema = Schema({"properties": {"a": {"$ref": "#"}}, "type": "object"})
    value: Any = {}
    for _ in range(40):
        value = {"a": value}

    def descend(levels: int) -> Any:
        return schema.check(value) if levels == 0 else descend(levels - 1)

    frame, used = sys._getframe(), 0
    while frame is not None:
        used, frame = used + 1, frame.f_back  # type: ignore[assignment]
    assert descend(0) == ((), True)
    assert descend(sys.getrecursionlimit() - used - 60) == ((), False)


def test_the_bounds_of_size():
    """Above 2,000 subschemas the first are enforced, above the byte limit nothing; a later change of a schema changes nothing."""
    properties = {f"p{i}": {"type": "string"} for i in range(MAX_NODES + 50)}
    schema = Schema({"properties": properties})
    too_many = "the schema has more than 2,000 subschemas; the rest is not checked"
    assert [fault.message for fault in schema.unchecked] == [too_many]
    assert schema.check({"p0": 1}).faults
    assert schema.check({f"p{MAX_NODES + 40}": 1}).faults == ()
    assert Schema({"type": "string", "description": "d" * (MAX_BYTES - 100)}).unchecked == ()
    assert [f.message for f in Schema({"type": "string", "description": "d" * MAX_BYTES}).unchecked] == [
        "the schema is larger than 256,000 bytes"
    ]
    source: dict[str, Any] = {"properties": {"a": {"enum": ["x"]}}}
    schema = Schema(source)
    source["properties"]["a"]["enum"].append("y")
    assert schema.check({"a": "y"}).faults


def test_reports_are_bounded():
    """A hundred malformed keywords give 20 reports, a thousand leftovers ten; a mapping that raises is no schema."""

    class Broken(UserDict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise RuntimeError(key)

    assert len(Schema({"properties": {f"p{i}": {"type": 5} for i in range(100)}}).unchecked) == 20
    assert [f.message for f in Schema(Broken(a=1)).unchecked] == ["the schema cannot be read (RuntimeError)"]
    report = Schema({"unevaluatedProperties": False}).check({f"k{i}": 1 for i in range(1_000)})
    assert len(report.faults) == MAX_FAULTS


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1, "x"]}, ("/a/1", "type", "expected integer, found string")),
        ({"type": ["string", "null"]}, {}, ("", "type", "expected null or string, found object")),
        ({"required": ["a/b~c"]}, {}, ("/a~1b~0c", "required", "missing")),
        ({"minimum": 3}, 2, ("", "minimum", "expected a number >= 3")),
        ({"exclusiveMaximum": 3}, 3, ("", "exclusiveMaximum", "expected a number < 3")),
        ({"maxItems": 1}, [1, 2], ("", "maxItems", "expected at most 1 items")),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 5, ("", "type", "a type that no alternative allows")),
        ({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]}, 2, ("", "minimum", "expected a number >= 3")),
        ({"anyOf": [{"enum": ["a"]}, {"const": "b"}]}, "c", ("", "enum", "not one of the allowed values")),
        ({"anyOf": [{"minLength": 3}, {"pattern": "^x"}]}, "a", ("", "anyOf", "fits none of the alternatives")),
        ({"additionalProperties": False}, {"\0\ud800": 1}, ("/\ufffd\ufffd", "additionalProperties", "not declared")),
    ],
)  # fmt: skip
def test_a_fault_names_path_and_rule(schema: Any, value: Any, fault: tuple[str, str, str]):
    """The report says where and which rule, in terms of types and bounds; of alternatives, the one that was meant."""
    assert Schema(schema).check(value).faults == (Fault(*fault),)


@settings(max_examples=60, deadline=None)
@given(secret=st.text(alphabet="QZ", min_size=12, max_size=12))
def test_no_fault_quotes_a_value(secret: str):
    """A canary in the value is in no message."""
    rules = {
        "type": "integer",
        "enum": ["a"],
        "pattern": "^a$",
        "maxLength": 1,
        "not": {},
        "const": 1,
        "oneOf": [{}, {}],
    }
    for schema in ({keyword: value} for keyword, value in rules.items()):
        report = Schema({"properties": {"k": schema}}).check({"k": secret})
        assert report.faults
        assert secret not in str(report)


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"properties": {"a": {}}}, {"a": 1, "b": 2}, ["b"]),
        ({"properties": {}}, {"b": 2}, ["b"]),
        ({}, {"b": 2}, []),
        ({"type": "object"}, {"b": 2}, []),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"b": 2}, []),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {"b": 2}, []),
        ({"properties": {"a": {}}, "unevaluatedProperties": True}, {"b": 2}, []),
        ({"properties": {"a": {}}, "patternProperties": {"^x-": {}}}, {"x-b": 2, "y": 1}, ["y"]),
        ({"properties": {"a": {}}, "required": ["b"]}, {"b": 2}, []),
        ({"allOf": [{"properties": {"a": {}}}, {"$ref": "#/$defs/d"}], "$defs": {"d": {"properties": {"b": {}}}}}, {"a": 1, "b": 2, "c": 3}, ["c"]),
        ({"properties": {"a": {}}, "$ref": "http://example.com"}, {"b": 2}, []),
        ({"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"additionalProperties": {}}]}, {"c": 2}, []),
        ({"properties": {"a": {}}}, {f"k{i}": 1 for i in range(50)}, [f"k{i}" for i in range(MAX_FAULTS)]),
    ],
)  # fmt: skip
def test_undeclared_names_are_those_that_an_offer_does_not_list(schema: Any, value: Any, expected: list[str]):
    """A name is undeclared when the schema lists arguments, this one is not among them, and nothing says it is open."""
    assert Schema(schema).undeclared(value) == expected


# ---- patterns -------------------------------------------------------------------------------------------------------
ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\w", r"\d", r"\s", "^", "$", "1", "_", r"\.", "(?:)"])
SOURCES = st.recursive(
    ATOMS,
    lambda s: st.one_of(
        st.tuples(s, s).map("".join),
        st.tuples(s, s).map(lambda p: f"({p[0]}|{p[1]})"),
        st.tuples(s, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
        s.map(lambda p: f"^(?={p})"),
        s.map(lambda p: f"^(?!{p})"),
    ),
    max_leaves=8,
)


@settings(max_examples=examples(100, 400), deadline=None)
@given(source=SOURCES, texts=st.lists(st.text(alphabet="abc1_. \n", max_size=7), min_size=1, max_size=5))
def test_a_translated_pattern_finds_what_re_finds(source: str, texts: list[str]):
    """On patterns whose syntax both share, RE2 and a backtracking engine agree on every text, or RE2 declines."""
    other = re.compile(source.replace("$", r"\Z"), re.ASCII)
    try:
        pattern = compile_pattern(source)
    except PatternError:
        assert "(?=" in source or "(?!" in source
        return
    for text in texts:
        assert pattern.search(text) is (other.search(text) is not None)


def test_patterns_end_by_their_steps():
    """In proportion to the text, together too; what could not be followed is held against nobody."""
    schema = Schema({"pattern": "(a|b)*a(a|b){900}c"})
    assert schema.check("ab" * 1_000).faults == (Fault("", "pattern", "does not match the pattern"),)
    assert schema.check("ab" * 100_000) == ((), False)
    schema = Schema({"properties": {f"p{i}": {"pattern": f"^(?:{i}|[a-z0-9]{{1,990}})$"} for i in range(1_500)}})
    assert schema.check({"p0": "!"}).faults
    assert schema.check({"p1400": "!"}).faults == ()
    assert "the patterns of the schema are too large together" in {fault.message for fault in schema.unchecked}
    schema = Schema({"properties": {"a": {}}, "patternProperties": {"(a|b)*a(a|b){900}c": {}}})
    assert schema.undeclared({"ab" * 100_000: 1}) == []


def test_importing_the_checker_loads_neither_library():
    """Whoever never compiles a schema does not pay for jsonschema and RE2."""
    code = "import sys, cascade_agent, cascade_agent.validators.json_schema.schema; print({'jsonschema', 're2'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
