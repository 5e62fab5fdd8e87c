"""Structured output as plain JSON, and back, on its way through the engine."""

from langchain_core.messages import AIMessage
from pydantic import BaseModel, Field

from cascade_agent import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import SelfConsistency, default_validators


class Total(BaseModel):
    """A sum, whose field the model calls by another name."""

    value: int = Field(alias="total")


def test_a_better_draft_keeps_the_names_of_its_fields() -> None:
    """The majority's structured output takes the place of the first draft, also where its fields have aliases."""

    def reply(value: int) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "Total", "args": {"total": value}, "id": "1"}])

    evidence = SelfConsistency(instructions=["A", "B", "C"], staged=True)
    small, large = (ScriptedChatModel(list(map(reply, values))) for values in ((42, 41, 41, 41), (7,)))
    judged = CascadeChatModel(small=small, large=large, validators=[*default_validators(), evidence])
    assert judged.with_structured_output(Total).invoke("6 * 7?") == Total(total=41)
