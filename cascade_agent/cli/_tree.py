"""A step as a tree for people, or as one line."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from rich.text import Text
from rich.tree import Tree

from cascade_agent.cli._app import safe_text
from cascade_agent.core.records import StepTrace
from cascade_agent.errors import CascadeError
from cascade_agent.journal.format import answer_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Attempt, Decision, DecisionInputs, Label, Verdict

_SHORT, _LONG = 100, 400
_DEPTH: Final = 8

_OUTCOMES: Final = {
    "accepted": "green",
    "escalated": "yellow",
    "rejected": "yellow",
    "exhausted": "bold red",
    "error": "bold red",
    "timeout": "red",
    "human_review": "magenta",
    "interrupted": "magenta",
    "cancelled": "magenta",
    "skipped": "dim",
}
_FINDINGS: Final = {"pass": "dim", "fail": "red", "abstain": "dim yellow"}
_RULES: Final = frozenset({"skipped_small", "stays_on_large", "budget", "timeout", "rate_limited", "validator_error"})
"""Reasons of decisions that a rule made and no finding about the draft."""


def plain(text: object, limit: int = _LONG) -> str:
    """Return any text in one line that fits, with nothing in it that a terminal acts upon."""
    return safe_text(text, limit)


def thread_name(step: StepTrace) -> str:
    """Return the heading of a step: its thread, or its own id when it ran in none."""
    if step.thread_id:
        return plain(step.thread_id)
    return f"(no thread) {plain(step.run_id or step.id)}"


def step_line(step: StepTrace) -> Text:
    """Return a step in one line: name, outcome, who answered, reason, cost and time."""
    line = Text(f"{plain(step.step)}: ", "bold")
    line.append(plain(step.outcome + ", degraded" * step.degraded), _OUTCOMES.get(step.outcome, ""))
    why = "" if step.reason == step.outcome else f" ({plain(step.reason)})"
    line.append(f" by {plain(step.final_tier or 'nobody')}{why}", "not bold")
    line.append(f", {_money(step.cost, step.currency)}{_time(step.latency)}", "not bold dim")
    return line


def step_tree(step: StepTrace, labels: Iterable[Label] = (), *, depth: int = _DEPTH) -> Tree:
    """Return a step with its attempts, their verdicts, the rules that acted and what is known since."""
    tree = Tree(step_line(step), guide_style="dim")
    for attempt in step.attempts:
        _add_attempt(tree, attempt, step.currency, depth)
    for call in step.evidence:
        tree.add(Text(f"asked {plain(call.name)}: {_money(call.cost, step.currency)}{_time(call.latency)}", "dim"))
    _add_rules(tree, step)
    for label in labels:
        tree.add(label_line(label))
    return tree


def _add_attempt(tree: Tree, attempt: Attempt, currency: str, depth: int) -> None:
    line = Text().append(plain(attempt.tier), "cyan" if attempt.tier == "small" else "yellow")
    if attempt.model:
        line.append(f" {plain(attempt.model)}")
    line.append(": ").append(plain(attempt.outcome), _OUTCOMES.get(attempt.outcome, ""))
    if attempt.confidence is not None:
        bar = "" if attempt.threshold is None else f" of {attempt.threshold:.2f}"
        line.append(f", P(right) {attempt.confidence:.2f}{bar}")
    if attempt.outcome != "skipped":
        line.append(f", {_money(attempt.cost, currency)}{_time(attempt.latency)}", "dim")
    if attempt.answer:
        line.append(f"  {_answer(attempt.answer)}")
    leaf = tree.add(line)
    if attempt.error:
        leaf.add(Text(plain(attempt.error), "red"))
    for verdict in attempt.verdicts:
        if verdict.outcome != "pass" or verdict.score is not None:
            leaf.add(Text(finding(verdict), "red" if verdict.broken else _FINDINGS[verdict.outcome]))
    if attempt.inner is not None:
        leaf.children.append(_inner(attempt.inner, depth))


def _inner(data: JsonMapping, depth: int) -> Tree:
    """Return the cascade that a tier is itself."""
    if depth <= 0:
        return Tree(Text("…", "dim"))
    try:
        return step_tree(StepTrace.from_json(data), depth=depth - 1)
    except (CascadeError, TypeError, ValueError):
        return Tree(Text("a cascade whose record cannot be read", "red"))


def finding(verdict: Verdict) -> str:
    """Return a verdict as a sentence."""
    if verdict.broken:
        verb = "broke"
    elif verdict.outcome == "fail":
        verb = "refuses it" if verdict.hard else "objects"
    else:
        verb = "passes it" if verdict.outcome == "pass" else "has no opinion"
    score = "" if verdict.score is None else f" ({verdict.score:.2f})"
    reason = f": {verdict.reason}" if verdict.reason else ""
    where = " at ".join(part for part in (verdict.code, verdict.path) if part)
    return plain(f"{verdict.validator or 'a validator'} {verb}{score}{reason}{f' [{where}]' if where else ''}", 700)


def _answer(answer: JsonMapping) -> str:
    if answer.get("tool_calls"):
        return plain(answer_text({**answer, "text": ""}, ", "), 2 * _SHORT)
    return plain(json.dumps(str(answer.get("text", ""))[:_SHORT], ensure_ascii=False), 3 * _SHORT)


def _add_rules(tree: Tree, step: StepTrace) -> None:
    """Add the decisions that a rule made, each with what was known then."""
    hedged = any(a.outcome == "cancelled" for a in step.attempts) or any(s.name == "hedge" for s in step.evidence)
    for decision, inputs in zip_longest(step.decisions, step.inputs_seen[: len(step.decisions)]):
        rule = _rule(decision, hedged=hedged)
        if rule is None and not (inputs is not None and inputs.probe and decision.reason == "draft"):
            continue
        leaf = tree.add(Text(rule or "rule probe", "magenta"))
        known = "" if inputs is None else ", ".join(_known(inputs, plain(step.currency, 8)))
        if known:
            leaf.add(Text(f"known then: {known}", "dim"))


def _rule(decision: Decision, *, hedged: bool) -> str | None:
    name, extra = decision.reason, list[str]()
    if decision.hedge is not None and hedged:
        name = "hedge"
        extra.append("large asked at once" if decision.hedge == 0 else f"large asked too after {decision.hedge:.3g} s")
    if decision.wait is not None:
        extra.append(f"waited {decision.wait:.3g} s")
    if not extra and name not in _RULES:
        return None
    detail = "; ".join(part for part in (decision.detail, *extra) if part)
    return plain(f"rule {name}: {detail}" if detail else f"rule {name}")


def _known(inputs: DecisionInputs, currency: str) -> Iterator[str]:
    for true, words in (
        (inputs.probe, "small asked to see whether it pays again"),
        (inputs.stays_on_large, "a step of this turn escalated"),
        (not inputs.retry, "no more retries"),
    ):
        if true:
            yield words
    for value, words in (
        (inputs.escalation, "P(escalate) >= {:.2f}"),
        (inputs.broken, "P(unusable) >= {:.2f}"),
        (inputs.small_cost, "small costs {:.6f} {}"),
        (inputs.large_cost, "large costs {:.6f} {}"),
        (inputs.small_latency, "small takes {:.3g} s"),
        (inputs.large_latency, "large takes {:.3g} s"),
        (inputs.time_left, "{:.3g} s left"),
        (inputs.money_left, "{:.6f} {} left"),
    ):
        if value is not None:
            yield words.format(value, currency)


def label_line(label: Label) -> Text:
    """Return what is known since, and from whom."""
    large = {True: ", large right", False: ", and so was large", None: ""}[label.harm]
    words, style = {
        None: ("no finding", "dim"),
        True: ("small was right", "green"),
        False: (f"small was wrong{large}", "red"),
    }[label.right]
    line = Text().append(f"label: {words}", style).append(f" ({plain(label.source)})")
    if label.note:
        line.append(f"  {plain(label.note, 2 * _SHORT)}", "dim")
    return line


def label_text(label: Label) -> str:
    """Return a label in words."""
    words = {True: "right", False: "wrong", None: "?"}[label.right]
    words += {True: ", harm", False: ", no harm", None: ""}[label.harm]
    note = f" '{label.note}'" if label.note else ""
    return f"{label.source} says {words}{note}"


def _money(cost: float | None, currency: str) -> str:
    return "cost unknown" if cost is None else f"{cost:.6f} {plain(currency, 8)}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", {seconds * 1000:.1f} ms" if seconds < 10 else f", {seconds:.1f} s"
