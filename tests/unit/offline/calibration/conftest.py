"""Fixtures of the tests of calibration."""

import pytest

from cascade_agent.journal.writer import Journal


@pytest.fixture
def journal(tmp_path):
    """An empty journal."""
    with Journal(tmp_path / "j.jsonl") as journal:
        yield journal
