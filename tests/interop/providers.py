"""Six providers on the loopback: each writes what its models can write, and refuses what its API refuses to read.

A user's text `write <kind>` makes the next answer one of that kind; all else is answered with plain text. What a
server issues (ids, signatures, encrypted content) carries its own mark, and it refuses another server's. The checks
follow the request types of the SDKs (openai.types, anthropic.types, google's Content, Mistral's and Ollama's messages)
and the rules of order that the APIs add to them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tests.loopback import Handler, Loopback

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CALL: dict[str, Any] = {"name": "get_weather", "args": {"city": "Paris"}}
KINDS: dict[str, tuple[str, ...]] = {
    "openai": ("plain", "call", "refusal"),
    "responses": ("plain", "call", "reasoning", "reasoning call", "encrypted", "search", "code", "refusal", "image"),
    "anthropic": ("plain", "call", "thinking", "thinking call", "redacted", "search", "code"),
    "gemini": ("plain", "call", "thinking", "thinking call", "code", "image"),
    "mistral": ("plain", "call", "thinking", "citation"),
    "ollama": ("plain", "call", "thinking", "thinking call"),
}
TEXT = "It is 21."


class _Handler(Handler):
    owner: Providers

    def answer(self) -> None:
        body, mark = self.payload(), self.owner.mark
        provider, check, write = next(found for path, found in _ROUTES.items() if path in self.path)
        try:
            text = check(body, mark)
            kind = found[1].strip() if (found := re.search(r"write ([a-z ]+)", text)) else "plain"
            status, answer = 200, write(kind, mark)
            self.owner.bodies.append((provider, body))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            status, answer = 400, {"error": {"message": f"{type(error).__name__}: {error}", "code": 400}}
        self.reply(answer, status)


class Providers(Loopback):
    """All six at one address; `bodies` are the requests that passed the checks, as (provider, body)."""

    handler = _Handler

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self._models: dict[tuple[str, str], Any] = {}
        self.url = self.address
        self.mark = f"h{self.url.rpartition(':')[2]}"

    def model(self, provider: str, **settings: Any) -> Any:
        """Return a model of the real integration that asks here; the same one again for the same settings."""
        key = (provider, repr(settings))
        if key not in self._models:
            module, name, given = self._client(provider)
            self._models[key] = getattr(import_module(module), name)(**{**given, **settings})
        return self._models[key]

    def _client(self, provider: str) -> tuple[str, str, dict[str, Any]]:
        url, key = self.url, {"api_key": "x", "max_retries": 0}
        if provider in ("openai", "responses"):
            more = {"use_responses_api": True} if provider == "responses" else {}
            return "langchain_openai", "ChatOpenAI", {"model": "gpt-5", "base_url": f"{url}/openai/v1", **key, **more}
        if provider == "anthropic":
            return "langchain_anthropic", "ChatAnthropic", {"model": "claude-sonnet-4-5", "base_url": url, **key}
        if provider == "gemini":
            from langchain_google_genai import ChatGoogleGenerativeAI

            there: dict[str, Any] = {"base_url": url}
            if "transport" in ChatGoogleGenerativeAI.model_fields:  # before 4.0
                there = {"api_transport": "rest", "client_options": {"api_endpoint": url}}
            given = {"model": "gemini-2.5-flash", "google_api_key": "x", "max_retries": 1, **there}
            return "langchain_google_genai", "ChatGoogleGenerativeAI", given
        if provider == "mistral":
            given = {"model": "magistral-small", "endpoint": f"{url}/mistral/v1", **key, "max_retries": 1}
            return "langchain_mistralai", "ChatMistralAI", given
        return "langchain_ollama", "ChatOllama", {"model": "qwen3:8b", "base_url": url, "reasoning": True}


def _need(condition: object, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _keys(value: Mapping[str, Any], required: str, optional: str = "") -> None:
    _need(isinstance(value, Mapping), f"{value!r} is no object")
    missing = set(required.split()) - value.keys()
    unknown = value.keys() - set(required.split()) - set(optional.split())
    _need(not missing and not unknown, f"missing {sorted(missing)}, unknown {sorted(unknown)} in {str(value)[:200]}")


def _blocks(content: Any, kinds: dict[str, tuple[str, str]], where: str) -> list[dict[str, Any]]:
    """Return the blocks of a content that is text or blocks of these kinds (required and optional keys next to type)."""
    if isinstance(content, str):
        _need(content.strip(), f"{where} is blank")
        return [{"type": "text", "text": content}]
    _need(isinstance(content, list) and content, f"{where} is {content!r}")
    for block in content:
        _need(block.get("type") in kinds, f"{where} has a block {block.get('type')!r}")
        required, optional = kinds[block["type"]]
        _keys(block, f"type {required}", optional)
        _need(block["type"] != "text" or block["text"].strip(), f"{where} has a blank text")
    return list(content)


def _words(blocks: list[dict[str, Any]]) -> str:
    return " ".join(str(block.get("text", "")) for block in blocks)


class _Calls:
    """Every call is answered right after it, every answer belongs to a call, no id comes twice."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.seen: set[str] = set()

    def turn(self, role: str) -> None:
        if role != "tool":
            self.closed()

    def made(self, name: Any) -> None:
        _need(isinstance(name, str) and name and name not in self.seen, f"call id {name!r}")
        self.open.add(name)
        self.seen.add(name)

    def answered(self, name: str) -> None:
        _need(name in self.open, f"no open call {name!r}")
        self.open.discard(name)

    def closed(self) -> None:
        _need(not self.open, f"calls {self.open} are not answered")


# ---- OpenAI and Mistral -----------------------------------------------------------------------------------------------
def _check_openai(body: dict[str, Any], _: str) -> str:
    calls, text = _Calls(), ""
    for message in body["messages"]:
        role, content = message["role"], message.get("content")
        calls.turn(role)
        if role == "assistant":
            _keys(message, "role", "content name tool_calls refusal audio")
            _need(isinstance(content, str) or message.get("tool_calls"), "an empty assistant turn")
            _need(content is None or isinstance(content, str), f"assistant content {content!r}")
            for call in message.get("tool_calls") or ():
                _keys(call, "id type function")
                _keys(call["function"], "name arguments")
                json.loads(call["function"]["arguments"])
                calls.made(call["id"])
        elif role == "tool":
            _keys(message, "role content tool_call_id")
            _need(isinstance(content, str), f"tool content {content!r}")
            calls.answered(message["tool_call_id"])
            text = ""
        else:
            _keys(message, "role content", "name")
            found = _blocks(content, {"text": ("text", ""), "image_url": ("image_url", "")}, role)
            _need(isinstance(content, str) or any(b["type"] != "text" for b in found), "text in a list")
            text = _words(found)
    calls.closed()
    return text


_CHUNKS = {"text": ("text", ""), "image_url": ("image_url", "")}
_FOLLOWS = {
    "system": ("system", "user"),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


def _check_mistral(body: dict[str, Any], mark: str) -> str:
    calls, text, last = _Calls(), "", "system"
    more = {**_CHUNKS, "thinking": ("thinking", "closed signature"), "reference": ("reference_ids", "")}
    for message in body["messages"]:
        role, content = message["role"], message.get("content")
        _need(role in _FOLLOWS[last], f"role {role!r} after role {last!r}")
        last = role
        calls.turn(role)
        if role == "assistant":
            _keys(message, "role", "content tool_calls prefix")
            _need(content or message.get("tool_calls"), "either content or tool_calls")
            for block in _blocks(content, more, role) if content else ():
                _need(block["type"] != "thinking" or mark in str(block["thinking"]), "a thought of another server")
                _need(block["type"] != "thinking" or isinstance(block["thinking"], list), "thinking is no list")
            for call in message.get("tool_calls") or ():
                _keys(call, "id function", "type index")
                _need(re.fullmatch(r"[a-zA-Z0-9]{9}", call["id"]), f"tool id {call['id']!r}")
                calls.made(call["id"])
        elif role == "tool":
            _keys(message, "role content tool_call_id", "name")
            calls.answered(message["tool_call_id"])
            text = ""
        else:
            _keys(message, "role content")
            text = _words(_blocks(content, _CHUNKS, role))
    calls.closed()
    _need(last in ("user", "tool"), "expected last role user or tool")
    return text


def _write_chat(kind: str, content: dict[str, Any], call_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content.get(kind, TEXT)}
    if kind == "refusal":
        message |= {"content": None, "refusal": "I cannot say."}
    if kind == "call":
        function = {"name": CALL["name"], "arguments": json.dumps(CALL["args"])}
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if kind == "call" else "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": usage}


def _write_openai(kind: str, _: str) -> dict[str, Any]:
    return _write_chat(kind, {"call": None}, "call_1")


def _write_mistral(kind: str, mark: str) -> dict[str, Any]:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": f"hm {mark}"}]}
    text, link = {"type": "text", "text": TEXT}, {"type": "reference", "reference_ids": [1], "text": " [1]"}
    return _write_chat(kind, {"call": "", "thinking": [thought, text], "citation": [text, link]}, "abcdefghi")


# ---- OpenAI's Responses ---------------------------------------------------------------------------------------------
_ITEMS = {
    "reasoning": ("id summary", "encrypted_content content status"),
    "web_search_call": ("id status", "action"),
    "code_interpreter_call": ("id code container_id status outputs", ""),
    "image_generation_call": ("id", "result status"),
    "function_call": ("name arguments call_id", "id status"),
    "function_call_output": ("call_id output", "id status"),
}


def _check_responses(body: dict[str, Any], mark: str) -> str:
    calls, text = _Calls(), ""
    for item in body["input"]:
        kind = item.get("type", "message")
        for key in ("id", "encrypted_content"):
            _need(mark in str(item.get(key) or mark), f"{key} {item.get(key)!r} is not of this server")
        if kind == "message" and item["role"] == "assistant":
            _keys(item, "type role content", "id status phase")
            kinds = {"output_text": ("text annotations", "logprobs"), "refusal": ("refusal", "")}
            _blocks(item["content"], kinds, "assistant")
            _need(all(b.get("text", "x").strip() for b in item["content"]), "a blank answer")
        elif kind == "message":
            _keys(item, "role content", "type")
            kinds = {"input_text": ("text", ""), "input_image": ("image_url", "detail"), "text": ("text", "")}
            text = _words(_blocks(item["content"], kinds, item["role"]))
        else:
            required, optional = _ITEMS[kind]
            _keys(item, f"type {required}", optional)
            if kind == "function_call":
                calls.made(item["call_id"])
            if kind == "function_call_output":
                calls.answered(item["call_id"])
                text = ""
    calls.closed()
    return text


def _write_responses(kind: str, mark: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "output_text", "text": TEXT, "annotations": []}
    if kind == "refusal":
        part = {"type": "refusal", "refusal": "I cannot say."}
    if kind == "search":
        link = {"type": "url_citation", "url": "http://x", "title": "t", "start_index": 0, "end_index": 2}
        part["annotations"] = [link]
    message = {"type": "message", "id": f"msg_{mark}", "role": "assistant", "status": "completed", "content": [part]}
    call = {"type": "function_call", "id": f"fc_{mark}", "call_id": "call_1", "status": "completed"}
    call |= {"name": CALL["name"], "arguments": json.dumps(CALL["args"])}
    thought: dict[str, Any] = {"type": "reasoning", "id": f"rs_{mark}", "summary": []}
    if kind == "encrypted":
        thought["encrypted_content"] = f"secret {mark}"
    search = {"type": "web_search_call", "id": f"ws_{mark}", "status": "completed"}
    search["action"] = {"type": "search", "query": "q"}
    code = {"type": "code_interpreter_call", "id": f"ci_{mark}", "status": "completed"}
    code |= {"code": "1", "container_id": "c", "outputs": []}
    image = {"type": "image_generation_call", "id": f"ig_{mark}", "result": PNG, "status": "completed"}
    output = {
        "call": [call],
        "reasoning": [thought, message],
        "reasoning call": [thought, call],
        "encrypted": [thought, message],
        "search": [search, message],
        "code": [code, message],
        "image": [image, message],
    }.get(kind, [message])
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    head = {"id": f"resp_{mark}", "object": "response", "created_at": 1, "model": "gpt-5", "status": "completed"}
    return {**head, "output": output, "usage": usage, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}


# ---- Anthropic ------------------------------------------------------------------------------------------------------
_SOURCE = {"image": ("source", "cache_control")}
_SAID = {
    "text": ("text", "cache_control citations"),
    "thinking": ("thinking signature", ""),
    "redacted_thinking": ("data", ""),
    "tool_use": ("id name input", "cache_control"),
    "server_tool_use": ("id name input", "cache_control"),
    "web_search_tool_result": ("tool_use_id content", "cache_control"),
    "code_execution_tool_result": ("tool_use_id content", "cache_control"),
}
_GIVEN = {
    "text": ("text", "cache_control"),
    "tool_result": ("tool_use_id", "content is_error cache_control"),
    **_SOURCE,
}


def _check_anthropic(body: dict[str, Any], mark: str) -> str:
    calls, text, last = _Calls(), "", ""
    thinks = (body.get("thinking") or {}).get("type") == "enabled"
    final: list[dict[str, Any]] = []
    for message in body["messages"]:
        _keys(message, "role content")
        role = message["role"]
        _need(role != last, f"two turns of the {role} in a row")
        last = role
        found = _blocks(message["content"], _SAID if role == "assistant" else _GIVEN, role)
        for block in found:
            for key in ("signature", "data"):
                _need(mark in str(block.get(key, mark)), f"{block['type']}: {key} is not of this server")
            _need(block["type"] != "server_tool_use" or mark in block["id"], "a server tool of another server")
            if block["type"] == "tool_use":
                _need(re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]), f"tool id {block['id']!r}")
                calls.made(block["id"])
            if block["type"] == "tool_result":
                calls.answered(block["tool_use_id"])
        if role == "user":
            calls.closed()
            text = _words(found)
        else:
            final = found
    _need(last == "user", "the last turn is the assistant's")
    begins = final[0]["type"] if final else ""
    after_tool = any(block["type"] == "tool_result" for block in found)
    mended = not (thinks and after_tool) or begins in ("thinking", "redacted_thinking")
    _need(mended, "a final assistant message must start with a thinking block")
    return text


def _write_anthropic(kind: str, mark: str) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "text", "text": TEXT}
    call = {"type": "tool_use", "id": "toolu_1", "name": CALL["name"], "input": CALL["args"]}
    thought = {"type": "thinking", "thinking": "hm", "signature": f"sig {mark}"}
    server = {"type": "server_tool_use", "id": f"srvtoolu_{mark}"}
    page = {"type": "web_search_result", "url": "http://x", "title": "t", "encrypted_content": mark, "page_age": None}
    cited = {"type": "web_search_result_location", "url": "http://x", "title": "t", "cited_text": "c"}
    cited["encrypted_index"] = mark
    ran = {"type": "code_execution_result", "stdout": "1", "stderr": "", "return_code": 0, "content": []}
    result = {"tool_use_id": f"srvtoolu_{mark}"}
    content = {
        "call": [call],
        "thinking": [thought, text],
        "thinking call": [thought, call],
        "redacted": [{"type": "redacted_thinking", "data": f"data {mark}"}, text],
        "search": [
            {**server, "name": "web_search", "input": {"query": "q"}},
            {**result, "type": "web_search_tool_result", "content": [page]},
            {**text, "citations": [cited]},
        ],
        "code": [
            {**server, "name": "code_execution", "input": {"code": "1"}},
            {**result, "type": "code_execution_tool_result", "content": ran},
            text,
        ],
    }.get(kind, [text])
    stop = "tool_use" if content[-1] is call else "end_turn"
    head = {"id": f"msg_{mark}", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    return {**head, "content": content, "stop_reason": stop, "usage": {"input_tokens": 1, "output_tokens": 1}}


# ---- Google ---------------------------------------------------------------------------------------------------------
_PARTS = {"text", "inlineData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult"}


def _check_gemini(body: dict[str, Any], mark: str) -> str:
    text, open_calls = "", 0
    for content in body["contents"]:
        _keys(content, "parts role")
        _need(content["role"] in ("user", "model") and content["parts"], f"a turn {content!r}")
        for part in content["parts"]:
            _keys(part, "", " ".join(_PARTS) + " thought thoughtSignature")
            _need(len(_PARTS & part.keys()) == 1, f"a part {part!r}")
            given = base64.b64decode(part.get("thoughtSignature") or "").decode(errors="ignore")
            _need(not given or mark in given or "skip" in given, "a signature of another server")
            _need("thought" not in part or mark in part.get("text", ""), "a thought of another server")
            code = part.get("executableCode", {}).get("code", mark)
            _need(mark in code, "code of another server")
        answers = sum("functionResponse" in part for part in content["parts"])
        _need(answers == open_calls, "calls and their results do not match")
        open_calls = sum("functionCall" in part for part in content["parts"])
        if content["role"] == "user":
            text = _words(content["parts"])
    _need(open_calls == 0, "a call without result")
    return text


def _write_gemini(kind: str, mark: str) -> dict[str, Any]:
    signature = {"thoughtSignature": base64.b64encode(f"sig {mark}".encode()).decode()}
    call = {"functionCall": {"name": CALL["name"], "args": CALL["args"]}}
    thought = {"text": f"hm {mark}", "thought": True}
    parts = {
        "call": [call],
        "thinking": [thought, {"text": TEXT, **signature}],
        "thinking call": [thought, {**call, **signature}],
        "code": [
            {"executableCode": {"language": "PYTHON", "code": f"1 # {mark}"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
            {"text": TEXT},
        ],
        "image": [{"text": TEXT}, {"inlineData": {"mimeType": "image/png", "data": PNG}}],
    }.get(kind, [{"text": TEXT}])
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}


# ---- Ollama ---------------------------------------------------------------------------------------------------------
def _check_ollama(body: dict[str, Any], mark: str) -> str:
    text = ""
    for message in body["messages"]:
        _keys(message, "role", "content images tool_calls tool_call_id tool_name thinking")
        content = message.get("content") or ""
        _need(isinstance(content, str), f"content {content!r}")
        _need(all(isinstance(image, str) for image in message.get("images") or ()), "an image is no string")
        _need(mark in str(message.get("thinking") or mark), "a thought of another server")
        for call in message.get("tool_calls") or ():
            _need(isinstance(call["function"]["arguments"], dict), "arguments are no object")
        if message["role"] == "assistant":
            _need(content.strip() or message.get("tool_calls"), "an empty assistant turn")
        else:
            text = content if message["role"] == "user" else ""
    return text


def _write_ollama(kind: str, mark: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": TEXT}
    if "call" in kind:
        message |= {"content": "", "tool_calls": [{"function": {"name": CALL["name"], "arguments": CALL["args"]}}]}
    if "thinking" in kind:
        message["thinking"] = f"hm {mark}"
    counts = {"created_at": "1970-01-01T00:00:00Z", "prompt_eval_count": 1, "eval_count": 1}
    return {"model": "qwen3:8b", "message": message, "done": True, "done_reason": "stop", **counts}


_ROUTES: dict[str, tuple[str, Callable[[dict[str, Any], str], str], Callable[[str, str], dict[str, Any]]]] = {
    "/openai/v1/chat": ("openai", _check_openai, _write_openai),
    "/openai/v1/responses": ("responses", _check_responses, _write_responses),
    "/v1/messages": ("anthropic", _check_anthropic, _write_anthropic),
    ":generateContent": ("gemini", _check_gemini, _write_gemini),
    "/mistral/v1/chat": ("mistral", _check_mistral, _write_mistral),
    "/api/chat": ("ollama", _check_ollama, _write_ollama),
}
