"""Policies compared on recorded steps: what would have succeeded, what it would have cost, what is not known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cascade_agent.errors import RecordError
from cascade_agent.offline.evaluation.dataset import LabelRules
from cascade_agent.offline.evaluation.estimates import ALL, BASELINES, RESAMPLES, Estimates
from cascade_agent.offline.evaluation.journals import PathLike, ReadSettings, as_list, fold, originals
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cascade_agent.core.policy import Policy
    from cascade_agent.journal.format import OnError
    from cascade_agent.offline.evaluation.dataset import Evaluator, OnConflict, SameText
    from cascade_agent.offline.evaluation.estimates import Figures, Subset


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy (or baseline) and what it comes to: over all steps, by step name and by kind of step."""

    title: str
    policy: Policy | None
    all: Figures
    by_step: Mapping[str, Figures]
    by_kind: Mapping[str, Figures]

    @classmethod
    def of(cls, title: str, policy: Policy | None, found: Mapping[Subset, Figures]) -> Row:
        """Sort figures by what they are of."""
        by_step, by_kind = (
            {str(name): figures for (what, name), figures in found.items() if what == wanted}
            for wanted in ("step", "kind")
        )
        return cls(title=title, policy=policy, all=found[ALL], by_step=by_step, by_kind=by_kind)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "title": self.title,
            "threshold": None if self.policy is None else self.policy.base_threshold,
            "policy": None if self.policy is None else self.policy.version,
            "all": self.all.to_json(),
            "by_step": {name: figures.to_json() for name, figures in self.by_step.items()},
            "by_kind": {kind: figures.to_json() for kind, figures in self.by_kind.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Policies and baselines on the steps of some journals.

    `steps` are all that were read; `unfinished` ones (interrupted, cancelled, broken off) are in no figure, `repeated`
    ones came a second time and were left out. `episodes` is estimated to 2 % beyond 4,096 of them (`episodes_exact`).
    `unseen` counts the steps of which nothing is known: small answered, and no label says anything. `labels` counts
    steps by whose label counts, `conflicts` those whose labels contradict each other, `orphans` steps that have
    labels and are not in the journals. `copies` are files that were left out because they begin with the same step as
    another. `notes` say what to mind.
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
    repeated: int
    currency: str | None
    copies: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        names = ("steps", "unfinished", "episodes", "episodes_exact", "unseen", "conflicts", "orphans", "repeated")
        return {
            **{name: getattr(self, name) for name in names},
            "labels": dict(self.labels),
            "currency": self.currency,
            "copies": list(self.copies),
            "notes": list(self.notes),
            "baselines": [row.to_json() for row in self.baselines],
            "policies": [row.to_json() for row in self.policies],
        }


def compare(  # noqa: PLR0913 - one keyword per question
    paths: PathLike | Sequence[PathLike],
    policies: Policy | Mapping[str, Policy] | None = None,
    *,
    grid: Sequence[float] = (),
    labels: Sequence[PathLike] = (),
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    on_error: OnError = "raise",
    resamples: int = RESAMPLES,
    seed: int = 0,
    dask: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return what policies would have done with recorded steps, and at what cost.

    The journals are read twice, labels first, one step in memory at a time; nothing is written.

    Args:
        paths: journal files or glob patterns: JSON lines, plain or gzip, or Parquet.
        policies: a policy, or several by title; None is the default one.
        grid: thresholds in [0, 1] that each of them is also tried with.
        labels: further files with labels alone.
        evaluator: your own judgement of a step trace.
        same_text: `(small, large) -> bool | None`, whether two texts say the same.
        on_conflict: what contradicting labels do (see `LabelRules`).
        on_error: what a line that is no record does (see `journal.read`).
        resamples: of the bootstrap over episodes; 0 leaves intervals out.
        seed: of these draws.
        dask: read file by file on Dask (see `ReadSettings`); the answer is the same to the last bit.

    Raises:
        RecordError: journals that cannot be read or hold no finished step. Names file, line and mend.
        ConfigurationError: a policy or grid that cannot work, or dask is not installed.
    """
    plan, given = SweepPlan.of(policies, grid), as_list(paths)
    files, copies = originals(given, on_error=on_error)
    rules = LabelRules(evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)
    how = ReadSettings(labels=labels, rules=rules, on_error=on_error, lean=True, dask=dask)
    reading = fold(partial(Tally, plan), files, how)
    tally = reading.found
    if tally.steps == tally.unfinished:
        where = ", ".join(str(name) for name in given)
        what = "no step yet" if not tally.steps else f"{tally.steps} steps, none of them finished"
        msg = f"{where}: {what}; set CASCADE_JOURNAL where the agent runs and let it work"
        raise RecordError(msg)
    return comparison_of(
        tally, orphans=reading.orphans, repeated=reading.repeated, copies=copies, resamples=resamples, seed=seed
    )


def comparison_of(  # noqa: PLR0913 - what is known besides the tally
    tally: Tally,
    *,
    orphans: int = 0,
    repeated: int = 0,
    copies: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Return what a tally of one or more finished steps comes to."""
    estimates, plan = Estimates(tally, resamples=resamples, seed=seed), tally.plan
    rows = zip(plan.titles, plan.policies, estimates.policies(), strict=True)
    baselines = tuple(Row.of(title, None, estimates.baseline(title)) for title in BASELINES)
    episodes, exact = tally.episode_count
    return Comparison(
        baselines=baselines,
        policies=tuple(Row.of(title, policy, found) for title, policy, found in rows),
        steps=tally.steps,
        unfinished=tally.unfinished,
        episodes=episodes,
        episodes_exact=exact,
        unseen=tally.unseen,
        labels=dict(sorted(tally.sources.items())),
        conflicts=tally.conflicts,
        orphans=orphans,
        repeated=repeated,
        currency=next(iter(tally.currencies)) if len(tally.currencies) == 1 else None,
        copies=tuple(copies),
        notes=tuple(_notes(tally, baselines[0])),
    )


def _notes(tally: Tally, recorded: Row) -> Iterable[str]:
    if len(tally.currencies) > 1:
        yield f"costs are in {', '.join(sorted(tally.currencies))} and are not added up"
    if recorded.all.basis == "share":
        yield "estimates of quality assume that people and evaluators did not choose the steps they labelled"
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
