"""Tests of what is kept of a user turn from step to step: the same as if it were read anew, and read once."""

from __future__ import annotations

import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from cascade_agent.core.records import StepContext
from cascade_agent.validators._conversation import Turn, facts, loop


def call(key: str, **args: Any) -> AIMessage:
    """A call of one tool."""
    return AIMessage("", tool_calls=[{"name": "look_up", "args": args, "id": key}])


def state(messages: list[BaseMessage]) -> Any:
    """All that a step reads of its turn."""
    found = loop(StepContext(messages=messages))
    calls = [(c.name, c.args, c.result, c.text, c.tier, c.batch) for c in found.calls]
    texts = [fact.text for fact in found.steps]
    return calls, texts, found.request_text, found.turn.numbers_of(found.steps), [c.text for c in found.left]


def anew(messages: list[BaseMessage]) -> Any:
    """The same of messages that nobody has seen."""
    return state([m.model_copy() for m in messages])


def step(rnd: random.Random, n: int) -> list[BaseMessage]:
    """A step of an agent: one call or two, answered at once, late, twice, or never."""
    keys = [f"c{n}", f"d{n}"][: rnd.choice((1, 1, 2))]
    made = AIMessage("", tool_calls=[{"name": "look_up", "args": {"n": n}, "id": key} for key in keys])
    answers = [rnd.choice((*keys, f"c{n - 1}", "lost")) for _ in range(rnd.randint(0, 2))]
    texts = ("Error: no", "[]", f"{n} rows")
    return [made, *(ToolMessage(rnd.choice(texts), tool_call_id=key) for key in answers)]


def changed(rnd: random.Random, messages: list[BaseMessage]) -> list[BaseMessage]:
    """A history as hosts hand it on: as it was, trimmed, summarised, with a message replaced under its id, branched."""
    at = rnd.randrange(len(messages))
    other = messages[at].model_copy(update={"content": "Error: replaced 77", "id": messages[at].id})
    replaced = [*messages[:at], other, *messages[at + 1 :]]
    ways = [messages, messages[at:], [HumanMessage("So far: 12 done."), *messages[-4:]], replaced, messages[: at + 1]]
    return rnd.choice([messages, messages, *ways])


def test_a_turn_that_grows_is_the_same_as_one_that_is_read_anew() -> None:
    """Whatever the host does to a history between two steps, what is kept of the last step changes nothing."""
    rnd = random.Random(3)
    for _ in range(40):
        messages: list[BaseMessage] = [HumanMessage("Look up 4 and 5.")]
        for n in range(12):
            messages = changed(rnd, messages + step(rnd, n))
            if rnd.random() < 0.1:
                messages = [*messages, HumanMessage("And 6.")]
            assert state(messages) == anew(messages)


def test_branches_of_one_history_do_not_mix() -> None:
    """Two continuations of the same messages, taken in turn and side by side, each see their own calls only."""
    start: list[BaseMessage] = [HumanMessage("Go."), call("1", n=1), ToolMessage("one", tool_call_id="1")]
    branches = [[*start, call("2", n=n), ToolMessage(f"branch {n}", tool_call_id="2")] for n in range(8)]
    wanted = [anew(branch) for branch in branches]
    assert [state(branch) for branch in (*branches, *branches)] == [*wanted, *wanted]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(state, branches * 25)) == wanted * 25


def test_a_step_costs_what_is_new(monkeypatch) -> None:
    """Step after step of a long turn only its new messages become calls, and one message alone keeps the turn."""
    taken: list[int] = []
    then = Turn.then
    monkeypatch.setattr(Turn, "then", lambda self, new, *rest: (taken.append(len(new)), then(self, new, *rest))[1])
    messages: list[BaseMessage] = [HumanMessage("Go on.")]
    for n in range(100):
        messages = [*messages, call(str(n), n=n), ToolMessage(str(n), tool_call_id=str(n))]
        loop(StepContext(messages=messages))
        loop(StepContext(messages=messages))
    assert taken == [2] * 100
    assert [m for m in messages if facts(m).turn is not None] == messages[-1:]


def test_nothing_is_kept_of_a_conversation_that_is_over() -> None:
    """What was read of a thread goes with its messages."""
    messages: list[BaseMessage] = [HumanMessage("Go."), call("1"), ToolMessage("one", tool_call_id="1")]
    loop(StepContext(messages=messages))
    seen = [weakref.ref(thing) for m in messages for thing in (m, facts(m))]
    del messages
    gc.collect()
    assert [ref() for ref in seen] == [None] * len(seen)
