"""Small-then-large model cascades for LangGraph, every decision on record.

Names are imported when they are first used: importing the package alone imports neither langgraph, langchain nor the
OpenTelemetry SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_agent.assessment import Assessment, assess
    from cascade_agent.chat_model import CascadeChatModel
    from cascade_agent.confidence import Scorer
    from cascade_agent.errors import CascadeError, CascadeExhausted
    from cascade_agent.journal import Journal
    from cascade_agent.middleware import CascadeMiddleware
    from cascade_agent.node import cascade_node, cascade_step, swap_node
    from cascade_agent.policy import Policy
    from cascade_agent.pricing import Price
    from cascade_agent.records import Draft, StepContext, StepTrace, Verdict
    from cascade_agent.tiers import Tier
    from cascade_agent.validators import default_validators

__version__ = "0.1.0"

_ROOMS = {
    "Assessment": "assessment",
    "CascadeChatModel": "chat_model",
    "CascadeError": "errors",
    "CascadeExhausted": "errors",
    "CascadeMiddleware": "middleware",
    "Draft": "records",
    "Journal": "journal",
    "Policy": "policy",
    "Price": "pricing",
    "Scorer": "confidence",
    "StepContext": "records",
    "StepTrace": "records",
    "Tier": "tiers",
    "Verdict": "records",
    "assess": "assessment",
    "cascade_node": "node",
    "cascade_step": "node",
    "default_validators": "validators",
    "swap_node": "node",
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
    "swap_node",
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
