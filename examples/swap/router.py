"""A router that reads structured output, and the branch that it takes: the router's model is swapped.

    graph = build(large, large)
->
    router = CascadeChatModel(small=small, large=large, name="router")
    graph = build(router, large)
"""

from typing import Literal, TypedDict

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from cascade_agent import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel

QUESTION = {"question": "My parcel is late. Where is it?"}


class Route(BaseModel):
    """The desk that a question belongs to."""

    desk: Literal["shipping", "billing"]


class State(TypedDict):
    question: str
    desk: str
    reply: str


def build(router, model):
    typed = router.with_structured_output(Route)

    def route(state: State) -> dict:
        return {"desk": typed.invoke(f"Which desk? {state['question']}").desk}

    def shipping(state: State) -> dict:
        return {"reply": model.invoke(f"You are the shipping desk. {state['question']}").text}

    def billing(state: State) -> dict:
        return {"reply": model.invoke(f"You are the billing desk. {state['question']}").text}

    builder = StateGraph(State).add_node("route", route).add_node("shipping", shipping).add_node("billing", billing)
    builder.add_edge(START, "route").add_conditional_edges("route", lambda s: s["desk"], ["shipping", "billing"])
    return builder.add_edge("shipping", END).add_edge("billing", END).compile()


def alone(large):
    return build(large, large)


def swapped(small, large):
    router = CascadeChatModel(small=small, large=large, name="router")
    return build(router, large)


def answer(messages):
    """Return the answer of the stand-in models."""
    if "Which desk?" in messages[-1].text:
        return AIMessage("", tool_calls=[{"name": "Route", "args": {"desk": "shipping"}, "id": "call_1"}])
    return "It arrives tomorrow."


if __name__ == "__main__":
    small, large = (ScriptedChatModel([answer], loop=True, name=name) for name in ("small", "large"))
    for graph in (alone(large), swapped(small, large)):
        print(graph.invoke(QUESTION)["reply"], f"(large was asked {large.asked} times in all)")
