"""Tests of the monitors over streams of steps: what each sees, what it does not, what it costs, what it says."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from cascade_agent import Policy, Price, StepTrace, Verdict
from cascade_agent.core.records import Attempt, Label, SideCall, Usage
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.offline.drift import Alarm, DriftReport, DriftWatch, Monitor, values, watch
from cascade_agent.offline.drift.monitors import gravest
from tests.builders import recorded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
USAGE = Usage(input_tokens=1000, output_tokens=100)


def step(
    index: int,
    *,
    escalated: bool = False,
    confidence: float | None = 0.9,
    name: str = "agent",
    model: str | None = "small-1",
    thread: str | None = None,
    costs: tuple[float | None, float | None] = (1.0, 10.0),
    code: str = "",
    **more: object,
) -> StepTrace:
    """A made-up step, a minute after the one before."""
    small = Attempt(
        tier="small",
        model=model,
        outcome="rejected" if escalated else "accepted",
        confidence=confidence,
        verdicts=(Verdict(outcome="abstain", code=code, score=0.5, validator="Own"),) if code else (),
        cost=costs[0],
        usage=USAGE,
    )
    large = Attempt(tier="large", model="large-1", outcome="accepted", cost=costs[1], usage=USAGE)
    fields = {
        "step": name,
        "kind": "call",
        "reason": "low_confidence" if escalated else "accepted",
        "thread_id": thread,
        "started_at": (START + dt.timedelta(minutes=index)).isoformat(),
        **more,
    }
    return recorded(f"s{index}", *((small, large) if escalated else (small,)), **fields)


def stream(seed: int, *parts: tuple[int, float], **more: object) -> Iterator[StepTrace]:
    """Parts of so many steps with such a share of escalated ones; confidence is noise."""
    rng, index = random.Random(seed), 0
    for count, share in parts:
        for _ in range(count):
            yield step(index, escalated=rng.random() < share, confidence=round(rng.betavariate(5, 2), 3), **more)
            index += 1


def by_name(report: DriftReport, name: str, own: str | None = None) -> Monitor:
    """One monitor."""
    return next(m for m in report.monitors if m.name == name and m.step == own)


def fed(steps: Iterable[StepTrace], labels: Iterable[Label] = (), **more: object) -> list[Alarm]:
    """The alarms of a stream whose steps and labels come one by one."""
    watcher, joined, found = DriftWatch(**more), {label.step_id: label for label in labels}, []  # type: ignore[arg-type]
    for s in steps:
        found += watcher.add(s)
        found += watcher.add_label(joined[s.id]) if s.id in joined else ()
    return found


def at(alarms: list[Alarm], monitor: str, own: str | None = None) -> list[int]:
    """The numbers of the steps at which a monitor alarms."""
    return [a.index for a in alarms if (a.monitor, a.step) == (monitor, own)]


# ---- without labels -------------------------------------------------------------------------------------------------


def test_a_stationary_stream_raises_no_alarm() -> None:
    """Over 2,000 equal steps nothing alarms, and the report says what was watched."""
    report = watch(stream(0, (2000, 0.2)), max_loss=0.02)
    assert (report.alarms, report.alarmed, report.steps) == ((), False, 2000)
    assert by_name(report, "escalation").value == pytest.approx(0.2, abs=0.03)
    assert by_name(report, "confidence (PSI)").value is not None


def test_more_escalations_alarm_once_with_place_and_advice() -> None:
    """A rise of the escalated share alarms within 300 steps, once, and says from, to, since when and what to do."""
    found = fed(stream(1, (1000, 0.1), (1000, 0.6)))
    (alarm,) = [a for a in found if a.monitor == "escalation"]
    assert 1000 <= alarm.index < 1300
    assert alarm.before == pytest.approx(0.1, abs=0.03)
    assert (alarm.after or 0) > 0.3
    assert abs(alarm.index - (alarm.since or 0) - 1000) < 100
    assert alarm.at == step(alarm.index).started_at
    assert "rose from" in alarm.what
    assert "shadow_rate" in alarm.advice


def test_a_change_too_small_to_act_on_is_no_alarm() -> None:
    """A change of the mean by .018 is followed and raises nothing, however sure it is."""
    report = watch(step(i, confidence=0.9 if i < 1000 else 0.918) for i in range(3000))
    assert by_name(report, "confidence").count == 0
    assert 0.912 < (by_name(report, "confidence").value or 0.0) <= 0.918, "an older part is dropped"


@pytest.mark.parametrize(
    ("monitor", "before", "after"),
    [
        ("finding (PSI)", {"code": "one"}, {"code": "two"}),
        ("kind (PSI)", {"kind": "call"}, {"kind": "text"}),
        ("kind (PSI)", {"name": "agent"}, {"name": "writer"}),
        ("reason (PSI)", {"reason": "accepted"}, {"reason": "other"}),
        ("confidence (PSI)", {"confidence": 0.9}, {"confidence": None}),
    ],
)
def test_each_distribution_is_watched(monitor: str, before: dict[str, object], after: dict[str, object]) -> None:
    """Findings, kinds, names, reasons and confidences alarm by their shares when half of the steps change."""
    found = fed(step(i, **(after if i >= 950 and i % 2 else before)) for i in range(1300))
    assert {a.monitor for a in found} == {monitor}
    assert found[0].index >= 950


def test_steps_of_a_name_are_watched_by_themselves() -> None:
    """A change in one of two kinds of step alarms for its name alone; one name is the same as all, and keeps its past."""
    rng, steps = random.Random(5), []
    for index in range(3000):
        name = rng.choice(["rare", "common", "common", "common"])
        share = 0.9 if name == "rare" and index >= 1500 else 0.1
        steps.append(step(index, name=name, escalated=rng.random() < share, confidence=None))
    found = fed(steps)
    assert len(at(found, "escalation", "rare")) == 1
    assert at(found, "escalation", "common") == []
    watcher = DriftWatch()
    for index in range(50):
        watcher.add(step(index))
    assert {m.step for m in watcher.report().monitors} == {None}
    watcher.add(step(50, name="other"))
    assert [by_name(watcher.report(), "escalation", name).n for name in (None, "agent", "other")] == [51, 50, 1]


def test_names_and_chances_are_bounded() -> None:
    """Twenty names have monitors of their own; all chances of false alarms together stay below the stated one."""
    for names in (1, 50):
        report = watch((step(i, name=f"n{i % names}") for i in range(100)), max_loss=0.01, false_alarms=0.08)
        assert sum(m.false_alarms or 0.0 for m in report.monitors) <= 0.08 + 1e-12
    assert len({m.step for m in report.monitors if m.step}) == 20
    assert any("60 steps have names beyond the first 20" in note for note in report.notes)


def test_another_policy_is_a_fact_and_starts_anew() -> None:
    """A new policy version is no drift: what was learned of the old one is void; an old one in turn changes nothing."""
    parts = (600, 0.1), (400, 0.7)
    report = watch(replace(s, policy="a" if i < 600 else "b") for i, s in enumerate(stream(2, *parts)))
    assert report.alarms == ()
    assert [(f.what, f.index, f.before, f.after) for f in report.facts] == [("policy", 600, "a", "b")]
    in_turn = watch(replace(s, policy="ab"[i % 2]) for i, s in enumerate(stream(2, *parts)))
    assert [f.index for f in in_turn.facts] == [1]
    assert by_name(in_turn, "escalation").count == 1


def test_another_small_model_is_a_fact_and_one_that_was_not_calibrated_an_alarm() -> None:
    """A changed model stands with both names, once; so does one that comes back after long, not one in turn.

    A certificate names its models: another small model is an alarm, at once and once. Of very many the last are kept.
    """
    steps = [step(i, model="b" if 50 <= i < 1200 else "a") for i in range(1210)]
    report = watch(steps)
    assert [(f.what, f.step, f.index, f.before, f.after) for f in report.facts] == [
        ("small_model", "agent", 50, "a", "b"),
        ("small_model", "agent", 1200, "b", "a"),
    ]
    assert not report.alarmed
    assert len(watch(step(i, model=f"small-{i % 2}") for i in range(100)).facts) == 1
    (alarm,) = fed(steps, policy=Policy(provenance={"models": ["a", "large-1"]}))
    assert (alarm.monitor, alarm.index) == ("small model", 50)
    assert "'b'" in alarm.what
    many = watch((step(i, model=f"m{i}") for i in range(1000)), policy=Policy(provenance={"models": ["small-1"]}))
    assert (len(many.facts), many.facts[-1].after) == (200, "m999")
    assert any("799 older facts" in note for note in many.notes)
    small = by_name(many, "small model")
    assert (small.count, len(small.alarms)) == (200, 20)


def test_changes_before_since_are_learned_and_raise_nothing() -> None:
    """A change before `since` raises nothing, nor does harm; one after it does."""
    steps, since = list(stream(1, (600, 0.1), (600, 0.6), (600, 0.1))), START + dt.timedelta(minutes=1000)
    (found,) = at(fed(steps, since=since), "escalation")
    assert found >= 1200
    assert watch(steps[:2], since=since).since == since.isoformat()
    assert fed(*shadowed(2, 500, 0.3), max_loss=0.02, since=START + dt.timedelta(days=9)) == []


@pytest.mark.parametrize(
    ("time", "counts"), [(None, True), ("yesterday", True), ("2026-01-01T00:00:00", False), ("2026-03-01", True)]
)
def test_a_time_that_cannot_be_read_counts(time: str | None, counts: bool) -> None:
    """A step whose time is missing or unreadable is not taken to be before `since`; one without a zone is in UTC."""
    watcher = DriftWatch(since=START + dt.timedelta(days=30), policy=Policy(provenance={"models": ["another"]}))
    assert bool(watcher.add(replace(step(0), started_at=time))) is counts


def test_steps_that_say_nothing() -> None:
    """Unfinished and repeated steps are counted and not watched; no step gives a report; a nameless model is no fact."""
    steps = [step(0), step(0), *(step(i + 1, outcome=o) for i, o in enumerate(("cancelled", "interrupted", "error")))]
    report = watch(steps)
    assert (report.steps, report.repeated, report.unfinished) == (1, 1, 3)
    report = watch(())
    assert (report.steps, report.alarmed, report.first) == (0, False, None)
    policy = Policy(provenance={"models": ["small-1"]})
    report = watch([step(i, model=None) for i in range(50)], policy=policy, prices={})
    assert (report.facts, report.alarmed, report.savings[1].known) == ((), False, 0)


def test_a_skipped_small_tier_has_no_confidence() -> None:
    """A step that did not ask small counts as escalated and says nothing of confidence."""
    skipped = Attempt(tier="small", outcome="skipped", cost=0.0)
    large = Attempt(tier="large", model="large-1", outcome="accepted", cost=10.0)
    report = watch([recorded("s0", skipped, large)])
    assert by_name(report, "escalation").value == 1.0
    assert by_name(report, "confidence").n == 0
    assert report.savings[0].cost == report.savings[0].always_large == 10.0
    assert report.savings[0].saving == 0.0


fail, passed = (partial(Verdict, outcome=outcome) for outcome in ("fail", "pass"))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((), "-"),
        ((passed(score=1.0, code="fine", validator="A"),), "-"),
        ((Verdict(outcome="abstain", code="validator_error", validator="A"),), "-"),
        ((passed(score=0.4, code="b", validator="A"),), "A:b"),
        ((passed(score=0.0, code="low", validator="A"), fail(score=0.9, code="soft", validator="B")), "B:soft"),
        ((fail(score=0.0, code="soft", validator="B"), fail(code="hard", validator="C")), "C:hard"),
    ],
)
def test_the_gravest_finding(verdicts: tuple[Verdict, ...], expected: str) -> None:
    """Hard before soft before graded, the lowest score first; a draft that nothing speaks against has none."""
    assert gravest(verdicts) == expected


# ---- with labels ----------------------------------------------------------------------------------------------------


def shadowed(
    seed: int, n: int, harm: float, *, rate: float = 0.2, escalated: float = 0.2, source: str = "shadow", **more: object
) -> tuple[list[StepTrace], list[Label]]:
    """Steps of which a share escalates, and labels of a share of the others with such a share of harm."""
    rng = random.Random(seed)
    steps, labels = [], []
    for index in range(n):
        steps.append(step(index, escalated=rng.random() < escalated, confidence=None, **more))
        harmful, seen = rng.random() < harm, rng.random() < rate
        if seen and not steps[-1].escalated:
            p = rate if source == "shadow" else None
            labels.append(Label(step_id=f"s{index}", source=source, right=not harmful, harm=harmful, propensity=p))
    return steps, labels


@pytest.mark.slow
def test_harm_above_the_certified_loss_is_found_and_below_it_is_not() -> None:
    """Harm at the bound raises nothing in 3 streams of 2,000 steps; at eight times it each stream alarms."""
    for seed in range(3):
        assert fed(*shadowed(seed, 2000, 0.024), max_loss=0.02) == []
        assert fed(*shadowed(seed, 2000, 0.16), max_loss=0.02)


def test_a_labelled_alarm_says_where_and_what_to_do() -> None:
    """It names the kind of step with the most harm, the counts, and says to escalate it and to calibrate."""
    good, (bad, harm) = shadowed(1, 700, 0.0, rate=0.5), shadowed(2, 700, 0.3, rate=0.5)
    steps = [*good[0], *(replace(s, step="risky", id=f"r{s.id}") for s in bad)]
    labels = [*good[1], *(replace(label, step_id=f"r{label.step_id}") for label in harm)]
    alarm = fed(steps, labels, max_loss=0.02)[0]
    assert (alarm.monitor, alarm.step) == ("harm (shadow)", "risky")
    assert alarm.index >= 700
    assert "'risky'" in alarm.advice
    assert "calibrate" in alarm.advice


def test_the_bound_comes_from_the_certificate() -> None:
    """A calibrated policy brings its greatest loss; steps of other policies are not held against it."""
    policy = Policy(threshold=0.5, provenance={"certificate": {"max_loss": 0.02, "risk": "harm"}})
    steps, labels = shadowed(3, 700, 0.3, policy=policy.version)
    assert fed(steps, labels, policy=policy)
    others = [replace(s, policy="other") for s in steps]
    report = watch(others, labels, policy=policy)
    assert not report.alarmed
    assert any("no step ran under the given policy" in note for note in report.notes)
    assert fed(others, labels, policy=policy, max_loss=0.02)


def test_without_a_certified_loss_nothing_labelled_is_claimed() -> None:
    """A policy that was not certified has no labelled monitor, and the report says so; nor is one without a label blind."""
    for wrong in ({}, {"certificate": None}, {"certificate": {"max_loss": "x"}}, {"certificate": {}}):
        report = watch(*shadowed(3, 20, 0.5), policy=Policy(provenance=wrong))
        assert not any(m.knowledge == "labelled" for m in report.monitors)
        assert any("no certified loss" in note for note in report.notes)
    assert any("no label" in note for note in watch([step(0)], max_loss=0.1).notes)


def test_a_selective_certificate_is_about_the_answered_steps() -> None:
    """`selective_error` is held against wrong answers among the labelled ones, harmful or not."""
    policy = Policy(threshold=0.5, provenance={"certificate": {"max_loss": 0.05, "risk": "selective_error"}})
    steps, labels = shadowed(4, 700, 0.4, policy=policy.version)
    found = fed(steps, [replace(label, harm=False) for label in labels], policy=policy)
    assert found[0].monitor == "harm (shadow)"
    assert "wrong more often" in found[0].what
    assert fed(steps, [replace(label, right=True, harm=False) for label in labels], policy=policy) == []


@pytest.mark.parametrize("source", ["person", "evaluator"])
def test_people_and_evaluators_have_a_monitor_of_their_own(source: str) -> None:
    """Their labels need no propensity: harm above the bound alarms, at the bound it does not; wrong counts as harm."""
    steps, labels = shadowed(5, 700, 0.3, source=source)
    found = fed(steps, [replace(label, harm=None) for label in labels], max_loss=0.02)
    assert {a.monitor for a in found} == {"harm (person, evaluator)"}
    assert fed(*shadowed(0, 1500, 0.024, source=source), max_loss=0.02) == []


def test_labels_that_are_no_sample_move_nothing() -> None:
    """Labels that were not drawn at random, have no propensity or say nothing are no evidence of harm."""
    steps, labels = shadowed(6, 300, 0.5)
    assert fed(steps, labels, max_loss=0.02)
    changes = [{"source": "tool_error"}, {"source": "escalation"}, {"propensity": None}, {"propensity": 0.0}]
    for change in (*changes, {"right": None, "harm": None}):
        assert fed(steps, [replace(label, **change) for label in labels], max_loss=0.02) == []  # type: ignore[arg-type]


def test_a_conversation_counts_once_in_a_while() -> None:
    """Harm in twenty steps of one conversation is one harm, in an endless one they count again; so do judged labels."""
    base = [step(i, thread="calm") for i in range(300)]
    bad = [step(300 + i, thread="bad") for i in range(20)]
    shadow = partial(Label, source="shadow", propensity=0.5)
    labels = [shadow(step_id=s.id, right=True, harm=False) for s in base[::2]]
    labels += [shadow(step_id=s.id, right=False, harm=True) for s in bad]
    assert fed([*base, *bad], labels, max_loss=0.02) == []
    assert fed([*base, *(replace(s, thread_id=s.id) for s in bad)], labels, max_loss=0.02)
    assert fed(*shadowed(7, 1500, 0.5, thread="only"), max_loss=0.02)
    judged = [Label(step_id=s.id, source="person", right=False) for s in bad[:15]]
    assert by_name(watch(bad[:15], judged, max_loss=0.02), "harm (person, evaluator)").n == 1


def test_labels_of_escalated_steps_and_of_no_step() -> None:
    """A label of a step that large answered is no harm; one of an unknown step is an orphan."""
    watcher = DriftWatch(max_loss=0.02)
    watcher.add(step(0, escalated=True))
    assert watcher.add_label(Label(step_id="s0", source="shadow", harm=True, propensity=0.5)) == ()
    assert watcher.add_label(Label(step_id="gone", source="shadow", harm=True, propensity=0.5)) == ()
    report = watcher.report()
    assert (report.labels, report.orphans) == (1, 1)
    assert by_name(report, "harm (shadow)").n == 0


def test_labels_that_come_late_count() -> None:
    """Labels that come when all steps are over are joined to their steps, and the alarm is that of the step."""
    steps, labels = shadowed(9, 300, 0.4)
    watcher = DriftWatch(policy=Policy(shadow_rate=0.2), max_loss=0.02)
    for s in steps:
        watcher.add(s)
    alarms = [alarm for label in labels for alarm in watcher.add_label(label)]
    assert alarms[0].at == step(alarms[0].index).started_at


def test_threads_may_feed_it_at_once() -> None:
    """Steps added by several threads are all counted."""
    watcher = DriftWatch()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: [watcher.add(step(k * 1000 + i)) for i in range(100)], range(4)))
    assert watcher.report().steps == 400


def test_memory_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """State after 4,000 steps of ever new threads, names, codes and models is as large as after 3,000."""
    monkeypatch.setattr(values, "REMEMBERED", 500)
    watcher, sizes = DriftWatch(max_loss=0.02), []
    rng = random.Random(0)
    for index in range(4_000):
        odd = f"x{index}"
        trace = step(index, name=odd, code=odd, model=odd, thread=odd, escalated=rng.random() < 0.1, policy="p")
        watcher.add(trace)
        watcher.add_label(Label(step_id=trace.id, source="shadow", harm=rng.random() < 0.02, propensity=0.5))
        if index + 1 in (3_000, 4_000):
            state = {k: v for k, v in watcher.__dict__.items() if k != "_lock"}
            sizes.append(len(pickle.dumps(state)))
    assert sizes[1] < sizes[0] * 1.1


def test_harm_under_an_old_policy_is_forgotten_under_the_next() -> None:
    """Evidence gathered under one policy is no evidence against another one."""
    watcher = DriftWatch(max_loss=0.02)
    for i in range(300):
        watcher.add(step(i, policy="a"))
        if i % 10 == 0:
            watcher.add_label(Label(step_id=f"s{i}", source="shadow", harm=i % 200 == 100, propensity=0.1))
    assert (by_name(watcher.report(), "harm (shadow)").value or 0) > 100
    watcher.add(step(300, policy="b"))
    assert (by_name(watcher.report(), "harm (shadow)").value or 0) < 100


# ---- money ----------------------------------------------------------------------------------------------------------


def test_without_shadow_calls_the_saving_lies_between_two_numbers() -> None:
    """On steps that small answered, large cost no less than small and no more than its dearest recorded call."""
    saving = watch(step(i, escalated=i % 5 == 0) for i in range(500)).savings[0]
    assert (saving.basis, saving.known, saving.unknown, saving.stopped) == ("recorded", 500, 0, None)
    assert (saving.saving, saving.always_large) == (None, None)
    assert saving.low == pytest.approx(1 - (1 + 10 * 0.2) / (0.8 * 1 + 0.2 * 10))
    assert saving.high == pytest.approx(1 - (1 + 10 * 0.2) / 10)
    assert saving.recent == pytest.approx(0.7, abs=1e-9)


def test_unknown_costs_stay_unknown() -> None:
    """A missing cost, another currency, or no large answer to compare with is never taken for 0."""
    never = watch(step(i) for i in range(50)).savings[0]
    assert (never.saving, never.always_large) == (None, None)
    assert watch(step(i, escalated=True, costs=(None, 10.0)) for i in range(50)).savings[0].known == 0
    saving = watch(step(i, escalated=True, currency="EUR" if i % 2 else "USD") for i in range(50)).savings[0]
    assert (saving.known, saving.unknown, saving.currency) == (25, 25, "USD")
    evidence = (SideCall(name="CrossCheck", cost=None),)
    assert watch(step(i, escalated=True, evidence=evidence) for i in range(50)).savings[0].unknown == 50


def test_it_says_when_the_policy_stopped_paying_and_that_it_pays_again() -> None:
    """When small fails on nearly every step, the date from which on it cost more than always-large is named."""
    rng, shares = random.Random(1), (0.2, 0.97, 0.97, 0.2)
    watcher, alarms = DriftWatch(), []
    for index in range(2000):
        if index == 1500:
            saving = watcher.report().savings[0]
        alarms += watcher.add(step(index, escalated=rng.random() < shares[index // 500]))
    (alarm,) = [a for a in alarms if a.monitor == "saving (recorded prices)"]
    assert 480 <= (saving.stopped_index or 0) < 700
    day = (START + dt.timedelta(minutes=saving.stopped_index)).date().isoformat()
    assert f"stopped paying on {day}" in alarm.what
    assert alarm.since == alarm.index - saving.stopped_index
    assert -0.12 < (saving.since_stopped or 0) < 0.0
    report = watcher.report()
    assert report.savings[0].stopped is None
    assert by_name(report, "saving (recorded prices)").count == 1


def test_evidence_and_shadow_calls_are_paid() -> None:
    """Evidence and shadow calls are part of the cost, and a shadow call says what large costs."""
    steps = [step(i, evidence=(SideCall(name="CrossCheck", cost=2.0),)) for i in range(100)]
    spend = SideCall(name="shadow", cost=10.0)
    shadow = partial(Label, source="shadow", right=True, harm=False, propensity=0.5, side_call=spend)
    labels = [shadow(step_id=s.id) for s in steps[::2]]
    saving = watch(steps, labels, max_loss=0.1).savings[0]
    assert saving.known == 100
    assert saving.cost == pytest.approx(100 * 3.0 + 50 * 10.0)
    assert saving.always_large == pytest.approx(100 * 10.0)


def test_other_prices_price_the_tokens_anew() -> None:
    """With prices given, recorded tokens are priced by them next to the recorded costs, and the alarm is theirs."""
    rng = random.Random(1)
    steps = [step(i, escalated=rng.random() < 0.2) for i in range(500)]
    prices = {"small-1": Price(9.0, 9.0, source="list", date="2026-03-02"), "large-1": Price(10.0, 10.0)}
    report = watch(steps, prices=prices)
    recorded, anew = report.savings
    assert (recorded.high or 0) > 0.6
    assert anew.basis == "given"
    assert anew.high == pytest.approx(1 - (0.9 + 0.2), abs=0.05)
    assert "small-1: list, 2026-03-02" in anew.source
    assert by_name(report, "saving (recorded prices)").count == 0
    assert by_name(report, "saving (given prices)").count == 1
    assert watch(steps, prices=prices.get) == report
    assert watch(steps[:50], prices={"large-1": Price(1.0, 1.0)}).savings[1].known == 0
    spend = SideCall(name="shadow", usage=Usage(input_tokens=1000, output_tokens=100))
    labels = [Label(step_id=s.id, source="shadow", right=True, propensity=0.1, side_call=spend) for s in steps]
    assert (watch(steps, labels, prices=prices).savings[1].cost or 0) > (anew.cost or 0)
    many = [step(i, escalated=True, model=f"m{i}") for i in range(100)]
    saving = watch(many, prices=lambda _: Price(1.0, 2.0)).savings[1]
    assert saving.known == 100
    assert saving.source.count(";") < 20, "the sources of prices stay short"


# ---- values ---------------------------------------------------------------------------------------------------------


def test_a_stream_fed_is_a_stream_watched_and_its_report_goes_to_json_and_back() -> None:
    """Fed one by one the alarms are those of `watch`, whose report is the same through JSON text, without what is new."""
    steps, labels = shadowed(8, 800, 0.3)
    steps = [replace(s, policy="a" if i < 50 else "b") for i, s in enumerate(steps)]
    report = watch(steps, labels, max_loss=0.02, since=START)
    assert report.alarms == tuple(fed(steps, labels, max_loss=0.02, since=START))
    assert report.alarms
    assert report.facts
    data = json.loads(json.dumps({**report.to_json(), "of_later_versions": 1}, allow_nan=False))
    assert DriftReport.from_json(data) == report


def test_what_is_no_report_is_refused() -> None:
    """A missing field or one of another type is named."""
    good = watch([step(0)]).to_json()
    for change, part in (
        ({"steps": "3"}, "steps"),
        ({"monitors": [{"name": "x"}]}, "method"),
        ({"facts": ["x"]}, "a Fact"),
    ):
        with pytest.raises(RecordError, match=part):
            DriftReport.from_json({**good, **change})


def test_impossible_settings_are_refused() -> None:
    """Chances outside of (0, 1) and times without a zone are refused at construction."""
    no_zone = dt.datetime.fromisoformat("2026-01-01")
    for name, value in (*(("false_alarms", v) for v in (0.0, 1.0, True)), ("max_loss", 1.5), ("since", no_zone)):
        with pytest.raises(ConfigurationError):
            DriftWatch(**{name: value})  # type: ignore[arg-type]
