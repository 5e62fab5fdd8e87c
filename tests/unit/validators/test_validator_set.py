"""The validator set: what is a validator, what it may return, what the set stamps, and that a broken one abstains."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.types import Command

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.errors import ConfigurationError
from cascade_agent.validators import (
    AfterToolError,
    Grounding,
    NoRepeat,
    PlanConsistency,
    SkippedCall,
    TokenConfidence,
    default_validators,
)
from cascade_agent.validators.validator_set import ValidatorSet, is_control_flow, name_of
from tests.builders import examples, json_values

DRAFT, CONTEXT = Draft(message=AIMessage("x")), StepContext()
BOTH = pytest.mark.parametrize("way", ["sync", "async"])


def judged(
    validators: ValidatorSet, draft: Draft | None = DRAFT, context: StepContext = CONTEXT, *, way: str = "sync"
) -> list[Verdict]:
    """The verdicts of a set."""
    if way == "sync":
        return list(validators.validate(draft, context))
    return list(asyncio.run(validators.avalidate(draft, context, seconds=5)))


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
    ("finding", "signed"),
    [
        (None, []),
        ([], []),
        (True, [("pass", "mine")]),
        (False, [("fail", "mine")]),
        (Verdict(outcome="abstain"), [("abstain", "mine")]),
        ((Verdict(outcome="pass", validator="other"), Verdict(outcome="fail")), [("pass", "other"), ("fail", "mine")]),
    ],
)
def test_what_a_validator_may_return(finding, signed, way):
    """Nothing, a bool, a verdict or several; one that speaks for another keeps its name, else it is signed for."""

    def mine(_draft: Any, _context: Any) -> Any:
        return finding

    assert [(v.outcome, v.validator) for v in judged(ValidatorSet([mine]), way=way)] == signed


@BOTH
def test_those_that_need_no_draft_are_asked_before(way):
    """`context` validators see no draft, `draft` validators see one, each in the order they were given."""
    validators = ValidatorSet([Named("a"), Named("b", "context"), Named("c"), Asking("d", "evidence")])
    assert [(v.validator, v.reason) for v in judged(validators, None, way=way)] == [("b", "without a draft")]
    assert [(v.validator, v.reason) for v in judged(validators, way=way)] == [(n, "with a draft") for n in "ac"]
    assert list(validators.evidence) == ["d"]


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

    for order, codes in (((raises, answers), ["validator_error", ""]), ((answers, raises), ["", "validator_error"])):
        assert [v.code for v in judged(ValidatorSet(order), way="async")] == codes


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


def test_origin_and_reason_are_stamped_by_the_object_not_by_a_name() -> None:
    """A user's function named like a shipped validator is a user's; what a verdict claims of itself does not count."""

    def named(_draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="fail", validator="Grounding", origin="shipped", escalates_as="ungrounded")

    named.__name__ = "Grounding"
    (mine,) = judged(ValidatorSet([named]))
    assert (mine.validator, mine.origin, mine.escalates_as) == ("Grounding", "user", "")
    calls = [{"name": "f", "args": {"day": "2031-01-02"}, "id": "1"}]
    context = StepContext(tools=[ToolSpec("f", "", {"properties": {"day": {"type": "string"}}})])
    found = ValidatorSet([Grounding()]).validate(Draft(message=AIMessage("", tool_calls=calls)), context)
    assert {(v.origin, v.escalates_as) for v in found} == {("shipped", "ungrounded")}


def test_a_users_class_may_state_its_reason_and_its_weights() -> None:
    """`escalates_as` and `weights` are read of any validator; only `shipped = True` makes it one of this library's."""

    class Tone:
        escalates_as, weights = "rude", {"tone": Weight(2.0, "rude answers come back")}

        def __call__(self, _draft: Any, _context: Any) -> Verdict:
            return Verdict(outcome="fail", code="tone", score=0.1)

    validators = ValidatorSet([Tone()])
    (found,) = judged(validators)
    assert (found.origin, found.escalates_as, list(validators.weights)) == ("user", "rude", ["tone"])


@BOTH
def test_paths_are_made_safe_for_every_validator(way: str) -> None:
    """Names that no schema declares do not reach the record, whoever reports them."""

    def mine(_draft: Any, _context: Any) -> Verdict:
        return Verdict(outcome="pass", path="/tool_calls/0/args/people/jo@mail.example")

    assert judged(ValidatorSet([mine]), way=way)[0].path == "/tool_calls/0/args/people/*"


@BOTH
def test_a_validator_cannot_change_the_request_or_the_answer(way: str) -> None:
    """It gets a copy of the message; the messages of the request are a tuple."""
    call = {"name": "f", "args": {"x": 1}, "id": "1"}
    draft = Draft(message=AIMessage("right", tool_calls=[call]))
    request: list[Any] = [HumanMessage("hi")]
    context = StepContext(messages=request)

    def meddles(given: Any, _context: Any) -> bool:
        given.message.content = "wrong"
        given.message.tool_calls[0]["args"]["x"] = 2
        given.message.tool_calls.clear()
        return True

    def clears(_draft: Any, given: Any) -> None:
        given.messages.clear()

    found = judged(ValidatorSet([meddles, clears]), draft, context, way=way)
    assert [v.broken for v in found] == [False, True]
    assert (draft.message.content, draft.tool_calls[0]["args"], len(request)) == ("right", {"x": 1}, 1)


@pytest.mark.parametrize(
    ("validator", "settings"),
    [
        (AfterToolError, {"score": 1.5}),
        (SkippedCall, {"score": 1.5}),
        (NoRepeat, {"score": -0.1}),
        (NoRepeat, {"answer_score": 2}),
        (PlanConsistency, {"open_score": 2}),
        (PlanConsistency, {"differs_score": -1}),
        (PlanConsistency, {"max_steps": 0}),
        (PlanConsistency, {"known_tools": "refund"}),
        (PlanConsistency, {"free_tools": "refund"}),
        (PlanConsistency, {"required_outputs": "x"}),
        (TokenConfidence, {"quantile": -0.1}),
        (TokenConfidence, {"quantile": 1.0}),
        (TokenConfidence, {"quantile": math.nan}),
    ],
)
def test_a_setting_that_cannot_work_is_refused(validator: Any, settings: dict[str, Any]) -> None:
    """At construction, and named."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        validator(**settings)


TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        *("act", "act(", "Error: ", "Rome, Oslo and Bern", "1,5 ½ 五 'a b' “c”", "\ud800\x00", "$a", "${b.x}", "done"),
        *('{"steps": [{"id": "a", "tool": "act"}]}', "small"),
    ]
)
NAMES = st.sampled_from(
    ["x", "y", "id", "tool", "depends_on", "status", "args", "result", "steps", "plan", "final_tier"]
)
JSON = json_values(TEXTS | st.just(2**4000), NAMES | TEXTS, leaves=10)
STEPS = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "c", 1])},
    optional={
        "tool": st.sampled_from(["act", "fly", None]),
        "depends_on": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2) | JSON,
        "status": st.sampled_from(["done", "pending", "failed", "quux"]) | JSON,
        "args": st.dictionaries(NAMES, JSON) | JSON,
        "result": JSON,
    },
)
PLANS = JSON | st.lists(STEPS, max_size=4) | st.builds(lambda s: {"steps": s}, st.lists(STEPS, max_size=4))
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["act", "fly", None]),
            "args": st.dictionaries(NAMES | TEXTS, JSON | PLANS, max_size=3) | JSON,
            "id": st.sampled_from(["1", "2", None]),
        }
    ),
    max_size=3,
)
META = st.fixed_dictionaries({}, optional={"cascade": JSON | st.fixed_dictionaries({"final_tier": TEXTS})})
ANSWERS = st.builds(
    lambda content, calls, meta: AIMessage.model_construct(
        content=content, tool_calls=calls, invalid_tool_calls=[], response_metadata=meta
    ),
    TEXTS | JSON,
    CALLS,
    META,
)
RESULTS = st.builds(
    lambda content, key, status: ToolMessage.model_construct(
        content=content, tool_call_id=key, name="act", status=status
    ),
    TEXTS | JSON,
    st.sampled_from(["1", "2", None]),
    st.sampled_from(["success", "error", None]),
)
MESSAGES = st.lists(st.builds(HumanMessage, TEXTS) | ANSWERS | RESULTS, max_size=6)


@settings(max_examples=examples(200, 1_000), deadline=None)
@given(answer=ANSWERS, messages=MESSAGES, state=st.none() | st.builds(dict, plan=PLANS, results=JSON), schema=JSON, parsed=st.none() | PLANS)  # fmt: skip
def test_no_request_and_no_answer_breaks_a_shipped_validator(answer, messages, state, schema, parsed) -> None:
    """Any texts, calls, results, plans and schemas of arguments are judged, the same each time, in short sentences."""
    mine = [v for v in default_validators() if type(v).__name__ not in ("StructuredOutput", "TokenConfidence")]
    validators = ValidatorSet(mine)
    parameters = {"type": "object", "properties": dict.fromkeys("xy", schema), "required": schema}
    spec = ToolSpec("act", "Acts on texts.", parameters)
    asked = {"messages": messages, "tools": (spec,), "state": state}
    found = validators.validate(Draft(message=answer, parsed=parsed), StepContext(**asked))
    assert [v for v in found if v.broken] == []
    assert all(len(v.reason) <= 500 for v in found)
    assert found == validators.validate(Draft(message=answer, parsed=parsed), StepContext(**asked))
