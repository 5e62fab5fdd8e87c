"""Arguments that a plan takes from earlier steps: how they are written, and whether a call has the right ones.

A `$` is a reference only where it cannot be something else, and what is not known agrees.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, cast

from cascade_agent.validators._words import pointer_part, value_text
from cascade_agent.validators.agreement import normal, same_value

if TYPE_CHECKING:
    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.validators._plan import Step

_REFERENCE = re.compile(
    r"\$(?:\{([A-Za-z0-9_-]{1,80})((?:\.[\w-]{1,80}){0,16})\}|([A-Za-z0-9_-]{1,80})((?:\.[\w-]{1,80}){0,16}))"
)
_ENVIRONMENT = re.compile(r"[A-Z0-9_]+")
_MAX_PLANNED = 2_000
_MAX_RESULT = 200_000
_MAX_NODES = 200
_MAX_DEPTH = 16
_MAX_REFERENCES = 64
_MAX_REFERENCES_IN_PLAN = 5_000
MISSING = object()


# ---- references in a plan -------------------------------------------------------------------------------------------


def find_bad_reference(steps: list[Step], earlier: set[str]) -> str | None:
    """Return the path of the first argument that refers to a step which is unknown, or later and no dependency."""
    by_id = {step.id: step for step in steps}
    before = set(earlier)
    left = _MAX_REFERENCES_IN_PLAN
    for index, step in enumerate(steps):
        before_it: set[str] | None = None
        for path, text in _texts(step.args):
            for found in islice(_REFERENCE.finditer(text), max(0, min(left, _MAX_REFERENCES))):
                left -= 1
                target = found[1] or found[3]
                if target in before or (target not in by_id and not _certain(found, text)):
                    continue
                before_it = _waited_for(step, by_id) if before_it is None else before_it
                if target == step.id or target not in by_id or target not in before_it:
                    return f"/{index}/args{path}"
        before.add(step.id)
    return None


def _certain(found: re.Match[str], text: str) -> bool:
    """Return whether a `$` before an unknown name must be a reference: `$5`, `$HOME` and `${HOME}/bin` need not be."""
    target = found[1] or found[3]
    if target.isdigit() or _ENVIRONMENT.fullmatch(target):
        return False
    braced, dotted, whole = found[1] is not None, bool(found[2] or found[4]), found[0] == text.strip()
    return (braced and (whole or dotted)) or (whole and dotted)


def _waited_for(step: Step, by_id: Mapping[str, Step]) -> set[str]:
    """Return the ids of all steps that must be done before this one."""
    seen: set[str] = set()
    stack = list(step.depends_on)
    while stack:
        step_id = stack.pop()
        if step_id not in seen:
            seen.add(step_id)
            if step_id in by_id:
                stack.extend(by_id[step_id].depends_on)
    return seen


def has_reference(planned: object) -> bool:
    """Return whether a planned argument may hold a reference."""
    return "$" in planned if isinstance(planned, str) else bool(_texts(planned))


def _texts(args: object) -> list[tuple[str, str]]:
    """Return every string with a `$` in an argument tree, with its path."""
    out: list[tuple[str, str]] = []
    stack: list[tuple[str, object, int]] = [("", args, 0)]
    for _ in range(_MAX_NODES):
        if not stack:
            break
        path, item, depth = stack.pop()
        if isinstance(item, str):
            if "$" in item and len(item) <= _MAX_PLANNED:
                out.append((path, item))
        elif depth < _MAX_DEPTH and isinstance(item, Mapping):
            pairs = islice(item.items(), _MAX_NODES)
            stack.extend((f"{path}/{pointer_part(k)}", v, depth + 1) for k, v in pairs)
        elif depth < _MAX_DEPTH and isinstance(item, list | tuple):
            stack.extend((f"{path}/{k}", v, depth + 1) for k, v in enumerate(islice(item, _MAX_NODES)))
    return out


# ---- results --------------------------------------------------------------------------------------------------------


class Results:
    """Looks up what earlier steps gave: their own `result`, or the only message of a tool that only one step calls."""

    def __init__(self, steps: Sequence[Step], answered: Mapping[str, Sequence[object]]) -> None:
        self._steps = steps
        self._answered = answered

    def get(self, step_id: str, path: str) -> object:
        """Return a step's result, or the part of it at a dotted path; `MISSING` when it is not known."""
        step = next((step for step in self._steps if step.id == step_id), None)
        if step is None:
            return MISSING
        value = self._answer(step) if step.result is None else step.result
        for part in path.split(".")[1:]:
            value = _part(_decoded(value), part)
        return value

    def _answer(self, step: Step) -> object:
        answers = self._answered.get(step.tool or "", ())
        alone = len(answers) == 1 and sum(other.tool == step.tool for other in self._steps) == 1
        return answers[0] if alone else MISSING


def _decoded(value: object) -> object:
    """Return a result, read where it is JSON in a string, as tools return it."""
    if isinstance(value, str) and len(value) <= _MAX_RESULT and value.lstrip()[:1] in ("{", "["):
        try:
            return cast("object", json.loads(value))
        except (ValueError, RecursionError):
            return value
    return value


def _part(value: object, key: str) -> object:
    if isinstance(value, Mapping):
        return value.get(key, MISSING)
    if isinstance(value, list | tuple):
        at = int(key) if key.isascii() and key.isdecimal() and not key[6:] else len(value)  # no list is longer
        return value[at] if at < len(value) else MISSING
    return MISSING


# ---- whether the arguments of a call are the planned ones -----------------------------------------------------------


def compare(step: Step, args: JsonMapping, results: Results) -> tuple[str | None, str | None]:
    """Return the name of an argument that is not the earlier result, and of one that is not the plan's own literal."""
    differs: str | None = None
    for key, planned in islice(step.args.items(), _MAX_NODES):
        given = args.get(key, MISSING)
        if has_reference(planned):
            if not _agrees(planned, given, results, 0):
                return key, None
        elif differs is None and not (same_value(given, planned) or (planned is None and given is MISSING)):
            differs = key
    return None, differs


def _agrees(planned: object, given: object, results: Results, depth: int) -> bool:
    """Return whether a given argument is what the planned one becomes with the results put in."""
    if isinstance(planned, str):
        return _text_agrees(planned, given, results) if "$" in planned else same_value(given, planned)
    if depth >= _MAX_DEPTH:
        return True
    if isinstance(planned, Mapping):
        return isinstance(given, Mapping) and all(
            _agrees(v, given.get(k, MISSING), results, depth + 1) for k, v in islice(planned.items(), _MAX_NODES)
        )
    if isinstance(planned, list | tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(planned)
            and all(_agrees(p, g, results, depth + 1) for p, g in zip(planned[:_MAX_NODES], given, strict=False))
        )
    return same_value(given, planned)


def _text_agrees(planned: str, given: object, results: Results) -> bool:
    if len(planned) > _MAX_PLANNED:
        return True
    whole = _REFERENCE.fullmatch(planned.strip())
    if whole is not None:
        path = whole[2] or whole[4] or ""
        value = results.get(whole[1] or whole[3], path)
        return value is MISSING or _is_result(given, value, loose=not path)
    for found in islice(_REFERENCE.finditer(planned), _MAX_REFERENCES):
        value = results.get(found[1] or found[3], found[2] or found[4] or "")
        if isinstance(value, str | int | float) and not (isinstance(given, str) and _plain(value) in _plain(given)):
            return False
    return True


def _is_result(given: object, value: object, *, loose: bool) -> bool:
    """Return whether an argument is a result. A reference to a whole result is met by a part of it too (`loose`)."""
    decoded = _decoded(value)
    if same_value(given, value) or same_value(given, decoded):
        return True
    if not loose or given is MISSING:
        return False
    if isinstance(decoded, Mapping | list | tuple):
        return _holds(decoded, given)
    if isinstance(decoded, str) and isinstance(given, str | int | float):
        return _has_words(_plain(decoded), _plain(given))
    return False


def _has_words(text: str, part: str) -> bool:
    """Return whether whole words of a text of several words are the part."""
    if not part or len(part) > _MAX_PLANNED or len(text.split(None, 1)) == 1:
        return False
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text[:_MAX_RESULT]) is not None


def _holds(tree: object, given: object) -> bool:
    """Return whether a value stands anywhere in a tree; one that is too large to search may hold it."""
    stack: list[object] = [tree]
    for _ in range(_MAX_NODES):
        if not stack:
            return False
        item = stack.pop()
        if same_value(given, item):
            return True
        if isinstance(item, Mapping):
            stack.extend(islice(item.values(), _MAX_NODES))
        elif isinstance(item, list | tuple):
            stack.extend(islice(item, _MAX_NODES))
    return True


def _plain(value: object) -> str:
    """Return a scalar as text: case and outer white space off, 5.0 and "5.00" as 5."""
    number = normal(value)
    if isinstance(number, int):
        return hex(number)  # too large to be written out
    return value_text(number) if isinstance(number, float) else str(value).strip().casefold()
