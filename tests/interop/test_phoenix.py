"""The demo in a real Arize Phoenix: sent over OTLP, read back over its API, looked at in a browser. `make phoenix-test`."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import ROOT, free_port, until

HERE = ROOT / "examples" / "observability"
PYTHON = ROOT / ".venv-phoenix" / "bin" / "python"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROJECT = "cascade-agent demo"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.phoenix,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="Phoenix is not installed: `make phoenix-test` makes its environment"
    ),
]


@dataclass
class Phoenix:
    """A server of this test, by its REST and GraphQL interfaces."""

    url: str
    process: "subprocess.Popen[bytes]"

    def get(self, path: str, **query: Any) -> Any:
        """The data of an answer."""
        with urllib.request.urlopen(f"{self.url}/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as reply:
            return json.load(reply)["data"]

    def ask(self, query: str) -> Any:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)["data"]

    def spans(self) -> list[Any]:
        """All spans of the demo's project."""
        return list(self.get(f"projects/{urllib.parse.quote(PROJECT)}/spans", limit=1000))


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    """A Phoenix on loopback that the demo has sent six traces to."""
    place = tmp_path_factory.mktemp("phoenix")
    port = free_port()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "CASCADE_", "PHOENIX_"))}
    serve = [str(PYTHON), str(HERE / "phoenix_server.py"), "--port", str(port), "--dir", str(place)]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(serve, cwd=place, env=env, stdout=log, stderr=log)
        try:
            server = Phoenix(f"http://127.0.0.1:{port}", process)
            until(lambda: server.get("projects"), seconds=180, what="Phoenix")
            send = [sys.executable, str(HERE / "send_demo.py"), "--endpoint", f"{server.url}/v1/traces"]
            sent = subprocess.run(send, cwd=place, env=env, capture_output=True, text=True, timeout=120, check=False)
            assert sent.returncode == 0, sent.stderr
            asked = sum(int(count) for count in re.findall(r"\((\d+) model calls\)", sent.stdout))
            until(lambda: len(models(server.spans())) == asked, seconds=180, what=f"the spans of {asked} model calls")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def models(spans: list[Any]) -> list[Any]:
    """The spans of model calls."""
    return [span for span in spans if span["span_kind"] == "LLM"]


def test_it_listens_on_loopback_alone(phoenix):
    """Neither its web port nor a gRPC port is open to other machines."""
    inodes = set()
    for link in Path(f"/proc/{phoenix.process.pid}/fd").iterdir():
        if found := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
            inodes.add(found[1])
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and cells[9] in inodes:
                listening.add(cells[1])
    assert {address.rpartition(":")[0] for address in listening} == {"0100007F"}
    assert len(listening) == 1


def test_the_tree_as_phoenix_has_it(phoenix):
    """Each run of a graph is a trace: steps under the run, attempts under steps, model calls under attempts."""
    spans = phoenix.spans()
    by_id = {span["context"]["span_id"]: span for span in spans}
    roots = [span for span in spans if span["parent_id"] is None]
    assert len(roots) == 6
    assert {span["name"].split()[0] for span in roots} == {"invoke_workflow"}
    nested = {
        (span["name"].split()[0], by_id[span["parent_id"]]["name"].split()[0]) for span in spans if span not in roots
    }
    assert nested == {
        ("cascade.step", "invoke_workflow"),
        ("cascade.attempt", "cascade.step"),
        ("chat", "cascade.attempt"),
    }
    assert all(span["status_code"] != "ERROR" for span in spans)


def test_attributes_and_events_as_phoenix_has_them(phoenix):
    """Outcome, reason, tier, cost and confidence stand on the step, verdicts and the escalation as events."""
    steps = [span for span in phoenix.spans() if span["name"].startswith("cascade.step")]
    escalated = [span for span in steps if span["attributes"]["cascade.step.escalated"]]
    assert 0 < len(escalated) < len(steps)
    for span in escalated:
        assert span["attributes"]["cascade.step.outcome"] == "escalated"
        assert span["attributes"]["cascade.step.final_tier"] == "large"
        assert span["attributes"]["cascade.step.attempts"] == 2
        assert isinstance(span["attributes"]["cascade.step.cost"], float)
        (event,) = span["events"]
        assert event["name"] == "cascade.escalation"
        assert event["attributes"]["cascade.escalation.reason"] == span["attributes"]["cascade.step.reason"]
    verdicts = [e for span in phoenix.spans() for e in span["events"] if e["name"] == "gen_ai.evaluation.result"]
    assert {"pass", "fail"} <= {event["attributes"]["gen_ai.evaluation.score.label"] for event in verdicts}
    assert {span["attributes"].get("session.id") for span in steps} >= {"demo-track", "demo-plan_refund_all"}


def test_phoenix_counts_tokens_once(phoenix):
    """Its total over the project is what the attempts used, and not twice that."""
    attempts = [span["attributes"] for span in phoenix.spans() if span["name"].startswith("cascade.attempt")]
    used = sum(a["cascade.attempt.input_tokens"] + a["cascade.attempt.output_tokens"] for a in attempts)
    nodes = phoenix.ask("{ projects { edges { node { name tokenCountTotal } } } }")["projects"]["edges"]
    (total,) = [edge["node"]["tokenCountTotal"] for edge in nodes if edge["node"]["name"] == PROJECT]
    assert total == used > 0


def test_no_content_reaches_phoenix(phoenix):
    """No span holds what the demo's users ask and what its models answer."""
    exported = json.dumps(phoenix.spans()).lower()
    tasks = json.loads((ROOT / "graphs" / "evaluation" / "tasks.json").read_text())
    words = {turn.lower() for task in tasks for turn in task["turns"]}
    assert len(words) > 50
    assert not [turn for turn in words if turn in exported]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")
def test_the_trace_page_in_a_browser(phoenix, tmp_path):
    """The page of a trace with an escalated step can be looked at; with PHOENIX_PICTURE=FILE the picture is kept."""
    spans = phoenix.spans()
    (root,) = [
        s for s in spans if s["parent_id"] is None and s["attributes"].get("session.id") == "demo-plan_refund_all"
    ]
    trace = root["context"]["trace_id"]
    step = next(s for s in spans if s["context"]["trace_id"] == trace and s["attributes"].get("cascade.step.escalated"))
    (project,) = [p["id"] for p in phoenix.get("projects") if p["name"] == PROJECT]
    page = f"{phoenix.url}/projects/{project}/traces/{trace}?selectedSpanNodeId={step['id']}"
    picture, browser = tmp_path / "page.png", tmp_path / "chromium"
    base = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    base += [f"--user-data-dir={browser}", "--window-size=1480,960", "--virtual-time-budget=30000"]
    for want in (["--dump-dom"], [f"--screenshot={picture}"]):
        done = subprocess.run([*base, *want, page], capture_output=True, text=True, timeout=180, check=True)
        if want == ["--dump-dom"]:
            dom = done.stdout
    reason = step["attributes"]["cascade.step.reason"]
    for text in (trace, "cascade.attempt small", "cascade.attempt large", "chat standin-large", step["name"], reason):
        assert text in dom, f"the page does not show {text}"
    assert 20_000 < picture.stat().st_size <= 300_000
    if keep := os.environ.get("PHOENIX_PICTURE"):
        shutil.copy(picture, ROOT / keep)
