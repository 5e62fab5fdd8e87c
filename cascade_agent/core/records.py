"""The values of a cascade: frozen, without files, clocks or a running host; what is recorded goes to JSON and back.

`Draft` and `StepContext` are what a validator sees while a step runs and hold the host's own message types; the others
are the record, plain JSON with finite floats and clean strings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, cast, get_args

from cascade_agent.core.clean_json import INT64, JsonMapping, JsonObject, clean, clean_text
from cascade_agent.core.frozen import quick
from cascade_agent.errors import ConfigurationError, RecordError

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, ToolCall
    from langchain_core.tools import BaseTool

T = TypeVar("T")

SCHEMA = 1
"""Number of the record's schema. A reader refuses a higher one."""

Outcome = Literal["pass", "fail", "abstain"]
Origin = Literal["", "shipped", "user"]
SideEffect = Literal["read", "write", "irreversible"]
Fault = Literal["request", "setup", "unsafe_call"]
TierName = str
AttemptOutcome = Literal["accepted", "rejected", "error", "timeout", "cancelled", "skipped", "pending"]
StepOutcome = Literal["accepted", "escalated", "exhausted", "human_review", "interrupted", "cancelled", "error"]
Action = Literal["accept", "ask_small", "ask_evidence", "escalate", "exhausted"]

_OUTCOMES = frozenset(get_args(Outcome))
_TYPE, _TIER = attrgetter("type"), attrgetter("tier")


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One validator's finding about one draft.

    - `fail` without a score is a **hard** fail: the draft is unusable (a call no tool accepts, an empty answer). It
      escalates under every policy and the draft is never returned.
    - `fail` with a score is a **soft** fail: strong evidence that the draft is wrong. The shipped ones together were
      right 8 times in 10 on recorded drafts; some alone are weaker or too rare for a figure, as they say themselves. It
      escalates under every policy; the draft may still be returned, marked, when nothing better can be had.
    - `pass` or `abstain` with a score is a graded signal: it moves the confidence and decides only with a threshold.

    `score` lies in [0, 1], 1 is "nothing to object". `code` is a stable low-cardinality name, `reason` a sentence for
    people that never quotes a value, `path` a JSON pointer into the draft. A validator that broke is an `abstain` with
    the code `validator_error` or `validator_timeout`.

    The set that asked the validator stamps `origin` (one of this library's, or the user's) and `escalates_as`, the
    reason a step escalates for when it fails (without one: its code). Records of older versions have neither.

    Raises:
        ConfigurationError: unknown outcome, or a score that is not a finite number in [0, 1].
    """

    outcome: Outcome
    code: str = ""
    reason: str = ""
    score: float | None = None
    path: str = ""
    validator: str = ""
    origin: Origin = ""
    escalates_as: str = ""

    def __post_init__(self) -> None:
        """Refuse what no decision could be made from."""
        if self.outcome not in _OUTCOMES:
            msg = f"Verdict.outcome is {self.outcome!r}; expected one of {sorted(_OUTCOMES)}"
            raise ConfigurationError(msg)
        score = self.score
        if score is None:
            return
        if type(score) is not float:  # an int, or a number of another library: a record is plain JSON
            try:
                score = float(score)
            except (TypeError, ValueError):
                score = math.nan
            else:
                object.__setattr__(self, "score", score)
        if not 0.0 <= score <= 1.0:  # NaN fails this comparison too
            msg = f"Verdict.score is {self.score!r}; expected None or a number in [0, 1]"
            raise ConfigurationError(msg)

    @property
    def hard(self) -> bool:
        """Return whether this finding makes the draft unusable."""
        return self.outcome == "fail" and self.score is None

    @property
    def broken(self) -> bool:
        """Return whether the validator itself failed."""
        return self.outcome == "abstain" and self.code in ("validator_error", "validator_timeout")


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one or more model calls. `None` is unknown, never 0; cached tokens are part of `input_tokens`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    calls: int = 1

    @classmethod
    def of(cls, message: AIMessage) -> Self:
        """Read `usage_metadata` of a message as LangChain defines it."""
        meta: JsonMapping = message.usage_metadata or {}
        details: JsonMapping | None = meta.get("input_token_details")
        read = written = None
        if details:
            read = _count(details.get("cache_read"))
            # Anthropic splits writes by how long they are kept and sets the common key to 0 then.
            by_life = [_count(details.get(f"ephemeral_{life}_input_tokens")) for life in ("5m", "1h")]
            written = sum(count or 0 for count in by_life) or _count(details.get("cache_creation"))
        return cls(
            input_tokens=_count(meta.get("input_tokens")),
            output_tokens=_count(meta.get("output_tokens")),
            cache_read_tokens=read,
            cache_write_tokens=written,
        )

    def __add__(self, other: Usage) -> Usage:
        """Sum two usages; unknown plus anything is unknown."""
        return Usage(
            input_tokens=_plus(self.input_tokens, other.input_tokens),
            output_tokens=_plus(self.output_tokens, other.output_tokens),
            cache_read_tokens=_plus(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens=_plus(self.cache_write_tokens, other.cache_write_tokens),
            calls=self.calls + other.calls,
        )


def _count(tokens: object) -> int | None:
    """Return a number of tokens that a store can hold: providers say it, and nobody checked it before."""
    return tokens if type(tokens) is int and 0 <= tokens < INT64 else None


def _plus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


@dataclass(frozen=True, eq=False)
class ToolSpec:
    """One tool as the model sees it. Identity is the object: validators compile a spec once and keep the result.

    `parameters` is the JSON Schema of the arguments, `native` the Python tool when there is one (its own pydantic model
    then says what is valid), `side_effect` what calling it does to the world when the policy says so.
    """

    name: str
    description: str = ""
    parameters: JsonMapping = field(default_factory=dict)
    native: BaseTool | None = None
    strict: bool = False


@quick
@dataclass(frozen=True, eq=False, kw_only=True)
class Draft:
    """A tier's answer to a step, not yet committed: no tool has run, nothing was streamed, nothing is in state.

    `parsed` and `parsing_error` are set where structured output was asked for. `tier` is `"small"` or `"large"`.
    """

    message: AIMessage
    tier: TierName = "small"
    parsed: object = None
    parsing_error: str | None = None

    @cached_property
    def text(self) -> str:
        """The text of the answer, all text blocks joined."""
        content: object = self.message.content
        if isinstance(content, str):
            return content
        blocks = content if isinstance(content, list) else []  # LangChain's own `text` raises at what is no block
        texts = (b.get("text") if isinstance(b, Mapping) and b.get("type") == "text" else b for b in blocks)
        return "".join(text for text in texts if isinstance(text, str))

    @cached_property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that the provider's answer could be parsed into."""
        return self.message.tool_calls

    @cached_property
    def invalid_tool_calls(self) -> list[InvalidToolCall]:
        """Calls whose arguments are not JSON."""
        return self.message.invalid_tool_calls

    @cached_property
    def finish_reason(self) -> str | None:
        """Reason why the model stopped, in the provider's own word, lower case; None when it does not say."""
        meta = self.message.response_metadata
        for key in ("finish_reason", "stop_reason", "done_reason", "stopReason"):
            value = meta.get(key)
            if isinstance(value, str):
                return value.lower()
        return None

    def to_json(self) -> JsonObject:
        """Return the answer as the record keeps it: text, calls and finish reason, cleaned for any store."""
        out: JsonObject = {"text": self.text, "tool_calls": [_call_json(c) for c in self.tool_calls]}
        if self.invalid_tool_calls:
            out["invalid_tool_calls"] = [_call_json(c) for c in self.invalid_tool_calls]
        if self.finish_reason is not None:
            out["finish_reason"] = self.finish_reason
        if self.parsing_error is not None:
            out["parsing_error"] = self.parsing_error
        return cast("JsonObject", clean(out))


def _call_json(call: ToolCall | InvalidToolCall) -> JsonObject:
    return {key: call.get(key) for key in ("name", "args", "id")}


@quick
@dataclass(frozen=True, eq=False, kw_only=True)
class StepContext:
    """The request of a step: the conversation, the tools on offer, the state around it.

    `messages` is the whole request, oldest first. `tool_choice` is `None`, `"none"`, `"required"` or a tool's name.
    `output_schema` is set where structured output was asked for, `allowed_tools` where fewer tools may be called than
    are on offer, `single_call` where at most one call may be made, `stop` where text ends before one of these words.
    `side_effects` comes from the policy.
    """

    messages: Sequence[BaseMessage] = ()
    tools: Sequence[ToolSpec] = ()
    state: object = None
    tool_choice: str | None = None
    allowed_tools: Sequence[str] | None = None
    single_call: bool = False
    output_schema: object = None
    stop: Sequence[str] = ()
    step: str = "cascade"
    thread_id: str | None = None
    side_effects: Mapping[str, SideEffect] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the messages as a tuple: a validator that clears its list must not change what a model is sent."""
        object.__setattr__(self, "messages", tuple(self.messages))

    @cached_property
    def tools_by_name(self) -> Mapping[str, ToolSpec]:
        """The tools on offer by name."""
        return {tool.name: tool for tool in self.tools}

    @cached_property
    def turn_start(self) -> int:
        """Index of the last human message in `messages`; -1 when there is none."""
        messages = self.messages
        return next((i for i in range(len(messages) - 1, -1, -1) if messages[i].type == "human"), -1)

    @cached_property
    def in_loop(self) -> bool:
        """Return whether the assistant spoke before in this conversation: a later turn, or a later step of a turn."""
        kinds = map(_TYPE, self.messages)
        return "human" in kinds and "ai" in kinds  # one pass: an answer after a request

    @cached_property
    def cache(self) -> dict[str, Any]:
        """Values that several validators of one step compute from the context once (tokens of the conversation)."""
        return {}


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One tier's draft with its verdicts, usage, cost and latency.

    `confidence` is P(right) by the policy's scorer, None when nothing measured it. `cost` is in `StepTrace.currency`,
    None when price or usage is unknown, 0.0 only for a call that was not made (`skipped`). `latency` is in seconds.
    `answer` is what the tier said (`Draft.to_json`), `error` the class and message of what it raised.
    """

    tier: TierName
    model: str | None = None
    outcome: AttemptOutcome = "rejected"
    verdicts: tuple[Verdict, ...] = ()
    confidence: float | None = None
    threshold: float | None = None
    usage: Usage | None = None
    cost: float | None = None
    latency: float | None = None
    answer: JsonObject | None = None
    error: str | None = None
    inner: JsonObject | None = None
    """The trace of the cascade that this tier is itself, without contents; usage and cost above are its sums."""

    effect: SideEffect | None = None
    """The gravest side effect of the draft's calls, as far as the policy declares it."""

    retry_after: float | None = None
    """Seconds after which the provider that refused said to ask again."""

    fault: Fault | None = None
    """Where the fault lies, if not in the draft itself: with the `request` (too long, filtered: it says nothing of the
    route), with the `setup` (a wrong key or name: this tier never answers); `unsafe_call` is a draft that breaks the
    schema of a tool declared `write` or `irreversible`, which is never passed on."""

    gathered: tuple[str, ...] = ()
    """Names of the evidence asked for so far, in order; their cost and usage stand in the step's `evidence`."""

    @property
    def usable(self) -> bool:
        """Return whether the draft may be returned although not accepted: it can be reviewed and changes nothing."""
        return self.reviewable and (self.outcome == "accepted" or self.effect in (None, "read"))

    @property
    def may_pass(self) -> bool:
        """Return whether this is a draft of large that goes to the host as large alone would have given it."""
        drafted = self.outcome in ("accepted", "rejected")
        return self.tier == "large" and drafted and self.fault != "unsafe_call"

    @property
    def reviewable(self) -> bool:
        """Return whether a human may take the draft: it passed every hard check."""
        return self.outcome in ("accepted", "rejected") and not any(v.hard for v in self.verdicts)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class SideCall:
    """A model call that gave no draft to judge: evidence, a shadow call, a `hedge` that was dropped."""

    name: str
    usage: Usage | None = None
    cost: float | None = None
    latency: float | None = None


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInputs:
    """The inputs of a decision besides the attempts: the step's place in the run, and what steps like it were like.

    All of it is optional; None is unknown and moves nothing. Money is in the step's currency, times in seconds.
    """

    kind: str | None = None
    """Kind of the draft as `kind_of` gives it, as soon as there is one."""
    escalation: float | None = None
    """Lower 95 % bound of P(escalate) for steps of this name; None before enough of them were seen."""
    broken: float | None = None
    """Lower 95 % bound of P(small gives nothing usable: an error, a timeout, a hard fail) for steps of this name."""
    small_cost: float | None = None
    """Mean cost of the small tier's call and of the evidence asked about its draft."""
    large_cost: float | None = None
    """Mean cost of the large tier's call."""
    small_latency: float | None = None
    """Mean time of the small tier's call and of the evidence asked about its draft."""
    large_latency: float | None = None
    time_left: float | None = None
    """Rest of the latency budget, in seconds."""
    money_left: float | None = None
    """Rest of the narrower of the ceilings of run and thread."""
    small_price: float | None = None
    """Money that must be left to ask small: the expected cost of the call, the most under a strict `max_cost`."""
    large_price: float | None = None
    """The same of large."""
    stays_on_large: bool = False
    """True if a step of this turn escalated already."""
    probe: bool = False
    """True if small is to be asked although it does not pay: to see whether it does again."""
    retry: bool = True
    """True if the budget of retries allows another one."""
    disabled: bool = False
    """True if cascading is switched off: everything goes to the large tier."""
    cause: str | None = None
    """The last cause that made an answer of small unusable: the class of an error, or the code of a verdict."""


UNKNOWN = DecisionInputs()
"""The inputs of a decision of which nothing is known but the attempts."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One move of `decide()`: what to do next, which reason decided, and for `ask_evidence` which evidence to ask."""

    action: Action
    reason: str
    detail: str = ""
    attempt: int | None = None
    """For `accept` and `exhausted`: index of the attempt whose draft is (or may be) returned; None without one."""
    evidence: str | None = None
    wait: float | None = None
    """For `escalate`: seconds to wait before asking, as the provider said (`Retry-After`)."""
    hedge: float | None = None
    """For `ask_small`: seconds after which the large tier is asked too."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrace:
    """The whole record of a step: every attempt, every verdict, every decision, who answered and what it cost.

    `cost` and `usage` sum over all attempts and evidence; one unknown part makes the sum unknown. A call that raised
    reported no tokens: it adds none to `usage`, while its `cost` is unknown unless the provider refused it with an
    HTTP status; a call that was cut off (`timeout`, `cancelled`) leaves both unknown. `latency` is in seconds,
    `started_at` an ISO 8601 time in UTC. `reason` is the code that decided. `kind` is that of the first draft
    (`kind_of`), for figures by kind. `degraded` marks an answer that was returned although it
    failed a check.
    """

    id: str
    step: str
    outcome: StepOutcome
    reason: str
    attempts: tuple[Attempt, ...]
    decisions: tuple[Decision, ...] = ()
    evidence: tuple[SideCall, ...] = ()
    askable: tuple[str, ...] = ()
    """Names of the evidence that could be asked in this step, cheapest first; what was asked stands in `evidence`."""

    inputs_seen: tuple[DecisionInputs, ...] = ()
    """The inputs of each decision besides the attempts."""

    final: int | None = None
    kind: str = "text"
    degraded: bool = False
    confidence: float | None = None
    cost: float | None = None
    currency: str = "USD"
    usage: Usage | None = None
    latency: float | None = None
    started_at: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    policy: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse an end that points at no attempt."""
        if self.final is not None and not 0 <= self.final < len(self.attempts):
            msg = f"StepTrace.final is {self.final}; expected None or the index of one of {len(self.attempts)} attempts"
            raise ConfigurationError(msg)

    @property
    def escalated(self) -> bool:
        """Return whether the large tier was asked."""
        return not {"small"}.issuperset(map(_TIER, self.attempts))

    @property
    def final_tier(self) -> str | None:
        """The tier whose answer was returned."""
        return None if self.final is None else self.attempts[self.final].tier

    def to_json(self, *, content: bool = True) -> JsonObject:
        """Return plain JSON. `content=False` leaves out answers and error texts (what goes into message metadata)."""
        out = dump(self)
        out["escalated"] = self.escalated
        out["final_tier"] = self.final_tier
        if not content:
            for attempt in out["attempts"]:
                attempt.pop("answer", None)
                if attempt.get("error"):
                    attempt["error"] = attempt["error"].partition(":")[0]
        return out

    @classmethod
    def from_json(cls, data: JsonMapping) -> StepTrace:
        """Read what `to_json` wrote.

        Raises:
            RecordError: not a step trace, or written by a newer version.
        """
        return load(cls, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A finding about a step after it ended, and its source.

    `right` says whether the small draft was right, `harm` whether small was wrong and large right. `source` is
    `escalation`, `shadow`, `tool_error`, `person` or `evaluator`; `propensity` the probability with which a shadow
    call was made. `side_call` is what finding it out cost (a shadow call), `answer` what the large tier said then.
    Labels of one step from several sources stand side by side.
    """

    step_id: str
    source: str
    right: bool | None = None
    harm: bool | None = None
    propensity: float | None = None
    note: str = ""
    at: str | None = None
    side_call: SideCall | None = None
    answer: JsonObject | None = None
    schema: int = SCHEMA

    def to_json(self) -> JsonObject:
        """Return plain JSON."""
        return dump(self)

    @classmethod
    def from_json(cls, data: JsonMapping) -> Label:
        """Read what `to_json` wrote.

        Raises:
            RecordError: not a label, or written by a newer version.
        """
        return load(cls, data)


# ---- JSON both ways -------------------------------------------------------------------------------------------------

_PLAIN = frozenset({int, float, bool, dict})
_RECORDS = frozenset((Usage, SideCall))
_MEASURES = frozenset({"cost", "usage", "confidence", "latency", "final", "model", "input_tokens", "output_tokens"})
"""Measures of which null says that they are unknown; other empty fields are left out."""
_ALL = (Verdict, Usage, Attempt, SideCall, DecisionInputs, Decision, StepTrace, Label)
_BY_NAME: dict[str, type] = {cls.__name__: cls for cls in _ALL}
_FILLED = object()


def _empty(default: object) -> object:
    """Return the value of a field that is left out of JSON: an empty default; None where there is no default."""
    return None if default is MISSING else default if default in (None, "", ()) else _FILLED


_SLOTS = {cls: [(f.name, _empty(f.default), f.name in _MEASURES) for f in fields(cls)] for cls in _ALL}
_VALUES = {cls: attrgetter(*(f.name for f in fields(cls))) for cls in _ALL}


def dump(
    record: Verdict | Usage | Attempt | SideCall | DecisionInputs | Decision | StepTrace | Label,
) -> JsonObject:
    """Return a record as plain JSON. Unknown measures stand there as null; other empty fields are left out."""
    out: JsonObject = {}
    cls, is_verdict = type(record), type(record) is Verdict
    for (name, empty, is_measure), item in zip(_SLOTS[cls], _VALUES[cls](record), strict=True):
        if item is empty:
            if is_measure:
                out[name] = None
            continue
        kind = type(item)
        if kind is str:
            out[name] = item if item.isprintable() else clean_text(item)
        elif is_verdict and name != "score":  # a validator put no text there
            out[name] = clean_text(str(clean(item)))
        elif kind in _PLAIN:
            out[name] = item
        elif kind is tuple:
            parts: list[Any] = []
            out[name] = parts
            for part in item:
                of = type(part)
                if of is Decision or (of is Verdict and part.origin == "shipped"):
                    parts.append({**_dump_once(part)})
                else:
                    parts.append(clean_text(part) if isinstance(part, str) else dump(part))
        else:  # JSON that was cleaned when it was made; what else a validator put there is not
            out[name] = dump(item) if kind in _RECORDS else clean(item)
    return out


_dump_once = lru_cache(maxsize=2048)(dump)  # shipped validators say the same of most drafts, and most decisions repeat


def _is_number(value: object) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and -INT64 <= value < INT64)


def _is_answer(value: object) -> bool:
    """Return whether an answer has the form of `Draft.to_json`, as far as its calls go."""
    calls = [value.get(name) or [] for name in ("tool_calls", "invalid_tool_calls")] if isinstance(value, dict) else [0]
    return all(isinstance(some, list) and all(isinstance(call, dict) for call in some) for some in calls)


_FITS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "str": ("a text", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: type(value) is int and -INT64 <= value < INT64),
    "float": ("a finite number", _is_number),
    "tuple": ("a list", lambda value: isinstance(value, list | tuple)),
    "tuple[str, ...]": (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    ),
    "JsonObject": ("an object", lambda value: isinstance(value, dict)),
    "answer": ("an object whose calls are lists of objects", _is_answer),
}
"""Type of a field -> what is expected, and whether a value from JSON is that."""


_Fields: TypeAlias = "tuple[tuple[str, bool, str, Callable[[object], bool], type | None], ...]"


def _fields_of(cls: type) -> _Fields:
    """Return the fields of a record: name, whether it may be null, what is expected, its check, its own record type."""
    out = []
    for f in fields(cls):
        name = f.type.removesuffix(" | None").replace("dict[str, Any]", "JsonObject")
        inner = name.removeprefix("tuple[").removesuffix(", ...]")
        part = getattr(cls, "PARTS", {}).get(f.name) or _BY_NAME.get(inner)
        kind = "answer" if f.name == "answer" else name if name in _FITS else "tuple" if name[:6] == "tuple[" else "str"
        if part is not None and kind == "str":
            kind = "JsonObject"
        out.append((f.name, f.type.endswith(" | None"), *_FITS[kind], part))
    return tuple(out)


_FIELDS: dict[type, _Fields] = {}


def readable(name: str, data: object) -> JsonMapping:
    """Return what a record was written as.

    Raises:
        RecordError: no JSON object, or one with a schema number above ours.
    """
    if not isinstance(data, Mapping):
        msg = f"expected a JSON object for a {name}, found {type(data).__name__}"
        raise RecordError(msg)
    schema = data.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        msg = f"{name} has schema {schema!r}, this version reads up to {SCHEMA}: upgrade cascade_agent"
        raise RecordError(msg)
    return data


def load(cls: type[T], data: object) -> T:
    """Build a record of type `cls` from plain JSON; unknown keys are ignored, so older readers read newer minor fields.

    Raises:
        RecordError: a missing or impossible field, or a schema number above ours.
    """
    data, kwargs = readable(cls.__name__, data), JsonObject()
    for name, optional, expected, fits, part in _FIELDS.get(cls) or _FIELDS.setdefault(cls, _fields_of(cls)):
        if name not in data:
            continue
        value = data[name]
        if not fits(value) and not (optional and value is None):
            msg = f"{cls.__name__}.{name} is {_short(value)}; expected {expected}{' or null' if optional else ''}"
            raise RecordError(msg)
        if isinstance(value, list | tuple):
            value = tuple(value if part is None else [load(part, item) for item in value])
        elif part is not None and value is not None:
            value = load(part, value)
        kwargs[name] = value
    try:
        return cls(**kwargs)
    except (TypeError, ValueError) as error:
        msg = f"not a {cls.__name__}: {error}"
        raise RecordError(msg) from error


def _short(value: object) -> str:
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = f"an integer of {value.bit_length()} bits" if type(value) is int and abs(value) >= INT64 else repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"  # what fits into a line
