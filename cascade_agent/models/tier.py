"""One candidate model of the pair: how it is named, priced, limited and made ready to be asked.

What was bound to one tier (`small.bind(temperature=0)`) never reaches the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from pydantic import SkipValidation, create_model

from cascade_agent._log import LOG
from cascade_agent.core.records import Usage
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.history import messages_for
from cascade_agent.models.options import offer_for
from cascade_agent.models.pricing import Price, price_of
from cascade_agent.models.tool_spec import ToolLike, tool_specs
from cascade_agent.models.traits import NESTED, ModelTraits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import ToolSpec

Role = Literal["small", "large"]
Way = Literal["invoke", "ainvoke", "stream", "astream"]
AnyRunnable = Runnable[Any, Any]
ModelLike: TypeAlias = "Tier | BaseChatModel | AnyRunnable | str"
"""A tier, or anything that can be made one: a chat model, what hosts wrap around one, a provider string."""
# Messages they are already: to check a history of 400 once more would take as long as the rest of a step.
_Prompt = create_model("_Prompt", __base__=ChatPromptValue, messages=(SkipValidation[Sequence[BaseMessage]], ...))
_READING = ("invoke", "ainvoke", "stream", "astream", "_convert_input")
CALL_SECONDS: ContextVar[float | None] = ContextVar("cascade_call_seconds", default=None)
"""Seconds that a synchronous call has: Python cannot end it, so a client that takes a timeout per call is given one."""


@dataclass(frozen=True, eq=False)
class Tier:
    """A candidate model with its price and its own deadline.

    `model` is a chat model, also behind `.bind(...)`, `.with_config(...)`, `.with_retry()`, `.with_fallbacks([...])`
    or as a configurable model of `init_chat_model`; or a provider string that `init_chat_model` understands, such as
    `"openai:gpt-4o-mini"` (needs the `langchain` extra), which is asked without retries of its SDK's own. Without
    `price` the cost comes from the price table, and stays None where the table does not know the model at its host.
    `timeout` is in seconds, for one call; without it the small tier may use a third of the policy's budget and the
    large tier what is left.

    Raises:
        ConfigurationError: not a chat model, or a timeout that is not positive.
    """

    model: BaseChatModel | AnyRunnable | str
    price: Price | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    base: BaseChatModel = field(init=False, repr=False)
    """The chat model itself, outside all bindings and wrappers; of several, the one that is tried first."""
    core: AnyRunnable = field(init=False, repr=False)
    """The runnable that is asked, outside the outer bindings: `base`, or the wrapper around it."""
    bound: JsonMapping = field(init=False, repr=False)
    """The arguments bound to it."""
    config: RunnableConfig | None = field(init=False, repr=False)
    """The config bound to it by `with_config`."""
    traits: ModelTraits = field(init=False, repr=False)
    label: str = field(init=False, repr=False)
    """The model's name for people."""
    nested: bool = field(init=False, repr=False)
    """The model is itself a cascade."""
    model_name: str | None = field(init=False)
    provider: str | None = field(init=False, repr=False)
    base_url: str | None = field(init=False, repr=False)
    max_tokens: int | None = field(init=False, repr=False)
    """The most tokens that an answer may have, where the model says so."""
    currency: str = field(init=False, repr=False)
    """The unit of `cost`; the price table is in US dollars."""

    def __post_init__(self) -> None:
        """Unwrap the bindings and read the name once."""
        seconds = self.timeout
        if seconds is not None and not (isinstance(seconds, int | float) and seconds is not True and seconds > 0):
            msg = f"Tier.timeout is {self.timeout!r}; expected a positive number of seconds or None"
            raise ConfigurationError(msg)
        if self.price is not None and not isinstance(self.price, Price):
            msg = f"Tier.price is {self.price!r}; expected a Price, such as Price(0.15, 0.60), or None"
            raise ConfigurationError(msg)
        core, bound, config = _unwrap(_resolved(self.model))
        base = _first_model(core)
        name, provider, max_tokens = _identity(base, bound)
        traits = ModelTraits.of(base, bound, name=name, provider=provider)
        if not isinstance(self.model, str):
            _report_sdk_retries(base, traits.label)
        vars(self).update(
            base=base,
            core=core,
            bound=bound,
            config=config,
            traits=traits,
            label=traits.label,
            nested=traits.kind == NESTED,
            model_name=name,
            provider=provider,
            base_url=traits.base_url,
            max_tokens=max_tokens,
            currency="USD" if self.price is None else self.price.currency,
        )

    @classmethod
    def of(cls, value: ModelLike) -> Tier:
        """Return a tier as it is, anything else as a tier."""
        return value if isinstance(value, Tier) else cls(value)

    def cost(self, usage: Usage, *, answered_by: str | None = None) -> float | None:
        """Return the cost of a usage at this tier's price, None when price or tokens are unknown.

        `answered_by` is the name in the answer: behind a deployment or a router only the answer names the model.
        """
        price = self.price
        for name in dict.fromkeys((answered_by, self.model_name)):
            if price is None and name is not None:
                price = price_of(name, self.provider, base_url=self.base_url)
        return None if price is None else price.cost(usage)

    def foreseen(self, request: int, *, most: bool) -> float | None:
        """Return what a call is going to cost, by the bytes of its request; None when price or limit are unknown.

        `most` is a bound: no token is shorter than a byte, no answer longer than `max_tokens`. Otherwise it is a guess
        for want of a mean: four bytes a token, 250 tokens of answer.
        """
        if not most:
            return self.cost(Usage(input_tokens=request // 4, output_tokens=min(250, self.max_tokens or 250)))
        if self.max_tokens is None:
            return None
        return self.cost(Usage(input_tokens=request, output_tokens=self.max_tokens))

    @property
    def hidden(self) -> bool:
        """Return whether its user tagged it to stay out of LangGraph's message stream."""
        return "nostream" in [*(self.base.tags or ()), *((self.config or {}).get("tags") or ())]

    @property
    def streams(self) -> bool:
        """Return whether its model can stream at all; what it cannot stream, a host gets as one whole message."""
        own = type(self.base)
        return self.nested or own._stream is not BaseChatModel._stream or own._astream is not BaseChatModel._astream

    def streams_with(self, *, tools: bool) -> bool:
        """Return whether a call would be streamed to whoever reads the stream; a cascade's always may be."""
        offered: JsonObject = {"tools": True} if tools else {}
        return self.nested or self.base._should_stream(async_api=True, stream=True, **offered)

    def messages_for(
        self, messages: list[BaseMessage], *, pair: Mapping[Role, Tier] | None = None, note: str | None = None
    ) -> list[BaseMessage]:
        """Return a conversation, with a note for the model at its end, in the form that this tier takes.

        `pair` are both tiers of the cascade: by the record on an answer they say at which host it was written.
        """
        known = None if pair is None else {role: tier.traits for role, tier in pair.items()}
        return messages_for(self.traits, messages, pair=known, note=note)

    def plain(self) -> Ready:
        """Ready to be asked as it is; tools bound to the model itself are on offer."""
        return self._ready(self.core, tools=cast("Sequence[ToolLike]", self.bound.get("tools") or ()), bound=self.bound)

    def with_tools(self, tools: Sequence[ToolLike], *, tool_choice: object = None, **kwargs: Any) -> Ready:
        """Ready to be asked with `tools`, in the tier's own tool format.

        Raises:
            ConfigurationError: the model cannot be offered one of the tools, or an option with them.
        """
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        runnable = _inside(self.core, lambda model: _bind_tools(model, tools, kwargs))
        return self._ready(runnable, tools=tools, bound=_without_tools(self.bound))

    def with_schema(self, schema: object, **kwargs: Any) -> Ready:
        """Ready to be asked for structured output: answers `{"raw", "parsed", "parsing_error"}`.

        A model whose own `with_structured_output` knows no `include_raw` answers with what was parsed alone.

        Raises:
            ConfigurationError: the model has no structured output.
        """

        def structured(model: Any) -> Any:
            try:
                return model.with_structured_output(schema, include_raw=True, **kwargs)
            except TypeError as error:
                if "include_raw" not in str(error):
                    raise
                return model.with_structured_output(schema, **kwargs)

        try:
            runnable = _inside(self.core, structured)
        except NotImplementedError as error:
            msg = f"{self.label} has no structured output: give a model that implements `with_structured_output`"
            raise ConfigurationError(msg) from error
        runnable = _with_bound(runnable, _without_tools(self.bound))
        return replace(self._ready(runnable, tools=(), bound={}), structured=True)

    @property
    def wrapped(self) -> bool:
        """Return whether retries or fallbacks stand around the model."""
        return not isinstance(self.core, BaseChatModel)

    def around(self, make: Callable[[Any], AnyRunnable]) -> AnyRunnable:
        """Return the tier's retries and fallbacks around what `make` puts in the place of each of its models."""
        return _inside(self.core, make)

    def _ready(self, runnable: AnyRunnable, *, tools: Sequence[ToolLike], bound: JsonMapping) -> Ready:
        if bound:
            runnable = runnable.bind(**bound)
        if self.config:
            runnable = runnable.with_config(self.config)
        runnable, given = _unbound(runnable)
        return Ready(tier=self, runnable=runnable, given=given, specs=tool_specs(tools) if tools else ())


@dataclass(frozen=True, eq=False, kw_only=True)
class Ready:
    """A tier with its tools or output schema bound: what is asked, and what it may call."""

    tier: Tier
    runnable: AnyRunnable
    given: JsonMapping = field(default_factory=dict)
    """Arguments of every call."""
    specs: tuple[ToolSpec, ...] = ()
    structured: bool = False

    @cached_property
    def takes_prompts(self) -> bool:
        """Return whether it is a model that reads its input as LangChain's do."""
        own = type(self.runnable)
        return isinstance(self.runnable, BaseChatModel) and all(
            getattr(own, name) is getattr(BaseChatModel, name) for name in _READING
        )

    def ask(self, messages: list[BaseMessage], config: RunnableConfig | None, **more: Any) -> Any:
        """Ask the tier; arguments of this call win over bound ones."""
        return self.call("invoke", messages, config, more)

    def aask(self, messages: list[BaseMessage], config: RunnableConfig | None, **more: Any) -> Awaitable[Any]:
        """Async twin of `ask`."""
        return cast("Awaitable[Any]", self.call("ainvoke", messages, config, more))

    def call(self, way: Way, messages: list[BaseMessage], config: RunnableConfig | None, more: JsonMapping) -> Any:
        """Ask the tier in one of the ways of a runnable."""
        runnable, given = self.runnable, {**self.given, **more}
        if more and self.structured:
            runnable, given = _with_bound(runnable, more), {**self.given}
        if way == "invoke" and (seconds := CALL_SECONDS.get()) is not None and "timeout" not in given:
            given.update(self._timeout(seconds))
        request: Any = _Prompt(messages=[*messages]) if self.takes_prompts else messages
        return getattr(runnable, way)(request, config, **given)

    def _timeout(self, seconds: float) -> JsonObject:
        """Return the timeout of a call where it reaches the client alone: no wrapper, no cache that it is a key of."""
        base, setting = self.tier.base, self.tier.traits.timeout_setting
        cached = base.cache or (base.cache is not False and get_llm_cache())
        if not setting or self.structured or self.tier.wrapped or cached:
            return {}
        own, longest = getattr(base, setting), 1.05 * seconds + 0.1  # the deadline itself passes first
        return {"timeout": longest} if own is None or (isinstance(own, int | float) and own > longest) else {}


def _without_tools(bound: JsonMapping) -> JsonObject:
    return {key: value for key, value in bound.items() if key not in ("tools", "tool_choice")}


def _unbound(runnable: AnyRunnable) -> tuple[AnyRunnable, JsonObject]:
    """Take apart a binding of arguments alone: it would cost 30 us at every call."""
    given: JsonObject = {}
    while isinstance(runnable, RunnableBinding) and not runnable.config and not runnable.config_factories:
        given = {**runnable.kwargs, **given}
        runnable = runnable.bound
    return runnable, given


def _resolved(model: object) -> object:
    if not isinstance(model, str):
        return model
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        msg = f"the provider string {model!r} needs langchain: pip install 'langgraph-cascade[langchain]'"
        raise ConfigurationError(msg) from error
    try:
        return init_chat_model(model, max_retries=0)  # the step itself decides on retries
    except (ImportError, ValueError, TypeError) as error:
        msg = f"the provider string {model!r} gives no model: {error}"
        raise ConfigurationError(msg) from error


@cache
def _report_once(retries: str) -> None:
    LOG.info("the client of %s by itself, below the cascade's own retries: give it max_retries=0", retries)


def _report_sdk_retries(base: BaseChatModel, label: str) -> None:
    retries = getattr(base, "max_retries", 0)
    if retries is None:
        retries = getattr(getattr(base, "root_client", None), "max_retries", 0)
    if isinstance(retries, int) and retries > 1:
        _report_once(f"{label} retries {retries} times")


def _inside(runnable: Any, make: Callable[[Any], AnyRunnable]) -> AnyRunnable:
    """Apply `make` to every chat model inside the wrappers and bindings of a tier, and put them back around it."""
    if isinstance(runnable, RunnableWithFallbacks):
        first = _inside(runnable.runnable, make)
        others = [_inside(fallback, make) for fallback in runnable.fallbacks]
        return runnable.model_copy(update={"runnable": first, "fallbacks": others})
    if isinstance(runnable, RunnableBindingBase):
        kwargs = runnable.kwargs
        if isinstance(runnable, RunnableBinding):
            kwargs = {key: value for key, value in _without_tools(kwargs).items() if key != "stream"}
        return runnable.model_copy(update={"bound": _inside(runnable.bound, make), "kwargs": kwargs})
    return make(runnable)


def _bind_tools(model: Any, tools: Sequence[ToolLike], options: JsonMapping) -> AnyRunnable:
    tier = Tier.of(model)
    offered, settings = offer_for(tier.traits, tools, options)
    try:
        return cast("AnyRunnable", model.bind_tools(offered, **settings))
    except NotImplementedError:
        raise
    except Exception as error:
        names = ", ".join(repr(spec.name) for spec in tool_specs(tools))
        given = f" with {sorted(settings)}" if settings else ""
        msg = f"{tier.label} cannot be offered the tools {names}{given}: {type(error).__name__}: {error}"
        raise ConfigurationError(msg) from error


def _first_model(core: Any) -> BaseChatModel:
    found: list[BaseChatModel] = []

    def look(model: Any) -> Any:
        found.append(model if isinstance(model, BaseChatModel) else _default_of(model))
        return model

    _inside(core, look)
    return found[0]


def _default_of(model: Any) -> BaseChatModel:
    """Return the chat model that a configurable model of `init_chat_model` is without configuration."""
    try:
        made = _unwrap(configured(model, None))[0]
    except (TypeError, ValueError) as error:
        msg = (
            "a configurable model without a default cannot be a tier: name one, as in "
            f"init_chat_model('openai:gpt-4o-mini', configurable_fields=...) ({error})"
        )
        raise ConfigurationError(msg) from error
    if isinstance(made, BaseChatModel):
        return made
    msg = (
        f"a tier is {type(model).__name__}; expected a chat model, one behind bind, with_config, with_retry or "
        "with_fallbacks, a Tier, or a provider string such as 'openai:gpt-4o-mini'"
    )
    raise ConfigurationError(msg)


def configured(model: Any, config: RunnableConfig | None) -> Any:
    """Return the model that a configurable one is under a config; any other as it is."""
    if isinstance(model, DynamicRunnable):  # model.configurable_fields(...), model.configurable_alternatives(...)
        return model.prepare(config)[0]
    make = getattr(type(model), "_model", None)
    return make(model, config) if make is not None and type(model).__name__ == "_ConfigurableModel" else model


def _with_bound(runnable: AnyRunnable, bound: JsonMapping) -> AnyRunnable:
    """Bind arguments to the model inside a structured-output chain; the chain itself would not hand them on."""
    if not bound:
        return runnable
    if isinstance(runnable, RunnableWithFallbacks):
        others = [_with_bound(fallback, bound) for fallback in runnable.fallbacks]
        return runnable.model_copy(update={"runnable": _with_bound(runnable.runnable, bound), "fallbacks": others})
    if isinstance(runnable, RunnableBindingBase) and (
        not isinstance(runnable, RunnableBinding) or isinstance(runnable.bound, RunnableSequence)
    ):
        return runnable.model_copy(update={"bound": _with_bound(runnable.bound, bound)})
    if isinstance(runnable, RunnableSequence):
        return RunnableSequence(_with_bound(runnable.first, bound), *runnable.middle, runnable.last)
    if isinstance(runnable, RunnableParallel):
        return RunnableParallel({key: _with_bound(step, bound) for key, step in runnable.steps__.items()})
    return runnable.bind(**bound)


def _unwrap(model: object) -> tuple[Any, JsonObject, RunnableConfig | None]:
    """Return what is behind the outer bindings, their arguments and their config."""
    bound: JsonObject = {}
    config: RunnableConfig | None = None
    while isinstance(model, RunnableBinding):
        bound = {**model.kwargs, **bound}
        if model.config:
            config = merge_configs(model.config, config) if config else model.config
        model = model.bound
    # A model set to stream would be judged on repaired fragments; it is asked whole where nobody reads the stream.
    bound.pop("stream", None)
    return _inside(model, _asked_whole) if model is not None else None, bound, config


def _asked_whole(model: Any) -> Any:
    if getattr(model, "streaming", None) is True and hasattr(model, "model_copy"):
        copy = model.model_copy(update={"streaming": False})
        copy.model_fields_set.discard("streaming")  # set to False it would refuse to stream at all
        return copy
    return model


def _identity(base: BaseChatModel, bound: JsonMapping) -> tuple[str | None, str | None, int | None]:
    """Return name, provider and limit of output, as tracers read them."""
    limit = next((bound[key] for key in ("max_tokens", "max_completion_tokens") if bound.get(key)), None)
    try:
        params = base._get_ls_params(**({"model": bound["model"]} if "model" in bound else {}))
    except Exception:  # noqa: BLE001 - a model that cannot name itself has no name
        return None, None, limit
    return params.get("ls_model_name"), params.get("ls_provider"), limit or params.get("ls_max_tokens")
