"""Tests of the detectors: against river, scipy and plain definitions, and by simulation with fixed seeds."""

from __future__ import annotations

import math
import random

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


@pytest.mark.parametrize("seed", range(10))
def test_adwin_holds_the_window_that_river_holds(seed: int) -> None:
    """On a stream without change width, sum and variance are river's after every observation."""
    ours, theirs = Adwin(), river.ADWIN()
    for value in coins(seed, (2000, 0.1)):
        assert ours.update(value) is None
        theirs.update(value)
        assert not theirs.drift_detected
        assert (ours.width, ours.total) == (theirs.width, theirs.total)
        assert ours.variance * ours.width == pytest.approx(theirs.variance, abs=1e-9)


@pytest.mark.parametrize("after", [0.2, 0.25, 0.4, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_adwin_finds_a_change_when_river_does(seed: int, after: float) -> None:
    """A change of the rate is found at most one check later than by river, which skips some of the cuts."""
    ours, theirs, found = Adwin(), river.ADWIN(), {}
    for index, value in enumerate(coins(seed, (3000, 0.1), (3000, after))):
        theirs.update(value)
        if ours.update(value) is not None:
            found.setdefault("ours", index)
        if theirs.drift_detected:
            found.setdefault("theirs", index)
        if len(found) == 2:
            break
    assert found["ours"] <= found["theirs"] + 32
    assert found["ours"] >= 3000


@given(st.lists(UNIT, min_size=1, max_size=400), st.integers(1, 6), st.sampled_from([0.3, 0.01]))
@settings(max_examples=60, deadline=None)
def test_adwin_summarizes_exactly_what_it_says_it_holds(values: list[float], buckets: int, delta: float) -> None:
    """After every observation width, mean and variance are those of the last `width` values; buckets stay few."""
    adwin = Adwin(delta, clock=8, max_buckets=buckets)
    for index, value in enumerate(values):
        adwin.update(value)
        window = values[index + 1 - adwin.width : index + 1]
        mean = math.fsum(window) / len(window)
        assert adwin.mean == pytest.approx(mean, abs=1e-9)
        assert adwin.variance == pytest.approx(math.fsum((v - mean) ** 2 for v in window) / len(window), abs=1e-9)
        assert adwin.buckets <= (buckets + 1) * (math.log2(adwin.width) + 1)


def plain_check(window: list[float], sizes: list[int], delta: float, part: int = 5) -> bool:
    """ADWIN's test by its definition: every cut between buckets, means and variance from the values themselves."""
    n, mean = len(window), math.fsum(window) / len(window)
    variance = math.fsum((v - mean) ** 2 for v in window) / n
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


@pytest.mark.parametrize("seed", range(6))
def test_adwin_cuts_exactly_where_the_definition_does(seed: int) -> None:
    """At each check it finds a change if and only if the plain test on the same buckets does."""
    adwin, seen, cuts = Adwin(0.05), [], 0
    rng = random.Random(seed)
    for index in range(1500):
        value = min(1.0, max(0.0, rng.gauss(0.4 if (index // 500) % 2 else 0.5, 0.2)))
        seen.append(value)
        width = adwin.width + 1
        twin = Adwin(0.05, clock=10**9)  # the same buckets, never checked
        twin.__dict__.update({k: v for k, v in adwin.__dict__.items() if k not in ("clock", "_rows")})
        twin._rows = [type(row)(totals=row.totals.copy(), squares=row.squares.copy()) for row in adwin._rows]
        twin.update(value)
        sizes = [1 << i for i in range(len(twin._rows) - 1, -1, -1) for _ in twin._rows[i].totals]
        assert sum(sizes) == width
        expected = (index + 1) % 32 == 0 and plain_check(seen[-width:], sizes, 0.05)
        found = adwin.update(value)
        assert (found is not None) is expected
        cuts += found is not None
    assert cuts > 0


def test_adwin_says_where_the_change_is() -> None:
    """The reported cut lies near the change, with the means of both sides."""
    adwin = Adwin()
    cuts = ((index, adwin.update(value)) for index, value in enumerate(coins(3, (2000, 0.1), (1000, 0.6))))
    index, change = next((index, change) for index, change in cuts if change is not None)
    assert 2000 <= index < 2100
    assert abs(index + 1 - change.n_after - 2000) <= 64
    assert change.before == pytest.approx(0.1, abs=0.02)
    assert change.after > 0.3


def test_adwin_in_bounded_memory() -> None:
    """A hundred thousand observations are held in some dozens of buckets."""
    adwin = Adwin(1e-6)
    for value in coins(1, (100_000, 0.3)):
        adwin.update(value)
    assert adwin.width == 100_000
    assert adwin.buckets <= 6 * 18


def test_blocks_keep_adwin_quiet_on_clustered_observations() -> None:
    """When observations come in equal runs of 8, the plain bound is broken often and the corrected one is not."""
    false = {True: 0, False: 0}
    for seed in range(30):
        rng = random.Random(seed)
        for blocks in false:
            adwin = Adwin(1e-4, blocks=blocks)
            values = [float(v) for _ in range(375) for v in [rng.random() < 0.3] * 8]
            false[blocks] += sum(adwin.update(v) is not None for v in values) > 0
    assert false[True] == 0
    assert false[False] >= 5


def test_blocks_hardly_delay_adwin_on_independent_observations() -> None:
    """Without dependence the correction is near 1 and the change is found within a few checks of the plain one."""
    for seed in range(10):
        at = {}
        for blocks in (False, True):
            adwin = Adwin(1e-4, blocks=blocks)
            for index, value in enumerate(coins(seed, (3000, 0.1), (3000, 0.4))):
                if adwin.update(value) is not None:
                    at[blocks] = index
                    break
        assert 3000 <= at[False] <= at[True] <= at[False] + 160


@pytest.mark.parametrize(
    "settings_", [{"delta": 0.0}, {"delta": 1.0}, {"delta": True}, {"clock": 0}, {"max_buckets": 0}, {"min_part": 0}]
)
def test_adwin_refuses_impossible_settings(settings_: dict[str, float]) -> None:
    """A setting outside its range is refused by name."""
    with pytest.raises(ConfigurationError, match=next(iter(settings_))):
        Adwin(**settings_)  # type: ignore[arg-type]


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
