"""From a labelled journal to a policy with a certified threshold, or to what is missing for one.

What chooses the scorer never tests it. Episodes are split by a hash; a scorer is fitted and chosen on one part, the
threshold is certified on the other. A fitted scorer remembers its part, so that no later calibration that starts from
it certifies on what it learned from.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, get_args

from cascade_agent.core.policy import Policy
from cascade_agent.core.scoring import EvidenceShare
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.offline.calibration.certificate import (
    Certificate,
    Claim,
    NoThreshold,
    Per,
    Risk,
    labels_for_power,
    labels_needed,
)
from cascade_agent.offline.calibration.disagreement import learn_disagreement
from cascade_agent.offline.calibration.fit import Fit, Target, fit
from cascade_agent.offline.calibration.kinds import Entries, Entry, entries_of, scope_of, thresholds_of, together
from cascade_agent.offline.calibration.policy_file import library_version
from cascade_agent.offline.calibration.sample import Sample, draw, examples_of, replayed_confidence, to_units
from cascade_agent.offline.evaluation.dataset import Dataset, LabelRules, split_hash
from cascade_agent.offline.evaluation.estimates import Estimates, Figure
from cascade_agent.offline.evaluation.journals import ReadSettings, as_list, complete, fold
from cascade_agent.offline.evaluation.metrics import auroc, auroc_within, brier, calibration_error, interval
from cascade_agent.offline.evaluation.plain import Plain, plain
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.scoring import Scorer
    from cascade_agent.journal.format import OnError, PathLike
    from cascade_agent.models.pricing import Price
    from cascade_agent.offline.calibration.certificate import Unit
    from cascade_agent.offline.evaluation.dataset import Evaluator, LabelledStep, OnConflict, SameText

ScorerChoice = Literal["auto", "rules", "error", "gain"]
ByKind = Literal["one", "each", "together"]
Finding = Certificate | NoThreshold
Part = tuple[int, float]
"""Seed and share of a split: the episodes whose hash is below the share were learned from."""

MIN_FIT: Final = 50  # labelled drafts below which no scorer is fitted: the rules' order was not beaten with fewer
MAX_FIT: Final = 2000  # beyond, more of them go to the certificate; the ranking hardly gets better
_SPARE = 1.1  # the certificate keeps this many times the episodes that it needs: a split by hash is not exact
_MIN_KIND = 30  # drafts of a kind that has an AUROC of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(Plain):
    """Quality of a scorer on labelled drafts that it has not seen. None: cannot be told.

    `auroc` is against "small was right", `auroc_gain` against "escalating gains nothing", `auroc_interval` a 95 %
    bootstrap interval of the first over episodes. `calibration_error` and `brier` are against what the scorer was
    fitted to. `by_kind` holds `auroc` per kind of step with enough drafts of both sorts.
    """

    n: int
    auroc: float | None
    auroc_interval: tuple[float, float] | None
    auroc_gain: float | None
    calibration_error: float | None
    brier: float | None
    by_kind: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationResult:
    """The findings of a calibration.

    `policy` carries the certified thresholds and their provenance; None when nothing holds. `certificate` then says why
    and how many labels are missing. `by_kind` and `irreversible` are further claims at the same target. `chosen` names
    the `scorer`, `quality` is how each candidate did on the episodes kept for the certificate. `data` is a hash of the
    labels, `saving` that of the journals as they ran.
    """

    policy: Policy | None
    certificate: Finding
    by_kind: Mapping[str, Finding]
    irreversible: Finding | None
    scorer: Scorer
    chosen: str
    fits: Mapping[str, Fit]
    quality: Mapping[str, Quality]
    dataset: Dataset
    sample: Sample
    data: str
    saving: Figure

    def findings(self) -> JsonObject:
        """Return what was found as plain JSON, as a policy keeps it, too."""
        found = {name: plain(getattr(self, name)) for name in ("certificate", "by_kind", "irreversible", "quality")}
        sample = {"basis": self.sample.basis, "rate": self.sample.rate, "unclear": self.sample.unclear}
        return {**found, "sample": sample, "data": self.data}

    def to_json(self) -> JsonObject:
        """As plain JSON: everything but the steps themselves."""
        dataset = self.dataset
        conflicts = [
            {"step_id": step.id, "counted": step.outcome.source, "labels": plain(step.labels)}
            for step in dataset.conflicts
        ]
        return {
            **self.findings(),
            "threshold": self.certificate.threshold,
            "chosen": self.chosen,
            "fits": {
                name: {"n": f.n, "strength": f.strength, "auroc": f.auroc, "calibration_error": f.error}
                for name, f in self.fits.items()
            },
            "labels": {
                "steps": dataset.total,
                "answered_by_small": dataset.answered,
                "labelled": sum(step.labelled for step in dataset.steps),
                "by_source": dataset.by_source,
                "undecided": dataset.undecided,
                "orphans": list(dataset.orphans),
                "repeated_steps": dataset.repeated,
                "small_not_asked": dataset.unasked,
                "conflicts": conflicts,
            },
            "saving": self.saving.to_json(),
        }


class _Read:
    """One reading of the journals: the labelled steps, and what all steps cost."""

    def __init__(self, side_effects: Mapping[str, str]) -> None:
        self.dataset, self.tally = Dataset(side_effects=side_effects), Tally(SweepPlan())

    def add(self, step: LabelledStep) -> None:
        self.dataset.add(step)
        self.tally.add(step)

    def merge(self, other: _Read) -> None:
        self.dataset.merge(other.dataset)
        self.tally.merge(other.tally)


def calibrate(
    paths: PathLike | Sequence[PathLike],
    *,
    max_loss: float,
    confidence: float = 0.9,
    policy: Policy | None = None,
    scorer: ScorerChoice = "auto",
    risk: Risk = "harm",
    per: Per = "step",
    by_kind: ByKind = "one",
    evidence_share: float | None = None,
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    on_error: OnError = "raise",
    prices: Mapping[str, Price] | None = None,
    seed: int = 0,
    now: dt.datetime | None = None,
    dask: Mapping[str, object] | None = None,
) -> CalibrationResult:
    """Calibrate a policy on labelled journals.

    With probability `confidence` over the labels, and as long as steps stay like those of the journal:

    - with `by_kind="one"`, `Policy.threshold` bounds the risk (`harm` or `selective_error`, see `Claim`) by `max_loss`
      over all steps together;
    - with `by_kind="each"` it has one number per kind of step, and the risk is bounded within each kind that has
      a certificate, in all of them at once. A kind for which nothing could be shown has 1.0: it goes to the large
      model;
    - with `by_kind="together"` it has the cheapest numbers per kind that bound the risk over all steps together: they
      are chosen on the episodes that a scorer is fitted on and certified on the others;
    - where the policy declares irreversible tools, `Policy.threshold["irreversible"]` bounds P(small wrong | accepted)
      among the drafts that call one (1.0 where nothing could be shown). This claim has a `confidence` of its own; the
      highest threshold that applies to a draft decides, which keeps the others.

    A loss is counted `per` one drawn step of each episode (steps of one `thread_id`), one drawn `turn` (steps of one
    `run_id`), or the whole `episode`. Thresholds that were set by hand for a kind or an effect stay where they are the
    stricter ones.

    `policy` holds the settings to start from: its threshold is replaced, its scorer is the prior of a fit (one that an
    earlier calibration fitted gives way to the shipped rules, so that no label counts twice). `scorer="rules"` keeps
    it, `error` and `gain` fit one, `auto` takes what ranks harm best on episodes that the fit did not see, of those
    that would hold a threshold there.

    `evidence_share` is the share of steps to ask the evidence about, where it most likely disagrees (see
    `learn_disagreement`); it is learned without labels on half of the episodes, the threshold certified on the others.

    `evaluator`, `same_text` and `on_conflict` say how labels come about (see `LabelRules`), `on_error` what a line does
    that is no record (see `journal.read`), `dask` how files are read (see `ReadSettings`). `prices` (by model) and
    `now` go into the provenance; `seed` is of all draws and splits.

    Raises:
        RecordError: journals that cannot be read, hold no step or no label. Names file, line and mend.
        ConfigurationError: a setting that cannot work.
    """
    _check("scorer", scorer, ScorerChoice)
    _check("by_kind", by_kind, ByKind)
    claim = Claim(max_loss=max_loss, confidence=confidence, risk=risk, per=per, seed=seed)
    base = Policy() if policy is None else policy
    prior = base.scorer or shipped_scorer()
    if scorer != "rules" and _learned(prior):
        prior = shipped_scorer()
    files, evidence = as_list(paths), base.evidence
    if evidence_share is not None:
        evidence = learn_disagreement(*files, share=evidence_share, seed=seed, on_error=on_error)
    # a threshold is certified with these weights, whatever later versions ship
    base = replace(base, scorer=prior, evidence=evidence)
    rules = LabelRules(evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)
    how = ReadSettings(rules=rules, on_error=on_error, keep=True, dask=dask)
    reading = fold(partial(_Read, base.side_effects), files, how)
    dataset, tally = complete(reading.found.dataset, reading, files), reading.found.tally
    if not any(step.labelled for step in dataset.steps):
        raise RecordError(_no_labels(files, dataset))
    sample = draw(dataset, base, seed=seed)
    learn, test, part = _split(dataset, sample, claim, scorer, base, learns=by_kind == "together")
    fits = _fits(learn, sample, prior, scorer, seed)
    chosen = _choose(fits, learn, base, scorer, claim)
    judged = {"rules": base} | {name: replace(base, scorer=f.scorer) for name, f in fits.items()}
    units = to_units(test, judged[chosen])
    certificate, kinds = _certified(units, sample, claim)
    irreversible = None
    if sample.basis != "none" and "irreversible" in base.side_effects.values():
        final = to_units([step for step in test if step.irreversible], judged[chosen])
        irreversible = replace(claim, risk="selective_error", per="step").test(final)
    result = CalibrationResult(
        policy=None,
        certificate=certificate,
        by_kind=kinds,
        irreversible=irreversible,
        scorer=prior if chosen == "rules" else fits[chosen].scorer,
        chosen=chosen,
        fits=fits,
        quality={name: quality_of(test, judged[name], gain=name == "gain", seed=seed) for name in judged},
        dataset=dataset,
        sample=sample,
        data=labels_hash(dataset.steps),
        saving=Estimates(tally, parts=False).recorded().saving if tally.steps > tally.unfinished else Figure(),
    )
    if by_kind == "together":
        entries = together(to_units(learn, judged[chosen]), units, claim) if kinds else None
    elif by_kind == "one":
        entries = {"": Entry.of("all", certificate)} if certificate else None
    else:
        entries = entries_of(kinds, units)
    if entries is None:
        return result
    if irreversible is not None:
        entries["irreversible"] = Entry.of("irreversible", irreversible)
    provenance = _provenance(result, entries, claim, prices, now or dt.datetime.now(dt.UTC))
    return replace(result, policy=_policy_of(result, entries, base, part, provenance))


def _check(name: str, value: object, choice: object) -> None:
    if value not in get_args(choice):
        msg = f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(choice)))}"
        raise ConfigurationError(msg)


def _no_labels(files: Sequence[object], dataset: Dataset) -> str:
    names = ", ".join(str(file) for file in files)
    orphans = f" {len(dataset.orphans)} labels belong to steps of other journals." if dataset.orphans else ""
    return (
        f"{names}: {dataset.total} steps and no label.{orphans} Label some with `cascade-agent label`, set "
        "`shadow_rate` in the policy, or give an evaluator; escalated steps label themselves where both answers are "
        "calls, numbers or JSON"
    )


def _split(
    dataset: Dataset, sample: Sample, claim: Claim, choice: ScorerChoice, base: Policy, *, learns: bool = False
) -> tuple[list[LabelledStep], list[LabelledStep], Part]:
    """Return labelled steps to learn from, sampled steps to certify on, and how they were split, by episode.

    The certificate comes first: under `auto` it keeps what gives it 80 % power at half the target, under a named
    scorer what it cannot do without. Learning gets the rest, at most half, and nothing below `MIN_FIT` labels. What
    the policy's scorer or its share of evidence learned from earlier is not certified on, and so is free to learn from.
    """
    earlier = _learned(base.scorer)
    if isinstance(base.evidence, EvidenceShare):
        earlier += _learned(base.evidence.agrees)
    known = {e: split_hash(claim.seed, e) for e in {c.episode for c in dataset.steps}}
    seen = {e for e in known if any(split_hash(seed, e) < share for seed, share in earlier)}
    drafts = [step for step in dataset.steps if step.outcome.right is not None and step.drafted]
    episodes = len({step.episode for step in sample.steps} - seen)
    keep = (labels_for_power if choice == "auto" else labels_needed)(claim.max_loss, claim.confidence)
    share = min(0.5, MAX_FIT / max(1, len(drafts)), 1.0 - _SPARE * keep / max(1, episodes))
    share = max(share, *(min(0.5, part) for seed, part in earlier if seed == claim.seed), 0.0)
    if (choice == "rules" and not learns) or len(drafts) * share < MIN_FIT:
        share = 0.0
    learning = {e for e, at in known.items() if at < share}
    return (
        [step for step in drafts if step.episode in learning],
        [step for step in sample.steps if step.episode not in learning and step.episode not in seen],
        (claim.seed, share),
    )


def _learned(scorer: Scorer | None) -> list[Part]:
    """Return the parts of journals that a scorer of ours was fitted on."""
    parts = None if scorer is None else scorer.provenance.get("learned")
    return [(int(seed), float(share)) for seed, share in parts] if isinstance(parts, list) else []


def _fits(
    learn: Sequence[LabelledStep], sample: Sample, prior: Scorer, choice: ScorerChoice, seed: int
) -> dict[str, Fit]:
    wanted = [target for target in get_args(Target) if learn and choice in ("auto", target)]
    examples = examples_of(learn, sample)
    return {target: fit(examples, target=target, prior=prior, seed=seed) for target in wanted}


def _choose(
    fits: Mapping[str, Fit], learn: Sequence[LabelledStep], base: Policy, choice: ScorerChoice, claim: Claim
) -> str:
    """Return the candidate that ranks harm best on held-out episodes, among the drafts that a threshold decides on.

    One that holds no threshold on what it was chosen on gives way to those that do: a fit may rank best and still give
    its greatest confidence to so many harmful drafts that nothing is left to certify.
    """
    if choice != "auto" or not fits:
        return choice if choice in fits else "rules"
    free = [(i, p) for i, step in enumerate(learn) if (p := replayed_confidence(step, base)) is not None]
    harmless = [not learn[i].loss for i, _ in free]
    folds = next(iter(fits.values())).folds
    fold_of = [folds[i] for i, _ in free]
    ranked = {"rules": [p for _, p in free]}
    ranked |= {name: [fitted.held_out[i] for i, _ in free] for name, fitted in fits.items()}
    judged = {"rules": base} | {name: replace(base, scorer=fitted.scorer) for name, fitted in fits.items()}
    holds = {name for name, policy in judged.items() if claim.test(to_units(learn, policy))}
    return max(ranked, key=lambda name: (name in holds, auroc_within(ranked[name], harmless, fold_of) or 0.0))


def quality_of(steps: Sequence[LabelledStep], policy: Policy, *, gain: bool = False, seed: int = 0) -> Quality:
    """Return the quality of the policy's scorer on labelled drafts. A draft without any confidence is left out."""
    scorer = policy.scorer or shipped_scorer()
    rows = [
        (p, bool(step.outcome.right), step)
        for step in steps
        if step.outcome.right is not None and step.drafted and (p := scorer.confidence(step.small.verdicts)) is not None
    ]
    scores, right = [row[0] for row in rows], [row[1] for row in rows]
    harmless = [not step.loss for _, _, step in rows]
    truth = harmless if gain else right
    kinds: dict[str, list[tuple[float, bool, LabelledStep]]] = defaultdict(list)
    for row in rows:
        kinds[row[2].trace.kind].append(row)
    ranked = ((kind, _auroc(members)) for kind, members in sorted(kinds.items()) if len(members) >= _MIN_KIND)
    return Quality(
        n=len(rows),
        auroc=auroc(scores, right),
        auroc_interval=interval(rows, _auroc, episode=lambda row: row[2].episode, resamples=200, seed=seed),
        auroc_gain=auroc(scores, harmless),
        calibration_error=calibration_error(scores, truth),
        brier=brier(scores, truth),
        by_kind={kind: value for kind, value in ranked if value is not None},
    )


def _auroc(rows: Sequence[tuple[float, bool, LabelledStep]]) -> float | None:
    return auroc([row[0] for row in rows], [row[1] for row in rows])


def _certified(units: Sequence[Unit], sample: Sample, claim: Claim) -> tuple[Finding, dict[str, Finding]]:
    if sample.basis != "none":
        return claim.test(units), claim.test_by_kind(units)
    need = labels_needed(claim.max_loss, claim.confidence)
    reason = (
        "no step that small answered has a label that may stand for the others (escalated steps say nothing about "
        "them, nor do steps that were looked at because they were doubtful): set `shadow_rate`, label some with "
        f"`cascade-agent label --order random`, or give an evaluator. At least {need} episodes are needed"
    )
    return claim.none(reason, n=0, losses=0), {}


def labels_hash(steps: Sequence[LabelledStep]) -> str:
    """SHA-256 over step ids and what their labels say, in the order of the ids: the same labels, the same hash."""
    digest = hashlib.sha256()
    for step in sorted(steps, key=lambda c: c.id):
        if step.labelled:
            found = step.outcome
            digest.update(f"{step.id}\0{found.right}\0{found.harm}\0{found.source}\n".encode(errors="replace"))
    return digest.hexdigest()


def _policy_of(result: CalibrationResult, entries: Entries, base: Policy, part: Part, provenance: JsonObject) -> Policy:
    scorer, thresholds = result.scorer, thresholds_of(entries, base)
    if result.chosen in result.fits:
        learned: JsonObject = {"target": result.chosen, "data": result.data, "learned": [list(part)]}
        scorer = replace(scorer, provenance={"kind": "fitted", **learned})
    whole = thresholds.pop("", None)
    default = max(thresholds.values()) if whole is None else whole
    threshold = {**thresholds, "default": default} if thresholds else default
    return replace(base, threshold=threshold, scorer=scorer, provenance=provenance)


def _provenance(
    result: CalibrationResult,
    entries: Entries,
    claim: Claim,
    prices: Mapping[str, Price] | None,
    now: dt.datetime,
) -> JsonObject:
    dataset = result.dataset
    return {
        **result.findings(),
        "kind": "calibrated",
        "method": "exact binomial, fixed sequence (Learn then Test)",
        "target": claim.max_loss,
        "confidence": claim.confidence,
        "risk": claim.risk,
        "per": claim.per,
        "scope": scope_of(entries),
        "thresholds": plain(entries),
        "date": now.isoformat(timespec="seconds"),
        "version": library_version(),
        "steps": dataset.total,
        "labels": dataset.by_source,
        "conflicts": len(dataset.conflicts),
        "scorer": result.chosen,
        "models": sorted(dataset.paid),
        "validators": {name: sorted(codes) for name, codes in sorted(dataset.codes.items())},
        "paid": plain(dict(sorted(dataset.paid.items()))),
        "prices": {
            model: {"source": price.source, "date": price.date, "currency": price.currency}
            for model, price in (prices or {}).items()
        },
    }
