"""What one call cost: from the answer it gave, or from the error it raised."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from cascade_agent.core.records import StepTrace, Usage
from cascade_agent.errors import CascadeExhausted, RecordError

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from cascade_agent.models.tier import Tier

NOTHING = Usage(input_tokens=0, output_tokens=0, cache_read_tokens=0, cache_write_tokens=0, calls=0)
"""The usage of no call."""


def bill(tier: Tier, message: AIMessage) -> tuple[Usage, float | None, dict[str, Any] | None]:
    """Usage and cost of one call. A tier that is itself a cascade bills what its own record says."""
    inner = message.response_metadata.get("cascade")
    if isinstance(inner, dict) and tier.base._llm_type == "cascade":  # noqa: SLF001 - the public way to ask is this
        try:
            trace = StepTrace.from_json(inner)
        except RecordError:
            return Usage(), None, None
        return trace.usage or Usage(calls=_calls(trace)), trace.cost, inner
    usage = Usage.of(message)
    if (
        cast("dict[str, Any]", message.usage_metadata or {}).get("total_cost") == 0
    ):  # LangChain's mark of an answer from its cache
        return usage, 0.0, None
    return usage, tier.cost(usage), None


def bill_of_error(
    error: BaseException, *, nested: bool = False
) -> tuple[Usage | None, float | None, dict[str, Any] | None]:
    """Return usage and cost of a call that raised: unknown, unless the provider refused it or a record says it.

    `nested` says that the tier is itself a cascade, whose exceptions carry the record of its step.
    """
    trace = getattr(error, "cascade", None) if nested else None
    trace = error.trace if isinstance(error, CascadeExhausted) else trace
    if isinstance(trace, StepTrace):
        return trace.usage or Usage(calls=_calls(trace)), trace.cost, trace.to_json(content=False)
    if _refused_unbilled(error):
        return replace(NOTHING, calls=1), 0.0, None
    return None, None, None


def _calls(trace: StepTrace) -> int:
    return sum(a.outcome != "skipped" for a in trace.attempts) + len(trace.evidence)


def _refused_unbilled(error: BaseException) -> bool:
    """Whether the provider answered with an error status: such a call is billed nowhere."""
    for source in (error, getattr(error, "response", None)):
        status = getattr(source, "status_code", None)
        if isinstance(status, int):
            return status >= 400  # noqa: PLR2004 - HTTP
    return False


def retry_after(error: BaseException) -> float | None:
    """Seconds after which a provider that is busy said to ask again (`Retry-After`, RFC 9110)."""
    response: Any = getattr(error, "response", None)
    if getattr(error, "status_code", getattr(response, "status_code", None)) not in (429, 503):
        return None
    try:
        seconds = float(response.headers.get("retry-after"))
    except (AttributeError, TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
