"""A recorded step under another policy: one threshold at a time, or many at once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Decision, DecisionInputs, SideCall
from cascade_agent.offline.evaluation.replay import replay, sweep
from tests.builders import recorded
from tests.journals import graded, policies, scores, traces


def without_detail(replayed):
    """All but the text in which a decision quotes its numbers."""
    return replace(replayed, decisions=tuple(replace(d, detail="") for d in replayed.decisions))


@settings(max_examples=100, deadline=None)
@given(trace=traces(), policy=policies, grid=st.lists(scores | st.floats(0, 1), min_size=1, max_size=12, unique=True))
def test_a_sweep_is_a_replay_per_threshold(trace, policy, grid):
    """For any record and policy the stretches of a sweep cover each threshold once, with what `replay` says of it."""
    family = [replace(policy, threshold=threshold) for threshold in sorted(grid)]
    swept = {}
    for first, end, replayed in sweep(trace, family):
        for place in range(first, end):
            assert place not in swept
            swept[place] = without_detail(replayed)
    assert swept == {place: without_detail(replay(trace, one)) for place, one in enumerate(family)}
    assert list(sweep(trace, [])) == []


def _small(score, **more):
    base = {"outcome": "accepted", "confidence": score, "cost": 0.001, "latency": 0.5, **more}
    return Attempt(tier="small", verdicts=(graded("mine", score, "mine"),), **base)


def _step(*attempts, **more):
    return recorded("1", *attempts, **{"final": None, **more})


LARGE = Attempt(tier="large", outcome="accepted", cost=0.01, latency=2.0)


def test_what_was_asked_is_named_and_timed():
    """The calls that a policy would have made, their cost and their time."""
    small = _small(0.5, gathered=("e",))
    trace = _step(small, LARGE, evidence=(SideCall(name="e", cost=0.002, latency=0.3),), askable=("e",))
    found = replay(trace, Policy(threshold=0.9, evidence=(0.0, 1.0)))
    assert [getattr(call, "tier", None) or call.name for call in found.calls] == ["small", "e", "large"]
    assert found.cost == pytest.approx(0.013)
    assert found.latency == pytest.approx(2.8)
    assert (found.final_tier, found.escalated, found.missing) == ("large", True, None)
    dropped = replace(trace, attempts=(replace(small, gathered=()), LARGE))
    assert replay(dropped, Policy(threshold=0.9, evidence=(0.0, 1.0))).missing == "evidence", "it was given up"


def test_a_race_that_was_lost_is_not_a_failure():
    """Where small was given up because large was faster, a policy that would have waited for it cannot be told."""
    late = Attempt(tier="small", outcome="cancelled", error="OvertakenError: x", cost=None, latency=0.4)
    trace = _step(late, LARGE, decisions=(Decision(action="ask_small", reason="draft", hedge=0.3),))
    assert replay(trace, Policy(hedge_after=0.3)).final_tier == "large"
    assert replay(trace, Policy(hedge_after=0.1)).final_tier == "large"
    assert replay(trace, Policy(hedge_after=0.5)).missing == "draft"
    assert replay(trace, Policy()).missing == "draft"


def test_a_hedge_that_was_not_needed_is_paid():
    """A large call begun beside a slow draft is in the cost of the step that small answered, unknown if unrecorded."""
    policy = Policy(hedge_after=0.3)
    recorded = _step(_small(1.0), evidence=(SideCall(name="hedge", cost=0.004),))
    assert replay(recorded, policy).cost == pytest.approx(0.005)
    assert replay(_step(_small(1.0)), policy).cost is None
    assert replay(_step(_small(1.0, latency=0.2)), policy).cost == pytest.approx(0.001)
    same = _step(_small(1.0), decisions=(Decision(action="ask_small", reason="draft", hedge=0.3),))
    assert replay(same, policy).cost == pytest.approx(0.001)


def test_what_is_missing_is_named():
    """No draft, no evidence, no large answer: each is said, and nothing is made up for it."""
    skipped, refused = (
        Attempt(tier="small", outcome="skipped", cost=0.0),
        Attempt(tier="large", outcome="error", error="RateLimit: x", retry_after=1.0, cost=0.0, latency=0.1),
    )
    human, strict = Attempt(tier="human", outcome="accepted", cost=0.0), Policy(threshold=0.9)
    assert replay(_step(_small(0.5), refused, LARGE, human), strict).final_tier == "large", "in the order of the record"
    for missing, trace, policy in (
        ("large", _step(_small(0.5)), strict),
        ("large", _step(_small(0.5), refused, human), strict),
        ("evidence", _step(_small(0.5), LARGE, askable=("e",)), Policy(evidence=(0.0, 1.0))),
        ("draft", _step(skipped, LARGE), Policy()),
    ):
        found = replay(trace, policy)
        assert (found.missing, found.known, found.escalated) == (missing, False, missing == "large")
        assert found.cost is found.latency is found.final_tier is None


def test_the_recorded_situation_counts():
    """A policy that latches asks large at once where the record says that a step of the turn escalated."""
    trace = _step(_small(1.0), LARGE, inputs_seen=(DecisionInputs(stays_on_large=True),))
    assert replay(trace, Policy(stay_on_large="turn")).decisions[0].reason == "stays_on_large"
    assert replay(trace, Policy()).final_tier == "small"
