"""The shipped schema of a plan, the tolerant reading of other people's plans, and the check that one holds together.

What cannot be read is None, never an error; every walk ends at a fixed number of steps, links or nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PlanStatus = Literal["pending", "in_progress", "done", "failed", "skipped"]

_SYNONYMS: dict[str, PlanStatus] = {
    **dict.fromkeys(
        ("pending", "todo", "to_do", "not_started", "open", "waiting", "planned", "queued", "blocked", ""), "pending"
    ),
    **dict.fromkeys(("in_progress", "inprogress", "doing", "running", "started", "active", "current"), "in_progress"),
    **dict.fromkeys(("done", "completed", "complete", "finished", "success", "succeeded", "ok"), "done"),
    **dict.fromkeys(("failed", "fail", "failure", "error", "errored"), "failed"),
    **dict.fromkeys(("skipped", "skip", "cancelled", "canceled", "obsolete"), "skipped"),
}


def _status(value: object) -> object:
    """Return a status in the words of the schema; what has no synonym stays as it is."""
    if not isinstance(value, str):
        value = getattr(value, "value", value)  # an enum
    if not isinstance(value, str):
        return value
    return _SYNONYMS.get(value[:40].strip().casefold().replace(" ", "_").replace("-", "_"), value)


class PlanStep(BaseModel):
    """One step of a plan.

    An argument may be taken from an earlier step: `"${step_id}"` or `"$step_id"` is that step's result,
    `"${step_id.field.0}"` or `"$step_id.field.0"` a part of it, and `"... ${step_id.field} ..."` a text that holds it.
    """

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    id: str = Field(description="Short unique name of the step.")
    tool: str | None = Field(default=None, description="Name of the tool that the step calls; null for a step of text.")
    description: str = Field(default="", description="What the step does.")
    depends_on: list[str] = Field(default_factory=list, description="Ids of the steps that must be done before.")
    status: Annotated[PlanStatus, BeforeValidator(_status)] = "pending"
    args: dict[str, Any] | None = Field(
        default=None, description='Arguments of the tool; "${id.field}" stands for a part of an earlier step\'s result.'
    )
    outputs: list[str] = Field(default_factory=list, description="Names of the asked-for outputs that it makes.")
    result: Any = Field(default=None, description="Result of the step once it is done; leave out when planning.")


class Plan(BaseModel):
    """A plan: steps in the order in which they are meant. Keep it in state as plain JSON, `plan.model_dump()`."""

    model_config = ConfigDict(extra="ignore")

    steps: list[PlanStep] = Field(description="The steps in order.")


_MAX_LINKS = 2_000
_MAX_NAMES = 500
_PROBED = 500


@dataclass(slots=True)
class Step:
    """A step as the checks read it. `status` None is a word that nobody knows: neither open nor forbidden."""

    id: str
    tool: str | None
    depends_on: tuple[str, ...]
    status: PlanStatus | None
    states_status: bool
    args: Mapping[str, Any]
    outputs: tuple[str, ...]
    result: object

    @property
    def open(self) -> bool:
        """Return whether the step is still to be done."""
        return self.status in ("pending", "in_progress")

    @property
    def closed(self) -> bool:
        """Return whether a step that depends on this one may start."""
        return self.status in ("done", "skipped", None)


def items_of(found: object) -> Sequence[object] | None:
    """Return the steps of what may be a plan, unread: of a plan, its JSON, or a list."""
    if isinstance(found, Mapping):
        found = found.get("steps")
    elif not isinstance(found, list | tuple):
        found = getattr(found, "steps", None)
    return found if isinstance(found, list | tuple) else None


def read_steps(items: Sequence[object], max_steps: int) -> list[Step] | None:
    """Return the steps of a plan; None when one of them is something else or there are too many to judge."""
    if len(items) > max_steps:
        return None
    steps = [step for item in items if (step := _step(item)) is not None]
    whole = len(steps) == len(items) and sum(len(step.depends_on) for step in steps) <= _MAX_LINKS
    return steps if whole else None


def field_of(item: object, key: str) -> object:
    """Return a field of a mapping or an object."""
    if isinstance(item, dict):  # asked before Mapping, which is ten times slower to ask for
        return cast("object", item.get(key))
    return item.get(key) if isinstance(item, Mapping) else getattr(item, key, None)


def _step(item: object) -> Step | None:
    """Return one step; None when the item is something else, such as a line of text or a to-do without an id."""
    if item is None or isinstance(item, str | int | float | list | tuple):
        return None
    identity, tool, status = field_of(item, "id"), field_of(item, "tool"), field_of(item, "status")
    depends_on = field_of(item, "depends_on")
    if identity is None and tool is None and depends_on is None:
        return None
    word = "pending" if status is None else _status(status)
    args = field_of(item, "args")
    return Step(
        id=_name(identity),
        tool=_name(tool) or None,
        depends_on=_names(depends_on),
        status=cast("PlanStatus", word) if isinstance(word, str) and word in _SYNONYMS else None,
        states_status=status is not None,
        args=cast("Mapping[str, Any]", args) if isinstance(args, Mapping) else {},
        outputs=_names(field_of(item, "outputs")),
        result=field_of(item, "result"),
    )


def _name(value: object) -> str:
    if isinstance(value, str):
        return value[:200].strip()
    return str(value) if isinstance(value, int) and value.bit_length() < 64 else ""  # ids, not data


def _names(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(dict.fromkeys(_name(item) for item in islice(value, _MAX_NAMES)))
    return (_name(value),)


def looks_like_plan(items: object) -> bool:
    """Return whether a list holds steps of our shape: all have an id, one of them a tool or dependencies too."""
    if not isinstance(items, list | tuple) or not items:
        return False
    if isinstance(items[0], PlanStep):
        return True
    return all(isinstance(item, Mapping) and "id" in item for item in islice(items, _PROBED)) and any(
        "depends_on" in item or ("tool" in item and ("status" in item or "args" in item or "description" in item))
        for item in islice(items, _PROBED)
    )


def asks_for_plan(schema: object) -> bool:
    """Return whether structured output was asked for in the shipped schema, as a class or as JSON Schema."""
    if isinstance(schema, type):
        return issubclass(schema, Plan)
    if isinstance(schema, Mapping) and schema.get("title") == "Plan":
        properties = schema.get("properties")
        return isinstance(properties, Mapping) and "steps" in properties
    return False


def find_break(steps: list[Step], earlier: set[str]) -> tuple[str, str, str] | None:
    """Return code, reason and path of a fault of ids or dependencies; `earlier` are ids of the plan before."""
    ids: set[str] = set()
    for index, step in enumerate(steps):
        if not step.id or step.id in ids:
            return "plan_duplicate_id", "a step's id is empty or stands twice", f"/{index}/id"
        ids.add(step.id)
    for index, step in enumerate(steps):
        for at, dependency in enumerate(step.depends_on):
            if dependency not in ids and dependency not in earlier:
                reason = "a step depends on one that does not exist"
                return "plan_unknown_dependency", reason, f"/{index}/depends_on/{at}"
    try:
        TopologicalSorter({step.id: ids.intersection(step.depends_on) for step in steps}).prepare()
    except CycleError as error:
        at = next(index for index, step in enumerate(steps) if step.id in error.args[1])
        return "plan_cycle", "steps wait for each other in a circle", f"/{at}/depends_on"
    return None
