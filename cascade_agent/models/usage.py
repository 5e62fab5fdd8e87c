"""Usage and cost of one call: from the answer it gave, or from the error it raised."""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import math
import re
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from cascade_agent.core.records import StepTrace, Usage
from cascade_agent.errors import CascadeExhausted, RecordError

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.models.tier import Tier

NOTHING = Usage(input_tokens=0, output_tokens=0, cache_read_tokens=0, cache_write_tokens=0, calls=0)
"""The usage of no call."""

_STANDARD_SERVICE = frozenset({"", "default", "standard", "auto", "on_demand"})
_BUSY = frozenset({429, 503, 529})
_READS_ANSWER = re.compile(
    r"_process_response|parse_chat_completion|_parse\b|_create_chat_result|_construct_lc_result|_format_output|"
    r"_response_to_result|_parse_response|_parse_content"
)
_BUILDS_REQUEST = re.compile(
    r"_get_request_payload|_convert_message|_format_message|_prepare_request|_chat_params|_create_message_dicts|"
    r"_convert_input|_parse_chat_history|_construct_responses_api|_build_request"
)
_HOST_READS = frozenset({"invoke", "ainvoke", "generate", "agenerate", "_generate", "_agenerate"})
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def usage_and_cost(tier: Tier, message: AIMessage) -> tuple[Usage, float | None, JsonObject | None]:
    """Return usage and cost of one answered call, and the inner record where the tier is itself a cascade."""
    inner = message.response_metadata.get("cascade")
    if isinstance(inner, dict) and tier.nested:
        try:
            trace = StepTrace.from_json(inner)
        except RecordError:
            return Usage(), None, None
        return trace.usage or Usage(calls=_calls(trace)), trace.cost, inner
    usage, meta = usage_of(message), cast("JsonObject", message.usage_metadata or {})
    if meta.get("total_cost") == 0:  # LangChain's mark of an answer from its cache
        return usage, 0.0, None
    answered_by = message.response_metadata.get("model_name") or message.response_metadata.get("model")
    cost = tier.cost(usage, answered_by=answered_by if isinstance(answered_by, str) else None)
    if cost is not None and tier.price is None and _priced_otherwise(message, meta):
        return usage, None, None
    return usage, cost, None


def usage_of(message: AIMessage) -> Usage:
    """Return the tokens of an answer; reasoning that a provider counts beside the output is part of the output."""
    usage = Usage.of(message)
    meta = cast("JsonObject", message.usage_metadata or {})
    total, counted = meta.get("total_tokens"), (meta.get("output_token_details") or {}).get("reasoning")
    if usage.input_tokens is None or usage.output_tokens is None or type(total) is not int or type(counted) is not int:
        return usage
    hidden = total - usage.input_tokens - usage.output_tokens
    return replace(usage, output_tokens=usage.output_tokens + hidden) if 0 < hidden <= counted else usage


def _priced_otherwise(message: AIMessage, usage: JsonMapping) -> bool:
    """Tell whether the table's text prices of the standard service do not hold for an answer."""
    inner = message.response_metadata.get("usage")
    for source in (message.response_metadata, inner if isinstance(inner, Mapping) else {}):
        service = source.get("service_tier")
        if isinstance(service, str) and service.lower() not in _STANDARD_SERVICE:
            return True
    sides = (usage.get("input_token_details") or {}, usage.get("output_token_details") or {})
    if sides == ({}, {}):
        return False
    services = {key.partition("_")[0] for side in sides for key, count in side.items() if count}
    return bool(services & {"priority", "flex", "batch"}) or any(side.get("audio") for side in sides)


def usage_and_cost_of_error(
    error: BaseException, *, nested: bool = False
) -> tuple[Usage | None, float | None, JsonObject | None]:
    """Return usage and cost of a call that raised.

    0 where the provider refused it or no request was sent; what a cascade says that it spent; otherwise unknown.
    `nested` says that the tier is itself a cascade, whose exceptions carry the record of its step.
    """
    trace = getattr(error, "cascade", None) if nested else None
    trace = error.trace if isinstance(error, CascadeExhausted) else trace
    if isinstance(trace, StepTrace):
        return trace.usage or Usage(calls=_calls(trace)), trace.cost, trace.to_json(content=False)
    status = status_of(error)
    if status is not None:  # a call that was answered with an error status is billed nowhere
        return (replace(NOTHING, calls=1), 0.0, None) if status >= 400 else (Usage(), None, None)
    if _was_not_sent(error):
        return NOTHING, 0.0, None
    return (Usage() if was_answered(error) else None), None, None


def was_answered(error: BaseException) -> bool:
    """Tell whether the provider did answer and its answer could not be read: such a call is paid."""
    if hasattr(error, "completion") or (status_of(error) or 500) < 300:
        return True
    names = _functions(error)
    if isinstance(error, IndexError | KeyError) and names[-1:] and names[-1] in _HOST_READS:
        return True  # an answer without choices
    return any(_READS_ANSWER.search(name) for name in names)


def _was_not_sent(error: BaseException) -> bool:
    """Tell whether a call certainly failed before its request went out."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ConnectionRefusedError", "UnsupportedProtocol"):
            return True
        cause = cause.__cause__
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return True
    return isinstance(error, TypeError | ValueError | KeyError | AttributeError | NotImplementedError) and any(
        _BUILDS_REQUEST.search(name) for name in _functions(error)
    )


def _functions(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


def _calls(trace: StepTrace) -> int:
    return sum(a.outcome != "skipped" for a in trace.attempts) + len(trace.evidence)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, on itself or on its response."""
    for source in (error, getattr(error, "response", None)):
        for name in ("status_code", "code"):
            status = getattr(source, name, None)
            status = getattr(status, "value", status)  # google.api_core has an enum's member
            if type(status) is int and 100 <= status < 600:
                return status
    return None


# ---- when to ask again ----------------------------------------------------------------------------------------------


def retry_after(error: BaseException) -> float | None:
    """Return the seconds after which a busy provider said to ask again, in whichever form it said so.

    Reads `retry-after-ms`, `Retry-After` as seconds or as a date, `x-ratelimit-reset...` of a limit that is used up,
    and Google's `RetryInfo` in the body, of an answer with status 429, 503 or 529.
    """
    if status_of(error) not in _BUSY:
        return None
    headers = getattr(getattr(error, "response", None), "headers", {})
    found = {str(k).lower(): v for k, v in headers.items()} if hasattr(headers, "items") else {}
    milliseconds, after = _number(found.get("retry-after-ms")), found.get("retry-after")
    waits = (None if milliseconds is None else milliseconds / 1000, _number(after), _until(after), _reset(found))
    seconds = next((wait for wait in waits if wait is not None), None)
    if seconds is None:
        seconds = _retry_info(error)
    return None if seconds is None or not math.isfinite(seconds) else max(seconds, 0.0)


def _number(value: object) -> float | None:
    try:
        number = float(cast("str", value))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(value: object) -> float | None:
    """Return the seconds until a date of HTTP or ISO 8601."""
    if not isinstance(value, str):
        return None
    try:
        date = dt.datetime.fromisoformat(value) if value[:4].isdigit() else email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=dt.UTC)).timestamp() - time.time()


def _duration(value: object) -> float | None:
    """Return a length of time such as `6m0s`, `1.5s`, `20ms` or a bare number in seconds."""
    if not isinstance(value, str) or not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d))+", value):
        return _number(value)
    return sum(float(n) * _UNIT[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|s|m|h|d)", value))


def _reset(headers: JsonMapping) -> float | None:
    """Return when the last of the limits that are used up is reset, by OpenAI's, Anthropic's or a router's headers."""
    waits = []
    for name, value in headers.items():
        left = name.replace("reset", "remaining")
        if "ratelimit" not in name or "reset" not in name or _number(headers.get(left, 0)) != 0:
            continue
        wait = _duration(value)
        if wait is None:
            wait = _until(value)
        elif wait > 1e9:  # no length of time but a point in it, in seconds or milliseconds
            wait = wait / (1000 if wait > 1e11 else 1) - time.time()
        if wait is not None:
            waits.append(wait)
    return max(waits, default=None)


def _retry_info(error: BaseException) -> float | None:
    """Return Google's `RetryInfo` from the details of an error or from its body."""
    details = getattr(error, "details", None)
    for detail in details if isinstance(details, list) else ():
        delay = getattr(detail, "retry_delay", None)
        if delay is not None:
            return float(delay.seconds) + float(getattr(delay, "nanos", 0)) / 1e9
    for source in (error, getattr(error, "response", None)):
        for name in ("body", "details", "text", "response_json"):
            value = getattr(source, name, None)
            if isinstance(value, str | Mapping | list) and (found := _delay_in(value)) is not None:
                return found
    return _delay_in(str(error))


def _delay_in(value: object) -> float | None:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    found = re.search(r"""retry_?[dD]elay["']?\s*:\s*["']?(\d+(?:\.\d+)?)s""", text[:20_000])
    return float(found[1]) if found else None
