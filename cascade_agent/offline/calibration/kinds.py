"""The thresholds of a policy, one for all drafts or one per kind, each with the claim that it rests on.

One threshold spends the allowed loss where it happens to fall. Thresholds that are chosen together give up escalations
down to the same price of a loss in every kind, and that price is the one number along which a certificate walks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal

from cascade_agent.core.kinds import KEYS, KINDS, keys_of
from cascade_agent.offline.calibration.certificate import Certificate, NoThreshold
from cascade_agent.offline.evaluation.plain import Plain, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.policy import Policy
    from cascade_agent.offline.calibration.certificate import Claim, Unit

GRID: Final = (*(i / 50 for i in range(50)), 0.99, 0.995, 1.0)
"""Thresholds that are considered; 1 accepts nothing of the shipped validators'."""

_WORTHS: Final = tuple(200.0 * 0.85**i for i in range(40))
"""Large calls that one loss is worth, from the most careful on."""

_KIND_PRIOR: Final = 50.0
"""Units of its family that a kind borrows; with 0 (each kind by itself) few labels gain less, with 300 many do."""

_FAMILY_PRIOR: Final = 20.0
"""Units of all kinds that a family borrows."""

Path = tuple[Mapping[str, float], ...]
"""Thresholds by kind, `""` for the kinds that were not seen; each entry accepts what the one before it does."""

ClaimOf = Literal["all", "kind", "rest", "together", "irreversible", "unseen"]
Entries = dict[str, "Entry"]
"""The claim that each threshold of the policy rests on: by kind or effect, `""` for all other drafts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Plain):
    """A threshold and what it rests on; without a certificate it lets nothing pass."""

    claim: ClaimOf
    threshold: float
    found: Certificate | NoThreshold | None

    @classmethod
    def of(cls, claim: ClaimOf, found: Certificate | NoThreshold | None) -> Entry:
        """Return the entry of a finding."""
        return cls(claim=claim, threshold=found.threshold if isinstance(found, Certificate) else 1.0, found=found)

    def to_json(self) -> JsonObject:
        """As plain JSON."""
        return {"threshold": self.threshold, "claim": self.claim, "certificate": plain(self.found)}


def entries_of(found: Mapping[str, Certificate | NoThreshold], units: Sequence[Unit]) -> Entries | None:
    """Return what `Claim.test_by_kind` found as a threshold per kind of step; 1.0 for kinds that the data do not have.

    None when none holds, or when a kind that has none cannot be stopped (drafts of a confidence of 1).
    """
    if not any(found.values()):
        return None
    entries: Entries = {}
    for kind in sorted({unit.kind for unit in units}):
        entries[kind] = Entry.of("kind", found[kind]) if kind in found else Entry.of("rest", found[""])
    open_ = {kind for kind, entry in entries.items() if not entry.found}
    if any(u.kind in open_ and u.confidence is not None and u.confidence >= 1.0 for u in units):
        return None
    return _with_unseen(entries)


def together(learn: Sequence[Unit], units: Sequence[Unit], claim: Claim) -> Entries | None:
    """Return thresholds by kind that were chosen on some units and hold on others, over all steps; None without any."""
    path = path_by_kind(learn)
    found = claim.test(along(path, units)) if learn else None
    if not isinstance(found, Certificate):
        return None
    chosen = {kind: t for kind, t in entry_at(path, found.threshold).items() if kind}
    entries = {k: Entry(claim="together", threshold=t, found=replace(found, threshold=t)) for k, t in chosen.items()}
    return _with_unseen(entries)


def _with_unseen(entries: Entries) -> Entries:
    """Return the entries that a policy takes, and 1.0 for kinds that the data do not have.

    Journals of older versions say `call` alone: that covers its finer kinds.
    """
    coarse = entries.keys() - {*KINDS}
    unseen = [kind for kind in KINDS if kind not in entries and not coarse.intersection(keys_of(kind))]
    return {kind: e for kind, e in entries.items() if kind in KEYS} | {k: Entry.of("unseen", None) for k in unseen}


def thresholds_of(entries: Entries, base: Policy) -> float | dict[str, float]:
    """Return the threshold of a policy: what was shown, and by hand only what is stricter.

    A number for an effect alone takes the place of the one for all other drafts, so it is never below it. Without one
    for these they meet the strictest.
    """
    measured = base.provenance.get("thresholds")
    by_hand = {k: v for k, v in base.thresholds.items() if not isinstance(measured, Mapping) or k not in measured}
    out = {key: entry.threshold for key, entry in entries.items()}
    floor = out.get("", 0.0)
    for key in {*by_hand, *(["irreversible"] if "irreversible" in out else [])}:
        out[key] = max(floor, by_hand.get(key, 0.0), out.get(key, 0.0))
    default = out.pop("", None)
    default = max(out.values()) if default is None else default
    return {**dict(sorted(out.items())), "default": default} if out else default


def scope_of(entries: Entries) -> str:
    """Return in words what the thresholds hold for."""
    claims = {entry.claim for entry in entries.values()}
    if "together" in claims:
        return "all steps together, a threshold for each kind"
    return "all steps together" if "all" in claims else "each kind of step, all at once"


def path_by_kind(units: Iterable[Unit]) -> Path:
    """Return thresholds by kind from the most careful to the laxest, each the cheapest for what a loss is worth there.

    A kind's threshold minimises the price of escalated steps + worth * harms of accepted ones, on these units
    alone: certify on others. A kind with few units borrows from its family, and that from all kinds.
    """
    free = [unit for unit in units if unit.confidence is not None]
    mean = math.fsum(u.price for u in free) / max(1, len(free)) or 1.0
    families, kinds = _grouped(free, _family), _grouped(free, lambda unit: unit.kind)
    every = _Curve.of(free, mean)
    wider = {name: _Curve.of(some, mean).with_prior(every, _FAMILY_PRIOR) for name, some in families.items()}
    curves = {"": every}
    for kind, own in kinds.items():
        curves[kind] = _Curve.of(own, mean).with_prior(wider[_family(own[0])], _KIND_PRIOR)
    held, path = dict.fromkeys(curves, 1.0), []
    for worth in _WORTHS:
        held = {kind: min(held[kind], curve.cheapest(worth)) for kind, curve in curves.items()}
        path.append(held)
    return tuple(path)


def _family(unit: Unit) -> str:
    """Return the kinds that are alike: calls with one tool on offer, calls with several, text; in loops, others."""
    shape = unit.kind.replace("one_call", "call").replace("calls", "call")
    return shape if "call" in shape else shape.removesuffix(".one_tool")


def _grouped(units: Iterable[Unit], key: Callable[[Unit], str]) -> dict[str, list[Unit]]:
    found: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        found[key(unit)].append(unit)
    return found


@dataclass(frozen=True, slots=True)
class _Curve:
    """The cost of escalated steps, in mean large calls, and the harms accepted, for each threshold of the grid."""

    n: float
    escalated: Sequence[float]
    harms: Sequence[float]

    @classmethod
    def of(cls, units: Sequence[Unit], mean: float) -> _Curve:
        escalated, harms = [0.0] * (len(GRID) + 1), [0.0] * (len(GRID) + 1)
        for unit in units:
            at = bisect_right(GRID, unit.confidence or 0.0)  # the first threshold above it
            escalated[at] += unit.price / mean
            harms[at] -= unit.harm
        harms[0] += sum(unit.harm for unit in units)
        return cls(len(units), list(accumulate(escalated))[:-1], list(accumulate(harms))[:-1])

    def with_prior(self, prior: _Curve, weight: float) -> _Curve:
        """Return the curve with that of `weight` units more, drawn from a wider group."""
        share = weight / max(1.0, prior.n)
        pairs = (self.escalated, prior.escalated), (self.harms, prior.harms)
        sums = ([a + share * b for a, b in zip(own, more, strict=True)] for own, more in pairs)
        return _Curve(self.n + weight, *sums)

    def cheapest(self, worth: float) -> float:
        """Return the threshold, the greatest of equals, at which escalations and harms of this worth cost least."""
        _, t = min((up + worth * h, -t) for t, up, h in zip(GRID, self.escalated, self.harms, strict=True))
        return -t


def along(path: Path, units: Iterable[Unit]) -> list[Unit]:
    """Return the units with their place on the path as confidence: `1 - i / n` where entry i is the first to accept."""
    out = []
    for unit in units:
        p = unit.confidence
        held = [-entry.get(unit.kind, 1.0) for entry in path]  # ascending: thresholds only fall
        at = len(path) if p is None else bisect_left(held, -p)
        out.append(replace(unit, confidence=1.0 - at / len(path) if at < len(path) else None))
    return out


def entry_at(path: Path, level: float) -> Mapping[str, float]:
    """Return the thresholds at a level that was certified along the path."""
    return path[min(len(path) - 1, math.floor((1.0 - level) * len(path) + 1e-9))]
