"""How well the judge knows a wrong draft: ranking, soft fails and cost of the shipped rules, evidence and fits.

    python benchmarks/judge.py --train DIR --test DIR [--leave-out CATEGORY] [--sizes 50,200,400,all] [--json FILE]

Both folders hold recorded answers (cases, truth, models, manifest). Where they are the same folder the groups are cut
into two halves and each is judged by what was learned on the other; related cases never stand on both sides. Figures
are means over the small -> large pairs of the test folder's manifest, with 90 % intervals over groups where shown.

ways: `schema` the schema check alone; `default` the default validators and the shipped rules, no label and no second
model; `+second` the same with the answer of one cheap model of another family inside the band; `fit N` the scorer
fitted on N labelled training cases, local or with the second model's answer; `oracle` escalates exactly where small is
wrong and large right. Cost and accuracy are those of the threshold that cost least on the training cases while losing
at most one point there, at list prices, always-large = 1.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recorded import Recorded, Row, answer, request, tokens
from rich.console import Console
from rich.table import Table

from cascade_agent import Scorer, default_validators
from cascade_agent.calibration.fitting import Example, fit
from cascade_agent.calibration.measures import auroc, calibration_error
from cascade_agent.evidence import agreement
from cascade_agent.panel import Panel
from cascade_agent.records import Draft, StepContext, Verdict
from cascade_agent.toolspec import tool_specs
from cascade_agent.validators import ToolCallSchema

BAND = (0.2, 0.95)
"""Confidence between which the second model is asked."""
MAX_LOSS = 0.01
FEW = 3
"""Right and wrong drafts that a kind of step must have to be ranked within."""


@dataclass(eq=False)
class Bench:
    """A folder of recordings with the verdicts on each model's drafts, computed once."""

    data: Recorded
    truth: dict[str, Row]
    contexts: dict[str, StepContext] = field(default_factory=dict)
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    found: dict[tuple[str, str], dict[str, tuple[Verdict, ...]]] = field(default_factory=dict)
    scorers: dict[tuple[str, str, str, int], Scorer] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Bench:
        """Read the cases that the labels call core."""
        data = Recorded.load(folder)
        with gzip.open(folder / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
            truth = {row["id"]: row for row in map(json.loads, lines)}
        for case in [c for c in data.cases if not truth[c]["core"]]:
            del data.cases[case]
        bench = cls(data, truth)
        for name, case in data.cases.items():
            bench.contexts[name] = StepContext(messages=request(case), tools=tool_specs(case["tools"]))
        return bench

    def answers(self, model: str) -> dict[str, Row]:
        """Rows of a model."""
        if model not in self.rows:
            self.rows[model] = self.data.answers(model)
        return self.rows[model]

    def verdicts(self, way: str, model: str) -> dict[str, tuple[Verdict, ...]]:
        """What the validators of a way find in each draft of a model."""
        if (way, model) not in self.found:
            panel = Panel([ToolCallSchema()] if way == "schema" else default_validators())
            rows = self.answers(model)
            self.found[way, model] = {
                name: panel.judge(None, self.fresh(name)) + panel.judge(Draft(message=answer(row)), self.fresh(name))
                for name, row in rows.items()
            }
        return self.found[way, model]

    def fresh(self, name: str) -> StepContext:
        """The context of a case with an empty cache."""
        old = self.contexts[name]
        return StepContext(messages=old.messages, tools=old.tools)

    def agreement(self, model: str, second: str) -> dict[str, Verdict]:
        """What a cross-check by `second` would have found in each draft of `model`."""
        key = (second, model)
        if key not in self.found:
            ours, theirs = self.answers(model), self.answers(second)
            self.found[key] = {n: (self._compared(n, ours[n], theirs[n]),) for n in ours}
        return {name: verdicts[0] for name, verdicts in self.found[key].items()}

    def _compared(self, name: str, ours: Row, theirs: Row) -> Verdict:
        a, b = Draft(message=answer(ours)), Draft(message=answer(theirs))
        score = agreement(a, b, self.fresh(name))
        return Verdict(outcome="abstain", code="agreement", score=score, validator="CrossCheck")

    def cost(self, model: str, name: str) -> float:
        """Price of one answer."""
        used, written = tokens(self.answers(model)[name])
        entry = self.data.manifest["models"][model]
        return (used * entry["usd_per_1m_in"] + written * entry["usd_per_1m_out"]) / 1e6

    def second(self, small: str) -> str:
        """The cheapest model of another family; of several the one that is right most often."""
        models = self.data.manifest["models"]
        others = [
            m for m, e in models.items() if e["family"] != models[small]["family"] and e["price_source"] != "assumed"
        ]
        return min(
            others, key=lambda m: (models[m]["usd_per_1m_in"], -fmean(r["correct"] for r in self.answers(m).values()))
        )

    def fitted(self, small: str, names: list[str], way: Way) -> Scorer:
        """The scorer fitted on the first `way.size` of these cases in an order that has nothing to do with them."""
        drawn = sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest())[: way.size]
        key = (small, way.title, "".join(drawn[:1]), len(drawn))
        if key not in self.scorers:
            found, rows = self.verdicts("default", small), self.answers(small)
            agreed = self.agreement(small, self.second(small)) if way.second else {}
            labelled = [
                Example(
                    verdicts=(*found[n], agreed[n]) if way.second else found[n],
                    wrong=not rows[n]["correct"],
                    episode=self.data.cases[n]["group"],
                )
                for n in drawn
            ]
            self.scorers[key] = fit(labelled).scorer
        return self.scorers[key]


@dataclass
class Judged:
    """One way on one small model: per case the confidence, whether it must escalate, whether `second` was asked."""

    second: str | None = None

    names: list[str] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    fails: list[bool] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """One way of judging: its title, whether the second model is asked, and how many labels it is fitted on."""

    title: str
    second: bool = False
    fitted: bool = False
    size: int | None = None


Pair = tuple[str, str]
Part = tuple[list[str], list[str]]
"""Names of the training and of the test cases."""


def half(group: str) -> int:
    """Which half a group belongs to."""
    return hashlib.sha256(f"judge:{group}".encode()).digest()[0] % 2


def judge(bench: Bench, small: str, names: list[str], scorer: Scorer, way: Way) -> Judged:
    """Confidence of one way on some cases; the second model is asked inside the band only."""
    second = bench.second(small) if way.second else None
    out = Judged(second)
    found = bench.verdicts("schema" if way.title == "schema" else "default", small)
    agreed = bench.agreement(small, second) if second else {}
    for name in names:
        verdicts = found[name]
        hard = any(v.hard for v in verdicts)
        value = None if way.title == "schema" else scorer.confidence(verdicts)
        value = float(not hard) if value is None else value
        ask = second is not None and not hard and BAND[0] <= value <= BAND[1]
        if ask:
            value = scorer.confidence((*verdicts, agreed[name])) or 0.0
        out.names.append(name)
        out.confidence.append(0.0 if hard else value)
        out.fails.append(any(v.outcome == "fail" for v in verdicts))
        out.asked.append(ask)
    return out


def accuracy_and_cost(bench: Bench, pair: Pair, judged: Judged, threshold: float) -> tuple[float, float]:
    """Accuracy of a threshold and its cost, always-large = 1. What fails escalates in any case."""
    small, large = pair
    ours, theirs = bench.answers(small), bench.answers(large)
    right, cost, full = 0, 0.0, 0.0
    for name, p, fails, asked in zip(judged.names, judged.confidence, judged.fails, judged.asked, strict=True):
        up = fails or p < threshold
        right += theirs[name]["correct"] if up else ours[name]["correct"]
        cost += bench.cost(small, name) + (bench.cost(large, name) if up else 0.0)
        cost += bench.cost(judged.second, name) if asked and judged.second else 0.0
        full += bench.cost(large, name)
    return right / len(judged.names), cost / full


def operating_point(bench: Bench, pair: Pair, judged: Judged) -> float:
    """The cheapest threshold that loses at most a point against large on these cases."""
    goal = fmean(bench.answers(pair[1])[n]["correct"] for n in judged.names) - MAX_LOSS
    best = (float("inf"), 1.01)
    for threshold in sorted({0.0, 1.01, *(round(p, 3) for p in judged.confidence)}):
        accuracy, cost = accuracy_and_cost(bench, pair, judged, threshold)
        if accuracy >= goal:
            best = min(best, (cost, threshold))
    return best[1]


def within(bench: Bench, names: list[str], confidence: list[float], right: list[bool]) -> float | None:
    """Mean AUROC inside each kind of step that has enough of both."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        kinds[bench.data.cases[name]["category"]].append(i)
    found = []
    for members in kinds.values():
        labels = [right[i] for i in members]
        if FEW <= sum(labels) <= len(labels) - FEW:
            found.append(auroc([confidence[i] for i in members], labels))
    return fmean([f for f in found if f is not None]) if found else None


def risk_area(confidence: list[float], right: list[bool]) -> float:
    """Mean share of wrong drafts among the accepted ones over all coverages (area under risk-coverage)."""
    wrong, total = 0, 0.0
    for n, i in enumerate(sorted(range(len(right)), key=lambda i: -confidence[i]), 1):
        wrong += not right[i]
        total += wrong / n
    return total / len(right)


def measure(train: Bench, test: Bench, pair: Pair, parts: list[Part], way: Way) -> dict[str, float | None]:
    """All figures of one way on one pair."""
    small, large = pair
    pooled, rights, costs = Judged(), [], []
    for learn, exam in parts:
        scorer = train.fitted(small, learn, way) if way.fitted else Scorer.rules()
        judged = judge(test, small, exam, scorer, way)
        threshold = 0.5
        if way.title != "schema":
            threshold = operating_point(train, pair, judge(train, small, learn, scorer, way))
        accuracy, cost = accuracy_and_cost(test, pair, judged, threshold)
        rights.append((accuracy, len(exam)))
        costs.append((cost, len(exam)))
        for key in ("names", "confidence", "fails", "asked"):
            getattr(pooled, key).extend(getattr(judged, key))
    right = [bool(test.answers(small)[n]["correct"]) for n in pooled.names]
    fired = [not r for r, f in zip(right, pooled.fails, strict=True) if f]
    total = sum(n for _, n in costs)
    best = fmean(test.answers(large)[n]["correct"] for n in pooled.names)
    return {
        "auroc": auroc(pooled.confidence, right),
        "within": within(test, pooled.names, pooled.confidence, right),
        "risk_area": risk_area(pooled.confidence, right),
        "calibration_error": calibration_error(pooled.confidence, right),
        "fail_precision": fmean(fired) if fired else None,
        "fail_recall": sum(fired) / max(1, len(right) - sum(right)),
        "loss": best - sum(a * n for a, n in rights) / total,
        "cost": sum(c * n for c, n in costs) / total,
        "asked": fmean(pooled.asked),
    }


def oracle(test: Bench, pair: Pair, names: list[str]) -> dict[str, float | None]:
    """Escalates exactly where small is wrong and large is right."""
    small, large = (test.answers(model) for model in pair)
    up = [large[n]["correct"] and not small[n]["correct"] for n in names]
    judged = Judged(None, names, [1.0] * len(names), up, [False] * len(names))
    accuracy, cost = accuracy_and_cost(test, pair, judged, 0.0)
    best = fmean(large[n]["correct"] for n in names)
    return {"auroc": 1.0, "loss": best - accuracy, "cost": cost}


def interval(
    values: dict[str, list[bool]], confidence: dict[str, list[float]], draws: int = 200
) -> tuple[float, float] | None:
    """90 % bootstrap interval over groups of the AUROC; None where no draft was right, or none wrong."""
    chance = random.Random(0)
    groups = sorted(values)
    seen = []
    for _ in range(draws):
        drawn = chance.choices(groups, k=len(groups))
        value = auroc([p for g in drawn for p in confidence[g]], [v for g in drawn for v in values[g]])
        if value is not None:
            seen.append(value)
    seen.sort()
    return (seen[len(seen) // 20], seen[-1 - len(seen) // 20]) if seen else None


def codes(test: Bench, models: list[str]) -> list[dict[str, Any]]:
    """Per code: how often it fails or scores below one half, how precise that is, which share of the wrong it finds."""
    hits: dict[str, list[bool]] = defaultdict(list)
    fails: dict[str, bool] = {}
    wrong = 0
    for model in models:
        rows = test.answers(model)
        for name, verdicts in test.verdicts("default", model).items():
            bad = not rows[name]["correct"]
            wrong += bad
            for code in {v.code for v in verdicts if v.outcome == "fail" or (v.score is not None and v.score < 0.5)}:
                hits[code].append(bad)
            for v in verdicts:
                fails[v.code] = fails.get(v.code, False) or v.outcome == "fail"
    rows_ = [
        {"code": c, "fails": fails[c], "n": len(h), "precision": fmean(h), "recall": sum(h) / wrong}
        for c, h in hits.items()
    ]
    return sorted(rows_, key=lambda r: (not r["fails"], -r["n"]))


def parts_of(train: Bench, test: Bench, left_out: str | None) -> list[Part]:
    """(training names, test names): two halves of one folder, or two folders; a left-out kind is only examined."""

    def kept(bench: Bench, names: list[str], *, examined: bool) -> list[str]:
        kinds = bench.data.cases
        return [n for n in names if left_out is None or (kinds[n]["category"] == left_out) is examined]

    if train is not test:
        return [(kept(train, list(train.data.cases), examined=False), kept(test, list(test.data.cases), examined=True))]
    sides: tuple[list[str], list[str]] = ([], [])
    for name, case in test.data.cases.items():
        sides[half(case["group"])].append(name)
    return [(kept(train, a, examined=False), kept(test, b, examined=True)) for a, b in (sides, sides[::-1])]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--leave-out", metavar="CATEGORY", help="kind of step that is examined and never trained on")
    parser.add_argument("--sizes", default="50,200,400,all", help="labels to fit with, comma separated; empty: none")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    test = Bench.load(options.test)
    same = options.train.resolve() == options.test.resolve()
    train = test if same else Bench.load(options.train)
    parts = parts_of(train, test, options.leave_out)
    names = [n for _, exam in parts for n in exam]
    sizes = [None if s == "all" else int(s) for s in options.sizes.split(",") if s]
    ways = [Way("schema"), Way("default"), Way("default +second", second=True)]
    for second in (False, True):
        ways += [
            Way(f"fit {size or 'all'}{' +second' * second}", second=second, fitted=True, size=size) for size in sizes
        ]
    pairs = test.data.pairs()
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for way in ways:
        result[way.title] = {f"{p[0]} -> {p[1]}": measure(train, test, p, parts, way) for p in pairs}
    result["oracle"] = {f"{p[0]} -> {p[1]}": oracle(test, p, names) for p in pairs}
    smalls = list(dict.fromkeys(s for s, _ in pairs))
    table = codes(test, smalls)
    ranges = {}
    for small in smalls:
        judged = judge(test, small, names, Scorer.rules(), Way("default"))
        values: dict[str, list[bool]] = defaultdict(list)
        confidence: dict[str, list[float]] = defaultdict(list)
        for name, p in zip(judged.names, judged.confidence, strict=True):
            group = test.data.cases[name]["group"]
            values[group].append(bool(test.answers(small)[name]["correct"]))
            confidence[group].append(p)
        ranges[small] = interval(values, confidence)
    show(result, table, ranges, len(names))
    if options.json:
        report = {"ways": result, "codes": table, "default_auroc_90": ranges, "cases": len(names)}
        options.json.write_text(json.dumps(report, indent=1))


def show(
    result: dict[str, dict[str, dict[str, float | None]]],
    table: list[dict[str, Any]],
    ranges: dict[str, tuple[float, float] | None],
    cases: int,
) -> None:
    console = Console(width=150)
    head = (
        "auroc",
        "worst",
        "within",
        "risk_area",
        "calibration_error",
        "fail_precision",
        "fail_recall",
        "loss",
        "cost",
        "asked",
    )
    grid = Table("way", *head, title=f"mean over pairs, {cases} cases")
    for way, pairs in result.items():
        cells = []
        for key in head:
            values = [v for p in pairs.values() if (v := p.get("auroc" if key == "worst" else key)) is not None]
            cells.append("" if not values else f"{min(values) if key == 'worst' else fmean(values):.3f}")
        grid.add_row(way, *cells)
    console.print(grid)
    lines = Table("small", "AUROC of the default validators, 90 % over groups")
    for small, limits in ranges.items():
        value = next(p["auroc"] for pair, p in result["default"].items() if pair.startswith(f"{small} -> "))
        known = value is not None and limits is not None
        lines.add_row(small, f"{value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})" if known else "one kind of draft only")
    console.print(lines)
    signs = Table("code", "fails", "n", "precision", "recall", title="fails or scores below one half, all small models")
    for row in table:
        signs.add_row(
            row["code"], "yes" if row["fails"] else "", str(row["n"]), f"{row['precision']:.2f}", f"{row['recall']:.3f}"
        )
    console.print(signs)


if __name__ == "__main__":
    main()
