"""The panel: who is a validator, what it may return, and that a broken one is an abstain."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.types import Command

from cascade_agent.core.records import Draft, StepContext, Verdict
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators.validator_set import ValidatorSet, is_control_flow, name_of

DRAFT, CONTEXT = Draft(message=AIMessage("x")), StepContext()
BOTH = pytest.mark.parametrize("way", ["sync", "async"])


def judged(panel: ValidatorSet, draft: Draft | None = DRAFT, *, way: str = "sync") -> list[Verdict]:
    """What the panel finds."""
    if way == "sync":
        return list(panel.validate(draft, CONTEXT))
    return list(asyncio.run(panel.avalidate(draft, CONTEXT, seconds=5)))


class Named:
    """A validator with a name and a stage of its own."""

    def __init__(self, name: str, stage: str = "draft") -> None:
        self.name, self.stage = name, stage

    def __call__(self, draft: Draft | None, context: StepContext) -> Verdict:
        """Say who was asked with what."""
        return Verdict(outcome="pass", code="asked", reason="without a draft" if draft is None else "with a draft")


class Asking(Named):
    """Evidence."""

    def gather(self, *_: Any, **__: Any) -> Any:
        """Ask."""

    async def agather(self, *_: Any, **__: Any) -> Any:
        """Ask, too."""


@BOTH
@pytest.mark.parametrize(
    ("finding", "outcomes"),
    [
        (None, []),
        ([], []),
        (True, ["pass"]),
        (False, ["fail"]),
        (Verdict(outcome="abstain"), ["abstain"]),
        ((Verdict(outcome="pass"), Verdict(outcome="fail")), ["pass", "fail"]),
    ],
)
def test_what_a_validator_may_return(finding, outcomes, way):
    """Nothing, a bool, a verdict or several; whoever does not sign is signed for."""

    def mine(_draft: Any, _context: Any) -> Any:
        return finding

    found = judged(ValidatorSet([mine]), way=way)
    assert [v.outcome for v in found] == outcomes
    assert {v.validator for v in found} <= {"mine"}


@BOTH
def test_a_signed_verdict_keeps_its_name(way):
    """A validator that speaks for another may say so."""

    def mine(_draft: Any, _context: Any) -> Any:
        return [Verdict(outcome="pass", validator="other"), Verdict(outcome="pass")]

    assert [v.validator for v in judged(ValidatorSet([mine]), way=way)] == ["other", "mine"]


@BOTH
def test_those_that_need_no_draft_are_asked_before(way):
    """`context` validators see no draft, `draft` validators see one, each in the order they were given."""
    panel = ValidatorSet([Named("a"), Named("b", "context"), Named("c"), Asking("d", "evidence")])
    assert [(v.validator, v.reason) for v in judged(panel, None, way=way)] == [("b", "without a draft")]
    assert [(v.validator, v.reason) for v in judged(panel, way=way)] == [("a", "with a draft"), ("c", "with a draft")]
    assert list(panel.evidence) == ["d"]


@pytest.mark.parametrize(
    ("validators", "says"),
    [
        (None, "expected a list"),
        (Named("a"), "expected a list"),
        (b"x", "expected a list"),
        ([Named], "holds the class Named; expected an instance: Named()"),
        ([None], "None is no validator"),
        ([Named("a", "later")], "is no validator"),
        ([Named("a", "evidence")], "evidence with `gather` and `agather`"),
        ([Named("a"), Asking("a", "evidence")], "two validators are named 'a'"),
    ],
)
def test_what_is_no_validator_is_refused(validators, says):
    """At construction, with what was expected."""
    with pytest.raises(ConfigurationError) as caught:
        ValidatorSet(validators)
    assert says in str(caught.value)


def test_a_validator_is_named_after_its_name_its_function_or_its_class():
    """In this order."""

    class Plain:
        name = 3

    assert name_of(Named("mine")) == "mine"
    assert name_of(judged) == "judged"
    assert name_of(Plain()) == "Plain"


def test_a_fault_never_reaches_the_next_validator():
    """A validator that times out first, before anything was awaited, is its own fault alone."""

    async def answers(_draft: Any, _context: Any) -> bool:
        return True

    def raises(_draft: Any, _context: Any) -> Any:
        raise TimeoutError

    for validators, codes in [
        ([raises, answers], ["validator_error", ""]),
        ([answers, raises], ["", "validator_error"]),
    ]:
        assert [v.code for v in judged(ValidatorSet(validators), way="async")] == codes


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_awaited_is_let_go():
    """On the synchronous way an awaitable is closed where it can be, and never warns later."""
    loop = asyncio.new_event_loop()
    waiting = loop.create_future()
    waiting.set_result(None)

    async def slow(_draft: Any, _context: Any) -> bool:
        return True

    def future(_draft: Any, _context: Any) -> Any:
        return waiting

    assert [v.code for v in judged(ValidatorSet([slow, future]))] == ["validator_error", "validator_error"]
    loop.close()


@BOTH
@pytest.mark.parametrize("error", [GraphBubbleUp(), GraphInterrupt(()), ParentCommand(Command())])
def test_the_host_steers_through(error, way):
    """Interrupts and commands of the host are no faults."""

    def steers(_draft: Any, _context: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        judged(ValidatorSet([steers]), way=way)
    assert is_control_flow(error)
    assert not is_control_flow(ValueError())


def test_without_langgraph_nothing_is_control_flow(monkeypatch):
    """Asking does not import the host; what was not imported cannot have raised."""
    import sys

    monkeypatch.delitem(sys.modules, "langgraph.errors")
    assert not is_control_flow(GraphBubbleUp())
