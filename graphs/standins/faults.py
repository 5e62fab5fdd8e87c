"""The faults of the small stand-in: the usual ones of small models, each tied to what it reads and writes.

A fault depends on the content alone (features of the call, a hash of the conversation's text), never on which task
it is or what the right answer would be. The shares are made up; nothing here was measured on a model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final

from graphs.standins.view import ACTIONS, View

LONG_ARGUMENTS: Final = 105
"""Characters of JSON from which on the small stand-in loses its place now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The next message of a stand-in: a call, or text. `broken` is the raw text of arguments that are not JSON."""

    text: str = ""
    tool: str | None = None
    args: dict[str, Any] | None = None
    broken: str | None = None
    cut: bool = False


def spoil(reply: Reply, view: View) -> Reply:
    """The small stand-in's version of a reply: most of the time the same."""

    def hit(fault: str, share: float) -> bool:
        return view.chance(fault, view.digest) < share

    if hit("empty", 0.16 if view.last_failed else 0.04):
        return Reply()
    if reply.tool is None and view.last_failed and hit("over an error", 0.35):
        return Reply(text="Your order is on its way.")
    if reply.tool is None:
        return _spoil_text(reply, hit("cut", 0.03), hit("fact", 0.08))
    if hit("repeat", 0.05) and view.now:
        return replace(reply, tool=view.now[-1].tool, args=dict(view.now[-1].args))
    args = reply.args or {}
    if hit("early", 0.08) and reply.tool in ACTIONS and view.now:
        return Reply(text=f"Done. The request for order {args.get('order_id', '')} has been taken care of.")
    if hit("prose", 0.03):
        inside = ", ".join(f"{k}={v!r}" for k, v in args.items())
        return Reply(text=f"I will now call {reply.tool}({inside}).")
    if hit("wrong tool", 0.05):
        return replace(reply, tool=_neighbour(reply.tool, view))
    return _spoil_args(reply, view)


def _neighbour(tool: str, view: View) -> str:
    """A tool that is taken for another: a made-up name, or the next one that takes the same arguments."""
    wanted = set(view.tools.get(tool, {}).get("required", ()))
    for name, schema in view.tools.items():
        if name != tool and name not in ACTIONS and wanted and wanted == set(schema.get("required", ())):
            return name
    return tool.replace("get_", "lookup_").replace("_order", "_orders")


def _spoil_args(reply: Reply, view: View) -> Reply:
    tool, args = str(reply.tool), dict(reply.args or {})
    luck = view.chance("args", view.digest, tool)
    raw = json.dumps(args, ensure_ascii=False)
    if len(raw) >= LONG_ARGUMENTS and luck < 0.6:
        return replace(reply, args=None, broken=raw[: int(len(raw) * 0.8)])
    required = list(view.tools.get(tool, {}).get("required", ()))
    changed = dict(args)
    if "amount" in args and luck < 0.3:
        changed["amount"] = f"{args['amount']} EUR" if luck < 0.2 else round(float(args["amount"]) * 10, 2)
    elif "reason" in args and luck < 0.45:
        changed["reason"] = {"damaged": "broken", "changed_mind": "changed my mind"}.get(
            args["reason"], "customer request"
        )
    elif len(required) > 1 and luck > 0.9:
        changed.pop(required[-1], None)
    elif "postal_code" in args and luck > 0.7:
        changed["city"], changed["postal_code"] = args["postal_code"], args["city"]
    elif "tracking_number" in args and luck > 0.88:
        changed["tracking_number"] = next((o for t in view.turns for o in re.findall(r"O-\d{4}", t)), "TR-000000")
    elif "customer_id" in args and luck > 0.9:
        changed["customer_id"] = "me"
    elif tool == "list_orders" and luck < 0.1:
        changed["status"] = "open"
    elif "order_id" in args and luck > 0.97:
        changed["order_id"] = _transposed(str(args["order_id"]))
    return replace(reply, args=changed)


def _transposed(number: str) -> str:
    return number[:-2] + number[-1] + number[-2]


def _spoil_text(reply: Reply, cut: bool, fact: bool) -> Reply:
    if cut:
        return replace(reply, text=reply.text[: max(1, len(reply.text) // 3)], cut=True)
    if not fact:
        return reply
    text = reply.text
    found = re.search(r"\d{4}-\d\d-\d\d", text)
    if found:
        later = date.fromisoformat(found[0]) + timedelta(days=3)
        return replace(reply, text=text.replace(found[0], later.isoformat(), 1))
    money = re.search(r"\d+\.\d\d", text)
    if money:
        return replace(reply, text=text.replace(money[0], f"{float(money[0]) + 5:.2f}", 1))
    for right, wrong in (("processing", "shipped"), ("delayed", "on time"), ("cannot", "can")):
        if right in text:
            return replace(reply, text=text.replace(right, wrong, 1))
    return reply


def spoil_plan(steps: list[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """The small stand-in's version of a plan."""
    luck = view.chance("plan", view.digest)
    plan = [dict(step, args=dict(step["args"])) for step in steps]
    if not plan:
        return plan
    last = plan[-1]
    if luck < 0.1:
        last["tool"] = last["tool"].replace("_order", "_orders").replace("track_shipment", "track_parcel")
    elif luck < 0.2 and len(plan) > 1:
        plan.pop()  # forgets the end: the plan is fine in itself
    elif luck < 0.35:
        for key, value in last["args"].items():
            if str(value).startswith("${"):
                last["args"][key] = "${s9.value}"
    elif luck < 0.42:
        last["depends_on"] = [last["id"]]
    elif luck < 0.5 and len(last["args"]) > 1:
        last["args"].popitem()
    return plan
