"""Evidence that asks a model: the requests in sync and async, their cost, and a pause for a model that is down.

Whatever goes wrong is an abstain; a draft is never failed because its judge was.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, NamedTuple, TypeVar

from langchain_core.runnables.config import ContextThreadPoolExecutor

from cascade_agent.core.records import Draft, SideCall, StepContext, Verdict
from cascade_agent.models.tier import Ready, Tier
from cascade_agent.models.usage import NOTHING, usage_and_cost

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig


class Requests(NamedTuple):
    """Requests that one model is sent side by side."""

    ready: Ready
    messages: list[list[BaseMessage]]
    settings: Mapping[str, object] = {}


Found = TypeVar("Found")
Asking = Generator[Requests, list[Any], Found]
"""Yields requests, receives for each what was answered or the error that was raised, returns what was found."""


class ModelEvidence(ABC, Generic[Found]):
    """Evidence that requests to a model give: `_asking` makes them and reads the answers."""

    __slots__ = ()
    stage: ClassVar[Literal["evidence"]] = "evidence"
    shipped: ClassVar[bool] = True

    @abstractmethod
    def _asking(self, draft: Draft, context: StepContext) -> Asking[Found]: ...

    def gather(self, draft: Draft, context: StepContext, *, config: RunnableConfig | None) -> Found:
        """Ask, several requests on threads; return the finding and its cost."""

        def ask(messages: list[BaseMessage]) -> object:
            try:
                return requests.ready.ask(messages, config, **requests.settings)
            except Exception as error:  # noqa: BLE001 - whoever asks decides what it means
                return error

        asking = self._asking(draft, context)
        try:
            requests = next(asking)
            while True:
                if len(requests.messages) == 1:
                    replies = [ask(requests.messages[0])]
                else:
                    with ContextThreadPoolExecutor(max_workers=len(requests.messages)) as pool:
                        replies = list(pool.map(ask, requests.messages))
                requests = asking.send(replies)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # what `_asking` returns

    async def agather(self, draft: Draft, context: StepContext, *, config: RunnableConfig | None) -> Found:
        """Async twin of `gather`."""
        asking = self._asking(draft, context)
        try:
            requests = next(asking)
            while True:
                calls = (requests.ready.aask(m, config, **requests.settings) for m in requests.messages)
                requests = asking.send(await asyncio.gather(*calls, return_exceptions=True))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # what `_asking` returns


def bound_for(tier: Tier, context: StepContext) -> Ready:
    """Return a tier ready to answer the same step: with its tools or its output schema."""
    if context.output_schema is not None:
        return tier.with_schema(context.output_schema)
    if not context.tools:
        return tier.plain()
    functions = [
        {"name": t.name, "description": t.description, "parameters": dict(t.parameters)} for t in context.tools
    ]
    tools = [{"type": "function", "function": function} for function in functions]
    return tier.with_tools(tools, tool_choice=context.tool_choice)


def as_draft(native: Any) -> Draft:
    """Return what a tier answered, a message or the mapping of structured output, as a draft."""
    return Draft(message=native["raw"], parsed=native["parsed"]) if isinstance(native, dict) else Draft(message=native)


_FAILURES: Final = 5
_PROBE_AFTER: Final = 30.0


class ModelValidator(ModelEvidence[tuple[Verdict, SideCall]]):
    """Evidence that one call gives: `_request` writes it, `_read` reads its answer. What the model raises goes out.

    After 5 failures in a row nothing is asked but one call every 30 s, to see whether the model is better.
    """

    def __init__(self, model: Any, *, name: str) -> None:
        self.tier = Tier.of(model)
        self.name = name
        self._failed, self._paused_until = 0, 0.0
        self._lock = threading.Lock()

    def _may_ask(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._failed >= _FAILURES and now < self._paused_until:
                return False
            self._paused_until = now + _PROBE_AFTER
            return True

    def _count(self, *, worked: bool) -> None:
        with self._lock:
            self._failed = 0 if worked else self._failed + 1
            self._paused_until = time.monotonic() + _PROBE_AFTER

    def _asking(self, draft: Draft, context: StepContext) -> Asking[tuple[Verdict, SideCall]]:
        if not self._may_ask():
            reason = "paused: it failed 5 times in a row, the next try is due within 30 s"
            verdict = Verdict(outcome="abstain", code="evidence_paused", reason=reason)
            return verdict, SideCall(name=self.name, usage=NOTHING, cost=0.0)
        (reply,) = yield self._request(draft, context)
        if isinstance(reply, Exception):
            self._count(worked=False)
        if isinstance(reply, BaseException):
            raise reply
        answer = as_draft(reply)
        verdict = self._read(answer, draft, context)
        self._count(worked=verdict.score is not None)
        usage, cost, _ = usage_and_cost(self.tier, answer.message)
        return verdict, SideCall(name=self.name, usage=usage, cost=cost)

    @abstractmethod
    def _request(self, draft: Draft, context: StepContext) -> Requests: ...

    @abstractmethod
    def _read(self, answer: Draft, draft: Draft, context: StepContext) -> Verdict:
        """Return what the model's answer means for the draft."""
