"""Tests of `benchmarks/drift.py`: its streams are what it says they are, and it can be run on made-up recordings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import drift
import pytest

from tests.builders import RUN
from tests.recordings import recordings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def bench() -> Any:
    """The benchmark as a module, with shorter streams."""
    drift.STEPS, drift.CHANGE = 1600, 1100
    return drift


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


def test_only_labels_see_a_silent_change(
    bench: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows hold what was found: nothing on the stationary stream, no unlabelled monitor on a silent change."""
    if not RUN["slow"]:
        monkeypatch.setattr(bench, "SCENARIOS", ("stationary", "silent 30 %"))
        monkeypatch.setattr(bench, "SHADOW", (0.2,))
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
    for name, value in {"STEPS": 300, "CHANGE": 200, "SCENARIOS": ("stationary", "swap"), "SHADOW": (0.2,)}.items():
        monkeypatch.setattr(bench, name, value)
    out = bench.measure(recordings(tmp_path, labels=None), 2, 0, 8)
    assert out["data"] == "recorded"
    assert [row["streams"] for row in out["rows"]] == [2, 2]
    assert 0.0 < out["rows"][0]["escalated"] < 1.0
