"""`CascadeChatModel`: a small-then-large pair that is itself a LangChain chat model.

Placement: the cascade is a *chain* run, the tiers are the only model runs, so every model call is traced, counted and
rate-limited exactly once. Drafts are asked whole and unseen; what was accepted is streamed in pieces.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config, patch_config
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation

from cascade_agent import telemetry
from cascade_agent.adapters import streaming as streams
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Draft, StepContext
from cascade_agent.engine.durable import Settled, asettle, parse, settle
from cascade_agent.engine.shadow import SHADOW
from cascade_agent.engine.statistics import Ledger
from cascade_agent.engine.step import Answer, Step
from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.writer import Journal, lost_records
from cascade_agent.models.pricing import warm
from cascade_agent.models.tier import Ready, Role, Tier
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators import default_validators
from cascade_agent.validators.validator_set import Panel, check_fit

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
    from langchain_core.callbacks.manager import BaseRunManager

    from cascade_agent.core.records import StepTrace

telemetry.count_losses(lost_records)

_ROLES: tuple[Role, Role] = ("small", "large")
_MAX_OFFERS = 64
_OFFERS_LOCK = threading.Lock()
_SETTINGS = frozenset({"small", "large", "validators", "policy"})
_POLICY_SETTINGS = frozenset(field.name for field in fields(Policy))
_PLAIN_MESSAGES = frozenset({AIMessage, HumanMessage, SystemMessage, ToolMessage})
_STATE: ContextVar[object] = ContextVar("cascade_state", default=None)
_NESTED: ContextVar[bool] = ContextVar("cascade_nested", default=False)
"""Whether a tier is being asked here. The step of a cascade that is itself a tier stands in the outer one's record; the
journal that the environment names would count it twice."""


@dataclass(frozen=True, eq=False)
class _Offer:
    """Both tiers made ready for one kind of call."""

    ready: dict[Role, Ready]
    tool_choice: str | None = None
    schema: object = None
    tools: tuple[Any, ...] = ()
    """The tools as given; keeps alive what the cache key points at."""
    shown: tuple[dict[str, Any], ...] = ()


class OfferedTools(list[dict[str, Any]]):
    """The tools in `bind_tools(...).kwargs["tools"]`: the OpenAI form to look at, and each tier's own form inside."""

    def __init__(self, offer: _Offer, options: Mapping[str, Any]) -> None:
        super().__init__(offer.shown)
        self.offer = offer
        self.options = dict(options)


class CascadeChatModel(BaseChatModel):
    """A chat model that asks `small` first and `large` only when the step needs it.

    ```python
    model = CascadeChatModel(small="openai:gpt-4o-mini", large="openai:gpt-4o")
    model.bind_tools(tools).invoke("...").response_metadata["cascade"]["reason"]
    ```

    It does all that a chat model does: `bind_tools`, `with_structured_output`, `stream`, `batch`, events, async. The
    returned message keeps its own call's `usage_metadata`; the whole step stands, as plain JSON without the rejected
    answers, in `response_metadata["cascade"]` (`runner.trace_of` reads it).

    Raises:
        ConfigurationError: at construction, when a tier, validator or setting cannot work.
        CascadeExhausted: from a call, when no tier gave an answer that may be returned.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    small: SkipValidation[Any]
    """The model that is tried first: a chat model, a `Tier`, or a provider string."""

    large: SkipValidation[Any]
    """The model that answers the steps that need it."""

    validators: SkipValidation[Any] = Field(default=None, repr=False)
    """What judges a draft; None means `default_validators()`."""

    policy: SkipValidation[Policy] = Field(default_factory=Policy)
    """When to escalate and what to do when even the large draft fails."""

    name: str | None = "cascade"
    """Name of the step in traces and journal."""

    journal: SkipValidation[Any] = Field(default=None, repr=False)
    """Where steps are recorded: a `Journal` or a path; None means the file named by `CASCADE_JOURNAL`, if any."""

    durable: bool = False
    """In a graph with a checkpointer: save each answer there at once, so that an interrupt later in the same node
    neither pays nor changes it. Always so under `on_exhausted="interrupt"`. Costs a write per step, and
    `stream_mode="updates"` shows the saved record under the key `cascade.step`."""

    _tiers: dict[Role, Tier] = PrivateAttr()
    _panel: Panel = PrivateAttr()
    _journal: Any = PrivateAttr(default=None)
    _ledger: Ledger = PrivateAttr(default_factory=Ledger)
    _plain: _Offer = PrivateAttr()
    _offers: dict[Any, _Offer] = PrivateAttr(default_factory=dict)

    def __init__(self, **kwargs: Any) -> None:
        misplaced = sorted(_POLICY_SETTINGS & kwargs.keys())
        if misplaced:
            name = misplaced[0]
            msg = f"{name!r} is a setting of the policy: write policy=Policy({name}=...)"
            raise ConfigurationError(msg)
        super().__init__(**kwargs)
        self._assemble()

    def _assemble(self) -> None:
        """Make ready what the settings name; again whenever they change."""
        if not isinstance(self.policy, Policy):
            msg = f"policy is {type(self.policy).__name__}; expected a Policy"
            raise ConfigurationError(msg)
        self._tiers = {"small": Tier.of(self.small), "large": Tier.of(self.large)}
        self._journal = Journal.of(self.journal)
        self._panel = Panel(
            default_validators() if self.validators is None else self.validators, timed=telemetry.validated
        )
        check_fit(self.policy, self._panel)
        choice = tool_choice_of(self._tiers["small"].bound.get("tool_choice"))
        self._plain = _Offer({role: self._tiers[role].plain() for role in _ROLES}, tool_choice=choice)
        self._offers = {}
        if any(tier.price is None and tier.model_name for tier in self._tiers.values()):
            warm()
        if self.profile is None:
            self.profile = _common_profile([tier.base for tier in self._tiers.values()])

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a changed setting seriously."""
        super().__setattr__(name, value)
        if name in _SETTINGS:
            self._assemble()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with changed settings."""
        copied = super().model_copy(update=update, deep=deep)
        copied._assemble()  # noqa: SLF001 - of our own class
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares nothing; offers are known by the identity of their tools, and these are others now."""
        copied = super().__deepcopy__(memo)
        copied._offers = {}  # noqa: SLF001 - of our own class
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        """What goes into a pickle: all but the offers, for the reason above."""
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**state["__pydantic_private__"], "_offers": {}}}

    # ---- asking: sync and async -----------------------------------------------------------------------------------

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - the host's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer one step."""
        messages = self._messages_of(input)
        with self._run(messages, config) as (manager, inner):
            message = self._answer(messages, manager, inner, stop=stop, **kwargs)
            self._replay(manager, messages, message).whole(message)
            manager.on_chain_end(message)
        return message

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - the host's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Async twin of `invoke`."""
        messages = self._messages_of(input)
        manager, config = await self._astart(messages, config)
        try:
            message = await self._aanswer(messages, manager, config, stop=stop, **kwargs)
            await self._replay(manager, messages, message).awhole(message)
        except BaseException as error:
            await manager.on_chain_error(error)
            raise
        await manager.on_chain_end(message)
        return message

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - the host's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Stream the accepted answer in pieces; the first comes when the step is decided."""
        messages = self._messages_of(input)
        with self._run(messages, config) as (manager, inner):
            message = self._answer(messages, manager, inner, stop=stop, **kwargs)
            replay = self._replay(manager, messages, message)
            told = replay.start() if replay else None
            try:
                for chunk in streams.pieces(message):
                    if told is not None:
                        told.on_llm_new_token(streams.token_of(chunk), chunk=ChatGenerationChunk(message=chunk))
                    yield chunk
            except BaseException as error:  # the consumer left
                if told is not None:
                    told.on_llm_error(error)
                raise
            if told is not None:
                for event in replay.events(message):
                    told.on_stream_event(event)
                told.on_llm_end(streams.result_of(message))
            manager.on_chain_end(message)

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - the host's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Async twin of `stream`."""
        messages = self._messages_of(input)
        manager, config = await self._astart(messages, config)
        try:
            message = await self._aanswer(messages, manager, config, stop=stop, **kwargs)
            replay = self._replay(manager, messages, message)
            told = await replay.astart() if replay else None
            try:
                for chunk in streams.pieces(message):
                    if told is not None:
                        await told.on_llm_new_token(streams.token_of(chunk), chunk=ChatGenerationChunk(message=chunk))
                    yield chunk
            except BaseException as error:  # the consumer left
                if told is not None:
                    await told.on_llm_error(error)
                raise
            if told is not None:
                for event in replay.events(message):
                    await told.on_stream_event(event)
                await told.on_llm_end(streams.result_of(message))
        except BaseException as error:
            await manager.on_chain_error(error)
            raise
        await manager.on_chain_end(message)

    # ---- tools and structured output ------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; each tier formats them its own way when it is asked."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=OfferedTools(self._offer(tools, kwargs), kwargs), **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers of the given schema; each tier uses its own way. A draft that does not parse escalates.

        With `include_raw` the output is `{"raw", "parsed", "parsing_error"}` and `raw` carries the record of the step.

        Raises:
            CascadeExhausted: from a call, when no tier gave an answer that parses.
            OutputParserException: from a call, when the answer does not parse and `StructuredOutput` is not among the
                validators; with `include_raw` it is told as LangChain does.
        """
        offer = _Offer({role: self._tiers[role].with_schema(schema, **kwargs) for role in _ROLES}, schema=schema)

        def ask(value: LanguageModelInput, config: RunnableConfig, **call: Any) -> Any:
            messages = self._messages_of(value)
            with self._run(messages, config) as (manager, inner):
                settled = self._decided(messages, manager, inner, offer, **call)
                streams.Replay(manager, messages, name=self.get_name()).whole(settled.answer.draft.message)
                native = self._native(settled, include_raw=include_raw)
                manager.on_chain_end(native)
            return native

        async def aask(value: LanguageModelInput, config: RunnableConfig, **call: Any) -> Any:
            messages = self._messages_of(value)
            manager, inner = await self._astart(messages, config)
            try:
                settled = await self._adecided(messages, manager, inner, offer, **call)
                await streams.Replay(manager, messages, name=self.get_name()).awhole(settled.answer.draft.message)
                native = self._native(settled, include_raw=include_raw)
            except BaseException as error:
                await manager.on_chain_error(error)
                raise
            await manager.on_chain_end(native)
            return native

        return RunnableLambda(ask, aask, name=f"{self.get_name()}.structured")

    def _messages_of(self, value: LanguageModelInput) -> list[BaseMessage]:
        """The request as messages. A list of messages is taken as it is: checking a long history again costs 0.2 ms."""
        if isinstance(value, list) and _PLAIN_MESSAGES.issuperset(map(type, value)):
            return list(cast("list[BaseMessage]", value))
        return self._convert_input(value).to_messages()

    # ---- one step ---------------------------------------------------------------------------------------------------

    def _offer(self, tools: Sequence[Any], options: Mapping[str, Any]) -> _Offer:
        """Both tiers with these tools bound, made once per set of tools (agents bind the same ones at every turn)."""
        specs = tool_specs(tools)  # remembered per tool; a tool that was changed gives another
        key = (*map(id, specs), repr(sorted(options.items(), key=lambda item: item[0])))
        offer = self._offers.get(key)
        if offer is None:
            from langchain_core.utils.function_calling import convert_to_openai_tool

            shown = tuple(t if isinstance(t, dict) else convert_to_openai_tool(t) for t in tools)
            ready: dict[Role, Ready] = {
                role: replace(self._tiers[role].with_tools(tools, **options), specs=specs) for role in _ROLES
            }
            choice = tool_choice_of(options.get("tool_choice"))
            if choice not in (None, "none", "required", *(spec.name for spec in specs)):
                choice = None  # a tool that the provider carries out itself
            offer = _Offer(ready, tool_choice=choice, tools=tuple(tools), shown=shown)
            with _OFFERS_LOCK:
                while len(self._offers) >= _MAX_OFFERS:
                    del self._offers[next(iter(self._offers))]
                self._offers[key] = offer
        return offer

    def _arguments(self, role: Role, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._tiers[role].settings_for(given) if given else given

    def _request(self, role: Role, messages: list[BaseMessage], note: str | None) -> list[BaseMessage]:
        """Return the conversation in the form that one tier takes."""
        return self._tiers[role].messages_for(messages, pair=self._tiers, note=note)

    def _sorted_kwargs(self, kwargs: dict[str, Any]) -> tuple[_Offer, dict[str, Any]]:
        """What is asked with, and the arguments that go to the call itself."""
        tools = kwargs.pop("tools", None)
        if isinstance(tools, OfferedTools):
            bound = tools.options
            changed = {k: v for k, v in kwargs.items() if (k in bound or k == "tool_choice") and v != bound.get(k)}
            offer = self._offer(tools.offer.tools, {**bound, **changed}) if changed else tools.offer
            return offer, {k: v for k, v in kwargs.items() if k not in bound and k != "tool_choice"}
        if tools:
            options = {"tool_choice": kwargs.pop("tool_choice")} if "tool_choice" in kwargs else {}
            return self._offer(tools, options), kwargs
        return self._plain, kwargs

    def _answer(
        self,
        messages: list[BaseMessage],
        manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AIMessage:
        offer, rest = self._sorted_kwargs(kwargs)
        return self._message(self._decided(messages, manager, config, offer, **rest))

    async def _aanswer(
        self,
        messages: list[BaseMessage],
        manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AIMessage:
        offer, rest = self._sorted_kwargs(kwargs)
        return self._message(await self._adecided(messages, manager, config, offer, **rest))

    def _decided(
        self,
        messages: list[BaseMessage],
        manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        offer: _Offer,
        **kwargs: Any,
    ) -> Settled:
        def ask(role: Role, note: str | None) -> Answer:
            request, given = self._request(role, messages, note), self._arguments(role, kwargs)
            callbacks = streams.muffle(manager.get_child(role))
            with _nested(), telemetry.asking(callbacks, role, tier=self._tiers[role], messages=request) as call:
                inner = patch_config(config, callbacks=call.callbacks)
                answer = _answer(role, offer, offer.ready[role].ask(request, inner, **given))
                call.told(answer.draft.message)
                return answer

        shadow, run = partial(self._shadow, messages, offer, **kwargs), telemetry.StepRun(manager)
        step = self._step(messages, manager, config, offer, ask=ask, shadow=shadow, run=run)
        return settle(step, partial(_rebuilt, offer), durable=self.durable)

    async def _adecided(
        self,
        messages: list[BaseMessage],
        manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        offer: _Offer,
        **kwargs: Any,
    ) -> Settled:
        async def ask(role: Role, note: str | None) -> Answer:
            request, given = self._request(role, messages, note), self._arguments(role, kwargs)
            callbacks = streams.muffle(manager.get_child(role))
            with _nested():
                async with telemetry.asking(callbacks, role, tier=self._tiers[role], messages=request) as call:
                    inner = patch_config(config, callbacks=call.callbacks)
                    answer = _answer(role, offer, await offer.ready[role].aask(request, inner, **given))
                    call.told(answer.draft.message)
                    return answer

        shadow, run = partial(self._shadow, messages, offer, **kwargs), telemetry.StepRun(manager)
        step = self._step(messages, manager, config, offer, aask=ask, shadow=shadow, run=run)
        try:
            return await asettle(step, partial(_rebuilt, offer), durable=self.durable)
        finally:
            await run.ended()

    def _shadow(self, messages: list[BaseMessage], offer: _Offer, **kwargs: Any) -> Answer:
        """Ask the large tier beside the graph: nobody who listens to the step hears of it."""
        request, given = self._request("large", messages, None), self._arguments("large", kwargs)
        with _nested():
            return _answer("large", offer, offer.ready["large"].ask(request, SHADOW, **given))

    def _step(
        self,
        messages: list[BaseMessage],
        manager: BaseRunManager,
        config: RunnableConfig,
        offer: _Offer,
        **asking: Any,
    ) -> Step:
        name = self.name or "cascade"
        if name == "cascade":  # not named by the user: the node it runs in says more
            name = (config.get("metadata") or {}).get("langgraph_node", name)
        thread_id = (config.get("configurable") or {}).get("thread_id")
        small, large = (offer.ready[role].specs for role in _ROLES)
        context = StepContext(
            messages=messages,
            tools=small,
            state=_STATE.get(),
            tool_choice=offer.tool_choice,
            output_schema=offer.schema,
            step=name,
            thread_id=None if thread_id is None else str(thread_id),
            side_effects=self.policy.side_effects,
        )
        return Step(
            name=name,
            tiers=self._tiers,
            contexts={"small": context, "large": context if large is small else replace(context, tools=large)},
            panel=self._panel,
            policy=self.policy,
            journal=Journal.from_env() if self._journal is None and not _NESTED.get() else self._journal,
            ledger=self._ledger,
            run_id=str(manager.run_id),
            config=self._evidence_config(manager, config),
            **asking,
        )

    def _replay(self, manager: BaseRunManager, messages: list[BaseMessage], message: AIMessage) -> streams.Replay:
        """How streams hear of an answer; not at all when the user keeps the tier that gave it out of them."""
        replay = streams.Replay(manager, messages, name=self.get_name())
        tier = self._tiers.get(message.response_metadata.get("cascade", {}).get("final_tier"))
        if tier is not None and tier.hidden:
            replay.handlers = []
        return replay

    def _evidence_config(self, manager: BaseRunManager, config: RunnableConfig) -> RunnableConfig | None:
        """The config under which evidence asks its models: child runs of this step, unseen by streams."""
        if not self._panel.evidence:
            return None
        children = cast("CallbackManagerForChainRun", manager).get_child("evidence")
        return patch_config(config, callbacks=streams.muffle(children))

    def _message(self, settled: Settled) -> AIMessage:
        """The accepted answer with the record of its step; a copy, because hosts change messages in place."""
        message = settled.answer.draft.message
        if self.output_version == "v1" and message.response_metadata.get("output_version") != "v1":
            metadata = {**message.response_metadata, "output_version": "v1"}
            message = message.model_copy(update={"content": message.content_blocks, "response_metadata": metadata})
        return marked(message, settled.trace)

    def _native(self, settled: Settled, *, include_raw: bool) -> Any:
        draft, error = settled.answer.draft, settled.answer.native
        if include_raw:
            return {"raw": marked(draft.message, settled.trace), "parsed": draft.parsed, "parsing_error": error}
        if draft.parsing_error is not None:
            raise error if isinstance(error, Exception) else OutputParserException(f"the answer: {draft.parsing_error}")
        return draft.parsed

    # ---- the run that the tiers' runs nest under --------------------------------------------------------------------

    @contextmanager
    def _run(
        self, messages: list[BaseMessage], config: RunnableConfig | None
    ) -> Iterator[tuple[CallbackManagerForChainRun, RunnableConfig]]:
        config = ensure_config(config)
        manager: CallbackManagerForChainRun = self._heard(CallbackManager, config).on_chain_start(
            None, {"messages": messages}, name=self._run_name(config), run_id=config.pop("run_id", None)
        )
        try:
            yield manager, config
        except BaseException as error:
            manager.on_chain_error(error)
            raise

    async def _astart(
        self, messages: list[BaseMessage], config: RunnableConfig | None
    ) -> tuple[AsyncCallbackManagerForChainRun, RunnableConfig]:
        config = ensure_config(config)
        manager: AsyncCallbackManagerForChainRun = await self._heard(AsyncCallbackManager, config).on_chain_start(
            None, {"messages": messages}, name=self._run_name(config), run_id=config.pop("run_id", None)
        )
        return manager, config

    def _heard(self, kind: Any, config: RunnableConfig) -> Any:
        """Who hears of this step: the call's handlers, and the model's own, which hear of the tiers' calls too."""
        manager = kind.configure(
            config.get("callbacks"),
            None,
            self.verbose,
            config.get("tags"),
            self.tags,
            config.get("metadata"),
            self.metadata,
        )
        own = self.callbacks
        for handler in own.handlers if isinstance(own, BaseCallbackManager) else own or ():
            manager.add_handler(handler)
        return telemetry.shown(manager)

    def _run_name(self, config: RunnableConfig) -> str:
        return config.pop("run_name", None) or f"cascade.step {self.get_name()}"

    # ---- the rest of the chat-model contract ------------------------------------------------------------------------

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        del run_manager  # a model run's manager has no children; `generate` goes through `invoke` instead
        return ChatResult(generations=[ChatGeneration(message=self.invoke(messages, stop=stop, **kwargs))])

    def generate(  # noqa: PLR0913 - the host's signature
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Any = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer several steps; each is a run of its own, as in `batch`."""
        config = _config(callbacks, tags, metadata, run_name, run_id if len(messages) == 1 else None)
        answers = [self.invoke(m, config.copy(), stop=stop, **kwargs) for m in messages]
        return LLMResult(generations=[[ChatGeneration(message=answer)] for answer in answers])

    async def agenerate(  # noqa: PLR0913 - the host's signature
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Any = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Async twin of `generate`; the steps run side by side."""
        config = _config(callbacks, tags, metadata, run_name, run_id if len(messages) == 1 else None)
        asked = (self.ainvoke(m, config.copy(), stop=stop, **kwargs) for m in messages)
        answers = await asyncio.gather(*asked, return_exceptions=True)  # no step goes on behind the caller's back
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return LLMResult(generations=[[ChatGeneration(message=cast("AIMessage", answer))] for answer in answers])

    def stream_events(
        self,
        input: Any,  # noqa: A002 - the host's name
        config: RunnableConfig | None = None,
        *,
        version: Any = "v2",
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `BaseChatModel.stream_events`; under `v3` the accepted answer is told as one model's stream."""
        if version != "v3":
            return super().stream_events(input, config, version=version, stop=stop, **kwargs)
        from langchain_core.language_models._compat_bridge import message_to_events
        from langchain_core.language_models.chat_model_stream import ChatModelStream

        stream = ChatModelStream()

        def pump() -> bool:
            try:
                message = self.invoke(input, config, stop=stop, **kwargs)
                for event in message_to_events(message, message_id=message.id):
                    stream.dispatch(event)
            except BaseException as error:  # noqa: BLE001 - the stream raises it where it is read
                stream.fail(error)
            return False

        stream.bind_pump(pump)
        return stream

    def astream_events(
        self,
        input: Any,  # noqa: A002 - the host's name
        config: RunnableConfig | None = None,
        *,
        version: Any = "v2",
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Async twin of `stream_events`."""
        if version != "v3":
            return super().astream_events(input, config, version=version, stop=stop, **kwargs)
        return self._atold(input, config, stop=stop, **kwargs)

    async def _atold(self, value: Any, config: RunnableConfig | None, **kwargs: Any) -> Any:
        from langchain_core.language_models._compat_bridge import message_to_events
        from langchain_core.language_models.chat_model_stream import AsyncChatModelStream

        stream = AsyncChatModelStream()

        async def produce() -> None:
            try:
                message = await self.ainvoke(value, config, **kwargs)
                for event in message_to_events(message, message_id=message.id):
                    stream.dispatch(event)
            except asyncio.CancelledError as error:
                stream.fail(error)
                raise
            except BaseException as error:  # noqa: BLE001 - the stream raises it where it is read
                stream.fail(error)

        async def start() -> None:
            if stream._producer_task is None:  # noqa: SLF001 - as BaseChatModel does; there is no public way
                stream._producer_task = asyncio.get_running_loop().create_task(produce())  # noqa: SLF001

        stream.set_start(start)
        return stream

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        """As the large model counts."""
        return self._tiers["large"].base.get_num_tokens_from_messages(messages, tools)

    def get_token_ids(self, text: str) -> list[int]:
        """As the large model cuts."""
        return self._tiers["large"].base.get_token_ids(text)

    @property
    def _llm_type(self) -> str:
        return "cascade"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "small": self._tiers["small"].label,
            "large": self._tiers["large"].label,
            "validators": [name for name, _ in (*self._panel.before, *self._panel.local)] + list(self._panel.evidence),
            "policy": self.policy.version,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="cascade",
            ls_model_type="chat",
            ls_model_name=kwargs.get("model") or f"{self._tiers['small'].label}->{self._tiers['large'].label}",
        )
        if stop:
            params["ls_stop"] = stop
        return params


# ---- pieces without a model -----------------------------------------------------------------------------------------


@contextmanager
def _nested() -> Iterator[None]:
    token = _NESTED.set(True)
    try:
        yield
    finally:
        _NESTED.reset(token)


@contextmanager
def state_of_step(state: object) -> Iterator[None]:
    """Let validators of the steps inside see the graph's state (plan consistency reads it)."""
    token = _STATE.set(state)
    try:
        yield
    finally:
        _STATE.reset(token)


def marked(message: AIMessage, trace: StepTrace) -> AIMessage:
    """A copy of the message that carries its step's record, as plain JSON without the rejected answers."""
    metadata = {**message.response_metadata, "cascade": trace.to_json(content=False)}
    return message.model_copy(update={"response_metadata": metadata})


def _answer(role: Role, offer: _Offer, native: Any) -> Answer:
    if not offer.ready[role].structured:
        if not isinstance(native, AIMessage):
            msg = f"the {role} model returned {type(native).__name__}, expected an AIMessage"
            raise TypeError(msg)
        return Answer(draft=Draft(message=native, tier=role))
    error = native.get("parsing_error")
    parsed = native.get("parsed")
    fault = None if error is None and parsed is not None else type(error).__name__ if error else "nothing was parsed"
    return Answer(draft=Draft(message=native["raw"], tier=role, parsed=parsed, parsing_error=fault), native=error)


def _rebuilt(offer: _Offer, tier: str, message: AIMessage, parsed: object) -> Answer:
    """An answer from what was saved of it, or from what a human said."""
    value = None
    if offer.schema is not None:
        value = parse(offer.schema, json.loads(str(message.text)) if parsed is None else parsed)
    return Answer(draft=Draft(message=message, tier=tier, parsed=value))


def tool_choice_of(value: object) -> str | None:
    """A provider's `tool_choice` in our words: None, "none", "required" or a tool's name."""
    if isinstance(value, Mapping):
        function = value.get("function")
        name = function.get("name") if isinstance(function, Mapping) else value.get("name")
        if value.get("type") == "allowed_tools":
            allowed = value.get("allowed_tools", value)
            value = allowed.get("mode") if isinstance(allowed, Mapping) else None
        else:
            value = name if isinstance(name, str) else value.get("type")
    if value is True or value in ("any", "required"):
        return "required"
    return value if isinstance(value, str) and value != "auto" else None


def _common_profile(models: Sequence[BaseChatModel]) -> Any:
    """What both tiers can do: flags by `and`, token limits by `min`; None when either says nothing."""
    profiles = [model.profile for model in models]
    if not all(profiles):
        return None
    first, second = (cast("dict[str, Any]", p) for p in profiles)
    common: dict[str, Any] = {}
    for key in first.keys() & second.keys():
        a, b = first[key], second[key]
        if isinstance(a, bool) and isinstance(b, bool):
            common[key] = a and b
        elif isinstance(a, int) and isinstance(b, int):
            common[key] = min(a, b)
        elif a == b:
            common[key] = a
    return common


def _config(callbacks: Any, tags: Any, metadata: Any, run_name: Any, run_id: Any) -> RunnableConfig:
    given = {"callbacks": callbacks, "tags": tags, "metadata": metadata, "run_name": run_name, "run_id": run_id}
    return cast("RunnableConfig", {k: v for k, v in given.items() if v is not None})
