"""Measure what telemetry costs a step that goes to both tiers: CPU, against the same step without telemetry.

    python benchmarks/telemetry.py [--rounds 7] [--calls 200] [--json FILE]

All ways are measured in turn within one run, round after round; a figure is the least over the rounds. CPU is process
time (all threads, the one that exports too); other work on the machine can only add to it. Spans go through the SDK's
batch processor to an exporter that drops them: what a network exporter adds happens in its own thread.

`calls alone` runs what one step tells telemetry without the step around it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from rich.console import Console
from rich.table import Table

from cascade_agent import CascadeChatModel, Policy, telemetry
from cascade_agent.engine.step import trace_of
from cascade_agent.telemetry import spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cascade_agent.core.records import StepTrace


@tool
def find_order(order_id: int) -> str:
    """Look an order up by its number."""
    return f"order {order_id}: shipped"


GOOD = AIMessage(
    content="",
    tool_calls=[{"name": "find_order", "args": {"order_id": 4711}, "id": "call_1"}],
    usage_metadata={"input_tokens": 120, "output_tokens": 20, "total_tokens": 140},
)
BAD = GOOD.model_copy(update={"tool_calls": [{"name": "find_order", "args": {"order": "x"}, "id": "call_1"}]})
QUESTION: list[BaseMessage] = [HumanMessage("Where is my order 4711?")]


class Fixed(BaseChatModel):
    """Answers the same at once."""

    reply: AIMessage

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.reply.model_copy())])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        return self._generate(messages)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(**kwargs)

    @property
    def _llm_type(self) -> str:
        return "fixed"


class Dropped(SpanExporter):
    """An exporter that drops what it gets."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Listener(BaseCallbackHandler):
    """A handler that does nothing: what is measured is the telling."""

    run_inline = True


NOBODY = CallbackManager(handlers=[])
PROXY = spans._TRACER


def sdk_tracer() -> Any:
    """A tracer of the SDK with a batch processor."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Dropped(), max_queue_size=65536, schedule_delay_millis=200))
    return provider.get_tracer("cascade_agent")


@contextmanager
def way(tracer: Any, **settings: Any) -> Iterator[None]:
    """Telemetry as one way has it."""
    spans._TRACER = tracer
    telemetry.configure(**settings)
    try:
        yield
    finally:
        spans._TRACER = PROXY
        telemetry.configure()


def cpu(call: Callable[[], Any], n: int) -> float:
    """Mean CPU of a call in microseconds."""
    call()
    start = time.process_time()
    for _ in range(n):
        call()
    return (time.process_time() - start) / n * 1e6


def acpu(call: Callable[[], Any], n: int) -> float:
    """The same for a coroutine function."""

    async def loop() -> float:
        await call()
        start = time.process_time()
        for _ in range(n):
            await call()
        return (time.process_time() - start) / n * 1e6

    return asyncio.run(loop())


def calls_alone(trace: StepTrace) -> Callable[[], None]:
    """Do what a two-tier step does for telemetry, and nothing else."""
    decision = next(d for d in trace.decisions if d.action == "escalate")

    def tell() -> None:
        step = telemetry.start_step("desk", policy="0123456789ab", thread_id="t1")
        for index, attempt in enumerate(trace.attempts):
            one = telemetry.start_attempt(step, index, tier=attempt.tier, model="m")
            with telemetry.using(one), telemetry.ModelCall(NOBODY, attempt.tier, tier=None, messages=QUESTION) as call:
                call.record_answer(GOOD)
            telemetry.end_attempt(one, attempt)
            if index == 0:
                telemetry.record_escalation(step, decision)
        telemetry.end_step(step, trace)

    return tell


def measure(rounds: int, n: int) -> dict[str, dict[str, float]]:
    """Microseconds of CPU per step by way and column; the first row is the step without telemetry."""
    pair: dict[str, Any] = {
        "small": Fixed(reply=BAD),
        "large": Fixed(reply=GOOD),
        "policy": Policy(latency_budget=None),
    }
    model: Any = CascadeChatModel(**pair).bind_tools([find_order])
    trace = trace_of(model.invoke(QUESTION))
    assert trace is not None
    assert trace.outcome == "escalated"
    sdk, heard = sdk_tracer(), {"callbacks": [Listener()]}
    ways: dict[str, tuple[Any, dict[str, Any], Any]] = {
        "off": (PROXY, {"otel_spans": False}, None),
        "no SDK": (PROXY, {}, None),
        "SDK + batch": (sdk, {}, None),
        "SDK + batch, llm_spans=False": (sdk, {"llm_spans": False}, None),
        "off, one handler": (PROXY, {"otel_spans": False}, heard),
        "SDK + batch, one handler": (sdk, {}, heard),
    }
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for _ in range(rounds):
        for name, (tracer, settings, config) in ways.items():
            with way(tracer, **settings):
                row = seen[name]
                row.setdefault("calls alone", []).append(cpu(calls_alone(trace), n))
                row.setdefault("sync", []).append(cpu(lambda c=config: model.invoke(QUESTION, c), n))
                row.setdefault("async", []).append(acpu(lambda c=config: model.ainvoke(QUESTION, c), n))
    return {name: {column: min(took) for column, took in row.items()} for name, row in seen.items()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200, help="calls per round and way")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    assert type(otel_trace.get_tracer_provider()).__name__ == "ProxyTracerProvider", "a provider is configured"
    rows = measure(args.rounds, args.calls)
    console, table = Console(), Table(title="CPU of a two-tier step, us (ratio to telemetry off)")
    columns = list(rows["off"])
    for name in ("way", *columns):
        table.add_column(name, justify="left" if name == "way" else "right")
    for name, row in rows.items():
        cells = []
        for column in columns:
            off = rows["off"][column]
            cells.append(
                f"{row[column]:.0f}" if column == "calls alone" else f"{row[column]:.0f} ({row[column] / off:.2f})"
            )
        table.add_row(name, *cells)
    console.print(table)
    added = {name: {c: row[c] - rows["off"][c] for c in columns} for name, row in rows.items() if name != "off"}
    for name, row in added.items():
        console.print(f"{name}: adds " + ", ".join(f"{c} {us:+.0f} us" for c, us in row.items()))
    if args.json:
        args.json.write_text(json.dumps({"cpu_us": rows, "added_us": added}, indent=1))


if __name__ == "__main__":
    main()
