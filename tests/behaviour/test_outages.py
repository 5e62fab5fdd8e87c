"""An outage is not made worse: retries, calls that come too late, and money that is set aside for calls in flight."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from cascade_agent import CascadeExhausted, Policy, Price, Tier
from cascade_agent.engine import worker_threads
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_fail
from cascade_agent.validators import CrossCheck
from tests.builders import BOTH, Refused, ask, eventually, pair
from tests.interop.stub_openai import StubOpenAI

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # httpx clients live as long as the process
BUSY = 200


@pytest.fixture
def stub() -> Iterator[StubOpenAI]:
    """A server that fails on demand, and answers what hangs when the test is over."""
    with StubOpenAI() as server:
        yield server


async def all_of(model: Any, n: int, how: str, config: Any = None) -> list[Any]:
    """So many steps at the same time; what each gave or raised."""
    if how == "async":
        return await asyncio.gather(*(model.ainvoke("hi", config) for _ in range(n)), return_exceptions=True)

    def one(_: int) -> Any:
        try:
            return model.invoke("hi", config)
        except Exception as error:
            return error

    with ThreadPoolExecutor(64) as pool:
        return list(pool.map(one, range(n)))


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
    large = Tier(ScriptedChatModel("large", usage=(0, 100), loop=True, delay=0.01), price=Price(0, 2000))
    llm = pair(
        Tier(ScriptedChatModel("small", usage=(0, 0), loop=True), price=Price(0, 0)),
        large,
        validators=[lambda draft, _: draft.tier == "large"],
        policy=Policy(max_cost={"thread": 20.0}, skip_small=False),
        journal=(journal := TraceCapture()),
    )
    ended = await all_of(llm, 130, how, {"configurable": {"thread_id": f"cold {how}"}})
    answered = sum(isinstance(end, AIMessage) for end in ended)
    assert answered >= 95
    assert sum(isinstance(end, CascadeExhausted) for end in ended) == 130 - answered
    assert sum(trace.cost for trace in journal) == pytest.approx(0.2 * answered)


@BOTH
async def test_waiting_for_money_ends_with_the_deadline(how):
    """Money that is never given back makes no step wait for ever."""
    hangs = threading.Event()

    def reply(_: Any) -> str:
        return "late" if hangs.wait(30) else "never"

    class Hanging(ScriptedChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(self._generate, *args, **kwargs)

    llm = pair(
        Tier(Hanging(reply, usage=(0, 250), loop=True), price=Price(0, 1000)),
        Tier(ScriptedChatModel("large", usage=(0, 250), loop=True), price=Price(0, 1000)),
        policy=Policy(max_cost={"thread": 0.3}, latency_budget=0.3),
        journal=(journal := TraceCapture()),
    )
    ended = await all_of(llm, 3, how, {"configurable": {"thread_id": f"held {how}"}})
    hangs.set()
    assert sum(isinstance(end, CascadeExhausted) for end in ended) == 3
    assert {trace.reason for trace in journal} == {"budget"}


class CleansUp(ScriptedChatModel):
    """A model that is cancelled and has to do something first; it does that when `released`."""

    called: Any = None
    released: Any = None
    ended: Any = None

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            self.called.set()
            await asyncio.Event().wait()
        finally:
            await self.released.wait()
            self.ended.set()


@pytest.mark.parametrize("cancelled", [False, True], ids=["deadline", "cancelled"])
async def test_nobody_waits_for_what_a_cancelled_call_does_next(cancelled):
    """Large answers, and a cancelled step ends, while small still cleans up."""
    called, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    small = CleansUp("never", called=called, released=released, ended=ended)
    llm = pair(Tier(small, timeout=60 if cancelled else 0.5), "large")
    step = asyncio.ensure_future(llm.ainvoke("hi"))
    if cancelled:
        await asyncio.wait_for(called.wait(), 60)
        step.cancel()
    done, _ = await asyncio.wait({step}, timeout=60)
    assert done, "the step waits for small"
    assert not ended.is_set()
    assert step.cancelled() if cancelled else step.result().content == "large"
    released.set()
    await asyncio.wait_for(ended.wait(), 60)


def test_the_pile_of_late_calls_has_a_ceiling(monkeypatch):
    """While too many late calls of small still run it is not asked, and large answers at once."""
    monkeypatch.setattr(worker_threads, "MAX_LATE", 3)
    hangs = threading.Event()
    small = ScriptedChatModel(lambda _: "late" if hangs.wait(60) else "never", loop=True, name="hangs")
    llm = pair(
        Tier(small, timeout=0.01),
        ScriptedChatModel("large", loop=True),
        policy=Policy(skip_small=False),
        journal=(journal := TraceCapture()),
    )
    assert {llm.invoke("hi").content for _ in range(9)} == {"large"}
    assert small.asked == 3
    assert [t.attempts[0].usage.calls for t in list(journal)[3:]] == [0] * 6
    hangs.set()
    busy = [t for t in threading.enumerate() if t.name == "cascade-tier"]
    assert len(busy) <= 3 + worker_threads._MAX_IDLE


async def test_a_late_call_ends_where_the_client_takes_a_timeout(stub):
    """The client is given the deadline and a little more, so that its threads do not pile up."""
    llm = pair(Tier(stub.model("fail-hang"), timeout=0.1), ScriptedChatModel("large", loop=True))
    assert llm.invoke("hi").response_metadata["cascade"]["attempts"][0]["outcome"] == "timeout"
    await eventually(lambda: not worker_threads._late["fail-hang"])  # the server answers when the test is over


@BOTH
async def test_evidence_that_is_refused_costs_nothing(how):
    """A second model answered with 429 leaves cost and usage of the step known."""
    other = Tier(ScriptedChatModel(lambda _: Refused(after="0.001"), loop=True), price=Price(1, 1))
    llm = pair(
        Tier(ScriptedChatModel("small", usage=(10, 5)), price=Price(1, 1)), "large", validators=[CrossCheck(other)]
    )
    trace = (await ask(llm, how=how)).response_metadata["cascade"]
    assert trace["evidence"][0]["cost"] == 0.0
    assert trace["cost"] == pytest.approx(15e-6)
    assert trace["usage"]["input_tokens"] == 10
