"""The sweep on an engine is the sweep, file by file."""

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.evaluation import compare
from tests.journals import world


@pytest.fixture
def files(tmp_path):
    """Nine journals of one agent; the labels stand in the last one and in a file of their own."""
    pytest.importorskip("dask")
    steps, labels, _ = world(90, shadow=0.5)
    for number in range(9):
        with Journal(tmp_path / f"j{number}.jsonl") as journal:
            for step in steps[number::9]:
                journal.append(step)
            for label in labels[:50] if number == 8 else ():
                journal.append_label(label)
    with Journal(tmp_path / "labels.jsonl") as journal:
        for label in labels[50:]:
            journal.append_label(label)
    return tmp_path


def asked(files, **more):
    """What is asked of both."""
    how = {"grid": [0.4, 0.8], "labels": [files / "labels.jsonl"], "resamples": 20, **more}
    return (files / "j*.jsonl", Policy(threshold=0.6)), how


def test_tasks_give_the_same_answer(files):
    """Every file a task, merged as a tree: identical to one process, labels of other files included."""
    args, how = asked(files)
    assert compare(*args, **how, dask={"scheduler": "sync"}).to_json() == compare(*args, **how).to_json()


@pytest.mark.slow
def test_two_workers_give_the_same_answer(files):
    """Two processes, which share nothing but the files, give the identical answer."""
    args, how = asked(files)
    found = compare(*args, **how, dask={"scheduler": "processes", "num_workers": 2})
    assert found.to_json() == compare(*args, **how).to_json()


def test_errors_come_through(files):
    """A line that is no record is told from a task with file and line."""
    with (files / "j3.jsonl").open("ab") as file:
        file.write(b"{}\n")
    args, how = asked(files, on_error="strict")
    with pytest.raises(RecordError, match=r"j3\.jsonl:\d+: "):
        compare(*args, **how, dask={"scheduler": "sync"})


def test_without_dask_it_says_what_to_install(tmp_path, monkeypatch):
    """Where dask is missing the error names the extra."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append(world(1)[0][0])
    monkeypatch.setitem(__import__("sys").modules, "dask", None)
    with pytest.raises(ConfigurationError, match=r"langgraph-cascade\[dask\]"):
        compare(path, dask={})
