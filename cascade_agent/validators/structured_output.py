"""`StructuredOutput`: whether an answer that was asked for in a schema could be read as that schema, and fits it.

Law: the reason names the error class, the kind of error and the path, never a value; names that the schema does not
declare are written `*`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cascade_agent.core.records import Verdict
from cascade_agent.validators._output_schema import compiled

if TYPE_CHECKING:
    from cascade_agent.core.records import Draft, StepContext

_ERROR_CLASS = re.compile(r"(?:[A-Za-z_]\w{0,80}\.)*([A-Za-z_]\w{0,80}(?:Error|Exception))\b")
_PYDANTIC_LINE = re.compile(r"^(\S[^\n]{0,200})\n  [^\n]{0,2000}?\[type=([a-z_]{1,60})\b", re.MULTILINE)
_MAX_ERROR_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """Fails hard with `unparsed_output` when the answer does not parse into what was asked for.

    Acts when structured output was asked for (`context.output_schema`) or parsing it failed (`draft.parsing_error`).
    An answer that calls one of the offered tools first is not yet the structured answer and is left alone.

    LangChain validates what it reads into a pydantic class and hands on everything else as it is. Plain output of a
    JSON Schema (also of a tool or a response format) or of a `TypedDict` is therefore held to that schema here; keys
    that it does not declare are a fault only where it forbids them. What a schema demands but cannot be enforced (a
    remote reference, a pattern that could hang) is not held against an answer; `unchecked` is an abstain: the output
    is too large to be followed to its end.
    """

    name: ClassVar[str] = "StructuredOutput"
    stage: ClassVar[Literal["context", "draft", "evidence"]] = "draft"
    shipped: ClassVar[bool] = True
    escalates_as: ClassVar[str] = "schema_invalid"

    def __call__(self, draft: Draft, context: StepContext) -> Verdict | None:
        """One hard fail, or nothing."""
        error = draft.parsing_error
        if error is not None:
            reason, path = _explain(error)
            return _fail(reason, path)
        if context.output_schema is None:
            return None
        if draft.parsed is not None:
            return _unfit(draft.parsed, context.output_schema)
        if draft.tool_calls and any(call.get("name") in context.tools_by_name for call in draft.tool_calls):
            return None
        return _fail("the answer holds no output of the schema that was asked for", "/parsed")


def _fail(reason: str, path: str) -> Verdict:
    return Verdict(outcome="fail", code="unparsed_output", reason=reason, path=path, validator=StructuredOutput.name)


def _unfit(parsed: object, wanted: object) -> Verdict | None:
    """The first rule of the schema that plain output breaks, or nothing."""
    if not isinstance(parsed, dict | list | str | int | float):
        return None
    asked = compiled(wanted)
    if asked is None:
        return None
    report = asked.schema.check(parsed)
    if report.faults:
        fault = report.faults[0]
        return _fail(f"the answer breaks a rule of the schema: {fault.keyword or 'type'}", "/parsed" + fault.path)
    if report.complete:
        return None
    reason = "the schema takes too many steps to follow to its end"
    return Verdict(outcome="abstain", code="unchecked", reason=reason, path="/parsed", validator=StructuredOutput.name)


def _explain(error: object) -> tuple[str, str]:
    """A sentence and a path from an error's text as pydantic, json and the LangChain parsers write it."""
    text = error[:_MAX_ERROR_TEXT] if isinstance(error, str) else type(error).__name__
    found = _ERROR_CLASS.match(text)
    reason = f"the answer does not parse into the schema ({found[1] if found else 'parsing error'})"
    line = _PYDANTIC_LINE.search(text)
    if line is None:
        return reason, "/parsed"
    location = "".join(f"/{part}" for part in line[1].strip().split("."))
    return f"{reason}: {line[2]}", "/parsed" + location
