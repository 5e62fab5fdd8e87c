"""`python -m cascade_agent`: the `cascade-agent` command."""

from cascade_agent.cli import main

main()
