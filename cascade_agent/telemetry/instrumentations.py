"""The callback handlers that see our runs: instrumentations that open spans themselves must not open ours again.

LangChain's instrumentations place a span under that of its `parent_run_id`, and under the current OpenTelemetry span
only when they do not know that id. So handlers of one kind do not see our runs (their model spans then nest under our
attempt), those of another kind would lose such spans and see them (their span is then ours), and all others see them.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace

from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.settings import current

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_core.callbacks import BaseCallbackManager
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from cascade_agent.telemetry.events import Attributes


class Kind(Enum):
    """A handler by what it makes of a run."""

    HIDDEN = "hidden"
    """Opens spans, under the current one where it does not know the parent: does not see our runs."""
    ADOPTED = "adopted"
    """Opens spans, and only under parents it knows: its spans of our runs are ours."""
    EXPORTING = "exporting"
    """Opens spans of model calls in a way that we cannot join; sees all runs."""
    PLAIN = "plain"
    """Anything else; sees all runs."""


_HIDDEN = ("openinference.", "opentelemetry.instrumentation.genai.", "opentelemetry.instrumentation.langchain")
_ADOPTED = "TraceloopCallbackHandler"
_EXPORTING = ("langfuse.", "langchain_azure_ai.")
_LANGSMITH_EXPORTS = ("LANGSMITH_OTEL_ENABLED", "LANGCHAIN_OTEL_ENABLED")  # its tracer reads these itself
_kinds: dict[type, Kind] = {}
BEFORE: ContextVar[Context | None] = ContextVar("cascade_before", default=None)
"""The context before a run was opened that an adopted handler sees; after asynchronous ones it restores none."""
M = TypeVar("M", bound="BaseCallbackManager")


def kind_of(handler: object) -> Kind:
    """Return the kind of a handler, by the package that it or a class that it builds on comes from."""
    cls = type(handler)
    if cls not in _kinds:
        _kinds[cls] = _kind_of(cls)
    return _kinds[cls]


def _kind_of(cls: type) -> Kind:
    for base in cls.__mro__:
        if base.__name__ == _ADOPTED:
            return Kind.ADOPTED
        if base.__module__.startswith((*_HIDDEN, *_EXPORTING)):
            return Kind.HIDDEN if base.__module__.startswith(_HIDDEN) else Kind.EXPORTING
    return Kind.PLAIN


def visible_to(manager: M) -> M:
    """Return the callback manager, about to open one of our runs, without the handlers that must not see it.

    Its inheritable handlers stay: the runs below, of models, are theirs to see.
    """
    if manager.handlers and current().otel_spans:
        BEFORE.set(otel_context.get_current() if adopter(manager.handlers) is not None else None)
        manager.handlers = [handler for handler in manager.handlers if kind_of(handler) is not Kind.HIDDEN]
    return manager


def opens_llm_spans(handlers: Iterable[object]) -> bool:
    """Return whether one of them opens a span around each model call, in the OpenTelemetry of this process."""
    return any(
        kind_of(handler) is not Kind.PLAIN
        or (
            type(handler).__name__ == "LangChainTracer"
            and any(os.environ.get(name, "").strip().lower() == "true" for name in _LANGSMITH_EXPORTS)
        )
        for handler in handlers
    )


def hears_runs(handlers: Sequence[object], *, hides: bool) -> bool:
    """Return whether one of them sees our runs (with `hides` not all do) and listens to runs of chains at all."""
    return any(
        not (hides and kind_of(handler) is Kind.HIDDEN) and not getattr(handler, "ignore_chain", False)
        for handler in handlers
    )


def adopter(handlers: Iterable[object]) -> object | None:
    """Return the handler whose spans are to be ours, if there is one."""
    return next((handler for handler in handlers if kind_of(handler) is Kind.ADOPTED), None)


def adopted(handler: Any, run: Any, title: str, attributes: Attributes) -> Span | None:
    """Make the span that an adopted handler opened for a run ours, and return it; None when there is none."""
    with guarded:  # in another version of it there may be none: then our own span stands next to its
        holder = None if handler is None else handler.spans.get(run.run_id)
        if holder is not None:
            span = cast("Span", holder.span)
            if span.is_recording():
                span.update_name(title)
                span.set_attributes(attributes)
            return span
    return None


def parent_context(handlers: Iterable[object], parent_run_id: object) -> Context | None:
    """Return where a run's span belongs, by a handler that keeps spans out of the current context; None: there."""
    if parent_run_id is None:
        return None
    for handler in handlers:
        get_span = getattr(handler, "get_span", None) if kind_of(handler) is Kind.HIDDEN else None
        span = None if get_span is None else get_span(parent_run_id)
        if span is not None:
            return otel_trace.set_span_in_context(span)
    return None
