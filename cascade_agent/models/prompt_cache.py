"""Takes one provider's cache settings out of a request that goes to another one's model.

What the target understands stays, and nothing else of a request is touched. Middleware and users mark messages,
tools and settings for the provider they know (`cache_control` is Anthropic's, `prompt_cache_key` OpenAI's and
Fireworks'); another provider answers such a request with an error. LangChain's own `ModelFallbackMiddleware` does the
same, by the same `_llm_type` names. A tier that is a cascade passes marks on: its own tiers take theirs out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from cascade_agent.models.traits import NESTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.clean_json import JsonMapping, JsonObject

M = TypeVar("M", bound="BaseMessage")
_ANTHROPIC = frozenset({"anthropic-chat", "anthropic-bedrock-chat", "anthropic-chat-vertexai", NESTED})
_CACHE_KEY = frozenset({"fireworks-chat", "openai-chat", "azure-openai-chat", NESTED})
_FIREWORKS = frozenset({"fireworks-chat", NESTED})
_AFFINITY = "x-session-affinity"
_NESTED = ("extras", "metadata")


def for_messages(messages: Sequence[M], llm_type: str) -> list[M]:
    """Return the messages as a model of this `_llm_type` takes them; unmarked messages are the same objects."""
    plain = llm_type in _ANTHROPIC
    return [m if plain or isinstance(m.content, str) else _message(m) for m in messages]


def for_tools(tools: Sequence[object], llm_type: str) -> list[object]:
    """Return the tools as a model of this `_llm_type` takes them; unmarked tools are the same objects."""
    return list(tools) if llm_type in _ANTHROPIC else [_tool(tool) for tool in tools]


def for_settings(settings: JsonMapping, llm_type: str) -> JsonObject:
    """Return the arguments of a call as a model of this `_llm_type` takes them."""
    out = dict(settings)
    if llm_type not in _ANTHROPIC:
        out.pop("cache_control", None)
    if llm_type not in _CACHE_KEY:
        out.pop("prompt_cache_key", None)
    headers = out.get("extra_headers")
    if llm_type not in _FIREWORKS and isinstance(headers, Mapping):
        out["extra_headers"] = {k: v for k, v in headers.items() if str(k).lower() != _AFFINITY}
        if not out["extra_headers"]:
            del out["extra_headers"]
    return out


def _message(message: M) -> M:
    content = [_block(block) for block in message.content]
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return message
    return message.model_copy(update={"content": content})


def _block(block: Any) -> Any:
    if not isinstance(block, Mapping):
        return block
    marked = [key for key in _NESTED if isinstance(block.get(key), Mapping) and "cache_control" in block[key]]
    if "cache_control" not in block and not marked:
        return block
    out = {key: value for key, value in block.items() if key != "cache_control"}
    for key in marked:
        out[key] = {k: v for k, v in block[key].items() if k != "cache_control"}
    return out


def _tool(tool: Any) -> Any:
    if isinstance(tool, Mapping):
        return _block(tool)
    extras = getattr(tool, "extras", None)
    if not isinstance(extras, Mapping) or "cache_control" not in extras:
        return tool
    kept = {key: value for key, value in extras.items() if key != "cache_control"}
    return tool.model_copy(update={"extras": kept or None})
