"""A step that a person decides: the question as an interrupt of the graph, the reply, and the record of it.

The question carries the fields of LangChain's `HITLRequest` and of LangGraph's `HumanInterrupt`, so that the review
front ends of both show it; the replies of both are understood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from cascade_agent import telemetry
from cascade_agent.core.clean_json import clean
from cascade_agent.core.records import Attempt
from cascade_agent.engine.progress import judged_as
from cascade_agent.engine.recorder import append
from cascade_agent.engine.step import attempt_line
from cascade_agent.engine.structured import plain
from cascade_agent.errors import RejectedDraft
from cascade_agent.models.usage import NOTHING
from cascade_agent.validators import ToolCallSchema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from langchain_core.messages import ToolCall

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import Draft, StepTrace
    from cascade_agent.engine.step import Answer, Rebuild, StepRequest, StepResult

Verb = Literal["accept", "edit", "respond", "reject"]

ANSWER: Final = "answer"
"""Name of the action that stands for a draft which is not made of tool calls; its `args` are `content` or `parsed`."""
_VERBS: Final[Mapping[str, Verb]] = {
    **dict.fromkeys(("accept", "accepted", "approve", "approved"), "accept"),
    **dict.fromkeys(("reject", "rejected", "ignore", "ignored"), "reject"),
    **dict.fromkeys(("respond", "response"), "respond"),
    "edit": "edit",
}
_OWN: Final = ("content", "tool_calls", "parsed")
UNDERSTOOD: Final = (
    "'accept' or 'approve' takes the draft; 'reject' or 'ignore' takes none; any other text is the answer",
    "{'content': text, 'tool_calls': [...], 'parsed': {...}}: an answer of your own",
    "{'type': 'accept' | 'approve' | 'reject' | 'ignore'}, with a 'message' that says why; 'action' for 'type' is fine",
    "{'type': 'edit', 'edited_action' or 'args': {'name' or 'action': ..., 'args': {...}}}: the draft, changed",
    "{'type': 'respond' or 'response', 'message' or 'args': text}: the text is the answer",
    "{'decisions': [...]}: one of these objects for each of the action_requests",
)
"""The replies that are understood, in any case; a reply that is not gets this list back."""


def ask_human(request: StepRequest, result: StepResult, rebuild: Rebuild) -> StepResult:
    """Interrupt the graph with a question; return the result that the reply makes of the step."""
    from langgraph.types import interrupt

    best, trace = result.best, result.trace
    question, own = _question(result), partial(_own_answer, f"human-{trace.id}", rebuild)
    while True:
        reply = interrupt(question)
        try:
            answer, why = _answer_of(reply, request, best, own)
        except ValueError as error:
            question = {**question, "error": str(clean(str(error)[:500])), "understood": list(UNDERSTOOD)}
        else:
            # a rejection ends in CascadeExhausted, on the first run as after a resume
            errors = (*result.errors, RejectedDraft(why)) if why else result.errors
            return replace(result, answer=answer, trace=_reviewed(trace, answer, best), raised=None, errors=errors)


# ---- the question ---------------------------------------------------------------------------------------------------


def _question(result: StepResult) -> JsonObject:
    """Return the payload of the interrupt, plain JSON; a rejected draft is not in it."""
    best, trace = result.best, result.trace
    draft = None if best is None else best.draft.to_json()
    parsed = None if best is None else clean(plain(best.draft.parsed))
    whole: JsonObject = {"content": draft["text"] if draft else ""} if parsed is None else {"parsed": parsed}
    actions = [(ANSWER, whole)]
    if draft and parsed is None and draft["tool_calls"]:
        calls = [{"name": str(call["name"]), "args": call["args"]} for call in draft["tool_calls"]]
        actions, whole = [(call["name"], call["args"]) for call in calls], {"tool_calls": calls}
    lines = [attempt_line(replace(a, error=a.error and a.error.partition(":")[0])) for a in trace.attempts]
    text = f"Step {trace.step!r} needs a decision ({trace.reason}). {'; '.join(lines)}."
    if best is None:
        text += " No draft passed its hard checks: answer, or reject."
    one = actions[0] if len(actions) == 1 else (ANSWER, whole)
    allowed = ["approve", "edit", "reject", "respond"][0 if best else 1 :]
    return {
        "type": "cascade_exhausted",
        "step": trace.step,
        "reason": trace.reason,
        "draft": draft,
        "trace": trace.to_json(content=False),
        "description": text,
        "action_requests": [{"name": name, "args": args, "description": text} for name, args in actions],
        "review_configs": [
            {"action_name": name, "allowed_decisions": allowed} for name in dict.fromkeys(name for name, _ in actions)
        ],
        # this front end shows one action: of several calls all, so that nothing unseen is accepted
        "action_request": {"action": one[0], "args": one[1]},
        "config": dict.fromkeys(("allow_edit", "allow_respond", "allow_ignore"), True)
        | {"allow_accept": best is not None},
    }


def _calls(draft: Draft) -> Sequence[ToolCall]:
    """Return the calls that a person decides one by one; those that only carry structured output are none."""
    return draft.tool_calls if draft.parsed is None else ()


# ---- the reply ------------------------------------------------------------------------------------------------------


def _answer_of(
    reply: object, request: StepRequest, best: Answer | None, own: Callable[[JsonMapping], Answer]
) -> tuple[Answer | None, str]:
    """Return the answer that a reply gives, None for a rejection, with the reason that came with it.

    Raises:
        ValueError: the reply is not understood, or gives an answer that cannot be used.
    """
    decisions = list(read_decisions(reply))
    calls = () if best is None else _calls(best.draft)
    actions, for_all = max(1, len(calls)), not (isinstance(reply, Mapping) and "decisions" in reply)
    if len(decisions) != actions and not (for_all and len(decisions) == 1):
        msg = f"{len(decisions)} decisions; expected {actions}, one for each action"
        raise ValueError(msg)
    verbs = {verb for verb, _ in decisions}
    if verbs == {"reject"}:
        return None, "; ".join(str(why) for _, why in decisions if why)
    if verbs == {"accept"}:
        if best is None:
            msg = "there is no draft to accept: every draft failed a hard check"
            raise ValueError(msg)
        return best, ""
    if len(decisions) == 1 and (verbs == {"respond"} or len(calls) != 1):
        return _checked(own(_fields(decisions[0][1])), request), ""
    if "respond" in verbs:
        msg = "a text answers the whole step: it cannot stand next to decisions about single calls"
        raise ValueError(msg)
    kept = [
        edited_call(call, given) if verb == "edit" else call
        for call, (verb, given) in zip(calls, decisions, strict=True)
        if verb != "reject"
    ]
    return _checked(own({"content": cast("Answer", best).draft.text, "tool_calls": kept}), request), ""


def read_decisions(reply: object) -> Iterator[tuple[Verb, Any]]:
    """Yield what a reply decides: what to do, and with which content.

    Raises:
        ValueError: the reply is not understood.
    """
    if isinstance(reply, Mapping) and "decisions" in reply:
        reply = reply["decisions"]
    if isinstance(reply, list):
        for part in reply:
            yield _decision(part)
    else:
        yield _decision(reply)


def _decision(reply: object) -> tuple[Verb, Any]:
    if isinstance(reply, bool):
        return ("accept" if reply else "reject"), None
    if isinstance(reply, str):
        verb = _VERBS.get(reply.strip(" \t\r\n.!").casefold())
        if verb in ("accept", "reject"):
            return verb, None
        if verb is not None or not reply.strip():
            msg = f"{reply!r} comes without the answer"
            raise ValueError(msg)
        return "respond", {"content": reply}
    if not isinstance(reply, Mapping):
        msg = f"a reply of type {type(reply).__name__} is not understood"
        raise ValueError(msg)  # noqa: TRY004 - a person reads it and replies again
    words = (str(reply[key]).strip().casefold() for key in ("type", "action", "decision") if key in reply)
    wanted: Verb | None = next((_VERBS[word] for word in words if word in _VERBS), None)
    own = {key: reply[key] for key in _OWN if reply.get(key)}
    if own and wanted not in ("accept", "reject"):
        return "respond", own
    content = next((reply[key] for key in ("edited_action", "args", "message") if reply.get(key)), None)
    if wanted is None or (wanted in ("edit", "respond") and content is None):
        msg = f"an object with {', '.join(map(repr, reply)) or 'nothing'} in it is not understood"
        raise ValueError(msg)
    if wanted == "respond":
        return "respond", {"content": content} if isinstance(content, str) else content
    return wanted, (content if wanted == "edit" else reply.get("message"))


def _fields(given: Any) -> JsonMapping:
    """Return the fields of an answer; an action of a front end has them in its `args`."""
    fields = given.get("args", given) if isinstance(given, Mapping) else None
    if not isinstance(fields, Mapping) or not any(fields.get(key) for key in _OWN):
        msg = f"an answer needs one of {', '.join(_OWN)}"
        raise ValueError(msg)
    return fields


def edited_call(call: ToolCall, given: Any) -> JsonObject:
    """Return a call as a person left it; `given` is an action, or the arguments alone."""
    if not isinstance(given, Mapping):
        msg = f"an edited action is an object with 'name' and 'args', not {type(given).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - a person reads it and replies again
    name = given.get("name", given.get("action"))
    if not isinstance(name, str) or not isinstance(given.get("args"), Mapping):
        return {**call, "args": dict(given)}
    return {**call, "name": name, "args": dict(given["args"])}


def _own_answer(own_id: str, rebuild: Rebuild, given: JsonMapping) -> Answer:
    """Return an answer of a person's: the given content, calls and structured output."""
    from langchain_core.messages import AIMessage

    parsed, listed = given.get("parsed"), given.get("tool_calls") or ()
    if not all(isinstance(call, Mapping) for call in listed):
        msg = "tool_calls is a list of objects with 'name' and 'args'"
        raise ValueError(msg)
    calls = [{"args": {}, **call, "id": call.get("id") or f"{own_id}-{i}"} for i, call in enumerate(listed)]
    content = given.get("content") or ("" if parsed is None or calls else json.dumps(parsed, ensure_ascii=False))
    return rebuild("human", AIMessage(content=content, tool_calls=cast("Any", calls), id=own_id), parsed)


def _checked(answer: Answer, request: StepRequest) -> Answer:
    """Return an answer whose calls the tools accept: a person's slip is not to run either."""
    found = ToolCallSchema()(answer.draft, judged_as(request.contexts["large"], answer)) or ()
    faults = [f"{v.code}{f' at {v.path}' if v.path else ''}: {v.reason}" for v in found if v.hard]
    if faults:
        msg = f"a call cannot be made ({'; '.join(faults)})"
        raise ValueError(msg)
    return answer


# ---- the record -----------------------------------------------------------------------------------------------------


def _reviewed(trace: StepTrace, answer: Answer | None, best: Answer | None) -> StepTrace:
    """Return the record of a step that a human decided; an answer of his own is an attempt that costs nothing."""
    if answer is None:
        return replace(trace, outcome="human_review", final=None)
    if answer is best:
        final = trace.decisions[-1].attempt
        confidence = None if final is None else trace.attempts[final].confidence
        return replace(trace, outcome="human_review", final=final, confidence=confidence)
    own = Attempt(tier="human", outcome="accepted", usage=NOTHING, cost=0.0, answer=answer.draft.to_json())
    return replace(trace, outcome="human_review", attempts=(*trace.attempts, own), final=len(trace.attempts))


def record_review(request: StepRequest, trace: StepTrace) -> None:
    """Write the record of a reviewed step: its line in the journal, and a span of its own.

    The resumed run is another trace than the one that was interrupted; the cost stands on the span of that one.
    """
    span = telemetry.start_step(trace.step, policy=request.policy.version, thread_id=trace.thread_id, run=request.run)
    telemetry.end_step(span, replace(trace, cost=None))
    append(request.journal, trace, request.contexts["small"].messages)
