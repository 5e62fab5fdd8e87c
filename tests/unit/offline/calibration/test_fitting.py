"""Fitted scorers: the solver is right, few labels stay with the rules, and only codes and scores count."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import HARD_FAIL, Scorer
from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.calibration import Example, fit, isotonic
from cascade_agent.offline.calibration.fit import (
    ENOUGH_FOR_KNOTS,
    FEW_STRENGTH,
    MIN_SEEN,
    NEW_WEIGHT,
    STRENGTHS,
    _Model,
    pava,
    read_codes,
)
from cascade_agent.offline.evaluation.metrics import auroc
from cascade_agent.validators import shipped_scorer
from tests.journals import graded

FLAT = Scorer(weights={"a": 0.0, "b": 0.0}, bias=0.0)


def world(n, *, seed=0, weights=None, bias=2.0):
    """Drafts whose errors follow a logistic law in the scores of some codes; a code is silent half of the time."""
    weights = weights or {"a": 3.0, "b": 1.0}
    rng = random.Random(seed)
    out = []
    for i in range(n):
        scores = {c: rng.random() for c in weights if rng.random() < 0.5}
        logit = bias - sum(weights[c] * (1 - s) for c, s in scores.items())
        wrong = rng.random() > 1 / (1 + np.exp(-logit))
        verdicts = tuple(graded(c, s) for c, s in scores.items())
        out.append(Example(verdicts=verdicts, wrong=wrong, gain=wrong and rng.random() < 0.5, episode=str(i)))
    return out


@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_logistic_is_that_of_scikit_learn(strength):
    """Around a prior of zeros it is the L2 logistic regression of scikit-learn on scaled features."""
    examples = world(2000)
    rows = [read_codes(e.verdicts, Scorer(weights={"a": 1.0, "b": 1.0}, bias=0.0)) for e in examples]
    x = np.array([[1 - row.get(c, 1.0) for c in "ab"] for row in rows])
    spread = x.std(axis=0)
    y = [not e.wrong for e in examples]
    other = LogisticRegression(C=1 / strength, tol=1e-8).fit(x / spread, y)
    scorer = fit(examples, prior=FLAT, strength=strength).scorer
    assert [scorer.weights[c] for c in "ab"] == pytest.approx(-other.coef_[0] / spread, rel=0.01)
    assert scorer.bias == pytest.approx(other.intercept_[0], rel=0.01)


@given(st.integers(0, 200), st.sampled_from(STRENGTHS), st.booleans())
def test_bounded_optimum_is_that_of_scipy(seed, strength, backwards):
    """With bounds and the whole prior no descent from the solution is left: scipy finds nothing better."""
    weights = {"a": 2.0, "b": 0.5, "c": -1.5 if backwards else 1.0}
    examples = world(120, seed=seed, weights=weights)
    prior = Scorer(weights={"a": 1.0, "b": 2.0, "c": 0.5}, bias=1.0)
    model = _Model(examples, [not e.wrong for e in examples], prior)
    members, penalty = list(range(120)), model._penalty(strength)
    ours = model.solve(members, strength)
    found = minimize(
        lambda t: model._loss(members, list(t), penalty),
        ours,
        jac=lambda t: np.array(model._derivatives(members, list(t), penalty)[0]),
        bounds=[(None, None), (0, None), (0, None), (0, None)],
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-10},
    )
    value = model._loss(members, ours, penalty)
    assert value <= found.fun + 1e-6 * (1 + abs(found.fun))
    assert ours == pytest.approx(list(found.x), abs=2e-3)
    assert min(ours[1:]) >= 0.0


def test_prior_lets_all_weights_stretch_together():
    """One common factor on the rules costs far less than the same change of one weight alone."""
    model = _Model(world(300), [True] * 300, Scorer(weights={"a": 2.0, "b": 2.0}, bias=1.0))
    penalty = np.array(model._penalty(100.0))
    together, alone = np.array([0.0, 1.0, 1.0]), np.array([0.0, 2**0.5, 0.0])
    assert together @ penalty @ together < 0.1 * (alone @ penalty @ alone)
    assert (np.linalg.eigvalsh(penalty) > 0).all()


def test_silent_codes_are_stretched_with_the_others():
    """A code of the rules that never spoke gets the weight that the whole prior, fitted with it, would give it."""
    examples = world(400, weights={"a": 6.0, "b": 3.0})
    prior = Scorer(weights={"a": 2.0, "b": 1.0, "silent": 4.0}, bias=2.0)
    model = _Model(examples, [not e.wrong for e in examples], prior)
    fitted = model.scorer(model.solve(range(400), 30.0), 30.0)
    assert 4.0 < fitted.weights["silent"] < 16.0
    once = [*examples, Example(verdicts=(graded("silent", 1.0),), wrong=False, weight=1e-9)]  # spoke, and said nothing
    other = _Model(once, [not e.wrong for e in once], prior)
    whole = other.scorer(other.solve(range(401), 30.0), 30.0)
    assert fitted.weights == pytest.approx(whole.weights, rel=0.02)


def test_one_sort_of_labels_has_a_finite_fit():
    """When every draft was right the prior keeps the numbers finite and the confidence below 1; JSON keeps them."""
    scorer = fit([replace(e, wrong=False) for e in world(200)]).scorer
    assert 0.9 < scorer.confidence([graded("argument_grounded", 1.0)]) < 1.0
    assert Scorer.from_json(scorer.to_json()) == scorer


def test_few_labels_stay_with_the_rules():
    """With ten labels that say nothing the fit is near the rules, and even ten against them do not turn their order."""
    rules = shipped_scorer()
    bad, good = [graded("argument_grounded", 0.0)], [graded("argument_grounded", 1.0)]
    examples = [Example(verdicts=tuple(good if i % 2 else bad), wrong=bool(i % 2), episode=str(i)) for i in range(10)]
    against = fit(examples).scorer
    assert against.confidence(bad) < against.confidence(good)
    found = fit([replace(e, wrong=i % 4 > 1) for i, e in enumerate(examples)])
    assert found.strength == FEW_STRENGTH
    assert found.scorer.confidence(bad) < found.scorer.confidence(good)
    assert found.scorer.weights["argument_grounded"] > 0.5 * rules.weights["argument_grounded"]


def test_many_labels_outvote_the_rules():
    """A code that means nothing here loses its weight, one that means much gains it; new drafts are ordered better."""
    truth = {"argument_grounded": 0.0, "tool_match": 5.0, "request_covered": 3.0}
    scorer = fit(world(900, weights=truth)).scorer
    assert scorer.weights["argument_grounded"] < 0.5
    assert scorer.weights["tool_match"] > 3.5
    fresh = [e for e in world(2000, seed=9, weights=truth) if e.verdicts]
    right = [not e.wrong for e in fresh]
    fitted, rules = (auroc([s.confidence(e.verdicts) or 0.0 for e in fresh], right) for s in (scorer, shipped_scorer()))
    assert fitted > rules + 0.01


def test_confidence_is_calibrated_and_labels_without_meaning_teach_nothing():
    """The fitted confidence is what it says, out of sample; with shuffled labels its order is that of chance."""
    examples = world(800, bias=0.5)
    found = fit(examples)
    assert found.error < 0.05
    assert found.auroc > 0.6
    wrong = [e.wrong for e in examples]
    random.Random(1).shuffle(wrong)
    found = fit([replace(e, wrong=w) for e, w in zip(examples, wrong, strict=True)])
    assert abs(found.auroc - 0.5) < 0.08


def test_own_codes_are_weighed_once_seen_often():
    """A code of the user's validator gets a weight after MIN_SEEN labelled drafts; before that it stays at its word."""
    few, many = world(MIN_SEEN - 1, weights={"mine": 2.0}), world(400, weights={"mine": 2.0})
    assert "mine" not in fit(few).scorer.weights
    assert fit(many).scorer.weights["mine"] == pytest.approx(NEW_WEIGHT, abs=0.8)


def test_silence_of_an_own_code_says_nothing():
    """The meaning of an own code's silence is learned: here 1, as the drafts on which it was silent were right."""
    scorer = fit(world(1000, weights={"mine": 4.0}, bias=1.0), strength=1.0).scorer
    silent = scorer.confidence([graded("argument_grounded", 1.0)])
    assert silent == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.05)
    assert scorer.means["mine"] > 0.85
    assert scorer.confidence([graded("mine", 0.0)]) == pytest.approx(1 / (1 + np.exp(3.0)), abs=0.05)


@given(st.integers(0, 100), st.sampled_from(STRENGTHS))
def test_what_is_fitted_is_always_a_scorer(seed, strength):
    """Whatever own, evidence and shipped codes say, weights stay >= 0 and means in [0, 1], and the model is the scorer."""
    rng = random.Random(seed)
    examples = []
    for i in range(60):
        spoke = [c for c in ("agreement", "mine", "argument_grounded") if rng.random() < 0.7]
        verdicts = tuple(graded(c, rng.random() ** rng.choice([0.2, 1, 5])) for c in spoke)
        examples.append(Example(verdicts=verdicts, wrong=rng.random() < rng.random(), episode=str(i)))
    model = _Model(examples, [not e.wrong for e in examples], shipped_scorer())
    theta = model.solve(range(60), strength)
    scorer = model.scorer(theta, strength)
    for i, example in enumerate(examples):
        if example.verdicts:
            assert scorer.confidence(example.verdicts) == pytest.approx(model.predict(i, theta), abs=1e-9)


verdicts_of_any_kind = st.lists(
    st.builds(
        Verdict,
        outcome=st.sampled_from(["pass", "fail", "abstain"]),
        code=st.sampled_from(["", "a", "b", "argument_grounded", "unknown_tool", HARD_FAIL]),
        score=st.none() | st.sampled_from([0.0, 0.3, 1.0]),
        origin=st.sampled_from(["shipped", "user"]),
    ),
    max_size=6,
)


@given(verdicts_of_any_kind, st.sampled_from([{"a"}, {"a", HARD_FAIL}, {"a", "b", "argument_grounded", HARD_FAIL}]))
def test_features_are_what_the_scorer_reads(verdicts, codes):
    """A fit sees exactly the scores that the scorer will read at run time."""
    reader = Scorer(weights=dict.fromkeys(codes, 1.0), bias=0.0)
    found = read_codes(verdicts, reader)
    assert found.keys() <= set(codes)
    if found and HARD_FAIL not in reader.read(verdicts).keys() - set(codes):  # else refused without being weighed
        user = [v for v in verdicts if v.code not in codes and v.origin == "user" and v.outcome != "abstain"]
        logit = sum(score - 1.0 for score in found.values())
        told = [v.score if v.score is not None else float(v.outcome == "pass") for v in user]
        assert reader.confidence(verdicts) == pytest.approx(min([1.0 / (1.0 + math.exp(-logit)), *told]))


def test_fit_is_repeatable_and_reads_nothing_else():
    """The same labels give the same numbers, and reasons, paths and names of episodes change none of them."""
    examples = world(300)
    first = fit(examples, strength=10.0).scorer
    assert fit(examples, strength=10.0).scorer.to_json() == first.to_json()
    disguised = []
    for e in examples:
        verdicts = tuple(replace(v, reason="secret", path="/tool_calls/0") for v in e.verdicts)
        disguised.append(replace(e, episode=f"someone {e.episode}", verdicts=verdicts))
    assert fit(disguised, strength=10.0).scorer.to_json() == first.to_json()


def test_gain_is_fitted_on_gain():
    """Where half of the errors are large's too, P(escalating gains nothing) is above P(right); unknown, it is one."""
    examples = world(900)
    error, gain = (fit(examples, target=t).scorer.confidence([graded("a", 0.2)]) for t in ("error", "gain"))
    assert gain > error + 0.05
    unknown = [replace(e, gain=None) for e in examples[:200]]
    assert fit(unknown, target="gain").scorer == fit(unknown, target="error").scorer


def test_weights_stand_for_copies():
    """Doubling a weight moves the fit towards that draft; equal weights of any size change nothing."""
    examples = world(300)
    same = fit([replace(e, weight=7.0) for e in examples], strength=10.0).scorer
    assert same.weights == pytest.approx(fit(examples, strength=10.0).scorer.weights)
    heavy = fit([replace(e, weight=5.0 if e.wrong else 1.0) for e in examples], strength=10.0).scorer
    assert heavy.confidence([graded("a", 0.5)]) < same.confidence([graded("a", 0.5)]) - 0.1


def test_impossible_settings_are_refused():
    """A target or strength that cannot be, or no example at all, is refused."""
    for settings in ({"target": "loss"}, {"strength": 0.0}, {"strength": math.nan}):
        with pytest.raises(ConfigurationError, match="target="):
            fit(world(30), **settings)
    with pytest.raises(ConfigurationError, match="label some steps"):
        fit([])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5)), min_size=1, max_size=40))
def test_pava_is_that_of_scikit_learn(rows):
    """Pooling adjacent violators gives the isotonic regression of scikit-learn."""
    values, weights = [r[0] for r in rows], [r[1] for r in rows]
    other = IsotonicRegression().fit_transform(np.arange(len(rows)), values, sample_weight=weights)
    assert pava(values, weights) == pytest.approx(list(other), abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1), st.booleans()), max_size=60))
def test_isotonic_table_is_one_that_a_scorer_takes(rows):
    """The knots are accepted by a scorer, rise, and leave 0 and 1 in place."""
    knots = isotonic([r[0] for r in rows], [r[1] for r in rows])
    Scorer(weights={}, bias=0.0, knots=knots)
    assert (knots[0], knots[-1]) == ((0.0, 0.0), (1.0, 1.0))


def test_isotonic_only_with_enough_labels():
    """The table comes with ENOUGH_FOR_KNOTS labels, mends a curve that no line fits, and keeps the order of drafts."""
    rng = random.Random(0)
    scores = [rng.random() for _ in range(ENOUGH_FOR_KNOTS + 500)]
    examples = [
        Example(verdicts=(graded("a", score),), wrong=rng.random() > (0.95 if score > 0.5 else 0.4), episode=str(i))
        for i, score in enumerate(scores)
    ]
    few, many = fit(examples[: ENOUGH_FOR_KNOTS - 1], prior=FLAT), fit(examples, prior=FLAT)
    assert not few.scorer.knots
    assert many.scorer.knots
    assert many.error < few.error
    line = [many.scorer.confidence([graded("a", i / 100)]) for i in range(101)]
    assert line == sorted(line)
    assert len(set(line)) == 101
