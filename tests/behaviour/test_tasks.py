"""The measured tasks: each can be done, none is done by doing nothing, and the judge sees every difference."""

from __future__ import annotations

import pytest

from graphs.evaluation.run import holds, judge
from graphs.evaluation.tasks import load_tasks, wordings
from tools.database import OrderDatabase
from tools.orders import SIDE_EFFECTS, order_tools

TASKS = load_tasks()
by_id = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)


def answer_of(task) -> list[str]:
    """An answer for every turn, the last one holding one wording of every fact."""
    return ["ok"] * (len(task.turns) - 1) + [" ; ".join(fact[0] for fact in task.facts) or "You're welcome."]


def carried_out(task):
    """The database before and after the task's own calls, and their statuses."""
    db = OrderDatabase()
    before, tools = db.snapshot(), {tool.name: tool for tool in order_tools(db)}
    calls = [
        {"type": "tool_call", "id": str(n), "name": name, "args": args} for n, (name, args) in enumerate(task.calls)
    ]
    statuses = {tools[call["name"]].invoke(call).status for call in calls}
    after = db.snapshot()
    db.close()
    return before, after, statuses


@by_id
def test_exactly_the_calls_and_facts_of_a_task_succeed(task):
    """Its own calls reach its end state; one order cancelled or refunded on top is found."""
    before, after, statuses = carried_out(task)
    assert statuses <= {"success"}
    assert judge(task, before, after, answer_of(task)) == ()
    spare = next(o for o, row in after["orders"].items() if row["status"] == "processing" and o not in str(task))
    orders = {**after["orders"], spare: {**after["orders"][spare], "status": "cancelled"}}
    missed = judge(task, before, {**after, "orders": orders}, answer_of(task))
    assert f"orders {spare}: changed, though nobody asked for it" in missed
    more = {"id": 999, "order_id": "O-2138", "amount_cents": 1, "reason": "late", "refunded_on": "2026-03-15"}
    missed = judge(task, before, {**after, "refunds": {**after["refunds"], "999": more}}, answer_of(task))
    assert "refunds: a row that nobody asked for" in missed


def test_doing_and_saying_too_little_is_no_success():
    """A task is missed without calls and answers; with a friendly word where facts or changes are wanted; without the deed."""
    before = OrderDatabase().snapshot()
    for task in TASKS:
        assert judge(task, before, before, [""] * len(task.turns)), task.id
        assert judge(task, before, before, []), task.id
        if task.facts or task.changes:
            assert judge(task, before, before, ["Of course!"] * len(task.turns)), task.id
        if task.changes:
            missed = judge(task, before, before, answer_of(task))
            assert any("not changed" in m or "missing" in m for m in missed), task.id


def test_there_are_enough_tasks_of_both_graphs_with_unique_ids():
    """At least 60 tasks: at least 40 for the agent loop and 20 for plan and execute; some in other languages."""
    assert len(TASKS) >= 60
    assert len({task.id for task in TASKS}) == len(TASKS)
    assert sum(task.graph == "support" for task in TASKS) >= 40
    assert sum(task.graph == "plan_execute" for task in TASKS) >= 20
    assert {"de", "es", "fr", "ja"} <= {task.language for task in TASKS}
    assert {name for task in TASKS for name, _ in task.calls} <= SIDE_EFFECTS.keys()


@pytest.mark.parametrize(
    ("fact", "holding", "missing"),
    [
        ("3", ["There are 3 orders."], ["Order O-2133 of 13.3", "3.5 of them"]),
        ("11.00", ["It was 11.00 EUR."], ["It was 111.00 EUR.", "It was 1.11.00"]),
        ("Dublin", ["in DUBLIN now", "Dublinです"], ["Dubliners"]),
    ],
)
def test_facts_are_found_as_words(fact, holding, missing):
    """A number inside another one does not count."""
    assert [holds(text, fact) for text in holding + missing] == [True] * len(holding) + [False] * len(missing)


def test_facts_in_usual_writings():
    """A date or an amount in the usual spellings counts."""
    assert {"2026-03-16", "March 16", "16 March", "16.03", "3月16日"} <= set(wordings({"date": "2026-03-16"}))
    for amount, writings in (("20.00", "20.00 20,00 20 20.0"), ("11.50", "11.50 11,50 11.5"), ("11.55", "11.55 11,55")):
        assert " ".join(wordings({"amount": amount})) == writings
