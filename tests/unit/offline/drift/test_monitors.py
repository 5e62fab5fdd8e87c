"""Tests of the monitors over streams of steps: what each sees, what it does not, what it costs, what it says."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade_agent import Policy, Price, StepTrace, Verdict
from cascade_agent.core.records import Attempt, Label, SideCall, Usage
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.offline.drift import Alarm, DriftReport, DriftWatch, Fact, Monitor, Saving, watch
from cascade_agent.offline.drift.monitors import gravest
from tests.builders import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
BIG = 1_000_000


def step(
    index: int,
    *,
    escalated: bool = False,
    confidence: float | None = 0.9,
    name: str = "agent",
    kind: str = "call",
    model: str | None = "small-1",
    policy: str | None = None,
    thread: str | None = None,
    costs: tuple[float | None, float | None] = (1.0, 10.0),
    code: str = "",
    **more: object,
) -> StepTrace:
    """A made-up step, a minute after the one before."""
    verdicts = (Verdict(outcome="abstain", code=code, score=0.5, validator="Own"),) if code else ()
    small = Attempt(
        tier="small",
        model=model,
        outcome="rejected" if escalated else "accepted",
        confidence=confidence,
        verdicts=verdicts,
        cost=costs[0],
        usage=Usage(input_tokens=1000, output_tokens=100),
    )
    large = Attempt(
        tier="large",
        model="large-1",
        outcome="accepted",
        cost=costs[1],
        usage=Usage(input_tokens=1000, output_tokens=100),
    )
    given_ = {
        "id": f"s{index}",
        "outcome": "escalated" if escalated else "accepted",
        "reason": "low_confidence" if escalated else "accepted",
        "attempts": (small, large) if escalated else (small,),
        "final": int(escalated),
    }
    return StepTrace(
        step=name,
        kind=kind,
        policy=policy,
        thread_id=thread,
        started_at=(START + dt.timedelta(minutes=index)).isoformat(),
        **{**given_, **more},  # type: ignore[arg-type]
    )


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


# ---- without labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(examples(1, 6)))
def test_a_stationary_stream_raises_no_alarm(seed: int) -> None:
    """Over 5,000 equal steps nothing alarms, and the report says what was watched."""
    report = watch(stream(seed, (5000, 0.2)), max_loss=0.02)
    assert report.alarms == ()
    assert not report.alarmed
    assert report.steps == 5000
    assert by_name(report, "escalation").value == pytest.approx(0.2, abs=0.03)
    assert by_name(report, "confidence (PSI)").value is not None


def test_more_escalations_are_told_with_place_and_advice() -> None:
    """A rise of the escalated share alarms within 300 steps and says from, to, since when and what to do."""
    report = watch(stream(1, (2000, 0.1), (1000, 0.5)))
    alarm = by_name(report, "escalation").alarms[0]
    assert 2000 <= alarm.index < 2300
    assert alarm.before == pytest.approx(0.1, abs=0.03)
    assert alarm.after is not None
    assert alarm.after > 0.3
    assert alarm.since is not None
    assert abs(alarm.index - alarm.since - 2000) < 100
    assert alarm.at == step(alarm.index).started_at
    assert "rose from" in alarm.what
    assert "shadow_rate" in alarm.advice


def test_a_change_too_small_to_act_on_is_not_told() -> None:
    """A change of the mean by .01 is followed and raises nothing, however sure it is."""
    steps = (step(i, confidence=0.90 if i < 3000 else 0.91) for i in range(6000))
    report = watch(steps)
    assert by_name(report, "confidence").count == 0
    assert 0.905 < (by_name(report, "confidence").value or 0.0) <= 0.91


def test_one_change_is_one_alarm_of_a_monitor() -> None:
    """The same change is told once by each mean, not at every check."""
    report = watch(stream(1, (2000, 0.1), (2000, 0.6)))
    assert by_name(report, "escalation").count == 1


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
    steps = (step(i, **(after if i >= 1500 and i % 2 else before)) for i in range(2200))
    alarm = by_name(watch(steps), monitor).alarms[0]
    assert 1500 <= alarm.index < 1900


def test_steps_of_a_name_are_watched_by_themselves() -> None:
    """A change in one of two kinds of step is told for its name alone, once there are two names."""
    rng = random.Random(5)
    steps = []
    for index in range(8000):
        name = rng.choice(["rare", *["common"] * 9])
        share = 0.9 if name == "rare" and index >= 4000 else 0.1
        steps.append(step(index, name=name, escalated=rng.random() < share, confidence=None))
    report = watch(steps)
    assert by_name(report, "escalation", "rare").count == 1
    assert by_name(report, "escalation", "common").count == 0
    watched = {m.step for m in watch(steps[:1]).monitors}
    assert watched == {None}, "one name is the same as all"


def test_the_first_name_keeps_what_was_seen_before_the_second() -> None:
    """When a second name comes, the first goes on with its own history, not from nothing."""
    steps = [step(i) for i in range(500)] + [step(500, name="other")]
    report = watch(steps)
    assert by_name(report, "escalation", "agent").n == 500
    assert by_name(report, "escalation", "other").n == 1


def test_names_beyond_the_limit_are_watched_together() -> None:
    """Only so many names have monitors of their own; the report says how many steps have none."""
    report = watch(step(i, name=f"n{i % 50}") for i in range(500))
    assert len({m.step for m in report.monitors if m.step}) == 20
    assert any("beyond the first 20" in note for note in report.notes)


def test_the_chances_of_false_alarms_add_up() -> None:
    """However many names there are, the chances of all monitors together stay below the stated one."""
    for names in (1, 2, 7, 50):
        report = watch((step(i, name=f"n{i % names}") for i in range(200)), max_loss=0.01, false_alarms=0.08)
        assert sum(m.false_alarms or 0.0 for m in report.monitors) <= 0.08 + 1e-12


def test_another_policy_is_a_fact_and_starts_anew() -> None:
    """A new policy version is no drift: what was learned of the old one is void; an old one in turn changes nothing."""
    steps = [replace(s, policy="a" if i < 2000 else "b") for i, s in enumerate(stream(2, (2000, 0.1), (1000, 0.7)))]
    report = watch(steps)
    assert report.alarms == ()
    assert [(f.what, f.index, f.before, f.after) for f in report.facts] == [("policy", 2000, "a", "b")]
    in_turn = watch(replace(s, policy="ab"[i % 2]) for i, s in enumerate(stream(2, (2000, 0.1), (1000, 0.7))))
    assert [f.index for f in in_turn.facts] == [1]
    assert by_name(in_turn, "escalation").count == 1


def test_another_small_model_is_a_fact() -> None:
    """A changed name of a model is told with both names, once, for either tier; one that takes turns is not repeated."""
    steps = [step(i, model="small-1" if i < 50 else "small-2") for i in range(100)]
    report = watch(steps)
    assert [(f.what, f.step, f.index, f.before, f.after) for f in report.facts] == [
        ("small_model", "agent", 50, "small-1", "small-2")
    ]
    assert not report.alarmed
    in_turn = watch(step(i, model=f"small-{i % 2}") for i in range(500))
    assert len(in_turn.facts) == 1
    back = watch(step(i, model="b" if 1500 <= i < 3000 else "a") for i in range(4000))
    assert [f.after for f in back.facts] == ["b", "a"]


def test_facts_and_strange_models_are_kept_within_limits() -> None:
    """Of a thousand models the last 200 changes are kept, and 200 of them are alarms; the rest is counted."""
    policy = Policy(provenance={"models": ["small-1"]})
    report = watch((step(i, model=f"m{i}") for i in range(1000)), policy=policy)
    assert len(report.facts) == 200
    assert report.facts[-1].after == "m999"
    assert any("799 older facts" in note for note in report.notes)
    small = by_name(report, "small model")
    assert (small.count, len(small.alarms)) == (200, 20)


def test_a_model_without_a_name_is_no_fact_and_has_no_price() -> None:
    """Where the record names no model nothing is compared and nothing is priced."""
    steps = [step(i, model=None) for i in range(50)]
    report = watch(steps, policy=Policy(provenance={"models": ["small-1"]}), prices={})
    assert report.facts == ()
    assert not report.alarmed
    assert report.savings[1].known == 0


def test_many_models_are_told_in_one_line() -> None:
    """The sources of prices stay short, however many models there are."""
    steps = [step(i, escalated=True, model=f"m{i}") for i in range(100)]
    saving = watch(steps, prices=lambda _: Price(1.0, 2.0)).savings[1]
    assert saving.known == 100
    assert saving.source.count(";") < 20


def test_a_model_that_the_policy_was_not_calibrated_with_is_an_alarm() -> None:
    """A certificate names its models; another small model is an alarm, at once and once."""
    policy = Policy(threshold=0.5, provenance={"models": ["small-1", "large-1"]})
    report = watch((step(i, model="small-1" if i < 50 else "small-2") for i in range(300)), policy=policy)
    assert [(a.monitor, a.index) for a in report.alarms] == [("small model", 50)]
    assert "'small-2'" in report.alarms[0].what


def test_what_was_before_since_is_learned_and_not_told() -> None:
    """A change before `since` raises nothing; one after it does."""
    steps = list(stream(1, (2000, 0.1), (2000, 0.6), (2000, 0.1)))
    since = START + dt.timedelta(minutes=3000)
    report = watch(steps, since=since)
    assert [a.index >= 4000 for a in by_name(report, "escalation").alarms] == [True]
    assert report.since == since.isoformat()
    assert watch(steps[:4000], since=since).alarms == ()


def test_a_time_that_cannot_be_read_counts() -> None:
    """A step whose time is missing or unreadable is not taken to be before `since`; one without a zone is in UTC."""
    for at, told in ((None, True), ("yesterday", True), ("2026-01-01T00:00:00", False), ("2026-03-01", True)):
        watcher = DriftWatch(since=START + dt.timedelta(days=30))
        assert watcher._counts(at) is told


def test_unfinished_and_repeated_steps_are_left_out() -> None:
    """Steps without an end and steps read twice are counted and not watched."""
    steps = [step(0), step(0), *(step(i + 1, outcome=o) for i, o in enumerate(("cancelled", "interrupted", "error")))]
    report = watch(steps)
    assert (report.steps, report.repeated, report.unfinished) == (1, 1, 3)


def test_an_empty_stream_is_a_report_of_nothing() -> None:
    """No step gives a report without alarms."""
    report = watch(())
    assert (report.steps, report.alarmed, report.first) == (0, False, None)


def test_a_skipped_small_tier_has_no_confidence() -> None:
    """A step that did not ask small counts as escalated and tells nothing of confidence."""
    skipped = Attempt(tier="small", outcome="skipped", cost=0.0)
    large = Attempt(tier="large", model="large-1", outcome="accepted", cost=10.0)
    report = watch([step(0, escalated=True, attempts=(skipped, large))])
    assert by_name(report, "escalation").value == 1.0
    assert by_name(report, "confidence").n == 0
    assert report.savings[0].cost == report.savings[0].always_large == 10.0
    assert report.savings[0].saving == 0.0


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((), "-"),
        ((Verdict(outcome="pass", score=1.0, code="fine", validator="A"),), "-"),
        ((Verdict(outcome="abstain", code="validator_error", validator="A"),), "-"),
        ((Verdict(outcome="pass", score=0.4, code="b", validator="A"),), "A:b"),
        (
            (
                Verdict(outcome="pass", score=0.0, code="low", validator="A"),
                Verdict(outcome="fail", score=0.9, code="soft", validator="B"),
            ),
            "B:soft",
        ),
        (
            (
                Verdict(outcome="fail", score=0.0, code="soft", validator="B"),
                Verdict(outcome="fail", code="hard", validator="C"),
            ),
            "C:hard",
        ),
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
    """Harm at the bound raises nothing in 8 streams of 3,000 steps; at eight times it each stream alarms."""
    for seed in range(8):
        assert not watch(*shadowed(seed, 3000, 0.024), max_loss=0.02).alarmed
        assert watch(*shadowed(seed, 3000, 0.16), max_loss=0.02).alarmed


def test_a_labelled_alarm_says_where_and_what_to_do() -> None:
    """It names the kind of step with the most harm, the counts, and says to escalate it and to calibrate."""
    good = shadowed(1, 1500, 0.0, rate=0.5)
    steps = [replace(s, step="risky", id=f"r{i}") for i, s in enumerate(shadowed(2, 1500, 0.3, rate=0.5)[0])]
    labels = [replace(label, step_id=f"r{label.step_id[1:]}") for label in shadowed(2, 1500, 0.3, rate=0.5)[1]]
    report = watch([*good[0], *steps], [*good[1], *labels], max_loss=0.02)
    alarm = report.alarms[0]
    assert (alarm.monitor, alarm.step) == ("harm (shadow)", "risky")
    assert alarm.index >= 1500
    assert "'risky'" in alarm.advice
    assert "calibrate" in alarm.advice
    assert by_name(report, "harm (shadow)").knowledge == "labelled"


def test_the_bound_comes_from_the_certificate() -> None:
    """A calibrated policy brings its greatest loss; steps of other policies are not held against it."""
    certificate = {"max_loss": 0.02, "risk": "harm"}
    policy = Policy(threshold=0.5, provenance={"certificate": certificate})
    steps, labels = shadowed(3, 1500, 0.2, policy=policy.version)
    assert watch(steps, labels, policy=policy).alarmed
    other = watch([replace(s, policy="other") for s in steps], labels, policy=policy)
    assert not other.alarmed
    assert any("no step ran under the given policy" in note for note in other.notes)
    assert watch([replace(s, policy="other") for s in steps], labels, policy=policy, max_loss=0.02).alarmed


@pytest.mark.parametrize("wrong", [{}, {"certificate": None}, {"certificate": {"max_loss": "x"}}, {"certificate": {}}])
def test_without_a_certified_loss_nothing_labelled_is_claimed(wrong: dict[str, object]) -> None:
    """A policy that was not certified has no labelled monitor, and the report says so."""
    report = watch(*shadowed(3, 500, 0.5), policy=Policy(provenance=wrong))
    assert not any(m.knowledge == "labelled" for m in report.monitors)
    assert any("no certified loss" in note for note in report.notes)


def test_a_selective_certificate_is_about_the_answered_steps() -> None:
    """`selective_error` is held against wrong answers among the labelled ones, harmful or not."""
    policy = Policy(threshold=0.5, provenance={"certificate": {"max_loss": 0.05, "risk": "selective_error"}})
    steps, labels = shadowed(4, 1500, 0.4, policy=policy.version)
    wrong = [replace(label, harm=False) for label in labels]
    report = watch(steps, wrong, policy=policy)
    assert [a.monitor for a in report.alarms][:1] == ["harm (shadow)"]
    assert "wrong more often" in report.alarms[0].what
    good = [replace(label, right=True, harm=False) for label in labels]
    assert not watch(steps, good, policy=policy).alarmed


@pytest.mark.parametrize("source", ["person", "evaluator"])
def test_people_and_evaluators_have_a_monitor_of_their_own(source: str) -> None:
    """Their labels need no propensity: harm above the bound alarms, at the bound it does not; wrong counts as harm."""
    steps, labels = shadowed(5, 1500, 0.2, source=source)
    told = [replace(label, harm=None) for label in labels]
    assert [a.monitor for a in watch(steps, told, max_loss=0.02).alarms][:1] == ["harm (person, evaluator)"]
    for seed in range(examples(2, 4)):
        assert not watch(*shadowed(seed, 1500, 0.024, source=source), max_loss=0.02).alarmed


@pytest.mark.parametrize(
    "change",
    [
        {"source": "tool_error"},
        {"source": "escalation"},
        {"propensity": None},
        {"propensity": 0.0},
        {"right": None, "harm": None},
    ],
)
def test_labels_that_are_no_sample_move_nothing(change: dict[str, object]) -> None:
    """Labels that were not drawn at random, have no propensity or say nothing are no evidence of harm."""
    steps, labels = shadowed(6, 600, 0.5)
    assert not watch(steps, [replace(label, **change) for label in labels], max_loss=0.02).alarmed  # type: ignore[arg-type]


def test_a_bad_conversation_counts_once() -> None:
    """Harm in twenty steps of one conversation is one harm; in conversations of their own they are twenty."""
    base = [step(i, thread="calm") for i in range(300)]
    bad = [step(300 + i, thread="bad") for i in range(20)]
    labels = [Label(step_id=s.id, source="shadow", right=True, harm=False, propensity=0.5) for s in base[::2]]
    labels += [Label(step_id=s.id, source="shadow", right=False, harm=True, propensity=0.5) for s in bad]
    assert not watch([*base, *bad], labels, max_loss=0.02).alarmed
    assert watch([*base, *(replace(s, thread_id=s.id) for s in bad)], labels, max_loss=0.02).alarmed


def test_one_endless_conversation_does_not_blind() -> None:
    """A journal with a single thread still alarms: harms some steps apart count."""
    assert watch(*shadowed(7, 3000, 0.3, thread="only"), max_loss=0.02).alarmed


def test_labels_of_escalated_steps_and_of_no_step() -> None:
    """A label of a step that large answered is no harm; one of an unknown step is an orphan."""
    watcher = DriftWatch(max_loss=0.02)
    watcher.add(step(0, escalated=True))
    assert watcher.add_label(Label(step_id="s0", source="shadow", harm=True, propensity=0.5)) == ()
    assert watcher.add_label(Label(step_id="gone", source="shadow", harm=True, propensity=0.5)) == ()
    report = watcher.report()
    assert (report.labels, report.orphans) == (1, 1)
    assert by_name(report, "harm (shadow)").n == 0


def test_a_stream_fed_is_a_stream_watched() -> None:
    """Steps and labels fed one by one give the report that `watch` gives, and the alarms as they come."""
    steps, labels = shadowed(8, 3000, 0.16)
    told = {label.step_id: label for label in labels}
    watcher, alarms = DriftWatch(max_loss=0.02), []
    for s in steps:
        alarms += watcher.add(s)
        if s.id in told:
            alarms += watcher.add_label(told[s.id])
    report = watch(steps, labels, max_loss=0.02)
    assert watcher.report() == report
    assert tuple(alarms) == report.alarms


def test_labels_that_come_late_count() -> None:
    """Labels that come when all steps are over are joined to their steps, and the alarm is that of the step."""
    steps, labels = shadowed(9, 2000, 0.4)
    watcher = DriftWatch(policy=Policy(shadow_rate=0.2), max_loss=0.02)
    for s in steps:
        watcher.add(s)
    alarms = [alarm for label in labels for alarm in watcher.add_label(label)]
    assert alarms
    assert alarms[0].at == step(alarms[0].index).started_at


def test_threads_may_feed_it_at_once() -> None:
    """Steps added by several threads are all counted."""
    watcher = DriftWatch()
    workers = [
        threading.Thread(target=lambda k=k: [watcher.add(step(k * 1000 + i)) for i in range(300)]) for k in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert watcher.report().steps == 1200


@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream() -> None:
    """State after 44,000 steps of ever new threads, names, codes and models is as large as after 22,000."""
    watcher, sizes = DriftWatch(max_loss=0.02), []
    rng = random.Random(0)
    for index in range(44_000):
        odd = f"x{index}"
        trace = step(index, name=odd, code=odd, model=odd, thread=odd, escalated=rng.random() < 0.1, policy="p")
        watcher.add(trace)
        watcher.add_label(Label(step_id=trace.id, source="shadow", harm=rng.random() < 0.02, propensity=0.5))
        if index + 1 in (22_000, 44_000):
            state = {k: v for k, v in watcher.__dict__.items() if k != "_lock"}
            sizes.append(len(pickle.dumps(state)))
    assert sizes[1] < sizes[0] * 1.1


def test_harm_under_an_old_policy_is_forgotten_under_the_next() -> None:
    """Evidence gathered under one policy is no evidence against another one."""
    steps, labels = shadowed(1, 500, 0.16)
    watcher = DriftWatch(max_loss=0.02)
    told = {label.step_id: label for label in labels}
    for s in steps:
        watcher.add(replace(s, policy="a"))
        if s.id in told:
            watcher.add_label(told[s.id])
    before = by_name(watcher.report(), "harm (shadow)").value
    watcher.add(step(500, policy="b"))
    after = by_name(watcher.report(), "harm (shadow)").value
    assert before is not None
    assert after is not None
    assert before > 100 > after


def test_harm_before_since_is_not_told() -> None:
    """A labelled alarm before `since` is learned from and not told."""
    steps, labels = shadowed(2, 3000, 0.16)
    assert not watch(steps, labels, max_loss=0.02, since=START + dt.timedelta(days=9)).alarmed


def test_a_judge_speaks_once_per_conversation() -> None:
    """Of the labels of one conversation the first one counts."""
    steps = [step(i, thread="only") for i in range(15)]
    labels = [Label(step_id=s.id, source="person", right=False) for s in steps]
    assert by_name(watch(steps, labels, max_loss=0.02), "harm (person, evaluator)").n == 1


def test_a_journal_without_labels_is_said_to_be_blind() -> None:
    """With a certified loss and no label the report says that nothing sees wrong answers."""
    assert any("no label" in note for note in watch([step(0)], max_loss=0.1).notes)


# ---- money ----------------------------------------------------------------------------------------------------------


def test_without_shadow_calls_the_saving_lies_between_two_numbers() -> None:
    """On steps that small answered, large cost no less than small and no more than its dearest recorded call."""
    steps = [step(i, escalated=i % 5 == 0) for i in range(1000)]
    saving = watch(steps).savings[0]
    assert (saving.basis, saving.known, saving.unknown, saving.stopped) == ("recorded", 1000, 0, None)
    assert (saving.saving, saving.always_large) == (None, None)
    assert saving.low == pytest.approx(1 - (1 + 10 * 0.2) / (0.8 * 1 + 0.2 * 10))
    assert saving.high == pytest.approx(1 - (1 + 10 * 0.2) / 10)
    assert saving.recent == pytest.approx(0.7, abs=1e-9)


def test_unknown_costs_stay_unknown() -> None:
    """A missing cost, another currency, or no large answer to compare with is never taken for 0."""
    never = watch(step(i) for i in range(50)).savings[0]
    assert (never.saving, never.always_large) == (None, None)
    assert watch(step(i, escalated=True, costs=(None, 10.0)) for i in range(50)).savings[0].known == 0
    mixed = [step(i, escalated=True, currency="EUR" if i % 2 else "USD") for i in range(50)]
    saving = watch(mixed).savings[0]
    assert (saving.known, saving.unknown, saving.currency) == (25, 25, "USD")
    evidence = (SideCall(name="CrossCheck", cost=None),)
    assert watch(step(i, escalated=True, evidence=evidence) for i in range(50)).savings[0].unknown == 50


def test_it_says_when_the_policy_stopped_paying() -> None:
    """When small fails on nearly every step, the date from which on it cost more than always-large is named."""
    rng = random.Random(1)
    steps = [step(i, escalated=rng.random() < (0.2 if i < 3000 else 0.97)) for i in range(6000)]
    report = watch(steps)
    alarm = next(a for a in report.alarms if a.monitor == "saving (recorded prices)")
    saving = report.savings[0]
    assert saving.stopped_index is not None
    assert 2980 <= saving.stopped_index < 3200
    day = (START + dt.timedelta(minutes=saving.stopped_index)).date().isoformat()
    assert f"stopped paying on {day}" in alarm.what
    assert saving.since_stopped is not None
    assert -0.12 < saving.since_stopped < 0.0


def test_a_policy_that_pays_again_is_told_as_paying() -> None:
    """After a bad time the saving of the last steps counts again."""
    rng = random.Random(1)
    shares = (0.2, 1.0, 0.2)
    steps = [step(i, escalated=rng.random() < shares[i // 1000]) for i in range(3000)]
    assert watch(steps[:2000]).savings[0].stopped is not None
    report = watch(steps)
    assert report.savings[0].stopped is None
    assert by_name(report, "saving (recorded prices)").count == 1


def test_evidence_and_shadow_calls_are_paid() -> None:
    """Evidence and shadow calls are part of the cost, and a shadow call tells what large costs."""
    evidence = (SideCall(name="CrossCheck", cost=2.0),)
    steps = [step(i, evidence=evidence) for i in range(100)]
    labels = [
        Label(
            step_id=s.id,
            source="shadow",
            right=True,
            harm=False,
            propensity=0.5,
            side_call=SideCall(name="shadow", cost=10.0),
        )
        for s in steps[::2]
    ]
    saving = watch(steps, labels, max_loss=0.1).savings[0]
    assert saving.known == 100
    assert saving.cost == pytest.approx(100 * 3.0 + 50 * 10.0)
    assert saving.always_large == pytest.approx(100 * 10.0)


def test_other_prices_price_the_tokens_anew() -> None:
    """With prices given, recorded tokens are priced by them beside the recorded costs; the alarm is that of the prices."""
    rng = random.Random(1)
    steps = [step(i, escalated=rng.random() < 0.2) for i in range(2000)]
    prices = {"small-1": Price(9.0, 9.0, source="list", date="2026-03-02"), "large-1": Price(10.0, 10.0)}
    for form in (prices, prices.get):
        report = watch(steps, prices=form)
        recorded, anew = report.savings
        assert recorded.high is not None
        assert recorded.high > 0.6
        assert anew.basis == "given"
        assert anew.high == pytest.approx(1 - (0.9 + 0.2), abs=0.05)
        assert "small-1: list, 2026-03-02" in anew.source
        assert by_name(report, "saving (recorded prices)").count == 0
        assert by_name(report, "saving (given prices)").count == 1
    assert watch(steps, prices={"large-1": Price(1.0, 1.0)}).savings[1].known == 0
    spend = SideCall(name="shadow", usage=Usage(input_tokens=1000, output_tokens=100))
    labels = [Label(step_id=s.id, source="shadow", right=True, propensity=0.1, side_call=spend) for s in steps]
    shadowed_ = watch(steps, labels, prices=prices).savings[1]
    assert shadowed_.cost is not None
    assert report.savings[1].cost is not None
    assert shadowed_.cost > report.savings[1].cost


# ---- values ---------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=12).filter(lambda s: s.isprintable())
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ALARMS = st.builds(
    Alarm,
    monitor=TEXT,
    index=st.integers(0, BIG),
    what=TEXT,
    advice=TEXT,
    at=st.none() | TEXT,
    step=st.none() | TEXT,
    before=st.none() | NUMBER,
    after=st.none() | NUMBER,
    since=st.none() | st.integers(0, BIG),
)
MONITORS = st.builds(
    Monitor,
    name=TEXT,
    method=st.sampled_from(["adwin", "psi", "e_detector", "fact", "saving"]),
    knowledge=st.sampled_from(["unlabelled", "labelled", "money"]),
    step=st.none() | TEXT,
    n=st.integers(0, BIG),
    value=st.none() | NUMBER,
    limit=st.none() | NUMBER,
    false_alarms=st.none() | NUMBER,
    horizon=st.none() | st.integers(1, BIG),
    count=st.integers(0, 50),
    alarms=st.lists(ALARMS, max_size=2).map(tuple),
    note=TEXT,
)
REPORTS = st.builds(
    DriftReport,
    steps=st.integers(0, BIG),
    monitors=st.lists(MONITORS, max_size=3).map(tuple),
    facts=st.lists(
        st.builds(Fact, what=TEXT, step=TEXT, index=st.integers(0, BIG), before=TEXT, after=TEXT, at=st.none() | TEXT),
        max_size=2,
    ).map(tuple),
    savings=st.lists(
        st.builds(
            Saving,
            basis=st.sampled_from(["recorded", "given"]),
            currency=TEXT,
            known=st.integers(0, BIG),
            unknown=st.integers(0, BIG),
            cost=NUMBER,
            always_large=NUMBER,
            recent=st.none() | NUMBER,
            stopped=st.none() | TEXT,
        ),
        max_size=2,
    ).map(tuple),
    notes=st.lists(TEXT, max_size=2).map(tuple),
    since=st.none() | TEXT,
)


@given(REPORTS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))  # reports are large values
def test_a_report_goes_to_json_and_back(report: DriftReport) -> None:
    """Through JSON text and back every value is the same, alarms and monitors inside it too."""
    assert DriftReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report


def test_a_real_report_goes_to_json_and_back() -> None:
    """So does the report of a stream with alarms and facts, and what is new in it is ignored."""
    steps, labels = shadowed(1, 3000, 0.2)
    report = watch(steps, labels, max_loss=0.02, since=START)
    assert report.alarmed
    data = json.loads(json.dumps({**report.to_json(), "of_later_versions": 1}))
    assert DriftReport.from_json(data) == report


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"steps": "3"}, "steps"),
        ({"steps": True}, "steps"),
        ({"monitors": {}}, "monitors"),
        ({"monitors": [3]}, "Monitor"),
        ({"monitors": [{"name": "x"}]}, "method"),
        ({"facts": ["x"]}, "JSON object for a Fact"),
        ({"false_alarms": None}, "false_alarms"),
        ({"since": 3}, "since"),
    ],
)
def test_what_is_no_report_is_refused(change: dict[str, object], part: str) -> None:
    """A missing field or one of another type is named."""
    with pytest.raises(RecordError, match=part):
        DriftReport.from_json({**watch([step(0)]).to_json(), **change})


@pytest.mark.parametrize(
    "wrong",
    [
        {"false_alarms": 0.0},
        {"false_alarms": 1.0},
        {"false_alarms": True},
        {"max_loss": 1.5},
        {"since": dt.datetime.fromisoformat("2026-01-01")},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    """Chances outside of (0, 1) and times without a zone are refused at construction."""
    with pytest.raises(ConfigurationError):
        DriftWatch(**wrong)  # type: ignore[arg-type]
