"""Calibration: from a labelled journal to a scorer, and to a threshold with a guarantee."""

from __future__ import annotations

from cascade_agent.offline.calibration.calibrate import CalibrationResult, Quality, Sample, calibrate
from cascade_agent.offline.calibration.certificate import (
    Certificate,
    Claim,
    NoThreshold,
    Unit,
    labels_for_power,
    labels_needed,
)
from cascade_agent.offline.calibration.fit import Example, Fit, fit, isotonic, learn_disagreement
from cascade_agent.offline.calibration.labelling import find_step, import_labels, to_look_at
from cascade_agent.offline.calibration.policy_file import load_policy, write_policy

__all__ = [
    "CalibrationResult",
    "Certificate",
    "Claim",
    "Example",
    "Fit",
    "NoThreshold",
    "Quality",
    "Sample",
    "Unit",
    "calibrate",
    "find_step",
    "fit",
    "import_labels",
    "isotonic",
    "labels_for_power",
    "labels_needed",
    "learn_disagreement",
    "load_policy",
    "to_look_at",
    "write_policy",
]
