"""Whether the arguments of a call come from somewhere: the request, a tool result, an earlier message, the schema.

Law: a value that anybody mentioned, or that follows from one that was mentioned by a change of writing or of unit, is
never objected to; what is objected to is said by path and rule, never by quoting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from cascade_agent.records import Verdict
from cascade_agent.validators._text import (
    VALUE_CHARS,
    Conversation,
    Leaf,
    answer,
    conversation,
    fold,
    identifier_words,
    number,
    schema_text,
    terms,
    weight,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascade_agent.records import Draft, StepContext

_DATE = re.compile(
    r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"  # 2024-05-01
    r"|(?<!\d)(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})(?!\d)"  # 1/5/2024
    r"|(\d{4})年(\d{1,2})月(\d{1,2})日"
)
_YEAR = re.compile(r"(?<!\d)(?:1[6-9]|20|21)\d\d(?!\d)")
_WORD = re.compile(r"[^\W_]+")
_INITIALS = re.compile(r"(?<=\w)\.(?=\w)|\.(?=\s|$)")

# Shapes that no language fills with a meaning: <city>, {{city}}, [CITY_NAME], ..., ???, XXXX, ____
_HOLLOW = re.compile(
    r"<[^<>]{1,60}>|\{\{?[^{}:\"]{0,60}\}?\}|\[[A-Z][A-Z0-9_ ]{1,60}\]|\.{3,}|…|\?+|[xX]{3,}|_{2,}|-{1,3}"
)
# Words that programs, not people, use for "no value"; only the whole value counts and only where nobody wrote it.
_EMPTY_WORDS: Final = frozenset(
    {
        "n/a",
        "na",
        "null",
        "none",
        "nil",
        "undefined",
        "todo",
        "tbd",
        "unknown",
        "placeholder",
        "string",
        "foo",
        "foobar",
    }
)
_YOUR = re.compile(r"<?your[_ -][a-z0-9_ -]{2,40}>?", re.IGNORECASE)

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
_ENOUGH: Final = 0.5
"""From here on a value counts as grounded for the reason text."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """Judges where the arguments of the draft's calls come from.

    Soft fails (measured precision in `docs`): `date_invented`, `placeholder_value`, `required_empty`. Graded:
    `argument_grounded` (always when a required argument was judged), `optional_grounded`. Silent for answers without
    calls and where structured output was asked for.
    """

    name: ClassVar[str] = "Grounding"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"

    def __call__(self, draft: Draft, context: StepContext) -> Iterable[Verdict]:
        """Judge the arguments of all calls together."""
        if context.output_schema is not None or not draft.tool_calls:
            return ()
        conv, found = conversation(context), answer(draft, context)
        required: list[tuple[float, str]] = []
        optional: list[tuple[float, str]] = []
        out: list[Verdict] = []
        for leaf in found.leaves:
            if found.tools[leaf.call] is None:
                continue
            fault = _fault(leaf, conv)
            if fault is not None:
                out.append(Verdict(outcome="fail", code=fault, reason=_REASONS[fault], score=0.0, path=leaf.path))
                continue
            grounded = _grounded(leaf, conv)
            if grounded is not None:
                (required if leaf.required else optional).append((grounded, leaf.path))
        if required:
            out.append(_graded("argument_grounded", required))
        if optional:
            worst = _graded("optional_grounded", optional)
            if worst.score is not None and worst.score < 1.0:
                out.append(worst)
        return out


_REASONS: Final[Mapping[str, str]] = {
    "date_invented": "a date of a year that the conversation does not mention",
    "placeholder_value": "a placeholder stands where a value is needed",
    "required_empty": "a required argument is null or empty",
    "argument_grounded": "required arguments not found in the conversation",
    "optional_grounded": "optional arguments that nobody mentioned",
}


def _graded(code: str, values: list[tuple[float, str]]) -> Verdict:
    worst, path = min(values)
    score = (worst + sum(v for v, _ in values) / len(values)) / 2
    if score >= 1.0:
        return Verdict(outcome="pass", code=code, score=1.0)
    return Verdict(outcome="pass", code=code, reason=_REASONS[code], score=max(0.0, score), path=path)


def _fault(leaf: Leaf, conv: Conversation) -> str | None:
    """The soft fail that one value is by itself, or None."""
    value = leaf.value
    if value is None or (isinstance(value, str) and not value.strip()):
        return "required_empty" if leaf.required and leaf.whole and not _may_be_empty(value, leaf.schema) else None
    if not isinstance(value, str):
        return None
    if _is_default(value, leaf.schema):
        return None
    if _placeholder(value, leaf, conv):
        return "placeholder_value"
    if _date_grounded(value, conv) == 0.0 and not conv.literally(value):
        return "date_invented"
    return None


def _may_be_empty(value: object, schema: Mapping[str, Any]) -> bool:
    if not schema or _is_default(value, schema):
        return True
    options = schema.get("enum")
    if isinstance(options, list) and value in options:
        return True
    if value is None:
        kind = schema.get("type")
        if kind == "null" or (isinstance(kind, list) and "null" in kind) or schema.get("nullable") is True or not kind:
            return True
    return False


def _is_default(value: object, schema: Mapping[str, Any]) -> bool:
    if "default" not in schema:
        return False
    default = schema["default"]
    return value == default or fold(str(value)[:VALUE_CHARS]) == fold(str(default)[:VALUE_CHARS])


def _placeholder(value: str, leaf: Leaf, conv: Conversation) -> bool:
    text = value.strip()[:80]
    folded = fold(text)
    hollow = _HOLLOW.fullmatch(text) or _YOUR.fullmatch(text)
    if not hollow and not (folded in _EMPTY_WORDS and leaf.schema.get("type") == "string"):
        # the parameter's own name as its value: {"city": "city"}
        own = leaf.whole and len(folded) > 3 and folded == fold(leaf.key)  # noqa: PLR2004
        if not own:
            return False
    options = leaf.schema.get("enum")
    if isinstance(options, list) and value in options:
        return False
    return folded not in conv.evidence and folded not in fold(str(leaf.schema.get("description", ""))[:VALUE_CHARS])


def _date_grounded(value: str, conv: Conversation) -> float | None:
    """1: year and day or month are mentioned; .5: only the year, or another date is; 0: none is; None: no date."""
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
    """How well one value is grounded, in [0, 1]; None for what cannot be judged (booleans, nothing)."""
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
    if score < 1.0 and _is_default(value, leaf.schema):
        return 1.0
    if score < _SUGGESTED and leaf.whole and isinstance(value, str) and fold(value) in fold(schema_text(leaf.schema)):
        return _SUGGESTED
    return score


def _number_grounded(value: float, conv: Conversation) -> float:
    try:
        wanted = float(value)
    except OverflowError:
        return 0.0
    mentioned = conv.numbers
    if wanted in mentioned or -wanted in mentioned:
        return 1.0
    tolerance = 1e-6 * max(abs(wanted), 1e-9)
    for known in mentioned:
        if abs(known - wanted) <= tolerance:
            return 1.0
        if known and any(abs(known * factor - wanted) <= tolerance for factor in _FACTORS):
            return _DERIVED
    return _SMALL if wanted.is_integer() and 0 <= wanted <= 12 else 0.0  # noqa: PLR2004


def _text_grounded(value: str, conv: Conversation) -> float:
    text = value[:VALUE_CHARS]
    folded = fold(text).strip()
    if len(folded) > 3:  # noqa: PLR2004 - shorter ones must be words of their own
        if folded in conv.evidence:
            return 1.0
    elif re.search(rf"(?<!\w){re.escape(folded)}(?!\w)", conv.evidence):
        return 1.0
    as_number = number(folded)
    as_date = _date_grounded(folded, conv)
    joined = "".join(_WORD.findall(folded))
    if as_number is not None:
        score = _number_grounded(as_number, conv)
    elif as_date is not None and as_date > 0:
        score = as_date
    elif len(joined) > 3 and joined in conv.compact:  # noqa: PLR2004
        return 1.0
    else:
        score = _words_grounded(text, conv)
    if score < 1.0 and conv.literally(value[:VALUE_CHARS]):
        return 1.0
    return score


def _words_grounded(text: str, conv: Conversation) -> float:
    """Share of the value's words that the conversation holds, initials counting both ways (NYC, New York City)."""
    total = held = 0.0
    known = conv.evidence_set
    for term in terms(identifier_words(text)):
        size = weight(term) or (0.3 if term.isdecimal() else 0.05)
        total += size
        if (
            term in known
            or (term.isdecimal() and float(term) in conv.numbers)
            or (2 < len(term) <= 5 and (term in conv.initials or _begins(term, known)))  # noqa: PLR2004 - short form
        ):
            held += size
    if not total:
        return 1.0
    score = held / total
    if score < _DERIVED:
        initials = "".join(w[0] for w in _WORD.findall(fold(text)))
        if len(initials) > 1 and re.search(rf"(?<!\w){re.escape(initials)}(?!\w)", _INITIALS.sub("", conv.evidence)):
            return _DERIVED
    return score


def _begins(term: str, known: frozenset[str]) -> bool:
    """Whether a short word begins one of the known words: EUR of euros, Jan of January."""
    return any(k.startswith(term) for k in known)
