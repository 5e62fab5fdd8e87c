"""A step as a tree for people, and texts of others made harmless to a terminal.

Law: what a model, a user or a file said is shown as text and nothing else: no markup is read in it, and every character
that a terminal would act upon stands there as its escape.
"""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text
from rich.tree import Tree

from cascade_agent.core.records import StepTrace
from cascade_agent.errors import CascadeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cascade_agent.core.records import Attempt, Decision, DecisionInputs, Label, Verdict

_ACTS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""Controls (C0, DEL, C1), marks that turn the direction of writing, and what has no width."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
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
    """Any text in one line, cut, with nothing that a terminal acts upon."""
    line = str(text)[: 4 * limit]
    line = re.sub(r"[ \t\r\n]+", " ", line).strip()
    if len(line) > limit:
        line = f"{line[: limit - 1]}…"
    return _SURROGATE.sub("\ufffd", _ACTS.sub(_escape, line))


def harmless_json(data: Any) -> str:
    """JSON in one line whose strings hold nothing that a terminal acts upon; it reads back as the same."""
    text = json.dumps(data, ensure_ascii=False)
    return _SURROGATE.sub(_escape_json, _ACTS.sub(_escape_json, text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - Latin 1


def _escape_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def thread_name(step: StepTrace) -> str:
    """Under which heading a step stands: its thread, or its own when it ran in none."""
    if step.thread_id:
        return plain(step.thread_id)
    return f"(no thread) {plain(step.run_id or step.id)}"


def step_tree(step: StepTrace, labels: Iterable[Label] = (), *, depth: int = _DEPTH) -> Tree:
    """A step with its attempts, what was found about them, the rules that acted and what is known since."""
    tree = Tree(_step_line(step), guide_style="dim")
    for attempt in step.attempts:
        _add_attempt(tree, attempt, step.currency, depth)
    for spend in step.evidence:
        tree.add(Text(f"asked {plain(spend.name)}: {_money(spend.cost, step.currency)}{_time(spend.latency)}", "dim"))
    _add_rules(tree, step)
    for label in labels:
        tree.add(label_line(label))
    return tree


def _step_line(step: StepTrace) -> Text:
    line = Text(f"{plain(step.step)}: ", "bold")
    line.append(step.outcome if not step.degraded else f"{step.outcome}, degraded", _OUTCOMES.get(step.outcome, ""))
    line.append(f" by {plain(step.final_tier or 'nobody')} ({plain(step.reason)})", "not bold")
    line.append(f", {_money(step.cost, step.currency)}{_time(step.latency)}", "not bold dim")
    return line


def _add_attempt(tree: Tree, attempt: Attempt, currency: str, depth: int) -> None:
    line = Text()
    line.append(plain(attempt.tier), "cyan" if attempt.tier == "small" else "yellow")
    if attempt.model:
        line.append(f" {plain(attempt.model)}")
    line.append(": ")
    line.append(plain(attempt.outcome), _OUTCOMES.get(attempt.outcome, ""))
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
            leaf.add(Text(_finding(verdict), "red" if verdict.broken else _FINDINGS[verdict.outcome]))
    if attempt.inner is not None:
        leaf.children.append(_inner(attempt.inner, depth))


def _inner(data: dict[str, Any], depth: int) -> Tree:
    """The cascade that a tier is itself."""
    if depth <= 0:
        return Tree(Text("…", "dim"))
    try:
        return step_tree(StepTrace.from_json(data), depth=depth - 1)
    except (CascadeError, TypeError, ValueError):
        return Tree(Text("a cascade whose record cannot be read", "red"))


def _finding(verdict: Verdict) -> str:
    score = "" if verdict.score is None else f" {verdict.score:.2f}"
    where = f" at {verdict.path}" if verdict.path else ""
    reason = f": {verdict.reason}" if verdict.reason else ""
    return plain(f"{verdict.validator} {verdict.outcome}{score} {verdict.code}{where}{reason}", 700)


def _answer(answer: dict[str, Any]) -> str:
    """What a tier said, short."""
    calls = [call for call in answer.get("tool_calls") or () if isinstance(call, dict)]
    if calls:
        said = (f"{call.get('name')}({json.dumps(call.get('args'), ensure_ascii=False)})" for call in calls)
        return plain(", ".join(said), 2 * _SHORT)
    return plain(json.dumps(str(answer.get("text", ""))[:_SHORT], ensure_ascii=False), 3 * _SHORT)


def _add_rules(tree: Tree, step: StepTrace) -> None:
    """The decisions that a rule made, each with what was known then."""
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
    s = inputs
    for true, words in (
        (s.probe, "small asked to see whether it pays again"),
        (s.stays_on_large, "a step of this turn escalated"),
        (not s.retry, "no more retries"),
    ):
        if true:
            yield words
    for value, words in (
        (s.escalation, "P(escalate) >= {:.2f}"),
        (s.broken, "P(unusable) >= {:.2f}"),
        (s.small_cost, "small costs {:.6f} {}"),
        (s.large_cost, "large costs {:.6f} {}"),
        (s.small_latency, "small takes {:.3g} s"),
        (s.large_latency, "large takes {:.3g} s"),
        (s.time_left, "{:.3g} s left"),
        (s.money_left, "{:.6f} {} left"),
    ):
        if value is not None:
            yield words.format(value, currency)


def label_line(label: Label) -> Text:
    """What is known since, and who says so."""
    if label.right is None:
        words, style = "no finding", "dim"
    elif label.right:
        words, style = "small was right", "green"
    else:
        large = {True: ", large right", False: ", and so was large", None: ""}[label.harm]
        words, style = f"small was wrong{large}", "red"
    line = Text()
    line.append(f"label: {words}", style)
    line.append(f" ({plain(label.source)})")
    if label.note:
        line.append(f"  {plain(label.note, 2 * _SHORT)}", "dim")
    return line


def _money(cost: float | None, currency: str) -> str:
    return "cost unknown" if cost is None else f"{cost:.6f} {plain(currency, 8)}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", {seconds * 1000:.1f} ms" if seconds < 10 else f", {seconds:.1f} s"  # noqa: PLR2004 - seconds
