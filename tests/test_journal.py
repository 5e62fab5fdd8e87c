"""The journal: nothing written is lost or mixed up, nothing unreadable is passed over in silence."""

import copy
import gzip
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade_agent.core.records import Attempt, Decision, Label, SideCall, StepTrace, Usage, Verdict
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.writer import Journal, _lock, checked_label, read, read_labels

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


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
floats = st.none() | st.floats(allow_nan=False, allow_infinity=False)
usages = st.none() | st.builds(
    Usage,
    input_tokens=st.none() | st.integers(0, 2**40),
    output_tokens=st.none() | st.integers(0, 2**40),
    cache_read_tokens=st.none() | st.integers(0, 9),
    calls=st.integers(0, 5),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
attempts = st.builds(
    Attempt,
    tier=st.sampled_from(["small", "large"]),
    outcome=st.sampled_from(["accepted", "rejected", "error"]),
    verdicts=st.lists(
        st.builds(
            Verdict,
            outcome=st.sampled_from(["pass", "fail", "abstain"]),
            code=texts,
            reason=texts,
            score=st.none() | st.floats(0, 1),
        ),
        max_size=3,
    ).map(tuple),
    confidence=floats,
    usage=usages,
    cost=floats,
    answer=st.none() | st.dictionaries(texts, json_values, max_size=3),
    error=st.none() | texts,
    gathered=st.lists(texts, max_size=2).map(tuple),
)
traces = st.builds(
    StepTrace,
    id=texts,
    step=texts,
    outcome=st.sampled_from(["accepted", "escalated", "exhausted"]),
    reason=texts,
    attempts=st.lists(attempts, max_size=3).map(tuple),
    decisions=st.lists(st.builds(Decision, action=st.just("escalate"), reason=texts), max_size=2).map(tuple),
    evidence=st.lists(st.builds(SideCall, name=texts, usage=usages, cost=floats), max_size=2).map(tuple),
    degraded=st.booleans(),
    cost=floats,
    usage=usages,
    thread_id=st.none() | texts,
)
labels = st.builds(Label, step_id=texts, source=texts, right=st.none() | st.booleans(), propensity=floats, note=texts)


# ---- what is written is read --------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
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
    assert label.at is not None
    assert label.at.endswith("+00:00")


def test_directories_are_made_and_the_file_is_private(tmp_path: Path) -> None:
    """The first record makes the directories and a file that only its owner may read; nothing is made before."""
    path = tmp_path / "a" / "b" / "j.jsonl"
    journal = Journal(path)
    assert list(journal) == []
    assert not path.parent.exists()
    assert journal.append(a_trace())
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


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


def test_a_closed_journal_loses_and_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After close nothing is written, nothing raises, one warning stands for all losses."""
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.append(a_trace())
    journal.close()
    assert not journal.append(a_trace())
    assert not journal.label("s1", source="person")
    assert journal.lost == 2
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert len(list(journal)) == 1


@linux
def test_a_full_disk_loses_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    """A device without space is a counted loss and one warning."""
    journal = Journal("/dev/full")
    assert [journal.append(a_trace()) for _ in range(3)] == [False] * 3
    assert journal.lost == 3
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


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


def test_a_record_that_no_reader_takes_is_refused(tmp_path: Path) -> None:
    """A record of more than 64 MiB is lost and counted, the file stays readable."""
    journal = Journal(tmp_path / "j.jsonl")
    assert not journal.append(a_trace(reason="x" * (64 * 2**20)))
    assert journal.append(a_trace())
    assert len(list(journal)) == 1


def test_a_deleted_or_moved_file_is_begun_anew(tmp_path: Path) -> None:
    """Somebody else's log rotation loses nothing: the next record goes to a new file of our name."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    journal.path.rename(tmp_path / "moved.jsonl")
    journal.append(a_trace("2"))
    assert [t.id for t in journal] == ["2"]
    assert [t.id for t in read(tmp_path / "moved.jsonl")] == ["1"]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": True}, "max_bytes"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, kwargs: dict[str, object], match: str) -> None:
    """Limits below 1 are refused at construction."""
    with pytest.raises(ConfigurationError, match=match):
        Journal(tmp_path / "j.jsonl", **kwargs)


def test_a_directory_is_no_journal(tmp_path: Path) -> None:
    """A directory is refused at construction, with a name that would do."""
    with pytest.raises(ConfigurationError, match=r"is a directory; give a file in it"):
        Journal(tmp_path)


# ---- stopped writers ----------------------------------------------------------------------------------------------


@linux
def test_a_write_that_did_not_fit_harms_no_other_record(tmp_path: Path) -> None:
    """When the disk fills up in the middle of a line and has room again later, every other record is read."""
    code = """
import resource, signal, sys
from cascade_agent.journal.writer import Journal
from cascade_agent.core.records import StepTrace
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(sys.argv[1])
trace = lambda id: StepTrace(id=id, step="agent", outcome="accepted", reason="ok", attempts=())
assert journal.append(trace("1"))
size = journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
assert not journal.append(trace("2")) and not journal.append(trace("3"))
assert journal.path.stat().st_size == size + 20
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert journal.append(trace("4")) and journal.append(trace("5"))
assert journal.lost == 2
"""
    path = tmp_path / "j.jsonl"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)  # noqa: S603
    assert [t.id for t in Journal(path)] == ["1", "4", "5"]


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_left_out_and_stays_harmless(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int
) -> None:
    """What a killed writer left is skipped with a warning, also after other writers went on behind it."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    whole = journal.path.read_bytes()
    with journal.path.open("ab") as file:
        file.write(whole[:-1][:cut])
    assert [t.id for t in journal] == ["1"]
    assert "j.jsonl:2: the last line is unfinished" in caplog.text
    journal.append(a_trace("2"))
    assert Journal(journal.path).append(a_trace("3"))
    caplog.clear()
    assert [t.id for t in journal] == ["1", "2", "3"]
    assert "j.jsonl:2: a writer was stopped in this line" in caplog.text


def test_a_mark_without_a_line_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A writer that saw another one's half-written line marks it; the line was whole after all, and nothing is said."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    with journal.path.open("ab") as file:
        file.write(b"\x18\n")
    journal.append(a_trace("2"))
    assert [t.id for t in journal] == ["1", "2"]
    assert caplog.text == ""


def test_a_complete_last_line_needs_no_newline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that an editor left without its last newline is whole."""
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(a_trace("1"))
    journal.path.write_bytes(journal.path.read_bytes().rstrip())
    assert [t.id for t in journal] == ["1"]
    assert caplog.text == ""


@linux
def test_kill_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    """After kill -9 every record whose append returned is there, and the rest of the file is readable."""
    code = """
import sys
from cascade_agent.journal.writer import Journal
from cascade_agent.core.records import StepTrace
journal = Journal(sys.argv[1])
n = 0
while True:
    journal.append(StepTrace(id=str(n), step="x" * 3000, outcome="accepted", reason="ok", attempts=()))
    print(n, flush=True)
    n += 1
"""
    for round_ in range(3):
        path = tmp_path / f"{round_}.jsonl"
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(50 + 37 * round_)]
        process.kill()
        last = (process.stdout.read().split() or seen[-1].split())[-1]
        process.wait()
        process.stdout.close()
        ids = [int(t.id) for t in read(path)]
        assert ids == list(range(len(ids)))
        assert len(ids) > int(last)


# ---- many writers -------------------------------------------------------------------------------------------------

WRITER = """
import sys
from cascade_agent.journal.writer import Journal
from cascade_agent.core.records import StepTrace
path, who, count, max_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None
journal = Journal(path, max_bytes=max_bytes, compress=max_bytes is not None)
for n in range(count):
    assert journal.append(StepTrace(id=f"{who}-{n}", step="y" * (n * 7 % 900), outcome="accepted", reason="ok", attempts=()))
assert journal.lost == 0
"""


@pytest.mark.parametrize("max_bytes", [0, 20_000])
def test_four_processes_lose_nothing_and_never_interleave(tmp_path: Path, max_bytes: int) -> None:
    """Four processes on one journal, with and without rotation and compression: every record once, each one's in order."""
    path, count = tmp_path / "j.jsonl", 200
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), who, str(count), str(max_bytes)])  # noqa: S603
        for who in "abcd"
    ]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    ids = [t.id for t in Journal(path)]
    assert Counter(ids) == Counter(f"{who}-{n}" for who in "abcd" for n in range(count))
    for who in "abcd":
        mine = [int(name.split("-")[1]) for name in ids if name.startswith(who)]
        assert mine == sorted(mine)
    assert (len(Journal(path).files()) > 1) == bool(max_bytes)


def test_threads_share_one_object(tmp_path: Path) -> None:
    """Eight threads on one rotating journal: every record once."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=5_000)

    def write(who: int) -> None:
        for n in range(50):
            journal.append(a_trace(f"{who}-{n}"))

    threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.lost == 0
    assert Counter(t.id for t in journal) == Counter(f"{who}-{n}" for who in range(8) for n in range(50))


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
    assert _lock(fd, exclusive=True)


@linux
def test_a_busy_file_is_not_rotated_but_written(tmp_path: Path) -> None:
    """While somebody else is writing, a full file grows on; the first free moment puts it away."""
    import fcntl

    journal = Journal(tmp_path / "j.jsonl", max_bytes=10)
    assert journal.append(a_trace("1"))
    with journal.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert journal.append(a_trace("2"))
        assert len(journal.files()) == 1
    assert journal.append(a_trace("3"))
    assert len(journal.files()) == 2
    assert [t.id for t in journal] == ["1", "2", "3"]


# ---- rotation -----------------------------------------------------------------------------------------------------


def _settle() -> None:
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
        _settle()
    files = journal.files()
    assert [file.suffix for file in files] == [".gz", ".gz", ".jsonl"]
    ids = [int(t.id) for t in journal]
    assert ids == list(range(ids[0], 30))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert stat.S_IMODE(files[0].stat().st_mode) & 0o077 == 0


def test_a_half_compressed_file_counts_once(tmp_path: Path) -> None:
    """Between the making of the .gz and the end of the plain file both are there; a reader takes one."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10)
    for n in range(3):
        journal.append(a_trace(str(n)))
    first = journal.files()[0]
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes()))
    assert [t.id for t in journal] == ["0", "1", "2"]


def test_a_file_compressed_after_it_was_listed_is_found(tmp_path: Path) -> None:
    """A reader that listed a file which is compressed before its turn reads the compressed one."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10)
    for n in range(3):
        journal.append(a_trace(str(n)))
    steps = iter(journal)
    assert next(steps).id == "0"
    second = journal.files()[1]
    second.with_name(second.name + ".gz").write_bytes(gzip.compress(second.read_bytes()))
    second.unlink()
    assert [t.id for t in steps] == ["1", "2"]


def test_what_cannot_be_tidied_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A rotated file that cannot be deleted or compressed is said and left; the journal goes on."""
    journal = Journal(tmp_path / "j.jsonl", max_bytes=10, keep=1)
    (tmp_path / "j.20260101T000000.000000Z.jsonl").mkdir()  # a directory cannot be unlinked
    for n in range(3):
        assert journal.append(a_trace(str(n)))
        _settle()
    assert "could not be tidied" in caplog.text
    assert journal.lost == 0


def test_a_file_gone_while_it_is_tidied_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two writers tidy at once: each passes over what the other has done."""
    journals = [Journal(tmp_path / "j.jsonl", max_bytes=10, compress=True, keep=5) for _ in range(2)]
    for n in range(12):
        assert journals[n % 2].append(a_trace(str(n)))
    _settle()
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


# ---- redaction ----------------------------------------------------------------------------------------------------


def test_redaction_sees_every_record_and_decides(tmp_path: Path) -> None:
    """What redact returns is what is written, for steps and labels, by a new dict or by a changed one."""

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


def test_a_newer_last_line_is_an_error_even_without_its_newline(tmp_path: Path) -> None:
    """Only what is no JSON can be an unfinished line; a record of a newer version is never passed over as one."""
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps({**a_trace().to_json(), "type": "step", "schema": 2}))
    with pytest.raises(RecordError, match=r"j\.jsonl:1: .*schema 2.*upgrade"):
        list(read(path))


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


def test_a_cut_off_compressed_file_gives_what_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A compressed file whose end is missing is read up to there, with a warning."""
    noise = [os.urandom(400).hex() for _ in range(50)]
    lines = "".join(json.dumps(a_trace(str(n), reason=text).to_json()) + "\n" for n, text in enumerate(noise))
    packed = gzip.compress(lines.encode())
    path = tmp_path / "j.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    ids = [int(t.id) for t in read(path)]
    assert ids == list(range(len(ids)))
    assert 10 < len(ids) < 40
    assert "cut off" in caplog.text


def test_a_damaged_compressed_file_is_an_error(tmp_path: Path) -> None:
    """Bytes that no compressor wrote raise with file and line."""
    path = tmp_path / "j.jsonl.gz"
    whole = gzip.compress(json.dumps(a_trace().to_json()).encode() + b"\n")
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])  # its checksum
    with pytest.raises(RecordError, match=r"j\.jsonl\.gz:2: cannot be read"):
        list(read(path))
    path.write_bytes(whole[:12] + b"\xff" * 500)
    with pytest.raises(RecordError, match=r"j\.jsonl\.gz:1: cannot be read"):
        list(read(path))


def test_files_and_patterns(tmp_path: Path) -> None:
    """Several files and glob patterns are read in order; a name with brackets that exists is a name."""
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl"):
        Journal(tmp_path / name).append(a_trace(name))
    (tmp_path / "d.jsonl").mkdir()
    assert [t.id for t in read(str(tmp_path / "*.jsonl"))] == ["a.jsonl", "b.jsonl", "c[1].jsonl"]
    assert [t.id for t in read(tmp_path / "c[1].jsonl", tmp_path / "a.jsonl")] == ["c[1].jsonl", "a.jsonl"]


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """No file, no match, a directory, a wrong word: each says so before anything is read."""
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
    assert journal is not None
    assert journal is Journal.from_env()
    assert journal.path == tmp_path / "j.jsonl"
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path))
    assert Journal.from_env() is None
    assert Journal.from_env() is None
    assert len(caplog.records) == 1
    assert "CASCADE_JOURNAL" in caplog.text


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda j: pickle.loads(pickle.dumps(j))])  # noqa: S301
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


@pytest.mark.parametrize("zipped", [False, True])
def test_strict_reading_refuses_what_is_cut_off(tmp_path, zipped):
    """An unfinished last line, or a compressed file without its end, is an error with file, line and mend."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for i in range(3):
            journal.label(str(i), source="person", right=True)
    whole = path.read_bytes()
    assert len(list(read_labels(path, on_error="strict"))) == 3
    path.write_bytes(gzip.compress(whole)[:-20] if zipped else whole[:-5])
    with pytest.raises(RecordError, match=r"j\.jsonl:\d+: the (last line is unfinished|compressed file is cut off)"):
        list(read_labels(path, on_error="strict"))


def test_impossible_labels_are_refused_where_that_is_asked_for(tmp_path):
    """`checked_label` makes a label that cannot be a fault of its line; without it every label is read."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append_label(Label(step_id="1", source="person", right=True, harm=True))
    assert len(list(read_labels(path))) == 1
    with pytest.raises(RecordError, match=r"j\.jsonl:1: label of step '1' says right and harm at once"):
        list(read_labels(path, check=checked_label))
    assert not list(read_labels(path, on_error="skip", check=checked_label))
