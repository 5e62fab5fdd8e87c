"""Whose fault a failed call is: the request's, the setup's, or nobody's that is known."""

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage

from cascade_agent.core.records import Draft
from cascade_agent.engine.tier_faults import draft_fault, error_fault


class ServerError(Exception):
    """An error of a server."""

    def __init__(self, status: int | None, words: str, code: object = None) -> None:
        super().__init__(words)
        self.status_code, self.code = status, code


REQUEST = [
    (400, "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens"),  # vLLM
    (400, "input length exceeds the context length"),  # Ollama
    (500, "the request exceeds the available context size, try increasing it"),  # llama.cpp
    (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),  # Mistral
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),  # Anthropic
    (400, "Input is too long for requested model."),  # Bedrock
    (400, "This model's maximum prompt length is 131072 but the request contains 200000 tokens."),  # xAI
    (400, "Range of input length should be [1, 30720]"),  # DashScope
    (400, "Your request exceeded model token limit: 8192"),  # Moonshot
    (400, "too many tokens: size limit exceeded by 1200 tokens"),  # Cohere
    (413, "Request too large for model"),  # Groq
    (None, "Requested tokens (5000) exceed context window of 512"),  # llama-cpp-python
    (400, "The response was filtered due to the prompt triggering Azure's content management policy"),
    (400, "Output blocked by content filtering policy"),  # Anthropic
    (403, "Input was flagged for: violence"),  # OpenRouter
    (400, "<400> DataInspectionFailed: data_inspection_failed"),  # DashScope
]
OTHERS = [
    (400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens", None),
    (429, "Request too large: tokens per minute, Limit 6000, Requested 7433", None),
    (401, "Incorrect API key provided: the request has no content policy", "setup"),
    (404, "The model `x` does not exist", "setup"),
    (400, "Failed to call a function. See 'failed_generation'", None),
    (500, "Internal server error", None),
    (504, "The request exceeded its deadline", None),
    (None, "Your request exceeded the rate limit", None),
    (None, "input exceeded the time allowed", None),
    (None, "Connection refused", None),
]


@pytest.mark.parametrize(("status", "words"), REQUEST)
def test_a_request_that_is_too_long_or_not_allowed_is_known_by_its_words(status, words):
    """Most servers have no code of their own for it; such a step says nothing of the route."""
    assert error_fault(ServerError(status, words)) == "request"


@pytest.mark.parametrize(("status", "words", "fault"), OTHERS)
def test_other_errors_are_none_of_the_requests(status, words, fault):
    """However much they speak of tokens."""
    assert error_fault(ServerError(status, words)) == fault


def test_codes_and_types_count_too():
    """OpenAI's codes, LangChain's own exception, and an option that the client does not take."""
    assert error_fault(ServerError(400, "bad", "context_length_exceeded")) == "request"
    assert error_fault(ServerError(400, "bad", "content_filter")) == "request"
    assert error_fault(ContextOverflowError("long")) == "request"
    assert error_fault(TypeError("create() got an unexpected keyword argument 'context_length'")) == "setup"


def test_a_prompt_that_google_blocked_says_nothing_of_the_route():
    """It answers with no candidate and a reason for the prompt."""
    blocked = AIMessage("", response_metadata={"prompt_feedback": {"block_reason": "SAFETY"}})
    free = AIMessage("", response_metadata={"prompt_feedback": {"block_reason": 0}})
    assert [draft_fault(Draft(message=m, tier="small"), (), {}) for m in (blocked, free)] == ["request", None]
