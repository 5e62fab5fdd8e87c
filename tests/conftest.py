"""Fixtures that several folders use."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.builders import RUN
from tests.interop.stub_openai import StubOpenAI


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Say whether slow tests run, before any module of tests is imported; without them properties get fewer examples."""
    RUN["slow"] = config.option.markexpr != "not slow"
    if not RUN["slow"]:
        settings.register_profile("quick", settings.get_profile("ci"), max_examples=40)
        settings.load_profile("quick")


@pytest.fixture(scope="module")
def stub() -> Iterator[StubOpenAI]:
    """A server of OpenAI's chat API that fails on demand."""
    with StubOpenAI() as server:
        yield server


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a pytest under which groups are none."""
    grouped = next((item for item in session.items if item.get_closest_marker("xdist_group")), None)
    if grouped is not None and getattr(session.config.option, "loadgroup", False) and "@" not in grouped.nodeid:
        msg = "pytest-xdist groups no tests under this pytest: take the versions of requirements-dev.txt"
        raise pytest.UsageError(msg)
