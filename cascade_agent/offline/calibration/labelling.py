"""Labels from people: which steps to look at, which step is meant, and files of labels made elsewhere.

A label is added, never changed; one that somebody was asked for because the step looked doubtful says so (its source is
`review`), because such steps cannot stand for those that nobody looked at.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from cascade_agent.core.records import Label
from cascade_agent.errors import RecordError
from cascade_agent.journal.reader import checked_label, read, read_labels
from cascade_agent.offline.evaluation.dataset import LOOKING, UNFINISHED, label_step, resolve, unit_hash
from cascade_agent.offline.evaluation.journals import no_step

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cascade_agent.core.records import StepTrace
    from cascade_agent.journal.format import OnError

Order = Literal["doubtful", "random"]

SOURCES: Final = ("person", "review", "evaluator", "tool_error")
"""Sources that may be named by hand; shadow calls and escalations speak for themselves."""

_COLUMNS = ("step_id", "right", "harm", "source", "note", "at")
_WORDS: Final = {
    **dict.fromkeys(("true", "1", "yes", "y", "right"), True),
    **dict.fromkeys(("false", "0", "no", "n", "wrong"), False),
    **dict.fromkeys(("", "null", "none", "unknown", "?"), None),
}


def labels_of(*paths: str | os.PathLike[str], on_error: OnError = "raise") -> dict[str, list[Label]]:
    """Return all labels of some journals by step.

    Raises:
        RecordError: as `journal.read_labels`.
    """
    found: dict[str, list[Label]] = defaultdict(list)
    for label in read_labels(*paths, on_error=on_error, check=checked_label):
        found[label.step_id].append(label)
    return found


# ---- which step is meant --------------------------------------------------------------------------------------------


def find_step(*paths: str | os.PathLike[str], prefix: str, on_error: OnError = "raise") -> StepTrace:
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
    if prefix in near or len(near) == 1:  # after the last line: a journal with a fault gets no label
        return near.get(prefix) or next(iter(near.values()))
    raise RecordError(_which(prefix, sorted(near), paths, steps))


_NAMED = 5


def _which(prefix: str, near: Sequence[str], paths: Sequence[str | os.PathLike[str]], steps: int) -> str:
    if not steps:
        return no_step(paths)
    names = ", ".join(str(path) for path in paths)
    if near:
        more = ", ..." if len(near) > _NAMED else ""
        return f"{names}: several steps begin with {prefix!r} ({', '.join(near[:_NAMED])}{more}); give more of the id"
    return (
        f"{names}: none of the {steps} steps has an id that begins with {prefix!r}; "
        "`cascade-agent trace --json` prints the ids"
    )


# ---- which steps to look at -----------------------------------------------------------------------------------------


def to_look_at(
    *paths: str | os.PathLike[str],
    labels: Mapping[str, Sequence[Label]],
    order: Order = "doubtful",
    limit: int = 50,
    seed: int = 0,
    on_error: OnError = "raise",
) -> list[StepTrace]:
    """The steps that a person should look at next, at most `limit`, only these in memory.

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

    def waiting() -> Iterator[StepTrace]:
        for trace in read(*paths, on_error=on_error):
            if trace.id in seen:
                continue
            unfinished = not trace.attempts or trace.outcome in UNFINISHED
            seen.add("" if unfinished else trace.id)  # LangGraph may run such a step again
            if unfinished:
                continue
            own = labels.get(trace.id, ())
            if order == "random":
                answered = trace.final_tier == "small" and not trace.escalated
                if answered and not any(label.source in LOOKING and _says(label) for label in own):
                    yield trace
            elif trace.attempts[0].answer is not None and resolve(label_step(trace, own).labels) is None:
                yield trace

    found = heapq.nsmallest(limit, waiting(), key=key)
    if not seen:
        raise RecordError(no_step(paths))
    return found


def _says(label: Label) -> bool:
    return label.right is not None or label.harm is not None


def promoted(labels: Iterable[Label]) -> Label | None:
    """The label of a step that was reviewed as doubtful and now comes up at random: the same finding, by a person."""
    reviews = [label for label in labels if label.source == "review" and _says(label)]
    return replace(reviews[-1], source="person") if reviews else None


# ---- labels made elsewhere ------------------------------------------------------------------------------------------


def import_labels(
    file: str | os.PathLike[str], *, journals: Sequence[str | os.PathLike[str]], on_error: OnError = "raise"
) -> list[Label]:
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
    rows = _csv(path, text) if path.suffix.lower() == ".csv" else _jsonl(path, text)
    found = []
    for number, row in rows:
        try:
            found.append((number, _label(row)))
        except RecordError as error:
            msg = f"{path}:{number}: {error}; correct the line, nothing was imported"
            raise RecordError(msg) from error
    if not found:
        msg = f"{path}: no label in it; give one line per step with step_id and right (or harm)"
        raise RecordError(msg)
    return _placed(path, found, journals, on_error)


def _placed(
    path: Path, found: list[tuple[int, Label]], journals: Sequence[str | os.PathLike[str]], on_error: OnError
) -> list[Label]:
    ids = sorted({trace.id for trace in read(*journals, on_error=on_error)})
    known = set(ids)
    placed = []
    for number, label in found:
        near = [label.step_id] if label.step_id in known else _beginning(ids, label.step_id)
        if len(near) != 1:
            msg = f"{path}:{number}: {_which(label.step_id, near, journals, len(ids))}; nothing was imported"
            raise RecordError(msg)
        placed.append(replace(label, step_id=near[0]))
    return placed


def _beginning(ids: Sequence[str], prefix: str) -> list[str]:
    from bisect import bisect_left

    at = bisect_left(ids, prefix)
    return [name for name in ids[at : at + _NAMED + 1] if name.startswith(prefix)] if prefix else []


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        if "step_id" not in header or not {"right", "harm"} & {*header}:
            msg = f"{path}:1: the header is {', '.join(header) or 'empty'}; expected step_id and right (or harm)"
            raise RecordError(msg)
        reader.fieldnames = header
        for row in reader:
            if None in row or None in row.values():
                msg = (
                    f"{path}:{reader.line_num}: {len(header)} columns expected; correct the line, nothing was imported"
                )
                raise RecordError(msg)
            yield reader.line_num, row
    except csv.Error as error:
        msg = f"{path}:{reader.reader.line_num}: not CSV ({error}); correct the line, nothing was imported"
        raise RecordError(msg) from error


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            msg = f"{path}:{number}: not a line of JSON; correct or delete it, nothing was imported"
            raise RecordError(msg) from error
        if not isinstance(row, dict) or row.get("type", "label") != "label" or "attempts" in row:
            msg = (
                f"{path}:{number}: no label; expected an object with step_id and right (or harm), nothing was imported"
            )
            raise RecordError(msg)
        yield number, row


def _label(row: Mapping[str, Any]) -> Label:
    kept = {key: row[key] for key in (*_COLUMNS, "schema") if row.get(key) is not None}
    step_id = str(kept.get("step_id", "")).strip()
    if not step_id:
        msg = "no step_id"
        raise RecordError(msg)
    truths = {key: _truth(key, kept.get(key)) for key in ("right", "harm")}
    if truths["right"] is None and truths["harm"] is None:
        msg = "it says neither right nor harm"
        raise RecordError(msg)
    source = str(kept.get("source", "")).strip() or "person"
    if source not in SOURCES:
        msg = f"source is {source!r}; expected one of {', '.join(SOURCES)}"
        raise RecordError(msg)
    rest = {key: str(kept[key]) for key in ("note", "at") if kept.get(key)}
    data = {**rest, **truths, "step_id": step_id, "source": source}
    if "schema" in kept:
        data["schema"] = kept["schema"]
    return checked_label(Label.from_json(data))


def _truth(key: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _WORDS:
        msg = f"{key} is {value!r}; expected true, false or nothing"
        raise RecordError(msg)
    return _WORDS[word]
