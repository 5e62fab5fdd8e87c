"""Labels joined to the steps of a journal: what is known about each small draft, and who says so.

Law: nothing is overwritten. Labels of one step stand side by side; where they contradict each other the result shows
all of them beside the one that counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from cascade_agent.core.records import Label
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.reader import checked_label, read, read_labels
from cascade_agent.validators.agreement import recorded_calls, same

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from cascade_agent.core.records import Attempt, StepTrace, Verdict
    from cascade_agent.journal.format import OnError

_UNFINISHED = ("interrupted", "cancelled", "error")
_UNASKED = ("stays_on_large", "skipped_small", "budget")
"""Reasons that leave the small tier out without a look at the step."""

Evaluator = Callable[["StepTrace"], bool | None]
SameText = Callable[[str, str], bool | None]
OnConflict = Literal["precedence", "exclude"]

PRECEDENCE: Final = ("person", "review", "evaluator", "shadow", "tool_error", "escalation")
"""Who counts when labels of one step contradict each other, the first most; among equals the latest label.

`review` is a person who was shown the step because it was doubtful: as true as `person`, but it cannot stand for steps
that nobody looked at.
"""


_COMPARED = ("escalation", "shadow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A step as calibration needs it, without anything that people or models said.

    `verdicts` are those of the small draft, evidence included, without reasons and paths. `drafted` is False when the
    small tier was not asked or gave no answer. `answered` says whether the small draft was returned, `irreversible`
    whether it calls a tool whose effect cannot be taken back. `right` and `harm` are what counts of `labels`, `source`
    who said it; None is unknown. `propensity` is the probability with which this step came to have its label.
    """

    id: str
    episode: str
    kind: str
    step: str
    verdicts: tuple[Verdict, ...] = ()
    gathered: tuple[str, ...] = ()
    drafted: bool = True
    answered: bool = True
    irreversible: bool = False
    right: bool | None = None
    harm: bool | None = None
    source: str | None = None
    propensity: float | None = None
    labels: tuple[Label, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether it is known if the small draft was right, or at least if accepting it does harm."""
        return self.right is not None or self.harm is not None

    @property
    def loss(self) -> bool:
        """Whether accepting the draft counts as harm. A wrong draft whose large answer nobody knows does."""
        return self.harm if self.harm is not None else self.right is False


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """All steps of some journals with their labels.

    `cases` holds the steps that escalated or have a label, in the order of the journal. Steps that small answered and
    nobody labelled are only counted (`unlabelled`, of them `undecided` have labels that say neither right nor wrong).
    `conflicts` are the cases whose labels contradict each other, `orphans` the ids of labels without a step,
    `repeated` the number of steps that came a second time (overlapping paths), which are left out. `by_source` counts
    labels that counted.
    """

    cases: tuple[Case, ...]
    steps: int
    answered: int
    unlabelled: int
    undecided: int
    conflicts: tuple[Case, ...]
    orphans: tuple[str, ...]
    repeated: int
    unasked: int
    """Steps in which small was left out by an economy (staying on large, skipping, a ceiling). They say nothing about
    its drafts: were they counted as harmless, the risk would be understated for the day on which small is asked again."""

    by_source: Mapping[str, int]
    models: tuple[str, ...]
    paid: Mapping[str, Mapping[str, Any]]
    """Model -> what its answers cost in these steps: calls, tokens, cost in `currency`, as far as known."""

    validators: Mapping[str, tuple[str, ...]]
    """Validator -> its codes that carried a score or a hard fail, as seen in these steps. One that said nothing of the
    kind, or evidence that could be asked and never was, has none."""


@dataclass(slots=True)
class _Tally:
    steps: int = 0
    answered: int = 0
    unlabelled: int = 0
    undecided: int = 0
    repeated: int = 0
    unasked: int = 0
    seen: set[str] = field(default_factory=set)
    paid: dict[str, dict[str, Any]] = field(default_factory=dict)
    codes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def join(
    *paths: str | os.PathLike[str],
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    side_effects: Mapping[str, str] | None = None,
    on_error: OnError = "raise",
) -> Joined:
    """Read journals and join their labels to their steps, one step in memory at a time.

    An escalated step labels itself: when the small draft and the large answer say the same thing the draft was right
    enough, when they differ it counts as harm. That is conservative (it counts about twice the true harm) and needs
    nobody. Texts that are neither equal, equal numbers nor equal JSON say nothing, unless `same_text` decides.

    Args:
        paths: journal files or glob patterns. Labels may stand in other files than their steps.
        evaluator: your own judgement of a step: True, False, or None where it cannot tell.
        same_text: `(small, large) -> bool | None` for prose.
        on_conflict: `precedence` lets the first of `PRECEDENCE` count, `exclude` treats such steps as unlabelled.
        side_effects: tool name -> `read`, `write` or `irreversible`, as in the policy.
        on_error: what a line that is no record does, as in `journal.read`.

    Raises:
        RecordError: a path without a file, a line that is no record, a journal without steps, an impossible label.
        ConfigurationError: an unknown `on_conflict`.
    """
    if on_conflict not in ("precedence", "exclude"):
        msg = f"on_conflict is {on_conflict!r}; expected 'precedence' or 'exclude'"
        raise ConfigurationError(msg)
    told: dict[str, list[Label]] = defaultdict(list)
    for label in read_labels(*paths, on_error=on_error, check=checked_label):
        told[label.step_id].append(label)
    tally = _Tally()
    reader = _Reader(told, tally, evaluator, same_text, on_conflict, side_effects or {})
    cases = tuple(reader.cases(read(*paths, on_error=on_error)))
    if not tally.steps:
        raise RecordError(no_step(paths))
    return Joined(
        cases=cases,
        steps=tally.steps,
        answered=tally.answered,
        unlabelled=tally.unlabelled,
        undecided=tally.undecided,
        conflicts=tuple(case for case in cases if contradict(case.labels)),
        orphans=tuple(sorted(told.keys() - tally.seen)),
        repeated=tally.repeated,
        unasked=tally.unasked,
        by_source=dict(sorted(Counter(c.source for c in cases if c.source is not None and c.labelled).items())),
        models=tuple(sorted(tally.paid)),
        paid=dict(sorted(tally.paid.items())),
        validators={name: tuple(sorted(codes)) for name, codes in sorted(tally.codes.items())},
    )


def no_step(paths: Iterable[str | os.PathLike[str]]) -> str:
    """What to say of journals without a step."""
    names = ", ".join(str(path) for path in paths)
    return f"{names}: the journal holds no step yet; set CASCADE_JOURNAL where the agent runs and let it work"


@dataclass(slots=True)
class _Reader:
    told: Mapping[str, Sequence[Label]]
    tally: _Tally
    evaluator: Evaluator | None
    same_text: SameText | None
    on_conflict: OnConflict
    side_effects: Mapping[str, str]
    shared: dict[Verdict, Verdict] = field(default_factory=dict)

    def cases(self, traces: Iterable[StepTrace]) -> Iterator[Case]:
        for trace in traces:
            if trace.id in self.tally.seen:
                self.tally.repeated += 1
                continue
            self.tally.seen.add(trace.id)
            self.tally.steps += 1
            case = self._case(trace)
            if case is not None:
                yield case

    def _case(self, trace: StepTrace) -> Case | None:
        tally = self.tally
        if not trace.attempts or trace.outcome in _UNFINISHED:
            return None
        small = trace.attempts[0]
        if small.outcome == "skipped" and any(move.reason in _UNASKED for move in trace.decisions):
            tally.unasked += 1
            return None
        for attempt in trace.attempts:
            if attempt.model and attempt.outcome != "skipped":
                self._count_cost(attempt, trace.currency)
        for name in trace.askable:
            tally.codes[name].update(())  # it was there, though it may never say anything
        found = known(
            trace,
            self.told.get(trace.id, ()),
            evaluator=self.evaluator,
            same_text=self.same_text,
            on_conflict=self.on_conflict,
        )
        answered = trace.final_tier == "small" and not trace.escalated
        tally.answered += answered
        if answered and found.source is None:
            tally.unlabelled += 1
            tally.undecided += bool(found.labels)
            self._count_codes(small)
            return None
        return Case(
            id=trace.id,
            episode=trace.thread_id or f"step:{trace.id}",
            kind=trace.kind,
            step=trace.step,
            verdicts=self._count_codes(small),
            gathered=small.gathered,
            drafted=small.outcome in ("accepted", "rejected"),
            answered=answered,
            irreversible=self._irreversible(small),
            right=found.right,
            harm=found.harm,
            source=found.source,
            propensity=found.propensity,
            labels=found.labels,
        )

    def _count_cost(self, attempt: Attempt, currency: str) -> None:
        empty = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0, "currency": currency}
        paid = self.tally.paid.setdefault(str(attempt.model), empty)
        paid["calls"] += 1
        usage = attempt.usage
        for key, value in (
            ("input_tokens", None if usage is None else usage.input_tokens),
            ("output_tokens", None if usage is None else usage.output_tokens),
            ("cost", attempt.cost if currency == paid["currency"] else None),
        ):
            paid[key] = None if paid[key] is None or value is None else paid[key] + value

    def _count_codes(self, small: Attempt) -> tuple[Verdict, ...]:
        kept = []
        for verdict in small.verdicts:
            bare = replace(verdict, reason="", path="")
            kept.append(self.shared.setdefault(bare, bare))
            codes = self.tally.codes[verdict.validator]
            if verdict.score is not None or verdict.hard:
                codes.add(verdict.code or verdict.outcome)
        return tuple(kept)

    def _irreversible(self, small: Attempt) -> bool:
        return any(
            self.side_effects.get(str(call.get("name"))) == "irreversible" for call in recorded_calls(small.answer)
        )


# ---- what the labels of one step say --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the labels of one step say together; the fields are those of `Case`."""

    right: bool | None = None
    harm: bool | None = None
    source: str | None = None
    propensity: float | None = None
    labels: tuple[Label, ...] = ()

    @property
    def large_right(self) -> bool | None:
        """Whether the large answer is right. Where it was compared with small's and nobody judged, it is the measure.

        Else it is known where it was the same as small's, or where small is wrong and harm is known.
        """
        if self.source in _COMPARED:
            return True
        if any(label.source in _COMPARED and (label.right or label.harm is False) for label in self.labels):
            return self.right
        return self.harm if self.right is False else None


def known(
    trace: StepTrace,
    told: Sequence[Label],
    *,
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
) -> Known:
    """What is known about a step from the labels it was told and from those that need nobody (see `join`)."""
    labels = [*told, *_own(trace, evaluator, same_text)]
    if not labels:
        return Known()
    counted = resolve(labels, on_conflict)
    right, harm = (None, None) if counted is None else _meaning(counted)
    if harm is None and any(label.harm is False and label.source in _COMPARED for label in labels):
        harm = False  # small and large said the same: whoever calls it wrong, escalating gains nothing
    return Known(
        right=right,
        harm=harm,
        source=None if counted is None else counted.source,
        propensity=max((label.propensity for label in labels if label.propensity is not None), default=None),
        labels=tuple(labels),
    )


def _own(trace: StepTrace, evaluator: Evaluator | None, same_text: SameText | None) -> Iterator[Label]:
    """The labels that need nobody: the evaluator's, and that of two answers to compare."""
    if evaluator is not None:
        right = evaluator(trace)
        if right is not None:
            yield Label(step_id=trace.id, source="evaluator", right=bool(right))
    if trace.escalated:
        same = same_answers(trace, same_text=same_text)
        if same is not None:
            yield Label(step_id=trace.id, source="escalation", right=same, harm=not same)


# ---- which label counts ---------------------------------------------------------------------------------------------


def resolve(labels: Sequence[Label], on_conflict: OnConflict = "precedence") -> Label | None:
    """The label that counts, by `PRECEDENCE`, then the latest; None when none says anything (or they contradict)."""
    telling = [label for label in labels if label.right is not None or label.harm is not None]
    if not telling or (on_conflict == "exclude" and contradict(telling)):
        return None
    order = {source: rank for rank, source in enumerate(PRECEDENCE)}
    rank, _ = min((order.get(label.source, len(order)), i) for i, label in enumerate(telling))
    best = [label for label in telling if order.get(label.source, len(order)) == rank]
    return max(enumerate(best), key=lambda pair: (pair[1].at or "", pair[0]))[1]


def _meaning(label: Label) -> tuple[bool | None, bool | None]:
    """(right, harm) of a label, each from the other where it follows."""
    right, harm = label.right, label.harm
    if harm:
        right = False
    elif right:
        harm = False
    return right, harm


def contradict(labels: Sequence[Label]) -> bool:
    """Whether some say right and some wrong, or some harm and some none."""
    meanings = [_meaning(label) for label in labels]
    rights = {right for right, _ in meanings if right is not None}
    harms = {harm for _, harm in meanings if harm is not None}
    return len(rights) > 1 or len(harms) > 1


def unit_hash(text: str) -> float:
    """A number in [0, 1) that looks drawn and is always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:7], "big") / 2**56


# ---- two answers to one step ----------------------------------------------------------------------------------------


def same_answers(trace: StepTrace, *, same_text: SameText | None = None) -> bool | None:
    """Whether the small draft and the large answer of an escalated step say the same thing; None when it is unclear.

    Calls are compared without their order, after normalising. Of the tools nothing is recorded but their calls, so an
    argument that repeats a declared default counts as a difference.
    """
    small = trace.attempts[0].answer
    large = next((a for a in reversed(trace.attempts) if a.tier != "small"), None)
    if large is None or large.answer is None or not large.usable or small is None:
        return None
    return same(small, large.answer, same_text=same_text)
