"""The measured tasks: requests, the end state of the database that is right, and the facts an answer must hold.

The stand-in models never see this file: they are given the requests only.
"""

from __future__ import annotations

import calendar
import json
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

GraphName = Literal["support", "plan_execute", "code_repair", "extraction"]

_REFUSED = (
    "cannot", "can't", "can not", "not possible", "not allowed", "unable", "could not", "couldn't", "not be",
    "no longer", "refuse", "refused", "decline", "declined", "sorry",
)  # fmt: skip
_LATER = ("later", "try again", "in time", "at the moment", "right now", "cannot be read", "not available")
_ASKS = ("e-mail", "email", "order number", "which")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of the demo.

    `turns` are the user's messages, sent one after the other in one thread. `facts` must all be found in the answers
    (each fact is a tuple of wordings, one of which is enough), `forbidden` must not. `changes` is the exact difference
    between the database before and after: `{table: {key: {column: value or list of allowed values}}}`, new rows under
    the key `+` without their running number. `calls` is one sequence of tool calls that does the task. `record` is what
    a document must become: then the answer is that record as JSON, and no shop is needed. `project` names a project
    with a fault: then the patch in the state must pass its hidden tests. `reviews` are the decisions of
    the person who is asked, in order, and as often as that; without any, whatever is asked is approved. `outages` says
    how often reading a table of the shop fails before it works.
    """

    id: str
    graph: GraphName
    kind: str
    language: str
    turns: tuple[str, ...]
    facts: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    record: dict[str, Any] | None = None
    project: str | None = None
    reviews: tuple[dict[str, Any], ...] = ()
    outages: dict[str, int] = field(default_factory=dict)


@cache
def load_tasks() -> tuple[Task, ...]:
    """All tasks in the order of the file."""
    data = json.loads(Path(__file__).with_name("tasks.json").read_text(encoding="utf-8"))
    return tuple(_task(item) for item in data)


def _task(item: dict[str, Any]) -> Task:
    return Task(
        id=item["id"],
        graph=item["graph"],
        kind=item["kind"],
        language=item["language"],
        turns=tuple(item["turns"]),
        facts=tuple(wordings(fact) for fact in item["must"]),
        forbidden=tuple(item.get("must_not", ())),
        changes=item["changes"],
        calls=tuple((name, args) for name, args in item.get("calls", ())),
        reviews=tuple(item.get("reviews", ())),
        outages=item.get("outages", {}),
    )


def wordings(fact: str | list[str] | dict[str, str]) -> tuple[str, ...]:
    """Every accepted wording of one fact of the file: a text, a list of texts, `{"date": ...}` or `{"amount": ...}`."""
    if isinstance(fact, str):
        return {"$refused": _REFUSED, "$asks": _ASKS, "$later": _LATER}.get(fact, (fact,))
    if isinstance(fact, list):
        return tuple(text for part in fact for text in wordings(part))
    return _dates(date.fromisoformat(fact["date"])) if "date" in fact else _amounts(fact["amount"])


def _dates(day: date) -> tuple[str, ...]:
    month, number = calendar.month_name[day.month], day.day
    spoken = (f"{month} {number}", f"{month} {number}th", f"{month} {number}nd", f"{number} {month}")
    short = (f"{number:02}.{day.month:02}", f"{number}.{day.month}", f"{number:02}/{day.month:02}")
    return (day.isoformat(), *spoken, *short, f"{day.month}月{number}日")


def _amounts(text: str) -> tuple[str, ...]:
    whole, _, cents = text.partition(".")
    short = ((whole,) if cents == "00" else ()) + ((f"{whole}.{cents[0]}",) if cents[1] == "0" else ())
    return (text, f"{whole},{cents}", *short)
