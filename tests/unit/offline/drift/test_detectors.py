"""Tests of the detectors: against river, scipy and plain definitions, and by simulation with fixed seeds."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift as river
from scipy import stats

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.drift import Adwin, EDetector, Stability, f_tail, psi

UNIT = st.floats(0.0, 1.0, allow_subnormal=False)


def coins(seed: int, *parts: tuple[int, float]) -> list[float]:
    """Coins of the given numbers and chances, one part after the other."""
    rng = random.Random(seed)
    return [float(rng.random() < chance) for count, chance in parts for _ in range(count)]


# ---- ADWIN ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_adwin_holds_the_window_that_river_holds(seed: int) -> None:
    """On a stream without change width, sum and variance are river's after every observation."""
    ours, theirs = Adwin(0.002), river.ADWIN()
    for value in coins(seed, (2000, 0.1)):
        assert ours.update(value) is None
        theirs.update(value)
        assert not theirs.drift_detected
        assert (ours.width, ours.total) == (theirs.width, theirs.total)
        assert ours.variance * ours.width == pytest.approx(theirs.variance, abs=1e-9)


@given(st.lists(UNIT, min_size=1, max_size=400), st.sampled_from([0.3, 0.01]))
@settings(max_examples=40, deadline=None)
def test_adwin_summarizes_exactly_what_it_says_it_holds(values: list[float], delta: float) -> None:
    """After every observation width, mean and variance are those of the last `width` values."""
    adwin = Adwin(delta)
    for index, value in enumerate(values):
        adwin.update(value)
        window = values[index + 1 - adwin.width : index + 1]
        mean = math.fsum(window) / len(window)
        assert adwin.mean == pytest.approx(mean, abs=1e-9)
        assert adwin.variance == pytest.approx(math.fsum((v - mean) ** 2 for v in window) / len(window), abs=1e-9)


def plain_check(window: list[float], sizes: list[int], delta: float, inflation: float, part: int = 5) -> bool:
    """ADWIN's test by its definition: every cut between buckets, means and variance from the values themselves."""
    n, mean = len(window), math.fsum(window) / len(window)
    variance = inflation * math.fsum((v - mean) ** 2 for v in window) / n
    log_term, at = math.log(2 * math.log(n) / delta), 0
    for size in sizes[:-1]:
        at += size
        if min(at, n - at) < part:
            continue
        share = 1 / (at - part + 1) + 1 / (n - at - part + 1)
        bound = math.sqrt(2 * share * variance * log_term) + 2 / 3 * log_term * share
        if abs(math.fsum(window[:at]) / at - math.fsum(window[at:]) / (n - at)) > bound:
            return True
    return False


@pytest.mark.parametrize("seed", range(3))
def test_adwin_cuts_exactly_where_the_definition_does(seed: int) -> None:
    """At each check it finds a change if and only if the plain test on the same buckets does."""
    adwin, seen, cuts = Adwin(0.05), [], 0
    rng = random.Random(seed)
    for index in range(1500):
        value = min(1.0, max(0.0, rng.gauss(0.4 if (index // 500) % 2 else 0.5, 0.2)))
        seen.append(value)
        expected = False
        if (index + 1) % 32 == 0:
            twin = copy.deepcopy(adwin)
            twin._cut = lambda: None  # the same buckets, not checked
            twin.update(value)
            sizes = [1 << i for i in range(len(twin._rows) - 1, -1, -1) for _ in twin._rows[i]]
            assert sum(sizes) == twin.width == adwin.width + 1
            expected = plain_check(seen[-twin.width :], sizes, 0.05, twin.inflation)
        found = adwin.update(value)
        assert (found is not None) is expected
        cuts += expected
    assert cuts > 0


def test_adwin_is_quiet_on_clustered_observations() -> None:
    """When observations come in equal runs of 8, river's plain bound is broken often and the corrected one is not."""
    ours = theirs = 0
    for seed in range(20):
        rng, adwin, plain = random.Random(seed), Adwin(1e-4), river.ADWIN(delta=1e-4)
        found = set()
        for value in [float(v) for _ in range(375) for v in [rng.random() < 0.3] * 8]:
            plain.update(value)
            found |= {"ours"} if adwin.update(value) else set()
            found |= {"theirs"} if plain.drift_detected else set()
        ours, theirs = ours + ("ours" in found), theirs + ("theirs" in found)
    assert ours == 0
    assert theirs >= 4


# ---- PSI ------------------------------------------------------------------------------------------------------------


@given(st.floats(1e-3, 60.0), st.floats(0.5, 40.0), st.floats(2.0, 700.0))
@settings(deadline=None)
def test_the_f_distribution_is_scipys(x: float, df: float, scale: float) -> None:
    """The tail of Fisher's F agrees with scipy, far out too; nothing exceeds no difference, and none is endless."""
    assert f_tail(x, df, scale) == pytest.approx(stats.f.sf(x, df, scale), rel=1e-8, abs=1e-14)
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
    """A textbook case: (.5, .5) against (.9, .1) of many observations."""
    value = psi([500_000, 500_000], [900_000, 100_000])
    assert value == pytest.approx(0.4 * math.log(1.8) - 0.4 * math.log(0.2), rel=1e-4)


@pytest.mark.parametrize("run", [1, 8])
def test_psi_keeps_its_level_with_and_without_dependence(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 100 streams of names, independent or in equal runs of 8, a first look at level .05 alarms in at most 8 %."""
    monkeypatch.setattr(Stability, "LEAST", 0.0)
    false = 0
    for seed in range(100):
        rng = random.Random(seed)
        drawn = [v for _ in range(1200 // run) for v in rng.choices("abcd", (8, 4, 2, 1)) * run]
        stability = Stability(0.05)
        false += sum(stability.update(value) is not None for value in drawn) > 0
    assert false <= 8


@pytest.mark.parametrize(
    ("before", "after", "cell"),
    [
        (lambda r: r.choice("aab"), lambda r: r.choice("abbbb"), "[ab]"),
        (lambda r: "a", lambda r: r.choice("aac"), "a|other"),
        (lambda r: r.random(), lambda r: r.random() * 0.09, r"value <= 0\.\d+"),
        (lambda r: r.random(), lambda r: r.random() * 0.09 + 0.5, r"0\.\d+ < value <= 0\.\d+"),
        (lambda r: r.random(), lambda r: None if r.random() < 0.3 else r.random(), "other"),
        (lambda r: r.choice([None, 1.0]), lambda r: None, "none|value"),
    ],
    ids=["names", "a name never seen", "first bin", "middle bin", "some missing", "all missing"],
)
def test_psi_sees_shifts_and_says_what_moved(before, after, cell: str) -> None:
    """A shift is found within a window, not before, and names the cell that moved most; then it begins anew."""
    rng, stability = random.Random(4), Stability(1e-4)
    for index in range(1500):
        assert stability.ready is (index >= 900)
        assert stability.update(before(rng)) is None
    shift = next(s for _ in range(300) if (s := stability.update(after(rng))) is not None)
    assert re.fullmatch(cell, shift.cell)
    assert abs(shift.after - shift.before) > 0.05
    assert shift.psi >= 0.1
    assert shift.p_value <= 1e-4
    assert not stability.ready


def test_the_detectors_in_bounded_memory() -> None:
    """Thousands of observations are some dozens of buckets; names that never end fill one cell."""
    adwin, stability = Adwin(1e-6), Stability(1e-6)
    for index, value in enumerate(coins(1, (5_000, 0.3))):
        adwin.update(value)
        stability.update(f"name {index}")
    assert (adwin.width, stability.value) == (5_000, 0.0)
    assert len(pickle.dumps(adwin)) < 3_000
    assert len(pickle.dumps(stability)) < 1_000


# ---- e-detector -----------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.3), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_a_bet_is_fair_under_the_bound(bound: float, chances: list[float], share: float) -> None:
    """While losses are no more frequent than the bound, no stake is expected to grow, whatever the chances to see one.

    The bet is sized by one chance and settled by another, as when the shadow rate has just been changed.
    """
    detector = EDetector(bound, level=0.01)
    detector.count(p=chances[0])
    for p, rate in itertools.product(chances, detector._rates):
        lost, none, seen = 1 + rate * (1 / p - bound), 1 - rate * bound, share * bound * p  # at most the bound is lost
        assert none > 0
        assert seen * lost + (1 - seen) * none <= 1 + 1e-9


def test_the_stakes_are_those_of_the_definition() -> None:
    """R is the sum over all starting points of the products of bets since then, averaged over the alternatives.

    So no quiet past can sink it below a fresh start. Each observation may have a bound and a chance of its own.
    """
    rng = random.Random(2)
    detector, bets = EDetector(0.05, level=1e-9), []
    for _ in range(60):
        p, bound, loss = rng.choice((0.5, 1.0)), rng.choice((0.05, 0.2)), rng.random() < 0.2
        detector.count(p=p, bound=bound)
        if loss:
            detector.loss(p=p)
        bets.append([1 + rate * (loss / p - bound) for rate in detector._rates])
    ways = [sum(math.prod(way[j:]) for j in range(len(way))) for way in zip(*bets, strict=True)]
    assert detector.value == pytest.approx(sum(ways) / len(ways))
    detector.restart()
    assert detector.value == 0.0


def alarms_at(rate: float, *, seed: int, n: int, p: float = 0.2, bound: float = 0.02) -> int | None:
    """The observation at which an e-detector at level .05 in 10,000 alarms."""
    rng = random.Random(seed)
    detector = EDetector(bound, level=0.05)
    for index in range(n):
        detector.count(p=p)
        if rng.random() < rate and rng.random() < p and detector.loss(p=p):
            return index
    return None


def test_false_alarms_are_as_rare_as_stated_and_a_rise_is_found() -> None:
    """At the bound at most 5 % of 20 streams of 10,000 alarm; at eight times it all do, half within 500 observations."""
    assert sum(alarms_at(0.02, seed=seed, n=10_000) is not None for seed in range(20)) <= 1
    found = sorted(alarms_at(0.16, seed=seed, n=5_000) or 10**9 for seed in range(20))
    assert found[-1] < 5_000
    assert found[10] < 500


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Adwin(0.0), "delta"),
        (lambda: Adwin(1.0), "delta"),
        (lambda: Adwin(True), "delta"),
        (lambda: Stability(0.0), "level"),
        (lambda: EDetector(0.0, level=0.1), "bound"),
        (lambda: EDetector(0.1, level=1.0), "level"),
        (lambda: EDetector(0.1, level=0.1).loss(p=0.0), "p is"),
        (lambda: EDetector(0.1, level=0.1).loss(p=1.5), "p is"),
        (lambda: EDetector(0.1, level=0.1).loss(p=math.nan), "p is"),
        (lambda: psi([], []), "cells"),
        (lambda: psi([1, 2], [1, 2, 3]), "cells"),
    ],
)
def test_impossible_settings_are_refused_by_name(make, part: str) -> None:
    """Chances, levels and bounds outside of (0, 1), and rows without the same cells, are refused by name."""
    with pytest.raises(ConfigurationError, match=part):
        make()
