"""The monitors over a stream of steps and labels: what each watches, its share of the false alarms, what to do.

Memory is bounded whatever the length of the stream, the number of step names, models and codes; no clock, no file.
"""

from __future__ import annotations

import copy
import datetime as dt
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, Unpack

from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.offline.drift.detectors import Adwin, Category, Stability
from cascade_agent.offline.drift.harm import HORIZON, REMEMBERED, HarmMonitor, Place, StepRef
from cascade_agent.offline.drift.savings import Prices, SavingsMonitor
from cascade_agent.offline.drift.values import Alarm, DriftReport, Fact, Monitor, finite, with_alarm
from cascade_agent.offline.evaluation.dataset import UNFINISHED
from cascade_agent.offline.evaluation.journals import ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label, StepTrace, Verdict
    from cascade_agent.journal.format import PathLike
    from cascade_agent.offline.drift.values import Saving
    from cascade_agent.offline.evaluation.journals import ReadSettings

WINDOW: Final = 300
MAX_NAMES: Final = 20
"""Step names that are watched by themselves; later ones are watched only together with all."""

_CLOCK = 32
_HOP = 100
_QUIET = 300
"""Observations after an alarm of a mean during which the same change is no new alarm."""
_LEAST = 0.02
"""A change of a mean below this is followed and no alarm."""
_MAX_FACTS = 200
_MAX_MODELS = 200
K = TypeVar("K")
V = TypeVar("V")
_ABSENT = 1000
"""Steps of a name after which a model that comes back is a fact again."""

RAISE_SHADOW = (
    "no label says whether answers got worse: raise `Policy.shadow_rate` (to 0.2, say) until the labelled monitor has "
    "seen a few hundred steps, and read the steps since then (`cascade-agent trace`)"
)


class WatchSettings(TypedDict, total=False):
    """The settings of `DriftWatch`, which says what each means."""

    policy: Policy | None
    since: dt.datetime | None
    prices: Prices | None
    max_loss: float | None
    false_alarms: float


def watch(steps: Iterable[StepTrace], labels: Iterable[Label] = (), **settings: Unpack[WatchSettings]) -> DriftReport:
    """Run the monitors over recorded steps, oldest first, and the labels that belong to them.

    Steps are streamed, labels are held on disk, and each counts at its step. The settings are those of `DriftWatch`.
    """
    watcher = DriftWatch(**settings)
    with LabelStore(labels) as store:
        for step in steps:
            watcher.take(step, store.of_step(step.id))
        watcher.orphans += store.steps - watcher.labelled
    return watcher.report()


def watch_journals(paths: Sequence[PathLike], how: ReadSettings, **settings: Unpack[WatchSettings]) -> DriftWatch:
    """Run the monitors over journals, oldest first, whose files are read on Dask, some at a time."""
    watcher = DriftWatch(**settings)
    labels = labelled = repeated = 0
    for part in ordered(paths, replace(how, lean=settings.get("prices") is None)):
        for step in part.found:
            watcher.take(step.trace, step.given)
        labels, labelled, repeated = part.labels, labelled + part.labelled, repeated + part.repeated
    watcher.note_reading(repeated=repeated, orphans=labels - labelled)
    return watcher


class DriftWatch:
    """The monitors as an object that a running process feeds; safe among threads.

    `add` takes each step and `add_label` each label as they come and give the alarms that they raise; `report()` tells
    how all monitors stand. About 0.1 ms of CPU per step.

    What is watched, and how the chance of a false alarm is shared (`false_alarms` within 10,000 steps, all monitors
    together, by Bonferroni):

    - a quarter: ADWIN on "the step escalated" and on the confidence of the small draft, half of it each; of that, half
      for all steps together, the rest for the n-th step name in order of appearance 1 / (n (n + 1)). Each check gets
      its share of the 312 checks within 10,000 steps.
    - a quarter: PSI of 300 steps against 900, looked at every 100, of confidence, gravest finding of the local
      validators, reason and kind of step, all steps together.
    - half: e-detectors on harm against the certified loss: one on shadow labels (known propensity), one on what people
      and evaluators found. This bound holds exactly for independent conversations; those of ADWIN and PSI rest on
      estimated variances, with a correction for steps of one conversation being alike.

    Args:
        policy: the policy in use; its provenance holds the certified greatest loss.
        since: a time with a zone. What lies before is learned from and raises no alarm.
        prices: model -> price, or a function of the model's name, to price all tokens with.
        max_loss: the greatest loss per step, where no policy was certified.
        false_alarms: as above, in (0, 1).
        max_names: step names watched by themselves.

    Raises:
        ConfigurationError: a setting that cannot work.
    """

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        since: dt.datetime | None = None,
        prices: Prices | None = None,
        max_loss: float | None = None,
        false_alarms: float = 0.05,
        max_names: int = MAX_NAMES,
    ) -> None:
        if isinstance(false_alarms, bool) or not isinstance(false_alarms, int | float) or not 0 < false_alarms < 1:
            msg = f"false_alarms is {false_alarms!r}; expected a chance in (0, 1), such as 0.05"
            raise ConfigurationError(msg)
        if since is not None and since.tzinfo is None:
            msg = f"since is {since.isoformat()}, without a zone; expected a time such as 2026-03-02T00:00:00+00:00"
            raise ConfigurationError(msg)
        self._lock = threading.Lock()
        self._since, self._false_alarms, self._max_names = since, false_alarms, max_names
        self._means = {
            "escalation": _Means("escalation", false_alarms / 8, max_names),
            "confidence": _Means("confidence", false_alarms / 8, max_names),
        }
        looks = HORIZON // _HOP
        self._shares = {
            name: _Share(name, false_alarms / 16, looks) for name in ("confidence", "finding", "reason", "kind")
        }
        self._harm = HarmMonitor(policy, max_loss, level=false_alarms / 4)
        self._facts = _Facts(policy)
        self._savings = [SavingsMonitor()] if prices is None else [SavingsMonitor(), SavingsMonitor(prices)]
        self._paying = [
            Monitor(name=f"saving ({s.basis} prices)", method="saving", knowledge="money") for s in self._savings
        ]
        self._recent: OrderedDict[str, StepRef] = OrderedDict()
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._first: str | None = None
        self._last: str | None = None
        self.steps = self.unfinished = self.repeated = self.labels = self.orphans = self.labelled = 0

    # ---- feeding ----------------------------------------------------------------------------------------------------

    def add(self, step: StepTrace) -> tuple[Alarm, ...]:
        """Take a step; the alarms that it raises."""
        with self._lock:
            return self._add(step)

    def take(self, step: StepTrace, labels: Iterable[Label]) -> None:
        """Take a step with all its labels; one that comes a second time is counted and left out."""
        repeated = self.repeated
        self.add(step)
        labels = () if self.repeated > repeated else tuple(labels)
        self.labelled += bool(labels)
        for label in labels:
            self.add_label(label)

    def note_reading(self, *, repeated: int, orphans: int) -> None:
        """Note what whoever read the steps left out: repeated steps, and labels of steps that are not there."""
        self.repeated += repeated
        self.orphans += orphans

    def add_label(self, label: Label) -> tuple[Alarm, ...]:
        """Take a label of a step among the last 20,000; the alarms that it raises."""
        with self._lock:
            return self._add_label(label)

    def _add(self, step: StepTrace) -> tuple[Alarm, ...]:
        if step.outcome in UNFINISHED or not step.attempts:
            self.unfinished += 1
            return ()
        if step.id in self._recent:
            self.repeated += 1
            return ()
        index, self.steps = self.steps, self.steps + 1
        self._first, self._last = self._first or step.started_at, step.started_at or self._last
        place = Place(index=index, at=step.started_at, counts=self._counts(step.started_at))
        if self._facts.add(step, place):
            for means in self._means.values():
                means.restart(step.step)
            for share in self._shares.values():
                share.detector.restart()
            self._harm.restart()
        alarms = self._watch(step, place)
        answered = step.final_tier == "small" and not step.escalated
        self._harm.count(step.policy, answered=answered)
        self._recent[step.id] = StepRef(
            place=place,
            name=step.step,
            kind=step.kind,
            episode=step.thread_id,
            turn=self._turn(step.thread_id),
            answered=answered,
            policy=step.policy,
        )
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        alarms += self._pay(step, place)
        return tuple(alarms)

    def _watch(self, step: StepTrace, place: Place) -> list[Alarm]:
        small = step.attempts[0]
        alarms = self._means["escalation"].add(step.step, float(step.escalated), place)
        drafted = small.outcome in ("accepted", "rejected")
        if drafted and small.confidence is not None:
            alarms += self._means["confidence"].add(step.step, small.confidence, place)
        seen: dict[str, Category] = {
            "confidence": None if small.confidence is None else float(small.confidence),
            "finding": gravest(v for v in small.verdicts if v.validator not in small.gathered),
            "reason": step.reason,
            "kind": f"{step.step}: {step.kind}",
        }
        for name, value in seen.items():
            alarms += self._shares[name].add(value, place)
        return alarms

    def _pay(self, step: StepTrace, place: Place) -> list[Alarm]:
        alarms: list[Alarm] = []
        for i, savings in enumerate(self._savings):
            before = savings.stopped
            savings.add(step, place.index)
            if savings.stopped and not before and place.counts:
                alarm = _stopped_paying(self._paying[i].name, savings.saving(), place)
                self._paying[i] = with_alarm(self._paying[i], alarm)
                alarms.append(alarm)
        return alarms

    def _add_label(self, label: Label) -> tuple[Alarm, ...]:
        step = self._recent.get(label.step_id)
        if step is None:
            self.orphans += 1
            return ()
        self.labels += 1
        for savings in self._savings:
            savings.label(label)
        if not step.answered:
            return ()
        return self._harm.label(label, step)

    def _turn(self, thread: str | None) -> int:
        """The number of this step in its conversation."""
        if thread is None:
            return 0
        turn = self._turns.pop(thread, -1) + 1
        self._turns[thread] = turn
        if len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)
        return turn

    def _counts(self, at: str | None) -> bool:
        """Return whether an alarm at this time counts."""
        if self._since is None or at is None:
            return True
        try:
            time = dt.datetime.fromisoformat(at)
        except ValueError:
            return True
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)) >= self._since

    # ---- telling ----------------------------------------------------------------------------------------------------

    def report(self) -> DriftReport:
        """Return all monitors as they stand."""
        with self._lock:
            monitors = [
                *(m for means in self._means.values() for m in means.monitors()),
                *(share.monitor() for share in self._shares.values()),
                *self._harm.monitors(),
                self._facts.monitor,
                *(
                    replace(m, n=savings.known, value=finite(savings.recent), limit=0.0)
                    for m, savings in zip(self._paying, self._savings, strict=True)
                ),
            ]
            return DriftReport(
                steps=self.steps,
                monitors=tuple(monitors),
                facts=tuple(self._facts.changes),
                savings=tuple(savings.saving() for savings in self._savings),
                notes=tuple(self._notes()),
                unfinished=self.unfinished,
                repeated=self.repeated,
                labels=self.labels,
                orphans=self.orphans,
                first=self._first,
                last=self._last,
                since=None if self._since is None else self._since.isoformat(),
                false_alarms=self._false_alarms,
                horizon=HORIZON,
            )

    def _notes(self) -> list[str]:
        notes = []
        unnamed = self._means["escalation"].unnamed
        if unnamed:
            notes.append(
                f"{unnamed} steps have names beyond the first {self._max_names}; they are watched with all only"
            )
        notes += self._harm.notes()
        if self._facts.lost:
            notes.append(f"{self._facts.lost} older facts are left out")
        return notes


def gravest(verdicts: Iterable[Verdict]) -> str:
    """The finding that speaks most against a draft, as `Validator:code`; `-` where there is none."""
    worst, found = 2.0, "-"
    for v in verdicts:
        if v.hard:
            rank = -2.0
        elif v.score is None:
            continue
        else:
            rank = v.score - (1.0 if v.outcome == "fail" else 0.0)
        if rank < worst and (rank < 1.0 or v.outcome == "fail"):
            worst, found = rank, f"{v.validator}:{v.code}"
    return found


# ---- means: ADWIN ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Mean:
    """One mean under watch."""

    detector: Adwin
    monitor: Monitor
    quiet_until: int = 0

    def add(self, value: float, place: Place) -> list[Alarm]:
        change = self.detector.update(value)
        if change is None or not place.counts or self.detector.ticks < self.quiet_until:
            return []
        if abs(change.after - change.before) < _LEAST:
            return []
        self.quiet_until = self.detector.ticks + _QUIET
        whose = "" if self.monitor.step is None else f" of step {self.monitor.step!r}"
        sign = "rose" if change.after > change.before else "fell"
        alarm = Alarm(
            monitor=self.monitor.name,
            index=place.index,
            at=place.at,
            step=self.monitor.step,
            before=change.before,
            after=change.after,
            since=change.n_after,
            what=f"{_WHAT[self.monitor.name]}{whose} {sign} from {change.before:.3f} to {change.after:.3f}, "
            f"about {change.n_after} such steps ago",
            advice=RAISE_SHADOW,
        )
        self.monitor = with_alarm(self.monitor, alarm)
        return [alarm]


_WHAT = {"escalation": "the share of escalated steps", "confidence": "the mean confidence of small drafts"}


class _Means:
    """One quantity, overall and per step name; names by themselves only from the second name on."""

    def __init__(self, name: str, share: float, max_names: int) -> None:
        self._name, self._share, self._max = name, share, max_names
        self._all = self._made(None, share / 2)
        self._names: dict[str, _Mean] = {}
        self._only: str | None = None
        self.unnamed = 0

    def _made(self, step: str | None, share: float) -> _Mean:
        checks = HORIZON // _CLOCK
        monitor = Monitor(
            name=self._name, method="adwin", knowledge="unlabelled", step=step, false_alarms=share, horizon=HORIZON
        )
        return _Mean(Adwin(share / checks, clock=_CLOCK, blocks=True), monitor)

    def add(self, step: str, value: float, place: Place) -> list[Alarm]:
        if self._only is None and not self._names:
            self._only = step
        if self._only is not None and step != self._only:  # the second name: the first goes on with what all have seen
            self._open(self._only, self._all.detector)
            self._only = None
        alarms = self._all.add(value, place)
        if self._only is not None:
            return alarms
        if step not in self._names and not self._open(step):
            self.unnamed += 1
            return alarms
        return alarms + self._names[step].add(value, place)

    def _open(self, step: str, seen: Adwin | None = None) -> bool:
        n = len(self._names) + 1
        if n > self._max:
            return False
        mean = self._made(step, self._share / 2 / (n * (n + 1)))
        if seen is not None:
            delta, mean.detector = mean.detector.delta, copy.deepcopy(seen)
            mean.detector.delta = delta
        self._names[step] = mean
        return True

    def restart(self, step: str) -> None:
        """Forget what was seen: all steps together, and those of a name."""
        for mean in (self._all, self._names.get(step)):
            if mean is not None:
                old = mean.detector
                mean.detector = Adwin(old.delta, clock=_CLOCK, blocks=True)
                mean.quiet_until = 0

    def monitors(self) -> list[Monitor]:
        return [
            replace(
                mean.monitor,
                n=mean.detector.ticks,
                value=finite(mean.detector.mean),
                note=f"mean of the last {mean.detector.width}; no limit: two parts of the window are compared",
            )
            for mean in (self._all, *self._names.values())
        ]


# ---- shares: PSI ----------------------------------------------------------------------------------------------------


class _Share:
    """One distribution, all steps together."""

    def __init__(self, name: str, share: float, looks: int) -> None:
        self.detector = Stability(share / looks, window=WINDOW, hop=_HOP)
        self._n = 0
        self._monitor = Monitor(
            name=f"{name} (PSI)", method="psi", knowledge="unlabelled", false_alarms=share, horizon=HORIZON
        )

    def add(self, value: Category, place: Place) -> list[Alarm]:
        self._n += 1
        shift = self.detector.update(value)
        if shift is None or not place.counts:
            return []
        alarm = Alarm(
            monitor=self._monitor.name,
            index=place.index,
            at=place.at,
            before=shift.before,
            after=shift.after,
            what=f"PSI {shift.psi:.2f} over the last {WINDOW} steps; most moved {shift.cell!r}, "
            f"from {shift.before:.3f} to {shift.after:.3f}",
            advice=RAISE_SHADOW,
        )
        self._monitor = with_alarm(self._monitor, alarm)
        return [alarm]

    def monitor(self) -> Monitor:
        detector = self.detector
        steps = f"{detector.reference} steps"
        note = f"against {steps}" if detector.ready else f"still collecting the {steps} to compare with"
        return replace(self._monitor, n=self._n, value=finite(detector.value), limit=detector.least, note=note)


# ---- facts ----------------------------------------------------------------------------------------------------------


class _Facts:
    """Models and policies as the records name them."""

    def __init__(self, policy: Policy | None) -> None:
        models = () if policy is None else policy.provenance.get("models") or ()
        self._measured = frozenset(map(str, models)) if isinstance(models, list | tuple) else frozenset[str]()
        self.monitor = Monitor(
            name="small model",
            method="fact",
            knowledge="unlabelled",
            note="a model that the policy was not calibrated with is an alarm; any other change is a fact",
        )
        self.changes: list[Fact] = []
        self.lost = 0
        self._now: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._strange: set[str] = set()

    def add(self, step: StepTrace, place: Place) -> bool:
        """Take a step; whether its policy is a new one, so that what was learned of the old one is void."""
        small = step.attempts[0]
        large = next((a for a in reversed(step.attempts) if a.tier != "small"), None)
        self._look("small_model", step.step, small.model, place)
        if large is not None:
            self._look("large_model", step.step, large.model, place)
        if small.model is not None:
            self._compare(small.model, step.step, place)
        return self._look("policy", step.step, step.policy, place)

    def _look(self, what: str, step: str, value: str | None, place: Place) -> bool:
        if value is None:
            return False
        before, seen = self._now.get((what, step)), self._seen.get((what, step, value))
        _put(self._now, (what, step), value)
        _put(self._seen, (what, step, value), place.index)
        if before is None or before == value or (seen is not None and place.index - seen <= _ABSENT):
            return False
        if place.counts:
            self.changes.append(Fact(what=what, step=step, index=place.index, at=place.at, before=before, after=value))
            self.lost += len(self.changes) > _MAX_FACTS
            self.changes = self.changes[-_MAX_FACTS:]
        return True

    def _compare(self, model: str, step: str, place: Place) -> None:
        if not self._measured or model in self._measured or model in self._strange or not place.counts:
            return
        if len(self._strange) >= _MAX_MODELS:
            return
        self._strange.add(model)
        alarm = Alarm(
            monitor=self.monitor.name,
            index=place.index,
            at=place.at,
            step=step,
            what=f"the small model is {model!r}; the policy was calibrated with {', '.join(sorted(self._measured))}",
            advice="its certificate says nothing about this model: calibrate anew, or go back to the old one",
        )
        self.monitor = with_alarm(self.monitor, alarm)


def _put(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _MAX_MODELS * 5:
        table.popitem(last=False)


# ---- money ----------------------------------------------------------------------------------------------------------


def _stopped_paying(name: str, saving: Saving, place: Place) -> Alarm:
    when = (saving.stopped or "")[:10] or f"step {saving.stopped_index}"
    since = saving.since_stopped
    more = "" if since is None else f": since then it cost {-since:.0%} more than always-large"
    return Alarm(
        monitor=name,
        index=place.index,
        at=place.at,
        before=None,
        after=saving.recent,
        since=None if saving.stopped_index is None else place.index - saving.stopped_index,
        what=f"this policy stopped paying on {when}{more}",
        advice="ask the large model alone for now, or calibrate anew; "
        f"{saving.unknown} of {saving.known + saving.unknown} steps have costs that are not known",
    )
