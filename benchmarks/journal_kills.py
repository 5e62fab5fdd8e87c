"""Kills the writers of one shared journal again and again, and counts what that costs.

    python benchmarks/journal_kills.py [--seconds 60] [--processes 4] [--threads 3] [--max-bytes 1000000] [--json]

Processes of several threads append steps to one journal that rotates and compresses; each process is killed
(SIGKILL) within a second of its first record, and another takes its place. A writer notes an id when `append`
has returned. In the end every file is read as a stranger would, line by line with `json.loads`, and by DuckDB where it
is installed. Exit code 1: a line that does not parse, a record that is lost or stands twice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias

from cascade_agent.journal.writer import Journal

Found: TypeAlias = dict[str, Any]

WRITER = """
import os, sys, threading
from cascade_agent.core.records import Attempt, StepTrace
from cascade_agent.journal.writer import Journal
path, who, threads, max_bytes, notes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
journal = Journal(path, max_bytes=max_bytes or None, compress=True)
noted = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def write(thread):
    n = 0
    while True:
        name = f"{who}.{thread}-{n}"
        attempt = Attempt(tier="small", outcome="accepted", answer={"text": "x" * (n * 7 % 900)})
        step = StepTrace(id=name, step="s", outcome="accepted", reason="ok", attempts=(attempt,), final=0)
        written = journal.append(step)
        os.write(noted, f"{name}\\n".encode() if written else b"!\\n")
        n += 1
for thread in range(threads):
    threading.Thread(target=write, args=(thread,)).start()
"""


class Writer:
    """A process that writes until it is killed, `life` seconds after its first record."""

    def __init__(self, args: list[str], notes: Path, life: float) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, *args, str(notes)])
        self._notes, self._life, self._until = notes, life, float("inf")

    def is_due(self) -> bool:
        """Return whether its time is over."""
        if self._until == float("inf") and self._notes.exists() and self._notes.stat().st_size:
            self._until = time.monotonic() + self._life
        return time.monotonic() > self._until


def run(
    place: Path, *, seconds: float, processes: int = 4, threads: int = 3, max_bytes: int | None = 1_000_000
) -> Found:
    """Write with kills for some seconds, at least two a process, and return what is in the files."""
    draw, path = random.Random(0), place / "j.jsonl"
    running: list[Writer] = []
    started = kills = 0
    until, over = time.monotonic() + seconds, False
    while not over or running:
        over = time.monotonic() >= until and kills >= 2 * processes
        for writer in [writer for writer in running if over or writer.is_due()]:
            writer.process.kill()
            writer.process.wait()
            running.remove(writer)
            kills += 1
        while len(running) < processes and not over:
            args = [str(path), str(started), str(threads), str(max_bytes or 0)]
            running.append(Writer(args, place / f"notes-{started}", draw.random()))
            started += 1
        time.sleep(0.02)
    wait_for_compression(path)
    return {"seconds": seconds, "kills": kills, **count(Journal(path).files(), sorted(place.glob("notes-*")))}


def wait_for_compression(path: Path) -> None:
    """Rotate once more, so that what killed writers left uncompressed is put in order."""
    last = Journal(path, max_bytes=1, compress=True)
    for name in ("end-0", "end-1"):
        last.label(name, source="person", right=True)
    until = time.monotonic() + 30
    while sum(file.suffix != ".gz" for file in last.files()) > 1 and time.monotonic() < until:
        time.sleep(0.05)


def count(files: list[Path], notes: list[Path]) -> Found:
    """Read the files as a stranger would and count lines, records, and what is wrong."""
    seen, bad = Counter[str](), 0
    for file in files:
        for line in (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                bad += 1
                continue
            if record["type"] == "step":
                seen[record["id"]] += 1
    noted = [name for file in notes for name in file.read_text().split("\n")]
    whole = set(noted) - {"", "!"}
    threads: dict[str, list[int]] = {}
    for name in seen:
        thread, _, number = name.rpartition("-")
        threads.setdefault(thread, []).append(int(number))
    return {
        "files": len(files),
        "records": sum(seen.values()),
        "noted": len(whole),
        "lines_that_do_not_parse": bad,
        "lost": len(whole - set(seen)) + sum(max(found) + 1 - len(found) for found in threads.values()),
        "doubled": sum(n - 1 for n in seen.values()),
        "refused_by_append": noted.count("!"),
        "duckdb_records": duckdb_count(files),
    }


def duckdb_count(files: list[Path]) -> int | None:
    """Return how many steps DuckDB finds in the files; None where it is not installed."""
    try:
        import duckdb
    except ImportError:
        return None
    query = (
        "SELECT count(*) FROM read_json(?, format='newline_delimited', columns={type: 'VARCHAR', id: 'VARCHAR'}) "
        "WHERE type = 'step'"
    )
    found = duckdb.execute(query, [[os.fspath(file) for file in files]]).fetchone()
    return None if found is None else int(found[0])


def failed(found: Found) -> bool:
    """Return whether anything was lost, doubled or unreadable."""
    wrong = found["lines_that_do_not_parse"] + found["lost"] + found["doubled"]
    return bool(wrong) or found["duckdb_records"] not in (None, found["records"])


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--max-bytes", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = run(
            Path(place),
            seconds=options.seconds,
            processes=options.processes,
            threads=options.threads,
            max_bytes=options.max_bytes,
        )
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            words = "DuckDB is not installed" if name == "duckdb_records" and value is None else value
            print(f"{name.replace('_', ' '):26} {words}")
    return failed(found)


if __name__ == "__main__":
    sys.exit(main())
