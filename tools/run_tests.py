"""The process that runs a project's tests: limits first, then guards, then the tests. Started by `tools.sandbox`.

Imports the standard library alone: it runs with `python -I -S`, where nothing else is installed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import unittest
from pathlib import Path
from typing import Any

_FORBIDDEN = (
    "ctypes.", "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.",
    "signal.pthread_kill", "sqlite3.enable_load_extension", "sqlite3.load_extension", "subprocess.",
)  # fmt: skip
_CHANGES = (
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime",
)  # fmt: skip
_READABLE = ("/dev/null", "/dev/urandom", "/usr/share/zoneinfo")
_AF_UNIX = 1


def limit(limits: dict[str, int]) -> list[str]:
    """Lower the limits of this process, hard and soft; return the names of those that the system does not have."""
    missing = []
    for name, value in limits.items():
        wanted = value + _own_tasks() if name == "RLIMIT_NPROC" else value  # it counts all that the user runs
        try:
            resource.setrlimit(getattr(resource, name), (wanted, wanted))
        except (AttributeError, OSError, ValueError):
            missing.append(name)
    return missing


def _own_tasks() -> int:
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines() if ":" in line)
        except OSError:
            continue
        count += int(lines.get("Threads", "1")) if int(lines["Uid"].split()[0]) == os.getuid() else 0
    return count


def guard(root: str) -> None:
    """Refuse the network, other processes, and files outside of `root`, for good: an audit hook cannot be removed."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(os.__file__).parent), *_READABLE}
    readable = tuple(os.path.realpath(place) for place in places)

    def check(path: Any, roots: tuple[str, ...]) -> None:
        real = os.path.realpath(os.fsdecode(path or "."))
        if not any(real == place or real.startswith(place + os.sep) for place in roots):
            raise PermissionError("a test run sees and changes its own project only: " + real)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(event + " is not allowed in a test run")
        if event.startswith("socket.") and not (event == "socket.__new__" and args[1] == _AF_UNIX):
            raise PermissionError("there is no network in a test run: " + event)
        paths = [path for path in args if isinstance(path, str | bytes | os.PathLike)]
        if event == "open" and not isinstance(args[0], int):
            check(args[0], (root,) if _writes(str(args[1] or ""), args[2]) else (root, *readable))
        elif event in ("os.listdir", "os.scandir"):
            check(args[0], (root, *readable))
        elif event in _CHANGES or (event == "sqlite3.connect" and args[0] != ":memory:"):
            for path in paths:
                check(path, (root,))

    sys.addaudithook(hook)


def _writes(mode: str, flags: int | None) -> bool:
    changes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return any(c in mode for c in "wax+") or bool((flags or 0) & changes)


def main() -> None:
    """Run the tests below the directory of the first argument; limits are the second, the result's file the third."""
    root, limits, place = os.path.realpath(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    secret = sys.stdin.readline()  # a project that ends the process itself cannot write the result
    missing = limit(limits)
    sys.path.insert(0, root)
    guard(root)
    suite = unittest.TestLoader().discover(root, pattern="test*.py", top_level_dir=root)
    outcome = unittest.TextTestRunner(stream=sys.stdout, verbosity=0).run(suite)
    failed = len(outcome.failures) + len(outcome.errors) + len(outcome.unexpectedSuccesses)
    result = {"secret": secret, "ran": outcome.testsRun - len(outcome.skipped), "failed": failed, "missing": missing}
    sys.stdout.flush()
    os.write(place, json.dumps(result).encode())


if __name__ == "__main__":
    main()
