"""Input that cannot be used: each command names it in one line, ends with code 2, and changes no file."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt
from cascade_agent.offline.calibration import write_policy
from tests.builders import command, recorded, written
from tests.journals import world

if TYPE_CHECKING:
    from pathlib import Path

READERS = {
    "trace": ("--json",), "replay": ("--resamples", "5"), "calibrate": ("--max-loss", ".5", "--out", "out.json"),
    "drift": (), "report": ("--out", "page.html"), "label": ("0-0-0", "--right"),
}  # fmt: skip
QUICK = ("trace", "drift", "label")
JOINING = ("replay", "calibrate", "label")
"""Commands that join labels to steps, and take no journal whose last line is unfinished."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a journal, other files, and files that are not what they are given for; the commands run in it."""
    steps, labels, _ = world(8, shadow=0.5)
    whole = written(tmp_path / "j.jsonl", steps, labels).read_bytes()
    small = Attempt(tier="small", outcome="accepted", answer={"text": "x"})
    written(tmp_path / "unlabelled.jsonl", [recorded("u", small)])
    written(tmp_path / "cancelled.jsonl", [recorded("c", small, outcome="cancelled")])
    (tmp_path / "dir").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(whole)[:-200])
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "prices.json").write_text('{"gpt-4o": {"inptu": 1}}')
    (tmp_path / "odd.json").write_text('{"treshold": 0.5, "threshold": 0.5}')
    write_policy(Policy(), tmp_path / "policy.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(place: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


def refused(place: Path, complaint: str, *args: object, code: int = 2) -> str:
    """Run a command that must refuse its input; return the complaint."""
    before = contents(place)
    done = command(*args, code=code)
    assert complaint in done.stderr, (args, done.stderr)
    assert "Traceback" not in done.stderr
    if args[0] == "trace" and "--json" in args:
        assert isinstance(json.loads(done.stdout or "[]"), list)
    else:
        assert done.stdout == "", args
    assert contents(place) == before, args
    return done.stderr


@pytest.mark.parametrize(
    ("line", "complaint", "names"),
    [
        (b"what?\n", "not a line of JSON", READERS),
        (b'{"type":"poem"}\n', "a record of type 'poem'; this version reads 'step' and 'label': upgrade", QUICK),
        (b'{"type":"step"}\n', "StepTrace", QUICK),
        (b'{"type":"step","schema":9,"id":"x"}\n', "StepTrace has schema 9, this version reads up to 1: upgrade", READERS),
        *((b'{"type":"step","id":"x","%s":[]}\n' % key, f"StepTrace.{key.decode()} is ", QUICK) for key in (b"cost", b"latency")),
        (b'{"type":"label","step_id":"a","source":"p","right":"so"}\n', "Label.right is 'so'; expected true or false", READERS),
        (b'{"type":"label","step_id":"a","source":"p","right":true,"harm":true}\n', "right and harm at once", JOINING),
        (b'{"type":"label","step_id":"a","source":"p","right":true,"propensity":3}\n', "has propensity 3", JOINING),
        (b'{"type":"step","id":"cut', "the last line is unfinished", JOINING),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named(place: Path, line: bytes, complaint: str, names: tuple[str, ...]) -> None:
    """File, line and mend; with `--skip-bad` the command does without it."""
    journal = place / "j.jsonl"
    whole = journal.read_bytes()
    at = whole.count(b"\n") + 1
    for name in names:
        journal.write_bytes(whole + line)
        entry = refused(place, complaint, name, "j.jsonl", *READERS[name])
        assert f"j.jsonl:{at}: " in entry
        assert "give --skip-bad" in entry
        assert command(name, "j.jsonl", *READERS[name], "--skip-bad").exit_code in (0, 1, 3), name


def test_an_unfinished_last_line_is_left_out_by_the_others(place: Path) -> None:
    """`trace`, `drift` and `report` read what is whole, and say so."""
    with (place / "j.jsonl").open("ab") as file:
        file.write(b'{"type":"step","id":"cut')
    for name in READERS.keys() - JOINING:
        done = command(name, "j.jsonl", *READERS[name])
        assert done.exit_code in (0, 3)
        assert "the last line is unfinished; it was left out" in done.stderr


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_journal_is_named(place: Path, name: str) -> None:
    """None of that name, an empty one, a directory, an archive that is cut off."""
    for file, complaint in (("none.jsonl", "no journal matches"), ("empty.jsonl", "empty.jsonl"), ("dir", "is a directory"),
                            ("cut.jsonl.gz", "--out" if name == "label" else "is cut off")):  # fmt: skip
        refused(place, complaint, name, file, *READERS[name])
    refused(place, "FILE" if name == "trace" else "Missing argument", name)


J = "j.jsonl"
LOSS = ("--max-loss", 0.05)


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("calibrate", ["empty.jsonl", *LOSS], "holds no step yet"),
        ("calibrate", ["unlabelled.jsonl", *LOSS], "1 steps and no label"),
        ("calibrate", [J, *LOSS, "--policy", J], "not JSON"),
        ("calibrate", [J, "--max-loss", 7], "max_loss is 7"),
        ("calibrate", [J, *LOSS, "--scorer", "best"], "best"),
        ("calibrate", [J], "--max-loss"),
        ("calibrate", [J, *LOSS, "--by-kind", "--together"], "two claims"),
        ("calibrate", [J, *LOSS, "--out", "dir"], "directory"),
        ("calibrate", [J, *LOSS, "--out", "no/p.json"], "directory"),
        ("calibrate", [J, *LOSS, "--out", J], "is no policy file"),
        ("replay", ["empty.jsonl"], "empty.jsonl: the journal holds no step yet"),
        ("replay", [J, "--policy", J], "j.jsonl:2: not JSON"),
        ("replay", [J, "--policy", "none.json"], "cannot be read as a policy file"),
        ("replay", [J, "--policy", "odd.json"], "no setting 'treshold'"),
        ("replay", [J, "--labels", "none.jsonl"], "no journal matches 'none.jsonl'"),
        ("replay", [J, "--on-conflict", "x"], "expected precedence or exclude"),
        ("replay", [J, "--grid", "0:1:0.0001"], "1002 policies to compare"),
        *(("replay", [J, "--grid", grid], "expected FROM:TO:STEP")
          for grid in ("2", "x", "0.5:0.9", "0.9:0.5:0.1", "0.5:0.9:0", "0.5:0.9:-1", "nan", "0:1:nan", "")),
        ("drift", ["empty.jsonl"], "no finished step"),
        ("drift", ["cancelled.jsonl"], "1 unfinished"),
        ("drift", [J, "--since", "soon"], "soon"),
        ("drift", [J, "--policy", "none.json"], "none.json"),
        ("drift", [J, "--max-loss", "2"], "--max-loss"),
        ("drift", [J, "--false-alarms", "0"], "false_alarms"),
        ("drift", [J, "--prices", "none.json"], "none.json"),
        ("drift", [J, "--prices", "list.json"], "list.json"),
        ("drift", [J, "--prices", "prices.json"], "inptu"),
        ("drift", [J, "--provider", ""], "--provider"),
        ("label", [J, "0-0-0"], "--right or --wrong"),
        ("label", [J, "0-0-0", "--right", "--harm"], "contradict each other"),
        ("label", [J, "--right"], "STEP_ID"),
        ("label", [J, " ", "--right"], "STEP_ID is empty"),
        ("label", [J, "0-0-0", "--from", "list.json"], "not both"),
        ("label", [J, "0-0-0", "--right", "--source", "shadow"], "shadow"),
        ("label", [J, "--from", "none.csv"], "none.csv: cannot be read"),
        ("label", ["empty.jsonl"], "holds no step yet"),
        ("label", ["j*.jsonl", "0-0-0", "--right"], "--out FILE"),
        ("report", [J, "--out", "dir"], "is a directory; give a file in it"),
        ("report", [J, "--out", J], "exists and is no HTML page"),
        ("report", [J, "--out", "no/x.html"], "the report cannot be written"),
        ("trace", ["--follow", "dir"], "--follow takes"),
        ("trace", ["--follow", "cut.jsonl.gz"], "--follow takes"),
        ("trace", ["--follow", J, J], "--follow takes"),
        ("demo", ["--small", "openai:gpt-4o-mini"], "--large"),
        ("demo", ["--base-url", "http://127.0.0.1:9/v1"], "--small and --large"),
        ("demo", ["--graph", "other"], "support, plan_execute, code_repair or extraction"),
        ("demo", ["--tasks", "0"], "--tasks"),
        ("demo", ["--small", "nobody:x", "--large", "nobody:y"], "nobody:x"),
        ("demo", ["--out", J], "is a file; give a directory"),
        ("nonsense", [], "nonsense"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(place: Path, name: str, args: list[object], complaint: str) -> None:
    """Options, files and settings that are none."""
    refused(place, complaint, name, *args)


def test_a_file_of_labels_that_cannot_be_written_is_a_run_that_failed(place: Path) -> None:
    """Code 1: the input was good."""
    refused(place, "cannot be written", "label", J, "0-0-0", "--right", "--out", "policy.json/x.jsonl", code=1)
