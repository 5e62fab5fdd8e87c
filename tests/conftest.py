"""Fixtures that several folders use."""

from collections.abc import Iterator

import pytest

from tests.interop.stub_openai import StubOpenAI


@pytest.fixture(scope="module")
def stub() -> Iterator[StubOpenAI]:
    """A server of OpenAI's chat API that fails on demand."""
    with StubOpenAI() as server:
        yield server
