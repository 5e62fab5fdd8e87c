"""Structured output as plain JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast


def plain(parsed: object) -> object:
    """Return structured output as plain JSON; `None` stays None."""
    if parsed is None:
        return None
    from pydantic import TypeAdapter

    return TypeAdapter(type(parsed)).dump_python(parsed, mode="json", by_alias=True, round_trip=True)


def parse(schema: object, data: object) -> object:
    """Return plain JSON as the structured output that `schema` wants; a JSON Schema takes it as it is.

    Raises:
        ValueError: it is not of that schema.
    """
    if isinstance(schema, Mapping) or schema is None:
        return data
    from pydantic import TypeAdapter

    return TypeAdapter(cast("type[object]", schema)).validate_python(data)
