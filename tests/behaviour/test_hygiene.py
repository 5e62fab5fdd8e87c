"""Committed files are fit to be public: no registry, no machine, nothing heavy."""

import re
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.builders import ROOT

LISTS = ("requirements-dev.txt", "requirements-lowest.txt")


def _files() -> list[Path]:
    """The tracked files; without git (an unpacked source archive) all files that are no product of a tool."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        files = [ROOT / name for name in listed.split("\0") if name]
    else:
        made = re.compile(
            r"(^|/)(\.venv[^/]*|[^/]*_cache|\.git|build|dist|__pycache__|\.hypothesis|\.cascade|results)/"
        )
        files = [file for file in ROOT.rglob("*") if not made.search(f"{file.relative_to(ROOT)}/")]
    return [file for file in files if file.is_file()]


def _joined(*parts: str) -> str:
    return re.escape("".join(parts))


# Built from pieces, so that this file holds none of them.
REGISTRIES = [
    _joined("pypi", ".org"),
    _joined("python", "hosted", ".org"),
    _joined("npm", "js", ".org"),
    _joined("proxy.", "golang", ".org"),
    _joined("--index", "-url"),
    _joined("--extra", "-index-url"),
    _joined("--trusted", "-host"),
    _joined("--find", "-links"),
]
MACHINE = [rf"(?<![\w.]){_joined('/', top, '/')}" for top in ("work", "root", "home", "Users")]
MACHINE += [_joined("/", "tmp/dev"), _joined("/opt", "/wheels"), _joined("/opt", "/py", "pi")]


@pytest.mark.parametrize(("what", "patterns"), [("a registry", REGISTRIES), ("a machine", MACHINE)])
def test_no_file_names(what: str, patterns: list[str]) -> None:
    """No file names a package registry, an option that does, or a path of the machine it was written on."""
    found = []
    anything = re.compile("|".join(patterns))
    for file in _files():
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {m.group()}" for m in anything.finditer(text)]
    assert not found, f"{what}: {found[:20]}"


def test_the_files_are_light_and_the_lists_pinned() -> None:
    """No file is larger than one megabyte; the lists of packages are there, and each entry has a hash and no address."""
    files = {str(file.relative_to(ROOT)): file.stat().st_size for file in _files()}
    assert {"pyproject.toml", "tests/behaviour/test_hygiene.py", *LISTS} <= files.keys()
    assert [name for name, size in files.items() if size > 1_000_000] == []
    for name in LISTS:
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text())
        pinned = [entry for entry in entries if not entry.startswith("#")]
        assert len(pinned) > 50
        assert all("==" in entry and "--hash=sha256:" in entry and "://" not in entry for entry in pinned)


REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,.-]+)\])?==", re.MULTILINE)


@cache
def _installed() -> list[tuple[str, list[Requirement]]]:
    """Return the entries of a list, and what they ask for with an extra."""
    found = ((d.name, [r for r in d.requires or () if "[" in r.partition(";")[0]]) for d in metadata.distributions())
    return [(name, [Requirement(line) for line in lines]) for name, lines in found]


def _missing_extras(pinned: str) -> list[str]:
    """Packages that an installed distribution asks for with an extra that the list does not pin with it."""
    extras = {m["name"]: set((m["extras"] or "").split(",")) - {""} for m in REQUIREMENT.finditer(pinned)}
    missing = []
    for distribution, requires in _installed():
        if canonicalize_name(distribution) not in extras:
            continue
        for queried in requires:
            name = canonicalize_name(queried.name)
            if name in extras and (queried.marker is None or queried.marker.evaluate({"extra": ""})):
                lost = queried.extras - extras[name]
                missing += [f"{distribution} asks for {name}[{extra}]" for extra in sorted(lost)]
    return missing


def test_an_extra_that_is_asked_for_is_pinned() -> None:
    """A list holds every extra that a package on it asks for: an installer may resolve `x[y]` apart from a pinned `x`."""
    for name in LISTS:
        assert _missing_extras((ROOT / name).read_text()) == []
    stripped = re.sub(r"(?m)^([\w.-]+)\[[^\]]+\]==", r"\1==", (ROOT / LISTS[0]).read_text())  # the check sees it
    assert "pytest-cov asks for coverage[toml]" in _missing_extras(stripped)


def test_the_set_up_installs_the_complete_list_alone() -> None:
    """The Makefile installs the list without resolving anything, and checks afterwards that nothing is missing."""
    makefile = (ROOT / "Makefile").read_text()
    assert "install -q --no-deps --require-hashes -r $(LOCK)" in makefile
    assert "$(PIP) check" in makefile
    assert "--no-strip-extras" in makefile
