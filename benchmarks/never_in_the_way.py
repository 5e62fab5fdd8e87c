"""Measure what a broken exporter, handler, disk or log does to a step: to its answer, and to its latency.

    python benchmarks/never_in_the_way.py [--rounds 20] [--steps 100] [--exits 5] [--json FILE]

Every way is a process of its own, set up once; all are asked in turn, round after round, in one run. A step is
synchronous and has two models that answer at once; every second one escalates. Latencies are wall time: compare a
broken way with the same way when it is well, in the column beside it. A second table says how long the interpreter
takes to exit, from the end of the last step on.

As a worker (`--worker WAY COLLECTOR`) it reads the number of steps from standard input and answers with a line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SLOW = 10.0
"""Seconds that the slow collector takes for each request."""
HANG = 0.05
"""Seconds that the processor and the log handler that hang take: short, so that the run ends."""
RECIPE = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_BSP_EXPORT_TIMEOUT": "1000"}
"""Environment of the exits with short timeouts: seconds for the OTLP exporter, milliseconds for the batch processor."""

PEERS = {
    "spans: collector well": "no telemetry",
    "spans: connection refused": "spans: collector well",
    "spans: 10 s per export": "spans: collector well",
    "spans: exporter raises": "spans: collector well",
    "spans: processor raises at start": "spans: collector well",
    "spans: processor raises at end": "spans: collector well",
    "spans: processor hangs": "spans: collector well",
    "handler: well": "no telemetry",
    "handler: raises": "handler: well",
    "journal: well": "no telemetry",
    "journal: disk full": "journal: well",
    "journal: disk fills up": "journal: well",
    "journal: read-only directory": "journal: well",
    "journal: no directory": "journal: well",
    "log: well": "no telemetry",
    "log: handler raises": "log: well",
    "log: handler hangs": "log: well",
}
"""Each way, and the one it is compared with."""
WAYS = ("no telemetry", *PEERS)
EXITS = (
    ("no telemetry", {}),
    ("spans: collector well", {}),
    ("spans: connection refused", {}),
    ("spans: connection refused", RECIPE),
    ("spans: 10 s per export", {}),
    ("spans: 10 s per export", RECIPE),
    ("journal: disk full", {}),
    ("small model hangs", {}),
)


# ---- a worker -------------------------------------------------------------------------------------------------------


def work(way: str, collector: str) -> None:
    """Answer every line of standard input (a number of steps) with a line of JSON, until it ends or says `quit`."""
    heard = Heard()
    logging.getLogger("cascade_agent").addHandler(heard)
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    logging.getLogger("langchain_core").addHandler(logging.NullHandler())
    logging.lastResort = None  # as in an application whose log goes elsewhere
    place = Path(tempfile.mkdtemp(prefix="cascade-"))
    journal, handlers, checks = set_up(way, collector, place)

    from langchain_core.messages import AIMessage

    from cascade_agent import CascadeChatModel, Policy, Price, Tier, Verdict
    from cascade_agent.testing import ScriptedChatModel

    def refuses(draft: Any, _context: Any) -> Verdict:
        bad = draft.text.startswith("no")
        return Verdict(outcome="fail", code="odd", reason="it says no") if bad else Verdict(outcome="pass", score=0.9)

    def tier(replies: Sequence[str], price: float) -> Tier:
        said = [AIMessage(text) for text in replies]
        return Tier(ScriptedChatModel(said, usage=(100, 10), loop=True), price=Price(price, price))

    if way == "small model hangs":
        small = Tier(ScriptedChatModel("late", delay=60.0), timeout=0.05, price=Price(1, 1))
    else:
        small = tier(["yes, small", "no, small"], 1)
    model = CascadeChatModel(
        small=small,
        large=tier(["yes, large"], 10),
        validators=[refuses, *checks],
        policy=Policy(on_broken="accept"),
        journal=journal,
    )
    config: Any = {"configurable": {"thread_id": "t"}, "callbacks": handlers}
    for line in sys.stdin:
        if line.strip() == "quit":
            os._exit(0)
        took, answers = [], []
        for _ in range(int(line)):
            started = time.perf_counter()
            message = model.invoke("hello", config)
            took.append(time.perf_counter() - started)
            record = message.response_metadata["cascade"]
            answers.append([message.text, record["outcome"], record["reason"], record["cost"]])
        told = {"took": took, "answers": answers, "journal_lost": getattr(journal, "lost", 0)}
        told |= {"telemetry_lost": telemetry_lost(), "logged": heard.lines}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


class Heard(logging.Handler):
    """Keeps what our log says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def telemetry_lost() -> int:
    """Return the number of calls of telemetry that failed."""
    from cascade_agent.telemetry import errors as faults

    return faults.lost


def set_up(way: str, collector: str, place: Path) -> tuple[Any, list[Any], list[Any]]:
    """Break what the way says; the journal, the callback handlers and the validators to use."""
    kind, _, how = way.partition(": ")
    if kind == "spans":
        set_up_spans(how, collector)
    if kind == "journal":
        return broken_journal(how, place), [], []
    if kind == "handler":
        return None, [broken_handler(how)], []
    if kind == "log":
        if how != "well":
            logging.getLogger("cascade_agent").addHandler(Broken(how))

        def breaks(_draft: Any, _context: Any) -> None:
            raise KeyError

        return None, [], [breaks]  # its fault is logged, once
    return None, [], []


class Broken(logging.Handler):
    """A log handler that raises or hangs."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def emit(self, record: logging.LogRecord) -> None:
        """Break; what `emit` raises reaches whoever logs."""
        if self.how == "handler raises":
            raise OSError
        time.sleep(HANG)


def set_up_spans(how: str, collector: str) -> None:
    """A provider for the process, broken as said."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    class Raises(SpanExporter):
        def export(self, spans: Any) -> Any:
            raise ConnectionError("no collector")

    class Processor(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if how.endswith("start"):
                raise ConnectionError("no collector")

        def on_end(self, span: Any) -> None:
            if how.endswith("hangs"):
                time.sleep(HANG)
            if how.endswith("end"):
                raise ConnectionError("no collector")

    provider = TracerProvider()
    if how.startswith("processor"):
        provider.add_span_processor(Processor())
    elif how == "exporter raises":
        provider.add_span_processor(BatchSpanProcessor(Raises(), schedule_delay_millis=200))
    else:
        address = (
            "http://127.0.0.1:9"
            if how == "connection refused"
            else f"{collector}/{'slow' if 'export' in how else 'well'}"
        )
        exporter = OTLPSpanExporter(f"{address}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=200))
    trace.set_tracer_provider(provider)


def broken_handler(how: str) -> Any:
    """A LangChain callback handler that raises in everything it hears."""
    from langchain_core.callbacks import BaseCallbackHandler

    class Handler(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            if how == "raises":
                raise RuntimeError("handler")

        on_chain_start = on_llm_end = on_chain_end = on_chat_model_start

    return Handler()


def broken_journal(how: str, place: Path) -> Any:
    """A journal that cannot write, or cannot any more."""
    from cascade_agent.journal.writer import Journal

    if how == "disk full":
        return Journal("/dev/full")
    if how == "no directory":
        (place / "file").write_text("")
        return Journal(place / "file" / "journal.jsonl")
    if how == "read-only directory":
        if os.geteuid() == 0:  # who may write everywhere, but there
            return Journal("/sys/cascade-journal.jsonl")
        place.chmod(0o555)
    if how == "disk fills up":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    return Journal(place / "journal.jsonl")


# ---- the one who asks -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """An OTLP/HTTP receiver on loopback that is well under `/well` and slow under `/slow`."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/slow"):
                time.sleep(SLOW)
            with contextlib.suppress(OSError):  # the client does not wait for ever
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """Quiet: clients break off here."""

    with Server(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Worker:
    """A process that does steps in one way."""

    def __init__(self, way: str, address: str, **env: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "CASCADE_"))}
        root = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", way, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**kept, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1", **env},
        )

    def steps(self, count: int) -> dict[str, Any]:
        """Have so many steps done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def quit(self) -> None:
        """End it without waiting for any exporter."""
        with contextlib.suppress(OSError):
            self.process.communicate("quit\n", timeout=60)

    def leave(self) -> float:
        """Seconds that the interpreter takes to exit."""
        started = time.perf_counter()
        self.process.communicate(timeout=120)
        return time.perf_counter() - started


def measure(rounds: int, steps: int, address: str) -> dict[str, dict[str, Any]]:
    """Latencies and losses of every way, in milliseconds."""
    workers = {way: Worker(way, address) for way in WAYS}
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    digests: dict[str, Any] = {way: hashlib.sha256() for way in WAYS}
    last: dict[str, dict[str, Any]] = {}
    try:
        for way, worker in workers.items():
            last[way] = worker.steps(10)  # to be warm
        for _ in range(rounds):
            for way, worker in workers.items():
                last[way] = worker.steps(steps)
                took[way] += last[way]["took"]
                digests[way].update(json.dumps(last[way]["answers"]).encode())
    finally:
        for worker in workers.values():
            worker.quit()
    out: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        cuts = statistics.quantiles(took[way], n=100)
        out[way] = {
            "steps": len(took[way]), "p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3, "max_ms": max(took[way]) * 1e3,
            "answers": digests[way].hexdigest()[:12], "journal_lost": last[way]["journal_lost"],
            "telemetry_lost": last[way]["telemetry_lost"], "logged": len(last[way]["logged"]),
        }  # fmt: skip
    for way, peer in PEERS.items():
        out[way]["peer"] = peer
        out[way]["p50_ratio"] = out[way]["p50_ms"] / out[peer]["p50_ms"]
        out[way]["p99_ratio"] = out[way]["p99_ms"] / out[peer]["p99_ms"]
    return out


def measure_exits(rounds: int, address: str) -> list[dict[str, Any]]:
    """Seconds from the end of the last step to the end of the process; median and worst of the rounds."""
    seen: list[list[float]] = [[] for _ in EXITS]
    for _ in range(rounds):
        for index, (way, env) in enumerate(EXITS):
            worker = Worker(way, address, **env)
            worker.steps(2)
            seen[index].append(worker.leave())
    return [
        {"way": way, "environment": env, "median_s": statistics.median(s), "worst_s": max(s), "rounds": len(s)}
        for (way, env), s in zip(EXITS, seen, strict=True)
    ]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="steps per round and way")
    parser.add_argument("--exits", type=int, default=5, help="exits per way")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "COLLECTOR"))
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    with collector() as address:
        steps = measure(args.rounds, args.steps, address)
        exits = measure_exits(args.exits, address)
    show(steps, exits)
    if args.json:
        args.json.write_text(json.dumps({"steps": steps, "exits": exits}, indent=1))


def show(steps: dict[str, dict[str, Any]], exits: list[dict[str, Any]]) -> None:
    """Both tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 170)
    count = steps["no telemetry"]["steps"]
    table = Table(
        title=f"Latency of a step, ms, {count} steps each; ratios to the way that is well", title_justify="left"
    )
    for name in (
        "way",
        "p50",
        "p99",
        "max",
        "p50 ratio",
        "p99 ratio",
        "same answers",
        "journal lost",
        "telemetry lost",
        "logged",
    ):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, row in steps.items():
        ratios = [f"{row[name]:.2f}" if name in row else "" for name in ("p50_ratio", "p99_ratio")]
        same = row["answers"] == steps[row.get("peer", way)]["answers"]
        lost = [str(row[name]) for name in ("journal_lost", "telemetry_lost", "logged")]
        times = [f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms", "max_ms")]
        table.add_row(way, *times, *ratios, "yes" if same else "NO", *lost)
    console.print(table)
    table = Table(title="Exit of the interpreter, s", title_justify="left")
    for name in ("way", "environment", "median", "worst"):
        table.add_column(name, justify="left" if name in ("way", "environment") else "right")
    for row in exits:
        env = " ".join(f"{k}={v}" for k, v in row["environment"].items())
        table.add_row(row["way"], env, f"{row['median_s']:.2f}", f"{row['worst_s']:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
