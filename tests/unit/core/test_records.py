"""Records: frozen values that go to plain JSON and back, whatever was put into them."""

import enum
import json
import math
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from cascade_agent.core.clean_json import clean, clean_text
from cascade_agent.core.records import (
    Attempt,
    Decision,
    Draft,
    Label,
    SideCall,
    StepContext,
    StepTrace,
    ToolSpec,
    Usage,
    Verdict,
    dump,
    load,
)
from cascade_agent.errors import CascadeError, CascadeExhausted, ConfigurationError, RecordError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
unit = st.floats(0, 1)
measures = st.none() | st.floats(allow_nan=False, allow_infinity=False)
counts = st.none() | st.integers(0, 2**63 - 1)
maybe = st.none() | texts


def each(names: str, values: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """The same values for several fields."""
    return dict.fromkeys(names.split(), values)


verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(["pass", "fail", "abstain"]),
    score=st.none() | unit,
    **each("code reason path validator", texts),
)
usages = st.builds(
    Usage,
    calls=st.integers(0, 9),
    **each("input_tokens output_tokens cache_read_tokens cache_write_tokens", counts),
)
attempts = st.builds(
    Attempt,
    tier=st.sampled_from(["small", "large"]),
    outcome=st.sampled_from(["accepted", "rejected", "error", "timeout", "cancelled", "skipped", "pending"]),
    verdicts=st.lists(verdicts, max_size=3).map(tuple),
    usage=st.none() | usages,
    answer=st.none() | st.fixed_dictionaries({"text": texts}),
    inner=st.none() | st.fixed_dictionaries({"id": texts}),
    gathered=st.lists(texts, max_size=2).map(tuple),
    **each("model error", maybe),
    **each("confidence threshold", st.none() | unit),
    **each("cost latency", measures),
)
decisions = st.builds(
    Decision,
    action=st.sampled_from(["accept", "ask_small", "ask_evidence", "escalate", "exhausted"]),
    attempt=st.none() | st.integers(0, 1),
    evidence=maybe,
    **each("reason detail", texts),
)
side_calls = st.builds(SideCall, name=texts, usage=st.none() | usages, **each("cost latency", measures))
traces = st.builds(
    StepTrace,
    outcome=st.sampled_from(["accepted", "escalated", "exhausted", "interrupted", "cancelled", "error"]),
    attempts=st.lists(attempts, min_size=1, max_size=2).map(tuple),
    decisions=st.lists(decisions, max_size=3).map(tuple),
    evidence=st.lists(side_calls, max_size=2).map(tuple),
    final=st.none() | st.just(0),
    kind=st.sampled_from(["text", "call"]),
    degraded=st.booleans(),
    confidence=st.none() | unit,
    usage=st.none() | usages,
    **each("id step reason", texts),
    **each("cost latency", measures),
    **each("started_at thread_id run_id policy", maybe),
)
labels = st.builds(
    Label,
    propensity=st.none() | unit,
    at=maybe,
    **each("step_id source note", texts),
    **each("right harm", st.none() | st.booleans()),
)


@given(traces, labels)
def test_a_record_goes_to_json_and_back(trace, label):
    """Through the text of a file. Unknown measures are null; `content=False` leaves out answers and what errors quote."""
    for record in (trace, label):
        assert type(record).from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record
    entry = trace.to_json()
    assert {"cost", "usage", "confidence", "latency", "final"} <= entry.keys()
    assert all({"cost", "usage", "latency", "confidence"} <= a.keys() for a in entry["attempts"])
    assert entry["final_tier"] == trace.final_tier
    assert entry["escalated"] == any(a.tier == "large" for a in trace.attempts)
    for attempt, bare in zip(trace.attempts, trace.to_json(content=False)["attempts"], strict=True):
        assert "answer" not in bare
        assert bare.get("error") == (attempt.error and attempt.error.partition(":")[0])


def a_trace(**kwargs: Any) -> StepTrace:
    """A step that the small tier answered."""
    given_ = {"id": "1", "step": "s", "outcome": "accepted", "reason": "accepted", "attempts": (Attempt(tier="small"),)}
    return StepTrace(**{**given_, **kwargs})


def test_newer_fields_and_frozen_records():
    """Unknown keys do not stop an older reader; a record never changes after it was made."""
    assert StepTrace.from_json({**a_trace().to_json(), "novelty": 1}) == a_trace()
    assert Label.from_json({"step_id": "1", "source": "person", "novelty": 1}) == Label(step_id="1", source="person")
    with pytest.raises(FrozenInstanceError):
        a_trace().reason = "other"


# ---- verdicts -------------------------------------------------------------------------------------------------------
def test_scores_and_outcomes_are_checked_where_they_are_made():
    """So a fault is the validator's: a score of another library becomes a float from 0 to 1, an outcome is of three."""
    for score in [-0.1, 1.1, math.nan, math.inf, "high", 1j, [1]]:
        with pytest.raises(ConfigurationError, match="expected None or a number"):
            Verdict(outcome="pass", score=score)
    for score in [0, 1, True, Fraction(1, 2), "0.5"]:
        assert type(Verdict(outcome="pass", score=score).score) is float
    with pytest.raises(ConfigurationError, match="expected one of"):
        Verdict(outcome="failed")
    assert Verdict(outcome="fail").hard
    assert not any(v.hard for v in (Verdict(outcome="fail", score=0.0), Verdict(outcome="pass")))
    assert Verdict(outcome="abstain", code="validator_timeout").broken
    assert not Verdict(outcome="abstain", code="unknown").broken
    assert not Verdict(outcome="fail", code="validator_error").broken


# ---- usage ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("meta", "details", "counts"),
    [
        (None, {}, (None, None, None, None)),
        ((10, 5), {"cache_read": 3, "cache_creation": 2}, (10, 5, 3, 2)),
        ((50, 5), {"cache_creation": 0, "ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}, (50, 5, None, 30)),
        ((-1, 2**63), {}, (None, None, None, None)),
    ],
)  # fmt: skip
def test_usage_is_read_as_langchain_defines_it(meta, details, counts):
    """Cached tokens are part of the input, Anthropic's lives of them too; what is not reported is unknown."""
    given_ = meta and {
        "input_tokens": meta[0],
        "output_tokens": meta[1],
        "total_tokens": 0,
        "input_token_details": details,
    }
    usage = Usage.of(AIMessage("x", usage_metadata=given_))
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens) == counts


@given(usages, usages, usages)
def test_usages_add_up_in_any_order(a, b, c):
    """Addition is associative and commutative, and unknown plus anything is unknown."""
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    total = a + b
    assert (total.input_tokens is None) == (a.input_tokens is None or b.input_tokens is None)
    assert total.calls == a.calls + b.calls


# ---- drafts and contexts --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["finish_reason", "stop_reason", "done_reason", "stopReason"])
def test_the_finish_reason_is_found_under_every_providers_name(key):
    """In lower case; None when the provider does not say."""
    assert Draft(message=AIMessage("x", response_metadata={key: "MAX_TOKENS"})).finish_reason == "max_tokens"
    assert Draft(message=AIMessage("x", response_metadata={key: 3})).finish_reason is None


def test_a_draft_tells_its_answer_as_json():
    """Text of all blocks, calls, broken calls, finish reason and parsing error; empty parts are left out."""
    call = {"name": "f", "args": {"a": 2**70}, "id": "1"}
    broken = {"name": "g", "args": "{", "id": None, "error": "e"}
    message = AIMessage(
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        tool_calls=[call],
        invalid_tool_calls=[broken],
        response_metadata={"finish_reason": "stop"},
    )
    entry = Draft(message=message, parsing_error="ValueError").to_json()
    assert entry == {
        "text": "ab",
        "tool_calls": [{"name": "f", "args": {"a": str(2**70)}, "id": "1"}],
        "invalid_tool_calls": [{"name": "g", "args": "{", "id": None}],
        "finish_reason": "stop",
        "parsing_error": "ValueError",
    }
    assert Draft(message=AIMessage("x")).to_json() == {"text": "x", "tool_calls": []}


def test_a_context_knows_its_turn_and_its_tools():
    """The turn starts at the last human message; tools are found by name; the cache belongs to one step."""
    spec = ToolSpec("f")
    context = StepContext(messages=[HumanMessage("1"), AIMessage("2"), HumanMessage("3"), AIMessage("4")], tools=[spec])
    assert context.turn_start == 2
    assert context.tools_by_name == {"f": spec}
    context.cache["x"] = 1
    assert StepContext().cache == {}
    assert StepContext(messages=[SystemMessage("s")]).turn_start == -1
    assert StepContext().turn_start == -1


# ---- cleaning -------------------------------------------------------------------------------------------------------
class Color(enum.StrEnum):
    """A text that is more than a text."""

    RED = "red"


class _Nameless:
    def __str__(self) -> str:
        raise ValueError


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
)


@given(json_like)
def test_anything_becomes_json_that_every_store_holds(value):
    """No NUL, no lone surrogate, no integer over 64 bits, no infinity; and cleaning twice changes nothing."""
    once = clean(value)
    text = json.dumps(once, allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")
    assert "\\u0000" not in text
    assert clean(once) == once


@pytest.mark.parametrize(
    ("value", "entry"),
    [
        (2**63, str(2**63)),
        (-(2**63), -(2**63)),
        (10**400, "… (integer of 1329 bits)"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (Color.RED, "red"),
        ("a\0\ud800b", "a\ufffd\ufffdb"),
        ("x" * 70_000, "x" * 65_536 + "… (cut)"),
        (_Nameless(), "… (_Nameless)"),
        ({1: {2}}, {"1": "{2}"}),
    ],
    ids=["big", "64 bits", "digits", "infinity", "NaN", "enum", "characters", "long", "nameless", "keys and sets"],
)
def test_what_json_cannot_hold_is_named(value, entry):
    """It is cut or written out, and says so."""
    assert clean(value) == entry


def test_what_json_cannot_hold():
    """A deep nest is cut at 64 levels, subclasses of `str` become plain texts, rubbish in a verdict stays JSON."""
    value: Any = 1
    for _ in range(5000):
        value = [value]
    assert "nested too deep" in json.dumps(clean(value))
    assert type(clean_text(Color.RED)) is str
    assert type(dump(Verdict(outcome="fail", code=Color.RED))["code"]) is str
    entry = dump(Verdict(outcome="fail", code=_Nameless(), reason=("a", "b"), path=3, validator=Color.RED))
    json.dumps(entry, allow_nan=False)
    assert entry["code"] == "… (_Nameless)"
    assert (entry["path"], load(Verdict, entry).reason) == ("3", "['a', 'b']")  # what is written can be read
    assert dump(Verdict(outcome="fail", code="a\0b", reason="\ud800é")) == {
        "outcome": "fail",
        "code": "a\ufffdb",
        "reason": "\ufffdé",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attempts": None}, "StepTrace.attempts is None; expected a list"),
        ({"attempts": {"tier": "small"}}, "StepTrace.attempts is dict of 1; expected a list"),
        ({"attempts": [3]}, "expected a JSON object for a Attempt, found int"),
        ({"attempts": [{"tier": "small", "verdicts": "x"}]}, "Attempt.verdicts is 'x'; expected a list"),
        ({"attempts": [{"tier": "small", "verdicts": [{"outcome": "maybe"}]}]}, "Verdict.outcome is 'maybe'"),
        ({"attempts": [{"tier": "small", "verdicts": [{"outcome": "pass", "score": 2}]}]}, "Verdict.score is 2"),
        ({"usage": 3}, "StepTrace.usage is 3; expected an object or null"),
        ({"final": 1}, "StepTrace.final is 1"),
        ({"final": -1}, "StepTrace.final is -1"),
        ({"final": "first"}, "StepTrace.final is 'first'; expected a whole number"),
        ({"schema": "1"}, "upgrade cascade_agent"),
        ({"attempts": "x"}, "StepTrace.attempts is 'x'; expected a list"),
        ({"cost": "x"}, "StepTrace.cost is 'x'; expected a finite number or null"),
        ({"latency": []}, "StepTrace.latency is list of 0; expected a finite number or null"),
        ({"cost": 10**400}, "StepTrace.cost is an integer of 1329 bits; expected a finite number"),
        ({"cost": float("inf")}, "StepTrace.cost is inf; expected a finite number"),
        ({"degraded": 1}, "StepTrace.degraded is 1; expected true or false"),
        ({"id": None}, "StepTrace.id is None; expected a text"),
        ({"askable": [1]}, "StepTrace.askable is list of 1; expected a list of texts"),
        ({"attempts": [{"tier": "small", "answer": {"tool_calls": [1]}}]}, "Attempt.answer is dict of 1; expected an"),
        ({"attempts": [{"tier": "small", "verdicts": [{"outcome": "pass", "score": True}]}]}, "Verdict.score is True"),
        ({"usage": {"calls": "1"}}, "Usage.calls is '1'; expected a whole number"),
        ({"schema": 99}, "upgrade cascade_agent"),
    ],
)
def test_load_names_the_field_that_is_wrong(wrong, message):
    """The message says which field of what is wrong and what was expected; what is no record at all is refused too."""
    with pytest.raises(RecordError) as refused:
        load(StepTrace, {**a_trace().to_json(), **wrong})
    assert message in str(refused.value)
    for other in (3, [], {}, {"id": "1"}):
        with pytest.raises(RecordError):
            StepTrace.from_json(other)


# ---- the error that carries a record --------------------------------------------------------------------------------
def test_exhausted_is_a_plain_exception_that_keeps_its_trace():
    """It is of the library's tree, no group, and a pickle keeps the trace and what went wrong on the way."""
    import pickle

    error = CascadeExhausted("nobody", trace=a_trace(), errors=[ValueError("a"), KeyError("b")])
    assert isinstance(error, CascadeError)
    assert not isinstance(error, BaseExceptionGroup)
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.trace, str(twin), len(twin.errors)) == (a_trace(), "nobody", 2)
