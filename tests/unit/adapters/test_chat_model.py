"""`CascadeChatModel` is a chat model in all that a host may ask of one, and what it adds is on the message."""

import asyncio
import copy
import pickle
import re
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManager, UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler
from langchain_openai import ChatOpenAI

from cascade_agent import CascadeChatModel, CascadeExhausted, Journal, Policy, Price, Tier, Verdict, cascade_node
from cascade_agent.core.records import StepTrace
from cascade_agent.engine.step import trace_of
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel, always_pass
from tests.builders import (
    BOTH,
    City,
    Hanging,
    Runs,
    ask,
    behind,
    call,
    graph_of,
    record,
    refuses_small,
    seeing,
    streamed,
)
from tests.interop.stub_openai import StubOpenAI

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # httpx clients live as long as the process


def added(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    """The sum of the chunks."""
    full = chunks[0]
    for chunk in chunks[1:]:
        full = full + chunk
    return full


def cascade(small: Any, large: Any = "large", **kwargs: Any) -> CascadeChatModel:
    """A cascade of two scripts, by default with a validator that has no objection."""
    kwargs.setdefault("validators", [always_pass()])

    def model(value: Any, name: str) -> Any:
        known = isinstance(value, BaseChatModel | Tier) or hasattr(value, "bound")
        return value if known else ScriptedChatModel(value, name=name, loop=True, usage=(7, 3))

    return CascadeChatModel(small=model(small, "s"), large=model(large, "l"), **kwargs)


@tool
def forecast(city: str) -> str:
    """The weather forecast of a city."""
    return f"{city}: fine"


@tool
def fare(city: str, price: int = 1) -> str:
    """The fare to a city."""
    return f"{city}: {price}"


# ---- the answer -----------------------------------------------------------------------------------------------------
@BOTH
async def test_the_message_is_the_tiers_own_with_the_record_on_it(how):
    """Content, usage, name and metadata are those of the accepted call; the record is plain and complete."""
    reply = AIMessage("yes", name="bob", id="m1", response_metadata={"finish_reason": "stop"})
    model = cascade(reply, name="desk")
    message = await ask(model, how=how)
    assert (message.content, message.name, message.id) == ("yes", "bob", "m1")
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    trace = trace_of(message)
    assert isinstance(trace, StepTrace)
    assert (trace.step, trace.outcome, trace.final_tier, trace.kind) == ("desk", "accepted", "small", "text")
    assert "answer" not in record(message)["attempts"][0]
    assert "cascade" not in reply.response_metadata, "the script's own message is untouched"


MESSAGES = {
    "text": AIMessage("one two  three\n\n four ", id="m", response_metadata={"finish_reason": "stop", "n": 3}),
    "calls": AIMessage(
        "I look.",
        id="m",
        tool_calls=[
            {"name": "forecast", "args": {"city": "Lyon"}, "id": "a"},
            {"name": "forecast", "args": {"city": "東京", "deep": {"n": [1, 2.5, None]}}, "id": "b"},
            {"name": "fare", "args": {}, "id": "c3"},
        ],
        additional_kwargs={"k": {"v": 1}},
    ),
    "empty": AIMessage("", id="m"),
    "long": AIMessage("w " * 100_000, id="m"),
    "one word": AIMessage("x" * 100_000, id="m"),
    "white space": AIMessage("\n\n a  b\n\n c \n", id="m"),
    "blocks": AIMessage([{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}], id="m"),
    "reasoning": AIMessage(
        [{"type": "reasoning", "reasoning": "because"}, {"type": "text", "text": "so"}],
        id="m",
        response_metadata={"output_version": "v1"},
    ),
    "invalid": AIMessage(
        "",
        id="m",
        invalid_tool_calls=[{"name": "forecast", "args": '{"city": "Par', "id": "a", "error": "cut"}],
        tool_calls=[{"name": "forecast", "args": {"city": "Lyon"}, "id": "b"}],
    ),
}


@BOTH
@pytest.mark.parametrize("reply", MESSAGES.values(), ids=MESSAGES)
async def test_the_chunks_add_up_to_the_message(reply, how):
    """The sum of the streamed chunks is what `invoke` returns: content, calls, ids, metadata; usage exactly once."""
    model = cascade(reply)
    whole, chunks = await ask(model, how=how), await streamed(model, how=how)
    full = added(chunks)
    for field in ("content", "tool_calls", "invalid_tool_calls", "id", "additional_kwargs", "usage_metadata"):
        assert getattr(full, field) == getattr(whole, field), field
    drop = ("cascade",)
    assert {k: v for k, v in full.response_metadata.items() if k not in drop} == {
        k: v for k, v in whole.response_metadata.items() if k not in drop
    }
    assert record(full)["outcome"] == "accepted"
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    assert [chunk.chunk_position for chunk in chunks][-1] == "last"
    assert len(chunks) <= 260


@BOTH
async def test_output_version_v1_gives_content_blocks(how):
    """`output_version` holds for the cascade as for any model, and leaves the tiers alone."""
    reply = AIMessage("yes", tool_calls=[{"name": "forecast", "args": {"city": "Lyon"}, "id": "a"}])
    model = cascade(reply, output_version="v1")
    message = await ask(model, how=how)
    call = {"type": "tool_call", "name": "forecast", "args": {"city": "Lyon"}, "id": "a"}
    assert message.content == [{"type": "text", "text": "yes"}, call]
    assert message.response_metadata["output_version"] == "v1"
    full = added(await streamed(model, how=how))
    assert full.content_blocks == message.content_blocks
    assert [c["id"] for c in full.tool_calls] == ["a"]


@BOTH
async def test_a_message_that_is_changed_later_changes_no_script(how):
    """Hosts write into what a model returned; what the tier keeps stays as it was."""
    reply = AIMessage("yes")
    model = cascade(reply)
    message = await ask(model, how=how)
    message.name = "agent"
    message.response_metadata["x"] = 1
    assert reply.name is None
    assert "x" not in (await ask(model, how=how)).response_metadata


@pytest.mark.parametrize("value", ["hi", [("human", "hi")], [HumanMessage("hi")], HumanMessage("hi").model_dump()])
def test_every_form_of_input_is_taken(value):
    """A text, tuples, messages, dicts: as for every chat model."""
    small = ScriptedChatModel("yes")
    cascade(small).invoke([value] if isinstance(value, dict) else value)
    assert [m.text for m in small.calls[0]] == ["hi"]


# ---- tools ----------------------------------------------------------------------------------------------------------
class _Foreign(ScriptedChatModel):
    """A model of a provider with a tool format of its own."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        formatted = [{"toolSpec": getattr(t, "name", t)} for t in tools]
        return self.bind(tools=formatted, choice={"mode": tool_choice}, **kwargs)


@BOTH
async def test_each_tier_gets_the_tools_in_its_own_form(how):
    """The raw tools go to each tier's own `bind_tools`, with the choice; nothing of one form reaches the other tier."""
    small, large = _Foreign("a"), ScriptedChatModel("b")
    model = cascade(small, large, validators=[refuses_small]).bind_tools([forecast], tool_choice="any", strict=True)
    await ask(model, how=how)
    assert small.offered == [[{"toolSpec": "forecast"}]]
    assert small.options == [{"choice": {"mode": "any"}, "strict": True}]
    assert large.offered[0][0]["function"]["name"] == "forecast"
    assert large.options == [{"tool_choice": "any", "strict": True}]


def test_tools_are_known_to_agents_and_validators():
    """However they were bound; one that the provider runs is no forced call."""
    bound = cascade("a").bind_tools([forecast, fare])
    assert [t["function"]["name"] for t in bound.kwargs["tools"]] == ["forecast", "fare"]
    seen, looks = seeing(lambda context: context.tool_choice)
    cascade("a", validators=[looks]).bind_tools([forecast], tool_choice={"type": "web_search"}).invoke("hi")
    assert seen == [None]
    seen, looks = seeing(lambda context: [t.name for t in context.tools])
    as_dict = {"type": "function", "function": {"name": "raw", "parameters": {"type": "object"}}}
    model = cascade("a", validators=[looks])
    model.invoke("hi")
    model.bind_tools([forecast]).invoke("hi")
    model.bind(tools=[as_dict], tool_choice="raw").invoke("hi")
    cascade(ScriptedChatModel("a").bind_tools([fare]), validators=[looks]).invoke("hi")
    assert seen == [[], ["forecast"], ["raw"], ["fare"]]


@BOTH
async def test_arguments_and_choices_of_the_call_win(how):
    """`temperature` and `tool_choice` given later reach tiers and validators, as they would reach the model alone."""
    small, large = ScriptedChatModel("a"), ScriptedChatModel("b")
    model = cascade(small.bind(temperature=0.1), large, validators=[refuses_small])
    await ask(model, how=how, temperature=0.5)
    assert [small.options, large.options] == [[{"temperature": 0.5}], [{"temperature": 0.5}]]
    seen, looks = seeing(lambda context: context.tool_choice)
    small = ScriptedChatModel("a", loop=True)
    model = cascade(small, validators=[looks]).bind_tools([forecast, fare], tool_choice="any")
    await ask(model, how=how)
    await ask(model, how=how, tool_choice="fare")
    await ask(model.bind(tool_choice="none"), how=how)
    assert seen == ["required", "fare", "none"]
    assert [o.get("tool_choice") for o in small.options] == ["any", "fare", "none"]


def test_wrong_tools_are_refused_when_bound(caplog):
    """A choice that is not offered, and what no provider could be offered; two tools of one name are warned of."""
    with pytest.raises(ConfigurationError, match=r"tool_choice is 'forcast'; expected .* forecast"):
        cascade("a").bind_tools([forecast], tool_choice="forcast")
    cascade("a").bind_tools([forecast, forecast])
    assert "two tools are named 'forecast'" in caplog.text
    with pytest.raises(ConfigurationError, match=r"tools\[0\]"):
        cascade("a").bind_tools([object()])


def test_many_sets_of_tools_are_forgotten_again():
    """Tools that are made anew at every turn fill no memory and are never taken for each other."""
    small = ScriptedChatModel("a", loop=True)
    model = cascade(small)
    for n in range(70):
        made = {"type": "function", "function": {"name": f"t{n}", "parameters": {"type": "object"}}}
        model.bind_tools([made]).invoke("hi")
    assert [o[0]["function"]["name"] for o in small.offered] == [f"t{n}" for n in range(70)]
    assert len(model._binding._offers) <= 64


# ---- structured output ----------------------------------------------------------------------------------------------


RIGHT, WRONG = call("City", name="Lyon", size=3), call("City", name="Lyon", size="big")


@BOTH
async def test_an_answer_that_never_parses(how):
    """With `include_raw` its record says that it is degraded; a policy that raises raises. Else it is as large's alone."""

    def pair(reply: Any, **settings: Any) -> Any:
        return CascadeChatModel(small=ScriptedChatModel(WRONG), large=ScriptedChatModel(reply), **settings)

    raw = await ask(pair(WRONG).with_structured_output(City, include_raw=True), how=how)
    assert (raw["parsed"], record(raw["raw"])["degraded"]) == (None, True)
    assert "size" in str(raw["parsing_error"])
    strict = pair("prose", policy=Policy(on_exhausted="raise"))
    with pytest.raises(CascadeExhausted, match="unparsed_output"):
        await ask(strict.with_structured_output(City), how=how)


@BOTH
async def test_without_its_validator_an_unparsed_answer_raises_as_without_a_cascade(how):
    """Whoever leaves `StructuredOutput` out gets LangChain's own error, or with `include_raw` its own dict."""
    model = cascade(ScriptedChatModel([WRONG, WRONG, "prose"]))
    with pytest.raises(Exception, match="size"):
        await ask(model.with_structured_output(City), how=how)
    entry = await ask(model.with_structured_output(City, include_raw=True), how=how)
    assert entry["parsed"] is None
    assert "size" in str(entry["parsing_error"])
    assert await ask(model.with_structured_output(City), how=how) is None


def test_a_model_without_structured_output_is_named_at_once():
    """The error comes when the schema is given and names the model."""

    class Plain(BaseChatModel):
        def _generate(self, *_: Any, **__: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

        @property
        def _llm_type(self) -> str:
            return "plain"

    with pytest.raises(ConfigurationError, match="has no structured output"):
        CascadeChatModel(small=Plain(), large=Plain(), validators=[]).with_structured_output(City)


# ---- runs, callbacks, config ----------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_the_tiers_runs_are_children_of_one_chain_run(how, stream):
    """A run named for the step, under it one per attempt, there the model's; tags, metadata, name and id arrive."""
    heard, run_id = Runs(), uuid4()
    config: Any = {"callbacks": [heard], "tags": ["t"], "metadata": {"m": 1}, "run_id": run_id}
    model = cascade("a", "b", validators=[refuses_small], name="desk")
    await (streamed if stream else ask)(model, how=how, config=config)
    small = ("chain", "cascade.attempt small", [("model", "s", [])])
    large = ("chain", "cascade.attempt large", [("model", "l", [])])
    assert heard.tree() == [("chain", "cascade.step desk", [small, large])]
    root = next(iter(heard.runs.values()))
    models = [run for run in heard.runs.values() if run["kind"] == "model"]
    assert next(iter(heard.runs)) == run_id
    assert root["tags"] == ["t"]
    assert root["metadata"]["m"] == 1
    assert [set(run["tags"]) for run in models] == [{"t", "nostream", "small"}, {"t", "nostream", "large"}]
    assert [run["metadata"]["m"] for run in models] == [1, 1]
    assert [run["end"] for run in heard.runs.values()] == ["end"] * 5
    assert config["run_id"] == run_id, "the caller's config is untouched"
    named = Runs()
    await ask(model, how=how, config={"callbacks": [named], "run_name": "mine"})
    assert named.tree()[0][1] == "mine"


@BOTH
async def test_runs_of_a_chain_and_of_an_exhausted_step(how):
    """In a chain the step nests under what calls it; when nobody answers each run is closed with its error."""
    heard = Runs()
    with pytest.raises(KeyError):
        await ask(cascade(ValueError(), KeyError()), how=how, config={"callbacks": [heard]})
    ends = [run["end"] for run in heard.runs.values()]
    assert ends == ["KeyError", "ValueError", "ValueError", "KeyError", "KeyError"]
    heard = Runs()
    chain = RunnableLambda(lambda x: x, name="before") | cascade("a", name="desk")
    await ask(chain, how=how, config={"callbacks": [heard]})
    ((_, name, children),) = heard.tree()
    assert name == "RunnableSequence"
    assert children[1] == (
        "chain",
        "cascade.step desk",
        [("chain", "cascade.attempt small", [("model", "s", [])])],
    )


@BOTH
@pytest.mark.parametrize("kind", [list, CallbackManager], ids=["list", "manager"])
async def test_callbacks_of_the_model_hear_the_tiers(how, kind):
    """Handlers given at construction hear the model calls, as they do on a model that is no cascade."""
    usage, runs = UsageMetadataCallbackHandler(), Runs()
    callbacks: Any = [usage, runs] if kind is list else CallbackManager(handlers=[usage, runs])
    await ask(cascade("a", "b", validators=[refuses_small], callbacks=callbacks), how=how)
    assert {name: u["total_tokens"] for name, u in usage.usage_metadata.items()} == {"s": 10, "l": 10}
    assert [run["kind"] for run in runs.runs.values()] == ["chain", "chain", "model", "chain", "model"]


@BOTH
async def test_config_that_is_bound_to_a_tier_reaches_it_alone(how):
    """`small.with_config(...)` holds for the small tier's run, with tools too."""
    heard = Runs()
    small = ScriptedChatModel("a", loop=True).with_config(tags=["cheap"], metadata={"who": "small"})
    model = cascade(small, "b", validators=[refuses_small])
    await ask(model, how=how, config={"callbacks": [heard]})
    await ask(model.bind_tools([forecast]), how=how, config={"callbacks": [heard]})
    runs = [run for run in heard.runs.values() if run["kind"] == "model"]
    assert ["cheap" in run["tags"] for run in runs] == [True, False, True, False]
    assert [run["metadata"].get("who") for run in runs] == ["small", None, "small", None]


# ---- batches, events, generate ----------------------------------------------------------------------------------------
@BOTH
async def test_batches_keep_order_and_limit(how):
    """`batch` and `abatch` answer in order, at most `max_concurrency` at a time."""
    now, most = [0], [0]

    def echo(messages: Any) -> AIMessage:
        now[0] += 1
        most[0] = max(most[0], now[0])
        if how == "sync":
            time.sleep(0.01)
        now[0] -= 1
        return AIMessage(messages[-1].text.upper())

    def not_b(draft: Any, _context: Any) -> bool:
        return draft.tier == "large" or draft.text != "B"

    model = cascade(ScriptedChatModel(echo, loop=True), "large", validators=[not_b])
    inputs, config = ["a", "b", "c", "d"], {"max_concurrency": 2}
    out = await model.abatch(inputs, config) if how == "async" else model.batch(inputs, config)
    assert [m.text for m in out] == ["A", "large", "C", "D"]
    assert most[0] <= 2
    failing = cascade(ValueError("x"), KeyError("y"))
    out = (
        await failing.abatch(["a"], return_exceptions=True)
        if how == "async"
        else failing.batch(["a"], return_exceptions=True)
    )
    assert isinstance(out[0], KeyError)


@BOTH
async def test_generate_is_a_batch_of_steps(how):
    """`generate` and `agenerate` give one generation per prompt, with the records on the messages."""
    heard = Runs()
    model = cascade("a", "b", validators=[refuses_small])
    prompts, more = [[HumanMessage("1")], [HumanMessage("2")]], {"callbacks": [heard], "tags": ["g"], "stop": ["."]}
    out = await model.agenerate(prompts, **more) if how == "async" else model.generate(prompts, **more)
    assert [g[0].message.text for g in out.generations] == ["b", "b"]
    assert record(out.generations[0][0].message)["outcome"] == "escalated"
    assert sorted(run["kind"] for run in heard.runs.values()) == ["chain"] * 6 + ["model"] * 4
    assert model._generate([HumanMessage("3")]).generations[0].message.text == "b"


async def test_agenerate_leaves_no_step_behind():
    """When one of several prompts fails, the others are awaited, not left running."""

    class Slow(ScriptedChatModel):
        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            if messages[-1].text == "slow":
                await asyncio.sleep(0.1)
                return await super()._agenerate(messages, *args, **kwargs)
            raise ValueError

    before, small = asyncio.all_tasks(), Slow("late")
    with pytest.raises(ValueError, match=r"^\ncascade step"):
        await cascade(small, Slow("x")).agenerate([[HumanMessage("fails")], [HumanMessage("slow")]])
    assert asyncio.all_tasks() == before
    assert small.asked == 1


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_events_v3_tell_the_accepted_answer(how):
    """`stream_events(v3)`: a stream of content blocks of the answer alone, with its usage; errors come out of it."""
    small = ScriptedChatModel("secret draft", streams=True, loop=True)
    model = cascade(small, "one two", validators=[refuses_small])
    broken = cascade(ValueError("x"), KeyError("y"))
    if how == "async":
        stream = await model.astream_events("hi", version="v3")
        events = [event async for event in stream]
        output = await stream.output
        with pytest.raises(KeyError):
            await (await broken.astream_events("hi", version="v3")).output
    else:
        stream = model.stream_events("hi", version="v3")
        events, output = list(stream), stream.output
        with pytest.raises(KeyError):
            _ = broken.stream_events("hi", version="v3").output
    assert output.text == "one two"
    assert record(output)["outcome"] == "escalated"
    assert output.usage_metadata["total_tokens"] == 10
    assert "secret" not in str(events)


# ---- wrappers, copies, settings --------------------------------------------------------------------------------------
@BOTH
async def test_configurable_fields_and_alternatives(how):
    """Settings can be made configurable, as on every model."""
    model = cascade("a", "b", validators=[refuses_small]).configurable_fields(policy=ConfigurableField(id="policy"))
    loose = Policy(on_exhausted="raise")
    message = await ask(model, how=how, config={"configurable": {"policy": loose}})
    assert record(message)["policy"] == loose.version
    picked = cascade("a").configurable_alternatives(ConfigurableField(id="which"), other=cascade("z"))
    assert (await ask(picked, how=how, config={"configurable": {"which": "other"}})).text == "z"


def test_a_changed_copy_uses_its_changes():
    """`model_copy(update=...)`, `copy`, `deepcopy` and assignment: the new setting holds there, the old one here."""
    model = cascade("a", "b")
    model.bind_tools([forecast]).invoke("hi")
    other = model.model_copy(update={"small": ScriptedChatModel("z", loop=True), "validators": []})
    assert (other.invoke("hi").text, model.invoke("hi").text) == ("z", "a")
    assert other.bind_tools([forecast]).invoke("hi").text == "z"
    strict = model.model_copy(update={"validators": [refuses_small]})
    assert strict.invoke("hi").text == "b"
    for twin in (copy.copy(model), copy.deepcopy(model), model.model_copy(deep=True)):
        assert twin.bind_tools([forecast]).invoke("hi").text == "a"
    model.validators = [refuses_small]
    assert model.invoke("hi").text == "b"
    with pytest.raises(ConfigurationError, match="a tier is"):
        model.large = 3


def test_copies_and_pickles_answer():
    """With validators, tools and prices; offers are known by the identity of the tools, so a copy starts without any."""
    model = cascade("a")
    model.bind_tools([forecast])
    assert copy.deepcopy(model)._binding._offers == {}
    assert pickle.loads(pickle.dumps(model))._binding._offers == {}
    assert model._binding._offers
    model = CascadeChatModel(
        small=Tier(ScriptedChatModel("yes", loop=True), price=Price(1, 2)), large=ScriptedChatModel("b")
    )
    twin = pickle.loads(pickle.dumps(model))
    assert twin.invoke("hi").text == "yes"
    bound = pickle.loads(pickle.dumps(model.bind_tools([City])))
    assert bound.invoke("hi").text == "yes"


def test_the_cache_of_langchain_serves_the_tiers():
    """Each tier caches for itself under its own key; an answer from the cache costs nothing and says its tokens."""
    set_llm_cache(InMemoryCache())
    try:
        first, second = ScriptedChatModel("a", usage=(5, 5)), ScriptedChatModel("z", usage=(5, 5))
        model = cascade(Tier(first, price=Price(1, 1)))
        paid, cached = model.invoke("hi"), model.invoke("hi")
        assert first.asked == 1
        assert (paid.text, cached.text) == ("a", "a")
        assert record(paid)["cost"] == pytest.approx(10 / 1e6)
        assert record(cached)["cost"] == 0.0
        assert cascade(second).invoke("hi").text == "z", "another cascade shares no key"
    finally:
        set_llm_cache(None)


class _Counting(BaseRateLimiter):
    def __init__(self) -> None:
        self.taken = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.taken += 1
        return blocking

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire(blocking=blocking)


@BOTH
async def test_the_rate_limiter_of_a_tier_is_asked_once_per_call(how):
    """Limits are the tiers' own, and apply once."""
    limits = _Counting(), _Counting()
    small, large = (ScriptedChatModel("x", rate_limiter=limit, loop=True) for limit in limits)
    model = cascade(small, large, validators=[refuses_small])
    await ask(model, how=how)
    await streamed(model, how=how)
    assert [limit.taken for limit in limits] == [2, 2]


def test_tokens_are_counted_as_the_large_model_does():
    """Agents that trim a history ask the model how long it is."""
    messages = [SystemMessage("be kind"), HumanMessage("one two three")]
    assert cascade("a").get_num_tokens_from_messages(messages) == 5
    large = ChatOpenAI(model="gpt-4o", api_key="none")
    large.custom_get_token_ids = lambda text: [len(text)]
    assert cascade("a", large).get_token_ids("four") == [4]


@pytest.mark.filterwarnings("ignore:Unrecognized keys in model profile")
def test_the_profile_is_what_both_tiers_can():
    """Flags by and, token limits by min, what only one says is kept; no profile when neither has one."""

    def profile(small: Any, large: Any, **more: Any) -> Any:
        return cascade(ScriptedChatModel("a", profile=small), ScriptedChatModel("b", profile=large), **more).profile

    small = {"structured_output": False, "tool_calling": True, "max_input_tokens": 8, "x": 1, "name": "a", "same": "s"}
    large = {"structured_output": True, "tool_calling": True, "max_input_tokens": 99, "y": 1, "name": "b", "same": "s"}
    common = {"structured_output": False, "tool_calling": True, "max_input_tokens": 8, "same": "s"}
    assert profile(small, large) == {**common, "x": 1, "y": 1}
    assert profile(small, None) == small
    assert profile(None, None) is None
    assert profile(small, large, profile={"mine": True}) == {"mine": True}


def test_it_says_what_it_is():
    """Identifying parameters and LangSmith's parameters name tiers, validators and policy; hosts see large's kind."""
    model = cascade("a", validators=[refuses_small], policy=Policy(threshold=0.5))
    assert model._llm_type == "scripted"
    assert model._identifying_params == {
        "small": "s",
        "large": "l",
        "validators": ["refuses_small"],
        "policy": Policy(threshold=0.5).version,
    }
    assert model._get_ls_params(stop=["."]) == {
        "ls_provider": "scriptedchatmodel",  # large's: hosts compare it with the provider of answers
        "ls_model_type": "chat",
        "ls_model_name": "s->l",
        "ls_stop": ["."],
    }
    assert model._get_ls_params(model="other")["ls_model_name"] == "other"


# ---- what is refused at construction ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"small": 3}, "a tier is int; expected a chat model"),
        ({"large": RunnableLambda(lambda x: x)}, "a tier is RunnableLambda"),
        ({"small": "nobody:no-model"}, "the provider string 'nobody:no-model' gives no model"),
        ({"policy": 3}, "policy is int; expected a Policy or a mapping"),
        ({"policy": {"thresold": 1}}, "Policy has no setting 'thresold': did you mean 'threshold'?"),
        ({"polcy": 3}, "CascadeChatModel has no setting 'polcy': did you mean 'policy'?"),
        ({"validator": [3]}, "CascadeChatModel has no setting 'validator': did you mean 'validators'?"),
        ({"validators": refuses_small}, "expected a list of them"),
        ({"validators": "CompleteResponse"}, "expected a list of them"),
        ({"validators": [3]}, "3 is no validator"),
        ({"validators": [Verdict]}, "holds the class Verdict; expected an instance"),
        ({"validators": [refuses_small, refuses_small]}, "two validators are named 'refuses_small'"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(settings, says):
    """The message names the thing, what was expected and the mend; nothing waits for the first request."""
    given = {"small": ScriptedChatModel("a"), "large": ScriptedChatModel("b"), **settings}
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        CascadeChatModel(**given)


def test_settings_of_hosts(caplog):
    """Common settings of models are ignored with a warning; a step without a name is named for its node."""
    model = cascade("a", temperature=0.3, timeout=4, max_retries=2)
    assert model.invoke("hi").text == "a"
    assert "ignores temperature" in caplog.text
    config: Any = {"metadata": {"langgraph_node": "agent"}, "configurable": {"thread_id": 7}}
    entry = record(cascade("a").invoke("hi", config))
    assert (entry["step"], entry["thread_id"]) == ("agent", "7")
    assert record(cascade("a", name="mine").invoke("hi", config))["step"] == "mine"
    assert record(cascade("a", name=None).invoke("hi"))["step"] == "cascade"


# ---- R4: streamed = not streamed ----------------------------------------------------------------------------------------
CUT = AIMessage(
    "",
    invalid_tool_calls=[{"name": "forecast", "args": '{"city": "Par', "id": "a", "error": "cut"}],
    response_metadata={"finish_reason": "length"},
)
GOOD = AIMessage("", tool_calls=[{"name": "forecast", "args": {"city": "Paris"}, "id": "b"}])


def cutting(**kwargs: Any) -> tuple[Any, ScriptedChatModel]:
    """A cascade whose small model's call is cut off, and that model."""
    small = ScriptedChatModel(CUT, streams=True, loop=True)
    large = ScriptedChatModel(GOOD, streams=True, loop=True)
    return CascadeChatModel(small=small, large=large, **kwargs).bind_tools([forecast]), small


def test_langchain_repairs_a_cut_call_when_it_streams():
    """The trap that the next tests are about: streamed, the cut call looks valid."""
    _, small = cutting()
    assert added(list(small.bind_tools([forecast]).stream("Paris?"))).tool_calls[0]["args"] == {"city": "Par"}


@BOTH
@pytest.mark.parametrize("way", ["invoke", "stream", "events", "v3", "graph"])
async def test_a_cut_call_is_refused_however_it_is_asked_for(way, how):
    """R4: the same verdict with `invoke`, `stream`, events, and under LangGraph's `stream_mode="messages"`."""
    model, small = cutting()
    if way == "invoke":
        answer = await ask(model, "Paris?", how=how)
    elif way == "stream":
        answer = added(await streamed(model, "Paris?", how=how))
    elif way == "events":
        events = [e async for e in model.astream_events("Paris?", version="v2")]
        assert '"Par"' not in str(events[-1])
        answer = added([e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"])
    elif way == "v3":
        answer = (
            await (await model.astream_events("Paris?", version="v3")).output
            if how == "async"
            else model.stream_events("Paris?", version="v3").output
        )
    else:
        small = ScriptedChatModel(CUT, streams=True, loop=True)
        graph = behind("chat_model", small, ScriptedChatModel(GOOD, streams=True), tools=[forecast])
        parts = await streamed(graph, {"messages": "Paris?"}, how=how, stream_mode="messages")
        answer = added([part[0] for part in parts if isinstance(part[0], AIMessageChunk)])
    assert [call["args"] for call in answer.tool_calls] == [{"city": "Paris"}]
    assert record(answer)["final_tier"] == "large"
    assert small.asked == 1


@BOTH
async def test_a_model_that_is_set_to_stream_is_asked_whole(how):
    """R4: `ChatOpenAI(streaming=True)` and `.bind(stream=True)` are judged on the whole answer too."""
    with StubOpenAI() as stub:
        for small, large in [
            (stub.model("weak", streaming=True), stub.model("good", streaming=True)),
            (stub.model("weak").bind(stream=True), stub.model("good").bind(stream=True)),
        ]:
            both = CascadeChatModel(small=small, large=large).bind_tools([forecast])
            answer = await ask(both, "the forecast for 'Paris'", how=how)
            assert answer.tool_calls[0]["args"] == {"city": "Paris"}
            assert record(answer)["final_tier"] == "large"
            assert record(answer)["usage"]["input_tokens"]
        assert {bool(request.get("stream")) for request in stub.requests} == {False}


# ---- rare ways ----------------------------------------------------------------------------------------------------------
class _Listening(Runs):
    """A handler that makes models stream, and hears tokens and events."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []
        self.events: list[str] = []

    def on_llm_new_token(self, token, **_):
        self.tokens.append(token)

    def on_stream_event(self, event, **_):
        self.events.append(event["event"])


class _Tokens(_Listening, _StreamingCallbackHandler):
    def tap_output_iter(self, _run_id, output):
        return output

    def tap_output_aiter(self, _run_id, output):
        return output


class _Blocks(_Listening, _V2StreamingCallbackHandler):
    pass


@BOTH
async def test_handlers_that_stream_hear_the_stream_as_it_goes(how):
    """Both kinds of streaming handlers hear an accepted answer, piece by piece or block by block, and only that."""
    tokens, blocks = _Tokens(), _Blocks()
    model = cascade("the draft", "one two", validators=[refuses_small])
    await streamed(model, how=how, config={"callbacks": [tokens, blocks]})
    assert "".join(tokens.tokens) == "one two"
    assert (blocks.events[0], blocks.events[-1]) == ("message-start", "message-finish")
    assert [run["end"] for run in tokens.runs.values()] == ["end"] * 6


@BOTH
async def test_a_stream_that_is_left_closes_the_run_it_ran_in(how):
    """The run under which streaming handlers heard the pieces ends too when the consumer leaves."""
    tokens = _Tokens()
    model = cascade("one two three four")
    if how == "sync":
        iterator = model.stream("hi", config={"callbacks": [tokens]})
        next(iterator)
        iterator.close()
    else:
        stream = model.astream("hi", config={"callbacks": [tokens]})
        await anext(stream)
        await stream.aclose()
    assert [run["end"] for run in tokens.runs.values()] == ["GeneratorExit", "end", "end", "GeneratorExit"]
    assert "".join(tokens.tokens) == "one"


@BOTH
async def test_the_user_can_hide_a_step_from_the_message_stream(how):
    """The tag `nostream` of LangGraph holds for a cascade as for any model."""

    def graph(tags: list[str]) -> Any:
        def body(_state: Any, model: Any) -> Any:
            model.invoke("hi", {"tags": tags})
            return {}

        return graph_of(cascade_node(ScriptedChatModel("one two"), ScriptedChatModel("x"), step=body))

    visible = await streamed(graph([]), {"messages": []}, how=how, stream_mode="messages")
    assert "".join(part[0].text for part in visible) == "one two"
    assert await streamed(graph(["nostream"]), {"messages": []}, how=how, stream_mode="messages") == []


@BOTH
async def test_what_is_no_message_is_a_fault_of_the_tier(how):
    """A model that returns something else is a tier that failed, and named as such."""

    class Odd(ScriptedChatModel):
        def invoke(self, *_: Any, **__: Any) -> Any:
            return "text"

        async def ainvoke(self, *_: Any, **__: Any) -> Any:
            return "text"

    entry = record(await ask(cascade(Odd("x"), "large"), how=how))
    assert (entry["final_tier"], entry["attempts"][0]["error"]) == ("large", "TypeError")


@BOTH
async def test_marks_of_one_provider_do_not_reach_the_other(how):
    """Cache settings that only one tier's provider knows are taken out for the other, in tools, messages and settings."""
    small, large = ScriptedChatModel("a"), _Claude("b")
    marked = {"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}
    block = {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}
    model = cascade(small, large, validators=[refuses_small]).bind_tools([marked])
    await ask(model, [HumanMessage([block])], how=how, cache_control={"type": "ephemeral"})
    assert "cache_control" not in str((small.calls, small.offered, small.options))
    assert str((large.calls, large.options)).count("cache_control") == 2


class _Claude(ScriptedChatModel):
    @property
    def _llm_type(self) -> str:
        return "anthropic-chat"


async def test_a_v3_stream_that_is_cancelled_stops_its_step():
    """Cancelling the producer of an event stream ends the step; nobody is asked later."""
    small = Hanging("a")
    stream = await cascade(small).astream_events("hi", version="v3")
    waiting = asyncio.create_task(_first(stream))
    await asyncio.wait_for(small.called.wait(), 60)
    producer = stream._producer_task
    producer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await producer
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert small.asked == 0


async def _first(stream: Any) -> Any:
    return await anext(aiter(stream))


@BOTH
async def test_evidence_asks_under_the_step_and_unseen(how):
    """A judge's model call is a child run of the step, hidden from message streams."""
    from cascade_agent.core.records import SideCall

    queried = ScriptedChatModel("fine", name="judge", loop=True)

    class Judge:
        name, stage = "judge", "evidence"

        def gather(self, _draft: Any, _context: Any, *, config: Any) -> Any:
            queried.invoke("is it?", config)
            return Verdict(outcome="pass", score=1.0, code="judged"), SideCall(name="judge", cost=0.0)

        async def agather(self, _draft: Any, _context: Any, *, config: Any) -> Any:
            await queried.ainvoke("is it?", config)
            return Verdict(outcome="pass", score=1.0, code="judged"), SideCall(name="judge", cost=0.0)

    heard = Runs()
    await ask(cascade("a", validators=[Judge()], name="desk"), how=how, config={"callbacks": [heard]})
    judge = ("chain", "cascade.validate judge", [("model", "judge", [])])
    attempt = ("chain", "cascade.attempt small", [("model", "s", []), judge])
    assert heard.tree() == [("chain", "cascade.step desk", [attempt])]
    assert "nostream" in list(heard.runs.values())[-1]["tags"]


def test_a_journal_may_be_named_by_its_path(tmp_path: Path) -> None:
    """`journal="steps.jsonl"` is that file; anything else is refused at construction."""
    path = tmp_path / "steps.jsonl"
    CascadeChatModel(small=ScriptedChatModel(["a"]), large=ScriptedChatModel(["b"]), journal=str(path)).invoke("x")
    assert [trace.outcome for trace in Journal(path)] == ["accepted"]
    with pytest.raises(ConfigurationError, match="journal is int"):
        CascadeChatModel(small=ScriptedChatModel(["a"]), large=ScriptedChatModel(["b"]), journal=7)


@pytest.mark.parametrize("setting", ["threshold", "on_exhausted", "latency_budget"])
def test_a_setting_of_the_policy_is_not_swallowed(setting: str) -> None:
    """A policy's setting given to the model itself is refused, with where it belongs."""
    with pytest.raises(ConfigurationError, match=f"policy=Policy\\({setting}"):
        CascadeChatModel(small=ScriptedChatModel(["a"]), large=ScriptedChatModel(["b"]), **{setting: 1})
    with pytest.raises(ConfigurationError, match="cascade_policy"):
        cascade("a").bind(**{setting: 1})
    with pytest.raises(ConfigurationError, match="cascade_policy"):
        cascade("a").invoke("hi", **{setting: 1})


def test_a_changed_tool_is_offered_anew() -> None:
    """A tool whose description changed between two bindings is offered as it is now."""

    @tool
    def pick(option: str) -> str:
        """Options: A."""
        return option

    small = ScriptedChatModel(["x"], loop=True)
    model = CascadeChatModel(small=small, large=ScriptedChatModel(["y"], loop=True))
    model.bind_tools([pick]).invoke("?")
    pick.description = "Options: B."
    model.bind_tools([pick]).invoke("?")
    assert [offered[0]["function"]["description"] for offered in small.offered] == ["Options: A.", "Options: B."]
