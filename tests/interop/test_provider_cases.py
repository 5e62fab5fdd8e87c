"""Answers as models and providers really send them, through the real packages: judged, paid and put right."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from cascade_agent import CascadeChatModel, Policy, Price, Tier
from cascade_agent.testing import ScriptedChatModel
from tests.builders import get_weather, loopback, record
from tests.interop.providers import TEXT, Providers

pytestmark = pytest.mark.xdist_group("providers")  # in one process: six clients take long to import

langchain_ollama = pytest.importorskip("langchain_ollama", reason="langchain-ollama is not installed (extra interop)")

ASKED = [HumanMessage("What is the weather in Paris?")]
GOOD = '{"city": "Paris", "degrees": 21}'
BAD = {
    "prose": "It is 21 degrees.",
    "wrong type": '{"city": "Paris", "degrees": "warm"}',
    "missing key": '{"city": "Paris"}',
    "cut off": '{"city": "Paris", "deg',
}


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


SCHEMA = Weather.model_json_schema()
FORMS: dict[str, Any] = {
    "class": Weather,
    "json_schema": {"type": "json_schema", "json_schema": {"name": "Weather", "schema": SCHEMA}},
    "bare schema": SCHEMA,
}


@tool
def get_time(city: str) -> str:
    """Get the time in a city."""
    return "noon"


@pytest.fixture
def serve() -> Iterator[Any]:
    """Make servers that give one answer each."""
    with contextlib.ExitStack() as servers:

        def address(answer: Any) -> str:
            data = (json.dumps(answer) + "\n").encode()
            return servers.enter_context(loopback(lambda *_: (200, data, "application/json")))

        yield address


def completion(text: str | None = "", finish: str = "stop", **more: Any) -> dict[str, Any]:
    """An answer of OpenAI's chat API."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def gpt(url: str, **settings: Any) -> ChatOpenAI:
    """The real client."""
    return ChatOpenAI(**{"model": "gpt-4o-mini", "base_url": f"{url}/v1", "api_key": "x", "max_retries": 0, **settings})


def ollama(serve: Any, text: str, **more: Any) -> Any:
    """Ollama's client, at a server that says this."""
    counts = {"done_reason": "stop", "prompt_eval_count": 10, "eval_count": 5, "created_at": "2026-01-01T00:00:00Z"}
    answer = {"model": "q", "message": {"role": "assistant", "content": text}, "done": True, **counts, **more}
    return langchain_ollama.ChatOllama(model="qwen3:8b", base_url=serve(answer))


def reply(text: Any = "", *calls: dict[str, Any], **metadata: Any) -> AIMessage:
    """A model's answer."""
    return AIMessage(text, tool_calls=list(calls), response_metadata=metadata)


def call(name: str = "get_weather", own_id: str = "c1", **args: Any) -> dict[str, Any]:
    """A call."""
    return {"name": name, "args": args or {"city": "Paris"}, "id": own_id}


def pair(small: Any, large: Any = "It is 21 degrees.", **settings: Any) -> CascadeChatModel:
    """A cascade of models, or of what scripted ones say."""
    tiers = [m if not isinstance(m, str | AIMessage) else ScriptedChatModel([m], loop=True) for m in (small, large)]
    return CascadeChatModel(small=tiers[0], large=tiers[1], **settings)


# ---- what is bound is judged ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("form", FORMS)
def test_text_under_a_bound_response_format_is_held_to_it(form, fault, serve):
    """Through `bind` and `bind_tools`, with a scripted model and with the real client, which reads some of it itself."""
    for small, large in ((BAD[fault], GOOD), (gpt(serve(completion(BAD[fault]))), GOOD)):
        model = pair(small, large)
        bound = [model.bind(response_format=FORMS[form])]
        if form == "json_schema":
            bound.append(model.bind_tools([get_weather], response_format=FORMS[form]))
        for way in bound:
            answer = way.invoke(ASKED)
            assert (record(answer)["reason"], answer.text) == ("schema_invalid", GOOD)
    assert record(pair(GOOD).bind(response_format=FORMS[form]).invoke(ASKED))["outcome"] == "accepted"


def test_other_formats_and_calls():
    """`json_object` is an object; a call on the way to structured output is judged as a call."""
    for text, outcome in ((GOOD, "accepted"), ("It is 21.", "escalated"), ("[1]", "escalated")):
        model = pair(text, GOOD).bind(response_format={"type": "json_object"})
        assert record(model.invoke(ASKED))["outcome"] == outcome
    tier = ScriptedChatModel(["prose"], loop=True).bind(format="json")
    entry = record(pair(tier, "prose of large, which was asked for none").invoke(ASKED))
    assert (entry["reason"], entry["outcome"]) == ("schema_invalid", "escalated")
    bound = {"response_format": FORMS["json_schema"]}
    for first, outcome in ((call(), "accepted"), (call(town="Paris"), "escalated")):
        answer = pair(reply("", first), reply("", call())).bind_tools([get_weather], **bound).invoke(ASKED)
        assert (record(answer)["outcome"], answer.tool_calls[0]["args"]) == (outcome, {"city": "Paris"})


def test_an_agents_response_format_is_judged_on_a_cascade(serve):
    """`create_agent(cascade, response_format=...)` binds it, since both models have native structured output."""
    model = pair(gpt(serve(completion(BAD["wrong type"]))), gpt(serve(completion(GOOD))))
    out = create_agent(model, [get_weather], response_format=Weather).invoke({"messages": ASKED})
    assert out["structured_response"] == Weather(city="Paris", degrees=21)
    entry = record(out["messages"][-1])
    assert (entry["outcome"], entry["reason"]) == ("escalated", "schema_invalid")


ONLY_TIME = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}


TWO = reply("", call(), call(own_id="c2", city="Rome"))


@pytest.mark.parametrize(
    ("draft", "bound"),
    [
        (TWO, {"parallel_tool_calls": False}),
        (TWO, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
        (reply("", call()), {"tool_choice": ONLY_TIME}),
        (reply("It is 21."), {"tool_choice": "required"}),
        (reply("", call()), {"tool_choice": {"type": "function", "function": {"name": "get_time"}}}),
        (reply("", call()), {"tool_choice": {"type": "none"}}),
        (reply("It is 21.\nObservation: more\nIt is 22."), {"stop": ["Observation:"]}),
    ],
)
def test_what_is_bound_to_the_call_is_judged(draft, bound):
    """A hard fail, so that large is asked; without the option the draft is accepted."""
    tools = [get_weather, get_time]
    answer = pair(draft, reply("", call("get_time"))).bind_tools(tools, **bound).invoke(ASKED)
    assert record(answer)["attempts"][0]["outcome"] == "rejected"
    assert any(v["outcome"] == "fail" and "score" not in v for v in record(answer)["attempts"][0]["verdicts"])
    free = pair(draft).bind_tools(tools).invoke([HumanMessage("The weather in Paris and in Rome?")])
    assert not any(v["validator"] == "CompleteResponse" for v in record(free)["attempts"][0].get("verdicts", ()))


# ---- what is paid ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrong", [BAD["wrong type"], None])
def test_an_answer_that_the_client_could_not_read_is_paid(wrong, serve):
    """Its reason is its form, its cost unknown, and what was set aside for it stays spent."""
    bodies = completion(wrong) if wrong else {**completion(), "choices": []}, completion(GOOD)
    model = pair(*(Tier(gpt(serve(b)), price=Price(1.0, 1.0)) for b in bodies), policy=Policy(max_cost={"run": 1.0}))
    structured = model.with_structured_output(Weather, method="json_schema", include_raw=True)
    step = record(structured.invoke(ASKED)["raw"] if wrong else model.invoke(ASKED))
    assert (step["outcome"], step["reason"], step.get("cost")) == ("escalated", "schema_invalid", None)
    assert step["attempts"][1]["cost"] > 0


def test_a_request_that_never_left_costs_nothing():
    """Nobody listens there."""
    price = Price(1.0, 1.0)
    small = Tier(gpt("http://127.0.0.1:9"), price=price)
    large = Tier(ScriptedChatModel(["It is 21."], usage=(10, 5)), price=price)
    step = record(pair(small, large).invoke(ASKED))
    assert (step["reason"], step["attempts"][0]["cost"]) == ("model_error", 0.0)
    assert step["cost"] == step["attempts"][1]["cost"] > 0


# ---- how an answer ends ---------------------------------------------------------------------------------------------
LEGACY = {"function_call": {"name": "get_weather", "arguments": "{}"}}
TWICE = {"name": "get_weather", "arguments": json.dumps(json.dumps({"city": "Paris"}))}
SERVED: dict[str, Callable[[Any], Any]] = {
    "a call announced by the provider": lambda serve: gpt(serve(completion("Let me look.", "tool_calls"))),
    "a call in the legacy field": lambda serve: gpt(serve(completion(None, **LEGACY))),
    "arguments encoded twice": lambda serve: gpt(
        serve(completion("", "tool_calls", tool_calls=[{"id": "c0", "type": "function", "function": TWICE}]))
    ),
    "Ollama cut the answer": lambda serve: ollama(serve, "The weather in Par", done_reason="length"),
    **{
        word: lambda _, word=word: ScriptedChatModel([reply("The weather in Par", finish_reason=word)])  # type: ignore[misc]
        for word in ("pause_turn", "compaction", "IMAGE_RECITATION", "ESCALATION", "MALFORMED_RESPONSE")
    },
}


@pytest.mark.parametrize("kind", SERVED)
def test_an_answer_that_did_not_end_well_escalates(kind, serve):
    """By its form, before any threshold."""
    answer = pair(SERVED[kind](serve), "It is 21 degrees.").bind_tools([get_weather]).invoke(ASKED)
    assert (record(answer)["outcome"], answer.text) == ("escalated", "It is 21 degrees.")
    assert record(answer)["reason"] in ("incomplete", "schema_invalid")


def test_a_prompt_that_ollama_cut_escalates(serve):
    """It read a full window of a much longer prompt, and says so in no other way."""
    small = ollama(serve, "Sunny.", prompt_eval_count=2051)
    assert record(pair(small).invoke([HumanMessage("word " * 12_600)]))["reason"] == "incomplete"
    assert record(pair(small).invoke(ASKED))["outcome"] == "accepted"


# ---- the tiers of the README ----------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
def test_the_readmes_tiers_answer(monkeypatch):
    """Each of its five lines, as small and as large, at a server of that provider's form."""
    import langchain.chat_models

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme[readme.index("## Any two models as tiers") :]
    code = section.split("```python\n")[1].split("```")[0].rpartition("\n\n")[0]
    with Providers() as hosts:
        names = {"ollama": "ollama", "anthropic": "anthropic", "google_genai": "gemini"}

        def at_loopback(name: str, **_: Any) -> Any:
            provider, _, model = name.partition(":")
            return hosts.model(names[provider], model=model)

        monkeypatch.setattr(langchain.chat_models, "init_chat_model", at_loopback)
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        tiers: dict[str, Any] = {}
        exec(re.sub(r'base_url="[^"]*"', f'base_url="{hosts.url}/openai/v1"', code), tiers)  # noqa: S102 - the README's
        for name in ("ollama", "vllm", "openrouter", "anthropic", "gemini"):
            for small, large, by in ((tiers[name], "no", "small"), (ScriptedChatModel([""]), tiers[name], "large")):
                model = pair(Tier.of(small), large if by == "small" else Tier.of(large)).bind_tools([get_weather])
                answer = model.invoke([HumanMessage("Hello there")])
                assert (answer.text, record(answer)["final_tier"]) == (TEXT, by), name
