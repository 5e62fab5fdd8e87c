"""The form of a journal file: UTF-8 lines of JSON, each with one record and its `type`, plain, gzip or Parquet."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NoReturn, TypeAlias, cast

from cascade_agent._log import LOG
from cascade_agent.errors import RecordError

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonMapping, JsonObject

OnError: TypeAlias = Literal["raise", "skip", "strict"]
PathLike: TypeAlias = str | os.PathLike[str]
Observer: TypeAlias = Callable[[Path, int, int], None]
"""Takes a file, the bytes of it that were read, and its size."""

MAX_LINE = 64 * 2**20
"""Bytes that a record may have."""
_REPORT_EVERY = 256
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


class NotJsonError(RecordError):
    """A line that no writer finished, or no writer wrote."""


@contextmanager
def observe_reading(observer: Observer) -> Iterator[None]:
    """Call `observer` now and then while files are read in this context."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def parse(line: bytes) -> JsonObject:
    """Return the JSON object of a line."""
    try:
        data = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        msg = f"not a line of JSON ({type(error).__name__})"
        raise NotJsonError(msg) from error
    if not isinstance(data, dict):
        msg = f"expected a JSON object, found {type(data).__name__}"
        raise RecordError(msg)
    return data


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is not JSON"
    raise ValueError(msg)


def kind_of(data: JsonMapping) -> str:
    """Return `step` or `label`. Bare records (`StepTrace.to_json()` written by hand) are known by their fields."""
    kind = data.get("type")
    if kind is None:
        kind = "step" if "attempts" in data else "label" if "step_id" in data else None
    if kind in ("step", "label"):
        return cast("str", kind)
    msg = f"a record of type {kind!r}; this version reads 'step' and 'label': upgrade cascade_agent if it should"
    raise RecordError(msg)


def text_lines(file: Path, *, lenient: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text file that are not blank with their numbers; `lenient` also of one that is cut off."""
    number, observer = 0, _observer.get()
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(_opened(file))
            size = os.fstat(raw.fileno()).st_size
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]  # a BufferedReader
            stream = stack.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
            for number, line in enumerate(_pieces(cast("IO[bytes]", stream)), 1):
                if observer is not None and number % _REPORT_EVERY == 0:
                    observer(file, raw.tell(), size)
                if line.strip():
                    yield number, line
    except EOFError as error:
        msg = f"{file}:{number + 1}: the compressed file is cut off"
        if not lenient:
            msg += "; restore it, or read with on_error='skip'"
            raise RecordError(msg) from error
        LOG.warning("%s; what is whole was read", msg)
    except (OSError, zlib.error) as error:
        msg = f"{file}:{number + 1}: cannot be read ({error}); restore the file, or take it out of the list"
        raise RecordError(msg) from error


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except FileNotFoundError:  # compressed since it was listed
        return file.with_name(f"{file.name}.gz").open("rb")


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; of one that is longer than a record may be no more than a mark that is none."""
    while line := stream.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
        yield b"too long\n"


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a file to write to, which takes the name of `target` when all is written, and is gone when it is not."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def answer_text(answer: object, separator: str = "\n") -> str:
    """Return a recorded answer as people read it: its text, then each call with its arguments; nothing for none."""
    if not isinstance(answer, Mapping):
        return ""
    text = answer.get("text") or ""
    parts = [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)]
    for key in ("tool_calls", "invalid_tool_calls"):
        calls = answer.get(key)
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, Mapping):
                args = call.get("args")
                given = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False, default=str)
                parts.append(f"{call.get('name')}({given})")
    if isinstance(answer.get("parsing_error"), str):
        parts.append(f"(not parsed: {answer['parsing_error']})")
    return separator.join(part for part in parts if part.strip())
