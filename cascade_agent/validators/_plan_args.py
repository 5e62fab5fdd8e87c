"""Arguments that a plan takes from earlier steps: how they are written, and whether a call has the right ones.

A `$` is a reference only where it cannot be something else, and what is not known agrees.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, cast

from cascade_agent.validators._words import pointer_part, value_text
from cascade_agent.validators.agreement import normal, same_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_agent.core.clean_json import JsonMapping
    from cascade_agent.validators._plan import Step

_REFERENCE = re.compile(r"\$(\{)?([A-Za-z0-9_-]{1,80})((?:\.[\w-]{1,80}){0,16})(?(1)\})")
"""A brace or none, the id of a step, the path in its result."""
_ENVIRONMENT = re.compile(r"[A-Z0-9_]+")
_MAX_PLANNED = 2_000
_MAX_RESULT = 200_000
_MAX_NODES = 200
_MAX_DEPTH = 16
_MAX_REFERENCES = 64
_MAX_REFERENCES_IN_PLAN = 5_000
MISSING = object()
Result: TypeAlias = "Callable[[str], object]"
"""Gives what a step of this id gave, `MISSING` when it is not known."""


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
                target = found[2]
                if target in before or (target not in by_id and not _certain(found, text)):
                    continue
                before_it = _waited_for(step, by_id) if before_it is None else before_it
                if target == step.id or target not in by_id or target not in before_it:
                    return f"/{index}/args{path}"
        before.add(step.id)
    return None


def _certain(found: re.Match[str], text: str) -> bool:
    """Return whether a `$` before an unknown name must be a reference: `$5`, `$HOME` and `${HOME}/bin` need not be."""
    braced, target, path = found.groups()
    if target.isdigit() or _ENVIRONMENT.fullmatch(target):
        return False
    return (braced is not None) + bool(path) + (found[0] == text.strip()) > 1  # two signs of three


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


def _decoded(value: object) -> object:
    """Return a result, read where it is JSON in a string, as tools return it."""
    if isinstance(value, str) and len(value) <= _MAX_RESULT and value.lstrip()[:1] in ("{", "["):
        try:
            return cast("object", json.loads(value))
        except (ValueError, RecursionError):
            return value
    return value


def _part_of(value: object, path: str) -> object:
    """Return the part of a result at a dotted path; `MISSING` when it is not known."""
    for key in path.split(".")[1:]:
        value = _decoded(value)
        if isinstance(value, list | tuple):
            at = int(key) if re.fullmatch("[0-9]{1,6}", key) else len(value)  # no list is longer
            value = value[at] if at < len(value) else MISSING
        else:
            value = value.get(key, MISSING) if isinstance(value, Mapping) else MISSING
    return value


# ---- whether the arguments of a call are the planned ones -----------------------------------------------------------


def compare(step: Step, args: JsonMapping, result: Result) -> tuple[str | None, str | None]:
    """Return the name of an argument that is not the earlier result, and of one that is not the plan's own literal."""
    differs: str | None = None
    for key, planned in islice(step.args.items(), _MAX_NODES):
        given = args.get(key, MISSING)
        if has_reference(planned):
            if not _agrees(planned, given, result, 0):
                return key, None
        elif differs is None and not (same_value(given, planned) or (planned is None and given is MISSING)):
            differs = key
    return None, differs


def _agrees(planned: object, given: object, result: Result, depth: int) -> bool:
    """Return whether a given argument is what the planned one becomes with the results put in."""
    if isinstance(planned, str):
        return _text_agrees(planned, given, result) if "$" in planned else same_value(given, planned)
    if depth >= _MAX_DEPTH:
        return True
    if isinstance(planned, Mapping):
        return isinstance(given, Mapping) and all(
            _agrees(v, given.get(k, MISSING), result, depth + 1) for k, v in islice(planned.items(), _MAX_NODES)
        )
    if isinstance(planned, list | tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(planned)
            and all(_agrees(p, g, result, depth + 1) for p, g in zip(planned[:_MAX_NODES], given, strict=False))
        )
    return same_value(given, planned)


def _text_agrees(planned: str, given: object, result: Result) -> bool:
    if len(planned) > _MAX_PLANNED:
        return True
    whole = _REFERENCE.fullmatch(planned.strip())
    if whole is not None:
        value = _part_of(result(whole[2]), whole[3])
        return value is MISSING or _is_result(given, value, loose=not whole[3])
    for found in islice(_REFERENCE.finditer(planned), _MAX_REFERENCES):
        value = _part_of(result(found[2]), found[3])
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
