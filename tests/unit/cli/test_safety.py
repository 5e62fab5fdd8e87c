"""Whatever a journal holds, every command ends in an answer or one line, and nothing in it acts upon the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from cascade_agent.cli import app
from cascade_agent.core.records import Attempt, Decision, SideCall, Verdict
from cascade_agent.journal.writer import Journal
from tests.builders import recorded
from tests.unit.cli.test_mutations import ACTS, READERS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HOSTILE = "[red]x[/red] \x1b[31mred\x1b[2K\x1b]0;t\x07 \x9b2J \u202eback\u2066 a\rb\nc\td \ud800 \u200b"


def run(journal: Path, command: tuple[str, ...], *more: str) -> tuple[int, str, str]:
    """The command in this process; an exception that leaves it fails the test with its traceback."""
    name, *args = command
    done = CliRunner().invoke(app, [name, str(journal), *args, *more], input="r\nw\ns\nq\n", catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_no_text_of_others_acts_upon_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, names, ids, notes, errors, models: what a terminal would act upon is printed as an escape."""
    monkeypatch.chdir(tmp_path)
    verdict = Verdict(outcome="pass", score=0.5, code=HOSTILE, reason=HOSTILE, path=HOSTILE, validator=HOSTILE)
    with Journal(tmp_path / "j.jsonl", requests=True) as journal:
        for n in range(12):
            call = {"name": HOSTILE, "args": {HOSTILE: HOSTILE}, "id": HOSTILE}
            answer = {"text": HOSTILE, "tool_calls": [call]}
            small = Attempt(
                tier="small", model=f"{HOSTILE}{n % 2}", verdicts=(verdict,), confidence=0.5, answer=answer, cost=1.0,
                error=HOSTILE,
            )  # fmt: skip
            large = Attempt(tier="large", model=HOSTILE, outcome="accepted", answer=answer, cost=2.0)
            trace = recorded(
                f"id{n}{HOSTILE}", small, large, step=HOSTILE, reason=HOSTILE, thread_id=HOSTILE,
                decisions=(Decision(action="escalate", reason="stays_on_large", detail=HOSTILE),), evidence=(SideCall(name=HOSTILE),),
                currency=HOSTILE, policy=HOSTILE, cost=3.0, started_at=f"2026-01-01T00:00:{n:02d}+00:00",
            )  # fmt: skip
            journal.append(trace, request=[{"role": HOSTILE, "content": HOSTILE}])
            journal.label(trace.id, source=HOSTILE, right=False, note=HOSTILE)
            journal.label(trace.id, source="person", right=True, note=HOSTILE)
    text = (tmp_path / "j.jsonl").read_text()
    for command in READERS:
        (tmp_path / "j.jsonl").write_text(text)
        code, out, err = run(tmp_path / "j.jsonl", command)
        assert code in (0, 1, 2, 3), (command, err)
        assert ACTS.search(out + err) is None, command
        if command == ("trace",):
            assert "[red]x[/red] \\x1b[31mred\\x1b[2K\\x1b]0;t\\x07 \\x9b2J \\u202eback\\u2066" in out
        elif command == ("trace", "--json"):
            assert json.loads(out)[0]["labels"][0]["note"] == HOSTILE.replace("\ud800", "\ufffd")


def test_label_shows_the_request_where_it_was_kept(tmp_path: Path) -> None:
    """The messages stand above the answers; without them it says how to keep them."""
    step = recorded("a", Attempt(tier="small", answer={"text": "4"}))
    for keep in (True, False):
        path = tmp_path / f"{keep}.jsonl"
        Journal(path, requests=keep).append(step, request=[{"role": "human", "content": "2 + 2?"}])
        _, out, _ = run(path, ("label",))
        assert ("human: 2 + 2?" in out) == keep
        assert ("Journal(requests=True)" in out) != keep
