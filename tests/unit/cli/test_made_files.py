"""Commands leave files for their owner alone, and show the progress of a long read."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from cascade_agent.cli import _app
from cascade_agent.journal.reader import read
from tests.builders import command, written
from tests.journals import world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of steps and labels."""
    steps, labels, _ = world(8, shadow=0.5)
    return written(tmp_path / "j.jsonl", steps, labels)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that forbids nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("name", ["page.html", "labels.jsonl"])
def test_what_holds_answers_is_for_its_owner(journal: Path, tmp_path: Path, name: str) -> None:
    """A page and a file of labels, also where it is written for the second time."""
    out = tmp_path / name
    for mark in ("--right", "--wrong"):
        if name == "page.html":
            command("report", journal, "--out", out, code=0)
        else:
            command("label", journal, next(read(journal)).id, mark, "--out", out, code=0)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600


class Screen(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_read_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    """On standard error where that is a terminal, with the name of the file; nothing in a pipe."""
    journal = written(tmp_path / "j.jsonl", world(80)[0])
    screen = Screen() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(_app, "_SHOW_AFTER", -1.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    with _app.reading_progress():
        assert len(list(read(journal))) == 320
    assert ("reading j.jsonl" in screen.getvalue()) is terminal
