"""A step inside of its host: run, saved where the host saves, and given to a human where no tier is left.

What was paid is not paid again, and what a human approved is what is used. A graph's node runs anew when it is resumed
after an interrupt or a crash; so, where one can come, the tiers run in LangGraph tasks, whose results are saved with
the checkpoint as plain JSON: one task where small is accepted; where its draft is refused and nobody needs it any more,
one that saves what is known of it but for its text, and one in which large answers. (LangGraph before 1.2.16 runs the
tasks of a *subgraph* again on resume: there a step is paid twice, and `"accept"` takes the draft of the second time.)
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import threading
from collections import OrderedDict
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import StepTrace, load
from cascade_agent.engine.budget import Budget
from cascade_agent.engine.engine import OpenStep
from cascade_agent.engine.human_review import ask_human, record_review
from cascade_agent.engine.shadow import shadow
from cascade_agent.engine.step import StepResult
from cascade_agent.engine.structured import plain
from cascade_agent.engine.ways import finished
from cascade_agent.errors import RejectedDraft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointTuple

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.engine.step import Answer, Rebuild, StepRequest
    from cascade_agent.engine.ways import Body, Way

T = TypeVar("T")

TASK = "cascade.step"
"""Name of the task, and the key under which `stream_mode="updates"` shows its result."""


async def run_durably(request: StepRequest, rebuild: Rebuild, way: Way) -> tuple[Answer, StepTrace]:
    """Run a step; return its answer and its record.

    On the way of threads a task gives out no chunks: it has a result alone, and only handlers see the answer come.

    With `on_exhausted="interrupt"` an exhausted step interrupts the graph with a question (see `human_review`), and
    again with an `"error"` where the reply is not understood. Without a graph that has a checkpointer it raises.

    Raises:
        CascadeExhausted: nothing may be returned.
        Exception: large's own, where large alone would have raised it.
    """
    request, saves = _placed(request)
    result = await _in_parts(request, rebuild, way) if saves else None
    if result is None:
        result = await OpenStep(request, way).run()
        shadow(request, result)
    if result.answer is None and request.interruptible:
        result = ask_human(request, result, rebuild)
        reviewed = result.trace

        async def record() -> None:
            record_review(request, reviewed)

        await as_task(record, way)
    if result.answer is None:
        raise result.failure()
    return result.answer, result.trace


# ---- where the step runs --------------------------------------------------------------------------------------------


def _placed(request: StepRequest) -> tuple[StepRequest, bool]:
    """Return the step with its place in the graph and its budget, and whether a checkpoint saves its answer."""
    policy, runtime = request.policy, _runtime()
    asks, ceilings = policy.on_exhausted == "interrupt", policy.ceilings
    if ceilings:
        context, run_of_host = request.contexts["small"], getattr(runtime, "control", None)
        budget = Budget(ceilings, run=run_of_host, thread_id=context.thread_id, messages=context.messages)
        request = replace(request, budget=budget)
    info = getattr(runtime, "execution_info", None)
    if info is None or info.thread_id is None:  # no checkpointer: no resuming
        return request, False
    own_id = None if request.nested else _id_in(info, request.name)  # how often a tier asks inside may differ
    return replace(request, id=own_id, interruptible=asks), asks or request.durable


_MOST_EXECUTIONS = 4096
_executions: OrderedDict[tuple[str, str], tuple[object, Iterator[int]]] = OrderedDict()
_lock = threading.Lock()


def _id_in(info: Any, name: str) -> str:
    """Return the id of the next step of a node that is running: the same when LangGraph runs the node again.

    After a crash, an interrupt or by a retry a node has the same task and checkpoint, another `info`, and the same
    steps in the same order. So their records have the same ids, and whoever reads them counts each step once.
    """
    key = (info.checkpoint_id, info.task_id)
    with _lock:
        known = _executions.pop(key, None)
        if known is None or known[0] is not info:
            known = (info, count())
        _executions[key] = known
        if len(_executions) > _MOST_EXECUTIONS:
            _executions.popitem(last=False)
        place = next(known[1])
    return hashlib.sha256(repr((*key, name, place)).encode()).hexdigest()[:32]


def _runtime() -> object:
    """Return the runtime of the graph that is running, None outside of one."""
    if "langgraph.runtime" not in sys.modules:
        return None
    from langgraph.runtime import get_runtime

    try:
        return get_runtime()
    except RuntimeError:
        return None


async def as_task(part: Body[T], way: Way) -> T | None:
    """Return the result of a function, saved as a task's.

    A synchronous call in a node of an asynchronous run stands on the thread of the loop that would have to run the
    task: there it is run at once, and not saved.
    """
    from langgraph.func import task

    make: Any = task(name=TASK)
    if way.is_async:
        result = await make(part)()
    else:
        done = False
        future = make(lambda: None if done else finished(part()))()
        if asyncio.isfuture(future):
            done = True
            return await part()
        result = future.result()
    for saver, place, pause in _looks(result):
        if _holds(await saver.aget_tuple(place) if way.is_async else saver.get_tuple(place), result):
            break
        await way.sleep(pause)
    return cast("T | None", result)


_PAUSES = tuple(0.001 * 2**n for n in range(13))
"""Seconds between two looks for a result, 8 in all: where a saver fails, the run fails after this node."""


def _looks(result: Any) -> Iterator[tuple[Any, RunnableConfig, float]]:
    """Yield the saver, the place, and a pause, as long as a result that other parts follow may not be saved yet.

    LangGraph saves in the background. With sync durability large is not asked before what small cost is saved. There is
    no public way to the saver: where it cannot be found, nobody waits.
    """
    info = getattr(_runtime(), "execution_info", None)
    if info is None or not isinstance(result, dict) or not result.get("is_left"):
        return
    from langgraph.config import get_config

    own = get_config().get("configurable", {})
    saver, namespace = own.get("__pregel_checkpointer"), info.checkpoint_ns.rpartition("|")[0]
    place = {"thread_id": info.thread_id, "checkpoint_ns": namespace, "checkpoint_id": info.checkpoint_id}
    if saver is not None and own.get("__pregel_durability") == "sync":
        for pause in _PAUSES:
            yield saver, {"configurable": place}, pause


def _holds(checkpoint: CheckpointTuple | None, result: object) -> bool:
    writes = () if checkpoint is None else checkpoint.pending_writes or ()
    return any(isinstance(value, dict) and value == result for *_, value in writes)


# ---- a step as tasks ------------------------------------------------------------------------------------------------


async def _in_parts(request: StepRequest, rebuild: Rebuild, way: Way) -> StepResult | None:
    """Run a step in parts that are a task each; None where what is saved is of another request.

    A part that a checkpoint holds is read from there; one that runs in this process is not.
    """
    step: OpenStep | None = None
    ran: StepResult | None = None
    result: StepResult | None = None

    async def part() -> JsonObject:
        nonlocal step, ran
        if step is None:  # it goes on where another process left it
            step = OpenStep(request, way, None if result is None else result.trace)
        ran = await step.run(leave=result is None)
        return _saved(request, ran)

    try:
        while result is None or result.is_left:
            saved = await as_task(part, way)
            if ran is not None:
                shadow(request, ran)
            result, ran = ran or _read(request, rebuild, saved), None
            if result is None:
                return None
    except BaseException as error:
        if step is not None and step.is_left:  # ended between two parts
            step.stopped(error)
        raise
    return result


def _saved(request: StepRequest, result: StepResult) -> JsonObject:
    """Return what a checkpoint keeps of a part that ran here. Not a failure: a retry of the node is to ask anew."""
    if result.answer is None and not (result.is_left or request.interruptible):
        raise result.failure()
    best = result.answer or result.best
    return {
        "request": _fingerprint(request),
        "accepted": result.answer is not None,
        "is_left": result.is_left,
        "trace": result.trace.to_json(content=False),  # a rejected draft is in no checkpoint
        "errors": [str(clean(f"{type(e).__name__}: {e}"[:500])) for e in result.errors],
        "message": None if best is None else best.draft.message.model_dump(),
        "tier": None if best is None else best.draft.tier,
        "parsed": None if best is None else plain(best.draft.parsed),
    }


def _read(request: StepRequest, rebuild: Rebuild, saved: JsonMapping | None) -> StepResult | None:
    from langchain_core.messages import AIMessage

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
        is_left=bool(saved.get("is_left")),
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
