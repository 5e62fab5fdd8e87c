"""Two offline stand-in chat models for a machine without keys: deterministic, rule-based, and honest about it.

They are **not language models** and no figure from them says anything about one. They really read the conversation
(request, tool results, offered tools, a plan in the prompt), decide with the rules of `reading` and `solving`, and
really err: the small one by its narrower reading and the faults of `faults`, the large one seldom. They know no task,
no expected answer and no database. Limits of both: the vocabulary of an order desk; the large one reads English and
some German, French and Spanish, the small one English only; answers are in English.

Tokens in `usage_metadata` are counted from the real messages: characters / 4, rounded up, of every message's text and
calls and of the offered tools' JSON on the way in, of the answer's text and calls on the way out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final, Literal

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from cascade_agent import Price, Tier
from graphs.standins import documents, faults, repair
from graphs.standins.reading import read
from graphs.standins.solving import Skills, Unknowable, Unread, solve
from graphs.standins.view import PLAN_TOOL, Planner, View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from graphs.standins.reading import Request
    from graphs.standins.solving import Asker

SMALL_PRICE: Final = Price(0.2, 0.8, source="made up for the offline stand-ins")
LARGE_PRICE: Final = Price(2.0, 8.0, source="made up for the offline stand-ins")
"""Made-up list prices, per million of the stand-ins' own tokens, ten to one."""

Strength = Literal["small", "large"]

_REF = re.compile(r"^\$\{([\w-]+)\.([\w.]+)\}$")
_DONE = "All steps of the plan are done."
_CHARACTERS_PER_TOKEN = 4


class StandInModel(BaseChatModel):
    """One stand-in. `strength` decides how well it reads and how often it errs."""

    strength: Strength
    model_name: str
    seed: int = 0
    """Another seed draws other faults on the same words."""

    @property
    def _llm_type(self) -> str:
        return "offline-stand-in"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "strength": self.strength, "seed": self.seed}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools; `tool_choice` as OpenAI has it."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        tools: Sequence[dict[str, Any]] = (),
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager, kwargs
        view = View.of(messages, tools, self.seed)
        message = self._message(self._reply(view), view)
        spent_in = tokens(_written(messages)) + (tokens(json.dumps(list(tools))) if tools else 0)
        spent_out = max(1, tokens(_written([message])))
        message.usage_metadata = {
            "input_tokens": spent_in,
            "output_tokens": spent_out,
            "total_tokens": spent_in + spent_out,
        }
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        return self._generate(messages, stop, **kwargs)

    def _reply(self, view: View) -> faults.Reply:
        skills = self._skills(view)
        small = self.strength == "small"
        record = documents.record_tool(view)
        if record is not None:
            return faults.Reply(tool=record, args=documents.read_document(view, record, small=small))
        if repair.PATCH_TOOL in view.tools:
            return repair.next_reply(view, small=small)
        request = read(list(view.turns), foreign=not small)
        if PLAN_TOOL in view.tools:
            planner = Planner(view, first=len(view.plan or ()) + 1)
            text = ""
            with contextlib.suppress(Unknowable):
                text = solve(request, planner, skills)
            if planner.steps or view.plan is None:
                steps = faults.spoil_plan(planner.steps, view) if small else planner.steps
                reply = faults.Reply(tool=PLAN_TOOL, args={"steps": steps})
                return reply if not small or view.chance("empty", view.digest) >= 0.04 else faults.Reply()
            reply = faults.Reply(text=text)
        elif view.plan is not None:
            reply = _due(view)
            if not small:
                reply = _repaired(reply, request, view)
        else:
            try:
                reply = faults.Reply(text=solve(request, self._asker(view), skills))
            except Unread as unread:
                reply = faults.Reply(tool=unread.tool, args=unread.arguments)
        if small:
            return faults.spoil(reply, view)
        if reply.text and view.chance("large", view.digest) < 0.03:
            return faults.Reply(text="I have looked into it; everything is in order.")
        return reply

    def _asker(self, view: View) -> Asker:
        stubborn = self.strength == "large" or view.chance("again", view.digest) < 0.5
        return view.ask_again if stubborn else view.ask

    def _skills(self, view: View) -> Skills:
        if self.strength == "large":
            return Skills()
        words = "\n".join(view.turns)
        return Skills(
            checks_owner=False,
            keeps_conditions=view.chance("conditions", words) >= 0.35,
            asks_when_ambiguous=view.chance("ambiguous", words) >= 0.6,
            adds_with_calculator=False,
            checks_dates=False,
            invents_numbers=view.chance("invents", words) < 0.6,
            wrong_sum=view.chance("sum", words) < 0.6,
            goals=1 if view.chance("goals", words) < 0.3 else 9,
        )

    def _message(self, reply: faults.Reply, view: View) -> AIMessage:
        meta: dict[str, Any] = {"model_name": self.model_name, "finish_reason": "length" if reply.cut else "stop"}
        if reply.tool is None:
            return AIMessage(content=reply.text, response_metadata=meta)
        meta["finish_reason"] = "tool_calls"
        number = hashlib.blake2b(f"{view.digest}{self.model_name}{reply.tool}".encode(), digest_size=6).hexdigest()
        name, key = reply.tool, f"call_{number}"
        if reply.broken is not None:
            bad = invalid_tool_call(name=name, args=reply.broken, id=key, error="arguments are not JSON")
            return AIMessage(content="", invalid_tool_calls=[bad], response_metadata=meta)
        return AIMessage(
            content="", tool_calls=[tool_call(name=name, args=reply.args or {}, id=key)], response_metadata=meta
        )


def small_standin(seed: int = 0) -> StandInModel:
    """Return the weaker stand-in."""
    return StandInModel(strength="small", model_name="standin-small", seed=seed)


def large_standin(seed: int = 0) -> StandInModel:
    """Return the stronger stand-in."""
    return StandInModel(strength="large", model_name="standin-large", seed=seed)


def standin_tiers(seed: int = 0) -> tuple[Tier, Tier]:
    """Return both stand-ins, small and large, with their made-up prices."""
    return Tier(small_standin(seed), price=SMALL_PRICE), Tier(large_standin(seed), price=LARGE_PRICE)


def tokens(text: str) -> int:
    """Tokens of a text by the stand-ins' own count: characters / 4, rounded up."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def _written(messages: Sequence[BaseMessage]) -> str:
    parts: list[str] = []
    for message in messages:
        parts.append(str(message.text))
        if isinstance(message, AIMessage):
            parts.extend(f"{call['name']}{json.dumps(call['args'], default=str)}" for call in message.tool_calls)
            parts.extend(f"{bad['name']}{bad['args']}" for bad in message.invalid_tool_calls)
    return "".join(parts)


def _due(view: View) -> faults.Reply:
    """The call of the plan's first open step whose references can be filled in."""
    steps = {str(step["id"]): step for step in view.plan or ()}
    for step in steps.values():
        if step.get("status", "pending") != "pending":
            continue
        args = {key: _filled(value, steps) for key, value in step.get("args", {}).items()}
        return faults.Reply(tool=str(step["tool"]), args=args)
    return faults.Reply(text=_DONE)


def _repaired(reply: faults.Reply, request: Request, view: View) -> faults.Reply:
    """A step that cannot be called as it is planned, completed from the user's own words."""
    if reply.tool is None:
        return reply
    args = reply.args or {}
    required = view.tools.get(reply.tool, {}).get("required", ())
    sound = reply.tool in view.tools and all(key in args for key in required)
    if sound and not any(isinstance(value, str) and _REF.match(value) for value in args.values()):
        return reply
    try:
        solve(request, view.ask, Skills())
    except Unread as unread:
        return faults.Reply(tool=unread.tool, args=unread.arguments)
    return reply


def _filled(value: Any, steps: dict[str, dict[str, Any]]) -> Any:
    match = _REF.match(value) if isinstance(value, str) else None
    if match is None or match[1] not in steps:
        return value
    found: Any = steps[match[1]].get("result")
    for part in match[2].split("."):
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            return value
    return float(found) if isinstance(found, str) and re.fullmatch(r"\d+\.\d\d", found) else found
