"""Errors of telemetry itself: counted and logged once, never raised into a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade_agent._log import LOG

if TYPE_CHECKING:
    from types import TracebackType

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


class _Guard:
    """A `with` block whose errors are counted and go no further; cancellations and exits pass through."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallow an error, counted."""
        if not isinstance(error, Exception):
            return False
        count(error)
        return True


guarded = _Guard()
