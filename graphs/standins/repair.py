"""Repairing of code by a stand-in: smells of common faults in, a patch out, and the faults of the small one.

It sees what the conversation holds, the files that were read and the output of the tests; it runs nothing itself. The
shares of the faults are made up; nothing here was measured on a model.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

from graphs.standins.faults import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphs.standins.view import View

PATCH_TOOL: Final = "propose_patch"

_SMELLS: Final[tuple[tuple[str, str, bool], ...]] = (
    (r"=\[\]\):$", "=None):\n{indent}    {name} = [] if {name} is None else {name}", True),
    (r"(\w+) // (\w+)$", r"-(-\1 // \2)", False),
    (r"(?<=\)) // (?=len\()", " / ", True),
    (r"int\((\w+ \* \d+)\)", r"round(\1)", False),
    (r"(?<=\] )< (?=\w+\])", "<= ", True),
    (r"\.split\(\"=\"\)", '.split("=", 1)', True),
    (r"\.popitem\(\)", ".popitem(last=False)", False),
    (r"^(\s+\w+) = ([A-Z]+)$", r"\1 = dict(\2)", False),
    (r"range\(1, (\w+)\)", r"range(\1)", True),
    (r"(?<=, )title(?=\))", "title.lower()", False),
    (r" > ", " >= ", True),
    (r"\+ 1\]", "- 1]", False),
    (r" \* (?=\w)", " / ", False),
)
"""Pattern of a line, what takes its place, and whether the small one knows of it too."""


def next_reply(view: View, *, small: bool) -> Reply:
    """Return the next step of a repair: test, look around, read, propose."""
    done = {(d.tool, str(d.args.get("path", ""))) for d in view.now}
    if small and not any(d.tool == PATCH_TOOL for d in view.now) and view.chance("early claim", view.digest) < 0.03:
        return Reply(text="I have mended the fault; the tests should pass now.")
    for tool in ("run_tests", "list_files"):
        if (tool, "") not in done:
            return Reply(tool=tool, args={})
    for path in _to_read(view):
        if ("read_file", path) not in done:
            wrong = small and view.chance("path", path, view.digest) < 0.06
            return Reply(tool="read_file", args={"path": f"src/{path}" if wrong else path})
    patches = list(_patches(view, small=small))
    tried = sum(d.tool == PATCH_TOOL and "do not pass" in str(d.result) for d in view.now)  # others were never tested
    if tried >= len(patches):
        return Reply(text="I could not find the fault in these files.")
    if not small and view.chance("large patch", view.digest) < 0.08:
        return Reply(text="The tests fail for a reason that I cannot see in these files.")
    patch = patches[tried]
    return Reply(tool=PATCH_TOOL, args={"patch": _spoiled(patch, view) if small else patch})


def _to_read(view: View) -> list[str]:
    listed: list[str] = next((d.result.get("files", []) for d in view.now if d.tool == "list_files"), [])
    return [path for path in listed if path.endswith(".py")]


def _texts(view: View) -> dict[str, str]:
    return {
        str(d.result["path"]): str(d.result["text"]) for d in view.now if d.tool == "read_file" and "text" in d.result
    }


def _patches(view: View, *, small: bool) -> Iterator[str]:
    """Yield patches from the likeliest on: a smell, wherever it occurs; a constant that looks wrong at the end."""
    texts = {path: text for path, text in _texts(view).items() if not path.startswith("test")}
    for pattern, instead, known in _SMELLS:
        for path, text in texts.items():
            lines = text.splitlines()
            for at, line in enumerate(lines):
                if (known or not small) and re.search(pattern, line):
                    yield _diff(path, lines, at, _mended(pattern, instead, line))


def _mended(pattern: str, instead: str, line: str) -> str:
    if "{name}" not in instead:
        return re.sub(pattern, instead, line, count=1)
    name = re.findall(r"(\w+)=\[\]", line)[0]
    indent = line[: len(line) - len(line.lstrip())]
    return re.sub(pattern, "", line) + instead.format(name=name, indent=indent)


def _diff(path: str, lines: list[str], at: int, new: str) -> str:
    changed = [*lines[:at], *new.split("\n"), *lines[at + 1 :]]
    return "\n".join(difflib.unified_diff(lines, changed, f"a/{path}", f"b/{path}", lineterm=""))


def _spoiled(patch: str, view: View) -> str:
    """Return the small stand-in's version of a patch: most of the time the same."""
    luck = view.chance("patch", view.digest)
    lines = patch.split("\n")
    if luck < 0.1:
        return "\n".join(line[1:] for line in lines[2:] if line.startswith("+"))
    if luck < 0.2:
        return "\n".join(line.replace("    ", "  ") if line.startswith(" ") else line for line in lines)
    if luck < 0.25:
        return "\n".join(line.replace(")", "", 1) if line.startswith("+ ") else line for line in lines)
    if luck < 0.4:
        return _special_case(view) or patch
    if luck < 0.46:
        return _other_test(view) or patch
    return patch


def _special_case(view: View) -> str | None:
    """Return a patch that answers the failing test's own case, and no other: no test that is on show finds it."""
    found = _failing_assertion(view)
    if found is None:
        return None
    name, argument, expected = found
    for path, text in _texts(view).items():
        lines = text.splitlines()
        for at, line in enumerate(lines):
            head = re.match(rf"def {name}\((\w+)", line)
            if head and not path.startswith("test"):
                doc = at + 1 if '"""' in lines[at + 1] else at
                case = f"{lines[doc]}\n    if {head[1]} == {argument}:\n        return {expected}"
                return _diff(path, lines, doc, case)
    return None


def _other_test(view: View) -> str | None:
    """Return a patch that makes the test expect what the code does."""
    for path, text in _texts(view).items():
        lines = text.splitlines()
        for at, line in enumerate(lines):
            if path.startswith("test") and "assertEqual" in line:
                return _diff(path, lines, at, line.replace("assertEqual", "assertIsNotNone"))
    return None


def _failing_assertion(view: View) -> tuple[str, str, str] | None:
    output = next((str(d.result.get("output", "")) for d in view.now if d.tool == "run_tests"), "")
    found: Any = re.search(r"assertEqual\((\w+)\(([^,()]+)(?:, [^()]+)?\), (.+)\)$", output, re.MULTILINE)
    return (found[1], found[2], found[3]) if found else None
