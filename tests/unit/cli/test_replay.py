"""`cascade-agent replay`, as its users run it."""

import json
import re
from functools import partial

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.calibration import write_policy
from tests.builders import command
from tests.journals import world

run = partial(command, "replay")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a journal, labels of their own, and a policy file."""
    steps, labels, _ = world(60, shadow=0.4)
    with Journal(tmp_path / "a.jsonl") as journal:
        for step in steps:
            journal.append(step)
        for label in labels:
            journal.append_label(label)
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


@pytest.mark.parametrize("grid", ["2", "x", "0.5:0.9", "0.9:0.5:0.1", "0.5:0.9:0", "0.5:0.9:-1", "nan", "0:1:nan", ""])
def test_a_grid_that_is_none_is_refused(place, grid):
    """What is no list of thresholds is said, with what was expected."""
    done = run("a.jsonl", "--grid", grid)
    assert done.exit_code == 2
    assert "expected FROM:TO:STEP" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "entry"),
    [
        (["none.jsonl"], "no journal matches 'none.jsonl'"),
        (["empty.jsonl"], "empty.jsonl: the journal holds no step yet"),
        (["torn.jsonl"], "torn.jsonl:265: the last line is unfinished"),
        (["newer.jsonl"], "newer.jsonl:2: StepTrace has schema 2, this version reads up to 1: upgrade"),
        (["cut.jsonl.gz"], "the compressed file is cut off"),
        (["a.jsonl", "--policy", "a.jsonl"], "a.jsonl:2: not JSON"),
        (["a.jsonl", "--policy", "none.json"], "cannot be read as a policy file"),
        (["a.jsonl", "--policy", "odd.json"], "no setting 'treshold'"),
        (["a.jsonl", "--labels", "none.jsonl"], "no journal matches 'none.jsonl'"),
        (["a.jsonl", "--on-conflict", "x"], "expected precedence or exclude"),
        (["a.jsonl", "--grid", "0:1:0.0001"], "1002 policies to compare"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_lost(place, args, entry):
    """Exit code 2, one line that names the file, the line and the mend, nothing on standard output, files as before."""
    import gzip

    whole = (place / "a.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (place / "empty.jsonl").touch()
    (place / "torn.jsonl").write_bytes(b"".join(lines[:240]) + b"".join(lines[:24]) + lines[1][:50])
    (place / "newer.jsonl").write_bytes(lines[0] + lines[1].replace(b'"schema":1', b'"schema":2') + lines[2])
    (place / "cut.jsonl.gz").write_bytes(gzip.compress(whole)[:-400])
    (place / "odd.json").write_text('{"treshold": 0.5, "threshold": 0.5}')
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    done = run(*args)
    assert done.exit_code == 2, done.output
    assert entry in done.stderr
    assert done.stdout == ""
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
