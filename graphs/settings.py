"""Settings that an assistant, or a single run, gives to a graph: its policy as plain JSON, and its two models."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langchain_core.messages import SystemMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.config import ensure_config, set_config_context
from langgraph.runtime import get_runtime
from typing_extensions import TypedDict  # pydantic makes the JSON Schema of it: typing's own is refused before 3.12

from cascade_agent import cascade_node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool

    from cascade_agent.adapters.node import CascadeNode


class Settings(TypedDict, total=False):
    """The context of a graph: `graph.invoke(input, context={"policy": {"threshold": 0.8}})`.

    The same keys are read from `configurable`, which is where older servers put them.
    """

    policy: dict[str, Any]
    """Settings of the policy; those that are not named stay as the graph has them."""
    small: str
    """Provider string of the small model, such as `openai:gpt-4o-mini`."""
    large: str
    """Provider string of the large model."""


def alone(step: Callable[[Any, Any], dict[str, Any]], model: BaseChatModel, name: str) -> Any:
    """Return a node that does a step with one model and no cascade; asynchronous runs of it get a thread."""
    return RunnableLambda(lambda state: step(state, model), name=name)


def ask_with(tools: Sequence[BaseTool], prompt: str) -> Callable[[Any, Any], dict[str, Any]]:
    """Return the step that asks a model for the next message, with tools on offer."""

    def ask(state: Any, model: Any) -> dict[str, Any]:
        return {"messages": [model.bind_tools(tools).invoke([SystemMessage(prompt), *state["messages"]])]}

    return ask


class SettingsNode(Runnable[Any, Any]):
    """A cascade node that follows the settings of the run it is part of.

    Arguments are those of `cascade_node`.
    """

    def __init__(self, small: Any, large: Any, *, name: str, **options: Any) -> None:
        self.name = name
        self._own = cascade_node(small, large, name=name, **options)

        @lru_cache(maxsize=16)  # an assistant's models are built once
        def other(other_small: str | None, other_large: str | None) -> CascadeNode:
            return cascade_node(other_small or small, other_large or large, name=name, **options)

        self._other = other

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the node on a state; gives its update."""
        node, config = self._under(config)
        return node.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Async twin of `invoke`."""
        node, config = self._under(config)
        return await node.ainvoke(input, config, **kwargs)

    def _under(self, config: RunnableConfig | None) -> tuple[CascadeNode, RunnableConfig]:
        """Return the node and its config under the settings of the run."""
        config = ensure_config(config)
        given = config.get("configurable") or {}
        with set_config_context(config) as inside:
            try:
                runtime: Any = inside.run(lambda: get_runtime())  # noqa: PLW0108 - a generic function is none of no arguments to mypy
            except (RuntimeError, KeyError):  # outside of a graph, as in a unit test
                runtime = None
        settings = {**given, **(getattr(runtime, "context", None) or {})}
        small, large, policy = (settings.get(key) for key in ("small", "large", "policy"))
        if policy:
            config = {**config, "configurable": {**given, "cascade_policy": policy}}
        return (self._other(small, large) if small or large else self._own), config
