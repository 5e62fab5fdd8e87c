"""`SkippedCall`: a turn of a conversation that ends in words where a call was due."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators._conversation import loop
from cascade_agent.validators._speech import announces, asks, declines, says_done, sentences, size, thanks
from cascade_agent.validators._words import fold, identifier_words, number_spans, stem, terms, tool_text, weight
from cascade_agent.validators.tool_relevance import _COMMON

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.validators._conversation import Facts, Loop

_SHORT: Final = 120
_BARE: Final = 40
_VALUE = re.compile(r"[^\s,;:!?()\[\]{}\"'“”«»<>]*\d[^\s,;:!?()\[\]{}\"'“”«»<>]*|[^\s,;:()<>]+@[^\s,;:()<>]+")
_TOOLS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedCall:
    score: float = 0.4
    name: ClassVar[str] = "SkippedCall"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        if draft.tool_calls or draft.invalid_tool_calls or draft.parsed is not None or not context.tools:
            return None
        if context.output_schema is not None or context.tool_choice == "none":
            return None
        state = loop(context)
        text = draft.text.strip()
        if not text or not state.later or state.calls:
            return None
        why = _skipped(text, state, context)
        if why is None:
            return None
        code, reason = why
        return Verdict(outcome="fail", code=code, reason=reason, score=self.score, path="/text", validator=self.name)


def _skipped(text: str, state: Loop, context: StepContext) -> tuple[str, str] | None:
    folded = fold(text)
    request = "\n".join(f.text for f in state.request)
    user = fold(request)
    if asks(text):
        return None
    values = _new_values(user, state)
    touched = _touched(state, context)
    negated = declines(user)
    polite = thanks(user) and not values and not touched
    if polite:
        return None
    length = size(text)
    if length <= _BARE and says_done(folded) and not declines(folded) and not (negated and not values):
        return "call_skipped", "the answer says done, and nothing was called in this turn"
    if invented := _invented(folded, state, context):
        if length <= 2 * _SHORT:
            return "figure_unsupported", f"{len(invented)} figures of the answer stand nowhere in the conversation"
    if length > _SHORT or declines(folded):
        return None
    if announces(folded) and not negated:
        return "call_skipped", "the answer announces what it does not do"
    if asks(request) and _supported(folded, state):
        return None
    if values:
        return "call_skipped", "the user gave a value that no call took up"
    if touched and not negated:
        return "call_skipped", "the request speaks of a tool that was not called"
    if not negated and not asks(request) and state.before and asks(_last_text(state)):
        return "call_skipped", "the user agreed to what was proposed, and nothing was called"
    return None


def _last_text(state: Loop) -> str:
    return next((f.text for f in reversed(state.before) if f.kind == "ai" and f.text), "")


def _new_values(user: str, state: Loop) -> list[str]:
    """Values of the request (with a digit, an @) that no call of the conversation carried and nobody asked about before."""
    out = []
    for match in _VALUE.finditer(user):
        value = match.group().strip(".")
        if not any(value in f.folded for f in state.before if f.calls or f.kind == "human"):
            out.append(value)
    return out


def _touched(state: Loop, context: StepContext) -> list[str]:
    """Names of tools that the request speaks of in words of no tool that was called before."""
    user = {t for f in state.request for t in f.terms}
    called = {c["name"] for f in state.before for c in f.calls}
    used = {t for name in called for t in terms(identifier_words(name))}
    out = []
    for tool in context.tools[:_TOOLS]:
        if tool.name in called:
            continue
        own = [t for t in tool_text(tool).name_terms if t not in used and t not in _COMMON and weight(t) >= 0.7]
        if any(t in user for t in own):
            out.append(tool.name)
    return out


def _supported(folded: str, state: Loop) -> bool:
    numbers = {v for s in number_spans(folded) for v in s.values}
    return any(v in f.numbers for v in numbers for f in state.before)


def _invented(folded: str, state: Loop, context: StepContext) -> list[float]:
    out = []
    for span in number_spans(folded):
        if span.joined or any(abs(v) <= 12 for v in span.values):
            continue
        vals = set(span.values)
        if any(vals & f.numbers for f in (*state.before, *state.request)):
            continue
        if span.parts and all(any(p in f.numbers for f in (*state.before, *state.request)) for p in span.parts):
            continue
        out.append(span.values[0])
    return out
