"""Judge a recorded answer without any model: what would a cascade have done with it, and why."""

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import assess


@tool
def send_money(amount: float, to: str) -> str:
    """Transfer an amount in euros to a person."""
    return "done"


question = [HumanMessage("Please send 25 euros to Amélie.")]
for args in ({"amount": 25, "to": "Amélie"}, {"amount": "all", "to": "Amélie"}, {"amount": 25, "to": "<recipient>"}):
    draft = AIMessage("", tool_calls=[{"name": "send_money", "args": args, "id": "1"}])
    found = assess(draft, messages=question, tools=[send_money])
    verdict = "keep" if found.accepted else "escalate"
    print(f"{verdict:8} confidence {found.confidence:.2f}  {found.decision.reason} {found.decision.detail}")
