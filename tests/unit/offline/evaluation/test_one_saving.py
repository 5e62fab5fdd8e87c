"""One journal, one saving: replay, report, drift and calibrate read the same estimates, and these hold the truth."""

import datetime as dt
import json
import random

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Label, SideCall
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.offline.calibration import calibrate
from cascade_agent.offline.drift import watch, watch_journals
from cascade_agent.offline.evaluation import compare
from cascade_agent.offline.evaluation.journals import ReadSettings
from cascade_agent.offline.report import build_report
from tests.builders import recorded, written
from tests.journals import graded

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def rounded(number):
    """A number without the last digits of sums of money, which depend on their order."""
    return round(float(number), 9)


def journals(folder, rate, *, steps=800, files=1, noise=0.2):
    """(path, truth): a quarter of the steps is hard and escalates, and large is twice as dear on these."""
    rng, paid, alone, records = random.Random(1), 0.0, 0.0, [([], []) for _ in range(files)]
    for i in range(steps):
        hard = rng.random() < 0.25
        price = 0.01 * (2 if hard else 1) * rng.uniform(1 - noise, 1 + noise)
        small = Attempt(
            tier="small",
            model="s",
            outcome="rejected" if hard else "accepted",
            verdicts=(graded("argument_grounded", 0.2 if hard else 0.9),),
            confidence=0.3 if hard else 0.9,
            cost=0.00005,
            latency=0.1,
            answer={"text": "1" if not hard else "2", "tool_calls": []},
        )
        large = Attempt(tier="large", model="l", outcome="accepted", cost=price, latency=1.0, answer={"text": "1"})
        attempts = (small, large) if hard else (small,)
        cost, latency = sum(a.cost for a in attempts), sum(a.latency for a in attempts)
        into, labels = records[i * files // steps]
        into.append(
            recorded(
                f"s{i}", *attempts, kind="text", cost=cost, latency=latency, thread_id=f"t{i // 4}", confidence=0.9
            )
        )
        paid, alone = paid + cost, alone + price
        if not hard and rng.random() < rate:
            spend = SideCall(name="shadow", cost=price, latency=1.0)
            found = {"right": True, "harm": False, "propensity": rate, "side_call": spend}
            labels.append(Label(step_id=f"s{i}", source="shadow", **found))
            paid += price
    for i, (into, labels) in enumerate(records):
        written(folder / f"j{i}.jsonl", into, labels)
    return folder / "j*.jsonl", 1.0 - paid / alone


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_the_four_say_the_same_saving(tmp_path, rate):
    """Whatever the shadow rate, all four say the same number, or the same bounds, and the truth lies within."""
    path, truth = journals(tmp_path, rate)
    figure = compare(path).baselines[0].all.saving
    certified = calibrate(path, max_loss=0.05).saving
    drift = watch(read(path), read_labels(path)).savings[0]
    report = build_report([path])
    seen = (report.always_large.share, report.always_large.low, report.always_large.high)
    assert certified == figure
    assert (drift.low, drift.high, drift.interval) == (figure.low, figure.high, figure.interval)
    assert drift.saving == report.drift.savings[0].saving == figure.point
    low, high = figure.interval
    if rate:
        assert seen[0] == pytest.approx(1 - figure.point)
        assert report.frontier.marks[0].cost == pytest.approx(1 - figure.point)
        assert figure.point == pytest.approx(truth, abs=0.02)
        spent = sum(p.small + p.large + p.evidence + p.shadow for p in report.spending.periods)
        assert spent == pytest.approx(0.0), "steps without a time are in no period"
    else:
        assert seen == (None, pytest.approx(1 - figure.high), pytest.approx(1 - figure.low))
        assert figure.point is None
        assert figure.low <= truth <= figure.high
    assert low - 1e-9 <= truth <= high + 1e-9


def test_the_four_on_dask(tmp_path):
    """Read file by file on Dask, each of the four says what it says in one process."""
    pytest.importorskip("dask")
    path, _ = journals(tmp_path, 0.2, steps=160, files=4)
    how = {"scheduler": "sync"}
    policy = Policy(threshold=0.5)
    assert compare(path, policy, dask=how).to_json() == compare(path, policy).to_json()
    one, many = calibrate(path, max_loss=0.2), calibrate(path, max_loss=0.2, dask=how)
    assert many.to_json() == one.to_json()
    assert watch_journals([path], ReadSettings(dask=how)).report() == watch(read(path), read_labels(path))
    whole, parts = (json.dumps(build_report([path], now=NOW, dask=d).to_json()) for d in (None, how))
    assert json.loads(parts, parse_float=rounded) == json.loads(whole, parse_float=rounded)
