"""The shipped validators, the default list of them, and the scorer of their weights.

Each is imported when it is first used, so that a graph pays only for what it has.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cascade_agent.core.scoring import Scorer

if TYPE_CHECKING:
    from cascade_agent.validators.after_tool_error import AfterToolError
    from cascade_agent.validators.complete_response import CompleteResponse
    from cascade_agent.validators.cross_check import CrossCheck
    from cascade_agent.validators.grounding import Grounding
    from cascade_agent.validators.judge import Judge
    from cascade_agent.validators.no_repeat import NoRepeat
    from cascade_agent.validators.plan_consistency import Plan, PlanConsistency, PlanStep
    from cascade_agent.validators.self_consistency import SelfConsistency
    from cascade_agent.validators.skipped_call import SkippedCall
    from cascade_agent.validators.structured_output import StructuredOutput
    from cascade_agent.validators.token_confidence import TokenConfidence
    from cascade_agent.validators.tool_call_schema import ToolCallSchema
    from cascade_agent.validators.tool_relevance import ToolRelevance
    from cascade_agent.validators.turn_progress import TurnProgress

__all__ = [
    "AfterToolError",
    "CompleteResponse",
    "CrossCheck",
    "Grounding",
    "Judge",
    "NoRepeat",
    "Plan",
    "PlanConsistency",
    "PlanStep",
    "SelfConsistency",
    "SkippedCall",
    "StructuredOutput",
    "TokenConfidence",
    "ToolCallSchema",
    "ToolRelevance",
    "TurnProgress",
    "default_validators",
    "shipped_scorer",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # each class stands in the file of its name, Plan and PlanStep in that of the validator that reads them
    file = "plan_consistency" if name in ("Plan", "PlanStep") else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    value = getattr(import_module(f"{__name__}.{file}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def default_validators() -> list[Any]:
    """Return the local validators that need no model, cheapest first.

    `PlanConsistency` acts only where a plan is found, `TokenConfidence` only where the provider gives log-probabilities
    and they are very low.
    """
    names = "CompleteResponse StructuredOutput ToolCallSchema NoRepeat AfterToolError SkippedCall PlanConsistency "
    names += "Grounding ToolRelevance TurnProgress"
    return [*(__getattr__(name)() for name in names.split()), __getattr__("TokenConfidence")(graded=False)]


@cache
def shipped_scorer() -> Scorer:
    """Return the scorer of the shipped validators' own weights."""
    shipped = [__getattr__(name) for name in __all__ if name[0].isupper()]
    weights = {code: weight for cls in shipped for code, weight in getattr(cls, "weights", {}).items()}
    return Scorer.from_weights(weights, in_loops=__getattr__("TurnProgress").in_loops)
