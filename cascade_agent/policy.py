"""What a cascade does with what it knows: the frozen `Policy` and the pure function `decide()`.

Law: no I/O, no clock, no randomness. History goes in, a move comes out, so sync, async and replay share one rule.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast, get_args

from cascade_agent.confidence import Scorer
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.records import Decision, SideEffect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.records import Attempt, Verdict

OnExhausted = Literal["return", "raise", "interrupt"]
Handover = Literal["fresh", "feedback"]
OnBroken = Literal["escalate", "accept"]

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

    scorer: Scorer = field(default_factory=Scorer.rules)
    """Verdicts -> confidence. The shipped rules, or one fitted on your own journal."""

    evidence_band: tuple[float, float] = (0.3, 0.89)
    """Ask evidence (validators that call a model) only while the confidence lies inside this closed band. On recorded
    steps of six small models half of them lay inside the default one; (0.2, 0.95) asks three of four and ranks better.
    """

    on_exhausted: OnExhausted = "return"
    """When even the large draft fails: `return` the best draft that passed its hard checks, marked `degraded`, and
    raise if there is none (a draft that failed soft checks and calls a tool declared `write` or `irreversible` is
    none); `raise` `CascadeExhausted`; `interrupt` the graph for a human."""

    on_broken: OnBroken = "escalate"
    """When a validator raises or times out: `escalate` (fail closed) or `accept` what the others say (fail open)."""

    handover: Handover = "fresh"
    """What large is told: `fresh` nothing of the failed draft (pasting it was measured to hurt), `feedback` a quote."""

    latency_budget: float | None = 180.0
    """Seconds for the whole step, both tiers and all evidence. The small tier may use a third of it. None: no limit."""

    validator_timeout: float = 5.0
    """Seconds after which an asynchronous validator is cancelled and counts as broken."""

    side_effects: Mapping[str, SideEffect] = field(default_factory=dict)
    """Tool name -> what calling it does: `read`, `write` or `irreversible`."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the threshold comes from: data hash, date, n, target, confidence, prices, version."""

    def __post_init__(self) -> None:
        """Refuse at construction what would fail at the first step."""
        if self.threshold is not None and not _in_unit(self.threshold):
            _refuse("threshold", self.threshold, "None or a number in [0, 1]")
        if not _is_band(self.evidence_band):
            _refuse("evidence_band", self.evidence_band, "two numbers 0 <= low <= high <= 1")
        for name, allowed in (("on_exhausted", OnExhausted), ("on_broken", OnBroken), ("handover", Handover)):
            if getattr(self, name) not in get_args(allowed):
                _refuse(name, getattr(self, name), f"one of {', '.join(get_args(allowed))}")
        for name, value in (("latency_budget", self.latency_budget), ("validator_timeout", self.validator_timeout)):
            if value is None and name == "latency_budget":
                continue
            if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                _refuse(name, value, "a positive number of seconds")
        if not isinstance(self.scorer, Scorer):
            _refuse("scorer", self.scorer, "a Scorer")
        _check_effects(self.side_effects)

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
    return isinstance(value, int | float) and 0.0 <= value <= 1.0


def _check_effects(effects: object) -> None:
    if not isinstance(effects, Mapping):
        _refuse("side_effects", effects, "a mapping of tool names")
    for tool, effect in effects.items():
        if effect not in get_args(SideEffect):
            _refuse(f"side_effects[{tool!r}]", effect, f"one of {', '.join(get_args(SideEffect))}")


def _is_band(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:  # noqa: PLR2004 - a pair
        return False
    return all(map(_in_unit, value)) and value[0] <= value[1]


def _refuse(name: str, value: object, expected: str) -> NoReturn:
    msg = f"Policy.{name} is {value!r}; expected {expected}"
    raise ConfigurationError(msg)


def decide(policy: Policy, attempts: Sequence[Attempt], *, evidence: Sequence[str] = ()) -> Decision:
    """The next move of a step.

    `attempts` is the history, oldest first, never empty. It begins with the small tier's attempt, `pending` while its
    draft was not asked for yet: then its verdicts are those that the context alone gives. `evidence` names what can be
    asked about the small draft, cheapest first.

    - `gather`: ask `evidence` and decide again; without a name, ask the small tier for its draft.
    - `accept`: return the draft of `attempt`.
    - `escalate`: ask the large tier.
    - `exhausted`: no tier is left; `attempt` is the best draft that may be returned all the same, None without one.
    """
    last = attempts[-1]
    if last.tier != "small":
        ruled_out = objection(last, measured_on_small=False)
        if ruled_out is None:
            return Decision(action="accept", reason="escalated", attempt=len(attempts) - 1)
        return Decision(action="exhausted", reason=ruled_out[0], detail=ruled_out[1], attempt=best_usable(attempts))
    ruled_out = objection(last)
    if ruled_out is None and policy.on_broken == "escalate":
        ruled_out = next((("validator_error", _describe(v)) for v in last.verdicts if v.broken), None)
    if ruled_out is not None:
        return Decision(action="escalate", reason=ruled_out[0], detail=ruled_out[1])
    if last.outcome == "pending":
        return Decision(action="gather", reason="draft")
    return _by_confidence(policy, last, len(attempts) - 1, evidence)


_AS_GOOD_AS_LARGE = 0.9
"""Without a threshold, a draft that evidence was paid for is kept when it is as likely right as a large model's: large
models were right on .78-.92 of recorded tool-calling steps."""


def _by_confidence(policy: Policy, attempt: Attempt, index: int, evidence: Sequence[str]) -> Decision:
    confidence, threshold = attempt.confidence, policy.threshold
    low, high = policy.evidence_band
    if confidence is None or low <= confidence <= high:
        waiting = next((name for name in evidence if name not in attempt.gathered), None)
        if waiting is not None:
            return Decision(action="gather", reason="in_band", evidence=waiting)
    if threshold is None and attempt.gathered:
        threshold = _AS_GOOD_AS_LARGE if _evidence_spoke(attempt) else None  # a judge that is down decides nothing
    elif threshold is None and evidence and confidence is not None:
        threshold = low  # nobody need be asked whether a draft is wrong that hardly anything speaks for
    if threshold is None or (confidence is not None and confidence >= threshold):
        return Decision(action="accept", reason="accepted", attempt=index)
    detail = "no validator measured a confidence" if confidence is None else f"{confidence:.3f} < {threshold:.3f}"
    return Decision(action="escalate", reason="low_confidence", detail=detail)


def _evidence_spoke(attempt: Attempt) -> bool:
    return any(
        v.validator in attempt.gathered and (v.score is not None or v.outcome != "abstain") for v in attempt.verdicts
    )


def objection(attempt: Attempt, *, measured_on_small: bool = True) -> tuple[str, str] | None:
    """What rules an attempt out under every policy: (reason, detail), or None.

    Hard fails speak before soft ones, each in the order in which the validators ran. The soft fails of the shipped
    validators were measured on small models' drafts; `measured_on_small=False` leaves them out, for a large draft, of
    which far fewer are wrong and after which nobody is left to ask.
    """
    if attempt.outcome in ("error", "timeout", "cancelled"):
        reason = "timeout" if attempt.outcome == "timeout" else "model_error"
        return reason, (attempt.error or "").partition(":")[0]
    soft: Verdict | None = None
    for verdict in attempt.verdicts:
        if verdict.outcome == "fail":
            if verdict.score is None:
                return _reason(verdict), _describe(verdict)
            if measured_on_small or verdict.validator not in REASONS:
                soft = soft or verdict
    return None if soft is None else (_reason(soft), _describe(soft))


def best_usable(attempts: Sequence[Attempt]) -> int | None:
    """Index of the strongest tier's draft that may be returned (`Attempt.usable`); None when there is none."""
    return next((i for i in range(len(attempts) - 1, -1, -1) if attempts[i].usable), None)


def _reason(verdict: Verdict) -> str:
    return REASONS.get(verdict.validator) or verdict.code or verdict.validator or "rejected"


def _describe(verdict: Verdict) -> str:
    where = f" at {verdict.path}" if verdict.path else ""
    return f"{verdict.validator}: {verdict.code or verdict.outcome}{where}"
