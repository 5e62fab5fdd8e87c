"""Imports point down: from a folder to lower floors only, never in a circle; heavy packages where they belong only."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.builders import ROOT

PACKAGE = ROOT / "cascade_agent"

FLOORS = {
    name: floor
    for floor, names in enumerate(
        [
            "errors semconv _log _fork",
            "core",
            "models journal telemetry",
            "validators",
            "engine offline",
            "adapters",
            "testing",
            "cli",
            "__main__",
        ],
        1,
    )
    for name in names.split()
}
"""Folder (or module at the root) -> its floor. `__init__` names everything and imports nothing until it is used."""

ONLY_IN = {
    "opentelemetry": {"telemetry"},
    "langgraph": {"engine", "adapters", "cli", "testing"},
    "langchain": {"models", "adapters"},
    "genai_prices": {"models"},
    "rich": {"cli", "offline"},
    "typer": {"cli"},
    "dask": {"offline"},
    "pyarrow": {"journal"},
    "jsonschema": {"validators"},
}
"""Packages and the only folders that may import them at run time; the rest of the house does without."""
HEAVY = {*ONLY_IN, "langchain_core", "numpy", "pydantic", "re2"}


class Import(NamedTuple):
    """One imported module, by its whole name, and whether it is for type checkers alone."""

    module: str
    line: int
    typing_only: bool


@cache
def _imports(file: Path) -> list[Import]:
    """Return every import of a file, wherever it stands in it."""
    tree = ast.parse(file.read_text())
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    typing_only = {id(inner) for guard in guards for statement in guard.body for inner in ast.walk(statement)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            above = "" if isinstance(node, ast.Import) else f"{node.module}."
            assert not getattr(node, "level", 0), f"{file}:{node.lineno}: imports are absolute here"
            found += [Import(above + alias.name, node.lineno, id(node) in typing_only) for alias in node.names]
    return found


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def _folder(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_down() -> None:
    """The table names every folder; a file imports from its own and from lower floors only, for types too."""
    assert {_folder(file) for file in FILES} == FLOORS.keys()
    for file in FILES:
        folder = _folder(file)
        for name, line, _ in _imports(file):
            if not name.startswith("cascade_agent."):
                continue
            other = name.split(".")[1]
            assert other in FLOORS, f"{file}:{line}: import the module that a name lives in, not the root"
            lower = other == folder or FLOORS[other] < FLOORS[folder]
            assert lower, f"{file}:{line}: {folder} (floor {FLOORS[folder]}) imports {other} (floor {FLOORS[other]})"


def test_no_files_import_in_a_circle() -> None:
    """No file imports itself by way of others, for types too."""
    stems = {str(file.relative_to(ROOT).with_suffix("")).removesuffix("/__init__"): file for file in FILES}
    modules = {stem.replace("/", "."): file for stem, file in stems.items()}
    graph = {}
    for module, file in modules.items():
        found = {name if name in modules else name.rpartition(".")[0] for name, _, _ in _imports(file)}
        graph[module] = found & modules.keys() - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_packages_stay_in_their_folders() -> None:
    """Each is imported where the table says only; no SDK of OpenTelemetry and no private module of langgraph anywhere."""
    api = tuple(f"opentelemetry.{name}" for name in ("baggage", "context", "metrics", "trace", "util.types"))
    for file in FILES:
        for name, line, typing_only in _imports(file):
            package, *inner = name.split(".")
            where = f"{file}:{line}: imports {name}"
            assert typing_only or _folder(file) in ONLY_IN.get(package, FLOORS), where
            assert package != "opentelemetry" or name.startswith(api), where
            private = any(part.startswith("_") for part in inner[:-1])  # the last one may be a name inside of a module
            assert typing_only or package != "langgraph" or not private, where


def test_tools_know_langchain_core_only() -> None:
    """The tools of the demo import the standard library, langchain_core, pydantic and each other."""
    allowed = {*sys.stdlib_module_names, "langchain_core", "pydantic", "tools"}
    for file in (ROOT / "tools").glob("*.py"):
        for name, line, _ in _imports(file):
            assert name.split(".")[0] in allowed, f"{file}:{line}: imports {name}"


@pytest.mark.parametrize(
    "statement",
    [
        "import cascade_agent; dir(cascade_agent)",
        "from cascade_agent import CascadeError, CascadeExhausted, Draft, Journal, Price, Scorer, StepContext, Verdict",
        "from cascade_agent import Policy, StepTrace",
    ],
)
def test_the_root_and_the_values_are_light(statement: str) -> None:
    """The root, and the values that only hold or read records, import neither the host nor anything heavy."""
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert {name for name in done.stdout.split() if name.split(".")[0] in HEAVY} == set()


def test_the_floor_test_sees(tmp_path: Path) -> None:
    """The reader of imports finds each form of import and knows those for types alone."""
    file = tmp_path / "module.py"
    file.write_text("import a.b\nif TYPE_CHECKING:\n    from c import d\ndef f():\n    from e.f import g, h\n")
    assert list(_imports(file)) == [
        Import("a.b", 1, typing_only=False),
        Import("c.d", 3, typing_only=True),
        Import("e.f.g", 5, typing_only=False),
        Import("e.f.h", 5, typing_only=False),
    ]
