"""Values of the offline commands as plain JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar, Self, cast

from cascade_agent.core.clean_json import Json, JsonMapping, JsonObject, clean
from cascade_agent.core.records import load


class Plain:
    """A frozen dataclass whose fields are its JSON; `PARTS` names fields that `from_json` reads as such values."""

    __slots__ = ()
    PARTS: ClassVar[Mapping[str, type[Plain]]] = {}

    def to_json(self) -> JsonObject:
        """Return the value as plain JSON; unknown is null."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type] # a dataclass

    @classmethod
    def from_json(cls, data: JsonMapping) -> Self:
        """Read what `to_json` wrote; unknown keys are ignored."""
        return load(cls, data)


def plain(value: object) -> Json:
    """Return a value as plain JSON: a record by its own `to_json`, a mapping or sequence part by part."""
    if to_json := getattr(value, "to_json", None):
        return cast("Json", to_json())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else clean(value)
