"""Journals read once: labels on disk, steps one by one, in this process or file by file on Dask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from cascade_agent.core.records import Label, StepTrace, Verdict, load
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.journal.reader import files_of, read, records
from cascade_agent.offline.evaluation.dataset import (
    Dataset,
    DatasetBuilder,
    Evaluator,
    LabelledStep,
    LabelRules,
    OnConflict,
    SameText,
    label_step,
    money,
    text_hash,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cascade_agent.journal.format import OnError

PathLike = str | os.PathLike[str]

REMEMBERED: Final = 200_000
"""Steps among which one that comes a second time is recognised."""

_RULES: Final = LabelRules()


class LabelledSteps:
    """The steps of journals with their labels, one in memory at a time; one that comes a second time is left out.

    `lean` leaves out what no figure needs: tokens, texts of verdicts, decisions but for what they began early.
    `remember` bounds the steps among which a repeated one is recognised. Counts are complete after the last step.
    """

    def __init__(  # noqa: PLR0913 - one keyword per way of reading
        self,
        paths: Sequence[PathLike],
        labels: LabelStore,
        *,
        rules: LabelRules = _RULES,
        on_error: OnError = "raise",
        lean: bool = False,
        remember: int = REMEMBERED,
    ) -> None:
        self._paths, self._labels, self._rules = paths, labels, rules
        self._on_error: OnError = on_error
        self._trace, self._remember = _lean if lean else StepTrace.from_json, remember
        self._seen: dict[int, None] = {}
        self.labelled = self.repeated = 0
        """Steps that somebody labelled, and steps that came a second time."""

    def __iter__(self) -> Iterator[LabelledStep]:
        """Read the steps."""
        found = records(*self._paths, kind="step", build=self._build, on_error=self._on_error)
        return (step for step in found if step is not None)

    def _build(self, data: Mapping[str, Any]) -> LabelledStep | None:
        trace = self._trace(data)
        _check(trace)
        key, one = text_hash(trace.id), text_hash(f"{trace.id} {trace.started_at}")
        if key in self._seen or one in self._seen:
            self.repeated += 1
            return None
        labels = self._labels.of_step(trace.id)
        step = label_step(trace, labels, self._rules)
        # of a step that LangGraph ran again the first with an answer counts; one without is known by its time too
        self._seen[one if trace.final is None else key] = None
        if len(self._seen) > self._remember:
            del self._seen[next(iter(self._seen))]
        self.labelled += bool(labels)
        return step


def _check(trace: StepTrace) -> None:
    """Refuse a record whose fields have types that nobody writes."""
    for name in ("id", "step", "kind", "outcome", "reason", "currency", "thread_id", "started_at", "policy"):
        value = getattr(trace, name)
        if not isinstance(value, str) and (value is not None or name in _TEXTS):
            msg = f"step {trace.id!r} has {name}={value!r}; expected a text: correct the line"
            raise RecordError(msg)
    money(trace.cost, trace.id)
    for p in (trace.confidence, *(attempt.confidence for attempt in trace.attempts)):
        if p is not None and (isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1):
            msg = f"step {trace.id!r} has a confidence of {p!r}; expected null or a number in [0, 1]: correct the line"
            raise RecordError(msg)


_TEXTS: Final = ("id", "step", "kind", "outcome", "reason", "currency")


def _lean(data: Mapping[str, Any]) -> StepTrace:
    """Read a step without what no figure needs.

    Most of the time that reading a record takes goes into its verdicts, of which there are few different ones.
    """
    attempts = data.get("attempts")
    if not isinstance(attempts, list) or not all(isinstance(attempt, dict) for attempt in attempts):
        return StepTrace.from_json(data)  # says what is wrong with it
    bare = [{k: v for k, v in attempt.items() if k not in ("usage", "verdicts")} for attempt in attempts]
    rest = {k: v for k, v in data.items() if k not in ("usage", "decisions")}
    decisions = data.get("decisions", ())
    if isinstance(decisions, list) and any("hedge" in d for d in decisions if isinstance(d, dict)):
        rest["decisions"] = decisions
    trace = StepTrace.from_json({**rest, "attempts": bare})
    judged = tuple(
        replace(attempt, verdicts=_verdicts(found["verdicts"])) if found.get("verdicts") else attempt
        for attempt, found in zip(trace.attempts, attempts, strict=True)
    )
    return replace(trace, attempts=judged)


def _verdicts(found: object) -> tuple[Verdict, ...]:
    try:
        return tuple(
            _verdict(data.get("validator", ""), data.get("code", ""), data["outcome"], data.get("score"))
            for data in cast("list[dict[str, Any]]", found)
        )
    except (AttributeError, KeyError, TypeError):
        return tuple(load(Verdict, data) for data in cast("list[object]", found))  # says what is wrong with it


@lru_cache(maxsize=65_536)
def _verdict(validator: str, code: str, outcome: str, score: float | None) -> Verdict:
    return load(Verdict, {"validator": validator, "code": code, "outcome": outcome, "score": score})


def as_list(paths: PathLike | Sequence[PathLike]) -> list[PathLike]:
    """Return one path, or several, as several."""
    return list(paths) if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]


def originals(paths: Iterable[PathLike], *, on_error: OnError = "raise") -> tuple[list[Path], list[str]]:
    """Return the files of paths and patterns, and those left out: named twice, or beginning with another's first step.

    Rotated journals that are just being compressed, and copies, would count their steps twice.
    """
    seen: set[str] = set()
    files: list[Path] = []
    copies: list[str] = []
    for file in files_of(*paths):
        first = next(iter(read(file, on_error=on_error)), None)
        if first is not None and first.id in seen:
            copies.append(str(file))
            continue
        seen.update([] if first is None else [first.id])
        files.append(file)
    return files, copies


def no_step(paths: Iterable[object]) -> str:
    """Return the message about journals without a step."""
    names = ", ".join(str(path) for path in paths)
    return f"{names}: the journal holds no step yet; set CASCADE_JOURNAL where the agent runs and let it work"


class Fold(Protocol):
    """A value that takes steps one by one, and takes in what other parts of the journals gave."""

    def add(self, step: LabelledStep, /) -> object:
        """Take a step."""

    def merge(self, other: Any, /) -> object:
        """Take in another part."""


F = TypeVar("F", bound=Fold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[F]):
    """The result of a reading of journals: what was folded, and how steps and labels met."""

    found: F
    repeated: int
    labelled: int
    labels: int
    """Number of steps that labels were found for; `label_ids` names them where that is wanted."""
    label_ids: frozenset[str] = frozenset()

    @property
    def orphans(self) -> int:
        """Number of steps that have labels and are not in the journals."""
        return self.labels - self.labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """Settings of a reading of journals: see `LabelledSteps`.

    `labels` are further files with labels alone, `ids` keeps the ids of the steps that have a label.

    `dask` reads every file in a task of its own: what is given to `dask.compute`, such as `{"scheduler": "processes",
    "num_workers": 2}`; an empty mapping takes the active scheduler, such as that of a `distributed.Client`. Every
    worker must see the files under these paths, and holds all labels (without texts). Rotate journals, so that there
    are more files than workers. None reads in this process.
    """

    labels: Sequence[PathLike] = ()
    rules: LabelRules = _RULES
    on_error: OnError = "raise"
    lean: bool = False
    remember: int = REMEMBERED
    ids: bool = False
    dask: Mapping[str, Any] | None = None


def fold(make: Callable[[], F], paths: Sequence[PathLike], how: ReadSettings) -> Reading[F]:
    """Read journals into what `make` gives; the result is the same in one process and in many."""
    if how.dask is None:
        with LabelStore.of(paths, how.labels, on_error=how.on_error) as store:
            return _folded(make, paths, store, how)
    dask, files = _dask(), files_of(*paths)
    labels, read_steps, merge = _labels_on(dask, files, how), dask.delayed(_part), dask.delayed(_merged)
    readings = [read_steps(make, file, labels, how) for file in files]
    while len(readings) > 1:
        readings = [merge(readings[i : i + 8]) for i in range(0, len(readings), 8)]
    (reading,) = dask.compute(*readings, **how.dask)
    return cast("Reading[F]", reading)


def ordered(paths: Sequence[PathLike], how: ReadSettings) -> Iterator[Reading[StepList]]:
    """Read journals on Dask for what depends on the order of the steps, `_AHEAD` files at a time."""
    dask, files = _dask(), files_of(*paths)
    labels, read_steps = _labels_on(dask, files, how), dask.delayed(_part)
    for i in range(0, len(files), _AHEAD):
        yield from dask.compute(
            *(read_steps(StepList, file, labels, how) for file in files[i : i + _AHEAD]), **(how.dask or {})
        )


class StepList(list[LabelledStep]):
    """The steps of a part of the journals, in their order."""

    def add(self, step: LabelledStep, /) -> None:
        """Add a step."""
        self.append(step)

    def merge(self, other: StepList, /) -> None:
        """Add the steps of another part."""
        self.extend(other)


_AHEAD: Final = 16


def _dask() -> Any:
    try:
        return import_module("dask")
    except ImportError as error:
        msg = "reading journals on dask needs it installed: pip install 'langgraph-cascade[dask]'"
        raise ConfigurationError(msg) from error


def _labels_on(dask: Any, files: Sequence[PathLike], how: ReadSettings) -> Any:
    """Return all labels, read file by file, as a value that tasks share."""
    read_labels = dask.delayed(_labels_of)
    parts = [read_labels([file], (), how.on_error) for file in files]
    found = dask.compute(*parts, read_labels((), how.labels, how.on_error), **(how.dask or {}))
    return dask.delayed([label for part in found for label in part], traverse=False)


def _folded(make: Callable[[], F], paths: Sequence[PathLike], store: LabelStore, how: ReadSettings) -> Reading[F]:
    found = make()
    steps = LabelledSteps(paths, store, rules=how.rules, on_error=how.on_error, lean=how.lean, remember=how.remember)
    for step in steps:
        found.add(step)
    ids = frozenset(store.ids()) if how.ids else frozenset[str]()
    return Reading(found=found, repeated=steps.repeated, labelled=steps.labelled, labels=store.steps, label_ids=ids)


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
    how = ReadSettings(rules=rules, on_error=on_error, remember=2**62, ids=True)
    reading = fold(partial(DatasetBuilder, side_effects or {}), paths, how)
    if not reading.found.total:
        raise RecordError(no_step(paths))
    return reading.found.dataset(repeated=reading.repeated, label_ids=reading.label_ids)
