"""`PlanConsistency`: a plan holds together, and an action is the one that the plan has due.

What cannot be read as a plan is somebody else's data and is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, cast

from cascade_agent.core.records import Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators._plan import (
    Plan,
    PlanStatus,
    PlanStep,
    Step,
    asks_for_plan,
    field_of,
    find_break,
    items_of,
    looks_like_plan,
    read_steps,
)
from cascade_agent.validators._plan_args import MISSING, compare, find_bad_reference, has_reference
from cascade_agent.validators._soft import HANDED_ON, check_scores
from cascade_agent.validators._words import pointer_part
from cascade_agent.validators.agreement import same_value

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.core.scoring import Weight

__all__ = ["Plan", "PlanConsistency", "PlanStatus", "PlanStep"]

_MAX_TEXT = 200_000
_MAX_CALLS = 64
_WINDOW = 64
_TOOL = ("tool", "ToolMessageChunk")
_HUMAN = ("human", "HumanMessageChunk")


@dataclass(frozen=True, slots=True)
class PlanConsistency:
    """Judges plans and actions against a plan; says nothing where no plan is found.

    The plan in force is `plan(context.state)`, by default what stands under `plan` in the state (a mapping or an
    object): a `Plan`, its JSON, or a list of its steps. It is read tolerantly: numbers as ids, common words for a
    status (`completed`, `todo`, `doing`). Where neither a status nor a result is given, only the tools are held against
    the plan; a plan that is finished binds no later turn. A plan that was found by default binds actions only where its
    steps name tools and all of these are on offer: anything else under that name is the graph's own business. With
    `plan` or `known_tools` given it always binds.

    *A plan as an answer* (`draft.parsed`, the arguments of a call, or text that is JSON of that shape), hard:
    `plan_empty`, `plan_duplicate_id` (also an empty id), `plan_unknown_tool`, `plan_unknown_dependency`, `plan_cycle`,
    `plan_unknown_reference`, `plan_missing_output`. A good one while a plan is in force passes with `replanned`.

    *An action against the plan in force*, hard: `plan_unexpected_call` (no open step calls this tool),
    `plan_step_done`, `plan_dependency_open`, `plan_wrong_argument` (an argument that the plan takes from an earlier
    result differs from it). A final text while steps with tools are open is a soft `plan_steps_open`; an argument that
    differs from the plan's own literal is a graded `plan_argument_differs`. While a step without a tool is due, any
    call or text may be what it asks for.

    Results of earlier steps are read from the step's `result`, from `results` (id -> value) in the state, or from the
    only tool message of a tool that only one step calls. A dependency whose tool has answered counts as done.

    Args:
        plan: reads the plan from the state: returns a plan in one of the shapes above, or None.
        known_tools: names of the tools that a plan may use; default the tools that the step offers.
        required_outputs: names that a plan must cover by an id, a tool or an `outputs` entry; a callable is asked with
            the context.
        free_tools: tools that may be called at any time (looking up, replanning).
        open_score: P(right) of a final text while steps are open, in [0, 1]. A prior, not measured.
        differs_score: P(right) of a literal argument that differs from the plan's, in [0, 1]. A prior, not measured.
        max_steps: longest plan that is judged.

    Raises:
        ConfigurationError: a score outside [0, 1], `max_steps` not positive, or a string in place of names.
    """

    plan: Callable[[Any], object] | None = None
    _: KW_ONLY
    known_tools: Collection[str] | None = None
    required_outputs: Collection[str] | Callable[[StepContext], Iterable[str]] | None = None
    free_tools: Collection[str] = ()
    open_score: float = 0.2
    differs_score: float = 0.4
    max_steps: int = 200
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "plan_inconsistent"
    weights: ClassVar[Mapping[str, Weight]] = dict.fromkeys(("plan_steps_open", "plan_argument_differs"), HANDED_ON)

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_scores(self, "open_score", "differs_score")
        if self.max_steps < 1:
            msg = f"PlanConsistency.max_steps is {self.max_steps!r}; expected a positive number of steps"
            raise ConfigurationError(msg)
        for key in ("known_tools", "required_outputs", "free_tools"):
            value = getattr(self, key)
            if isinstance(value, str):
                msg = f"PlanConsistency.{key} is a string; expected a collection of names, for example [{value!r}]"
                raise ConfigurationError(msg)

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return the first finding, or nothing."""
        state = context.state
        found = None if state is None else field_of(state, "plan") if self.plan is None else self.plan(state)
        items, path = self._proposed(draft, context)
        if found is None and items is None:
            return None
        in_force = self._readable(found)
        if items is not None:
            steps = read_steps(items, self.max_steps)
            return None if steps is None else self._judge_plan(steps, path, in_force, draft, context)
        if in_force:
            return self._judge_action(in_force, draft, context) if self._binds(in_force, context) else None
        if self.plan is not None and in_force is None:
            reason = "what `plan` returned is no consistent plan of at most max_steps steps"
            return Verdict(outcome="abstain", code="plan_unreadable", reason=reason)
        return None

    def _readable(self, found: object) -> list[Step] | None:
        items = None if found is None else items_of(found)
        steps = None if items is None else read_steps(items, self.max_steps)
        # A plan made by an earlier re-planning may wait for steps of the one before it.
        known_or_gone = {dependency for step in steps or () for dependency in step.depends_on}
        return None if steps is None or find_break(steps, known_or_gone) is not None else steps

    def _binds(self, steps: list[Step], context: StepContext) -> bool:
        """Return whether actions are held against this plan: it was named, or its tools are all on offer."""
        if self.plan is not None or self.known_tools is not None:
            return True
        tools = {step.tool for step in steps if step.tool is not None}
        return bool(tools) and tools <= context.tools_by_name.keys()

    # ---- a plan as an answer ----------------------------------------------------------------------------------------

    def _proposed(self, draft: Draft, context: StepContext) -> tuple[Sequence[object] | None, str]:
        """Return the plan that the answer is or carries, unread, and where it stands; None when it is none."""
        for value, path in _places(draft):
            items = items_of(value)
            whole = isinstance(value, Mapping) and value is draft.parsed
            asked_for = isinstance(value, Plan) or (whole and asks_for_plan(context.output_schema))
            if not asked_for and not looks_like_plan(items):
                continue
            if draft.parsed is None and self.known_tools is None:
                known = self._known(draft, context)
                if known and not any(field_of(item, "tool") in known for item in islice(items or (), self.max_steps)):
                    break  # a recipe, a bill of materials: data of that shape that was asked for
            return items, path if isinstance(value, list | tuple) else f"{path}/steps"
        return None, ""

    def _known(self, draft: Draft, context: StepContext) -> Collection[str]:
        """Return the names that a plan may use; the tool by which the plan itself is handed in is none of them."""
        if self.known_tools is not None:
            return self.known_tools
        vehicles = {call.get("name") for call in draft.tool_calls}
        return [name for name in context.tools_by_name if name not in vehicles]

    def _judge_plan(
        self, steps: list[Step], path: str, before: list[Step] | None, draft: Draft, context: StepContext
    ) -> Verdict | None:
        if not steps:
            return _fail("plan_empty", "the plan has no steps", path)
        earlier = {step.id for step in before or () if not step.open}
        broken = find_break(steps, earlier) or _tools_and_references(steps, earlier, self._known(draft, context))
        if broken is not None:
            code, reason, place = broken
            return _fail(code, reason, path + place)
        names = self.required_outputs(context) if callable(self.required_outputs) else self.required_outputs or ()
        standing = [step for step in (*(before or ()), *steps) if step.status != "failed"]
        covered = {name for step in standing for name in (step.id, step.tool, *step.outputs)}
        missing = sum(name not in covered for name in names)
        if missing:
            reason = f"the plan does not cover {missing} of the outputs that the request needs"
            return _fail("plan_missing_output", reason, path)
        if before:
            reason = "the answer is a new, consistent plan"
            return Verdict(outcome="pass", code="replanned", reason=reason, path=path)
        return None

    # ---- an action against the plan ---------------------------------------------------------------------------------

    def _judge_action(self, steps: list[Step], draft: Draft, context: StepContext) -> Verdict | None:
        results = field_of(context.state, "results")
        if isinstance(results, Mapping):
            for step in steps:
                other = int(step.id) if step.id.isascii() and step.id.isdecimal() else step.id  # {1: ...} in state
                step.result = results.get(step.id, results.get(other, step.result))
        for step in steps:
            if step.status == "pending" and step.result is not None:
                step.status = "done"
        view = _View(steps, context.messages)
        return self._judge_calls(view, draft) if draft.tool_calls else self._judge_text(view, draft, context)

    def _judge_text(self, view: _View, draft: Draft, context: StepContext) -> Verdict | None:
        if draft.invalid_tool_calls or draft.parsed is not None or context.output_schema is not None:
            return None
        left = [step for step in view.steps if step.open and step.id not in view.ran]
        reports = any(step.status == "in_progress" and step.id in view.ran for step in view.steps)
        if not view.tracked or reports or view.free_step_due or not any(step.tool for step in left):
            return None
        reason = f"a final answer while {len(left)} steps of the plan are open"
        return _fail("plan_steps_open", reason, "/text", self.open_score)

    def _judge_calls(self, view: _View, draft: Draft) -> Verdict | None:
        taken: set[str] = set()
        graded: Verdict | None = None
        for index, call in enumerate(draft.tool_calls[:_MAX_CALLS]):
            if call.get("name") not in self.free_tools:
                args = call.get("args")
                verdict = self._judge_call(view, call.get("name"), args if isinstance(args, Mapping) else {}, taken)
                if verdict is not None:
                    verdict = replace(verdict, path=f"/tool_calls/{index}{verdict.path}")
                    if verdict.hard:
                        return verdict
                    graded = graded or verdict
        return graded

    def _judge_call(self, view: _View, name: str, args: JsonMapping, taken: set[str]) -> Verdict | None:
        mine = [step for step in view.steps if step.tool == name]
        startable = [step for step in mine if step.status not in ("done", "skipped") and step.id not in taken]
        due = [step for step in startable if view.due(step)]
        if not due:
            return self._not_due(view, mine, startable, args)
        findings = [(step, *compare(step, args, view.result)) for step in due]
        step, wrong, differs = min(findings, key=lambda found: (found[1] is not None, found[2] is not None))
        if wrong is not None:
            reason = "an argument differs from the earlier result that the plan takes it from"
            return _fail("plan_wrong_argument", reason, f"/args/{pointer_part(wrong)}")
        taken.add(step.id)
        if differs is None:
            return None
        reason, path = "an argument differs from the one that the plan names", f"/args/{pointer_part(differs)}"
        code, score = "plan_argument_differs", self.differs_score
        return Verdict(outcome="abstain", code=code, reason=reason, score=score, path=path)

    def _not_due(self, view: _View, mine: list[Step], startable: list[Step], args: JsonMapping) -> Verdict | None:
        """Return why no step that calls this tool may run now; None when another explanation is left."""
        if view.free_step_due or (mine and not view.tracked):
            return None
        if startable:
            reason = "the step of the plan that calls this tool waits for another one"
            return _fail("plan_dependency_open", reason, "")
        done = [step for step in mine if step.status == "done"]
        if view.finished and not any(step.tool in view.answered_in_turn for step in done):
            return None
        if any(all(same_value(args.get(k), v) for k, v in step.args.items() if not has_reference(v)) for step in done):
            return _fail("plan_step_done", "the step of the plan that calls this tool is done", "")
        return None if view.finished else _fail("plan_unexpected_call", "no open step calls this tool", "/name")


def _tools_and_references(steps: list[Step], earlier: set[str], known: Collection[str]) -> tuple[str, str, str] | None:
    for index, step in enumerate(steps):
        if known and step.tool is not None and step.tool not in known:
            return "plan_unknown_tool", "a step of the plan calls a tool that is not known", f"/{index}/tool"
    place = find_bad_reference(steps, earlier)
    reason = "an argument is taken from a step that does not exist or does not come before"
    return None if place is None else ("plan_unknown_reference", reason, place)


def _fail(code: str, reason: str, path: str, score: float | None = None) -> Verdict:
    return Verdict(outcome="fail", code=code, reason=reason, path=path, score=score)


class _View:
    """The plan in force, and what the conversation shows of it."""

    def __init__(self, steps: list[Step], messages: Sequence[BaseMessage]) -> None:
        self.steps = steps
        self.tracked = any(step.states_status or step.result is not None for step in steps)
        self.finished = not any(step.open or step.status == "failed" for step in steps)
        self.answered: dict[str | None, list[object]] = {}
        """The last answers of each tool, the newest first, errors left out."""
        self.answered_in_turn: set[str | None] = set()
        this_turn = True
        for message in reversed(messages[-_WINDOW:]):
            this_turn = this_turn and message.type not in _HUMAN
            if message.type in _TOOL and message.name and getattr(message, "status", None) != "error":
                self.answered.setdefault(message.name, []).append(message.content)
                self.answered_in_turn.update([message.name] if this_turn else ())
        self.ran: set[str] = set()  # ids of open steps whose tool has answered more often than the done ones explain
        for tool, answers in self.answered.items():
            mine = [step for step in steps if step.tool == tool]
            spare = len(answers) - sum(step.status == "done" for step in mine)
            self.ran.update(step.id for step in [step for step in mine if step.open][: max(0, spare)])
        self._waiting = {step.id for step in steps if not step.closed} - self.ran
        self.free_step_due = any(step.tool is None and step.open and self.due(step) for step in steps)

    def due(self, step: Step) -> bool:
        """Return whether every step that this one waits for is done; one of an earlier plan is."""
        return self._waiting.isdisjoint(step.depends_on)

    def result(self, step_id: str) -> object:
        """Return what a step gave: its `result`, or the only answer of a tool that only it calls; else `MISSING`."""
        step = next((step for step in self.steps if step.id == step_id), None)
        if step is None or step.result is not None:
            return MISSING if step is None else step.result
        answers = self.answered.get(step.tool, [])
        alone = len(answers) == 1 and sum(other.tool == step.tool for other in self.steps) == 1
        return answers[0] if alone else MISSING


# ---- where an answer may hold a plan --------------------------------------------------------------------------------


def _places(draft: Draft) -> Iterator[tuple[object, str]]:
    """Yield values that a plan may be made of, and where they stand."""
    parsed = draft.parsed
    if parsed is not None:
        yield parsed, "/parsed"
        inner = parsed if isinstance(parsed, Mapping) else getattr(parsed, "__dict__", None)
        if isinstance(inner, Mapping):  # a union in a wrapper, as re-planners have it: {"action": Plan | Answer}
            yield from ((value, f"/parsed/{pointer_part(key)}") for key, value in islice(inner.items(), 16))
    elif draft.tool_calls:
        for index, call in enumerate(draft.tool_calls[:_MAX_CALLS]):
            args = call.get("args")
            if isinstance(args, dict) and "steps" in args:
                yield args, f"/tool_calls/{index}/args"
    else:
        found = _json_of(draft.message.content)
        if found is not None:
            yield found, "/text"


def _json_of(content: object) -> object:
    """Return the JSON that a text is, fenced or not, where it may be a plan; else None."""
    if isinstance(content, list):
        texts = (block.get("text") if isinstance(block, Mapping) else block for block in content)
        content = "".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str) or len(content) > _MAX_TEXT or '"id"' not in content:
        return None
    text = content.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    if text[:1] not in ("{", "[") or ('"tool"' not in text and '"depends_on"' not in text):
        return None
    try:
        return cast("object", json.loads(text))
    except (ValueError, RecursionError):
        return None
