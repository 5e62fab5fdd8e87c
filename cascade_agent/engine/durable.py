"""A step inside of its host: run, saved where the host saves, and given to a human where no tier is left.

What was paid is not paid again, and what a human approved is what is used. A graph's node runs anew when it is resumed
after an interrupt; so, where one can come, the tiers run in a LangGraph task, whose result is saved with the checkpoint
as plain JSON. (LangGraph before 1.2.16 runs the tasks of a *subgraph* again on resume: there a step is paid twice, and
`"accept"` takes the draft of the second time.)
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import StepTrace, load
from cascade_agent.engine.budget import Budget
from cascade_agent.engine.engine import arun, run, stream
from cascade_agent.engine.human_review import ask_human, record_review
from cascade_agent.engine.shadow import shadow
from cascade_agent.engine.step import StepResult
from cascade_agent.errors import RejectedDraft

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from langchain_core.messages import AIMessageChunk

    from cascade_agent.engine.step import Answer, Rebuild, StepRequest

TASK = "cascade.step"
"""Name of the task, and the key under which `stream_mode="updates"` shows its result."""


def run_durably(request: StepRequest, rebuild: Rebuild) -> Generator[AIMessageChunk, None, tuple[Answer, StepTrace]]:
    """Run a step; return its answer and its record, after yielding what goes out as it comes.

    A task yields nothing: in one, what would be yielded is not, and only handlers see it come.

    With `on_exhausted="interrupt"` an exhausted step interrupts the graph with `{"type": "cascade_exhausted", "step",
    "reason", "draft", "trace"}`; resume it with `"accept"` (take the best draft that passed its hard checks),
    `"reject"`, or an answer of your own: a text, or `{"content": ..., "tool_calls": [...], "parsed": {...}}`. A reply
    that fits none of these interrupts again with an `"error"`. Without a graph that has a checkpointer it raises.

    Raises:
        CascadeExhausted: nothing may be returned.
        Exception: large's own, where large alone would have raised it.
    """
    request, saves = _placed(request)
    if not saves:
        result = yield from stream(request)
    else:
        fresh: list[StepResult] = []

        def tiers() -> dict[str, Any]:
            fresh.append(run(request))
            return _saved(fresh[0], request)

        result = _fresh_or_saved(fresh, run_as_task(tiers), request, rebuild) or run(request)
        if not fresh:
            request = replace(request, shadow=None)  # drawn the first time
    shadow(request, result)
    if result.answer is None and request.interruptible:
        result = ask_human(result, rebuild)
        run_as_task(lambda: record_review(request, result.trace))
    return _ended(result)


async def arun_durably(request: StepRequest, rebuild: Rebuild) -> tuple[Answer, StepTrace]:
    """Async twin of `run_durably`."""
    request, saves = _placed(request)
    if not saves:
        result = await arun(request)
    else:
        fresh: list[StepResult] = []

        async def tiers() -> dict[str, Any]:
            fresh.append(await arun(request))
            return _saved(fresh[0], request)

        result = _fresh_or_saved(fresh, await _task(tiers)(), request, rebuild) or await arun(request)
        if not fresh:
            request = replace(request, shadow=None)  # drawn the first time
    shadow(request, result)
    if result.answer is None and request.interruptible:
        result = ask_human(result, rebuild)

        async def record() -> None:
            record_review(request, result.trace)

        await _task(record)()
    return _ended(result)


def _ended(result: StepResult) -> tuple[Answer, StepTrace]:
    if result.answer is None:
        raise result.failure()
    return result.answer, result.trace


# ---- where the step runs --------------------------------------------------------------------------------------------


def _placed(request: StepRequest) -> tuple[StepRequest, bool]:
    """Return the step with its budget and whether a human can be asked, and whether a checkpoint saves its answer."""
    policy = request.policy
    asks = policy.on_exhausted == "interrupt"
    ceilings = policy.ceilings
    if not (asks or request.durable or ceilings):
        return request, False
    runtime = _runtime()
    if ceilings:
        context, run_of_host = request.contexts["small"], getattr(runtime, "control", None)
        budget = Budget(ceilings, run=run_of_host, thread_id=context.thread_id, messages=context.messages)
        request = replace(request, budget=budget)
    info = getattr(runtime, "execution_info", None)
    if not (asks or request.durable) or info is None or info.thread_id is None:  # no checkpointer: no resuming
        return request, False
    return (replace(request, interruptible=True) if asks else request), True


def _runtime() -> object:
    """Return the runtime of the graph that is running, None outside of one."""
    if "langgraph.runtime" not in sys.modules:
        return None
    from langgraph.runtime import get_runtime

    try:
        return get_runtime()
    except RuntimeError:
        return None


def run_as_task(function: Callable[[], Any]) -> Any:
    """Return the result of a function, saved as a task's.

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


# ---- a result as plain JSON, and back -------------------------------------------------------------------------------


def _saved(result: StepResult, request: StepRequest) -> dict[str, Any]:
    """Return what a checkpoint keeps of a result. Not a failure that raises: a retry of the node is to ask anew."""
    if result.answer is None and not request.interruptible:
        raise result.failure()
    best = result.answer or result.best
    return {
        "request": _fingerprint(request),
        "accepted": result.answer is not None,
        "trace": result.trace.to_json(content=False),  # a rejected draft is in no checkpoint
        "errors": [str(clean(f"{type(e).__name__}: {e}"[:500])) for e in result.errors],
        "message": None if best is None else best.draft.message.model_dump(),
        "tier": None if best is None else best.draft.tier,
        "parsed": None if best is None else plain(best.draft.parsed),
    }


def _fresh_or_saved(
    fresh: list[StepResult], saved: Mapping[str, Any] | None, request: StepRequest, rebuild: Rebuild
) -> StepResult | None:
    """Return the result of this run, or the one that was saved before; None when that was of another request."""
    from langchain_core.messages import AIMessage

    if fresh:
        return fresh[0]
    if saved is None or saved["request"] != _fingerprint(request):
        return None
    best = None
    if saved["message"] is not None:
        best = rebuild(saved["tier"], AIMessage(**saved["message"]), saved["parsed"])
    return StepResult(
        answer=best if saved["accepted"] else None,
        best=best,
        trace=load(StepTrace, saved["trace"]),
        errors=tuple(RejectedDraft(text) for text in saved["errors"]),
    )


def _fingerprint(request: StepRequest) -> str:
    """Return a hash of the request, but for ids and system texts (they may hold the time of day)."""
    digest = hashlib.sha256(request.name.encode())
    for message in request.contexts["small"].messages:
        if message.type != "system":
            digest.update(
                repr((message.type, message.content, getattr(message, "tool_calls", None))).encode("utf-8", "replace")
            )
    return digest.hexdigest()


def plain(parsed: object) -> object:
    """Return structured output as plain JSON; `None` stays None."""
    if parsed is None:
        return None
    from pydantic import TypeAdapter

    return TypeAdapter(type(parsed)).dump_python(parsed, mode="json", by_alias=True, round_trip=True)


def parse(schema: object, data: object) -> object:
    """Return plain JSON as the structured output that `schema` wants; a JSON Schema takes it as it is.

    Raises:
        ValueError: it is not of that schema.
    """
    if isinstance(schema, Mapping) or schema is None:
        return data
    from pydantic import TypeAdapter

    return TypeAdapter(cast("type[object]", schema)).validate_python(data)
