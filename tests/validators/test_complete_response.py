"""Tests of CompleteResponse on answers as the providers' LangChain packages shape them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from cascade_agent.errors import ConfigurationError
from cascade_agent.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators.complete_response import CompleteResponse

CALL = {"name": "get_weather", "args": {"city": "Oslo"}, "id": "c1"}
BAD_CALL = {"name": "get_weather", "args": '{"city": ', "id": "c1", "error": "cut", "type": "invalid_tool_call"}
TOOLS = (ToolSpec("get_weather"), ToolSpec("get_time"))


def judge(message: AIMessage, *, parsed: object = None, **context: Any) -> Verdict | None:
    """Judge one answer."""
    return CompleteResponse()(Draft(message=message, parsed=parsed), StepContext(**{"tools": TOOLS, **context}))


def said(content: Any = "Half an ans", /, **meta: Any) -> AIMessage:
    """An answer with response metadata."""
    return AIMessage(content, response_metadata=meta)


BROKEN = {
    # nothing there
    "empty": (AIMessage(""), "empty_answer"),
    "white space": (AIMessage(" \n\t "), "empty_answer"),
    "invisible characters": (AIMessage("\u200b\ufeff \u200b"), "empty_answer"),
    "no blocks": (AIMessage([]), "empty_answer"),
    "empty text block": (AIMessage([{"type": "text", "text": "  "}]), "empty_answer"),
    "thinking only (Anthropic)": (
        AIMessage([{"type": "thinking", "thinking": "Hm", "signature": "x"}]),
        "empty_answer",
    ),
    "reasoning only (OpenAI Responses)": (
        AIMessage([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "id": "rs_1"}]),
        "empty_answer",
    ),
    "reasoning_content only (Ollama, DeepSeek)": (
        AIMessage("", additional_kwargs={"reasoning_content": "Hm"}),
        "empty_answer",
    ),
    "inline thinking only": (AIMessage("<think>\nHm\n</think>\n\n"), "empty_answer"),
    "inline thinking that never ends": (AIMessage("<think>\nHm"), "empty_answer"),
    "empty after a stop": (said("", finish_reason="stop"), "empty_answer"),
    # cut off
    "length (OpenAI)": (said(finish_reason="length"), "truncated"),
    "max_tokens (Anthropic)": (said(stop_reason="max_tokens"), "truncated"),
    "context window (Anthropic)": (said(stop_reason="model_context_window_exceeded"), "truncated"),
    "MAX_TOKENS (Gemini)": (said(finish_reason="MAX_TOKENS"), "truncated"),
    "enum name (Gemini)": (said(finish_reason="FinishReason.MAX_TOKENS"), "truncated"),
    "length (Ollama)": (said(done_reason="length"), "truncated"),
    "max_tokens (Bedrock)": (said(stopReason="max_tokens"), "truncated"),
    "model_length (Mistral)": (said(finish_reason="model_length"), "truncated"),
    "incomplete (OpenAI Responses)": (
        said(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        "truncated",
    ),
    "a call that was cut": (
        AIMessage("", tool_calls=[CALL], response_metadata={"finish_reason": "length"}),
        "truncated",
    ),
    "empty because it was cut": (said("", finish_reason="length"), "truncated"),
    # refused through the refusal channel
    "content_filter (Azure)": (said("", finish_reason="content_filter"), "refused"),
    "content-filter": (said("", finish_reason="content-filter"), "refused"),
    "filter (OpenAI Responses)": (
        said("", status="incomplete", incomplete_details={"reason": "content_filter"}),
        "refused",
    ),
    "refusal (Anthropic)": (said([], stop_reason="refusal"), "refused"),
    "SAFETY (Gemini)": (said("", finish_reason="SAFETY"), "refused"),
    "blocked prompt (Gemini)": (said("", prompt_feedback={"block_reason": 1, "safety_ratings": []}), "refused"),
    "guardrail (Bedrock)": (said("Blocked.", stopReason="guardrail_intervened"), "refused"),
    "refusal field (OpenAI)": (
        AIMessage("", additional_kwargs={"refusal": "I can't"}, response_metadata={"finish_reason": "stop"}),
        "refused",
    ),
    "refusal block (OpenAI Responses)": (AIMessage([{"type": "refusal", "refusal": "I can't"}]), "refused"),
    "refusal block, non-standard": (
        AIMessage([{"type": "non_standard", "value": {"type": "refusal", "refusal": "I can't"}}]),
        "refused",
    ),
    # went wrong
    "MALFORMED_FUNCTION_CALL (Gemini)": (said("", finish_reason="MALFORMED_FUNCTION_CALL"), "generation_failed"),
    "error": (said("Half", finish_reason="error"), "generation_failed"),
    "only loaded (Ollama)": (said("", done_reason="load"), "generation_failed"),
    # cannot be kept
    "NUL": (AIMessage("a\0b"), "unstorable_text"),
    "lone surrogate": (AIMessage.model_construct(content="a\ud800b"), "unstorable_text"),
    "too long": (AIMessage("x" * 1_000_001), "unstorable_text"),
    "too long in blocks": (AIMessage([{"type": "text", "text": "x" * 600_000}] * 2), "unstorable_text"),
    "NUL in a block": (AIMessage([{"type": "text", "text": "a\0b"}]), "unstorable_text"),
    "NUL in the reasoning": (AIMessage("Yes", additional_kwargs={"reasoning_content": "a\0b"}), "unstorable_text"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str) -> None:
    """An answer that is missing, cut, refused, failed or cannot be kept is a hard fail with its own code."""
    message, code = BROKEN[case]
    verdict = judge(message)
    assert verdict is not None
    assert (verdict.code, verdict.hard, verdict.validator) == (code, True, "CompleteResponse")


KEPT = {
    "one word": AIMessage("Yes"),
    "zero": AIMessage("0"),
    "one full stop": AIMessage("."),
    "a refusal that is right": AIMessage("I can't help with that.", response_metadata={"finish_reason": "stop"}),
    "JSON text": AIMessage('{"total": 0, "items": []}'),
    "empty JSON": AIMessage("{}"),
    "Japanese": AIMessage("はい、東京です。"),
    "emoji": AIMessage("👍"),
    "empty text with a call": AIMessage("", tool_calls=[CALL]),
    "no blocks with a call": AIMessage([], tool_calls=[CALL]),
    "a call that cannot be read": AIMessage("", invalid_tool_calls=[BAD_CALL]),
    "an image": AIMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
    "a large image": AIMessage([{"type": "image", "base64": "A" * 1_500_000, "mime_type": "image/png"}]),
    "audio block": AIMessage([{"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}]),
    "audio (OpenAI)": AIMessage("", additional_kwargs={"audio": {"id": "a1", "data": "AAAA", "transcript": "Hi"}}),
    "a file": AIMessage([{"type": "file", "base64": "AAAA", "mime_type": "application/pdf"}]),
    "thinking and text": AIMessage([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "4"}]),
    "inline thinking and text": AIMessage("<think>Hm</think>4"),
    "text of a string block": AIMessage(["4"]),
    "a word about thinking": AIMessage("The tag <think> opens a thought."),
    "a list of many blocks": AIMessage([{"type": "text", "text": ""}] * 1_500),
    "stop": said("4", finish_reason="stop"),
    "STOP (Gemini)": said("4", finish_reason="STOP"),
    "end_turn": said("4", stop_reason="end_turn"),
    "stop sequence": said("4", stop_reason="stop_sequence"),
    "completed (OpenAI Responses)": said([{"type": "text", "text": "4"}], status="completed"),
    "no finish reason": said("4"),
    "a finish reason that nobody knows": said("4", finish_reason="quux"),
    "a finish reason that is no text": said("4", finish_reason=7, status=200),
    "prompt feedback without a block": said("4", prompt_feedback={"block_reason": 0, "safety_ratings": []}),
    "empty refusal field": AIMessage("4", additional_kwargs={"refusal": None}),
    "long text in another script": AIMessage("é" * 999_999),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    """An answer that only looks broken is kept."""
    assert judge(KEPT[case]) is None


CHOICES = [
    ("required", AIMessage("It is sunny."), "call_required"),
    ("any", AIMessage("It is sunny."), "call_required"),
    ("get_weather", AIMessage("It is sunny."), "call_required"),
    ("get_time", AIMessage("", tool_calls=[CALL]), "call_required"),
    ("none", AIMessage("", tool_calls=[CALL]), "call_forbidden"),
    ("none", AIMessage("", invalid_tool_calls=[BAD_CALL]), "call_forbidden"),
    ("required", AIMessage("", tool_calls=[CALL]), None),
    ("any", AIMessage("I look it up.", tool_calls=[CALL]), None),
    ("get_weather", AIMessage("", tool_calls=[CALL, CALL]), None),
    ("required", AIMessage("", invalid_tool_calls=[BAD_CALL]), None),
    ("none", AIMessage("It is sunny."), None),
    ("auto", AIMessage("It is sunny."), None),
    (None, AIMessage("It is sunny."), None),
]


@pytest.mark.parametrize(("choice", "message", "code"), CHOICES)
def test_tool_choice(choice: str | None, message: AIMessage, code: str | None) -> None:
    """What `tool_choice` required or forbade decides, and nothing is decided without it."""
    verdict = judge(message, tool_choice=choice)
    assert (verdict.code if verdict else None) == code
    assert verdict is None or verdict.hard


def test_parsed_output_answers_a_required_call() -> None:
    """Structured output that was parsed is an answer, also where it came without text and without a call."""
    assert judge(AIMessage(""), parsed={"city": "Oslo"}, tool_choice="Weather") is None


def test_empty_after_tool_results() -> None:
    """An empty final answer right after tool results is empty."""
    messages = [HumanMessage("Weather?"), AIMessage("", tool_calls=[CALL]), ToolMessage("sunny", tool_call_id="c1")]
    verdict = judge(AIMessage(""), messages=messages)
    assert verdict is not None
    assert verdict.code == "empty_answer"


@pytest.mark.parametrize("content", [None, 7, {"text": "x"}, [None, 7, {"type": ["text"]}]])
def test_content_of_no_known_kind(content: Any) -> None:
    """Content that is neither text nor blocks answers nothing."""
    verdict = judge(AIMessage.model_construct(content=content))
    assert verdict is None or verdict.code == "empty_answer"


def openai_answer(message: dict[str, Any], finish_reason: str) -> AIMessage:
    """What ChatOpenAI makes of a response, without a network."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    with httpx.Client(transport=transport) as client:
        return ChatOpenAI(model="m", api_key=SecretStr("k"), http_client=client).invoke("Hi")


CUT = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": '}}
WHOLE = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}


@pytest.mark.parametrize(
    ("message", "finish_reason", "code"),
    [
        ({"content": None}, "stop", "empty_answer"),
        ({"content": "Half"}, "length", "truncated"),
        ({"content": None, "tool_calls": [CUT]}, "length", "truncated"),
        ({"content": "Half"}, "content_filter", "refused"),
        ({"content": None, "refusal": "I can't"}, "stop", "refused"),
        ({"content": None, "tool_calls": [WHOLE]}, "tool_calls", None),
        ({"content": None, "tool_calls": [CUT]}, "tool_calls", None),
        ({"content": "I can't help with that."}, "stop", None),
    ],
)
def test_real_openai_messages(message: dict[str, Any], finish_reason: str, code: str | None) -> None:
    """Messages that langchain-openai builds from the wire are judged by what the wire said."""
    verdict = judge(openai_answer(message, finish_reason))
    assert (verdict.code if verdict else None) == code


def test_wrong_tool_is_pointed_at() -> None:
    """The path names the call that is not the required one."""
    other = {"name": "get_time", "args": {}, "id": "c2"}
    verdict = judge(AIMessage("", tool_calls=[CALL, other]), tool_choice="get_weather")
    assert verdict is not None
    assert verdict.path == "/tool_calls/1/name"


def test_reason_quotes_nothing() -> None:
    """No reason holds text of the answer."""
    for message, _ in BROKEN.values():
        verdict = judge(message)
        assert verdict is not None
        assert len(verdict.reason) <= 500
        assert "Hm" not in verdict.reason
        assert "Half" not in verdict.reason


def test_limit_must_be_positive() -> None:
    """A limit that refuses every text is refused at construction."""
    with pytest.raises(ConfigurationError, match="max_chars"):
        CompleteResponse(max_chars=0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
WORDS = st.sampled_from(
    ["type", "text", "refusal", "value", "thinking", "finish_reason", "status", "incomplete_details"]
)
BLOCKS = st.lists(st.text() | st.dictionaries(WORDS | st.text(), JSON, max_size=4), max_size=5)


@given(
    content=st.text() | BLOCKS | JSON,
    meta=st.dictionaries(WORDS, JSON, max_size=4),
    kwargs=st.dictionaries(WORDS | st.text(), JSON, max_size=4),
    choice=st.sampled_from([None, "none", "any", "required", "get_time"]),
)
def test_never_raises(content: Any, meta: dict[str, Any], kwargs: dict[str, Any], choice: str | None) -> None:
    """No answer, however odd its content, makes it raise; what it says is a hard fail or nothing."""
    message = AIMessage.model_construct(content=content, response_metadata=meta, additional_kwargs=kwargs)
    verdict = judge(message, tool_choice=choice)
    assert verdict is None or verdict.hard
