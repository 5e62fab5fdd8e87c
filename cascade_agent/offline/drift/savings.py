"""What a cascade cost beside always-large, step by step, and since when it does not pay any more.

Law: a step whose cost or whose large answer's cost is unknown is in no sum; it is counted as unknown.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade_agent.offline.drift.values import Basis, Saving

if TYPE_CHECKING:
    from cascade_agent.core.records import Attempt, SideCall, StepTrace
    from cascade_agent.models.pricing import Price

Prices = Mapping[str, "Price"] | Callable[[str], "Price | None"]

_ENOUGH = 10
"""Steps with both answers before the price of a large answer is told from that of the small one."""
_MEMORY = 200.0
"""Steps with both answers after which an old one counts for a third."""
_LOOK = 50
"""Steps between two looks at whether it pays again."""
_SURE = 3.0
"""Standard errors by which a saving must lie below (or above) 0 to be called one."""


@dataclass(slots=True)
class _Ratio:
    """Large cost over small cost on steps where both are known, lately."""

    small: float = 0.0
    large: float = 0.0
    n: int = 0

    def add(self, small: float, large: float) -> None:
        keep = 1.0 - 1.0 / _MEMORY
        self.small, self.large, self.n = self.small * keep + small, self.large * keep + large, self.n + 1

    @property
    def value(self) -> float | None:
        return self.large / self.small if self.n >= _ENOUGH and self.small > 0.0 else None


@dataclass(slots=True)
class _Run:
    """Steps since the cascade last was no dearer than always-large: the sum of what it lost, and of its squares."""

    lost: float = 0.0
    squares: float = 0.0
    large: float = 0.0
    n: int = 0
    at: str | None = None
    index: int = 0

    @property
    def sure(self) -> bool:
        """Whether the loss per step is above 0 by some standard errors."""
        return _sure(self.lost, self.squares, self.n)


def _sure(total: float, squares: float, n: int) -> bool:
    if n < 2 or total <= 0.0:  # noqa: PLR2004 - one step has no spread
        return False
    spread = max(0.0, squares - total * total / n) / (n - 1)
    return total >= _SURE * math.sqrt(n * spread)


class Books:
    """The saving of a stream of steps at the recorded prices, or at given ones.

    For a step that small answered, large's cost is estimated from small's: by the ratio of the two on the steps of that
    name (then on all steps) where both answered, escalated or shadowed. Evidence and shadow calls are paid at their
    recorded cost, as the record does not name their models. A hedged or repeated call of a tier is paid, too.

    The policy stopped paying at the step from which on it cost more in sum than always-large, once that holds over
    `window` steps, over the last `window` of them, and by three standard errors.

    Args:
        prices: model -> price, or a function; None takes the recorded costs.
        window: steps.
        max_names: step names with a ratio of their own.
        source: where the prices come from.
    """

    def __init__(
        self, prices: Prices | None = None, *, window: int = 300, max_names: int = 20, source: str = ""
    ) -> None:
        self._prices, self._window, self._max_names = prices, window, max_names
        self._source = source
        self._basis: Basis = "recorded" if prices is None else "given"
        self._currency: str | None = None
        self._ratios: dict[str, _Ratio] = {}
        self._all = _Ratio()
        self._models: dict[str, str] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=window)
        self._run = _Run()
        self.known = self.unknown = 0
        self._cost = self._large = 0.0
        self.sources: set[str] = set()

    def add(self, step: StepTrace, index: int) -> None:
        """Take one step."""
        pair = self._pair(step)
        if pair is None:
            self.unknown += 1
            return
        cost, large = pair
        self.known += 1
        self._cost += cost
        self._large += large
        self._recent.append(pair)
        self._follow(cost - large, large, step.started_at, index)

    def shadow(self, step_name: str, small: float | None, side_call: SideCall) -> None:
        """A shadow call: it is paid, and tells what large would have cost. `small` is the cost of small's own call."""
        large = self._cost_of_shadow(step_name, side_call)
        if large is None:
            return
        self._cost += large
        if self._recent:
            cost, always = self._recent[-1]
            self._recent[-1] = (cost + large, always)
            self._run.lost += large if self._run.n else 0.0
        if small is not None:
            self._learn(step_name, small, large)

    def _follow(self, lost: float, large: float, at: str | None, index: int) -> None:
        """Keep the run of steps in which the cascade lost in sum."""
        run = self._run
        if run.n == 0:
            run.at, run.index = at, index
        run.lost, run.squares, run.large, run.n = (
            run.lost + lost,
            run.squares + lost * lost,
            run.large + large,
            run.n + 1,
        )
        if run.lost <= 0.0 or self._pays_again():
            self._run = _Run()

    def _pays_again(self) -> bool:
        if self._run.n <= self._window or self._run.n % _LOOK:
            return False
        gains = [large - cost for cost, large in self._recent]
        return _sure(math.fsum(gains), math.fsum(g * g for g in gains), len(gains))

    @property
    def stopped(self) -> bool:
        """Whether it does not pay now."""
        if self._run.n < self._window or not self._run.sure:
            return False
        recent = self.recent
        return recent is not None and recent <= 0.0

    @property
    def recent(self) -> float | None:
        """The saving over the last `window` known steps; None before there are so many, or without a cost."""
        large = math.fsum(large for _, large in self._recent)
        if len(self._recent) < self._window or large <= 0.0:
            return None
        return 1.0 - math.fsum(cost for cost, _ in self._recent) / large

    def saving(self) -> Saving:
        """As it stands."""
        run = self._run if self.stopped else None
        return Saving(
            basis=self._basis,
            currency=self._currency or "USD",
            known=self.known,
            unknown=self.unknown,
            cost=self._cost,
            always_large=self._large,
            recent=self.recent,
            recent_steps=len(self._recent),
            stopped=None if run is None else run.at,
            stopped_index=None if run is None else run.index,
            since_stopped=None if run is None or run.large <= 0.0 else -run.lost / run.large,
            source="; ".join(filter(None, [self._source, *sorted(self.sources)[:20]])),
        )

    # ---- one step ---------------------------------------------------------------------------------------------------

    def _pair(self, step: StepTrace) -> tuple[float, float] | None:
        """(what it cost, what always-large would have), or None."""
        costs = [self._cost_of(attempt, step.currency) for attempt in step.attempts]
        side_calls = [side_call.cost for side_call in step.evidence]
        small = _sum(c for a, c in zip(step.attempts, costs, strict=True) if a.tier == "small")
        larges = [c for a, c in zip(step.attempts, costs, strict=True) if a.tier != "small"]
        drafted = step.attempts[0].outcome != "skipped"
        model = next((a.model for a in reversed(step.attempts) if a.tier != "small" and a.model), None)
        if model is not None:
            self._models[""] = model
            if step.step in self._models or len(self._models) < self._max_names:
                self._models[step.step] = model
        if larges and None not in larges and small is not None and drafted:
            self._learn(step.step, small, larges[-1] or 0.0)
        if None in costs or None in side_calls or not self._same_currency(step):
            return None
        cost = math.fsum(c for c in [*costs, *side_calls] if c is not None)
        if larges:
            return cost, math.fsum(c or 0.0 for c in larges)
        ratio = self._ratio(step.step)
        return None if ratio is None or small is None else (cost, ratio * small)

    def _cost_of_shadow(self, name: str, side_call: SideCall) -> float | None:
        if self._prices is None:
            return side_call.cost
        price = self._price(self._models.get(name) or self._models.get(""))
        return None if price is None or side_call.usage is None else price.cost(side_call.usage)

    def _same_currency(self, step: StepTrace) -> bool:
        if self._currency is None:
            self._currency = step.currency
        return step.currency == self._currency

    def cost_of_small(self, step: StepTrace) -> float | None:
        """What small's calls of a step cost on this basis."""
        return _sum(self._cost_of(a, step.currency) for a in step.attempts if a.tier == "small")

    def _cost_of(self, attempt: Attempt, currency: str) -> float | None:
        if attempt.outcome == "skipped":
            return 0.0
        if self._prices is None:
            return attempt.cost
        price = self._price(attempt.model)
        if price is None or attempt.usage is None or attempt.inner is not None or price.currency != currency:
            return None
        if len(self.sources) <= 20:  # noqa: PLR2004 - what fits a line
            self.sources.add(f"{attempt.model}: {price.source or 'given'}{f', {price.date}' if price.date else ''}")
        return price.cost(attempt.usage)

    def _price(self, model: str | None) -> Price | None:
        if model is None or self._prices is None:
            return None
        return self._prices(model) if callable(self._prices) else self._prices.get(model)

    def _learn(self, name: str, small: float, large: float) -> None:
        self._all.add(small, large)
        if name in self._ratios or len(self._ratios) < self._max_names:
            self._ratios.setdefault(name, _Ratio()).add(small, large)

    def _ratio(self, name: str) -> float | None:
        own = self._ratios.get(name)
        found = None if own is None else own.value
        return self._all.value if found is None else found


def _sum(costs: Iterable[float | None]) -> float | None:
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total
