"""The `cascade-agent` command.

Law: results go to standard output (`--json` prints nothing else there), complaints to standard error. Exit code 0 is
done, 1 is a run that failed, 2 is input that cannot be used. Everything heavy is imported inside the command that needs
it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cascade_agent.errors import CascadeError, ConfigurationError, RecordError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console
    from rich.tree import Tree

    from cascade_agent.records import StepTrace, Verdict
    from cascade_agent.tiers import Tier

app = typer.Typer(
    name="cascade-agent",
    help="Small-then-large model cascades for LangGraph: see them run, read their records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


def main() -> None:
    """Entry point of the command."""
    app(prog_name="cascade-agent")


@app.callback()
def _root() -> None:
    """Small-then-large model cascades for LangGraph: see them run, read their records."""


def fail(message: str, *, code: int) -> NoReturn:
    """Say what is wrong on standard error and leave with `code`."""
    typer.echo(f"cascade-agent: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Errors of this library as one line instead of a traceback."""
    try:
        yield
    except (ConfigurationError, RecordError) as error:
        fail(str(error), code=2)
    except CascadeError as error:
        fail(f"{type(error).__name__}: {error}", code=1)


# ---- demo -----------------------------------------------------------------------------------------------------------


@app.command()
def demo(  # noqa: PLR0913 - the options of the command
    *,
    small: Annotated[
        str | None, typer.Option(help="Small model: a provider string such as openai:gpt-4o-mini.", metavar="MODEL")
    ] = None,
    large: Annotated[str | None, typer.Option(help="Large model, in the same way.", metavar="MODEL")] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint of both models (Ollama, vLLM), such as http://localhost:11434/v1. "
            "Its key is OPENAI_API_KEY, if set.",
            metavar="URL",
        ),
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(min=1, help="How many tasks, spread over the list. Default: all offline, 6 with live models."),
    ] = None,
    graph: Annotated[str | None, typer.Option(help="Only tasks of one graph: support or plan_execute.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Of how many tasks every step is printed in full.")] = 6,
    out: Annotated[Path, typer.Option(help="Directory for journal, spans and summary.")] = Path(".cascade"),
    as_json: JsonFlag = False,
) -> None:
    """Run two LangGraph agents as cascades, beside the small and the large model alone.

    Without --small and --large two offline stand-ins answer: rule-based programs, not language models.
    """
    with _clear_errors():
        pair = _live_pair(small, large, base_url)
        if graph not in (None, "support", "plan_execute"):
            fail(f"--graph is {graph!r}; expected support or plan_execute", code=2)
        if out.exists() and not out.is_dir():
            fail(f"--out {out} is a file; give a directory", code=2)
        _find_demo()
        from graphs.demo import choose, run_demo
        from graphs.standins import standin_tiers
        from graphs.tasks import load_tasks

        chosen = [task for task in load_tasks() if graph in (None, task.graph)]
        chosen = choose(chosen, tasks if tasks is not None or pair is None else 6)
        first, second = pair or standin_tiers()
        try:
            summary = run_demo(
                first, second, tasks=chosen, offline=pair is None, out=out, console=_console(quiet=as_json), show=show
            )
        except CascadeError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a provider raises is told in one line
            fail(f"the demo stopped: {type(error).__name__}: {error}", code=1)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))


def _live_pair(small: str | None, large: str | None, base_url: str | None) -> tuple[Tier, Tier] | None:
    if small is None and large is None:
        if base_url is not None:
            fail("--base-url needs --small and --large: the names of two models of that endpoint", code=2)
        return None
    if small is None or large is None:
        fail("give both --small and --large, or neither for the offline stand-ins", code=2)
    from cascade_agent.tiers import Tier

    if base_url is None:
        return Tier(small), Tier(large)
    try:
        from langchain_openai import ChatOpenAI
    except ImportError:
        fail("--base-url needs langchain-openai: pip install langchain-openai", code=2)
    from pydantic import SecretStr

    key = SecretStr(os.environ.get("OPENAI_API_KEY") or "none")
    return (
        Tier(ChatOpenAI(model=small, base_url=base_url, api_key=key, max_retries=0)),
        Tier(ChatOpenAI(model=large, base_url=base_url, api_key=key)),
    )


def _find_demo() -> None:
    """Make `graphs` and `tools` importable: beside this package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    for root in (package.parent, package / "_demo"):
        if (root / "graphs" / "demo.py").is_file():
            break
    else:
        fail("the demo's graphs are not installed; run it from a checkout", code=1)
    if sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))
    other = next((m for m in ("graphs", "tools") if m in sys.modules and not _inside(sys.modules[m], root)), None)
    if other:
        fail(f"another module named {other!r} is loaded already; run the demo in a process of its own", code=1)


def _inside(module: Any, root: Path) -> bool:
    return any(Path(place).resolve().parent == root for place in getattr(module, "__path__", ()))


def _console(*, quiet: bool = False) -> Console:
    from rich.console import Console

    if quiet:
        return Console(quiet=True)
    wide = None if sys.stdout.isatty() else 160
    return Console(width=wide)


# ---- trace ----------------------------------------------------------------------------------------------------------


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
    with _clear_errors():
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
    console = _console()
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


if __name__ == "__main__":
    main()
