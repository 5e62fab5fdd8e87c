"""`decide()`: the next move of a step, from its history and the policy.

Pure: no I/O, no clock, no randomness, so that sync, async and replay share one rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from cascade_agent.core.kinds import keys_of
from cascade_agent.core.records import UNKNOWN, Decision, DecisionInputs
from cascade_agent.core.scoring import EvidenceShare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Attempt, Verdict


def decide(
    policy: Policy, attempts: Sequence[Attempt], *, evidence: Sequence[str] = (), inputs: DecisionInputs = UNKNOWN
) -> Decision:
    """Return the next move of a step.

    `attempts` is the history, oldest first, never empty. It begins with the small tier's attempt, `pending` while its
    draft was not asked for yet: then its verdicts are those that the context alone gives. `evidence` names what can be
    asked about the small draft, cheapest first; what `inputs` does not know moves nothing.

    - `ask_small`: ask the small tier for its draft.
    - `ask_evidence`: ask `evidence` about the draft and decide again.
    - `accept`: return the draft of `attempt`.
    - `escalate`: ask the large tier, after `wait` seconds.
    - `exhausted`: no tier is left; `attempt` is the draft that may be used all the same, None without one.
    """
    last = attempts[-1]
    if last.tier != "small":
        return _after_large(policy, attempts, inputs)
    pending = last.outcome == "pending"
    if pending and inputs.disabled:
        ruled_out: tuple[str, str] | None = ("disabled", "everything goes to the large tier")
    else:
        ruled_out = objection(last)
    if ruled_out is None and policy.on_broken == "escalate":
        for verdict in last.verdicts:
            if verdict.outcome == "abstain" and verdict.broken:
                ruled_out = "validator_error", _describe(verdict)
                break
    if ruled_out is None and pending:
        ruled_out = _not_worth_asking(policy, inputs)
    if ruled_out is not None:
        return _escalate(policy, attempts, inputs, ruled_out)
    return _ask_small(policy, attempts, inputs) if pending else _by_confidence(policy, attempts, evidence, inputs)


def _after_large(policy: Policy, attempts: Sequence[Attempt], inputs: DecisionInputs) -> Decision:
    last = attempts[-1]
    # a person is at hand: of a call that acts every doubt counts, measured on small models' drafts or not
    acts = policy.on_exhausted == "interrupt" and last.effect in ("write", "irreversible")
    ruled_out = objection(last, measured_on_small=acts)
    if ruled_out is None:
        return Decision(action="accept", reason="escalated", attempt=len(attempts) - 1)
    if _may_ask_again(attempts, inputs):
        return _escalate(policy, attempts, inputs, ("rate_limited", ruled_out[1]), last.retry_after)
    return _exhausted(policy, attempts, *ruled_out)


def _ask_small(policy: Policy, attempts: Sequence[Attempt], inputs: DecisionInputs) -> Decision:
    if _broke(inputs, inputs.small_price):  # the detail names the tier whose call cannot be paid
        return _exhausted(policy, attempts, "budget", "small")
    hedge = None if policy.hedge_after is None else hedge_delay(policy, inputs)
    return _DRAFT if hedge is None else replace(_DRAFT, hedge=hedge)


def _escalate(
    policy: Policy,
    attempts: Sequence[Attempt],
    inputs: DecisionInputs,
    why: tuple[str, str],
    wait: float | None = None,
) -> Decision:
    if _broke(inputs, inputs.large_price):
        return _exhausted(policy, attempts, "budget", "large")
    return Decision(action="escalate", reason=why[0], detail=why[1], wait=wait)


def _exhausted(policy: Policy, attempts: Sequence[Attempt], reason: str, detail: str) -> Decision:
    return Decision(action="exhausted", reason=reason, detail=detail, attempt=best_draft(policy, attempts))


def _broke(inputs: DecisionInputs, price: float | None) -> bool:
    left = inputs.money_left
    return left is not None and (left <= 0.0 or (price is not None and left < price))


_DRAFT = Decision(action="ask_small", reason="draft")
_ACCEPTED = Decision(action="accept", reason="accepted", attempt=0)
_MAX_ATTEMPTS = 5
_PATIENCE = 60.0
"""Seconds of `Retry-After` beyond which nobody waits; the limit of the OpenAI and Anthropic clients too."""


def _may_ask_again(attempts: Sequence[Attempt], inputs: DecisionInputs) -> bool:
    """Return whether a refused large call is made once more: the provider said when, and there is time and allowance.

    The allowance is a retry budget: a share of all calls, so that an outage is not made worse by those who meet it
    (Google SRE book, chapter 21).
    """
    wait, left = attempts[-1].retry_after, inputs.time_left
    if wait is None or wait > _PATIENCE or not inputs.retry or len(attempts) >= _MAX_ATTEMPTS:
        return False
    return left is None or wait < left


_USELESS = 0.8
"""Share of unusable answers (lower 95 % bound) from which on the small tier is not asked whatever it costs."""


def _not_worth_asking(policy: Policy, inputs: DecisionInputs) -> tuple[str, str] | None:
    """Return why the small tier is left out: (reason, detail); None when it is to be asked."""
    if policy.stay_on_large == "turn" and inputs.stays_on_large:
        return "stays_on_large", "a step of this turn escalated"
    small, large, left = inputs.small_latency, inputs.large_latency, inputs.time_left
    if small is not None and large is not None and left is not None and large <= left < small + large:
        return "skipped_small", f"{left:.3g} s left, both tiers take {small + large:.3g} s"
    if not policy.skip_small or inputs.probe:
        return None
    if inputs.broken is not None and inputs.broken > _USELESS:
        cause = f", {inputs.cause} last" if inputs.cause else ""
        return "skipped_small", f"P(unusable) >= {inputs.broken:.3f} > {_USELESS}{cause}"
    bar = break_even(policy, inputs)
    if bar is not None and inputs.escalation is not None and inputs.escalation > bar:
        return "skipped_small", f"P(escalate) >= {inputs.escalation:.3f} > {bar:.3f}"
    return None


def break_even(policy: Policy, inputs: DecisionInputs) -> float | None:
    """Return P(escalate) above which asking small first costs more than asking large at once; None when unknown.

    Small first costs s + p L, large alone L, so small pays while p < 1 - s / L. What a call costs is its price, and its
    time at `value_of_time`: with a worth of 0 this compares prices alone, with a very high one times alone.
    """
    small, large = inputs.small_cost, inputs.large_cost
    if small is None or large is None:
        return None
    if policy.value_of_time:
        if inputs.small_latency is None or inputs.large_latency is None:
            return None
        small += policy.value_of_time * inputs.small_latency
        large += policy.value_of_time * inputs.large_latency
    return 1.0 - small / large if large > 0 else None


def hedge_delay(policy: Policy, inputs: DecisionInputs) -> float | None:
    """Return the seconds after which large is asked too; None when it is not.

    The tail of small's time is cut by a second request after `hedge_after` (Dean and Barroso, The Tail at Scale, CACM
    2013). Where it is known how often small falls short, both are asked at once when that is worth it: a hedge wastes
    a large call with 1 - p and saves the time of small with p, so it pays when p v l_S > (1 - p) c_L, that is
    p > c_L / (c_L + v l_S), with v the value of time (a dropped call is taken to be billed in full).
    """
    if policy.hedge_after is None:
        return None
    p, price, seconds = inputs.escalation, inputs.large_cost, inputs.small_latency
    if policy.value_of_time and p is not None and price is not None and seconds is not None:
        saved = policy.value_of_time * seconds
        if saved > 0 and p > price / (price + saved):
            return 0.0
    return policy.hedge_after


def threshold_for(policy: Policy, attempt: Attempt, kind: str | None) -> float | None:
    """Return the threshold that a draft has to reach: that of its kind or of its effect, the higher; None without one.

    Of the keys that fit the kind the most specific counts.
    """
    if not isinstance(policy.threshold, Mapping):
        return policy.threshold
    thresholds = policy.thresholds
    key = next((key for key in keys_of(kind) if key in thresholds), None) if kind else None
    own = [thresholds[name] for name in (key, attempt.effect) if name is not None and name in thresholds]
    return max(own) if own else policy.base_threshold


_AS_GOOD_AS_LARGE = 0.8
"""Without a threshold, a draft that evidence was paid for is kept when it is as likely right as a large model's: large
models were right on .78-.92 of recorded tool-calling steps, and .8 cost 11 % less than .9 there without a loss."""

_BAND = (0.3, 0.89)
"""Confidence between which evidence is asked where a share decides on the first of it."""


def _may_ask_evidence(policy: Policy, attempt: Attempt) -> bool:
    """Return whether what is known of a draft leaves it open enough for evidence."""
    confidence, evidence = attempt.confidence, policy.evidence
    low, high = _BAND if isinstance(evidence, EvidenceShare) else evidence
    if isinstance(evidence, EvidenceShare) and not attempt.gathered:
        return (confidence is None or confidence >= low) and evidence.asks(attempt.verdicts)
    return confidence is None or low <= confidence <= high


def _by_confidence(
    policy: Policy, attempts: Sequence[Attempt], evidence: Sequence[str], inputs: DecisionInputs
) -> Decision:
    attempt = attempts[-1]
    confidence, threshold = attempt.confidence, threshold_for(policy, attempt, inputs.kind)
    waiting = next((name for name in evidence if name not in attempt.gathered), None) if evidence else None
    if waiting is not None and _may_ask_evidence(policy, attempt) and not _broke(inputs, None):
        return Decision(action="ask_evidence", reason="in_band", evidence=waiting)
    if threshold is None and attempt.gathered:
        threshold = _AS_GOOD_AS_LARGE if _evidence_spoke(attempt) else None  # a judge that is down decides nothing
    elif threshold is None and evidence and confidence is not None:
        # nobody need be asked whether a draft is wrong that hardly anything speaks for
        threshold = (_BAND if isinstance(policy.evidence, EvidenceShare) else policy.evidence)[0]
    if threshold is None or (confidence is not None and confidence >= threshold):
        return _ACCEPTED  # what small drafted is the first attempt
    detail = "no validator measured a confidence" if confidence is None else f"{confidence:.3f} < {threshold:.3f}"
    return _escalate(policy, attempts, inputs, ("low_confidence", detail))


def _evidence_spoke(attempt: Attempt) -> bool:
    return any(
        v.validator in attempt.gathered and (v.score is not None or v.outcome != "abstain") for v in attempt.verdicts
    )


_ENDED_EARLY = {"error": "model_error", "timeout": "timeout", "cancelled": "overtaken"}
"""The outcome of a call without a draft -> the reason to go on without it; a hedge is what overtakes a small call."""


def objection(attempt: Attempt, *, measured_on_small: bool = True) -> tuple[str, str] | None:
    """Return what rules an attempt out under every policy: (reason, detail), or None.

    Hard fails speak before soft ones, each in the order in which the validators ran. The soft fails of the shipped
    validators were measured on small models' drafts; `measured_on_small=False` leaves them out, for a large draft, of
    which far fewer are wrong and after which nobody is left to ask.
    """
    unread = attempt.outcome == "error" and any(v.hard for v in attempt.verdicts)  # answered, and could not be read
    if attempt.outcome in _ENDED_EARLY and not unread:
        return _ENDED_EARLY[attempt.outcome], (attempt.error or "").partition(":")[0]
    soft: Verdict | None = None
    for verdict in attempt.verdicts:
        if verdict.outcome == "fail":
            if verdict.score is None:
                return _reason(verdict), _describe(verdict)
            if measured_on_small or verdict.origin == "user":
                soft = soft or verdict
    return None if soft is None else (_reason(soft), _describe(soft))


def best_draft(policy: Policy, attempts: Sequence[Attempt]) -> int | None:
    """Return the index of the draft that an exhausted step may end with, or show to a human; None without one."""
    if policy.on_exhausted == "pass":
        return len(attempts) - 1 if attempts and attempts[-1].may_pass else None
    asks = policy.on_exhausted == "interrupt"
    order = range(len(attempts) - 1, -1, -1)
    return next((i for i in order if (attempts[i].reviewable if asks else attempts[i].usable)), None)


def final_attempt(policy: Policy, decision: Decision) -> int | None:
    """Return the index of the draft that a decision ends the step with; None when nobody's is returned."""
    if decision.action == "exhausted" and policy.on_exhausted in ("raise", "interrupt"):
        return None
    return decision.attempt if decision.action in ("accept", "exhausted") else None


def _reason(verdict: Verdict) -> str:
    return verdict.escalates_as or verdict.code or verdict.validator or "rejected"


def _describe(verdict: Verdict) -> str:
    where = f" at {verdict.path}" if verdict.path else ""
    return f"{verdict.validator}: {verdict.code or verdict.outcome}{where}"
