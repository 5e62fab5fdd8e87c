"""The validators of a step: when each is asked, what is put on its verdicts, and what happens when one breaks.

A validator that raises or hangs never fails a step: it is an abstain that names the fault.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast, runtime_checkable

from cascade_agent._log import LOG
from cascade_agent.core.records import Draft, Origin, SideCall, StepContext, Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators._safe_path import redact_path

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.policy import Policy
    from cascade_agent.core.scoring import Weight

Finding = Verdict | Iterable[Verdict] | bool | None
Validator = Callable[..., Finding | Awaitable[Finding]]
"""`(draft, context) -> finding`; a class instance or a plain function, sync or async."""
Timed = Callable[[str, str | None, Sequence[tuple[str, float]]], None]
"""`(step, tier, [(validator, seconds), ...])`: receives how long each validator took over a tier's draft, or over the
context alone (None). It never raises."""

_MAX_VERDICTS = 256
_PLAIN_FINDINGS = frozenset((Verdict, bool, list, tuple, type(None)))
_MAX_WARNINGS = 256
_warned: set[tuple[str, str]] = set()


@runtime_checkable
class Evidence(Protocol):
    """A validator that must ask a model. `stage` is `"evidence"`; asked only when it can change the decision.

    One that asks the small tier itself has `for_tier(tier)`, and may return a third value: the draft to judge instead.
    """

    name: str

    def gather(self, draft: Draft, context: StepContext, *, config: RunnableConfig | None) -> tuple[Verdict, SideCall]:
        """Ask; return the finding and what it cost."""
        ...

    async def agather(
        self, draft: Draft, context: StepContext, *, config: RunnableConfig | None
    ) -> tuple[Verdict, SideCall]:
        """Async twin of `gather`."""
        ...


class ValidatorSet:
    """Validators ready to judge.

    `before` look at the context alone, before the small model is asked; `local` look at a draft; `evidence` ask a
    model. `timed` receives how long each of the first two took.

    The set signs every verdict: the validator's name, whether it is shipped, the reason a step escalates for when it
    fails (`escalates_as` of the validator), and a path without names that no schema declares. Where one
    of them is the user's, they get a copy of the draft's message, so that changing it changes no answer.

    Raises:
        ConfigurationError: something that is no validator, or two with one name.
    """

    __slots__ = ("_marks", "_trusted", "before", "evidence", "local", "timed")

    def __init__(self, validators: Sequence[Validator | Evidence], *, timed: Timed | None = None) -> None:
        self.timed = timed
        self.before: list[tuple[str, Validator]] = []
        self.local: list[tuple[str, Validator]] = []
        self.evidence: dict[str, Evidence] = {}
        self._marks: dict[str, tuple[Origin, str]] = {}
        if isinstance(validators, str | bytes) or not isinstance(validators, Iterable):
            msg = f"validators is {validators!r}; expected a list of them: put a single one into a list"
            raise ConfigurationError(msg)
        for validator in validators:
            self._add(validator)
        self._trusted = all(self._marks[name][0] == "shipped" for name, _ in self.local)

    def _add(self, validator: Validator | Evidence) -> None:
        if isinstance(validator, type):
            msg = f"validators holds the class {validator.__name__}; expected an instance: {validator.__name__}()"
            raise ConfigurationError(msg)
        name, stage = name_of(validator), getattr(validator, "stage", "draft")
        if name in self._marks:
            msg = f"two validators are named {name!r}: give one of them another `name`"
            raise ConfigurationError(msg)
        reason = getattr(validator, "escalates_as", "")
        origin: Origin = "shipped" if getattr(validator, "shipped", False) is True else "user"
        self._marks[name] = origin, reason if isinstance(reason, str) else ""
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

    @property
    def weights(self) -> dict[str, Weight]:
        """Code -> weight, as the validators of this set state them."""
        return {code: weight for validator in self for code, weight in getattr(validator, "weights", {}).items()}

    def validate(self, draft: Draft | None, context: StepContext) -> tuple[Verdict, ...]:
        """Return the verdicts of those before a draft when it is None, else of the local ones."""
        found: list[Verdict] = []
        took: list[tuple[str, float]] = []
        seen = draft if draft is None or self._trusted else own_copy(draft)
        for name, validator in self.before if draft is None else self.local:
            started = perf_counter()
            try:
                finding = validator(seen, context)
                if type(finding) not in _PLAIN_FINDINGS and inspect.isawaitable(finding):
                    _discard(finding)
                    finding = _broken(name, "an asynchronous validator needs ainvoke, astream or abatch")
                if finding is not None:
                    self._take(found, name, cast("Finding", finding), context)
            except Exception as error:  # noqa: BLE001 - the record names it, the policy decides
                self._take(found, name, _fault(name, error), context)
            took.append((name, perf_counter() - started))
        if self.timed is not None:
            self.timed(context.step, None if draft is None else draft.tier, took)
        return tuple(found)

    async def avalidate(self, draft: Draft | None, context: StepContext, *, seconds: float) -> tuple[Verdict, ...]:
        """Async twin of `validate`; an asynchronous validator is cancelled after `seconds`."""
        found: list[Verdict] = []
        took: list[tuple[str, float]] = []
        seen = draft if draft is None or self._trusted else own_copy(draft)
        for name, validator in self.before if draft is None else self.local:
            limit: asyncio.Timeout | None = None
            started = perf_counter()
            try:
                finding = validator(seen, context)
                if type(finding) not in _PLAIN_FINDINGS and inspect.isawaitable(finding):
                    limit = asyncio.timeout(seconds)
                    async with limit:
                        finding = await finding
                if finding is not None:
                    self._take(found, name, cast("Finding", finding), context)
            except Exception as error:  # noqa: BLE001 - the record names it, the policy decides
                late = limit is not None and limit.expired()
                fault = _broken(name, f"no answer in {seconds:g} s", "validator_timeout") if late else None
                self._take(found, name, fault or _fault(name, error), context)
            took.append((name, perf_counter() - started))
        if self.timed is not None:
            self.timed(context.step, None if draft is None else draft.tier, took)
        return tuple(found)

    def stamp(self, name: str, verdict: Verdict, context: StepContext) -> Verdict:
        """Return the verdict of the validator `name`, signed by it."""
        found: list[Verdict] = []
        self._take(found, name, verdict, context)
        return found[0]

    def _take(self, found: list[Verdict], name: str, finding: Finding, context: StepContext) -> None:
        """Sign what a validator returned and add it to what was found."""
        if isinstance(finding, bool):
            finding = Verdict(outcome="pass" if finding else "fail", reason="" if finding else "refused")
        if isinstance(finding, Verdict):
            finding = (finding,)
        elif not isinstance(finding, Iterable) or isinstance(finding, str | bytes):
            finding = (_broken(name, f"returned {type(finding).__name__}, expected Verdict, bool or None"),)
        origin, reason = self._marks[name]
        for count, verdict in enumerate(finding):
            if not isinstance(verdict, Verdict) or count >= _MAX_VERDICTS:
                fault = type(verdict).__name__
                if isinstance(verdict, Verdict):
                    fault = f"more than {_MAX_VERDICTS} verdicts"
                verdict = _broken(name, f"returned {fault}, expected Verdict")  # noqa: PLW2901 - the last one
            path = redact_path(verdict.path, context) if verdict.path else ""
            by = verdict.validator or name
            if origin == "shipped" and path == verdict.path:
                # ours are made anew for each finding, so nobody else holds this one: no second object is needed
                _set(verdict, "validator", by)
                _set(verdict, "origin", origin)
                _set(verdict, "escalates_as", reason)
                found.append(verdict)
            else:
                found.append(replace(verdict, path=path, validator=by, origin=origin, escalates_as=reason))
            if verdict.outcome == "abstain" and verdict.broken:
                return


_set = object.__setattr__  # a verdict is frozen


Gathered: TypeAlias = "tuple[Verdict, SideCall, Draft | None]"


def gathered(evidence: Evidence, found: object) -> Gathered:
    """Return what evidence gave: a verdict, its cost, and a better draft or None. Anything else is its own fault."""
    verdict, call, better = (*found, None, None, None)[:3] if isinstance(found, tuple) else (None, None, None)
    if isinstance(verdict, Verdict) and isinstance(call, SideCall) and isinstance(better, Draft | None):
        return verdict, call, better
    given = ", ".join(type(part).__name__ for part in found) if isinstance(found, tuple) else type(found).__name__
    why = f"returned ({given}), expected (Verdict, SideCall) or (Verdict, SideCall, Draft)"
    return _broken(evidence.name, why, "evidence_error"), SideCall(name=evidence.name), None


def own_copy(draft: Draft) -> Draft:
    """Return a draft whose message can be changed without changing the answer: text, blocks, calls and arguments."""
    message = draft.message
    own: JsonObject = {"content": _nested(message.content)} if isinstance(message.content, list) else {}
    if message.tool_calls:
        own["tool_calls"] = [{**call, "args": _nested(call.get("args"))} for call in message.tool_calls]
    return replace(draft, message=message.model_copy(update=own))


def _nested(value: object, depth: int = 32) -> object:
    """Return a copy of JSON, as deep as no sane argument goes: hostile ones are shared below that."""
    if depth and isinstance(value, dict):
        return {key: _nested(item, depth - 1) for key, item in value.items()}
    return [_nested(item, depth - 1) for item in value] if depth and isinstance(value, list) else value


def name_of(validator: object) -> str:
    """Return a validator's name: its `name`, its function name, or its class name."""
    name = getattr(validator, "name", None) or getattr(validator, "__name__", None)
    return name if isinstance(name, str) else type(validator).__name__


def check_fit(policy: Policy, validators: Iterable[object]) -> None:
    """Refuse a calibrated policy that was not measured with the validators in use; adapters ask it when they are made.

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
        silent = "; ".join(f"{name} ({', '.join(map(str, codes))})" for name, codes in sorted(missing.items()))
        msg = (
            f"the policy was calibrated with validators that are not in use: {silent}. "
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


def _broken(name: str, fault: str, code: str = "validator_error") -> Verdict:
    if (name, fault) not in _warned:
        if len(_warned) < _MAX_WARNINGS:
            _warned.add((name, fault))
        LOG.warning("validator %s gives no verdict: %s (logged once; see Policy.on_broken)", name, fault)
    return Verdict(outcome="abstain", code=code, reason=fault)


def _fault(name: str, error: Exception) -> Verdict:
    """Return the abstain of a validator that raised; the host's control flow passes through."""
    if is_control_flow(error):
        raise error
    return _broken(name, type(error).__name__)


def _discard(awaitable: object) -> None:
    close = getattr(awaitable, "close", None)
    if callable(close):
        close()  # else Python warns of a coroutine that was never awaited


def is_control_flow(error: BaseException) -> bool:
    """Return whether an exception is the host steering (LangGraph's `GraphBubbleUp`), never a fault.

    Nothing can have raised it before langgraph was imported, so langgraph is not imported to ask.
    """
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)
