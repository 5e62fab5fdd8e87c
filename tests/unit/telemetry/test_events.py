"""Events of a step as log records, in whichever form the installed OpenTelemetry has them."""

import importlib
import inspect
from typing import Any

import pytest
from opentelemetry import _logs as logs_api
from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.trace import sampling

from cascade_agent.telemetry import configure, settings
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import events as log_api
from tests.builders import pair, refuses_small
from tests.unit.telemetry.conftest import Spans

pytestmark = pytest.mark.filterwarnings("ignore:LogRecord init with")  # 1.35-1.37 warn of their own event loggers
NAMED = "event_name" in inspect.signature(logs_api.Logger.emit).parameters
"""Whether this version of OpenTelemetry's loggers take events by name; older ones have event loggers."""
Exporter: Any = getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter


class Exported(Spans):
    """The spans and log records of one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: Any = None) -> None:
        super().__init__(monkeypatch, sampler)
        self._logs = Exporter()
        self.logging = logs_sdk.LoggerProvider()
        self.logging.add_log_record_processor(logs_export.SimpleLogRecordProcessor(self._logs))
        if NAMED:
            monkeypatch.setattr(logs_api, "get_logger", self.logging.get_logger)
        else:
            events = importlib.import_module("opentelemetry._events")
            provider = importlib.import_module("opentelemetry.sdk._events").EventLoggerProvider(self.logging)
            monkeypatch.setattr(events, "get_event_logger", provider.get_event_logger)
        log_api._emitter.cache_clear()

    @property
    def on_spans(self) -> list[str]:
        """Names of the span events."""
        return [event.name for span in self.all for event in span.events]

    @property
    def logs(self) -> list[tuple[str, Any, dict[str, Any]]]:
        """Name, record and attributes of each log record."""
        found = []
        for data in self._logs.get_finished_logs():
            record, attributes = data.log_record, dict(data.log_record.attributes or {})
            name = attributes.pop("event.name", None) or getattr(record, "event_name", None)
            found.append((str(name), record, attributes))
        return found


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Providers of this test alone."""
    choose = log_api._emitter
    yield Exported(monkeypatch)
    choose.cache_clear()


def run() -> None:
    """One escalated step."""
    pair("SECRET a", "b", validators=[refuses_small], name="desk").invoke("SECRET question")


EVENTS = ["gen_ai.evaluation.result", "cascade.escalation"]


@pytest.mark.parametrize(
    ("where", "on_spans", "as_logs"), [("span", EVENTS, []), ("log", [], EVENTS), ("both", EVENTS, EVENTS)]
)
def test_where_events_go(exported, where, on_spans, as_logs):
    """To the spans by default, to the log, or to both, as the setting says."""
    assert settings.current().events == "span"
    configure(events=where)
    run()
    assert sorted(exported.on_spans) == sorted(on_spans)
    assert [name for name, _, _ in exported.logs] == as_logs
    assert faults.lost == 0


def test_what_log_records_say(exported):
    """Each names its event, has the attributes of a span's event, its span, a time and a severity, and no content."""
    configure(events="both")
    run()
    (judged, one, evaluation), (escalated, other, escalation) = exported.logs
    attempt, step = (*exported.named("cascade.attempt small"), *exported.named("cascade.step desk"))
    assert (judged, escalated) == tuple(EVENTS)
    assert [evaluation, escalation] == [dict(event.attributes) for span in (attempt, step) for event in span.events]
    assert (one.trace_id, one.span_id) == (attempt.context.trace_id, attempt.context.span_id)
    assert (other.trace_id, other.span_id) == (step.context.trace_id, step.context.span_id)
    assert attempt.start_time <= one.timestamp <= attempt.end_time
    assert one.severity_number is logs_api.SeverityNumber.INFO
    assert not one.body
    assert "SECRET" not in str(
        [record.to_json() if hasattr(record, "to_json") else vars(record) for record in (one, other)]
    )


def test_a_step_that_is_not_sampled_still_logs(monkeypatch):
    """Logs are kept or dropped by their own pipeline, not by the sampler of the spans."""
    exported = Exported(monkeypatch, sampler=sampling.ALWAYS_OFF)
    configure(events="both")
    run()
    assert exported.all == []
    assert [name for name, _, _ in exported.logs] == EVENTS
    log_api._emitter.cache_clear()


def test_without_a_way_to_log_events_go_to_the_span(exported, monkeypatch, caplog):
    """An API that has neither form loses nothing: the span has the events, and the log says it once."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(log_api.importlib, "import_module", missing)
    configure(events="log")
    run()
    run()
    assert sorted(set(exported.on_spans)) == sorted(EVENTS)
    assert exported.logs == []
    assert [r.levelname for r in caplog.records if r.name == "cascade_agent"] == ["WARNING"]
    assert faults.lost == 0


def test_a_logger_that_raises_never_fails_a_step(exported, monkeypatch):
    """The step answers, the loss is counted, the span is closed."""
    monkeypatch.setattr(log_api, "_emitter", lambda: lambda *_: 1 / 0)
    configure(events="both")
    run()
    assert faults.lost == 2
