"""Tests of StructuredOutput on the errors that pydantic, json and the LangChain parsers really write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import PydanticOutputParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field, ValidationError

from cascade_agent import CascadeChatModel, CascadeMiddleware
from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import structured_output
from cascade_agent.validators.structured_output import StructuredOutput, compiled
from cascade_agent.validators.validator_set import ValidatorSet


class Line(BaseModel):
    sku: str
    count: int


class Order(BaseModel):
    buyer: str = Field(alias="buyerName")
    lines: list[Line]
    notes: dict[str, int] = {}


SECRET = "hunter2"
LOOK_UP = AIMessage("", tool_calls=[{"name": "find", "args": {}, "id": "c1"}])


def judge(schema: object = None, *, message: Any = "x", tools: Any = (), **draft: Any) -> Verdict | None:
    """Judge one draft."""
    context = StepContext(output_schema=schema, tools=tools)
    answer = Draft(message=message if isinstance(message, AIMessage) else AIMessage(message), **draft)
    return next(iter(ValidatorSet([StructuredOutput()]).validate(answer, context)), None)


def fits(parsed: object, schema: object) -> bool:
    """Return whether parsed output passes."""
    return judge(schema, parsed=parsed) is None


def error_of(data: dict[str, Any]) -> str:
    """The text of a validation error."""
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(data)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_errors_that_name_no_value() -> None:
    """A parsing error fails hard without a schema too; LangChain's message quotes the whole answer and none of it is passed on."""
    verdict = judge(message="{", parsing_error="JSONDecodeError: Expecting property name")
    assert (verdict.code, verdict.hard, verdict.path) == ("unparsed_output", True, "/parsed")
    assert "JSONDecodeError" in verdict.reason
    with pytest.raises(OutputParserException) as caught:
        PydanticOutputParser(pydantic_object=Order).parse(json.dumps({"buyerName": SECRET}))
    error = f"{type(caught.value).__name__}: {caught.value}"
    assert SECRET in error
    verdict = judge(Order, parsing_error=error)
    assert "OutputParserException" in verdict.reason
    assert SECRET not in verdict.reason


@pytest.mark.parametrize(
    ("data", "path", "kind"),
    [
        ({"buyerName": "A", "lines": [{"sku": "a", "count": SECRET}]}, "/parsed/lines/0/count", "int_parsing"),
        ({"lines": []}, "/parsed/buyerName", "missing"),
        ({"buyerName": {"x": SECRET}, "lines": []}, "/parsed/buyerName", "string_type"),
        ({"buyerName": "A", "lines": [], "notes": {SECRET: "x"}}, "/parsed/notes/*", "int_parsing"),
    ],
)
def test_path_and_kind_but_no_value(data: dict[str, Any], path: str, kind: str) -> None:
    """The reason names path and kind of the first error; values and names that nobody declared are left out."""
    verdict = judge(Order, parsing_error=error_of(data))
    assert verdict.path == path
    assert kind in verdict.reason
    assert SECRET not in verdict.reason + verdict.path


def test_names_are_declared_by_any_schema() -> None:
    """JSON Schema, TypedDict and dataclass declare names as a class does, in a bounded part of the schema."""
    error = error_of({"buyerName": "A", "lines": [{"sku": "a", "count": SECRET}]})
    assert judge(Order.model_json_schema(), parsing_error=error).path == "/parsed/lines/0/count"
    error = error_of({"buyerName": "A", "lines": 3}).replace("lines", "count")
    for schema in (Typed, Plain):
        assert judge(schema, parsing_error=error).path == "/parsed/count"
    wide = {"anyOf": [{"properties": {f"f{n}": {}}} for n in range(5_000)]}
    error = error_of({"buyerName": "A"}).replace("lines", "f0")
    assert judge(wide, parsing_error=error).path == "/parsed/*"


class Typed(TypedDict):
    count: int


@dataclass
class Plain:
    count: int


def test_nothing_parsed_is_a_hard_fail() -> None:
    """Prose without an error, and a call of what was not offered, do not excuse the missing output."""
    message = AIMessage("It costs 12 euros.")
    parser = PydanticToolsParser(tools=[Line], first_tool_only=True)
    parsed = parser.parse_result([ChatGeneration(message=message)])
    assert judge(Line, message=message, parsed=parsed).hard
    assert judge(Line, message=LOOK_UP, tools=[ToolSpec("get")])


def test_kept() -> None:
    """Parsed output, falsy parsed output, a step without a schema and a look-up before the answer are kept."""
    assert fits(Line(sku="a", count=1), Line)
    assert fits({}, {"type": "object"})
    assert fits([], {"type": "array"})
    assert judge(message="It costs 12 euros.") is None
    assert judge(Line, message=LOOK_UP, tools=[ToolSpec("find")]) is None


SCHEMAS = st.sampled_from(
    [None, Order, Typed, Plain, int, list[Order], Order | None, {"properties": 3}, "x"]
) | st.dictionaries(st.text(), st.none() | st.dictionaries(st.text(), st.integers()))
LOOPED: dict[str, Any] = {"properties": {"a": {}}}
LOOPED["properties"]["a"] = LOOPED


@given(
    error=st.none() | st.text() | st.from_regex(r"\w+Error: .*\n\S+\n  .*\[type=[a-z_]+", fullmatch=False),
    schema=SCHEMAS | st.just(LOOPED),
)
def test_never_raises(error: str | None, schema: object) -> None:
    """No text of an error and no schema makes it raise, and its sentence stays short."""
    verdict = judge(schema, parsing_error=error)
    assert verdict is None or (verdict.hard and len(verdict.reason) <= 500)
    assert (verdict is None) == (error is None and schema is None)


# ---- plain output against its schema --------------------------------------------------------------------------------
PERSON: dict[str, Any] = {
    "title": "Person",
    "type": "object",
    "properties": {"age": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
    "required": ["age"],
}
BODY = {key: value for key, value in PERSON.items() if key != "title"}


class Part(typing_extensions.TypedDict, total=False):
    sku: str
    count: int


class Person(TypedDict):
    age: int
    tags: NotRequired[list[Literal["a", "b"]]]
    nick: Optional[str]  # noqa: UP045 - both spellings are met
    height: float | None
    note: Annotated[str, "", "a remark"]
    parts: list[Part]
    sizes: dict[str, int]
    friend: NotRequired[Person]
    pair: tuple[int, int]
    anything: Any
    named: Annotated[int, ..., "described"]


ADA: dict[str, Any] = {"age": 36, "nick": None, "height": 2, "parts": [{"sku": "x"}, {}], "sizes": {"a": 1}}
ADA |= {"pair": (1, 2), "anything": object(), "named": 1}
WRAPPED = {
    "plain": PERSON,
    "OpenAI tool": convert_to_openai_tool(PERSON),
    "OpenAI function": {"name": "Person", "description": "", "parameters": BODY},
    "Anthropic tool": {"name": "Person", "input_schema": BODY},
    "Bedrock tool": {"toolSpec": {"name": "Person", "inputSchema": {"json": BODY}}},
    "response format": {"type": "json_schema", "json_schema": {"name": "Person", "strict": True, "schema": BODY}},
    "response format, flat": {"type": "json_schema", "name": "Person", "schema": BODY},
    "tool strategy": ToolStrategy(PERSON),
    "provider strategy": ProviderStrategy(PERSON),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_plain_output_is_held_to_its_json_schema(form: str) -> None:
    """Output that breaks the schema fails hard in every wrapping; output that fits is kept, other keys included."""
    for bad in ({"agee": "x"}, {"age": SECRET}, {"age": 1, "tags": ["a", SECRET]}, [], "x", 3):
        verdict = judge(WRAPPED[form], parsed=bad)
        assert (verdict.code, verdict.hard) == ("unparsed_output", True)
        assert verdict.path.startswith("/parsed")
        assert SECRET not in verdict.reason + verdict.path
    for good in ({"age": 1}, {"age": 1, "tags": ["b"], "other": "y"}):
        assert fits(good, WRAPPED[form])


def test_the_path_leads_to_the_fault_without_undeclared_names() -> None:
    """The path is that of the value; a name that the schema does not declare is a star."""
    schema = {**PERSON, "additionalProperties": False}
    cases: list[tuple[object, str, str]] = [
        ({"age": 1, "tags": ["a", "c"]}, "/parsed/tags/1", "enum"),
        ({"age": "1"}, "/parsed/age", "type"),
        ({}, "/parsed/age", "required"),
        ({"age": 1, SECRET: 1}, "/parsed/*", "additionalProperties"),
    ]
    for value, path, rule in cases:
        verdict = judge(schema, parsed=value)
        assert verdict.path == path
        assert rule in verdict.reason
        assert SECRET not in verdict.reason


def test_any_schema_will_do_that_fits() -> None:
    """Any of several; keys that may be left out, nulls, open types; what is validated elsewhere is not judged again."""
    schema = {"oneOf": [PERSON, {"title": "Box", "type": "object", "required": ["lid"]}]}
    for good in ({"age": 1}, {"lid": 1}, {"age": 1, "lid": 1}):
        assert fits(good, schema)
    assert not fits({"agee": 1}, schema)
    assert fits(ADA, Person)
    assert fits({**ADA, "friend": {**ADA, "extra": 1}, "tags": ["a"], "note": "n"}, Person)
    for schema in (Line, Plain, int, list[int], Line | None, "x", 3):
        assert fits({"other": 1}, schema)
    assert fits(Plain(count=1), PERSON)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"age": "36"}, "/parsed/age"),
        ({"tags": ["c"]}, "/parsed/tags/0"),
        ({"nick": 3}, "/parsed/nick"),
        ({"height": "tall"}, "/parsed/height"),
        ({"parts": [{"sku": 3}]}, "/parsed/parts/0/sku"),
        ({"parts": {}}, "/parsed/parts"),
        ({"sizes": {SECRET: "x"}}, "/parsed/sizes/*"),
        ({"friend": {"age": 3}}, "/parsed/friend"),
        ({"named": None}, "/parsed/named"),
    ],
)
def test_typed_dict_that_does_not_fit(change: dict[str, Any], path: str) -> None:
    """A value of another type at any depth fails hard at its place."""
    verdict = judge(Person, parsed={**ADA, **change})
    assert verdict.hard
    assert verdict.path.startswith(path)
    assert SECRET not in verdict.path
    assert not fits({"agee": 36}, Person)


def test_memory_and_budget() -> None:
    """Schemas are compiled once and forgotten; a check that ends at its budget abstains."""
    schema = {"type": "array", "uniqueItems": True, "items": {"anyOf": [{"type": "object"}, {"type": "integer"}]}}
    verdict = judge(schema, parsed=list(range(100_000)))
    assert (verdict.outcome, verdict.code) == ("abstain", "unchecked")
    known = compiled(PERSON)
    assert compiled(PERSON) is known
    for _ in range(300):
        compiled(dict(PERSON))
    assert len(structured_output._compiled._held) <= 128
    assert compiled(PERSON) is not known


class Hostile(dict[str, Any]):
    """A schema that cannot be read."""

    def get(self, *_: Any) -> Any:
        raise RuntimeError


class Deep(TypedDict):
    inner: list[list[list[list[Deep]]]]


class Lost(TypedDict):
    inner: Nowhere  # noqa: F821 - a name that cannot be resolved


def test_hostile_schemas_are_safe() -> None:
    """Schemas that raise, loop, lead outside or cannot be resolved demand nothing that they do not say."""
    for schema in (Hostile(), LOOPED, Lost, {"$ref": "https://example.org/x"}, {"type": 7}, {"pattern": "(a+)+$"}):
        for value in ({"a": {}}, "a" * 5_000 + "!"):
            judge(schema, parsed=value)
    assert fits({"a": 1}, Lost)
    assert fits({"inner": [[[[{"inner": []}]]]]}, Deep)
    assert not fits({"inner": [[[[{"inner": 3}]]]]}, Deep)


class Aged(TypedDict):
    """A person."""

    age: int


def calls(name: str, **args: Any) -> AIMessage:
    """An answer through the tool that stands for the schema."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "c"}])


@pytest.mark.parametrize(
    ("form", "bad", "good"),
    [
        (PERSON, calls("Person", agee="x"), calls("Person", age=36)),
        (Aged, calls("Aged", agee="x"), calls("Aged", age=36)),
        (ToolStrategy(PERSON), calls("Person", agee="x"), calls("Person", age=36)),
        (ProviderStrategy(PERSON), '{"agee": "x"}', '{"age": 36}'),
    ],
    ids=["json", "typed dict", "tool strategy", "provider strategy"],
)
def test_output_that_does_not_fit_escalates(form: Any, bad: Any, good: Any) -> None:
    """A small model's well-formed output of the wrong shape gets through neither a chat model nor an agent."""
    small, large = ScriptedChatModel(bad), ScriptedChatModel(good)
    if form in (PERSON, Aged):
        model = CascadeChatModel(small=small, large=large).with_structured_output(form)
        assert model.invoke("How old is Ada, who is 36?") == {"age": 36}
        assert (small.asked, large.asked) == (1, 1)
    if form is not Aged:
        large = ScriptedChatModel(good)
        agent: Any = create_agent(ScriptedChatModel(bad), response_format=form, middleware=[CascadeMiddleware(large)])
        assert agent.invoke({"messages": "How old is Ada, who is 36?"})["structured_response"] == {"age": 36}
        assert large.asked == 1
