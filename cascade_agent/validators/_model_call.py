"""A validator that asks a model: the call in sync and async, its cost, and a breaker for one that is down.

Whatever goes wrong is an abstain; a draft is never failed because its judge was.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from cascade_agent.core.records import Draft, SideCall, StepContext, Verdict
from cascade_agent.models.tier import Ready, Tier
from cascade_agent.models.usage import NOTHING, usage_and_cost

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig


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


class Breaker:
    """Stops asking after 5 failures in a row and lets one call through every 30 s to see whether it is better."""

    def __init__(self) -> None:
        self._failed, self._open_until = 0, 0.0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Return whether a call may be made now."""
        with self._lock:
            now = time.monotonic()
            if self._failed >= _FAILURES and now < self._open_until:
                return False
            self._open_until = now + _PROBE_AFTER
            return True

    def record(self, *, worked: bool) -> None:
        """Count how a call went."""
        with self._lock:
            self._failed = 0 if worked else self._failed + 1
            self._open_until = time.monotonic() + _PROBE_AFTER


class ModelValidator(ABC):
    """Evidence that one call to a model gives: `_request` writes the call, `_read` reads its answer."""

    stage: ClassVar[Literal["evidence"]] = "evidence"
    shipped: ClassVar[bool] = True

    def __init__(self, model: Any, *, name: str) -> None:
        self.tier = Tier.of(model)
        self.name = name
        self._breaker = Breaker()

    def gather(self, draft: Draft, context: StepContext, *, config: RunnableConfig | None) -> tuple[Verdict, SideCall]:
        """Ask; return the finding and its cost. The engine turns what the model raises into an abstain."""
        if not self._breaker.allows():
            return self._paused()
        ready, messages = self._request(draft, context)
        try:
            native = ready.ask(messages, config)
        except Exception:
            self._breaker.record(worked=False)
            raise
        return self._verdict_of(native, draft, context)

    async def agather(
        self, draft: Draft, context: StepContext, *, config: RunnableConfig | None
    ) -> tuple[Verdict, SideCall]:
        """Async twin of `gather`."""
        if not self._breaker.allows():
            return self._paused()
        ready, messages = self._request(draft, context)
        try:
            native = await ready.aask(messages, config)
        except Exception:
            self._breaker.record(worked=False)
            raise
        return self._verdict_of(native, draft, context)

    def _verdict_of(self, native: Any, draft: Draft, context: StepContext) -> tuple[Verdict, SideCall]:
        answer = as_draft(native)
        verdict = self._read(answer, draft, context)
        self._breaker.record(worked=verdict.score is not None)
        usage, cost, _ = usage_and_cost(self.tier, answer.message)
        return verdict, SideCall(name=self.name, usage=usage, cost=cost)

    def _paused(self) -> tuple[Verdict, SideCall]:
        reason = "paused: it failed 5 times in a row, the next try is due within 30 s"
        verdict = Verdict(outcome="abstain", code="evidence_paused", reason=reason)
        return verdict, SideCall(name=self.name, usage=NOTHING, cost=0.0)

    @abstractmethod
    def _request(self, draft: Draft, context: StepContext) -> tuple[Ready, list[BaseMessage]]:
        """Return the model and what it is sent."""

    @abstractmethod
    def _read(self, answer: Draft, draft: Draft, context: StepContext) -> Verdict:
        """Return what the model's answer means for the draft."""
