"""`cascade-agent replay`, as its users run it."""

import json
import re
from functools import partial

import pytest

from cascade_agent.cli.replay import saving_line
from cascade_agent.core.policy import Policy
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.calibration import write_policy
from cascade_agent.offline.evaluation import Figure
from tests.builders import command, written
from tests.journals import world

run = partial(command, "replay")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a journal, labels of their own, and a policy file."""
    steps, labels, _ = world(60, shadow=0.4)
    written(tmp_path / "a.jsonl", steps, labels)
    with Journal(tmp_path / "labels.jsonl") as journal:
        journal.label(steps[0].id, source="person", right=True)
    write_policy(Policy(threshold=0.7), tmp_path / "policy.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_each_policy_next_to_the_baselines(place):
    """A row per policy and baseline, by step name below, and what the signs mean."""
    done = run("a.jsonl", "--policy", "policy.json", "--grid", "0.5:0.9:0.2", "--resamples", 20)
    assert done.exit_code == 0, done.output
    for text in ("as recorded", "always small", "always large", "oracle", "policy", "threshold 0.5", "threshold 0.9"):
        assert re.search(rf"^{text} ", done.stdout, re.MULTILINE)
    assert "240 steps of 60 episodes" in done.stdout
    assert "plan (" in done.stdout
    assert max(map(len, done.stdout.split("policy", 1)[1].split("- success")[0].splitlines())) <= 80
    assert "95 % bootstrap interval" in done.stdout


def test_json_is_all_of_it_and_nothing_else(place):
    """`--json` prints one object with every figure, by step name and kind too."""
    done = run("*.jsonl", "--grid", "0.5,0.7", "--labels", "labels.jsonl", "--resamples", 0, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["title"] for row in found["policies"]] == ["policy", "threshold 0.5", "threshold 0.7"]
    assert [row["threshold"] for row in found["policies"]] == [None, 0.5, 0.7]
    assert found["labels"]["person"] == 1
    assert set(found["policies"][1]["by_step"]) == {"act", "plan"}
    assert set(found["policies"][1]["all"]["loss"]) == {"value", "low", "high", "estimate", "interval"}


def test_policies_are_compared_by_their_files(place):
    """Several policy files, each with the grid, under their names."""
    write_policy(Policy(threshold=0.3), place / "other.json")
    done = run(
        "a.jsonl", "--policy", "policy.json", "--policy", "other.json", "--grid", "0.5", "--json", "--resamples", 0
    )
    titles = [row["title"] for row in json.loads(done.stdout)["policies"]]
    assert titles == ["policy.json", "policy.json at 0.5", "other.json", "other.json at 0.5"]


def test_the_grid_is_what_it_says(place):
    """A range holds both ends, in decimals."""
    done = run("a.jsonl", "--grid", "0.5:0.95:0.05", "--json", "--resamples", 0)
    thresholds = [row["threshold"] for row in json.loads(done.stdout)["policies"]][1:]
    assert thresholds == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@pytest.mark.parametrize(
    ("figure", "cost", "chance"),
    [
        (Figure(low=0.2, high=0.2), "20.0% less than always-large", None),
        (
            Figure(low=-0.075, high=0.68, interval=(-0.097, 0.847)),
            "between 7.5% more and 68.0% less than always-large",
            "between 9.7% more and 84.7% less",
        ),
        (
            Figure(low=-0.1, high=0.9, estimate=(0.452, 0.452), interval=(0.4, 0.501)),
            "45.2% less than always-large, estimated from shadow calls",
            "between 40.0 and 50.1% less",
        ),
        (Figure(low=-0.2, high=-0.1), "between 10.0 and 20.0% more than always-large", None),
        (Figure(low=-0.2), "at most 20.0% more than always-large", None),
        (Figure(low=0.3), "at least 30.0% less than always-large", None),
        (Figure(high=0.3), "at most 30.0% less than always-large", None),
        (Figure(high=-0.3), "at least 30.0% more than always-large", None),
    ],
)
def test_a_saving_is_said_as_people_say_it(figure, cost, chance):
    """More or less than always-large, between two numbers where it is not known, with chance counted where it was."""
    counted = f"; with chance counted, {chance}" if chance else ""
    assert saving_line(figure) == f"As recorded, the cascade cost {cost}{counted}."
    assert saving_line(Figure()).startswith("What the cascade saved is unknown")
