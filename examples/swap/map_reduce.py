"""Map and reduce with `Send`: the node that runs once per document, in parallel, is swapped.

    graph = build(large).compile()
->
    node = cascade_node(small, large, step=summarize)
    graph = swap_node(build(large), "summarize", node).compile()
"""

import operator
from functools import partial
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from cascade_agent import cascade_node, swap_node
from cascade_agent.testing import ScriptedChatModel

QUESTION = {"documents": ["The parcel left Hamburg on Monday.", "The parcel reached Lyon on Thursday."]}


class State(TypedDict):
    documents: list[str]
    summaries: Annotated[list[str], operator.add]
    report: str


class Document(TypedDict):
    text: str


def summarize(state: Document, model) -> dict:
    return {"summaries": [model.invoke(f"In three words: {state['text']}").text]}


def fan_out(state: State) -> list[Send]:
    return [Send("summarize", {"text": text}) for text in state["documents"]]


def report(state: State) -> dict:
    return {"report": "; ".join(state["summaries"])}


def build(model):
    builder = StateGraph(State).add_node("summarize", partial(summarize, model=model), input_schema=Document)
    builder.add_node("report", report).add_conditional_edges(START, fan_out, ["summarize"])
    return builder.add_edge("summarize", "report").add_edge("report", END)


def alone(large):
    return build(large).compile()


def swapped(small, large):
    node = cascade_node(small, large, step=summarize)
    return swap_node(build(large), "summarize", node).compile()


def answer(messages):
    """Return the answer of the stand-in models."""
    return "parcel left Hamburg" if "Hamburg" in messages[-1].text else "parcel reached Lyon"


if __name__ == "__main__":
    small, large = (ScriptedChatModel([answer], loop=True, name=name) for name in ("small", "large"))
    for graph in (alone(large), swapped(small, large)):
        print(graph.invoke(QUESTION)["report"], f"(large was asked {large.asked} times in all)")
