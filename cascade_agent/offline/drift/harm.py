"""Harm of the small model's answers against what the policy was certified for, from labels."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from cascade_agent.offline.drift.detectors import EDetector
from cascade_agent.offline.drift.values import REMEMBERED, AlarmLog, put
from cascade_agent.offline.evaluation.dataset import LOOKING

if TYPE_CHECKING:
    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label
    from cascade_agent.offline.drift.values import Alarm, Monitor, StepRef

_APART = 20
"""Steps of a conversation between two of its harms (labels) that count."""
_DESCRIBED = 300
"""Labels, the latest, that an alarm describes."""
_SURE = 2.33
"""Standard errors of a one-sided 99 % bound."""
_LATELY = 1000.0
Who = Literal["shadow", "judges"]
_NAMES: Final[dict[Who, tuple[str, str]]] = {
    "shadow": ("harm (shadow)", "disagreement with large counts as harm, which overstates it"),
    "judges": ("harm (person, evaluator)", "assumes that labels are not chosen by outcome"),
}


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
        self._detectors: dict[Who, EDetector] = {}
        self._logs: dict[Who, AlarmLog] = {}
        self._last: OrderedDict[tuple[Who, str], int] = OrderedDict()
        self._latest: deque[tuple[str, str, bool]] = deque(maxlen=_DESCRIBED)
        if self.bound is None:
            return
        target = "P(wrong | small answered)" if self._selective else "harm per step"
        for who, (name, rests) in _NAMES.items():
            self._detectors[who] = EDetector(self.bound, level=level)
            note = f"{target} <= {self.bound:g}; {rests}"
            self._logs[who] = AlarmLog(name, "e_detector", chance=level, note=note)

    def count(self, policy: str | None, *, answered: bool) -> None:
        """Count a step of the policy with this version."""
        if not self._own(policy):
            self._others += 1
            return
        self._steps += 1
        self._weight = min(self._weight + 1.0, _LATELY)
        self._answered += (answered - self._answered) / self._weight
        if self._detectors and self._p is not None and not self._selective:
            self._detectors["shadow"].count(p=self._p)

    def restart(self) -> None:
        """Forget all evidence: another policy decides."""
        for detector in self._detectors.values():
            detector.restart()
        self._latest.clear()

    def label(self, label: Label, step: StepRef) -> list[Alarm]:
        """Take a label; the alarm that it raises."""
        loss = label.harm
        if loss is None or self._selective:
            loss = None if label.right is None else not label.right
        if not self._detectors or loss is None or not step.answered or not self._own(step.policy):
            return []
        if label.source == "shadow":
            return self._shadowed(label.propensity, step, loss=loss)
        return self._judged(step, loss=loss) if label.source in LOOKING else []

    def _own(self, policy: str | None) -> bool:
        return self._version is None or policy is None or policy == self._version

    def _shadowed(self, p: float | None, step: StepRef, *, loss: bool) -> list[Alarm]:
        if p is None or not 0.0 < p <= 1.0:
            return []
        self._note(step, loss=loss)
        bet, self._p = self._p is not None, p  # of the bets from the next step on: a bet must not know its own step
        detector = self._detectors["shadow"]
        if self._selective:
            bet, p = True, 1.0
            detector.count()
        alarms = loss and bet and self._apart("shadow", step) and detector.loss(p=p)
        return self._alarm("shadow", step) if alarms else []

    def _judged(self, step: StepRef, *, loss: bool) -> list[Alarm]:
        if not self._apart("judges", step):
            return []
        self._note(step, loss=loss)
        detector, bound = self._detectors["judges"], self.bound or 0.0
        if not self._selective:
            bound = min(0.9, bound / max(self._answers_at_least(), bound))
        detector.count(bound=bound)
        return self._alarm("judges", step) if loss and detector.loss() else []

    def _answers_at_least(self) -> float:
        a = self._answered
        return a - _SURE * (a * (1.0 - a) / self._weight) ** 0.5 if self._weight else 0.0

    def _apart(self, who: Who, step: StepRef) -> bool:
        """Return whether the step is far enough from the last one of its conversation that counted; then it counts."""
        if step.episode is None:
            return True
        key = (who, step.episode)
        last = self._last.get(key)
        if last is not None and step.turn - last < _APART:
            return False
        put(self._last, key, step.turn, most=REMEMBERED)
        return True

    def _note(self, step: StepRef, *, loss: bool) -> None:
        self._labels += 1
        self._latest.append((step.name, step.kind, loss))

    def _alarm(self, who: Who, step: StepRef) -> list[Alarm]:
        self._detectors[who].restart()
        labels = Counter((name, kind) for name, kind, _ in self._latest)
        losses = Counter((name, kind) for name, kind, loss in self._latest if loss)
        self._latest.clear()
        (name, kind), worst = losses.most_common(1)[0]
        word = "wrong" if self._selective else "harmful"
        return self._logs[who].alarm(
            step,
            f"answers of the small model are {word} more often than the certified {self.bound:g}: "
            f"{losses.total()} of the last {labels.total()} labelled ones, most in {kind!r} steps named {name!r} "
            f"({worst} of {labels[name, kind]})",
            f"escalate every {kind!r} step of {name!r} (a threshold of 1 there) and calibrate anew on labels "
            "from now on (`cascade-agent calibrate`)",
            step=name,
            before=self.bound,
            after=losses.total() / labels.total(),
        )

    def monitors(self) -> list[Monitor]:
        """Return both as they stand."""
        return [self._logs[who].stands(d.n, d.value, limit=d.limit) for who, d in self._detectors.items()]

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
