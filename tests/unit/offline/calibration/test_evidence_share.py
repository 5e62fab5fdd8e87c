"""The second model as a share of the steps: from the journal of an agent to a policy file and a running agent again."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from cascade_agent import CascadeChatModel, Policy, Tier, default_validators
from cascade_agent.core.records import Label
from cascade_agent.core.scoring import EvidenceShare
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.calibration import calibrate, load_policy
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import CrossCheck
from tests.builders import call, command, written

pytestmark = pytest.mark.xdist_group("evidence_share")  # what these share is made once

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 140
SHARE = 0.3


def book(city: str, nights: int) -> str:
    """Book a room."""
    return f"{city}, {nights}"


def run(
    policy: Policy, journal: Journal | None = None, *, steps: int = STEPS, seed: int = 0
) -> list[tuple[bool, bool]]:
    """Return (invented, asked) of steps in 30 % of which the small model invents a city; the second model does not."""
    rng, found = random.Random(seed), []
    for i in range(steps):
        city, invented = rng.choice(["Lyon", "Nice", "Metz", "Brest"]), rng.random() < SHARE
        good = call("book", city=city, nights=3)
        second = ScriptedChatModel([good])
        model = CascadeChatModel(
            small=Tier(ScriptedChatModel([call("book", city="Oslo", nights=3) if invented else good])),
            large=Tier(ScriptedChatModel([good])),
            validators=[*default_validators(), CrossCheck(Tier(second))],
            policy=policy,
            journal=journal,
        ).bind_tools([book])
        model.invoke(f"Book a room in {city} for 3 nights.", {"configurable": {"thread_id": f"{seed}.{i}"}})
        found.append((invented, bool(second.calls)))
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal of steps in each of which the second model was asked."""
    path = tmp_path_factory.mktemp("share") / "steps.jsonl"
    with Journal(path) as journal:
        assert sum(asked for _, asked in run(Policy(evidence=(0.0, 1.0), skip_small=False), journal)) == STEPS
    return path


def cli(*args: object, code: int = 0) -> str:
    """Run `calibrate`; its output."""
    return " ".join(command("calibrate", *args, code=code).output.split())


def test_a_running_agent_asks_the_share_that_was_learned(tmp_path: Path, recorded: Path) -> None:
    """No label is needed; of new steps it asks about as many as the setting says, those that the second contests."""
    out = tmp_path / "policy.json"
    assert f"asked about {SHARE:.1%} of the steps" in cli(recorded, "--evidence-share", SHARE, "--out", out)
    policy = load_policy(out)
    assert isinstance(policy.evidence, EvidenceShare)
    assert policy.threshold is None
    found = run(policy, steps=80, seed=1)
    assert SHARE - 0.12 < sum(asked for _, asked in found) / len(found) < SHARE + 0.12
    assert sum(asked == invented for invented, asked in found) > 0.9 * len(found)


def test_a_threshold_is_certified_where_the_share_was_not_learned(tmp_path: Path, recorded: Path) -> None:
    """In one call or one after the other: the threshold rests on the other half of the steps."""
    labels = tmp_path / "labels.jsonl"
    steps = [json.loads(line) for line in recorded.read_text("utf-8").splitlines()]
    written(labels, (), [Label(step_id=s["id"], source="person", right=s["final_tier"] == "small") for s in steps])
    once = calibrate([recorded, labels], max_loss=0.3, evidence_share=0.3, scorer="rules")
    assert isinstance(once.policy, Policy)
    assert isinstance(once.policy.evidence, EvidenceShare)
    again = calibrate([recorded, labels], max_loss=0.3, policy=Policy(evidence=once.policy.evidence), scorer="rules")
    plain = calibrate([recorded, labels], max_loss=0.3, scorer="rules")
    assert once.certificate == again.certificate
    assert once.certificate.n < 0.65 * plain.certificate.n
    out = tmp_path / "policy.json"
    given = ("--labels", labels, "--evidence-share", 0.3, "--max-loss", 0.3, "--out", out)
    assert "Evidence: asked about 30.0%" in cli(recorded, *given)
    assert load_policy(out).evidence == once.policy.evidence


@pytest.mark.parametrize(
    ("args", "complaint"),
    [((), "give --max-loss, --evidence-share, or both"), (("--evidence-share", "1.5"), "share is 1.5")],
)
def test_a_call_that_asks_for_nothing_is_refused(recorded: Path, args: tuple[str, ...], complaint: str) -> None:
    """It says what to give."""
    assert complaint in cli(recorded, *args, code=2)
