"""Steps read without the texts of their verdicts say what whole ones say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, StepTrace, Verdict
from cascade_agent.errors import RecordError
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.evaluation import compare, load_dataset, replay

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = {
    "a pass that measures nothing": Verdict(outcome="pass", code="schema", validator="V", origin="shipped"),
    "a code that no scorer weighs": Verdict(outcome="pass", code="new", score=0.9, validator="V", origin="shipped"),
    "a finding of the user": Verdict(outcome="pass", code="mine", score=0.2, validator="V", origin="user"),
}


@pytest.mark.parametrize("verdict", SHIPPED.values(), ids=SHIPPED)
def test_who_found_something_is_read(tmp_path: Path, verdict: Verdict) -> None:
    """What a shipped validator found is no claim of the user's: `compare` decides as `replay` of the whole step does."""
    small = Attempt(tier="small", outcome="accepted", verdicts=(verdict,), answer={"text": "a"})
    step = StepTrace(id="1", step="s", outcome="accepted", reason="accepted", attempts=(small,), final=0)
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append(step)
    policy = Policy(threshold=0.5)
    escalated = compare(tmp_path / "j.jsonl", policy, resamples=0).policies[0].all.escalation.value
    assert escalated == float(replay(step, policy).escalated)


@pytest.mark.parametrize("verdicts", [5, "text", [5], [{"outcome": "pass", "score": True}], [{"code": "a"}]])
def test_verdicts_that_are_none_are_named(tmp_path: Path, verdicts: object) -> None:
    """Every reader names file and line, also where the same number stood in a verdict before."""
    good = [{"outcome": "pass", "score": 1.0}]
    lines = [
        {
            "id": str(i),
            "step": "s",
            "outcome": "accepted",
            "reason": "r",
            "attempts": [{"tier": "small", "verdicts": v}],
        }
        for i, v in enumerate((good, verdicts))
    ]
    file = tmp_path / "j.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    for read in (lambda: compare(file), lambda: load_dataset(file)):
        with pytest.raises(RecordError, match=r"j\.jsonl:2"):
            read()
