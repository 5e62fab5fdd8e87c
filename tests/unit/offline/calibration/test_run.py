"""From journal to policy: the whole way keeps its guarantee, says what is missing, and loses nothing."""

import datetime as dt
import json
import math
import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Label, Verdict
from cascade_agent.core.scoring import Scorer
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.models.pricing import Price
from cascade_agent.offline.calibration import Certificate, Claim, NoThreshold, calibrate, load_policy, write_policy
from cascade_agent.offline.calibration.calibrate import draw, replayed_confidence, to_units
from cascade_agent.offline.evaluation import Dataset
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.validators import shipped_scorer
from tests.builders import trials, written
from tests.journals import called, graded, labelled

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
TRUTH = {"argument_grounded": 4.0, "tool_match": 1.0}


def sigmoid(x):
    """P of a logit."""
    return 1 / (1 + math.exp(-x))


def drafts(n):
    """(verdicts, wrong, harm) of drafts that follow a logistic law in two codes."""
    rng = random.Random(0)
    for _ in range(n):
        scores = {code: rng.random() for code in TRUTH}
        p = sigmoid(4.0 - sum(w * (1 - scores[c]) for c, w in TRUTH.items()))
        wrong = rng.random() > p
        yield [graded(c, s) for c, s in scores.items()], wrong, wrong and rng.random() < 0.6


def escalate_all(journal, n, *, per_thread=1, **kwargs):
    """A journal of a time when every step was also asked of the large model."""
    for i, (verdicts, _, harm) in enumerate(drafts(n)):
        thread = f"t{i // per_thread}" if per_thread > 1 else None
        journal.append(called(f"{i}", verdicts, large=2 if harm else 1, thread_id=thread, **kwargs))


def test_from_journal_to_policy(journal, tmp_path):
    """Escalated steps alone suffice where small answered nothing; the policy carries all that its threshold rests on."""
    escalate_all(journal, 1200)
    prices = {"s": Price(1, 2, source="contract", date="2026-01-01")}
    found = calibrate(journal.path, max_loss=0.02, now=NOW, policy=Policy(on_exhausted="raise"), prices=prices)
    assert isinstance(found.certificate, Certificate)
    policy = found.policy
    assert policy.on_exhausted == "raise", "what is no threshold, scorer or provenance stays"
    assert policy.threshold == found.certificate.threshold
    assert found.sample.basis == "all_escalated"
    told = policy.provenance
    assert told["date"] == "2026-01-02T00:00:00+00:00"
    assert (told["steps"], told["labels"], told["models"]) == (1200, {"escalation": 1200}, ["l", "s"])
    assert told["prices"] == {"s": {"source": "contract", "date": "2026-01-01", "currency": "USD"}}
    assert told["certificate"]["n"] == found.certificate.n
    assert told["validators"] == {"Grounding": ["argument_grounded", "tool_match"]}
    assert len(told["data"]) == 64
    path = tmp_path / "policy.json"
    write_policy(policy, path)
    assert load_policy(path) == policy
    json.dumps(found.to_json(), allow_nan=False)


def test_calibration_is_repeatable_and_the_policy_does_what_was_certified(journal):
    """The same journal and seed give the same policy, which escalates what it says; another seed draws other steps."""
    escalate_all(journal, 900)
    one, two = (calibrate(journal.path, max_loss=0.05, now=NOW) for _ in range(2))
    assert one.policy.to_json() == two.policy.to_json()
    escalated = [replay(t, one.policy).escalated for t in journal]
    assert np.mean(escalated) == pytest.approx(one.certificate.escalated, abs=0.05)
    other = calibrate(journal.path, max_loss=0.05, now=NOW, seed=1)
    assert other.certificate != one.certificate
    assert other.data == one.data


def test_what_was_fitted_on_is_not_certified_on(journal):
    """The certificate's episodes are not among those of the fit, no thread is on both sides; few labels are not split."""
    escalate_all(journal, 1200, per_thread=3)
    found = calibrate(journal.path, max_loss=0.05)
    assert found.fits["error"].n + 3 * found.certificate.n == 1200
    assert 282 < found.certificate.n < 350
    few = written(journal.path.with_name("few.jsonl"), islice(journal, 300), ())
    found = calibrate(few, max_loss=0.05)
    assert (found.fits, found.chosen, found.certificate.n) == ({}, "rules", 100)


def test_the_scorer_can_be_named(journal):
    """A named scorer is the one in the policy; where nobody names one, all are measured."""
    escalate_all(journal, 500)
    for choice in ("rules", "error", "gain"):
        found = calibrate(journal.path, max_loss=0.05, scorer=choice)
        assert (found.chosen, set(found.quality)) == (choice, {"rules", choice})
        assert (found.policy.scorer.weights == shipped_scorer().weights) is (choice == "rules")
    assert set(calibrate(journal.path, max_loss=0.05).quality) == {"rules", "error", "gain"}


def test_a_fit_is_chosen_where_the_rules_are_wrong(journal):
    """On steps whose errors the rules rank badly, what was learned is taken, and it is better on the kept episodes."""
    rng = random.Random(3)
    for i in range(1500):
        name, other = rng.random(), rng.random()
        harm = rng.random() > sigmoid(3.0 - 6.0 * (1 - name))
        journal.append(called(f"{i}", [graded("no_call", name), graded("part_open", other)], large=2 if harm else 1))
    found = calibrate(journal.path, max_loss=0.05)
    assert found.chosen != "rules"
    assert found.quality[found.chosen].auroc > found.quality["rules"].auroc + 0.05
    assert found.quality[found.chosen].calibration_error < found.quality["rules"].calibration_error
    low, high = found.quality["rules"].auroc_interval
    assert low < found.quality["rules"].auroc < high
    assert set(found.quality["rules"].by_kind) == {"call"}


def test_too_few_labels_say_how_many_are_missing(journal):
    """Without a threshold there is no policy, and the numbers of missing labels are exact."""
    escalate_all(journal, 100)
    found = calibrate(journal.path, max_loss=0.02)
    assert (found.policy, found.to_json()["threshold"]) == (None, None)
    assert isinstance(found.certificate, NoThreshold)
    assert (found.certificate.missing, found.certificate.missing_for_power) == (14, 608)


def test_escalated_steps_say_nothing_about_accepted_ones(journal):
    """Where small answered steps that nobody labelled, no number of escalated ones certifies anything."""
    escalate_all(journal, 500)
    journal.append(called("kept", [graded("tool_match", 0.9)]))
    found = calibrate(journal.path, max_loss=0.05)
    assert (found.policy, found.sample.basis) == (None, "none")
    assert "shadow_rate" in found.certificate.reason


def test_no_label_is_a_complaint(journal):
    """A journal without any label is refused with the ways to get some."""
    journal.append(called("1", [graded("tool_match", 0.9)]))
    journal.label("of another journal", source="person", right=True)
    with pytest.raises(RecordError, match=r"1 steps and no label\. 1 labels belong to steps of other journals.*label"):
        calibrate([journal.path], max_loss=0.05)


@pytest.mark.parametrize("kwargs", [{"max_loss": 2.0}, {"scorer": "best"}, {"risk": "x"}, {"by_kind": True}])
def test_impossible_settings_are_refused(journal, kwargs):
    """Settings that cannot work are refused before the journal is read."""
    with pytest.raises(ConfigurationError):
        calibrate(journal.path.with_name("none.jsonl"), **{"max_loss": 0.1, **kwargs})


def test_contradictions_are_in_the_report(journal):
    """Every contradicted step is listed with all of its labels and the one that counted."""
    escalate_all(journal, 20)
    journal.label("7", source="person", right=False, harm=True)
    journal.label("7", source="evaluator", right=True)
    (shown,) = calibrate(journal.path, max_loss=0.05).to_json()["labels"]["conflicts"]
    assert (shown["step_id"], shown["counted"]) == ("7", "person")
    assert [label["source"] for label in shown["labels"]] == ["person", "evaluator", "escalation"]


# ---- which steps may speak for all ----------------------------------------------------------------------------------

SCORER = Scorer(weights={"argument_grounded": 6.0}, bias=3.0)
POLICY = Policy(scorer=SCORER)


def logged(rng, n, *, shadow=None, looked_at=None, old=0.6, tool_errors=0.0):
    """A journal of a cascade that accepted scores >= `old`: harm is .5 (1 - score) everywhere."""
    cases, answered = [], 0
    for i in range(n):
        score, labels = rng.random(), []
        harm = rng.random() < 0.5 * (1 - score)
        accepted, means = score >= old, {"right": not harm, "harm": harm}
        answered += accepted
        if not accepted:
            labels.append(Label(step_id=str(i), source="escalation", **means))
        elif harm and rng.random() < tool_errors:
            labels.append(Label(step_id=str(i), source="tool_error", right=False))
        if accepted and shadow is not None and rng.random() < shadow:
            labels.append(Label(step_id=str(i), source="shadow", propensity=shadow, **means))
        if accepted and looked_at is not None and rng.random() < looked_at:
            labels.append(Label(step_id=str(i), source="person", **means))
        if labels:
            found = [graded("argument_grounded", score)]
            means["propensity"] = max((x.propensity for x in labels if x.propensity), default=None)
            case = labelled(str(i), found, answered=accepted, labels=labels, source=labels[-1].source, **means)
            cases.append(case)
    return Dataset(steps=cases, total=n, answered=answered)


@pytest.mark.parametrize(
    ("labels", "basis", "rate"),
    [
        ({"shadow": 0.3}, "propensity", 0.3),
        ({"shadow": 0.3, "tool_errors": 0.5}, "propensity", 0.3),
        ({"looked_at": 0.5}, "share", 0.5),
    ],
)
def test_the_sample_is_like_the_whole(labels, basis, rate):
    """However unevenly labels come, the sample has the journal's shares of accepted steps and of harm among them."""
    found = draw(logged(random.Random(0), 12_000, **labels), POLICY)
    assert (found.basis, found.rate) == (basis, pytest.approx(rate, abs=0.02))
    n = len(found.steps)
    assert n == pytest.approx(12_000 * rate, rel=0.05)
    accepted = [c for c in found.steps if c.answered]
    assert len(accepted) / n == pytest.approx(0.4, abs=0.02)
    assert sum(c.loss for c in accepted) / len(accepted) == pytest.approx(0.1, abs=0.02)
    assert sum(c.loss for c in found.steps) / n == pytest.approx(0.25, abs=0.02)


@trials(30, 200)
def test_the_guarantee_holds_from_a_running_cascade(trials):
    """From unevenly labelled logs, shadowed and with tool errors, the risk exceeds its target in at most delta + noise."""
    rng, violations, found_any = random.Random(2), 0, 0
    for _ in range(trials):
        sample = draw(logged(rng, 1500, shadow=0.3, tool_errors=0.3), POLICY)
        found = Claim(max_loss=0.05).test(to_units(sample.steps, POLICY))
        if found:
            found_any += 1
            score = 1 - (3.0 - math.log(found.threshold / (1 - found.threshold))) / 6.0
            violations += 0.25 * (1 - score) ** 2 > 0.05
    assert found_any > 0.9 * trials
    assert violations / trials <= 0.1 + 3 * math.sqrt(0.09 / trials)


def test_unclear_steps_are_counted():
    """A drawn step that a threshold might accept and whose label nobody knows is left out and counted."""
    open_case = labelled("a", [graded("argument_grounded", 1.0)], kind="text", answered=False)
    hard = Verdict(outcome="fail", code="unknown_tool", validator="ToolCallSchema")
    broken = labelled("b", [hard], answered=False)
    joined = Dataset(steps=[open_case, broken], total=2, answered=0)
    found = draw(joined, POLICY)
    assert (found.steps, found.unclear) == ((broken,), 1)
    assert not broken.loss


def test_judge_is_decide():
    """A step that decide() escalates whatever the threshold has no confidence; the others have the scorer's."""

    def confidence(*verdicts, **kwargs):
        return replayed_confidence(labelled("1", verdicts, **kwargs), POLICY)

    good = graded("argument_grounded", 0.7)
    assert confidence(good) == pytest.approx(sigmoid(3.0 - 6.0 * 0.3))
    assert confidence(good, Verdict(outcome="fail", code="c", score=0.1, validator="NoRepeat")) is None
    assert confidence(good, Verdict(outcome="abstain", code="validator_error", validator="Mine")) is None
    assert confidence() is None
    assert confidence(good, drafted=False) is None


def test_evidence_counts_only_inside_of_the_band():
    """Evidence that the policy would not have asked for does not move the confidence."""
    told = Verdict(outcome="abstain", code="agreement", score=0.0, validator="CrossCheck")
    case = labelled("1", [graded("argument_grounded", 1.0), told], gathered=("CrossCheck",))
    scorer = Scorer(weights={"argument_grounded": 6.0, "agreement": 3.0}, bias=3.0)
    asked = replayed_confidence(case, Policy(scorer=scorer, evidence=(0.0, 1.0)))
    silent = replayed_confidence(case, Policy(scorer=scorer, evidence=(0.0, 0.9)))
    assert asked == pytest.approx(0.5)
    assert silent == pytest.approx(sigmoid(3.0))


def test_labels_of_every_source_reach_the_report(journal):
    """Escalation, shadow, person, tool error and evaluator are counted by who decided each step."""
    for i, source in enumerate(("shadow", "person", "tool_error")):
        journal.append(called(f"{source}", [graded("tool_match", 0.9)]))
        journal.label(source, source=source, right=bool(i % 2), propensity=0.5 if source == "shadow" else None)
    journal.append(called("up", [graded("tool_match", 0.9)], large=1))
    journal.append(called("told", [graded("tool_match", 0.9)]))
    found = calibrate(journal.path, max_loss=0.05, evaluator=lambda t: True if t.id == "told" else None)
    assert found.to_json()["labels"]["by_source"] == dict(
        Counter(["escalation", "shadow", "person", "tool_error", "evaluator"])
    )
