"""The journal: nothing written is lost or mixed up, nothing unreadable is passed over in silence."""

import asyncio
import copy
import gzip
import json
import logging
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from benchmarks import journal_kills
from cascade_agent.core.records import Attempt, Decision, Label, StepTrace, Usage, Verdict
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal import background
from cascade_agent.journal.reader import checked_label, read, read_labels, records
from cascade_agent.journal.writer import Journal, _lock, lost_records
from tests import fresh
from tests.builders import examples
from tests.unit.core.test_records import labels, traces

linux = pytest.mark.skipif(sys.platform != "linux", reason="uses what only Linux has")


def a_trace(step_id: str = "s1", **kwargs: object) -> StepTrace:
    """A step that the small tier answered."""
    attempt = Attempt(
        tier="small",
        model="m",
        outcome="accepted",
        verdicts=(
            Verdict(outcome="pass", code="grounded", reason="every argument is", score=0.9, validator="Grounding"),
        ),
        confidence=0.9,
        usage=Usage(input_tokens=10, output_tokens=3),
        answer={"text": "secret 東京 \u2028", "tool_calls": []},
    )
    base = {"step": "agent", "outcome": "accepted", "reason": "ok", "attempts": (attempt,), "final": 0}
    return StepTrace(id=step_id, **{**base, **kwargs})


# ---- what is written is read --------------------------------------------------------------------------------------
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(records=st.lists(traces | labels, max_size=6))
def test_what_is_written_is_read_back_equal(tmp_path: Path, records: list[StepTrace | Label]) -> None:
    """Any steps and labels, in any order, come back equal and in order, from the plain file and from a compressed one."""
    path = tmp_path / f"{time.monotonic_ns()}.jsonl"
    with Journal(path) as journal:
        for record in records:
            assert journal.append(record) if isinstance(record, StepTrace) else journal.append_label(record)
    steps = [r for r in records if isinstance(r, StepTrace)]
    assert list(journal) == steps
    assert list(journal.labels()) == [r for r in records if isinstance(r, Label)]
    if records:
        packed = tmp_path / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert list(read(packed)) == steps


def test_one_line_per_record(tmp_path: Path) -> None:
    """A line is one JSON object that says its type; no text in it can end the line."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace(reason="a\nb\r\x85\u2028\x18\0"))
    assert journal.label("s1", source="person", right=True, note="seen")
    lines = (tmp_path / "j.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["type"] for line in lines[:-1]] == ["step", "label"]
    assert lines[-1] == b""
    assert next(iter(journal)).reason == "a\nb\r\x85\u2028\x18\ufffd"  # no store could hold the NUL
    label = next(journal.labels())
    assert (label.step_id, label.source, label.right, label.note) == ("s1", "person", True, "seen")
    assert label.at.endswith("+00:00")


def test_what_is_no_json_is_mended(tmp_path: Path) -> None:
    """NaN, lone surrogates, huge integers, foreign objects and deep nests are written in a form that is JSON."""
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    journal = Journal(tmp_path / "j.jsonl")
    for answer in ({"x": float("nan")}, {"x": "\ud800"}, {"x": 2**70, "y": {1, 2}}, {"x": deep}, {(1, 2): object()}):
        assert journal.append(a_trace(attempts=(Attempt(tier="small", answer=answer),)))
    assert journal.lost == 0
    assert [t.attempts[0].answer is not None for t in journal] == [True] * 5


# ---- writing never fails a step -----------------------------------------------------------------------------------
def test_what_holds_answers_is_for_its_owner(tmp_path: Path) -> None:
    """The first record makes directories of 0700 and a file of 0600, whatever the umask; nothing is made before."""
    path = tmp_path / "a" / "b" / "j.jsonl"
    journal = Journal(path)
    assert list(journal) == []
    assert not path.parent.exists()
    before = os.umask(0)
    try:
        assert journal.append(a_trace())
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def _closed(path: Path) -> Journal:
    with Journal(path / "j.jsonl") as journal:
        return journal


def _pipe(path: Path) -> Journal:
    os.mkfifo(path / "pipe")
    journal = Journal(path / "pipe")
    while journal.append(a_trace()):
        pass
    journal.lost = 0
    return journal


def _unseen(path: Path) -> Journal:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "is_dir", refuse)
        return Journal(path / "j.jsonl" / "x")  # a superuser is refused nothing, so the file is in the way


@linux
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_closed, "is closed"),
        (lambda _: Journal("/dev/full"), "No space left"),
        (lambda path: Journal(path / ("x" * 300)), "File name too long"),
        (lambda path: Journal(path / "nul\0"), "null (byte|character)"),
        (_pipe, "could be written|unavailable"),
        (_unseen, "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], Journal], why: str, *, loop: bool
) -> None:
    """Closed, full, impossible, never read, out of sight: no exception, no wait, one warning for all losses."""
    (tmp_path / "j.jsonl").touch()
    journal, before = make(tmp_path), lost_records()

    async def main() -> None:
        for _ in range(3):
            journal.append(a_trace())

    if loop:
        asyncio.run(main())
        assert journal.flush()
    else:
        assert [journal.append(a_trace()) for _ in range(3)] == [False] * 3
    assert (journal.lost, lost_records() - before) == (3, 3)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert re.search(why, caplog.text)


def test_a_success_ends_the_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second trouble after a success is said again."""
    parent = tmp_path / "dir"
    parent.write_text("a file where the directory should be")
    journal = Journal(parent / "j.jsonl")
    for _ in range(2):
        assert not journal.append(a_trace())
    parent.unlink()
    assert journal.append(a_trace())
    journal.path.unlink()
    parent.rmdir()
    parent.write_text("again")
    for _ in range(2):
        assert not journal.append(a_trace())
    assert (journal.lost, len(caplog.records)) == (4, 2)


def test_a_deleted_or_moved_file_is_begun_anew(tmp_path: Path) -> None:
    """Somebody else's log rotation loses nothing: the next record goes to a new file of our name."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    journal.path.rename(tmp_path / "moved.jsonl")
    journal.append(a_trace("2"))
    assert [t.id for t in journal] == ["2"]
    assert [t.id for t in read(tmp_path / "moved.jsonl")] == ["1"]


def test_impossible_settings_and_directories_are_refused(tmp_path: Path) -> None:
    """At construction, with what would do; a record of more than 64 MiB is lost and counted."""
    for name, limit in (("max_bytes", 0), ("max_bytes", True), ("keep", 0), ("keep", 1.5)):
        with pytest.raises(ConfigurationError, match=f"Journal.{name} is {limit}; expected None or a number >= 1"):
            Journal(tmp_path / "j.jsonl", **{name: limit})
    with pytest.raises(ConfigurationError, match=r"is a directory; give a file in it"):
        Journal(tmp_path)
    journal = Journal(tmp_path / "j.jsonl")
    assert not journal.append(a_trace(reason="x" * (64 * 2**20)))
    assert journal.append(a_trace())
    assert len(list(journal)) == 1


# ---- stopped writers ----------------------------------------------------------------------------------------------
STEP = """
import sys
from cascade_agent.journal.writer import Journal
from cascade_agent.core.records import StepTrace
def step(id, size=0):
    return StepTrace(id=str(id), step="y" * size, outcome="accepted", reason="ok", attempts=())
"""


@linux
def test_a_write_that_did_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the disk fills up in the middle of a line and has room again later, every line parses."""
    code = f"""{STEP}
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(sys.argv[1])
assert journal.append(step(1))
size = journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
assert not journal.append(step(2)) and not journal.append(step(3))
assert journal.path.stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert journal.append(step(4)) and journal.append(step(5))
assert journal.lost == 2
"""
    path = tmp_path / "j.jsonl"
    done = fresh.run(code, path)
    assert done.code == 0, done.err
    assert ids_of(path) == ["1", "4", "5"]


RECORD = b'{"type":"step","id":"x","step":"s","outcome":"accepted","reason":"r","attempts":[]}'


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        (RECORD[:1], b""),
        (RECORD[:40], b""),
        (RECORD[:20] + b"y" * 200_000, b""),
        (RECORD, RECORD + b"\n"),  # an editor left out the last newline
        (b"notes of somebody", b"notes of somebody\n"),  # not ours: never cut off
        (b'{"other": "program', b'{"other": "program\n'),
    ],
)
def test_the_next_writer_mends_the_last_line(tmp_path: Path, tail: bytes, kept: bytes) -> None:
    """A record that a killed writer left unfinished is cut off; whatever else stands there is ended and kept."""
    path = tmp_path / "j.jsonl"
    Journal(path).append(a_trace("1"))
    first = path.read_bytes()
    path.write_bytes(first + tail)
    assert Journal(path).append(a_trace("2"))
    assert path.read_bytes().startswith(first + kept + b'{"type":"step","id":"2"')


def test_what_a_stopped_writer_left_is_not_put_away(tmp_path: Path) -> None:
    """Where the next record begins a new file, the old one is mended before it gets its other name."""
    path = tmp_path / "j.jsonl"
    Journal(path).append(a_trace("1"))
    with path.open("ab") as file:
        file.write(RECORD[:40])
    assert Journal(path, max_bytes=10).append(a_trace("2"))
    assert len(Journal(path).files()) == 2
    assert ids_of(*Journal(path).files()) == ["1", "2"]


def test_last_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Left out by readers with a warning, refused by `strict`; a record of a newer version is an error even without its newline."""
    path = tmp_path / "j.jsonl"
    path.write_bytes(RECORD + b"\n" + RECORD)
    assert [t.id for t in read(path, on_error="strict")] == ["x", "x"]
    assert caplog.text == ""
    path.write_bytes(RECORD + b"\n" + RECORD[:40])
    assert [t.id for t in read(path)] == ["x"]
    assert "j.jsonl:2: the last line is unfinished" in caplog.text
    with pytest.raises(RecordError, match=r"j\.jsonl:2: the last line is unfinished"):
        list(read(path, on_error="strict"))
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps({**a_trace().to_json(), "type": "step", "schema": 2}))
    with pytest.raises(RecordError, match=r"j\.jsonl:1: .*schema 2.*upgrade"):
        list(read(path))


# ---- many writers -------------------------------------------------------------------------------------------------
def ids_of(*paths: Path) -> list[str]:
    """Ids of the steps, read as any other program would: a JSON parser for each line."""
    texts = (gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in paths)
    return [json.loads(line)["id"] for text in texts for line in text.splitlines()]


@linux
@pytest.mark.parametrize("max_bytes", [None, 200_000])
def test_processes_that_are_killed_share_json_lines(tmp_path: Path, max_bytes: int | None) -> None:
    """Processes of three threads, killed and replaced: each line parses, nothing is lost or doubled, rotated or not."""
    found = journal_kills.run(tmp_path, seconds=examples(1, 8), max_bytes=max_bytes)
    assert not journal_kills.failed(found), found
    assert found["kills"] >= 8
    assert found["records"] >= found["noted"] > 300


# ---- event loops --------------------------------------------------------------------------------------------------
def test_nothing_blocks_an_event_loop(tmp_path: Path) -> None:
    """With `blockbuster` watching the loop every step of every task is kept, rotation, redaction and labels too."""
    blockbuster = pytest.importorskip("blockbuster")
    path = tmp_path / "a" / "j.jsonl"

    async def work(who: int) -> None:
        for n in range(20):
            assert journal.append(a_trace(f"{who}-{n}"))
            await asyncio.sleep(0)
        assert journal.label(f"{who}", source="person", right=True)

    async def main() -> None:
        nonlocal journal
        with blockbuster.blockbuster_ctx():
            journal = Journal(path, max_bytes=4000, redact=lambda data: data)
            await asyncio.gather(*map(work, range(10)))
            journal.close()
            assert not journal.append(a_trace("late"))

    journal = Journal(path)
    asyncio.run(main())
    files = Journal(path).files()  # waits for what was appended
    assert len(files) > 5
    assert Counter(t.id for t in read(*files)) == Counter(f"{who}-{n}" for who in range(10) for n in range(20))
    assert len(list(read_labels(*files))) == 10
    assert journal.lost == 1


def test_a_program_that_ends_writes_what_its_loop_appended(tmp_path: Path) -> None:
    """Records of an event loop are on the disk when the interpreter has gone."""
    code = f"""{STEP}
import asyncio
async def main():
    journal = Journal(sys.argv[1])
    assert all(journal.append(step(n)) for n in range(500))
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "j.jsonl")], check=True)
    assert ids_of(tmp_path / "j.jsonl") == [str(n) for n in range(500)]


def test_a_disk_that_hangs_holds_no_loop_up_and_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the writer waits, so many records wait with it and the others are counted as lost."""
    monkeypatch.setattr(background, "_MAX_PENDING", 5)
    journal, free, busy = Journal(tmp_path / "j.jsonl"), threading.Event(), threading.Event()

    async def main() -> list[bool]:
        background.files.submit(lambda: busy.set() or free.wait())
        assert await asyncio.to_thread(busy.wait, 60)
        return [journal.append(a_trace(str(n))) for n in range(8)]

    kept = asyncio.run(main())
    assert not journal.flush(timeout=0.05)
    free.set()
    assert kept == [True] * 5 + [False] * 3
    assert journal.flush()
    assert [t.id for t in journal] == [str(n) for n in range(5)]
    assert journal.lost == 3


@linux
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_writes_on(tmp_path: Path) -> None:
    """A child forked while the parent holds the lock can write, and so can the parent after it."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10**6)
    journal.append(a_trace("before"))
    with journal._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if journal.append(a_trace("child")) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert journal.append(a_trace("parent"))
    assert [t.id for t in journal] == ["before", "child", "parent"]


@linux
def test_a_writer_that_holds_the_lock_for_ever_costs_one_bounded_wait(tmp_path: Path) -> None:
    """A process stopped in the middle of a rotation makes others lose and count, never hang; all ends with the lock."""
    import fcntl

    journal = Journal(tmp_path / "j.jsonl", max_bytes=10_000)
    assert journal.append(a_trace())
    with journal.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert [journal.append(a_trace()) for _ in range(100)] == [False] * 100
    assert journal.lost == 100
    assert journal.append(a_trace())
    assert len(list(journal)) == 2


@linux
def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path) -> None:
    """Where the system refuses to lock at all, the writer goes on without."""
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)  # a closed descriptor is refused like one on a file system without locks
    assert _lock(fd) is None


# ---- rotation -----------------------------------------------------------------------------------------------------
def tidied() -> None:
    """Wait until what was rotated is compressed, and what is too old deleted."""
    for thread in threading.enumerate():
        if thread.name == "cascade-agent-journal":
            thread.join(30)


def test_rotation_keeps_order_and_size(tmp_path: Path) -> None:
    """A full file is put away under its time; reading gives all records in order; foreign files are left alone."""
    (tmp_path / "j.notes.jsonl").write_text("not ours")
    (tmp_path / "j.20260101T000000.000000Z.txt").write_text("nor this")
    journal = Journal(tmp_path / "j.jsonl", max_bytes=1500)
    for n in range(20):
        journal.append(a_trace(str(n)))
    files = journal.files()
    assert len(files) > 3
    assert files[-1] == journal.path
    assert all(file.stat().st_size <= 1500 for file in files)
    assert [t.id for t in journal] == [str(n) for n in range(20)]


def test_rotated_files_are_compressed_and_old_ones_deleted(tmp_path: Path) -> None:
    """With `compress` only the current file is plain, with `keep` only so many others are there; all stays readable."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=1500, compress=True, keep=2)
    for n in range(30):
        journal.append(a_trace(str(n)))
        tidied()
    files = journal.files()
    assert [file.suffix for file in files] == [".gz", ".gz", ".jsonl"]
    ids = [int(t.id) for t in journal]
    assert ids == list(range(ids[0], 30))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert stat.S_IMODE(files[0].stat().st_mode) & 0o077 == 0


def test_what_cannot_be_tidied_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A rotated file that cannot be deleted or compressed is said and left; the journal goes on."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10, keep=1)
    (tmp_path / "j.20260101T000000.000000Z.jsonl").mkdir()  # a directory cannot be unlinked
    for n in range(3):
        assert journal.append(a_trace(str(n)))
        tidied()
    assert "could not be tidied" in caplog.text
    assert journal.lost == 0


def test_a_half_compressed_file_counts_once(tmp_path: Path) -> None:
    """Between the making of the .gz and the end of the plain file both are there; a reader takes one."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10)
    for n in range(3):
        journal.append(a_trace(str(n)))
    first = journal.files()[0]
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes()))
    assert [t.id for t in journal] == ["0", "1", "2"]


def test_a_file_gone_while_it_is_tidied_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two writers tidy at once: each passes over what the other has done."""
    journals = [Journal(tmp_path / "j.jsonl", max_bytes=10, compress=True, keep=5) for _ in range(2)]
    for n in range(12):
        assert journals[n % 2].append(a_trace(str(n)))
    tidied()
    assert caplog.text == ""


def test_rotating_by_others_is_seen(tmp_path: Path) -> None:
    """Of two writers with a full file only one puts it away; the other goes on in the new one."""
    first, second = (Journal(tmp_path / "j.jsonl", max_bytes=10) for _ in range(2))
    for n in range(8):
        assert (first if n % 2 else second).append(a_trace(str(n)))
    assert [t.id for t in first] == [str(n) for n in range(8)]
    assert len(first.files()) == 8


@linux
def test_what_cannot_be_rotated_grows_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be renamed is written on, with one warning."""
    name = "j" * 240 + ".jsonl"  # a valid name that has no room for a time
    journal = Journal(tmp_path / name, max_bytes=10)
    for n in range(4):
        assert journal.append(a_trace(str(n)))
    assert [t.id for t in journal] == ["0", "1", "2", "3"]
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


# ---- requests -----------------------------------------------------------------------------------------------------
def test_requests_are_kept_where_asked_for_and_redacted(tmp_path: Path) -> None:
    """`requests=True` keeps the messages of a step; `redact` sees them, and a failing one leaves them out."""
    messages = [HumanMessage("secret?"), AIMessage("", tool_calls=[{"name": "look", "args": {"q": 1}, "id": "c"}])]
    kept = [
        {"role": "human", "content": "secret?"},
        {"role": "ai", "tool_calls": [{"name": "look", "args": {"q": 1}, "id": "c", "type": "tool_call"}]},
    ]

    def hide(data: dict[str, object]) -> dict[str, object]:
        return {**data, "request": "gone"}

    for name, settings_, expected in (
        ("off", {}, None),
        ("on", {"requests": True}, kept),
        ("redacted", {"requests": True, "redact": hide}, "gone"),
        ("faulty", {"requests": True, "redact": lambda data: 1 / 0}, None),
    ):
        journal = Journal(tmp_path / name, **settings_)
        assert journal.append(a_trace(), request=messages)
        assert json.loads(journal.path.read_bytes()).get("request") == expected
        assert next(iter(journal)).id == "s1"


# ---- redaction ----------------------------------------------------------------------------------------------------
def test_redaction_sees_every_record_and_decides(tmp_path: Path) -> None:
    """The record that `redact` returns is written, for steps and labels, as a new dict or a changed one."""

    def redact(data: dict[str, object]) -> dict[str, object]:
        if data["type"] == "label":
            return {**data, "note": "gone"}
        for attempt in data["attempts"]:
            attempt["answer"] = {"text": "gone"}
        return data

    journal = Journal(tmp_path / "j.jsonl", redact=redact)
    journal.append(a_trace())
    journal.label("s1", source="person", note="secret")
    assert "secret" not in journal.path.read_text()
    assert next(iter(journal)).attempts[0].answer == {"text": "gone"}
    assert next(journal.labels()).note == "gone"


@pytest.mark.parametrize(
    "fault", [lambda data: 1 / 0, lambda data: None, lambda data: "text", lambda data: data.clear()]
)
def test_a_failing_redaction_writes_no_content(tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: object) -> None:
    """A redaction that raises or returns no dict: the numbers are kept, nothing said by people or models is."""
    secret = Verdict(outcome="fail", code="schema", reason="secret", path="/secret")
    trace = a_trace(
        attempts=(Attempt(tier="small", verdicts=(secret,), answer={"text": "secret"}, error="ValueError: secret"),),
        decisions=(Decision(action="escalate", reason="schema", detail="secret"),),
        thread_id="secret",
        cost=0.5,
    )
    journal = Journal(tmp_path / "j.jsonl", redact=fault)
    for _ in range(2):
        assert journal.append(trace)
    assert journal.label("s1", source="person", right=True, note="secret")
    assert "secret" not in journal.path.read_text()
    step = next(iter(journal))
    assert (step.id, step.cost, step.attempts[0].error, step.attempts[0].verdicts[0].code) == (
        "s1",
        0.5,
        "ValueError",
        "schema",
    )
    assert next(journal.labels()).right is True
    assert (journal.unredacted, journal.lost, len(caplog.records)) == (3, 0, 1)
    assert "secret" not in caplog.text


# ---- reading what is wrong ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bad",
    [
        b"{broken\n",
        b"\xff\xfe\n",
        b"[1, 2]\n",
        b"null\n",
        b'{"type":"step"}\n',
        b'{"type":"step","id":"x","step":"a","outcome":"accepted","reason":"r","attempts":[5]}\n',
        b'{"type":"step","schema":99,"id":"x","step":"a","outcome":"accepted","reason":"r","attempts":[]}\n',
        b'{"type":"poem"}\n',
        b'{"id":"x"}\n',
        b'{"type":"label","x":NaN}\n',
        b'{"type":"label","x":' + b"9" * 5000 + b"}\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_line_that_is_no_record_names_file_line_and_mend(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: bytes
) -> None:
    """Garbage in the middle raises with file, line number and mend; with on_error="skip" the rest is read."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    with journal.path.open("ab") as file:
        file.write(b"\n" + bad)
    journal.append(a_trace("2"))
    with pytest.raises(RecordError, match=r"j\.jsonl:3: .*(repair|upgrade).*on_error='skip'"):
        list(journal)
    assert [t.id for t in read(journal.path, on_error="skip")] == ["1", "2"]
    assert "1 lines are no records and were skipped, the first is line 3" in caplog.text


def test_a_line_without_an_end_needs_no_memory(tmp_path: Path) -> None:
    """A file of 150 MB without a newline is refused, or skipped, piece by piece."""
    path = tmp_path / "j.jsonl"
    with path.open("wb") as file:
        for _ in range(150):
            file.write(b"x" * 2**20)
        file.write(b"\n")
    Journal(path).append(a_trace())
    with pytest.raises(RecordError, match=r":1: not a line of JSON"):
        list(read(path))
    assert len(list(read(path, on_error="skip"))) == 1


def test_bare_records_are_read(tmp_path: Path) -> None:
    """Lines of `to_json` without a type, as a script may write them, are known by their fields."""
    path = tmp_path / "j.jsonl"
    label = Label(step_id="s1", source="person", right=False)
    path.write_text(json.dumps(a_trace().to_json()) + "\n" + json.dumps(label.to_json()) + "\n")
    assert [t.id for t in read(path)] == ["s1"]
    assert list(read_labels(path)) == [label]


def test_compressed_files_that_are_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing end names its last line, foreign bytes raise with file and line; `skip` gives what is whole."""
    noise = [os.urandom(400).hex() for _ in range(50)]
    lines = "".join(json.dumps(a_trace(str(n), reason=text).to_json()) + "\n" for n, text in enumerate(noise))
    packed = gzip.compress(lines.encode())
    path = tmp_path / "j.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(RecordError, match=r"j\.jsonl\.gz:\d+: the compressed file is cut off"):
        list(read(path))
    ids = [int(t.id) for t in read(path, on_error="skip")]
    assert ids == list(range(len(ids)))
    assert 10 < len(ids) < 40
    assert "cut off" in caplog.text
    path = tmp_path / "j.jsonl.gz"
    whole = gzip.compress(json.dumps(a_trace().to_json()).encode() + b"\n")
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])  # its checksum
    with pytest.raises(RecordError, match=r"j\.jsonl\.gz:2: cannot be read"):
        list(read(path))
    path.write_bytes(whole[:12] + b"\xff" * 500)
    with pytest.raises(RecordError, match=r"j\.jsonl\.gz:1: cannot be read"):
        list(read(path))


def test_names_of_files(tmp_path: Path) -> None:
    """Several files and patterns in order; a name with brackets that exists; what is not there is said before anything is read."""
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl"):
        Journal(tmp_path / name).append(a_trace(name))
    (tmp_path / "d.jsonl").mkdir()
    assert [t.id for t in read(str(tmp_path / "*.jsonl"))] == ["a.jsonl", "b.jsonl", "c[1].jsonl"]
    assert [t.id for t in read(tmp_path / "c[1].jsonl", tmp_path / "a.jsonl")] == ["c[1].jsonl", "a.jsonl"]
    with pytest.raises(RecordError, match=r"no journal matches .*CASCADE_JOURNAL"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(RecordError, match=r"is a directory; give its journals"):
        read(tmp_path)
    with pytest.raises(ConfigurationError, match="on_error"):
        read(on_error="ignore")


def test_reading_is_a_stream(tmp_path: Path) -> None:
    """The first record is there before the garbage behind it is looked at."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    with journal.path.open("ab") as file:
        file.write(b"garbage\n")
    steps = read(journal.path)
    assert next(steps).id == "1"
    with pytest.raises(RecordError):
        next(steps)


# ---- the environment, copies --------------------------------------------------------------------------------------
def test_the_environment_names_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unset or empty: None. Set: one object per value. Impossible: None and one warning."""
    monkeypatch.delenv("CASCADE_JOURNAL", raising=False)
    assert Journal.from_env() is None
    monkeypatch.setenv("CASCADE_JOURNAL", "")
    assert Journal.from_env() is None
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "j.jsonl"))
    journal = Journal.from_env()
    assert journal is Journal.from_env()
    assert journal.path == tmp_path / "j.jsonl"
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path))
    assert Journal.from_env() is None
    assert Journal.from_env() is None
    assert len(caplog.records) == 1
    assert "CASCADE_JOURNAL" in caplog.text


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda j: pickle.loads(pickle.dumps(j))])
def test_a_copy_is_another_writer_of_the_same_file(tmp_path: Path, duplicate: object) -> None:
    """A journal may be copied and pickled; settings go along, descriptors and counts do not."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10**6, keep=3, compress=True)
    journal.append(a_trace("1"))
    other = duplicate(journal)
    assert (other.path, other.max_bytes, other.keep, other.compress) == (journal.path, 10**6, 3, True)
    assert other.append(a_trace("2"))
    journal.close()
    assert [t.id for t in other] == ["1", "2"]
    assert repr(other) == f"Journal({str(journal.path)!r}, lost=0)"


@linux
def test_a_forgotten_journal_gives_its_descriptor_back(tmp_path: Path) -> None:
    """Objects that are dropped without close leave no open file behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(50):
        Journal(tmp_path / f"{n}.jsonl").append(a_trace())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_impossible_labels_are_refused_where_that_is_asked_for(tmp_path):
    """`checked_label` makes a label that cannot be a fault of its line; without it every label is read."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append_label(Label(step_id="1", source="person", right=True, harm=True))
    assert len(list(read_labels(path))) == 1
    with pytest.raises(RecordError, match=r"j\.jsonl:1: label of step '1' says right and harm at once"):
        list(records(path, kind="label", build=checked_label))
    assert not list(records(path, kind="label", build=checked_label, on_error="skip"))
