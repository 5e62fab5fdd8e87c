"""What if: recorded steps under other policies. What would have succeeded, what it would have cost, what is not known.

`what_if` does the whole in one process, `on_dask.what_if_on_dask` in many. The parts stand beside it.
"""

from __future__ import annotations

from cascade_agent.offline.evaluation.compare import Comparison, Row, compare, originals, tally_of, what_if
from cascade_agent.offline.evaluation.estimates import Figure, Figures
from cascade_agent.offline.evaluation.label_store import LabelStore
from cascade_agent.offline.evaluation.tally import Plan, Tally

__all__ = [
    "Comparison",
    "Figure",
    "Figures",
    "LabelStore",
    "Plan",
    "Row",
    "Tally",
    "compare",
    "originals",
    "tally_of",
    "what_if",
]
