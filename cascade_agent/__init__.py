"""Small-then-large model cascades for LangGraph, every decision on record.

Names are imported when they are first used: importing the package alone imports neither langgraph, langchain nor the
OpenTelemetry SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_agent.adapters.chat_model import CascadeChatModel
    from cascade_agent.adapters.middleware import CascadeMiddleware
    from cascade_agent.adapters.node import cascade_node, cascade_step, swap_node
    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Draft, StepContext, StepTrace, Verdict
    from cascade_agent.core.scoring import Scorer
    from cascade_agent.errors import CascadeError, CascadeExhausted
    from cascade_agent.journal.writer import Journal
    from cascade_agent.models.pricing import Price
    from cascade_agent.models.tier import Tier
    from cascade_agent.offline.calibration.policy_file import load_policy
    from cascade_agent.offline.evaluation.assess import Assessment, assess
    from cascade_agent.validators import default_validators

__version__ = "0.1.0"

_LAZY = {
    "Assessment": "offline.evaluation.assess",
    "CascadeChatModel": "adapters.chat_model",
    "CascadeError": "errors",
    "CascadeExhausted": "errors",
    "CascadeMiddleware": "adapters.middleware",
    "Draft": "core.records",
    "Journal": "journal.writer",
    "Policy": "core.policy",
    "Price": "models.pricing",
    "Scorer": "core.scoring",
    "StepContext": "core.records",
    "StepTrace": "core.records",
    "Tier": "models.tier",
    "Verdict": "core.records",
    "assess": "offline.evaluation.assess",
    "cascade_node": "adapters.node",
    "cascade_step": "adapters.node",
    "default_validators": "validators",
    "load_policy": "offline.calibration.policy_file",
    "swap_node": "adapters.node",
}

__all__ = [
    "Assessment",
    "CascadeChatModel",
    "CascadeError",
    "CascadeExhausted",
    "CascadeMiddleware",
    "Draft",
    "Journal",
    "Policy",
    "Price",
    "Scorer",
    "StepContext",
    "StepTrace",
    "Tier",
    "Verdict",
    "assess",
    "cascade_node",
    "cascade_step",
    "default_validators",
    "load_policy",
    "swap_node",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
