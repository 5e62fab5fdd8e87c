"""`TurnProgress`: P(right) of a step in a loop by its place in the conversation, before its content is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Final

from cascade_agent.core.records import Verdict
from cascade_agent.validators._conversation import loop, subject
from cascade_agent.validators._soft import HANDED_ON
from cascade_agent.validators._speech import asks, sentences, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.core.scoring import Weight
    from cascade_agent.validators._conversation import Loop

_WITH_REQUEST: Final = (
    "argument_grounded choice_unused description_match no_call number_unused optional_grounded part_open "
    "percent_as_written question_open quote_unused request_covered several_calls tool_match"
)
_LEFT: Final = 0.05
"""Share of a weight that compares a call with the whole request and is left in loops: enough to order two drafts."""

_SHORT: Final = 110
_LONG: Final = 220
"""Letters of a request, about 20 and 40 words."""
_MAX_TOOLS: Final = 64
_MANY_TOOLS: Final = 12
"""Tools on offer from which on a long request to one call is taken for the first step of a loop."""

# Logits of a regression on 991 turns of a recorded 20b model (BFCL multi-turn, 149 failed), rounded. Fitted on three
# quarters of the scenarios and tried on the fourth, four times, the last step of a turn had AUROC .75.
_START: Final = 3.2
_FIRST: Final = 2.5
_SHORT_REQUEST: Final = -1.1
_LONG_REQUEST: Final = -0.6
_EMPTY_RESULT: Final = -0.8
_ERROR: Final = -0.6
_NUMBER_LEFT: Final = -0.6
_NO_CALL: Final = -1.0
_TOUCHED: Final = -0.09
"""For each tool that the request speaks of, eight at most: the more it may mean, the more may be missed."""
_MOST: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnProgress:
    """Says how likely a step of a loop is right by what its turn looks like: `turn_progress`, always a pass.

    It speaks in a later user turn, in a turn in which calls were made, and for the first call where many tools are on
    offer and the request is long: there the scorer leaves out what compares one call with the whole request
    (`in_loops`). A single step is left to the rules for single steps.

    What lowers it: a request that is short (it leans on what was said before), long (it has several parts) or speaks of
    many tools, a result that is empty, an error on the way, a number of the request that no call took up when the turn
    ends, a later turn that ends without any call and asks nothing. In 991 recorded turns of a 20b model the lowest
    confidence of a turn ranked failing turns with AUROC .74 (0.1.0: .44); in 1,023 of a 120b model, on which nothing
    was fitted, with .70.
    """

    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = ""
    weights: ClassVar[Mapping[str, Weight]] = {"turn_progress": HANDED_ON}
    in_loops: ClassVar[Mapping[str, float]] = dict.fromkeys(_WITH_REQUEST.split(), _LEFT)
    """Codes that compare a call with the request, and the share of their weight that is left in loops, where a call
    serves a step of the request only: over 703 later turns they ranked failures with AUROC .35 to .51."""

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return the prior of a step in a loop; nothing for a single step."""
        if context.output_schema is not None or not context.tools:
            return None
        state = loop(context)
        if state.calls or state.later:
            logit = _logit(draft, state)
            wanted, touched = state.request_terms, 0
            for tool in context.tools[:_MAX_TOOLS]:
                touched += not wanted.isdisjoint(subject(tool.name))
            logit += _TOUCHED * min(_MOST, touched)
        elif (
            draft.tool_calls
            and len(context.tools) >= _MANY_TOOLS
            and (size(state.request_text) > _SHORT or len(sentences(state.request_text)) > 1)
        ):  # it looks like a request for several calls
            logit = _FIRST
        else:
            return None
        score, reason = 1.0 / (1.0 + math.exp(-logit)), "the place of the step in its turn"
        return Verdict(outcome="pass", code="turn_progress", reason=reason, score=score)


def _logit(draft: Draft, state: Loop) -> float:
    logit, length = _START, size(state.request_text)
    if length < _SHORT:
        logit += _SHORT_REQUEST
    elif length > _LONG:
        logit += _LONG_REQUEST
    results = set(map(attrgetter("result"), state.calls))
    if "empty" in results:
        logit += _EMPTY_RESULT
    if "error" in results:
        logit += _ERROR
    if draft.tool_calls:
        return logit
    if not results:
        return logit if asks(draft.text) else logit + _NO_CALL
    wanted = state.request_numbers
    return logit if not wanted or wanted <= state.turn.numbers_of(state.steps) else logit + _NUMBER_LEFT
