"""A program full of secrets: steps of every kind through every adapter, into every exporter. Run by test_privacy.py.

Every secret holds `zqx`; what stands behind that word says where it was planted. Given a folder and the address of a
collector, it leaves what each exporter wrote as a file in the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, Field

from cascade_agent import (
    CascadeChatModel,
    CascadeMiddleware,
    Policy,
    Price,
    Tier,
    Verdict,
    cascade_node,
    swap_node,
    telemetry,
)
from cascade_agent.journal.writer import Journal
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import CrossCheck, Judge, default_validators
from tests.exporting import exporting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_core.runnables import RunnableConfig

Reply = Any


def scrubbed(value: Any) -> Any:
    """JSON without any secret: what a user's `redact` does."""
    if isinstance(value, str):
        return re.sub(r"\S*zqx\S*", "***", value, flags=re.IGNORECASE)
    if isinstance(value, dict):
        return {scrubbed(key): scrubbed(item) for key, item in value.items()}
    return [scrubbed(item) for item in value] if isinstance(value, list) else value


def refuses(text: Any) -> Any:
    """A `redact` that breaks, and says on what."""
    raise ValueError("zqxredact " + str(text)[:2000])


class Journals:
    """A step goes to a journal as it is, to one that is redacted, and to one whose redaction breaks."""

    def __init__(self, out: Path) -> None:
        self.messages = (out / "metadata.jsonl").open("w", encoding="utf-8")
        hooks: dict[str, Any] = {"plain": None, "redacted": scrubbed, "broken": refuses}
        self.all = [Journal(out / f"{name}.jsonl", redact=redact) for name, redact in hooks.items()]

    def append(self, record: Any) -> bool:
        """Write it everywhere, and as it would stand on a message."""
        self.messages.write(json.dumps(record.to_json(content=False)) + "\n")
        written = [journal.append(record) for journal in self.all]
        return all(written)


# ---- questions and answers ----------------------------------------------------------------------------------------
class Order(BaseModel):
    """zqxschemadoc: an order."""

    number: int = Field(description="zqxfielddoc")
    note: str = Field(default="", description="zqxfielddoc")
    extra: dict[str, int] = Field(default_factory=dict)


class Answer(TypedDict):
    """zqxschemadoc."""

    number: int
    people: dict[str, int]


def look(number: int, note: str = "", extra: dict[str, int] | None = None) -> str:
    """Look an order up."""
    if note.startswith("zqxfails"):
        raise RuntimeError(f"zqxtoolerror {note}")
    return f"zqxtoolresult {number} {note} {extra}"


LOOK = StructuredTool.from_function(
    look, name="look", description="zqxtooldoc: look an order up", args_schema=Order, handle_tool_error=True
)
PROPERTIES = {
    "city": {"type": "string", "enum": ["Rome", "zqxenum"], "description": "zqxfielddoc"},
    "people": {"type": "object", "additionalProperties": {"type": "integer"}},
    "mail": {"type": "string", "pattern": "^[a-z]+$", "format": "email"},
    "when": {"type": "string", "format": "date", "maxLength": 10},
    "list": {"type": "array", "items": {"type": "integer", "maximum": 5}},
}
SCHEMA = {"type": "object", "required": ["city"], "properties": PROPERTIES}
PLAIN_TOOL = {"type": "function", "function": {"name": "book", "description": "zqxtooldoc", "parameters": SCHEMA}}


def calling(*calls: dict[str, Any]) -> AIMessage:
    """An answer with calls."""
    made = [{"id": f"zqxcallid{n}", "type": "tool_call", **call} for n, call in enumerate(calls)]
    return AIMessage("", tool_calls=made, response_metadata={"note": "zqxresponsemeta"})


def look_up(**args: Any) -> AIMessage:
    """A call of `look`."""
    return calling({"name": "look", "args": args})


def book(**args: Any) -> AIMessage:
    """A call of `book`."""
    return calling({"name": "book", "args": args})


def raises(error: type[BaseException] = ConnectionError) -> Callable[[list[BaseMessage]], AIMessage]:
    """A model that fails with the request in its message."""

    def reply(messages: list[BaseMessage]) -> AIMessage:
        raise error(f"zqxmodelerror 400 Bad request: {messages[-1].text}")

    return reply


DRAFTS: list[Reply] = [
    "zqxanswer: a fine text",
    "",
    raises(),
    raises(TimeoutError),
    look_up(number=1, note="zqxarg right"),
    look_up(number="zqxarg wrong type"),
    look_up(number=1, **{"zqx arg@name.example": "zqxarg"}),
    look_up(number=1, extra={"zqxkey@mail.example": "zqxarg"}),
    book(city="Rome", mail="zqxarg@mail.example", when="zqxarg long and no date", list=["zqxarg", {"zqxkey": 1}]),
    book(people="zqxarg", nonsense={"zqxkey": "zqxarg"}),
    calling({"name": "zqxnosuchtool", "args": {"zqxkey": "zqxarg"}}),
    calling({"name": "look", "args": {"number": 1}}, {"name": "look", "args": {"number": 1}}),
    AIMessage("", invalid_tool_calls=[{"name": "look", "args": '{"number": zqxarg', "id": "x", "error": "zqxparse"}]),
    AIMessage("zqxanswer cut", response_metadata={"finish_reason": "length", "zqx": "zqxresponsemeta"}),
    AIMessage([{"type": "refusal", "refusal": "zqxrefusal"}, {"type": "text", "text": "zqxanswer"}]),
    'zqxanswer I call look(number=1, note="zqxarg") now. <tool_call>{"name": "look", "arguments": {"n": "zqxarg"}}</tool_call>',
    calling({"name": "make_plan", "args": {"steps": [
        {"id": "zqxplan", "tool": "zqxplantool", "args": {"zqxkey@a b": "${zqxplan9.zqxfield}"}, "depends_on": ["zqxother"]},
        {"id": "zqxplan", "tool": "look", "args": {"number": "${zqxplan9}"}, "depends_on": []},
    ]}}),
]  # fmt: skip
"""What the small model says, step by step; what validators make of stranger answers is a property of its own."""

HISTORY = [
    SystemMessage('zqxsystem Plan so far (JSON): {"steps": [{"id": "s1", "tool": "look", "args": {"number": 1, "note": "zqxplanned"}}]}'),
    HumanMessage('zqxprompt: please look up order 4711 for "zqxquoted name" in zqxcity, 30 % off'),
    look_up(number=2, note="zqxfails in history"),
    ToolMessage("zqxtoolerror: Error: no such zqxthing", tool_call_id="zqxcallid0", status="error"),
    HumanMessage("zqxprompt again: order 4711, mail zqxperson@mail.example"),
]  # fmt: skip


def tier(reply: Reply, name: str = "tiny", price: float = 1.0) -> Tier:
    """A priced model that always answers this."""
    return Tier(ScriptedChatModel(reply, name=name, usage=(100, 10), loop=True), price=Price(price, price))


def breaks(_draft: Any, context: Any) -> Verdict:
    """A validator that breaks, and says on what."""
    raise KeyError(f"zqxvalidatorerror {context.messages[-1].text}")


async def breaks_later(_draft: Any, context: Any) -> Verdict:
    """An asynchronous one."""
    raise ValueError(f"zqxvalidatorerror {context.messages[-1].text}")


def says_nonsense(_draft: Any, _context: Any) -> Any:
    """A validator that returns what none may."""
    return "zqxvalidatorresult"


def always_hard(draft: Any, _context: Any) -> bool:
    """A rule of the user's own that refuses everything."""
    return not draft.text.startswith("zqx never")


CONFIG: RunnableConfig = {
    "configurable": {"thread_id": "thread-1", "user": "zqxconfigurable"},
    "metadata": {"note": "zqxmetadata"},
    "tags": ["zqxtag"],
}
LARGE = look_up(number=4711, note="zqxlarge")


def cascades(journal: Journals) -> Iterator[tuple[str, Any]]:
    """Chat models, each with what makes its step end in another way."""

    def pair(small: Any, large: Any, **settings: Any) -> CascadeChatModel:
        return CascadeChatModel(small=small, large=large, journal=journal, name="desk", **settings)

    tools, spoiled = [LOOK, PLAIN_TOOL], '{"number": "zqxlarge", "people": {"zqxkey": "zqxlarge"}}'
    for reply in DRAFTS:
        again = tier(reply, "huge", 10.0)
        yield "draft", pair(tier(reply), tier(LARGE, "huge", 10.0)).bind_tools(tools)
        yield "both", pair(tier(reply), again, policy=Policy(on_exhausted="raise")).bind_tools(tools)
        typed = pair(tier(reply), tier(spoiled, "huge")).with_structured_output(Answer, method="json_schema")
        yield "structured", typed
        yield "pydantic", pair(tier(reply), again).with_structured_output(Order, include_raw=True)
    large = tier("zqxlarge", "huge")
    checks: list[Any] = [breaks, says_nonsense, always_hard]
    for check in checks:
        for policy in (Policy(), Policy(on_broken="accept"), Policy(handover="feedback")):
            yield "validator", pair(tier("zqxanswer"), large, validators=[check], policy=policy)
    replies = (raises(), "zqxsecond opinion", LARGE), ('{"verdict": "wrong", "reason": "zqxjudged"}', "zqxjudged")
    checked = [CrossCheck(tier(reply, "second")) for reply in replies[0]]
    judged = [Judge(tier(reply, "judge"), "zqxrubric") for reply in replies[1]]
    for evidence in (*checked, *judged):
        settings: Any = {"validators": [*default_validators(), evidence], "policy": Policy(evidence=(0.0, 1.0))}
        small = tier(look_up(number=5, note="zqxarg"))
        yield "evidence", pair(small, tier(LARGE, "huge"), **settings).bind_tools([LOOK])
    inner = CascadeChatModel(small=tier(""), large=large, name="inner")
    yield "inner", pair(inner, large)
    yield "inner", pair(tier(raises()), inner)
    slow = ScriptedChatModel("zqxanswer", name="slow", delay=0.4, loop=True)
    yield "late", pair(Tier(slow, timeout=0.05), large)


async def drive(runnable: Any, given: Any, *ways: str, **more: Any) -> None:
    """Do a step in these ways; how it ends is for the exporters to see."""
    for way in ways:
        with contextlib.suppress(Exception):
            match way:
                case "invoke":
                    runnable.invoke(given, CONFIG)
                case "ainvoke":
                    await runnable.ainvoke(given, CONFIG)
                case "stream":
                    list(runnable.stream(given, CONFIG, **more))
                case _:
                    [chunk async for chunk in runnable.astream(given, CONFIG, **more)]


WAYS = ("invoke", "ainvoke", "stream", "astream")


async def chat_models(journal: Journals) -> None:
    """Each cascade in one of four ways, or in all of them; and one that is cancelled."""
    every, few = "PRIVACY_EVERY_WAY" in os.environ, "PRIVACY_CONTENT" in os.environ
    for number, (kind, cascade) in enumerate(cascades(journal)):
        if few and number % 5:
            continue
        way = WAYS[(number + number // 4) % 4]  # the cascades of one answer stand four in a row
        if kind in ("both", "pydantic"):  # they are not streamed
            way = way.replace("stream", "invoke")
        for chosen in WAYS if every else [way]:
            await drive(cascade, HISTORY if "invoke" in chosen else HISTORY[1:2], chosen)
    tiers: Any = {"small": tier("zqxanswer"), "large": tier("zqxlarge", "huge"), "journal": journal}
    await drive(CascadeChatModel(**tiers, validators=[breaks_later]), HISTORY, "ainvoke")
    slow = ScriptedChatModel("zqxanswer", delay=30.0)
    task = asyncio.create_task(CascadeChatModel(**{**tiers, "small": slow}, name="left").ainvoke(HISTORY))
    for _ in range(6000):
        if slow.asked:
            break
        await asyncio.sleep(0.01)
    task.cancel("zqxcancelled")
    with contextlib.suppress(asyncio.CancelledError):
        await task

    def stops(_draft: Any, _context: Any) -> Verdict:
        raise GraphInterrupt(["zqxinterrupt"])

    await drive(CascadeChatModel(**tiers, validators=[stops]), HISTORY, "invoke")


class Shop(MessagesState):
    """A state with a secret in it."""

    secret: str


async def graphs(journal: Journals) -> None:
    """Nodes, a swapped node, a node body, and the middleware: agents whose tools fail and succeed."""

    def graph(node: Any) -> Any:
        builder = StateGraph(Shop).add_node("agent", node).add_node("tools", ToolNode([LOOK], handle_tool_errors=True))
        builder.add_edge(START, "agent").add_edge("tools", "agent")
        return builder.add_conditional_edges("agent", tools_condition)

    def body(state: Shop, *, model: Any) -> dict[str, Any]:
        if "zqxraise" in state["secret"]:
            raise RuntimeError("zqxnodeerror " + state["secret"])
        messages = [SystemMessage("zqxsystem " + state["secret"]), *state["messages"]]
        return {"messages": [model.bind_tools([LOOK]).invoke(messages)]}

    def tiers() -> Any:
        small = [look_up(number=1, note="zqxfails"), look_up(number="zqxarg"), "zqxanswer done", "zqxanswer done"]
        large = [look_up(number=2, note="zqxlarge"), "zqxlarge done"]
        return (ScriptedChatModel(replies, usage=(10, 1), loop=True) for replies in (small, large))

    async def run(compiled: Any, **state: Any) -> None:
        given = {"messages": HISTORY, "secret": "zqxstate", **state}
        await drive(compiled, given, "invoke", "ainvoke", "stream", stream_mode=["updates", "messages"])

    await run(graph(cascade_node(*tiers(), tools=[LOOK], prompt="zqxsystem", journal=journal)).compile())
    for secret in ("zqxstate", "zqxraise"):
        await run(graph(cascade_node(*tiers(), step=body, journal=journal)).compile(), secret=secret)
    builder = graph(lambda _state: {"messages": []})
    swap_node(builder, "agent", cascade_node(*tiers(), tools=[LOOK], journal=journal))
    await run(builder.compile())
    with contextlib.suppress(ImportError):
        from langchain.agents import create_agent

        small, large = tiers()
        around = [CascadeMiddleware(large, journal=journal)]
        await run(create_agent(small, tools=[LOOK], system_prompt="zqxsystem", middleware=around))


# ---- the exporters ----------------------------------------------------------------------------------------------------
def main(out: Path, collector: str) -> None:
    """Set every exporter up, run, and leave what they wrote."""
    logging.basicConfig(filename=out / "python.log", level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s")
    logging.captureWarnings(capture=True)
    memory, reader = InMemorySpanExporter(), InMemoryMetricReader()
    console = (out / "console.json").open("w", encoding="utf-8")
    exporters: list[Any] = [memory, ConsoleSpanExporter(out=console)]
    with contextlib.suppress(ImportError):
        from opentelemetry.exporter.otlp.json.file.trace_exporter import FileSpanExporter

        exporters.append(FileSpanExporter(out / "otlp.jsonl"))
    end = exporting(collector, reader, *map(SimpleSpanProcessor, exporters))
    if content := os.environ.get("PRIVACY_CONTENT"):
        hooks: dict[str, Any] = {"redacted": lambda text: str(scrubbed(text)), "broken": refuses}
        telemetry.configure(content=True, events="both", redact=hooks.get(content))
    journal = Journals(out)
    asyncio.run(chat_models(journal))
    asyncio.run(graphs(journal))
    journal.messages.close()
    data, spans = reader.get_metrics_data(), memory.get_finished_spans()
    (out / "metrics.json").write_text("" if data is None else data.to_json(), encoding="utf-8")
    texts = (f"{s.to_json(indent=None)} {s.status.description} {s.events} {s.links}" for s in spans)
    (out / "spans.txt").write_text("\n".join(texts), encoding="utf-8")
    end()
    console.close()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except BaseException:
        (Path(sys.argv[1]) / "crash.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise
