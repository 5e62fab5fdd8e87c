"""Recorded steps with their labels: what each cost, which answers may be right, and who says so.

Labels are never overwritten: those of one step stand side by side, also where they contradict each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from cascade_agent.core.records import Label, StepTrace
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.validators.agreement import same

if TYPE_CHECKING:
    from cascade_agent.core.records import Attempt

N = TypeVar("N", int, float)

DRAFTED: Final = ("accepted", "rejected")  # outcomes of an attempt that gave an answer
UNFINISHED: Final = ("interrupted", "cancelled", "error")  # outcomes that say nothing: counted, and in no figure
LOOKING: Final = ("person", "evaluator")  # who may have looked at a random share of the steps, where none was logged
PRECEDENCE: Final = ("person", "review", "evaluator", "shadow", "tool_error", "escalation")
"""The order in which sources count when labels of one step contradict each other; among equals the latest label does.

`review` is a person who looked at the step because it was doubtful: as true as `person`, but no sample of all steps.
"""
WORLDS: Final = ((False, False), (False, True), (True, False), (True, True))
"""(small is right, large is right), one bit of a set of worlds each."""
MONEY: Final = 10**12  # money is counted in whole trillionths, so that sums do not depend on their order
WEIGHT: Final = 2**24  # weights (one over a probability) likewise

_COMPARED = ("escalation", "shadow")
_MOST: Final = 1e9  # no call costs more, and nobody draws one of so many

Evaluator = Callable[[StepTrace], bool | None]
SameText = Callable[[str, str], bool | None]
OnConflict = Literal["precedence", "exclude"]
Stratum = Literal["known", "drawn", "judged", "open"]
"""The way in which large's answer came to be known: `known` without any draw (escalated steps, and whatever was never
up for one), `drawn` with a logged probability (a shadow call), `judged` by people or an evaluator; or it is `open`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRules:
    """Rules for how labels of one step come about, and which of them counts.

    `evaluator` is your own judgement of a step and `same_text` of two texts (None: cannot tell). On a conflict the
    first of `PRECEDENCE` counts, or the step is as good as unlabelled (`exclude`).
    """

    evaluator: Evaluator | None = None
    same_text: SameText | None = None
    on_conflict: OnConflict = "precedence"

    def __post_init__(self) -> None:
        """Refuse an unknown rule."""
        if self.on_conflict not in ("precedence", "exclude"):
            msg = f"on_conflict is {self.on_conflict!r}; expected 'precedence' or 'exclude'"
            raise ConfigurationError(msg)


DEFAULT_RULES: Final = LabelRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The meaning of all labels of one step; None is unknown.

    `right` is about the small draft, `large_right` about large's answer, `harm` is small wrong and large right.
    `source` is whose label counts, `propensity` the probability with which the step was labelled.
    """

    right: bool | None = None
    harm: bool | None = None
    large_right: bool | None = None
    source: str | None = None
    propensity: float | None = None


class Facts(NamedTuple):
    """The record of one finished step as numbers, whatever the policy; costs in trillionths, times in seconds.

    `worlds` is a set of `WORLDS` as bits, `shadow` what was paid to learn about the step afterwards. `weight` is one
    over the probability with which the step was drawn, in units of `WEIGHT` (0: not drawn). `priced` are the answered
    calls, whose costs say what such a call may cost.
    """

    stratum: Stratum
    worlds: int
    small: int | None
    large: int | None
    shadow: int | None
    evidence: Mapping[str, int | None]
    weight: int
    skipped: bool
    asked_large: bool
    final: str | None
    small_time: float | None
    large_time: float | None
    time: float | None
    priced: tuple[tuple[str, int | None], ...]

    @property
    def calls(self) -> list[tuple[str, int | None]]:
        """The calls that were paid, shadow calls included."""
        found = list(self.evidence.items())
        found += [("small", self.small)] * (not self.skipped)
        found += [("large", self.shadow)] * (self.shadow != 0)
        return found + [("large", self.large)] * self.asked_large

    def with_label(self, label: Label) -> Facts:
        """Return the facts with one more label: what it cost, and what a shadow call says of large's price."""
        call, facts = label.side_call, self
        cost = None if call is None else money(call.cost, label.step_id)
        if call is not None:
            facts = facts._replace(shadow=plus(facts.shadow, cost))
        if label.source != "shadow" or self.asked_large or self.weight or self.large is not None:
            return facts
        if call is not None:
            time, priced = seconds(call.latency, label.step_id), (*facts.priced, ("large", cost), ("shadow", cost))
            facts = facts._replace(large=cost, large_time=time, priced=priced)
        if label.propensity and self.stratum != "known":
            facts = facts._replace(stratum="drawn", weight=round(WEIGHT / max(1.0 / _MOST, label.propensity)))
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledStep:
    """A recorded step, all its labels (its own comparison of small and large included), and what they come to.

    `facts` is None for a step without a finished attempt. `irreversible` says whether the small draft calls a tool
    whose effect cannot be taken back.
    """

    trace: StepTrace
    labels: tuple[Label, ...] = ()
    outcome: Outcome = Outcome()
    facts: Facts | None = None
    irreversible: bool = False

    @property
    def id(self) -> str:
        """The step's id."""
        return self.trace.id

    @property
    def episode(self) -> str:
        """The conversation that the step belongs to; steps of one depend on each other."""
        return episode_of(self.trace)

    @property
    def small(self) -> Attempt:
        """The small tier's attempt."""
        return self.trace.attempts[0]

    @property
    def drafted(self) -> bool:
        """Return whether the small tier gave an answer."""
        return self.small.outcome in DRAFTED

    @property
    def answered(self) -> bool:
        """Return whether the small draft was returned."""
        return self.trace.final_tier == "small" and not self.trace.escalated

    @property
    def labelled(self) -> bool:
        """Return whether it is known if the small draft was right, or at least if accepting it does harm."""
        return self.outcome.right is not None or self.outcome.harm is not None

    @property
    def loss(self) -> bool:
        """Return whether accepting the draft counts as harm; a wrong one whose large answer nobody knows does."""
        return self.outcome.harm if self.outcome.harm is not None else self.outcome.right is False

    @property
    def given(self) -> tuple[Label, ...]:
        """The labels that somebody gave."""
        return tuple(label for label in self.labels if label.source != "escalation")


def episode_of(trace: StepTrace) -> str:
    """Return the conversation that a step belongs to, or the step alone."""
    return trace.thread_id or f"step:{trace.id}"


def label_step(trace: StepTrace, labels: Sequence[Label] = (), rules: LabelRules = DEFAULT_RULES) -> LabelledStep:
    """Join a step with its labels and with those that need nobody.

    An escalated step labels itself: when the small draft and the large answer say the same thing the draft was right
    enough, when they differ it counts as harm. That is conservative (it counts about twice the true harm). Texts that
    are neither equal, equal numbers nor equal JSON say nothing, unless `same_text` decides.
    """
    every = list(labels)
    if not trace.attempts or trace.outcome in UNFINISHED:
        return LabelledStep(trace=trace, labels=tuple(every))
    if rules.evaluator is not None and (right := rules.evaluator(trace)) is not None:
        every.append(Label(step_id=trace.id, source="evaluator", right=bool(right)))
    if trace.escalated and (alike := same_answers(trace, same_text=rules.same_text)) is not None:
        every.append(Label(step_id=trace.id, source="escalation", right=alike, harm=not alike))
    outcome = _outcome(every, rules.on_conflict) if every else Outcome()
    return LabelledStep(trace=trace, labels=tuple(every), outcome=outcome, facts=_facts_of(trace, every, outcome))


def _outcome(labels: Sequence[Label], on_conflict: OnConflict) -> Outcome:
    counted = resolve(labels, on_conflict)
    right, harm = (None, None) if counted is None else _meaning(counted)
    source = None if counted is None else counted.source
    compared = [label for label in labels if label.source in _COMPARED]
    agree = any(label.harm is False for label in compared)
    if harm is None and agree:
        harm = False  # small and large agree: whoever calls it wrong, escalating gains nothing
    if source in _COMPARED:
        large_right: bool | None = True  # large was the measure, and nobody judged
    elif agree or any(label.right for label in compared):
        large_right = right
    else:
        large_right = harm if right is False else None
    propensity = max((label.propensity for label in labels if label.propensity is not None), default=None)
    return Outcome(right=right, harm=harm, large_right=large_right, source=source, propensity=propensity)


def resolve(labels: Sequence[Label], on_conflict: OnConflict = "precedence") -> Label | None:
    """Return the label that counts, by `PRECEDENCE`, then the latest; None when none says anything."""
    telling = [label for label in labels if says(label)]
    if not telling or (on_conflict == "exclude" and contradict(telling)):
        return None
    ranks = {source: -rank for rank, source in enumerate(PRECEDENCE)}
    last = -len(PRECEDENCE)
    return max(reversed(telling), key=lambda label: (ranks.get(label.source, last), label.at or ""))


def says(label: Label) -> bool:
    """Return whether a label says anything."""
    return label.right is not None or label.harm is not None


def _meaning(label: Label) -> tuple[bool | None, bool | None]:
    """Return (right, harm) of a label, each from the other where it follows."""
    return (False, True) if label.harm else (label.right, False if label.right else label.harm)


def contradict(labels: Sequence[Label]) -> bool:
    """Return whether some say right and some wrong, or some harm and some none."""
    meanings = [_meaning(label) for label in labels]
    return any({True, False} <= {meaning[i] for meaning in meanings} for i in (0, 1))


def same_answers(trace: StepTrace, *, same_text: SameText | None = None) -> bool | None:
    """Return whether the small draft and the large answer of an escalated step say the same; None when it is unclear.

    Calls are compared without their order, after normalising. Of the tools nothing is recorded but their calls, so an
    argument that repeats a declared default counts as a difference.
    """
    small = trace.attempts[0].answer
    large = next((a for a in reversed(trace.attempts) if a.tier != "small"), None)
    if large is None or large.answer is None or not large.usable or small is None:
        return None
    return same(small, large.answer, same_text=same_text)


def sha(text: str) -> int:
    """Return 64 bits that look drawn and are always the same for the same text: for splits, folds and draws."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8], "big")


def unit_hash(text: str) -> float:
    """Return `sha` as a number in [0, 1)."""
    return (sha(text) >> 8) / 2**56


def split_hash(seed: int, episode: str) -> float:
    """Return the place of an episode in the split between learning and certifying."""
    return unit_hash(f"split\0{seed}\0{episode}")


def text_hash(text: str) -> int:
    """Return 64 other such bits: for what is counted."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big")


def _facts_of(trace: StepTrace, labels: Sequence[Label], outcome: Outcome) -> Facts:
    """Read what a finished step cost and which answers may be right."""
    small, tried = trace.attempts[0], [a for a in trace.attempts if a.tier == "large"]
    costs = [money(a.cost, trace.id) for a in trace.attempts]
    times = [seconds(a.latency, trace.id) for a in trace.attempts]
    evidence = {call.name: money(call.cost, trace.id) for call in trace.evidence}
    for call in trace.evidence:
        seconds(call.latency, trace.id)
    large: int | None = 0 if tried else None
    large_time: float | None = 0.0 if tried else None
    priced = []
    for attempt, cost, time in zip(trace.attempts, costs, times, strict=True):
        if attempt.tier == "large":
            large, large_time = plus(large, cost), plus(large_time, time)
        if attempt.tier != "human" and attempt.outcome in DRAFTED:
            priced.append(("small" if attempt.tier == "small" else "large", cost))
    judged = outcome.source in LOOKING and outcome.right is not None
    right = False if outcome.right is None and _useless(small) else outcome.right
    large_right = False if tried and _useless(tried[-1]) else outcome.large_right
    facts = Facts(
        stratum="known" if tried or trace.outcome != "accepted" else "judged" if judged else "open",
        worlds=_worlds(right, large_right, outcome.harm),
        small=costs[0],
        large=large,
        shadow=0,
        evidence=evidence,
        weight=0,
        skipped=small.outcome in ("skipped", "pending"),
        asked_large=bool(tried),
        final=trace.final_tier,
        small_time=times[0],
        large_time=large_time,
        time=seconds(trace.latency, trace.id),
        priced=(*priced, *evidence.items()),
    )
    for label in labels:
        facts = facts.with_label(label)
    return facts


def plus(a: N | None, b: N | None) -> N | None:
    """Add two amounts; unknown plus anything is unknown."""
    return None if a is None or b is None else a + b


def money(cost: float | None, step_id: str) -> int | None:
    """Return an amount in trillionths; None is unknown."""
    found = _amount(cost, step_id, "cost", "a number from 0 to 1e9", _MOST)
    return None if found is None else round(found * MONEY)


def seconds(time: float | None, step_id: str) -> float | None:
    """Return a time in seconds; None is unknown."""
    return _amount(time, step_id, "latency", "a number >= 0", math.inf)


def _amount(value: float | None, step_id: str, what: str, expected: str, below: float) -> float | None:
    if value is not None and not 0 <= value < below:
        msg = f"step {step_id!r} has a {what} of {value!r}; expected null or {expected}: correct the line"
        raise RecordError(msg)
    return None if value is None else float(value)


def _useless(attempt: Attempt) -> bool:
    """Return whether an attempt gave no answer, or none that can be used."""
    return attempt.outcome in ("error", "timeout") or any(v.hard for v in attempt.verdicts)


@lru_cache(maxsize=32)
def _worlds(right: bool | None, by_large: bool | None, harm: bool | None) -> int:
    """Return the worlds that labels and records leave possible."""
    found = 0
    for bit, (one, two) in enumerate(WORLDS):
        fits = right in (None, one) and by_large in (None, two)
        if fits and (harm is None or by_large is not None or (not one and two) == harm):
            found |= 1 << bit
    return found
