"""Keep the body of a node and hand it a cascade: `step=`, the decorator, and `swap_node` on an existing graph."""

from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

from cascade_agent import cascade_node, cascade_step, swap_node
from cascade_agent.testing import ScriptedChatModel


class State(TypedDict, total=False):
    text: str
    summary: str
    title: str


def summarize(state: State, model: Any) -> State:
    return {"summary": model.invoke(f"Summarize: {state['text']}").content}


def old_title(state: State) -> State:
    return {"title": "written by a large model at every step"}


builder = StateGraph(State)
builder.add_node(
    "summarize", cascade_node(ScriptedChatModel(["A short tale."]), ScriptedChatModel(["-"]), step=summarize)
)
builder.add_node("title", old_title)
builder.add_edge(START, "summarize")
builder.add_edge("summarize", "title")


@cascade_step(small=ScriptedChatModel([""]), large=ScriptedChatModel(["The Tale"]))  # an empty draft escalates
def title(state: State, *, model: Any) -> State:
    return {"title": model.invoke(f"A title for: {state['summary']}").content}


swap_node(builder, "title", title)
print(builder.compile().invoke({"text": "Once upon a time ..."}))
