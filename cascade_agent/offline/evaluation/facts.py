"""What a journal says about one step, whatever the policy: which worlds are possible, and what each call cost.

Law: what is not recorded stays open. A world says whether small's draft and large's answer are right; a step is the set
of worlds that its labels leave possible.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from cascade_agent.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascade_agent.core.records import Attempt, SideCall, StepTrace
    from cascade_agent.offline.evaluation.dataset import Known

Stratum = Literal["told", "drawn", "open"]
"""How large's answer came to be known: `told` without any draw (escalated steps, and whatever was never up for one),
`drawn` with a logged probability (a shadow call on an accepted step), `open`: accepted, and not drawn."""

WORLDS: Final = ((False, False), (False, True), (True, False), (True, True))
"""(small is right, large is right), one bit of a set of worlds each."""

MONEY: Final = 10**12
"""Money is counted in whole trillionths, so that sums do not depend on their order."""

WEIGHT: Final = 2**24
"""Weights (one over a probability) likewise."""


_MOST: Final = 1e9
"""No call costs more; it keeps sums apart that are packed into one number (see `tally`)."""

_LEAST: Final = 1e-9
"""Nobody draws one of so many; likewise."""


class Facts(NamedTuple):
    """One finished step.

    `worlds` is a set of `WORLDS` as bits. `small`, `large` and `evidence` are costs in trillionths, `large_time`
    seconds; None is unknown. `shadow` is what was paid to learn about the step afterwards. `weight` is one
    over the probability with which it was drawn, in units of `WEIGHT`; 0 where nothing was drawn. `priced` are the
    answered calls, whose costs say what such a call may cost.
    """

    stratum: Stratum
    worlds: int
    small: int | None
    large: int | None
    large_time: float | None
    asked_large: bool
    shadow: int | None
    weight: int
    evidence: Mapping[str, int | None]
    priced: Sequence[tuple[str, int | None]]


def facts_of(trace: StepTrace, known: Known) -> Facts:
    """Read one step.

    Raises:
        RecordError: a cost or latency that is no number.
    """
    small, shadow = trace.attempts[0], None
    seconds(trace.latency, trace)
    evidence: dict[str, int | None] = {}
    priced: list[tuple[str, int | None]] = []
    tried: list[Attempt] = []
    for attempt in trace.attempts:
        seconds(attempt.latency, trace)
        cost = money(attempt.cost, trace)
        if attempt.tier == "large":
            tried.append(attempt)
        if attempt.tier != "human" and attempt.outcome in ("accepted", "rejected"):
            priced.append(("small" if attempt.tier == "small" else "large", cost))
    for spend in trace.evidence:
        seconds(spend.latency, trace)
        evidence[spend.name] = money(spend.cost, trace)
    priced += evidence.items()
    spent: int | None = 0
    for label in known.labels:
        if label.side_call is not None:
            spent = _plus(spent, money(label.side_call.cost, trace))
        if label.source == "shadow" and shadow is None:
            shadow = label
    weight = 0
    if shadow is not None and shadow.propensity and not tried:
        weight = round(WEIGHT / max(_LEAST, shadow.propensity))
    calls: Sequence[Attempt | SideCall] = tried
    if shadow is not None and shadow.side_call is not None and not tried:
        calls = (shadow.side_call,)
        priced.append(("large", money(shadow.side_call.cost, trace)))
    large, time = _sums(calls, trace)
    told = tried or trace.outcome != "accepted"
    return Facts(
        stratum="told" if told else "drawn" if weight else "open",
        worlds=_worlds(known, small, tried[-1] if tried else None),
        small=money(small.cost, trace),
        large=large,
        large_time=time,
        asked_large=bool(tried),
        shadow=spent,
        weight=0 if told else weight,
        evidence=evidence,
        priced=priced,
    )


def _sums(calls: Sequence[Attempt | SideCall], trace: StepTrace) -> tuple[int | None, float | None]:
    """Cost and time of calls one after the other; unknown without any."""
    cost: int | None = 0 if calls else None
    time: float | None = 0.0 if calls else None
    for call in calls:
        cost, took = _plus(cost, money(call.cost, trace)), seconds(call.latency, trace)
        time = None if time is None or took is None else time + took
    return cost, time


def _plus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def money(cost: object, trace: StepTrace) -> int | None:
    """An amount in trillionths; None is unknown.

    Raises:
        RecordError: it is no number.
    """
    if type(cost) is float and 0.0 <= cost < _MOST:
        return round(cost * MONEY)
    if cost is None:
        return None
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < _MOST:
        msg = f"step {trace.id!r} has a cost of {cost!r}; expected null or a number from 0 to 1e9: correct the line"
        raise RecordError(msg)
    return round(cost * MONEY)


def seconds(time: object, trace: StepTrace) -> float | None:
    """A time in seconds; None is unknown.

    Raises:
        RecordError: it is no number.
    """
    if time is None or (type(time) is float and 0.0 <= time < math.inf):
        return time
    if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time) or time < 0:
        msg = f"step {trace.id!r} has a latency of {time!r}; expected null or a number >= 0: correct the line"
        raise RecordError(msg)
    return time


def _worlds(known: Known, small: Attempt, large: Attempt | None) -> int:
    """The worlds that labels and records leave possible."""
    right, by_large = known.right, known.large_right
    if right is None and (small.outcome in ("error", "timeout") or any(v.hard for v in small.verdicts)):
        right = False  # no answer, or none that can be used
    if large is not None and (large.outcome in ("error", "timeout") or any(v.hard for v in large.verdicts)):
        by_large = False
    return _possible(right, by_large, known.harm)


@lru_cache(maxsize=32)
def _possible(right: bool | None, by_large: bool | None, harm: bool | None) -> int:
    found = 0
    for bit, (one, two) in enumerate(WORLDS):
        if right is not None and one != right:
            continue
        if by_large is not None and two != by_large:
            continue
        if harm is not None and by_large is None and (not one and two) != harm:
            continue
        found |= 1 << bit
    return found
