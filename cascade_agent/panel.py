"""The validators of a cascade, sorted by when they speak, and what happens when one of them breaks.

Law: a validator that raises or hangs never fails a step; it is an abstain that names the fault (R8, R9).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cascade_agent.errors import ConfigurationError
from cascade_agent.log import LOG
from cascade_agent.records import Verdict

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.records import Draft, Spend, StepContext

_MAX_TOLD = 256
_told: set[tuple[str, str]] = set()
Finding = Verdict | Iterable[Verdict] | bool | None
Validator = Callable[..., Finding | Awaitable[Finding]]
"""`(draft, context) -> finding`; a class instance or a plain function, sync or async."""

_MAX_VERDICTS = 256


@runtime_checkable
class Evidence(Protocol):
    """A validator that must ask a model. `stage` is `"evidence"`; asked only when it can change the decision."""

    name: str

    def gather(self, draft: Draft, context: StepContext, *, config: RunnableConfig | None) -> tuple[Verdict, Spend]:
        """Ask, and say what was found and what it cost."""
        ...

    async def agather(
        self, draft: Draft, context: StepContext, *, config: RunnableConfig | None
    ) -> tuple[Verdict, Spend]:
        """Async twin of `gather`."""
        ...


class Panel:
    """Validators ready to judge.

    `before` look at the context alone, before the small model is asked; `local` look at a draft; `evidence` ask a
    model.

    Raises:
        ConfigurationError: something that is no validator, or two with one name.
    """

    __slots__ = ("before", "evidence", "local")

    def __init__(self, validators: Sequence[Validator | Evidence]) -> None:
        self.before: list[tuple[str, Validator]] = []
        self.local: list[tuple[str, Validator]] = []
        self.evidence: dict[str, Evidence] = {}
        names: set[str] = set()
        if isinstance(validators, str | bytes) or not isinstance(validators, Iterable):
            msg = f"validators is {validators!r}; expected a list of them: put a single one into a list"
            raise ConfigurationError(msg)
        for validator in validators:
            if isinstance(validator, type):
                msg = f"validators holds the class {validator.__name__}; expected an instance: {validator.__name__}()"
                raise ConfigurationError(msg)
            name, stage = name_of(validator), getattr(validator, "stage", "draft")
            if name in names:
                msg = f"two validators are named {name!r}: give one of them another `name`"
                raise ConfigurationError(msg)
            names.add(name)
            if stage == "evidence" and isinstance(validator, Evidence):
                self.evidence[name] = validator
            elif callable(validator) and stage in ("context", "draft"):
                (self.before if stage == "context" else self.local).append((name, validator))
            else:
                msg = (
                    f"{validator!r} is no validator: expected a callable (draft, context) -> Verdict with stage "
                    "'context' or 'draft', or evidence with `gather` and `agather`"
                )
                raise ConfigurationError(msg)

    def judge(self, draft: Draft | None, context: StepContext) -> tuple[Verdict, ...]:
        """What the validators find: those before a draft when it is None, else the local ones."""
        found: list[Verdict] = []
        for name, validator in self.before if draft is None else self.local:
            try:
                finding = validator(draft, context)
                if inspect.isawaitable(finding):
                    _discard(finding)
                    found.append(_broken(name, "an asynchronous validator needs ainvoke, astream or abatch"))
                else:
                    _add(found, name, finding)
            except Exception as error:  # noqa: BLE001 - R8: the record names it, the policy decides
                _reraise_control_flow(error)
                found.append(_broken(name, type(error).__name__))
        return tuple(found)

    async def ajudge(self, draft: Draft | None, context: StepContext, *, seconds: float) -> tuple[Verdict, ...]:
        """Async twin of `judge`; an asynchronous validator is cancelled after `seconds`."""
        found: list[Verdict] = []
        for name, validator in self.before if draft is None else self.local:
            limit: asyncio.Timeout | None = None
            try:
                finding = validator(draft, context)
                if inspect.isawaitable(finding):
                    limit = asyncio.timeout(seconds)
                    async with limit:
                        finding = await finding
                _add(found, name, finding)
            except TimeoutError as error:
                timed_out = limit is not None and limit.expired()
                found.append(
                    _broken(
                        name,
                        f"no answer in {seconds:g} s" if timed_out else type(error).__name__,
                        code="validator_timeout" if timed_out else "validator_error",
                    )
                )
            except Exception as error:  # noqa: BLE001 - R8: the record names it, the policy decides
                _reraise_control_flow(error)
                found.append(_broken(name, type(error).__name__))
        return tuple(found)


def name_of(validator: object) -> str:
    """A validator's name: its `name`, its function name, or its class name."""
    name = getattr(validator, "name", None) or getattr(validator, "__name__", None)
    return name if isinstance(name, str) else type(validator).__name__


def _add(found: list[Verdict], name: str, finding: Finding) -> None:
    if finding is None:
        return
    if isinstance(finding, bool):
        found.append(
            Verdict(outcome="pass" if finding else "fail", validator=name, reason="" if finding else "refused")
        )
    elif isinstance(finding, Verdict):
        found.append(finding if finding.validator else replace(finding, validator=name))
    elif isinstance(finding, Iterable) and not isinstance(finding, str | bytes):
        for count, item in enumerate(finding):
            if not isinstance(item, Verdict) or count >= _MAX_VERDICTS:
                fault = f"more than {_MAX_VERDICTS} verdicts" if isinstance(item, Verdict) else type(item).__name__
                found.append(_broken(name, f"returned {fault}, expected Verdict"))
                return
            found.append(item if item.validator else replace(item, validator=name))
    else:
        found.append(_broken(name, f"returned {type(finding).__name__}, expected Verdict, bool or None"))


def _broken(name: str, fault: str, *, code: str = "validator_error") -> Verdict:
    if (name, fault) not in _told:
        if len(_told) < _MAX_TOLD:
            _told.add((name, fault))
        LOG.warning("validator %s gives no verdict: %s (told once; see Policy.on_broken)", name, fault)
    return Verdict(outcome="abstain", code=code, reason=fault, validator=name)


def _discard(awaitable: Any) -> None:
    close = getattr(awaitable, "close", None)
    if callable(close):
        close()  # else Python warns of a coroutine that was never awaited


def _reraise_control_flow(error: Exception) -> None:
    if is_control_flow(error):
        raise error


def is_control_flow(error: BaseException) -> bool:
    """Whether an exception is the host steering (LangGraph's `GraphBubbleUp`), never a fault.

    Nothing can have raised it before langgraph was imported, so langgraph is not imported to ask.
    """
    import sys

    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)
