"""Measure the judge on wrong drafts: ranking, soft fails and cost of the shipped rules, evidence and fits.

    python benchmarks/judge.py --train DIR --test DIR [--leave-out KIND|each] [--sizes 50,200,400,all] [--json [FILE]]

Both folders hold recorded answers (cases, truth, models, manifest). Where they are the same folder the groups are cut
into two halves and each is judged by what was learned on the other; related cases never stand on both sides. Figures
are means over the small -> large pairs of the test folder's manifest, with 90 % bootstrap intervals over groups. What
is learned comes from the same small model where the training folder has it, else from all of its small models.

ways: `schema` the schema check alone; `default` the default validators and the shipped rules, no label and no second
model; `+second` the same with a cross-check asked inside the default policy's band, `+second wide` inside a wider one;
`fit N` the scorer fitted on N labelled training cases, without and with the second model's answer (which a log
holds only where it was asked, so only there it is learned from); `on gain` fitted on "small wrong and large right"
instead of "small wrong"; `oracle` escalates exactly where small is wrong and large right. With `--leave-out each`
every kind of step is judged by what was learned on the others.

auroc is against "small is right", auroc_gain against "escalating gains nothing", within the mean of the former inside
of the kinds of step, risk_area the mean share of wrong drafts among the accepted ones over all coverages.

The second model is of another family than small and is not large; of those that cost at most a quarter of large, the
one whose answers agree most with large's on the training cases. No label is needed for that. Where none is so cheap it
is the cheapest.

accuracy, loss (against large) and cost (list prices, always-large = 1, second model included) are those of a threshold:
the one that cost least on the training cases while losing at most one point there. `rule` is the default policy's
decision without any threshold; `cost@-1` the least cost on the test cases themselves of a threshold that loses at most
a point: ways are compared by it at equal loss, beside their auroc.

in-sample says what saw the cases that a row is judged on: the shipped `rules` were developed on some recordings, a
`fit` sees them where both folders share cases. A call that failed (`status: error`) escalates, as in a running cascade,
and is no draft to rank; a case that one of a pair did not answer is left out of that pair; tokens that were not counted
are guessed from the characters, four a token.
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
from statistics import fmean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recorded import Recorded, Row, answer, request, tokens
from rich.console import Console
from rich.table import Table

from cascade_agent import Policy, Scorer, default_validators
from cascade_agent.core.records import Draft, StepContext, Verdict
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.offline.calibration.fit import Example, Target, fit
from cascade_agent.offline.evaluation.metrics import auroc, calibration_error
from cascade_agent.validators import ToolCallSchema, shipped_scorer
from cascade_agent.validators.agreement import agreement
from cascade_agent.validators.cross_check import cross_checked
from cascade_agent.validators.validator_set import ValidatorSet

BAND = Policy().evidence
"""Confidence between which the second model is asked."""
WIDE = (0.2, 0.95)
KEEP = 0.8
"""Confidence from which the default policy keeps a draft after evidence."""
DRAWS = 200
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
    agreed: dict[tuple[str, str, str], float] = field(default_factory=dict)
    scorers: dict[tuple[str, ...], Scorer] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Bench:
        """Read the cases that the labels call core."""
        data = Recorded.load(folder)
        with gzip.open(folder / "truth.jsonl.gz", "rt", encoding="utf-8") as lines:
            truth = {row["id"]: row for row in map(json.loads, lines)}
        for outside in [c for c in data.cases if not truth[c]["core"]]:
            del data.cases[outside]
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
        """Return the findings of a way's validators on each draft of a model."""
        if (way, model) not in self.found:
            panel = ValidatorSet([ToolCallSchema()] if way == "schema" else default_validators())
            rows = self.answers(model)
            self.found[way, model] = {
                name: panel.validate(None, self.fresh(name))
                + panel.validate(Draft(message=answer(row)), self.fresh(name))
                for name, row in rows.items()
            }
        return self.found[way, model]

    def fresh(self, name: str) -> StepContext:
        """The context of a case with an empty cache."""
        old = self.contexts[name]
        return StepContext(messages=old.messages, tools=old.tools)

    def agreement(self, model: str, second: str) -> dict[str, Verdict]:
        """Return the findings of a cross-check by `second` on each draft of `model`."""
        key = (second, model)
        if key not in self.found:
            ours, theirs = self.answers(model), self.answers(second)
            self.found[key] = {n: (self._compared(n, ours[n], theirs[n]),) for n in ours if n in theirs}
        return {name: verdicts[0] for name, verdicts in self.found[key].items()}

    def _compared(self, name: str, ours: Row, theirs: Row) -> Verdict:
        a, b = Draft(message=answer(ours)), Draft(message=answer(theirs))
        score = cross_checked(a, b, self.fresh(name))
        return Verdict(outcome="abstain", code="agreement", score=score, validator="CrossCheck")

    def alike(self, model: str, other: str, names: list[str]) -> float:
        """Mean agreement of two models' answers, where there are both."""
        names = [n for n in names if n in self.answers(model) and n in self.answers(other)]
        for name in names:
            if (model, other, name) not in self.agreed:
                a, b = (Draft(message=answer(self.answers(m)[name])) for m in (model, other))
                self.agreed[model, other, name] = agreement(a, b, self.fresh(name)) or 0.0
        return fmean(self.agreed[model, other, name] for name in names) if names else 0.0

    def both(self, pair: Pair, names: list[str]) -> list[str]:
        """These cases without those that one of the pair did not answer."""
        small, large = map(self.answers, pair)
        return [n for n in names if n in small and n in large]

    def failed(self, model: str, name: str) -> bool:
        """Return whether the recorded call failed: there is no draft to judge, and a cascade escalates."""
        return bool(self.answers(model)[name]["status"] == "error")

    def cost(self, model: str, name: str) -> float:
        """Price of one answer."""
        used, written = tokens(self.answers(model)[name])
        entry = self.data.manifest["models"][model]
        return float(used * entry["usd_per_1m_in"] + written * entry["usd_per_1m_out"]) / 1e6

    def pairs_like(self, pair: Pair) -> list[Pair]:
        """This pair where its models were recorded here, else all pairs of this folder."""
        models = self.data.manifest["models"]
        return [pair] if all(model in models for model in pair) else self.data.pairs()

    def second(self, pair: Pair, names: list[str]) -> str:
        """The model of the cross-check, chosen on these cases without a label: see the head of this file."""
        small, large = pair
        models = self.data.manifest["models"]
        others: list[str] = [m for m in models if models[m]["family"] != models[small]["family"] and m != large]
        price = {m: fmean([self.cost(m, n) for n in names if n in self.answers(m)] or [0.0]) for m in (*others, large)}
        cheap = [m for m in others if price[m] <= CHEAP * price[large]]
        if not cheap:
            return min(others, key=lambda m: (price[m], m))
        alike = {m: self.alike(large, m, names) for m in cheap}
        return max(cheap, key=lambda m: (alike[m], m))

    def fitted(self, pair: Pair, names: list[str], way: Way) -> Scorer:
        """The scorer fitted on the first `way.size` of these cases in an order that has nothing to do with them."""
        pairs = self.pairs_like(pair)
        smalls = list(dict.fromkeys(small for small, _ in pairs))
        larges = dict(reversed(pairs))  # for gain: the first one of each small model
        seconds = {p[0]: self.second(p, names) for p in reversed(pairs)} if way.second else {}
        drawn = sorted(
            (
                (small, name)
                for small in smalls
                for name in self.both((small, larges[small]), names)
                if not self.failed(small, name)
            ),
            key=lambda d: hashlib.sha256(d[1].encode() + bytes(smalls.index(d[0]))).digest(),
        )[: way.size]
        key = (
            "|".join(f"{small}>{larges[small] if way.target == 'gain' else ''}" for small in smalls),
            way.title,
            "|".join(seconds.values()),
            hashlib.sha256(repr(drawn).encode()).hexdigest(),
        )
        if key not in self.scorers:
            examples = [self.example(small, name, larges[small], seconds.get(small), way) for small, name in drawn]
            self.scorers[key] = fit(examples, target=way.target).scorer
        return self.scorers[key]

    def example(self, small: str, name: str, large: str, second: str | None, way: Way) -> Example:
        """A labelled draft as a log would hold it: with the second model's answer only where the rules asked for it."""
        verdicts = self.verdicts("default", small)[name]
        confidence = shipped_scorer().confidence(verdicts)
        if second and confidence is not None and way.band[0] <= confidence <= way.band[1]:
            verdicts = (*verdicts, *filter(None, [self.agreement(small, second).get(name)]))
        right = bool(self.answers(small)[name]["correct"])
        gain = not right and bool(self.answers(large)[name]["correct"])
        return Example(verdicts=verdicts, wrong=not right, gain=gain, episode=self.data.cases[name]["group"])


CHEAP = 0.25
"""Share of large's price that the second model may cost."""


@dataclass
class Judged:
    """One way on one pair: per case what was found and what each decision gives and costs."""

    names: list[str] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    fails: list[bool] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    """Whether small's call failed: it escalates, and there is no draft to rank."""
    asked: list[bool] = field(default_factory=list)
    """Whether the second model was paid: not for a draft that a rule ruled out."""
    right: list[bool] = field(default_factory=list)
    large: list[bool] = field(default_factory=list)
    """Whether large was right."""
    kept: list[float] = field(default_factory=list)
    """What the step costs when the draft is kept: draft and evidence."""
    price: list[float] = field(default_factory=list)
    """What large costs."""

    def extend(self, other: Judged) -> None:
        """Append the cases of another part."""
        for key, values in vars(other).items():
            getattr(self, key).extend(values)

    def drafts(self) -> Judged:
        """Return the cases in which there is a draft to judge."""
        if not any(self.failed):
            return self
        kept = [i for i, failed in enumerate(self.failed) if not failed]
        return Judged(**{key: [values[i] for i in kept] for key, values in vars(self).items()})


@dataclass(frozen=True)
class Way:
    """One way of judging: its title, whether the second model is asked, and how many labels it is fitted on."""

    title: str
    second: bool = False
    fitted: bool = False
    band: tuple[float, float] = BAND
    size: int | None = None
    target: Target = "error"


Pair = tuple[str, str]
Part = tuple[list[str], list[str]]
"""Names of the training and of the test cases."""


def half(group: str) -> int:
    """Which half a group belongs to."""
    return hashlib.sha256(f"judge:{group}".encode()).digest()[0] % 2


def judge(bench: Bench, pair: Pair, names: list[str], scorer: Scorer, way: Way, *, second: str | None = None) -> Judged:
    """Confidence of one way on some cases; the second model is asked inside the band only."""
    small, large = pair
    out = Judged()
    found = bench.verdicts("schema" if way.title == "schema" else "default", small)
    agreed = bench.agreement(small, second) if second else {}
    for name in bench.both(pair, names):
        verdicts, failed = found[name], bench.failed(small, name)
        hard = failed or any(v.hard for v in verdicts)
        fails = failed or any(v.outcome == "fail" for v in verdicts)
        value = None if way.title == "schema" else scorer.confidence(verdicts)
        value = float(not hard) if value is None else value
        ask = name in agreed and not fails and way.band[0] <= value <= way.band[1]
        if ask:
            value = scorer.confidence((*verdicts, agreed[name])) or 0.0
        out.names.append(name)
        out.confidence.append(0.0 if hard else value)
        out.fails.append(fails)
        out.failed.append(failed)
        out.asked.append(ask)
        out.right.append(bool(bench.answers(small)[name]["correct"]))
        out.large.append(bool(bench.answers(large)[name]["correct"]))
        out.kept.append(bench.cost(small, name) + (bench.cost(second, name) if ask and second else 0.0))
        out.price.append(bench.cost(large, name))
    return out


def escalated(judged: Judged, threshold: float) -> list[bool]:
    """Return the drafts that go up: those that fail, and those with less confidence than the threshold."""
    return [f or p < threshold for f, p in zip(judged.fails, judged.confidence, strict=True)]


def by_rule(judged: Judged, way: Way) -> list[bool]:
    """Return the drafts that go up by default, without a threshold: evidence moves the bar, see `Policy`."""
    low = way.band[0] if way.second else 0.0
    return [
        f or p < (KEEP if asked else low)
        for f, p, asked in zip(judged.fails, judged.confidence, judged.asked, strict=True)
    ]


def loss_and_cost(judged: Judged, up: list[bool], members: list[int] | None = None) -> tuple[float, float]:
    """Loss of accuracy against large, and cost with always-large = 1."""
    members = list(range(len(up))) if members is None else members
    lost = sum(judged.large[i] - judged.right[i] for i in members if not up[i])
    cost = sum(judged.kept[i] + (judged.price[i] if up[i] else 0.0) for i in members)
    return lost / len(members), cost / sum(judged.price[i] for i in members)


def operating_point(judged: Judged) -> tuple[float, float]:
    """(threshold, cost) of the cheapest threshold that loses at most `MAX_LOSS` against large on these cases."""
    free = sorted(i for i, f in enumerate(judged.fails) if not f)
    free.sort(key=lambda i: -judged.confidence[i])
    cost = sum(judged.kept) + sum(judged.price)  # all go up
    best, lost, at = (cost, 1.01), 0, 0
    while at < len(free):
        p = judged.confidence[free[at]]
        while at < len(free) and judged.confidence[free[at]] == p:
            lost += judged.large[free[at]] - judged.right[free[at]]
            cost -= judged.price[free[at]]
            at += 1
        if lost <= MAX_LOSS * len(judged.names):
            best = min(best, (cost, p))
    return best[1], best[0] / sum(judged.price)


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


Figures = dict[str, float | None]
HEAD = (
    "auroc",
    "cost@-1",
    "auroc_gain",
    "within",
    "risk_area",
    "calibration_error",
    "fail_precision",
    "fail_recall",
    "accuracy",
    "loss",
    "cost",
    "rule_loss",
    "rule_cost",
    "asked",
)


def run(train: Bench, test: Bench, pair: Pair, parts: list[Part], way: Way) -> tuple[Judged, list[bool]]:
    """One way on one pair over all parts: what was found, and what the learned threshold sends up."""
    pooled, up = Judged(), list[bool]()
    for learn, exam in parts:
        second = None
        if way.second:
            known = all(m in train.data.manifest["models"] for m in test.data.manifest["models"])
            second = train.second(pair, learn) if known else test.second(pair, sorted(exam)[:UNLABELLED])
        scorer = train.fitted(pair, learn, way) if way.fitted else shipped_scorer()
        judged = judge(test, pair, exam, scorer, way, second=second)
        threshold = 0.5
        if way.title != "schema":
            learned = [
                judge(train, p, learn, scorer, way, second=train.second(p, learn) if way.second else None)
                for p in train.pairs_like(pair)
            ]
            threshold = median(operating_point(found)[0] for found in learned)
        pooled.extend(judged)
        up += escalated(judged, threshold)
    return pooled, up


UNLABELLED = 200
"""Test cases on which the second model is chosen (by agreement, without labels) when training has not its models."""


def measure(test: Bench, pooled: Judged, up: list[bool], way: Way) -> Figures:
    """All figures of one way on one pair."""
    drafts = pooled.drafts()
    fired = [not r for r, f in zip(drafts.right, drafts.fails, strict=True) if f]
    loss, cost = loss_and_cost(pooled, up)
    rule_loss, rule_cost = loss_and_cost(pooled, by_rule(pooled, way))
    return {
        "auroc": auroc(drafts.confidence, drafts.right),
        "auroc_gain": auroc(drafts.confidence, no_gain(drafts)),
        "within": within(test, drafts.names, drafts.confidence, drafts.right),
        "risk_area": risk_area(drafts.confidence, drafts.right),
        "calibration_error": calibration_error(
            drafts.confidence, no_gain(drafts) if way.target == "gain" else drafts.right
        ),
        "fail_precision": fmean(fired) if fired else None,
        "fail_recall": sum(fired) / max(1, len(drafts.right) - sum(drafts.right)),
        "accuracy": fmean(pooled.large) - loss,
        "loss": loss,
        "cost": cost,
        "cost@-1": operating_point(pooled)[1],
        "rule_loss": None if way.fitted else rule_loss,
        "rule_cost": None if way.fitted else rule_cost,
        "asked": fmean(pooled.asked),
    }


def no_gain(judged: Judged) -> list[bool]:
    """Where escalating gains nothing: small is right, or large is wrong too."""
    return [right or not large for right, large in zip(judged.right, judged.large, strict=True)]


def oracle(test: Bench, pair: Pair, names: list[str]) -> Figures:
    """Escalates exactly where small is wrong and large is right."""
    judged = judge(test, pair, names, shipped_scorer(), Way("schema"))
    up = [large and not right for large, right in zip(judged.large, judged.right, strict=True)]
    loss, cost = loss_and_cost(judged, up)
    return {"auroc": 1.0, "accuracy": fmean(judged.large) - loss, "loss": loss, "cost": cost}


def drawn_figures(test: Bench, judged: Judged, up: list[bool], drawn: list[int], way: Way) -> Figures:
    """Figures of one way on one pair over some of the cases, with repetitions."""
    ranked = [i for i in drawn if not judged.failed[i]]
    confidence = [judged.confidence[i] for i in ranked]
    right = [judged.right[i] for i in ranked]
    loss, cost = loss_and_cost(judged, up, drawn)
    out: Figures = {
        "auroc": auroc(confidence, right),
        "within": within(test, [judged.names[i] for i in ranked], confidence, right),
        "risk_area": risk_area(confidence, right),
        "accuracy": fmean(judged.large[i] for i in drawn) - loss,
        "loss": loss,
        "cost": cost,
    }
    if not way.fitted:
        out["rule_loss"], out["rule_cost"] = loss_and_cost(judged, by_rule(judged, way), drawn)
    return out


def intervals(test: Bench, found: list[tuple[Judged, list[bool]]], way: Way) -> dict[str, tuple[float, float]]:
    """90 % bootstrap intervals over groups of the means over pairs."""
    chance = random.Random(0)
    places: list[dict[str, list[int]]] = []
    for judged, _ in found:  # a case that one model lacks stands in the lists of other pairs alone
        places.append(defaultdict(list))
        for i, name in enumerate(judged.names):
            places[-1][test.data.cases[name]["group"]].append(i)
    groups = sorted({group for each in places for group in each})
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(DRAWS):
        chosen = chance.choices(groups, k=len(groups))
        figures: dict[str, list[float]] = defaultdict(list)
        for (judged, up), own in zip(found, places, strict=True):
            drawn = [i for g in chosen for i in own.get(g, ())]
            for key, value in drawn_figures(test, judged, up, drawn, way).items():
                if value is not None:
                    figures[key].append(value)
        for key, values in figures.items():
            seen[key].append(fmean(values))
    out = {}
    for key, values in seen.items():
        values.sort()
        out[key] = (values[len(values) // 20], values[-1 - len(values) // 20])
    return out


def codes(test: Bench, models: list[str]) -> list[dict[str, Any]]:
    """Per code: how often it fails or scores below one half, how precise that is, which share of the wrong it finds."""
    hits: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    wrong = 0
    for model in models:
        rows = test.answers(model)
        for name, verdicts in test.verdicts("default", model).items():
            if test.failed(model, name):
                continue
            bad = not rows[name]["correct"]
            wrong += bad
            told = {(v.code, v.outcome == "fail") for v in verdicts if v.outcome == "fail" or (v.score or 1.0) < LOW}
            told |= {(v.code, False) for v in verdicts if v.outcome != "fail" and v.score == 0.0}
            for sign in told:
                hits[sign].append(bad)
    rows_ = [
        {"code": c, "fails": f, "n": len(h), "precision": fmean(h), "recall": sum(h) / max(1, wrong)}
        for (c, f), h in hits.items()
    ]
    return sorted(rows_, key=lambda r: (not r["fails"], -r["n"]))


LOW = 0.5
"""Score under which a graded sign is counted in the table of codes."""


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


RULES_FROM = "efbfa8b3db18d7d2"
"""Digest of the ids of the cases on which the shipped rules and weights were developed."""


def in_sample(test: Bench, parts: list[Part], way: Way) -> str:
    """Return what of a way saw the cases that it is judged on: `rules`, `fit`, both, or nothing."""
    ids = "\n".join(sorted(test.data.cases))
    seen = ["rules"] if hashlib.sha256(ids.encode()).hexdigest()[:16] == RULES_FROM and way.title != "schema" else []
    if way.fitted and any(set(learn) & set(exam) for learn, exam in parts):
        seen.append("fit")
    return ", ".join(seen) or "no"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument(
        "--leave-out", metavar="CATEGORY", help="kind of step that is examined and never trained on; each: all in turn"
    )
    parser.add_argument("--sizes", default="50,200,400,all", help="labels to fit with, comma separated; empty: none")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write all figures there; alone: print them and nothing else",
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    test = Bench.load(options.test)
    same = options.train.resolve() == options.test.resolve()
    train = test if same else Bench.load(options.train)
    kinds = sorted({case["category"] for case in test.data.cases.values()})
    left_out = kinds if options.leave_out == "each" else [options.leave_out]
    if left_out != [None] and not set(left_out) <= set(kinds):
        sys.exit(f"--leave-out is {options.leave_out!r}; the kinds of step are {', '.join(kinds)}, or each")
    parts = [part for kind in left_out for part in parts_of(train, test, kind)]
    names = [n for _, exam in parts for n in exam]
    ways = ways_of([None if s == "all" else int(s) for s in options.sizes.split(",") if s])
    pairs = test.data.pairs()
    result: dict[str, dict[str, Figures]] = {}
    ranges: dict[str, dict[str, tuple[float, float]]] = {}
    for way in ways:
        found = [run(train, test, pair, parts, way) for pair in pairs]
        result[way.title] = {f"{p[0]} -> {p[1]}": measure(test, *f, way) for p, f in zip(pairs, found, strict=True)}
        ranges[way.title] = intervals(test, found, way)
    result["oracle"] = {f"{p[0]} -> {p[1]}": oracle(test, p, names) for p in pairs}
    table = codes(test, list(dict.fromkeys(s for s, _ in pairs)))
    seen = {way.title: in_sample(test, parts, way) for way in ways}
    gaps = {
        f"{p[0]} -> {p[1]}": {
            "missing": len(names) - len(test.both(p, names)),
            "errors": sum(test.failed(p[0], n) for n in test.both(p, names)),
        }
        for p in pairs
    }
    report = json.dumps(
        {"ways": result, "in_sample": seen, "gaps": gaps, "codes": table, "intervals_90": ranges, "cases": len(names)},
        indent=1,
    )
    if options.json == "-":
        print(report)
        return
    show(result, table, ranges, len(names), seen)
    for pair_, gap in gaps.items():
        if any(gap.values()):
            print(f"{pair_}: {gap['missing']} cases without an answer of both, {gap['errors']} calls of small failed")
    if options.json:
        Path(options.json).write_text(report)


def ways_of(sizes: list[int | None]) -> list[Way]:
    """Return the ways to compare; of the fits on gain and in the wide band only those with the most labels."""
    ways = [Way("schema"), Way("default"), Way("default +second", second=True)]
    ways.append(Way("default +second wide", second=True, band=WIDE))
    most = None if None in sizes else max((s for s in sizes if s is not None), default=None)
    for second in (False, True):
        more = " +second" * second
        ways += [Way(f"fit {n or 'all'}{more}", second=second, fitted=True, size=n) for n in sizes]
        if sizes:
            title = f"fit {most or 'all'}{more}"
            ways.append(Way(f"{title} on gain", second=second, fitted=True, size=most, target="gain"))
            if second:
                ways.append(Way(f"{title} wide", second=True, fitted=True, size=most, band=WIDE))
    return ways


def show(
    result: dict[str, dict[str, Figures]],
    table: list[dict[str, Any]],
    ranges: dict[str, dict[str, tuple[float, float]]],
    cases: int,
    seen: dict[str, str],
) -> None:
    """Print all tables."""
    console = Console(width=200)
    grid = Table("way", "in-sample", "auroc", "worst", *HEAD[1:], title=f"mean over pairs, {cases} cases")
    for way, pairs in result.items():
        cells = []
        for key in ("auroc", "worst", *HEAD[1:]):
            values = [v for p in pairs.values() if (v := p.get("auroc" if key == "worst" else key)) is not None]
            cells.append("" if not values else f"{min(values) if key == 'worst' else fmean(values):.3f}")
        grid.add_row(way, seen.get(way, ""), *cells)
    console.print(grid)
    keys = ("auroc", "within", "risk_area", "accuracy", "loss", "cost", "rule_loss", "rule_cost")
    lines = Table("way", *keys, title="90 % intervals over groups")
    for way, limits in ranges.items():
        lines.add_row(way, *(f"{limits[k][0]:.3f} to {limits[k][1]:.3f}" if k in limits else "" for k in keys))
    console.print(lines)
    each = Table(
        "pair",
        *(way for way in result if way.startswith("default")),
        title="AUROC of each pair (cost at a loss of one point)",
    )
    for pair in result["default"]:
        row = [result[way][pair] for way in result if way.startswith("default")]
        each.add_row(pair, *("" if v["auroc"] is None else f"{v['auroc']:.3f} ({v['cost@-1']:.3f})" for v in row))
    console.print(each)
    signs = Table(
        "code", "fails", "n", "precision", "recall", title="fails, and scores below one half, all small models"
    )
    for sign in table:
        signs.add_row(
            sign["code"],
            "yes" if sign["fails"] else "",
            str(sign["n"]),
            f"{sign['precision']:.2f}",
            f"{sign['recall']:.3f}",
        )
    console.print(signs)


if __name__ == "__main__":
    main()
