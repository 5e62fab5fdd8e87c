"""The surface: exactly these names, each where it belongs, each imported when it is first used."""

import inspect

import pytest

import cascade_agent
from cascade_agent import validators


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(text.split())


NAMES = words("""
    Assessment CascadeChatModel CascadeError CascadeExhausted CascadeMiddleware Draft Journal Policy Price Scorer
    StepContext StepTrace Tier Verdict assess cascade_node cascade_step default_validators load_policy swap_node
""")
VALIDATORS = words("""
    AfterToolError CompleteResponse Grounding NoRepeat PlanConsistency SkippedCall StructuredOutput TokenConfidence
    ToolCallSchema ToolRelevance TurnProgress
""")
SIGNATURES = {
    "CascadeChatModel": "small large validators policy name journal durable",
    "CascadeMiddleware": "large small validators policy",
    "cascade_node": "small large tools prompt step validators policy name",
    "cascade_step": "small large validators policy",
    "swap_node": "builder name node",
    "assess": "message messages tools state validators scorer policy",
}
"""The first parameters of the adapters, in order; more may follow."""
POLICY = words("""
    threshold scorer evidence on_exhausted handover latency_budget hedge_after max_cost shadow_rate stay_on_large
    side_effects provenance on_broken value_of_time skip_small validator_timeout
""")


def test_the_names_are_pinned() -> None:
    """The root exports exactly the public names and says so to `dir`; each is of this package and calls itself so."""
    assert sorted(cascade_agent.__all__) == sorted(NAMES)
    assert set(dir(cascade_agent)) >= NAMES | {"__version__"}
    for name in NAMES:
        value = getattr(cascade_agent, name)
        assert (value.__name__, value.__module__.split(".")[0]) == (name, "cascade_agent")
        assert inspect.getdoc(value)
    assert set(validators.__all__) >= VALIDATORS
    assert all(getattr(validators, name).__name__ == name for name in VALIDATORS)


def test_parameters_and_fields_are_pinned() -> None:
    """The parameters that users write are there in this order; every documented field of a policy is a keyword."""
    for name, pinned in SIGNATURES.items():
        parameters = " ".join(inspect.signature(getattr(cascade_agent, name)).parameters)
        assert f"{parameters} ".startswith(f"{pinned} ")
    parameters = inspect.signature(cascade_agent.Policy).parameters
    assert set(parameters) == POLICY
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())


def test_names_behave_as_in_any_module() -> None:
    """A misspelled name is an attribute error; a star import gives the lazy names."""
    with pytest.raises(AttributeError, match="CascadeChatModle"):
        cascade_agent.CascadeChatModle()
    with pytest.raises(ImportError):
        from cascade_agent import CascadeChatModle  # noqa: F401 - it does not exist
    namespace: dict[str, object] = {}
    exec("from cascade_agent import *", namespace)  # noqa: S102 - only a module may import a star
    assert namespace.keys() >= NAMES
