"""Extraction: a document becomes a checked record; an invoice, a contract or a mail.

`extract` is a cascade whose validators look at the record: critical fields, sums, dates, and quotes that must stand in
the document. What a record still lacks then goes to `second_pass`, where the large model is asked for those fields
alone. `build_alone` is the same graph with one plain model in the first node and no second pass.
"""

from __future__ import annotations

import calendar
import json
import re
from datetime import date
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, Field

from cascade_agent import CascadeExhausted, Policy, Verdict, default_validators
from graphs.settings import Settings, SettingsNode, alone
from graphs.standins.models import standin_tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

    from cascade_agent import Draft, StepContext, Tier

    Step = Callable[[Any, Any], dict[str, Any]]

PROMPT: Final = """Read the user's document and record what it says with the one tool that fits its kind.
Dates are written as YYYY-MM-DD, amounts as numbers. In `quotes` give, for each date, amount and number that you record,
the piece of the document it comes from, word for word. Record nothing that the document does not say."""

AGAIN: Final = """A record of the user's document is wrong or incomplete in the fields that the tool asks for:
{findings}
Read the document again and record these fields, with the pieces of the document they come from, word for word."""

Date = Field(description="YYYY-MM-DD")
Quotes = Field(description="Name of a field -> the piece of the document it comes from, word for word")


class Item(BaseModel):
    """One line of an invoice."""

    description: str
    quantity: int
    unit_price: float
    amount: float


class Invoice(BaseModel):
    """Record an invoice."""

    number: str
    seller: str
    issued_on: str = Date
    due_on: str = Date
    items: list[Item]
    net: float
    tax: float
    total: float
    quotes: dict[str, str] = Quotes


class Contract(BaseModel):
    """Record a contract."""

    parties: list[str]
    starts_on: str = Date
    term_months: int
    notice_days: int
    monthly_fee: float
    quotes: dict[str, str] = Quotes


class Mail(BaseModel):
    """Record a mail of a customer."""

    sender: str
    received_on: str = Date
    order_number: str
    wish: str = Field(description="The sentence that says what the customer wants, word for word")
    answer_by: str = Date
    quotes: dict[str, str] = Quotes


KINDS: Final[dict[str, type[BaseModel]]] = {"invoice": Invoice, "contract": Contract, "mail": Mail}
SECOND: Final = "second_pass"
DATES: Final = frozenset({"issued_on", "due_on", "starts_on", "received_on", "answer_by"})
QUOTED: Final = DATES | {"number", "total", "term_months", "notice_days", "monthly_fee", "order_number"}
_MONTHS: Final = list(calendar.month_name)[1:]
_CENT: Final = 0.005


class ExtractionState(MessagesState):
    """The document as the last human message, its record as plain JSON, and what is still wrong with it."""

    kind: str
    record: dict[str, Any]
    findings: list[dict[str, str]]


# ---- rules ----------------------------------------------------------------------------------------------------------


def findings(kind: str, record: Mapping[str, Any], document: str) -> list[dict[str, str]]:
    """Return everything that is wrong with a record, as field, code and reason."""
    rules = (missing_fields, wrong_sums, false_quotes, wrong_dates)
    return [finding for rule in rules for finding in rule(kind, record, document)]


def missing_fields(kind: str, record: Mapping[str, Any], _document: str) -> Iterator[dict[str, str]]:
    """Yield each field of the kind that is absent or empty."""
    for name in KINDS[kind].model_fields:
        if name != "quotes" and record.get(name) in (None, "", []):
            yield _finding(name, "field_missing", "the record lacks it")


def wrong_sums(kind: str, record: Mapping[str, Any], _document: str) -> Iterator[dict[str, str]]:
    """Yield the amounts of an invoice that do not follow from the others."""
    if kind != "invoice":
        return
    try:
        items = record["items"]
        lines = [abs(item["quantity"] * item["unit_price"] - item["amount"]) < _CENT for item in items]
        net = abs(sum(item["amount"] for item in items) - record["net"]) < _CENT
        total = abs(record["net"] + record["tax"] - record["total"]) < _CENT
    except (KeyError, TypeError):  # the field itself is a finding of another rule
        return
    if not all(lines) or not net:
        yield _finding("items", "sum_wrong", "the lines do not add up to the net amount")
    if not total:
        for name in ("net", "tax", "total"):
            yield _finding(name, "sum_wrong", "net and tax do not add up to the total")


def false_quotes(kind: str, record: Mapping[str, Any], document: str) -> Iterator[dict[str, str]]:
    """Yield fields whose quote is absent or does not stand in the document; spaces and line ends do not count."""
    quotes = record.get("quotes")
    quotes = quotes if isinstance(quotes, dict) else {}
    source = _folded(document)
    for name in KINDS[kind].model_fields:
        quote = record.get("wish") if name == "wish" else quotes.get(name)
        if name not in QUOTED and name != "wish":
            continue
        if not isinstance(quote, str) or not quote.strip():
            yield _finding(name, "quote_missing", "no piece of the document is given for it")
        elif _folded(quote) not in source:
            yield _finding(name, "quote_not_in_source", "its quote does not stand in the document")


def wrong_dates(kind: str, record: Mapping[str, Any], _document: str) -> Iterator[dict[str, str]]:
    """Yield dates that are no date, that their quote does not hold, or that are out of order."""
    quotes = record.get("quotes")
    parsed: dict[str, date] = {}
    for name in sorted(DATES & KINDS[kind].model_fields.keys() & record.keys()):
        try:
            parsed[name] = date.fromisoformat(str(record[name]))
        except ValueError:
            yield _finding(name, "date_unreadable", "it is no date of the form YYYY-MM-DD")
            continue
        quote = quotes.get(name) if isinstance(quotes, dict) else None
        if isinstance(quote, str) and parsed[name] not in dates_in(quote):
            yield _finding(name, "date_not_in_quote", "its quote gives another date")
    for first, second in (("issued_on", "due_on"), ("received_on", "answer_by")):
        if first in parsed and second in parsed and parsed[second] < parsed[first]:
            yield _finding(second, "date_order", f"it lies before {first}")


def dates_in(text: str) -> set[date]:
    """Return the dates of a text, written as 2026-03-05, 05.03.2026 or 5 March 2026."""
    found = [(y, m, d) for y, m, d in re.findall(r"(\d{4})-(\d\d)-(\d\d)", text)]
    found += [(y, m, d) for d, m, y in re.findall(r"(\d\d?)\.(\d\d?)\.(\d{4})", text)]
    words = re.findall(rf"(\d\d?) ({'|'.join(_MONTHS)}) (\d{{4}})", text)
    found += [(y, str(_MONTHS.index(m) + 1), d) for d, m, y in words]
    dates = set()
    for year, month, day in found:
        try:
            dates.add(date(int(year), int(month), int(day)))
        except ValueError:
            continue
    return dates


def _finding(name: str, code: str, reason: str) -> dict[str, str]:
    return {"field": name, "code": code, "reason": reason}


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


# ---- validators -----------------------------------------------------------------------------------------------------


def critical_fields(draft: Draft, context: StepContext) -> Verdict | None:
    """Fail a record that lacks a field."""
    return _first(missing_fields, draft, context)


def sums_add_up(draft: Draft, context: StepContext) -> Verdict | None:
    """Fail an invoice whose amounts contradict each other."""
    return _first(wrong_sums, draft, context)


def quotes_stand(draft: Draft, context: StepContext) -> Verdict | None:
    """Fail a record that quotes what the document does not say."""
    return _first(false_quotes, draft, context)


def dates_parse(draft: Draft, context: StepContext) -> Verdict | None:
    """Fail a record with a date that is none, or another one than the document's."""
    return _first(wrong_dates, draft, context)


def _first(rule: Callable[..., Iterator[dict[str, str]]], draft: Draft, context: StepContext) -> Verdict | None:
    kind, record = recorded(draft.message)
    if kind is None:
        return None
    wanted = _wanted(context)
    found = (f for f in rule(kind, record, document_of(context.messages)) if wanted is None or f["field"] in wanted)
    finding = next(found, None)
    if finding is None:
        return Verdict(outcome="pass")
    # A wrong record of large is the best there is: it is kept as doubtful, and the second pass asks for what is wrong.
    score = 0.2 if draft.tier == "large" else None
    path = f"/{finding['field']}"
    return Verdict(outcome="fail", code=finding["code"], reason=finding["reason"], path=path, score=score)


def _wanted(context: StepContext) -> set[str] | None:
    """Return the fields that a second pass is about; None in the first pass, which is about all of them."""
    names = [name for name in context.tools_by_name if name.endswith("_fields")]
    if not names:
        return None
    return set(context.tools_by_name[names[0]].parameters.get("properties", {}))


class LargeOnly:
    """Sends a second pass to the large model alone: the record that was accepted or returned before is wrong."""

    name, stage = "LargeOnly", "context"  # judged before the small model is called

    def __call__(self, draft: Draft | None, context: StepContext) -> Verdict | None:
        """Object to the small model in the second pass; both passes have it, so one calibrated policy fits both."""
        del draft
        if context.step != SECOND:
            return None
        return Verdict(outcome="fail", code="second_pass", reason="the record is wrong after the first pass")


def recorded(message: AIMessage) -> tuple[str | None, dict[str, Any]]:
    """Return kind and record of a model's call; None and {} where there is none."""
    for call in message.tool_calls:
        kind = call["name"].removeprefix("record_").removesuffix("_fields")
        if kind in KINDS:
            return kind, dict(call["args"])
    return None, {}


def document_of(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the last human message."""
    return next((str(m.text) for m in reversed(messages) if isinstance(m, HumanMessage)), "")


# ---- the graph ------------------------------------------------------------------------------------------------------


def build(
    small: BaseChatModel | Tier | str,
    large: BaseChatModel | Tier | str,
    *,
    policy: Policy | None = None,
    validators: Sequence[Any] | None = None,
    checkpointer: BaseCheckpointSaver[str] | None = None,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph; the last message of its state is the record as JSON, with what is still wrong under `open`.

    Args:
        small: the model that reads every document first.
        large: the model that reads where the small one's record is rejected, and what is wrong after that.
        policy: None is the default.
        validators: None is the default set and the rules of this file.
        checkpointer: where LangGraph keeps threads.
    """
    policy = policy or Policy()
    own = [*default_validators(), critical_fields, sums_add_up, quotes_stand, dates_parse]
    judges = [LargeOnly(), *(own if validators is None else validators)]
    first = SettingsNode(small, large, step=_extract, validators=judges, policy=policy, name="extract")
    again = SettingsNode(small, large, step=_second, validators=judges, policy=policy, name=SECOND)
    return _graph(first, again, checkpointer)


def build_alone(
    model: BaseChatModel, *, checkpointer: BaseCheckpointSaver[str] | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the first pass with one model and no cascade."""
    return _graph(alone(_extract, model, "extract"), None, checkpointer)


def _graph(
    first: Any, again: Any, checkpointer: BaseCheckpointSaver[str] | None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    builder = StateGraph(ExtractionState, context_schema=Settings)
    builder.add_node("extract", first)
    builder.add_node("answer", _answer)
    builder.add_edge(START, "extract")
    if again is None:
        builder.add_edge("extract", "answer")
    else:
        builder.add_node("second_pass", again)
        builder.add_conditional_edges("extract", lambda s: "second_pass" if s["findings"] else "answer")
        builder.add_edge("second_pass", "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=checkpointer)


def _extract(state: ExtractionState, model: Any) -> dict[str, Any]:
    offered = model.bind_tools([_tool(kind) for kind in KINDS], tool_choice="required")
    kind, record = recorded(offered.invoke([SystemMessage(PROMPT), *state["messages"][-1:]]))
    return _checked(state, kind, record)


def _second(state: ExtractionState, model: Any) -> dict[str, Any]:
    if not state["kind"]:
        return _extract(state, model)
    names = list(dict.fromkeys(finding["field"] for finding in state["findings"]))
    lines = "\n".join(f"- {f['field']}: {f['reason']}" for f in state["findings"])
    tool = _tool(state["kind"], names)
    prompt = SystemMessage(AGAIN.format(findings=lines))
    try:
        reply = model.bind_tools([tool], tool_choice="required").invoke([prompt, *state["messages"][-1:]])
    except CascadeExhausted:  # the record of the first pass stands, with what is wrong with it
        return {}
    _, fields = recorded(reply)
    before = state["record"]
    quotes = {**(before.get("quotes") or {}), **(fields.pop("quotes", None) or {})}
    return _checked(state, state["kind"], {**before, **fields, "quotes": quotes})


def _checked(state: ExtractionState, kind: str | None, record: dict[str, Any]) -> dict[str, Any]:
    if kind is None:
        nothing = _finding("", "no_record", "no model recorded the document")
        return {"kind": "", "record": {}, "findings": [nothing]}
    return {"kind": kind, "record": record, "findings": findings(kind, record, document_of(state["messages"]))}


def _tool(kind: str, fields: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the tool that records a kind of document, or some fields of it."""
    schema = KINDS[kind].model_json_schema()
    name = f"record_{kind}"
    if fields is not None:
        name = f"{name}_fields"
        kept = [*fields, "quotes"]
        schema = {**schema, "required": kept, "properties": {key: schema["properties"][key] for key in kept}}
    description = schema.pop("description", "")
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _answer(state: ExtractionState) -> dict[str, Any]:
    answer = {"kind": state["kind"], **state["record"], "open": state["findings"]}
    return {"messages": [AIMessage(json.dumps(answer, ensure_ascii=False))]}


graph = build(*standin_tiers())
"""For `langgraph.json`: offline stand-ins."""
