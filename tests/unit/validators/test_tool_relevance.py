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


def score(verdicts: dict[str, Verdict], code: str) -> float | None:
    """Score of one code, 1 where it did not speak."""
    return verdicts[code].score if code in verdicts else 1.0


def fails(*answer: Any, **context: Any) -> set[str]:
    """Codes that fail an answer, softly."""
    verdicts = judge(*answer, **context).values()
    assert not any(verdict.hard for verdict in verdicts)
    return {verdict.code for verdict in verdicts if verdict.outcome == "fail"}


RETURNED = ToolMessage("r", tool_call_id="1")
LISBON, RATE = call("weather_forecast", city="Lisbon"), call("loan_rate", amount="1000", years="5")
PAINTER = "Who painted the Mona Lisa?"


def test_fitting_call_has_nothing_against_it() -> None:
    """A call of the tool that the request speaks of, with all that it names, fails nothing and scores high."""
    spoken = "What is the weather forecast for Lisbon?"
    verdicts = judge(spoken, [LISBON], FORECAST)
    assert fails(spoken, [LISBON], FORECAST) == set()
    assert score(verdicts, "tool_match") > 0.9
    assert score(verdicts, "description_match") > 0.3
    assert score(verdicts, "request_covered") > 0.7


def test_every_answer_with_tools_gets_a_match_verdict() -> None:
    """`tool_match` or `no_call` always speaks where tools are offered, so that a scorer knows the validator ran."""
    assert "tool_match" in judge("hm", [call("weather_forecast", city="x")], FORECAST)
    assert "no_call" in judge("hm", "Hello", FORECAST)
    assert "no_call" in judge([], "Hello", FORECAST)
    verdicts = judge("Weather in Rome", [call("get_weather", city="Rome")], FORECAST)
    assert score(verdicts, "tool_match") == score(verdicts, "description_match") == 0.0
    assert "off_topic" not in verdicts, "a tool that is not on offer is the schema check's business"


ORDER = tool("get_order", "Look up one of the orders by its number.", "order_id")
REFUND = tool("refund_payment", "Pay money back to a customer.", "order_id", "amount")
CONVERT = tool("exchange", "Turns money of one currency into another.", "source", "target", "amount")
BARE = ToolSpec("zq7", "", {"type": "object", "properties": {"q": STRING}, "required": ["q"]})
LAMPS = "The 3 lamps are broken, I want 25.50 returned"
BACK = "Please pay back the money for all lamps to the customer"
CHF = "How much are 300 Swiss francs, CHF, worth over in EUR these days?"
LOAN_TALK = [
    HumanMessage("What would a loan of 1000 cost over 5 years?"),
    AIMessage("Shall I look?"),
    HumanMessage("Yes"),
]
OTHER_SUBJECT = {
    "a described tool of another subject": (PAINTER, RATE, LOAN),
    "an identifier that nobody gave": (f"{LAMPS}!", call("get_order", order_id="x"), ORDER),
    "nothing of the request": (BACK, call("get_order", order_id="some"), ORDER),
}
ON_TOPIC = {
    "an order number": (f"{LAMPS} for Q-7713!", call("get_order", order_id="Q-7713"), ORDER),
    "an address": (f"{LAMPS} for ana@example.com!", call("get_order", order_id="ana@example.com"), ORDER),
    "a hash": (f"{LAMPS} for b7f3c2!", call("get_order", order_id="b7f3c2"), ORDER),
    "another tool that fits is on offer": (BACK, call("get_order", order_id="some"), ORDER, REFUND),
    "three values of the request": (CHF, call("exchange", source="CHF", target="EUR", amount="300"), CONVERT),
    "a tool without a description": (PAINTER, call("zq7", q="Mona Lisa"), BARE),
    "a follow-up": (LOAN_TALK, RATE, LOAN),
    "after results": ([HumanMessage("Mona Lisa please"), AIMessage("", tool_calls=[LISBON]), RETURNED], RATE, LOAN),
}


@pytest.mark.parametrize("case", [*OTHER_SUBJECT, *ON_TOPIC])
def test_other_subjects(case: str) -> None:
    """A single tool that shares nothing with the request is a soft fail, unless it prepares or cannot be compared."""
    spoken, made, *tools = (OTHER_SUBJECT | ON_TOPIC)[case]
    assert ("off_topic" in fails(spoken, [made], *tools)) is (case in OTHER_SUBJECT)


@pytest.mark.parametrize("choice", ["required", "loan_rate"])
def test_off_topic_is_silent_where_the_call_was_demanded(choice: str) -> None:
    """Where the host demands a call, the model had no other choice."""
    assert "off_topic" not in judge(PAINTER, [RATE], LOAN, tool_choice=choice)


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
    assert fails("Fix the failing test", [call(name, **args)], *tools) == set()


# ---- what is left of the request -------------------------------------------------------------------------------------
PAINT = tool("paint", "Paint a wall in a color.", color={"type": "string", "enum": ["red", "dark red", "blue"]})
PLACES = "Weather for \"Rome\" and for 'Oslo'"
BOTH = [call("weather_forecast", city=city) for city in ("Rome", "OSLO")]
TWO = [call("weather_forecast", city=city) for city in ("Lisbon", "Porto")]
TICKERS = [call("stock_price", tickers=[ticker]) for ticker in ("AAA", "BBB")]
STOCKS, SUMS = "Price of the stocks AAA and BBB", "Add the numbers 3, 7 and 2; add 5, 12 and 4; add 8, 16 and 6."
QUESTIONS = "What is the weather forecast for Lisbon? And what is it for Porto?"


def adding(*numbers: list[int]) -> list[dict[str, Any]]:
    """A call for each list of numbers."""
    return [call("add_numbers", numbers=n) for n in numbers]


@pytest.mark.parametrize(
    ("code", "spoken", "calls", "spec", "expected"),
    [
        ("quote_unused", PLACES, BOTH[:1], FORECAST, 0.5),
        ("quote_unused", PLACES, BOTH, FORECAST, None),
        ("quote_unused", "Use 'weather_forecast' for Rome, it's the best", BOTH[:1], FORECAST, None),
        ("choice_unused", "Paint the wall blue", [call("paint", color="red")], PAINT, 0.5),
        ("choice_unused", "Paint the wall blue", [call("paint", color="blue")], PAINT, None),
        ("choice_unused", "Paint the wall dark red", [call("paint", color="dark red")], PAINT, None),
        ("question_open", QUESTIONS, TWO[:1], FORECAST, 0.5),
        ("question_open", QUESTIONS, TWO, FORECAST, None),
        ("several_calls", "What is the weather forecast for Lisbon and for Porto?", TWO, FORECAST, 0.0),
        ("several_calls", "What is the weather forecast for Lisbon?", TWO[:1], FORECAST, None),
        ("calls_split", STOCKS, TICKERS, PRICE, 0.0),
        ("calls_split", STOCKS, [call("stock_price", tickers=["AAA", "BBB"])], PRICE, None),
        ("calls_split", "Add 1 and 2, then add 3 and 4", adding([1, 2], [3, 4]), SUM, None),
        ("number_unused", SUMS, adding([3, 7, 2], [5, 12, 4], [8, 16]), SUM, 8 / 9),
        ("number_unused", SUMS, adding([3, 7, 2], [5, 12, 4], [8, 16, 6]), SUM, None),
    ],
)
def test_what_is_missed_is_graded(
    code: str, spoken: str, calls: list[dict[str, Any]], spec: ToolSpec, expected: float | None
) -> None:
    """Quotations, options, questions and numbers that no call takes up, and calls that could have been one."""
    verdict = judge(spoken, calls, spec).get(code)
    assert (verdict and verdict.score) == (expected if expected is None else pytest.approx(expected))
    assert code not in fails(spoken, calls, spec)


def test_most_numbers_left_out_is_a_soft_fail() -> None:
    """Lists of numbers of which only the first is used fail."""
    assert "number_unused" in fails(SUMS, adding([3, 7]), SUM)


def test_after_results_leftovers_say_nothing() -> None:
    """Once tools have answered in this turn, a request is worked off step by step."""
    turn = [HumanMessage("Weather in 'Rome', then rate of a loan of 25000 over 12 years")]
    turn += [AIMessage("", tool_calls=[call("loan_rate", amount="25000", years="12")]), RETURNED]
    assert set(judge(turn, BOTH[:1], FORECAST, LOAN)) == {"tool_match", "description_match"}


INTEGER = {"type": "integer"}
GCD = tool("gcd", "Greatest common divisor.", a=INTEGER, b=INTEGER, base={**INTEGER, "default": 10})
GCD.parameters["required"] = ["a", "b"]
WAYS = [call("train_booking", origin=a, target=b) for a, b in (("Rome", "Milan"), ("Milan", "Rome"))]


@pytest.mark.parametrize(
    ("spoken", "calls", "spec", "alike"),
    [
        ("Greatest common divisor of 12 and 18", [call("gcd", a=12, b=18), call("gcd", a=18, b=12)], GCD, True),
        (
            "Greatest common divisor of 12 and 18",
            [call("gcd", a=12, b=18), call("gcd", a=12, b=18, base=10)],
            GCD,
            True,
        ),
        (
            "Greatest common divisor of 12 and 18",
            [call("gcd", a=12, b=18), call("gcd", a=12, b=18, base=2)],
            GCD,
            False,
        ),
        ("Is gcd of 12 and 18 that of 18 and 12?", [call("gcd", a=12, b=18), call("gcd", a=18, b=12)], GCD, False),
        ("A return train from Rome to Milan", WAYS, TRAIN, False),
    ],
)
def test_alike_calls_are_a_soft_fail(spoken: str, calls: list[dict[str, Any]], spec: ToolSpec, alike: bool) -> None:
    """The same numbers in another order ask for nothing new; two directions, or numbers named in both orders, do."""
    assert ("calls_alike" in fails(spoken, calls, spec)) is alike


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
    assert fails("Weather in Rome", text, FORECAST) == {"call_in_prose"}


@pytest.mark.parametrize(
    "text",
    [
        "Yes",
        "Rome is sunny (about 25 degrees).",
        "I can't help with that.",
        '{"name": "Ada", "age": 36}',
        "print(weather)",
        "明日は晴れです。",
        "I could look at the weather forecast for you; which city do you mean?",
        "For that I have weather_forecast (the forecast of the next days); shall I use it for Rome?",
    ],
)
def test_prose_that_is_kept(text: str) -> None:
    """A word, a right refusal, JSON, Japanese, a question, a tool named in passing: prose does not fail for being prose."""
    assert fails("Tell me about Rome", text, FORECAST) == set()


def test_prose_next_to_a_fitting_tool_is_graded() -> None:
    """Prose scores lower next to a tool that fits, 1 after results, and is not judged where calls are forbidden."""
    spoken = "What is the weather forecast for the city of Rome?"
    assert score(judge(spoken, "It is sunny.", FORECAST), "no_call") < 0.5
    assert score(judge(PAINTER, "Leonardo.", FORECAST), "no_call") > 0.5
    turn = [HumanMessage(spoken), AIMessage("", tool_calls=BOTH[:1]), RETURNED]
    assert score(judge(turn, "Sunny.", FORECAST), "no_call") == 1.0
    assert judge(spoken, "Sunny.", FORECAST, tool_choice="none") == {}


def test_silent_without_tools_and_for_structured_output() -> None:
    """Nothing is said without tools, nor where structured output was asked for."""
    assert judge("Hello", "Hi") == {}
    assert judge("Weather in Rome", BOTH[:1], FORECAST, output_schema={}) == {}


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
    assert score(verdicts, "tool_match") >= 0.7
    assert score(verdicts, "request_covered") >= 0.7
    assert fails(spoken, [call("weather_forecast", city=city)], FORECAST) == fails(spoken, "..", FORECAST) == set()


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
    assert fails(spoken, "tool_1(" * 500_000, *many) == {"call_in_prose"}


def test_same_schema_object_is_read_once_and_a_changed_one_again() -> None:
    """The memory of tools goes by the schema object, the name and the description."""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    spoken, answer = "Open the window please", [call("act")]
    first = judge(spoken, answer, ToolSpec("act", "Opens the window of a room.", parameters))
    second = judge(spoken, answer, ToolSpec("act", "Sings a song about the sea.", parameters))
    assert score(first, "description_match") > score(second, "description_match")
