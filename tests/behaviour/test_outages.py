"""An outage is not made worse: retries, calls that come too late, and money that is set aside for calls in flight."""

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from cascade_agent import CascadeExhausted, Policy, Price, Tier
from cascade_agent.engine import worker_threads
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_fail
from cascade_agent.validators import CrossCheck
from tests.builders import BOTH, Hanging, Refused, all_of, ask, cancelled, eventually, pair, record, refuses_small
from tests.interop.stub_openai import StubOpenAI

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # httpx clients live as long as the process
BUSY = 200


@BOTH
async def test_a_busy_large_model_gets_a_tenth_more_calls_at_most(how):
    """The allowance is shared by the steps in flight, and requests and attempts are the same number."""
    large, journal = ScriptedChatModel(lambda _: Refused(after="0.001"), loop=True, delay=0.002), TraceCapture()
    llm = pair(ScriptedChatModel("no", loop=True), large, validators=[always_fail()], journal=journal)
    ended = await all_of(llm, BUSY, how)
    assert all(isinstance(end, Refused) for end in ended)
    assert BUSY < large.asked <= 1.1 * BUSY
    assert large.asked == sum(a.tier == "large" for trace in journal for a in trace.attempts)
    assert max(len(trace.attempts) for trace in journal) <= 5


@BOTH
async def test_a_cold_budget_waits_for_what_is_set_aside(how):
    """A call is expected to cost seven times what it does; steps that meet held money wait and are answered."""
    small = Tier(ScriptedChatModel("small", usage=(0, 0), loop=True), price=Price(0, 0))
    large = Tier(ScriptedChatModel("large", usage=(0, 100), loop=True, delay=0.01), price=Price(0, 2000))
    policy, journal = Policy(max_cost={"thread": 8.0}, skip_small=False), TraceCapture()
    llm = pair(small, large, validators=[refuses_small], policy=policy, journal=journal)
    ended = await all_of(llm, 52, how, {"configurable": {"thread_id": f"cold {how}"}})
    answered = sum(isinstance(end, AIMessage) for end in ended)
    assert answered >= 38
    assert sum(isinstance(end, CascadeExhausted) for end in ended) == 52 - answered
    assert sum(trace.cost for trace in journal) == pytest.approx(0.2 * answered)


@BOTH
async def test_waiting_for_money_ends_with_the_deadline(how):
    """Money that is never given back makes no step wait for ever."""
    hangs = threading.Event()

    class Waits(ScriptedChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(self._generate, *args, **kwargs)

    small = Waits(lambda _: "late" if hangs.wait(30) else "never", usage=(0, 250), loop=True)
    tiers = (Tier(m, price=Price(0, 1000)) for m in (small, ScriptedChatModel("large", usage=(0, 250), loop=True)))
    journal = TraceCapture()
    llm = pair(*tiers, policy=Policy(max_cost={"thread": 0.3}, latency_budget=0.3), journal=journal)
    ended = await all_of(llm, 3, how, {"configurable": {"thread_id": f"held {how}"}})
    hangs.set()
    assert [type(end) for end in ended] == [CascadeExhausted] * 3
    assert {trace.reason for trace in journal} == {"budget"}


class CleansUp(Hanging):
    """A model that is cancelled and has to do something first; it does that when `released`."""

    released: Any = None
    ended: Any = None

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            await super()._agenerate(*args, **kwargs)
        finally:
            await self.released.wait()
            self.ended.set()


@pytest.mark.parametrize("given_up", [False, True], ids=["deadline", "cancelled"])
async def test_nobody_waits_for_what_a_cancelled_call_does_next(given_up):
    """Large answers, and a cancelled step ends, while small still cleans up."""
    small = CleansUp("never", released=asyncio.Event(), ended=asyncio.Event())
    step = pair(Tier(small, timeout=60 if given_up else 0.5), "large").ainvoke("hi")
    async with asyncio.timeout(60):
        if given_up:
            await cancelled(step, small)
        else:
            assert (await step).text == "large"
        assert not small.ended.is_set()
        small.released.set()
        await small.ended.wait()


def test_the_pile_of_late_calls_has_a_ceiling(monkeypatch):
    """While too many late calls of small still run it is not asked, and large answers at once."""
    monkeypatch.setattr(worker_threads, "MAX_LATE", 3)
    hangs = threading.Event()
    small = ScriptedChatModel(lambda _: "late" if hangs.wait(60) else "never", loop=True, name="hangs")
    large, journal = ScriptedChatModel("large", loop=True), TraceCapture()
    llm = pair(Tier(small, timeout=0.01), large, policy=Policy(skip_small=False), journal=journal)
    assert {llm.invoke("hi").content for _ in range(9)} == {"large"}
    assert small.asked == 3
    assert [t.attempts[0].usage.calls for t in list(journal)[3:]] == [0] * 6
    hangs.set()
    busy = [t for t in threading.enumerate() if t.name == "cascade-tier"]
    assert len(busy) <= 3 + worker_threads._MAX_IDLE


async def test_a_late_call_ends_where_the_client_takes_a_timeout():
    """The client is given the deadline and a little more, so that its threads do not pile up."""
    with StubOpenAI() as server:  # it answers what hangs when the test is over
        llm = pair(Tier(server.model("fail-hang"), timeout=0.1), "large")
        assert record(llm.invoke("hi"))["attempts"][0]["outcome"] == "timeout"
        await eventually(lambda: not worker_threads._late["fail-hang"])


@BOTH
async def test_evidence_that_is_refused_costs_nothing(how):
    """A second model answered with 429 leaves cost and usage of the step known."""
    other = Tier(ScriptedChatModel(lambda _: Refused(after="0.001"), loop=True), price=Price(1, 1))
    small = Tier(ScriptedChatModel("small", usage=(10, 5)), price=Price(1, 1))
    trace = record(await ask(pair(small, "large", validators=[CrossCheck(other)]), how=how))
    assert trace["evidence"][0]["cost"] == 0.0
    assert trace["cost"] == pytest.approx(15e-6)
    assert trace["usage"]["input_tokens"] == 10
