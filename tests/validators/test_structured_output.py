"""Tests of StructuredOutput on the errors that pydantic, json and the LangChain parsers really write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import PydanticOutputParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration
from pydantic import BaseModel, Field, ValidationError

from cascade_agent.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators.structured_output import StructuredOutput


class Line(BaseModel):
    sku: str
    count: int


class Order(BaseModel):
    buyer: str = Field(alias="buyerName")
    lines: list[Line]
    notes: dict[str, int] = {}


SECRET = "hunter2"


def judge(draft: Draft, **context: Any) -> Verdict | None:
    """Judge one draft."""
    return StructuredOutput()(draft, StepContext(**context))


def error_of(data: dict[str, Any]) -> str:
    """The text of a validation error."""
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(data)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_parsing_error_is_a_hard_fail() -> None:
    """A parsing error fails hard, also where no schema is known."""
    verdict = judge(Draft(message=AIMessage("{"), parsing_error="JSONDecodeError: Expecting property name"))
    assert verdict is not None
    assert (verdict.code, verdict.hard, verdict.path) == ("unparsed_output", True, "/parsed")
    assert "JSONDecodeError" in verdict.reason


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
    verdict = judge(Draft(message=AIMessage("x"), parsing_error=error_of(data)), output_schema=Order)
    assert verdict is not None
    assert verdict.path == path
    assert kind in verdict.reason
    assert SECRET not in verdict.reason + verdict.path


def test_json_schema_declares_names_too() -> None:
    """A schema given as JSON Schema tells the declared names as well as a class does."""
    error = error_of({"buyerName": "A", "lines": [{"sku": "a", "count": SECRET}]})
    verdict = judge(Draft(message=AIMessage("x"), parsing_error=error), output_schema=Order.model_json_schema())
    assert verdict is not None
    assert verdict.path == "/parsed/lines/0/count"


class Typed(TypedDict):
    count: int


@dataclass
class Plain:
    count: int


@pytest.mark.parametrize("schema", [Typed, Plain])
def test_typed_dict_and_dataclass(schema: type) -> None:
    """Names of a TypedDict or a dataclass are declared names."""
    error = error_of({"buyerName": "A", "lines": []} | {"lines": 3}).replace("lines", "count")
    verdict = judge(Draft(message=AIMessage("x"), parsing_error=error), output_schema=schema)
    assert verdict is not None
    assert verdict.path == "/parsed/count"


def test_langchain_parser_error() -> None:
    """The message of LangChain's own parser quotes the whole answer; none of it is passed on."""
    with pytest.raises(OutputParserException) as caught:
        PydanticOutputParser(pydantic_object=Order).parse(json.dumps({"buyerName": SECRET}))
    error = f"{type(caught.value).__name__}: {caught.value}"
    assert SECRET in error
    verdict = judge(Draft(message=AIMessage("x"), parsing_error=error), output_schema=Order)
    assert verdict is not None
    assert "OutputParserException" in verdict.reason
    assert SECRET not in verdict.reason


def test_prose_where_a_schema_was_asked_for() -> None:
    """Nothing parsed and no error, as the tool parser gives for prose, is a hard fail."""
    message = AIMessage("It costs 12 euros.")
    parser = PydanticToolsParser(tools=[Line], first_tool_only=True)
    parsed = parser.parse_result([ChatGeneration(message=message)])
    verdict = judge(Draft(message=message, parsed=parsed), output_schema=Line)
    assert verdict is not None
    assert verdict.hard


def test_kept() -> None:
    """Parsed output, falsy parsed output, a step without a schema and a look-up before the answer are kept."""
    call = {"name": "find", "args": {}, "id": "c1"}
    assert judge(Draft(message=AIMessage("x"), parsed=Line(sku="a", count=1)), output_schema=Line) is None
    assert judge(Draft(message=AIMessage("x"), parsed={}), output_schema={"type": "object"}) is None
    assert judge(Draft(message=AIMessage("x"), parsed=[]), output_schema={"type": "array"}) is None
    assert judge(Draft(message=AIMessage("It costs 12 euros."))) is None
    looking = Draft(message=AIMessage("", tool_calls=[call]))
    assert judge(looking, output_schema=Line, tools=[ToolSpec("find")]) is None


def test_huge_schema_ends() -> None:
    """Names are looked for in a bounded part of a schema; those beyond are left out of the path."""
    wide = {"anyOf": [{"properties": {f"f{n}": {}}} for n in range(5_000)]}
    error = error_of({"buyerName": "A"}).replace("lines", "f0")
    verdict = judge(Draft(message=AIMessage("x"), parsing_error=error), output_schema=wide)
    assert verdict is not None
    assert verdict.path == "/parsed/*"


def test_a_call_of_no_offered_tool_is_no_look_up() -> None:
    """A call to something that was not offered does not excuse the missing output."""
    call = {"name": "find", "args": {}, "id": "c1"}
    assert judge(Draft(message=AIMessage("", tool_calls=[call])), output_schema=Line, tools=[ToolSpec("get")])


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
    verdict = judge(Draft(message=AIMessage("x"), parsing_error=error), output_schema=schema)
    assert verdict is None or (verdict.hard and len(verdict.reason) <= 500)
    assert (verdict is None) == (error is None and schema is None)
