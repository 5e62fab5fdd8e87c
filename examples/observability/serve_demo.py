"""The offline demo as a service that Prometheus can scrape: its agents work on, their metrics stand on loopback.

    python examples/observability/serve_demo.py [--port 9464] [--rounds 0]

Needs `pip install opentelemetry-exporter-prometheus`. The two models are offline stand-ins, not language models.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import start_http_server

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graphs import plan_execute, support
from graphs.evaluation.run import run_task
from graphs.evaluation.tasks import load_tasks
from graphs.standins.models import standin_tiers

GRAPHS = {"support": support, "plan_execute": plan_execute}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9464, help="where the metrics stand, on 127.0.0.1 only")
    parser.add_argument("--rounds", type=int, default=0, help="how often all tasks are done; 0 goes on until stopped")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two tasks")
    options = parser.parse_args()

    # These three lines are all that an application needs.
    resource = Resource.create({"service.name": "cascade-agent demo"})
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()], resource=resource))
    start_http_server(options.port, addr="127.0.0.1")

    print(f"metrics on http://127.0.0.1:{options.port}/metrics", flush=True)
    small, large = standin_tiers()
    done = 0
    while not options.rounds or done < options.rounds:
        for task in load_tasks():
            run_task(task, partial(GRAPHS[task.graph].build, small, large))
            time.sleep(options.pause)
        done += 1


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
