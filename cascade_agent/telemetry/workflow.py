"""A root for the steps of one run of a graph, where nothing else makes one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span, Status, StatusCode

from cascade_agent import semconv as names
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry.instrumentations import opens_llm_spans
from cascade_agent.telemetry.settings import current
from cascade_agent.telemetry.spans import attach, detach, open_span

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        try:
            opened = span = open_span(f"{names.INVOKE_WORKFLOW} {graph}", None, known)
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)
    if opened is None:
        yield span
        return
    token = attach(opened)
    try:
        yield span
    except Exception as error:
        if not any(cls.__name__ == "GraphBubbleUp" for cls in type(error).__mro__):  # the host steering is no error
            opened.set_attribute(names.ERROR_TYPE, type(error).__name__)
            opened.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        detach(token)
        try:
            opened.end()
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)


def _instrumented() -> bool:
    """Whether an instrumentation puts itself into every callback manager."""
    from langchain_core.callbacks import CallbackManager

    return opens_llm_spans(CallbackManager(handlers=[]).handlers)
