"""The common part of the commands: the application, options, errors in one line, and the only ways to print.

Words of a model, a user or a file are printed as text and nothing else: each of these ways passes them through
`safe_text` or `safe_json`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import Progress
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_command

from cascade_agent.errors import CascadeError, ConfigurationError, RecordError
from cascade_agent.journal.format import observe_reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_COMMANDS: Final = ("replay", "calibrate", "demo", "drift", "label", "report", "trace")
_SUMMARY: Final = "Small-then-large model cascades for LangGraph: see them run, read their records."
_ACTS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Controls (C0, DEL, C1), marks that turn the direction of writing, what has no width, and halves of characters."""
_SHOW_AFTER: Final = 0.5
"""Seconds after which a read is long enough for a progress bar."""


class _Commands(TyperGroup):
    """Imports the file of the command that is called, which may take long; for help those of all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for name in args[:1] if args and args[0] in _COMMANDS else _COMMANDS:
            alone = typer.Typer(add_completion=False)
            alone.command()(getattr(import_module(f"cascade_agent.cli.{name}"), name))
            self.add_command(get_command(alone))
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="cascade-agent", cls=_Commands, help=_SUMMARY, no_args_is_help=True, pretty_exceptions_enable=False
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out lines that are no records instead of refusing.")]
Journals = Annotated[
    list[str],
    typer.Argument(
        help="Journals: files or quoted patterns; JSON lines, plain or gzip, or Parquet.", metavar="JOURNAL..."
    ),
]


def safe_text(text: object, limit: int | None = None) -> str:
    """Return any text in one line with nothing in it that a terminal acts upon; with a limit cut, its gaps closed."""
    line = str(text)
    if limit is not None:
        line = re.sub(r"[ \t\r\n]+", " ", line[: 4 * limit]).strip()
        line = line if len(line) <= limit else f"{line[: limit - 1]}…"
    return _ACTS.sub(_escape, line.replace("\n", " ").replace("\t", " "))


def safe_json(data: object, *, indent: int | None = None) -> str:
    """Return JSON whose strings hold nothing that a terminal acts upon; it reads back as the same."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
    return _ACTS.sub(lambda match: "\n" if match.group() == "\n" else f"\\u{ord(match.group()):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def say(text: str = "", *, err: bool = False, style: str = "") -> None:
    """Print one line."""
    if style:
        make_console().print(Text(safe_text(text), style), soft_wrap=True)
    else:
        typer.echo(safe_text(text), err=err)


def complain(message: str) -> None:
    """Print what is wrong on standard error."""
    say(f"cascade-agent: {message}", err=True)


def fail(message: str, *, code: int = 2) -> NoReturn:
    """Print what is wrong on standard error and leave with `code`: input that cannot be used."""
    complain(message)
    raise typer.Exit(code)


def print_json(data: object) -> None:
    """Print the one JSON value of `--json`."""
    typer.echo(safe_json(data, indent=2))


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Print a table, the first `left` columns to the left; in several parts where the terminal is too narrow."""
    table = [[safe_text(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    parts, width = [[0]], make_console().width - widths[0]
    free = width
    for index, wanted in enumerate(widths[1:], 1):
        if wanted + 2 > free and len(parts[-1]) > 1:
            parts.append([0])
            free = width
        parts[-1].append(index)
        free -= wanted + 2
    if title:
        say(title)
    for part in parts:
        for number, row in enumerate(table):
            cells = [
                set_cell_size(row[i], widths[i]) if i < left else " " * (widths[i] - cell_len(row[i])) + row[i]
                for i in part
            ]
            typer.echo("  ".join(cells).rstrip())
            if number == 0:
                typer.echo("  ".join("-" * widths[i] for i in part))
        typer.echo()


class _SafeConsole(Console):
    """A console whose plain texts are safe too: those of the demo's graphs."""

    def print(self, *objects: Any, **kwargs: Any) -> None:
        texts = ("\n".join(map(safe_text, o.split("\n"))) if isinstance(o, str) else o for o in objects)
        super().print(*texts, **kwargs)


def make_console(*, piped: int | None = None, quiet: bool = False) -> Console:
    """Return a console as wide as the terminal; in a pipe as `COLUMNS` or 80 characters, or as wide as `piped`."""
    return _SafeConsole(width=None if sys.stdout.isatty() else piped, quiet=quiet)


@contextmanager
def reading_progress(*, wanted: bool = True) -> Iterator[None]:
    """Show how far long reads have come, on standard error where that is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield
        return
    started = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", visible=False)

        def observe(file: Path, done: int, size: int) -> None:
            if time.monotonic() - started > _SHOW_AFTER:
                name = safe_text(f"reading {file.name}", 50)
                bar.update(task, description=name, completed=done, total=size, visible=True)

        with observe_reading(observe):
            yield


class _Complaints(logging.Handler):
    """Prints what the library logs, once a file: a command may read the same one several times."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen = set[tuple[object, ...]]()

    def emit(self, record: logging.LogRecord) -> None:
        key = (record.msg, *map(str, record.args[:1] if isinstance(record.args, tuple) else ()))
        if key not in self.seen:
            self.seen.add(key)
            complain(record.getMessage())


_complaints: Final = _Complaints()


def _print_version(value: bool) -> None:
    if value:
        from cascade_agent.offline.calibration.policy_file import library_version

        typer.echo(f"cascade-agent {library_version()}")
        raise typer.Exit


@app.callback(help=_SUMMARY)
def _root(
    *,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    with suppress(AttributeError, ValueError):  # what the output's encoding lacks is escaped, not an error
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _complaints.seen.clear()
    logging.getLogger("cascade_agent").addHandler(_complaints)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors of this library and of files into one line and an exit code."""
    try:
        yield
    except (ConfigurationError, RecordError) as error:
        fail(str(error).replace("read with on_error='skip'", "give --skip-bad"))
    except CascadeError as error:
        fail(f"{type(error).__name__}: {error}", code=1)
    except BrokenPipeError:  # `| head` has seen enough
        raise
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}", code=1)
