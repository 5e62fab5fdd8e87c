"""Tests of NoRepeat: what is the same call, what is a loop, and what may be done again."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators.no_repeat import NoRepeat
from tests.builders import json_values

PROPERTIES = {"query": {"type": "string"}, "limit": {"type": "integer", "default": 5}, "page": {"default": None}}
SEARCH = ToolSpec("search", parameters={"type": "object", "properties": PROPERTIES, "required": ["query"]})
TOOLS = (SEARCH, ToolSpec("read"), ToolSpec("save"))
EFFECTS = {"save": "write", "pay": "irreversible", "search": "read"}


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call without an id."""
    return {"name": name, "args": args, "id": ""}


class Turn:
    """Builds the messages of one turn with matching call ids."""

    def __init__(self) -> None:
        self.messages: list[BaseMessage] = [HumanMessage("Do it")]
        self.count = 0

    def did(self, *calls: dict[str, Any], status: str | None = "success", result: Any = "r") -> Turn:
        """One assistant message and, unless `status` is None, the results of its calls."""
        numbered = []
        for c in calls:
            self.count += 1
            numbered.append({**c, "id": f"c{self.count}"})
        self.messages.append(AIMessage("", tool_calls=numbered))
        if status is not None:
            self.messages += [
                ToolMessage(result, tool_call_id=c["id"], name=c["name"], status=status) for c in numbered
            ]
        return self

    def said(self, text: Any) -> Turn:
        self.messages.append(AIMessage(text))
        return self

    def asked(self) -> Turn:
        self.messages.append(HumanMessage("Again, please"))
        return self


def judge(turn: Turn, *calls: dict[str, Any], text: Any = "", effects: Any = EFFECTS) -> list[Verdict]:
    """Judge an answer after a turn."""
    message = AIMessage(text, tool_calls=[{**c, "id": f"d{i}"} for i, c in enumerate(calls)])
    context = StepContext(messages=turn.messages, tools=TOOLS, side_effects=effects)
    return NoRepeat()(Draft(message=message), context) or []


def codes(*args: Any, **kwargs: Any) -> list[str]:
    """The codes of the verdicts."""
    return [verdict.code for verdict in judge(*args, **kwargs)]


A, B, C = call("search", query="a"), call("read", id=1), call("search", query="c")

# what is the same value and the same call stands in test_agreement
SAME = {
    "identical": (call("search", query="a"), call("search", query="a")),
    "order of keys": (call("read", x=1, y=2), call("read", y=2, x=1)),
    "a declared default of null": (call("search", query="a", page=None), call("search", query="a")),
    "nested": (call("read", q={"a": [1, {"b": "X"}]}), call("read", q={"a": [1.0, {"b": "x"}]})),
    "no arguments": (call("read"), call("read")),
    "null and nothing": (call("read", id=None), call("read")),
    "large integers": (call("read", id=2**70), call("read", id=2**70)),
}
DIFFERENT = {
    "another value": (call("search", query="a"), call("search", query="b")),
    "another value beside a default": (call("search", query="a"), call("search", query="b", limit=5)),
    "an argument without a default": (call("search", query="a"), call("search", query="a", lang="en")),
    "true and false": (call("read", id=True), call("read", id=False)),
    "null and zero": (call("read", id=None), call("read", id=0)),
    "a longer list": (call("read", ids=[1, 2]), call("read", ids=[1, 2, 3])),
    "another nesting": (call("read", q={"a": {"b": 1}}), call("read", q={"a": [1]})),
    "more keys": (call("read", q={"a": 1}), call("read", q={"a": 1, "b": 2})),
    "other keys": (call("read", q={"a": 1}), call("read", q={"b": 1})),
    "inner white space": (call("search", query="a b"), call("search", query="ab")),
    "the next page": (call("search", query="a", page=1), call("search", query="a", page=2)),
}


@pytest.mark.parametrize("case", SAME)
def test_same_calls(case: str) -> None:
    """Calls that mean the same are the same, within one answer and across the turn."""
    first, second = SAME[case]
    assert codes(Turn(), first, second) == ["duplicate_call"]
    assert codes(Turn().did(first), second) == ["repeated_call"]
    assert codes(Turn().did(second), first) == ["repeated_call"]


@pytest.mark.parametrize("case", DIFFERENT)
def test_different_calls(case: str) -> None:
    """Calls that mean different things are kept, within one answer and across the turn."""
    first, second = DIFFERENT[case]
    assert codes(Turn(), first, second) == []
    assert codes(Turn().did(first), second) == []


def test_a_repeat_is_soft_and_located() -> None:
    """It points at the call and quotes no argument; of a call that failed the reason says so."""
    (verdict,) = judge(Turn().did(A), B, A)
    assert (verdict.outcome, verdict.hard, verdict.path) == ("fail", False, "/tool_calls/1")
    assert "query" not in verdict.reason
    (verdict,) = judge(Turn().did(A, status="error"), A)
    assert verdict.code == "repeated_call"
    assert "failed" in verdict.reason


def test_what_may_be_made_again() -> None:
    """After another success, in another turn, and where a call was never answered."""
    assert codes(Turn().did(A).did(B), A) == []
    assert codes(Turn().did(A, status="error").did(B), A) == []
    assert codes(Turn().did(A, B), A) == []
    assert codes(Turn().did(A).said("Done").asked(), A) == []
    assert codes(Turn().did(A, status=None), A) == []


def test_no_success_between() -> None:
    """A call that failed, was never answered or came before does not excuse a repeat, and a write may not be done twice."""
    assert codes(Turn().did(A).did(B, status="error"), A) == ["repeated_call"]
    assert codes(Turn().did(A).did(B, result='{"error": "locked"}'), A) == ["repeated_call"]
    assert codes(Turn().did(A).did(B, status=None), A) == ["repeated_call"]
    assert codes(Turn().did(B).did(A), A) == ["repeated_call"]
    assert codes(Turn().did(call("save", x=1)), call("save", x=1)) == ["repeated_call"]
    turn = Turn()
    for number in range(20):
        turn.did(call("read", id=number))
    assert codes(turn, call("read", id=20)) == []
    assert codes(turn, call("read", id=19)) == ["repeated_call"]
    assert codes(Turn().did(A), A, A) == ["duplicate_call", "repeated_call"]
    turn = Turn().did(A)
    turn.messages.append(SystemMessage("Be brief."))
    assert codes(turn, A) == ["repeated_call"]


def test_loops() -> None:
    """A, B, A, B and A, B, C, A, B, C are loops; the same call over and over is a repeat, a pattern that moves on is neither."""
    save = call("save", x=1)
    assert codes(Turn().did(A).did(B).did(A), B) == ["call_loop"]
    assert codes(Turn().did(A).did(B).did(C).did(A).did(B), C) == ["call_loop"]
    assert codes(Turn().did(A).did(save).did(A), save) == ["call_loop"]
    assert codes(Turn().did(C).did(A).did(B).did(A), B) == ["call_loop"]
    assert codes(Turn().did(A, B), A, B) == ["call_loop"]
    assert codes(Turn().did(A).did(A).did(A), A) == ["repeated_call"]
    assert codes(Turn().did(call("read", id=1)).did(A).did(call("read", id=2)), C) == []
    pages = Turn()
    for page in range(6):
        pages.did(call("search", query="a", page=page)).did(call("read", id=page))
    assert codes(pages, call("search", query="a", page=6)) == []


def test_repeated_text() -> None:
    """The same text again in one turn lowers the confidence and decides nothing; other texts and turns are kept."""
    turn = Turn().said("I will look.").did(A)
    (verdict,) = judge(turn, text="I will look. ")
    assert (verdict.code, verdict.outcome) == ("repeated_answer", "abstain")
    assert verdict.score is not None
    blocks = [{"type": "text", "text": "I will "}, {"type": "text", "text": "look."}]
    assert codes(turn, text=blocks) == ["repeated_answer"]
    assert codes(Turn().said("I will look.").did(A), text="Here it is.") == []
    assert codes(Turn().said("Yes").asked(), text="Yes") == []
    assert codes(Turn().did(A), text="Yes") == []
    assert codes(Turn().said("A").said("B"), text="A") == []


@pytest.mark.parametrize("args", [None, "x", [1], 7])
def test_strange_arguments(args: Any) -> None:
    """Arguments that are no object are compared with nothing."""
    message = AIMessage.model_construct(
        content="", tool_calls=[{"name": "read", "args": args, "id": "1"}, call("read", id=1)], invalid_tool_calls=[]
    )
    context = StepContext(messages=Turn().did(B).messages, tools=TOOLS)
    found = NoRepeat()(Draft(message=message), context)
    assert [v.code for v in found or []] == ["repeated_call"]


def test_bounds_of_comparing() -> None:
    """Arguments too large or too deep to compare are different, comparing ends, and the newest 128 calls are held."""

    def deep() -> Any:
        value: Any = 1
        for _ in range(900):
            value = [value]
        return value

    for huge in (lambda: {"x": list(range(100_000))}, lambda: {"x": deep()}, lambda: {str(i): i for i in range(10**5)}):
        assert codes(Turn().did(call("read", **huge())), call("read", **huge())) == []
    assert codes(Turn().did(call("read", x="X" * 10**6)), call("read", x="x" * 10**6)) == []
    assert codes(Turn(), *[call("read", id=n) for n in range(5_000)]) == []
    turn = Turn().did(*[call("read", id=n) for n in range(300)], status=None)
    turn.messages += [ToolMessage("r", tool_call_id=f"c{n + 1}", name="read") for n in (10, 290)]
    assert codes(turn, call("read", id=10)) == []
    assert codes(turn, call("read", id=290)) == ["repeated_call"]


@given(args=st.dictionaries(st.text(), json_values(), max_size=4))
def test_every_call_repeats_itself(args: dict[str, Any]) -> None:
    """A call whose numbers are numbers is the same as itself after any copy."""

    def finite(value: Any) -> bool:
        if isinstance(value, float):
            return not math.isnan(value)
        if isinstance(value, dict):
            return all(map(finite, value.values()))
        return all(map(finite, value)) if isinstance(value, list) else True

    if finite(args):
        again = copy.deepcopy(args)
        first, second = ({"name": "read", "args": a, "id": ""} for a in (args, again))
        assert codes(Turn().did(first), second) == ["repeated_call"]


# ---- polling --------------------------------------------------------------------------------------------------------
WAIT = call("save", seconds=5)


@pytest.mark.parametrize("as_blocks", [False, True])
def test_a_call_whose_results_change_is_polling(as_blocks: bool) -> None:
    """Once the same call has given two different results it may be made again; before that nothing shows it."""

    def result(text: str) -> Any:
        return [{"type": "text", "text": text}] if as_blocks else text

    turn = Turn().did(A, result=result("queued"))
    assert codes(turn, A) == ["repeated_call"]
    assert codes(turn.did(A, result=result("running: 10 %")), A) == []
    assert codes(turn.did(A, result=result("running: 20 %")), A) == []
    assert codes(turn, A, B) == []
    assert codes(turn.did(B), B) == ["repeated_call"]
    assert codes(turn, B, A) == ["repeated_call"]


def test_results_that_do_not_change_are_no_polling() -> None:
    """The last two results decide; errors and two calls in one answer are no polling."""
    turn = Turn().did(A, result="queued").did(A, result="done")
    assert codes(turn, A) == []
    assert codes(turn.did(A, result="done"), A) == ["repeated_call"]
    assert codes(Turn().did(A, status="error", result="busy").did(A, result="done"), A) == ["repeated_call"]
    assert codes(Turn().did(A, status="error", result="1").did(A, status="error", result="2"), A) == ["repeated_call"]
    assert codes(Turn().did(A, result="1").did(A, status="error", result="2"), A) == ["repeated_call"]
    turn = Turn().did(A, result="1").did(A, result="2")
    assert codes(turn, A, A) == ["duplicate_call"]


def test_polling_with_a_wait_between_is_no_loop() -> None:
    """A loop in which one call's results change goes on; one in which nothing changes is a loop."""
    turn = Turn().did(A, result="1").did(WAIT).did(A, result="2")
    assert codes(turn, WAIT, effects={}) == []
    assert codes(turn.did(WAIT), A, effects={}) == []
    assert codes(turn.did(A, result="3"), WAIT, effects={}) == []
    still = Turn().did(A).did(WAIT).did(A)
    assert codes(still, WAIT, effects={}) == ["call_loop"]
