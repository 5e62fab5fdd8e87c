"""A recorded step decided anew by the same `decide()` under another policy, without asking any model.

What was not recorded is not invented: where a policy would have asked a tier or evidence that the record lacks, the end
and the cost of the step are unknown, and what is missing is named. Who would have won a race that was not run is
unknown: a policy that hedges is taken to keep a small answer that the record holds.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from cascade_agent.core.decide import decide, final_attempt, threshold_for
from cascade_agent.core.records import Attempt, DecisionInputs, SideCall
from cascade_agent.offline.evaluation.dataset import plus
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Decision, StepTrace

Missing = Literal["draft", "evidence", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A recorded step as it would have gone under a policy.

    `final_tier` is who would have answered, None when nobody would have or when the record cannot tell (`missing` then
    says what it lacks). `calls` are the recorded calls that the policy would have made, in order; a hedge that is not
    in the record stands there without a cost. `latency` is the sum of their times in seconds, None when one is unknown.
    """

    decisions: tuple[Decision, ...]
    escalated: bool
    final_tier: str | None
    latency: float | None = None
    missing: Missing | None = None
    calls: tuple[Attempt | SideCall, ...] = ()

    @property
    def known(self) -> bool:
        """Return whether the record can tell how the step ends."""
        return self.missing is None

    @property
    def cost(self) -> float | None:
        """The sum of the costs of the calls in the record's currency; None when a part of it is unknown."""
        costs = [call.cost for call in self.calls if call.cost is not None]
        return sum(costs) if self.known and len(costs) == len(self.calls) else None


def replay(trace: StepTrace, policy: Policy) -> Replayed:
    """Decide a recorded step anew."""
    ((_, _, replayed),) = sweep(trace, (policy,))
    return replayed


def sweep(trace: StepTrace, policies: Sequence[Policy]) -> Iterator[tuple[int, int, Replayed]]:
    """Replay a step under policies that differ in `threshold` alone, ascending, deciding each stretch of them once.

    Gives `(first, end, replayed)` for stretches of `policies` with the same outcome, one after the other.
    `replayed` is what `replay` gives for each of them, but for the text in `Decision.detail`.

    A stretch whose first and last policy make the same move makes it throughout: a draft is accepted up to the
    threshold that its confidence reaches and nothing else in `decide` looks at the threshold, so moves come in one
    order. Where the first accepts and the last does not, the confidence says where the stretch is cut.
    """
    if not policies:
        return
    record, first, end = _Record(trace), 0, len(policies)
    state = record.begin()
    while True:
        low = high = record.decide(policies[first], state)
        if end - first > 1 and state.attempt.tier == "small" and state.attempt.outcome != "pending":
            high = record.decide(policies[-1], state)  # only a draft that was judged is held against a threshold
        if low is not high and _move(low) != _move(high):
            cut = bisect_left(policies, True, first + 1, end - 1, key=partial(record.misses, state))
            yield first, cut, _end(record, policies[first], state, low, None)
            first = cut
        after = record.after(policies[first], state, high)
        if not isinstance(after, _State):
            yield first, end, _end(record, policies[first], state, high, after)
            return
        state = after


def _move(decision: Decision) -> tuple[object, ...]:
    return decision.action, decision.evidence, decision.attempt, decision.hedge


@dataclass(frozen=True, slots=True)
class _State:
    """A step under way: attempts that are closed, the open one, and all calls and decisions so far."""

    done: tuple[Attempt, ...]
    attempt: Attempt
    calls: tuple[Attempt | SideCall, ...] = ()
    latency: float | None = 0.0
    decisions: tuple[Decision, ...] = ()


_NOTHING_SEEN = (DecisionInputs(),)
_PENDING = Attempt(tier="small", outcome="pending")


class _Record:
    """A recorded step as a source of answers."""

    __slots__ = ("_kinds", "drafted", "evidence", "large", "raced", "small", "trace")

    def __init__(self, trace: StepTrace) -> None:
        self.trace = trace
        self.small = trace.attempts[0]
        self.drafted = self.small.outcome not in ("skipped", "pending")
        self.large = [a for a in trace.attempts if a.tier == "large"]
        self.evidence = {call.name: call for call in trace.evidence}
        given_up = self.small.outcome == "cancelled"
        self.raced = next((d.hedge for d in trace.decisions if given_up and d.hedge is not None), None)
        """Seconds after which large was asked too, where small did not answer then."""
        self._kinds: tuple[DecisionInputs, ...] | None = None

    def begin(self) -> _State:
        verdicts = () if self.drafted else self.small.verdicts
        return _State((), replace(_PENDING, verdicts=verdicts) if verdicts else _PENDING)

    def decide(self, policy: Policy, state: _State) -> Decision:
        attempts, inputs = (*state.done, state.attempt), self.inputs(policy, len(state.decisions))
        return decide(policy, attempts, evidence=self.trace.askable, inputs=inputs)

    def inputs(self, policy: Policy, number: int) -> DecisionInputs:
        """Return what the decision of that number knew; beyond what is recorded, what the last one did."""
        seen = self.trace.inputs_seen or _NOTHING_SEEN
        if policy.thresholds:
            seen = self._kinds = self._kinds or tuple(replace(inputs, kind=self.trace.kind) for inputs in seen)
        return seen[min(number, len(seen) - 1)]

    def misses(self, state: _State, policy: Policy) -> bool:
        """Return whether the draft falls short of the threshold that `decide` would hold it against."""
        attempt, inputs = state.attempt, self.inputs(policy, len(state.decisions))
        bar, confidence = threshold_for(policy, attempt, inputs.kind), attempt.confidence
        return bar is not None and (confidence is None or confidence < bar)

    def after(self, policy: Policy, state: _State, decision: Decision) -> _State | Missing | None:
        """Return the step after a move; what the record lacks for it, or None where the step ends."""
        call: Attempt | SideCall | None
        if decision.action == "escalate":
            done = (*state.done, state.attempt)
            tried = sum(attempt.tier != "small" for attempt in done)
            if tried >= len(self.large):
                return "large"
            call = attempt = self.large[tried]
        elif decision.action == "ask_small":
            waits = self.raced is not None and (decision.hedge is None or decision.hedge > self.raced)
            if not self.drafted or waits:  # it was given up because large was faster; this policy would have waited
                return "draft"
            done, call, attempt = (), self.small, rescored(policy, self.small, ())
        elif decision.action == "ask_evidence" and (name := decision.evidence) is not None:
            call = self.evidence.get(name)
            if call is None or name not in self.small.gathered:  # never asked, or dropped before it answered
                return "evidence"
            done, attempt = state.done, rescored(policy, self.small, (*state.attempt.gathered, name))
        else:
            return None
        latency = plus(state.latency, call.latency)
        return _State(done, attempt, (*state.calls, call), latency, (*state.decisions, decision))

    def dropped(self, state: _State) -> tuple[SideCall, ...]:
        """Return the large call that was started while small was slow, and not needed, where the policy hedges."""
        hedge = next((d.hedge for d in state.decisions if d.hedge is not None), None)
        if hedge is None or state.done:
            return ()
        if "hedge" in self.evidence:
            return (self.evidence["hedge"],)
        took = self.small.latency
        early = any(d.hedge is not None and d.hedge <= hedge for d in self.trace.decisions)  # and small was faster
        return () if early or (took is not None and took <= hedge) else (SideCall(name="hedge"),)


def _end(record: _Record, policy: Policy, state: _State, decision: Decision, missing: Missing | None) -> Replayed:
    attempts, final = (*state.done, state.attempt), final_attempt(policy, decision)
    return Replayed(
        decisions=(*state.decisions, decision),
        escalated=missing == "large" or bool(state.done),
        final_tier=None if final is None else attempts[final].tier,
        latency=state.latency if missing is None else None,
        missing=missing,
        calls=(*state.calls, *record.dropped(state)) if decision.action == "accept" else state.calls,
    )


def rescored(policy: Policy, attempt: Attempt, gathered: tuple[str, ...]) -> Attempt:
    """Return the recorded draft as this policy would see it: its own scorer, and only the evidence it asked for."""
    silent = {name for name in attempt.gathered if name not in gathered}
    verdicts = tuple(v for v in attempt.verdicts if v.validator not in silent) if silent else attempt.verdicts
    confidence = (policy.scorer or shipped_scorer()).confidence(verdicts) if attempt.error is None else None
    if confidence == attempt.confidence and attempt.gathered == gathered:
        return attempt
    return replace(attempt, verdicts=verdicts, gathered=gathered, confidence=confidence)
