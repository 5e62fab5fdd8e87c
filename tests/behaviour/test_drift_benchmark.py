"""Tests of `benchmarks/drift.py`: its streams are what it says they are, and it can be run on made-up recordings."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import drift
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def bench() -> Any:
    """The benchmark as a module, with shorter streams."""
    drift.STEPS, drift.CHANGE = 1600, 1100
    return drift


def entry(case: Any) -> dict[str, Any]:
    """What the monitors see of a step without labels."""
    return case.trace.to_json()


def test_streams(bench: Any) -> None:
    """Equal with one seed up to the change; `longest` is the length of the longest conversation."""
    streams = {name: list(bench.stream(bench.generator(name), seed=3, scenario=name)) for name in bench.SCENARIOS}
    for name, cases in streams.items():
        assert cases[:1100] == streams["stationary"][:1100], name
        assert cases[1100:] != streams["stationary"][1100:] or name == "stationary"
    before, after = (bench.describe(streams["silent 30 %"])[i] for i in (2, 3))
    assert after > before + 0.1
    for longest in (1, 8):
        cases = bench.stream(bench.generator("stationary"), seed=1, scenario="stationary", longest=longest)
        threads = [case.trace.thread_id for case in cases]
        assert max(map(threads.count, set(threads))) == longest


def test_only_labels_see_a_silent_change(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows hold what was found: nothing on the stationary stream, no unlabelled monitor on a silent change."""
    out = bench.measure(None, 1, 11, 8)
    rows = {(row["scenario"], row["shadow_rate"]): row for row in json.loads(json.dumps(out))["rows"]}
    assert len(rows) == len(bench.SCENARIOS) * len(bench.SHADOW)
    for rate in bench.SHADOW:
        assert rows["stationary", rate]["early"] == 0
        assert rows["silent 30 %", rate]["unlabelled"]["found"] == 0
    assert rows["silent 30 %", 0.2]["labelled"]["found"] == 1
    bench.show(bench.Console(width=150), out)
    assert "silent 30 %" in capsys.readouterr().out


def test_it_runs_on_recordings(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded answers are judged, and a stream is drawn from them for every pair."""
    monkeypatch.setattr(bench, "STEPS", 300)
    monkeypatch.setattr(bench, "CHANGE", 200)
    (tmp_path / "models").mkdir()
    show = {
        "type": "function",
        "function": {
            "name": "show_weather",
            "description": "Show the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    cases, answers = [], {"small": [], "large": [], "tiny": []}
    for index, city in enumerate(["Rome", "Oslo", "Bern", "Turin", "Porto", "Lima", "Cairo", "Kyiv"]):
        text = f"Show the weather of {city}"
        messages = [{"role": "user", "content": text}]
        cases.append({"id": f"c{index}", "category": "ab"[index % 2], "messages": messages, "tools": [show]})
        for model, rows in answers.items():
            right = model == "large" or index % (2 if model == "tiny" else 4) > 0
            call = {"name": "show_weather", "args": {"city": city if right else "Atlantis"}}
            rows.append({"id": f"c{index}", "tool_calls": [call], "text": "", "correct": right, "status": "calls",
                         "input_tokens": 9, "output_tokens": 9})  # fmt: skip
    manifest = {
        "core_categories": ["a", "b"],
        "models": {},
        "pairs": [{"small": "small", "large": "large"}, {"small": "tiny", "large": "large"}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for name, rows in {"cases": cases, **{f"models/{model}": rows for model, rows in answers.items()}}.items():
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    out = bench.measure(tmp_path, 2, 0, 8)
    assert out["data"] == "recorded"
    stationary = out["rows"][0]
    assert stationary["streams"] == 2
    assert 0.0 < stationary["escalated"] < 1.0
