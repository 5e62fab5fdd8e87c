"""`cascade-agent calibrate`: a labelled journal to a policy file with certified thresholds, or to what is missing.

A file is written only where something could be certified, and never in the place of one that promises more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from cascade_agent.cli import _app as ui
from cascade_agent.cli._app import Journals, JsonFlag, SkipBad, clear_errors
from cascade_agent.cli._tree import label_text
from cascade_agent.cli.replay import saving_line
from cascade_agent.core.policy import Policy
from cascade_agent.errors import RecordError
from cascade_agent.journal.writer import Journal
from cascade_agent.offline import calibration
from cascade_agent.offline.calibration import Certificate, load_policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.journal.format import OnError
    from cascade_agent.offline.calibration import CalibrationResult, NoThreshold


Per = Literal["step", "turn", "episode"]
_Scorer = Literal["auto", "rules", "error", "gain"]

_BASIS = {
    "all_escalated": "every step was also answered by the large model, so all of them count",
    "propensity": "steps that small answered were shadowed at random; the others are thinned to the same share",
    "share": "steps that small answered were looked at by people or an evaluator, taken to be a random choice of them",
    "none": "no step that small answered has a label that may stand for the others",
}
_SHOWN = 20
_ALIKE = 0.0005


@clear_errors()
def calibrate(
    journals: Journals,
    *,
    max_loss: Annotated[
        float | None,
        typer.Option(help="The greatest share of steps that accepting small's drafts may harm, such as 0.01."),
    ] = None,
    evidence_share: Annotated[
        float | None,
        typer.Option(
            help="Share of the steps to ask the second model about, where it most likely disagrees: learned without "
            "labels from steps where both answered. Alone, or with --max-loss."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Probability with which that holds.")] = 0.9,
    out: Annotated[Path | None, typer.Option(help="Policy file to write. Without it nothing is written.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="More files with labels of these steps; may be repeated.", metavar="FILE")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file to start from: its settings stay, its scorer is the prior.")
    ] = None,
    scorer: Annotated[
        _Scorer,
        typer.Option(
            help="rules: keep the policy's scorer. error, gain: fit one on 'small is wrong' or on 'escalating gains'. "
            "auto: whichever ranks harm best on held-out episodes."
        ),
    ] = "auto",
    by_kind: Annotated[
        bool, typer.Option("--by-kind", help="A threshold for each kind of step, each certified for itself.")
    ] = False,
    together: Annotated[
        bool, typer.Option("--together", help="A threshold for each kind, the cheapest ones certified over all steps.")
    ] = False,
    per: Annotated[
        Per,
        typer.Option(help="step: share of steps. turn, episode: of turns (runs), of episodes (threads) with any harm."),
    ] = "step",
    seed: Annotated[int, typer.Option(help="Of all draws and splits.")] = 0,
    skip_bad: SkipBad = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file at --out even where it promises more or is no policy.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the threshold from which small's drafts may be accepted, with a guarantee, and write a policy file.

    Exit code 1: no threshold holds with these labels. It says how many are missing, and --out is left as it was.
    """
    if by_kind and together:
        ui.fail("--by-kind and --together are two claims; give one of them")
    if max_loss is None and evidence_share is None:
        ui.fail("give --max-loss, --evidence-share, or both")
    mode: OnError = "skip" if skip_bad else "strict"
    result = new = None
    with ui.reading_progress():
        paths = [part for name in (*journals, *(labels or ())) for part in _parts(name)]
        base = None if policy is None else load_policy(policy)
        claim: JsonObject = {"target": max_loss, "confidence": confidence, "per": per, "by_kind": by_kind}
        replaced = _replaced(out, base, claim | {"evidence_share": evidence_share}, force=force)
        if max_loss is not None:
            result = calibration.calibrate(
                paths,
                max_loss=max_loss,
                confidence=confidence,
                policy=base,
                scorer=scorer,
                per=per,
                by_kind="together" if together else "each" if by_kind else "one",
                evidence_share=evidence_share,
                on_error=mode,
                seed=seed,
            )
            new = result.policy
        elif evidence_share is not None:
            evidence = calibration.learn_disagreement(*paths, share=evidence_share, seed=seed, on_error=mode)
            new = replace(base or Policy(), evidence=evidence)
        if new is not None and out is not None:
            calibration.write_policy(new, out)
    if as_json:
        found = {} if result is None else result.to_json()
        written = None if out is None or new is None else str(out)
        ui.print_json(found | {"policy": None if new is None else new.to_json(), "out": written})
    elif result is None:
        for line in (*_evidence_lines(new), _file_line(new, out, "")):
            ui.say(line)
    else:
        _show(result, by_kind=by_kind or together)
        ui.say(_file_line(new, out, _mark(result.data, replaced)))
    if new is None:
        raise typer.Exit(1)


def _show(result: CalibrationResult, *, by_kind: bool) -> None:
    """Print what was found, and how well each scorer did."""
    found = _findings(result, by_kind=by_kind)
    for line in (saving_line(result.saving), *found, *_evidence_lines(result.policy), "", *_labels(result)):
        ui.say(line)
    if any(quality.n for quality in result.quality.values()):
        ui.say()
        _print_quality(result)
        ui.say(_choice(result))


def _parts(name: str) -> list[str]:
    """Return the files of a journal, a plain one with its rotated parts; patterns stay as they are."""
    return [str(part) for part in Journal(name).files()] if Path(name).is_file() else [name]


def _evidence_lines(policy: Policy | None) -> Iterable[str]:
    """Yield the share of the steps that a policy asks the evidence about, if it has one."""
    share = getattr(policy and policy.evidence, "share", None)
    if share is not None:
        yield f"Evidence: asked about {share:.1%} of the steps, those in which the second model most likely disagrees."


def _replaced(out: Path | None, base: Policy | None, claim: JsonMapping, *, force: bool) -> Policy | None:
    """Return the policy that stands there, if it may be replaced; leave with 2 if it may not."""
    if out is None:
        return None
    if out.is_dir() or not out.absolute().parent.is_dir():
        ui.fail(f"--out {out}: give a file in a directory that exists")
    if not out.exists():
        return None
    try:
        old = load_policy(out)
    except RecordError as error:
        if force:
            return None
        ui.fail(f"--out {out} exists and is no policy file; give another name, or --force ({error})")
    objections = [*_objections(old, base or Policy(), claim)]
    if objections and not force:
        ui.fail(f"--out {out} is left as it is: {'; '.join(objections)}. Give another name, or --force")
    return old


def _objections(old: Policy, base: Policy, claim: JsonMapping) -> Iterable[str]:
    """Yield the settings of an old policy that the one in its place would not have, and what it promises more."""
    new, before = base.to_json(), old.to_json()
    learned = ("threshold", "scorer") if claim["target"] is not None else ()
    measured = {"provenance", *learned, "evidence" if claim["evidence_share"] is not None else ""}
    lost = [key for key in before if key not in measured and before[key] != new[key]]
    if lost:
        yield f"it has other settings ({', '.join(lost)}), start from them with --policy"
    was = old.provenance
    if claim["target"] is None:
        return
    if was.get("kind") != "calibrated":
        if old.threshold is not None:
            yield "its thresholds were set by hand"
        return
    target, confidence = was.get("target"), was.get("confidence")
    if isinstance(target, int | float) and claim["target"] > target:
        yield f"it bounds the loss by {target:g}, the new one would by {claim['target']:g}"
    if isinstance(confidence, int | float) and claim["confidence"] < confidence:
        yield f"it holds with probability {confidence:g}, the new one would with {claim['confidence']:g}"
    if was.get("risk", "harm") != "harm":
        yield f"it bounds another risk ({was['risk']})"
    units = get_args(Per)
    if was.get("per") in units and units.index(was["per"]) > units.index(claim["per"]):
        yield f"it holds per {was['per']}, the new one would per {claim['per']}"
    if str(was.get("scope", "")).startswith("each kind") and not claim["by_kind"]:
        yield "it holds within each kind of step, the new one would over all together (--by-kind keeps that)"


def _findings(result: CalibrationResult, *, by_kind: bool) -> Iterable[str]:
    """Yield the thresholds and what is promised of them, or what is missing."""
    certificate, policy = result.certificate, result.policy
    kinds = [(kind or "other kinds", _short(found)) for kind, found in result.by_kind.items()]
    if policy is None:
        if not by_kind:
            yield _short(certificate).replace("no", "No", 1)
            return
        yield "No threshold holds for any kind of step, or not every other kind could be kept from being accepted."
        yield from (f"  {kind}: {found}" for kind, found in kinds)
        yield f"  all together: {_short(certificate)}"
        return
    entries = policy.provenance["thresholds"]
    promise = (
        f"accepted drafts that are wrong where large is right are at most {certificate.max_loss:.3g} of the "
        f"{certificate.per}s, with probability {certificate.confidence:g}."
    )
    if isinstance(certificate, Certificate) and "" in entries:
        yield (
            f"Threshold {certificate.threshold:.4g}: {promise} Seen: {certificate.losses} in {certificate.n} episodes, "
            f"upper bound {certificate.upper:.4f}; {certificate.escalated:.1%} of the steps escalate."
        )
        if len(kinds) > 1:
            yield from (f"  {kind} alone: {found}" for kind, found in kinds)
    else:
        yield from _kinds(result, entries, promise)
    if result.irreversible is not None:
        yield f"  drafts that call an irreversible tool, P(wrong | accepted): {_short(result.irreversible)}"
    own = {k: v for k, v in policy.thresholds.items() if entries.get(k, {}).get("claim") != "unseen"}
    numbers = "".join(f", {key} {_threshold(value)}" for key, value in own.items())
    yield f"Policy: threshold {_threshold(policy.base_threshold)}{numbers}."


def _kinds(result: CalibrationResult, entries: JsonMapping, promise: str) -> Iterable[str]:
    together = any(entry["claim"] == "together" for entry in entries.values())
    scope = "Over all steps" if together else "Within each of them, and in all at once,"
    yield f"One threshold for each kind of step. {scope} {promise}"
    unseen = []
    for kind, entry in entries.items():
        if entry["claim"] == "together":
            yield f"  {kind}: threshold {entry['threshold']:.4g}"
        elif entry["claim"] == "unseen":
            unseen.append(kind)
        elif kind != "irreversible":
            rest = entry["claim"] == "rest"
            found = result.by_kind.get("" if rest else kind)
            text = "no such step in the journal" if found is None else _short(found)
            yield f"  {kind}{' (with the other kinds that have few labels)' if rest else ''}: {text}"
    if unseen:
        yield f"  no such step in the journal, all go to large: {', '.join(unseen)}"


def _threshold(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" + (" (goes to the large model)" if value >= 1.0 else "")


def _labels(result: CalibrationResult) -> Iterable[str]:
    dataset, sample = result.dataset, result.sample
    sources = ", ".join(f"{n} {source}" for source, n in dataset.by_source.items())
    labelled = sum(step.labelled for step in dataset.steps)
    yield f"{dataset.total} steps, {dataset.answered} answered by small. {labelled} have a label: {sources}."
    more = [
        (dataset.undecided, "answered by small have labels that say neither right nor wrong"),
        (len(dataset.orphans), "labels belong to steps that are not in these journals"),
        (dataset.unasked, "steps did not ask small (stay_on_large, skipping, a ceiling) and are left out"),
        (dataset.repeated, "steps came a second time and were counted once"),
    ]
    yield from (f"{n} {what}." for n, what in more if n)
    yield f"Sample: {len(sample.steps)} steps; {_BASIS[sample.basis]}."
    if sample.unclear:
        yield f"{sample.unclear} steps of it could not be judged (prose on both sides) and were left out."
    conflicts = dataset.conflicts
    if conflicts:
        yield f"{len(conflicts)} steps have labels that contradict each other:"
    for case in conflicts[:_SHOWN]:
        counted = "none counts" if case.outcome.source is None else f"{case.outcome.source} counts"
        yield f"  {case.id}: {', '.join(label_text(label) for label in case.labels)} ({counted})"
    if len(conflicts) > _SHOWN:
        yield f"  ... and {len(conflicts) - _SHOWN} more, all of them in --json"


def _print_quality(result: CalibrationResult) -> None:
    kinds = sorted({kind for quality in result.quality.values() for kind in quality.by_kind})
    names = ("scorer", "drafts", "AUROC: wrong", "95 %", "AUROC: harm", "calibration error")
    rows = [
        [
            name,
            str(quality.n),
            _number(quality.auroc),
            "" if quality.auroc_interval is None else "{:.3f} to {:.3f}".format(*quality.auroc_interval),
            *map(_number, (quality.auroc_gain, quality.calibration_error, *map(quality.by_kind.get, kinds))),
        ]
        for name, quality in result.quality.items()
    ]
    ui.print_table("on episodes that no scorer was fitted on", [*names, *(f"AUROC: {kind}" for kind in kinds)], rows)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _choice(result: CalibrationResult) -> str:
    fits, quality = result.fits, result.quality
    if not fits:
        return "Scorer: that of the policy (the shipped rules, unless --policy has another); nothing was fitted."
    n = next(iter(fits.values())).n
    text = f"Scorer: {result.chosen}. Fitted on {n} labels of other episodes"
    if len(fits) == 1:
        return f"{text}."
    text += "; the choice was made on held-out folds of these."
    gain, error = quality["gain"].auroc_gain, quality["error"].auroc_gain
    if gain is None or error is None:
        return text
    if abs(gain - error) < _ALIKE:
        return f"{text} Fitting on gain and on error ranked harm alike on the episodes of the table."
    better = "gain" if gain > error else "error"
    return f"{text} On the episodes of the table the fit on {better} ranked harm better."


def _short(found: Certificate | NoThreshold) -> str:
    if isinstance(found, Certificate):
        return (
            f"threshold {found.threshold:.4g}, {found.losses} losses in {found.n} episodes, upper bound "
            f"{found.upper:.4f} at {found.confidence:.3g}, {found.escalated:.1%} escalate"
        )
    power = f" About {found.missing_for_power} give a test 80 % power at half the target."
    known = "missing" in found.reason or not found.missing
    return f"no threshold holds: {found.reason}.{'' if known else power}"


def _file_line(new: Policy | None, out: Path | None, mark: str) -> str:
    if out is None:
        return "Nothing was written" + ("." if new is None else "; give --out to keep the policy.")
    if new is None:
        return f"{out} is left as it was." if out.exists() else f"{out} was not written."
    return f"Wrote {out}{mark}."


def _mark(data: str, old: Policy | None) -> str:
    """Return the mark of the labels, and what the file had before."""
    text = f" (data {data[:12]})"
    if old is None:
        return text
    date, n = old.provenance.get("date"), (old.provenance.get("certificate") or {}).get("n")
    threshold = "no threshold" if old.base_threshold is None else f"threshold {old.base_threshold:.4g}"
    of = (f" of {date}" if date else "") + (f" on {n} episodes" if n else "")
    return f"{text}, in the place of one with {threshold}{of}"
