"""What steps were like lately and what they spent: the numbers of a `DecisionInputs` that no single step can know.

Law: a number is told when enough steps say it, never before; costs that are unknown are not counted as 0.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from cascade_agent.core.records import DecisionInputs, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.policy import Ceiling
    from cascade_agent.core.records import Attempt, StepTrace
    from cascade_agent.models.tier import Tier

ENOUGH = 19
"""Steps of a name before anything is said of them: 19 escalations in a row bound P(escalate) at .87 from below."""
PROBE_AFTER = 30.0
"""Seconds without a small answer after which one step asks small again (R17)."""
_KEPT = 0.5 ** (1 / 100)
"""What a step counts when the next one is told: half of it after 100 steps."""
_Z = 1.6449  # the 95 % quantile of the normal distribution
_CACHED_FOR = 300.0  # seconds that the large providers keep a prompt, at least
_NAMES, _THREADS, _ACCOUNTS = 256, 4096, 4096
_RETRIES, _FREE_RETRIES = 0.1, 1.0


class _Mean:
    """A mean in which older values count less."""

    __slots__ = ("total", "weight")

    def __init__(self) -> None:
        self.total = self.weight = 0.0

    def add(self, value: float | None) -> None:
        if value is not None:
            self.total = self.total * _KEPT + value
            self.weight = self.weight * _KEPT + 1.0

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight else None

    def lower(self) -> float:
        """Lower 95 % bound of a share (Wilson, JASA 1927), at the number of steps that still count."""
        n, p = self.weight, self.total / self.weight
        middle = p + _Z**2 / (2 * n)
        spread = _Z * math.sqrt(max(p * (1 - p), 0.0) / n + _Z**2 / (4 * n**2))
        return (middle - spread) / (1 + _Z**2 / n)


@dataclass(slots=True)
class _Steps:
    """What the steps of one name were like."""

    asked_at: float
    seen: int = 0
    escalated: _Mean = field(default_factory=_Mean)
    broken: _Mean = field(default_factory=_Mean)
    small_cost: _Mean = field(default_factory=_Mean)
    large_cost: _Mean = field(default_factory=_Mean)
    small_latency: _Mean = field(default_factory=_Mean)
    large_latency: _Mean = field(default_factory=_Mean)
    large_output: _Mean = field(default_factory=_Mean)
    caches: bool = False


class Ledger:
    """What the steps of one cascade were like, by their name. Safe among threads; a copy begins anew."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: OrderedDict[str, _Steps] = OrderedDict()
        self._prompts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._calls, self._retries = 0.0, 0.0

    def snapshot(self, name: str) -> DecisionInputs:
        """What is known of the next step of this name. One in 30 s at most is told to probe."""
        with self._lock:
            steps, retry = self._steps.get(name), self._retries < max(_RETRIES * self._calls, _FREE_RETRIES)
            if steps is None or steps.seen < ENOUGH:
                return _NEW if retry else _NO_RETRY
            now = self._clock()
            probe = now - steps.asked_at >= PROBE_AFTER
            if probe:
                steps.asked_at = now
            return DecisionInputs(
                escalation=steps.escalated.lower(),
                broken=steps.broken.lower(),
                small_cost=steps.small_cost.value,
                large_cost=steps.large_cost.value,
                small_latency=steps.small_latency.value,
                large_latency=steps.large_latency.value,
                probe=probe,
                retry=retry,
            )

    def large_cost_now(self, name: str, tier: Tier, usage: Usage | None, thread_id: str | None) -> float | None:
        """What asking large would cost for the request that small just answered; None when it cannot be told.

        Small's count of the input stands for large's. What large read in this thread within the last 5 minutes counts
        as cached where its provider was seen to cache.
        """
        if usage is None or usage.input_tokens is None:
            return None
        with self._lock:
            steps, prompt = self._steps.get(name), self._prompts.get(thread_id or "")
            if steps is None or steps.large_output.value is None:
                return None
            output = round(steps.large_output.value)
            warm = 0
            if steps.caches and prompt is not None and self._clock() - prompt[1] < _CACHED_FOR:
                warm = min(prompt[0], usage.input_tokens)
        return tier.cost(Usage(input_tokens=usage.input_tokens, output_tokens=output, cache_read_tokens=warm))

    def expected(self, name: str, role: Literal["small", "large"]) -> float | None:
        """Mean cost of a call of this tier; None before one was made."""
        with self._lock:
            steps = self._steps.get(name)
            return None if steps is None else getattr(steps, f"{role}_cost").value

    def tell(self, trace: StepTrace) -> None:
        """Learn from a step that ended. Pure observation: it never raises and holds nothing of what was said."""
        small = trace.attempts[0]
        larges = [a for a in trace.attempts if a.tier == "large"]
        with self._lock:
            self._calls = self._calls * _KEPT + sum(a.outcome != "skipped" for a in trace.attempts)
            self._retries = self._retries * _KEPT + max(0, len(larges) - 1)
            steps = self._steps.pop(trace.step, None) or _Steps(asked_at=self._clock())
            self._steps[trace.step] = steps
            if len(self._steps) > _NAMES:
                self._steps.popitem(last=False)
            if small.tier == "small" and small.outcome not in ("skipped", "pending", "cancelled"):
                steps.asked_at = self._clock()
                steps.seen += 1
                steps.escalated.add(float(small.outcome != "accepted"))
                steps.broken.add(float(_unusable(small)))
                steps.small_cost.add(_plus(small.cost, [s.cost for s in trace.evidence]))
                steps.small_latency.add(_plus(small.latency, [s.latency for s in trace.evidence]))
            for large in larges:
                if large.outcome in ("accepted", "rejected"):
                    self._learn_large(steps, large, trace.thread_id)

    def _learn_large(self, steps: _Steps, large: Attempt, thread_id: str | None) -> None:
        usage = large.usage or Usage()
        steps.large_cost.add(large.cost)
        steps.large_latency.add(large.latency)
        steps.large_output.add(usage.output_tokens)
        steps.caches = steps.caches or bool(usage.cache_read_tokens)
        if thread_id is not None and usage.input_tokens is not None:
            self._prompts.pop(thread_id, None)
            self._prompts[thread_id] = (usage.input_tokens, self._clock())
            if len(self._prompts) > _THREADS:
                self._prompts.popitem(last=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or what another process gets, begins anew."""
        return (Ledger, ())


_NEW, _NO_RETRY = DecisionInputs(), DecisionInputs(retry=False)


def _unusable(attempt: Attempt) -> bool:
    return attempt.outcome in ("error", "timeout") or any(v.hard for v in attempt.verdicts)


def _plus(first: float | None, more: Sequence[float | None]) -> float | None:
    parts = [first, *more]
    return None if None in parts else math.fsum(part for part in parts if part is not None)


# ---- money ----------------------------------------------------------------------------------------------------------


class _Account:
    """What a run or a thread spent, and what is set aside for calls in flight."""

    __slots__ = ("held", "run", "spent")

    def __init__(self, spent: float = 0.0, *, run: object = None) -> None:
        self.spent, self.held = spent, 0.0
        self.run = run  # kept alive, so that no other run gets its identity


_money = threading.Lock()
_accounts: OrderedDict[Hashable, _Account] = OrderedDict()


def _account(key: Hashable, new: Callable[[], _Account]) -> _Account:
    account = _accounts.pop(key, None) or new()
    _accounts[key] = account
    if len(_accounts) > _ACCOUNTS:
        _accounts.popitem(last=False)
    return account


class Purse:
    """What the ceilings leave one step to spend. Accounts are shared by all cascades of the process.

    Args:
        ceilings: the policy's, by what they limit.
        run: the host's object that lives as long as the run; None gives the step an account of its own.
        thread_id: the conversation; None has no account.
        messages: the conversation so far; the costs that its answers tell open the thread's account.
    """

    def __init__(
        self,
        ceilings: Mapping[Ceiling, float],
        *,
        run: object = None,
        thread_id: str | None = None,
        messages: Sequence[BaseMessage] = (),
    ) -> None:
        self._limits: list[tuple[_Account, float]] = []
        with _money:
            if "run" in ceilings:
                account = _Account() if run is None else _account(id(run), lambda: _Account(run=run))
                self._limits.append((account, ceilings["run"]))
            if "thread" in ceilings and thread_id is not None:
                account = _account(thread_id, lambda: _Account(_told(messages)))
                self._limits.append((account, ceilings["thread"]))

    def left(self) -> float | None:
        """What may still be spent; None without a ceiling."""
        with _money:
            return min((limit - account.spent - account.held for account, limit in self._limits), default=None)

    def hold(self, amount: float) -> bool:
        """Set an amount aside for a call; False when it is no longer there."""
        with _money:
            if any(limit - account.spent - account.held < amount for account, limit in self._limits):
                return False
            for account, _ in self._limits:
                account.held += amount
            return True

    def settle(self, held: float, cost: float | None) -> None:
        """The call is over: what it cost is spent, and what was set aside when that is not known."""
        with _money:
            for account, _ in self._limits:
                account.held -= held
                account.spent += held if cost is None else cost


def _told(messages: Sequence[BaseMessage]) -> float:
    """What the cascades of a conversation spent so far, as its messages say."""
    total = 0.0
    for message in messages:
        told = message.response_metadata.get("cascade") if message.type == "ai" else None
        cost = told.get("cost") if isinstance(told, dict) else None
        if isinstance(cost, int | float) and math.isfinite(cost):
            total += cost
    return total
