"""Reading of a document by a stand-in: patterns in, fields out, and the faults of the small one.

The shares of the faults are made up and depend on the text alone; nothing here was measured on a model.
"""

from __future__ import annotations

import calendar
import re
from datetime import date
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from graphs.standins.view import View

_MONTHS: Final[list[str]] = list(calendar.month_name)[1:]
_DATE = rf"\d{{4}}-\d\d-\d\d|\d\d?\.\d\d?\.\d{{4}}|\d\d? (?:{'|'.join(_MONTHS)}) \d{{4}}"
_MONEY = r"[\d,]+\.\d\d"
_LINE = re.compile(rf"^\s*(\d+) x (.+?)\s+({_MONEY})\s+({_MONEY})\s*$", re.MULTILINE)
_FIELDS: Final[dict[str, dict[str, str]]] = {
    "invoice": {
        "number": r"INVOICE (R-\d+)", "issued_on": rf"Date: ({_DATE})", "due_on": rf"Payable by: ({_DATE})",
        "net": rf"Net\s+({_MONEY}) EUR", "tax": rf"VAT 19%\s+({_MONEY}) EUR", "total": rf"Total\s+({_MONEY}) EUR",
        "seller": r"\A(.+)",
    },
    "contract": {
        "starts_on": rf"starts on ({_DATE})", "term_months": r"runs for (\d+) months",
        "notice_days": r"with (\d+) days of notice", "monthly_fee": rf"fee is ({_MONEY}) EUR a month",
    },
    "mail": {
        "sender": r"From: (.+)", "received_on": rf"Received: ({_DATE})", "order_number": r"order (O-\d+)",
        "answer_by": rf"answer by ({_DATE})", "wish": r"hoped\. (.+)",
    },
}  # fmt: skip
"""Where a field stands in a document, by its words; the whole match is its quote."""


def record_tool(view: View) -> str | None:
    """Return the offered tool that records the document of a view, if there is one."""
    return next((name for name in view.tools if name == f"record_{_kind(view)}" or name.endswith("_fields")), None)


def read_document(view: View, tool: str, *, small: bool) -> dict[str, Any]:
    """Return the arguments of the tool: the fields it asks for, as this stand-in reads them."""
    kind, text = _kind(view), view.turns[-1]
    wanted = set(view.tools[tool].get("properties", ()))
    record: dict[str, Any] = {}
    quotes: dict[str, str] = {}
    for name, pattern in _FIELDS[kind].items():
        match = re.search(pattern, text)
        if match and name in wanted:
            record[name] = _value(name, match[1])
            quotes[name] = match[0]
    if "items" in wanted:
        record["items"] = [
            {"description": m[2], "quantity": int(m[1]), "unit_price": _amount(m[3]), "amount": _amount(m[4])}
            for m in _LINE.finditer(text)
        ]
    between = re.search(r"between (.+) and (.+)", text)
    if "parties" in wanted and between:
        record["parties"] = [between[1], between[2]]
    record["quotes"] = quotes
    first_pass = not tool.endswith("_fields")
    if small:
        _err(record, text, view)
    elif first_pass and len(record.get("items", ())) > 2 and view.chance("long", text) < 0.6:
        record["items"] = record["items"][:-1]  # loses the end of a long list, until it is asked for that alone
    return record


def _err(record: dict[str, Any], text: str, view: View) -> None:
    """Make the faults of the small stand-in, the same on the same text."""
    quotes = record["quotes"]
    for name in [key for key in record if key in quotes]:
        luck = view.chance("field", name, text)
        if name.endswith(("_on", "_by")) and luck < 0.12:
            day = date.fromisoformat(record[name])
            record[name] = quotes[name].rpartition(": ")[2] if luck < 0.06 else day.replace(day=1).isoformat()
        elif luck > 0.96:
            quotes[name] = f"The {name.replace('_', ' ')} is {record[name]}."
        elif luck > 0.93:
            del record[name]
    if "monthly_fee" in record and view.chance("fee", text) < 0.15:
        record["monthly_fee"] = round(record["monthly_fee"] / 2, 2)
    if "total" in record and view.chance("total", text) < 0.15:
        record["total"] = record.get("net")
    if len(record.get("items", ())) > 1 and view.chance("items", text) < 0.3:
        record["items"] = record["items"][:-1]


def _kind(view: View) -> str:
    text = view.turns[-1] if view.turns else ""
    return "invoice" if "INVOICE" in text else "contract" if "CONTRACT" in text else "mail"


def _value(name: str, text: str) -> Any:
    if name.endswith(("_on", "_by")):
        return _iso(text)
    if name in ("term_months", "notice_days"):
        return int(text)
    return _amount(text) if re.fullmatch(_MONEY, text) else text.strip()


def _amount(text: str) -> float:
    return float(text.replace(",", ""))


def _iso(text: str) -> str:
    if "." in text:
        day, month, year = text.split(".")
        return f"{year}-{int(month):02}-{int(day):02}"
    if " " in text:
        day, word, year = text.split(" ")
        return f"{year}-{_MONTHS.index(word) + 1:02}-{int(day):02}"
    return text
