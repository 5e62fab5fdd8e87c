"""The middleware adapter: a cascade around the model calls of a `create_agent` agent (extra `langchain`).

Placement only: the agent binds tools and chooses the way of structured output for each tier itself; here its model call
is a step of the cascade, and a tier is asked by calling the agent's own handler with the tier's model.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import ensure_config, merge_configs, var_child_runnable_config

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Draft, ToolSpec
from cascade_agent.engine.run_step import ModelCall, arun_step, run_step
from cascade_agent.engine.shadow import SHADOW
from cascade_agent.engine.step import Answer, CascadeSettings
from cascade_agent.engine.structured import parse
from cascade_agent.engine.tier_faults import raised_in_callback, raised_outside_models
from cascade_agent.engine.ways import resolved
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.options import BoundConstraints, bound_constraints, offer_for
from cascade_agent.models.tier import Role, Tier, configured
from cascade_agent.models.tool_spec import tool_specs

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.agents.structured_output import StructuredOutputError
except ImportError as missing:
    _MSG = "CascadeMiddleware needs langchain: pip install 'langgraph-cascade[langchain]'"
    raise ConfigurationError(_MSG) from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.journal.writer import Journal
    from cascade_agent.models.tier import ModelLike

_POLICY = Policy()
Handler: TypeAlias = "Callable[[ModelRequest[Any]], ModelResponse[Any] | Awaitable[ModelResponse[Any]]]"


class CascadeMiddleware(AgentMiddleware[Any, Any, Any]):
    """Lets the agent's own model try every step and `large` answer the steps that need it.

    ```python
    agent = create_agent("openai:gpt-4o-mini", tools, middleware=[CascadeMiddleware("openai:gpt-4o")])
    ```

    Middleware listed after it works inside each tier's call, middleware listed before it sees one call per step. The
    record of a step stands in `response_metadata["cascade"]` of the answer.

    Args:
        large: A chat model (also one with bound arguments), a `Tier`, or a provider string.
        small: As `large`; None means the model of the agent, or the one that an outer middleware put in the request.
        validators: The judges of a draft; None means `default_validators()`.
        policy: When to escalate and what to do when even the large draft fails; a mapping of settings is one.
        name: Name of the middleware and of its steps; several cascades in one agent need names of their own. Without
            it steps carry the name of the agent, or of the graph's node.
        journal: Where steps are recorded; None means the file named by `CASCADE_JOURNAL`, if any.
        durable: Save each answer with the checkpoint at once. Always so under `on_exhausted="interrupt"`.

    Raises:
        ConfigurationError: at construction, when a tier, validator or setting cannot work.
        CascadeExhausted: from a call, when no tier gave an answer that the policy lets pass.
    """

    def __init__(
        self,
        large: ModelLike,
        *,
        small: ModelLike | None = None,
        validators: Sequence[object] | None = None,
        policy: Policy | JsonMapping | None = _POLICY,
        name: str | None = None,
        journal: Journal | object = None,
        durable: bool = False,
    ) -> None:
        super().__init__()
        self.step_name = name
        self.settings = CascadeSettings.of(
            small, large, validators=validators, policy=policy, journal=journal, durable=durable
        )
        self.policy = self.settings.policy
        self._of_agent: tuple[Any, Tier] | None = None
        self._specs: tuple[tuple[Any, ...], tuple[ToolSpec, ...]] | None = None

    @property
    def name(self) -> str:
        """Name of this middleware in the agent."""
        return self.step_name or type(self).__name__

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Run one model call of the agent as a step."""
        return run_step(_AgentCall(self, request).model_call(handler, is_async=False))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async twin of `wrap_model_call`."""
        return await arun_step(_AgentCall(self, request).model_call(handler, is_async=True))

    def specs(self, tools: Sequence[Any]) -> tuple[ToolSpec, ...]:
        """Return the tools as validators see them; the same tools give the same specs, which are compiled once."""
        last = self._specs
        if last is None or len(last[0]) != len(tools) or any(a is not b for a, b in zip(last[0], tools, strict=True)):
            last = self._specs = (tuple(tools), tool_specs(tools))
        return last[1]

    def small_of(self, request: ModelRequest[Any]) -> Tier:
        """Return the small tier of this request."""
        if self.settings.small is not None:
            return self.settings.small
        last = self._of_agent
        if last is None or last[0] is not request.model:
            last = self._of_agent = (request.model, Tier.of(request.model))
        return last[1]


class _AgentCall:
    """One model call of the agent: what each tier is asked, and what its response is judged as."""

    def __init__(self, middleware: CascadeMiddleware, request: ModelRequest[Any]) -> None:
        self.request, self._middleware = request, middleware
        self.config = ensure_config()
        self.tiers: dict[Role, Tier] = {"small": middleware.small_of(request), "large": middleware.settings.large}
        system = request.system_message
        self.messages: list[BaseMessage] = [*([] if system is None else [system]), *request.messages]
        wanted = request.response_format
        self.schema: Any = getattr(wanted, "schema", wanted)
        self.tools = middleware.specs(request.tools)
        choice = {} if request.tool_choice is None else {"tool_choice": request.tool_choice}
        options = {**request.model_settings, **choice}
        self.bound: dict[Role, BoundConstraints] = {
            role: bound_constraints({**tier.bound, "tool_choice": None, **options}) for role, tier in self.tiers.items()
        }

    def model_call(self, handler: Handler, *, is_async: bool) -> ModelCall[ModelResponse[Any]]:
        """Return the call as the cascade runs it."""
        ask = partial(self.ask, handler=handler, is_async=is_async)
        metadata = self.config.get("metadata") or {}
        agent = metadata.get("lc_agent_name") or metadata.get("langgraph_node", "cascade")
        name = str(self._middleware.step_name or agent)
        return ModelCall(
            settings=self._middleware.settings,
            name=name,
            messages=self.messages,
            config=self.config,
            read=self.answer,
            to_native=_response,
            rebuild=self.rebuilt,
            shadow=self.shadow if self.schema is None else None,  # only the agent knows what carries structured output
            host_raised=_host_raised,
            small=self.tiers["small"],
            tools=(self.tools, self.tools),
            bound=self.bound,
            state=self.request.state,
            stream_name=name,
            call=ask,
            acall=ask,
        )

    def shadow(self) -> Any:
        """Ask the large tier out of the agent's sight, past its other middleware."""
        request, tier = self.request_of("large", None), self.tiers["large"]
        ready = tier.with_tools(request.tools, tool_choice=request.tool_choice) if request.tools else tier.plain()
        return ready.ask(self.messages, SHADOW, **request.model_settings)

    async def ask(
        self, role: Role, note: str | None, config: RunnableConfig, *, handler: Handler, is_async: bool
    ) -> ModelResponse[Any] | StructuredOutputError:
        """Ask the agent's handler with the tier's model, in a child of the step's run."""
        bound = self.tiers[role].config
        token = var_child_runnable_config.set(merge_configs(config, bound) if bound else config)
        try:
            return await self._handled(role, note, handler, is_async=is_async)
        except StructuredOutputError as error:
            return error
        finally:
            var_child_runnable_config.reset(token)

    async def _handled(self, role: Role, note: str | None, handler: Handler, *, is_async: bool) -> ModelResponse[Any]:
        """Ask the handler, within the retries and fallbacks that are wrapped around the tier's model."""
        tier = self.tiers[role]
        if not tier.wrapped:
            return await resolved(handler(self.request_of(role, note)))

        def wrapped(model: Any) -> Runnable[Any, Any]:
            own = replace(tier, model=configured(model, self.config))

            def handle(_: object, **bound: Any) -> Any:
                return handler(self.request_of(role, note, own, bound))

            async def ahandle(_: object, **bound: Any) -> Any:
                return await resolved(handle(_, **bound))

            return RunnableLambda(ahandle if is_async else handle, name="handler")

        around = tier.around(wrapped)
        return cast("ModelResponse[Any]", await around.ainvoke(None) if is_async else around.invoke(None))

    def request_of(
        self, role: Role, note: str | None, inner: Tier | None = None, given: JsonMapping | None = None
    ) -> ModelRequest[Any]:
        """Return the request with the tier's model and bound arguments, without what only another provider knows.

        `inner` is the model asked, where a wrapper of the tier holds several, and `given` what is bound to it there.
        """
        request, tier = self.request, inner or self.tiers[role]
        options = dict(request.model_settings)
        if request.tool_choice is not None:
            options["tool_choice"] = request.tool_choice
        mixed = len({other.traits.kind for other in (tier, *self.tiers.values())}) > 1
        tools, settings = offer_for(tier.traits, request.tools, options, mixed=mixed)
        choice = settings.pop("tool_choice", None) if request.tool_choice is not None else None
        own = {**self.tiers[role].bound, **tier.bound, **(given or {})}
        bound = {key: value for key, value in own.items() if key not in ("tools", "tool_choice")}
        system = request.system_message
        messages = tier.messages_for(self.messages, pair=self.tiers, note=note)
        return request.override(
            model=tier.base,
            model_settings={**bound, **settings},
            tool_choice=choice,
            tools=tools,
            system_message=cast("Any", None if system is None else messages[0]),
            messages=cast("Any", messages if system is None else messages[1:]),
        )

    def answer(self, role: str, response: ModelResponse[Any] | AIMessage | StructuredOutputError) -> Answer:
        """Read a tier's response. What the agent answered itself, in tool messages, was structured output."""
        if isinstance(response, StructuredOutputError):
            return self._unparsed(role, response)
        if isinstance(response, AIMessage):
            response = ModelResponse(result=[response])
        message, parsed = _last_answer(response), response.structured_response
        if self.schema is None:
            return Answer(draft=Draft(message=message, tier=role), native=response)
        answers = [m for m in response.result if isinstance(m, ToolMessage)]
        if parsed is None and not answers and (message.tool_calls or message.invalid_tool_calls):
            return Answer(draft=Draft(message=message, tier=role), native=response)  # a step on the way there
        fault = None
        if parsed is None:
            fault = f"{StructuredOutputError.__name__}: {answers[0].text}" if answers else "nothing was parsed"
        draft = Draft(message=message, tier=role, parsed=parsed, parsing_error=fault)
        return Answer(draft=draft, native=response, judged_with=self._structured(m.name for m in answers))

    def _unparsed(self, role: str, error: StructuredOutputError) -> Answer:
        """Read a structured answer that the agent refused: a draft to be judged, not a model that failed."""
        source = getattr(error, "source", error)
        draft = Draft(message=error.ai_message, tier=role, parsing_error=f"{type(source).__name__}: {source}")
        names = (call["name"] for call in error.ai_message.tool_calls)
        return Answer(draft=draft, native=error, judged_with=self._structured(names))

    def _structured(self, names: Iterable[str | None]) -> JsonMapping:
        """Return what a structured answer is judged with: the tools that carry one are known and were parsed."""
        known = {tool.name for tool in self.tools}
        carriers = [ToolSpec(name=name) for name in dict.fromkeys(names) if name and name not in known]
        return {"tools": (*self.tools, *carriers), "output_schema": self.schema}

    def rebuilt(self, tier: str, message: AIMessage, parsed: object) -> Answer:
        """Return an answer from what was saved of it, or from a human's."""
        if self.schema is None or (parsed is None and message.tool_calls):
            return self.answer(tier, message)
        value: Any = parse(self.schema, json.loads(str(message.text)) if parsed is None else parsed)
        known = {tool.name for tool in self.tools}
        results = [
            ToolMessage(f"Returning structured response: {value}", tool_call_id=call["id"], name=call["name"])
            for call in message.tool_calls
            if call["name"] not in known
        ]
        return self.answer(tier, ModelResponse(result=[message, *results], structured_response=value))


def _host_raised(error: Exception) -> bool:
    """Return whether an inner middleware or a callback raised, not the model."""
    return raised_in_callback(error) or raised_outside_models(error)


def _last_answer(response: ModelResponse[Any]) -> AIMessage:
    for message in reversed(response.result):
        if isinstance(message, AIMessage):
            return message
    msg = "the model call returned no AIMessage"
    raise TypeError(msg)


def _response(answer: Answer, recorded: AIMessage) -> ModelResponse[Any]:
    """Return the agent's own response with the recorded message in it."""
    native, own = answer.native, answer.draft.message
    if isinstance(native, StructuredOutputError):
        raise native  # as without a cascade: no validator objected, or it is large's
    response = cast("ModelResponse[Any]", native)
    ids = {old["id"]: new["id"] for old, new in zip(own.tool_calls, recorded.tool_calls, strict=True)}
    result: list[Any] = []
    for message in response.result:
        if message is own:
            result.append(recorded)
        elif isinstance(message, ToolMessage) and (new := ids.get(message.tool_call_id, message.tool_call_id)):
            result.append(message.model_copy(update={"tool_call_id": new}))
        else:
            result.append(message)
    return ModelResponse(result=result, structured_response=response.structured_response)
