"""`TurnProgress`: how far a step of a loop is to be trusted by its place in the conversation alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.validators._conversation import loop
from cascade_agent.validators._speech import size

if TYPE_CHECKING:
    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.validators._conversation import Loop

@dataclass(frozen=True, slots=True, kw_only=True)
class TurnProgress:
    name: ClassVar[str] = "TurnProgress"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """The prior of a step in a loop; nothing for a single step."""
        if context.output_schema is not None or not context.tools:
            return None
        state = loop(context)
        if not state.later and not state.calls:
            return None
        logit = _logit(state, ends=not draft.tool_calls)
        return Verdict(outcome="pass", code="turn_progress", score=1 / (1 + math.exp(-logit)), validator=self.name)


def _logit(state: Loop, *, ends: bool) -> float:
    logit = 3.0
    length = size("\n".join(f.text for f in state.request))
    if length < 110:
        logit -= 1.0
    elif length > 220:
        logit -= 0.7
    results = [c.result for c in state.calls]
    if "empty" in results:
        logit -= 0.8
    if "error" in results:
        logit -= 0.3
    logit -= 0.1 * min(8, len(results))
    return logit if ends else logit + 0.5
