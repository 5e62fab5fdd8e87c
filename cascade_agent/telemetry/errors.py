"""What went wrong while telling: counted, and logged once. Law 4: telemetry never fails a step."""

from __future__ import annotations

from cascade_agent._log import LOG

lost: int = 0
"""How many telemetry calls failed in this process."""


def count(error: BaseException) -> None:
    """Note that something could not be told. The first one of a process is logged, by its class.

    Its message stays out: a `redact` hook that breaks may quote what it was to hide.
    """
    global lost  # noqa: PLW0603 - a process-wide counter, by design
    if lost == 0:
        LOG.warning("telemetry failed and is ignored from here on: %s", type(error).__name__)
    lost += 1
