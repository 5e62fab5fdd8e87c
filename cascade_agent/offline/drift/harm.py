"""Harm of the small model's answers against what the policy was certified for, from labels."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cascade_agent.offline.drift.detectors import EDetector
from cascade_agent.offline.drift.values import Latest, Watcher
from cascade_agent.offline.evaluation.dataset import LOOKING

if TYPE_CHECKING:
    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label
    from cascade_agent.offline.drift.values import Alarm, Monitor, StepRef

_APART = 20  # steps of a conversation between two of its harms (labels) that count
_DESCRIBED = 300  # labels, the latest, that an alarm describes
_SURE = 2.33  # standard errors of a one-sided 99 % bound
_LATELY = 1000.0


class _Losses(Watcher):
    """An e-detector on losses, and the last step of each conversation that counted."""

    def __init__(self, name: str, bound: float, *, level: float, note: str) -> None:
        super().__init__(name, "e_detector", chance=level, note=note)
        self.detector = EDetector(bound, level=level)
        self._last = Latest[str, int]()

    def apart(self, step: StepRef) -> bool:
        """Return whether the step is far enough from the last one of its conversation that counted; then it counts."""
        if step.episode is None:
            return True
        last = self._last.get(step.episode)
        if last is not None and step.turn - last < _APART:
            return False
        self._last[step.episode] = step.turn
        return True


class HarmMonitor:
    """Two e-detectors on harm against the certified loss.

    `shadow`: shadow labels have a known propensity, so every step counts, a step without a label as one without harm,
    and a harm seen with propensity p as 1 / p.

    `judges`: labels of people and evaluators have none. The unit is a labelled step that small answered; its bound is
    the certified loss over the share of steps that small answers (the lower 99 % bound of it, over about 1,000 steps),
    and that these steps were not chosen by their outcome is assumed.

    Where the certificate is about the answered steps alone (`selective_error`), a labelled step is the unit of both.
    A wrong answer of which nobody knows large's counts as harm. Of a conversation one harm (one judged label) in 20 of
    its steps counts, since the others depend on it.
    """

    def __init__(self, policy: Policy | None, max_loss: float | None, *, level: float) -> None:
        self.bound, self._selective = _certified(policy, max_loss)
        self._version = None if policy is None or max_loss is not None else policy.version
        self._p = policy.shadow_rate if policy is not None and policy.shadow_rate > 0.0 else None
        self._answered = self._weight = 0.0
        self._steps = self._others = self._labels = 0
        self._latest: deque[tuple[tuple[str, str], bool]] = deque(maxlen=_DESCRIBED)
        self._watchers: tuple[_Losses, ...] = ()
        if self.bound is not None:
            target = f"{'P(wrong | small answered)' if self._selective else 'harm per step'} <= {self.bound:g}"
            rests = "disagreement with large counts as harm, which overstates it"
            self._shadow = _Losses("harm (shadow)", self.bound, level=level, note=f"{target}; {rests}")
            rests = "assumes that labels are not chosen by outcome"
            self._judges = _Losses("harm (person, evaluator)", self.bound, level=level, note=f"{target}; {rests}")
            self._watchers = self._shadow, self._judges

    def count(self, step: StepRef) -> None:
        """Count a step."""
        if not self._own(step):
            self._others += 1
            return
        self._steps += 1
        self._weight = min(self._weight + 1.0, _LATELY)
        self._answered += (step.answered - self._answered) / self._weight
        if self._watchers and self._p is not None and not self._selective:
            self._shadow.detector.count(p=self._p)

    def restart(self, _name: str) -> None:
        """Forget all evidence: another policy decides."""
        for watcher in self._watchers:
            watcher.detector.restart()
        self._latest.clear()

    def label(self, label: Label, step: StepRef) -> list[Alarm]:
        """Take a label; the alarm that it raises."""
        loss = label.harm
        if loss is None or self._selective:
            loss = None if label.right is None else not label.right
        if not self._watchers or loss is None or not step.answered or not self._own(step):
            return []
        if label.source == "shadow":
            return self._shadowed(label.propensity, step, loss=loss)
        return self._judged(step, loss=loss) if label.source in LOOKING else []

    def _own(self, step: StepRef) -> bool:
        return self._version is None or step.policy in (None, self._version)

    def _shadowed(self, p: float | None, step: StepRef, *, loss: bool) -> list[Alarm]:
        if p is None or not 0.0 < p <= 1.0:
            return []
        self._note(step, loss=loss)
        bet, self._p = self._p is not None, p  # of the bets from the next step on: a bet must not know its own step
        if self._selective:
            bet, p = True, 1.0
            self._shadow.detector.count()
        found = loss and bet and self._shadow.apart(step) and self._shadow.detector.loss(p=p)
        return self._alarm(self._shadow, step) if found else []

    def _judged(self, step: StepRef, *, loss: bool) -> list[Alarm]:
        if not self._judges.apart(step):
            return []
        self._note(step, loss=loss)
        bound, share = self.bound or 0.0, self._answered
        if not self._selective:
            at_least = share - _SURE * (share * (1.0 - share) / self._weight) ** 0.5
            bound = min(0.9, bound / max(at_least, bound))
        self._judges.detector.count(bound=bound)
        return self._alarm(self._judges, step) if loss and self._judges.detector.loss() else []

    def _note(self, step: StepRef, *, loss: bool) -> None:
        self._labels += 1
        self._latest.append(((step.name, step.kind), loss))

    def _alarm(self, watcher: _Losses, step: StepRef) -> list[Alarm]:
        watcher.detector.restart()
        labels = Counter(place for place, _ in self._latest)
        losses = Counter(place for place, loss in self._latest if loss)
        self._latest.clear()
        (place, worst), share = losses.most_common(1)[0], losses.total() / labels.total()
        name, kind = place
        return watcher.alarm(
            step,
            f"answers of the small model are {'wrong' if self._selective else 'harmful'} more often than the certified "
            f"{self.bound:g}: {losses.total()} of the last {labels.total()} labelled ones, most in {kind!r} steps "
            f"named {name!r} ({worst} of {labels[place]})",
            f"escalate every {kind!r} step of {name!r} (a threshold of 1 there) and calibrate anew on labels "
            "from now on (`cascade-agent calibrate`)",
            step=name,
            moved=(self.bound, share),
        )

    def monitors(self) -> list[Monitor]:
        """Return both as they stand."""
        return [w.stands(w.detector.n, w.detector.value, limit=w.detector.limit) for w in self._watchers]

    def notes(self) -> list[str]:
        """Return why the labelled monitors may be blind."""
        if self.bound is None:
            return [
                "no certified loss is known, so no monitor sees wrong answers: give a calibrated policy or `max_loss`"
            ]
        if self._others and not self._steps:
            return [f"no step ran under the given policy (version {self._version}), so its certificate was not tested"]
        if not self._labels:
            return ["no label of an answered step: no monitor can see answers getting worse by themselves"]
        return []


def _certified(policy: Policy | None, max_loss: float | None) -> tuple[float | None, bool]:
    """The greatest loss to hold the answers to, and whether it is that of the answered steps alone."""
    if max_loss is not None:
        return max_loss, False
    certificate = None if policy is None else policy.provenance.get("certificate")
    if not isinstance(certificate, Mapping):
        return None, False
    bound = certificate.get("max_loss")
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0.0 < bound < 1.0:
        return None, False
    return float(bound), certificate.get("risk") == "selective_error"
