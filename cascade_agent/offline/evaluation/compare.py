"""From journals to a comparison of policies: read, count, say."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from cascade_agent.core.records import StepTrace, Verdict, load
from cascade_agent.errors import RecordError
from cascade_agent.journal.reader import files_of, read, records
from cascade_agent.offline.evaluation.estimates import ALL, BASELINES, figures_of
from cascade_agent.offline.evaluation.label_store import LabelStore
from cascade_agent.offline.evaluation.tally import Plan, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Outcome
    from cascade_agent.journal.format import OnError
    from cascade_agent.offline.evaluation.dataset import Evaluator, OnConflict, SameText
    from cascade_agent.offline.evaluation.estimates import Figures, Subset

RESAMPLES: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy (or baseline) and what it comes to: over all steps, by step name and by kind of step."""

    title: str
    policy: Policy | None
    all: Figures
    by_step: Mapping[str, Figures]
    by_kind: Mapping[str, Figures]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "title": self.title,
            "threshold": None if self.policy is None else self.policy.threshold,
            "policy": None if self.policy is None else self.policy.version,
            "all": self.all.to_json(),
            "by_step": {name: figures.to_json() for name, figures in self.by_step.items()},
            "by_kind": {kind: figures.to_json() for kind, figures in self.by_kind.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What policies would have done with the steps of some journals, beside the baselines.

    `steps` are all that were read; `unfinished` ones (interrupted, cancelled, broken off) are in no figure. `episodes`
    is estimated to 2 % beyond 4,096 of them (`episodes_exact`). `unseen` counts the steps of which nothing is known:
    small answered, and no label says anything. `labels` counts steps by who said what counts,
    `conflicts` those whose labels contradict each other, `orphans` steps that have labels and are not in the journals.
    `copies` are files that were left out because they begin with the same step as another. `notes` say what to mind.
    """

    baselines: tuple[Row, ...]
    policies: tuple[Row, ...]
    steps: int
    unfinished: int
    episodes: int
    episodes_exact: bool
    unseen: int
    labels: Mapping[str, int]
    conflicts: int
    orphans: int
    currency: str | None
    copies: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "steps": self.steps,
            "unfinished": self.unfinished,
            "episodes": self.episodes,
            "episodes_exact": self.episodes_exact,
            "unseen": self.unseen,
            "labels": dict(self.labels),
            "conflicts": self.conflicts,
            "orphans": self.orphans,
            "currency": self.currency,
            "copies": list(self.copies),
            "notes": list(self.notes),
            "baselines": [row.to_json() for row in self.baselines],
            "policies": [row.to_json() for row in self.policies],
        }


def what_if(  # noqa: PLR0913 - one keyword per question
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    policies: Policy | Mapping[str, Policy] | None = None,
    *,
    grid: Sequence[float] = (),
    labels: Sequence[str | os.PathLike[str]] = (),
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    on_error: OnError = "raise",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Say what policies would have done with recorded steps, and at what cost.

    The journals are read twice, labels first, one step in memory at a time; nothing is written.

    Args:
        paths: journal files or glob patterns: JSON lines, plain or gzip, or Parquet.
        policies: a policy, or several by title; None is the default one.
        grid: thresholds in [0, 1] that each of them is also tried with.
        labels: further files with labels alone.
        evaluator: your own judgement of a step trace.
        same_text: `(small, large) -> bool | None`, whether two texts say the same.
        on_conflict: what contradicting labels do (see `calibration.join`).
        on_error: what a line that is no record does (see `journal.read`).
        resamples: of the bootstrap over episodes; 0 leaves intervals out.
        seed: of these draws.

    Raises:
        RecordError: journals that cannot be read or hold no finished step. Names file, line and mend.
        ConfigurationError: a policy or grid that cannot work.
    """
    plan = Plan.of(policies, grid)
    given = as_list(paths)
    files, copies = originals(given, on_error=on_error)
    with LabelStore.of(files, labels, on_error=on_error) as store:
        tally = tally_of(
            files,
            plan,
            store,
            evaluator=evaluator,
            same_text=same_text,
            on_conflict=on_conflict,
            on_error=on_error,
        )
        orphans = store.steps - tally.told
    return compare(tally, orphans=orphans, copies=copies, resamples=resamples, seed=seed, names=given)


def as_list(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Sequence[str | os.PathLike[str]]:
    """One path, or several, as several."""
    return [paths] if isinstance(paths, str | os.PathLike) else paths


def originals(paths: Iterable[str | os.PathLike[str]], *, on_error: OnError = "raise") -> tuple[list[Path], list[str]]:
    """The files of paths and patterns, and those left out: named twice, or beginning with the same step as another.

    Rotated journals that are just being compressed, and copies, would count their steps twice.

    Raises:
        RecordError: a path without a file, or one that cannot be read.
    """
    seen: dict[str, Path] = {}
    files: list[Path] = []
    copies: list[str] = []
    for file in files_of(*paths):
        first = next(iter(read(file, on_error=on_error)), None)
        if first is not None and first.id in seen:
            copies.append(str(file))
            continue
        if first is not None:
            seen[first.id] = file
        files.append(file)
    return files, copies


def tally_of(  # noqa: PLR0913 - one keyword per question
    files: Sequence[str | os.PathLike[str]],
    plan: Plan,
    labels: LabelStore,
    *,
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    on_error: OnError = "raise",
) -> Tally:
    """Count the steps of some files under every policy of a plan. Tallies of parts of a journal merge exactly.

    Raises:
        RecordError: a line that is no record. Names file, line and mend.
    """
    tally = Tally(plan)

    def count(data: Mapping[str, Any]) -> None:
        trace = _lean(data)
        told = labels.of_step(trace.id)
        tally.add(trace, told, evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)

    for _ in records(*files, kind="step", build=count, on_error=on_error):
        pass
    return tally


def _lean(data: Mapping[str, Any]) -> StepTrace:
    """A step without what no figure needs: tokens, texts of verdicts, decisions but for what they began beside others.

    Most of the time that reading a record takes goes into its verdicts, of which there are few different ones.

    Raises:
        RecordError: not a step trace, or written by a newer version.
    """
    attempts = data.get("attempts")
    if not isinstance(attempts, list) or not all(isinstance(attempt, dict) for attempt in attempts):
        return StepTrace.from_json(data)  # says what is wrong with it
    bare = [{k: v for k, v in attempt.items() if k not in ("usage", "verdicts")} for attempt in attempts]
    rest = {k: v for k, v in data.items() if k not in ("usage", "decisions")}
    decisions = data.get("decisions", ())
    if isinstance(decisions, list) and any("hedge" in d or "beside" in d for d in decisions if isinstance(d, dict)):
        rest["decisions"] = decisions
    trace = StepTrace.from_json({**rest, "attempts": bare})
    judged = tuple(
        replace(attempt, verdicts=_verdicts(told["verdicts"])) if told.get("verdicts") else attempt
        for attempt, told in zip(trace.attempts, attempts, strict=True)
    )
    return replace(trace, attempts=judged)


def _verdicts(told: object) -> tuple[Verdict, ...]:
    try:
        return tuple(
            _verdict(data.get("validator", ""), data.get("code", ""), data["outcome"], data.get("score"))
            for data in cast("list[dict[str, Any]]", told)
        )
    except (AttributeError, KeyError, TypeError):
        return tuple(load(Verdict, data) for data in cast("list[object]", told))  # says what is wrong with it


@lru_cache(maxsize=65_536)
def _verdict(validator: str, code: str, outcome: Outcome, score: float | None) -> Verdict:
    return load(Verdict, {"validator": validator, "code": code, "outcome": outcome, "score": score})


def compare(  # noqa: PLR0913 - what is known beside the tally
    tally: Tally,
    *,
    orphans: int = 0,
    copies: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: Sequence[object] = ("the journal",),
) -> Comparison:
    """What a tally comes to.

    Raises:
        RecordError: no finished step is in it.
    """
    if tally.steps == tally.unfinished:
        where = ", ".join(str(name) for name in names)
        what = "no step yet" if not tally.steps else f"{tally.steps} steps, none of them finished"
        msg = f"{where}: {what}; set CASCADE_JOURNAL where the agent runs and let it work"
        raise RecordError(msg)
    baselines, policies = figures_of(tally, resamples=resamples, seed=seed)
    episodes, exact = tally.episode_count
    return Comparison(
        baselines=tuple(_row(title, None, found) for title, found in zip(BASELINES, baselines, strict=True)),
        policies=tuple(
            _row(title, policy, found)
            for title, policy, found in zip(tally.plan.titles, tally.plan.policies, policies, strict=True)
        ),
        steps=tally.steps,
        unfinished=tally.unfinished,
        episodes=episodes,
        episodes_exact=exact,
        unseen=tally.unseen,
        labels=dict(sorted(tally.sources.items())),
        conflicts=tally.conflicts,
        orphans=orphans,
        currency=next(iter(tally.currencies)) if len(tally.currencies) == 1 else None,
        copies=tuple(copies),
        notes=tuple(_notes(tally)),
    )


def _row(title: str, policy: Policy | None, found: Mapping[Subset, Figures]) -> Row:
    return Row(
        title=title,
        policy=policy,
        all=found[ALL],
        by_step={str(name): figures for (what, name), figures in found.items() if what == "step"},
        by_kind={str(name): figures for (what, name), figures in found.items() if what == "kind"},
    )


def _notes(tally: Tally) -> Iterable[str]:
    if len(tally.currencies) > 1:
        yield f"costs are in {', '.join(sorted(tally.currencies))} and are not added up"
    measured = {
        name
        for policy in tally.plan.policies
        for name, codes in _mapping(policy.provenance.get("validators")).items()
        if codes and name not in tally.validators
    }
    if measured:
        yield f"a policy was calibrated with validators that never spoke in this journal: {', '.join(sorted(measured))}"
    if any(policy.shadow_rate for policy in tally.plan.policies):
        yield "the shadow calls of a policy are counted in expectation, at its own shadow_rate"


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
