"""`Policy`: the frozen settings of a cascade, plain values with JSON both ways."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NoReturn, cast, get_args

from cascade_agent.core.records import SideEffect
from cascade_agent.core.scoring import Scorer
from cascade_agent.errors import ConfigurationError, RecordError

OnExhausted = Literal["return", "raise", "interrupt"]
Handover = Literal["fresh", "feedback"]
OnBroken = Literal["escalate", "accept"]
Ceiling = Literal["run", "thread"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Settings of the decision; plain values, JSON both ways.

    Without a threshold a step escalates on hard fails, on soft fails (shipped rules together right 8 times in
    10) and on a validator that broke. Where evidence can be asked it also escalates when the confidence lies below the
    band, or is lower than .9 after asking.

    Raises:
        ConfigurationError: a setting that cannot work, with what was expected.
    """

    threshold: float | None = None
    """Accept the small draft only if its confidence reaches this, in [0, 1]. None: rules alone decide. A step whose
    confidence nothing measured (plain text without tools, structured output, unless your own validator scores it) is
    not known to reach any threshold and escalates."""

    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Other thresholds for some drafts, by kind (`call`, `text`, `structured`) or by the gravest side effect of what
    they call (`read`, `write`, `irreversible`). The highest of those that apply takes the place of `threshold`."""

    scorer: Scorer | None = None
    """Verdicts -> confidence, fitted on your own journal. None: the shipped rules, as their validators weigh them."""

    evidence_band: tuple[float, float] = (0.3, 0.89)
    """Ask evidence (validators that call a model) only while the confidence lies inside this closed band. On recorded
    steps of six small models half of them lay inside the default one; (0.2, 0.95) asks three of four and ranks better.
    """

    on_exhausted: OnExhausted = "return"
    """When even the large draft fails: `return` the best draft that passed its hard checks, marked `degraded`, and
    raise if there is none (a doubtful draft that calls a tool declared `write` or `irreversible` is none); `raise`
    `CascadeExhausted`; `interrupt` the graph for a human, who may take any draft that passed its hard checks."""

    on_broken: OnBroken = "escalate"
    """When a validator raises or times out: `escalate` (fail closed) or `accept` what the others say (fail open)."""

    handover: Handover = "fresh"
    """What large is told: `fresh` nothing of the failed draft (pasting it was measured to hurt), `feedback` a quote."""

    latency_budget: float | None = 180.0
    """Seconds for the whole step, both tiers and all evidence. The small tier may use a third of it. None: no limit."""

    hedge_after: float | None = None
    """Seconds that the small tier may take before the large one is asked beside it; 0 asks both at once. The first
    answer that is accepted is the step's, the other call is dropped and its cost unknown. None: one after the other."""

    parallel_evidence: bool = False
    """Ask a second model for its own answer (`CrossCheck`) at the same time as the small tier: the wait is shorter, and
    the call is paid where its answer is not needed too."""

    value_of_time: float | None = None
    """What a second of waiting is worth, in the currency of the tiers' prices. It joins the costs in the rules that
    skip the small tier and that hedge. None: costs alone count."""

    max_cost: float | Mapping[Ceiling, float] | None = None
    """Ceilings of what cascades may spend, in the currency of the tiers' prices: per `run` (one invocation of the graph
    with its subgraphs; a number is this) and per `thread` (in this process, begun with the costs that the thread's
    messages tell). Where less is left than a call is expected to cost, it is not made: the step ends as
    `on_exhausted` says, for the reason `budget`. A call that costs more than expected overruns; see `strict_cost`."""

    strict_cost: bool = False
    """Never overrun `max_cost`: before a call the most that it can cost is set aside, a token for every byte of the
    request and `max_tokens` of answer. Needs a price and a `max_tokens` of both models."""

    skip_small: bool = True
    """Leave the small tier out where it does not pay: its calls and evidence cost more than the large calls they save,
    or four of five of its answers are unusable. Needs 19 steps of the same name to be said; every 30 s one step asks
    small again. False: small is always asked."""

    stay_on_large: bool = False
    """Once a step escalated, the next ones go to the large tier until the user speaks again: its prompt cache is warm,
    and a hard turn mostly stays hard."""

    price_aware: bool = False
    """Move the threshold with the price of escalating now: a large call that finds its prompt in the provider's cache
    is cheap, so more is escalated, a cold one is dear. A certified threshold is only moved up, so its bound stays."""

    shadow_rate: float = 0.0
    """Share of accepted steps, drawn at random, for which the large tier is asked too, in the background after the
    answer was returned, to learn whether the draft was right. The journal keeps the finding as a label."""

    validator_timeout: float = 5.0
    """Seconds after which an asynchronous validator is cancelled and counts as broken."""

    side_effects: Mapping[str, SideEffect] = field(default_factory=dict)
    """Tool name -> what calling it does: `read`, `write` or `irreversible`."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the threshold comes from: data hash, date, n, target, confidence, prices, version."""

    def __post_init__(self) -> None:
        """Refuse at construction what would fail at the first step."""
        for name, allows, expected in _SETTINGS:
            if not allows(getattr(self, name)):
                _refuse(name, getattr(self, name), expected)
        if self.hedge_after is not None and self.handover == "feedback":
            _refuse("handover", self.handover, "'fresh' with hedge_after: large is asked before small has failed")

    @property
    def ceilings(self) -> Mapping[Ceiling, float]:
        """`max_cost` by what it limits."""
        if self.max_cost is None or isinstance(self.max_cost, Mapping):
            return self.max_cost or {}
        return {"run": self.max_cost}

    @property
    def version(self) -> str:
        """A short hash of all settings: the same settings have the same version on every machine."""
        cached = self.__dict__.get("_version")
        if cached is None:
            text = json.dumps(self.to_json(), sort_keys=True, default=str)
            cached = hashlib.sha256(text.encode()).hexdigest()[:12]
            self.__dict__["_version"] = cached
        return cast("str", cached)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Scorer):
                value = value.to_json()
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            out[f.name] = value
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """Read what `to_json` wrote.

        Raises:
            RecordError: a key that is no setting, or a value that no policy takes.
        """
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            msg = f"policy has unknown settings {sorted(unknown)}: written by another version, or misspelled"
            raise RecordError(msg)
        values = dict(data)
        try:
            if isinstance(values.get("scorer"), Mapping):
                values["scorer"] = Scorer.from_json(values["scorer"])
            if "evidence_band" in values:
                low, high = values["evidence_band"]
                values["evidence_band"] = (low, high)
            return cls(**values)
        except (ConfigurationError, TypeError, ValueError) as error:
            msg = f"not a policy: {error}"
            raise RecordError(msg) from error


def _in_unit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_time(value: object) -> bool:
    return _is_amount(value) and value != 0


def _is_band(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:  # noqa: PLR2004 - a pair
        return False
    return all(map(_in_unit, value)) and value[0] <= value[1]


def _maps(keys: Iterable[str] | None, test: Callable[[Any], bool]) -> Callable[[object], bool]:
    """Whether something is a mapping of these keys (None: any) to such values."""

    def allows(value: object) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all((keys is None or key in keys) and test(item) for key, item in value.items())

    return allows


def _or_none(test: Callable[[Any], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or test(value)


def _one_of(literal: Any) -> tuple[Callable[[object], bool], str]:
    allowed = get_args(literal)
    return lambda value: value in allowed, f"one of {', '.join(allowed)}"


_THRESHOLDS = ("call", "text", "structured", *get_args(SideEffect))
_ceilings = _maps(get_args(Ceiling), _is_amount)
_SETTINGS: Sequence[tuple[str, Callable[[Any], bool], str]] = (
    ("threshold", _or_none(_in_unit), "None or a number in [0, 1]"),
    ("thresholds", _maps(_THRESHOLDS, _in_unit), f"numbers in [0, 1] by {', '.join(_THRESHOLDS)}"),
    ("scorer", lambda value: value is None or isinstance(value, Scorer), "None or a Scorer"),
    ("evidence_band", _is_band, "two numbers 0 <= low <= high <= 1"),
    ("on_exhausted", *_one_of(OnExhausted)),
    ("on_broken", *_one_of(OnBroken)),
    ("handover", *_one_of(Handover)),
    ("latency_budget", _or_none(_is_time), "None or a positive number of seconds"),
    ("validator_timeout", _is_time, "a positive number of seconds"),
    ("hedge_after", _or_none(_is_amount), "None or a number of seconds >= 0"),
    ("value_of_time", _or_none(_is_amount), "None or a price per second >= 0"),
    (
        "max_cost",
        lambda value: value is None or _is_amount(value) or _ceilings(value),
        "None, a number >= 0, or numbers >= 0 by run, thread",
    ),
    ("shadow_rate", _in_unit, "a share in [0, 1]"),
    *(
        (name, lambda value: isinstance(value, bool), "True or False")
        for name in ("parallel_evidence", "strict_cost", "skip_small", "stay_on_large", "price_aware")
    ),
    ("provenance", lambda value: isinstance(value, Mapping), "a mapping"),
    (
        "side_effects",
        _maps(None, lambda value: value in get_args(SideEffect)),
        "a mapping of tool names to read, write or irreversible",
    ),
)
"""Setting, whether it takes a value, and what it expects."""


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    msg = f"Policy.{name} is {value!r}; expected {expected}"
    raise ConfigurationError(msg)
