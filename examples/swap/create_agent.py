"""An agent of `create_agent`: one argument, and the agent's own model becomes the small tier.

    agent = create_agent(large, [add])
->
    agent = create_agent(small, [add], middleware=[CascadeMiddleware(large)])
"""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeMiddleware
from cascade_agent.testing import ScriptedChatModel

QUESTION = {"messages": [HumanMessage("What is 2 + 3?", id="q")]}


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def alone(large):
    return create_agent(large, [add])


def swapped(small, large):
    return create_agent(small, [add], middleware=[CascadeMiddleware(large)])


def answer(messages):
    """Return the answer of the stand-in models."""
    if messages[-1].type == "tool":
        return f"2 + 3 is {messages[-1].text}."
    return AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2, "b": 3}, "id": "call_1"}])


if __name__ == "__main__":
    small, large = (ScriptedChatModel([answer], loop=True, name=name) for name in ("small", "large"))
    for agent in (alone(large), swapped(small, large)):
        print(agent.invoke(QUESTION)["messages"][-1].text, f"(large was asked {large.asked} times in all)")
