"""A deep agent: a plan that it writes, and a sub-agent for each task; the models of both are swapped.

    agent = build(large)
->
    agent = build(small, CascadeMiddleware(large))

The shape is that of `deepagents`, made of `create_agent`, its to-do list and a tool `task`, for that package is no
dependency here; `create_deep_agent(model=small, middleware=[CascadeMiddleware(large)])` takes the same two arguments.
"""

from langchain.agents import create_agent
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeMiddleware
from cascade_agent.testing import ScriptedChatModel

QUESTION = {"messages": [HumanMessage("Compare the weather in Lyon and in Oslo.", id="q")]}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: {21 if city == 'Lyon' else 9} degrees"


def build(model, *middleware):
    researcher = create_agent(model, [weather], system_prompt="You research one city.", middleware=middleware)

    @tool
    def task(description: str) -> str:
        """Hand a task to a sub-agent with a context of its own."""
        return researcher.invoke({"messages": [HumanMessage(description)]})["messages"][-1].text

    return create_agent(model, [task], system_prompt="You plan first.", middleware=[TodoListMiddleware(), *middleware])


def alone(large):
    return build(large)


def swapped(small, large):
    return build(small, CascadeMiddleware(large))


def answer(messages):
    """Return the answer of the stand-in models, by their role and by what was found."""
    results = [m for m in messages if m.type == "tool"]
    if "research" in messages[0].text:
        city = "Lyon" if "Lyon" in messages[1].text else "Oslo"
        return results[-1].text if results else call("weather", city=city)
    found = [m.text for m in results if m.name == "task"]
    if not results:
        plan = [{"content": f"weather in {city}", "status": "pending"} for city in ("Lyon", "Oslo")]
        return call("write_todos", todos=plan)
    if len(found) < 2:
        return call("task", len(found), description=f"What is the weather in {('Lyon', 'Oslo')[len(found)]}?")
    return f"{found[0]}, {found[1]}: Lyon is warmer."


def call(name, turn=0, **args):
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{name}_{turn}"}])


if __name__ == "__main__":
    small, large = (ScriptedChatModel([answer], loop=True, name=name) for name in ("small", "large"))
    for agent in (alone(large), swapped(small, large)):
        print(agent.invoke(QUESTION)["messages"][-1].text, f"(large was asked {large.asked} times in all)")
