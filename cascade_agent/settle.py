"""What becomes of a step that no tier could answer: raise, or ask a human through the host's `interrupt()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cascade_agent.records import Draft
from cascade_agent.runner import Answer

if TYPE_CHECKING:
    from cascade_agent.policy import Policy
    from cascade_agent.runner import Result


def settled(result: Result, policy: Policy) -> Answer:
    """The answer to return.

    With `on_exhausted="interrupt"` the graph is interrupted with `{"type": "cascade_exhausted", "step", "reason",
    "draft", "trace"}`; resume it with `"accept"` (take the best draft that passed its hard checks), `"reject"`, or an
    answer of your own: a text, or `{"content": ..., "tool_calls": [...]}`.

    Raises:
        CascadeExhausted: nothing may be returned.
    """
    if result.answer is not None:
        return result.answer
    if policy.on_exhausted == "interrupt":
        answer = _human(result)
        if answer is not None:
            return answer
    raise result.exhausted()


def _human(result: Result) -> Answer | None:
    from langchain_core.messages import AIMessage
    from langgraph.types import interrupt

    best = result.best
    reply: Any = interrupt(
        {
            "type": "cascade_exhausted",
            "step": result.trace.step,
            "reason": result.trace.reason,
            "draft": None if best is None else best.draft.to_json(),
            "trace": result.trace.to_json(content=False),
        }
    )
    if reply in ("accept", True):
        return best
    if reply in ("reject", None, False):
        return None
    fields = {"content": reply} if isinstance(reply, str) else cast("dict[str, Any]", reply)
    message = AIMessage(**fields)
    return Answer(draft=Draft(message=message, tier="human"), native=message)
