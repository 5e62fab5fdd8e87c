"""The middleware in real `create_agent` agents: tools, structured output, streams, neighbours, humans."""

import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ExtendedModelResponse,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError, ToolStrategy
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

import cascade_agent
from cascade_agent import CascadeExhausted, CascadeMiddleware, Policy
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from cascade_agent.validators import ToolCallSchema
from tests.builders import BOTH, call, lookup, no_draft, record, run, seeing

SENT: list[str] = []


@tool
def refund(order: str) -> str:
    """Refund an order."""
    SENT.append(order)
    return f"order {order} was refunded"


class Report(BaseModel):
    """The final report."""

    order: str
    days: int


def model(*replies, **settings):
    """A scripted model with usage; it streams where a real one would."""
    return ScriptedChatModel(list(replies), **{"usage": (10, 2), "streams": True, **settings})


THREAD: Any = {"configurable": {"thread_id": "t"}}


# ---- a step ---------------------------------------------------------------------------------------------------------
@BOTH
async def test_the_agents_model_is_tried_and_large_answers_what_needs_it(how):
    """A wrong call of the agent's own model is answered by `large`; the next step is small's again."""
    small = model(call("look_up", order="7"), "Order 7 was shipped.", name="small")
    large = model(call("lookup", order="7"), name="large")
    agent = create_agent(small, [lookup], middleware=[CascadeMiddleware(large)], system_prompt="Be brief.")
    usage = UsageMetadataCallbackHandler()
    out = await run(agent, {"messages": "Where is order 7?"}, {"callbacks": [usage]}, how=how)
    _, first, entry, last = out["messages"]
    assert first.tool_calls[0]["name"] == "lookup"
    assert isinstance(entry, ToolMessage)
    assert last.text == "Order 7 was shipped."
    assert (record(first)["outcome"], record(first)["reason"]) == ("escalated", "schema_invalid")
    assert (record(last)["outcome"], record(last)["final_tier"]) == ("accepted", "small")
    assert [m.text for m in large.calls[0]] == ["Be brief.", "Where is order 7?"]
    assert [t["function"]["name"] for t in large.offered[0]] == ["lookup"]
    assert {k: v["input_tokens"] for k, v in usage.usage_metadata.items()} == {"small": 20, "large": 10}
    assert record(first)["usage"]["calls"] == 2
    assert first.usage_metadata["input_tokens"] == 10


class OtherProvider(ScriptedChatModel):
    """A model of another provider."""

    @property
    def _llm_type(self) -> str:
        return "anthropic-chat"


class Marks(AgentMiddleware):
    """Sets cache marks as a provider's caching middleware does."""

    def wrap_model_call(self, request, handler):
        marked = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
        settings = {"cache_control": {"type": "ephemeral"}, "prompt_cache_key": "k", "top_p": 1}
        return handler(
            request.override(
                system_message=SystemMessage([marked]), messages=[HumanMessage([marked])], model_settings=settings
            )
        )


@pytest.mark.parametrize(("small_kind", "large_kind"), [(OtherProvider, ScriptedChatModel), (ScriptedChatModel,) * 2])
def test_cache_marks_of_one_provider_are_not_sent_to_another(small_kind, large_kind):
    """`cache_control` and `prompt_cache_key` reach the provider that they were set for, and no other one."""
    small, large = small_kind(["draft"], name="s"), large_kind(["fine"], name="l")
    create_agent(small, middleware=[Marks(), CascadeMiddleware(large, validators=[no_draft])]).invoke(
        {"messages": "hi"}
    )
    assert "cache_control" in repr(small.calls)
    assert "cache_control" in small.options[0]
    same = small_kind is large_kind
    assert ("cache_control" in repr(large.calls)) is same
    assert ("prompt_cache_key" in large.options[0]) is same
    assert large.options[0]["top_p"] == 1


def test_validators_see_request_state_tools_and_thread():
    """The context holds the system message, the tools, the state and the thread of the agent."""
    seen, look = seeing(
        lambda c: (c.messages[0].text, [t.name for t in c.tools], c.thread_id, c.step, c.state["messages"])
    )
    agent = create_agent(
        model("fine"),
        [lookup],
        system_prompt="Be brief.",
        middleware=[CascadeMiddleware(model("x"), validators=[look])],
        checkpointer=InMemorySaver(),
        name="desk",
    )
    agent.invoke({"messages": "hi"}, THREAD)
    ((*others, messages),) = seen
    assert others == ["Be brief.", ["lookup"], "t", "desk"]
    assert messages[0].text == "hi"


def test_tools_given_as_dicts_are_read_once():
    """A tool that the provider's own form describes is the same spec at every step, so it is compiled once."""
    seen = []
    raw = {"type": "function", "function": {"name": "raw", "description": "", "parameters": {"type": "object"}}}
    small = model(call("lookup", order="7"), "fine")
    look = CascadeMiddleware(model("x"), validators=[lambda draft, context: seen.append(context.tools)])
    create_agent(small, [lookup, raw], middleware=[look]).invoke({"messages": "hi"})
    assert len(seen) == 2
    assert seen[0] is seen[1]
    assert [spec.name for spec in seen[0]] == ["lookup", "raw"]


# ---- structured output ----------------------------------------------------------------------------------------------
GOOD, BAD = {"order": "7", "days": 3}, {"order": "7", "days": "soon"}


@BOTH
@pytest.mark.parametrize("handle_errors", [True, False])
async def test_a_structured_answer_that_does_not_parse_escalates(handle_errors, how):
    """A tool-strategy answer that the agent would refuse is a verdict, whether the agent tells it or raises it."""
    small = model(call("lookup", order="7"), call("Report", **BAD, call_id="c2"))
    large = model(call("Report", **GOOD, call_id="c3"))
    agent = create_agent(
        small,
        [lookup],
        response_format=ToolStrategy(Report, handle_errors=handle_errors),
        middleware=[CascadeMiddleware(large)],
    )
    out = await run(agent, {"messages": "How late is order 7, by 3 days?"}, how=how)
    assert out["structured_response"] == Report(order="7", days=3)
    first, last = (m for m in out["messages"] if isinstance(m, AIMessage))
    assert (record(first)["outcome"], record(first)["kind"]) == ("accepted", "one_call.one_tool")
    assert (record(last)["reason"], record(last)["kind"]) == ("schema_invalid", "loop.structured")
    assert "soon" not in repr(out)


NATIVE: Any = {"structured_output": True}
TWICE = AIMessage("", tool_calls=[{"name": "Report", "args": GOOD, "id": i} for i in ("a", "b")])
STRUCTURED = {
    "what its parser takes": (call("Report", order="7", days="3"), ToolStrategy(Report), "accepted"),
    "two at once": (TWICE, ToolStrategy(Report), "escalated"),
    "prose, which would end the run without one": ("It is late.", ToolStrategy(Report), "escalated"),
    "native JSON": ('{"order": "7", "days": 3}', ProviderStrategy(Report), "accepted"),
    "native JSON of another type, mended by a call": ('{"order": "7", "days": "soon"}', Report, "escalated"),
}


@BOTH
@pytest.mark.parametrize(("spoken", "wanted", "outcome"), STRUCTURED.values(), ids=STRUCTURED)
async def test_structured_answers_are_judged_as_the_agent_reads_them(spoken, wanted, outcome, how):
    """An answer that parses is accepted as such; one that does not is a verdict, and large answers in its own way."""
    small = model(spoken, profile=NATIVE if str(spoken).startswith("{") else None)
    large = model(call("Report", **GOOD))
    agent = create_agent(small, [lookup], response_format=wanted, middleware=[CascadeMiddleware(large)])
    out = await run(agent, {"messages": "How late is order 7, by 3 days?"}, how=how)
    assert out["structured_response"] == Report(order="7", days=3)
    entry = record(out["messages"][1])
    assert (entry["outcome"], entry["reason"]) == (outcome, "accepted" if outcome == "accepted" else "schema_invalid")
    assert "soon" not in repr(entry)


def test_without_the_validator_an_unparsed_answer_raises_as_without_a_cascade():
    """Whoever leaves `StructuredOutput` out gets LangChain's own error."""
    agent = create_agent(
        model("{}", profile=NATIVE),
        response_format=ProviderStrategy(Report),
        middleware=[CascadeMiddleware(model("x"), validators=[ToolCallSchema()])],
    )
    with pytest.raises(StructuredOutputValidationError):
        agent.invoke({"messages": "report"})


# ---- neighbours -----------------------------------------------------------------------------------------------------
@BOTH
async def test_retries_inside_a_tier_are_that_tiers_own(how):
    """`ModelRetryMiddleware` listed after the cascade retries the small model before anything escalates."""
    small, large = model(ConnectionError("once"), "fine"), model("never")
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False, on_failure="error")
    out = await run(create_agent(small, middleware=[CascadeMiddleware(large), retry]), {"messages": "hi"}, how=how)
    assert out["messages"][-1].text == "fine"
    assert record(out["messages"][-1])["outcome"] == "accepted"


@BOTH
async def test_a_fallback_or_limit_around_the_cascade_sees_steps(how):
    """A fallback sees one error of the step; a call limit counts steps, not the calls of tiers."""
    small, large, third = model(OSError("down")), model(OSError("down"), loop=True), model("third")
    agent = create_agent(small, middleware=[ModelFallbackMiddleware(third), CascadeMiddleware(large)])
    assert (await run(agent, {"messages": "hi"}, how=how))["messages"][-1].text == "third"
    small = model(call("look_up", order="7"), "draft")
    large = model(call("lookup", order="7"), "done")
    limit = ModelCallLimitMiddleware(run_limit=2, exit_behavior="error")
    agent = create_agent(
        small, [lookup], middleware=[limit, CascadeMiddleware(large, validators=[ToolCallSchema(), no_draft])]
    )
    assert (await run(agent, {"messages": "Where is order 7?"}, how=how))["messages"][-1].text == "done"


@BOTH
async def test_a_human_approves_the_call_that_was_accepted(how):
    """`HumanInTheLoopMiddleware` shows the accepted call, and no tier is asked again when it is approved."""
    SENT.clear()
    small, large = model(call("refnd", order="7"), "done"), model(call("refund", order="7"))
    agent = create_agent(
        small,
        [refund],
        middleware=[CascadeMiddleware(large), HumanInTheLoopMiddleware({"refund": True})],
        checkpointer=InMemorySaver(),
    )
    out = await run(agent, {"messages": "Refund order 7"}, THREAD, how=how)
    assert out["__interrupt__"][0].value["action_requests"][0]["name"] == "refund"
    assert SENT == []
    out = await run(agent, Command(resume={"decisions": [{"type": "approve"}]}), THREAD, how=how)
    assert SENT == ["7"]
    assert (small.asked, large.asked) == (2, 1)


@BOTH
async def test_summaries_are_made_next_to_the_cascade(how):
    """`SummarizationMiddleware` shortens what the tiers are asked with; its own model call is not part of the step."""
    small, summary = model("fine"), model("a summary")
    agent = create_agent(
        small,
        middleware=[
            SummarizationMiddleware(summary, trigger=("messages", 4), keep=("messages", 2)),
            CascadeMiddleware(model("x")),
        ],
    )
    past = [HumanMessage("one"), AIMessage("two"), HumanMessage("three"), AIMessage("four"), HumanMessage("five")]
    out = await run(agent, {"messages": past}, how=how)
    assert out["messages"][-1].text == "fine"
    assert "a summary" in small.calls[0][0].text
    assert len(small.calls[0]) == 3


class Noting(AgentMiddleware):
    """Writes a command next to each response, as inner middleware may."""

    def wrap_model_call(self, request, handler):
        response = handler(request)
        spoken = response.result[-1].text
        return ExtendedModelResponse(response, Command(update={"messages": [HumanMessage(f"noted {spoken}")]}))


def test_a_rejected_draft_leaves_no_command_of_inner_middleware_behind():
    """Only the accepted tier's command reaches the state."""
    agent = create_agent(model("draft"), middleware=[CascadeMiddleware(model("fine"), validators=[no_draft]), Noting()])
    assert [m.text for m in agent.invoke({"messages": "hi"})["messages"]] == ["hi", "fine", "noted fine"]


@BOTH
async def test_two_cascades_of_different_names_nest(how):
    """The outer one's tiers are asked through the inner one; without names LangChain refuses the pair."""
    small, middle, large = model("draft one"), model("draft two", loop=True), model("fine")
    agent = create_agent(
        small,
        middleware=[
            CascadeMiddleware(large, name="outer", validators=[no_draft]),
            CascadeMiddleware(middle, name="inner", validators=[no_draft], policy=Policy(on_exhausted="return")),
        ],
    )
    out = await run(agent, {"messages": "hi"}, how=how)
    assert (out["messages"][-1].text, record(out["messages"][-1])["step"]) == ("fine", "outer")
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(small, middleware=[CascadeMiddleware(large), CascadeMiddleware(large)])


# ---- ends -----------------------------------------------------------------------------------------------------------
@BOTH
async def test_what_no_tier_can_answer_ends_as_the_policy_says(how):
    """`return` gives the large draft marked degraded, `raise` raises; only `pass` gives large's hard fails."""

    def agent(on_exhausted, *replies):
        cascade = CascadeMiddleware(
            model(*replies), validators=[no_draft, ToolCallSchema()], policy=Policy(on_exhausted=on_exhausted)
        )
        return create_agent(model(*replies), [lookup], middleware=[cascade])

    out = await run(agent("return", "draft"), {"messages": "hi"}, how=how)
    assert record(out["messages"][-1])["degraded"]
    for on_exhausted, reply in (("raise", "draft"), ("return", call("nope"))):
        with pytest.raises(CascadeExhausted) as caught:
            await run(agent(on_exhausted, reply), {"messages": "hi"}, how=how)
        assert len(caught.value.errors) == 2
    out = await run(agent("pass", call("nope"), "done"), {"messages": "hi"}, how=how)
    assert [m.type for m in out["messages"][:3]] == ["human", "ai", "tool"]
    assert record(out["messages"][1])["degraded"]


@BOTH
async def test_control_flow_of_the_host_passes_through(how):
    """An `interrupt()` inside a tier's call is no model error: it stops the graph, and nothing escalates."""
    journal = TraceCapture()

    class Ask(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(messages=[HumanMessage(interrupt("what now?"))]))

        async def awrap_model_call(self, request, handler):
            return await handler(request.override(messages=[HumanMessage(interrupt("what now?"))]))

    small, large = model("fine"), model("never")
    cascade = CascadeMiddleware(large, journal=journal)
    agent = create_agent(small, middleware=[cascade, Ask()], checkpointer=InMemorySaver())
    assert (await run(agent, {"messages": "hi"}, THREAD, how=how))["__interrupt__"][0].value == "what now?"
    assert (small.asked, large.asked) == (0, 0)
    out = await run(agent, Command(resume="this"), THREAD, how=how)
    assert (out["messages"][-1].text, small.calls[0][0].text) == ("fine", "this")
    assert [t.outcome for t in journal] == ["interrupted", "accepted"]


def test_without_langchain_the_import_names_the_extra(monkeypatch):
    """Where langchain is missing, the name says how to get it, and the rest of the package works."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "langchain"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "cascade_agent.adapters.middleware")
    monkeypatch.delitem(vars(cascade_agent), "CascadeMiddleware", raising=False)
    with pytest.raises(ConfigurationError, match=r"langgraph-cascade\[langchain\]"):
        _ = cascade_agent.CascadeMiddleware
    assert cascade_agent.cascade_node(model("x"), model("y")).invoke([HumanMessage("hi")])[0].text == "x"
