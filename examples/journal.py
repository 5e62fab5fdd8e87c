"""Keep every step in a journal, and ask what another policy would have done, without asking a model again."""

import tempfile
from pathlib import Path

from cascade_agent import CascadeChatModel, Journal, Policy, Price, Tier, Verdict
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.testing import ScriptedChatModel

SCORES = {"a": 0.9, "b": 0.6, "c": 0.3}


def scored(draft, context):
    return Verdict(outcome="pass", code="sure", score=SCORES[draft.text])


with tempfile.TemporaryDirectory() as folder:
    journal = Journal(Path(folder) / "steps.jsonl")  # or set CASCADE_JOURNAL
    model = CascadeChatModel(
        small=Tier(ScriptedChatModel(["a", "b", "c"], usage=(100, 10)), price=Price(0.15, 0.60)),
        large=Tier(ScriptedChatModel(["A", "B", "C"], usage=(100, 10)), price=Price(2.50, 10.00)),
        validators=[scored],
        policy=Policy(threshold=0.95),  # escalates everything, so both answers are on record
        journal=journal,
    )
    for question in ("1", "2", "3"):
        model.invoke(question)
    for threshold in (0.2, 0.5, 0.8):
        steps = [replay(trace, Policy(threshold=threshold)) for trace in journal]
        cost = sum(step.cost for step in steps)
        print(f"threshold {threshold}: {sum(s.escalated for s in steps)} of {len(steps)} escalate, ${cost:.6f}")
