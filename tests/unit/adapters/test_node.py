"""The node adapter: `cascade_node`, `cascade_step` and `swap_node` in real LangGraph graphs."""

import inspect
import pickle
import typing
from dataclasses import dataclass, field
from operator import add
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, RetryPolicy, StreamWriter, TimeoutPolicy
from pydantic import BaseModel

from cascade_agent import CascadeChatModel, cascade_node, cascade_step, swap_node
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel
from tests.builders import BOTH, ask, graph_of, lookup, no_draft, seeing, streamed


def pair(small="draft", large="final", *, loop=True):
    """A small model whose answers are refused and a large one whose answers are taken."""
    return ScriptedChatModel(small, name="s", loop=loop), ScriptedChatModel(large, name="l", loop=loop)


class PydanticState(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages]
    notes: list[str] = []


@dataclass
class DataclassState:
    messages: Annotated[list[AnyMessage], add_messages]
    notes: list[str] = field(default_factory=list)


class NotesState(MessagesState):
    notes: list[str]


# ---- without a body -------------------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("schema", [MessagesState, PydanticState, DataclassState])
async def test_the_answer_is_appended_to_the_messages_of_any_state(schema, how):
    """Without a body the node asks on `messages` of a dict, pydantic or dataclass state and returns the answer."""
    small, large = pair()
    graph = graph_of(cascade_node(small, large, validators=[no_draft]), schema)
    out = await ask(graph, {"messages": [HumanMessage("hi")]}, how=how)
    assert [m.text for m in out["messages"]] == ["hi", "final"]
    assert out["messages"][-1].response_metadata["cascade"]["step"] == "agent"
    assert (small.asked, large.asked) == (1, 1)


@BOTH
async def test_a_state_that_is_a_list_of_messages_is_answered_with_one(how):
    """A graph whose whole state is the message list gets a list back."""
    graph = graph_of(cascade_node(*pair("fine"), validators=[no_draft]), Annotated[list[AnyMessage], add_messages])
    out = await ask(graph, [HumanMessage("hi")], how=how)
    assert [m.text for m in out] == ["hi", "fine"]


@pytest.mark.parametrize(
    ("prompt", "head"),
    [
        ("Be brief.", ["Be brief."]),
        (SystemMessage("Be brief."), ["Be brief."]),
        (lambda state: f"{len(state['messages'])} so far", ["1 so far"]),
        (lambda state: [SystemMessage("a"), HumanMessage("b")], ["a", "b"]),
        (None, []),
    ],
)
@BOTH
async def test_the_prompt_stands_before_the_messages_for_both_tiers(prompt, head, how):
    """A text, a system message, or a function of the state is put first, and is not written to the state."""
    small, large = pair()
    graph = graph_of(cascade_node(small, large, prompt=prompt, validators=[no_draft]))
    out = await ask(graph, {"messages": [HumanMessage("hi")]}, how=how)
    assert [[m.text for m in call] for call in (small.calls[0], large.calls[0])] == [[*head, "hi"]] * 2
    assert len(out["messages"]) == 2


def test_tools_are_bound_once_and_offered_to_both_tiers():
    """Both tiers are offered the node's tools, and a call that fits them is accepted."""
    call = AIMessage("", tool_calls=[{"name": "lookup", "args": {"order": "7"}, "id": "1"}])
    wrong = AIMessage("", tool_calls=[{"name": "look_up", "args": {"order": "7"}, "id": "1"}])
    small, large = pair(wrong, call)
    out = graph_of(cascade_node(small, large, tools=[lookup])).invoke({"messages": "where is order 7?"})
    assert out["messages"][-1].tool_calls[0]["name"] == "lookup"
    assert out["messages"][-1].response_metadata["cascade"]["reason"] == "schema_invalid"
    assert [m.offered[0][0]["function"]["name"] for m in (small, large)] == ["lookup", "lookup"]


def test_a_node_without_a_body_needs_messages():
    """It says so, refuses a prompt next to a body, and gives the cascade that it made as `model`."""

    class Bare(TypedDict):
        question: str

    with pytest.raises(ConfigurationError, match="give a `step`"):
        graph_of(cascade_node(*pair()), Bare).invoke({"question": "?"})
    with pytest.raises(ConfigurationError, match="not both"):
        cascade_node(*pair(), prompt="x", step=lambda state, model: {})
    node = cascade_node(*pair(), name="planner")
    assert isinstance(node.model, CascadeChatModel)
    assert node.get_name() == node.model.name == "planner"


# ---- with a body ----------------------------------------------------------------------------------------------------
@BOTH
async def test_a_body_runs_once_however_often_its_steps_escalate(how):
    """Side effects of the body are single; every model call in it is a step of its own."""
    effects = []

    def body(state, model):
        effects.append("before")
        first = model.invoke(state["messages"])
        second = model.invoke([*state["messages"], first])
        effects.append("after")
        return {"messages": [first, second]}

    small, large = pair()
    out = await ask(graph_of(cascade_node(small, large, step=body, validators=[no_draft])), {"messages": "hi"}, how=how)
    assert effects == ["before", "after"]
    assert (small.asked, large.asked) == (2, 2)
    ids = {m.response_metadata["cascade"]["id"] for m in out["messages"][1:]}
    assert len(ids) == 2


async def test_an_async_body():
    """Runs under `ainvoke`; a graph that runs synchronously cannot await, and the error says what to call."""

    async def body(state, model):
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = graph_of(cascade_node(*pair("fine"), step=body, validators=[no_draft]))
    assert (await graph.ainvoke({"messages": "hi"}))["messages"][-1].text == "fine"

    async def body(state, model):
        return {}

    with pytest.raises(ConfigurationError, match="ainvoke"):
        graph_of(cascade_node(*pair(), step=body)).invoke({"messages": "hi"})


@BOTH
@pytest.mark.parametrize("schema", [NotesState, PydanticState, DataclassState])
async def test_what_a_body_changes_in_place_stays_in_the_body(schema, how):
    """The body gets a copy: a list it appends to without returning it is unchanged in the channel."""

    def body(state, model):
        notes = state["notes"] if isinstance(state, dict) else state.notes
        notes.append("scribble")
        (state["messages"] if isinstance(state, dict) else state.messages).clear()
        return {}

    graph = graph_of(cascade_node(*pair(), step=body), schema)
    notes = ["kept"]
    out = await ask(graph, {"messages": [HumanMessage("hi")], "notes": notes}, how=how)
    assert out["notes"] == ["kept"] == notes
    assert [m.text for m in out["messages"]] == ["hi"]


@BOTH
async def test_validators_see_the_state_of_the_graph(how):
    """`context.state` is what the node got, for the node without a body and for the one with one."""
    seen, look = seeing(lambda context: context.state["notes"])

    def body(state, model):
        return {"messages": [model.invoke(state["messages"])]}

    for step in (None, body):
        graph = graph_of(cascade_node(*pair("fine"), step=step, validators=[look]), NotesState)
        await ask(graph, {"messages": "hi", "notes": ["plan"]}, how=how)
    assert seen == [["plan"], ["plan"]]


@BOTH
async def test_a_body_takes_what_langgraph_injects(how):
    """`config`, `runtime`, `store` and `writer` come by name."""
    got: dict[str, Any] = {}

    def body(state, model, *, config, runtime, store, writer):
        got.update(config=config, runtime=runtime, store=store)
        writer({"progress": 1})
        return {}

    builder = StateGraph(MessagesState, context_schema=dict)
    builder.add_node("agent", cascade_node(*pair(), step=body))
    builder.add_edge(START, "agent")
    store = InMemoryStore()
    graph = builder.compile(store=store)
    config = {"configurable": {"user": "ada"}}
    written = await streamed(graph, {"messages": "hi"}, config, how=how, context={"k": 1}, stream_mode="custom")
    assert written == [{"progress": 1}]
    assert got["config"]["configurable"]["user"] == "ada"
    assert got["runtime"].context == {"k": 1}
    assert got["store"] is store


def test_a_body_runs_outside_a_graph():
    """`node.invoke(state)` works in a unit test; what only a graph has is empty there."""

    def body(state, model, *, store, writer):
        writer("nobody listens")
        return {"store": store, "text": model.invoke(state).text}

    assert cascade_node(*pair("fine"), step=body, validators=[]).invoke([HumanMessage("hi")]) == {
        "store": None,
        "text": "fine",
    }


@BOTH
async def test_a_body_may_return_a_command(how):
    """`Command(goto=..., update=...)` of a body steers the graph."""

    def body(state, model):
        return Command(goto="other", update={"messages": [model.invoke(state["messages"])]})

    builder = StateGraph(MessagesState)
    builder.add_node("agent", cascade_node(*pair(), step=body, validators=[no_draft]), destinations=("other",))
    builder.add_node("other", lambda state: {"messages": [AIMessage("other was here")]})
    builder.add_edge(START, "agent")
    out = await ask(builder.compile(), {"messages": "hi"}, how=how)
    assert [m.text for m in out["messages"]] == ["hi", "final", "other was here"]


# ---- the decorator --------------------------------------------------------------------------------------------------
SMALL, LARGE = pair()


class Question(TypedDict):
    question: str


class Whole(Question):
    answer: str
    notes: Annotated[list[str], add]


@cascade_step(small=SMALL, large=LARGE, validators=[no_draft])
def answer(
    state: Question, config: RunnableConfig, *, model: Any, store: BaseStore, writer: StreamWriter
) -> dict[str, Any]:
    """Answer the question."""
    writer(sorted(state))
    return {"answer": model.invoke(state["question"]).text, "notes": [config["configurable"]["user"], str(store)]}


@cascade_step(small=SMALL, large=LARGE, tools=[lookup], validators=[no_draft], name="planner")
async def aanswer(state: Question, runtime: Runtime, *, model: Any) -> Command[Literal["__end__"]]:
    """Answer the question, later."""
    answered = await model.ainvoke(state["question"])
    return Command(goto=END, update={"answer": answered.text, "notes": [answered.response_metadata["cascade"]["step"]]})


def test_a_decorated_function_keeps_its_identity():
    """Name, qualified name, module, doc, signature and type hints stay, and pickle finds it by them."""
    assert (answer.__name__, answer.__qualname__, answer.__doc__) == ("answer", "answer", "Answer the question.")
    assert inspect.iscoroutinefunction(aanswer)
    assert not inspect.iscoroutinefunction(answer)
    assert list(inspect.signature(answer).parameters) == ["state", "config", "model", "store", "writer"]
    assert typing.get_type_hints(answer)["state"] is Question
    if answer.__module__ in __import__("sys").modules:
        assert pickle.loads(pickle.dumps(answer)) is answer


def test_langgraph_injects_into_a_decorated_function_and_infers_its_input():
    """The node is named after the function, gets only its own part of the state, and what it asks for by name."""
    builder = StateGraph(Whole)
    builder.add_node(answer)
    builder.add_edge(START, "answer")
    store = InMemoryStore()
    chunks = list(
        builder.compile(store=store).stream(
            {"question": "?", "notes": ["n"]}, {"configurable": {"user": "ada"}}, stream_mode=["custom", "values"]
        )
    )
    assert ("custom", ["question"]) in chunks
    assert chunks[-1][1] == {"question": "?", "answer": "final", "notes": ["n", "ada", str(store)]}


async def test_an_async_decorated_function_is_awaited_and_names_its_steps():
    """`async def` works, `Command` destinations are inferred, `name` names the steps in the record."""
    builder = StateGraph(Whole)
    builder.add_node(aanswer)
    builder.add_edge(START, "aanswer")
    out = await builder.compile().ainvoke({"question": "?", "notes": []})
    assert out == {"question": "?", "answer": "final", "notes": ["planner"]}
    assert builder.nodes["aanswer"].ends == ("__end__",)


def test_a_decorated_function_gets_the_callers_model_and_a_copy():
    """Called directly it takes the `model` given; what it changes in its state stays inside."""
    mine = ScriptedChatModel(["mine"])
    config = {"configurable": {"user": "u"}}
    given: dict[str, Any] = {"config": config, "store": None, "writer": lambda x: None}
    before = SMALL.asked
    assert answer({"question": "?"}, model=mine, **given)["answer"] == "mine"
    assert SMALL.asked == before
    assert answer(state={"question": "?"}, **given)["answer"] == "final"
    assert SMALL.asked == before + 1

    @cascade_step(small=SMALL, large=LARGE)
    def scribble(state, *, model):
        state["notes"].append("x")
        return {}

    state = {"notes": []}
    scribble(state)
    assert state == {"notes": []}
    assert isinstance(scribble.cascade, CascadeChatModel)


def test_a_function_without_a_model_is_refused_when_it_is_decorated():
    """With the signature to write."""
    with pytest.raises(ConfigurationError, match=r"def lonely\(state, \*, model\)"):

        @cascade_step(small=SMALL, large=LARGE)
        def lonely(state):
            return {}


# ---- swapping -------------------------------------------------------------------------------------------------------
def old_graph():
    """A graph whose first node has every setting there is."""
    builder = StateGraph(MessagesState)
    builder.add_node(
        "agent",
        lambda state: {"messages": [AIMessage("old")]},
        metadata={"team": "blue"},
        retry_policy=RetryPolicy(max_attempts=2, retry_on=OSError),
        cache_policy=CachePolicy(ttl=60),
        destinations=("after", END),
        defer=True,
        error_handler=lambda state: {"messages": [AIMessage("handled")]},
    )
    builder.add_node("after", lambda state: {"messages": [AIMessage("after")]})
    builder.add_edge(START, "agent")
    builder.add_edge("agent", "after")
    return builder


def test_a_swap_keeps_all_that_was_set_for_the_node():
    """Metadata, retry and cache policy, defer, destinations and error handler are those of the old node."""
    builder = old_graph()
    before = builder.nodes["agent"]
    assert swap_node(builder, "agent", cascade_node(*pair())) is builder
    after = builder.nodes["agent"]
    assert after.runnable is not before.runnable
    for name in ("metadata", "retry_policy", "cache_policy", "defer", "ends", "error_handler_node", "input_schema"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.retry_policy is not None
    assert after.error_handler_node is not None


def test_a_swap_keeps_tags_and_takes_a_decorated_function():
    """Tags given to the old node by `with_config` are seen by callbacks of the new one."""
    from langchain_core.runnables import RunnableLambda

    builder = StateGraph(Whole)
    builder.add_node("agent", RunnableLambda(lambda state: {}).with_config(tags=["vip"]))
    builder.add_edge(START, "agent")
    swap_node(builder, "agent", answer)
    graph = builder.compile(store=InMemoryStore())
    assert graph.invoke({"question": "?", "notes": []}, {"configurable": {"user": "u"}})["answer"] == "final"
    assert builder.nodes["agent"].runnable.config["tags"] == ["vip"]


async def test_a_swap_keeps_the_timeout():
    """A node with a timeout takes a cascade, and refuses a node that cannot be cancelled, as LangGraph does."""

    async def old(state):
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", old, timeout=TimeoutPolicy(run_timeout=30))
    builder.add_edge(START, "agent")
    swap_node(builder, "agent", cascade_node(*pair("fine")))
    assert builder.nodes["agent"].timeout.run_timeout == 30
    assert (await builder.compile().ainvoke({"messages": "hi"}))["messages"][-1].text == "fine"
    swap_node(builder, "agent", lambda state: {})
    with pytest.raises(ValueError, match="imeout"):
        builder.compile()


def test_what_cannot_be_swapped():
    """An unknown node is refused with the names that there are, a compiled graph with `.builder`."""
    with pytest.raises(ConfigurationError, match="no node 'agnet'; its nodes are 'agent'"):
        swap_node(old_graph(), "agnet", cascade_node(*pair()))
    graph = graph_of(cascade_node(*pair()))
    with pytest.raises(ConfigurationError, match=r"\.builder"):
        swap_node(graph, "agent", cascade_node(*pair()))
    with pytest.raises(ConfigurationError, match="got dict"):
        swap_node({}, "agent", cascade_node(*pair()))


def test_a_body_takes_the_model_by_place_or_by_name() -> None:
    """`step(state, model)`, `step(state, *, model)` and `step(state, anything)` all work; a body without one is refused."""

    def by_place(state: Any, model: Any) -> Any:
        return {"messages": [model.invoke("x")]}

    def by_name(state: Any, *, model: Any) -> Any:
        return {"messages": [model.invoke("x")]}

    def otherwise(state: Any, llm: Any) -> Any:
        return {"messages": [llm.invoke("x")]}

    for body in (by_place, by_name, otherwise):
        node = cascade_node(ScriptedChatModel(["hello"]), ScriptedChatModel(["-"]), step=body)
        assert node.invoke({"messages": []})["messages"][0].content == "hello"
    with pytest.raises(ConfigurationError, match="takes no model"):
        cascade_node(ScriptedChatModel(["hello"]), ScriptedChatModel(["-"]), step=lambda state: state)
