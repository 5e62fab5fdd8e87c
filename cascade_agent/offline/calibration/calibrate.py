"""From a labelled journal to a policy with a certified threshold, or to what is missing for one.

What chooses the scorer never tests it. Episodes are split by a hash; a scorer is fitted and chosen on one part, the
threshold is certified on the other. A fitted scorer remembers its part, so that no later calibration that starts from
it certifies on what it learned from.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from cascade_agent.core.decide import decide
from cascade_agent.core.kinds import KEYS, KINDS, keys_of
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.offline.calibration.certificate import (
    Certificate,
    Claim,
    NoThreshold,
    Per,
    Risk,
    Unit,
    labels_for_power,
    labels_needed,
)
from cascade_agent.offline.calibration.fit import Example, Fit, Target, fit
from cascade_agent.offline.calibration.kinds import along, entry_at, path_by_kind
from cascade_agent.offline.calibration.policy_file import library_version
from cascade_agent.offline.evaluation.dataset import LOOKING, DatasetBuilder, LabelRules, unit_hash
from cascade_agent.offline.evaluation.estimates import Estimates, Figure
from cascade_agent.offline.evaluation.journals import ReadSettings, as_list, fold, no_step
from cascade_agent.offline.evaluation.metrics import auroc, auroc_within, brier, calibration_error, interval
from cascade_agent.offline.evaluation.replay import accept_all
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from cascade_agent.core.scoring import Scorer
    from cascade_agent.journal.format import OnError
    from cascade_agent.models.pricing import Price
    from cascade_agent.offline.evaluation.dataset import Dataset, Evaluator, LabelledStep, OnConflict, SameText
    from cascade_agent.offline.evaluation.estimates import Basis
    from cascade_agent.offline.evaluation.journals import PathLike

ScorerChoice = Literal["auto", "rules", "error", "gain"]
ByKind = Literal["one", "each", "together"]

MIN_FIT: Final = 50
"""Labelled drafts below which no scorer is fitted: the rules' order was not beaten with fewer."""

MAX_FIT: Final = 2000
"""Labelled drafts beyond which more of them go to the certificate; the ranking is settled by then."""

_SPARE = 1.1
"""The certificate keeps this many times the episodes that it needs: a split by hash is not exact."""

_MIN_KIND = 30
_MAX_WEIGHT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Quality of a scorer on labelled drafts that it has not seen.

    `auroc` is against "small was right", `auroc_gain` against "escalating gains nothing", `auroc_interval` a 95 %
    bootstrap interval of the first over episodes. `calibration_error` and `brier` are against what the scorer was
    fitted to. `by_kind` holds `auroc` per kind of step with enough drafts of both sorts. None: cannot be told.
    """

    n: int
    auroc: float | None
    auroc_interval: tuple[float, float] | None
    auroc_gain: float | None
    calibration_error: float | None
    brier: float | None
    by_kind: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        limits = None if self.auroc_interval is None else list(self.auroc_interval)
        rest = {"auroc_interval": limits, "by_kind": dict(self.by_kind)}
        return {f.name: getattr(self, f.name) for f in fields(self)} | rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The steps whose labels may stand for all steps, and how they came to be drawn.

    `basis` is `all_escalated` (small answered no step: every label counts), `propensity` (accepted steps were shadowed
    with a known probability, the other steps are thinned to the least of them, `rate`), `share` (accepted steps were
    labelled by people or an evaluator; **assumed** not to be chosen by their outcome or their confidence) or `none`
    (accepted steps have no such label, so nothing is known of them). `unclear` counts drawn steps whose label is
    unknown; they are left out.
    """

    steps: tuple[LabelledStep, ...]
    basis: Basis
    rate: float
    unclear: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """The findings of a calibration.

    `policy` carries the certified thresholds and their provenance; None when nothing holds. `certificate` then says why
    and how many labels are missing. `by_kind` and `irreversible` are further claims at the same target: thresholds per
    kind of step (all at once; the kinds without enough labels together under `""`), and the selective error of drafts
    that call irreversible tools. `scorer` is the chosen one (`chosen`: `rules`, `error` or `gain`), `fits` what was
    fitted, `quality` how each candidate did on the episodes kept for the certificate. `saving` is the share of
    always-large's cost that the cascade saved in these journals as it ran.
    """

    policy: Policy | None
    certificate: Certificate | NoThreshold
    by_kind: Mapping[str, Certificate | NoThreshold]
    irreversible: Certificate | NoThreshold | None
    scorer: Scorer
    chosen: str
    fits: Mapping[str, Fit]
    quality: Mapping[str, Quality]
    dataset: Dataset
    sample: Sample
    data: str
    saving: Figure

    def to_json(self) -> dict[str, Any]:
        """As plain JSON: everything but the steps themselves."""
        dataset = self.dataset
        return {
            "threshold": self.certificate.threshold if isinstance(self.certificate, Certificate) else None,
            "certificate": self.certificate.to_json(),
            "by_kind": {kind: found.to_json() for kind, found in self.by_kind.items()},
            "irreversible": None if self.irreversible is None else self.irreversible.to_json(),
            "chosen": self.chosen,
            "quality": {name: quality.to_json() for name, quality in self.quality.items()},
            "fits": {
                name: {"n": f.n, "strength": f.strength, "auroc": f.auroc, "calibration_error": f.error}
                for name, f in self.fits.items()
            },
            "labels": {
                "steps": dataset.total,
                "answered_by_small": dataset.answered,
                "labelled": sum(step.labelled for step in dataset.steps),
                "by_source": dict(dataset.by_source),
                "undecided": dataset.undecided,
                "orphans": list(dataset.orphans),
                "repeated_steps": dataset.repeated,
                "small_not_asked": dataset.unasked,
                "conflicts": [
                    {
                        "step_id": step.id,
                        "counted": step.outcome.source,
                        "labels": [label.to_json() for label in step.labels],
                    }
                    for step in dataset.conflicts
                ],
            },
            "sample": {"basis": self.sample.basis, "rate": self.sample.rate, "unclear": self.sample.unclear},
            "data": self.data,
            "saving": self.saving.to_json(),
        }


def calibrate(  # noqa: PLR0913 - one keyword per part of the claim
    paths: PathLike | Sequence[PathLike],
    *,
    max_loss: float,
    confidence: float = 0.9,
    policy: Policy | None = None,
    scorer: ScorerChoice = "auto",
    risk: Risk = "harm",
    per: Per = "step",
    by_kind: ByKind | bool = "one",
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    on_error: OnError = "raise",
    prices: Mapping[str, Price] | None = None,
    seed: int = 0,
    now: dt.datetime | None = None,
    dask: Mapping[str, Any] | None = None,
) -> CalibrationResult:
    """Calibrate a policy on labelled journals.

    What then holds, with probability `confidence` over the labels and as long as steps stay like those of the journal:

    - Without `by_kind`, `Policy.threshold` bounds the risk over all steps together.
    - With `by_kind="each"`, `Policy.threshold` has one number per kind of step, and the risk is bounded within each
      kind that has a certificate, in all of them at once, and therefore over all steps too. A kind for which nothing
      could be shown has 1.0: it goes to the large model.
    - With `by_kind="together"` it has one number per kind too, the cheapest ones that bound the risk over all steps
      together: they are chosen on the episodes that a scorer is fitted on and certified on the others.
    - Where the policy declares irreversible tools, `Policy.threshold["irreversible"]` bounds P(small wrong | accepted)
      among the drafts that call one. That claim has its own probability `confidence`; the highest threshold that
      applies to a draft decides, which keeps the others. Where nothing could be shown it is 1.0.

    Thresholds that were set by hand for a kind or an effect stay where they are the stricter ones.

    Args:
        paths: journal files or glob patterns.
        max_loss: the greatest risk per step that you take, for example 0.01.
        confidence: probability with which the certificate holds.
        policy: settings to start from; its threshold is replaced, its scorer is the prior of a fit (one that an earlier
            calibration fitted is left for the shipped rules then, so that no label counts twice).
        scorer: `rules` keeps the policy's scorer, `error` and `gain` fit one, `auto` takes what ranks harm best on
            episodes that the fit did not see (and keeps the policy's while labels are few).
        risk: `harm` or `selective_error` (see `certify`).
        per: what a loss is counted in: one drawn `step` of each episode (a conversation: steps of one `thread_id`),
            one drawn `turn` (steps of one `run_id`, as the graph is invoked once for what a user says), or the whole
            `episode`. A step without a thread or run is one of its own.
        by_kind: `one` threshold for all, or thresholds by kind of draft that hold in `each` (True) or `together`.
        evaluator: your own judgement of a step trace.
        same_text: `(small, large) -> bool | None`, whether two texts say the same.
        on_conflict: what contradicting labels do (see `LabelRules`).
        on_error: what a line that is no record does (see `journal.read`).
        prices: model -> price that it was run at, for the provenance (source and date).
        seed: of all draws and splits.
        now: date of the provenance; None takes the clock.
        dask: read file by file on Dask (see `ReadSettings`).

    Raises:
        RecordError: journals that cannot be read, hold no step or no label. Names file, line and mend.
        ConfigurationError: a setting that cannot work.
    """
    _check(scorer, by_kind)
    claim = Claim(max_loss=max_loss, confidence=confidence, risk=risk, per=per, seed=seed)
    base = Policy() if policy is None else policy
    prior = base.scorer or shipped_scorer()
    if scorer != "rules" and _learned(prior):
        prior = shipped_scorer()
    base = replace(base, scorer=prior)  # a threshold is certified with these weights, whatever later versions ship
    files = as_list(paths)
    rules = LabelRules(evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)
    how = ReadSettings(rules=rules, on_error=on_error, remember=2**62, ids=True, dask=dask)
    reading = fold(partial(_Read, base.side_effects), files, how)
    dataset = reading.found.builder.dataset(repeated=reading.repeated, label_ids=reading.label_ids)
    if not dataset.total:
        raise RecordError(no_step(files))
    if not any(step.labelled for step in dataset.steps):
        raise RecordError(_no_labels(files, dataset))
    sample = draw(dataset, base, seed=seed)
    learn, test, part = _split(dataset, sample, claim, scorer, prior, learns=by_kind == "together")
    fits = {} if scorer == "rules" else _fits(learn, sample, prior, scorer, seed)
    chosen = _choose(fits, learn, base, scorer)
    candidates = {"rules": prior} | {name: f.scorer for name, f in fits.items()}
    judged = {name: replace(base, scorer=s) for name, s in candidates.items()}
    units = to_units(test, judged[chosen])
    certificate, kinds = _certified(units, sample, claim)
    final: list[Unit] = []
    irreversible = None
    if sample.basis != "none" and "irreversible" in base.side_effects.values():
        final = to_units([step for step in test if step.irreversible], judged[chosen])
        irreversible = replace(claim, risk="selective_error", per="step").test(final)
    result = CalibrationResult(
        policy=None,
        certificate=certificate,
        by_kind=kinds,
        irreversible=irreversible,
        scorer=candidates[chosen],
        chosen=chosen,
        fits=fits,
        quality={name: quality_of(test, judged[name], gain=name == "gain", seed=seed) for name in judged},
        dataset=dataset,
        sample=sample,
        data=labels_hash(dataset.steps),
        saving=reading.found.saving(),
    )
    if by_kind == "together":
        entries = together(to_units(learn, judged[chosen]), units, claim) if kinds else None
    else:
        entries = entries_of(kinds, units) if by_kind in ("each", True) else _whole(certificate)
    if entries is None:
        return result
    if irreversible is not None:
        entries["irreversible"] = _entry("irreversible", irreversible)
    thresholds = _thresholds(entries, base)
    provenance = _provenance(result, entries, claim, prices, now or dt.datetime.now(dt.UTC))
    fitted = candidates[chosen]
    if chosen in fits:
        origin: dict[str, Any] = {"kind": "fitted", "target": chosen, "data": result.data, "learned": [list(part)]}
        fitted = replace(fitted, provenance=origin)
    strictest = thresholds.pop("", None)
    base_threshold = max(thresholds.values()) if strictest is None else strictest
    return replace(
        result,
        policy=replace(
            base,
            threshold={**thresholds, "default": base_threshold} if thresholds else base_threshold,
            scorer=fitted,
            provenance=provenance,
        ),
    )


def _check(scorer: ScorerChoice, by_kind: ByKind | bool) -> None:
    for name, value, allowed in (
        ("scorer", scorer, get_args(ScorerChoice)),
        ("by_kind", by_kind, (*get_args(ByKind), True, False)),
    ):
        if value not in allowed:
            msg = f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}"
            raise ConfigurationError(msg)


class _Read:
    """One reading of the journals: the labelled steps, and what all steps cost."""

    def __init__(self, side_effects: Mapping[str, str]) -> None:
        self.builder, self.tally = DatasetBuilder(side_effects), Tally(SweepPlan())

    def add(self, step: LabelledStep) -> None:
        self.builder.add(step)
        self.tally.add(step)

    def merge(self, other: _Read) -> None:
        self.builder.merge(other.builder)
        self.tally.merge(other.tally)

    def saving(self) -> Figure:
        return (
            Figure()
            if self.tally.steps == self.tally.unfinished
            else Estimates(self.tally, parts=False).recorded().saving
        )


# ---- which steps may speak for all ----------------------------------------------------------------------------------


def draw(dataset: Dataset, policy: Policy, *, seed: int = 0) -> Sample:
    """A sample in which every step of the journal had the same chance to be, and whose losses are known.

    Labels come unevenly: an escalated step labels itself, an accepted one only when it was shadowed, or when somebody
    looked. Escalated steps alone say nothing about accepted ones. So all are thinned, by a hash of `seed` and the id,
    to the rate at which accepted steps have labels. A step that no threshold accepts needs no label: it does no harm.
    """
    accepted = [step for step in dataset.steps if step.answered]
    others = [step for step in dataset.steps if not step.answered]
    shadowed = [step for step in accepted if step.outcome.propensity is not None]
    looked_at = [step for step in accepted if step.outcome.source in LOOKING]
    basis: Basis
    if not dataset.answered:
        basis, rate, kept = "all_escalated", 1.0, []
    elif looked_at and len(looked_at) >= len(shadowed):
        basis, rate, kept = "share", len(looked_at) / dataset.answered, looked_at
    elif shadowed:
        rate = min(step.outcome.propensity or 1.0 for step in shadowed)
        chosen = [step for step in accepted if step.outcome.propensity is not None or _tool_failed(step)]
        basis, kept = "propensity", [step for step in chosen if _coin(step, seed) < rate / _chance(step)]
    else:
        return Sample(steps=(), basis="none", rate=0.0, unclear=0)
    policy = accept_all(policy)
    drawn = [step for step in others if _coin(step, seed) < rate]
    known = [step for step in drawn if step.labelled or replayed_confidence(step, policy) is None]
    steps = sorted([*kept, *known], key=lambda step: step.id)
    return Sample(steps=tuple(steps), basis=basis, rate=rate, unclear=len(drawn) - len(known))


def _chance(step: LabelledStep) -> float:
    """With which probability an accepted step came to be labelled: a tool's error is always seen."""
    return 1.0 if step.outcome.propensity is None or _tool_failed(step) else step.outcome.propensity


def _tool_failed(step: LabelledStep) -> bool:
    return any(label.source == "tool_error" for label in step.labels)


def _coin(step: LabelledStep, seed: int) -> float:
    return unit_hash(f"draw\0{seed}\0{step.id}")


Part = tuple[int, float]
"""Seed and share of a split: the episodes whose hash is below the share were learned from."""


def _split(  # noqa: PLR0913 - what there is, what is claimed of it, what it is for
    dataset: Dataset, sample: Sample, claim: Claim, choice: ScorerChoice, prior: Scorer, *, learns: bool = False
) -> tuple[list[LabelledStep], list[LabelledStep], Part]:
    """(labelled steps to learn from, sampled steps to certify on, how they were split), by episode.

    The certificate comes first: under `auto` it keeps what gives it 80 % power at half the target, under a named
    scorer what it cannot do without. Learning gets the rest, at most half, and nothing below `MIN_FIT` labels. What
    the policy's scorer learned from earlier is not certified on.
    """
    earlier = _learned(prior)
    known = {e: unit_hash(f"split\0{claim.seed}\0{e}") for e in {c.episode for c in dataset.steps}}
    seen = {e for e in known if any(unit_hash(f"split\0{seed}\0{e}") < share for seed, share in earlier)}
    drafts = [step for step in dataset.steps if step.outcome.right is not None and step.drafted]
    episodes = len({step.episode for step in sample.steps} - seen)
    keep = (labels_for_power if choice == "auto" else labels_needed)(claim.max_loss, claim.confidence)
    share = min(0.5, MAX_FIT / max(1, len(drafts)), 1.0 - _SPARE * keep / max(1, episodes))
    if (choice == "rules" and not learns) or len(drafts) * share < MIN_FIT:
        return [], [step for step in sample.steps if step.episode not in seen], (claim.seed, 0.0)
    learning = {e for e, at in known.items() if at < share}
    return (
        [step for step in drafts if step.episode in learning],
        [step for step in sample.steps if step.episode not in learning and step.episode not in seen],
        (claim.seed, share),
    )


def _learned(scorer: Scorer) -> list[Part]:
    """The parts of journals that a scorer of ours was fitted on."""
    parts = scorer.provenance.get("learned")
    return [(int(seed), float(share)) for seed, share in parts] if isinstance(parts, list) else []


# ---- scorers --------------------------------------------------------------------------------------------------------


def replayed_confidence(step: LabelledStep, policy: Policy) -> float | None:
    """The confidence with which the policy would decide this step; None when it escalates under every threshold."""
    if not step.drafted:
        return None
    policy = accept_all(policy)
    gathered: tuple[str, ...] = ()
    while True:
        silent = {name for name in step.small.gathered if name not in gathered}
        verdicts = tuple(v for v in step.small.verdicts if v.validator not in silent) if silent else step.small.verdicts
        confidence = (policy.scorer or shipped_scorer()).confidence(verdicts)
        attempt = Attempt(tier="small", outcome="rejected", verdicts=verdicts, confidence=confidence, gathered=gathered)
        move = decide(policy, (attempt,), evidence=step.small.gathered)
        if move.action != "ask_evidence" or move.evidence is None:
            return confidence if move.action == "accept" else None
        gathered = (*gathered, move.evidence)


def to_units(steps: Sequence[LabelledStep], policy: Policy) -> list[Unit]:
    """Labelled steps as units of a certificate for this policy's scorer."""
    policy = accept_all(policy)
    costs = [cost for step in steps if (cost := _large_cost(step))]
    mean = math.fsum(costs) / len(costs) if costs else 1.0
    return [
        Unit(
            episode=step.episode,
            step_id=step.id,
            confidence=replayed_confidence(step, policy),
            harm=step.loss,
            wrong=step.outcome.right is False,
            kind=step.trace.kind,
            turn=step.trace.run_id or "",
            price=_large_cost(step) or mean,
        )
        for step in steps
    ]


def _large_cost(step: LabelledStep) -> float | None:
    """Return what the large call of a step cost, if one was made and is known."""
    return next((a.cost for a in step.trace.attempts if a.tier == "large" and a.cost is not None), None)


def _fits(
    learn: Sequence[LabelledStep], sample: Sample, prior: Scorer, choice: ScorerChoice, seed: int
) -> dict[str, Fit]:
    if not learn:
        return {}
    examples = examples_of(learn, sample)
    targets: list[Target] = ["error", "gain"] if choice == "auto" else []
    if choice == "error" or choice == "gain":  # noqa: PLR1714 - narrows the type
        targets = [choice]
    return {target: fit(examples, target=target, prior=prior, seed=seed) for target in targets}


def examples_of(steps: Sequence[LabelledStep], sample: Sample) -> list[Example]:
    """Labelled drafts to fit on, each weighed by one over the chance with which it came to be labelled, at most 10."""
    return [
        Example(
            verdicts=step.small.verdicts,
            wrong=not step.outcome.right,
            gain=step.loss,
            episode=step.episode,
            weight=min(_MAX_WEIGHT, 1.0 / (sample.rate if _looked_at(step, sample) else _chance(step))),
        )
        for step in steps
        if step.outcome.right is not None and step.drafted
    ]


def _looked_at(step: LabelledStep, sample: Sample) -> bool:
    return sample.basis == "share" and step.answered and step.outcome.source in LOOKING


def _choose(fits: Mapping[str, Fit], learn: Sequence[LabelledStep], base: Policy, choice: ScorerChoice) -> str:
    """The candidate that ranks harm best on held-out episodes, among the drafts that a threshold decides on."""
    if choice != "auto" or not fits:
        return choice if choice in fits else "rules"
    base = accept_all(base)
    free = [(i, p) for i, step in enumerate(learn) if (p := replayed_confidence(step, base)) is not None]
    harmless = [not learn[i].loss for i, _ in free]
    folds = next(iter(fits.values())).folds
    fold = [folds[i] for i, _ in free]
    best, most = "rules", auroc_within([p for _, p in free], harmless, fold) or 0.0
    for name, fitted in fits.items():
        ranked = auroc_within([fitted.held_out[i] for i, _ in free], harmless, fold) or 0.0
        if ranked > most:
            best, most = name, ranked
    return best


def quality_of(steps: Sequence[LabelledStep], policy: Policy, *, gain: bool = False, seed: int = 0) -> Quality:
    """Return the quality of the policy's scorer on labelled drafts. A draft without any confidence is left out."""
    scorer = policy.scorer or shipped_scorer()
    rows = [
        (p, bool(step.outcome.right), not step.loss, step)
        for step in steps
        if step.outcome.right is not None and step.drafted and (p := scorer.confidence(step.small.verdicts)) is not None
    ]
    scores = [row[0] for row in rows]
    truth = [row[2] if gain else row[1] for row in rows]
    kinds: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for p, right, _, step in rows:
        kinds[step.trace.kind].append((p, right))
    by_kind = {
        kind: value
        for kind, members in sorted(kinds.items())
        if len(members) >= _MIN_KIND
        and (value := auroc([p for p, _ in members], [right for _, right in members])) is not None
    }
    return Quality(
        n=len(rows),
        auroc=auroc(scores, [row[1] for row in rows]),
        auroc_interval=interval(
            rows,
            lambda some: auroc([row[0] for row in some], [row[1] for row in some]),
            episode=lambda row: row[3].episode,
            resamples=200,
            seed=seed,
        ),
        auroc_gain=auroc(scores, [row[2] for row in rows]),
        calibration_error=calibration_error(scores, truth),
        brier=brier(scores, truth),
        by_kind=by_kind,
    )


# ---- claims, provenance, complaints ---------------------------------------------------------------------------------


def _certified(
    units: Sequence[Unit], sample: Sample, claim: Claim
) -> tuple[Certificate | NoThreshold, dict[str, Certificate | NoThreshold]]:
    if sample.basis != "none":
        return claim.test(units), claim.test_by_kind(units)
    need = labels_needed(claim.max_loss, claim.confidence)
    reason = (
        "no step that small answered has a label that may stand for the others (escalated steps say nothing about "
        "them, nor do steps that were looked at because they were doubtful): set `shadow_rate`, label some with "
        f"`cascade-agent label --order random`, or give an evaluator. At least {need} episodes are needed"
    )
    return claim.none(reason, n=0, losses=0), {}


ClaimOf = Literal["all", "kind", "rest", "together", "irreversible", "unseen"]
Entries = dict[str, "Entry"]
"""The claim that each threshold of the policy rests on: by kind or effect, `""` for all other drafts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A threshold and what it rests on; without a certificate it lets nothing pass."""

    claim: ClaimOf
    threshold: float
    found: Certificate | NoThreshold | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        certificate = None if self.found is None else self.found.to_json()
        return {"threshold": self.threshold, "claim": self.claim, "certificate": certificate}


def _entry(claim: ClaimOf, found: Certificate | NoThreshold | None) -> Entry:
    return Entry(claim=claim, threshold=found.threshold if isinstance(found, Certificate) else 1.0, found=found)


def _whole(certificate: Certificate | NoThreshold) -> Entries | None:
    return {"": _entry("all", certificate)} if isinstance(certificate, Certificate) else None


def entries_of(found: Mapping[str, Certificate | NoThreshold], units: Sequence[Unit]) -> Entries | None:
    """Return what `certify_by_kind` found as one threshold per kind of step.

    None when none holds, or when a kind that has none cannot be stopped (drafts of a confidence of 1).

    Kinds without enough labels share the certificate of the rest, kinds that the data do not have get 1.0.
    """
    if not any(found.values()):
        return None
    seen = {unit.kind for unit in units}
    entries: Entries = {}
    for kind in sorted(seen):
        entries[kind] = _entry("kind", found[kind]) if kind in found else _entry("rest", found[""])
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
    return _with_unseen(
        {kind: Entry(claim="together", threshold=t, found=replace(found, threshold=t)) for kind, t in chosen.items()}
    )


def _with_unseen(entries: Entries) -> Entries:
    """Return the entries that a policy takes, and 1.0 for kinds that the data do not have.

    Journals of older versions say `call` alone: that covers its finer kinds.
    """
    coarse = entries.keys() - {*KINDS}
    unseen = [kind for kind in KINDS if kind not in entries and not coarse.intersection(keys_of(kind))]
    return {kind: e for kind, e in entries.items() if kind in KEYS} | {k: _entry("unseen", None) for k in unseen}


def _thresholds(entries: Entries, base: Policy) -> dict[str, float]:
    """The numbers of the policy, `""` its `threshold`: what was shown, and by hand only what is stricter.

    A number for an effect alone takes the place of `threshold`, so it is never below it.
    """
    measured = base.provenance.get("thresholds")
    by_hand = {k: v for k, v in base.thresholds.items() if not isinstance(measured, Mapping) or k not in measured}
    out = {key: entry.threshold for key, entry in entries.items()}
    floor = out.get("", 0.0)
    for key in {*by_hand, *(["irreversible"] if "irreversible" in out else [])}:
        out[key] = max(floor, by_hand.get(key, 0.0), out.get(key, 0.0))
    return dict(sorted(out.items()))


def labels_hash(steps: Sequence[LabelledStep]) -> str:
    """SHA-256 over step ids and what their labels say, in the order of the ids: the same labels, the same hash."""
    digest = hashlib.sha256()
    for step in sorted(steps, key=lambda c: c.id):
        if step.labelled:
            found = step.outcome
            digest.update(f"{step.id}\0{found.right}\0{found.harm}\0{found.source}\n".encode(errors="replace"))
    return digest.hexdigest()


def _provenance(
    result: CalibrationResult,
    entries: Entries,
    claim: Claim,
    prices: Mapping[str, Price] | None,
    now: dt.datetime,
) -> dict[str, Any]:
    dataset = result.dataset
    return {
        "kind": "calibrated",
        "method": "exact binomial, fixed sequence (Learn then Test)",
        "target": claim.max_loss,
        "confidence": claim.confidence,
        "risk": claim.risk,
        "per": claim.per,
        "scope": _scope(entries),
        "thresholds": {key: entry.to_json() for key, entry in entries.items()},
        "date": now.isoformat(timespec="seconds"),
        "version": library_version(),
        "data": result.data,
        "steps": dataset.total,
        "labels": dict(dataset.by_source),
        "conflicts": len(dataset.conflicts),
        "sample": {"basis": result.sample.basis, "rate": result.sample.rate, "unclear": result.sample.unclear},
        "certificate": result.certificate.to_json(),
        "by_kind": {kind: found.to_json() for kind, found in result.by_kind.items()},
        "irreversible": None if result.irreversible is None else result.irreversible.to_json(),
        "scorer": result.chosen,
        "quality": {name: quality.to_json() for name, quality in result.quality.items()},
        "models": list(dataset.models),
        "validators": {name: list(codes) for name, codes in dataset.validators.items()},
        "paid": {model: dict(paid) for model, paid in dataset.paid.items()},
        "prices": {
            model: {"source": price.source, "date": price.date, "currency": price.currency}
            for model, price in (prices or {}).items()
        },
    }


def _scope(entries: Entries) -> str:
    claims = {entry.claim for entry in entries.values()}
    if "together" in claims:
        return "all steps together, a threshold for each kind"
    return "all steps together" if "all" in claims else "each kind of step, all at once"


def _no_labels(files: Sequence[Any], dataset: Dataset) -> str:
    names = ", ".join(str(file) for file in files)
    orphans = f" {len(dataset.orphans)} labels belong to steps of other journals." if dataset.orphans else ""
    return (
        f"{names}: {dataset.total} steps and no label.{orphans} "
        "Label some with `cascade-agent label`, set `shadow_rate` "
        "in the policy, or give an evaluator; escalated steps label themselves where both answers are calls, numbers "
        "or JSON"
    )
