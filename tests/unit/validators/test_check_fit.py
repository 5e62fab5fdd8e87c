"""A calibrated policy is refused, when a adapter is made, by validators that it was not measured with."""

import pytest
from langchain_core.messages import AIMessage

from cascade_agent import CascadeChatModel, CascadeMiddleware, Policy, cascade_node, cascade_step
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import Grounding, TokenConfidence, default_validators
from cascade_agent.validators.cross_check import CrossCheck
from cascade_agent.validators.validator_set import ValidatorSet, check_fit

MEASURED = {name: ["code"] for name in ("Grounding", "ToolRelevance", "CompleteResponse")} | {"NoRepeat": []}


def policy(**more):
    """A policy that was measured with some validators."""
    return Policy(threshold=0.8, provenance={"kind": "calibrated", "validators": {**MEASURED, **more}})


def model():
    """A chat model."""
    return ScriptedChatModel([AIMessage("x")])


def body(state, *, model):
    """A node."""
    return state


ADAPTERS = {
    "model": lambda **kw: CascadeChatModel(small=model(), large=model(), **kw),
    "node": lambda **kw: cascade_node(model(), model(), **kw),
    "body": lambda **kw: cascade_node(model(), model(), step=lambda state, model: state, **kw),
    "decorator": lambda **kw: cascade_step(small=model(), large=model(), **kw)(body),
    "middleware": lambda **kw: CascadeMiddleware(model(), **kw),
}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_refuse_a_policy_that_does_not_fit(adapter):
    """At construction: validators that are missing, and evidence that is new; measured or merely askable, it fits."""
    with pytest.raises(ConfigurationError, match=r"not in use: CompleteResponse \(code\); ToolRelevance \(code\)"):
        adapter(validators=[Grounding()], policy=policy())
    adapter(policy=policy())
    adapter(validators=[Grounding()], policy=Policy(threshold=0.8))
    validators = [*default_validators(), CrossCheck(model())]
    with pytest.raises(ConfigurationError, match="calibrated without CrossCheck, which may lift a draft"):
        adapter(validators=validators, policy=policy())
    adapter(validators=validators, policy=policy(CrossCheck=[]))
    adapter(validators=validators, policy=policy(CrossCheck=["agreement"]))


def test_what_fits_a_threshold():
    """A validator that may lift a draft must have been measured, log-probabilities too; one that only objects fits."""
    validators = [*default_validators(), TokenConfidence()]
    with pytest.raises(ConfigurationError, match="without TokenConfidence"):
        check_fit(policy(), validators)
    check_fit(policy(TokenConfidence=[]), validators)

    def mine(draft, context):
        """Nothing."""

    check_fit(policy(), [*(v for v in default_validators() if type(v).__name__ != "NoRepeat"), mine])


def test_copies_are_checked_and_sets_give_back():
    """A copy with another policy is assembled anew; iterating over a set gives what it was made of."""
    cascade = CascadeChatModel(small=model(), large=model(), validators=[Grounding()])
    with pytest.raises(ConfigurationError, match="not in use"):
        cascade.model_copy(update={"policy": policy()})
    validators = [*default_validators(), CrossCheck(model())]
    assert {id(v) for v in ValidatorSet(validators)} == {id(v) for v in validators}
