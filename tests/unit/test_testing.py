"""The public fakes: a script answers in order, remembers what it was asked, and needs no test framework."""

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from cascade_agent import CascadeChatModel
from cascade_agent.core.records import Draft, StepContext
from cascade_agent.errors import ConfigurationError
from cascade_agent.testing import ScriptedChatModel, TraceCapture, always_fail, always_pass


@tool
def look(where: str) -> str:
    """Look somewhere."""
    return where


def test_a_script_answers_in_order_and_remembers():
    """Texts, messages, functions of the messages, exceptions and their classes; each call is kept."""
    model = ScriptedChatModel(
        [
            "one",
            AIMessage("two"),
            lambda m: m[-1].text + "!",
            lambda m: AIMessage("four"),
            KeyError("five"),
            TimeoutError,
        ],
        name="s",
    )
    assert [model.invoke(x).text for x in ("a", "b", "c", "d")] == ["one", "two", "c!", "four"]
    with pytest.raises(KeyError, match="five"):
        model.invoke("e")
    with pytest.raises(TimeoutError):
        model.invoke("f")
    with pytest.raises(IndexError, match="s: the script has 6 replies and was asked once more"):
        model.invoke("g")
    assert [c[0].text for c in model.calls] == list("abcdefg")
    assert model.asked == 7


async def test_a_script_can_be_shared():
    """Sync and async, threads, copies and pickles take the next reply each; none is given twice or lost."""
    model = ScriptedChatModel(["one", "two"], loop=True, delay=0.001)
    assert [model.invoke("").text, (await model.ainvoke("")).text, model.invoke("").text] == ["one", "two", "one"]
    assert sorted(m.text for m in await asyncio.gather(*(model.ainvoke("") for _ in range(4)))) == [
        "one",
        "one",
        "two",
        "two",
    ]
    model = ScriptedChatModel([str(n) for n in range(400)])
    got: list[str] = []

    def work() -> None:
        got.extend(model.invoke("").text for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=int) == [str(n) for n in range(400)]
    model = ScriptedChatModel(["a", "b", "c"])
    model.invoke("")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.invoke("").text == "b"
    assert model.asked == 1
    assert model._identifying_params == {"name": "scripted", "replies": ["'a'", "'b'", "'c'"]}
    assert model._llm_type == "scripted"


def test_a_single_reply_needs_no_list():
    """A text, a message, a function, an exception."""
    assert ScriptedChatModel("x").invoke("").text == "x"
    assert ScriptedChatModel(AIMessage("x")).invoke("").text == "x"
    assert ScriptedChatModel(lambda _: "x").invoke("").text == "x"
    with pytest.raises(ValueError, match="y"):
        ScriptedChatModel(ValueError("y")).invoke("")
    with pytest.raises(ConfigurationError, match="no replies"):
        ScriptedChatModel([])


def test_usage_is_one_for_all_or_one_per_reply():
    """A reply's own usage wins; None reports none."""
    own = {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18}

    def entry(replies: Any, usage: Any) -> list[Any]:
        model = ScriptedChatModel(replies, usage=usage)
        got = [model.invoke("").usage_metadata for _ in replies]
        return [u and (u["input_tokens"], u["output_tokens"], u["total_tokens"]) for u in got]

    assert entry(["a", AIMessage("b", usage_metadata=own)], (1, 2)) == [(1, 2, 3), (9, 9, 18)]
    assert entry(["a", "b"], [(1, 2), None]) == [(1, 2, 3), None]
    assert entry(["a"], None) == [None]


def test_tools_and_arguments_are_remembered_and_change_nothing():
    """`bind_tools`, `tool_choice`, `stop` and other arguments can be looked at."""
    model = ScriptedChatModel("x", loop=True)
    model.bind_tools([look], tool_choice="look").invoke("", stop=["."], temperature=0.1)
    model.invoke("")
    assert [[t["function"]["name"] for t in tools] for tools in model.offered] == [["look"], []]
    assert model.options == [{"tool_choice": "look", "stop": ["."], "temperature": 0.1}, {}]
    assert model.get_num_tokens_from_messages([HumanMessage("a b"), HumanMessage("c")]) == 3


CUT = AIMessage(
    "so",
    invalid_tool_calls=[{"name": "look", "args": '{"where": "he', "id": "1", "error": None}],
    tool_calls=[{"name": "look", "args": {"where": "x"}, "id": "0"}],
)


async def test_with_streams_it_streams_as_a_provider_does():
    """In pieces; a cut call is raw text, which LangChain repairs when it adds the pieces up."""
    model = ScriptedChatModel(["one two", "one two", CUT], streams=True, usage=(1, 2), delay=0.001)
    assert [c.text for c in model.stream("")][:2] == ["one", " two"]
    assert "".join([c.text async for c in model.astream("")]) == "one two"
    chunks = list(model.stream(""))
    full = chunks[0]
    for chunk in chunks[1:]:
        full = full + chunk
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
    model = CascadeChatModel(
        small=ScriptedChatModel("a", loop=True),
        large=ScriptedChatModel("b", loop=True),
        validators=[always_fail(score=0.1)],
        journal=journal,
    )
    model.invoke("hi")
    assert [a.answer["text"] for a in journal.traces[0].attempts] == ["a", "b"]
    assert [t.outcome for t in journal] == ["exhausted"]
    assert len(journal) == 1
    journal.clear()
    assert not list(journal)
