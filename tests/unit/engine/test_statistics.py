"""Statistics that a cascade keeps of its steps, and its budget."""

import copy
import pickle
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade_agent import Verdict
from cascade_agent.core.records import Attempt, DecisionInputs, StepTrace, Usage
from cascade_agent.engine.budget import Budget
from cascade_agent.engine.statistics import ENOUGH, StepStatistics, _Mean

HARD = (Verdict(outcome="fail", code="no", validator="v"),)


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def a_step(*, accepted: bool = False, hard: bool = True, name: str = "desk", thread: str | None = None) -> StepTrace:
    """A step whose small draft was kept or not."""
    small = Attempt(
        tier="small",
        outcome="accepted" if accepted else "rejected",
        cost=1.0,
        latency=0.5,
        verdicts=() if accepted or not hard else HARD,
    )
    usage = Usage(input_tokens=1000, output_tokens=10, cache_read_tokens=500)
    large = Attempt(tier="large", outcome="accepted", cost=10.0, latency=2.0, usage=usage)
    return StepTrace(
        id="0" * 32,
        step=name,
        outcome="accepted" if accepted else "escalated",
        reason="x",
        thread_id=thread,
        attempts=(small,) if accepted else (small, large),
        final=0 if accepted else 1,
    )


def taught(steps: int, clock: Clock | None = None, **kwargs) -> StepStatistics:
    """A statistics that saw so many equal steps."""
    statistics = StepStatistics(clock or Clock())
    for _ in range(steps):
        statistics.observe(a_step(**kwargs))
    return statistics


def test_when_small_is_called_broken():
    """After 19 steps of its name, at Wilson's bound; a good tier and soft escalations are never near it."""
    assert taught(ENOUGH - 1).snapshot("desk") == DecisionInputs()
    entry = taught(ENOUGH).snapshot("desk")
    assert entry.broken == entry.escalation
    assert entry.broken > 0.8
    assert (entry.small_cost, entry.large_cost, entry.small_latency, entry.large_latency) == (1.0, 10.0, 0.5, 2.0)
    assert taught(ENOUGH).snapshot("other") == DecisionInputs()
    assert taught(100, accepted=True).snapshot("desk").escalation < 0.01
    soft = taught(100, hard=False).snapshot("desk")
    assert soft.broken < 0.01
    assert soft.escalation > 0.9


WILSON = [
    (1, 0, 0.0),
    (0, 1, 0.269866),
    (0, 19, 0.875352),
    (3, 17, 0.678172),
    (10, 10, 0.327404),
    (60, 1, 0.003666),
    (7, 53, 0.798091),
]
"""(right, wrong, lower bound) by `scipy.stats.binomtest(wrong, right + wrong).proportion_ci(0.9, method="wilson")`."""


@pytest.mark.parametrize(("right", "wrong", "low"), WILSON)
def test_the_bound_is_wilsons(right, wrong, low):
    """The lower bound of a share without forgetting."""
    mean = _Mean()
    mean.total, mean.weight = float(wrong), float(right + wrong)
    assert mean.lower() == pytest.approx(low, abs=1e-4)


def test_retries_have_a_budget():
    """R16: a tenth of the calls, the first free; R17: taken when decided, so of many refused at once one is asked again."""
    statistics, once = StepStatistics(Clock()), a_step()
    twice = replace(once, attempts=(*once.attempts, once.attempts[1]))
    calls = retries = 0
    for _ in range(300):
        again = statistics.take_retry()
        statistics.observe(twice if again else once)
        calls, retries = calls + 2 + again, retries + again
    assert 20 <= retries <= 0.1 * calls + 2
    statistics = StepStatistics(Clock())
    assert sum(statistics.take_retry() for _ in range(400)) == 1


def test_memory_of_the_statistics():
    """The 256 names heard of last; a copied or pickled cascade has none of another process."""
    statistics = taught(ENOUGH)
    for other in (pickle.loads(pickle.dumps(statistics)), copy.deepcopy(statistics)):
        assert other.snapshot("desk") == DecisionInputs()
    statistics = StepStatistics(Clock())
    for i in range(1000):
        statistics.observe(a_step(name=f"s{i}", thread=f"t{i}"))
    assert len(statistics._steps) == 256


# ---- the budget ------------------------------------------------------------------------------------------------------
class Run:
    """Values that a graph keeps for the length of a run."""


def test_money_that_is_held():
    """The narrower of run and thread is what is left; what is held comes back or stays spent; a thread knows its messages' costs."""
    one, two = Run(), Run()
    limits = {"run": 1.0, "thread": 1.5}
    first = Budget(limits, run=one, thread_id="limits")
    assert first.remaining() == 1.0
    assert first.reserve(0.8)
    first.charge(0.8, 0.7)
    assert Budget(limits, run=one, thread_id="limits").remaining() == pytest.approx(0.3)
    assert Budget(limits, run=two, thread_id="limits").remaining() == pytest.approx(0.8)
    assert Budget(limits, run=two, thread_id="other limits").remaining() == 1.0
    assert Budget({}, run=one, thread_id="limits").remaining() is None
    budget = Budget({"run": 1.0})
    assert budget.reserve(0.6)
    assert budget.remaining() == pytest.approx(0.4)
    assert not budget.reserve(0.5)
    budget.charge(0.6, 0.1)
    assert budget.remaining() == pytest.approx(0.9)
    assert budget.reserve(0.5)
    budget.charge(0.5, None)
    assert budget.remaining() == pytest.approx(0.4)
    history = [
        HumanMessage("hi"),
        AIMessage("x", response_metadata={"cascade": {"cost": 0.25}}),
        AIMessage("x", response_metadata={"cascade": {"cost": None}}),
        AIMessage("x", response_metadata={"cascade": "spoiled"}),
        AIMessage("x", response_metadata={"cascade": {"cost": 0.5}}),
    ]
    assert Budget({"thread": 1.0}, thread_id="restarted", messages=history).remaining() == pytest.approx(0.25)
    assert Budget({"thread": 1.0}, thread_id="restarted", messages=history * 2).remaining() == pytest.approx(0.25)
