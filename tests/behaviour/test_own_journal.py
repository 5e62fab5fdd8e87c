"""A journal of the user's own that blocks, is slow or raises: no step waits for it, fails by it or loses its answer."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel
from tests.builders import pair, until

if TYPE_CHECKING:
    from cascade_agent import CascadeChatModel
    from cascade_agent.core.records import StepTrace

STEPS = 5
SECONDS = 60.0
"""The time after which what should not have been waited for gives up, so that nothing hangs."""


class Blocks:
    """Waits in `append` until it is let go; `gave_up` says that nobody did."""

    def __init__(self) -> None:
        self.go, self.full, self.gave_up = threading.Event(), threading.Event(), False
        self.kept: list[str] = []

    def append(self, trace: StepTrace) -> None:
        """Keep the id of a step, late."""
        self.gave_up |= not self.go.wait(SECONDS)
        self.kept.append(trace.id)
        if len(self.kept) == STEPS:
            self.full.set()


class Raises:
    """Raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def append(self, _trace: StepTrace) -> None:
        """Raise."""
        raise self.error


def says() -> ScriptedChatModel:
    """Return a model that always answers."""
    return ScriptedChatModel("fine", loop=True)


async def answers(model: CascadeChatModel, way: str) -> list[str]:
    """Return the texts of some steps and the ids of their records, asked in one way."""
    found = []
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
        found.append(message.response_metadata["cascade"]["id"])
    return found


@pytest.mark.parametrize("way", ["sync", "sync in a loop", "async", "astream"])
async def test_no_step_waits_for_a_journal_that_blocks(way: str) -> None:
    """All steps answer before the first record is taken; then the journal gets them all, in their order."""
    journal = Blocks()
    ids = await answers(pair(says(), "x", journal=journal), way)
    assert (journal.kept, journal.gave_up) == ([], False)
    journal.go.set()
    assert await asyncio.to_thread(journal.full.wait, SECONDS)
    assert journal.kept == ids


@pytest.mark.parametrize("way", ["sync", "sync in a loop", "async", "astream"])
@pytest.mark.parametrize("error", [OSError("disk full"), asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()])
async def test_no_step_fails_by_a_journal_that_raises(way: str, error: BaseException) -> None:
    """Whatever it raises, each step answers."""
    assert len(await answers(pair(says(), "x", journal=Raises(error)), way)) == STEPS


@pytest.mark.parametrize("make", [Blocks, lambda: Raises(OSError("disk full")), lambda: Raises(SystemExit())])
async def test_a_cancellation_passes_through(make: Any) -> None:
    """A step that is cancelled ends with the cancellation, whatever its journal does meanwhile."""
    journal, started = make(), asyncio.Event()

    class Late(ScriptedChatModel):
        async def _agenerate(self, *_: Any, **__: Any) -> Any:
            started.set()
            await asyncio.sleep(SECONDS)

    task = asyncio.create_task(pair(Late("late"), "x", journal=journal).ainvoke("hi"))
    await asyncio.wait_for(started.wait(), SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if isinstance(journal, Blocks):
        assert (journal.kept, journal.gave_up) == ([], False)
        journal.go.set()


def test_an_ordinary_journal_can_be_read_when_the_step_is_over() -> None:
    """A list, or a journal that says that it never waits, is written in place: nothing is to be waited for."""

    class InPlace(Blocks):
        in_place = True

    kept: list[StepTrace] = []
    mine = InPlace()
    mine.go.set()
    for journal, read in ((kept, lambda: [t.id for t in kept]), (mine, lambda: mine.kept)):
        message = pair("fine", "x", journal=journal).invoke("hi")
        assert read() == [message.response_metadata["cascade"]["id"]]


def test_a_copy_of_a_cascade_writes_too() -> None:
    """What waits is the journal's own; the copy begins with nothing."""
    journal = Waits()
    model = copy.deepcopy(pair("fine", "x", journal=journal))
    model.invoke("hi")
    assert until(lambda: Waits.kept, seconds=SECONDS, what="the record")


class Waits:
    """Keeps what all of its kind are given."""

    kept: ClassVar[list[str]] = []

    def append(self, trace: StepTrace) -> None:
        """Keep it."""
        self.kept.append(trace.id)


def test_an_async_append_is_refused() -> None:
    """It would never be awaited."""

    class Async:
        async def append(self, trace: StepTrace) -> None:
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
def test_the_exit_of_the_interpreter_waits_a_moment(how: str, kept: int) -> None:
    """What a slow journal still has to write is written; one that blocks holds up no exit."""
    done = subprocess.run(
        [sys.executable, "-c", EXIT, how], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert (done.stdout.count("kept"), done.stderr) == (kept, "")
