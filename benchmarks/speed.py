"""Compare a cascade with a chain of fallbacks and a node written by hand, all measured in turn in one process.

    python benchmarks/speed.py [--rounds 200] [--waves 5] [--json FILE]

Three tables, once without an OpenTelemetry SDK and once with one and a batch processor (a process of its own each):

- the time that each way adds to an accepted tool step, at 1, 20 and 100 steps of history: CPU of the process, which
  other work on the machine does not touch, beside calling the small model directly. A round asks every way once, in
  turn; a cell is the median over the rounds, and in brackets the least. The synchronous cascade has its default
  deadline, so its call runs on another thread, which is counted too;
- steps per second of a graph with one node, 256 at a time, with models that take 20 ms, and the ratio to the node
  written by hand, for steps that are accepted and that escalate: the median over waves that take turns;
- the functions of this package that an accepted step calls, on the way and on its worker thread.

The node written by hand asks small, checks each call with a `jsonschema` validator that was compiled once, and asks
large when one fails. pydantic-ai's `FallbackModel` with a handler of its own stands beside them where it is installed:
what it adds to its own direct call.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from langgraph.graph import START, MessagesState, StateGraph
from overhead import BAD, GOOD, TOOLS, Fixed, history
from rich.console import Console
from rich.table import Table

import cascade_agent
from cascade_agent import CascadeChatModel, cascade_node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langchain_core.messages import AIMessage, BaseMessage

STEPS = (1, 20, 100)
CONCURRENT = 256
SECONDS = 0.02
BESIDE = "FallbackModel (pydantic-ai)"
Way = tuple[str, "Callable[..., Any]", "Callable[..., Awaitable[Any]]"]


class Slow(Fixed):
    """A model that takes 20 ms."""

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        await asyncio.sleep(SECONDS)
        return self._generate(messages)


class ByHand:
    """Small first; large where a call does not fit its tool's schema."""

    def __init__(self, small: Any, large: Any) -> None:
        self.small, self.large = small.bind_tools(TOOLS), large.bind_tools(TOOLS)
        self.checks = {t.name: Draft202012Validator(t.tool_call_schema.model_json_schema()) for t in TOOLS}

    def sound(self, message: AIMessage) -> bool:
        """Return whether the answer has text or calls, and all of these fit."""
        calls = message.tool_calls
        fits = all(c["name"] in self.checks and self.checks[c["name"]].is_valid(c["args"]) for c in calls)
        return fits and bool(calls or message.text) and not message.invalid_tool_calls

    def invoke(self, messages: list[BaseMessage]) -> AIMessage:
        """Answer one step."""
        answer = self.small.invoke(messages)
        return answer if self.sound(answer) else self.large.invoke(messages)

    async def ainvoke(self, messages: list[BaseMessage]) -> AIMessage:
        """Answer one step."""
        answer = await self.small.ainvoke(messages)
        return answer if self.sound(answer) else await self.large.ainvoke(messages)


# ---- time added -----------------------------------------------------------------------------------------------------


def ways() -> dict[str, Any]:
    """Return the ways to answer a step, the direct call first."""
    good, large = Fixed(reply=GOOD), Fixed(reply=GOOD)
    return {
        "direct": good.bind_tools(TOOLS),
        "with_fallbacks": good.bind_tools(TOOLS).with_fallbacks([large.bind_tools(TOOLS)]),
        "by hand": ByHand(good, large),
        "cascade": CascadeChatModel(small=good, large=large).bind_tools(TOOLS),
    }


def beside() -> dict[str, Any]:
    """Return pydantic-ai's direct call and its chain with a handler; nothing where it is not installed."""
    if importlib.util.find_spec("pydantic_ai") is None:
        return {}
    from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, UserPromptPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.tools import ToolDefinition

    schemas = {t.name: t.tool_call_schema.model_json_schema() for t in TOOLS}
    checks = {name: Draft202012Validator(schema) for name, schema in schemas.items()}
    offered = ModelRequestParameters(
        function_tools=[ToolDefinition(name=name, parameters_json_schema=schema) for name, schema in schemas.items()]
    )
    said = ModelResponse(parts=[ToolCallPart(tool_name="find_order", args={"order_id": 4711})])
    small, large = FunctionModel(lambda *_: said), FunctionModel(lambda *_: said)

    def unsound(response: ModelResponse) -> bool:
        calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
        return not all(checks[call.tool_name].is_valid(call.args_as_dict()) for call in calls)

    unsound.__annotations__["response"] = ModelResponse  # it is told from a handler of exceptions by this
    chain = FallbackModel(small, large, fallback_on=unsound)
    asked = [ModelRequest(parts=[UserPromptPart(content="Where is my order 4711?")])]
    return {"direct": lambda: small.request(asked, None, offered), BESIDE: lambda: chain.request(asked, None, offered)}


def added(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the microseconds that each way adds to a direct call, median and least, by history and form."""
    out: dict[str, dict[str, list[float]]] = {}
    loop = asyncio.new_event_loop()

    def run(model: Any, messages: list[BaseMessage]) -> Any:
        return loop.run_until_complete(model.ainvoke(messages))

    def measure(cell: str, calls: dict[str, Callable[[], Any]]) -> None:
        took: dict[str, list[float]] = {way: [] for way in calls}
        for number in range(rounds + 3):
            for way, call in calls.items():
                started = time.process_time_ns()
                call()
                if number >= 3:  # the first ones fill caches
                    took[way].append((time.process_time_ns() - started) / 1000)
        for way, seen in took.items():
            base = took["direct"] if way != "direct" else [0.0]
            median = statistics.median(seen) - statistics.median(base)
            out.setdefault(way, {}).setdefault(cell, [median, min(seen) - min(base)])

    for steps in STEPS:
        messages = history(steps)
        measure(f"sync @ {steps}", {way: partial(model.invoke, messages) for way, model in ways().items()})
        each = {way: partial(run, model, messages) for way, model in ways().items()}
        measure(f"async @ {steps}", each)
    others = {way: lambda c=call: loop.run_until_complete(c()) for way, call in beside().items()}
    if others:
        base = out.pop("direct")
        measure("async @ 1", others)
        out["direct"] = base
    loop.close()
    return out


# ---- steps per second -----------------------------------------------------------------------------------------------


def graphs(small: AIMessage) -> dict[str, Any]:
    """Return two graphs of one node: by hand, and the cascade."""
    hand = ByHand(Slow(reply=small), Slow(reply=GOOD))

    async def by_hand(state: MessagesState) -> Any:
        return {"messages": [await hand.ainvoke(state["messages"])]}

    nodes = {"by hand": by_hand, "cascade": cascade_node(Slow(reply=small), Slow(reply=GOOD), tools=TOOLS)}
    return {
        way: StateGraph(MessagesState).add_node("agent", node).add_edge(START, "agent").compile()
        for way, node in nodes.items()
    }


def throughput(waves: int) -> dict[str, dict[str, float]]:
    """Return steps per second by way, and the cascade's share of the node's, accepted and escalated."""
    out: dict[str, dict[str, float]] = {}
    for kind, reply in (("accepted", GOOD), ("escalated", BAD)):
        seen: dict[str, list[float]] = {}

        async def wave(graph: Any) -> float:
            value = {"messages": history(1)}
            started = time.perf_counter()
            await asyncio.gather(*(graph.ainvoke(value) for _ in range(CONCURRENT)))
            return CONCURRENT / (time.perf_counter() - started)

        async def turns(kind_of_reply: AIMessage, rates: dict[str, list[float]]) -> None:
            pair = graphs(kind_of_reply)
            for number in range(waves + 1):
                for way, graph in pair.items():
                    rate = await wave(graph)
                    if number:
                        rates.setdefault(way, []).append(rate)

        asyncio.run(turns(reply, seen))
        out[kind] = {way: statistics.median(rates) for way, rates in seen.items()}
        out[kind]["ratio"] = statistics.median(c / h for c, h in zip(seen["cascade"], seen["by hand"], strict=True))
    return out


# ---- function calls -------------------------------------------------------------------------------------------------


def calls_of_a_step() -> dict[str, dict[str, int]]:
    """Return how many functions of this package an accepted step calls, and in how many files, by history."""
    root = str(Path(cascade_agent.__file__).parent)
    model = ways()["cascade"]
    out: dict[str, dict[str, int]] = {}
    for steps in STEPS:
        messages, seen = history(steps), []

        def hook(frame: Any, event: str, _: Any, seen: list[str] = seen) -> None:
            # a generator that goes on is no new call
            if event == "call" and frame.f_lasti <= 5 and frame.f_code.co_filename.startswith(root):
                seen.append(frame.f_code.co_filename)

        for _ in range(20):  # the last one counts; the worker's thread is new, so that the hook is on it
            threading.setprofile(hook)
            seen.clear()
            sys.setprofile(hook)
            model.invoke(messages)
            sys.setprofile(None)
            threading.setprofile(None)
        out[str(steps)] = {"calls": len(seen), "files": len(set(seen))}
    return out


# ---- the tables -----------------------------------------------------------------------------------------------------


def set_up_sdk() -> None:
    """Configure an SDK whose batch processor exports to nowhere."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            del spans
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)


def work(*, sdk: bool, rounds: int, waves: int) -> dict[str, Any]:
    """Measure in this process."""
    logging.disable(logging.WARNING)
    if sdk:
        set_up_sdk()
    load = os.getloadavg()[0]
    return {"added_us": added(rounds), "steps_per_s": throughput(waves), "calls": calls_of_a_step(), "load": load}


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    console = Console(width=120)
    for name, part in found.items():
        cells = [f"{how} @ {steps}" for how in ("async", "sync") for steps in STEPS]
        table = Table(title=f"{name} (load {part['load']:.1f}): us of CPU added to an accepted step, median (least)")
        for column in ("way", *cells):
            table.add_column(column, justify="left" if column == "way" else "right")
        for way, row in part["added_us"].items():
            table.add_row(way, *("-" if c not in row else f"{row[c][0]:.0f} ({row[c][1]:.0f})" for c in cells))
        console.print(table)
        if BESIDE not in part["added_us"]:
            console.print(f"{BESIDE}: not installed here")
        for kind, rates in part["steps_per_s"].items():
            console.print(
                f"{kind}: {rates['cascade']:.0f} steps/s, by hand {rates['by hand']:.0f}: ratio {rates['ratio']:.2f}"
            )
        counts = ", ".join(f"{c['calls']} in {c['files']} files @ {steps}" for steps, c in part["calls"].items())
        console.print(f"functions of the package called by an accepted step: {counts}\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each way and cell")
    parser.add_argument("--waves", type=int, default=5, help="waves of 256 steps of each way")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=["none", "sdk"], help="print what one process measures as JSON")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(sdk=args.worker == "sdk", rounds=args.rounds, waves=args.waves)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name, mode in (("no SDK", "none"), ("SDK and batch processor", "sdk")):
        command = [sys.executable, __file__, "--worker", mode]
        command += ["--rounds", str(args.rounds), "--waves", str(args.waves)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
