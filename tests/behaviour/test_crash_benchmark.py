"""`benchmarks/crash.py`: what it counts, and a few kills of its own."""

import json
import subprocess
import sys

import crash as benchmark
import pytest


def test_calls_count_as_paid_again_by_the_kill_before_them():
    """A call of a step that was paid before a kill and comes after it is that kill's; a new one is nobody's."""
    small0, small1, large1 = ("t", "small", 0), ("t", "small", 1), ("t", "large", 1)
    calls = [small0, small1, small1, large1, small1, large1]
    assert benchmark.repeats(calls, []) == []
    assert benchmark.repeats(calls, [2]) == [2]
    assert benchmark.repeats(calls, [2, 4]) == [1, 2]
    assert benchmark.repeats(calls, [1, 6]) == [0, 0]
    assert benchmark.shares(10, 4) == [3, 3, 2, 2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_runs_end_with_every_decision_on_record():
    """Runs killed on SQLite are taken up and end; every answer has its record and is read once; a kill has at most one call paid again."""
    command = [sys.executable, str(benchmark.__file__), "--kills", "4", "--ways", "node,large", "--savers", "sqlite"]
    done = subprocess.run(
        [*command, "--durability", "sync", "--json"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    node, large = json.loads(done.stdout)
    assert (node["kills"], large["kills"]) == (4, 4)
    assert node["steps"] % 6 == large["steps"] % 6 == 0
    assert node["lost"] == node["read_twice"] == 0
    assert node["most"] <= 1
    assert large["most"] <= 1
