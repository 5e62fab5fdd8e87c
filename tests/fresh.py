"""Programs in a process of their own, forked from a clean one that has imported what most of them need."""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRELOAD = ["langchain.agents", "langchain_openai", "opentelemetry.sdk.trace", "pytest_socket", "cascade_agent", "tests.fresh"]
_PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a program ended, and what it wrote."""

    code: int | None
    out: str
    err: str


def _program(program: str, arguments: tuple[str, ...], cwd: str, env: Mapping[str, str], files: tuple[str, str]) -> None:
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY), stream)
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


def run(program: Path | str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Done:
    """Run a file, or code, as the main program of a new process; one that hangs is ended after two minutes."""
    _PROCESSES.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(str(Path(folder, name)) for name in ("out", "err"))
        for file in files:
            Path(file).touch()
        given = (str(program), tuple(map(str, arguments)), str(cwd or Path.cwd()), dict(os.environ if env is None else env))
        process = _PROCESSES.Process(target=_program, args=(*given, files))
        process.start()
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
        out, err = (Path(file).read_text(encoding="utf-8") for file in files)
        done = Done(code=process.exitcode, out=out, err=err)
        process.close()
    return done
