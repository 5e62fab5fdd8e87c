"""The dashboard, the rules and the alerts against a real Prometheus that scrapes the running demo."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders import ROOT, free_port, until

HERE = ROOT / "examples" / "observability"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(
        not (PROMETHEUS and PROMTOOL),
        reason="prometheus and promtool are not installed (Debian: apt install prometheus)",
    ),
]


def promtool(*arguments: str) -> str:
    """Return the words of promtool, which must find no fault."""
    command = [str(PROMTOOL), *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_alert_speaks_when_it_should_and_is_silent_when_not():
    """Promtool accepts the configuration with its rules and their unit tests, one in which an alert fires and one not."""
    assert re.search(r"SUCCESS: \d\d rules found", promtool("check", "config", "prometheus.yml"))
    promtool("test", "rules", "cascade.rules.test.yml")
    tests = (HERE / "cascade.rules.test.yml").read_text()
    alerts = re.findall(r"alert: (\w+)", (HERE / "cascade.rules.yml").read_text())
    assert len(alerts) >= 6
    for alert in alerts:
        assert re.search(rf"alertname: {alert}, exp_alerts: \[\]", tests), f"{alert} is never shown silent"
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels", tests), f"{alert} is never shown firing"


# ---- live -----------------------------------------------------------------------------------------------------------
class Server:
    """A Prometheus by its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer. A refused expression is an answer of 400 with the reason."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """Return the value of an expression now."""
        try:
            return list(self.get("query", query=expression)["result"])
        except urllib.error.HTTPError as error:
            pytest.fail(f"{expression}: {error.read().decode()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo at work, and a Prometheus with the files of the examples that has scraped it for a while."""
    place = tmp_path_factory.mktemp("prometheus")
    target, port = free_port(), free_port()
    shutil.copy(HERE / "cascade.rules.yml", place)
    config = (HERE / "prometheus.yml").read_text().replace("127.0.0.1:9464", f"127.0.0.1:{target}")
    (place / "prometheus.yml").write_text(config.replace("15s", "1s"))
    rules = (place / "cascade.rules.yml").read_text()
    (place / "cascade.rules.yml").write_text(rules.replace("interval: 1m", "interval: 1s"))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "CASCADE_"))}
    demo = [sys.executable, str(HERE / "serve_demo.py"), "--port", str(target), "--pause", "0.02"]
    files = [f"--config.file={place / 'prometheus.yml'}", f"--storage.tsdb.path={place / 'data'}"]
    monitor = [str(PROMETHEUS), *files, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (place / "log").open("w") as log:
        started = [subprocess.Popen(command, cwd=place, env=env, stdout=log, stderr=log) for command in (demo, monitor)]
        try:
            api = Server(port)
            ready = f"{api.url}/-/ready"
            until(lambda: urllib.request.urlopen(ready, timeout=5).read(), seconds=180, what="Prometheus")
            until(lambda: api.query("up == 1"), seconds=180, what="a first scrape")
            # One of the tasks exhausts a step; the demo has done all of them once when it comes again.
            enough = "sum(increase(cascade_attempts_total[5m])) > 150"
            until(lambda: api.query(enough), seconds=120, what="enough steps")
            yield api
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.wait(timeout=20)


def _targets() -> list[tuple[str, str]]:
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", [pytest.param(expression, id=title) for title, expression in _targets()])
def test_every_panel_shows_data(server, expression):
    """Each expression of the dashboard parses and returns finite numbers for the demo."""
    expression = expression.replace("$__rate_interval", "30s").replace("$step", ".*")
    assert "$" not in expression
    values = [float(sample["value"][1]) for sample in server.query(expression)]
    assert any(value >= 0 for value in values), values


def test_every_rule_is_evaluated_without_error(server):
    """All recording rules give data, no rule has an error, and nothing about the demo raises a false alarm of a loss."""

    def evaluated() -> Any:
        rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = until(evaluated, seconds=120, what="an evaluation")
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    for rule in rules:
        found = server.query(rule["query"])
        if rule["type"] == "recording":
            # The steps that the demo exhausts are few; a share of none is no series.
            assert found or "exhausted" in rule["name"], rule["name"]
    lost = next(rule for rule in rules if rule["name"] == "CascadeRecordsLost")
    assert server.query(lost["query"]) == []


def test_the_series_are_few_and_say_nothing_of_the_conversation(server):
    """Labels are those of the scrape and of the instruments; their values are names of ours."""
    names = [name for name in server.get("label/__name__/values") if name.startswith("cascade_")]
    assert len(names) >= 12
    own = {"__name__", "job", "instance", "le", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
    labels = {key for s in server.get("series", **{"match[]": '{__name__=~"cascade_.+"}'}) for key in s}
    assert labels - own == {"step", "tier", "outcome", "reason", "validator", "currency"}
    for label in ("step", "tier", "outcome", "reason", "validator", "currency"):
        values = server.get(f"label/{label}/values")
        assert len(values) <= 16
        assert all(re.fullmatch(r"[A-Za-z_]+", value) for value in values), values
