"""A step that LangGraph runs again has the id that it had before, so that everybody counts it once."""

import asyncio
import json
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

from cascade_agent import CascadeMiddleware, Journal, Policy, cascade_node
from cascade_agent.cli import app
from cascade_agent.engine import durable
from cascade_agent.telemetry import spans as telemetry
from cascade_agent.testing import ScriptedChatModel, TraceCapture
from tests import builders
from tests.builders import pair

THREAD: Any = {"configurable": {"thread_id": "t"}}
HI: Any = {"messages": [("user", "hi")]}


class Crash(BaseException):
    """The process ends here."""


def model(*replies: Any) -> ScriptedChatModel:
    """A model that repeats its replies."""
    return ScriptedChatModel(list(replies) or ["fine"], loop=True, usage=(10, 2))


def graph_of(body: Any, saver: Any = None, **settings: Any) -> Any:
    """A graph whose one node runs a body with a cascade."""
    return builders.graph_of(cascade_node(model(), model(), step=body, **settings), saver=saver)


def crashing(*, crashes: int = 1) -> Any:
    """A body of two steps that ends its process after both, so many times."""
    left = iter(range(crashes))

    def body(state: Any, model: Any) -> Any:
        answers = [model.invoke(state["messages"]), model.invoke("and?")]
        if next(left, None) is not None:
            raise Crash
        return {"messages": answers}

    return body


def crash_and_go_on(journal: Any, saver: Any = None, body: Any = None) -> Any:
    """Run a graph, lose the process, and go on in another one."""
    graph = graph_of(body or crashing(), saver or InMemorySaver(), journal=journal)
    with pytest.raises(Crash):
        graph.invoke(HI, THREAD)
    durable._executions.clear()  # another process knows nothing of the first
    return graph.invoke(None, THREAD)


def test_steps_of_a_node_that_ran_twice_have_the_same_ids_everywhere(monkeypatch):
    """In the journal, on the spans and on the messages; two steps of one node are two."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_TRACER", provider.get_tracer("test"))
    journal = TraceCapture()
    out = crash_and_go_on(journal)
    first, second, *again = (trace.id for trace in journal)
    assert first != second
    assert again == [first, second]
    assert [m.response_metadata["cascade"]["id"] for m in out["messages"][1:]] == again
    spans = [
        s.attributes["cascade.step.id"] for s in exporter.get_finished_spans() if s.name.startswith("cascade.step")
    ]
    assert spans == [first, second] * 2


@pytest.mark.parametrize("command", ["replay", "report", "drift", "calibrate", "trace"])
def test_every_command_counts_a_step_that_ran_twice_once(command, tmp_path):
    """The same figures as of a journal without the crash."""
    outputs = []
    for name, crashes in (("crash", 1), ("calm", 0)):
        path = tmp_path / f"{name}.jsonl"
        with Journal(path) as journal:
            graph = graph_of(crashing(crashes=crashes), InMemorySaver(), journal=journal)
            if crashes:
                with pytest.raises(Crash):
                    graph.invoke(HI, THREAD)
            graph.invoke(None if crashes else HI, THREAD)
            for step_id in {trace.id for trace in journal}:
                journal.label(step_id, source="person", right=True)
        assert len(list(Journal(path))) == (4 if crashes else 2)
        own = {"report": ["--out", str(tmp_path / f"{name}.html")], "calibrate": ["--max-loss", "0.05"]}
        options = [] if command == "trace" else ["--json", *own.get(command, ())]
        result = CliRunner().invoke(app, [command, str(path), *options])
        assert result.stdout, result.output
        outputs.append(json.loads(result.stdout) if options else result.stdout)
    crash, calm = outputs
    if command == "trace":
        assert [out.count("accepted") for out in outputs] == [calm.count("accepted")] * 2
        assert "2 steps" in crash
    else:
        totals = [out.get("totals", out) for out in outputs]  # a report's histograms of times differ by themselves
        assert counts(totals[0]) == counts(totals[1]) != []


def counts(value: Any, key: str = "") -> list[Any]:
    """Every number of steps in an output."""
    if isinstance(value, dict):
        return [found for k, v in value.items() if k not in ("repeated", "repeated_steps") for found in counts(v, k)]
    if isinstance(value, list):
        return [found for v in value for found in counts(v, key)]
    return [value] if isinstance(value, int) and key in ("steps", "n", "accepted", "episodes", "labelled") else []


async def test_parallel_steps_of_one_node_are_several():
    """Equal requests at once are steps of their own, and the same ones when the node runs again."""
    journal = TraceCapture()
    crash = iter([True])

    async def body(state: Any, model: Any) -> Any:
        answers = await asyncio.gather(*(model.ainvoke("hi") for _ in range(5)))
        if next(crash, False):
            raise Crash
        return {"messages": answers}

    graph = graph_of(body, InMemorySaver(), journal=journal)
    with pytest.raises(Crash):
        await graph.ainvoke(HI, THREAD)
    await graph.ainvoke(None, THREAD)
    ids = [trace.id for trace in journal]
    assert (len(ids), len(set(ids[:5]))) == (10, 5)
    assert set(ids[5:]) == set(ids[:5])


def test_without_checkpoints_every_step_is_new():
    """Nothing can be run again there; so are steps of other threads and turns."""
    journal, saver = TraceCapture(), InMemorySaver()
    plain, saved = (graph_of(crashing(crashes=0), s, journal=journal) for s in (None, saver))
    for graph, config in ((plain, None), (plain, None), (saved, THREAD), (saved, THREAD)):
        graph.invoke(HI, config)
    saved.invoke(HI, {"configurable": {"thread_id": "other"}})
    pair(model(), model(), journal=journal).invoke("hi")
    ids = [trace.id for trace in journal]
    assert len(ids) == len(set(ids)) == 11


def test_a_failed_step_that_is_run_again_counts_apart(tmp_path):
    """It gave no answer the first time: what counts once is a step with an answer."""
    path = tmp_path / "steps.jsonl"
    with Journal(path) as journal:
        small, large = model(OSError("down"), "fine"), model(OSError("down"))
        node = cascade_node(small, large, journal=journal, policy=Policy(skip_small=False))
        graph = builders.graph_of(node, saver=InMemorySaver())
        with pytest.raises(OSError, match="down"):
            graph.invoke(HI, THREAD)
        graph.invoke(None, THREAD)
    assert [t.outcome for t in Journal(path)] == ["exhausted", "accepted"]
    assert len({t.id for t in Journal(path)}) == 1
    for files in ([path], [path, path]):
        found = json.loads(CliRunner().invoke(app, ["replay", *map(str, files), "--json"]).stdout)
        assert found["steps"] == 2


def test_a_tool_reads_the_id_of_the_step_that_called_it():
    """An agent that goes on after a crash hands its tool the key that it had before."""
    keys: list[str] = []

    @tool
    def pay(amount: int, runtime: ToolRuntime) -> str:
        """Pay."""
        keys.append(runtime.state["messages"][-1].response_metadata["cascade"]["id"])
        if len(keys) == 1:
            raise Crash
        return "paid"

    call = AIMessage("", tool_calls=[{"name": "pay", "args": {"amount": 3}, "id": "c1"}])
    small = ScriptedChatModel([call, "Done."])
    agent = create_agent(small, [pay], middleware=[CascadeMiddleware(model())], checkpointer=InMemorySaver())
    with pytest.raises(Crash):
        agent.invoke({"messages": "pay 3"}, THREAD)
    out = agent.invoke(None, THREAD)
    assert out["messages"][-1].text == "Done."
    assert keys == [out["messages"][1].response_metadata["cascade"]["id"]] * 2
