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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from cascade_agent.core.decide import decide
from cascade_agent.core.policy import Policy
from cascade_agent.core.scoring import EvidenceShare
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
from cascade_agent.offline.calibration.fit import Example, Fit, Target, fit, learn_disagreement
from cascade_agent.offline.calibration.kinds import Entries, Entry, entries_of, scope_of, thresholds_of, together
from cascade_agent.offline.calibration.policy_file import library_version
from cascade_agent.offline.evaluation.dataset import LOOKING, split_hash, unit_hash
from cascade_agent.offline.evaluation.estimates import Estimates, Figure
from cascade_agent.offline.evaluation.journals import as_list, load_dataset
from cascade_agent.offline.evaluation.metrics import auroc, auroc_within, brier, calibration_error, interval
from cascade_agent.offline.evaluation.plain import Plain, plain
from cascade_agent.offline.evaluation.replay import rescored
from cascade_agent.validators import shipped_scorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.scoring import Scorer
    from cascade_agent.journal.format import OnError, PathLike
    from cascade_agent.models.pricing import Price
    from cascade_agent.offline.evaluation.dataset import Evaluator, LabelledStep, OnConflict, SameText
    from cascade_agent.offline.evaluation.estimates import Basis
    from cascade_agent.offline.evaluation.journals import Dataset

ScorerChoice = Literal["auto", "rules", "error", "gain"]
ByKind = Literal["one", "each", "together"]
Finding = Certificate | NoThreshold
Part = tuple[int, float]
"""Seed and share of a split: the episodes whose hash is below the share were learned from."""

MIN_FIT: Final = 50  # labelled drafts below which no scorer is fitted: the rules' order was not beaten with fewer
MAX_FIT: Final = 2000  # beyond, more of them go to the certificate; the ranking hardly gets better
_SPARE = 1.1  # the certificate keeps this many times the episodes that it needs: a split by hash is not exact
_MIN_KIND = 30  # drafts of a kind that has an AUROC of its own
_MAX_WEIGHT = 10.0


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

    With probability `confidence` over the labels, and as long as steps stay like those of the journal, the thresholds
    of the policy bound the risk (`harm` or `selective_error`, see `Claim`) by `max_loss`:

    - `by_kind="one"`: one threshold, over all steps together;
    - `"each"`: a number per kind of step, within each kind that has a certificate, in all of them at once; a kind for
      which nothing could be shown has 1.0, it goes to the large model;
    - `"together"`: the cheapest numbers per kind that bound the risk over all steps together, chosen on the episodes
      that a scorer is fitted on and certified on the others;
    - `Policy.threshold["irreversible"]`, where the policy declares such tools, bounds P(small wrong | accepted) among
      the drafts that call one, with a `confidence` of its own (1.0 where nothing could be shown).

    A loss is counted `per` one drawn step of each episode (steps of one `thread_id`), one drawn `turn` (steps of one
    `run_id`), or the whole `episode`. `policy` holds the settings to start from: its threshold is replaced (numbers set
    by hand for a kind or an effect stay where they are stricter), its scorer is the prior of a fit (one that an earlier
    calibration fitted gives way to the shipped rules, so that no label counts twice). `scorer="rules"` keeps it,
    `error` and `gain` fit one, `auto` takes what ranks harm best on episodes that the fit did not see, of those that
    would hold a threshold there. `evidence_share` is the share of steps to ask the evidence about, where it most likely
    disagrees (see `learn_disagreement`), learned without labels on half of the episodes.

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
    dataset = load_dataset(
        *files,
        evaluator=evaluator,
        same_text=same_text,
        on_conflict=on_conflict,
        side_effects=base.side_effects,
        on_error=on_error,
        dask=dask,
    )
    if not any(step.labelled for step in dataset.steps):
        raise RecordError(_no_labels(files, dataset))
    sample = draw(dataset, base, seed=seed)
    learn, test, part = _split(dataset, sample, claim, scorer, base, learns=by_kind == "together")
    targets = [target for target in get_args(Target) if learn and scorer in ("auto", target)]
    examples = examples_of(learn, sample)
    fits = {target: fit(examples, target=target, prior=prior, seed=seed) for target in targets}
    judged = {"rules": base} | {name: replace(base, scorer=fitted.scorer) for name, fitted in fits.items()}
    chosen = scorer if scorer in fits else _choose(fits, judged, learn, claim)
    units, tally = to_units(test, judged[chosen]), dataset.tally
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
        scorer=judged[chosen].scorer or prior,
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
    if chosen in fits:
        learned: JsonObject = {"kind": "fitted", "target": chosen, "data": result.data, "learned": [list(part)]}
        base = replace(base, scorer=replace(result.scorer, provenance=learned))
    provenance = _provenance(result, entries, claim, prices or {}, now or dt.datetime.now(dt.UTC))
    return replace(result, policy=replace(base, threshold=thresholds_of(entries, base), provenance=provenance))


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


def _choose(fits: Mapping[str, Fit], judged: Mapping[str, Policy], learn: Sequence[LabelledStep], claim: Claim) -> str:
    """Return the candidate that ranks harm best on held-out episodes, among the drafts that a threshold decides on.

    One that holds no threshold on what it was chosen on gives way to those that do: a fit may rank best and still give
    its greatest confidence to so many harmful drafts that nothing is left to certify.
    """
    if not fits:
        return "rules"
    found = ((i, replayed_confidence(step, judged["rules"])) for i, step in enumerate(learn))
    free = {i: p for i, p in found if p is not None}
    harmless, folds = [not learn[i].loss for i in free], next(iter(fits.values())).folds
    ranked = {"rules": [*free.values()]} | {name: [fitted.held_out[i] for i in free] for name, fitted in fits.items()}
    holds = {name for name, policy in judged.items() if claim.test(to_units(learn, policy))}
    within = {name: auroc_within(scores, harmless, [folds[i] for i in free]) for name, scores in ranked.items()}
    return max(ranked, key=lambda name: (name in holds, within[name] or 0.0))


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


def _provenance(
    result: CalibrationResult, entries: Entries, claim: Claim, prices: Mapping[str, Price], now: dt.datetime
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
            for model, price in prices.items()
        },
    }


def draw(dataset: Dataset, policy: Policy, *, seed: int = 0) -> Sample:
    """Return a sample in which every step of the journal had the same chance to be, and whose losses are known.

    Labels come unevenly: an escalated step labels itself, an accepted one only when it was shadowed, or when somebody
    looked. Escalated steps alone say nothing about accepted ones. So all are thinned, by a hash of `seed` and the id,
    to the rate at which accepted steps have labels. A step that no threshold accepts needs no label: it does no harm.
    """
    accepted = [step for step in dataset.steps if step.answered]
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
    drawn = [step for step in dataset.steps if not step.answered and _coin(step, seed) < rate]
    known = [step for step in drawn if step.labelled or replayed_confidence(step, policy) is None]
    steps = sorted([*kept, *known], key=lambda step: step.id)
    return Sample(steps=tuple(steps), basis=basis, rate=rate, unclear=len(drawn) - len(known))


def _chance(step: LabelledStep) -> float:
    """Return with which probability an accepted step came to be labelled: a tool's error is always seen."""
    return 1.0 if step.outcome.propensity is None or _tool_failed(step) else step.outcome.propensity


def _tool_failed(step: LabelledStep) -> bool:
    return any(label.source == "tool_error" for label in step.labels)


def _coin(step: LabelledStep, seed: int) -> float:
    return unit_hash(f"draw\0{seed}\0{step.id}")


def replayed_confidence(step: LabelledStep, policy: Policy) -> float | None:
    """Return the confidence with which the policy would decide a step; None when every threshold escalates it."""
    if not step.drafted:
        return None
    attempt = rescored(policy, step.small, ())
    if policy.threshold != 0.0:  # every confidence reaches it: what still escalates does so under all
        policy = replace(policy, threshold=0.0)
    while True:
        move = decide(policy, (attempt,), evidence=step.small.gathered)
        if move.action != "ask_evidence" or move.evidence is None:
            return attempt.confidence if move.action == "accept" else None
        attempt = rescored(policy, step.small, (*attempt.gathered, move.evidence))


def to_units(steps: Sequence[LabelledStep], policy: Policy) -> list[Unit]:
    """Return labelled steps as units of a certificate for this policy's scorer."""
    costs = [next((a.cost for a in s.trace.attempts if a.tier == "large" and a.cost is not None), None) for s in steps]
    known = [cost for cost in costs if cost]
    mean = math.fsum(known) / len(known) if known else 1.0
    return [
        Unit(
            episode=step.episode,
            step_id=step.id,
            confidence=replayed_confidence(step, policy),
            harm=step.loss,
            wrong=step.outcome.right is False,
            kind=step.trace.kind,
            turn=step.trace.run_id or "",
            price=cost or mean,
        )
        for step, cost in zip(steps, costs, strict=True)
    ]


def examples_of(steps: Sequence[LabelledStep], sample: Sample) -> list[Example]:
    """Return labelled drafts to fit on, each weighed by one over the chance of its label, at most 10."""

    def chance(step: LabelledStep) -> float:
        looked_at = sample.basis == "share" and step.answered and step.outcome.source in LOOKING
        return sample.rate if looked_at else _chance(step)

    return [
        Example(
            verdicts=step.small.verdicts,
            wrong=not step.outcome.right,
            gain=step.loss,
            episode=step.episode,
            weight=min(_MAX_WEIGHT, 1.0 / chance(step)),
        )
        for step in steps
        if step.outcome.right is not None and step.drafted
    ]
