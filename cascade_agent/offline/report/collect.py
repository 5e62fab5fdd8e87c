"""One pass over the labels and one over the steps of a journal: everything a report counts, in bounded memory.

Law: nothing read is trusted. A journal is a file that anybody may have written; a cost that is no number is unknown, a
name that is no text is none.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from cascade_agent.errors import RecordError
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.offline.evaluation.dataset import resolve, same_answers
from cascade_agent.offline.evaluation.replay import Replayed, replay
from cascade_agent.offline.report.streaming import Cell, Counts, Reservoir, Sample, Timeline, Top, hash_of

if TYPE_CHECKING:
    import os

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Attempt, Label, StepTrace

MAX_LABELLED: Final = 100_000
"""Steps whose labels are held; of more, those with the least hashes."""

MAX_SAMPLE: Final = 10_000
"""Steps kept of each of three groups for the sweep: small answered and labelled, small answered and not, others."""

MAX_SEEN: Final = 200_000
"""Steps among which a repeated one is recognised."""

MAX_THREADS: Final = 200_000
MAX_NAMES: Final = 64
MAX_CODES: Final = 40
RESERVOIR: Final = 10_000
SHOWN: Final = 20
UNFINISHED: Final = ("interrupted", "cancelled", "error")

_CLOCKS = (946_684_800.0, 7_258_118_400.0)
_NO_ANSWER = 2.0  # doubt of a step without any answer: before all that have one


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A step as the sweep needs it, without anything that people or models said.

    `acceptable` is the confidence up to which thresholds accept the small draft, None when none does; `confidence` is
    what the scorer says of the draft. `draft_cost` is that of small and its evidence, `large_cost` that of large where
    it was asked, `base` and `tokens` cost and tokens of the small call, from which large's is estimated. `policy_small`
    says whether the policy would take the small draft, None where the record cannot tell, `policy_cost` what small and
    evidence would cost then.
    """

    episode: int
    currency: str
    answered: bool
    confidence: float | None
    acceptable: float | None
    unreplayable: bool
    policy_small: bool | None
    policy_cost: float | None
    draft_cost: float | None
    large_cost: float | None
    base: float | None
    tokens: int | None
    right: bool | None
    harm: bool | None
    source: str | None
    propensity: float | None
    tool_failed: bool


@dataclass(slots=True)
class Book:
    """What the steps in one currency cost."""

    steps: int = 0
    known: float = 0.0
    unknown: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    whole: Cell = field(default_factory=Cell)
    pairs: int = 0
    pair_small: float = 0.0
    pair_large: float = 0.0
    pair_tokens: int = 0
    measured: int = 0
    cascade_measured: float = 0.0
    open_cost: float = 0.0
    open_tokens: float = 0.0
    open_steps: int = 0
    open_no_cost: int = 0
    open_no_tokens: int = 0


Stratum = Literal["labelled", "unlabelled", "other"]


class Gathered:
    """What one reading of the journals leaves: counts, sums, samples."""

    def __init__(self) -> None:
        self.steps = self.repeated = self.escalated = self.degraded = self.undated = 0
        self.outcomes: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.threads: set[int] = set()
        self.threads_full = False
        self.policies = Counts(MAX_CODES)
        self.models: dict[str, Counts] = {}
        self.names = Counts(MAX_NAMES, "(other steps)")
        self.escalated_by: Counter[str] = Counter()
        self.reasons: dict[str, Counts] = {}
        self.books: dict[str, Book] = {}
        self.latency: dict[str, Reservoir] = {}
        self.samples: dict[Stratum, Sample[Record]] = {
            "labelled": Sample(MAX_SAMPLE),
            "unlabelled": Sample(MAX_SAMPLE),
            "other": Sample(MAX_SAMPLE),
        }
        self.sources: Counter[str] = Counter()
        self.expensive: Top[StepTrace] = Top(SHOWN)
        self.doubtful: Top[StepTrace] = Top(SHOWN)
        self.histogram = [[0, 0] for _ in range(20)]
        self.unmeasured = 0
        self.rescored = self.disagreeing = 0
        self.first: float | None = None
        self.last: float | None = None
        self.notes: list[str] = []
        self.labels = self.shadow_calls = self.shadow_unknown = 0
        self.shadow = 0.0
        self.shadow_timeline = Timeline()

    @property
    def currency(self) -> str:
        """The currency of most steps."""
        return max(self.books, key=lambda code: self.books[code].steps) if self.books else "USD"

    @property
    def book(self) -> Book:
        """The books in that currency."""
        return self.books.get(self.currency) or Book()


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def amount(value: object) -> float | None:
    """A number that can be a cost or a time: finite and not negative."""
    value = number(value)
    return value if value is not None and value >= 0 else None


def text(value: object) -> str:
    """A text, or nothing."""
    return value if isinstance(value, str) else ""


def moment(value: object) -> float | None:
    """An ISO 8601 time as seconds since 1970; without a zone it is UTC. None outside of 2000-2200: a clock not set."""
    try:
        time = dt.datetime.fromisoformat(text(value))
        stamp = (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return stamp if _CLOCKS[0] <= stamp < _CLOCKS[1] else None


def tokens_of(attempt: Attempt) -> int | None:
    """Tokens in and out of an attempt."""
    usage = attempt.usage
    if usage is None:
        return None
    counts = [amount(usage.input_tokens), amount(usage.output_tokens)]
    return None if None in counts else int(sum(count or 0 for count in counts))


def gather(
    paths: Sequence[str | os.PathLike[str]],
    *,
    policy: Policy,
    rescore: bool,
    on_error: Literal["raise", "skip"] = "raise",
) -> Gathered:
    """Read the journals.

    Args:
        paths: journal files or glob patterns; a step that comes twice counts once.
        policy: whose thresholds are swept.
        rescore: whether confidences are the policy's scorer's instead of those of the record.
        on_error: what a line that is no record does.

    Raises:
        RecordError: a journal that cannot be read, or no step in any.
    """
    out = Gathered()
    labels = _Labels(out)
    for label in read_labels(*paths, on_error=on_error):
        labels.add(label)
    reader = _Reader(out, labels, policy, rescore)
    for trace in read(*paths, on_error=on_error):
        reader.add(trace)
    if not out.steps:
        names = ", ".join(str(path) for path in paths)
        msg = f"{names}: the journal holds no step yet; set CASCADE_JOURNAL where the agent runs and let it work"
        raise RecordError(msg)
    reader.end()
    return out


class _Labels:
    """Labels by step, without notes and answers; of very many, those of the steps with the least hashes."""

    def __init__(self, out: Gathered) -> None:
        self._out = out
        self._by_step: dict[str, list[Label]] = {}
        self.limit = 2**63

    def add(self, label: Label) -> None:
        out = self._out
        out.labels += 1
        if label.side_call is not None:
            out.shadow_calls += 1
            cost = amount(label.side_call.cost)
            if cost is None:
                out.shadow_unknown += 1
            else:
                out.shadow += cost
                time = moment(label.at)
                if time is not None:
                    out.shadow_timeline.at(time).pay("shadow", cost)
        if not isinstance(label.step_id, str) or hash_of(label.step_id) >= self.limit:
            return
        self._by_step.setdefault(label.step_id, []).append(replace(label, note="", answer=None))
        if len(self._by_step) > MAX_LABELLED:
            hashes = sorted(map(hash_of, self._by_step))
            self.limit = hashes[len(hashes) * 9 // 10]  # a tenth at once: cutting is not free
            self._by_step = {step: told for step, told in self._by_step.items() if hash_of(step) < self.limit}

    def of(self, step: str) -> list[Label]:
        return self._by_step.get(step, [])


class _Reader:
    def __init__(self, out: Gathered, labels: _Labels, policy: Policy, rescore: bool) -> None:
        self.out, self.labels, self.policy, self.rescore = out, labels, policy, rescore
        self.any_threshold = replace(policy, threshold=0.0, thresholds={}, price_aware=False)
        self.seen: set[int] = set()

    def add(self, trace: StepTrace) -> None:
        out = self.out
        key = hash_of(text(trace.id))
        if key in self.seen:
            out.repeated += 1
            return
        if len(self.seen) < MAX_SEEN:
            self.seen.add(key)
        out.steps += 1
        if not trace.attempts:
            out.outcomes[text(trace.outcome)] += 1
            return
        labels = [*self.labels.of(trace.id), *_own_label(trace)]
        self._count(trace)
        self._time(trace)
        self._money(trace, labels)
        self._confidence(trace)
        self._sample(trace, labels, key)
        self._show(trace)

    def _count(self, trace: StepTrace) -> None:
        out, name = self.out, self.out.names.add(text(trace.step))
        out.outcomes[text(trace.outcome)] += 1
        answered = _answerer(trace)
        out.answers[answered] += 1
        out.degraded += trace.degraded is True
        thread = hash_of(text(trace.thread_id) or f"step:{trace.id}")
        if len(out.threads) < MAX_THREADS:
            out.threads.add(thread)
        elif thread not in out.threads:
            out.threads_full = True
        out.policies.add(text(trace.policy) or "(not recorded)")
        for attempt in trace.attempts:
            if attempt.outcome != "skipped":
                counts = out.models.setdefault(_tier(attempt), Counts(MAX_CODES))
                counts.add(text(attempt.model) or "(not recorded)")
        if trace.escalated:
            out.escalated += 1
            out.escalated_by[name] += 1
            out.reasons.setdefault(name, Counts(MAX_CODES, "(other reasons)")).add(_why(trace))

    def _time(self, trace: StepTrace) -> None:
        out = self.out
        for attempt in trace.attempts:
            if attempt.outcome != "skipped" and (spent := amount(attempt.latency)) is not None:
                _reservoir(out, _tier(attempt)).add(spent)
        for spend in trace.evidence:
            if (spent := amount(spend.latency)) is not None:
                _reservoir(out, "evidence").add(spent)
        if (spent := amount(trace.latency)) is not None:
            _reservoir(out, "step, escalated" if trace.escalated else "step, small only").add(spent)
        time = moment(trace.started_at)
        if time is None:
            out.undated += 1
            return
        out.first = time if out.first is None else min(time, out.first)
        out.last = time if out.last is None else max(time, out.last)

    def _money(self, trace: StepTrace, labels: Sequence[Label]) -> None:
        out = self.out
        code = text(trace.currency) or "?"
        if code not in out.books and len(out.books) >= MAX_CODES:
            code = "(others)"
        book = out.books.setdefault(code, Book())
        book.steps += 1
        cost = amount(trace.cost)
        time = moment(trace.started_at)
        cell = Cell() if time is None else book.timeline.at(time)
        cell.steps += 1
        cell.escalated += trace.escalated
        if cost is None:
            book.unknown += 1
            cell.unknown += 1
        else:
            book.known += cost
            for what, part in _parts(trace):
                cell.pay(what, part)
        self._always_large(book, cell, trace, labels, cost)

    @staticmethod
    def _always_large(book: Book, cell: Cell, trace: StepTrace, labels: Sequence[Label], cost: float | None) -> None:
        """Note what the large model did cost in this step, or what its cost can be estimated from."""
        small, large = trace.attempts[0], _large_cost(trace, labels)
        base, tokens = amount(small.cost), tokens_of(small)
        asked = small.outcome != "skipped" and small.tier == "small"
        if large is not None and asked and base is not None and tokens is not None:
            book.pairs += 1
            book.pair_small += base
            book.pair_large += large
            book.pair_tokens += tokens
        if cost is None:
            return
        if large is not None:
            book.measured += 1
            book.cascade_measured += cost
            book.whole.large += large
            cell.large += large
            cell.comparable += 1
        elif asked and base is not None and tokens is not None and not trace.escalated:
            book.open_steps += 1
            book.open_cost += cost
            book.whole.small += base
            book.whole.tokens += tokens
            cell.small += base
            cell.tokens += tokens
            cell.comparable += 1

    def _confidence(self, trace: StepTrace) -> None:
        out, small = self.out, trace.attempts[0]
        if small.outcome not in ("accepted", "rejected"):
            return
        told = self._told(small)
        if told is None:
            out.unmeasured += 1
        else:
            out.histogram[min(19, int(told * 20))][bool(trace.escalated)] += 1

    def _told(self, small: Attempt) -> float | None:
        """The confidence of the small draft: the record's, or the given policy's."""
        if self.rescore:
            return self.policy.scorer.confidence(small.verdicts)
        told = number(small.confidence)
        return told if told is not None and 0.0 <= told <= 1.0 else None

    def _sample(self, trace: StepTrace, labels: Sequence[Label], key: int) -> None:
        out = self.out
        if trace.outcome in UNFINISHED or trace.attempts[0].tier != "small" or key >= self.labels.limit:
            return
        answered = trace.final_tier == "small" and not trace.escalated
        counted = resolve(labels)
        if counted is not None:
            out.sources[text(counted.source) or "(nobody)"] += 1
        sample = out.samples["other" if not answered else "unlabelled" if counted is None else "labelled"]
        if sample.wants(key):
            sample.add(key, self._record(trace, labels, counted, answered=answered))

    def _record(self, trace: StepTrace, labels: Sequence[Label], counted: Label | None, *, answered: bool) -> Record:
        small = trace.attempts[0]
        drafted = small.outcome in ("accepted", "rejected")
        right, harm = _meaning(counted)
        if harm is None and any(label.harm is False and label.source in ("escalation", "shadow") for label in labels):
            harm = False
        chances = [p for label in labels if (p := number(label.propensity)) is not None and 0 < p <= 1]
        free = replay(trace, self.any_threshold)
        taken = replay(trace, self.policy)
        gathered = [d.evidence for d in free.decisions if d.action == "ask_evidence" and d.evidence is not None]
        acceptable = None
        if free.final_tier == "small" and not free.escalated:
            silent = {name for name in small.gathered if name not in gathered}
            acceptable = self.policy.scorer.confidence([v for v in small.verdicts if v.validator not in silent])
        if drafted:
            self._compare(small)
        asked = small.outcome != "skipped"
        return Record(
            episode=hash_of(text(trace.thread_id) or f"step:{trace.id}"),
            currency=text(trace.currency),
            answered=answered,
            confidence=self._told(small) if drafted else None,
            acceptable=acceptable,
            unreplayable=not free.known and not free.escalated,
            policy_small=None if not taken.known and not taken.escalated else not taken.escalated,
            policy_cost=_draft_cost(trace, taken),
            draft_cost=_draft_cost(trace, free),
            large_cost=_large_cost(trace, labels),
            base=amount(small.cost) if asked else None,
            tokens=tokens_of(small) if asked else None,
            right=right if drafted else None,
            harm=harm,
            source=text(counted.source) if counted is not None else None,
            propensity=max(chances, default=None),
            tool_failed=any(label.source == "tool_error" for label in labels),
        )

    def _compare(self, small: Attempt) -> None:
        """Whether the swept scorer is the one whose confidences stand in the record."""
        told, ours = number(small.confidence), self.policy.scorer.confidence(small.verdicts)
        self.out.rescored += 1
        self.out.disagreeing += (told is None) != (ours is None) or (
            told is not None and ours is not None and abs(told - ours) > 1e-6  # noqa: PLR2004 - beyond rounding
        )

    def _show(self, trace: StepTrace) -> None:
        out, cost = self.out, amount(trace.cost)
        if cost is not None and out.expensive.wants(cost):
            out.expensive.add(cost, trace)
        told = number(trace.confidence)
        doubt = None if told is None else -told
        if trace.outcome not in UNFINISHED and trace.final is None:
            doubt = _NO_ANSWER
        if doubt is not None and out.doubtful.wants(doubt):
            out.doubtful.add(doubt, trace)

    def end(self) -> None:
        """What was cut or sampled, in sentences."""
        out, labels = self.out, self.labels
        if out.repeated:
            out.notes.append(f"{out.repeated} steps came a second time in these files and are counted once.")
        if len(self.seen) == MAX_SEEN:
            out.notes.append(f"Repeated steps were looked for among the first {MAX_SEEN:,} steps only.")
        if labels.limit < 2**63:
            out.notes.append(
                f"More than {MAX_LABELLED:,} steps are labelled: curves use a part of them, by a hash of the id."
            )


def _own_label(trace: StepTrace) -> list[Label]:
    """An escalated step labels itself where both answers can be compared."""
    from cascade_agent.core.records import Label

    if not trace.escalated:
        return []
    try:
        same = same_answers(trace)
    except (AttributeError, TypeError, ValueError, RecursionError):  # an answer of a shape that nobody writes
        return []
    return [] if same is None else [Label(step_id=trace.id, source="escalation", right=same, harm=not same)]


def _meaning(label: Label | None) -> tuple[bool | None, bool | None]:
    """(right, harm), each from the other where it follows."""
    if label is None:
        return None, None
    right = label.right if isinstance(label.right, bool) else None
    harm = label.harm if isinstance(label.harm, bool) else None
    if harm:
        return False, True
    return right, False if right else harm


def _answerer(trace: StepTrace) -> str:
    if trace.outcome in UNFINISHED:
        return "unfinished"
    tier = trace.final_tier
    return "nobody" if tier is None else "small" if tier == "small" else "large"


def _tier(attempt: Attempt) -> str:
    return "small" if attempt.tier == "small" else "large"


def _why(trace: StepTrace) -> str:
    reason = next((d.reason for d in trace.decisions if d.action == "escalate"), trace.reason)
    return text(reason) or "(not recorded)"


def _reservoir(out: Gathered, who: str) -> Reservoir:
    return out.latency.setdefault(who, Reservoir(RESERVOIR))


def _draft_cost(trace: StepTrace, done: Replayed) -> float | None:
    """What small and the evidence that a replay asked for cost."""
    side_calls = {spend.name: amount(spend.cost) for spend in trace.evidence}
    gathered = [d.evidence for d in done.decisions if d.action == "ask_evidence" and d.evidence is not None]
    costs = [amount(trace.attempts[0].cost), *(side_calls.get(name) for name in gathered)]
    return None if None in costs else sum(cost or 0.0 for cost in costs)


def _parts(trace: StepTrace) -> list[tuple[str, float]]:
    """What a step of known cost was paid for."""
    parts = [(_tier(a), amount(a.cost) or 0.0) for a in trace.attempts]
    parts += [("evidence", amount(spend.cost) or 0.0) for spend in trace.evidence]
    return parts


def _large_cost(trace: StepTrace, labels: Sequence[Label]) -> float | None:
    """What asking large cost in this step: by the cascade, else by a shadow call. None when it was not asked."""
    asked = [amount(a.cost) for a in trace.attempts if a.tier != "small" and a.outcome != "skipped"]
    if asked:
        return None if None in asked else sum(cost or 0.0 for cost in asked)
    shadow = [
        amount(label.side_call.cost) for label in labels if label.source == "shadow" and label.side_call is not None
    ]
    return next((cost for cost in shadow if cost is not None), None)


def cut(value: object, length: int) -> str:
    """A text, at most so long, and saying so."""
    value = value if isinstance(value, str) else str(value)
    return value if len(value) <= length else f"{value[:length]}… ({len(value) - length:,} more characters)"


def calls_of(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tool calls of a recorded answer, broken ones too."""
    found = []
    for key in ("tool_calls", "invalid_tool_calls"):
        calls = answer.get(key)
        found += [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    return found
