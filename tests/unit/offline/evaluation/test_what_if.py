"""A journal's word on other policies: exact where it can be, else an interval, the same from any parts."""

import copy
import json
import math
import random
from collections import defaultdict
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt
from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation import Estimates, SweepPlan, Tally
from cascade_agent.offline.evaluation.compare import comparison_of
from cascade_agent.offline.evaluation.dataset import label_step
from cascade_agent.offline.evaluation.metrics import interval
from cascade_agent.offline.evaluation.tally import BASELINES, bucket, middle
from tests.builders import recorded
from tests.journals import graded, labels_of, policies, scores, traces, world

GRID = [0.2, 0.4, 0.6, 0.8, 0.95]
FIGURES = ("success", "loss", "harm", "escalation", "cost", "saving", "oracle_share", "cost_per_success", "p50", "p95")


def tallied(steps, labels, plan):
    """A tally of steps with their labels."""
    told = defaultdict(list)
    for label in labels:
        told[label.step_id].append(label)
    tally = Tally(plan)
    for step in steps:
        tally.add(label_step(step, told[step.id]))
    return tally


def rows(steps, labels, policy=None, grid=GRID, **kwargs):
    """Figures over all steps by title, baselines and policies."""
    found = comparison_of(
        tallied(steps, labels, SweepPlan.of(policy or Policy(threshold=0.6), grid)), **{"resamples": 0, **kwargs}
    )
    return {row.title: row.all for row in (*found.baselines, *found.policies)}


def test_known_journals_give_the_figures_of_a_hand_count():
    """With every accepted step shadowed, each figure is the plain count over the steps under that threshold."""
    steps, labels, truth = world(200, shadow=1.0)
    found = rows(steps, labels)
    alone = math.fsum(large for _, _, large in truth)
    for threshold in GRID:
        figures = found[f"threshold {threshold:g}"]
        kept = [p >= threshold for p, _, _ in truth]
        n = len(truth)
        success = sum(right if keep else 1 for keep, (_, right, _) in zip(kept, truth, strict=True)) / n
        cost = math.fsum(0.001 + (0 if keep else large) for keep, (_, _, large) in zip(kept, truth, strict=True))
        assert figures.success.value == pytest.approx(success)
        assert figures.loss.value == figures.harm.value == pytest.approx(1 - success)
        assert figures.escalation.value == pytest.approx(1 - sum(kept) / n)
        assert figures.cost.value == pytest.approx(cost / n)
        assert figures.saving.value == pytest.approx(1 - cost / alone)
        assert figures.cost_per_success.value == pytest.approx(cost / n / success)
        best = math.fsum(0.001 + (0 if right else large) for _, right, large in truth)
        assert figures.oracle_share.value == pytest.approx((1 - cost / alone) / (1 - best / alone))
        median = 0.5 if sum(kept) >= n / 2 else 2.5
        assert figures.p50.value == pytest.approx(median / 2.0, rel=0.04)


def test_the_baselines_stand_beside():
    """Always-small, always-large, the oracle and what was recorded, each as a hand count has it."""
    steps, labels, truth = world(100, shadow=1.0)
    found = rows(steps, labels)
    n, rights = len(truth), sum(right for _, right, _ in truth)
    alone = math.fsum(large for _, _, large in truth)
    assert found["always large"].success.value == 1
    assert found["always large"].saving.value == found["always large"].loss.value == 0
    assert found["always large"].p95.value == 1
    assert found["always small"].success.value == pytest.approx(rights / n)
    assert found["always small"].cost.value == pytest.approx(0.001)
    assert found["always small"].p50.value == pytest.approx(0.25, rel=0.04)
    assert found["oracle"].success.value == 1
    assert found["oracle"].oracle_share.value == 1
    assert found["oracle"].escalation.value == pytest.approx(1 - rights / n)
    shadows = math.fsum(label.side_call.cost for label in labels)
    paid = math.fsum(step.cost for step in steps) + shadows
    assert found["as recorded"].saving.value == pytest.approx(1 - paid / alone), "shadow calls are in it"
    assert found["as recorded"].loss.value == pytest.approx(found["threshold 0.6"].loss.value)


def test_shadow_calls_cost_what_the_policy_itself_would_draw():
    """A policy with a shadow rate pays that share of large's price on each step that it accepts, whatever was drawn."""
    steps, labels, truth = world(100, shadow=1.0)
    without, with_rate = (
        rows(steps, labels, Policy(threshold=0.6, shadow_rate=rate), ())["policy"].cost.value for rate in (0.0, 0.1)
    )
    accepted = math.fsum(large for p, _, large in truth if p >= 0.6)
    assert with_rate - without == pytest.approx(0.1 * accepted / len(truth))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 5), threshold=scores)
def test_bounds_hold_whatever_is_left_out(data, seed, threshold):
    """Whichever shadow labels are missing, each figure of the whole lies in what the rest says it may be."""
    steps, labels, _ = world(12, seed=seed, threshold=threshold)
    kept = [label for label in labels if data.draw(st.booleans())]
    kept = [replace(label, propensity=None) for label in kept]
    whole, part = rows(steps, labels), rows(steps, kept)
    exact = FIGURES if _ranges_known(steps, kept) else FIGURES[:4]
    for title, name in product(part, exact):
        if title == "as recorded" and name in ("cost", "saving", "oracle_share", "cost_per_success"):
            continue  # without its shadow calls it did cost less
        figure, true = getattr(part[title], name), getattr(whole[title], name).value
        if true is not None:
            assert figure.low is None or figure.low <= true * (1 + 1e-9) + 1e-9, (title, name)
            assert figure.high is None or figure.high >= true * (1 - 1e-9) - 1e-9, (title, name)


def _ranges_known(steps, labels):
    """Return whether each step name has both its cheapest and its dearest large call in the record."""
    seen = {"plan": set(), "act": set()}
    told = {label.step_id: label for label in labels}
    for step in steps:
        calls = [step.attempts[-1]] if step.escalated else [told[step.id].side_call] if step.id in told else []
        seen[step.step].update(call.cost for call in calls)
    return all(len(seen[step.step]) == 2 for step in steps)


def test_an_accept_that_nobody_looked_at_is_an_interval():
    """Accepted steps without a label may be right or wrong: worst and best case, no figure in between."""
    steps, _, truth = world(100, shadow=0.0)
    figures = rows(steps, [])["threshold 0.6"]
    share = sum(p >= 0.6 for p, _, _ in truth) / len(truth)
    assert (figures.success.low, figures.success.high) == (pytest.approx(1 - share), 1.0)
    assert figures.harm.high == pytest.approx(share)
    assert figures.loss.low == pytest.approx(-share), "large may be the one that is wrong"
    assert figures.success.value is figures.success.estimate is None
    assert figures.saving.low < figures.saving.high


def test_large_calls_that_were_never_made_have_no_price():
    """Where large was never asked, its cost is unbounded: the policy that never asks it has a best case alone."""
    steps, _, _ = world(20, shadow=0.0, threshold=0.0)
    found = rows(steps, [])
    assert found["always large"].cost.high is None
    assert found["always large"].saving.value == 0
    assert (found["always small"].saving.low, found["always small"].saving.high) == (None, 1.0)
    high = found["threshold 0.95"]
    assert (high.cost.high, high.saving.high) == (None, 1.0)
    assert high.escalation.value > 0.5, "who escalates is known all the same"


def test_evidence_that_was_never_asked_leaves_the_step_open():
    """A policy that would have asked evidence that is not in the record may accept or escalate."""
    found = (graded("mine", 0.5, "mine"),)
    small = Attempt(tier="small", outcome="rejected", verdicts=found, cost=0.001, answer={"text": "1"})
    large = Attempt(tier="large", outcome="accepted", cost=0.01, answer={"text": "2"})
    step, policy = recorded("1", small, large, askable=("e",)), Policy(threshold=0.9, evidence=(0.4, 0.6))
    figures = rows([step], [], policy, ())["policy"]
    assert (figures.escalation.low, figures.escalation.high) == (0, 1)
    assert (figures.success.low, figures.success.high) == (0, 1)
    assert (figures.cost.low, figures.cost.high) == (pytest.approx(0.001), None), "what it costs was never seen"


def test_estimates_are_near_the_truth_and_bounds_hold_them():
    """With one accepted step in five drawn, the weighted estimate is near the figure of the whole, its interval wider."""
    steps, labels, _ = world(1200, shadow=1.0, seed=3)
    chance = random.Random(0)
    drawn = [replace(label, propensity=0.2) for label in labels if chance.random() < 0.2]
    whole, part = rows(steps, labels), rows(steps, drawn, resamples=100)
    for title in ("threshold 0.2", "threshold 0.6", "threshold 0.95", "always small"):
        for name in ("success", "loss", "harm", "saving", "cost"):
            figure, true = getattr(part[title], name), getattr(whole[title], name).value
            low, high = figure.estimate
            assert low == high == pytest.approx(true, abs=0.025)
            assert figure.low - 1e-12 <= low <= figure.high + 1e-12
    a, b = part["threshold 0.6"].loss.interval
    assert a < whole["threshold 0.6"].loss.value < b
    assert part["threshold 0.2"].p50.estimate[0] == pytest.approx(whole["threshold 0.2"].p50.value, rel=0.05)


def test_propensities_weigh():
    """A step that was drawn with a small probability stands for many."""
    steps, labels, _ = world(2000, shadow=1.0, seed=5, threshold=0.0)
    chance, drawn = random.Random(1), []
    for label in labels:
        rate = 0.9 if label.harm else 0.3  # what goes wrong is drawn three times as often
        if chance.random() < rate:
            drawn.append(replace(label, propensity=rate))
    true, found = rows(steps, labels)["always small"].loss.value, rows(steps, drawn)["always small"].loss
    assert found.estimate[0] == pytest.approx(true, abs=0.02)
    naive = sum(label.harm for label in drawn) / len(drawn)
    assert abs(naive - true) > 0.1


def test_the_interval_draws_episodes():
    """The bootstrap over hashed groups of episodes agrees with one over the episodes themselves, not over steps."""
    steps, labels, truth = world(1000, steps=8, shadow=1.0, seed=2)
    figure = rows(steps, labels, resamples=400)["threshold 0.2"].loss
    items = [(step.thread_id, p >= 0.2 and not right) for step, (p, right, _) in zip(steps, truth, strict=True)]

    def mean(some):
        return sum(lost for _, lost in some) / len(some)

    by_episode = interval(items, mean, episode=lambda item: item[0], resamples=200)
    width, wanted = figure.interval[1] - figure.interval[0], by_episode[1] - by_episode[0]
    assert figure.interval[0] < figure.value < figure.interval[1]
    assert width == pytest.approx(wanted, rel=0.25)


def test_no_resamples_no_interval():
    """Intervals are left out when nobody asks for resamples, or when there is but one episode."""
    steps, labels, _ = world(3, shadow=1.0)
    one = [step for step in steps if step.thread_id == steps[0].thread_id]
    for some, resamples in ((steps, 0), (one, 50)):
        assert rows(some, labels, resamples=resamples)["threshold 0.6"].loss.interval is None


@st.composite
def journals(draw):
    """Steps with their labels."""
    count = draw(st.integers(1, 8))
    steps = [draw(traces(number=i)) for i in range(count)]
    return [(step, draw(labels_of(step))) for step in steps]


@settings(max_examples=25, deadline=None)
@given(journal=journals(), policy=policies, parts=st.lists(st.integers(0, 2), min_size=8, max_size=8), data=st.data())
def test_any_partition_gives_the_identical_result(journal, policy, parts, data):
    """Steps dealt to parts in any way and order, merged in any order: the same tally, the same figures to the last bit."""
    plan = SweepPlan.of(policy, GRID)
    whole = Tally(plan)
    for step, labels in journal:
        whole.add(label_step(step, labels))
    dealt = [Tally(plan) for _ in range(3)]
    order = data.draw(st.permutations(range(len(journal))))
    for i in order:
        dealt[parts[i]].add(label_step(*journal[i]))
    a, b, c = data.draw(st.permutations(dealt))
    left = copy.deepcopy(a).merge(b).merge(c)
    right = copy.deepcopy(a).merge(copy.deepcopy(b).merge(c))
    assert left == right == whole
    if whole.steps > whole.unfinished:
        told = [json.dumps(comparison_of(one, resamples=5).to_json(), sort_keys=True) for one in (whole, left, right)]
        assert told[0] == told[1] == told[2]


def test_tallies_of_other_policies_do_not_merge():
    """Parts that were swept with another grid are refused."""
    with pytest.raises(ConfigurationError, match="same plan"):
        Tally(SweepPlan.of(None, [0.5])).merge(Tally(SweepPlan.of(None, [0.6])))
    assert Tally(SweepPlan.of(None, [0.5])) != Tally(SweepPlan.of(None, [0.6]))


@settings(max_examples=30, deadline=None)
@given(journal=journals(), policy=policies)
def test_every_figure_is_in_order(journal, policy):
    """Whatever is recorded: low is not above high, shares lie in [0, 1], always-large neither saves nor loses."""
    tally = Tally(SweepPlan.of(policy, GRID))
    for step, labels in journal:
        tally.add(label_step(step, labels))
    if tally.steps == tally.unfinished:
        return
    estimates = Estimates(tally, resamples=5)
    baselines = [estimates.baseline(title) for title in BASELINES]
    swept = [estimates.policy(number) for number in range(len(tally.plan.policies))]
    for figures in (figures for found in (*baselines, *swept) for figures in found.values()):
        for figure in (getattr(figures, name) for name in FIGURES):
            for low, high in ((figure.low, figure.high), figure.estimate or (None, None)):
                assert low is None or high is None or low <= high + 1e-9
        for name in ("success", "harm", "escalation"):
            assert 0 <= getattr(figures, name).low <= getattr(figures, name).high <= 1
    assert all(f.loss.low == f.loss.high == 0 for f in baselines[2].values())


def test_the_number_of_episodes_is_exact_and_then_estimated():
    """Up to 4,096 episodes are counted; beyond that the least hashes tell their number, the same from any parts."""
    steps, _, _ = world(10_000, steps=1, shadow=0.0)
    plan = SweepPlan.of(None)
    first, second = tallied(steps[:3000], [], plan), tallied(steps[3000:], [], plan)
    assert first.episode_count == (3000, True)
    count, exact = copy.deepcopy(first).merge(second).episode_count
    assert not exact
    assert count == pytest.approx(10_000, rel=0.06)
    assert count == copy.deepcopy(second).merge(first).episode_count[0]


@given(st.floats(1e-5, 1e5))
def test_buckets_of_latencies_are_two_percent_wide(seconds):
    """A latency is told from its bucket to 1 %."""
    assert middle(bucket(seconds)) == pytest.approx(seconds, rel=0.0101)


def test_plans_are_checked():
    """A threshold outside of [0, 1], no policy at all, or a thousand of them are refused."""
    with pytest.raises(ConfigurationError, match="threshold"):
        SweepPlan.of(None, [1.5])
    with pytest.raises(ConfigurationError, match="0 policies"):
        SweepPlan.of({})
    with pytest.raises(ConfigurationError, match="1001 policies"):
        SweepPlan.of(None, [i / 1000 for i in range(1000)])


def test_policies_by_title_keep_their_order():
    """Several policies, each with the grid: rows in the order asked for, one family per set of other settings."""
    plan = SweepPlan.of({"b": Policy(threshold=0.7), "a": Policy(threshold=0.2, stay_on_large="turn")}, [0.9, 0.5])
    assert plan.titles == ("b", "b at 0.9", "b at 0.5", "a", "a at 0.9", "a at 0.5")
    assert [[p.threshold for p in family] for family in plan.families] == [[0.5, 0.7, 0.9], [0.2, 0.5, 0.9]]
    assert plan.places == ((0, 1), (0, 2), (0, 0), (1, 0), (1, 2), (1, 1))
