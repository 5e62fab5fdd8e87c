"""Findings whose score is the rule's own estimate of P(right)."""

from __future__ import annotations

from typing import Final

from cascade_agent.core.scoring import Weight
from cascade_agent.errors import ConfigurationError

HANDED_ON: Final = Weight(6.0, "the score is itself an estimate of P(right); this weight hands it on")


def check_scores(owner: object, *fields: str) -> None:
    """Refuse a score that is no probability.

    Raises:
        ConfigurationError: names the field.
    """
    for field in fields:
        value = getattr(owner, field)
        if not 0.0 <= value <= 1.0:
            msg = f"{type(owner).__name__}.{field} is {value!r}; expected a number in [0, 1]"
            raise ConfigurationError(msg)
