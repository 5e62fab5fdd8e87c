"""The ready-made graphs: real tools, real state, cascades in their model nodes."""

from __future__ import annotations

import importlib
import json
from functools import partial

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from cascade_agent import Policy
from cascade_agent.journal.reader import read
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators import PlanConsistency
from graphs import extraction, plan_execute, support
from graphs.evaluation.demo import choose
from graphs.evaluation.documents import extraction_tasks
from graphs.evaluation.run import run_task
from graphs.evaluation.tasks import load_tasks
from graphs.standins.models import LARGE_PRICE, SMALL_PRICE, large_standin, small_standin, standin_tiers
from tests.builders import ROOT, examples
from tools.database import OrderDatabase

TASKS = load_tasks()
GRAPHS = {"support": support, "plan_execute": plan_execute}
UNUSED = "never asked"


def message(*calls, text="") -> AIMessage:
    """An answer with calls."""
    return AIMessage(text, tool_calls=[{"name": n, "args": a, "id": f"c{i}-{n}"} for i, (n, a) in enumerate(calls)])


def planned(*steps) -> AIMessage:
    """A plan as the planner hands it in: (id, tool, args, depends_on)."""
    keys = ("id", "tool", "args", "depends_on")
    return message(("make_plan", {"steps": [dict(zip(keys, step, strict=True)) for step in steps]}))


# ---- the agent loop -------------------------------------------------------------------------------------------------


ACCEPTED = [t for t in TASKS if t.graph == "support" and not any(r["type"] == "reject" for r in t.reviews)]
ACCEPTED = ACCEPTED[:: examples(3, 1)]


@pytest.mark.parametrize("task", ACCEPTED, ids=lambda task: task.id)
def test_a_perfect_model_succeeds_in_the_agent_loop(task):
    """A small model that makes a task's calls one by one and says its facts succeeds in the real graph, alone."""
    answer = " ; ".join(fact[0] for fact in task.facts) or "You're welcome."
    again = [call for call in task.calls[:1] for fails in task.outages.values() if fails < 9]  # a read that failed
    calls = [message((name, args)).model_copy(update={"id": None}) for name, args in [*again, *task.calls]]
    for index, call in enumerate(calls):
        call.tool_calls[0]["id"] = f"call-{index}"
    script = ["ok"] * (len(task.turns) - 1) + [*calls, answer]
    small, large = ScriptedChatModel(script, name="small"), ScriptedChatModel(UNUSED, name="large")
    result = run_task(task, partial(support.build, small, large, validators=[]))
    assert result.missed == ()
    assert len(small.calls) == len(script)
    assert large.calls == []


def test_a_rejected_draft_touches_nothing():
    """A small draft that no tool accepts is replaced by the large one's call before any tool has run."""
    bad = message(("refund_order", {"order_id": "O-2138", "amount": 20, "reason": "because"}))
    good = message(("refund_order", {"order_id": "O-2138", "amount": 20.0, "reason": "goodwill"}))
    small = ScriptedChatModel([bad, "20.00 EUR has been refunded for order O-2138."], name="small")
    large = ScriptedChatModel([good], name="large")
    task = next(t for t in TASKS if t.id == "goodwill")
    assert run_task(task, partial(support.build, small, large)).missed == ()
    assert (len(small.calls), len(large.calls)) == (2, 1)


def test_the_default_policy_knows_the_side_effects_and_a_given_one_is_kept(tmp_path, monkeypatch):
    """The policy that a graph is built with is the one on record."""
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "journal.jsonl"))
    own = Policy(threshold=0.3, provenance={"by": "test"})
    for policy in (None, own):
        graph = support.build(small_standin(), large_standin(), policy=policy)
        graph.invoke({"messages": [HumanMessage("Thank you!")]})
    first, second = read(tmp_path / "journal.jsonl")
    assert first.policy == Policy(side_effects=support.SIDE_EFFECTS).version
    assert second.policy == own.version


@pytest.mark.parametrize("name", GRAPHS)
async def test_async_does_what_sync_does(name):
    """`ainvoke` gives the same answer and the same database as `invoke`."""
    task = next(t for t in TASKS if t.graph == name and t.changes)
    seen = []
    for asynchronous in (False, True):
        db = OrderDatabase()
        graph = GRAPHS[name].build(*standin_tiers(), db=db)
        messages = {"messages": [HumanMessage(task.turns[-1])]}
        state = await graph.ainvoke(messages) if asynchronous else graph.invoke(messages)
        seen.append((state["messages"][-1].text, db.snapshot()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", GRAPHS)
def test_state_is_plain_and_survives_a_checkpoint(name):
    """With a checkpointer a second turn goes on where the first ended, and the state is JSON but for the messages."""
    graph = GRAPHS[name].build(*standin_tiers(), checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    graph.invoke({"messages": [HumanMessage("What is the status of O-2189?")]}, config)
    state = graph.invoke({"messages": [HumanMessage("And where is O-2198?")]}, config)
    assert sum(isinstance(m, HumanMessage) for m in state["messages"]) == 2
    json.dumps({key: value for key, value in state.items() if key != "messages"})


def test_langgraph_json_names_graphs_that_exist():
    """Every graph of langgraph.json can be imported and drawn."""
    declared = json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))["graphs"]
    for place in declared.values():
        path, _, attribute = place.partition(":")
        module = importlib.import_module(path.removeprefix("./").removesuffix(".py").replace("/", "."))
        assert {"tools", "answer"} & getattr(module, attribute).get_graph().nodes.keys()


# ---- plan and execute -----------------------------------------------------------------------------------------------
def test_a_plan_is_carried_out_step_by_step_with_references():
    """Planner, executor twice, replanner: the tracking number of the first result is the argument of the second."""
    script = [
        planned(
            ("s1", "get_order", {"order_id": "O-2149"}, []),
            ("s2", "track_shipment", {"tracking_number": "${s1.tracking_number}"}, ["s1"]),
        ),
        message(("get_order", {"order_id": "O-2149"})),
        message(("track_shipment", {"tracking_number": "TR-794431"})),
        "It is in Madrid.",
    ]
    small, large = ScriptedChatModel(script, name="small"), ScriptedChatModel(UNUSED, name="large")
    graph = plan_execute.build(small, large, validators=[PlanConsistency()])
    state = graph.invoke({"messages": [HumanMessage("Where is O-2149?")]})
    assert [step["status"] for step in state["plan"]["steps"]] == ["done", "done"]
    assert state["plan"]["steps"][1]["result"]["location"] == "Madrid"
    assert state["messages"][-1].text == "It is in Madrid."
    assert large.calls == []


def test_a_call_that_is_not_the_plans_reaches_the_large_model():
    """An argument that differs from the result it is taken from is rejected, and the large model's call runs."""
    plan = planned(
        ("s1", "get_order", {"order_id": "O-2149"}, []),
        ("s2", "track_shipment", {"tracking_number": "${s1.tracking_number}"}, ["s1"]),
    )
    wrong, right = ({"tracking_number": number} for number in ("TR-794430", "TR-794431"))
    small = ScriptedChatModel(
        [plan, message(("get_order", {"order_id": "O-2149"})), message(("track_shipment", wrong)), "Madrid."],
        name="small",
    )
    large = ScriptedChatModel([message(("track_shipment", right))], name="large")
    graph = plan_execute.build(small, large, validators=[PlanConsistency()])
    state = graph.invoke({"messages": [HumanMessage("Where is O-2149?")]})
    assert state["plan"]["steps"][1]["result"]["tracking_number"] == "TR-794431"
    assert len(large.calls) == 1


@pytest.mark.parametrize(
    "steps",
    [
        [("s1", "get_order", {"order_id": "O-2149"}, []), ("s2", "track_parcel", {}, ["s1"])],
        [("s1", "get_order", {"order_id": "O-2149"}, ["s1"])],
        [("s1", "track_shipment", {"tracking_number": "${s9.tracking_number}"}, [])],
    ],
    ids=["unknown tool", "cycle", "dangling reference"],
)
def test_a_plan_that_cannot_work_reaches_the_large_model(steps):
    """A plan with an unknown tool, a cycle or a dangling reference is planned again by the large model."""
    small = ScriptedChatModel(
        [planned(*steps), message(("get_order", {"order_id": "O-2149"})), "Shipped."], name="small"
    )
    large = ScriptedChatModel([planned(("s1", "get_order", {"order_id": "O-2149"}, []))], name="large")
    state = plan_execute.build(small, large).invoke({"messages": [HumanMessage("What is the status of O-2149?")]})
    assert [step["tool"] for step in state["plan"]["steps"]] == ["get_order"]
    assert len(large.calls) == 1


def test_after_a_failed_step_the_rest_is_planned_anew():
    """A step that a tool refuses skips what was left; the replanner plans on and done steps stay in the plan."""
    cancel = {"order_id": "O-2178", "reason": "other"}
    script = [
        planned(
            ("s1", "cancel_order", {"order_id": "O-2162", "reason": "other"}, []),
            ("s2", "cancel_order", cancel, []),
        ),
        message(("cancel_order", {"order_id": "O-2162", "reason": "other"})),
        planned(("s3", "cancel_order", cancel, [])),
        message(("cancel_order", cancel)),
        "O-2178 was cancelled, O-2162 cannot be.",
    ]
    db = OrderDatabase()
    model = ScriptedChatModel(script, name="both")
    graph = plan_execute.build(model, ScriptedChatModel(UNUSED, name="large"), validators=[], db=db)
    state = graph.invoke({"messages": [HumanMessage("Cancel O-2162 and O-2178.")]})
    assert [step["status"] for step in state["plan"]["steps"]] == ["failed", "skipped", "done"]
    assert db.snapshot()["orders"]["O-2178"]["status"] == "cancelled"


def test_a_step_that_nobody_can_carry_out_is_replanned():
    """When both tiers' calls are unusable no tool runs; the step is failed and the replanner answers."""
    plan = planned(("s1", "get_order", {"order_id": "O-2149"}, []))
    junk = message(("get_order", {"number": 1}))
    small = ScriptedChatModel([plan, junk, "I could not read the order."], name="small")
    large = ScriptedChatModel([junk], name="large")
    state = plan_execute.build(small, large).invoke({"messages": [HumanMessage("What is the status of O-2149?")]})
    assert [step["status"] for step in state["plan"]["steps"]] == ["failed"]
    assert state["messages"][-1].text == "I could not read the order."


def test_replanning_comes_to_an_end():
    """A replanner that never stops planning is stopped after a fixed number of times."""
    step = {"order_id": "O-2149"}
    script = [planned(("s1", "get_order", step, []))]
    for number in range(2, 20):
        script += [message(("get_order", step)), planned((f"s{number}", "get_order", step, []))]
    model = ScriptedChatModel(script, name="small")
    graph = plan_execute.build(model, ScriptedChatModel(UNUSED, name="large"), validators=[])
    state = graph.invoke({"messages": [HumanMessage("Status of O-2149?")]}, {"recursion_limit": 100})
    assert state["replans"] == plan_execute.MAX_REPLANS + 1


# ---- measured: the cascade and its two models --------------------------------------------------------------------
def test_the_sums_of_a_task_agree(tmp_path, monkeypatch):
    """For every task tried, the journal's cost is the cost of all model calls that a callback saw."""
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "journal.jsonl"))
    prices = {"standin-small": SMALL_PRICE, "standin-large": LARGE_PRICE}
    for task in choose(TASKS, 6):
        result = run_task(task, partial(GRAPHS[task.graph].build, *standin_tiers()))
        seen = result.cost(lambda name, usage: prices[name].cost(usage))
        steps = [step for step in read(tmp_path / "journal.jsonl") if step.thread_id == task.id]
        assert seen == pytest.approx(sum(step.cost for step in steps))
        assert len(result.calls) == sum(a.outcome != "skipped" for step in steps for a in step.attempts)


def compared(tasks, graph_of_task) -> tuple[list[int], list[float]]:
    """Successes and costs of small alone, the cascade, and large alone, with the stand-ins."""
    small, large = standin_tiers()
    prices = {"standin-small": SMALL_PRICE, "standin-large": LARGE_PRICE}
    success, cost = [], []
    for way, models in (("build_alone", [small.base]), ("build", [small, large]), ("build_alone", [large.base])):
        results = [run_task(task, partial(getattr(graph_of_task(task), way), *models)) for task in tasks]
        success.append(sum(result.success for result in results))
        cost.append(sum(result.cost(lambda name, usage: prices[name].cost(usage)) for result in results))
    return success, cost


@pytest.mark.slow
def test_the_cascade_lies_between_its_models():
    """Over all tasks: success and cost of the cascade lie between small alone and large alone."""
    success, cost = compared(TASKS, lambda task: GRAPHS[task.graph])
    assert success[0] < success[1] <= success[2]
    assert cost[0] < cost[1] < cost[2]


@pytest.mark.slow
def test_the_cascade_reads_documents_that_one_model_does_not():
    """Over all documents: better than either model alone, and cheaper than large alone."""
    success, cost = compared(extraction_tasks(), lambda _: extraction)
    assert success[0] < success[2] < success[1]
    assert cost[0] < cost[1] < cost[2]
