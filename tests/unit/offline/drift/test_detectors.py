"""Tests of the detectors: against scipy and plain definitions, and by simulation with fixed seeds."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.drift import EDetector, Stability, f_tail, psi

# ---- PSI ------------------------------------------------------------------------------------------------------------


@given(st.floats(1e-3, 60.0), st.floats(0.5, 40.0), st.floats(2.0, 700.0))
@settings(max_examples=200, deadline=None)
def test_the_f_distribution_is_scipys(x: float, df: float, scale: float) -> None:
    """The tail of Fisher's F agrees with scipy, far out too."""
    assert f_tail(x, df, scale) == pytest.approx(stats.f.sf(x, df, scale), rel=1e-8, abs=1e-14)


def test_the_f_distribution_at_its_ends() -> None:
    """Nothing is greater than no difference; an endless one has no chance."""
    assert f_tail(0.0, 3, 30) == 1.0
    assert f_tail(math.inf, 3, 30) == 0.0


counts = st.lists(st.integers(0, 500), min_size=2, max_size=12)


@given(counts, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_psi_is_a_distance(row: list[int], rng: random.Random) -> None:
    """PSI is 0 between equal rows, never negative, symmetric, and blind to the order of the cells."""
    other = [rng.randint(0, 500) for _ in row]
    assert psi(row, row) == 0.0
    assert psi(row, other) >= 0.0
    assert psi(row, other) == pytest.approx(psi(other, row))
    order = list(range(len(row)))
    rng.shuffle(order)
    assert psi([row[i] for i in order], [other[i] for i in order]) == pytest.approx(psi(row, other))


def test_psi_by_hand() -> None:
    """A textbook case: (.5, .5) against (.9, .1) of many observations is .8 * (ln 1.8 - ln .2) / 2."""
    value = psi([500_000, 500_000], [900_000, 100_000])
    assert value == pytest.approx(0.4 * math.log(1.8) - 0.4 * math.log(0.2), rel=1e-4)


@pytest.mark.parametrize("rows", [([], []), ([1, 2], [1, 2, 3])])
def test_psi_refuses_rows_that_cannot_be_compared(rows: tuple[list[int], list[int]]) -> None:
    """No cells, or cells that do not match, are no comparison."""
    with pytest.raises(ConfigurationError, match="cells"):
        psi(*rows)


def shifts(values: list[object], level: float = 0.01, *, least: float = 0.0) -> list[int]:
    """The numbers of the observations at which a shift was told."""
    stability = Stability(level, least=least)
    return [i for i, value in enumerate(values) if stability.update(value) is not None]


@pytest.mark.parametrize("run", [1, 8])
def test_psi_keeps_its_level_with_and_without_dependence(run: int) -> None:
    """In 300 streams of names, independent or in equal runs of 8, a first look at level .05 alarms in at most 8 %."""
    false = 0
    for seed in range(300):
        rng = random.Random(seed)
        drawn = [v for _ in range(1200 // run) for v in rng.choices("abcd", (8, 4, 2, 1)) * run]
        false += bool(shifts(drawn, 0.05))
    assert false <= 24


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda r: r.choice("aab"), lambda r: r.choice("abb")),
        (lambda r: "a", lambda r: r.choice("aac")),
        (lambda r: r.random(), lambda r: r.random() ** 2),
        (lambda r: r.random(), lambda r: None if r.random() < 0.3 else r.random()),
    ],
    ids=["shares", "a name never seen", "numbers", "missing numbers"],
)
def test_psi_sees_shifts_of_names_and_numbers(before, after) -> None:
    """A changed distribution is told within a window, whatever its values are, and not before it changed."""
    rng = random.Random(4)
    values = [before(rng) for _ in range(1800)] + [after(rng) for _ in range(500)]
    found = shifts(values, 1e-4, least=0.1)
    assert found
    assert 1800 <= found[0] < 2100


def test_psi_says_what_moved_and_begins_anew() -> None:
    """The shift names the cell that moved most with both shares; then a new reference is collected."""
    rng = random.Random(1)
    stability = Stability(1e-3)
    for _ in range(900):
        assert not stability.ready
        stability.update(rng.choice("aab"))
    assert stability.ready
    shift = next(s for _ in range(1000) if (s := stability.update(rng.choice("abbbb"))) is not None)
    assert shift.cell in ("a", "b")
    assert shift.psi >= 0.1
    assert shift.p_value <= 1e-3
    assert not stability.ready


def test_psi_names_bins_of_numbers() -> None:
    """A bin of numbers is called by its edges."""
    rng = random.Random(1)
    stability = Stability(1e-3)
    for _ in range(900):
        stability.update(rng.random())
    shift = next(s for _ in range(1000) if (s := stability.update(rng.random() * 0.09)) is not None)
    assert shift.cell.startswith("value <= 0.")
    assert shift.after > 0.8


def test_psi_in_bounded_memory() -> None:
    """Names that never end fill one cell, `other`."""
    stability = Stability(1e-6)
    for index in range(20_000):
        stability.update(f"name {index}")
    assert stability._names == ["other"]
    assert stability.value == 0.0
    assert not stability._waiting


def test_psi_refuses_impossible_settings() -> None:
    """A window that is not made of whole hops, or a reference without whole blocks, is refused."""
    for wrong in ({"window": 250}, {"reference": 150}, {"reference": 100}, {"hop": 0}):
        with pytest.raises(ConfigurationError, match="window"):
            Stability(0.01, **wrong)
    with pytest.raises(ConfigurationError, match="level"):
        Stability(0.0)


# ---- e-detector -----------------------------------------------------------------------------------------------------


@given(
    st.floats(0.001, 0.3),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6),
    st.floats(0.0, 1.0),
)
@settings(deadline=None)
def test_a_bet_is_fair_under_the_bound(bound: float, chances: list[float], share: float) -> None:
    """While losses are no more frequent than the bound, no stake is expected to grow, whatever the chances to see one.

    The bet is sized by one chance and settled by another, as when the shadow rate has just been changed.
    """
    detector = EDetector(bound, level=0.01)
    detector.count(p=chances[0])
    for p in chances:
        for rate in detector._rates:
            lost, none = 1 + rate * (1 / p - bound), 1 - rate * bound
            assert none > 0
            rate_of_losses = share * bound  # at most the bound
            assert rate_of_losses * p * lost + (1 - rate_of_losses * p) * none <= 1 + 1e-9


def test_the_stakes_are_those_of_the_definition() -> None:
    """R is the sum over all starting points of the products of bets since then, averaged over the alternatives."""
    bound, rng = 0.05, random.Random(2)
    detector, seen = EDetector(bound, level=1e-9), []
    for _ in range(60):
        loss = rng.random() < 0.2
        detector.count(p=0.5)
        if loss:
            detector.loss(p=0.5)
        seen.append(2.0 if loss else 0.0)
    total = 0.0
    for rate in detector._rates:
        total += sum(math.prod(1 + rate * (x - bound) for x in seen[j:]) for j in range(len(seen)))
    assert detector.value == pytest.approx(total / len(detector._rates))


def run_lengths(rate: float, *, seed: int, n: int, p: float = 0.2, bound: float = 0.02) -> int | None:
    """At which observation an e-detector at level .05 in 10,000 alarms."""
    rng = random.Random(seed)
    detector = EDetector(bound, level=0.05)
    for index in range(n):
        detector.count(p=p)
        if rng.random() < rate and rng.random() < p and detector.loss(p=p):
            return index
    return None


def test_false_alarms_are_as_rare_as_stated() -> None:
    """With losses exactly at the bound, far fewer than 5 % of 120 streams of 10,000 observations alarm."""
    assert sum(run_lengths(0.02, seed=seed, n=10_000) is not None for seed in range(120)) <= 6


def test_a_rise_is_found() -> None:
    """Losses at eight times the bound are found in each of 30 streams, half of them within 500 observations."""
    found = sorted(run_lengths(0.16, seed=seed, n=5_000) or 10**9 for seed in range(30))
    assert found[-1] < 5_000
    assert found[15] < 500


def test_long_quiet_does_not_blind() -> None:
    """Evidence of the past cannot sink below that of a fresh start: after 20,000 quiet observations as fast as at once."""
    detectors = [EDetector(0.02, level=0.05) for _ in range(2)]
    for _ in range(20_000):
        detectors[0].count(p=0.2)
    for index in range(200):
        for detector in detectors:
            detector.count(p=0.2)
            if index % 10 == 0:
                detector.loss(p=0.2)
    assert detectors[0].value >= detectors[1].value


def test_a_bound_of_its_own_per_observation() -> None:
    """An observation may have another bound; a loss weighs less where more of them are allowed."""
    low, high = EDetector(0.02, level=0.05), EDetector(0.02, level=0.05)
    low.count()
    high.count(bound=0.2)
    low.loss()
    high.loss()
    assert low.value > high.value
    low.restart()
    assert low.value == 0.0


def test_the_e_detector_refuses_impossible_settings() -> None:
    """Bounds, levels and chances outside of (0, 1) are refused."""
    for wrong in ({"bound": 0.0, "level": 0.1}, {"bound": 0.1, "level": 1.0}):
        with pytest.raises(ConfigurationError):
            EDetector(**wrong)
    detector = EDetector(0.1, level=0.1)
    detector.count()
    for p in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigurationError, match="p is"):
            detector.loss(p=p)
