"""The validators of a cascade, sorted by when they speak, and what happens when one of them breaks.

Law: a validator that raises or hangs never fails a step; it is an abstain that names the fault (R8, R9).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cascade_agent._log import LOG
from cascade_agent.core.records import Verdict
from cascade_agent.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.records import Draft, SideCall, StepContext

_MAX_TOLD = 256
_told: set[tuple[str, str]] = set()
Finding = Verdict | Iterable[Verdict] | bool | None
Validator = Callable[..., Finding | Awaitable[Finding]]
"""`(draft, context) -> finding`; a class instance or a plain function, sync or async."""
Timed = Callable[[str, str | None, Sequence[tuple[str, float]]], None]
"""`(step, tier, [(validator, seconds), ...])`: is told how long each validator took over a tier's draft, or over the
context alone (None). It never raises."""

_MAX_VERDICTS = 256


@runtime_checkable
class Evidence(Protocol):
    """A validator that must ask a model. `stage` is `"evidence"`; asked only when it can change the decision."""

    name: str

    def gather(self, draft: Draft, context: StepContext, *, config: RunnableConfig | None) -> tuple[Verdict, SideCall]:
        """Ask, and say what was found and what it cost."""
        ...

    async def agather(
        self, draft: Draft, context: StepContext, *, config: RunnableConfig | None
    ) -> tuple[Verdict, SideCall]:
        """Async twin of `gather`."""
        ...


class Measured(Protocol):
    """Settings that say where they come from: a policy."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Of its threshold."""
        ...


class Panel:
    """Validators ready to judge.

    `before` look at the context alone, before the small model is asked; `local` look at a draft; `evidence` ask a
    model. `timed` is told how long each of the first two took.

    Raises:
        ConfigurationError: something that is no validator, or two with one name.
    """

    __slots__ = ("before", "evidence", "local", "timed")

    def __init__(self, validators: Sequence[Validator | Evidence], *, timed: Timed | None = None) -> None:
        self.timed = timed
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

    def __iter__(self) -> Iterator[Validator | Evidence]:
        """All of them, in the order in which they may speak."""
        yield from (validator for _, validator in (*self.before, *self.local))
        yield from self.evidence.values()

    def judge(self, draft: Draft | None, context: StepContext) -> tuple[Verdict, ...]:
        """What the validators find: those before a draft when it is None, else the local ones."""
        found: list[Verdict] = []
        took: list[tuple[str, float]] = []
        for name, validator in self.before if draft is None else self.local:
            started = perf_counter()
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
            took.append((name, perf_counter() - started))
        self._tell(draft, context, took)
        return tuple(found)

    async def ajudge(self, draft: Draft | None, context: StepContext, *, seconds: float) -> tuple[Verdict, ...]:
        """Async twin of `judge`; an asynchronous validator is cancelled after `seconds`."""
        found: list[Verdict] = []
        took: list[tuple[str, float]] = []
        for name, validator in self.before if draft is None else self.local:
            limit: asyncio.Timeout | None = None
            started = perf_counter()
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
            took.append((name, perf_counter() - started))
        self._tell(draft, context, took)
        return tuple(found)

    def _tell(self, draft: Draft | None, context: StepContext, took: list[tuple[str, float]]) -> None:
        if self.timed is not None:
            self.timed(context.step, None if draft is None else draft.tier, took)


def name_of(validator: object) -> str:
    """A validator's name: its `name`, its function name, or its class name."""
    name = getattr(validator, "name", None) or getattr(validator, "__name__", None)
    return name if isinstance(name, str) else type(validator).__name__


def check_fit(policy: Measured, validators: Iterable[object]) -> None:
    """Refuse a calibrated policy that was not measured with the validators in use. The doors ask it when they are made.

    A validator that spoke when the threshold was measured and is silent now would leave drafts with more confidence
    than they were measured to have. One that is new and may speak *for* a draft (evidence, log-probabilities: their
    attribute `lifts`) would lift drafts over the threshold that were not measured there. Others that are new only
    object more: that costs money and no guarantee. A policy without a measurement (`provenance["validators"]`) fits
    everything.

    Raises:
        ConfigurationError: names what does not fit and the mend.
    """
    measured = policy.provenance.get("validators")
    if not isinstance(measured, Mapping):
        return
    validators = list(validators)
    in_use = {name_of(validator) for validator in validators}
    missing = {name: codes for name, codes in measured.items() if codes and name not in in_use}
    if missing:
        told = "; ".join(f"{name} ({', '.join(map(str, codes))})" for name, codes in sorted(missing.items()))
        msg = (
            f"the policy was calibrated with validators that are not in use: {told}. "
            f"In use: {', '.join(sorted(in_use)) or 'none'}. Add them, or calibrate anew on a journal without them"
        )
        raise ConfigurationError(msg)
    lifting = {name_of(v) for v in validators if getattr(v, "stage", "") == "evidence" or getattr(v, "lifts", False)}
    strange = sorted(lifting - measured.keys())
    if strange:
        msg = (
            f"the policy was calibrated without {', '.join(strange)}, which may lift a draft over its threshold: leave "
            "it out, or calibrate anew on a journal of steps that were judged with it"
        )
        raise ConfigurationError(msg)


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
