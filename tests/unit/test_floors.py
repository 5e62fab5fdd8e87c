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
    "errors": 1,
    "semconv": 1,
    "_log": 1,
    "_fork": 1,
    "core": 2,
    "models": 3,
    "journal": 3,
    "telemetry": 3,
    "validators": 4,
    "engine": 5,
    "offline": 5,
    "adapters": 6,
    "testing": 7,
    "cli": 8,
    "__main__": 9,
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

HEAVY = (
    "dask",
    "genai_prices",
    "jsonschema",
    "langchain",
    "langchain_core",
    "langgraph",
    "numpy",
    "opentelemetry",
    "pyarrow",
    "pydantic",
    "re2",
    "rich",
    "typer",
)


class Import(NamedTuple):
    """One imported module, by its whole name, and whether it is for type checkers alone."""

    module: str
    line: int
    typing_only: bool


@cache
def _imports(file: Path) -> list[Import]:
    """Return every import of a file, wherever it stands in it."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(name, node.lineno, id(node) in typing_only) for name in names]
    return found


def _files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def _folder(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _stem(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_every_folder_has_a_floor() -> None:
    """The table names every folder and every module at the root, and no other."""
    assert {_folder(file) for file in _files()} == FLOORS.keys()


def test_imports_point_down() -> None:
    """A file imports from its own folder and from lower floors only, for types too."""
    for file in _files():
        folder = _folder(file)
        for name, line, _ in _imports(file):
            parts = name.split(".")
            if parts[0] != "cascade_agent":
                continue
            other = parts[1]
            assert other in FLOORS, f"{file}:{line}: import the module that a name lives in, not the root"
            lower = other == folder or FLOORS[other] < FLOORS[folder]
            assert lower, f"{file}:{line}: {folder} (floor {FLOORS[folder]}) imports {other} (floor {FLOORS[other]})"


def _module(name: str, known: set[str]) -> str | None:
    """Return the module of ours that an imported name lives in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def test_no_files_import_in_a_circle() -> None:
    """No file imports itself by way of others, for types too."""
    modules = {_stem(file).removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in _files()}
    graph = {}
    for module, file in modules.items():
        found = {_module(name, set(modules)) for name, _, _ in _imports(file)}
        graph[module] = {other for other in found if other not in (None, module)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_packages_stay_in_their_folders() -> None:
    """Each is imported where the table says only; no SDK of OpenTelemetry and no private module of langgraph anywhere."""
    api = tuple(f"opentelemetry.{name}" for name in ("baggage", "context", "metrics", "trace", "util.types"))
    for file in _files():
        for name, line, typing_only in _imports(file):
            package, *inner = name.split(".")
            folders = ONLY_IN.get(package)
            assert typing_only or folders is None or _folder(file) in folders, f"{file}:{line}: imports {name}"
            assert package != "opentelemetry" or name.startswith(api), f"{file}:{line}: imports {name}"
            private = any(part.startswith("_") for part in inner[:-1])  # the last one may be a name inside of a module
            assert typing_only or package != "langgraph" or not private, f"{file}:{line}: imports {name}"


def test_tools_know_langchain_core_only() -> None:
    """The tools of the demo import the standard library, langchain_core, pydantic and each other."""
    allowed = {*sys.stdlib_module_names, "langchain_core", "pydantic", "tools"}
    for file in (ROOT / "tools").glob("*.py"):
        for name, line, _ in _imports(file):
            assert name.split(".")[0] in allowed, f"{file}:{line}: imports {name}"


def _imported_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return {name for name in done.stdout.split() if name.split(".")[0] in HEAVY}


@pytest.mark.parametrize(
    "statement",
    [
        "import cascade_agent",
        "import cascade_agent; dir(cascade_agent)",
        "from cascade_agent import CascadeError, CascadeExhausted, Draft, Journal, Price, Scorer, StepContext, Verdict",
        "from cascade_agent import Policy, StepTrace",
    ],
)
def test_the_root_and_the_values_are_light(statement: str) -> None:
    """The root, and the values that only hold or read records, import neither the host nor anything heavy."""
    assert _imported_by(statement) == set()


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
