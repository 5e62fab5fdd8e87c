"""Thresholds per kind of draft against one threshold, and a second model asked by a share against a band.

    python benchmarks/kinds.py --data DIR [--labels 200,400,all] [--splits 10]

The folder is one of recorded answers as `judge.py` reads it. What is learned comes from one half of the groups, what is
shown from the other, and the other way round; figures are means over the small -> large pairs of the manifest and over
random splits into halves. The rules' weights were developed on these recordings.

Cost (always-large = 1) at a loss: on each pair a threshold, or one per kind, is chosen for a row of prices of a loss;
the curves of the means are read at equal loss, both measured on the half that nothing was chosen on. In brackets what
thresholds per kind change, and its range over the splits.

The share: the second model's agreement with the drafts of 200 steps of the learning half, no label, says where it will
disagree. It is asked on as many steps as the default band asks about with the rules, whatever the scorer.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent))

from judge import BAND, Bench, Judged, Pair, Way, half, judge, loss_and_cost, operating_point

from cascade_agent.core.kinds import kind_of
from cascade_agent.offline.calibration.certificate import Unit
from cascade_agent.offline.calibration.fit import Asked, learn_share
from cascade_agent.offline.calibration.kinds import Path as Thresholds
from cascade_agent.offline.calibration.kinds import path_by_kind
from cascade_agent.offline.evaluation.metrics import auroc
from cascade_agent.validators import shipped_scorer

LOSSES = (0.005, 0.01, 0.015, 0.02)
Curve = list[tuple[float, float]]


def units(bench: Bench, pair: Pair, judged: Judged, *, by_kind: bool) -> list[Unit]:
    """Return judged drafts as the units of a calibration."""
    rows, cases = bench.answers(pair[0]), bench.data.cases
    return [
        Unit(
            episode=cases[name]["group"],
            step_id=name,
            confidence=None if fails else p,
            harm=large and not right,
            price=price,
            kind=kind_of(calls=len(rows[name]["tool_calls"]), tools=len(cases[name]["tools"])) if by_kind else "",
        )
        for name, p, fails, right, large, price in zip(
            judged.names, judged.confidence, judged.fails, judged.right, judged.large, judged.price, strict=True
        )
    ]


def curve(path: Thresholds, exam: list[Unit], judged: Judged) -> Curve:
    """Return (loss, cost) on the drafts of the examined half for each entry of a path."""
    found = []
    for entry in path:
        up = [u.confidence is None or u.confidence < entry.get(u.kind, entry[""]) for u in exam]
        found.append(loss_and_cost(judged, up))
    return found


def at(points: Curve, loss: float) -> float:
    """Return the cost at a loss, between the two nearest points."""
    points = sorted(points)
    for (a, x), (b, y) in pairwise(points):
        if a <= loss <= b:
            return x + (y - x) * (loss - a) / (b - a) if b > a else min(x, y)
    return float("nan")


def halves(bench: Bench, split: int = -1) -> list[tuple[list[str], list[str]]]:
    """Return (learning, examined) names, both ways round; a split that is not -1 is a random one."""
    sides: tuple[list[str], list[str]] = ([], [])
    for name, case in bench.data.cases.items():
        group = case["group"]
        sides[half(group if split < 0 else f"{split}:{group}")].append(name)
    return [sides, sides[::-1]]


def thresholds(bench: Bench, size: int | None, split: int, *, second: bool) -> dict[str, list[Curve]]:
    """Return the curves of one threshold and of thresholds per kind, one for each pair and way round."""
    way, found = Way("default", second=second), dict[str, list[Curve]]()
    for pair in bench.data.pairs():
        for learn, exam in halves(bench, split):
            known, tested = rated(bench, pair, learn, way), rated(bench, pair, exam, way, learn)
            for by_kind in (False, True):
                labelled = units(bench, pair, known, by_kind=by_kind)
                if size:
                    labelled = random.Random(split).sample(labelled, min(size, len(labelled)))
                rows = units(bench, pair, tested, by_kind=by_kind)
                found.setdefault("per kind" if by_kind else "one", []).append(
                    curve(path_by_kind(labelled), rows, tested)
                )
    return found


def rated(bench: Bench, pair: Pair, names: list[str], way: Way, learn: list[str] | None = None) -> Judged:
    """Judge some cases by the rules, with the second model that is chosen on the learning cases."""
    second = bench.second(pair, learn or names) if way.second else None
    return judge(bench, pair, names, shipped_scorer(), way, second=second)


def mean(curves: list[Curve]) -> Curve:
    """Return the mean of curves, entry by entry."""
    return [(fmean(p[0] for p in column), fmean(p[1] for p in column)) for column in zip(*curves, strict=True)]


def change(curves: dict[str, list[Curve]], loss: float) -> tuple[float, float, float]:
    """Return the cost of one threshold at a loss, of thresholds per kind, and their relative difference."""
    one, own = (at(mean(curves[title]), loss) for title in ("one", "per kind"))
    return one, own, own / one - 1


def shares(bench: Bench, steps: int, *, fitted: bool) -> dict[str, list[tuple[float, float, float]]]:
    """Return (share asked, AUROC, cost at -1 point) of each pair with the band, and with a learned share as great."""
    found: dict[str, list[tuple[float, float, float]]] = {"band": [], "share": []}
    way = Way("fitted" if fitted else "default", second=True, fitted=fitted)
    for pair in bench.data.pairs():
        verdicts = bench.verdicts("default", pair[0])
        pooled = {title: Judged() for title in found}
        for learn, exam in halves(bench):
            second = bench.second(pair, learn)
            agreed = bench.agreement(pair[0], second)
            scorer = bench.fitted(pair, learn, way) if fitted else shipped_scorer()
            band = judge(bench, pair, exam, scorer, way, second=second)
            known = judge(bench, pair, learn, shipped_scorer(), Way("default", second=True), second=second)
            drawn = random.Random(0).sample(learn, min(steps, len(learn)))
            asked = [Asked(verdicts=verdicts[n], agreement=agreed[n].score) for n in drawn]
            evidence = learn_share(asked, share=fmean(known.asked))
            share = judge(bench, pair, exam, scorer, replace(way, second=False))
            for i, name in enumerate(exam):
                if share.fails[i] or share.confidence[i] < BAND[0] or not evidence.asks(verdicts[name]):
                    continue
                share.asked[i] = True
                share.confidence[i] = scorer.confidence((*verdicts[name], agreed[name])) or 0.0
                share.kept[i] += bench.cost(second, name)
            pooled["band"].extend(band)
            pooled["share"].extend(share)
        for title, judged in pooled.items():
            rank = auroc(judged.confidence, judged.right) or 0.5
            found[title].append((fmean(judged.asked), rank, operating_point(judged)[1]))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", default="200,400,all")
    parser.add_argument("--splits", type=int, default=10, help="random splits that the figures are means over")
    parser.add_argument("--steps", type=int, default=200, help="unlabelled steps that a share is learned from")
    given = parser.parse_args()
    bench = Bench.load(given.data)
    sizes = [None if s == "all" else int(s) for s in given.labels.split(",")]
    for second in (False, True):
        print(f"\ncost at equal loss, {'rules and second model' if second else 'rules'}")
        for size in sizes:
            splits = [thresholds(bench, size, split, second=second) for split in range(given.splits)]
            pooled = {title: [c for curves in splits for c in curves[title]] for title in splits[0]}
            for loss in LOSSES:
                one, own, less = change(pooled, loss)
                each = [found[2] for found in (change(curves, loss) for curves in splits) if found[2] == found[2]]
                print(
                    f"{size or 'all'} labels, loss {loss:.3f}: one {one:.3f}, per kind {own:.3f} "
                    f"({less:+.1%}, {min(each):+.1%} to {max(each):+.1%})"
                )
    print(f"\nsecond model, learned from {given.steps} steps")
    for fitted in (False, True):
        for title, rows in shares(bench, given.steps, fitted=fitted).items():
            asked, ranks, cost = zip(*rows, strict=True)
            print(
                f"{'fitted' if fitted else 'rules'}, {title}: asked {fmean(asked):.3f}, "
                f"auroc {fmean(ranks):.3f} / {min(ranks):.3f}, cost@-1 {fmean(cost):.3f}"
            )


if __name__ == "__main__":
    main()
