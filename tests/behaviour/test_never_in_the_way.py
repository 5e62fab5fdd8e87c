"""Whatever breaks around a step (exporter, processor, handler, disk, log): its answer is the same, the loss is counted."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from benchmarks.never_in_the_way import PEERS, WAYS, Worker, collector
from cascade_agent._log import LOG

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("never_in_the_way")]  # a process for each way to break
STEPS = 12
JOURNAL_LOST = {"journal: disk full", "journal: read-only directory", "journal: no directory"}
TELEMETRY_BROKEN = {"spans: processor raises at start", "spans: processor raises at end"}


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """Output of a process of each way after its steps."""

    def ask(way: str) -> dict[str, Any]:
        worker = Worker(way, address)
        try:
            return worker.steps(STEPS)
        finally:
            worker.quit()

    with collector() as address, ThreadPoolExecutor(2) as pool:
        return dict(zip(WAYS, pool.map(ask, WAYS), strict=True))


@pytest.mark.parametrize("way", PEERS)
def test_the_answers_are_those_of_the_way_that_is_well(measured, way):
    """Text, outcome, reason and cost of every step, whatever is broken."""
    answers = measured[way]["answers"]
    assert len(answers) == STEPS
    assert answers == measured[PEERS[way]]["answers"]
    assert {outcome for _, outcome, _, _ in answers} >= {"escalated"}


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_counted_and_logged_once(measured, way):
    """A journal that cannot be written counts each record, telemetry each call that failed; one line of log tells it."""
    row = measured[way]
    if way == "journal: disk fills up":
        assert 0 < row["journal_lost"] < STEPS
    else:
        assert row["journal_lost"] == STEPS * (way in JOURNAL_LOST)
    assert (row["telemetry_lost"] > 0) == (way in TELEMETRY_BROKEN)
    speaks = row["journal_lost"] or row["telemetry_lost"] or way.startswith("log: ")
    assert len(row["logged"]) == (1 if speaks else 0), row["logged"]


def test_what_a_log_handler_raises_stays_with_it():
    """A line of log never fails a step; it tells the place that logged, and other handlers get it first or never."""
    kept: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def __init__(self, emit: Any) -> None:
            super().__init__()
            self.emit = emit  # type: ignore[method-assign]

    def breaks(record: logging.LogRecord) -> None:
        raise OSError(record.getMessage())

    logger, handlers = logging.getLogger("cascade_agent"), [Handler(kept.append), Handler(breaks)]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        LOG.warning("a %s line", "harmless")
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
    assert [(record.getMessage(), record.funcName, record.name) for record in kept] == [
        ("a harmless line", "test_what_a_log_handler_raises_stays_with_it", "cascade_agent")
    ]
