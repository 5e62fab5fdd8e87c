"""Evaluation: recorded steps under other policies, and what they cost, from one reading of the journals."""

from __future__ import annotations

from cascade_agent.journal.labels import LabelStore
from cascade_agent.offline.evaluation.compare import Comparison, Row, compare
from cascade_agent.offline.evaluation.dataset import LabelledStep, LabelRules, Outcome, same_answers
from cascade_agent.offline.evaluation.estimates import Estimates, Figure, Figures
from cascade_agent.offline.evaluation.journals import Dataset, load_dataset
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally

__all__ = [
    "Comparison",
    "Dataset",
    "Estimates",
    "Figure",
    "Figures",
    "LabelRules",
    "LabelStore",
    "LabelledStep",
    "Outcome",
    "Row",
    "SweepPlan",
    "Tally",
    "compare",
    "load_dataset",
    "replay",
    "same_answers",
]
