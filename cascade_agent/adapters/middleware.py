"""The middleware door: a cascade around the model calls of a `create_agent` agent (extra `langchain`).

Placement only: the agent binds tools and chooses the way of structured output for each tier itself; here its model call
is a step of the cascade, and a tier is asked by calling the agent's own handler with the tier's model.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables.config import ensure_config, merge_configs, patch_config, var_child_runnable_config

from cascade_agent import telemetry
from cascade_agent.adapters import streaming as streams
from cascade_agent.adapters.chat_model import marked, tool_choice_of
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Draft, StepContext, ToolSpec
from cascade_agent.engine.durable import Settled, asettle, parse, settle
from cascade_agent.engine.shadow import SHADOW
from cascade_agent.engine.statistics import Ledger
from cascade_agent.engine.step import Answer, Step
from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.writer import Journal
from cascade_agent.models.pricing import warm
from cascade_agent.models.tier import Role, Tier
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators import default_validators
from cascade_agent.validators.validator_set import Panel, check_fit

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.agents.structured_output import StructuredOutputError
except ImportError as missing:
    _MSG = "CascadeMiddleware needs langchain: pip install 'langgraph-cascade[langchain]'"
    raise ConfigurationError(_MSG) from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from langchain_core.callbacks.manager import BaseRunManager

_POLICY = Policy()


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
        validators: What judges a draft; None means `default_validators()`.
        policy: When to escalate and what to do when even the large draft fails.
        name: Name of the middleware and of its steps; several cascades in one agent need names of their own. Without
            it steps carry the name of the agent, or of the graph's node.
        journal: Where steps are recorded; None means the file named by `CASCADE_JOURNAL`, if any.
        durable: Save each answer with the checkpoint at once. Always so under `on_exhausted="interrupt"`.

    Raises:
        ConfigurationError: at construction, when a tier, validator or setting cannot work.
        CascadeExhausted: from a call, when no tier gave an answer that may be returned.
    """

    def __init__(  # noqa: PLR0913 - a door: all but the models has a default
        self,
        large: Any,
        *,
        small: Any = None,
        validators: Sequence[Any] | None = None,
        policy: Policy = _POLICY,
        name: str | None = None,
        journal: Journal | None = None,
        durable: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(policy, Policy):
            msg = f"policy is {type(policy).__name__}; expected a Policy"
            raise ConfigurationError(msg)
        self.large = Tier.of(large)
        self.small = None if small is None else Tier.of(small)
        self.panel = Panel(default_validators() if validators is None else validators, timed=telemetry.validated)
        check_fit(policy, self.panel)
        self.policy, self.step_name, self.durable = policy, name, durable
        self.journal = Journal.of(journal)
        self.ledger = Ledger()
        self._seen: tuple[Any, Tier] | None = None
        self._known: tuple[tuple[Any, ...], tuple[ToolSpec, ...]] | None = None
        if any(tier is not None and tier.price is None and tier.model_name for tier in (self.small, self.large)):
            warm()

    @property
    def name(self) -> str:
        """Name of this middleware in the agent."""
        return self.step_name or type(self).__name__

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Run one model call of the agent as a step."""
        call = _Call(self, request)
        heard = telemetry.shown(CallbackManager.configure(**call.callbacks))
        manager = heard.on_chain_start(None, call.inputs, name=call.run_name)
        run = telemetry.StepRun(manager)

        def ask(role: Role, note: str | None) -> Answer:
            with call.asking(role, manager) as asked, call.hidden(role, asked.callbacks):
                try:
                    answer = call.answer(role, handler(call.request_of(role, note)))
                except StructuredOutputError as error:
                    answer = call.unparsed(role, error)
                asked.told(answer.draft.message)
                return answer

        try:
            settled = settle(call.step(manager, ask=ask, run=run), call.rebuilt, durable=self.durable)
            response = _response(settled)
            streams.Replay(manager, call.messages, name=call.step_name).whole(_last_answer(response))
        except BaseException as error:
            manager.on_chain_error(error)
            raise
        manager.on_chain_end(_last_answer(response))
        return response

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async twin of `wrap_model_call`."""
        call = _Call(self, request)
        heard = telemetry.shown(AsyncCallbackManager.configure(**call.callbacks))
        manager = await heard.on_chain_start(None, call.inputs, name=call.run_name)
        run = telemetry.StepRun(manager)

        async def ask(role: Role, note: str | None) -> Answer:
            async with call.asking(role, manager) as asked:
                with call.hidden(role, asked.callbacks):
                    try:
                        answer = call.answer(role, await handler(call.request_of(role, note)))
                    except StructuredOutputError as error:
                        answer = call.unparsed(role, error)
                asked.told(answer.draft.message)
                return answer

        try:
            try:
                settled = await asettle(call.step(manager, aask=ask, run=run), call.rebuilt, durable=self.durable)
            finally:
                await run.ended()
            response = _response(settled)
            await streams.Replay(manager, call.messages, name=call.step_name).awhole(_last_answer(response))
        except BaseException as error:
            await manager.on_chain_error(error)
            raise
        await manager.on_chain_end(_last_answer(response))
        return response

    def specs(self, tools: Sequence[Any]) -> tuple[ToolSpec, ...]:
        """The tools as validators see them; the same tools give the same specs, which are compiled once."""
        seen = self._known
        if seen is None or len(seen[0]) != len(tools) or any(a is not b for a, b in zip(seen[0], tools, strict=True)):
            seen = self._known = (tuple(tools), tool_specs(tools))
        return seen[1]

    def tiers(self, request: ModelRequest[Any]) -> dict[Role, Tier]:
        """The pair that answers this request."""
        small = self.small
        if small is None:
            seen = self._seen
            if seen is None or seen[0] is not request.model:
                seen = self._seen = (request.model, Tier.of(request.model))
            small = seen[1]
        return {"small": small, "large": self.large}


class _Call:
    """One model call of the agent: what each tier is asked, and what its response is judged as."""

    def __init__(self, door: CascadeMiddleware, request: ModelRequest[Any]) -> None:
        self.request, self._door = request, door
        self.config = ensure_config()
        self.tiers = door.tiers(request)
        system = request.system_message
        self.messages = [*([] if system is None else [system]), *request.messages]
        self.inputs = {"messages": self.messages}
        metadata = self.config.get("metadata") or {}
        self.step_name = str(
            door.step_name or metadata.get("lc_agent_name") or metadata.get("langgraph_node", "cascade")
        )
        self.run_name = f"cascade.step {self.step_name}"
        self.callbacks: dict[str, Any] = {
            "inheritable_callbacks": self.config.get("callbacks"),
            "inheritable_tags": self.config.get("tags"),
            "inheritable_metadata": metadata,
        }
        thread_id = (self.config.get("configurable") or {}).get("thread_id")
        settings = request.model_settings
        self.context = StepContext(
            messages=self.messages,
            tools=door.specs(request.tools),
            state=request.state,
            tool_choice=tool_choice_of(request.tool_choice or settings.get("tool_choice")),
            step=self.step_name,
            thread_id=None if thread_id is None else str(thread_id),
            side_effects=door.policy.side_effects,
        )
        wanted = request.response_format
        self.schema: Any = getattr(wanted, "schema", wanted)

    def step(self, manager: BaseRunManager, **asking: Any) -> Step:
        """The call as a step of the cascade."""
        door = self._door
        return Step(
            name=self.step_name,
            tiers=self.tiers,
            contexts={"small": self.context, "large": self.context},
            panel=door.panel,
            policy=door.policy,
            journal=Journal.from_env() if door.journal is None else door.journal,
            ledger=door.ledger,
            shadow=self.shadow if self.schema is None else None,  # what carries structured output is the agent's to say
            run_id=str(manager.run_id),
            config=patch_config(self.config, callbacks=streams.muffle(cast("Any", manager).get_child("evidence"))),
            **asking,
        )

    def shadow(self) -> Answer:
        """Ask the large tier beside the agent, past its other middleware."""
        request, tier = self.request_of("large", None), self.tiers["large"]
        ready = tier.with_tools(request.tools, tool_choice=request.tool_choice) if request.tools else tier.plain()
        system = request.system_message
        messages = [*([] if system is None else [system]), *request.messages]
        return self.answer("large", ready.ask(cast("Any", messages), SHADOW, **request.model_settings))

    def request_of(self, role: Role, note: str | None) -> ModelRequest[Any]:
        """The request with the tier's model and bound arguments, without what only another provider understands."""
        request, tier = self.request, self.tiers[role]
        options = dict(request.model_settings)
        if request.tool_choice is not None:
            options["tool_choice"] = request.tool_choice
        mixed = len({other.traits.kind for other in self.tiers.values()}) > 1
        tools, settings = tier.offer_for(request.tools, options, mixed=mixed)
        choice = settings.pop("tool_choice", None) if request.tool_choice is not None else None
        bound = {key: value for key, value in tier.bound.items() if key not in ("tools", "tool_choice")}
        system = request.system_message
        messages = tier.messages_for(
            [*([] if system is None else [system]), *request.messages], pair=self.tiers, note=note
        )
        return request.override(
            model=tier.base,
            model_settings={**bound, **settings},
            tool_choice=choice,
            tools=tools,
            system_message=cast("Any", None if system is None else messages[0]),
            messages=cast("Any", messages if system is None else messages[1:]),
        )

    def asking(self, role: Role, manager: BaseRunManager) -> telemetry.Asking:
        """What stands around the call of a tier."""
        children = streams.muffle(cast("Any", manager).get_child(role))
        return telemetry.asking(children, role, tier=self.tiers[role], messages=self.messages)

    @contextmanager
    def hidden(self, role: Role, callbacks: Any) -> Iterator[None]:
        """The tier's call is a child of the step's run and unseen by stream consumers."""
        inner = patch_config(self.config, callbacks=callbacks)
        bound = self.tiers[role].config
        token = var_child_runnable_config.set(merge_configs(inner, bound) if bound else inner)
        try:
            yield
        finally:
            var_child_runnable_config.reset(token)

    def answer(self, role: str, response: ModelResponse[Any] | AIMessage) -> Answer:
        """A tier's response. What the agent answered itself, in tool messages, was structured output."""
        if isinstance(response, AIMessage):
            response = ModelResponse(result=[response])
        message, parsed = _last_answer(response), response.structured_response
        if self.schema is None:
            return Answer(draft=Draft(message=message, tier=role), native=response)
        answers = [m for m in response.result if isinstance(m, ToolMessage)]
        if parsed is None and not answers and (message.tool_calls or message.invalid_tool_calls):
            return Answer(draft=Draft(message=message, tier=role), native=response)  # a step on the way there
        fault = f"{StructuredOutputError.__name__}: {answers[0].text}" if answers and parsed is None else None
        draft = Draft(message=message, tier=role, parsed=parsed, parsing_error=fault)
        return Answer(draft=draft, native=response, context=self._structured(m.name for m in answers))

    def unparsed(self, role: str, error: StructuredOutputError) -> Answer:
        """A structured answer that the agent refused: a draft to be judged, not a model that failed."""
        source = getattr(error, "source", error)
        draft = Draft(message=error.ai_message, tier=role, parsing_error=f"{type(source).__name__}: {source}")
        return Answer(
            draft=draft, native=error, context=self._structured(c["name"] for c in error.ai_message.tool_calls)
        )

    def _structured(self, names: Any) -> StepContext:
        """The context of a structured answer: the tools that carry one are known, their arguments were parsed."""
        known = self.context.tools_by_name
        carriers = [ToolSpec(name=name) for name in dict.fromkeys(names) if name and name not in known]
        return replace(self.context, output_schema=self.schema, tools=(*self.context.tools, *carriers))

    def rebuilt(self, tier: str, message: AIMessage, parsed: object) -> Answer:
        """An answer from what was saved of it, or from what a human said."""
        if self.schema is None or (parsed is None and message.tool_calls):
            return self.answer(tier, message)
        value: Any = parse(self.schema, json.loads(str(message.text)) if parsed is None else parsed)
        told = [
            ToolMessage(f"Returning structured response: {value}", tool_call_id=call["id"], name=call["name"])
            for call in message.tool_calls
            if call["name"] not in self.context.tools_by_name
        ]
        return self.answer(tier, ModelResponse(result=[message, *told], structured_response=value))


def _last_answer(response: ModelResponse[Any]) -> AIMessage:
    for message in reversed(response.result):
        if isinstance(message, AIMessage):
            return message
    msg = "the model call returned no AIMessage"
    raise TypeError(msg)


def _response(settled: Settled) -> ModelResponse[Any]:
    """The agent's own response with the record on its answer; a copy, because the agent changes messages in place."""
    native, draft = settled.answer.native, settled.answer.draft
    if isinstance(native, StructuredOutputError):
        raise native  # no validator objected to an answer that does not parse: then as without a cascade
    response = cast("ModelResponse[Any]", native)
    answer = marked(draft.message, settled.trace)
    result = [answer if message is draft.message else message for message in response.result]
    return ModelResponse(result=result, structured_response=response.structured_response)
