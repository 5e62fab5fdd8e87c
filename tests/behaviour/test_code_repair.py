"""The code graph: patches, confined files, test runs with limits, its validators, and tests that no model has seen."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade_agent import Draft, StepContext
from cascade_agent.testing import ScriptedChatModel
from graphs import code_repair
from graphs.evaluation.projects import load_projects, repair_tasks
from graphs.evaluation.run import run_task, unmended
from tools.patch import PatchError, apply_patch
from tools.project import Project, project_tools
from tools.sandbox import Limits, run_tests, without_network

FILES = {
    "shop.py": "def total(a, b):\n    return a - b\n\n\ndef double(a):\n    return a - b\n",
    "test_shop.py": "import unittest\nfrom shop import total\n\n\nclass TestShop(unittest.TestCase):\n"
    "    def test_total(self):\n        self.assertEqual(total(2, 3), 5)\n",
}
HEAD = "--- a/shop.py\n+++ b/shop.py\n@@ -1,2 +1,2 @@\n"
RIGHT = HEAD + " def total(a, b):\n-    return a - b\n+    return a + b\n"
WRONG = HEAD + " def total(a, b):\n-    return a - b\n+    return a * b\n"
CASE = HEAD + " def total(a, b):\n+    if (a, b) == (2, 3):\n+        return 5\n     return a - b\n"


def proposal(patch: str, number: int = 1) -> AIMessage:
    """A model's proposal."""
    return AIMessage("", tool_calls=[{"name": "propose_patch", "args": {"patch": patch}, "id": f"p{number}"}])


def runs(body: str, **limits) -> object:
    """A test run whose only test has this body."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    text = f"import os, sys, unittest\n\nclass TestIt(unittest.TestCase):\n    def test_it(self):\n{lines}\n"
    return run_tests({"test_it.py": text}, Limits(**{"seconds": 20.0, **limits}))


# ---- patches --------------------------------------------------------------------------------------------------------


def test_a_patch_is_placed_by_its_lines():
    """Wrong numbers in a hunk's head do not matter; of two equal places the nearer one is changed."""
    assert "return a + b" in apply_patch(RIGHT.replace("-1,2 +1,2", "-9,7 +9,1"), FILES)["shop.py"]
    far = "--- a/shop.py\n+++ b/shop.py\n@@ -6 +6 @@\n-    return a - b\n+    return a * 2\n"
    assert apply_patch(far, FILES)["shop.py"].splitlines()[1::4] == ["    return a - b", "    return a * 2"]


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ("return a + b", "patch_malformed"),
        ("", "patch_malformed"),
        (HEAD, "patch_misplaced"),
        (HEAD + "*    return a + b\n", "patch_malformed"),
        ("+" * 20_001, "patch_malformed"),
        (RIGHT.replace("    return a - b", "  return a - b"), "patch_misplaced"),
        (RIGHT.replace("a + b", "a - b"), "patch_misplaced"),
        (RIGHT.replace("a + b", "(a + b"), "patch_breaks_syntax"),
        (RIGHT.replace("shop.py", "test_shop.py"), "patch_touches_tests"),
        (RIGHT.replace("shop.py", "tests/shop.py"), "patch_touches_tests"),
        (RIGHT.replace("shop.py", "new.py"), "patch_outside"),
        (RIGHT.replace("b/shop.py", "../shop.py"), "patch_outside"),
        (RIGHT.replace("b/shop.py", "/etc/passwd"), "patch_outside"),
        (RIGHT.replace("b/shop.py", "a/../../shop.py"), "patch_outside"),
    ],
)
def test_what_is_no_usable_patch_is_refused(patch, code):
    """Each refusal names its kind; the files stay as they are."""
    before = dict(FILES)
    with pytest.raises(PatchError) as refusal:
        apply_patch(patch, FILES)
    assert refusal.value.code == code
    assert before == FILES


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Project:
    """A directory with a project, and things around it that are none of its business."""
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "secret.py").write_text("KEY = 1\n")
    for name, text in FILES.items():
        (root / name).write_text(text)
    (root / ".env").write_text("KEY=1\n")
    (root / "big.py").write_text("#" * 200_000)
    (root / "raw.py").write_bytes(b"\xff\xfe\x00")
    (root / "link.py").symlink_to(tmp_path / "secret.py")
    (root / "inner.py").symlink_to(root / "shop.py")
    (root / "linked").symlink_to(tmp_path, target_is_directory=True)
    return Project(root)


def test_a_project_is_its_own_text_files(project):
    """No link, hidden, large or binary file is seen."""
    assert set(project.files()) == set(FILES)


@pytest.mark.parametrize(
    "path", ["../secret.py", "/etc/passwd", "link.py", "linked/secret.py", "a/../../secret.py", "", ".env", "a\\b"]
)
def test_nothing_outside_of_a_project_is_read(project, path):
    """A path that leads out, a link, or a hidden file is an error that the model reads."""
    (read,) = (tool for tool in project_tools(project) if tool.name == "read_file")
    reply = read.invoke({"type": "tool_call", "id": "1", "name": "read_file", "args": {"path": path}})
    assert reply.status == "error"
    assert "KEY" not in reply.text


def test_a_proposal_changes_nothing_on_disk(project, tmp_path):
    """The tests pass on the copy; every file of the directory is as before."""
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.py")) if path.is_file()}
    assert project.test(RIGHT).passed
    assert not project.test(WRONG).passed
    assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.py")) if path.is_file()}


def test_files_are_given_with_paths_inside():
    """A project from a mapping takes no path that leads out of it either."""
    with pytest.raises(PatchError):
        Project({"../x.py": ""})
    with pytest.raises(NotADirectoryError):
        Project("no such directory")


# ---- test runs ------------------------------------------------------------------------------------------------------


FORBIDDEN = [
    ("import socket; socket.socket()", "no network"),
    ("import socket; socket.getaddrinfo('localhost', 80)", "no network"),
    ("import subprocess; subprocess.run(['true'])", "not allowed"),
    ("os.system('true')", "not allowed"),
    ("os.fork()", "not allowed"),
    ("os.kill(os.getppid(), 9)", "not allowed"),
    ("os.execv('/bin/true', ['true'])", "not allowed"),
    ("import ctypes; ctypes.CDLL(None)", "not allowed"),
    ("open('/etc/passwd').read()", "its own project only"),
    ("open('../escaped', 'w')", "its own project only"),
    ("os.symlink('/etc', 'etc'); open('etc/passwd').read()", "its own project only"),
    ("os.listdir('/')", "its own project only"),
    ("os.remove('/no such file')", "its own project only"),
    ("os.rename('test_it.py', '/tmp/stolen.py')", "its own project only"),
    ("import sqlite3; sqlite3.connect('/tmp/stolen.db')", "its own project only"),
    ("x = bytearray(2**30)", ""),
    ("open('big', 'wb').write(bytes(2**22))", "File too large"),
    ("files = [open('test_it.py') for _ in range(500)]", "Too many open files"),
]


def test_what_a_test_run_may_not_do():
    """Each is an error that says why, and nothing outside of the copy is touched."""
    checks = (f"with self.assertRaisesRegex(Exception, {why!r}):\n    {body}" for body, why in FORBIDDEN)
    run = runs(
        "\n".join(f"with self.subTest({i}):\n    {c.replace(chr(10), chr(10) + '    ')}" for i, c in enumerate(checks))
    )
    assert run.passed, run.output


def test_an_error_that_nobody_catches_fails_the_run():
    """With its words."""
    run = runs("os.fork()")
    assert (run.outcome, run.failed) == ("failed", 1)
    assert "not allowed" in run.output


def test_what_a_test_run_may_do():
    """Files of its own, threads, event loops and the standard library work; the environment is empty."""
    run = runs(
        "import asyncio, json, sqlite3, tempfile, threading\n"
        "open('own', 'w').write('x'); self.assertEqual(open('own').read(), 'x')\n"
        "os.mkdir('inner'); os.rename('own', 'inner/own'); tempfile.TemporaryFile().close()\n"
        "t = threading.Thread(target=print); t.start(); t.join()\n"
        "asyncio.run(asyncio.sleep(0)); sqlite3.connect(':memory:').close()\n"
        "self.assertLessEqual(set(os.environ), {'HOME', 'TMPDIR', 'LC_ALL', 'PWD', 'SHLVL', '_'})"
    )
    assert run.passed, run.output


@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(600)", "import signal; signal.pause()"])
def test_a_run_that_does_not_end_is_ended(body):
    """On the clock or by its CPU time; no process of it is left."""
    run = runs(f"open('pid', 'w').write(str(os.getpid()))\n{body}", seconds=1.0, cpu_seconds=1)
    assert run.outcome in ("timed_out", "ended")
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"run_tests.py" in _read(p) and _ours(p.parent)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _ours(place: Path) -> bool:
    """Tell whether a process descends from this one: other workers run tests of their own."""
    try:
        parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return parent == os.getpid()


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("os._exit(0)", "ended"),
        ('os.write(int(sys.argv[3]), b\'{"ran": 1, "failed": 0}\'); os._exit(0)', "ended"),
        ("os.write(int(sys.argv[3]), b'[1]'); os._exit(0)", "ended"),
        ("self.skipTest('later')", "failed"),
        ("sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", None),
    ],
)
def test_a_run_without_a_result_has_not_passed(body, outcome):
    """A process that ends itself, or writes a result of its own, is no success; nor are tests that were left out."""
    run = runs(body, cpu_seconds=2)
    assert not run.passed
    assert outcome in (None, run.outcome)


def test_no_tests_are_no_success():
    """A project without a test has not passed."""
    assert not run_tests({"shop.py": ""}).passed


def test_output_is_bounded():
    """A test that prints without end leaves the end of what it printed."""
    run = runs("for _ in range(100_000): print('x' * 50)")
    assert len(run.output) <= 4_000


@pytest.mark.skipif(not without_network(), reason="this system has no network namespaces")
def test_the_network_is_empty_below_python_too():
    """Where the system allows it the process has no interface, whatever Python would let it do."""
    assert runs("self.assertNotIn('eth0', open('/dev/null').read()); import socket").passed
    command = without_network()
    assert command[0].endswith("unshare")
    assert "--net" in command


# ---- validators and graph -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "found"),
    [
        (RIGHT, ("pass", "tests_pass")),
        (CASE, ("pass", "tests_pass")),
        (WRONG, ("fail", "tests_fail")),
        (RIGHT.replace("a + b", "(a + b"), ("fail", "patch_breaks_syntax")),
        ("mend it", ("fail", "patch_malformed")),
    ],
)
def test_a_proposal_is_judged_before_a_tool_sees_it(patch, found):
    """One verdict: it is a patch, it fits, the tests that are on show pass with it."""
    check = code_repair.PatchCheck(Project(FILES, Limits(seconds=20.0)))
    verdict = check(Draft(message=proposal(patch), tier="small"), StepContext(messages=()))
    assert (verdict.outcome, verdict.code) == found


def test_a_proposal_that_fails_reaches_large_and_the_patch_is_the_answer():
    """Small's patch fails the tests, large's passes; the state holds it, and the answer shows it."""
    small, large = ScriptedChatModel([proposal(WRONG)]), ScriptedChatModel([proposal(RIGHT, 2)])
    graph = code_repair.build(small, large, project=Project(FILES, Limits(seconds=20.0)))
    state = graph.invoke({"messages": [HumanMessage("total is wrong")]})
    assert state["patch"] == RIGHT
    assert RIGHT in state["messages"][-1].text
    assert (small.asked, large.asked) == (1, 1)


def test_giving_up_is_doubted():
    """Words without a patch are asked of large too; after that they stand."""
    small, large = ScriptedChatModel(["It is mended."]), ScriptedChatModel(["I cannot find it."])
    state = code_repair.build(small, large, project=Project(FILES)).invoke({"messages": [HumanMessage("mend it")]})
    assert (state["messages"][-1].text, large.asked) == ("I cannot find it.", 1)
    assert state.get("patch") is None


async def test_proposals_come_to_an_end():
    """After a fixed number of failing proposals the graph says so; the asynchronous run does what the other does."""
    patches = [WRONG.replace("a * b", f"a * {n}") for n in range(2, 9)]
    model = ScriptedChatModel([proposal(patch, n) for n, patch in enumerate(patches)])
    graph = code_repair.build_alone(model, project=Project(FILES, Limits(seconds=20.0)))
    state = await graph.ainvoke({"messages": [HumanMessage("mend it")]})
    assert state["patch"] is None
    assert model.asked == code_repair.MAX_PROPOSALS
    assert "No patch" in state["messages"][-1].text


# ---- the measured projects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", load_projects(), ids=lambda project: project.name)
def test_a_fault_is_seen_by_both_kinds_of_tests(project):
    """As it stands a project fails the tests on show and the hidden ones."""
    assert run_tests(project.files, Limits(seconds=20.0)).outcome == "failed"
    modules = {name: text for name, text in project.files.items() if not name.startswith("test")}
    assert run_tests({**modules, **project.hidden}, Limits(seconds=20.0)).outcome == "failed"
    assert unmended(project, None)


def test_a_patch_for_the_case_on_show_is_no_success():
    """The tests on show pass with it, the hidden ones do not."""
    project = next(p for p in load_projects() if p.name == "pages")
    line = '    """Return how many pages hold `total` items."""'
    case = f"--- a/pages.py\n+++ b/pages.py\n@@ -2 +2,3 @@\n {line}\n+    if total == 21:\n+        return 3\n"
    assert Project(project.files, Limits(seconds=20.0)).test(case).passed
    assert unmended(project, case)
    mend = case.replace(
        " " + line + "\n+    if total == 21:\n+        return 3",
        "-    return total // size\n+    return -(-total // size)",
    )
    assert unmended(project, mend) == ()


def test_a_perfect_model_mends_a_project():
    """A patch that passes the hidden tests is a success of the task, and no patch is a miss."""
    task = next(t for t in repair_tasks() if t.project == "slug")
    mend = '--- a/slug.py\n+++ b/slug.py\n@@ -6 +6 @@\n-    return re.sub(r"[^a-z0-9]+", "-", title).strip("-")\n'
    mend += '+    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")\n'
    for reply, missed in ((proposal(mend), ()), ("It is done.", ("there is no patch",))):
        build = partial(code_repair.build, ScriptedChatModel([reply]), ScriptedChatModel([reply]), validators=[])
        assert run_task(task, build).missed == missed
