"""Tests of PlanConsistency: plans as answers, actions against the plan in force, and what must be left alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ValidationError

from cascade_agent.core.records import Draft, StepContext, ToolSpec, Verdict
from cascade_agent.validators.plan_consistency import Plan, PlanConsistency, PlanStep
from cascade_agent.validators.validator_set import ValidatorSet

TOOLS = tuple(ToolSpec(name) for name in ("find_order", "refund", "send_mail", "get_weather"))


def step(key: Any, tool: str | None = "find_order", *depends_on: Any, **more: Any) -> dict[str, Any]:
    """One step of a plan as JSON."""
    return {"id": key, "tool": tool, "description": "do it", "depends_on": list(depends_on), **more}


def call(name: str, /, **args: Any) -> dict[str, Any]:
    """A tool call."""
    return {"name": name, "args": args, "id": f"c-{name}"}


def judge(
    message: AIMessage | str | list[dict[str, Any]],
    validator: PlanConsistency | None = None,
    *,
    parsed: object = None,
    **context: Any,
) -> Verdict | None:
    """Judge a text, calls or a message in a context."""
    if isinstance(message, str):
        message = AIMessage(message)
    elif isinstance(message, list):
        message = AIMessage("", tool_calls=message)
    settings = {"tools": TOOLS, **context}
    validators = ValidatorSet([validator or PlanConsistency()])
    return next(iter(validators.validate(Draft(message=message, parsed=parsed), StepContext(**settings))), None)


def answered(*names: str, status: str = "success") -> list[BaseMessage]:
    """A turn in which these tools have answered."""
    out: list[BaseMessage] = [HumanMessage("Do it")]
    for name in names:
        out += [AIMessage("", tool_calls=[call(name)]), ToolMessage("r", tool_call_id="x", name=name, status=status)]
    return out


# ---- a plan as an answer --------------------------------------------------------------------------------------------
BROKEN_PLANS = {
    "the same id twice": ([step("a"), step("a", "refund")], "plan_duplicate_id", "/1/id"),
    "the same id as number and text": ([step(1), step("1", "refund")], "plan_duplicate_id", "/1/id"),
    "an empty id": ([step("a"), step(" ", "refund")], "plan_duplicate_id", "/1/id"),
    "no id": ([step("a"), step(None, "refund")], "plan_duplicate_id", "/1/id"),
    "an unknown tool": ([step("a"), step("b", "fly")], "plan_unknown_tool", "/1/tool"),
    "an unknown dependency": ([step("a", "find_order", "z")], "plan_unknown_dependency", "/0/depends_on/0"),
    "a circle of one": ([step("a", "find_order", "a")], "plan_cycle", "/0/depends_on"),
    "a circle of two": ([step("a", "find_order", "b"), step("b", "refund", "a")], "plan_cycle", "/0/depends_on"),
    "a circle behind a good step": (
        [step("a"), step("b", "refund", "a", "d"), step("c", "refund", "b"), step("d", "refund", "c")],
        "plan_cycle",
        "/1/depends_on",
    ),
    "a reference to nothing": ([step("a", args={"x": "${zz}"})], "plan_unknown_reference", "/0/args/x"),
    "a dotted reference to nothing": ([step("a", args={"x": "$zz.id"})], "plan_unknown_reference", "/0/args/x"),
    "a reference inside a text": ([step("a", args={"x": "No ${zz.id}!"})], "plan_unknown_reference", "/0/args/x"),
    "a reference to itself": ([step("a", args={"x": "${a.id}"})], "plan_unknown_reference", "/0/args/x"),
    "a reference to a later step": ([step("a", args={"x": {"y": ["$b"]}}), step("b", "refund")], "plan_unknown_reference", "/0/args/x/*/0"),
}  # fmt: skip


SHAPES: dict[str, tuple[Any, str]] = {
    "parsed dict": (lambda steps: judge("", parsed={"steps": steps}), "/parsed/steps"),
    "parsed list": (lambda steps: judge("", parsed=steps), "/parsed"),
    "wrapped": (lambda steps: judge("", parsed=SimpleNamespace(action={"steps": steps})), "/parsed/*/steps"),
    "call": (lambda steps: judge([call("Plan", steps=steps)]), "/tool_calls/0/args/steps"),
    "text": (lambda steps: judge(json.dumps({"goal": "g", "steps": steps})), "/text/steps"),
    "fenced": (lambda steps: judge(f"```json\n{json.dumps({'steps': steps})}\n```"), "/text/steps"),
    "list text": (lambda steps: judge(AIMessage([{"type": "text", "text": json.dumps(steps)}])), "/text"),
}


@pytest.mark.parametrize("case", BROKEN_PLANS)
@pytest.mark.parametrize("shape", SHAPES)
def test_broken_plan(case: str, shape: str) -> None:
    """A plan that does not hold together is a hard fail with its own code and place, however it is handed in."""
    steps, code, place = BROKEN_PLANS[case]
    judged, root = SHAPES[shape]
    verdict = judged(steps)
    assert (verdict.code, verdict.hard, verdict.path) == (code, True, root + place)


GOOD_STEPS = [
    step("look"),
    step("pay", "refund", "look", args={"order": "${look.id}", "note": "costs $5, see ${HOME}"}),
    step("tell", "send_mail", "pay", args={"text": "Order $look is done, ${pay.state}", "to": "$USER"}),
]
GOOD_PLANS = {
    "a chain with references": GOOD_STEPS,
    "one step": [step("a")],
    "numbers as ids": [step(1), step(2, "refund", 1, args={"order": "$1.id"})],
    "a step of text": [step("a"), step("b", None, "a")],
    "a dependency that stands later": [step("a", "refund", "b", args={"x": "${b}"}), step("b")],
    "a far dependency that stands later": [step("a", "refund", "b", args={"x": "$c"}), step("b", "refund", "c"), step("c")],
    "a dependency reached on two ways": [
        step("a", "refund", "b", "c", args={"x": "$d"}),
        step("b", "refund", "d"),
        step("c", "refund", "d"),
        step("d"),
    ],
    "money and environment": [step("a", args={"x": "$5", "y": "$5.00", "z": "$PATH", "w": "${HOME}/bin", "v": "a$b"})],
    "two independent steps": [step("a"), step("b", "get_weather")],
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD_PLANS)
def test_good_plan(case: str) -> None:
    """A plan that holds together is kept."""
    steps = GOOD_PLANS[case]
    assert judge("", parsed={"steps": steps}) is None
    assert judge("", parsed=Plan.model_validate({"steps": steps})) is None
    assert judge([call("Plan", steps=steps)]) is None
    assert judge(json.dumps({"steps": steps})) is None


def test_empty_plan() -> None:
    """An empty plan fails where a plan was asked for, and is somebody else's data elsewhere."""
    for parsed, schema in (
        (Plan(steps=[]), Plan),
        (Plan(steps=[]), None),
        ({"steps": []}, Plan),
        ({"steps": []}, Plan.model_json_schema()),
    ):
        verdict = judge("", parsed=parsed, output_schema=schema)
        assert (verdict.code, verdict.hard) == ("plan_empty", True)
    assert judge("", parsed={"steps": []}) is None
    assert judge("", parsed={"steps": []}, output_schema={"title": "Recipe", "properties": {"steps": {}}}) is None
    assert judge('{"steps": []}') is None


LOOK_ALIKES: dict[str, Any] = {
    "a recipe": {"steps": [{"id": 1, "description": "Mix"}, {"id": 2, "description": "Bake"}]},
    "a recipe with implements": {"steps": [{"id": 1, "tool": "whisk", "description": "Mix"}]},
    "lines of text": {"steps": ["look", "pay"]},
    "a to-do list": [{"content": "look", "status": "pending"}],
    "a workflow of other tools": {"steps": [{"id": "a", "tool": "jenkins", "depends_on": []}]},
    "ids without steps": {"id": 1, "tool": "find_order"},
    "steps that are text": {"steps": '"id" "tool"'},
    "nothing": {},
    "a number": 7,
}


@pytest.mark.parametrize("case", LOOK_ALIKES)
def test_other_json_is_kept(case: str) -> None:
    """JSON that only looks like a plan is an answer like any other, with and without a plan in force."""
    data = LOOK_ALIKES[case]
    assert judge(json.dumps(data)) is None
    assert judge([call("write_file", **(data if isinstance(data, dict) else {"data": data}))]) is None


def test_other_texts_and_long_ones_are_kept() -> None:
    """Text with the words of a plan that is none, JSON nested too deep and very long text are kept and end."""
    for text in ['{"steps": [{"id": "tool"', '{"id": "tool"} trailing', '"id" and "tool"', '["id", "tool"]']:
        assert judge(text) is None
    assert judge('{"id": "tool", "steps": ' + "[" * 100_000) is None
    assert judge(json.dumps({"steps": [step(n) for n in range(3_000)]})) is None


def test_known_tools() -> None:
    """`known_tools` replaces the tools on offer; without either, or where the plan's own is the only one, tools are not judged."""
    plan = {"steps": [step("a", "fly")]}
    assert judge("", parsed=plan, tools=()) is None
    assert judge("", PlanConsistency(known_tools=["fly"]), parsed=plan) is None
    verdict = judge("", PlanConsistency(known_tools={"swim"}), parsed=plan, tools=())
    assert verdict.code == "plan_unknown_tool"
    draft = AIMessage("", tool_calls=[call("Plan", steps=[step("a", "fly")])])
    assert judge(draft, parsed=Plan(steps=[PlanStep(id="a", tool="fly")]), tools=[ToolSpec("Plan")]) is None
    assert judge(draft, tools=[ToolSpec("Plan")]) is None
    text = '{"steps": [{"id": "a", "tool": "nope", "description": "x", "depends_on": []}]}'
    draft = Draft(message=AIMessage(text))
    verdict = PlanConsistency(known_tools=["look_up"])(draft, StepContext(messages=[HumanMessage("Plan it.")]))
    assert verdict.code == "plan_unknown_tool"


def test_required_outputs() -> None:
    """Required outputs are covered by ids, tools or declared outputs; what is not covered fails hard."""
    plan = {"steps": [step("a"), step("b", "refund", outputs=["receipt"])]}
    assert judge("", PlanConsistency(required_outputs=["a", "refund", "receipt"]), parsed=plan) is None
    verdict = judge("", PlanConsistency(required_outputs=["receipt", "letter"]), parsed=plan)
    assert (verdict.code, verdict.hard) == ("plan_missing_output", True)

    def asked_for(context: StepContext) -> list[str]:
        return str(context.messages[-1].content).split()

    validator = PlanConsistency(required_outputs=asked_for)
    assert judge("", validator, parsed=plan, messages=[HumanMessage("receipt a")]) is None
    assert judge("", validator, parsed=plan, messages=[HumanMessage("receipt z")]) is not None


def test_replanning_is_allowed_and_recorded() -> None:
    """A good new plan passes with a code of its own and may build on steps that the old one has finished."""
    state = {"plan": [step("a", status="done"), step("b", "refund", "a", status="failed")]}
    plan = {"steps": [step("c", "send_mail", "a", args={"x": "${a.id}"}, outputs=["mail"])]}
    validator = PlanConsistency(required_outputs=["a", "mail"])
    for verdict in (
        judge("", validator, parsed=plan, state=state),
        judge([call("replan", **plan)], validator, state=state),
        judge(json.dumps(plan), validator, state=state),
    ):
        assert (verdict.outcome, verdict.code, verdict.score) == ("pass", "replanned", None)
    waiting = {"steps": [step("c", "send_mail", "a", "d", args={"x": "$d"}), step("d")]}
    assert judge("", parsed=waiting, state=state).code == "replanned"
    broken = judge("", parsed={"steps": [step("c", "send_mail", "z")]}, state=state)
    assert broken.code == "plan_unknown_dependency"
    lost = judge("", PlanConsistency(required_outputs=["b"]), parsed={"steps": [step("c")]}, state=state)
    assert lost.code == "plan_missing_output"


def test_plans_after_plans() -> None:
    """A plan after an unreadable one is a first plan, one may wait for a step of the plan that it replaced."""
    assert judge("", parsed={"steps": [step("a")]}, state={"plan": "look, then pay"}) is None
    plan = [step("c", "refund", "a", status="pending")]
    assert judge([call("refund")], state={"plan": plan}) is None
    assert judge("", parsed={"answer": 4}, state={"plan": order_plan("done", "done", "done")}) is None
    assert judge("", parsed=7, state={"plan": order_plan()}) is None
    assert judge("", parsed={"steps": [step(n) for n in range(500)]}) is None


# ---- an action against the plan in force ----------------------------------------------------------------------------
def order_plan(look: str = "done", pay: str = "pending", tell: str = "pending") -> list[dict[str, Any]]:
    """Look, then pay, then tell."""
    return [
        step("look", "find_order", status=look, args={"name": "Ada"}),
        step("pay", "refund", "look", status=pay, args={"order": "${look.id}"}),
        step("tell", "send_mail", "pay", status=tell),
    ]


RESULTS = {"look": {"id": 17, "total": 5.0}}

BAD_ACTIONS = {
    "a tool that the plan does not use": (order_plan(), [call("get_weather")], "plan_unexpected_call", "/name"),
    "a step whose dependency is open": (order_plan(), [call("send_mail")], "plan_dependency_open", ""),
    "a step whose dependency has failed": (order_plan("failed"), [call("refund", order=17)], "plan_dependency_open", ""),
    "a step and the one that waits for it": (order_plan(), [call("refund", order=17), call("send_mail")], "plan_dependency_open", ""),
    "a step that is done": (order_plan(), [call("find_order", name="ada ")], "plan_step_done", ""),
    "a tool of a done step with other arguments": (order_plan(), [call("find_order", name="Bob")], "plan_unexpected_call", "/name"),
    "one due step twice": (order_plan(), [call("refund", order=17), call("refund", order=17)], "plan_unexpected_call", "/name"),
    "a wrong argument": (order_plan(), [call("refund", order=18)], "plan_wrong_argument", "/args/order"),
    "a missing argument": (order_plan(), [call("refund")], "plan_wrong_argument", "/args/order"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ACTIONS)
def test_bad_action(case: str) -> None:
    """A call that the plan does not have due is a hard fail that points at the call."""
    steps, calls, code, place = BAD_ACTIONS[case]
    verdict = judge(calls, state={"plan": {"steps": steps}, "results": RESULTS})
    assert (verdict.code, verdict.hard) == (code, True)
    assert verdict.path == f"/tool_calls/{len(calls) - 1}{place}"
    assert "Ada" not in verdict.reason
    assert "17" not in verdict.reason


@dataclass
class ObjectState:
    plan: Any
    results: Any = None


class ModelState(BaseModel):
    plan: Any
    results: Any = None


def state_of(plan: Any) -> dict[str, Any]:
    """A state with a plan and the result of its first step."""
    return {"plan": plan, "results": RESULTS}


STATES: dict[str, Any] = {
    "dict": state_of({"steps": order_plan()}),
    "list": state_of(order_plan()),
    "model": state_of(Plan.model_validate({"steps": order_plan()})),
    "object state": ObjectState(**state_of(tuple(order_plan()))),
    "model state": ModelState(**state_of(Plan.model_validate({"steps": order_plan()}))),
    "callable": {"work": {"todo": order_plan()}, "results": RESULTS},
    "words": state_of(order_plan("Completed", "to-do", "NOT STARTED")),
    "no result": {"plan": {"steps": order_plan()}},
}


@pytest.mark.parametrize("kind", STATES)
def test_good_action(kind: str) -> None:
    """The call that is due is kept, whatever the plan and the state are made of."""
    validator = PlanConsistency(lambda s: s["work"]["todo"]) if kind == "callable" else PlanConsistency()
    assert judge([call("refund", order=17)], validator, state=STATES[kind]) is None
    assert judge([call("send_mail")], validator, state=STATES[kind]) is not None


def test_parallel_independent_steps() -> None:
    """Parallel calls of independent due steps are kept, also of one tool with different arguments in any order."""
    named = [step("a", args={"name": "Ada"}, status="pending"), step("b", args={"name": "Bob"})]
    plan = [*named, step("c", "get_weather")]
    calls = [call("find_order", name="Bob"), call("get_weather"), call("find_order", name="Ada")]
    assert judge(calls, state={"plan": plan}) is None


def test_states_of_steps() -> None:
    """A step that failed, is in progress or unknown is not in the way; a skipped one holds up nobody and is not called."""
    for status in ("failed", "in_progress", "running", "error"):
        assert judge([call("refund", order=17)], state={"plan": order_plan(pay=status), "results": RESULTS}) is None
    assert judge([call("refund", order=1)], state={"plan": order_plan("skipped")}) is None
    verdict = judge([call("find_order")], state={"plan": order_plan("cancelled")})
    assert verdict.code == "plan_unexpected_call"
    assert judge([call("refund", order=1)], state={"plan": order_plan("quux")}) is None
    assert judge([call("find_order", name="Ada")], state={"plan": order_plan("quux")}) is None


def test_calls_outside_of_the_plan() -> None:
    """Tools declared free are always; while a step of text is due, any call may serve it."""
    validator = PlanConsistency(free_tools=["get_weather"])
    assert judge([call("get_weather")], validator, state={"plan": order_plan()}) is None
    assert judge([call("send_mail")], validator, state={"plan": order_plan()}) is not None
    plan = [step("a", None, status="pending"), step("b", "refund", "a")]
    assert judge([call("get_weather")], state={"plan": plan}) is None
    assert judge("The order is fine.", state={"plan": plan}) is None
    plan = [step("a", status="pending"), step("b", None, "a")]
    assert judge([call("get_weather")], state={"plan": plan}) is not None
    assert judge("The order is fine.", state={"plan": plan}) is not None


def test_final_texts() -> None:
    """Final while steps are open is a soft fail; settled plans, structured output, broken calls and reports are kept."""
    verdict = judge("All done!", state={"plan": order_plan()})
    assert (verdict.outcome, verdict.code, verdict.hard) == ("fail", "plan_steps_open", False)
    assert judge("All done!", state={"plan": order_plan("done", "done", "skipped")}) is None
    assert judge("It did not work.", state={"plan": order_plan("done", "failed", "skipped")}) is None
    state = {"plan": order_plan(pay="in_progress")}
    assert judge("x", parsed={"a": 1}, state=state) is None
    assert judge("x", output_schema=Plan, state=state) is None
    broken = {"name": "refund", "args": "{", "id": "1", "error": "", "type": "invalid_tool_call"}
    assert judge(AIMessage("", invalid_tool_calls=[broken]), state=state) is None
    assert judge("Refunded.", state=state, messages=answered("find_order", "refund")) is None
    assert judge("Refunded.", state=state, messages=answered("find_order")) is not None


def test_progress_without_a_status() -> None:
    """Tool messages count for their step, results under numbers for numbered steps; without both only tools are held."""
    state = {"plan": order_plan("pending")}
    assert judge([call("refund", order=1)], state=state) is not None
    assert judge([call("refund", order="r")], state=state, messages=answered("find_order")) is None
    assert judge([call("refund", order="r")], state=state, messages=answered("find_order", status="error")) is not None
    assert judge("Done.", state=state, messages=answered("find_order", "refund", "send_mail")) is None
    plan = [step("a"), step("b", "refund", "a"), step("c", "send_mail", "b")]
    assert judge([call("send_mail")], state={"plan": plan}) is None
    assert judge("Done.", state={"plan": plan}) is None
    verdict = judge([call("get_weather")], state={"plan": plan})
    assert verdict.code == "plan_unexpected_call"
    assert judge([call("refund")], state={"plan": plan, "results": {"a": 1}}) is None
    assert judge([call("send_mail")], state={"plan": plan, "results": {"a": 1}}) is not None
    plan = [step(1), step(2, "refund", 1, args={"order": "$1.id"})]
    assert judge([call("refund", order=17)], state={"plan": plan, "results": {1: {"id": 17}}}) is None
    assert judge([call("refund", order=18)], state={"plan": plan, "results": {1: {"id": 17}}}) is not None


def test_finished_plan_binds_no_later_turn() -> None:
    """After the plan is finished other calls and texts are free; doing a done step again in the same turn is not."""
    state = {"plan": order_plan("done", "done", "done")}
    assert judge([call("get_weather")], state=state) is None
    assert judge("All done!", state=state) is None
    again = [call("find_order", name="Ada")]
    assert judge(again, state=state, messages=[*answered("find_order"), HumanMessage("?")]) is None
    assert judge(again, state=state, messages=answered("find_order", "refund", "send_mail")).code == "plan_step_done"


# ---- arguments taken from earlier results ---------------------------------------------------------------------------
ARGUMENTS: list[tuple[Any, Any, Any, bool]] = [
    # planned, result of the step "a", given, agrees
    ("${a.id}", {"id": 17}, 17, True),
    ("${a.id}", {"id": 17}, "17", True),
    ("${a.id}", {"id": 17.0}, 17, True),
    ("${a.id}", {"id": 17}, 18, False),
    ("${a.id}", {"id": "X1"}, "x1 ", True),
    ("${a.id}", {"id": "566.60"}, 566.6, True),
    ("${a.id}", {"id": 5}, "5.00", True),
    ("${a.id}", {"id": "1e3"}, 1000, True),
    ("${a.id}", {"id": "nan"}, "NaN", True),
    ("${a.id}", {"id": "12"}, "13", False),
    ("${a.id}", '{"id": 17}', 17, True),
    ("${a.id}", '{"id": 17}', 7, False),
    ("${a.id}", "{broken", 7, True),
    ("${a.none}", {"id": 17}, 99, True),
    ("${a.list.1}", {"list": [1, 2]}, 2, True),
    ("${a.list.1}", {"list": [1, 2]}, 1, False),
    ("${a.list.9}", {"list": [1, 2]}, 1, True),
    ("${a.list.x}", {"list": [1, 2]}, 1, True),
    ("${a.ok}", {"ok": True}, True, True),
    ("${a.ok}", {"ok": True}, False, False),
    ("${a.ok}", {"ok": None}, None, True),
    ("${a.ok}", {"ok": None}, 3, False),
    ("${a.o}", {"o": {"x": [1, "B"]}}, {"x": [1.0, "b"]}, True),
    ("${a.o}", {"o": {"x": 1}}, {"x": 2}, False),
    ("${a.o}", {"o": {"x": 1}}, {"y": 1}, False),
    ("${a.o}", {"o": [1]}, [1, 2], False),
    ("$a", 17, 17, True),
    ("$a", "17", 17, True),
    ("$a", "17", 7, False),
    ("$a", "Order 17 was found", 17, True),
    ("$a", "Order 17 was found", "order 17", True),
    ("$a", "Order 17 was found", 7, False),
    ("$a", "Order 17 was found", "", False),
    ("$a", "Order 17 was found", [17], False),
    ("$a", "Order 17 was found", "y" * 5_000, False),
    ("$a", {"id": 17, "lines": [{"sku": "B2"}]}, "b2", True),
    ("$a", {"id": 17, "lines": [{"sku": "B2"}]}, "c3", False),
    ("$a", {"n": list(range(500))}, 9_999, True),
    ("$a", 17, None, False),
    ("Order ${a.id} please", {"id": 17}, "order 17 please", True),
    ("Order ${a.id} please", {"id": 17}, "The order 17", True),
    ("Order ${a.id} please", {"id": 17}, "Order 18 please", False),
    ("Order ${a.id} please", {"id": 17}, 17, False),
    ("Order ${a.none} please", {"id": 17}, "Order 18 please", True),
    ("Order ${a.id} please", {"id": 2**2_000}, "Order 18 please", False),
    (["${a.id}", 2], {"id": 17}, [17, 2], True),
    (["${a.id}", 2], {"id": 17}, [18, 2], False),
    (["${a.id}", 2], {"id": 17}, [17, 3], False),
    (["${a.id}", "b"], {"id": 17}, [17, "c"], False),
    (["${a.id}", 2], {"id": 17}, 17, False),
    ({"o": "${a.id}"}, {"id": 17}, {"o": 17, "more": 1}, True),
    ({"o": "${a.id}"}, {"id": 17}, {"o": 18}, False),
    ({"o": "${a.id}"}, {"id": 17}, {}, False),
    ("${other.id}", {"id": 17}, 99, True),
    ("$5", {"id": 17}, "$6", True),
]


@pytest.mark.parametrize(("planned", "result", "given", "agrees"), ARGUMENTS)
def test_arguments_from_results(planned: Any, result: Any, given: Any, agrees: bool) -> None:
    """An argument taken from a result equals it up to spelling; what is not known agrees."""
    plan = [step("a", status="done", result=result), step("b", "refund", "a", args={"x": planned})]
    verdict = judge([call("refund", x=given)], state={"plan": plan})
    assert (verdict.code if verdict else None) == (None if agrees else "plan_wrong_argument")


def test_bounds_of_comparing() -> None:
    """Values nested deeper or longer than is compared are not known to differ."""
    deep: Any = "${a.id}"
    for _ in range(100):
        deep = [deep]
    plan = [
        step("a", status="done", result={"id": 1, "deep": deep}),
        step("b", "refund", "a", args={"x": deep, "y": "$a.id"}),
    ]
    assert judge([call("refund", x=[[1]], y=1)], state={"plan": plan}) is not None
    assert judge([call("refund", x=json.loads(json.dumps(deep)), y=1)], state={"plan": plan}) is not None
    plan = [step("a", status="done", result=1), step("b", "refund", "a", args={"x": ["y" * 3_000 + "$a", "$a"]})]
    assert judge([call("refund", x=["z", 1])], state={"plan": plan}) is None
    deep: Any = "${zz}"
    for _ in range(50):
        deep = [deep]
    assert judge("", parsed={"steps": [step("a", args={"x": deep})]}) is None
    assert judge("", parsed={"steps": [step("a", args={"z": "${zz}", "x": [1] * 150, "y": [2] * 150})]}) is None
    plan = [step("a", status="done", result=1), step("b", "refund", "a", args={"x": ["$a", deep]})]
    assert judge([call("refund", x=[1, deep])], state={"plan": plan}) is None
    assert judge([call("refund", x=[1, 7])], state={"plan": plan}) is not None
    assert judge("", parsed=[PlanStep(id="a"), PlanStep(id="a")]) is not None
    references = {f"k{n}": "$b " * 600 for n in range(150)}
    late = [step(f"s{n}", args=references) for n in range(100)]
    plan = [step("b"), *late, step("c", args={"x": "${zz}"})]
    assert judge("", parsed={"steps": plan}) is None
    assert judge("", parsed={"steps": [step("b"), step("c", args={"x": "${zz}"})]}) is not None


def test_result_from_the_only_tool_message() -> None:
    """The only message of the only step that calls a tool is its result; of several nothing is known."""
    plan = [step("a", status="done"), step("b", "refund", "a", args={"order": "${a.id}"})]
    found = ToolMessage('{"id": 17}', tool_call_id="1", name="find_order")
    messages: list[BaseMessage] = [HumanMessage("Hi"), AIMessage("", tool_calls=[call("find_order")]), found]
    assert judge([call("refund", order=17)], state={"plan": plan}, messages=messages) is None
    assert judge([call("refund", order=18)], state={"plan": plan}, messages=messages) is not None
    twice = [*messages, SystemMessage("."), found]
    assert judge([call("refund", order=18)], state={"plan": plan}, messages=twice) is None
    plan.append(step("c", "find_order", status="done"))
    assert judge([call("refund", order=18)], state={"plan": plan}, messages=messages) is None


def test_literal_argument_that_differs() -> None:
    """An argument that differs from the plan's own literal only lowers the confidence; the first one is reported."""
    plan = [step("a", args={"name": "Ada", "limit": 5, "page": None}, status="pending"), step("b", "refund")]
    assert judge([call("find_order", name="ada", limit=5.0)], state={"plan": plan}) is None
    verdict = judge([call("find_order", name="Bob", limit=6), call("refund")], state={"plan": plan})
    found = (verdict.outcome, verdict.code, verdict.path)
    assert found == ("abstain", "plan_argument_differs", "/tool_calls/0/args/name")
    hard = judge([call("find_order", name="Bob"), call("get_weather")], state={"plan": plan})
    assert hard.code == "plan_unexpected_call"


# ---- no plan, strange plans -----------------------------------------------------------------------------------------
NO_PLANS: dict[str, Any] = {
    "no state": None,
    "no key": {"messages": []},
    "null": {"plan": None},
    "empty": {"plan": []},
    "empty object": {"plan": {}},
    "text": {"plan": "1. look 2. pay"},
    "lines of text": {"plan": ["look", "pay"]},
    "pairs": {"plan": [("look", "pay")]},
    "to-dos": {"plan": [{"content": "look", "status": "pending"}]},
    "a plan of a house": {"plan": {"rooms": 4}},
    "a list as state": [HumanMessage("Hi")],
    "too many steps": {"plan": [step(n, status="pending") for n in range(10_000)]},
    "too many links": {"plan": [step(n, "refund", *range(150), status="pending") for n in range(150)]},
    "a circle": {"plan": [step("a", "find_order", "b", status="done"), step("b", "refund", "a")]},
    "ids that stand twice": {"plan": [step("a", status="done"), step("a")]},
}


@pytest.mark.parametrize("case", NO_PLANS)
def test_no_plan(case: str) -> None:
    """Where the state holds no plan of our shape, or one that cannot be followed, nothing is said."""
    for message in ("All done!", [call("get_weather")], [call("refund", order=1)]):
        assert judge(message, state=NO_PLANS[case]) is None


FOREIGN_PLANS: dict[str, list[dict[str, Any]]] = {
    "names of systems": [{"id": 1, "tool": "Orders API", "status": "pending"}],
    "a tool that is not on offer": [*order_plan(), step("fly", "book_flight", "pay")],
    "one tool on offer among names": [step("a", status="pending"), step("b", "the CRM", "a")],
    "no tools at all": [{"id": 1, "status": "failed"}, {"id": 2, "depends_on": [1], "status": "pending"}],
}


def test_plans_that_bind_nothing() -> None:
    """A value under `plan` that names tools which this step does not offer is left alone unless it was named."""
    for plan in FOREIGN_PLANS.values():
        state = {"plan": plan}
        for action in ([call("get_weather")], [call("send_mail")], "All done!"):
            assert judge(action, state=state) is None
        for validator in (PlanConsistency(lambda s: s["plan"]), PlanConsistency(known_tools=["find_order"])):
            verdict = judge([call("get_weather")], validator, state=state)
            assert verdict.code == "plan_unexpected_call"
    for tools in ((), (ToolSpec("get_weather"),)):
        assert judge([call("get_weather")], state={"plan": order_plan()}, tools=tools) is None


def test_an_own_reader() -> None:
    """A result that is no plan is reported; None and an empty plan are no plan yet."""
    for value in ("text", 7, [step("a"), step("a")]):
        verdict = judge("Done.", PlanConsistency(lambda _, value=value: value), state={})
        assert (verdict.outcome, verdict.code, verdict.score) == ("abstain", "plan_unreadable", None)
    assert judge("Done.", PlanConsistency(lambda _: []), state={}) is None
    assert judge("Done.", PlanConsistency(lambda _: None), state={}) is None


def test_schema_of_the_plan() -> None:
    """The schema is one that models can be asked for; numbers as ids and common status words are read."""
    schema = convert_to_openai_tool(Plan)["function"]
    assert schema["name"] == "Plan"
    assert schema["parameters"]["required"] == ["steps"]
    parsed = PlanStep.model_validate({"id": 1, "status": "Completed", "unknown": 1})
    assert (parsed.id, parsed.status) == ("1", "done")
    for status in ("quux", 7):
        with pytest.raises(ValidationError):
            PlanStep.model_validate({"id": "a", "status": status})
    again = Plan.model_validate(json.loads(json.dumps(Plan(steps=[parsed]).model_dump())))
    assert again.steps == [parsed]
