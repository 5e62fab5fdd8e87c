"""The node adapter: a cascade as one node of a `StateGraph`, or in the place of a node that is already there.

Placement only: a body runs once, with the cascade as its model, so its side effects are single and each of its model
calls is one step of the cascade.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config, run_in_executor, var_child_runnable_config

from cascade_agent.adapters.chat_model import CascadeChatModel
from cascade_agent.core.policy import Policy
from cascade_agent.engine.step import state_of_step
from cascade_agent.engine.ways import finished
from cascade_agent.errors import ConfigurationError

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.journal.writer import Journal
    from cascade_agent.models.tier import ModelLike

Prompt = str | SystemMessage | Callable[[Any], str | SystemMessage | Sequence[BaseMessage]]
Body = Callable[[Any, RunnableConfig, bool], Awaitable[Any]]
"""`(state, config, is_async) -> update`; on the way of threads it is done when it comes back."""
F = TypeVar("F", bound=Callable[..., Any])
B = TypeVar("B")
_POLICY = Policy()
_INJECTED = ("config", "runtime", "store", "writer")


class CascadeNode(Runnable[Any, Any]):
    """A node for `StateGraph.add_node`, sync and async. `model` is the cascade that it asks.

    It opens no run of its own: the graph has one for the node, the cascade one for each step.
    """

    def __init__(self, model: CascadeChatModel, body: Body, *, name: str) -> None:
        self.model, self.name, self._body = model, name, body

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the node on a state; gives its update."""
        del kwargs
        return finished(self._run(input, config, is_async=False))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Async twin of `invoke`."""
        del kwargs
        return await self._run(input, config, is_async=True)

    async def _run(self, state: Any, config: RunnableConfig | None, *, is_async: bool) -> Any:
        config = ensure_config() if config is None else config
        token = var_child_runnable_config.set(config)
        try:
            with state_of_step(state):
                return await self._body(state, config, is_async)
        finally:
            var_child_runnable_config.reset(token)


def cascade_node(
    small: ModelLike,
    large: ModelLike,
    *,
    tools: Sequence[Any] = (),
    prompt: Prompt | None = None,
    step: Callable[..., Any] | None = None,
    validators: Sequence[object] | None = None,
    policy: Policy | JsonMapping | None = _POLICY,
    name: str | None = None,
    journal: Journal | object = None,
    durable: bool = False,
) -> CascadeNode:
    """A graph node whose model calls go to `small` first and to `large` only when the step needs it.

    ```python
    builder.add_node("agent", cascade_node("openai:gpt-4o-mini", "openai:gpt-4o", tools=tools))
    ```

    Without `step` the node asks the model, `prompt` first, on the messages of the state (`state["messages"]`, an
    attribute `messages`, or the state itself when it is a list) and returns `{"messages": [answer]}`. With
    `step(state, model) -> update`, sync or async, it runs that body once, the tools bound to `model`; the body may also
    take `config`, `runtime`, `store` and `writer` by name. Its `state` is a copy: a change in place stays inside.

    Args:
        small: A chat model (also one with bound arguments), a `Tier`, or a provider string.
        large: As `small`; answers the steps that need it.
        tools: The tools that the model may call, bound once.
        prompt: A system text or message put before the messages, or a function of the state that gives either or
            a list of messages. Only without `step`.
        step: The body of the node.
        validators: The judges of a draft; None means `default_validators()`.
        policy: When to escalate and what to do when even the large draft fails; a mapping of settings is one.
        name: Name of the node and of its steps in the record; without it steps carry the name of the graph's node.
        journal: Where steps are recorded; None means the file named by `CASCADE_JOURNAL`, if any.
        durable: Save each answer with the checkpoint, so that an interrupt later in the body neither pays nor changes
            it, and what a refused draft cost, so that a crash has large alone asked again. Always so under
            `on_exhausted="interrupt"`.

    Raises:
        ConfigurationError: a setting that cannot work.
    """
    if step is not None and prompt is not None:
        msg = "cascade_node takes `prompt` or `step`, not both: a body builds its own request"
        raise ConfigurationError(msg)
    if not (prompt is None or callable(prompt) or isinstance(prompt, str | SystemMessage)):
        msg = f"prompt is {type(prompt).__name__}; expected a text, a SystemMessage, or a function of the state"
        raise ConfigurationError(msg)
    model = _cascade(
        small=small, large=large, validators=validators, policy=policy, name=name, journal=journal, durable=durable
    )
    offered = model.bind_tools(tools) if tools else model
    if step is not None:
        return _with_body(model, offered, step, name=name or str(getattr(step, "__name__", "cascade")))
    # passed on here: the binding would merge the graph's config once more, a tenth of a step's time
    bound: JsonMapping = offered.kwargs if isinstance(offered, RunnableBinding) else {}

    async def body(state: Any, config: RunnableConfig, is_async: bool) -> Any:
        request = _request(state, prompt)
        if is_async:
            return _update(state, await model.ainvoke(request, config, **bound))
        return _update(state, model.invoke(request, config, **bound))

    return CascadeNode(model, body, name=name or "cascade")


def cascade_step(
    *,
    small: ModelLike,
    large: ModelLike,
    validators: Sequence[object] | None = None,
    policy: Policy | JsonMapping | None = _POLICY,
    tools: Sequence[Any] = (),
    name: str | None = None,
    journal: Journal | object = None,
    durable: bool = False,
) -> Callable[[F], F]:
    """Decorate a node function `def agent(state, *, model) -> update`, sync or async, with a cascade as its `model`.

    ```python
    @cascade_step(small="openai:gpt-4o-mini", large="openai:gpt-4o", tools=tools)
    def agent(state: State, *, model) -> dict:
        return {"messages": [model.invoke(state["messages"])]}
    ```

    The function keeps its name, signature, module and type hints, so injection (`config`, `runtime`, `store`,
    `writer`), the inference of its input schema and durable-execution plug-ins treat it as before. Called with a
    `model` of your own, as in a unit test, it uses that one. `agent.cascade` is the `CascadeChatModel`.

    Arguments are those of `cascade_node`.

    Raises:
        ConfigurationError: a setting that cannot work, or a function without a parameter `model`.
    """
    cascade = _cascade(
        small=small, large=large, validators=validators, policy=policy, name=name, journal=journal, durable=durable
    )
    offered = cascade.bind_tools(list(tools)) if tools else cascade

    def decorate(body: F) -> F:
        if "model" not in inspect.signature(body).parameters:
            msg = f"{body!r} has no parameter `model`: write `def {getattr(body, '__name__', 'node')}(state, *, model)`"
            raise ConfigurationError(msg)
        first = next(iter(inspect.signature(body).parameters))

        def called(args: tuple[Any, ...], kwargs: JsonObject) -> tuple[Any, Callable[[], Any]]:
            state, rest = (args[0], args[1:]) if args else (kwargs.pop(first), ())
            return state, functools.partial(body, owned(state), *rest, **{"model": offered, **kwargs})

        async def acall(*args: Any, **kwargs: Any) -> Any:
            state, ready = called(args, kwargs)
            with state_of_step(state):
                return await ready()

        def call(*args: Any, **kwargs: Any) -> Any:
            state, ready = called(args, kwargs)
            with state_of_step(state):
                return ready()

        wrapper: Any = functools.wraps(body)(acall if inspect.iscoroutinefunction(body) else call)
        wrapper.cascade = cascade
        return cast("F", wrapper)

    return decorate


def swap_node(builder: B, name: str, node: Any) -> B:
    """Put `node` in the place of the node `name` of a `StateGraph`, before it is compiled. Returns the builder.

    Edges, input schema, retry and cache policy, metadata, tags, defer, destinations, timeout and error handler of the
    node stay as they are.

    Raises:
        ConfigurationError: not a `StateGraph`, or one without a node of that name.
        ValueError: what `add_node` itself refuses.
    """
    from langgraph.graph import StateGraph

    graph: Any = builder
    if not isinstance(graph, StateGraph):
        hint = ": swap in its `.builder` and compile that" if hasattr(graph, "builder") else ""
        msg = f"swap_node works on a StateGraph that is not yet compiled; got {type(graph).__name__}{hint}"
        raise ConfigurationError(msg)
    spec = graph.nodes.get(name)
    if spec is None:
        names = ", ".join(repr(known) for known in graph.nodes if not known.startswith("__")) or "none"
        msg = f"the graph has no node {name!r}; its nodes are {names}"
        raise ConfigurationError(msg)
    scratch = StateGraph(graph.state_schema, graph.context_schema)
    scratch.add_node(name, node, input_schema=spec.input_schema, timeout=spec.timeout)
    fresh = scratch.nodes[name]
    tags = _tags(spec.runnable)
    runnable = cast("Runnable[Any, Any]", fresh.runnable)
    swapped = cast("Any", runnable.with_config(tags=tags) if tags else runnable)
    graph.nodes[name] = replace(spec, runnable=swapped, ends=spec.ends or fresh.ends)
    return builder


def owned(state: Any) -> Any:
    """A copy of a graph's state, its containers copied one level: what a body does to it in place stays in the body."""
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list):
        return list(state)
    if hasattr(type(state), "model_fields"):
        return state.model_copy(update={key: _copied(getattr(state, key)) for key in type(state).model_fields})
    if is_dataclass(state) and not isinstance(state, type):
        twin = copy.copy(state)
        for field in fields(state):
            object.__setattr__(twin, field.name, _copied(getattr(state, field.name)))
        return twin
    return state


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, list | dict | set) else value


def _cascade(*, name: str | None, **settings: Any) -> CascadeChatModel:
    return CascadeChatModel(**settings) if name is None else CascadeChatModel(name=name, **settings)


def _with_body(model: CascadeChatModel, offered: Any, step: Callable[..., Any], *, name: str) -> CascadeNode:
    takes = [key for key in _INJECTED if key in inspect.signature(step).parameters]
    by_name = _takes_model_by_name(step)
    native = inspect.iscoroutinefunction(step) or inspect.iscoroutinefunction(getattr(step, "__call__", None))  # noqa: B004 - a callable object's own method

    def play(state: Any, config: RunnableConfig) -> Any:
        given = _injection(takes, config)
        return step(owned(state), model=offered, **given) if by_name else step(owned(state), offered, **given)

    async def body(state: Any, config: RunnableConfig, is_async: bool) -> Any:
        if native and not is_async:
            msg = f"the step of node {name!r} is async: run the graph with ainvoke or astream, or give a sync step"
            raise ConfigurationError(msg)
        if native:
            return await play(state, config)
        return await run_in_executor(config, play, state, config) if is_async else play(state, config)

    return CascadeNode(model, body, name=name)


def _takes_model_by_name(step: Callable[..., Any]) -> bool:
    """Return whether the body is `(state, *, model)` or has a parameter of that name; else the model is the second one.

    Raises:
        ConfigurationError: it takes no model.
    """
    parameters = list(inspect.signature(step).parameters.values())
    if any(p.name == "model" and p.kind is not p.POSITIONAL_ONLY for p in parameters[1:]):
        return True
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(by_place) > 1 or any(p.kind is p.VAR_POSITIONAL for p in by_place):
        return False
    msg = f"{getattr(step, '__name__', 'step')!r} takes no model; expected step(state, model) -> update"
    raise ConfigurationError(msg)


def _injection(takes: Sequence[str], config: RunnableConfig) -> JsonObject:
    if not takes:
        return {}
    from langgraph.runtime import Runtime, get_runtime

    try:
        runtime: Any = get_runtime() or Runtime()
    except RuntimeError:  # outside a graph, as in a unit test
        runtime = Runtime()
    offer = {"config": config, "runtime": runtime, "store": runtime.store, "writer": runtime.stream_writer}
    return {key: offer[key] for key in takes}


def _request(state: Any, prompt: Prompt | None) -> list[Any]:
    head = prompt(state) if callable(prompt) else prompt
    if head is None:
        return _messages(state)
    if isinstance(head, str):
        head = SystemMessage(head)
    return [*([head] if isinstance(head, BaseMessage) else head), *_messages(state)]


def _messages(state: Any) -> list[Any]:
    if isinstance(state, list):
        return list(state)
    messages = state.get("messages") if isinstance(state, Mapping) else getattr(state, "messages", None)
    if messages is None:
        msg = f"the state ({type(state).__name__}) has no `messages`: give a `step` that builds the request"
        raise ConfigurationError(msg)
    return list(messages)


def _update(state: Any, answer: BaseMessage) -> Any:
    return [answer] if isinstance(state, list) else {"messages": [answer]}


def _tags(runnable: Any) -> list[str]:
    """The tags that a node was given by `with_config(tags=...)` or at construction."""
    if isinstance(runnable, RunnableBinding):
        return [*(runnable.config.get("tags") or ()), *_tags(runnable.bound)]
    return list(getattr(runnable, "tags", None) or ())
