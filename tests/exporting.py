"""The OTLP exporters of all three signals over HTTP, set up as an application does."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable


def exporting(collector: str, *more: SpanProcessor | MetricReader) -> Callable[[], None]:
    """Send spans, metrics and log records of this process to a collector, and to these; return what ends it."""
    resource = Resource.create({"service.name": "desk"})
    tracing, logs = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    exporter = OTLPMetricExporter(f"{collector}/v1/metrics")
    readers = [each for each in more if isinstance(each, MetricReader)]
    readers.append(PeriodicExportingMetricReader(exporter, export_interval_millis=60_000))
    metering = MeterProvider(readers, resource=resource)
    processors = [each for each in more if isinstance(each, SpanProcessor)]
    for processor in (*processors, BatchSpanProcessor(OTLPSpanExporter(f"{collector}/v1/traces"))):
        tracing.add_span_processor(processor)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{collector}/v1/logs")))
    trace.set_tracer_provider(tracing)
    set_logger_provider(logs)
    metrics.set_meter_provider(metering)
    if find_spec("opentelemetry.sdk._events") is not None:  # before 1.38 events go through a provider of their own
        events = import_module("opentelemetry.sdk._events").EventLoggerProvider(logs)
        import_module("opentelemetry._events").set_event_logger_provider(events)

    def end() -> None:
        for provider in (tracing, logs, metering):
            provider.shutdown()

    return end
