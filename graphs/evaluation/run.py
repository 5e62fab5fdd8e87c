"""Runs a graph on a task over a fresh database and measures success from the database and the answers.

Success is what `judge` finds in the rows and the texts; nothing a model says about itself counts.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.types import Command

from cascade_agent.core.records import Usage
from cascade_agent.errors import CascadeExhausted
from graphs.evaluation.projects import load_projects
from tools.database import MAX_ROWS, OrderDatabase, Row, Snapshot, Value, changes
from tools.patch import PatchError, apply_patch, is_test
from tools.project import Project
from tools.sandbox import Limits, run_tests

if TYPE_CHECKING:
    from langchain_core.outputs import LLMResult
    from langgraph.graph.state import CompiledStateGraph

    from graphs.evaluation.projects import FaultyProject
    from graphs.evaluation.tasks import Task

Builder = Callable[..., "CompiledStateGraph[Any, Any, Any, Any]"]
"""`build(checkpointer=..., db=... or project=...)` gives a graph over that shop or project."""

MAX_SUPERSTEPS: Final = 60
MAX_REVIEWS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of one task. `missed` names why it did not succeed; `calls` holds model and tokens of every call."""

    task: str
    success: bool
    missed: tuple[str, ...]
    answers: tuple[str, ...]
    calls: tuple[tuple[str, Usage], ...] = ()
    seconds: float = 0.0

    def cost(self, price: Callable[[str, Usage], float | None]) -> float | None:
        """Cost of all model calls, rejected drafts included; None when that of one call is unknown."""
        costs = [price(name, usage) for name, usage in self.calls]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


class Tally(BaseCallbackHandler):
    """Notes the tokens of every model call, with the name that the answer carries."""

    run_inline = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, Usage]] = []

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Note one call."""
        del kwargs
        message = getattr(response.generations[0][0], "message", None)
        if isinstance(message, AIMessage):
            meta = message.response_metadata
            self.calls.append((str(meta.get("model_name") or meta.get("model") or "unknown"), Usage.of(message)))


def run_task(task: Task, build: Builder, *, thread_id: str | None = None) -> TaskResult:
    """Let a graph do a task over a fresh database, turn by turn in one thread, and judge what came of it."""
    db, tally = UnsteadyDatabase(), Tally()
    before = db.snapshot()
    db.failing = dict(task.outages)
    graph = build(checkpointer=InMemorySaver(), **_ground(task, db))
    config: Any = {
        "configurable": {"thread_id": thread_id or task.id},
        "callbacks": [tally],
        "recursion_limit": MAX_SUPERSTEPS,
    }
    answers: list[str] = []
    state: dict[str, Any] = {}
    asked = 0
    stopped: str | None = None
    started = time.perf_counter()
    for turn in task.turns:
        try:
            state = graph.invoke({"messages": [HumanMessage(turn)]}, config)
            while "__interrupt__" in state and asked < MAX_REVIEWS:
                decision = task.reviews[asked] if asked < len(task.reviews) else {"type": "approve"}
                asked += 1
                state = graph.invoke(Command(resume={"decisions": [decision]}), config)
        except GraphRecursionError:
            stopped = f"did not come to an end within {MAX_SUPERSTEPS} supersteps"
            break
        except Exception as error:
            if not (isinstance(error, CascadeExhausted) or hasattr(error, "cascade")):
                raise
            stopped = f"no usable answer: {error}"
            break
        last = state["messages"][-1]
        answers.append(str(last.text) if isinstance(last, AIMessage) else "")
    seconds = time.perf_counter() - started
    db.failing = {}
    missed = judge(task, before, db.snapshot(), answers, patch=state.get("patch"))
    db.close()
    if task.reviews and asked != len(task.reviews):
        missed = (*missed, f"a person was asked {asked} times, not {len(task.reviews)}")
    if stopped:
        missed = (stopped, *missed)
    return TaskResult(
        task=task.id,
        success=not missed,
        missed=missed,
        answers=tuple(answers),
        calls=tuple(tally.calls),
        seconds=seconds,
    )


class UnsteadyDatabase(OrderDatabase):
    """A shop whose tables can fail to answer: `failing` holds how often each one still does."""

    failing: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.failing = {}

    def read(self, sql: str, parameters: Sequence[Value] = (), *, limit: int = MAX_ROWS) -> list[Row]:
        """Return rows, or fail as SQLite does when a statement takes too long."""
        for table, left in self.failing.items():
            if left and f"FROM {table}" in sql:
                self.failing[table] = left - 1
                msg = "interrupted"
                raise sqlite3.OperationalError(msg)
        return super().read(sql, parameters, limit=limit)


def _ground(task: Task, db: OrderDatabase) -> dict[str, Any]:
    """Return the ground that a task is done on, as its graph's `build` takes it."""
    if task.project is not None:
        return {"project": Project(_project(task.project).files)}
    return {} if task.record else {"db": db}


def _project(name: str) -> FaultyProject:
    return next(project for project in load_projects() if project.name == name)


def judge(
    task: Task, before: Snapshot, after: Snapshot, answers: list[str], patch: str | None = None
) -> tuple[str, ...]:
    """Return everything that is not as the task wants it; empty when it succeeded."""
    if task.project is not None:
        return unmended(_project(task.project), patch)
    if task.record is not None:
        return _wrong_fields(task.record, answers)
    missed = _unequal(task.changes, changes(before, after), after)
    if len(answers) < len(task.turns) or not all(answer.strip() for answer in answers):
        missed.append("a turn has no answer")
    text = "\n".join(answers)
    missed.extend(f"the answer lacks {fact[0]!r}" for fact in task.facts if not any(holds(text, word) for word in fact))
    missed.extend(f"the answer holds {word!r}" for word in task.forbidden if holds(text, word, whole=False))
    return tuple(missed)


def unmended(project: FaultyProject, patch: str | None) -> tuple[str, ...]:
    """Return what is wrong with a patch by the tests that no model has seen; empty when the fault is mended."""
    if patch is None:
        return ("there is no patch",)
    try:
        modules = {name: text for name, text in apply_patch(patch, project.files).items() if not is_test(name)}
    except PatchError as error:
        return (str(error),)
    run = run_tests({**modules, **project.hidden}, Limits(seconds=20.0))
    return () if run.passed else (f"{run.failed} of {run.ran} hidden tests fail ({run.outcome})",)


def _wrong_fields(record: Mapping[str, Any], answers: list[str]) -> tuple[str, ...]:
    try:
        found = json.loads(answers[-1])
    except (IndexError, ValueError):
        return ("the answer is no record",)
    return tuple(f"{name} is wrong" for name, value in record.items() if found.get(name) != value)


def holds(text: str, fact: str, *, whole: bool = True) -> bool:
    """Return whether a text holds a fact in any case; `whole` keeps `3` from being found in `13`, `2.3` or `3.5`."""
    if not whole:
        return fact.casefold() in text.casefold()
    pattern = rf"(?<![a-z0-9])(?<!\d[.,]){re.escape(fact.casefold())}(?![a-z0-9]|[.,]\d)"
    return re.search(pattern, text.casefold()) is not None


def _unequal(wanted: Mapping[str, Any], found: Mapping[str, Any], after: Snapshot) -> list[str]:
    missed: list[str] = []
    for table in sorted(wanted.keys() | found.keys()):
        want, have = dict(wanted.get(table, {})), dict(found.get(table, {}))
        new = [_without_number(have.pop(key)) for key in list(have) if have[key] and _is_new(table, have[key])]
        for row in want.pop("+", []):
            if row in new:
                new.remove(row)
            else:
                missed.append(f"{table}: a new row is missing")
        missed.extend(f"{table}: a row that nobody asked for" for _ in new)
        for key in sorted(want.keys() | have.keys()):
            if key not in want:
                missed.append(f"{table} {key}: changed, though nobody asked for it")
            elif key not in have:
                missed.append(f"{table} {key}: not changed")
            elif not _fits(want[key], have[key], after[table].get(key)):
                missed.append(f"{table} {key}: changed in another way")
    return missed


def _is_new(table: str, row: Mapping[str, Any]) -> bool:
    return table == "refunds" and "id" in row


def _without_number(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column != "id"}


def _fits(want: Mapping[str, Any], changed: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Every wanted column holds a wanted value, and no other column was changed."""
    if changed is None or now is None or not changed.keys() <= want.keys():
        return False
    return all(now[k] in v if isinstance(v, list) else now[k] == v for k, v in want.items())
