"""Kill a running graph with SIGKILL at random points and count what was lost, doubled and paid again.

    python benchmarks/crash.py [--kills 200] [--ways node,middleware,by-hand,large] [--savers sqlite,postgres]
                               [--durability sync,async] [--postgres DSN] [--steps 6] [--seed 0] [--json]

A thread is an agent of `--steps` model calls with a tool call between each two. Its models are OpenAI-compatible ones
on a loopback server that counts every request it was sent: a call that nobody waited for is paid like any other. Every
second draft of the small model breaks its tool's schema, so that every second step asks both.

Each run is a process of its own. It is killed after a random time (drawn over the length of a run that nobody
disturbs), then the thread is taken up with `invoke(None)` until it ends: after a crash an empty `get_state().next` does
not mean that it did. The kills are shared out over savers and durabilities; each way gets as many.

    node         StateGraph with `cascade_node(..., durable=True)` and a ToolNode
    middleware   `create_agent` with `CascadeMiddleware(..., durable=True)`
    by-hand      the same StateGraph, plain LangGraph: small, a schema check, else large
    large        the same StateGraph, plain LangGraph: large alone

`again` is calls for a step and model that the thread had paid before, by kill; `most` the most after one kill. `lost`
are steps of finished threads without a record, `twice` records beyond one a step as they stand in the journal, `read
twice` those that the reading commands still count, `off record` paid calls that no record holds (the process was killed
before it could write one).

Postgres: `--postgres DSN`, or a server of this machine's own (Debian's package), made in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Json = dict[str, Any]
Call = tuple[str, str, int]
"""Thread, model, step."""
WAYS = ("node", "middleware", "by-hand", "large")
CASCADES = ("node", "middleware")
DELAY = 0.02
"""Seconds that a model takes."""
PER_THREAD = 4
"""Most kills of one thread; then it is left to end."""


# ---- the models: a server that counts what it is sent ---------------------------------------------------------------


def serve(steps: int) -> None:
    """Answer requests until killed; the first line of standard output is the port."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._send({"calls": calls})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # whoever asked was killed while asking: nobody is paid for half a request
                return
            payload = json.loads(body)
            model, messages = payload["model"], payload["messages"]
            step = sum(m["role"] == "assistant" for m in messages)
            thread = next(m["content"] for m in messages if m["role"] == "user").split()[1]
            calls.append((thread, model, step))
            time.sleep(DELAY)
            with contextlib.suppress(OSError):  # whoever asked was killed
                self._send(answer(model, step, steps))

        def _send(self, body: Json) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


def answer(model: str, step: int, steps: int) -> Json:
    """Return what a model says in a step: the call of the next part, or the last text."""
    message: Json = {"role": "assistant", "content": None}
    if step == steps - 1:
        message["content"] = "All parts are checked, they are fine."
    else:
        args = {"quantity": 1} if model == "small" and step % 2 else {"part": f"part-{step}"}
        function = {"name": "check_part", "arguments": json.dumps(args)}
        message["tool_calls"] = [{"id": f"call_{step}", "type": "function", "function": function}]
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": f"chatcmpl-{step}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


@contextlib.contextmanager
def server_of(steps: int) -> Iterator[str]:
    """Run the models in a process of their own; yield their address."""
    command = [sys.executable, __file__, "--serve", "--steps", str(steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def paid(url: str, thread: str) -> list[Call]:
    """Return the calls of a thread, in order of arrival."""
    with urllib.request.urlopen(f"{url}/calls", timeout=10) as response:
        return [(t, model, step) for t, model, step in json.load(response)["calls"] if t == thread]


# ---- the graphs -----------------------------------------------------------------------------------------------------


def graph_of(way: str, url: str, journal: Path, saver: Any) -> Any:
    """Build the agent of a way."""
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    from cascade_agent import CascadeMiddleware, Price, Tier, cascade_node

    @tool
    def check_part(part: str) -> str:
        """Check a part."""
        return f"{part} is fine"

    def model(name: str) -> Any:
        return ChatOpenAI(model=name, base_url=f"{url}/v1", api_key="none", max_retries=0)  # type: ignore[arg-type]

    small, large = Tier(model("small"), price=Price(1, 1)), Tier(model("large"), price=Price(10, 10))
    if way == "middleware":
        middleware = CascadeMiddleware(large, journal=journal, durable=True)
        return create_agent(small.model, [check_part], middleware=[middleware], checkpointer=saver)  # type: ignore[arg-type]
    if way == "node":
        agent: Any = cascade_node(small, large, tools=[check_part], journal=journal, durable=True)  # type: ignore[arg-type]
    else:
        tiers = [model(name).bind_tools([check_part]) for name in ("small", "large")]

        def agent(state: Any) -> Any:
            draft = tiers[0].invoke(state["messages"]) if way == "by-hand" else None
            if draft is None or any("part" not in call["args"] for call in draft.tool_calls):
                draft = tiers[1].invoke(state["messages"])
            return {"messages": [draft]}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("tools", ToolNode([check_part]))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition)
    builder.add_edge("tools", "agent")
    return builder.compile(checkpointer=saver)


@contextlib.contextmanager
def saver_of(place: str) -> Iterator[Any]:
    """Open the checkpointer at a file or DSN."""
    if place.startswith("postgres"):
        from langgraph.checkpoint.postgres import PostgresSaver

        with PostgresSaver.from_conn_string(place) as postgres:
            postgres.setup()
            yield postgres
    else:
        from langgraph.checkpoint.sqlite import SqliteSaver

        with SqliteSaver.from_conn_string(place) as sqlite:
            sqlite.setup()
            yield sqlite


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way with one saver and one durability."""

    way: str
    saver: str
    durability: Literal["sync", "async"]
    place: str
    url: str
    journal: Path
    """Folder of the journals, one a thread."""

    def play(self, thread: str, started: Callable[[], object]) -> None:
        """Run a thread, or take it up, to its end."""
        with saver_of(self.place) as saver:
            graph = graph_of(self.way, self.url, self.journal / f"{thread}.jsonl", saver)
            config: Any = {"configurable": {"thread_id": thread}}
            fresh = saver.get_tuple(config) is None
            started()
            given = {"messages": [("user", f"thread {thread} : check all parts")]} if fresh else None
            graph.invoke(given, config, durability=self.durability)

    def ids(self, thread: str) -> list[str | None]:
        """Return the ids of the records on the model's messages of a finished thread."""
        with saver_of(self.place) as saver:
            graph = graph_of(self.way, self.url, self.journal / f"{thread}.jsonl", saver)
            state = graph.get_state({"configurable": {"thread_id": thread}})
        return [
            (m.response_metadata.get("cascade") or {}).get("id") for m in state.values["messages"] if m.type == "ai"
        ]


def child(cell: Cell, thread: str) -> tuple[int, int]:
    """Run a thread in a forked process; return its pid and a pipe that gets a byte when the run starts."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        cell.play(thread, lambda: os.write(writing, b"1"))
    except BaseException as error:
        sys.stderr.write(f"{cell.way}, {thread}: {error!r}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def run_once(cell: Cell, thread: str, after: float | None) -> tuple[bool, float]:
    """Run a thread, killed `after` seconds (None: not); return whether it was killed, and its seconds."""
    pid, pipe = child(cell, thread)
    os.read(pipe, 1)
    os.close(pipe)
    began = time.perf_counter()
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return True, time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        msg = f"the run of {thread} failed, see above"
        raise RuntimeError(msg)
    return False, time.perf_counter() - began


# ---- what is counted ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Count:
    """The figures of a cell."""

    kills: int = 0
    threads: int = 0
    steps: int = 0
    again: list[int] = field(default_factory=list)
    lost: int = 0
    twice: int = 0
    read_twice: int = 0
    off_record: int = 0


def measure(cell: Cell, kills: int, rng: random.Random) -> Count:
    """Kill runs of a cell until there were so many kills; every thread is played to its end."""
    name = f"{cell.way}-{cell.saver}-{cell.durability}"
    usual = statistics.median(run_once(cell, f"{name}-warm{n}", None)[1] for n in range(3))
    count = Count()
    seen: list[tuple[str, list[Call]]] = []
    while count.kills < kills:
        count.threads += 1
        thread = f"{name}-{count.threads}"
        cuts: list[int] = []
        while True:
            more = len(cuts) < PER_THREAD and count.kills < kills
            killed, _ = run_once(cell, thread, rng.uniform(0, usual) if more else None)
            if not killed:
                break
            count.kills += 1
            time.sleep(DELAY)  # what was sent has arrived
            cuts.append(len(paid(cell.url, thread)))
        calls = paid(cell.url, thread)
        count.again += repeats(calls, cuts)
        seen.append((thread, calls))
    for thread, calls in seen:
        ids = cell.ids(thread)
        count.steps += len(ids)
        if cell.way in CASCADES:
            judge_records(cell, thread, ids, len(calls), count)
    return count


def repeats(calls: list[Call], cuts: Sequence[int]) -> list[int]:
    """Return, for each kill, the calls between it and the next one that had been paid before."""
    again = []
    for number, cut in enumerate(cuts):
        end = cuts[number + 1] if number + 1 < len(cuts) else len(calls)
        before = Counter(calls[:cut])
        again.append(sum(call in before for call in calls[cut:end]))
    return again


def judge_records(cell: Cell, thread: str, ids: list[str | None], calls: int, count: Count) -> None:
    """Compare what the journal holds of a thread with its messages and with what was paid."""
    from cascade_agent.journal.reader import read
    from cascade_agent.offline.evaluation.journals import load_dataset

    journal = cell.journal / f"{thread}.jsonl"
    found = list(read(journal))
    kept = len(set(ids) & {trace.id for trace in found})
    count.lost += len(ids) - kept
    count.twice += len(found) - kept
    count.read_twice += load_dataset(journal).total - kept
    count.off_record += calls - sum(len(trace.attempts) for trace in found)


# ---- a Postgres of our own ------------------------------------------------------------------------------------------


def postgres_bin() -> Path | None:
    """Return where Debian's package keeps the server's programs, None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def own_postgres(folder: Path) -> Iterator[str]:
    """Run a server in a folder, on a socket of its own, as a user that is not root; yield its DSN.

    Raises:
        RuntimeError: no server is installed.
    """
    programs = postgres_bin()
    if programs is None:
        msg = "no PostgreSQL server is installed here: give --postgres DSN, or --savers sqlite"
        raise RuntimeError(msg)
    user = "postgres" if os.geteuid() == 0 else None  # initdb refuses root
    folder.mkdir(mode=0o755)
    if user:
        shutil.chown(folder, user)
    data = folder / "data"

    def run(*command: str) -> None:
        subprocess.run([*command], check=True, stdout=subprocess.DEVNULL, cwd=folder, user=user, group=user)

    run(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "cascade")
    options = f"-c listen_addresses= -c unix_socket_directories={folder}"
    run(str(programs / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
    try:
        run(str(programs / "createdb"), "-h", str(folder), "-U", "cascade", "crash")
        yield f"postgresql://cascade@/crash?host={folder}"
    finally:
        run(str(programs / "pg_ctl"), "-D", str(data), "-w", "-m", "immediate", "stop")


@contextlib.contextmanager
def places(savers: Sequence[str], dsn: str | None, folder: Path) -> Iterator[dict[str, str]]:
    """Yield where each saver keeps its checkpoints."""
    out = {"sqlite": str(folder / "checkpoints.sqlite")}
    with contextlib.ExitStack() as stack:
        if "postgres" in savers:
            if find_spec("langgraph.checkpoint.postgres") is None:
                msg = "the Postgres saver is not installed: pip install langgraph-checkpoint-postgres 'psycopg[binary]'"
                raise RuntimeError(msg)
            out["postgres"] = dsn or stack.enter_context(own_postgres(folder / "postgres"))
        yield out


# ---- the table ------------------------------------------------------------------------------------------------------


def shares(kills: int, cells: int) -> list[int]:
    """Share out a number of kills."""
    return [kills // cells + (number < kills % cells) for number in range(cells)]


def run(given: argparse.Namespace) -> list[Json]:
    """Measure every cell."""
    warm_up()
    rows = []
    savers, modes = given.savers.split(","), given.durability.split(",")
    with tempfile.TemporaryDirectory(prefix="crash-") as name, server_of(given.steps) as url:
        folder = Path(name)
        folder.chmod(0o755)  # the server of Postgres may be another user
        with places(savers, given.postgres, folder) as where:
            pairs = [(saver, mode) for saver in savers for mode in modes]
            for way in given.ways.split(","):
                for (saver, mode), kills in zip(pairs, shares(given.kills, len(pairs)), strict=True):
                    cell = Cell(way=way, saver=saver, durability=mode, place=where[saver], url=url, journal=folder)
                    found = measure(cell, kills, random.Random(f"{given.seed} {way} {saver} {mode}"))
                    rows.append(row(cell, found))
                    if not given.json:
                        print(line(rows[-1]) if len(rows) > 1 else f"{HEAD}\n{line(rows[-1])}", flush=True)
    return rows


def warm_up() -> None:
    """Import what the runs use, before the first fork, and see that no thread was started by it."""
    import langchain.agents
    import langchain_openai
    import langgraph.checkpoint.sqlite
    import langgraph.prebuilt

    import cascade_agent

    del langchain, langchain_openai, langgraph
    assert cascade_agent.cascade_node
    assert threading.active_count() == 1


def row(cell: Cell, count: Count) -> Json:
    """Return the figures of a cell as JSON; None where a way keeps no record."""
    kept = cell.way in CASCADES
    return {
        "way": cell.way,
        "saver": cell.saver,
        "durability": cell.durability,
        "kills": count.kills,
        "threads": count.threads,
        "steps": count.steps,
        "again": sum(count.again) / len(count.again),
        "most": max(count.again),
        "lost": count.lost if kept else None,
        "twice": count.twice if kept else None,
        "read_twice": count.read_twice if kept else None,
        "off_record": count.off_record if kept else None,
    }


HEAD = (
    "| way | saver | durability | kills | steps | again | most | lost | twice | read twice | off record |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def line(found: Json) -> str:
    """Return a row of the table."""
    names = ("way", "saver", "durability", "kills", "steps", "again", "most", "lost", "twice", "read_twice")
    cells = [found[name] for name in (*names, "off_record")]
    texts = ["" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
    return f"| {' | '.join(texts)} |"


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each way")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--savers", default="sqlite,postgres")
    parser.add_argument("--durability", default="sync,async")
    parser.add_argument("--postgres", metavar="DSN")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """Measure and print."""
    given = options()
    if given.serve:
        serve(given.steps)
        return
    rows = run(given)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
