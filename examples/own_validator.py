"""A plain function judges drafts: fail with a reason, give a score, or say nothing."""

from cascade_agent import CascadeChatModel, Draft, Policy, StepContext, Verdict, default_validators
from cascade_agent.testing import ScriptedChatModel


def cites_a_source(draft: Draft, context: StepContext) -> Verdict | None:
    """Hard: an answer without a source is not usable here."""
    if not draft.tool_calls and "[" not in draft.text:
        return Verdict(outcome="fail", code="no_source", reason="the answer cites no source")
    return None


def not_too_long(draft: Draft, context: StepContext) -> Verdict:
    """Graded: the longer, the less we trust it; decides only because the policy has a threshold."""
    return Verdict(outcome="pass", code="brevity", score=max(0.0, 1.0 - len(draft.text) / 200))


model = CascadeChatModel(
    small=ScriptedChatModel(["Paris.", "Paris [1].", "Paris [1], " + "as everybody knows, " * 10], name="small"),
    large=ScriptedChatModel(["Paris [atlas].", "Paris [atlas]."], name="large"),
    validators=[*default_validators(), cites_a_source, not_too_long],
    policy=Policy(threshold=0.6),
)
for _ in range(3):
    answer = model.invoke("What is the capital of France? Cite a source.")
    step = answer.response_metadata["cascade"]
    print(f"{answer.content:15} {step['final_tier']:5} {step['reason']}")
