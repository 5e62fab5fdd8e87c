"""The order desk as LangChain tools: look-ups, address change, cancel and refund over an `OrderDatabase`.

SQL is constant text with parameters; a rule of the shop that forbids something is a `ToolException`, which reaches
the model as a message with status `error` and leaves the database as it was.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sqlite3
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

from langchain_core.tools import BaseTool, StructuredTool, ToolException, create_schema_from_function
from pydantic import Field

from tools.calculator import calculator_tool, explain
from tools.database import MAX_ROWS, TODAY, OrderDatabase, Row

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE_EFFECTS: Final[dict[str, Literal["read", "write", "irreversible"]]] = {
    "get_order": "read",
    "get_customer": "read",
    "find_customers": "read",
    "list_orders": "read",
    "search_orders": "read",
    "track_shipment": "read",
    "get_policy": "read",
    "calculate": "read",
    "change_address": "write",
    "cancel_order": "irreversible",
    "refund_order": "irreversible",
}
"""The effect of each tool on the world; the value of `Policy(side_effects=...)`."""

GOODWILL_CENTS: Final = 2_000
RETURN_DAYS: Final = 30
FAULT_DAYS: Final = 90

OrderId = Annotated[str, Field(description="Order number such as O-2001", pattern=r"^O-\d{4}$")]
CustomerId = Annotated[str, Field(description="Customer number such as C-1001", pattern=r"^C-\d{4}$")]
TrackingNumber = Annotated[
    str, Field(description="Tracking number such as TR-700001, found in the order", pattern=r"^TR-\d{6}$")
]
Status = Annotated[
    Literal["processing", "shipped", "delivered", "cancelled", "any"], Field(description="Only orders in this status")
]
RefundReason = Annotated[
    Literal["damaged", "late", "wrong_item", "changed_mind", "goodwill"], Field(description="Why money is paid back")
]
CancelReason = Annotated[
    Literal["changed_mind", "ordered_twice", "too_slow", "other"], Field(description="Why the order is cancelled")
]
Topic = Annotated[
    Literal["returns", "refunds", "goodwill", "cancellation", "address", "shipping", "warranty"],
    Field(description="Which rule of the shop"),
]
Line = Annotated[str, Field(min_length=1, max_length=120)]


def _refuse(text: str) -> NoReturn:
    raise ToolException(text)


def _like(text: str) -> str:
    """The SQL pattern of what contains a text, in which no character has a meaning of its own."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text.strip()) + "%"


def euros(cents: int) -> str:
    """An amount in cents as text in euros, `1990` -> `19.90`."""
    return f"{Decimal(cents) / 100:.2f}"


class _Desk:
    """The tools' bodies; each public method is one tool and its docstring what the model reads."""

    def __init__(self, db: OrderDatabase) -> None:
        self._db = db

    def get_order(self, order_id: OrderId) -> dict[str, Any]:
        """Read one order: status, dates, items, amounts, shipping address, tracking number and refunds so far."""
        order = self._order(order_id)
        items = self._db.read("SELECT product, quantity, unit_cents FROM items WHERE order_id = ?", (order_id,))
        address = self._db.read(
            "SELECT street, city, postal_code, country FROM addresses WHERE order_id = ?", (order_id,)
        )
        shipment = self._db.read("SELECT tracking_number FROM shipments WHERE order_id = ?", (order_id,))
        found: dict[str, Any] = {
            **_order_json(order),
            "shipping_cost": euros(_int(order["shipping_cents"])),
            "refunded": euros(self._refunded(order_id)),
            "items": [
                {"product": i["product"], "quantity": i["quantity"], "unit_price": euros(_int(i["unit_cents"]))}
                for i in items
            ],
            "address": address[0],
            "tracking_number": shipment[0]["tracking_number"] if shipment else None,
        }
        if order["cancel_reason"] is not None:
            found["cancel_reason"] = order["cancel_reason"]
        return found

    def get_customer(
        self, email: Annotated[str, Field(description="The customer's e-mail address", pattern=r"^[^@\s]+@[^@\s]+$")]
    ) -> dict[str, Any]:
        """Find the customer with this e-mail address."""
        rows = self._db.read("SELECT id, name, email, level FROM customers WHERE email = ?", (email.strip().lower(),))
        if not rows:
            _refuse(f"There is no customer with the e-mail address {email}.")
        return _customer_json(rows[0])

    def find_customers(
        self, name: Annotated[str, Field(description="The name or a part of it", min_length=2, max_length=80)]
    ) -> dict[str, Any]:
        """Find customers by name; several people may carry the same name."""
        rows = self._db.read(
            "SELECT id, name, email, level FROM customers WHERE name LIKE ? ESCAPE '\\' ORDER BY id", (_like(name),)
        )
        return {"customers": [_customer_json(row) for row in rows]}

    def list_orders(self, customer_id: CustomerId, status: Status = "any") -> dict[str, Any]:
        """List a customer's orders, newest first, with status, date and amount paid."""
        if not self._db.read("SELECT id FROM customers WHERE id = ?", (customer_id,)):
            _refuse(f"There is no customer {customer_id}.")
        rows = self._db.read(
            "SELECT * FROM orders WHERE customer_id = ? AND (? = 'any' OR status = ?) ORDER BY placed_on DESC, id DESC",
            (customer_id, status, status),
            limit=MAX_ROWS + 1,
        )
        return {"orders": [_order_json(row) for row in rows[:MAX_ROWS]], "complete": len(rows) <= MAX_ROWS}

    def search_orders(
        self,
        product: Annotated[str, Field(description="A word of the product's name", min_length=2, max_length=80)],
        customer_id: Annotated[
            CustomerId | None, Field(description="Search only this customer's orders; null for all customers")
        ] = None,
    ) -> dict[str, Any]:
        """Find orders that contain a product, newest first."""
        rows = self._db.read(
            "SELECT orders.*, items.product, items.quantity, items.unit_cents FROM items "
            "JOIN orders ON orders.id = items.order_id "
            "WHERE items.product LIKE ? ESCAPE '\\' AND (? IS NULL OR orders.customer_id = ?) "
            "ORDER BY orders.placed_on DESC, orders.id DESC",
            (_like(product), customer_id, customer_id),
            limit=MAX_ROWS + 1,
        )
        orders = [
            {
                **_order_json(row),
                "product": row["product"],
                "quantity": row["quantity"],
                "unit_price": euros(_int(row["unit_cents"])),
            }
            for row in rows[:MAX_ROWS]
        ]
        return {"orders": orders, "complete": len(rows) <= MAX_ROWS}

    def track_shipment(self, tracking_number: TrackingNumber) -> dict[str, Any]:
        """Read where a parcel is: carrier, status, place, expected and actual day of delivery."""
        rows = self._db.read("SELECT * FROM shipments WHERE tracking_number = ?", (tracking_number,))
        if not rows:
            _refuse(f"There is no parcel {tracking_number}.")
        return dict(rows[0])

    def get_policy(self, topic: Topic) -> dict[str, Any]:
        """Read a rule of the shop."""
        return dict(self._db.read("SELECT topic, text FROM policies WHERE topic = ?", (topic,))[0])

    def change_address(
        self, order_id: OrderId, street: Line, city: Line, postal_code: Line, country: Line
    ) -> dict[str, Any]:
        """Change the shipping address of an order that is still processing. Country is a two-letter code such as DE."""
        code = country.strip().upper()
        if re.fullmatch("[A-Z]{2}", code) is None:
            _refuse(f"The country must be a two-letter code such as DE, not {country!r}.")
        with self._db.write() as connection:
            order = self._order(order_id)
            if order["status"] != "processing":
                _refuse(
                    f"Order {order_id} is {order['status']}: its address can only be changed while it is processing."
                )
            connection.execute(
                "UPDATE addresses SET street = ?, city = ?, postal_code = ?, country = ? WHERE order_id = ?",
                (street.strip(), city.strip(), postal_code.strip(), code, order_id),
            )
        address = {"street": street.strip(), "city": city.strip(), "postal_code": postal_code.strip(), "country": code}
        return {"order_id": order_id, "changed": True, "address": address}

    def cancel_order(self, order_id: OrderId, reason: CancelReason) -> dict[str, Any]:
        """Cancel an order that is still processing. This cannot be undone."""
        with self._db.write() as connection:
            order = self._order(order_id)
            if order["status"] != "processing":
                _refuse(f"Order {order_id} is {order['status']}: only an order that is processing can be cancelled.")
            connection.execute(
                "UPDATE orders SET status = 'cancelled', cancel_reason = ? WHERE id = ?", (reason, order_id)
            )
        return {"order_id": order_id, "status": "cancelled", "reason": reason}

    def refund_order(
        self,
        order_id: OrderId,
        amount: Annotated[float, Field(description="Amount in EUR, such as 19.90", gt=0, le=5000)],
        reason: RefundReason,
    ) -> dict[str, Any]:
        """Pay money back for a delivered or cancelled order. This cannot be undone."""
        value = Decimal(str(amount))
        if value != value.quantize(Decimal("0.01")):
            _refuse(f"An amount in EUR has at most 2 decimals, not {value}.")
        cents = int(value * 100)
        with self._db.write() as connection:
            self._may_refund(order_id, cents, reason)
            connection.execute(
                "INSERT INTO refunds (order_id, amount_cents, reason, refunded_on) VALUES (?, ?, ?, ?)",
                (order_id, cents, reason, TODAY.isoformat()),
            )
        return {"order_id": order_id, "refunded": euros(cents), "reason": reason}

    def _may_refund(self, order_id: str, cents: int, reason: str) -> None:
        order = self._order(order_id)
        if order["status"] not in ("delivered", "cancelled"):
            _refuse(f"Order {order_id} is {order['status']}: only a delivered or cancelled order can be refunded.")
        left = _int(order["paid_cents"]) - self._refunded(order_id)
        if cents > left:
            _refuse(f"At most {euros(left)} EUR can still be refunded for order {order_id}.")
        if reason == "goodwill" and cents > GOODWILL_CENTS:
            _refuse(f"A goodwill refund is at most {euros(GOODWILL_CENTS)} EUR.")
        if order["status"] == "delivered":
            rows = self._db.read("SELECT delivered_on FROM shipments WHERE order_id = ?", (order_id,))
            age = (TODAY - date.fromisoformat(str(rows[0]["delivered_on"]))).days
            allowed = FAULT_DAYS if reason in ("damaged", "wrong_item") else RETURN_DAYS
            if age > allowed:
                _refuse(
                    f"Order {order_id} was delivered {age} days ago: a {reason} refund is possible for {allowed} days."
                )

    def _order(self, order_id: str) -> Row:
        rows = self._db.read("SELECT * FROM orders WHERE id = ?", (order_id,))
        if not rows:
            _refuse(f"There is no order {order_id}.")
        return rows[0]

    def _refunded(self, order_id: str) -> int:
        rows = self._db.read(
            "SELECT COALESCE(SUM(amount_cents), 0) AS cents FROM refunds WHERE order_id = ?", (order_id,)
        )
        return _int(rows[0]["cents"])


def _int(value: object) -> int:
    return int(str(value))


def _order_json(row: Row) -> dict[str, Any]:
    return {
        "order_id": row["id"],
        "customer_id": row["customer_id"],
        "status": row["status"],
        "placed_on": row["placed_on"],
        "paid": euros(_int(row["paid_cents"])),
    }


def _customer_json(row: Row) -> dict[str, Any]:
    return {"customer_id": row["id"], "name": row["name"], "email": row["email"], "level": row["level"]}


@functools.cache
def _arguments(name: str) -> Any:
    """The model of a tool's arguments, built once for all databases."""
    return create_schema_from_function(name, getattr(_Desk, name), parse_docstring=False)


def _tool(body: Callable[..., dict[str, Any]]) -> BaseTool:
    """One method as a tool; asynchronous callers get a thread, so SQLite never blocks their loop."""

    @functools.wraps(body)
    def run(**kwargs: Any) -> dict[str, Any]:
        try:
            return body(**kwargs)
        except sqlite3.OperationalError as error:
            msg = "The order database did not answer in time; try again, or tell the user that it cannot be read now."
            raise ToolException(msg) from error

    async def arun(**kwargs: Any) -> dict[str, Any]:
        return await asyncio.to_thread(run, **kwargs)

    return StructuredTool.from_function(
        run,
        arun,
        args_schema=_arguments(body.__name__),
        infer_schema=False,
        handle_tool_error=True,
        handle_validation_error=explain,
    )


def order_tools(db: OrderDatabase) -> list[BaseTool]:
    """All tools of the desk over one database, the calculator among them, in a fixed order."""
    desk = _Desk(db)
    return [*(_tool(getattr(desk, name)) for name in SIDE_EFFECTS if name != "calculate"), calculator_tool()]
