"""A pytest plugin that puts a cascade in the place of the model that a host is given.

`run.py` loads it with `-p cascade_plugin`, before the suite is imported; `SMALL_IS` says what small does. The suites
keep their own model objects and look into them as ever: only what the host is handed is a `CascadeChatModel`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableBinding
from pydantic import BaseModel

from cascade_agent import CascadeChatModel, Draft, StepContext, Verdict
from cascade_agent.testing import ScriptedChatModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

    from cascade_agent.engine.run_step import ModelCall
    from cascade_agent.models.tier import Role

SMALL_IS = os.environ["SMALL_IS"]
"""`raising`: every call of small fails. `rejected`: no draft of small passes. `accepted`: small is the suite's model."""

HOSTS = (
    "langchain.agents.create_agent",
    "langchain.agents.factory.create_agent",
    "langgraph.prebuilt.create_react_agent",
    "langgraph.prebuilt.chat_agent_executor.create_react_agent",
    "langgraph_supervisor.create_supervisor",
    "langgraph_supervisor.supervisor.create_supervisor",
    "deepagents.create_deep_agent",
    "deepagents.graph.create_deep_agent",
    "trustcall.create_extractor",
    "langmem.create_memory_manager",
)


def reject_small(draft: Draft, context: StepContext) -> Verdict:
    """Fail each draft of small, softly: it may still be returned when large gives nothing better."""
    return Verdict(outcome="fail" if draft.tier == "small" else "pass", code="not_small", score=0.0)


class BothTheSame(CascadeChatModel):
    """A cascade whose small is the suite's model, and whose large fails as small just did: one model in both places.

    A large that answers would turn each error that a test waits for into an answer.
    """

    def _model_call(self, *args: Any) -> ModelCall[Any]:
        call = super()._model_call(*args)
        failed: list[Exception] = []

        def ask(role: Role, note: str | None, config: RunnableConfig) -> object:
            if role == "large":
                raise failed[-1]  # an IndexError: large was asked although small answered
            try:
                return call.call(role, note, config)
            except Exception as error:
                failed.append(error)
                raise

        async def aask(role: Role, note: str | None, config: RunnableConfig) -> object:
            if role == "large":
                raise failed[-1]
            try:
                return await call.acall(role, note, config)
            except Exception as error:
                failed.append(error)
                raise

        return replace(call, call=ask, acall=aask)


@functools.singledispatch
def cascaded(given: Any) -> Any:
    """Return what a host is given with a cascade in the place of a model; all else as it is."""
    return given


@cascaded.register
def _(model: BaseChatModel) -> BaseChatModel:
    if SMALL_IS == "accepted":
        return BothTheSame(small=model, large=model.model_copy(), validators=[])
    reply = ConnectionError("small is down") if SMALL_IS == "raising" else "a draft that nobody should see"
    return CascadeChatModel(small=ScriptedChatModel(reply, loop=True), large=model, validators=[reject_small])


@cascaded.register
def _(cascade: CascadeChatModel) -> BaseChatModel:
    return cascade


@cascaded.register
def _(binding: RunnableBinding) -> RunnableBinding[Any, Any]:
    return binding.model_copy(update={"bound": cascaded(binding.bound)})


def _wrapped(host: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(host)
    def given_cascades(*args: Any, **kwargs: Any) -> Any:
        return host(*map(cascaded, args), **{name: cascaded(value) for name, value in kwargs.items()})

    return given_cascades


def _equal_but_for_the_record(*messages: object) -> bool:
    """Compare messages as pydantic does; the record of the step is what a cascade adds to an answer by design."""

    def bare(message: object) -> object:
        if not isinstance(message, AIMessage):
            return message
        metadata = {k: v for k, v in message.response_metadata.items() if k != "cascade"}
        return message.model_copy(update={"response_metadata": metadata})

    return BaseModel.__eq__(*map(bare, messages))


def pytest_configure() -> None:
    """Wrap every entry of a host that takes a model, once."""
    # prebuilt's fake answers with all that it was sent: where that goes round without end, it takes any memory
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
    wrapped: dict[Any, Callable[..., Any]] = {}
    for path in HOSTS:
        module_name, _, name = path.rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            continue
        host = getattr(module, name)
        setattr(module, name, wrapped.setdefault(host, _wrapped(host)))
    AIMessage.__eq__ = _equal_but_for_the_record
    middleware = importlib.import_module("langchain.agents.middleware")
    for cls in vars(middleware).values():
        if inspect.isclass(cls) and issubclass(cls, middleware.AgentMiddleware) and "__init__" in vars(cls):
            cls.__init__ = _wrapped(cls.__init__)
