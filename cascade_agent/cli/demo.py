"""`cascade-agent demo`: four agents as cascades, compared with the small and the large model alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade_agent.cli._app import JsonFlag, clear_errors, fail, make_console, print_json
from cascade_agent.errors import CascadeError

if TYPE_CHECKING:
    from cascade_agent.models.tier import Tier


@clear_errors()
def demo(
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
    graph: Annotated[
        str | None, typer.Option(help="Only tasks of one graph: support, plan_execute, code_repair or extraction.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Of how many tasks every step is printed in full.")] = 6,
    repeats: Annotated[
        int, typer.Option(min=1, help="How often the tasks are done; the stand-ins draw other faults each time.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Directory for journal, labels, spans and summary.")] = Path(".cascade"),
    as_json: JsonFlag = False,
) -> None:
    """Run four LangGraph agents as cascades, and the same with the small and the large model alone.

    Without --small and --large two offline stand-ins answer: rule-based programs, not language models.
    """
    pair = _live_pair(small, large, base_url)
    if graph not in (None, "support", "plan_execute", "code_repair", "extraction"):
        fail(f"--graph is {graph!r}; expected support, plan_execute, code_repair or extraction")
    if out.exists() and not out.is_dir():
        fail(f"--out {out} is a file; give a directory")
    _find_demo()
    from graphs.evaluation.demo import choose, demo_tasks, run_demo
    from graphs.standins.models import standin_tiers

    chosen = [task for task in demo_tasks() if graph in (None, task.graph)]
    chosen = choose(chosen, tasks if tasks is not None or pair is None else 6)
    first, second = pair or standin_tiers()
    try:
        summary = run_demo(
            first,
            second,
            tasks=chosen,
            offline=pair is None,
            out=out,
            console=make_console(piped=160, quiet=as_json),
            show=show,
            repeats=repeats,
        )
    except CascadeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a provider raises is one line
        fail(f"the demo stopped: {type(error).__name__}: {error}", code=1)
    if as_json:
        print_json(summary)


def _live_pair(small: str | None, large: str | None, base_url: str | None) -> tuple[Tier, Tier] | None:
    if small is None and large is None:
        if base_url is not None:
            fail("--base-url needs --small and --large: the names of two models of that endpoint")
        return None
    if small is None or large is None:
        fail("give both --small and --large, or neither for the offline stand-ins")
    from cascade_agent.models.tier import Tier

    if base_url is None:
        return Tier(small), Tier(large)
    try:
        from langchain_openai import ChatOpenAI
    except ImportError:
        fail("--base-url needs langchain-openai: pip install langchain-openai")
    from pydantic import SecretStr

    key = SecretStr(os.environ.get("OPENAI_API_KEY") or "none")
    return (
        Tier(ChatOpenAI(model=small, base_url=base_url, api_key=key, max_retries=0)),
        Tier(ChatOpenAI(model=large, base_url=base_url, api_key=key)),
    )


def _find_demo() -> None:
    """Make `graphs` and `tools` importable: next to this package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    for root in (package.parent, package / "_demo"):
        if (root / "graphs" / "evaluation" / "demo.py").is_file():
            break
    else:
        fail("the demo's graphs are not installed; run it from a checkout", code=1)
    if sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))
    for name in ("graphs", "tools"):
        places = getattr(sys.modules.get(name), "__path__", ())
        if name in sys.modules and not any(Path(place).resolve().parent == root for place in places):
            fail(f"another module named {name!r} is loaded already; run the demo in a process of its own", code=1)
