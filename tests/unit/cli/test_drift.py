"""`cascade-agent drift`, run as its users run it."""

from __future__ import annotations

import datetime as dt
import json
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from cascade_agent import Policy, StepTrace
from cascade_agent.cli.drift import parse_since
from cascade_agent.core.records import Attempt, Label, Usage
from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.offline.calibration import write_policy
from cascade_agent.offline.drift import DriftReport, watch
from tests.builders import command, recorded, written

if TYPE_CHECKING:
    from pathlib import Path

run = partial(command, "drift")

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def steps(count: int, *, after: float = 0.1, change: int = 900, seed: int = 1) -> list[StepTrace]:
    """Steps a minute apart, of which a tenth escalates, and a share of `after` from the change on."""
    rng, found = random.Random(seed), []
    usage = Usage(input_tokens=1000, output_tokens=100)
    small = Attempt(tier="small", model="gpt-4o-mini", outcome="accepted", confidence=0.9, cost=0.00021, usage=usage)
    large = Attempt(tier="large", model="gpt-4o", outcome="accepted", cost=0.0035, usage=usage)
    for index in range(count):
        up = rng.random() < (0.1 if index < change else after)
        attempts = (replace(small, outcome="rejected"), large) if up else (small,)
        reason, at = "low_confidence" if up else "accepted", (START + dt.timedelta(minutes=index)).isoformat()
        fields = {"step": "agent [1]", "reason": reason, "cost": 0.1, "kind": "call", "started_at": at}
        found.append(recorded(f"s{index}", *attempts, **fields))
    return found


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal in which nothing changes."""
    return written(tmp_path_factory.mktemp("calm") / "calm.jsonl", steps(700))


@pytest.fixture(scope="module")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal in which half of the steps escalate from step 500 on."""
    return written(tmp_path_factory.mktemp("shaken") / "shaken.jsonl", steps(900, after=0.5, change=500))


def test_a_calm_journal_is_exit_code_0(calm: Path, tmp_path: Path) -> None:
    """Without an alarm it says so, lists the monitors and the saving, and ends with 0."""
    result = run(calm, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    for part in (
        "700 steps",
        "No alarm.",
        "escalation",
        "confidence (PSI)",
        "less than always-large over 700",
        "no certified loss",
    ):
        assert part in result.stdout
    assert "[1]" not in result.stdout, "one name is the same as all"


def test_alarms_are_exit_code_3(shaken: Path, tmp_path: Path) -> None:
    """With an alarm it says what, when and what to do, and ends with 3."""
    result = run(shaken, cwd=tmp_path)
    assert result.exit_code == 3, result.stderr
    for part in ("ALARM escalation at step", "2026-01-01T", "do: ", "shadow_rate"):
        assert part in result.stdout
    assert result.stderr == ""


def test_json_is_the_report_and_nothing_else(shaken: Path, tmp_path: Path) -> None:
    """`--json` prints the report that `watch` gives, which can be read back; the exit code stays."""
    result = run(shaken, "--json", cwd=tmp_path)
    assert result.exit_code == 3
    data = json.loads(result.stdout)
    assert data["alarmed"] is True
    assert DriftReport.from_json(data) == watch(read(shaken), read_labels(shaken))


def test_since(shaken: Path, tmp_path: Path) -> None:
    """A date after the change leaves nothing to tell, one before leaves the alarm; what is no date is refused."""
    assert run(shaken, "--since", "2026-01-02", cwd=tmp_path).exit_code == 0
    assert run(shaken, "--since", "2026-01-01T08:00:00+01:00", cwd=tmp_path).exit_code == 3
    assert run(shaken, "--since", "7d", cwd=tmp_path).exit_code == 0, "long ago"
    for text in ["", "soon", "7", "7y", "-7d", "999999w", "2026-13-01"]:
        with pytest.raises(ConfigurationError, match="2026-03-02"):
            parse_since(text, now=START)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02", dt.datetime(2026, 3, 2, tzinfo=dt.UTC)),
        ("2026-03-02T10:00:00+02:00", dt.datetime(2026, 3, 2, 8, tzinfo=dt.UTC)),
        ("90m", START - dt.timedelta(minutes=90)),
        ("12h", START - dt.timedelta(hours=12)),
        (" 7d ", START - dt.timedelta(days=7)),
        ("2w", START - dt.timedelta(weeks=2)),
    ],
)
def test_since_is_a_date_or_a_duration(text: str, expected: dt.datetime) -> None:
    """Dates are in UTC unless they say otherwise, durations count back from now."""
    assert parse_since(text, now=START) == expected


def test_labels_and_a_policy_show_harm(tmp_path: Path) -> None:
    """With a calibrated policy and shadow labels in the journal, harm above the certified loss is an alarm."""
    policy = Policy(threshold=0.5, provenance={"certificate": {"max_loss": 0.02, "risk": "harm"}})
    traces = [replace(trace, policy=policy.version) for trace in steps(1500)]
    rng = random.Random(1)
    labels = []
    for trace in traces:
        if not trace.escalated and rng.random() < 0.3:
            harm = rng.random() < 0.2
            labels.append(Label(step_id=trace.id, source="shadow", right=not harm, harm=harm, propensity=0.3))
    path = written(tmp_path / "steps.jsonl", traces, labels)
    write_policy(policy, tmp_path / "policy.json")
    result = run(path, "--policy", "policy.json", cwd=tmp_path)
    assert result.exit_code == 3, result.stdout + result.stderr
    assert "harm (shadow)" in result.stdout
    assert "calibrate anew" in result.stdout
    assert run(path, "--max-loss", "0.5", cwd=tmp_path).exit_code == 0
    assert run(path, "--max-loss", "0.02", cwd=tmp_path).exit_code == 3


def test_tokens_are_priced_anew(calm: Path, tmp_path: Path) -> None:
    """`--provider` takes the current table, `--prices` a file; the prices and their dates are told; both may alarm."""
    by_table = run(calm, "--provider", "openai", "--json", cwd=tmp_path)
    assert by_table.exit_code == 0, by_table.stderr
    saving = json.loads(by_table.stdout)["savings"][1]
    assert saving["basis"] == "given"
    assert saving["known"] > 500
    assert "gpt-4o-mini: genai-prices" in saving["source"]
    few = written(tmp_path / "few.jsonl", steps(100))
    for wrong in ("gpt-4o=openai", "nobody"):
        other = json.loads(run(few, "--provider", wrong, "--json", cwd=tmp_path).stdout)["savings"][1]
        assert other["known"] == 0
    prices = {model: {"input": 5.0, "output": 20.0} for model in ("gpt-4o-mini", "gpt-4o")}
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    dear = run(calm, "--prices", "prices.json", cwd=tmp_path)
    assert dear.exit_code == 3
    assert "this policy stopped paying on 2026-01-01" in dear.stdout


def test_facts_and_unknown_savings_are_told(tmp_path: Path) -> None:
    """Another model is told as a fact with both names; a saving that cannot be told is called unknown."""
    traces = steps(20, after=0.0, change=0)
    other = [replace(t, attempts=(replace(t.attempts[0], model="other [x]"),)) for t in traces[10:]]
    result = run(written(tmp_path / "one.jsonl", [*traces[:10], *other]), cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "fact: small_model of 'agent [1]': gpt-4o-mini -> other [x] at step 10" in result.stdout
    assert "saving unknown (0 steps without a known cost, or nothing to compare with)" in result.stdout


def test_several_journals_and_patterns(shaken: Path, tmp_path: Path) -> None:
    """Paths and glob patterns are read one after the other; a step that comes twice counts once."""
    traces = list(read(shaken))
    written(tmp_path / "a.jsonl", traces[:450])
    written(tmp_path / "b.jsonl", traces[450:])
    assert run("*.jsonl", cwd=tmp_path).exit_code == 3
    data = json.loads(run("a.jsonl", "b.jsonl", "b.jsonl", "--json", cwd=tmp_path).stdout)
    assert (data["steps"], data["repeated"]) == (900, 450)
