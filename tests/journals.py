"""Journals to replay: random steps for Hypothesis, and a small world whose truth is known."""

import random
from dataclasses import replace

from hypothesis import strategies as st

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Decision, DecisionInputs, Label, SideCall, StepTrace, Verdict
from cascade_agent.offline.evaluation import LabelledStep, Outcome
from tests.builders import recorded

CODES = ["tool_match", "argument_grounded", "date_invented"]
scores = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
costs = st.none() | st.sampled_from([0.0, 0.001, 0.01, 0.1])
times = st.none() | st.sampled_from([0.0, 0.2, 1.0, 5.0])
scored = st.builds(
    lambda code, score: Verdict(outcome="pass", code=code, score=score, validator="Grounding"),
    st.sampled_from(CODES),
    scores,
)
own = st.builds(lambda score: Verdict(outcome="pass", code="mine", score=score, validator="mine"), scores)
fails = st.sampled_from(
    [
        Verdict(outcome="fail", code="bad", validator="ToolCallSchema"),
        Verdict(outcome="fail", code="odd", score=0.2, validator="Grounding"),
        Verdict(outcome="fail", code="odd", score=0.2, validator="mine"),
        Verdict(outcome="abstain", code="validator_error", validator="mine"),
    ]
)
verdicts = st.lists(st.one_of(scored, scored, scored, own, own, fails), max_size=4).map(tuple)
effects = st.sampled_from([None, None, "read", "write", "irreversible"])
EVIDENCE = ("CrossCheck", "Judge")


FAILED = ("error", "timeout", "skipped")


@st.composite
def drafts(draw, tier, outcomes=("accepted", "rejected", "rejected", "error", "timeout")):
    """An attempt of a tier."""
    outcome = draw(st.sampled_from(outcomes))
    failed = outcome in FAILED
    return Attempt(
        tier=tier,
        outcome=outcome,
        verdicts=() if failed and outcome != "skipped" else draw(verdicts),
        error="E: x" if outcome in ("error", "timeout") else None,
        retry_after=draw(st.sampled_from([None, None, 1.0])) if outcome == "error" else None,
        confidence=None if failed else draw(st.none() | scores),
        cost=draw(costs),
        latency=draw(times),
        effect=draw(effects),
        answer=None if failed else {"text": draw(st.sampled_from(["1", "2", "a b"])), "tool_calls": []},
    )


numbers = st.none() | st.sampled_from([0.0, 0.01, 0.5, 2.0, 100.0])
MEASURES = "small_cost large_cost small_latency large_latency time_left money_left"
inputs_seen = st.builds(
    DecisionInputs,
    kind=st.sampled_from([None, "call", "text"]),
    escalation=st.none() | scores,
    broken=st.none() | scores,
    stays_on_large=st.booleans(),
    probe=st.booleans(),
    retry=st.booleans(),
    **dict.fromkeys(MEASURES.split(), numbers),
)


@st.composite
def traces(draw, number=None):
    """A recorded step: any draft, evidence that could be asked or was, large asked or not, more than once, a human."""
    askable = draw(st.sampled_from([(), EVIDENCE[:1], EVIDENCE, EVIDENCE[::-1]]))
    small = draw(drafts("small", ("accepted", "rejected", "rejected", *FAILED)))
    gathered = () if small.outcome in FAILED else askable[: draw(st.integers(0, len(askable)))]
    codes = zip(gathered, ("agreement", "judged_right"), strict=False)
    reply = tuple(Verdict(outcome="pass", code=code, score=draw(scores), validator=name) for name, code in codes)
    small = replace(small, verdicts=small.verdicts + reply, gathered=gathered)
    human = [Attempt(tier="human", outcome="accepted", cost=0.0)] if draw(st.integers(0, 9)) == 0 else []
    attempts = (small, *draw(st.lists(drafts("large"), max_size=2)), *human)
    ends = ["escalated"] if len(attempts) > 1 else ["accepted"] * 4 + ["exhausted"]
    return StepTrace(
        id=f"s{number if number is not None else draw(st.integers(0, 10**9))}",
        step=draw(st.sampled_from(["plan", "act"])),
        kind=draw(st.sampled_from(["call", "text"])),
        outcome="cancelled" if draw(st.integers(0, 19)) == 0 else draw(st.sampled_from(ends)),
        reason="r",
        attempts=attempts,
        evidence=tuple(SideCall(name=name, cost=draw(costs), latency=draw(times)) for name in gathered),
        askable=askable,
        inputs_seen=tuple(draw(st.lists(inputs_seen, max_size=3))),
        decisions=draw(st.sampled_from([(), (Decision(action="ask_small", reason="draft", hedge=0.3),)])),
        final=draw(st.none() | st.integers(0, len(attempts) - 1)),
        cost=draw(costs),
        latency=draw(times),
        thread_id=draw(st.sampled_from([None, "t1", "t2", "t3"])),
    )


def shadowed(step_id, right, propensity, side_call):
    """The label of a step that was shadowed."""
    harm = None if right is None else not right
    known = {"right": right, "harm": harm, "propensity": propensity, "side_call": side_call}
    return Label(step_id=step_id, source="shadow", **known)


@st.composite
def labels_of(draw, trace):
    """Labels that such a step may have."""
    found = []
    if draw(st.booleans()):
        found.append(Label(step_id=trace.id, source="person", right=draw(st.none() | st.booleans())))
    if not trace.escalated and draw(st.booleans()):
        spend = draw(st.none() | st.builds(SideCall, name=st.just("large"), cost=costs, latency=times))
        propensity = draw(st.sampled_from([None, 0.1, 0.3, 1.0]))
        found.append(shadowed(trace.id, draw(st.none() | st.booleans()), propensity, spend))
    return found


kinds = st.sampled_from(["call", "text", "write", "irreversible", "default"])
policies = st.builds(
    Policy,
    threshold=st.none() | scores | st.dictionaries(kinds, scores, max_size=3),
    evidence=st.sampled_from([(0.0, 1.0), (0.3, 0.89), (0.6, 0.7), (0.0, 0.0)]),
    on_exhausted=st.sampled_from(["pass", "return", "raise", "interrupt"]),
    on_broken=st.sampled_from(["escalate", "accept"]),
    stay_on_large=st.sampled_from(["step", "turn"]),
    skip_small=st.booleans(),
    hedge_after=st.sampled_from([None, None, 0.1, 0.5]),
    shadow_rate=st.sampled_from([0.0, 0.0, 0.1]),
)


def graded(code, score, validator="Grounding"):
    """A graded finding."""
    return Verdict(outcome="pass", code=code, score=score, validator=validator)


def called(step_id, verdicts, *, value=1, large=None, tool="f", **fields):
    """A step whose small draft calls a tool with `value`; with `large` it escalated, and large called it with that."""
    answers = [{"text": "", "tool_calls": [{"name": tool, "args": {"v": v}, "id": "c"}]} for v in (value, large)]
    outcomes = ("accepted",) if large is None else ("rejected", "accepted")
    small, *rest = (
        Attempt(tier=tier, model=tier[0], outcome=outcome, answer=answer)
        for tier, outcome, answer in zip(("small", "large"), outcomes, answers, strict=False)
    )
    return recorded(str(step_id), replace(small, verdicts=tuple(verdicts)), *rest, **{"kind": "call", **fields})


def labelled(step_id, verdicts=(), *, kind="call", answered=True, drafted=True, gathered=(), labels=(), **outcome):
    """A step as calibration holds it: what was found about its draft, and what is known of it."""
    ended = "skipped" if not drafted else "accepted" if answered else "rejected"
    small = Attempt(tier="small", outcome=ended, verdicts=tuple(verdicts), gathered=gathered)
    attempts = (small,) if answered else (small, Attempt(tier="large", outcome="accepted"))
    trace = recorded(step_id, *attempts, step="s", kind=kind, outcome="accepted")
    return LabelledStep(trace=trace, labels=tuple(labels), outcome=Outcome(**outcome))


def world(episodes, steps=4, *, seed=0, shadow=1.0, threshold=0.6):
    """(traces, labels, truth) of a made-up agent: what was recorded under a threshold, and (confidence, small right) of all.

    Small is right with the probability that its confidence says, large always is and costs ten times as much. An
    episode has a mood of its own, so its steps depend on each other. Steps that small answered are shadowed with
    probability `shadow`.
    """
    chance = random.Random(seed)
    found, labels, truth = [], [], []
    for episode in range(episodes):
        mood = chance.choice([-0.2, 0.0, 0.2])
        for number in range(steps):
            p = round(chance.random(), 2)
            right = chance.random() < min(1.0, max(0.0, p + mood))
            step_id = f"{seed}-{episode}-{number}"
            large_cost, name = chance.choice([0.01, 0.02]), chance.choice(["plan", "act"])
            small, large = (
                Attempt(
                    tier=tier, outcome="accepted", cost=cost, latency=latency, answer={"text": text, "tool_calls": []}
                )
                for tier, cost, latency, text in (
                    ("small", 0.001, 0.5, "1" if right else "2"),
                    ("large", large_cost, 2.0, "1"),
                )
            )
            verdicts = (Verdict(outcome="pass", code="mine", score=p, validator="mine"),)
            small = replace(small, verdicts=verdicts, confidence=p)
            attempts = (small,) if p >= threshold else (replace(small, outcome="rejected"), large)
            facts = {"kind": "text", "latency": sum(a.latency for a in attempts), "thread_id": f"{seed}-{episode}"}
            found.append(recorded(step_id, *attempts, step=name, cost=sum(a.cost for a in attempts), **facts))
            truth.append((p, right, large_cost))
            if p >= threshold and chance.random() < shadow:
                spend = SideCall(name="large", cost=large_cost, latency=2.0)
                labels.append(shadowed(step_id, right, shadow, spend))
    return found, labels, truth
