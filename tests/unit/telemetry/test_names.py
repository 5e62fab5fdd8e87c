"""All names in one file, and those of the conventions as the conventions have them."""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from cascade_agent import semconv as names

PACKAGE = Path(names.__file__).parent
NAMES = {name: value for name, value in vars(names).items() if name.isupper()}
EVENTS = {"gen_ai.evaluation.result"}
CONVENTIONS = int(re.findall(r"\d+", version("opentelemetry-semantic-conventions"))[1])


def _strings(file: Path) -> Iterator[tuple[int, str]]:
    """The strings of a file that are no docstrings."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_names_stand_in_one_file():
    """No file but `semconv.py` spells a name of the conventions; in this folder, none of ours either."""
    for file in PACKAGE.rglob("*.py"):
        ours = r"|(cascade|openinference.span)\." if file.parent.name == "telemetry" else ""
        pattern = re.compile(rf"^(gen_ai\.{ours})")
        spelled = [(line, text) for line, text in _strings(file) if pattern.match(text)]
        assert file.name == "semconv.py" or spelled == [], file


@pytest.mark.skipif(CONVENTIONS < 66, reason="the conventions before 0.66 lack some of these names")
def test_the_conventions_have_these_names():
    """Each `gen_ai.*` attribute is one that the published conventions know."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {value for value in NAMES.values() if value.startswith("gen_ai.")}
    assert ours - EVENTS <= known
    assert ours & EVENTS


def test_names_are_unique():
    """Each stands once, and no run is named like an agent, which two instrumentations would take it for."""
    assert len(set(NAMES.values())) == len(NAMES)
    assert not any("agent" in value for value in (names.STEP, names.ATTEMPT, names.VALIDATE))
