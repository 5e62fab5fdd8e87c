"""The extraction graph: what its rules see, the second pass on what failed, and its measured documents."""

from __future__ import annotations

import json
from datetime import date

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade_agent.journal.writer import read
from cascade_agent.testing import ScriptedChatModel
from graphs import extraction
from graphs.evaluation.documents import extraction_tasks

TASKS = extraction_tasks()
DOCUMENT = "From: Ana\nReceived: 2 March 2026\norder O-2001 hoped. Send a new one. I need an answer by 2026-03-09,"
MAIL = {
    "sender": "Ana", "received_on": "2026-03-02", "order_number": "O-2001", "wish": "Send a new  one.",
    "answer_by": "2026-03-09",
    "quotes": {"received_on": "Received: 2 March 2026", "order_number": "O-2001", "answer_by": "by 2026-03-09"},
}  # fmt: skip
ITEM = {"description": "lamp", "quantity": 2, "unit_price": 34.9, "amount": 69.8}
INVOICE = {"items": [ITEM], "net": 69.8, "tax": 13.26, "total": 83.06}


def call(record: dict, name: str = "record_mail") -> AIMessage:
    """A model's record."""
    return AIMessage("", tool_calls=[{"name": name, "args": record, "id": "1"}])


def test_records_and_dates():
    """A right record has no findings, spaces in a quote do not count; a day that no calendar has is none."""
    assert extraction.findings("mail", MAIL, DOCUMENT) == []
    text = "2026-03-05, 06.03.2026 and 7 March 2026, not 31.02.2026"
    assert extraction.dates_in(text) == {date(2026, 3, day) for day in (5, 6, 7)}


@pytest.mark.parametrize(
    ("rule", "kind", "changes", "found"),
    [
        ("missing_fields", "mail", {"sender": ""}, {("sender", "field_missing")}),
        ("false_quotes", "mail", {"wish": "Send two."}, {("wish", "quote_not_in_source")}),
        ("false_quotes", "mail", {"quotes": {**MAIL["quotes"], "order_number": " "}}, {("order_number", "quote_missing")}),
        ("wrong_dates", "mail", {"answer_by": "9 March"}, {("answer_by", "date_unreadable")}),
        ("wrong_dates", "mail", {"answer_by": "2026-03-10"}, {("answer_by", "date_not_in_quote")}),
        ("wrong_dates", "mail", {"received_on": "2026-03-12", "quotes": {}}, {("answer_by", "date_order")}),
        ("wrong_sums", "invoice", {**INVOICE}, set()),
        ("wrong_sums", "invoice", {**INVOICE, "total": 69.8}, {(n, "sum_wrong") for n in ("net", "tax", "total")}),
        ("wrong_sums", "invoice", {**INVOICE, "items": [{**ITEM, "quantity": 3}]}, {("items", "sum_wrong")}),
        ("wrong_sums", "invoice", {**INVOICE, "items": []}, {("items", "sum_wrong")}),
        ("wrong_sums", "invoice", {**INVOICE, "items": "none"}, set()),
    ],
)  # fmt: skip
def test_what_the_rules_find(rule, kind, changes, found):
    """Each rule names the field and what is wrong with it; what another rule is about is left to that."""
    record = {**MAIL, **changes} if kind == "mail" else changes
    findings = getattr(extraction, rule)(kind, record, DOCUMENT)
    assert {(finding["field"], finding["code"]) for finding in findings} == found


def test_only_what_failed_is_asked_for_again(tmp_path, monkeypatch):
    """Large's record lacks a field: the second pass offers that field alone, to large alone, and both are on record."""
    monkeypatch.setenv("CASCADE_JOURNAL", str(tmp_path / "j.jsonl"))
    wrong = {**MAIL, "answer_by": "2026-03-10"}
    mended = {"answer_by": "2026-03-09", "quotes": {"answer_by": "answer by 2026-03-09"}}
    small = ScriptedChatModel([call(wrong)], name="small")
    large = ScriptedChatModel([call(wrong), call(mended, "record_mail_fields")], name="large")
    state = extraction.build(small, large).invoke({"messages": [HumanMessage(DOCUMENT)]})
    assert json.loads(state["messages"][-1].text) == {
        "kind": "mail", **MAIL, "quotes": {**MAIL["quotes"], **mended["quotes"]}, "open": []
    }  # fmt: skip
    (tool,) = large.offered[1]
    assert set(tool["function"]["parameters"]["properties"]) == {"answer_by", "quotes"}
    first, second = read(tmp_path / "j.jsonl")
    assert (first.step, first.reason) == ("extract", "date_not_in_quote")
    assert (second.step, second.final_tier) == ("second_pass", "large")
    assert [attempt.outcome for attempt in second.attempts] == ["skipped", "accepted"]


@pytest.mark.parametrize("again", [call({"wish": "Send two.", "quotes": {}}, "record_mail_fields"), AIMessage("No.")])
def test_what_stays_wrong_is_named(again):
    """After a second pass that mends nothing the answer says what is still open; no model is called a third time."""
    wrong = {**MAIL, "wish": "Send two."}
    small, large = ScriptedChatModel([call(wrong)]), ScriptedChatModel([call(wrong), again])
    state = extraction.build(small, large).invoke({"messages": [HumanMessage(DOCUMENT)]})
    (finding,) = json.loads(state["messages"][-1].text)["open"]
    assert (finding["field"], finding["code"]) == ("wish", "quote_not_in_source")
    assert large.asked == 2


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_the_documents_can_be_read(task):
    """Every document, with its right record and quotes as the stand-in takes them, is free of findings."""
    record = {key: value for key, value in task.record.items() if key != "kind"}
    rules = (extraction.missing_fields, extraction.wrong_sums, extraction.wrong_dates)
    assert not [finding for rule in rules for finding in rule(task.kind, record, task.turns[0])]
    assert extraction.KINDS[task.kind].model_fields.keys() == {*record, "quotes"}
