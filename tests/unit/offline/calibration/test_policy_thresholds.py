"""The thresholds that calibration writes into a policy: what each rests on, and that they do what was certified."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from cascade_agent.core.decide import decide
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import DecisionInputs
from cascade_agent.core.scoring import Scorer
from cascade_agent.offline.calibration import Certificate, Claim, Fit, NoThreshold, calibrate, to_look_at
from cascade_agent.offline.calibration.calibrate import _choose, draw, replayed_confidence
from cascade_agent.offline.calibration.labelling import labels_of
from cascade_agent.offline.evaluation import load_dataset
from cascade_agent.offline.evaluation.dataset import label_step
from cascade_agent.validators import shipped_scorer
from tests.journals import called, graded

HARM = {"call": 0.2, "text": 0.5, "structured": 0.2}
"""Share of harm among the drafts of each kind with the lowest score; it falls to 0 with the square of the score."""


def step(number, score, *, harm, validator="Grounding", code="argument_grounded", **fields):
    """An escalated step whose two answers differ where small did harm."""
    return called(f"{number:05d}", [graded(code, score, validator)], large=2 if harm else 1, **fields)


def fill(journal, n, *, kinds=("call",), harm=None, seed=0, **kwargs):
    """Write n steps, of each kind in turn."""
    rng = random.Random(seed)
    for i in range(n):
        kind, score = kinds[i % len(kinds)], rng.random()
        p = (harm or HARM)[kind]
        journal.append(step(i, score, harm=rng.random() < p * (1 - score) ** 2, kind=kind, **kwargs))


def accepts(policy, trace, *, effect=None):
    """Return whether the policy would take the small draft of a recorded step."""
    small = trace.attempts[0]
    attempt = replace(small, confidence=policy.scorer.confidence(small.verdicts), effect=effect)
    return decide(policy, (attempt,), inputs=DecisionInputs(kind=trace.kind)).action == "accept"


def test_each_kind_gets_its_own_number(journal):
    """The policy has one threshold per kind with its certificate in the provenance, and escalates what that says."""
    fill(journal, 2000, kinds=("call", "text"))
    one = calibrate(journal.path, max_loss=0.05, scorer="rules")
    assert (one.policy.thresholds, one.policy.provenance["thresholds"][""]["claim"]) == ({}, "all")
    found = calibrate(journal.path, max_loss=0.05, scorer="rules", by_kind="each")
    assert found.by_kind == one.by_kind
    policy, entries = found.policy, found.policy.provenance["thresholds"]
    assert {key for key, value in policy.thresholds.items() if value < 1.0} == {"call", "text"}
    assert policy.thresholds["call"] < policy.thresholds["text"]
    assert policy.provenance["scope"] == "each kind of step, all at once"
    for kind in ("call", "text"):
        assert entries[kind]["claim"] == "kind"
        assert entries[kind]["certificate"]["confidence"] == pytest.approx(0.95)
        steps = [trace for trace in journal if trace.kind == kind]
        share = sum(not accepts(policy, trace) for trace in steps) / len(steps)
        assert share == pytest.approx(entries[kind]["certificate"]["escalated"], abs=1e-9)
    assert (entries["structured"]["claim"], policy.thresholds["structured"]) == ("unseen", 1.0)
    assert policy.base_threshold == policy.thresholds["loop.text"] == 1.0
    assert "one_call" not in policy.thresholds


def test_kinds_with_few_labels_share_one_number(journal):
    """Kinds too rare for a test of their own have the certificate of all such kinds together."""
    fill(journal, 1000, kinds=("call",) * 8 + ("text", "structured"))
    found = calibrate(journal.path, max_loss=0.02, scorer="rules", by_kind="each", confidence=0.8)
    entries = found.policy.provenance["thresholds"]
    assert set(found.by_kind) == {"call", ""}
    assert [entries[kind]["claim"] for kind in ("call", "text", "structured")] == ["kind", "rest", "rest"]
    assert found.policy.thresholds["text"] == found.policy.thresholds["structured"] == found.by_kind[""].threshold


def test_a_kind_for_which_nothing_holds_goes_to_large(journal):
    """Its threshold is 1, so none of its drafts is accepted, while the other kind has a number that holds."""
    fill(journal, 1000, kinds=("call",) * 24 + ("text",))
    found = calibrate(journal.path, max_loss=0.05, scorer="rules", by_kind="each")
    assert isinstance(found.by_kind[""], NoThreshold)
    assert found.by_kind[""].missing == 59 - 40  # at the level that two groups share
    assert found.policy.thresholds["text"] == 1.0
    assert not any(accepts(found.policy, trace) for trace in journal if trace.kind == "text")
    assert any(accepts(found.policy, trace) for trace in journal if trace.kind == "call")


def test_a_kind_that_no_threshold_stops_has_no_policy(journal):
    """Where a validator of the user's gives confidence 1 to drafts of a kind that does not hold, nothing is promised."""
    rng = random.Random(0)
    for i in range(600):
        journal.append(step(2 * i, rng.random(), harm=False, kind="call"))
        journal.append(step(2 * i + 1, 1.0, harm=rng.random() < 0.5, kind="text", validator="Mine", code="tone"))
    found = calibrate(journal.path, max_loss=0.05, scorer="rules", by_kind="each")
    assert isinstance(found.by_kind["call"], Certificate)
    assert found.policy is None


PAY = Policy(side_effects={"pay": "irreversible"})


def test_irreversible_drafts_have_a_number_that_is_never_the_laxer_one(journal):
    """P(wrong | accepted) has its entry; a draft that calls such a tool must reach it and the threshold of all."""
    fill(journal, 1500, tool="pay", harm={"call": 0.1})
    found = calibrate(journal.path, max_loss=0.08, scorer="rules", policy=PAY)
    entry = found.policy.provenance["thresholds"]["irreversible"]
    assert entry["certificate"]["risk"] == "selective_error"
    assert found.irreversible.n <= found.certificate.n
    assert calibrate(journal.path, max_loss=0.08, scorer="rules").irreversible is None
    assert found.policy.thresholds["irreversible"] == max(found.irreversible.threshold, found.policy.base_threshold)


def test_irreversible_drafts_of_which_nothing_is_known_go_to_large(journal):
    """A declared tool that the journal never saw called has the number that accepts nothing."""
    fill(journal, 600)
    found = calibrate(journal.path, max_loss=0.05, scorer="rules", policy=PAY)
    assert isinstance(found.irreversible, NoThreshold)
    assert found.policy.thresholds == {"irreversible": 1.0}
    taken = [{accepts(found.policy, trace, effect=effect) for trace in journal} for effect in ("irreversible", None)]
    assert taken == [{False}, {False, True}]


def test_numbers_set_by_hand_stay_where_they_are_stricter(journal):
    """Caution of the user's is kept, laxness is not, and numbers that calibration wrote earlier are replaced."""
    fill(journal, 1500)
    base = Policy(threshold={"write": 0.99, "read": 0.1})
    first = calibrate(journal.path, max_loss=0.05, scorer="rules", policy=base).policy
    assert first.thresholds == {"write": 0.99, "read": first.base_threshold}
    kinds = calibrate(journal.path, max_loss=0.05, scorer="rules", by_kind="each").policy
    again = calibrate(journal.path, max_loss=0.2, scorer="rules", by_kind="each", policy=kinds)
    assert again.policy.thresholds["call"] < kinds.thresholds["call"]


def test_a_fitted_scorer_is_not_certified_on_what_it_learned(journal):
    """It is not the prior of the next fit, and keeping it certifies it on the other episodes alone, whatever the seed."""
    fill(journal, 1200)
    first = calibrate(journal.path, max_loss=0.05, scorer="error")
    again = calibrate(journal.path, max_loss=0.05, scorer="error", policy=first.policy).policy
    assert (again.scorer, again.threshold) == (first.policy.scorer, first.policy.threshold)
    ((_, share),) = first.policy.scorer.provenance["learned"]
    assert 0.0 < share <= 0.5
    kept = calibrate(journal.path, max_loss=0.05, scorer="rules", policy=first.policy, seed=9)
    assert kept.policy.scorer.weights == first.policy.scorer.weights
    assert kept.certificate.n == first.certificate.n < 1200
    assert calibrate(journal.path, max_loss=0.05, scorer="rules").certificate.n == 1200


def answered(number, score):
    """A step that small answered."""
    trace = called(f"{number:05d}", [graded("argument_grounded", score)])
    small = trace.attempts[0]
    return replace(trace, attempts=(replace(small, confidence=shipped_scorer().confidence(small.verdicts)),))


def test_doubtful_steps_do_not_stand_for_the_others(journal):
    """Labels of a session on doubtful steps certify nothing alone, and leave a random sample as it was."""
    rng = random.Random(0)
    for i in range(400):
        journal.append(answered(i, rng.random()))
    for trace in to_look_at(journal.path, labels={}, limit=50):
        journal.label(trace.id, source="review", right=True)
    joined = load_dataset(journal.path)
    assert joined.by_source == {"review": 50}
    assert draw(joined, Policy()).basis == "none"
    found = calibrate(journal.path, max_loss=0.05)
    assert found.policy is None
    assert "--order random" in found.certificate.reason
    sample = to_look_at(journal.path, labels=labels_of(journal.path), order="random", limit=100)
    for trace in sample:
        journal.label(trace.id, source="person", right=True)
    drawn = draw(load_dataset(journal.path), Policy())
    assert drawn.basis == "share"
    assert {case.id for case in drawn.steps} == {trace.id for trace in sample}


def test_doubtful_comes_before_sure_and_random_knows_no_confidence(journal):
    """The doubtful are those nearest to one half; at random each may be first, and a later session goes on in the order."""
    rng = random.Random(1)
    for i in range(60):
        journal.append(answered(i, rng.random()))

    def look(labels=None, **how):
        return to_look_at(journal.path, labels=labels or {}, **how)

    doubts = [abs(trace.attempts[0].confidence - 0.5) for trace in look(limit=60)]
    assert doubts == sorted(doubts)
    first = Counter(t.id for seed in range(300) for t in look(order="random", limit=6, seed=seed))
    assert len(first) == 60
    assert max(first.values()) < 60  # 30 expected, 5.2 standard deviation
    whole = [trace.id for trace in look(order="random")]
    for trace_id in whole[:20]:
        journal.label(trace_id, source="person", right=True)
    rest = [trace.id for trace in look(labels_of(journal.path), order="random", limit=30)]
    assert rest == whole[20:]


def test_judge_ignores_the_thresholds_of_the_policy(journal):
    """The confidence of a unit does not depend on numbers that the policy brings, of any kind."""
    fill(journal, 20)
    cases = load_dataset(journal.path).steps
    strict = Policy(threshold={"default": 0.99, "call": 1.0})
    found = [replayed_confidence(case, strict) for case in cases]
    assert found == [replayed_confidence(case, Policy()) for case in cases]
    assert None not in found


@pytest.mark.parametrize(("max_loss", "expected"), [(0.1, "rules"), (0.4, "error")])
def test_a_fit_that_would_hold_no_threshold_is_not_chosen(max_loss, expected):
    """It ranks best on held-out episodes, but is as sure of harmful drafts as of others: the rules are certified."""
    harms = [i >= 120 or i % 20 == 0 for i in range(160)]
    learn = [label_step(step(i, 1 - i / 160, harm=harm)) for i, harm in enumerate(harms)]
    flat = Scorer(weights={"argument_grounded": 0.0}, bias=1.0)
    held = {"held_out": tuple(0.1 if harm else 0.9 for harm in harms), "folds": (0,) * 160}
    fitted = Fit(scorer=flat, target="error", strength=1.0, n=160, auroc=1.0, error=None, **held)
    base = Policy(scorer=Scorer(weights={"argument_grounded": 4.0}, bias=2.0))
    judged = {"rules": base, "error": replace(base, scorer=flat)}
    assert _choose({"error": fitted}, judged, learn, Claim(max_loss=max_loss)) == expected
