"""Tests of TokenConfidence on log-probabilities as the providers' LangChain packages keep them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from cascade_agent.core.records import Draft, StepContext, Verdict
from cascade_agent.testing import ScriptedChatModel
from cascade_agent.validators.token_confidence import TokenConfidence
from tests.builders import json_values, pair, record


def judge(message: AIMessage, quantile: float = 0.1) -> Verdict:
    """Judge one answer."""
    verdict = TokenConfidence(quantile=quantile)(Draft(message=message), StepContext())
    assert verdict is not None, "graded, it always speaks"
    return verdict


def openai(*tokens: tuple[str, float]) -> dict[str, Any]:
    """Metadata as langchain-openai keeps it."""
    content = [{"token": t, "bytes": list(t.encode()), "logprob": p, "top_logprobs": []} for t, p in tokens]
    return {"logprobs": {"content": content, "refusal": None}}


WORDS = [("The", -0.01), (" answer", -0.02), (" is", -0.03), (" four", -1.5)]

SHAPES = {
    "OpenAI, Groq, vLLM": openai(*WORDS),
    "Ollama": {"logprobs": [{"token": t, "logprob": p} for t, p in WORDS]},
    "legacy completions": {"logprobs": {"tokens": [t for t, _ in WORDS], "token_logprobs": [p for _, p in WORDS]}},
    "legacy without tokens": {"logprobs": {"token_logprobs": [None, *(p for _, p in WORDS)]}},
    "numbers alone": {"logprobs": [p for _, p in WORDS]},
    "Gemini list": {"logprobs_result": [{"token": t, "logprob": p, "top_logprobs": []} for t, p in WORDS]},
    "Gemini object": {"logprobs_result": {"chosen_candidates": [{"token": t, "log_probability": p} for t, p in WORDS]}},
    "TGI": {"logprobs": [{"text": t, "logprob": p} for t, p in WORDS]},
}


NOTHING = {
    "no metadata": {},
    "null (OpenAI without the option)": {"logprobs": None},
    "content null": {"logprobs": {"content": None, "refusal": None}},
    "empty": {"logprobs": {"content": []}},
    "an average alone": {"avg_logprobs": -0.2},
    "text": {"logprobs": "high"},
    "only NaN": {"logprobs": [float("nan")]},
    "only booleans": {"logprobs": [True, False]},
    "no numbers": {"logprobs": [{"token": "a"}, {"token": "b", "logprob": None}, "c"]},
}


@pytest.mark.parametrize("case", [*SHAPES, *NOTHING])
def test_shapes(case: str) -> None:
    """The least sure token is found in every provider's shape; where there is none it abstains without a score."""
    verdict = judge(AIMessage("The answer is four", response_metadata=(SHAPES | NOTHING)[case]), quantile=0)
    known = ("pass", "token_confidence", pytest.approx(math.exp(-1.5)))
    assert (verdict.outcome, verdict.code, verdict.score) == (
        known if case in SHAPES else ("abstain", "no_logprobs", None)
    )


@pytest.mark.parametrize(
    ("logprobs", "quantile", "expected"),
    [
        ([-3.0] + [-0.1] * 8 + [-0.2], 0, -3),
        ([-3.0] + [-0.1] * 8 + [-0.2], 0.1, -0.2),
        ([-3.0] + [-0.1] * 8 + [-0.2], 0.5, -0.1),
        ([-5.0] + [-0.5] * 4_096, 0, -0.5),
        ([-9999.0, -0.1], 0, -math.inf),
        ([-math.inf], 0, -math.inf),
        ([1e-7, 0, 10**400], 0, 0),
    ],
)
def test_quantile_is_no_mean(logprobs: list[float], quantile: float, expected: float) -> None:
    """One of ten tokens decides at .1, one of eleven does not; the last 4,096 count; impossible ones score 0, certain 1."""
    message = AIMessage("x", response_metadata={"logprobs": logprobs})
    assert judge(message, quantile).score == pytest.approx(math.exp(expected))


def test_action_tokens_first() -> None:
    """Of a call that was reported token by token only the name and the values count, not the prose or the syntax."""
    raw = [
        ("Let", -2.0), (" me", -2.0), (" see", -2.0), ("<tool_call>", -2.0), ('{"name": "', -2.0), ("get", -0.1),
        ("_weather", -0.2), ('", "arguments": {"', -2.0), ("city", -2.0), ('": "', -2.0), ("Os", -0.3), ("lo", -0.4),
        ('", "days": ', -2.0), ("3", -0.9), ("}}", -2.0),
    ]  # fmt: skip
    calls = [{"name": "get_weather", "args": {"city": "Oslo", "days": 3}, "id": "1"}]
    message = AIMessage("Let me see", tool_calls=calls, response_metadata=openai(*raw))
    assert judge(message, 0).score == pytest.approx(math.exp(-0.9))
    assert "5 tokens of the call" in judge(message, 0).reason


def test_other_tokenizations() -> None:
    """Parallel calls, JSON escapes and byte-level vocabularies with a letter for the space are found."""
    first, second = {"q": 'say "hi"\n'}, {"q": "東京", "deep": {"list": [True, None, 1.5]}}
    text = json.dumps({"name": "find", "arguments": first}) + json.dumps({"name": "find", "arguments": second})
    tokens = [(char, -0.5) for char in text]
    calls = [{"name": "find", "args": first, "id": "1"}, {"name": "find", "args": second, "id": "2"}]
    message = AIMessage("", tool_calls=calls, response_metadata=openai(*tokens))
    verdict = judge(message)
    spelled = 2 * len("find") + len('say \\"hi\\"\\n') + len("\\u6771\\u4eac") + len("true") + len("null") + len("1.5")
    assert f" {spelled} tokens" in verdict.reason
    calls = [{"name": "find", "args": {"q": "New York"}, "id": "1"}]
    raw = openai(("find", -0.1), ("(q=", -3.0), ("New", -0.2), ("ĠYork", -0.7), (")", -3.0))
    assert judge(AIMessage("", tool_calls=calls, response_metadata=raw), 0).score == pytest.approx(math.exp(-0.7))


def test_prose_next_to_a_call_says_nothing_about_the_call() -> None:
    """Where only the prose was reported it abstains, also where the prose names the tool."""
    calls = [{"name": "find", "args": {"q": "Oslo"}, "id": "1"}]
    raw = openai(("I", -0.01), (" find", -0.01), (" it", -0.01))
    verdict = judge(AIMessage("I find it", tool_calls=calls, response_metadata=raw))
    assert (verdict.outcome, verdict.score) == ("abstain", None)


def test_a_call_without_arguments() -> None:
    """Its name counts."""
    raw = openai(("list", -0.1), ("_all", -0.6), ("()", -3.0))
    message = AIMessage("", tool_calls=[{"name": "list_all", "args": {}, "id": "1"}], response_metadata=raw)
    assert judge(message, 0).score == pytest.approx(math.exp(-0.6))


@pytest.mark.parametrize(
    ("args", "least"),
    [
        ({"ids": list(range(10, 99))}, -0.2),
        ({"x": "y" * 10_000}, -0.1),
        ({"x": {1, 2}}, -0.1),
        ({"x": 2**300}, -0.1),
        ([[[[]] * 60] * 60] * 60, -0.1),
    ],
)
def test_bounds(args: Any, least: float) -> None:
    """Of very many, very long or strange arguments a fixed number is looked for, and the rest is left out."""
    message = AIMessage.model_construct(
        content="",
        tool_calls=[{"name": "find", "args": args, "id": "1"}] * 2,
        response_metadata=openai(("find", -0.1), *((str(n), -0.2) for n in range(10, 99))),
    )
    assert judge(message, 0).score == pytest.approx(math.exp(least))


def find(*values: float, name: float = -0.01) -> AIMessage:
    """A call whose name and values were said with these log-probabilities."""
    tokens = [("find", name), ('("', -3.0), *((f"w{i} ", p) for i, p in enumerate(values)), ('")', -3.0)]
    query = "".join(f"w{i} " for i in range(len(values)))
    return AIMessage(
        "", tool_calls=[{"name": "find", "args": {"q": query}, "id": "1"}], response_metadata=openai(*tokens)
    )


def text(*logprobs: float) -> AIMessage:
    """A text with these log-probabilities."""
    return AIMessage("x", response_metadata={"logprobs": list(logprobs)})


@pytest.mark.parametrize(
    ("message", "fails"),
    [
        (text(*[-2.5] * 4), True),
        (text(*[-2.5] * 40), True),
        (text(*[-1.1] * 12), True),
        (text(*[-0.2] * 17, *[math.log(0.13)] * 3), True),
        (text(*[-0.9] * 12), False),
        (text(-2.5, -0.1, -0.1, -0.1), False),
        (text(*[-0.2] * 19, -9.0), False),
        (text(*[-0.2] * 19, -9999.0), False),
        (find(-0.1, -0.1, -2.5), True),
        (find(*[-1.5] * 5), True),
        (find(-0.1, -0.1, name=-2.0), True),
        (find(-0.1, -0.1, -1.6), False),
    ],
)
def test_fails_where_right_answers_hardly_ever_are(message: AIMessage, fails: bool) -> None:
    """A soft fail under a mean of -1, or .15 in the lowest tenth: one token of a call, one of many of a text."""
    verdict = judge(message)
    assert verdict.outcome == ("fail" if fails else "pass")
    assert verdict.score is not None
    default = TokenConfidence(graded=False)(Draft(message=message), StepContext())
    assert default == (verdict if fails else None), "in the default set it only objects"


def test_counts_without_a_threshold() -> None:
    """By default an unsure draft goes to large, a sure one and one without log-probabilities stay as they were."""
    for meta, unsure in (({"logprobs": [-2.5] * 8}, True), ({"logprobs": [-0.1] * 8}, False), ({}, False)):
        small = ScriptedChatModel([AIMessage("It is four.", response_metadata=meta)])
        step = record(pair(small, ["4"]).invoke("2 + 2?"))
        assert (step["final_tier"], step["reason"]) == (
            ("large", "low_confidence") if unsure else ("small", "accepted")
        )
        assert any(v["validator"] == "TokenConfidence" for v in step["attempts"][0].get("verdicts", ())) is unsure


JSON = json_values(keys=st.sampled_from(["content", "token", "logprob", "tokens", "token_logprobs"]), leaves=12)


@given(
    logprobs=JSON, args=JSON | st.dictionaries(st.text(), JSON), name=st.none() | st.text(), quantile=st.floats(0, 0.99)
)
def test_never_raises(logprobs: Any, args: Any, name: str | None, quantile: float) -> None:
    """No metadata and no call make it raise; it has a score or abstains without one."""
    message = AIMessage.model_construct(
        content="", tool_calls=[{"name": name, "args": args, "id": "1"}], response_metadata={"logprobs": logprobs}
    )
    for draft in (message, AIMessage("x", response_metadata={"logprobs": logprobs})):
        verdict = judge(draft, quantile)
        assert (verdict.outcome != "abstain") == (verdict.score is not None)
