"""Parts that only one provider understands are taken out for the others, and nothing else is touched."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import StructuredTool

from cascade_agent.models import prompt_cache as cache_marks

MARK = {"type": "ephemeral"}
BLOCK: dict[str, Any] = {"type": "text", "text": "long", "cache_control": MARK}


def lookup(order: str) -> str:
    """Look up an order."""
    return order


def marked_tool() -> StructuredTool:
    """A tool that a caching middleware has marked."""
    return StructuredTool.from_function(lookup, extras={"cache_control": MARK, "defer_loading": True})


def test_nothing_is_copied_without_need():
    """Anthropic models, nested cascades and unmarked messages are handed the same objects."""
    for kind in ["anthropic-chat", "anthropic-bedrock-chat", "anthropic-chat-vertexai", "cascade"]:
        message, tools = HumanMessage([BLOCK]), [marked_tool(), {"name": "t", "cache_control": MARK}]
        assert cache_marks.for_message(message, kind) is message
        assert all(new is old for new, old in zip(cache_marks.for_tools(tools, kind), tools, strict=True))
        assert cache_marks.for_settings({"cache_control": MARK}, kind) == {"cache_control": MARK}
    for message in (HumanMessage("text"), AIMessage([{"type": "text", "text": "x"}])):
        assert cache_marks.for_message(message, "x") is message
    tools = [StructuredTool.from_function(lookup), {"name": "t"}, lookup]
    assert all(new is old for new, old in zip(cache_marks.for_tools(tools, "x"), tools, strict=True))


@pytest.mark.parametrize(
    ("block", "left"),
    [
        (BLOCK, {"type": "text", "text": "long"}),
        ({"type": "image", "extras": {"cache_control": MARK, "x": 1}}, {"type": "image", "extras": {"x": 1}}),
        ({"type": "file", "metadata": {"cache_control": MARK}}, {"type": "file", "metadata": {}}),
        ({"type": "text", "text": "plain", "extras": None}, {"type": "text", "text": "plain", "extras": None}),
        ("a string", "a string"),
    ],
)
def test_marks_of_content_blocks_go(block, left):
    """On the block, in its extras and in its metadata; the message given stays as it was."""
    message = SystemMessage([block], id="1", name="n")
    out = cache_marks.for_message(message, "openai-chat")
    assert out.content == [left]
    assert (out.id, out.name, type(out)) == ("1", "n", SystemMessage)
    assert message.content == [block]
    assert (out is message) is (left == block)


def test_marks_of_tools_go():
    """From a tool's extras and from a dict; other extras stay."""
    tool = marked_tool()
    out, raw = cache_marks.for_tools([tool, {"name": "t", "cache_control": MARK}], "openai-chat")
    assert out.extras == {"defer_loading": True}
    assert tool.extras == {"cache_control": MARK, "defer_loading": True}
    assert raw == {"name": "t"}
    (bare,) = cache_marks.for_tools([StructuredTool.from_function(lookup, extras={"cache_control": MARK})], "x")
    assert bare.extras is None


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("openai-chat", {"prompt_cache_key": "k", "top_p": 1}),
        ("azure-openai-chat", {"prompt_cache_key": "k", "top_p": 1}),
        ("fireworks-chat", {"prompt_cache_key": "k", "top_p": 1, "extra_headers": {"X-Session-Affinity": "s"}}),
        ("anthropic-chat", {"cache_control": MARK, "top_p": 1}),
        ("other", {"top_p": 1}),
    ],
)
def test_settings_keep_what_the_provider_takes(kind, left):
    """`cache_control`, `prompt_cache_key` and the affinity header reach only who knows them."""
    headers = {"X-Session-Affinity": "s"}
    given = {"cache_control": MARK, "prompt_cache_key": "k", "top_p": 1, "extra_headers": headers}
    assert cache_marks.for_settings(given, kind) == left
    assert cache_marks.for_settings({"extra_headers": {**headers, "A": "b"}}, "openai-chat") == {
        "extra_headers": {"A": "b"}
    }
