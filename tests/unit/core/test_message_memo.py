"""A message is read once, and what was read is forgotten with it."""

import gc
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

from cascade_agent import Tier
from cascade_agent.core.message_memo import MessageMemo


def test_a_message_is_read_once_and_forgotten_with_it():
    """A history that grows costs a reading of what is new; nothing is kept of a message that is gone."""
    read: list[Any] = []
    memo = MessageMemo(lambda message: read.append(message.content) or message.content)
    history = [HumanMessage("one"), AIMessage("two")]
    assert memo.all(history) == memo.all(history) == ["one", "two"]
    assert memo.all([*history, HumanMessage("three")])[2] == "three"
    assert read == ["two", "one", "three"]  # what is new stands at the end
    history.clear()
    gc.collect()
    assert not memo._found
    assert not memo._alive


def test_content_that_a_host_changed_in_place_is_looked_at_again():
    """An answer that was plain text, and holds another provider's blocks now, is rewritten for the asked model."""
    tier = Tier(ChatOpenAI(model="gpt-4o-mini", api_key="none"))
    answer = AIMessage("hi")
    history = [HumanMessage("hello"), answer, HumanMessage("and?")]
    assert tier.messages_for(history) is history
    answer.content = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "hi"}]
    assert tier.messages_for(history)[1].content == "hi"
