"""Judge one recorded answer offline: the same validators, scorer and `decide()` as a running step, without a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cascade_agent.core.decide import decide
from cascade_agent.core.kinds import kind_of
from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Decision, DecisionInputs, Draft, StepContext, Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators import default_validators, shipped_scorer
from cascade_agent.validators.validator_set import ValidatorSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import AIMessage

    from cascade_agent.core.scoring import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The judgement of a cascade about one answer: its `confidence` is P(right), None when no validator measured it."""

    confidence: float | None
    accepted: bool
    verdicts: tuple[Verdict, ...]
    decision: Decision


def assess(
    message: AIMessage,
    *,
    messages: Any,
    tools: Sequence[Any] = (),
    state: object = None,
    validators: Sequence[Any] | None = None,
    scorer: Scorer | None = None,
    policy: Policy | None = None,
    tool_choice: str | None = None,
) -> Assessment:
    """Judge `message` as the small tier's answer to `messages` (anything a chat model takes), with `tools` on offer.

    `scorer` overrides the policy's. Validators that look at the context alone speak too, so an answer that a running
    cascade would never have asked for is not accepted here either. Evidence (validators that ask a model) stays silent.

    Raises:
        ConfigurationError: no AIMessage, messages that are none, or a tool or validator that cannot work.
    """
    from langchain_core.messages import AIMessage, convert_to_messages

    if not isinstance(message, AIMessage):
        msg = f"assess() judges an AIMessage; got {type(message).__name__}"
        raise ConfigurationError(msg)
    try:
        messages = convert_to_messages([("user", messages)] if isinstance(messages, str) else messages)
    except (NotImplementedError, TypeError, ValueError) as error:
        msg = f"assess() takes the messages of the request, as a model does: {error}"
        raise ConfigurationError(msg) from error
    policy = Policy() if policy is None else policy
    if scorer is not None:
        policy = replace(policy, scorer=scorer)
    judges = ValidatorSet(default_validators() if validators is None else validators)
    context = StepContext(
        messages=messages,
        tools=tool_specs(tools) if tools else (),
        state=state,
        tool_choice=tool_choice,
        side_effects=policy.side_effects,
    )
    verdicts = judges.validate(None, context) + judges.validate(Draft(message=message), context)
    confidence = (policy.scorer or shipped_scorer()).confidence(verdicts)
    attempt = Attempt(tier="small", outcome="rejected", verdicts=verdicts, confidence=confidence)
    calls = len(message.tool_calls) + len(message.invalid_tool_calls)
    kind = kind_of(calls=calls, tools=len(context.tools), loop=context.in_loop)
    decision = decide(policy, (attempt,), inputs=DecisionInputs(kind=kind))
    return Assessment(confidence=confidence, accepted=decision.action == "accept", verdicts=verdicts, decision=decision)
