"""The metrics of steps, by the OpenTelemetry API alone: what dashboards and alerts are made of.

Law: the number of series is bounded whatever people, models and validators say. A dimension takes the first names it is
given, an instrument the first sets of them; what comes later is counted under `other`.

| instrument | kind, unit | dimensions |
|---|---|---|
| `cascade.step.duration` | histogram, s | step, outcome |
| `cascade.attempts` | counter | step, tier, outcome, reason |
| `cascade.attempt.score` | histogram, confidence in [0, 1] | step, tier |
| `cascade.validation.results` | counter of verdicts | step, tier, validator, outcome |
| `cascade.validation.duration` | histogram, s | step, tier, validator |
| `cascade.cost` | counter, in the currency of the dimension | step, tier, currency |
| `cascade.cost.unknown` | counter of calls whose cost nobody knows | step, tier |
| `cascade.telemetry.lost` | observable counter of telemetry calls that failed | - |
| `cascade.journal.lost` | observable counter of records that no journal took | - |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.metrics import Observation

from cascade_agent.records import clean_text
from cascade_agent.telemetry import spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter
    from opentelemetry.trace import Span

    from cascade_agent.records import Attempt, StepTrace

SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
"""Bounds for a step: those that the GenAI conventions give for a model call, and one more for two of them."""
JUDGING: Final = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds for a validator: local rules take microseconds, a judge takes as long as a model."""
SCORES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Bounds for a confidence, closer where thresholds lie."""

OTHER: Final = "other"
_MAX_NAMES: Final = {"step": 200}
_MAX_OTHER_NAMES: Final = 64
_MAX_SETS: Final = 2000
_MAX_LENGTH: Final = 128
_OPEN: Final = frozenset({"step", "reason", "validator"})
_LABELS: Final = {"pass": "pass", "fail": "fail", "abstain": "skipped"}


class Names:
    """The names that each dimension has taken so far; shared by all instruments, so that they agree."""

    def __init__(self) -> None:
        self._taken: dict[str, set[str]] = {}

    def bounded(self, dimension: str, name: str) -> str:
        """The name itself while there is room for it, else `other`. No lock: racing threads may add one each."""
        name = clean_text(name)[:_MAX_LENGTH]
        taken = self._taken.setdefault(dimension, set())
        if name not in taken:
            if len(taken) >= _MAX_NAMES.get(dimension, _MAX_OTHER_NAMES):
                return OTHER
            taken.add(name)
        return name


class Series:
    """The attribute sets of one instrument: few, made once, handed out again and again."""

    __slots__ = ("_by_value", "_dimensions", "_names", "_sets")

    def __init__(self, names: Names, *dimensions: str) -> None:
        self._names, self._dimensions = names, dimensions
        self._sets: dict[tuple[str, ...], dict[str, str]] = {}
        self._by_value: dict[tuple[str, ...], dict[str, str]] = {}

    def of(self, *values: str) -> dict[str, str]:
        """The attributes for these values, one per dimension."""
        return self._by_value.get(values) or self._new(values)

    def _new(self, values: tuple[str, ...]) -> dict[str, str]:
        pairs = zip(self._dimensions, values, strict=True)
        names = tuple(self._names.bounded(dimension, value) for dimension, value in pairs)
        told = dict(zip(self._dimensions, names, strict=True))
        if names not in self._sets and len(self._sets) >= _MAX_SETS:
            return {dimension: OTHER if dimension in _OPEN else name for dimension, name in told.items()}
        known = self._sets.setdefault(names, told)
        if names == values:  # others come in any number and are looked up anew
            self._by_value[values] = known
        return known


class Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: Meter) -> None:
        names = Names()
        self.step_duration = meter.create_histogram(
            "cascade.step.duration",
            unit="s",
            description="How long a step took, with both tiers and all evidence.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self.attempts = meter.create_counter(
            "cascade.attempts",
            unit="{attempt}",
            description="Drafts of a tier; `skipped` ones were not asked for.",
        )
        self.attempt_score = meter.create_histogram(
            "cascade.attempt.score",
            unit="1",
            description="Confidence in a draft, P(right) by the policy's scorer.",
            explicit_bucket_boundaries_advisory=SCORES,
        )
        self.validation_results = meter.create_counter(
            "cascade.validation.results", unit="{verdict}", description="What validators found."
        )
        self.validation_duration = meter.create_histogram(
            "cascade.validation.duration",
            unit="s",
            description="How long a validator or a piece of evidence took over a draft.",
            explicit_bucket_boundaries_advisory=JUDGING,
        )
        self.cost = meter.create_counter(
            "cascade.cost", unit="{currency}", description="What drafts and evidence cost, as far as it is known."
        )
        self.cost_unknown = meter.create_counter(
            "cascade.cost.unknown", unit="{call}", description="Model calls whose cost is unknown."
        )
        meter.create_observable_counter(
            "cascade.telemetry.lost",
            callbacks=[_told],
            unit="{call}",
            description="Calls of telemetry that failed and were ignored.",
        )
        meter.create_observable_counter(
            "cascade.journal.lost",
            callbacks=[_unwritten],
            unit="{record}",
            description="Records that could not be written to a journal.",
        )
        self.steps = Series(names, "step", "outcome")
        self.tries = Series(names, "step", "tier", "outcome", "reason")
        self.tiers = Series(names, "step", "tier")
        self.results = Series(names, "step", "tier", "validator", "outcome")
        self.validators = Series(names, "step", "tier", "validator")
        self.costs = Series(names, "step", "tier", "currency")


# ---- what was lost --------------------------------------------------------------------------------------------------

_losses: list[Callable[[], int]] = []


def count_losses(read: Callable[[], int]) -> None:
    """Tell `cascade.journal.lost` where to read a number of lost records: a function of the whole process."""
    if read not in _losses:
        _losses.append(read)


def _told(_: CallbackOptions) -> Iterator[Observation]:
    yield Observation(spans.lost)


def _unwritten(_: CallbackOptions) -> Iterator[Observation]:
    yield Observation(sum(read() for read in _losses))


_NOW = Instruments(otel_metrics.get_meter("cascade_agent"))


# ---- recording ------------------------------------------------------------------------------------------------------


def record(span: Span, trace: StepTrace) -> None:
    """Count a step that ended. The step's span goes along, so that backends can show an example of a series."""
    try:
        to, where = _NOW, otel_trace.set_span_in_context(span)
        to.step_duration.record(trace.latency or 0.0, to.steps.of(trace.step, trace.outcome), context=where)
        if trace.outcome != "human_review":  # all else was counted when the step stopped for the human
            for attempt, reason in zip(trace.attempts, _reasons(trace), strict=True):
                _record_attempt(to, trace.step, attempt, reason, where)
            _record_cost(to, trace)
            for spend in trace.evidence:
                if spend.latency is not None:
                    to.validation_duration.record(spend.latency, to.validators.of(trace.step, "small", spend.name))
    except Exception as error:  # noqa: BLE001 - law 4
        spans._failed(error)  # noqa: SLF001 - one room


def validated(step: str, tier: str, validator: str, seconds: float) -> None:
    """Note how long a validator took over a draft."""
    try:
        _NOW.validation_duration.record(seconds, _NOW.validators.of(step, tier, validator))
    except Exception as error:  # noqa: BLE001 - law 4
        spans._failed(error)  # noqa: SLF001 - one room


def _reasons(trace: StepTrace) -> Sequence[str]:
    """Why each attempt ended: what the decision after it said, `accepted` for the one that was taken."""
    ends = [decision.reason for decision in trace.decisions if decision.action != "gather"]
    return [
        "accepted" if attempt.outcome == "accepted" else ends[index] if index < len(ends) else attempt.outcome
        for index, attempt in enumerate(trace.attempts)
    ]


def _record_attempt(to: Instruments, step: str, attempt: Attempt, reason: str, where: Context) -> None:
    tier = attempt.tier
    to.attempts.add(1, to.tries.of(step, tier, attempt.outcome, reason))
    if attempt.confidence is not None:
        to.attempt_score.record(attempt.confidence, to.tiers.of(step, tier), context=where)
    for verdict in attempt.verdicts:
        label = "error" if verdict.broken else _LABELS[verdict.outcome]
        to.validation_results.add(1, to.results.of(step, tier, verdict.validator, label))


def _record_cost(to: Instruments, trace: StepTrace) -> None:
    """Add each part once: a tier that is a cascade itself has told its own."""
    parts = [(a.tier, a.cost) for a in trace.attempts if a.inner is None and a.outcome != "skipped"]
    parts += [("evidence", spend.cost) for spend in trace.evidence]
    costs = [attempt.cost for attempt in trace.attempts] + [spend.cost for spend in trace.evidence]
    mixed = trace.cost is None and None not in costs
    for tier, cost in parts:
        if cost is None or (mixed and cost):  # parts in several currencies: which is in which, the record does not say
            to.cost_unknown.add(1, to.tiers.of(trace.step, tier))
        else:
            to.cost.add(cost, to.costs.of(trace.step, tier, trace.currency))
