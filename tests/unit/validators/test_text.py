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


@pytest.mark.parametrize(
    ("written", "stems"),
    [
        ("loans LOAN", ["loan", "loan"]),
        ("cities city", ["city", "city"]),
        ("calculator calculate", ["calcu", "calcu"]),
        ("Straße STRASSE ＡＢＣ", ["stras", "stras", "abc"]),
        ("bus boss is", ["bus", "boss", "is"]),
        ("abc東京都x 水", ["abc", "東京", "京都", "x", "水"]),
        (text.identifier_words("getUser_infoV2HTTPServer"), ["get", "user", "info", "v", "2", "http", "serve"]),
    ],
)
def test_terms(written: str, stems: list[str]) -> None:
    """Plural, derivation, case and width do not matter; scripts without spaces are read in pairs, names in words."""
    assert text.terms(text.fold(written)) == stems


@given(st.text(max_size=200))
def test_the_terms_of_sentences_are_those_of_the_text(reply: str) -> None:
    """Sentences follow each other to the end of the text, and hold its terms in order."""
    found = text.Reading(text.fold(reply))
    ends = [sentence.end for sentence in found.sentences]
    assert [sentence.start for sentence in found.sentences] == [0, *ends[:-1]]
    assert ends[-1] == len(found.folded)
    assert [term for sentence in found.sentences for term in sentence.terms] == text.terms(found.folded)


def test_numbers_of_texts() -> None:
    """A text that is one number in any usual writing is read as it; words, versions and endless digits are none."""
    known = {"1,000.5": 1000.5, "1.234.567": 1234567.0, "1,5": 1.5, "$12": 12.0, "-3": -3.0, "1e3": 1000.0, "7%": 7.0}
    assert {written: text.number(written) for written in known} == known
    for written in ["", "abc", "12 apples", "1.2.3", "9" * 50, "--"]:
        assert text.number(written) is None


@given(st.text(alphabet="0123456789.,-+eE%½五⁄ a", max_size=60))
def test_all_numbers_are_finite(reply: str) -> None:
    """Whatever digits are written, the values read are finite."""
    assert all(map(math.isfinite, text.Reading(text.fold(reply)).numbers))


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
    """Return what is read of a conversation."""
    return conversation(StepContext(messages=messages))


def test_memory_of_readings() -> None:
    """One reading of a step for both validators; the last tools are kept, the oldest forgotten."""
    context = StepContext(messages=[HumanMessage("hi")])
    assert conversation(context) is conversation(context)
    first, *others = (ToolSpec(f"t{n}", "", {}) for n in range(600))
    kept = text.tool_text(first)
    assert text.tool_text(first) is kept
    for other in others:
        text.tool_text(other)
    assert text.tool_text(first) is not kept


def test_earlier_calls_and_the_system_text_far_away_are_evidence() -> None:
    """Arguments of earlier turns count, and the system text does even behind a long history."""
    calls = [{"name": "f", "args": {"who": "Ada", "n": [1, {"deep": 77}], "none": None}, "id": "1"}]
    messages = [SystemMessage("Account 4711"), *(HumanMessage(f"old {k}") for k in range(60))]
    messages += [AIMessage("", tool_calls=calls), ToolMessage("done", tool_call_id="1"), HumanMessage("new")]
    conv = read(messages)
    assert (conv.follow_up, conv.answered) == (True, False)
    assert all(evidence in conv.others for evidence in ("ada", "77", "4711"))
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
    assert " ".join(text.schema_text({"items": inner, "enum": ["red"]}).split()) == "red postal code Zip of the town"
    assert text.schema_text(3) == ""


def test_leaves_are_bounded_and_carry_their_schema() -> None:
    """At most 64 values of an answer are looked at, each with the schema of its own place."""
    schema = {"properties": {"a": {"items": {"properties": {"b": {"type": "integer"}}}}}, "required": ["a"]}
    args: dict[str, Any] = {"a": [{"b": n} for n in range(200)]}
    draft = Draft(message=AIMessage("", tool_calls=[{"name": "f", "args": args, "id": "1"}] * 3))
    found = text.answer(draft, StepContext(tools=[ToolSpec("f", "", schema)]))
    leaf = found.leaves[0]
    assert len(found.leaves) == text.MAX_LEAVES
    assert (leaf.path, leaf.schema) == ("/tool_calls/0/args/a/0/b", {"type": "integer"})
    assert (leaf.required, leaf.whole) == (True, False)


@pytest.mark.parametrize(
    ("value", "written"), [(5.0, "5"), (2.5, "2.5"), (10**400, ""), (True, "True"), ("x" * 999, "x" * 600)]
)
def test_values_as_they_would_be_written(value: Any, written: str) -> None:
    """A whole float is written as an integer, an endless integer not at all, a long text is cut."""
    assert text.value_text(value) == written
