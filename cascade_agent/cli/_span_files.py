"""Steps read back from spans in a file: OTLP as JSON, a request per line, and the SDK's own JSON, a span per line.

Law: nothing here imports opentelemetry. Spans come in any order, some late and some never, so they wait for each other
in a room of fixed size, and what is missing stays unknown.

What a span does not tell (answers, decisions, the inputs) is not in these records; verdicts are as their events
tell them, and the id of a step is its span's.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from cascade_agent import semconv as names
from cascade_agent.core.records import Attempt, AttemptOutcome, Outcome, StepOutcome, StepTrace, Usage, Verdict
from cascade_agent.errors import CascadeError, RecordError

_HOLD = 4096
_DEPTH = 16
"""Of cascades inside of cascades."""
_STEP, _ATTEMPT = "cascade.step.outcome", "cascade.attempt.outcome"
_VERDICTS: Mapping[str, tuple[Outcome, str]] = {
    "pass": ("pass", ""),
    "fail": ("fail", ""),
    "skipped": ("abstain", ""),
    "error": ("abstain", "validator_error"),
}
_NANO = 1_000_000_000

Format = Literal["otlp", "sdk", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What a step's record needs of a span. Ids are hexadecimal, times nanoseconds since 1970.

    Spans that are none of ours keep their place in the tree only: no attributes, no events.
    """

    trace_id: str
    id: str
    parent: str | None = None
    name: str = ""
    start: int = 0
    end: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def kind(self) -> Literal["step", "attempt", "other"]:
        """What it is to us: known by its outcome, since instrumentations rename spans."""
        return "step" if _STEP in self.attributes else "attempt" if _ATTEMPT in self.attributes else "other"


# ---- a line of a file -----------------------------------------------------------------------------------------------


def format_of(data: Mapping[str, Any]) -> Format:
    """Whether a line's object holds spans, and how written; `other` is anything else."""
    if any(key in data for key in ("resourceSpans", "resourceLogs", "resourceMetrics")):
        return "otlp"
    return "sdk" if isinstance(data.get("context"), Mapping) and "start_time" in data else "other"


def spans_of(data: Mapping[str, Any]) -> Iterator[Span]:
    """The spans of a line's object; none when it holds metrics or logs.

    Raises:
        RecordError: not as OTLP or the SDK writes it.
    """
    try:
        if format_of(data) == "sdk":
            yield _from_sdk(data)
            return
        for resource in data.get("resourceSpans") or ():
            for scope in resource.get("scopeSpans") or ():
                for span in scope.get("spans") or ():
                    yield _from_otlp(span)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"not a span as OpenTelemetry writes it ({type(error).__name__})"
        raise RecordError(msg) from error


def _from_otlp(data: Mapping[str, Any]) -> Span:
    place = Span(
        trace_id=str(data["traceId"]), id=str(data["spanId"]), parent=str(data.get("parentSpanId") or "") or None
    )
    listed = data.get("attributes") or ()
    if not any(item["key"] in (_STEP, _ATTEMPT) for item in listed):
        return place
    return replace(
        place,
        name=str(data.get("name", "")),
        start=int(data.get("startTimeUnixNano", 0)),
        end=int(data.get("endTimeUnixNano", 0)),
        attributes=_attributes(listed),
        events=tuple((str(e["name"]), _attributes(e.get("attributes") or ())) for e in data.get("events") or ()),
    )


def _attributes(listed: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(item["key"]): _value(item.get("value") or {}) for item in listed}


def _value(value: Mapping[str, Any]) -> Any:
    """An `AnyValue`: an object whose one key names the type. 64-bit integers and what no JSON number is are strings."""
    for key, item in value.items():
        match key:
            case "intValue":
                return int(item)
            case "doubleValue":
                return float(item)
            case "arrayValue":
                return [_value(part) for part in item.get("values") or ()]
            case "kvlistValue":
                return _attributes(item.get("values") or ())
            case _:
                return item
    return None


def _from_sdk(data: Mapping[str, Any]) -> Span:
    context, attributes = data["context"], data.get("attributes") or {}
    parent = data.get("parent_id")
    place = Span(
        trace_id=str(context["trace_id"]).removeprefix("0x"),
        id=str(context["span_id"]).removeprefix("0x"),
        parent=str(parent).removeprefix("0x") if parent else None,
    )
    if _STEP not in attributes and _ATTEMPT not in attributes:
        return place
    return replace(
        place,
        name=str(data.get("name", "")),
        start=_nanoseconds(data.get("start_time")),
        end=_nanoseconds(data.get("end_time")),
        attributes=dict(attributes),
        events=tuple((str(e["name"]), dict(e.get("attributes") or {})) for e in data.get("events") or ()),
    )


def _nanoseconds(text: str | None) -> int:
    if not text:
        return 0
    at = dt.datetime.fromisoformat(text)
    return round(at.timestamp() * 1_000_000) * 1000


# ---- spans put together ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Trace:
    """The spans of one trace that wait: by id, and by their parent's id."""

    spans: dict[str, Span] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    came: dict[str, float] = field(default_factory=dict)
    """When each step came."""

    def add(self, span: Span, now: float) -> None:
        if span.id in self.spans:  # a batch that was sent twice
            return
        self.spans[span.id] = span
        if span.parent is not None:
            self.children.setdefault(span.parent, []).append(span.id)
        if span.kind == "step":
            self.came[span.id] = now

    def drop(self, span_id: str) -> None:
        span = self.spans.pop(span_id)
        self.came.pop(span_id, None)
        siblings = self.children.get(span.parent or "", [])
        if span_id in siblings:
            siblings.remove(span_id)
            if not siblings:
                del self.children[span.parent or ""]

    def is_inner(self, step: Span) -> bool:
        """Whether a step is a tier of another one, as far as the spans above it came."""
        seen = set[str]()
        at = step.parent
        while at is not None and at not in seen:
            seen.add(at)
            above = self.spans.get(at)
            if above is None:
                return False
            if above.kind == "attempt":
                return True
            at = above.parent
        return False

    def outer(self, before: float = math.inf) -> list[Span]:
        """The steps that came before a time and are no tier of another one."""
        steps = (self.spans[i] for i, came in self.came.items() if came < before)
        return [step for step in steps if not self.is_inner(step)]

    def below(self, span_id: str, kind: str) -> list[Span]:
        """The nearest spans of a kind below one, with others only in between, in the order of their start."""
        found: list[Span] = []
        rest, seen = list(self.children.get(span_id, ())), set[str]()
        while rest:
            at = rest.pop()
            if at in seen:
                continue
            seen.add(at)
            span = self.spans[at]
            if span.kind == kind:
                found.append(span)
            elif span.kind == "other":
                rest.extend(self.children.get(at, ()))
        return sorted(found, key=lambda s: (s.attributes.get("cascade.attempt.index", 0), s.start))


class Steps:
    """Puts steps together from spans that come in any order.

    A step waits for its attempts, and an inner one for the step that it is a tier of. At most `hold` spans wait: beyond
    that the oldest trace goes as it is, so memory is bounded whatever the file holds.

    Args:
        hold: how many spans may wait.
    """

    def __init__(self, *, hold: int = _HOLD) -> None:
        self.hold = hold
        self.unread = 0
        """Steps whose spans make no record."""
        self.alone = 0
        """Attempts that were given up because their step did not come."""
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self.waiting = 0
        """Spans that wait now."""

    def feed(self, span: Span, *, now: float = 0.0) -> Iterator[StepTrace]:
        """Take a span; give the steps that must go to make room. `now` is any clock's time in seconds."""
        trace = self._traces.setdefault(span.trace_id, _Trace())
        before = len(trace.spans)
        trace.add(span, now)
        self.waiting += len(trace.spans) - before
        while self.waiting > self.hold:
            yield from self._make_room()

    def ready(self, *, before: float) -> Iterator[StepTrace]:
        """Give the steps that came before a time of `feed`'s clock and are no tier of another step."""
        for trace_id in list(self._traces):
            trace = self._traces[trace_id]
            yield from self._take(trace, trace.outer(before))
            if not trace.spans:
                del self._traces[trace_id]

    def rest(self) -> Iterator[StepTrace]:
        """Give all that still waits; attempts without a step are counted in `alone`."""
        for trace_id in list(self._traces):
            yield from self._give_up(trace_id)

    def _make_room(self) -> Iterator[StepTrace]:
        """Let the oldest trace go; where that frees enough, what waits for a step that still runs may stay."""
        trace_id, trace = next(iter(self._traces.items()))
        before = self.waiting
        built = self._take(trace, trace.outer())
        others = [span.id for span in trace.spans.values() if span.kind == "other"]
        for span_id in others:
            trace.drop(span_id)
        self.waiting -= len(others)
        if before - self.waiting < self.hold // 8:
            built += self._give_up(trace_id)
        elif not trace.spans:
            del self._traces[trace_id]
        else:
            self._traces.move_to_end(trace_id)
        yield from built

    def _give_up(self, trace_id: str) -> list[StepTrace]:
        trace = self._traces.pop(trace_id)
        built = self._take(trace, trace.outer())
        built += self._take(trace, [trace.spans[i] for i in trace.came])  # tiers of steps that did not come
        self.waiting -= len(trace.spans)
        self.alone += sum(span.kind == "attempt" for span in trace.spans.values())
        return built

    def _take(self, trace: _Trace, steps: list[Span]) -> list[StepTrace]:
        """The records of steps, whose spans then wait no more."""
        before, built = len(trace.spans), list[StepTrace]()
        for step in sorted(steps, key=lambda span: span.start):
            record = self._build(trace, step) if step.id in trace.spans else None
            if record is not None:
                built.append(record)
        self.waiting -= before - len(trace.spans)
        return built

    def _build(self, trace: _Trace, step: Span, depth: int = _DEPTH) -> StepTrace | None:
        trace.drop(step.id)  # first of all: ids of a file may go round in circles
        attempts: list[Attempt] = []
        for span in trace.below(step.id, "attempt"):
            trace.drop(span.id)
            inner = trace.below(span.id, "step")[: 1 if depth else 0]  # a second one is not the tier but asked by it
            record = self._build(trace, inner[0], depth - 1) if inner else None
            try:
                told = None if record is None else record.to_json(content=False)
                attempts.append(replace(_attempt(span), inner=told))
            except (CascadeError, TypeError, ValueError, OverflowError, OSError):
                self.unread += 1
        try:
            return _step(step, tuple(attempts))
        except (CascadeError, TypeError, ValueError, OverflowError, OSError):
            self.unread += 1
            return None


# ---- records --------------------------------------------------------------------------------------------------------


def _step(span: Span, attempts: tuple[Attempt, ...]) -> StepTrace:
    get = span.attributes.get
    outcome = _one_of(get(_STEP), get_args(StepOutcome))
    tier = get("cascade.step.final_tier")
    taken = [i for i, attempt in enumerate(attempts) if attempt.tier == tier]
    final = next((i for i in taken if attempts[i].outcome == "accepted"), taken[-1] if taken else None)
    thread = get(names.CONVERSATION_ID)
    return StepTrace(
        id=span.id,
        step=str(get("cascade.step.name") or span.name.removeprefix("cascade.step ")),
        outcome=outcome,
        reason=str(get("cascade.step.reason") or outcome),
        attempts=attempts,
        final=final,
        degraded=outcome == "exhausted" and tier is not None,
        confidence=_number(get("cascade.step.confidence")),
        cost=_number(get("cascade.step.cost")),
        currency=str(get("cascade.cost.currency") or "USD"),
        latency=(span.end - span.start) / _NANO if span.end else None,
        started_at=_iso(span.start),
        thread_id=None if thread is None else str(thread),
        run_id=span.trace_id,
        policy=_text(get("cascade.policy.version")),
    )


def _attempt(span: Span) -> Attempt:
    get = span.attributes.get
    tokens = _count(get("cascade.attempt.input_tokens")), _count(get("cascade.attempt.output_tokens"))
    return Attempt(
        tier=str(get("cascade.tier.name") or "?"),
        model=_text(get("cascade.tier.model")),
        outcome=_one_of(get(_ATTEMPT), get_args(AttemptOutcome)),
        verdicts=tuple(_verdict(event) for name, event in span.events if name == names.EVALUATION_RESULT),
        confidence=_number(get("cascade.attempt.score")),
        threshold=_number(get("cascade.attempt.threshold")),
        usage=None if tokens == (None, None) else Usage(input_tokens=tokens[0], output_tokens=tokens[1]),
        cost=_number(get("cascade.attempt.cost")),
        latency=(span.end - span.start) / _NANO if span.end else None,
        error=_text(get("error.type")),
    )


def _verdict(event: Mapping[str, Any]) -> Verdict:
    outcome, broken = _VERDICTS.get(str(event.get(names.EVALUATION_LABEL)), ("abstain", ""))
    text = str(event.get(names.EVALUATION_EXPLANATION) or "")
    path = ""
    if text.startswith("/"):
        path, _, text = text.partition(": ")
    code, _, reason = text.partition(" ")
    return Verdict(
        outcome=outcome,
        code=broken if broken and not code.startswith("validator_") else code,
        reason=reason,
        score=_number(event.get(names.EVALUATION_SCORE)),
        path=path,
        validator=str(event.get(names.EVALUATION_NAME) or ""),
    )


def _one_of(value: Any, allowed: tuple[str, ...]) -> Any:
    if value in allowed:
        return value
    msg = f"an outcome {value!r}"
    raise RecordError(msg)


def _number(value: object) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(cast("float", value)) if real else None


def _count(value: object) -> int | None:
    return value if type(value) is int else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _iso(nanoseconds: int) -> str | None:
    if not nanoseconds:
        return None
    return dt.datetime.fromtimestamp(nanoseconds / _NANO, dt.UTC).isoformat(timespec="milliseconds")
