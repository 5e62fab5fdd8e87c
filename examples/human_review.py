"""A doubtful refund waits for a person; the reply is one that LangChain's and LangGraph's review pages send."""

from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from cascade_agent import Policy, cascade_node
from cascade_agent.testing import ScriptedChatModel, always_fail


@tool
def refund(order: str, amount: int) -> str:
    """Refund an order."""
    return f"{amount} for {order}"


def drafts(amount: int) -> list[AIMessage]:
    return [AIMessage("", tool_calls=[{"name": "refund", "args": {"order": "O-7", "amount": amount}, "id": "1"}])]


small = ScriptedChatModel(drafts(90), name="small")
large = ScriptedChatModel(drafts(60), name="large")
node = cascade_node(
    small,
    large,
    tools=[refund],
    validators=[always_fail(code="needs_approval", score=0.1)],
    policy=Policy(on_exhausted="interrupt", side_effects={"refund": "write"}),
)
builder = StateGraph(MessagesState).add_node("agent", node).add_edge(START, "agent")
graph = builder.compile(checkpointer=InMemorySaver())

thread = {"configurable": {"thread_id": "1"}}
paused = graph.invoke({"messages": [("human", "I want my money back for O-7.")]}, thread)
question = paused["__interrupt__"][0].value
print(question["description"])
print("to decide:", question["action_requests"][0]["name"], question["action_requests"][0]["args"])

again = graph.invoke(Command(resume={"type": "perhaps"}), thread)["__interrupt__"][0].value
print("not understood:", again["error"])

edited = {"name": "refund", "args": {"order": "O-7", "amount": 30}}
done = graph.invoke(Command(resume={"decisions": [{"type": "edit", "edited_action": edited}]}), thread)
print("decided:", done["messages"][-1].tool_calls[0]["args"])
print("models asked:", len(small.calls), "and", len(large.calls), "times")
