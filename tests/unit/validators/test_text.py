"""Tests of the reading behind the graded validators: terms, numbers, quotations, and the bounds of a conversation."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, ToolSpec
from cascade_agent.validators import _words as text
from cascade_agent.validators._conversation import conversation


def test_words_with_one_stem() -> None:
    """Plural, derivation, case and width do not matter; an s that is no plural stays."""
    for one, other in [
        ("loans", "loan"),
        ("cities", "city"),
        ("calculator", "calculate"),
        ("Straße", "STRASSE"),
        ("ＡＢＣ", "abc"),
    ]:
        assert text.terms(text.fold(one)) == text.terms(text.fold(other))
    for word in ["bus", "boss", "is"]:
        assert text.stem(word) == word


def test_terms_and_identifiers() -> None:
    """Dense scripts in pairs, camel and snake case in words, each with its place."""
    folded = "abc東京都x 水"
    assert text.placed_terms(folded) == [(0, "abc"), (3, "東京"), (4, "京都"), (6, "x"), (8, "水")]
    assert text.terms(folded) == ["abc", "東京", "京都", "x", "水"]
    assert text.identifier_words("getUser_infoV2HTTPServer").split() == [
        "get",
        "user",
        "info",
        "v",
        "2",
        "http",
        "server",
    ]


@given(st.text(max_size=200))
def test_terms_are_the_placed_terms(reply: str) -> None:
    """Both readings give the same stems, and every place lies inside the text."""
    folded = text.fold(reply)
    placed = text.placed_terms(folded)
    assert text.terms(folded) == [term for _, term in placed]
    assert all(0 <= place < len(folded) for place, _ in placed)


def test_numbers_of_texts() -> None:
    """A text that is one number in any usual writing is read as it; words, versions and endless digits are none."""
    for written, value in [
        ("1,000.5", 1000.5),
        ("1.234.567", 1234567.0),
        ("1,5", 1.5),
        ("$12", 12.0),
        ("-3", -3.0),
        ("1e3", 1000.0),
        ("7%", 7.0),
    ]:
        assert text.number(written) == value
    for written in ["", "abc", "12 apples", "1.2.3", "9" * 50, "--"]:
        assert text.number(written) is None


@given(st.text(alphabet="0123456789.,-+eE%½五⁄ a", max_size=60))
def test_all_numbers_are_finite(reply: str) -> None:
    """Whatever digits are written, the values read are finite."""
    assert all(math.isfinite(v) for v in text.numbers_of(text.number_spans(text.fold(reply))))


def test_numbers_and_quotations_are_bounded() -> None:
    """Digits inside words are marked, marks of several languages count, and no more are read than the limits."""
    assert [s.joined for s in text.number_spans("ca123 covid-19 19 5-10")] == [True, True, False, False, False]
    assert len(text.number_spans("1 " * 500, limit=7)) == 7
    assert text.number_spans("no digits") == []
    assert text.quoted("it's 'one two', \"B\" “Cc” «Dd» 「東京」 `x y`") == ["one two", "cc", "dd", "東京", "x y"]
    assert len(text.quoted("'ab' " * 50, limit=3)) == 3
    assert text.clip("a" * 10 + "b" * 10, 6) == "aaa\nbbb"
    assert text.clip("ab", 6) == "ab"


def read(messages: list[BaseMessage]) -> text.Conversation:
    """What is read of a conversation."""
    return conversation(StepContext(messages=messages))


def test_memory_of_readings() -> None:
    """One reading of a step for both validators; the last tools are kept, the oldest forgotten."""
    context = StepContext(messages=[HumanMessage("hi")])
    assert conversation(context) is conversation(context)
    first = ToolSpec("first", "", {})
    kept = text.tool_text(first)
    for n in range(600):
        text.tool_text(ToolSpec(f"t{n}", "", {}))
    assert text.tool_text(first) is not kept


def test_earlier_calls_and_the_system_text_far_away_are_evidence() -> None:
    """Arguments of earlier turns count, and the system text does even behind a long history."""
    calls = [{"name": "f", "args": {"who": "Ada", "n": [1, {"deep": 77}], "none": None}, "id": "1"}]
    odd = AIMessage("", tool_calls=calls)
    messages: list[BaseMessage] = [SystemMessage("Account 4711")]
    messages += [HumanMessage(f"old {k}") for k in range(60)]
    messages += [odd, ToolMessage("done", tool_call_id="1"), HumanMessage("new")]
    conv = read(messages)
    assert conv.follow_up
    assert not conv.answered
    assert "ada" in conv.others
    assert "77" in conv.others
    assert "4711" in conv.others
    assert "old 3\n" not in conv.others


def test_bounds_of_the_reading() -> None:
    """However long the messages, what is read stays below the sum of the bounds."""
    long = "word " * 100_000
    messages: list[BaseMessage] = [SystemMessage(long)]
    for k in range(100):
        calls = [{"name": "f", "args": {"x": long, "y": list(range(10_000))}, "id": str(k)}]
        messages += [HumanMessage(long), AIMessage([{"type": "text", "text": long}] * 3, tool_calls=calls)]
    messages += [HumanMessage(long), ToolMessage(long, tool_call_id="1")]
    conv = read(messages)
    assert len(conv.request) <= text.REQUEST_CHARS + 1
    bound = text.RESULT_CHARS + text.HISTORY_CHARS + text.SYSTEM_CHARS + text.MESSAGES * 4 * (text.VALUE_CHARS + 1)
    assert len(conv.others) <= bound


def test_blocks_are_searched_literally_too() -> None:
    """A value is also found in a message made of blocks, and not where none holds it."""
    conv = read([HumanMessage([{"type": "text", "text": "key QX-9"}]), HumanMessage("and now?")])
    assert conv.literally("QX-9")
    assert not conv.literally("QX-8")


def test_nested_schema_texts_are_read() -> None:
    """Names and descriptions of nested properties and items belong to what a tool says; what is no schema is nothing."""
    inner = {"type": "object", "properties": {"postalCode": {"description": "Zip of the town"}}}
    assert text.schema_text({"items": inner, "enum": ["red"]}).split() == [
        "red",
        "postal",
        "code",
        "Zip",
        "of",
        "the",
        "town",
    ]
    assert text.schema_text(3) == ""
    spec = ToolSpec("f", "x" * 10_000, {"properties": {f"k{n}": {"description": "word " * 500} for n in range(90)}})
    assert text.tool_text(spec) is text.tool_text(spec)


def test_leaves_are_bounded_and_carry_their_schema() -> None:
    """At most 64 values of an answer are looked at, each with the schema of its own place."""
    schema = {"properties": {"a": {"items": {"properties": {"b": {"type": "integer"}}}}}, "required": ["a"]}
    args: dict[str, Any] = {"a": [{"b": n} for n in range(200)]}
    draft = Draft(message=AIMessage("", tool_calls=[{"name": "f", "args": args, "id": "1"}] * 3))
    found = text.answer(draft, StepContext(tools=[ToolSpec("f", "", schema)]))
    assert len(found.leaves) == text.MAX_LEAVES
    assert found.leaves[0].path == "/tool_calls/0/args/a/0/b"
    assert found.leaves[0].schema == {"type": "integer"}
    assert found.leaves[0].required
    assert not found.leaves[0].whole


@pytest.mark.parametrize(
    ("value", "written"), [(5.0, "5"), (2.5, "2.5"), (10**400, ""), (True, "True"), ("x" * 999, "x" * 600)]
)
def test_values_as_they_would_be_written(value: Any, written: str) -> None:
    """A whole float is written as an integer, an endless integer not at all, a long text is cut."""
    assert text.value_text(value) == written
