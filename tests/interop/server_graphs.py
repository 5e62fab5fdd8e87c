"""Graphs that the server's test serves next to those of langgraph.json."""

from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from cascade_agent import Policy, cascade_node
from cascade_agent.testing import ScriptedChatModel, always_fail


@tool
def refund(order: str, amount: int) -> str:
    """Refund an order."""
    return f"{amount} for {order}"


def _model(name: str) -> Any:
    call = {"name": "refund", "args": {"order": name, "amount": 30}, "id": "c1"}
    return ScriptedChatModel([AIMessage("", tool_calls=[call])], name=name, loop=True)


_node = cascade_node(
    _model("small"),
    _model("large"),
    tools=[refund],
    validators=[always_fail(code="doubt", score=0.1)],
    policy=Policy(on_exhausted="interrupt", side_effects={"refund": "write"}),
    name="clerk",
)
review = StateGraph(MessagesState).add_node("clerk", _node).add_edge(START, "clerk").compile()
