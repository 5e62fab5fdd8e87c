"""Terms, numbers and quotations of texts in any language written with words, and what is read of a step with them.

Every text is cut to a bound before it is read, so a step costs the same after one message and after a thousand, and no
word of a particular language decides anything here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from cascade_agent.validators._cache import IdentityCache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Draft, StepContext, ToolSpec

# Characters that are read of: the last human message (first and last half), the results of this turn, what was before,
# the system text, a message in which a value is searched letter by letter, a tool's texts, an argument value.
REQUEST_CHARS: Final = 4_000
RESULT_CHARS: Final = 6_000
HISTORY_CHARS: Final = 6_000
SYSTEM_CHARS: Final = 2_000
RAW_CHARS: Final = 64_000
TOOL_CHARS: Final = 3_000
VALUE_CHARS: Final = 600
MESSAGES: Final = 40
RAW_MESSAGES: Final = 200
MAX_TERMS: Final = 800
MAX_LEAVES: Final = 64
"""Argument values that are looked at in one answer."""

WORD: Final = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LETTER_DIGIT = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
# Scripts written without spaces, and Hangul whose words carry their particles: read as pairs of characters.
_DENSE_CHARS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_DENSE = re.compile(f"[{_DENSE_CHARS}]")
_RUN = re.compile(rf"((?:(?=[{_DENSE_CHARS}])[^\W_])+)|(?:(?![{_DENSE_CHARS}])[^\W_])+")
_NUMBER = re.compile(
    r"(?=[-\u2212+.\d])(?:"
    r"(?<![\w.])[-\u2212+]?(?:\d+(?:[.,_'\u202f\u00a0]\d+)*|\.\d+)(?:e[-+]?\d{1,3}\b)?|\d+(?:[.,]\d+)*)"
)
_GROUPED = re.compile(r"\d{1,3}(?:([,._'\u202f\u00a0])\d{3})(?:\1\d{3})*(?:[.,]\d+)?")
_DIGITS = re.compile(r"\d+")
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[。！？\n]+")
_QUOTES = re.compile("['\"“„«「『`]")
_FRACTION = re.compile(r"(\d+)\u2044(\d+)")
_QUOTED = re.compile(
    r"(?<!\w)'([^'\n]{2,80})'(?!\w)|\"([^\"\n]{2,80})\"|[“„«「『]([^”“»」』\n]{2,80})[”“»」』]|`([^`\n]{2,80})`"
)
_STEM = 5
_SINGULAR: Final = 3  # letters up to which a final s is no plural: "bus" and "boss" stay
_SHORT: Final = range(2, 4)  # letters of words that bind sentences, and differ between languages
_LONGEST_NUMBER: Final = 40  # characters of any number written out
_LONG_NUMBER: Final = 300  # digits from which on a number is cut: more do not fit a float
_LARGEST: Final = 1e300  # its multiples are finite
_EXACT: Final = 1e15  # a float below is exact as an integer
_MAX_BITS: Final = 1024  # of an integer that is written out


def fold(text: str) -> str:
    """Return the text in lower case, with one writing for each character (NFKC)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


def unstorable_text(text: str) -> str:
    """Return what no checkpoint can hold of a text, "" where it can be held."""
    if "\0" in text:
        return "a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "a lone surrogate"
    return ""


def compact(folded: str) -> str:
    """Return letters and digits only."""
    return "".join(WORD.findall(folded))


def clip(text: str, limit: int) -> str:
    """Return at most `limit` characters: the first and the last half."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n{text[-half:]}"


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """Return the first five characters without a plural ending (as in McNamee & Mayfield 2004, any alphabet)."""
    size = len(word)
    if size > _SINGULAR and word[-1] == "s" and word[-2] != "s":
        word = word[:-3] + "y" if size > _SINGULAR + 1 and word.endswith("ies") else word[:-1]
    return word[:_STEM]


def terms(folded: str) -> list[str]:
    """Return the stems of the words of a folded text in order; pairs of characters where a script has no spaces."""
    if folded.isascii() or not _DENSE.search(folded):
        return [stem(word) for word in WORD.findall(folded)[:MAX_TERMS]]
    out: list[str] = []
    for run in islice(_RUN.finditer(folded), MAX_TERMS):
        dense = run[1]
        out += [dense[i : i + 2] for i in range(max(1, len(dense) - 1))] if dense else [stem(run[0])]
    return out[:MAX_TERMS]


SAYS: Final = 0.7
"""Weight of a word that says something."""


@lru_cache(maxsize=16_384)
def weight(term: str) -> float:
    """Return how much a term says, by its length alone: in every alphabet the words that only bind others are short."""
    size = len(term)
    if not term.isascii() and _DENSE.match(term):
        return 0.6
    if term.isdigit():
        return 0.0
    return (0.0, 0.0, 0.1, 0.3, 0.7, 1.0)[min(size, _STEM)]


def identifier_words(name: str) -> str:
    """Return `getUser_infoV2` as folded words: `get user info v 2`."""
    return fold(_LETTER_DIGIT.sub(" ", _CAMEL.sub(" ", name[:200]))).replace("_", " ")


# ---- numbers --------------------------------------------------------------------------------------------------------


def number(text: str) -> float | None:
    """Return the number that a whole text is, in any usual writing, without currency sign and per cent."""
    text = text.strip().strip("$€£¥%").strip().replace("\u2212", "-")
    if len(text) > _LONGEST_NUMBER or not any(c.isdigit() for c in text):
        return None
    readings = _readings(text.lower())
    return readings[0] if readings else None


def _readings(token: str) -> list[float]:
    """Return what a run of digits and separators may mean: `1,000.5` -> 1000.5; `1,5` -> 1.5; `1.000` -> 1, 1000."""
    if token.isdecimal() and len(token) < _LONG_NUMBER:
        return [float(token)]
    token = token.replace("\u2212", "-")
    out: list[float] = []
    grouped = _GROUPED.fullmatch(token.lstrip("+-"))
    candidates = [token]
    if grouped:
        mark = grouped.group(1)
        candidates.insert(0 if mark != "." else 1, token.replace(mark, "").replace(",", "."))
    if "," in token:
        candidates.append(token.replace(",", "."))
    for candidate in candidates:
        try:
            value = float(candidate.replace("_", "") if "_" in candidate else candidate)
        except ValueError:
            continue
        if value not in out and abs(value) < _LARGEST:
            out.append(value)
    return out


_SPANS: Final = 200  # numbers of a text whose places are read; three times as many are known


class NumberSpan(NamedTuple):
    """One number of a text.

    `values` are what it may mean as a whole, `parts` its runs of digits when there are several ("2024-05-01", "3,4").
    `joined` says that it is part of a word (`ca123`, `a-19`).
    """

    values: tuple[float, ...]
    parts: tuple[float, ...]
    start: int
    end: int
    joined: bool = False


def number_spans(folded: str, *, limit: int = _SPANS) -> list[NumberSpan]:
    """Return the numbers of a folded text in order, those inside words too."""
    out: list[NumberSpan] = []
    plain = folded.isascii()
    for match in islice(_NUMBER.finditer(folded), limit) if not plain or _DIGITS.search(folded) else ():
        token, start = match.group(), match.start()
        values, runs = _readings(token), [] if token.isdecimal() else _DIGITS.findall(token)
        if token[0] in "-\u2212+":
            values += [-v for v in values]
        parts = tuple(float(run[:_LONG_NUMBER]) for run in runs) if len(runs) > 1 else ()
        before = folded[max(0, start - 2) : start]
        joined = before[-1:].isalpha() or (before[-1:] in ("-", "_") and before[:1].isalpha())
        out.append(NumberSpan(tuple(values), parts, start, match.end(), joined))
    if plain:
        return out
    signs: list[NumberSpan] = []  # not written in digits alone: fractions (what ½ becomes when it is folded), 五, 十
    for match in _FRACTION.finditer(folded):
        above, below = (float(part[:_LONG_NUMBER]) for part in match.groups())
        if below:
            signs.append(NumberSpan((above / below,), (), match.start(), match.end(), joined=True))
    for index, char in enumerate(folded[:REQUEST_CHARS]):
        if char.isnumeric() and not char.isdecimal():
            signs.append(NumberSpan((unicodedata.numeric(char),), (), index, index + 1, joined=True))
    return [*out, *signs[:limit]]


def quoted(text: str, *, limit: int = 40) -> list[str]:
    """Return the folded strings that a text puts between quotation marks; apostrophes inside words are none."""
    if not _QUOTES.search(text):
        return []
    found = (next(g for g in match.groups() if g is not None) for match in islice(_QUOTED.finditer(text), limit))
    return [fold(value).strip() for value in found]


# ---- what is read of the conversation -------------------------------------------------------------------------------


def content_text(message: BaseMessage, limit: int) -> str:
    """Return the text of a message, all text blocks joined, cut to `limit` characters."""
    content: object = message.content
    if isinstance(content, str):
        return clip(content, limit)
    parts: list[str] = []
    for block in content[:64] if isinstance(content, list) else ():
        text = block.get("text") if isinstance(block, Mapping) else block
        if isinstance(text, str) and limit > 0:
            parts.append(text[:limit])
            limit -= len(text)
    return "\n".join(parts)


class Sentence(NamedTuple):
    """Where a sentence begins and ends, and its terms in order."""

    start: int
    end: int
    terms: list[str]


@dataclass(frozen=True, eq=False)
class Reading:
    """A text, folded, and what is read of it, each when it is asked for first."""

    folded: str

    @cached_property
    def terms(self) -> frozenset[str]:
        return frozenset(terms(self.folded))

    @cached_property
    def sentences(self) -> list[Sentence]:
        """Its sentences, as far as marks show them: the last one ends with the text."""
        out, start, left = list[Sentence](), 0, MAX_TERMS
        for end in (*(mark.end() for mark in _SENTENCE.finditer(self.folded)), len(self.folded)):
            out.append(Sentence(start, end, terms(self.folded[start:end])[:left]))
            start, left = end, left - len(out[-1].terms)
        return out

    @cached_property
    def spans(self) -> list[NumberSpan]:
        return number_spans(self.folded)

    @cached_property
    def numbers(self) -> frozenset[float]:
        spans = self.spans if len(self.spans) < _SPANS else number_spans(self.folded, limit=3 * _SPANS)
        return frozenset(chain.from_iterable((*span.values, *span.parts) for span in spans))

    @cached_property
    def compact(self) -> str:
        return compact(self.folded)

    @cached_property
    def short(self) -> frozenset[str]:
        return frozenset(t for t in self.terms if len(t) in _SHORT and t.isalpha())

    @cached_property
    def latin(self) -> float:
        return _latin(self.terms)


@lru_cache(maxsize=512)
def reading(text: str) -> Reading:
    """Read a text once: the messages of a thread come again with every step."""
    return Reading(fold(text))


def _latin(words: Iterable[str]) -> float:
    heavy = [t for t in words if weight(t) > 0]
    return sum(map(str.isascii, heavy)) / len(heavy) if heavy else 0.5


class Leaf(NamedTuple):
    """One argument value that is not a container."""

    call: int
    path: str
    key: str
    value: Any
    schema: JsonMapping
    required: bool
    whole: bool  # the parameter is the value itself, not a container that holds it


# ---- tools ----------------------------------------------------------------------------------------------------------


# Verbs and fillers of identifiers: names of tools are English in every country, and these say nothing of the subject.
_COMMON_WORDS: Final = (
    "based calculate check compute create data detail determine fetch find function generate get given info "
    "information list lookup make name number perform provide query retrieve return search set show specific type value"
)
_COMMON: Final = frozenset(map(stem, _COMMON_WORDS.split()))
_COMMON_WEIGHT: Final = 0.3


@lru_cache(maxsize=16_384)
def subject_weight(term: str) -> float:
    return weight(term) * (_COMMON_WEIGHT if term in _COMMON else 1.0)


Weighed = tuple[tuple[tuple[str, float], ...], float]
"""Terms with their weights, and the sum of these."""


def _weighed(words: Iterable[str]) -> Weighed:
    pairs = tuple((term, subject_weight(term)) for term in words)
    return pairs, sum(size for _, size in pairs)


class ToolText(NamedTuple):
    """The texts of one tool."""

    name: str
    compact: str
    by_name: Weighed
    description: frozenset[str]  # stems of name and description
    by_description: Weighed
    described: frozenset[str]  # these, and the stems of parameter names and their descriptions
    described_well: bool  # the description says enough to be compared with a request
    latin: float
    properties: JsonMapping
    required: frozenset[str]


class Offer(NamedTuple):
    """The texts of the tools on offer, the first 64 of them."""

    tools: tuple[ToolText, ...]
    about: frozenset[str]
    short: frozenset[str]
    latin: float  # the least share of words in Latin letters of a tool
    names: frozenset[str]  # letters and digits of their names


_MAX_TOOLS: Final = 64
_DESCRIBED_WELL: Final = 2.0  # weight of the words of a description that can be compared: two long words
_tools: IdentityCache[ToolText] = IdentityCache()
_offers: IdentityCache[Offer] = IdentityCache(64)


def tool_text(tool: ToolSpec) -> ToolText:
    """Return what a tool's texts say, read once per schema object."""
    return _tools.get(tool.parameters, lambda: _read_tool(tool), tool.name, tool.description)


def offer(context: StepContext) -> Offer:
    """Return what the texts of the tools on offer say, put together once per set of tools."""
    tools = context.tools
    return _offers.get(tools, lambda: _read_offer(tools)) if isinstance(tools, tuple) else _read_offer(tools)


def _read_offer(specs: Sequence[ToolSpec]) -> Offer:
    tools = tuple(tool_text(spec) for spec in specs[:_MAX_TOOLS])
    about = frozenset().union(*[tool.described for tool in tools])
    short = frozenset(term for term in about if len(term) in _SHORT)
    latin = min((tool.latin for tool in tools), default=1.0)
    return Offer(tools, about, short, latin, frozenset(tool.compact for tool in tools))


def _read_tool(tool: ToolSpec) -> ToolText:
    parameters = _mapping(tool.parameters)
    properties, required = _mapping(parameters.get("properties")), parameters.get("required")
    names = terms(identifier_words(tool.name))
    described = frozenset(terms(fold(clip(tool.description or "", TOOL_CHARS))))
    rest, left = list[str](), TOOL_CHARS
    for key, schema in islice(properties.items(), 64):
        text = f"{identifier_words(str(key))} {schema_text(schema)}"[:left]
        rest.extend(terms(fold(text)))
        left -= len(text)
    description = described.union(names)
    everything = description.union(rest)
    return ToolText(
        name=tool.name,
        compact=compact(fold(tool.name)),
        by_name=_weighed(names),
        description=description,
        by_description=_weighed(description),
        described=everything,
        described_well=sum(map(weight, described)) >= _DESCRIBED_WELL,
        latin=_latin(everything),
        properties=properties,
        required=frozenset(r for r in required if isinstance(r, str)) if isinstance(required, list) else frozenset(),
    )


def schema_text(schema: object, *, depth: int = 3) -> str:
    """Return the descriptions and enum options of a property, nested ones too."""
    if not isinstance(schema, Mapping) or depth <= 0:
        return ""
    parts = [str(schema.get("description", ""))[:600]]
    options = schema.get("enum")
    if isinstance(options, list):
        parts.extend(str(o)[:60] for o in options[:32])
    parts.append(schema_text(schema.get("items"), depth=depth - 1))
    for key, sub in islice(_mapping(schema.get("properties")).items(), 16):
        parts += (identifier_words(str(key)), schema_text(sub, depth=depth - 1))
    return " ".join(p for p in parts if p)


# ---- answers --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Answer:
    """The calls of a draft with their leaves, and all of their values as text."""

    draft: Draft
    calls: Sequence[JsonMapping]
    tools: Sequence[ToolText | None]
    leaves: Sequence[Leaf]
    used: Reading  # all argument values
    groundings: Sequence[float | None] | None = None  # of the leaves, once they were asked for

    @property
    def about(self) -> frozenset[str]:
        """Stems of the texts of the called tools."""
        return frozenset().union(*[t.described for t in self.tools if t is not None])


def answer(draft: Draft, context: StepContext) -> Answer:
    """Return the draft's calls, read once; the result is kept in `context.cache` for the same draft."""
    found = cast("Answer | None", context.cache.get("validators.answer"))
    if found is None or found.draft is not draft:
        by_name = context.tools_by_name
        calls = cast("Sequence[JsonMapping]", draft.tool_calls[:MAX_LEAVES])
        tools = [tool_text(by_name[c["name"]]) if c["name"] in by_name else None for c in calls]
        leaves = list(islice(_leaves(calls, tools), MAX_LEAVES))
        used = Reading(fold("\n".join([value_text(leaf.value) for leaf in leaves])))
        found = Answer(draft=draft, calls=calls, tools=tools, leaves=leaves, used=used)
        context.cache["validators.answer"] = found
    return found


def _leaves(calls: Sequence[JsonMapping], tools: Sequence[ToolText | None]) -> Iterator[Leaf]:
    for index, (call, tool) in enumerate(zip(calls, tools, strict=True)):
        for key, value in islice(_mapping(call.get("args")).items(), MAX_LEAVES):
            schema, required = (
                ({}, False) if tool is None else (_mapping(tool.properties.get(key)), key in tool.required)
            )
            path = f"/tool_calls/{index}/args/{pointer_part(key)}"
            for place, leaf, own in walk(value, schema, path, 5):
                yield Leaf(index, place, str(key), leaf, own, required, place == path)


def value_text(value: object) -> str:
    """Return a value as it would be written."""
    if isinstance(value, str):
        return value[:VALUE_CHARS]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _MAX_BITS:
        return ""
    return str(value)


def _mapping(value: object) -> JsonMapping:
    return value if isinstance(value, Mapping) else {}


def pointer_part(key: object) -> str:
    return str(key)[:80].replace("~", "~0").replace("/", "~1")


def walk(value: object, schema: JsonMapping, path: str, depth: int) -> Iterator[tuple[str, object, JsonMapping]]:
    """Yield the path, the value and the schema of what is no container, or an empty one, or one nested too deep."""
    if isinstance(value, Mapping) and value and depth > 0:
        nested = _mapping(schema.get("properties"))
        for key, item in islice(value.items(), MAX_LEAVES):
            yield from walk(item, _mapping(nested.get(key)), f"{path}/{pointer_part(key)}", depth - 1)
    elif isinstance(value, list) and value and depth > 0:
        items = _mapping(schema.get("items"))
        for position, item in enumerate(value[:MAX_LEAVES]):
            yield from walk(item, items, f"{path}/{position}", depth - 1)
    else:
        yield path, value, schema
