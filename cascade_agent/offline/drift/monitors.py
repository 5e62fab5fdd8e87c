"""The monitors over a stream of steps and labels: what each watches, its share of the false alarms, what to do.

Memory is bounded whatever the length of the stream, the number of step names, models and codes; no clock, no file.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.offline.drift.detectors import HORIZON, Adwin, Category, Stability, check_share
from cascade_agent.offline.drift.harm import HarmMonitor
from cascade_agent.offline.drift.savings import Prices, SavingsMonitor
from cascade_agent.offline.drift.values import DriftReport, Fact, Latest, StepRef, Watcher, moment
from cascade_agent.offline.evaluation.dataset import UNFINISHED
from cascade_agent.offline.evaluation.journals import ordered

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label, StepTrace, Verdict
    from cascade_agent.journal.format import PathLike
    from cascade_agent.offline.drift.values import Alarm, Monitor
    from cascade_agent.offline.evaluation.journals import ReadSettings

MAX_NAMES: Final = 20  # step names that are watched by themselves; later ones are watched only together with all
_QUIET = 300  # observations after an alarm of a mean during which the same change is no new alarm
_LEAST = 0.02  # a change of a mean below this is followed and no alarm
_MAX_FACTS = 200
_MAX_MODELS = 200
_ABSENT = 1000  # steps of a name after which a model that comes back is a fact again

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
    labels = 0
    for part in ordered(paths, how):
        for step in part.found:
            watcher.take(step.trace, step.given)
        labels = part.labels
        watcher.repeated += part.repeated
        watcher.orphans -= part.labelled
    watcher.orphans += labels
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
        check_share("false_alarms", false_alarms)
        if since is not None and since.tzinfo is None:
            msg = f"since is {since.isoformat()}, without a zone; expected a time such as 2026-03-02T00:00:00+00:00"
            raise ConfigurationError(msg)
        self._lock = threading.Lock()
        self._since, self._false_alarms = since, false_alarms
        self._means = {name: _Means(name, false_alarms / 8) for name in _MEANS}
        self._shares = {name: _Share(name, false_alarms / 16) for name in ("confidence", "finding", "reason", "kind")}
        self._harm = HarmMonitor(policy, max_loss, level=false_alarms / 4)
        self._facts = _Facts(policy)
        self._savings = [SavingsMonitor()] if prices is None else [SavingsMonitor(), SavingsMonitor(prices)]
        self._recent = Latest[str, StepRef]()
        self._turns = Latest[str, int]()
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
            ref = self._place(step)
            if self._facts.changed(step, ref):
                learned: list[_Means | _Share | HarmMonitor]
                learned = [*self._means.values(), *self._shares.values(), self._harm]
                for watcher in learned:
                    watcher.restart(step.step)
            self._harm.count(ref)
            alarms = self._facts.strange(step, ref)
            for name, value in _measured(step):
                alarms += self._means[name].add(value, ref)
            for name, category in _categories(step):
                alarms += self._shares[name].add(category, ref)
            for savings in self._savings:
                alarms += savings.add(step, ref)
            return tuple(alarms)

    def take(self, step: StepTrace, labels: Iterable[Label]) -> None:
        """Take a step with all its labels; one that comes a second time is counted and left out."""
        repeated = self.repeated
        self.add(step)
        labels = () if self.repeated > repeated else tuple(labels)
        self.labelled += bool(labels)
        for label in labels:
            self.add_label(label)

    def add_label(self, label: Label) -> tuple[Alarm, ...]:
        """Take a label of a step among the last 20,000; the alarms that it raises."""
        with self._lock:
            ref = self._recent.get(label.step_id)
            if ref is None:
                self.orphans += 1
                return ()
            self.labels += 1
            for savings in self._savings:
                savings.label(label)
            return tuple(self._harm.label(label, ref))

    def _place(self, step: StepTrace) -> StepRef:
        """Give a step its place in the stream and in its conversation, and remember it."""
        turn, time = 0, None if self._since is None else moment(step.started_at)
        if step.thread_id is not None:
            turn = self._turns[step.thread_id] = self._turns.get(step.thread_id, -1) + 1
        ref = self._recent[step.id] = StepRef(
            index=self.steps,
            at=step.started_at,
            counts=self._since is None or time is None or time >= self._since,
            name=step.step,
            kind=step.kind,
            episode=step.thread_id,
            turn=turn,
            answered=step.final_tier == "small" and not step.escalated,
            policy=step.policy,
        )
        self.steps += 1
        self._first, self._last = self._first or step.started_at, step.started_at or self._last
        return ref

    # ---- the findings -----------------------------------------------------------------------------------------------

    def report(self) -> DriftReport:
        """Return all monitors as they stand."""
        with self._lock:
            monitors = [
                *(mean.monitor() for means in self._means.values() for mean in means.watched()),
                *(share.monitor() for share in self._shares.values()),
                *self._harm.monitors(),
                self._facts.state,
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
            )

    def _notes(self) -> Iterator[str]:
        if unnamed := self._means["escalation"].unnamed:
            yield f"{unnamed} steps have names beyond the first {MAX_NAMES}; they are watched with all only"
        yield from self._harm.notes()
        if self._facts.lost:
            yield f"{self._facts.lost} older facts are left out"


def _measured(step: StepTrace) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a step whose means are watched."""
    small = step.attempts[0]
    yield "escalation", float(step.escalated)
    if small.outcome in ("accepted", "rejected") and small.confidence is not None:
        yield "confidence", small.confidence


def _categories(step: StepTrace) -> Iterator[tuple[str, Category]]:
    """Yield what a step is counted by, where the shares are watched."""
    small = step.attempts[0]
    yield "confidence", None if small.confidence is None else float(small.confidence)
    yield "finding", gravest(v for v in small.verdicts if v.validator not in small.gathered)
    yield "reason", step.reason
    yield "kind", f"{step.step}: {step.kind}"


def gravest(verdicts: Iterable[Verdict]) -> str:
    """The finding that speaks most against a draft, as `Validator:code`; `-` where there is none."""
    worst, found = 2.0, "-"
    for v in verdicts:
        if not v.hard and v.score is None:
            continue
        rank = -2.0 if v.score is None else v.score - (v.outcome == "fail")
        if rank < worst and (rank < 1.0 or v.outcome == "fail"):
            worst, found = rank, f"{v.validator}:{v.code}"
    return found


# ---- means: ADWIN ---------------------------------------------------------------------------------------------------

_MEANS: Final = {"escalation": "the share of escalated steps", "confidence": "the mean confidence of small drafts"}


class _Mean(Watcher):
    """One mean under watch: of all steps, or of those of a name."""

    def __init__(self, name: str, chance: float, step: str | None = None) -> None:
        super().__init__(name, "adwin", chance=chance, step=step)
        self._what = _MEANS[name] + ("" if step is None else f" of step {step!r}")
        self._delta = chance / (HORIZON // Adwin.CLOCK)
        self.restart()

    def restart(self) -> None:
        self._detector, self._quiet_until = Adwin(self._delta), 0

    def add(self, value: float, ref: StepRef) -> list[Alarm]:
        change = self._detector.update(value)
        if change is None or self._detector.ticks < self._quiet_until or abs(change.after - change.before) < _LEAST:
            return []
        sign = "rose" if change.after > change.before else "fell"
        alarms = self.alarm(
            ref,
            f"{self._what} {sign} from {change.before:.3f} to {change.after:.3f}, "
            f"about {change.n_after} such steps ago",
            RAISE_SHADOW,
            moved=(change.before, change.after),
            since=change.n_after,
        )
        if alarms:
            self._quiet_until = self._detector.ticks + _QUIET
        return alarms

    def monitor(self) -> Monitor:
        note = f"mean of the last {self._detector.width}; no limit: two parts of the window are compared"
        return self.stands(self._detector.ticks, self._detector.mean, note=note)


class _Means:
    """One quantity, overall and per step name; while there is one name, it is the same as all and kept quiet."""

    def __init__(self, name: str, chance: float) -> None:
        self._name, self._chance = name, chance / 2
        self._all = _Mean(name, self._chance)
        self._names: dict[str, _Mean] = {}
        self.unnamed = 0

    def add(self, value: float, ref: StepRef) -> list[Alarm]:
        alarms, n = self._all.add(value, ref), len(self._names) + 1
        if ref.name not in self._names:
            if n > MAX_NAMES:
                self.unnamed += 1
                return alarms
            self._names[ref.name] = _Mean(self._name, self._chance / (n * (n + 1)), ref.name)
        own = self._names[ref.name].add(value, ref if len(self._names) > 1 else replace(ref, counts=False))
        return alarms + own

    def restart(self, step: str) -> None:
        """Forget what was seen of all steps together, and of those of a name."""
        for mean in (self._all, self._names.get(step)):
            if mean is not None:
                mean.restart()

    def watched(self) -> list[_Mean]:
        return [self._all, *(self._names.values() if len(self._names) > 1 else ())]


# ---- shares: PSI ----------------------------------------------------------------------------------------------------


class _Share(Watcher):
    """One distribution, all steps together."""

    def __init__(self, name: str, chance: float) -> None:
        super().__init__(f"{name} (PSI)", "psi", chance=chance)
        self._detector = Stability(chance / (HORIZON // Stability.HOP))

    def restart(self, _step: str) -> None:
        self._detector.restart()

    def add(self, value: Category, ref: StepRef) -> list[Alarm]:
        shift = self._detector.update(value)
        if shift is None:
            return []
        return self.alarm(
            ref,
            f"PSI {shift.psi:.2f} over the last {Stability.WINDOW} steps; most moved {shift.cell!r}, "
            f"from {shift.before:.3f} to {shift.after:.3f}",
            RAISE_SHADOW,
            moved=(shift.before, shift.after),
        )

    def monitor(self) -> Monitor:
        found, steps = self._detector, f"{Stability.REFERENCE} steps"
        note = f"against {steps}" if found.ready else f"still collecting the {steps} to compare with"
        return self.stands(found.n, found.value, limit=Stability.LEAST, note=note)


# ---- facts ----------------------------------------------------------------------------------------------------------


class _Facts(Watcher):
    """Models and policies as the records name them."""

    def __init__(self, policy: Policy | None) -> None:
        note = "a model that the policy was not calibrated with is an alarm; any other change is a fact"
        super().__init__("small model", "fact", note=note)
        models = () if policy is None else policy.provenance.get("models") or ()
        self._measured = set(map(str, models)) if isinstance(models, list | tuple) else set[str]()
        self.changes: list[Fact] = []
        self.lost = 0
        self._now = Latest[tuple[str, str], str](5 * _MAX_MODELS)
        self._seen = Latest[tuple[str, str, str], int](5 * _MAX_MODELS)
        self._strange: set[str] = set()

    def changed(self, step: StepTrace, ref: StepRef) -> bool:
        """Note the models and the policy of a step; whether the policy is a new one: what was learned is void then."""
        large = next((a.model for a in reversed(step.attempts) if a.tier != "small"), None)
        named = ("small_model", step.attempts[0].model), ("large_model", large), ("policy", step.policy)
        return [self._look(what, value, ref) for what, value in named][-1]

    def _look(self, what: str, value: str | None, ref: StepRef) -> bool:
        if value is None:
            return False
        place, key = (what, ref.name), (what, ref.name, value)
        before, seen = self._now.get(place), self._seen.get(key)
        self._now[place], self._seen[key] = value, ref.index
        if before is None or before == value or (seen is not None and ref.index - seen <= _ABSENT):
            return False
        if ref.counts:
            fact = Fact(what=what, step=ref.name, index=ref.index, at=ref.at, before=before, after=value)
            self.lost += len(self.changes) == _MAX_FACTS
            self.changes = [*self.changes, fact][-_MAX_FACTS:]
        return True

    def strange(self, step: StepTrace, ref: StepRef) -> list[Alarm]:
        """Return an alarm where small is a model that the policy was not calibrated with, once for each."""
        model = step.attempts[0].model
        if model is None or not self._measured or model in self._measured or model in self._strange:
            return []
        if not ref.counts or len(self._strange) >= _MAX_MODELS:
            return []
        self._strange.add(model)
        return self.alarm(
            ref,
            f"the small model is {model!r}; the policy was calibrated with {', '.join(sorted(self._measured))}",
            "its certificate says nothing about this model: calibrate anew, or go back to the old one",
            step=ref.name,
        )
