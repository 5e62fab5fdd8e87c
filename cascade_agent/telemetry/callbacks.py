"""What stands around a model call of a step: the LangChain run that handlers see, and the spans beside it.

`asking` is what a door puts around the call of a tier, `validating` what the runner puts around evidence. Both work
with `with` and `async with`, open what there is anybody to tell, and otherwise cost a look at one variable.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self, cast

from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span, Status, StatusCode

from cascade_agent import semconv as names
from cascade_agent.telemetry import errors as faults
from cascade_agent.telemetry.chat_spans import close_chat, open_chat, response_id, tell_answer, tell_usage
from cascade_agent.telemetry.instrumentations import adopted, shown
from cascade_agent.telemetry.spans import (
    AttemptScope,
    Scope,
    StepScope,
    asked,
    attach,
    detach,
    label_of,
    open_span,
    set_known,
    take_over,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Token
    from types import TracebackType

    from langchain_core.callbacks import BaseCallbackManager
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.records import SideCall, Verdict


class Asking:
    """The call of a tier. `callbacks` is the manager to call it with; give the answer to `told`."""

    __slots__ = ("_chat", "_messages", "_role", "_scope", "_tier", "_token", "callbacks")

    def __init__(self, callbacks: Any, role: str, tier: Any, messages: Sequence[BaseMessage]) -> None:
        self.callbacks = callbacks
        self._role, self._tier, self._messages = role, tier, messages
        self._scope = asked()
        self._chat: Span | None = None
        self._token: Token[Any] | None = None

    def told(self, message: AIMessage) -> None:
        """What the tier answered."""
        scope = self._scope
        if scope is None:
            return
        try:
            scope.response_id = response_id(message)
            if self._chat is not None:
                tell_answer(self._chat, message)
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)

    def __enter__(self) -> Self:
        """Open the attempt's run, and the span of the model call."""
        scope = self._scope
        if scope is not None:
            if scope.step.tells:
                self._started(_start(self.callbacks, scope.name, self._inputs(scope)))
            self._open_chat(scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is ended here; an error passes through."""
        scope = self._scope
        if scope is None:
            return
        scope.error = error
        if self._chat is not None:
            close_chat(self._chat, error)
            detach(self._token)

    async def __aenter__(self) -> Self:
        """Async twin of `__enter__`."""
        scope = self._scope
        if scope is not None:
            if scope.step.tells:
                if scope.step.run is not None:
                    await scope.step.run.settled()
                scope.is_async = True
                self._started(await _astart(self.callbacks, scope.name, self._inputs(scope)))
            self._open_chat(scope)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Async twin of `__exit__`."""
        self.__exit__(kind, error, trace)

    def _inputs(self, scope: AttemptScope) -> dict[str, Any]:
        return {"tier": self._role, "model": scope.attributes.get(names.TIER_MODEL)}

    def _started(self, run: Any) -> None:
        scope = cast("AttemptScope", self._scope)
        if run is None:
            return
        self.callbacks = run.get_child(self._role)
        if scope.ended and not scope.is_async:  # it was given up while its run was opened
            run.on_chain_end({"outcome": "timeout"})
            return
        scope.run = run
        if scope.step.is_adopted:
            span = adopted(scope.step.adopter, run.run_id)
            if span is not None:
                take_over(span, scope.name, scope.attributes)
                scope.span = span

    def _open_chat(self, scope: AttemptScope) -> None:
        if not scope.step.chat or self._tier is None or not scope.step.live:
            return
        try:
            self._chat = open_chat(scope.current, self._tier, self._messages, thread_id=scope.step.thread_id)
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)
        if self._chat is not None:
            self._token = attach(self._chat)


class Validating:
    """The gathering of evidence. `config` is what its models are called with; give what was found to `told`."""

    __slots__ = (
        "_chat",
        "_name",
        "_run",
        "_scope",
        "_span",
        "_step",
        "_theirs",
        "_tier",
        "_token",
        "config",
    )

    def __init__(self, scope: Scope, evidence: Any, config: RunnableConfig | None) -> None:
        self.config = config
        self._scope = scope if isinstance(scope, AttemptScope) else None
        self._step: StepScope = scope.step if isinstance(scope, AttemptScope) else scope
        self._name, self._tier = str(evidence.name), getattr(evidence, "tier", None)
        self._run: Any = None
        self._span: Span | None = None
        self._chat: Span | None = None
        self._theirs = False
        self._token: Token[Any] | None = None

    def told(self, found: tuple[Verdict, SideCall]) -> tuple[Verdict, SideCall]:
        """What was found and what it cost; given back as it is."""
        try:
            verdict, spend = found
            if self._span is not None and self._span.is_recording():
                told = {names.EVALUATION_LABEL: label_of(verdict), names.EVALUATION_SCORE: verdict.score}
                set_known(self._span, told)
            if self._chat is not None:
                tell_usage(self._chat, spend.usage)
        except Exception as error:  # noqa: BLE001 - law 4, and the runner judges what a broken one returns
            faults.count(error)
        return found

    def __enter__(self) -> Self:
        """Open run and span."""
        children = self._children()
        if children is not None:
            self._started(_start(children, self._title, {"validator": self._name}))
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is ended here; an error passes through."""
        self._close(error)
        if self._run is not None:
            try:
                if error is None:
                    self._run.on_chain_end({"validator": self._name})
                else:
                    self._run.on_chain_error(error)
            except Exception as fault:  # noqa: BLE001 - law 4
                faults.count(fault)

    async def __aenter__(self) -> Self:
        """Async twin of `__enter__`."""
        children = self._children()
        if children is not None:
            self._started(await _astart(children, self._title, {"validator": self._name}))
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Async twin of `__exit__`."""
        self._close(error)
        if self._run is not None:
            try:
                if error is None:
                    await self._run.on_chain_end({"validator": self._name})
                else:
                    await self._run.on_chain_error(error)
            except Exception as fault:  # noqa: BLE001 - law 4
                faults.count(fault)

    @property
    def _title(self) -> str:
        return f"{names.VALIDATE} {self._name}"

    @property
    def _known(self) -> dict[str, Any]:
        return {names.EVALUATION_NAME: self._name, names.SPAN_KIND: names.KIND_EVALUATOR}

    def _children(self) -> Any:
        """The manager under which the evidence's run is opened; None when nobody hears of it."""
        if not self._step.tells or self.config is None:
            return None
        run = None if self._scope is None else self._scope.run
        return cast("Any", self.config).get("callbacks") if run is None else run.get_child("evidence")

    def _started(self, run: Any) -> None:
        if run is None or self.config is None:
            return
        self._run = run
        self.config = cast("RunnableConfig", {**self.config, "callbacks": run.get_child("evidence")})
        if self._step.is_adopted:
            self._span = adopted(self._step.adopter, run.run_id)
            if self._span is not None:
                self._theirs = True
                take_over(self._span, self._title, self._known)

    def _open(self) -> None:
        parent = self._step.span if self._scope is None else self._scope.current
        try:
            if self._span is None and self._step.live:
                self._span = open_span(self._title, otel_trace.set_span_in_context(parent), self._known)
            if self._span is not None and self._step.chat and self._tier is not None:
                self._chat = open_chat(self._span, self._tier, (), thread_id=self._step.thread_id)
        except Exception as error:  # noqa: BLE001 - law 4
            faults.count(error)
        innermost = self._chat or self._span
        if innermost is not None:
            self._token = attach(innermost)

    def _close(self, error: BaseException | None) -> None:
        if self._chat is not None:
            close_chat(self._chat, error)
        detach(self._token)
        if self._span is None:
            return
        try:
            if error is not None and self._span.is_recording():
                self._span.set_attribute(names.ERROR_TYPE, type(error).__name__)
                if isinstance(error, Exception):
                    self._span.set_status(Status(StatusCode.ERROR))
            if not self._theirs:
                self._span.end()
        except Exception as fault:  # noqa: BLE001 - law 4
            faults.count(fault)


def asking(callbacks: BaseCallbackManager, role: str, *, tier: Any, messages: Sequence[BaseMessage]) -> Asking:
    """What stands around the call of a tier, for `with` or `async with`."""
    return Asking(callbacks, role, tier, messages)


def validating(scope: Scope, evidence: Any, config: RunnableConfig | None) -> Validating:
    """What stands around the gathering of evidence about the draft of an attempt, for `with` or `async with`."""
    return Validating(scope, evidence, config)


def _start(children: Any, title: str, inputs: dict[str, Any]) -> Any:
    """Open a run below one of ours; None when that failed."""
    everyone = children.handlers
    try:
        return shown(children).on_chain_start(None, inputs, name=title)
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
        children.handlers = everyone
        return None


async def _astart(children: Any, title: str, inputs: dict[str, Any]) -> Any:
    everyone = children.handlers
    try:
        run = shown(children).on_chain_start(None, inputs, name=title)
        return await run if inspect.isawaitable(run) else run
    except Exception as error:  # noqa: BLE001 - law 4
        faults.count(error)
        children.handlers = everyone
        return None
