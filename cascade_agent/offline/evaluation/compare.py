"""Policies compared on recorded steps: what would have succeeded, what it would have cost, what is not known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cascade_agent.errors import RecordError
from cascade_agent.offline.evaluation.dataset import LabelRules
from cascade_agent.offline.evaluation.estimates import ALL, RESAMPLES, Estimates
from cascade_agent.offline.evaluation.journals import ReadSettings, as_list, fold, no_step, originals
from cascade_agent.offline.evaluation.plain import Plain
from cascade_agent.offline.evaluation.tally import BASELINES, SweepPlan, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.policy import Policy
    from cascade_agent.journal.format import OnError, PathLike
    from cascade_agent.offline.evaluation.dataset import Evaluator, OnConflict, SameText
    from cascade_agent.offline.evaluation.estimates import Figures, Subset


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Plain):
    """One policy (None: a baseline) and what it comes to: over all steps, by step name and by kind of step."""

    title: str
    policy: Policy | None
    all: Figures
    by_step: Mapping[str, Figures]
    by_kind: Mapping[str, Figures]

    @classmethod
    def of(cls, title: str, policy: Policy | None, found: Mapping[Subset, Figures]) -> Row:
        """Sort figures by what they are of."""
        by_step, by_kind = ({str(n): f for (of, n), f in found.items() if of == one} for one in ("step", "kind"))
        return cls(title=title, policy=policy, all=found[ALL], by_step=by_step, by_kind=by_kind)

    def to_json(self) -> JsonObject:
        """As plain JSON, the policy by its threshold and version."""
        threshold, version = (None, None) if (p := self.policy) is None else (p.base_threshold, p.version)
        return {**Plain.to_json(self), "threshold": threshold, "policy": version}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Plain):
    """Policies and baselines on the steps of some journals.

    `steps` are all that were read; `unfinished` ones (interrupted, cancelled, broken off) are in no figure, `repeated`
    ones came a second time and were left out. `episodes` is estimated to 2 % beyond 4,096 of them (`episodes_exact`).
    Of `unseen` steps nothing is known: small answered, and no label says anything. `labels` counts steps by whose label
    counts, `conflicts` those whose labels contradict each other, `orphans` steps that have labels and are not in the
    journals. `copies` are files that were left out because they begin with the same step as another.
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
    orphans: int = 0
    repeated: int = 0
    currency: str | None
    copies: tuple[str, ...] = ()
    notes: tuple[str, ...]


def compare(
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
    dask: Mapping[str, object] | None = None,
) -> Comparison:
    """Return what policies would have done with recorded steps, and at what cost.

    The journals (files or glob patterns: JSON lines, plain or gzip, or Parquet) are read twice, labels first, one step
    in memory at a time; nothing is written. `labels` are further files with labels alone.

    `policies` is one, or several by title (None: the default one); each is also tried with the thresholds of `grid`,
    in [0, 1]. `evaluator`, `same_text` and `on_conflict` say how labels come about (see `LabelRules`), `on_error` what
    a line does that is no record (see `journal.read`). `resamples` and `seed` are of the bootstrap over episodes; 0
    leaves intervals out. `dask` reads file by file on Dask (see `ReadSettings`), to the same answer.

    Raises:
        RecordError: journals that cannot be read or hold no finished step. Names file, line and mend.
        ConfigurationError: a policy or grid that cannot work, or dask is not installed.
    """
    plan, given = SweepPlan.of(policies, grid), as_list(paths)
    files, copies = originals(given, on_error=on_error)
    rules = LabelRules(evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)
    how = ReadSettings(labels=labels, rules=rules, on_error=on_error, dask=dask)
    reading = fold(partial(Tally, plan), files, how)
    tally = reading.found
    if tally.steps == tally.unfinished:
        raise RecordError(no_step(given, *[f"{tally.steps} steps, none of them finished"][: tally.steps]))
    found = comparison_of(tally, resamples=resamples, seed=seed)
    return replace(found, orphans=reading.orphans, repeated=reading.repeated, copies=tuple(copies))


def comparison_of(tally: Tally, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Return what a tally of one or more finished steps comes to."""
    estimates, plan = Estimates(tally, resamples=resamples, seed=seed), tally.plan
    rows = enumerate(zip(plan.titles, plan.policies, strict=True))
    baselines = tuple(Row.of(title, None, estimates.baseline(title)) for title in BASELINES)
    episodes, exact = tally.episode_count
    return Comparison(
        baselines=baselines,
        policies=tuple(Row.of(title, policy, estimates.policy(number)) for number, (title, policy) in rows),
        steps=tally.steps,
        unfinished=tally.unfinished,
        episodes=episodes,
        episodes_exact=exact,
        unseen=tally.unseen,
        labels=dict(sorted(tally.sources.items())),
        conflicts=tally.conflicts,
        currency=next(iter(tally.currencies)) if len(tally.currencies) == 1 else None,
        notes=tuple(_notes(tally, baselines[0].all)),
    )


def _notes(tally: Tally, recorded: Figures) -> Iterable[str]:
    if len(tally.currencies) > 1:
        yield f"costs are in {', '.join(sorted(tally.currencies))} and are not added up"
    if recorded.basis == "share":
        yield "estimates of quality assume that people and evaluators did not choose the steps they labelled"
    named = [policy.provenance.get("validators") for policy in tally.plan.policies]
    spoke = {name for found in named if isinstance(found, dict) for name, codes in found.items() if codes}
    if silent := sorted(spoke - tally.validators):
        yield f"a policy was calibrated with validators that never spoke in this journal: {', '.join(silent)}"
    if any(policy.shadow_rate for policy in tally.plan.policies):
        yield "the shadow calls of a policy are counted in expectation, at its own shadow_rate"
