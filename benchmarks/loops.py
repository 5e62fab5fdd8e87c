"""Measure the default set on agents in loops: success and cost of a cascade on recorded runs, and each rule.

    python benchmarks/loops.py --data DIR [--errors text|status] [--ratios 3,10] [--stay turn,run] [--threshold P]
                               [--part N] [--json]

The folder holds what it has of `tasks.jsonl.gz` (stateful multi-turn tasks as played by a small and a large model),
`conversations.jsonl.gz` (agents and customers, passed or failed) and `followups.jsonl` (texts that are right or skip
the work). Nothing is asked of a model.

A task is played turn by turn. The first step of the small model that is not accepted hands the rest of the user turn to
the large one (`--stay run`: the rest of the task): a recorded turn of it that began in the same state takes its place.
Where something was changed before that step, the small model ends the turn and the large one takes the next. Tasks
without a fitting turn count as the large model's own and are named uncovered. `--part N` keeps the scenarios whose
number modulo 4 is N.

recall and false are shares of failing and of good turns after a right prefix in which a rule fired; auroc ranks these
turns by the lowest confidence in them. Texts of the tasks were not recorded: an answer without a call reads "Done.".
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent import Policy, assess
from cascade_agent.offline.evaluation.metrics import auroc
from cascade_agent.validators._conversation import result_of

Json = dict[str, Any]
Stay = Literal["turn", "run"]
IN, OUT = 0.05, 0.20
"""Prices of the small model per million tokens."""
SMALL, LARGE = "S1", ("L1", "L2", "L3")
BY_SMALL = {"cascade": {"final_tier": "small"}}


def read(path: Path) -> list[Json]:
    """Read the lines of a file of JSON objects, packed or not."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def price(steps: list[Json], ratio: float = 1.0) -> float:
    """Cost of the steps of a turn."""
    return sum(s["in_tok"] * IN + s["out_tok"] * OUT for s in steps) * ratio / 1e6


# ---- what a step is asked -------------------------------------------------------------------------------------------


def answer(step: Json, key: str, tier: str) -> AIMessage:
    """Return the answer of a recorded step."""
    calls = [
        {"name": name, "args": args if isinstance(args, dict) else {}, "id": f"{key}_{i}", "type": "tool_call"}
        for i, (name, args) in enumerate(step["calls"])
    ]
    meta = {"cascade": {"final_tier": tier}}
    return AIMessage("" if calls else "Done.", tool_calls=calls, response_metadata=meta)


def results(step: Json, key: str, *, status: bool) -> list[ToolMessage]:
    """Return the results of a recorded step; with `status` errors are marked as the host marks them."""
    out = []
    for i, text in enumerate(step["obs"]):
        message = ToolMessage(text, tool_call_id=f"{key}_{i}", name=step["calls"][i][0])
        if status and result_of(message) == "error":
            message = ToolMessage(text, tool_call_id=f"{key}_{i}", name=step["calls"][i][0], status="error")
        out.append(message)
    return out


def request(task: Json, turn: int) -> list[BaseMessage]:
    """Return what was asked in a turn."""
    kinds = {"system": SystemMessage, "user": HumanMessage}
    return [kinds[m["role"]](m["content"]) for m in task["users"][turn]]


@dataclass(eq=False)
class Judge:
    """Judges the recorded steps of the small model, each once per history."""

    status: bool
    policy: Policy
    seen: dict[Any, Any] = field(default_factory=dict)

    def __call__(self, task: Json, turn: int, k: int, past: list[tuple[str, list[Json]]]) -> Any:
        """Return the assessment of step k of a turn after the turns of `past` (tier, steps)."""
        key = (task["id"], turn, k, tuple(tier for tier, _ in past))
        if key not in self.seen:
            steps = task["runs"][SMALL]["turns"][turn]
            messages: list[BaseMessage] = []
            for number, (tier, done) in enumerate([*past, ("small", steps[:k])]):
                messages += request(task, number)
                for at, step in enumerate(done):
                    name = f"{number}_{at}"
                    messages += [answer(step, name, tier), *results(step, name, status=self.status)]
            tools = [task["tools"][i] for i in task["tools_of_turn"][turn]]
            draft = answer(steps[k], f"{turn}_{k}", "small")
            self.seen[key] = assess(draft, messages=messages, tools=tools, policy=self.policy)
        return self.seen[key]


# ---- tasks as a cascade plays them ----------------------------------------------------------------------------------


def passes(task: Json, turns: list[list[Json]], states: list[int]) -> bool:
    """Return whether the turns end in the true states and hold the true results, as the benchmark checks."""
    returned: list[str] = []
    for t, steps in enumerate(turns):
        returned += [text for step in steps for text in step["obs"]]
        if not task["gt_calls"][t]:
            continue
        if not any(step["calls"] for step in steps) or states[t + 1] != task["gt_state_ids"][t + 1]:
            return False
        if Counter(task["gt_results"][t]) - Counter(returned):
            return False
    return len(turns) == task["n_turns"]


def play(task: Json, judge: Judge, ratio: float, stay: Stay) -> tuple[bool | None, float, int]:
    """Return the success of a task (None: uncovered), its cost and its escalations."""
    run, states, cost, escalations, to_large = task["runs"][SMALL], [task["gt_state_ids"][0]], 0.0, 0, False
    turns: list[list[Json]] = []
    past: list[tuple[str, list[Json]]] = []
    for t in range(task["n_turns"]):
        if not to_large and run["inference_ok"] and t < len(run["turns"]) and run["state_ids"][t] == states[-1]:
            steps = run["turns"][t]
            at = next((k for k in range(len(steps)) if not judge(task, t, k, past).accepted), None)
            escalations += at is not None
            if at is None or any(step["state_changed"] for step in steps[:at]):
                to_large = at is not None
                turns.append(steps)
                states.append(run["state_ids"][t + 1])
                past.append(("small", steps))
                cost += price(steps)
                continue
            cost += price(steps[: at + 1])
            to_large = True
        to_large = to_large and stay == "run"
        runs = (task["runs"][name] for name in LARGE)
        fit = next(
            (r for r in runs if r["inference_ok"] and t < len(r["turns"]) and r["state_ids"][t] == states[-1]), None
        )
        if fit is None:
            return None, cost, escalations
        turns.append(fit["turns"][t])
        states.append(fit["state_ids"][t + 1])
        past.append(("large", fit["turns"][t]))
        cost += price(fit["turns"][t], ratio)
    return passes(task, turns, states), cost, escalations


def cascade(tasks: list[Json], judge: Judge, ratio: float, stay: Stay) -> Json:
    """Return success and cost of the cascade and of the large model alone (cost 1)."""
    right = cost = alone_right = alone_cost = 0.0
    escalations = uncovered = 0
    for task in tasks:
        large = task["runs"][LARGE[0]]
        whole = sum(price(turn, ratio) for turn in large["turns"])
        ended, paid, handed = play(task, judge, ratio, stay)
        right += large["valid"] if ended is None else ended
        cost += paid + (whole if ended is None else 0.0)
        alone_right, alone_cost = alone_right + large["valid"], alone_cost + whole
        escalations, uncovered = escalations + handed, uncovered + (ended is None)
    n = len(tasks)
    return {
        "ratio": ratio,
        "stay": stay,
        "success": right / n,
        "cost": cost / alone_cost,
        "large": alone_right / n,
        "escalations": escalations / n,
        "uncovered": uncovered,
    }


def rules(tasks: list[Json], judge: Judge) -> Json:
    """Return how often each rule fired on failing and on good turns of the small model, and the rank of its turns."""
    fired: dict[str, Counter[bool]] = defaultdict(Counter)
    turns: Counter[bool] = Counter()
    lowest: list[float] = []
    good: list[bool] = []
    for task in tasks:
        run = task["runs"][SMALL]
        if not run["inference_ok"]:
            continue
        failing = run["first_failing_turn"] if not run["valid"] else None
        last = len(run["turns"]) if failing is None else failing + 1
        for t, steps in enumerate(run["turns"][:last]):
            past = [("small", run["turns"][u]) for u in range(t)]
            found = [judge(task, t, k, past) for k in range(len(steps))]
            codes = {v.code for a in found for v in a.verdicts if v.outcome == "fail"}
            turns[t != failing] += 1
            for code in [*codes, *(["any"] if codes else [])]:
                fired[code][t != failing] += 1
            lowest.append(min((a.confidence for a in found if a.confidence is not None), default=1.0))
            good.append(t != failing)
    table = {
        code: {
            "recall": n[False] / turns[False],
            "false": n[True] / turns[True],
            "precision": n[False] / n.total(),
        }
        for code, n in sorted(fired.items(), key=lambda item: -item[1][False])
    }
    return {"failing": turns[False], "good": turns[True], "auroc": auroc(lowest, good), "rules": table}


# ---- texts ----------------------------------------------------------------------------------------------------------


def message(m: Json) -> BaseMessage:
    """Return a recorded message."""
    if m["role"] == "user":
        return HumanMessage(m["content"])
    if m["role"] == "tool":
        status: Any = "error" if m.get("error") else "success"
        return ToolMessage(m["content"], tool_call_id=m.get("tool_call_id") or m["id"], status=status)
    calls = [{**call, "type": "tool_call"} for call in m.get("tool_calls", ())]
    return AIMessage(m["content"] or "", tool_calls=calls, response_metadata=BY_SMALL)


def conversations(rows: list[Json]) -> Json:
    """Return the shares of steps and texts that would escalate, in conversations that passed and that failed."""
    shared, *rows = rows
    steps: Counter[tuple[bool, str]] = Counter()
    codes: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for row in rows:
        policy, passed = shared["policies"][row["domain"]], bool(row["passed"])
        history: list[BaseMessage] = [SystemMessage(policy)] if policy else []
        for spoken in map(message, row["messages"]):
            if spoken.type == "ai" and any(m.type == "human" for m in history):
                found = assess(spoken, messages=history, tools=shared["tools"][row["domain"]])  # type: ignore[arg-type]
                kinds = ["step"] if spoken.tool_calls else ["step", "text"]  # type: ignore[attr-defined]
                for kind in kinds:
                    steps[passed, kind] += 1
                    steps[passed, f"{kind} escalated"] += not found.accepted
                codes[passed].update({v.code for v in found.verdicts if v.outcome == "fail"})
            history.append(spoken)
    shares = {
        f"{'passed' if passed else 'failed'}: {kind}s": steps[passed, f"{kind} escalated"] / steps[passed, kind]
        for passed in (True, False)
        for kind in ("step", "text")
        if steps[passed, kind]
    }
    return {**shares, "codes on passed": dict(codes[True]), "codes on failed": dict(codes[False])}


def followups(rows: list[Json]) -> Json:
    """Return how many right answers are kept and how much skipped work escalates."""
    count: Counter[tuple[bool, bool]] = Counter()
    for row in rows:
        draft, history = AIMessage(row["draft"]["content"]), [message(m) for m in row["messages"]]
        count[row["keep"], assess(draft, messages=history, tools=row["tools"]).accepted] += 1
    return {
        "right answers kept": f"{count[True, True]} of {count[True, True] + count[True, False]}",
        "skipped work escalated": f"{count[False, False]} of {count[False, True] + count[False, False]}",
    }


def of_part(task: Json, part: int | None) -> bool:
    """Return whether a task belongs to a quarter of the scenarios; variants of one scenario share their number."""
    found = re.search(r"\d+$", task["id"])
    return part is None or (found is not None and int(found[0]) // 2 % 4 == part)


def measure(
    folder: Path,
    *,
    status: bool,
    ratios: list[float],
    stays: list[Stay],
    part: int | None = None,
    threshold: float | None = None,
) -> Json:
    """Measure all data sets that the folder holds."""
    out: Json = {}
    if (folder / "tasks.jsonl.gz").exists():
        tasks = [task for task in read(folder / "tasks.jsonl.gz") if of_part(task, part)]
        judge = Judge(status, Policy(threshold=threshold))
        out["tasks"] = [cascade(tasks, judge, ratio, stay) for stay in stays for ratio in ratios]
        out["turns"] = rules(tasks, judge)
    if (folder / "conversations.jsonl.gz").exists():
        out["conversations"] = conversations(read(folder / "conversations.jsonl.gz"))
    if (folder / "followups.jsonl").exists():
        out["followups"] = followups(read(folder / "followups.jsonl"))
    return out


def show(found: Json) -> None:
    """Print the tables."""
    for row in found.get("tasks", ()):
        print(
            f"price ratio {row['ratio']:g}, large stays for the {row['stay']}: {row['success']:.3f} @ {row['cost']:.3f}"
            f" (large {row['large']:.3f} @ 1), escalations a task {row['escalations']:.2f},"
            f" uncovered {row['uncovered']}"
        )
    if turns := found.get("turns"):
        print(f"{turns['failing']} failing turns, {turns['good']} good ones, auroc {turns['auroc'] or 0.5:.3f}")
        print(f"{'rule':24s} recall  false  right of fired")
        for code, row in turns["rules"].items():
            print(f"{code:24s} {row['recall']:6.3f} {row['false']:6.3f} {row['precision']:6.2f}")
    for name in ("conversations", "followups"):
        for key, value in found.get(name, {}).items():
            print(f"{name}: {key}: {round(value, 4) if isinstance(value, float) else value}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--errors", choices=("text", "status"), default="text")
    parser.add_argument("--ratios", default="3,10,25")
    parser.add_argument("--stay", default="turn")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--part", type=int, choices=range(4))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    ratios, stays = [float(x) for x in given.ratios.split(",")], given.stay.split(",")
    status = given.errors == "status"
    found = measure(given.data, status=status, ratios=ratios, stays=stays, part=given.part, threshold=given.threshold)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
