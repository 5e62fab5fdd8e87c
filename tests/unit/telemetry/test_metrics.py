"""Metrics of a step: what they count, in which dimensions, and that nothing people or models say makes a series."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from cascade_agent import CascadeChatModel, CascadeExhausted, Journal, Policy, Price, Tier, Verdict
from cascade_agent.core.records import Attempt, Decision, SideCall, StepTrace
from cascade_agent.engine import shadow
from cascade_agent.engine.step import trace_of
from cascade_agent.journal.writer import lost_records
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import metrics
from cascade_agent.testing import ScriptedChatModel, always_fail
from tests import fresh
from tests.builders import BOTH, Hanging, ask, cancelled

USAGE = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
DIMENSIONS = {
    "cascade.step.duration": {"step", "outcome"},
    "cascade.attempts": {"step", "tier", "outcome", "reason"},
    "cascade.attempt.score": {"step", "tier"},
    "cascade.validation.results": {"step", "tier", "validator", "outcome"},
    "cascade.validation.duration": {"step", "tier", "validator"},
    "cascade.validation.time": {"step", "tier", "validator"},
    "cascade.cost": {"step", "tier", "currency"},
    "cascade.cost.unknown": {"step", "tier"},
    "cascade.telemetry.lost": set(),
    "cascade.journal.lost": set(),
}


class Metrics:
    """A meter provider of one test, and what it would export."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.meter = self.provider.get_meter("cascade_agent")

    def read(self) -> dict[str, Any]:
        """Metrics by name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}

    def points(self, name: str) -> list[Any]:
        """The series of a metric."""
        found = self.read().get(name)
        return [] if found is None else list(found.data.data_points)

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Value, or number of observations, of each series; its key are the values of its dimensions by their names."""
        return {
            tuple(v for _, v in sorted(p.attributes.items())): p.count if isinstance(p, HistogramDataPoint) else p.value
            for p in self.points(name)
        }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """The library's instruments are this test's own; the process has one global provider, which is left alone."""
    own = Metrics()
    monkeypatch.setattr(metrics, "_NOW", metrics.Instruments(own.meter))
    return own


@tool
def find(order: str) -> str:
    """Find an order."""
    return order


def odd(draft: Any, _context: Any) -> Verdict:
    """A validator that objects to every draft of the small tier, and likes those of the large one."""
    if draft.tier == "large":
        return Verdict(outcome="pass", score=0.75, code="fine")
    return Verdict(outcome="fail", code="odd", score=0.2)


def cascade(**kwargs: Any) -> CascadeChatModel:
    """Two priced models; small is refused."""
    settings: dict[str, Any] = {
        "small": Tier(ScriptedChatModel(AIMessage("a", usage_metadata=USAGE), name="s", loop=True), price=Price(1, 1)),
        "large": Tier(
            ScriptedChatModel(AIMessage("b", usage_metadata=USAGE), name="l", loop=True), price=Price(10, 10)
        ),
        "validators": [odd],
        "name": "desk",
        **kwargs,
    }
    return CascadeChatModel(**settings)


@BOTH
async def test_an_escalated_step_is_counted_once(seen, how):
    """One duration, two attempts with their reasons, two scores, two verdicts, two timings, two costs."""
    trace = trace_of(await ask(cascade(), how=how))
    assert seen.values("cascade.step.duration") == {("escalated", "desk"): 1}
    assert seen.values("cascade.attempts") == {
        ("rejected", "odd", "desk", "small"): 1,
        ("accepted", "accepted", "desk", "large"): 1,
    }
    assert seen.values("cascade.attempt.score") == {("desk", "small"): 1, ("desk", "large"): 1}
    assert seen.values("cascade.validation.results") == {
        ("fail", "desk", "small", "odd"): 1,
        ("pass", "desk", "large", "odd"): 1,
    }
    assert seen.values("cascade.validation.duration") == {("desk", "small", "local"): 1, ("desk", "large", "local"): 1}
    assert seen.values("cascade.validation.time").keys() == {("desk", "small", "odd"), ("desk", "large", "odd")}
    assert seen.values("cascade.cost") == {
        ("USD", "desk", "small"): pytest.approx(110 / 1e6),
        ("USD", "desk", "large"): pytest.approx(1100 / 1e6),
    }
    assert sum(seen.values("cascade.cost").values()) == pytest.approx(trace.cost)
    assert seen.values("cascade.cost.unknown") == {}
    (duration,) = seen.points("cascade.step.duration")
    assert duration.sum == pytest.approx(trace.latency)
    scores = {p.attributes["tier"]: p.sum for p in seen.points("cascade.attempt.score")}
    assert scores == {a.tier: pytest.approx(a.confidence) for a in trace.attempts}


async def test_units_buckets_and_dimensions(seen):
    """Every instrument has its unit, its own buckets and its dimensions, as the table in the docs says."""
    cascade(small=ScriptedChatModel(ValueError("no"), name="s")).invoke("hi")
    found = seen.read()
    assert {name: {k for p in m.data.data_points for k in p.attributes} for name, m in found.items()} == DIMENSIONS
    docs = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in docs for name in DIMENSIONS)
    assert {n: m.unit for n, m in found.items() if n.endswith("duration")} == {
        "cascade.step.duration": "s",
        "cascade.validation.duration": "s",
    }
    bounds = {
        n: tuple(m.data.data_points[0].explicit_bounds)
        for n, m in found.items()
        if hasattr(m.data.data_points[0], "explicit_bounds")
    }
    assert bounds == {
        "cascade.step.duration": metrics.SECONDS,
        "cascade.validation.duration": metrics.JUDGING,
        "cascade.attempt.score": metrics.SCORES,
    }


@BOTH
async def test_how_other_ends_are_counted(seen, how):
    """A tier that raised, a step that is exhausted, a tier that was not called, a cancelled step."""
    with pytest.raises(CascadeExhausted):
        await ask(
            cascade(
                small=ScriptedChatModel(ValueError("no"), name="s"),
                validators=[always_fail(code="bad")],
                policy=Policy(on_exhausted="raise"),
            ),
            how=how,
        )
    assert seen.values("cascade.step.duration") == {("exhausted", "desk"): 1}
    assert seen.values("cascade.attempts") == {
        ("error", "model_error", "desk", "small"): 1,
        ("rejected", "bad", "desk", "large"): 1,
    }
    assert seen.values("cascade.cost.unknown") == {("desk", "small"): 1}

    def hopeless(_draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="fail", code="hopeless")

    hopeless.stage = "context"
    await ask(cascade(validators=[hopeless], name="other"), how=how)
    assert seen.values("cascade.attempts")["skipped", "hopeless", "other", "small"] == 1
    assert ("USD", "other", "small") not in seen.values("cascade.cost")
    await cancelled(cascade(small=(small := Hanging("a")), name="slow").ainvoke("hi"), small)
    assert seen.values("cascade.attempts")["cancelled", "cancelled", "slow", "small"] == 1


async def test_a_broken_validator_is_an_error_and_is_timed(seen):
    """A broken validator is counted apart from its findings, and its time is counted all the same."""

    def breaks(_draft: Any, _context: Any) -> Any:
        raise KeyError

    async def late(_draft: Any, _context: Any) -> Any:
        await asyncio.sleep(30)

    model = cascade(validators=[breaks, late], policy=Policy(on_broken="accept", validator_timeout=0.05))
    await model.ainvoke("hi")
    assert seen.values("cascade.validation.results") == {
        ("error", "desk", "small", "breaks"): 1,
        ("error", "desk", "small", "late"): 1,
    }
    timed = {p.attributes["validator"]: p.value for p in seen.points("cascade.validation.time")}
    assert timed.keys() == {"breaks", "late"}
    assert timed["late"] >= 0.04
    (together,) = seen.points("cascade.validation.duration")
    assert together.sum == pytest.approx(sum(timed.values()))


async def test_evidence_is_timed_and_paid(seen):
    """Evidence counts as a validator with its latency, and its cost stands apart from that of the tiers."""

    class Judge:
        name, stage = "judge", "evidence"

        def gather(self, draft: Any, context: Any, *, config: Any) -> Any:
            return Verdict(outcome="pass", score=0.95, code="judged"), SideCall(name="judge", cost=0.5)

        async def agather(self, draft: Any, context: Any, *, config: Any) -> Any:
            return self.gather(draft, context, config=config)

    cascade(validators=[Judge()]).invoke("hi")
    assert seen.values("cascade.validation.duration") == {("desk", "small", "judge"): 1}
    assert seen.values("cascade.validation.results") == {("pass", "desk", "small", "judge"): 1}
    assert seen.values("cascade.cost")["USD", "desk", "evidence"] == 0.5


SMALL = Attempt(tier="small", outcome="accepted", cost=1.0)
LARGE = Attempt(tier="large", outcome="accepted", cost=2.0)
ENDED = StepTrace(id="1", step="desk", outcome="accepted", reason="accepted", attempts=(SMALL, LARGE), cost=3.0)
HEDGED = replace(ENDED, attempts=(SMALL,), evidence=(SideCall(name="hedge", cost=2.0, latency=1.0),))
ASKED = replace(HEDGED, outcome="interrupted", evidence=(), cost=1.0)


@pytest.mark.parametrize(
    ("traces", "cost", "unknown"),
    [
        ([HEDGED], {("USD", "desk", "small"): 1.0, ("USD", "desk", "hedge"): 2.0}, {}),
        ([replace(ENDED, currency="EUR")], {("EUR", "desk", "small"): 1.0, ("EUR", "desk", "large"): 2.0}, {}),
        ([replace(ENDED, cost=None)], {}, {("desk", "small"): 1, ("desk", "large"): 1}),  # in several currencies
        ([ASKED, replace(ASKED, outcome="human_review", attempts=(SMALL, LARGE))], {("USD", "desk", "small"): 1.0}, {}),
    ],
)
def test_what_a_step_cost_is_counted_once(seen, traces, cost, unknown):
    """A hedge apart and no validator, sums of several currencies as unknown, what a human decided not again."""
    for trace in traces:
        metrics.record(otel_trace.INVALID_SPAN, trace)
    assert (seen.values("cascade.cost"), seen.values("cascade.cost.unknown")) == (cost, unknown)
    assert seen.values("cascade.validation.duration") == seen.values("cascade.validation.time") == {}
    assert seen.values("cascade.step.duration") == {(trace.outcome, "desk"): 1 for trace in traces}
    assert sum(seen.values("cascade.attempts").values()) == len(traces[0].attempts)


def test_a_shadow_call_has_a_cost_of_its_own(seen, tmp_path):
    """It is no attempt of a step."""
    model = cascade(name="shy", validators=[], policy=Policy(shadow_rate=1.0), journal=Journal(tmp_path / "j.jsonl"))
    model.invoke("hi")
    assert shadow.wait(30)
    assert seen.values("cascade.cost")["USD", "shy", "shadow"] == pytest.approx(1100 / 1e6)
    assert seen.values("cascade.attempts") == {("accepted", "accepted", "shy", "small"): 1}


async def test_a_cascade_in_a_cascade_is_paid_once(seen):
    """The inner cascade tells its own cost; over all steps the sum is what was paid."""
    outer = cascade(small=cascade(name="inner"), name="outer", validators=[])
    trace = trace_of(outer.invoke("hi"))
    assert trace.attempts[0].inner is not None
    assert sum(seen.values("cascade.cost").values()) == pytest.approx(trace.cost)
    assert {key[1] for key in seen.values("cascade.cost")} == {"inner"}
    assert seen.values("cascade.step.duration") == {("escalated", "inner"): 1, ("accepted", "outer"): 1}


# ---- few series -----------------------------------------------------------------------------------------------------
def test_many_conversations_are_few_series(seen):
    """Threads, questions, answers, tool names, arguments and errors of 100 steps make no series and are in none."""
    words = (f"SECRET{number}" for number in itertools.count())

    def reply(messages: Any) -> AIMessage:
        kind = len(small.calls) % 3
        if kind == 0:
            raise ValueError(next(words))
        calls = [{"name": next(words), "args": {next(words): next(words)}, "id": next(words)}] if kind == 1 else []
        return AIMessage(next(words), tool_calls=calls, usage_metadata=USAGE)

    small = ScriptedChatModel(reply, loop=True)
    model = CascadeChatModel(small=small, large=ScriptedChatModel("b", loop=True), name="desk").bind_tools([find])
    for _ in range(100):
        model.invoke(next(words), {"configurable": {"thread_id": next(words)}, "tags": [next(words)]})
    found = seen.read()
    assert sum(len(m.data.data_points) for m in found.values()) <= 80
    assert "SECRET" not in str(found)
    assert sum(seen.values("cascade.step.duration").values()) == 100


def test_names_of_steps_are_the_only_open_dimension(seen):
    """Of 211 steps with names of their own the first 200 keep their name, the rest are `other`; none gets lost."""
    trace = trace_of(cascade().invoke("hi"))
    for index in range(210):
        metrics.record(otel_trace.INVALID_SPAN, replace(trace, step=f"step {index}"))
    for name in DIMENSIONS:
        kept = {p.attributes["step"] for p in seen.points(name) if "step" in p.attributes} - {"desk"}
        assert not kept or kept == {*(f"step {index}" for index in range(199)), "other"}, name
    assert seen.values("cascade.step.duration")["escalated", "other"] == 11
    assert sum(seen.values("cascade.attempts").values()) == 422


def test_a_validator_that_names_its_findings_at_will_is_bounded_too(seen):
    """Codes and names that a validator makes up are cut off after 64 of each, and sets of them after 1,900."""
    for index in range(3000):
        verdict = Verdict(outcome="fail", code=f"code {index}", validator=f"validator {index}" + "v" * 500)
        trace = StepTrace(
            id="1",
            step=f"step {index % 150}",
            outcome="exhausted",
            reason=verdict.code,
            attempts=(Attempt(tier="small", verdicts=(verdict,), confidence=0.5, cost=0.0),),
            decisions=(Decision(action="escalate", reason=f"code {index % 50}"),),
        )
        metrics.record(otel_trace.INVALID_SPAN, trace)
    validators = {p.attributes["validator"] for p in seen.points("cascade.validation.results")}
    assert len(validators) == 65
    assert max(map(len, validators)) == 128
    assert all(len(m.data.data_points) <= 1900 + 2 for m in seen.read().values())
    many = metrics.SeriesTable(metrics.Names(set), "step", "tier", "reason")
    sets = {tuple(many[f"s{i}", "small", f"r{j}"].attributes.items()) for i in range(100) for j in range(60)}
    assert len(sets) == 1901
    assert (("step", "other"), ("tier", "small"), ("reason", "other")) in sets
    assert sum(seen.values("cascade.validation.results").values()) == 3000


def test_a_name_that_no_wire_can_hold_is_mended(seen):
    """A lone surrogate or a NUL in the name of a step never reaches an exporter."""
    cascade(name="a\ud800\0b").invoke("hi")
    (point,) = seen.points("cascade.step.duration")
    assert point.attributes["step"] == "a\ufffd\ufffdb"


# ---- never in the way -----------------------------------------------------------------------------------------------
def test_instruments_that_raise_never_fail_a_step(monkeypatch, seen, caplog):
    """The step answers, the fault is logged once, the loss is counted."""
    monkeypatch.setattr(metrics, "_NOW", object())  # has none of them
    assert cascade().invoke("hi").text == "b"
    assert [r.levelname for r in caplog.records if r.name == "cascade_agent"] == ["WARNING"]
    assert faults.lost == 3  # two timings, one end
    metrics.record_cost("desk", "shadow", 1.0, "USD")
    assert faults.lost == 4


def test_a_forked_process_never_waits_for_a_lock_of_its_parent(seen):
    """A thread of the parent may hold the lock while the process forks; the child has a lock of its own."""
    held = metrics._NOW.lock
    with held:
        metrics._after_fork()
        assert metrics._NOW.lock is not held
        assert cascade().invoke("hi").text == "b"
    assert seen.values("cascade.step.duration") == {("escalated", "desk"): 1}


def test_providers_that_are_set_later_are_used_from_then_on():
    """The library sets none itself; what goes on before one is set is not kept, what comes after is traced and counted."""
    code = """
from opentelemetry import metrics, trace
from cascade_agent.adapters.chat_model import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel
model = CascadeChatModel(small=ScriptedChatModel("a", loop=True), large=ScriptedChatModel("b"), validators=[])
model.invoke("hi")
assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
assert type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
reader, exporter, tracing = InMemoryMetricReader(), InMemorySpanExporter(), TracerProvider()
tracing.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracing)
metrics.set_meter_provider(MeterProvider([reader]))
model.invoke("hi")
model.invoke("hi")
assert sum(span.name.startswith("cascade.step") for span in exporter.get_finished_spans()) == 2
found = {m.name: m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics}
assert [p.count for p in found["cascade.step.duration"].data.data_points] == [2]
assert [p.value for p in found["cascade.attempts"].data.data_points] == [2]
"""
    done = fresh.run(code)
    assert done.code == 0, done.err


@pytest.mark.parametrize("refused", ["create_histogram", "create_observable_counter"])
def test_a_refused_instrument_leaves_the_others(monkeypatch, seen, refused):
    """Each instrument that a meter refuses is one loss; the step answers and the others still count."""
    meter = Metrics()
    monkeypatch.setattr(meter.meter, refused, lambda *_, **__: 1 / 0)
    monkeypatch.setattr(metrics, "_NOW", metrics.Instruments(meter.meter))
    assert cascade().invoke("hi").text == "b"
    found = meter.read().keys()
    assert found == {
        name for name in DIMENSIONS if name.endswith(("duration", "score")) == (refused != "create_histogram")
    } - {"cascade.cost.unknown"}
    assert faults.lost == {"create_histogram": 3, "create_observable_counter": 7}[refused]


def test_providers_that_refuse_everything_break_neither_import_nor_step():
    """Whatever a tracer or meter provider raises, the package can be imported and the step answers; the log says it once."""
    code = """
from opentelemetry import metrics, trace

def refuse(*args, **kwargs):
    raise RuntimeError("no")

trace.set_tracer_provider(type("Refusing", (trace.TracerProvider,), {"get_tracer": refuse})())
metrics.set_meter_provider(type("Refusing", (metrics.MeterProvider,), {"get_meter": refuse})())
from cascade_agent import CascadeChatModel
from cascade_agent.telemetry import errors
from cascade_agent.testing import ScriptedChatModel
model = CascadeChatModel(small=ScriptedChatModel("a"), large=ScriptedChatModel("b"), validators=[])
assert model.invoke("hi").text == "a"
assert errors.lost == 2, errors.lost
"""
    done = fresh.run(code)
    assert done.code == 0, done.err
    assert done.err.count("telemetry failed") == 1


def test_losses_are_counted(seen, tmp_path):
    """Telemetry calls that failed and records that no journal took are counters that an alert can watch."""
    before = lost_records()
    assert seen.values("cascade.journal.lost") == {(): before}
    journal = Journal(tmp_path / "journal.jsonl")
    journal.close()
    cascade(journal=journal).invoke("hi")
    cascade(journal=journal).invoke("hi")
    del journal
    assert seen.values("cascade.journal.lost") == {(): before + 2}
    assert seen.values("cascade.telemetry.lost") == {(): 0}
    faults.count(ValueError("x"))
    assert seen.values("cascade.telemetry.lost") == {(): 1}
