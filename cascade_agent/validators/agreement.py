"""Agreement of two answers to the same step: the comparison behind cross-checks and free labels.

Calls are compared after normalising (declared defaults stripped, empty optional values stripped, 5 and 5.0 and "5",
case and white space), independent of their order, and graded by how their arguments differ: a value worded otherwise
costs less than another value. Texts are equal, equal as numbers, equal as JSON, or similar; before any tool answered,
two texts agree at least on calling nothing, and two that only say so (`[]`, `None`) agree altogether.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from langchain_core.messages import ToolCall

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Draft, StepContext, ToolSpec

Similarity = Callable[[str, str], float]
_MAX_CALLS = 64
_MAX_DEPTH = 32
_MAX_ITEMS = 2_000
_MAX_TEXT = 20_000
_MAX_NUMBER = 40
_MAX_BITS = 1_000
_MAX_DESCRIPTION = 2_000
_WORD = re.compile(r"\w+")
_COMPACT = re.compile(r"[^\w+\-]+|(?<!\w)[+\-]|_")
_LOOSE = re.compile(r"[\s*'\"`,“”‘’]+")
_FORMULA = re.compile(r"(?=.*\d).*(?:[+*^=<>]|\s[-/]\s)", re.DOTALL)
_DEFAULT = re.compile(r"\bdefault(?:s|ed)?\b([^;\n]{1,80})", re.IGNORECASE)

# Likeness of two values that are not the same letter by letter.
_ONE_SIDED: Final = 0.8  # an optional argument that only one gives: mostly a default written out
_LISTED: Final = 0.95  # a scalar and a list of nothing else
_REORDERED: Final = 0.95  # the same items in another order: most lists are sets
_ROUNDED: Final = 0.5
_REWORDED: Final = 0.9  # the same words in another order or number, or the initials of them
_CONTAINED: Final = 0.7  # the one says all that the other says, and more
_BOTH_PROSE: Final = 0.85  # both call none of the tools offered: they agree on what to do

_PROSE: Final = 12  # different words from which on two texts are composed, and compared by their words
_SHORT: Final = 3  # letters of an abbreviation
_TALK: Final = 4  # words of the longer one from which on two texts are prose
_MAX_EMPTY: Final = 40
_NOTHING: Final = frozenset({"", "none", "null", "nil", "n a", "no tool", "no call", "no function"})
"""Words with which models that write their calls as text say that there is none; `[]` and `{}` have no words at all."""


def agreement(a: Draft, b: Draft, context: StepContext, *, similarity: Similarity | None = None) -> float | None:
    """Return the agreement of two answers in [0, 1], 1 the same; None when `b` is no usable answer."""
    if context.output_schema is not None:
        if b.parsed is None:
            return None
        return float(same_value(plain(a.parsed), plain(b.parsed)))
    if b.invalid_tool_calls or not (b.tool_calls or b.text.strip()):
        return None
    if a.tool_calls or b.tool_calls:
        return _calls(a.tool_calls, b.tool_calls, context)
    return 0.0 if a.invalid_tool_calls else _texts(a.text, b.text, context, similarity)


def _texts(a: str, b: str, context: StepContext, similarity: Similarity | None) -> float:
    found = _equal(a, b)
    if found is None:
        found = max(0.0, min(1.0, (similarity or _words_in_common)(a, b)))
    # once a tool has answered in this turn an answer without calls is final, and its words count
    answered = any(m.type == "tool" for m in context.messages[max(0, context.turn_start) :])
    if answered or not context.tools or context.tool_choice == "none":
        return found
    words = [_WORD.findall(text[:_MAX_TEXT].casefold()) for text in (a, b)]
    if max(len(a.strip()), len(b.strip())) <= _MAX_EMPTY and all(" ".join(part) in _NOTHING for part in words):
        return 1.0
    # short answers must be the same: numbers, names, yes and no; texts that talk agree on calling nothing
    figures = isinstance(normal(a), float) or isinstance(normal(b), float)
    talk = max(map(len, words)) >= _TALK
    return _BOTH_PROSE + (1.0 - _BOTH_PROSE) * found if talk and not figures else found


def _equal(a: str, b: str) -> float | None:
    """Return 1 for texts that are equal, also as numbers or as JSON, 0 for other numbers or JSON; None for prose."""
    left, right = normal(a), normal(b)
    if left == right:
        return 1.0
    if isinstance(left, float) and isinstance(right, float):
        return 0.0
    one, two = _json(a), _json(b)
    return None if one is None or two is None else float(same_value(one, two))


def _words_in_common(a: str, b: str) -> float:
    """Return the Dice similarity of the sets of words of two texts."""
    one, two = (set(_WORD.findall(t[:_MAX_TEXT].casefold())) for t in (a, b))
    return 2 * len(one & two) / (len(one) + len(two)) if one and two else 0.0


def _calls(ours: Sequence[ToolCall], theirs: Sequence[ToolCall], context: StepContext) -> float:
    """Return the mean likeness of the calls to their likest partners, over the longer list; equal ones pair first."""
    if not ours or not theirs or max(len(ours), len(theirs)) > _MAX_CALLS:
        return 0.0
    specs = context.tools_by_name
    left, right = ([(c["name"], dict(_arguments(c["args"], specs.get(c["name"])))) for c in x] for x in (ours, theirs))
    pairs = sorted(
        (-_alike(a, b, specs.get(name)), i, j)
        for i, (name, a) in enumerate(left)
        for j, (other, b) in enumerate(right)
        if name == other
    )
    total, one, two = 0.0, set[int](), set[int]()
    for score, i, j in pairs:
        if i not in one and j not in two:
            total -= score
            one.add(i)
            two.add(j)
    return total / max(len(left), len(right))


def _alike(a: Mapping[str, Hashable], b: Mapping[str, Hashable], spec: ToolSpec | None) -> float:
    """Return the likeness of two calls of one tool: the product of the likenesses of their arguments."""
    properties, required = _declared(spec)
    score = 1.0
    for key in sorted({*a, *b}):
        if key in a and key in b:
            score *= likeness(a[key], b[key])
        elif key in required:
            return 0.0
        elif not _described_default(a[key] if key in a else b[key], properties.get(key)):
            score *= _ONE_SIDED
    return score


def _declared(spec: ToolSpec | None) -> tuple[JsonMapping, Collection[object]]:
    """Return the parameters of a tool, and which of them are required."""
    parameters = {} if spec is None else spec.parameters
    properties, required = parameters.get("properties"), parameters.get("required")
    return properties if isinstance(properties, Mapping) else {}, required if isinstance(required, list | tuple) else ()


def _described_default(value: Hashable, schema: object) -> bool:
    """Return whether the description of a parameter names this value as the default (`Default is 5.`)."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("description"), str):
        return False
    place = _DEFAULT.search(schema["description"][:_MAX_DESCRIPTION])
    if place is None or isinstance(value, tuple):
        return False
    written = f"{value:g}" if isinstance(value, float) else str(value)
    words, wanted = (_COMPACT.sub(" ", text.casefold()).split() for text in (place.group(1), written))
    return bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in range(len(words)))


def likeness(a: Hashable, b: Hashable) -> float:
    """Return how far two normalised values mean the same, in [0, 1]."""
    if a == b:
        return 1.0
    if isinstance(a, tuple) and isinstance(b, tuple):
        return _lists_alike(a, b)
    if isinstance(a, tuple) or isinstance(b, tuple):  # a scalar and a list of it
        alone, many = (b, a) if isinstance(a, tuple) else (a, cast("tuple[Hashable, ...]", b))
        return likeness(many[0], alone) * _LISTED if len(many) == 1 else 0.0
    if isinstance(a, float) and isinstance(b, float):
        return 1.0 if math.isclose(a, b, rel_tol=1e-6) else _ROUNDED if math.isclose(a, b, rel_tol=1e-2) else 0.0
    if isinstance(a, str) and isinstance(b, str) and max(len(a), len(b)) <= _MAX_TEXT:
        return _texts_alike(a, b)
    return 0.0


def _lists_alike(a: tuple[Hashable, ...], b: tuple[Hashable, ...]) -> float:
    keyed = [all(isinstance(i, _Pair) for i in side) for side in (a, b)]
    if all(keyed):
        one, two = dict(cast("tuple[_Pair, ...]", a)), dict(cast("tuple[_Pair, ...]", b))
        if one.keys() != two.keys():
            return _ONE_SIDED * float(one.keys() <= two.keys() or two.keys() <= one.keys())
        return math.prod(likeness(v, two[k]) for k, v in one.items())
    if len(a) != len(b) or any(keyed):
        return 0.0
    if sorted(map(repr, a)) == sorted(map(repr, b)):
        return _REORDERED
    return math.prod(map(likeness, a, b))


def _texts_alike(a: str, b: str) -> float:
    if _squeezed(a) == _squeezed(b):
        return 1.0
    one, two = sorted((_COMPACT.sub(" ", text).split() for text in (a, b)), key=len)
    if _FORMULA.search(a) or _FORMULA.search(b) or not one:
        return 0.0
    left, right = (
        {w if len(w) <= _SHORT or w.endswith("ss") else w.removesuffix("s") for w in words} for words in (one, two)
    )
    initials = len(one) == 1 and len(two) > 1 and one[0] == "".join(w[0] for w in two)
    short = len(one) == len(two) and all(x == y or _short_for(x, y) for x, y in zip(one, two, strict=True))
    if left == right or initials or short:
        return _REWORDED
    if left < right:
        return _CONTAINED
    common, union = len(left & right), len(left | right)
    return 2 * common / (len(left) + len(right)) if union >= _PROSE else _CONTAINED * common / union


def _short_for(one: str, other: str) -> bool:
    """Return whether two or three letters abbreviate a word: km of kilometers, en of English, CA of California."""
    short, long = sorted((one, other), key=len)
    if not (1 < len(short) <= _SHORT < len(long) and short[0] == long[0] and short.isalpha() and long.isalpha()):
        return False
    rest = iter(long)
    return all(letter in rest for letter in short)


def _squeezed(text: str) -> str:
    return _LOOSE.sub("", text.replace("**", "^")).rstrip(".")


# ---- the one meaning of "the same" ----------------------------------------------------------------------------------


def same_value(a: object, b: object) -> bool:
    """Return whether two JSON values mean the same: see `normal`."""
    return a is b or normal(a) == normal(b)


def call_key(call: JsonMapping, spec: ToolSpec | None = None) -> tuple[str, Hashable]:
    """Return the normal form of a call: two calls are the same when their keys are equal."""
    args = call.get("args")
    if isinstance(args, Mapping) and len(args) <= _MAX_ITEMS:
        return str(call.get("name")), _arguments(args, spec)
    return str(call.get("name")), normal(args)


def _arguments(args: JsonMapping, spec: ToolSpec | None) -> tuple[_Pair, ...]:
    """Return the arguments of a call, normalised: without declared defaults and without empty optional values."""
    properties, required = _declared(spec)
    kept: list[_Pair] = []
    for key, value in args.items():
        schema, form = properties.get(key), normal(value)
        is_default = isinstance(schema, Mapping) and "default" in schema and normal(schema["default"]) == form
        if not is_default and (form is not None or key in required):
            kept.append(_Pair((str(key), form)))
    return tuple(sorted(kept, key=_key))


def normal(value: object, depth: int = _MAX_DEPTH) -> Hashable:
    """Return a JSON value in the form in which equal meanings are equal; hashable, floats for all numbers.

    5, 5.0 and "5" are the same, so are texts that differ in case or white space, a boolean and its name, nothing and an
    empty text. What is too deep or too long to compare equals nothing.
    """
    if isinstance(value, str):
        if len(value) > _MAX_TEXT:
            return value
        text = " ".join(value.casefold().split())
        number = _float(text) if len(text) <= _MAX_NUMBER else None
        return (text or None) if number is None else number
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return float(value) if value.bit_length() < _MAX_BITS else value
    if not isinstance(value, Mapping | list | tuple):
        return str(value)
    if depth <= 0 or len(value) > _MAX_ITEMS:
        return object()
    if isinstance(value, Mapping):
        return tuple(sorted([_Pair((str(k), normal(v, depth - 1))) for k, v in value.items()], key=_key))
    return tuple([normal(v, depth - 1) for v in value])


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class _Pair(tuple[str, Hashable]):
    """An entry of an object, so that objects and lists differ."""

    __slots__ = ()


_key = itemgetter(0)


def _json(text: str) -> object:
    text = text.strip()
    if not text or text[0] not in "[{":
        return None
    try:
        return json.loads(text[: _MAX_TEXT * 10])
    except (ValueError, RecursionError):
        return None


def plain(value: object) -> object:
    """Return structured output as plain JSON."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else value


# ---- the answer at the end of a text ---------------------------------------------------------------------------------

_NAMES: Final = "answer|result|solution|antwort|ergebnis|réponse|respuesta|resposta|risposta"
_MARKED = re.compile(
    rf"\\boxed\{{([^{{}}]+)\}}|\b(?:{_NAMES})\b\W{{0,4}}(?:is|ist|est|es|é|è|[:=])[ \t*:]*([^\n]+)"
    r"|(?:答案|答え)[是为は:：\s]+([^\n]+)",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|are|ist|est|es|é|è)\b|[=:是为は]", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_MONTH: Final = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"\b\d{{1,4}}([-/.])\d\d?\1\d{{1,4}}\b|\b{_MONTH} \d\d?(?:st|nd|rd|th)?,? \d{{4}}\b"
    rf"|\b\d\d?(?:st|nd|rd|th|\.)?(?: of)? {_MONTH},? \d{{4}}\b",
    re.IGNORECASE,
)
_FIGURE = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:\s?(?:%|[ap]\.?m\b\.?))?", re.IGNORECASE)
_FEW_WORDS: Final = 5
_FEW_LETTERS: Final = 60


def answer_key(draft: Draft, context: StepContext) -> Hashable | None:
    """Return what an answer comes to, equal for answers that mean the same; None where nothing can be compared.

    Structured output is its normal form, calls their normal forms, a text its final answer: see `final_answer`.
    """
    if context.output_schema is not None:
        return None if draft.parsed is None else ("structured", normal(plain(draft.parsed)))
    if draft.invalid_tool_calls:
        return None
    if draft.tool_calls:
        specs = context.tools_by_name
        return "calls", frozenset(Counter(call_key(c, specs.get(c["name"])) for c in draft.tool_calls).items())
    return final_answer(draft.text)


def final_answer(text: str) -> Hashable | None:
    """Return the final answer of a text in its normal form; None for prose that ends in none.

    It is what stands behind the last "the answer is", else the last sentence: JSON, the one date or figure in it, or
    all of its few words. Numbers are equal with and without thousands separators; the format of a date is part of it.
    """
    text = text.strip()[-_MAX_TEXT:]
    found = _json(text)
    if found is not None:
        return "json", normal(found)
    marked = [next(filter(None, groups)) for groups in _MARKED.findall(text)]
    line = (marked or text.splitlines() or [""])[-1]
    last = _SENTENCE.split(line.strip())[0 if marked else -1].strip(" \t*_`'\"$()[]{}.")
    for part in (last, _IS.split(last)[-1]):  # "if tomorrow is the 3rd, then today is the 2nd"
        dates = [found.group().casefold() for found in _DATE.finditer(part)]
        figures = _FIGURE.findall(_DATE.sub(" ", part))
        if len(dates) + len(figures) == 1:
            figure = _LOOSE.sub("", "".join(figures).casefold()).replace(".m", "m").rstrip(".")
            return ("date", dates[0]) if dates else ("figure", normal(figure))
    if not last or len(last) > _FEW_LETTERS or len(_WORD.findall(last)) > _FEW_WORDS:
        return None
    return _squeezed(last.casefold())


# ---- two recorded answers -------------------------------------------------------------------------------------------


def same(
    ours: JsonMapping, theirs: JsonMapping, *, same_text: Callable[[str, str], bool | None] | None = None
) -> bool | None:
    """Return whether two answers, as `Draft.to_json` records them, say the same thing; None when it is unclear.

    Calls are compared without their order, after normalising. Of the tools nothing is recorded but their calls, so an
    argument that repeats a declared default counts as a difference.
    """
    if theirs.get("invalid_tool_calls"):
        return None
    if ours.get("invalid_tool_calls"):
        return False
    calls, others = recorded_calls(ours), recorded_calls(theirs)
    if calls or others:
        return Counter(map(call_key, calls)) == Counter(map(call_key, others))
    one, two = str(ours.get("text") or ""), str(theirs.get("text") or "")
    if not one.strip() or not two.strip():
        return False if two.strip() else None
    if (equal := _equal(one, two)) is not None:
        return equal == 1.0
    return None if same_text is None else same_text(one, two)


def recorded_calls(answer: JsonMapping | None) -> list[JsonMapping]:
    """Return the calls of a recorded answer; none of an answer that was not recorded."""
    calls = None if answer is None else answer.get("tool_calls")
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
