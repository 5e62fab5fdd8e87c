"""The metrics of steps, by the OpenTelemetry API alone, for dashboards and alerts.

The number of series is bounded whatever people, models and validators write. A dimension takes the first names it is
given, an instrument the first sets of them; what comes later is counted under `other`.

Counters are kept here and read when somebody collects: a call of the SDK costs many times as much as an addition.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.metrics import NoOpHistogram, NoOpMeter, Observation

from cascade_agent import semconv as names
from cascade_agent._fork import after_fork
from cascade_agent.core.clean_json import clean_text
from cascade_agent.telemetry import errors
from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.events import label_of

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
"""Name of a call to the large tier that ran in parallel with the small one and was dropped."""
OTHER: Final = "other"
_MAX_NAMES: Final = {"step": 200}
_MAX_OTHER_NAMES: Final = 64
_MAX_SETS: Final = 1900  # SDKs keep 2,000 per instrument
_MAX_LENGTH: Final = 128
_OPEN: Final = frozenset({"step", "reason", "validator"})
Names = defaultdict[str, set[str]]
"""The names that each dimension has taken so far; shared by all instruments, so that they agree."""
_HISTOGRAMS: Final = {
    names.STEP_DURATION: ("s", SECONDS, "How long a step took, with both tiers and all evidence."),
    names.ATTEMPT_SCORE: ("1", SCORES, "Confidence in a draft, P(right) by the policy's scorer."),
    names.VALIDATION_DURATION: (
        "s",
        JUDGING,
        "How long evidence, or all local validators together, took over a draft.",
    ),
}
_COUNTERS: Final = {
    names.ATTEMPTS: ("{attempt}", "Drafts of a tier; `skipped` ones were not called for."),
    names.VALIDATION_RESULTS: ("{verdict}", "Verdicts of validators."),
    names.VALIDATION_TIME: ("s", "Time that each validator took in all."),
    names.COST: ("{currency}", "Cost of drafts, evidence, hedges and shadow calls, as far as known."),
    names.COST_UNKNOWN: ("{call}", "Model calls whose cost is unknown."),
    names.TELEMETRY_LOST: ("{call}", "Calls of telemetry that failed and were ignored."),
    names.JOURNAL_LOST: ("{record}", "Records that could not be written to a journal."),
}


@dataclass(slots=True, eq=False)
class Series:
    """One series: its attributes, and its sum where it is a counter's."""

    attributes: dict[str, str]
    total: float = 0.0


class SeriesTable(dict[tuple[str, ...], Series]):
    """The series of one instrument by the values of its dimensions. The caller holds the lock of the instruments."""

    def __init__(self, names: Names, *dimensions: str) -> None:
        super().__init__()
        self._names, self._dimensions = names, dimensions
        self._sets: dict[tuple[str, ...], Series] = {}

    def __missing__(self, values: tuple[str, ...]) -> Series:
        """Return the series of values that are new, or that have no series of their own."""
        names = tuple(map(self._bounded, self._dimensions, values))
        if names not in self._sets and len(self._sets) >= _MAX_SETS:
            pairs = zip(self._dimensions, names, strict=True)
            names = tuple(OTHER if dimension in _OPEN else name for dimension, name in pairs)
        series = self._sets.setdefault(names, Series(dict(zip(self._dimensions, names, strict=True))))
        if names == values:  # others come in any number and are looked up anew
            self[values] = series
        return series

    def _bounded(self, dimension: str, name: str) -> str:
        """Return the name itself while there is room for it, else `other`."""
        name = clean_text(name)[:_MAX_LENGTH]
        taken = self._names[dimension]
        if name not in taken and len(taken) >= _MAX_NAMES.get(dimension, _MAX_OTHER_NAMES):
            return OTHER
        taken.add(name)
        return name

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """Yield the sums, for a collection."""
        for series in list(self._sets.values()):
            total = series.total
            yield Observation(int(total) if total.is_integer() else total, series.attributes)


class Instruments:
    """The instruments of one meter; one that the meter refuses counts nothing, and the others go on."""

    def __init__(self, meter: Meter) -> None:
        few = Names(set)
        self.lock = threading.Lock()
        made = [_histogram(meter, name, *facts) for name, facts in _HISTOGRAMS.items()]
        self.step_duration, self.attempt_score, self.validation_duration = made
        self.steps = SeriesTable(few, "step", "outcome")
        self.tiers = SeriesTable(few, "step", "tier")
        self.judged = SeriesTable(few, "step", "tier", "validator")
        self.attempts = SeriesTable(few, "step", "tier", "outcome", "reason")
        self.results = SeriesTable(few, "step", "tier", "validator", "outcome")
        self.time = SeriesTable(few, "step", "tier", "validator")
        self.cost = SeriesTable(few, "step", "tier", "currency")
        self.cost_unknown = SeriesTable(few, "step", "tier")
        kept = (self.attempts, self.results, self.time, self.cost, self.cost_unknown)
        reads: list[Callable[[CallbackOptions], Iterator[Observation]]] = [table.observe for table in kept]
        reads.append(lambda _: iter([Observation(errors.lost)]))
        reads.append(lambda _: iter([Observation(sum(read() for read in _losses))]))
        for (name, (unit, description)), read in zip(_COUNTERS.items(), reads, strict=True):
            with guarded:
                meter.create_observable_counter(name, [read], unit=unit, description=description)


def _histogram(meter: Meter, name: str, unit: str, bounds: Sequence[float], description: str) -> Histogram:
    with guarded:
        return meter.create_histogram(
            name, unit=unit, description=description, explicit_bucket_boundaries_advisory=bounds
        )
    return NoOpHistogram(name)


_losses: list[Callable[[], int]] = []


def count_losses(read: Callable[[], int]) -> None:
    """Register a function that reads a number of lost records of the whole process, for `cascade.journal.lost`."""
    if read not in _losses:
        _losses.append(read)


_NOW: Instruments | None = None
"""One set for the process, made once somebody can read it."""
_MAKING = threading.Lock()


def listen() -> None:
    """Make the instruments once a provider is set that is more than the API's own, which keeps nothing."""
    global _NOW  # noqa: PLW0603 - one set for the process, by design
    if _NOW is not None or type(otel_metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics"):
        return
    with _MAKING:
        if _NOW is None:
            meter: Meter = NoOpMeter("cascade_agent")
            with guarded:
                meter = otel_metrics.get_meter("cascade_agent")
            _NOW = Instruments(meter)


def _after_fork() -> None:
    global _MAKING  # noqa: PLW0603 - another thread of the parent may have held either
    _MAKING = threading.Lock()
    if _NOW is not None:
        _NOW.lock = threading.Lock()


after_fork(_after_fork)


def record(span: Span, trace: StepTrace) -> None:
    """Count a step that ended. The step's span goes along, so that backends can show an example of a series."""
    to, step = _NOW, trace.step
    if to is None:
        return
    with guarded:
        reviewed = trace.outcome == "human_review"  # all else was counted when the step stopped for the human
        evidence = [] if reviewed else [call for call in trace.evidence if call.name != HEDGE]
        with to.lock:
            ended = to.steps[step, trace.outcome]
            scores = [] if reviewed else [(a.confidence, to.tiers[step, a.tier]) for a in trace.attempts]
            took = [(call.latency, to.judged[step, "small", call.name]) for call in evidence]
            if not reviewed:
                _count(to, trace, evidence)
        where = otel_trace.set_span_in_context(span)
        to.step_duration.record(trace.latency or 0.0, ended.attributes, context=where)
        _observe(to.attempt_score, scores, where)
        _observe(to.validation_duration, took, where)


def record_validation(step: str, tier: str | None, took: Sequence[tuple[str, float]]) -> None:
    """Note how long the local validators took over a tier's draft, or over the context before it (None), in seconds."""
    to = _NOW
    if to is None or not took:
        return
    with guarded:
        with to.lock:
            judged = to.judged[step, tier or "small", LOCAL if tier else BEFORE]
            for name, seconds in took:
                to.time[step, tier or "small", name].total += seconds
        to.validation_duration.record(sum([seconds for _, seconds in took]), judged.attributes)


def record_cost(step: str, tier: str, cost: float | None, currency: str) -> None:
    """Add the cost of a call that is in no record of a step, such as a shadow's; None is unknown."""
    to = _NOW
    if to is not None:
        with guarded, to.lock:
            _pay(to, step, tier, cost, currency)


def _observe(histogram: Histogram, values: Sequence[tuple[float | None, Series]], where: Context) -> None:
    for value, series in values:
        if value is not None:
            histogram.record(value, series.attributes, context=where)


def _count(to: Instruments, trace: StepTrace, evidence: Sequence[SideCall]) -> None:
    step = trace.step
    ends = [decision.reason for decision in trace.decisions if not decision.action.startswith("ask_")]
    for index, attempt in enumerate(trace.attempts):
        reason = "accepted" if attempt.outcome == "accepted" else attempt.outcome if index >= len(ends) else ends[index]
        to.attempts[step, attempt.tier, attempt.outcome, reason].total += 1
        for verdict in attempt.verdicts:
            to.results[step, attempt.tier, verdict.validator, label_of(verdict)].total += 1
    for call in evidence:
        if call.latency is not None:
            to.time[step, "small", call.name].total += call.latency
    # Each part of the cost once: a tier that is a cascade itself has counted its own.
    parts = [(a.tier, a.cost) for a in trace.attempts if a.inner is None and a.outcome != "skipped"]
    parts += [(HEDGE if call.name == HEDGE else "evidence", call.cost) for call in trace.evidence]
    costs = [attempt.cost for attempt in trace.attempts] + [call.cost for call in trace.evidence]
    mixed = trace.cost is None and None not in costs  # in several currencies; which is in which the record does not say
    for tier, cost in parts:
        _pay(to, step, tier, None if mixed and cost else cost, trace.currency)


def _pay(to: Instruments, step: str, tier: str, cost: float | None, currency: str) -> None:
    if cost is None:
        to.cost_unknown[step, tier].total += 1
    else:
        to.cost[step, tier, currency].total += cost
