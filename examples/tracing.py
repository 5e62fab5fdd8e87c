"""Spans of a step in the OpenTelemetry SDK you have already; here printed as a tree."""

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade_agent import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

model = CascadeChatModel(small=ScriptedChatModel(["  "]), large=ScriptedChatModel(["42"]), name="answer")
with trace.get_tracer("app").start_as_current_span("request"):
    model.invoke("What is six times seven?")

done = spans.get_finished_spans()


def show(parent, depth=0):
    for span in sorted((s for s in done if (s.parent and s.parent.span_id) == parent), key=lambda s: s.start_time):
        facts = {k.removeprefix("cascade."): v for k, v in span.attributes.items() if k.endswith(("outcome", "reason"))}
        print("  " * depth + span.name, facts or "")
        show(span.context.span_id, depth + 1)


show(None)
