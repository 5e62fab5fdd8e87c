"""Fixtures that several folders use."""

from collections.abc import Iterator

import pytest

from tests.builders import RUN
from tests.interop.stub_openai import StubOpenAI


def pytest_configure(config: pytest.Config) -> None:
    """Say whether slow tests run, before any module of tests is imported."""
    RUN["slow"] = config.option.markexpr != "not slow"


@pytest.fixture(scope="module")
def stub() -> Iterator[StubOpenAI]:
    """A server of OpenAI's chat API that fails on demand."""
    with StubOpenAI() as server:
        yield server
