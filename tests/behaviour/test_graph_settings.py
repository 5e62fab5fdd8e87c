"""An assistant sets the policy and the models of a graph, as context or in `configurable`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage

from cascade_agent.errors import ConfigurationError
from cascade_agent.journal.reader import read
from graphs import code_repair, extraction, plan_execute, support
from graphs.evaluation.documents import extraction_tasks
from tests.builders import ROOT

if TYPE_CHECKING:
    from pathlib import Path

GRAPHS = {"support": support, "plan_execute": plan_execute, "code_repair": code_repair, "extraction": extraction}
TEXTS = {"extraction": extraction_tasks()[4].turns[0], "code_repair": "Please mend it."}
EVERYTHING_TO_LARGE = {"threshold": 1.0}


def policies(path: Path) -> set[str]:
    """The versions of the policies on record."""
    return {step.policy for step in read(path)}


@pytest.mark.parametrize("how", ["context", "configurable", "cascade_policy"])
@pytest.mark.parametrize("name", GRAPHS)
async def test_a_policy_as_plain_json_reaches_every_cascade(name, how, tmp_path, monkeypatch):
    """A threshold of 1 leaves no draft of small; the graph's other settings stay; sync and async."""
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "j.jsonl"))
    graph, question = GRAPHS[name].graph, {"messages": [HumanMessage(TEXTS.get(name, "What is the status of O-2189?"))]}
    settings: dict[str, Any] = {"context": {"policy": EVERYTHING_TO_LARGE}}
    if how != "context":
        key = "policy" if how == "configurable" else how
        settings = {"config": {"configurable": {key: EVERYTHING_TO_LARGE}}}
    graph.invoke(question, **settings)
    await graph.ainvoke(question, **settings)
    steps = list(read(tmp_path / "j.jsonl"))
    assert {step.final_tier for step in steps} == {"large"}
    before = policies(tmp_path / "j.jsonl")
    assert len(before) == 1
    graph.invoke(question)
    assert len(policies(tmp_path / "j.jsonl") - before) == 1


def test_context_counts_over_configurable_and_an_unknown_setting_is_named():
    """A misspelled setting is an error that names the nearest one."""
    given = {"configurable": {"policy": {"treshold": 1}}}
    question = {"messages": [HumanMessage("Thank you!")]}
    support.graph.invoke(question, given, context={"policy": {"threshold": 0.5}})
    with pytest.raises(ConfigurationError, match="'threshold'"):
        support.graph.invoke(question, given)


def test_models_are_named_by_provider_strings(tmp_path, monkeypatch):
    """The models of a run are those of its context; a graph without one keeps its own."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "j.jsonl"))
    question = {"messages": [HumanMessage("Thank you!")]}
    support.graph.invoke(question, context={"small": "openai:nobody-listens", "policy": {"latency_budget": 20.0}})
    (step,) = read(tmp_path / "j.jsonl")
    assert step.attempts[0].error
    assert step.final_tier == "large"
    assert step.attempts[-1].model == "standin-large"


@pytest.mark.parametrize("name", json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))["graphs"])
def test_servers_show_what_may_be_set(name):
    """Each served graph has a JSON Schema of its context."""
    schema = GRAPHS[name].graph.get_context_jsonschema()
    assert set(schema["properties"]) == {"policy", "small", "large"}
    assert "required" not in schema
