"""Drift: monitors over a journal or a running process, and what to do about what they find.

`watch` runs them over recorded steps; `DriftWatch` is fed by a running process; the detectors stand by themselves.
"""

from __future__ import annotations

from cascade_agent.offline.drift.detectors import Adwin, Change, EDetector, Shift, Stability, f_tail, psi
from cascade_agent.offline.drift.monitors import DriftWatch, watch, watch_journals
from cascade_agent.offline.drift.savings import Prices, SavingsMonitor
from cascade_agent.offline.drift.values import Alarm, DriftReport, Fact, Monitor, Saving

__all__ = [
    "Adwin",
    "Alarm",
    "Change",
    "DriftReport",
    "DriftWatch",
    "EDetector",
    "Fact",
    "Monitor",
    "Prices",
    "Saving",
    "SavingsMonitor",
    "Shift",
    "Stability",
    "f_tail",
    "psi",
    "watch",
    "watch_journals",
]
