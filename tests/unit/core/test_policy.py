"""`Policy` refuses what cannot work and goes to JSON and back; `decide()` is pure, and its rules hold for any history."""

import copy
import json
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_agent.core.decide import best_draft, decide, objection
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Verdict
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.validators import shipped_scorer

unit = st.floats(0, 1)
names = st.sampled_from(["", "mine", "Grounding"])
verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(["pass", "fail", "abstain"]),
    code=st.sampled_from(["", "odd", "validator_error", "validator_timeout"]),
    score=st.none() | unit,
    validator=names,
    origin=st.sampled_from(["", "user", "shipped"]),
    path=st.sampled_from(["", "/tool_calls/0"]),
)
some_verdicts = st.lists(verdicts, max_size=4).map(tuple)
EVIDENCE = ("cheap", "dear")


def attempts(tier: str, *outcomes: str) -> st.SearchStrategy[Attempt]:
    """Attempts of one tier."""
    return st.builds(
        Attempt,
        tier=st.just(tier),
        outcome=st.sampled_from(outcomes),
        verdicts=some_verdicts,
        confidence=st.none() | unit,
        gathered=st.sampled_from([(), ("cheap",), ("cheap", "dear")]),
        error=st.sampled_from([None, "ValueError: secret"]),
    )


smalls = attempts("small", "rejected", "error", "timeout", "pending")
larges = attempts("large", "rejected", "error", "timeout")
histories = st.one_of(
    st.tuples(smalls), st.tuples(attempts("small", "rejected", "error", "timeout", "skipped"), larges)
)
bands = st.tuples(unit, unit).map(sorted).map(tuple)
policies = st.builds(
    Policy,
    threshold=st.none() | unit | st.dictionaries(st.sampled_from(["call", "read", "default"]), unit),
    evidence=bands,
    on_exhausted=st.sampled_from(["pass", "return", "raise", "interrupt"]),
    on_broken=st.sampled_from(["escalate", "accept"]),
    handover=st.sampled_from(["fresh", "feedback"]),
    latency_budget=st.none() | st.floats(0.1, 1e6),
    validator_timeout=st.floats(0.1, 60),
    side_effects=st.dictionaries(st.text(max_size=3), st.sampled_from(["read", "write", "irreversible"]), max_size=2),
    provenance=st.just({"n": 3, "date": "2026-01-01"}),
    value_of_time=st.none() | st.floats(0, 10),
    max_cost=st.none() | st.just(2) | st.just({"thread": 1.0, "strict": True}),
    skip_small=st.booleans(),
    stay_on_large=st.sampled_from(["step", "turn"]),
    shadow_rate=unit,
)


@given(policies, histories)
def test_the_rules_hold_for_any_history(policy, history):
    """Equal inputs, equal moves, and nothing changes; no fail is accepted; after large there is an end, not before."""
    before = copy.deepcopy((policy, history))
    move = decide(policy, history, evidence=EVIDENCE)
    assert decide(Policy.from_json(policy.to_json()), copy.deepcopy(history), evidence=list(EVIDENCE)) == move
    assert (policy, history) == before
    last = history[-1]
    failed = last.outcome in ("error", "timeout") or any(
        v.hard or (v.outcome == "fail" and (last.tier == "small" or v.origin == "user")) for v in last.verdicts
    )
    assert not failed or move.action in ("escalate", "exhausted")
    assert (move.action in ("accept", "exhausted")) if len(history) == 2 else (move.action != "exhausted")
    if move.attempt is not None:
        chosen = history[move.attempt]
        assert chosen.outcome == "rejected"
        passed = policy.on_exhausted == "pass" and chosen.tier == "large"
        assert passed or not any(v.hard for v in chosen.verdicts)


@given(policies, attempts("small", "rejected"), unit, unit)
def test_a_lower_threshold_and_a_higher_confidence_accept_no_less(policy, attempt, a, b):
    """A draft accepted at a threshold or a confidence is accepted at every lower threshold, every higher confidence."""
    low, high = sorted((a, b))
    if decide(replace(policy, threshold=high), (attempt,)).action == "accept":
        assert decide(replace(policy, threshold=low), (attempt,)).action == "accept"
    if decide(policy, (replace(attempt, confidence=low),)).action == "accept":
        assert decide(policy, (replace(attempt, confidence=high),)).action == "accept"


@given(policies, attempts("small", "rejected"), st.lists(unit, min_size=2, max_size=2))
def test_gathering_ends(policy, attempt, found):
    """Each piece of evidence is asked at most once, in order, and only while the confidence lies in the band."""
    attempt = replace(attempt, gathered=())
    queried: list[str] = []
    for confidence in [*found, None]:
        move = decide(policy, (attempt,), evidence=EVIDENCE)
        if move.action != "ask_evidence":
            break
        low, high = policy.evidence
        assert attempt.confidence is None or low <= attempt.confidence <= high
        queried.append(str(move.evidence))
        attempt = replace(attempt, gathered=(*attempt.gathered, str(move.evidence)), confidence=confidence)
    else:
        assert decide(policy, (attempt,), evidence=EVIDENCE).action != "ask_evidence"
    assert queried == list(EVIDENCE[: len(queried)])


def small(*found: Verdict, **kwargs: Any) -> Attempt:
    """A draft of the small tier, judged."""
    return Attempt(tier="small", outcome="rejected", verdicts=found, **kwargs)


def fail(validator: str = "mine", code: str = "odd", **kwargs: Any) -> Verdict:
    """An objection."""
    return Verdict(outcome="fail", validator=validator, code=code, **kwargs)


SPOKEN = Verdict(outcome="abstain", code="agreement", score=0.4, validator="cheap")
SILENT = Verdict(outcome="abstain", code="evidence_error", validator="cheap")
BROKEN = Verdict(outcome="abstain", code="validator_error", validator="mine")


@pytest.mark.parametrize(
    ("policy", "attempt", "action", "reason"),
    [
        (Policy(), small(), "accept", "accepted"),
        (Policy(), small(confidence=0.01), "accept", "accepted"),
        (Policy(), small(BROKEN), "escalate", "validator_error"),
        (Policy(on_broken="accept"), small(BROKEN), "accept", "accepted"),
        (Policy(), small(fail()), "escalate", "odd"),
        (Policy(), small(fail(code="")), "escalate", "mine"),
        (Policy(), small(fail("", "")), "escalate", "rejected"),
        (Policy(), small(fail("Grounding", score=0.1, escalates_as="ungrounded")), "escalate", "ungrounded"),
        (Policy(), small(fail("Grounding", score=0.1), fail("x", escalates_as="incomplete")), "escalate", "incomplete"),
        (Policy(threshold=0.5), small(confidence=0.5), "accept", "accepted"),
        (Policy(threshold=0.5), small(confidence=0.4), "escalate", "low_confidence"),
        (Policy(threshold=0.0), small(), "escalate", "low_confidence"),
        (Policy(), small(SPOKEN, confidence=0.5, gathered=("cheap",)), "escalate", "low_confidence"),
        (Policy(), small(SPOKEN, confidence=0.95, gathered=("cheap",)), "accept", "accepted"),
        (Policy(), small(SILENT, confidence=0.5, gathered=("cheap",)), "accept", "accepted"),
        (Policy(), Attempt(tier="small", outcome="pending"), "ask_small", "draft"),
        (
            Policy(),
            Attempt(tier="small", outcome="pending", verdicts=(fail("x", escalates_as="after_tool_error"),)),
            "escalate",
            "after_tool_error",
        ),
        (Policy(), Attempt(tier="small", outcome="error", error="E: x"), "escalate", "model_error"),
        (Policy(), Attempt(tier="small", outcome="timeout"), "escalate", "timeout"),
    ],
)
def test_what_is_decided_about_the_small_draft(policy, attempt, action, reason):
    """The table of the rule: hard, soft, broken, graded, pending, failed."""
    move = decide(policy, (attempt,))
    assert (move.action, move.reason) == (action, reason)


def test_what_is_decided_about_the_large_draft():
    """Large is accepted unless something rules it out; a broken validator and a low confidence do not."""
    first = small(fail(score=0.2))
    large = Attempt(tier="large", outcome="rejected", confidence=0.01, verdicts=(BROKEN,))
    assert decide(Policy(threshold=0.9), (first, large)).action == "accept"
    shipped = replace(large, verdicts=(fail(score=0.0, origin="shipped"),))
    assert decide(Policy(), (first, shipped)).action == "accept", "measured on small drafts alone"
    assert decide(Policy(), (first, replace(large, verdicts=(fail(score=0.0, origin="user"),)))).action == "exhausted"
    bad = replace(large, verdicts=(fail(path="/text"),))
    back = Policy(on_exhausted="return")
    assert decide(Policy(), (first, bad)).attempt == 1, "as large alone would have given it"
    assert decide(Policy(), (first, replace(bad, fault="unsafe_call"))).attempt is None
    move = decide(back, (first, bad))
    assert (move.action, move.reason, move.detail, move.attempt) == ("exhausted", "odd", "mine: odd at /text", 0)
    soft = replace(large, verdicts=(fail(score=0.1),))
    assert decide(back, (first, soft)).attempt == 1, "the stronger tier's draft is the better one"
    assert decide(back, (small(fail()), bad)).attempt is None
    assert decide(back, (small(fail()), Attempt(tier="large", outcome="error"))).attempt is None


def test_details_never_quote_an_error():
    """A decision holds the class of what was raised, not its text."""
    attempt = Attempt(tier="small", outcome="error", error="ValueError: secret")
    assert decide(Policy(), (attempt,)).detail == "ValueError"
    assert objection(Attempt(tier="small", outcome="cancelled")) == ("overtaken", "")
    assert objection(small()) is None
    assert best_draft(Policy(), ()) is None


# ---- settings -------------------------------------------------------------------------------------------------------
@given(policies)
def test_a_policy_goes_to_json_and_back(policy):
    """Through the text of a file; the version is a hash of the settings and stays the same."""
    twin = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert twin == policy
    assert twin.version == policy.version
    assert pickle.loads(pickle.dumps(policy)) == policy
    other = replace(policy, threshold=0.123456)
    assert (other.version == policy.version) == (other == policy)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("threshold", [1.1, float("nan"), "high", True, {"call": 2}], "expected None, a number in"),
        ("threshold", [{"cals": 0.5}], "threshold is {'cals': 0.5}; expected None, a number in .* by text, text.one_t"),
        ("evidence", [(0.9, 0.1), (0.1, 0.2, 0.3), None, (0, 2)], "expected two numbers 0 <= low <= high <= 1, or an"),
        ("on_exhausted", ["retry"], "on_exhausted is 'retry'; expected one of pass, return, raise, interrupt"),
        ("on_broken", ["ignore"], "expected one of escalate, accept"),
        ("handover", ["paste"], "expected one of fresh, feedback"),
        ("latency_budget", [0, float("inf")], "expected None or a positive number of seconds"),
        ("validator_timeout", [None, "5"], "expected a positive number of seconds"),
        ("scorer", ["rules"], "scorer is 'rules'; expected None or a Scorer"),
        ("hedge_after", [-1], "hedge_after is -1; expected None or a number of seconds >= 0"),
        ("value_of_time", [float("inf")], "expected None or a price per second >= 0"),
        ("max_cost", [-1, {"day": 1}, True, 10**400, {"run": 1, "strict": 1}], "expected None, a number >= 0"),
        ("stay_on_large", [True], "stay_on_large is True; expected one of step, turn"),
        ("skip_small", [None], "expected True or False"),
        ("provenance", ["abc"], "provenance is 'abc'; expected a mapping"),
        ("shadow_rate", [1.5], "shadow_rate is 1.5; expected a share"),
        ("side_effects", [["pay"], {"pay": "bad"}], "expected a mapping of tool names to read, write or irreversible"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(name, values, says):
    """At construction, naming the setting and what was expected; from a file as a `RecordError`."""
    for value in values:
        with pytest.raises(ConfigurationError, match=rf"Policy\.{name} is .*{says.removeprefix(name + ' is ')}"):
            Policy(**{name: value})
        with pytest.raises(RecordError, match="not a policy"):
            Policy.from_json({name: value})
    with pytest.raises(ConfigurationError, match="handover is 'feedback'; expected 'fresh' with hedge_after"):
        Policy(hedge_after=1, handover="feedback")


def test_policies_as_files():
    """A misspelled key is refused, a mapping is taken over a base, the scorer is part of file and version."""
    with pytest.raises(RecordError, match="treshold"):
        Policy.from_json({"treshold": 0.5})
    with pytest.raises(ConfigurationError, match="no setting 'treshold': did you mean 'threshold'"):
        Policy(treshold=0.5)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="no setting 'skipsmall': did you mean 'skip_small'"):
        Policy.of({"skipsmall": True})
    policy = Policy.of({"threshold": {"call": 0.9, "default": 0.5}, "evidence": [0.1, 0.2]})
    assert (policy.base_threshold, policy.thresholds, policy.evidence) == (0.5, {"call": 0.9}, (0.1, 0.2))
    assert Policy.of({"skip_small": False}, base=policy) == replace(policy, skip_small=False)
    assert Policy.of(policy) is policy
    assert (repr(Policy()), repr(Policy(threshold=0.5))) == ("Policy()", "Policy(threshold=0.5)")
    assert policy.with_threshold(0.7).threshold == {"call": 0.9, "default": 0.7}
    assert len(fields(Policy)) <= 16
    policy = Policy(scorer=shipped_scorer())
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy().version != policy.version
    assert Policy(max_cost=2).ceilings == {"run": 2}


@pytest.mark.parametrize(("effect", "best"), [(None, 0), ("read", 0), ("write", None), ("irreversible", None)])
def test_a_doubtful_draft_that_changes_the_world_is_never_returned(effect: Any, best: int | None) -> None:
    """With large down, a draft that failed soft checks is returned only if its calls change nothing that is declared."""
    soft = Verdict(outcome="fail", code="off_topic", score=0.0, origin="shipped")
    small = Attempt(tier="small", verdicts=(soft,), effect=effect)
    large = Attempt(tier="large", outcome="error", error="RateLimitError: 429")
    decision = decide(Policy(on_exhausted="return"), (small, large))
    assert (decision.action, decision.attempt) == ("exhausted", best)
    assert decide(Policy(), (small, large)).attempt is None


@pytest.mark.parametrize(
    ("confidence", "gathered", "evidence", "action"),
    [
        (0.1, (), (), "accept"),
        (0.1, (), EVIDENCE, "escalate"),
        (0.5, (), EVIDENCE, "ask_evidence"),
        (0.95, (), EVIDENCE, "accept"),
        (None, (), EVIDENCE, "ask_evidence"),
        (0.5, EVIDENCE, EVIDENCE, "escalate"),
        (0.79, EVIDENCE, EVIDENCE, "escalate"),
        (0.8, EVIDENCE, EVIDENCE, "accept"),
        (0.95, EVIDENCE, EVIDENCE, "accept"),
    ],
)
def test_without_threshold_evidence_decides(confidence, gathered, evidence, action):
    """Rules alone accept; where evidence can be asked, doubt below the band escalates unasked and above it accepts."""
    spoken = (Verdict(outcome="abstain", code="agreement", score=0.4, validator=name) for name in gathered)
    attempt = small(*spoken, confidence=confidence, gathered=gathered)
    assert decide(Policy(), (attempt,), evidence=evidence).action == action
