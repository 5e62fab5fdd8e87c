"""The demo in a real MLflow: sent over OTLP, read back over its REST interface. `make mlflow-test`."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders import ROOT, free_port, until

HERE = ROOT / "examples" / "observability"
MLFLOW = ROOT / ".venv-mlflow" / "bin" / "mlflow"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.mlflow,
    pytest.mark.skipif(not MLFLOW.exists(), reason="MLflow is not installed: `make mlflow-test` makes its environment"),
]


def ask(url: str, body: Any = None) -> Any:
    """The JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Six traces of the demo as an MLflow on loopback has them."""
    place = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{free_port()}"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "CASCADE_", "MLFLOW_"))}
    # Its first answer to OTLP takes longer than the exporter's ten seconds.
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OTEL_EXPORTER_OTLP_TIMEOUT": "120"}
    serve = [str(MLFLOW), "server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--workers", "1"]
    serve += ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--artifacts-destination", str(place)]
    with (place / "log").open("w") as log:
        server = subprocess.Popen(serve, cwd=place, env=env, stdout=log, stderr=log)
        try:
            until(lambda: urllib.request.urlopen(f"{url}/health", timeout=5).read(), seconds=180, what="MLflow")
            send = [sys.executable, str(HERE / "send_demo.py"), "--endpoint", f"{url}/v1/traces"]
            send += ["--header", "x-mlflow-experiment-id=0"]
            sent = subprocess.run(send, cwd=place, env=env, capture_output=True, text=True, timeout=180, check=False)
            assert sent.returncode == 0, sent.stderr
            assert "Failed" not in sent.stderr
            assert len(re.findall(r"model calls", sent.stdout)) == 6
            where = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
            found = ask(f"{url}/api/3.0/mlflow/traces/search", {"locations": [where], "max_results": 100})["traces"]
            yield [ask(f"{url}/api/3.0/mlflow/traces/get?trace_id={trace['trace_id']}")["trace"] for trace in found]
        finally:
            server.terminate()
            server.wait(timeout=30)


def plain(span: Any) -> dict[str, Any]:
    """Attributes of a span as Python values."""
    return {a["key"]: next(iter(a["value"].values()), None) for a in span["attributes"]}


def test_the_tree_as_mlflow_has_it(traces):
    """Each run of a graph is a trace: steps under the run, attempts under steps, model calls under attempts."""
    assert len(traces) == 6
    for trace in traces:
        by_id = {span["span_id"]: span for span in trace["spans"]}
        (root,) = [span for span in trace["spans"] if span.get("parent_span_id") not in by_id]
        assert root["name"].startswith("invoke_workflow ")
        nested = {
            (span["name"].split()[0], by_id[span["parent_span_id"]]["name"].split()[0])
            for span in trace["spans"]
            if span is not root
        }
        assert nested == {
            ("cascade.step", "invoke_workflow"),
            ("cascade.attempt", "cascade.step"),
            ("chat", "cascade.attempt"),
        }


def test_mlflow_counts_tokens_once(traces):
    """Its total of each trace is what the attempts used."""
    for trace in traces:
        entry = json.loads(trace["trace_info"]["trace_metadata"]["mlflow.trace.tokenUsage"])
        attempts = [plain(span) for span in trace["spans"] if span["name"].startswith("cascade.attempt")]
        used = [int(a[f"cascade.attempt.{side}_tokens"]) for a in attempts for side in ("input", "output")]
        assert entry["total_tokens"] == sum(used) > 0


def test_decisions_and_sessions_as_mlflow_has_them(traces):
    """Reasons stand on the steps, escalations are events, the thread is MLflow's session."""
    sessions = {trace["trace_info"]["trace_metadata"].get("mlflow.trace.session") for trace in traces}
    assert {"demo-track", "demo-plan_refund_all"} <= sessions
    steps = [span for trace in traces for span in trace["spans"] if span["name"].startswith("cascade.step")]
    escalated = [span for span in steps if plain(span)["cascade.step.outcome"] == "escalated"]
    assert escalated
    for span in escalated:
        assert plain(span)["cascade.step.reason"]
        assert [event["name"] for event in span["events"]] == ["cascade.escalation"]
