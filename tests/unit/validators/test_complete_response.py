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
    "empty after a stop": (reply("", finish_reason="stop"), "empty_answer"),
    "end of turn (Qwen)": (AIMessage("<|im_end|>"), "empty_answer"),
    "end of text": (AIMessage("\n<|endoftext|>\n"), "empty_answer"),
    "end of turn (Llama)": (AIMessage("<|start_header_id|>assistant<|end_header_id|>\n\n<|eot_id|>"), "empty_answer"),
    "end of sequence": (AIMessage("</s></s>"), "empty_answer"),
    "instruction marks (Mistral)": (AIMessage(" [/INST] "), "empty_answer"),
    "turn marks (Gemma)": (AIMessage("<start_of_turn>model\n<end_of_turn>"), "empty_answer"),
    "end of sentence (DeepSeek)": (AIMessage("<\uff5cend\u2581of\u2581sentence\uff5c>"), "empty_answer"),
    "an empty channel": (AIMessage("<|channel|>final<|message|><|return|>"), "empty_answer"),
    "a special token after thinking": (AIMessage("<think>Hm</think>\n<|im_end|>"), "empty_answer"),
    "special tokens in blocks": (AIMessage([{"type": "text", "text": "<|im_end|>"}]), "empty_answer"),
    # cut off
    "length (OpenAI)": (reply(finish_reason="length"), "truncated"),
    "max_tokens (Anthropic)": (reply(stop_reason="max_tokens"), "truncated"),
    "context window (Anthropic)": (reply(stop_reason="model_context_window_exceeded"), "truncated"),
    "MAX_TOKENS (Gemini)": (reply(finish_reason="MAX_TOKENS"), "truncated"),
    "enum name (Gemini)": (reply(finish_reason="FinishReason.MAX_TOKENS"), "truncated"),
    "length (Ollama)": (reply(done_reason="length"), "truncated"),
    "max_tokens (Bedrock)": (reply(stopReason="max_tokens"), "truncated"),
    "model_length (Mistral)": (reply(finish_reason="model_length"), "truncated"),
    "incomplete (OpenAI Responses)": (
        reply(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        "truncated",
    ),
    "a call that was cut": (
        AIMessage("", tool_calls=[CALL], response_metadata={"finish_reason": "length"}),
        "truncated",
    ),
    "empty because it was cut": (reply("", finish_reason="length"), "truncated"),
    # refused through the refusal channel
    "content_filter (Azure)": (reply("", finish_reason="content_filter"), "refused"),
    "content-filter": (reply("", finish_reason="content-filter"), "refused"),
    "filter (OpenAI Responses)": (
        reply("", status="incomplete", incomplete_details={"reason": "content_filter"}),
        "refused",
    ),
    "refusal (Anthropic)": (reply([], stop_reason="refusal"), "refused"),
    "SAFETY (Gemini)": (reply("", finish_reason="SAFETY"), "refused"),
    "blocked prompt (Gemini)": (reply("", prompt_feedback={"block_reason": 1, "safety_ratings": []}), "refused"),
    "guardrail (Bedrock)": (reply("Blocked.", stopReason="guardrail_intervened"), "refused"),
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
    "MALFORMED_FUNCTION_CALL (Gemini)": (reply("", finish_reason="MALFORMED_FUNCTION_CALL"), "generation_failed"),
    "error": (reply("Half", finish_reason="error"), "generation_failed"),
    "only loaded (Ollama)": (reply("", done_reason="load"), "generation_failed"),
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


ARGS = r'{"city": "Oslo :) (\"far\")", "note": "it is :("}'
JSON_CALL = f'{{"name": "get_weather", "arguments": {ARGS}}}'
RAW = {
    "functions": f"functions.get_weather({ARGS})",
    "functions with keywords": "functions.get_weather(city='Oslo', days=3)",
    "functions twice": f"functions.get_weather({ARGS})\nfunctions.get_time({{}})",
    "functions without brackets": f"functions.get_weather{ARGS}",
    "functions with a number (Kimi)": f"functions.get_weather:0{ARGS}",
    "a section (Kimi)": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    f"<|tool_call_argument_begin|>{ARGS}<|tool_call_end|><|tool_calls_section_end|>",
    "a channel (Harmony)": f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGS}<|call|>",
    "a recipient alone (Harmony)": f"to=functions.get_weather json\n{ARGS}",
    "function tag": f"<function=get_weather>{ARGS}</function>",
    "function tag that is not closed": f"<function=get_weather>{ARGS}<|eom_id|>",
    "function tag with parameters (Qwen coder)": "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n"
    "</parameter>\n</function>\n</tool_call>",
    "the same without its beginning": "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
    "</tool_call>",
    "invoke": '<invoke name="get_weather"><parameter name="city">Oslo</parameter></invoke>',
    "invoke in function_calls": '<function_calls>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n'
    "</invoke>\n</function_calls>",
    "TOOL_CALLS (Mistral)": f"[TOOL_CALLS]get_weather{ARGS}",
    "TOOL_CALLS with ARGS": f"[TOOL_CALLS]get_weather[ARGS]{ARGS}",
    "TOOL_CALLS twice": f"[TOOL_CALLS]get_weather{ARGS}[TOOL_CALLS]get_time{{}}</s>",
    "TOOL_CALLS with a list": f"[TOOL_CALLS] [{JSON_CALL}]",
    "tool_call (Hermes)": f"<tool_call>\n{JSON_CALL}\n</tool_call>",
    "tool_call twice": f"<tool_call>{JSON_CALL}</tool_call>\n<tool_call>{JSON_CALL}</tool_call><|im_end|>",
    "tool_call with broken JSON": f"<tool_call>\n{JSON_CALL[:-1]}\n</tool_call>",
    "tool_call that is not closed": f"<tool_call>\n{JSON_CALL}",
    "tool_call with keys (GLM)": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
    "</tool_call>",
    "python_tag with JSON (Llama)": f"<|python_tag|>{JSON_CALL.replace('arguments', 'parameters')}<|eom_id|>",
    "python_tag with a call": '<|python_tag|>get_weather.call(city="Oslo")',
    "python_tag with two calls": '<|python_tag|>get_weather(city="Oslo"); get_time()',
    "tool call tokens (DeepSeek)": "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function"
    f"<\uff5ctool\u2581sep\uff5c>get_weather\n```json\n{ARGS}\n```<\uff5ctool\u2581call\u2581end\uff5c>",
    "after thinking": f"<think>Hm</think>\n<tool_call>{JSON_CALL}</tool_call>",
}


@pytest.mark.parametrize("case", RAW)
def test_a_call_as_text(case: str) -> None:
    """The raw markup of a call to an offered tool is no answer, as text and as a text block."""
    for content in (RAW[case], [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": RAW[case]}]):
        verdict = judge(AIMessage(content))
        assert (verdict.code, verdict.hard, verdict.path) == ("call_as_text", True, "/text")
        assert "Oslo" not in verdict.reason


@pytest.mark.parametrize("case", RAW)
def test_markup_of_a_call_that_is_an_answer(case: str) -> None:
    """Markup in prose or in a code block, next to a call or an image is an answer; of a tool that is not offered it is none."""
    text = RAW[case]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for message in (
        AIMessage(f"Hermes writes {text}"),
        AIMessage(f"```\n{text}\n```"),
        AIMessage(f"`{text}`"),
        AIMessage(text, tool_calls=[CALL]),
        AIMessage(text, invalid_tool_calls=[BAD_CALL]),
        AIMessage([{"type": "text", "text": text}, image]),
        AIMessage(text, additional_kwargs={"tool_calls": [WHOLE]}),
    ):
        assert judge(message) is None
    for tools in (
        (ToolSpec("other"),),
        (),
    ):  # markup is markup, whatever the name; large may not give it unmarked either
        verdict = judge(AIMessage(text), tools=tools)
        assert verdict.code == "call_as_text"
    assert judge(AIMessage(text), parsed={"city": "Oslo"}) is None
    if "not closed" not in case:
        assert judge(AIMessage(f"{text} is how the call looks.")) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather"}',
        "functions.get_weather",
        "functions.get_weather is a tool (see above)",
        "functions.get_weather( is how it begins (see above)",
        "functions are good; get_weather({})",
        "function get_weather() {}",
        "to get the weather call get_weather({})",
        f"functions.get_weather({ARGS}) is right, functions.get_weather() is not",
        "<tool_call> is a tag of get_weather.",
        "<tool_call>{} is empty",
        "<function> get_weather </function>",
        "<invoke>get_weather</invoke>",
        "[TOOL_CALLS] comes before get_weather({})",
        "[TOOL_CALLS]",
        "<table><tr><td>get_weather</td></tr></table>",
        "[get_weather](https://example.org)",
    ],
)
def test_text_that_only_looks_like_a_call(text: str) -> None:
    """JSON, prose that begins with such a word, other tags and links are answers."""
    assert judge(AIMessage(text)) is None


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


def test_reasons_and_paths() -> None:
    """The path names the call that is not the required one, and no reason quotes the answer."""
    other = {"name": "get_time", "args": {}, "id": "c2"}
    verdict = judge(AIMessage("", tool_calls=[CALL, other]), tool_choice="get_weather")
    assert verdict.path == "/tool_calls/1/name"
    for message, _ in BROKEN.values():
        verdict = judge(message)
        assert len(verdict.reason) <= 500
        assert "Hm" not in verdict.reason
        assert "Half" not in verdict.reason


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
