"""The handlers that see our runs: known by the package they come from, looked up once per class."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.tracers import LangChainTracer
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider

from cascade_agent.telemetry import configure
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import instrumentations as handlers
from cascade_agent.telemetry.instrumentations import Kind


def handler(module: str, name: str = "Handler", base: type = BaseCallbackHandler) -> Any:
    """A handler as a package has it."""
    return type(name, (base,), {"__module__": module})()


@pytest.mark.parametrize(
    ("module", "name", "kind"),
    [
        ("openinference.instrumentation.langchain._tracer", "OpenInferenceTracer", Kind.HIDDEN),
        ("opentelemetry.instrumentation.genai.langchain.callback_handler", "Handler", Kind.HIDDEN),
        (
            "opentelemetry.instrumentation.langchain.callback_handler",
            "OpenTelemetryLangChainCallbackHandler",
            Kind.HIDDEN,
        ),
        ("opentelemetry.instrumentation.langchain.callback_handler", "TraceloopCallbackHandler", Kind.ADOPTED),
        ("langfuse.langchain.CallbackHandler", "LangchainCallbackHandler", Kind.EXPORTING),
        ("langchain_azure_ai.callbacks.tracers", "AzureAIOpenTelemetryTracer", Kind.EXPORTING),
        ("my.application", "Handler", Kind.PLAIN),
    ],
)
def test_kinds(module, name, kind):
    """Instrumentations are known by their package; a subclass of one's own is of the same kind."""
    one = handler(module, name)
    assert handlers.kind_of(one) is kind
    assert handlers.kind_of(handler("my.application", "Mine", type(one))) is kind
    assert handlers.opens_llm_spans([one]) is (kind is not Kind.PLAIN)


def test_a_hidden_handler_keeps_what_is_below():
    """It is taken from those who hear of the run, not from those who hear of its children; off, nobody is."""
    hidden, other = handler("openinference.x"), handler("mine")
    manager = CallbackManager(handlers=[hidden, other], inheritable_handlers=[hidden, other])
    configure(otel_spans=False)
    assert handlers.visible_to(manager).handlers == [hidden, other]
    configure()
    assert handlers.visible_to(manager).handlers == [other]
    assert manager.inheritable_handlers == [hidden, other]
    assert handlers.hears_runs([hidden], hides=True) is False
    assert handlers.hears_runs([hidden], hides=False) is True
    assert handlers.hears_runs([type("Deaf", (BaseCallbackHandler,), {"ignore_chain": True})()], hides=True) is False


@pytest.mark.parametrize("variable", ["LANGSMITH_OTEL_ENABLED", "LANGCHAIN_OTEL_ENABLED"])
def test_langsmith_as_an_exporter(monkeypatch, variable):
    """LangSmith's tracer opens spans of model calls only in its OpenTelemetry mode."""
    tracer = LangChainTracer(client=object())
    monkeypatch.delenv(variable, raising=False)
    assert handlers.opens_llm_spans([tracer]) is False
    monkeypatch.setenv(variable, "true")
    assert handlers.opens_llm_spans([tracer]) is True


def test_whose_spans_are_adopted():
    """A handler that keeps its spans says which one a run's is; one of another version, or no parent, says nothing."""
    span, run_id = TracerProvider().get_tracer("x").start_span("node"), uuid4()
    keeper = handler("openinference.x")
    keeper.get_span = {run_id: span}.get
    context = handlers.parent_context([handler("mine"), keeper], run_id)
    assert context is not None
    assert otel_trace.get_current_span(context) is span
    assert handlers.parent_context([keeper], uuid4()) is None
    assert handlers.parent_context([keeper], None) is None
    assert handlers.adopted(handler("x"), SimpleNamespace(run_id=uuid4()), "x", {}) is None
    assert faults.lost == 1
