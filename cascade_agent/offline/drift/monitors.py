"""The monitors over a stream of steps and labels: what each watches, its share of the false alarms, what to do.

Memory is bounded whatever the length of the stream, the number of step names, models and codes; no clock, no file.
"""

from __future__ import annotations

import copy
import datetime as dt
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.offline.drift.detectors import HORIZON, Adwin, Category, Stability
from cascade_agent.offline.drift.harm import HarmMonitor
from cascade_agent.offline.drift.savings import Prices, SavingsMonitor
from cascade_agent.offline.drift.values import REMEMBERED, AlarmLog, DriftReport, Fact, StepRef, put
from cascade_agent.offline.evaluation.dataset import UNFINISHED
from cascade_agent.offline.evaluation.journals import ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label, StepTrace, Verdict
    from cascade_agent.journal.format import PathLike
    from cascade_agent.offline.drift.values import Alarm, Monitor
    from cascade_agent.offline.evaluation.journals import ReadSettings

MAX_NAMES: Final = 20
"""Step names that are watched by themselves; later ones are watched only together with all."""
_QUIET = 300
"""Observations after an alarm of a mean during which the same change is no new alarm."""
_LEAST = 0.02
"""A change of a mean below this is followed and no alarm."""
_MAX_FACTS = 200
_MAX_MODELS = 200
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
    for part in ordered(paths, how):
        for step in part.found:
            watcher.take(step.trace, step.given)
        labels, labelled, repeated = part.labels, labelled + part.labelled, repeated + part.repeated
    watcher.note_reading(repeated=repeated, orphans=labels - labelled)
    return watcher


class DriftWatch:
    """The monitors as an object that a running process feeds; safe among threads.

    `add` takes each step and `add_label` each label as they come and give the alarms that they raise; `report()` is
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
        self._means = {name: _Means(name, false_alarms / 8) for name in ("escalation", "confidence")}
        self._shares = {name: _Share(name, false_alarms / 16) for name in ("confidence", "finding", "reason", "kind")}
        self._harm = HarmMonitor(policy, max_loss, level=false_alarms / 4)
        self._facts = _Facts(policy)
        self._savings = [SavingsMonitor()] if prices is None else [SavingsMonitor(), SavingsMonitor(prices)]
        self._recent: OrderedDict[str, StepRef] = OrderedDict()
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._first: str | None = None
        self._last: str | None = None
        self.steps = self.unfinished = self.repeated = self.labels = self.orphans = self.labelled = 0

    # ---- feeding ----------------------------------------------------------------------------------------------------

    def add(self, step: StepTrace) -> tuple[Alarm, ...]:
        """Take a step; the alarms that it raises."""
        with self._lock:
            if step.outcome in UNFINISHED or not step.attempts:
                self.unfinished += 1
                return ()
            if step.id in self._recent:
                self.repeated += 1
                return ()
            at = self._place(step)
            if self._facts.changed(step, at):
                for means in self._means.values():
                    means.restart(step.step)
                for share in self._shares.values():
                    share.detector.restart()
                self._harm.restart()
            self._harm.count(step.policy, answered=at.answered)
            alarms = [*self._facts.strange(step, at), *self._watch(step, at)]
            for savings in self._savings:
                alarms += savings.add(step, at)
            return tuple(alarms)

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
            step = self._recent.get(label.step_id)
            if step is None:
                self.orphans += 1
                return ()
            self.labels += 1
            for savings in self._savings:
                savings.label(label)
            return tuple(self._harm.label(label, step))

    def _place(self, step: StepTrace) -> StepRef:
        """Give a step its place in the stream and in its conversation, and remember it."""
        turn = 0
        if step.thread_id is not None:
            turn = self._turns.get(step.thread_id, -1) + 1
            put(self._turns, step.thread_id, turn, most=REMEMBERED)
        at = StepRef(
            index=self.steps,
            at=step.started_at,
            counts=self._counts(step.started_at),
            name=step.step,
            kind=step.kind,
            episode=step.thread_id,
            turn=turn,
            answered=step.final_tier == "small" and not step.escalated,
            policy=step.policy,
        )
        put(self._recent, step.id, at, most=REMEMBERED)
        self.steps += 1
        self._first, self._last = self._first or step.started_at, step.started_at or self._last
        return at

    def _watch(self, step: StepTrace, at: StepRef) -> list[Alarm]:
        small = step.attempts[0]
        alarms = self._means["escalation"].add(float(step.escalated), at)
        if small.outcome in ("accepted", "rejected") and small.confidence is not None:
            alarms += self._means["confidence"].add(small.confidence, at)
        seen: dict[str, Category] = {
            "confidence": None if small.confidence is None else float(small.confidence),
            "finding": gravest(v for v in small.verdicts if v.validator not in small.gathered),
            "reason": step.reason,
            "kind": f"{step.step}: {step.kind}",
        }
        return alarms + [alarm for name, value in seen.items() for alarm in self._shares[name].add(value, at)]

    def _counts(self, at: str | None) -> bool:
        """Return whether an alarm at this time counts."""
        if self._since is None or at is None:
            return True
        try:
            time = dt.datetime.fromisoformat(at)
        except ValueError:
            return True
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)) >= self._since

    # ---- the findings -----------------------------------------------------------------------------------------------

    def report(self) -> DriftReport:
        """Return all monitors as they stand."""
        with self._lock:
            monitors = [
                *(mean.monitor() for means in self._means.values() for mean in means.watched()),
                *(share.monitor() for share in self._shares.values()),
                *self._harm.monitors(),
                self._facts.log.monitor,
                *(savings.monitor() for savings in self._savings),
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

    def _notes(self) -> Iterator[str]:
        if unnamed := self._means["escalation"].unnamed:
            yield f"{unnamed} steps have names beyond the first {MAX_NAMES}; they are watched with all only"
        yield from self._harm.notes()
        if self._facts.lost:
            yield f"{self._facts.lost} older facts are left out"


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

_WHAT = {"escalation": "the share of escalated steps", "confidence": "the mean confidence of small drafts"}


class _Mean:
    """One mean under watch: of all steps, or of those of a name."""

    def __init__(self, name: str, chance: float, step: str | None = None) -> None:
        self.detector = Adwin(chance / (HORIZON // Adwin.CLOCK))
        self.step, self._what = step, _WHAT[name] + ("" if step is None else f" of step {step!r}")
        self._log = AlarmLog(name, "adwin", chance=chance, step=step)
        self._quiet_until = 0

    def restart(self) -> None:
        self.detector, self._quiet_until = Adwin(self.detector.delta), 0

    def add(self, value: float, at: StepRef) -> list[Alarm]:
        change = self.detector.update(value)
        if change is None or self.detector.ticks < self._quiet_until or abs(change.after - change.before) < _LEAST:
            return []
        sign = "rose" if change.after > change.before else "fell"
        alarms = self._log.alarm(
            at,
            f"{self._what} {sign} from {change.before:.3f} to {change.after:.3f}, "
            f"about {change.n_after} such steps ago",
            RAISE_SHADOW,
            step=self.step,
            before=change.before,
            after=change.after,
            since=change.n_after,
        )
        if alarms:
            self._quiet_until = self.detector.ticks + _QUIET
        return alarms

    def monitor(self) -> Monitor:
        note = f"mean of the last {self.detector.width}; no limit: two parts of the window are compared"
        return self._log.stands(self.detector.ticks, self.detector.mean, note=note)


class _Means:
    """One quantity, overall and per step name; names by themselves only from the second name on."""

    def __init__(self, name: str, chance: float) -> None:
        self._name, self._chance = name, chance / 2
        self._all = _Mean(name, self._chance)
        self._names: dict[str, _Mean] = {}
        self._first: str | None = None
        self.unnamed = 0

    def add(self, value: float, at: StepRef) -> list[Alarm]:
        if self._first is None:
            self._first = at.name
        if not self._names and at.name != self._first:  # the first name goes on with what all have seen
            first, own = self._all.detector, self._opened(self._first)
            delta, own.detector = own.detector.delta, copy.deepcopy(first)
            own.detector.delta = delta
        alarms = self._all.add(value, at)
        if not self._names:
            return alarms
        if at.name not in self._names and len(self._names) >= MAX_NAMES:
            self.unnamed += 1
            return alarms
        return alarms + (self._names.get(at.name) or self._opened(at.name)).add(value, at)

    def _opened(self, step: str) -> _Mean:
        n = len(self._names) + 1
        self._names[step] = _Mean(self._name, self._chance / (n * (n + 1)), step)
        return self._names[step]

    def restart(self, step: str) -> None:
        """Forget what was seen of all steps together, and of those of a name."""
        for mean in self.watched():
            if mean.step in (None, step):
                mean.restart()

    def watched(self) -> list[_Mean]:
        return [self._all, *self._names.values()]


# ---- shares: PSI ----------------------------------------------------------------------------------------------------


class _Share:
    """One distribution, all steps together."""

    def __init__(self, name: str, chance: float) -> None:
        self.detector = Stability(chance / (HORIZON // Stability.HOP))
        self._log = AlarmLog(f"{name} (PSI)", "psi", chance=chance)

    def add(self, value: Category, at: StepRef) -> list[Alarm]:
        shift = self.detector.update(value)
        if shift is None:
            return []
        return self._log.alarm(
            at,
            f"PSI {shift.psi:.2f} over the last {Stability.WINDOW} steps; most moved {shift.cell!r}, "
            f"from {shift.before:.3f} to {shift.after:.3f}",
            RAISE_SHADOW,
            before=shift.before,
            after=shift.after,
        )

    def monitor(self) -> Monitor:
        found, steps = self.detector, f"{Stability.REFERENCE} steps"
        note = f"against {steps}" if found.ready else f"still collecting the {steps} to compare with"
        return self._log.stands(found.n, found.value, limit=Stability.LEAST, note=note)


# ---- facts ----------------------------------------------------------------------------------------------------------


class _Facts:
    """Models and policies as the records name them."""

    def __init__(self, policy: Policy | None) -> None:
        models = () if policy is None else policy.provenance.get("models") or ()
        self._measured = frozenset(map(str, models)) if isinstance(models, list | tuple) else frozenset[str]()
        note = "a model that the policy was not calibrated with is an alarm; any other change is a fact"
        self.log = AlarmLog("small model", "fact", note=note)
        self.changes: list[Fact] = []
        self.lost = 0
        self._now: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._strange: set[str] = set()

    def changed(self, step: StepTrace, at: StepRef) -> bool:
        """Note the models and the policy of a step; whether the policy is a new one: what was learned is void then."""
        large = next((a.model for a in reversed(step.attempts) if a.tier != "small"), None)
        for what, model in (("small_model", step.attempts[0].model), ("large_model", large)):
            self._look(what, model, at)
        return self._look("policy", step.policy, at)

    def _look(self, what: str, value: str | None, at: StepRef) -> bool:
        if value is None:
            return False
        before, seen = self._now.get((what, at.name)), self._seen.get((what, at.name, value))
        put(self._now, (what, at.name), value, most=5 * _MAX_MODELS)
        put(self._seen, (what, at.name, value), at.index, most=5 * _MAX_MODELS)
        if before is None or before == value or (seen is not None and at.index - seen <= _ABSENT):
            return False
        if at.counts:
            self.changes.append(Fact(what=what, step=at.name, index=at.index, at=at.at, before=before, after=value))
            self.lost += len(self.changes) > _MAX_FACTS
            self.changes = self.changes[-_MAX_FACTS:]
        return True

    def strange(self, step: StepTrace, at: StepRef) -> list[Alarm]:
        """Return an alarm where small is a model that the policy was not calibrated with, once for each."""
        model = step.attempts[0].model
        if model is None or not self._measured or model in self._measured or model in self._strange:
            return []
        if not at.counts or len(self._strange) >= _MAX_MODELS:
            return []
        self._strange.add(model)
        return self.log.alarm(
            at,
            f"the small model is {model!r}; the policy was calibrated with {', '.join(sorted(self._measured))}",
            "its certificate says nothing about this model: calibrate anew, or go back to the old one",
            step=at.name,
        )
