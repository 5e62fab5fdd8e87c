"""Labels from people: which steps to look at, which step is meant, and files of labels made elsewhere.

A label is added, never changed; one that somebody was asked for because the step looked doubtful says so (its source is
`review`), because such steps cannot stand for those that nobody looked at.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
from bisect import bisect_left
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from cascade_agent.errors import RecordError
from cascade_agent.journal.reader import checked_label, read, records
from cascade_agent.offline.evaluation.dataset import LOOKING, label_step, resolve, says, unit_hash
from cascade_agent.offline.evaluation.journals import no_step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.core.records import Label, StepTrace
    from cascade_agent.journal.format import OnError, PathLike

Order = Literal["doubtful", "random"]
_NAMED: Final = 5

SOURCES: Final = ("person", "review", "evaluator", "tool_error")
"""Sources that may be named by hand; shadow calls and escalations speak for themselves."""

_COLUMNS = ("step_id", "right", "harm", "source", "note", "at")
_WORDS: Final = {
    **dict.fromkeys(("true", "1", "yes", "y", "right"), True),
    **dict.fromkeys(("false", "0", "no", "n", "wrong"), False),
    **dict.fromkeys(("", "null", "none", "unknown", "?"), None),
}


def labels_of(*paths: PathLike, on_error: OnError = "raise") -> dict[str, list[Label]]:
    """Return all labels of some journals by step. Raises as `journal.read_labels`."""
    found: dict[str, list[Label]] = defaultdict(list)
    for label in records(*paths, kind="label", build=checked_label, on_error=on_error):
        found[label.step_id].append(label)
    return found


def find_step(*paths: PathLike, prefix: str, on_error: OnError = "raise") -> StepTrace:
    """The step whose id is `prefix`, else the only one whose id begins with it.

    Raises:
        RecordError: none, or several; or a journal that cannot be read.
    """
    steps = 0
    near: dict[str, StepTrace] = {}
    for trace in read(*paths, on_error=on_error):
        steps += 1
        if trace.id == prefix or (trace.id.startswith(prefix) and len(near) <= _NAMED):
            near[trace.id] = trace
    return near[_only(prefix, sorted(near), paths, steps)]  # after the last line: a journal with a fault gets no label


def _only(prefix: str, near: Sequence[str], paths: Sequence[PathLike], steps: int) -> str:
    """Return which of the ids that begin so is meant: the same one, or the only one."""
    if prefix in near or len(near) == 1:
        return prefix if prefix in near else near[0]
    if not steps:
        raise RecordError(no_step(paths))
    names = ", ".join(str(path) for path in paths)
    msg = (
        f"{names}: none of the {steps} steps has an id that begins with {prefix!r}; `cascade-agent trace --json` "
        "prints the ids"
    )
    if near:
        more = ", ..." if len(near) > _NAMED else ""
        msg = f"{names}: several steps begin with {prefix!r} ({', '.join(near[:_NAMED])}{more}); give more of the id"
    raise RecordError(msg)


def to_look_at(
    *paths: PathLike,
    labels: Mapping[str, Sequence[Label]],
    order: Order = "doubtful",
    limit: int = 50,
    seed: int = 0,
    on_error: OnError = "raise",
) -> list[StepTrace]:
    """Return the steps that a person should look at next, at most `limit`, only these in memory.

    `doubtful`: steps without any label that says something, the confidence nearest to one half first, those without a
    confidence last; the quickest way to find mistakes. `random`: steps that small answered and that neither a person
    nor an evaluator has labelled, in an order that has nothing to do with them (by a hash of `seed` and the id, so a
    later session goes on where this one stops); what `calibrate` can take for a sample of all steps.

    Raises:
        RecordError: a journal that cannot be read, or without a step.
    """

    def key(trace: StepTrace) -> tuple[float, str]:
        p = trace.attempts[0].confidence
        doubt = 1.0 if p is None else abs(p - 0.5)
        return (doubt if order == "doubtful" else unit_hash(f"look\0{seed}\0{trace.id}")), trace.id

    seen: set[str] = set()

    def waits(trace: StepTrace) -> bool:
        step = label_step(trace, labels.get(trace.id, ()))
        if trace.id in seen or step.facts is None:
            seen.add("")  # LangGraph may run an unfinished step again
            return False
        seen.add(trace.id)
        if order == "doubtful":
            return step.small.answer is not None and resolve(step.labels) is None
        return step.answered and not any(label.source in LOOKING and says(label) for label in step.given)

    found = heapq.nsmallest(limit, filter(waits, read(*paths, on_error=on_error)), key=key)
    if not seen:
        raise RecordError(no_step(paths))
    return found


def promoted(labels: Iterable[Label]) -> Label | None:
    """Return the label of a step that was reviewed as doubtful and comes up at random: the same, by a person."""
    reviews = [label for label in labels if label.source == "review" and says(label)]
    return replace(reviews[-1], source="person") if reviews else None


def import_labels(file: PathLike, *, journals: Sequence[PathLike], on_error: OnError = "raise") -> list[Label]:
    """Read a file of labels (`.csv` with a header, else JSON lines), each checked against the steps of some journals.

    Columns or keys: `step_id` (or a prefix of it that only one step has), `right` and/or `harm` (true, false, 1, 0,
    yes, no, right, wrong, or empty), and if you like `source` (default `person`), `note`, `at`. Others are ignored.

    Raises:
        RecordError: a line that is no label, or one of no step; names file, line and mend. Nothing is read by halves.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read as a file of labels ({error}); give UTF-8 CSV with a header, or JSON lines"
        raise RecordError(msg) from error
    found = []
    for number, row in _csv(path, text) if path.suffix.lower() == ".csv" else _jsonl(path, text):
        try:
            found.append((number, _label(row)))
        except RecordError as error:
            raise _refused(path, number, f"{error}; correct the line") from error
    if not found:
        msg = f"{path}: no label in it; give one line per step with step_id and right (or harm)"
        raise RecordError(msg)
    return _placed(path, found, journals, on_error)


def _placed(path: Path, found: list[tuple[int, Label]], journals: Sequence[PathLike], on_error: OnError) -> list[Label]:
    ids = sorted({trace.id for trace in read(*journals, on_error=on_error)})
    placed = []
    for number, label in found:
        at, prefix = bisect_left(ids, label.step_id), label.step_id
        near = [name for name in ids[at : at + _NAMED + 1] if name.startswith(prefix)]
        try:
            placed.append(replace(label, step_id=_only(prefix, near, journals, len(ids))))
        except RecordError as error:
            raise _refused(path, number, str(error)) from error
    return placed


def _refused(path: Path, number: int, why: str) -> RecordError:
    return RecordError(f"{path}:{number}: {why}, nothing was imported")


def _csv(path: Path, text: str) -> Iterator[tuple[int, JsonMapping]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        if "step_id" not in header or not {"right", "harm"} & {*header}:
            msg = f"{path}:1: the header is {', '.join(header) or 'empty'}; expected step_id and right (or harm)"
            raise RecordError(msg)
        reader.fieldnames = header
        for row in reader:
            if None in row or None in row.values():
                raise _refused(path, reader.line_num, f"{len(header)} columns expected; correct the line")
            yield reader.line_num, row
    except csv.Error as error:
        raise _refused(path, reader.reader.line_num, f"not CSV ({error}); correct the line") from error


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, JsonMapping]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _refused(path, number, "not a line of JSON; correct or delete it") from error
        if not isinstance(row, dict) or row.get("type", "label") != "label" or "attempts" in row:
            raise _refused(path, number, "no label; expected an object with step_id and right (or harm)")
        yield number, row


def _label(row: JsonMapping) -> Label:
    kept = {key: row[key] for key in (*_COLUMNS, "schema") if row.get(key) is not None}
    step_id, source = (str(kept.get(key, "")).strip() for key in ("step_id", "source"))
    truths = {key: _truth(key, kept.get(key)) for key in ("right", "harm")}
    msg = ""
    if not step_id:
        msg = "no step_id"
    elif set(truths.values()) == {None}:
        msg = "it says neither right nor harm"
    elif source and source not in SOURCES:
        msg = f"source is {source!r}; expected one of {', '.join(SOURCES)}"
    if msg:
        raise RecordError(msg)
    texts = {key: str(kept[key]) for key in ("note", "at") if kept.get(key)}
    schema = {key: kept[key] for key in ("schema",) if key in kept}
    return checked_label({**texts, **truths, **schema, "step_id": step_id, "source": source or "person"})


def _truth(key: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _WORDS:
        msg = f"{key} is {value!r}; expected true, false or nothing"
        raise RecordError(msg)
    return _WORDS[word]
