"""Means over the latest steps of a cascade, by name: the numbers of a `DecisionInputs` that no single step can know.

A number is given when enough steps say it, never before; costs that are unknown are not counted as 0.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from cascade_agent.core.records import UNKNOWN, DecisionInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cascade_agent.core.records import Attempt, StepTrace

ENOUGH = 19
"""Steps of a name before they count: 19 escalations in a row bound P(escalate) at .87 from below."""
PROBE_AFTER = 30.0
"""Seconds without a small answer after which one step asks small again."""
_KEPT = 0.5 ** (1 / 100)
"""The weight of a step when the next one is observed: half of it is left after 100 steps."""
_Z = 1.6449  # the 95 % quantile of the normal distribution
_MAX_NAMES = 256
_RETRIES, _FREE_RETRIES = 0.1, 1.0


class _Mean:
    """A mean in which older values count less."""

    __slots__ = ("total", "value", "weight")

    def __init__(self) -> None:
        self.total = self.weight = 0.0
        self.value: float | None = None

    def lower(self) -> float:
        """Lower 95 % bound of a share (Wilson, JASA 1927), at the number of steps that still count."""
        n, p = self.weight, self.total / self.weight
        middle = p + _Z**2 / (2 * n)
        spread = _Z * math.sqrt(max(p * (1 - p), 0.0) / n + _Z**2 / (4 * n**2))
        return (middle - spread) / (1 + _Z**2 / n)

    def add(self, value: float | None) -> None:
        """Add a value; an unknown one is left out."""
        if value is not None:
            self.total = self.total * _KEPT + value
            self.weight = self.weight * _KEPT + 1.0
            self.value = self.total / self.weight


@dataclass(slots=True)
class _Steps:
    """The means over the steps of one name."""

    last_small: float
    seen: int = 0
    escalated: _Mean = field(default_factory=_Mean)
    broken: _Mean = field(default_factory=_Mean)
    cost: dict[str, _Mean] = field(default_factory=lambda: {"small": _Mean(), "large": _Mean()})
    latency: dict[str, _Mean] = field(default_factory=lambda: {"small": _Mean(), "large": _Mean()})
    cause: str | None = None


class StepStatistics:
    """Statistics over the steps of one cascade, by their name. Safe among threads; a copy starts anew."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: OrderedDict[str, _Steps] = OrderedDict()
        self._calls, self._retries = 0.0, 0.0

    def snapshot(self, name: str) -> DecisionInputs:
        """Return what is known of the next step of this name. At most one step in 30 s is to probe."""
        with self._lock:
            steps = self._steps.get(name)
            if steps is None or steps.seen < ENOUGH:
                return UNKNOWN
            now = self._clock()
            probe = now - steps.last_small >= PROBE_AFTER
            if probe:
                steps.last_small = now
            return DecisionInputs(
                escalation=steps.escalated.lower(),
                broken=steps.broken.lower(),
                small_cost=steps.cost["small"].value,
                large_cost=steps.cost["large"].value,
                small_latency=steps.latency["small"].value,
                large_latency=steps.latency["large"].value,
                probe=probe,
                cause=steps.cause,
            )

    def take_retry(self) -> bool:
        """Take one retry out of the allowance; False when none is left.

        Taken when it is decided, so that concurrent steps cannot all have the same one.
        """
        with self._lock:
            allowed = self._retries + 1 <= max(_RETRIES * self._calls, _FREE_RETRIES)
            self._retries += allowed
            return allowed

    def expected(self, name: str, role: Literal["small", "large"]) -> float | None:
        """Return the mean cost of a call of this tier; None before one was made."""
        with self._lock:
            steps = self._steps.get(name)
            return None if steps is None else steps.cost[role].value

    def observe(self, trace: StepTrace) -> None:
        """Learn from a step that ended; nothing of its contents is kept."""
        small = trace.attempts[0]
        with self._lock:
            self._calls = self._calls * _KEPT + trace.escalated  # steps that asked large, which alone is asked again
            self._retries *= _KEPT
            steps = self._steps.pop(trace.step, None) or _Steps(last_small=self._clock())
            self._steps[trace.step] = steps
            if len(self._steps) > _MAX_NAMES:
                self._steps.popitem(last=False)
            if small.tier == "small" and small.outcome not in ("skipped", "pending", "cancelled"):
                steps.last_small = self._clock()
                if small.fault != "request":  # too long, or filtered: that says nothing of the route
                    _observe_small(steps, small, trace)
            for large in trace.attempts:
                if large.tier == "large" and large.outcome in ("accepted", "rejected"):
                    steps.cost["large"].add(large.cost)
                    steps.latency["large"].add(large.latency)

    def __reduce__(self) -> tuple[Any, ...]:
        """Start anew in a copy, or in another process."""
        return (StepStatistics, ())


def _observe_small(steps: _Steps, small: Attempt, trace: StepTrace) -> None:
    steps.seen += 1
    escalated, more = small.outcome != "accepted", trace.evidence
    cause = _unusable(small) if escalated else None
    steps.cause = cause or steps.cause
    steps.escalated.add(float(escalated))
    steps.broken.add(float(cause is not None))
    steps.cost["small"].add(_plus(small.cost, [call.cost for call in more]) if more else small.cost)
    steps.latency["small"].add(_plus(small.latency, [call.latency for call in more]) if more else small.latency)


def _unusable(attempt: Attempt) -> str | None:
    """Return what made an answer unusable: the class of an error, or a hard verdict's code; None when nothing did."""
    if attempt.outcome in ("error", "timeout"):
        return (attempt.error or attempt.outcome).partition(":")[0]
    return next((v.code or v.validator or "rejected" for v in attempt.verdicts if v.hard), None)


def _plus(first: float | None, more: Sequence[float | None]) -> float | None:
    parts = [first, *more]
    return None if None in parts else math.fsum(part for part in parts if part is not None)
