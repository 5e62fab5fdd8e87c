"""Errors of telemetry itself: counted and logged once, never raised into a step."""

from __future__ import annotations

from contextlib import AbstractContextManager

from cascade_agent._log import LOG

lost: int = 0
"""Number of telemetry calls that failed in this process."""


def count(error: BaseException) -> None:
    """Count an error; the first one of a process is logged, by its class.

    Its message stays out: a `redact` hook that breaks may quote what it was to hide.
    """
    global lost  # noqa: PLW0603 - a process-wide counter, by design
    if lost == 0:
        LOG.warning("telemetry failed and is ignored from here on: %s", type(error).__name__)
    lost += 1


class _Guard(AbstractContextManager["_Guard", bool]):
    """A `with` block whose errors are counted and go no further; cancellations and exits pass through."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Swallow an error, counted."""
        if error is None or not isinstance(error, Exception):
            return False
        count(error)
        return True


guarded = _Guard()
