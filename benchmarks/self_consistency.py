"""Success and cost of `SelfConsistency` on recorded answers of a small and a large model, run through the product.

    python benchmarks/self_consistency.py --data FILE [--draws N] [--json]

The file (`date.jsonl.gz`) holds questions as answered by a small model under two chain-of-thought and two
program-of-thought prompts, many samples each, and by a large one, three samples, whose majority is what large says. The
first line has the characters of each prompt and the prices; four characters are a token. Nothing is asked of a model.

success is by the meaning of the final answer; to the letter, `Today is 05/01/2021.` is not `05/01/2021`. cost is
relative to large alone: `each` bills every sample as a request of its own, large's three too; `once` bills the prompt
of several samples under one prompt once, as for several choices of one request. Figures are means over `--draws`
disjoint runs of the small model's samples.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field
from rich.console import Console
from rich.table import Table

from cascade_agent import CascadeChatModel, Policy, Price, Tier
from cascade_agent.core.records import Usage
from cascade_agent.engine.step import trace_of
from cascade_agent.validators import SelfConsistency
from cascade_agent.validators.agreement import final_answer

Json = dict[str, Any]
OWN = "cot1"
"""The prompt of the step itself."""
SPARE = 4
"""Samples of one prompt that a run may use."""
PLANS: dict[str, Json | None] = {
    "one sample": None,
    "1 + 1 of two kinds": {"instructions": ["pot1"]},
    "2 + 2": {"instructions": ["pot1"], "samples": 4},
    "2 + 2, staged": {"instructions": ["pot1"], "samples": 4, "staged": True},
    "4 of one prompt": {"instructions": [OWN], "samples": 4},
    "1 + 1 + 1 + 1 of four prompts": {"instructions": ["pot1", "cot2", "pot2"]},
    "the same, staged": {"instructions": ["pot1", "cot2", "pot2"], "staged": True},
}


class Recorded(BaseChatModel):
    """A tier that answers a question as recorded under the prompt that its system message names."""

    role: str
    rows: Json
    chars: Json
    once: bool
    first: int = 0
    used: Counter[tuple[str, str]] = Field(default_factory=Counter)

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        del stop, run_manager
        prompt, question = (str(message.content) for message in messages)
        row, sent = self.rows[question], self.chars[prompt] + len(question)
        if self.role == "large":
            said, written = Counter(row["large"][prompt]).most_common(1)[0][0], sum(row["large_chars"][prompt])
            sent *= 1 if self.once else len(row["large"][prompt])
        else:
            taken = self.used[question, prompt]
            self.used[question, prompt] += 1
            said, written = (row[k][prompt][self.first + taken] for k in ("small", "small_chars"))
            sent *= 0 if self.once and taken else 1
        usage = {"input_tokens": sent // 4, "output_tokens": written // 4, "total_tokens": (sent + written) // 4}
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said, usage_metadata=usage))])

    @property
    def _llm_type(self) -> str:
        return "recorded"


def run(head: Json, rows: Json, plan: Json | None, *, once: bool, first: int) -> tuple[float, ...]:
    """Return success, cost in dollars, escalated share and success to the letter of a plan on a run of the samples."""
    tiers = {}
    for role in ("small", "large"):
        model = Recorded(role=role, rows=rows, chars=head["prompt_chars"], once=once, first=first)
        tiers[role] = Tier(model, price=Price(*(1_000 * usd for usd in head["price_per_1k_tokens"][role])))
    evidence: list[Any] = []
    if plan is not None:
        instructions = [SystemMessage(name) for name in plan["instructions"]]
        evidence = [SelfConsistency(**{**plan, "instructions": instructions})]
    cascade = CascadeChatModel(**tiers, validators=evidence, policy=Policy())
    right, cost, escalated, letter = 0, 0.0, 0, 0
    for question, row in rows.items():
        answer = cascade.invoke([SystemMessage(OWN), HumanMessage(question)])
        trace = trace_of(answer)
        assert trace is not None
        assert trace.cost is not None, "every recorded answer has a price and tokens"
        right += final_answer(answer.text) == final_answer(row["truth"])
        letter += answer.text == row["truth"]
        cost += trace.cost
        escalated += trace.escalated
    return right / len(rows), cost, escalated / len(rows), letter / len(rows)


def alone(head: Json, rows: Json, *, once: bool) -> tuple[float, float, float]:
    """Return success, cost and success to the letter of large alone."""
    model = Recorded(role="large", rows=rows, chars=head["prompt_chars"], once=once)
    price = Price(*(1_000 * usd for usd in head["price_per_1k_tokens"]["large"]))
    tier, right, letter, cost = Tier(model, price=price), 0, 0, 0.0
    for question, row in rows.items():
        answer = model.invoke([SystemMessage(OWN), HumanMessage(question)])
        right += final_answer(answer.text) == final_answer(row["truth"])
        letter += answer.text == row["truth"]
        cost += tier.cost(Usage.of(answer)) or 0.0
    return right / len(rows), cost, letter / len(rows)


def measure(path: Path, draws: int) -> Json:
    """Return the figures of every plan."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        head, *found = map(json.loads, lines)
    rows = {row["question"]: row for row in found}
    large = {once: alone(head, rows, once=once) for once in (False, True)}
    out: Json = {
        "large alone": {
            "success": large[False][0],
            "letter": large[False][2],
            "each": 1.0,
            "once": 1.0,
            "escalated": 1.0,
        }
    }
    for title, plan in PLANS.items():
        each, once = (
            [run(head, rows, plan, once=way, first=SPARE * draw) for draw in range(draws)] for way in (False, True)
        )
        out[title] = {
            "success": fmean(r[0] for r in each),
            "each": fmean(r[1] for r in each) / large[False][1],
            "once": fmean(r[1] for r in once) / large[True][1],
            "escalated": fmean(r[2] for r in each),
            "letter": fmean(r[3] for r in each),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=1, help="disjoint runs of the small model's samples, 5 at most")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.data, options.draws)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    table = Table("small samples", "success", "to the letter", "cost, each", "cost, once", "escalated")
    for title, row in figures.items():
        table.add_row(title, *(f"{row[key]:.3f}" for key in ("success", "letter", "each", "once", "escalated")))
    Console().print(table)


if __name__ == "__main__":
    main()
