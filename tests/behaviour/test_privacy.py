"""Content stays at home: secrets are planted wherever a step has text, and every byte that is exported is searched."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool
from pydantic import BaseModel

from cascade_agent import StepContext, default_validators
from cascade_agent.core.records import Draft
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators import TokenConfidence
from cascade_agent.validators.validator_set import ValidatorSet
from tests import fresh
from tests.builders import RUN, json_values, otlp_receiver

pytestmark = pytest.mark.xdist_group("privacy")  # what these share is made once


PROGRAM = Path(__file__).parent / "privacy_run.py"
SECRET = re.compile(rb"zqx[a-z]{3,}\w*", re.IGNORECASE)  # three letters more: random ids hold shorter words
PLANTED = {
    *("zqxanswer", "zqxarg", "zqxkey", "zqxlarge", "zqxmodelerror", "zqxnosuchtool", "zqxplan", "zqxplantool"),
    *("zqxprompt", "zqxperson"),
}
"""Secrets that the journal holds when nothing is taken out: proof that they were there to leak."""


def exported_by_run(out: Path, **env: str) -> dict[str, bytes]:
    """Run the program; return what each exporter wrote, by its name."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "CASCADE_"))}
    with otlp_receiver() as (address, received):
        done = fresh.run(PROGRAM, out, address, env={**kept, "CASCADE_EVENTS": "both", **env})
    assert done.code == 0, done.err[-3000:]
    sinks = {file.name: file.read_bytes() for file in out.iterdir()}
    for path, body in received:
        sinks[path] = sinks.get(path, b"") + body
    return {**sinks, "standard output": done.out.encode(), "standard error": done.err.encode()}


def secrets(data: bytes) -> Counter[str]:
    """The secrets that are to be found."""
    return Counter(found.decode().lower() for found in SECRET.findall(data))


@pytest.fixture(scope="module")
def sinks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The exports with the settings that nobody made."""
    ways = {"PRIVACY_EVERY_WAY": "1"} if RUN["slow"] else {}
    return exported_by_run(tmp_path_factory.mktemp("exported"), **ways)


def test_the_secrets_were_there_and_so_were_the_exporters(sinks):
    """A journal without redaction holds them; each exporter saw steps of every outcome."""
    assert secrets(sinks["plain.jsonl"]).keys() >= PLANTED
    for name in ("spans.txt", "console.json", "/v1/traces"):
        for word in (b"cascade.step.outcome", b"accepted", b"escalated", b"exhausted", b"interrupted", b"cancelled",
                     b"schema_invalid", b"model_error", b"timeout", b"gen_ai.evaluation.result", b"thread-1"):  # fmt: skip
            assert word in sinks[name], (name, word)
    assert b"validator_error" in sinks["spans.txt"]
    assert b"gives no verdict" in sinks["python.log"]
    for name in ("/v1/metrics", "metrics.json", "/v1/logs"):
        assert len(sinks.get(name, b"")) > 1000, name


def test_nothing_that_is_exported_holds_a_secret(sinks):
    """Spans in memory, on the console, over OTLP and in its file, metrics, log events, Python's log, standard streams.

    The record on a message is without content. `redact` sees every text of a journal; where it breaks, none is written.
    """
    journals = {
        name: data.count(b"\n") for name, data in sinks.items() if name.endswith(".jsonl") and "otlp" not in name
    }
    assert journals.keys() == {"plain.jsonl", "redacted.jsonl", "broken.jsonl", "metadata.jsonl"}
    assert {*journals, "spans.txt", "console.json", "python.log", "/v1/traces"} <= sinks.keys()
    assert len(set(journals.values())) == 1
    assert journals["plain.jsonl"] > 100
    found = {name: secrets(data) for name, data in sinks.items() if name != "plain.jsonl"}
    assert {name: some for name, some in found.items() if some} == {}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["content", "redacted", "broken"])
def test_spans_hold_content_when_it_is_asked_for_and_redacted(tmp_path, how):
    """Content is exported only on request, and then each text through `redact`; where that breaks, no text and no quote."""
    sinks = exported_by_run(tmp_path, PRIVACY_CONTENT=how)
    found = secrets(sinks["/v1/traces"])
    if how == "content":
        assert found.keys() >= {"zqxprompt", "zqxsystem", "zqxarg", "zqxanswer"}
        return
    assert (b"***" if how == "redacted" else b"redact failed") in sinks["/v1/traces"]
    assert found.keys() <= {"zqxcallid0", "zqxcallid1", "zqxnosuchtool"}  # ids and names are no texts
    assert secrets(sinks["python.log"] + sinks["standard error"]) == {}


# ---- the shipped validators -----------------------------------------------------------------------------------------
class Book(BaseModel):
    """Tool arguments of every kind."""

    city: str
    seats: int = 1
    people: dict[str, int] = {}
    nested: list[dict[str, str]] = []


def booked(city: str) -> str:
    """Book a trip to a city."""
    return city


TOOLS = [
    StructuredTool.from_function(booked, name="book", args_schema=Book),
    {"name": "plain", "parameters": {"type": "object", "required": ["when"], "properties": {
        "when": {"type": "string", "format": "date"}, "map": {"type": "object", "additionalProperties": {"type": "integer"}}}}},
]  # fmt: skip
SPECS = tool_specs(TOOLS)
TEXTS = [
    "zqx1",
    "zqx2 @mail.example",
    "2031-01-01 zqx3",
    "<zqx4>",
    "${zqx5.zqx6}",
    "your_zqx7",
    "zqx\0",
    "\ud800zqx",
    "",
]
PLAN = '{"steps": [{"id": "zqx8", "tool": "zqx9", "args": {}}]}'
KEYS = st.sampled_from(["zqx10", "zqx11@mail.example", "zqx 12", "zqx/13", "args", "steps", "name", "5"])
DATA = json_values(st.sampled_from([*TEXTS, PLAN]), KEYS, size=3) | st.sampled_from([7, 2**70])
NAMES = ["city", "seats", "people", "nested", "when", "map", "zqx14@mail.example", "zqx 15"]
ARGS = st.dictionaries(st.sampled_from(NAMES), DATA, max_size=4)
TOOL_NAMES = st.sampled_from(["book", "plain", "zqxtool", "", "make_plan"])
CALL = st.fixed_dictionaries({"name": TOOL_NAMES, "args": ARGS, "id": st.sampled_from(["zqx16", ""])})
IDS = st.sampled_from(["zqx17", "zqx19", "b"])
STEP = st.fixed_dictionaries({"id": IDS, "tool": TOOL_NAMES, "args": ARGS, "depends_on": st.lists(IDS, max_size=2)})
SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string", "maxLength": 3}}}


@given(
    calls=st.lists(CALL, max_size=3),
    text=st.sampled_from(["", "zqx20 book(city='zqx21')", "<tool_call>zqx22</tool_call>", '{"steps": []}', "Done, zqx23."]),
    earlier=st.lists(CALL, max_size=2),
    plan=st.lists(STEP, max_size=3) | st.none(),
    parsed=DATA,
    error=st.sampled_from([None, "zqx24 is not valid", "1 validation error for zqxModel\nzqx25.x\n  Input zqx26 [type=missing, input_value='zqx27']"]),
    structured=st.booleans(),
    meta=st.sampled_from([{}, {"finish_reason": "zqx28"}, {"finish_reason": "length"}, {"finish_reason": "content_filter"}]),
)  # fmt: skip
def test_no_verdict_quotes_what_was_said(calls, text, earlier, plan, parsed, error, structured, meta):
    """All shipped validators, on hostile calls, plans, outputs and histories: code, reason and path hold no such text."""
    messages: list[Any] = [SystemMessage("zqx30"), HumanMessage("zqx31 book a trip to Rome, 'zqx32', 40 %, O-4711")]
    for call in earlier:
        messages.append(AIMessage("", tool_calls=[{**call, "id": "e"}]))
        messages.append(ToolMessage("Error: zqx33", tool_call_id="e", status="error"))
    reply = AIMessage(text, tool_calls=calls, response_metadata=meta, invalid_tool_calls=[])
    reply.invalid_tool_calls = [
        {"name": "zqx34", "args": "{zqx35", "id": "zqx36", "error": "zqx37", "type": "invalid_tool_call"}
    ]
    context = StepContext(
        messages=messages,
        tools=SPECS,
        state={"plan": plan, "secret": "zqx38"},
        output_schema=SCHEMA if structured else None,
    )
    draft = Draft(message=reply, parsed=parsed if structured else None, parsing_error=error if structured else None)
    checks = ValidatorSet([*default_validators()[:-1], TokenConfidence()])
    verdicts = (*checks.validate(None, context), *checks.validate(draft, context))
    assert [v.code for v in verdicts if v.broken] == []
    for verdict in verdicts:
        assert "zqx" not in f"{verdict.code} {verdict.reason} {verdict.path} {verdict.validator}".lower()
        assert len(verdict.reason) <= 500
