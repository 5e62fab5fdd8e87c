"""Shadow calls: the large tier's answer to a step that the small one answered.

A shadow runs after the answer is on its way, on a worker and in a context of its own, so that it can neither delay
nor fail a step, nor be seen by the graph; at exit it is not waited for. Its finding is a label in the journal with
the probability with which it was drawn, and its cost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from contextvars import Context
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cascade_agent import telemetry
from cascade_agent._fork import after_fork
from cascade_agent._log import LOG
from cascade_agent.core.records import Label, SideCall
from cascade_agent.engine.worker_threads import hand_over
from cascade_agent.models.usage import usage_and_cost
from cascade_agent.validators.agreement import same

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

    from cascade_agent.engine.step import Answer, StepRequest, StepResult

__all__ = ["lost", "shadow", "wait"]

SHADOW: RunnableConfig = {"run_name": "cascade.shadow", "tags": ["cascade:shadow", "nostream"], "callbacks": []}
"""The config of such a call."""
_THREADS, _WAITING = 4, 256

_counting = threading.Lock()
lost: int = 0
"""Shadow calls of this process that failed, or that found too many others waiting."""


class _Crew:
    """The jobs that wait, and a few workers that take them as long as there are any."""

    def __init__(self) -> None:
        self._todo: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._busy = 0

    def take(self, job: Callable[[], None]) -> bool:
        with self._changed:
            if len(self._todo) >= _WAITING:
                return False
            self._todo.append(job)
            if self._busy < _THREADS:
                try:
                    hand_over(Context(), self._work)
                except RuntimeError:  # there are no more threads, and whoever asked may not wait
                    self._todo.pop()
                    return False
                self._busy += 1
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._todo:
                    self._busy -= 1
                    self._changed.notify_all()
                    return
                job = self._todo.popleft()
            with contextlib.suppress(Exception):  # a job counts its own failures
                Context().run(job)
            del job

    def wait(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not (self._todo or self._busy), seconds)


_crew = _Crew()


def _after_fork() -> None:
    global _crew  # noqa: PLW0603 - threads do not survive a fork
    _crew = _Crew()


after_fork(_after_fork)


def wait(seconds: float | None = None) -> bool:
    """Wait until all shadow calls are made and written down, at most `seconds`; whether they are.

    For scripts: what still runs when the interpreter exits is lost.
    """
    return _crew.wait(seconds)


def shadow(request: StepRequest, result: StepResult) -> None:
    """Draw whether an accepted step is shadowed, and have it done if so. Never raises."""
    rate, trace = request.policy.shadow_rate, result.trace
    keep: Callable[[Label], object] | None = getattr(request.journal, "append_label", None)
    if not rate or request.shadow is None or keep is None or trace.outcome != "accepted" or result.answer is None:
        return
    if int(trace.id[:13], 16) / 16**13 >= rate:  # the id is random: 52 bits of it are a draw in [0, 1)
        return
    budget, reserved = request.budget, 0.0
    if budget is not None:
        mean = None if request.statistics is None else request.statistics.expected(request.name, "large")
        reserved = mean or 0.0
        if not budget.reserve(reserved):
            return
    draft, ask = result.answer.draft.to_json(), request.shadow

    def job() -> None:
        keep(_compared(request, ask, trace.id, draft, reserved))

    if not _crew.take(job):
        if budget is not None:
            budget.charge(reserved, 0.0)
        _failed("too many are waiting")


def _compared(
    request: StepRequest, ask: Callable[[], Answer], step_id: str, draft: dict[str, object], reserved: float
) -> Label:
    """Ask large, and label whether it agrees."""
    call, answer, right = SideCall(name="shadow"), None, None
    started = time.perf_counter()
    try:
        large = ask().draft
    except Exception as error:  # noqa: BLE001 - a shadow fails alone
        _failed(type(error).__name__)
    else:
        answer = large.to_json()
        usage, cost, _ = usage_and_cost(request.tiers["large"], large.message)
        call = SideCall(name="shadow", usage=usage, cost=cost, latency=time.perf_counter() - started)
        right = None if large.parsing_error is not None else same(draft, answer)
    if request.budget is not None:
        request.budget.charge(reserved, call.cost)
    telemetry.record_cost(request.name, "shadow", call.cost, request.tiers["large"].currency)
    return Label(
        step_id=step_id,
        source="shadow",
        right=right,
        harm=None if right is None else not right,
        propensity=request.policy.shadow_rate,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        side_call=call,
        answer=answer,
    )


def _failed(why: str) -> None:
    global lost  # noqa: PLW0603 - a process-wide counter, by design
    with _counting:
        lost += 1
        first = lost == 1
    if first:
        LOG.warning("a shadow call failed (%s); logged once; more are counted", why)
