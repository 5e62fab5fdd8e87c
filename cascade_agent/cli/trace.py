"""`cascade-agent trace`: the steps of a journal as a tree."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade_agent.cli.app import JsonFlag, app, clear_errors, make_console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.tree import Tree

    from cascade_agent.records import StepTrace, Verdict


@app.command()
def trace(
    file: Annotated[Path, typer.Argument(help="A journal (JSON lines).", metavar="FILE")],
    *,
    thread: Annotated[str | None, typer.Option(help="Only threads whose id starts with this.")] = None,
    escalated: Annotated[bool, typer.Option("--escalated", help="Only steps that reached the large model.")] = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last N steps.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the steps of a journal as a tree: thread, step, attempts, findings."""
    with clear_errors():
        from cascade_agent.journal import read

        steps = [
            step
            for step in read(file)
            if (thread is None or (step.thread_id or "").startswith(thread)) and (step.escalated or not escalated)
        ]
    if last is not None:
        steps = steps[-last:]
    if as_json:
        typer.echo(json.dumps([step.to_json() for step in steps], indent=2, ensure_ascii=False))
        return
    console = make_console()
    if not steps:
        console.print("No steps.")
    for tree in _trees(steps):
        console.print(tree, highlight=False)


def _trees(steps: Iterable[StepTrace]) -> Iterator[Tree]:
    from rich.markup import escape
    from rich.tree import Tree

    threads: dict[str, list[StepTrace]] = {}
    for step in steps:
        threads.setdefault(step.thread_id or f"(no thread) {step.id}", []).append(step)
    for name, own in threads.items():
        tree = Tree(f"[bold]{escape(name)}[/bold]")
        for step in own:
            cost = "cost unknown" if step.cost is None else f"{step.cost:.6f} {step.currency}"
            time = "" if step.latency is None else f", {step.latency * 1000:.1f} ms"
            who = step.final_tier or "nobody"
            branch = tree.add(f"{escape(step.step)}: {step.outcome} by {who} ({escape(step.reason)}), {cost}{time}")
            for attempt in step.attempts:
                model = f" {escape(attempt.model)}" if attempt.model else ""
                sure = "" if attempt.confidence is None else f", P(right) {attempt.confidence:.2f}"
                leaf = branch.add(f"{attempt.tier}{model}: {attempt.outcome}{sure}  {escape(_answer(attempt.answer))}")
                if attempt.error:
                    leaf.add(escape(attempt.error))
                for verdict in attempt.verdicts:
                    if verdict.outcome != "pass" or verdict.score is not None:
                        leaf.add(escape(_finding(verdict)))
        yield tree


def _finding(verdict: Verdict) -> str:
    score = "" if verdict.score is None else f" {verdict.score:.2f}"
    where = f" at {verdict.path}" if verdict.path else ""
    reason = f": {verdict.reason}" if verdict.reason else ""
    return f"{verdict.validator} {verdict.outcome}{score} {verdict.code}{where}{reason}"


def _answer(answer: dict[str, Any] | None) -> str:
    """What a tier said, short."""
    if not answer:
        return ""
    calls = answer.get("tool_calls") or []
    if calls:
        return ", ".join(f"{call.get('name')}({json.dumps(call.get('args'), ensure_ascii=False)})" for call in calls)
    return json.dumps(str(answer.get("text", ""))[:100], ensure_ascii=False)
