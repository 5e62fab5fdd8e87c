"""Some tasks of the offline demo, one trace each, sent over OTLP to whatever listens: Phoenix, MLflow, a collector.

    python examples/observability/send_demo.py [--endpoint http://127.0.0.1:6006/v1/traces] [--header NAME=VALUE]

Needs `pip install opentelemetry-exporter-otlp-proto-http`. The two models are offline stand-ins, not language models.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cascade_agent.telemetry import invoke_workflow
from graphs import plan_execute, support
from graphs.evaluation.demo import choose
from graphs.evaluation.run import run_task
from graphs.evaluation.tasks import load_tasks
from graphs.standins.models import standin_tiers

GRAPHS = {"support": support, "plan_execute": plan_execute}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="http://127.0.0.1:6006/v1/traces")
    parser.add_argument("--header", action="append", default=[], help="a header of every request, NAME=VALUE")
    parser.add_argument("--project", default="cascade-agent demo", help="name of the service, and of Phoenix's project")
    parser.add_argument("--tasks", type=int, default=6, help="how many tasks, spread over the list")
    options = parser.parse_args()

    # These lines are all that an application needs.
    resource = Resource.create({"service.name": options.project, "openinference.project.name": options.project})
    provider = TracerProvider(resource=resource)
    headers = dict(header.split("=", 1) for header in options.header)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(options.endpoint, headers=headers)))
    trace.set_tracer_provider(provider)

    small, large = standin_tiers()
    for task in choose(load_tasks(), options.tasks):
        thread = f"demo-{task.id}"
        with invoke_workflow(task.graph, thread_id=thread):
            result = run_task(task, partial(GRAPHS[task.graph].build, small, large), thread_id=thread)
        print("done  " if result.success else "missed", task.id, f"({len(result.calls)} model calls)")
    provider.shutdown()


if __name__ == "__main__":
    main()
