"""Kinds of drafts, thresholds chosen together, and evidence as a share of the steps."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade_agent.core.decide import decide, threshold_for
from cascade_agent.core.kinds import KEYS, KINDS, keys_of, kind_of
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, DecisionInputs, StepContext, Verdict
from cascade_agent.core.scoring import LOOP, EvidenceShare, Scorer
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.offline.calibration import Certificate, Claim, Example, Unit, fit, learn_disagreement
from cascade_agent.offline.calibration.fit import Asked, learn_share
from cascade_agent.offline.calibration.kinds import along, entry_at, path_by_kind, together
from cascade_agent.offline.evaluation.dataset import split_hash
from cascade_agent.validators import shipped_scorer
from tests.builders import recorded, trials, written
from tests.journals import graded

HARM = {"one_call": 0.4, "text": 0.02}


def units(n, seed):
    """Return units of two kinds; at the same confidence a text is far more often right."""
    rng, out = random.Random(seed), []
    for i in range(n):
        kind, p = ("one_call", "text")[i % 2], rng.random()
        harm = rng.random() < HARM[kind] * (1 - p)
        out.append(Unit(episode=str(i), step_id=str(i), confidence=p, harm=harm, kind=kind))
    return out


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"calls": 0, "tools": 3}, "text"),
        ({"calls": 1, "tools": 3}, "one_call"),
        ({"calls": 1, "tools": 1}, "one_call.one_tool"),
        ({"calls": 2, "tools": 1, "loop": True}, "loop.calls.one_tool"),
        ({"calls": 0, "tools": 0, "structured": True, "loop": True}, "loop.structured"),
    ],
)
def test_a_kind_says_calls_tools_and_loop(asked, kind):
    """Every kind has a readable name, which a policy takes as a key."""
    assert kind_of(**asked) == kind
    assert kind in KINDS
    assert Policy(threshold={kind: 0.5}).thresholds == {kind: 0.5}


def test_the_most_specific_key_counts_then_the_effect():
    """A coarser key stands in for a finer one, `default` for none, and the effect's only raises it."""
    assert keys_of("loop.calls.one_tool") == (
        *("loop.calls.one_tool", "loop.calls", "loop.call", "loop"),
        *("calls.one_tool", "calls", "call"),
    )
    policy = Policy(threshold={"call": 0.4, "loop": 0.6, "loop.calls": 0.7, "write": 0.65, "default": 0.1})
    attempt = Attempt(tier="small", outcome="rejected")
    write = replace(attempt, effect="write")
    kinds = ("one_call", "loop.one_call", "loop.calls.one_tool", "text", None)
    assert [threshold_for(policy, attempt, kind) for kind in kinds] == [0.4, 0.6, 0.7, 0.1, 0.1]
    assert [threshold_for(policy, write, kind) for kind in kinds] == [0.65, 0.65, 0.7, 0.65, 0.65]
    with pytest.raises(ConfigurationError, match="threshold"):
        Policy(threshold={"loop.many": 0.5})
    assert {*KINDS} < {*KEYS}


def test_a_loop_begins_where_the_assistant_has_spoken():
    """A first request is none; a later step of its turn and a later turn are."""
    first, asked = HumanMessage("a"), AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    called = [first, asked, ToolMessage("x", tool_call_id="1")]
    later = [first, AIMessage("b"), HumanMessage("c")]
    found = [StepContext(messages=m).in_loop for m in ([first], called, later, [AIMessage("hello"), first])]
    assert found == [False, True, True, False]


def test_kinds_give_up_escalations_at_one_price_of_a_loss():
    """The path only falls, the kind that is more often right is let through sooner, and places read back."""
    some = units(2000, 0)
    path = path_by_kind(some)
    for before, after in pairwise(path):
        assert all(after[kind] <= before[kind] for kind in before)
    middle = path[len(path) // 2]
    assert middle["text"] < middle["one_call"]
    for i, entry in enumerate(path):
        level = 1.0 - i / len(path)
        assert entry_at(path, level) == entry
        accepted = {u.step_id for u in along(path, some) if u.confidence is not None and u.confidence >= level}
        assert accepted == {u.step_id for u in some if u.confidence >= entry[u.kind]}


@trials(12, 40)
def test_together_escalates_less_than_one_threshold_and_keeps_the_bound(trials):
    """Chosen on some units, certified on others: fewer escalations, harm over the target in at most 1 - confidence."""
    claim, rate, saved = Claim(max_loss=0.03), [], []
    for seed in range(trials):
        learn, test = units(800, 2 * seed), units(1500, 2 * seed + 1)
        entries, one = together(learn, test, claim), claim.test(test)
        assert entries is not None
        assert isinstance(one, Certificate)
        thresholds = {kind: entries[kind].threshold for kind in HARM}
        rate.append(sum(HARM[k] * (1 - t) ** 2 / 2 for k, t in thresholds.items()) / 2 > 0.03)
        saved.append(one.escalated - sum(thresholds.values()) / 2)
        assert entries["loop.calls"].threshold == 1.0
    assert sum(saved) / len(saved) > 0.1
    assert sum(rate) <= 0.1 * trials + 2.7 * (0.09 * trials) ** 0.5  # at most a tenth is expected


def test_a_turn_is_a_unit_of_its_own():
    """Of each episode one turn is drawn; it is a loss if any of its steps is."""
    rows = [
        Unit(episode=f"e{i}", step_id=f"{i}.{t}.{s}", confidence=0.5, harm=s == 1, kind="", turn=f"t{t}")
        for i in range(50)
        for t in range(2)
        for s in range(2)
    ]
    found = {per: Claim(max_loss=0.5, per=per).test(rows) for per in ("step", "turn", "episode")}
    assert found["turn"].losses == found["episode"].losses == 50
    assert 10 < found["step"].losses < 40
    calm = [replace(u, harm=u.harm and u.turn == "t1") for u in rows]
    assert 10 < Claim(max_loss=0.9, per="turn").test(calm).losses < 40


def asked(n, seed=0):
    """Return steps in which the second model disagrees where a code is low."""
    rng, out = random.Random(seed), []
    for i in range(n):
        score = rng.random()
        found = replace(graded("argument_grounded", score), origin="shipped")
        out.append(Asked(verdicts=(found,), agreement=float(rng.random() < score), episode=str(i)))
    return out


def test_a_share_is_asked_where_the_second_model_disagrees(tmp_path):
    """Learned from 200 unlabelled steps; on others as many are asked, the contested ones, and plain JSON keeps it."""
    evidence = learn_share(asked(200), share=0.3)
    tested = asked(1000, seed=1)
    chosen = [step for step in tested if evidence.asks(step.verdicts)]
    rest = [step for step in tested if not evidence.asks(step.verdicts)]
    assert 0.2 < len(chosen) / 1000 < 0.4
    agree = [sum(s.agreement for s in some) / len(some) for some in (chosen, rest)]
    assert agree[0] < agree[1] - 0.3
    policy = Policy(evidence=evidence)
    assert Policy.from_json(policy.to_json()) == policy
    with pytest.raises(RecordError, match="49 steps, 50 are needed"):
        learn_share(asked(49), share=0.3)
    with pytest.raises(ConfigurationError, match="share is 1"):
        learn_share(asked(60), share=1)
    with pytest.raises(RecordError, match="EvidenceShare"):
        Policy.from_json({"evidence": {"share": 0.3}})


@pytest.mark.parametrize("confidence", [0.5, 0.95, None])
def test_the_scorer_does_not_move_the_share(confidence):
    """However sure a scorer is, the same drafts are asked about; one that goes up anyway is not."""
    evidence = EvidenceShare(share=0.5, agrees=Scorer(weights={"a": 4.0}, bias=2.0), below=0.5)
    for score, action in ((0.0, "ask_evidence"), (1.0, "accept")):
        found = (Verdict(outcome="pass", code="a", score=score),)
        attempt = Attempt(tier="small", outcome="rejected", verdicts=found, confidence=confidence)
        move = decide(Policy(evidence=evidence), (attempt,), evidence=("second",), inputs=DecisionInputs())
        assert move.action == action
        low = replace(attempt, confidence=0.1)
        assert decide(Policy(evidence=evidence), (low,), evidence=("second",)).action == "escalate"


def test_disagreement_is_read_from_a_journal(tmp_path):
    """The verdict of what was asked is the answer, those of the local validators are the question."""
    steps = []
    for i, step in enumerate(asked(160)):
        second = Verdict(outcome="abstain", code="agreement", score=step.agreement, validator="CrossCheck")
        small = Attempt(tier="small", verdicts=(*step.verdicts, second), gathered=("CrossCheck",))
        steps.append(recorded(str(i), small))
    learned = learn_disagreement(written(tmp_path / "j.jsonl", steps), share=0.3)
    half = [replace(s, episode=f"step:{i}") for i, s in enumerate(asked(160)) if split_hash(0, f"step:{i}") < 0.5]
    assert 50 <= len(half) <= 110
    expected = learn_share(half, share=0.3)
    assert learned == replace(expected, agrees=replace(expected.agrees, provenance=learned.agrees.provenance))
    assert learned.agrees.provenance["learned"] == [[0, 0.5]]


def test_presets_say_where_they_were_measured():
    """They are policies with a provenance; what is given counts over them."""
    steps, agents = Policy.for_steps(), Policy.for_agents(skip_small=False)
    assert (steps.threshold, steps.stay_on_large) == (0.7, "step")
    assert (agents.threshold, agents.stay_on_large, agents.skip_small) == (None, "turn", False)
    assert (Policy.for_agents(cautious=True).threshold, Policy.for_steps(threshold=0.8).threshold) == (0.85, 0.8)
    assert {steps.provenance["preset"], agents.provenance["preset"]} == {"for_steps", "for_agents"}
    assert Policy.from_json(agents.to_json()) == agents


def test_a_fit_keeps_the_share_of_a_weight_that_is_left_in_loops():
    """A code that hardly counts in loops hardly counts there after a fit on single steps either."""
    rules, rng = shipped_scorer(), random.Random(0)
    code = next(c for c in rules.in_loops if rules.weights[c] > 1.0)

    def example(i):
        score = rng.random()
        found = Verdict(outcome="pass", code=code, score=score, origin="shipped")
        return Example(verdicts=(found,), wrong=rng.random() > score, episode=str(i))

    fitted = fit([example(i) for i in range(300)]).scorer
    assert fitted.weights[code] != pytest.approx(rules.weights[code])
    for name, own in rules.in_loops.items():
        left = own / rules.weights[name]
        assert fitted.in_loops[name] == pytest.approx(fitted.weights[name] * left)
    low = Verdict(outcome="pass", code=code, score=0.0, origin="shipped")
    place = Verdict(outcome="pass", code=LOOP, score=1.0, origin="shipped")
    assert fitted.confidence((low, place)) > fitted.confidence((low,))
    assert Scorer.from_json(fitted.to_json()).in_loops == fitted.in_loops
