"""`SelfConsistency`: the small tier under other instructions, the majority's draft, and what that costs."""

import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from cascade_agent import CascadeChatModel, CascadeMiddleware, Policy, Price, Tier, Verdict, cascade_node
from cascade_agent.core.records import Draft, StepContext
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import SelfConsistency, default_validators
from cascade_agent.validators.agreement import answer_key, final_answer
from tests.builders import BOTH, ask, call, record


def cascade(
    small: list[Any], *, policy: Policy | None = None, validators: list[Any] | None = None, **settings: Any
) -> Any:
    """A cascade whose small model gives these answers, own draft first; large says "large"."""
    model = ScriptedChatModel(small, usage=(10, 5))
    evidence = SelfConsistency(**{"instructions": ["Count backwards."], **settings})
    return model, CascadeChatModel(
        small=Tier(model, price=Price(1, 1)),
        large=Tier(ScriptedChatModel(["large"], usage=(10, 5)), price=Price(10, 10)),
        validators=[*(validators or default_validators()), evidence],
        policy=policy or Policy(),
    )


FOUR = {"instructions": ["A", "B", "C"]}


@pytest.mark.parametrize(
    "case",
    [
        (["42", "The answer is 42."], {}, "small", "42", 2),
        (["42", "41"], {}, "large", "large", 2),
        (["42", "42", "42.0", "So it is 42."], FOUR, "small", "42", 4),
        (["42", "41", "41", "41"], FOUR, "large", "large", 4),
        (["42", "42"], {**FOUR, "staged": True}, "small", "42", 2),
        (["42", "41", "The answer is 41", "41"], {**FOUR, "staged": True}, "small", "41", 4),
        (["42", "41", "41", "40"], {**FOUR, "staged": True}, "large", "large", 4),
        (["42", "41", "42", "41"], {**FOUR, "staged": True}, "large", "large", 4),
        (["42", "42", "42"], {"samples": 3}, "small", "42", 3),
        (["42", RuntimeError("down"), "42"], {"samples": 3}, "small", "42", 3),
    ],
)
@BOTH
async def test_the_majority_is_kept(case: tuple[list[Any], dict[str, Any], str, str, int], how: str) -> None:
    """All samples must agree; staged, the others are asked only where two differ, and a lead of two is enough."""
    small, settings, tier, text, queried = case
    model, judged = cascade(small, **settings)
    answer = await ask(judged, "6 * 7?", how=how)
    assert (record(answer)["final_tier"], answer.text, model.asked) == (tier, text, queried)


def test_the_cost_is_in_the_record() -> None:
    """Samples are one call of evidence in the record, with the tokens and the cost of all of them."""
    _, judged = cascade(["42", "42", "42"], samples=3)
    step = record(judged.invoke("6 * 7?"))
    (spent,) = step["evidence"]
    assert (spent["name"], spent["usage"]["calls"]) == ("SelfConsistency", 2)
    assert (spent["cost"], step["cost"]) == (pytest.approx(30e-6), pytest.approx(45e-6))


def test_what_is_sent() -> None:
    """Own and other instructions take turns: a text joins the system message, a `SystemMessage` replaces it."""
    settings = {"instructions": ["Write code.", SystemMessage("Only code.")], "samples": 4, "temperature": 0.4}
    model, judged = cascade(["42"] * 4, **settings)
    judged.invoke([SystemMessage("Be short."), HumanMessage("6 * 7?")])
    sent = sorted(str(messages[0].content) for messages in model.calls)
    assert sent == ["Be short.", "Be short.", "Be short.\n\nWrite code.", "Only code."]
    assert sorted(o.get("temperature", 0) for o in model.options) == [0, 0.4, 0.4, 0.4]


def test_samples_are_asked_side_by_side() -> None:
    """The further samples run at the same time."""
    barrier = threading.Barrier(2, timeout=60)
    queried: list[int] = []

    def wait(_: Any) -> str:
        queried.append(1)
        if len(queried) > 1:
            barrier.wait()
        return "42"

    _, judged = cascade([wait] * 3, samples=3)
    assert record(judged.invoke("6 * 7?"))["final_tier"] == "small"


def test_the_majority_s_draft_is_validated_too() -> None:
    """A draft that takes the place of the first one is judged by the local validators like any other."""

    def no_41(draft: Draft, context: StepContext) -> Verdict:
        return Verdict(outcome="fail" if "41" in draft.text else "pass", code="no_41")

    _, judged = cascade(
        ["42", "41", "41", "41"], **FOUR, staged=True, validators=[no_41], policy=Policy(evidence=(0, 1))
    )
    step = record(judged.invoke("6 * 7?"))
    assert (step["final_tier"], step["reason"]) == ("large", "no_41")


@pytest.mark.parametrize(
    "draft",
    [
        call("find"),
        AIMessage("Happy to help you with anything around your orders, returns and invoices today."),
    ],
)
def test_calls_and_prose_are_not_sampled(draft: AIMessage) -> None:
    """Samples of one model say little about a call, nothing about prose among tools: nobody is asked, nothing is paid."""
    tools = tool_specs([{"name": "find", "description": "Find.", "input_schema": {"type": "object", "properties": {}}}])
    evidence = SelfConsistency(instructions=["A"], tier=Tier.of(ScriptedChatModel(["never"])))
    verdict, spent, better = evidence.gather(Draft(message=draft), StepContext(tools=tools), config=None)
    assert (verdict.code, verdict.score, spent.cost, better) == ("not_sampled", None, 0.0, None)


def test_samples_without_an_answer() -> None:
    """A draft without a final answer is outvoted by samples that have one; where none has, it stays where it was."""
    prose = "I am afraid that this does not follow from the question as it was put to me."
    for others, tier in ((["42", "42"], "large"), ([prose, prose], "small")):
        _, judged = cascade([prose, *others], samples=3)
        assert record(judged.invoke("6 * 7?"))["final_tier"] == tier
    _, judged = cascade(["42", RuntimeError("down")])
    step = record(judged.invoke("6 * 7?"))
    assert (step["final_tier"], step["attempts"][0]["verdicts"][-1]["code"]) == ("small", "agreement_unknown")


class Sum(BaseModel):
    value: int


def test_structured_output() -> None:
    """Structured answers are compared as parsed, and the majority's value is what the host gets."""
    _, judged = cascade([call("Sum", value=value) for value in (42, 41, "41", 41)], **FOUR, staged=True)
    assert judged.with_structured_output(Sum).invoke("6 * 7?") == Sum(value=41)


def test_what_cannot_work_is_refused() -> None:
    """No instructions, a text for a list, nothing to compare with, and no tier outside of a cascade."""
    for settings in [{"instructions": []}, {"instructions": "A"}, {"instructions": ["A"], "samples": 1}]:
        with pytest.raises(ConfigurationError):
            SelfConsistency(**settings)
    with pytest.raises(ConfigurationError, match="no tier"):
        SelfConsistency(instructions=["A"]).gather(Draft(message=AIMessage("42")), StepContext(), config=None)


SAME = [
    ("42", "The answer is 42.", "So in all **42.0**", r"Thus \boxed{42}", "x = 6 * 7.\n\nAnswer: 42"),
    ("1,250", "$1250", "They pay 1250 dollars."),
    ("05/01/2021", "So the date is 05/01/2021.", "If it was 04/30/2021, then today is 05/01/2021."),
    ("May 1, 2021", "It was on may 1, 2021."),
    ("5/1/2021",),
    ("Paris", "paris.", "The answer is: Paris", "**Paris**"),
    ('{"a": 1}', '{"a": 1.0}'),
    ("(B)", "Answer: B"),
    ("3 PM", "at 3pm", "3 p.m."),
    ("3 AM",),
    ("17%",),
    ("yes",),
]


def test_final_answers() -> None:
    """The final answer of a text is one value in any writing, another answer another value; prose may have none."""
    keys = [{final_answer(text) for text in group} for group in SAME]
    assert [len(k) for k in keys] == [1] * len(SAME), [k for k in keys if len(k) > 1]
    assert None not in set.union(*keys)
    assert len(set.union(*keys)) == len(SAME)
    for text in ("", "   ", "Between 3 and 5 of them, as far as the figures of last year can be trusted."):
        assert final_answer(text) is None


def test_a_call_is_another_answer_than_a_text() -> None:
    """A sample that calls a tool disagrees with a text."""
    keys = [answer_key(Draft(message=m), StepContext()) for m in (call(q="A"), call(q="a"), AIMessage("42"))]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("durable", [False, True])
def test_every_adapter_asks_the_samples_once(durable: bool) -> None:
    """The middleware and the node ask the small tier as the chat model does, with a checkpointer too."""
    evidence = [SelfConsistency(instructions=["Count backwards."])]
    for build in (_agent, _graph):
        small, large = ScriptedChatModel(["42", "41", "41"]), ScriptedChatModel(["large"])
        graph = build(small, large, evidence, InMemorySaver() if durable else None)
        last = graph.invoke({"messages": [("user", "6 * 7?")]}, {"configurable": {"thread_id": "1"}})["messages"][-1]
        assert (last.text, small.asked, large.asked) == ("large", 2, 1)


def _agent(small: Any, large: Any, validators: list[Any], saver: Any) -> Any:
    return create_agent(small, [], middleware=[CascadeMiddleware(large, validators=validators)], checkpointer=saver)


def _graph(small: Any, large: Any, validators: list[Any], saver: Any) -> Any:
    builder = StateGraph(MessagesState).add_node("agent", cascade_node(small, large, validators=validators))
    return builder.add_edge(START, "agent").compile(checkpointer=saver)
