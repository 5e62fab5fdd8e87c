"""Tools and call options of a cascade: each tier gets them in its own form."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from cascade_agent._log import LOG
from cascade_agent.core.clean_json import JsonObject
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.history import messages_for
from cascade_agent.models.options import CONSTRAINING, BoundConstraints, bound_constraints, settings_for
from cascade_agent.models.tool_spec import tool_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import ToolSpec
    from cascade_agent.models.tier import Ready, Role, Tier, Way

ROLES: tuple[Role, Role] = ("small", "large")
PLAIN_MESSAGES = frozenset({AIMessage, HumanMessage, SystemMessage, ToolMessage})
_MODES = frozenset({"none", "required", "validated"})
_MAX_OFFERS = 64
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Offer:
    """Both tiers made ready for one kind of call."""

    ready: dict[Role, Ready]
    bound: Mapping[Role, BoundConstraints]
    """The demands on each tier's answer."""
    schema: object = None
    """The schema of `with_structured_output`."""
    tools: tuple[Any, ...] = ()
    """The tools as given; keeps alive what the cache key points at."""
    visible: tuple[JsonObject, ...] = ()


class OfferedTools(list[JsonObject]):
    """The tools in `bind_tools(...).kwargs["tools"]`: the OpenAI form to look at, and each tier's own form inside."""

    def __init__(self, offer: Offer, options: JsonMapping) -> None:
        super().__init__(offer.visible)
        self.offer = offer
        self.options = dict(options)


class ToolBinding:
    """The offers of one cascade, made once per set of tools: agents bind the same ones at every turn."""

    def __init__(self, tiers: Mapping[Role, Tier]) -> None:
        self._tiers = tiers
        self._traits = {role: tier.traits for role, tier in tiers.items()}
        self.plain = Offer({role: tiers[role].plain() for role in ROLES}, self._bound({}))
        self._offers: dict[Any, Offer] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Start without offers in a copy: they are known by the identity of their tools, and these are others then."""
        return (ToolBinding, (self._tiers,))

    def _bound(self, options: JsonMapping, names: Sequence[str] | None = None) -> dict[Role, BoundConstraints]:
        """Return what is demanded of each tier's answer; `names` are the tools on offer, where they replace its own."""
        found: dict[Role, BoundConstraints] = {}
        for role in ROLES:
            own = self._tiers[role].bound
            if names is not None:
                own = {key: value for key, value in own.items() if key != "tool_choice"}
            given = bound_constraints({**own, **options})
            known = names is None or given.tool_choice in (None, *_MODES, *names)
            found[role] = replace(given, tool_choice=None) if given.tool_choice == "validated" or not known else given
        return dict.fromkeys(ROLES, found["small"]) if found["small"] == found["large"] else found

    def offer(self, tools: Sequence[Any], options: JsonMapping) -> Offer:
        """Return both tiers with these tools bound.

        Raises:
            ConfigurationError: a `tool_choice` that is none of them.
        """
        specs = tool_specs(tools)  # remembered per tool; a tool that was changed gives another
        key = (*map(id, specs), repr(sorted(options.items(), key=lambda item: item[0])))
        offer = self._offers.get(key)
        if offer is None:
            _check_names(specs, tools, options)
            offer = Offer(
                {role: replace(self._tiers[role].with_tools(tools, **options), specs=specs) for role in ROLES},
                self._bound(options, [spec.name for spec in specs]),
                tools=tuple(tools),
                visible=tuple(t if isinstance(t, dict) else convert_to_openai_tool(t) for t in tools),
            )
            with _lock:
                while len(self._offers) >= _MAX_OFFERS:
                    del self._offers[next(iter(self._offers))]
                self._offers[key] = offer
        return offer

    def structured(self, schema: Any, options: JsonMapping) -> Offer:
        """Return both tiers ready for structured output, each in its own way."""
        ready: dict[Role, Ready] = {role: self._tiers[role].with_schema(schema, **options) for role in ROLES}
        return Offer(ready, dict.fromkeys(ROLES, BoundConstraints(output_schema=schema)), schema=schema)

    def of_call(self, kwargs: JsonObject) -> tuple[Offer, JsonObject]:
        """Return what is asked with, and the arguments that go to the call itself."""
        tools = kwargs.pop("tools", None)
        if isinstance(tools, OfferedTools):
            bound = tools.options
            if kwargs == bound:  # nothing of this call alone
                return tools.offer, {}
            changed = {k: v for k, v in kwargs.items() if (k in bound or k == "tool_choice") and v != bound.get(k)}
            options = {**bound, **changed}
            offer = self.offer(tools.offer.tools, options) if changed else tools.offer
            kwargs = {k: v for k, v in kwargs.items() if k not in bound and k != "tool_choice"}
        elif tools:
            options = {"tool_choice": kwargs.pop("tool_choice")} if "tool_choice" in kwargs else {}
            offer = self.offer(tools, options)
        else:
            offer, options = self.plain, {}
        if any(kwargs.get(name) is not None for name in CONSTRAINING & kwargs.keys()):  # of this call alone
            names = [spec.name for spec in offer.ready["small"].specs] if offer.tools else None
            offer = replace(offer, bound=self._bound({**options, **kwargs}, names))
        return offer, kwargs

    def asker(self, offer: Offer, messages: list[BaseMessage], given: JsonMapping) -> Callable[..., Any]:
        """Return a function that asks a tier with what it can take of the conversation and of the call's arguments."""

        def ask(way: Way, role: Role, note: str | None, config: RunnableConfig) -> Any:
            taken = messages_for(self._traits[role], messages, pair=self._traits, note=note)
            more = settings_for(self._traits[role], given) if given else given
            return offer.ready[role].call(way, taken, config, more)

        return ask


def _check_names(specs: Sequence[ToolSpec], tools: Sequence[Any], options: JsonMapping) -> None:
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        LOG.warning("two tools are named %r: a call could mean either; give one of them another name", twice)
    choice = options.get("tool_choice")
    if not isinstance(choice, str) or choice in names or len(specs) != len(tools):  # some the provider itself runs
        return
    if bound_constraints(options).tool_choice not in (None, *_MODES):
        msg = f"tool_choice is {choice!r}; expected auto, any, none, required or one of {', '.join(names)}"
        raise ConfigurationError(msg)


def common_profile(tiers: Sequence[Tier]) -> Any:
    """Return the profile of a pair: flags by `and`, limits by `min`, and what only one tier's says as it is."""
    profiles = [dict(tier.base.profile) for tier in tiers if isinstance(tier.base.profile, dict)]
    if not profiles:
        return None
    common: JsonObject = {**profiles[0], **profiles[-1]}
    for key in profiles[0].keys() & profiles[-1].keys():
        a, b = profiles[0][key], profiles[-1][key]
        if isinstance(a, bool) and isinstance(b, bool):
            common[key] = a and b
        elif isinstance(a, int) and isinstance(b, int):
            common[key] = min(a, b)
        elif a != b:
            del common[key]
    return common
