"""A customer-support agent loop whose model node is a cascade: model -> tools -> model, over the order desk.

`build` is the whole graph; `build_alone` is the same graph with one plain model in the node, which is what the cascade
is compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import SystemMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from cascade_agent import Policy
from graphs.settings import Settings, SettingsNode
from graphs.standins.models import standin_tiers
from tools.database import TODAY, OrderDatabase
from tools.orders import SIDE_EFFECTS, order_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.language_models import BaseChatModel
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from cascade_agent import Tier

PROMPT = f"""You are the support agent of a small online shop. Today is {TODAY.isoformat()}.
Use the tools for every fact; never invent an order number, an amount or a date. Order numbers look like O-2001.
Check a condition before you act on it. Cancelling and refunding cannot be undone: do so only when the user asks for it.
If a user says who they are, act only on orders of that account. If it is not clear whose or which order is meant, ask.
If the shop's rules forbid something, do not work around them: say that it cannot be done and why.
When everything is done, answer in one or two sentences that name order numbers, amounts, places and dates."""


def build(  # noqa: PLR0913 - keyword settings
    small: BaseChatModel | Tier | str,
    large: BaseChatModel | Tier | str,
    *,
    policy: Policy | None = None,
    validators: Sequence[Any] | None = None,
    db: OrderDatabase | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The agent with a cascade in its model node.

    Args:
        small: the model that tries every step first.
        large: the model that answers where the small one's draft is rejected.
        policy: None knows the side effects of the desk's tools and is the default otherwise.
        validators: None is the default set.
        db: the shop; None is a fresh copy in memory.
        checkpointer: where LangGraph keeps threads.
    """
    tools = order_tools(db or OrderDatabase())
    policy = policy or Policy(side_effects=SIDE_EFFECTS)
    node = SettingsNode(small, large, tools=tools, prompt=PROMPT, validators=validators, policy=policy, name="support")
    return _graph(node, tools, checkpointer)


def build_alone(
    model: BaseChatModel, *, db: OrderDatabase | None = None, checkpointer: BaseCheckpointSaver[str] | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The same agent with one model and no cascade."""
    tools = order_tools(db or OrderDatabase())
    bound = model.bind_tools(tools)

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke([SystemMessage(PROMPT), *state["messages"]])]}

    async def aask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke([SystemMessage(PROMPT), *state["messages"]])]}

    return _graph(RunnableLambda(ask, aask), tools, checkpointer)


def _graph(
    node: Runnable[Any, Any] | Callable[..., Any], tools: Sequence[Any], checkpointer: BaseCheckpointSaver[str] | None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    builder = StateGraph(MessagesState, context_schema=Settings)
    builder.add_node("model", node)
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=checkpointer)


graph = build(*standin_tiers())
"""For `langgraph.json`: offline stand-ins over a fresh copy of the shop."""
