"""Reading of a request by a stand-in: words and patterns in, goals out.

Only the text of the conversation is read; there is no list of tasks and no expected answer here. What the patterns
do not know is not understood, as the stand-ins' limits are meant to be plain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

Kind = Literal[
    "cancel", "address", "refund", "track", "delivered", "status", "paid", "items", "refunded", "count", "total",
    "difference", "policy", "delayed", "dearest", "find", "confirm",
]  # fmt: skip
Which = Literal["given", "latest", "all", "cheapest"]
Condition = Literal["not_shipped", "otherwise", "if_failed"]

ORDER: Final = re.compile(r"O-\d{4}(?!\d)")
EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NAME = re.compile(r"\b(?:my name is|this is|I am|I'm)\s+([A-Z][a-z]+ [A-Z][a-z]+)")
_MONEY = re.compile(r"(\d+(?:[.,]\d{1,2})?)\s*(?:euros?\b|eur\b|€)", re.IGNORECASE)
_ADDRESS = re.compile(r"\bto\s+((?:(?!\bto\b)[^,])+),\s*([^,]+),\s*([^,]+),\s*([A-Z]{2})\b")
_SENTENCE = re.compile(r"(?<=[.?!;？。])\s+|\n+")
_JOINT = re.compile(
    r",?\s+\b(?:and then|and|then)\b\s+(?=(?:tell|refund|cancel|where|when|what|read|change|confirm|track|how)\b)",
    re.IGNORECASE,
)
_DAYS = re.compile(r"last (\d+) days")

_ENGLISH: Final[tuple[tuple[Kind, str], ...]] = (
    ("policy", r"\b(policy|policies|warranty|rules? (on|for|about)|(goodwill|refund|return) rule)\b"),
    ("confirm", r"\b(read .* again|confirm)\b"),
    ("refunded", r"\bhow much (has|have|was|is)\b.*\brefunded\b"),
    ("find", r"\bwhich order\b.*\b(contains?|has|with)\b"),
    ("dearest", r"\bmost expensive\b"),
    ("delayed", r"\bwhich\b.*\b(delayed|late)\b"),
    ("count", r"\bhow many orders\b"),
    ("difference", r"\bdifference\b"),
    ("cancel", r"\bcancel\b"),
    ("address", r"\b(address|instead of the old|send .* to)\b"),
    ("refund", r"\b(refund|money back|pay back)\b"),
    ("total", r"\b(total|add up|sum of|in all)\b"),
    ("delivered", r"\bwhen was\b.*\bdelivered\b"),
    ("track", r"\b(where|track|arrives?|parcel)\b"),
    ("status", r"\bstatus\b"),
    ("paid", r"\b(did I pay|was paid|how much|cost)\b"),
    ("items", r"\b(which items|contents?|what is in)\b"),
)
_OTHERS: Final[tuple[tuple[Kind, str], ...]] = (
    ("total", r"\b(addiere|summe|insgesamt|suma|somme)\b"),
    ("cancel", r"\b(storniere?n?|annuler|annulez|cancelar|cancele)\b"),
    ("refund", r"\b(erstatten?|rembourser|reembolsar)\b"),
    ("track", r"\b(wo ist|wo sind|dónde|où est)\b"),
    ("paid", r"\b(cuánto pagué|wie viel|combien)\b"),
)
_REASONS: Final = (
    ("goodwill", r"\bgoodwill\b"),
    ("damaged", r"\b(damaged|broken|defective)\b"),
    ("wrong_item", r"\bwrong items?\b"),
    ("changed_mind", r"\b(changed my mind|don't want|no longer want)\b"),
    ("ordered_twice", r"\b(twice|by mistake again)\b"),
    ("too_slow", r"\b(too long|too slow)\b"),
)
_FOREIGN_REASONS: Final = (
    ("changed_mind", r"\b(changé d'avis|anders überlegt|cambiado de opinión)\b"),
    ("ordered_twice", r"\b(doppelt|deux fois|dos veces)\b"),
)
_STATUSES = ("processing", "shipped", "delivered", "cancelled")
_TOPICS = ("goodwill", "warranty", "return", "refund", "cancellation", "address", "shipping")
_NOT_SHIPPED = re.compile(r"\bif\b[^.]*\bnot\b[^.]*\bship|\bsi\b[^.]*\bpas\b[^.]*\bexpédi", re.IGNORECASE)
_IF_FAILED = re.compile(r"\bif (that|this|it) is not possible\b|\bif not possible\b", re.IGNORECASE)
_OTHERWISE = re.compile(r"\b(otherwise|if not,)", re.IGNORECASE)
_PRODUCT = re.compile(
    r"\b(?:contains? (?:the|an?)|(?:refund|return) the|the order with the)\s+([a-z]+(?: [a-z]+)?)\b(?! amount)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One thing the user wants."""

    kind: Kind
    orders: tuple[str, ...] = ()
    which: Which = "given"
    status: str | None = None
    product: str | None = None
    amount: str | None = None
    """A number as text, `all` (whatever is left), `paid` (what was paid) or `maximum` (what the rule allows)."""
    reason: str | None = None
    address: tuple[str, str, str, str] | None = None
    condition: Condition | None = None
    topic: str | None = None
    days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The goals of a user, and who they say they are."""

    goals: tuple[Goal, ...] = ()
    email: str | None = None
    name: str | None = None
    claims: bool = False
    """The user says that the e-mail address is their own."""


def read(turns: list[str], *, foreign: bool) -> Request:
    """Read the user's messages, oldest first; `foreign` says whether anything but English is understood."""
    last = turns[-1] if turns else ""
    goals = _goals(last, foreign=foreign)
    for earlier in reversed(turns[:-1]):  # "My email is ..." answers a question: the wish stands in an earlier turn
        if goals or not EMAIL.search(last):
            break
        goals = _goals(earlier, foreign=foreign)
    mentioned = [number for turn in turns[:-1] for number in ORDER.findall(turn)]
    if mentioned:
        goals = [
            replace(g, orders=(mentioned[-1],)) if not g.orders and g.which == "given" and g.kind != "policy" else g
            for g in goals
        ]
    text = "\n".join(turns)
    emails, names = EMAIL.findall(text), _NAME.findall(text)
    claims = re.search(r"\b([Mm]y e-?mail|I am|I'm|here)\b", text) is not None
    return Request(
        goals=tuple(goals),
        email=emails[-1].rstrip(".") if emails else None,
        name=names[-1] if names else None,
        claims=claims,
    )


def _goals(text: str, *, foreign: bool) -> list[Goal]:
    address = _ADDRESS.search(text)
    found = (address[1].strip(), address[2].strip(), address[3].strip(), address[4]) if address else None
    if address:
        text = text[: address.start()] + " to ADDRESS" + text[address.end() :]
    goals: list[Goal] = []
    for sentence in _SENTENCE.split(text):
        for clause in _JOINT.split(sentence):
            goal = _goal(clause, text, foreign=foreign)
            if goal is None:
                continue
            if goal.kind == "address":
                goal = replace(goal, address=found)
            if not goal.orders and goal.which == "given" and goals:
                goal = replace(
                    goal, orders=goals[-1].orders, which=goals[-1].which, status=goal.status or goals[-1].status
                )
            goals.append(goal)
    return _with_orders_from_elsewhere(goals, text)


def _with_orders_from_elsewhere(goals: list[Goal], text: str) -> list[Goal]:
    """A goal without an order takes the one that another sentence of the same message names."""
    named = ORDER.findall(text)
    return [
        replace(g, orders=(named[0],)) if named and not g.orders and g.which == "given" and g.kind != "policy" else g
        for g in goals
    ]


def _goal(clause: str, text: str, *, foreign: bool) -> Goal | None:
    lexicon: tuple[tuple[Kind, str], ...] = _ENGLISH + (_OTHERS if foreign else ())
    kind: Kind | None = next((kind for kind, pattern in lexicon if re.search(pattern, clause, re.IGNORECASE)), None)
    orders = tuple(dict.fromkeys(ORDER.findall(clause)))
    if kind is None:
        known = any(re.search(pattern, text, re.IGNORECASE) for _, pattern in lexicon)
        return Goal(kind="status", orders=orders) if orders and not known else None
    low = clause.lower()
    which = _which(low if ORDER.search(text) else text.lower()) if not orders else "given"
    status = next((s for s in _STATUSES if s in low), None) if which in ("all", "cheapest") or kind == "total" else None
    days = _DAYS.search(low)
    product = _PRODUCT.search(clause)
    amount = _amount(low, has_product=product is not None) if kind == "refund" else None
    return Goal(
        kind=kind,
        orders=orders,
        which="all" if kind in ("total", "count", "delayed", "dearest") and not orders else which,
        status=status,
        product=product[1].lower() if product and (kind == "find" or amount == "item") else None,
        amount=amount,
        reason=_reason(text, foreign=foreign),
        condition=_condition(clause),
        topic=next((t for t in _TOPICS if t in low), None) if kind == "policy" else None,
        days=int(days[1]) if days else None,
    )


def _which(low: str) -> Which:
    if "cheap" in low:
        return "cheapest"
    if re.search(r"\b(latest|last order|most recent|newest)\b", low):
        return "latest"
    return "all" if re.search(r"\b(all|every|each)\b.*\borders?\b", low) else "given"


def _amount(low: str, *, has_product: bool) -> str:
    money = _MONEY.search(low)
    if money:
        return money[1].replace(",", ".")
    if "highest" in low or "maximum" in low:
        return "maximum"
    if "was paid" in low:
        return "paid"
    return "item" if has_product else "all"


def _reason(text: str, *, foreign: bool) -> str | None:
    patterns = _REASONS + (_FOREIGN_REASONS if foreign else ())
    return next((reason for reason, pattern in patterns if re.search(pattern, text, re.IGNORECASE)), None)


def _condition(clause: str) -> Condition | None:
    if _OTHERWISE.search(clause):
        return "otherwise"
    if _IF_FAILED.search(clause):
        return "if_failed"
    return "not_shipped" if _NOT_SHIPPED.search(clause) else None
