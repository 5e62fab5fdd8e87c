"""What users get wrong is refused or logged at construction, and what strangers write moves no budget."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel, CascadeMiddleware, Journal, Policy, Price, Tier, Verdict, cascade_node
from cascade_agent.errors import CascadeExhausted, ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
        (lambda: CascadeChatModel(small=model(), large=model()).bind_tools([look], tool_choice="lok"), "tool_choice is 'lok'"),
        (lambda: CascadeChatModel(small=model(), large=model(), journal=5), "journal is int"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_construction(make: Callable[[], object], message: str) -> None:
    """The error names the setting and what was expected."""
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CascadeChatModel(small=ONE, large=ONE), "small and large are the same model"),
        (lambda: CascadeChatModel(small=Tier(ONE), large=Tier(ONE, timeout=9)), "small and large are the same model"),
        (lambda: CascadeMiddleware(large=ONE, small=ONE), "small and large are the same model"),
        (lambda: cascade_node(ONE, ONE), "small and large are the same model"),
        (lambda: cascade_node(Tier("openai:gpt-x"), Tier("openai:gpt-x")), "small and large are the same model"),
        (lambda: CascadeChatModel(small=model(), large=model()).bind_tools([look, other]), "two tools are named 'look'"),
        (lambda: cascade_node(model(), model(), tools=[look, other]), "two tools are named 'look'"),
    ],
)  # fmt: skip
def test_what_is_surely_a_mistake_is_logged_at_construction(
    make: Callable[[], object], message: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, before the first step; two models that merely look alike are none."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    CascadeChatModel(small=model(), large=model())
    assert caplog.text == ""
    make()
    assert caplog.text.count(message) == 1


@pytest.mark.parametrize("cost", [-1e9, 1e9, 10**400, "free", None])
def test_no_message_moves_a_budget(cost: object) -> None:
    """A record in the conversation, of whatever cost, leaves what a run may spend as it is."""
    record = {"step": "model", "cost": cost, "outcome": "escalated", "attempts": [{"tier": "large", "cost": cost}]}
    said = AIMessage("old", response_metadata={"cascade": record}, usage_metadata=None)
    usage = {"usage": (1_000, 1_000)}

    def refuse(draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="fail" if draft.tier == "small" else "pass", code="bad")

    spent = {}
    for history in ([], [said, HumanMessage("and?")]):
        kept = TraceCapture()
        cascade = CascadeChatModel(
            small=Tier(model(**usage), price=Price(1, 1)),
            large=Tier(model(**usage), price=Price(10, 10)),
            validators=[refuse],
            policy=Policy(max_cost=0.005, on_exhausted="return"),
            journal=kept,
        )
        for _ in range(3):
            with contextlib.suppress(CascadeExhausted):
                cascade.invoke([HumanMessage("hi"), *history])
        spent[len(history)] = [(trace.outcome, trace.reason, trace.cost) for trace in kept]
    assert spent[0] == spent[2]
    assert "budget" in {reason for _, reason, _ in spent[0]}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_pipe_that_nobody_reads_costs_the_records_alone(tmp_path: Path, way: str) -> None:
    """A journal that is a full pipe: every step answers as without it, and each record is counted."""
    os.mkfifo(tmp_path / "pipe")
    journal = Journal(tmp_path / "pipe")
    cascade = CascadeChatModel(small=model(), large=model(), journal=journal)

    async def run() -> list[str]:
        return [(await cascade.ainvoke("hi")).text for _ in range(200)]

    found = [cascade.invoke("hi").text for _ in range(200)] if way == "sync" else asyncio.run(run())
    assert found == ["fine"] * 200
    assert journal.flush()
    assert journal.lost > 0
