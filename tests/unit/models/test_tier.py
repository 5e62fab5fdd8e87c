"""Tiers: a model is named, priced and unwrapped once, and what was bound to it stays with it."""

import sys
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from cascade_agent import Price, Tier
from cascade_agent.core.records import Usage
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel


class City(BaseModel):
    """A city."""

    name: str


def gpt(**kwargs: Any) -> ChatOpenAI:
    """A model that is never asked."""
    return ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "none", **kwargs})


def test_what_a_tier_is_made_of():
    """Base, bound arguments, config and name are read once; a bound `model` wins; a nameless one goes by its class."""
    model = ScriptedChatModel("a", name="m")
    tier = Tier.of(model.bind(a=1, b=1).with_config(tags=["x"]).bind(b=2).with_config(metadata={"y": 1}))
    assert (tier.base, tier.bound, Tier.of(tier)) == (model, {"a": 1, "b": 2}, tier)
    assert (tier.config["tags"], tier.config["metadata"]) == (["x"], {"y": 1})
    assert (tier.model_name, tier.label) == ("m", "m")
    assert (Tier(model).config, Tier(model).base_url) == (None, None)
    tier = Tier(gpt(base_url="http://127.0.0.1:1/v1"))
    assert (tier.model_name, tier.provider, tier.base_url) == ("gpt-4o-mini", "openai", "http://127.0.0.1:1/v1")
    assert Tier(gpt().bind(model="gpt-4o")).model_name == "gpt-4o"
    tier = Tier(Nameless())
    assert (tier.model_name, tier.label) == (None, "Nameless")
    assert tier.cost(Usage(input_tokens=1, output_tokens=1)) is None


class Nameless(BaseChatModel):
    """A model that cannot name itself."""

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    def _get_ls_params(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    @property
    def _llm_type(self) -> str:
        return "nameless"


def test_the_cost_is_the_given_price_or_the_tables():
    """A price by hand wins; the table knows a public model at its own host; nobody knows it at another."""
    usage, priced = Usage(input_tokens=1_000_000, output_tokens=0), Tier(gpt(), price=Price(7, 8, currency="EUR"))
    assert (priced.cost(usage), priced.currency) == (7, "EUR")
    assert (Tier(gpt()).cost(usage), Tier(gpt()).currency) == (pytest.approx(0.15), "USD")
    assert Tier(gpt()).cost(Usage()) is None
    assert Tier(gpt(base_url="http://127.0.0.1:1/v1")).cost(usage) is None


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        (3, {}, "a tier is int; expected a chat model"),
        (None, {}, "a tier is NoneType"),
        (RunnableLambda(lambda x: x), {}, "a tier is RunnableLambda"),
        (ScriptedChatModel("a"), {"timeout": 0}, "Tier.timeout is 0; expected a positive number"),
        (ScriptedChatModel("a"), {"timeout": float("nan")}, "Tier.timeout is nan"),
        (ScriptedChatModel("a"), {"timeout": "5"}, "Tier.timeout is '5'"),
        (ScriptedChatModel("a"), {"price": 3}, "Tier.price is 3; expected a Price"),
        ("nobody:model", {}, "the provider string 'nobody:model' gives no model"),
    ],
)
def test_what_is_no_tier_is_refused(model, settings, says):
    """At construction, with what was expected."""
    with pytest.raises(ConfigurationError) as caught:
        Tier(model, **settings)
    assert says in str(caught.value)


def test_a_provider_string_gives_a_model(monkeypatch):
    """As `init_chat_model` reads it; without langchain the mend is named."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tier = Tier("openai:gpt-4o-mini")
    assert isinstance(tier.base, ChatOpenAI)
    assert tier.model_name == "gpt-4o-mini"
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'langgraph-cascade\[langchain\]'"):
        Tier("openai:gpt-4o-mini")


def test_a_model_that_is_set_to_stream_is_asked_whole():
    """The user's own object is left as it is."""
    model = gpt(streaming=True)
    tier = Tier(model.bind(stream=True))
    assert tier.base.streaming is False
    assert not tier.base._should_stream(async_api=False)
    assert tier.base._should_stream(async_api=False, stream=True), "where somebody reads the stream it can"
    assert tier.bound == {}
    assert model.streaming is True


CALLED = AIMessage("", tool_calls=[{"name": "City", "args": {"name": "x"}, "id": "1"}])


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: m.with_config(tags=["x"]), lambda m: m.with_retry()])
def test_arguments_reach_the_model_inside_a_structured_chain(wrap):
    """LangChain's chain would drop bound arguments and a call's; here both arrive, the call's win, in wrappers too."""
    model = ScriptedChatModel(CALLED, loop=True)
    ready = Tier(wrap(model.bind(a=1, b=1))).with_schema(City)
    assert ready.ask(["hi"], None)["parsed"] == City(name="x")
    ready.ask(["hi"], None, b=2, c=3)
    first, second = model.options
    assert {k: first[k] for k in ("a", "b")} == {"a": 1, "b": 1}
    assert {k: second[k] for k in ("a", "b", "c")} == {"a": 1, "b": 2, "c": 3}


def test_tools_replace_those_of_the_tier_itself():
    """With tools of the step, what was bound to the tier as tools is not on offer; its other arguments are."""
    own = {"type": "function", "function": {"name": "own", "parameters": {"type": "object"}}}
    model = ScriptedChatModel("a", loop=True)
    tier = Tier(model.bind(tools=[own], tool_choice="own", t=1))
    assert [s.name for s in tier.plain().specs] == ["own"]
    assert [s.name for s in tier.with_tools([City]).specs] == ["City"]
    tier.plain().ask([HumanMessage("x")], None)
    tier.with_tools([City], tool_choice="any").ask([HumanMessage("x")], None)
    assert model.options == [{"tool_choice": "own", "t": 1}, {"tool_choice": "any", "t": 1}]
    assert [o[0]["function"]["name"] for o in model.offered] == ["own", "City"]


def test_a_model_without_structured_output_says_so():
    """When the schema is given, naming the model."""
    with pytest.raises(ConfigurationError, match="Nameless has no structured output"):
        Tier(Nameless()).with_schema(City)


def test_what_hosts_wrap_around_a_model_is_a_tier():
    """Retries, fallbacks and bindings inside them: tools and schemas reach every model, bound arguments stay."""
    first, second = ScriptedChatModel([ConnectionError("down")] * 2), ScriptedChatModel("b", name="b")
    wrapped = first.bind(a=1).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    tier = Tier.of(wrapped.with_fallbacks([second.bind(c=3)]).with_config(tags=["t"]))
    assert (tier.base, tier.config["tags"]) == (first, ["t"])
    assert tier.with_tools([City], tool_choice="any").ask(["x"], None, d=4).text == "b"
    assert first.options == [{"a": 1, "tool_choice": "any", "d": 4}] * 2
    assert second.options == [{"c": 3, "tool_choice": "any", "d": 4}]
    assert [o[0]["function"]["name"] for o in second.offered] == ["City"]


def test_a_configurable_model_is_configured_by_each_call(monkeypatch):
    """Named by its default; one without a default is refused with the mend."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    from langchain.chat_models import init_chat_model

    tier = Tier.of(init_chat_model("openai:gpt-4o-mini", configurable_fields=("model",)))
    assert (tier.model_name, type(tier.base)) == ("gpt-4o-mini", ChatOpenAI)
    assert [s.name for s in tier.with_tools([City]).specs] == ["City"]
    with pytest.raises(ConfigurationError, match="a configurable model without a default"):
        Tier.of(init_chat_model(configurable_fields=("model", "model_provider")))
    model = ScriptedChatModel("a").configurable_fields()
    assert Tier.of(model).plain().ask([HumanMessage("x")], None).text == "a"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("openai:gpt-4o-mini", {"OPENAI_API_KEY": "none"}),
        ("anthropic:claude-sonnet-4-5", {"ANTHROPIC_API_KEY": "none"}),
        ("mistralai:mistral-small", {"MISTRAL_API_KEY": "none"}),
        ("ollama:qwen3:8b", {}),
    ],
)
def test_models_made_from_strings_leave_retries_to_the_step(name, settings, monkeypatch):
    """No second layer stands below the cascade's own."""
    package = f"langchain_{name.partition(':')[0]}"
    pytest.importorskip(package, reason=f"{package} is not installed (extra interop)")
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    assert getattr(Tier(name).base, "max_retries", 0) == 0


def test_retries_of_a_client_are_told_once(caplog):
    """At info, with the mend; a client without retries is not spoken of."""
    with caplog.at_level("INFO"):
        for _ in range(2):
            Tier(gpt(model="retries-told", max_retries=3))
        Tier(gpt(model="no-retries", max_retries=0))
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "the client of retries-told retries 3 times by itself, below the cascade's own retries"
    ]


def test_a_client_that_refuses_a_tool_is_named():
    """With the tool and what the client said, in place of a bare `KeyError`."""

    class Picky(ScriptedChatModel):
        def bind_tools(self, *_: Any, **__: Any) -> Any:
            raise KeyError("function")

    with pytest.raises(ConfigurationError, match=r"p cannot be offered the tools 'City'.*KeyError: 'function'"):
        Tier(Picky("a", name="p")).with_tools([City])
