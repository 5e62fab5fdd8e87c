"""Steps read back from spans: what real exporters write, in any order, whatever is missing or broken."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade_agent import CascadeChatModel, CascadeExhausted, Price, StepTrace, Tier, Verdict
from cascade_agent.cli._span_files import Span, Steps, format_of, spans_of
from cascade_agent.errors import RecordError
from cascade_agent.telemetry import spans as telemetry
from cascade_agent.testing import ScriptedChatModel, TraceCapture

DATA = Path(__file__).parent / "data"


def by_collector(spans: Any) -> dict[str, Any]:
    """A request as the Collector's file exporter writes it: protobuf's JSON, but ids in hexadecimal, enums as numbers."""
    data = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in data["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                span.setdefault("parentSpanId", "")  # the Collector writes it empty
                for key in ("traceId", "spanId", "parentSpanId"):
                    span[key] = base64.b64decode(span[key]).hex()
    return data


def judge(draft: Any, _context: Any) -> Verdict:
    """Objects to drafts that begin with `bad`."""
    if draft.text.startswith("bad"):
        return Verdict(outcome="fail", code="odd", reason="it begins badly", path="/text")
    return Verdict(outcome="pass", score=0.75, code="fine")


def breaks(_draft: Any, _context: Any) -> Verdict:
    """A validator that broke."""
    raise KeyError("x")


def tier(reply: Any, name: str, price: float) -> Tier:
    """A tier that always says the same."""
    return Tier(ScriptedChatModel(reply, name=name, usage=(100, 10), loop=True), price=Price(price, price))


@pytest.fixture(scope="module")
def both() -> tuple[list[Any], list[StepTrace]]:
    """The same steps as spans and as journal records: accepted, escalated, exhausted, broken, nested, in two threads."""
    exporter, provider, journal = InMemorySpanExporter(), TracerProvider(), TraceCapture()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("cascade_agent")
    ladder = CascadeChatModel(
        small=tier("bad", "medium", 3), large=tier("good", "huge", 10), validators=[judge], name="ladder"
    )
    cases: list[tuple[Any, Any, Any]] = [
        (tier("good", "tiny", 1), tier("good", "huge", 10), judge),
        (tier("bad", "tiny", 1), tier("good", "huge", 10), judge),
        (tier("bad", "tiny", 1), tier("bad", "huge", 10), judge),
        (tier("good", "tiny", 1), tier("good", "huge", 10), breaks),
        (tier(ConnectionError("gone"), "tiny", 1), ladder, judge),
        (ladder, tier("good", "huge", 10), judge),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "_TRACER", tracer)
        for index, (small, large, validator) in enumerate(cases):
            model = CascadeChatModel(small=small, large=large, validators=[validator], name="desk", journal=journal)
            outside = tracer.start_as_current_span("request") if index % 2 else contextlib.nullcontext()
            with outside, contextlib.suppress(CascadeExhausted):
                model.invoke("hello", {"configurable": {"thread_id": f"t-{index // 3}"}})
    return list(exporter.get_finished_spans()), journal.traces


def told(step: StepTrace) -> dict[str, Any]:
    """Of a record what spans tell too."""
    attempts = []
    for attempt in step.attempts:
        inner = None if attempt.inner is None else told(StepTrace.from_json(attempt.inner))
        verdicts = [(v.validator, v.outcome, v.code, v.reason, v.score, v.path, v.hard) for v in attempt.verdicts]
        error = attempt.error and attempt.error.partition(":")[0]
        tokens = attempt.usage and (attempt.usage.input_tokens, attempt.usage.output_tokens)
        attempts.append(
            (
                attempt.tier,
                attempt.model,
                attempt.outcome,
                verdicts,
                attempt.confidence,
                tokens,
                attempt.cost,
                error,
                inner,
            )
        )
    facts = (step.step, step.outcome, step.reason, step.final_tier, step.escalated, step.degraded, step.confidence)
    return {"facts": facts, "cost": (step.cost, step.currency), "thread": step.thread_id, "policy": step.policy, "attempts": attempts}  # fmt: skip


def steps_of(lines: list[dict[str, Any]], **settings: Any) -> list[StepTrace]:
    """All steps of some lines."""
    steps = Steps(**settings)
    found = [step for line in lines for span in spans_of(line) for step in steps.feed(span)]
    return found + list(steps.rest())


def test_spans_tell_the_steps_as_the_journal_does(both):
    """Outcome, reason, attempts, verdicts, cost, tokens, thread and inner cascades are the same from either file."""
    spans, journal = both
    inner = {json.dumps(a.inner) for step in journal for a in step.attempts if a.inner}
    assert len(inner) == 2
    outer = [told(step) for step in journal]
    assert [told(step) for step in steps_of([by_collector(spans)])] == outer
    assert [told(step) for step in steps_of([by_collector([span]) for span in spans])] == outer
    sdk = [json.loads(span.to_json(indent=None)) for span in spans]
    assert {format_of(line) for line in sdk} == {"sdk"}
    assert [told(step) for step in steps_of(sdk)] == outer


def test_times_are_the_spans_own(both):
    """A step's latency and start are those of its span, its id the span's, its run the trace's."""
    spans, _ = both
    step = steps_of([by_collector(spans)])[0]
    span = next(s for s in spans if f"{s.context.span_id:016x}" == step.id)
    assert step.latency == pytest.approx((span.end_time - span.start_time) / 1e9)
    assert step.run_id == f"{span.context.trace_id:032x}"
    assert step.started_at is not None
    assert step.started_at.endswith("+00:00")


@given(order=st.randoms(use_true_random=False))
def test_the_order_of_spans_does_not_matter(both, order):
    """Collectors batch, retry and sort: each order, and each span twice, gives the same steps."""
    spans = [span for line in (by_collector(both[0]),) for span in spans_of(line)] * 2
    order.shuffle(spans)
    steps = Steps()
    found = [step for span in spans for step in steps.feed(span)] + list(steps.rest())
    wanted = sorted(json.dumps(told(step)) for step in both[1])
    assert sorted(json.dumps(told(step)) for step in found) == wanted
    assert (steps.alone, steps.unread) == (0, 0)


def test_the_file_of_the_official_exporter_is_read():
    """What opentelemetry-exporter-otlp-json-file 0.66 wrote: four steps, one of them with a cascade inside."""
    lines = [json.loads(line) for line in (DATA / "spans.otlp.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {format_of(line) for line in lines} == {"otlp"}
    steps = steps_of(lines)
    assert [(s.thread_id, s.outcome, s.reason, s.final_tier) for s in steps] == [
        ("t-1", "accepted", "accepted", "small"),
        ("t-1", "escalated", "odd", "large"),
        ("t-2", "exhausted", "odd", None),
        ("t-2", "escalated", "model_error", "large"),
    ]
    inner = StepTrace.from_json(steps[3].attempts[1].inner or {})
    assert (inner.step, [a.model for a in inner.attempts]) == ("ladder", ["medium", "huge"])
    assert steps[1].cost == pytest.approx(0.00121)


def _span(kind: str, span_id: str, parent: str | None, trace: str = "t", start: int = 1) -> Span:
    key = {"step": "cascade.step.outcome", "attempt": "cascade.attempt.outcome"}.get(kind)
    attributes = {} if key is None else {key: "accepted", "cascade.tier.name": "small", "cascade.step.name": span_id}
    return Span(trace_id=trace, id=span_id, parent=parent, attributes=attributes, start=start, end=start + 1)


def test_a_fixed_number_of_spans_waits():
    """However many traces there are, no more than `hold` spans wait, and every step comes out with its attempt."""
    steps, found = Steps(hold=8), []
    for n in range(500):
        for span in (
            _span("attempt", f"a{n}", f"s{n}", f"t{n}"), _span("step", f"s{n}", f"r{n}", f"t{n}"), _span("other", f"r{n}", None, f"t{n}")
        ):  # fmt: skip
            found += steps.feed(span)
            assert steps.waiting <= 8
    found += steps.rest()
    assert [step.step for step in found] == [f"s{n}" for n in range(500)]
    assert all(len(step.attempts) == 1 for step in found)
    assert (steps.waiting, steps.alone) == (0, 0)


def test_in_one_endless_trace_a_fixed_number_waits():
    """A run of days is one trace: its finished steps go, and an attempt whose step still runs keeps its place."""
    steps, found = Steps(hold=64), []
    found += steps.feed(_span("attempt", "early", "last"))
    for n in range(1000):
        for span in (_span("attempt", f"a{n}", f"s{n}"), _span("other", f"o{n}", "r"), _span("step", f"s{n}", "r")):
            found += steps.feed(span)
            assert steps.waiting <= 64
    found += steps.feed(_span("step", "last", "r", start=9))
    found += steps.rest()
    assert [step.step for step in found] == [*(f"s{n}" for n in range(1000)), "last"]
    assert all(len(step.attempts) == 1 for step in found)


def test_attempts_without_a_step_are_counted():
    """A process that was killed in a step leaves attempts: they make no step, and are counted when given up."""
    steps = Steps(hold=64)
    found = [step for n in range(1000) for step in steps.feed(_span("attempt", f"a{n}", f"s{n}"))]
    found += steps.rest()
    assert found == []
    assert (steps.alone, steps.waiting) == (1000, 0)


def test_an_inner_step_whose_own_step_never_came_is_shown_alone():
    """It is not lost: it stands for itself."""
    spans = [_span("attempt", "b", "inner"), _span("step", "inner", "a"), _span("attempt", "a", "outer")]
    steps = Steps()
    assert [list(steps.feed(span)) for span in spans] == [[], [], []]
    assert list(steps.ready(before=1.0)) == []
    assert [step.step for step in steps.rest()] == ["inner"]
    assert steps.alone == 1


def test_a_step_is_ready_when_it_has_waited():
    """While a file is followed a step waits a moment for spans that are late, and then goes once."""
    steps = Steps()
    assert list(steps.feed(_span("step", "s", None), now=5.0)) == []
    assert list(steps.ready(before=5.0)) == []
    assert list(steps.feed(_span("attempt", "a", "s"), now=5.1)) == []
    assert [len(step.attempts) for step in steps.ready(before=5.5)] == [1]
    assert [*steps.ready(before=9.0), *steps.rest()] == []
    assert steps.waiting == 0


@pytest.mark.parametrize("start", ["step", "attempt"])
def test_ids_that_go_round_in_circles_end(start):
    """Parents of each other: reading ends, and each step is given at most once."""
    kinds = ("step", "attempt") if start == "step" else ("attempt", "step")
    steps = Steps()
    spans = [_span(kinds[0], "x", "y"), _span(kinds[1], "y", "x"), _span("other", "o", "o"), _span("step", "z", "o")]
    found = [step for span in spans for step in steps.feed(span)] + list(steps.rest())
    assert sorted(step.step for step in found) == sorted(["z", "x" if start == "step" else "y"])
    assert steps.waiting == 0


def test_a_thousand_cascades_inside_of_each_other_are_read():
    """Depth is bounded: what lies deeper stands for itself, and nothing is lost."""
    steps = Steps()
    for n in range(1000):
        for span in (_span("step", f"s{n}", f"a{n - 1}" if n else None), _span("attempt", f"a{n}", f"s{n}")):
            assert list(steps.feed(span)) == []
    found, depth = list(steps.rest()), 0
    for step in found:
        data: Any = step.to_json()
        while data:
            depth, data = depth + 1, data["attempts"][0].get("inner")
    assert depth == 1000


def test_values_of_every_type_are_read():
    """64-bit integers and infinities are strings in OTLP's JSON; arrays and maps nest; an empty value is None."""
    value = [
        ({"intValue": "42"}, 42), ({"intValue": 42}, 42), ({"doubleValue": "Infinity"}, float("inf")), ({}, None),
        ({"boolValue": False}, False), ({"stringValue": ""}, ""),
        ({"arrayValue": {"values": [{"intValue": "1"}]}}, [1]), ({"arrayValue": {}}, []),
        ({"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "v"}}]}}, {"k": "v"}),
    ]  # fmt: skip
    attributes = [{"key": "cascade.step.outcome", "value": {"stringValue": "accepted"}}]
    attributes += [{"key": str(n), "value": given} for n, (given, _) in enumerate(value)]
    span = {"traceId": "a", "spanId": "b", "name": "x", "attributes": attributes}
    (read,) = spans_of({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    assert [read.attributes[str(n)] for n in range(len(value))] == [wanted for _, wanted in value]


def test_lines_of_logs_and_metrics_hold_no_spans():
    """A Collector may write all three kinds into one file."""
    for key in ("resourceLogs", "resourceMetrics"):
        assert format_of({key: []}) == "otlp"
        assert list(spans_of({key: [{}]})) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["key", "value", "traceId", "spanId", "attributes", "events", "stringValue", "intValue", "name"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(spans=st.lists(JSON, max_size=3))
def test_nothing_but_a_record_error_comes_out_of_a_broken_line(spans):
    """Whatever stands where spans should be."""
    with contextlib.suppress(RecordError):
        list(spans_of({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}))
    for span in spans:
        with contextlib.suppress(RecordError):
            list(spans_of({"context": span if isinstance(span, dict) else {}, "start_time": span, "attributes": span}))


@given(outcome=JSON, reason=JSON, number=JSON, label=JSON)
def test_spans_with_impossible_values_make_a_record_or_are_counted(outcome, reason, number, label):
    """A foreign or damaged span is counted in `unread`, never an error."""
    step = {
        "cascade.step.outcome": outcome, "cascade.step.reason": reason, "cascade.step.cost": number,
        "cascade.step.confidence": number, "gen_ai.conversation.id": reason,
    }  # fmt: skip
    event = {
        "gen_ai.evaluation.score.label": label,
        "gen_ai.evaluation.score.value": number,
        "gen_ai.evaluation.name": reason,
    }
    attempt = {
        "cascade.attempt.outcome": "rejected",
        "cascade.attempt.cost": number,
        "cascade.tier.name": label,
        "error.type": reason,
    }
    steps = Steps()
    spans = [
        Span(trace_id="t", id="a", parent="s", attributes=attempt, events=(("gen_ai.evaluation.result", event),), end=2**80),
        Span(trace_id="t", id="s", attributes=step, start=2**80, end=1),
        Span(trace_id="t", id="good", attributes={**step, "cascade.step.outcome": "accepted"}),
    ]  # fmt: skip
    found = [s for span in spans for s in steps.feed(span)] + list(steps.rest())
    assert len(found) + steps.unread >= 2
    for record in found:
        assert StepTrace.from_json(json.loads(json.dumps(record.to_json()))) == record
