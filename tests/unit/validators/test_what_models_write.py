"""What small models write where an answer should be, and answers that only look like it, by their shape."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, ToolSpec
from cascade_agent.core.scoring import _BIAS
from cascade_agent.validators.complete_response import CompleteResponse

TOOLS = (ToolSpec("get_weather"), ToolSpec("search_orders"))
ASK = "What is the weather in Paris today?"
J = '{"city": "Paris"}'
CALL = {"name": "get_weather", "args": {"city": "Paris"}, "id": "c1"}


def judge(
    content: Any, ask: str = ASK, *, before: tuple[Any, ...] = (), tools: Any = TOOLS, calls: Any = (), **meta: Any
) -> str:
    """Return the code of what is wrong with an answer, with `~` before a soft one; empty for nothing."""
    message = AIMessage(content, tool_calls=list(calls), response_metadata=meta)
    context = StepContext(messages=[*before, HumanMessage(ask)], tools=tools)
    verdict = CompleteResponse()(Draft(message=message), context)
    return "" if verdict is None else verdict.code if verdict.hard else "~" + verdict.code


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
    '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>',
    f"<tool_call>{J}</tool_call>",
    f"[TOOL_CALLS]weather{J}",
    f'[TOOL_CALLS] [{{"name": "forecast", "arguments": {J}}}]',
    f'<|python_tag|>{{"name": "weather", "parameters": {J}}}',
    '<|python_tag|>weather.call(city="Paris")',
    "<|channel|>analysis<|message|>We need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather " + f"<|constrain|>json<|message|>{J}<|call|>",
    f"<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{J}<|call|>",
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
    f"**Action:** get_weather\n**Action Input:** {J}",
    f'{{"action": "get_weather", "action_input": {J}}}',
    f'```json\n{{"action": "get_weather", "action_input": {J}}}\n```',
    f'{{"name": "get_weather", "arguments": {J}}}',
    f'[{{"name": "get_weather", "arguments": {J}}}, {{"name": "search_orders", "arguments": {{}}}}]',
    f'{{"type": "function", "function": {{"name": "get_weather", "parameters": {J}}}}}',
    "<get_weather><city>Paris</city></get_weather>",
    "<get_weather>\n  <city>Paris</city>\n  <days>3</days>\n</get_weather>",
    f"<tool_use><name>get_weather</name><input>{J}</input></tool_use>",
    f'<|tool_call|>[{{"name": "get_weather", "arguments": {J}}}]<|/tool_call|>',
    "<|tool_call_start|>[get_weather(city='Paris')]<|tool_call_end|>",
    f'<toolcall>{{"name": "x", "args": {J}}}</toolcall>',
    f'<think>Let me see.</think>\n<tool_call>{{"name": "weather", "arguments": {J}}}</tool_call>',
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
def test_a_text_that_is_nothing_but_a_call_is_a_hard_fail(text: str, offered: bool):
    """Whatever the dialect; what only the name of an offered tool tells from data needs the offer."""
    by_name = text in CALLS and "get_weather(" in text and "tool_call" not in text
    by_name = by_name or text.startswith(("<get_weather", "Tool: get"))
    assert judge(text, tools=TOOLS if offered else ()) == ("call_as_text" if offered or not by_name else "")
    assert judge([{"type": "text", "text": text}]) == "call_as_text"


@pytest.mark.parametrize("text", MARKUP)
def test_markup_of_a_call_that_is_an_answer(text: str):
    """Markup in prose or in code, or next to a call, an image or parsed output is an answer."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for content in (f"Hermes writes {text}", f"```\n{text}\n```", f"`{text}`", [{"type": "text", "text": text}, image]):
        assert judge(content) == ""
    assert judge(text, calls=[CALL]) == ""
    for message, parsed in (
        (AIMessage(text, invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": "cut"}]), None),
        (AIMessage(text, additional_kwargs={"tool_calls": [{"id": "1"}]}), None),
        (AIMessage(text), {"city": "Oslo"}),
    ):
        assert CompleteResponse()(Draft(message=message, parsed=parsed), StepContext(tools=TOOLS)) is None
    if text.rstrip().endswith((">", "}")) and "<|eom_id|>" not in text and not text.endswith(JSON_CALL):
        assert judge(f"{text} is how the call looks.") == ""


@pytest.mark.parametrize("text", THOUGHTS)
def test_a_thought_without_an_answer_is_empty(text: str):
    """A thought ends at its last closing tag; with an answer behind it, it is one."""
    assert judge(text) == "empty_answer"


@pytest.mark.parametrize("text", RUNS_ON)
def test_a_text_that_runs_on_as_the_user_is_a_hard_fail(text: str):
    """In the text, and in an argument, where the end of a turn alone is enough."""
    assert judge(text) == "runs_on"
    assert judge("", calls=[{**CALL, "args": {"city": text}}]) == "runs_on"
    assert judge("", calls=[{**CALL, "args": {"places": ["Paris<|im_end|>"]}}]) == "runs_on"


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in SOFT.items() for text in texts])
def test_what_a_reader_would_suspect_is_a_soft_fail_that_is_not_accepted(code: str, text: str):
    """Its code, and its weight: alone it leaves less than half a chance of being right."""
    ask = "巴黎今天天气怎么样？" if text[0] in "让天" else ASK
    assert judge(text, ask, finish_reason="stop") == "~" + code
    weight, _, mean = CompleteResponse.weights[code]
    message = AIMessage(text)
    verdict = CompleteResponse()(Draft(message=message), StepContext(messages=[HumanMessage(ask)], tools=TOOLS))
    assert verdict.score is not None
    assert _BIAS + weight * (verdict.score - mean) < 0


@pytest.mark.parametrize("word", ["tool_calls", "tool_use", "function_call"])
def test_a_call_that_is_announced_and_not_there_is_a_hard_fail(word: str):
    """The provider's own word says that the answer is not the text."""
    assert judge("Let me look.", finish_reason=word) == "call_missing"
    assert judge("Let me look.", finish_reason=word, calls=[CALL]) == ""


def test_a_call_in_the_legacy_field_is_missing_while_tools_are_offered():
    """No host of today reads `function_call`; without tools it stays what it was."""
    message = AIMessage("", additional_kwargs={"function_call": {"name": "get_weather", "arguments": J}})
    assert CompleteResponse()(Draft(message=message), StepContext(tools=TOOLS)).code == "call_missing"  # type: ignore[union-attr]
    assert CompleteResponse()(Draft(message=message), StepContext()) is None


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("pause_turn", "truncated"), ("compaction", "truncated"), ("IMAGE_RECITATION", "refused"),
        ("MALFORMED_RESPONSE", "generation_failed"), ("ESCALATION", "~unknown_end"), ("quux", "~unknown_end"),
        ("stop", ""), ("end_turn", ""), ("STOP", ""), ("FinishReason.STOP", ""), ("eos", ""), ("complete", ""),
    ],
)  # fmt: skip
def test_an_unknown_word_for_the_end_is_no_clean_end(word: str, code: str):
    """After partial text a word that nobody knows is a doubt; the clean ones are known."""
    assert judge("It is 21", finish_reason=word) == code


def test_a_prompt_that_ollama_cut_is_a_hard_fail():
    """The server read a full window of a prompt that is eight times as long in characters; a short one is whole."""
    long = (SystemMessage("Rules. " * 9_000),)
    for read in (2_051, 2_048, 4_096, 4_090):
        assert judge("It is 21.", before=long, prompt_eval_count=read, done_reason="stop") == "prompt_cut"
    for read in (15_000, 3_000, 26, True, None):
        assert judge("It is 21.", before=long, prompt_eval_count=read, done_reason="stop") == ""
    assert judge("It is 21.", prompt_eval_count=2_048, done_reason="stop") == ""
    assert judge("It is", done_reason="length") == "truncated"


KEPT: list[tuple[str, str]] = [
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
    (ASK, "[TOOL_CALLS] is Mistral's token for a call."),
    (ASK, "<think> is a tag that reasoning models write."),
    (ASK, "Tool: get_weather\nInput: Paris\nThat is what I would ask; it is 21 degrees."),
    (ASK, "Tool: hammer\nInput: nails"),
    (ASK, "The tag <think> opens a thought, and </think> closes it."),
    (ASK, "`<|im_end|>` ends a turn, then `<|im_start|>user` begins one."),
    (ASK, "ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>user\nHo<|im_end|>\n```"),
    ("Give me JSON with name and arguments", f'{{"name": "get_weather", "arguments": {J}}}'),
    (ASK, '{"name": "Ann", "age": 36}'),
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
    (ASK, "get_weather is a tool that takes a city."),
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
    (ASK, "I will be happy to help you with Rome as well."),
    (ASK, "Shall I check the weather in Rome too?"),
    ("What should I do?", "Call your bank first. They will check the transfer."),
    (ASK, "Je vais bien, merci. Il fait 21 degrés."),
    (ASK, "Steps:\n1. Open the app.\n2. Check the weather."),
    (ASK, "Let me explain: the forecast is made from models, and they differ."),
    (ASK, "<think>Hm</think>It is 21."),
    (ASK, "[THINK]Hm[/THINK]It is 21."),
    (ASK, "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>It is 21.<|return|>"),
    ("Explain ReAct's Action Input", "Thought: x\nAction: search\nAction Input: Paris"),
    (ASK, "Analysis of the weather: it is 21."),
    (ASK, "analysis shows that it will rain."),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "text"), KEPT)
def test_an_answer_that_only_looks_like_it_is_kept(ask: str, text: str):
    """Whoever talks about markup, shows it, or was asked for such a text gives an answer."""
    assert judge(text, ask, finish_reason="stop") == ""


def test_a_script_that_the_conversation_uses_or_speaks_of_is_no_other_script():
    """A system prompt, an earlier message or a tool's result may have asked for it."""
    text = "巴黎今天的天气是二十一度。"
    for before in (SystemMessage("Reply in Chinese."), HumanMessage("你好"), ToolMessage("巴黎：晴", tool_call_id="1")):
        assert judge(text, before=(before,)) == ""
