"""Tests of Grounding: what is made up is found, and what was written in another way is left alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators.grounding import Grounding

STRING = {"type": "string"}
NUMBER = {"type": "number"}


def tool(required: dict[str, Any], optional: dict[str, Any] | None = None) -> ToolSpec:
    """A tool `act` with the given parameters."""
    properties = {**required, **(optional or {})}
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return ToolSpec("act", "Acts on what it is given.", schema)


def judge(
    wish: str | list[BaseMessage], args: dict[str, Any], spec: ToolSpec | None = None, **context: Any
) -> dict[str, Verdict]:
    """The verdicts by code on one call of `act` with `args`."""
    if spec is None:
        spec = tool({k: STRING if isinstance(v, str) else NUMBER for k, v in args.items()})
    messages = [HumanMessage(wish)] if isinstance(wish, str) else wish
    draft = Draft(message=AIMessage("", tool_calls=[{"name": "act", "args": args, "id": "1"}]))
    verdicts = Grounding()(draft, StepContext(messages=messages, tools=(spec,), **context))
    return {v.code: v for v in verdicts}


def grounded(wish: str | list[BaseMessage], value: Any, schema: dict[str, Any] | None = None) -> float:
    """Score of one required argument."""
    spec = tool({"x": schema or (STRING if isinstance(value, str) else NUMBER)})
    score = judge(wish, {"x": value}, spec)["argument_grounded"].score
    assert score is not None
    return score


@pytest.mark.parametrize(
    ("wish", "value"),
    [
        ("Weather in Lisbon please", "Lisbon"),
        ("weather in LISBON", "lisbon"),
        ("Flights to New York City", "NYC"),
        ("Flights to NYC", "New York City"),
        ("The U.S.A. in 1990", "United States of America"),
        ("transfer 1,250.50 dollars", 1250.5),
        ("transfer 1.250,50 Euro", 1250.5),
        ("transfer ５００ yen", 500),
        ("5 apples", 5.0),
        ("five apples and ½ a pear", 0.5),
        ("at minus -3 degrees", -3),
        ("Give order #A-7731 back", "A-7731"),
        ("order a 7731", "A7731"),
        ("evaluate 3x^2 + 2x at 1", "3*x**2 + 2*x"),
        ("meet on March 3rd 2024", "2024-03-03"),
        ("meet on 3.3.2024", "2024-03-03"),
        ("2024年3月3日に会いましょう", "2024-03-03"),
        ("東京の天気は?", "東京"),
        ("Привет, погода в Москве", "Москве"),
        ("pay in Euros", "EUR"),
        ("find user_name john_doe", "john doe"),
        ("the straße is closed", "STRASSE"),
        ("a rate of 5%", 0.05),
        ("wait two or rather 2 hours", 120),
        ("walk 3 km", 3000),
        ("4.5 million people", 4_500_000),
        ("90 minutes", 1.5),
    ],
)
def test_another_writing_or_unit_is_grounded(wish: str, value: Any) -> None:
    """A value that the request holds in another writing, case, width, date format or usual unit has nothing against it."""
    assert grounded(wish, value) >= 0.8


@pytest.mark.parametrize(
    ("wish", "value"),
    [
        ("What is the weather like?", "Springfield"),
        ("How tall is the tower?", 324),
        ("Look up my order", "ORD-99812"),
        ("天気は?", "大阪"),
    ],
)
def test_value_out_of_nowhere_is_objected_to(wish: str, value: Any) -> None:
    """A value that nobody mentioned scores low, with the path of the argument and without quoting it."""
    verdict = judge(wish, {"x": value})["argument_grounded"]
    assert (verdict.outcome, verdict.path) == ("pass", "/tool_calls/0/args/x")
    assert verdict.score < 0.4
    assert str(value) not in verdict.reason


def test_the_worst_of_several_arguments_is_named() -> None:
    """By its JSON pointer, elements of lists and fields one by one; the score lies between the least and the mean."""
    verdict = judge("Send 20 euros to Ana", {"to": "Ana", "amount": 20, "iban": "DE89370400"})["argument_grounded"]
    assert verdict.path.endswith("/iban")
    assert 0.0 < verdict.score < 0.7
    verdict = judge("hello", {"a/b~c": "zzzzz"})["argument_grounded"]
    assert verdict.path == "/tool_calls/0/args/a~1b~0c"
    spec = tool({"items": {"type": "array", "items": STRING}, "who": {"type": "object"}})
    verdicts = judge("milk and bread for Ana", {"items": ["milk", "bread", "caviar"], "who": {"name": "Ana"}}, spec)
    assert verdicts["argument_grounded"].path == "/tool_calls/0/args/items/2"


def history(steps: int) -> list[BaseMessage]:
    """A turn of `steps` calls with results; the first result names an id that nothing else does."""
    messages: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("Clean up my account")]
    for k in range(steps):
        messages.append(AIMessage("", tool_calls=[{"name": "act", "args": {"x": f"page {k}"}, "id": str(k)}]))
        text = "ticket TCK-48213 is open" if k == 0 else f"page {k}: nothing here " + "filler " * 40
        messages.append(ToolMessage(text, tool_call_id=str(k)))
    return messages


@pytest.mark.parametrize("steps", [1, 20, 90])
def test_argument_from_an_early_tool_result(steps: int) -> None:
    """An id that only a tool result many steps ago holds is grounded."""
    assert grounded(history(steps), "TCK-48213") == 1.0
    assert grounded(history(steps), "TCK-99999") < 0.5


BILL = [HumanMessage("Pay the bill"), ToolMessage('{"total": 4718.5, "id": 9921}', tool_call_id="1")]
TAXI = [SystemMessage("The user is Ada Lovelace, account 55-10."), HumanMessage("I live in Turin")]
TAXI += [AIMessage("Noted."), HumanMessage("Order a taxi to my place")]
BLOCKS: Any = [{"type": "image", "url": "http://x"}, {"type": "text", "text": "Weather in Porto"}, "now"]


@pytest.mark.parametrize(
    ("messages", "value", "known"),
    [
        (BILL, 4718.5, True),
        (BILL, 9921, True),
        (BILL, 992, False),
        (TAXI, "Turin", True),
        (TAXI, "55-10", True),
        ([HumanMessage(BLOCKS)], "Porto", True),
        ([SystemMessage("Nightly job for Oslo")], "Oslo", True),
        ([], "Oslo", False),
    ],
)
def test_the_whole_conversation_counts(messages: list[BaseMessage], value: Any, known: bool) -> None:
    """Numbers of tool results, earlier turns, the system text and content blocks are known; a human message is not needed."""
    assert grounded(messages, value) == 1.0 if known else grounded(messages, value) < 0.5


def test_what_is_doubted_less() -> None:
    """The tool's own words, defaults, and small whole numbers, which may stand in words of any language."""
    assert grounded("How warm is it?", "celsius", {"type": "string", "enum": ["celsius", "kelvin"]}) >= 0.6
    assert grounded("How warm is it?", 10, {"type": "integer", "default": 10}) == 1.0
    assert grounded("How warm is it?", "metric", {"type": "string", "description": "metric or imperial"}) >= 0.5
    assert grounded("a table for deux", 2) > grounded("a table for deux", 2000)
    spec = tool({}, {"since": {"type": "string", "default": "1970-01-01"}})
    assert judge("List files", {"since": "1970-01-01"}, spec) == {}


def test_optional_values() -> None:
    """One that nobody mentioned is its own sign; a mentioned or an empty one says nothing."""
    spec = tool({"city": STRING}, {"tone": STRING, "days": {"type": "integer"}})
    assert "optional_grounded" not in judge("Weather in Rome for 30 days", {"city": "Rome", "days": 30}, spec)
    verdict = judge("Weather in Rome", {"city": "Rome", "tone": "pirate"}, spec)["optional_grounded"]
    assert (verdict.outcome, verdict.score) == ("pass", 0.0)
    assert judge("Do it", {"x": ""}, tool({}, {"x": STRING})) == {}


RATE = {"type": "number", "description": "Yearly rate of interest."}
DATES = ("2023-10-04", "2023-10-04T12:00:00Z", "04/10/2023", "4.10.2023", "2023年10月4日")
SHAPES = ("<city>", "{{city}}", "{city}", "[CITY_NAME]", "...", "???", "XXXX", "____", "your_api_key")
EMPTY_WORDS = ("N/A", "unknown", "TBD", "null", "string", "city")
FAULTS = [
    *[("date_invented", "When is sunset tomorrow?", value, STRING) for value in DATES],
    *[("placeholder_value", "天気は?", value, STRING) for value in (*SHAPES, *EMPTY_WORDS)],
    *[("required_empty", "Do it", value, schema) for value, schema in [(None, STRING), (None, NUMBER), ("  ", STRING)]],
    ("percent_as_written", "Interest at 8% on it", 8, RATE),
]
KNOWN = [
    ("date_invented", "When is sunset on 4 October 2023?", "2023-10-04", STRING),
    ("placeholder_value", "Replace <city> in the template", "<city>", STRING),
    ("placeholder_value", "Search for 'unknown'", "unknown", STRING),
    ("placeholder_value", "Which?", "unknown", {"type": "string", "enum": ["known", "unknown"]}),
    ("placeholder_value", "Which?", "none", {"type": "string", "description": "filter, or none"}),
    ("placeholder_value", "Which?", "none", {"type": "string", "default": "none"}),
    ("placeholder_value", "Solve it", "[1, 2]", STRING),
    ("placeholder_value", "Send it", '{"a": 1}', STRING),
    ("placeholder_value", "Search", "-5", STRING),
    ("required_empty", "Do it", None, {"type": ["string", "null"]}),
    ("required_empty", "Do it", None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ("required_empty", "Do it", None, {"type": "string", "nullable": True}),
    ("required_empty", "Do it", "", {"type": "string", "enum": ["", "a"]}),
    ("required_empty", "Do it", "", {"type": "string", "default": ""}),
    ("required_empty", "Do it", [], {"type": "array"}),
    ("percent_as_written", "Interest at 8% on it", 0.08, RATE),
    ("percent_as_written", "Interest at 8% on it", 8, {**RATE, "description": "Rate in percent"}),
    ("percent_as_written", "Interest at 8% on it", 8, {**RATE, "maximum": 100}),
    ("percent_as_written", "Interest at 8% on it", 8, {**RATE, "default": 5}),
    ("percent_as_written", "Interest at 8% on it", 8, {"type": "integer"}),
    ("percent_as_written", "A discount of 18% on 8 lamps", 8, RATE),
    ("percent_as_written", "A discount of 0.8% on it", 8, RATE),
    ("percent_as_written", "Interest of 8 on it", 8, RATE),
]


@pytest.mark.parametrize(("code", "wish", "value", "schema"), FAULTS)
def test_faults_of_one_value_are_soft_fails(code: str, wish: str, value: Any, schema: dict[str, Any]) -> None:
    """A date of no known year, a shape or word for no value, the parameter's name, an empty value, percent as written."""
    verdict = judge(wish, {"city": value}, tool({"city": schema}))[code]
    assert (verdict.outcome, verdict.score, verdict.hard) == ("fail", 0.0, False)


@pytest.mark.parametrize(("code", "wish", "value", "schema"), KNOWN)
def test_look_alikes_of_faults(code: str, wish: str, value: Any, schema: dict[str, Any]) -> None:
    """Words of the user, options, defaults, JSON, what the schema allows, a parameter that takes percent."""
    assert code not in judge(wish, {"city": value}, tool({"city": schema}))


def test_a_date_that_follows_from_a_known_one() -> None:
    """The system text or a result may hold today's date."""
    for messages in [
        [SystemMessage("Today is 2023-10-03."), HumanMessage("When is sunset tomorrow?")],
        [HumanMessage("When was it?"), ToolMessage("now: Tue Oct 3 2023", tool_call_id="1")],
    ]:
        assert "date_invented" not in judge(messages, {"x": "2023-10-04"})


def test_silent_without_calls_and_for_structured_output() -> None:
    """Nothing is asked of prose, an unknown tool's arguments, truth values, nor where structured output was asked for."""
    assert judge("Do it", {"x": True}, tool({"x": {"type": "boolean"}})) == {}
    context = StepContext(messages=[HumanMessage("hi")], tools=(tool({"x": STRING}),))
    assert list(Grounding()(Draft(message=AIMessage("Hello!")), context)) == []
    assert judge("hi", {"x": "zzz"}, output_schema={"type": "object"}) == {}
    draft = Draft(message=AIMessage("", tool_calls=[{"name": "other", "args": {"x": "zzz"}, "id": "1"}]))
    assert list(Grounding()(draft, context)) == []


def test_hostile_sizes() -> None:
    """Five megabytes of text, 100,000 list elements and deep nests are cut, not read."""
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    huge = "9" * 5_000_000
    args = {"a": huge, "b": list(range(100_000)), "c": deep, "d": math.nan, "e": "word " * 1_000_000}
    messages = [HumanMessage("1.1," * 1_000_000), ToolMessage(huge, tool_call_id="1")]
    verdicts = judge(messages, args, tool({key: {} for key in args}))
    assert verdicts["argument_grounded"].score is not None
