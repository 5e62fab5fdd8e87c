"""Play multi-turn agent tasks with your pair of models: does a cascade pay?

    python benchmarks/agents.py [--small M --large M] [--base-url URL] [--small-base-url URL]
                                [--small-price IN,OUT] [--large-price IN,OUT] [--categories base,miss_param]
                                [--tasks N] [--seed 0] [--jobs 4] [--margin .03] [--json]

The tasks, their tools and the checker are those of the package `bfcl-eval` (Apache-2.0; `make agents` installs it
apart). A task is a few turns of a user over stateful tools; its checker compares the state and the results after each
turn with the truth. Each task is played in a LangGraph loop (model, tools in the order of the calls, until an answer
without a call) in four ways, with the same tools and at most 20 steps a turn:

    small     the small model alone
    large     the large model alone
    by hand   small; a JSON Schema check of its calls; else large
    cascade   `CascadeChatModel(small, large)` with its defaults

First the truth is played through the same loop: where that does not succeed in every task, nothing else is measured.

`--small` and `--large` are provider strings of `init_chat_model` ("openai:gpt-4o-mini"); with `--base-url` they are
names of models at an OpenAI-compatible server. Prices (per million tokens) come from the price table unless given. A
call to a tool that the task does not have, or with arguments that are no JSON, is answered with an error and not run.

Without models a stand-in pair plays: a SIMULATION. Each step is the truth's, but for errors drawn with declared rates
(`--small-rates skip=.05,argument=.03`): `skip` leaves a call out (at the end of a turn: claims to be done), `argument`
has a wrong value of the right type, `announce` says what it will do and stops, `malformed` is cut-off JSON, a missing
argument, a wrong type or no such tool, `guess` calls where the user has yet to say something, `unmended` (of a call
that was answered with an error) ends the turn as though done. `--shared` is the share of places where what is hard for
one model is hard for both. It says how the judge does on such errors, and nothing about your models.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import sys
import tempfile
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonschema import Draft202012Validator
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.errors import GraphRecursionError
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import tools_condition

from cascade_agent import CascadeChatModel, Price, Tier
from cascade_agent.core.records import Usage
from cascade_agent.testing import ScriptedChatModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Json = dict[str, Any]
CATEGORIES = ("base", "miss_func", "miss_param", "long_context")
WAYS = ("small", "large", "by hand", "cascade")
STEPS = 20
"""Most steps of a turn, as in the package."""
TOO_MANY = "too many steps"
SMALL_RATES = {"skip": 0.04, "argument": 0.04, "announce": 0.03, "malformed": 0.03, "guess": 0.3, "unmended": 0.4}
LARGE_RATES = {"skip": 0.01, "argument": 0.015, "announce": 0.005, "malformed": 0.002, "guess": 0.1, "unmended": 0.1}
"""Declared, not measured: a pair in which small fails in about four tasks of nine, large in one of eight."""
SHARED = 0.5
PRICES = {"small": Price(0.1, 0.4), "large": Price(1.0, 4.0)}
"""Prices of the stand-in pair, declared: large costs ten times as much."""
DRAWS = 2000
"""Resamples of the tasks."""


# ---- tasks ----------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call of a tool."""

    name: str
    args: Json


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of the package."""

    entry: Json
    truth: list[list[str]]
    more_tools_prompt: str

    @property
    def id(self) -> str:
        """Its name in the package."""
        return str(self.entry["id"])

    @cached_property
    def documents(self) -> list[list[Json]]:
        """The documents of the tools on offer, by turn."""
        offered, out = list(self.entry["function"]), []
        for turn in range(len(self.truth)):
            offered = [*offered, *self.entry.get("missed_function", {}).get(str(turn), [])]
            out.append(offered)
        return out

    def tools(self, turn: int) -> list[Json]:
        """Return the tools on offer in a turn, in OpenAI's form."""
        return [
            {
                "type": "function",
                "function": {
                    "name": document["name"],
                    "description": document["description"],
                    "parameters": schema_of(document["parameters"]),
                },
            }
            for document in self.documents[turn]
        ]

    def request(self, turn: int) -> list[AnyMessage]:
        """Return what is asked in a turn."""
        kinds: dict[str, Any] = {"user": HumanMessage, "system": SystemMessage}
        messages = [kinds[m["role"]](m["content"]) for m in self.entry["question"][turn]]
        return messages or [HumanMessage(self.more_tools_prompt)]

    @cached_property
    def plan(self) -> list[list[list[Call]]]:
        """The true calls by turn and step; about every fourth step has two, in a turn that is too long every one."""
        out = []
        names = {d["name"]: list(d["parameters"]["properties"]) for d in self.documents[-1]}
        for turn, texts in enumerate(self.truth):
            steps: list[list[Call]] = []
            for at, text in enumerate(texts):
                two = len(texts) > STEPS or random.Random(f"{self.id} {turn} {at}").random() < 0.3
                joined = two and steps and len(steps[-1]) == 1
                call = parsed(text, names)
                steps = [*steps[:-1], [*steps[-1], call]] if joined else [*steps, [call]]
            out.append(steps)
        return out


def schema_of(document: Json) -> Json:
    """Return the JSON Schema that a document of the package means; a property *named* `type` is data."""
    out = dict(document)
    kind = {"dict": "object", "float": "number", "tuple": "array", "any": None}.get(
        out.get("type", ""), out.get("type")
    )
    out.pop("type", None)
    if kind:
        out["type"] = kind
    if "properties" in out:
        out["properties"] = {name: schema_of(inner) for name, inner in out["properties"].items()}
    if isinstance(out.get("items"), dict):
        out["items"] = schema_of(out["items"])
    return out


def parsed(text: str, names: Mapping[str, list[str]]) -> Call:
    """Return a call of the truth, `f(x, k=v)`, with all of its arguments by name."""
    call: Any = ast.parse(text.strip(), mode="eval").body
    args = {names[call.func.id][at]: ast.literal_eval(value) for at, value in enumerate(call.args)}
    args |= {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return Call(call.func.id, args)


def load(categories: Sequence[str], number: int | None, seed: int) -> list[Task]:
    """Read tasks from the installed package, drawn where fewer than all are wanted."""
    os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp(prefix="bfcl-"))  # it makes folders at import
    try:
        from bfcl_eval.constants.default_prompts import DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC as MORE
        from bfcl_eval.utils import load_dataset_entry, load_ground_truth_entry
    except ImportError as error:
        msg = f"bfcl-eval is not installed ({error}): `make agents`, or pip install --no-deps bfcl-eval mpmath filelock"
        raise SystemExit(msg) from error
    tasks = []
    for category in categories:
        entries = load_dataset_entry(f"multi_turn_{category}")
        truths = {t["id"]: t["ground_truth"] for t in load_ground_truth_entry(f"multi_turn_{category}")}
        tasks += [Task(entry=entry, truth=truths[entry["id"]], more_tools_prompt=MORE) for entry in entries]
    if number is None or number >= len(tasks):
        return tasks
    return sorted(random.Random(f"tasks {seed}").sample(tasks, number), key=lambda task: task.id)


# ---- the stand-in: the truth with errors drawn ----------------------------------------------------------------------

AIM = re.compile(r"t(\d+)_(\d+)_(\d+)_")
"""The id of a call names turn, step and call of the plan that it is aimed at."""


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """Answers as the truth does, but for the errors that are drawn for each place of the plan.

    A place has the same draw however often and by whichever way it is asked. What an earlier answer left out is not
    made up for: whoever takes over goes on behind it.
    """

    task: Task
    tier: str
    rates: Mapping[str, float]
    seed: int = 0
    shared: float = SHARED
    drawn: list[str] = field(default_factory=list)
    """What each answer was: `right`, or the error that was drawn."""

    def __call__(self, messages: list[Any]) -> AIMessage:
        """Return the answer to a request."""
        message = self._answer(messages)
        length = sum(len(str(m.content)) + len(str(getattr(m, "tool_calls", ""))) for m in messages)
        length += len(json.dumps(self.task.documents[self._turn(messages)]))
        output = len(message.text) + len(json.dumps([*message.tool_calls, *message.invalid_tool_calls]))
        used = {"input_tokens": length // 4, "output_tokens": max(1, output // 4)}
        return message.model_copy(update={"usage_metadata": {**used, "total_tokens": sum(used.values())}})

    def _turn(self, messages: list[Any]) -> int:
        return sum(m.type == "human" for m in messages) - 1

    def _draw(self, *place: object) -> tuple[float, random.Random]:
        """Return how hard a place is for this model (near 0: an error), and a generator for the error's details."""
        name = " ".join(map(str, (self.seed, self.task.id, *place)))
        common, own = random.Random(name), random.Random(f"{name} {self.tier}")
        both, hard = common.random() < self.shared, common.random()
        return (hard if both else own.random()), own

    def _answer(self, messages: list[Any]) -> AIMessage:
        turn = self._turn(messages)
        since = messages[max(at for at, m in enumerate(messages) if m.type == "human") + 1 :]
        number, steps = len(messages), self.task.plan[turn]
        last = next((m for m in reversed(since) if m.type == "ai"), None)
        if last is None and not steps:
            return self._unanswerable(turn, number)
        results = [m for m in since if m.type == "tool"]
        failed = self._failed(last, {m.tool_call_id: m for m in results}) if last is not None else []
        if failed:
            if self._draw("mend", turn, *failed[0])[0] < self.rates["unmended"]:
                self.drawn.append("unmended")
                return done([])
            self.drawn.append("right")
            return calling(((turn, step, at), steps[step][at]) for step, at in failed).numbered(number)
        tried = [int(found[2]) for m in since for c in calls_of(m) if (found := AIM.match(c["id"] or ""))]
        at = max(tried, default=-1) + 1
        if at >= len(steps):
            self.drawn.append("right")
            return done(results)
        return self._step(turn, at, results).numbered(number)

    def _failed(self, last: Any, results: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Return the places of the last step whose calls were not the true ones, and were answered with an error."""
        out = []
        for call in calls_of(last):
            found, result = AIM.match(call["id"]), results.get(call["id"])
            if found is None or result is None or not is_error(result.text):
                continue
            turn, step, at = map(int, found.groups())
            if step < len(self.task.plan[turn]) and self.task.plan[turn][step][at] != (call["name"], call["args"]):
                out.append((step, at))
        return out

    def _unanswerable(self, turn: int, number: int) -> AIMessage:
        """Return the answer to a turn in which nothing can be done yet."""
        hard, rng = self._draw("step", turn, 0)
        later = next((steps[0][0] for steps in self.task.plan[turn:] if steps), None)
        wrong = later is not None and hard < self.rates["guess"]
        self.drawn.append("guess" if wrong else "right")
        if later is None or not wrong:
            return AIMessage("I cannot do that yet. Could you give me what is missing?")
        return calling([((turn, 0, 0), wrong_value(later, self.task, rng))]).numbered(number)

    def _step(self, turn: int, at: int, results: list[Any]) -> Calling:
        steps = self.task.plan[turn]
        hard, rng = self._draw("step", turn, at)
        kind = "right"
        for name in ("malformed", "argument", "skip", "announce"):
            if hard < self.rates[name]:
                kind = name
                break
            hard -= self.rates[name]
        ends = kind == "skip" and at + 1 >= len(steps)
        self.drawn.append("skip, ends the turn" if ends else kind)
        if kind == "announce":
            return Calling(AIMessage(f"I will now {words(steps[at][0].name)}."))
        if kind == "skip":
            at += 1
            if ends:
                return Calling(done(results))
        step = list(steps[at])
        which = rng.randrange(len(step))
        if kind == "argument":
            true, step[which] = step[which], wrong_value(step[which], self.task, rng)
            if step[which] == true:  # it has no arguments
                self.drawn[-1] = "right"
        aimed = [((turn, at, number), call) for number, call in enumerate(step)]
        if kind == "malformed":
            return malformed(aimed, which, self.task, rng)
        return calling(aimed)


Place = tuple[int, int, int]


class Calling(NamedTuple):
    """A message whose calls still want ids that no earlier message has."""

    message: AIMessage

    def numbered(self, number: int) -> AIMessage:
        """Return the message, its ids ended by a number."""
        named = {
            key: [{**call, "id": f"{call['id']}{number}"} for call in getattr(self.message, key)]
            for key in ("tool_calls", "invalid_tool_calls")
        }
        return self.message.model_copy(update=named)


def calling(aimed: Any) -> Calling:
    """Return a message with calls for places of the plan."""
    calls = [
        {"name": call.name, "args": call.args, "id": f"t{turn}_{step}_{at}_", "type": "tool_call"}
        for (turn, step, at), call in aimed
    ]
    return Calling(AIMessage("", tool_calls=calls))


def malformed(aimed: list[tuple[Place, Call]], which: int, task: Task, rng: random.Random) -> Calling:
    """Return the calls, one of which cannot be run as it stands."""
    place, call = aimed[which]
    required = next(d["parameters"].get("required", []) for d in task.documents[-1] if d["name"] == call.name)
    kind = rng.choice(("cut", "missing", "type", "tool") if required else ("cut", "tool"))
    if kind == "cut":
        text = json.dumps(call.args or {"": 1})
        rest = calling(item for item in aimed if item[0] != place).message
        cut = {"name": call.name, "args": text[:-2], "id": "t{}_{}_{}_".format(*place), "error": None}
        return Calling(rest.model_copy(update={"invalid_tool_calls": [{**cut, "type": "invalid_tool_call"}]}))
    key = rng.choice(required) if required else ""
    broken = {
        "missing": Call(call.name, {k: v for k, v in call.args.items() if k != key}),
        "type": Call(call.name, {**call.args, key: {"value": str(call.args.get(key))}}),
        "tool": Call(f"{call.name}_now", call.args),
    }[kind]
    return calling([*aimed[:which], (place, broken), *aimed[which + 1 :]])


def wrong_value(call: Call, task: Task, rng: random.Random) -> Call:
    """Return the call with one wrong value of the right type; a call without arguments as it is."""
    if not call.args:
        return call
    key = rng.choice(list(call.args))
    return Call(call.name, {**call.args, key: changed(call.args[key], task, rng)})


def changed(value: Any, task: Task, rng: random.Random) -> Any:
    """Return another value of the same type: half of the texts are others of the task, half are misspelt."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((value + 1, value * 10 or 10))
    if isinstance(value, list):
        return value[:-1] if len(value) > 1 else [*value, *value] or ["other"]
    if isinstance(value, dict):
        return {key: changed(inner, task, rng) for key, inner in value.items()} or {"other": 1}
    others = [v for turn in task.plan for s in turn for c in s for v in c.args.values() if isinstance(v, str)]
    others = sorted({other for other in others if other != value})
    return rng.choice(others) if others and rng.random() < 0.5 else (value[:-1] if len(value) > 3 else f"{value}_1")


def done(results: list[Any]) -> AIMessage:
    """Return the text of a turn that is over, or that is passed off as over."""
    return AIMessage(f"Done. {results[-1].text[:120]}" if results else "Done, that is taken care of.")


def words(name: str) -> str:
    """Return the name of a tool as words."""
    return name.replace("_", " ")


def calls_of(message: Any) -> list[Json]:
    """Return all calls of a message, cut-off ones too."""
    return [*getattr(message, "tool_calls", ()), *getattr(message, "invalid_tool_calls", ())]


def is_error(text: str) -> bool:
    """Return whether a result of the package's tools is an error."""
    return text.startswith(("Error", '{"error"'))


# ---- the loop -------------------------------------------------------------------------------------------------------


class World:
    """The tools of one play of a task, with their state."""

    def __init__(self, task: Task, name: str) -> None:
        self.task = task
        self.name = "w" + re.sub(r"\W", "_", f"{name}_{uuid.uuid4().hex}")  # becomes part of a Python identifier
        self.steps: list[list[list[str]]] = []

    def start_turn(self) -> None:
        """Start the record of a turn."""
        self.steps.append([])

    def run(self, calls: Sequence[Any], broken: Sequence[Any]) -> list[ToolMessage]:
        """Run calls in their order, one after the other: the tools have a state."""
        offered = {document["name"] for document in self.task.documents[-1]}  # in one task the truth is early, too
        ran, out = [], []
        for call in calls:
            fits = call["name"] in offered and all(key.isidentifier() for key in call["args"])
            if fits:
                text = f"{call['name']}({', '.join(f'{key}={value!r}' for key, value in call['args'].items())})"
                ran.append(text)
                result = self._execute([text])[0]
            else:
                result = f"Error: there is no tool {call['name']!r} with such arguments"
            out.append(ToolMessage(result, tool_call_id=call["id"], name=call["name"]))
        out += [
            ToolMessage("Error: the arguments are no JSON", tool_call_id=call["id"], name=call["name"])
            for call in broken
        ]
        self.steps[-1].append(ran)
        return out

    def _execute(self, texts: list[str]) -> list[str]:
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call

        entry = self.task.entry
        results, _ = execute_multi_turn_func_call(
            texts,
            entry["initial_config"],
            entry["involved_classes"],
            self.name,
            entry["id"],
            long_context="long_context" in entry["id"],
        )
        return list(results)

    def succeeded(self) -> bool:
        """Return the verdict of the package's checker."""
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

        entry = self.task.entry
        category = entry["id"].rsplit("_", 1)[0]
        return bool(multi_turn_checker(self.steps, self.task.truth, entry, category, self.name)["valid"])

    def close(self) -> None:
        """Forget the state: the package keeps it in its module, by name."""
        from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils

        for name in [name for name in vars(multi_turn_utils) if self.name in name]:
            del vars(multi_turn_utils)[name]


class Meter(BaseCallbackHandler):
    """Counts calls and tokens of one model."""

    def __init__(self, tier: Tier) -> None:
        self.tier, self.calls, self.cost = tier, 0, 0.0
        self.known = True

    def on_llm_end(self, response: Any, **_: Any) -> None:
        """Count an answer."""
        message = response.generations[0][0].message
        answered_by = message.response_metadata.get("model_name")
        cost = self.tier.cost(Usage.of(message), answered_by=answered_by)
        self.calls += 1
        self.cost += cost or 0.0
        self.known &= cost is not None


def agent_of(way: str, tiers: Mapping[str, Tier], tools: list[Json]) -> Callable[[list[AnyMessage]], Any]:
    """Return how a way answers a request."""
    if way == "cascade":
        cascade = CascadeChatModel(small=tiers["small"], large=tiers["large"])
        return cascade.bind_tools(tools).invoke
    bound: dict[str, Any] = {role: tier.base.bind_tools(tools) for role, tier in tiers.items()}
    if way != "by hand":
        return bound[way].invoke  # type: ignore[no-any-return]
    checks = {t["function"]["name"]: Draft202012Validator(t["function"]["parameters"]) for t in tools}

    def by_hand(messages: list[AnyMessage]) -> Any:
        draft = bound["small"].invoke(messages)
        fits = all(c["name"] in checks and checks[c["name"]].is_valid(c["args"]) for c in draft.tool_calls)
        return draft if fits and not draft.invalid_tool_calls else bound["large"].invoke(messages)

    return by_hand


def loop_of(ask: Callable[[list[AnyMessage]], Any], world: World) -> Any:
    """Build the graph of a turn."""

    def agent(state: MessagesState) -> Any:
        return {"messages": [ask(state["messages"])]}

    def tools(state: MessagesState) -> Any:
        last: Any = state["messages"][-1]
        return {"messages": world.run(last.tool_calls, last.invalid_tool_calls)}

    def after(state: MessagesState) -> str:
        broken = getattr(state["messages"][-1], "invalid_tool_calls", ())
        return "tools" if broken else tools_condition(state)  # type: ignore[arg-type]

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("tools", tools)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", after, ["tools", "__end__"])
    builder.add_edge("tools", "agent")
    return builder.compile()


@dataclass(frozen=True, kw_only=True)
class Played:
    """A task as a way played it; a cost of None is unknown, `fault` is what broke it off."""

    success: bool
    cost: float | None
    calls: Mapping[str, int]
    fault: str | None = None
    drafts: Mapping[tuple[str, bool], int] = field(default_factory=dict)
    """Drafts of a stand-in by what they were and whether the cascade asked large."""


def play(task: Task, way: str, pair: Callable[[Task], dict[str, Tier]]) -> Played:
    """Play a task in a way."""
    tiers = pair(task)
    meters = {role: Meter(tier) for role, tier in tiers.items()}
    for role, meter in meters.items():
        tiers[role].base.callbacks = [meter]
    world, messages, fault = World(task, way), [], None
    drafts: Counter[tuple[str, bool]] = Counter()
    try:
        for turn in range(len(task.truth)):
            world.start_turn()
            ask = agent_of(way, tiers, task.tools(turn))
            graph = loop_of(counted(ask, tiers["small"], drafts) if way == "cascade" else ask, world)
            messages = graph.invoke({"messages": [*messages, *task.request(turn)]}, {"recursion_limit": 2 * STEPS + 1})[
                "messages"
            ]
        success = world.succeeded()
    except GraphRecursionError:
        success, fault = False, TOO_MANY
    except Exception as error:
        success, fault = False, f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        world.close()
    cost = sum(m.cost for m in meters.values()) if all(m.known for m in meters.values()) else None
    return Played(success=success, cost=cost, calls={r: m.calls for r, m in meters.items()}, fault=fault, drafts=drafts)


def counted(ask: Callable[[Any], Any], small: Tier, drafts: Counter[tuple[str, bool]]) -> Callable[[Any], Any]:
    """Count what the drafts of a small stand-in were, and which of them the cascade did not accept."""
    stand_in = small.base.replies[0] if isinstance(small.base, ScriptedChatModel) else None

    def counting(messages: Any) -> Any:
        before = len(stand_in.drawn) if isinstance(stand_in, StandIn) else 0
        message = ask(messages)
        if isinstance(stand_in, StandIn) and len(stand_in.drawn) > before:
            drafts[stand_in.drawn[-1], message.response_metadata["cascade"]["escalated"]] += 1
        return message

    return counting


# ---- what it says ---------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """An estimate with the interval that holds it with 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(pairs: Sequence[tuple[float, float]], figure: Callable[[float, float], float], seed: int) -> Interval:
    """Return a figure of two sums over the tasks, bootstrapped over the tasks: both of a task are drawn together."""
    rng, draws = random.Random(seed), []
    for _ in range(DRAWS):
        drawn = rng.choices(pairs, k=len(pairs))
        draws.append(figure(sum(a for a, _ in drawn), sum(b for _, b in drawn)))
    draws.sort()
    whole = figure(sum(a for a, _ in pairs), sum(b for _, b in pairs))
    return Interval(whole, draws[int(0.025 * DRAWS)], draws[int(0.975 * DRAWS) - 1])


def compared(one: Sequence[Played], other: Sequence[Played], seed: int) -> dict[str, Interval | None]:
    """Return how much more often a way succeeds than another one, and its share of the other's cost."""
    number = len(one)
    success = interval(
        [(a.success, b.success) for a, b in zip(one, other, strict=True)], lambda a, b: (a - b) / number, seed
    )
    costs = [(a.cost, b.cost) for a, b in zip(one, other, strict=True)]
    known = all(a is not None and b is not None for a, b in costs) and any(b for _, b in costs)
    share = interval(costs, lambda a, b: a / b if b else float("inf"), seed) if known else None  # type: ignore[arg-type]
    return {"success": success, "cost": share}


def answer(against: Mapping[str, Mapping[str, Interval | None]], margin: float) -> str:
    """Say whether a cascade pays, given how it compares with each other way."""
    small, large, cost = against["small"]["success"], against["large"]["success"], against["large"]["cost"]
    assert small is not None
    assert large is not None
    if cost is None:
        return "Costs are unknown (no price, or no usage was reported): give --small-price and --large-price."
    cases = (
        (small.high <= margin, f"NO. Small alone is better: the cascade gains {small} in success and costs more."),
        (small.low <= 0, f"NOT DECIDED, not even against small alone: the cascade gains {small}. Play more tasks."),
        (
            large.low >= -margin and cost.high < 1,
            f"YES. Success differs from large alone by {large}, within the margin of {margin}, at {cost} of its cost.",
        ),
        (large.low > 0, f"YES, where success counts: it gains {large} over large alone, at {cost} of its cost."),
        (
            large.high < 0,
            f"NO, where success counts. Large alone is better: the cascade loses {large}, at {cost} of its cost.",
        ),
        (cost.low >= 1, f"NO. Large alone is better: the cascade costs {cost} of it, success differs by {large}."),
        (
            True,
            (
                f"NOT DECIDED. Success differs from large alone by {large} at {cost} of its cost; a loss of more than "
                f"{margin} is not ruled out: play more tasks, or give the loss that you accept as --margin."
            ),
        ),
    )
    return next(text for holds, text in cases if holds)


def by_hand_too(found: Mapping[str, Interval | None]) -> str:
    """Say how the cascade compares with the hand-written one."""
    success, cost = found["success"], found["cost"]
    assert success is not None
    if success.low > 0:
        verdict = "better than"
    elif success.high < 0:
        verdict = "worse than"
    else:
        verdict = "as good, as far as these tasks can say, as"
    return f"The cascade is {verdict} the one written by hand: success {success}, cost {cost} of it."


def measure(tasks: list[Task], pair: Callable[[Task], dict[str, Tier]], *, jobs: int) -> dict[str, list[Played]]:
    """Play every task in every way."""
    with ThreadPoolExecutor(jobs) as pool:
        return {way: list(pool.map(lambda task, way=way: play(task, way, pair), tasks)) for way in WAYS}


def play_truth(tasks: list[Task]) -> int:
    """Play the truth through the same loop; return how many tasks succeed."""
    none = dict.fromkeys(SMALL_RATES, 0.0)
    plays = [play(task, "small", stand_ins({"small": none, "large": none}, 0, 0.0)) for task in tasks]
    for fault in dict.fromkeys(p.fault for p in plays if p.fault):
        print(f"the truth: {fault}", file=sys.stderr)
    return sum(p.success for p in plays)


def report(found: Mapping[str, list[Played]], margin: float, seed: int) -> Json:
    """Return all figures."""
    rows = {}
    for way, plays in found.items():
        costs = [p.cost for p in plays]
        rows[way] = {
            "success": sum(p.success for p in plays) / len(plays),
            "cost": None if None in costs else sum(costs),  # type: ignore[arg-type]
            "calls": {role: sum(p.calls[role] for p in plays) / len(plays) for role in ("small", "large")},
            "against_large": compared(plays, found["large"], seed),
            "faults": dict(Counter(p.fault for p in plays if p.fault).most_common(3)),
        }
    against = {way: compared(found["cascade"], found[way], seed) for way in WAYS if way != "cascade"}
    return {
        "tasks": len(found["cascade"]),
        "ways": rows,
        "cascade_against": against,
        "answer": broken_off(found) or answer(against, margin),
        "by_hand": by_hand_too(against["by hand"]),
        "drafts": drafts_of(found["cascade"]),
    }


def broken_off(found: Mapping[str, list[Played]]) -> str | None:
    """Say that nothing was measured where more than one task in twenty was broken off by a model that failed."""
    for way, plays in found.items():
        faults = Counter(p.fault for p in plays if p.fault and p.fault != TOO_MANY)
        if 20 * sum(faults.values()) > len(plays):
            number, fault = sum(faults.values()), faults.most_common(1)[0][0]
            return f"NOT MEASURED. {number} of {len(plays)} tasks of `{way}` broke off: {fault}"
    return None


def drafts_of(plays: Sequence[Played]) -> dict[str, Json]:
    """Return how many drafts of the stand-in there were of each kind, and how many of them escalated."""
    total: Counter[tuple[str, bool]] = sum((Counter(p.drafts) for p in plays), Counter())
    kinds = sorted({kind for kind, _ in total}, key=lambda kind: (kind != "right", kind))
    return {kind: {"drafts": total[kind, True] + total[kind, False], "escalated": total[kind, True]} for kind in kinds}


def show(out: Json) -> None:
    """Print the table."""
    print(f"truth through the same loop: {out['truth']} of {out['tasks']} tasks")
    print(
        "| way | success | against large | cost | of large's | calls a task: small, large |\n|---|---|---|---|---|---|"
    )
    for way, row in out["ways"].items():
        cost = "unknown" if row["cost"] is None else f"{row['cost']:.4f}"
        more, share = row["against_large"]["success"], row["against_large"]["cost"]
        calls = f"{row['calls']['small']:.1f}, {row['calls']['large']:.1f}"
        print(f"| {way} | {row['success']:.3f} | {more} | {cost} | {share or 'unknown'} | {calls} |")
        for fault, number in row["faults"].items():
            print(f"  {way}: {number} tasks broke off: {fault}", file=sys.stderr)
    for kind, row in out["drafts"].items():
        print(f"  {kind}: {row['escalated']} of {row['drafts']} drafts of small escalated")
    print(f"Does a cascade pay? {out['answer']}\n{out['by_hand']}")


# ---- pairs of models ------------------------------------------------------------------------------------------------


def stand_ins(rates: Mapping[str, Mapping[str, float]], seed: int, shared: float) -> Callable[[Task], dict[str, Tier]]:
    """Return how to make the stand-in pair for a task."""

    def pair(task: Task) -> dict[str, Tier]:
        return {
            role: Tier(
                ScriptedChatModel(
                    [StandIn(task=task, tier=role, rates=rates[role], seed=seed, shared=shared)], name=role, loop=True
                ),
                price=PRICES[role],
            )
            for role in ("small", "large")
        }

    return pair


def live(given: argparse.Namespace) -> Callable[[Task], dict[str, Tier]]:
    """Return how to make the pair of models that was named."""
    from langchain.chat_models import init_chat_model

    urls = {"small": given.small_base_url or given.base_url, "large": given.base_url}
    prices = {role: price_from(getattr(given, f"{role}_price")) for role in urls}

    def tier(role: str) -> Tier:
        name, url = getattr(given, role), urls[role]
        if not url:
            return Tier(init_chat_model(name), price=prices[role])
        key = os.environ.get("OPENAI_API_KEY", "none")
        model = init_chat_model(name.removeprefix("openai:"), model_provider="openai", base_url=url, api_key=key)
        return Tier(model, price=prices[role])

    return lambda _task: {role: tier(role) for role in urls}


def price_from(text: str | None) -> Price | None:
    """Read a price, `IN,OUT` per million tokens."""
    return None if text is None else Price(*map(float, text.split(",")))


def rates_from(text: str, default: Mapping[str, float]) -> dict[str, float]:
    """Read rates, `skip=.05,argument=.03`, over the default ones."""
    given = {key: float(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)}
    if unknown := set(given) - set(default):
        msg = f"unknown rates {sorted(unknown)}; expected some of {sorted(default)}"
        raise SystemExit(msg)
    return {**default, **given}


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small")
    parser.add_argument("--large")
    parser.add_argument("--base-url")
    parser.add_argument("--small-base-url", help="where only the small model is")
    parser.add_argument("--small-price", metavar="IN,OUT")
    parser.add_argument("--large-price", metavar="IN,OUT")
    parser.add_argument("--categories", default="base,miss_param")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--margin", type=float, default=0.03, help="loss of success that counts as none")
    parser.add_argument("--small-rates", default="")
    parser.add_argument("--large-rates", default="")
    parser.add_argument("--shared", type=float, default=SHARED)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if bool(given.small) != bool(given.large):
        parser.error("give both --small and --large, or neither for the simulation")
    if unknown := set(given.categories.split(",")) - set(CATEGORIES):
        parser.error(f"unknown categories {sorted(unknown)}; expected some of {', '.join(CATEGORIES)}")
    return given


def run(given: argparse.Namespace) -> Json:
    """Play and return all figures."""
    tasks = load(given.categories.split(","), given.tasks, given.seed)
    truth = play_truth(tasks)
    if truth < len(tasks):
        msg = f"the truth succeeds in {truth} of {len(tasks)} tasks only: nothing measured here would mean anything"
        raise SystemExit(msg)
    out: Json = {"simulation": not given.small, "seed": given.seed, "truth": truth}
    if given.small:
        out |= {"small": given.small, "large": given.large}
        pair = live(given)
    else:
        rates = {
            "small": rates_from(given.small_rates, SMALL_RATES),
            "large": rates_from(given.large_rates, LARGE_RATES),
        }
        out |= {"rates": rates, "shared": given.shared}
        pair = stand_ins(rates, given.seed, given.shared)
    return out | report(measure(tasks, pair, jobs=given.jobs if given.small else 1), given.margin, given.seed)


def main() -> None:
    """Play and print."""
    given = options()
    out = run(given)
    if given.json:
        print(json.dumps(out))
        return
    if out["simulation"]:
        print("SIMULATION: a stand-in pair, errors drawn with declared rates; it says nothing about your models.")
        for role, rates in out["rates"].items():
            print(f"  {role}: {', '.join(f'{name} {rate:g}' for name, rate in rates.items())}")
    show(out)


if __name__ == "__main__":
    main()
