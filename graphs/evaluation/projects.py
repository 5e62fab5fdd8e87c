"""Small projects with planted faults for the code graph, made here; no project was taken from anywhere.

Each holds the tests that a model may see, one of which fails, and hidden ones that decide whether the fault is mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphs.evaluation.tasks import Task

_HIDDEN = "hidden/"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyProject:
    """A project as a model gets it, and the tests that it never sees."""

    name: str
    complaint: str
    files: dict[str, str]
    hidden: dict[str, str]


@cache
def load_projects() -> tuple[FaultyProject, ...]:
    """Return all projects in the order of the file."""
    text = Path(__file__).with_name("projects.txt").read_text(encoding="utf-8")
    return tuple(map(_project, text.split("##### ")[1:]))


def _project(text: str) -> FaultyProject:
    head, *parts = text.split("=== ")
    name, _, complaint = head.strip().partition(" | ")
    files = dict(part.split("\n", 1) for part in parts)
    return FaultyProject(
        name=name,
        complaint=complaint,
        files={path: text for path, text in files.items() if not path.startswith(_HIDDEN)},
        hidden={path.removeprefix(_HIDDEN): text for path, text in files.items() if path.startswith(_HIDDEN)},
    )


@cache
def repair_tasks() -> tuple[Task, ...]:
    """Return a task for each project."""
    return tuple(
        Task(
            id=f"repair_{project.name}",
            graph="code_repair",
            kind="repair",
            language="en",
            turns=(f"{project.complaint} Please mend it.",),
            project=project.name,
        )
        for project in load_projects()
    )
