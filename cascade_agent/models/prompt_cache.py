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


def for_message(message: M, llm_type: str) -> M:
    """Return a message as a model of this `_llm_type` takes it; an unmarked one is the same object."""
    if llm_type in _ANTHROPIC or isinstance(message.content, str):
        return message
    content = [_unmarked(block) for block in message.content]
    same = all(new is old for new, old in zip(content, message.content, strict=True))
    return message if same else message.model_copy(update={"content": content})


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


def _tool(tool: Any) -> Any:
    if isinstance(tool, Mapping):
        return _unmarked(tool)
    extras = getattr(tool, "extras", None)
    kept = _without_mark(extras)
    return tool if kept is extras else tool.model_copy(update={"extras": kept or None})


def _unmarked(block: Any) -> Any:
    """Return a block or tool without marks of its own and of its extras and metadata; itself where it has none."""
    out = _without_mark(block)
    for key in _NESTED if isinstance(out, Mapping) else ():
        kept = _without_mark(out.get(key))
        if kept is not out.get(key):
            out = {**out, key: kept}
    return out


def _without_mark(value: Any) -> Any:
    if not isinstance(value, Mapping) or "cache_control" not in value:
        return value
    return {key: item for key, item in value.items() if key != "cache_control"}
