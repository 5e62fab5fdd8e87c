"""`assess()` judges a recorded answer as a running cascade would, without a model."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel, Draft, Policy, StepContext, Verdict, assess
from cascade_agent.core.scoring import Scorer
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel


@tool
def pay(amount: float, to: str) -> str:
    """Pay an amount in euros to a person."""
    return "paid"


def call(**args: object) -> AIMessage:
    """An answer that calls the tool."""
    return AIMessage("", tool_calls=[{"name": "pay", "args": args, "id": "c1"}])


ASKED = [HumanMessage("Please pay 25 euros to Amélie.")]
DRAFTS = [
    call(amount=25, to="Amélie"),
    call(amount="25", to="Amélie"),
    call(amount="a lot", to="Amélie"),
    call(to="Amélie"),
    call(amount=25, to="Amélie", currency="EUR"),
    AIMessage(""),
    AIMessage("Paid."),
]


@pytest.mark.parametrize("draft", DRAFTS, ids=str)
def test_assess_decides_as_a_running_step(draft: AIMessage) -> None:
    """Verdicts, confidence and decision are those of the small attempt of a real step with the same answer."""
    found = assess(draft, messages=ASKED, tools=[pay])
    model = CascadeChatModel(small=ScriptedChatModel([draft]), large=ScriptedChatModel([call(amount=25, to="Amélie")]))
    step = model.bind_tools([pay]).invoke(ASKED).response_metadata["cascade"]
    assert found.accepted == (step["final_tier"] == "small")
    small = step["attempts"][0]
    assert found.confidence == small["confidence"]
    assert [v.code for v in found.verdicts] == [v.get("code", "") for v in small.get("verdicts", [])]


def test_the_context_speaks_too() -> None:
    """A tool error of the small tier that an answer passes over rules it out, as in a running step."""
    erred = call(amount=25, to="Amelie")
    erred.response_metadata["cascade"] = {"final_tier": "small"}
    messages = [*ASKED, erred, ToolMessage("no such person", tool_call_id="c1", status="error")]
    found = assess(AIMessage("It is paid."), messages=messages, tools=[pay])
    assert not found.accepted
    assert found.decision.reason == "after_tool_error"
    assert assess(call(amount=25, to="Amélie"), messages=messages, tools=[pay]).accepted


def test_policy_scorer_and_state_are_used() -> None:
    """A threshold decides on the confidence; a scorer given replaces the policy's; validators see the state."""

    def by_state(draft: Draft, context: StepContext) -> Verdict:
        state: Any = context.state
        return Verdict(outcome="pass", code="mine", score=state["score"])

    def accepted(score: float) -> bool:
        given: dict[str, Any] = {"messages": ASKED, "tools": [pay], "state": {"score": score}, "validators": [by_state]}
        return assess(call(amount=25, to="A"), **given, policy=Policy(threshold=0.5)).accepted

    assert accepted(0.6)
    assert not accepted(0.4)
    strict = Scorer(weights={"mine": 1.0}, bias=-5.0)
    found = assess(call(amount=25, to="A"), messages=ASKED, state={"score": 1.0}, validators=[by_state], scorer=strict)
    assert found.confidence is not None
    assert found.confidence < 0.01


def test_requests_are_read_as_a_model_reads_them_and_garbage_is_refused() -> None:
    """Tuples, dicts and a text are messages; what is no message or no answer is refused with its name."""
    user = {"role": "user", "content": "Pay 25 to Amélie"}
    for messages in ([("user", user["content"])], [user], user["content"]):
        assert assess(call(amount=25, to="Amélie"), messages=messages, tools=[pay]).accepted
    for message, messages in ((None, ASKED), ("text", ASKED), (call(to="A"), [object()]), (call(to="A"), 5)):
        with pytest.raises(ConfigurationError, match="assess"):
            assess(message, messages=messages)  # type: ignore[arg-type]
