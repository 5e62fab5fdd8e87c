"""Usage and cost of a call, by its answer or by its error, and when a busy provider wants to be asked again."""

import email.utils
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from openai import APIConnectionError, APIStatusError
from pydantic import BaseModel

from cascade_agent import Price, Tier
from cascade_agent.core.records import Usage
from cascade_agent.models.usage import NOTHING, retry_after, usage_and_cost, usage_and_cost_of_error, was_answered

MILLION = 1_000_000


class City(BaseModel):
    """A city."""

    name: str


def answer(total: int = MILLION, metadata: dict[str, Any] | None = None, **details: Any) -> AIMessage:
    """An answer to a million tokens of input."""
    usage: Any = {"input_tokens": MILLION, "output_tokens": 0, "total_tokens": total, **details}
    return AIMessage("x", usage_metadata=usage, response_metadata=metadata or {})


def gpt(**settings: Any) -> ChatOpenAI:
    """A model without a server."""
    return ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "x", "max_retries": 0, **settings})


def test_the_answer_names_the_model_behind_a_deployment_or_a_router():
    """It is priced by that name at its host; a name that the table does not know there leaves the tier's own."""
    azure = Tier(AzureChatOpenAI(azure_deployment="mine", api_version="1", azure_endpoint="https://x", api_key="x"))
    named = answer(metadata={"model_name": "gpt-4o-mini-2024-07-18"})
    assert usage_and_cost(Tier(gpt()), answer(metadata={"model_name": "nobody's"}))[1] == pytest.approx(0.15)
    assert usage_and_cost(Tier(gpt(model="auto")), named)[1] == pytest.approx(0.15)
    assert usage_and_cost(Tier(gpt(model="auto")), answer())[1] is None
    assert azure.provider == "azure"
    router = Tier(gpt(model="openrouter/auto", base_url="https://openrouter.ai/api/v1"))
    routed = usage_and_cost(router, answer(metadata={"model_name": "openai/gpt-4o-mini"}))[1]
    assert routed == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("metadata", "details"),
    [
        ({"service_tier": "priority"}, {}),
        ({"service_tier": "flex"}, {}),
        ({"usage": {"service_tier": "batch"}}, {}),
        ({}, {"input_token_details": {"priority_cache_read": 5}}),
        ({}, {"input_token_details": {"audio": 5}}),
        ({}, {"output_token_details": {"audio": 5}}),
    ],
)
def test_the_tables_price_is_that_of_text_at_the_standard_service(metadata, details):
    """Of anything else the cost is unknown, but for a price given by hand."""
    message = answer(metadata={**metadata}, **details)
    assert usage_and_cost(Tier(gpt()), message)[1] is None
    assert usage_and_cost(Tier(gpt(), price=Price(2, 3)), message)[1] == 2
    assert usage_and_cost(Tier(gpt()), answer(metadata={"service_tier": "default"}))[1] == pytest.approx(0.15)


def test_reasoning_that_is_counted_next_to_the_output_is_paid():
    """Where a total says so and the details account for it; a total alone says nothing."""
    tier = Tier(gpt(), price=Price(0, 1))
    hidden = answer(total=3 * MILLION, output_token_details={"reasoning": 2 * MILLION})
    assert usage_and_cost(tier, hidden)[:2] == (Usage(input_tokens=MILLION, output_tokens=2 * MILLION), 2.0)
    assert usage_and_cost(tier, answer(total=3 * MILLION))[1] == 0


def error_of(model: Any, messages: Any = "hi", **options: Any) -> Exception:
    """Return what asking raises."""
    with pytest.raises(Exception) as caught:
        model.invoke(messages, **options)
    return caught.value


def respond(status: int, body: Any, headers: dict[str, str] | None = None) -> httpx.Client:
    """A client whose server always answers so."""
    return httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(status, json=body, headers=headers)))


def test_answered_calls_are_paid():
    """One that cannot be read, and one without choices at a 200, cost what is not known."""
    message = {"role": "assistant", "content": "It is 21."}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "id": "x", "model": "m"}
    error = error_of(
        gpt(http_client=respond(200, {**body, "created": 1, "object": "chat.completion"})), response_format=City
    )
    assert was_answered(error)
    assert usage_and_cost_of_error(error) == (Usage(), None, None)
    for body in [{"choices": []}, {"choices": None}, {"id": "x"}]:
        error = error_of(gpt(http_client=respond(200, body)))
        assert usage_and_cost_of_error(error) == (Usage(), None, None)


def test_what_a_client_refuses_costs_nothing():
    """An argument or a message that Ollama's client does not take was never sent."""
    ollama = pytest.importorskip("langchain_ollama").ChatOllama(model="x", base_url="http://127.0.0.1:9")
    errors = error_of(ollama, parallel_tool_calls=False), error_of(ollama, [HumanMessage([{"type": "thinking"}])])
    assert [usage_and_cost_of_error(error) for error in errors] == [(NOTHING, 0.0, None)] * 2


def test_calls_that_cost_nothing():
    """Never sent, or refused with an error status; of any other error nothing is known."""
    assert usage_and_cost_of_error(error_of(gpt(base_url="http://127.0.0.1:9/v1"))) == (NOTHING, 0.0, None)
    for status in [400, 401, 429, 500]:
        error = error_of(gpt(http_client=respond(status, {"error": {"message": "no"}})))
        usage, cost, _ = usage_and_cost_of_error(error)
        assert (usage.calls, cost) == (1, 0.0)
    for error in [TimeoutError(), RuntimeError("x"), ValueError("x"), TypeError("x")]:
        assert usage_and_cost_of_error(error) == (None, None, None)


def busy(headers: dict[str, str], status: int = 429, body: Any = None) -> APIStatusError:
    """A provider's error of this kind."""
    response = httpx.Response(status, headers=headers, json=body or {}, request=httpx.Request("POST", "http://x"))
    return APIStatusError("busy", response=response, body=body)


def at(seconds: float) -> float:
    """A moment from now."""
    return time.time() + seconds


GOOGLE = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (busy({"Retry-After": "20"}), 20),
        (busy({"Retry-After": "0.5"}, 503), 0.5),
        (busy({"Retry-After": "20"}, 529), 20),
        (busy({"Retry-After": "20"}, 500), None),
        (busy({"retry-after-ms": "1500", "Retry-After": "20"}), 1.5),
        (busy({"Retry-After": email.utils.formatdate(at(90_000), usegmt=True)}), 90_000),
        (busy({"Retry-After": email.utils.formatdate(at(-3000), usegmt=True)}), 0),
        (busy({"x-ratelimit-reset-requests": "1m6.5s", "x-ratelimit-remaining-requests": "0"}), 66.5),
        (busy({"x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "5"}), None),
        (busy({"anthropic-ratelimit-tokens-reset": "2099-01-01T00:00:00Z"}), 4070908800 - time.time()),
        (busy({"X-RateLimit-Reset": str(int(at(90_000) * 1000))}), 90_000),
        (busy({}, body={"error": {"details": GOOGLE}}), 17.5),
        (busy({"Retry-After": "soon"}), None),
        (busy({"Retry-After": "inf"}), None),
        (busy({"Retry-After": "-1"}), None),
        (busy({}), None),
        (APIConnectionError(request=httpx.Request("POST", "http://x")), None),
        (ValueError("x"), None),
    ],
    ids=lambda _: "form",  # the moments in them differ from worker to worker
)
def test_when_to_ask_again_is_read_in_every_form(error, expected):
    """Of busy providers only."""
    found = retry_after(error)
    assert (
        found is None if expected is None else found == pytest.approx(expected, abs=0.1 if expected < 100 else 3600)
    )  # made at collection


def test_googles_own_errors_are_read():
    """The status is an enum's member or a number, the delay stands among the details or in the text."""
    delay = SimpleNamespace(retry_delay=SimpleNamespace(seconds=3, nanos=500_000_000))

    class ResourceExhaustedError(Exception):
        code = SimpleNamespace(value=429)

        def __init__(self, text: str, details: list[Any]) -> None:
            super().__init__(text)
            self.details = details

    assert retry_after(ResourceExhaustedError("x", [delay])) == 3.5
    assert retry_after(ResourceExhaustedError("{'retryDelay': '9s'}", [])) == 9
