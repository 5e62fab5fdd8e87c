"""Features are verdict codes and scores alone: whatever else a journal knows may be shuffled without moving one."""

import random
from dataclasses import replace

import pytest

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Label
from cascade_agent.offline.calibration.calibrate import draw, examples_of, replayed_confidence
from cascade_agent.offline.evaluation import load_dataset
from cascade_agent.validators import shipped_scorer
from tests.builders import written
from tests.journals import called, graded

POLICY = Policy(evidence=(0.0, 1.0))
LARGE = Attempt(tier="large", outcome="accepted", answer={"text": "something else", "tool_calls": []})


def steps(seed=0):
    """Steps that small answered, each with a finding of a second model that was asked."""
    rng = random.Random(seed)
    for i in range(24):
        scores = {"argument_grounded": "Grounding", "tool_match": "ToolRelevance", "agreement": "CrossCheck"}
        trace = called(f"{i:02d}", [graded(code, rng.random(), name) for code, name in scores.items()])
        yield replace(trace, attempts=(replace(trace.attempts[0], gathered=("CrossCheck",)),))


def features(path, some, right=lambda i: i % 4 == 0):
    """Features of each draft, the confidence that the policy would give it, and what a fit learns from."""
    some = list(some)
    labels = [Label(step_id=step.id, source="person", right=right(i)) for i, step in enumerate(some)]
    joined, scorer = load_dataset(written(path, some, labels)), shipped_scorer()
    shown = [scorer.read(example.verdicts) for example in examples_of(joined.steps, draw(joined, POLICY))]
    read = [scorer.read(case.small.verdicts) for case in joined.steps]
    return read, [replayed_confidence(case, POLICY) for case in joined.steps], shown


@pytest.mark.parametrize(
    "other",
    [
        lambda step: replace(step, attempts=(*step.attempts, LARGE), outcome="escalated", final=1),
        lambda step: replace(step, id=f"other {step.id}", step="another", reason="other"),
        lambda step: replace(step, thread_id="one", run_id="one"),
        lambda step: replace(step, attempts=(replace(step.attempts[0], answer={"text": "other", "tool_calls": []}),)),
    ],
    ids=["large", "names", "threads", "answer"],
)
def test_no_feature_looks_at_anything_else(tmp_path, other):
    """Labels, step names and ids, threads, answers, and what another tier said leave every number alone; scores do not."""
    read, confidence, shown = plain = features(tmp_path / "plain.jsonl", steps())
    assert features(tmp_path / "j.jsonl", map(other, steps()), right=lambda i: i % 3 == 0) == plain
    assert features(tmp_path / "moved.jsonl", steps(seed=1)) != plain
    assert len(read) == len(shown) == len(set(confidence)) == 24
    assert all("agreement" in scores for scores in read)
