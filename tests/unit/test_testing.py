"""The public fakes: they answer in order, remember what they were asked, and need no test framework."""

import asyncio
import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade_agent.core.records import Draft, StepContext
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_fail, always_pass
from tests.builders import lookup, pair


def test_replies_come_in_order_and_are_remembered():
    """Texts, messages, functions of the messages, exceptions and their classes, in a list or alone; each call is kept."""
    replies = [
        "one",
        AIMessage("two"),
        lambda m: m[-1].text + "!",
        lambda m: AIMessage("four"),
        KeyError("five"),
        OSError,
    ]
    model = ScriptedChatModel(replies, name="s")
    assert [model.invoke(x).text for x in ("a", "b", "c", "d")] == ["one", "two", "c!", "four"]
    ends = {KeyError: "five", OSError: None, IndexError: "s: the script has 6 replies and was asked once more"}
    for kind, words in ends.items():
        with pytest.raises(kind, match=words):
            model.invoke("e")
    assert [c[0].text for c in model.calls] == list("abcdeee")
    assert model.asked == 7
    assert [ScriptedChatModel(one).invoke("").text for one in ("x", AIMessage("x"), lambda _: "x")] == ["x"] * 3
    with pytest.raises(ValueError, match="y"):
        ScriptedChatModel(ValueError("y")).invoke("")
    with pytest.raises(ConfigurationError, match="no replies"):
        ScriptedChatModel([])


async def test_a_fake_can_be_shared():
    """Sync and async, threads, copies and pickles take the next reply each; none is given twice or lost."""
    model = ScriptedChatModel(["one", "two"], loop=True, delay=0.001)
    assert [model.invoke("").text, (await model.ainvoke("")).text, model.invoke("").text] == ["one", "two", "one"]
    both = await asyncio.gather(*(model.ainvoke("") for _ in range(4)))
    assert sorted(m.text for m in both) == ["one", "one", "two", "two"]
    model = ScriptedChatModel([str(n) for n in range(400)])
    with ThreadPoolExecutor(8) as pool:
        got = [message.text for message in pool.map(model.invoke, [""] * 400)]
    assert sorted(got, key=int) == [str(n) for n in range(400)]
    model = ScriptedChatModel(["a", "b", "c"])
    model.invoke("")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.invoke("").text == "b"
    assert model.asked == 1
    assert model._identifying_params == {"name": "scripted", "replies": ["'a'", "'b'", "'c'"]}
    assert model._llm_type == "scripted"


def test_usage_is_one_for_all_or_one_per_reply():
    """A reply's own usage wins; None reports none."""
    own = AIMessage("b", usage_metadata={"input_tokens": 9, "output_tokens": 9, "total_tokens": 18})

    def used(replies: Any, usage: Any) -> list[Any]:
        model = ScriptedChatModel(replies, usage=usage)
        return [found and tuple(found.values()) for found in (model.invoke("").usage_metadata for _ in replies)]

    assert used(["a", own], (1, 2)) == [(1, 2, 3), (9, 9, 18)]
    assert used(["a", "b"], [(1, 2), None]) == [(1, 2, 3), None]
    assert used(["a"], None) == [None]


def test_tools_and_arguments_are_remembered_and_change_nothing():
    """`bind_tools`, `tool_choice`, `stop` and other arguments can be looked at."""
    model = ScriptedChatModel("x", loop=True)
    model.bind_tools([lookup], tool_choice="lookup").invoke("", stop=["."], temperature=0.1)
    model.invoke("")
    assert [[t["function"]["name"] for t in tools] for tools in model.offered] == [["lookup"], []]
    assert model.options == [{"tool_choice": "lookup", "stop": ["."], "temperature": 0.1}, {}]
    assert model.get_num_tokens_from_messages([HumanMessage("a b"), HumanMessage("c")]) == 3


async def test_with_streams_it_streams_as_a_provider_does():
    """In pieces; a cut call is raw text, which LangChain repairs when it adds the pieces up."""
    cut = {"name": "look", "args": '{"where": "he', "id": "1", "error": None}
    whole = {"name": "look", "args": {"where": "x"}, "id": "0"}
    replies = ["one two", "one two", AIMessage("so", invalid_tool_calls=[cut], tool_calls=[whole])]
    model = ScriptedChatModel(replies, streams=True, usage=(1, 2), delay=0.001)
    assert [c.text for c in model.stream("")][:2] == ["one", " two"]
    assert "".join([c.text async for c in model.astream("")]) == "one two"
    full: Any = reduce(add, model.stream(""))
    assert [c["args"] for c in full.tool_calls] == [{"where": "x"}, {"where": "he"}]
    assert full.usage_metadata["total_tokens"] == 3
    assert len(list(ScriptedChatModel("one two").stream(""))) == 1, "without the flag it does not"


def test_helpers_of_tests():
    """Validators with a fixed opinion; no framework of tests is imported, so they work in anybody's."""
    draft, context = Draft(message=AIMessage("x")), StepContext()
    assert always_pass()(draft, context).outcome == "pass"
    hard, soft = always_fail(code="no")(draft, context), always_fail(score=0.2)(draft, context)
    assert (hard.hard, hard.code, soft.hard, soft.outcome) == (True, "no", False, "fail")
    code = "import sys, cascade_agent.testing; sys.exit('pytest' in sys.modules or 'unittest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_journal_in_memory():
    """Traces are kept whole, with the answers, in order; it can be emptied."""
    journal = TraceCapture()
    pair("a", "b", validators=[always_fail(score=0.1)], journal=journal).invoke("hi")
    assert [a.answer["text"] for a in journal.traces[0].attempts] == ["a", "b"]
    assert [t.outcome for t in journal] == ["exhausted"]
    assert len(journal) == 1
    journal.clear()
    assert not list(journal)
