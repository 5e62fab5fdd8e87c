"""What users get wrong is refused or logged at construction, and what strangers write moves no budget."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeMiddleware, Policy, Price, Tier, cascade_node
from cascade_agent.errors import CascadeExhausted, ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_pass
from tests.builders import pair, refuses_small

if TYPE_CHECKING:
    from collections.abc import Callable


@tool
def look(x: int) -> int:
    """Look at a number."""
    return x


@tool("look")
def other(x: int) -> int:
    """Look at another one."""
    return x


def model(**settings: Any) -> ScriptedChatModel:
    """A model that says one thing."""
    return ScriptedChatModel(["fine"], loop=True, **settings)


ONE = model()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tier(model(), timeout=True), "Tier.timeout is True; expected a positive number"),
        (lambda: Policy(max_cost=10**400), "Policy.max_cost is 1000"),
        (lambda: Price(10**400, 1), "input is 1000"),
        (lambda: Price(1, float("inf")), "output is inf"),
        (lambda: cascade_node(model(), model(), prompt=5), "prompt is int; expected a text"),
        (lambda: cascade_node(b"nope", model()), "a tier is bytes"),
        (lambda: cascade_node(model(), model(), validators=[always_pass(), always_pass()]), "two validators are named"),
        (lambda: CascadeMiddleware(7), "a tier is int"),
        (lambda: CascadeMiddleware(model(), policy={"thresholds": 1}), "Policy has no setting 'thresholds'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_construction(make: Callable[[], object], message: str) -> None:
    """The error names the setting and what was expected."""
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pair(ONE, ONE), "small and large are the same model"),
        (lambda: pair(Tier(ONE), Tier(ONE, timeout=9)), "small and large are the same model"),
        (lambda: CascadeMiddleware(large=ONE, small=ONE), "small and large are the same model"),
        (lambda: cascade_node(ONE, ONE), "small and large are the same model"),
        (lambda: cascade_node(Tier("openai:gpt-x"), Tier("openai:gpt-x")), "small and large are the same model"),
        (lambda: pair(model(), model()).bind_tools([look, other]), "two tools are named 'look'"),
        (lambda: cascade_node(model(), model(), tools=[look, other]), "two tools are named 'look'"),
    ],
)  # fmt: skip
def test_what_is_surely_a_mistake_is_logged_at_construction(
    make: Callable[[], object], message: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, before the first step; two models that merely look alike are none."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    pair(model(), model())
    assert caplog.text == ""
    make()
    assert caplog.text.count(message) == 1


@pytest.mark.parametrize("cost", [-1e9, 1e9, 10**400, "free", None])
def test_no_message_moves_a_budget(cost: object) -> None:
    """A record in the conversation, of whatever cost, leaves what a run may spend as it is."""
    record = {"step": "model", "cost": cost, "outcome": "escalated", "attempts": [{"tier": "large", "cost": cost}]}
    old = AIMessage("old", response_metadata={"cascade": record}, usage_metadata=None)
    usage = {"usage": (1_000, 1_000)}

    spent = {}
    for history in ([], [old, HumanMessage("and?")]):
        kept = TraceCapture()
        cascade = pair(
            Tier(model(**usage), price=Price(1, 1)),
            Tier(model(**usage), price=Price(10, 10)),
            validators=[refuses_small],
            policy=Policy(max_cost=0.005, on_exhausted="return"),
            journal=kept,
        )
        for _ in range(3):
            with contextlib.suppress(CascadeExhausted):
                cascade.invoke([HumanMessage("hi"), *history])
        spent[len(history)] = [(trace.outcome, trace.reason, trace.cost) for trace in kept]
    assert spent[0] == spent[2]
    assert "budget" in {reason for _, reason, _ in spent[0]}
