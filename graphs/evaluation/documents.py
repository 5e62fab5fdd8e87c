"""Documents for the extraction graph, made here with the records that are right; no document was taken from anywhere.

The contents follow from the number of a document alone, so they are the same on every machine. The stand-in models
never see this file: they are given the text only.
"""

from __future__ import annotations

import calendar
import hashlib
from datetime import date, timedelta
from functools import cache
from typing import Any

from graphs.evaluation.tasks import Task

_SELLERS = ("Nordlicht Papier", "Velox Office Ltd", "Atelier Dubois", "Harbour Tools Inc", "Blue Mill Coffee")
_BUYERS = ("Oak Street Studio", "Mill Lane Dental", "Station Road Books", "River Walk Hotel")
_GOODS = (("desk lamp", 3490), ("office chair", 18900), ("webcam", 5990), ("usb hub", 1995), ("wall clock", 2390))
_PEOPLE = ("Maria Lopez", "Aiko Tanaka", "Omar Haddad", "Lena Fischer", "Noah Martin", "Chloe Dubois")
_WISHES = (
    "Please send me a new lamp.", "I would like my money back.", "Please change the address to 4 Mill Lane.",
    "Could you tell me when the parcel will come?",
)  # fmt: skip


@cache
def extraction_tasks() -> tuple[Task, ...]:
    """Return 30 documents with their records: 12 invoices, 9 contracts, 9 mails."""
    made = [("invoice", _invoice(n)) for n in range(12)]
    made += [("contract", _contract(n)) for n in range(9)] + [("mail", _mail(n)) for n in range(9)]
    counts = {"invoice": 0, "contract": 0, "mail": 0}
    tasks = []
    for kind, (text, record) in made:
        counts[kind] += 1
        name = f"{kind}_{counts[kind]}"
        tasks.append(
            Task(id=name, graph="extraction", kind=kind, language="en", turns=(text,), record={"kind": kind, **record})
        )
    return tuple(tasks)


def _below(n: int, *key: object) -> int:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % n


def _day(*key: object) -> date:
    return date(2026, 1, 1) + timedelta(days=_below(300, *key))


def _written(day: date, style: int) -> str:
    return (
        day.isoformat(),
        f"{day.day:02}.{day.month:02}.{day.year}",
        f"{day.day} {calendar.month_name[day.month]} {day.year}",
    )[style]


def _money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"


def _invoice(n: int) -> tuple[str, dict[str, Any]]:
    style, issued = _below(3, "style", n), _day("invoice", n)
    due = issued + timedelta(days=(14, 30)[_below(2, "due", n)])
    items = []
    for line in range(1 + _below(4, "lines", n)):
        goods, cents = _GOODS[(_below(5, "goods", n) + line) % len(_GOODS)]
        items.append((goods, 1 + _below(4, "quantity", n, line), cents))
    net = sum(quantity * cents for _, quantity, cents in items)
    tax = (net * 19 + 50) // 100
    number, seller = f"R-{4100 + 7 * n}", _SELLERS[n % len(_SELLERS)]
    lines = [
        f"  {quantity} x {goods:<14} {_money(cents):>10} {_money(quantity * cents):>12}"
        for goods, quantity, cents in items
    ]
    text = "\n".join(
        (
            f"{seller}\nto {_BUYERS[n % len(_BUYERS)]}\n\nINVOICE {number}\nDate: {_written(issued, style)}",
            f"Payable by: {_written(due, style)}\n",
            *lines,
            f"\n  Net   {_money(net)} EUR\n  VAT 19%   {_money(tax)} EUR\n  Total   {_money(net + tax)} EUR",
        )
    )
    rows = [
        {"description": goods, "quantity": quantity, "unit_price": cents / 100, "amount": quantity * cents / 100}
        for goods, quantity, cents in items
    ]
    dates = {"issued_on": issued.isoformat(), "due_on": due.isoformat()}
    amounts = {"net": net / 100, "tax": tax / 100, "total": (net + tax) / 100}
    return text, {"number": number, "seller": seller, **dates, "items": rows, **amounts}


def _contract(n: int) -> tuple[str, dict[str, Any]]:
    start, term, notice = _day("contract", n), 12 * (1 + _below(3, "term", n)), (30, 60, 90)[_below(3, "notice", n)]
    fee, parties = 9900 + 2500 * _below(40, "fee", n), [_SELLERS[n % 5], _BUYERS[(n + 1) % 4]]
    text = (
        f"SERVICE CONTRACT\n\nbetween {parties[0]} and {parties[1]}\n\n"
        f"1. This contract starts on {_written(start, _below(3, 'style', n))} and runs for {term} months.\n"
        f"2. It can be ended with {notice} days of notice to the end of the term.\n"
        f"3. The fee is {_money(fee)} EUR a month, due on the first day. Set-up for {_money(fee // 2)} EUR is waived.\n"
    )
    record = {"parties": parties, "starts_on": start.isoformat(), "term_months": term, "notice_days": notice}
    return text, {**record, "monthly_fee": fee / 100}


def _mail(n: int) -> tuple[str, dict[str, Any]]:
    received, style = _day("mail", n), _below(3, "style", n)
    by = received + timedelta(days=3 + _below(10, "by", n))
    number, wish, sender = f"O-{2001 + 11 * n}", _WISHES[n % len(_WISHES)], _PEOPLE[n % len(_PEOPLE)]
    text = (
        f"From: {sender}\nReceived: {_written(received, style)}\nSubject: my order\n\n"
        f"Hello,\nmy order {number} did not arrive as I had hoped. {wish}\n"
        f"I need an answer by {_written(by, style)}, since I travel after that.\n\nKind regards\n{sender}\n"
    )
    dates = {"received_on": received.isoformat(), "answer_by": by.isoformat()}
    return text, {"sender": sender, "order_number": number, "wish": wish, **dates}
