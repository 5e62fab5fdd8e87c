"""Tiers, validators and answers that go wrong: the promises R1-R9, R12, R13, R17-R19, and sums that agree."""

import asyncio
import contextlib
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.graph import START, MessagesState, StateGraph

from cascade_agent import CascadeExhausted, Policy, Price, Tier, Verdict, cascade_node
from cascade_agent.engine import statistics
from cascade_agent.engine.step import trace_of
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_pass
from tests.builders import (
    BOTH,
    all_of,
    ask,
    assert_plain_json,
    call,
    eventually,
    examples,
    graph_of,
    pair,
    record,
    refuses_small,
    trials,
)

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # httpx clients live as long as the process


def thread(name: str) -> Any:
    """The config of a conversation."""
    return {"configurable": {"thread_id": name}}


# ---- R1, R2, R6, R7: tiers that fail --------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize(
    ("small", "client", "reason", "error", "cost"),
    [
        ("fail-429", {}, "model_error", "RateLimitError", 0.0),
        ("fail-500", {}, "model_error", "APIError|InternalServerError", 0.0),
        ("fail-context", {}, "model_error", "RequestError|ContextOverflowError", 0.0),
        ("fail-drop", {}, "model_error", "ConnectionError", None),
        ("fail-hang", {"timeout": 0.2}, "model_error", "Timeout", None),
        ("fail-hang", {}, "timeout", "LateError", None),
    ],
)
async def test_a_small_tier_that_fails_is_answered_by_large(stub, small, client, reason, error, cost, how):
    """R1, R2: rate limit, server error, refused request, lost connection, time-outs: large answers, one call each."""
    before = Counter(r["model"] for r in stub.requests)
    large = f"good-{small}-{reason}-{how}"
    tier = Tier(stub.model(small, **client), timeout=0.3 if reason == "timeout" else None)
    message = await ask(pair(tier, stub.model(large)), how=how)
    assert message.text == "You said to me: hi"
    assert (stub.asked(small) - before[small], stub.asked(large)) == (1, 1)
    entry = record(message)
    assert (entry["reason"], entry["final_tier"], entry["outcome"]) == (reason, "large", "escalated")
    assert re.search(error, entry["attempts"][0]["error"]), "the class that the client library raises, by version"
    assert entry["attempts"][0]["cost"] == cost


@BOTH
async def test_one_deadline_covers_the_whole_step(how):
    """R2: there is one by default, it leaves the large tier its share; what small used up, large does not get."""
    late = ScriptedChatModel("a", delay=30.0)
    assert pair(late, "large").policy.latency_budget == Policy().latency_budget is not None
    message = await ask(pair(late, "large", policy=Policy(latency_budget=3.0)), how=how)
    assert (message.text, record(message)["attempts"][0]["outcome"]) == ("large", "timeout")
    large = ScriptedChatModel("large")
    model = pair(Tier(ScriptedChatModel("a", delay=30.0), timeout=60), large, policy=Policy(latency_budget=0.2))
    with pytest.raises(TimeoutError) as caught:
        await ask(model, how=how)
    assert large.asked == 0
    assert [a.outcome for a in caught.value.cascade.attempts] == ["timeout", "timeout"]
    assert caught.value.cascade.attempts[1].cost == 0.0


@BOTH
async def test_both_down_is_larges_own_error_with_the_record(how):
    """R7: large's own exception, of its own type, with the step's record for code and a note for people."""
    down = ValueError("large too")
    with pytest.raises(ValueError, match="large too") as caught:
        await ask(pair(ConnectionError("small is down"), down), how=how)
    assert caught.value is down
    note = "cascade step 'cascade': small: ConnectionError: small is down; large: ValueError: large too"
    assert caught.value.__notes__ == [note]
    assert (caught.value.cascade.outcome, caught.value.cascade.final) == ("exhausted", None)


@tool
def refund(order_id: int) -> str:
    """Refund an order."""
    return f"refunded {order_id}"


REFUND = call("refund", order_id=99)
DOUBTS: dict[str, tuple[Any, Any, Any]] = {
    "a hard fail": ("draft", lambda: Verdict(outcome="fail", code="broken"), None),
    "a soft fail": ("draft", lambda: Verdict(outcome="fail", code="meh", score=0.1), None),
    "low confidence": (REFUND, lambda: Verdict(outcome="pass", score=0.4), 0.9),
    "an own threshold": (REFUND, lambda: Verdict(outcome="pass", score=0.4), {"default": 0.3, "irreversible": 1.0}),
    "a broken validator": (REFUND, lambda: 1 / 0, 0.9),
}


@BOTH
@pytest.mark.parametrize("on_exhausted", ["pass", "return", "raise"])
@pytest.mark.parametrize("doubt", DOUBTS)
async def test_with_large_down_a_draft_is_returned_only_where_it_harms_nobody(how, doubt, on_exhausted):
    """R6: marked, where the policy says so, if it failed soft signals alone; never one that failed hard or that acts."""
    draft, finds, threshold = DOUBTS[doubt]

    def doubts(_draft: Any, _context: Any) -> Verdict:
        return finds()

    policy = Policy(threshold=threshold, on_exhausted=on_exhausted, side_effects={"refund": "irreversible"})
    model = pair(draft, ConnectionError("down"), validators=[doubts], policy=policy).bind_tools([refund])
    if (doubt, on_exhausted) == ("a soft fail", "return"):
        message = await ask(model, how=how)
        entry = record(message)
        assert (message.text, entry["degraded"], entry["outcome"]) == ("draft", True, "exhausted")
        assert entry["final_tier"] == "small"
        return
    with pytest.raises(ConnectionError, match="down") as caught:
        await ask(model, how=how)
    assert caught.value.cascade.degraded is False
    assert doubt != "a hard fail" or "doubts: broken" in caught.value.__notes__[0]


# ---- R3, R5: drafts that are no answer ------------------------------------------------------------------------------
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["celsius", "kelvin"]}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["city"], "additionalProperties": False}
FUNCTION = {"name": "forecast", "description": "The weather forecast of a city.", "parameters": SCHEMA}
STRICT = {"type": "function", "function": FUNCTION}
QUESTION = "What is the weather in Lyon, for 2 days?"


def calling(*args: Any, name: str = "forecast", finish_reason: str = "tool_calls") -> AIMessage:
    """An answer that calls once per set of arguments."""
    calls = [{"name": name, "args": a, "id": f"c{i}"} for i, a in enumerate(args)]
    return AIMessage("", tool_calls=calls, response_metadata={"finish_reason": finish_reason})


RIGHT = calling({"city": "Lyon", "days": 2})
BROKEN_JSON = {"name": "forecast", "args": '{"city": "Ly', "id": "c0", "error": None}
NO_ANSWERS = {
    "empty": AIMessage("  \n"),
    "refusal": AIMessage("", additional_kwargs={"refusal": "I cannot help with that."}),
    "length": AIMessage("The weather in Ly", response_metadata={"finish_reason": "length"}),
    "content filter": AIMessage("", response_metadata={"finish_reason": "content_filter"}),
    "malformed": AIMessage("", invalid_tool_calls=[BROKEN_JSON]),
    "unknown tool": calling({"city": "Lyon"}, name="weather_forecast"),
    "missing": calling({"days": 2}),
    "wrong type": calling({"city": "Lyon", "days": "two"}),
    "enum": calling({"city": "Lyon", "unit": "reaumur"}),
    "extra": calling({"city": "Lyon", "country": "FR"}),
    "cut call": calling({"city": "Ly"}, finish_reason="length"),
    "one bad call of several": calling({"city": "Lyon"}, {"days": 1}, {"city": "Nice"}),
}


@BOTH
@pytest.mark.parametrize("draft", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_escalates(draft, how):
    """R3: eleven of eleven, with the default validators and policy. R5: one bad call of several refuses the whole draft."""
    message = await ask(pair(draft, RIGHT).bind_tools([STRICT]), QUESTION, how=how)
    assert [c["args"] for c in message.tool_calls] == [{"city": "Lyon", "days": 2}]
    entry = record(message)
    assert entry["final_tier"] == "large"
    assert "fail" in [v["outcome"] for v in entry["attempts"][0]["verdicts"] if "score" not in v]


@BOTH
async def test_what_is_an_answer_is_kept(how):
    """R3: a good call is not escalated."""
    large = ScriptedChatModel("never")
    message = await ask(pair(RIGHT, large).bind_tools([STRICT]), QUESTION, how=how)
    assert (record(message)["final_tier"], large.asked) == ("small", 0)


# ---- R8, R9: validators that break ----------------------------------------------------------------------------------
class _Rubbish:
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def _endless() -> Any:
    while True:
        yield Verdict(outcome="pass", validator="me")


def _breaks_half_way() -> Any:
    yield Verdict(outcome="pass", validator="me")
    raise KeyError


def _timing_out() -> Any:
    raise TimeoutError


BREAKING = {
    "raises": lambda: 1 / 0,
    "times out itself": _timing_out,
    "a text": lambda: "fine",
    "a number": lambda: 0.7,
    "a dict": lambda: {"outcome": "pass"},
    "a list of texts": lambda: ["pass"],
    "an object": _Rubbish,
    "endless": _endless,
    "half": _breaks_half_way,
    "impossible score": lambda: Verdict(outcome="fail", score=7.0),
    "NaN": lambda: Verdict(outcome="pass", score=float("nan")),
    "text score": lambda: Verdict(outcome="pass", score="high"),
    "unknown outcome": lambda: Verdict(outcome="maybe"),
}


@BOTH
@pytest.mark.parametrize("what", BREAKING.values(), ids=BREAKING)
async def test_a_validator_that_breaks_never_fails_the_step(what, how):
    """R8: it is an abstain that names validator and fault; the policy escalates, or takes what the others say."""

    def broken(_draft: Any, _context: Any) -> Any:
        return what()

    def cascade(**given: Any) -> Any:
        return pair("draft", "large", validators=[broken, always_pass()], policy=Policy(**given))

    entry = record(await ask(cascade(), how=how))
    assert (entry["final_tier"], entry["reason"]) == ("large", "validator_error")
    (verdict,) = (v for v in entry["attempts"][0]["verdicts"] if v.get("code") == "validator_error")
    assert (verdict["outcome"], verdict["validator"], bool(verdict["reason"])) == ("abstain", "broken", True)
    assert record(await ask(cascade(on_broken="accept"), how=how))["final_tier"] == "small"


async def test_an_asynchronous_validator_is_cancelled_at_its_time_limit():
    """R9: it is cancelled, says so in the record, and the step goes on; `invoke` says that it needs `ainvoke`."""
    ended: list[str] = []

    async def hangs(_draft: Any, _context: Any) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("cancelled")

    def model() -> Any:
        return pair("draft", "large", validators=[hangs], policy=Policy(validator_timeout=0.05))

    message = await model().ainvoke("hi")
    assert (message.text, ended) == ("large", ["cancelled", "cancelled"])
    assert [v["code"] for a in record(message)["attempts"] for v in a["verdicts"]] == ["validator_timeout"] * 2
    assert "needs ainvoke" in record(model().invoke("hi"))["attempts"][0]["verdicts"][0]["reason"]


# ---- R12: cancellation and control flow -----------------------------------------------------------------------------
class _Gate:
    """Counts the points at which a step waits, and stops at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.reached = at, 0, asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.reached.set()
            await asyncio.sleep(30)


class _Gated(ScriptedChatModel):
    gate: Any = None

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        await self.gate()
        return await super()._agenerate(*args, **kwargs)


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("stream", [False, True])
async def test_cancellation_anywhere_comes_out_and_leaves_nothing_behind(at, stream):
    """R12: wherever the step waits, `CancelledError` comes out, no task stays and nobody is asked later."""
    gate, journal = _Gate(at), TraceCapture()

    async def refuses(draft: Any, _context: Any) -> bool:
        await gate()
        return draft.tier != "small"

    small, large = _Gated("a", gate=gate), _Gated("b", gate=gate)
    model = pair(small, large, validators=[refuses], journal=journal)

    async def consume() -> None:
        async for _ in model.astream("hi"):
            pass

    before = asyncio.all_tasks()
    task = asyncio.create_task(consume() if stream else model.ainvoke("hi"))
    await asyncio.wait_for(gate.reached.wait(), 60)
    calls = small.asked, large.asked
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: asyncio.all_tasks() == before)
    assert (small.asked, large.asked) == calls
    (trace,) = journal
    assert (trace.outcome, trace.attempts[-1].outcome, trace.final) == ("cancelled", "cancelled", None)


STEERING = [("sync", KeyboardInterrupt(), "cancelled"), ("sync", SystemExit(3), "error")]  # a loop is stopped by these
STEERING += [(how, e, "interrupted") for how in ("sync", "async") for e in (GraphBubbleUp(), GraphInterrupt(()))]


@pytest.mark.parametrize("tier", ["small", "large"])
@pytest.mark.parametrize(("how", "error", "outcome"), STEERING)
async def test_what_the_host_steers_with_is_never_caught(how, tier, error, outcome):
    """R12: `GraphBubbleUp`, `KeyboardInterrupt` and `SystemExit` of a tier pass through, and the record says so."""
    replies: dict[str, Any] = {"small": "a", "large": "b", tier: error}
    journal = TraceCapture()
    with pytest.raises(type(error)):
        await ask(pair(**replies, validators=[refuses_small], journal=journal), how=how)
    (trace,) = journal
    assert (trace.outcome, trace.attempts[-1].tier, trace.cost) == (outcome, tier, None)


# ---- R13: many at once ----------------------------------------------------------------------------------------------
def _echo(tier: str) -> ScriptedChatModel:
    def reply(messages: list[Any]) -> AIMessage:
        number = int(messages[-1].text)
        usage = {"input_tokens": number, "output_tokens": 1, "total_tokens": number + 1}
        return AIMessage(f"{tier} {number}", usage_metadata=usage)

    return ScriptedChatModel(reply, loop=True, delay=0.001)


def _odd_escalates(draft: Any, context: Any) -> bool:
    return draft.tier != "small" or int(context.messages[-1].text) % 2 == 0


def _check_own(number: int, message: AIMessage) -> str:
    tier, entry = "large" if number % 2 else "small", record(message)
    assert (message.text, entry["final_tier"]) == (f"{tier} {number}", tier)
    assert [a["usage"]["input_tokens"] for a in entry["attempts"]] == [number] * (2 if number % 2 else 1)
    return entry["id"]


@trials(200, 1000)
@pytest.mark.parametrize("way", ["tasks", "threads"])
async def test_many_steps_at_once_keep_apart(trials, way):
    """R13: of 1,000 concurrent steps on one loop, and on 32 threads, each message carries its own record; no task stays."""
    journal = TraceCapture()
    policy = Policy(skip_small=False)  # threads may do all the odd ones in a row
    model = pair(_echo("small"), _echo("large"), validators=[_odd_escalates], policy=policy, journal=journal)
    before = asyncio.all_tasks()
    if way == "tasks":
        answers = await asyncio.gather(*(model.ainvoke(str(n)) for n in range(trials)))
    else:
        barrier = threading.Barrier(32)

        def work(start: int) -> list[Any]:
            barrier.wait()
            numbers = range(start, trials, 32)  # some through a binding of the model
            return [(n, (model.bind_tools([STRICT]) if n % 3 else model).invoke(str(n))) for n in numbers]

        with ThreadPoolExecutor(32) as pool:
            found = dict(chain.from_iterable(pool.map(work, range(32))))
        answers = [found[n] for n in range(trials)]
    ids = {_check_own(n, message) for n, message in enumerate(answers)}
    assert len(ids) == trials
    assert {t.id for t in journal} == ids
    assert asyncio.all_tasks() == before


# ---- R19: hostile answers; those that a draft holds are in test_langgraph.py ------------------------------------------
@BOTH
async def test_hostile_texts_and_errors_are_recorded_clean(how):
    """R19: errors without words, usage that no store holds, texts with NUL: the record stays plain JSON."""

    class WordlessError(Exception):
        def __str__(self) -> str:
            raise ValueError

    usage = {"input_tokens": 2**70, "output_tokens": 3, "total_tokens": 2**70}
    large = AIMessage("\ud83d\0", usage_metadata=usage, response_metadata={"finish_reason": "stop"})
    journal = TraceCapture()
    model = pair(WordlessError(), Tier(ScriptedChatModel(large), price=Price(1, 1)), validators=[], journal=journal)
    assert_plain_json(record(await ask(model, how=how)))
    (trace,) = journal
    assert_plain_json(trace.to_json())
    assert (trace.attempts[0].error, trace.attempts[1].usage.input_tokens) == ("WordlessError: ", None)
    assert trace.cost is None


# ---- the sums -------------------------------------------------------------------------------------------------------
usages = st.none() | st.tuples(st.integers(0, 10_000), st.integers(0, 10_000))
answers = st.tuples(
    st.sampled_from(["ok", "bad", "raise"]), usages, st.none() | st.integers(0, 500), st.sampled_from([None, 1.0, 3.0])
)


def _paid(name: str, drawn: Any, used: list[Any]) -> Tier:
    """A tier that answers as it was drawn, and notes the usage that it reported."""
    kind, usage, cached, rate = drawn

    def reply(_messages: Any) -> Any:
        if kind == "raise":
            raise ConnectionError(name)
        used.append(usage)
        if usage is None:
            return AIMessage(kind)
        meta: dict[str, Any] = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
        if cached is not None:
            meta["input_token_details"] = {"cache_read": min(cached, usage[0])}
        return AIMessage(kind, usage_metadata=meta)

    price = None if rate is None else Price(rate, 2 * rate, cached_input=rate / 2)
    return Tier(ScriptedChatModel(reply, name=name), price=price)


@settings(max_examples=examples(50, 150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small=answers, middle=answers, large=answers, ladder=st.booleans(), how=st.sampled_from(["sync", "async"]))
def test_all_sums_agree(small, middle, large, ladder, how):
    """The sum of the attempts, the record on the message, the usage callbacks and the journal agree to the token.

    A ladder of three counts every call once. What a provider did not report, and a price nobody knows, stays unknown.
    """
    journal, heard, used = TraceCapture(), UsageMetadataCallbackHandler(), []
    settings: Any = {"validators": [lambda draft, _: draft.text != "bad"]}
    top: Any = _paid("large", large, used)
    top = pair(_paid("middle", middle, used), top, **settings) if ladder else top
    model = pair(_paid("small", small, used), top, journal=journal, **settings)
    try:
        message = asyncio.run(ask(model, config={"callbacks": [heard]}, how=how))
    except (CascadeExhausted, ConnectionError) as error:
        trace = getattr(error, "cascade", None) or error.trace
    else:
        trace = trace_of(message)
        assert (message.usage_metadata is None) == (used[-1] is None), "the message keeps its own call's usage"
    (kept,) = journal
    assert (kept.usage, kept.cost) == (trace.usage, trace.cost)
    attempts = trace.attempts
    for position, side in enumerate(("input_tokens", "output_tokens")):
        counted = sum(usage[side] for usage in heard.usage_metadata.values())
        if None in used:
            assert getattr(trace.usage, side) is None
        else:
            parts = [getattr(a.usage, side) or 0 for a in attempts if a.usage is not None]
            assert getattr(trace.usage, side) == counted == sum(parts) == sum(usage[position] for usage in used)
    known = all(a.cost is not None for a in attempts)
    assert trace.cost == (pytest.approx(sum(a.cost for a in attempts)) if known else None)
    if any(a.outcome == "error" and a.inner is None for a in attempts):
        assert trace.cost is None, "what a call that raised cost is unknown, unless the provider refused it"


def test_two_currencies_have_no_sum():
    """The cost of a step whose calls were paid in both is unknown."""
    for second, cost in (("EUR", pytest.approx(20 / 1e6)), ("USD", None)):
        small, large = (
            Tier(ScriptedChatModel("a", usage=(5, 5)), price=Price(1, 1, currency=c)) for c in ("EUR", second)
        )
        assert record(pair(small, large, validators=[refuses_small]).invoke("hi"))["cost"] == cost


# ---- R17, R18: what is known of earlier steps, and what may be spent --------------------------------------------------
@BOTH
async def test_a_small_tier_that_answers_garbage_is_left_out(how, monkeypatch):
    """R17: within 20 steps; asked again every 30 s, and kept when it is well again."""
    now, journal, well = [0.0], TraceCapture(), False
    monkeypatch.setattr(statistics, "monotonic", lambda: now[0])
    small = ScriptedChatModel([lambda _: AIMessage("fine" if well else "")], name="small", loop=True)
    llm = pair(small, ScriptedChatModel("large", loop=True), journal=journal)
    llm._cascade.statistics._clock = lambda: now[0]
    assert {(await ask(llm, how=how)).content for _ in range(50)} == {"large"}
    assert small.asked == 19
    last = journal.traces[-1]
    assert (last.reason, last.attempts[0].outcome) == ("skipped_small", "skipped")
    assert last.decisions[0].detail.endswith("empty_answer last")
    assert last.inputs_seen[0].broken > 0.8
    now[0] = 31.0
    for _ in range(5):
        await ask(llm, how=how)
    assert small.asked == 20
    well = True
    for step in range(2, 7):
        now[0] = 31.0 * step
        answer = await ask(llm, how=how)
    assert answer.content == "fine"


def priced(name: str, rate: float, **kwargs: Any) -> Tier:
    """A model whose every call costs `rate` cents of a dollar."""
    return Tier(ScriptedChatModel(name, name=name, usage=(0, 10_000), loop=True, **kwargs), price=Price(0, rate))


@BOTH
@trials(250, 1000)
async def test_many_steps_at_once_do_not_overrun_a_budget(how, trials):
    """R18: calls that are foreseen at their mean are never started beyond the ceiling."""
    journal, config = TraceCapture(), thread(f"budget {how}")
    policy = Policy(max_cost={"thread": 1.0}, skip_small=False)
    tiers = priced("small", 0.1), priced("large", 1.0, delay=0.001)
    llm = pair(*tiers, validators=[refuses_small], policy=policy, journal=journal)
    await llm.ainvoke("what a call costs", config)
    ended = await all_of(llm, trials, how, config)
    assert all(isinstance(end, AIMessage | CascadeExhausted) for end in ended)
    assert 0.9 < sum(trace.cost for trace in journal) <= 1.0 + 1e-9
    assert {t.reason for t in journal} == {"bad", "budget"}


@BOTH
async def test_a_ceiling_holds_for_a_run_of_a_graph(how):
    """Both nodes and the subgraph spend from one budget; the next run has a full one again."""
    policy, journal = Policy(max_cost=0.025, on_exhausted="return"), TraceCapture()
    given: Any = {"validators": [refuses_small], "policy": policy, "journal": journal}

    def node() -> Any:
        return cascade_node(priced("small", 0.1), priced("large", 1.0), **given)

    builder = StateGraph(MessagesState).add_sequence([("one", node()), ("two", graph_of(node())), ("three", node())])
    graph, hi = builder.add_edge(START, "one").compile(), {"messages": [("user", "hi")]}
    await ask(graph, hi, how=how)  # nobody knows yet what a call costs: one too many
    assert sum(t.cost for t in journal) == pytest.approx(0.033)
    for _ in range(2):
        journal.clear()
        with pytest.raises(CascadeExhausted, match="max_cost leaves no more"):
            await ask(graph, hi, how=how)
        assert [t.reason for t in journal] == ["bad", "bad", "budget"]
        assert sum(t.cost for t in journal) == pytest.approx(0.023)


@BOTH
async def test_a_strict_ceiling_is_never_overrun(how):
    """The most that a call can cost is set aside; a model without a limit of output is refused by name."""
    journal, large = TraceCapture(), ScriptedChatModel("large", usage=(5, 10), loop=True)
    small = Tier(ScriptedChatModel("small", usage=(5, 10), loop=True).bind(max_tokens=10), price=Price(1, 1))
    policy = Policy(max_cost={"thread": 0.01, "strict": True})
    given: Any = {"validators": [refuses_small], "policy": policy, "journal": journal}
    llm = pair(small, Tier(large.bind(max_tokens=100), price=Price(0, 50)), **given)
    for _ in range(15):
        with contextlib.suppress(CascadeExhausted):
            await ask(llm, config=thread(f"strict {how}"), how=how)
    assert sum(trace.cost for trace in journal) <= 0.01
    assert {trace.reason for trace in journal} == {"bad", "budget"}
    with pytest.raises(ConfigurationError, match=r"a strict max_cost cannot bound a call of .*max_tokens"):
        await ask(pair(small, Tier(large, price=Price(0, 50)), **given), config=thread("unbounded"), how=how)


@BOTH
async def test_a_turn_that_escalated_stays_on_the_large_tier(how):
    """After an escalation the rest of the turn is large's; the user's next word ends it."""
    small, large = (ScriptedChatModel(name, name=name, loop=True) for name in ("small", "large"))
    llm = pair(small, large, validators=[refuses_small], policy=Policy(stay_on_large="turn"))
    first = await ask(llm, [("user", "hi")], how=how)
    second = await ask(llm, [("user", "hi"), first], how=how)
    assert (record(second)["reason"], small.asked) == ("stays_on_large", 1)
    await ask(llm, [("user", "hi"), first, second, ("user", "and now?")], how=how)
    assert small.asked == 2
