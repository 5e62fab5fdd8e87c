"""Journals read once: labels on disk, steps one by one, in this process or file by file on Dask."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar, cast

from cascade_agent.core.records import Label, StepTrace, Usage
from cascade_agent.errors import ConfigurationError, RecordError
from cascade_agent.journal.labels import LabelStore
from cascade_agent.journal.reader import files_of, read, records
from cascade_agent.offline.evaluation.dataset import (
    DEFAULT_RULES,
    LabelRules,
    contradict,
    label_step,
    money,
    plus,
    text_hash,
)
from cascade_agent.offline.evaluation.tally import SweepPlan, Tally
from cascade_agent.validators.agreement import recorded_calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cascade_agent.core.clean_json import JsonMapping, JsonObject
    from cascade_agent.core.records import Verdict
    from cascade_agent.journal.format import OnError, PathLike
    from cascade_agent.offline.evaluation.dataset import Evaluator, LabelledStep, OnConflict, SameText

REMEMBERED: Final = 200_000  # steps among which one that comes a second time is recognised, where not all are kept
_AHEAD: Final = 16  # files that are read on Dask before their steps are needed
_UNASKED: Final = ("stays_on_large", "skipped_small", "budget")  # reasons that leave small out unseen


class Fold(Protocol):
    """A value that takes steps one by one, and takes in what other parts of the journals gave."""

    def add(self, step: LabelledStep, /) -> object:
        """Take a step."""

    def merge(self, other: Self, /) -> object:
        """Take in another part."""


F = TypeVar("F", bound=Fold)


@dataclass(slots=True, kw_only=True)
class Reading(Generic[F]):
    """The result of a reading of journals: what was folded, and how steps and labels met.

    `repeated` steps came a second time and were left out, `labelled` ones have a label, `labels` is the number of steps
    that labels were found for; `label_ids` names these where all is kept.
    """

    found: F
    labels: int
    label_ids: frozenset[str]
    repeated: int = 0
    labelled: int = 0

    @property
    def orphans(self) -> int:
        """Number of steps that have labels and are not in the journals."""
        return self.labels - self.labelled


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """Settings of a reading of journals.

    `labels` are further files with labels alone. `keep` remembers the ids of all steps, for what holds them in memory
    anyway; else a repeated step is recognised among the last 200,000.

    `dask` reads every file in a task of its own: what is given to `dask.compute`, such as `{"scheduler": "processes",
    "num_workers": 2}`; an empty mapping takes the active scheduler, such as that of a `distributed.Client`. Every
    worker must see the files under these paths, and holds all labels (without texts). None reads in this process.
    """

    labels: Sequence[PathLike] = ()
    rules: LabelRules = DEFAULT_RULES
    on_error: OnError = "raise"
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


def _folded(make: Callable[[], F], paths: Sequence[PathLike], store: LabelStore, how: ReadSettings) -> Reading[F]:
    ids = frozenset(store.ids()) if how.keep else frozenset[str]()
    seen, out = dict[int, None](), Reading(found=make(), labels=store.steps, label_ids=ids)

    def joined(data: JsonMapping) -> LabelledStep | None:
        trace = _checked(StepTrace.from_json(data))
        key, one = text_hash(trace.id), text_hash(f"{trace.id} {trace.started_at}")
        if key in seen or one in seen:
            out.repeated += 1
            return None
        labels = store.of_step(trace.id)
        step = label_step(trace, labels, how.rules)
        # of a step that LangGraph ran again the first with an answer counts; one without is known by its time too
        seen[one if trace.final is None else key] = None
        if len(seen) > REMEMBERED and not how.keep:
            del seen[next(iter(seen))]
        out.labelled += bool(labels)
        return step

    for step in records(*paths, kind="step", build=joined, on_error=how.on_error):
        out.found.add(step)
    return out


def _checked(trace: StepTrace) -> StepTrace:
    """Refuse numbers that cannot be; their types were checked when the record was read."""
    money(trace.cost, trace.id)
    for p in (trace.confidence, *(attempt.confidence for attempt in trace.attempts)):
        if p is not None and not 0 <= p <= 1:
            msg = f"step {trace.id!r} has a confidence of {p!r}; expected null or a number in [0, 1]: correct the line"
            raise RecordError(msg)
    return trace


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
        first.repeated += part.repeated
        first.labelled += part.labelled
    return first


def originals(paths: Iterable[PathLike], *, on_error: OnError = "raise") -> tuple[list[Path], list[str]]:
    """Return the files of paths and patterns, and those left out: named twice, or beginning with another's first step.

    Rotated journals that are just being compressed, and copies, would count their steps twice.
    """
    files: dict[str, Path] = {}
    copies: list[str] = []
    for file in files_of(*paths):
        first = next((f"id {step.id}" for step in read(file, on_error=on_error)), f"file {file}")
        if files.setdefault(first, file) is not file:
            copies.append(str(file))
    return list(files.values()), copies


def as_list(paths: PathLike | Sequence[PathLike]) -> list[PathLike]:
    """Return one path, or several, as several."""
    return list(paths) if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]


def no_step(paths: Iterable[object], found: str = "the journal holds no step yet") -> str:
    """Return the message about journals without a step."""
    return f"{', '.join(map(str, paths))}: {found}; set CASCADE_JOURNAL where the agent runs and let it work"


@dataclass(slots=True, kw_only=True)
class Dataset:
    """The labelled steps of some journals, without anything that people or models said; it takes steps one by one.

    `steps` holds those that escalated or have a label, in the order of the journal. Of the `total`, steps that small
    answered (`answered`) and nobody labelled are only counted (`unlabelled`, of them `undecided` have labels that say
    neither right nor wrong). In `unasked` ones an economy left small out. `repeated` ones came a second time, `orphans`
    are ids of labels without a step. `paid` is model -> calls, tokens, cost and currency, as far as known; `codes`
    validator -> its codes that carried a score or a hard fail. `tally` has what all steps cost.
    """

    side_effects: Mapping[str, str] = field(default_factory=dict)
    steps: list[LabelledStep] = field(default_factory=list)
    total: int = 0
    answered: int = 0
    unlabelled: int = 0
    undecided: int = 0
    unasked: int = 0
    repeated: int = 0
    orphans: tuple[str, ...] = ()
    ids: set[str] = field(default_factory=set)
    paid: dict[str, JsonObject] = field(default_factory=dict)
    codes: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shared: dict[Verdict, Verdict] = field(default_factory=dict)
    tally: Tally = field(default_factory=lambda: Tally(SweepPlan()))

    @property
    def conflicts(self) -> tuple[LabelledStep, ...]:
        """The steps whose labels contradict each other."""
        return tuple(step for step in self.steps if contradict(step.labels))

    @property
    def by_source(self) -> dict[str, int]:
        """Number of labels that counted, by their source."""
        return dict(sorted(Counter(s.outcome.source for s in self.steps if s.outcome.source and s.labelled).items()))

    def add(self, step: LabelledStep) -> None:
        """Take a step."""
        trace = step.trace
        self.tally.add(step)
        self.total += 1
        if step.given:
            self.ids.add(trace.id)
        if step.facts is None:
            return
        if step.small.outcome == "skipped" and any(move.reason in _UNASKED for move in trace.decisions):
            self.unasked += 1  # counted as harmless, it would understate the risk for the day small is asked again
            return
        for attempt in trace.attempts:
            if attempt.model and attempt.outcome != "skipped":
                tokens = attempt.usage or Usage()
                spent = {"calls": 1, "input_tokens": tokens.input_tokens, "output_tokens": tokens.output_tokens}
                self._pay(attempt.model, {**spent, "cost": attempt.cost, "currency": trace.currency})
        for name in trace.askable:
            self.codes[name].update(())  # it was there, though it may never say anything
        self.answered += step.answered
        verdicts = tuple(map(self._bare, step.small.verdicts))
        if step.answered and step.outcome.source is None:
            self.unlabelled += 1
            self.undecided += bool(step.labels)
            return
        effects = {self.side_effects.get(str(call.get("name"))) for call in recorded_calls(step.small.answer)}
        attempts = tuple(
            replace(a, verdicts=() if i else verdicts, answer=None, error=None, usage=None, inner=None)
            for i, a in enumerate(trace.attempts)
        )
        bare = replace(trace, attempts=attempts, decisions=(), inputs_seen=(), evidence=(), usage=None)
        self.steps.append(replace(step, trace=bare, facts=None, irreversible="irreversible" in effects))

    def merge(self, other: Dataset) -> None:
        """Take in the steps of another part of the journals."""
        self.tally.merge(other.tally)
        self.steps += other.steps
        for name in ("total", "answered", "unlabelled", "undecided", "unasked"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ids |= other.ids
        for model, paid in other.paid.items():
            self._pay(model, paid)
        for validator, codes in other.codes.items():
            self.codes[validator] |= codes

    def _pay(self, model: str, spent: JsonMapping) -> None:
        paid = self.paid.setdefault(model, {**dict.fromkeys(spent, 0), "cost": 0.0, "currency": spent["currency"]})
        same = spent["currency"] == paid["currency"]
        for key in spent.keys() - {"currency"}:
            paid[key] = plus(paid[key], spent[key] if same or key != "cost" else None)

    def _bare(self, verdict: Verdict) -> Verdict:
        """Count the code of a verdict, and return it without its texts; equal ones are one in memory."""
        codes = self.codes[verdict.validator]
        if verdict.score is not None or verdict.hard:
            codes.add(verdict.code or verdict.outcome)
        bare = replace(verdict, reason="", path="")
        return self.shared.setdefault(bare, bare)


def load_dataset(
    *paths: PathLike,
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    side_effects: Mapping[str, str] | None = None,
    on_error: OnError = "raise",
    dask: Mapping[str, object] | None = None,
) -> Dataset:
    """Read journals and join their labels to their steps; labels may stand in other files than their steps.

    The keywords are those of `LabelRules` and `ReadSettings`; `side_effects` are those of the policy.

    Raises:
        RecordError: a path without a file, a line that is no record, a journal without steps, an impossible label.
        ConfigurationError: an unknown `on_conflict`, or dask is not installed.
    """
    rules = LabelRules(evaluator=evaluator, same_text=same_text, on_conflict=on_conflict)
    how = ReadSettings(rules=rules, on_error=on_error, keep=True, dask=dask)
    reading = fold(partial(Dataset, side_effects=side_effects or {}), paths, how)
    found = reading.found
    if not found.total:
        raise RecordError(no_step(paths))
    found.repeated, found.orphans = reading.repeated, tuple(sorted(reading.label_ids - found.ids))
    return found
