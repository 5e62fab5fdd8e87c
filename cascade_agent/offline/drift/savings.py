"""The saving of a stream of steps, and since when a cascade does not pay any more."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cascade_agent.offline.drift.values import Latest, PriceBasis, Saving, Watcher
from cascade_agent.offline.evaluation.dataset import MONEY, WEIGHT, Facts, episode_of, label_step, text_hash
from cascade_agent.offline.evaluation.estimates import ALL, Estimates, Figure
from cascade_agent.offline.evaluation.tally import GROUPS, Cell, SweepPlan, Tally

if TYPE_CHECKING:
    from cascade_agent.core.records import Label, StepTrace, Usage
    from cascade_agent.models.pricing import Price
    from cascade_agent.offline.drift.values import Alarm, Monitor, StepRef

Prices = Mapping[str, "Price"] | Callable[[str], "Price | None"]

_OTHERS = "(other steps)"
_NAMES = 20  # step names, and models, that are told apart
_WINDOW = 300  # steps over which a saving is the present one
_ENOUGH = 10  # shadow calls before they say what large would have cost on other accepted steps of that name
_MEMORY = 200.0  # shadow calls after which an old one counts for a third
_LOOK = 50  # steps between two looks at whether it pays again
_SURE = 3.0  # standard errors by which a saving must lie below (or above) 0 to be called one
_MAX_SOURCES = 20  # sources of prices that fit a line


@dataclass(slots=True)
class _Mean:
    """Cost of large on accepted steps that were drawn lately, each weighed by one over its probability."""

    total: float = 0.0
    weight: float = 0.0
    n: int = 0

    def add(self, cost: float, weight: float) -> None:
        keep = 1.0 - 1.0 / _MEMORY
        self.total, self.weight, self.n = self.total * keep + weight * cost, self.weight * keep + weight, self.n + 1


@dataclass(slots=True)
class _Run:
    """Steps since the cascade last was no dearer than always-large: the sum of what it lost, and of its squares."""

    lost: float = 0.0
    squares: float = 0.0
    large: float = 0.0
    n: int = 0
    at: str | None = None
    index: int = 0


def _sure(total: float, squares: float, n: int) -> bool:
    """Return whether the mean is above 0 by some standard errors."""
    if n < 2 or total <= 0.0:  # one step has no spread
        return False
    spread = max(0.0, squares - total * total / n) / (n - 1)
    return total >= _SURE * math.sqrt(n * spread)


class SavingsMonitor(Watcher):
    """The saving of a stream of steps at the recorded prices, or at given ones, by the estimates of `evaluation`.

    Evidence is paid at its recorded cost, as the record does not name its model. The policy stopped paying at the step
    from which on it cost more in sum than always-large, once that holds over 300 steps, over the last 300 of them, and
    by three standard errors. There, an accepted step that was not shadowed is taken to have cost large what the
    shadowed ones of its name did lately; without any, as much as the dearest recorded call of large.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self.basis: PriceBasis = "recorded" if prices is None else "given"
        super().__init__(f"saving ({self.basis} prices)", "saving")
        self._prices = prices
        self._currency: str | None = None
        self._tally = Tally(SweepPlan())
        self._names: set[str] = set()
        self._means: dict[str, _Mean] = {}
        self._models: dict[str, str] = {}
        self._late = Latest[str, tuple[Cell, int, Facts]]()
        self._recent: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self._run = _Run()
        self.known = self.unknown = 0
        self._sources: set[str] = set()

    def add(self, step: StepTrace, ref: StepRef) -> list[Alarm]:
        """Take a step; an alarm where it is the one at which the policy is found to pay no more."""
        before = self.stopped
        self._count(step, ref)
        if before or not self.stopped:
            return []
        run = self._run
        when = (run.at or "")[:10] or f"step {run.index}"
        more = f": since then it cost {run.lost / run.large:.0%} more than always-large" if run.large > 0.0 else ""
        return self.alarm(
            ref,
            f"this policy stopped paying on {when}{more}",
            "ask the large model alone for now, or calibrate anew; "
            f"{self.unknown} of {self.known + self.unknown} steps have costs that are not known",
            moved=(None, self.recent),
            since=ref.index - run.index,
        )

    def monitor(self) -> Monitor:
        """Return the monitor as it stands."""
        return self.stands(self.known, self.recent, limit=0.0)

    def _count(self, step: StepTrace, ref: StepRef) -> None:
        if self._currency is None:
            self._currency = step.currency
        name = step.step if step.step in self._names or len(self._names) < _NAMES else _OTHERS
        self._names.add(name)
        facts = label_step(self._priced(step, name)).facts
        if facts is None or step.currency != self._currency:
            self.unknown += 1
            return
        cell, group = (name, ""), text_hash(episode_of(step)) % GROUPS
        self._tally.count(cell, group, facts)
        self._late[step.id] = (cell, group, facts)
        costs = [cost for _, cost in facts.calls]
        if None in costs:
            self.unknown += 1
            return
        self.known += 1
        large = facts.large / MONEY if facts.large is not None else self._expected(name)
        if large is not None:
            cost = sum(cost or 0 for cost in costs) / MONEY
            self._recent.append((cost, large))
            self._follow(cost - large, large, ref)

    def label(self, label: Label) -> None:
        """Take a label: a shadow call is paid, and tells what large would have cost."""
        found = self._late.get(label.step_id)
        if found is None or label.side_call is None:
            return
        cell, group, before = found
        facts = before.with_label(self._label_priced(label, cell[0]))
        self._tally.count(cell, group, before, sign=-1)
        self._tally.count(cell, group, facts)
        self._late[label.step_id] = (cell, group, facts)
        if facts.shadow is None or before.shadow is None:
            return
        paid = (facts.shadow - before.shadow) / MONEY
        if self._recent:
            cost, always = self._recent[-1]
            self._recent[-1] = (cost + paid, always)
            self._run.lost += paid if self._run.n else 0.0
        if facts.weight and not before.weight and facts.large is not None:
            for name in (cell[0], ""):
                self._means.setdefault(name, _Mean()).add(facts.large / MONEY, facts.weight / WEIGHT)

    def _expected(self, name: str) -> float | None:
        """Return what large would have cost on an accepted step of that name, or at most; None is unknown."""
        for key in (name, ""):
            mean = self._means.get(key)
            if mean is not None and mean.n >= _ENOUGH:
                return mean.total / mean.weight
        seen = self._tally.ranges.get((name, "large"))
        return None if seen is None else seen[1] / MONEY

    def _follow(self, lost: float, large: float, ref: StepRef) -> None:
        """Keep the run of steps in which the cascade lost in sum, until that is won back or it pays again."""
        run = self._run if self._run.n else _Run(at=ref.at, index=ref.index)
        run.n, run.large = run.n + 1, run.large + large
        run.lost, run.squares = run.lost + lost, run.squares + lost * lost
        gains = [large - cost for cost, large in self._recent] if run.n > _WINDOW and run.n % _LOOK == 0 else []
        pays = run.lost <= 0.0 or _sure(math.fsum(gains), math.fsum(g * g for g in gains), len(gains))
        self._run = _Run() if pays else run

    @property
    def stopped(self) -> bool:
        """Return whether it does not pay now."""
        run = self._run
        lost = run.n >= _WINDOW and _sure(run.lost, run.squares, run.n)
        recent = self.recent if lost else None
        return recent is not None and recent <= 0.0

    @property
    def recent(self) -> float | None:
        """The saving over the last 300 known steps; None before there are so many, or without a cost."""
        if len(self._recent) < _WINDOW:
            return None
        large = math.fsum(large for _, large in self._recent)
        return 1.0 - math.fsum(cost for cost, _ in self._recent) / large if large > 0.0 else None

    def saving(self) -> Saving:
        """Return the saving as it stands."""
        run = self._run if self.stopped else None
        found, cost, large = Figure(), None, None
        if self._tally.rows[0]:
            estimates = Estimates(self._tally, parts=False, intervals=("saving",))
            recorded, alone = estimates.recorded(), estimates.baseline("always large")[ALL]
            cost, large = (None if c is None else c * recorded.steps for c in (recorded.cost.point, alone.cost.point))
            found = recorded.saving
        return Saving(
            basis=self.basis,
            currency=self._currency or "USD",
            known=self.known,
            unknown=self.unknown,
            cost=cost,
            always_large=large,
            saving=found.point,
            low=found.low,
            high=found.high,
            interval=found.interval or (),
            recent=self.recent,
            recent_steps=len(self._recent),
            stopped=None if run is None else run.at,
            stopped_index=None if run is None else run.index,
            since_stopped=None if run is None or run.large <= 0.0 else -run.lost / run.large,
            source="; ".join(sorted(self._sources)[:_MAX_SOURCES]),
        )

    # ---- given prices -----------------------------------------------------------------------------------------------

    def _priced(self, step: StepTrace, name: str) -> StepTrace:
        """Return the step as it would cost at the given prices."""
        if self._prices is None:
            return step
        model = next((a.model for a in reversed(step.attempts) if a.tier != "small" and a.model), None)
        if model is not None:
            self._models[name] = self._models[""] = model
        costs = (None if a.inner is not None else self._cost(a.model, a.usage, step.currency) for a in step.attempts)
        pairs = zip(step.attempts, costs, strict=True)
        return replace(step, attempts=tuple(a if a.outcome == "skipped" else replace(a, cost=c) for a, c in pairs))

    def _label_priced(self, label: Label, name: str) -> Label:
        call = label.side_call
        if self._prices is None or call is None:
            return label
        cost = self._cost(self._models.get(name) or self._models.get(""), call.usage, self._currency)
        return replace(label, side_call=replace(call, cost=cost))

    def _cost(self, model: str | None, usage: Usage | None, currency: str | None) -> float | None:
        """Return the cost of a call of a model at its given price; None without one in that currency."""
        if model is None or usage is None or self._prices is None:
            return None
        price = self._prices(model) if callable(self._prices) else self._prices.get(model)
        if price is None or price.currency != currency:
            return None
        if len(self._sources) <= _MAX_SOURCES:
            self._sources.add(f"{model}: {price.source or 'given'}{f', {price.date}' if price.date else ''}")
        return price.cost(usage)
