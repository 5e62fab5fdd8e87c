"""Frozen dataclasses with a quick `__init__`: the same values, checks and refusals as `dataclass` gives."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from cascade_agent.core.frozen import quick


@quick
@dataclass(frozen=True, slots=True)
class Slotted:
    first: int
    second: list[int] = field(default_factory=list)
    third: str = field(default="x", kw_only=True)


@quick
@dataclass(frozen=True, kw_only=True)
class Checked:
    number: int = 1

    def __post_init__(self) -> None:
        """Refuse a number below 0, and keep another value."""
        if self.number < 0:
            msg = "below 0"
            raise ValueError(msg)
        object.__setattr__(self, "number", self.number * 2)


class Child(Slotted):
    """A subclass with a `__dict__` of its own."""


@pytest.mark.parametrize("kind", [Slotted, Child])
def test_values_are_those_of_a_dataclass(kind: Any) -> None:
    """Places, names, defaults and factories, equality, copies, pickles and `replace` are those of a dataclass."""
    made = kind(3)
    assert (type(made), made.first, made.second, made.third) == (kind, 3, [], "x")
    assert kind(3).second is not made.second
    assert made == kind(first=3) == copy.copy(made)
    assert replace(made, third="y") == kind(3, third="y") != made
    assert repr(made) == f"{kind.__qualname__}(first=3, second=[], third='x')"
    if kind is Slotted:
        assert pickle.loads(pickle.dumps(made)) == made


def test_refusals_are_those_of_a_dataclass() -> None:
    """It is frozen; what is missing, unknown or out of place is refused; a check after the fields runs, and may set one."""
    for made in (Slotted(1), Checked()):
        with pytest.raises(FrozenInstanceError):
            made.first = 2  # type: ignore[misc,union-attr]
        with pytest.raises(FrozenInstanceError):
            del made.first  # type: ignore[union-attr]
    assert Checked(number=2).number == 4
    assert str(inspect.signature(Slotted)).startswith("(first: 'int', second:")
    for arguments, named in (((), {}), ((1, [], "x"), {}), ((1,), {"fourth": 1})):
        with pytest.raises(TypeError, match=r"Slotted\.__init__\(\)|__init__\(\)"):
            Slotted(*arguments, **named)  # type: ignore[misc,arg-type]
    with pytest.raises(ValueError, match="below 0"):
        Checked(number=-1)
