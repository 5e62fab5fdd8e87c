"""Parquet journals: the same records, in a file that other tools read too."""

import json

import pytest

from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.reader import read, read_labels, to_parquet
from tests.builders import written
from tests.journals import world


@pytest.fixture
def journal(tmp_path):
    """A journal of steps and labels."""
    steps, labels, _ = world(10, shadow=0.5)
    return written(tmp_path / "a.jsonl", steps, labels)


def test_there_and_back(journal, tmp_path):
    """Steps and labels come back as they were, and the columns next to them say what is asked for most."""
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "a.parquet"
    count = to_parquet(journal, out=out)
    assert list(read(out)) == list(read(journal))
    assert list(read_labels(out)) == list(read_labels(journal))
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == count == len(journal.read_bytes().splitlines())
    assert [json.loads(row["record"])["type"] for row in rows] == [row["type"] for row in rows]
    first = next(iter(read(journal)))
    assert (rows[0]["id"], rows[0]["thread_id"], rows[0]["cost"]) == (first.id, first.thread_id, first.cost)
    assert rows[-1]["id"] == list(read_labels(journal))[-1].step_id
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_many_records_go_through_in_batches(tmp_path):
    """More records than are held in memory at a time come back in their order."""
    pytest.importorskip("pyarrow")
    line = '{{"type":"label","step_id":"{}","source":"person","right":true}}\n'
    (tmp_path / "a.jsonl").write_text("".join(line.format(i) for i in range(10_500)))
    assert to_parquet(tmp_path / "a.jsonl", out=tmp_path / "a.parquet") == 10_500
    assert [label.step_id for label in read_labels(tmp_path / "a.parquet")] == [str(i) for i in range(10_500)]


def test_what_is_no_journal_is_refused(journal, tmp_path):
    """Another table, a torn file, a row that is no record: named with file and row."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(RecordError, match=r"other\.parquet: .*without a column 'record' \(it has x\).*to_parquet"):
        list(read(tmp_path / "other.parquet"))
    pq.write_table(pa.table({"record": ['{"id": 1}', "{"]}), tmp_path / "bad.parquet")
    with pytest.raises(RecordError, match=r"bad\.parquet:1: "):
        list(read(tmp_path / "bad.parquet"))
    pq.write_table(pa.table({"record": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(RecordError, match=r"numbers\.parquet:1: the record is int"):
        list(read(tmp_path / "numbers.parquet"))
    to_parquet(journal, out=tmp_path / "torn.parquet")
    whole = (tmp_path / "torn.parquet").read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match=r"torn\.parquet:1: cannot be read"):
        list(read(tmp_path / "torn.parquet"))


def test_a_journal_with_a_fault_is_not_written(journal, tmp_path):
    """A line that is no record stops the writing, and nothing half-done stays."""
    pytest.importorskip("pyarrow")
    with journal.open("ab") as file:
        file.write(b'{"type": "step"')
    with pytest.raises(RecordError, match=r"a\.jsonl:\d+: not a line of JSON"):
        to_parquet(journal, out=tmp_path / "out.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]
    with pytest.raises(RecordError, match="cannot be written"):
        to_parquet(tmp_path / "a.jsonl", out=tmp_path / "nowhere" / "out.parquet")


def test_without_pyarrow_it_says_what_to_install(journal, tmp_path, monkeypatch):
    """Where pyarrow is missing the error names the extra, and other journals are read as ever."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"langgraph-cascade\[parquet\]"):
        to_parquet(journal, out=tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1xxxx")
    with pytest.raises(ConfigurationError, match=r"langgraph-cascade\[parquet\]"):
        list(read(tmp_path / "b.parquet"))
    assert list(read(journal))
