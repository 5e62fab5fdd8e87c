"""`CascadeChatModel`: a small-then-large pair that is itself a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence  # noqa: TC003 - `with_fallbacks` resolves the annotations
from contextlib import aclosing
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack, cast

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage  # noqa: TC002 - as above
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation

from cascade_agent import telemetry
from cascade_agent._log import LOG
from cascade_agent.core.clean_json import JsonObject  # noqa: TC001 - as above
from cascade_agent.core.policy import Policy, refuse_unknown
from cascade_agent.engine.run_step import ModelCall, arun_step, astream_step, run_step, stream_step
from cascade_agent.engine.shadow import SHADOW
from cascade_agent.engine.step import Answer, CascadeSettings, current_state
from cascade_agent.engine.streaming import aevent_stream, event_stream
from cascade_agent.engine.structured import answer_of, rebuilt
from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.writer import lost_records
from cascade_agent.models.tool_binding import PLAIN_MESSAGES, Offer, OfferedTools, ToolBinding, common_profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.journal.writer import Journal
    from cascade_agent.models.tier import ModelLike, Tier

telemetry.count_losses(lost_records)

_POLICY = Policy()
_SETTINGS = frozenset({"small", "large", "validators", "policy", "journal", "durable"})
_POLICY_SETTINGS = frozenset(field.name for field in fields(Policy))
_OF_TIERS = (
    "streaming",
    "temperature",
    "max_tokens",
    "timeout",
    "stop",
    "max_retries",
    "api_key",
    "base_url",
    "model",
    "model_name",
    "cache",
    "rate_limiter",
    "custom_get_token_ids",
)
"""LangChain's standard parameters of a model: here each tier's model has its own."""


class HostSettings(TypedDict, total=False):
    """Settings that every LangChain chat model takes."""

    callbacks: Any
    disable_streaming: Any
    metadata: JsonObject | None
    output_version: str | None
    profile: Any
    tags: list[str] | None
    verbose: bool


class CascadeChatModel(BaseChatModel):
    """A chat model that asks `small` first and `large` only when the step needs it.

    ```python
    model = CascadeChatModel(small="openai:gpt-4o-mini", large="openai:gpt-4o")
    model.bind_tools(tools).invoke("...").response_metadata["cascade"]["reason"]
    ```

    It does all that a chat model does: `bind_tools`, `with_structured_output`, `stream`, `batch`, events, async. The
    returned message keeps its own call's `usage_metadata`; the whole step stands, as plain JSON without the rejected
    answers, in `response_metadata["cascade"]` (`engine.step.trace_of` reads it).

    `config["configurable"]` may carry `cascade_policy`, a mapping of policy settings for this call, and
    `cascade_disabled: True`, which sends it to large, as the environment variable `CASCADE_DISABLED` does.

    Raises:
        ConfigurationError: at construction, when a tier, validator or setting cannot work.
        CascadeExhausted: from a call, when no tier gave an answer that the policy lets pass.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    small: SkipValidation[Any]
    """The model that is tried first: a chat model, a `Tier`, or a provider string."""

    large: SkipValidation[Any]
    """The model that answers the steps that need it."""

    validators: SkipValidation[Any] = Field(default=None, repr=False)
    """The judges of a draft; None means `default_validators()`."""

    policy: SkipValidation[Policy] = Field(default_factory=Policy)
    """When to escalate and what to do when even the large draft fails: a `Policy`, or a mapping of its settings."""

    name: str | None = "cascade"
    """Name of the step in traces and journal."""

    journal: SkipValidation[Any] = Field(default=None, repr=False)
    """Where steps are recorded: a `Journal` or a path; None means the file named by `CASCADE_JOURNAL`, if any."""

    durable: bool = False
    """In a graph with a checkpointer: save each answer there at once, so that an interrupt later in the same node
    neither pays nor changes it. Always so under `on_exhausted="interrupt"`. Costs a write per step, and
    `stream_mode="updates"` shows the saved record under the key `cascade.step`."""

    is_cascade: ClassVar[bool] = True
    """Known by this as a tier of another cascade."""

    _cascade: CascadeSettings = PrivateAttr()
    _binding: ToolBinding = PrivateAttr()

    def __init__(
        self,
        *,
        small: ModelLike,
        large: ModelLike,
        validators: Sequence[object] | None = None,
        policy: Policy | JsonMapping | None = _POLICY,
        name: str | None = "cascade",
        journal: Journal | object = None,
        durable: bool = False,
        **host: Unpack[HostSettings],
    ) -> None:
        for given in list(host):
            # no settings of ours, so type checkers refuse them already
            if given in _OF_TIERS and host.pop(given) is not None:  # type: ignore[misc]
                LOG.warning("CascadeChatModel ignores %s: set it on the models of small and large", given)
        _refuse_policy_settings(host)
        refuse_unknown("CascadeChatModel", host, type(self).model_fields)
        own: JsonObject = {"small": small, "large": large, "validators": validators, "policy": policy}
        own |= {"journal": journal, "durable": durable}  # fields of this class, which the base does not list
        super().__init__(name=name, **own, **host)
        self._assemble()

    def _assemble(self) -> None:
        """Make ready what the settings name; again whenever they change."""
        policy = Policy.of(self.policy)
        object.__setattr__(self, "policy", policy)  # not by assignment, which comes here again
        self._cascade = CascadeSettings.of(
            self.small,
            self.large,
            validators=self.validators,
            policy=policy,
            journal=self.journal,
            durable=self.durable,
        )
        small, large = cast("Tier", self._cascade.small), self._cascade.large
        self._binding = ToolBinding({"small": small, "large": large})
        if self.profile is None:
            self.profile = common_profile([small, large])

    def __setattr__(self, name: str, value: Any) -> None:
        """Make a changed setting count."""
        super().__setattr__(name, value)
        if name in _SETTINGS:
            self._assemble()

    def model_copy(self, *, update: JsonMapping | None = None, deep: bool = False) -> Self:
        """Return a copy with changed settings."""
        copied = super().model_copy(update=update, deep=deep)
        copied._assemble()  # noqa: SLF001 - of our own class
        return copied

    # ---- asking: sync and async -------------------------------------------------------------------------------------

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer one step."""
        return run_step(self._call(input, config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Async twin of `invoke`."""
        return await arun_step(self._call(input, config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Stream the answer in chunks: small's when it is accepted, large's as it comes, where it cannot be refused."""
        yield from stream_step(self._call(input, config, kwargs))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Async twin of `stream`."""
        async with aclosing(astream_step(self._call(input, config, kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _call(
        self, value: LanguageModelInput, config: RunnableConfig | None, kwargs: JsonObject
    ) -> ModelCall[AIMessage]:
        if kwargs.get("stop", "") is None:
            del kwargs["stop"]
        offer, given = self._binding.of_call(kwargs)
        return self._model_call(value, config, offer, given)

    # ---- tools and structured output --------------------------------------------------------------------------------

    def bind(self, **kwargs: Any) -> Any:
        """Bind arguments of the call for both tiers.

        Raises:
            ConfigurationError: one of them is a setting of the policy.
        """
        _refuse_policy_settings(kwargs)
        return super().bind(**kwargs)

    def bind_tools(
        self,
        tools: Sequence[JsonObject | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; each tier formats them its own way when it is asked."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        bound: Runnable[LanguageModelInput, AIMessage] = self.bind(
            tools=OfferedTools(self._binding.offer(tools, kwargs), kwargs), **kwargs
        )
        return bound

    def with_structured_output(
        self, schema: JsonObject | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose answers are of the given schema; each tier uses its own way.

        A draft of small that does not parse escalates; what large gives is what large alone would have given, its
        parsing error too. With `include_raw` the output is `{"raw", "parsed", "parsing_error"}` and `raw` carries the
        record of the step.
        """
        offer = self._binding.structured(schema, kwargs)
        to_native = partial(_structured, include_raw=include_raw)

        def ask(value: LanguageModelInput, config: RunnableConfig, **call: Any) -> Any:
            return run_step(self._model_call(value, config, offer, call, to_native))

        async def aask(value: LanguageModelInput, config: RunnableConfig, **call: Any) -> Any:
            return await arun_step(self._model_call(value, config, offer, call, to_native))

        return RunnableLambda(ask, aask, name=f"{self.get_name()}.structured")

    # ---- one step ---------------------------------------------------------------------------------------------------

    def _model_call(
        self,
        value: LanguageModelInput,
        config: RunnableConfig | None,
        offer: Offer,
        given: JsonObject,
        to_native: Callable[[Answer, AIMessage], Any] | None = None,
    ) -> ModelCall[Any]:
        if given:
            _refuse_policy_settings(given)
        config, messages = ensure_config(config), self._messages_of(value)
        ask = self._binding.asker(offer, messages, given)
        name, own_name = self.name or "cascade", self.get_name()
        if name == "cascade":  # not named by the user: the node it runs in says more
            name = (config.get("metadata") or {}).get("langgraph_node", name)
        own = self.callbacks
        return ModelCall(
            settings=self._cascade,
            name=name,
            messages=messages,
            config=config,
            call=partial(ask, "invoke"),
            acall=partial(ask, "ainvoke"),
            stream=partial(ask, "stream"),
            astream=partial(ask, "astream"),
            shadow=partial(ask, "invoke", "large", None, SHADOW),
            read=partial(answer_of, structured=offer.ready["small"].structured),
            to_native=to_native,
            rebuild=partial(rebuilt, offer.schema),
            tools=(offer.ready["small"].specs, offer.ready["large"].specs),
            bound=offer.bound,
            state=current_state(),
            stream_name=own_name,
            whole=self.disable_streaming is True or (self.disable_streaming == "tool_calling" and bool(offer.tools)),
            run_name=f"cascade.step {own_name}",
            output_version=None if offer.schema is not None else self.output_version,
            local={"verbose": self.verbose, "local_tags": self.tags, "local_metadata": self.metadata},
            handlers=own.handlers if isinstance(own, BaseCallbackManager) else own or (),
        )

    def _messages_of(self, value: LanguageModelInput) -> list[BaseMessage]:
        """Return the request as messages; a list of messages as it is: checking a long history again costs 0.2 ms."""
        if isinstance(value, list) and PLAIN_MESSAGES.issuperset(map(type, value)):
            return list(cast("list[BaseMessage]", value))
        return self._convert_input(value).to_messages()

    # ---- the rest of the chat-model contract ------------------------------------------------------------------------

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        del run_manager  # a model run's manager has no children; `generate` goes through `invoke` instead
        return ChatResult(generations=[ChatGeneration(message=self.invoke(messages, stop=stop, **kwargs))])

    def generate(
        self, messages: list[list[BaseMessage]], stop: list[str] | None = None, callbacks: Any = None, **more: Any
    ) -> LLMResult:
        """Answer several steps; each is a run of its own, as in `batch`."""
        config = _config_in(more, callbacks, len(messages))
        return _result([self.invoke(m, config.copy(), stop=stop, **more) for m in messages])

    async def agenerate(
        self, messages: list[list[BaseMessage]], stop: list[str] | None = None, callbacks: Any = None, **more: Any
    ) -> LLMResult:
        """Async twin of `generate`; the steps run concurrently."""
        config = _config_in(more, callbacks, len(messages))
        steps = (self.ainvoke(m, config.copy(), stop=stop, **more) for m in messages)
        answers = await asyncio.gather(*steps, return_exceptions=True)  # no step goes on behind the caller's back
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return _result(cast("list[AIMessage]", answers))

    def stream_events(
        self, input: Any, config: RunnableConfig | None = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        """As `BaseChatModel.stream_events`; under `v3` the accepted answer comes as one model's stream."""
        if version != "v3":
            return super().stream_events(input, config, version=version, **kwargs)
        return event_stream(self.stream(input, config, **kwargs))

    def astream_events(
        self, input: Any, config: RunnableConfig | None = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        """Async twin of `stream_events`."""
        if version != "v3":
            return super().astream_events(input, config, version=version, **kwargs)
        return aevent_stream(self.astream(input, config, **kwargs))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        """Count as the large model does."""
        return self._cascade.large.base.get_num_tokens_from_messages(messages, tools)

    def get_token_ids(self, text: str) -> list[int]:
        """Cut as the large model does."""
        return self._cascade.large.base.get_token_ids(text)

    @property
    def _llm_type(self) -> str:
        return str(self._cascade.large.base._llm_type)

    @property
    def _identifying_params(self) -> JsonObject:
        judges = self._cascade.validators
        return {
            "small": cast("Tier", self._cascade.small).label,
            "large": self._cascade.large.label,
            "validators": [name for name, _ in (*judges.before, *judges.local)] + list(judges.evidence),
            "policy": self.policy.version,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        large = self._cascade.large
        pair = f"{cast('Tier', self._cascade.small).label}->{large.label}"
        params = LangSmithParams(ls_model_type="chat", ls_model_name=kwargs.get("model") or pair)
        params["ls_provider"] = large.provider or "cascade"  # hosts compare it with the `model_provider` of answers
        if stop:
            params["ls_stop"] = stop
        return params


# ---- pieces without a model -----------------------------------------------------------------------------------------


def _refuse_policy_settings(given: JsonMapping) -> None:
    misplaced = sorted(_POLICY_SETTINGS & given.keys())
    if misplaced:
        name = misplaced[0]
        msg = (
            f"{name!r} is a setting of the policy: write policy=Policy({name}=...), or for one call "
            f"config={{'configurable': {{'cascade_policy': {{{name!r}: ...}}}}}}"
        )
        raise ConfigurationError(msg)


def _structured(answer: Answer, message: AIMessage, *, include_raw: bool) -> Any:
    """Return structured output as LangChain does; a parsing error is raised as the tier's own parser would."""
    parsed, error = answer.draft.parsed, answer.native
    if include_raw:
        return {"raw": message, "parsed": parsed, "parsing_error": error}
    if isinstance(error, Exception):
        raise error
    return parsed


def _config_in(more: JsonObject, callbacks: Any, steps: int) -> RunnableConfig:
    """Take the config of a run out of the arguments of `generate`; several steps cannot have one id."""
    given = {"callbacks": callbacks, **{key: more.pop(key, None) for key in ("tags", "metadata", "run_name", "run_id")}}
    if steps != 1:
        del given["run_id"]
    return cast("RunnableConfig", {key: value for key, value in given.items() if value is not None})


def _result(answers: Sequence[AIMessage]) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=answer)] for answer in answers])
