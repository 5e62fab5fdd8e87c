"""Tests of `benchmarks/judge.py` on recordings made up here: halves share no group, and no label leaks into a score."""

import gzip
import json
import sys
from typing import Any

import judge
import pytest

from cascade_agent.validators import shipped_scorer
from tests.recordings import recordings, write_lines

PAIR = ("small", "large")
DEFAULT = judge.Way("default")
WAYS = [DEFAULT, judge.Way("default +second", second=True, band=(0.0, 1.0))]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The benchmark as a program, trained and tested on these folders; what it found."""

    def run(train: Any, test: Any, *options: object) -> Any:
        out = tmp_path / "out.json"
        given = ["judge", "--train", train, "--test", test, "--json", out, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        judge.main()
        return json.loads(out.read_text()) if out.exists() else None

    return run


def confidences(path: Any, way: judge.Way) -> list[float]:
    """The confidence of each draft in the order of the cases."""
    bench = judge.Bench.load(path)
    second = "other" if way.second else None
    return judge.judge(bench, PAIR, list(bench.data.cases), shipped_scorer(), way, second=second).confidence


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_no_feature_looks_at_label_id_kind_or_large(tmp_path, way):
    """Shuffled labels, renamed cases, shuffled kinds of step and other answers of large leave every confidence alone."""
    plain = confidences(recordings(tmp_path / "plain"), way)
    made_up = [number % 4 == 0 for number in range(16)]
    wrong, right = ([c for c, w in zip(plain, made_up, strict=True) if w is made] for made in (True, False))
    assert way.second or max(wrong) < min(right), "a made-up value ranks below a mentioned one"
    for changed in ({"labels": 5}, {"ids": "other"}, {"categories": 7}, {"large": 3}):
        assert confidences(recordings(tmp_path / str(changed), **changed), way) == plain


def test_second_model_is_chosen_without_labels(tmp_path):
    """Shuffled labels leave the choice of the second model as it was; it is of another family and not large."""
    for labels in (0, 5):
        bench = judge.Bench.load(recordings(tmp_path / str(labels), labels=labels))
        assert bench.second(PAIR, [f"case_{k}" for k in range(8)]) == "other"


def test_figures_of_a_comparison():
    """The threshold keeps as much as the allowed loss lets it, what fails goes up; right first is the least risk area."""
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
    assert (threshold, cost) == (0.8, pytest.approx((4 + 20) / 40))
    assert judge.loss_and_cost(found, judge.escalated(found, threshold)) == (0.0, pytest.approx(cost))
    assert judge.risk_area([0.9, 0.8, 0.1], [True, True, False]) == pytest.approx(1 / 9)
    assert judge.risk_area([0.1, 0.2, 0.9], [True, True, False]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_folds_keep_apart(tmp_path):
    """No group stands on both sides; a kind that is left out is examined alone; a fit on its own cases is named."""
    bench = judge.Bench.load(recordings(tmp_path))
    parts, cases = judge.parts_of(bench, bench, None), bench.data.cases
    for learn, exam in parts:
        assert not {cases[n]["group"] for n in learn} & {cases[n]["group"] for n in exam}
    assert sorted(n for _, exam in parts for n in exam) == sorted(cases)
    fit, names = judge.Way("fit all", fitted=True), list(cases)
    assert [judge.in_sample(bench, each, fit) for each in (parts, [(names, names)])] == ["no", "fit"]
    parts = judge.parts_of(bench, bench, "one")
    assert {cases[n]["category"] for learn, _ in parts for n in learn} == {"two"}
    assert sorted(n for _, exam in parts for n in exam) == sorted(n for n in cases if cases[n]["category"] == "one")


def test_whole_run_writes_its_figures(tmp_path, run, capsys):
    """A run over both halves prints its tables and writes figures for every way, finite or unknown."""
    path = recordings(tmp_path / "x")
    report = run(path, path, "--sizes", "4")
    evidence = {"default +second", "default +second wide"}
    fits = {"fit 4", "fit 4 on gain", "fit 4 +second", "fit 4 +second on gain", "fit 4 +second wide"}
    assert set(report["ways"]) == {"schema", "default", *evidence, *fits, "oracle"}
    assert set(report["intervals_90"]["default"]) >= {"auroc", "within", "risk_area", "accuracy", "loss", "cost"}
    low, high = report["intervals_90"]["default"]["auroc"]
    assert 0.0 <= low <= report["ways"]["default"]["small -> large"]["auroc"] <= high <= 1.0
    assert report["ways"]["oracle"]["small -> large"]["loss"] == 0.0
    assert "oracle" in capsys.readouterr().out


def test_json_alone_prints_nothing_else(tmp_path, run, capsys):
    """`--json` without a file prints one object; each kind of step is left out in turn, an unknown one is refused."""
    path = recordings(tmp_path / "x", categories=3)  # both kinds in both halves
    run(path, path, "--sizes", "", "--leave-out", "each", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["cases"] == 16
    assert set(report["ways"]) == {"schema", "default", "default +second", "default +second wide", "oracle"}
    with pytest.raises(SystemExit, match="one, two, or each"):
        run(path, path, "--leave-out", "three")


def test_models_that_training_does_not_know(tmp_path, run):
    """Recordings of other models are judged by what all small models of the training folder taught."""
    train, test = recordings(tmp_path / "a"), recordings(tmp_path / "b", ids="new")
    manifest = json.loads((test / "manifest.json").read_text())
    for model in manifest["models"]:
        (test / "models" / f"{model}.jsonl.gz").rename(test / "models" / f"new-{model}.jsonl.gz")
    manifest["models"] = {f"new-{model}": entry for model, entry in manifest["models"].items()}
    manifest["pairs"] = [{"small": "new-small", "large": "new-large"}]
    (test / "manifest.json").write_text(json.dumps(manifest))
    report = run(train, test, "--sizes", "4")
    assert report["cases"] == 16
    assert report["ways"]["fit 4 +second"]["new-small -> new-large"]["auroc"] is not None


def test_a_log_holds_the_second_answer_only_where_it_was_asked(tmp_path):
    """A fit learns from the agreement inside of the band and nowhere else; gain needs large to be right."""
    bench = judge.Bench.load(recordings(tmp_path / "x", labels=3))
    rules, gathered = shipped_scorer(), []
    likely = [rules.confidence(v) or 0.0 for v in bench.verdicts("default", "small").values()]
    way = judge.Way("fit", second=True, fitted=True, band=(0.0, top := (min(likely) + max(likely)) / 2))
    for name in bench.data.cases:
        found = bench.example("small", name, "large", "other", way)
        own = [v for v in found.verdicts if v.code != "agreement"]
        gathered.append(len(own) < len(found.verdicts))
        assert gathered[-1] is ((rules.confidence(own) or 0.0) <= top)
        assert found.gain is (found.wrong and bench.answers("large")[name]["correct"])
    assert 0 < sum(gathered) < len(gathered)


def reread(path: Any, change: Any) -> None:
    """Write a file of recorded answers anew, each row changed, or left out where None comes back."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [change(json.loads(line)) for line in lines]
    write_lines(path, [row for row in rows if row is not None])


def test_gaps_in_the_recordings(tmp_path, run):
    """A missing case leaves its pair alone, tokens are guessed, and a call that failed escalates and is no draft."""
    path = recordings(tmp_path / "plain")

    def small(row: dict[str, Any]) -> dict[str, Any] | None:
        gap = {k: v for k, v in row.items() if not k.endswith("_tokens")}
        if row["id"] == "case_1":
            return {**gap, "status": "error", "tool_calls": [], "text": None, "correct": False}
        return None if row["id"] == "case_0" else gap

    reread(path / "models" / "small.jsonl.gz", small)
    for model, missing in (("other", "case_2"), ("large", "case_3")):
        reread(path / "models" / f"{model}.jsonl.gz", lambda row, lost=missing: None if row["id"] == lost else row)
    report = run(path, path, "--sizes", "4")
    assert report["gaps"] == {"small -> large": {"missing": 2, "errors": 1}}
    assert report["in_sample"]["default"] == "no", "made-up cases that no rule was developed on"
    bench = judge.Bench.load(path)
    found = judge.judge(bench, PAIR, list(bench.data.cases), shipped_scorer(), DEFAULT)
    at = found.names.index("case_1")
    assert (found.fails[at], found.confidence[at], found.kept[at]) == (True, 0.0, 0.0)
    assert judge.by_rule(found, DEFAULT)[at]
    assert "case_1" not in found.drafts().names
    assert min(kept for i, kept in enumerate(found.kept) if i != at) > 0
