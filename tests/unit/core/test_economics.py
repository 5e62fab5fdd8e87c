"""The rules that money and time decide: each a pure function of the policy and the inputs."""

import math
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from cascade_agent import Policy, Verdict
from cascade_agent.core.decide import break_even, decide, hedge_delay, threshold_for
from cascade_agent.core.records import Attempt, DecisionInputs, dump, load

unit = st.floats(0, 1)
amounts = st.floats(1e-6, 1e3)
PENDING = Attempt(tier="small", outcome="pending")
GOOD = Attempt(tier="small", confidence=0.9, verdicts=(Verdict(outcome="pass", score=0.9, validator="v"),))
BAD = Attempt(tier="small", verdicts=(Verdict(outcome="fail", code="no", validator="v"),))
inputs_seen = st.builds(
    DecisionInputs,
    kind=st.none() | st.sampled_from(["call", "text", "structured"]),
    escalation=st.none() | unit,
    broken=st.none() | unit,
    small_cost=st.none() | amounts,
    large_cost=st.none() | amounts,
    small_latency=st.none() | amounts,
    large_latency=st.none() | amounts,
    time_left=st.none() | amounts,
    stays_on_large=st.booleans(),
    probe=st.booleans(),
)


# ---- skipping the small tier ----------------------------------------------------------------------------------------
@given(small=amounts, large=amounts, p=unit, worth=st.none() | amounts, times=st.tuples(amounts, amounts))
def test_small_is_skipped_just_where_it_costs_more_than_it_saves(small, large, p, worth, times):
    """S + p L < L, in money and in time at its worth, is what lies below the break-even."""
    policy = Policy(value_of_time=worth)
    inputs = DecisionInputs(
        small_cost=small, large_cost=large, small_latency=times[0], large_latency=times[1], escalation=p
    )
    first, alone = small + (worth or 0) * times[0], large + (worth or 0) * times[1]
    bar = break_even(policy, inputs)
    assume(not math.isclose(first + p * alone, alone, rel_tol=1e-9))
    assert (p > bar) == (first + p * alone > alone)
    decision = decide(policy, [PENDING], inputs=inputs)
    assert (decision.action, decision.reason) == (("escalate", "skipped_small") if p > bar else ("ask_small", "draft"))


def test_when_small_is_skipped():
    """A tier that answers garbage whatever it costs, a turn that escalated; never on what is not known."""
    garbage = DecisionInputs(broken=0.85)
    assert decide(Policy(), [PENDING], inputs=garbage).reason == "skipped_small"
    assert decide(Policy(), [PENDING], inputs=replace(garbage, probe=True)).reason == "draft"
    assert decide(Policy(skip_small=False), [PENDING], inputs=garbage).reason == "draft"
    assert decide(Policy(), [PENDING], inputs=DecisionInputs(broken=0.7)).reason == "draft"
    stays_on_large = DecisionInputs(stays_on_large=True)
    assert decide(Policy(), [PENDING], inputs=stays_on_large).reason == "draft"
    assert decide(Policy(stay_on_large="turn"), [PENDING], inputs=stays_on_large).reason == "stays_on_large"
    for unknown in ["small_cost", "large_cost", "escalation"]:
        known = DecisionInputs(small_cost=1, large_cost=1, escalation=1.0)
        assert decide(Policy(), [PENDING], inputs=known).reason == "skipped_small"
        assert decide(Policy(), [PENDING], inputs=replace(known, **{unknown: None})).reason == "draft"


@given(left=amounts, small=amounts, large=amounts)
def test_a_step_without_time_for_two_calls_asks_the_one_that_counts(left, small, large):
    """Large is asked at once when it fits into what is left and both do not; else small has its chance."""
    inputs = DecisionInputs(small_latency=small, large_latency=large, time_left=left)
    decision = decide(Policy(), [PENDING], inputs=inputs)
    assert (decision.reason == "skipped_small") == (large <= left < small + large)


# ---- ceilings -------------------------------------------------------------------------------------------------------
@given(
    left=st.floats(-10, 10),
    small=st.none() | amounts,
    large=st.none() | amounts,
    attempt=st.sampled_from([PENDING, BAD]),
)
def test_no_tier_is_asked_for_money_that_is_not_there(left, small, large, attempt):
    """Where less is left than a call takes, the step is exhausted for its budget."""
    inputs = DecisionInputs(money_left=left, small_price=small, large_price=large)
    decision = decide(Policy(max_cost=1), [attempt], inputs=inputs)
    price = small if attempt is PENDING else large
    assert (decision.reason == "budget") == (left <= 0 or (price is not None and left < price))
    if decision.reason == "budget":
        assert decision.action == "exhausted"
        assert decision.attempt is None  # nothing was drafted, or what was drafted cannot be used


def test_empty_budgets():
    """A usable draft is left when large cannot be paid; evidence is not asked, it costs money too."""
    low = replace(GOOD, confidence=0.2)
    policy = Policy(threshold=0.5, on_exhausted="return")
    decision = decide(policy, [low], inputs=DecisionInputs(money_left=0.0))
    assert (decision.action, decision.reason, decision.attempt) == ("exhausted", "budget", 0)
    assert decide(Policy(threshold=0.5), [low], inputs=DecisionInputs(money_left=0.0)).attempt is None
    assert decide(Policy(threshold=0.5), [GOOD], inputs=DecisionInputs(money_left=0.0)).action == "accept"
    inside = replace(GOOD, confidence=0.6)
    queried = decide(Policy(threshold=0.5), [inside], evidence=("e",), inputs=DecisionInputs(money_left=1.0))
    broke = decide(Policy(threshold=0.5), [inside], evidence=("e",), inputs=DecisionInputs(money_left=0.0))
    assert (queried.action, broke.action) == ("ask_evidence", "accept")


# ---- thresholds -----------------------------------------------------------------------------------------------------
@given(general=st.none() | unit, own=st.dictionaries(st.sampled_from(["call", "text", "write", "irreversible"]), unit))
def test_the_highest_threshold_that_applies_holds(general, own):
    """By kind and by side effect; the general one where neither is named."""
    attempt = replace(GOOD, effect="write")
    found = threshold_for(Policy(threshold=own if general is None else {**own, "default": general}), attempt, "call")
    applies = [own[key] for key in ("call", "write") if key in own]
    assert found == (max(applies) if applies else general)

    policy = Policy(threshold={"default": 0.5, "irreversible": 0.95})
    assert decide(policy, [replace(GOOD, effect="read")]).action == "accept"
    assert decide(policy, [replace(GOOD, effect="irreversible")]).reason == "low_confidence"


# ---- hedging and retries --------------------------------------------------------------------------------------------
@given(p=unit, price=amounts, seconds=amounts, worth=amounts)
def test_a_hedge_starts_at_once_where_waiting_costs_more_than_a_wasted_call(p, price, seconds, worth):
    """P v l > (1 - p) c."""
    policy = Policy(hedge_after=3.0, value_of_time=worth)
    inputs = DecisionInputs(escalation=p, large_cost=price, small_latency=seconds)
    assume(not math.isclose(p * worth * seconds, (1 - p) * price, rel_tol=1e-6, abs_tol=1e-12))
    assert hedge_delay(policy, inputs) == (0.0 if p * worth * seconds > (1 - p) * price else 3.0)
    assert hedge_delay(Policy(value_of_time=worth), inputs) is None
    assert hedge_delay(Policy(hedge_after=3.0), inputs) == 3.0


@given(
    after=st.none() | st.floats(0, 100),
    left=st.none() | st.floats(0, 100),
    tries=st.integers(1, 6),
    allowed=st.booleans(),
)
def test_large_is_asked_again_when_its_provider_said_when(after, left, tries, allowed):
    """Within the deadline, at most five attempts a step, and not beyond the budget of retries."""
    refused = Attempt(tier="large", outcome="error", error="RateLimitError: busy", retry_after=after)
    attempts = [BAD, *[refused] * tries]
    decision = decide(Policy(), attempts, inputs=DecisionInputs(time_left=left, retry=allowed))
    again = after is not None and after <= 60 and allowed and len(attempts) < 5 and (left is None or after < left)
    assert (decision.action == "escalate") == again
    if again:
        assert (decision.reason, decision.wait) == ("rate_limited", after)


# ---- all of them together -------------------------------------------------------------------------------------------
@given(
    inputs=inputs_seen,
    attempt=st.sampled_from([PENDING, GOOD, BAD, replace(GOOD, confidence=0.5), replace(GOOD, confidence=None)]),
    bad=st.sampled_from([BAD, replace(BAD, outcome="error", error="E: x")]),
    threshold=st.none() | unit,
    evidence=st.sampled_from([(), ("e",)]),
)
def test_what_inputs_move(inputs, attempt, bad, threshold, evidence):
    """The decision on nothing is the one without inputs; none save a draft that failed a hard check; JSON keeps them."""
    assert load(DecisionInputs, dump(inputs)) == inputs
    generous = Policy(threshold={"call": 0.0, "default": 0.0}, stay_on_large="turn", value_of_time=1.0)
    assert decide(generous, [bad], inputs=inputs).action == "escalate"
    policy = Policy(threshold=threshold, stay_on_large="turn", value_of_time=1.0, hedge_after=None)
    plain = decide(Policy(threshold=threshold), [attempt], evidence=evidence)
    assert decide(policy, [attempt], evidence=evidence, inputs=DecisionInputs()) == plain
