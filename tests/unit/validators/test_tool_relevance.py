"""Tests of ToolRelevance: answers that do not fit their request are found, look-alikes of them are kept."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators.tool_relevance import ToolRelevance

STRING = {"type": "string"}


def tool(name: str, description: str, *required: str, **properties: dict[str, Any]) -> ToolSpec:
    """A tool whose required parameters are strings; `properties` adds or overrides."""
    schema = {"type": "object", "properties": {**dict.fromkeys(required, STRING), **properties}}
    return ToolSpec(name, description, {**schema, "required": list(required)})


FORECAST = tool("weather_forecast", "Get the weather forecast for a city on the coming days.", "city")
TRAIN = tool("train_booking", "Book a train ticket between two cities for a number of passengers.", "origin", "target")
SUM = tool("add_numbers", "Add a list of numbers.", numbers={"type": "array", "items": {"type": "number"}})
PRICE = tool("stock_price", "Look up the current price of stocks.", tickers={"type": "array", "items": STRING})
LOAN = tool("loan_rate", "Calculate the monthly rate of a loan.", "amount", "years")


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call."""
    return {"name": name, "args": args, "id": "1"}


def judge(
    spoken: str | list[BaseMessage], answer: str | list[dict[str, Any]], *tools: ToolSpec, **context: Any
) -> dict[str, Verdict]:
    """The verdicts by code on an answer in prose or in calls."""
    messages = [HumanMessage(spoken)] if isinstance(spoken, str) else spoken
    message = AIMessage(answer) if isinstance(answer, str) else AIMessage("", tool_calls=answer)
    verdicts = list(ToolRelevance()(Draft(message=message), StepContext(messages=messages, tools=tools, **context)))
    assert len({v.code for v in verdicts}) == len(verdicts)
    return {v.code: v for v in verdicts}


def score(verdicts: dict[str, Verdict], code: str) -> float:
    """Score of one code, 1 where it did not speak."""
    verdict = verdicts.get(code)
    return 1.0 if verdict is None or verdict.score is None else verdict.score


def fails(verdicts: dict[str, Verdict]) -> set[str]:
    """Codes that fail."""
    return {code for code, v in verdicts.items() if v.outcome == "fail"}


def test_fitting_call_has_nothing_against_it() -> None:
    """A call of the tool that the request speaks of, with all that it names, fails nothing and scores high."""
    verdicts = judge("What is the weather forecast for Lisbon?", [call("weather_forecast", city="Lisbon")], FORECAST)
    assert fails(verdicts) == set()
    assert score(verdicts, "tool_match") > 0.9
    assert score(verdicts, "description_match") > 0.3
    assert score(verdicts, "request_covered") > 0.7


def test_every_answer_with_tools_gets_a_match_verdict() -> None:
    """`tool_match` or `no_call` always speaks where tools are offered, so that a scorer knows the validator ran."""
    assert "tool_match" in judge("hm", [call("weather_forecast", city="x")], FORECAST)
    assert "tool_match" in judge("hm", [call("no_such_tool")], FORECAST)
    assert "no_call" in judge("hm", "Hello", FORECAST)
    assert "no_call" in judge([], "Hello", FORECAST)


def test_a_call_that_shares_nothing_with_the_request() -> None:
    """A described tool of another subject is a soft fail; one that is not offered scores 0 and is the schema check's business."""
    verdicts = judge("Who painted the Mona Lisa?", [call("loan_rate", amount="1000", years="5")], LOAN)
    assert "off_topic" in fails(verdicts)
    assert not verdicts["off_topic"].hard
    verdicts = judge("Weather in Rome", [call("get_weather", city="Rome")], FORECAST)
    assert score(verdicts, "tool_match") == score(verdicts, "description_match") == 0.0
    assert "off_topic" not in verdicts


ORDER = tool("get_order", "Look up one of the orders by its number.", "order_id")
REFUND = tool("refund_payment", "Pay money back to a customer.", "order_id", "amount")


@pytest.mark.parametrize("identifier", ["Q-7713", "ana@example.com", "b7f3c2"])
def test_look_up_with_an_identifier_of_the_request_prepares(identifier: str) -> None:
    """A first look-up that takes up an identifier of the request is no other subject, whatever numbers wait."""
    spoken = f"The 3 lamps are broken, I want 25.50 returned for {identifier}!"
    answer = [call("get_order", order_id=identifier)]
    assert fails(judge(spoken, answer, ORDER)) == set()
    assert fails(judge("The 3 lamps are broken, I want 25.50 returned!", [call("get_order", order_id="x")], ORDER))


def test_calls_that_prepare_or_fit() -> None:
    """Another tool on offer that fits makes a call preparation; three values of the request fit whatever the words."""
    spoken = "Please pay back the money for all lamps to the customer"
    assert "off_topic" in fails(judge(spoken, [call("get_order", order_id="some")], ORDER))
    assert "off_topic" not in fails(judge(spoken, [call("get_order", order_id="some")], ORDER, REFUND))
    spoken = "How much are 300 Swiss francs, CHF, worth over in EUR these days?"
    assert not fails(judge(spoken, [call("exchange", source="CHF", target="EUR", amount="300")], CONVERT))


def test_off_topic_is_silent_where_the_request_cannot_tell() -> None:
    """Without a description, in a follow-up and after results nothing is called another subject."""
    bare = ToolSpec("zq7", "", {"type": "object", "properties": {"q": STRING}, "required": ["q"]})
    assert "off_topic" not in judge("Who painted the Mona Lisa?", [call("zq7", q="Mona Lisa")], bare)
    answer = [call("loan_rate", amount="1000", years="5")]
    talk = [
        HumanMessage("What would a loan of 1000 cost over 5 years?"),
        AIMessage("Shall I look?"),
        HumanMessage("Yes"),
    ]
    assert fails(judge(talk, answer, LOAN)) == set()
    turn = [HumanMessage("Mona Lisa please"), AIMessage("", tool_calls=[call("weather_forecast", city="x")])]
    assert fails(judge([*turn, ToolMessage("r", tool_call_id="1")], answer, LOAN)) == set()


@pytest.mark.parametrize("choice", ["required", "loan_rate"])
def test_off_topic_is_silent_where_the_call_was_demanded(choice: str) -> None:
    """Where the host demands a call, the model had no other choice."""
    answer = [call("loan_rate", amount="1000", years="5")]
    assert "off_topic" not in judge("Who painted the Mona Lisa?", answer, LOAN, tool_choice=choice)


def test_what_the_request_names_is_missed() -> None:
    """A quotation or an enum option that no call takes up is a sign; a part of it, or the tool's own name, is not."""
    spoken = "Weather for \"Rome\" and for 'Oslo'"
    assert score(judge(spoken, [call("weather_forecast", city="Rome")], FORECAST), "quote_unused") == 0.5
    both = [call("weather_forecast", city="Rome"), call("weather_forecast", city="OSLO")]
    assert "quote_unused" not in judge(spoken, both, FORECAST)
    named = "Use 'weather_forecast' for Rome, it's the best"
    assert "quote_unused" not in judge(named, [call("weather_forecast", city="Rome")], FORECAST)
    paint = tool("paint", "Paint a wall in a color.", color={"type": "string", "enum": ["red", "dark red", "blue"]})
    assert score(judge("Paint the wall blue", [call("paint", color="red")], paint), "choice_unused") < 1.0
    assert "choice_unused" not in judge("Paint the wall blue", [call("paint", color="blue")], paint)
    assert "choice_unused" not in judge("Paint the wall dark red", [call("paint", color="dark red")], paint)


def test_after_results_leftovers_say_nothing() -> None:
    """Once tools have answered in this turn, a request is worked off step by step."""
    turn = [HumanMessage("Weather in 'Rome', then rate of a loan of 25000 over 12 years")]
    turn += [AIMessage("", tool_calls=[call("loan_rate", amount="25000", years="12")])]
    turn += [ToolMessage("200", tool_call_id="1")]
    verdicts = judge(turn, [call("weather_forecast", city="Rome")], FORECAST, LOAN)
    assert set(verdicts) == {"tool_match", "description_match"}


# ---- the calls among each other --------------------------------------------------------------------------------------
def test_calls_split_over_a_list_parameter() -> None:
    """Several calls that differ only in a parameter made for lists could have been one."""
    spoken = "Price of the stocks AAA and BBB"
    split = [call("stock_price", tickers=["AAA"]), call("stock_price", tickers=["BBB"])]
    assert score(judge(spoken, split, PRICE), "calls_split") == 0.0
    assert "calls_split" not in judge(spoken, [call("stock_price", tickers=["AAA", "BBB"])], PRICE)
    sums = [call("add_numbers", numbers=[1, 2]), call("add_numbers", numbers=[3, 4])]
    assert "calls_split" not in judge("Add 1 and 2, then add 3 and 4", sums, SUM)


GCD = ToolSpec(
    "gcd",
    "Greatest common divisor of two numbers.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "base": {"type": "integer", "default": 10}},
        "required": ["a", "b"],
    },
)


def test_alike_calls_are_a_soft_fail() -> None:
    """The same numbers in another order ask for nothing new; two directions of one way, or numbers named in both orders, do."""
    spoken = "Greatest common divisor of 12 and 18"
    swapped = [call("gcd", a=12, b=18), call("gcd", a=18, b=12)]
    spelled = [call("gcd", a=12, b=18), call("gcd", a=12, b=18, base=10)]
    different = [call("gcd", a=12, b=18), call("gcd", a=12, b=18, base=2)]
    assert "calls_alike" in fails(judge(spoken, swapped, GCD))
    assert "calls_alike" in fails(judge(spoken, spelled, GCD))
    assert "calls_alike" not in judge(spoken, different, GCD)
    ways = [call("train_booking", origin="Rome", target="Milan"), call("train_booking", origin="Milan", target="Rome")]
    assert "calls_alike" not in judge("A return train from Rome to Milan", ways, TRAIN)
    orders = [call("gcd", a=12, b=18), call("gcd", a=18, b=12)]
    assert "calls_alike" not in judge("Is gcd of 12 and 18 that of 18 and 12?", orders, GCD)


# ---- prose -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "[weather_forecast(city='Rome')]",
        "I will call weather.forecast(city='Rome') now.",
        "weather_forecast (city='Rome')",
        '{"name": "weather_forecast", "arguments": {"city": "Rome"}}',
        "```json\n{'function': 'weather_forecast'}\n```",
    ],
)
def test_call_written_into_the_text(text: str) -> None:
    """A call to an offered tool that is spelled in the text is a soft fail."""
    assert fails(judge("Weather in Rome", text, FORECAST)) == {"call_in_prose"}


def test_tool_named_in_passing() -> None:
    """A tool's name before words in parentheses is no call."""
    text = "For that I have weather_forecast (the forecast of the next days); shall I use it for Rome?"
    assert not fails(judge("What can you do?", text, FORECAST))


@pytest.mark.parametrize(
    "text",
    [
        "Yes",
        "No.",
        "Rome is sunny (about 25 degrees).",
        "I can't help with that.",
        '{"name": "Ada", "age": 36}',
        "print(weather)",
        "明日は晴れです。",
        "I could look at the weather forecast for you; which city do you mean?",
    ],
)
def test_prose_that_is_kept(text: str) -> None:
    """One word, a right refusal, JSON text, Japanese, a question: no answer in prose fails for being prose."""
    assert fails(judge("Tell me about Rome", text, FORECAST)) == set()


def test_prose_next_to_a_fitting_tool_is_graded() -> None:
    """Prose scores lower next to a tool that fits, 1 after results, and is not judged where calls are forbidden."""
    fit = judge("What is the weather forecast for the city of Rome?", "It is sunny.", FORECAST)
    apart = judge("Who painted the Mona Lisa?", "Leonardo.", FORECAST)
    assert score(fit, "no_call") < 0.5 < score(apart, "no_call")
    turn = [
        HumanMessage("Weather forecast for Rome?"),
        AIMessage("", tool_calls=[call("weather_forecast", city="Rome")]),
    ]
    assert score(judge([*turn, ToolMessage("sunny", tool_call_id="1")], "Sunny.", FORECAST), "no_call") == 1.0
    assert judge("Weather in Rome?", "Sunny.", FORECAST, tool_choice="none") == {}


def test_silent_without_tools_and_for_structured_output() -> None:
    """Nothing is said without tools, nor where structured output was asked for."""
    assert judge("Hello", "Hi") == {}
    assert judge("Weather in Rome", [call("weather_forecast", city="x")], FORECAST, output_schema={}) == {}


# ---- other languages -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "spoken",
    [
        "明日のリスボンの天気を教えてください",
        "¿Qué tiempo hará en Lisboa los próximos días con mi madre?",
        "Какая погода будет в Лиссабоне завтра?",
        "ما هو الطقس في لشبونة غدا؟",
    ],
)
def test_another_language_than_the_tools(spoken: str) -> None:
    """A request in another language than the tools' texts is not called off topic, and the match is neutral."""
    city = {"明": "リスボン", "¿": "Lisboa", "К": "Лиссабон", "م": "لشبونة"}[spoken[0]]
    verdicts = judge(spoken, [call("weather_forecast", city=city)], FORECAST)
    assert fails(verdicts) == set()
    assert score(verdicts, "tool_match") >= 0.7
    assert score(verdicts, "request_covered") >= 0.7
    assert fails(judge(spoken, "..", FORECAST)) == set()


def test_japanese_tools_for_a_japanese_request() -> None:
    """Where tools are described in the language of the request, a fitting one scores above another, without spaces."""
    weather = tool("tenki", "都市の天気予報を調べます。", "city")
    trains = tool("densha", "列車の切符を予約します。", "city")
    spoken = "リスボンの天気予報を教えて"
    fit = judge(spoken, [call("tenki", city="リスボン")], weather, trains)
    apart = judge(spoken, [call("densha", city="リスボン")], weather, trains)
    assert score(fit, "description_match") > score(apart, "description_match") + 0.2


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [{}, {"properties": []}, {"properties": {"a": 3}}, {"required": "a"}, [], None])
def test_strange_parameter_schemas(schema: Any) -> None:
    """A tool with a schema of any shape is read without complaint."""
    assert "tool_match" in judge("Do it", [call("act", a=1)], ToolSpec("act", "Acts.", schema))


def test_hostile_sizes() -> None:
    """Megabytes of request, answer, schema and history are cut, not read."""
    many = [tool(f"tool_{k}", "word " * 100_000, "a") for k in range(200)]
    spoken = [SystemMessage("s " * 1_000_000)]
    spoken += [HumanMessage("Rome and Oslo, 1.1 'a' " * 200_000) for _ in range(50)]
    assert "tool_match" in judge(spoken, [call("tool_1", a="Rome " * 1_000_000)] * 100, *many)
    assert fails(judge(spoken, "tool_1(" * 500_000, *many)) == {"call_in_prose"}


def test_same_schema_object_is_read_once_and_a_changed_one_again() -> None:
    """The memory of tools goes by the schema object, the name and the description."""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    spoken, answer = "Open the window please", [call("act")]
    first = judge(spoken, answer, ToolSpec("act", "Opens the window of a room.", parameters))
    second = judge(spoken, answer, ToolSpec("act", "Sings a song about the sea.", parameters))
    assert score(first, "description_match") > score(second, "description_match")


def test_the_number_of_calls_is_a_sign() -> None:
    """A question without a call of its own is graded; several calls are doubted a little and never failed."""
    spoken = "What is the weather forecast for Lisbon? And what is it for Porto?"
    one = judge(spoken, [call("weather_forecast", city="Lisbon")], FORECAST)
    both = judge(spoken, [call("weather_forecast", city="Lisbon"), call("weather_forecast", city="Porto")], FORECAST)
    assert one["question_open"].outcome == "pass"
    assert score(one, "question_open") == 0.5
    assert "question_open" not in both
    spoken = "What is the weather forecast for Lisbon and for Porto?"
    both = judge(spoken, [call("weather_forecast", city="Lisbon"), call("weather_forecast", city="Porto")], FORECAST)
    assert score(both, "several_calls") == 0.0
    assert not fails(both)
    assert "several_calls" not in judge(spoken, [call("weather_forecast", city="Lisbon")], FORECAST)


CONVERT = tool("exchange", "Turns money of one currency into another.", "source", "target", "amount")


def test_most_numbers_left_out_is_a_soft_fail() -> None:
    """Lists of numbers of which only the first is used fail; one number left of several is graded."""
    numbers = {"type": "array", "items": {"type": "number"}}
    add = tool("add_numbers", "Add a list of numbers.", numbers=numbers)
    spoken = "Add the numbers 3, 7 and 2; add the numbers 5, 12 and 4; add the numbers 8, 16 and 6."
    assert "number_unused" in fails(judge(spoken, [call("add_numbers", numbers=[3, 7])], add))
    most = [[3, 7, 2], [5, 12, 4], [8, 16]]
    almost = judge(spoken, [call("add_numbers", numbers=n) for n in most], add)
    assert "number_unused" not in fails(almost)
    assert 0.0 < score(almost, "number_unused") < 1.0


@pytest.mark.parametrize(
    ("name", "args"),
    [("ls", {"path": "/"}), ("execute", {"command": "pytest -x"}), ("grep", {"pattern": "def test_", "path": "/"})],
)
def test_the_first_look_up_of_an_agent_is_on_topic(name: str, args: dict[str, str]) -> None:
    """With several tools on offer the first call may prepare what was asked for, whatever its words."""
    tools = [
        tool("ls", "Lists all files in a directory of the filesystem.", "path"),
        tool("execute", "Executes a shell command in a sandbox environment.", "command"),
        tool("grep", "Search for a pattern across files.", "pattern", "path"),
    ]
    assert fails(judge("Fix the failing test", [call(name, **args)], *tools)) == set()
