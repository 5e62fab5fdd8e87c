"""The conversation in the form that the model which is asked next takes.

What another provider, or another host of the same provider, wrote becomes text, tool calls and standard media blocks;
its reasoning, server-side items, ids and citations stay behind. What the asked model wrote itself comes back untouched.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from cascade_agent.core.message_memo import MessageMemo
from cascade_agent.models import prompt_cache
from cascade_agent.models.traits import NESTED, RESPONSES, family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.models.traits import ModelTraits

_PLAIN_KWARGS = frozenset({"refusal", "tool_calls"})
_CONTENT = attrgetter("content")
_BY_A_MODEL = frozenset({"ai", "AIMessageChunk"})
_RESPONSE_IDS = ("msg_", "resp_", "rs_", "fc_")
_MEDIA = frozenset({"image", "audio", "video", "file"})
_MEDIA_KEYS = ("type", "base64", "url", "mime_type")
_MEDIA_FORMS = frozenset({*_MEDIA, "image_url", "input_image", "image_generation_call", "media", "document"})
_SPECIAL_INPUT = frozenset({"document", "media", "input_image", "input_file", "input_text", "input_audio"})
_IMAGES_IN_ANSWERS = frozenset({"google_genai", "ollama"})
"""The providers that take a picture in the model's own turn; for the others it is shown in the user's next one."""
_BY_BLOCK = {
    "redacted_thinking": "anthropic",
    "server_tool_use": "anthropic",
    "tool_use": "anthropic",
    "web_search_tool_result": "anthropic",
    "code_execution_tool_result": "anthropic",
    "executable_code": "google_genai",
    "code_execution_result": "google_genai",
    "function_call": RESPONSES,
    "web_search_call": RESPONSES,
    "code_interpreter_call": RESPONSES,
    "image_generation_call": RESPONSES,
}
_NO_TEXT = "(no text)"
_PICTURE = "[image]"


def messages_for(
    model: ModelTraits,
    messages: list[BaseMessage],
    *,
    pair: Mapping[Any, ModelTraits] | None = None,
    note: str | None = None,
) -> list[BaseMessage]:
    """Return the conversation as a model takes it; the very list given where all of it is plain text and calls.

    Args:
        model: The model that is asked.
        messages: The conversation; neither the list nor a message is changed.
        pair: Both tiers by role, by which the record on a message says which of them wrote it.
        note: Feedback for the model, put where it keeps the order of roles.
    """
    if note is not None:
        messages = with_note(messages, note)
    if model.kind == NESTED:
        return messages  # its own tiers are each given their form
    if not _all_plain(messages, ids=model.form == RESPONSES):
        messages = _unique_ids(_Rewriting(model, pair or {}).all(messages))
    return _thinking_first(messages) if model.manual_thinking else messages


def with_note(messages: Sequence[BaseMessage], note: str) -> list[BaseMessage]:
    """Return the messages with a note at the end: a user's turn, or part of the last message where a turn is open.

    Some providers refuse a user's message right after a tool's or another user's.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, HumanMessage | ToolMessage):
        return [*messages, HumanMessage(note)]
    content = last.content
    longer = f"{content}\n\n{note}" if isinstance(content, str) else [*content, {"type": "text", "text": note}]
    return [*messages[:-1], last.model_copy(update={"content": longer})]


# ---- what needs no work ---------------------------------------------------------------------------------------------


def _all_plain(messages: Sequence[BaseMessage], *, ids: bool) -> bool:
    names = list(chain.from_iterable((_PLAIN_WITHOUT_IDS if ids else _PLAIN).all(messages)))
    # hosts change content in place, so its type is looked at each time
    return all(names) and len(set(names)) == len(names) and {str}.issuperset(map(type, map(_CONTENT, messages)))


def ids_of_calls(messages: Sequence[BaseMessage]) -> set[str]:
    """Return the ids of the calls that the answers of a conversation made."""
    ids = set(chain.from_iterable(_PLAIN.all(messages)))
    return set(chain.from_iterable(map(_ids, messages))) if "" in ids else ids


def _ids(message: BaseMessage) -> tuple[str, ...]:
    calls = cast("AIMessage", message).tool_calls if message.type in _BY_A_MODEL else ()
    return tuple([call["id"] or "" for call in calls])


def _plain_ids(message: BaseMessage, *, ids: bool = False) -> tuple[str, ...]:
    """Return the ids of a message's calls; an empty one where another provider might not take it as it is."""
    plain = type(message.content) is str and (
        message.type not in _BY_A_MODEL or _is_plain(cast("AIMessage", message), ids=ids)
    )
    return _ids(message) if plain else ("",)


def _is_plain(message: AIMessage, *, ids: bool) -> bool:
    """Return whether an answer with text for content is in a form that every provider takes, with `ids` its ids too."""
    content, extra = message.content, message.additional_kwargs
    if (not content and not message.tool_calls) or cast("str", content).isspace():
        return False
    if extra and (extra.get("refusal") or not _PLAIN_KWARGS.issuperset(extra)):
        return False
    if extra and "tool_calls" in extra and not message.tool_calls:
        return False
    return not ids or not (
        str(message.id or "").startswith(_RESPONSE_IDS)
        or str(message.response_metadata.get("id") or "").startswith("resp_")
    )


_PLAIN, _PLAIN_WITHOUT_IDS = MessageMemo(_plain_ids), MessageMemo(partial(_plain_ids, ids=True))


# ---- who wrote it ---------------------------------------------------------------------------------------------------


def form_of(message: AIMessage) -> str | None:
    """Return the form an answer is written in: its provider's name, `openai/responses`, None where it has no mark."""
    meta = message.response_metadata
    provider = family(meta.get("model_provider"))
    blocks = [block for block in message.content if isinstance(block, dict)]
    if provider is None:
        return next((form for form in map(_form_of_block, blocks) if form), None)
    responses = str(meta.get("id") or message.id or "").startswith(_RESPONSE_IDS) or meta.get("object") == "response"
    if provider == "openai" and (responses or any(_form_of_block(block) == RESPONSES for block in blocks)):
        return RESPONSES
    return provider


def _form_of_block(block: JsonMapping) -> str | None:
    kind = block.get("type")
    if kind == "thinking":
        return "mistralai" if isinstance(block.get("thinking"), list) else "anthropic" if "signature" in block else None
    if kind == "reasoning" and ("summary" in block or "encrypted_content" in block):
        return RESPONSES
    return _BY_BLOCK.get(str(kind))


def _writer(message: AIMessage, pair: Mapping[Any, ModelTraits]) -> ModelTraits | None:
    """Return the tier of the pair that wrote an answer, by the innermost record on it; None where it does not say."""
    record = message.response_metadata.get("cascade")
    found: ModelTraits | None = None
    while isinstance(record, Mapping):
        role, attempts = record.get("final_tier"), record.get("attempts")
        attempts = attempts if isinstance(role, str) and isinstance(attempts, list) else []
        own = next((a for a in reversed(attempts) if isinstance(a, Mapping) and a.get("tier") == role), None)
        if own is None:
            return None
        tier, record = pair.get(role), own.get("inner")
        found = tier if tier is not None and own.get("model") in (tier.model_name, tier.label) else None
    return None if found is None or found.kind == NESTED else found


# ---- rewriting ------------------------------------------------------------------------------------------------------


class _Rewriting:
    """One conversation on its way to one tier."""

    def __init__(self, model: ModelTraits, pair: Mapping[Any, ModelTraits]) -> None:
        self.model, self.pair = model, pair
        self.other_marks = model.known or any(other.kind != model.kind for other in pair.values())
        self.pictures: list[JsonObject] = []
        """Media of a model's turn that are to be shown in the user's next one."""

    def all(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        out: list[BaseMessage] = []
        for message in messages:
            if isinstance(message, AIMessage):
                plain = type(message.content) is str and _is_plain(message, ids=self.model.form == RESPONSES)
                out.append(message if plain or self.is_own(message) else self.answer(message))
            else:
                out.append(self.input(message))
        return out

    def is_own(self, message: AIMessage) -> bool:
        """Tell whether the asked tier, or another model at its host, wrote an answer in the form the tier takes."""
        model, form = self.model, form_of(message)
        writer = _writer(message, self.pair)
        if writer is not None:
            return (writer is model or writer.same_host(model)) and form in (None, model.form)
        if form is None:
            return not model.known  # neither side is known: as it is
        return form == model.form and form != RESPONSES  # its ids belong to a host that nobody named

    def answer(self, message: AIMessage) -> AIMessage:
        """Return another model's answer as text, calls and media."""
        text, media = _text_of(message), _media_of(message)
        if media and not (self.model.family in _IMAGES_IN_ANSWERS or message.tool_calls):
            if self.model.sees_images:
                self.pictures += media
            text, media = text or _PICTURE, []
        elif message.tool_calls:
            media = []
        calls = message.tool_calls or message.invalid_tool_calls
        if not text and not media and not calls:
            text = _NO_TEXT  # an empty turn is refused by some, and a missing one breaks the order of roles
        content: Any = [*([{"type": "text", "text": text}] if text else ()), *media] if media else text
        kept = {name: getattr(message, name) for name in ("tool_calls", "invalid_tool_calls", "name")}
        return AIMessage(content, id=None if str(message.id or "").startswith(_RESPONSE_IDS) else message.id, **kept)

    def input(self, message: BaseMessage) -> BaseMessage:
        """Return a message that no model wrote: without marks of another provider, in blocks that all of them read."""
        if self.pictures and isinstance(message, HumanMessage):
            message, self.pictures = _with_pictures(message, self.pictures), []
        if isinstance(message.content, str):
            return message
        if self.other_marks:
            message = prompt_cache.for_message(message, self.model.kind)
        content: Any = message.content
        if self.model.plain_strings and (joined := _joined(content)) is not None:
            return message.model_copy(update={"content": joined})
        if not isinstance(message, HumanMessage) or self.model.family == "anthropic":
            return message
        blocks = [_standard_input(block, self.model) for block in content]
        if all(new is old for new, old in zip(blocks, content, strict=True)):
            return message
        return message.model_copy(update={"content": blocks})


def _text_of(message: AIMessage) -> str:
    """Return an answer's text; a refusal is text too."""
    text, apart = "", False
    for block in [message.content] if isinstance(message.content, str) else message.content:
        words = block if isinstance(block, str) else _words_of(block)
        if words is None:
            apart = bool(text)
        elif words:
            text, apart = text + ("\n\n" if apart else "") + words, False
    return text if text.strip() else str(message.additional_kwargs.get("refusal") or "")


def _words_of(block: JsonMapping) -> str | None:
    kind = block.get("type")
    value = block.get("value") if kind == "non_standard" else None
    if isinstance(value, dict):
        block, kind = value, value.get("type")
    words = block.get({"text": "text", "output_text": "text", "refusal": "refusal"}.get(str(kind), ""))
    return words if isinstance(words, str) else None


def _media_of(message: AIMessage) -> list[JsonObject]:
    """Return the media of an answer as standard blocks that carry their data or a URL."""
    content = message.content
    if isinstance(content, str) or not any(isinstance(b, dict) and b.get("type") in _MEDIA_FORMS for b in content):
        return []
    return [found for found in map(_standard_media, message.content_blocks) if found is not None]


def _standard_media(block: JsonMapping) -> JsonObject | None:
    if block.get("type") not in _MEDIA or not (block.get("base64") or block.get("url")):
        return None
    found = {key: block[key] for key in _MEDIA_KEYS if block.get(key)}
    if "base64" in found and found["type"] == "image":
        found.setdefault("mime_type", "image/png")
    return found


def _standard_input(block: Any, model: ModelTraits) -> Any:
    """Return a user's block, written for one provider, as a standard one."""
    if not isinstance(block, dict):
        return block
    kind = block.get("type")
    foreign = kind in _SPECIAL_INPUT or (kind in ("image", "file") and "source" in block)
    if not foreign or (str(kind).startswith("input_") and model.form == RESPONSES):
        return block
    standard = HumanMessage([dict(block)]).content_blocks[0]
    return block if standard["type"] == "non_standard" else _standard_media(standard) or standard


def _joined(content: Sequence[Any]) -> str | None:
    """Return blocks that are all text as one string."""
    texts = [block if isinstance(block, str) else _words_of(block) for block in content]
    return None if None in texts else "\n".join(cast("list[str]", texts))


def _with_pictures(message: BaseMessage, pictures: Sequence[JsonObject]) -> BaseMessage:
    content = message.content
    rest: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    return message.model_copy(update={"content": [*pictures, *rest]})


# ---- ids and thinking -----------------------------------------------------------------------------------------------


def _unique_ids(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Give calls whose id is empty, or was used in an earlier turn, one of their own; their results follow."""
    seen: set[str] = set()
    renamed: dict[str, deque[str]] = {}
    out: list[BaseMessage] = []
    for turn, message in enumerate(messages):
        if isinstance(message, AIMessage) and message.tool_calls and isinstance(message.content, str):
            renamed, calls = {}, []
            for index, call in enumerate(message.tool_calls):
                given, name = call["id"], call["id"]
                if not name or name in seen:
                    name = f"call_{turn}_{index}"
                    renamed.setdefault(given or "", deque()).append(name)
                seen.add(name)
                calls.append({**call, "id": name})
            out.append(message.model_copy(update={"tool_calls": calls}) if renamed else message)
        elif isinstance(message, ToolMessage) and renamed.get(message.tool_call_id or ""):
            name = renamed[message.tool_call_id or ""].popleft()
            out.append(message.model_copy(update={"tool_call_id": name}))
        else:
            out.append(message)
    return out


def _thinking_first(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Return the messages so that a turn which a thinking model takes over in the middle begins with its own thought.

    Anthropic's manual thinking refuses a turn whose last answer does not start with a thinking block. What another
    model did in the open turn is given to it as text.
    """
    if not messages or not isinstance(messages[-1], ToolMessage):
        return messages
    start = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=-1) + 1
    out, as_text = messages[:start], False
    for message in messages[start:]:
        if isinstance(message, AIMessage):
            as_text = not _starts_with_thought(message)
        if not as_text:
            out.append(message)
        elif isinstance(message, AIMessage):
            calls = [f"I called {c['name']}({json.dumps(c['args'], ensure_ascii=False)})." for c in message.tool_calls]
            out.append(HumanMessage("\n".join(["[Done so far]", *filter(None, [str(message.text)]), *calls])))
        elif isinstance(message, ToolMessage):
            content, head = message.content, f"[Result of {message.name or 'the tool'}]"
            whole = isinstance(content, str)
            out.append(HumanMessage(f"{head}\n{content}" if whole else [{"type": "text", "text": head}, *content]))
        else:
            out.append(message)
    return out


def _starts_with_thought(message: AIMessage) -> bool:
    first = message.content[0] if isinstance(message.content, list) and message.content else None
    return isinstance(first, dict) and first.get("type") in ("thinking", "redacted_thinking", "reasoning")
