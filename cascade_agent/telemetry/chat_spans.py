"""The span of a model call, `chat {model}`, where nobody else opens one; and messages as the conventions write them.

Messages stand on it only when the user asked for content, each text through his `redact`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from cascade_agent import semconv as names
from cascade_agent.core.records import Usage
from cascade_agent.telemetry.settings import TelemetrySettings, current
from cascade_agent.telemetry.spans import open_span, set_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import AIMessage, BaseMessage
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

_PROVIDERS = {
    "amazon_bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "google_genai": "gcp.gemini",
    "google_generativeai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "vertexai": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""LangChain's word for a provider -> the conventions' word, where they differ."""
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_SAMPLING = (
    ("temperature", names.REQUEST_TEMPERATURE),
    ("top_p", names.REQUEST_TOP_P),
    ("max_tokens", names.REQUEST_MAX_TOKENS),
)
_FINISH = ("finish_reason", "stop_reason", "stopReason", "done_reason")


def open_chat(parent: Span, tier: Any, messages: Sequence[BaseMessage], *, thread_id: str | None) -> Span | None:
    """Open `chat {model}` under `parent` for a call of a tier; None when that tier is itself a cascade.

    The arguments come from the tier: its names, its host, and the three settings of sampling that all providers share.
    """
    if tier.nested:
        return None
    base, model = tier.base, tier.model_name
    known: dict[str, AttributeValue] = {
        names.OPERATION_NAME: names.CHAT,
        names.PROVIDER_NAME: _PROVIDERS.get(tier.provider or "", tier.provider or "unknown"),
    }
    if model is not None:
        known[names.REQUEST_MODEL] = model
    if thread_id is not None:
        known[names.CONVERSATION_ID] = thread_id
    if tier.base_url:
        known.update(_server(tier.base_url))
    for name, attribute in _SAMPLING:
        value = tier.bound.get(name, getattr(base, name, None))
        if type(value) in (int, float):
            known[attribute] = value
    title = names.CHAT if model is None else f"{names.CHAT} {model}"
    span = open_span(title, parent, known, kind=SpanKind.CLIENT)
    settings = current()
    if settings.content and span.is_recording():
        set_known(span, _request(messages, settings))
    return span


def set_answer(span: Span, message: AIMessage, answer_id: str | None) -> None:
    """Set what the model answered: its name, why it stopped, its tokens, and the answer itself where content is on."""
    if not span.is_recording():
        return
    metadata = message.response_metadata
    model = metadata.get("model_name") or metadata.get("model")
    finish = next((str(metadata[key]) for key in _FINISH if metadata.get(key)), None)
    set_known(
        span,
        {
            names.RESPONSE_ID: answer_id,
            names.RESPONSE_MODEL: model if isinstance(model, str) else None,
            names.RESPONSE_FINISH_REASONS: None if finish is None else [finish],
            **tokens_of(Usage.of(message)),
        },
    )
    settings = current()
    if settings.content:
        answer = {"role": "assistant", "parts": _parts(message, settings), "finish_reason": finish or "unknown"}
        span.set_attribute(names.OUTPUT_MESSAGES, _json([answer]))


def tokens_of(usage: Usage) -> dict[str, int | None]:
    """Return the attributes that say the tokens of a call."""
    return {
        names.USAGE_INPUT_TOKENS: usage.input_tokens,
        names.USAGE_OUTPUT_TOKENS: usage.output_tokens,
        names.USAGE_CACHE_READ: usage.cache_read_tokens,
        names.USAGE_CACHE_WRITE: usage.cache_write_tokens,
    }


def response_id(message: AIMessage) -> str | None:
    """Return the provider's id of an answer; an id that LangChain made up is none."""
    for value in (message.response_metadata.get("id"), message.id):
        if isinstance(value, str) and value and not value.startswith(("run-", "lc_run-")):
            return value
    return None


@lru_cache
def _server(base_url: str) -> dict[str, AttributeValue]:
    with suppress(ValueError):
        parts = urlsplit(base_url)
        if parts.hostname is not None:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            return {names.SERVER_ADDRESS: parts.hostname, names.SERVER_PORT: port}
    return {}


def _request(messages: Sequence[BaseMessage], settings: TelemetrySettings) -> dict[str, str | None]:
    system = [part for m in messages if m.type == "system" for part in _parts(m, settings)]
    rest = [{"role": _ROLES.get(m.type, m.type), "parts": _parts(m, settings)} for m in messages if m.type != "system"]
    return {names.SYSTEM_INSTRUCTIONS: _json(system) if system else None, names.INPUT_MESSAGES: _json(rest)}


def _parts(message: BaseMessage, settings: TelemetrySettings) -> list[dict[str, object]]:
    """Return a message as parts: text, calls and results; of anything else (images, files) its kind alone."""
    if message.type == "tool":
        result = settings.redacted(str(message.text))
        return [{"type": "tool_call_response", "id": getattr(message, "tool_call_id", None), "response": result}]
    content = message.content
    parts: list[dict[str, object]] = []
    for block in [content] if isinstance(content, str) else content:
        text = block if isinstance(block, str) else block.get("text") if isinstance(block, Mapping) else None
        if isinstance(text, str):
            if text or not isinstance(block, str):
                parts.append({"type": "text", "content": settings.redacted(text)})
        elif isinstance(block, Mapping):
            kind = str(block.get("type", "unknown"))
            if kind not in ("tool_use", "tool_call", "function_call"):
                parts.append({"type": kind})
    for call in [*(getattr(message, "tool_calls", None) or ()), *(getattr(message, "invalid_tool_calls", None) or ())]:
        args = call.get("args")
        text = args if isinstance(args, str) else _json(args)
        parts.append(
            {"type": "tool_call", "id": call.get("id"), "name": call.get("name"), "arguments": settings.redacted(text)}
        )
    return parts


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
