"""Ceilings per conversation, a small tier that is left out while it is no help, and what the record says of both."""

from collections import Counter

from cascade_agent import CascadeChatModel, CascadeExhausted, Policy, Price, Tier, Verdict
from cascade_agent.testing import ScriptedChatModel, TraceCapture


def too_short(draft, context):
    """A rule of our own: one word is no answer."""
    if len(draft.text.split()) < 2:
        return Verdict(outcome="fail", code="too_short", reason="one word is no answer")
    return None


# Offline stand-ins. With real models: small=Tier("openai:gpt-4o-mini"), large=Tier("openai:gpt-4o").
small = Tier(ScriptedChatModel("Yes", usage=(100, 5), loop=True), price=Price(0.15, 0.60))
large = Tier(ScriptedChatModel("It is raining.", usage=(100, 50), loop=True), price=Price(2.50, 10.0))

journal = TraceCapture()
model = CascadeChatModel(
    small=small, large=large, validators=[too_short], policy=Policy(max_cost={"thread": 0.03}), journal=journal
)

answered = 0
try:
    for _ in range(100):
        model.invoke("How is the weather?", {"configurable": {"thread_id": "a conversation"}})
        answered += 1
except CascadeExhausted as error:
    print(error)

print(f"{answered} answers for {sum(step.cost for step in journal):.4f} USD")
print(Counter(step.reason for step in journal))
