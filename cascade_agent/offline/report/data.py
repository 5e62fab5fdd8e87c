"""The content of a report as plain values: every figure on the page stands here first.

Unknown is `None`, never 0. Money is in `Report.currency`, times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cascade_agent.offline.evaluation.plain import Plain

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import StepTrace
    from cascade_agent.offline.drift import DriftReport
    from cascade_agent.offline.evaluation.estimates import Basis

ANSWERS: Final = ("small", "large", "nobody", "unfinished")  # who answered a step
PARTS: Final = ("small", "large", "evidence", "shadow")  # what money is spent on


@dataclass(frozen=True, slots=True, kw_only=True)
class Money(Plain):
    """A sum of costs: a lower bound while `unknown` records have none."""

    known: float
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysLarge(Plain):
    """The cost of the large model alone against the cascade's on the same steps.

    Large was asked in `measured` of the `steps` (`drawn` of them by a shadow call), the others are `estimated` from the
    shadow calls. `share` is `cascade` (drafts, evidence) and `shadow` over `large`; without shadow calls it lies
    between `low` and `high`, and `why` says what is missing.
    """

    steps: int = 0
    measured: int = 0
    drawn: int = 0
    estimated: int = 0
    left_out: int
    cascade: float | None = None
    shadow: float
    large: float | None = None
    share: float | None = None
    low: float | None = None
    high: float | None = None
    interval: tuple[float, float] | None = None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals(Plain):
    """Counts over all steps. `cost` holds drafts and evidence, `shadow` the shadow calls that labels report."""

    steps: int
    threads: int
    threads_counted: bool
    escalated: int
    by_outcome: dict[str, int]
    by_answer: dict[str, int]
    degraded: int
    cost: Money
    shadow: Money
    shadow_calls: int
    other_currencies: dict[str, Money]
    labels: int
    labelled: dict[str, int]
    repeated: int
    policies: dict[str, int]
    models: dict[str, dict[str, int]]
    first: str | None
    last: str | None

    @property
    def answered(self) -> list[tuple[str, float]]:
        """Return who answered which share of the steps."""
        return [(who, self.by_answer[who] / self.steps) for who in ANSWERS if self.by_answer.get(who)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Plain):
    """A share of steps with its 95 % interval. `n` labelled steps stand behind it; None is unknown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Plain):
    """One way to decide: at a threshold, as a policy does, as it was run, or always one tier.

    `escalated` is a share of steps, `cost` is relative to always-large (None: between `cost_low` and `cost_high`),
    `quality` the share of steps whose answer is at least as good as the large model's (1 - harm).
    """

    name: str
    threshold: float | None = None
    escalated: float | None
    cost: float | None = None
    cost_low: float | None = None
    cost_high: float | None = None
    quality: Share

    @property
    def known(self) -> bool:
        """Return whether cost and quality are known, so that it has a place in the plot."""
        return self.cost is not None and self.quality.value is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier(Plain):
    """Thresholds swept over the journal, and the points people compare with.

    `basis` says how labels stand for all steps (`none`: no quality is known, `why` says what is missing); up to
    `unreplayable` of the `steps` could not be decided anew. `agrees`: the swept scorer is the one of the record.
    """

    curve: tuple[Point, ...]
    marks: tuple[Point, ...]
    basis: Basis
    why: str
    steps: int
    unreplayable: int
    scorer: str
    agrees: bool

    @property
    def known(self) -> bool:
        """Return whether cost and quality of a threshold are known."""
        return any(point.known for point in self.curve if point.threshold is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalations(Plain):
    """Reasons for which the steps of one name escalated."""

    step: str
    steps: int
    escalated: int
    reasons: dict[str, int]

    @property
    def most(self) -> float:
        """Return the share of the steps that escalated for the most frequent reason."""
        return max(self.reasons.values(), default=0) / self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin(Plain):
    """Labelled drafts of like confidence: mean confidence, how many were right, exact 95 % binomial interval."""

    low: float
    high: float
    confidence: float
    n: int
    right: int
    share: float
    interval_low: float
    interval_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability(Plain):
    """Confidences against what labels say. `histogram` counts all steps in 20 bins: taken from small, and escalated."""

    bins: tuple[Bin, ...]
    n: int
    by_source: dict[str, int]
    auroc: float | None
    error: float | None
    histogram: tuple[tuple[int, int], ...]
    unmeasured: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Plain):
    """Percentiles in seconds over `n` calls; `exact` is False when they come from a random sample of `kept`."""

    who: str
    n: int
    p50: float
    p95: float
    p99: float
    kept: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Period(Plain):
    """Spend in one period, by what it was spent on. `always_large` is None where nothing could be compared."""

    start: str
    steps: int
    escalated: int
    small: float
    large: float
    evidence: float
    shadow: float
    always_large: float | None
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending(Plain):
    """Spend over time in periods of equal length (`width` seconds, in UTC); steps without a time are `undated`."""

    periods: tuple[Period, ...]
    width: float
    undated: int
    prices: str

    @property
    def used(self) -> list[str]:
        """Return the purposes that anything was paid for."""
        return [part for part in PARTS if any(getattr(period, part) > 0 for period in self.periods)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Plain):
    """Everything a report says.

    `stand_ins`: the demo's offline stand-ins answered, programs and no models. The texts of the most `expensive` and
    most `doubtful` steps are cut. `notes` are on what was left out, cut or sampled.
    """

    title: str
    files: tuple[str, ...]
    made_at: str
    version: str
    policy: JsonObject | None
    currency: str
    made_up_prices: bool
    stand_ins: bool
    totals: Totals
    always_large: AlwaysLarge
    frontier: Frontier
    escalations: tuple[Escalations, ...]
    reliability: Reliability
    latency: tuple[Latency, ...]
    spending: Spending
    expensive: tuple[StepTrace, ...]
    doubtful: tuple[StepTrace, ...]
    drift: DriftReport
    notes: tuple[str, ...]

    @property
    def medians(self) -> dict[str, float]:
        """Return the median latency of each sort of calls."""
        return {row.who: row.p50 for row in self.latency}
