"""A step as an adapter hands it over, what its calls gave, and how it ended: values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cascade_agent import telemetry
from cascade_agent._log import LOG
from cascade_agent.core.frozen import quick
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import StepContext, StepTrace, load
from cascade_agent.engine.own_journal import journal_of
from cascade_agent.engine.statistics import StepStatistics
from cascade_agent.errors import CascadeExhausted, RejectedDraft
from cascade_agent.models.pricing import warm
from cascade_agent.models.tier import Tier
from cascade_agent.validators import default_validators
from cascade_agent.validators.validator_set import ValidatorSet, check_fit

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Attempt, Draft, StepOutcome
    from cascade_agent.engine.budget import Budget
    from cascade_agent.models.tier import Role

DISABLED = "CASCADE_DISABLED"
"""Environment variable: set to anything but 0, false, no or off, everything goes to the large tier."""
_STATE: ContextVar[object] = ContextVar("cascade_state", default=None)
NESTED: ContextVar[bool] = ContextVar("cascade_nested", default=False)
"""True while a tier is called: a cascade inside is part of the outer step."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A tier's answer: the draft to be judged, and the host's own value that is returned when it is accepted.

    `judged_with` changes fields of the step's context where the answer itself says what it is to be judged as: an agent
    that owes structured output in the end first calls ordinary tools.
    """

    draft: Draft
    native: object = None
    judged_with: JsonMapping | None = None


Rebuild = Callable[[str, "AIMessage", object], Answer]
"""`(tier, message, parsed) -> Answer`: the adapter's own value of a saved or human answer, `parsed` plain JSON or None.
Raises `ValueError` when the message holds no structured output where one was wanted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CascadeSettings:
    """The settings that all steps of one cascade share. `small` is None where the host's own model takes that place."""

    small: Tier | None
    large: Tier
    validators: ValidatorSet
    policy: Policy
    journal: Any
    statistics: StepStatistics
    durable: bool

    @classmethod
    def of(
        cls, small: Any, large: Any, *, validators: Sequence[Any] | None, policy: Any, journal: Any, durable: bool
    ) -> CascadeSettings:
        """Read what an adapter was given.

        Raises:
            ConfigurationError: a tier, validator or setting that cannot work.
        """
        tiers = (None if small is None else Tier.of(small), Tier.of(large))
        if any(tier is not None and tier.price is None and tier.model_name for tier in tiers):
            warm()
        if tiers[0] is not None and _same(tiers[0].model, tiers[1].model):
            LOG.warning("small and large are the same model: a step that escalates asks it again")
        judges = ValidatorSet(
            default_validators() if validators is None else validators, timed=telemetry.record_validation
        )
        own = Policy.of(policy)
        check_fit(own, judges)
        return cls(
            small=tiers[0],
            large=tiers[1],
            validators=judges,
            policy=own,
            journal=journal_of(journal),
            statistics=StepStatistics(),
            durable=durable,
        )


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, str) and one == other)


@quick
@dataclass(frozen=True, eq=False, kw_only=True)
class StepRequest:
    """One step as an adapter hands it over.

    `ask(role, note, live=...)` asks a tier; a note is a hand-over for the large one, and what is `live`, where somebody
    `streams`, goes out as it comes; `sent` gives what of it went out so far. `shadow` asks large out of the host's
    sight. `host_raised` says of an exception that it is the host's own and no model's failure. `rebuild` makes the
    adapter's own value of another draft of small that evidence found.

    `interruptible` says that a human can be asked when the step is exhausted; its record is then not yet the last word
    and is left to whoever asks him.
    """

    name: str
    tiers: Mapping[Role, Tier]
    contexts: Mapping[Role, StepContext]
    validators: ValidatorSet
    policy: Policy
    ask: Callable[..., Coroutine[Any, Any, Answer]]
    streams: bool = False
    sent: Callable[[], AIMessage | None] | None = None
    shadow: Callable[[], Answer] | None = None
    host_raised: Callable[[Exception], bool] | None = None
    rebuild: Rebuild | None = None
    journal: Any = None
    statistics: StepStatistics | None = None
    budget: Budget | None = None
    run_id: str | None = None
    config: RunnableConfig | None = None
    durable: bool = False
    interruptible: bool = False
    disabled: bool = False
    nested: bool = False
    """True for the step of a cascade that is itself a tier."""
    id: str | None = None
    """Id of the record, where LangGraph may run the step again; None for a fresh one."""
    run: telemetry.StepRun | None = None


def is_on(*switches: object) -> bool:
    """Return whether one of these switches is on; they may be texts, as environments and front ends give them."""
    for value in switches:
        if value is not None and str(value).strip().lower() not in ("", "0", "false", "no", "off"):
            return True
    return False


@contextmanager
def state_of_step(state: object) -> Iterator[None]:
    """Let validators of the steps inside see the graph's state (plan consistency reads it)."""
    token = _STATE.set(state)
    try:
        yield
    finally:
        _STATE.reset(token)


def current_state() -> object:
    """Return the graph's state that surrounds this step, None outside of one."""
    return _STATE.get()


@quick
@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a call: a value, or the error; `late` when the deadline passed. `latency` is in seconds."""

    value: object
    error: Exception | None
    late: bool
    latency: float
    made: bool = True
    """True if the call was made at all."""


Pending = Reply | Literal["running"] | None


# ---- how a step ended -----------------------------------------------------------------------------------------------


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """The facts of an end: `final` is the attempt whose answer is returned, `best` the one that a human may see.

    `waits` says that a human has the last word, so that the record is not written yet.
    """

    outcome: StepOutcome
    reason: str
    final: int | None = None
    best: int | None = None
    waits: bool = False


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The end of a step.

    `answer` is what to return, None when the policy lets nothing be returned; `best` the draft that a human may look
    at; `errors` hold what went wrong on the way, one per failed attempt; `raised` is large's own exception, where that
    is what large alone would have given. `is_left` says that the step has not ended: large is next.
    """

    answer: Answer | None
    best: Answer | None
    trace: StepTrace
    errors: tuple[Exception, ...] = ()
    raised: Exception | None = None
    is_left: bool = False

    def failure(self) -> Exception:
        """Return the exception to raise: large's own with the record on it, else `CascadeExhausted`."""
        attempts = "; ".join(attempt_line(a) for a in self.trace.attempts)
        if self.raised is None:
            if self.trace.reason == "budget":
                attempts += "; max_cost leaves no more"
            errors = self.errors or (RejectedDraft(f"no tier was asked: {self.trace.reason}"),)
            msg = f"step {self.trace.step!r}: no tier gave a usable answer ({attempts})"
            return CascadeExhausted(msg, trace=self.trace, errors=errors)
        note = f"cascade step {self.trace.step!r}: {attempts}"
        try:
            if not any(n.startswith("cascade step ") for n in getattr(self.raised, "__notes__", ())):
                self.raised.add_note(note)
            self.raised.cascade = self.trace  # type: ignore[attr-defined]  # for code that catches it
        except Exception:  # noqa: BLE001, S110 - an exception that takes no attributes is raised all the same
            pass
        return self.raised


def attempt_line(attempt: Attempt) -> str:
    """Return an attempt in one line for people."""
    if attempt.error is not None:
        return f"{attempt.tier}: {attempt.error}"
    objections = [f"{v.validator}: {v.code}" for v in attempt.verdicts if v.outcome == "fail"]
    return f"{attempt.tier}: {attempt.outcome}" + (f" ({', '.join(objections)})" if objections else "")


def trace_of(message: AIMessage) -> StepTrace | None:
    """Read the record on a message; None when it is not a cascade's.

    Raises:
        RecordError: there is one, but it cannot be read.
    """
    data = message.response_metadata.get("cascade")
    return None if data is None else load(StepTrace, data)
