"""What the commands share: the application, clear errors, the console."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cascade_agent.errors import CascadeError, ConfigurationError, RecordError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

app = typer.Typer(
    name="cascade-agent",
    help="Small-then-large model cascades for LangGraph: see them run, read their records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


@app.callback()
def _root() -> None:
    """Small-then-large model cascades for LangGraph: see them run, read their records."""


def fail(message: str, *, code: int) -> NoReturn:
    """Say what is wrong on standard error and leave with `code`."""
    typer.echo(f"cascade-agent: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Errors of this library as one line instead of a traceback."""
    try:
        yield
    except (ConfigurationError, RecordError) as error:
        fail(str(error).replace("read with on_error='skip'", "give --skip-bad"), code=2)
    except CascadeError as error:
        fail(f"{type(error).__name__}: {error}", code=1)


def make_console(*, quiet: bool = False) -> Console:
    """Where people read; as wide as the terminal, 160 characters in a pipe."""
    from rich.console import Console

    if quiet:
        return Console(quiet=True)
    wide = None if sys.stdout.isatty() else 160
    return Console(width=wide)
