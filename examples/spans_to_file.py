"""Spans to a file without a collector, for tools that read them; in a terminal the journal does it (`trace`).

With `pip install opentelemetry-exporter-otlp-json-file` the file is OTLP, as collectors read it too; without, the SDK's
own JSON does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from cascade_agent import CascadeChatModel, Price, Tier
from cascade_agent.testing import ScriptedChatModel

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

spans = Path(tempfile.mkdtemp()) / "spans.jsonl"


def exporter() -> SpanExporter:
    """Where the spans go."""
    try:
        from opentelemetry.exporter.otlp.json.file.trace_exporter import FileSpanExporter
    except ImportError:
        return ConsoleSpanExporter(out=spans.open("a"), formatter=lambda span: f"{span.to_json(indent=None)}\n")
    return FileSpanExporter(spans)


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(exporter()))
trace.set_tracer_provider(provider)

small = Tier(ScriptedChatModel([AIMessage("")], usage=(100, 0), name="tiny"), price=Price(0.15, 0.60))
large = Tier(ScriptedChatModel([AIMessage("Rome.")], usage=(100, 2), name="huge"), price=Price(2.50, 10.00))
CascadeChatModel(small=small, large=large, name="desk").invoke(
    "Capital of Italy?", {"configurable": {"thread_id": "t1"}}
)
provider.shutdown()

print(f"{len(spans.read_text().splitlines())} lines of spans")
