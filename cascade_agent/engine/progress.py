"""`StepProgress`: what has happened so far in one step. Lives and dies with it; knows no clock and no file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from cascade_agent.core.clean_json import clean_text
from cascade_agent.core.decide import decide
from cascade_agent.core.kinds import kind_of
from cascade_agent.core.records import UNKNOWN, Attempt, Decision, DecisionInputs, Draft, SideCall, Verdict
from cascade_agent.engine.step import Answer, Reply, StepEnd, StepRequest, StepResult, attempt_line
from cascade_agent.engine.structured import plain
from cascade_agent.engine.tier_faults import draft_fault, error_fault, text_of
from cascade_agent.engine.worker_threads import SupersededError
from cascade_agent.errors import ConfigurationError, RejectedDraft
from cascade_agent.models.usage import NOTHING, retry_after, usage_and_cost, usage_and_cost_of_error, was_answered
from cascade_agent.validators import shipped_scorer
from cascade_agent.validators.validator_set import is_control_flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_agent.core.clean_json import JsonObject
    from cascade_agent.core.records import AttemptOutcome, SideEffect, StepContext, StepOutcome, StepTrace, Usage
    from cascade_agent.engine.step import Pending
    from cascade_agent.models.tier import Role

_SMALL_SHARE = 1 / 3
_MAX_ERROR = 500
_ANY_MONEY = 1e-12
_UNREAD = Verdict(
    outcome="fail",
    code="unparsed_output",
    reason="the client could not read the answer",
    validator="StructuredOutput",
    escalates_as="schema_invalid",
)


@dataclass(slots=True)
class StepProgress:
    """The attempts, decisions and costs of a step so far."""

    request: StepRequest
    clock: Callable[[], float]
    """Gives the seconds since the step began."""
    done: list[Attempt] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    side_calls: list[SideCall] = field(default_factory=list)
    inputs_seen: list[DecisionInputs] = field(default_factory=list)
    facts: JsonObject = field(default_factory=lambda: {"tier": "small", "outcome": "pending"})
    """The fields of the attempt in hand."""
    is_closed: bool = False
    """True between the end of an attempt and the next one."""
    may_retry: bool | None = None
    before: tuple[Verdict, ...] = ()
    """Verdicts of the context alone, before there was a draft."""
    answer: Answer | None = None
    error: Exception | None = None
    reserved: float = 0.0
    known: DecisionInputs = UNKNOWN
    """Inputs from the statistics when the step began."""
    kind: str = ""
    """Kind of the step, by its first draft; empty before there is one."""

    @classmethod
    def handed_over(cls, request: StepRequest, clock: Callable[[], float], before: StepTrace) -> StepProgress:
        """Return the progress of a step that was left at its hand-over: small's attempt in hand, without the draft."""
        (small,) = before.attempts
        return cls(
            request,
            clock,
            decisions=[*before.decisions],
            inputs_seen=[*before.inputs_seen] or [UNKNOWN] * len(before.decisions),
            side_calls=[*before.evidence],
            facts={name: getattr(small, name) for name in Attempt.__slots__},
            kind=before.kind,
        )

    @property
    def attempt(self) -> Attempt:
        """The attempt in hand."""
        return Attempt(**self.facts)

    @property
    def time_left(self) -> float | None:
        """The rest of the latency budget."""
        budget = self.request.policy.latency_budget
        return None if budget is None else budget - self.clock()

    def seconds(self, role: Role) -> float | None:
        """Return how long a tier may take now: its own limit, and what the step's budget leaves it."""
        own, budget = self.request.tiers[role].timeout, self.request.policy.latency_budget
        if budget is None:
            return own
        if own is None:
            own = budget * _SMALL_SHARE if role == "small" else budget
        return min(own, budget - self.clock())

    def context(self, role: Role) -> StepContext:
        """Return what the answer in hand is judged as."""
        return judged_as(self.request.contexts[role], self.answer)

    @property
    def draft_is_spent(self) -> bool:
        """Return whether the last attempt gave a draft that nobody needs any more, neither large nor a person."""
        policy, last = self.request.policy, self.done[-1]
        may_return = policy.on_exhausted in ("return", "interrupt") and last.reviewable
        return last.outcome == "rejected" and policy.handover != "feedback" and not may_return

    @property
    def last_word(self) -> bool:
        """Return whether somebody streams, and large's draft reaches the host whatever is found about it.

        Not where the policy may refuse it, nor where it may call a tool that acts.
        """
        request, effects = self.request, self.request.policy.side_effects
        if request.policy.on_exhausted != "pass" or not request.streams:
            return False
        return not any(effects.get(tool.name) in ("write", "irreversible") for tool in request.contexts["large"].tools)

    def _broken_off(self) -> tuple[bool, Usage | None, float | None]:
        """Return whether some of large's answer went out, and its usage and cost: unknown unless all of it had come."""
        request, sent = self.request, None
        if request.sent is not None and self.facts["tier"] == "large":
            sent = request.sent()
        if sent is None or sent.usage_metadata is None or Draft(message=sent, tier="large").finish_reason is None:
            return sent is not None, None, None
        return True, *usage_and_cost(request.tiers["large"], sent)[:2]

    # ---- decisions --------------------------------------------------------------------------------------------------

    def decide(self) -> Decision:
        """Decide the next move, and keep what the decision was made on."""
        inputs = self._inputs()
        evidence = tuple(self.request.validators.evidence)
        decision = decide(self.request.policy, (*self.done, self.attempt), evidence=evidence, inputs=inputs)
        self.inputs_seen.append(inputs)
        self.decisions.append(decision)
        return decision

    def _inputs(self) -> DecisionInputs:
        """Return what is known besides the attempts now; nothing that no rule could use."""
        request, policy, known, facts = self.request, self.request.policy, self.known, self.facts
        more: JsonObject = {}
        if request.disabled:
            more["disabled"] = True
        small, large, wait = known.small_latency, known.large_latency, facts.get("retry_after")
        left = None if wait is None and (small is None or large is None) else self.time_left
        if wait is not None or (left is not None and left < cast("float", small) + cast("float", large)):
            more["time_left"] = left  # where it can matter
        if facts["tier"] == "large" and wait is not None and request.statistics is not None:
            if self.may_retry is None:  # taken once, however often it is decided anew
                self.may_retry = request.statistics.take_retry()
            more["retry"] = self.may_retry
        if facts["outcome"] == "rejected" and facts["tier"] == "small" and isinstance(policy.threshold, Mapping):
            more["kind"] = self.kind
        if policy.stay_on_large == "turn":
            more["stays_on_large"] = _escalated_this_turn(request.contexts["small"])
        if request.budget is not None:
            more["money_left"] = request.budget.remaining()
            more["small_price"], more["large_price"] = self._price("small"), self._price("large")
        return replace(known, **more) if more else known

    # ---- money ------------------------------------------------------------------------------------------------------

    def _price(self, role: Role) -> float | None:
        """Return what must be left to ask a tier: the expected cost of the call, or the most that it can cost."""
        request, strict = self.request, self.request.policy.strict_cost
        mean = None if strict or request.statistics is None else request.statistics.expected(request.name, role)
        if mean is not None:
            return mean
        tier = request.tiers[role]
        found = tier.foreseen(_size(request.contexts[role]), most=strict)
        if found is None and strict:
            msg = f"a strict max_cost cannot bound a call of {tier.label}: give it a Price and the model a max_tokens"
            raise ConfigurationError(msg)
        return found

    def reserve(self, role: Role) -> bool:
        """Set aside the cost of a tier's call. False when another step was faster: then decide again."""
        budget = self.request.budget
        if budget is None:
            return True
        amount = self._price(role) or 0.0
        if budget.reserve(amount):
            self.reserved = amount
            return True
        self.take_back_decision()
        return False

    def take_back_decision(self) -> None:
        """Forget the last decision: it is to be made anew."""
        self.decisions.pop()
        self.inputs_seen.pop()

    def held_for_others(self, decision: Decision) -> float | None:
        """Return what the next call costs where it is short only of money that is set aside for calls in flight."""
        budget, left = self.request.budget, self.time_left
        if budget is None or (left is not None and left <= 0) or self.request.nested:
            return None
        amount = self._price("small" if decision.detail == "small" else "large") or _ANY_MONEY
        free, unspent = budget.remaining(), budget.remaining(held=True)
        return amount if free is not None and unspent is not None and free < amount <= unspent else None

    def charge(self, cost: float | None) -> None:
        """Book the call that is over; what was set aside for it stays spent when its cost is unknown."""
        reserved, self.reserved = self.reserved, 0.0
        if self.request.budget is not None:
            self.request.budget.charge(reserved, cost)

    # ---- attempts ---------------------------------------------------------------------------------------------------

    def open_attempt(self, role: Role, verdicts: tuple[Verdict, ...] = ()) -> None:
        """Begin the attempt of a tier."""
        self.before = verdicts
        self.may_retry, self.is_closed = None, False
        self.facts = {
            "tier": role,
            "model": self.request.tiers[role].model_name,
            "outcome": "pending",
            "verdicts": verdicts,
            "threshold": self.request.policy.base_threshold if role == "small" else None,
            "usage": NOTHING,
            "cost": 0.0,
        }

    def failed(self, reply: Reply, error: Exception) -> None:
        """Book a call that gave no draft; one that the provider refused is not billed."""
        self.error = error
        superseded = isinstance(error, SupersededError)
        outcome: AttemptOutcome = "cancelled" if superseded else "timeout" if reply.late else "error"
        tier = self.request.tiers[self.facts["tier"]]
        usage, cost, inner = usage_and_cost_of_error(error, nested=tier.nested) if reply.made else (NOTHING, 0.0, None)
        unread = reply.made and was_answered(error)
        went_out, used, spent = self._broken_off()
        if went_out:
            usage, cost = used, spent
        self.facts.update(
            outcome=outcome,
            verdicts=(*self.facts["verdicts"], *((_UNREAD,) if unread else ())),
            error=_error_text(error),
            latency=reply.latency,
            usage=usage,
            cost=cost,
            inner=inner,
            retry_after=None if went_out else retry_after(error),  # what went out is not taken back
            fault=error_fault(error),
        )
        self.charge(cost)

    def drafted(self, reply: Reply, answer: Answer) -> None:
        """Book a call that gave a draft."""
        self.answer = answer
        self.kind = self.kind or kind_of_step(self.request.contexts["small"], answer)
        usage, cost, inner = usage_and_cost(self.request.tiers[self.facts["tier"]], answer.draft.message)
        declared = self.request.policy.side_effects
        self.facts.update(
            outcome="rejected",
            latency=reply.latency,
            usage=usage,
            cost=cost,
            inner=inner,
            effect=_gravest(declared, answer.draft) if declared else None,
        )
        self.charge(cost)

    def judged(self, verdicts: tuple[Verdict, ...], *, gathered: str | None = None) -> None:
        """Add verdicts to the attempt and score it anew."""
        verdicts = (*self.facts["verdicts"], *verdicts)
        draft = cast("Answer", self.answer).draft
        if gathered is not None:
            self.facts["gathered"] = (*self.facts.get("gathered", ()), gathered)
        self.facts.update(
            verdicts=verdicts,
            confidence=(self.request.policy.scorer or shipped_scorer()).confidence(verdicts),
            fault=draft_fault(draft, verdicts, self.request.policy.side_effects),
        )

    def replaced(self, draft: Draft) -> bool:
        """Put another draft of small, not judged yet, in the place of the one in hand; False where none can be read."""
        rebuild = self.request.rebuild
        try:
            answer = rebuild("small", draft.message, plain(draft.parsed)) if rebuild else Answer(draft=draft)
        except ValueError:
            return False
        self.answer, self.kind = answer, kind_of_step(self.request.contexts["small"], answer)
        self.facts.update(verdicts=self.before)
        return True

    def close_attempt(self, outcome: AttemptOutcome | None = None) -> Attempt:
        """Fix the attempt's outcome."""
        if self.facts["outcome"] == "pending":
            self.facts.update(outcome=outcome or "skipped")
        elif outcome is not None and self.facts["outcome"] == "rejected":
            self.facts.update(outcome=outcome)
        attempt, self.is_closed = self.attempt, True
        self.done.append(attempt)
        self.answers.append(self.answer)
        if attempt.outcome not in ("accepted", "skipped"):
            self.errors.append(self.error or RejectedDraft(attempt_line(attempt)))
        self.answer = self.error = None
        return attempt

    def side_call(self, call: SideCall) -> None:
        """Book a call that gave no draft to judge."""
        if self.request.budget is not None:
            self.request.budget.charge(0.0, call.cost)
        self.side_calls.append(call)

    def dropped(self, pending: Pending) -> None:
        """Book the large call that ran in parallel and is not needed."""
        if pending is None:
            return
        call = SideCall(name="hedge")
        if isinstance(pending, Reply):
            if pending.error is not None:
                usage, cost, _ = usage_and_cost_of_error(pending.error)
            else:
                usage, cost, _ = usage_and_cost(
                    self.request.tiers["large"], cast("Answer", pending.value).draft.message
                )
            call = replace(call, usage=usage, cost=cost, latency=pending.latency)
        self.side_call(call)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def stopped(self, error: BaseException, *, hedged: bool) -> StepEnd:
        """Close a step that the host, or something outside of it, ended."""
        between = self.is_closed  # handed over, and large not asked yet
        self.charge(0.0 if between else None)
        if self.facts["outcome"] == "pending":
            _, usage, cost = self._broken_off()
            self.facts.update(usage=usage, cost=cost)
        if hedged:
            self.side_calls.append(SideCall(name="hedge"))
        if not between:
            self.close_attempt("cancelled")
        left = isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit)
        outcome: StepOutcome = "interrupted" if is_control_flow(error) else "cancelled" if left else "error"
        return StepEnd(outcome=outcome, reason=outcome)

    def result(self, end: StepEnd, trace: StepTrace) -> StepResult:
        """Return how the step ended."""
        answer, best = (None if index is None else self.answers[index] for index in (end.final, end.best))
        unanswered = self.done[-1].tier == "large" and self.done[-1].error is not None
        raised = self.errors[-1] if answer is None and unanswered else None
        return StepResult(answer=answer, best=best, trace=trace, errors=tuple(self.errors), raised=raised)


def _gravest(declared: Mapping[str, SideEffect], draft: Draft) -> SideEffect | None:
    """Return the gravest side effect of a draft's calls."""
    effects = [declared.get(call["name"]) for call in draft.tool_calls]
    return next((effect for effect in ("irreversible", "write", "read") if effect in effects), None)


def judged_as(context: StepContext, answer: Answer | None) -> StepContext:
    """Return what an answer is judged as: one that calls a tool on offer does not owe the structured output yet."""
    if answer is None:
        return context
    if answer.judged_with is not None:
        return replace(context, **cast("Any", answer.judged_with))
    draft = answer.draft
    owes = context.output_schema is None or not context.tools or not (draft.tool_calls or draft.invalid_tool_calls)
    return context if owes else replace(context, output_schema=None)


def kind_of_step(context: StepContext, answer: Answer | None) -> str:
    """Return the kind of a step, by its draft."""
    context = judged_as(context, answer)
    draft = None if answer is None else answer.draft
    return kind_of(
        calls=0 if draft is None else len(draft.tool_calls) + len(draft.invalid_tool_calls),
        tools=len(context.tools),
        structured=context.output_schema is not None,
        loop=context.in_loop,
    )


def _escalated_this_turn(context: StepContext) -> bool:
    """Return whether an answer of this turn came from a step that escalated."""
    for message in context.messages[context.turn_start + 1 :]:
        record = message.response_metadata.get("cascade") if message.type == "ai" else None
        if isinstance(record, dict) and record.get("escalated"):
            return True
    return False


def _size(context: StepContext) -> int:
    """Return the bytes of a request: its messages with their calls, and the tools on offer."""
    messages = [(m.content, getattr(m, "tool_calls", None)) for m in context.messages]
    tools = [(t.name, t.description, t.parameters) for t in context.tools]
    return len(repr(messages).encode("utf-8", "replace")) + len(repr(tools).encode("utf-8", "replace"))


def _error_text(error: BaseException) -> str:
    return clean_text(f"{type(error).__name__}: {text_of(error)}"[:_MAX_ERROR])
