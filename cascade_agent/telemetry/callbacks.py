"""The frame around a model call of a step: the LangChain run that handlers see, and the spans below it.

An adapter puts `ModelCall` around the call of a tier, the executor `EvidenceCall` around evidence. Both
work with `with` and `async with`, open only what somebody listens to, and otherwise cost a look at one variable.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from cascade_agent import semconv as names
from cascade_agent.telemetry import spans
from cascade_agent.telemetry.chat_spans import open_chat, response_id, set_answer, tokens_of
from cascade_agent.telemetry.errors import guarded
from cascade_agent.telemetry.events import label_of
from cascade_agent.telemetry.instrumentations import adopted, visible_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Token

    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig
    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import SideCall, Verdict

T = TypeVar("T")


class _Frame:
    """A run and spans around one call, for `with` and `async with`; an error of the call passes through."""

    _step: spans.StepScope | None = None
    """None where nobody listens."""
    _children: Any = None
    """The manager under which the run is opened; None when no handler hears of it."""
    _title = ""
    _inputs: JsonObject
    _run: Any = None
    """The run, where it ends with the call."""
    _span: Span | None = None
    _is_adopted = False
    """The span is a handler's, which ends it."""
    _chat: Span | None = None
    _token: Token[Context] | None = None

    def __enter__(self) -> Self:
        """Open what there is to open."""
        if self._step is not None:
            if self._children is not None:
                handlers = self._children.handlers
                self._take(self._start(), handlers, is_async=False)
            self._open()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Close what was opened here."""
        if self._step is not None:
            self._close(error)
        if self._run is not None:
            with guarded:
                spans.end_run(self._run, self._inputs, error)

    async def __aenter__(self) -> Self:
        """Async twin of `__enter__`."""
        if self._step is not None:
            if self._children is not None:
                if self._step.run is not None:
                    await self._step.run.flush()
                handlers, run = self._children.handlers, None
                with guarded:
                    made = self._start()
                    run = await made if inspect.isawaitable(made) else made
                self._take(run, handlers, is_async=True)
            self._open()
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Async twin of `__exit__`."""
        if self._step is not None:
            self._close(error)
        if self._run is not None:
            with guarded:
                await spans.end_run(self._run, self._inputs, error)

    def _start(self) -> Any:
        """Start the run, for those who may see it; None when that fails."""
        with guarded:
            return visible_to(self._children).on_chain_start(None, self._inputs, name=self._title)
        return None

    def _take(self, run: Any, handlers: Sequence[Any], *, is_async: bool) -> None:
        if run is None:
            self._children.handlers = handlers  # who hears of what is below, as before
        else:
            self._started(run, is_async=is_async)

    def _started(self, run: Any, *, is_async: bool) -> None:
        """Take the run that was opened."""

    def _open(self) -> None:
        """Open the spans and make the innermost one current."""

    def _close(self, error: BaseException | None) -> None:
        if self._chat is not None:
            spans.close(self._chat, error)
        spans.detach(self._token)
        if self._span is not None:
            spans.close(self._span, error, ends=not self._is_adopted)


class ModelCall(_Frame):
    """The call of a tier. `callbacks` is the manager to call it with; give the answer to `record_answer`.

    The attempt's run and span are not closed here but with the attempt, which may be judged for long after the call.
    """

    _scope: spans.AttemptScope

    def __init__(self, callbacks: Any, role: str, *, tier: Any, messages: Sequence[BaseMessage]) -> None:
        self.callbacks = callbacks
        scope = spans.current_attempt()
        if scope is not None:
            self._scope, self._step, self._title = scope, scope.step, scope.name
            self._role, self._tier, self._messages = role, tier, messages
            self._children = callbacks if scope.step.has_listeners else None
            self._inputs = {"tier": role, "model": scope.attributes.get(names.TIER_MODEL)}

    def record_answer(self, message: AIMessage) -> None:
        """Note the tier's answer."""
        if self._step is not None:
            with guarded:
                self._scope.response_id = response_id(message)
                if self._chat is not None:
                    set_answer(self._chat, message, self._scope.response_id)

    def _started(self, run: Any, *, is_async: bool) -> None:
        scope = self._scope
        scope.is_async = is_async
        self.callbacks = run.get_child(self._role)
        if scope.ended and not is_async:  # it was given up while its run was opened
            run.on_chain_end({"outcome": "timeout"})
            return
        scope.run = run
        span = adopted(scope.step.adopter, run, scope.name, scope.attributes)
        if span is not None:
            scope.span = span

    def _open(self) -> None:
        step = self._scope.step
        if self._tier is not None and step.chat and step.live:
            with guarded:
                self._chat = open_chat(self._scope.current, self._tier, self._messages, thread_id=step.thread_id)
            if self._chat is not None:
                self._token = spans.attach(self._chat)

    def _close(self, error: BaseException | None) -> None:
        self._scope.error = error
        super()._close(error)


class EvidenceCall(_Frame):
    """The call of evidence. `config` is what its models are called with; give what it found to `record_verdict`."""

    def __init__(self, scope: spans.Scope, evidence: Any, config: RunnableConfig | None) -> None:
        self.config, self._parent, self._evidence = config, scope, evidence
        attempt = scope if isinstance(scope, spans.AttemptScope) else None
        self._step = self._own = scope.step if isinstance(scope, spans.AttemptScope) else scope
        name = str(evidence.name)
        self._title, self._inputs = f"{names.VALIDATE} {name}", {"validator": name}
        self._known = {names.EVALUATION_NAME: name, names.SPAN_KIND: names.KIND_EVALUATOR}
        if self._own.has_listeners and config is not None:
            run = None if attempt is None else attempt.run
            self._children = config.get("callbacks") if run is None else run.get_child("evidence")

    def record_verdict(self, found: tuple[Verdict, SideCall, T]) -> tuple[Verdict, SideCall, T]:
        """Note what was found and what it cost, and return it as it is."""
        with guarded:
            verdict, spend, _ = found
            if self._span is not None and self._span.is_recording():
                known = {names.EVALUATION_LABEL: label_of(verdict), names.EVALUATION_SCORE: verdict.score}
                spans.set_known(self._span, known)
            if self._chat is not None and spend.usage is not None:
                spans.set_known(self._chat, tokens_of(spend.usage))
        return found

    def _started(self, run: Any, *, is_async: bool) -> None:
        del is_async
        self._run = run
        self.config = cast("RunnableConfig", {**(self.config or {}), "callbacks": run.get_child("evidence")})
        self._span = adopted(self._own.adopter, run, self._title, self._known)
        self._is_adopted = self._span is not None

    def _open(self) -> None:
        with guarded:
            if self._span is None and self._own.live:
                self._span = spans.open_span(self._title, self._parent.current, self._known)
            tier = getattr(self._evidence, "tier", None)
            if self._span is not None and self._own.chat and tier is not None:
                self._chat = open_chat(self._span, tier, (), thread_id=self._own.thread_id)
        innermost = self._chat or self._span
        if innermost is not None:
            self._token = spans.attach(innermost)
