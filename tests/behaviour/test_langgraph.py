"""A cascade inside LangGraph itself: policies of a node, interrupts, savers, branches, subgraphs, streams. No mocks."""

import warnings
from importlib.metadata import version
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import NodeError, NodeTimeoutError
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, TimeoutPolicy, interrupt

from cascade_agent import CascadeChatModel, CascadeExhausted, Policy, cascade_node, swap_node
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from tests.builders import (
    BOTH,
    City,
    assert_plain_json,
    behind,
    call,
    graph_of,
    lookup,
    no_draft,
    pair,
    record,
    run,
    streamed,
)

THREAD: Any = {"configurable": {"thread_id": "t"}}
KEEPS_TASKS_OF_SUBGRAPHS = (1, 2, 16)
HI: Any = {"messages": [HumanMessage("hi")]}
ADAPTERS = pytest.mark.parametrize("adapter", ["chat_model", "node", "step", "middleware"])


def model(*replies, **settings):
    """A scripted model with usage; it streams where a real one would."""
    return ScriptedChatModel(list(replies), **{"usage": (10, 2), "streams": True, **settings})


def asks(body, small, large="x", *, saver=None, **settings):
    """A graph of a node with a body of its own, which is interrupted and resumed."""
    tiers = (m if isinstance(m, ScriptedChatModel) else model(m) for m in (small, large))
    return graph_of(cascade_node(*tiers, step=body, **settings), saver=saver or InMemorySaver())


# ---- what is seen of a step -----------------------------------------------------------------------------------------
@BOTH
@ADAPTERS
async def test_every_adapter_shows_the_accepted_answer_once_and_a_rejected_draft_never(adapter, how):
    """In every stream mode and in the checkpoints; usage callbacks hear each tier once and agree with the record."""
    modes = ["messages", "updates", "values", "debug", "tasks", "checkpoints"]
    for streams in (True, False):
        saver, usage, journal = InMemorySaver(), UsageMetadataCallbackHandler(), TraceCapture()
        small, large = (model(text, streams=streams, name=text[2:7]) for text in ("a draft unseen", "the final answer"))
        graph = behind(adapter, small, large, validators=[no_draft], saver=saver, journal=journal)
        parts = await streamed(graph, HI, {**THREAD, "callbacks": [usage]}, how=how, stream_mode=modes)
        tokens = [part[0] for mode, part in parts if mode == "messages"]
        assert [t.text for t in tokens] == ["the", " final", " answer", ""]
        assert sum(t.usage_metadata is not None for t in tokens) == 1
        assert "unseen" not in repr(parts) + repr(saver.storage) + repr(saver.writes) + repr(saver.blobs)
        messages = graph.get_state(THREAD).values["messages"]
        assert [m.text for m in messages] == ["hi", "the final answer"]
        assert {t.id for t in tokens} == {messages[-1].id}
        assert [u["total_tokens"] for u in usage.usage_metadata.values()] == [12, 12]
        (trace,) = journal
        assert (trace.usage.input_tokens, trace.usage.output_tokens, trace.usage.calls) == (20, 4, 2)


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
@BOTH
@ADAPTERS
async def test_event_streams_show_the_accepted_answer_in_pieces(adapter, how):
    """`stream_events(version="v3")`: one message, its text in pieces, the record on it; the draft is not there."""
    graph = behind(adapter, model("a draft"), model("the final answer"), validators=[no_draft])
    if how == "sync":
        entry = [(list(m.text), m.output) for m in graph.stream_events(HI, version="v3").messages]
    else:
        events = await graph.astream_events(HI, version="v3")
        entry = [([t async for t in m.text], await m.output) async for m in events.messages]
    ((pieces, message),) = entry
    assert (pieces, message.text) == (["the", " final", " answer"], "the final answer")
    assert record(message)["outcome"] == "escalated"


@ADAPTERS
async def test_older_event_streams_show_drafts_only_under_the_hidden_tag(adapter):
    """`astream_events(version="v2")`: a consumer that excludes `nostream` hears the accepted answer alone."""
    graph = behind(adapter, model("a draft"), model("the final answer"), validators=[no_draft])
    events = [event async for event in graph.astream_events(HI, version="v2")]
    heard = [event for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(event["data"]["chunk"].text for event in heard) == "the final answer"
    assert not any("nostream" in event["tags"] for event in heard)
    ends = [event for event in events if event["event"] == "on_chat_model_end" and "nostream" in event["tags"]]
    assert len(ends) == 1, "the draft's own run; large's is the one that is seen"


class Summary(TypedDict):
    """A state without messages."""

    summary: str


@BOTH
async def test_what_a_body_streams_is_the_accepted_answer(how):
    """`model.stream(...)` in a body gives it in pieces, once; a body that returns `{"summary": text}` streams it, too."""

    def body(state, model):
        return {"messages": [AIMessage("|".join(chunk.text for chunk in model.stream("?")))]}

    node = cascade_node(model("draft"), model("one two"), step=body, validators=[no_draft])
    parts = await streamed(graph_of(node), HI, how=how, stream_mode="messages")
    assert [m.text for m, _ in parts] == ["one", " two", "", "one| two|"]
    node = cascade_node(
        model("draft"),
        model("a summary"),
        step=lambda _, model: {"summary": model.invoke("?").text},
        validators=[no_draft],
    )
    parts = await streamed(graph_of(node, Summary), {"summary": ""}, how=how, stream_mode=["messages", "values"])
    assert "".join(part[0].text for mode, part in parts if mode == "messages") == "a summary"
    assert parts[-1] == ("values", {"summary": "a summary"})


# ---- policies of a node ---------------------------------------------------------------------------------------------
@BOTH
async def test_a_cache_policy_answers_the_same_state_without_a_model(how):
    """The second run of the same input asks nobody."""
    small, state = model("fine"), {"messages": [HumanMessage("hi", id="1")]}
    graph = graph_of(cascade_node(small, model("x")), cache=InMemoryCache(), cache_policy=CachePolicy(ttl=60))
    assert [(await run(graph, state, how=how))["messages"][-1].text for _ in range(2)] == ["fine", "fine"]
    assert small.asked == 1


@BOTH
async def test_an_error_handler_gets_the_exhausted_step(how):
    """It reads the whole trace from the error and may answer in its place."""

    def handler(state, error: NodeError):
        trace = error.error.trace
        return Command(goto=END, update={"messages": [AIMessage(f"{trace.step}: {trace.outcome}")]})

    node = cascade_node(model("draft"), model("draft"), validators=[no_draft], policy=Policy(on_exhausted="raise"))
    out = await run(graph_of(node, error_handler=handler), HI, how=how)
    assert out["messages"][-1].text == "agent: exhausted"


async def test_a_node_timeout_ends_the_step_and_asks_nobody_after():
    """The host's own timeout cancels the step; it is on record as cancelled."""
    journal, large = TraceCapture(), model("never")
    node = cascade_node(model("late", delay=30.0), large, journal=journal)
    with pytest.raises(NodeTimeoutError):
        await graph_of(node, timeout=TimeoutPolicy(run_timeout=1.5)).ainvoke(HI)
    assert ([t.outcome for t in journal], large.asked) == (["cancelled"], 0)


# ---- interrupts -----------------------------------------------------------------------------------------------------
def ends_at_a_human(journal):
    """A pair whose every draft is refused softly, and the settings that ask a human then."""
    small, large = (model(f"draft {n} 1", f"draft {n} 2", name=n) for n in ("s", "l"))
    return small, large, {"validators": [no_draft], "policy": Policy(on_exhausted="interrupt"), "journal": journal}


def sends(state, model):
    """A body that asks a person about the answer."""
    reply = model.invoke(state["messages"])
    return {"messages": [AIMessage(f"{reply.text}: {interrupt(reply.text)}")]}


@BOTH
async def test_a_second_interrupt_of_the_same_node_neither_pays_nor_records_again(how):
    """A body that asks a person after the reviewed step runs three times; the step stays one."""
    journal = TraceCapture()
    small, large, settings = ends_at_a_human(journal)
    graph = asks(sends, small, large, **settings)
    await run(graph, HI, THREAD, how=how)
    out = await run(graph, Command(resume="mine"), THREAD, how=how)
    assert out["__interrupt__"][0].value == "mine"
    out = await run(graph, Command(resume="yes"), THREAD, how=how)
    assert out["messages"][-1].text == "mine: yes"
    assert (small.asked, large.asked, len(journal)) == (1, 1, 1)


@BOTH
@pytest.mark.parametrize("database", ["memory", "postgres"])
@pytest.mark.parametrize(("durable", "queried"), [(True, 1), (False, 2)])
async def test_a_durable_answer_survives_an_interrupt_later_in_the_body(
    how, database, durable, queried, saver_of, thread
):
    """`durable=True`: what the person saw is what is used, paid and recorded once; without it the body asks anew."""
    journal, small = TraceCapture(), model("first", "second")
    async with saver_of(database, how) as saver:
        graph = asks(sends, small, journal=journal, durable=durable, saver=saver)
        assert (await run(graph, HI, thread, how=how))["__interrupt__"][0].value == "first"
        out = await run(graph, Command(resume="yes"), thread, how=how)
    assert out["messages"][-1].text == ("first: yes" if durable else "second: yes")
    assert small.asked == len(journal) == queried


@BOTH
async def test_a_durable_step_that_raises_is_asked_anew_by_a_retry(how):
    """A failure is not saved: a retry, or the graph continued after an outage, is a new step with its own record."""
    journal, small = TraceCapture(), model(OSError("down"), OSError("down"), "back")
    settings: Any = {"policy": Policy(on_exhausted="raise"), "journal": journal, "durable": True}
    node = cascade_node(small, model(OSError("down"), loop=True), **settings)
    policy = RetryPolicy(max_attempts=2, initial_interval=0.01, jitter=False, retry_on=OSError)
    graph = graph_of(node, saver=InMemorySaver(), retry_policy=policy)
    with pytest.raises(OSError, match="down"):
        await run(graph, HI, THREAD, how=how)
    assert [t.outcome for t in journal] == ["exhausted"] * 2
    assert (await run(graph, None, THREAD, how=how))["messages"][-1].text == "back"
    assert [t.outcome for t in journal] == ["exhausted", "exhausted", "accepted"]


def test_a_saved_answer_is_not_used_for_another_request():
    """When the body asks something else after the interrupt, the saved answer is left alone and the model asked."""
    questions = iter(["one?", "two?"])
    graph = asks(lambda _, model: sends({"messages": next(questions)}, model), model("first", "second"), durable=True)
    graph.invoke(HI, THREAD)
    assert graph.invoke(Command(resume="yes"), THREAD)["messages"][-1].text == "second: yes"


@BOTH
async def test_structured_output_survives_an_interrupt_as_the_object_it_was(how):
    """A durable structured answer is saved as plain JSON and made again as the pydantic object."""
    small = model(call("City", name="Lyon", size=3))
    structured = pair(small, model("x"), durable=True, validators=[]).with_structured_output(City)

    def body(state):
        city = structured.invoke(state["messages"])
        assert isinstance(city, City)
        return {"messages": [AIMessage(f"{city.name} {city.size}: {interrupt('ok?')}")]}

    graph = graph_of(body, saver=InMemorySaver())
    await run(graph, HI, THREAD, how=how)
    out = await run(graph, Command(resume="yes"), THREAD, how=how)
    assert (out["messages"][-1].text, small.asked) == ("Lyon 3: yes", 1)


@BOTH
async def test_a_workflow_of_the_functional_api_asks_a_human_too(how):
    """In an `entrypoint` the step is interrupted, resumed and paid as in a node."""
    small, large, settings = ends_at_a_human(TraceCapture())
    cascade = CascadeChatModel(small=small, large=large, **settings)

    @entrypoint(checkpointer=InMemorySaver())
    def flow(question: str) -> str:
        return cascade.invoke(question).text

    @entrypoint(checkpointer=InMemorySaver())
    async def aflow(question: str) -> str:
        return (await cascade.ainvoke(question)).text

    graph = flow if how == "sync" else aflow
    assert "__interrupt__" in (await streamed(graph, "hi", THREAD, how=how))[-1]
    assert await run(graph, Command(resume="accept"), THREAD, how=how) == "draft l 1"
    assert (small.asked, large.asked) == (1, 1)


@BOTH
async def test_without_a_checkpointer_an_exhausted_step_raises(how):
    """Nothing could be resumed there, so nothing waits for a human; the step is on record as exhausted."""
    journal = TraceCapture()
    small, large, settings = ends_at_a_human(journal)
    with pytest.raises(CascadeExhausted):
        await run(graph_of(cascade_node(small, large, **settings)), HI, how=how)
    with pytest.raises(CascadeExhausted):
        CascadeChatModel(small=small, large=large, **settings).invoke("hi")
    assert [t.outcome for t in journal] == ["exhausted"] * 2


@BOTH
async def test_a_thread_continues_and_forks_with_its_records(how):
    """A second turn sees the first; an older checkpoint can be run again, with a record of its own."""
    graph = graph_of(cascade_node(model("one", "two", "two again"), model("x")), saver=InMemorySaver())
    await run(graph, HI, THREAD, how=how)
    await run(graph, {"messages": [HumanMessage("and?")]}, THREAD, how=how)
    history = list(graph.get_state_history(THREAD))
    assert [m.text for m in history[0].values["messages"]] == ["hi", "one", "and?", "two"]
    before_second = next(s for s in history if s.next == ("agent",) and len(s.values["messages"]) == 3)
    out = await run(graph, None, before_second.config, how=how)
    first, second = (record(m) for m in (history[0].values["messages"][-1], out["messages"][-1]))
    assert (out["messages"][-1].text, second["thread_id"]) == ("two again", "t")
    assert first["id"] != second["id"]


# ---- shapes of graphs -----------------------------------------------------------------------------------------------
@BOTH
async def test_two_nodes_in_parallel_share_one_cascade(how):
    """One node object under two names answers in both places; its steps carry the name of the place."""
    node = cascade_node(model("fine", loop=True), model("x"))
    builder = StateGraph(MessagesState).add_node("left", node).add_node("right", node)
    builder.add_edge(START, "left").add_edge(START, "right")
    out = await run(builder.compile(), HI, how=how)
    assert sorted(record(m)["step"] for m in out["messages"][1:]) == ["left", "right"]


@pytest.mark.skipif(
    tuple(int(part) for part in version("langgraph").split(".")[:3]) < KEEPS_TASKS_OF_SUBGRAPHS,
    reason="this LangGraph runs the saved tasks of a subgraph again on resume",
)
@BOTH
async def test_a_cascade_in_a_subgraph_streams_and_interrupts_through_its_parent(how):
    """Tokens come from the subgraph's namespace; an interrupt inside is resumed from outside; nobody is paid twice."""
    journal = TraceCapture()
    small, large, settings = ends_at_a_human(journal)
    graph = graph_of(graph_of(cascade_node(small, large, **settings)), saver=InMemorySaver())
    await run(graph, HI, THREAD, how=how)
    parts = await streamed(graph, Command(resume="accept"), THREAD, how=how, stream_mode="messages", subgraphs=True)
    assert "".join(m.text for _, (m, _) in parts) == "draft l 1"
    assert all(namespace and namespace[0].startswith("agent:") for namespace, _ in parts)
    assert (small.asked, large.asked, len(journal)) == (1, 1, 1)


@BOTH
async def test_the_prebuilt_agent_of_langgraph_takes_a_cascade_as_its_model(how):
    """`CascadeChatModel` is a chat model to `create_react_agent`, with tools and with structured output."""
    shipped, report = AIMessage("Order 7 was shipped."), call("City", name="Lyon", size=3, call_id="9")
    small = model(call("look_up", order="7"), shipped, report)
    cascade = CascadeChatModel(small=small, large=model(call(order="7"), shipped))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langgraph.prebuilt import create_react_agent

        agent = create_react_agent(cascade, [lookup], response_format=City)
    out = await run(agent, {"messages": "Where is order 7?"}, how=how)
    assert [m.type for m in out["messages"]] == ["human", "ai", "tool", "ai"]
    assert record(out["messages"][1])["reason"] == "schema_invalid"
    assert out["structured_response"] == City(name="Lyon", size=3)


def test_the_model_node_of_an_agent_can_be_swapped():
    """`create_agent(...).builder` is a graph like any other: its node `model` becomes a cascade node."""
    agent = create_agent(model("never"), [lookup])
    builder = swap_node(agent.builder, "model", cascade_node(model("draft"), model("fine"), validators=[no_draft]))
    assert builder.compile().invoke(HI)["messages"][-1].text == "fine"


# ---- hostile answers and savers -------------------------------------------------------------------------------------
def nested(depth):
    """A nest of lists."""
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = {
    "integer over 64 bits": call(order=2**70),
    "not a number": call(order=float("nan")),
    "infinite": call(order=float("inf")),
    "lone surrogate in an argument": call(order="\ud800"),
    "lone surrogate in a name": call(**{"\ud800": 1}),
    "NUL in an argument": call(order="a\0b"),
    "900 deep": call(order=nested(900)),
    "5 MB in an argument": call(order="x" * 5_000_000),
    "lone surrogate in the text": AIMessage("\udc00 order"),
    "NUL in the text": AIMessage("a\0b"),
    "5 MB of text": AIMessage("x " * 2_500_000),
    "lone surrogate in metadata": AIMessage("", additional_kwargs={"note": "\ud800"}),
}
SAVERS = [("chat_model", "memory", "async"), ("node", "sqlite", "sync"), ("middleware", "sqlite", "async")]
SAVERS += [("node", "postgres", "sync"), ("middleware", "postgres", "async")]
WHERE: Any = {"messages": "Where is order 7?"}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize(("adapter", "database", "how"), SAVERS)
async def test_a_hostile_draft_crashes_no_run_with_a_saver(what, adapter, database, how, saver_of, thread):
    """R19: what a checkpoint cannot hold is refused before it is stored; large answers, and the record is plain JSON."""
    small, large = (model(text, streams=False) for text in (HOSTILE[what], AIMessage("Order 7 was shipped.")))
    journal = TraceCapture()
    async with saver_of(database, how) as saver:
        graph = behind(adapter, small, large, tools=[lookup], journal=journal, saver=saver)
        out = await run(graph, WHERE, thread, how=how)
        assert out["messages"][1].text == "Order 7 was shipped."
        assert (await graph.aget_state(thread) if how == "async" else graph.get_state(thread)).values == out
    kept, entry = journal.traces[0], record(out["messages"][1])
    assert (kept.attempts[0].outcome, entry["final_tier"]) == ("rejected", "large")
    assert type(kept).from_json(kept.to_json()).to_json() == kept.to_json()
    for data in (kept.to_json(), entry):
        assert_plain_json(data)


@pytest.mark.parametrize("what", [what for what in HOSTILE if what != "5 MB of text"])
@pytest.mark.parametrize(("database", "how"), [("sqlite", "async"), ("postgres", "sync"), ("postgres", "async")])
async def test_a_hostile_draft_of_both_tiers_asks_a_human_who_can_answer(what, database, how, saver_of, thread):
    """R19 with an interrupt: question and record are storable although neither draft is."""
    small, large = (model(HOSTILE[what], streams=False) for _ in range(2))
    async with saver_of(database, how) as saver:
        policy = Policy(on_exhausted="interrupt")
        graph = behind("node", small, large, tools=[lookup], policy=policy, journal=TraceCapture(), saver=saver)
        out = await run(graph, WHERE, thread, how=how)
        assert out["__interrupt__"][0].value["draft"] is None
        out = await run(graph, Command(resume="mine"), thread, how=how)
        assert out["messages"][-1].text == "mine"


def test_the_default_set_is_what_protects_the_savers():
    """The test above means what it says: without validators the same answer does crash the saver."""
    graph = graph_of(cascade_node(model(call(order=2**70)), model("x"), validators=[]), saver=InMemorySaver())
    with pytest.raises(TypeError, match="not msgpack serializable"):
        graph.invoke(HI, THREAD)
