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
import time
from collections import OrderedDict
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Self, cast

from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import StepTrace, load
from cascade_agent.engine.budget import Budget
from cascade_agent.engine.engine import OpenStep, arun, arun_on, drained, run, stream
from cascade_agent.engine.executor import AsyncExecutor, Executor
from cascade_agent.engine.human_review import ask_human, record_review
from cascade_agent.engine.shadow import shadow
from cascade_agent.engine.step import StepResult
from cascade_agent.engine.structured import plain
from cascade_agent.errors import RejectedDraft

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from langchain_core.messages import AIMessageChunk
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointTuple

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.engine.engine import E
    from cascade_agent.engine.recorder import StepRecorder
    from cascade_agent.engine.step import Answer, Rebuild, StepRequest

TASK = "cascade.step"
"""Name of the task, and the key under which `stream_mode="updates"` shows its result."""


def run_durably(request: StepRequest, rebuild: Rebuild) -> Generator[AIMessageChunk, None, tuple[Answer, StepTrace]]:
    """Run a step; return its answer and its record, after yielding what goes out as it comes.

    A task yields nothing: in one, what would be yielded is not, and only handlers see it come.

    With `on_exhausted="interrupt"` an exhausted step interrupts the graph with a question (see `human_review`), and
    again with an `"error"` where the reply is not understood. Without a graph that has a checkpointer it raises.

    Raises:
        CascadeExhausted: nothing may be returned.
        Exception: large's own, where large alone would have raised it.
    """
    request, saves = _placed(request)
    if not saves:
        result = yield from stream(OpenStep(request, Executor))
        shadow(request, result)
    else:
        with _Parts(request, rebuild) as parts:

            def part() -> JsonObject:
                return parts.save(drained(stream(parts.step(Executor), leave=parts.result is None)))

            while parts.remain:
                parts.take(run_as_task(part))
        result = parts.result or run(request)
    if result.answer is None and request.interruptible:
        result = ask_human(request, result, rebuild)
        run_as_task(lambda: record_review(request, result.trace))
    return _ended(result)


async def arun_durably(request: StepRequest, rebuild: Rebuild) -> tuple[Answer, StepTrace]:
    """Async twin of `run_durably`."""
    request, saves = _placed(request)
    if not saves:
        result = await arun(request)
        shadow(request, result)
    else:
        with _Parts(request, rebuild) as parts:

            async def part() -> JsonObject:
                return parts.save(await arun_on(parts.step(AsyncExecutor), leave=parts.result is None))

            while parts.remain:
                parts.take(await arun_as_task(part))
        result = parts.result or await arun(request)
    if result.answer is None and request.interruptible:
        result = ask_human(request, result, rebuild)

        async def record() -> None:
            record_review(request, result.trace)

        await arun_as_task(record)
    return _ended(result)


def _ended(result: StepResult) -> tuple[Answer, StepTrace]:
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
    result = future.result()
    for saver, place, pause in _looks(result):
        if _holds(saver.get_tuple(place), result):
            break
        time.sleep(pause)
    return result


async def arun_as_task(function: Callable[[], Any]) -> Any:
    """Async twin of `run_as_task`."""
    result = await _task(function)()
    for saver, place, pause in _looks(result):
        if _holds(await saver.aget_tuple(place), result):
            break
        await asyncio.sleep(pause)
    return result


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


def _task(function: Callable[[], Any]) -> Callable[[], Any]:
    from langgraph.func import task

    decorate: Any = task(name=TASK)
    return cast("Callable[[], Any]", decorate(function))


# ---- a step as tasks ------------------------------------------------------------------------------------------------


class _Parts:
    """The parts of a step that are a task each, and what is known of the step after those that are over.

    A part that a checkpoint holds is read from there; one that runs in this process is not.
    """

    def __init__(self, request: StepRequest, rebuild: Rebuild) -> None:
        self.request, self.rebuild = request, rebuild
        self.remain = True
        self.result: StepResult | None = None
        """The result of the last part; None before the first, and when what is saved is of another request."""
        self._ran: StepResult | None = None
        self._step: OpenStep[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Record a step that was ended between two parts."""
        if error is not None and self._step is not None and self._step.is_left:
            self._step.stopped(error)

    def step(self, executor: Callable[[StepRequest, StepRecorder], E]) -> OpenStep[E]:
        """Return the step where it was left, here or by another process."""
        if self._step is None:
            self._step = OpenStep(self.request, executor, None if self.result is None else self.result.trace)
        return self._step

    def save(self, result: StepResult) -> JsonObject:
        """Return what a checkpoint keeps of a part that ran here. Not a failure: a retry of the node is to ask anew."""
        self._ran = result
        if result.answer is None and not (result.is_left or self.request.interruptible):
            raise result.failure()
        best = result.answer or result.best
        return {
            "request": _fingerprint(self.request),
            "accepted": result.answer is not None,
            "is_left": result.is_left,
            "trace": result.trace.to_json(content=False),  # a rejected draft is in no checkpoint
            "errors": [str(clean(f"{type(e).__name__}: {e}"[:500])) for e in result.errors],
            "message": None if best is None else best.draft.message.model_dump(),
            "tier": None if best is None else best.draft.tier,
            "parsed": None if best is None else plain(best.draft.parsed),
        }

    def take(self, saved: JsonMapping | None) -> None:
        """Go on after a part, by its result as it came here or as it is saved."""
        if self._ran is not None:
            shadow(self.request, self._ran)
        self.result, self._ran = self._ran or self._read(saved), None
        self.remain = self.result is not None and self.result.is_left

    def _read(self, saved: JsonMapping | None) -> StepResult | None:
        from langchain_core.messages import AIMessage

        if saved is None or saved["request"] != _fingerprint(self.request):
            return None
        best = None
        if saved["message"] is not None:
            best = self.rebuild(saved["tier"], AIMessage(**saved["message"]), saved["parsed"])
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
