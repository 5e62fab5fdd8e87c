"""`Policy`: the frozen settings of a cascade, plain values with JSON both ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property, wraps
from types import MappingProxyType
from typing import Any, Literal, get_args

from cascade_agent.core.kinds import KEYS
from cascade_agent.core.records import SideEffect
from cascade_agent.core.scoring import EvidenceShare, Scorer, is_number
from cascade_agent.errors import ConfigurationError, RecordError

OnExhausted = Literal["pass", "return", "raise", "interrupt"]
Handover = Literal["fresh", "feedback"]
OnBroken = Literal["escalate", "accept"]
StayOnLarge = Literal["step", "turn"]
Ceiling = Literal["run", "thread"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Policy:
    """Settings of the decision; plain values, JSON both ways. A mapping of them is taken wherever a policy is.

    Without a threshold a step escalates on hard fails, on soft fails (shipped rules together right 8 times in
    10) and on a validator that broke. Where evidence can be asked it also escalates when the confidence lies below the
    band, or is lower than .8 after asking.

    Raises:
        ConfigurationError: an unknown setting, or one that cannot work, with what was expected.
    """

    threshold: float | Mapping[str, float] | None = None
    """Accept the small draft only if its confidence reaches this, in [0, 1]. None: rules alone decide. A step whose
    confidence nothing measured (plain text without tools, structured output, unless your own validator scores it) is
    not known to reach any threshold and escalates. A mapping gives one for some kinds of draft (`text`, `one_call`,
    `calls`, `structured`; `call` is either of the two; before it `loop.` for steps of a loop, after it `.one_tool`
    where one tool is on offer; `loop` alone is all of those) or for the gravest side effect of what they call (`read`,
    `write`, `irreversible`). Of the kind's the most specific counts, the effect's where it is higher, `default` where
    none applies."""

    scorer: Scorer | None = None
    """Verdicts -> confidence, fitted on your own journal. None: the shipped rules, as their validators weigh them."""

    evidence: tuple[float, float] | EvidenceShare = (0.3, 0.89)
    """Where evidence (validators that call a model) is asked. A band: while the confidence lies inside, both ends
    included; on recorded steps of six small models half of them lay inside the default one, and (0.2, 0.95) asks three
    of four and ranks better. An `EvidenceShare` (see `learn_disagreement`): that share of the steps, those in which the
    second model most likely disagrees, however sure the scorer is."""

    on_exhausted: OnExhausted = "pass"
    """When even the large draft fails a check: `pass` it on as large alone would have given it, marked `degraded` in
    the record, and large's own exception as it is; `return` the best draft that passed its hard checks, small's too (a
    doubtful one that calls a tool declared `write` or `irreversible` is none); `raise` `CascadeExhausted`; `interrupt`
    the graph for a person, also where shipped rules doubt a call of large's to a tool declared `write` or
    `irreversible`. A large draft is never passed on with a call that breaks the schema of a tool declared
    `write` or `irreversible`."""

    on_broken: OnBroken = "escalate"
    """When a validator raises or times out: `escalate` (fail closed) or `accept` what the others say (fail open)."""

    handover: Handover = "fresh"
    """Handed to large: `fresh` nothing of the failed draft (quoting it is known to hurt), `feedback` a quote."""

    latency_budget: float | None = 180.0
    """Seconds for the whole step, both tiers and all evidence. The small tier may use a third of it. None: no limit."""

    hedge_after: float | None = None
    """Seconds that the small tier may take before the large one is asked too; 0 asks both at once. The first answer
    that is accepted is the step's, the other call is dropped and its cost unknown. None: one after the other."""

    value_of_time: float | None = None
    """Worth of a second of waiting, in the currency of the tiers' prices. It joins the costs in the rules that
    skip the small tier and that hedge. None: costs alone count."""

    max_cost: float | Mapping[str, Any] | None = None
    """Ceilings of what cascades may spend, in the currency of the tiers' prices: per `run` (one invocation of the graph
    with its subgraphs; a number is this) and per `thread` (in this process, opened with the costs on the thread's
    messages). Where less is left than a call is expected to cost, it is not made and the step ends for the reason
    `budget`. A call that costs more than expected overruns, but not with `"strict": True`: then the most that it can
    cost is set aside first, a token for every byte of the request and `max_tokens` of answer."""

    skip_small: bool = True
    """Leave the small tier out where it does not pay: its calls and evidence cost more than the large calls they save,
    or four of five of its answers are unusable. Needs 19 steps of the same name; every 30 s one step asks small again.
    """

    stay_on_large: StayOnLarge = "step"
    """For how long a step that escalated keeps the next ones on the large tier: only itself (`step`), or until the user
    speaks again (`turn`): large's prompt cache is warm, and a hard turn mostly stays hard."""

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
        for name, (allows, expected) in _SETTINGS.items():
            if not allows(getattr(self, name)):
                msg = f"Policy.{name} is {getattr(self, name)!r}; expected {expected}"
                raise ConfigurationError(msg)
        if self.hedge_after is not None and self.handover == "feedback":
            msg = "Policy.handover is 'feedback'; expected 'fresh' with hedge_after: large is asked before small failed"
            raise ConfigurationError(msg)

    def __repr__(self) -> str:
        """Return the settings that differ from the default."""
        values = {f.name: (getattr(self, f.name), {} if f.default is MISSING else f.default) for f in fields(self)}
        return f"Policy({', '.join(f'{name}={v!r}' for name, (v, default) in values.items() if v != default)})"

    @classmethod
    def of(cls, value: Policy | Mapping[str, Any] | None, *, base: Policy | None = None) -> Policy:
        """Return a policy as it is, or build one from a mapping of settings; `base` gives those that are not named.

        Raises:
            ConfigurationError: neither of the two, or a setting that cannot work.
        """
        if isinstance(value, Policy):
            return value
        if value is None:
            return base or cls()
        if not isinstance(value, Mapping):
            msg = f"policy is {type(value).__name__}; expected a Policy or a mapping of its settings"
            raise ConfigurationError(msg)
        refuse_unknown("Policy", value, cls.__dataclass_fields__)
        return replace(base or cls(), **_read(value))

    @classmethod
    def for_steps(cls, **settings: Any) -> Policy:
        """Return the policy for nodes of a single step: a threshold of .7, no label and no second model needed.

        Measured on 850 recorded tool-calling steps x 9 small -> large pairs: 1.9 points lost against large at .39 of
        its cost, where the rules alone lose 6.5 at .23 (a threshold of .8: 0.9 at .51). The rules were developed on
        these steps; on 610 others x 16 pairs .7 lost .9 points at .34, the rules alone 4.9 at .19.
        """
        measured: dict[str, Any] = {
            "preset": "for_steps",
            "data": "850 recorded tool-calling steps (BFCL v1), 9 pairs of models, in-sample for the rules",
            "loss": 0.019,
            "cost": 0.392,
        }
        return cls(**{"stay_on_large": "step", "threshold": 0.7, "provenance": measured, **settings})

    @classmethod
    def for_agents(cls, *, cautious: bool = False, **settings: Any) -> Policy:
        """Return the policy for agents in loops: the rules decide, and large stays for the rest of a user turn.

        Measured on 300 stateful multi-turn tasks (BFCL v4, gpt-oss-20b -> gpt-oss-120b, no label): success .547 where
        large alone has .530, at .547 / .338 / .285 of its cost for price ratios of 3 / 10 / 25. `cautious` adds
        `threshold=.85`: the same success there, at .555 / .353 / .301. What is given here counts over the preset.
        """
        cost = (0.555, 0.353, 0.301) if cautious else (0.547, 0.338, 0.285)
        measured: dict[str, Any] = {
            "preset": "for_agents",
            "cautious": cautious,
            "data": "300 BFCL v4 multi-turn tasks, gpt-oss-20b -> gpt-oss-120b",
            "success": 0.547,
            "large": 0.530,
            "cost": dict(zip(("3", "10", "25"), cost, strict=True)),
        }
        preset = {"stay_on_large": "turn", "threshold": 0.85 if cautious else None, "provenance": measured}
        return cls(**{**preset, **settings})

    @property
    def base_threshold(self) -> float | None:
        """The threshold of a draft that has none of its own."""
        threshold = self.threshold
        return threshold.get("default") if isinstance(threshold, Mapping) else threshold

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The thresholds by kind of draft or side effect, without the `default`."""
        if not isinstance(self.threshold, Mapping):
            return _NO_THRESHOLDS
        return {key: value for key, value in self.threshold.items() if key != "default"}

    def with_threshold(self, value: float | None) -> Policy:
        """Return the same policy with another base threshold; those by kind or effect stay."""
        own = self.thresholds
        if not own:
            return replace(self, threshold=value)
        return replace(self, threshold=dict(own) if value is None else {**own, "default": value})

    @property
    def ceilings(self) -> Mapping[Ceiling, float]:
        """The amounts of `max_cost` by what they limit."""
        most = self.max_cost
        if isinstance(most, Mapping):
            return {key: most[key] for key in get_args(Ceiling) if key in most}
        return {} if most is None else {"run": most}

    @property
    def strict_cost(self) -> bool:
        """Return whether `max_cost` may not be overrun."""
        return isinstance(self.max_cost, Mapping) and self.max_cost.get("strict") is True

    @cached_property
    def version(self) -> str:
        """A short hash of all settings: the same settings have the same version on every machine."""
        text = json.dumps(self.to_json(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON."""
        out: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in out.items():
            if isinstance(value, Scorer | EvidenceShare):
                out[name] = value.to_json()
            elif isinstance(value, tuple | Mapping):
                out[name] = list(value) if isinstance(value, tuple) else dict(value)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """Read what `to_json` wrote.

        Raises:
            RecordError: a key that is no setting, or a value that no policy takes.
        """
        try:
            return cls.of(data)
        except (ConfigurationError, TypeError, ValueError) as error:
            msg = f"not a policy: {error}"
            raise RecordError(msg) from error


_take_fields = Policy.__init__


@wraps(_take_fields)
def _take_known_fields(self: Policy, **settings: Any) -> None:
    refuse_unknown("Policy", settings, Policy.__dataclass_fields__)
    _take_fields(self, **settings)


Policy.__init__ = _take_known_fields  # type: ignore[method-assign]  # a misspelled setting names the nearest

_NO_THRESHOLDS: Mapping[str, float] = MappingProxyType({})


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that came as JSON in the types of a policy."""
    values = dict(data)
    if isinstance(values.get("scorer"), Mapping):
        values["scorer"] = Scorer.from_json(values["scorer"])
    evidence = values.get("evidence")
    if isinstance(evidence, list | Mapping):
        values["evidence"] = tuple(evidence) if isinstance(evidence, list) else EvidenceShare.from_json(evidence)
    return values


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str], *, mend: str = "") -> None:
    """Refuse a setting that is none.

    Raises:
        ConfigurationError: names it and the nearest that there is.
    """
    unknown = sorted(set(map(str, given)) - set(known))
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else mend or f"expected one of {', '.join(sorted(known))}"
        msg = f"{owner} has no setting {unknown[0]!r}: {hint}"
        raise ConfigurationError(msg)


# ---- what each setting takes ----------------------------------------------------------------------------------------


def _is_share(value: object) -> bool:
    return is_number(value, high=1.0)


def _is_amount(value: object) -> bool:
    return value is None or is_number(value)


def _is_time(value: object) -> bool:
    return is_number(value) and value != 0


def _is_band(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_share, value)) and value[0] <= value[1]


def _maps(value: object, test: Callable[[Any], bool], keys: Container[str] | None = None) -> bool:
    """Return whether something is a mapping of these keys (None: any) to such values."""
    return isinstance(value, Mapping) and all((keys is None or k in keys) and test(v) for k, v in value.items())


def _is_max_cost(value: object) -> bool:
    if not isinstance(value, Mapping):
        return _is_amount(value)
    amounts = {key: item for key, item in value.items() if key != "strict"}
    return isinstance(value.get("strict", False), bool) and _maps(amounts, is_number, get_args(Ceiling))


_EFFECTS = get_args(SideEffect)
_THRESHOLDS = (*KEYS, *_EFFECTS, "default")
_WORDS = {"on_exhausted": OnExhausted, "on_broken": OnBroken, "handover": Handover, "stay_on_large": StayOnLarge}
_SETTINGS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "threshold": (
        lambda value: value is None or _is_share(value) or _maps(value, _is_share, _THRESHOLDS),
        f"None, a number in [0, 1], or such numbers by {', '.join(_THRESHOLDS)}",
    ),
    "scorer": (lambda value: value is None or isinstance(value, Scorer), "None or a Scorer"),
    "evidence": (
        lambda value: isinstance(value, EvidenceShare) or _is_band(value),
        "two numbers 0 <= low <= high <= 1, or an EvidenceShare",
    ),
    **{name: (get_args(words).__contains__, f"one of {', '.join(get_args(words))}") for name, words in _WORDS.items()},
    "latency_budget": (lambda value: value is None or _is_time(value), "None or a positive number of seconds"),
    "validator_timeout": (_is_time, "a positive number of seconds"),
    "hedge_after": (_is_amount, "None or a number of seconds >= 0"),
    "value_of_time": (_is_amount, "None or a price per second >= 0"),
    "max_cost": (_is_max_cost, "None, a number >= 0, or numbers >= 0 by run, thread and strict as True or False"),
    "shadow_rate": (_is_share, "a share in [0, 1]"),
    "skip_small": (lambda value: isinstance(value, bool), "True or False"),
    "provenance": (lambda value: isinstance(value, Mapping), "a mapping"),
    "side_effects": (
        lambda value: _maps(value, _EFFECTS.__contains__),
        "a mapping of tool names to read, write or irreversible",
    ),
}
"""Setting -> whether it takes a value, and what it expects."""
