"""Calls next to calls: hedging, evidence at the same time, a provider that asks for patience."""

import asyncio
import threading
import time
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from cascade_agent import CascadeChatModel, CascadeExhausted, Policy, Price, Tier
from cascade_agent.engine.step import trace_of
from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_fail
from tests.builders import BOTH, Refused, ask, eventually, refuses_small
from tests.interop.stub_openai import StubOpenAI

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # httpx clients live as long as the process


class Held(ScriptedChatModel):
    """Answers when it is let go, and says when it was asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "was_asked", threading.Event())
        object.__setattr__(self, "let_go", threading.Event())
        object.__setattr__(self, "cancelled", threading.Event())

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        self.was_asked.set()
        assert self.let_go.wait(60)
        return super()._generate(*args, **kwargs)

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        self.was_asked.set()
        try:
            while not self.let_go.is_set():  # noqa: ASYNC110 - let go by a thread too
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await super()._agenerate(*args, **kwargs)


def model(name: str, kind: type[ScriptedChatModel] = ScriptedChatModel, **kwargs: Any) -> Any:
    """A model that says its name."""
    return kind(name, name=name, usage=(10, 5), loop=True, **kwargs)


def cascade(small: Any, large: Any, **kwargs: Any) -> tuple[CascadeChatModel, TraceCapture]:
    """A cascade of priced tiers and its journal."""
    journal = TraceCapture()
    settings = {"validators": [], "policy": Policy(hedge_after=0.0), "journal": journal, **kwargs}
    return CascadeChatModel(
        small=Tier(small, price=Price(1, 1)), large=Tier(large, price=Price(10, 10)), **settings
    ), journal


# ---- hedging --------------------------------------------------------------------------------------------------------
@BOTH
async def test_a_small_tier_that_is_slow_is_overtaken(how):
    """Large answered first: its answer is the step's, small is given up and what it cost is unknown."""
    small = model("small", Held)
    llm, journal = cascade(small, model("large"))
    answer = await ask(llm, how=how)
    small.let_go.set()
    assert answer.content == "large"
    trace = journal.traces[0]
    assert [(a.tier, a.outcome) for a in trace.attempts] == [("small", "cancelled"), ("large", "accepted")]
    assert trace.attempts[0].error == "SupersededError: large answered first"
    assert (trace.outcome, trace.reason, trace.cost) == ("escalated", "overtaken", None)
    assert trace.decisions[0].hedge == 0.0
    await eventually(lambda: how == "sync" or small.cancelled.is_set())


async def test_a_small_tier_that_loses_races_is_not_called_useless():
    """Its answers were never seen: nothing is learned from them, and it is asked every time."""
    llm, journal = cascade(model("small", Held), model("large"))
    for _ in range(25):
        await llm.ainvoke("hi")
    assert {t.reason for t in journal} == {"overtaken"}


@BOTH
async def test_a_draft_that_is_accepted_drops_the_hedge(how):
    """Small is taken, large is dropped; the record says that a call was made and not what it cost."""
    small, large = model("small", Held), model("large", Held)
    object.__setattr__(small, "let_go", large.was_asked)
    llm, journal = cascade(small, large)
    answer = await ask(llm, how=how)
    assert answer.content == "small"
    trace = journal.traces[0]
    assert (trace.outcome, trace.escalated, trace.cost) == ("accepted", False, None)
    assert [(s.name, s.cost) for s in trace.evidence] == [("hedge", None)]
    assert large.was_asked.is_set()
    large.let_go.set()
    if how == "async":
        await eventually(large.cancelled.is_set)
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


@BOTH
async def test_a_hedge_that_was_made_to_its_end_is_paid_in_full(how):
    """A dropped call whose answer is there has a known cost."""
    done = threading.Event()

    def says(_: Any) -> AIMessage:
        done.set()
        return AIMessage("large")

    def after_large(draft: Any, _context: Any) -> None:
        if draft.tier == "small":
            assert done.wait(60)
            time.sleep(0.5)  # the call returns a moment after it was answered

    async def after_large_async(draft: Any, _context: Any) -> None:
        while draft.tier == "small" and not done.is_set():  # noqa: ASYNC110 - the other side is a callback
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.5)

    wait = after_large if how == "sync" else after_large_async
    small = model("small")
    large = ScriptedChatModel([says], name="large", usage=(10, 5), delay=0.01)
    llm, journal = cascade(small, large, validators=[wait])
    assert (await ask(llm, how=how)).content == "small"
    trace = journal.traces[0]
    assert [(s.name, s.cost) for s in trace.evidence] == [("hedge", pytest.approx(150e-6))]
    assert trace.cost == pytest.approx(165e-6)


@BOTH
async def test_a_hedge_that_did_not_begin_costs_nothing(how):
    """Small was faster than `hedge_after`: large was never asked."""
    large = model("large")
    llm, journal = cascade(model("small"), large, policy=Policy(hedge_after=30.0))
    assert (await ask(llm, how=how)).content == "small"
    assert large.asked == 0
    assert (journal.traces[0].evidence, journal.traces[0].cost) == ((), pytest.approx(15e-6))
    assert replay(journal.traces[0], llm.policy).decisions == journal.traces[0].decisions


@BOTH
async def test_a_rejected_draft_takes_the_call_that_runs_already(how):
    """Large is asked once, and its answer is judged as always."""
    small, large = model("small", delay=0.05), model("large", delay=0.1)
    llm, journal = cascade(small, large, validators=[refuses_small])
    assert (await ask(llm, how=how)).content == "large"
    assert (small.asked, large.asked) == (1, 1)
    trace = journal.traces[0]
    assert [(a.tier, a.outcome) for a in trace.attempts] == [("small", "rejected"), ("large", "accepted")]
    assert trace.cost == pytest.approx(165e-6)
    assert replay(trace, llm.policy).decisions == trace.decisions


@BOTH
async def test_a_hedge_that_fails_leaves_the_step_to_small(how):
    """Large is down: what small says counts, and its failure is no answer."""
    large = ScriptedChatModel([ConnectionError("down")], name="large")
    llm, journal = cascade(model("small", delay=0.1), large)
    assert (await ask(llm, how=how)).content == "small"
    assert journal.traces[0].evidence[0].name == "hedge"


@BOTH
async def test_both_hang_and_the_deadline_holds(how):
    """One deadline covers the step, hedged or not."""
    small, large = model("small", Held), model("large", Held)
    llm, journal = cascade(small, large, policy=Policy(hedge_after=0.0, latency_budget=0.3))
    with pytest.raises(TimeoutError):
        await ask(llm, how=how)
    assert [a.outcome for a in journal.traces[0].attempts] == ["timeout", "timeout"]
    small.let_go.set()
    large.let_go.set()


async def test_cancelling_a_hedged_step_leaves_no_task():
    """R12: both calls are cancelled with it, and on record, of unknown cost."""
    small, large = model("small", Held), model("large", Held)
    llm, journal = cascade(small, large)
    task = asyncio.create_task(llm.ainvoke("hi"))
    await eventually(lambda: small.was_asked.is_set() and large.was_asked.is_set())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: small.cancelled.is_set() and large.cancelled.is_set())
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    (trace,) = journal
    assert [(a.tier, a.outcome) for a in trace.attempts] == [("small", "cancelled")]
    assert ([(s.name, s.cost) for s in trace.evidence], trace.cost) == ([("hedge", None)], None)


# ---- Retry-After ----------------------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize(
    ("after", "status", "tries"),
    [
        ("0.01", 429, 2),
        ("0", 503, 2),
        ("soon", 429, 1),
        ("99999", 429, 1),
        ("nan", 429, 1),
        ("-1", 429, 1),
        ("0.01", 400, 1),
    ],
)
async def test_a_busy_large_tier_is_asked_again_when_it_says(how, after, status, tries):
    """R16: at the time that the provider gave, if that lies within the deadline."""
    large = ScriptedChatModel([Refused(status, after), "large"], name="large", usage=(10, 5))
    llm, journal = cascade(model("small"), large, validators=[refuses_small], policy=Policy(latency_budget=60))
    if tries == 1:
        with pytest.raises(Refused):
            await ask(llm, how=how)
    else:
        assert (await ask(llm, how=how)).content == "large"
    assert large.asked == tries
    trace = journal.traces[0]
    assert [a.tier for a in trace.attempts] == ["small"] + ["large"] * tries
    if tries == 2:
        assert trace.decisions[-2].wait == float(after)
        assert trace.reason == "bad"
        assert trace.cost == pytest.approx(165e-6)  # a refused call is billed nowhere
        assert replay(trace, llm.policy).decisions == trace.decisions


@BOTH
async def test_a_real_client_tells_when_to_come_back(how):
    """The header is found on the error of a real client library."""
    with StubOpenAI() as stub:
        llm = CascadeChatModel(small=model("small"), large=stub.model("busy-once"), validators=[refuses_small])
        answer = await ask(llm, how=how)
        trace = trace_of(answer)
        assert [a.outcome for a in trace.attempts] == ["rejected", "error", "accepted"]
        assert trace.attempts[1].retry_after == 0.05


def test_feedback_cannot_be_hedged():
    """Large would be asked before there is anything to tell it."""
    with pytest.raises(ConfigurationError, match="hedge_after"):
        Policy(hedge_after=1.0, handover="feedback")


@BOTH
async def test_a_hard_fail_of_both_is_an_error_with_both(how):
    """A hedge changes nothing of what an exhausted step says."""
    policy = Policy(hedge_after=0.0, on_exhausted="raise")
    llm, journal = cascade(model("small"), model("large"), validators=[always_fail()], policy=policy)
    with pytest.raises(CascadeExhausted) as caught:
        await ask(llm, how=how)
    assert len(caught.value.errors) == 2
    assert len(journal.traces[0].attempts) == 2
