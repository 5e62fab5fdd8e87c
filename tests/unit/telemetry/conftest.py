"""Each test of telemetry has settings, counts and a provider of its own; the global ones of the process are left alone."""

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import settings
from cascade_agent.telemetry import spans as telemetry


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_settings", None)
    monkeypatch.setattr(faults, "lost", 0)


class Spans:
    """A provider of one test, and what it exported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: Any = None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("cascade_agent"))

    @property
    def all(self) -> list[ReadableSpan]:
        """The finished spans in the order in which they started."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    @property
    def text(self) -> str:
        """All that they say."""
        return str([span.to_json() for span in self.all])

    def named(self, start: str) -> list[ReadableSpan]:
        """Those whose names start so."""
        return [span for span in self.all if span.name.startswith(start)]

    def tree(self, parent: int | None = None) -> list[Any]:
        """Names, nested."""
        children = [s for s in self.all if (s.parent.span_id if s.parent else None) == parent]
        return [(s.name, self.tree(s.context.span_id)) for s in children]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """Spans that the library's tracer exports in this test."""
    return Spans(monkeypatch)
