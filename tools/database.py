"""The order database of the example shop: schema, contents and connections.

The contents are a pure function of this file (no clock, no `random`), so every fresh database is equal row by row.
"""

from __future__ import annotations

import atexit
import sqlite3
import threading
import time
import weakref
from contextlib import contextmanager
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Value = str | int | None
Row = dict[str, Value]
Snapshot = dict[str, dict[str, Row]]

TODAY: Final = date(2026, 3, 15)
"""The shop's own date. Every rule about days counts from here, never from the machine's clock."""

MAX_ROWS: Final = 25
MAX_SECONDS: Final = 2.0
_STEPS_BETWEEN_CHECKS: Final = 5_000

Status = Literal["processing", "shipped", "delivered", "cancelled"]

SCHEMA: Final = """
CREATE TABLE customers (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, level TEXT NOT NULL);
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers (id), status TEXT NOT NULL,
    placed_on TEXT NOT NULL, shipping_cents INTEGER NOT NULL, paid_cents INTEGER NOT NULL, cancel_reason TEXT);
CREATE TABLE items (
    order_id TEXT NOT NULL REFERENCES orders (id), line INTEGER NOT NULL, product TEXT NOT NULL,
    quantity INTEGER NOT NULL, unit_cents INTEGER NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE addresses (
    order_id TEXT PRIMARY KEY REFERENCES orders (id), street TEXT NOT NULL, city TEXT NOT NULL,
    postal_code TEXT NOT NULL, country TEXT NOT NULL);
CREATE TABLE shipments (
    tracking_number TEXT PRIMARY KEY, order_id TEXT NOT NULL UNIQUE REFERENCES orders (id), carrier TEXT NOT NULL,
    status TEXT NOT NULL, location TEXT NOT NULL, expected_on TEXT NOT NULL, delivered_on TEXT);
CREATE TABLE refunds (
    id INTEGER PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders (id), amount_cents INTEGER NOT NULL,
    reason TEXT NOT NULL, refunded_on TEXT NOT NULL);
CREATE TABLE policies (topic TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE INDEX orders_by_customer ON orders (customer_id, placed_on);
CREATE INDEX refunds_by_order ON refunds (order_id);
"""

KEYS: Final[dict[str, tuple[str, ...]]] = {
    "customers": ("id",),
    "orders": ("id",),
    "items": ("order_id", "line"),
    "addresses": ("order_id",),
    "shipments": ("tracking_number",),
    "refunds": ("id",),
    "policies": ("topic",),
}
"""Every table with the columns that name a row."""

POLICIES: Final = {
    "returns": "Items may be returned within 30 days of delivery. The customer pays the return parcel.",
    "refunds": (
        "Refunds need a delivered or cancelled order. Within 30 days of delivery any reason counts; damaged or wrong "
        "items may be refunded up to 90 days after delivery. A refund never exceeds what was paid and not yet refunded."
    ),
    "goodwill": "A goodwill refund is at most 20.00 EUR per order.",
    "cancellation": "An order can be cancelled free of charge while it is processing, not after it was shipped.",
    "address": "The shipping address can be changed while the order is processing, not after it was shipped.",
    "shipping": "Shipping costs 4.90 EUR; orders with goods for 50.00 EUR or more ship free of charge.",
    "warranty": "All products carry a warranty of 24 months from the day of delivery.",
}

_NAMES = (
    "Maria Lopez", "John Smith", "Aiko Tanaka", "Lena Fischer", "Omar Haddad", "Priya Nair", "Tom Becker", "Ana Silva",
    "Noah Martin", "Chloe Dubois", "Ivan Petrov", "Sara Rossi", "Emma Jensen", "Lucas Meyer", "Fatima Zahra",
    "Hugo Blanc", "Julia Novak", "Peter Wagner", "Grace Kim", "Diego Ramos", "Hannah Vogel", "Leo Costa", "Mia Larsen",
    "Victor Stan", "Nina Weber", "Oscar Lind", "Paula Gomez", "Ravi Patel", "Sofia Conti", "Yuki Mori",
    "Anna Schmidt", "Ben Carter", "Clara Roy", "David Levy", "Elif Kaya", "Felix Braun", "Maria Lopez",
    "John Smith", "Greta Olsen", "Hassan Ali",
)  # fmt: skip
_PRODUCTS = (
    ("desk lamp", 3490), ("office chair", 18900), ("standing desk", 42900), ("notebook stand", 2990), ("webcam", 5990),
    ("wireless mouse", 2490), ("mechanical keyboard", 8990), ("monitor arm", 7450), ("usb hub", 1995),
    ("headset", 6990), ("coffee grinder", 5490), ("kettle", 3990), ("toaster", 4490), ("frying pan", 2790),
    ("knife set", 7990), ("running shoes", 9990), ("rain jacket", 8490), ("backpack", 6490), ("water bottle", 1890),
    ("yoga mat", 2590), ("board game", 3290), ("fountain pen", 4590), ("wall clock", 2390), ("picture frame", 1290),
)  # fmt: skip
_PLACES = (
    ("Berlin", "10115", "DE"), ("Hamburg", "20095", "DE"), ("Madrid", "28013", "ES"), ("Lyon", "69002", "FR"),
    ("Porto", "4000-065", "PT"), ("Milan", "20121", "IT"), ("Vienna", "1010", "AT"), ("Dublin", "D02 X285", "IE"),
)  # fmt: skip
_STREETS = ("Oak Street", "Mill Lane", "Station Road", "Garden Way", "River Walk", "Hill Road", "Market Square")
_CARRIERS = ("NordPost", "Velox", "ParcelOne")
_REASONS = ("damaged", "late", "wrong_item", "changed_mind", "goodwill")

_ORDERS = 200
_FREE_SHIPPING_CENTS = 5_000
_SHIPPING_CENTS = 490


class _Numbers:
    """A linear congruential generator (Numerical Recipes' constants): the same numbers on every machine and version."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, n: int) -> int:
        self._state = (self._state * 1_664_525 + 1_013_904_223) % 2**32
        return (self._state >> 8) % n


@cache
def _contents() -> sqlite3.Connection:
    """Return the template in memory that fresh databases are copied from."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    atexit.register(connection.close)
    connection.executescript(SCHEMA)
    with connection:
        _fill(connection)
    return connection


def _fill(connection: sqlite3.Connection) -> None:
    numbers = _Numbers(20_260_315)
    connection.executemany("INSERT INTO policies VALUES (?, ?)", sorted(POLICIES.items()))
    seen: set[str] = set()
    for index, name in enumerate(_NAMES):
        first, last = name.lower().split()
        email = f"{first}.{last}@example.com" if name not in seen else f"{first[0]}.{last}@example.org"
        seen.add(name)
        level = "gold" if numbers.below(4) == 0 else "standard"
        connection.execute("INSERT INTO customers VALUES (?, ?, ?, ?)", (f"C-{1001 + index}", name, email, level))
    days = sorted(
        ((numbers.below(220) if numbers.below(4) else numbers.below(8)) + 1 for _ in range(_ORDERS)), reverse=True
    )
    for index, age in enumerate(days):
        _order(connection, numbers, order_id=f"O-{2001 + index}", age=age)


def _order(connection: sqlite3.Connection, numbers: _Numbers, *, order_id: str, age: int) -> None:
    placed = TODAY - timedelta(days=age)
    lines: list[tuple[str, int, int]] = []
    for _ in range(1 + numbers.below(3)):
        product, cents = _PRODUCTS[numbers.below(len(_PRODUCTS))]
        if product not in {line[0] for line in lines}:
            lines.append((product, 1 + (numbers.below(3) if cents < _FREE_SHIPPING_CENTS else 0), cents))
    goods = sum(quantity * cents for _, quantity, cents in lines)
    shipping = 0 if goods >= _FREE_SHIPPING_CENTS else _SHIPPING_CENTS
    customer = f"C-{1001 + numbers.below(len(_NAMES))}"
    status = _status(numbers, age)
    reason = "changed_mind" if status == "cancelled" else None
    connection.execute(
        "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
        (order_id, customer, status, placed.isoformat(), shipping, goods + shipping, reason),
    )
    rows = [(order_id, number + 1, *line) for number, line in enumerate(lines)]
    connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
    city, code, country = _PLACES[numbers.below(len(_PLACES))]
    street = f"{1 + numbers.below(120)} {_STREETS[numbers.below(len(_STREETS))]}"
    connection.execute("INSERT INTO addresses VALUES (?, ?, ?, ?, ?)", (order_id, street, city, code, country))
    if status in ("shipped", "delivered"):
        _shipment(connection, numbers, order_id=order_id, placed=placed, status=status)
    if status == "delivered" and numbers.below(9) == 0:
        amount = 500 + 100 * numbers.below(10)
        connection.execute(
            "INSERT INTO refunds (order_id, amount_cents, reason, refunded_on) VALUES (?, ?, ?, ?)",
            (order_id, min(amount, goods), _REASONS[numbers.below(4)], (TODAY - timedelta(days=1)).isoformat()),
        )


def _status(numbers: _Numbers, age: int) -> Status:
    chance = numbers.below(100)
    if chance < 6:  # noqa: PLR2004 - shares of the made-up shop
        return "cancelled"
    if age <= 4:  # noqa: PLR2004
        return "processing" if chance < 80 else "shipped"  # noqa: PLR2004
    if age <= 11:  # noqa: PLR2004
        return "shipped" if chance < 85 else "processing"  # noqa: PLR2004
    return "delivered"


def _shipment(
    connection: sqlite3.Connection, numbers: _Numbers, *, order_id: str, placed: date, status: Status
) -> None:
    number = f"TR-{700_000 + int(order_id[2:]) * 137 % 99_991}"
    carrier = _CARRIERS[numbers.below(len(_CARRIERS))]
    place = _PLACES[numbers.below(len(_PLACES))][0]
    expected = placed + timedelta(days=4 + numbers.below(5))
    delivered: str | None = None
    if status == "delivered":
        arrived = min(expected + timedelta(days=numbers.below(3)), TODAY - timedelta(days=1))
        stage, delivered = "delivered", arrived.isoformat()
    elif expected < TODAY:
        stage, expected = "delayed", TODAY + timedelta(days=2 + numbers.below(3))
    else:
        stage = ("in_transit", "out_for_delivery")[numbers.below(2)]
    row = (number, order_id, carrier, stage, place, expected.isoformat(), delivered)
    connection.execute("INSERT INTO shipments VALUES (?, ?, ?, ?, ?, ?, ?)", row)


class _Deadline:
    """The CPU time at which SQLite gives up; apart from the database, which its connection must not keep."""

    def __init__(self) -> None:
        self._until = 0.0

    def set(self) -> None:
        self._until = time.thread_time() + MAX_SECONDS

    def passed(self) -> bool:
        return time.thread_time() > self._until


class OrderDatabase:
    """One connection to a fresh copy of the shop, shared by threads under a lock.

    `path` is a file to create, or None for memory. Reads run with `PRAGMA query_only`, hold at most `MAX_ROWS` rows and
    `MAX_SECONDS` seconds of CPU; SQL is constant text, values are parameters. Closed by `close`, by `with`, or when
    nothing uses the database any more.

    Raises:
        FileExistsError: the file exists already (a fresh copy never overwrites).
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None and path.exists():
            msg = f"{path} exists; an order database is always a fresh copy: give another path or remove the file"
            raise FileExistsError(msg)
        self._lock = threading.RLock()
        self._deadline = _Deadline()
        self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        self._close = weakref.finalize(self, self._connection.close)
        with _TEMPLATE_LOCK:
            _contents().backup(self._connection)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.set_progress_handler(self._deadline.passed, _STEPS_BETWEEN_CHECKS)

    def __enter__(self) -> Self:
        """Return the database itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def read(self, sql: str, parameters: Sequence[Value] = (), *, limit: int = MAX_ROWS) -> list[Row]:
        """At most `limit` rows of one read-only statement."""
        with self._lock:
            self._deadline.set()
            cursor = self._connection.execute(sql, parameters)
            try:
                return [dict(row) for row in cursor.fetchmany(limit)]
            finally:
                cursor.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or, when the body raises, nothing; other threads wait."""
        with self._lock:
            self._deadline.set()
            self._connection.execute("PRAGMA query_only = OFF")
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            finally:
                self._connection.execute("PRAGMA query_only = ON")

    def snapshot(self) -> Snapshot:
        """Every row of every table as `{table: {key: row}}`; a key of several columns is joined with `/`."""
        tables: Snapshot = {}
        for table, key in KEYS.items():
            rows = self.read(f"SELECT * FROM {table}", limit=100_000)  # noqa: S608 - names from the constant KEYS
            tables[table] = {"/".join(str(row[column]) for column in key): row for row in rows}
        return tables

    def close(self) -> None:
        """Close the connection; the copy in memory is gone."""
        with self._lock:
            self._close()


_TEMPLATE_LOCK = threading.Lock()


def changes(before: Snapshot, after: Snapshot) -> dict[str, dict[str, Row | None]]:
    """Return `{table: {key: changed fields}}`; a new row stands whole, a deleted one as None; {} when equal."""
    found: dict[str, dict[str, Row | None]] = {}
    for table in before.keys() | after.keys():
        old, new = before.get(table, {}), after.get(table, {})
        rows: dict[str, Row | None] = {}
        for key in old.keys() | new.keys():
            if key not in new:
                rows[key] = None
            elif key not in old:
                rows[key] = new[key]
            elif old[key] != new[key]:
                rows[key] = {column: value for column, value in new[key].items() if old[key][column] != value}
        if rows:
            found[table] = rows
    return found
