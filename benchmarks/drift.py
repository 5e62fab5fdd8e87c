"""Drift monitors: false alarms on stationary streams, and the delay until an alarm after a change.

    python benchmarks/drift.py [--data DIR] [--streams 30] [--seed 7000] [--longest 8] [--json FILE]

Each stream has 3,000 steps in conversations of 1 to 8 steps, three at a time; a change comes at step 1,500. Streams
with the same seed are equal up to there. A delay is the number of steps from the change to the first alarm after it,
counted when the step was added; "missed" streams had none until their end, "early" ones had an alarm before the change.

Without `--data` steps come from a generator: conversations have a kind and a difficulty, the small model is right with
a chance that falls with the difficulty, and confidence, findings and escalation follow what is right only loosely.
With it they are recorded answers (see `recorded.py`) of the manifest's small -> large pairs, judged by the default
validators under a threshold that keeps harm at 60 % of the target on these very cases, drawn with replacement; a
conversation stays within one category.

scenarios: `stationary`; `covariate` (other kinds of steps become frequent); `swap` (another small model under the same
name); `silent` (right answers of small become wrong, each with a chance of 15 or 30 %, while nothing that the
validators see changes). Each runs with shadow rates 5, 10, 20 %; a shadow call finds harm as the stream has it.

What was chosen on such streams: PSI's correction for conversations (seeds 5000-5899, stationary, both sources), and
the 15 and 30 % (seeds 0-29). Streams from seed 7000 on, the default, were looked at for the figures only. On recordings
the threshold is chosen on the very cases of the streams, with their labels; a certified one would escalate more.

Money is left out: what an alarm of the saving says is no matter of chance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rich.console import Console
from rich.table import Table

from cascade_agent import Policy, StepTrace, Verdict
from cascade_agent.core.decide import decide
from cascade_agent.core.records import Attempt, Label
from cascade_agent.offline.drift import DriftWatch
from cascade_agent.validators import shipped_scorer

STEPS, CHANGE = 3000, 1500
SHADOW = (0.05, 0.10, 0.20)
SILENT = {"silent 15 %": 0.15, "silent 30 %": 0.30}
"""Chance that a right answer of small becomes wrong, in the silent scenarios."""
SCENARIOS = ("stationary", "covariate", "swap", *SILENT)
TARGET = 0.02
"""Certified greatest harm per step."""


@dataclass(frozen=True)
class Case:
    """A step as a stream needs it: its record without id and time, and what is true of it."""

    trace: StepTrace
    small_right: bool
    large_right: bool


Source = Callable[[random.Random, bool], Callable[[], Case]]
"""Draws a conversation; calls of it give its steps. The flag says whether the change has come."""


def stream(source: Source, *, seed: int, scenario: str, longest: int = 8) -> Iterator[Case]:
    """The steps of one stream: three conversations at a time, each step of a random one of them."""
    rng = random.Random(seed)
    running: list[list[Any]] = []
    for index in range(STEPS):
        changed = scenario != "stationary" and index >= CHANGE
        while len(running) < 3:
            running.append(
                [source(rng, changed and scenario in ("covariate", "swap")), rng.randint(1, longest), str(rng.random())]
            )
        talk = rng.choice(running)
        talk[1] -= 1
        if talk[1] == 0:
            running.remove(talk)
        case = talk[0]()
        if changed and case.small_right and rng.random() < SILENT.get(scenario, 0.0):
            case = replace(case, small_right=False)
        trace = replace(case.trace, id=f"s{index}", thread_id=talk[2])
        yield replace(case, trace=trace)


@dataclass
class Outcome:
    """The first alarm at or after the change by knowledge, and alarms before it."""

    early: list[str]
    first: dict[str, int]
    monitors: dict[str, int]


def run(cases: list[Case], *, seed: int, scenario: str, shadow: float) -> Outcome:
    """One stream through the monitors."""
    watcher = DriftWatch(max_loss=TARGET)
    coin = random.Random(seed * 7919 + round(shadow * 100))
    outcome = Outcome(early=[], first={}, monitors={})
    for index, case in enumerate(cases):
        trace = case.trace
        alarms = list(watcher.add(trace))
        if trace.final_tier == "small" and coin.random() < shadow:
            harm = not case.small_right and case.large_right
            label = Label(step_id=trace.id, source="shadow", right=not harm, harm=harm, propensity=shadow)
            alarms += watcher.add_label(label)
        for alarm in alarms:
            if scenario == "stationary" or index < CHANGE:
                outcome.early.append(alarm.monitor)
                continue
            knowledge = "labelled" if alarm.monitor.startswith("harm") else "unlabelled"
            outcome.first.setdefault(knowledge, index - CHANGE + 1)
            outcome.first.setdefault("any", index - CHANGE + 1)
            outcome.monitors.setdefault(alarm.monitor, index - CHANGE + 1)
    return outcome


# ---- the generator --------------------------------------------------------------------------------------------------

KINDS = ("lookup", "search", "update", "report")
BEFORE, AFTER = (0.5, 0.3, 0.15, 0.05), (0.2, 0.2, 0.2, 0.4)
HARD = {"lookup": -2.6, "search": -2.2, "update": -1.8, "report": -0.6}


def generator(scenario: str) -> Source:
    """Conversations of made-up steps."""

    def talk(rng: random.Random, changed: bool) -> Callable[[], Case]:
        mix = AFTER if changed and scenario == "covariate" else BEFORE
        kind = rng.choices(KINDS, mix)[0]
        mood = rng.gauss(0.0, 0.7)
        weaker = 0.9 if changed and scenario == "swap" else 0.0

        def step() -> Case:
            x = HARD[kind] + mood + weaker + rng.gauss(0.0, 1.0)
            wrong = rng.random() < 1.0 / (1.0 + 2.718281828 ** -(1.5 * x))
            seen = 2.2 * wrong + 0.4 * x + rng.gauss(0.0, 0.8)
            confidence = round(1.0 / (1.0 + 2.718281828 ** (1.6 * (seen - 1.3))), 3)
            large_right = rng.random() < (0.75 if wrong else 0.97)
            return Case(made_up(kind, confidence, rng), small_right=not wrong, large_right=large_right)

        return step

    return talk


def made_up(kind: str, confidence: float, rng: random.Random) -> StepTrace:
    """The record of a made-up step: escalated where the confidence is low."""
    escalated = confidence < 0.72
    codes = ("ok",) if confidence > 0.9 else ("ungrounded", "unused_number")
    verdict = Verdict(outcome="pass", code=rng.choice(codes), score=confidence, validator="Grounding")
    small = Attempt(
        tier="small",
        model="small-1",
        outcome="rejected" if escalated else "accepted",
        verdicts=(verdict,),
        confidence=confidence,
    )
    return of(small, escalated=escalated, reason="low_confidence" if escalated else "accepted", kind="call", step=kind)


def of(small: Attempt, *, escalated: bool, reason: str, kind: str, step: str) -> StepTrace:
    """A step trace around the small attempt."""
    large = Attempt(tier="large", model="large-1", outcome="accepted")
    attempts = (small, large) if escalated else (small,)
    return StepTrace(
        id="",
        step="writer" if step in ("report", "update") else "agent",
        outcome="escalated" if escalated else "accepted",
        reason=reason,
        attempts=attempts,
        final=len(attempts) - 1,
        kind=kind,
    )


# ---- recordings -----------------------------------------------------------------------------------------------------


class Recordings:
    """Recorded answers, judged once by the default validators."""

    def __init__(self, folder: Path) -> None:
        from recorded import Recorded

        self.data = Recorded.load(folder)
        self.scorer = shipped_scorer()
        self.judged: dict[str, dict[str, tuple[Verdict, ...]]] = {}
        self.thresholds: dict[tuple[str, str], float] = {}

    def verdicts(self, model: str) -> dict[str, tuple[Verdict, ...]]:
        """Return the findings of the default validators on each answer of a model."""
        from recorded import answer, request

        from cascade_agent import StepContext, default_validators
        from cascade_agent.core.records import Draft
        from cascade_agent.models.tool_spec import tool_specs
        from cascade_agent.validators.validator_set import ValidatorSet

        if model not in self.judged:
            panel = ValidatorSet(default_validators())
            found = {}
            for name, row in self.data.answers(model).items():
                case = self.data.cases[name]
                context = StepContext(messages=request(case), tools=tool_specs(case["tools"]))
                found[name] = panel.validate(None, context) + panel.validate(Draft(message=answer(row)), context)
            self.judged[model] = found
        return self.judged[model]

    def cases(self, small: str, large: str, threshold: float) -> dict[str, list[Case]]:
        """Steps by category under a threshold."""
        ours, theirs = self.data.answers(small), self.data.answers(large)
        policy = Policy(threshold=threshold)
        found: dict[str, list[Case]] = defaultdict(list)
        for name, verdicts in self.verdicts(small).items():
            if name not in theirs:
                continue
            case, row = self.data.cases[name], ours[name]
            attempt = Attempt(
                tier="small",
                model="small-1",
                outcome="rejected",
                verdicts=verdicts,
                confidence=self.scorer.confidence(verdicts),
            )
            move = decide(policy, (attempt,))
            escalated = move.action != "accept"
            attempt = replace(attempt, outcome="rejected" if escalated else "accepted")
            trace = of(
                attempt, escalated=escalated, reason=move.reason, kind="call" if row["tool_calls"] else "text", step=""
            )
            found[case["category"]].append(
                Case(trace, small_right=bool(row["correct"]), large_right=bool(theirs[name]["correct"]))
            )
        return found

    def threshold(self, small: str, large: str) -> float:
        """The least threshold at which harm on these cases is at most 60 % of the target, as a certified one has it."""
        for threshold in [i / 50 for i in range(51)]:
            cases = [case for some in self.cases(small, large, threshold).values() for case in some]
            harm = sum(c.trace.final_tier == "small" and not c.small_right and c.large_right for c in cases)
            if harm <= 0.6 * TARGET * len(cases):
                return threshold
        return 1.0

    def source(self, pair: tuple[str, str], scenario: str) -> Source:
        """Conversations of recorded steps; after the change other categories, or another small model."""
        small, large = pair
        if pair not in self.thresholds:
            self.thresholds[pair] = self.threshold(small, large)
        threshold = self.thresholds[pair]
        smalls = sorted({p[0] for p in self.data.pairs()})
        other = smalls[(smalls.index(small) + 1) % len(smalls)]
        before = self.cases(small, large, threshold)
        after = self.cases(other, large, threshold) if scenario == "swap" else before
        names = sorted(before)
        plenty = [3.0 if i % 2 == 0 else 1.0 for i in range(len(names))]
        scarce = [1.0 if i % 2 == 0 else 3.0 for i in range(len(names))]

        def talk(rng: random.Random, changed: bool) -> Callable[[], Case]:
            name = rng.choices(names, scarce if changed and scenario == "covariate" else plenty)[0]
            some = (after if changed else before)[name]
            return lambda: rng.choice(some)

        return talk


# ---- all of it ------------------------------------------------------------------------------------------------------


def measure(folder: Path | None, streams: int, seed: int, longest: int) -> dict[str, Any]:
    """Every scenario at every shadow rate."""
    recordings = None if folder is None else Recordings(folder)
    pairs = itertools.cycle([("", "")] if recordings is None else recordings.data.pairs())
    chosen = list(itertools.islice(pairs, streams))
    out: dict[str, Any] = {
        "data": "generator" if recordings is None else "recorded",
        "target": TARGET,
        "longest": longest,
        "rows": [],
    }
    for scenario in SCENARIOS:
        sources = {
            pair: generator(scenario) if recordings is None else recordings.source(pair, scenario)
            for pair in dict.fromkeys(chosen)
        }
        facts: list[tuple[float, ...]] = []
        found: dict[float, list[Outcome]] = defaultdict(list)
        for i, pair in enumerate(chosen):
            cases = list(stream(sources[pair], seed=seed + i, scenario=scenario, longest=longest))
            facts.append(describe(cases))
            for shadow in SHADOW:
                outcome = run(cases, seed=seed + i, scenario=scenario, shadow=shadow)
                found[shadow].append(outcome)
        out["rows"] += [row_of(scenario, shadow, found[shadow], facts) for shadow in SHADOW]
    return out


def describe(cases: list[Case]) -> tuple[float, ...]:
    """Escalation and harm before and after the change."""
    parts = (cases[:CHANGE], cases[CHANGE:])
    escalated = [statistics.fmean(c.trace.escalated for c in part) for part in parts]
    harm = [
        statistics.fmean(c.trace.final_tier == "small" and not c.small_right and c.large_right for c in part)
        for part in parts
    ]
    return (*escalated, *harm)


def row_of(scenario: str, shadow: float, found: list[Outcome], facts: list[tuple[float, ...]]) -> dict[str, Any]:
    """One line of the result."""
    row: dict[str, Any] = {
        "scenario": scenario,
        "shadow_rate": shadow,
        "streams": len(found),
        "early": sum(bool(o.early) for o in found),
        "early_monitors": sorted({m for o in found for m in o.early}),
    }
    for name, column in zip(
        ("escalated", "escalated_after", "harm", "harm_after"), zip(*facts, strict=True), strict=True
    ):
        row[name] = statistics.fmean(column)
    for knowledge in ("any", "unlabelled", "labelled"):
        delays = [o.first[knowledge] for o in found if knowledge in o.first]
        row[knowledge] = {
            "found": len(delays),
            "mean": statistics.fmean(delays) if delays else None,
            "worst": max(delays, default=None),
        }
    by: dict[str, list[int]] = defaultdict(list)
    for o in found:
        for monitor, delay in o.monitors.items():
            by[monitor].append(delay)
    row["monitors"] = {name: {"found": len(d), "mean": statistics.fmean(d)} for name, d in sorted(by.items())}
    return row


def show(console: Console, out: dict[str, Any]) -> None:
    """Print the result."""
    title = f"{out['data']}: {STEPS} steps, change at {CHANGE}, certified harm {TARGET:g} (delay mean / worst, found)"
    table = Table(title=title)
    for name in ("scenario", "shadow", "escalated", "harm", "early", "unlabelled", "labelled", "first of all"):
        table.add_column(name, justify="left" if name == "scenario" else "right")
    for row in out["rows"]:
        table.add_row(
            row["scenario"],
            f"{row['shadow_rate']:.0%}",
            f"{row['escalated']:.3f} > {row['escalated_after']:.3f}",
            f"{row['harm']:.3f} > {row['harm_after']:.3f}",
            f"{row['early']}/{row['streams']}",
            *(delay(row[k], row["streams"]) for k in ("unlabelled", "labelled", "any")),
        )
    console.print(table)


def delay(cell: dict[str, Any], streams: int) -> str:
    """Mean / worst, and of how many streams."""
    if not cell["found"]:
        return f"none of {streams}"
    return f"{cell['mean']:.0f} / {cell['worst']} ({cell['found']}/{streams})"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of recordings; made-up steps without it")
    parser.add_argument("--streams", type=int, default=30, help="streams per scenario")
    parser.add_argument("--seed", type=int, default=7000, help="of the first stream; the next ones count up")
    parser.add_argument("--longest", type=int, default=8, help="steps of the longest conversation; 1: independent ones")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    out = measure(args.data, args.streams, args.seed, args.longest)
    show(Console(width=150), out)
    if args.json:
        args.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
