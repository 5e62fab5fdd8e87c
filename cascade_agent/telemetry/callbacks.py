"""The frame around a model call of a step: the LangChain run that handlers see, and the spans below it.

An adapter puts `ModelCall` around the call of a tier, the executor `EvidenceCall` around evidence. Both
work with `with` and `async with`, open only what somebody listens to, and otherwise cost a look at one variable.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self, cast

from opentelemetry import trace as otel_trace

from cascade_agent import semconv as names
from cascade_agent.telemetry import spans
from cascade_agent.telemetry.chat_spans import close_chat, open_chat, response_id, set_answer, set_usage
from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.events import label_of
from cascade_agent.telemetry.instrumentations import adopted, visible_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Token
    from types import TracebackType

    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig
    from opentelemetry.trace import Span

    from cascade_agent.core.records import SideCall, Verdict


class _Frame:
    """A run and spans around one call, for `with` and `async with`; an error of the call passes through."""

    __slots__ = ("_chat", "_run", "_span", "_token")

    _step: spans.StepScope | None
    _title: str
    _inputs: dict[str, Any]

    _run: Any
    _span: Span | None
    _chat: Span | None
    _token: Token[Any] | None

    def __enter__(self) -> Self:
        """Open what there is to open."""
        if self._step is None:
            return self
        children = self._children()
        if children is not None:
            self._started(_start(children, self._title, self._inputs), is_async=False)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened here."""
        if self._step is not None:
            self._close(error)
        if self._run is not None:
            with guarded:
                spans.end_run(self._run, self._inputs, error)

    async def __aenter__(self) -> Self:
        """Async twin of `__enter__`."""
        if self._step is None:
            return self
        children = self._children()
        if children is not None:
            if self._step.run is not None:
                await self._step.run.flush()
            self._started(await _astart(children, self._title, self._inputs), is_async=True)
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Async twin of `__exit__`."""
        if self._step is not None:
            self._close(error)
        if self._run is not None:
            with guarded:
                await spans.end_run(self._run, self._inputs, error)

    def _children(self) -> Any:
        """Return the manager under which the run is opened; None when nobody listens."""
        raise NotImplementedError

    def _started(self, run: Any, *, is_async: bool) -> None:
        """Take the run that was opened, None when that failed."""
        raise NotImplementedError

    def _open(self) -> None:
        """Open the spans and make the innermost one current."""
        raise NotImplementedError

    def _close(self, error: BaseException | None) -> None:
        if self._chat is not None:
            close_chat(self._chat, error)
        spans.detach(self._token)
        if self._span is not None:
            with guarded:
                spans.set_error(self._span, error)
                self._span.end()


class ModelCall(_Frame):
    """The call of a tier. `callbacks` is the manager to call it with; give the answer to `record_answer`.

    The attempt's run and span are not closed here but with the attempt, which may be judged for long after the call.
    """

    __slots__ = ("_inputs", "_messages", "_role", "_scope", "_step", "_tier", "_title", "callbacks")

    def __init__(self, callbacks: Any, role: str, *, tier: Any, messages: Sequence[BaseMessage]) -> None:
        self._run = self._span = self._chat = self._token = None
        self.callbacks = callbacks
        self._role, self._tier, self._messages = role, tier, messages
        self._scope = scope = spans.current_attempt()
        self._step = None if scope is None else scope.step
        self._title = "" if scope is None else scope.name
        self._inputs = {} if scope is None else {"tier": role, "model": scope.attributes.get(names.TIER_MODEL)}

    def record_answer(self, message: AIMessage) -> None:
        """Note the tier's answer."""
        scope = self._scope
        if scope is not None:
            with guarded:
                scope.response_id = response_id(message)
                if self._chat is not None:
                    set_answer(self._chat, message)

    def _children(self) -> Any:
        return self.callbacks if cast("spans.StepScope", self._step).has_listeners else None

    def _started(self, run: Any, *, is_async: bool) -> None:
        scope = cast("spans.AttemptScope", self._scope)
        scope.is_async = is_async
        if run is None:
            return
        self.callbacks = run.get_child(self._role)
        if scope.ended and not is_async:  # it was given up while its run was opened
            run.on_chain_end({"outcome": "timeout"})
            return
        scope.run = run
        span = adopted(scope.step.adopter, run.run_id) if scope.step.is_adopted else None
        if span is not None:
            spans.take_over(span, scope.name, scope.attributes)
            scope.span = span

    def _open(self) -> None:
        scope = self._scope
        if scope is None or self._tier is None or not scope.step.chat or not scope.step.live:
            return
        with guarded:
            self._chat = open_chat(scope.current, self._tier, self._messages, thread_id=scope.step.thread_id)
        if self._chat is not None:
            self._token = spans.attach(self._chat)

    def _close(self, error: BaseException | None) -> None:
        cast("spans.AttemptScope", self._scope).error = error
        super()._close(error)


class EvidenceCall(_Frame):
    """The call of evidence. `config` is what its models are called with; give what it found to `record_verdict`."""

    __slots__ = ("_adopted", "_evidence", "_inputs", "_known", "_own", "_scope", "_step", "_title", "config")

    def __init__(self, scope: spans.Scope, evidence: Any, config: RunnableConfig | None) -> None:
        self._run = self._span = self._chat = self._token = None
        self.config = config
        self._scope = scope if isinstance(scope, spans.AttemptScope) else None
        self._step = self._own = scope.step if isinstance(scope, spans.AttemptScope) else scope
        self._evidence, name = evidence, str(evidence.name)
        self._title, self._inputs = f"{names.VALIDATE} {name}", {"validator": name}
        self._known = {names.EVALUATION_NAME: name, names.SPAN_KIND: names.KIND_EVALUATOR}
        self._adopted: Span | None = None

    def record_verdict(self, found: tuple[Verdict, SideCall]) -> tuple[Verdict, SideCall]:
        """Note what was found and what it cost, and return it as it is."""
        with guarded:  # it may be malformed: the engine judges that
            verdict, spend, *_ = found
            span = self._span or self._adopted
            if span is not None and span.is_recording():
                spans.set_known(
                    span, {names.EVALUATION_LABEL: label_of(verdict), names.EVALUATION_SCORE: verdict.score}
                )
            if self._chat is not None:
                set_usage(self._chat, spend.usage)
        return found

    def record_answer(self, answer: Any) -> Any:
        """Note what the evidence's model answered before there was a draft, and return it as it is."""
        if self._chat is not None:
            with guarded:
                set_usage(self._chat, self._evidence.spent(answer).usage)
        return answer

    def _children(self) -> Any:
        if not self._own.has_listeners or self.config is None:
            return None
        run = None if self._scope is None else self._scope.run
        return cast("Any", self.config).get("callbacks") if run is None else run.get_child("evidence")

    def _started(self, run: Any, *, is_async: bool) -> None:
        del is_async
        if run is None:
            return
        self._run = run
        self.config = cast("RunnableConfig", {**(self.config or {}), "callbacks": run.get_child("evidence")})
        if self._own.is_adopted:
            self._adopted = adopted(self._own.adopter, run.run_id)
            if self._adopted is not None:
                spans.take_over(self._adopted, self._title, self._known)

    def _open(self) -> None:
        parent = self._own.span if self._scope is None else self._scope.current
        with guarded:
            if self._adopted is None and self._own.live:
                self._span = spans.open_span(self._title, otel_trace.set_span_in_context(parent), self._known)
            span, tier = self._span or self._adopted, getattr(self._evidence, "tier", None)
            if span is not None and self._own.chat and tier is not None:
                self._chat = open_chat(span, tier, (), thread_id=self._own.thread_id)
        innermost = self._chat or self._span or self._adopted
        if innermost is not None:
            self._token = spans.attach(innermost)

    def _close(self, error: BaseException | None) -> None:
        super()._close(error)
        if self._adopted is not None:
            with guarded:
                spans.set_error(self._adopted, error)


def _start(children: Any, title: str, inputs: dict[str, Any]) -> Any:
    """Open a run below one of ours; None when that failed."""
    everyone = children.handlers
    with guarded:
        return visible_to(children).on_chain_start(None, inputs, name=title)
    children.handlers = everyone
    return None


async def _astart(children: Any, title: str, inputs: dict[str, Any]) -> Any:
    everyone = children.handlers
    with guarded:
        run = visible_to(children).on_chain_start(None, inputs, name=title)
        return await run if inspect.isawaitable(run) else run
    children.handlers = everyone
    return None
