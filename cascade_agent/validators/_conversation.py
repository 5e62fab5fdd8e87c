"""The state of an agent's loop, read from the messages alone: turns, calls, what became of them, who answered."""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Literal, cast

from cascade_agent.validators._words import (
    content_text,
    fold,
    identifier_words,
    number_spans,
    numbers_of,
    terms,
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
"""How langchain's `ToolCallLimitMiddleware` and `HumanInTheLoopMiddleware` begin; both set the status `error`."""

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
    """What one message says, read once and kept for as long as the message lives."""

    kind: str
    text: str
    calls: Sequence[ToolCall] = ()
    call_id: str | None = None
    result: Result | None = None
    tier: str | None = None
    """The tier that wrote it, where a cascade did."""

    @cached_property
    def folded(self) -> str:
        """The text, then the arguments of the calls, folded."""
        if not self.calls:
            return fold(self.text)
        return fold(
            self.text + "\n" + json.dumps([c["args"] for c in self.calls], ensure_ascii=False, default=str)[:CHARS]
        )

    @cached_property
    def terms(self) -> frozenset[str]:
        """Stems of the words."""
        return frozenset(terms(self.folded))

    @cached_property
    def numbers(self) -> frozenset[float]:
        """All numbers, in all readings."""
        return numbers_of(number_spans(self.folded, limit=600))


_known: dict[int, tuple[weakref.ref[BaseMessage], Facts]] = {}
"""Facts by the identity of a message; an entry goes with its message."""


def facts(message: BaseMessage) -> Facts:
    """Return what a message says. Messages are values: the same object is never read twice."""
    key = id(message)
    entry = _known.get(key)
    if entry is not None and entry[0]() is message:
        return entry[1]
    found = _read(message)
    _known[key] = (weakref.ref(message, lambda _: _known.pop(key, None)), found)
    return found


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
    return Facts(kind="human" if kind in HUMAN else "other", text=text)


# ---- what tools are about -------------------------------------------------------------------------------------------

_GENERIC: Final = frozenset(
    ("get", "set", "list", "find", "show", "check", "name", "numbe", "searc", "creat", "updat", "make", "info", "data")
).union(("user", "value", "type"))
"""Stems of identifiers that say nothing of a tool's subject."""
_SAYS: Final = 0.7


@lru_cache(maxsize=2_048)
def subject(tool: str) -> frozenset[str]:
    """Return the stems of a tool's name that say what it is about."""
    return frozenset(t for t in terms(identifier_words(tool)) if weight(t) >= _SAYS and t not in _GENERIC)


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
    """What followed them: answers and results."""
    before: Sequence[Facts]
    """The conversation before them."""

    @cached_property
    def later(self) -> bool:
        """Return whether the user has asked for something before this turn and was answered."""
        seen = False
        for fact in self.before:
            seen = seen or fact.kind == "human"
            if seen and fact.kind == "ai":
                return True
        return False

    @cached_property
    def request_text(self) -> str:
        """What the user asked in this turn."""
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
        get = _known.get  # the look-up of `facts` written out: this line is most of what a long history costs
        read = [
            entry[1] if (entry := get(id(m))) is not None and entry[0]() is m else facts(m)
            for m in context.messages[-WINDOW:]
        ]
        found = context.cache["validators.loop"] = _loop(read)
    return cast("Loop", found)


def _loop(known: list[Facts]) -> Loop:
    end = next((i for i in range(len(known) - 1, -1, -1) if known[i].kind == "human"), -1) + 1
    start = end
    while start > 0 and known[start - 1].kind in ("human", "other"):
        start -= 1
    return Loop(request=[f for f in known[start:end] if f.kind == "human"], steps=known[end:], before=known[:start])
