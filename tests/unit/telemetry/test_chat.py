"""The span of a model call: what it says of request and answer, and what it keeps to itself."""

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.errors import GraphInterrupt
from opentelemetry import trace as otel_trace
from opentelemetry.trace import SpanKind, StatusCode

from cascade_agent import Policy, Verdict
from cascade_agent.telemetry import configure, invoke_workflow
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry.chat_spans import response_id
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import CrossCheck, Judge
from tests.builders import pair, refuses_small

CONTENT = ("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions")


SAID = AIMessage(
    "It is on its way.",
    id="chatcmpl-1",
    tool_calls=[{"name": "find", "args": {"order": "Q4711"}, "id": "c1"}],
    response_metadata={"model_name": "small-2026", "finish_reason": "tool_calls"},
    usage_metadata={
        "input_tokens": 20,
        "output_tokens": 7,
        "total_tokens": 27,
        "input_token_details": {"cache_read": 12, "cache_creation": 3},
    },
)


class Hosted(ScriptedChatModel):
    """A model with the settings that a provider's class has."""

    base_url: str = "https://models.example:8443/v1"
    temperature: float | None = 0.2
    max_tokens: int | None = 50

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop, **kwargs), "ls_provider": "google_genai"}


def test_what_it_says(spans):
    """Request, host, answer and tokens under the names of the conventions."""
    model = Hosted(SAID, name="small").bind(top_p=0.9)
    pair(model, "x", validators=[]).invoke("hi", {"configurable": {"thread_id": "t1"}})
    (chat,) = spans.named("chat")
    assert (chat.name, chat.kind, chat.status.status_code) == ("chat small", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "small",
        "gen_ai.conversation.id": "t1",
        "server.address": "models.example",
        "server.port": 8443,
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "small-2026",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 12,
        "gen_ai.usage.cache_creation.input_tokens": 3,
    }
    assert faults.lost == 0


def test_verdicts_name_the_answer_they_are_about(spans):
    """`gen_ai.response.id` of an evaluation is the provider's id of the answer; an id that LangChain made up is none."""
    judged = pair(SAID, "x", validators=[lambda _d, _c: Verdict(outcome="pass")])
    judged.invoke("hi")
    (attempt,) = spans.named("cascade.attempt small")
    assert [event.attributes["gen_ai.response.id"] for event in attempt.events] == ["chatcmpl-1"]
    assert response_id(AIMessage("x", id="lc_run--1")) is None
    assert response_id(AIMessage("x", id="run-1-0")) is None
    assert response_id(AIMessage("x")) is None
    assert response_id(AIMessage("x", id="lc_run--1", response_metadata={"id": "msg_1"})) == "msg_1"


HISTORY = [
    SystemMessage("be kind"),
    HumanMessage([{"type": "text", "text": "where is it?"}, {"type": "image", "url": "data:secret"}]),
    AIMessage("", tool_calls=[{"name": "find", "args": {"order": "Q4711"}, "id": "c0"}]),
    ToolMessage("shipped", tool_call_id="c0"),
]


def test_no_content_and_explanations(spans):
    """No message, argument or result is on any span by default, and the redact hook sees what verdicts say."""
    pair(SAID, "x", validators=[]).invoke(HISTORY)
    text = spans.text
    assert not any(word in text for word in ("be kind", "where is it", "Q4711", "shipped", "on its way"))
    configure(redact=lambda text: text.replace("Q4711", "#"))
    reply = Verdict(outcome="pass", code="fine", reason="order Q4711 is known")
    pair("a", "x", validators=[lambda _d, _c: reply]).invoke("hi")
    assert "Q4711" not in spans.text


def test_content_when_it_is_asked_for(spans):
    """Messages as the conventions write them, each text redacted; of an image its kind alone."""
    configure(content=True, redact=lambda text: text.replace("Q4711", "#"))
    pair(SAID, "x", validators=[]).invoke(HISTORY)
    (chat,) = spans.named("chat")
    queried, reply, system = (json.loads(chat.attributes[name]) for name in CONTENT)
    assert system == [{"type": "text", "content": "be kind"}]
    assert queried == [
        {"role": "user", "parts": [{"type": "text", "content": "where is it?"}, {"type": "image"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c0", "name": "find", "arguments": '{"order": "#"}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c0", "response": "shipped"}]},
    ]
    assert reply == [
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "It is on its way."},
                {"type": "tool_call", "id": "c1", "name": "find", "arguments": '{"order": "#"}'},
            ],
            "finish_reason": "tool_calls",
        }
    ]
    assert "on its way" not in str([span.to_json() for span in spans.named("cascade")])


async def test_how_it_ends_when_the_model_raises(spans):
    """A call that raised is an error by its class alone, in sync and async."""
    model = pair(ScriptedChatModel(ValueError("secret"), loop=True), ScriptedChatModel("x", loop=True), validators=[])
    model.invoke("hi")
    await model.ainvoke("hi")
    first, _, second, _ = spans.named("chat")
    for chat in (first, second):
        assert (chat.status.status_code, chat.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert "secret" not in spans.text


@pytest.mark.parametrize("wanted", [True, False])
def test_they_can_be_forced_and_forbidden(spans, wanted):
    """`llm_spans` True and False hold whoever else listens."""
    configure(llm_spans=wanted)
    pair("a", "b", validators=[refuses_small]).invoke("hi")
    assert len(spans.named("chat")) == (2 if wanted else 0)


def test_evidence_has_model_spans_too(spans):
    """The model that a judge calls is exported with its tokens, under the evaluator; its errors are its own."""
    judge = Judge(Structured(ValueError("no")), rubric="right")
    check = CrossCheck(ScriptedChatModel("a", name="x", usage=(3, 1)))
    pair("a", "b", validators=[check, judge], policy=Policy(evidence=(0.0, 1.0))).invoke("hi")
    (chat,), (checked,) = spans.named("chat x"), spans.named("cascade.validate CrossCheck")
    assert (chat.parent.span_id, chat.attributes["gen_ai.usage.input_tokens"]) == (checked.context.span_id, 3)
    (broken,) = spans.named("cascade.validate Judge")
    assert (broken.status.status_code, broken.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")


class Structured(ScriptedChatModel):
    """A model that can be asked for structured output."""

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Any:
        return self


# ---- the root -------------------------------------------------------------------------------------------------------
def test_roots(spans):
    """An exception of the body is an error of the run, a host's interrupt is none; inside a span is no second root."""
    with pytest.raises(KeyError), invoke_workflow("desk"):
        raise KeyError("secret")
    with pytest.raises(GraphInterrupt), invoke_workflow("desk"):
        raise GraphInterrupt(())
    failed, interrupted = spans.all
    assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert (interrupted.status.status_code, "error.type" in interrupted.attributes) == (StatusCode.UNSET, False)
    assert "secret" not in failed.to_json()
    assert otel_trace.get_current_span() is otel_trace.INVALID_SPAN
    with invoke_workflow("outer") as outer, invoke_workflow("inner") as inner:
        assert inner is outer
    configure(otel_spans=False)
    with invoke_workflow("off") as none:
        assert none is otel_trace.INVALID_SPAN
    assert [span.name for span in spans.all][2:] == ["invoke_workflow outer"]
