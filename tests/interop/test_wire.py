"""Spans, metrics and log events of a step on the wire, through the real OTLP exporters, read as protobuf."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from tests import fresh
from tests.builders import ROOT, otlp_receiver

pytestmark = pytest.mark.xdist_group("wire")  # what these share is made once

SDK = tuple(int(part) for part in version("opentelemetry-sdk").split(".")[:2])
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
KINDS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}

APP = """
import sys
from langchain_core.messages import AIMessage
from opentelemetry import trace
from cascade_agent import CascadeChatModel, Policy, Price, Tier, Verdict
from cascade_agent.testing import ScriptedChatModel
from tests.exporting import exporting

end = exporting(sys.argv[1])

def careful(draft, context):
    if draft.tier == "large":
        return Verdict(outcome="pass", score=0.75, code="fine")
    return Verdict(outcome="fail", code="odd", reason="it is small", path="/text", score=0.25)

def tier(name, text, usage, price):
    return Tier(ScriptedChatModel([AIMessage(text)], usage=usage, name=name), price=Price(price, price))

small, large = tier("s-1", "SECRET draft", (100, 10), 1), tier("l-1", "SECRET answer", (100, 20), 10)
policy = Policy(threshold=0.5)
desk = CascadeChatModel(small=small, large=large, validators=[careful], policy=policy, name="desk")
with trace.get_tracer("app").start_as_current_span("request"):
    desk.invoke("SECRET question", {"configurable": {"thread_id": "t1"}})
end()
"""


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as Python values of the type that they have on the wire."""
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


class Wire:
    """Return what an application with batch processors sent, with events on spans or as logs."""

    def __init__(self, where: str, bodies: list[tuple[str, bytes]]) -> None:
        self.where, self.bodies = where, bodies
        self.traces = [rs for request in self.sent("/v1/traces") for rs in request.resource_spans]
        self.metered = [rm for request in self.sent("/v1/metrics") for rm in request.resource_metrics]
        self.logged = [rl for request in self.sent("/v1/logs") for rl in request.resource_logs]
        sent = [span for rs in self.traces for ss in rs.scope_spans for span in ss.spans]
        self.spans = {span.name: span for span in sent}
        self.names = {span.span_id: span.name for span in sent}
        assert len(self.spans) == len(sent)
        scopes = [sm for rm in self.metered for sm in rm.scope_metrics if sm.scope.name == "cascade_agent"]
        self.metrics = {metric.name: metric for sm in scopes for metric in sm.metrics}
        self.records = [record for rl in self.logged for sl in rl.scope_logs for record in sl.log_records]

    def sent(self, path: str) -> list[Any]:
        """The messages sent to a path."""
        return [KINDS[where].FromString(body) for where, body in self.bodies if where == path]


@pytest.fixture(scope="module", params=["span", "log"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """One escalated step."""
    with otlp_receiver() as (address, bodies):
        done = fresh.run(APP, address, cwd=ROOT, env={"CASCADE_EVENTS": request.param, "PATH": ""})
        assert done.code == 0, done.err
        assert "Traceback" not in done.err
        yield Wire(request.param, bodies)


TYPES = {
    int: "step.attempts attempt.index attempt.input_tokens attempt.output_tokens",
    float: "step.confidence step.cost attempt.score attempt.threshold attempt.cost",
    bool: "step.escalated validation.passed",
    list: "validation.failed",
}


def test_spans_on_the_wire(wire):
    """One trace, each span under its parent; counts are integers, money and scores doubles; only models say tokens."""
    parents = {name: wire.names.get(span.parent_span_id) for name, span in wire.spans.items()}
    assert parents == {
        "request": None,
        "cascade.step desk": "request",
        "cascade.attempt small": "cascade.step desk",
        "cascade.attempt large": "cascade.step desk",
        "chat s-1": "cascade.attempt small",
        "chat l-1": "cascade.attempt large",
    }
    assert len({span.trace_id for span in wire.spans.values()}) == 1
    attributes = {name: plain(span.attributes) for name, span in wire.spans.items()}
    step, small = attributes["cascade.step desk"], attributes["cascade.attempt small"]
    found = {kind: {key for key, value in {**step, **small}.items() if type(value) is kind} for kind in TYPES}
    assert found == {kind: {f"cascade.{key}" for key in keys.split()} for kind, keys in TYPES.items()}
    texts = {key for key, value in {**step, **small}.items() if type(value) is str}
    assert len(texts) + sum(map(len, found.values())) == len({**step, **small}) == 24
    assert (step["cascade.step.outcome"], step["cascade.step.reason"]) == ("escalated", "odd")
    assert step["cascade.step.cost"] == pytest.approx((110 + 1200) / 1e6)
    assert small["cascade.validation.failed"] == ["careful"]
    sides = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    used = {name: tuple(a[side] for side in sides) for name, a in attributes.items() if sides[0] in a}
    assert used == {"chat s-1": (100, 10), "chat l-1": (100, 20)}
    assert not [key for a in attributes.values() for key in a if key.startswith("llm.")]


def test_events_go_where_they_are_asked_for(wire):
    """As span events or as log records, with the same attributes, and the records know their spans."""
    on_spans = [(name, e.name, plain(e.attributes)) for name, s in wire.spans.items() for e in s.events]
    logged = []
    for record in wire.records:
        name, facts = wire.names[record.span_id], plain(record.attributes)
        assert record.trace_id == wire.spans[name].trace_id
        logged.append((name, facts.pop("event.name", None) or record.event_name, facts))
    carries, silent = (on_spans, logged) if wire.where == "span" else (logged, on_spans)
    assert silent == []
    assert {(span, name) for span, name, _ in carries} == {
        ("cascade.attempt small", "gen_ai.evaluation.result"),
        ("cascade.attempt large", "gen_ai.evaluation.result"),
        ("cascade.step desk", "cascade.escalation"),
    }
    (small,) = [facts for span, _, facts in carries if span == "cascade.attempt small"]
    facts = {"name": "careful", "score.label": "fail", "explanation": "/text: odd it is small", "score.value": 0.25}
    assert {f"gen_ai.evaluation.{key}": value for key, value in facts.items()}.items() <= small.items()
    (step,) = [facts for _, name, facts in carries if name == "cascade.escalation"]
    assert step == {"cascade.tier.from": "small", "cascade.tier.to": "large", "cascade.escalation.reason": "odd"}


def test_metrics_on_the_wire(wire):
    """Histograms with our buckets, monotonic cumulative sums, values that agree with the step, and its exemplar."""
    found = wire.metrics
    kinds = {"histogram": "step.duration attempt.score validation.duration"}
    kinds["sum"] = "attempts validation.results validation.time cost telemetry.lost journal.lost"
    assert found.keys() == {f"cascade.{name}" for names in kinds.values() for name in names.split()}
    for name, metric in found.items():
        kind = metric.WhichOneof("data")
        assert name.removeprefix("cascade.") in kinds[kind].split()
        assert getattr(metric, kind).aggregation_temporality == CUMULATIVE
        assert kind == "histogram" or metric.sum.is_monotonic
    (duration,) = found["cascade.step.duration"].histogram.data_points
    if SDK >= (1, 33):  # before, the OTLP exporter laid the SDK's own buckets over those that an instrument asks for
        assert list(duration.explicit_bounds)[:2] == [0.01, 0.02]
    assert (duration.count, plain(duration.attributes)) == (1, {"step": "desk", "outcome": "escalated"})
    cost = sum(point.as_double for point in found["cascade.cost"].sum.data_points)
    assert cost == pytest.approx((110 + 1200) / 1e6)
    step = wire.spans["cascade.step desk"]  # the exemplar leads to it
    assert {(e.trace_id, e.span_id) for e in duration.exemplars} == {(step.trace_id, step.span_id)}


def test_every_signal_has_its_resource_and_scope_and_no_content(wire):
    """The application's service name and this library's name; nothing that people or models said is in any byte."""
    parts = [*wire.traces, *wire.metered, *wire.logged]
    assert {plain(part.resource.attributes)["service.name"] for part in parts} == {"desk"}
    assert {path for path, _ in wire.bodies} == set(KINDS) - ({"/v1/logs"} if wire.where == "span" else set())
    assert {ss.scope.name for rs in wire.traces for ss in rs.scope_spans} == {"app", "cascade_agent"}
    assert not [path for path, body in wire.bodies if b"SECRET" in body]
