"""Code repair: an agent reads a small project, proposes a patch, and ends when the project's tests pass with it.

The validators look at a proposal before any tool sees it: it is a patch, it fits the files, the tests pass with it.
Tests run on a copy in a process with limits; what comes out is a patch in the state under `patch`, no file is changed.
`build_alone` is the same graph with one plain model in the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from cascade_agent import Policy, Verdict, default_validators
from graphs.evaluation.projects import load_projects
from graphs.settings import Settings, SettingsNode, alone, ask_with
from graphs.standins.models import standin_tiers
from tools.patch import PatchError, apply_patch, read_patch
from tools.project import PROPOSE, SIDE_EFFECTS, Project, project_tools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.tools import BaseTool
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from cascade_agent import Draft, StepContext, Tier

MAX_PROPOSALS: Final = 4

PROMPT: Final = f"""You mend faults of a small Python project. Run its tests, read what is needed, find the cause, and
hand in a unified diff with {PROPOSE}: as few lines as will do, the modules only, never the tests. Mend the cause for
every input, not the case that a test happens to name. If the tests still fail, read why and propose another patch."""


class RepairState(MessagesState):
    """The conversation, and the patch with which the tests pass; None until there is one."""

    patch: str | None


# ---- validators -----------------------------------------------------------------------------------------------------


class PatchCheck:
    """Fails a proposal that is no patch, that does not fit the project, or with which the tests fail."""

    name = "PatchCheck"

    def __init__(self, project: Project) -> None:
        self._project = project

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """Return one verdict on a proposal; a draft without one is left to the other validators."""
        del context
        text = next((call["args"].get("patch") for call in draft.tool_calls if call["name"] == PROPOSE), None)
        if not isinstance(text, str):
            return None
        try:
            read_patch(text)
            apply_patch(text, self._project.files())
        except PatchError as error:
            return Verdict(outcome="fail", code=error.code, reason=str(error), path="/patch")
        run = self._project.test(text)
        if run.passed:
            return Verdict(outcome="pass", code="tests_pass")
        reason = f"with the patch {run.failed} of {run.ran} tests fail ({run.outcome})"
        return Verdict(outcome="fail", code="tests_fail", reason=reason, path="/patch")


def no_patch(draft: Draft, context: StepContext) -> Verdict | None:
    """Doubt a draft that ends the work in words though no patch has passed."""
    if draft.tool_calls or draft.invalid_tool_calls or any(ok for _, ok in _proposals(context.messages)):
        return None
    return Verdict(outcome="fail", code="no_patch", reason="the answer comes without a patch", score=0.2)


# ---- the graph ------------------------------------------------------------------------------------------------------


def build(
    small: BaseChatModel | Tier | str,
    large: BaseChatModel | Tier | str,
    *,
    policy: Policy | None = None,
    validators: Sequence[Any] | None = None,
    project: Project | Path | str,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph over a project.

    Args:
        small: the model that tries every step first.
        large: the model that answers where the small one's draft is rejected.
        policy: None knows the side effects of the tools and is the default otherwise.
        validators: None is the default set, `PatchCheck` and `no_patch`.
        project: the project, or its directory. Its tests are run with unittest, on the standard library alone.
        checkpointer: where LangGraph keeps threads.
    """
    project = project if isinstance(project, Project) else Project(project)
    tools = project_tools(project)
    judges = [*default_validators(), PatchCheck(project), no_patch] if validators is None else list(validators)
    policy = policy or Policy(side_effects=SIDE_EFFECTS)
    node = SettingsNode(small, large, step=ask_with(tools, PROMPT), validators=judges, policy=policy, name="repair")
    return _graph(node, tools, checkpointer)


def build_alone(
    model: BaseChatModel, *, project: Project | Path | str, checkpointer: BaseCheckpointSaver[str] | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the same graph with one model and no cascade."""
    tools = project_tools(project if isinstance(project, Project) else Project(project))
    return _graph(alone(ask_with(tools, PROMPT), model, "repair"), tools, checkpointer)


def _graph(
    node: Any, tools: Sequence[BaseTool], checkpointer: BaseCheckpointSaver[str] | None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    builder = StateGraph(RepairState, context_schema=Settings)
    builder.add_node("repair", node)
    builder.add_node("tools", ToolNode(tools))
    builder.add_node("answer", _answer)
    builder.add_edge(START, "repair")
    builder.add_conditional_edges("repair", tools_condition, {"tools": "tools", END: END})
    builder.add_conditional_edges("tools", _after_tools, ["repair", "answer"])
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=checkpointer)


def _after_tools(state: RepairState) -> str:
    proposals = _proposals(state["messages"])
    ended = any(ok for _, ok in proposals[-1:]) or len(proposals) >= MAX_PROPOSALS
    return "answer" if ended else "repair"


def _answer(state: RepairState) -> dict[str, Any]:
    patch, passed = _proposals(state["messages"])[-1]
    if passed:
        return {"patch": patch, "messages": [AIMessage(f"The tests pass with this patch:\n\n{patch}")]}
    return {"patch": None, "messages": [AIMessage(f"No patch made the tests pass in {MAX_PROPOSALS} proposals.")]}


def _proposals(messages: Sequence[BaseMessage]) -> list[tuple[str, bool]]:
    """Return the patches that were handed in since the user last spoke, each with whether the tests passed."""
    start = max((at for at, message in enumerate(messages) if message.type == "human"), default=0)
    calls = {
        call["id"]: str(call["args"].get("patch", ""))
        for message in messages[start:]
        if isinstance(message, AIMessage)
        for call in message.tool_calls
        if call["name"] == PROPOSE
    }
    return [
        (calls[message.tool_call_id], message.status == "success")
        for message in messages[start:]
        if isinstance(message, ToolMessage) and message.tool_call_id in calls
    ]


graph = build(*standin_tiers(), project=Project(load_projects()[0].files))
"""For `langgraph.json`: offline stand-ins over a small project with a fault."""
