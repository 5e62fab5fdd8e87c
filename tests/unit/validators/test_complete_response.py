"""Tests of CompleteResponse on answers as the providers' LangChain packages shape them."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators.complete_response import CompleteResponse
from tests.builders import json_values

CALL = {"name": "get_weather", "args": {"city": "Oslo"}, "id": "c1"}
BAD_CALL = {"name": "get_weather", "args": '{"city": ', "id": "c1", "error": "cut", "type": "invalid_tool_call"}
TOOLS = (ToolSpec("get_weather"), ToolSpec("get_time"))
CUT = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": '}}
WHOLE = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}


def judge(message: AIMessage, *, parsed: object = None, **context: Any) -> Verdict | None:
    """Judge one answer."""
    return CompleteResponse()(Draft(message=message, parsed=parsed), StepContext(**{"tools": TOOLS, **context}))


def reply(content: Any = "Half an ans", /, **meta: Any) -> AIMessage:
    """An answer with response metadata."""
    return AIMessage(content, response_metadata=meta)


BROKEN: dict[str, dict[str, AIMessage]] = {
    "empty_answer": {
        "empty": AIMessage(""),
        "white space": AIMessage(" \n\t "),
        "invisible characters": AIMessage("\u200b\ufeff \u200b"),
        "no blocks": AIMessage([]),
        "empty text block": AIMessage([{"type": "text", "text": "  "}]),
        "thinking only (Anthropic)": AIMessage([{"type": "thinking", "thinking": "Hm", "signature": "x"}]),
        "reasoning only (OpenAI Responses)": AIMessage(
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "id": "rs_1"}]
        ),
        "reasoning_content only (Ollama, DeepSeek)": AIMessage("", additional_kwargs={"reasoning_content": "Hm"}),
        "inline thinking only": AIMessage("<think>\nHm\n</think>\n\n"),
        "inline thinking that never ends": AIMessage("<think>\nHm"),
        "empty after a stop": reply("", finish_reason="stop"),
        "end of turn (Qwen)": AIMessage("<|im_end|>"),
        "end of text": AIMessage("\n<|endoftext|>\n"),
        "end of turn (Llama)": AIMessage("<|start_header_id|>assistant<|end_header_id|>\n\n<|eot_id|>"),
        "end of sequence": AIMessage("</s></s>"),
        "instruction marks (Mistral)": AIMessage(" [/INST] "),
        "turn marks (Gemma)": AIMessage("<start_of_turn>model\n<end_of_turn>"),
        "end of sentence (DeepSeek)": AIMessage("<\uff5cend\u2581of\u2581sentence\uff5c>"),
        "an empty channel": AIMessage("<|channel|>final<|message|><|return|>"),
        "a special token after thinking": AIMessage("<think>Hm</think>\n<|im_end|>"),
        "special tokens in blocks": AIMessage([{"type": "text", "text": "<|im_end|>"}]),
    },
    "truncated": {
        "length (OpenAI)": reply(finish_reason="length"),
        "max_tokens (Anthropic)": reply(stop_reason="max_tokens"),
        "context window (Anthropic)": reply(stop_reason="model_context_window_exceeded"),
        "MAX_TOKENS (Gemini)": reply(finish_reason="MAX_TOKENS"),
        "enum name (Gemini)": reply(finish_reason="FinishReason.MAX_TOKENS"),
        "length (Ollama)": reply(done_reason="length"),
        "max_tokens (Bedrock)": reply(stopReason="max_tokens"),
        "model_length (Mistral)": reply(finish_reason="model_length"),
        "incomplete (OpenAI Responses)": reply(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        "a call that was cut": AIMessage("", tool_calls=[CALL], response_metadata={"finish_reason": "length"}),
        "empty because it was cut": reply("", finish_reason="length"),
    },
    "refused": {
        "content_filter (Azure)": reply("", finish_reason="content_filter"),
        "content-filter": reply("", finish_reason="content-filter"),
        "filter (OpenAI Responses)": reply("", status="incomplete", incomplete_details={"reason": "content_filter"}),
        "refusal (Anthropic)": reply([], stop_reason="refusal"),
        "SAFETY (Gemini)": reply("", finish_reason="SAFETY"),
        "blocked prompt (Gemini)": reply("", prompt_feedback={"block_reason": 1, "safety_ratings": []}),
        "guardrail (Bedrock)": reply("Blocked.", stopReason="guardrail_intervened"),
        "refusal field (OpenAI)": AIMessage(
            "", additional_kwargs={"refusal": "I can't"}, response_metadata={"finish_reason": "stop"}
        ),
        "refusal block (OpenAI Responses)": AIMessage([{"type": "refusal", "refusal": "I can't"}]),
        "refusal block, non-standard": AIMessage(
            [{"type": "non_standard", "value": {"type": "refusal", "refusal": "I can't"}}]
        ),
    },
    "generation_failed": {
        "MALFORMED_FUNCTION_CALL (Gemini)": reply("", finish_reason="MALFORMED_FUNCTION_CALL"),
        "error": reply("Half", finish_reason="error"),
        "only loaded (Ollama)": reply("", done_reason="load"),
    },
    "unstorable_text": {
        "NUL": AIMessage("a\0b"),
        "lone surrogate": AIMessage.model_construct(content="a\ud800b"),
        "too long": AIMessage("x" * 1_000_001),
        "too long in blocks": AIMessage([{"type": "text", "text": "x" * 600_000}] * 2),
        "NUL in a block": AIMessage([{"type": "text", "text": "a\0b"}]),
        "NUL in the reasoning": AIMessage("Yes", additional_kwargs={"reasoning_content": "a\0b"}),
    },
}


@pytest.mark.parametrize(("code", "case"), [(code, case) for code, cases in BROKEN.items() for case in cases])
def test_broken(code: str, case: str) -> None:
    """What is missing, cut, refused, failed or cannot be kept is a hard fail with its own code that quotes nothing."""
    verdict = judge(BROKEN[code][case])
    assert (verdict.code, verdict.hard, verdict.validator) == (code, True, "CompleteResponse")
    assert len(verdict.reason) <= 500
    assert not {"Hm", "Half"} & set(verdict.reason.split())


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
    "a token in a sentence": AIMessage("<|im_end|> ends a turn in ChatML."),
    "a token in quotes": AIMessage("`<|im_end|>`"),
    "an answer behind a token": AIMessage("<|im_start|>assistant\nIt is sunny."),
    "an answer before a token": AIMessage("4<|im_end|>"),
    "HTML": AIMessage("<p>4</p>"),
    "struck out HTML": AIMessage("<s>4</s>"),
    "a less-than sign": AIMessage("<"),
    "a list": AIMessage("[1, 2]"),
    "stop": reply("4", finish_reason="stop"),
    "STOP (Gemini)": reply("4", finish_reason="STOP"),
    "end_turn": reply("4", stop_reason="end_turn"),
    "stop sequence": reply("4", stop_reason="stop_sequence"),
    "completed (OpenAI Responses)": reply([{"type": "text", "text": "4"}], status="completed"),
    "no finish reason": reply("4"),
    "a finish reason that is no text": reply("4", finish_reason=7, status=200),
    "prompt feedback without a block": reply("4", prompt_feedback={"block_reason": 0, "safety_ratings": []}),
    "empty refusal field": AIMessage("4", additional_kwargs={"refusal": None}),
    "long text in another script": AIMessage("".join(random.Random(1).choices("éàüöñç", k=999_999))),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    """An answer that only looks broken is kept."""
    assert judge(KEPT[case]) is None


def test_long_markup_is_read_once() -> None:
    """Texts that invite going back and forth end; what is longer than is read is kept."""
    for text in (
        "functions.get_weather(" * 4_000,
        "functions.get_weather('" + "\\'" * 40_000,
        "<|im_end|>" * 90_000 + "x",
        "<tool_call>{" * 8_000,
        "[TOOL_CALLS]" * 8_000 + "x",
        "<|" * 40_000,
        "[TOOL_CALLS]" + "x" * 90_000,
        '<tool_call>{"name"' + " " * 90_000,
    ):
        verdict = judge(AIMessage(text))
        assert verdict is None or verdict.code == "degenerate_text"
    assert judge(AIMessage(f"functions.get_weather({{{'1' * 200_000}}})")) is None


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


@pytest.mark.parametrize(
    ("context", "message", "code"),
    [
        ({"allowed_tools": ["get_time"]}, AIMessage("", tool_calls=[CALL]), "call_forbidden"),
        ({"allowed_tools": ["get_weather"]}, AIMessage("", tool_calls=[CALL]), None),
        ({"single_call": True}, AIMessage("", tool_calls=[CALL, CALL]), "call_forbidden"),
        ({"single_call": True}, AIMessage("", tool_calls=[CALL]), None),
        ({"stop": ["END"]}, AIMessage("It is sunny. END And then"), "runs_on"),
        ({"stop": ["END"]}, AIMessage("It is sunny. END\n"), None),
    ],
)
def test_what_the_request_allows(context: dict[str, Any], message: AIMessage, code: str | None) -> None:
    """Other tools than the allowed ones, a second call where one is allowed, and text after a stop word are refused."""
    verdict = judge(message, **context)
    assert (verdict.code if verdict else None) == code


def test_answers_without_words() -> None:
    """Parsed output answers a required call; empty after tool results is empty, and so is content of no known kind."""
    assert judge(AIMessage(""), parsed={"city": "Oslo"}, tool_choice="Weather") is None
    messages = [HumanMessage("Weather?"), AIMessage("", tool_calls=[CALL]), ToolMessage("sunny", tool_call_id="c1")]
    verdict = judge(AIMessage(""), messages=messages)
    assert verdict.code == "empty_answer"
    for content in [None, 7, {"text": "x"}, [None, 7, {"type": ["text"]}]]:
        verdict = judge(AIMessage.model_construct(content=content))
        assert verdict is None or verdict.code == "empty_answer"


def openai_answer(message: dict[str, Any], finish_reason: str) -> AIMessage:
    """What ChatOpenAI makes of a response, without a network."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    with httpx.Client(transport=transport) as client:
        return ChatOpenAI(model="m", api_key=SecretStr("k"), http_client=client).invoke("Hi")


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


def test_the_path_names_the_call_that_is_not_the_required_one() -> None:
    """The first of several calls that is another one."""
    other = {"name": "get_time", "args": {}, "id": "c2"}
    verdict = judge(AIMessage("", tool_calls=[CALL, other]), tool_choice="get_weather")
    assert verdict.path == "/tool_calls/1/name"


def test_limit_must_be_positive() -> None:
    """A limit that refuses every text is refused at construction."""
    with pytest.raises(ConfigurationError, match="max_chars"):
        CompleteResponse(max_chars=0)


JSON = json_values()
WORDS = st.sampled_from(
    ["type", "text", "refusal", "value", "thinking", "finish_reason", "status", "incomplete_details"]
)
PIECES = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "functions.", "get_time", "{", "}", "(", "'", '"name": "', " "]
BLOCKS = st.lists(st.text() | st.dictionaries(WORDS | st.text(), JSON, max_size=4), max_size=5)


@given(
    content=st.text() | BLOCKS | JSON | st.lists(st.sampled_from(PIECES)).map("".join),
    meta=st.dictionaries(WORDS, JSON, max_size=4),
    kwargs=st.dictionaries(WORDS | st.text(), JSON, max_size=4),
    choice=st.sampled_from([None, "none", "any", "required", "get_time"]),
)
def test_never_raises(content: Any, meta: dict[str, Any], kwargs: dict[str, Any], choice: str | None) -> None:
    """No answer, however odd its content, makes it raise."""
    message = AIMessage.model_construct(content=content, response_metadata=meta, additional_kwargs=kwargs)
    verdict = judge(message, tool_choice=choice)
    assert verdict is None or verdict.outcome == "fail"
