"""Programs in a process of their own, forked from a clean one that has imported what most of them need."""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOAD = [
    "langchain.agents",
    "langchain_openai",
    "opentelemetry.sdk.trace",
    "pytest_socket",
    "cascade_agent",
    "tests.fresh",
]
FILES = ("out", "err")
_PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of a program: its exit code and its output."""

    code: int | None
    out: str
    err: str


def _program(program: str, arguments: list[str], cwd: str, env: Mapping[str, str], written: str) -> None:
    for stream, name in enumerate(FILES, 1):
        os.dup2(os.open(Path(written, name), os.O_WRONLY), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program, *arguments]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102
    finally:
        atexit._run_exitfuncs()  # a forked process leaves them out


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A program that was started; end it in the thread that started it."""

    process: ForkServerProcess
    written: tempfile.TemporaryDirectory[str]

    def ended(self) -> Done:
        """Wait until the program ends; one that hangs is killed after five minutes."""
        self.process.join(300)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        with self.written as folder:
            out, err = (Path(folder, name).read_text(encoding="utf-8") for name in FILES)
        done = Done(code=self.process.exitcode, out=out, err=err)
        self.process.close()
        return done


def start(
    program: Path | str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Running:
    """Start a file, or code, as the main program of a new process."""
    written = tempfile.TemporaryDirectory()
    for name in FILES:
        Path(written.name, name).touch()
    _PROCESSES.set_forkserver_preload(PRELOAD)
    place, given = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
    given_to = (str(program), [*map(str, arguments)], place, given, written.name)
    process = _PROCESSES.Process(target=_program, args=given_to)
    process.start()
    return Running(process=process, written=written)


def run(program: Path | str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """Run a file, or code, as the main program of a new process, to its end."""
    return start(program, *arguments, cwd=cwd, env=env).ended()
