"""Measure what a cascade adds to a step: CPU over a direct call of the small model, by history, and import time.

    python benchmarks/overhead.py [--rounds 5] [--json FILE]
    python benchmarks/overhead.py --against PATH [--rounds 5]

`--against` measures an accepted step of this tree and of another one (a checkout of an older version) in processes that
take turns, and prints least times and ratios: that is how two versions compare on a machine that does other work too.

All ways are measured in turn within one run, round after round; a figure is the median over the rounds. CPU is process
time (all threads), so other work on the machine does not count. No OpenTelemetry SDK is configured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from rich.console import Console
from rich.table import Table

from cascade_agent import CascadeChatModel, default_validators
from cascade_agent.validators import CompleteResponse, StructuredOutput, ToolCallSchema

if TYPE_CHECKING:
    from collections.abc import Callable


@tool
def get_weather(city: str, unit: str = "celsius") -> str:
    """Current weather in a city."""
    return f"{city}: 21 {unit}"


@tool
def find_order(order_id: int) -> str:
    """Look an order up by its number."""
    return f"order {order_id}: shipped"


TOOLS = [get_weather, find_order]
GOOD = AIMessage(
    content="",
    tool_calls=[{"name": "find_order", "args": {"order_id": 4711}, "id": "call_1"}],
    usage_metadata={"input_tokens": 120, "output_tokens": 20, "total_tokens": 140},
)
BAD = GOOD.model_copy(update={"tool_calls": [{"name": "find_order", "args": {"order": "x"}, "id": "call_1"}]})


class Fixed(BaseChatModel):
    """Answers the same at once: what is measured is everything around it."""

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


def history(steps: int) -> list[BaseMessage]:
    """A conversation of so many finished tool steps, then the question that the draft answers."""
    messages: list[BaseMessage] = []
    for i in range(steps):
        call = {"name": "get_weather", "args": {"city": f"Town {i}"}, "id": f"c{i}"}
        messages += [
            HumanMessage(f"What is the weather in Town {i} today? I want to go there with {i + 2} friends."),
            AIMessage(content="", tool_calls=[call]),
            ToolMessage(f"Town {i}: {i % 30} celsius, wind from the west, a little rain later", tool_call_id=f"c{i}"),
            AIMessage(content=f"It is {i % 30} degrees in Town {i}, with a little rain later."),
        ]
    return [*messages, HumanMessage("Where is my order 4711?")]


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


def measure_steps(rounds: int, n: int) -> dict[str, dict[str, float]]:
    """Added CPU per step by way and length of history."""
    hard = [CompleteResponse(), StructuredOutput(), ToolCallSchema()]
    good, bad = Fixed(reply=GOOD), Fixed(reply=BAD)
    pair = {"small": good, "large": good}
    ways: dict[str, Any] = {
        "direct": good.bind_tools(TOOLS),
        "with_fallbacks": good.with_fallbacks([good]),
        "cascade, no validators": CascadeChatModel(**pair, validators=[]).bind_tools(TOOLS),
        "cascade, hard checks": CascadeChatModel(**pair, validators=hard).bind_tools(TOOLS),
        "cascade, default set": CascadeChatModel(**pair, validators=default_validators()).bind_tools(TOOLS),
        "cascade, escalated": CascadeChatModel(small=bad, large=good, validators=default_validators()).bind_tools(
            TOOLS
        ),
    }
    out: dict[str, dict[str, float]] = {way: {} for way in ways}
    for steps in (1, 20, 100):
        messages = history(steps)
        for kind, timer in (("sync", cpu), ("async", acpu)):
            seen: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, model in ways.items():
                    ask = model.invoke if kind == "sync" else model.ainvoke
                    seen[way].append(timer(partial(ask, messages), n))
            direct = statistics.median(seen["direct"])
            for way, cells in out.items():
                base = 0.0 if way == "direct" else direct
                cells[f"{kind} @ {steps}"] = statistics.median(seen[way]) - base
    return out


def measure_imports(rounds: int) -> dict[str, float]:
    """Milliseconds of an import beyond a bare interpreter, best of the rounds."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for what in ("", "cascade_agent", "langgraph.graph", "cascade_agent.adapters.chat_model"):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {what}" if what else "pass"], check=True)
            took = (time.perf_counter() - start) * 1000
            best[what] = min(best.get(what, took), took)
    bare = best.pop("")
    return {what: took - bare for what, took in best.items()}


TEXT = AIMessage(
    content="I cannot find an order with the number 4711. From which shop did you order?",
    usage_metadata={"input_tokens": 120, "output_tokens": 20, "total_tokens": 140},
)


def least(call: Callable[[], Any], n: int) -> float:
    """Return the least CPU of a call in microseconds."""
    best = float("inf")
    for _ in range(n + 3):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best * 1e6


def accepted_step(n: int) -> dict[str, float]:
    """Return the least CPU that the default cascade adds to an accepted step, by kind of draft and history."""
    out: dict[str, float] = {}
    loop = asyncio.new_event_loop()
    for kind, reply in (("call", GOOD), ("text", TEXT)):
        direct = Fixed(reply=reply)
        cascade = CascadeChatModel(small=direct, large=Fixed(reply=GOOD), validators=default_validators())
        for steps in (1, 20, 100):
            for way in ("sync", "async"):
                took = []
                for model in (direct.bind_tools(TOOLS), cascade.bind_tools(TOOLS)):
                    ask = partial(model.invoke if way == "sync" else model.ainvoke, history(steps))
                    took.append(least(ask if way == "sync" else lambda a=ask: loop.run_until_complete(a()), n))
                out[f"{kind}, {way} @ {steps}"] = took[1] - took[0]
    loop.close()
    return out


def compare(other: Path, rounds: int, n: int) -> dict[str, dict[str, float]]:
    """Return what both trees add to an accepted step, the least of the rounds, and the ratio."""
    trees = {"this": Path(__file__).resolve().parents[1], "other": other.resolve()}
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, tree in trees.items():
            command = [sys.executable, __file__, "--accepted-step", "--calls", str(n)]
            env = {**os.environ, "PYTHONPATH": str(tree)}
            done = subprocess.run(command, check=True, capture_output=True, env=env)
            for cell, took in json.loads(done.stdout).items():
                row = found.setdefault(cell, {})
                row[name] = min(row.get(name, took), took)
    return {cell: {**row, "ratio": row["this"] / row["other"]} for cell, row in found.items()}


def show_comparison(rows: dict[str, dict[str, float]]) -> None:
    """Print the table of two trees."""
    table = Table(title="CPU that the default cascade adds to an accepted step, us, least of all rounds")
    for name in ("step", "this", "other", "ratio"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for cell, row in rows.items():
        table.add_row(cell, f"{row['this']:.0f}", f"{row['other']:.0f}", f"{row['ratio']:.2f}")
    Console().print(table)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200, help="calls per round and way")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, help="folder of another version, measured in turn with this one")
    parser.add_argument("--accepted-step", action="store_true", help="print what an accepted step costs as JSON")
    args = parser.parse_args()
    if args.accepted_step:
        print(json.dumps(accepted_step(args.calls)))
        return
    if args.against:
        if not (args.against / "cascade_agent").is_dir():  # Python would take the installed version instead
            parser.error(f"--against {args.against}: expected a folder that holds cascade_agent/, as a checkout does")
        rows = compare(args.against, args.rounds, args.calls)
        show_comparison(rows)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))
        return
    steps = measure_steps(args.rounds, args.calls)
    imports = measure_imports(args.rounds)
    console = Console()
    table = Table(title="CPU of a direct call, and what each way adds to it, us (columns: steps of history)")
    columns = list(next(iter(steps.values())))
    for name in ("way", *columns):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, cells in steps.items():
        table.add_row(way, *(f"{cells[c]:.0f}" for c in columns))
    console.print(table)
    console.print("import, ms beyond a bare interpreter: " + ", ".join(f"{k} {v:.0f}" for k, v in imports.items()))
    if args.json:
        args.json.write_text(json.dumps({"added_cpu_us": steps, "import_ms": imports}, indent=1))


if __name__ == "__main__":
    main()
