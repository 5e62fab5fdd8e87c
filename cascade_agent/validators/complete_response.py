"""`CompleteResponse`: whether the answer is there, whole, of the kind that was asked for, and can be kept.

Law: only what the provider or the message itself says counts. A refusal in ordinary words is an answer like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators._raw_calls import is_markup, raw_calls

if TYPE_CHECKING:
    from cascade_agent.core.records import Draft, StepContext

_WHOLE = frozenset({"stop", "tool_calls", "end_turn", "tool_use", "stop_sequence", "eos_token", "complete"})

_TRUNCATED = frozenset(
    {
        "length",  # OpenAI and everything compatible, Ollama, TGI
        "max_tokens",  # Anthropic, Bedrock, Gemini, Cohere
        "max_output_tokens",  # OpenAI Responses, in incomplete_details
        "incomplete",  # OpenAI Responses, in status
        "model_length",  # Mistral
        "model_context_window_exceeded",  # Anthropic, Bedrock
        "error_limit",  # Cohere
        "token_limit",  # watsonx
        "time_limit",  # watsonx
        "timeout",
        "cancelled",
        "abort",  # vLLM
        "insufficient_system_resource",  # DeepSeek
    }
)
_REFUSED = frozenset(
    {
        "content_filter",  # OpenAI, Azure, Mistral
        "content_filtered",  # Bedrock
        "guardrail_intervened",  # Bedrock
        "refusal",  # Anthropic
        "safety",  # Gemini, and the six that follow
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "image_safety",
        "image_prohibited_content",
        "error_toxic",  # Cohere
        "sensitive",  # Zhipu
    }
)
_FAILED = frozenset(
    {
        "error",
        "failed",
        "network_error",
        "malformed_function_call",  # Gemini
        "unexpected_tool_call",  # Gemini
        "too_many_tool_calls",  # Gemini
        "malformed_model_output",  # Bedrock
        "malformed_tool_use",  # Bedrock
        "load",  # Ollama: the model was loaded, nothing was generated
    }
)

_NOT_AN_ANSWER = frozenset(
    {
        "reasoning",
        "reasoning_content",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "function_call",
        "input_json_delta",
        "citation",
        "refusal",
    }
)
_TEXT_BLOCKS = frozenset({"text", "output_text"})
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
    - `call_forbidden`: a call although `tool_choice` was `"none"`
    - `call_required`: prose, or another tool, although `tool_choice` required a call
    - `empty_answer`: no text, no call, no image or other content; white space, reasoning and the special tokens of a
      chat template (`<|im_end|>`) alone are empty
    - `call_as_text`: nothing but the raw markup of calls, of an offered tool, where the server should have parsed them;
      prose or a code block that shows a call is an answer, so is bare JSON
    - `unstorable_text`: NUL, lone surrogates or more than `max_chars` characters, which no checkpoint store holds

    A finish reason of `None` says nothing: a stream that broke half-way cannot be told from a provider that is silent.

    Args:
        max_chars: longest text that is accepted, in characters.

    Raises:
        ConfigurationError: `max_chars` is not positive.
    """

    max_chars: int = 1_000_000
    name: ClassVar[str] = "CompleteResponse"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "incomplete"

    def __post_init__(self) -> None:
        """Refuse a limit that refuses everything."""
        if self.max_chars < 1:
            msg = f"CompleteResponse.max_chars is {self.max_chars!r}; expected a positive number of characters"
            raise ConfigurationError(msg)

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """The first thing that makes the answer unusable, or nothing."""
        return (
            _stopped(draft)
            or _refusal(draft)
            or _choice(draft, context)
            or _empty(draft)
            or _call_as_text(draft, context)
            or self._unstorable(draft)
        )

    def _unstorable(self, draft: Draft) -> Verdict | None:
        message = draft.message
        content = message.content
        if _text_length(content) > self.max_chars:
            return _fail("unstorable_text", f"the text has more than {self.max_chars} characters", "/text")
        if isinstance(content, str):
            if not _storable(content):
                return _fail("unstorable_text", "the text holds NUL or lone surrogates", "/text")
        elif not all(_storable(text) for text in _strings(content)):
            return _fail("unstorable_text", "a content block holds NUL or lone surrogates", "/content")
        kwargs = message.additional_kwargs
        if kwargs and not all(_storable(text) for text in _strings(kwargs)):
            return _fail("unstorable_text", "additional_kwargs hold NUL or lone surrogates", "/additional_kwargs")
        return None


def _fail(code: str, reason: str, path: str = "") -> Verdict:
    return Verdict(outcome="fail", code=code, reason=reason, path=path, validator=CompleteResponse.name)


# ---- how the provider says that it stopped --------------------------------------------------------------------------


def _stopped(draft: Draft) -> Verdict | None:
    reason = draft.finish_reason
    if reason in _WHOLE:
        return None
    meta = draft.message.response_metadata
    words: list[object] = [reason]
    details = meta.get("incomplete_details")  # OpenAI Responses: {"reason": "max_output_tokens" | "content_filter"}
    if isinstance(details, Mapping):
        words.append(details.get("reason"))
    words.append(meta.get("status"))
    feedback = meta.get("prompt_feedback")  # Gemini: the prompt was blocked, no candidate exists
    if isinstance(feedback, Mapping) and feedback.get("block_reason"):
        return _fail("refused", "the provider blocked the prompt")
    for word in words:
        verdict = _by_word(word)
        if verdict is not None:
            return verdict
    return None


def _by_word(word: object) -> Verdict | None:
    if not isinstance(word, str):
        return None
    word = word[:100].lower().rpartition(".")[2].replace("-", "_")
    if word in _TRUNCATED:
        return _fail("truncated", f"the provider stopped the answer early: {word}", "/finish_reason")
    if word in _REFUSED:
        return _fail("refused", f"the provider filtered the answer: {word}", "/finish_reason")
    if word in _FAILED:
        return _fail("generation_failed", f"the provider reports a failed generation: {word}", "/finish_reason")
    return None


def _refusal(draft: Draft) -> Verdict | None:
    message = draft.message
    if message.additional_kwargs.get("refusal"):
        return _fail("refused", "the model refused through its refusal field", "/additional_kwargs/refusal")
    content = message.content
    if isinstance(content, list):
        for index, block in enumerate(content[:_MAX_BLOCKS]):
            if isinstance(block, Mapping) and (
                block.get("type") == "refusal"
                or (isinstance(value := block.get("value"), Mapping) and value.get("type") == "refusal")
            ):
                return _fail("refused", "the model refused through a refusal block", f"/content/{index}")
    return None


# ---- of the kind that was asked for ---------------------------------------------------------------------------------


def _choice(draft: Draft, context: StepContext) -> Verdict | None:
    choice = context.tool_choice
    if choice is None or choice == "auto":
        return None
    calls = draft.tool_calls
    if choice == "none":
        forbidden = calls or draft.invalid_tool_calls
        reason = "the answer calls a tool where calls were forbidden"
        return _fail("call_forbidden", reason, "/tool_calls/0") if forbidden else None
    if draft.parsed is not None:
        return None
    if not calls and not draft.invalid_tool_calls:  # of a call that cannot be read the schema check speaks
        return _fail("call_required", "the answer is prose where a tool call was required", "/tool_calls")
    if choice not in ("required", "any"):
        for index, call in enumerate(calls):
            if call.get("name") != choice:
                return _fail(
                    "call_required", "the answer calls another tool than the required one", f"/tool_calls/{index}/name"
                )
    return None


# ---- there at all ---------------------------------------------------------------------------------------------------


def _empty(draft: Draft) -> Verdict | None:
    message = draft.message
    if message.tool_calls or message.invalid_tool_calls or draft.parsed is not None:
        return None
    content = message.content
    blocks = content if isinstance(content, list) else [content]
    if len(blocks) > _MAX_BLOCKS or any(_answers(block) for block in blocks):
        return None
    kwargs = message.additional_kwargs
    if any(kwargs.get(key) for key in _ANSWER_KWARGS):
        return None
    return _fail("empty_answer", "the answer holds no text, no tool call and no other content", "/text")


def _answers(block: object) -> bool:
    if isinstance(block, str):
        return _says_something(block)
    if not isinstance(block, Mapping):
        return False
    kind = block.get("type", "text")
    if not isinstance(kind, str):
        return False
    if kind in _TEXT_BLOCKS:
        text = block.get("text")
        return isinstance(text, str) and _says_something(text)
    return kind not in _NOT_AN_ANSWER


def _says_something(text: str) -> bool:
    """Whether anything but white space, invisible characters, inline reasoning and special tokens is in the text."""
    text = _without_thoughts(text)
    seen = _VISIBLE.search(text)
    return seen is not None and not (seen[0] in "<[" and is_markup(text))


def _without_thoughts(text: str) -> str:
    """The text behind inline reasoning, which stands there when a model is served without a reasoning parser."""
    return text.partition("</think>")[2] if text[:64].lstrip().startswith("<think>") else text


def _call_as_text(draft: Draft, context: StepContext) -> Verdict | None:
    message = draft.message
    if not context.tools or message.tool_calls or message.invalid_tool_calls or draft.parsed is not None:
        return None
    if any(message.additional_kwargs.get(key) for key in _ANSWER_KWARGS):
        return None
    content = message.content
    text = content if isinstance(content, str) else _only_text(content)
    seen = _VISIBLE.search(text)
    if seen is None or seen[0] not in "<[ft":  # how markup begins
        return None
    if not any(name in context.tools_by_name for name in raw_calls(_without_thoughts(text))):
        return None
    return _fail("call_as_text", "the answer is the raw markup of a tool call, not a call", "/text")


def _only_text(content: object) -> str:
    """All text of content blocks; none when something else than text is part of the answer."""
    if not isinstance(content, list) or len(content) > _MAX_BLOCKS:
        return ""
    texts: list[str] = []
    for block in content:
        text = block.get("text") if isinstance(block, Mapping) else block
        if isinstance(text, str):
            texts.append(text)
        elif _answers(block):
            return ""
    return "".join(texts)


# ---- can be kept ----------------------------------------------------------------------------------------------------


def _text_length(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    texts = (block.get("text") if isinstance(block, Mapping) else block for block in content)
    return sum(len(text) for text in texts if isinstance(text, str))


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
