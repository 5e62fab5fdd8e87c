"""Calibration: from a labelled journal to a scorer, and to a threshold with a guarantee.

`calibrate` does the whole; the parts stand beside it.
"""

from __future__ import annotations

from cascade_agent.offline.calibration.calibrate import CalibrationResult, Quality, Sample, calibrate
from cascade_agent.offline.calibration.certificate import (
    Certificate,
    Claim,
    NoThreshold,
    Unit,
    binomial_cdf,
    certify,
    certify_by_kind,
    labels_for_power,
    labels_needed,
    upper_bound,
)
from cascade_agent.offline.calibration.fit import Example, Fit, fit, isotonic
from cascade_agent.offline.calibration.labelling import find_step, import_labels, to_look_at
from cascade_agent.offline.calibration.policy_file import load_policy, write_policy
from cascade_agent.offline.evaluation.dataset import Case, Joined, join, same_answers
from cascade_agent.offline.evaluation.metrics import auroc, brier, calibration_error, interval
from cascade_agent.validators.validator_set import check_fit

__all__ = [
    "CalibrationResult",
    "Case",
    "Certificate",
    "Claim",
    "Example",
    "Fit",
    "Joined",
    "NoThreshold",
    "Quality",
    "Sample",
    "Unit",
    "auroc",
    "binomial_cdf",
    "brier",
    "calibrate",
    "calibration_error",
    "certify",
    "certify_by_kind",
    "check_fit",
    "find_step",
    "fit",
    "import_labels",
    "interval",
    "isotonic",
    "join",
    "labels_for_power",
    "labels_needed",
    "load_policy",
    "same_answers",
    "to_look_at",
    "upper_bound",
    "write_policy",
]
