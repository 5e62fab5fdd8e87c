"""Tests of the comparison of two answers: what means the same agrees, what a tool would do otherwise does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, ToolSpec
from cascade_agent.validators.agreement import agreement, call_key, likeness, normal, same_value
from tests.builders import json_values

STRING: dict[str, Any] = {"type": "string"}
RIDE = ToolSpec(
    "book_ride",
    "Books a ride.",
    {
        "type": "object",
        "properties": {
            "start": STRING,
            "via": {"type": "array", "items": STRING},
            "seats": {"type": "integer", "description": "How many seats. Default is 4."},
            "car": {"type": "string", "description": "Kind of car (default: small van)"},
            "pets": {"type": "boolean", "default": False},
        },
        "required": ["start"],
    },
)


def context(*later: Any) -> StepContext:
    """A step in which a ride can be booked."""
    return StepContext(messages=[HumanMessage("A ride, please"), *later], tools=(RIDE,))


def calls(*many: dict[str, Any]) -> Draft:
    """An answer that books some rides."""
    made = [{"name": "book_ride", "args": args, "id": str(i)} for i, args in enumerate(many)]
    return Draft(message=AIMessage("", tool_calls=made))


def alike(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Agreement of two single calls; the same both ways."""
    one, two = agreement(calls(a), calls(b), context()), agreement(calls(b), calls(a), context())
    assert one is not None
    assert one == two
    return one


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"start": "Old Town"}, {"start": "old  town."}),
        ({"start": "x**2 + 3*x"}, {"start": "x^2+3x"}),
        ({"start": "Bern"}, {"start": "Bern", "seats": 4}),
        ({"start": "Bern"}, {"start": "Bern", "car": "Small van"}),
        ({"start": "Bern", "pets": False}, {"start": "Bern"}),
        ({"start": "Bern", "seats": 2}, {"start": "Bern", "seats": "2.0"}),
    ],
)
def test_other_writing_is_the_same_answer(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Case, space, quotation, the writing of formulas and of numbers, declared and described defaults do not count."""
    assert alike(a, b) == 1.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"start": "Bern", "via": ["Thun", "Spiez"]}, {"start": "Bern", "via": ["Spiez", "Thun"]}),
        ({"start": "Bern", "via": "Thun"}, {"start": "Bern", "via": ["Thun"]}),
        ({"start": "city center Bern"}, {"start": "Bern City Center"}),
        ({"start": "night trains"}, {"start": "night train"}),
        ({"start": "New York City"}, {"start": "NYC"}),
        ({"start": "Basel", "car": "5 km"}, {"start": "Basel", "car": "5 kilometers"}),
        ({"start": "Reno, NV"}, {"start": "Reno, Nevada"}),
        ({"start": "Bern"}, {"start": "Bern", "car": "bus"}),
        ({"start": "Zoo, Basel"}, {"start": "Zoo"}),
    ],
)
def test_a_small_difference_costs_little(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Order of items and words, plurals, initials, short forms, extra detail and one optional argument agree for the most part."""
    assert 0.7 <= alike(a, b) < 1.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"start": "Bern"}, {"start": "Basel"}),
        ({"start": "Bern", "seats": 2}, {"start": "Bern", "seats": 3}),
        ({"start": "Bern", "seats": -2}, {"start": "Bern", "seats": 2}),
        ({"start": "Bern", "pets": True}, {"start": "Bern", "pets": "no"}),
        ({"start": "Bern", "via": ["Thun"]}, {"start": "Bern", "via": ["Thun", "Spiez"]}),
        ({"start": "3x + 2"}, {"start": "3x - 2"}),
        ({"start": "am"}, {"start": "pm"}),
        ({"start": "m"}, {"start": "miles"}),
        ({"start": "east"}, {"start": "west"}),
        ({}, {"start": "Bern"}),
    ],
)
def test_another_value_is_another_answer(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Other places, numbers, signs, kinds of value or lengths of a list, and a missing required value do not agree."""
    assert alike(a, b) <= 0.35


def test_missing_calls() -> None:
    """Of three calls two with partners agree by two thirds in any order; a call that resembles two takes its equal."""
    three = calls({"start": "A"}, {"start": "B"}, {"start": "C"})
    assert agreement(three, calls({"start": "C"}, {"start": "A"}), context()) == pytest.approx(2 / 3)
    ours, theirs = calls({"start": "Zoo"}, {"start": "Zoo, Basel"}), calls({"start": "Zoo, Basel"}, {"start": "Zoo"})
    assert agreement(ours, theirs, context()) == 1.0


def test_two_answers_in_prose_agree_not_to_call() -> None:
    """Before any tool answered, two models that both talk agree on that; afterwards their words count."""
    a = Draft(message=AIMessage("For that I have no tool, sorry about it"))
    b = Draft(message=AIMessage("Where would you like to start from, and when?"))
    before = agreement(a, b, context())
    result = [
        AIMessage("", tool_calls=[{"name": "book_ride", "args": {}, "id": "1"}]),
        ToolMessage("ok", tool_call_id="1"),
    ]
    after = agreement(a, b, context(*result))
    assert before is not None
    assert after is not None
    assert before >= 0.85
    assert after < 0.5


@pytest.mark.parametrize(("a", "b"), [("[]", "None"), ("\n[]", "none"), ("N/A", "[]"), ("No function.", "null")])
def test_two_ways_of_writing_no_call_are_the_same(a: str, b: str) -> None:
    """Models that write calls as text say `[]` or `None` where no tool fits; without tools these are words like others."""
    one, two = Draft(message=AIMessage(a)), Draft(message=AIMessage(b))
    assert agreement(one, two, context()) == 1.0
    assert agreement(one, two, StepContext(messages=[HumanMessage("Which?")])) == 0.0
    assert agreement(one, Draft(message=AIMessage("Yes")), context()) == 0.0


def text(written: str) -> Draft:
    """An answer without calls."""
    return Draft(message=AIMessage(written))


@pytest.mark.parametrize(
    ("a", "b", "score"),
    [
        (text("42"), text("43"), 0.0),
        (text("42"), text("42.0"), 1.0),
        (text("yes"), text("no"), 0.0),
        (text("yes"), text(""), None),
        (text("Paris"), text("Lyon"), 0.0),
        (text("東京です"), text(" 東京です "), 1.0),
        (text('{"a": 1, "b": [2]}'), text('{"b": [2.0], "a": 1}'), 1.0),
        (text("Where would you like to start from?"), calls({"start": "Bern"}), 0.0),
        (calls({"start": "Bern"}), text("Where would you like to start from?"), 0.0),
        (calls({"start": "Bern"}, {"start": "Thun"}), calls({"start": "Thun"}, {"start": "Bern"}), 1.0),
        (calls({"start": "Bern"}, {"start": "Thun"}), calls({"start": "Bern"}), 0.5),
    ],
)
def test_texts_and_calls(a: Draft, b: Draft, score: float | None) -> None:
    """Numbers, names and JSON are compared even with tools, a call and prose never agree, order does not matter."""
    assert agreement(a, b, context()) == score


JSON = json_values(st.text(max_size=12), st.text(max_size=4), leaves=12, odd=False)


@given(JSON, JSON)
def test_likeness_is_bounded_and_symmetric(a: object, b: object) -> None:
    """Likeness lies in [0, 1], is 1 of a value with itself and the same both ways."""
    one, two = normal(a), normal(b)
    assert likeness(one, one) == 1.0
    score = likeness(one, two)
    assert 0.0 <= score <= 1.0
    assert score == pytest.approx(likeness(two, one))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (5, "5", True),
        (5, 5.0, True),
        ("a  b", "A b ", True),
        (None, "", True),
        (True, "true", True),
        (True, 1, False),
        ({"a": [1, "x"]}, {"a": ["1", "X"]}, True),
        ([1, 2], [2, 1], False),
        ("x" * 30_000, "x" * 30_000, True),
        ("x" * 30_000 + "a", "x" * 30_000 + "b", False),
        (list(range(5_000)), list(range(5_000)), False),
    ],
)
def test_the_same_value(one: Any, other: Any, alike: bool) -> None:
    """One meaning everywhere; what is too long to compare equals nothing but itself."""
    assert same_value(one, other) is alike
    assert same_value(one, one)


def test_the_same_call() -> None:
    """Declared defaults and empty optional values say nothing; the tool and required values do."""
    spec = ToolSpec("f", "", {"properties": {"a": {}, "n": {"default": 5}}, "required": ["a"]})
    one, same, *others = (
        call_key({"name": name, "args": args}, spec)
        for name, args in [
            ("f", {"a": "x"}),
            ("f", {"a": " X", "n": "5", "b": None}),
            ("g", {"a": "x"}),
            ("f", {"a": "x", "n": 6}),
        ]
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one not in others
