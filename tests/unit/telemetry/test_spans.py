"""Spans of a step: how they nest, what they say, and that a broken provider never reaches the step."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.errors import GraphInterrupt
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider, sampling
from opentelemetry.trace import StatusCode

from cascade_agent import CascadeChatModel, CascadeExhausted, Policy, Price, Tier, Verdict
from cascade_agent.core.records import Attempt, Decision, StepTrace
from cascade_agent.engine.step import trace_of
from cascade_agent.telemetry import configure
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry import spans as telemetry
from cascade_agent.testing import ScriptedChatModel, always_fail
from tests import builders
from tests.builders import Hanging, cancelled, pair, streamed

BOTH = pytest.mark.parametrize("how", ["sync", "async", "stream", "astream"])


@pytest.fixture(autouse=True)
def _own_model_spans(_fresh: None) -> None:
    configure(llm_spans=False)  # the models of these tests open a span of their own


async def ask(model: Any, *, how: str) -> Any:
    """One call, on one of the four ways."""
    kind = "sync" if how in ("sync", "stream") else "async"
    return (await streamed(model, "hi", how=kind))[-1] if "stream" in how else await builders.ask(model, how=kind)


def refuses_small(draft: Any, _context: Any) -> Verdict | None:
    """A validator that objects to every draft of the small tier."""
    if draft.tier == "large":
        return Verdict(outcome="pass", score=0.75, code="fine")
    return Verdict(outcome="fail", code="odd", reason="it is small", path="/text")


def instrumented(spans: Any, text: str) -> Any:
    """A reply of a model that opens a span of its own, as an instrumented client does."""

    def reply(_messages: Any) -> AIMessage:
        with spans.tracer.start_as_current_span("chat"):
            usage = {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16}
            return AIMessage(text, usage_metadata=usage)

    return reply


def cascade(spans: Any, **kwargs: Any) -> CascadeChatModel:
    """Two instrumented models; small is refused."""
    settings: dict[str, Any] = {
        "small": Tier(ScriptedChatModel(instrumented(spans, "a"), name="s", loop=True), price=Price(1, 1)),
        "large": Tier(ScriptedChatModel(instrumented(spans, "b"), name="l", loop=True), price=Price(10, 10)),
        "validators": [refuses_small],
        "name": "desk",
        **kwargs,
    }
    return CascadeChatModel(**settings)


ONE_STEP = ("cascade.step desk", [("cascade.attempt small", [("chat", [])]), ("cascade.attempt large", [("chat", [])])])


def test_what_the_spans_say(spans):
    """Names, attributes and events as TELEMETRY lists them; nothing under a `gen_ai.usage` name, no content."""
    trace = trace_of(cascade(spans, policy=Policy(threshold=0.5)).invoke("hi", {"configurable": {"thread_id": "t1"}}))
    (step,) = spans.named("cascade.step desk")
    (small,) = spans.named("cascade.attempt small")
    (large,) = spans.named("cascade.attempt large")
    assert step.attributes == {
        "cascade.step.name": "desk",
        "cascade.policy.version": trace.policy,
        "openinference.span.kind": "CHAIN",
        "gen_ai.conversation.id": "t1",
        "cascade.step.id": trace.id,
        "cascade.step.escalated": True,
        "cascade.step.attempts": 2,
        "cascade.step.final_tier": "large",
        "cascade.step.reason": "odd",
        "cascade.step.confidence": trace.confidence,
        "cascade.step.cost": pytest.approx(16 / 1e6 + 160 / 1e6),
        "cascade.cost.currency": "USD",
        "cascade.step.outcome": "escalated",
    }
    (event,) = step.events
    assert event.name == "cascade.escalation"
    assert event.attributes == {
        "cascade.tier.from": "small",
        "cascade.tier.to": "large",
        "cascade.escalation.reason": "odd",
    }
    assert small.attributes == {
        "cascade.attempt.index": 0,
        "cascade.tier.name": "small",
        "cascade.tier.model": "s",
        "cascade.attempt.score": trace.attempts[0].confidence,
        "cascade.attempt.threshold": 0.5,
        "cascade.attempt.input_tokens": 11,
        "cascade.attempt.output_tokens": 5,
        "cascade.attempt.cost": pytest.approx(16 / 1e6),
        "cascade.validation.passed": False,
        "cascade.validation.failed": ("refuses_small",),
        "cascade.attempt.outcome": "rejected",
    }
    assert (large.attributes["cascade.attempt.index"], large.attributes["cascade.attempt.outcome"]) == (1, "accepted")
    assert large.attributes["cascade.validation.passed"] is True
    (judged,) = small.events
    assert judged.name == "gen_ai.evaluation.result"
    assert judged.attributes == {
        "gen_ai.evaluation.name": "refuses_small",
        "gen_ai.evaluation.score.label": "fail",
        "gen_ai.evaluation.explanation": "/text: odd it is small",
    }
    assert large.events[0].attributes["gen_ai.evaluation.score.value"] == 0.75
    assert {span.status.status_code for span in (step, small, large)} == {StatusCode.UNSET}
    assert all(len(span.attributes) <= 25 for span in spans.all)


def test_a_broken_validator_and_a_long_reason(spans):
    """A broken validator is labelled an error, an abstain as skipped; an explanation has at most 512 characters."""

    def breaks(_draft: Any, _context: Any) -> Any:
        raise KeyError

    def unsure(_draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="abstain", reason="x" * 2000)

    cascade(spans, validators=[breaks, unsure]).invoke("hi")
    events = spans.named("cascade.attempt small")[0].events
    assert [e.attributes["gen_ai.evaluation.score.label"] for e in events] == ["error", "skipped"]
    assert len(events[1].attributes["gen_ai.evaluation.explanation"]) == 512


@BOTH
async def test_how_failed_steps_end(spans, how):
    """An exhausted step and a tier that raised are errors with their type; a rejected draft is none."""
    model = cascade(spans, small=ScriptedChatModel(ValueError("secret"), name="s"), validators=[always_fail()])
    model.policy = Policy(on_exhausted="raise")
    with pytest.raises(CascadeExhausted):
        await ask(model, how=how)
    (step,), (small,), (large,) = (
        spans.named(name) for name in ("cascade.step desk", "cascade.attempt small", "cascade.attempt large")
    )
    assert (small.status.status_code, small.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")
    assert large.status.status_code is StatusCode.UNSET
    assert (step.status.status_code, step.attributes["error.type"]) == (StatusCode.ERROR, "CascadeExhausted")
    assert step.attributes["cascade.step.outcome"] == "exhausted"
    assert "cascade.step.final_tier" not in step.attributes
    assert "secret" not in spans.text


async def test_how_stopped_steps_end(spans):
    """An interrupt of the host and a cancellation close every span and are no errors."""

    def stops(_draft: Any, _context: Any) -> None:
        raise GraphInterrupt(())

    with pytest.raises(GraphInterrupt):
        cascade(spans, validators=[stops]).invoke("hi")
    await cancelled(cascade(spans, small=(small := Hanging("a"))).ainvoke("hi"), small)
    steps, attempts = spans.named("cascade.step desk"), spans.named("cascade.attempt small")
    assert [s.attributes["cascade.step.outcome"] for s in steps] == ["interrupted", "cancelled"]
    assert [a.attributes["cascade.attempt.outcome"] for a in attempts] == ["cancelled", "cancelled"]
    assert {s.status.status_code for s in (*steps, *attempts)} == {StatusCode.UNSET}


def test_a_skipped_tier_has_no_span(spans):
    """A tier that was not called is no attempt of the trace."""

    def hopeless(_draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="fail", code="hopeless")

    hopeless.stage = "context"
    cascade(spans, validators=[hopeless]).invoke("hi")
    assert spans.tree() == [("cascade.step desk", [("cascade.attempt large", [("chat", [])])])]
    assert spans.named("cascade.step desk")[0].attributes["cascade.step.attempts"] == 1


def test_what_is_known_at_the_start_is_there_at_the_start(monkeypatch):
    """Samplers see the attributes of the start alone: name, policy and thread of a step; place and model of an attempt."""
    seen: list[Any] = []

    class Sampler(sampling.Sampler):
        def should_sample(self, _context, _trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
            seen.append((name, set(attributes or ())))
            return sampling.SamplingResult(sampling.Decision.DROP)

        def get_description(self):
            return "drops all"

    monkeypatch.setattr(telemetry, "_TRACER", TracerProvider(sampler=Sampler()).get_tracer("x"))
    configure()
    pair("a", "b", name="desk").invoke("hi")
    telemetry.start_attempt(telemetry.start_step("desk", policy="p", thread_id=None), 3, tier="large", model=None)
    step = {"cascade.step.name", "cascade.policy.version", "openinference.span.kind"}
    attempt = {"cascade.attempt.index", "cascade.tier.name"}
    chat = {"gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"}
    assert seen == [
        ("cascade.step desk", step),
        ("cascade.attempt small", attempt | {"cascade.tier.model"}),
        ("chat scripted", chat),
        ("cascade.step desk", step),
        ("cascade.attempt large", attempt),
    ]


# ---- a provider that breaks -----------------------------------------------------------------------------------------
def no_collector(*_: Any, **__: Any) -> None:
    """Raise, as a processor without its collector does."""
    msg = "no collector"
    raise ConnectionError(msg)


@BOTH
@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_processor_that_raises_never_fails_a_step(monkeypatch, caplog, how, where):
    """The step answers; the fault is logged once and every loss is counted."""
    provider, processor = TracerProvider(), SpanProcessor()
    setattr(processor, f"on_{where}", no_collector)
    provider.add_span_processor(processor)
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("cascade_agent"))
    configure()
    models = (ScriptedChatModel("a", loop=True), ScriptedChatModel("b", loop=True))
    model = pair(*models, validators=[refuses_small])
    for _ in range(3):
        assert (await ask(model, how=how)).response_metadata["cascade"]["final_tier"] == "large"
    assert faults.lost == (3 if where == "start" else 3 * 5), "a step that could not be opened is not tried further"
    logged = [r for r in caplog.records if r.name == "cascade_agent"]
    assert [r.levelname for r in logged] == ["WARNING"]
    assert logged[0].getMessage().endswith(": ConnectionError")


class _Hostile:
    """A span that refuses every call."""

    def __getattr__(self, _: str) -> Any:
        return no_collector


def test_a_span_that_refuses_everything_never_fails_a_step(monkeypatch):
    """Whatever a foreign tracer gives back, each call is guarded."""
    monkeypatch.setattr(faults, "lost", 1)
    span: Any = _Hostile()
    step = telemetry.StepScope(span)
    trace = StepTrace(id="1", step="s", outcome="accepted", reason="accepted", attempts=(Attempt(tier="small"),))
    telemetry.record_escalation(step, Decision(action="escalate", reason="odd"))
    telemetry.end_attempt(telemetry.AttemptScope(telemetry.StepScope(), "a", {}, span), trace.attempts[0])
    telemetry.end_step(step, trace)
    assert faults.lost == 6
    monkeypatch.setattr(telemetry, "_TRACER", span)
    assert telemetry.start_step("s", policy="p", thread_id=None).span is otel_trace.INVALID_SPAN
    telemetry.start_attempt(step, 0, tier="small", model=None)
    assert faults.lost == 8
    monkeypatch.setattr(otel_context, "attach", span.attach)
    with telemetry.using(telemetry.StepScope(TracerProvider().get_tracer("x").start_span("x"))):
        pass
    assert faults.lost == 9


def test_without_a_provider_nothing_is_written_and_nothing_lost():
    """The API alone does nothing: no span records, no call is counted as lost."""
    assert pair("a", "b", validators=[refuses_small]).invoke("hi").text == "b"
    assert faults.lost == 0
