"""The telemetry settings: one frozen value for the process, from the environment or `configure`.

The environment is read at the first step. A word in it that means nothing is logged once and left out; it never fails
an import or a step.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from cascade_agent._log import LOG
from cascade_agent.errors import ConfigurationError
from cascade_agent.telemetry import errors as faults

if TYPE_CHECKING:
    from collections.abc import Callable


T = TypeVar("T")
LlmSpans = Literal["auto"] | bool
Events = Literal["span", "log", "both"]
_FLAGS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
_CONTENT = {"span_only": True, "span_and_event": True, "event_only": False, "no_content": False, **_FLAGS}
_LLM: dict[str, LlmSpans] = {"auto": "auto", **_FLAGS}
_EVENTS: dict[str, Events] = {"span": "span", "log": "log", "both": "both"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """The telemetry of a step. Process-wide; see `configure`."""

    otel_spans: bool = True
    """Open OpenTelemetry spans of our own. Off: callback handlers still see each step and attempt as LangChain runs,
    those of tracing instrumentations too. `CASCADE_OTEL_SPANS`."""

    llm_spans: LlmSpans = "auto"
    """Open a `chat {model}` span around each model call. `"auto"`: unless a callback handler does so itself. Set it to
    False where the provider's client is instrumented, else tokens are counted twice. `CASCADE_LLM_SPANS`."""

    events: Events = "span"
    """Where verdicts and escalations go: as events of spans, as log events, or as both. `CASCADE_EVENTS`."""

    content: bool = False
    """Put messages on the `chat` spans. `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`."""

    redact: Callable[[str], str] | None = None
    """Called with each text before it is put on a span or event; one that raises takes the text away."""

    def redacted(self, text: str) -> str:
        """Return a text as it may be written."""
        if self.redact is None:
            return text
        try:
            return str(self.redact(text))
        except Exception as error:  # noqa: BLE001 - what cannot be redacted is not written
            faults.count(error)
            return "[removed: redact failed]"


_settings: TelemetrySettings | None = None


def current() -> TelemetrySettings:
    """Return the settings of this process."""
    global _settings  # noqa: PLW0603 - process-wide, by design
    settings = _settings
    if settings is None:
        settings = _settings = _from_env()
    return settings


def configure(
    *,
    otel_spans: bool | None = None,
    llm_spans: LlmSpans | None = None,
    events: Events | None = None,
    content: bool | None = None,
    redact: Callable[[str], str] | None = None,
) -> TelemetrySettings:
    """Set the telemetry of the whole process; best before the first step.

    What is None stays as the environment has it, so `configure()` reads that anew. `TelemetrySettings` says what each
    setting does. Returns the settings now in force.

    Raises:
        ConfigurationError: a setting that cannot work.
    """
    global _settings  # noqa: PLW0603 - process-wide, by design
    for name, flag in (("otel_spans", otel_spans), ("content", content)):
        if flag is not None and not isinstance(flag, bool):
            _refuse(name, flag, "True or False")
    if llm_spans is not None and llm_spans != "auto" and not isinstance(llm_spans, bool):
        _refuse("llm_spans", llm_spans, "'auto', True or False")
    if events is not None and events not in _EVENTS:
        _refuse("events", events, "'span', 'log' or 'both'")
    if redact is not None and not callable(redact):
        _refuse("redact", redact, "a function of a text that gives a text")
    env = _from_env()
    _settings = TelemetrySettings(
        otel_spans=env.otel_spans if otel_spans is None else otel_spans,
        llm_spans=env.llm_spans if llm_spans is None else llm_spans,
        events=env.events if events is None else events,
        content=env.content if content is None else content,
        redact=redact,
    )
    return _settings


def _refuse(name: str, value: object, expected: str) -> None:
    msg = f"telemetry.configure({name}={value!r}): expected {expected}"
    raise ConfigurationError(msg)


def _from_env() -> TelemetrySettings:
    return TelemetrySettings(
        otel_spans=_read("CASCADE_OTEL_SPANS", _FLAGS, default=True),
        llm_spans=_read("CASCADE_LLM_SPANS", _LLM, default="auto"),
        events=_read("CASCADE_EVENTS", _EVENTS, default="span"),
        content=_read("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", _CONTENT, default=False),
    )


def _read(name: str, words: dict[str, T], *, default: T) -> T:
    word = os.environ.get(name, "").strip().lower()
    if not word:
        return default
    if word not in words:
        LOG.warning("%s is %r; expected one of %s: it is ignored", name, word, ", ".join(words))
        return default
    return words[word]
