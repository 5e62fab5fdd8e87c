"""`Grounding`: the arguments of a call come from the request, a tool result, an earlier message or the schema.

A value that anybody mentioned, or that follows from one that was mentioned by a change of writing or of unit, is
never objected to; what cannot be judged is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.validators._conversation import Conversation, conversation
from cascade_agent.validators._words import (
    VALUE_CHARS,
    WORD,
    Answer,
    Leaf,
    answer,
    compact,
    fold,
    identifier_words,
    number,
    schema_text,
    terms,
    value_text,
    weight,
)
from cascade_agent.validators.agreement import same_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.core.records import Draft, StepContext

# Shapes that no language fills with a meaning: <city>, {{city}}, [CITY_NAME], ..., ???, XXXX, ____
_HOLLOW = re.compile(
    r"<[^<>]{1,60}>|\{\{?[^{}:\"\d]{0,60}\}?\}|\[[A-Z][A-Z0-9_ ]{1,60}\]|\.{3,}|…|\?+|[xX]{3,}|_{2,}|-{1,3}"
)
# Words that programs, not people, use for "no value"; only the whole value counts and only where nobody wrote it.
_NO_VALUE: Final = "n/a na null none nil undefined todo tbd unknown placeholder string foo foobar"
_EMPTY_WORDS: Final = frozenset(_NO_VALUE.split())
_YOUR = re.compile(r"<?your[_ -][a-z0-9_ -]{2,40}>?", re.IGNORECASE)
_DATE = re.compile(
    r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"  # 2024-05-01
    r"|(?<!\d)(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(?!\d)"  # 1/5/2024
    r"|(\d{4})年(\d{1,2})月(\d{1,2})日"
)
_YEAR = re.compile(r"(?<!\d)(?:1[6-9]|20|21)\d\d(?!\d)")
_DOT = re.compile(r"(?<=\w)\.(?=\w)|\.(?=\s|$)")

_COUNTED: Final = 12  # whole numbers up to it may stand in words of any language
_OWN_WORD: Final = 3  # letters up to which a value must be a word of its own
_INITIALS: Final = range(3, 6)  # letters of a short form
# Factors between usual units, percent and fraction, powers of ten in words: 5 % -> 0.05, 2 h -> 120 min, 3 k -> 3000.
_FACTORS: Final = (0.01, 100.0, 1000.0, 0.001, 60.0, 1 / 60, 3600.0, 12.0, 7.0, 24.0, 10.0, 0.1, 1e6, 1e-6, 1e9)

_DERIVED: Final = 0.8
"""Grounding of a value that follows from a mentioned one by a change of unit."""
_CHOSEN: Final = 0.6
"""Least grounding of an enum option: choosing among the tool's own words is what the model is for."""
_SUGGESTED: Final = 0.5
"""Grounding of a value that stands in the tool's own description of the parameter, as an example or an option."""
_SMALL: Final = 0.35
"""Grounding of a whole number up to 12 that is not written in digits: it may be written in words."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """Judges where the arguments of the draft's calls come from.

    Soft fails: `date_invented` (right 94 times in 100 on recorded drafts of six small models), `percent_as_written`
    (17 of 17 there, of five questions), `placeholder_value` and `required_empty` (both too rare there for a figure).
    Graded: `argument_grounded` (always when a required argument was judged), `optional_grounded`. Silent for answers
    without calls and where structured output was asked for.
    """

    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "ungrounded"
    weights: ClassVar[Mapping[str, Weight]] = {
        "date_invented": Weight(3.0, "a model knows no date that nobody mentioned; such values are guesses"),
        "placeholder_value": Weight(3.0, "a template was copied, the value is not known"),
        "required_empty": Weight(3.0, "the model had nothing to fill in and called all the same"),
        "argument_grounded": Weight(1.5, "values out of nowhere are guesses; translated ones look like them"),
        "optional_grounded": Weight(1.0, "an optional value that nobody mentioned is seldom wanted, often harmless"),
        "percent_as_written": Weight(2.0, "8 % is 0.08 to a formula; a parameter that means percent mostly says so"),
    }

    def __call__(self, draft: Draft, context: StepContext) -> list[Verdict]:
        """Judge the arguments of all calls together."""
        if context.output_schema is not None or not draft.tool_calls:
            return []
        conv, found = conversation(context), answer(draft, context)
        required: list[tuple[float, str]] = []
        optional: list[tuple[float, str]] = []
        out: list[Verdict] = []
        for leaf, grounded in zip(found.leaves, groundings(found, conv), strict=True):
            if found.tools[leaf.call] is None:
                continue
            fault = _fault(leaf, conv) if leaf.value is None or isinstance(leaf.value, str) else None
            if fault is not None:
                out.append(_fail(fault, leaf.path))
            elif grounded is not None:
                (required if leaf.required else optional).append((grounded, leaf.path))
        if required:
            out.append(_graded("argument_grounded", required))
        if "%" in conv.wish.folded and any(_percent_as_written(leaf, conv) for leaf in found.leaves):
            out.append(_fail("percent_as_written", ""))
        if optional and (worst := _graded("optional_grounded", optional)).score != 1.0:
            out.append(worst)
        return out


_REASONS: Final[Mapping[str, str]] = {
    "date_invented": "a date of a year that the conversation does not mention",
    "placeholder_value": "a placeholder stands where a value is needed",
    "required_empty": "a required argument is null or empty",
    "percent_as_written": "a share given in percent was passed on as the number written, where a fraction may be meant",
    "argument_grounded": "required arguments not found in the conversation",
    "optional_grounded": "optional arguments that nobody mentioned",
}


def _fail(code: str, path: str) -> Verdict:
    return Verdict(outcome="fail", code=code, reason=_REASONS[code], score=0.0, path=path)


def _graded(code: str, values: list[tuple[float, str]]) -> Verdict:
    score = typical([value for value, _ in values]) if values[1:] else values[0][0]
    if score >= 1.0:
        return Verdict(outcome="pass", code=code, score=1.0)
    return Verdict(outcome="pass", code=code, reason=_REASONS[code], score=max(0.0, score), path=min(values)[1])


# ---- one value by itself --------------------------------------------------------------------------------------------


def _fault(leaf: Leaf, conv: Conversation) -> str | None:
    """Return the code of the soft fail that a text or a null is by itself, or None."""
    value, schema = leaf.value, leaf.schema
    options, kind = schema.get("enum"), schema.get("type")
    listed = isinstance(options, list) and value in options
    if value is None or not value.strip():
        # without a type it is a union or a reference: the schema check's business
        nullable = (
            not kind or kind == "null" or (isinstance(kind, list) and "null" in kind) or schema.get("nullable") is True
        )
        allowed = not schema or listed or is_default(value, schema) or (value is None and nullable)
        return "required_empty" if leaf.required and leaf.whole and not allowed else None
    if "default" in schema and is_default(value, schema):
        return None
    if not listed and _placeholder(value, leaf, conv):
        return "placeholder_value"
    return "date_invented" if date_grounded(value, conv) == 0.0 and not conv.literally(value) else None


def _percent_as_written(leaf: Leaf, conv: Conversation) -> bool:
    """Return whether a percentage of the request went unchanged into a number that is no percentage.

    Integers, and parameters whose texts, default or bounds allow for numbers above 1, take percent as they are.
    """
    value, schema = leaf.value, leaf.schema
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 100:
        return False
    about = f"{leaf.key} {schema.get('description', '')}".lower()
    if schema.get("type") != "number" or any(word in about for word in ("percent", "pct", "%", "per cent")):
        return False
    known = [schema.get(key) for key in ("default", "maximum", "exclusiveMaximum", "example")]
    if any(isinstance(k, int | float) and k > 1 for k in known):
        return False
    return re.search(rf"(?<![\d.,]){re.escape(value_text(value))}(?:[.,]0+)?\s?%", conv.wish.folded) is not None


def _placeholder(value: str, leaf: Leaf, conv: Conversation) -> bool:
    text = value.strip()[:80]
    folded = fold(text)
    template = _HOLLOW.fullmatch(text) or _YOUR.fullmatch(text)
    word = folded in _EMPTY_WORDS and leaf.schema.get("type") == "string"
    own_name = leaf.whole and folded[3:] and folded == fold(leaf.key)  # {"city": "city"}
    if not (template or word or own_name) or folded in conv.evidence:
        return False
    return folded not in fold(str(leaf.schema.get("description", ""))[:VALUE_CHARS])


def is_default(value: object, schema: object) -> bool:
    """Return whether a value is the default that its schema declares."""
    return isinstance(schema, Mapping) and "default" in schema and same_value(value, schema["default"])


# ---- how well a value follows from what was written -----------------------------------------------------------------


def typical(values: Sequence[float]) -> float:
    """Return a score between the least and the mean: one bad value among several good ones counts, but is not all."""
    return (min(values) + sum(values) / len(values)) / 2


def groundings(found: Answer, conv: Conversation) -> Sequence[float | None]:
    """Return how well each leaf of the answer is grounded, read once; None for what cannot be judged."""
    if found.groundings is None:
        known = [found.tools[leaf.call] is not None for leaf in found.leaves]
        found.groundings = [_grounded(leaf, conv) if k else None for leaf, k in zip(found.leaves, known, strict=True)]
    return found.groundings


def date_grounded(value: str, conv: Conversation) -> float | None:
    """Return 1 where year and day or month are mentioned, .5 for the year or another date, None for no date."""
    match = _DATE.search(value[:80])
    if match is None:
        return None
    groups = match.groups()
    year, month, day = groups[:3] if groups[0] else groups[6:9] if groups[6] else (groups[5], groups[4], groups[3])
    mentioned = conv.numbers
    if float(year) in mentioned:
        return 1.0 if float(day) in mentioned or float(month) in mentioned else 0.5
    return 0.5 if conv.others and _YEAR.search(conv.others) else 0.0


def _grounded(leaf: Leaf, conv: Conversation) -> float | None:
    """Return how well one value is grounded, in [0, 1]; None for what cannot be judged (booleans, nothing)."""
    value = leaf.value
    if isinstance(value, str):
        score = _text_grounded(value, conv)
        if score < _CHOSEN and isinstance(leaf.schema.get("enum"), list):
            score = _CHOSEN
    elif isinstance(value, int | float) and not isinstance(value, bool):
        score = _number_grounded(value, conv)
    else:
        return None
    if score < 1.0 and is_default(value, leaf.schema):
        return 1.0
    if score < _SUGGESTED and leaf.whole and isinstance(value, str) and fold(value) in fold(schema_text(leaf.schema)):
        return _SUGGESTED
    return score


def _number_grounded(value: float, conv: Conversation) -> float:
    try:
        wanted = float(value)
    except OverflowError:
        return 0.0
    if wanted in conv.wish.numbers or -wanted in conv.wish.numbers or _written(value, conv.others):
        return 1.0
    mentioned = conv.numbers
    if wanted in mentioned or -wanted in mentioned:
        return 1.0
    tolerance = 1e-6 * max(abs(wanted), 1e-9)
    if any(abs(known - wanted) <= tolerance for known in mentioned):
        return 1.0
    if any(known and abs(known * factor - wanted) <= tolerance for known in mentioned for factor in _FACTORS):
        return _DERIVED
    return _SMALL if wanted.is_integer() and 0 <= wanted <= _COUNTED else 0.0


def _written(value: float, text: str) -> bool:
    """Return whether a text holds the number as a word of its own: quicker than reading all of its numbers."""
    digits = value_text(value)
    at = text.find(digits) if digits else -1
    end = at + len(digits)
    return at >= 0 and not text[at - 1 : at].isalnum() and not text[end : end + 1].isalnum()


def _text_grounded(value: str, conv: Conversation) -> float:
    text = value[:VALUE_CHARS]
    folded = fold(text).strip()
    if folded in conv.evidence if len(folded) > _OWN_WORD else _has_word(conv.evidence, folded):
        return 1.0
    as_number = number(folded)
    as_date = date_grounded(folded, conv)
    joined = compact(folded)
    if as_number is not None:
        score = _number_grounded(as_number, conv)
    elif as_date is not None and as_date > 0:
        score = as_date
    elif len(joined) > _OWN_WORD and joined in conv.compact:
        return 1.0
    else:
        score = _words_grounded(text, conv)
    return 1.0 if score < 1.0 and conv.literally(text) else score


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _words_grounded(text: str, conv: Conversation) -> float:
    """Return the share of the value's words that the conversation holds, initials counting both ways (NYC)."""
    total = held = 0.0
    known = conv.evidence_set
    for term in terms(identifier_words(text)):
        size = weight(term) or (0.05 if not term.isdecimal() else 0.3 if len(term) < _OWN_WORD else 1.0)
        total += size
        if (
            term in known
            or (term.isdecimal() and float(term) in conv.numbers)
            # EUR of euros, Jan of January
            or (len(term) in _INITIALS and (term in conv.initials or any(k.startswith(term) for k in known)))
        ):
            held += size
    if not total:
        return 1.0
    score = held / total
    if score < _DERIVED:
        words = WORD.findall(fold(text))
        for letters in ("".join(w[0] for w in words), "".join(w[0] for w in words if len(w) >= _OWN_WORD)):
            if len(letters) > 1 and _has_word(_DOT.sub("", conv.evidence), letters):
                return _DERIVED
    return score
