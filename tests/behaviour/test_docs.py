"""The documents and examples run as they stand, offline."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests import fresh
from tests.builders import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
EXAMPLES: list[Any] = sorted((ROOT / "examples").glob("*.py"))
EXAMPLES += [pytest.param(script, marks=pytest.mark.slow) for script in sorted((ROOT / "examples/swap").glob("*.py"))]
"""Those of the swaps are run as programs in CI only: `test_swap_examples.py` runs what they show."""
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?:python|py)\b[^\n]*\n(?P<code>.*?)^(?P=indent)```\s*$", re.DOTALL | re.MULTILINE
)

OFFLINE = """
import runpy, sys, pytest_socket
pytest_socket.socket_allow_hosts(["127.0.0.1", "::1"], allow_unix_socket=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def blocks(page: str) -> list[tuple[int, str]]:
    """The Python blocks of a page with the number of the line before each."""
    found = []
    for match in _BLOCK.finditer(page):
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        found.append((page.count("\n", 0, match.start("code")), code))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run one after the other in one namespace, in an empty directory, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CASCADE_JOURNAL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "no-key")  # a client can be made, nothing can be asked
    namespace: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    found = blocks(page.read_text())
    assert len(found) == page.read_text().count("```python"), "every block is found"
    if any('"ollama:' in code for _, code in found):
        pytest.importorskip("langchain_ollama", reason="langchain-ollama is not installed (extra interop)")
    for line, code in found:
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link or picture of a page is a file; `make docs` checks the site's own links and anchors."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_of_the_site_is_in_its_menu() -> None:
    """A page in docs/ that no reader is led to is none."""
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in menu] == []


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.name)
def test_every_example_runs(script: Path, tmp_path: Path) -> None:
    """A script in examples/ runs to its end without arguments, keys or a network, and says something."""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY") and key != "CASCADE_JOURNAL"}
    done = fresh.run(OFFLINE, script, cwd=tmp_path, env=env)
    assert done.code == 0, done.out + done.err
    assert done.out.strip()
