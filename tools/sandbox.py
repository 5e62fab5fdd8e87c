"""Runs the tests of a project in a process of its own: a copy of the files, limits, no network, an empty environment.

This keeps a model's mistakes from doing harm; it is no wall against code that was written to break out. For code of
strangers run the whole graph in a container.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Outcome = Literal["passed", "failed", "timed_out", "ended"]

_PROCESS: Final = Path(__file__).with_name("run_tests.py")
_MAX_OUTPUT: Final = 4_000
_KEPT: Final = 256
_SECONDS: Final = re.compile(r"(?<=^Ran )(\d+ tests?) in [\d.]+s$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one test run. `seconds` is time on the clock; sizes are in bytes."""

    seconds: float = 4.0
    cpu_seconds: int = 3
    memory: int = 256 * 2**20
    file_size: int = 2**20
    open_files: int = 64
    processes: int = 16

    def to_json(self) -> dict[str, int]:
        """Return the limits that the process sets itself, by the names of the system."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory,
            "RLIMIT_FSIZE": self.file_size,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """The result of one test run. `ended`: the process came to an end without a result."""

    __test__ = False  # no test class, whatever its name

    outcome: Outcome
    ran: int = 0
    failed: int = 0
    output: str = ""

    @property
    def passed(self) -> bool:
        """Return whether at least one test ran and none failed."""
        return self.outcome == "passed"


_runs: OrderedDict[tuple[object, ...], TestRun] = OrderedDict()
_LOCK = Lock()


def run_tests(files: Mapping[str, str], limits: Limits = Limits()) -> TestRun:
    """Run `test*.py` of some files with unittest; equal files give the result that is known already.

    Raises:
        OSError: the process could not be started.
    """
    key = (limits, *sorted(files.items()))
    with _LOCK:
        known = _runs.get(key)
    if known is not None:
        return known
    with tempfile.TemporaryDirectory(prefix="cascade-tests-") as place:
        root = Path(os.path.realpath(place)) / "project"
        for name, text in files.items():
            file = root / name
            if not file.resolve().is_relative_to(root):
                msg = f"{name!r} lies outside of the project; expected a path below it"
                raise ValueError(msg)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        run = _run(root, limits)
    if run.outcome != "timed_out":  # time may have been short because the machine was busy
        with _LOCK:
            _runs[key] = run
            while len(_runs) > _KEPT:
                _runs.popitem(last=False)
    return run


def _run(root: Path, limits: Limits) -> TestRun:
    secret = secrets.token_hex(16) + "\n"
    receive, send = os.pipe()
    command = [*without_network(), sys.executable, "-I", "-S", "-B", str(_PROCESS)]
    arguments = [str(root), json.dumps(limits.to_json()), str(send)]
    timed_out = False
    with (root.parent / "output").open("w+b") as output, os.fdopen(receive, "rb") as results:
        try:
            process = subprocess.Popen(
                command + arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=root,
                env={"HOME": str(root), "TMPDIR": str(root), "LC_ALL": "C.UTF-8"},
                pass_fds=(send,),
                start_new_session=True,
            )
        finally:
            os.close(send)
        try:
            process.communicate(secret.encode(), timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the whole group: unshare, the tests and what they started
                process.communicate()
        found = b"" if timed_out else results.read(_MAX_OUTPUT)
        output.seek(max(0, output.seek(0, os.SEEK_END) - _MAX_OUTPUT))
        text = output.read().decode("utf-8", "replace").replace(f"{root}{os.sep}", "")
        text = _SECONDS.sub(r"\1", text)  # equal files, equal result
    return _result(found, secret, text, timed_out=timed_out)


def _result(found: bytes, secret: str, text: str, *, timed_out: bool) -> TestRun:
    if timed_out:
        return TestRun(outcome="timed_out", output=text)
    try:
        result = json.loads(found)
    except ValueError:
        result = {}
    if not isinstance(result, dict) or result.get("secret") != secret:
        return TestRun(outcome="ended", output=text)
    ran, failed = int(result["ran"]), int(result["failed"])
    return TestRun(outcome="passed" if ran and not failed else "failed", ran=ran, failed=failed, output=text)


@cache
def without_network() -> tuple[str, ...]:
    """Return the command that starts a process in an empty network of its own; () where the system has none.

    Without it the audit hook of the process still refuses sockets.
    """
    found = shutil.which("unshare")
    if found is None:
        return ()
    command = (found, "--net", "--map-root-user")
    try:
        probe = subprocess.run([*command, "true"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return command if probe.returncode == 0 else ()
