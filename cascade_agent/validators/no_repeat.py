"""`NoRepeat`: an answer that does again what this turn has already done, with nothing new in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cascade_agent.core.records import Verdict
from cascade_agent.validators._conversation import Call, loop
from cascade_agent.validators._soft import HANDED_ON, check_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascade_agent.core.records import Draft, StepContext, ToolSpec
    from cascade_agent.core.scoring import Weight

_PERIODS = (2, 3)
_MAX_CALLS = 32
"""Calls of one answer that are compared; and calls of the turn, newest first, are held to four times as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRepeat:
    """Fails softly on calls that were made before; a repeated text only lowers the confidence.

    Codes, at most one of each group:

    - `duplicate_call`: two identical calls in one answer
    - `call_loop`: the calls of this turn and this answer end in A, B, A, B or A, B, C, A, B, C
    - `repeated_call`: the same call was answered or failed in this turn, and no other call succeeded since
    - `repeated_answer` (abstain with a score): the same text as the assistant's last answer of this turn

    A retry after another call succeeded, and a second look after a change, are no repeats: of 92 recorded turns of a
    20b model in which any call came twice 20 failed (22 in 100), where 15 in 100 fail anyway.

    Calls are the same as `agreement.call_key` says: order of keys, case and white space, 5 and "5", and arguments that
    hold the default which the tool declares make no difference.

    Polling is no repetition: a call whose last two results in this turn, neither an error, differ from each other may
    be made again, and a loop that holds such a call may go on. The second call of a poll cannot be told from a repeat.

    Args:
        score: P(right) that a repeated call leaves, in [0, 1]. `duplicate_call` was right 15 times in 26 on recorded
            single steps of models that nothing was tuned on. `repeated_call` as it is now came up in 6 of 991 recorded
            turns (one failed) and twice in conversations with customers, both of which failed: too rare for a figure.
            The default is a mild prior.
        answer_score: the same for a repeated text. A mild prior, not measured.

    Raises:
        ConfigurationError: a score outside [0, 1].
    """

    score: float = 0.3
    answer_score: float = 0.4
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "repeated_call"
    weights: ClassVar[Mapping[str, Weight]] = dict.fromkeys(
        ("duplicate_call", "call_loop", "repeated_call", "repeated_answer"), HANDED_ON
    )

    def __post_init__(self) -> None:
        """Refuse a score that is no probability."""
        check_scores(self, "score", "answer_score")

    def __call__(self, draft: Draft, context: StepContext) -> list[Verdict] | None:
        """At most two verdicts, or nothing."""
        calls, state = draft.tool_calls[:_MAX_CALLS], loop(context)
        if not calls:
            last = next((f.text for f in reversed(state.steps) if f.kind == "ai" and f.text.strip()), None)
            if last is None or last.strip() != draft.text.strip():
                return None
            reason = "the same text as the assistant's last answer in this turn"
            score = self.answer_score
            return [Verdict(outcome="abstain", code="repeated_answer", reason=reason, score=score, path="/text")]
        past = state.calls[-4 * _MAX_CALLS :]
        if not past and not calls[1:]:
            return None
        tools = context.tools_by_name
        fresh = [Call(name=call["name"], args=call["args"]) for call in calls]
        found: list[Verdict] = []
        for finding in (_duplicate(fresh, tools) if fresh[1:] else None, _repeat(fresh, past, tools) if past else None):
            if finding is not None:
                code, reason, index = finding
                path = f"/tool_calls/{index}"
                found.append(Verdict(outcome="fail", code=code, reason=reason, score=self.score, path=path))
        return found or None


Found = tuple[str, str, int]
"""Code, reason, and index of the call."""


def _same(a: Call, b: Call, tools: Mapping[str, ToolSpec]) -> bool:
    if a.name != b.name:
        return False
    spec = tools.get(a.name)
    return a.key(spec) == b.key(spec)


def _duplicate(fresh: Sequence[Call], tools: Mapping[str, ToolSpec]) -> Found | None:
    for later in range(1, len(fresh)):
        for earlier in range(later):
            if _same(fresh[later], fresh[earlier], tools):
                return "duplicate_call", f"the same call as /tool_calls/{earlier} in one answer", later
    return None


def _repeat(fresh: Sequence[Call], past: Sequence[Call], tools: Mapping[str, ToolSpec]) -> Found | None:
    """Return what the calls do again of those before them in this turn."""
    calls = [*past, *fresh]
    period = _period(calls, tools)
    if period:
        if any(_polls(call, past, tools) for call in calls[-period:]):
            return None
        return "call_loop", f"the calls of this turn go round in a loop of {period}", len(fresh) - 1
    for index, call in enumerate(fresh):
        old = _last_same(call, past, tools)
        if old is not None and not _polls(call, past, tools):
            what = "failed" if old.result == "error" else "was answered"
            return "repeated_call", f"the same call already {what} in this turn", index
    return None


def _last_same(call: Call, past: Sequence[Call], tools: Mapping[str, ToolSpec]) -> Call | None:
    """Return the same call of this turn after which no other call succeeded; None without one."""
    for old in reversed(past):
        if old.result is not None and _same(call, old, tools):
            # after an error the smallest change of writing is an attempt to mend it
            return None if old.result == "error" and old.args != call.args else old
        if old.result in ("ok", "empty"):
            return None
    return None


def _polls(call: Call, past: Sequence[Call], tools: Mapping[str, ToolSpec]) -> bool:
    """Return whether the last two results of this call differ: it is made again because its answer changes."""
    answered = [old for old in past if old.result is not None and _same(call, old, tools)][-2:]
    return len(answered) == 2 and "error" not in (a.result for a in answered) and answered[0].text != answered[1].text


def _period(calls: Sequence[Call], tools: Mapping[str, ToolSpec]) -> int:
    """Return the period of the loop in which the calls end, 0 without one; the same call again is a repeat instead."""
    for period in _PERIODS:
        tail, before = calls[-period:], calls[-2 * period : -period]
        if (
            len(before) == period
            and all(_same(a, b, tools) for a, b in zip(tail, before, strict=True))
            and not all(_same(tail[0], other, tools) for other in tail[1:])
        ):
            return period
    return 0
