"""Steps as each tracing backend shows them: the same tree with every instrumentation, and tokens counted once.

`scenarios.py` runs every shape of a step in a process per backend; here stands what each has to have seen.
"""

import functools
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import fresh

pytestmark = pytest.mark.xdist_group("instrumentations")  # all on one worker, where the scenarios run once
SCRIPT = Path(__file__).with_name("scenarios.py")
MODEL = {"none": "chat {}", "langsmith": "chat {}", "genai": "chat {}", "openinference": "{}", "traceloop": "{}.chat"}
"""Each backend, and what it names the span of a model call."""
OURS = ("none", "langsmith")
"""Backends without an instrumentation that opens spans around model calls: there they are ours."""
NEEDS = {
    "openinference": "openinference.instrumentation.langchain",
    "genai": "opentelemetry.instrumentation.genai.langchain",
    "traceloop": "opentelemetry.instrumentation.langchain",
}
GRAPH = {
    "openinference": ("LangGraph", "{}"),
    "genai": ("invoke_workflow LangGraph",),
    "traceloop": ("invoke_agent LangGraph", "LangGraph.workflow", "execute_task {}"),
}
"""What stands above a step in a node of a graph."""
EVERY = pytest.mark.parametrize("backend", MODEL)
HOWS = ("sync", "async", "stream", "astream")
Tree = list[Any]


def _installed(backend: str) -> bool:
    try:
        return backend not in NEEDS or importlib.util.find_spec(NEEDS[backend]) is not None
    except ModuleNotFoundError:  # a package above it
        return False


@functools.cache
def _started() -> dict[str, fresh.Running]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "LANGSMITH_", "LANGCHAIN_", "CASCADE_"))}
    return {
        backend: fresh.start(SCRIPT, backend, env=env) for backend in filter(_installed, MODEL)
    }  # they mostly sleep


@functools.cache
def ran(backend: str) -> dict[str, Any]:
    """All scenarios under a backend, run once."""
    if not _installed(backend):
        pytest.skip(f"{NEEDS[backend]} is not installed (extra interop)")
    done = _started()[backend].ended()
    assert done.code == 0, done.err[-4000:]
    return json.loads(done.out)


# ---- trees: each span as [name, [children]] -------------------------------------------------------------------------
def model(backend: str, name: str) -> Tree:
    """The span of a model call."""
    return [MODEL[backend].format(name), []]


def attempt(tier: str, *children: Tree) -> Tree:
    """An attempt's span."""
    return [f"cascade.attempt {tier}", list(children)]


def small(backend: str, *evidence: Tree) -> Tree:
    """The attempt of small."""
    return attempt("small", model(backend, "s"), *evidence)


def desk(*attempts: Tree) -> Tree:
    """A step's span."""
    return ["cascade.step desk", list(attempts)]


def step(backend: str, name: str = "desk", first: str = "s") -> Tree:
    """A step whose small tier was refused."""
    return [f"cascade.step {name}", [attempt("small", model(backend, first)), attempt("large", model(backend, "l"))]]


def steps(tree: Tree, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Tree]]:
    """Each step of a tree with the names of the spans above it."""
    found = []
    for name, children, *_ in tree:
        is_step = name.startswith("cascade.step ")
        found += [(above, [name, children])] if is_step else steps(children, (*above, name))
    return found


def names(tree: Tree) -> list[str]:
    """All names of a tree."""
    return [name for node in tree for name in (node[0], *names(node[1]))]


def above(backend: str, node: str = "agent") -> tuple[str, ...]:
    """The spans above a step in a node of that name."""
    return tuple(name.format(node) for name in GRAPH.get(backend, ()))


def quiet(report: dict[str, Any], *, errors: int = 0) -> bool:
    """Nothing was lost or complained of by us or by OpenTelemetry, no context stayed, no orphan, no error but of attempts."""
    complaints = [line for line in report["logs"] if "Traceloop" not in line]
    failed = [s["name"] for s in report["spans"] if s["status"] == "ERROR" and s["name"].startswith("cascade.")]
    clean = not (report["lost"] or complaints or report["left"] or report["orphans"])
    return clean and failed == ["cascade.attempt small"] * errors


# ---- every scenario, under every backend ----------------------------------------------------------------------------
def seen_by(backend: str) -> dict[str, tuple[int, list[Any]]]:
    """Each scenario: the number of model calls whose tokens are counted, and its steps with what stands above each."""
    one, over = ((), step(backend)), above(backend)
    agent = ("invoke_agent",) if backend == "genai" else above(backend, "model")
    inner = {"openinference": ("LangGraph", "agent"), "traceloop": ("execute_task LangGraph", "execute_task agent")}
    branches = [(above(backend, node), step(backend)) for node in ("left", "right")]
    checked = desk(small(backend, ["cascade.validate CrossCheck", [model(backend, "x")]]))
    judged = desk(small(backend, ["cascade.validate judge", [["judging", []]]]))
    nested = desk(small(backend), attempt("large", step(backend, "inner", "m")))
    # LangChain tells handlers nothing of a cancelled model call, so that OpenInference never ends its span
    left = desk(attempt("small") if backend == "openinference" else small(backend))
    return {
        **{f"chat_model-{how}": (2, [one]) for how in HOWS},
        **{f"node-{how}": (2, [(over, step(backend))]) for how in HOWS},
        **{f"middleware-{how}": (2, [(agent, step(backend))]) for how in HOWS},
        **{f"branches-{how}": (4, branches) for how in ("sync", "async")},
        "no_deadline": (4, [one] * 2),
        "subgraph": (2, [((*above(backend, "inner"), *inner.get(backend, ())), step(backend))]),
        "interrupted": (2, [(over, step(backend)), (over, desk())]),
        "cancelled": (0, [((), left)]),
        "raising": (2, [one] * 2),
        "left_stream": (4, [one] * 2),
        "evidence": (4, [((), checked)] * 2),
        "own_evidence": (2, [((), judged)] * 2),
        "ladder": (6, [((), nested)] * 2),
        "workflow": (2, [(("invoke_workflow support",) if backend in OURS else over, step(backend))]),
    }


@EVERY
@pytest.mark.parametrize("scenario", seen_by("none"))
def test_the_tree_of_a_step(backend, scenario):
    """Attempts under their step, wherever that runs; a model call or evidence under its attempt; tokens counted once."""
    report, (calls, expected) = ran(backend)[scenario], seen_by(backend)[scenario]
    assert sorted(steps(report["tree"])) == sorted(expected)
    assert report["tokens"] == [11 * calls, 5 * calls]
    assert quiet(report, errors=2 * (scenario == "raising"))
    adapter = scenario.partition("-")[0]
    if adapter in ("chat_model", "node"):  # an agent has more around it, and with one instrumentation two traces
        assert (len(names(report["tree"])), report["traces"]) == (len(expected[0][0]) + 5, 1)
    if adapter == "middleware":  # an answer that is streamed anew opens no second model span
        models = [MODEL[backend].format(name) for name in "sl"]
        assert [n for n in names(report["tree"]) if n in models or n.startswith(("chat", "unknown"))] == models


@EVERY
@pytest.mark.parametrize(
    ("scenario", "outcomes"),
    [
        ("late", ("timeout", "accepted")),
        ("hedged", ("cancelled", "accepted")),
        ("hedged_in_vain", ("accepted", "cancelled")),
    ],
)
def test_calls_that_are_given_up(backend, scenario, outcomes):
    """Late, or called in parallel with another: an attempt of its own, in thread and task; an error only if late."""
    report = ran(backend)[scenario]
    found = [tree for _, tree in steps(report["tree"])]
    assert [tree[0] for tree in found] == ["cascade.step desk"] * 2
    for _, attempts in found:
        for seen, tier, call in zip(attempts, ("small", "large"), "sl", strict=True):
            assert seen in (
                attempt(tier, model(backend, call)),
                attempt(tier),
            )  # a call that was left may leave no span
    spans = [s["attributes"] for s in report["spans"] if s["name"].startswith("cascade.attempt")]
    assert [(a["cascade.tier.name"], a["cascade.attempt.outcome"]) for a in spans] == [
        ("small", outcomes[0]),
        ("large", outcomes[1]),
    ] * 2
    assert quiet(report, errors=2 * (scenario == "late"))


@EVERY
def test_interrupt_and_resume(backend):
    """The human's turn makes two traces; the second has the step as it was decided, the cost stands in the first."""
    report = ran(backend)["interrupted"]
    assert report["traces"] == 2
    first, second = (span["attributes"] for span in report["spans"] if span["name"] == "cascade.step desk")
    assert (first["cascade.step.outcome"], second["cascade.step.outcome"]) == ("interrupted", "human_review")
    assert first["gen_ai.conversation.id"] == second["gen_ai.conversation.id"] == "t1"
    assert "cascade.step.cost" not in second


@EVERY
def test_structured_output(backend):
    """A tier's chain of its own stands between the attempt and the model."""
    report = ran(backend)["structured"]
    ((over, found),) = steps(report["tree"])
    chains = {"openinference": ("desk.structured",), "genai": ("invoke_workflow desk.structured",)}
    assert over == {**chains, "traceloop": ("desk.structured.workflow",)}.get(backend, ())
    ours = ["cascade.step desk", "cascade.attempt small", "cascade.attempt large"]
    assert [name for name in names([found]) if name.startswith("cascade.")] == ours
    assert report["tokens"] == [22, 10]


@EVERY
def test_spans_of_the_application(backend):
    """The step stands under the application's span, what the model's client opens under the attempt."""
    ((name, found),) = ran(backend)["own_spans"]["tree"]
    assert (name, [node[0] for node in found]) == ("request", ["cascade.step desk"] * 2)
    first = found[0][1][0]
    assert names([first])[-1] == "POST"
    if backend in (*OURS, "genai"):
        assert first == attempt("small", [model(backend, "s")[0], [["POST", []]]])


@EVERY
def test_a_root_for_a_graph(backend):
    """`invoke_workflow` makes a root where nothing else does, and only there."""
    roots = [s for s in ran(backend)["workflow"]["spans"] if s["name"] == "invoke_workflow support"]
    facts = {"operation.name": "invoke_workflow", "workflow.name": "support", "conversation.id": "t1"}
    expected = ("INTERNAL", {f"gen_ai.{key}": value for key, value in facts.items()})
    assert [(root["kind"], root["attributes"]) for root in roots] == [expected] * (backend in OURS)


@EVERY
def test_spans_of_ours_can_be_switched_off(backend):
    """With `otel_spans=False` we open none; handlers, those of instrumentations too, see the runs."""
    report = ran(backend)["switched_off"]
    tasks = [[f"execute_task {name}", calls] for name, calls in step(backend)[1]]
    wanted = {
        "openinference": [step(backend)],
        "genai": [["invoke_workflow cascade.step desk", [model(backend, "s"), model(backend, "l")]]],
        "traceloop": [["cascade.step desk.workflow", tasks]],
    }
    assert report["tree"] == wanted.get(backend, []) * 2
    assert not any("cascade.step.outcome" in span["attributes"] for span in report["spans"])
    assert report["tokens"] == ([0, 0] if backend in OURS else [44, 20])


@EVERY
def test_a_handler_that_raises(backend):
    """A handler that raises on our runs costs the step nothing; model calls are still seen, the loss is counted."""
    report = ran(backend)["handler_that_raises"]
    assert (report["tokens"], report["lost"]) == ([44, 20], 4)


@EVERY
@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
def test_the_decisive_attributes(backend, adapter):
    """Outcomes, reason and tiers stand on our spans in every backend, adopted ones too; no usage under gen_ai."""
    spans = {span["name"]: span for span in ran(backend)[f"{adapter}-async"]["spans"]}
    ours = [spans[f"cascade.{name}"] for name in ("step desk", "attempt small", "attempt large")]
    attempts = {"attempt.input_tokens": 11, "attempt.output_tokens": 5}
    facts: list[dict[str, Any]] = [
        {"step.name": "desk", "step.outcome": "escalated", "step.reason": "odd", "step.final_tier": "large"},
        {"attempt.index": 0, "tier.name": "small", "attempt.outcome": "rejected", **attempts},
        {"attempt.index": 1, "tier.name": "large", "attempt.outcome": "accepted", **attempts},
    ]
    events = ["cascade.escalation", "gen_ai.evaluation.result", "gen_ai.evaluation.result"]
    for span, expected, event in zip(ours, facts, events, strict=True):
        assert {f"cascade.{key}": value for key, value in expected.items()}.items() <= span["attributes"].items()
        assert (span["kind"], span["events"]) == ("INTERNAL", [event])
        assert not any(key.startswith(("gen_ai.usage", "gen_ai.request", "llm.")) for key in span["attributes"])
        assert backend == "traceloop" or len(span["attributes"]) <= 25
    assert ours[0]["attributes"]["openinference.span.kind"] == "CHAIN"
    for span in (s for s in ran(backend)["evidence"]["spans"] if s["name"].startswith("cascade.validate")):
        assert (span["kind"], span["attributes"]["openinference.span.kind"]) == ("INTERNAL", "EVALUATOR")
        assert span["attributes"]["gen_ai.evaluation.score.value"] == 1.0


@pytest.mark.parametrize("backend", OURS)
def test_how_ends_stand_on_the_spans(backend):
    """A cancelled step and its attempt say so; what a tier raised stands there by its class alone."""
    cancelled = [s["attributes"] for s in ran(backend)["cancelled"]["spans"] if s["name"].startswith("cascade.")]
    assert [a.get("cascade.step.outcome", a.get("cascade.attempt.outcome")) for a in cancelled] == ["cancelled"] * 2
    spans = ran(backend)["raising"]["spans"]
    assert [s["attributes"]["error.type"] for s in spans if s["name"] == "cascade.attempt small"] == ["ValueError"] * 2
    assert "secret" not in json.dumps(spans)


# ---- LangSmith's runs -----------------------------------------------------------------------------------------------
def _run(name: str, *children: Tree, end: str = "end") -> Tree:
    return [name, list(children), end]


RUNS = _run(
    "cascade.step desk",
    _run("cascade.attempt small", _run("s"), end="rejected"),
    _run("cascade.attempt large", _run("l"), end="accepted"),
)


@pytest.mark.parametrize("how", HOWS)
def test_langsmith_sees_steps_and_attempts_as_runs(how):
    """LangSmith's tracer and run collectors see step, attempts and models as runs, in place, each ended."""
    report = ran("langsmith")
    assert report[f"chat_model-{how}"]["runs"] == [RUNS]
    assert report[f"chat_model-{how}"]["collected"] == ["cascade.step desk"]
    assert report[f"node-{how}"]["runs"] == [_run("LangGraph", _run("agent", RUNS))]
    ((over, found),) = steps(report[f"middleware-{how}"]["runs"])
    assert (over[:2], found) == (("LangGraph", "model"), RUNS[:2])


def test_how_runs_end():
    """A tier that raised or was late ends its attempt's run with that error; a cancelled attempt is none."""
    report = ran("langsmith")
    raised = _run("cascade.attempt small", _run("s", end="ValueError"), end="ValueError")
    assert [raising[1][0] for raising in report["raising"]["runs"]] == [raised, raised]
    assert [late[1][0][2] for late in report["late"]["runs"]] == ["TimeoutError", "TimeoutError"]
    (cancelled,) = report["cancelled"]["runs"]
    assert (cancelled[1][0][2], cancelled[2]) == ("cancelled", "CancelledError")
    checked = _run("cascade.validate CrossCheck", _run("x"))
    judged = _run("cascade.step desk", _run("cascade.attempt small", _run("s"), checked, end="accepted"))
    assert report["evidence"]["runs"] == [judged] * 2
