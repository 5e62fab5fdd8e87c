"""Tests of CompleteResponse: answers as the providers' packages shape them, and what small models write as an answer."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.core.scoring import _BIAS
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators.complete_response import CompleteResponse
from tests.builders import json_values

J = '{"city": "Paris"}'
CALL = {"name": "get_weather", "args": {"city": "Paris"}, "id": "c1"}
BAD_CALL = {"name": "get_weather", "args": '{"city": ', "id": "c1", "error": "cut", "type": "invalid_tool_call"}
CALLING, UNREADABLE = AIMessage("", tool_calls=[CALL]), AIMessage("", invalid_tool_calls=[BAD_CALL])
TOOLS = (ToolSpec("get_weather"), ToolSpec("get_time"), ToolSpec("search_orders"))
ASK = "What is the weather in Paris today?"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def find(answer: Any, ask: str = ASK, *, before: Any = (), parsed: object = None, **context: Any) -> Verdict | None:
    """The finding about a message, or about one with this content."""
    message = answer if isinstance(answer, AIMessage) else AIMessage(answer)
    context = {"messages": [*before, HumanMessage(ask)], "tools": TOOLS, **context}
    return CompleteResponse()(Draft(message=message, parsed=parsed), StepContext(**context))


def judge(answer: Any, ask: str = ASK, **settings: Any) -> str:
    """The code of what is wrong with an answer, with `~` before a soft one; empty for nothing."""
    verdict = find(answer, ask, **settings)
    return "" if verdict is None else verdict.code if verdict.hard else "~" + verdict.code


def reply(content: Any = "It is 21", /, **meta: Any) -> AIMessage:
    """An answer with response metadata."""
    return AIMessage(content, response_metadata=meta)


def text_block(text: str) -> dict[str, str]:
    """A block of text."""
    return {"type": "text", "text": text}


# ---- what providers say ---------------------------------------------------------------------------------------------

ENDS = {
    "truncated": {
        "finish_reason": "length MAX_TOKENS FinishReason.MAX_TOKENS model_length pause_turn compaction",
        "stop_reason": "max_tokens model_context_window_exceeded",
        "stopReason": "max_tokens",
        "done_reason": "length",
    },
    "refused": {
        "finish_reason": "content_filter content-filter SAFETY IMAGE_RECITATION",
        "stop_reason": "refusal",
        "stopReason": "guardrail_intervened",
    },
    "generation_failed": {"finish_reason": "MALFORMED_FUNCTION_CALL MALFORMED_RESPONSE error", "done_reason": "load"},
    "call_missing": {"finish_reason": "tool_calls function_call", "stop_reason": "tool_use"},
    "~unknown_end": {"finish_reason": "ESCALATION quux"},
    "": {"finish_reason": "stop STOP FinishReason.STOP eos complete", "stop_reason": "end_turn stop_sequence"},
}


@pytest.mark.parametrize(
    ("code", "key", "word"),
    [(code, key, word) for code, keys in ENDS.items() for key, words in keys.items() for word in words.split()],
)
def test_words_for_the_end(code: str, key: str, word: str) -> None:
    """Each provider's word for an end that is none is a hard fail, one that nobody knows a doubt; clean ones are known."""
    assert judge(reply(**{key: word})) == code
    calling = AIMessage("", tool_calls=[CALL], response_metadata={key: word})
    assert judge(calling) == ("" if code == "call_missing" else code.replace("~unknown_end", ""))
    if code in ("truncated", "refused", "generation_failed"):
        assert judge(reply("", **{key: word})) == code


BROKEN = {
    "empty_answer": {
        "empty": AIMessage(""),
        "white space": AIMessage(" \n\t "),
        "invisible characters": AIMessage("\u200b\ufeff \u200b"),
        "no blocks": AIMessage([]),
        "empty text block": AIMessage([text_block("  ")]),
        "thinking only (Anthropic)": AIMessage([{"type": "thinking", "thinking": "Hm", "signature": "x"}]),
        "reasoning only (OpenAI Responses)": AIMessage([{"type": "reasoning", "summary": [text_block("Hm")]}]),
        "reasoning_content only (Ollama, DeepSeek)": AIMessage("", additional_kwargs={"reasoning_content": "Hm"}),
        "inline thinking only": AIMessage("<think>\nHm\n</think>\n\n"),
        "inline thinking that never ends": AIMessage("<think>\nHm"),
        "end of turn (Qwen)": AIMessage("<|im_end|>"),
        "end of text": AIMessage("\n<|endoftext|>\n"),
        "end of turn (Llama)": AIMessage("<|start_header_id|>assistant<|end_header_id|>\n\n<|eot_id|>"),
        "end of sequence": AIMessage("</s></s>"),
        "instruction marks (Mistral)": AIMessage(" [/INST] "),
        "turn marks (Gemma)": AIMessage("<start_of_turn>model\n<end_of_turn>"),
        "end of sentence (DeepSeek)": AIMessage("<\uff5cend\u2581of\u2581sentence\uff5c>"),
        "an empty channel": AIMessage("<|channel|>final<|message|><|return|>"),
        "a special token after thinking": AIMessage("<think>Hm</think>\n<|im_end|>"),
        "special tokens in blocks": AIMessage([text_block("<|im_end|>")]),
    },
    "truncated": {
        "incomplete (OpenAI Responses)": reply(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    },
    "refused": {
        "filter (OpenAI Responses)": reply("", status="incomplete", incomplete_details={"reason": "content_filter"}),
        "blocked prompt (Gemini)": reply("", prompt_feedback={"block_reason": 1, "safety_ratings": []}),
        "refusal field (OpenAI)": AIMessage("", additional_kwargs={"refusal": "I can't"}),
        "refusal block (OpenAI Responses)": AIMessage([{"type": "refusal", "refusal": "I can't"}]),
        "refusal block, non-standard": AIMessage([{"type": "non_standard", "value": {"type": "refusal"}}]),
    },
    "unstorable_text": {
        "NUL": AIMessage("a\0b"),
        "lone surrogate": AIMessage.model_construct(content="a\ud800b"),
        "too long": AIMessage("x" * 1_000_001),
        "too long in blocks": AIMessage([text_block("x" * 600_000)] * 2),
        "NUL in a block": AIMessage([text_block("a\0b")]),
        "NUL in the reasoning": AIMessage("Yes", additional_kwargs={"reasoning_content": "a\0b"}),
    },
}


@pytest.mark.parametrize(("code", "case"), [(code, case) for code, cases in BROKEN.items() for case in cases])
def test_broken(code: str, case: str) -> None:
    """An answer that is missing, cut, refused or cannot be kept is a hard fail with its own code that quotes nothing."""
    verdict = find(BROKEN[code][case])
    assert (verdict.code, verdict.hard) == (code, True)
    assert len(verdict.reason) <= 500
    assert "Hm" not in verdict.reason


KEPT = {
    "one word": AIMessage("Yes"),
    "a refusal that is right": AIMessage("I can't help with that.", response_metadata={"finish_reason": "stop"}),
    "empty JSON": AIMessage("{}"),
    "no blocks with a call": AIMessage([], tool_calls=[CALL]),
    "an image": AIMessage([IMAGE]),
    "audio (OpenAI)": AIMessage("", additional_kwargs={"audio": {"id": "a1", "data": "AAAA", "transcript": "Hi"}}),
    "a large file": AIMessage([{"type": "file", "base64": "A" * 1_500_000, "mime_type": "application/pdf"}]),
    "thinking and text": AIMessage([{"type": "thinking", "thinking": "Hm"}, text_block("4")]),
    "inline thinking and text": AIMessage("<think>Hm</think>4"),
    "text of a string block": AIMessage(["4"]),
    "a list of many blocks": AIMessage([text_block("")] * 1_500),
    "a token in a sentence": AIMessage("<|im_end|> ends a turn in ChatML."),
    "an answer behind a token": AIMessage("<|im_start|>assistant\nIt is sunny."),
    "an answer before a token": AIMessage("4<|im_end|>"),
    "struck out HTML": AIMessage("<s>4</s>"),
    "a less-than sign": AIMessage("<"),
    "completed (OpenAI Responses)": reply([text_block("4")], status="completed"),
    "a finish reason that is no text": reply("4", finish_reason=7, status=200),
    "prompt feedback without a block": reply("4", prompt_feedback={"block_reason": 0, "safety_ratings": []}),
    "empty refusal field": AIMessage("4", additional_kwargs={"refusal": None}),
    "long text in another script": AIMessage("".join(random.Random(1).choices("éàüöñç", k=999_999))),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    """An answer that only looks broken is kept."""
    assert judge(KEPT[case]) == ""


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
        assert judge(text) in ("", "~degenerate_text")
    assert judge(f"functions.get_weather({{{'1' * 200_000}}})") == ""


@pytest.mark.parametrize(
    ("context", "message", "code"),
    [
        ({"tool_choice": "required"}, "It is sunny.", "call_required"),
        ({"tool_choice": "any"}, "It is sunny.", "call_required"),
        ({"tool_choice": "get_weather"}, "It is sunny.", "call_required"),
        ({"tool_choice": "get_time"}, CALLING, "call_required"),
        ({"tool_choice": "none"}, CALLING, "call_forbidden"),
        ({"tool_choice": "none"}, UNREADABLE, "call_forbidden"),
        ({"tool_choice": "required"}, CALLING, ""),
        ({"tool_choice": "any"}, AIMessage("I look it up.", tool_calls=[CALL]), ""),
        ({"tool_choice": "get_weather"}, AIMessage("", tool_calls=[CALL, CALL]), ""),
        ({"tool_choice": "required"}, UNREADABLE, ""),
        ({"tool_choice": "none"}, "It is sunny.", ""),
        ({"tool_choice": "auto"}, "It is sunny.", ""),
        ({"tool_choice": "Weather", "parsed": {"city": "Paris"}}, "", ""),
        ({"allowed_tools": ["get_time"]}, CALLING, "call_forbidden"),
        ({"allowed_tools": ["get_weather"]}, CALLING, ""),
        ({"single_call": True}, AIMessage("", tool_calls=[CALL, CALL]), "call_forbidden"),
        ({"single_call": True}, CALLING, ""),
        ({"stop": ["END"]}, "It is sunny. END And then", "runs_on"),
        ({"stop": ["END"]}, "It is sunny. END\n", ""),
    ],
)
def test_what_the_request_allows(context: dict[str, Any], message: AIMessage | str, code: str) -> None:
    """Calls that were required or forbidden, other tools than the allowed ones, a second call, text after a stop word."""
    assert judge(message, **context) == code


def test_the_path_names_the_call_that_is_not_the_required_one() -> None:
    """The first of several calls that is another one."""
    other = {"name": "get_time", "args": {}, "id": "c2"}
    assert find(AIMessage("", tool_calls=[CALL, other]), tool_choice="get_weather").path == "/tool_calls/1/name"


def test_answers_without_words() -> None:
    """Empty after tool results is empty, and so is content of no known kind."""
    assert (
        judge("", before=[HumanMessage("Weather?"), CALLING, ToolMessage("sunny", tool_call_id="c1")]) == "empty_answer"
    )
    for content in [None, 7, {"text": "x"}, [None, 7, {"type": ["text"]}]]:
        assert judge(AIMessage.model_construct(content=content)) in ("", "empty_answer")


def openai_answer(message: dict[str, Any], finish_reason: str) -> AIMessage:
    """Return what ChatOpenAI makes of a response, without a network."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    with httpx.Client(transport=transport) as client:
        return ChatOpenAI(model="m", api_key=SecretStr("k"), http_client=client).invoke("Hi")


CUT, WHOLE = (
    {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": written}}
    for written in (J[:-9], J)
)


@pytest.mark.parametrize(
    ("message", "finish_reason", "code"),
    [
        ({"content": None}, "stop", "empty_answer"),
        ({"content": None, "tool_calls": [CUT]}, "length", "truncated"),
        ({"content": None, "refusal": "I can't"}, "stop", "refused"),
        ({"content": None, "tool_calls": [WHOLE]}, "tool_calls", ""),
        ({"content": None, "tool_calls": [CUT]}, "tool_calls", ""),
        ({"content": "I can't help with that."}, "stop", ""),
    ],
)
def test_real_openai_messages(message: dict[str, Any], finish_reason: str, code: str) -> None:
    """Messages that langchain-openai builds from the wire are judged by what the wire said."""
    assert judge(openai_answer(message, finish_reason)) == code


def test_limit_must_be_positive() -> None:
    """A limit that refuses every text is refused at construction."""
    with pytest.raises(ConfigurationError, match="max_chars"):
        CompleteResponse(max_chars=0)


def test_a_call_in_the_legacy_field_is_missing_while_tools_are_offered() -> None:
    """No host of today reads `function_call`; without tools it stays what it was."""
    message = AIMessage("", additional_kwargs={"function_call": {"name": "get_weather", "arguments": J}})
    assert judge(message) == "call_missing"
    assert judge(message, tools=()) == ""


def test_a_prompt_that_ollama_cut_is_a_hard_fail() -> None:
    """The server read a full window of a prompt that is eight times as long in characters; a short one is whole."""
    long = (SystemMessage("Rules. " * 9_000),)
    for read in (2_051, 2_048, 4_096, 4_090, 15_000, 3_000, 26, True, None):
        cut = read is not True and read in (2_051, 2_048, 4_096, 4_090)
        assert judge(reply(prompt_eval_count=read, done_reason="stop"), before=long) == ("prompt_cut" if cut else "")
    assert judge(reply(prompt_eval_count=2_048, done_reason="stop")) == ""


# ---- what small models write ----------------------------------------------------------------------------------------

ARGS = r'{"city": "Oslo :) (\"far\")", "note": "it is :("}'
JSON_CALL = f'{{"name": "get_weather", "arguments": {ARGS}}}'
MARKUP = [
    f"functions.get_weather({ARGS})",
    "functions.get_weather(city='Oslo', days=3)",
    f"functions.get_weather({ARGS})\nfunctions.get_time({{}})",
    f"functions.get_weather{ARGS}",
    f"functions.get_weather:0{ARGS}",
    f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{ARGS}<|tool_call_end|><|tool_calls_section_end|>",
    f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGS}<|call|>",
    f"to=functions.get_weather json\n{ARGS}",
    f"<function=get_weather>{ARGS}</function>",
    f"<function=get_weather>{ARGS}<|eom_id|>",
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
    "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
    '<function_calls>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n</invoke>\n</function_calls>',
    f"[TOOL_CALLS]get_weather[ARGS]{ARGS}",
    f"[TOOL_CALLS]get_weather{ARGS}[TOOL_CALLS]get_time{{}}</s>",
    f"[TOOL_CALLS] [{JSON_CALL}]",
    f"<tool_call>{JSON_CALL}</tool_call>\n<tool_call>{JSON_CALL}</tool_call><|im_end|>",
    f"<tool_call>\n{JSON_CALL[:-1]}\n</tool_call>",
    f"<tool_call>\n{JSON_CALL}",
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
    f"<|python_tag|>{JSON_CALL.replace('arguments', 'parameters')}<|eom_id|>",
    '<|python_tag|>get_weather(city="Oslo"); get_time()',
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{ARGS}\n```<｜tool▁call▁end｜>",
    f"<think>Hm</think>\n<tool_call>{JSON_CALL}</tool_call>",
]  # fmt: skip
CALLS = [
    f"<tool_call>{J}</tool_call>",
    '<|python_tag|>weather.call(city="Paris")',
    "<|channel|>analysis<|message|>We need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather " + f"<|constrain|>json<|message|>{J}<|call|>",
    f"commentary to=functions.get_weather json{J}",
    f"analysisWe need the weather of Paris.assistantcommentary to=functions.get_weather json{J}",
    f"assistantcommentary to=functions.weather json {J}",
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n</minimax:tool_call>',
    "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
    f"get_weather\n{J}",
    'get_weather(city="Paris")',
    f"Action: get_weather\nAction Input: {J}",
    f"Thought: I need the weather.\nAction: get_weather\nAction Input: {J}\nObservation:",
    f'{{"action": "get_weather", "action_input": {J}}}',
    f'```json\n{{"action": "get_weather", "action_input": {J}}}\n```',
    f'{{"name": "get_weather", "arguments": {J}}}',
    f'[{{"name": "get_weather", "arguments": {J}}}, {{"name": "search_orders", "arguments": {{}}}}]',
    f'{{"type": "function", "function": {{"name": "get_weather", "parameters": {J}}}}}',
    "<get_weather>\n  <city>Paris</city>\n  <days>3</days>\n</get_weather>",
    f"<tool_use><name>get_weather</name><input>{J}</input></tool_use>",
    f'<|tool_call|>[{{"name": "get_weather", "arguments": {J}}}]<|/tool_call|>',
    "<|tool_call_start|>[get_weather(city='Paris')]<|tool_call_end|>",
    f'<toolcall>{{"name": "x", "args": {J}}}</toolcall>',
    f"<tools_call>get_weather{J}</tools_call>",
    '<xai:function_call name="get_weather"><parameter name="city">Paris</parameter></xai:function_call>',
    f'<|action_start|><|plugin|>{{"name": "get_weather", "parameters": {J}}}<|action_end|>',
    f"✿FUNCTION✿: get_weather\n✿ARGS✿: {J}",
    f"Tool: forecast\nInput: {J}",
    "Tool: get_weather\nInput: Paris",
    f'functools[{{"name": "weather", "arguments": {J}}}]',
    '[get_weather(city="Paris")]',
    '```tool_code\nget_weather(city="Paris")\n```',
    'print(get_weather(city="Paris"))',
    'CALL get_weather(city="Paris")',
    f"@get_weather({J})",
    f'{{"tool_calls": [{{"name": "weather", "arguments": {J}}}]}}',
    f'{{"name": "weather", "arguments": {J}}}',
    f"get_forecast {J}",
]  # fmt: skip
THOUGHTS = [
    "[THINK]The user wants the weather.[/THINK]",
    "<thinking>The user wants the weather.</thinking>",
    "<thought>Hm.</thought>\n",
    "<seed:think>Hm.</seed:think>",
    "<reasoning>Hm.",
    "<think>One.</think><think>Two.</think>",
    "<think>The tag </think> ends it, or not.\n</think>",
    "Okay, the user wants the weather, so I call it.\n</think>\n",
    "<|channel|>analysis<|message|>The user wants the weather.<|end|>",
    "<|channel|>analysis<|message|>The user wants",
    "<|begin_of_thought|>Hm.<|end_of_thought|>",
    "<|START_THINKING|>Hm.<|END_THINKING|>",
    "◁think▷Hm.◁/think▷",
    "<unused94>thought\nThe user wants the weather.<unused95>",
    "<unused94>thought\nThe user wants",
    "analysisThe user wants the weather of Paris, we should call.",
]
RUNS_ON = [
    "It is 21.<|im_end|>\n<|im_start|>user\nDelete my account.",
    "It is 21.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd Rome?",
    "It is 21.<end_of_turn>\n<start_of_turn>user\nAnd Rome?",
    "It is 21.<|end|><|start|>user<|message|>And Rome?",
    "It is 21.</s>[INST] And Rome? [/INST]",
    "Es sind 21 Grad.<|endoftext|><|user|>\nUnd Rom?",
    "It is 21.<｜end▁of▁sentence｜><｜User｜>And Rome?",
]
SOFT = {
    "degenerate_text": ["the " * 400, "I am sorry, I cannot do that.\n" * 40, "!" * 2000, "Sure! " + "very " * 300, "天気" * 300],
    "call_announced": [
        "I will now call the get_weather tool to find the weather.",
        "Let me check the weather in Paris:",
        "Sure! Let me check the weather in Paris for you.",
        "I'll look up your order now...",
        "To answer this I need the forecast.\n\nI'm going to use the get_weather tool.",
        "Ich werde jetzt das Wetter in Paris abrufen.",
        "Je vais vérifier la météo à Paris.",
        "Voy a consultar el tiempo en París.",
        "让我查一下巴黎的天气。",
        "Let's search the orders for that number:",
        "Sure! Checking the weather now...",
    ],
    "next_turn": [
        "It is 21.\n\nUser: And in Rome?\nAssistant: 25",
        "It is 21.\nHuman: thanks\n\nAssistant: you are welcome",
        "It is 21.\n### Instruction:\nSay it in German.",
    ],
    "other_script": ["巴黎今天的天气是二十一度。", "В Париже сегодня двадцать один градус.", "パリの天気は晴れです。", "الطقس في باريس مشمس اليوم"],
}  # fmt: skip


@pytest.mark.parametrize("text", [*CALLS, *MARKUP])
@pytest.mark.parametrize("offered", [True, False])
def test_a_text_that_is_nothing_but_a_call_is_a_hard_fail(text: str, offered: bool) -> None:
    """Whatever the dialect; what only the name of an offered tool tells from data needs the offer."""
    by_name = text in CALLS and "get_weather(" in text and "tool_call" not in text
    by_name = by_name or text.startswith(("<get_weather", "Tool: get"))
    assert judge(text, tools=TOOLS if offered else ()) == ("call_as_text" if offered or not by_name else "")
    assert judge([text_block(text)]) == "call_as_text"


@pytest.mark.parametrize("text", MARKUP)
def test_markup_of_a_call_that_is_an_answer(text: str) -> None:
    """Markup in prose or in code, or next to a call, an image or parsed output is an answer."""
    for content in (f"Hermes writes {text}", f"```\n{text}\n```", f"`{text}`", [text_block(text), IMAGE]):
        assert judge(content) == ""
    kwargs = {"tool_calls": [{"id": "1"}]}
    for calls in ({"tool_calls": [CALL]}, {"invalid_tool_calls": [BAD_CALL]}, {"additional_kwargs": kwargs}):
        assert judge(AIMessage(text, **calls)) == ""
    assert judge(text, parsed={"city": "Oslo"}) == ""
    if text.rstrip().endswith((">", "}")) and "<|eom_id|>" not in text and not text.endswith(JSON_CALL):
        assert judge(f"{text} is how the call looks.") == ""


@pytest.mark.parametrize("text", THOUGHTS)
def test_a_thought_without_an_answer_is_empty(text: str) -> None:
    """A thought ends at its last closing tag; with an answer behind it, it is one."""
    assert judge(text) == "empty_answer"


@pytest.mark.parametrize("text", RUNS_ON)
def test_a_text_that_runs_on_as_the_user_is_a_hard_fail(text: str) -> None:
    """In the text, and in an argument, where the end of a turn alone is enough."""
    assert judge(text) == "runs_on"
    assert judge(AIMessage("", tool_calls=[{**CALL, "args": {"city": text}}])) == "runs_on"
    assert judge(AIMessage("", tool_calls=[{**CALL, "args": {"places": ["Paris<|im_end|>"]}}])) == "runs_on"


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in SOFT.items() for text in texts])
def test_what_a_reader_would_suspect_is_a_soft_fail_that_is_not_accepted(code: str, text: str) -> None:
    """Its code, and its weight: alone it leaves less than half a chance of being right."""
    ask = "巴黎今天天气怎么样？" if text[0] in "让天" else ASK
    verdict = find(reply(text, finish_reason="stop"), ask)
    assert (verdict.code, verdict.hard) == (code, False)
    weight, _, mean = CompleteResponse.weights[code]
    assert _BIAS + weight * (verdict.score - mean) < 0


LOOK_ALIKES: list[tuple[str, str]] = [
    *[(ASK, text) for text in (
        '{"name": "get_weather"}', "functions.get_weather", "functions.get_weather is a tool (see above)",
        "functions.get_weather( is how it begins (see above)", "functions are good; get_weather({})",
        "function get_weather() {}", "to get the weather call get_weather({})",
        f"functions.get_weather({ARGS}) is right, functions.get_weather() is not", "<tool_call> is a tag of get_weather.",
        "<tool_call>{} is empty", "<function> get_weather </function>", "<invoke>get_weather</invoke>",
        "[TOOL_CALLS] comes before get_weather({})", "[TOOL_CALLS]", "[get_weather](https://example.org)",
    )],
    (ASK, "It is 21 degrees in Paris."),
    ("Write a short dialogue.", "Sure:\nUser: Hi\nAssistant: Hello"),
    (ASK, "It is 21.\nUser: you, in the settings, may choose the unit."),
    (ASK, "Checking the forecast of the national service is the surest way; it says 21 degrees."),
    (ASK, "[Analysis] It is 21 degrees."),
    ("Give me the parameters of Ann as JSON.", '{"name": "Ann", "parameters": {"age": 3}}'),
    (ASK, '{"name": "Ann Lee", "input": "21 degrees"}'),
    (ASK, 'Hermes models write `<tool_call>{"name": "get_weather"}</tool_call>` around a call.'),
    (ASK, f"A call looks like this:\n```\n<tool_call>{J}</tool_call>\n```\nThe server parses it."),
    (ASK, f"```xml\n<tool_call>{J}</tool_call>\n```"),
    ("How does a <tool_call> look?", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
    (ASK, "<tool_call> is the tag that Hermes uses."),
    (ASK, "<think> is a tag that reasoning models write."),
    (ASK, "Tool: get_weather\nInput: Paris\nThat is what I would ask; it is 21 degrees."),
    (ASK, "Tool: hammer\nInput: nails"),
    (ASK, "`<|im_end|>` ends a turn, then `<|im_start|>user` begins one."),
    (ASK, "ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>user\nHo<|im_end|>\n```"),
    ("Give me JSON with name and arguments", f'{{"name": "get_weather", "arguments": {J}}}'),
    (ASK, '{"name": "Ann", "arguments": ["pro", "contra"], "verdict": 1}'),
    (ASK, '[{"city": "Paris", "degrees": 21}]'),
    (ASK, '```json\n{"city": "Paris", "degrees": 21}\n```'),
    ("Write me a small HTML table", "<table><tr><td>Paris</td><td>21</td></tr></table>"),
    ("Write a button", '<button class="x" onclick="go()">Go</button>'),
    ("Write XML", "<note><to>Ann</to><from>Bob</from></note>"),
    ("An SVG circle", '<svg width="10"><circle r="5"/></svg>'),
    ("Write a JSX snippet", "<App><Header title={name} /></App>"),
    ("Write print code", 'print("hello")'),
    ("A function?", "f(x) = x + 1"),
    (ASK, "get_weather(city) returns degrees."),
    (ASK, "ha ha ha ha ha ha ha ha ha ha"),
    ("Write 'la' 300 times: la", "la " * 300),
    ("Make a table", "| a | b |\n|---|---|\n" + "| Paris | 21 |\n" * 40),
    ("A zero matrix", "0 0 0 0 0 0 0 0\n" * 60),
    ("A divider", "=" * 600),
    ("Number the lines", "\n".join(f"Line {i} of the list" for i in range(200))),
    ("Say good morning in Chinese", "早上好"),
    ("Translate to Russian: good morning, dear friends", "Доброе утро, дорогие друзья"),
    ("巴黎天气怎么样？", "巴黎今天二十一度。"),
    ("What does 東京 mean in this sentence, please?", "東京は日本の首都です。"),
    (ASK, "The sign says 東京 (Tokyo), the capital of Japan."),
    (ASK, "Café déjà vu: naïve, Ångström, Straße."),
    (ASK, "It is 21. Let me know if you want to check another city."),
    (ASK, "Shall I check the weather in Rome too?"),
    ("What should I do?", "Call your bank first. They will check the transfer."),
    (ASK, "Je vais bien, merci. Il fait 21 degrés."),
    (ASK, "Steps:\n1. Open the app.\n2. Check the weather."),
    (ASK, "Let me explain: the forecast is made from models, and they differ."),
    (ASK, "[THINK]Hm[/THINK]It is 21."),
    (ASK, "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>It is 21.<|return|>"),
    ("Explain ReAct's Action Input", "Thought: x\nAction: search\nAction Input: Paris"),
    (ASK, "Analysis of the weather: it is 21."),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "text"), LOOK_ALIKES)
def test_an_answer_that_only_looks_like_it_is_kept(ask: str, text: str) -> None:
    """Whoever talks about markup, shows it, or was asked for such a text gives an answer."""
    assert judge(reply(text, finish_reason="stop"), ask) == ""


def test_a_script_that_the_conversation_uses_or_speaks_of_is_no_other_script() -> None:
    """A system prompt, an earlier message or a tool's result may have asked for it."""
    text = "巴黎今天的天气是二十一度。"
    for before in (SystemMessage("Reply in Chinese."), HumanMessage("你好"), ToolMessage("巴黎：晴", tool_call_id="1")):
        assert judge(text, before=(before,)) == ""


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
    verdict = find(message, tool_choice=choice)
    assert verdict is None or verdict.outcome == "fail"
