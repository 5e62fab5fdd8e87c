"""Tools and call options of a cascade: each tier gets them in its own form."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from cascade_agent.engine.step import tool_choice_of
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.tool_spec import tool_specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.records import ToolSpec
    from cascade_agent.models.tier import Ready, Role, Tier

ROLES: tuple[Role, Role] = ("small", "large")
PLAIN_MESSAGES = frozenset({AIMessage, HumanMessage, SystemMessage, ToolMessage})
_MODES = frozenset({"none", "required", "validated"})
_MAX_OFFERS = 64
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Offer:
    """Both tiers made ready for one kind of call."""

    ready: dict[Role, Ready]
    tool_choice: str | None = None
    schema: object = None
    tools: tuple[Any, ...] = ()
    """The tools as given; keeps alive what the cache key points at."""
    visible: tuple[dict[str, Any], ...] = ()


class OfferedTools(list[dict[str, Any]]):
    """The tools in `bind_tools(...).kwargs["tools"]`: the OpenAI form to look at, and each tier's own form inside."""

    def __init__(self, offer: Offer, options: Mapping[str, Any]) -> None:
        super().__init__(offer.visible)
        self.offer = offer
        self.options = dict(options)


class ToolBinding:
    """The offers of one cascade, made once per set of tools: agents bind the same ones at every turn."""

    def __init__(self, tiers: Mapping[Role, Tier]) -> None:
        self._tiers = tiers
        choice = tool_choice_of(tiers["small"].bound.get("tool_choice"))
        self.plain = Offer({role: tiers[role].plain() for role in ROLES}, tool_choice=choice)
        self._offers: dict[Any, Offer] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Start without offers in a copy: they are known by the identity of their tools, and these are others then."""
        return (ToolBinding, (self._tiers,))

    def offer(self, tools: Sequence[Any], options: Mapping[str, Any]) -> Offer:
        """Return both tiers with these tools bound.

        Raises:
            ConfigurationError: two tools of one name, or a `tool_choice` that is none of them.
        """
        specs = tool_specs(tools)  # remembered per tool; a tool that was changed gives another
        key = (*map(id, specs), repr(sorted(options.items(), key=lambda item: item[0])))
        offer = self._offers.get(key)
        if offer is None:
            choice = _checked_choice(specs, tools, options)
            offer = Offer(
                {role: replace(self._tiers[role].with_tools(tools, **options), specs=specs) for role in ROLES},
                tool_choice=choice,
                tools=tuple(tools),
                visible=tuple(t if isinstance(t, dict) else convert_to_openai_tool(t) for t in tools),
            )
            with _lock:
                while len(self._offers) >= _MAX_OFFERS:
                    del self._offers[next(iter(self._offers))]
                self._offers[key] = offer
        return offer

    def structured(self, schema: Any, options: Mapping[str, Any]) -> Offer:
        """Return both tiers ready for structured output, each in its own way."""
        return Offer({role: self._tiers[role].with_schema(schema, **options) for role in ROLES}, schema=schema)

    def of_call(self, kwargs: dict[str, Any]) -> tuple[Offer, dict[str, Any]]:
        """Return what is asked with, and the arguments that go to the call itself."""
        tools = kwargs.pop("tools", None)
        if isinstance(tools, OfferedTools):
            bound = tools.options
            changed = {k: v for k, v in kwargs.items() if (k in bound or k == "tool_choice") and v != bound.get(k)}
            offer = self.offer(tools.offer.tools, {**bound, **changed}) if changed else tools.offer
            return offer, {k: v for k, v in kwargs.items() if k not in bound and k != "tool_choice"}
        if tools:
            options = {"tool_choice": kwargs.pop("tool_choice")} if "tool_choice" in kwargs else {}
            return self.offer(tools, options), kwargs
        return self.plain, kwargs

    def arguments(self, role: Role, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call as this tier takes them."""
        return self._tiers[role].settings_for(given) if given else given

    def messages(self, role: Role, messages: list[BaseMessage], note: str | None) -> list[BaseMessage]:
        """Return the conversation as this tier takes it: nothing that only the other's provider understands."""
        return self._tiers[role].messages_for(messages, pair=self._tiers, note=note)


def _checked_choice(specs: Sequence[ToolSpec], tools: Sequence[Any], options: Mapping[str, Any]) -> str | None:
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        msg = f"two tools are named {twice!r}: a call could mean either; give one of them another name"
        raise ConfigurationError(msg)
    choice = tool_choice_of(options.get("tool_choice"))
    if choice is None or choice in _MODES or choice in names:
        return None if choice == "validated" else choice
    if len(specs) == len(tools) and isinstance(options.get("tool_choice"), str):
        msg = f"tool_choice is {choice!r}; expected auto, any, none, required or one of {', '.join(names)}"
        raise ConfigurationError(msg)
    return None  # a tool that the provider carries out itself


def common_profile(tiers: Sequence[Tier]) -> Any:
    """Return the profile of a pair: flags by `and`, limits by `min`, and what only one tier's says as it is."""
    profiles = [dict(tier.base.profile) for tier in tiers if isinstance(tier.base.profile, dict)]
    if not profiles:
        return None
    common: dict[str, Any] = {**profiles[0], **profiles[-1]}
    for key in profiles[0].keys() & profiles[-1].keys():
        a, b = profiles[0][key], profiles[-1][key]
        if isinstance(a, bool) and isinstance(b, bool):
            common[key] = a and b
        elif isinstance(a, int) and isinstance(b, int):
            common[key] = min(a, b)
        elif a != b:
            del common[key]
    return common
