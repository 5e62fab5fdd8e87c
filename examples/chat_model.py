"""Swap the model: a cascade wherever a chat model stands, here with scripted models instead of real ones."""

from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel, Price, Tier
from cascade_agent.testing import ScriptedChatModel


@tool
def find_order(order_id: int) -> str:
    """Look an order up by its number."""
    return f"order {order_id}: shipped"


def call(**args: object) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "find_order", "args": args, "id": "call_1"}])


# With real models: CascadeChatModel(small="openai:gpt-4o-mini", large="openai:gpt-4o")
small = ScriptedChatModel([call(order="the last one"), call(order_id="4711")], name="small", usage=(120, 18))
large = ScriptedChatModel([call(order_id=4711)], name="large", usage=(120, 17))
model = CascadeChatModel(
    small=Tier(small, price=Price(0.15, 0.60)), large=Tier(large, price=Price(2.50, 10.00))
).bind_tools([find_order])

for _ in range(2):
    answer = model.invoke("Where is my order 4711?")
    step = answer.response_metadata["cascade"]
    print(f"{step['final_tier']:5} answered {answer.tool_calls[0]['args']}, reason: {step['reason']}")
    for attempt in step["attempts"]:
        tokens = attempt["usage"]["input_tokens"]
        print(f"      {attempt['tier']:5} {attempt['outcome']:8} {tokens} tokens in, ${attempt['cost']:.6f}")
