"""The telemetry settings: one frozen value for the process, from the environment or `configure`.

The environment is read at the first step. A word in it that means nothing is logged once and left out; it never fails
an import or a step.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from cascade_agent._log import LOG
from cascade_agent.errors import ConfigurationError
from cascade_agent.telemetry import errors as faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cascade_agent.core.clean_json import JsonObject

LlmSpans = Literal["auto"] | bool
Events = Literal["span", "log", "both"]
_ON, _OFF = ("1", "true", "on", "yes"), ("0", "false", "off", "no")
_FLAGS: Final[dict[str, bool | str]] = {**dict.fromkeys(_ON, True), **dict.fromkeys(_OFF, False)}
_CONTENT: Final = {"span_only": True, "span_and_event": True, "event_only": False, "no_content": False, **_FLAGS}
_ENVIRONMENT: Final[dict[str, tuple[str, Mapping[str, bool | str]]]] = {
    "otel_spans": ("CASCADE_OTEL_SPANS", _FLAGS),
    "llm_spans": ("CASCADE_LLM_SPANS", {"auto": "auto", **_FLAGS}),
    "events": ("CASCADE_EVENTS", {"span": "span", "log": "log", "both": "both"}),
    "content": ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", _CONTENT),
}
"""Each setting with its variable, and what the words in that mean."""


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
    if _settings is None:
        _settings = _from_env()
    return _settings


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
    arguments = {"otel_spans": otel_spans, "llm_spans": llm_spans, "events": events, "content": content}
    given: JsonObject = {name: value for name, value in arguments.items() if value is not None}
    wrong = {}
    for name, value in given.items():
        choices = list(dict.fromkeys(_ENVIRONMENT[name][1].values()))
        if (type(value), value) not in [(type(choice), choice) for choice in choices]:
            wrong[name] = f"{value!r}): expected one of {', '.join(map(repr, choices))}"
    if redact is not None and not callable(redact):
        wrong["redact"] = f"{redact!r}): expected a function of a text that gives a text"
    for name, expected in wrong.items():
        msg = f"telemetry.configure({name}={expected}"
        raise ConfigurationError(msg)
    _settings = replace(_from_env(), redact=redact, **given)
    return _settings


def _from_env() -> TelemetrySettings:
    known: JsonObject = {}
    for field, (name, words) in _ENVIRONMENT.items():
        word = os.environ.get(name, "").strip().lower()
        if word in words:
            known[field] = words[word]
        elif word:
            LOG.warning("%s is %r; expected one of %s: it is ignored", name, word, ", ".join(words))
    return TelemetrySettings(**known)
