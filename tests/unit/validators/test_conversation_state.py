"""Tests of the state of a loop, and of what it says of a step's chances."""

from __future__ import annotations

import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent import assess
from cascade_agent.core.message_memo import MessageMemo
from cascade_agent.core.records import Draft, StepContext, ToolSpec
from cascade_agent.validators import TurnProgress, _conversation, shipped_scorer
from cascade_agent.validators._conversation import Turn, facts, loop

SMALL = {"cascade": {"final_tier": "small"}}


def tool(name: str, description: str, *parameters: str) -> dict[str, Any]:
    """A tool in the format of OpenAI whose parameters are strings."""
    schema = {"type": "object", "properties": {p: {"type": "string"} for p in parameters}, "required": [*parameters]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def ai(name: str, args: dict[str, Any], key: str) -> AIMessage:
    """A call of the small tier."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": key}], response_metadata=SMALL)


def out(text: str, key: str, status: Any = "success") -> ToolMessage:
    """A tool result."""
    return ToolMessage(text, tool_call_id=key, status=status)


HISTORY: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage("Ship A-17."),
    ai("ship", {"id": "A-17"}, "1"),
    out('{"error": "not paid"}', "1"),
    ai("pay", {"id": "A-17"}, "2"),
    out("[]", "2"),
    AIMessage("It is shipped."),
    HumanMessage("And A-18."),
    HumanMessage("By Friday."),
    ai("ship", {"id": "A-18"}, "3"),
    out("ok", "3"),
]


def test_the_state_of_a_loop() -> None:
    """Turns, requests, calls with their results and tiers are read from the messages alone."""
    state = loop(StepContext(messages=HISTORY))
    assert state.request_text == "And A-18.\nBy Friday."
    assert state.later
    assert [(c.name, c.result, c.tier) for c in state.calls] == [("ship", "ok", "small")]
    first = loop(StepContext(messages=HISTORY[:6]))
    assert not first.later
    assert [(c.name, c.result, c.batch) for c in first.calls] == [("ship", "error", 1), ("pay", "empty", 2)]
    assert [c.name for c in loop(StepContext(messages=HISTORY[:4])).left] == ["ship"]
    assert first.left == []


def test_a_message_is_read_once() -> None:
    """A longer history reads its new messages only, and what is known of a message goes with it."""
    read: list[str] = []
    memo = MessageMemo(lambda m: (read.append(m.type), _conversation._read(m))[1])
    messages: list[BaseMessage] = [HumanMessage(f"question {n}") for n in range(20)]
    memo.all(messages)
    memo.all([*messages, AIMessage("answer")])
    assert len(read) == 21
    keys = {id(m) for m in messages}
    assert keys <= memo._found.keys()
    del messages
    gc.collect()
    assert keys.isdisjoint(memo._found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "empty"), ("[]", "empty"), ("None", "empty"), ('{"rows": []}', "empty"), ("0", "ok"), ("{broken", "ok")],
)
def test_results(text: str, expected: str) -> None:
    """A result that holds nothing is empty; a zero and broken JSON are results."""
    assert facts(out(text, "1")).result == expected


# ---- what is kept of a user turn from step to step: the same as if it were read anew, and read once -----------------
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
    start: list[BaseMessage] = [HumanMessage("Go."), ai("look_up", {"n": 1}, "1"), ToolMessage("one", tool_call_id="1")]
    branches = [[*start, ai("look_up", {"n": n}, "2"), ToolMessage(f"branch {n}", tool_call_id="2")] for n in range(8)]
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
        messages = [*messages, ai("look_up", {"n": n}, str(n)), ToolMessage(str(n), tool_call_id=str(n))]
        loop(StepContext(messages=messages))
        loop(StepContext(messages=messages))
    assert taken == [2] * 100
    assert [m for m in messages if facts(m).turn is not None] == messages[-1:]


def test_nothing_is_kept_of_a_conversation_that_is_over() -> None:
    """Facts read of a thread go with its messages."""
    messages: list[BaseMessage] = [HumanMessage("Go."), ai("look_up", {}, "1"), ToolMessage("one", tool_call_id="1")]
    loop(StepContext(messages=messages))
    seen = [weakref.ref(thing) for m in messages for thing in (m, facts(m))]
    del messages
    gc.collect()
    assert [ref() for ref in seen] == [None] * len(seen)


# ---- the confidence of a step in a loop -----------------------------------------------------------------------------
TOOLS = tuple(ToolSpec(f"tool_{n}") for n in range(12))


def prior(messages: list[BaseMessage], draft: AIMessage | None = None, tools: Any = TOOLS) -> float | None:
    """Return the finding of TurnProgress on a draft."""
    verdict = TurnProgress()(Draft(message=draft or AIMessage("Shipped.")), StepContext(messages=messages, tools=tools))
    return None if verdict is None else verdict.score


def test_a_single_step_is_left_alone() -> None:
    """Without calls and earlier turns there is no loop, unless a long request meets many tools."""
    assert prior([HumanMessage("Ship A-17.")], ai("tool_1", {}, "1")) is None
    long = [HumanMessage("Ship A-17. Then pay it, tell Anna, and write down what it cost.")]
    assert prior(long, ai("tool_1", {}, "1")) is not None
    assert prior(long, ai("tool_1", {}, "1"), TOOLS[:4]) is None
    assert prior(long) is None
    assert prior(HISTORY, tools=()) is None


def test_what_lowers_the_prior() -> None:
    """Errors and empty results on the way, a number that no call took up, and a later turn without a call lower it."""
    base = prior(HISTORY)
    assert base is not None
    worse = [
        [*HISTORY[:-1], out("", "3")],
        [*HISTORY[:-1], out("Error: no", "3")],
        HISTORY[:9],
        [*HISTORY[:9], ai("ship", {"id": "A"}, "3"), out("ok", "3")],
    ]
    assert all((score := prior(m)) is not None and score < base for m in worse)
    queried = prior(HISTORY[:9], AIMessage("Which one?"))
    assert queried > (prior(HISTORY[:9]) or 0.0)


def test_weights_in_loops() -> None:
    """In a loop the codes that compare a call with the whole request keep a twentieth of their weight."""
    scorer = shipped_scorer()
    assert scorer.in_loops["tool_match"] == pytest.approx(scorer.weights["tool_match"] / 20)
    assert scorer.from_json(scorer.to_json()) == scorer


SHOP = [tool("ship_order", "Ship an order.", "order_id"), tool("take_payment", "Take the payment.", "order_id")]
FOLDER = [tool("list_files", "List the files of the current folder."), tool("remove_file", "Remove a file.", "name")]
BOOK = [tool("book_room", "Book a hotel room in a city.", "city", "date")]
FAILED = [
    HumanMessage("Ship order A-17."),
    ai("ship_order", {"order_id": "A-17"}, "1"),
    out('{"error": "unpaid"}', "1"),
]
MENDED = [*FAILED, ai("take_payment", {"order_id": "A-17"}, "2"), out('{"paid": true}', "2")]
REMOVED = [
    HumanMessage("Remove old.txt and show me what is left."),
    ai("list_files", {}, "1"),
    out('["old.txt"]', "1"),
    ai("remove_file", {"name": "old.txt"}, "2"),
    out("ok", "2"),
]


@pytest.mark.parametrize(
    ("draft", "messages", "tools", "accepted"),
    [
        (AIMessage("Done."), FAILED, SHOP, False),
        (ai("ship_order", {"order_id": "A-17"}, "3"), MENDED, SHOP, True),
        (ai("list_files", {}, "3"), REMOVED, FOLDER, True),
        (
            AIMessage("Done."),
            [HumanMessage("Book me a room."), AIMessage("Which city?"), HumanMessage("Berlin, 3 May 2027.")],
            BOOK,
            False,
        ),
        (ai("list_files", {"": ""}, "1"), [HumanMessage("Show me the files.")], FOLDER, True),
    ],
)
def test_loops_as_the_default_set_judges_them(draft: AIMessage, messages: Any, tools: Any, accepted: bool) -> None:
    """Work that is left undone escalates; a retry after a mend, a second look and an empty argument do not."""
    assert assess(draft, messages=messages, tools=tools).accepted is accepted
