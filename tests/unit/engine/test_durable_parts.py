"""A durable step whose process ends while large answers: what is saved of it then, and what is asked again."""

import asyncio
import pickle
import time
from dataclasses import replace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade_agent import CascadeMiddleware, Policy, Price, Tier, Verdict, cascade_node
from cascade_agent.core.records import Draft, SideCall, StepContext, StepTrace, Usage
from cascade_agent.engine import budget, durable
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from tests.builders import BOTH, Refused, graph_of, pair, refuses_small, run

HI: Any = {"messages": [("user", "hi")]}
THREAD: Any = {"configurable": {"thread_id": "t"}}
SECRET = "canary-7391"
SOFT = Verdict(outcome="fail", code="soft", reason="a doubt", score=0.2)


class Crash(BaseException):
    """The process ends here."""


class Finds:
    """Evidence that finds the same each time, at a cost."""

    name, stage = "finds", "evidence"

    def gather(self, _draft: Draft, _context: StepContext, *, config: Any) -> tuple[Verdict, SideCall]:
        del config
        return Verdict(outcome="pass", code="found", score=0.4), SideCall(name="finds", usage=Usage(), cost=0.5)

    async def agather(self, draft: Draft, context: StepContext, *, config: Any) -> tuple[Verdict, SideCall]:
        return self.gather(draft, context, config=config)


def soft(draft: Any, _context: Any) -> Verdict | None:
    """Doubt what small says."""
    return SOFT if draft.tier == "small" else None


def graded(_draft: Any, _context: Any) -> Verdict:
    """Find little to say for a draft."""
    return Verdict(outcome="pass", score=0.6)


def models(*large: Any) -> tuple[ScriptedChatModel, ScriptedChatModel]:
    """A small model that says the secret, and a large one."""
    return (
        ScriptedChatModel(SECRET, name="small", usage=(10, 2), loop=True),
        ScriptedChatModel(list(large), name="large", usage=(20, 4)),
    )


def graph(small: Any, large: Any, saver: Any, *, validators: Any, **settings: Any) -> Any:
    """A graph of one durable node."""
    tiers = [Tier(small, price=Price(1, 1)), Tier(large, price=Price(10, 10))]
    return graph_of(cascade_node(*tiers, validators=validators, durable=True, **settings), saver=saver)


async def play(graph: Any, value: Any, how: str, thread: Any = THREAD) -> Any:
    """Run a graph, with sync durability."""
    return await run(graph, value, thread, how=how, durability="sync")


def crashing() -> Any:
    """Return a validator that ends its process once, when large has answered and nothing of that is saved."""
    left = iter([True])

    def crash(draft: Any, _context: Any) -> None:
        if draft.tier == "large" and next(left, False):
            raise Crash

    return crash


async def crash_and_go_on(graph: Any, how: str, thread: Any = THREAD) -> Any:
    """Lose the process while large answers, and go on in another one."""
    with pytest.raises(Crash):
        await play(graph, HI, how, thread)
    durable._executions.clear()
    return await play(graph, None, how, thread)


def facts(trace: StepTrace) -> Any:
    """Return a record but for times, ids and the text that no checkpoint keeps."""
    attempts = tuple(replace(a, latency=None, answer=None) for a in trace.attempts)
    evidence = tuple(replace(c, latency=None) for c in trace.evidence)
    inputs = tuple(replace(i, time_left=None) for i in trace.inputs_seen)
    return replace(
        trace, id="", run_id="", started_at="", latency=None, attempts=attempts, evidence=evidence, inputs_seen=inputs
    )


REFUSED: dict[str, dict[str, Any]] = {
    "hard": {"validators": [refuses_small]},
    "soft": {"validators": [soft], "policy": Policy(on_exhausted="raise")},
    "kind": {"validators": [graded], "policy": Policy(threshold={"text": 0.9, "default": 0.1})},
    "evidence": {"validators": [graded, Finds()], "policy": Policy(threshold=0.99)},
}


@BOTH
@pytest.mark.parametrize("case", REFUSED)
async def test_large_alone_is_asked_again_and_the_record_is_that_of_a_step_never_killed(case, how):
    """Attempts, decisions, evidence, cost and kind are the same; one id; small is asked once."""
    journal, calm = TraceCapture(), TraceCapture()
    small, large = models("lost", "large says")
    settings = REFUSED[case]
    crashes = {**settings, "validators": [*settings["validators"], crashing()]}
    out = await crash_and_go_on(graph(small, large, InMemorySaver(), journal=journal, **crashes), how)
    await play(graph(*models("large says"), InMemorySaver(), journal=calm, **settings), HI, how)
    assert out["messages"][-1].text == "large says"
    assert (small.asked, large.asked) == (1, 2)
    assert [t.outcome for t in journal] == ["error", "escalated"]
    assert facts(journal.traces[-1]) == facts(calm.traces[-1])
    assert {t.id for t in journal} == {out["messages"][-1].response_metadata["cascade"]["id"]}


async def test_middleware_asks_large_alone_again():
    """As a node does."""
    from langchain.agents import create_agent

    small, large = models("lost", "large says")
    cascade = CascadeMiddleware(large, validators=[refuses_small, crashing()], durable=True)
    agent = create_agent(small, middleware=[cascade], checkpointer=InMemorySaver())
    out = await crash_and_go_on(agent, "async")
    assert (out["messages"][-1].text, small.asked, large.asked) == ("large says", 1, 2)


KEPT: dict[str, tuple[dict[str, Any], int]] = {
    "accepted": ({"validators": []}, 1),
    "refused": ({"validators": [refuses_small]}, 2),
    "refused, and nobody returns it": ({"validators": [soft], "policy": Policy(on_exhausted="raise")}, 2),
    "refused, and it may be returned": ({"validators": [soft], "policy": Policy(on_exhausted="return")}, 1),
    "refused, and a person may see it": ({"validators": [soft], "policy": Policy(on_exhausted="interrupt")}, 1),
    "refused for good": ({"validators": [refuses_small], "policy": Policy(on_exhausted="interrupt")}, 2),
    "refused, and quoted to large": ({"validators": [refuses_small], "policy": Policy(handover="feedback")}, 1),
    "not asked": ({"validators": []}, 1),
}


@BOTH
@pytest.mark.parametrize("case", KEPT)
async def test_a_step_is_two_tasks_only_where_a_draft_is_refused_and_nobody_needs_it(case, how, monkeypatch):
    """So an accepted answer is saved once; and no checkpoint holds a word of a refused draft."""
    settings, tasks = KEPT[case]
    if case == "not asked":
        monkeypatch.setenv("CASCADE_DISABLED", "1")
    saver = Spy()
    await play(graph(*models("large says"), saver, **settings), HI, how)
    assert len(saver.results) == tasks
    if case != "accepted":
        assert SECRET.encode() not in pickle.dumps((dict(saver.writes), dict(saver.blobs)))


class Spy(InMemorySaver):
    """A saver that keeps the results of tasks, after a while; and what happened in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Any] = []
        self.events: list[str] = []
        self.loses_part: Any = lambda: False

    def _keep(self, writes: Any) -> bool:
        results = [value for channel, value in writes if channel == "__return__"]
        self.results += results
        return any(value["is_left"] for value in results)

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        is_part = self._keep(writes)
        if is_part:
            time.sleep(0.05)
        super().put_writes(config, writes, task_id, task_path)
        self.events += ["saved"] * is_part

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        is_part = self._keep(writes)
        if is_part:
            if self.loses_part():
                return
            await asyncio.sleep(0.05)
        super().put_writes(config, writes, task_id, task_path)
        self.events += ["saved"] * is_part


@BOTH
async def test_with_sync_durability_large_is_asked_after_what_small_cost_is_saved(how):
    """However slow the saver is."""
    saver = Spy()

    def answer(_messages: Any) -> str:
        saver.events.append("large")
        return "large says"

    await play(graph(*models(answer), saver, validators=[refuses_small]), HI, how)
    assert saver.events == ["saved", "large"]


@BOTH
async def test_where_the_draft_may_be_needed_both_are_asked_again(how):
    """The policy may still return it: so it is made anew, and returned when large is down."""
    small, large = models("lost", OSError("down"))
    settings: dict[str, Any] = {"validators": [soft, crashing()], "policy": Policy(on_exhausted="return")}
    out = await crash_and_go_on(graph(small, large, InMemorySaver(), **settings), how)
    assert (out["messages"][-1].text, small.asked, large.asked) == (SECRET, 2, 2)


@BOTH
async def test_a_person_decides_a_step_that_was_killed(how):
    """The question holds what is known of small; each step is recorded once, by the person's word."""
    journal, saver = TraceCapture(), InMemorySaver()
    small, large = models("lost", "large says")

    def doubt(draft: Any, _context: Any) -> Verdict:
        return replace(SOFT, score=None if draft.tier == "small" else 0.2)

    policy = Policy(on_exhausted="interrupt")
    asking = graph(small, large, saver, validators=[doubt, crashing()], policy=policy, journal=journal)
    question = (await crash_and_go_on(asking, how))["__interrupt__"][0].value
    assert [a["tier"] for a in question["trace"]["attempts"]] == ["small", "large"]
    out = await play(asking, Command(resume="accept"), how)
    assert (out["messages"][-1].text, small.asked, large.asked) == ("large says", 1, 2)
    assert [t.outcome for t in journal] == ["error", "human_review"]


@BOTH
async def test_what_small_cost_is_charged_once(how):
    """A ceiling of the thread counts small's call once, and large's as often as it was made."""
    small, large = models("lost", "large says")
    settings: dict[str, Any] = {"validators": [refuses_small, crashing()], "policy": Policy(max_cost={"thread": 1.0})}
    thread: Any = {"configurable": {"thread_id": f"charged {how}"}}
    await crash_and_go_on(graph(small, large, InMemorySaver(), **settings), how, thread)
    assert budget._accounts[f"charged {how}"].spent == pytest.approx(12e-6 + 2 * 240e-6)


@BOTH
async def test_a_hedged_call_of_large_goes_on_across_the_parts(how):
    """It is asked once."""
    small, large = models("large says")
    small.delay, large.delay = 0.01, 0.1
    policy = Policy(hedge_after=0.0)
    out = await play(graph(small, large, InMemorySaver(), validators=[refuses_small], policy=policy), HI, how)
    assert (out["messages"][-1].text, small.asked, large.asked) == ("large says", 1, 1)


def test_a_step_that_ends_while_it_waits_for_large_counts_no_attempt_twice(monkeypatch):
    """Between two attempts nobody is asked, so none is cancelled, and what was set aside for large is free again."""
    journal = TraceCapture()
    small, large = models(Refused(after="30"), "never")
    cascade = pair(small, large, validators=[refuses_small], journal=journal)
    monkeypatch.setattr(time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cascade.invoke("hi")
    assert [(a.tier, a.outcome) for a in journal.traces[0].attempts] == [("small", "rejected"), ("large", "error")]
    assert journal.traces[0].usage.calls == large.asked + small.asked == 2


async def test_a_run_cancelled_between_two_parts_is_on_record():
    """With what small cost, and as cancelled."""
    journal, saver = TraceCapture(), Spy()
    small, large = models("never")
    agent = graph(small, large, saver, validators=[refuses_small], journal=journal)
    running = asyncio.create_task(play(agent, HI, "async"))
    saver.loses_part = running.cancel
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [(t.outcome, [a.outcome for a in t.attempts]) for t in journal] == [("cancelled", ["rejected"])]
    assert (journal.traces[0].cost, large.asked) == (12e-6, 0)


@BOTH
async def test_a_graph_that_goes_on_after_large_was_down_asks_large_alone(how):
    """Small's draft is refused all the same."""
    small, large = models(OSError("down"), "large says")
    agent = graph(small, large, InMemorySaver(), validators=[refuses_small])
    with pytest.raises(OSError, match="down"):
        await play(agent, HI, how)
    out = await play(agent, None, how)
    assert (out["messages"][-1].text, small.asked, large.asked) == ("large says", 1, 2)


async def test_a_synchronous_step_on_the_thread_of_a_loop_is_not_saved_and_answers():
    """There a task could not run."""
    small, large = models("large says")

    async def body(state: Any, model: Any) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    out = await play(graph(small, large, InMemorySaver(), validators=[refuses_small], step=body), HI, "async")
    assert (out["messages"][-1].text, small.asked, large.asked) == ("large says", 1, 1)
