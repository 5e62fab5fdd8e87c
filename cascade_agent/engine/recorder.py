"""The record of a step: its span and metrics, its line in the journal, and what stands on the message.

None of it can fail a step: an error is logged once and the answer goes on.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from cascade_agent import telemetry
from cascade_agent._fork import after_fork
from cascade_agent.core.records import UNKNOWN, StepTrace
from cascade_agent.engine.own_journal import OwnJournal, log_loss
from cascade_agent.engine.progress import kind_of_step
from cascade_agent.engine.tier_faults import warn_once
from cascade_agent.models.history import ids_of_calls
from cascade_agent.models.usage import NOTHING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import AIMessage, BaseMessage

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import Attempt, Decision, Usage
    from cascade_agent.engine.progress import StepProgress
    from cascade_agent.engine.step import StepEnd, StepRequest
    from cascade_agent.models.tier import Role

_ids = random.Random()
after_fork(_ids.seed)
_REFUSED = replace(NOTHING, calls=1)


class StepRecorder:
    """Keeps the spans of a step open while it runs, and writes its record when it ends."""

    __slots__ = ("_closed", "_hedge", "_policy", "_request", "_span", "_started_at", "_waiting", "scope")

    def __init__(self, request: StepRequest) -> None:
        self._request, self._closed = request, 0
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        thread_id = request.contexts["small"].thread_id
        self._policy = request.policy.version
        self._span = telemetry.start_step(request.name, policy=self._policy, thread_id=thread_id, run=request.run)
        self._waiting: telemetry.AttemptScope | None = None
        self._hedge: telemetry.AttemptScope | None = None
        self.scope: telemetry.Scope = self._span
        """Return the scope that evidence belongs under: the attempt that it is about."""

    def open_attempt(self, role: Role, *, later: bool = False) -> telemetry.AttemptScope:
        """Open the span of a tier's attempt; with `later` of one that may start in parallel."""
        if role == "large" and not later and self._hedge is not None:
            scope, self._hedge = self._hedge, None
        else:
            model = self._request.tiers[role].model_name
            index = self._closed + later
            scope = telemetry.start_attempt(self._span, index, tier=role, model=model, later=later)
        if later:
            self._hedge = scope
        else:
            self._waiting = self.scope = scope
        return scope

    def hand_over(self, attempt: Attempt, decision: Decision) -> None:
        """Record that an attempt is over and large is next."""
        self._close(attempt)
        if attempt.tier == "small":
            telemetry.record_escalation(self._span, decision)

    def _close(self, attempt: Attempt) -> None:
        self._closed += 1
        if self._waiting is not None:
            telemetry.end_attempt(self._waiting, attempt)
            self._waiting, self.scope = None, self._span

    def record(self, progress: StepProgress, end: StepEnd) -> StepTrace:
        """Write the record of a step that ended; one that a human decides is written when he did."""
        request = self._request
        self._close(progress.done[-1])
        if self._hedge is not None:
            telemetry.drop_attempt(self._hedge)
        if progress.errors:
            _warn(progress)
        trace = self.trace(progress, end)
        telemetry.end_step(self._span, trace)
        if request.statistics is not None:
            request.statistics.observe(trace)
        if not end.waits and request.journal is not None:
            append(request.journal, trace, request.contexts["small"].messages)
        return trace

    async def written(self) -> None:
        """Wait a moment for the record, where the user's own journal writes it on another thread."""
        if isinstance(self._request.journal, OwnJournal):
            await self._request.journal.written()

    def trace(self, progress: StepProgress, end: StepEnd) -> StepTrace:
        """Return the record of a step."""
        request, attempts = self._request, tuple(progress.done)
        context = request.contexts["small"]
        if request.journal is not None or end.waits or end.outcome == "exhausted":
            attempts = tuple(
                attempt if answer is None else replace(attempt, answer=answer.draft.to_json())
                for attempt, answer in zip(attempts, progress.answers, strict=True)
            )
        cost, currency = _sum(progress)
        inputs = progress.inputs_seen
        return StepTrace(
            id=request.id or f"{_ids.getrandbits(128):032x}",
            step=request.name,
            outcome=end.outcome,
            reason=end.reason,
            attempts=attempts,
            decisions=tuple(progress.decisions),
            evidence=tuple(progress.side_calls),
            askable=tuple(request.validators.evidence),
            inputs_seen=() if set(map(id, inputs)) == {id(UNKNOWN)} else tuple(inputs),
            final=end.final,
            kind=progress.kind or kind_of_step(context, None),
            degraded=end.outcome == "exhausted" and end.final is not None,
            confidence=None if end.final is None else attempts[end.final].confidence,
            cost=cost,
            currency=currency,
            usage=_total(progress),
            latency=progress.clock(),
            started_at=self._started_at,
            thread_id=context.thread_id,
            run_id=request.run_id,
            policy=self._policy,
        )


def append(journal: Any, trace: StepTrace, messages: Sequence[BaseMessage]) -> None:
    """Write a record into a journal, with its request if it keeps them; one that raises loses it, never the answer."""
    if journal is None:
        return
    try:
        if getattr(journal, "requests", False):
            journal.append(trace, request=messages)
        else:
            journal.append(trace)
    except Exception as error:  # noqa: BLE001 - a journal that writes in place, or one that has too much to write
        log_loss(error)


def _warn(progress: StepProgress) -> None:
    """Log the tiers that can never answer as they are set up."""
    errors = iter(progress.errors)
    for attempt in progress.done:
        if attempt.outcome in ("accepted", "skipped"):
            continue
        error = next(errors)
        if attempt.fault == "setup":
            role: Role = "small" if attempt.tier == "small" else "large"
            warn_once(role, progress.request.tiers[role], error)


def _sum(progress: StepProgress) -> tuple[float | None, str]:
    """Return the cost of a step and its currency; None when a part is unknown or was paid in another currency."""
    request, currencies = progress.request, set[str]()
    total: float | None = 0.0
    for attempt in progress.done:
        total = None if total is None or attempt.cost is None else total + attempt.cost
        if attempt.cost:
            tier = request.tiers["small" if attempt.tier == "small" else "large"]
            currencies.add((attempt.inner or {}).get("currency") or tier.currency)
    for call in progress.side_calls:
        total = None if total is None or call.cost is None else total + call.cost
        evidence = getattr(request.validators.evidence.get(call.name), "tier", None)
        if call.cost and evidence is not None:  # evidence of the user's own counts in the currency of the step
            currencies.add(evidence.currency)
    if len(currencies) > 1:
        return None, "USD"
    return total, currencies.pop() if currencies else request.tiers["large"].currency


def _total(progress: StepProgress) -> Usage | None:
    """Return the tokens that the providers reported; a call that raised reported none, one cut off is unknown."""
    if len(progress.done) == 1 and not progress.side_calls and progress.done[0].usage is not None:
        return progress.done[0].usage
    parts = [_REFUSED if a.usage is None and a.outcome == "error" else a.usage for a in progress.done]
    parts += [call.usage for call in progress.side_calls]
    known = [usage for usage in parts if usage is not None]
    return sum(known[1:], known[0]) if len(known) == len(parts) else None


# ---- on the message -------------------------------------------------------------------------------------------------


def recorded(message: AIMessage, trace: StepTrace, history: Sequence[BaseMessage] = ()) -> AIMessage:
    """Return a copy of the accepted message with the record of its step, as plain JSON without rejected answers.

    A copy, because hosts change messages in place. Calls whose id is absent, empty or used before get fresh ones on it:
    hosts and other providers match results to calls by id.
    """
    changes: JsonObject = {"response_metadata": {**message.response_metadata, "cascade": trace.to_json(content=False)}}
    if message.tool_calls:
        ids = _fresh_ids(message, trace.id, history)
        if ids is not None:
            changes["tool_calls"] = [{**call, "id": new} for call, new in zip(message.tool_calls, ids, strict=True)]
            changes["content"] = _with_ids(message, ids)
            raw = message.additional_kwargs.get("tool_calls")
            if isinstance(raw, list) and len(raw) == len(ids):
                calls = [{**call, "id": new} for call, new in zip(raw, ids, strict=True)]
                changes["additional_kwargs"] = {**message.additional_kwargs, "tool_calls": calls}
    return message.model_copy(update=changes)


def _fresh_ids(message: AIMessage, step_id: str, history: Sequence[BaseMessage]) -> list[str] | None:
    """Return the ids of the calls where some must change: the same ones again when a saved answer is read back."""
    used = ids_of_calls(history)
    ids: list[str] = []
    changed = False
    for index, call in enumerate(message.tool_calls):
        own = call.get("id")
        if not isinstance(own, str) or not own or own in used:
            own, changed = f"call_{step_id[:20]}{index:02d}", True
        used.add(own)
        ids.append(own)
    return ids if changed else None


def _with_ids(message: AIMessage, ids: Sequence[str]) -> str | list[Any]:
    """Return the content with the ids in its blocks of tool calls, which come in the order of the calls."""
    if isinstance(message.content, str):
        return message.content
    keys = {"tool_use": "id", "tool_call": "id", "function_call": "call_id"}
    remaining = iter(ids)
    content: list[Any] = []
    for block in message.content:
        key = keys.get(str(block.get("type"))) if isinstance(block, dict) else None
        new = None if key is None else next(remaining, None)
        content.append(block if new is None else {**cast("JsonObject", block), cast("str", key): new})
    return content
