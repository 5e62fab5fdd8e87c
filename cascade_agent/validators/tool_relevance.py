"""`ToolRelevance`: the answer against the request: the right tool, as many calls as were asked for, nothing left over.

Words are compared by their stems and weighed by their length, so no list of words of one language decides; where the
request and the tools are written in different languages the comparison says nothing.
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
    REQUEST_CHARS,
    SAYS,
    WORD,
    Answer,
    Offer,
    Sentence,
    ToolText,
    Weighed,
    answer,
    compact,
    fold,
    offer,
    quoted,
    stem,
    subject_weight,
    terms,
    weight,
)
from cascade_agent.validators.agreement import normal
from cascade_agent.validators.grounding import groundings, is_default, typical

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Draft, StepContext

_LIST_MARK = re.compile(r"(?:^|\n)\s*\(?\d{1,2}[.)](?=\s)|(?<![(\w])\d{1,2}\)(?=\s)")
# After a space the parenthesis must begin as arguments do: "find_order (the tool for orders)" names a tool in passing.
_PROSE_CALL = re.compile(
    r"(?<![^\W\d])([^\W\d][\w.\-]{1,80}+)(?:\(|\s+\((?=\s*(?:[)\d\"'{\[]|[\w.]{1,60}\s*[=:])))"
    r"|[\"'](?:name|function|tool|recipient_name)[\"']\s*:\s*[\"']([\w.\-]{2,80})[\"']"
)
_IDENTIFIER = re.compile(r"(?=[^\s]*[\d@])(?=[^\s]*[^\W\d])\S{4,120}")

_OF_A_LANGUAGE: Final = 3  # short words from which on two texts without a common one differ in language
_ONE_SHORT_WORD: Final = 0.5  # its weight: less is nothing to go by
_OPTION: Final = 3  # letters of an option: shorter ones are words of everything
_NEUTRAL: Final = 0.7
"""Score of request and tool where they cannot be compared: about that of right calls."""
_SENTENCE_SUBJECT: Final = 1.6
"""Weight of words about the tools from which on a sentence is taken to ask for something."""
_APART: Final = 0.4
"""`tool_match + 2 description_match + request_covered` under which they have nothing in common (of 4)."""
_NO_ACCIDENT: Final = 3
_FROM_REQUEST: Final = 0.8
"""Three required arguments that all come from the request fit it, whatever words it is put in."""
_LOW: Final = 0.25
_UNKNOWN: Final = 0.3
_NEXT: Final = 0.15
"""Share of a tool's words in the request from which on that tool may be the next step."""
_WRITTEN: Final = 3
"""Words from which on a text argument was composed by the model rather than copied."""
_NUMERIC: Final = frozenset({"integer", "number", "int", "float", "double"})
_MOST_UNUSED: Final = 0.2
"""Score of `number_unused` up to which it fails: all numbers, two of three, three of up to seven, four of any."""


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

    def __call__(self, draft: Draft, context: StepContext) -> list[Verdict]:
        """Return all findings about the answer."""
        if context.output_schema is not None or not context.tools:
            return []
        conv, offered = conversation(context), offer(context)
        if not draft.tool_calls:
            return [] if context.tool_choice == "none" else [_prose(draft.text, conv, offered)]
        found = answer(draft, context)
        foreign = not conv.answered and _foreign(conv, offered)
        out = _match(found, conv, offered, foreign=foreign)
        # once tools have answered the request is worked off step by step, and what is left over says nothing
        if conv.request and not conv.answered:
            out += _coverage(found, conv, offered, foreign=foreign)
        if found.calls[1:]:
            out += _several(found, conv)
        if len(offered.tools) == 1 and context.tool_choice is None and _off_topic(out, found, conv):
            out.append(_fail("off_topic", "request and called tool have next to nothing in common"))
        return out


def _graded(code: str, score: float, reason: str = "") -> Verdict:
    score = min(1.0, max(0.0, score))
    return Verdict(outcome="pass", code=code, reason=reason if score < 1.0 else "", score=score)


def _fail(code: str, reason: str, score: float = 0.0) -> Verdict:
    return Verdict(outcome="fail", code=code, reason=reason, score=score)


# ---- request and tool -----------------------------------------------------------------------------------------------


def _prose(text: str, conv: Conversation, offered: Offer) -> Verdict:
    """Judge an answer without calls: right where no tool fits or tools have answered, wrong where it spells a call."""
    text = text[:REQUEST_CHARS]
    for match in _PROSE_CALL.finditer(text) if "(" in text or ":" in text else ():
        if compact(fold(match[1] or match[2])) in offered.names:
            return _fail("call_in_prose", "the text writes out a call to an offered tool instead of making it")
    if conv.answered or not conv.request:
        return _graded("no_call", 1.0)
    if _foreign(conv, offered):
        return _graded("no_call", _NEUTRAL)
    known, fit = conv.wish.terms, 0.0
    for tool in offered.tools:
        if not _apart(tool, known):
            fit = max(fit, min(_share(tool.by_name, known), _share(tool.by_description, known) * 2))
    return _graded("no_call", 1.0 - fit, "no call although an offered tool resembles the request")


def _share(wanted: Weighed, present: frozenset[str]) -> float:
    """Return the weighted share of the wanted terms that are present; .5 when none says anything."""
    pairs, total = wanted
    held = 0.0
    for term, size in pairs:
        if term in present:
            held += size
    return held / total if total else 0.5


def _apart(tool: ToolText, known: frozenset[str]) -> bool:
    """Return whether name and description of a tool, which say something, share no word with what is known."""
    return known.isdisjoint(tool.description) and tool.by_description[1] > 0


def _foreign(conv: Conversation, offered: Offer) -> bool:
    """Return whether request and tools share not even one of the short words that bind sentences: another language.

    Fewer than three short words on a side say nothing, except where the scripts differ altogether.
    """
    wish = conv.wish
    if min(len(wish.short), len(offered.short)) >= _OF_A_LANGUAGE and wish.short.isdisjoint(offered.short):
        return True
    return not wish.folded.isascii() and wish.latin < 1 / 3 and offered.latin > 2 / 3


def _match(found: Answer, conv: Conversation, offered: Offer, *, foreign: bool) -> list[Verdict]:
    """Compare the called tools with the request: words of the name, words of the description, and the other tools."""
    score, reason = _NEUTRAL, ""
    if None in found.tools:
        score, reason = 0.0, "a called tool is not on offer"
    if reason or conv.answered or foreign:
        return [_graded(code, score, reason) for code in ("tool_match", "description_match")]
    known = conv.evidence_set if conv.follow_up else conv.wish.terms
    called = {id(tool): tool for tool in found.tools if tool is not None}
    out = []
    for code, part, shares in (
        ("tool_match", "name", [_share(tool.by_name, known) for tool in called.values()]),
        ("description_match", "description", [_share(tool.by_description, known) for tool in called.values()]),
    ):
        reason = f"the {part} of a called tool shares few words with the request"
        out.append(_graded(code, typical(shares), reason))
    left, missed = known.difference(found.used.terms, *[tool.description for tool in called.values()]), 0.0
    for tool in offered.tools:
        if id(tool) not in called and not _apart(tool, left):
            missed = max(missed, _share(tool.by_name, left) * _share(tool.by_description, left))
    if missed > 0:
        out.append(_graded("part_open", 1.0 - missed, "words of the request belong to a tool that was not called"))
    return out


def _off_topic(verdicts: Sequence[Verdict], found: Answer, conv: Conversation) -> bool:
    """Return whether several weak signs together say that the tool is of another subject, or its arguments made up.

    Only for the first call after a request that stands for itself, and only where one tool is on offer, described: of
    several, the one that was called first may prepare what was asked for, as the first look-up of an agent does.
    """
    if conv.answered or conv.follow_up or not all(t and t.described_well for t in found.tools):
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
            if len(WORD.findall(leaf.value)) >= _WRITTEN:
                return True
            tool = found.tools[leaf.call]
            alone = tool is not None and len(tool.properties) == 1
            if alone and not conv.wish.terms.isdisjoint(terms(fold(leaf.value))):
                return True
    return False


def _has_identifier(found: Answer, conv: Conversation) -> bool:
    """Return whether a call takes up an identifier of the request: an order number, an address with @."""
    texts = [leaf.value for leaf in found.leaves if isinstance(leaf.value, str)]
    return any(_IDENTIFIER.fullmatch(text) and fold(text) in conv.wish.folded for text in texts)


# ---- what is left of the request ------------------------------------------------------------------------------------


def _coverage(found: Answer, conv: Conversation, offered: Offer, *, foreign: bool) -> list[Verdict]:
    """Judge what of the request neither became an argument nor belongs to the called tools."""
    out: list[Verdict] = []
    request, used, about, calls = conv.request, found.used, found.about, len(found.calls)
    asking = _asking(found, conv, offered)
    if not foreign:
        wanted = conv.wish.terms if asking is None else frozenset().union(*[sentence.terms for sentence in asking])
        covered = _covered(wanted.difference(used.terms), about) if any(found.tools) else 0.0
        out.append(_graded("request_covered", covered, "words of the request found in no call"))
    unused, count = _numbers_unused(found, conv, asking, about) if conv.wish.spans else (0, 0)
    if unused:
        score, reason = (1.0 - unused / count) / unused, "numbers of the request that no argument takes up"
        fails = score <= _MOST_UNUSED and _takes_numbers(found) and not _prepares(found, conv, offered)
        out.append(_fail("number_unused", reason, score) if fails else _graded("number_unused", score, reason))
    questions = request.count("?") + request.count("？") + request.count("؟")
    if questions > calls:
        out.append(_graded("question_open", calls / questions, "more questions than calls"))
    quotes = quoted(request)
    lost = [q for q in quotes if q not in used.folded]
    lost = [q for q in lost if not ((letters := compact(q)) in used.compact or letters in offered.names)]
    if lost:
        out.append(_graded("quote_unused", 1.0 - len(lost) / len(quotes), "quoted strings no argument takes up"))
    choices = _choices_unused(found, conv.wish.folded)
    if choices:
        out.append(_graded("choice_unused", 1.0 / (1 + choices), "options that the request names were not chosen"))
    return out


def _asking(found: Answer, conv: Conversation, offered: Offer) -> list[Sentence] | None:
    """Return the sentences that ask: an argument was taken from them, or they speak of the tools' subjects.

    None is the whole request: it is one sentence, or none of it asks.
    """
    sentences = conv.wish.sentences
    if sentences[0].end >= len(conv.wish.folded):
        return None
    about, used, out = offered.about, found.used.terms, []
    for sentence in sentences:
        subject = 0.0
        for term in sentence.terms:
            if term in used and (weight(term) >= SAYS or term.isdecimal()):
                subject = _SENTENCE_SUBJECT
            elif term in about:
                subject += subject_weight(term)
        if subject >= _SENTENCE_SUBJECT:
            out.append(sentence)
    return out or None


def _covered(wanted: Iterable[str], about: frozenset[str]) -> float:
    """Return the weighted share of the wanted words that the called tools' texts explain."""
    total = held = 0.0
    for term in wanted:
        size = subject_weight(term)
        total += size
        if term in about:
            held += size
    return held / total if total > _ONE_SHORT_WORD else _NEUTRAL


def _numbers_unused(
    found: Answer, conv: Conversation, asking: Sequence[Sentence] | None, about: frozenset[str]
) -> tuple[int, int]:
    """Return how many numbers of the asking sentences no argument takes up, and how many there are.

    Numbers inside words, words of the tools (3D), list marks and percent turned into fractions are no loss; each number
    among the arguments that the request does not hold may stand for one that was worked out from others.
    """
    folded, given = conv.wish.folded, {leaf.value for leaf in found.leaves if type(leaf.value) is int}
    marks = [mark.span() for mark in _LIST_MARK.finditer(folded)] if ")" in folded or "." in folded else ()
    parts = marks if asking is None else [sentence[:2] for sentence in asking]
    count = unused = 0
    for span in conv.wish.spans:
        at, end = span.start, span.end
        if span.joined or _within(at, marks) or not (asking is None or _within(at, parts)):
            continue
        if folded[end : end + 1].isalpha() and (word := WORD.match(folded, at)) and stem(word[0]) in about:
            continue
        count += 1
        if given.isdisjoint(span.values):  # else found without reading the numbers of all arguments
            used = found.used.numbers
            if used.isdisjoint(span.values) and used.isdisjoint([round(value * 0.01, 9) for value in span.values]):
                unused += not (span.parts and used.issuperset(span.parts))
    worked_out = len(found.used.numbers - conv.wish.numbers) if unused else 0
    return max(0, unused - worked_out), count


def _within(place: int, spans: Iterable[tuple[int, int]]) -> bool:
    for start, end in spans:  # noqa: SIM110 - no generator: it is asked for each number
        if start <= place < end:
            return True
    return False


def _takes_numbers(found: Answer) -> bool:
    """Return whether a called tool has a parameter for a number; else numbers may be meant for the answer's form."""
    for schema in [schema for tool in found.tools if tool is not None for schema in tool.properties.values()]:
        if isinstance(schema, Mapping):
            branches = schema.get("anyOf")
            for part in (schema, schema.get("items"), *(branches[:8] if isinstance(branches, list) else ())):
                kind = part.get("type") if isinstance(part, Mapping) else None
                if not _NUMERIC.isdisjoint(str(k).lower() for k in (kind if isinstance(kind, list) else [kind])):
                    return True
    return False


def _prepares(found: Answer, conv: Conversation, offered: Offer) -> bool:
    """Return whether the calls may be the look-up before the step that was asked for: another tool fits it too."""
    known = conv.wish.terms
    fits = (_share(t.by_name, known) + _share(t.by_description, known) for t in offered.tools if t not in found.tools)
    return any(fit > 2 * _NEXT for fit in fits) or _has_identifier(found, conv)


def _choices_unused(found: Answer, wish: str) -> int:
    """Count the options that the request names and no call chose, for parameters that the calls set."""
    chosen: dict[str, tuple[list[object], set[str]]] = {}
    for leaf in found.leaves:
        listed = leaf.schema.get("enum")
        if isinstance(listed, list) and isinstance(leaf.value, str):
            chosen.setdefault(leaf.key, (listed[:32], set()))[1].add(fold(leaf.value[:80]))
    count = 0
    for options, taken in chosen.values():
        for word in [fold(option[:80]) for option in options if isinstance(option, str)]:
            if len(word) < _OPTION or word not in wish or word in found.used.folded:
                continue
            if not any(word in value or value in word for value in taken):
                count += re.search(rf"(?<!\w){re.escape(word)}(?!\w)", wish) is not None
    return count


# ---- the calls among each other -------------------------------------------------------------------------------------


def _several(found: Answer, conv: Conversation) -> list[Verdict]:
    """Judge several calls: one call would do, as they are split over a list, or they say the same again."""
    out = [_graded("several_calls", 0.0, "each of several calls must be right")]
    groups: dict[str, tuple[ToolText, list[JsonMapping]]] = {}
    for call, tool in zip(found.calls, found.tools, strict=True):
        args = call.get("args")
        if tool is not None and isinstance(args, Mapping):
            groups.setdefault(tool.name, (tool, []))[1].append(args)
    if any(_split(tool, calls) for tool, calls in groups.values()):
        out.append(_graded("calls_split", 0.0, "calls differ only in a parameter that takes a list"))
    if any(_alike(tool, calls, conv) for tool, calls in groups.values()):
        out.append(_fail("calls_alike", "two calls carry the same values"))
    return out


def _split(tool: ToolText, calls: Sequence[JsonMapping]) -> bool:
    lists = [key for key, s in tool.properties.items() if isinstance(s, Mapping) and s.get("type") == "array"]
    return any(
        all(isinstance(c.get(key), list) and len(c[key]) <= 1 for c in calls)
        and len({normal({k: v for k, v in c.items() if k != key}) for c in calls}) < len(calls)
        for key in lists
    )


def _alike(tool: ToolText, calls: Sequence[JsonMapping], conv: Conversation) -> bool:
    """Return whether two calls are the same but for written-out defaults or the order of numbers that were named once.

    "The sum of 4 and 5" needs no second call with 5 and 4. Texts in another order are another call: there and back.
    """
    seen: set[object] = set()
    for args in calls:
        given = {k: v for k, v in args.items() if k in tool.required or not is_default(v, tool.properties.get(k))}
        numbers = [v for v in given.values() if isinstance(v, int | float) and not isinstance(v, bool)]
        once = len(numbers) == len(given) and all(sum(v in s.values for s in conv.wish.spans) == 1 for v in numbers)
        seen.add(normal(sorted(numbers) if once else given))
    return len(seen) < len(calls)
