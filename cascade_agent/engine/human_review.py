"""An exhausted step before a human: the question as an interrupt of the graph, his reply, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from cascade_agent import telemetry
from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import Attempt
from cascade_agent.engine.recorder import append
from cascade_agent.models.usage import NOTHING

if TYPE_CHECKING:
    from cascade_agent.core.records import StepTrace
    from cascade_agent.engine.step import Answer, Rebuild, StepRequest, StepResult


def ask_human(result: StepResult, rebuild: Rebuild) -> StepResult:
    """Interrupt the graph with a question; return the result that the reply makes of the step."""
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
            answer = _answer_of(reply, best, trace.id, rebuild)
        except ValueError as error:
            question = {**question, "error": str(clean(str(error)[:500]))}
        else:
            # a rejection ends in CascadeExhausted, on the first run as after a resume
            return replace(result, answer=answer, trace=_reviewed(trace, answer, best), raised=None)


def _answer_of(reply: object, best: Answer | None, step_id: str, rebuild: Rebuild) -> Answer | None:
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
        raise ValueError(msg)  # noqa: TRY004 - the human reads it and is asked again
    own = cast("Mapping[str, Any]", given)
    calls = [{"id": f"human-{step_id}-{i}", **call} for i, call in enumerate(own.get("tool_calls") or ())]
    message = AIMessage(content=own.get("content") or "", tool_calls=cast("Any", calls), id=f"human-{step_id}")
    return rebuild("human", message, own.get("parsed"))


def _reviewed(trace: StepTrace, answer: Answer | None, best: Answer | None) -> StepTrace:
    """Return the record of a step that a human decided; an answer of his own is an attempt that costs nothing."""
    if answer is None:
        return replace(trace, outcome="human_review", final=None)
    if answer is best:
        final = trace.decisions[-1].attempt
        confidence = None if final is None else trace.attempts[final].confidence
        return replace(trace, outcome="human_review", final=final, confidence=confidence)
    own = Attempt(tier="human", outcome="accepted", usage=NOTHING, cost=0.0, answer=answer.draft.to_json())
    return replace(trace, outcome="human_review", attempts=(*trace.attempts, own), final=len(trace.attempts))


def record_review(request: StepRequest, trace: StepTrace) -> None:
    """Write the record of a reviewed step: its line in the journal, and a span of its own.

    The resumed run is another trace than the one that was interrupted; the cost stands on the span of that one.
    """
    span = telemetry.start_step(trace.step, policy=request.policy.version, thread_id=trace.thread_id, run=request.run)
    telemetry.end_step(span, replace(trace, cost=None))
    append(request.journal, trace, request.contexts["small"].messages)
