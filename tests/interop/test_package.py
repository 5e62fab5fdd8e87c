"""The wheel holds the package with its demo inside, and works from an empty directory."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.builders import ROOT

pytestmark = pytest.mark.xdist_group("wheel")  # what these share is made once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a packager builds it but without fetching the build tool again."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_only(wheel: Path) -> None:
    """One top-level package; every module of ours is in it, the demo's graphs and tools inside, no tests and no caches."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"cascade_agent", "langgraph_cascade"}
    assert all(".dist-info" in name.split("/")[0] for name in names if name.startswith("langgraph_cascade"))
    inside = {name for name in names if name.startswith("cascade_agent/")}
    ours = {
        f"cascade_agent/{file.relative_to(ROOT / 'cascade_agent')}"
        for file in (ROOT / "cascade_agent").rglob("*")
        if file.suffix in (".py", ".css", ".js", ".html")
    }
    demo = {
        f"cascade_agent/_demo/{file.relative_to(ROOT)}"
        for folder in ("graphs", "tools")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".json", ".txt")
    }
    assert inside == ours | demo | {"cascade_agent/py.typed"}
    assert {
        f"cascade_agent/_demo/graphs/{name}" for name in ("support.py", "standins/models.py", "evaluation/tasks.json")
    } <= inside


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    """The metadata name the licence, the extras and the command; no dependency is a URL."""
    archive = zipfile.ZipFile(wheel)
    info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "\nName: langgraph-cascade\n" in metadata
    assert "License-Expression: MIT" in metadata
    extras = {
        line.removeprefix("Provides-Extra: ") for line in metadata.splitlines() if line.startswith("Provides-Extra")
    }
    assert extras == {"langchain", "parquet", "dask", "otel", "dev", "interop"}
    assert not [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "@" in line]
    assert "cascade-agent = cascade_agent.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_version_is_one(wheel: Path) -> None:
    """The package, the project file and the wheel give the same version."""
    import cascade_agent

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cascade_agent.__version__ == project["version"] == wheel.name.split("-")[1]


TINY = """
import cascade_agent, sys
assert cascade_agent.__file__.startswith(sys.prefix), cascade_agent.__file__
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
small = GenericFakeChatModel(messages=iter([AIMessage(""), AIMessage("Paris")]))
large = GenericFakeChatModel(messages=iter([AIMessage("Berlin")]))
model = cascade_agent.CascadeChatModel(small=small, large=large)
first, second = (model.invoke([HumanMessage("Which city?")]) for _ in range(2))
assert (first.content, second.content) == ("Berlin", "Paris"), (first, second)
assert first.response_metadata["cascade"]["escalated"] is True
assert second.response_metadata["cascade"]["escalated"] is False
"""


def test_the_wheel_works_where_the_checkout_is_not(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment with the wheel and its dependencies, one step escalates and the next is the small tier's."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    paths = sysconfig.get_paths(vars={"base": str(venv), "platbase": str(venv)})
    # The dependencies are borrowed from here: a path in a .pth file is searched, its own .pth files (ours) are not read.
    Path(paths["purelib"], "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    done = subprocess.run([str(python), "-I", "-c", TINY], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command = python.with_name("cascade-agent")
    done = subprocess.run([str(command), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
