"""Recorded answers of real models through `CascadeChatModel`: accuracy, cost and escalations beside the baselines.

    python benchmarks/replay_steps.py --data DIR --small MODEL --large MODEL [--json FILE]
    python benchmarks/replay_steps.py --data DIR --all-pairs

Accuracy is the recorded label of the answer that the cascade returned; cost is at the manifest's list prices, drafts
and evidence included. "default + cross-check" asks a second model of another family (chosen without labels, or named
by --second) inside the default policy's band. "oracle" escalates exactly where small is wrong and large is right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recorded import Recorded, RecordedModel, Row, answer, request, tokens
from rich.console import Console
from rich.table import Table

from cascade_agent import CascadeChatModel, CascadeExhausted, Policy, Tier, default_validators
from cascade_agent.core.records import Draft, StepContext
from cascade_agent.engine.step import trace_of
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators import CompleteResponse, ToolCallSchema
from cascade_agent.validators.agreement import agreement
from cascade_agent.validators.cross_check import CrossCheck


@dataclass
class Tally:
    """Results of one way of answering on some steps. A step that ended in an error counts as wrong."""

    steps: int = 0
    right: int = 0
    cost: float = 0.0
    escalated: int = 0
    kept_right: int = 0
    reasons: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, *, right: bool, cost: float, escalated: bool, reason: str = "") -> None:
        """Count one step."""
        self.steps += 1
        self.right += right
        self.cost += cost
        self.escalated += escalated
        if reason:
            self.reasons[reason] += 1


def run_cascade(model: CascadeChatModel, case: Row, rows: dict[str, dict[str, Row]]) -> dict[str, Any]:
    """One recorded case through the cascade; the label is that of the tier whose answer came back."""
    bound = model.bind_tools(case["tools"])
    try:
        message = bound.invoke(request(case), config={"metadata": {"case": case["id"]}})
        trace = trace_of(message)
    except CascadeExhausted as error:
        trace = error.trace
    assert trace is not None
    assert trace.cost is not None, "every recorded answer has a price and tokens"
    tier = trace.final_tier
    right = tier is not None and rows[tier][case["id"]]["correct"]
    return {"right": right, "cost": trace.cost, "escalated": trace.escalated, "reason": trace.reason}


def measure(data: Recorded, small: str, large: str, second: str) -> dict[str, dict[str, Tally]]:
    """Every way of answering on every case: way -> kind of step (and "all") -> tally."""
    rows = {"small": data.answers(small), "large": data.answers(large)}
    prices = {"small": data.price(small), "large": data.price(large)}
    tiers = {
        role: Tier(RecordedModel(model_name=name, rows=rows[role]), price=prices[role])
        for role, name in (("small", small), ("large", large))
    }
    checking = Tier(RecordedModel(model_name=second, rows=data.answers(second)), price=data.price(second))
    cascades: dict[str, Any] = {
        "schema only": [CompleteResponse(), ToolCallSchema()],
        "default validators": default_validators(),
        "default + cross-check": [*default_validators(), CrossCheck(checking)],
    }
    models = {
        way: CascadeChatModel(**tiers, validators=validators, policy=Policy()) for way, validators in cascades.items()
    }
    ways: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    for case in data.cases.values():
        one, two = rows["small"].get(case["id"]), rows["large"].get(case["id"])
        if one is None or two is None:
            continue
        cost = {role: _cost(prices[role], row) for role, row in (("small", one), ("large", two))}
        harm = not one["correct"] and two["correct"]
        results = {
            "always small": {"right": one["correct"], "cost": cost["small"], "escalated": False},
            "always large": {"right": two["correct"], "cost": cost["large"], "escalated": True},
            "oracle": {
                "right": one["correct"] or two["correct"],
                "cost": cost["small"] + (cost["large"] if harm else 0.0),
                "escalated": harm,
            },
        }
        results |= {way: run_cascade(model, case, rows) for way, model in models.items()}
        for way, result in results.items():
            ways[way]["all"].add(**result)
            ways[way][case["category"]].add(**result)
    return ways


def _cost(price: Any, row: Row) -> float:
    used, written = tokens(row)
    return float(used * price.input + written * price.output) / 1e6


def second_of(data: Recorded, small: str, large: str) -> str:
    """The model of the cross-check, chosen without labels as `judge.py` does.

    Of the models of another family than small's that cost at most a quarter of large, the one whose answers to the
    first 200 cases agree most with large's; the cheapest where none is so cheap.
    """
    models = data.manifest["models"]
    others: list[str] = [m for m, entry in models.items() if entry["family"] != models[small]["family"] and m != large]
    cost = {m: sum(_cost(data.price(m), row) for row in data.answers(m).values()) for m in (*others, large)}
    cheap = [m for m in others if cost[m] <= CHEAP * cost[large]]
    if not cheap:
        return min(others, key=lambda m: (cost[m], m))
    theirs, seen = data.answers(large), sorted(data.cases)[:200]

    def alike(model: str) -> float:
        rows, total = data.answers(model), 0.0
        for case in (data.cases[name] for name in seen if name in theirs and name in rows):
            context = StepContext(messages=request(case), tools=tool_specs(case["tools"]))
            one, two = (Draft(message=answer(found[case["id"]])) for found in (theirs, rows))
            total += agreement(one, two, context) or 0.0
        return total

    return max(cheap, key=lambda m: (alike(m), m))


CHEAP = 0.25
"""Share of large's price that the second model may cost."""

ORDER = ("always small", "schema only", "default validators", "default + cross-check", "oracle", "always large")


def show(console: Console, small: str, large: str, ways: dict[str, dict[str, Tally]]) -> None:
    """Print one pair."""
    whole = ways["always large"]["all"]
    table = Table(title=f"{small} -> {large} ({whole.steps} recorded steps)")
    for name in ("way", "accuracy", "cost (always large = 1)", "escalated"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way in ORDER:
        t = ways[way]["all"]
        table.add_row(way, f"{t.right / t.steps:.3f}", f"{t.cost / whole.cost:.3f}", f"{t.escalated / t.steps:.3f}")
    console.print(table)
    kinds = Table(title="default validators by kind of step: accuracy (escalated) beside small and large")
    for name in ("kind", "steps", "small", "cascade", "large"):
        kinds.add_column(name, justify="left" if name == "kind" else "right")
    for kind in sorted(k for k in ways["oracle"] if k != "all"):
        cells = [ways[way][kind] for way in ("always small", "default validators", "always large")]
        s, c, large_tally = cells
        kinds.add_row(
            kind,
            str(s.steps),
            f"{s.right / s.steps:.3f}",
            f"{c.right / c.steps:.3f} ({c.escalated / c.steps:.2f})",
            f"{large_tally.right / large_tally.steps:.3f}",
        )
    console.print(kinds)
    reasons = ways["default validators"]["all"].reasons
    console.print("reasons: " + ", ".join(f"{k} {v}" for k, v in sorted(reasons.items(), key=lambda kv: -kv[1])))


def as_json(ways: dict[str, dict[str, Tally]]) -> dict[str, Any]:
    """The tallies as plain JSON."""
    return {
        way: {
            kind: {
                "steps": t.steps,
                "accuracy": t.right / t.steps,
                "cost_usd": t.cost,
                "cost_share": t.cost / ways["always large"][kind].cost,
                "escalated": t.escalated / t.steps,
                "reasons": dict(t.reasons),
            }
            for kind, t in kinds.items()
        }
        for way, kinds in ways.items()
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings (cases, models, manifest)")
    parser.add_argument("--small", help="name of the small model in the manifest")
    parser.add_argument("--large", help="name of the large model in the manifest")
    parser.add_argument("--second", help="model of the cross-check; chosen without labels when not given")
    parser.add_argument("--all-pairs", action="store_true", help="every pair of the manifest, and their means")
    parser.add_argument("--all-cases", action="store_true", help="also the categories outside the core")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    data = Recorded.load(args.data, core_only=not args.all_cases)
    if args.all_pairs == bool(args.small and args.large):
        parser.error("give --small and --large, or --all-pairs")
    pairs = data.pairs() if args.all_pairs else [(args.small, args.large)]
    named = {name for pair in pairs for name in pair} | ({args.second} if args.second else set())
    for name in named - set(data.manifest["models"]):
        parser.error(f"{name!r} is not in the manifest; it has {', '.join(data.manifest['models'])}")
    console = Console()
    out: dict[str, Any] = {}
    for small, large in pairs:
        ways = measure(data, small, large, args.second or second_of(data, small, large))
        show(console, small, large, ways)
        out[f"{small} -> {large}"] = as_json(ways)
    if len(pairs) > 1:
        means = Table(title=f"mean over {len(pairs)} pairs")
        for name in ("way", "accuracy", "cost share", "escalated"):
            means.add_column(name, justify="left" if name == "way" else "right")
        for way in ORDER:
            all_steps = [o[way]["all"] for o in out.values()]
            cells = [sum(a[key] for a in all_steps) / len(all_steps) for key in ("accuracy", "cost_share", "escalated")]
            means.add_row(way, *(f"{cell:.3f}" for cell in cells))
        console.print(means)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
