"""Everything that this library raises, in one tree.

```
CascadeError
├── ConfigurationError (ValueError)      a setting that cannot work; raised at construction
├── RecordError (ValueError)             a trace, journal or policy file that cannot be read; names line and mend
└── CascadeExhausted (ExceptionGroup)    no tier gave an answer that may be used; carries the whole trace
```

Control flow of the host (`GraphBubbleUp`, cancellation, `KeyboardInterrupt`) is never caught and no part of this tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


class CascadeError(Exception):
    """Base of every error of this library."""


class ConfigurationError(CascadeError, ValueError):
    """A setting that cannot work. The message names the setting, what was expected and the mend."""


class RecordError(CascadeError, ValueError):
    """A record, journal or policy file that cannot be read. The message names the place and the mend."""


class RejectedDraft(CascadeError):  # noqa: N818 - it says what happened
    """Why one tier's draft could not be used; a leaf of `CascadeExhausted`."""


class CascadeExhausted(CascadeError, ExceptionGroup[Exception]):  # noqa: N818 - a fixed public name
    """No tier gave an answer that may be used.

    `exceptions` holds one error per attempt, in order: what the tier raised, or a `RejectedDraft` saying why its draft
    was not usable. `trace` is the whole record of the step.
    """

    trace: Any
    """The `StepTrace` of the step."""

    def __new__(cls, message: str, exceptions: Sequence[Exception], *, trace: Any) -> Self:
        """Build the group (an `ExceptionGroup` takes its arguments in `__new__`)."""
        self = super().__new__(cls, message, list(exceptions))
        self.trace = trace
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], *, trace: Any) -> None:  # noqa: ARG002
        """Keep `args` as an `ExceptionGroup` has them; `trace` was set in `__new__`."""
        super().__init__(message, list(exceptions))

    def derive(self, excs: Sequence[Exception], /) -> CascadeExhausted:  # type: ignore[override]  # narrower on purpose
        """Keep the trace when `except*` splits the group."""
        return CascadeExhausted(self.message, excs, trace=self.trace)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a pickle between processes (the default forgets the keyword)."""
        return (_rebuild_exhausted, (self.message, list(self.exceptions), self.trace))


def _rebuild_exhausted(message: str, exceptions: list[Exception], trace: Any) -> CascadeExhausted:
    return CascadeExhausted(message, exceptions, trace=trace)
