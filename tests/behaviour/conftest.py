"""Checkpointers of LangGraph: in memory, on SQLite, and on a Postgres server of the tests' own."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.builders import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs Postgres in CI only, in one process, where there is a server."""
    for item in items:
        if getattr(item, "callspec", None) is not None and item.callspec.params.get("database") == "postgres":
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group("postgres"))
            item.add_marker(pytest.mark.skipif(not BINARIES, reason="no PostgreSQL server: apt-get install postgresql"))


@pytest.fixture(scope="session")
def postgres():
    """The address of a server on loopback, run as an ordinary user in a folder of its own."""
    home = Path(tempfile.mkdtemp(prefix="cascade-postgres-"))
    port = free_port()
    options = f"-h 127.0.0.1 -p {port} -k {home} -c fsync=off -c timezone=UTC"
    identity: dict[str, Any] = {}
    if os.getuid() == 0:  # it refuses to run as root
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        owner = names.get("postgres", names["nobody"])
        identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        os.chown(home, owner.pw_uid, owner.pw_gid)
    log = home.parent / f"{home.name}.log"

    def server(name: str, *given: str) -> None:
        program = str(BINARIES[-1].parent / name)
        with log.open("ab") as out:
            subprocess.run([program, *given], check=True, cwd=home, stdout=out, stderr=out, timeout=120, **identity)

    try:
        server("initdb", "-D", str(home / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        server("pg_ctl", "-D", str(home / "data"), "-l", str(home / "log"), "-w", "-t", "60", "-o", options, "start")
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        if (home / "data" / "postmaster.pid").exists():
            server("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "stop")
        shutil.rmtree(home)
        log.unlink(missing_ok=True)


@pytest.fixture
def thread(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A thread of this test alone."""
    return {"configurable": {"thread_id": request.node.name}}


@pytest.fixture
def saver_of(request: pytest.FixtureRequest, tmp_path: Path):
    """Give a checkpointer on a database for one way of running; a second one finds what the first one saved."""

    @asynccontextmanager
    async def saver_of(database: str, how: str):
        if database == "memory":
            yield InMemorySaver()
            return
        place, kinds = str(tmp_path / "s.db"), (SqliteSaver, AsyncSqliteSaver)
        if database == "postgres":
            pytest.importorskip("psycopg", reason="psycopg is not installed (extra interop)")
            saved = pytest.importorskip("langgraph.checkpoint.postgres", reason="its checkpointer is not installed")
            place = request.getfixturevalue("postgres")
            kinds = saved.PostgresSaver, pytest.importorskip("langgraph.checkpoint.postgres.aio").AsyncPostgresSaver
        if how == "async":
            async with kinds[1].from_conn_string(place) as saver:
                await saver.setup()
                yield saver
        else:
            with kinds[0].from_conn_string(place) as saver:
                await asyncio.to_thread(saver.setup)
                yield saver

    return saver_of
