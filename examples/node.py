"""Swap a node of a StateGraph, and watch that a rejected draft never reaches the stream."""

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from cascade_agent import cascade_node
from cascade_agent.testing import ScriptedChatModel


@tool
def find_order(order_id: int) -> str:
    """Look an order up by its number."""
    return f"order {order_id}: shipped yesterday"


def call(name: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {"order_id": 4711}, "id": "call_1"}])


small = ScriptedChatModel([call("search_orders"), "Order 4711 was shipped yesterday."], name="small")  # no such tool
large = ScriptedChatModel([call("find_order")], name="large")

builder = StateGraph(MessagesState)
builder.add_node("agent", cascade_node(small, large, tools=[find_order]))
builder.add_node("tools", ToolNode([find_order]))
builder.add_edge(START, "agent")
builder.add_conditional_edges("agent", tools_condition)
builder.add_edge("tools", "agent")
graph = builder.compile()

question = {"messages": [HumanMessage("Where is my order 4711?")]}
for chunk, metadata in graph.stream(question, stream_mode="messages"):
    what = chunk.content or [c["name"] for c in getattr(chunk, "tool_call_chunks", [])]
    if isinstance(chunk, AIMessageChunk) and what:
        print(metadata["langgraph_node"], "streamed", what)
