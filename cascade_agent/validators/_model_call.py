"""A validator that asks a model: the call in sync and async, its cost, and a breaker for one that is down.

Whatever goes wrong is an abstain; a draft is never failed because its judge was.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cascade_agent.core.records import Draft, SideCall, StepContext, Usage, Verdict
from cascade_agent.models.tier import Ready, Tier

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.records import ToolSpec


def bound_for(tier: Tier, context: StepContext) -> Ready:
    """Return a tier ready to answer the same step: with its tools or its output schema."""
    if context.output_schema is not None:
        return tier.with_schema(context.output_schema)
    if not context.tools:
        return tier.plain()
    return tier.with_tools([_as_openai(spec) for spec in context.tools], tool_choice=context.tool_choice)


def _as_openai(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": dict(spec.parameters)}
    return {"type": "function", "function": function}


class Breaker:
    """Stops asking after 5 failures in a row and lets one call through every 30 s to see whether it is better."""

    def __init__(self, *, failures: int = 5, probe_after: float = 30.0) -> None:
        self._limit, self._wait = failures, probe_after
        self._failed, self._open_until = 0, 0.0
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Return whether a call may be made now."""
        with self._lock:
            if self._failed < self._limit:
                return True
            now = time.monotonic()
            if now < self._open_until:
                return False
            self._open_until = now + self._wait
            return True

    def record(self, *, worked: bool) -> None:
        """Count how a call went."""
        with self._lock:
            self._failed = 0 if worked else self._failed + 1
            if self._failed >= self._limit:
                self._open_until = time.monotonic() + self._wait


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
        verdict = self._read(native, draft, context)
        self._breaker.record(worked=verdict.score is not None)
        usage = Usage.of(native["raw"] if isinstance(native, Mapping) else native)
        return verdict, SideCall(name=self.name, usage=usage, cost=self.tier.cost(usage))

    def _paused(self) -> tuple[Verdict, SideCall]:
        reason = "paused: it failed 5 times in a row, the next try is due within 30 s"
        nothing = Usage(input_tokens=0, output_tokens=0, calls=0)
        verdict = Verdict(outcome="abstain", code="evidence_paused", reason=reason)
        return verdict, SideCall(name=self.name, usage=nothing, cost=0.0)

    @abstractmethod
    def _request(self, draft: Draft, context: StepContext) -> tuple[Ready, list[BaseMessage]]:
        """Return the model and what it is sent."""

    @abstractmethod
    def _read(self, native: Any, draft: Draft, context: StepContext) -> Verdict:
        """Return what the model's answer means for the draft."""
