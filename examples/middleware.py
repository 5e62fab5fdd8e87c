"""Swap nothing but a line of `create_agent`: its own model becomes the small tier."""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from cascade_agent import CascadeMiddleware
from cascade_agent.testing import ScriptedChatModel


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def call(**args: object) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "add", "args": args, "id": "call_1"}])


small = ScriptedChatModel([call(a=2), "2 and 3 make 5."], name="small")  # b is missing: large makes the call
large = ScriptedChatModel([call(a=2, b=3)], name="large")
agent = create_agent(small, tools=[add], middleware=[CascadeMiddleware(large)])

for message in agent.invoke({"messages": [("human", "What is 2 + 3?")]})["messages"]:
    step = message.response_metadata.get("cascade")
    who = f"{step['final_tier']} ({step['reason']})" if step else message.type
    print(f"{who:25} {message.content or message.tool_calls}")
