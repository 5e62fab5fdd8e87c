"""Journals for the tests of the report: an ordinary one with labels, and one that means harm."""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import TYPE_CHECKING

from cascade_agent.core.records import Attempt, Decision, Label, SideCall, StepTrace, Usage, Verdict
from cascade_agent.journal.writer import Journal

if TYPE_CHECKING:
    from pathlib import Path

START = dt.datetime(2026, 3, 2, 8, tzinfo=dt.UTC)
REASONS = ("schema_invalid", "incomplete", "ungrounded")
HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    '"><svg/onload=window.hacked=1>',
    "' onmouseover='window.hacked=1",
    "javascript:window.hacked=1",
    "<!--<script>window.hacked=1",
    "]]>\u2028window.hacked=1\u2029",
    "{{constructor.constructor('window.hacked=1')()}} ${window.hacked=1} `${1}`",
    "&lt;script&gt;window.hacked=1&#60;/script>",
    "\u202ereversed\u202c\x00\x1b[31m\ud800",
    "</style><style>*{display:none}</style>",
    "</textarea></title></noscript></template><base href=//evil.example><meta http-equiv=refresh content=0>",
)


def call(name: str = "look", **args: object) -> dict[str, object]:
    """A recorded answer with one call."""
    return {"text": "", "tool_calls": [{"name": name, "args": args, "id": "c"}]}


def step(
    number: int,
    *,
    confidence: float = 0.97,
    escalated: bool = False,
    same: bool = False,
    name: str = "agent",
    small_cost: float | None = 0.001,
    large_cost: float | None = 0.01,
    at: dt.datetime | None = START,
    thread: str | None = None,
    reason: str = "schema_invalid",
    outcome: str | None = None,
    **more: object,
) -> StepTrace:
    """A recorded step. Its verdicts give the shipped rules a confidence, so that thresholds tell steps apart."""
    verdicts = [Verdict(outcome="pass", code="argument_grounded", score=confidence, validator="Grounding")]
    if escalated:
        wrong = {"code": "wrong_type", "reason": "not a number", "path": "/tool_calls/0/args/n"}
        verdicts.insert(0, Verdict(outcome="fail", validator="ToolCallSchema", **wrong))
    small = Attempt(
        tier="small",
        model="tiny-1",
        outcome="rejected" if escalated else "accepted",
        verdicts=tuple(verdicts),
        confidence=0.01 if escalated else confidence,
        usage=Usage(input_tokens=100, output_tokens=10),
        cost=small_cost,
        latency=0.2 + number / 1000,
        answer=call(n=1 if same else "one"),
    )
    large = Attempt(
        tier="large",
        model="huge-1",
        outcome="accepted",
        confidence=0.95,
        usage=Usage(input_tokens=110, output_tokens=12),
        cost=large_cost,
        latency=1.0 + number / 1000,
        answer=call(n=1),
    )
    attempts, decisions = (small,), [Decision(action="accept", reason="accepted", attempt=0)]
    if escalated:
        attempts, accepted = (small, large), Decision(action="accept", reason="escalated", attempt=1)
        decisions = [Decision(action="escalate", reason=reason), accepted]
    costs = [spend.cost for spend in (*attempts, *more.get("evidence", ()))]
    return StepTrace(
        id=f"step-{number}",
        step=name,
        outcome=outcome or ("escalated" if escalated else "accepted"),
        reason=reason if escalated else "accepted",
        attempts=attempts,
        decisions=(Decision(action="ask_small", reason="draft"), *decisions),
        final=len(attempts) - 1,
        kind="call",
        confidence=attempts[-1].confidence,
        cost=None if None in costs else sum(c for c in costs if c is not None),
        latency=sum(a.latency or 0.0 for a in attempts) + 0.01,
        started_at=None if at is None else (at + dt.timedelta(minutes=7 * number)).isoformat(),
        thread_id=thread if thread is not None else f"thread-{number // 3}",
        policy="abcdef123456",
        **more,
    )


def ordinary(path: Path, count: int = 120) -> Path:
    """A journal of `count` steps: some escalate, some are shadowed, judged or without a cost; evidence was asked."""
    draw = random.Random(7)
    with Journal(path) as journal:
        for number in range(count):
            escalated = draw.random() < 0.3
            confidence = round(draw.uniform(0.2, 1.0), 3)
            evidence = {
                "evidence": (SideCall(name="CrossCheck", cost=0.0005, latency=0.4),),
                "askable": ("CrossCheck",),
            }
            trace = step(
                number,
                confidence=confidence,
                escalated=escalated,
                same=draw.random() < 0.2,
                name=("planner", "executor", "writer")[number % 3],
                reason=draw.choice(REASONS),
                small_cost=None if number % 17 == 5 else 0.001 + number / 1e6,
                **(evidence if number % 10 == 3 else {}),
            )
            journal.append(trace)
            if not escalated and draw.random() < 0.6:
                right, spend = draw.random() < confidence, SideCall(name="shadow", cost=0.011)
                known = {"right": right, "harm": not right, "propensity": 0.6, "side_call": spend}
                journal.append_label(Label(step_id=trace.id, source="shadow", at=trace.started_at, **known))
        journal.append(step(count, escalated=True, outcome="exhausted", name="planner", large_cost=0.05))
    return path


def hostile(path: Path) -> Path:
    """A journal that tries to act in the page, in every field that a text can stand in, and to break its figures."""
    lines = []
    for number, text in enumerate(HOSTILE):
        trace = step(number, escalated=number % 2 == 0, confidence=0.9).to_json()
        trace = _poisoned(trace, text, keep={"type", "schema", "started_at", "tier", "outcome", "action"})
        trace["id"] = f"{text}{number}"
        lines.append({"type": "step", **trace})
        lines.append({"type": "label", "step_id": trace["id"], "source": text, "right": True, "note": text})
    odd = step(900).to_json()
    lines.append({"type": "step", **odd, "id": "odd-1", "cost": HOSTILE[0], "latency": [1], "confidence": "0.5"})
    odd["attempts"][0]["cost"] = -5
    odd["attempts"][0]["confidence"] = 17
    odd["attempts"][0]["answer"] = {"tool_calls": "no list", "text": 5}
    lines.append({"type": "step", **odd, "id": "odd-2", "outcome": HOSTILE[1], "started_at": "0001-01-01T00:00:00"})
    lines.append(
        {"type": "step", **odd, "id": "odd-3", "outcome": HOSTILE[3], "started_at": HOSTILE[0], "cost": 10**400}
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text.replace('"latency": 0.2,', '"latency": 1e999,', 1), encoding="utf-8")
    return path


def _poisoned(value: object, text: str, *, keep: set[str]) -> object:
    """A JSON value with every text in it replaced, but for those under the keys to keep."""
    if isinstance(value, dict):
        return {k: v if k in keep else _poisoned(v, text, keep=keep) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(v, text, keep=keep) for v in value]
    return text if isinstance(value, str) else value
