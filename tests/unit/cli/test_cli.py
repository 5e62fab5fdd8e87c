"""The `cascade-agent` command, run as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from langchain_core.messages import convert_to_messages

import cascade_agent
from cascade_agent.journal.reader import read
from graphs.standins.models import large_standin, small_standin
from tests.builders import ROOT, command, loopback


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the demo on six tasks."""
    place = tmp_path_factory.mktemp("demo")
    return command("demo", "--tasks", 6, "--show", 2, cwd=place), place / ".cascade"


@pytest.mark.xdist_group("demo")
def test_the_demo_says_what_answers_and_shows_all_three_ways(demo):
    """It names the stand-ins as such before any figure, prints steps with who and why, and the three ways."""
    result, _ = demo
    assert result.exit_code == 0, result.stderr
    head, _, rest = result.stdout.partition("6 tasks")
    assert "Offline stand-ins" in head
    assert "not language models" in head
    assert "user: Where is my order O-2149?" in rest
    assert "get_order(order_id)" in rest
    for name in ("small alone", "cascade", "large alone"):
        assert name in rest
    assert "made-up" in rest.lower()


@pytest.mark.xdist_group("demo")
def test_the_demo_leaves_journal_spans_and_summary(demo):
    """The journal can be read back and agrees with the summary; every step of it has a span with its attempts below."""
    _, out = demo
    steps = list(read(out / "journal.jsonl"))
    summary = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert summary["stand_ins"] is True
    arm = summary["arms"]["cascade"]
    assert arm["tasks"] == 6
    assert arm["cost"] == pytest.approx(sum(step.cost for step in steps))
    assert arm["large_calls"] == sum(a.tier == "large" for step in steps for a in step.attempts)
    spans = [json.loads(line) for line in (out / "spans.jsonl").read_text(encoding="utf-8").splitlines()]
    roots = {s["context"]["span_id"] for s in spans if s["name"].startswith("cascade.step")}
    attempts = [s for s in spans if s["name"].startswith("cascade.attempt")]
    assert len(roots) == len(steps)
    assert len(attempts) == sum(a.outcome != "skipped" for step in steps for a in step.attempts)
    assert all((s["parent_id"] or "") in roots for s in attempts)


def test_the_demo_as_json_is_json(tmp_path):
    """`--json` prints the summary and nothing else; `--out` and `--graph` are followed."""
    out = tmp_path / "elsewhere"
    result = command("demo", "--tasks", 3, "--graph", "plan_execute", "--json", "--out", out, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["arms"].keys() == {"small alone", "cascade", "large alone"}
    assert {step.step for step in read(out / "journal.jsonl")} <= {"planner", "executor", "replanner"}
    assert not (tmp_path / ".cascade").exists()


def test_the_demo_runs_without_the_sdk(tmp_path):
    """Where only OpenTelemetry's API is installed the demo leaves no spans, and says what they need."""
    code = "import sys; sys.modules['opentelemetry.sdk'] = None; from cascade_agent.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--tasks", "1", "--graph", "extraction"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "langgraph-cascade[otel]" in done.stdout
    assert not (tmp_path / ".cascade" / "spans.jsonl").exists()


def test_a_second_demo_adds_to_the_journal(tmp_path):
    """Running again appends; the summary counts only the new run."""
    first, second = (json.loads(command("demo", "--tasks", 1, "--json", cwd=tmp_path).stdout) for _ in range(2))
    assert first["arms"]["cascade"]["cost"] == second["arms"]["cascade"]["cost"]
    threads = {step.thread_id for step in read(tmp_path / ".cascade" / "journal.jsonl")}
    assert len(threads) == 2


def test_a_model_that_cannot_be_reached_stops_the_demo(tmp_path):
    """Code 1 and one line: the input was good."""
    args = ("--small", "a", "--large", "b", "--base-url", "http://127.0.0.1:9/v1", "--tasks", "1")
    entry = command("demo", *args, cwd=tmp_path, code=1).stderr
    assert "the demo stopped: " in entry
    assert "Traceback" not in entry


def endpoint(_request, sent):
    """Answer as an OpenAI-compatible endpoint does, behind which the stand-ins stand."""
    body = json.loads(sent)
    model = small_standin() if body["model"] == "tiny" else large_standin()
    answer = model.bind(tools=body.get("tools", ())).invoke(convert_to_messages(body["messages"]))
    broken = [{"id": c["id"], "name": c["name"], "text": c["args"]} for c in answer.invalid_tool_calls]
    sound = [{"id": c["id"], "name": c["name"], "text": json.dumps(c["args"])} for c in answer.tool_calls]
    calls = [
        {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["text"]}}
        for c in sound + broken
    ]
    usage = answer.usage_metadata
    reply = {
        "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "finish_reason": answer.response_metadata["finish_reason"],
                     "message": {"role": "assistant", "content": answer.text, **({"tool_calls": calls} if calls else {})}}],
        "usage": {"prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"],
                  "total_tokens": usage["total_tokens"]},
    }  # fmt: skip
    return 200, json.dumps(reply).encode(), "application/json"


def test_the_demo_asks_any_compatible_endpoint(tmp_path):
    """With --base-url both models are asked over HTTP; it says that they are live and leaves unknown costs unknown."""
    out = tmp_path / "live"
    with loopback(endpoint) as url:
        args = ("--small", "tiny", "--large", "huge", "--base-url", f"{url}/v1", "--tasks", 4, "--out", out)
        result = command("demo", *args, cwd=tmp_path, OPENAI_API_KEY="")
    assert result.exit_code == 0, result.stderr
    assert "Live models: small tiny, large huge" in result.stdout
    assert "stand-in" not in result.stdout
    summary = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert summary["stand_ins"] is False
    assert {arm["cost"] for arm in summary["arms"].values()} == {None}
    assert summary["arms"]["large alone"]["succeeded"] == 4
    assert summary["arms"]["cascade"]["large_calls"] > 0


def test_help_version_and_completion(tmp_path):
    """Every command explains itself; `--version` prints it; a file where the directory should be is named."""
    for args in [["--help"], ["demo", "--help"], ["trace", "--help"]]:
        result = command(*args, cwd=tmp_path)
        assert result.exit_code == 0
        assert "Usage" in result.stdout
    assert command("--version", cwd=tmp_path).stdout == f"cascade-agent {cascade_agent.__version__}\n"
    assert "--install-completion" in command("--help", cwd=tmp_path).stdout
    (tmp_path / "taken").write_text("x", encoding="utf-8")
    result = command("demo", "--out", "taken", cwd=tmp_path)
    assert result.exit_code == 2
    assert "taken" in result.stderr
