"""Every provider's answers can stand in the history that any other provider's model is asked with."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from cascade_agent import CascadeChatModel, Policy, Tier, Verdict
from tests.builders import get_weather, record, refuses_small
from tests.interop.providers import KINDS, TEXT, Providers

pytestmark = [
    pytest.mark.xdist_group("providers"),  # in one process: six clients take long to import
    pytest.mark.filterwarnings("ignore"),
]
pytest.importorskip("langchain_anthropic", reason="langchain-anthropic is not installed (extra interop)")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Providers, Providers]]:
    """Two addresses, at each of which every provider answers."""
    with Providers() as one, Providers() as other:
        yield one, other


def pair(author: Any, asked: Any, role: str, *, answers: Any) -> Any:
    """A cascade of the two in which one of them answers."""
    small, large = (author, asked) if role == "small" else (asked, author)
    validators = [] if answers is small else [refuses_small]
    policy = Policy(latency_budget=120.0)
    return CascadeChatModel(small=small, large=large, validators=validators, policy=policy).bind_tools([get_weather])


def with_results(messages: list[BaseMessage], answer: AIMessage) -> list[BaseMessage]:
    """The thread after an answer: its calls are carried out, or the user asks on."""
    results = [ToolMessage("21 degrees", tool_call_id=c["id"], name=c["name"]) for c in answer.tool_calls]
    return [*messages, answer, *(results or [HumanMessage("And in Rome?")])]


PAIRS = [(author, kind, asked) for author, kinds in KINDS.items() for kind in kinds for asked in KINDS]
CELLS = [
    pytest.param(*pair, role, id="{} {} ({}) to {}".format(*pair[:2], role, pair[2]), marks=marks)
    for number, pair in enumerate(PAIRS)
    for role, marks in zip(
        ("small", "large"), ((), pytest.mark.slow) if number % 2 else (pytest.mark.slow, ()), strict=True
    )
]
"""Quickly each pair once, with the writer as small or as large; the other way is slow."""


@pytest.mark.parametrize(("author", "kind", "asked", "role"), CELLS)
def test_any_history_is_in_the_asked_providers_form(hosts, author, kind, asked, role):
    """Of another provider or of the same one at another host, written by small or by large: the text and calls arrive."""
    one, other = hosts
    writer, reader = one.model(author), other.model(asked)
    question: list[BaseMessage] = [HumanMessage(f"write {kind}")]
    written = pair(writer, reader, role, answers=writer).invoke(question)
    assert record(written)["final_tier"] == role
    before = written.model_copy(deep=True)
    answer = pair(writer, reader, role, answers=reader).invoke(with_results(question, written))
    entry = record(answer)
    assert entry["final_tier"] != role, entry["attempts"]
    assert (answer.text, {a.get("error") for a in entry["attempts"]}) == (TEXT, {None})
    provider, body = other.bodies[-1]
    assert provider == asked
    sent = json.dumps(body)
    assert ("Paris" if written.tool_calls else "I cannot say." if kind == "refusal" else TEXT) in sent
    assert written == before
    if author != asked or author == "responses":  # else nobody can tell that it was another host
        metadata = {key: value for key, value in written.response_metadata.items() if key != "cascade"}
        bare = written.model_copy(update={"response_metadata": metadata})
        assert reader.invoke(Tier.of(reader).messages_for(with_results(question, bare))).text == TEXT


OWN = [(author, kind) for author, kinds in KINDS.items() for kind in kinds if kind not in ("plain", "call", "refusal")]


@pytest.mark.parametrize(("author", "kind"), OWN)
def test_what_the_asked_model_wrote_itself_comes_back_untouched(hosts, author, kind):
    """Thinking and its signatures, thought signatures, response ids: the very messages, and its server takes them."""
    model = hosts[0].model(author)
    cascade = pair(model, hosts[1].model("openai"), "small", answers=model)
    question: list[BaseMessage] = [HumanMessage(f"write {kind}")]
    thread = with_results(question, cascade.invoke(question))
    tiers = {"small": Tier.of(model), "large": Tier.of(hosts[1].model("openai"))}
    assert all(a is b for a, b in zip(tiers["small"].messages_for(thread, pair=tiers), thread, strict=True))
    answer = cascade.invoke(thread)
    assert (answer.text, record(answer)["final_tier"]) == (TEXT, "small")
    if kind not in ("image", "citation"):
        assert hosts[0].mark in json.dumps(hosts[0].bodies[-1][1]) or author == "gemini"


@pytest.mark.parametrize("begun_by", ["openai", "gemini", "ollama", "anthropic"])
def test_manual_thinking_takes_over_a_turn_that_another_model_began(hosts, begun_by):
    """Earlier work is sent as text, since the last answer of an open turn must start with a thought."""
    one, other = hosts
    small = one.model(begun_by)
    large = other.model("anthropic", thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048)
    question: list[BaseMessage] = [HumanMessage("write call")]
    thread = with_results(question, pair(small, large, "small", answers=small).invoke(question))
    answer = pair(small, large, "small", answers=large).invoke(thread)
    assert record(answer)["final_tier"] == "large"
    sent = json.dumps(other.bodies[-1][1]["messages"])
    assert "get_weather" in sent
    assert "21 degrees" in sent
    assert "tool_use" not in sent


def test_small_answers_again_after_an_escalation_to_a_thinking_model(hosts):
    """Thirty turns with a thinking large model and ChatOllama: one escalation, and small answers all the others."""
    one, other = hosts
    small, large = one.model("ollama"), other.model("anthropic")

    def hard_question(draft: Any, context: Any) -> Verdict | None:
        hard = draft.tier == "small" and context.messages[-1].text == "write thinking call"
        return Verdict(outcome="fail") if hard else None

    cascade = CascadeChatModel(small=small, large=large, validators=[hard_question]).bind_tools([get_weather])
    thread: list[BaseMessage] = []
    by = []
    for turn in range(30):
        thread.append(HumanMessage("write thinking call" if turn == 2 else f"question {turn}"))
        while not isinstance(thread[-1], AIMessage):
            answer = cascade.invoke(thread)
            by.append(record(answer)["final_tier"])
            thread += with_results([], answer) if answer.tool_calls else [answer]
    assert by == ["small", "small", "large", *["small"] * 28]


@pytest.mark.parametrize("asked", KINDS)
@pytest.mark.parametrize("last", [HumanMessage("Well?"), ToolMessage("21", tool_call_id="call_1", name="get_weather")])
def test_a_note_keeps_the_order_of_roles(hosts, asked, last):
    """After a tool and after a user alike, every provider takes the request, with the note in it."""
    call = {"name": "get_weather", "args": {}, "id": "call_1"}
    before = [AIMessage("", tool_calls=[call])] if isinstance(last, ToolMessage) else []
    reader = hosts[1].model(asked)
    messages: list[BaseMessage] = [HumanMessage("Hello"), *(before or [AIMessage("Hi.")]), last]
    assert reader.invoke(Tier.of(reader).messages_for(messages, note="Mind the units.")).text == TEXT
    assert "Mind the units." in json.dumps(hosts[1].bodies[-1][1])
    assert "Mind" not in str(last.content)
