"""`python -m cascade_agent.cli`."""

from cascade_agent.cli import main

main()
