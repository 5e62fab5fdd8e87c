"""A journal of the user's own that blocks, is slow or raises: no step waits for it, fails by it or loses its answer."""

import asyncio
import copy
import subprocess
import sys
import threading
from typing import Any, ClassVar

import pytest

from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel
from tests.builders import Hanging, cancelled, pair, record, until

STEPS = 5
SECONDS = 60.0
"""The time after which what should not have been waited for gives up, so that nothing hangs."""
WAYS = pytest.mark.parametrize("way", ["sync", "sync in a loop", "async", "astream"])


class Blocks:
    """Waits in `append` until it is let go; `gave_up` says that nobody did."""

    def __init__(self) -> None:
        self.go, self.gave_up, self.kept = threading.Event(), False, list[str]()

    def append(self, trace: Any) -> None:
        """Keep the id of a step, late."""
        self.gave_up |= not self.go.wait(SECONDS)
        self.kept.append(trace.id)

    async def let_go(self, ids: list[str]) -> None:
        """End the wait: nothing was taken before, and then all is, in this order."""
        assert (self.kept, self.gave_up) == ([], False)
        self.go.set()
        await asyncio.to_thread(until, lambda: self.kept[: len(ids)] == ids, seconds=SECONDS, what="the records")


class Raises:
    """Raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def append(self, _trace: Any) -> None:
        """Raise."""
        raise self.error


async def answers(journal: Any, way: str) -> list[str]:
    """Ask some steps in one way; return the ids of their records."""
    model, found = pair(ScriptedChatModel("fine", loop=True), "x", journal=journal), []
    for _ in range(STEPS):
        if way == "sync":
            message = await asyncio.to_thread(model.invoke, "hi")
        elif way == "sync in a loop":
            message = model.invoke("hi")
        elif way == "async":
            message = await model.ainvoke("hi")
        else:
            chunks = [chunk async for chunk in model.astream("hi")]
            message = sum(chunks[1:], chunks[0])
        assert message.text == "fine"
        found.append(record(message)["id"])
    return found


@WAYS
async def test_no_step_waits_for_a_journal_that_blocks(way):
    """All steps answer before the first record is taken; then the journal gets them all, in their order."""
    journal = Blocks()
    await journal.let_go(await answers(journal, way))


@WAYS
@pytest.mark.parametrize("error", [OSError("disk full"), asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
async def test_no_step_fails_by_a_journal_that_raises(way, error):
    """Whatever it raises, each step answers."""
    assert len(await answers(Raises(error), way)) == STEPS


@pytest.mark.parametrize("make", [Blocks, lambda: Raises(OSError("disk full")), lambda: Raises(SystemExit())])
async def test_a_cancellation_passes_through(make):
    """A step that is cancelled ends with the cancellation, whatever its journal does meanwhile."""
    journal, small = make(), Hanging("late")
    await cancelled(pair(small, "x", journal=journal).ainvoke("hi"), small)
    if isinstance(journal, Blocks):
        await journal.let_go([])


def test_an_ordinary_journal_can_be_read_when_the_step_is_over():
    """A list, or a journal that says that it never waits, is written in place: nothing is to be waited for."""

    class InPlace(Blocks):
        in_place = True

    kept, mine = list[Any](), InPlace()
    mine.go.set()
    for journal in (kept, mine):
        message = pair("fine", "x", journal=journal).invoke("hi")
        assert [trace.id for trace in kept] + mine.kept == [record(message)["id"]]
        kept.clear()


class Waits:
    """Keeps what all of its kind are given."""

    kept: ClassVar[list[str]] = []

    def append(self, trace: Any) -> None:
        """Keep it."""
        self.kept.append(trace.id)


def test_a_copy_of_a_cascade_writes_too():
    """The records that wait are the journal's own; the copy begins with none."""
    copy.deepcopy(pair("fine", "x", journal=Waits())).invoke("hi")
    assert until(lambda: Waits.kept, seconds=SECONDS, what="the record")


def test_an_async_append_is_refused():
    """It would never be awaited."""

    class Async:
        async def append(self, trace: Any) -> None:
            """Do nothing."""

    with pytest.raises(ConfigurationError, match="append is async; expected a plain function"):
        pair("a", "b", journal=Async())


EXIT = """
import sys, threading, time
from cascade_agent import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel
class Slow:
    def append(self, trace):
        if sys.argv[1] == "blocks":
            threading.Event().wait()
        time.sleep(0.05)
        print("kept", flush=True)
model = CascadeChatModel(small=ScriptedChatModel("fine", loop=True), large=ScriptedChatModel("x"), journal=Slow())
for _ in range(3):
    model.invoke("hi")
"""


@pytest.mark.parametrize(("how", "kept"), [("is slow", 3), ("blocks", 0)])
def test_the_exit_of_the_interpreter_waits_a_moment(how, kept):
    """A slow journal writes all it still has to; one that blocks holds up no exit."""
    command = [sys.executable, "-c", EXIT, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert (done.stdout.count("kept"), done.stderr) == (kept, "")
