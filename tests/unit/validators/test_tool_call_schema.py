"""Calls that no tool accepts or no checkpoint holds are refused; calls that the tool accepts are kept."""

from __future__ import annotations

import json
import logging
import threading
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, Tool, tool
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import InjectedState, ToolRuntime
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.v1 import BaseModel as BaseModelV1
from pydantic.v1 import conint

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators import tool_call_schema
from cascade_agent.validators._cache import IdentityCache
from cascade_agent.validators.json_schema.schema import Schema
from cascade_agent.validators.tool_call_schema import ToolCallSchema
from cascade_agent.validators.validator_set import ValidatorSet

FLIGHT = {
    "type": "object",
    "properties": {
        "origin": {"type": "string", "pattern": "^[A-Z]{3}$"},
        "seats": {"type": "integer", "minimum": 1, "maximum": 9},
        "cabin": {"type": "string", "enum": ["economy", "first"]},
        "stops": {"type": "array", "items": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
    },
    "required": ["origin"],
}  # fmt: skip
REMOTE = {"name": "flight", "input_schema": FLIGHT}


class Cabin(Enum):
    """A class of seats."""

    ECONOMY = "economy"
    FIRST = "first"


class Stop(BaseModel):
    """A stop on the way."""

    code: str


@tool
def flight(
    origin: Annotated[str, Field(pattern="^[A-Z]{3}$")],
    seats: Annotated[int, Field(ge=1, le=9)] = 1,
    cabin: Cabin = Cabin.ECONOMY,
    stops: list[Stop] | None = None,
    note: Annotated[str, Field(max_length=5)] | None = None,
) -> str:
    """Book a flight."""
    return f"{origin} {seats} {cabin} {stops} {note}"


def draft(*calls: tuple[str, Any] | dict[str, Any], **extra: Any) -> Draft:
    """A draft that makes these calls."""
    made = [c if isinstance(c, dict) else {"name": c[0], "args": c[1], "id": f"call_{i}"} for i, c in enumerate(calls)]
    return Draft(message=AIMessage(content="", tool_calls=made, **extra))


def raw(*calls: dict[str, Any]) -> Draft:
    """A draft whose calls no constructor has looked at."""
    return Draft(message=AIMessage.model_construct(content="", tool_calls=list(calls), invalid_tool_calls=[]))


def judge(args: Any, *tools: Any, validator: ToolCallSchema | None = None, name: str = "flight") -> list[Verdict]:
    """The findings on one call of a tool."""
    context = StepContext(tools=tool_specs(tools or [REMOTE]))
    return list(ValidatorSet([validator or ToolCallSchema()]).validate(draft((name, args)), context))


def brief(found: list[Verdict]) -> list[tuple[str, str]]:
    """Code and path below the arguments."""
    return [(v.code, v.path.removeprefix("/tool_calls/0/args")) for v in found]


BOTH = pytest.mark.parametrize("offered", [REMOTE, flight], ids=["schema", "python"])


@BOTH
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, [("missing_argument", "/origin")]),
        ({"seats": 2}, [("missing_argument", "/origin")]),
        ({"origin": 7}, [("wrong_type", "/origin")]),
        ({"origin": None}, [("wrong_type", "/origin")]),
        ({"origin": "AMS", "seats": "many"}, [("wrong_type", "/seats")]),
        ({"origin": "AMS", "seats": 2.5}, [("wrong_type", "/seats")]),
        ({"origin": "AMS", "seats": [2]}, [("wrong_type", "/seats")]),
        ({"origin": "AMS", "cabin": "business"}, [("not_in_enum", "/cabin")]),
        ({"origin": "AMS", "seats": 0}, [("out_of_range", "/seats")]),
        ({"origin": "AMS", "seats": 10}, [("out_of_range", "/seats")]),
        ({"origin": "AMS", "note": "too long"}, [("out_of_range", "/note")]),
        ({"origin": "Amsterdam"}, [("pattern_mismatch", "/origin")]),
        ({"origin": "AMS", "stops": "CDG"}, [("wrong_type", "/stops")]),
        ({"origin": "AMS", "stops": [{"code": "CDG"}, {}]}, [("missing_argument", "/stops/1/code")]),
        ({"origin": "AMS", "stops": [{"code": 5}]}, [("wrong_type", "/stops/0/code")]),
        ({"origin": "AMS", "destination": "CDG"}, [("extra_argument", "/destination")]),
        ({"origen": "AMS"}, [("missing_argument", "/origin"), ("extra_argument", "/origen")]),
        ({"origin": "ams", "seats": 0, "x": 1}, [("pattern_mismatch", "/origin"), ("out_of_range", "/seats"), ("extra_argument", "/x")]),
    ],
)  # fmt: skip
def test_each_kind_of_wrong_argument_is_named_the_same_for_both_kinds_of_tools(
    offered: Any, args: Any, expected: list[tuple[str, str]]
):
    """A schema of a stranger and a Python tool give the same codes and paths, each a hard fail."""
    found = judge(args, offered)
    assert brief(found) == expected
    assert all(v.hard and v.validator == "ToolCallSchema" and 0 < len(v.reason) <= 500 for v in found)


@BOTH
@pytest.mark.parametrize(
    "args",
    [
        {"origin": "AMS"},
        {"origin": "AMS", "seats": 5.0},
        {"origin": "AMS", "seats": 9, "cabin": "first", "stops": [], "note": None},
        {"origin": "AMS", "stops": [{"code": "東京"}], "note": "é😀'\""},
        {"origin": "AMS", "stops": [{"code": "CDG", "gate": "F3"}]},
    ],
)
def test_calls_that_look_odd_but_are_right_are_kept(offered: Any, args: Any):
    """Integer-valued floats, nulls where allowed, Unicode, empty lists, extras inside of nested values."""
    assert judge(args, offered) == []


def test_coercion_and_strictness():
    """`"2"` for an integer is fine for a Python tool alone, and refused there too when it, or the validator, is strict."""
    args = {"origin": "AMS", "seats": "2"}
    assert judge(args, flight) == []
    assert brief(judge(args, REMOTE)) == [("wrong_type", "/seats")]
    assert brief(judge(args, flight, validator=ToolCallSchema(strict=True))) == [("wrong_type", "/seats")]
    (spec,) = tool_specs([flight])
    strict = ToolSpec(spec.name, spec.description, spec.parameters, native=spec.native, strict=True)
    assert brief(judge(args, strict)) == [("wrong_type", "/seats")]
    assert judge({"origin": "AMS", "seats": 2}, strict) == []
    assert brief(judge({"origin": "AMS", "x": 2}, strict)) == [("extra_argument", "/x")]


# ---- names, ids and what did not parse ------------------------------------------------------------------------------
def test_calls_that_were_not_offered():
    """Unknown names, near misses and empty ones; without any tool a call is refused once; structured output is left alone."""
    for name in ("flights", "Flight", "functions.flight", "flight "):
        found = judge({"origin": "AMS"}, name=name)
        assert [(v.code, v.path) for v in found] == [("unknown_tool", "/tool_calls/0/name")]
    context = StepContext(tools=tool_specs([REMOTE]))
    for name in ("", None, 5, ["flight"]):
        found = ToolCallSchema()(raw({"name": name, "args": {}, "id": "1"}), context) or []
        assert [v.code for v in found] == ["unknown_tool"]
    call = draft(("flight", {}))
    assert [v.code for v in ToolCallSchema()(call, StepContext()) or []] == ["unknown_tool"]
    assert ToolCallSchema()(call, StepContext(tool_choice="none")) is None
    context = StepContext(tools=tool_specs([REMOTE]), output_schema={"title": "Answer"})
    broken = {"name": "Answer", "args": "{", "id": "1", "error": "x"}
    assert ToolCallSchema()(draft(("Answer", {"anything": 1}), invalid_tool_calls=[broken]), context) is None


def test_arguments_that_are_no_json_object_are_malformed():
    """Arguments that the host could not parse, and a list or text in their place."""
    context = StepContext(tools=tool_specs([REMOTE]))
    broken = draft(invalid_tool_calls=[{"name": "flight", "args": '{"origin": ', "id": "1", "error": "x"}])
    found = ToolCallSchema()(broken, context) or []
    assert [(v.code, v.path, v.hard) for v in found] == [("malformed_arguments", "/invalid_tool_calls/0/args", True)]
    for args in (None, [], "{}", 5):
        found = ToolCallSchema()(raw({"name": "flight", "args": args, "id": "1"}), context) or []
        assert [(v.code, v.path) for v in found] == [("malformed_arguments", "/tool_calls/0/args")]


def test_calls_next_to_each_other():
    """Each is checked at its place; a nested extra and one that the schema forbids are named once."""
    context = StepContext(tools=tool_specs([REMOTE]))
    good = ("flight", {"origin": "AMS"})
    assert ToolCallSchema()(draft(good, good, good), context) is None
    found = ToolCallSchema()(draft(good, ("flight", {}), ("fly", {})), context) or []
    assert [(v.code, v.path) for v in found] == [
        ("missing_argument", "/tool_calls/1/args/origin"),
        ("unknown_tool", "/tool_calls/2/name"),
    ]
    empty = {"type": "object", "additionalProperties": False}
    closed = {**empty, "properties": {"a": empty}}
    found = judge({"a": {"x": 1}, "b": 2}, {"name": "flight", "parameters": closed})
    assert brief(found) == [("extra_argument", "/a/*"), ("extra_argument", "/b")]


def test_no_finding_where_nothing_is_wrong():
    """Ids of calls are no fault, a draft without calls is not this validator's business, findings are bounded."""
    context = StepContext(tools=tool_specs([REMOTE]), messages=[HumanMessage("hi")] * 40)
    for own in ("same", None, ""):
        call = {"name": "flight", "args": {"origin": "AMS"}, "id": own}
        assert ToolCallSchema()(draft(call, call), context) is None
    assert ToolCallSchema()(Draft(message=AIMessage(content="Yes")), context) is None
    assert len(ToolCallSchema()(draft(*[("flight", {})] * 100), context) or []) == 10


# ---- what a checkpoint cannot hold ----------------------------------------------------------------------------------
def nested(levels: int) -> Any:
    """A list nested `levels` deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


UNSTORABLE = [
    ({"a": 2**64}, "/a"),
    ({"a": -(2**63) - 1}, "/a"),
    ({"a": [1, {"b": 10**5_000}]}, "/a/1/*"),
    ({"a": float("nan")}, "/a"),
    ({"a": [float("-inf")]}, "/a/0"),
    ({"a": "x\0y"}, "/a"),
    ({"a": "\ud800"}, "/a"),
    ({"\udfff": 1}, "/*"),
    ({"a\0": 1}, "/*"),
    ({"a": (1, 2)}, "/a"),
    ({"a": b"x"}, "/a"),
    ({"a": {5: 1}}, "/a/5"),
    ({"a": "x" * 1_000_001}, ""),
    ({"a": [0] * 600_000}, ""),
    ({"x" * 1_000_001: 1}, ""),
]


@pytest.mark.parametrize(("args", "path"), UNSTORABLE)
@pytest.mark.parametrize("structured", [False, True])
def test_arguments_that_a_checkpoint_cannot_hold_are_refused(args: Any, path: str, structured: bool):
    """Also where structured output was asked for; the tool is then not even asked."""
    open_tool = {"name": "open", "parameters": {"type": "object", "minProperties": 50}}
    context = StepContext(tools=tool_specs([open_tool]), output_schema={} if structured else None)
    found = list(ValidatorSet([ToolCallSchema()]).validate(raw({"name": "open", "args": args, "id": "1"}), context))
    assert brief(found) == [("unstorable_argument", path)]
    assert found[0].hard


def test_what_a_checkpoint_can_hold_is_kept():
    """Nests of 63 are and deeper ones not; limits of integers, Unicode and big text come back equal."""
    context = StepContext(tools=tool_specs([{"name": "open"}]))
    assert ToolCallSchema()(draft(("open", {"a": nested(63)})), context) is None
    for levels in (64, 900, 100_000):
        found = ToolCallSchema()(raw({"name": "open", "args": {"a": nested(levels)}, "id": "1"}), context) or []
        assert [v.code for v in found] == ["unstorable_argument"]
        assert len(found[0].path) <= 400
    args = {"a": 2**64 - 1, "b": -(2**63), "c": "é😀", "d": nested(60), "e": 1.5, "f": [True, None], "g": "x" * 900_000}
    context = StepContext(tools=tool_specs([{"name": "open"}]))
    made = draft(("open", args))
    assert ToolCallSchema()(made, context) is None
    serde = JsonPlusSerializer()
    assert serde.loads_typed(serde.dumps_typed(made.message)) == made.message


# ---- Python tools ---------------------------------------------------------------------------------------------------
def test_an_argument_that_the_host_injects():
    """Is neither demanded nor accepted, and an exception over its absence decides nothing."""

    @tool
    def look(
        query: str,
        state: Annotated[dict[str, Any], InjectedState],
        runtime: ToolRuntime,
        call: Annotated[str, InjectedToolCallId],
    ) -> str:
        """Look."""
        return query

    assert judge({"query": "x"}, look, name="look") == []
    assert brief(judge({"query": 5}, look, name="look")) == [("wrong_type", "/query")]
    assert brief(judge({"query": "x", "state": {}}, look, name="look")) == [("extra_argument", "/state")]

    class Args(BaseModel):
        query: str
        state: Annotated[dict[str, Any], InjectedState]

        @model_validator(mode="before")
        @classmethod
        def look(cls, data: Any) -> Any:
            return {**data, "query": data["state"]["query"]}

    def run(query: str, state: dict[str, Any]) -> str:
        return query

    own = StructuredTool(name="own", description="d", args_schema=Args, func=run)
    assert judge({"query": "x"}, own, name="own") == []


def test_a_tool_s_own_validators_count():
    """A refusal by the author's code is a fail that names no value; an odd exception is one too."""

    class Order(BaseModel):
        number: str
        kind: Literal["a", "b"] = "a"

        @field_validator("number")
        @classmethod
        def known(cls, value: str) -> str:
            if value == "secret-0":
                raise ValueError(f"no order {value}")
            if value == "odd":
                raise ZeroDivisionError
            return value

    class Pair(BaseModel):
        low: int
        high: int

        @model_validator(mode="before")
        @classmethod
        def order(cls, data: Any) -> Any:
            data["low"] = min(data["low"], 5)
            return data

        @model_validator(mode="after")
        def sorted(self) -> Pair:
            if self.low > self.high:
                raise ValueError("unsorted")
            return self

    assert judge({"number": "1"}, Order, name="Order") == []
    found = judge({"number": "secret-0"}, Order, name="Order")
    assert brief(found) == [("schema_violation", "/number")]
    assert "secret" not in str(found)
    assert brief(judge({"number": "odd"}, Order, name="Order")) == [("schema_violation", "")]
    assert brief(judge({"number": "1", "kind": "c"}, Order, name="Order")) == [("not_in_enum", "/kind")]
    args = {"low": 9, "high": 7}
    assert judge(args, Pair, name="Pair") == []
    assert args == {"low": 9, "high": 7}  # a validator of the tool's author changes no draft
    assert brief(judge({"low": 4, "high": 3}, Pair, name="Pair")) == [("schema_violation", "")]
    assert brief(judge({"high": 3}, Pair, name="Pair")) == [("schema_violation", "")]


def test_control_flow_of_the_host_passes_through():
    """A validator of the tool that interrupts the graph is not caught."""

    class Args(BaseModel):
        query: str

        @field_validator("query")
        @classmethod
        def stop(cls, value: str) -> str:
            raise GraphInterrupt

    with pytest.raises(GraphInterrupt):
        judge({"query": "x"}, Args, name="Args")


def test_aliases_and_open_models_are_respected():
    """An alias is a declared name; a model that allows extras, `**kwargs` and a field of any name invent nothing."""

    class Aliased(BaseModel):
        city: str = Field(alias="cityName")
        unit: str = Field(default="c", validation_alias=AliasChoices("unit", "u", AliasPath("units", 0)))

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        city: str

    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        city: str

    def rest(city: str, **kwargs: Any) -> str:
        """Take anything."""
        return f"{city}{kwargs}"

    aliased = StructuredTool(name="t", description="d", args_schema=Aliased, func=print)
    assert judge({"cityName": "x", "u": "f"}, aliased, name="t") == []
    assert judge({"cityName": "x", "units": ["f"]}, aliased, name="t") == []
    assert brief(judge({"cityName": "x", "z": 1}, aliased, name="t")) == [("extra_argument", "/z")]
    assert judge({"city": "x", "z": 1}, Open, name="Open") == []
    assert judge({"city": "x", "z": 1}, rest, name="rest") == []
    assert brief(judge({"city": "x", "z": 1}, Closed, name="Closed")) == [("extra_argument", "/z")]


def test_a_tool_without_parameters_takes_no_arguments():
    """Empty arguments are right for it, invented ones are not; a tool whose arguments are unknown takes any."""

    @tool
    def ping() -> str:
        """Ping."""
        return "pong"

    for offered in (ping, {"name": "ping", "parameters": {"type": "object", "properties": {}}}):
        assert judge({}, offered, name="ping") == []
        assert brief(judge({"x": 1}, offered, name="ping")) == [("extra_argument", "/x")]
    for unknown in ({}, {"type": "web_search"}, {"parameters": {"type": "object"}}):
        assert judge({"x": 1}, {"name": "ping", **unknown}, name="ping") == []


def test_unusual_tools():
    """One argument of any name, a class without `args_schema`, a hand-made spec with a dict: as LangChain runs them."""
    own = Tool(name="t", func=str, description="d")
    assert judge({"__arg1": "x"}, own, name="t") == []
    assert judge({"query": "x"}, own, name="t") == []
    assert brief(judge({}, own, name="t")) == [("missing_argument", "")]
    assert brief(judge({"a": 1, "b": 2}, own, name="t")) == [("extra_argument", "")]

    class Own(BaseTool):
        name: str = "own"
        description: str = "d"

        def _run(self, query: str, limit: int = 1) -> str:
            return query * limit

    assert judge({"query": "x", "limit": "2"}, Own(), name="own") == []
    assert brief(judge({"limit": 2}, Own(), name="own")) == [("missing_argument", "/query")]
    remote = StructuredTool(name="flight", description="d", args_schema=FLIGHT, func=print)
    found = judge({"origin": "AMS", "seats": "2"}, ToolSpec("flight", "", FLIGHT, native=remote))
    assert brief(found) == [("wrong_type", "/seats")]


def test_models_of_pydantic_1_are_asked_in_their_own_way():
    """Their errors have other names and give the same codes."""

    class Old(BaseModelV1):
        city: str
        days: conint(ge=1) = 1  # type: ignore[valid-type]

    own = StructuredTool(name="t", description="d", args_schema=Old, func=print)
    assert judge({"city": "x", "days": "2"}, own, name="t") == []
    assert brief(judge({"days": 0}, own, name="t")) == [("missing_argument", "/city"), ("out_of_range", "/days")]
    assert brief(judge({"city": "x", "days": "y"}, own, name="t")) == [("wrong_type", "/days")]
    assert brief(judge({"city": "x", "z": 1}, own, name="t")) == [("extra_argument", "/z")]


def test_bounds_of_findings():
    """Thousands of errors give one finding; a schema too costly to follow gives one abstain and no fail."""

    class Many(BaseModel):
        numbers: list[int]

    found = judge({"numbers": ["x"] * 5_000}, Many, name="Many")
    assert brief(found) == [("schema_violation", "")]
    assert "5000" in found[0].reason
    defs: dict[str, Any] = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)}
    offered = {"name": "bomb", "parameters": {"$ref": "#/$defs/d0", "$defs": {**defs, "d30": {"type": "object"}}}}
    found = judge({}, offered, name="bomb")
    assert [(v.outcome, v.code, v.score) for v in found] == [("abstain", "unchecked", None)]


# ---- schemas of strangers -------------------------------------------------------------------------------------------
def test_what_cannot_be_enforced_is_logged_once_and_never_held_against_a_call(caplog: pytest.LogCaptureFixture):
    """A remote reference and a back-reference: one warning at the first sight, the other rules hold, no finding."""
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "http://example.com/a"}, "b": {"type": "string", "pattern": r"(x)\1"}, "n": {"type": "integer"}},
        "required": ["n"],
    }  # fmt: skip
    offered = {"name": "odd", "input_schema": schema}
    validator = ToolCallSchema()
    with caplog.at_level(logging.WARNING, logger="cascade_agent"):
        validator.prepare(tool_specs([offered]))
        for _ in range(5):
            assert judge({"a": 1, "b": "y", "n": 1}, offered, name="odd", validator=validator) == []
        assert brief(judge({"a": 1}, offered, name="odd")) == [("missing_argument", "/n")]
        again = {"name": "odd", "input_schema": json.loads(json.dumps(schema))}  # the same tool, read anew
        assert judge({"n": 1}, again, name="odd") == []
    assert [r.name for r in caplog.records] == ["cascade_agent"]
    message = caplog.messages[0]
    assert "'odd'" in message
    assert "/properties/a $ref: leads outside of the schema; nothing is fetched" in message
    assert "/properties/b pattern: pattern with a back-reference" in message


def test_what_the_validator_says():
    """Its name, stage and settings; and never an argument: a canary in every value is in no reason and no path."""
    canary = "QZXV91"
    args = {"origin": canary, "seats": canary, "cabin": canary, "stops": canary, "note": canary * 3}
    for offered in (REMOTE, flight):
        found = judge(args, offered)
        assert len(found) == 5
        assert canary not in str(found)
    assert repr(ToolCallSchema(strict=True)) == "ToolCallSchema(strict=True)"


def test_the_memory_of_schemas(monkeypatch: pytest.MonkeyPatch):
    """Compiled once for the same object, forgotten in turn."""
    made: list[object] = []

    class Counting(Schema):
        def __init__(self, schema: object) -> None:
            made.append(schema)
            super().__init__(schema)

    monkeypatch.setattr(tool_call_schema, "Schema", Counting)
    offered = {"name": "once", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    for _ in range(10):
        assert judge({"a": "x"}, offered, name="once") == []
    assert len(made) == 1
    monkeypatch.setattr(tool_call_schema, "_schemas", IdentityCache(3))
    for i in range(9):
        judge({}, {"name": f"t{i}", "parameters": {"type": "object", "properties": {}}}, name=f"t{i}")
    assert len(tool_call_schema._schemas._held) == 3


def test_many_threads_judge_with_one_validator():
    """Thirty-two threads, good and bad calls mixed: every finding belongs to its own call."""
    validator, wrong = ToolCallSchema(), []
    context = StepContext(tools=tool_specs([REMOTE, flight]))

    def work(number: int) -> None:
        for round_ in range(50):
            bad = (number + round_) % 2
            found = validator(draft(("flight", {"origin": "AMS", "seats": 20 if bad else 2})), context) or []
            if [v.code for v in found] != ["out_of_range"] * bad:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_arguments_that_some_models_add() -> None:
    """`{"": ""}` for a tool without parameters is no fault, and a parameter `runtime` is LangGraph's to fill in."""
    bare = {"type": "function", "function": {"name": "flight", "parameters": {"type": "object", "properties": {}}}}
    assert judge({"": ""}, bare) == []
    assert [v.code for v in judge({"x": ""}, bare)] == ["extra_argument"]
    assert "extra_argument" in [v.code for v in judge({"": ""}, REMOTE)]

    def look(city: str, runtime) -> str:  # type: ignore[no-untyped-def]
        """Look."""
        return city

    assert judge({"city": "Lyon"}, StructuredTool.from_function(look), name="look") == []
