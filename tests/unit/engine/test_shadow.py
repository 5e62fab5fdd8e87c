"""Shadow calls: seen by nobody, in nobody's way, written down with their probability and cost."""

import asyncio
import logging
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from cascade_agent import CascadeChatModel, Journal, Policy, Price, Tier
from cascade_agent.engine import shadow
from cascade_agent.offline.evaluation import load_dataset
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_pass
from tests.builders import BOTH, City, ask, behind, call, refuses_small, streamed

ALWAYS = Policy(shadow_rate=1.0)


def cascade(small: Any = "yes", large: Any = "yes", **kwargs: Any) -> tuple[CascadeChatModel, TraceCapture]:
    """A cascade whose every accepted step is shadowed."""
    journal = TraceCapture()
    tiers = [
        Tier(
            ScriptedChatModel(reply, name=name, usage=(10, 5), loop=True)
            if isinstance(reply, str | AIMessage)
            else reply,
            price=Price(rate, rate),
        )
        for reply, name, rate in ((small, "small", 1), (large, "large", 10))
    ]
    settings = {"validators": [always_pass()], "policy": ALWAYS, "journal": journal, **kwargs}
    return CascadeChatModel(small=tiers[0], large=tiers[1], **settings), journal


@BOTH
@pytest.mark.parametrize(
    ("small", "large", "right"),
    [
        ("yes", "Yes", True),
        ("41", "It is 42.", None),
        ("41", "42", False),
        (call("book", city="Lyon"), call("book", city=" lyon "), True),
        (call("book", city="Lyon"), call("book", city="Paris"), False),
        (call("book", city="Lyon"), "Which city?", False),
        ("one long story", "quite another tale", None),
    ],
)
async def test_the_finding_is_a_label(how, small, large, right):
    """The agreement of large, with probability, cost and its answer; the step's own record is not touched."""
    llm, journal = cascade(small, large)
    answer = await ask(llm, how=how)
    assert shadow.wait(60)
    (label,), (trace,) = journal.labels, journal.traces
    assert (label.step_id, label.source, label.propensity) == (trace.id, "shadow", 1.0)
    assert (label.right, label.harm) == (right, None if right is None else not right)
    assert label.side_call.cost == pytest.approx(150e-6)
    assert label.answer["text"] == (large if isinstance(large, str) else "")
    assert trace.cost == pytest.approx(15e-6)
    assert answer.response_metadata["cascade"]["cost"] == trace.cost


@BOTH
async def test_a_shadow_neither_delays_nor_fails_a_step(how, caplog):
    """The answer is there while large still thinks; a large tier that is down is logged once."""
    thinks, may_end = threading.Event(), threading.Event()

    def slow(_: Any) -> AIMessage:
        thinks.set()
        assert may_end.wait(60)
        return AIMessage("yes")

    llm, journal = cascade(
        large=ScriptedChatModel([slow, ConnectionError("a secret"), ConnectionError("x")], name="large")
    )
    assert (await ask(llm, how=how)).content == "yes"
    assert thinks.wait(60)
    assert not journal.labels
    may_end.set()
    assert shadow.wait(60)
    assert len(journal.labels) == 1
    before = shadow.lost
    with caplog.at_level(logging.WARNING, "cascade_agent"):
        assert (await ask(llm, how=how)).content == "yes"
        assert (await ask(llm, how=how)).content == "yes"
        assert shadow.wait(60)
    assert shadow.lost == before + 2
    assert sum("shadow" in r.message for r in caplog.records) == (before == 0)
    assert "secret" not in caplog.text
    assert [(label.right, label.side_call.cost) for label in journal.labels[1:]] == [(None, None)] * 2


@BOTH
async def test_only_accepted_steps_are_shadowed(how):
    """An escalated one has both answers already; without a journal there is nowhere to write."""
    llm, journal = cascade(validators=[refuses_small])
    await ask(llm, how=how)
    none, _ = cascade(journal=None)
    await ask(none, how=how)
    assert shadow.wait(60)
    assert journal.labels == []
    assert none._cascade.large.base.asked == 0


def test_which_steps_are_shadowed():
    """The share that the rate says, drawn from the id of the step, and never beyond a ceiling of cost."""
    llm, journal = cascade(policy=Policy(shadow_rate=0.5))
    for _ in range(100):
        llm.invoke("hi")
    assert shadow.wait(60)
    assert {label.step_id for label in journal.labels} == {t.id for t in journal if t.id < "8"}
    assert 0 < len(journal.labels) < 100
    assert {label.propensity for label in journal.labels} == {0.5}
    llm, journal = cascade(policy=Policy(shadow_rate=1.0, max_cost=0.00001))
    large = llm._cascade.large.base
    with pytest.raises(Exception, match="max_cost leaves no more"):
        llm.invoke("hi")
    assert shadow.wait(60)
    assert (large.asked, journal.labels) == (0, [])


class Listener(BaseCallbackHandler):
    """Hears of every model call."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.heard.append(kwargs.get("name") or "")

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.heard.append(response.generations[0][0].text)


@tool
def book(city: str) -> str:
    """Book a trip."""
    return f"booked in {city}"


@BOTH
@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
async def test_a_graph_sees_nothing_of_it(how, adapter):
    """Neither its streams nor its callbacks nor its checkpoints; large is asked with the tools of the step."""
    journal, listener = TraceCapture(), Listener()
    answers = call("book", city="Lyon"), call("book", city="Paris").model_copy(update={"content": "a shadow"})
    small, large = (ScriptedChatModel(answer, streams=True) for answer in answers)
    settings: Any = {"validators": [always_pass()], "policy": ALWAYS, "journal": journal}
    graph = behind(adapter, small, large, tools=[book], saver=InMemorySaver(), **settings)
    config = {"configurable": {"thread_id": "t"}, "callbacks": [listener]}
    modes = ["messages", "updates", "debug"]
    seen = await streamed(graph, {"messages": [("user", "a trip to Lyon")]}, config, how=how, stream_mode=modes)
    assert shadow.wait(60)
    assert large.asked == 1
    for place in (seen, listener.heard, graph.get_state(config)):
        assert not re.search("a shadow|Paris", repr(place))
    assert large.offered[0][0]["function"]["name"] == "book"
    assert [label.right for label in journal.labels] == [False]


@BOTH
async def test_structured_answers_are_compared_too(how):
    """The call that carries the structure is what is compared."""
    llm, journal = cascade(call("City", name="Lyon", size=3), call("City", name="lyon", size=3))
    assert await ask(llm.with_structured_output(City), how=how) == City(name="Lyon", size=3)
    assert shadow.wait(60)
    assert [label.right for label in journal.labels] == [True]


def test_calibration_reads_what_shadows_found(tmp_path):
    """From the run to the label that counts, by way of the file."""
    path = tmp_path / "journal.jsonl"
    llm, _ = cascade("41", "42", journal=Journal(path))
    for _ in range(3):
        llm.invoke("hi")
    assert shadow.wait(60)
    found = load_dataset(path)
    assert [(s.outcome.right, s.outcome.harm, s.outcome.propensity) for s in found.steps] == [(False, True, 1.0)] * 3


def test_an_interpreter_does_not_wait_for_shadows():
    """A script that ends loses what is under way, and ends."""
    code = (
        "import threading\n"
        "from cascade_agent import CascadeChatModel, Policy\n"
        "from cascade_agent.testing import ScriptedChatModel, TraceCapture\n"
        "llm = CascadeChatModel(small=ScriptedChatModel('a'), large=ScriptedChatModel(lambda _: threading.Event().wait()),"
        " validators=[], policy=Policy(shadow_rate=1.0), journal=TraceCapture())\n"
        "print(llm.invoke('hi').content)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300, check=True, text=True)
    assert done.stdout == "a\n"


async def test_a_loop_that_closes_is_not_held_up():
    """Shadows of asynchronous steps are no tasks of the loop."""
    release = threading.Event()
    llm, _ = cascade(large=ScriptedChatModel([lambda _: release.wait(60) and AIMessage("x")], name="large"))
    await llm.ainvoke("hi")
    assert len(asyncio.all_tasks()) == 1
    release.set()
    assert shadow.wait(60)


def test_too_many_waiting_are_lost_and_counted(monkeypatch):
    """A large tier that hangs fills the queue, not the memory."""
    monkeypatch.setattr(shadow, "_WAITING", 2)
    monkeypatch.setattr(shadow, "_THREADS", 1)
    monkeypatch.setattr(shadow, "_crew", shadow._Crew())
    monkeypatch.setattr(shadow, "lost", 1)
    release, busy = threading.Event(), threading.Event()

    def hangs(_: Any) -> AIMessage:
        busy.set()
        release.wait(60)
        return AIMessage("x")

    llm, journal = cascade(large=ScriptedChatModel([hangs], name="large", loop=True))
    llm.invoke("hi")
    assert busy.wait(60)
    for _ in range(5):
        llm.invoke("hi")
    assert shadow.lost == 4
    release.set()
    assert shadow.wait(60)
    assert len(journal.labels) == 3
