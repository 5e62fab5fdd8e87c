"""Tests of `benchmarks/loops.py` on runs made up here: who takes a turn over, what it costs, and what each rule finds."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import loops
import pytest

if TYPE_CHECKING:
    from pathlib import Path

PARAMETERS = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
SHIP_FUNCTION = {"name": "ship_order", "description": "Ship an order.", "parameters": PARAMETERS}
SHIP = {"type": "function", "function": SHIP_FUNCTION}
SHIPPED = {"name": "ship_order", "args": {"order_id": "A-1"}, "id": "1"}


def step(*calls: tuple[str, str], changed: bool = False) -> dict[str, Any]:
    """A recorded step: its calls as (order, result), nothing but text without one."""
    return {
        "calls": [["ship_order", {"order_id": order}] for order, _ in calls],
        "obs": [result for _, result in calls],
        "in_tok": 100,
        "out_tok": 10,
        "state_changed": changed,
    }


def run(second: list[dict[str, Any]], states: list[int], failing: int | None) -> dict[str, Any]:
    """A recorded run of two turns, the first of which ships A-1."""
    turns, fails = [[step(("A-1", "shipped"), changed=True), step()], second], {"first_failing_turn": failing}
    return {"turns": turns, "state_ids": states, "inference_ok": True, "valid": failing is None, **fails}


RIGHT = run([step(("A-2", "shipped"), changed=True), step()], [0, 1, 2], None)
TASK = {
    "id": "task_4",
    "n_turns": 2,
    "users": [[{"role": "user", "content": f"Ship order A-{n}."}] for n in (1, 2)],
    "tools": [SHIP],
    "tools_of_turn": [[0], [0]],
    "gt_calls": [["ship_order"], ["ship_order"]],
    "gt_results": [["shipped"], ["shipped"]],
    "gt_state_ids": [0, 1, 2],
    "runs": {"S1": run([step()], [0, 1, 1], 1), "L1": RIGHT, "L2": RIGHT, "L3": RIGHT},
}
FOLLOWUPS = [
    {"keep": keep, "messages": [{"role": "user", "content": "Hello"}], "tools": [SHIP], "draft": {"content": text}}
    for keep, text in ((True, "Hello! How can I help?"), (False, "Let me do that."))
]
CONVERSATION = {
    "domain": "shop",
    "passed": True,
    "messages": [
        {"role": "user", "content": "Ship order A-1."},
        {"role": "assistant", "content": "", "tool_calls": [SHIPPED]},
        {"role": "tool", "content": "shipped", "id": "1"},
        {"role": "assistant", "content": "Order A-1 is shipped."},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One task, one conversation and two follow-ups."""
    shared = {"policies": {"shop": ""}, "tools": {"shop": [SHIP]}}
    for name, rows in (("tasks", [TASK]), ("conversations", [shared, CONVERSATION])):
        packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
        (tmp_path / f"{name}.jsonl.gz").write_bytes(packed)
    (tmp_path / "followups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FOLLOWUPS))
    return tmp_path


def test_turns_are_taken_over_rules_measured_and_texts_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second turn ends without its call: large's takes its place, both are paid, and the rule that saw it is named."""
    found = loops.measure(folder, status=True, ratios=[3.0], stays=["turn"])
    (row,) = found["tasks"]
    assert (row["success"], row["escalations"], row["uncovered"]) == (1.0, 1.0, 0)
    assert row["cost"] == pytest.approx((3 + 2 * 3) / (4 * 3))  # three small steps, two large ones, of four large ones
    turns = found["turns"]
    assert (turns["failing"], turns["good"], turns["auroc"]) == (1, 1, 1.0)
    assert turns["rules"]["call_skipped"] == {"recall": 1.0, "false": 0.0, "precision": 1.0}
    assert found["conversations"]["passed: steps"] == 0.0
    assert found["followups"] == {"right answers kept": "1 of 1", "skipped work escalated": "1 of 1"}
    loops.show(found)
    assert "call_skipped" in capsys.readouterr().out


def test_parts_and_missing_files(folder: Path) -> None:
    """A part keeps its scenarios alone, and what the folder does not hold is left out."""
    assert [loops.of_part(TASK, part) for part in (1, 2)] == [False, True]
    (folder / "tasks.jsonl.gz").unlink()
    assert loops.measure(folder, status=False, ratios=[3.0], stays=["turn"]).keys() == {"conversations", "followups"}
