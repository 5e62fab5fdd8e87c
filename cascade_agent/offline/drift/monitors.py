"""The monitors over a stream of steps and labels: what each watches, its share of the false alarms, what to do.

Memory is bounded whatever the length of the stream, the number of step names, models and codes; no clock, no file.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.offline.drift.detectors import Category, Stability
from cascade_agent.offline.drift.harm import HORIZON, REMEMBERED, HarmMonitor, Place, StepRef
from cascade_agent.offline.drift.savings import Prices, SavingsMonitor
from cascade_agent.offline.drift.values import Alarm, DriftReport, Fact, Monitor, finite, keep_latest
from cascade_agent.offline.evaluation.dataset import UNFINISHED, answered
from cascade_agent.offline.evaluation.journals import ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label, StepTrace, Verdict
    from cascade_agent.journal.format import PathLike
    from cascade_agent.offline.drift.values import Saving
    from cascade_agent.offline.evaluation.journals import ReadSettings

WINDOW: Final = 300
DISTRIBUTIONS: Final = ("confidence", "finding", "reason", "reason by step", "kind")
"""What is compared between a window and the reference."""

_HOP = 100
_CAREFUL = 10.0
"""The level of "reason by step" is divided by this: its cells are rare, and on 60 made-up streams without change (seeds
7000-7059 of `benchmarks/drift.py`) its least p-value was 1.5e-5, where 1e-3 is to be expected."""
_MAX_FACTS = 200
_MAX_MODELS = 200
_MAX_NAMED = 1000
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

    `add` takes each step and `add_label` each label as they come and give the alarms that they raise; `report()` gives
    how all monitors stand.

    What is watched, and how the chance of a false alarm is shared (`false_alarms` within 10,000 steps, all monitors
    together, by Bonferroni):

    - half: PSI of 300 steps against 900, looked at every 100, of the `DISTRIBUTIONS`: confidence, gravest finding of
      the local validators, reason, reason by step name, and kind by step name, a fifth of it each. This rests on
      estimated variances, with a correction for steps of one conversation being alike.
    - half: e-detectors on harm against the certified loss: one on shadow labels (known propensity), one on what people
      and evaluators found. This bound holds exactly for independent conversations.

    Args:
        policy: the policy in use; its provenance holds the certified greatest loss.
        since: a time with a zone. What lies before is learned from and raises no alarm.
        prices: model -> price, or a function of the model's name, to price all tokens with.
        max_loss: the greatest loss per step, where no policy was certified.
        false_alarms: as above, in (0, 1).

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
    ) -> None:
        if isinstance(false_alarms, bool) or not isinstance(false_alarms, int | float) or not 0 < false_alarms < 1:
            msg = f"false_alarms is {false_alarms!r}; expected a chance in (0, 1), such as 0.05"
            raise ConfigurationError(msg)
        if since is not None and since.tzinfo is None:
            msg = f"since is {since.isoformat()}, without a zone; expected a time such as 2026-03-02T00:00:00+00:00"
            raise ConfigurationError(msg)
        self._lock = threading.Lock()
        self._since, self._false_alarms = since, false_alarms
        share = false_alarms / 2 / len(DISTRIBUTIONS)
        self._distributions = {name: _Distribution(name, share) for name in DISTRIBUTIONS}
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

    def add(self, step: StepTrace) -> tuple[Alarm, ...]:
        """Take a step; return the alarms that it raises."""
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
        """Take a label of a step among the last 20,000; return the alarms that it raises."""
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
            for distribution in self._distributions.values():
                distribution.detector.restart()
            self._harm.restart()
        alarms = self._watch(step, place)
        by_small = answered(step)
        self._harm.count(step.policy, answered=by_small)
        seen = StepRef(
            place=place,
            name=step.step,
            kind=step.kind,
            episode=step.thread_id,
            turn=self._turn(step.thread_id),
            answered=by_small,
            policy=step.policy,
        )
        keep_latest(self._recent, step.id, seen, REMEMBERED)
        alarms += self._pay(step, place)
        return tuple(alarms)

    def _watch(self, step: StepTrace, place: Place) -> list[Alarm]:
        small = step.attempts[0]
        seen: dict[str, Category] = {
            "confidence": None if small.confidence is None else float(small.confidence),
            "finding": gravest(v for v in small.verdicts if v.validator not in small.gathered),
            "reason": step.reason,
            "reason by step": f"{step.step}: {step.reason}",
            "kind": f"{step.step}: {step.kind}",
        }
        return [alarm for name, value in seen.items() for alarm in self._distributions[name].add(value, place)]

    def _pay(self, step: StepTrace, place: Place) -> list[Alarm]:
        alarms: list[Alarm] = []
        for i, savings in enumerate(self._savings):
            before = savings.stopped
            savings.add(step, place.index)
            if savings.stopped and not before and place.counts:
                alarm = _stopped_paying(self._paying[i].name, savings.saving(), place)
                self._paying[i] = self._paying[i].with_alarm(alarm)
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
        """Return the number of this step in its conversation."""
        turn = 0 if thread is None else self._turns.get(thread, -1) + 1
        if thread is not None:
            keep_latest(self._turns, thread, turn, REMEMBERED)
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

    def report(self) -> DriftReport:
        """Return all monitors as they stand."""
        with self._lock:
            monitors = [
                *(distribution.monitor() for distribution in self._distributions.values()),
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
        notes = self._harm.notes()
        if self._facts.lost:
            notes.append(f"{self._facts.lost} older facts are left out")
        return notes


def gravest(verdicts: Iterable[Verdict]) -> str:
    """Return the finding that speaks most against a draft, as `Validator:code`; `-` where there is none."""
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


class _Distribution:
    """One distribution, all steps together, and its share of the false alarms."""

    def __init__(self, name: str, share: float) -> None:
        level = share / (HORIZON // _HOP) / (_CAREFUL if name == "reason by step" else 1.0)
        self.detector = Stability(level, window=WINDOW, hop=_HOP)
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
        self._monitor = self._monitor.with_alarm(alarm)
        return [alarm]

    def monitor(self) -> Monitor:
        detector = self.detector
        steps = f"{detector.reference} steps"
        note = f"against {steps}" if detector.ready else f"still collecting the {steps} to compare with"
        return replace(self._monitor, n=self._n, value=finite(detector.value), limit=detector.least, note=note)


class _Facts:
    """Models and policies as the records name them."""

    def __init__(self, policy: Policy | None) -> None:
        models = () if policy is None else policy.provenance.get("models") or ()
        self._measured = frozenset(map(str, models)) if isinstance(models, list | tuple) else frozenset[str]()
        note = "a model that the policy was not calibrated with is an alarm; any other change is a fact"
        self.monitor = Monitor(name="small model", method="fact", knowledge="unlabelled", note=note)
        self.changes: list[Fact] = []
        self.lost = 0
        self._now: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._strange: set[str] = set()

    def add(self, step: StepTrace, place: Place) -> bool:
        """Take a step; return whether its policy is a new one, so that what was learned of the old one is void."""
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
        keep_latest(self._now, (what, step), value, _MAX_NAMED)
        keep_latest(self._seen, (what, step, value), place.index, _MAX_NAMED)
        if before is None or before == value or (seen is not None and place.index - seen <= _ABSENT):
            return False
        if place.counts:
            self.changes.append(Fact(what=what, step=step, index=place.index, at=place.at, before=before, after=value))
            self.lost += len(self.changes) > _MAX_FACTS
            self.changes = self.changes[-_MAX_FACTS:]
        return True

    def _compare(self, model: str, step: str, place: Place) -> None:
        known = not self._measured or model in self._measured or model in self._strange
        if known or not place.counts or len(self._strange) >= _MAX_MODELS:
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
        self.monitor = self.monitor.with_alarm(alarm)


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
