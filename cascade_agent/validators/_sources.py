"""Grounding of one argument value: how well it follows from what was written in the conversation.

A value that anybody mentioned, or that follows from one that was mentioned by a change of writing or of unit, is
grounded; what cannot be judged is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from cascade_agent.validators._words import (
    VALUE_CHARS,
    Answer,
    Leaf,
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
    from cascade_agent.validators._conversation import Conversation

_DATE = re.compile(
    r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"  # 2024-05-01
    r"|(?<!\d)(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(?!\d)"  # 1/5/2024
    r"|(\d{4})年(\d{1,2})月(\d{1,2})日"
)
_YEAR = re.compile(r"(?<!\d)(?:1[6-9]|20|21)\d\d(?!\d)")
_WORD = re.compile(r"[^\W_]+")
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


def groundings(found: Answer, conv: Conversation) -> tuple[float | None, ...]:
    """Return how well each leaf of the answer is grounded; None for what cannot be judged. Kept for the step."""
    kept = conv.context.cache.get("validators.groundings")
    if kept is None or kept[0] is not found:
        values = tuple(grounded(leaf, conv) if found.tools[leaf.call] is not None else None for leaf in found.leaves)
        kept = conv.context.cache["validators.groundings"] = (found, values)
    return cast("tuple[float | None, ...]", kept[1])


def typical(values: list[float]) -> float:
    """Return a score between the least and the mean: one bad value among several good ones counts, but is not all."""
    return (min(values) + sum(values) / len(values)) / 2


def is_default(value: object, schema: object) -> bool:
    """Return whether a value is the default that its schema declares."""
    return isinstance(schema, Mapping) and "default" in schema and same_value(value, schema["default"])


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


def grounded(leaf: Leaf, conv: Conversation) -> float | None:
    """Return how well one value is grounded, in [0, 1]; None for what cannot be judged (booleans, nothing)."""
    value = leaf.value
    if value is None or isinstance(value, bool | list | Mapping):
        return None
    if isinstance(value, str):
        score = _text_grounded(value, conv)
        if score < _CHOSEN and isinstance(leaf.schema.get("enum"), list):
            score = _CHOSEN
    elif isinstance(value, int | float):
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
    if wanted in conv.request_numbers or -wanted in conv.request_numbers or _written(value, conv.others):
        return 1.0
    mentioned = conv.numbers
    if wanted in mentioned or -wanted in mentioned:
        return 1.0
    tolerance = 1e-6 * max(abs(wanted), 1e-9)
    for known in mentioned:
        if abs(known - wanted) <= tolerance:
            return 1.0
        if known and any(abs(known * factor - wanted) <= tolerance for factor in _FACTORS):
            return _DERIVED
    return _SMALL if wanted.is_integer() and 0 <= wanted <= _COUNTED else 0.0


def _written(value: float, text: str) -> bool:
    """Return whether a text holds the number as a word of its own: quicker than reading all of its numbers."""
    digits = value_text(value)
    place = text.find(digits) if digits else -1
    return (
        place >= 0
        and not text[place - 1 : place].isalnum()
        and not text[place + len(digits) : place + len(digits) + 1].isalnum()
    )


def _text_grounded(value: str, conv: Conversation) -> float:
    text = value[:VALUE_CHARS]
    folded = fold(text).strip()
    if len(folded) > _OWN_WORD:
        if folded in conv.evidence:
            return 1.0
    elif re.search(rf"(?<!\w){re.escape(folded)}(?!\w)", conv.evidence):
        return 1.0
    as_number = number(folded)
    as_date = date_grounded(folded, conv)
    joined = "".join(_WORD.findall(folded))
    if as_number is not None:
        score = _number_grounded(as_number, conv)
    elif as_date is not None and as_date > 0:
        score = as_date
    elif len(joined) > _OWN_WORD and joined in conv.compact:
        return 1.0
    else:
        score = _words_grounded(text, conv)
    if score < 1.0 and conv.literally(value[:VALUE_CHARS]):
        return 1.0
    return score


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
            or (len(term) in _INITIALS and (term in conv.initials or _begins(term, known)))
        ):
            held += size
    if not total:
        return 1.0
    score = held / total
    if score < _DERIVED:
        words = _WORD.findall(fold(text))
        for letters in ("".join(w[0] for w in words), "".join(w[0] for w in words if len(w) >= _OWN_WORD)):
            if len(letters) > 1 and re.search(rf"(?<!\w){re.escape(letters)}(?!\w)", _DOT.sub("", conv.evidence)):
                return _DERIVED
    return score


def _begins(term: str, known: frozenset[str]) -> bool:
    """Return whether a short word begins one of the known words: EUR of euros, Jan of January."""
    return any(k.startswith(term) for k in known)
