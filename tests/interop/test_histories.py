"""Every provider's answers can stand in the history that any other provider's model is asked with."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel, Policy, Verdict
from tests.interop.providers import KINDS, TEXT, Providers


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return "21 degrees"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Providers, Providers]]:
    """Two addresses, at each of which every provider answers."""
    with Providers() as one, Providers() as other:
        yield one, other


def by_large(draft: Any, _: Any) -> Verdict | None:
    """Send every step to large."""
    return Verdict(outcome="fail") if draft.tier == "small" else None


def pair(author: Any, asked: Any, role: str, *, answers: Any) -> Any:
    """A cascade of the two in which one of them answers."""
    small, large = (author, asked) if role == "small" else (asked, author)
    validators = [] if answers is small else [by_large]
    return CascadeChatModel(small=small, large=large, validators=validators, policy=Policy(latency_budget=20.0)).bind_tools([get_weather])


def with_results(messages: list[BaseMessage], answer: AIMessage) -> list[BaseMessage]:
    """The thread after an answer: its calls are carried out, or the user asks on."""
    results = [ToolMessage("21 degrees", tool_call_id=c["id"], name=c["name"]) for c in answer.tool_calls]
    return [*messages, answer, *(results or [HumanMessage("And in Rome?")])]


CELLS = [
    pytest.param(author, kind, asked, role, id=f"{author} {kind} ({role}) to {asked}")
    for author, kinds in KINDS.items()
    for kind in kinds
    for asked in KINDS
    for role in ("small", "large")
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("author", "kind", "asked", "role"), CELLS)
def test_any_history_is_in_the_asked_providers_form(hosts, author, kind, asked, role):
    """Of another provider or of the same one at another host, written by small or by large: the text and calls arrive."""
    one, other = hosts
    writer, reader = one.model(author), other.model(asked)
    question: list[BaseMessage] = [HumanMessage(f"write {kind}")]
    written = pair(writer, reader, role, answers=writer).invoke(question)
    assert written.response_metadata["cascade"]["final_tier"] == role
    before = written.model_copy(deep=True)
    answer = pair(writer, reader, role, answers=reader).invoke(with_results(question, written))
    record = answer.response_metadata["cascade"]
    assert record["final_tier"] != role, record["attempts"]
    assert (answer.text, [a.get("error") for a in record["attempts"]]) == (TEXT, [None] * len(record["attempts"]))
    provider, body = other.bodies[-1]
    assert provider == asked
    sent = json.dumps(body)
    assert ("Paris" if written.tool_calls else "I cannot say." if kind == "refusal" else TEXT) in sent
    assert written == before
    bare = written.model_copy(update={"response_metadata": {k: v for k, v in written.response_metadata.items() if k != "cascade"}})
    if author != asked or author == "responses":  # else nobody can tell that it was another host
        assert reader.invoke(pair_messages(reader, with_results(question, bare))).text == TEXT


def pair_messages(reader: Any, messages: list[BaseMessage]) -> list[BaseMessage]:
    """The messages as a tier that does not know its partner is given them."""
    from cascade_agent import Tier

    return Tier.of(reader).messages_for(messages)
