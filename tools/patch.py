"""Unified diffs: read from text, applied to a project's files.

Where a hunk belongs is found by its lines, the numbers in its head only choose among several such places: models
write the lines right and count them wrong.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

Fault = Literal["patch_malformed", "patch_outside", "patch_touches_tests", "patch_misplaced", "patch_breaks_syntax"]

MAX_PATCH: Final = 20_000
_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


class PatchError(ValueError):
    """A patch that cannot be used; `code` is the kind of fault."""

    def __init__(self, code: Fault, message: str) -> None:
        super().__init__(message)
        self.code: Fault = code


def refuse(code: Fault, message: str) -> NoReturn:
    """Raise a `PatchError`."""
    raise PatchError(code, message)


@dataclass(slots=True)
class Hunk:
    """Lines that are replaced; `start` is where the patch says that they stand, from 1."""

    start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def read_patch(text: str) -> dict[str, list[Hunk]]:
    """Return the hunks of a unified diff by file.

    Raises:
        PatchError: it is none, too long, or names a path outside of the project.
    """
    if len(text) > MAX_PATCH:
        refuse("patch_malformed", f"a patch has at most {MAX_PATCH} characters, this one {len(text)}")
    files: dict[str, list[Hunk]] = {}
    hunks: list[Hunk] | None = None
    for line in text.splitlines():
        head = _HUNK.match(line)
        if line.startswith("+++ "):
            hunks = files.setdefault(path_in_project(_named(line)), [])
        elif head and hunks is not None:
            hunks.append(Hunk(int(head[1])))
        elif line.startswith("--- ") or not hunks:  # heads, and what git writes before them
            continue
        elif not _take(hunks[-1], line):
            refuse("patch_malformed", f"a line of a hunk begins with ' ', '-' or '+', not with {line[:1]!r}")
    if not any(files.values()) or not all(files.values()):
        refuse("patch_malformed", "expected a unified diff: '--- a/FILE', '+++ b/FILE', '@@ -1,3 +1,3 @@'")
    return files


def _named(line: str) -> str:
    return line[4:].split("\t", maxsplit=1)[0].strip().removeprefix("b/")


def _take(hunk: Hunk, line: str) -> bool:
    mark, rest = line[:1] or " ", line[1:]
    if mark in " -":
        hunk.old.append(rest)
    if mark in " +":
        hunk.new.append(rest)
    return mark in " -+\\"


def path_in_project(name: str) -> str:
    """Return a path in its plain form.

    Raises:
        PatchError: it is empty, absolute, or leads out of the project.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        refuse("patch_outside", f"{name!r} is no path inside the project; give one such as package/module.py")
    return path.as_posix()


def is_test(path: str) -> bool:
    """Return whether a file of a project belongs to its tests."""
    parts = PurePosixPath(path).parts
    return parts[-1].startswith("test") or "tests" in parts[:-1]


def apply_patch(text: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return the files with a patch applied to them.

    Raises:
        PatchError: the patch is none, does not fit, changes nothing, or changes anything but existing Python modules.
    """
    changed = dict(files)
    for path, hunks in read_patch(text).items():
        if is_test(path):
            refuse("patch_touches_tests", f"{path} holds tests: mend the code, not what checks it")
        if path not in files or not path.endswith(".py"):
            known = ", ".join(name for name in files if name.endswith(".py") and not is_test(name))
            refuse("patch_outside", f"there is no module {path!r} in the project; its modules are {known}")
        lines = files[path].splitlines()
        for hunk in hunks:
            lines = _replaced(lines, hunk, path)
        changed[path] = "\n".join(lines) + "\n"
        if changed[path].rstrip() == files[path].rstrip():
            refuse("patch_misplaced", f"the patch leaves {path} as it is")
        try:
            ast.parse(changed[path])
        except (SyntaxError, ValueError, RecursionError) as error:
            refuse("patch_breaks_syntax", f"{path} would be no Python any more: {error}")
    return changed


def _replaced(lines: list[str], hunk: Hunk, path: str) -> list[str]:
    size = len(hunk.old)
    places = [at for at in range(len(lines) - size + 1) if size and lines[at : at + size] == hunk.old]
    if not places:
        first = next((line for line in hunk.old if line.strip()), "")
        refuse("patch_misplaced", f"{path} has no lines as the hunk at {hunk.start} says: {first.strip()!r}")
    at = min(places, key=lambda place: abs(place + 1 - hunk.start))
    return [*lines[:at], *hunk.new, *lines[at + size :]]
