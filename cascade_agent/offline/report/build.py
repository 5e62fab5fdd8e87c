"""From journals to a `Report`."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cascade_agent.core.policy import Policy
from cascade_agent.journal.reader import read, read_labels
from cascade_agent.offline.drift import watch
from cascade_agent.offline.report.collect import Book, Gathered, amount, calls_of, cut, gather, number, text
from cascade_agent.offline.report.data import (
    Escalations,
    Latency,
    Money,
    Period,
    Report,
    Shown,
    Spending,
    Totals,
    Tried,
)
from cascade_agent.offline.report.quality import Rates, always_large, frontier, reliability
from cascade_agent.offline.report.streaming import Timeline

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from cascade_agent.core.records import Attempt, StepTrace, Verdict

_ANSWER: Final = 2_000
_LINE: Final = 300
_VERDICTS: Final = 40
_ATTEMPTS: Final = 6
_WHO: Final = ("small", "large", "evidence", "step, small only", "step, escalated")


def build_report(  # noqa: PLR0913 - keyword settings
    paths: Sequence[str | os.PathLike[str]],
    *,
    policy: Policy | None = None,
    policy_name: str = "this policy",
    title: str = "Cascade report",
    content: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    now: dt.datetime | None = None,
) -> Report:
    """Read journals once and say what is in them.

    Memory is bounded whatever the length of the journals (see the limits in `gather`): a process that reported
    100,000 steps with 71,000 labels took 83 MB in all.

    Args:
        paths: journal files or glob patterns; labels may stand in any of them.
        policy: whose thresholds are swept and whose scorer is believed; None takes the shipped one, and the
            confidences that stand in the record.
        policy_name: what it is called on the page.
        title: of the page.
        content: whether answers, errors and reasons of the shown steps are part of the report.
        on_error: what a line that is no record does: `raise` or `skip`.
        now: when the report was made; None takes the clock.

    Raises:
        RecordError: journals that cannot be read or hold no step. Names file, line and mend.
    """
    out = gather(paths, policy=policy or Policy(), rescore=policy is not None, on_error=on_error)
    compared = always_large(out)
    return Report(
        title=title,
        files=tuple(Path(path).name for path in paths),
        made_at=(now or dt.datetime.now(dt.UTC)).isoformat(timespec="seconds"),
        version=str(sys.modules["cascade_agent"].__version__),
        policy=None if policy is None else _policy(policy, policy_name),
        currency=out.currency,
        totals=_totals(out),
        always_large=compared,
        frontier=frontier(out, compared, name=None if policy is None else policy_name),
        escalations=_escalations(out),
        reliability=reliability(out),
        latency=tuple(_latency(out)),
        spending=_spending(out, policy),
        expensive=tuple(shown(trace, content=content) for trace in out.expensive.items()),
        doubtful=tuple(shown(trace, content=content) for trace in out.doubtful.items()),
        drift=watch(read(*paths, on_error=on_error), read_labels(*paths, on_error=on_error), policy=policy),
        notes=tuple(_notes(out, compared.left_out)),
    )


def _policy(policy: Policy, name: str) -> dict[str, Any]:
    kind = text(policy.provenance.get("kind")) or None
    certificate = policy.provenance.get("certificate")
    return {
        "name": name,
        "version": policy.version,
        "threshold": policy.threshold,
        "kind": kind,
        "date": text(policy.provenance.get("date")) or None,
        "certificate": certificate if isinstance(certificate, dict) else None,
    }


def _totals(out: Gathered) -> Totals:
    book = out.book
    others = {code: Money(known=b.known, unknown=b.unknown) for code, b in out.books.items() if code != out.currency}
    return Totals(
        steps=out.steps,
        threads=len(out.threads),
        threads_counted=out.threads_full is False,
        escalated=out.escalated,
        by_outcome=dict(out.outcomes.most_common()),
        by_answer=dict(out.answers.most_common()),
        degraded=out.degraded,
        cost=Money(known=book.known, unknown=book.unknown),
        shadow=Money(known=out.shadow, unknown=out.shadow_unknown),
        shadow_calls=out.shadow_calls,
        other_currencies=others,
        labels=out.labels,
        labelled=dict(out.sources.most_common()),
        repeated=out.repeated,
        policies=out.policies.ordered(),
        models={tier: counts.ordered() for tier, counts in sorted(out.models.items(), reverse=True)},
        first=_iso(out.first),
        last=_iso(out.last),
    )


def _iso(time: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC."""
    if time is None:
        return None
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=time)).isoformat(timespec="milliseconds")


def _escalations(out: Gathered) -> tuple[Escalations, ...]:
    rows = [
        Escalations(
            step=name,
            steps=count,
            escalated=out.escalated_by[name],
            reasons=out.reasons[name].ordered() if name in out.reasons else {},
        )
        for name, count in out.names.of.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.escalated, -row.steps, row.step)))


def _latency(out: Gathered) -> list[Latency]:
    found = []
    for who in _WHO:
        values = out.latency.get(who)
        if values is not None:
            p50, p95, p99 = values.percentiles(0.5, 0.95, 0.99)
            kept = len(values.kept)
            found.append(Latency(who=who, n=values.n, p50=p50, p95=p95, p99=p99, kept=kept, exact=kept == values.n))
    return found


def _spending(out: Gathered, policy: Policy | None) -> Spending:
    book = out.book
    timeline = Timeline()
    timeline.merge(book.timeline)
    if len(out.books) == 1:
        timeline.merge(out.shadow_timeline)
    rates = Rates.of(book)
    periods = []
    for start, cell in timeline.cells():
        guessed = rates.estimate(cell.small, cell.tokens) if cell.small or cell.tokens else 0.0
        whole = cell.comparable == cell.steps and cell.steps > 0 and guessed is not None
        periods.append(
            Period(
                start=_iso(start) or "",
                steps=cell.steps,
                escalated=cell.escalated,
                small=cell.paid.get("small", 0.0),
                large=cell.paid.get("large", 0.0),
                evidence=cell.paid.get("evidence", 0.0),
                shadow=cell.paid.get("shadow", 0.0),
                always_large=cell.large + (guessed or 0.0) if whole else None,
                unknown=cell.unknown,
            )
        )
    return Spending(periods=tuple(periods), width=timeline.width, undated=out.undated, prices=_prices(book, policy))


def _prices(book: Book, policy: Policy | None) -> str:
    """Which prices the costs come from, as far as anybody knows."""
    told = policy.provenance.get("prices") if policy is not None else None
    if isinstance(told, dict) and told:
        parts = [
            f"{model}: {text(price.get('source')) or 'own price'}, {text(price.get('date')) or 'no date'}"
            for model, price in sorted(told.items())
            if isinstance(price, dict)
        ]
        return "Prices as the policy file says. " + "; ".join(parts)
    if not book.known:
        return "No cost in this journal is known."
    from cascade_agent.models.pricing import table_version

    table = table_version()
    said = "Costs are as recorded when each step ran; a journal does not say which prices it was written with."
    if table is None:
        return said
    source, date = table
    return f"{said} Where they came from the price table, the one installed here is {source}" + (
        f", with prices as of {date}." if date else "."
    )


def _notes(out: Gathered, left_out: int) -> list[str]:
    notes = list(out.notes)
    total, kept = (sum(f(sample) for sample in out.samples.values()) for f in (lambda s: s.n, lambda s: len(s.items())))
    if kept < total:
        notes.append(
            f"The sweep and the calibration curve use {kept:,} of {total:,} steps, drawn by a hash of their ids."
        )
    if left_out and left_out < out.steps:
        notes.append(f"{left_out:,} of {out.steps:,} steps have no known cost for a comparison with always-large.")
    if out.undated:
        notes.append(f"{out.undated:,} steps have no time and are missing in the plot of spend over time.")
    if out.books and len(out.books) > 1:
        notes.append(
            f"Costs in other currencies are not converted: plots show {out.currency} only"
            + (", and shadow calls, whose currency is not recorded, are left out." if out.shadow_calls else ".")
        )
    sampled = [who for who, values in out.latency.items() if values.n > len(values.kept)]
    if sampled:
        kept = max(len(values.kept) for values in out.latency.values())
        notes.append(f"Percentiles of {', '.join(sampled)} come from {kept:,} values each, drawn at random.")
    return notes


# ---- shown steps ----------------------------------------------------------------------------------------------------


def shown(trace: StepTrace, *, content: bool = True) -> Shown:
    """A step as the page shows it, its texts cut."""
    return Shown(
        id=cut(text(trace.id), _LINE),
        step=cut(text(trace.step), _LINE),
        thread=cut(text(trace.thread_id), _LINE),
        started_at=cut(text(trace.started_at), 40),
        outcome=cut(text(trace.outcome), 40),
        reason=cut(text(trace.reason), _LINE),
        kind=cut(text(trace.kind), 40),
        policy=cut(text(trace.policy), 40),
        confidence=number(trace.confidence),
        cost=amount(trace.cost),
        latency=amount(trace.latency),
        degraded=trace.degraded is True,
        final=trace.final,
        attempts=tuple(_tried(attempt, content=content) for attempt in trace.attempts[:_ATTEMPTS]),
        decisions=tuple(
            (cut(text(d.action), 40), cut(text(d.reason), _LINE), cut(text(d.detail), _LINE) if content else "")
            for d in trace.decisions[:_VERDICTS]
        ),
    )


def _tried(attempt: Attempt, *, content: bool) -> Tried:
    usage = attempt.usage
    error = text(attempt.error)
    return Tried(
        tier=cut(text(attempt.tier), _LINE),
        model=cut(text(attempt.model), _LINE),
        outcome=cut(text(attempt.outcome), 40),
        confidence=number(attempt.confidence),
        cost=amount(attempt.cost),
        latency=amount(attempt.latency),
        input_tokens=_count(None if usage is None else usage.input_tokens),
        output_tokens=_count(None if usage is None else usage.output_tokens),
        answer=said(attempt.answer) if content and isinstance(attempt.answer, dict) else "",
        error=cut(error if content else error.partition(":")[0], _ANSWER),
        verdicts=tuple(_finding(verdict, content=content) for verdict in attempt.verdicts[:_VERDICTS]),
    )


def _count(tokens: object) -> int | None:
    value = amount(tokens)
    return None if value is None else int(value)


def _finding(verdict: Verdict, *, content: bool) -> tuple[str, str, str, float | None, str, str]:
    return (
        cut(text(verdict.validator), _LINE),
        verdict.outcome,
        cut(text(verdict.code), _LINE),
        number(verdict.score),
        cut(text(verdict.path), _LINE),
        cut(text(verdict.reason), 500) if content else "",
    )


def said(answer: dict[str, Any]) -> str:
    """A recorded answer as people read it: its text, then each call with its arguments."""
    parts = [text(answer.get("text"))] if text(answer.get("text")).strip() else []
    for call in calls_of(answer):
        args = call.get("args")
        told = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False, default=str)
        parts.append(f"{call.get('name')}({told})")
    if text(answer.get("parsing_error")):
        parts.append(f"(not parsed: {answer['parsing_error']})")
    return cut("\n".join(parts), _ANSWER)
