"""One candidate model of the pair: how it is named, priced, limited and made ready to be asked.

Law: what was bound to one tier (`small.bind(temperature=0)`) never reaches the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from cascade_agent.core.records import Usage
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.pricing import Price, price_of
from cascade_agent.models.tool_spec import tool_specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig

    from cascade_agent.core.records import ToolSpec

Role = Literal["small", "large"]


@dataclass(frozen=True, eq=False)
class Tier:
    """A candidate model with its price and its own deadline.

    `model` is a chat model (also one with arguments bound by `.bind(...)`) or a provider string that
    `init_chat_model` understands, such as `"openai:gpt-4o-mini"` (needs the `langchain` extra). Without `price` the
    cost comes from the price table, and stays None where the table does not know the model at its host.
    `timeout` is in seconds, for one call; without it the small tier may use a third of the policy's budget and the
    large tier what is left.

    Raises:
        ConfigurationError: not a chat model, or a timeout that is not positive.
    """

    model: BaseChatModel | Runnable[Any, Any] | str
    price: Price | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    base: BaseChatModel = field(init=False, repr=False)
    """The chat model itself, outside all bindings."""
    bound: Mapping[str, Any] = field(init=False, repr=False)
    """The arguments bound to it."""
    config: RunnableConfig | None = field(init=False, repr=False)
    """The config bound to it by `with_config`."""
    model_name: str | None = field(init=False)
    provider: str | None = field(init=False, repr=False)
    base_url: str | None = field(init=False, repr=False)
    max_tokens: int | None = field(init=False, repr=False)
    """The most tokens that an answer may have, where the model says so."""

    def __post_init__(self) -> None:
        """Unwrap the bindings and read the name once."""
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout > 0):
            msg = f"Tier.timeout is {self.timeout!r}; expected a positive number of seconds or None"
            raise ConfigurationError(msg)
        if self.price is not None and not isinstance(self.price, Price):
            msg = f"Tier.price is {self.price!r}; expected a Price, such as Price(0.15, 0.60), or None"
            raise ConfigurationError(msg)
        base, bound, config = _unwrap(_resolved(self.model))
        name, provider, max_tokens = _identity(base, bound)
        for key, value in (
            ("base", base),
            ("bound", bound),
            ("config", config),
            ("model_name", name),
            ("provider", provider),
            ("base_url", _base_url(base)),
            ("max_tokens", max_tokens),
        ):
            object.__setattr__(self, key, value)

    @classmethod
    def of(cls, value: Tier | BaseChatModel | Runnable[Any, Any] | str) -> Tier:
        """What a door was given, as a tier."""
        return value if isinstance(value, Tier) else cls(value)

    def cost(self, usage: Usage) -> float | None:
        """Cost of a usage at this tier's price, None when price or tokens are unknown."""
        price = self.price or price_of(self.model_name, self.provider, base_url=self.base_url)
        return None if price is None else price.cost(usage)

    def foreseen(self, request: int, *, most: bool) -> float | None:
        """What a call is going to cost, by the bytes of its request; None when price or limit are unknown.

        `most` is a bound: no token is shorter than a byte, no answer longer than `max_tokens`. Otherwise it is a guess
        for want of a mean: four bytes a token, 250 tokens of answer.
        """
        if not most:
            return self.cost(Usage(input_tokens=request // 4, output_tokens=min(250, self.max_tokens or 250)))
        if self.max_tokens is None:
            return None
        return self.cost(Usage(input_tokens=request, output_tokens=self.max_tokens))

    @property
    def currency(self) -> str:
        """The unit of `cost`; the price table is in US dollars."""
        return "USD" if self.price is None else self.price.currency

    @property
    def hidden(self) -> bool:
        """Whether its user tagged it to stay out of LangGraph's message stream."""
        return "nostream" in [*(self.base.tags or ()), *((self.config or {}).get("tags") or ())]

    def plain(self) -> Ready:
        """Ready to be asked as it is; tools bound to the model itself are on offer."""
        return self._ready(self.base, tools=cast("Sequence[Any]", self.bound.get("tools") or ()), bound=self.bound)

    def with_tools(self, tools: Sequence[Any], *, tool_choice: object = None, **kwargs: Any) -> Ready:
        """Ready to be asked with `tools`, in the tier's own tool format."""
        rest = {k: v for k, v in self.bound.items() if k not in ("tools", "tool_choice")}
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self._ready(self.base.bind_tools(tools, **kwargs), tools=tools, bound=rest)

    def with_schema(self, schema: Any, **kwargs: Any) -> Ready:
        """Ready to be asked for structured output: answers `{"raw", "parsed", "parsing_error"}`.

        Raises:
            ConfigurationError: the model has no structured output.
        """
        try:
            runnable = self.base.with_structured_output(schema, include_raw=True, **kwargs)
        except NotImplementedError as error:
            msg = f"{self.label} has no structured output: give a model that implements `with_structured_output`"
            raise ConfigurationError(msg) from error
        rest = {k: v for k, v in self.bound.items() if k not in ("tools", "tool_choice")}
        return replace(self._ready(_with_bound(runnable, rest), tools=(), bound={}), structured=True)

    @property
    def label(self) -> str:
        """The model's name for people."""
        return self.model_name or type(self.base).__name__

    def _ready(self, runnable: Runnable[Any, Any], *, tools: Sequence[Any], bound: Mapping[str, Any]) -> Ready:
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
    runnable: Runnable[Any, Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of every call."""
    specs: tuple[ToolSpec, ...] = ()
    structured: bool = False

    def ask(self, messages: list[BaseMessage], config: RunnableConfig | None, **more: Any) -> Any:
        """Ask the tier; arguments of this call win over bound ones."""
        runnable, given = self._called(more)
        return runnable.invoke(messages, config, **given)

    async def aask(self, messages: list[BaseMessage], config: RunnableConfig | None, **more: Any) -> Any:
        """Async twin of `ask`."""
        runnable, given = self._called(more)
        return await runnable.ainvoke(messages, config, **given)

    def _called(self, more: Mapping[str, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
        if more and self.structured:
            return _with_bound(self.runnable, more), dict(self.given)
        return self.runnable, {**self.given, **more}


def _unbound(runnable: Runnable[Any, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
    """A binding of arguments alone, taken apart: it would cost 30 us at every call."""
    from langchain_core.runnables import RunnableBinding

    given: dict[str, Any] = {}
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
        return init_chat_model(model)
    except (ImportError, ValueError) as error:
        msg = f"the provider string {model!r} gives no model: {error}"
        raise ConfigurationError(msg) from error


def _with_bound(runnable: Runnable[Any, Any], bound: Mapping[str, Any]) -> Runnable[Any, Any]:
    """Bind arguments to the model inside a structured-output chain; the chain itself would not hand them on."""
    from langchain_core.runnables import RunnableBinding, RunnableParallel, RunnableSequence

    if not bound:
        return runnable
    if isinstance(runnable, RunnableBinding) and isinstance(runnable.bound, RunnableSequence):
        return runnable.model_copy(update={"bound": _with_bound(runnable.bound, bound)})
    if isinstance(runnable, RunnableSequence):
        return RunnableSequence(_with_bound(runnable.first, bound), *runnable.middle, runnable.last)
    if isinstance(runnable, RunnableParallel):
        return RunnableParallel({key: _with_bound(step, bound) for key, step in runnable.steps__.items()})
    return runnable.bind(**bound)


def _unwrap(model: object) -> tuple[BaseChatModel, dict[str, Any], RunnableConfig | None]:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableBinding
    from langchain_core.runnables.config import merge_configs

    bound: dict[str, Any] = {}
    config: RunnableConfig | None = None
    while isinstance(model, RunnableBinding):
        bound = {**model.kwargs, **bound}
        if model.config:
            config = merge_configs(model.config, config) if config else model.config
        model = model.bound
    if not isinstance(model, BaseChatModel):
        msg = (
            f"a tier is {type(model).__name__}; expected a chat model, one with bound arguments, "
            "a Tier, or a provider string such as 'openai:gpt-4o-mini' (put with_retry and with_fallbacks "
            "around the cascade, or give the model its own max_retries)"
        )
        raise ConfigurationError(msg)
    # A model set to stream would be judged on repaired fragments; drafts are asked whole (R4).
    bound.pop("stream", None)
    if getattr(model, "streaming", None) is True:
        model = model.model_copy(update={"streaming": False, "disable_streaming": True})
    return model, bound, config


def _identity(base: BaseChatModel, bound: Mapping[str, Any]) -> tuple[str | None, str | None, int | None]:
    """Name, provider and limit of output, as tracers are told them."""
    limit = next((bound[key] for key in ("max_tokens", "max_completion_tokens") if bound.get(key)), None)
    try:
        params = base._get_ls_params(**({"model": bound["model"]} if "model" in bound else {}))  # noqa: SLF001 - the hook that tracers read
    except Exception:  # noqa: BLE001 - a model that cannot name itself has no name
        return None, None, limit
    return params.get("ls_model_name"), params.get("ls_provider"), limit or params.get("ls_max_tokens")


def _base_url(base: BaseChatModel) -> str | None:
    for name in ("openai_api_base", "base_url", "anthropic_api_url", "azure_endpoint", "endpoint_url"):
        value = getattr(base, name, None)
        if isinstance(value, str) and value:
            return value
    return None
