"""`cascade-agent label`: what people know is added to a journal, and nothing that stands there is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from cascade_agent.core.records import Attempt, StepTrace, Verdict
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.journal.writer import Journal
from tests import fresh
from tests.builders import ROOT, command, recorded

if TYPE_CHECKING:
    from pathlib import Path

run = partial(command, "label", code=0)

CONFIDENCES = {"a1": 0.9, "a2": 0.55, "b1": 0.2, "b2": None}


def step(step_id: str, confidence: float | None = None, *, large: str | None = None) -> StepTrace:
    """A step that small answered with prose, or that escalated to `large`."""
    finding = Verdict(outcome="pass", code="tool_match", score=0.4, validator="ToolRelevance", reason="another fits")
    small = Attempt(
        tier="small",
        model="tiny",
        outcome="accepted" if large is None else "rejected",
        confidence=confidence,
        verdicts=(finding,),
        answer={"text": f"small says {step_id}"},
    )
    big = Attempt(tier="large", model="huge", outcome="accepted", answer={"text": large or ""})
    return recorded(step_id, *((small,) if large is None else (small, big)), reason="ok", thread_id="t")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Four steps that small answered, and one whose two texts nobody can compare."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as file:
        for name, confidence in CONFIDENCES.items():
            file.append(step(name, confidence))
        file.append(step("c1", 0.4, large="large says otherwise"))
    return path


def reply(path: Path) -> list[tuple[str, str, bool | None, bool | None]]:
    """The labels of a file."""
    return [(label.step_id, label.source, label.right, label.harm) for label in read_labels(path)]


# ---- one step -------------------------------------------------------------------------------------------------------
def test_a_process_of_its_own_labels_one_step(journal: Path) -> None:
    """The label is appended with who, when and why; what stood there is the same byte for byte."""
    before = journal.read_bytes()
    code = "from cascade_agent.cli import main; main()"
    done = fresh.run(code, "label", journal, "a1", "--wrong", "--note", "no such place")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"1 labels written to {journal}.\n"
    assert journal.read_bytes().startswith(before)
    (label,) = read_labels(journal)
    assert (label.step_id, label.source, label.right, label.note) == ("a1", "person", False, "no such place")
    assert label.at is not None


@pytest.mark.parametrize(
    ("flags", "right", "harm"),
    [
        (["--right"], True, None),
        (["--wrong"], False, None),
        (["--harm"], False, True),
        (["--wrong", "--harm"], False, True),
        (["--wrong", "--no-harm"], False, False),
        (["--no-harm"], None, False),
    ],
)
def test_what_can_be_said(journal: Path, flags: list[str], right: bool | None, harm: bool | None) -> None:
    """Right, wrong, harm and no harm; harm is wrong too."""
    run(journal, "a1", *flags, "--source", "evaluator")
    assert reply(journal) == [("a1", "evaluator", right, harm)]


def test_the_beginning_of_an_id_is_enough_where_only_one_step_has_it(journal: Path) -> None:
    """A unique prefix names its step; a shared one lists the steps; an unknown one says where ids are."""
    run(journal, "c", "--right")
    assert reply(journal) == [("c1", "person", True, None)]
    entry = run(journal, "a", "--right", code=2).stderr
    assert "several steps begin with 'a' (a1, a2)" in entry
    assert "none of the 5 steps has an id that begins with 'zz'" in run(journal, "zz", "--right", code=2).stderr
    with Journal(journal) as file:
        file.append(step("a"))
    run(journal, "a", "--right")  # the whole id of one step, though others begin with it
    assert reply(journal)[-1] == ("a", "person", True, None)


def test_contradictions_are_shown_and_all_labels_kept(journal: Path) -> None:
    """A second label of the other opinion is added; both are shown, and the one that counts."""
    run(journal, "a1", "--right", "--source", "evaluator")
    text = run(journal, "a1", "--wrong").stdout
    assert "a1: labels contradict each other, all are kept:" in text
    assert "evaluator says right" in text
    assert "person says wrong: this one counts" in text
    assert reply(journal) == [("a1", "evaluator", True, None), ("a1", "person", False, None)]
    data = json.loads(run(journal, "a1", "--wrong", "--note", "sure", "--json").stdout)
    assert [len(c["labels"]) for c in data["conflicts"]] == [3]
    assert data["written"][0]["note"] == "sure"


def test_the_same_label_is_not_written_twice(journal: Path) -> None:
    """Saying the same again changes nothing and says so."""
    run(journal, "a1", "--right")
    assert "0 labels written" in run(journal, "a1", "--right").stdout
    assert len(reply(journal)) == 1


def test_labels_can_go_to_another_file(journal: Path, tmp_path: Path) -> None:
    """`--out` leaves the journal alone; a pattern or an archive needs it, and labels there are known next time."""
    before, out = journal.read_bytes(), tmp_path / "people.jsonl"
    run(journal, "a1", "--right", "--out", out)
    assert (journal.read_bytes(), len(reply(out))) == (before, 1)
    assert "1 stood there already" in run(journal, "a1", "--right", "--out", out).stdout
    pattern = tmp_path / "j*.jsonl"
    assert "--out FILE" in run(pattern, "a1", "--right", code=2).stderr
    run(pattern, "a1", "--wrong", "--out", out)
    assert len(reply(out)) == 2


def test_steps_of_rotated_parts_are_found(tmp_path: Path) -> None:
    """A step that rotation put away is labelled in the current file, which does not rotate for it."""
    path = tmp_path / "j.jsonl"
    with Journal(path, max_bytes=2000) as file:
        for i in range(20):
            file.append(step(f"s{i:02d}"))
    parts = set(tmp_path.iterdir())
    assert "s00" not in {trace.id for trace in read(path)}
    run(path, "s00", "--wrong")
    assert reply(path) == [("s00", "person", False, None)]
    assert set(tmp_path.iterdir()) == parts


# ---- a session ------------------------------------------------------------------------------------------------------
def test_a_session_begins_with_the_most_doubtful(journal: Path) -> None:
    """Confidence nearest to one half first; each step is shown with first answer, findings, decision, final answer."""
    text = run(journal, keys="r\nh\nw\nq\n").stdout
    for part in ("small tiny, P(right) 0.55", "small says a2", "ToolRelevance passes it (0.40): another fits [tool_match]",
                 "accepted by small (ok)", "large says otherwise", "3 labels written"):  # fmt: skip
        assert part in text
    assert [text.index(f"id {name}") for name in ("a2", "c1", "b1")] == sorted(
        text.index(f"id {name}") for name in ("a2", "c1", "b1")
    )
    assert reply(journal) == [
        ("a2", "review", True, None),
        ("c1", "review", False, True),
        ("b1", "review", False, None),
    ]


def test_a_session_in_a_process_of_its_own_reads_every_key(journal: Path) -> None:
    """Keys that come through a pipe all at once are taken one by one."""
    done = subprocess.run(
        [sys.executable, "-m", "cascade_agent", "label", str(journal)],
        input="s\nw\nr\nq\n",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert reply(journal) == [("c1", "review", False, None), ("b1", "review", True, None)]


def test_sessions_go_on(journal: Path) -> None:
    """Unknown keys ask again, the end of input quits, labelled steps do not come again."""
    text = run(journal, keys="x\n\nh\ns\nb\n").stdout
    assert text.count("s skip, q quit:") == 3
    assert reply(journal) == [("c1", "review", False, False)]
    run(journal, keys="r\n" * 5)
    assert "0 steps to look at" in run(journal).stdout
    assert len(reply(journal)) == 5


def test_a_random_session_is_a_sample_of_what_small_answered(journal: Path) -> None:
    """Escalated steps are left out, the source is a person, and what was reviewed before counts without asking."""
    run(journal, keys="w\nq\n")
    text = run(journal, "--order", "random", keys="r\n" * 3).stdout
    assert "id c1" not in text
    assert "id a2" not in text
    assert sorted(reply(journal)) == sorted(
        [("a2", "review", False, None), ("a2", "person", False, None)]
        + [(name, "person", True, None) for name in ("a1", "b1", "b2")]
    )


def test_a_session_in_json_asks_on_standard_error(journal: Path) -> None:
    """With --json standard output holds the result alone."""
    result = run(journal, "--json", "--limit", 1, keys="r\n")
    assert "Was small's answer right?" in result.stderr
    assert [label["step_id"] for label in json.loads(result.stdout)["written"]] == ["a2"]


# ---- files of labels ------------------------------------------------------------------------------------------------
def test_labels_are_imported_from_csv_and_json_lines(journal: Path, tmp_path: Path) -> None:
    """Words for yes and no, prefixes, sources and notes; importing again adds nothing."""
    table = tmp_path / "l.csv"
    table.write_bytes(
        '\ufeffstep_id,right,harm,note,who\na1,yes,,"fine, really",x\nb1,wrong,1,,y\nc,0,no,,z\n'.encode()
    )
    text = run(journal, "--from", table).stdout
    assert "3 labels written" in text
    assert reply(journal) == [
        ("a1", "person", True, None),
        ("b1", "person", False, True),
        ("c1", "person", False, False),
    ]
    assert "0 labels written" in run(journal, "--from", table).stdout
    lines = tmp_path / "l.jsonl"
    lines.write_text(
        '{"step_id": "a1", "right": false, "source": "evaluator"}\n\n{"step_id": "a2", "harm": true, "x": 1}\n'
    )
    text = run(journal, "--from", lines).stdout
    assert "a1: labels contradict each other" in text
    assert reply(journal)[3:] == [("a1", "evaluator", False, None), ("a2", "person", None, True)]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("l.csv", "", "l.csv:1: the header is empty"),
        ("l.csv", "id,right\na1,1\n", "l.csv:1: the header is id, right; expected step_id and right"),
        ("l.csv", "step_id,right\n", "no label in it"),
        ("l.csv", "step_id,right\na1,1\na2,maybe\n", "l.csv:3: right is 'maybe'"),
        ("l.csv", "step_id,right\na1,1\na2\n", "l.csv:3: 2 columns expected"),
        ("l.csv", 'step_id,right\na1,1\na2,"1\n', "l.csv:3: not CSV"),
        ("l.csv", "step_id,right\n,1\n", "l.csv:2: no step_id"),
        ("l.csv", "step_id,right\na1,\n", "l.csv:2: it says neither right nor harm"),
        ("l.csv", "step_id,right,harm\na1,1,1\n", "l.csv:2: label of step 'a1' says right and harm at once"),
        ("l.csv", "step_id,right,source\na1,1,shadow\n", "l.csv:2: source is 'shadow'"),
        ("l.csv", "step_id,right\na1,1\nzz,1\n", "l.csv:3: "),
        ("l.csv", "step_id,right\na1,1\na,1\n", "several steps begin with 'a'"),
        ("l.jsonl", '{"step_id": "a1", "right": true}\n{"step_id": "a2", "ri', "l.jsonl:2: not a line of JSON"),
        ("l.jsonl", '{"step_id": "a1", "right": true, "schema": 99}\n', "l.jsonl:1: Label has schema 99"),
        ("l.jsonl", '{"type": "step", "id": "a1", "attempts": []}\n', "l.jsonl:1: no label"),
        ("l.jsonl", "[1]\n", "l.jsonl:1: no label"),
    ],
)
def test_a_bad_file_of_labels_imports_nothing(
    journal: Path, tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    """File, line and mend are named, and not even the good lines before are written."""
    before = journal.read_bytes()
    (tmp_path / name).write_text(content)
    entry = run(journal, "--from", tmp_path / name, code=2).stderr
    assert complaint in entry
    assert journal.read_bytes() == before
