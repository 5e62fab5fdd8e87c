"""The demo: the graphs on the measured tasks as a cascade, compared with the small and the large model alone.

It prints every step of some tasks with who answered and why, then success and cost of the three, and leaves a
journal, labels of its steps, the OpenTelemetry spans and a summary behind. Stand-ins are called stand-ins wherever a
figure is shown.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from rich.markup import escape
from rich.table import Table

from cascade_agent import StepTrace, Tier
from cascade_agent.core.records import Label
from graphs import code_repair, extraction, plan_execute, support
from graphs.evaluation.documents import extraction_tasks
from graphs.evaluation.projects import repair_tasks
from graphs.evaluation.run import TaskResult, run_task
from graphs.evaluation.tasks import Task, load_tasks
from graphs.standins.models import LARGE_PRICE, SMALL_PRICE, standin_tiers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel
    from opentelemetry.sdk.trace import ReadableSpan
    from rich.console import Console

    from cascade_agent.core.records import Usage

_GRAPHS: Final = {
    "support": support,
    "plan_execute": plan_execute,
    "code_repair": code_repair,
    "extraction": extraction,
}

WAYS: Final = ("small alone", "cascade", "large alone")
_GROUND: Final = (
    "the rows of a SQLite shop, the answers, the hidden tests of the projects and the fields of the records"
)

STAND_INS: Final = (
    "Offline stand-ins: two rule-based programs, not language models. They read and err, their prices are made up,\n"
    "and no figure below says anything about a real model. For live models give --small and --large."
)


def demo_tasks() -> tuple[Task, ...]:
    """Return the tasks of all graphs."""
    return (*load_tasks(), *repair_tasks(), *extraction_tasks())


def choose(tasks: Sequence[Task], count: int | None) -> list[Task]:
    """`count` of the tasks, evenly spread over the list; None is all of them."""
    if count is None or count >= len(tasks):
        return list(tasks)
    return [tasks[index * len(tasks) // count] for index in range(count)]


@dataclass(slots=True, kw_only=True)
class Arm:
    """One of the three ways to do the tasks, with what was measured. An unknown cost makes the sum unknown."""

    results: list[TaskResult] = field(default_factory=list)
    costs: list[float | None] = field(default_factory=list)
    small_calls: int = 0
    large_calls: int = 0

    @property
    def cost(self) -> float | None:
        """Cost of all tasks."""
        return None if None in self.costs else sum(cost for cost in self.costs if cost is not None)

    @property
    def succeeded(self) -> int:
        """Number of tasks with success."""
        return sum(result.success for result in self.results)

    def add(self, result: TaskResult, costs: Iterable[float | None], small_calls: int, large_calls: int) -> None:
        """Count one task."""
        self.results.append(result)
        self.costs.extend(costs)
        self.small_calls += small_calls
        self.large_calls += large_calls

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        tokens_in = [usage.input_tokens for result in self.results for _, usage in result.calls]
        tokens_out = [usage.output_tokens for result in self.results for _, usage in result.calls]
        return {
            "tasks": len(self.results),
            "succeeded": self.succeeded,
            "success": self.succeeded / len(self.results) if self.results else None,
            "cost": self.cost,
            "small_calls": self.small_calls,
            "large_calls": self.large_calls,
            "input_tokens": None if None in tokens_in else sum(n for n in tokens_in if n is not None),
            "output_tokens": None if None in tokens_out else sum(n for n in tokens_out if n is not None),
            "seconds": round(sum(result.seconds for result in self.results), 3),
            "missed": {result.task: list(result.missed) for result in self.results if not result.success},
        }


@dataclass(slots=True)
class _Measured:
    """The three ways, each graph for itself."""

    by_graph: dict[str, dict[str, Arm]] = field(default_factory=dict)

    def arm(self, graph: str, way: str) -> Arm:
        return self.by_graph.setdefault(graph, {name: Arm() for name in WAYS})[way]

    def total(self, way: str) -> Arm:
        whole = Arm()
        for arm in (arms[way] for arms in self.by_graph.values()):
            whole.results += arm.results
            whole.costs += arm.costs
            whole.small_calls += arm.small_calls
            whole.large_calls += arm.large_calls
        return whole


def run_demo(
    small: Tier,
    large: Tier,
    *,
    tasks: Sequence[Task] | None = None,
    offline: bool,
    out: Path,
    console: Console,
    show: int = 6,
    repeats: int = 1,
) -> dict[str, Any]:
    """Run the three ways, print them, leave `journal.jsonl`, `labels.jsonl`, `spans.jsonl` and `demo.json` in `out`.

    Args:
        small: the small tier.
        large: the large tier.
        tasks: the tasks; None is every one.
        offline: whether the tiers are the stand-ins, which is then said.
        out: directory that is made and appended to.
        console: where to print.
        show: of how many tasks (evenly spread) every step is printed in full; the others get a line each.
        repeats: how often the tasks are done; the stand-ins draw other faults each time.

    Returns:
        The summary as written to `demo.json`.
    """
    tasks = demo_tasks() if tasks is None else tasks
    out.mkdir(parents=True, exist_ok=True)
    console.print(STAND_INS if offline else f"Live models: small {small.label}, large {large.label}.", style="bold")
    console.print(f"{len(tasks)} tasks; success is measured from {_GROUND}.")
    console.print(
        "Steps: s = the small model's draft was taken; L:why = the large model answered, and why; X = nobody.\n"
    )
    measured, in_full = _Measured(), {task.id for task in choose(tasks, show)}
    started = time.perf_counter()
    with _journal(out / "journal.jsonl") as journal, _spans(out / "spans.jsonl"):
        for repeat in range(repeats):
            pair = standin_tiers(repeat) if offline and repeat else (small, large)
            if repeat:
                console.print(f"[dim]all of it again, {repeat + 1} of {repeats} ...[/dim]")
            for task in tasks:
                result, traces = journal.cascade(task, *pair)
                _count(measured.arm(task.graph, "cascade"), result, traces)
                _run_alone(measured.arm(task.graph, "small alone"), task, pair[0], small=True)
                alone = _run_alone(measured.arm(task.graph, "large alone"), task, pair[1], small=False)
                _label(out / "labels.jsonl", result, traces, alone)
                if not repeat:
                    _print_task(console, task, result, traces, full=task.id in in_full)
    console.print()
    summary = _summary(measured, small, large, offline=offline, out=out, seconds=time.perf_counter() - started)
    _print_summary(console, measured, offline=offline, small=small, large=large)
    (out / "demo.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    left = [name for name in ("journal.jsonl", "labels.jsonl", "spans.jsonl", "demo.json") if (out / name).exists()]
    console.print(f"\nLeft behind in {escape(str(out))}: {', '.join(left)}", highlight=False)
    if "spans.jsonl" not in left:
        console.print("No spans: they need pip install 'langgraph-cascade[otel]'.", markup=False, highlight=False)
    console.print(f"Look closer: cascade-agent trace {escape(str(out / 'journal.jsonl'))}", highlight=False)
    return summary


def _summary(
    measured: _Measured, small: Tier, large: Tier, *, offline: bool, out: Path, seconds: float
) -> dict[str, Any]:
    spans = out / "spans.jsonl"
    return {
        "stand_ins": offline,
        "note": STAND_INS if offline else "live models",
        "small": _named(small),
        "large": _named(large),
        "arms": {way: measured.total(way).to_json() for way in WAYS},
        "graphs": {
            graph: {way: arm.to_json() for way, arm in arms.items()} for graph, arms in measured.by_graph.items()
        },
        "seconds": round(seconds, 3),
        "journal": str(out / "journal.jsonl"),
        "labels": str(out / "labels.jsonl"),
        "spans": str(spans) if spans.exists() else None,
    }


def _label(path: Path, result: TaskResult, traces: Sequence[StepTrace], alone: TaskResult) -> None:
    """Write what the end of a task says about the steps that small answered.

    A task that failed counts against each of them, though it is mostly one that spoiled it: harm is over-counted. It is
    harm where large alone did the task.
    """
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    note = "the task succeeded" if result.success else f"the task failed: {'; '.join(result.missed)}"[:200]
    harm = not result.success and alone.success
    labels = [
        Label(step_id=trace.id, source="evaluator", right=result.success, harm=harm, note=note, at=at)
        for trace in traces
        if trace.final_tier == "small"
    ]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(label.to_json(), ensure_ascii=False) + "\n" for label in labels)


def _named(tier: Tier) -> dict[str, Any]:
    return {"model": tier.label, "price": tier.price.to_json() if tier.price else None}


# ---- running --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Records:
    """Reads back what the cascade wrote since the last look."""

    path: Path
    offset: int

    def cascade(self, task: Task, small: Tier, large: Tier) -> tuple[TaskResult, list[StepTrace]]:
        build = partial(_GRAPHS[task.graph].build, small, large)
        return run_task(task, build, thread_id=f"{task.id}-{uuid4().hex[:8]}"), self.new()

    def new(self) -> list[StepTrace]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            lines = file.read().splitlines()
            self.offset = file.tell()
        records = [json.loads(line) for line in lines]
        return [StepTrace.from_json(record) for record in records if record.get("type") == "step"]


@contextmanager
def _journal(path: Path) -> Iterator[_Records]:
    before = os.environ.get("CASCADE_JOURNAL")
    os.environ["CASCADE_JOURNAL"] = str(path)
    try:
        yield _Records(path, path.stat().st_size if path.exists() else 0)
    finally:
        if before is None:
            del os.environ["CASCADE_JOURNAL"]
        else:
            os.environ["CASCADE_JOURNAL"] = before


def _count(arm: Arm, result: TaskResult, traces: Sequence[StepTrace]) -> None:
    called = [a.tier for trace in traces for a in trace.attempts if a.outcome != "skipped"]
    arm.add(result, [trace.cost for trace in traces], called.count("small"), called.count("large"))


def _run_alone(arm: Arm, task: Task, tier: Tier, *, small: bool) -> TaskResult:
    def price(_: str, usage: Usage) -> float | None:
        return tier.cost(usage)

    model: BaseChatModel = tier.base
    result = run_task(task, partial(_GRAPHS[task.graph].build_alone, model))
    calls = len(result.calls)
    arm.add(result, [result.cost(price)], calls if small else 0, 0 if small else calls)
    return result


@contextmanager
def _spans(path: Path) -> Iterator[None]:
    """Write every span of the block as a line of JSON; without OpenTelemetry's SDK there are none."""
    from opentelemetry import trace

    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
    except ImportError:
        yield
        return

    class JsonLines(SpanExporter):
        """One span per line, as the SDK writes it."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(str(span.to_json(indent=None)) + "\n" for span in spans)
            return SpanExportResult.SUCCESS

    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        provider = current
    else:
        provider = TracerProvider(resource=Resource.create({"service.name": "cascade-agent demo"}))
        trace.set_tracer_provider(provider)
    processor = SimpleSpanProcessor(JsonLines())
    provider.add_span_processor(processor)
    try:
        yield
    finally:
        processor.shutdown()


# ---- printing -------------------------------------------------------------------------------------------------------


def _print_task(console: Console, task: Task, result: TaskResult, traces: list[StepTrace], *, full: bool) -> None:
    mark = "[green]done  [/green]" if result.success else "[red]missed[/red]"
    if not full:
        steps = " ".join(_short(trace) for trace in traces)
        console.print(f"{mark} {escape(task.id)}  {steps}", highlight=False)
        return
    console.print(f"{mark} [bold]{escape(task.id)}[/bold]  ({task.graph}, {task.kind})", highlight=False)
    for turn in task.turns:
        lines = escape(turn).strip().splitlines()
        more = f" ... ({len(lines)} lines)" if len(lines) > 1 else ""
        console.print(f"         user: {lines[0]}{more}", highlight=False)
    for trace in traces:
        code, reason = why(trace)
        who = {"small": "[cyan]small[/cyan] ", "large": "[yellow]large[/yellow] "}.get(
            trace.final_tier or "", "[red]nobody[/red]"
        )
        because = f"{code}: {reason}" if reason else code
        console.print(f"         {trace.step:<10} {who} {escape(_said(trace)):<34} {escape(because)}", highlight=False)
    if result.answers:
        console.print(f"         answer: {escape(' '.join(result.answers[-1].split())[:300])}", highlight=False)
    for missed in result.missed:
        console.print(f"         [red]{escape(missed)}[/red]", highlight=False)


def _short(trace: StepTrace) -> str:
    if trace.final_tier == "small":
        return "[cyan]s[/cyan]"
    colour, letter = ("yellow", "L") if trace.final_tier == "large" else ("red", "X")
    return f"[{colour}]{letter}[/{colour}]:{escape(why(trace)[0])}"


def why(trace: StepTrace) -> tuple[str, str]:
    """Code and sentence of what decided: the first finding that rejected a draft, or that nothing did."""
    for attempt in trace.attempts:
        for verdict in attempt.verdicts:
            if verdict.outcome == "fail":
                return verdict.code, verdict.reason
        if attempt.error:
            return "model_error", attempt.error
    return trace.reason, ""


def _said(trace: StepTrace) -> str:
    answer = (trace.attempts[trace.final].answer if trace.final is not None else None) or {}
    calls = answer.get("tool_calls") or []
    if calls:
        return ", ".join(f"{call['name']}({', '.join(call.get('args') or {})})" for call in calls)
    return "an answer" if answer.get("text") else "nothing"


def _print_summary(console: Console, measured: _Measured, *, offline: bool, small: Tier, large: Tier) -> None:
    title = "Offline stand-ins at made-up prices (no model's figures)" if offline else "Measured on the live models"
    table = Table(title=title, title_justify="left")
    for column in ("", "success", "cost", "cost, large alone = 1", "small calls", "large calls"):
        table.add_column(column, justify="left" if not column else "right")
    every = [*measured.by_graph.items()]
    if len(every) > 1:
        every.append(("all", {way: measured.total(way) for way in WAYS}))
    for graph, arms in every:
        table.add_section()
        full = arms["large alone"].cost
        for way, arm in arms.items():
            share = f"{arm.cost / full:.2f}" if arm.cost is not None and full else "unknown"
            cost = "unknown" if arm.cost is None else f"{arm.cost:.4f}"
            success = f"{arm.succeeded} of {len(arm.results)}"
            table.add_row(f"{graph}, {way}", success, cost, share, str(arm.small_calls), str(arm.large_calls))
    console.print(table)
    if offline:
        console.print(
            f"Made-up prices per million tokens: {small.label} {SMALL_PRICE.input} in, {SMALL_PRICE.output} out; "
            f"{large.label} {LARGE_PRICE.input} in, {LARGE_PRICE.output} out.",
            highlight=False,
        )
