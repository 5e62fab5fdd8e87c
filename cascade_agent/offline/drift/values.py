"""Reports of drift monitors: plain values, JSON both ways."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from cascade_agent.offline.evaluation.plain import Plain

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Mapping

K = TypeVar("K")
V = TypeVar("V")

Method = Literal["psi", "e_detector", "fact", "saving"]
Knowledge = Literal["unlabelled", "labelled", "money"]
PriceBasis = Literal["recorded", "given"]
_KEPT = 20
"""Alarms that a monitor holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm(Plain):
    """A monitor found a change at the step of number `index`, `since` about so many steps.

    `before` and `after` are what the monitor measures on both sides. `what` says it in a sentence, `advice` what to do.
    """

    monitor: str
    index: int
    what: str
    advice: str
    at: str | None = None
    step: str | None = None
    before: float | None = None
    after: float | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Plain):
    """Another `small_model`, `large_model` or `policy` than before, as the records name them; no alarm by itself."""

    what: str
    step: str
    index: int
    before: str
    after: str
    at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor(Plain):
    """One monitor as it stands; `step` is the name of the steps it watches, None all of them.

    `n` counts its observations, `value` is what it measures now and `limit` where it alarms (both None when there is
    nothing yet). `false_alarms` is the chance of a false alarm within `horizon` observations that it was set to. `note`
    says what it cannot see or rests on. `alarms` holds the last 20 of `count`.
    """

    PARTS: ClassVar[Mapping[str, type[Plain]]] = {"alarms": Alarm}

    name: str
    method: Method
    knowledge: Knowledge
    step: str | None = None
    n: int = 0
    value: float | None = None
    limit: float | None = None
    false_alarms: float | None = None
    horizon: int | None = None
    count: int = 0
    alarms: tuple[Alarm, ...] = ()
    note: str = ""

    def with_alarm(self, alarm: Alarm) -> Monitor:
        """Return the monitor with one more alarm."""
        return replace(self, count=self.count + 1, alarms=(*self.alarms, alarm)[-_KEPT:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving(Plain):
    """The share of always-large's cost that the cascade saved, as `replay` and `report` estimate it, too.

    `cost` and `always_large` are sums over all steps: None where shadow calls do not say what large would have cost on
    the steps that small answered; then `low` and `high` are all that is known. The costs of `known` steps are all
    recorded, `unknown` ones lack some or are in another currency. `recent` is the saving over the last `recent_steps`.
    `stopped` is the time of the step from which on the policy cost more than always-large would have (`stopped_index`
    its number), None while it pays. `source` names the prices and their dates.
    """

    basis: PriceBasis
    currency: str
    known: int
    unknown: int
    cost: float | None = None
    always_large: float | None = None
    saving: float | None = None
    low: float | None = None
    high: float | None = None
    interval: tuple[float, ...] = ()
    recent: float | None = None
    recent_steps: int = 0
    stopped: str | None = None
    stopped_index: int | None = None
    since_stopped: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport(Plain):
    """The findings of the monitors in a stream of steps.

    `unfinished` steps (cancelled, interrupted, failed) and `repeated` ones are not among the `steps`. `orphans` are
    labels that belong to no watched step (or came too late). `first` and `last` are the times of the first and the last
    step; alarms before `since` were only learned from. `false_alarms` is the chance that any statistical monitor alarms
    falsely within `horizon` observations.
    """

    PARTS: ClassVar[Mapping[str, type[Plain]]] = {"monitors": Monitor, "facts": Fact, "savings": Saving}

    steps: int
    monitors: tuple[Monitor, ...]
    facts: tuple[Fact, ...] = ()
    savings: tuple[Saving, ...] = ()
    notes: tuple[str, ...] = ()
    unfinished: int = 0
    repeated: int = 0
    labels: int = 0
    orphans: int = 0
    first: str | None = None
    last: str | None = None
    since: str | None = None
    false_alarms: float = 0.05
    horizon: int = 10_000

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """All alarms, oldest first."""
        found = [alarm for monitor in self.monitors for alarm in monitor.alarms]
        return tuple(sorted(found, key=lambda alarm: alarm.index))

    @property
    def alarmed(self) -> bool:
        """Return whether any monitor raised an alarm."""
        return any(monitor.count for monitor in self.monitors)


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold, or None."""
    return value if value is not None and math.isfinite(value) else None


def keep_latest(table: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    """Set the latest entry of a table, which forgets the oldest beyond `limit`."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > limit:
        table.popitem(last=False)
