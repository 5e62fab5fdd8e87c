"""`Grounding`: the arguments of a call come from the request, a tool result, an earlier message or the schema.

A value that anybody mentioned, or that follows from one that was mentioned by a change of writing or of unit, is
never objected to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.validators._conversation import Conversation, conversation
from cascade_agent.validators._sources import date_grounded, groundings, is_default, typical
from cascade_agent.validators._words import VALUE_CHARS, Leaf, answer, fold, value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cascade_agent.core.records import Draft, StepContext

# Shapes that no language fills with a meaning: <city>, {{city}}, [CITY_NAME], ..., ???, XXXX, ____
_HOLLOW = re.compile(
    r"<[^<>]{1,60}>|\{\{?[^{}:\"\d]{0,60}\}?\}|\[[A-Z][A-Z0-9_ ]{1,60}\]|\.{3,}|…|\?+|[xX]{3,}|_{2,}|-{1,3}"
)
# Words that programs, not people, use for "no value"; only the whole value counts and only where nobody wrote it.
_NO_VALUE: Final = "n/a na null none nil undefined todo tbd unknown placeholder string foo foobar"
_EMPTY_WORDS: Final = frozenset(_NO_VALUE.split())
_YOUR = re.compile(r"<?your[_ -][a-z0-9_ -]{2,40}>?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Grounding:
    """Judges where the arguments of the draft's calls come from.

    Soft fails: `date_invented` (right 94 times in 100 on recorded drafts of six small models), `percent_as_written`
    (17 of 17 there, of five questions), `placeholder_value` and `required_empty` (both too rare there for a figure).
    Graded: `argument_grounded` (always when a required argument was judged), `optional_grounded`. Silent for answers
    without calls and where structured output was asked for.
    """

    name: ClassVar[str] = "Grounding"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"
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

    def __call__(self, draft: Draft, context: StepContext) -> Iterable[Verdict]:
        """Judge the arguments of all calls together."""
        if context.output_schema is not None or not draft.tool_calls:
            return ()
        conv, found = conversation(context), answer(draft, context)
        required: list[tuple[float, str]] = []
        optional: list[tuple[float, str]] = []
        out: list[Verdict] = []
        for leaf, grounded in zip(found.leaves, groundings(found, conv), strict=True):
            if found.tools[leaf.call] is None:
                continue
            fault = _fault(leaf, conv)
            if fault is not None:
                path, reason = leaf.path, _REASONS[fault]
                out.append(Verdict(outcome="fail", code=fault, reason=reason, score=0.0, path=path))
            elif grounded is not None:
                (required if leaf.required else optional).append((grounded, leaf.path))
        if required:
            out.append(_graded("argument_grounded", required))
        if any(_percent_as_written(leaf, conv) for leaf in found.leaves):
            reason = "a share given in percent was passed on as the number written, where a fraction may be meant"
            out.append(Verdict(outcome="fail", code="percent_as_written", reason=reason, score=0.0))
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
    _, path = min(values)
    score = typical([v for v, _ in values])
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
    if is_default(value, leaf.schema):
        return None
    if _placeholder(value, leaf, conv):
        return "placeholder_value"
    if date_grounded(value, conv) == 0.0 and not conv.literally(value):
        return "date_invented"
    return None


def _percent_as_written(leaf: Leaf, conv: Conversation) -> bool:
    """Return whether a percentage of the request went unchanged into a number that is no percentage.

    Integers, and parameters whose texts, default or bounds allow for numbers above 1, take percent as they are.
    """
    value, schema = leaf.value, leaf.schema
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 100:
        return False
    if schema.get("type") != "number" or "%" not in conv.asked.folded:
        return False
    about = f"{leaf.key} {schema.get('description', '')}".lower()
    if any(word in about for word in ("percent", "pct", "%", "per cent")):
        return False
    known = [schema.get(key) for key in ("default", "maximum", "exclusiveMaximum", "example")]
    if any(isinstance(k, int | float) and k > 1 for k in known):
        return False
    return re.search(rf"(?<![\d.,]){re.escape(value_text(value))}(?:[.,]0+)?\s?%", conv.asked.folded) is not None


def _may_be_empty(value: object, schema: Mapping[str, Any]) -> bool:
    if not schema or is_default(value, schema):
        return True
    options = schema.get("enum")
    if isinstance(options, list) and value in options:
        return True
    if value is None:
        kind = schema.get("type")  # without one it is a union or a reference: the schema check's business
        return (
            not kind or kind == "null" or (isinstance(kind, list) and "null" in kind) or schema.get("nullable") is True
        )
    return False


def _placeholder(value: str, leaf: Leaf, conv: Conversation) -> bool:
    text = value.strip()[:80]
    folded = fold(text)
    hollow = _HOLLOW.fullmatch(text) or _YOUR.fullmatch(text)
    if not hollow and not (folded in _EMPTY_WORDS and leaf.schema.get("type") == "string"):
        # the parameter's own name as its value: {"city": "city"}
        own = leaf.whole and folded[3:] and folded == fold(leaf.key)
        if not own:
            return False
    options = leaf.schema.get("enum")
    if isinstance(options, list) and value in options:
        return False
    return folded not in conv.evidence and folded not in fold(str(leaf.schema.get("description", ""))[:VALUE_CHARS])
