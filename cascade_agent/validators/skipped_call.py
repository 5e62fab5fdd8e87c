"""`SkippedCall`: a later turn of a conversation that ends in words where a call was due."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from cascade_agent.core.records import Verdict
from cascade_agent.validators._conversation import loop, subject
from cascade_agent.validators._soft import HANDED_ON, check_scores
from cascade_agent.validators._speech import (
    announces,
    asks,
    asks_to_wait,
    declines,
    says_done,
    size,
    thanks,
    without_courtesy,
)
from cascade_agent.validators._words import SAYS, fold, number_spans, offer, terms, weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.core.scoring import Weight
    from cascade_agent.validators._conversation import Loop
    from cascade_agent.validators._words import NumberSpan

_BRIEF: Final = 40
"""Letters of an answer that has room for "done" and nothing else."""
_SHORT: Final = 120
"""Letters of an answer up to which it explains nothing."""
_STANDS_ALONE: Final = 180
"""Letters of a request from which on it stands for itself. A model that answers it without a call mostly has no tool
for it: of recorded turns that ended so 1 in 4 was wrong, of the shorter ones 3 in 5."""
_SMALL: Final = 12
"""Numbers up to this one are counted, not looked up."""
_VALUE = re.compile(r"[^\s,;:!?()\[\]{}\"'“”«»<>]*\d[^\s,;:!?()\[\]{}\"'“”«»<>]*|[^\s,;:()<>]+@[^\s,;:()<>]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedCall:
    """Fails softly where a user turn ends in words although a call was due.

    Codes, at most one:

    - `call_announced`: a short text that says what is about to be done, and nothing follows
    - `figure_unsupported`: a later turn without a call whose text holds a figure above 12 that the conversation does
      not, nor a sum or a difference of two that it does
    - `call_skipped`: a later turn without a call whose short text answers a request that brings a new value, speaks of
      a tool, agrees to what was proposed, or is said again as done

    Kept are texts that ask, refuse, or take their figures from the conversation, and what answers thanks, a withdrawal
    or small talk. Marks, figures, names and lengths decide; short lists of words (no, thanks, done, one moment) in some
    thirty languages tell what cannot be known by its form. In a language that is not there fewer answers are refused.

    Args:
        score: P(right) that is left, in [0, 1]. In 991 turns of a recorded 20b model (15 in 100 failed), whose texts
            were not kept (each reads "Done."), `call_skipped` was right 34 times in 53 and found 23 of 100 failing
            turns. In 1,319 steps of conversations with customers that passed it spoke twice, both times of a call that
            was written as text. The other codes came up in none of these: they are tried on written cases alone.

    Raises:
        ConfigurationError: `score` is not in [0, 1].
    """

    score: float = 0.42
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "call_skipped"
    weights: ClassVar[Mapping[str, Weight]] = dict.fromkeys(
        ("call_skipped", "call_announced", "figure_unsupported"), HANDED_ON
    )

    def __post_init__(self) -> None:
        """Refuse a score that is no probability."""
        check_scores(self, "score")

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return one soft fail, or nothing."""
        if draft.tool_calls or draft.invalid_tool_calls or not context.tools:
            return None
        if context.output_schema is not None or context.tool_choice == "none":
            return None
        text = without_courtesy(draft.text).strip()
        if not text or asks(text):
            return None
        turn = _Turn(text, loop(context), context)
        found = turn.announced() or turn.skipped()
        if found is None:
            return None
        code, reason = found
        return Verdict(outcome="fail", code=code, reason=reason, score=self.score, path="/text")


class _Turn:
    """A turn that ends in words: the request, the answer, and the support of the conversation."""

    def __init__(self, text: str, state: Loop, context: StepContext) -> None:
        self.state, self.context = state, context
        self.text, self.length = fold(text), size(text)
        self.user = fold(state.request_text)

    @cached_property
    def withdrawn(self) -> bool:
        return declines(self.user) is not None

    @cached_property
    def refuses(self) -> bool:
        return declines(self.text) is not None

    def announced(self) -> tuple[str, str] | None:
        """Return a finding where the answer says what it is about to do, and stops."""
        # after a call "please hold on" speaks of what the call set going
        if self.length > _SHORT or not (announces(self.text) or (not self.state.calls and asks_to_wait(self.text))):
            return None
        if self.refuses or self.withdrawn or thanks(self.user):
            return None
        return "call_announced", "the answer announces what it does not do"

    def skipped(self) -> tuple[str, str] | None:
        """Return a finding where a later turn without any call answers a request that wants one."""
        if not self.state.later or self.state.calls:
            return None
        if thanks(self.user) and not self.values and not self.touched:
            return None
        done = self.length <= _BRIEF and not self.refuses and says_done(self.text)
        if done and (self.values or not self.withdrawn):
            stands_alone = size(self.user) > _STANDS_ALONE and not self._unanswered()
            return None if stands_alone else _skipped("the answer says done, and nothing was called in this turn")
        spans = number_spans(self.text) if self.length <= 2 * _SHORT else ()
        if any(map(self._invented, spans)):
            return "figure_unsupported", "figures of the answer stand nowhere in the conversation"
        if self.length > _SHORT or self.refuses:
            return None
        question = asks(self.user) is not None
        if question and any(self._held(value) for span in spans for value in span.values):
            return None
        return self._unmet(question=question)

    def _unmet(self, *, question: bool) -> tuple[str, str] | None:
        """Return a finding where the request brings a value, names something to do, or agrees to it."""
        if self.values:
            return _skipped("the user gave a value that no call took up")
        if self.touched and not self.withdrawn:
            return _skipped("the request speaks of a tool that was not called")
        if question or self.withdrawn:
            return None
        if asks(next((f.text for f in reversed(self.state.before) if f.kind == "ai" and f.text), "")):
            return _skipped("the user agreed to what was proposed, and nothing was called")
        new = self.state.request_terms.intersection(term for term in terms(self.text) if weight(term) >= SAYS)
        if new and new.difference(*[fact.whole.terms for fact in self.state.before]):
            return _skipped("the answer says again what was asked for, and nothing was called")
        return None

    def _unanswered(self) -> bool:
        """Return whether the user turn before this one ended without a call too."""
        return next(
            (not fact.calls for fact in reversed(self.state.before) if fact.calls or fact.kind == "human"), False
        )

    @cached_property
    def values(self) -> bool:
        """Return whether the request holds a value (with a digit or an @) that no call and no request had before."""
        values = [match.group().strip(".") for match in _VALUE.finditer(self.user)]
        known = [f.whole.folded for f in self.state.before if f.calls or f.kind == "human"] if values else ()
        return any(all(value not in text for text in known) for value in values)

    @cached_property
    def touched(self) -> bool:
        """Return whether the request speaks of a tool in words that no tool called before has in its name."""
        names = [tool.name for tool in offer(self.context).tools]
        spoken = [(name, words) for name in names if (words := subject(name) & self.state.request_terms)]
        if not spoken:
            return False
        called = {call["name"] for fact in self.state.before for call in fact.calls}
        known = frozenset().union(*map(subject, called))
        return any(name not in called and not known.issuperset(words) for name, words in spoken)

    def _held(self, value: float) -> bool:
        """Return whether the conversation before this turn holds a number: mostly one of its last messages does."""
        return any(value in fact.whole.numbers for fact in reversed(self.state.before))

    def _invented(self, span: NumberSpan) -> bool:
        """Return whether the conversation holds neither a number nor two of which it is the sum or the difference."""
        request = self.state.request_numbers
        if span.joined or any(abs(value) <= _SMALL or value in request or self._held(value) for value in span.values):
            return False
        if span.parts and all(value in request or self._held(value) for value in span.parts):
            return False
        large = {n for n in request.union(*[fact.whole.numbers for fact in self.state.before]) if n > _SMALL}
        return not any(round(v - n, 2) in large or round(v + n, 2) in large for v in span.values for n in large)


def _skipped(reason: str) -> tuple[str, str]:
    return "call_skipped", reason
