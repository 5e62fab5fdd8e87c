"""`ToolRelevance`: the answer against the request: the right tool, as many calls as were asked for, nothing left over.

Words are compared by their stems and weighed by their length, so no list of words of one language decides; where the
request and the tools are written in different languages the comparison says nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.validators._conversation import Conversation, conversation
from cascade_agent.validators._sources import groundings, is_default, typical
from cascade_agent.validators._words import (
    REQUEST_CHARS,
    SAYS,
    Answer,
    Offer,
    ToolText,
    Weighed,
    answer,
    fold,
    offer,
    quoted,
    stem,
    subject_weight,
    terms,
    weight,
)
from cascade_agent.validators.agreement import normal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from cascade_agent.core.records import Draft, Outcome, StepContext

_WORD = re.compile(r"[^\W_]+")
_LIST_MARK = re.compile(r"(?:^|\n)\s*\(?\d{1,2}[.)](?=\s)|(?<![(\w])\d{1,2}\)(?=\s)")
# After a space the parenthesis must begin as arguments do: "find_order (the tool for orders)" names a tool in passing.
_PROSE_CALL = re.compile(
    r"(?<![^\W\d])([^\W\d][\w.\-]{1,80}+)(?:\(|\s+\((?=\s*(?:[)\d\"'{\[]|[\w.]{1,60}\s*[=:])))"
    r"|[\"'](?:name|function|tool|recipient_name)[\"']\s*:\s*[\"']([\w.\-]{2,80})[\"']"
)

_OF_A_LANGUAGE: Final = 3  # short words from which on two texts without a common one differ in language
_ONE_SHORT_WORD: Final = 0.5  # its weight: less is nothing to go by
_OPTION: Final = 3  # letters of an option: shorter ones are words of everything
_NEUTRAL: Final = 0.7
"""Score of request and tool where they cannot be compared: about that of right calls."""
_SENTENCE_SUBJECT: Final = 1.6
"""Weight of words about the tools from which on a sentence is taken to ask for something."""


@dataclass(frozen=True, slots=True)
class ToolRelevance:
    """Judges how the draft's calls, or its lack of calls, fit the request.

    Always one of `tool_match` (calls) or `no_call` (prose while tools are offered), so that a scorer knows it ran.

    Soft fails: `call_in_prose` (right .75 of the times on models that it was not made with), `off_topic` (.93 on
    recorded drafts of six small models), `calls_alike` (14 of 25 on new cases), and `number_unused` when most numbers
    of the request were left out (.91).

    Graded, only where they apply: `description_match`, `request_covered`, `number_unused`, `question_open`,
    `quote_unused`, `choice_unused`, `part_open`, `several_calls`, `calls_split`.
    Silent without tools and where structured output was asked for.
    """

    name: ClassVar[str] = "ToolRelevance"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "ungrounded"
    weights: ClassVar[Mapping[str, Weight]] = {
        "call_in_prose": Weight(4.0, "a call written into the text never runs; the model meant to call"),
        "part_open": Weight(4.0, "the request speaks of a tool's subject and that tool was not called"),
        "number_unused": Weight(4.0, "numbers in a request are nearly always meant for an argument"),
        "calls_alike": Weight(2.5, "the same values twice ask for nothing new"),
        "choice_unused": Weight(2.5, "the request names an option in the tool's own words and it was passed over"),
        "question_open": Weight(3.0, "each question wants a call; questions in passing exist"),
        "quote_unused": Weight(2.0, "what stands in quotation marks is wanted literally; titles in passing exist"),
        "calls_split": Weight(2.0, "a list parameter asks for one call; several calls also work with many tools"),
        "description_match": Weight(2.0, "a fitting tool is described in the request's words; synonyms are rare"),
        "off_topic": Weight(1.0, "several weak signs at once; each of them is weighed already"),
        "tool_match": Weight(1.0, "the name says the same as the description in fewer words"),
        "request_covered": Weight(0.5, "words left over ask for something else; stories leave words too"),
        "several_calls": Weight(0.5, "each of several calls must be right; one call is right more often than three"),
        "no_call": Weight(0.5, "prose that was chosen freely is mostly right, also where a tool has like words"),
    }

    def __call__(self, draft: Draft, context: StepContext) -> Iterable[Verdict]:
        """Return all findings about the answer."""
        if context.output_schema is not None or not context.tools:
            return ()
        conv = conversation(context)
        offered = offer(context)
        if not draft.tool_calls:
            return _prose(draft, context, conv, offered)
        found = answer(draft, context)
        foreign = _foreign(conv, offered)
        out = [
            *_match(found, conv, offered, foreign=foreign),
            *_coverage(found, conv, offered, foreign=foreign),
            *_calls(found, conv),
        ]
        if context.tool_choice is None and _off_topic(out, found, conv, offered):
            out.append(Verdict(outcome="fail", code="off_topic", reason=_OFF_TOPIC, score=0.0))
        return out


def _graded(code: str, score: float, reason: str = "") -> Verdict:
    score = min(1.0, max(0.0, score))
    return Verdict(outcome="pass", code=code, reason=reason if score < 1.0 else "", score=score)


# ---- prose ----------------------------------------------------------------------------------------------------------


def _prose(draft: Draft, context: StepContext, conv: Conversation, offered: Offer) -> list[Verdict]:
    """Judge an answer without calls: right where no tool fits or tools have answered, wrong where it spells a call."""
    if context.tool_choice == "none":
        return []
    text = draft.text[:REQUEST_CHARS]
    for match in _PROSE_CALL.finditer(text) if "(" in text or ":" in text else ():
        written = "".join(_WORD.findall(fold(match.group(1) or match.group(2))))
        if written in offered.squashed:
            reason = "the text writes out a call to an offered tool instead of making it"
            return [Verdict(outcome="fail", code="call_in_prose", reason=reason, score=0.0)]
    if conv.answered or not conv.request:
        return [_graded("no_call", 1.0)]
    if _foreign(conv, offered):
        return [_graded("no_call", _NEUTRAL)]
    known = conv.asked.terms
    fit = max(min(_share(t.by_name, known), _share(t.by_description, known) * 2) for t in offered.tools)
    return [_graded("no_call", 1.0 - fit, "no call although an offered tool resembles the request")]


# ---- request and tool -----------------------------------------------------------------------------------------------


def _share(wanted: Weighed, present: frozenset[str], taken: frozenset[str] = frozenset()) -> float:
    """Return the weighted share of the wanted terms that are present, not taken; .5 when none says anything."""
    pairs, total = wanted
    held = 0.0
    for term, size in pairs:
        if term in present and term not in taken:
            held += size
    return held / total if total else 0.5


def _foreign(conv: Conversation, offered: Offer) -> bool:
    """Return whether request and tools share not even one of the short words that bind sentences: another language.

    Fewer than three short words on a side say nothing, except where the scripts differ altogether.
    """
    asked = conv.asked
    if min(len(asked.short), len(offered.short)) >= _OF_A_LANGUAGE and asked.short.isdisjoint(offered.short):
        return True
    return asked.latin < 1 / 3 and offered.latin > 2 / 3


def _match(found: Answer, conv: Conversation, offered: Offer, *, foreign: bool) -> list[Verdict]:
    """Compare the called tools with the request: words of the name, words of the description, and the other tools."""
    called = list({id(t): t for t in found.tools if t is not None}.values())
    if None in found.tools:
        reason = "a called tool is not on offer"
        return [_graded("tool_match", 0.0, reason), _graded("description_match", 0.0, reason)]
    if conv.answered or foreign:
        return [_graded("tool_match", _NEUTRAL), _graded("description_match", _NEUTRAL)]
    known = conv.asked.terms if not conv.follow_up else conv.evidence_set
    name = typical([_share(t.by_name, known) for t in called])
    description = typical([_share(t.by_description, known) for t in called])
    out = [
        _graded("tool_match", name, "the name of a called tool shares few words with the request"),
        _graded("description_match", description, "the description of a called tool shares few words with the request"),
    ]
    ids = {id(t) for t in called}
    others = [t for t in offered.tools if id(t) not in ids]
    if others:
        taken = found.used.terms.union(*[t.description_terms for t in called])
        part = max(_own(t, known, taken) for t in others)
        if part > 0:
            out.append(_graded("part_open", 1.0 - part, "words of the request belong to a tool that was not called"))
    return out


_OFF_TOPIC: Final = "request and called tool have next to nothing in common"
_APART: Final = 0.4
"""`tool_match + 2 description_match + request_covered` under which they have nothing in common (of 4)."""
_NO_ACCIDENT: Final = 3
_FROM_REQUEST: Final = 0.8
"""Three required arguments that all come from the request fit it, whatever words it is put in."""
_LOW: Final = 0.25
_UNKNOWN: Final = 0.3
_NEXT: Final = 0.15
"""Share of a tool's words in the request from which on that tool may be the next step."""
_IDENTIFIER = re.compile(r"(?=[^\s]*[\d@])(?=[^\s]*[^\W\d])\S{4,120}")


def _off_topic(verdicts: Sequence[Verdict], found: Answer, conv: Conversation, offered: Offer) -> bool:
    """Return whether several weak signs together say that the tool is of another subject, or its arguments made up.

    Only for the first call after a request that stands for itself, and only where one tool is on offer, described: of
    several, the one that was called first may prepare what was asked for, as the first look-up of an agent does.
    """
    if (
        len(offered.tools) > 1
        or conv.answered
        or conv.follow_up
        or not all(t and t.described_well for t in found.tools)
    ):
        return False
    if _has_identifier(found, conv) or _composed(found, conv):
        return False
    score = {v.code: 1.0 if v.score is None else v.score for v in verdicts}
    if "request_covered" not in score:
        return False
    pairs = zip(found.leaves, groundings(found, conv), strict=True)
    required = [(leaf, g) for leaf, g in pairs if g is not None and leaf.required]
    taken = {(leaf.call, leaf.key): g for leaf, g in required}
    if len(taken) >= _NO_ACCIDENT and typical(list(taken.values())) >= _FROM_REQUEST:
        return False
    description = score["description_match"]
    if score["tool_match"] + 2 * description + score["request_covered"] < _APART:
        return True
    return description < _LOW and bool(required) and typical([g for _, g in required]) < _UNKNOWN


def _composed(found: Answer, conv: Conversation) -> bool:
    """Return whether the calls may serve any request: without arguments, or with a text that a model writes itself.

    Words of the request are not to be expected in SQL, code, shell commands and search queries.
    """
    if len({leaf.call for leaf in found.leaves}) < len(found.calls):
        return True
    for leaf in found.leaves:
        if isinstance(leaf.value, str) and not leaf.schema.get("enum"):
            tool = found.tools[leaf.call]
            if len(_WORD.findall(leaf.value)) >= _WRITTEN:
                return True
            alone = tool is not None and len(tool.properties) == 1
            if alone and conv.asked.terms.intersection(terms(fold(leaf.value))):
                return True
    return False


_WRITTEN: Final = 3
"""Words from which on a text argument was composed by the model rather than copied."""


def _has_identifier(found: Answer, conv: Conversation) -> bool:
    """Return whether a call takes up an identifier of the request: an order number, an address with @."""
    return any(
        isinstance(leaf.value, str) and _IDENTIFIER.fullmatch(leaf.value) and fold(leaf.value) in conv.asked.folded
        for leaf in found.leaves
    )


def _prepares(found: Answer, conv: Conversation, offered: Offer) -> bool:
    """Return whether the calls may be the look-up before the step that was asked for: another tool fits it too."""
    fitting = any(t not in found.tools and _fit(t, conv.asked.terms) > _NEXT for t in offered.tools)
    return fitting or _has_identifier(found, conv)


def _fit(tool: ToolText, known: frozenset[str]) -> float:
    return (_share(tool.by_name, known) + _share(tool.by_description, known)) / 2


def _own(tool: ToolText, known: frozenset[str], taken: frozenset[str]) -> float:
    name = _share(tool.by_name, known, taken)
    return name * _share(tool.by_description, known, taken) if name else 0.0


# ---- what is left of the request ------------------------------------------------------------------------------------


def _coverage(found: Answer, conv: Conversation, offered: Offer, *, foreign: bool) -> list[Verdict]:
    """Judge what of the request neither became an argument nor belongs to the called tools.

    Once tools have answered in this turn the request is worked off step by step, and what is left over says nothing.
    """
    if not conv.request or conv.answered:
        return []
    asking = _asking(found, conv, offered)
    out: list[Verdict] = []
    if not foreign:
        out.append(_graded("request_covered", _covered(found, conv, asking), "words of the request found in no call"))
    about = found.about
    unused, count = _numbers_unused(found, conv, asking, about)
    if unused:
        reason = "numbers of the request that no argument takes up"
        score = (1.0 - unused / count) / unused
        told = score <= _MOST_UNUSED and _takes_numbers(found) and not _prepares(found, conv, offered)
        soft: Outcome = "fail" if told else "pass"
        out.append(Verdict(outcome=soft, code="number_unused", reason=reason, score=score))
    questions = conv.request.count("?") + conv.request.count("？") + conv.request.count("؟")
    if questions > len(found.calls):
        out.append(_graded("question_open", len(found.calls) / questions, "more questions than calls"))
    quotes = quoted(conv.request)
    if quotes:
        lost = [q for q in quotes if q not in found.used.folded and "".join(_WORD.findall(q)) not in found.used.compact]
        lost = [q for q in lost if "".join(_WORD.findall(q)) not in offered.squashed]
        if lost:
            out.append(_graded("quote_unused", 1.0 - len(lost) / len(quotes), "quoted strings no argument takes up"))
    choices = _choices_unused(found, conv)
    if choices:
        out.append(_graded("choice_unused", 1.0 / (1 + choices), "options that the request names were not chosen"))
    return out


def _takes_numbers(found: Answer) -> bool:
    """Return whether a called tool has a parameter for a number; else numbers may be meant for the answer's form."""
    return any(_NUMERIC.intersection(_kinds(s)) for t in found.tools if t is not None for s in t.properties.values())


def _kinds(schema: object) -> Iterable[str]:
    """Yield the types that a parameter takes, one level deep."""
    branches = schema.get("anyOf") if isinstance(schema, Mapping) else None
    parts = (
        [schema, schema.get("items"), *(branches[:8] if isinstance(branches, list) else ())]
        if isinstance(schema, Mapping)
        else []
    )
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        yield from (str(k).lower() for k in (kind if isinstance(kind, list) else [kind]))


_NUMERIC: Final = frozenset({"integer", "number", "int", "float", "double"})
_MOST_UNUSED: Final = 0.2
"""Score of `number_unused` up to which it fails: all numbers, two of three, three of up to seven, four of any."""


def _asking(found: Answer, conv: Conversation, offered: Offer) -> list[tuple[int, int]]:
    """Return the sentences that ask: an argument was taken from them, or they speak of the tools' subjects."""
    ends = [*conv.asked.ends, len(conv.asked.folded)]
    if not ends[1:]:
        return [(0, ends[0])]
    about = offered.about
    used = found.used.terms
    out: list[tuple[int, int]] = []
    start, subject, index = 0, 0.0, 0
    for place, term in (*conv.asked.placed, (len(conv.asked.folded) + 1, "")):
        while index < len(ends) and place >= ends[index]:
            if subject >= _SENTENCE_SUBJECT:
                out.append((start, ends[index]))
            start, subject, index = ends[index], 0.0, index + 1
        if term in used and (weight(term) >= SAYS or term.isdecimal()):
            subject = _SENTENCE_SUBJECT
        elif term in about:
            subject += subject_weight(term)
    return out or [(0, len(conv.asked.folded))]


def _within(place: int, spans: Sequence[tuple[int, int]]) -> bool:
    for start, end in spans:  # noqa: SIM110 - no generator: it is asked for each word
        if start <= place < end:
            return True
    return False


def _covered(found: Answer, conv: Conversation, asking: Sequence[tuple[int, int]]) -> float:
    """Return the weighted share of the words that are no arguments which the called tools' texts explain."""
    if not any(found.tools):
        return 0.0
    placed, about, used = conv.asked.placed, found.about, found.used.terms
    asked: set[str] = set()
    for start, end in asking:
        first, last = bisect_left(placed, (start, "")), bisect_left(placed, (end, ""))
        asked.update([term for _, term in placed[first:last]])
    total = held = 0.0
    for term in asked:
        if term in used:
            continue
        size = subject_weight(term)
        total += size
        if term in about:
            held += size
    return held / total if total > _ONE_SHORT_WORD else _NEUTRAL


def _numbers_unused(
    found: Answer, conv: Conversation, asking: Sequence[tuple[int, int]], about: frozenset[str]
) -> tuple[int, int]:
    """Return how many numbers of the asking sentences no argument takes up, and how many there are.

    Numbers inside words, words of the tools (3D), list marks and percent turned into fractions are no loss; each number
    among the arguments that the request does not hold may stand for one that was worked out from others.
    """
    spans = conv.asked.spans
    if not spans:
        return 0, 0
    marks = {p for m in _LIST_MARK.finditer(conv.asked.folded) for p in range(m.start(), m.end())}
    used = found.used.numbers
    count = unused = 0
    for span in spans:
        if span.joined or span.start in marks or not _within(span.start, asking):
            continue
        if conv.asked.folded[span.end : span.end + 1].isalpha() and _token(conv.asked.folded, span.start) in about:
            continue
        count += 1
        taken = any(v in used or round(v * 0.01, 9) in used for v in span.values)
        unused += not taken and not (span.parts and used.issuperset(span.parts))
    worked_out = len(used - conv.request_numbers) if unused else 0
    return max(0, unused - worked_out), count


def _token(folded: str, start: int) -> str:
    match = _WORD.match(folded, start)
    return stem(match.group()) if match is not None else ""


def _choices_unused(found: Answer, conv: Conversation) -> int:
    """Count the options that the request names and no call chose, for parameters that the calls set."""
    chosen: dict[str, tuple[list[Any], set[str]]] = {}
    for leaf in found.leaves:
        listed = leaf.schema.get("enum")
        if isinstance(listed, list) and isinstance(leaf.value, str):
            chosen.setdefault(leaf.key, (listed[:32], set()))[1].add(fold(leaf.value[:80]))
    return sum(
        isinstance(o, str) and _passed_over(o, c, found, conv) for options, c in chosen.values() for o in options
    )


def _passed_over(option: str, chosen: Collection[str], found: Answer, conv: Conversation) -> bool:
    word = fold(option[:80])
    return (
        len(word) >= _OPTION
        and word in conv.asked.folded
        and word not in found.used.folded
        and not any(word in c or c in word for c in chosen)
        and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", conv.asked.folded) is not None
    )


# ---- the calls among each other -------------------------------------------------------------------------------------


def _calls(found: Answer, conv: Conversation) -> list[Verdict]:
    """Return what is wrong among the calls: one call would do, as they are split over a list, or say the same again."""
    if not found.calls[1:]:
        return []
    out = [_graded("several_calls", 0.0, "each of several calls must be right")]
    groups: dict[str, tuple[ToolText, list[Mapping[str, Any]]]] = {}
    for call, tool in zip(found.calls, found.tools, strict=True):
        args = call.get("args")
        if tool is not None and isinstance(args, Mapping):
            groups.setdefault(tool.name, (tool, []))[1].append(args)
    if any(_split(tool, calls) for tool, calls in groups.values()):
        out.append(_graded("calls_split", 0.0, "calls differ only in a parameter that takes a list"))
    if any(_alike(tool, calls, conv) for tool, calls in groups.values()):
        reason = "two calls carry the same values"
        out.append(Verdict(outcome="fail", code="calls_alike", reason=reason, score=0.0))
    return out


def _split(tool: ToolText, calls: Sequence[Mapping[str, Any]]) -> bool:
    for key, schema in tool.properties.items():
        if not isinstance(schema, Mapping) or schema.get("type") != "array":
            continue
        if not all(isinstance(c.get(key), list) and len(c[key]) <= 1 for c in calls):
            continue
        if len({normal({k: v for k, v in c.items() if k != key}) for c in calls}) < len(calls):
            return True
    return False


def _alike(tool: ToolText, calls: Sequence[Mapping[str, Any]], conv: Conversation) -> bool:
    """Return whether two calls are the same but for written-out defaults or the order of numbers that were named once.

    "The sum of 4 and 5" needs no second call with 5 and 4. Texts in another order are another call: there and back.
    """
    seen: set[object] = set()
    for args in calls:
        given = {k: v for k, v in args.items() if k in tool.required or not is_default(v, tool.properties.get(k))}
        numbers = [v for v in given.values() if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == len(given) and all(sum(v in s.values for s in conv.asked.spans) == 1 for v in numbers):
            key = normal(sorted(numbers))
        else:
            key = normal(given)
        if key in seen:
            return True
        seen.add(key)
    return False
