"""Hosts retry a model, wrap it, stream it, configure it, call it under their own middleware."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import StructuredOutputValidationError, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import ConfigurableField
from langgraph.types import RetryPolicy

from cascade_agent import CascadeMiddleware
from cascade_agent.testing import ScriptedChatModel
from tests.builders import BOTH, City, Refused, ask, call, get_weather, graph_of, pair, record

HI = {"messages": [("user", "What is the weather in Paris?")]}
PLACES = pytest.mark.parametrize("place", ["model", "middleware"])


def says(*replies: Any, **settings: Any) -> ScriptedChatModel:
    """A scripted model."""
    return ScriptedChatModel(list(replies), **settings)


def agent(small: Any, large: Any, place: str, **settings: Any) -> Any:
    """An agent on a cascade, as its model or around the calls of it."""
    if place == "model":
        return create_agent(pair(small, large), **settings)
    return create_agent(says("own"), middleware=[CascadeMiddleware(large, small=small)], **settings)


def test_retries_and_fallbacks_around_a_cascade_know_larges_exception():
    """`RetryPolicy` of a node, `with_retry` and `with_fallbacks`."""

    def both() -> Any:
        return pair(says(Refused(), "again"), says(Refused(), "again"))

    model, policy = both(), RetryPolicy(retry_on=Refused, initial_interval=0.01)
    graph = graph_of(lambda state: {"messages": [model.invoke(state["messages"])]}, retry_policy=policy)
    assert graph.invoke(HI)["messages"][-1].text == "again"
    again = both().with_retry(retry_if_exception_type=(Refused,), wait_exponential_jitter=False)
    assert again.invoke("hi").text == "again"
    spare = both().with_fallbacks([says("spare", loop=True)], exceptions_to_handle=(Refused,))
    assert spare.invoke("hi").text == "spare"
    assert spare.bind_tools([get_weather]).invoke("hi").text == "again"  # LangChain reads the annotations for this


@PLACES
def test_structured_output_heals_in_one_more_turn(place):
    """`ToolStrategy(handle_errors=True)` shows large its error; without, it reaches the host."""
    wrong, right = (call("City", name="Lyon", size=size, call_id=str(size)) for size in ("big", 3))
    graph = agent(says(wrong, right), says(wrong, right), place, response_format=ToolStrategy(City, handle_errors=True))
    out = graph.invoke(HI)
    assert out["structured_response"] == City(name="Lyon", size=3)
    assert [m.type for m in out["messages"]] == ["human", "ai", "tool", "ai", "tool"]
    with pytest.raises(StructuredOutputValidationError):
        agent(says(wrong), says(wrong), place, response_format=ToolStrategy(City, handle_errors=False)).invoke(HI)


# ---- what is wrapped around a tier ----------------------------------------------------------------------------------
WRAPPERS: dict[str, Any] = {
    "bound retry": lambda model: model.bind(temperature=0).with_retry(wait_exponential_jitter=False),
    "fallback": lambda model: says(OSError("first is down")).with_fallbacks(
        [model.with_retry(wait_exponential_jitter=False)]
    ),
}


@BOTH
@PLACES
@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_retries_and_fallbacks_around_a_tier_are_that_tiers_own(wrapper, place, how):
    """Under the middleware, too, where the agent's handler asks the model."""
    model, large = says(ConnectionError("once"), "It is 21."), says("large")
    last = (await ask(agent(WRAPPERS[wrapper](model), large, place, tools=[get_weather]), HI, how=how))["messages"][-1]
    assert (last.text, record(last)["outcome"]) == ("It is 21.", "accepted")
    assert (model.asked, large.asked) == (2, 0)
    assert [name for options in model.options for name in options] == ["temperature"] * (wrapper == "bound retry") * 2
    assert all(model.offered)


@BOTH
async def test_a_configurable_tier_is_configured_by_each_call_of_an_agent(how):
    """By the fields that it names, under the middleware as in a chat model."""
    tier = says("It is 21.", loop=True).configurable_fields(replies=ConfigurableField(id="text"))
    graph = agent(tier, says("large"), "middleware")
    for given, text in (({}, "It is 21."), ({"text": ["It is 22."]}, "It is 22.")):
        assert (await ask(graph, HI, {"configurable": given}, how=how))["messages"][-1].text == text


# ---- streams --------------------------------------------------------------------------------------------------------
def test_a_model_that_is_not_to_stream_gives_one_chunk():
    """`disable_streaming`, as LangChain's models take it; for calls of tools alone, too."""

    def model(value: Any) -> Any:
        return pair(says("It is 21.", loop=True), says("x"), disable_streaming=value)

    assert [chunk.text for chunk in model(True).stream("hi")] == ["It is 21."]
    assert [chunk.text for chunk in model("tool_calling").bind_tools([get_weather]).stream("hi")] == ["It is 21."]
    assert len(list(model("tool_calling").stream("hi"))) > 1
    streamed = create_agent(model(True)).stream(HI, stream_mode="messages")
    assert [chunk.text for chunk, _ in streamed] == ["It is 21."]


@PLACES
def test_a_stream_names_the_model_that_answered(place):
    """As tracers and user interfaces read it; a tier out of the stream stays out of it."""

    class Named(ScriptedChatModel):
        def _get_ls_params(self, *_: Any, **__: Any) -> Any:
            return {"ls_provider": "maker", "ls_model_name": self.name, "ls_model_type": "chat"}

    def tokens(**settings: Any) -> list[tuple[Any, Any]]:
        graph = agent(Named(["It is 21."], name="tiny", **settings), says("large"), place)
        return list(graph.stream(HI, stream_mode="messages"))

    metadata = tokens()[0][1]
    assert [metadata[f"ls_{key}"] for key in ("provider", "model_name", "model_type")] == ["maker", "tiny", "chat"]
    assert [chunk.text for chunk, _ in tokens(tags=["nostream"])] == ["It is 21."], "the node's own message, whole"


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
async def test_a_model_that_cannot_stream_gives_its_message_whole():
    """Content-block events of an agent show one message of it, as without a cascade."""

    class Unstreamed(BaseChatModel):
        def _generate(self, *_: Any, **__: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage("It is 21."))])

        @property
        def _llm_type(self) -> str:
            return "unstreamed"

    for model in (Unstreamed(), *(pair(s, Unstreamed()) for s in (Unstreamed(), says("")))):
        run = await create_agent(model).astream_events(HI, version="v3")
        data = [event["params"]["data"][0] async for event in run if event.get("method") == "messages"]
        assert [getattr(message, "text", message) for message in data] == ["It is 21."]


def test_hosts_take_a_cascade_for_the_kind_of_model_that_large_is():
    """Summaries are cut, and cache marks kept, by `_llm_type`; a cascade inside another one is known all the same."""
    inner = pair(says("", loop=True), says("It is 21.", loop=True))
    outer = pair(says(""), inner.bind(seed=1, thinking={"type": "disabled"}))
    answer = outer.invoke("What is the weather in Paris?", top_k=3)
    assert (outer._llm_type, answer.text) == ("scripted", "It is 21.")
    assert record(answer)["attempts"][1]["inner"]["outcome"] == "escalated"
    assert inner.large.options == [{"seed": 1, "thinking": {"type": "disabled"}, "top_k": 3}]


@pytest.mark.xdist_group("providers")
@pytest.mark.filterwarnings("ignore")
def test_prompt_caching_middleware_marks_what_the_cascade_middleware_asks():
    """Listed before or after; what a `CascadeChatModel` is asked carries no marks, as the README says."""
    anthropic = pytest.importorskip("langchain_anthropic.middleware", reason="extra interop")

    from tests.interop.providers import Providers

    caching = anthropic.AnthropicPromptCachingMiddleware(unsupported_model_behavior="ignore")
    with Providers() as hosts:
        model = hosts.model("anthropic")
        around = CascadeMiddleware(model)
        for chat, middleware in (
            (model, [around, caching]),
            (model, [caching, around]),
            (pair(model, model), [caching]),
        ):
            create_agent(chat, [get_weather], system_prompt="Be brief.", middleware=middleware).invoke(HI)
            assert ("cache_control" in str(hosts.bodies[-1][1])) == (chat is model)
