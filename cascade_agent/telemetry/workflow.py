"""A root for the steps of one run of a graph, where nothing else makes one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace as otel_trace

from cascade_agent import semconv as names
from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.instrumentations import opens_llm_spans
from cascade_agent.telemetry.settings import current
from cascade_agent.telemetry.spans import attach, detach, open_span, set_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span


@contextmanager
def invoke_workflow(graph: str, *, thread_id: str | None = None) -> Iterator[Span]:
    """Put one run of a graph under a span `invoke_workflow {graph}`, so that its steps are one trace.

    ```python
    with invoke_workflow("support", thread_id="t1"):
        graph.invoke({"messages": [...]}, {"configurable": {"thread_id": "t1"}})
    ```

    Gives the span. Where a span is already current, or an instrumentation of LangChain makes a root of its own, it
    opens none and gives the current one. Around an `async for` over a stream put it inside the coroutine that reads all
    of it: a span that is current while a generator waits is current for whoever reads the generator.
    """
    span = otel_trace.get_current_span()
    opened = None
    if current().otel_spans and not span.get_span_context().is_valid and not _instrumented():
        known = {names.OPERATION_NAME: names.INVOKE_WORKFLOW, names.WORKFLOW_NAME: graph}
        if thread_id is not None:
            known[names.CONVERSATION_ID] = thread_id
        with guarded:
            opened = span = open_span(f"{names.INVOKE_WORKFLOW} {graph}", None, known)
    if opened is None:
        yield span
        return
    token = attach(opened)
    try:
        yield span
    except Exception as error:
        if not any(cls.__name__ == "GraphBubbleUp" for cls in type(error).__mro__):  # the host steering is no error
            set_error(opened, error)
        raise
    finally:
        detach(token)
        with guarded:
            opened.end()


def _instrumented() -> bool:
    """Return whether an instrumentation puts itself into every callback manager."""
    from langchain_core.callbacks import CallbackManager

    return opens_llm_spans(CallbackManager(handlers=[]).handlers)
