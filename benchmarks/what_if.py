"""Measure how fast a journal is swept for other thresholds, and the memory that takes.

    python benchmarks/what_if.py [--steps 20000 100000] [--json FILE]

The journal is made up: nine judged codes a draft, two in five steps escalated, one accepted step in ten shadowed (a
label of its own, after the steps), eight steps an episode, about 2 kB a step. Times are CPU seconds of one process.

`sweep` is what is done with a step that is in memory: decide it for all thresholds, and count it. `replay` is one
`replay()` per threshold, which the sweep is proven equal to in the tests. `from the file` holds everything, JSON
parsing, both passes over the file and the figures included, in a process of its own whose peak memory is told. A
decision is one step under one threshold.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cascade_agent.core.policy import Policy
from cascade_agent.core.records import Attempt, Decision, Label, SideCall, StepTrace, Usage, Verdict
from cascade_agent.offline.evaluation import SweepPlan, Tally, compare
from cascade_agent.offline.evaluation.compare import comparison_of
from cascade_agent.offline.evaluation.dataset import label_step
from cascade_agent.offline.evaluation.replay import replay
from cascade_agent.validators import shipped_scorer

GRIDS = {"0.5:0.95:0.05": 10, "0.05:0.95:0.05": 19, "0.5:0.95:0.01": 46, "0.05:0.95:0.01": 91}
CODES = (
    "argument_grounded",
    "date_invented",
    "tool_match",
    "description_match",
    "request_covered",
    "several_calls",
    "number_unused",
    "question_open",
    "quote_unused",
)
POLICY = Policy(threshold=0.5)


def grid(text):
    """The thresholds of a range."""
    first, last, step = (round(100 * float(part)) for part in text.split(":"))
    return [i / 100 for i in range(first, last + 1, step)]


def made_up(count, seed=0):
    """Steps with their labels."""
    chance = random.Random(seed)
    usage = Usage(input_tokens=900, output_tokens=40)
    for number in range(count):
        found = [
            Verdict(
                outcome="pass", code=code, score=round(chance.random() ** 0.15, 3), validator="Grounding", path="/x"
            )
            for code in CODES
        ]
        confidence = shipped_scorer().confidence(found)
        same = chance.random() < confidence
        said = {
            "text": "",
            "tool_calls": [{"name": "find_order", "args": {"id": 1 + same, "note": "x" * 80}, "id": "c"}],
        }
        right = {"text": "", "tool_calls": [{"name": "find_order", "args": {"id": 2, "note": "x" * 80}, "id": "c"}]}
        small = Attempt(
            tier="small",
            model="small",
            outcome="accepted",
            verdicts=tuple(found),
            confidence=confidence,
            usage=usage,
            cost=0.0002 + chance.random() / 10_000,
            latency=0.2 + chance.random(),
            answer=said,
        )
        escalated = chance.random() < 0.4
        large_cost, large_time = 0.002 + chance.random() / 1000, 1 + chance.random()
        attempts = (small,)
        if escalated:
            large = replace(small, tier="large", cost=large_cost, latency=large_time, answer=right, verdicts=())
            attempts = (replace(small, outcome="rejected"), large)
        trace = StepTrace(
            id=f"{number:032x}",
            step=("plan", "act", "answer")[number % 3],
            kind="call",
            outcome="escalated" if escalated else "accepted",
            reason="low_confidence" if escalated else "accepted",
            attempts=attempts,
            decisions=(
                Decision(action="ask_small", reason="draft"),
                Decision(action="accept", reason="accepted", attempt=0),
            ),
            final=len(attempts) - 1,
            cost=sum(a.cost for a in attempts),
            latency=sum(a.latency for a in attempts),
            usage=usage,
            started_at="2026-01-01T00:00:00.000+00:00",
            thread_id=f"thread-{number // 8}",
            policy=POLICY.version,
        )
        label = None
        if not escalated and chance.random() < 0.1:
            label = Label(
                step_id=trace.id,
                source="shadow",
                right=same,
                harm=not same,
                propensity=0.1,
                side_call=SideCall(name="shadow", cost=large_cost, latency=large_time),
                answer=right,
            )
        yield trace, label


def journal_of(path, steps):
    """Write a journal: 2,000 steps made up, and then repeated under other ids."""
    block = [
        (
            json.dumps({"type": "step", **t.to_json()}),
            None if x is None else json.dumps({"type": "label", **x.to_json()}),
        )
        for t, x in made_up(min(steps, 2000))
    ]
    labels = []
    with path.open("w") as file:
        for number in range(steps):
            step, label = block[number % len(block)]
            old, new = f"{number % len(block):032x}", f"{number:032x}"
            file.write(
                step.replace(old, new).replace(f'"thread-{number % len(block) // 8}"', f'"thread-{number // 8}"') + "\n"
            )
            if label is not None:
                labels.append(label.replace(old, new))
        file.writelines(label + "\n" for label in labels)
    return len(labels)


def in_memory(count):
    """Decisions a second of a sweep and of `replay`, per grid."""
    steps = [(trace, [] if label is None else [label]) for trace, label in made_up(count)]
    rows = []
    for text in GRIDS:
        thresholds = grid(text)
        policies = [replace(POLICY, threshold=threshold) for threshold in thresholds]
        plan = SweepPlan.of(policies[0], thresholds[1:])
        best = float("inf")
        for _ in range(3):
            tally = Tally(plan)
            gc.collect()
            gc.freeze()  # the steps in the list are not in memory when a journal is streamed
            started = time.process_time()
            for trace, labels in steps:
                tally.add(label_step(trace, labels))
            best = min(best, time.process_time() - started)
        some = steps[: max(1, count // len(thresholds) // 4)]
        started = time.process_time()
        for trace, _ in some:
            for policy in policies:
                replay(trace, policy)
        plain = (time.process_time() - started) / len(some)
        started = time.process_time()
        comparison_of(tally)
        rows.append(
            {
                "grid": text,
                "thresholds": len(thresholds),
                "us_per_step": best / count * 1e6,
                "decisions_per_second": count * len(thresholds) / best,
                "replay_decisions_per_second": len(thresholds) / plain,
                "figures_seconds": time.process_time() - started,
            }
        )
    return rows


def from_file(steps, text):
    """The whole, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "journal.jsonl"
        labels = journal_of(path, steps)
        size = path.stat().st_size
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(path), text], check=True, capture_output=True, text=True
        )
    found = json.loads(done.stdout)
    decisions = steps * GRIDS[text] / found["seconds"]
    return {
        "steps": steps,
        "labels": labels,
        "megabytes": size / 1e6,
        "grid": text,
        **found,
        "decisions_per_second": decisions,
    }


def peak_mb():
    """Peak resident memory of this process. Linux tells it itself: `getrusage` counts that of the parent in."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(path, text):
    """Sweep a journal and say what it took."""
    before = peak_mb()
    thresholds = grid(text)
    started = time.process_time()
    found = compare(path, replace(POLICY, threshold=thresholds[0]), grid=thresholds[1:])
    seconds = time.process_time() - started
    told = {"seconds": seconds, "steps_per_second": found.steps / seconds, "peak_mb": peak_mb(), "imports_mb": before}
    print(json.dumps(told))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[20_000, 100_000], help="sizes of the journals")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    memory = in_memory(10_000)
    files = [from_file(steps, "0.05:0.95:0.05") for steps in options.steps]
    console = Console(width=120)
    table = Table("grid", "thresholds", "sweep: us/step", "decisions/s", "replay: decisions/s", "figures: s")
    for row in memory:
        table.add_row(
            row["grid"],
            str(row["thresholds"]),
            f"{row['us_per_step']:.0f}",
            f"{row['decisions_per_second']:,.0f}",
            f"{row['replay_decisions_per_second']:,.0f}",
            f"{row['figures_seconds']:.1f}",
        )
    console.print("In memory", table)
    table = Table("steps", "labels", "MB", "grid", "CPU s", "steps/s", "decisions/s", "peak MB", "of it imports")
    for row in files:
        table.add_row(
            f"{row['steps']:,}",
            f"{row['labels']:,}",
            f"{row['megabytes']:,.0f}",
            row["grid"],
            f"{row['seconds']:.0f}",
            f"{row['steps_per_second']:,.0f}",
            f"{row['decisions_per_second']:,.0f}",
            f"{row['peak_mb']:.0f}",
            f"{row['imports_mb']:.0f}",
        )
    console.print("From the file", table)
    if options.json:
        options.json.write_text(json.dumps({"in_memory": memory, "from_file": files}, indent=1))


if __name__ == "__main__":
    main()
