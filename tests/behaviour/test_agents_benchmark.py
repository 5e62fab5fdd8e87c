"""`benchmarks/agents.py`: what it says of a comparison, its stand-in pair, and tasks of the package where it is installed."""

import importlib.util
import warnings

import agents as benchmark
import pytest
from agents import Interval
from jsonschema import Draft202012Validator
from langchain_core.messages import HumanMessage, ToolMessage, convert_to_messages, convert_to_openai_messages

from tests.builders import ROOT
from tests.interop.stub_openai import StubOpenAI

PROPERTIES = {
    "source": {"type": "string"},
    "type": {"type": "string", "description": "a property named like a keyword"},
    "times": {"type": "float"},
}
PARAMETERS = {"type": "dict", "properties": PROPERTIES, "required": [*PROPERTIES]}
SORT = {"name": "sort", "description": "Sort.", "parameters": {"type": "dict", "properties": {}}}
ENTRY = {
    "id": "made_up_0",
    "question": [[{"role": "user", "content": "Copy plan.txt to old, five times."}], []],
    "function": [{"name": "copy", "description": "Copy a file.", "parameters": PARAMETERS}],
    "missed_function": {"1": [SORT]},
}
TRUTH = [["copy('plan.txt', type='old', times=5)"], ["sort()"]]
TASK = benchmark.Task(entry=ENTRY, truth=TRUTH, more_tools_prompt="More tools.")
NONE = dict.fromkeys(benchmark.SMALL_RATES, 0.0)
UP, DOWN, NIL = Interval(0.1, 0.05, 0.2), Interval(-0.1, -0.2, -0.05), Interval(0.0, -0.02, 0.02)
WIDE, CHEAP, DEAR = Interval(0.0, -0.1, 0.1), Interval(0.3, 0.2, 0.4), Interval(1.1, 1.05, 1.2)


@pytest.mark.parametrize(
    ("over_small", "over_large", "cost", "says"),
    [
        (UP, NIL, CHEAP, "YES."),
        (UP, UP, CHEAP, "YES."),
        (NIL, NIL, CHEAP, "NO. Small alone is better"),
        (UP, DOWN, CHEAP, "NO, where success counts. Large alone is better"),
        (UP, NIL, DEAR, "NO. Large alone is better"),
        (UP, WIDE, CHEAP, "NOT DECIDED."),
        (WIDE, NIL, CHEAP, "NOT DECIDED, not even against small"),
        (UP, UP, DEAR, "YES, where success counts"),
        (UP, NIL, None, "Costs are unknown"),
    ],
)
def test_the_answer_names_the_better_single_model(over_small, over_large, cost, says):
    """A cascade pays where it loses no more than the margin and costs less; where a single model is better it says so."""
    against = {"small": {"success": over_small, "cost": DEAR}, "large": {"success": over_large, "cost": cost}}
    assert benchmark.answer(against, 0.03).startswith(says)


def test_intervals_are_paired():
    """A task that both ways win or lose together adds no doubt to their difference."""
    alike = [(won, won) for won in (0.0, 1.0) * 20]
    assert benchmark.interval(alike, lambda a, b: a - b, 0) == (0, 0, 0)
    found = benchmark.interval([(won, 1 - won) for won, _ in alike], lambda a, b: (a - b) / 40, 0)
    assert found.low < 0 < found.high


@pytest.mark.parametrize(("fault", "says"), [("AuthenticationError: no key", "NOT MEASURED. 2 of 20"), (None, "YES.")])
def test_models_that_fail_are_not_taken_for_models_that_err(fault, says):
    """Where a provider failed in more than one task of twenty there is no answer; who succeeds at less cost pays."""
    calls = {"small": 1, "large": 1}
    cheap, dear, weak, failed = (
        benchmark.Played(success=success, cost=cost, calls=calls, fault=why)
        for success, cost, why in ((True, 1.0, None), (True, 9.0, None), (False, 0.5, None), (False, 0.5, fault))
    )
    errs = [weak] * 18 + [failed] * 2
    out = benchmark.report({"small": errs, "large": [dear] * 20, "by hand": errs, "cascade": [cheap] * 20}, 0.03, 0)
    assert out["answer"].startswith(says)
    assert out["ways"]["cascade"]["against_large"]["cost"].value == pytest.approx(1 / 9)
    assert out["by_hand"].startswith("The cascade is better than")


def test_the_truth_is_played_with_named_arguments_in_plain_json_schema():
    """Arguments get their names, foreign types become JSON Schema's, and a tool comes on offer in its turn."""
    assert TASK.plan == [[[("copy", {"source": "plan.txt", "type": "old", "times": 5})]], [[("sort", {})]]]
    assert [len(TASK.tools(turn)) for turn in (0, 1)] == [1, 2]
    schema = TASK.tools(0)[0]["function"]["parameters"]
    assert schema["properties"]["times"] == {"type": "number"}
    assert Draft202012Validator(schema).is_valid(TASK.plan[0][0][0].args)


def answers(error, *, seed=0, task=TASK):
    """Return the first answer of a stand-in that always makes an error, and what it says it drew."""
    model = benchmark.StandIn(task=task, tier="small", rates={**NONE, **error}, seed=seed)
    return model([HumanMessage("Copy plan.txt to old, five times.")]), model.drawn[-1]


@pytest.mark.parametrize("seed", range(6))
def test_every_error_is_the_error_that_it_is_called(seed):
    """A wrong argument fits its schema and differs in one value; a malformed call fits none; the others have no call."""
    true = TASK.plan[0][0][0].args
    fits = Draft202012Validator(TASK.tools(0)[0]["function"]["parameters"]).is_valid
    right, kind = answers({}, seed=seed)
    assert (right.tool_calls[0]["args"], kind) == (true, "right")
    args = answers({"argument": 1.0}, seed=seed)[0].tool_calls[0]["args"]
    assert fits(args)
    assert sum(args[key] != true[key] for key in true) == 1
    bad, _ = answers({"malformed": 1.0}, seed=seed)
    assert bad.invalid_tool_calls or bad.tool_calls[0]["name"] != "copy" or not fits(bad.tool_calls[0]["args"])
    for error, named in (("skip", "skip, ends the turn"), ("announce", "announce")):
        message, kind = answers({error: 1.0}, seed=seed)
        assert (message.tool_calls, message.invalid_tool_calls, bool(message.text), kind) == ([], [], True, named)


@pytest.mark.parametrize("unmended", [0.0, 1.0])
def test_a_wrong_call_that_failed_is_mended_or_passed_off_as_done(unmended):
    """After an error the true call comes, or the turn ends as though done."""
    first, _ = answers({"malformed": 1.0})
    call = [*first.tool_calls, *first.invalid_tool_calls][0]
    history = [HumanMessage("Copy"), first, ToolMessage("Error: no", tool_call_id=call["id"])]
    model = benchmark.StandIn(task=TASK, tier="small", rates={**NONE, "unmended": unmended})
    after = model(history)
    assert bool(after.tool_calls) != bool(unmended)
    if after.tool_calls:
        assert after.tool_calls[0]["args"] == TASK.plan[0][0][0].args
        assert after.tool_calls[0]["id"] != call["id"]


def test_common_places_are_hard_for_both():
    """With every place shared, a model with higher rates errs wherever the other does."""
    places = [("step", turn, at) for turn in range(20) for at in range(20)]
    small, large = (benchmark.StandIn(task=TASK, tier=t, rates=NONE, shared=1.0) for t in ("small", "large"))
    assert [small._draw(*p)[0] for p in places] == [large._draw(*p)[0] for p in places]


# ---- with the package -----------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make the package importable, from where `make agents` puts it too."""
    monkeypatch.setenv("BFCL_PROJECT_ROOT", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / ".venv-bench"))
    if importlib.util.find_spec("bfcl_eval") is None or importlib.util.find_spec("mpmath") is None:
        pytest.skip("bfcl-eval is not installed: `make agents` installs it apart")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("package")
def test_tasks_are_played_and_judged():
    """The truth succeeds everywhere; a pair that always skips fails everywhere, and then no cascade pays."""
    out = benchmark.run(benchmark.options(["--tasks", "6", "--categories", "base,miss_func,miss_param"]))
    assert (out["truth"], out["simulation"]) == (6, True)
    assert out["ways"]["large"]["against_large"]["cost"] == (1, 1, 1)
    assert out["ways"]["small"]["cost"] < out["ways"]["large"]["cost"]
    skips = ["--tasks", "3", "--small-rates", "skip=1", "--large-rates", "skip=1"]
    out = benchmark.run(benchmark.options(skips))
    assert all(row["success"] == 0 for row in out["ways"].values())
    assert out["answer"].startswith("NO. Small alone is better")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("package")
def test_a_pair_at_a_server_is_played():
    """Models at an OpenAI-compatible server: the truth from both succeeds; with costs by the prices that were given."""
    tasks = {task.request(0)[0].text: task for task in benchmark.load(["base"], 3, 0)}
    with truthful(tasks) as server:
        given = ["--small", "tiny", "--large", "huge", "--base-url", server.url, "--tasks", "3", "--categories", "base"]
        out = benchmark.run(benchmark.options([*given, "--small-price", "1,1", "--large-price", "10,10"]))
        assert {way: row["success"] for way, row in out["ways"].items()} == dict.fromkeys(benchmark.WAYS, 1.0)
        assert out["simulation"] is False
        assert out["cascade_against"]["large"]["cost"].value < 0.2
        unpriced = benchmark.run(benchmark.options(given))
        assert unpriced["answer"].startswith("Costs are unknown")


def truthful(tasks):
    """An OpenAI-compatible server on loopback whose models answer as the truth does."""

    def reply(payload):
        messages = convert_to_messages(payload["messages"])
        found = benchmark.StandIn(task=tasks[messages[0].text], tier=payload["model"], rates=NONE)(messages)
        return convert_to_openai_messages(found), "tool_calls" if found.tool_calls else "stop"

    return StubOpenAI(reply=reply)
