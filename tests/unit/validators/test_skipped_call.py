"""Tests of SkippedCall: turns that end in words where a call was due, and answers that need none."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from cascade_agent.core.records import Draft, StepContext, Verdict
from cascade_agent.models.tool_spec import tool_specs
from cascade_agent.validators.skipped_call import SkippedCall


def tool(name: str, *parameters: str) -> dict[str, Any]:
    """A tool in the format of OpenAI whose parameters are strings."""
    schema = {"type": "object", "properties": {p: {"type": "string"} for p in parameters}, "required": [*parameters]}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": schema}}


TOOLS = tool_specs(
    [
        tool("find_flights", "origin", "destination", "date"),
        tool("book_flight", "flight_id", "passengers"),
        tool("convert_currency", "amount", "target"),
        tool("book_room", "city", "date"),
        tool("list_files", "path"),
        tool("read_file", "path"),
        tool("delete_file", "path"),
        tool("set_light", "room", "level"),
    ]
)


def turn(user: str, call: tuple[str, dict[str, Any]] | None = None, result: str = "ok", text: str = "Done.") -> Any:
    """Messages of a finished user turn."""
    if call is None:
        return [HumanMessage(user), AIMessage(text)]
    made = AIMessage("", tool_calls=[{"name": call[0], "args": call[1], "id": "1"}])
    return [HumanMessage(user), made, ToolMessage(result, tool_call_id="1"), AIMessage(text)]


FLIGHTS = turn(
    "Find me a flight from Oslo to Rome on 3 May 2027.",
    ("find_flights", {"origin": "Oslo", "destination": "Rome", "date": "2027-05-03"}),
    '[{"id": "FR12", "price": 310, "currency": "NOK"}, {"id": "SK4", "price": 520, "currency": "NOK"}]',
    "There are two: FR12 for 310 NOK and SK4 for 520 NOK. Shall I book one of them?",
)
FILES = turn("What is in reports?", ("list_files", {"path": "reports"}), '["q1.txt", "old.tmp"]', "q1.txt and old.tmp.")
LAMP = turn("Switch the lamp on.", ("set_light", {"room": "kitchen", "level": "100"}), "ok", "The lamp is on.")
LAMP_ZH = turn("打开厨房的灯。", ("set_light", {"room": "kitchen", "level": "100"}), "ok", "厨房的灯已打开。")
ROOM = turn("Book me a room.", text="Which city?")
ORDER_DE = turn("Wo ist meine Bestellung?", ("read_file", {"path": "orders"}), "unterwegs", "Sie ist unterwegs.")


def judge(history: list[BaseMessage], user: str, text: str, *, tools: Any = TOOLS) -> Verdict | None:
    """Judge a text as the answer to a user turn after a history."""
    context = StepContext(messages=[*history, HumanMessage(user)], tools=tools)
    return SkippedCall()(Draft(message=AIMessage(text)), context)


SKIPPED = {
    "a supplied value": (ROOM, "Berlin, 3 May 2027.", "Done."),
    "a supplied value, Spanish": (ROOM, "Madrid, el 3 de mayo.", "Hecho."),
    "a claim to have acted": (FLIGHTS, "Yes, the first one, for two people.", "Your flight is booked."),
    "a claim in German": (FLIGHTS, "Ja, den ersten, für zwei Personen.", "Ihr Flug ist gebucht."),
    "a claim and a courtesy": (FLIGHTS, "Yes, FR12 please.", "It is booked. Is there anything else I can do?"),
    "a tool's own word": (FILES, "Delete the temporary one.", "I have deleted old.tmp."),
    "a claim that echoes the request": (ORDER_DE, "Dann storniere sie bitte.", "Sie wurde storniert."),
    "a new value, Chinese": (LAMP_ZH, "调到40%。", "好的,已调到40%。"),
    "an invented content": (FILES, "What does q1.txt say?", "It says that sales went up."),
}
ANNOUNCED = {
    "announces": (FLIGHTS, "Yes, the first one.", "Let me do that."),
    "asks to wait": (FILES, "Delete the temporary one.", "One moment please."),
    "announces in the first turn": ([], "What is in reports?", "I'll look that up for you."),
    "announces in Japanese": (LAMP, "40%にして。", "はい、調整いたします。"),
}
INVENTED = {"a figure": (FLIGHTS, "And what is the first one in euros?", "About 27 euros.")}
FOUND = {
    name: (case, code)
    for code, cases in (("call_skipped", SKIPPED), ("call_announced", ANNOUNCED), ("figure_unsupported", INVENTED))
    for name, case in cases.items()
}
KEPT = {
    "thanks": (FILES, "Thanks, that's all.", "You're welcome. Have a good day!"),
    "thanks in German": (FILES, "Danke, das war alles.", "Gern geschehen!"),
    "thanks in Chinese": (LAMP_ZH, "谢谢!", "不客气!"),
    "a withdrawal": (FLIGHTS, "No, leave it for now.", "All right, I have booked nothing."),
    "a withdrawal in German": (FLIGHTS, "Nein, lass es erst mal.", "Alles klar, ich buche nichts."),
    "the history answers": (FLIGHTS, "Which of the two is cheaper?", "FR12, at 310 NOK."),
    "a sum of known figures": (FLIGHTS, "How much more is the second?", "It costs 210 NOK more."),
    "a count of what is known": (FILES, "How many files is that?", "Two."),
    "small talk": (FILES, "Are you a human?", "No, I am an automated assistant."),
    "asks back": (ROOM, "Somewhere warm.", "Which city, and for which night?"),
    "asks back in Japanese": (LAMP, "もう少し暗く。", "どのくらいにしますか。"),
    "nothing that a tool could do": (FLIGHTS, "Why so expensive?", "I cannot see the reason for the price."),
    "a long request that no tool serves": (FILES, "Please write an e-mail to my whole team. " * 6, "Done."),
    "an explanation": (FLIGHTS, "Tell me about FR12.", "FR12 is the cheaper of the two flights. " * 4),
    "an acknowledgement": (FILES, "ok", "Let me know if you need anything else."),
}


@pytest.mark.parametrize("case", FOUND)
def test_skipped_work_fails_softly(case: str) -> None:
    """A later turn that ends in words where a call was due is a soft fail at the text."""
    (history, user, text), code = FOUND[case]
    verdict = judge(history, user, text)
    assert (verdict.outcome, verdict.code, verdict.path, verdict.hard) == ("fail", code, "/text", False)
    assert text not in verdict.reason


@pytest.mark.parametrize("case", KEPT)
def test_a_right_answer_is_kept(case: str) -> None:
    """Small talk, a question that the history answers, a withdrawal and a question back need no call."""
    assert judge(*KEPT[case]) is None


def test_after_calls_of_this_turn_and_the_last() -> None:
    """After a call any text may end a turn but an announcement; a second turn without one is not kept."""
    acted = [*FILES, *turn("Delete old.tmp", ("delete_file", {"path": "old.tmp"}))[:3]]
    context = StepContext(messages=acted, tools=TOOLS)
    for text, found in (("Deleted.", False), ("Please hold on.", False), ("I'll read the other one.", True)):
        assert (SkippedCall()(Draft(message=AIMessage(text)), context) is not None) is found
    long = "Please write an e-mail to my whole team. " * 6
    assert judge(FILES, long, "Done.") is None
    assert judge([*FILES, HumanMessage(long), AIMessage("Done.")], long, "Done.") is not None


def test_where_it_is_silent() -> None:
    """Without tools, with calls, where calls are forbidden and for structured output nothing is found."""
    history, user, text = SKIPPED["a supplied value"]
    assert judge(history, user, text, tools=()) is None
    queried = [*history, HumanMessage(user)]
    for settings in ({"tool_choice": "none"}, {"output_schema": {"type": "object"}}):
        context = StepContext(messages=queried, tools=TOOLS, **settings)  # type: ignore[arg-type]
        assert SkippedCall()(Draft(message=AIMessage(text)), context) is None
    call = AIMessage(text, tool_calls=[{"name": "book_room", "args": {}, "id": "1"}])
    assert SkippedCall()(Draft(message=call), StepContext(messages=queried, tools=TOOLS)) is None
