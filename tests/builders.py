"""Builders that many tests share: answers with calls, verdicts, graphs of one node, and the ways to ask them."""

import asyncio
import contextlib
import gzip
import json
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, Field, SkipValidation
from typer.testing import CliRunner, Result

from cascade_agent import CascadeChatModel, CascadeMiddleware, Tier, Verdict, cascade_node, cascade_step
from cascade_agent.cli import app
from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import Attempt, Label, StepTrace
from cascade_agent.journal.writer import Journal
from cascade_agent.testing import ScriptedChatModel
from tests.loopback import Handler, Loopback

ROOT = Path(__file__).parents[1]
RUN = {"slow": True}
"""Whether slow tests run too; `conftest.py` sets it from the marks that were selected."""
BOTH = pytest.mark.parametrize("how", ["sync", "async"])


def examples(quick: int, full: int) -> int:
    """The number of examples of a property: `full` where slow tests run too, as in CI."""
    return full if RUN["slow"] else quick


def trials(quick: int, full: int) -> pytest.MarkDecorator:
    """Give a test its number of `trials`: `full` where slow tests run too."""
    return pytest.mark.parametrize("trials", [examples(quick, full)])


def json_values(texts: Any = None, keys: Any = None, *, size: int = 4, leaves: int = 8, odd: bool = True) -> Any:
    """A strategy of JSON values; `odd` ones hold NaN and infinity, too."""
    texts = st.text() if texts is None else texts
    keys = texts if keys is None else keys
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=odd, allow_infinity=odd) | texts
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=size) | st.dictionaries(keys, inner, max_size=size),
        max_leaves=leaves,
    )


async def ask(runnable: Any, value: Any = "hi", config: Any = None, *, how: str = "async", **kwargs: Any) -> Any:
    """One call, on the synchronous or the asynchronous way."""
    if how == "sync":
        return runnable.invoke(value, config, **kwargs)
    return await runnable.ainvoke(value, config, **kwargs)


async def streamed(
    runnable: Any, value: Any = "hi", config: Any = None, *, how: str = "async", **kwargs: Any
) -> list[Any]:
    """All parts of a stream."""
    if how == "sync":
        return list(runnable.stream(value, config, **kwargs))
    return [part async for part in runnable.astream(value, config, **kwargs)]


async def all_of(model: Any, n: int, how: str, config: Any = None) -> list[Any]:
    """So many steps at the same time; what each gave or raised."""
    if how == "async":
        return await asyncio.gather(*(model.ainvoke("hi", config) for _ in range(n)), return_exceptions=True)

    with ThreadPoolExecutor(64) as pool:
        running = [pool.submit(model.invoke, "hi", config) for _ in range(n)]
    return [each.exception() or each.result() for each in running]


def call(name: str = "lookup", /, *, call_id: str = "c1", **args: Any) -> AIMessage:
    """An answer that calls one tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": call_id}])


def pair(small: Any, large: Any, **settings: Any) -> CascadeChatModel:
    """A cascade of two models, or of what scripted ones say, once."""
    tiers = [m if isinstance(m, Runnable | Tier) else ScriptedChatModel(m) for m in (small, large)]
    return CascadeChatModel(small=tiers[0], large=tiers[1], **settings)


def record(message: BaseMessage) -> dict[str, Any]:
    """The record on a message."""
    return message.response_metadata["cascade"]


def assert_plain_json(data: dict[str, Any]) -> None:
    """A record is strict JSON in clean UTF-8 that every store holds, and of bounded size."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)
    assert len(text.encode("utf-8")) < 200_000
    assert clean(data, depth=200) == data == json.loads(text)


def refuses_small(draft: Any, _context: Any) -> Verdict | None:
    """A validator that objects to every draft of the small tier."""
    return Verdict(outcome="fail", code="bad", reason="it is small") if draft.tier == "small" else None


def seeing(what: Callable[[Any], Any]) -> tuple[list[Any], Callable[[Any, Any], None]]:
    """A list, and a validator that finds nothing and notes there what it saw of each context."""
    seen: list[Any] = []

    def sees(_draft: Any, context: Any) -> None:
        seen.append(what(context))

    return seen, sees


def no_draft(draft: Any, _context: Any) -> Verdict | None:
    """A validator that softly refuses what calls itself a draft."""
    return Verdict(outcome="fail", code="draft", reason="a draft", score=0.2) if "draft" in draft.text else None


class Refused(Exception):
    """An error of a provider's client: its status and, where the provider says so, after how many seconds to come back."""

    def __init__(self, status: int = 429, after: str | None = None) -> None:
        super().__init__(f"refused with {status}")
        self.status_code = status
        headers = {} if after is None else {"retry-after": after}
        self.response = type("Response", (), {"headers": headers, "status_code": status})()


class Hanging(ScriptedChatModel):
    """A model that never answers an asynchronous call, and says when one has arrived."""

    called: SkipValidation[asyncio.Event] = Field(default_factory=asyncio.Event)

    async def _agenerate(self, *_: Any, **__: Any) -> Any:
        self.called.set()
        await asyncio.Event().wait()


async def cancelled(work: Coroutine[Any, Any, Any], *models: Hanging) -> None:
    """Cancel work while all these models are asked; `CancelledError` comes out of it."""
    task = asyncio.create_task(work)
    for model in models:
        await asyncio.wait_for(model.called.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def eventually(holds: Callable[[], Any]) -> None:
    """Let the event loop go on until something holds."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - it may be a thread that makes it so
            await asyncio.sleep(0.002)


async def run(graph: Any, value: Any, config: Any = None, *, how: str, **settings: Any) -> Any:
    """Run a graph one way or the other; synchronously as hosts do, on no thread of a loop."""
    if how == "sync":
        return await asyncio.to_thread(graph.invoke, value, config, **settings)
    return await graph.ainvoke(value, config, **settings)


def graph_of(node: Any, schema: Any = MessagesState, *, saver: Any = None, cache: Any = None, **settings: Any) -> Any:
    """A compiled graph of one node."""
    builder = StateGraph(schema).add_node("agent", node, **settings).add_edge(START, "agent")
    return builder.compile(checkpointer=saver, cache=cache)


def behind(
    adapter: str, small: Any, large: Any, *, tools: Any = (), schema: Any = None, saver: Any = None, **settings: Any
) -> Any:
    """A graph of one step of a pair through an adapter; no tool that it calls is run."""
    if adapter == "middleware":
        form = None if schema is None else ToolStrategy(schema, handle_errors=False)
        stops: Any = {"interrupt_before": ["tools"]} if tools else {}
        around = [CascadeMiddleware(large, **settings)]
        return create_agent(small, [*tools], middleware=around, response_format=form, checkpointer=saver, **stops)
    if adapter == "node" and schema is None:
        return graph_of(cascade_node(small, large, tools=tools, **settings), saver=saver)

    def given(model: Any) -> Any:
        return model.with_structured_output(schema) if schema else model.bind_tools(tools) if tools else model

    def answer(found: Any) -> Any:
        return {"messages": [found if isinstance(found, AIMessage) else AIMessage(repr(found))]}

    def body(state: Any, *, model: Any) -> Any:
        return answer(given(model).invoke(state["messages"]))

    if adapter == "node":
        return graph_of(cascade_node(small, large, step=body, **settings), saver=saver)
    if adapter == "step":
        return graph_of(cascade_step(small=small, large=large, **settings)(body), saver=saver)
    model = given(CascadeChatModel(small=small, large=large, **settings))

    async def anode(state: Any, config: Any) -> Any:
        return answer(await model.ainvoke(state["messages"], config))

    return graph_of(RunnableLambda(lambda s, config: answer(model.invoke(s["messages"], config)), anode), saver=saver)


class Runs(BaseCallbackHandler):
    """Collects the runs of a call: what started under what, with which name, tags, metadata and end."""

    def __init__(self) -> None:
        self.runs: dict[Any, dict[str, Any]] = {}

    def on_chain_start(self, _serialized, _inputs, *, run_id, parent_run_id=None, kind="chain", **kwargs):
        metadata = kwargs.get("metadata") or {}
        named = {"name": kwargs.get("name") or metadata.get("ls_model_name"), "tags": kwargs.get("tags") or []}
        self.runs[run_id] = {"kind": kind, "parent": parent_run_id, "metadata": metadata, "end": None, **named}

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.on_chain_start(serialized, messages, kind="model", **kwargs)

    def on_chain_end(self, _outputs, *, run_id, **_):
        self.runs[run_id]["end"] = "end"

    on_llm_end = on_chain_end

    def on_chain_error(self, error, *, run_id, **_):
        self.runs[run_id]["end"] = type(error).__name__

    on_llm_error = on_chain_error

    def tree(self, parent: Any = None) -> list[Any]:
        """Names, nested."""
        children = [(run_id, run) for run_id, run in self.runs.items() if run["parent"] == parent]
        return [(run["kind"], run["name"], self.tree(run_id)) for run_id, run in children]


class City(BaseModel):
    """A city."""

    name: str
    size: int


@tool
def lookup(order: str) -> str:
    """Look up an order by its number."""
    return f"order {order} was shipped"


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return "21 degrees"


def recorded(step_id: str, *attempts: Attempt, **fields: Any) -> StepTrace:
    """A recorded step whose last attempt is final: it escalated where there is more than one."""
    outcome = "accepted" if len(attempts) == 1 else "escalated"
    given = {"step": "agent", "outcome": outcome, "reason": "r", "final": len(attempts) - 1, **fields}
    return StepTrace(id=step_id, attempts=attempts, **given)


def written(path: Path, steps: Any, labels: Any = ()) -> Path:
    """A journal of steps, with their labels after them."""
    with Journal(path) as journal:
        for step in steps:
            assert isinstance(step, StepTrace)
            assert journal.append(step)
        for label in labels:
            assert isinstance(label, Label)
            journal.append_label(label)
    return path


def command(*args: object, cwd: Path | None = None, code: int | None = None, keys: str = "", **env: str) -> Result:
    """Run `cascade-agent` in this process, in a directory; with the exit code that it must have."""
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(
            app, [*map(str, args)], input=keys, env={"NO_COLOR": "1", **env}, prog_name="cascade-agent"
        )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert code in (None, done.exit_code), done.output
    return done


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def loopback(answer: Callable[[Handler, bytes], tuple[int, bytes, str]]) -> Iterator[str]:
    """An HTTP server on loopback: its address; `answer` gives status, body and type for the body of a POST."""

    class Answers(Handler):
        def answer(self) -> None:
            status, body, kind = answer(self, self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(body, status, Content_Type=kind)

    with type("Server", (Loopback,), {"handler": Answers})() as server:
        yield server.address


@contextlib.contextmanager
def otlp_receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A receiver of OTLP over HTTP: its address, and the path and bytes of each request."""
    received: list[tuple[str, bytes]] = []

    def keep(request: Handler, body: bytes) -> tuple[int, bytes, str]:
        packed = request.headers.get("Content-Encoding") == "gzip"
        received.append((request.path, gzip.decompress(body) if packed else body))
        return 200, b"", "application/x-protobuf"

    with loopback(keep) as address:
        yield address, received


def until(ready: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """The first value of `ready` that is not empty."""
    deadline, fault = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if value := ready():
                return value
        except OSError as error:
            fault = f": {error}"
        time.sleep(0.25)
    pytest.fail(f"{what} did not come within {seconds:g} s{fault}")
