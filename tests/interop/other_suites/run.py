"""Run other people's test suites, plain and with a cascade in the place of their model, and say what differs.

    python tests/interop/other_suites/run.py --dir SCRATCH [--suite langchain ...]

The sdists are fetched by name into SCRATCH, with an environment of their own; nothing of them is kept here. A test
that passes plain and fails cascaded stands in the last table with its reason, or as UNEXPLAINED, and then the script
ends with 1. Apart from `make test`: it needs a package index and some minutes.
"""
# ruff: noqa: T201 - a script that runs pip and pytest, and prints

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree as ET

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
SMALL_IS = ("raising", "rejected", "accepted")
SUITES = {  # the name of the sdist, and where its tests are; deepagents, trustcall and langmem publish none
    "langchain": "tests/unit_tests/agents",
    "langgraph-prebuilt": "tests",
    "langgraph-supervisor": "tests",
    "langgraph-swarm": "tests",
    "deepagents": "tests/unit_tests",
    "trustcall": "tests/unit_tests",
    "langmem": "tests",
}
TOOLS = (
    *("pytest", "pytest-asyncio", "pytest-mock", "pytest-socket", "pytest-timeout", "syrupy", "blockbuster"),
    *("langchain-openai", "langchain-anthropic", "langchain-tests", "psycopg[binary]", "psycopg-pool"),
    *("langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite"),
)
REASONS = {  # a pattern of the test's name: why it fails with a cascade
    "test_per_call_needs_a_tool_call_id|test_per_call_same_tool_twice": "call ids: an empty id becomes a fresh one",
    "test_post_model_hook_with_structured_output": "call ids: a model that calls for ever with one id stops only "
    "because prebuilt takes the repeated id for an answered call",
    "test_supervisor_basic_workflow": "the suite compares its own message object, on which the host writes a name; "
    "a cascade gives out a copy",
    "test_override_preserves_identity|test_model_request_is_frozen|test_summarization_middleware_initialization|"
    "test_fallback_|test_openai_fallback": "the test looks for its own model object, or its class, in the host",
    "test_create_summary_preserves_image_urls": "the suite's model records what its overridden `invoke` is given; "
    "a tier is given messages, not a string",
    "test_wrap_model_call_narrows_response_format_tools": "both tiers are bound, and the copy writes into one list",
    "test_model_retry_constant_backoff": "the test asserts a time",
}


def _environment(folder: Path, names: list[str]) -> Path:
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        pip = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *TOOLS, *names, "-e", PROJECT], check=True)
    return python


def _fetched(python: Path, folder: Path, name: str) -> Path:
    """Return the unpacked sdist of a package."""
    stem = name.replace("-", "_")
    sdists = folder / "sdists"
    if not list(sdists.glob(f"{stem}-[0-9]*.tar.gz")):
        pip = [python, "-m", "pip", "-q", "--disable-pip-version-check", "download", "--no-deps", "--no-binary", name]
        subprocess.run([*pip, "-d", sdists, name], check=True)
    archive = next(sdists.glob(f"{stem}-[0-9]*.tar.gz"))
    with tarfile.open(archive) as opened:
        opened.extractall(sdists, filter="data")
    return sdists / archive.name.removesuffix(".tar.gz")


def _results(python: Path, suite: Path, tests: str, small_is: str | None) -> dict[str, bool]:
    """Run a suite; return which of its tests passed."""
    report = suite.with_name(f"{suite.name}-{small_is or 'plain'}.xml")
    path = os.pathsep.join(map(str, (PROJECT, HERE)))
    plugin = ["-p", "cascade_plugin"] if small_is else []
    fixed = ["-q", "--tb=no", "-W", "ignore", "--timeout=60", "--disable-socket", "--allow-unix-socket"]
    subprocess.run(
        [python, "-m", "pytest", *plugin, *fixed, "-p", "no:cacheprovider", f"--junitxml={report}", tests],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": path, "SMALL_IS": small_is or ""},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    cases = ET.parse(report).iter("testcase")  # noqa: S314 - written by our own run
    return {
        f"{case.get('classname')}::{case.get('name')}": not {child.tag for child in case} & {"failure", "error"}
        for case in cases
        if case.find("skipped") is None
    }


def _reason(test: str) -> str:
    return next((reason for pattern, reason in REASONS.items() if re.search(pattern, test)), "UNEXPLAINED")


def main() -> int:
    """Print both tables; return 1 when a difference has no reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="a scratch folder")
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=list(SUITES))
    given = parser.parse_args()
    folder = given.dir.resolve()
    python = _environment(folder, list(SUITES))
    differing: dict[str, list[str]] = {}
    print(f"| suite | plain | {' | '.join(SMALL_IS)} |\n|---|---|---|---|---|")
    for name in given.suite:
        suite, tests = _fetched(python, folder, name), SUITES[name]
        if not (suite / tests).is_dir():
            print(f"| {suite.name} | no tests in its sdist | | | |")
            continue
        plain = {test for test, passed in _results(python, suite, tests, None).items() if passed}
        figures = [str(len(plain))]
        for small_is in SMALL_IS:
            results = _results(python, suite, tests, small_is)
            failed = [test for test in plain if not results.get(test, False)]
            figures.append(str(len(plain) - len(failed)))
            for test in failed:
                differing.setdefault(test, []).append(small_is)
        print(f"| {suite.name} | {' | '.join(figures)} |", flush=True)
    print("\n| passes plain, fails cascaded | small is | reason |\n|---|---|---|")
    for test, ways in sorted(differing.items()):
        print(f"| {test.split('.', 1)[-1]} | {', '.join(ways)} | {_reason(test)} |")
    return any(_reason(test) == "UNEXPLAINED" for test in differing)


if __name__ == "__main__":
    sys.exit(main())
