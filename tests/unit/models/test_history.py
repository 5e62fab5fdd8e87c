"""Histories: what is plain costs nothing, what only one provider understands goes to it alone."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from cascade_agent.models.history import form_of, messages_for, with_note
from cascade_agent.models.traits import RESPONSES, ModelTraits

CALL: dict[str, Any] = {"name": "f", "args": {"a": 1}, "id": "call_1"}
PICTURE: dict[str, Any] = {"type": "image", "base64": "eA==", "mime_type": "image/png"}


def traits(family: str, *, form: str | None = None, url: str | None = None, **more: Any) -> ModelTraits:
    """A model of a provider."""
    return ModelTraits(label="m", model_name="m", family=family, form=form or family, base_url=url, **more)


def by(tier: str, content: Any = "x", provider: str = "anthropic", **inner: Any) -> AIMessage:
    """An answer with the record of a cascade."""
    attempt = {"tier": tier, "model": "m", **inner}
    record = {"final_tier": tier, "attempts": [attempt]}
    return AIMessage(content, response_metadata={"model_provider": provider, "cascade": record})


THOUGHT = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "It is 21."}]


def test_what_is_untouched():
    """A plain conversation is the list that was given, and a cascade is given everything."""
    for family in ["openai", "anthropic", "google_genai", "mistralai", "ollama", "other"]:
        answer = AIMessage("", tool_calls=[CALL], additional_kwargs={"refusal": None, "tool_calls": [{}]})
        tail: list[BaseMessage] = [ToolMessage("r", tool_call_id="call_1"), AIMessage("done")]
        messages: list[BaseMessage] = [SystemMessage("s"), HumanMessage("h"), answer, *tail]
        assert messages_for(traits(family), messages) is messages
    messages: list[BaseMessage] = [AIMessage(THOUGHT)]
    assert messages_for(traits("cascade", kind="cascade"), messages) is messages


@pytest.mark.parametrize(
    ("writer", "url", "own"),
    [("small", "a", True), ("small", "b", False), ("large", "a", True), ("gone", "a", True)],
)
def test_the_record_says_at_which_host_an_answer_was_written(writer, url, own):
    """The same provider and address: untouched. Another address: as text. No record of the pair: the provider counts."""
    queried = traits("anthropic", url="a")
    pair = {"small": traits("anthropic", url=url), "large": queried}
    (out,) = messages_for(queried, [by(writer, THOUGHT)], pair=pair)
    assert out.content == (THOUGHT if own else "It is 21.")


def test_the_writer_of_a_turn():
    """A nested cascade names the model that wrote; ids of responses go to their writer alone, reasoning next to a call stays behind."""
    queried = traits("openai", form=RESPONSES)
    inner = {"final_tier": "small", "attempts": [{"tier": "small", "model": "m"}]}
    items = [{"type": "reasoning", "id": "rs_1", "summary": []}, {"type": "text", "text": "hi", "id": "msg_1"}]
    message = by("large", items, "openai", inner=inner)
    assert messages_for(queried, [message], pair={"small": queried, "large": traits("c", kind="cascade")})[0] is message
    assert messages_for(queried, [message], pair={"small": traits("x"), "large": queried})[0].content == "hi"
    message = AIMessage("hi", id="msg_1", response_metadata={"model_provider": "openai", "id": "resp_1"})
    (out,) = messages_for(traits("openai", form=RESPONSES), [message])
    assert (out.content, out.id, out.response_metadata) == ("hi", None, {})
    message = AIMessage("\n", tool_calls=[CALL], additional_kwargs={"reasoning_content": "hm"}, name="n")
    (out,) = messages_for(traits("ollama"), [message])
    assert (out.content, out.additional_kwargs, out.tool_calls[0]["id"], out.name) == ("", {}, "call_1", "n")


@pytest.mark.parametrize(
    ("block", "form"),
    [
        ({"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}, "mistralai"),
        ({"type": "thinking", "thinking": "x", "signature": "s"}, "anthropic"),
        ({"type": "redacted_thinking", "data": "x"}, "anthropic"),
        ({"type": "executable_code", "executable_code": "1"}, "google_genai"),
        ({"type": "reasoning", "summary": []}, RESPONSES),
        ({"type": "text", "text": "x"}, None),
    ],
)
def test_an_answer_without_a_name_is_known_by_its_blocks(block, form):
    """Somebody's own code may have dropped the metadata."""
    assert form_of(AIMessage([block])) == form


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "reasoning", "summary": []}], "(no text)"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b", "citations": [1]}], "ab"),
        ([{"type": "text", "text": "a"}, {"type": "server_tool_use"}, {"type": "text", "text": "b"}], "a\n\nb"),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ([{"type": "non_standard", "value": {"type": "refusal", "refusal": "No."}}], "No."),
        (["a", {"type": "output_text", "text": "b"}], "ab"),
        ("  \n", "(no text)"),
    ],
)
def test_of_another_providers_answer_the_text_stays(content, text):
    """In order, apart where something stood between; never nothing, since an empty turn is refused."""
    message = AIMessage(content, response_metadata={"model_provider": "xai"})
    assert messages_for(traits("mistralai"), [message])[0].content == text


@pytest.mark.parametrize(
    ("family", "sees", "answer", "question"),
    [
        ("google_genai", True, [{"type": "text", "text": "here"}, PICTURE], "more"),
        ("anthropic", True, "here", [PICTURE, {"type": "text", "text": "more"}]),
        ("openai", False, "here", "more"),
    ],
)
def test_pictures_of_a_model_are_shown_where_they_may_stand(family, sees, answer, question):
    """In its own turn, in the user's next one, or not at all to a model that sees none."""
    link = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
    message = AIMessage([{"type": "text", "text": "here"}, link], response_metadata={"model_provider": "xai"})
    out = messages_for(traits(family, sees_images=sees), [message, HumanMessage("more")])
    assert [m.content for m in out] == [answer, question]


@pytest.mark.parametrize(
    ("family", "content", "left"),
    [
        ("ollama", {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}}, PICTURE),
        ("anthropic", {"type": "image", "source": {"type": "url", "url": "http://x"}}, None),
        ("ollama", {"type": "image_url", "image_url": {"url": "http://x"}}, None),
        ("ollama", {"type": "text", "text": "x", "cache_control": {}}, {"type": "text", "text": "x"}),
    ],
)
def test_a_users_blocks_are_put_so_that_the_asked_provider_reads_them(family, content, left):
    """A picture in one provider's form becomes the standard one, marks of another one's cache go."""
    (out,) = messages_for(traits(family), [HumanMessage([content])])
    assert out.content == [left or content]


def test_a_server_that_imitates_openai_is_sent_strings():
    """Blocks of text alone become one string, in every role; others stay blocks."""
    blocks: list[Any] = [{"type": "text", "text": "a"}, "b"]
    messages = [SystemMessage(blocks), ToolMessage(blocks, tool_call_id="1"), HumanMessage([*blocks, PICTURE])]
    out = messages_for(traits("openai", plain_strings=True), messages)
    assert [m.content for m in out] == ["a\nb", "a\nb", [*blocks, PICTURE]]


@pytest.mark.parametrize("name", ["get:0", "", None])
def test_equal_and_empty_ids_of_calls_become_their_own(name):
    """Results follow their calls; the messages given stay as they are."""
    call = {**CALL, "id": name}
    turn = [AIMessage("", tool_calls=[call]), ToolMessage("r", tool_call_id=name or "")]
    messages: list[BaseMessage] = [*turn, *turn]
    out: list[Any] = messages_for(traits("anthropic"), messages)
    ids = [out[0].tool_calls[0]["id"], out[2].tool_calls[0]["id"]]
    assert len({*ids, "", None}) == 4
    assert [out[1].tool_call_id, out[3].tool_call_id] == ids
    assert messages[2].tool_calls[0]["id"] == name


@pytest.mark.parametrize(
    ("last", "roles"),
    [
        ([], ["human"]),
        ([AIMessage("a")], ["ai", "human"]),
        ([HumanMessage("a")], ["human"]),
        ([HumanMessage([{"type": "text", "text": "a"}])], ["human"]),
        ([ToolMessage("a", tool_call_id="1")], ["tool"]),
    ],
)
def test_a_note_opens_a_turn_only_where_none_is_open(last, roles):
    """After a tool's or a user's message it is part of it."""
    out = with_note(last, "note")
    assert [m.type for m in out] == roles
    assert "note" in str(out[-1].content)
    assert "note" not in str(last)
