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
graded = st.builds(
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
verdicts = st.lists(st.one_of(graded, graded, graded, own, own, fails), max_size=4).map(tuple)
effects = st.sampled_from([None, None, "read", "write", "irreversible"])
EVIDENCE = ("CrossCheck", "Judge")


@st.composite
def drafts(draw, tier, outcomes=("accepted", "rejected", "rejected", "error", "timeout")):
    """An attempt of a tier."""
    outcome = draw(st.sampled_from(outcomes))
    failed = outcome in ("error", "timeout", "skipped")
    answer = {"text": draw(st.sampled_from(["1", "2", "a b"])), "tool_calls": []}
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
        answer=None if failed else answer,
    )


numbers = st.none() | st.sampled_from([0.0, 0.01, 0.5, 2.0, 100.0])
inputs_seen = st.none() | st.builds(
    DecisionInputs,
    kind=st.sampled_from([None, "call", "text"]),
    escalation=st.none() | scores,
    broken=st.none() | scores,
    small_cost=numbers,
    large_cost=numbers,
    small_latency=numbers,
    large_latency=numbers,
    time_left=numbers,
    money_left=st.none() | st.none() | numbers,
    stays_on_large=st.booleans(),
    probe=st.booleans(),
    retry=st.booleans(),
)


@st.composite
def traces(draw, number=None):
    """A recorded step: any draft, evidence that could be asked or was, large asked or not, more than once, a human."""
    askable = draw(st.sampled_from([(), EVIDENCE[:1], EVIDENCE, EVIDENCE[::-1]]))
    gathered = askable[: draw(st.integers(0, len(askable)))]
    small = draw(drafts("small", ("accepted", "rejected", "rejected", "error", "timeout", "skipped")))
    if small.outcome in ("error", "timeout", "skipped"):
        gathered = ()
    reply = tuple(
        Verdict(outcome="pass", code=code, score=draw(scores), validator=name)
        for name, code in zip(gathered, ("agreement", "judged_right"), strict=False)
    )
    small = replace(small, verdicts=small.verdicts + reply, gathered=gathered)
    larges = draw(st.lists(drafts("large"), max_size=2))
    human = [Attempt(tier="human", outcome="accepted", cost=0.0)] if draw(st.integers(0, 9)) == 0 else []
    attempts = (small, *larges, *human)
    unfinished = draw(st.integers(0, 19)) == 0
    escalated = len(attempts) > 1
    outcome = (
        "cancelled"
        if unfinished
        else "escalated"
        if escalated
        else draw(st.sampled_from(["accepted"] * 4 + ["exhausted"]))
    )
    step_id = f"s{number if number is not None else draw(st.integers(0, 10**9))}"
    return StepTrace(
        id=step_id,
        step=draw(st.sampled_from(["plan", "act"])),
        kind=draw(st.sampled_from(["call", "text"])),
        outcome=outcome,
        reason="r",
        attempts=attempts,
        evidence=tuple(SideCall(name=name, cost=draw(costs), latency=draw(times)) for name in gathered),
        askable=askable,
        inputs_seen=tuple(s for s in draw(st.lists(inputs_seen, max_size=3)) if s is not None),
        decisions=draw(st.sampled_from([(), (Decision(action="ask_small", reason="draft", hedge=0.3),)])),
        final=draw(st.none() | st.integers(0, len(attempts) - 1)),
        cost=draw(costs),
        latency=draw(times),
        thread_id=draw(st.sampled_from([None, "t1", "t2", "t3"])),
    )


@st.composite
def labels_of(draw, trace):
    """Labels that such a step may have."""
    found = []
    if draw(st.booleans()):
        found.append(Label(step_id=trace.id, source="person", right=draw(st.none() | st.booleans())))
    if not trace.escalated and draw(st.booleans()):
        spend = draw(st.none() | st.builds(SideCall, name=st.just("large"), cost=costs, latency=times))
        right = draw(st.none() | st.booleans())
        harm = None if right is None else not right
        propensity = draw(st.sampled_from([None, 0.1, 0.3, 1.0]))
        found.append(
            Label(step_id=trace.id, source="shadow", right=right, harm=harm, propensity=propensity, side_call=spend)
        )
    return found


policies = st.builds(
    Policy,
    threshold=st.none()
    | scores
    | st.dictionaries(st.sampled_from(["call", "text", "write", "irreversible", "default"]), scores, max_size=3),
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
    small = Attempt(
        tier="small",
        outcome="skipped" if not drafted else "accepted" if answered else "rejected",
        verdicts=tuple(verdicts),
        gathered=gathered,
    )
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
            accepted = p >= threshold
            small = Attempt(
                tier="small",
                outcome="accepted" if accepted else "rejected",
                verdicts=(graded("mine", p, "mine"),),
                confidence=p,
                cost=0.001,
                latency=0.5,
                answer={"text": "1" if right else "2", "tool_calls": []},
            )
            answer = {"text": "1", "tool_calls": []}
            large = Attempt(tier="large", outcome="accepted", cost=large_cost, latency=2.0, answer=answer)
            attempts = (small,) if accepted else (small, large)
            cost, latency = sum(a.cost for a in attempts), sum(a.latency for a in attempts)
            fields = {"step": name, "kind": "text", "cost": cost, "latency": latency, "thread_id": f"{seed}-{episode}"}
            found.append(recorded(step_id, *attempts, **fields))
            truth.append((p, right, large_cost))
            if accepted and chance.random() < shadow:
                call = SideCall(name="large", cost=large_cost, latency=2.0)
                means = {"right": right, "harm": not right, "propensity": shadow, "side_call": call}
                labels.append(Label(step_id=step_id, source="shadow", **means))
    return found, labels, truth
