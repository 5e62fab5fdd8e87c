"""`what_if` over many files at once, on Dask.

Dask and not Ray, because it is pure Python, installs with a handful of small packages, and runs these same few lines on
the processes of one machine or on a cluster, whichever scheduler is active; a sweep needs nothing of what Ray has more.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cascade_agent.errors import ConfigurationError
from cascade_agent.offline.evaluation.compare import RESAMPLES, as_list, compare, originals, tally_of
from cascade_agent.offline.evaluation.label_store import LabelStore
from cascade_agent.offline.evaluation.tally import Plan, Tally

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cascade_agent.core.policy import Policy
    from cascade_agent.core.records import Label
    from cascade_agent.journal.format import OnError
    from cascade_agent.offline.evaluation.compare import Comparison
    from cascade_agent.offline.evaluation.dataset import Evaluator, OnConflict, SameText


def what_if_on_dask(  # noqa: PLR0913 - one keyword per question
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    policies: Policy | Mapping[str, Policy] | None = None,
    *,
    grid: Sequence[float] = (),
    labels: Sequence[str | os.PathLike[str]] = (),
    evaluator: Evaluator | None = None,
    same_text: SameText | None = None,
    on_conflict: OnConflict = "precedence",
    on_error: OnError = "raise",
    resamples: int = RESAMPLES,
    seed: int = 0,
    **compute: Any,
) -> Comparison:
    """The same answer as `what_if`, to the last bit; a task reads one file and sends back its tally.

    Every worker must see the files under these paths, and holds all labels (without texts). Rotate journals, so that
    there are more files than workers. `compute` goes to `dask.compute`: `scheduler="processes", num_workers=2`; without
    it the active scheduler is taken, such as that of a `distributed.Client`.

    Raises:
        RecordError: as `what_if`.
        ConfigurationError: dask is not installed, or as `what_if`.
    """
    try:
        dask: Any = import_module("dask")
    except ImportError as error:
        msg = "what_if_on_dask needs dask: pip install 'langgraph-cascade[dask]'"
        raise ConfigurationError(msg) from error
    given = as_list(paths)
    plan = Plan.of(policies, grid)
    files, copies = originals(given, on_error=on_error)
    read, sweep, merge = dask.delayed(_labels), dask.delayed(_sweep), dask.delayed(_merged)
    told = dask.compute([read([file], (), on_error) for file in files], read((), labels, on_error), **compute)
    known = [label for part in (*told[0], told[1]) for label in part]
    shared = dask.delayed(known, traverse=False)
    how = {"evaluator": evaluator, "same_text": same_text, "on_conflict": on_conflict, "on_error": on_error}
    tallies = [sweep(file, plan, shared, how) for file in files]
    while len(tallies) > 1:
        tallies = [merge(tallies[i : i + 8]) for i in range(0, len(tallies), 8)]
    (tally,) = dask.compute(*tallies, **compute)
    orphans = len({label.step_id for label in known}) - tally.told
    return compare(tally, orphans=orphans, copies=copies, resamples=resamples, seed=seed, names=given)


def _labels(journals: Sequence[Path], files: Sequence[str | os.PathLike[str]], on_error: OnError) -> list[Label]:
    with LabelStore.of(journals, files, on_error=on_error) as store:
        return list(store)


def _sweep(file: Path, plan: Plan, labels: list[Label], how: Mapping[str, Any]) -> Tally:
    with LabelStore(labels) as store:
        return tally_of([file], plan, store, **how)


def _merged(tallies: Sequence[Tally]) -> Tally:
    whole = Tally(tallies[0].plan)
    for tally in tallies:
        whole.merge(tally)
    return whole
