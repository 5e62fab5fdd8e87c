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

SCRIPT = Path(__file__).with_name("scenarios.py")
BACKENDS = ("none", "openinference", "genai", "traceloop", "langsmith")
OURS = ("none", "langsmith")
"""Backends without an instrumentation that opens spans around model calls: there they are ours."""
MODEL = {
    "none": "chat {}",
    "langsmith": "chat {}",
    "genai": "chat {}",
    "openinference": "{}",
    "traceloop": "{}.chat",
}
"""What the span of a model call is named."""


pytestmark = pytest.mark.xdist_group("instrumentations")  # all on one worker, where the scenarios run once
EVERY = pytest.mark.parametrize("backend", BACKENDS)
HOWS = ("sync", "async", "stream", "astream")
Tree = list[Any]


NEEDS = {
    "openinference": "openinference.instrumentation.langchain",
    "genai": "opentelemetry.instrumentation.genai.langchain",
    "traceloop": "opentelemetry.instrumentation.langchain",
}


def _installed(backend: str) -> bool:
    try:
        return backend not in NEEDS or importlib.util.find_spec(NEEDS[backend]) is not None
    except ModuleNotFoundError:  # a package above it
        return False


@functools.cache
def _started() -> dict[str, fresh.Running]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "LANGSMITH_", "LANGCHAIN_", "CASCADE_"))}
    return {
        backend: fresh.start(SCRIPT, backend, env=env) for backend in filter(_installed, BACKENDS)
    }  # they sleep much of their time


@functools.cache
def ran(backend: str) -> dict[str, Any]:
    """All scenarios under a backend, run once."""
    if not _installed(backend):
        pytest.skip(f"{NEEDS[backend]} is not installed (extra interop)")
    done = _started()[backend].ended()
    assert done.code == 0, done.err[-4000:]
    return json.loads(done.out)


def model(backend: str, name: str) -> Tree:
    """The span of a model call."""
    return [MODEL[backend].format(name), []]


def attempt(tier: str, *children: Tree) -> Tree:
    """An attempt's span."""
    return [f"cascade.attempt {tier}", list(children)]


def step(backend: str, name: str = "desk", small: str = "s", large: str = "l") -> Tree:
    """A step whose small tier was refused."""
    return [f"cascade.step {name}", [attempt("small", model(backend, small)), attempt("large", model(backend, large))]]


def steps(tree: Tree, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Tree]]:
    """Each step of a tree with the names of the spans above it."""
    found = []
    for node in tree:
        name, children = node[0], node[1]
        if name.startswith("cascade.step "):
            found.append((above, [name, children]))
        else:
            found += steps(children, (*above, name))
    return found


def names(tree: Tree) -> list[str]:
    """All names of a tree."""
    return [name for node in tree for name in (node[0], *names(node[1]))]


GRAPH = {
    "none": (),
    "langsmith": (),
    "openinference": ("LangGraph", "{}"),
    "genai": ("invoke_workflow LangGraph",),
    "traceloop": ("invoke_agent LangGraph", "LangGraph.workflow", "execute_task {}"),
}
"""What stands above a step in a node of a graph."""


def above(backend: str, node: str) -> tuple[str, ...]:
    """The spans above a step in a node of that name."""
    return tuple(name.format(node) for name in GRAPH[backend])


def quiet(report: dict[str, Any]) -> bool:
    """Nothing was lost, nothing complained about by us or by OpenTelemetry, no context stayed behind, no orphan."""
    complaints = [line for line in report["logs"] if "Traceloop" not in line]
    return not (report["lost"] or complaints or report["left"] or report["orphans"])


# ---- the adapters ---------------------------------------------------------------------------------------------------
@EVERY
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
def test_the_tree_of_a_step(backend, adapter, how):
    """Alone, under the node of a graph or the model node of an agent: attempts, a model call under each, tokens once."""
    report = ran(backend)[f"{adapter}-{how}"]
    over = {"chat_model": (), "node": above(backend, "agent"), "middleware": above(backend, "model")}[adapter]
    if (adapter, backend) == ("middleware", "genai"):
        over = ("invoke_agent",)
    assert steps(report["tree"]) == [(over, step(backend))]
    assert report["tokens"] == [22, 10]
    models = [
        MODEL[backend].format(name) for name in "sl"
    ]  # an answer that is streamed anew opens no second model span
    assert [name for name in names(report["tree"]) if name in models or name.startswith(("chat", "unknown"))] == models
    if adapter != "middleware":  # an agent has more around it, and with one instrumentation two traces
        assert (len(names(report["tree"])), report["traces"]) == (len(over) + 5, 1)
    assert quiet(report)


# ---- side by side ---------------------------------------------------------------------------------------------------
@EVERY
@pytest.mark.parametrize("how", ["sync", "async"])
def test_parallel_branches(backend, how):
    """Each branch holds its own step, whichever thread or task it runs in."""
    report = ran(backend)[f"branches-{how}"]
    expected = [(above(backend, node), step(backend)) for node in ("left", "right")]
    assert sorted(steps(report["tree"])) == sorted(expected)
    assert report["tokens"] == [44, 20]
    assert quiet(report)


@EVERY
@pytest.mark.parametrize(("name", "count"), [("batch", 3), ("gather", 3), ("no_deadline", 1)])
def test_batches(backend, name, count):
    """Steps of a batch, in threads or tasks, are apart; one that runs in the caller's own thread looks the same."""
    report = ran(backend)[name]
    assert report["tree"] == [step(backend)] * count
    assert report["tokens"] == [22 * count, 10 * count]
    assert quiet(report)


@EVERY
def test_a_subgraph(backend):
    """A step in a graph within a graph stands under all of it."""
    report = ran(backend)["subgraph"]
    over = {
        "openinference": ("LangGraph", "inner", "LangGraph", "agent"),
        "traceloop": (*above(backend, "inner"), "execute_task LangGraph", "execute_task agent"),
    }.get(backend, above(backend, "inner"))
    assert steps(report["tree"]) == [(over, step(backend))]
    assert quiet(report)


# ---- what goes otherwise --------------------------------------------------------------------------------------------
@EVERY
def test_interrupt_and_resume(backend):
    """The human's turn makes two traces; the second has the step as it was decided, the cost stands in the first."""
    report = ran(backend)["interrupted"]
    over = above(backend, "agent")
    assert steps(report["tree"]) == [(over, step(backend)), (over, ["cascade.step desk", []])]
    assert report["traces"] == 2
    assert report["tokens"] == [22, 10]
    first, second = (span["attributes"] for span in report["spans"] if span["name"] == "cascade.step desk")
    assert (first["cascade.step.outcome"], second["cascade.step.outcome"]) == ("interrupted", "human_review")
    assert first["gen_ai.conversation.id"] == second["gen_ai.conversation.id"] == "t1"
    assert "cascade.step.cost" not in second
    assert {s["status"] for s in report["spans"] if s["name"].startswith("cascade.step d")} <= {"UNSET", "OK"}
    assert quiet(report)


@EVERY
def test_a_cancelled_step(backend):
    """A step that is given up closes its spans, and is no error."""
    report = ran(backend)["cancelled"]
    ((_, found),) = steps(report["tree"])
    # LangChain tells handlers nothing of a cancelled model call, so that OpenInference never ends its span
    calls = [] if backend == "openinference" else [model(backend, "s")]
    assert found == ["cascade.step desk", [attempt("small", *calls)]]
    ours = [s for s in report["spans"] if s["name"].startswith("cascade.")]
    outcomes = [
        s["attributes"].get("cascade.step.outcome", s["attributes"].get("cascade.attempt.outcome")) for s in ours
    ]
    assert outcomes == ["cancelled", "cancelled"]
    assert {s["status"] for s in ours} <= ({"OK", "UNSET"} if backend == "traceloop" else {"UNSET"})
    assert quiet(report)


@EVERY
def test_a_late_tier(backend):
    """A tier that misses its deadline is an error of its attempt, in a thread and in a task; the step goes on."""
    report = ran(backend)["late"]
    found = [tree for _, tree in steps(report["tree"])]
    assert [tree[0] for tree in found] == ["cascade.step desk"] * 2
    for tree in found:
        small, large = tree[1]
        assert small in (attempt("small", model(backend, "s")), attempt("small"))
        assert large == attempt("large", model(backend, "l"))
    smalls = [s for s in report["spans"] if s["name"] == "cascade.attempt small"]
    assert [(s["attributes"]["cascade.attempt.outcome"], s["status"]) for s in smalls] == [("timeout", "ERROR")] * 2
    assert quiet(report)


@EVERY
def test_a_call_in_parallel_with_another(backend):
    """Large that is called in parallel with a slow small one has an attempt of its own, in thread and task, used or not."""
    for name, outcomes in (("hedged", ("cancelled", "accepted")), ("hedged_in_vain", ("accepted", "cancelled"))):
        report = ran(backend)[name]
        found = [tree for _, tree in steps(report["tree"])]
        assert len(found) == 2
        for tree in found:
            for child, tier, call in zip(tree[1], ("small", "large"), "sl", strict=True):
                assert child in (attempt(tier, model(backend, call)), attempt(tier))  # a cancelled call may leave none
        reply = [
            (s["attributes"]["cascade.tier.name"], s["attributes"]["cascade.attempt.outcome"])
            for s in report["spans"]
            if s["name"].startswith("cascade.attempt")
        ]
        assert reply == [("small", outcomes[0]), ("large", outcomes[1])] * 2
        assert quiet(report)
    alone = ["cascade.step desk", [attempt("small", model(backend, "s"))]]
    assert ran(backend)["not_hedged"]["tree"] == [alone] * 2


@EVERY
def test_a_tier_that_raises(backend):
    """What a tier raised stands on its attempt by its class."""
    report = ran(backend)["raising"]
    assert report["tree"] == [step(backend)]
    (small,) = (s for s in report["spans"] if s["name"] == "cascade.attempt small")
    assert (small["status"], small["attributes"]["error.type"]) == ("ERROR", "ValueError")
    if backend in OURS:
        assert "secret" not in json.dumps(report["spans"])


@EVERY
def test_a_stream_that_is_left(backend):
    """A consumer that leaves changes nothing of the step, which was decided before; no context stays with it."""
    report = ran(backend)["left_stream"]
    assert [tree for _, tree in steps(report["tree"])] == [step(backend)] * 2
    assert report["tokens"] == [44, 20]
    assert {s["status"] for s in report["spans"]} <= {"UNSET", "OK"}
    assert quiet(report)


@EVERY
def test_evidence(backend):
    """What asks a model about a draft is an evaluator under the attempt that it judges, its model call below."""
    report = ran(backend)["evidence"]
    checked = ["cascade.validate CrossCheck", [model(backend, "x")]]
    expected = ["cascade.step desk", [attempt("small", model(backend, "s"), checked)]]
    assert report["tree"] == [expected] * 2
    assert report["tokens"] == [44, 20]
    evaluators = [s for s in report["spans"] if s["name"].startswith("cascade.validate")]
    for span in evaluators:
        assert span["kind"] == "INTERNAL"
        assert span["attributes"]["openinference.span.kind"] == "EVALUATOR"
        assert span["attributes"]["gen_ai.evaluation.score.value"] == 1.0
    assert len(evaluators) == 2
    assert quiet(report)


@EVERY
def test_evidence_of_the_users_own(backend):
    """Spans that evidence opens by itself stand under it."""
    validate = ["cascade.validate judge", [["judging", []]]]
    tree = ran(backend)["own_evidence"]["tree"]
    assert tree == [["cascade.step desk", [attempt("small", model(backend, "s"), validate)]]]


@EVERY
def test_a_ladder(backend):
    """A tier that is itself a cascade is a step under the attempt, and no model call."""
    report = ran(backend)["ladder"]
    inner = step(backend, "inner", "m", "l")
    assert report["tree"] == [["cascade.step desk", [attempt("small", model(backend, "s")), attempt("large", inner)]]]
    assert report["tokens"] == [33, 15]


@EVERY
def test_structured_output(backend):
    """A tier's chain of its own stands between the attempt and the model."""
    report = ran(backend)["structured"]
    ((over, found),) = steps(report["tree"])
    assert over == {
        "openinference": ("desk.structured",),
        "genai": ("invoke_workflow desk.structured",),
        "traceloop": ("desk.structured.workflow",),
    }.get(backend, ())
    ours = ["cascade.step desk", "cascade.attempt small", "cascade.attempt large"]
    assert [name for name in names([found]) if name.startswith("cascade.")] == ours
    assert report["tokens"] == [22, 10]


@EVERY
def test_spans_of_the_application(backend):
    """The step stands under the application's span, what the model's client opens under the attempt."""
    tree = ran(backend)["own_spans"]["tree"]
    (request,) = tree
    assert request[0] == "request"
    first = request[1][0]
    assert first[0] == "cascade.step desk"
    assert names([first[1][0]])[-1] == "POST"
    if backend in (*OURS, "genai"):
        assert first[1][0] == attempt("small", [model(backend, "s")[0], [["POST", []]]])
    assert [node[0] for node in request[1]] == ["cascade.step desk"] * 2


@EVERY
def test_a_root_for_a_graph(backend):
    """`invoke_workflow` makes a root where nothing else does, and only there."""
    report = ran(backend)["workflow"]
    over = ("invoke_workflow support",) if backend in OURS else above(backend, "agent")
    assert steps(report["tree"]) == [(over, step(backend))]
    roots = [s for s in report["spans"] if s["name"] == "invoke_workflow support"]
    assert len(roots) == (backend in OURS)
    for root in roots:
        assert root["kind"] == "INTERNAL"
        assert root["attributes"] == {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": "support",
            "gen_ai.conversation.id": "t1",
        }


@EVERY
def test_spans_of_ours_can_be_switched_off(backend):
    """With `otel_spans=False` we open none; handlers, those of instrumentations too, see the runs."""
    report = ran(backend)["switched_off"]
    wanted = {
        "none": [],
        "langsmith": [],
        "openinference": [step(backend)] * 2,
        "genai": [["invoke_workflow cascade.step desk", [model(backend, "s"), model(backend, "l")]]] * 2,
        "traceloop": [
            [
                "cascade.step desk.workflow",
                [["execute_task " + node[0], node[1]] for node in step(backend)[1]],
            ]
        ]
        * 2,
    }[backend]
    assert report["tree"] == wanted
    assert not any("cascade.step.outcome" in span["attributes"] for span in report["spans"])
    assert report["tokens"] == ([0, 0] if backend in OURS else [44, 20])


@EVERY
def test_a_handler_that_raises(backend):
    """A handler that raises on our runs costs the step nothing; model calls are still seen, the loss is counted."""
    report = ran(backend)["handler_that_raises"]
    assert report["tokens"] == [44, 20]
    assert report["lost"] == 4


# ---- what the spans say ---------------------------------------------------------------------------------------------
@EVERY
@pytest.mark.parametrize("adapter", ["chat_model", "node", "middleware"])
def test_the_decisive_attributes(backend, adapter):
    """Kinds, outcomes, reason and tiers stand on our spans in every backend, adopted ones too; no usage under gen_ai."""
    report = ran(backend)[f"{adapter}-async"]
    spans = {span["name"]: span for span in report["spans"]}
    step_, small, large = (spans[n] for n in ("cascade.step desk", "cascade.attempt small", "cascade.attempt large"))
    assert {span["kind"] for span in (step_, small, large)} == {"INTERNAL"}
    reply = step_["attributes"]
    assert reply["openinference.span.kind"] == "CHAIN"
    facts = {"name": "desk", "outcome": "escalated", "reason": "odd", "final_tier": "large", "attempts": 2}
    assert {f"cascade.step.{key}": value for key, value in facts.items()}.items() <= reply.items()
    assert step_["events"] == ["cascade.escalation"]
    for index, (span, tier, outcome) in enumerate([(small, "small", "rejected"), (large, "large", "accepted")]):
        facts = {"attempt.index": index, "tier.name": tier, "attempt.outcome": outcome}
        facts |= {"attempt.input_tokens": 11, "attempt.output_tokens": 5}
        assert {f"cascade.{key}": value for key, value in facts.items()}.items() <= span["attributes"].items()
        assert span["events"] == ["gen_ai.evaluation.result"]
    for span in (step_, small, large):
        assert not any(key.startswith(("gen_ai.usage", "gen_ai.request", "llm.")) for key in span["attributes"])
        if backend != "traceloop":
            assert len(span["attributes"]) <= 25
    assert {span["status"] for span in (step_, small, large)} <= {"UNSET", "OK"}


@pytest.mark.parametrize("backend", OURS)
def test_the_span_of_a_model_call(backend):
    """Where nobody else opens one, `chat {model}` is a client span as the conventions want it, without content."""
    report = ran(backend)["chat_model-sync"]
    small, large = (span for span in report["spans"] if span["name"].startswith("chat "))
    assert (small["name"], small["kind"], small["status"]) == ("chat s", "CLIENT", "UNSET")
    assert small["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scriptedchatmodel",
        "gen_ai.request.model": "s",
        "gen_ai.response.model": "s",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
    }
    assert large["name"] == "chat l"


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
    (graph,) = report[f"middleware-{how}"]["runs"]
    ((above_it, found),) = steps([graph])
    assert above_it[:2] == ("LangGraph", "model")
    assert found == RUNS[:2]


def test_how_runs_end():
    """A tier that raised or was late ends its attempt's run with that error; a cancelled attempt is none."""
    report = ran("langsmith")
    (raising,) = report["raising"]["runs"]
    assert raising[1][0] == _run("cascade.attempt small", _run("s", end="ValueError"), end="ValueError")
    assert [late[1][0][2] for late in report["late"]["runs"]] == ["TimeoutError", "TimeoutError"]
    (cancelled,) = report["cancelled"]["runs"]
    assert (cancelled[1][0][2], cancelled[2]) == ("cancelled", "CancelledError")
    for tree in report["evidence"]["runs"]:
        checked = _run("cascade.validate CrossCheck", _run("x"))
        assert tree == _run("cascade.step desk", _run("cascade.attempt small", _run("s"), checked, end="accepted"))
