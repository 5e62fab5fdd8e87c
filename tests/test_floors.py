"""The floors of the house: imports point down, and what is heavy or foreign is imported where it belongs only."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cascade_agent"

FLOORS = {
    "errors": 0,
    "log": 0,
    "names": 0,
    "records": 0,
    "parquet": 0.5,  # lines of a file, as the journal reads them
    "cache_marks": 1,
    "confidence": 1,
    "deadline": 1,
    "journal": 1,
    "otlp": 1,
    "panel": 1,
    "pricing": 1,
    "streams": 1,
    "telemetry": 1,
    "toolspec": 1,
    "validators": 1,
    "policy": 2,
    "tiers": 2,
    "evidence": 2.5,  # validators that need a tier
    "validators/__init__": 2.6,  # the shop window: names all validators, imports none of them
    "ledger": 2.5,  # counts what tiers cost
    "bills": 2.5,
    "step": 2.8,  # the values that the runner and those who do its work share
    "hands": 2.9,
    "replay": 3,
    "runner": 3,
    "shadow": 3.2,  # asks beside a run that has ended
    "settle": 3.5,  # what the doors share on top of the runner
    "assessment": 4,
    "calibration": 4,
    "chat_model": 4,
    "drift": 4,
    "testing": 4,
    "what_if": 4.2,  # labels as calibration reads them, policies as replay does
    "middleware": 4.5,  # doors that are built on the first one
    "node": 4.5,
    "cli": 5,
    "report": 4.9,  # the command is a door to it
}
GROUND = {"errors"}
"""Files that everything may import, those of their own floor too."""

ONLY_IN = {
    "opentelemetry": {"telemetry"},
    "langgraph": {"settle", "node", "middleware", "cli", "testing"},
    "langchain": {"tiers", "middleware"},
    "genai_prices": {"pricing"},
    "rich": {"cli", "report"},
    "typer": {"cli"},
    "dask": {"what_if"},
    "pyarrow": {"parquet"},
    "sklearn": {"calibration"},
}
"""Packages and the only rooms that may import them at run time; anything else in the house does without."""

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
    "rich",
    "sklearn",
    "typer",
)


class Import(NamedTuple):
    """One imported module, by its whole name, and whether it is for type checkers alone."""

    module: str
    line: int
    typing_only: bool


def _imports(file: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands in it."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(name, node.lineno, id(node) in typing_only)


def _files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def _room(file: Path) -> str:
    if file == PACKAGE / "validators" / "__init__.py":
        return "validators/__init__"
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _stem(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_every_room_has_a_floor() -> None:
    """A new file says on which floor it lives, here."""
    assert {_room(file) for file in _files()} <= FLOORS.keys()


@pytest.mark.parametrize("file", _files(), ids=_stem)
def test_imports_point_down(file: Path) -> None:
    """A file imports from lower floors only; for types alone also from its own floor, never from above."""
    room = _room(file)
    for name, line, typing_only in _imports(file):
        parts = name.split(".")
        if parts[0] != "cascade_agent":
            continue
        other = parts[1]
        assert other in FLOORS, f"{file}:{line}: import the room that a name lives in, not the root"
        if other == room or other in GROUND:
            continue
        lower = FLOORS[other] < FLOORS[room] or (typing_only and FLOORS[other] == FLOORS[room])
        assert lower, f"{file}:{line}: {room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("file", sorted((PACKAGE / "validators").glob("*.py")), ids=_stem)
def test_validators_share_private_helpers_only(file: Path) -> None:
    """A validator imports no other validator; only the package itself gathers them."""
    for name, line, _ in _imports(file):
        parts = name.split(".")
        if parts[:2] == ["cascade_agent", "validators"] and file.name != "__init__.py":
            assert parts[2].startswith("_"), f"{file}:{line}: imports {name}"


@pytest.mark.parametrize("file", _files(), ids=_stem)
def test_packages_stay_in_their_rooms(file: Path) -> None:
    """OpenTelemetry, the host and the optional packages are imported where the plan of the house has them only."""
    for name, line, typing_only in _imports(file):
        rooms = ONLY_IN.get(name.split(".")[0])
        assert typing_only or rooms is None or _room(file) in rooms, f"{file}:{line}: imports {name}"


def test_telemetry_uses_the_api_only() -> None:
    """No file imports the SDK, an exporter or an instrumentation of OpenTelemetry."""
    api = ("opentelemetry.baggage", "opentelemetry.context", "opentelemetry.metrics", "opentelemetry.trace")
    for file in _files():
        for name, line, _ in _imports(file):
            if name.startswith("opentelemetry"):
                assert name.startswith(api), f"{file}:{line}: imports {name}"


def test_private_modules_of_the_host_are_not_imported() -> None:
    """Nothing imports `langgraph._internal` or another private module of langgraph."""
    for file in _files():
        for name, line, typing_only in _imports(file):
            parts = name.split(".")[:-1]  # the last one may be a name inside of the module
            if parts and parts[0] == "langgraph" and not typing_only:
                assert not any(part.startswith("_") for part in parts), f"{file}:{line}: imports {name}"


@pytest.mark.parametrize("file", sorted((ROOT / "tools").glob("*.py")), ids=_stem)
def test_tools_know_langchain_core_only(file: Path) -> None:
    """The tools of the demo import the standard library, langchain_core, pydantic and each other."""
    allowed = {*sys.stdlib_module_names, "langchain_core", "pydantic", "tools"}
    for name, line, _ in _imports(file):
        assert name.split(".")[0] in allowed, f"{file}:{line}: imports {name}"


def _imported_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603
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
