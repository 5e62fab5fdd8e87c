"""`cascade-agent label`: what people know about the steps of a journal, one by one, in a session, or from a file.

Labels are added and never changed; where they contradict each other all of them are printed.
"""

from __future__ import annotations

import datetime as dt
import sys
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cascade_agent.cli._app import JsonFlag, SkipBad, clear_errors, fail, print_json, reading_progress, say
from cascade_agent.cli._tree import finding, label_text
from cascade_agent.core.records import Label
from cascade_agent.journal.format import answer_text
from cascade_agent.journal.reader import read, records
from cascade_agent.journal.writer import Journal
from cascade_agent.offline.calibration.labelling import find_step, import_labels, labels_of, promoted, to_look_at
from cascade_agent.offline.evaluation.dataset import contradict, label_step, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import StepTrace
    from cascade_agent.journal.format import OnError

Source = Literal["person", "review", "evaluator", "tool_error"]
Order = Literal["doubtful", "random"]

_KEYS = "r right, w wrong, h wrong and large right, b both wrong, s skip, q quit"
_finding = attrgetter("source", "right", "harm", "note")
_MAX_TEXT = 2000
_MAX_LINES = 20


@clear_errors()
def label(
    journal: Annotated[str, typer.Argument(help="A journal, or a pattern of its parts (then --out).")],
    step_id: Annotated[
        str | None, typer.Argument(help="Id of a step, or its beginning. Without it: a session.", metavar="STEP_ID")
    ] = None,
    *,
    right: Annotated[bool | None, typer.Option("--right/--wrong", help="Whether small's answer was right.")] = None,
    harm: Annotated[
        bool | None, typer.Option("--harm/--no-harm", help="Whether small was wrong and large right.")
    ] = None,
    note: Annotated[str, typer.Option(help="A remark, kept with the label.")] = "",
    source: Annotated[Source, typer.Option(help="Who says so. review: because the step looked doubtful.")] = "person",
    import_file: Annotated[
        Path | None,
        typer.Option("--from", help="Import labels: CSV with a header, or JSON lines (step_id, right, harm, note)."),
    ] = None,
    order: Annotated[
        Order,
        typer.Option(
            help="Of a session. doubtful: confidence nearest to one half first, the quickest way to find mistakes. "
            "random: a sample of what small answered, which is what `calibrate` needs."
        ),
    ] = "doubtful",
    limit: Annotated[int, typer.Option(min=1, help="Of a session: at most so many steps.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the random order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write labels to this file instead of the journal.")] = None,
    skip_bad: SkipBad = False,
    as_json: JsonFlag = False,
) -> None:
    """Say which steps were right: one step, a file of them, or a session that shows them one by one.

    Labels are appended to the journal. Labels of one step stand side by side; contradictions are shown.
    """
    _check(step_id, import_file, right=right, harm=harm, note=note)
    with reading_progress():
        desk = _Desk(journal, out, "skip" if skip_bad else "strict")
    seen: Iterable[StepTrace]
    if step_id is not None:
        seen = [find_step(*desk.paths, prefix=step_id, on_error=desk.on_error)]
        desk.note(seen[0], right=False if harm else right, harm=harm, note=note, source=source)
    elif import_file is not None:
        ids = desk.add_file(import_file)
        seen = (trace for trace in read(*desk.paths, on_error=desk.on_error) if trace.id in ids)
    else:
        seen = desk.session(order, limit, seed, err=as_json)
    conflicts = desk.conflicts(seen)
    if as_json:
        print_json({
            "file": str(desk.target),
            "written": [label.to_json() for label in desk.written],
            "known_already": desk.repeated,
            "conflicts": [_conflict_json(step, labels) for step, labels in conflicts.items()],
        })  # fmt: skip
    else:
        known = f", {desk.repeated} stood there already" if desk.repeated else ""
        say(f"{len(desk.written)} labels written to {desk.target}{known}.")
        for line in (line for step, labels in conflicts.items() for line in _conflict_lines(step, labels)):
            say(line)


def _check(step_id: str | None, import_file: Path | None, *, right: bool | None, harm: bool | None, note: str) -> None:
    """Refuse words that cannot be meant."""
    if step_id is None:
        if right is not None or harm is not None or note:
            fail("--right, --wrong, --harm, --no-harm and --note say something about one step: give its STEP_ID")
    elif not step_id.strip():
        fail("STEP_ID is empty; give the id of a step, or its beginning")
    elif import_file is not None:
        fail("give STEP_ID or --from, not both")
    elif right is None and harm is None:
        fail("say --right or --wrong (or --harm, --no-harm)")
    elif right and harm:
        fail("--right and --harm contradict each other: harm is small wrong and large right")


def _conflict_lines(step: str, labels: Sequence[Label]) -> Iterable[str]:
    yield f"{step}: labels contradict each other, all are kept:"
    yield from (f"  {label_text(label)}" for label in labels)
    if (counted := resolve(labels)) is not None:
        yield f"  {label_text(counted)}: this one counts"


def _conflict_json(step: str, labels: Sequence[Label]) -> JsonObject:
    counted = resolve(labels)
    return {
        "step_id": step,
        "counted": None if counted is None else counted.to_json(),
        "labels": [label.to_json() for label in labels],
    }


class _Desk:
    """A journal, its labels, and where new ones go."""

    def __init__(self, journal: str, out: Path | None, on_error: OnError) -> None:
        plain = Path(journal)
        single = plain.is_file() and plain.suffix != ".gz"
        if out is None and not single:
            if plain.is_dir() or not plain.exists():
                next(iter(read(journal)), None)  # says what is wrong with it
            fail(f"{journal} is no single plain file to append to: give --out FILE for the labels")
        self.paths: list[Path | str] = [*Journal(plain).files()] if single else [journal]
        if out is not None and out.is_file() and out.resolve() not in {Path(p).resolve() for p in self.paths}:
            self.paths.append(out)
        self.target = plain if out is None else out
        self.on_error: OnError = on_error
        self.labels = labels_of(*self.paths, on_error=on_error)
        self.written: list[Label] = []
        self.repeated = 0

    def add(self, label: Label) -> None:
        """Append a label unless the very same stands there already."""
        if any(_finding(label) == _finding(other) for other in self.labels[label.step_id]):
            self.repeated += 1
            return
        with Journal(self.target) as journal:
            if not journal.append_label(label):
                fail(f"{self.target} cannot be written; {len(self.written)} labels were", code=1)
        self.labels[label.step_id].append(label)
        self.written.append(label)

    def note(self, trace: StepTrace, *, right: bool | None, harm: bool | None, source: str, note: str = "") -> None:
        """Append what somebody says about a step."""
        at = dt.datetime.now(dt.UTC).isoformat()
        self.add(Label(step_id=trace.id, source=source, right=right, harm=harm, note=note, at=at))

    def add_file(self, file: Path) -> set[str]:
        """Append the labels of a file; return the ids of their steps."""
        labels = import_labels(file, journals=self.paths, on_error=self.on_error)
        for label in labels:
            self.add(label)
        return {label.step_id for label in labels}

    def session(self, order: Order, limit: int, seed: int, *, err: bool) -> list[StepTrace]:
        """Ask about step after step; return those that were judged."""
        with reading_progress():
            steps = to_look_at(
                *self.paths, labels=self.labels, order=order, limit=limit, seed=seed, on_error=self.on_error
            )
            requests = self._requests({trace.id for trace in steps})
        seen = []
        none = "" if requests else " The journal holds answers, not requests (Journal(requests=True) keeps them)."
        say(f"{len(steps)} steps to look at.{none} Keys: {_KEYS}.", err=err)
        for number, trace in enumerate(steps, 1):
            before = promoted(self.labels[trace.id]) if order == "random" else None
            if before is not None:  # looked at earlier: no need to ask again
                self.note(trace, right=before.right, harm=before.harm, note="reviewed before", source="person")
                seen.append(trace)
                continue
            say(err=err)
            say(f"[{number} of {len(steps)}]", err=err)
            for line in _card(trace, self.labels[trace.id], requests.get(trace.id)):
                say(line, err=err)
            key = _next_key(large=trace.escalated, err=err)
            if key == "q":
                break
            if key != "s":
                source = "review" if order == "doubtful" else "person"
                self.note(trace, right=key == "r", harm={"h": True, "b": False}.get(key), source=source)
                seen.append(trace)
        return seen

    def _requests(self, ids: set[str]) -> dict[str, object]:
        """Return the requests of steps, where the journal kept them."""

        def build(data: JsonMapping) -> tuple[str, object] | None:
            step, request = data.get("id"), data.get("request")
            return (step, request) if request and isinstance(step, str) and step in ids else None

        return dict(records(*self.paths, kind="step", build=build, on_error=self.on_error, containing=b'"request"'))

    def conflicts(self, traces: Iterable[StepTrace]) -> dict[str, tuple[Label, ...]]:
        """Return the labels of those steps whose labels contradict each other."""
        found: dict[str, tuple[Label, ...]] = {}
        for trace in traces:
            found.setdefault(trace.id, label_step(trace, self.labels[trace.id]).labels)
        return {step: labels for step, labels in found.items() if contradict(labels)}


def _next_key(*, large: bool, err: bool) -> str:
    """Return one of the keys; the end of the input quits."""
    allowed = "rwhbsq" if large else "rwsq"
    while True:
        try:
            key = sys.stdin.readline()  # one stream for the whole session: another one would lose what this read ahead
        except KeyboardInterrupt:
            return "q"
        if not key:
            return "q"
        key = key.strip().lower()[:1]
        if key and key in allowed:
            return key
        say(f"{', '.join(part for part in _KEYS.split(', ') if part[0] in allowed)}:", err=err)


def _card(trace: StepTrace, labels: Sequence[Label], request: object) -> Iterable[str]:
    """Yield a step as a person judges it: request, first answer, verdicts, decision, final answer."""
    place = f" in thread {trace.thread_id}" if trace.thread_id else ""
    yield f"{trace.step}{place} ({trace.kind}), id {trace.id}"
    for message in request if isinstance(request, list) else ():
        if isinstance(message, dict):
            lines = _answer_lines({**message, "text": message.get("content")}, None)
            yield from (f"  {message.get('role')}: {line}" for line in lines[:_MAX_LINES])
    for attempt in trace.attempts:
        sure = "" if attempt.confidence is None else f", P(right) {attempt.confidence:.2f}"
        yield f"  {attempt.tier}{f' {attempt.model}' if attempt.model else ''}{sure}:"
        yield from (f"    {line}" for line in _answer_lines(attempt.answer, attempt.error))
        for verdict in attempt.verdicts:
            if verdict.outcome != "pass" or verdict.score is not None:
                yield f"    - {finding(verdict)}"
    yield f"  {trace.outcome} by {trace.final_tier or 'nobody'} ({trace.reason})"
    for known in labels:
        yield f"  label: {label_text(known)}"
    yield "  Was small's answer right?"


def _answer_lines(answer: object, error: str | None) -> list[str]:
    if answer is None:
        return [error or "(no answer)"]
    text = answer_text(answer)
    return [*text[:_MAX_TEXT].splitlines(), *["..."] * (len(text) > _MAX_TEXT)] or ["(empty)"]
