"""A meter provider that refuses instruments: the package imports, steps answer, and the loss is counted."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEP = """
import sys
from opentelemetry import metrics

class Meter(metrics.NoOpMeter):
    def refuse(self, *args, **kwargs):
        raise ValueError("no instruments here")
    create_counter = create_histogram = create_observable_counter = create_up_down_counter = refuse
    create_gauge = create_observable_gauge = create_observable_up_down_counter = refuse

class Provider(metrics.MeterProvider):
    def get_meter(self, name, *args, **kwargs):
        if sys.argv[1] == "meter":
            raise ValueError("no meters here")
        return Meter(name)

metrics.set_meter_provider(Provider())
from cascade_agent import CascadeChatModel
from cascade_agent.testing import ScriptedChatModel
model = CascadeChatModel(small=ScriptedChatModel("fine", loop=True), large=ScriptedChatModel("x"))
print([model.invoke("hi").text for _ in range(3)])
from cascade_agent.telemetry import errors
print(errors.lost > 0)
"""


@pytest.mark.parametrize("what", ["meter", "instrument"])
def test_a_provider_that_refuses_breaks_nothing(what: str) -> None:
    """Neither the import nor a step ends with its exception, and what cannot be counted is."""
    done = subprocess.run([sys.executable, "-c", STEP, what], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["['fine', 'fine', 'fine']", "True"]
