"""Reports of drift monitors: plain values, JSON both ways."""

from __future__ import annotations

import datetime as dt
import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeVar

from cascade_agent.offline.drift.detectors import HORIZON
from cascade_agent.offline.evaluation.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Mapping

K = TypeVar("K")
V = TypeVar("V")
Method = Literal["adwin", "psi", "e_detector", "fact", "saving"]
Knowledge = Literal["unlabelled", "labelled", "money"]
PriceBasis = Literal["recorded", "given"]
REMEMBERED: Final = 20_000  # steps for which a label may still come, and conversations that are kept apart
_KEPT = 20
_KNOWLEDGE: Final[dict[Method, Knowledge]] = {"e_detector": "labelled", "saving": "money"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm(Plain):
    """A monitor found a change.

    `index` is the number of the step (from 0) at which it was noticed, `at` that step's time, `since` about how many
    steps before it the change lies. `before` and `after` are what the monitor measures. `advice` says what to do.
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
    """Something that a record states: another model or another policy than before, at step number `index`.

    `what` is `small_model`, `large_model` or `policy`. A fact is no alarm by itself.
    """

    what: str
    step: str
    index: int
    before: str
    after: str
    at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor(Plain):
    """One monitor as it stands.

    `step` is the name of the steps it watches, None all of them. `n` counts its observations, `value` is what it
    measures now and `limit` where it alarms (both None when there is nothing yet). `false_alarms` is the chance of a
    false alarm within `horizon` observations that it was set to; None where there is no such chance. `note` says what
    it cannot see or rests on. `alarms` holds the last 20 of `count`.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving(Plain):
    """The share of always-large's cost that the cascade saved, as `replay` and `report` estimate it, too.

    `basis` is `recorded` (what the journal says) or `given` (the tokens at the prices that were given). `cost` and
    `always_large` are sums over all steps, `saving` is 1 - cost / always_large: None where shadow calls do not say what
    large would have cost on the steps that small answered; then `low` and `high` are all that is known. `interval` is
    its 95 % interval. The costs of `known` steps are all recorded, `unknown` ones lack some or are in another currency.
    `recent` is the saving over the last steps, `recent_steps` how many those are. `stopped` is the time of the step
    from which on the policy cost more than always-large would have (`stopped_index` its number), None while it pays.
    `source` names the prices and their dates.
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

    `steps` were watched, `unfinished` ones (cancelled, interrupted, failed) and `repeated` ones left out. `labels`
    counts those that belong to a watched step, `orphans` those that do not (or came too late). `first` and `last` are
    the times of the first and the last step; alarms before `since` were only learned from. `false_alarms` is the chance
    that any statistical monitor alarms falsely within `horizon` observations.
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
    horizon: int = HORIZON

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """All alarms, oldest first."""
        found = [alarm for monitor in self.monitors for alarm in monitor.alarms]
        return tuple(sorted(found, key=lambda alarm: alarm.index))

    @property
    def alarmed(self) -> bool:
        """Return whether any monitor raised an alarm."""
        return any(monitor.count for monitor in self.monitors)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRef:
    """A step of the stream. `turn` is its number in its conversation `episode`; `counts`: an alarm there is one."""

    index: int
    at: str | None
    counts: bool
    name: str
    kind: str
    episode: str | None
    turn: int
    answered: bool
    policy: str | None


class Watcher:
    """A monitor with its alarms; the one place that raises them."""

    def __init__(
        self, name: str, method: Method, *, chance: float | None = None, step: str | None = None, note: str = ""
    ) -> None:
        knowledge, horizon = _KNOWLEDGE.get(method, "unlabelled"), None if chance is None else HORIZON
        named = Monitor(name=name, method=method, knowledge=knowledge, step=step, note=note)
        self.state = replace(named, false_alarms=chance, horizon=horizon)

    def alarm(
        self,
        ref: StepRef,
        what: str,
        advice: str,
        *,
        step: str | None = None,
        moved: tuple[float | None, float | None] = (None, None),
        since: int | None = None,
    ) -> list[Alarm]:
        """Raise an alarm at a step, where alarms count; `moved` is what was measured before and after."""
        if not ref.counts:
            return []
        state, (before, after) = self.state, moved
        alarm = Alarm(monitor=state.name, index=ref.index, at=ref.at, what=what, advice=advice, step=step or state.step)
        alarm = replace(alarm, before=before, after=after, since=since)
        self.state = replace(state, count=state.count + 1, alarms=(*state.alarms, alarm)[-_KEPT:])
        return [alarm]

    def stands(self, n: int, value: float | None, *, limit: float | None = None, note: str | None = None) -> Monitor:
        """Return the monitor as it stands; a value that JSON cannot hold is unknown."""
        known = value is not None and math.isfinite(value)
        note = self.state.note if note is None else note
        return replace(self.state, n=n, value=value if known else None, limit=limit, note=note)


class Latest(OrderedDict[K, V]):
    """A table of the entries that were set last, at most so many."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most = REMEMBERED if most is None else most

    def __setitem__(self, key: K, value: V) -> None:
        """Set an entry, and forget the one that was set longest ago."""
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)


def moment(value: str | None) -> dt.datetime | None:
    """Return an ISO 8601 time; without a zone it is UTC, and None is one that cannot be read."""
    try:
        time = dt.datetime.fromisoformat(value or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)
