"""The conversation as a stand-in sees it: the user's words, results so far, offered tools, a plan in the prompt."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from graphs.standins.solving import OUTAGE, Args, Ref, Unread, failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ACTIONS: Final = frozenset({"change_address", "cancel_order", "refund_order"})
PLAN_TOOL: Final = "make_plan"
_TRIES: Final = 3
PLAN_MARK: Final = "Plan so far (JSON):"


@dataclass(frozen=True, slots=True)
class Done:
    """One call of the conversation with its result; `turn` counts the user's messages before it."""

    tool: str
    args: Args
    result: Any
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A conversation as read from its messages."""

    turns: tuple[str, ...]
    done: tuple[Done, ...]
    tools: Mapping[str, Mapping[str, Any]]
    """Name of each offered tool with the JSON Schema of its arguments."""
    plan: tuple[dict[str, Any], ...] | None
    last_failed: bool
    digest: str
    seed: int = 0
    """Another seed, other luck on the same words."""

    @classmethod
    def of(cls, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]], seed: int = 0) -> Self:
        """Read the messages; `tools` are in the OpenAI format."""
        turns: list[str] = []
        calls: dict[str, tuple[str, Args]] = {}
        done: list[Done] = []
        plan: tuple[dict[str, Any], ...] | None = None
        digest = hashlib.blake2b(digest_size=16)
        for message in messages:
            digest.update(f"{message.type}\0{message.text}\0".encode())
            if isinstance(message, HumanMessage):
                turns.append(str(message.text))
            elif isinstance(message, SystemMessage):
                plan = _plan(str(message.text)) or plan
            elif isinstance(message, AIMessage):
                digest.update(json.dumps([c["args"] for c in message.tool_calls], sort_keys=True, default=str).encode())
                calls.update({str(c["id"]): (c["name"], c["args"]) for c in message.tool_calls})
            elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
                tool, args = calls[message.tool_call_id]
                done.append(Done(tool, args, _result(message), len(turns)))
        functions = [tool.get("function", tool) for tool in tools]
        last = messages[-1] if messages else None
        return cls(
            turns=tuple(turns),
            done=tuple(done),
            tools={str(f["name"]): f.get("parameters", {}) for f in functions},
            plan=plan,
            last_failed=isinstance(last, ToolMessage) and last.status == "error",
            digest=digest.hexdigest(),
            seed=seed,
        )

    def chance(self, key: str, *parts: str) -> float:
        """Return a number in [0, 1) that depends on the texts and the seed alone: equal words, equal luck."""
        text = "\0".join((key, *parts, *([f"seed {self.seed}"] if self.seed else ())))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64

    @property
    def now(self) -> tuple[Done, ...]:
        """The calls since the user's last message."""
        return tuple(d for d in self.done if d.turn == len(self.turns))

    def recall(self, tool: str, args: Args, *, fresh: bool = False) -> Any | None:
        """The result of a call that was made; an action counts once per order and turn, however it was worded."""
        found: Any | None = None
        for d in self.done:
            if tool in ACTIONS:
                same = d.turn == len(self.turns) and d.tool == tool and d.args.get("order_id") == args.get("order_id")
                if same and (not failed(d.result) or _same(d.args, args)):
                    found = d.result
            elif d.tool == tool and _same(d.args, args):
                found = d.result
            elif (
                fresh and d.tool in ACTIONS and not failed(d.result) and d.args.get("order_id") == args.get("order_id")
            ):
                found = None
        return found

    def ask(self, tool: str, /, *, fresh: bool = False, **args: Any) -> Any:
        """An `Asker` over the conversation: what was not asked yet is the next call."""
        found = self.recall(tool, args, fresh=fresh)
        if found is None:
            raise Unread(tool, args)
        return found

    def ask_again(self, tool: str, /, *, fresh: bool = False, **args: Any) -> Any:
        """Ask as `ask` does, and up to three times what did not answer."""
        found = self.ask(tool, fresh=fresh, **args)
        made = sum(d.tool == tool and _same(d.args, args) for d in self.now)
        if OUTAGE in (failed(found) or "") and made < _TRIES:
            raise Unread(tool, args)
        return found


def _same(a: Args, b: Args) -> bool:
    return _canonical(a) == _canonical(b)


def _canonical(args: Args) -> dict[str, str]:
    return {k: _plain(v) for k, v in args.items() if v is not None and v != "any"}


def _plain(value: Any) -> str:
    try:
        return f"{float(value):.4f}"
    except (TypeError, ValueError):
        return str(value).strip().lower()


def _result(message: ToolMessage) -> Any:
    text = str(message.text)
    if message.status == "error":
        return {"error": text}
    try:
        return json.loads(text)
    except ValueError:
        return {"error": text}


def _plan(text: str) -> tuple[dict[str, Any], ...] | None:
    _, mark, rest = text.partition(PLAN_MARK)
    if not mark:
        return None
    try:
        data, _ = json.JSONDecoder().raw_decode(rest.strip())
    except ValueError:
        return None
    return tuple(data.get("steps", ()))


@dataclass(slots=True)
class Planner:
    """An `Asker` that plans: known results are used, unknown calls become steps whose results are references.

    Args:
        view: the conversation so far.
        first: number of the first new step.
    """

    view: View
    first: int
    steps: list[dict[str, Any]] = field(default_factory=list)
    _made: list[tuple[str, Args]] = field(default_factory=list)

    def __call__(self, tool: str, /, *, fresh: bool = False, **args: Any) -> Any:
        """The result of a call, or a reference to that of a step."""
        written = {k: f"${{{v.path}}}" if isinstance(v, Ref) else v for k, v in args.items()}
        acted = any(t in ACTIONS and a.get("order_id") == written.get("order_id") for t, a in self._made)
        stale = acted and fresh
        if not stale and not any(isinstance(v, Ref) for v in args.values()):
            known = self.view.recall(tool, args, fresh=fresh)
            if known is not None:
                return known
        for index, (made, before) in enumerate(self._made):
            if made == tool and before == written and not stale:
                return Ref(str(self.steps[index]["id"]))
        number = f"s{self.first + len(self.steps)}"
        needs = sorted({v.path.partition(".")[0] for v in args.values() if isinstance(v, Ref)})
        if stale:
            needs = sorted({*needs, *(str(s["id"]) for s in self.steps)})
        self.steps.append({"id": number, "tool": tool, "description": "", "args": written, "depends_on": needs})
        self._made.append((tool, written))
        return Ref(number)
