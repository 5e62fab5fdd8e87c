"""The state of an agent's loop, read from the messages alone: turns, calls, what became of them, who answered."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, cast

from cascade_agent.core.message_memo import MessageMemo
from cascade_agent.validators._words import (
    HISTORY_CHARS,
    MESSAGES,
    RAW_CHARS,
    RAW_MESSAGES,
    REQUEST_CHARS,
    RESULT_CHARS,
    SYSTEM_CHARS,
    VALUE_CHARS,
    Reading,
    content_text,
    fold,
    identifier_words,
    numbers_of,
    reading,
    terms,
    value_text,
    walk,
    weight,
)

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage

    from cascade_agent.core.records import StepContext

AI: Final = ("ai", "AIMessageChunk")
TOOL: Final = ("tool", "ToolMessageChunk")
HUMAN: Final = ("human", "HumanMessageChunk")

Result = Literal["ok", "error", "empty"]

CHARS: Final = 8_000
"""Characters of one message that are read for its words and numbers."""
JSON_CHARS: Final = 20_000
"""Characters of a result up to which it is parsed to see whether it is an error or empty."""
WINDOW: Final = 1_000
"""Messages, newest first, that make up the state."""

# ---- what became of a call ------------------------------------------------------------------------------------------

_NOT_ITS_FAULT = ("Tool call limit exceeded", "User rejected the tool call for `")
"""First words of langchain's `ToolCallLimitMiddleware` and `HumanInTheLoopMiddleware`; both set the status `error`."""

# The word "error" as programs write it in front of a message, in the languages that programs are localised to.
_ERROR_START = re.compile(
    r"error (?:invoking|executing) tool '|"
    r"\W{0,3}(?:traceback \(most recent call last\)|(?:[\w.]*[a-z])?(?:error|exception|fehler|erreur|errore|erro|fout|"
    r"fejl|feil|virhe|błąd|chyba|hata|lỗi|ошибка|помилка|σφάλμα|错误|錯誤|エラー|오류|خطأ|त्रुटि)\b"
    r"(?:\s+\w+){0,3}\s?\d{0,4}\s?[:：!\-–—(])|\W{0,3}(?:错误|錯誤|エラー|오류)",
    re.IGNORECASE,
)
_ERROR_KEYS: Final = frozenset({"error", "errors", "error_message", "errormessage", "exception", "fault"})
_FAILED_WORDS: Final = frozenset({"error", "failed", "failure", "fail"})
_EMPTY_TEXTS: Final = frozenset({"", "null", "none", "[]", "{}", '""', "()"})
_SPOKEN_OF = re.compile(r"\d+\s+(?:error|line|row|entr|match|result|record)", re.IGNORECASE)


def result_of(message: ToolMessage) -> Result:
    """Return what became of a call: its status, a key of a JSON object, or how its text begins decides."""
    text = content_text(message, JSON_CHARS).strip()
    if getattr(message, "status", None) == "error":
        return "ok" if text.startswith(_NOT_ITS_FAULT) else "error"
    if text.lower() in _EMPTY_TEXTS:
        return "empty"
    if text[0] in "{[":
        return _of_json(text)
    found = _ERROR_START.match(text[:200])
    return "error" if found and not _SPOKEN_OF.match(text[found.end() :].lstrip()) else "ok"


def _of_json(text: str) -> Result:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "ok"
    if not isinstance(value, Mapping):
        return "ok" if value else "empty"
    if any(_is_error(str(key).lower(), item) for key, item in value.items()):
        return "error"
    return "ok" if any(item not in (None, "", [], {}) for item in value.values()) else "empty"


def _is_error(key: str, value: object) -> bool:
    if key in _ERROR_KEYS:
        return value not in (None, "", False, 0, [], {})
    if key in ("iserror", "is_error"):
        return value is True
    if key in ("success", "ok"):
        return value is False
    return key == "status" and isinstance(value, str) and value.lower() in _FAILED_WORDS


# ---- one message ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Facts:
    """The facts of one message, read once and kept for as long as the message lives."""

    kind: str
    text: str
    calls: Sequence[ToolCall] = ()
    call_id: str | None = None
    result: Result | None = None
    tier: str | None = None
    """The tier that wrote it, where a cascade did."""

    @cached_property
    def plain(self) -> Reading:
        """The text alone."""
        return Reading(fold(self.text))

    @cached_property
    def values(self) -> Sequence[Reading]:
        """The argument values of each call."""
        return [Reading(fold(text)) for call in self.calls[:_CALLS] if (text := _values_text(call.get("args")))]

    @cached_property
    def whole(self) -> Reading:
        """The text, then the arguments of the calls."""
        if not self.calls:
            return self.plain
        args = json.dumps([c["args"] for c in self.calls], ensure_ascii=False, default=str)
        return Reading(fold(f"{self.text}\n{args[:CHARS]}"))

    @cached_property
    def folded(self) -> str:
        """The text, then the arguments of the calls, folded."""
        return self.whole.folded

    @cached_property
    def terms(self) -> frozenset[str]:
        """Stems of the words."""
        return self.whole.terms

    @cached_property
    def numbers(self) -> frozenset[float]:
        """All numbers, in all readings."""
        return self.whole.numbers


_CALLS: Final = 4
_VALUES: Final = 16
"""Calls of one message, and values of one call, that are read of earlier turns."""


def _values_text(args: object, limit: int = VALUE_CHARS) -> str:
    """Return the values of a call's arguments as short text."""
    parts: list[str] = []
    for _, value, _ in islice(walk(args, {}, "", 3), _VALUES) if isinstance(args, Mapping) else ():
        parts.append(value_text(value))
        limit -= len(parts[-1])
        if limit <= 0:
            break
    return " ".join(parts)


def _read(message: BaseMessage) -> Facts:
    kind, text = message.type, content_text(message, CHARS)
    if kind in TOOL:
        result = cast("ToolMessage", message)
        return Facts(kind="tool", text=text, call_id=getattr(result, "tool_call_id", None), result=result_of(result))
    if kind in AI:
        record = (
            (message.response_metadata or {}).get("cascade") if isinstance(message.response_metadata, Mapping) else None
        )
        tier = record.get("final_tier") if isinstance(record, Mapping) else None
        calls = getattr(cast("AIMessage", message), "tool_calls", None) or ()
        return Facts(kind="ai", text=text, calls=calls, tier=tier if isinstance(tier, str) else None)
    return Facts(kind="human" if kind in HUMAN else "system" if kind == "system" else "other", text=text)


_memo: Final = MessageMemo(_read)
facts, facts_of = _memo.of, _memo.all


# ---- what tools are about -------------------------------------------------------------------------------------------

GENERIC: Final = frozenset(
    ("get", "set", "list", "find", "show", "check", "name", "numbe", "searc", "creat", "updat", "make", "info", "data")
).union(("user", "value", "type"))
"""Stems of identifiers that say nothing of a tool's subject."""
_SAYS: Final = 0.7


@lru_cache(maxsize=2_048)
def subject(tool: str) -> frozenset[str]:
    """Return the stems of a tool's name that say what it is about."""
    return frozenset(t for t in terms(identifier_words(tool)) if weight(t) >= _SAYS and t not in GENERIC)


# ---- the loop -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of the loop: `result` is None where it was never answered."""

    name: str
    args: object
    result: Result | None = None
    text: str = ""
    tier: str | None = None
    batch: int = 0
    """Number of the assistant message, within its user turn, that made the call."""


@dataclass(eq=False)
class Loop:
    """Where a step stands: what the user asked last, what was done since, and what was before."""

    request: Sequence[Facts]
    """The human messages since the assistant last spoke to the user, oldest first."""
    steps: Sequence[Facts]
    """The messages after them: answers and results."""
    past: Sequence[BaseMessage]
    """The conversation before them."""

    @cached_property
    def before(self) -> Sequence[Facts]:
        """The messages of the conversation before this turn."""
        return facts_of(self.past)

    @cached_property
    def later(self) -> bool:
        """Return whether the user has asked for something before this turn and was answered."""
        seen = False
        for message in self.past:
            seen = seen or message.type in HUMAN
            if seen and message.type in AI:
                return True
        return False

    @cached_property
    def request_text(self) -> str:
        """The user's messages of this turn."""
        return "\n".join(fact.text for fact in self.request)

    @cached_property
    def request_terms(self) -> frozenset[str]:
        """Stems of the words of the request."""
        return frozenset().union(*(fact.terms for fact in self.request))

    @cached_property
    def calls(self) -> Sequence[Call]:
        """The calls of this turn, oldest first, with what became of them."""
        return _calls(self.steps)

    @cached_property
    def left(self) -> Sequence[Call]:
        """The errors of the last calls of this turn."""
        last = self.calls[-1].batch if self.calls else 0
        return [call for call in self.calls if call.batch == last and call.result == "error"]


def _calls(steps: Sequence[Facts]) -> list[Call]:
    out: list[Call] = []
    waiting: dict[str | None, Call] = {}
    batch, tier = 0, None
    for fact in steps:
        if fact.kind == "ai":
            batch, tier = batch + 1, fact.tier
            for call in fact.calls:
                made = Call(name=call["name"], args=call["args"], tier=fact.tier, batch=batch)
                out.append(made)
                waiting[call.get("id")] = made
        elif fact.kind == "tool":
            answered = waiting.get(fact.call_id)
            if answered is None:  # the message that made the call is not complete: a chunk, a trimmed history
                answered = Call(name="", args=None, tier=tier, batch=batch)
                out.append(answered)
            answered.result, answered.text = fact.result, fact.text
    return out


def loop(context: StepContext) -> Loop:
    """Return the state of the loop of a step; it is put together once a step from facts that are read once a thread."""
    found = context.cache.get("validators.loop")
    if found is None:
        found = context.cache["validators.loop"] = _loop(context.messages[-WINDOW:])
    return cast("Loop", found)


def _loop(messages: Sequence[BaseMessage]) -> Loop:
    end = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].type in HUMAN), -1) + 1
    start = end
    while start > 0 and messages[start - 1].type not in (*AI, *TOOL):
        start -= 1
    request = [facts(m) for m in messages[start:end] if m.type in HUMAN]
    return Loop(request=request, steps=facts_of(messages[end:]), past=messages[:start])


# ---- what a value may come from -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Conversation:
    """A step as the graded validators read it, cut to bounds."""

    request: str
    """The last human message as it was written."""
    asked: Reading
    """The same, read."""
    readings: Sequence[Reading]
    """This turn's tool results and answers, earlier messages and the system text."""
    turn_results: int
    follow_up: bool
    """Earlier human messages exist, so the request may lean on them."""
    context: StepContext = field(repr=False)

    @cached_property
    def others(self) -> str:
        """The evidence apart from the request, folded."""
        return "\n".join([r.folded for r in self.readings])

    @cached_property
    def evidence(self) -> str:
        """All that a value may be grounded in, folded."""
        return f"{self.asked.folded}\n{self.others}" if self.others else self.asked.folded

    @cached_property
    def evidence_set(self) -> frozenset[str]:
        """Stems of the evidence."""
        return self.asked.terms.union(*[r.terms for r in self.readings])

    @cached_property
    def request_numbers(self) -> frozenset[float]:
        """All numbers of the request."""
        return numbers_of(self.asked.spans)

    @cached_property
    def numbers(self) -> frozenset[float]:
        """All numbers of the evidence."""
        return self.request_numbers.union(*[r.numbers for r in self.readings])

    @cached_property
    def compact(self) -> str:
        """The evidence, letters and digits only."""
        return self.asked.compact + "".join([r.compact for r in self.readings])

    @cached_property
    def initials(self) -> str:
        """First letters of the words of the request, for abbreviations."""
        return "".join([term[0] for _, term in self.asked.placed])

    def literally(self, value: str) -> bool:
        """Return whether any of the last messages holds the value letter by letter, also far back."""
        return any(value in content_text(message, RAW_CHARS) for message in self.context.messages[-RAW_MESSAGES:])


def conversation(context: StepContext) -> Conversation:
    """Return the step's messages as the graded validators read them; put together once a step."""
    found = context.cache.get("validators.conversation")
    if found is None:
        found = context.cache["validators.conversation"] = _evidence(context)
    return cast("Conversation", found)


def _evidence(context: StepContext) -> Conversation:
    messages, start = context.messages, context.turn_start
    first = max(0, len(messages) - MESSAGES - 1)
    readings: list[Reading] = []
    left, results, follow_up, in_turn = RESULT_CHARS, 0, False, True
    place, system = len(messages), None
    for fact in reversed(facts_of(messages[first:])):
        place -= 1
        if place == start:
            in_turn, left = False, HISTORY_CHARS
            continue
        if place == first and len(messages) - place > MESSAGES and in_turn:
            break  # the request is farther back: as many messages as are read were read
        if fact.kind == "system":
            system = _cut(messages[place], fact, SYSTEM_CHARS)
            continue
        follow_up = follow_up or fact.kind == "human"
        if in_turn:
            results += fact.kind == "tool"
        elif fact.calls and left > 0:
            readings += fact.values
        if left > 0:
            readings.append(fact.plain if len(fact.text) < left else _cut(messages[place], fact, left))
            left -= len(fact.text)
    if system is None and len(messages) > MESSAGES and messages[0].type == "system":
        system = _cut(messages[0], facts(messages[0]), SYSTEM_CHARS)
        follow_up = True
    if system is not None:
        readings.append(system)
    return Conversation(
        request=content_text(messages[start], REQUEST_CHARS) if start >= 0 else "",
        asked=_cut(messages[start], facts(messages[start]), REQUEST_CHARS) if start >= 0 else Reading(""),
        readings=[r for r in readings if r.folded],
        turn_results=results,
        follow_up=follow_up,
        context=context,
    )


def _cut(message: BaseMessage, fact: Facts, limit: int) -> Reading:
    """Return the text of a message, cut to a limit."""
    return fact.plain if len(fact.text) < limit else reading(content_text(message, limit))
