"""Tests of the scorer: the shipped rules, the fitted form as the same value, and monotony."""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_agent import validators
from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import HARD_FAIL, Contribution, Scorer, Weight
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.validators import shipped_scorer

CODES = sorted(shipped_scorer().weights)
SHIPPED = [cls for name in validators.__all__ if hasattr(cls := getattr(validators, name), "weights")]


def entry(code: str, score: float | None = None, outcome: Any = "pass", origin: Any = "user") -> Verdict:
    """A verdict."""
    return Verdict(outcome=outcome, code=code, score=score, origin=origin)


def confidence(*verdicts: Verdict, scorer: Scorer | None = None) -> float:
    """The confidence, which is known."""
    value = (scorer or shipped_scorer()).confidence(verdicts)
    assert value is not None
    return value


def test_nothing_heard_is_none() -> None:
    """No verdict, plain passes of shipped validators and broken validators say nothing about P(right)."""
    rules = shipped_scorer()
    assert rules.confidence([]) is None
    assert rules.confidence([entry("", origin="shipped")]) is None
    assert rules.confidence([entry("validator_error", outcome="abstain")]) is None
    assert rules.confidence([entry("whatever", 0.2, outcome="abstain")]) is None


def test_rules_are_the_formula() -> None:
    """The logistic of bias minus the weighted objections: above .9 without any, below .05 with a hard fail."""
    rules = shipped_scorer()
    logit = rules.bias - rules.weights["tool_match"] * 0.5 - rules.weights["number_unused"] * 0.75
    expected = 1 / (1 + math.exp(-logit))
    assert confidence(entry("tool_match", 0.5), entry("number_unused", 0.25)) == pytest.approx(expected, abs=1e-12)
    assert confidence(entry("tool_match", 1.0)) > 0.9
    assert confidence(entry("tool_match", 1.0), entry("missing_argument", None, "fail", "shipped")) < 0.05


@pytest.mark.parametrize("validator", SHIPPED, ids=lambda v: v.__name__)
def test_every_weight_has_a_reason_and_every_graded_code_a_weight(validator: Any) -> None:
    """Each shipped validator states what its scores count for, next to the code that gives them."""
    for weight in validator.weights.values():
        assert isinstance(weight, Weight)
        assert 0 < weight.logit < math.inf
        assert 0 < weight.neutral <= 1
        assert len(weight.reason) > 20
    source = inspect.getsource(sys.modules[validator.__module__])
    assert set(re.findall(r'_graded\(\s*"(\w+)"', source)) <= set(validator.weights)
    assert set(validator.weights) <= set(CODES)


def test_several_verdicts_of_a_code() -> None:
    """The least score counts; a hard fail under a code of the table is its greatest objection."""
    once = confidence(entry("tool_match", 0.1))
    assert confidence(entry("tool_match", 0.9), entry("tool_match", 0.1), entry("tool_match", 0.5)) == once
    assert confidence(entry("tool_match", None, "fail")) == confidence(entry("tool_match", 0.0))


# ---- the user's own validators ---------------------------------------------------------------------------------------
def test_user_verdicts() -> None:
    """Alone they are taken at their word; with shipped ones the lesser of both counts."""
    assert confidence(entry("")) == 1.0
    assert confidence(entry("mine", 0.7), entry("")) == 0.7
    assert confidence(entry("mine", 0.7), entry("mine", None, "fail")) == 0.0
    high = confidence(entry("tool_match", 1.0))
    assert confidence(entry("tool_match", 1.0), entry("mine", 0.3)) == 0.3
    assert confidence(entry("tool_match", 1.0), entry("mine", 1.0)) == high


# ---- what holds for every scorer -------------------------------------------------------------------------------------
SCORES = st.floats(0, 1)
VERDICTS = st.lists(
    st.builds(
        entry,
        st.sampled_from([*CODES, "mine", ""]),
        st.none() | SCORES,
        st.sampled_from(["pass", "fail", "abstain"]),
        st.sampled_from(["", "user", "shipped"]),
    ),
    max_size=12,
)
WEIGHTS = st.dictionaries(st.sampled_from(CODES), st.floats(0, 1e9), max_size=8)


@st.composite
def scorers(draw: st.DrawFn) -> Scorer:
    """The rules, or a fitted scorer with any lawful numbers."""
    if draw(st.booleans()):
        return shipped_scorer()
    xs = sorted(draw(st.lists(SCORES, max_size=6, unique=True)))
    ys = sorted(draw(st.lists(SCORES, min_size=len(xs), max_size=len(xs))))
    return Scorer(
        weights=draw(WEIGHTS),
        bias=draw(st.floats(-1e6, 1e6)),
        means=draw(st.dictionaries(st.sampled_from(CODES), SCORES, max_size=4)),
        knots=tuple(zip(xs, ys, strict=True)),
    )


@given(scorer=scorers(), verdicts=VERDICTS.filter(bool), data=st.data())
def test_confidence_is_a_monotone_probability(scorer: Scorer, verdicts: list[Verdict], data: st.DataObject) -> None:
    """None or in [0, 1], the same to the last bit in any order; raising a score never lowers it."""
    value = scorer.confidence(verdicts)
    assert value is None or 0.0 <= value <= 1.0
    shuffled = data.draw(st.permutations(verdicts))
    assert (scorer.confidence(shuffled), scorer.explain(shuffled)) == (value, scorer.explain(verdicts))
    index = data.draw(st.integers(0, len(verdicts) - 1))
    one = verdicts[index]

    def at(score: float) -> float | None:
        changed = entry(one.code, score, one.outcome, one.origin)
        return scorer.confidence([*verdicts[:index], changed, *verdicts[index + 1 :]])

    before, after = (at(score) for score in sorted([data.draw(SCORES), data.draw(SCORES)]))
    assert (before is None) == (after is None)
    assert before is None or after is None or before <= after


@given(scorer=scorers(), verdicts=VERDICTS)
def test_json_and_explanations(scorer: Scorer, verdicts: list[Verdict]) -> None:
    """A scorer survives its plain JSON; bias plus the contributions is the logit where only shipped validators spoke."""
    assert Scorer.from_json(json.loads(json.dumps(scorer.to_json(), allow_nan=False))) == scorer
    rules = shipped_scorer()
    known = [v for v in verdicts if v.code in CODES and v.score is not None]
    value = rules.confidence(known)
    if value is not None:
        logit = rules.bias + sum(c.logit for c in rules.explain(known))
        assert value == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-9)


def test_explanations() -> None:
    """Contributions by size, none without objection, a hard fail under one common code, plain JSON."""
    rows = shipped_scorer().explain([entry("tool_match", 0.5), entry("number_unused", 0.0), entry("no_call", 1.0)])
    weight = shipped_scorer().weights["number_unused"]
    assert rows[0] == Contribution(code="number_unused", weight=weight, score=0.0, logit=-weight)
    assert [r.code for r in rows] == ["number_unused", "tool_match"]
    rows = shipped_scorer().explain([entry("unknown_tool", None, "fail", "shipped")])
    assert [r.code for r in rows] == [HARD_FAIL]
    assert shipped_scorer().explain([]) == []
    rows = shipped_scorer().explain([Verdict(outcome="pass", code="tool_match", score=0.5, validator="ToolRelevance")])
    assert [row.to_json() for row in rows] == [{"code": "tool_match", "weight": 1.0, "score": 0.5, "logit": -0.5}]


# ---- the fitted form -------------------------------------------------------------------------------------------------
def test_mean_is_the_score_that_says_nothing() -> None:
    """A code at its mean moves nothing, one above it raises the confidence, and a silent one counts as its mean."""
    scorer = Scorer(weights={"tool_match": 2.0, "agreement": 4.0}, bias=1.0, means={"agreement": 0.5})
    silent = confidence(entry("tool_match", 0.5), scorer=scorer)
    assert silent == pytest.approx(1 / (1 + math.exp(-(1.0 - 2.0 * 0.5))))
    assert confidence(entry("tool_match", 0.5), entry("agreement", 0.5), scorer=scorer) == silent
    assert confidence(entry("tool_match", 0.5), entry("agreement", 1.0), scorer=scorer) > silent
    assert confidence(entry("tool_match", 0.5), entry("agreement", 0.0), scorer=scorer) < silent
    assert [c.logit for c in scorer.explain([entry("agreement", 1.0)])] == [2.0]


def test_evidence_moves_the_rules_both_ways() -> None:
    """With the shipped rules a second model that agrees raises the confidence and one that differs lowers it."""
    local = entry("description_match", 0.2)
    agree = Verdict(outcome="abstain", code="agreement", score=1.0, validator="CrossCheck")
    differ = Verdict(outcome="abstain", code="agreement", score=0.0, validator="CrossCheck")
    assert confidence(local, differ) < confidence(local) < confidence(local, agree)


def test_weights_that_a_fitted_scorer_lacks() -> None:
    """A graded code without a weight is passed over; a hard fail still gets no chance; between knots the line counts."""
    scorer = Scorer(weights={"tool_match": 1.0}, bias=2.0)
    base = confidence(entry("tool_match", 0.5), scorer=scorer)
    soft = entry("off_topic", 0.0, "fail", "shipped")
    assert confidence(entry("tool_match", 0.5), soft, scorer=scorer) == base
    assert confidence(entry("tool_match", 0.5), entry("tool_match", None, "pass"), scorer=scorer) == base
    scorer = Scorer(weights={"tool_match": 1.0}, bias=2.0)
    assert confidence(entry("tool_match", 1.0), entry("x", None, "fail", "shipped"), scorer=scorer) == 0.0
    for bias, expected in [(-60.0, 0.1), (0.0, 0.5), (60.0, 0.8), (math.log(3), 0.65)]:
        scorer = Scorer(weights={"tool_match": 0.0}, bias=bias, knots=((0.2, 0.1), (0.5, 0.5), (1.0, 0.8)))
        assert confidence(entry("tool_match", 1.0), scorer=scorer) == pytest.approx(expected)


@pytest.mark.parametrize(
    "bad",
    [
        {"weights": {"a": -1.0}},
        {"weights": {"a": math.inf}},
        {"weights": {"a": math.nan}},
        {"weights": {"a": True}},
        {"weights": {"a": "1"}},
        {"bias": math.nan},
        {"bias": None},
        {"means": {"a": 1.5}},
        {"knots": ((0.5, 0.5), (0.5, 0.6))},
        {"knots": ((0.2, 0.9), (0.5, 0.6))},
        {"knots": ((0.2, 1.9),)},
        {"knots": (("a", 0.1),)},
    ],
)
def test_unlawful_numbers_are_refused(bad: dict[str, Any]) -> None:
    """Numbers that would break monotony or finiteness are refused at construction and in JSON."""
    given_ = {"weights": {"a": 1.0}, "bias": 0.0, **bad}
    with pytest.raises(ConfigurationError, match="Scorer"):
        Scorer(**given_)
    with pytest.raises(RecordError, match="Scorer"):
        Scorer.from_json(given_)


def test_scorers_as_values() -> None:
    """Equal numbers make equal scorers; a newer schema is refused with the mend, and so is what is no scorer."""
    for data in [None, [], "rules", {}, {"bias": 1.0, "weights": []}, {"bias": 1.0, "knots": [[1]]}]:
        with pytest.raises(RecordError, match="Scorer"):
            Scorer.from_json(data)
    with pytest.raises(RecordError, match="upgrade"):
        Scorer.from_json({**shipped_scorer().to_json(), "schema": 99})
    assert shipped_scorer() == shipped_scorer()
    assert len({shipped_scorer(), shipped_scorer()}) == 1


def test_what_is_read_is_the_least_score_of_each_known_code() -> None:
    """Known codes alone are features, each with its least score; a hard fail counts as 0 under the code that is weighed."""
    scorer = Scorer(weights={"a": 1.0, HARD_FAIL: 8.0}, bias=0.0)
    verdicts = [entry(code, score, "pass", "shipped") for code, score in [("a", 0.7), ("a", 0.4), ("b", 0.1)]]
    verdicts += [entry("tone", 0.2), entry("unknown_tool", None, "fail", "shipped")]
    assert scorer.read(verdicts) == {"a": 0.4, HARD_FAIL: 0.0}
    assert scorer.read([]) == {}
