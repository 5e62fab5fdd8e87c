"""A journal whose writers are killed all the time, by the benchmark that does so for a minute."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.journal_kills import failed, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="locks and signals of Linux")
def test_four_processes_of_three_threads_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    """Each line parses by itself, nothing that was written is lost, nothing stands twice; rotated and compressed."""
    found = run(tmp_path, seconds=8, max_bytes=200_000)
    assert not failed(found), found
    assert found["kills"] >= 8
    assert found["files"] > 2
    assert found["records"] >= found["noted"] > 300
