"""A customer-support agent loop whose model node is a cascade: model -> review -> tools -> model, over the order desk.

`review` asks a person before a refund above `REVIEW_ABOVE` is paid: the graph is interrupted, with the payload and the
replies that LangChain's review front ends use. Everything else goes to the tools at once.

`build` is the whole graph; `build_alone` is the same graph with one plain model in the node, which is what the cascade
is compared with.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send, interrupt

from cascade_agent import Policy, Verdict, default_validators
from cascade_agent.engine.human_review import edited_call, read_decisions
from graphs.settings import Settings, SettingsNode, alone, ask_with
from graphs.standins.models import standin_tiers
from tools.database import TODAY, OrderDatabase
from tools.orders import SIDE_EFFECTS, order_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from cascade_agent import Draft, StepContext, Tier
    from cascade_agent.engine.human_review import Verb

PROMPT = f"""You are the support agent of a small online shop. Today is {TODAY.isoformat()}.
Use the tools for every fact; never invent an order number, an amount or a date. Order numbers look like O-2001.
Check a condition before you act on it. Cancelling and refunding cannot be undone: do so only when the user asks for it.
If a user says who they are, act only on orders of that account. If it is not clear whose or which order is meant, ask.
If the shop's rules forbid something, do not work around them: say that it cannot be done and why.
Talk that is no request is answered kindly, without a tool. A tool that did not answer may be called again; when it
still fails, say what could not be done, and never guess it. Large refunds are looked at by a person before they are
paid: call the tool as usual, and pass on what the person says.
When everything is done, answer in one or two sentences that name order numbers, amounts, places and dates."""


REVIEW_ABOVE: Final = 100.0
"""Refunds of more EUR than this are paid only when a person has agreed."""


def build(
    small: BaseChatModel | Tier | str,
    large: BaseChatModel | Tier | str,
    *,
    policy: Policy | None = None,
    validators: Sequence[Any] | None = None,
    db: OrderDatabase | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The agent with a cascade in its model node.

    Args:
        small: the model that tries every step first.
        large: the model that answers where the small one's draft is rejected.
        policy: None knows the side effects of the desk's tools and is the default otherwise.
        validators: None is the default set, `error_told` and `owner_checked`.
        db: the shop; None is a fresh copy in memory.
        checkpointer: where LangGraph keeps threads.
    """
    tools = order_tools(db or OrderDatabase())
    judges = [*default_validators(), error_told, owner_checked] if validators is None else list(validators)
    policy = policy or Policy(side_effects=SIDE_EFFECTS)
    node = SettingsNode(small, large, tools=tools, prompt=PROMPT, validators=judges, policy=policy, name="support")
    return _graph(node, tools, checkpointer)


def build_alone(
    model: BaseChatModel, *, db: OrderDatabase | None = None, checkpointer: BaseCheckpointSaver[str] | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The same agent with one model and no cascade."""
    tools = order_tools(db or OrderDatabase())
    return _graph(alone(ask_with(tools, PROMPT), model, "support"), tools, checkpointer)


def _graph(
    node: Runnable[Any, Any] | Callable[..., Any], tools: Sequence[Any], checkpointer: BaseCheckpointSaver[str] | None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    builder = StateGraph(MessagesState, context_schema=Settings)
    builder.add_node("model", node)
    builder.add_node("review", review, destinations=("tools", "model"))
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition, {"tools": "review", END: END})
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=checkpointer)


# ---- validators -----------------------------------------------------------------------------------------------------


def error_told(draft: Draft, context: StepContext) -> Verdict | None:
    """Doubt an answer over an error of the last calls that neither refuses nor asks for anything."""
    if draft.tool_calls or draft.invalid_tool_calls or not _last_results(context.messages, status="error"):
        return None
    if _REFUSES.search(draft.text):
        return Verdict(outcome="pass")
    return Verdict(
        outcome="fail", code="error_not_told", reason="a tool failed and the answer does not say so", score=0.2
    )


def owner_checked(draft: Draft, context: StepContext) -> Verdict | None:
    """Doubt an action on an order that was not seen to belong to the account that the user named."""
    orders = {str(call["args"].get("order_id")) for call in draft.tool_calls if SIDE_EFFECTS.get(call["name"]) in _ACTS}
    spoken = "\n".join(str(m.text) for m in context.messages if isinstance(m, HumanMessage))
    if not orders or not _ACCOUNT.search(spoken):
        return None
    results = list(map(_json, _last_results(context.messages, status="success", whole=True)))
    owners = {r["customer_id"] for r in results if "email" in r}
    seen = {
        o["order_id"]: o["customer_id"]
        for r in results
        for o in (r, *r.get("orders", ()))
        if "order_id" in o and "paid" in o
    }
    strange = sorted(order for order in orders if seen.get(order) not in owners)
    if not strange:
        return Verdict(outcome="pass")
    reason = f"nothing in the conversation shows whose order {strange[0]} is, or it is another account's"
    return Verdict(outcome="fail", code="owner_unchecked", reason=reason, score=0.2)


_ACTS: Final = ("write", "irreversible")
_ACCOUNT: Final = re.compile(r"[\w.+-]+@[\w-]+\.\w+")
_REFUSES: Final = re.compile(
    r"\b(not|cannot|can't|couldn't|unable|only|at most|sorry|later|no longer|declined|rejected)\b|\?", re.IGNORECASE
)


def _last_results(messages: Sequence[BaseMessage], *, status: str, whole: bool = False) -> list[str]:
    """Return the texts of the tool results of a status: those of the last calls, or of the whole conversation."""
    found = []
    for message in reversed(messages):
        if isinstance(message, ToolMessage) and message.status == status:
            found.append(str(message.text))
        elif not whole and not isinstance(message, ToolMessage):
            break
    return found


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# ---- a person looks at it -------------------------------------------------------------------------------------------


def review(state: MessagesState) -> Command[Any]:
    """Ask a person about the calls that need one, and send those that may be made to the tools."""
    message: Any = state["messages"][-1]
    doubtful = [call for call in message.tool_calls if needs_person(call)]
    if not doubtful:
        return Command(goto="tools")
    decisions = dict(zip((call["id"] for call in doubtful), _decisions(doubtful), strict=True))
    calls: list[Any] = []
    refused: list[ToolMessage] = []
    for call in message.tool_calls:
        verb, given = decisions.get(call["id"], ("accept", None))
        if verb == "reject":
            text = f"A person did not approve this: {given or 'no reason was given'}"
            refused.append(ToolMessage(text, tool_call_id=call["id"], name=call["name"], status="error"))
        calls.append(edited_call(call, given) if verb == "edit" else call)
    update = {"messages": [message.model_copy(update={"tool_calls": calls}), *refused]}
    left = {call["id"] for call in calls} - {reply.tool_call_id for reply in refused}
    sent = [Send("tools", [{**call, "type": "tool_call"}]) for call in calls if call["id"] in left]
    return Command(update=update, goto=sent or "model")


def needs_person(call: Mapping[str, Any]) -> bool:
    """Return whether a call is a refund above the limit, or one whose amount cannot be read."""
    if call["name"] != "refund_order":
        return False
    try:
        return not float(call["args"]["amount"]) <= REVIEW_ABOVE
    except (KeyError, TypeError, ValueError):
        return True


def _decisions(calls: Sequence[Any]) -> list[tuple[Verb, Any]]:
    """Interrupt the graph until there is a decision for each call; one alone is for all of them."""
    request: dict[str, Any] = {
        "action_requests": [
            {"name": call["name"], "args": call["args"], "description": f"A refund of more than {REVIEW_ABOVE:.2f} EUR"}
            for call in calls
        ],
        "review_configs": [{"action_name": call["name"], "allowed_decisions": list(_TYPES)} for call in calls],
    }
    while True:
        reply = interrupt(request)
        try:
            given = list(read_decisions(reply))
            if len(given) in (1, len(calls)) and all(verb != "respond" for verb, _ in given):
                for call, (verb, content) in zip(calls, given * len(calls), strict=False):
                    if verb == "edit":
                        edited_call(call, content)
                return given if len(given) == len(calls) else given * len(calls)
            error = f"expected {{'decisions': [...]}} with {len(calls)} objects"
        except ValueError as found:
            error = str(found)
        request = {**request, "error": f"{error}; a type is one of {', '.join(_TYPES)}; got {reply!r}"[:500]}


_TYPES: Final = ("approve", "edit", "reject")


graph = build(*standin_tiers())
"""For `langgraph.json`: offline stand-ins over a fresh copy of the shop."""
