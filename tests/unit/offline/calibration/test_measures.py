"""Measures of a confidence agree with scikit-learn and know when they cannot be told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from cascade_agent.offline.evaluation.metrics import auroc, auroc_within, brier, calibration_error, interval

scored = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.99, 1.0]), st.booleans()), min_size=1, max_size=80
)


@given(scored)
def test_auroc_and_brier_are_those_of_scikit_learn(rows):
    """AUROC with its ties and the Brier score agree with scikit-learn; without both sorts there is no AUROC."""
    p, y = [row[0] for row in rows], [row[1] for row in rows]
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p, labels=[False, True]))
    if len(set(y)) == 2:
        assert auroc(p, y) == pytest.approx(roc_auc_score(y, p))
    else:
        assert auroc(p, y) is None


def test_auroc_within_compares_inside_of_groups_only():
    """A shift between groups changes the plain AUROC and not the one within."""
    p, y = [0.1, 0.2, 0.8, 0.9], [False, True, False, True]
    assert auroc(p, y) == 0.75
    assert auroc_within(p, y, [0, 0, 1, 1]) == 1.0
    assert auroc_within(p, y, [0, 1, 2, 3]) is None


def test_calibration_error_of_honest_and_of_shifted_scores():
    """Scores that are what they say have an error near 0, shifted ones their shift; one score for all that of its mean."""
    rng = np.random.default_rng(0)
    p = rng.random(20_000) * 0.8
    y = [bool(v) for v in rng.random(20_000) < p]
    assert calibration_error(list(p), y) < 0.02
    assert calibration_error(list(p + 0.2), y) == pytest.approx(0.2, abs=0.02)
    for order in (True, False):
        assert calibration_error([0.5] * 10, [order] * 5 + [not order] * 2 + [order] * 3) == pytest.approx(0.3)


def test_nothing_is_unknown():
    """Without data no measure is invented."""
    assert {auroc([], []), brier([], []), calibration_error([], [])} == {None}
    assert interval([], lambda rows: 1.0, episode=str) is interval([1], lambda rows: None, episode=str) is None


def test_interval_draws_whole_episodes():
    """The interval of a mean covers it, is the same every time, and is wider when steps repeat inside of episodes."""
    rng = np.random.default_rng(0)
    values = rng.random(100)
    alone = [(str(i), v) for i, v in enumerate(values)]
    repeated = [(str(i % 20), values[i % 20]) for i in range(100)]

    def mean(rows):
        return sum(v for _, v in rows) / len(rows)

    low, high = interval(alone, mean, episode=lambda row: row[0])
    assert low < values.mean() < high
    assert (low, high) == interval(alone, mean, episode=lambda row: row[0])
    wide = interval(repeated, mean, episode=lambda row: row[0])
    assert wide[1] - wide[0] > 1.5 * (high - low)
