"""The settings are made once per process: by the environment, or by `configure`."""

from typing import Any

import pytest

from cascade_agent.errors import ConfigurationError
from cascade_agent.telemetry import configure, settings
from cascade_agent.telemetry import errors as faults
from tests import fresh

VARIABLES = ("CASCADE_OTEL_SPANS", "CASCADE_LLM_SPANS", "CASCADE_EVENTS")
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, CONTENT):
        monkeypatch.delenv(name, raising=False)


def test_defaults_and_what_is_given(monkeypatch) -> None:
    """Spans on, model spans as needed, no content; what is given wins over the environment, what is not is as it says."""
    assert settings.current() == settings.TelemetrySettings(
        otel_spans=True, llm_spans="auto", events="span", content=False, redact=None
    )
    monkeypatch.setenv("CASCADE_LLM_SPANS", "false")
    configure(otel_spans=False, events="log")
    now = configure(llm_spans="auto", content=True, redact=str.upper)
    assert now is settings.current()
    assert now == settings.TelemetrySettings(llm_spans="auto", content=True, redact=str.upper)


@pytest.mark.parametrize(
    ("name", "word", "field", "value"),
    [
        ("CASCADE_OTEL_SPANS", "false", "otel_spans", False),
        ("CASCADE_OTEL_SPANS", " ON ", "otel_spans", True),
        ("CASCADE_LLM_SPANS", "0", "llm_spans", False),
        ("CASCADE_LLM_SPANS", "yes", "llm_spans", True),
        ("CASCADE_LLM_SPANS", "auto", "llm_spans", "auto"),
        ("CASCADE_EVENTS", "both", "events", "both"),
        (CONTENT, "SPAN_ONLY", "content", True),
        (CONTENT, "span_and_event", "content", True),
        (CONTENT, "EVENT_ONLY", "content", False),
        (CONTENT, "NO_CONTENT", "content", False),
        (CONTENT, "true", "content", True),
        (CONTENT, "", "content", False),
    ],
)
def test_the_environment(monkeypatch, name, word, field, value):
    """Each switch has its variable; OpenTelemetry's own one for content is read as the conventions have it."""
    monkeypatch.setenv(name, word)
    assert getattr(settings.current(), field) == value
    assert getattr(configure(), field) == value


@pytest.mark.parametrize("name", [*VARIABLES, CONTENT])
def test_a_word_that_means_nothing_is_said_and_left_out(monkeypatch, caplog, name):
    """A wrong word in the environment never fails a step."""
    monkeypatch.setenv(name, "maybe")
    assert settings.current() == settings.TelemetrySettings()
    assert settings.current() is settings.current()
    assert [name in r.getMessage() and "'maybe'" in r.getMessage() for r in caplog.records] == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"otel_spans": "no"},
        {"llm_spans": "never"},
        {"llm_spans": 1.5},
        {"events": "logs"},
        {"content": 1},
        {"redact": "x"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused(wrong: Any):
    """A wrong argument is named, with what was expected, and changes nothing."""
    before = configure(llm_spans=True)
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        configure(**wrong)
    assert settings.current() is before


def test_a_redact_that_raises_takes_the_text_away():
    """A record that cannot be redacted is not written; the fault is counted."""

    def breaks(text: str) -> str:
        raise KeyError(text)

    assert configure(redact=lambda text: text.replace("4711", "#")).redacted("order 4711") == "order #"
    assert "4711" not in configure(redact=breaks).redacted("order 4711")
    assert faults.lost == 1


def test_nothing_is_read_or_set_by_the_import():
    """The import makes no provider and reads no environment."""
    code = """
import os
os.environ["CASCADE_LLM_SPANS"] = "nonsense"
from cascade_agent import telemetry
from opentelemetry import trace
assert telemetry.settings._settings is None
assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
"""
    done = fresh.run(code)
    assert (done.code, done.err) == (0, "")
