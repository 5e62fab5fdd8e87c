"""Answers of what tiers return; structured output as plain JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage

from cascade_agent.core.records import Draft
from cascade_agent.engine.step import Answer

if TYPE_CHECKING:
    from cascade_agent.models.tier import Role


def answer_of(role: Role, native: Any, *, structured: bool) -> Answer:
    """Return what a tier returned as an answer to be judged; `structured` says that it owes structured output.

    Raises:
        TypeError: it returned no message.
    """
    if not structured:
        if not isinstance(native, AIMessage):
            msg = f"the {role} model returned {type(native).__name__}, expected an AIMessage"
            raise TypeError(msg)
        return Answer(draft=Draft(message=native, tier=role))
    if not (isinstance(native, dict) and native.keys() >= {"raw", "parsed"}):  # a model that knows no `include_raw`
        text = "" if native is None else json.dumps(plain(native), ensure_ascii=False)
        native = {"raw": AIMessage(text), "parsed": native}
    error, parsed = native.get("parsing_error"), native.get("parsed")
    fault = None if error is None and parsed is not None else type(error).__name__ if error else "nothing was parsed"
    return Answer(draft=Draft(message=native["raw"], tier=role, parsed=parsed, parsing_error=fault), native=error)


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


def rebuilt(schema: object, tier: str, message: AIMessage, parsed: object) -> Answer:
    """Return an answer from what was saved of it, or from a human's.

    Raises:
        ValueError: it holds no structured output where `schema` wants one.
    """
    value = None
    if schema is not None:
        value = parse(schema, json.loads(str(message.text)) if parsed is None else parsed)
    return Answer(draft=Draft(message=message, tier=tier, parsed=value))
