"""The demo's own journal walks the documented chain, on the command line: report, label, calibrate, replay, drift."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from cascade_agent.journal.reader import read
from cascade_agent.offline.calibration import load_policy
from graphs.evaluation.demo import demo_tasks
from graphs.evaluation.run import run_task
from graphs.standins.models import standin_tiers
from tests.builders import command


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["extraction", "plan_execute", "code_repair"])  # support: 40 times as many steps
def test_the_demo_leads_to_a_policy_that_holds(tmp_path, graph):
    """A certified threshold comes out; replay and drift read the policy, and the graph runs with it."""
    chain = [
        ("demo", "--graph", graph, "--repeats", 4, "--show", 0, "--out", "d"),
        ("report", "d/journal.jsonl", "--out", "report.html"),
        ("label", "d/journal.jsonl", "--from", "d/labels.jsonl"),
        ("calibrate", "d/journal.jsonl", "--max-loss", "0.1", "--out", "policy.json"),
        ("replay", "d/journal.jsonl", "--policy", "policy.json"),
        ("drift", "d/journal.jsonl", "--policy", "policy.json"),
    ]
    for step in chain:
        result = command(*step, cwd=tmp_path, code=0)
        if step[0] == "calibrate":
            assert "No threshold holds" not in result.stdout
    policy = load_policy(tmp_path / "policy.json")
    assert policy.provenance["kind"] == "calibrated"
    steps = list(read(tmp_path / "d" / "journal.jsonl"))
    answered = {step.id for step in steps if step.final_tier == "small"}
    labels = [json.loads(line) for line in (tmp_path / "d" / "labels.jsonl").read_text("utf-8").splitlines()]
    assert {label["step_id"] for label in labels} == answered
    small, large = standin_tiers(99)  # faults that nothing was fitted on
    build = import_module(f"graphs.{graph}").build
    for task in [task for task in demo_tasks() if task.graph == graph][:3]:
        assert run_task(task, lambda **kw: build(small, large, policy=policy, **kw)).answers
