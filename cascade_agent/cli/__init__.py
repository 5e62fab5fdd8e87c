"""The `cascade-agent` command.

Law: results go to standard output (`--json` prints nothing else there), complaints to standard error. Exit code 0 is
done, 1 is a run that failed, 2 is input that cannot be used, 3 an alarm (`drift` alone). Everything heavy is imported
inside the command that needs it. Each command has a file of its own and is known by being imported here.
"""

from __future__ import annotations

from cascade_agent.cli import calibrate, demo, drift, label, replay, report, trace
from cascade_agent.cli._app import app

__all__ = ["app", "calibrate", "demo", "drift", "label", "main", "replay", "report", "trace"]


def main() -> None:
    """Entry point of the command."""
    app(prog_name="cascade-agent")
