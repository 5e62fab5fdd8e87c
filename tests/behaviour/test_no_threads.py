"""A process that can start no thread (its main one has ended, or there are too many): steps answer, records are kept."""

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from cascade_agent import Journal, Policy
from cascade_agent.engine import shadow, worker_threads
from cascade_agent.journal import background
from cascade_agent.journal.reader import read
from cascade_agent.testing import ScriptedChatModel
from tests.builders import pair, record


class Own:
    """A journal of the user's own."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def append(self, trace: Any) -> None:
        """Keep the id."""
        self.ids.append(trace.id)


@pytest.fixture
def no_threads(monkeypatch):
    """Nobody can start a thread, and none of ours runs."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(worker_threads, "_idle", [])
    monkeypatch.setattr(background, "files", background.Writer())
    monkeypatch.setattr(shadow, "_crew", shadow._Crew())
    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("how", ["invoke", "stream", "hedged", "ainvoke"])
def test_steps_answer_and_are_recorded(tmp_path, how, *, own):
    """Whatever would have run on a thread of its own is done at once, or left out where it may be."""
    journal: Any = Own() if own else Journal(tmp_path / "j.jsonl", max_bytes=1500, compress=True)
    policy = Policy(hedge_after=0.001) if how == "hedged" else Policy(shadow_rate=1.0)
    small, large = (ScriptedChatModel(text, loop=True) for text in ("fine", "large"))
    model = pair(small, large, journal=journal, policy=policy)

    def step() -> Any:
        if how == "stream":
            chunks = list(model.stream("hi"))
            return sum(chunks[1:], chunks[0])
        return asyncio.run(model.ainvoke("hi")) if how == "ainvoke" else model.invoke("hi")

    messages = [step() for _ in range(4)]
    assert [m.text for m in messages] == ["fine"] * 4
    assert large.calls == []
    kept = journal.ids if own else [trace.id for trace in read(*journal.files())]
    assert kept == [record(m)["id"] for m in messages]
    assert own or len(journal.files()) > 1


ENDED = """
import asyncio, sys, threading
from cascade_agent import CascadeChatModel, Journal
from cascade_agent.testing import ScriptedChatModel
models = [ScriptedChatModel(text, loop=True) for text in ("fine", "large")]
model = CascadeChatModel(small=models[0], large=models[1], journal=Journal(sys.argv[1], max_bytes=1500, compress=True))
def work():
    threading.main_thread().join()
    for _ in range(3):
        print(model.invoke("hi").text)
    print(asyncio.run(model.ainvoke("hi")).text)
threading.Thread(target=work).start()
"""


def test_a_thread_that_outlives_the_main_one_goes_on(tmp_path):
    """Python 3.12 starts no thread any more when the main one has ended; the others still work."""
    path = tmp_path / "j.jsonl"
    command = [sys.executable, "-c", ENDED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout.split(), done.stderr) == (["fine"] * 4, "")
    assert len(list(read(*Journal(path).files()))) == 4
