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


def text(written: str) -> Draft:
    """An answer without calls."""
    return Draft(message=AIMessage(written))


START = {"start": "Bern"}
SAME = [  # case, space, the writing of formulas and of numbers, declared and described defaults do not count
    ({"start": "Old Town"}, {"start": "old  town."}),
    ({"start": "x**2 + 3*x"}, {"start": "x^2+3x"}),
    (START, {**START, "seats": 4}),
    (START, {**START, "car": "Small van"}),
    ({**START, "pets": False}, START),
    ({**START, "seats": 2}, {**START, "seats": "2.0"}),
]
NEAR = [  # order of items and words, plurals, initials, short forms, more detail and an optional argument cost little
    ({**START, "via": ["Thun", "Spiez"]}, {**START, "via": ["Spiez", "Thun"]}),
    ({**START, "via": "Thun"}, {**START, "via": ["Thun"]}),
    ({"start": "city center Bern"}, {"start": "Bern City Center"}),
    ({"start": "night trains"}, {"start": "night train"}),
    ({"start": "New York City"}, {"start": "NYC"}),
    ({**START, "car": "5 km"}, {**START, "car": "5 kilometers"}),
    ({"start": "Reno, NV"}, {"start": "Reno, Nevada"}),
    (START, {**START, "car": "bus"}),
    ({"start": "Zoo, Basel"}, {"start": "Zoo"}),
]
OTHER = [  # other places, numbers, signs, kinds of value or lengths of a list, and a missing required value
    (START, {"start": "Basel"}),
    ({**START, "seats": 2}, {**START, "seats": 3}),
    ({**START, "seats": -2}, {**START, "seats": 2}),
    ({**START, "pets": True}, {**START, "pets": "no"}),
    ({**START, "via": ["Thun"]}, {**START, "via": ["Thun", "Spiez"]}),
    ({"start": "3x + 2"}, {"start": "3x - 2"}),
    ({"start": "am"}, {"start": "pm"}),
    ({"start": "m"}, {"start": "miles"}),
    ({"start": "east"}, {"start": "west"}),
    ({}, START),
]


@pytest.mark.parametrize(
    ("least", "most", "a", "b"),
    [(*bounds, a, b) for bounds, pairs in (((1, 1), SAME), ((0.7, 0.99), NEAR), ((0, 0.35), OTHER)) for a, b in pairs],
)
def test_two_calls(least: float, most: float, a: dict[str, Any], b: dict[str, Any]) -> None:
    """The same call in another writing agrees, a small difference costs little, another value does not agree."""
    one, two = agreement(calls(a), calls(b), context()), agreement(calls(b), calls(a), context())
    assert least <= one <= most
    assert one == two


ANSWERED = [
    AIMessage("", tool_calls=[{"name": "book_ride", "args": {}, "id": "1"}]),
    ToolMessage("ok", tool_call_id="1"),
]
SORRY, WHERE = "For that I have no tool, sorry about it", "Where would you like to start from, and when?"


def test_two_answers_in_prose_agree_not_to_call() -> None:
    """Before any tool answered, two models that both talk agree on that; afterwards their words count."""
    assert agreement(text(SORRY), text(WHERE), context()) >= 0.85
    assert agreement(text(SORRY), text(WHERE), context(*ANSWERED)) < 0.5


@pytest.mark.parametrize(("a", "b"), [("[]", "None"), ("\n[]", "none"), ("N/A", "[]"), ("No function.", "null")])
def test_two_ways_of_writing_no_call_are_the_same(a: str, b: str) -> None:
    """Models that write calls as text say `[]` or `None` where no tool fits; without tools these are words like others."""
    assert agreement(text(a), text(b), context()) == 1.0
    assert agreement(text(a), text(b), StepContext(messages=[HumanMessage("Which?")])) == 0.0
    assert agreement(text(a), text("Yes"), context()) == 0.0


A, B, C = ({"start": letter} for letter in "ABC")
ZOO, BASEL = {"start": "Zoo"}, {"start": "Zoo, Basel"}


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
        (text(WHERE), calls(START), 0.0),
        (calls(START), text(WHERE), 0.0),
        (calls(A, B), calls(B, A), 1.0),
        (calls(A, B), calls(A), 0.5),
        (calls(A, B, C), calls(C, A), 2 / 3),
        (calls(ZOO, BASEL), calls(BASEL, ZOO), 1.0),
    ],
)
def test_texts_and_calls(a: Draft, b: Draft, score: float | None) -> None:
    """Numbers, names and JSON are compared even with tools, a call and prose never agree, each call takes its likest."""
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
