"""The report: what a journal says, as one HTML file that needs nothing else, and as the same figures in JSON."""

from __future__ import annotations

from cascade_agent.offline.report.build import build_report
from cascade_agent.offline.report.data import Report
from cascade_agent.offline.report.page import render

__all__ = ["Report", "build_report", "render"]
