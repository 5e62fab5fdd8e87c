"""A supervisor with two sub-agents as its tools: supervisor and sub-agents share one model, which is swapped.

    graph = build(large)
->
    graph = build(CascadeChatModel(small=small, large=large))
"""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel

QUESTION = {"messages": [HumanMessage("Where is order 4711, and what did it cost?", id="q")]}


@tool
def find_order(order_id: int) -> str:
    """Look an order up by its number."""
    return f"order {order_id} was shipped yesterday"


@tool
def find_bill(order_id: int) -> str:
    """Look the bill of an order up."""
    return f"order {order_id} cost 20 EUR"


def build(model):
    shipping = create_agent(model, [find_order], system_prompt="You answer about shipping.", name="shipping")
    billing = create_agent(model, [find_bill], system_prompt="You answer about bills.", name="billing")

    @tool
    def ask_shipping(request: str) -> str:
        """Ask the shipping desk."""
        return shipping.invoke({"messages": [HumanMessage(request)]})["messages"][-1].text

    @tool
    def ask_billing(request: str) -> str:
        """Ask the billing desk."""
        return billing.invoke({"messages": [HumanMessage(request)]})["messages"][-1].text

    return create_agent(model, [ask_shipping, ask_billing], system_prompt="You ask the desks.", name="supervisor")


def alone(large):
    return build(large)


def swapped(small, large):
    return build(CascadeChatModel(small=small, large=large))


def answer(messages):
    """Return the answer of the stand-in models, by the role that the system prompt gives them and by what was found."""
    role, results = messages[0].text, [m.text for m in messages if m.type == "tool"]
    if "desks" not in role:
        name = "find_order" if "shipping" in role else "find_bill"
        return results[-1] if results else call(name, order_id=4711)
    if not results:
        return call("ask_shipping", request="Where is order 4711?")
    if len(results) == 1:
        return call("ask_billing", request="What did order 4711 cost?")
    return f"Your {results[0]}; {results[1]}."


def call(name, **args):
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{name}"}])


if __name__ == "__main__":
    small, large = (ScriptedChatModel([answer], loop=True, name=name) for name in ("small", "large"))
    for graph in (alone(large), swapped(small, large)):
        print(graph.invoke(QUESTION)["messages"][-1].text, f"(large was asked {large.asked} times in all)")
