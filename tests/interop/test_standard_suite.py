"""`CascadeChatModel` passes LangChain's own suite for chat models, on both ways that a step can go.

The tiers are `ChatOpenAI` against a server on the loopback. Skipped, as the properties of the class say, is what neither
the OpenAI-compatible stub nor `ChatOpenAI` behind it has: images, audio, files, Anthropic's own content forms, and the
timing of recorded streams.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests.chat_models import _get_joke_class, _TestCallbackHandler
from langchain_tests.unit_tests import ChatModelUnitTests

from cascade_agent import CascadeChatModel
from tests.builders import BOTH, ask, record, streamed
from tests.interop.stub_openai import StubOpenAI

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # httpx clients live as long as the process
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),  # ChatOpenAI chooses another method
]


SCHEMAS = pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
ONE_RUN = pytest.mark.xfail(reason="on this way two models are asked, each in its own run; the suite counts on one")


@pytest.fixture(scope="module", autouse=True)
def stub() -> Iterator[StubOpenAI]:
    """One server for all tests of the module."""
    with StubOpenAI() as server:
        _Suite.url = server.url
        yield server


class _Suite:
    """Settings of both suites for the model."""

    url = "http://127.0.0.1:9/v1"  # nobody answers; the unit suite asks nothing
    small, large = "good-small", "good-large"

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return CascadeChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        def model(name: str) -> ChatOpenAI:
            return ChatOpenAI(model=name, base_url=self.url, api_key="none", max_retries=0, stream_usage=True)

        return {"small": model(self.small), "large": model(self.large)}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "good-other"

    @property
    def has_tool_choice(self) -> bool:
        return True


class TestUnit(_Suite, ChatModelUnitTests):
    """Construction, bindings and standard parameters."""


class TestAccepted(_Suite, ChatModelIntegrationTests):
    """The small model's answer is taken."""

    def test_the_small_model_answers(self, model: BaseChatModel) -> None:
        """Every step of this class ends with the small tier: the suite ran on the way it is named for."""
        assert record(model.invoke("hi"))["final_tier"] == "small"


class TestEscalated(_Suite, ChatModelIntegrationTests):
    """The small model gives empty texts, cut calls and cut JSON; the large one answers."""

    small = "weak-small"

    def test_the_large_model_answers(self, model: BaseChatModel) -> None:
        """Every step of this class is escalated: the suite ran on the way it is named for."""
        entry = record(model.invoke("hi"))
        assert (entry["final_tier"], entry["reason"]) == ("large", "incomplete")

    @ONE_RUN
    @SCHEMAS
    def test_structured_output(self, model: BaseChatModel, schema_type: Any) -> None:
        super().test_structured_output(model, schema_type)

    @ONE_RUN
    @SCHEMAS
    async def test_structured_output_async(self, model: BaseChatModel, schema_type: Any) -> None:
        await super().test_structured_output_async(model, schema_type)

    @SCHEMAS
    @BOTH
    async def test_structured_output_of_both(self, model: BaseChatModel, schema_type: Any, how: str) -> None:
        """All else that the suite asks of structured output holds, for each of the two runs."""
        schema, valid = _get_joke_class(schema_type)
        chat, heard = model.with_structured_output(schema), _TestCallbackHandler()
        given: Any = ("Tell me a joke about cats.", {"callbacks": [heard]})
        answers = [await ask(chat, *given, how=how), *await streamed(chat, *given, how=how)]
        assert [valid(answer) for answer in answers] == [True, True]
        formats = [options["ls_structured_output_format"]["schema"] for options in heard.options]
        assert formats == [convert_to_json_schema(schema)] * 4

    @property
    def supports_model_override(self) -> bool:
        """The override reaches both tiers, and would make the small one good: `TestAccepted` has these tests."""
        return False
