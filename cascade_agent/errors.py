"""Everything that this library raises, in one tree.

```
CascadeError
├── ConfigurationError (ValueError)   a setting that cannot work; raised at construction
├── RecordError (ValueError)          a trace, journal or policy file that cannot be read; names line and mend
├── RejectedDraft                     why one draft could not be used; among `CascadeExhausted.errors`
└── CascadeExhausted                  no tier gave an answer that the policy lets pass; carries the whole trace
```

What a model raised reaches the host as it is, with the record of its step as the attribute `cascade`. Control flow of
the host (`GraphBubbleUp`, cancellation, `KeyboardInterrupt`) is never caught and no part of this tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class CascadeError(Exception):
    """Base of every error of this library."""


class ConfigurationError(CascadeError, ValueError):
    """A setting that cannot work. The message names the setting, what was expected and the mend."""


class RecordError(CascadeError, ValueError):
    """A record, journal or policy file that cannot be read. The message names the place and the mend."""


class RejectedDraft(CascadeError):
    """One tier's draft could not be used, and why."""


class CascadeExhausted(CascadeError):
    """No tier gave an answer that the policy lets pass.

    `trace` is the record of the step (a `StepTrace`); `errors` holds one error per attempt, in order: what the tier
    raised, or a `RejectedDraft`.
    """

    def __init__(self, message: str, *, trace: Any, errors: Sequence[Exception] = ()) -> None:
        """Keep the record and what went wrong on the way."""
        super().__init__(message)
        self.trace, self.errors = trace, tuple(errors)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a pickle between processes (the default forgets keywords)."""
        return (_exhausted, (str(self), self.trace, self.errors))


def _exhausted(message: str, trace: Any, errors: Sequence[Exception]) -> CascadeExhausted:
    return CascadeExhausted(message, trace=trace, errors=errors)
