"""`AfterToolError`: an answer given over an error that was neither mended nor reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cascade_agent.core.records import Verdict
from cascade_agent.validators._conversation import loop
from cascade_agent.validators._soft import HANDED_ON, check_scores
from cascade_agent.validators._speech import asks, declines, size, without_courtesy
from cascade_agent.validators._words import SAYS, fold, terms, weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.core.scoring import Weight
    from cascade_agent.validators._conversation import Call, Loop

_REPORTS = 160
"""Letters from which on a text is taken to report what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterToolError:
    """Fails softly with `after_tool_error` where a turn ends in a text over an error that is left.

    It acts when a result of the last calls of the turn is an error (its status, an error in a JSON object, a text that
    begins with an error word), the small tier made them, and the text does not report it: it asks nothing, negates
    nothing, takes up no word of the error and is short. A call after an error is an attempt to mend it and is kept:
    models mend most of them. Errors of the large tier's calls are left alone, so are calls that a call limit of the
    host blocked or that a human rejected in langchain's words.

    Args:
        score: P(right) that is left, in [0, 1]. In 991 turns of a recorded 20b model, whose texts were not kept (each
            reads "Done."), it was right 9 times in 19 (15 turns in 100 fail) and found 6 of 100 failing turns. In 1,319
            steps of conversations with customers that passed it never spoke.

    Raises:
        ConfigurationError: `score` is not in [0, 1].
    """

    score: float = 0.45
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "after_tool_error"
    weights: ClassVar[Mapping[str, Weight]] = {"after_tool_error": HANDED_ON}

    def __post_init__(self) -> None:
        """Refuse a score that is no probability."""
        check_scores(self, "score")

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return one soft fail, or nothing."""
        if draft.tool_calls or draft.invalid_tool_calls or draft.parsed is not None:
            return None
        state = loop(context)
        left = [call for call in state.left if call.tier != "large"]
        if not left or _reported(draft.text, left, state):
            return None
        reason = f"the answer says nothing of the error that the last call of {left[-1].name} ended in"
        return Verdict(outcome="fail", code="after_tool_error", reason=reason, score=self.score, path="/text")


def _reported(text: str, left: list[Call], state: Loop) -> bool:
    """Return whether a text reports an error: it asks, negates, takes up words of the error, or is long."""
    text = without_courtesy(text)
    folded = fold(text)
    if asks(text) or declines(folded) or size(text) > _REPORTS:
        return True
    words = {t for call in left for t in terms(fold(call.text)) if weight(t) >= SAYS} - state.request_terms
    return not words.isdisjoint(terms(folded))
