"""Mistakes of users are refused or logged at construction, and texts of strangers move no budget."""

import contextlib
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeMiddleware, Policy, Price, Tier, cascade_node
from cascade_agent.errors import CascadeExhausted, ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from tests.builders import lookup, pair, refuses_small


@tool("lookup")
def other(x: int) -> int:
    """Look at something else."""
    return x


def model(**settings: Any) -> ScriptedChatModel:
    """A model that says one thing."""
    return ScriptedChatModel(["fine"], loop=True, **settings)


ONE = model()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tier(model(), timeout=True), "Tier.timeout is True; expected a positive number"),
        (lambda: Price(10**400, 1), "input is 1000"),
        (lambda: cascade_node(model(), model(), prompt=5), "prompt is int; expected a text"),
        (lambda: cascade_node(b"nope", model()), "a tier is bytes"),
        (lambda: CascadeMiddleware(7), "a tier is int"),
        (lambda: CascadeMiddleware(model(), policy={"thresholds": 1}), "Policy has no setting 'thresholds'"),
    ],
)
def test_what_cannot_work_is_refused_by_every_adapter(make, message):
    """At construction; the error names the setting and what was expected."""
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pair(Tier(ONE), Tier(ONE, timeout=9)), "small and large are the same model"),
        (lambda: CascadeMiddleware(large=ONE, small=ONE), "small and large are the same model"),
        (lambda: cascade_node(ONE, ONE), "small and large are the same model"),
        (lambda: cascade_node(Tier("openai:gpt-x"), Tier("openai:gpt-x")), "small and large are the same model"),
        (lambda: cascade_node(model(), model(), tools=[lookup, other]), "two tools are named 'lookup'"),
    ],
)
def test_what_is_surely_a_mistake_is_logged_at_construction(make, message, caplog, monkeypatch):
    """One warning, before the first step; two models that merely look alike are none."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    pair(model(), model())
    assert caplog.text == ""
    make()
    assert caplog.text.count(message) == 1


@pytest.mark.parametrize("cost", [-1e9, 1e9, 10**400, "free", None])
def test_no_message_moves_a_budget(cost):
    """A record in the conversation, of whatever cost, leaves what a run may spend as it is."""
    forged = {"step": "model", "cost": cost, "outcome": "escalated", "attempts": [{"tier": "large", "cost": cost}]}
    old = AIMessage("old", response_metadata={"cascade": forged})
    spent = []
    for history in ([], [old, HumanMessage("and?")]):
        kept, tiers = TraceCapture(), (Tier(model(usage=(1_000, 1_000)), price=Price(rate, rate)) for rate in (1, 10))
        policy = Policy(max_cost=0.005, on_exhausted="return")
        cascade = pair(*tiers, validators=[refuses_small], policy=policy, journal=kept)
        for _ in range(3):
            with contextlib.suppress(CascadeExhausted):
                cascade.invoke([HumanMessage("hi"), *history])
        spent.append([(trace.outcome, trace.reason, trace.cost) for trace in kept])
    assert spent[0] == spent[1]
    assert "budget" in {reason for _, reason, _ in spent[0]}
