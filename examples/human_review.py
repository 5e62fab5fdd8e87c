"""When even the large draft fails, ask a human: the graph is interrupted and resumed with the answer."""

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from cascade_agent import Policy, cascade_node
from cascade_agent.testing import ScriptedChatModel, always_fail

small = ScriptedChatModel(["Refund granted."], name="small")
large = ScriptedChatModel(["Refund granted, with a voucher."], name="large")
node = cascade_node(
    small,
    large,
    validators=[always_fail(code="needs_approval", score=0.1)],
    policy=Policy(on_exhausted="interrupt"),
)
builder = StateGraph(MessagesState)
builder.add_node("agent", node)
builder.add_edge(START, "agent")
graph = builder.compile(checkpointer=InMemorySaver())

thread = {"configurable": {"thread_id": "1"}}
paused = graph.invoke({"messages": [("human", "I want my money back.")]}, thread)
asked = paused["__interrupt__"][0].value
print("a human is asked, because of", asked["reason"], "to look at:", asked["draft"]["text"])

done = graph.invoke(Command(resume="accept"), thread)
print("accepted:", done["messages"][-1].content)
print("models asked:", len(small.calls), "and", len(large.calls), "times")
