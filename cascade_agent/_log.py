"""The logger of this library.

A line of log never fails a step. Whatever a handler or a filter of the application raises stays with it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any


class _Harmless(logging.LoggerAdapter[logging.Logger]):
    """A logger that raises nothing."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line, as if from the place that calls."""
        with suppress(Exception):
            super().log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})


LOG = _Harmless(logging.getLogger("cascade_agent"), {})
