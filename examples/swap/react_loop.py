"""A ReAct loop by hand: the node that asks the model is swapped in the graph as it stands.

    graph = build(large).compile()
->
    node = cascade_node(small, large, tools=[add])
    graph = swap_node(build(large), "agent", node).compile()
"""

from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from cascade_agent import cascade_node, swap_node
from cascade_agent.testing import ScriptedChatModel
from examples.swap.create_agent import QUESTION, add, answer  # the same agent


def build(model):
    def agent(state):
        return {"messages": [model.bind_tools([add]).invoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("agent", agent).add_node("tools", ToolNode([add]))
    return builder.add_edge(START, "agent").add_conditional_edges("agent", tools_condition).add_edge("tools", "agent")


def alone(large):
    return build(large).compile()


def swapped(small, large):
    node = cascade_node(small, large, tools=[add])
    return swap_node(build(large), "agent", node).compile()


if __name__ == "__main__":
    small, large = (ScriptedChatModel([answer], loop=True, name=name) for name in ("small", "large"))
    for graph in (alone(large), swapped(small, large)):
        print(graph.invoke(QUESTION)["messages"][-1].text, f"(large was asked {large.asked} times in all)")
