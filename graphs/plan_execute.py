"""Plan and execute over the order desk: a planner, an executor and a replanner, each of them a cascade.

The plan stands in the state under `plan`, where `PlanConsistency` reads it: the planner's answer is checked as a plan,
the executor's calls are checked against it. `build_alone` is the same graph with one plain model in the three nodes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel, Field

from cascade_agent import CascadeExhausted, Policy, default_validators
from cascade_agent.validators import PlanConsistency
from graphs.settings import Settings, SettingsNode, alone
from graphs.standins.models import standin_tiers
from graphs.standins.view import PLAN_MARK, PLAN_TOOL
from tools.database import TODAY, OrderDatabase
from tools.orders import SIDE_EFFECTS, order_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import ToolCall
    from langchain_core.tools import BaseTool
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from cascade_agent import Tier

    Step = Callable[[Any, Any], dict[str, Any]]

MAX_REPLANS: Final = 6

_RULES: Final = f"""You work for the support desk of a small online shop. Today is {TODAY.isoformat()}.
Order numbers look like O-2001. Never invent an order number, an amount or a date. Cancelling and refunding cannot be
undone. If a user says who they are, act only on orders of that account."""

PLANNER: Final = f"""{_RULES}
Write a plan for the user's request with the tool {PLAN_TOOL}: one step per call of a tool of the list below, in the
order in which they must run, with the arguments. An argument that comes from an earlier step's result is written as
${{step_id.field}}, such as ${{s1.tracking_number}} or ${{s2.orders.0.order_id}}, and that step stands in depends_on.
Plan as far as can be known now; the rest is planned later, when results are there. No call needed: an empty plan.
Tools:
"""

EXECUTOR: Final = f"""{_RULES}
Carry out the plan below. Make exactly one call: that of the first step that is pending, with its references
${{step_id.field}} replaced by the values from the results.
"""

REPLANNER: Final = f"""{_RULES}
The steps below were carried out. If more calls are needed for the user's request, write the steps that are left with
the tool {PLAN_TOOL}, with new ids; results so far may be referred to as ${{step_id.field}}. If the request is answered,
or a rule of the shop forbids it, do not call a tool: answer the user in one to three sentences that name order numbers,
amounts, places and dates. Tools that steps may use:
"""


class PlannedStep(BaseModel):
    """One call of a plan."""

    id: str = Field(description="Short id such as s1")
    tool: str = Field(description="Name of the tool")
    args: dict[str, Any] = Field(description="Arguments; ${step_id.field} refers to an earlier result")
    description: str = Field(default="", description="What the step is for")
    depends_on: list[str] = Field(default_factory=list, description="Ids of the steps that must be done before")


@tool(PLAN_TOOL)
def make_plan(steps: Annotated[list[PlannedStep], Field(description="The steps in order")]) -> str:
    """Write down the steps that are left to do."""
    return f"{len(steps)} steps"


class PlanState(MessagesState):
    """The conversation, the plan as plain JSON `{"steps": [...]}` and how often it was revised."""

    plan: dict[str, Any] | None
    replans: int


def build(
    small: BaseChatModel | Tier | str,
    large: BaseChatModel | Tier | str,
    *,
    policy: Policy | None = None,
    validators: Sequence[Any] | None = None,
    db: OrderDatabase | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The three cascades and the tools.

    Args:
        small: the model that tries every step first.
        large: the model that answers where the small one's draft is rejected.
        policy: None knows the side effects of the desk's tools and is the default otherwise.
        validators: None is the default set, which holds `PlanConsistency`.
        db: the shop; None is a fresh copy in memory.
        checkpointer: where LangGraph keeps threads.
    """
    policy = policy or Policy(side_effects=SIDE_EFFECTS, on_exhausted="return")
    if validators is None:  # the planner's one tool does not show which tools its steps may name
        knows = PlanConsistency(known_tools=tuple(SIDE_EFFECTS))
        validators = [knows if isinstance(v, PlanConsistency) else v for v in default_validators()]

    def node(step: Step, name: str) -> Any:
        return SettingsNode(small, large, step=step, validators=validators, policy=policy, name=name)

    return _graph(node, order_tools(db or OrderDatabase()), checkpointer)


def build_alone(
    model: BaseChatModel, *, db: OrderDatabase | None = None, checkpointer: BaseCheckpointSaver[str] | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The same graph with one model and no cascade."""

    def node(step: Step, name: str) -> Any:
        return alone(step, model, name)

    return _graph(node, order_tools(db or OrderDatabase()), checkpointer)


def _graph(
    node: Callable[[Step, str], Any], tools: list[BaseTool], checkpointer: BaseCheckpointSaver[str] | None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    menu = "\n".join(f"- {t.name}({', '.join(t.args)}): {t.description}" for t in tools)

    def plan(state: PlanState, model: Any) -> dict[str, Any]:
        reply = model.bind_tools([make_plan], tool_choice=PLAN_TOOL).invoke(
            [SystemMessage(PLANNER + menu), *state["messages"]]
        )
        return {"plan": {"steps": _steps(reply, set())}, "replans": 0}

    def execute(state: PlanState, model: Any) -> dict[str, Any]:
        prompt = f"{EXECUTOR}{PLAN_MARK}\n{json.dumps(state['plan'], ensure_ascii=False)}"
        try:
            return {"messages": [model.bind_tools(tools).invoke([SystemMessage(prompt), *state["messages"]])]}
        except CascadeExhausted:  # neither model could carry the step out: the plan is at fault, not the run
            return {"plan": {"steps": _given_up(_all_steps(state))}}

    def replan(state: PlanState, model: Any) -> dict[str, Any]:
        so_far = f"{PLAN_MARK}\n{json.dumps(state['plan'], ensure_ascii=False)}"
        prompt = f"{REPLANNER}{menu}\n{so_far}"
        reply = model.bind_tools([make_plan]).invoke([SystemMessage(prompt), *state["messages"]])
        past = [s for s in _all_steps(state) if s["status"] != "pending"]
        new = _steps(reply, {s["id"] for s in past})
        update: dict[str, Any] = {"plan": {"steps": [*past, *new]}, "replans": state.get("replans", 0) + 1}
        return update if reply.tool_calls else {**update, "messages": [reply]}

    builder = StateGraph(PlanState, context_schema=Settings)
    builder.add_node("planner", node(plan, "planner"))
    builder.add_node("executor", node(execute, "executor"))
    builder.add_node("replanner", node(replan, "replanner"))
    builder.add_node("tools", ToolNode(tools))
    builder.add_node("record", record)
    builder.add_edge(START, "planner")
    builder.add_conditional_edges("planner", _after_plan, ["executor", "replanner"])
    builder.add_conditional_edges("executor", _after_call, ["tools", "replanner"])
    builder.add_edge("tools", "record")
    builder.add_conditional_edges("record", _after_plan, ["executor", "replanner"])
    builder.add_conditional_edges("replanner", _after_replan, ["executor", END])
    return builder.compile(checkpointer=checkpointer)


def record(state: PlanState) -> dict[str, Any]:
    """Write the results of the last calls into the plan; when one failed, what was still open is planned anew."""
    steps = [dict(step) for step in _all_steps(state)]
    messages = state["messages"]
    last = max(index for index, message in enumerate(messages) if isinstance(message, AIMessage))
    touched: set[str] = set()
    calls = {call["id"]: call for call in getattr(messages[last], "tool_calls", ())}
    for message in messages[last + 1 :]:
        call = calls.get(message.tool_call_id) if isinstance(message, ToolMessage) else None
        step = _step_of(call, steps) if call else None
        if step is not None and isinstance(message, ToolMessage):
            touched.add(step["id"])
            step["status"] = "failed" if message.status == "error" else "done"
            step["result"] = _result(str(message.text))
    if any(step["status"] == "failed" for step in steps if step["id"] in touched):
        steps = [{**step, "status": "skipped"} if step["status"] == "pending" else step for step in steps]
    return {"plan": {"steps": steps}}


def _step_of(call: ToolCall, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The pending step that a call carries out: the same arguments if there is one, else the first of the tool."""
    pending = [step for step in steps if step["status"] == "pending" and step["tool"] == call["name"]]
    exact = (step for step in pending if step["args"] == call["args"])
    return next(exact, pending[0] if pending else None)


def _given_up(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first pending step as failed, the others behind it as skipped."""
    states = {step["id"]: "skipped" for step in steps if step["status"] == "pending"}
    if states:
        states[next(iter(states))] = "failed"
    return [{**step, "status": states.get(step["id"], step["status"])} for step in steps]


def _result(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _all_steps(state: PlanState) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = (state.get("plan") or {}).get("steps", [])
    return steps


def _steps(reply: AIMessage, taken: set[str]) -> list[dict[str, Any]]:
    """The steps of a `make_plan` call, pending; what is no step is left out, an id in use gets a new one."""
    calls = [call for call in reply.tool_calls if call["name"] == PLAN_TOOL]
    steps: list[dict[str, Any]] = []
    for raw in calls[0]["args"].get("steps", ()) if calls else ():
        if not (isinstance(raw, dict) and raw.get("tool") and isinstance(raw.get("args", {}), dict)):
            continue
        number = str(raw.get("id") or f"s{len(taken) + len(steps) + 1}")
        while number in taken:
            number += "x"
        steps.append(
            {
                "id": number,
                "tool": str(raw["tool"]),
                "description": str(raw.get("description") or ""),
                "depends_on": [str(d) for d in raw.get("depends_on") or ()],
                "args": raw.get("args", {}),
                "status": "pending",
            }
        )
        taken = {*taken, number}
    return steps


def _after_plan(state: PlanState) -> Literal["executor", "replanner"]:
    return "executor" if any(step["status"] == "pending" for step in _all_steps(state)) else "replanner"


def _after_call(state: PlanState) -> Literal["tools", "replanner"]:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else "replanner"


def _after_replan(state: PlanState) -> str:
    pending = any(s["status"] == "pending" for s in _all_steps(state))
    return "executor" if pending and state.get("replans", 0) <= MAX_REPLANS else END


graph = build(*standin_tiers())
"""For `langgraph.json`: offline stand-ins over a fresh copy of the shop."""
