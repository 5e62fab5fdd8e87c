"""Tests of `benchmarks/judge.py` on recordings made up here: halves share no group, and no label leaks into a score."""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import judge

from cascade_agent import Scorer

CITIES = ("Rome", "Oslo", "Bern", "Turin", "Porto", "Lima", "Cairo", "Kyiv")
SHOW = {
    "type": "function",
    "function": {
        "name": "show_weather",
        "description": "Show the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as compressed JSON lines."""
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def folder(path: Path, *, labels: int = 0, ids: str = "case", categories: int = 0) -> Path:
    """Sixteen cases and two models; the numbers shuffle the labels and the kinds of step, `ids` renames the cases."""
    (path / "models").mkdir(parents=True)
    numbers = range(len(CITIES) * 2)
    right = [k % 3 != 0 for k in numbers]
    kinds = ["one" if k % 2 else "two" for k in numbers]
    random.Random(labels).shuffle(right)
    random.Random(categories).shuffle(kinds)
    names = [f"{ids}_{k}" for k in numbers]
    text = [f"Show the weather of {CITIES[k % len(CITIES)]}, version {k}" for k in numbers]
    cases = [
        {"id": n, "category": c, "group": f"g{k // 2}", "messages": [{"role": "user", "content": t}], "tools": [SHOW]}
        for k, (n, c, t) in enumerate(zip(names, kinds, text, strict=True))
    ]
    write(path / "cases.jsonl.gz", cases)
    write(path / "truth.jsonl.gz", [{"id": n, "core": True} for n in names])
    entry = {"usd_per_1m_in": 1.0, "usd_per_1m_out": 1.0, "price_source": "list"}
    manifest = {
        "core_categories": ["one", "two"],
        "models": {"small": {**entry, "family": "a"}, "large": {**entry, "family": "b"}},
        "pairs": [{"small": "small", "large": "large"}],
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    for model in ("small", "large"):
        rows = []
        for k, n in enumerate(names):
            city = CITIES[k % len(CITIES)] if k % 4 or model == "large" else "Atlantis"
            call = {"name": "show_weather", "args": {"city": city}}
            row = {
                "id": n,
                "status": "calls",
                "tool_calls": [call],
                "text": "",
                "correct": right[k] or model == "large",
            }
            rows.append({**row, "input_tokens": 100, "output_tokens": 10})
        write(path / "models" / f"{model}.jsonl.gz", rows)
    return path


def confidences(path: Path) -> list[float]:
    """The confidence of each draft in the order of the cases."""
    bench = judge.Bench.load(path)
    return judge.judge(bench, "small", list(bench.data.cases), Scorer.rules(), judge.Way("default")).confidence


@pytest.mark.parametrize("changed", [{"labels": 5}, {"ids": "other"}, {"categories": 7}])
def test_no_feature_looks_at_label_id_or_kind(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Shuffled labels, renamed cases and shuffled kinds of step leave every confidence as it was."""
    plain = confidences(folder(tmp_path / "plain"))
    assert len(set(plain)) > 1
    assert confidences(folder(tmp_path / "changed", **changed)) == plain


def test_made_up_value_ranks_below_a_mentioned_one(tmp_path: Path) -> None:
    """The drafts with the city that nobody named have the least confidence."""
    found = confidences(folder(tmp_path / "x"))
    assert max(found[k] for k in range(16) if k % 4 == 0) < min(found[k] for k in range(16) if k % 4)


def test_no_group_stands_on_both_sides(tmp_path: Path) -> None:
    """Training and test cases of one folder share no group, and every case is examined once."""
    bench = judge.Bench.load(folder(tmp_path / "x"))
    parts = judge.parts_of(bench, bench, None)
    group = {name: case["group"] for name, case in bench.data.cases.items()}
    for learn, exam in parts:
        assert not {group[n] for n in learn} & {group[n] for n in exam}
    assert sorted(n for _, exam in parts for n in exam) == sorted(group)


def test_left_out_kind_is_never_trained_on(tmp_path: Path) -> None:
    """With a kind of step left out, only that kind is examined and only the others are learned from."""
    bench = judge.Bench.load(folder(tmp_path / "x"))
    kinds = {name: case["category"] for name, case in bench.data.cases.items()}
    parts = judge.parts_of(bench, bench, "one")
    assert {kinds[n] for learn, _ in parts for n in learn} == {"two"}
    assert sorted(n for _, exam in parts for n in exam) == sorted(n for n, kind in kinds.items() if kind == "one")


def test_whole_run_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over both halves prints its tables and writes figures for every way, finite or unknown."""
    path, out = folder(tmp_path / "x"), tmp_path / "out.json"
    monkeypatch.setattr(
        sys, "argv", ["judge", "--train", str(path), "--test", str(path), "--sizes", "4", "--json", str(out)]
    )
    judge.main()
    report = json.loads(out.read_text())
    assert set(report["ways"]) == {"schema", "default", "default +second", "fit 4", "fit 4 +second", "oracle"}
    assert report["ways"]["oracle"]["small -> large"]["loss"] == 0.0
    assert 0.0 <= report["ways"]["default"]["small -> large"]["auroc"] <= 1.0


def test_risk_area_of_perfect_and_of_reversed_order() -> None:
    """Right drafts first is the least area, wrong ones first the greatest."""
    good = judge.risk_area([0.9, 0.8, 0.1], [True, True, False])
    bad = judge.risk_area([0.1, 0.2, 0.9], [True, True, False])
    assert good == pytest.approx(1 / 9)
    assert bad == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
