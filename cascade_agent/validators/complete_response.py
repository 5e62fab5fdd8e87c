"""`CompleteResponse`: the answer is there, whole, of the kind that was requested, and can be kept.

Hard is what the provider or the shape of the message says beyond doubt; what a reader would only suspect is soft.
A refusal in ordinary words is an answer like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from cascade_agent.core.records import Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators import _markup
from cascade_agent.validators._soft import HANDED_ON
from cascade_agent.validators._words import unstorable_text

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.core.scoring import Weight

_SCORES: Final = {
    "call_announced": 0.15,
    "degenerate_text": 0.05,
    "next_turn": 0.1,
    "other_script": 0.15,
    "unknown_end": 0.3,
}
"""Reasoned, not fitted: how often a draft with this sign is right all the same."""


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_CALLS = _words("tool_calls tool_use function_call tool_call")
_WHOLE = _CALLS | _words(
    "stop end_turn stop_sequence stop_token stop_criteria_met eos eos_token endtoken endoftext",
    "complete completed finish finished done end success answer normal unspecified finish_reason_unspecified null none",
)
_ENDED_BADLY: Final = {
    ("truncated", "stopped the answer early"): _words(
        "length",  # OpenAI and everything compatible, Ollama, TGI
        "incomplete max_output_tokens",  # OpenAI Responses, in status and incomplete_details
        "max_tokens",  # Anthropic, Bedrock, Gemini, Cohere
        "model_context_window_exceeded pause_turn compaction",  # Anthropic, the last two are to be continued
        "model_length error_limit",  # Mistral, Cohere
        "token_limit time_limit",  # watsonx
        "abort insufficient_system_resource timeout cancelled",  # vLLM, DeepSeek, several
    ),
    ("refused", "filtered the answer"): _words(
        "content_filter content_filtered guardrail_intervened refusal",  # OpenAI, Azure, Mistral; Bedrock; Anthropic
        "safety recitation blocklist prohibited_content spii",  # Gemini
        "image_safety image_prohibited_content image_recitation",  # Gemini
        "error_toxic sensitive",  # Cohere, Zhipu
    ),
    ("generation_failed", "reports a failed generation"): _words(
        "error failed network_error",
        "malformed_function_call unexpected_tool_call too_many_tool_calls malformed_response",  # Gemini
        "missing_thought_signature no_image",  # Gemini
        "malformed_model_output malformed_tool_use",  # Bedrock
        "load",  # Ollama: the model was loaded, nothing was generated
    ),
}
_BY_WORD: Final = {word: found for found, words in _ENDED_BADLY.items() for word in words}
_NO_OTHER = _words(  # kinds of blocks that are text, or no part of the answer
    "text output_text reasoning reasoning_content thinking redacted_thinking citation refusal",
    "tool_use tool_call tool_call_chunk invalid_tool_call function_call input_json_delta",
)
_VISIBLE = re.compile(r"[^\s\u200b\u200c\u200d\u2060\ufeff]")
_ANSWER_KWARGS = ("audio", "parsed", "function_call", "tool_outputs", "tool_calls")
_MAX_NODES = 2_000
_MAX_BLOCKS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteResponse:
    """Fails hard what is no usable answer at all.

    Codes, the first that holds is reported:

    - `refused`: the provider filtered the answer or the model refused through the refusal channel
    - `truncated`: the answer was cut off at a limit
    - `generation_failed`: the provider says that generating went wrong (malformed call, internal error)
    - `call_forbidden`: a call although `tool_choice` was `"none"`, a second one under `parallel_tool_calls=False`, one
      of a tool that is not among the allowed ones
    - `call_required`: prose, or another tool, although `tool_choice` required a call
    - `empty_answer`: no text, no call, no image or other content; white space, reasoning and the special tokens of a
      chat template (`<|im_end|>`) alone are empty
    - `call_missing`: the provider says that it ends in a call, and there is none, or in a form that hosts do not read
    - `call_as_text`: nothing but the raw markup of calls, offered or not; prose or code that shows one is an answer
    - `runs_on`: template tokens and the next turn of the user, in the text or at the end of an argument; text that goes
      on after a stop word
    - `prompt_cut`: Ollama read a full context window of a prompt that is much longer
    - `unstorable_text`: NUL, lone surrogates or more than `max_chars` characters, which no checkpoint store holds

    Soft, with a score: `call_announced` (the text ends where a call should follow), `degenerate_text` (one piece over
    and over), `other_script` (a script that nobody used), `unknown_end` (a word for the end that nobody knows).

    A finish reason of `None` says nothing: a stream that broke half-way looks like a provider that is silent.

    Args:
        max_chars: longest text that is accepted, in characters.

    Raises:
        ConfigurationError: `max_chars` is not positive.
    """

    max_chars: int = 1_000_000
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "incomplete"
    weights: ClassVar[Mapping[str, Weight]] = dict.fromkeys(_SCORES, HANDED_ON)

    def __post_init__(self) -> None:
        """Refuse a limit that refuses everything."""
        if self.max_chars < 1:
            msg = f"CompleteResponse.max_chars is {self.max_chars!r}; expected a positive number of characters"
            raise ConfigurationError(msg)

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return the first thing that makes the answer unusable or doubtful, or nothing."""
        text, other = _content(draft.message.content)
        answer = _markup.without_thoughts(text) if text else ""
        acts = draft.tool_calls or draft.invalid_tool_calls or draft.parsed is not None
        text_alone = not (acts or any(map(draft.message.additional_kwargs.get, _ANSWER_KWARGS)))
        return (
            _stopped(draft)
            or _choice(draft, context)
            or (_no_answer(answer, context) if text_alone and not other else None)
            or _runs_on(draft, text, context)
            or _missing_call(draft, context)
            or self._unstorable(draft)
            or _prompt_cut(draft, context)
            or _suspect(draft, answer.strip(), context)
        )

    def _unstorable(self, draft: Draft) -> Verdict | None:
        content, kwargs = draft.message.content, draft.message.additional_kwargs
        if _length(content) > self.max_chars:
            return _fail("unstorable_text", f"the text has more than {self.max_chars} characters")
        if isinstance(content, str):
            if unstorable_text(content):
                return _fail("unstorable_text", "the text holds NUL or lone surrogates")
        elif any(map(unstorable_text, _strings(content))):
            return _fail("unstorable_text", "a content block holds NUL or lone surrogates", "/content")
        if kwargs and any(map(unstorable_text, _strings(kwargs))):
            return _fail("unstorable_text", "additional_kwargs hold NUL or lone surrogates", "/additional_kwargs")
        return None


def _fail(code: str, reason: str, path: str = "/text") -> Verdict:
    return Verdict(outcome="fail", code=code, reason=reason, score=_SCORES.get(code), path=path)


# ---- what is read of messages ---------------------------------------------------------------------------------------


def _content(content: object) -> tuple[str, bool]:
    """Return all text of a message, none when something else is part of it, and whether that is so."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", False
    texts, other = list[str](), len(content) > _MAX_BLOCKS
    for block in content[:_MAX_BLOCKS]:
        text = block.get("text") if isinstance(block, Mapping) else block
        if isinstance(text, str):
            texts.append(text)
        elif isinstance(block, Mapping):
            kind = block.get("type", "text")
            other |= isinstance(kind, str) and kind not in _NO_OTHER
    return "" if other else "".join(texts), other


def _length(content: object) -> int:
    blocks = content if isinstance(content, list) else [content]
    texts = (block.get("text") if isinstance(block, Mapping) else block for block in blocks)
    return sum(len(text) for text in texts if isinstance(text, str))


def _request(context: StepContext) -> str:
    """Return what the user wrote last."""
    return _content(context.messages[context.turn_start].content)[0] if context.turn_start >= 0 else ""


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON-like value, keys too, at most `_MAX_NODES` nodes."""
    stack: list[object] = [value]
    for _ in range(_MAX_NODES):
        if not stack:
            return
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)


# ---- what is beyond doubt -------------------------------------------------------------------------------------------


def _plain_word(word: object) -> str:
    return word[:100].lower().rpartition(".")[2].replace("-", "_") if isinstance(word, str) else ""


def _stopped(draft: Draft) -> Verdict | None:
    """Return a finding where the provider, or the model through its refusal channel, says that there is no answer."""
    message, meta = draft.message, draft.message.response_metadata
    if draft.finish_reason not in _WHOLE:
        feedback = meta.get("prompt_feedback")  # Gemini: the prompt was blocked, no candidate exists
        if isinstance(feedback, Mapping) and feedback.get("block_reason"):
            return _fail("refused", "the provider blocked the prompt", "")
        details = meta.get("incomplete_details")  # OpenAI Responses: {"reason": "max_output_tokens" | "content_filter"}
        detail = details.get("reason") if isinstance(details, Mapping) else None
        for word in map(_plain_word, (draft.finish_reason, detail, meta.get("status"))):
            if word in _BY_WORD:
                code, reason = _BY_WORD[word]
                return _fail(code, f"the provider {reason}: {word}", "/finish_reason")
    if message.additional_kwargs.get("refusal"):
        return _fail("refused", "the model refused through its refusal field", "/additional_kwargs/refusal")
    for index, block in enumerate(message.content[:_MAX_BLOCKS] if isinstance(message.content, list) else ()):
        if isinstance(block, Mapping):
            value = block.get("value")  # of a block that LangChain has no kind for
            if "refusal" in (block.get("type"), value.get("type") if isinstance(value, Mapping) else None):
                return _fail("refused", "the model refused through a refusal block", f"/content/{index}")
    return None


def _choice(draft: Draft, context: StepContext) -> Verdict | None:
    """Return a finding where calls, or their lack, are not what the host requested."""
    choice, allowed, calls = context.tool_choice, context.allowed_tools, draft.tool_calls
    if choice == "none":
        if calls or draft.invalid_tool_calls:
            return _fail("call_forbidden", "the answer calls a tool where calls were forbidden", "/tool_calls/0")
    elif choice not in (None, "auto") and draft.parsed is None:
        if not calls and not draft.invalid_tool_calls:  # of a call that cannot be read the schema check speaks
            return _fail("call_required", "the answer is prose where a tool call was required", "/tool_calls")
        other = [i for i, c in enumerate(calls) if c["name"] != choice and choice not in ("required", "any")]
        if other:
            path = f"/tool_calls/{other[0]}/name"
            return _fail("call_required", "the answer calls another tool than the required one", path)
    if context.single_call and len(calls) > 1:
        return _fail("call_forbidden", "more than one call where one alone was allowed", "/tool_calls/1")
    if allowed is not None:
        other = [i for i, c in enumerate(calls) if c["name"] in context.tools_by_name and c["name"] not in allowed]
        if other:
            path = f"/tool_calls/{other[0]}/name"
            return _fail("call_forbidden", "the answer calls a tool that is not among the allowed ones", path)
    return None


def _no_answer(answer: str, context: StepContext) -> Verdict | None:
    """Return a finding where a text without calls and other content says nothing, or is a call by itself."""
    seen = _VISIBLE.search(answer)
    if seen is None or (seen[0] in "<[" and _markup.is_template(answer)):
        return _fail("empty_answer", "the answer holds no text, no tool call and no other content")
    if context.output_schema is None and _markup.is_call(answer, context.tools_by_name, _request(context)):
        return _fail("call_as_text", "the answer is the raw markup of a tool call, not a call")
    return None


def _runs_on(draft: Draft, text: str, context: StepContext) -> Verdict | None:
    for index, call in enumerate(draft.tool_calls):
        if any(map(_markup.ends_in_template, _strings(call["args"]))):
            return _fail("runs_on", "an argument ends in tokens of the chat template", f"/tool_calls/{index}/args")
    if "<" in text and _markup.runs_on(text):
        return _fail("runs_on", "the text runs on as the next turn of the user")
    if context.stop and not draft.tool_calls:
        text = draft.text.rstrip()  # some servers leave the stop word itself at the end
        if any(word.strip() and word in text and not text.endswith(word.rstrip()) for word in context.stop):
            return _fail("runs_on", "the text goes on after a word at which it had to stop")
    return None


def _missing_call(draft: Draft, context: StepContext) -> Verdict | None:
    kwargs = draft.message.additional_kwargs
    if draft.tool_calls or draft.parsed is not None:
        return None
    if kwargs.get("function_call") and context.tools:
        return _fail("call_missing", "the call stands in the legacy field, which no host reads", "/additional_kwargs")
    if draft.finish_reason in _CALLS and not draft.invalid_tool_calls and not kwargs.get("tool_calls"):
        return _fail("call_missing", "the provider announces a call and the answer holds none", "/tool_calls")
    return None


def _prompt_cut(draft: Draft, context: StepContext) -> Verdict | None:
    """Ollama cuts the front of a prompt off without a word: it then reads a whole context window, a power of two."""
    read = draft.message.response_metadata.get("prompt_eval_count")
    if not isinstance(read, int) or isinstance(read, bool) or read < 256:  # no window is smaller
        return None
    window = 1 << (read + read // 32).bit_length() - 1
    if abs(read - window) > window // 32 or sum(_length(m.content) for m in context.messages) <= 8 * read:
        return None
    return _fail("prompt_cut", f"the server read {read} tokens, a full window, of a much longer prompt", "")


# ---- what a reader would suspect -----------------------------------------------------------------------------------

_INTENT = re.compile(
    r"\W*(?:(?:okay|ok|sure|certainly|of course|now|first)\W+)*(?:i['’]ll|i will|i['’]m going to|"
    r"i am going to|i need to|let me|let['’]s|one moment|ich werde|lass mich|ich schaue|je vais|laissez-moi|voy a|"
    r"déjame|permíteme|vou |deixe-me|lasciami|sto per|сейчас |давайте |позвольте |我来|我将|让我|讓我|我会|少々お待ち)"
    r"(?!\s+(?:know|explain|be (?:clear|honest)|summari[sz]e))(?P<rest>[^\n]{0,300})$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?]")
_ACTING = re.compile(
    r"\b(?:checking|looking|searching|fetching|calling|getting|retrieving|querying)\b[^.!?\n]{0,80}(?:\bnow\b|\.\.\.|…|:$)",
    re.IGNORECASE,
)
_NEXT_TURN = re.compile(  # a chat played on without a template: a line of the user, and one that answers it
    r"\n\s*(?:user|human)\s?: [^\n]+\n+\s*(?:assistant|ai|bot)\s?:|\n\s*###\s?(?:instruction|human|user)\s?:",
    re.IGNORECASE,
)
_DIALOGUE = re.compile(
    r"dialog|conversation|transcript|chat|script|user|human|prompt|instruction|template", re.IGNORECASE
)
_ACTS = re.compile(
    r"\b(?:calls?|check|use|look|search|fetch|get|retrieve|query|find|run|invoke|prüfe|nachsehen|nachschauen|aufrufen|"
    r"abrufen|suche|vérifier|appeler|chercher|consulter|consultar|buscar|llamar|verificar|chamar|controllare|cercare|проверю|посмотрю|вызову)|"
    r"查|调用|搜索|調べ|確認",
    re.IGNORECASE,
)
_SCRIPTS = re.compile("[\u0400-\u052f\u0590-\u06ff\u0900-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LANGUAGES = re.compile(
    r"translat|language|bilingual|chinese|mandarin|cantonese|japanese|korean|russian|ukrainian|bulgarian|serbian|arabic|"
    r"persian|farsi|urdu|hebrew|hindi|bengali|tamil|telugu|thai|kanji|hiragana|hangul|cyrillic|pinyin|script",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[\d\s,;|.\[\](){}=_*#~+-]*")
_WINDOW, _LOOPS, _LONG = 60, 15, 300


def _suspect(draft: Draft, text: str, context: StepContext) -> Verdict | None:
    word = draft.finish_reason
    if word is not None and _plain_word(word) not in _WHOLE and not draft.tool_calls:
        return _fail("unknown_end", "the provider ends the answer with a word that is no clean end", "/finish_reason")
    if not text or draft.parsed is not None:
        return None
    request = _request(context)
    if _loops(text, request):
        return _fail("degenerate_text", "one piece of text over and over again")
    if _NEXT_TURN.search(text) and not _DIALOGUE.search(request):
        return _fail("next_turn", "the text goes on as the next turn of the user")
    if not draft.tool_calls and context.tools and _announces(text):
        return _fail("call_announced", "the text ends where a call should follow")
    if _in_other_script(text, context.messages, request):
        return _fail("other_script", "the answer is in a script that the conversation does not use")
    return None


def _loops(text: str, request: str) -> bool:
    """Return whether more than half of a long text is one piece over and over, which nobody asked for."""
    if len(text) < _LONG:
        return False
    tail = text[-_WINDOW:]
    step = len(text) - _WINDOW - text.rfind(tail, 0, len(text) - 1)
    unit = text[-step:]
    if step > len(text) // _LOOPS or _PLAIN.fullmatch(unit) or "|" in unit:
        return False
    if unit.strip().lower() in request.lower() and re.search(r"[\d\"'“«]", request):  # say this so many times
        return False
    covered = next((i for i in range(step, len(text), step) if text[-i - step : -i] != unit), len(text))
    return covered > len(text) // 2 and covered >= _LOOPS * step


def _announces(text: str) -> bool:
    if len(text) > 4 * _LONG or "```" in text:
        return False
    last = text.rpartition("\n")[2].strip().strip("*_ ")
    if len(last) < _LONG and _ACTING.search(last):
        return True
    if last.endswith(("?", "？")):
        return False
    starts = (0, *(end.end() for end in _SENTENCE_END.finditer(last)))
    intent = next(filter(None, (_INTENT.match(last, start) for start in starts)), None)
    if intent is None or last.endswith((":", "：")):
        return intent is not None
    return not re.search(r"[.!?]\s", intent["rest"]) and _ACTS.search(intent[0]) is not None


def _in_other_script(text: str, messages: Sequence[BaseMessage], request: str) -> bool:
    """Return whether an answer is mostly in a script of which nothing in the conversation speaks."""
    if text.isascii() or sum(c.isalpha() for c in request[:2_000]) < 12 or _SCRIPTS.search(request):
        return False
    letters = [c for c in text[:2_000] if c.isalpha()]
    other = [c for c in letters if _SCRIPTS.match(c)]
    if not other[3:] or 2 * len(other) < len(letters):  # a word or two, or a name
        return False
    rest = [_content(m.content)[0][:20_000] for m in messages[-50:] if m.type in ("human", "system", "tool")]
    return not any(_LANGUAGES.search(part) or _SCRIPTS.search(part) for part in rest)
