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

_MODULES = {
    "adapters.chat_model": "CascadeChatModel",
    "adapters.middleware": "CascadeMiddleware",
    "adapters.node": "cascade_node cascade_step swap_node",
    "core.policy": "Policy",
    "core.records": "Draft StepContext StepTrace Verdict",
    "core.scoring": "Scorer",
    "errors": "CascadeError CascadeExhausted",
    "journal.writer": "Journal",
    "models.pricing": "Price",
    "models.tier": "Tier",
    "offline.calibration.policy_file": "load_policy",
    "offline.evaluation.assess": "Assessment assess",
    "validators": "default_validators",
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names.split()}

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
