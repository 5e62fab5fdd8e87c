"""Journals read once: labels on disk, steps one by one, in this process or file by file on Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar, cast

from cascade_agent.core.records import Label, StepTrace, Verdict, load
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.journal.reader import files_of, read, records
from cascade_agent.offline.evaluation.dataset import DEFAULT_RULES, Dataset, LabelRules, label_step, money, text_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.journal.format import OnError, PathLike
    from cascade_agent.offline.evaluation.dataset import Evaluator, LabelledStep, OnConflict, SameText

REMEMBERED: Final = 200_000  # steps among which one that comes a second time is recognised, where not all are kept
_AHEAD: Final = 16  # files that are read on Dask before their steps are needed


class Fold(Protocol):
    """A value that takes steps one by one, and takes in what other parts of the journals gave."""

    def add(self, step: LabelledStep, /) -> object:
        """Take a step."""

    def merge(self, other: Self, /) -> object:
        """Take in another part."""


F = TypeVar("F", bound=Fold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[F]):
    """The result of a reading of journals: what was folded, and how steps and labels met.

    `repeated` steps came a second time and were left out, `labelled` ones have a label, `labels` is the number of steps
    that labels were found for; `label_ids` names these where all is kept.
    """

    found: F
    repeated: int
    labelled: int
    labels: int
    label_ids: frozenset[str] = frozenset()

    @property
    def orphans(self) -> int:
        """Number of steps that have labels and are not in the journals."""
        return self.labels - self.labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """Settings of a reading of journals.

    `labels` are further files with labels alone. `lean` leaves out what no figure needs: tokens, texts of verdicts,
    decisions but for what they began early. `keep` remembers the ids of all steps, for what holds them in memory
    anyway; else a repeated step is recognised among the last 200,000.

    `dask` reads every file in a task of its own: what is given to `dask.compute`, such as `{"scheduler": "processes",
    "num_workers": 2}`; an empty mapping takes the active scheduler, such as that of a `distributed.Client`. Every
    worker must see the files under these paths, and holds all labels (without texts). None reads in this process.
    """

    labels: Sequence[PathLike] = ()
    rules: LabelRules = DEFAULT_RULES
    on_error: OnError = "raise"
    lean: bool = False
    keep: bool = False
    dask: Mapping[str, object] | None = None


def fold(make: Callable[[], F], paths: Sequence[PathLike], how: ReadSettings) -> Reading[F]:
    """Read journals into what `make` gives; the result is the same in one process and in many."""
    if how.dask is None:
        with LabelStore.of(paths, how.labels, on_error=how.on_error) as store:
            return _folded(make, paths, store, how)
    dask, readings = _tasks(make, paths, how)
    merge = dask.delayed(_merged)
    while len(readings) > 1:
        readings = [merge(readings[i : i + 8]) for i in range(0, len(readings), 8)]
    return cast("Reading[F]", dask.compute(*readings, **how.dask)[0])


def ordered(paths: Sequence[PathLike], how: ReadSettings) -> Iterator[Reading[StepList]]:
    """Read journals on Dask for what depends on the order of the steps, some files ahead."""
    dask, readings = _tasks(StepList, paths, how)
    for i in range(0, len(readings), _AHEAD):
        yield from dask.compute(*readings[i : i + _AHEAD], **(how.dask or {}))


class StepList(list["LabelledStep"]):
    """The steps of a part of the journals, in their order."""

    add, merge = list.append, list.extend


def originals(paths: Iterable[PathLike], *, on_error: OnError = "raise") -> tuple[list[Path], list[str]]:
    """Return the files of paths and patterns, and those left out: named twice, or beginning with another's first step.

    Rotated journals that are just being compressed, and copies, would count their steps twice.
    """
    seen: set[str] = set()
    files: list[Path] = []
    copies: list[str] = []
    for file in files_of(*paths):
        first = next((step.id for step in read(file, on_error=on_error)), None)
        if first is not None and first in seen:
            copies.append(str(file))
            continue
        seen.update([] if first is None else [first])
        files.append(file)
    return files, copies


def as_list(paths: PathLike | Sequence[PathLike]) -> list[PathLike]:
    """Return one path, or several, as several."""
    return list(paths) if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]


def no_step(paths: Iterable[object], found: str = "the journal holds no step yet") -> str:
    """Return the message about journals without a step."""
    return f"{', '.join(map(str, paths))}: {found}; set CASCADE_JOURNAL where the agent runs and let it work"


def load_dataset(
    *paths: PathLike,
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    side_effects: Mapping[str, str] | None = None,
    on_error: OnError = "raise",
) -> Dataset:
    """Read journals and join their labels to their steps; labels may stand in other files than their steps.

    The keywords are those of `LabelRules` and `journal.read`; `side_effects` are those of the policy.

    Raises:
        RecordError: a path without a file, a line that is no record, a journal without steps, an impossible label.
        ConfigurationError: an unknown `on_conflict`.
    """
    rules = LabelRules(evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)
    how = ReadSettings(rules=rules, on_error=on_error, keep=True)
    reading = fold(partial(Dataset, side_effects=side_effects or {}), paths, how)
    return complete(reading.found, reading, paths)


def complete(found: Dataset, reading: Reading[Any], paths: Iterable[object]) -> Dataset:
    """Return a dataset with what was counted while it was read; journals without steps are refused."""
    if not found.total:
        raise RecordError(no_step(paths))
    found.repeated, found.orphans = reading.repeated, tuple(sorted(reading.label_ids - found.ids))
    return found


def _folded(make: Callable[[], F], paths: Sequence[PathLike], store: LabelStore, how: ReadSettings) -> Reading[F]:
    found, seen, repeated, labelled = make(), dict[int, None](), 0, 0
    whole = how.rules.evaluator is not None and not how.lean
    build = StepTrace.from_json if whole else partial(_bare, lean=how.lean)

    def joined(data: JsonMapping) -> LabelledStep | None:
        nonlocal repeated, labelled
        trace = build(data)
        _check(trace)
        key, one = text_hash(trace.id), text_hash(f"{trace.id} {trace.started_at}")
        if key in seen or one in seen:
            repeated += 1
            return None
        labels = store.of_step(trace.id)
        step = label_step(trace, labels, how.rules)
        # of a step that LangGraph ran again the first with an answer counts; one without is known by its time too
        seen[one if trace.final is None else key] = None
        if len(seen) > REMEMBERED and not how.keep:
            del seen[next(iter(seen))]
        labelled += bool(labels)
        return step

    for step in records(*paths, kind="step", build=joined, on_error=how.on_error):
        if step is not None:
            found.add(step)
    ids = frozenset(store.ids()) if how.keep else frozenset[str]()
    return Reading(found=found, repeated=repeated, labelled=labelled, labels=store.steps, label_ids=ids)


def _check(trace: StepTrace) -> None:
    """Refuse numbers that cannot be; their types were checked when the record was read."""
    money(trace.cost, trace.id)
    for p in (trace.confidence, *(attempt.confidence for attempt in trace.attempts)):
        if p is not None and not 0 <= p <= 1:
            msg = f"step {trace.id!r} has a confidence of {p!r}; expected null or a number in [0, 1]: correct the line"
            raise RecordError(msg)


def _bare(data: JsonMapping, *, lean: bool = False) -> StepTrace:
    """Read a step without the texts of its verdicts, which then are few different ones: most of the time goes there.

    `lean` leaves out tokens too, and decisions but for what they began early.
    """
    attempts = data.get("attempts")
    if not isinstance(attempts, list) or not all(
        isinstance(attempt, dict) and isinstance(attempt.get("verdicts", []), list) for attempt in attempts
    ):
        return StepTrace.from_json(data)  # says what is wrong with it
    out = ("verdicts", "usage") if lean else ("verdicts",)
    bare = [{k: v for k, v in attempt.items() if k not in out} for attempt in attempts]
    rest = {k: v for k, v in data.items() if k not in ("usage", "decisions")} if lean else dict(data)
    decisions = data.get("decisions", ())
    if lean and isinstance(decisions, list) and any("hedge" in d for d in decisions if isinstance(d, dict)):
        rest["decisions"] = decisions
    trace = StepTrace.from_json({**rest, "attempts": bare})
    judged = tuple(
        replace(attempt, verdicts=tuple(map(_verdict, found["verdicts"]))) if found.get("verdicts") else attempt
        for attempt, found in zip(trace.attempts, attempts, strict=True)
    )
    return replace(trace, attempts=judged)


_KEPT: Final = ("outcome", "code", "score", "validator", "origin", "escalates_as")
_ABSENT: Final = object()


def _verdict(data: JsonMapping) -> Verdict:
    try:
        return _known_verdict(*(data.get(name, _ABSENT) for name in _KEPT))
    except (AttributeError, TypeError):
        return load(Verdict, data)  # says what is wrong with it


@lru_cache(maxsize=65_536, typed=True)
def _known_verdict(*values: object) -> Verdict:
    return load(Verdict, {name: value for name, value in zip(_KEPT, values, strict=True) if value is not _ABSENT})


def _tasks(make: Callable[[], F], paths: Sequence[PathLike], how: ReadSettings) -> tuple[Any, list[Any]]:
    """Return dask, and a reading of each file as a task; they share all labels."""
    try:
        dask: Any = import_module("dask")
    except ImportError as error:
        msg = "reading journals on dask needs it installed: pip install 'langgraph-cascade[dask]'"
        raise ConfigurationError(msg) from error
    files, read_labels, read_steps = files_of(*paths), dask.delayed(_labels_of), dask.delayed(_part)
    parts = [*(read_labels([file], (), how.on_error) for file in files), read_labels((), how.labels, how.on_error)]
    found = dask.compute(*parts, **(how.dask or {}))
    labels = dask.delayed([label for part in found for label in part], traverse=False)
    return dask, [read_steps(make, file, labels, how) for file in files]


def _labels_of(journals: Sequence[Path], files: Sequence[PathLike], on_error: OnError) -> list[Label]:
    with LabelStore.of(journals, files, on_error=on_error) as store:
        return list(store)


def _part(make: Callable[[], F], file: Path, labels: list[Label], how: ReadSettings) -> Reading[F]:
    with LabelStore(labels) as store:
        return _folded(make, [file], store, how)


def _merged(parts: Sequence[Reading[F]]) -> Reading[F]:
    first, *others = parts
    for part in others:
        first.found.merge(part.found)
    repeated, labelled = (sum(getattr(part, name) for part in parts) for name in ("repeated", "labelled"))
    return replace(first, repeated=repeated, labelled=labelled)
