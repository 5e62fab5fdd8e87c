"""The `cascade-agent` command.

Results go to standard output (`--json` prints nothing else there), complaints to standard error. Exit code 0 is done, 1
a run that failed, 2 input that cannot be used, 3 an alarm (`drift` alone). Each command has a file of its own, which is
imported when it is called.
"""

from __future__ import annotations

from cascade_agent.cli._app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command."""
    app(prog_name="cascade-agent")
