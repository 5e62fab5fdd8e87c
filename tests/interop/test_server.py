"""`langgraph dev` serves the graphs, driven over HTTP: threads, streams, people, assistants, one journal."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from cascade_agent import Journal
from tests.builders import ROOT, free_port, until

pytest.importorskip("langgraph_api", reason="langgraph-cli[inmem] is not installed (extra interop)")
from langgraph_sdk import get_client

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("server")]
GRAPHS: dict[str, Any] = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
PARALLEL = 16
QUESTION = {"messages": [{"role": "user", "content": "Where is order O-2149?"}]}


class Server:
    """A running `langgraph dev`."""

    def __init__(self, home: Path) -> None:
        self.journal, self.log = home / "steps.jsonl", home / "server.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        paths = {name: entry if isinstance(entry, str) else entry["path"] for name, entry in GRAPHS.items()}
        served = {name: str(ROOT / path.removeprefix("./")) for name, path in paths.items()}
        served["review"] = f"{Path(__file__).parent / 'server_graphs.py'}:review"
        config = home / "langgraph.json"
        config.write_text(json.dumps({"dependencies": [str(ROOT)], "graphs": served}))
        command = [sys.executable, "-m", "langgraph_cli", "dev", "--config", str(config), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--no-browser", "--no-reload", "--n-jobs-per-worker", str(PARALLEL)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("LANGSMITH_", "LANGCHAIN_", "COV_"))}
        environment |= {"CASCADE_JOURNAL": str(self.journal), "PYTHONPATH": str(ROOT)}
        environment |= {"LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGSMITH_TRACING": "false"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Return when it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-4000:]}"
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/ok", timeout=1).is_success
            return False

        until(answers, seconds=300, what="an answer of the server")

    def stop(self) -> None:
        """End it with all its children."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def steps(self, thread: str | None = None) -> Counter[str]:
        """The journal's steps, of a thread."""
        return Counter(trace.id for trace in Journal(self.journal) if thread in (None, trace.thread_id))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server, and a journal that it writes."""
    running = Server(tmp_path_factory.mktemp("server"))
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture
async def client(server):
    """A client of the server."""
    async with get_client(url=server.url, api_key=None) as own:
        yield own


def records(state: Any) -> list[tuple[Any, Any]]:
    """The messages of a state that carry the record of a step, with it."""
    found = [m for m in (state or {}).get("messages", ()) if m["type"] == "ai"]
    return [(m, m["response_metadata"]["cascade"]) for m in found if "cascade" in m["response_metadata"]]


async def ask(client: Any, assistant: str, question: Any = QUESTION, **settings: Any) -> tuple[str, Any]:
    """Run an assistant once on a thread of its own; the thread and its state."""
    thread = (await client.threads.create())["thread_id"]
    return thread, await client.runs.wait(thread, assistant, input=question, **settings)


@pytest.mark.parametrize("name", GRAPHS)
async def test_a_graph_answers_on_a_thread_and_its_steps_are_in_the_journal(name, server, client):
    """Two turns of one thread: each has steps in the journal, those of its answers too, all once."""
    thread, first = await ask(client, name)
    steps = server.steps(thread)
    assert steps
    out = await client.runs.wait(thread, name, input={"messages": [{"role": "user", "content": "And O-2198?"}]})
    assert (await client.threads.get_state(thread))["values"] == out
    later = server.steps(thread)
    assert len(later) > len(steps)
    assert set(later.values()) == {1}
    assert {entry["id"] for _, entry in records(first) + records(out)} <= set(later)


@pytest.mark.parametrize("mode", ["values", "updates", "messages-tuple", "events", "custom", "debug", "tasks"])
async def test_a_stream_mode_works(mode, client):
    """Each mode comes without an error; the message stream shows the answers and no draft, `custom` nothing of ours."""
    thread = (await client.threads.create())["thread_id"]
    parts = [p async for p in client.runs.stream(thread, "support", input=QUESTION, stream_mode=mode)]
    assert not [p for p in parts if "error" in p.event], parts
    state = (await client.threads.get_state(thread))["values"]
    seen = [p.data for p in parts if p.event == {"messages-tuple": "messages"}.get(mode, mode)]
    if mode == "custom":
        assert seen == []
        return
    assert seen
    if mode == "values":
        assert seen[-1]["messages"] == state["messages"]
    if mode == "messages-tuple":
        chunks: dict[str, str] = {}
        for message, _ in seen:
            if message["type"].startswith(("ai", "AI")):
                chunks[message["id"]] = chunks.get(message["id"], "") + message["content"]
        assert Counter(chunks.values()) == Counter(m["content"] for m, _ in records(state))


async def test_a_person_decides_over_http(server, client):
    """The run waits with a payload for front ends; what is not understood comes back; approved, it goes on, paid once."""
    thread, out = await ask(client, "review")
    question = out["__interrupt__"][0]["value"]
    assert question["action_requests"][0]["args"] == {"order": "large", "amount": 30}
    assert (await client.threads.get(thread))["status"] == "interrupted"

    async def reply(value: Any) -> Any:
        return await client.runs.wait(thread, "review", command={"resume": value})

    again = (await reply({"decisions": [{"type": "perhaps"}]}))["__interrupt__"][0]["value"]
    assert "perhaps" not in again["error"]
    assert again["understood"]
    out = await reply({"decisions": [{"type": "approve"}]})
    ((answer, entry),) = records(out)
    assert answer["tool_calls"][0]["args"]["order"] == "large"
    (trace,) = [t for t in Journal(server.journal) if t.id == entry["id"]]
    assert (trace.outcome, trace.final_tier, trace.usage.calls) == ("human_review", "large", 2)
    assert (await client.threads.get(thread))["status"] == "idle"


@pytest.mark.parametrize("where", ["configurable", "context"])
async def test_an_assistant_carries_a_policy_as_json(where, client):
    """A threshold that no draft reaches sends every step of this assistant to large, and of no other."""
    settings = {"cascade_policy": {"threshold": {"default": 1.0}}}
    carried = {"config": {"configurable": settings}} if where == "configurable" else {"context": settings}
    strict = await client.assistants.create("support", **carried)
    _, out = await ask(client, strict["assistant_id"])
    assert {entry["final_tier"] for _, entry in records(out)} == {"large"}
    _, out = await ask(client, "support")
    assert "small" in {entry["final_tier"] for _, entry in records(out)}


@pytest.mark.parametrize(
    ("assistant", "policy", "expected"),
    [
        ("support", {"treshold": 0.9}, ("ConfigurationError", "threshold")),
        ("review", {"on_exhausted": "raise"}, ("CascadeExhausted", "")),  # the server keeps the text to its log
    ],
)
async def test_a_run_that_fails_says_why(assistant, policy, expected, client):
    """Clients see our error's name and text, not an inner one."""
    with pytest.raises(Exception, match=expected[0]) as caught:
        await ask(client, assistant, config={"configurable": {"cascade_policy": policy}})
    assert expected[1] in str(caught.value)


async def test_sixteen_runs_at_once_are_each_recorded_once(server, client):
    """All answer, no step is lost or doubled, and nothing of ours blocks the server's loop."""
    before = server.steps()
    outs = await asyncio.gather(*(ask(client, "support") for _ in range(PARALLEL)))
    steps = [entry["id"] for _, out in outs for _, entry in records(out)]
    assert len(steps) >= PARALLEL
    assert server.steps() - before == Counter(steps)
    assert set(server.steps().values()) == {1}
    log = server.log.read_text(errors="replace").lower()
    assert "blockingerror" not in log
    assert "blocking call" not in log
