"""A step as a door hands it over, and what its script wants done: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from langchain_core.runnables import RunnableConfig

    from cascade_agent import telemetry
    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Draft, StepContext
    from cascade_agent.engine.statistics import Ledger, Purse
    from cascade_agent.journal.writer import Journal
    from cascade_agent.models.tier import Role, Tier
    from cascade_agent.validators.validator_set import Evidence, ValidatorSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tier said: the draft to be judged, and the host's own value that is returned when it is taken.

    `context` is set where the answer itself says what it is to be judged as: an agent that owes structured output in
    the end first calls ordinary tools.
    """

    draft: Draft
    native: object = None
    context: StepContext | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """One step as a door hands it over.

    `ask` (or `aask`) asks a tier; a note is a hand-over for the large one. `shadow` asks the large one out of sight of
    the host.

    `interruptible` says that a human can be asked when the step is exhausted; its record is then not yet the last word
    and is left to whoever asks him.
    """

    name: str
    tiers: Mapping[Role, Tier]
    contexts: Mapping[Role, StepContext]
    panel: ValidatorSet
    policy: Policy
    ask: Callable[[Role, str | None], Answer] | None = None
    aask: Callable[[Role, str | None], Awaitable[Answer]] | None = None
    shadow: Callable[[], Answer] | None = None
    journal: Journal | None = None
    ledger: Ledger | None = None
    purse: Purse | None = None
    run_id: str | None = None
    config: RunnableConfig | None = None
    interruptible: bool = False
    run: telemetry.StepRun | None = None


# ---- what a script wants done ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a tier for its draft within `seconds`.

    `hedge` begins the call of large, that many seconds later, beside this one of small; should large answer first,
    small is given up.
    """

    role: Role
    seconds: float | None
    note: str | None
    span: telemetry.AttemptScope
    hedge: float | None = None
    hedge_span: telemetry.AttemptScope | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Run the local validators on a draft; without one, those that look at the context alone."""

    draft: Draft | None
    context: StepContext


@dataclass(frozen=True, slots=True)
class Gather:
    """Ask a piece of evidence about a draft within `seconds`; without a draft, begin to ask beside what follows."""

    evidence: Evidence
    draft: Draft | None
    context: StepContext
    seconds: float | None
    span: telemetry.Scope


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait, as a provider asked."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Give up the calls that were begun beside others: by name, the reply, None for one that was still running.

    A call that was to begin later and was never made is not among them.
    """


@dataclass(frozen=True, slots=True)
class Reply:
    """What asking gave: a value, or the error; `late` when the deadline passed. `latency` is in seconds."""

    value: object
    error: Exception | None
    late: bool
    latency: float


Effect = Ask | Check | Gather | Sleep | Drop
