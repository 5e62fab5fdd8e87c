"""`AfterToolError`: whether the small tier's own call has just failed, so that the step goes straight to large.

Law: an error is what the host marked or wrote as one; a result that merely speaks of errors is a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.core.scoring import Weight
from cascade_agent.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from cascade_agent.core.records import Draft, StepContext

_WINDOW = 64
_AI = ("ai", "AIMessageChunk")
_TOOL = ("tool", "ToolMessageChunk")
_NOT_ITS_FAULT = ("Tool call limit exceeded", "User rejected the tool call for `")
"""How langchain's `ToolCallLimitMiddleware` and `HumanInTheLoopMiddleware` begin; both set the status `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterToolError:
    """Fails softly with `after_tool_error` before the small model is asked.

    It acts when one of the tool results after the last assistant message is an error and that message was written by
    the small tier (`response_metadata["cascade"]["final_tier"] == "small"`). Errors of the large tier's calls and of
    messages that no cascade wrote are left alone, so are calls that a call limit of the host blocked or that a human
    rejected in langchain's words (before langchain 1.4 a reason of the human's own replaces these words).

    Args:
        score: P(the small tier gets this step right), in [0, 1]. The default is what 600 recorded multi-turn tasks of
            a 20b model gave: 20.0 % of the failing and 12.1 % of the good turns had such an error before them and
            56.5 % of the tasks failed, so 1 - .68.

    Raises:
        ConfigurationError: `score` is not in [0, 1].
    """

    score: float = 0.32
    name: ClassVar[str] = "AfterToolError"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "context"
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "after_tool_error"
    weights: ClassVar[Mapping[str, Weight]] = {
        "after_tool_error": Weight(6.0, "the score is itself an estimate of P(right); this weight hands it on"),
    }

    def __post_init__(self) -> None:
        """Refuse a score that is no probability."""
        if not 0.0 <= self.score <= 1.0:
            msg = f"AfterToolError.score is {self.score!r}; expected a number in [0, 1]"
            raise ConfigurationError(msg)

    def __call__(self, draft: Draft | None, context: StepContext) -> Verdict | None:  # noqa: ARG002 - looks at the context alone
        """One soft fail, or nothing."""
        messages = context.messages
        failed = False
        for index in range(len(messages) - 1, max(-1, len(messages) - 1 - _WINDOW), -1):
            message = messages[index]
            kind = message.type
            if kind in _TOOL:
                failed = failed or _is_error(message)
            elif kind in _AI:
                if failed and _by_small(message):
                    return self._fail(message)
                return None
        return None

    def _fail(self, message: BaseMessage) -> Verdict:
        calls = len(getattr(message, "tool_calls", None) or ())
        return Verdict(
            outcome="fail",
            code="after_tool_error",
            reason=f"a tool answered the small tier's last message ({calls} calls) with an error",
            score=self.score,
            validator=self.name,
        )


def _by_small(message: BaseMessage) -> bool:
    meta = message.response_metadata
    record = meta.get("cascade") if isinstance(meta, Mapping) else None
    return isinstance(record, Mapping) and record.get("final_tier") == "small"


def _is_error(message: BaseMessage) -> bool:
    content = message.content
    text = content if isinstance(content, str) else ""
    if getattr(message, "status", None) == "error":
        return not text.startswith(_NOT_ITS_FAULT)
    return _is_error_text(text)


def _is_error_text(text: str) -> bool:
    """Whether a text is what langgraph's `ToolNode` or langchain's structured output writes for a failed call.

    The templates stand in `langgraph.prebuilt.tool_node` and `langchain.agents.factory`; the latter sends its message
    with the status `success`.
    """
    if not text.startswith("Error"):
        return False
    tail = text[-64:].rstrip()
    if text.startswith("Error: "):
        if tail.endswith("\n Please fix your mistakes."):
            return True
        name, found, _ = text[7:400].partition(" is not a valid tool, try one of [")
        return bool(found) and not any(c.isspace() for c in name) and tail.endswith("].")
    return text.startswith(("Error invoking tool '", "Error executing tool '")) and tail.endswith(
        "\n Please fix the error and try again."
    )
