"""Certified thresholds: the tails are exact, the guarantee holds in resampling, and little is given away for it."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.calibration import Claim, Unit, labels_for_power, labels_needed
from cascade_agent.offline.evaluation.metrics import binomial_cdf, upper_bound
from tests.builders import examples, trials

DELTA = 0.1


def certify(rows, **claim):
    """Test a claim."""
    return Claim(**{"max_loss": 0.02, **claim}).test(rows)


def units(confidence, harm, episode=None, kind="", prefix=""):
    """Arrays as units, each step its own episode when none is given."""
    return [
        Unit(
            episode=f"{prefix}{i if episode is None else episode[i]}",
            step_id=str(i),
            confidence=None if c is None else float(c),
            harm=bool(h),
            wrong=bool(h),
            kind=kind,
        )
        for i, (c, h) in enumerate(zip(confidence, harm, strict=True))
    ]


@given(st.integers(1, 10**6), st.floats(1e-6, 1 - 1e-6), st.floats(-8, 8))
def test_binomial_tail_is_that_of_scipy(n, p, z):
    """The tail agrees with scipy to 1e-7 of itself, from the far left to the far right, for n up to a million."""
    k = max(0, min(n - 1, round(n * p + z * math.sqrt(n * p * (1 - p)))))
    expected = binom.cdf(k, n, p)
    if expected > 1e-290:
        assert binomial_cdf(k, n, p) == pytest.approx(expected, rel=1e-7)


def test_binomial_tail_at_its_ends():
    """Impossible and certain counts give 0 and 1, and an underflow gives 0 instead of an error."""
    assert [binomial_cdf(*args) for args in ((-1, 10, 0.5), (3, 10, 1.0), (0, 10**6, 0.9))] == [0.0] * 3
    assert [binomial_cdf(*args) for args in ((10, 10, 0.5), (0, 0, 0.5), (3, 10, 0.0))] == [1.0] * 3


@given(st.integers(0, 5000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.99]))
def test_upper_bound_is_clopper_pearson(n, share, confidence):
    """The bound is the quantile of the beta distribution that Clopper and Pearson gave; without data it is 1."""
    losses = round(share * n)
    expected = 1.0 if losses == n else beta.ppf(confidence, losses + 1, n - losses)
    assert upper_bound(losses, n, confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("max_loss", "zero", "power"), [(0.05, 45, 282), (0.02, 114, 708), (0.01, 230, 1418)])
def test_labels_needed(max_loss, zero, power):
    """The numbers of labels are exact: one fewer fails, and they are those that scipy gives."""
    assert labels_needed(max_loss) == zero
    assert labels_for_power(max_loss) == power
    assert binom.cdf(0, zero, max_loss) <= DELTA < binom.cdf(0, zero - 1, max_loss)
    allowed = max(k for k in range(power) if binom.cdf(k, power, max_loss) <= DELTA)
    assert binom.cdf(allowed, power, max_loss / 2) >= 0.8


@given(st.floats(0.005, 0.5), st.floats(0.5, 0.99), st.integers(0, 20))
def test_labels_needed_is_the_least(max_loss, confidence, losses):
    """With as many labels the test succeeds, with one fewer it does not."""
    n = labels_needed(max_loss, confidence, losses=losses)
    assert binomial_cdf(losses, n, max_loss) <= 1 - confidence
    assert n == losses + 1 or binomial_cdf(losses, n - 1, max_loss) > 1 - confidence


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan, "0.02", True, None])
def test_impossible_targets_are_refused(bad):
    """A target or confidence that is no probability, or below what any number of labels can show, is refused."""
    with pytest.raises(ConfigurationError, match=r"max_loss is .* such as 0\.02"):
        certify([], max_loss=bad)
    with pytest.raises(ConfigurationError, match=r"confidence is .* such as 0\.9"):
        certify([], confidence=bad)
    with pytest.raises(ConfigurationError, match="no number of labels"):
        labels_needed(1e-15)


@pytest.mark.parametrize(
    ("accepted", "others", "claim", "seen", "reason"),
    [
        ([], [], {}, (0, 0, 114, 708), "114 are missing"),
        ([False] * 113, [], {}, (113, 0, 1, 595), "1 are missing"),
        ([True] * 50 + [False] * 450, [], {}, (500, 50, 0, 208), "surest"),
        ([], [None] * 500, {}, (500, 0, 0, 208), "no step can be accepted"),
        ([False] * 100, [None] * 500, {"risk": "selective_error"}, (100, 0, 14, 608), "accepted episodes"),
    ],
)
def test_no_threshold_says_what_is_missing(accepted, others, claim, seen, reason):
    """Too few labels, too many losses among the surest, nothing to accept: each in words, with the missing labels."""
    found = certify(units([0.9] * len(accepted) + others, accepted + [False] * len(others)), **claim)
    assert not found
    assert (found.n, found.losses, found.missing, found.missing_for_power) == seen
    assert reason in found.reason
    assert json.loads(json.dumps(found.to_json()))["threshold"] is None


def test_threshold_is_the_least_that_passes():
    """The walk ends before the first threshold at which the exact test fails, and reports what it saw there."""
    rng = np.random.default_rng(1)
    confidence = rng.random(1000)
    harm = rng.random(1000) < 0.3 * (1 - confidence) ** 2
    found = certify(units(confidence, harm))
    accepted = confidence >= found.threshold
    assert found.losses == int((harm & accepted).sum())
    assert found.p_value == pytest.approx(binom.cdf(found.losses, 1000, 0.02))
    assert found.p_value <= DELTA
    assert found.escalated == pytest.approx(1 - accepted.mean())
    assert found.upper == pytest.approx(upper_bound(found.losses, 1000))
    below = confidence[confidence < found.threshold].max()
    assert binom.cdf((harm & (confidence >= below)).sum(), 1000, 0.02) > DELTA
    assert json.loads(json.dumps(certify(units([0.9] * 114, [False] * 114)).to_json()))["threshold"] == 0.9


@given(st.integers(0, 2**32), st.permutations(list(range(60))))
def test_order_of_the_labels_does_not_matter(seed, order):
    """The same labels in any order give the same certificate, with the draws from its episodes."""
    rng = random.Random(seed)
    rows = [
        Unit(episode=str(rng.randrange(9)), step_id=str(i), confidence=rng.random(), harm=rng.random() < 0.1)
        for i in range(60)
    ]
    assert certify(rows, max_loss=0.4, seed=seed) == certify([rows[i] for i in order], max_loss=0.4, seed=seed)


def test_one_step_of_each_episode_is_drawn():
    """Episodes are the units, the draw is uniform over their steps, and another seed draws other steps."""
    rows = units([0.9] * 4000, [i % 4 == 0 for i in range(4000)], episode=[i // 4 for i in range(4000)])
    losses = [certify(rows, max_loss=0.9, seed=seed).losses for seed in range(20)]
    assert certify(rows, max_loss=0.9).n == 1000
    assert len(set(losses)) > 5
    assert abs(np.mean(losses) - 250) < 4 * math.sqrt(1000 * 0.25 * 0.75 / 20)


def test_harm_per_episode_counts_any_step():
    """An episode is lost from the threshold on at which its first harmful step is accepted."""
    rows = [
        Unit(episode=str(i), step_id=f"{i}.{s}", confidence=0.3 + 0.2 * s, harm=s == 0)
        for i in range(300)
        for s in (0, 1, 2)
    ]
    whole = certify(rows, per="episode")
    assert (whole.threshold, whole.losses, whole.n) == (0.5, 0, 300)


@pytest.mark.parametrize("kwargs", [{"risk": "loss"}, {"per": "task"}, {"risk": "selective_error", "per": "episode"}])
def test_unknown_claims_are_refused(kwargs):
    """A risk or unit without a test is refused at once."""
    with pytest.raises(ConfigurationError, match="risk"):
        certify([], **kwargs)


def noise(trials):
    """Three standard errors of a share that is DELTA."""
    return 3 * math.sqrt(DELTA * (1 - DELTA) / trials)


def true_risk(threshold):
    """P(accepted and harm) for confidence uniform on [0, 1] and P(harm | c) = .3 (1 - c)^2."""
    return 0.1 * (1 - threshold) ** 3


@trials(100, 500)
def test_violations_stay_below_delta_and_little_is_given_away(trials):
    """In resamplings at 2 % and delta .1 the risk exceeds the target in at most 10 % + noise, at <= 1.4x escalation."""
    rng = np.random.default_rng(7)
    best = 1 - (0.02 / 0.1) ** (1 / 3)
    violations, escalated = 0, []
    for _ in range(trials):
        confidence = rng.random(1000)
        found = certify(units(confidence, rng.random(1000) < 0.3 * (1 - confidence) ** 2))
        violations += true_risk(found.threshold) > 0.02
        escalated.append(found.threshold)
    assert violations / trials <= DELTA + noise(trials)
    assert violations > 0, "a test that is never wrong gives something away"
    assert np.mean(escalated) <= 1.4 * best


@trials(60, 200)
def test_steps_of_an_episode_do_not_count_twice(trials):
    """With dependent steps the guarantee holds for drawn steps; steps taken as units would break it."""
    rng = np.random.default_rng(3)
    kept = naive = 0
    for _ in range(trials):
        level = rng.random(150)
        harm = rng.random(150) < 0.3 * (1 - level) ** 2  # all steps of an episode share it
        index = np.repeat(np.arange(150), 12)
        rows = units(level[index], harm[index], episode=index)
        found = certify(rows)
        kept += bool(found) and true_risk(found.threshold) > 0.02
        wrongly = certify([replace(u, episode=u.step_id) for u in rows])
        naive += bool(wrongly) and true_risk(wrongly.threshold) > 0.02
    assert kept / trials <= DELTA + noise(trials)
    assert naive / trials > DELTA + noise(trials)


@pytest.mark.parametrize(("n", "trials"), [(600, examples(60, 300)), (2000, examples(20, 200))])
def test_selective_error_holds(n, trials):
    """P(wrong | accepted) stays below its target in all but delta of the resamplings, with few units and with many."""
    rng = np.random.default_rng(n)
    violations = found_any = 0
    for _ in range(trials):
        confidence = rng.random(n)
        wrong = rng.random(n) < 0.2 * (1 - confidence)
        found = certify(units(confidence, wrong), max_loss=0.05, risk="selective_error")
        found_any += bool(found)
        violations += bool(found) and 0.1 * (1 - found.threshold) > 0.05
    assert violations / trials <= DELTA + noise(trials)
    assert found_any > 0.4 * trials


def test_kinds_share_the_confidence():
    """Every kind with enough units has its own threshold at a stricter level; the others are tested together."""
    rows = []
    for kind, n in (("call", 400), ("text", 300), ("structured", 40)):
        rows += units([0.9] * n, [False] * n, kind=kind, prefix=kind)
    found = Claim(max_loss=0.02).test_by_kind(rows)
    assert sorted(found) == ["", "call", "text"]
    assert {round(c.confidence, 6) for c in found.values()} == {round(1 - 0.1 / 3, 6)}
    assert found["call"]
    assert not found[""]


@trials(60, 200)
def test_all_kinds_hold_at_once(trials):
    """The chance that any kind's risk exceeds the target is at most delta, though the kinds differ."""
    rng = np.random.default_rng(11)
    violations = 0
    for _ in range(trials):
        rows = []
        for kind, factor in (("call", 0.3), ("text", 0.1)):
            confidence = rng.random(600)
            rows += units(confidence, rng.random(600) < factor * (1 - confidence) ** 2, kind=kind, prefix=kind)
        found = Claim(max_loss=0.02).test_by_kind(rows)
        risks = [f / 3 * (1 - found[k].threshold) ** 3 for k, f in (("call", 0.3), ("text", 0.1)) if found[k]]
        violations += any(r > 0.02 for r in risks)
    assert violations / trials <= DELTA + noise(trials)
