"""From a step to its answer, as the doors share it: run, save where the host saves, and ask a human where none is left.

Law: what was paid is not paid again and what a human approved is what is used. A graph's node runs anew when it is
resumed after an interrupt; so, where one can come, the tiers run in a LangGraph task, whose result is saved with the
checkpoint as plain JSON. (LangGraph before 1.2.16 runs the tasks of a *subgraph* again on resume: there a step is paid
twice, and `"accept"` takes the draft of the second time.)
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from cascade_agent import telemetry
from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import Attempt, StepTrace, load
from cascade_agent.engine.engine import Result, arun, run
from cascade_agent.engine.shadow import shadow
from cascade_agent.engine.statistics import Purse
from cascade_agent.engine.step import Answer, Step
from cascade_agent.errors import RejectedDraft
from cascade_agent.models.usage import NOTHING

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

Rebuild = Callable[[str, "AIMessage", object], Answer]
"""`(tier, message, parsed) -> Answer`: the door's own value of a saved or human answer. `parsed` is plain JSON or None.

Raises:
    ValueError: the message holds no structured output where one was asked for.
"""
TASK = "cascade.step"
"""Name of the task, and the key under which `stream_mode="updates"` tells its result."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to return and the record of its step."""

    answer: Answer
    trace: StepTrace


def settle(step: Step, rebuild: Rebuild, *, durable: bool = False) -> Settled:
    """Run a step and give its answer.

    With `on_exhausted="interrupt"` an exhausted step interrupts the graph with `{"type": "cascade_exhausted", "step",
    "reason", "draft", "trace"}`; resume it with `"accept"` (take the best draft that passed its hard checks),
    `"reject"`, or an answer of your own: a text, or `{"content": ..., "tool_calls": [...], "parsed": {...}}`. A reply
    that fits none of these interrupts again with an `"error"`. Without a graph that has a checkpointer it raises.

    Raises:
        CascadeExhausted: nothing may be returned.
    """
    step, saves = _placed(step, durable=durable)
    if not saves:
        result = run(step)
    else:
        box: list[Result] = []

        def tiers() -> dict[str, Any]:
            box.append(run(step))
            return _saved(box[0], step)

        result = _fresh_or_saved(box, _waited(tiers), step, rebuild) or run(step)
        if not box:
            step = replace(step, shadow=None)  # the first time drew
    shadow(step, result)
    if result.answer is not None:
        return Settled(result.answer, result.trace)
    answer, trace = _by_human(step, result, rebuild)
    if step.interruptible:
        _waited(lambda: _tell(step, trace))
    return _done(answer, replace(result, trace=trace))


async def asettle(step: Step, rebuild: Rebuild, *, durable: bool = False) -> Settled:
    """Async twin of `settle`."""
    step, saves = _placed(step, durable=durable)
    if not saves:
        result = await arun(step)
    else:
        box: list[Result] = []

        async def tiers() -> dict[str, Any]:
            box.append(await arun(step))
            return _saved(box[0], step)

        result = _fresh_or_saved(box, await _task(tiers)(), step, rebuild) or await arun(step)
        if not box:
            step = replace(step, shadow=None)  # the first time drew
    shadow(step, result)
    if result.answer is not None:
        return Settled(result.answer, result.trace)
    answer, trace = _by_human(step, result, rebuild)
    if step.interruptible:

        async def told() -> None:
            _tell(step, trace)

        await _task(told)()
    return _done(answer, replace(result, trace=trace))


# ---- where the step runs --------------------------------------------------------------------------------------------


def _placed(step: Step, *, durable: bool) -> tuple[Step, bool]:
    """The step, knowing its purse and whether a human can be asked, and whether its answer goes into a checkpoint."""
    policy = step.policy
    asks = policy.on_exhausted == "interrupt"
    if not (asks or durable or policy.ceilings):
        return step, False
    runtime = _runtime()
    if policy.ceilings:
        context = step.contexts["small"]
        run = getattr(runtime, "control", None)
        purse = Purse(policy.ceilings, run=run, thread_id=context.thread_id, messages=context.messages)
        step = replace(step, purse=purse)
    info = getattr(runtime, "execution_info", None)
    if not (asks or durable) or info is None or info.thread_id is None:  # no checkpointer: nothing could be resumed
        return step, False
    return (replace(step, interruptible=True) if asks else step), True


def _runtime() -> object:
    """The runtime of the graph that is running, None outside of one."""
    if "langgraph.runtime" not in sys.modules:
        return None
    from langgraph.runtime import get_runtime

    try:
        return get_runtime()
    except RuntimeError:
        return None


def _waited(function: Callable[[], Any]) -> Any:
    """The result of a function, saved as a task's.

    A synchronous call in a node of an asynchronous run stands on the thread of the loop that would have to run the
    task: there it is run at once, and not saved.
    """
    done = False

    def once() -> Any:
        return None if done else function()

    future = _task(once)()
    if asyncio.isfuture(future):
        done = True
        return function()
    return future.result()


def _task(function: Callable[[], Any]) -> Callable[[], Any]:
    from langgraph.func import task

    decorate: Any = task(name=TASK)
    return cast("Callable[[], Any]", decorate(function))


# ---- the human ------------------------------------------------------------------------------------------------------


def _by_human(step: Step, result: Result, rebuild: Rebuild) -> tuple[Answer | None, StepTrace]:
    """Ask a human; what he answers, None for a rejection, and the record that says so."""
    if not step.interruptible:
        return None, result.trace
    from langgraph.types import interrupt

    best, trace = result.best, result.trace
    question: dict[str, Any] = {
        "type": "cascade_exhausted",
        "step": trace.step,
        "reason": trace.reason,
        "draft": None if best is None else best.draft.to_json(),
        "trace": trace.to_json(content=False),
    }
    while True:
        reply = interrupt(question)
        try:
            answer = _understood(reply, best, trace.id, rebuild)
        except ValueError as error:
            question = {**question, "error": str(clean(str(error)[:500]))}
        else:
            return answer, _reviewed(trace, answer, best)


def _understood(reply: object, best: Answer | None, step_id: str, rebuild: Rebuild) -> Answer | None:
    from langchain_core.messages import AIMessage

    if reply in ("reject", False, None):
        return None
    if reply in ("accept", True):
        if best is None:
            msg = "there is no draft to accept: every draft failed a hard check"
            raise ValueError(msg)
        return best
    given = {"content": reply} if isinstance(reply, str) else reply
    if not isinstance(given, Mapping):
        msg = f"expected 'accept', 'reject', a text or an object with content; got {type(reply).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - told to the human, who is asked again
    own = cast("Mapping[str, Any]", given)
    calls = [{"id": f"human-{step_id}-{i}", **call} for i, call in enumerate(own.get("tool_calls") or ())]
    message = AIMessage(content=own.get("content") or "", tool_calls=cast("Any", calls), id=f"human-{step_id}")
    return rebuild("human", message, own.get("parsed"))


def _reviewed(trace: StepTrace, answer: Answer | None, best: Answer | None) -> StepTrace:
    """The record of a step that a human decided; an answer of his own is an attempt that costs nothing."""
    if answer is None:
        return replace(trace, outcome="human_review", final=None)
    if answer is best:
        final = trace.decisions[-1].attempt
        confidence = None if final is None else trace.attempts[final].confidence
        return replace(trace, outcome="human_review", final=final, confidence=confidence)
    own = Attempt(tier="human", outcome="accepted", usage=NOTHING, cost=0.0, answer=answer.draft.to_json())
    return replace(trace, outcome="human_review", attempts=(*trace.attempts, own), final=len(trace.attempts))


def _tell(step: Step, trace: StepTrace) -> None:
    """Write the record of a reviewed step: its line in the journal, and a span of its own.

    The resumed run is another trace than the one that was interrupted; the cost stands on the span of that one.
    """
    span = telemetry.start_step(trace.step, policy=step.policy.version, thread_id=trace.thread_id, run=step.run)
    telemetry.end_step(span, replace(trace, cost=None))
    if step.journal is not None:
        step.journal.append(trace)


def _done(answer: Answer | None, result: Result) -> Settled:
    if answer is None:
        raise result.exhausted()
    return Settled(answer, result.trace)


# ---- a result as plain JSON, and back -------------------------------------------------------------------------------


def _saved(result: Result, step: Step) -> dict[str, Any]:
    """What a checkpoint keeps of a result. Not a failure that raises: a retry of the node is to ask anew."""
    if result.answer is None and not step.interruptible:
        raise result.exhausted()
    best = result.best
    return {
        "request": _fingerprint(step),
        "accepted": result.answer is not None,
        "trace": result.trace.to_json(content=False),  # a rejected draft is in no checkpoint (law 1)
        "errors": [str(clean(f"{type(e).__name__}: {e}"[:500])) for e in result.errors],
        "message": None if best is None else best.draft.message.model_dump(),
        "tier": None if best is None else best.draft.tier,
        "parsed": None if best is None else plain(best.draft.parsed),
    }


def _fresh_or_saved(box: list[Result], saved: Mapping[str, Any] | None, step: Step, rebuild: Rebuild) -> Result | None:
    """The result of the run that just was, or the one that was saved before; None when that was of another request."""
    from langchain_core.messages import AIMessage

    if box:
        return box[0]
    if saved is None or saved["request"] != _fingerprint(step):
        return None
    best = None
    if saved["message"] is not None:
        best = rebuild(saved["tier"], AIMessage(**saved["message"]), saved["parsed"])
    return Result(
        answer=best if saved["accepted"] else None,
        best=best,
        trace=load(StepTrace, saved["trace"]),
        errors=tuple(RejectedDraft(text) for text in saved["errors"]),
    )


def _fingerprint(step: Step) -> str:
    """What was asked, but for ids and system texts (they may hold the time of day)."""
    digest = hashlib.sha256(step.name.encode())
    for message in step.contexts["small"].messages:
        if message.type != "system":
            digest.update(
                repr((message.type, message.content, getattr(message, "tool_calls", None))).encode("utf-8", "replace")
            )
    return digest.hexdigest()


def plain(parsed: object) -> object:
    """Structured output as plain JSON; `None` stays None."""
    if parsed is None:
        return None
    from pydantic import TypeAdapter

    return TypeAdapter(type(parsed)).dump_python(parsed, mode="json", by_alias=True, round_trip=True)


def parse(schema: object, data: object) -> object:
    """Plain JSON as the structured output that `schema` asks for; a JSON Schema takes it as it is.

    Raises:
        ValueError: it is not of that schema.
    """
    if isinstance(schema, Mapping) or schema is None:
        return data
    from pydantic import TypeAdapter

    return TypeAdapter(cast("type[object]", schema)).validate_python(data)
