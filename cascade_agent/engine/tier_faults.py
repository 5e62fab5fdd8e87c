"""Where the fault of a failed attempt lies: with the request, with the setup of a tier, or with the host's own code."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from langchain_core.exceptions import ContextOverflowError

from cascade_agent._log import LOG
from cascade_agent.core.clean_json import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from cascade_agent.core.records import Draft, Fault, SideEffect, Verdict
    from cascade_agent.models.tier import Role, Tier

_MENDS = {
    401: "check the API key",
    402: "check the account's balance",
    403: "check what the API key may use",
    404: "check the model's name and the base URL",
}
_FILTERED = frozenset(
    (
        "blocklist",
        "content_filter",
        "content_filtered",
        "guardrail_intervened",
        "image_safety",
        "prohibited_content",
        "recitation",
        "refusal",
        "safety",
        "spii",
    )
)
_OF_THE_REQUEST = re.compile(
    r"context[ _](length|window|size)|(prompt|input|request|messages?)\b.{0,30}\btoo (long|large)|too many tokens"
    r"|(prompt|input|request)\b.{0,40}(exceed\w*(?!.{0,40}(rate|quota|deadline|time))|max length)"
    r"|max\w* (prompt|input) length|input length|reduce the length"
    r"|content[ _-](filter|management|policy|moderation)|data_inspection|safety system|was flagged|moderation_blocked",
    re.IGNORECASE | re.DOTALL,
)
"""Words of many servers for a request that is too long or not allowed: few of them have a code of their own for it."""
_NEVER_OF_THE_REQUEST = frozenset({401, 402, 404, 429})
_TOO_LARGE = 413
_MAX_WARNED = 256
_warned: set[tuple[str, str, object]] = set()
_warning = threading.Lock()


def text_of(error: BaseException) -> str:
    """Return what an error says; one that cannot say it still is an error."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the user's own class
        return ""


def error_fault(error: BaseException) -> Fault | None:
    """Return where the fault of a call that raised lies; None with the call itself."""
    status, words = _status(error), f"{getattr(error, 'code', '')} {text_of(error)}"[:4000]
    if isinstance(error, ContextOverflowError) or status == _TOO_LARGE:
        return "request"
    if status not in _NEVER_OF_THE_REQUEST and not isinstance(error, TypeError) and _OF_THE_REQUEST.search(words):
        return "request"
    if status in _MENDS or isinstance(error, TypeError):  # a TypeError: an option that the client does not take
        return "setup"
    return None


def draft_fault(draft: Draft, verdicts: Sequence[Verdict], effects: Mapping[str, SideEffect]) -> Fault | None:
    """Return what else is to be said of a draft: filtered, or a call that acts and breaks its tool's schema."""
    if effects and any(v.hard and _breaks_acting_call(v.path, draft, effects) for v in verdicts):
        return "unsafe_call"
    blocked = draft.message.response_metadata.get("prompt_feedback")  # Google's, of a prompt that it did not answer
    blocked = isinstance(blocked, dict) and blocked.get("block_reason")
    return "request" if draft.finish_reason in _FILTERED or blocked else None


def _breaks_acting_call(path: str, draft: Draft, effects: Mapping[str, SideEffect]) -> bool:
    parts = path.split("/")
    if len(parts) < 3 or parts[1] != "tool_calls" or not parts[2].isdigit():  # "", list, index
        return False
    calls, index = draft.tool_calls, int(parts[2])
    return index < len(calls) and effects.get(calls[index]["name"]) in ("write", "irreversible")


def warn_once(role: Role, tier: Tier, error: BaseException) -> None:
    """Log that a tier can never answer as it is set up: once per tier and kind of error, with the mend."""
    kind = _status(error) or type(error).__name__
    key = (role, tier.label, kind)
    with _warning:
        if key in _warned or len(_warned) >= _MAX_WARNED:
            return
        _warned.add(key)
    mend = _MENDS.get(_status(error) or 0, "the client does not take an option that is bound to it: remove it there")
    words = clean_text(f"{type(error).__name__}: {text_of(error)}"[:500])
    LOG.warning("the %s tier %s cannot answer: %s (%s; logged once)", role, tier.label, words, mend)


def _status(error: BaseException) -> int | None:
    for source in (error, getattr(error, "response", None)):
        for name in ("status_code", "code"):
            status = getattr(source, name, None)
            if isinstance(status, int):
                return status
    return None


# ---- exceptions of the host's own code ------------------------------------------------------------------------------


def raised_in_callback(error: BaseException) -> bool:
    """Return whether a callback handler raised (one with `raise_error`), not the model."""
    return any(frame.f_globals.get("__name__") == "langchain_core.callbacks.manager" for frame in _frames(error))


def raised_outside_models(error: BaseException) -> bool:
    """Return whether an exception came from no chat model: an inner middleware raised it."""
    from langchain_core.language_models import BaseChatModel

    return not any(isinstance(frame.f_locals.get("self"), BaseChatModel) for frame in _frames(error))


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
