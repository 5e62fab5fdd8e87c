"""Tests of AfterToolError and of what counts as an error: as langgraph, langchain and tools write it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import (
    INVALID_TOOL_NAME_ERROR_TEMPLATE,
    TOOL_CALL_ERROR_TEMPLATE,
    TOOL_EXECUTION_ERROR_TEMPLATE,
    TOOL_INVOCATION_ERROR_TEMPLATE,
)
from langgraph.runtime import Runtime
from langgraph.types import Command

from cascade_agent.core.records import Draft, StepContext, Verdict
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators.after_tool_error import AfterToolError

CALL = {"name": "divide", "args": {"a": 1, "b": 0}, "id": "c1"}
SMALL = {"cascade": {"final_tier": "small"}}
LARGE = {"cascade": {"final_tier": "large"}}


def ai(meta: dict[str, Any], *calls: Any) -> AIMessage:
    """An assistant message with one call."""
    return AIMessage("", tool_calls=list(calls or [CALL]), response_metadata=meta)


def result(content: Any = "4", status: str = "success", call_id: str = "c1") -> ToolMessage:
    """A tool result."""
    return ToolMessage(content, tool_call_id=call_id, name="divide", status=status)


def judge(*messages: BaseMessage, text: str = "Done.") -> Verdict | None:
    """Judge an answer after a history."""
    return AfterToolError()(Draft(message=AIMessage(text)), StepContext(messages=[HumanMessage("Divide"), *messages]))


@tool
def divide(a: int, b: int) -> int:
    """Divide a by b."""
    return a // b


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"name": "divide", "args": {"a": "x", "b": 1}, "id": "c1"},
        {"name": "divide", "args": {}, "id": "c1"},
        {"name": "multiply", "args": {}, "id": "c1"},
    ],
)
@pytest.mark.parametrize("keep_status", [True, False])
def test_errors_that_the_tool_node_writes(call: dict[str, Any], keep_status: bool) -> None:
    """A raising tool, wrong or missing arguments and an unknown tool escalate, also when a store lost the status."""
    queried = ai(SMALL, call)
    config = {"configurable": {"__pregel_runtime": Runtime()}}
    answer = ToolNode([divide], handle_tool_errors=True).invoke({"messages": [queried]}, config)["messages"][0]
    assert answer.status == "error"
    if not keep_status:
        answer = ToolMessage(answer.content, tool_call_id="c1", name="divide")
    verdict = judge(queried, answer)
    assert (verdict.outcome, verdict.code) == ("fail", "after_tool_error")
    assert not verdict.hard


@pytest.mark.parametrize(
    "text",
    [
        TOOL_CALL_ERROR_TEMPLATE.format(error="ZeroDivisionError('x')"),
        TOOL_EXECUTION_ERROR_TEMPLATE.format(tool_name="divide", tool_kwargs="{}", error="boom"),
        TOOL_INVOCATION_ERROR_TEMPLATE.format(tool_name="divide", tool_kwargs="{}", error="boom"),
        INVALID_TOOL_NAME_ERROR_TEMPLATE.format(requested_tool="multiply", available_tools="divide, add"),
    ],
)
def test_templates(text: str) -> None:
    """Each template of the host is known by its text."""
    assert judge(ai(SMALL), result(text)) is not None


def test_any_failed_result_counts() -> None:
    """One among several, a custom text with the status, unusable structured output, a streamed chunk, after a long history."""
    two = [CALL, {**CALL, "id": "c2"}]
    good, bad = result(call_id="c1"), result("boom", "error", "c2")
    assert judge(ai(SMALL, *two), good, bad) is not None
    assert judge(ai(SMALL, *two), bad, good) is not None
    assert judge(ai(SMALL), result("Nope.", "error")) is not None
    assert judge(ai(SMALL), result([{"type": "text", "text": "Nope."}], "error")) is not None
    from langchain.agents.factory import STRUCTURED_OUTPUT_ERROR_TEMPLATE

    assert judge(ai(SMALL), result(STRUCTURED_OUTPUT_ERROR_TEMPLATE.format(error="no"))) is not None
    chunk = AIMessageChunk("", tool_call_chunks=[], response_metadata=SMALL)
    assert judge(chunk, result("boom", "error")) is not None
    history = [m for _ in range(20) for m in (ai(SMALL), result())]
    assert judge(*history) is None
    assert judge(*history, ai(SMALL), result("boom", "error")) is not None
    assert judge(ai(SMALL), result("boom", "error"), SystemMessage("Be brief.")) is not None
    assert judge(ai(SMALL), result("boom", "error"), HumanMessage("Go on")) is None


@pytest.mark.parametrize(
    "text",
    [
        "Error: User not found",
        "Error during execution: no route",
        "ValueError: invalid literal",
        "Traceback (most recent call last):\n  File",
        "Fehler: Datei nicht gefunden",
        "Erreur : fichier introuvable",
        "错误:文件不存在",
        '{"error": "order is not paid"}',
        '{"booking_status": false, "error": "no such airport"}',
        '{"success": false, "message": "permission denied"}',
        '{"status": "error"}',
        '{"isError": true, "content": []}',
    ],
)
def test_errors_that_tools_write(text: str) -> None:
    """An error word in front, in some languages, and an error in a JSON object are errors without any status."""
    assert judge(ai(SMALL), result(text)) is not None


KEPT = {
    "a good result": [ai(SMALL), result()],
    "an error of the large tier's call": [ai(LARGE), result("boom", "error")],
    "an error that was mended": [ai(SMALL), result("boom", "error"), ai(SMALL), result()],
    "an error before the last answer": [ai(SMALL), result("boom", "error"), AIMessage("Sorry."), HumanMessage("Hi")],
    "a result that speaks of errors": [ai(SMALL), result("Error: 404 lines of the log hold the word error")],
    "a quoted template": [ai(SMALL), result("The log says: Error: x\n Please fix your mistakes.")],
    "a word that begins alike": [ai(SMALL), result("Errors of measurement are small.")],
    "JSON without an error": [ai(SMALL), result('{"error": null, "rows": []}')],
    "a list of errors that is empty": [ai(SMALL), result('{"errors": [], "rows": [1]}')],
    "a call limit of the host": [ai(SMALL), result("Tool call limit exceeded. Do not call 'divide' again.", "error")],
    "no tool result": [AIMessage("Hello", response_metadata=SMALL)],
    "nothing": [],
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    """A result that is no error of the last calls is left alone."""
    assert judge(*KEPT[case]) is None


@pytest.mark.parametrize("reason", [None, "Not today."])
def test_a_call_that_a_human_rejected_is_no_error_of_the_small_tier(reason: str | None) -> None:
    """The text of `HumanInTheLoopMiddleware` for a rejected call is left alone; an error next to it still counts."""
    agent: Any = create_agent(
        ScriptedChatModel([AIMessage("", tool_calls=[CALL]), AIMessage("As you like.")]),
        [divide],
        middleware=[HumanInTheLoopMiddleware({"divide": True})],
        checkpointer=InMemorySaver(),
    )
    config = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": "Divide"}, config)
    decision = {"type": "reject"} if reason is None else {"type": "reject", "message": reason}
    out = agent.invoke(Command(resume={"decisions": [decision]}), config)
    rejection = next(message for message in out["messages"] if isinstance(message, ToolMessage))
    assert rejection.status == "error"
    if rejection.text == reason:
        pytest.skip("this langchain writes the human's reason alone, as any tool might")
    two = ai(SMALL, CALL, {**CALL, "id": "c2"})
    assert judge(two, rejection) is None
    assert judge(two, rejection, result("boom", "error", "c2")) is not None


@pytest.mark.parametrize(
    "text",
    [
        "I could not divide them.",
        "Leider ist das fehlgeschlagen, die Zahl fehlt nicht.",
        "The divisor is zero: shall I use another one?",
        "The tool says: division by zero.",
        "Here is what happened, step by step. " * 5,
    ],
)
def test_an_error_that_is_reported_is_kept(text: str) -> None:
    """A text that negates, asks, takes up words of the error or is long reports it."""
    assert judge(ai(SMALL), result("Error: division by zero"), text=text) is None


def test_what_is_no_report_of_an_error() -> None:
    """A closing courtesy; another call is an attempt to mend."""
    text = "All finished. Is there anything else I can help you with?"
    assert judge(ai(SMALL), result("boom", "error"), text=text) is not None
    context = StepContext(messages=[HumanMessage("Divide"), ai(SMALL), result("boom", "error")])
    assert AfterToolError()(Draft(message=ai({})), context) is None
