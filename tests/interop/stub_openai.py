"""An OpenAI-compatible server on the loopback, for tests: deterministic, and sensible enough for an agent.

The name of the model says how it behaves:

- `good...`: answers what was asked: calls the tool that the request names (or that `tool_choice` forces), fills
  arguments from the schema and the request, follows a `response_format`, keeps `stop`, reads tool results;
- `weak...`: as `good`, but its text is empty and its calls and JSON are cut off (`finish_reason` length);
- `busy-once`: refuses its first request with `Retry-After`, then as `good`;
- `fail-429`, `fail-500`, `fail-context` (400, context too long), `fail-drop` (closes the connection), `fail-hang`
  (answers after `hang` seconds).

Usage counts words. With `"stream": true` the answer comes as server-sent events, arguments of a call in two pieces.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

from langchain_openai import ChatOpenAI

from tests.loopback import Handler, Loopback

if TYPE_CHECKING:
    from collections.abc import Callable

Payload = dict[str, Any]
WORD = re.compile(r"\w+")
NUMBER = re.compile(r"-?\d+")
BUSY = (429, "rate limit reached", "rate_limit_exceeded")
TOO_LONG = "This model's maximum context length is 8 tokens. Please reduce the length of the messages."
REFUSALS: dict[str, tuple[int, str, str, dict[str, str]]] = {
    "fail-429": (*BUSY, {"Retry_After": "20"}),
    "busy-once": (*BUSY, {"Retry_After": "0.05"}),
    "fail-500": (500, "the server had an error", "server_error", {}),
    "fail-context": (400, TOO_LONG, "context_length_exceeded", {}),
}


class _Handler(Handler):
    owner: StubOpenAI

    def answer(self) -> None:
        payload = self.payload()
        self.owner.requests.append(payload)
        model = payload["model"]
        if model in REFUSALS and (model != "busy-once" or self.owner.asked(model) == 1):
            status, text, code, headers = REFUSALS[model]
            error = {"message": text, "type": "stub", "param": None, "code": code}
            return self.reply({"error": error}, status, **headers)
        if model == "fail-drop":
            self.close_connection = True
            return self.connection.close()
        if model == "fail-hang":
            self.owner.released.wait(self.owner.hang)
        message, finish = self.owner.reply(payload)
        usage = _usage(payload, message)
        try:
            if payload.get("stream"):
                return self._stream(payload, message, finish, usage)
            choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
            return self.reply({**_head(payload, "chat.completion"), "choices": [choice], "usage": usage})
        except (BrokenPipeError, ConnectionResetError):
            return None  # the asker gave up

    def _stream(self, payload: dict[str, Any], message: dict[str, Any], finish: str, usage: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        head = _head(payload, "chat.completion.chunk")
        for delta, reason in [*((delta, None) for delta in _deltas(message)), ({}, finish)]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self._event({**head, "choices": [choice], "usage": None})
        if (payload.get("stream_options") or {}).get("include_usage"):
            self._event({**head, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()


class StubOpenAI(Loopback):
    """The server; `url` is the base URL of its API, `requests` all that it was sent; `reply` gives message and finish."""

    handler = _Handler

    def __init__(self, *, hang: float = 30.0, reply: Callable[[Payload], tuple[Payload, str]] | None = None) -> None:
        super().__init__()
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.hang, self.url = hang, f"{self.address}/v1"
        self.reply = reply or answer

    def model(self, name: str, **settings: Any) -> ChatOpenAI:
        """Return a model of this server."""
        return ChatOpenAI(model=name, base_url=self.url, api_key="none", **{"max_retries": 0, **settings})

    def asked(self, model: str) -> int:
        """Return the number of requests that named this model."""
        return sum(request["model"] == model for request in self.requests)

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        super().__exit__(*exc)


def _head(payload: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{id(payload):x}", "object": kind, "created": 1_700_000_000, "model": payload["model"]}


def _usage(payload: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    sent, written = (len(WORD.findall(json.dumps(part))) for part in (payload["messages"], message))
    counts = {"prompt_tokens": sent, "completion_tokens": written, "total_tokens": sent + written}
    read, thought = {"cached_tokens": sent // 4, "audio_tokens": 0}, {"reasoning_tokens": 0, "audio_tokens": 0}
    return {**counts, "prompt_tokens_details": read, "completion_tokens_details": thought}


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    out += [{"content": piece} for piece in re.findall(r"\s*\S+|\s+$", message["content"] or "")]
    for index, call in enumerate(message.get("tool_calls") or []):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        out.append({"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]})
        for part in filter(None, (arguments[:half], arguments[half:])):
            out.append({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    return out


# ---- what is answered -----------------------------------------------------------------------------------------------
def answer(payload: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The assistant's message and its finish reason."""
    weak = payload["model"].startswith("weak")
    question = _last_text(payload["messages"])
    tool = _called(payload, question)
    if tool is not None:
        arguments = json.dumps(_value(tool.get("parameters") or {}, question, {}), ensure_ascii=False)
        call = {"id": f"call_{len(payload['messages'])}_{tool['name']}", "type": "function"}
        call["function"] = {"name": tool["name"], "arguments": arguments[:-3] if weak else arguments}
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
        return message, "length" if weak else "tool_calls"
    text = _text(payload, question)
    stops = payload.get("stop") or []
    for mark in [stops] if isinstance(stops, str) else stops:
        text = text.partition(mark)[0]
    if weak:
        text = text[: len(text) // 2] if payload.get("response_format") else ""
    return {"role": "assistant", "content": text, "refusal": None}, "length" if weak else "stop"


def _last_text(messages: list[dict[str, Any]]) -> str:
    return next((_plain(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _called(payload: dict[str, Any], question: str) -> dict[str, Any] | None:
    tools = [tool["function"] for tool in payload.get("tools") or [] if tool.get("type") == "function"]
    choice = payload.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        return next(tool for tool in tools if tool["name"] == choice["function"]["name"])
    words = set(WORD.findall(question.lower()))
    wanted = [t for t in tools if t["name"] in words or words & {w for w in t["name"].lower().split("_") if len(w) > 3}]
    if choice == "required":
        return (wanted or tools)[0]
    if payload["messages"][-1]["role"] == "tool":
        return None
    return wanted[0] if wanted else None


def _text(payload: dict[str, Any], question: str) -> str:
    form = payload.get("response_format") or {}
    if form.get("type") == "json_schema":
        return json.dumps(_value(form["json_schema"]["schema"], question, {}), ensure_ascii=False)
    if form.get("type") == "json_object":
        return json.dumps({key: f"the {key}" for key in re.findall(r"'(\w+)'", question)})
    last = payload["messages"][-1]
    if last["role"] == "tool":
        return f"The tool says: {_plain(last['content'])}"
    return f"You said to me: {question}"


def _value(schema: dict[str, Any], question: str, defs: dict[str, Any]) -> Any:
    """A value of the schema, taken from the request where it holds one."""
    defs = {**defs, **(schema.get("$defs") or schema.get("definitions") or {})}
    if "$ref" in schema:
        return _value(defs[schema["$ref"].rsplit("/", 1)[-1]], question, defs)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if schema.get(union):
            return _value(schema[union][0], question, defs)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {k: _value(v, question, defs) for k, v in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_value(schema.get("items") or {}, question, defs)]
    if kind in ("integer", "number"):
        number = NUMBER.search(question)
        return (int if kind == "integer" else float)(number[0] if number else 1)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    quoted = re.search(r"'([^']+)'", question)
    proper = re.findall(r"(?<!^)\b[A-Z]\w+(?: [A-Z]\w+)*", question)
    return quoted[1] if quoted else proper[0] if proper else question
