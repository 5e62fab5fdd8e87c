"""From journals to a `Report`."""

from __future__ import annotations

import datetime as dt
import sys
from bisect import bisect_left
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cascade_agent.core.records import StepTrace
from cascade_agent.errors import RecordError
from cascade_agent.journal.writer import without_content
from cascade_agent.offline.drift import DriftWatch, watch_journals
from cascade_agent.offline.evaluation.estimates import ALL, Estimates
from cascade_agent.offline.evaluation.journals import ReadSettings, fold, no_step
from cascade_agent.offline.evaluation.metrics import auroc, calibration_error, upper_bound
from cascade_agent.offline.report import data
from cascade_agent.offline.report.collect import MAX_SAMPLE, Collected, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cascade_agent.core.clean_json import Json, JsonObject
    from cascade_agent.core.policy import Policy
    from cascade_agent.journal.format import OnError, PathLike
    from cascade_agent.offline.evaluation.estimates import Basis, Figures
    from cascade_agent.offline.report.collect import Sums

CURVE_POINTS: Final = 24
EDGES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Bins of the calibration curve: a twentieth near 1, where most drafts are and where thresholds lie."""

_STAND_INS: Final = ("standin-small", "standin-large")
"""The models of `cascade-agent demo`, whose prices are made up."""
_RESAMPLES: Final = 100
_INTERVALS: Final = ("harm", "saving")
_SIDE: Final = 0.975
_ANSWER: Final = 2_000
_LINE: Final = 300
_VERDICTS: Final = 40
_ATTEMPTS: Final = 6
_WHO: Final = ("small", "large", "evidence", "step, small only", "step, escalated")
_WHY: Final = {
    "all_escalated": "small answered no step: every step that can be compared labels itself",
    "propensity": "accepted steps were shadowed with a logged probability",
    "share": "people or an evaluator labelled accepted steps, assumed not to be chosen by their outcome",
    "none": "no step that small answered has a label, and escalated steps say nothing about accepted ones: "
    "set shadow_rate in the policy, or label some steps",
}


def build_report(
    paths: Sequence[PathLike],
    *,
    policy: Policy | None = None,
    policy_name: str = "this policy",
    title: str = "Cascade report",
    content: bool = True,
    on_error: OnError = "raise",
    now: dt.datetime | None = None,
    made_up_prices: bool = False,
    dask: Mapping[str, object] | None = None,
) -> data.Report:
    """Read journals once, in bounded memory, and return what is in them.

    Args:
        paths: journal files or glob patterns; labels may stand in any of them.
        policy: whose thresholds are swept and whose scorer is believed; None takes the shipped one, and the
            confidences that stand in the record.
        policy_name: its name on the page.
        title: of the page.
        content: whether answers, errors and reasons of steps are part of the report.
        on_error: what a line that is no record does: `raise` or `skip`.
        now: when the report was made; None takes the clock.
        made_up_prices: mark the page: the costs come from invented prices. The demo's stand-ins always mark it.
        dask: read file by file on Dask (see `ReadSettings`).

    Raises:
        RecordError: journals that cannot be read or hold no step. Names file, line and mend.
    """
    how = ReadSettings(on_error=on_error, dask=dask)
    drift = DriftWatch(policy=policy) if dask is None else watch_journals(paths, policy=policy, how=how)
    name = "shipped policy" if policy is None else policy_name
    reading = fold(partial(Collected, policy, name, drift if dask is None else None), paths, how)
    out = reading.found
    if not out.sums["steps"]:
        raise RecordError(no_step(paths))
    if dask is None:
        drift.repeated += reading.repeated
        drift.orphans += reading.orphans
    tally = out.account.tally
    finished = tally.steps > tally.unfinished
    estimates = Estimates(tally, resamples=_RESAMPLES, parts=False, intervals=_INTERVALS) if finished else None
    stand_ins = any(name in _STAND_INS for models in out.models.values() for name in models)
    return data.Report(
        title=title,
        files=tuple(Path(path).name for path in paths),
        made_at=(now or dt.datetime.now(dt.UTC)).isoformat(timespec="seconds"),
        version=str(sys.modules["cascade_agent"].__version__),
        policy=None if policy is None else _policy(policy, policy_name),
        currency=out.currency,
        made_up_prices=made_up_prices or stand_ins,
        stand_ins=stand_ins,
        totals=_totals(out, reading.repeated),
        always_large=_always_large(out, estimates),
        frontier=_frontier(out, estimates, name=None if policy is None else policy_name),
        escalations=_escalations(out),
        reliability=_reliability(out),
        latency=tuple(_latency(out)),
        spending=_spending(out, estimates, policy),
        expensive=tuple(cut_step(trace, content=content) for trace in out.expensive.items()),
        doubtful=tuple(cut_step(trace, content=content) for trace in out.doubtful.items()),
        drift=drift.report(),
        notes=tuple(_notes(out, reading.repeated, reading.orphans)),
    )


# ---- cost and quality -----------------------------------------------------------------------------------------------


def _always_large(out: Collected, estimates: Estimates | None) -> data.AlwaysLarge:
    """Compare the whole journal with always-large, shadow calls included on the cascade's side."""
    sums, every = out.account.sums, int(out.sums["steps"])
    shadow = float(sums["shadow"])
    if estimates is None:
        return data.AlwaysLarge(left_out=every, shadow=shadow, why="no step is finished")
    recorded, alone = estimates.recorded(), estimates.baseline("always large")[ALL]
    ground, saving, steps = estimates.grounds[ALL], recorded.saving.point, recorded.steps
    unknown, drawn = int(ground["open"]), int(ground["lottery"] - ground["open"])
    paid, large = (None if cost is None else cost * steps for cost in (recorded.cost.point, alone.cost.point))
    low, high, interval = _costs(recorded)
    why = "" if saving is not None else "no shadow call says what it would have cost where small answered"
    if low is None or high is None:
        why = "the large model was asked in no step whose costs are known, so its price is not in the journal"
        why = why if sums["known"] else "the cost of no step is known"
    return data.AlwaysLarge(
        steps=steps,
        measured=steps - unknown,
        drawn=drawn,
        estimated=unknown,
        left_out=every - steps,
        cascade=None if paid is None else max(0.0, paid - shadow),
        shadow=shadow,
        large=large,
        share=None if saving is None else 1.0 - saving,
        low=low,
        high=high,
        interval=interval,
        why=why,
    )


def _costs(figures: Figures) -> tuple[float | None, float | None, tuple[float, float] | None]:
    """Return least and greatest cost relative to always-large, and its interval."""
    saving = figures.saving
    low, high = saving.estimate or (saving.low, saving.high)
    found = None if saving.interval is None else (1.0 - saving.interval[1], 1.0 - saving.interval[0])
    return None if high is None else 1.0 - high, None if low is None else 1.0 - low, found


def _frontier(out: Collected, estimates: Estimates | None, *, name: str | None) -> data.Frontier:
    """Return the cost and quality of thresholds and of other ways to answer; `name` is that of a given policy."""
    every = out.sums
    marks = [data.Point(name="as it ran", escalated=every["escalated"] / every["steps"], quality=data.Share())]
    curve: list[data.Point] = []
    basis: Basis = "none"
    steps, undecided = 0, 0.0
    if estimates is not None:
        recorded, ground, own = estimates.recorded(), estimates.grounds[ALL], estimates.policy(0)[ALL]
        basis, steps = recorded.basis, recorded.steps
        # steps that small answered and somebody looked at
        point = partial(_point, int(ground["lottery"] - ground["open"]) or int(ground["judged"]))
        marks = [point("as it ran", recorded)]
        if name is not None or own.escalation != recorded.escalation:
            marks.append(point(out.plan.titles[0], own))
        marks += [point(title, estimates.baseline(title)[ALL]) for title in ("always small", "always large")]
        for number in _thresholds(estimates, len(out.plan.policies)):
            found, threshold = estimates.policy(number)[ALL], out.plan.policies[number].base_threshold
            curve.append(point(f"threshold {threshold:.3g}", found, threshold))
            undecided = max(undecided, (found.escalation.high or 0.0) - (found.escalation.low or 0.0))
    return data.Frontier(
        curve=tuple(curve),
        marks=tuple(marks),
        basis=basis,
        why=_WHY[basis],
        steps=steps,
        unreplayable=round(undecided * steps),
        scorer=name or "shipped rules",
        agrees=not every["differing"],
    )


def _thresholds(estimates: Estimates, count: int) -> list[int]:
    """Return the numbers of the thresholds that tell steps apart, about evenly over the steps."""
    different = {estimates.escalated(number): number for number in range(1, count)}
    levels, kept = list(different), list[int]()
    for level in levels:
        even = levels[0] + (levels[-1] - levels[0]) * len(kept) / (CURVE_POINTS - 1)
        if level >= even or len(levels) <= CURVE_POINTS:
            kept.append(different[level])
    return kept


def _point(looked: int, name: str, figures: Figures, threshold: float | None = None) -> data.Point:
    low, high, _ = _costs(figures)
    return data.Point(
        name=name,
        threshold=threshold,
        escalated=figures.escalation.value,
        cost=None if figures.saving.point is None else 1.0 - figures.saving.point,
        cost_low=low,
        cost_high=high,
        quality=_quality(figures, looked),
    )


def _quality(figures: Figures, looked: int) -> data.Share:
    """Return 1 - harm with its interval: no narrower than that of as many independent looks as there were.

    A wrong draft whose large answer nobody knows counts as harm.
    """
    harm, low, high = figures.harm, figures.harm.low or 0.0, figures.harm.high or 0.0
    if harm.estimate is None:
        return data.Share()
    value = harm.estimate[1]
    if low == high or not looked:
        return data.Share(value=1.0 - value, low=1.0 - high, high=1.0 - low, n=0)
    least, most = harm.interval or (value, value)
    losses = round(looked * min(1.0, max(0.0, (value - low) / (high - low))))
    bound = low + (high - low) * upper_bound(losses, looked, _SIDE)
    return data.Share(value=1.0 - value, low=1.0 - max(most, bound), high=1.0 - min(least, value), n=looked)


def _reliability(out: Collected) -> data.Reliability:
    """Return confidence against the share of right drafts, in bins of `EDGES`."""
    drafts = sorted(out.drafts.items())
    confidence, right = [p for p, _, _ in drafts], [good for _, good, _ in drafts]
    return data.Reliability(
        bins=tuple(_bins(confidence, right)),
        n=len(drafts),
        by_source=dict(sorted(Counter(source for _, _, source in drafts).items())),
        auroc=auroc(confidence, right),
        error=calibration_error(confidence, right),
        histogram=tuple((int(out.histogram[i, False]), int(out.histogram[i, True])) for i in range(20)),
        unmeasured=int(out.sums["unmeasured"]),
    )


def _bins(confidence: list[float], right: list[bool]) -> Iterator[data.Bin]:
    """Yield the bins of ascending confidences that hold any."""
    start = 0
    for low, high in pairwise(EDGES):
        end = bisect_left(confidence, high) if high < 1.0 else len(confidence)
        inside, count, hits = confidence[start:end], end - start, sum(right[start:end])
        start = end
        if inside:
            yield data.Bin(
                low=low,
                high=high,
                confidence=sum(inside) / count,
                n=count,
                right=hits,
                share=hits / count,
                interval_low=1.0 - upper_bound(count - hits, count, _SIDE),
                interval_high=upper_bound(hits, count, _SIDE),
            )


# ---- counts ---------------------------------------------------------------------------------------------------------


def _policy(policy: Policy, name: str) -> JsonObject:
    origin = policy.provenance
    certificate = origin.get("certificate")
    return {
        "name": name,
        "version": policy.version,
        "threshold": policy.base_threshold,
        "kind": _text(origin.get("kind")) or None,
        "date": _text(origin.get("date")) or None,
        "certificate": certificate if isinstance(certificate, dict) else None,
    }


def _totals(out: Collected, repeated: int) -> data.Totals:
    others = {code: _money(other.sums) for code, other in out.accounts.items() if code != out.currency}
    return data.Totals(
        steps=int(out.sums["steps"]),
        threads=len(out.threads) - (out.threads.rest in out.threads),
        threads_counted=out.threads.rest not in out.threads,
        escalated=int(out.sums["escalated"]),
        by_outcome=out.outcomes.ordered(),
        by_answer=out.answers.ordered(),
        degraded=int(out.sums["degraded"]),
        cost=_money(out.account.sums),
        shadow=_money(out.account.sums, "shadow", "shadow_unknown"),
        shadow_calls=sum(int(account.sums["shadow_calls"]) for account in out.accounts.values()),
        other_currencies=others,
        labels=int(out.sums["labels"]),
        labelled=out.sources.ordered(),
        repeated=repeated,
        policies=out.policies.ordered(),
        models={tier: counts.ordered() for tier, counts in sorted(out.models.items(), reverse=True)},
        first=next(map(_iso, out.first.items()), None),
        last=next(map(_iso, out.last.items()), None),
    )


def _money(sums: Sums[str], known: str = "known", unknown: str = "unknown") -> data.Money:
    return data.Money(known=float(sums[known]), unknown=int(sums[unknown]))


def _iso(time: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=time)).isoformat(timespec="milliseconds")


def _escalations(out: Collected) -> tuple[data.Escalations, ...]:
    rows = []
    for name, count in out.names.items():
        reasons = out.reasons[name].ordered()
        rows.append(data.Escalations(step=name, steps=int(count), escalated=sum(reasons.values()), reasons=reasons))
    return tuple(sorted(rows, key=lambda row: (-row.escalated, -row.steps, row.step)))


def _latency(out: Collected) -> Iterator[data.Latency]:
    for who in _WHO:
        if values := out.latency[who].items():
            p50, p95, p99 = percentiles(values, 0.5, 0.95, 0.99)
            n, kept = out.latency[who].n, len(values)
            yield data.Latency(who=who, n=n, p50=p50, p95=p95, p99=p99, kept=kept, exact=kept == n)


def _spending(out: Collected, estimates: Estimates | None, policy: Policy | None) -> data.Spending:
    timeline = out.account.timeline
    price = None if estimates is None else estimates.accepted_price
    periods = []
    for start, cell in timeline.cells():
        known = not cell["unpriced"] and (price is not None or not cell["lottery"])
        periods.append(
            data.Period(
                start=_iso(start),
                steps=int(cell["steps"]),
                escalated=int(cell["escalated"]),
                **{part: float(cell[part]) for part in data.PARTS},
                always_large=cell["alone"] + cell["lottery"] * (price or 0.0) if known else None,
                unknown=int(cell["unknown"]),
            )
        )
    prices = _prices(known=bool(out.account.sums["known"]), policy=policy)
    undated = int(out.sums["undated"])
    return data.Spending(periods=tuple(periods), width=timeline.width, undated=undated, prices=prices)


def _prices(*, known: bool, policy: Policy | None) -> str:
    """Return which prices the costs come from, as far as anybody knows."""
    given = policy.provenance.get("prices") if policy is not None else None
    if isinstance(given, dict) and given:
        parts = [
            f"{model}: {_text(price.get('source')) or 'own price'}, {_text(price.get('date')) or 'no date'}"
            for model, price in sorted(given.items())
            if isinstance(price, dict)
        ]
        return "Prices as the policy file says. " + "; ".join(parts)
    if not known:
        return "No cost in this journal is known."
    from cascade_agent.models.pricing import table_version

    text = "Costs are as recorded when each step ran; a journal does not say which prices it was written with."
    if (table := table_version()) is None:
        return text
    dated = f", with prices as of {table[1]}." if table[1] else "."
    return f"{text} Where they came from the price table, the one installed here is {table[0]}{dated}"


def _notes(out: Collected, repeated: int, orphans: int) -> Iterator[str]:
    if repeated:
        yield f"{repeated:,} steps came a second time in these files and are counted once."
    if orphans:
        yield f"{orphans:,} steps have labels and are not in these files."
    if out.drafts.n > (kept := len(out.drafts.items())):
        yield f"The calibration curve uses {kept:,} of {out.drafts.n:,} labelled drafts, drawn by a hash of their ids."
    if undated := int(out.sums["undated"]):
        yield f"{undated:,} steps have no time and are missing in the plot of spend over time."
    if len(out.accounts) > 1:
        yield f"Costs in other currencies are not converted: plots show {out.currency} only."
    if sampled := [who for who, values in out.latency.items() if values.n > MAX_SAMPLE]:
        of = f"{MAX_SAMPLE:,} values each, drawn by a hash of their steps"
        yield f"Percentiles of {', '.join(sampled)} come from {of}."


# ---- steps in full -------------------------------------------------------------------------------------------------


def cut_step(trace: StepTrace, *, content: bool = True) -> StepTrace:
    """Return a step with its texts cut to what a page can hold; without `content` nobody's words are in it."""
    record = trace.to_json() if content else without_content(trace)
    record = {**record, "inputs_seen": [], "attempts": record["attempts"][:_ATTEMPTS]}
    if trace.final is not None and trace.final >= _ATTEMPTS:
        record["final"] = None
    return StepTrace.from_json(cast("JsonObject", _cut(record, _LINE)))


def _cut(value: Json, length: int, depth: int = 24) -> Json:
    """Return JSON whose texts are at most so long and say so, and whose lists are short."""
    if isinstance(value, str):
        return value if len(value) <= length else f"{value[:length]}… ({len(value) - length:,} more characters)"
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return "…"
    if isinstance(value, list):
        return [_cut(item, length, depth - 1) for item in value[:_VERDICTS]]
    long = {"answer": _ANSWER, "error": _ANSWER, "text": length, "args": length}
    return {key: _cut(item, long.get(key, length), depth - 1) for key, item in value.items()}


def _text(value: object) -> str:
    """Return a text, or nothing."""
    return value if isinstance(value, str) else ""
