"""LangGraph's Postgres checkpointer under a cascade: hostile outputs, people, and answers that were paid."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from cascade_agent import CascadeMiddleware, Policy, cascade_node
from cascade_agent.testing import TraceCapture, always_fail
from tests.behaviour.test_langgraph import HOSTILE, lookup, model, run

pytest.importorskip("psycopg", reason="psycopg is not installed (extra interop)")
pytest.importorskip("langgraph.checkpoint.postgres", reason="langgraph-checkpoint-postgres is not installed")
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("postgres"),
    pytest.mark.skipif(not BINARIES, reason="no PostgreSQL server here: apt-get install postgresql"),
]
BOTH = pytest.mark.parametrize("how", ["sync", "async"])


@pytest.fixture(scope="module")
def database():
    """The address of a server on loopback, run as an ordinary user in a folder of its own."""
    home = Path(tempfile.mkdtemp(prefix="cascade-postgres-"))
    owner = _owner()
    os.chown(home, owner.pw_uid, owner.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-h 127.0.0.1 -p {port} -k {home} -c fsync=off -c timezone=UTC"

    def server(*command: str) -> None:
        program = str(BINARIES[-1].parent / command[0])
        identity: dict[str, Any] = {}
        if os.getuid() == 0:  # it refuses to run as root
            identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        with (home.parent / f"{home.name}.log").open("ab") as log:
            subprocess.run(
                [program, *command[1:]], check=True, cwd=home, stdout=log, stderr=log, timeout=120, **identity
            )

    try:
        server("initdb", "-D", str(home / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        server("pg_ctl", "-D", str(home / "data"), "-l", str(home / "log"), "-w", "-t", "60", "-o", options, "start")
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        if (home / "data" / "postmaster.pid").exists():
            server("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "stop")
        shutil.rmtree(home)
        (home.parent / f"{home.name}.log").unlink(missing_ok=True)


def _owner() -> pwd.struct_passwd:
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@asynccontextmanager
async def saver_of(database, how):
    """A checkpointer for one way of running."""
    if how == "async":
        async with AsyncPostgresSaver.from_conn_string(database) as saver:
            await saver.setup()
            yield saver
    else:
        with PostgresSaver.from_conn_string(database) as saver:
            await asyncio.to_thread(saver.setup)
            yield saver


def thread(request) -> dict[str, Any]:
    """A thread of this test alone."""
    return {"configurable": {"thread_id": request.node.name}}


def graph_of(kind, small, large, saver, **settings):
    """The pair in a node or in an agent."""
    if kind == "middleware":
        return create_agent(small, [lookup], middleware=[CascadeMiddleware(large, **settings)], checkpointer=saver)
    node = cascade_node(small, large, tools=[lookup], **settings)
    return StateGraph(MessagesState).add_node("agent", node).add_edge(START, "agent").compile(checkpointer=saver)


@pytest.mark.parametrize("what", HOSTILE)
@BOTH
@pytest.mark.parametrize("kind", ["node", "middleware"])
async def test_a_hostile_draft_crashes_no_run(what, kind, how, database, request):
    """R19: what Postgres cannot hold is refused before it is stored; large answers, and the record is stored."""
    journal = TraceCapture()
    small, large = model(HOSTILE[what], streams=False), model(AIMessage("Order 7 was shipped."), streams=False)
    async with saver_of(database, how) as saver:
        graph = graph_of(kind, small, large, saver, journal=journal)
        out = await run(graph, {"messages": "Where is order 7?"}, thread(request), how=how)
        assert out["messages"][1].text == "Order 7 was shipped."
        state = await graph.aget_state(thread(request)) if how == "async" else graph.get_state(thread(request))
        assert state.values == out
    assert journal.traces[0].attempts[0].outcome == "rejected"


@pytest.mark.parametrize("what", HOSTILE)
@BOTH
async def test_a_hostile_draft_of_both_tiers_is_given_to_a_person(what, how, database, request):
    """R19 with an interrupt: the question is stored although neither draft can be."""
    small, large = model(HOSTILE[what], streams=False), model(HOSTILE[what], streams=False)
    async with saver_of(database, how) as saver:
        graph = graph_of("node", small, large, saver, policy=Policy(on_exhausted="interrupt"))
        out = await run(graph, {"messages": "Where is order 7?"}, thread(request), how=how)
        assert out["__interrupt__"][0].value["draft"] is None
        out = await run(graph, Command(resume={"content": "mine"}), thread(request), how=how)
        assert out["messages"][-1].text == "mine"


@BOTH
@pytest.mark.parametrize("kind", ["node", "middleware"])
async def test_a_review_outlives_its_process(kind, how, database, request):
    """Another graph on a connection of its own takes the draft that was paid, and records the step once."""
    settings: Any = {"validators": [always_fail(score=0.1)], "policy": Policy(on_exhausted="interrupt")}
    async with saver_of(database, how) as saver:
        graph = graph_of(kind, model("draft"), model("draft of large"), saver, **settings)
        await run(graph, {"messages": "hi"}, thread(request), how=how)
    journal, small, large = TraceCapture(), model("never"), model("never")
    async with saver_of(database, how) as saver:
        graph = graph_of(kind, small, large, saver, journal=journal, **settings)
        out = await run(graph, Command(resume={"decisions": [{"type": "approve"}]}), thread(request), how=how)
    assert out["messages"][-1].text == "draft of large"
    assert (small.asked, large.asked) == (0, 0)
    assert [(t.outcome, t.final_tier, t.usage.calls) for t in journal] == [("human_review", "large", 2)]


@BOTH
async def test_a_durable_answer_is_paid_once(how, database, request):
    """`durable=True`: after an interrupt later in the body the answer of the first run is used."""
    journal, small = TraceCapture(), model("first", "second")

    def body(state, model):
        text = model.invoke(state["messages"]).text
        return {"messages": [AIMessage(f"{text}: {interrupt(text)}")]}

    async with saver_of(database, how) as saver:
        node = cascade_node(small, model("x"), step=body, durable=True, journal=journal)
        builder = StateGraph(MessagesState).add_node("agent", node).add_edge(START, "agent")
        graph = builder.compile(checkpointer=saver)
        await run(graph, {"messages": "hi"}, thread(request), how=how)
        out = await run(graph, Command(resume="yes"), thread(request), how=how)
    assert out["messages"][-1].text == "first: yes"
    assert small.asked == len(journal) == 1
