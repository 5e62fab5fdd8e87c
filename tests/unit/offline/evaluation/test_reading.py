"""Journals read: from any kind of file, in one process or file by file on Dask, and refused where a line is no record."""

import gzip
from dataclasses import replace

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Label, SideCall, Verdict
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.reader import to_parquet
from cascade_agent.offline.evaluation import LabelStore, compare, load_dataset, replay
from cascade_agent.offline.evaluation.dataset import label_step
from tests.builders import recorded, written
from tests.journals import world

GRID = [0.2, 0.6]


def test_journals_are_read_from_any_kind_of_file(tmp_path):
    """Plain, gzip and Parquet files, by glob, with the labels in the same file or another, say the same."""
    steps, labels, _ = world(30, shadow=0.5)
    one = written(tmp_path / "all.jsonl", steps, labels)
    whole = compare(one, Policy(threshold=0.6), grid=GRID).to_json()
    (tmp_path / "parts").mkdir()
    written(tmp_path / "parts/a.jsonl", steps[:50])
    second = written(tmp_path / "b.jsonl", steps[50:], labels)
    (tmp_path / "parts/b.jsonl.gz").write_bytes(gzip.compress(second.read_bytes()))
    assert compare(tmp_path / "parts/*", Policy(threshold=0.6), grid=GRID).to_json() == whole
    lone = written(tmp_path / "labels.jsonl", [], labels)
    bare = written(tmp_path / "bare.jsonl", steps)
    assert compare([bare], Policy(threshold=0.6), grid=GRID, labels=[lone]).to_json() == whole
    pytest.importorskip("pyarrow")
    assert to_parquet(one, out=tmp_path / "all.parquet") == len(steps) + len(labels)
    assert compare(tmp_path / "all.parquet", Policy(threshold=0.6), grid=GRID).to_json() == whole


def test_copies_are_counted_once(tmp_path):
    """A file named twice, or beside its own compressed copy, is read once, and the copy is named."""
    steps, labels, _ = world(5, shadow=0.5)
    one = written(tmp_path / "a.jsonl", steps, labels)
    again = written(tmp_path / "b.jsonl", steps, labels)
    found = compare([one, one, again])
    assert found.steps == len(steps)
    assert found.copies == (str(again),)


def test_what_was_read_is_told(tmp_path):
    """Steps, unfinished ones, who labelled, contradictions, labels without a step, mixed currencies."""
    steps, labels, _ = world(10, shadow=1.0)
    steps = [*steps, replace(steps[0], id="cut", outcome="cancelled")]
    labels = [*labels, Label(step_id=labels[0].step_id, source="person", right=not labels[0].right)]
    labels.append(Label(step_id="nowhere", source="person", right=True))
    found = compare(written(tmp_path / "a.jsonl", steps, labels))
    assert (found.steps, found.unfinished, found.episodes, found.episodes_exact) == (41, 1, 10, True)
    assert (found.conflicts, found.orphans, found.currency) == (1, 1, "USD")
    assert found.labels["person"] == 1
    assert sum(found.labels.values()) == 40
    assert set(found.policies[0].by_step) == {"plan", "act"}
    assert set(found.policies[0].by_kind) == {"text"}
    assert sum(figures.steps for figures in found.policies[0].by_step.values()) == 40
    mixed = [replace(steps[1], id="eur", currency="EUR"), steps[0]]
    found = compare(written(tmp_path / "b.jsonl", mixed, []))
    assert found.currency is None
    assert "EUR, USD" in found.notes[0]
    assert found.policies[0].all.cost.low is None


def test_a_policy_of_other_validators_is_noted(tmp_path):
    """A calibrated policy says with which validators it was measured; those that never spoke here are named."""
    steps, labels, _ = world(5)
    policy = Policy(threshold=0.5, provenance={"validators": {"mine": ["mine"], "CrossCheck": ["agreement"], "Q": []}})
    (note,) = compare(written(tmp_path / "a.jsonl", steps, labels), policy).notes
    assert note.endswith(": CrossCheck")


STEP = '{"type":"step","id":"x","step":"s","outcome":"accepted","reason":"r","attempts":%s}\n'


def small_with(part):
    """A line of a step whose small attempt holds this."""
    return STEP % f'[{{"tier":"small",{part}}}]'


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (STEP[:40], "last line is unfinished"),
        (STEP[:40] + "\n", "not a line of JSON"),
        (STEP % '[],"schema":99', "upgrade"),
        ('{"type":"label","step_id":"x","source":"shadow","propensity":7}\n', "propensity"),
        ('{"type":"label","step_id":"x","source":"person","right":true,"schema":99}\n', "upgrade"),
        (STEP % '[],"confidence":2', "confidence of 2"),
        (STEP % '[],"kind":3', "StepTrace.kind is 3"),
        (STEP % "3", "expected a list"),
        (STEP % "[3]", "expected a JSON object"),
        (small_with('"cost":-1'), "cost of -1"),
        (small_with('"latency":"1"'), "Attempt.latency is '1'"),
        (small_with('"verdicts":5'), "Attempt.verdicts is 5"),
        (small_with('"verdicts":"text"'), "Attempt.verdicts is 'text'"),
        (small_with('"verdicts":[3]'), "expected a JSON object"),
        (small_with('"verdicts":[{"code":"x"}]'), "not a Verdict"),
        (small_with('"verdicts":[{"outcome":"pass","score":true}]'), "Verdict.score is True"),
        (small_with('"verdicts":[{"outcome":"maybe"}]'), "outcome is 'maybe'"),
    ],
)
def test_bad_lines_are_refused_by_file_and_line(tmp_path, line, complaint):
    """A line that cannot be counted stops every reader, names file, line and mend, and the journal stays as it was."""
    steps, labels, _ = world(2)
    scored = replace(steps[0].attempts[0], verdicts=(Verdict(outcome="pass", score=1.0),))  # 1.0 is no true
    path = written(tmp_path / "a.jsonl", [*steps, replace(steps[0], id="one", attempts=(scored,))], labels)
    number = len(path.read_bytes().splitlines()) + 1
    path.write_bytes(path.read_bytes() + line.encode())
    before = path.read_bytes()
    for read in (compare, load_dataset):
        with pytest.raises(RecordError, match=f"a.jsonl:{number}: .*{complaint}"):
            read(path, on_error="strict")
    assert path.read_bytes() == before
    if line.endswith("\n"):
        assert compare(path, on_error="skip").steps == len(steps) + 1


def test_empty_journals_are_refused(tmp_path):
    """No file, no step, no finished step: each is said."""
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(RecordError, match=r"empty\.jsonl: the journal holds no step yet"):
        compare(tmp_path / "empty.jsonl")
    with pytest.raises(RecordError, match="no journal matches"):
        compare(tmp_path / "none*.jsonl")
    cut = replace(world(1)[0][0], outcome="interrupted")
    with pytest.raises(RecordError, match="1 steps, none of them finished"):
        compare(written(tmp_path / "cut.jsonl", [cut], []))


def test_labels_outgrow_memory_into_a_file_of_their_own():
    """The store gives each step its labels in their order, each once, without answers, and knows its number of steps."""
    many = [Label(step_id=f"s{i % 500}", source="person", right=bool(i % 2), note="secret") for i in range(2000)]
    spend = SideCall(name="large", cost=0.5)
    shadow = Label(step_id="1", source="shadow", side_call=spend, propensity=0.5, answer={"text": "x"})
    with LabelStore([*many, shadow]) as store:
        assert store.steps == 501
        assert [(label.right, label.note) for label in store.of_step("s3")] == [(True, "secret")]
        assert store.of_step("nobody") == []
        assert store.of_step("1") == [replace(shadow, answer=None)]


@pytest.mark.parametrize(
    ("code", "score", "origin"), [("schema", None, "shipped"), ("new", 0.9, "shipped"), ("mine", 0.2, "user")]
)
def test_who_found_something_is_read(tmp_path, code, score, origin):
    """A code that no scorer weighs is no claim of the user's where a shipped validator found it: `compare` is `replay`."""
    verdict = Verdict(outcome="pass", code=code, score=score, validator="V", origin=origin)
    small = Attempt(tier="small", outcome="accepted", verdicts=(verdict,), answer={"text": "a"})
    step, policy = recorded("1", small), Policy(threshold=0.5)
    escalated = compare(written(tmp_path / "j.jsonl", [step]), policy, resamples=0).policies[0].all.escalation.value
    assert escalated == float(replay(step, policy).escalated)


def test_costs_may_be_whole_numbers():
    """A cost of 1 is a cost of 1.0, and a time of 2 one of 2.0."""
    found = [label_step(recorded("1", Attempt(tier="small", cost=a, latency=b))).facts for a, b in ((1, 2), (1.0, 2.0))]
    assert found[0] == found[1]
    assert (found[0].small, found[0].small_time) == (10**12, 2.0)


@pytest.fixture
def files(tmp_path):
    """Nine journals of one agent; the labels stand in the last one and in a file of their own."""
    pytest.importorskip("dask")
    steps, labels, _ = world(90, shadow=0.5)
    for number in range(9):
        written(tmp_path / f"j{number}.jsonl", steps[number::9], labels[:50] if number == 8 else ())
    written(tmp_path / "labels.jsonl", [], labels[50:])
    return tmp_path


def both(files, dask):
    """Return what is logged in one process, and in tasks."""
    given = {"grid": [0.4, 0.8], "labels": [files / "labels.jsonl"], "resamples": 20, "on_error": "strict"}
    return [compare(files / "j*.jsonl", Policy(threshold=0.6), **given, dask=how).to_json() for how in (dask, None)]


@pytest.mark.parametrize(
    "dask",
    [{"scheduler": "sync"}, pytest.param({"scheduler": "processes", "num_workers": 2}, marks=pytest.mark.slow)],
)
def test_tasks_give_the_same_answer(files, dask):
    """Every file a task, merged as a tree, in processes that share nothing but the files: identical to one process."""
    tasks, one = both(files, dask)
    assert tasks == one
    with (files / "j3.jsonl").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(RecordError, match=r"j3\.jsonl:\d+: "):
        both(files, dask)


def test_without_dask_it_says_what_to_install(tmp_path, monkeypatch):
    """Where dask is missing the error names the extra."""
    path = written(tmp_path / "j.jsonl", world(1)[0][:1])
    monkeypatch.setitem(__import__("sys").modules, "dask", None)
    with pytest.raises(ConfigurationError, match=r"langgraph-cascade\[dask\]"):
        compare(path, dask={})
