"""The metrics of steps, by the OpenTelemetry API alone: what dashboards and alerts are made of.

Law: the number of series is bounded whatever people, models and validators say. A dimension takes the first names it is
given, an instrument the first sets of them; what comes later is counted under `other`.

| instrument | kind, unit | dimensions |
|---|---|---|
| `cascade.step.duration` | histogram, s | step, outcome |
| `cascade.attempts` | counter | step, tier, outcome, reason |
| `cascade.attempt.score` | histogram, confidence in [0, 1] | step, tier |
| `cascade.validation.results` | counter of verdicts | step, tier, validator, outcome |
| `cascade.validation.duration` | histogram, s; `local`: all on a draft, `context`: all before | step, tier, validator |
| `cascade.validation.time` | counter, s, of each validator | step, tier, validator |
| `cascade.cost` | counter; tier is also `evidence`, `hedge`, `shadow` | step, tier, currency |
| `cascade.cost.unknown` | counter of calls whose cost nobody knows | step, tier |
| `cascade.telemetry.lost` | counter of telemetry calls that failed | - |
| `cascade.journal.lost` | counter of records that no journal took | - |

Counters are kept here and read when somebody collects: a call of the SDK costs many times as much as an addition.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.metrics import Observation

from cascade_agent import semconv as names
from cascade_agent.core.clean_json import clean_text
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry.spans import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter
    from opentelemetry.trace import Span

    from cascade_agent.core.records import SideCall, StepTrace

SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
"""Bounds for a step: those that the GenAI conventions give for a model call, and one more for two of them."""
JUDGING: Final = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds for a validator: local rules take microseconds, a judge takes as long as a model."""
SCORES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Bounds for a confidence, closer where thresholds lie."""

LOCAL: Final = "local"
BEFORE: Final = "context"
"""The `validator` under which the time of all local validators of a draft, or of the context before it, stands."""
HEDGE: Final = "hedge"
"""Name of a call to the large tier that was begun beside the small one and dropped."""
OTHER: Final = "other"
_MAX_NAMES: Final = {"step": 200}
_MAX_OTHER_NAMES: Final = 64
_MAX_SETS: Final = 1900  # SDKs keep 2,000 per instrument
_MAX_LENGTH: Final = 128
_OPEN: Final = frozenset({"step", "reason", "validator"})
_API: Final = "opentelemetry.metrics"


class Names:
    """The names that each dimension has taken so far; shared by all instruments, so that they agree."""

    def __init__(self) -> None:
        self._taken: dict[str, set[str]] = {}

    def bounded(self, dimension: str, name: str) -> str:
        """The name itself while there is room for it, else `other`."""
        name = clean_text(name)[:_MAX_LENGTH]
        taken = self._taken.setdefault(dimension, set())
        if name not in taken:
            if len(taken) >= _MAX_NAMES.get(dimension, _MAX_OTHER_NAMES):
                return OTHER
            taken.add(name)
        return name


class One:
    """One series: its attributes, and its sum where it is a counter's."""

    __slots__ = ("attributes", "total")

    def __init__(self, attributes: dict[str, str]) -> None:
        self.attributes = attributes
        self.total = 0.0


class Series:
    """The series of one instrument. The caller holds the lock of the instruments."""

    __slots__ = ("_by_value", "_dimensions", "_names", "_sets")

    def __init__(self, names: Names, *dimensions: str) -> None:
        self._names, self._dimensions = names, dimensions
        self._sets: dict[tuple[str, ...], One] = {}
        self._by_value: dict[tuple[str, ...], One] = {}

    def of(self, *values: str) -> One:
        """The series for these values, one per dimension."""
        return self._by_value.get(values) or self._new(values)

    def _new(self, values: tuple[str, ...]) -> One:
        pairs = zip(self._dimensions, values, strict=True)
        names = tuple(self._names.bounded(dimension, value) for dimension, value in pairs)
        if names not in self._sets and len(self._sets) >= _MAX_SETS:
            pairs = zip(self._dimensions, names, strict=True)
            names = tuple(OTHER if dimension in _OPEN else name for dimension, name in pairs)
        one = self._sets.get(names)
        if one is None:
            one = self._sets[names] = One(dict(zip(self._dimensions, names, strict=True)))
        if names == values:  # others come in any number and are looked up anew
            self._by_value[values] = one
        return one

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """The sums, for a collection."""
        for one in list(self._sets.values()):
            yield Observation(int(one.total) if one.total.is_integer() else one.total, one.attributes)


class Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: Meter) -> None:
        few = Names()
        self.lock = threading.Lock()
        self._waiting = type(meter).__module__.startswith(_API)
        self.step_duration = meter.create_histogram(
            names.STEP_DURATION,
            unit="s",
            description="How long a step took, with both tiers and all evidence.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.attempt_score = meter.create_histogram(
            names.ATTEMPT_SCORE,
            unit="1",
            description="Confidence in a draft, P(right) by the policy's scorer.",
            explicit_bucket_boundaries_advisory=SCORES,
        )
        self.validation_duration = meter.create_histogram(
            names.VALIDATION_DURATION,
            unit="s",
            description="How long evidence, or all local validators together, took over a draft.",
            explicit_bucket_boundaries_advisory=JUDGING,
        )
        self.steps = Series(few, "step", "outcome")
        self.tiers = Series(few, "step", "tier")
        self.judged = Series(few, "step", "tier", "validator")
        self.attempts = Series(few, "step", "tier", "outcome", "reason")
        self.results = Series(few, "step", "tier", "validator", "outcome")
        self.time = Series(few, "step", "tier", "validator")
        self.cost = Series(few, "step", "tier", "currency")
        self.cost_unknown = Series(few, "step", "tier")
        for name, read, unit, description in (
            (
                names.ATTEMPTS,
                self.attempts.observe,
                "{attempt}",
                "Drafts of a tier; `skipped` ones were not asked for.",
            ),
            (names.VALIDATION_RESULTS, self.results.observe, "{verdict}", "What validators found."),
            (names.VALIDATION_TIME, self.time.observe, "s", "Time that each validator took in all."),
            (
                names.COST,
                self.cost.observe,
                "{currency}",
                "Cost of drafts, evidence, hedges and shadow calls, as far as known.",
            ),
            (names.COST_UNKNOWN, self.cost_unknown.observe, "{call}", "Model calls whose cost is unknown."),
            (names.TELEMETRY_LOST, _told, "{call}", "Calls of telemetry that failed and were ignored."),
            (names.JOURNAL_LOST, _unwritten, "{record}", "Records that could not be written to a journal."),
        ):
            meter.create_observable_counter(name, [read], unit=unit, description=description)

    def live(self) -> bool:
        """Whether anybody can ever read: the provider is more than the API's own, which keeps nothing."""
        if self._waiting:
            self._waiting = type(otel_metrics.get_meter_provider()).__module__.startswith(_API)
        return not self._waiting


# ---- what was lost --------------------------------------------------------------------------------------------------

_losses: list[Callable[[], int]] = []


def count_losses(read: Callable[[], int]) -> None:
    """Tell `cascade.journal.lost` where to read a number of lost records: a function of the whole process."""
    if read not in _losses:
        _losses.append(read)


def _told(_: CallbackOptions) -> Iterator[Observation]:
    yield Observation(faults.lost)


def _unwritten(_: CallbackOptions) -> Iterator[Observation]:
    yield Observation(sum(read() for read in _losses))


_NOW = Instruments(otel_metrics.get_meter("cascade_agent"))


def _after_fork() -> None:
    _NOW.lock = threading.Lock()  # another thread of the parent may have held it


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)


# ---- recording ------------------------------------------------------------------------------------------------------


def record(span: Span, trace: StepTrace) -> None:
    """Count a step that ended. The step's span goes along, so that backends can show an example of a series."""
    try:
        to, step = _NOW, trace.step
        if not to.live():
            return
        reviewed = trace.outcome == "human_review"  # all else was counted when the step stopped for the human
        with to.lock:
            ended = to.steps.of(step, trace.outcome)
            scores = [] if reviewed else [(a.confidence, to.tiers.of(step, a.tier)) for a in trace.attempts]
            asked = [] if reviewed else [(s.latency, to.judged.of(step, "small", s.name)) for s in _evidence(trace)]
            if not reviewed:
                _count(to, trace)
        where = otel_trace.set_span_in_context(span)
        to.step_duration.record(trace.latency or 0.0, ended.attributes, context=where)
        _observe(to.attempt_score, scores, where)
        _observe(to.validation_duration, asked, where)
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)


def validated(step: str, tier: str | None, took: Sequence[tuple[str, float]]) -> None:
    """Note how long the local validators took over a tier's draft, or over the context before it (None), in seconds."""
    try:
        to = _NOW
        if not took or not to.live():
            return
        with to.lock:
            judged = to.judged.of(step, tier or "small", LOCAL if tier else BEFORE)
            for name, seconds in took:
                to.time.of(step, tier or "small", name).total += seconds
        to.validation_duration.record(sum(seconds for _, seconds in took), judged.attributes)
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)


def spent(step: str, tier: str, cost: float | None, currency: str) -> None:
    """Add the cost of a call that is in no record of a step, such as a shadow's; None is unknown."""
    try:
        if _NOW.live():
            with _NOW.lock:
                _pay(_NOW, step, tier, cost, currency)
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)


def _observe(histogram: Histogram, values: Sequence[tuple[float | None, One]], where: Context) -> None:
    for value, one in values:
        if value is not None:
            histogram.record(value, one.attributes, context=where)


def _reasons(trace: StepTrace) -> Iterator[str]:
    """Why each attempt ended: what the decision after it said, `accepted` for the one that was taken."""
    ends = [decision.reason for decision in trace.decisions if not decision.action.startswith("ask_")]
    for index, attempt in enumerate(trace.attempts):
        if attempt.outcome == "accepted":
            yield "accepted"
        else:
            yield ends[index] if index < len(ends) else attempt.outcome


def _count(to: Instruments, trace: StepTrace) -> None:
    step = trace.step
    for attempt, reason in zip(trace.attempts, _reasons(trace), strict=True):
        to.attempts.of(step, attempt.tier, attempt.outcome, reason).total += 1
        for verdict in attempt.verdicts:
            to.results.of(step, attempt.tier, verdict.validator, label_of(verdict)).total += 1
    for spend in _evidence(trace):
        if spend.latency is not None:
            to.time.of(step, "small", spend.name).total += spend.latency
    # Each part of the cost once: a tier that is a cascade itself has told its own.
    parts = [(a.tier, a.cost) for a in trace.attempts if a.inner is None and a.outcome != "skipped"]
    parts += [(HEDGE if spend.name == HEDGE else "evidence", spend.cost) for spend in trace.evidence]
    costs = [attempt.cost for attempt in trace.attempts] + [spend.cost for spend in trace.evidence]
    mixed = trace.cost is None and None not in costs  # in several currencies; which is in which the record does not say
    for tier, cost in parts:
        _pay(to, step, tier, None if mixed and cost else cost, trace.currency)


def _pay(to: Instruments, step: str, tier: str, cost: float | None, currency: str) -> None:
    if cost is None:
        to.cost_unknown.of(step, tier).total += 1
    else:
        to.cost.of(step, tier, currency).total += cost


def _evidence(trace: StepTrace) -> list[SideCall]:
    """What was asked about drafts, without a call that was begun beside one and dropped."""
    return [spend for spend in trace.evidence if spend.name != HEDGE]
