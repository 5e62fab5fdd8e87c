"""Measure when a stream begins: a cascade and large alone, on a local server of 30 tokens a second.

    python benchmarks/streams.py [--rounds 15] [--json FILE]

Small answers after 0.2 s with nothing that can be used, so that every step escalates; or it is switched off. Each way
of streaming runs with large alone, escalated and without small in turn, round after round; a figure is the least of the
seconds to the first text, for other work on the machine only adds to it. `escalated` is compared with large alone plus
small alone, `skipped` with large alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from rich.console import Console
from rich.table import Table

from cascade_agent import CascadeChatModel, CascadeMiddleware, Policy, cascade_node
from tests.loopback import Handler, Loopback

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping

TEXT = "The order was shipped yesterday and arrives on Monday before noon."
USAGE = {"prompt_tokens": 9, "completion_tokens": 11, "total_tokens": 20}


@dataclass(frozen=True, kw_only=True)
class Script:
    """Answer of a model of the server: deltas at a rate, after a while.

    `cut` closes the connection after so many of them, `gate` holds all but the first back.
    """

    deltas: list[dict[str, Any]] = field(default_factory=lambda: words(TEXT))
    wait: float = 0.0
    rate: float = 30.0
    finish: str | None = "stop"
    cut: int | None = None
    gate: threading.Event | None = None


def words(text: str) -> list[dict[str, Any]]:
    """Return a text as deltas, a word each."""
    return [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(text.split(" "))]


class _Handler(Handler):
    owner: TokenServer

    def answer(self) -> None:
        """Answer a request."""
        payload = self.payload()
        script = self.owner.scripts[payload["model"]]
        self.owner.requests += 1
        time.sleep(script.wait)
        head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": payload["model"]}
        try:
            if payload.get("stream"):
                self._stream(script, head, usage=bool((payload.get("stream_options") or {}).get("include_usage")))
            else:
                time.sleep(len(script.deltas) / script.rate)
                choice = {"index": 0, "message": _whole(script.deltas), "finish_reason": script.finish}
                body = {**head, "object": "chat.completion", "choices": [choice], "usage": USAGE}
                self.owner.done += 1  # before the end of it, which a reader may be faster with than we
                self.reply(body)
        except (BrokenPipeError, ConnectionResetError):
            self.owner.left += 1

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.protocol_version == "HTTP/1.1":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _stream(self, script: Script, head: dict[str, Any], *, usage: bool) -> None:
        if script.cut is not None:  # with chunks, so that the client sees that the rest is missing
            self.protocol_version, self.close_connection = "HTTP/1.1", True
        self._head("text/event-stream")
        parts = [{"delta": delta, "finish_reason": None} for delta in script.deltas]
        if script.cut is None and script.finish is not None:
            parts.append({"delta": {}, "finish_reason": script.finish})
        for index, part in enumerate(parts[: script.cut]):
            if index and script.gate is not None and not script.gate.wait(20):
                return
            time.sleep(1 / script.rate)
            self._event({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, **part}]})
        if script.cut is None and usage:
            self._event({**head, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
        if script.cut is None:
            self.owner.done += 1
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: dict[str, Any]) -> None:
        data = b"data: " + json.dumps(body).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.protocol_version == "HTTP/1.1" else data)
        self.wfile.flush()


class TokenServer(Loopback):
    """An OpenAI-compatible server on the loopback; `done` counts answers, `left` readers that were gone."""

    handler = _Handler

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        super().__init__()
        self.scripts, self.left, self.requests, self.done = scripts, 0, 0, 0

    def model(self, name: str, **settings: Any) -> ChatOpenAI:
        """Return a model of this server."""
        return ChatOpenAI(model=name, base_url=f"{self.address}/v1", api_key="none", max_retries=0, **settings)  # type: ignore[arg-type]


def _whole(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that deltas add up to."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for part in delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"type": "function", "function": {"name": "", "arguments": ""}})
            call["id"] = part.get("id", call.get("id"))
            for key, value in part["function"].items():
                call["function"][key] += value
    text = "".join(delta.get("content") or "" for delta in deltas)
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls.values())} if calls else {})}


# ---- ways of streaming ----------------------------------------------------------------------------------------------

QUESTION = {"messages": [("user", "Where is my order?")]}


def graph_of(node: Any) -> Any:
    """Return a graph of one node."""
    return StateGraph(MessagesState).add_node("agent", node).add_edge(START, "agent").compile()


def apps(small: Any, large: Any) -> dict[str, tuple[Any, Any]]:
    """Return each adapter's app: with large alone, and with the cascade in its place."""

    def alone(state: Any) -> Any:
        return {"messages": [large.invoke(state["messages"])]}

    policy = Policy(skip_small=False)  # this small one would soon be left out
    around = CascadeMiddleware(large, policy=policy)
    return {
        "chat model": (large, CascadeChatModel(small=small, large=large, policy=policy)),
        "node": (graph_of(alone), graph_of(cascade_node(small, large, policy=policy))),
        "middleware": (create_agent(large), create_agent(small, middleware=[around])),
    }


def texts(app: Any, config: Any, adapter: str, way: str) -> Iterator[str]:
    """Yield the text that a reader of a synchronous stream sees."""
    question: Any = "Where is my order?" if adapter == "chat model" else QUESTION
    if way == "events v3":
        run = app.stream_events(question, config, version="v3")
        for message in [run] if adapter == "chat model" else run.messages:
            yield from message.text
    elif adapter == "chat model":
        yield from (str(chunk.text) for chunk in app.stream(question, config))
    else:
        yield from (str(chunk.text) for chunk, _ in app.stream(question, config, stream_mode="messages"))


async def atexts(app: Any, config: Any, adapter: str, way: str) -> Any:
    """Async twin of `texts`."""
    question: Any = "Where is my order?" if adapter == "chat model" else QUESTION
    if way == "events v2":
        async for event in app.astream_events(question, config, version="v2"):
            if event["event"] == "on_chat_model_stream":
                yield str(event["data"]["chunk"].text)
    elif adapter == "chat model":
        async for chunk in app.astream(question, config):
            yield str(chunk.text)
    else:
        async for chunk, _ in app.astream(question, config, stream_mode="messages"):
            yield str(chunk.text)


def seconds(app: Any, config: Any, adapter: str, way: str) -> float:
    """Return the seconds to the first text; the stream is read to its end."""
    start, first = time.perf_counter(), None

    def look(text: str) -> None:
        nonlocal first
        if text and first is None:
            first = time.perf_counter() - start

    async def run() -> None:
        async for text in atexts(app, config, adapter, way):
            look(text)

    if way in ("astream", "events v2"):
        asyncio.run(run())
    else:
        for text in texts(app, config, adapter, way):
            look(text)
    return float("nan") if first is None else first


WAYS = [
    *((adapter, way) for adapter in ("chat model", "node", "middleware") for way in ("stream", "astream")),
    *((adapter, "events v2") for adapter in ("node", "middleware")),
    *((adapter, "events v3") for adapter in ("chat model", "node", "middleware")),
]
OFF = {"configurable": {"cascade_disabled": True}}


def measured(rounds: int, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return one row per way of streaming."""
    scripts = {"small": Script(deltas=[{"content": ""}], wait=0.2, rate=1e9), "large": Script()}
    rows = []
    with TokenServer(scripts) as server:
        small, large = server.model("small"), server.model("large")
        adapters = apps(small, large)
        for adapter, way in WAYS:
            progress(f"{adapter}, {way}")
            alone, cascade = adapters[adapter]
            cases: dict[str, Callable[[], float]] = {
                "alone": lambda app=alone, a=adapter, w=way: seconds(app, {}, a, w),  # type: ignore[misc]
                "escalated": lambda app=cascade, a=adapter, w=way: seconds(app, {}, a, w),  # type: ignore[misc]
                "skipped": lambda app=cascade, a=adapter, w=way: seconds(app, OFF, a, w),  # type: ignore[misc]
                "small": lambda: _time(small),
            }
            found: dict[str, list[float]] = {name: [] for name in cases}
            for round_ in range(rounds + 1):
                for name, case in cases.items():
                    value = case()
                    if round_:  # the first one opens connections and imports
                        found[name].append(value)
            row: dict[str, Any] = {name: min(values) for name, values in found.items()}
            row["escalated_ratio"] = row["escalated"] / (row["alone"] + row["small"])
            row["skipped_ratio"] = row["skipped"] / row["alone"]
            rows.append({"adapter": adapter, "way": way, **row})
    return rows


def _time(small: Any) -> float:
    start = time.perf_counter()
    small.invoke("Where is my order?")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=100)
    with console.status("streams") as status:
        rows = measured(options.rounds, status.update)
    table = Table(title="seconds to the first text (least)")
    for name in ("adapter", "way", "large alone", "small", "escalated", "ratio", "skipped", "ratio "):
        table.add_column(name, justify="left" if name in ("adapter", "way") else "right")
    for row in rows:
        figures = [f"{row[key]:.3f}" for key in ("alone", "small", "escalated")]
        table.add_row(
            row["adapter"],
            row["way"],
            *figures,
            f"{row['escalated_ratio']:.3f}",
            f"{row['skipped']:.3f}",
            f"{row['skipped_ratio']:.3f}",
        )
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
