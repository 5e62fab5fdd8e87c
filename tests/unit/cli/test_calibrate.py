"""`cascade-agent calibrate`: plain words, honest ends, and no policy lost."""

from __future__ import annotations

import json
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Verdict
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.calibration import load_policy, write_policy
from cascade_agent.validators import shipped_scorer
from tests import fresh
from tests.builders import command, recorded

if TYPE_CHECKING:
    from pathlib import Path

run = partial(command, "calibrate", code=0)


def step(number: int, score: float, *, harm: bool, kind: str = "call", tool: str = "find", thread: str | None = None):
    """An escalated step whose two answers differ where small did harm."""
    finding = Verdict(outcome="pass", code="argument_grounded", score=score, validator="Grounding")
    answers = [{"text": "", "tool_calls": [{"name": tool, "args": {"v": v}, "id": "c"}]} for v in (1, 2 if harm else 1)]
    small = Attempt(tier="small", model="s", outcome="rejected", verdicts=(finding,), answer=answers[0])
    large = Attempt(tier="large", model="l", outcome="accepted", answer=answers[1])
    return recorded(f"{number:032x}", small, large, kind=kind, thread_id=thread)


def fill(path: Path, n: int, *, seed: int = 0, **kwargs: Any) -> Path:
    """A journal of n steps, drafts with low scores more often harmful."""
    rng = random.Random(seed)
    kinds = kwargs.pop("kinds", ("call",))
    with Journal(path) as journal:
        for i in range(n):
            score = rng.random()
            journal.append(
                step(i, score, harm=rng.random() < 0.3 * (1 - score) ** 2, kind=kinds[i % len(kinds)], **kwargs)
            )
    return path


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 labelled steps."""
    return fill(tmp_path_factory.mktemp("calibrate") / "j.jsonl", 400)


def test_a_process_of_its_own_says_what_it_found_and_writes_the_policy(tmp_path: Path) -> None:
    """Labels by source, the table of scorers, threshold and promise in words; the file is a policy with provenance."""
    journal, out = fill(tmp_path / "j.jsonl", 400), tmp_path / "policy.json"
    Journal(journal).label(f"{7:032x}", source="person", right=False, note="no such place")
    code = "from cascade_agent.cli import main; main()"
    arguments = ("calibrate", journal, "--max-loss", "0.05", "--out", out)
    done = fresh.run(code, *arguments, env={**os.environ, "NO_COLOR": "1"})
    assert (done.code, done.err) == (0, "")
    for part in (
        "400 steps, 0 answered by small. 400 have a label: 399 escalation, 1 person.",
        "1 steps have labels that contradict each other",
        "person says wrong 'no such place', escalation says right, no harm (person counts)",
        "AUROC: call",
        "calibration error",
        "are at most 0.05 of the steps, with probability 0.9.",
        f"Wrote {out}",
    ):
        assert part in done.out
    entry = load_policy(out).provenance
    expected = {"target": 0.05, "confidence": 0.9, "steps": 400, "scope": "all steps together"}
    assert expected.items() <= entry.items()
    assert entry["paid"]["s"]["calls"] == 400
    assert {"data", "date", "version", "prices"} <= entry.keys()


def test_both_targets_are_compared_on_held_out_episodes(tmp_path: Path) -> None:
    """With enough labels it fits on error and on gain, and says which ranked harm better where neither was fitted."""
    text = run(fill(tmp_path / "j.jsonl", 1500), "--max-loss", 0.05).stdout
    assert "Fitted on" in text
    assert "ranked harm" in text
    for scorer in ("rules", "error", "gain"):
        assert f"\n{scorer} " in text


def test_other_files_and_settings(journal: Path, tmp_path: Path) -> None:
    """`--labels` joins another file; `--policy`, `--scorer` and `--per` are kept; `--json` is one object."""
    other, base, out = tmp_path / "people.jsonl", tmp_path / "base.json", tmp_path / "p.json"
    Journal(other).label(f"{3:032x}", source="person", right=False)
    data = json.loads(run(journal, "--max-loss", 0.05, "--labels", other, "--json").stdout)
    assert (data["policy"]["threshold"], data["out"]) == (data["threshold"], None)
    assert data["labels"]["by_source"] == {"escalation": 399, "person": 1}
    write_policy(Policy(on_exhausted="raise"), base)
    run(journal, "--max-loss", 0.05, "--policy", base, "--scorer", "rules", "--per", "episode", "--out", out)
    policy = load_policy(out)
    assert (policy.on_exhausted, policy.provenance["per"]) == ("raise", "episode")
    assert policy.scorer.weights == shipped_scorer().weights


def test_no_threshold_is_an_honest_end(journal: Path, tmp_path: Path) -> None:
    """Too few labels: exit code 1, how many are missing, no file, and an old file is left byte for byte."""
    out = tmp_path / "policy.json"
    text = run(journal, "--max-loss", 0.001, "--out", out, code=1).stdout
    assert "No threshold holds" in text
    assert "1902 are missing" in text
    assert f"{out} was not written." in text
    assert not out.exists()
    write_policy(Policy(), out)
    before = out.read_bytes()
    data = json.loads(run(journal, "--max-loss", 0.001, "--out", out, "--json", code=1).stdout)
    assert (data["policy"], data["out"], data["certificate"]["missing"]) == (None, None, 1902)
    assert out.read_bytes() == before


def test_kinds_and_irreversible_tools_have_thresholds_of_their_own(tmp_path: Path) -> None:
    """`--by-kind` prints and writes one number per kind; drafts with irreversible calls have their own claim."""
    path = fill(tmp_path / "j.jsonl", 1600, kinds=("call", "text"), tool="pay")
    base, out = tmp_path / "base.json", tmp_path / "p.json"
    write_policy(Policy(side_effects={"pay": "irreversible"}), base)
    text = run(path, "--max-loss", 0.08, "--policy", base, "--by-kind", "--scorer", "rules", "--out", out).stdout
    assert "One threshold for each kind of step." in text
    assert "no such step in the journal, all go to large: text.one_tool, structured" in text
    assert "P(wrong | accepted)" in text
    policy = load_policy(out)
    assert {key for key, value in policy.thresholds.items() if value < 1.0} == {"call", "text", "irreversible"}
    assert policy.provenance["thresholds"]["call"]["certificate"]["n"] > 0


# ---- a policy that stands there already -----------------------------------------------------------------------------
def promise(**changes: Any) -> Policy:
    """A policy that was calibrated."""
    return Policy(provenance={"kind": "calibrated", "target": 0.05, "confidence": 0.9, "per": "step", **changes})


@pytest.mark.parametrize(
    ("old", "args", "complaint"),
    [
        (Policy(threshold=0.7), (), "set by hand"),
        (Policy(side_effects={"pay": "write"}), (), "other settings (side_effects), start from them with --policy"),
        (promise(), ("--confidence", 0.8), "with probability 0.9, the new one would with 0.8"),
        (promise(), ("--max-loss", 0.06), "it bounds the loss by 0.05, the new one would by 0.06"),
        (promise(per="episode"), (), "it holds per episode"),
        (promise(scope="each kind of step by itself"), (), "--by-kind keeps that"),
        (promise(risk="selective_error"), (), "it bounds another risk (selective_error)"),
    ],
)
def test_what_is_worth_more_is_not_replaced_silently(
    journal: Path, tmp_path: Path, old: Policy, args: tuple[object, ...], complaint: str
) -> None:
    """Settings that would be lost, thresholds set by hand and stronger promises are named, the file is left as it is."""
    out = tmp_path / "p.json"
    write_policy(old, out)
    before = out.read_bytes()
    entry = run(journal, "--max-loss", 0.05, *args, "--out", out, code=2).stderr
    assert complaint in entry
    assert "--force" in entry
    assert out.read_bytes() == before


def test_the_same_promise_and_force_replace(journal: Path, tmp_path: Path) -> None:
    """A policy calibrated to the same claim is replaced, with a line that says so; --force replaces any policy."""
    out = tmp_path / "p.json"
    for args in ((), ("--seed", 1, "--confidence", 0.95), ("--max-loss", 0.06, "--force")):
        before = out.read_bytes() if out.exists() else None
        text = run(journal, "--max-loss", 0.05, *args, "--out", out).stdout
        assert ("in the place of one with threshold" in text) == (before is not None)
        assert out.read_bytes() != before


def test_rotated_parts_belong_to_their_journal(tmp_path: Path) -> None:
    """A journal is read with the parts that rotation put away, once each even where a pattern names them too."""
    rng, path = random.Random(0), tmp_path / "j.jsonl"
    with Journal(path, max_bytes=100_000) as journal:
        for i in range(400):
            journal.append(step(i, rng.random(), harm=False))
    assert len(list(tmp_path.iterdir())) > 1
    assert "400 steps" in run(path, "--max-loss", 0.1).stdout
    assert "400 steps" in run(path, tmp_path / "j*.jsonl", "--max-loss", 0.1).stdout
