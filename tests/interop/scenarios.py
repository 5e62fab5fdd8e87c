"""Steps in every shape, run under one tracing backend, and what it saw, as JSON.

    python tests/interop/scenarios.py none|openinference|genai|traceloop|langsmith

Instrumentations patch LangChain for the whole process and not all of them can be undone, so each backend has a process
of its own; `test_instrumentations.py` starts it and holds the trees to what they should be.
"""

from __future__ import annotations

import asyncio
import json
import logging
import operator
import sys
import threading
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade_agent import CascadeChatModel, CascadeMiddleware, Policy, Tier, Verdict, cascade_node
from cascade_agent.core.records import SideCall
from cascade_agent.engine import worker_threads
from cascade_agent.telemetry import configure, invoke_workflow
from cascade_agent.telemetry import errors as faults
from cascade_agent.testing import ScriptedChatModel, always_fail
from cascade_agent.validators import CrossCheck

if TYPE_CHECKING:
    from collections.abc import Callable

INPUT = ("gen_ai.usage.input_tokens", "llm.token_count.prompt")
OUTPUT = ("gen_ai.usage.output_tokens", "llm.token_count.completion")
USAGE = (11, 5)
HOWS = ("sync", "async", "stream", "astream")

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
TRACER = PROVIDER.get_tracer("application")


class Logs(logging.Handler):
    """Keeps what OpenTelemetry, LangChain and the cascade complain about."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")


LOGS = Logs()


# ---- backends -------------------------------------------------------------------------------------------------------
class LocalClient:
    """Stands where LangSmith's client does and keeps what its tracer would send."""

    tracing_queue = otel_exporter = None

    def __init__(self) -> None:
        self.runs: dict[Any, dict[str, Any]] = {}

    def create_run(self, **run: Any) -> None:
        """A run that began."""
        self.runs[run["id"]] = dict(run)

    def update_run(self, run_id: Any, **changes: Any) -> None:
        """A run that ended."""
        self.runs[run_id] = {**self.runs.get(run_id, {}), **{k: v for k, v in changes.items() if v is not None}}

    async def ended(self) -> None:
        """Wait until the steps and attempts ended; the tracer may hear of it on a thread, and LangChain forgets models."""
        for _ in range(3000):
            if all(run.get("end_time") for run in self.runs.values() if run["name"].startswith("cascade.")):
                break
            await asyncio.sleep(0.02)

    def tree(self, parent: Any = None) -> list[Any]:
        """Names and how they ended, nested."""
        runs = [(key, run) for key, run in self.runs.items() if run.get("parent_run_id") == parent]
        return [
            [run["name"], self.tree(key), _end(run)] for key, run in sorted(runs, key=lambda r: r[1]["dotted_order"])
        ]


def _end(run: dict[str, Any]) -> Any:
    if run.get("end_time") is None:
        return "open"
    if run.get("error"):
        return str(run["error"]).partition("(")[0]
    return run.get("outputs", {}).get("outcome", "end")


def instrument(backend: str) -> None:
    """Switch a backend on for this process."""
    where = {
        "openinference": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
        "genai": ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
        "traceloop": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    }
    if backend in where:
        module, name = where[backend]
        getattr(import_module(module), name)().instrument(tracer_provider=PROVIDER)


# ---- what is run ----------------------------------------------------------------------------------------------------
HI: Any = {"messages": [("user", "hi")]}


class State(MessagesState):
    """Messages, and what parallel branches say."""

    texts: Annotated[list[str], operator.add]


def refuses_small(draft: Any, _context: Any) -> Verdict | None:
    """Objects to every draft of the small tier."""
    if draft.tier == "large":
        return Verdict(outcome="pass", score=0.75, code="fine")
    return Verdict(outcome="fail", code="odd", reason="it is small", path="/text")


def model(name: str, text: Any = None, **kwargs: Any) -> ScriptedChatModel:
    """A scripted model that answers for ever and reports its tokens."""
    return ScriptedChatModel(text or name, name=name, usage=USAGE, loop=True, **kwargs)


def pair(**kwargs: Any) -> dict[str, Any]:
    """A pair whose small tier is refused."""
    return {"small": model("s"), "large": model("l"), "validators": [refuses_small], "name": "desk", **kwargs}


def chat_model(**kwargs: Any) -> CascadeChatModel:
    """A chat model, called by itself."""
    return CascadeChatModel(**pair(**kwargs))


def graph(body: Any, name: str = "agent", saver: Any = None) -> Any:
    """A graph of one node."""
    return StateGraph(MessagesState).add_node(name, body).add_edge(START, name).compile(checkpointer=saver)


def node(saver: Any = None, **kwargs: Any) -> Any:
    """A graph of one cascade node."""
    return graph(cascade_node(**pair(**kwargs)), saver=saver)


def middleware() -> Any:
    """An agent whose own model is the small tier."""
    from langchain.agents import create_agent

    settings = pair()
    return create_agent(settings.pop("small"), middleware=[CascadeMiddleware(**settings)])


ADAPTERS: dict[str, Callable[[], Any]] = {"chat_model": chat_model, "node": node, "middleware": middleware}


async def ask(runnable: Any, value: Any, how: str, config: Any) -> Any:
    """One call, on one of the four ways."""
    mode = {} if isinstance(runnable, CascadeChatModel) else {"stream_mode": "messages"}
    match how:
        case "sync":
            return runnable.invoke(value, config)
        case "async":
            return await runnable.ainvoke(value, config)
        case "stream":
            return list(runnable.stream(value, config, **mode))
        case _:
            return [chunk async for chunk in runnable.astream(value, config, **mode)]


async def both(runnable: Any, config: Any) -> None:
    """One call in a thread and one in a task; what is given up in it has ended when this returns."""
    before = asyncio.all_tasks()
    for how in ("sync", "async"):
        await ask(runnable, "hi", how, config)
        for _ in range(3000):
            threads = [thread for thread in threading.enumerate() if thread.name == "cascade-tier"]
            if len(threads) == len(worker_threads._idle) and asyncio.all_tasks() == before:
                break
            await asyncio.sleep(0.02)


class Judge:
    """Evidence that opens a span of its own."""

    name, stage = "judge", "evidence"

    def gather(self, _draft: Any, _context: Any, *, config: Any) -> Any:
        """Judge a draft."""
        del config
        with TRACER.start_as_current_span("judging"):
            return Verdict(outcome="abstain", score=0.95, code="judged_right"), SideCall(name="judge", cost=0.0)

    async def agather(self, draft: Any, context: Any, *, config: Any) -> Any:
        """The same."""
        return self.gather(draft, context, config=config)


def post(_messages: Any) -> AIMessage:
    """Answer as a model whose client opens a span of its own."""
    with TRACER.start_as_current_span("POST"):
        return AIMessage("s")


def slow() -> dict[str, Any]:
    """Tiers that are both slow."""
    return {"small": model("s", delay=0.2), "large": model("l", delay=1.0)}


HEDGES = Policy(hedge_after=0.02)
CHAT_MODELS: dict[str, Callable[[], dict[str, Any]]] = {
    "late": lambda: {"small": Tier(model("s", delay=0.3), timeout=0.05)},
    "hedged": lambda: {"small": model("s", delay=1.0), "policy": HEDGES, "validators": []},
    "hedged_in_vain": lambda: {**slow(), "policy": HEDGES, "validators": []},
    "no_deadline": lambda: {"policy": Policy(latency_budget=None)},
    "raising": lambda: {"small": ScriptedChatModel(ValueError("secret"), name="s", loop=True)},
    "evidence": lambda: {"validators": [CrossCheck(model("x", "s"))], "policy": Policy(evidence=(0.0, 1.0))},
    "own_evidence": lambda: {"validators": [Judge()]},
    "ladder": lambda: {"large": chat_model(small=model("m"), name="inner")},
}
"""Settings of chat models that are called in a thread and in a task."""
SCENARIOS: dict[str, Callable[[Any], Any]] = {}


def scenario(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Register a scenario under its name."""
    SCENARIOS[function.__name__] = function
    return function


def _adapter(adapter: str, how: str) -> Callable[[Any], Any]:
    return lambda config: ask(ADAPTERS[adapter](), "hi" if adapter == "chat_model" else HI, how, config)


def _chat_model(settings: Callable[[], dict[str, Any]]) -> Callable[[Any], Any]:
    return lambda config: both(chat_model(**settings()), config)


def _branches(how: str) -> Callable[[Any], Any]:
    async def run(config: Any) -> None:
        cascade = chat_model()

        def body(_state: Any) -> Any:
            return {"texts": [cascade.invoke("hi").text]}

        async def abody(_state: Any) -> Any:
            return {"texts": [(await cascade.ainvoke("hi")).text]}

        builder = StateGraph(State)
        for name in ("left", "right"):
            builder.add_node(name, abody if how == "async" else body).add_edge(START, name)
        await ask(builder.compile(), {"messages": [], "texts": []}, how, config)

    return run


SCENARIOS.update({f"{adapter}-{how}": _adapter(adapter, how) for adapter in ADAPTERS for how in HOWS})
SCENARIOS.update({f"branches-{how}": _branches(how) for how in ("sync", "async")})
SCENARIOS.update({name: _chat_model(settings) for name, settings in CHAT_MODELS.items()})


@scenario
async def subgraph(config: Any) -> None:
    """A cascade node in a graph that is itself a node."""
    await graph(node(), "inner").ainvoke(HI, config)


@scenario
async def interrupted(config: Any) -> None:
    """A human decides, and the decision is used: two runs of one thread."""
    settings: Any = {"validators": [always_fail(score=0.1)], "policy": Policy(on_exhausted="interrupt")}
    reviewed, config = node(saver=InMemorySaver(), **settings), {**config, "configurable": {"thread_id": "t1"}}
    await reviewed.ainvoke(HI, config)
    await reviewed.ainvoke(Command(resume="accept"), config)


@scenario
async def cancelled(config: Any) -> None:
    """The caller gives up while the small model is asked."""
    called = asyncio.Event()

    class Hanging(ScriptedChatModel):
        async def _agenerate(self, *_: Any, **__: Any) -> Any:
            called.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(chat_model(small=Hanging("s", name="s")).ainvoke("hi", config))
    await called.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@scenario
async def left_stream(config: Any) -> None:
    """The consumer leaves a stream, in the task that read it and in another."""
    cascade = chat_model(large=model("l", "one two three four"))
    for _ in cascade.stream("hi", config):
        break
    stream = cascade.astream("hi", config)
    await asyncio.create_task(anext(stream))
    await asyncio.create_task(stream.aclose())


class Answer(TypedDict):
    """The form of an answer."""

    text: str


class Structured(ScriptedChatModel):
    """A model with a chain of its own for structured output."""

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **_: Any) -> Any:
        """Any answer as the text of one."""
        assert include_raw
        return self | RunnableLambda(_whole, name="whole")


def _whole(message: Any) -> Any:
    return {"raw": message, "parsed": {"text": message.text}, "parsing_error": None}


@scenario
async def structured(config: Any) -> None:
    """Structured output: each tier's chain of its own stands between the attempt and the model."""
    small, large = (Structured(name, name=name, usage=USAGE, loop=True) for name in "sl")
    assert chat_model(small=small, large=large).with_structured_output(Answer).invoke("hi", config) == {"text": "l"}


@scenario
async def own_spans(config: Any) -> None:
    """Spans of the application: a request around the step, and one inside the model's client."""
    with TRACER.start_as_current_span("request"):
        await both(chat_model(small=model("s", post)), config)


@scenario
async def workflow(config: Any) -> None:
    """A root for one run of a graph, where nothing else makes one."""
    with invoke_workflow("support", thread_id="t1"):
        await node().ainvoke(HI, config)


@scenario
async def switched_off(config: Any) -> None:
    """Without spans of ours the handlers still see the runs."""
    configure(otel_spans=False)
    try:
        await both(chat_model(), config)
    finally:
        configure()


@scenario
async def handler_that_raises(config: Any) -> None:
    """A handler that raises on our attempts' runs changes nothing of the step."""

    class Raising(BaseCallbackHandler):
        raise_error = True

        def on_chain_start(self, _serialized: Any, _inputs: Any, **kwargs: Any) -> None:
            if str(kwargs.get("name")).startswith("cascade.attempt"):
                raise OSError("no")

    await both(chat_model(), {**config, "callbacks": [*(config.get("callbacks") or ()), Raising()]})


# ---- what was seen --------------------------------------------------------------------------------------------------
def tree(spans: list[ReadableSpan], parent: int | None = None) -> list[Any]:
    """Names, nested, in the order in which they started."""
    ids = {span.context.span_id for span in spans}
    return [
        [span.name, tree(spans, span.context.span_id)]
        for span in spans
        if (span.parent.span_id if span.parent and span.parent.span_id in ids else None) == parent
    ]


def seen(spans: list[ReadableSpan]) -> dict[str, Any]:
    """Return what the tests look at."""
    ids = {span.context.span_id for span in spans}
    return {
        "tree": tree(spans),
        "orphans": [s.name for s in spans if s.parent and s.parent.span_id not in ids],
        "traces": len({span.context.trace_id for span in spans}),
        "tokens": [
            sum(next((s.attributes[key] for key in keys if key in s.attributes), 0) for s in spans)
            for keys in (INPUT, OUTPUT)
        ],
        "spans": [
            {
                "name": s.name,
                "kind": s.kind.name,
                "status": s.status.status_code.name,
                "events": [event.name for event in s.events],
                "attributes": {k: v for k, v in s.attributes.items() if not k.startswith(("input.", "output."))},
            }
            for s in spans
            if s.name.startswith(("cascade.", "chat ", "invoke_workflow"))
        ],
    }


async def run(backend: str) -> dict[str, Any]:
    """All scenarios under one backend."""
    out: dict[str, Any] = {}
    for name, function in SCENARIOS.items():
        EXPORTER.clear()
        LOGS.lines.clear()
        faults.lost = 0
        runs, collector = LocalClient(), RunCollectorCallbackHandler()
        config = {"callbacks": [LangChainTracer(client=runs), collector]} if backend == "langsmith" else {}
        before = otel_context.get_current()
        await asyncio.create_task(function(config))
        if name != "handler_that_raises":  # where a handler raises, LangChain does not end the run
            await runs.ended()
        spans = sorted(EXPORTER.get_finished_spans(), key=lambda span: span.start_time or 0)
        out[name] = {
            **seen(spans),
            "runs": runs.tree(),
            "collected": [run.name for run in collector.traced_runs],
            "logs": list(LOGS.lines),
            "lost": faults.lost,
            "left": otel_context.get_current() != before,
        }
    return out


def main() -> None:
    """Run from the command line."""
    warnings.simplefilter("ignore")
    for name in ("opentelemetry", "langchain_core", "cascade_agent", "openinference"):
        logging.getLogger(name).addHandler(LOGS)
    otel_trace.set_tracer_provider(PROVIDER)
    instrument(sys.argv[1])
    json.dump(asyncio.run(run(sys.argv[1])), sys.stdout, default=str)


if __name__ == "__main__":
    main()
