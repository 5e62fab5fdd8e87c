"""The procedures of a stand-in for a goal: ask tools, look at the results, answer.

A procedure is re-run from the conversation at every step, so it keeps nothing; what it does not know yet it asks
for, and `Unread` tells its caller which call that is. Without results (a planner) it works with references to results
to come and stops where it would have to look into one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

if TYPE_CHECKING:
    from graphs.standins.reading import Goal, Request

TODAY: Final = date(2026, 3, 15)
"""As the system prompts of the graphs say."""

Args = dict[str, Any]

OUTAGE: Final = "did not answer"
"""Words of an error that may be gone when the call is made again."""


class Unread(Exception):
    """The next call: its result is not in the conversation."""

    def __init__(self, tool: str, args: Args) -> None:
        super().__init__(tool)
        self.tool = tool
        self.arguments = args


class Unknowable(Exception):
    """A plan cannot go on: what comes next depends on a result that is not there yet."""


class Ref:
    """A value inside a result to come, such as `${s1.tracking_number}`; nothing can be read from it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __getitem__(self, key: str | int) -> Ref:
        """A part of the value."""
        return Ref(f"{self.path}.{key}")

    def _unknowable(self, *_: object) -> NoReturn:
        raise Unknowable(self.path)

    replace = __bool__ = __iter__ = __len__ = __str__ = __format__ = __eq__ = __lt__ = __contains__ = _unknowable
    __hash__ = _unknowable


@dataclass(frozen=True, slots=True, kw_only=True)
class Skills:
    """The abilities of a stand-in. The small one lacks some of these, by its own limits and on some texts."""

    checks_owner: bool = True
    keeps_conditions: bool = True
    asks_when_ambiguous: bool = True
    adds_with_calculator: bool = True
    checks_dates: bool = True
    invents_numbers: bool = False
    wrong_sum: bool = False
    goals: int = 9
    """Number of goals of a request are kept in mind."""


class Asker(Protocol):
    """Gives the result of a call, or raises `Unread` or `Unknowable`. A failed call is `{"error": text}`.

    `fresh` wants what was read after the last action on the same order.
    """

    def __call__(self, tool: str, /, *, fresh: bool = False, **args: Any) -> Any:
        """Ask."""
        ...


_NO_NUMBER = "Which order is it? Please tell me the order number or the e-mail address of your account."
_NOTHING = "You're welcome. If there is anything else about an order, please tell me."


def solve(request: Request, ask: Asker, skills: Skills) -> str:
    """The answer to a request.

    Raises:
        Unread: a call has to be made first.
        Unknowable: (planning) the plan ends here.
    """
    if not request.goals:
        return _NOTHING
    desk = _Desk(request, ask, skills)
    return "\n".join(text for goal in request.goals[: skills.goals] if (text := desk.reach(goal)))


def failed(result: object) -> str | None:
    """The error text of a call that failed. A result to come is expected to succeed."""
    return str(result["error"]) if isinstance(result, Mapping) and "error" in result else None


class _Stop(Exception):
    """The goal cannot be reached; the text says why."""


def _stop(text: str) -> NoReturn:
    raise _Stop(text)


class _Desk:
    """The goals of one request, one after the other."""

    def __init__(self, request: Request, ask: Asker, skills: Skills) -> None:
        self._request = request
        self._asker = ask
        self._skills = skills
        self._found: list[str] = []
        self._condition_met = True
        self._went_well = True

    def reach(self, goal: Goal) -> str:
        """Carry out one goal and return the answer to it."""
        if goal.condition == "otherwise" and self._condition_met and self._skills.keeps_conditions:
            return ""
        if goal.condition == "if_failed" and self._went_well:
            return ""
        try:
            return str(getattr(self, goal.kind)(goal))  # the method that bears the name of the kind
        except _Stop as stop:
            self._went_well = False
            return str(stop)

    def _ask(self, tool: str, /, *, fresh: bool = False, **args: Any) -> Any:
        result = self._asker(tool, fresh=fresh, **args)
        if OUTAGE in (failed(result) or ""):
            _stop("Sorry, the orders cannot be read at the moment. Please try again later.")
        return result

    # ---- which orders ----

    def customer(self) -> Any:
        request = self._request
        if request.email:
            found = self._ask("get_customer", email=request.email)
            error = failed(found)
            if error:
                _stop(error)
            return found
        if request.name:
            people = self._ask("find_customers", name=request.name)["customers"]
            if not people:
                _stop("I cannot find your name. What is your e-mail address?")
            if len(people) > 1 and self._skills.asks_when_ambiguous:
                _stop("Several customers have this name. Which e-mail address is yours?")
            return people[0]
        _stop(_NO_NUMBER)

    def orders(self, goal: Goal) -> list[Any]:
        """Numbers of the orders that a goal is about."""
        if goal.orders:
            return list(goal.orders)
        if goal.which == "given":
            if self._found:
                return self._found[-1:]
            if self._skills.invents_numbers:
                return ["O-2000"]
            if not (self._request.email or self._request.name):
                _stop(_NO_NUMBER)
        listed = self.listed(goal)
        if goal.which == "all":
            numbers = [order["order_id"] for order in listed["orders"]]
        elif goal.which == "cheapest":
            cheap = sorted(listed["orders"], key=lambda order: Decimal(order["paid"]))
            numbers = [order["order_id"] for order in cheap[:1]]
        elif isinstance(listed, Ref):
            return [listed["orders"][0]["order_id"]]
        else:
            numbers = [order["order_id"] for order in listed["orders"][:1]]
        if not numbers:
            _stop("I found no such order.")
        return numbers

    def listed(self, goal: Goal) -> Any:
        customer = self.customer()
        args: Args = {"customer_id": customer["customer_id"]}
        if goal.status:
            args["status"] = goal.status
        return self._ask("list_orders", **args)

    def order(self, number: object, *, fresh: bool = False) -> Any:
        order = self._ask("get_order", fresh=fresh, order_id=number)
        error = failed(order)
        if error:
            _stop(error)
        return order

    def owned(self, goal: Goal, number: object) -> None:
        """Refuse to act on another customer's order."""
        request = self._request
        if not (goal.orders and request.email and request.claims and self._skills.checks_owner):
            return
        if self.order(number)["customer_id"] != self.customer()["customer_id"]:
            _stop(f"I cannot do that: order {number} does not belong to your account.")

    def may(self, goal: Goal, number: object) -> bool:
        """Return whether the condition of a goal holds."""
        self._condition_met = True
        if goal.condition == "not_shipped" and self._skills.keeps_conditions:
            self._condition_met = self.order(number)["status"] == "processing"
        return self._condition_met

    # ---- actions ----

    def cancel(self, goal: Goal) -> str:
        reason = goal.reason if goal.reason in ("changed_mind", "ordered_twice", "too_slow") else "other"
        return self._each(goal, lambda number: self._act("cancel_order", number, reason=reason))

    def address(self, goal: Goal) -> str:
        if goal.address is None:
            _stop("What is the new address (street, city, postal code, country)?")
        street, city, code, country = goal.address
        parts = {"street": street, "city": city, "postal_code": code, "country": country}
        return self._each(goal, lambda number: self._act("change_address", number, **parts))

    def refund(self, goal: Goal) -> str:
        def one(number: Any) -> str:
            if goal.days and self._skills.checks_dates and not self._recent(number, goal.days):
                return ""
            reason = goal.reason if goal.reason in ("damaged", "late", "wrong_item", "goodwill") else "changed_mind"
            return self._act("refund_order", number, amount=self._amount(goal, number), reason=reason)

        return self._each(goal, one)

    def _each(self, goal: Goal, act: Callable[[Any], str]) -> str:
        texts: list[str] = []
        for number in self.orders(goal):
            self.owned(goal, number)
            if not self.may(goal, number):
                continue
            try:
                texts.append(act(number))
            except _Stop as stop:
                self._went_well = False
                texts.append(str(stop))
        return "\n".join(text for text in texts if text)

    def _act(self, tool: str, number: Any, **args: Any) -> str:
        result = self._ask(tool, order_id=number, **args)
        error = failed(result)
        if error:
            _stop(f"Sorry, that is not possible. {error}")
        if isinstance(result, Ref):
            return ""
        if tool == "cancel_order":
            return f"Order {number} has been cancelled."
        if tool == "refund_order":
            return f"{result['refunded']} EUR has been refunded for order {number}."
        new = result["address"]
        return f"Order {number} now goes to {new['street']}, {new['city']}, {new['postal_code']}, {new['country']}."

    def _amount(self, goal: Goal, number: Any) -> Any:
        if goal.amount == "maximum":
            text = str(self._ask("get_policy", topic=goal.reason or "refunds")["text"])
            found = re.search(r"\d+\.\d\d", text)
            if found is None:
                _stop("The rule names no amount.")
            return float(found[0])
        if goal.amount == "paid":
            return _number(self.order(number)["paid"])
        if goal.amount == "all":
            order = self.order(number)
            return float(_money(order["paid"]) - _money(order["refunded"]))
        if goal.amount == "item":
            items = [i for i in self.order(number)["items"] if goal.product and goal.product in i["product"]]
            if not items:
                _stop(f"I cannot find that item in order {number}.")
            return _number(items[0]["unit_price"])
        return float(goal.amount or 0)

    def _recent(self, number: Any, days: int) -> bool:
        delivered = self._parcel(number)["delivered_on"]
        return delivered is not None and date.fromisoformat(str(delivered)) >= TODAY - timedelta(days=days)

    # ---- questions ----

    def _parcel(self, number: Any) -> Any:
        tracking = self.order(number)["tracking_number"]
        if not isinstance(tracking, Ref) and tracking is None:
            _stop(f"Order {number} has not been shipped yet.")
        return self._ask("track_shipment", tracking_number=tracking)

    def track(self, goal: Goal) -> str:
        numbers = self.orders(goal)
        parcels = [(number, self._parcel(number)) for number in numbers]
        return "\n".join(
            f"The parcel of order {number} is {p['status'].replace('_', ' ')}, last seen in {p['location']}, "
            f"expected on {p['expected_on']}."
            for number, p in parcels
        )

    def delivered(self, goal: Goal) -> str:
        number = self.orders(goal)[0]
        parcel = self._parcel(number)
        day = parcel["delivered_on"]
        return f"Order {number} was delivered on {day}." if day else f"Order {number} has not been delivered yet."

    def delayed(self, goal: Goal) -> str:
        listed = self._ask("list_orders", customer_id=self.customer()["customer_id"], status="shipped")
        late = [
            f"Order {order['order_id']} is delayed."
            for order in listed["orders"]
            if self._parcel(order["order_id"])["status"] == "delayed"
        ]
        del goal
        return "\n".join(late) or "None of your orders is delayed."

    def status(self, goal: Goal) -> str:
        number = self.orders(goal)[0]
        order = self.order(number)
        return f"Order {number} is {order['status']}."

    def paid(self, goal: Goal) -> str:
        number = self.orders(goal)[0]
        return f"{self.order(number)['paid']} EUR was paid for order {number}."

    def items(self, goal: Goal) -> str:
        number = self.orders(goal)[0]
        names = ", ".join(f"{i['quantity']} x {i['product']}" for i in self.order(number)["items"])
        return f"Order {number} contains {names}."

    def confirm(self, goal: Goal) -> str:
        number = self.orders(goal)[0]
        a = self.order(number, fresh=True)["address"]
        return f"Order {number} is addressed to {a['street']}, {a['city']}, {a['postal_code']}, {a['country']}."

    def refunded(self, goal: Goal) -> str:
        number = self.orders(goal)[0]
        return f"{self.order(number, fresh=True)['refunded']} EUR has been refunded for order {number} in total."

    def count(self, goal: Goal) -> str:
        if goal.orders:
            listed = self._ask("list_orders", customer_id=self.order(goal.orders[0])["customer_id"])
        else:
            listed = self.listed(goal)
        return f"There are {len(listed['orders'])} orders."

    def dearest(self, goal: Goal) -> str:
        orders = self.listed(goal)["orders"]
        if not orders:
            _stop("I found no order.")
        top = max(orders, key=lambda order: Decimal(order["paid"]))
        return f"The most expensive order is {top['order_id']} with {top['paid']} EUR."

    def find(self, goal: Goal) -> str:
        result = self._ask("search_orders", product=goal.product or "", customer_id=self.customer()["customer_id"])
        orders = result["orders"]
        if not orders:
            _stop(f"I found no order with {goal.product}.")
        self._found.append(orders[0]["order_id"])
        return f"Order {orders[0]['order_id']} contains the {goal.product}."

    def total(self, goal: Goal) -> str:
        if goal.orders:
            read = [self.order(number) for number in goal.orders]
            amounts = [order["paid"] for order in read]
        else:
            amounts = [order["paid"] for order in self.listed(goal)["orders"]]
        return f"The total is {self._sum(amounts, '+')} EUR."

    def difference(self, goal: Goal) -> str:
        read = [self.order(number) for number in goal.orders]
        amounts = sorted((_money(order["paid"]) for order in read), reverse=True)
        return f"The difference is {self._sum([str(amount) for amount in amounts], '-')} EUR."

    def _sum(self, amounts: list[str], sign: str) -> str:
        if not self._skills.adds_with_calculator or len(amounts) < 2:
            values = [_money(amount) for amount in amounts]
            total = sum(values[:1], Decimal(0)) + (1 if sign == "+" else -1) * sum(values[1:], Decimal(0))
            return f"{total + (10 if self._skills.wrong_sum else 0):.2f}"
        return str(self._ask("calculate", expression=f" {sign} ".join(map(str, amounts)))["result"])

    def policy(self, goal: Goal) -> str:
        topics = {"return": "returns", "refund": "refunds"}
        topic = goal.topic or "returns"
        return str(self._ask("get_policy", topic=topics.get(topic, topic))["text"])


def _money(value: Any) -> Decimal:
    if isinstance(value, Ref):
        raise Unknowable(value.path)
    try:
        return Decimal(str(value))
    except InvalidOperation as error:
        msg = "I could not read an amount."
        raise _Stop(msg) from error


def _number(value: Any) -> Any:
    return value if isinstance(value, Ref) else float(_money(value))
