"""A step goes one way: sync, async and replay take it alike, and what happened stands in the record."""

import asyncio
import json
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from cascade_agent import Policy, Price, Tier, Verdict
from cascade_agent.core.records import Attempt, DecisionInputs, Draft, SideCall, StepContext, StepTrace, Usage
from cascade_agent.engine.engine import OpenStep
from cascade_agent.engine.step import Answer, StepRequest, StepResult, trace_of
from cascade_agent.engine.ways import EVENT_LOOP, THREADS, finished
from cascade_agent.engine.worker_threads import LateError, run_within
from cascade_agent.errors import RecordError
from cascade_agent.journal.background import in_event_loop
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from cascade_agent.validators import shipped_scorer
from cascade_agent.validators.validator_set import ValidatorSet
from tests.builders import examples, pair

unit = st.floats(0, 1)


# ---- a step from a script -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Says:
    """Plan of a tier: its answer, and the findings of the validators on it."""

    kind: str
    score: float = 0.5
    usage: tuple[int, int] | None = (7, 3)
    validator: str = "fine"


@dataclass(frozen=True)
class Piece:
    """Evidence with a fixed finding."""

    name: str
    kind: str = "finds"
    score: float | None = None
    cost: float | None = 0.25
    stage: str = "evidence"
    asked: list[Any] = field(default_factory=list)

    def gather(self, draft: Draft, context: StepContext, *, config: Any) -> tuple[Verdict, SideCall]:
        """Find it."""
        self.asked.append(config)
        if self.kind == "raises":
            msg = "no judge today"
            raise ConnectionError(msg)
        usage = Usage(input_tokens=2, output_tokens=1, cache_read_tokens=0, cache_write_tokens=0)
        return Verdict(outcome="pass", code="judged", score=self.score), SideCall(name="x", usage=usage, cost=self.cost)

    async def agather(self, draft: Draft, context: StepContext, *, config: Any) -> tuple[Verdict, SideCall]:
        """Find it, too."""
        await asyncio.sleep(0)
        return self.gather(draft, context, config=config)


def judge(says: dict[str, Says]) -> Any:
    """One validator that finds what the script says."""

    def finds(draft: Draft, _context: StepContext) -> Any:
        script = says[draft.tier]
        match script.validator:
            case "hard":
                return Verdict(outcome="fail", code="hard", reason="no", path="/text")
            case "soft":
                return Verdict(outcome="fail", code="soft", reason="hardly", score=script.score)
            case "graded":
                return [Verdict(outcome="pass", code="graded", score=script.score), Verdict(outcome="pass")]
            case "broken":
                msg = "a fault"
                raise KeyError(msg)
            case "no":
                return False
        return None

    return finds


def before(kind: str) -> Any:
    """A validator that looks at the context alone."""

    def looks(draft: None, _context: StepContext) -> Any:
        assert draft is None
        return (
            None if kind == "fine" else Verdict(outcome="fail", code="hopeless", score=None if kind == "hard" else 0.1)
        )

    looks.stage = "context"
    return looks


@dataclass(frozen=True)
class Fixed:
    """Statistics that say one thing."""

    inputs: DecisionInputs

    def snapshot(self, name: str) -> DecisionInputs:
        """Return it."""
        return self.inputs

    def observe(self, trace: StepTrace) -> None:
        """Learn nothing."""

    def expected(self, *_: Any) -> None:
        """Know nothing."""


def a_step(
    small: Says,
    large: Says,
    *,
    policy: Policy | None = None,
    evidence: tuple[Piece, ...] = (),
    context: str = "fine",
    prices: tuple[float | None, float | None] = (1.0, 10.0),
    inputs: DecisionInputs | None = None,
) -> tuple[StepRequest, TraceCapture]:
    """The step, and the journal it writes to."""
    says = {"small": small, "large": large}
    journal = TraceCapture()
    released = threading.Event()

    def answer(role: str) -> Answer:
        script = says[role]
        if script.kind == "raises":
            msg = "down, with a secret"
            raise ConnectionError(msg)
        tokens = script.usage
        usage = None if tokens is None else {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": 9}
        return Answer(draft=Draft(message=AIMessage(f"{role} says", usage_metadata=usage), tier=role), native=role)

    async def ask(role: str, _note: str | None, *, live: bool) -> Answer:
        assert not live
        if not in_event_loop():
            released.wait(1 if says[role].kind == "hangs" else 0)
        else:
            await asyncio.sleep(60 if says[role].kind == "hangs" else 0)
        return answer(role)

    def tier(role: str, rate: float | None) -> Tier:
        price = None if rate is None else Price(rate, rate)
        return Tier(
            ScriptedChatModel("x", name=role), price=price, timeout=0.02 if says[role].kind == "hangs" else None
        )

    ctx = StepContext(step="desk", thread_id="t")
    step = StepRequest(
        name="desk",
        tiers={"small": tier("small", prices[0]), "large": tier("large", prices[1])},
        contexts={"small": ctx, "large": ctx},
        validators=ValidatorSet([before(context), judge(says), *evidence]),
        policy=policy or Policy(),
        ask=ask,
        journal=journal,
        statistics=None if inputs is None else Fixed(inputs),
    )
    return step, journal


def run(step: StepRequest, way: str = "sync") -> StepResult:
    """Run it on one of the two ways."""
    return finished(OpenStep(step, THREADS).run()) if way == "sync" else asyncio.run(OpenStep(step, EVENT_LOOP).run())


def timeless(trace: StepTrace) -> str:
    """A record without what differs from run to run: ids and times."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in ("id", "started_at", "latency", "run_id")}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return json.dumps(strip(trace.to_json()), sort_keys=True)


# ---- parity ---------------------------------------------------------------------------------------------------------
usages = st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99))
scripts = st.builds(
    Says,
    kind=st.sampled_from(["answers", "answers", "answers", "raises"]),
    score=unit,
    usage=usages,
    validator=st.sampled_from(["fine", "hard", "soft", "graded", "graded", "broken", "no"]),
)
with_hangs = st.one_of(scripts, scripts, scripts, scripts, st.just(Says("hangs")))
pieces = st.builds(
    Piece,
    name=st.just("cheap"),
    kind=st.sampled_from(["finds", "finds", "raises"]),
    score=st.none() | unit,
    cost=st.none() | st.floats(0, 1),
)
policies = st.builds(
    Policy,
    threshold=st.none() | unit | st.dictionaries(st.sampled_from(["call", "text", "default"]), unit),
    evidence=st.tuples(unit, unit).map(sorted).map(tuple),
    on_exhausted=st.sampled_from(["pass", "return", "raise", "interrupt"]),
    on_broken=st.sampled_from(["escalate", "accept"]),
    handover=st.sampled_from(["fresh", "feedback"]),
    value_of_time=st.none() | unit,
    skip_small=st.booleans(),
)
inputs_seen = st.builds(
    DecisionInputs,
    escalation=st.none() | unit,
    broken=st.none() | unit,
    small_cost=st.none() | unit,
    large_cost=st.none() | unit,
    probe=st.booleans(),
)


@settings(max_examples=examples(25, 300), deadline=None)
@given(
    small=with_hangs,
    large=with_hangs,
    policy=policies,
    evidence=st.lists(pieces, max_size=2).map(lambda ps: tuple(replace(p, name=f"e{i}") for i, p in enumerate(ps))),
    context=st.sampled_from(["fine", "fine", "fine", "hard", "soft"]),
    prices=st.tuples(st.none() | st.floats(0, 9), st.none() | st.floats(0, 9)),
    inputs=st.none() | inputs_seen,
)
def test_sync_async_and_replay_agree(**script):
    """R20: for any script and policy the same decisions, and records that are byte-identical but for ids and times."""
    step, kept = a_step(**script)
    astep, akept = a_step(**script)
    result, aresult = run(step), run(astep, "async")
    assert timeless(result.trace) == timeless(aresult.trace)
    assert [timeless(t) for t in kept] == [timeless(t) for t in akept] == [timeless(result.trace)]
    assert (result.answer and result.answer.native) == (aresult.answer and aresult.answer.native)
    assert (result.best and result.best.native) == (aresult.best and aresult.best.native)
    assert list(map(str, result.errors)) == list(map(str, aresult.errors))

    trace = StepTrace.from_json(json.loads(json.dumps(result.trace.to_json())))
    assert trace == result.trace
    again = replay(trace, script["policy"])
    assert again.known
    assert again.decisions == trace.decisions
    assert again.escalated == trace.escalated
    assert again.final_tier == trace.final_tier
    if trace.cost is None or again.cost is None:
        assert trace.cost == again.cost
    else:
        assert again.cost == pytest.approx(trace.cost)


@settings(max_examples=examples(25, 100), deadline=None)
@given(small=scripts, large=scripts, policy=policies)
def test_what_holds_of_every_step(small, large, policy):
    """A returned answer passed every hard check; at most one call per tier; every attempt is closed."""
    step, _ = a_step(small, large, policy=policy)
    result = run(step)
    trace = result.trace
    assert [a.tier for a in trace.attempts] in (["small"], ["small", "large"])
    assert all(a.outcome in ("accepted", "rejected", "error") for a in trace.attempts)
    assert sum(a.outcome == "accepted" for a in trace.attempts) == (trace.outcome in ("accepted", "escalated"))
    assert (result.answer is None) == (trace.final is None)
    if result.answer is not None:
        passed = policy.on_exhausted == "pass" and trace.final_tier == "large"
        assert passed or not any(v.hard for v in trace.attempts[trace.final].verdicts)
        assert result.answer.native == trace.final_tier
        assert trace.degraded == (trace.outcome == "exhausted")
    else:
        failure = result.failure()
        assert len(result.errors) == len(trace.attempts)
        assert failure is result.errors[-1] if trace.attempts[-1].error else failure.errors == result.errors
    assert "secret" not in json.dumps(trace.to_json(content=False))


# ---- evidence, hand-over, budgets -----------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["sync", "async"])
def test_evidence_is_asked_only_while_it_can_decide(way):
    """Cheapest first; the second piece is not asked when the first has decided the matter."""
    pieces_ = (Piece("cheap", score=0.99), Piece("dear", score=0.99))
    policy = Policy(threshold=0.5, evidence=(0.0, 0.9))
    step, _ = a_step(Says("answers", validator="graded", score=0.6), Says("answers"), policy=policy, evidence=pieces_)
    result = run(step, way)
    queried = [s.name for s in result.trace.evidence]
    assert queried == [p.name for p in pieces_ if p.asked]
    assert queried[0] == "cheap"
    assert result.trace.attempts[0].gathered == tuple(queried)
    assert [v.validator for v in result.trace.attempts[0].verdicts if v.code == "judged"] == queried
    assert result.trace.cost == pytest.approx(10 / 1e6 + 0.25 * len(queried))
    assert result.trace.usage.calls == 1 + len(queried)


def test_evidence_that_breaks_is_an_abstain():
    """R10: it names the fault, never fails the step, and leaves the cost unknown."""
    step, _ = a_step(Says("answers"), Says("answers"), evidence=(Piece("judge", kind="raises"),))
    trace = run(step).trace
    (verdict,) = (v for v in trace.attempts[0].verdicts if v.validator == "judge")
    assert (verdict.outcome, verdict.code, verdict.reason) == ("abstain", "evidence_error", "ConnectionError")
    assert not verdict.broken
    assert trace.cost is None
    assert trace.usage is None


@pytest.mark.parametrize("way", ["sync", "async"])
def test_no_time_left_asks_no_evidence(way):
    """A spent budget asks nobody; what was not asked costs nothing."""
    piece = Piece("judge")

    def slow(_draft: Draft, _context: StepContext) -> None:
        threading.Event().wait(1.1)

    step, _ = a_step(Says("answers"), Says("answers"), policy=Policy(latency_budget=1.0))
    step = replace(step, validators=ValidatorSet([slow, piece]))
    trace = run(step, way).trace
    assert piece.asked == []
    assert [v.code for v in trace.attempts[0].verdicts] == ["evidence_timeout"]
    assert (trace.evidence[0].cost, trace.evidence[0].usage.calls) == (0.0, 0)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_hand_over_quotes_the_failed_draft_only_when_asked_for(way):
    """Fresh by default; with feedback the objections and the answer, as text."""
    for handover in ("fresh", "feedback"):
        small, large = ScriptedChatModel("my draft"), ScriptedChatModel("large")

        def refuses(draft: Draft, _context: StepContext) -> Verdict | None:
            return Verdict(outcome="fail", code="odd", reason="it is odd") if draft.tier == "small" else None

        model = pair(small, large, validators=[refuses], policy=Policy(handover=handover))
        model.invoke("hi") if way == "sync" else asyncio.run(model.ainvoke("hi"))
        texts = [m.text for m in large.calls[0]]
        assert len(texts) == 1  # the note is part of the last message: some providers refuse two of a role in a row
        if handover == "fresh":
            assert texts == ["hi"]
        else:
            assert texts[0].startswith("hi\n\n")
            assert "- odd: it is odd" in texts[0]
            assert "my draft" in texts[0]


def test_a_hand_over_without_a_draft_or_an_objection():
    """A tier that raised leaves nothing to quote; a low confidence is named as such."""
    large = ScriptedChatModel("b", loop=True)
    pair(ValueError(), large, policy=Policy(handover="feedback")).invoke("hi")
    assert [m.text for m in large.calls[0]] == ["hi"]

    def low(_draft: Draft, _context: StepContext) -> Verdict:
        return Verdict(outcome="pass", code="graded", score=0.01)

    policy = Policy(handover="feedback", threshold=1.0)
    pair("a", large, validators=[low], policy=policy).invoke("hi")
    assert "- low confidence" in large.calls[1][0].text


def test_deadlines_and_hopeless_drafts():
    """A tier's own limit holds without a budget; what the context rules out skips small without a call."""
    step, _ = a_step(Says("answers"), Says("answers"), context="hard")
    trace = run(step).trace
    small, large = trace.attempts
    assert (small.outcome, small.cost, small.usage.calls) == ("skipped", 0.0, 0)
    assert (large.outcome, trace.reason, trace.usage.calls) == ("accepted", "hopeless", 1)
    down, _ = a_step(Says("answers"), Says("raises"), context="hard")
    assert [type(e) for e in run(down).errors] == [ConnectionError]
    step, _ = a_step(Says("hangs"), Says("answers"), policy=Policy(latency_budget=None))
    assert [a.outcome for a in run(step).trace.attempts] == ["timeout", "accepted"]
    free, _ = a_step(Says("answers"), Says("answers"), policy=Policy(latency_budget=None))
    assert run(free).trace.outcome == "accepted"


# ---- the record -----------------------------------------------------------------------------------------------------
def test_records_of_a_step():
    """Its kind is that of its first answer; a message without a record has none; replay never invents an end."""
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    cut = AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None}])

    def kind(reply: Any) -> str:
        return trace_of(pair(reply, "b", validators=[]).invoke("")).kind

    assert [kind("x"), kind(call), kind(cut), kind(ValueError())] == ["text", "one_call", "one_call", "text"]
    assert trace_of(AIMessage("x")) is None
    with pytest.raises(RecordError):
        trace_of(AIMessage("x", response_metadata={"cascade": {"schema": 99}}))
    step, _ = a_step(Says("answers", validator="graded", score=0.5), Says("answers"))
    trace = run(step).trace
    again = replay(trace, Policy(threshold=1.0))
    assert (again.known, again.final_tier, again.cost) == (False, None, None)
    skipped = run(a_step(Says("answers"), Says("answers"), context="soft")[0]).trace
    assert replay(skipped, Policy()).final_tier == "large"
    no_verdicts = replace(skipped, attempts=(replace(skipped.attempts[0], verdicts=()), *skipped.attempts[1:]))
    assert replay(no_verdicts, Policy()).known is False


def test_a_tier_that_is_a_cascade_with_an_unreadable_record_is_unknown():
    """Facts that a nested record lacks are unknown, and no fault of the step."""

    class Odd(ScriptedChatModel):
        @property
        def _llm_type(self) -> str:
            return "cascade"

    def billed(metadata: dict[str, Any]) -> Attempt:
        answered = AIMessage(
            "x",
            response_metadata=metadata,
            usage_metadata=dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 1),
        )
        model = pair(Odd(answered), "b", validators=[])
        return trace_of(model.invoke("hi")).attempts[0]

    assert billed({"cascade": {"schema": 99}}).usage == Usage()
    assert billed({"cascade": {"schema": 99}}).cost is None
    unknown = StepTrace(
        id="1",
        step="s",
        outcome="accepted",
        reason="a",
        attempts=(Attempt(tier="small"),) * 2,
        evidence=(SideCall(name="e"),),
    )
    assert billed({"cascade": unknown.to_json()}).usage == Usage(calls=3)
    assert billed({}).usage.input_tokens == 1


def test_what_stops_a_step_unforeseen_is_recorded_and_raised():
    """A fault of our own house (a scorer that raises) is no silent accept: it is named and comes out."""

    class Faulty(type(shipped_scorer())):
        def confidence(self, _verdicts: Any) -> float:
            msg = "a fault of the scorer"
            raise ZeroDivisionError(msg)

    rules = shipped_scorer()
    faulty = object.__new__(Faulty)
    for name in rules.__dataclass_fields__:
        object.__setattr__(faulty, name, getattr(rules, name))
    step, kept = a_step(Says("answers"), Says("answers"), policy=Policy(scorer=faulty))
    with pytest.raises(ZeroDivisionError):
        run(step)
    assert [t.outcome for t in kept] == ["error"]
    assert kept.traces[0].attempts[0].usage.input_tokens == 7, "the draft that was paid stays on record"


# ---- deadlines of synchronous calls ---------------------------------------------------------------------------------
def test_a_late_call_is_left_alone_and_its_worker_serves_again():
    """The caller goes on at the deadline; the answer is heard by nobody; errors come out as they are."""
    gate = threading.Event()
    with pytest.raises(LateError, match=r"no answer in 0\.01 s"):
        run_within(0.01, gate.wait)
    gate.set()
    assert run_within(5, lambda: 3) == 3
    assert run_within(1e12, lambda: 4) == 4, "a budget beyond what a lock can wait is no error"
    assert run_within(None, threading.current_thread) is threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        run_within(5, lambda: 1 // 0)


def test_crowds_of_late_calls_leave_a_bounded_number_of_workers():
    """Workers are kept for the next call, but only so many."""
    from cascade_agent.engine import worker_threads as deadline

    barrier = threading.Barrier(101)
    threads = [threading.Thread(target=lambda: run_within(30, barrier.wait)) for _ in range(100)]
    for thread in threads:
        thread.start()
    barrier.wait(30)
    for thread in threads:
        thread.join()
    assert 1 <= len(deadline._idle) <= deadline._MAX_IDLE + 1
