"""The order desk's tools over a real database, and the calculator."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import ToolException
from langgraph.prebuilt import ToolNode

from tests.builders import graph_of
from tools.calculator import evaluate
from tools.database import MAX_ROWS, OrderDatabase, changes
from tools.orders import SIDE_EFFECTS, order_tools


@pytest.fixture
def db():
    """A fresh shop."""
    database = OrderDatabase()
    yield database
    database.close()


def call(db, name, /, **args) -> ToolMessage:
    """Return what a tool node would get for this call."""
    tool = {t.name: t for t in order_tools(db)}[name]
    return tool.invoke({"type": "tool_call", "id": "1", "name": name, "args": args})


# ---- the database ---------------------------------------------------------------------------------------------------
def test_every_fresh_database_is_equal_and_no_two_share_rows(db):
    """Two fresh databases are equal row by row, and a change in one is not seen in the other."""
    other = OrderDatabase()
    assert other.snapshot() == db.snapshot()
    call(other, "cancel_order", order_id="O-2199", reason="other")
    assert db.snapshot()["orders"]["O-2199"]["status"] == "processing"
    assert changes(db.snapshot(), other.snapshot()) == {
        "orders": {"O-2199": {"status": "cancelled", "cancel_reason": "other"}}
    }
    other.close()


def test_the_shop_has_what_the_tasks_need(db):
    """There are 200 orders in all four statuses, prior refunds, parcels that are late and people of one name."""
    rows = db.snapshot()
    statuses = {row["status"] for row in rows["orders"].values()}
    names = [row["name"] for row in rows["customers"].values()]
    assert len(rows["orders"]) == 200
    assert statuses == {"processing", "shipped", "delivered", "cancelled"}
    assert len(rows["refunds"]) > 10
    assert any(row["status"] == "delayed" for row in rows["shipments"].values())
    assert len(set(names)) < len(names)


def test_what_was_paid_is_the_goods_and_the_shipping(db):
    """For every order, paid = items + shipping, and shipping is free from 50 EUR on, as the rule says."""
    rows = db.snapshot()
    for number, order in rows["orders"].items():
        items = [row for row in rows["items"].values() if row["order_id"] == number]
        goods = sum(int(row["quantity"]) * int(row["unit_cents"]) for row in items)
        assert order["paid_cents"] == goods + order["shipping_cents"]
        assert order["shipping_cents"] == (0 if goods >= 5000 else 490)


def test_a_database_file_is_never_overwritten(tmp_path):
    """A path that exists is refused; a new one is a full copy on disk."""
    path = tmp_path / "shop.db"
    OrderDatabase(path).close()
    with contextlib.closing(sqlite3.connect(path)) as copy:
        assert copy.execute("SELECT count(*) FROM orders").fetchone() == (200,)
    with pytest.raises(FileExistsError, match="fresh copy"):
        OrderDatabase(path)


def test_a_database_that_nobody_uses_any_more_is_closed():
    """`with` closes it, and so does letting go of the database and of all that was built on it."""
    with OrderDatabase() as held:
        connection = held._connection
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    forgotten = OrderDatabase()
    connection, desk = forgotten._connection, order_tools(forgotten)
    del forgotten
    gc.collect()
    assert connection.execute("SELECT 1").fetchone()[0] == 1
    del desk
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_reads_are_bounded(db):
    """They cannot write, at most MAX_ROWS rows come back, and an endless statement is interrupted."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.read("DELETE FROM orders")
    assert len(db.snapshot()["orders"]) == 200
    assert len(db.read("SELECT * FROM orders")) == MAX_ROWS
    with pytest.raises(sqlite3.OperationalError, match="interrupt"):
        db.read("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")


def test_a_write_that_fails_leaves_nothing_behind(db):
    """A transaction whose body raises is rolled back and the database can be used on."""
    before = db.snapshot()

    def body() -> None:
        with db.write() as connection:
            connection.execute("DELETE FROM refunds")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert db.snapshot() == before


# ---- the desk -------------------------------------------------------------------------------------------------------
def test_side_effects_name_every_tool(db):
    """The mapping for `Policy(side_effects=...)` holds exactly the desk's tools, refund and cancel irreversible."""
    assert SIDE_EFFECTS.keys() == {tool.name for tool in order_tools(db)}
    assert {name for name, kind in SIDE_EFFECTS.items() if kind == "irreversible"} == {"cancel_order", "refund_order"}
    assert SIDE_EFFECTS["change_address"] == "write"


READS = [
    ("get_order", {"order_id": "O-2149"}, '"tracking_number": "TR-794431"'),
    ("get_customer", {"email": "PRIYA.nair@example.com"}, '"customer_id": "C-1006"'),
    ("find_customers", {"name": "maria"}, "m.lopez@example.org"),
    ("list_orders", {"customer_id": "C-1006"}, "O-2196"),
    ("list_orders", {"customer_id": "C-1001", "status": "processing"}, "O-2199"),
    ("search_orders", {"product": "office chair", "customer_id": "C-1010"}, "O-2163"),
    ("track_shipment", {"tracking_number": "TR-794431"}, "Madrid"),
    ("get_policy", {"topic": "goodwill"}, "20.00 EUR"),
    ("calculate", {"expression": "221.20 + 2 * (3 - 1)"}, "225.20"),
]


@pytest.mark.parametrize(("name", "args", "part"), READS, ids=lambda value: value if isinstance(value, str) else "")
def test_look_ups_answer_and_change_nothing(db, name, args, part):
    """Each look-up finds what is there and leaves the database as it was."""
    before = db.snapshot()
    message = call(db, name, **args)
    assert message.status == "success"
    assert part in message.content
    assert db.snapshot() == before


REFUSED = [
    ("get_order", {"order_id": "O-9999"}, "no order"),
    ("get_customer", {"email": "nobody@example.com"}, "no customer"),
    ("list_orders", {"customer_id": "C-9999"}, "no customer"),
    ("track_shipment", {"tracking_number": "TR-000000"}, "no parcel"),
    ("cancel_order", {"order_id": "O-2149", "reason": "other"}, "only an order that is processing"),
    ("cancel_order", {"order_id": "O-2010", "reason": "other"}, "is cancelled"),
    (
        "change_address",
        {"order_id": "O-2149", "street": "a", "city": "b", "postal_code": "c", "country": "DE"},
        "shipped",
    ),
    (
        "change_address",
        {"order_id": "O-2199", "street": "a", "city": "b", "postal_code": "c", "country": "Germany"},
        "DE",
    ),
    ("refund_order", {"order_id": "O-2199", "amount": 5, "reason": "late"}, "only a delivered or cancelled"),
    ("refund_order", {"order_id": "O-2134", "amount": 64.91, "reason": "damaged"}, "At most 64.90"),
    ("refund_order", {"order_id": "O-2132", "amount": 79.61, "reason": "damaged"}, "At most 79.60"),
    ("refund_order", {"order_id": "O-2138", "amount": 20.01, "reason": "goodwill"}, "at most 20.00"),
    ("refund_order", {"order_id": "O-2001", "amount": 5, "reason": "changed_mind"}, "30 days"),
    ("refund_order", {"order_id": "O-2001", "amount": 5, "reason": "damaged"}, "90 days"),
    ("refund_order", {"order_id": "O-2138", "amount": 5.001, "reason": "late"}, "2 decimals"),
    ("refund_order", {"order_id": "O-2138", "amount": -5, "reason": "late"}, "amount"),
    ("refund_order", {"order_id": "O-2138", "amount": float("nan"), "reason": "late"}, "amount"),
    ("refund_order", {"order_id": "O-2138", "amount": 5, "reason": "broken"}, "reason"),
    ("refund_order", {"order_id": "O-2138", "amount": 5}, "reason"),
    ("get_order", {"order_id": "2149"}, "order_id"),
    ("get_order", {"order_id": "O-2149' OR '1'='1"}, "order_id"),
    ("calculate", {"expression": "1/0"}, "zero"),
]


@pytest.mark.parametrize(("name", "args", "part"), REFUSED)
def test_what_is_not_allowed_is_an_error_message_and_changes_nothing(db, name, args, part):
    """A broken rule or argument comes back as a tool message with status `error` that names the rule or argument."""
    before = db.snapshot()
    message = call(db, name, **args)
    assert message.status == "error"
    assert part in message.content
    assert db.snapshot() == before


@pytest.mark.parametrize("text", ["' OR 1=1 --", "%", "_____", '"; DROP TABLE orders; --', "\\"])
def test_text_of_a_search_is_text(db, text):
    """Quotes and wildcards in a search are looked for literally: nothing is found, nothing is lost."""
    for name, args in (("search_orders", {"product": text + text}), ("find_customers", {"name": text + text})):
        message = call(db, name, **args)
        assert "[]" in message.content
    assert len(db.snapshot()["orders"]) == 200


ACTIONS = [
    (
        "cancel_order",
        {"order_id": "O-2199", "reason": "changed_mind"},
        {"orders": {"O-2199": {"status": "cancelled", "cancel_reason": "changed_mind"}}},
    ),
    (
        "change_address",
        {"order_id": "O-2188", "street": " 1 A Street ", "city": "Graz", "postal_code": "8010", "country": "at"},
        {"addresses": {"O-2188": {"street": "1 A Street", "city": "Graz", "postal_code": "8010", "country": "AT"}}},
    ),
]


@pytest.mark.parametrize(("name", "args", "wanted"), ACTIONS)
def test_an_action_changes_exactly_its_row(db, name, args, wanted):
    """Cancelling and a new address change the named row and nothing else."""
    before = db.snapshot()
    assert call(db, name, **args).status == "success"
    assert changes(before, db.snapshot()) == wanted


def test_refunds_add_up_to_what_was_paid_and_no_more(db):
    """Several refunds of one order share what was paid; the cent above it is refused."""
    assert call(db, "refund_order", order_id="O-2138", amount=500, reason="damaged").status == "success"
    assert "At most 66.60" in call(db, "refund_order", order_id="O-2138", amount=66.61, reason="damaged").content
    assert call(db, "refund_order", order_id="O-2138", amount=66.6, reason="damaged").status == "success"
    assert "At most 0.00" in call(db, "refund_order", order_id="O-2138", amount=0.01, reason="damaged").content


def test_threads_never_refund_more_than_was_paid(db):
    """16 threads that refund 100 EUR each from 566.60 EUR: exactly five succeed."""
    gate = threading.Barrier(16)

    def refund(_: int) -> str:
        gate.wait()
        return call(db, "refund_order", order_id="O-2138", amount=100, reason="damaged").status

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(refund, range(16))) == ["error"] * 11 + ["success"] * 5


async def test_async_calls_run_outside_the_loop(db, monkeypatch):
    """An asynchronous call reads the database in another thread than the event loop's."""
    seen: list[int] = []
    original = OrderDatabase.read

    def read(self, *args, **kwargs):
        seen.append(threading.get_ident())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(OrderDatabase, "read", read)
    tools = {t.name: t for t in order_tools(db)}
    results = await asyncio.gather(*(tools["get_order"].ainvoke({"order_id": f"O-{2001 + i}"}) for i in range(20)))
    assert [r["order_id"] for r in results] == [f"O-{2001 + i}" for i in range(20)]
    assert threading.get_ident() not in seen


def test_in_a_tool_node_errors_are_messages(db):
    """A LangGraph ToolNode hands a broken rule on as a message with status `error`, next to a call that worked."""
    calls = [
        {"name": "cancel_order", "args": {"order_id": "O-2149", "reason": "other"}, "id": "a"},
        {"name": "get_order", "args": {"order_id": "O-2149"}, "id": "b"},
    ]
    state = graph_of(ToolNode(order_tools(db))).invoke({"messages": [AIMessage("", tool_calls=calls)]})
    assert [message.status for message in state["messages"][1:]] == ["error", "success"]


# ---- the calculator -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "value"),
    [("1+2*3", 7), ("(1+2)*3", 9), ("-2*-3", 6), ("10/4", "2.5"), ("2 - 3 - 4", -5), ("0.1+0.2", "0.3"), ("((7))", 7)],
)
def test_the_calculator_computes(expression, value):
    """The four operations, parentheses and signs bind as in arithmetic, exactly in decimals."""
    assert evaluate(expression) == Decimal(str(value))


@pytest.mark.parametrize(
    "expression",
    ["", "2**9", "9^9", "__import__('os')", "1e9", "(1", "1)", "1 2", "1+", "*1", "1/0", "(" * 30 + "1" + ")" * 30,
     "-" * 60 + "1", "1" * 201, "9" * 16, "*".join(["999999999999999"] * 12), "0/0", "1//2", "１+１"],
)  # fmt: skip
def test_the_calculator_refuses(expression):
    """A text that is no sum, too deep, too long or too large is a ToolException; nothing is evaluated as code."""
    with pytest.raises(ToolException):
        evaluate(expression)


@given(st.text(alphabet="0123456789+-*/(). \n\tx", max_size=250))
def test_the_calculator_never_breaks(text):
    """Any text gives a number of at most 10^15 or a ToolException."""
    with contextlib.suppress(ToolException):
        assert abs(evaluate(text)) <= Decimal(10) ** 15
