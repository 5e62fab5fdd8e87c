"""The state of an agent's loop, read from the messages alone: turns, calls, what became of them, who answered."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Final, Literal, cast

from cascade_agent.core.message_memo import MessageMemo
from cascade_agent.validators._words import (
    HISTORY_CHARS,
    MESSAGES,
    RAW_CHARS,
    RAW_MESSAGES,
    REQUEST_CHARS,
    RESULT_CHARS,
    SAYS,
    SYSTEM_CHARS,
    VALUE_CHARS,
    Reading,
    clip,
    content_text,
    fold,
    identifier_words,
    reading,
    terms,
    value_text,
    walk,
    weight,
)
from cascade_agent.validators.agreement import call_key

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage

    from cascade_agent.core.records import StepContext, ToolSpec

AI: Final = ("ai", "AIMessageChunk")
TOOL: Final = ("tool", "ToolMessageChunk")
HUMAN: Final = ("human", "HumanMessageChunk")
_ANSWERS: Final = (*AI, *TOOL)

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
    turn: Turn | None = None
    """The calls of its user turn up to it, while no later message of the turn was read."""

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


_NOTHING: Final = Facts(kind="human", text="")
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
        meta = message.response_metadata
        record = meta.get("cascade") if isinstance(meta, Mapping) else None
        tier = record.get("final_tier") if isinstance(record, Mapping) else None
        calls = getattr(cast("AIMessage", message), "tool_calls", None) or ()
        return Facts(kind="ai", text=text, calls=calls, tier=tier if isinstance(tier, str) else None)
    return Facts(kind="human" if kind in HUMAN else "system" if kind == "system" else "other", text=text)


_memo: Final = MessageMemo(_read)
facts, facts_of = _memo.of, _memo.all


# ---- what tools are about -------------------------------------------------------------------------------------------

_GENERIC: Final = frozenset(
    ("get", "set", "list", "find", "show", "check", "name", "numbe", "searc", "creat", "updat", "make", "info", "data")
).union(("user", "value", "type"))
"""Stems of identifiers that say nothing of a tool's subject."""


@lru_cache(maxsize=2_048)
def subject(tool: str) -> frozenset[str]:
    """Return the stems of a tool's name that say what it is about."""
    return frozenset(t for t in terms(identifier_words(tool)) if weight(t) >= SAYS and t not in _GENERIC)


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
    _key: tuple[ToolSpec | None, object] | None = None

    def key(self, spec: ToolSpec | None) -> object:
        """Return the normal form of the call, made once: calls of one tool are the same where it is equal."""
        if self._key is None or self._key[0] is not spec:
            self._key = spec, call_key({"name": self.name, "args": self.args}, spec)
        return self._key[1]


@dataclass(slots=True, kw_only=True, eq=False)
class Turn:
    """The state of a user turn up to one of its messages, kept with that message until a later one takes it on."""

    before: Sequence[BaseMessage] = ()
    """The messages of the turn before that one."""
    steps: Sequence[Facts] = ()
    """The facts of these."""
    calls: Sequence[Call] = ()
    waiting: Mapping[str | None, int] = field(default_factory=dict)
    """Ids of calls and where these stand in `calls`."""
    batch: int = 0
    tier: str | None = None
    numbers: frozenset[float] = frozenset()
    """Numbers of the first `counted` messages."""
    counted: int = 0

    def fits(self, messages: Sequence[BaseMessage], at: int) -> bool:
        """Return whether it was made of the messages up to `at`, from a human message on."""
        start = at - len(self.before)
        if start < 0 or (start > 0 and messages[start - 1].type not in HUMAN):
            return False
        return all(map(is_, messages[start:at], self.before))

    def then(self, new: Sequence[Facts], before: Sequence[BaseMessage], steps: Sequence[Facts]) -> Turn:
        """Return the turn after new messages; `before` and `steps` are those of all but the last."""
        calls, waiting, batch, tier = list(self.calls), dict(self.waiting), self.batch, self.tier
        for fact in new:
            if fact.kind == "ai":
                batch, tier = batch + 1, fact.tier
                for call in fact.calls:
                    waiting[call.get("id")] = len(calls)
                    calls.append(Call(name=call["name"], args=call["args"], tier=tier, batch=batch))
            elif fact.kind == "tool":
                at = waiting.get(fact.call_id)
                if at is None:  # the message that made the call is not complete: a chunk, a trimmed history
                    calls.append(Call(name="", args=None, result=fact.result, text=fact.text, tier=tier, batch=batch))
                else:
                    calls[at] = replace(calls[at], result=fact.result, text=fact.text)
        return replace(self, before=before, steps=steps, calls=calls, waiting=waiting, batch=batch, tier=tier)

    def numbers_of(self, steps: Sequence[Facts]) -> frozenset[float]:
        """Return all numbers of the steps, which are those of this turn."""
        if self.counted < len(steps):
            self.numbers = self.numbers.union(*[fact.whole.numbers for fact in steps[self.counted :]])
            self.counted = len(steps)
        return self.numbers


def _turn(messages: Sequence[BaseMessage]) -> tuple[Turn, Sequence[Facts]]:
    """Return the turn since the last human message and its facts; only what is new since the last step is read."""
    start, known, last = len(messages), Turn(), list[Facts]()
    found: Facts | None = None
    while start > 0 and messages[start - 1].type not in HUMAN:
        start -= 1
        fact = facts(messages[start])
        last.append(fact)
        kept = fact.turn
        if kept is not None and kept.fits(messages, start):
            found, known, start = fact, kept, start - len(kept.before)
            break
    last.reverse()
    steps = [*known.steps, *last]
    new = last if found is None else last[1:]
    if new:
        known = last[-1].turn = known.then(new, messages[start:-1], steps[:-1])
        if found is not None:
            found.turn = None
    return known, steps


class Loop:
    """Where a step stands: what the user asked last, what was done since, and what was before.

    `request` holds the human messages since the assistant last spoke to the user, oldest first, `steps` the answers and
    results after them, `turn` the state that is kept of these, `past` the conversation before them, and `calls` the
    calls of this turn, oldest first, with what became of them.
    """

    def __init__(self, context: StepContext) -> None:
        messages = context.messages[-WINDOW:]
        self.turn, self.steps = _turn(messages)
        end = start = len(messages) - len(self.steps)
        while start > 0 and messages[start - 1].type not in _ANSWERS:
            start -= 1
        self.request = [fact for fact in facts_of(messages[start:end]) if fact.kind == "human"]
        self.past = messages[:start]
        self.calls = self.turn.calls

    @cached_property
    def before(self) -> Sequence[Facts]:
        """The messages of the conversation before this turn."""
        return facts_of(self.past)

    @cached_property
    def later(self) -> bool:
        """Return whether the user has asked for something before this turn and was answered."""
        kinds = map(_TYPE, self.past)
        return any(map(HUMAN.__contains__, kinds)) and any(map(AI.__contains__, kinds))  # one pass

    @cached_property
    def request_text(self) -> str:
        """The user's messages of this turn."""
        return "\n".join(map(_TEXT, self.request))

    @cached_property
    def request_terms(self) -> frozenset[str]:
        """Stems of the words of the request."""
        if len(self.request) == 1:
            return self.request[0].plain.terms
        return frozenset().union(*[fact.plain.terms for fact in self.request])

    @cached_property
    def request_numbers(self) -> frozenset[float]:
        """All numbers of the request."""
        return frozenset().union(*[fact.plain.numbers for fact in self.request])

    @cached_property
    def left(self) -> Sequence[Call]:
        """The errors of the last calls of this turn."""
        last = self.calls[-1].batch if self.calls else 0
        return [call for call in self.calls if call.batch == last and call.result == "error"]


_TYPE, _KIND, _TEXT, _TERMS = attrgetter("type"), attrgetter("kind"), attrgetter("text"), attrgetter("terms")


def loop(context: StepContext) -> Loop:
    """Return the state of the loop of a step; it is put together once a step from facts that are read once a thread."""
    found = context.cache.get("validators.loop")
    if found is None:
        found = context.cache["validators.loop"] = Loop(context)
    return cast("Loop", found)


# ---- what a value may come from -------------------------------------------------------------------------------------


class Conversation:
    """A step as the graded validators read it, cut to bounds.

    `request` is the last human message as it was written, `wish` the same, read. `readings` are this turn's results
    and answers, earlier messages and the system text. `answered`: a tool has answered in this turn. `follow_up`:
    earlier human messages exist, so the request may lean on them.
    """

    def __init__(self, context: StepContext) -> None:
        state, messages = loop(context), context.messages
        self.context = context
        # a turn that is longer than the window has its request before it
        start = len(messages) - len(state.steps) - 1 if state.request else context.turn_start
        now = state.steps[-MESSAGES:]
        past = facts_of(messages[max(0, len(messages) - MESSAGES - 1) : max(start, 0)])
        kinds = [*map(_KIND, past), *map(_KIND, now)]
        system, self.follow_up = None, "human" in kinds
        if "system" in kinds:
            system = (*past, *now)[kinds.index("system")]
        elif len(messages) > MESSAGES and messages[0].type == "system":
            system, self.follow_up = facts(messages[0]), True
        self.answered = "tool" in kinds[len(past) :]
        self.readings = _readings(now, RESULT_CHARS, earlier=False) + _readings(past, HISTORY_CHARS, earlier=True)
        if system is not None:
            self.readings.append(reading(clip(system.text, SYSTEM_CHARS)))
        request = state.request[-1] if state.request else facts(messages[start]) if start >= 0 else _NOTHING
        self.request = clip(request.text, REQUEST_CHARS)
        self.wish = request.plain if self.request is request.text else reading(self.request)

    @cached_property
    def others(self) -> str:
        """The evidence apart from the request, folded."""
        return "\n".join([r.folded for r in self.readings])

    @cached_property
    def evidence(self) -> str:
        """All that a value may be grounded in, folded."""
        return f"{self.wish.folded}\n{self.others}" if self.others else self.wish.folded

    @cached_property
    def evidence_set(self) -> frozenset[str]:
        """Stems of the evidence."""
        return self.wish.terms.union(*map(_TERMS, self.readings))

    @cached_property
    def numbers(self) -> frozenset[float]:
        """All numbers of the evidence."""
        return self.wish.numbers.union(*[r.numbers for r in self.readings])

    @cached_property
    def compact(self) -> str:
        """The evidence, letters and digits only."""
        return self.wish.compact + "".join([r.compact for r in self.readings])

    @cached_property
    def initials(self) -> str:
        """First letters of the words of the request, for abbreviations."""
        return "".join([term[0] for term in terms(self.wish.folded)])

    def literally(self, value: str) -> bool:
        """Return whether any of the last messages holds the value letter by letter, also far back."""
        return any(value in text for text in self._raw)

    @cached_property
    def _raw(self) -> Sequence[str]:
        return [content_text(message, RAW_CHARS) for message in self.context.messages[-RAW_MESSAGES:]]


def _readings(messages: Sequence[Facts], left: int, *, earlier: bool) -> list[Reading]:
    """Return what messages say, the newest first, up to `left` characters; of earlier calls the values too."""
    found: list[Reading] = []
    for fact in reversed(messages):
        if fact.kind == "system":
            continue
        if earlier and fact.calls:
            found += fact.values
        size = len(fact.text)
        if size:
            found.append(fact.plain if size < left else reading(clip(fact.text, left)))
            left -= size
            if left <= 0:
                break
    return found


def conversation(context: StepContext) -> Conversation:
    """Return the step's messages as the graded validators read them; put together once a step."""
    found = context.cache.get("validators.conversation")
    if found is None:
        found = context.cache["validators.conversation"] = Conversation(context)
    return cast("Conversation", found)
