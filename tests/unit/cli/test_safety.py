"""Whatever a journal holds, every command ends in an answer or one line, and nothing in it acts upon the terminal."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascade_agent.cli import app
from cascade_agent.core.records import Attempt, Label, StepTrace, Verdict
from cascade_agent.journal.writer import Journal
from tests.journals import world

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "[red]x[/red] \x1b[31mred\x1b[2K\x1b]0;t\x07 \x9b2J \u202eback\u2066 a\rb\nc\td \ud800 \u200b"
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff]")
COMMANDS = (
    ("trace",),
    ("trace", "--json"),
    ("trace", "--quiet", "--last", "3"),
    ("replay", "--resamples", "0"),
    ("replay", "--resamples", "0", "--json"),
    ("calibrate", "--max-loss", "0.3"),
    ("calibrate", "--max-loss", "0.3", "--json"),
    ("drift",),
    ("drift", "--json"),
    ("report", "--out", "page.html"),
    ("report", "--json"),
    ("label",),
    ("label", "--order", "random", "--json"),
    ("label", "id0", "--right"),
)


def run(journal: Path, command: tuple[str, ...], *more: str) -> tuple[int, str, str]:
    """The command in this process; an exception that leaves it fails the test with its traceback."""
    name, *args = command
    done = CliRunner().invoke(app, [name, str(journal), *args, *more], input="r\nw\ns\nq\n", catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def lines_of() -> list[dict[str, object]]:
    """Records of every kind, as a journal holds them."""
    steps, labels, _ = world(6, shadow=0.5)
    with_type = [{"type": "step", **step.to_json()} for step in steps]
    with_type[0]["id"] = "id0"
    person = Label(step_id="id0", source="person", right=True, note="seen").to_json()
    return json.loads(json.dumps([*with_type, *({"type": "label", **x.to_json()} for x in labels), person]))


WHOLE = lines_of()
odd = (
    st.none()
    | st.booleans()
    | st.sampled_from(
        ["", "x", HOSTILE, -1, 0, 1.5, 10**400, -(10**30), 1e308, 5e-324, [], {}, [1], {"a": 1}, [[]], "1"]
    )
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)


@st.composite
def journals(draw: st.DrawFn) -> str:
    """A journal with values of any type in any places, fields left out, lines torn and repeated."""
    records = json.loads(json.dumps(WHOLE))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.sampled_from(records))
        while True:
            keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and draw(st.booleans()):
                at = at[key]
                continue
            if isinstance(at, dict) and draw(st.integers(0, 4)) == 0:
                del at[key]
            else:
                at[key] = draw(odd)
            break
    lines = [json.dumps(record) for record in records]
    if draw(st.integers(0, 3)) == 0:
        index = draw(st.integers(0, len(lines) - 1))
        lines[index] = draw(st.sampled_from(["", "{", "nonsense", "[1]", "null", lines[index][:40], HOSTILE, "{}"]))
    return "\n".join(lines) + draw(st.sampled_from(["\n", "", "\n" + lines[0][:60]]))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=journals(), skip=st.booleans())
def test_no_journal_ends_a_command_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, text: str, *, skip: bool
) -> None:
    """Values of any type, lines of any kind: exit code 0 to 3, one JSON value for `--json`, nothing that acts."""
    place = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for command in COMMANDS:
            journal = place / "j.jsonl"
            journal.write_bytes(text.encode("utf-8", "surrogatepass"))
            code, out, err = run(journal, command, *(["--skip-bad"] if skip else []))
            assert code in (0, 1, 2, 3), (command, err)
            assert ACTS.search(out + err) is None, command
            if code == 2:
                assert err.startswith("cascade-agent: "), command
            if "--json" in command and out:
                json.loads(out)


def test_no_text_of_others_acts_upon_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, names, ids, notes, errors, models: what a terminal would act upon is printed as an escape."""
    monkeypatch.chdir(tmp_path)
    verdict = Verdict(outcome="pass", score=0.5, code=HOSTILE, reason=HOSTILE, path=HOSTILE, validator=HOSTILE)
    with Journal(tmp_path / "j.jsonl", requests=True) as journal:
        for n in range(12):
            call = {"name": HOSTILE, "args": {HOSTILE: HOSTILE}, "id": HOSTILE}
            answer = {"text": HOSTILE, "tool_calls": [call]}
            small = Attempt(
                tier="small", model=f"{HOSTILE}{n % 2}", verdicts=(verdict,), confidence=0.5, answer=answer, cost=1.0
            )
            trace = StepTrace(
                id=f"id{n}{HOSTILE}", step=HOSTILE, outcome="escalated", reason=HOSTILE, thread_id=HOSTILE, final=1,
                attempts=(small, Attempt(tier="large", model=HOSTILE, outcome="accepted", answer=answer, cost=2.0)),
                currency=HOSTILE, policy=HOSTILE, cost=3.0, started_at=f"2026-01-01T00:00:{n:02d}+00:00",
            )  # fmt: skip
            journal.append(trace, request=[{"role": HOSTILE, "content": HOSTILE}])
            journal.label(trace.id, source=HOSTILE, right=False, note=HOSTILE)
            journal.label(trace.id, source="person", right=True, note=HOSTILE)
    text = (tmp_path / "j.jsonl").read_text()
    for command in COMMANDS:
        (tmp_path / "j.jsonl").write_text(text)
        code, out, err = run(tmp_path / "j.jsonl", command)
        assert code in (0, 1, 2, 3), (command, err)
        assert ACTS.search(out + err) is None, command


def test_label_shows_the_request_where_it_was_kept(tmp_path: Path) -> None:
    """The messages stand above the answers; without them it says how to keep them."""
    step = StepTrace(
        id="a",
        step="s",
        outcome="accepted",
        reason="r",
        final=0,
        attempts=(Attempt(tier="small", answer={"text": "4"}),),
    )
    for keep in (True, False):
        path = tmp_path / f"{keep}.jsonl"
        Journal(path, requests=keep).append(step, request=[{"role": "human", "content": "2 + 2?"}])
        _, out, _ = run(path, ("label",))
        assert ("human: 2 + 2?" in out) == keep
        assert ("Journal(requests=True)" in out) != keep
