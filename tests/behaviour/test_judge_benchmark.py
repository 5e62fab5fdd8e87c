"""Tests of `benchmarks/judge.py` on recordings made up here: halves share no group, and no label leaks into a score."""

from __future__ import annotations

import gzip
import json
import sys
from typing import TYPE_CHECKING, Any

import judge
import pytest

from cascade_agent.validators import shipped_scorer
from tests.recordings import recordings, write_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The benchmark as a program."""

    def run(*options: object) -> None:
        monkeypatch.setattr(sys, "argv", ["judge", *map(str, options)])
        judge.main()

    return run


def confidences(path: Path, way: judge.Way) -> list[float]:
    """The confidence of each draft in the order of the cases."""
    bench = judge.Bench.load(path)
    names = list(bench.data.cases)
    second = "other" if way.second else None
    return judge.judge(bench, ("small", "large"), names, shipped_scorer(), way, second=second).confidence


WAYS = [judge.Way("default"), judge.Way("default +second", second=True, band=(0.0, 1.0))]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
@pytest.mark.parametrize("changed", [{"labels": 5}, {"ids": "other"}, {"categories": 7}, {"large": 3}])
def test_no_feature_looks_at_label_id_kind_or_large(tmp_path: Path, changed: dict[str, Any], way: judge.Way) -> None:
    """Shuffled labels, renamed cases, shuffled kinds of step and other answers of large leave every confidence alone."""
    plain = confidences(recordings(tmp_path / "plain"), way)
    assert len(set(plain)) > 1
    assert confidences(recordings(tmp_path / "changed", **changed), way) == plain


def test_second_model_is_chosen_without_labels(tmp_path: Path) -> None:
    """Shuffled labels leave the choice of the second model as it was; it is of another family and not large."""
    found = {
        judge.Bench.load(path).second(("small", "large"), [f"case_{k}" for k in range(8)])
        for path in (recordings(tmp_path / "a"), recordings(tmp_path / "b", labels=5))
    }
    assert found == {"other"}


def test_operating_point_loses_no_more_than_a_point() -> None:
    """The threshold keeps as much as the allowed loss lets it, and what fails goes up in any case."""
    found = judge.Judged(
        names=list("abcd"),
        confidence=[0.9, 0.8, 0.7, 0.95],
        fails=[False, False, False, True],
        asked=[False] * 4,
        right=[True, True, False, False],
        large=[True] * 4,
        kept=[1.0] * 4,
        price=[10.0] * 4,
    )
    threshold, cost = judge.operating_point(found)
    assert threshold == 0.8
    assert cost == pytest.approx((4 + 20) / 40)
    loss, again = judge.loss_and_cost(found, judge.escalated(found, threshold))
    assert loss == 0.0
    assert again == pytest.approx(cost)


def test_orders_and_kinds(tmp_path: Path, run: Run) -> None:
    """A made-up value ranks below a mentioned one; right first is the least risk area; an unknown kind is named."""
    found = confidences(recordings(tmp_path / "x"), WAYS[0])
    assert max(found[k] for k in range(16) if k % 4 == 0) < min(found[k] for k in range(16) if k % 4)
    good = judge.risk_area([0.9, 0.8, 0.1], [True, True, False])
    bad = judge.risk_area([0.1, 0.2, 0.9], [True, True, False])
    assert good == pytest.approx(1 / 9)
    assert bad == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    path = recordings(tmp_path / "y")
    with pytest.raises(SystemExit, match="one, two, or each"):
        run("--train", path, "--test", path, "--leave-out", "three")


def test_folds_keep_apart(tmp_path: Path) -> None:
    """No group stands on both sides; a kind that is left out is examined alone and never trained on."""
    bench = judge.Bench.load(recordings(tmp_path / "x"))
    parts = judge.parts_of(bench, bench, None)
    group = {name: case["group"] for name, case in bench.data.cases.items()}
    for learn, exam in parts:
        assert not {group[n] for n in learn} & {group[n] for n in exam}
    assert sorted(n for _, exam in parts for n in exam) == sorted(group)
    bench = judge.Bench.load(recordings(tmp_path / "y"))
    kinds = {name: case["category"] for name, case in bench.data.cases.items()}
    parts = judge.parts_of(bench, bench, "one")
    assert {kinds[n] for learn, _ in parts for n in learn} == {"two"}
    assert sorted(n for _, exam in parts for n in exam) == sorted(n for n, kind in kinds.items() if kind == "one")


def test_whole_run_writes_its_figures(tmp_path: Path, run: Run) -> None:
    """A run over both halves prints its tables and writes figures for every way, finite or unknown."""
    path, out = recordings(tmp_path / "x"), tmp_path / "out.json"
    run("--train", path, "--test", path, "--sizes", "4", "--json", out)
    report = json.loads(out.read_text())
    evidence = {"default +second", "default +second wide"}
    fits = {"fit 4", "fit 4 on gain", "fit 4 +second", "fit 4 +second on gain", "fit 4 +second wide"}
    assert set(report["ways"]) == {"schema", "default", *evidence, *fits, "oracle"}
    assert set(report["intervals_90"]["default"]) >= {"auroc", "within", "risk_area", "accuracy", "loss", "cost"}
    low, high = report["intervals_90"]["default"]["auroc"]
    assert 0.0 <= low <= high <= 1.0
    assert report["ways"]["oracle"]["small -> large"]["loss"] == 0.0
    assert 0.0 <= report["ways"]["default"]["small -> large"]["auroc"] <= 1.0


def test_models_that_training_does_not_know(tmp_path: Path, run: Run) -> None:
    """Recordings of other models are judged by what all small models of the training folder taught."""
    train, test, out = recordings(tmp_path / "a"), recordings(tmp_path / "b", ids="new"), tmp_path / "out.json"
    manifest = json.loads((test / "manifest.json").read_text())
    for model in ("small", "large", "other"):
        (test / "models" / f"{model}.jsonl.gz").rename(test / "models" / f"new-{model}.jsonl.gz")
    manifest["models"] = {f"new-{model}": entry for model, entry in manifest["models"].items()}
    manifest["pairs"] = [{"small": "new-small", "large": "new-large"}]
    (test / "manifest.json").write_text(json.dumps(manifest))
    run("--train", train, "--test", test, "--sizes", "4", "--json", out)
    report = json.loads(out.read_text())
    assert report["cases"] == 16
    assert report["ways"]["fit 4 +second"]["new-small -> new-large"]["auroc"] is not None


def test_json_alone_prints_nothing_else(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` without a file prints the figures as one object; each kind of step can be left out in turn."""
    path = recordings(tmp_path / "x", categories=3)  # both kinds in both halves
    run("--train", path, "--test", path, "--sizes", "", "--leave-out", "each", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["cases"] == 16
    assert set(report["ways"]) == {"schema", "default", "default +second", "default +second wide", "oracle"}


def test_a_log_holds_the_second_answer_only_where_it_was_asked(tmp_path: Path) -> None:
    """What a fit learns from has the agreement inside of the band and nowhere else; gain needs large to be right."""
    bench = judge.Bench.load(recordings(tmp_path / "x", labels=3))
    rules = shipped_scorer()
    asked = []
    likely = [rules.confidence(v) or 0.0 for v in bench.verdicts("default", "small").values()]
    top = (min(likely) + max(likely)) / 2
    for name in bench.data.cases:
        way = judge.Way("fit", second=True, fitted=True, band=(0.0, top))
        found = bench.example("small", name, "large", "other", way)
        gathered = any(v.code == "agreement" for v in found.verdicts)
        assert gathered is ((rules.confidence([v for v in found.verdicts if v.code != "agreement"]) or 0.0) <= top)
        assert found.gain is (found.wrong and bench.answers("large")[name]["correct"])
        asked.append(gathered)
    assert 0 < sum(asked) < len(asked)


def reread(path: Path, change: Any) -> None:
    """Write a file of recorded answers anew, each row changed, or left out where None comes back."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [change(json.loads(line)) for line in lines]
    write_lines(path, [row for row in rows if row is not None])


def test_gaps_in_the_recordings(tmp_path: Path, run: Run) -> None:
    """A missing case leaves its pair alone, tokens are guessed, and a call that failed escalates and is no draft."""
    path = recordings(tmp_path / "plain")

    def small(row: dict[str, Any]) -> dict[str, Any] | None:
        gap = {k: v for k, v in row.items() if not k.endswith("_tokens")}
        if row["id"] == "case_1":
            return {**gap, "status": "error", "tool_calls": [], "text": None, "correct": False}
        return None if row["id"] == "case_0" else gap

    reread(path / "models" / "small.jsonl.gz", small)
    reread(path / "models" / "other.jsonl.gz", lambda row: None if row["id"] == "case_2" else row)
    reread(path / "models" / "large.jsonl.gz", lambda row: None if row["id"] == "case_3" else row)
    out = tmp_path / "out.json"
    run("--train", path, "--test", path, "--sizes", "4", "--json", out)
    report = json.loads(out.read_text())
    assert report["gaps"] == {"small -> large": {"missing": 2, "errors": 1}}
    assert report["in_sample"]["default"] == "no", "made-up cases that no rule was developed on"
    bench = judge.Bench.load(path)
    found = judge.judge(bench, ("small", "large"), list(bench.data.cases), shipped_scorer(), judge.Way("default"))
    at = found.names.index("case_1")
    assert (found.fails[at], found.confidence[at], found.kept[at]) == (True, 0.0, 0.0)
    assert judge.by_rule(found, judge.Way("default"))[at]
    assert "case_1" not in found.drafts().names
    assert min(kept for i, kept in enumerate(found.kept) if i != at) > 0


def test_fits_that_saw_their_cases_are_named(tmp_path: Path) -> None:
    """A fit is in-sample where the same cases stand on both sides."""
    bench = judge.Bench.load(recordings(tmp_path / "plain"))
    names = list(bench.data.cases)
    fit = judge.Way("fit all", fitted=True)
    assert judge.in_sample(bench, [(names, names)], fit) == "fit"
    assert judge.in_sample(bench, judge.parts_of(bench, bench, None), fit) == "no"
