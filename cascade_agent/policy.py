"""What a cascade does with what it knows: the frozen `Policy` and the pure function `decide()`.

Law: no I/O, no clock, no randomness. History goes in, a move comes out, so sync, async and replay share one rule.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast, get_args

from cascade_agent.confidence import Scorer
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.records import Decision, SideEffect, Situation

if TYPE_CHECKING:
    from cascade_agent.records import Attempt, Verdict

OnExhausted = Literal["return", "raise", "interrupt"]
Handover = Literal["fresh", "feedback"]
OnBroken = Literal["escalate", "accept"]
Ceiling = Literal["run", "thread"]

REASONS: Mapping[str, str] = {
    "AfterToolError": "after_tool_error",
    "CompleteResponse": "incomplete",
    "CrossCheck": "disagreement",
    "Grounding": "ungrounded",
    "Judge": "judge_reject",
    "NoRepeat": "repeated_call",
    "PlanConsistency": "plan_inconsistent",
    "StructuredOutput": "schema_invalid",
    "ToolCallSchema": "schema_invalid",
    "ToolRelevance": "ungrounded",
}
"""Shipped validator -> the low-cardinality reason a step escalates for. Your own validators give their code."""


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

    scorer: Scorer = field(default_factory=Scorer.rules)
    """Verdicts -> confidence. The shipped rules, or one fitted on your own journal."""

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

    latch: bool = False
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
    ("scorer", lambda value: isinstance(value, Scorer), "a Scorer"),
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
        for name in ("parallel_evidence", "strict_cost", "skip_small", "latch", "price_aware")
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


_UNKNOWN = Situation()


def decide(
    policy: Policy, attempts: Sequence[Attempt], *, evidence: Sequence[str] = (), situation: Situation = _UNKNOWN
) -> Decision:
    """The next move of a step.

    `attempts` is the history, oldest first, never empty. It begins with the small tier's attempt, `pending` while its
    draft was not asked for yet: then its verdicts are those that the context alone gives. `evidence` names what can be
    asked about the small draft, cheapest first. `situation` is what is known beside the attempts; what is not known
    moves nothing.

    - `gather`: ask `evidence` and decide again; without a name, ask the small tier for its draft.
    - `accept`: return the draft of `attempt`.
    - `escalate`: ask the large tier, after `wait` seconds.
    - `exhausted`: no tier is left; `attempt` is the best draft that may be returned all the same, None without one.
    """
    last = attempts[-1]
    if last.tier != "small":
        ruled_out = objection(last, measured_on_small=False)
        if ruled_out is None:
            return Decision(action="accept", reason="escalated", attempt=len(attempts) - 1)
        if _may_ask_again(attempts, situation):
            return _escalate(policy, attempts, situation, ("rate_limited", ruled_out[1]), last.retry_after)
        return Decision(
            action="exhausted", reason=ruled_out[0], detail=ruled_out[1], attempt=best_usable(policy, attempts)
        )
    ruled_out = objection(last)
    if ruled_out is None and policy.on_broken == "escalate":
        ruled_out = next((("validator_error", _describe(v)) for v in last.verdicts if v.broken), None)
    if ruled_out is None and last.outcome == "pending":
        ruled_out = _not_worth_asking(policy, situation)
        if ruled_out is None:
            return _ask_small(policy, attempts, situation, evidence)
    if ruled_out is not None:
        return _escalate(policy, attempts, situation, ruled_out)
    return _by_confidence(policy, attempts, evidence, situation)


def _ask_small(policy: Policy, attempts: Sequence[Attempt], situation: Situation, evidence: Sequence[str]) -> Decision:
    if _broke(situation, situation.small_price):
        return _out_of_money(policy, attempts)
    beside = tuple(evidence) if policy.parallel_evidence else ()
    return Decision(action="gather", reason="draft", hedge=hedge_delay(policy, situation), beside=beside)


def _escalate(
    policy: Policy,
    attempts: Sequence[Attempt],
    situation: Situation,
    why: tuple[str, str],
    wait: float | None = None,
) -> Decision:
    if _broke(situation, situation.large_price):
        return _out_of_money(policy, attempts)
    return Decision(action="escalate", reason=why[0], detail=why[1], wait=wait)


def _broke(situation: Situation, price: float | None) -> bool:
    left = situation.money_left
    return left is not None and (left <= 0.0 or (price is not None and left < price))


def _out_of_money(policy: Policy, attempts: Sequence[Attempt]) -> Decision:
    return Decision(action="exhausted", reason="budget", detail="max_cost", attempt=best_usable(policy, attempts))


_MAX_ATTEMPTS = 5
_PATIENCE = 60.0
"""Seconds of `Retry-After` beyond which nobody waits; the limit of the OpenAI and Anthropic clients too."""


def _may_ask_again(attempts: Sequence[Attempt], situation: Situation) -> bool:
    """Whether a refused large call is made once more: the provider said when, and there is time and allowance (R16).

    The allowance is a retry budget: a share of all calls, so that an outage is not made worse by those who meet it
    (Google SRE book, chapter 21).
    """
    wait, left = attempts[-1].retry_after, situation.time_left
    if wait is None or wait > _PATIENCE or not situation.retry or len(attempts) >= _MAX_ATTEMPTS:
        return False
    return left is None or wait < left


_USELESS = 0.8
"""Share of unusable answers (lower 95 % bound) from which on the small tier is not asked whatever it costs (R17)."""


def _not_worth_asking(policy: Policy, situation: Situation) -> tuple[str, str] | None:
    """Why the small tier is left out: (reason, detail); None when it is to be asked."""
    if policy.latch and situation.latched:
        return "latched", "a step of this turn escalated"
    small, large, left = situation.small_latency, situation.large_latency, situation.time_left
    if small is not None and large is not None and left is not None and large <= left < small + large:
        return "skipped_small", f"{left:.3g} s left, both tiers take {small + large:.3g} s"
    if not policy.skip_small or situation.probe:
        return None
    if situation.broken is not None and situation.broken > _USELESS:
        return "skipped_small", f"P(unusable) >= {situation.broken:.3f} > {_USELESS}"
    bar = break_even(policy, situation)
    if bar is not None and situation.escalation is not None and situation.escalation > bar:
        return "skipped_small", f"P(escalate) >= {situation.escalation:.3f} > {bar:.3f}"
    return None


def break_even(policy: Policy, situation: Situation) -> float | None:
    """P(escalate) above which asking the small tier first costs more than asking large at once; None when unknown.

    Small first costs s + p L, large alone L, so small pays while p < 1 - s / L. What a call costs is its price, and its
    time at `value_of_time`: with a worth of 0 this compares prices alone, with a very high one times alone.
    """
    small, large = situation.small_cost, situation.large_cost
    if small is None or large is None:
        return None
    if policy.value_of_time:
        if situation.small_latency is None or situation.large_latency is None:
            return None
        small += policy.value_of_time * situation.small_latency
        large += policy.value_of_time * situation.large_latency
    return 1.0 - small / large if large > 0 else None


def hedge_delay(policy: Policy, situation: Situation) -> float | None:
    """Seconds after which large is asked beside small; None when it is not.

    The tail of small's time is cut by a second request after `hedge_after` (Dean and Barroso, The Tail at Scale, CACM
    2013). Where it is known how often small falls short, both are asked at once when that is worth it: a hedge wastes
    a large call with 1 - p and saves the time of small with p, so it pays when p v l_S > (1 - p) c_L, that is
    p > c_L / (c_L + v l_S), with v the value of time (a dropped call is taken to be billed in full).
    """
    if policy.hedge_after is None:
        return None
    p, price, seconds = situation.escalation, situation.large_cost, situation.small_latency
    if policy.value_of_time and p is not None and price is not None and seconds is not None:
        saved = policy.value_of_time * seconds
        if saved > 0 and p > price / (price + saved):
            return 0.0
    return policy.hedge_after


def threshold_for(policy: Policy, attempt: Attempt, kind: str | None) -> float | None:
    """The threshold that a draft of this kind has to reach: the highest that applies, None when rules alone decide."""
    if not policy.thresholds:
        return policy.threshold
    own = [policy.thresholds[key] for key in (kind, attempt.effect) if key is not None and key in policy.thresholds]
    return max(own) if own else policy.threshold


def at_this_price(policy: Policy, threshold: float, situation: Situation) -> float:
    """The threshold at the price of escalating now.

    Escalating is worth its price c while (1 - confidence) V > c, V being what a mistake costs. A threshold t that was
    set at the mean price m says V = m / (1 - t), so now it is 1 - (1 - t) c / m. One that was certified is only raised:
    accepting less never raises the share of harm.
    """
    now, mean = situation.large_cost_now, situation.large_cost
    if not policy.price_aware or now is None or mean is None or mean <= 0.0:
        return threshold
    moved = max(0.0, 1.0 - (1.0 - threshold) * now / mean)
    return max(threshold, moved) if policy.provenance else moved


_AS_GOOD_AS_LARGE = 0.9
"""Without a threshold, a draft that evidence was paid for is kept when it is as likely right as a large model's: large
models were right on .78-.92 of recorded tool-calling steps."""


def _by_confidence(
    policy: Policy, attempts: Sequence[Attempt], evidence: Sequence[str], situation: Situation
) -> Decision:
    attempt = attempts[-1]
    confidence, threshold = attempt.confidence, threshold_for(policy, attempt, situation.kind)
    low, high = policy.evidence_band
    if confidence is None or low <= confidence <= high:
        waiting = next((name for name in evidence if name not in attempt.gathered), None)
        if waiting is not None and not _broke(situation, None):
            return Decision(action="gather", reason="in_band", evidence=waiting)
    if threshold is not None:
        threshold = at_this_price(policy, threshold, situation)
    elif attempt.gathered:
        threshold = _AS_GOOD_AS_LARGE if _evidence_spoke(attempt) else None  # a judge that is down decides nothing
    elif evidence and confidence is not None:
        threshold = low  # nobody need be asked whether a draft is wrong that hardly anything speaks for
    if threshold is None or (confidence is not None and confidence >= threshold):
        return Decision(action="accept", reason="accepted", attempt=len(attempts) - 1)
    detail = "no validator measured a confidence" if confidence is None else f"{confidence:.3f} < {threshold:.3f}"
    return _escalate(policy, attempts, situation, ("low_confidence", detail))


def _evidence_spoke(attempt: Attempt) -> bool:
    return any(
        v.validator in attempt.gathered and (v.score is not None or v.outcome != "abstain") for v in attempt.verdicts
    )


_ENDED_EARLY = {"error": "model_error", "timeout": "timeout", "cancelled": "overtaken"}
"""What became of a call without a draft -> the reason to go on without it; a hedge is what overtakes a small call."""


def objection(attempt: Attempt, *, measured_on_small: bool = True) -> tuple[str, str] | None:
    """What rules an attempt out under every policy: (reason, detail), or None.

    Hard fails speak before soft ones, each in the order in which the validators ran. The soft fails of the shipped
    validators were measured on small models' drafts; `measured_on_small=False` leaves them out, for a large draft, of
    which far fewer are wrong and after which nobody is left to ask.
    """
    if attempt.outcome in _ENDED_EARLY:
        return _ENDED_EARLY[attempt.outcome], (attempt.error or "").partition(":")[0]
    soft: Verdict | None = None
    for verdict in attempt.verdicts:
        if verdict.outcome == "fail":
            if verdict.score is None:
                return _reason(verdict), _describe(verdict)
            if measured_on_small or verdict.validator not in REASONS:
                soft = soft or verdict
    return None if soft is None else (_reason(soft), _describe(soft))


def best_usable(policy: Policy, attempts: Sequence[Attempt]) -> int | None:
    """Index of the strongest tier's draft that may be returned, or that a human may be shown; None without one."""
    asks = policy.on_exhausted == "interrupt"
    order = range(len(attempts) - 1, -1, -1)
    return next((i for i in order if (attempts[i].reviewable if asks else attempts[i].usable)), None)


def _reason(verdict: Verdict) -> str:
    return REASONS.get(verdict.validator) or verdict.code or verdict.validator or "rejected"


def _describe(verdict: Verdict) -> str:
    where = f" at {verdict.path}" if verdict.path else ""
    return f"{verdict.validator}: {verdict.code or verdict.outcome}{where}"
