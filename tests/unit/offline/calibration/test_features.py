"""Features are verdict codes and scores alone: whatever else a journal knows may be shuffled without moving one."""

import random
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel, Journal
from cascade_agent.core.policy import Policy
from cascade_agent.offline.calibration.sample import draw, examples_of, replayed_confidence
from cascade_agent.offline.evaluation import load_dataset
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import default_validators, shipped_scorer
from cascade_agent.validators.cross_check import CrossCheck

CITIES = ("Rome", "Oslo", "Bern", "Turin", "Porto", "Lima", "Cairo", "Kyiv", "Delhi", "Quito", "Perth", "Lagos")
POLICY = Policy(threshold=0.0, evidence=(0.0, 1.0), latency_budget=None)


@tool
def show_weather(city: str, days: int = 1) -> str:
    """Show the weather of a city."""
    return city


@tool
def book_room(city: str, guests: int) -> str:
    """Book a room in a city for some guests."""
    return city


def said(city, name="show_weather", **args):
    """An answer that calls a tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": {"city": city, **args}, "id": "1"}])


def drafts(rng):
    """For each request a small draft: right, of another city, of another tool, or with a number that nobody said."""
    for i, city in enumerate(CITIES * 2):
        other = rng.choice(CITIES)
        yield [said(city), said(other), said(city, "book_room", guests=2), said(city, days=7)][i % 4]


def record(path, *, large=0, names=0, threads=0, labels=0):
    """A journal of steps that small answered. Each number shuffles one thing that is no feature."""
    cities = list(CITIES * 2)
    random.Random(large).shuffle(cities)
    steps = [f"kind-{i % 3}" for i in range(len(cities))]
    random.Random(names).shuffle(steps)
    with Journal(path) as journal:
        for i, (city, draft) in enumerate(zip(CITIES * 2, drafts(random.Random(0)), strict=True)):
            model = CascadeChatModel(
                small=ScriptedChatModel([draft]),
                large=ScriptedChatModel([said(cities[i])]),
                validators=[*default_validators(), CrossCheck(ScriptedChatModel([said(city)]))],
                policy=POLICY,
                journal=journal,
                name=steps[i],
            )
            config = {"configurable": {"thread_id": f"{threads}-{i // (1 + threads)}"}}
            model.bind_tools([show_weather, book_room]).invoke(f"Show the weather of {city}, please", config)
    truth = [i % 4 == 0 for i in range(len(cities))]
    random.Random(labels).shuffle(truth)
    again = path.with_name(f"named-{path.name}")
    with Journal(again) as journal:
        for i, (trace, right) in enumerate(zip(Journal(path), truth, strict=True)):
            named = f"{names}-{i:03d}"
            journal.append(replace(trace, id=named))
            journal.label(named, source="person", right=right, harm=not right, note=f"said {labels}")
    return again


def features(path):
    """What is read of each draft, the confidence that the policy would give it, and what a fit is shown."""
    joined = load_dataset(path)
    cases = sorted(joined.steps, key=lambda case: int(case.id.partition("-")[2]))
    scorer = shipped_scorer()
    read = [scorer.read(case.small.verdicts) for case in cases]
    shown = [scorer.read(example.verdicts) for example in examples_of(cases, draw(joined, POLICY))]
    return read, [replayed_confidence(case, POLICY) for case in cases], shown


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The features of the journal as it is."""
    return features(record(tmp_path_factory.mktemp("plain") / "j.jsonl"))


@pytest.mark.parametrize("shuffled", ["large", "names", "threads", "labels"])
def test_no_feature_looks_at_label_id_name_or_large(plain, tmp_path, shuffled):
    """Shuffled labels, renamed steps and ids, other threads, and another tier's other answers leave every number alone."""
    assert features(record(tmp_path / "j.jsonl", **{shuffled: 7})) == plain


def test_the_features_are_not_all_alike(plain):
    """The drafts differ, and so does what is read of them, the cross-check's finding included."""
    read, confidence, shown = plain
    assert len(read) == len(shown) == 24
    assert len({round(p, 6) for p in confidence if p is not None}) > 3
    assert any("agreement" in scores for scores in read)
    assert any("argument_grounded" in scores for scores in read)


def test_another_small_draft_moves_them(plain, tmp_path, monkeypatch):
    """The proof can fail: with other drafts of the small model the features are others."""
    monkeypatch.setitem(globals(), "drafts", lambda rng: [said(city, days=9) for city in CITIES * 2])
    assert features(record(tmp_path / "j.jsonl")) != plain
