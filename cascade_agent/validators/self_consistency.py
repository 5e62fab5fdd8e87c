"""`SelfConsistency`: the small tier answers again under other instructions, and the majority's draft is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import cycle, islice
from operator import add
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.messages import SystemMessage

from cascade_agent.core.records import Draft, SideCall, Usage, Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.errors import ConfigurationError
from cascade_agent.models.options import settings_for
from cascade_agent.models.usage import NOTHING, usage_and_cost, usage_and_cost_of_error
from cascade_agent.validators._model_call import ModelEvidence, Requests, as_draft, bound_for
from cascade_agent.validators.agreement import answer_key
from cascade_agent.validators.validator_set import is_control_flow

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from cascade_agent.core.records import StepContext
    from cascade_agent.models.tier import Tier
    from cascade_agent.validators._model_call import Asking

Found = tuple[Verdict, SideCall, Draft | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConsistency(ModelEvidence[Found]):
    """Asks the small tier again under other instructions, side by side, and keeps the majority's draft.

    The diversity of the prompt is what pays, not the number of samples (Yue et al., *Large Language Model Cascades with
    Mixture of Thoughts Representations*, ICLR 2024). For text with a final answer (a number, a date, a few words, what
    stands behind "the answer is") and for structured output; two samples of one model say little about tool calls and
    nothing about prose, so there it abstains; for calls, and for prose where tools are on offer, nobody is asked.

    The finding is graded: code `self_consistency`, a score of 1 where the answers agree. It is the lead of the most
    frequent answer over the next, as a share of the lead that is wanted: all samples, or 2 when `staged`. Where the
    majority is not the draft's, the majority's answer takes the place of the draft and is validated like it. Steps
    whose confidence lies outside of `Policy.evidence` are not sampled.

    Args:
        instructions: Each is another way to do the step. A text is added to the system message, a `SystemMessage`
            takes its place.
        samples: Answers in all, the draft among them; the request's own instructions and these take turns. Without it
            one of each.
        temperature: Of the further samples; None leaves the tier's own.
        staged: Ask one sample first, and the others only where it disagrees.
        name: Name in the record.
        tier: Who is asked; a cascade puts its small tier here.

    Raises:
        ConfigurationError: no instructions, or fewer than two samples.
    """

    instructions: Sequence[str | SystemMessage]
    samples: int | None = None
    temperature: float | None = None
    staged: bool = False
    name: str = "SelfConsistency"
    tier: Tier | None = field(default=None, repr=False)
    escalates_as: ClassVar[str] = "disagreement"
    weights: ClassVar[Mapping[str, Weight]] = {
        "self_consistency": Weight(8.0, "a lead of half of what is wanted is not enough to keep a draft", neutral=0.8),
    }

    def __post_init__(self) -> None:
        """Refuse what compares nothing."""
        if isinstance(self.instructions, str | SystemMessage) or not self.instructions:
            msg = "SelfConsistency.instructions is empty or no list; expected at least one other way to do the step"
            raise ConfigurationError(msg)
        if self.samples is not None and self.samples <= 1:
            msg = f"SelfConsistency.samples is {self.samples!r}; expected 2 or more: the draft is one of them"
            raise ConfigurationError(msg)

    def for_tier(self, tier: Tier) -> SelfConsistency:
        """Return this evidence asking `tier`, unless it has one of its own."""
        return self if self.tier is not None else replace(self, tier=tier)

    def _asking(self, draft: Draft, context: StepContext) -> Asking[Found]:
        tier = self.tier
        if tier is None:
            msg = f"{self.name} has no tier to ask: use it in a cascade, or give `tier`"
            raise ConfigurationError(msg)
        own = answer_key(draft, context)
        if (context.output_schema is None and draft.tool_calls) or (own is None and context.tools):
            reason = "a call or prose: samples of one model say nothing about it"
            return self._abstained("not_sampled", reason, NOTHING, 0.0)
        own = object() if own is None else own  # no answer among answers is outvoted; among its like it is prose
        votes: dict[Hashable, list[Draft]] = {own: [draft]}
        usage, costs = list[Usage](), list[float | None]()
        kinds = [None, *self.instructions]
        total = self.samples or len(kinds)
        waiting = [tier.messages_for(_instructed(context, kind)) for kind in islice(cycle(kinds), 1, total)]
        wanted, stages = (2, [waiting[:1], waiting[1:]]) if self.staged else (total, [waiting])
        ready = bound_for(tier, context)
        settings = settings_for(tier.traits, {} if self.temperature is None else {"temperature": self.temperature})
        for messages in stages:
            if not messages or (usage and _lead(votes) >= wanted):
                break
            for reply in (yield Requests(ready, messages, settings)):
                used, cost, sample = _read(tier, reply)
                usage.append(used)
                costs.append(cost)
                key = None if sample is None else answer_key(sample, context)
                if sample is not None and key is not None:
                    votes.setdefault(key, []).append(sample)
        paid = None if None in costs else sum(cost for cost in costs if cost is not None)
        spent, answered = reduce(add, usage), sum(map(len, votes.values()))
        if answered <= 1:
            return self._abstained("agreement_unknown", "no other sample gave an answer to compare", spent, paid)
        majority = max(votes.values(), key=len)  # the draft's own answer where several are as frequent
        reason = f"{len(majority)} of {answered} samples agree, {len(votes)} different answers"
        score = min(1.0, _lead(votes) / min(wanted, answered))
        verdict = Verdict(outcome="abstain", code="self_consistency", reason=reason, score=score)
        kept = None if majority[0] is draft else majority[0]
        return verdict, SideCall(name=self.name, usage=spent, cost=paid), kept

    def _abstained(self, code: str, reason: str, usage: Usage, cost: float | None) -> Found:
        call = SideCall(name=self.name, usage=usage, cost=cost)
        return Verdict(outcome="abstain", code=code, reason=reason), call, None


def _read(tier: Tier, reply: Any) -> tuple[Usage, float | None, Draft | None]:
    """Return usage, cost and draft of a sample; no draft where it failed."""
    if isinstance(reply, BaseException):
        if not isinstance(reply, Exception) or is_control_flow(reply):
            raise reply
        used, cost, _ = usage_and_cost_of_error(reply)
        return used or Usage(), cost, None
    draft = as_draft(reply)
    used, cost, _ = usage_and_cost(tier, draft.message)
    return used, cost, draft


def _instructed(context: StepContext, instruction: str | SystemMessage | None) -> list[BaseMessage]:
    """Return the messages of a step under another instruction: a text joins the system message, or is it."""
    messages = list(context.messages)
    if instruction is None:
        return messages
    own = messages.pop(0) if messages and messages[0].type == "system" else None
    if isinstance(instruction, SystemMessage) or own is None:
        return [SystemMessage(instruction) if isinstance(instruction, str) else instruction, *messages]
    if isinstance(own.content, str):
        return [SystemMessage(f"{own.content}\n\n{instruction}"), *messages]
    return [SystemMessage([*own.content, {"type": "text", "text": instruction}]), *messages]


def _lead(votes: Mapping[Hashable, list[Draft]]) -> int:
    """Return by how many samples the most frequent answer leads the next one."""
    counts = sorted((*map(len, votes.values()), 0), reverse=True)
    return counts[0] - counts[1]
