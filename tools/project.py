"""A small Python project as LangChain tools: list, read, test, propose a patch. Nothing on disk is ever changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import Field

from tools.calculator import explain
from tools.patch import MAX_PATCH, PatchError, apply_patch, path_in_project, refuse
from tools.sandbox import Limits, TestRun, run_tests

PROPOSE: Final = "propose_patch"
SIDE_EFFECTS: Final[dict[str, Literal["read"]]] = dict.fromkeys(
    ("list_files", "read_file", "run_tests", PROPOSE), "read"
)
"""A proposal changes a copy: applying the patch that comes out is left to whoever asked."""

MAX_FILES: Final = 200
MAX_BYTES: Final = 100_000


class Project:
    """The files of a project, from a directory (read anew each time) or given as `{path: text}`.

    Only text files below the directory count: hidden ones, caches, symbolic links and files that are too large do not.
    """

    def __init__(self, source: Path | str | Mapping[str, str], limits: Limits = Limits()) -> None:  # noqa: B008 - a frozen value
        self.limits = limits
        self._root: Path | None = None
        self._files: dict[str, str] = {}
        if isinstance(source, Mapping):
            self._files = {path_in_project(name): text for name, text in source.items()}
            return
        self._root = Path(source).resolve()
        if not self._root.is_dir():
            msg = f"{source} is no directory; give the directory of a project, or its files"
            raise NotADirectoryError(msg)

    def files(self) -> dict[str, str]:
        """Return every file by its path."""
        if self._root is None:
            return dict(self._files)
        found: dict[str, str] = {}
        for place, directories, names in os.walk(self._root, followlinks=False):
            directories[:] = sorted(d for d in directories if not d.startswith((".", "__pycache__", "node_modules")))
            for path in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
                text = _text(path, self._root)
                if text is not None and len(found) < MAX_FILES:
                    found[path.relative_to(self._root).as_posix()] = text
        return found

    def read(self, path: str) -> str:
        """Return the text of one file.

        Raises:
            PatchError: no path inside the project, or no file there.
        """
        files, name = self.files(), path_in_project(path)
        if name not in files:
            refuse("patch_outside", f"there is no file {path!r}; the files are {', '.join(files)}")
        return files[name]

    def test(self, patch: str | None = None) -> TestRun:
        """Run the tests on a copy, with a patch applied if one is given.

        Raises:
            PatchError: the patch cannot be used.
        """
        files = self.files()
        return run_tests(files if patch is None else apply_patch(patch, files), self.limits)


def _text(path: Path, root: Path) -> str | None:
    if path.is_symlink() or not path.resolve().is_relative_to(root) or not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


class _Bench:
    """The tools' bodies; each public method is one tool and its docstring what the model reads."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def list_files(self) -> dict[str, Any]:
        """List the files of the project."""
        return {"files": list(self._project.files())}

    def read_file(self, path: Annotated[str, Field(description="Path as list_files gives it")]) -> dict[str, Any]:
        """Read one file of the project."""
        return {"path": path, "text": self._project.read(path)}

    def run_tests(self) -> dict[str, Any]:
        """Run the tests of the project as it is."""
        return _report(self._project.test())

    def propose_patch(
        self,
        patch: Annotated[
            str, Field(description="A unified diff of the modules, not of the tests", max_length=MAX_PATCH)
        ],
    ) -> dict[str, Any]:
        """Apply a patch to a copy of the project and run its tests there. The work ends when they pass."""
        run = self._project.test(patch)
        if not run.passed:
            msg = f"The tests do not pass with this patch ({run.outcome}, {run.failed} of {run.ran}):\n{run.output}"
            raise ToolException(msg)
        return _report(run)


def _report(run: TestRun) -> dict[str, Any]:
    return {"outcome": run.outcome, "ran": run.ran, "failed": run.failed, "output": run.output}


def _tool(body: Callable[..., dict[str, Any]]) -> BaseTool:
    """Return one method as a tool; asynchronous callers get a thread."""

    def run(**kwargs: Any) -> dict[str, Any]:
        try:
            return body(**kwargs)
        except PatchError as error:
            raise ToolException(str(error)) from error

    async def arun(**kwargs: Any) -> dict[str, Any]:
        return await asyncio.to_thread(run, **kwargs)

    made = StructuredTool.from_function(body)
    return StructuredTool(
        name=made.name,
        description=made.description,
        args_schema=made.args_schema,
        func=run,
        coroutine=arun,
        handle_tool_error=True,
        handle_validation_error=explain,
    )


def project_tools(project: Project) -> list[BaseTool]:
    """Return the tools over one project, in a fixed order."""
    bench = _Bench(project)
    return [_tool(body) for body in (bench.list_files, bench.read_file, bench.run_tests, bench.propose_patch)]
