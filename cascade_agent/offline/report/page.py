"""A `Report` as one HTML file: no request to anywhere, and every text that was read is escaped.

The page's policy (CSP) allows its own style and its own script by their hashes and nothing else, so that even a text
that escaped the escaping could not act. `page.html` is the page; here are the figures at its head.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from cascade_agent.journal.format import answer_text
from cascade_agent.offline.evaluation.estimates import less
from cascade_agent.offline.report import format as fmt
from cascade_agent.offline.report import plots
from cascade_agent.offline.report.markup import breakable, escape

if TYPE_CHECKING:
    from cascade_agent.offline.report import data

_FILTERS: Final = (
    breakable, fmt.between, fmt.clock, fmt.count, fmt.counted, fmt.few, fmt.figure, fmt.money, fmt.percent, fmt.plural,
    fmt.probability, fmt.seconds, fmt.span, fmt.width,
)  # fmt: skip
_OWN: Final = ("page.css", "page.js")


def render(report: data.Report) -> str:
    """Return the page. The report's figures stand in it once more as JSON (`#report-data`)."""
    style, script = (base64.b64encode(hashlib.sha256(_file(name).encode()).digest()).decode() for name in _OWN)
    rules = (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return templates().get_template("page.html").render(report=report, rules=rules)


@cache
def templates() -> Environment:
    """Return the environment of the templates: what they print is escaped, and cleaned of what no page may hold."""
    env = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.filters |= {function.__name__: function for function in _FILTERS}
    env.globals |= {function.__name__: function for function in (answer_text, cost_tile, saving)}
    env.globals["plots"] = plots
    return env


@cache
def _file(name: str) -> str:
    return files("cascade_agent.offline.report").joinpath(name).read_text("utf-8")


def saving(report: data.Report) -> str:
    """Return what was saved against asking large every time: an amount, a share, its interval."""
    compared = report.always_large
    if compared.share is None or compared.large is None:
        if compared.low is None or compared.high is None:
            return f"What was saved is unknown: {compared.why}."
        return f"The cascade cost {less(1 - compared.high, 1 - compared.low, 0)} than always-large: {compared.why}."
    saved, low_high = 1 - compared.share, ""
    if compared.estimated and compared.interval is not None:
        low, high = compared.interval
        low_high = f", {fmt.between(1 - high, 1 - low) if saved >= 0 else fmt.between(low - 1, high - 1)}"
    about = "an estimated " if compared.estimated else ""
    prices = " at made-up prices" if report.made_up_prices else ""
    amount = f"{about}{fmt.money(compared.large * abs(saved), report.currency)}{prices}"
    word = "Saved" if saved >= 0 else "Cost more than always-large by"
    return f"{word} {amount} ({fmt.percent(abs(saved), 0)}{low_high})."


def cost_tile(report: data.Report) -> tuple[str, str]:
    """Return what was paid, and a note on it."""
    totals, currency = report.totals, report.currency
    shadow = totals.shadow.known if not totals.other_currencies else 0.0
    known = totals.cost.known + shadow
    unknown = totals.cost.unknown
    if unknown == totals.steps:
        return fmt.UNKNOWN, "no step has a known cost"
    parts = []
    if unknown:
        parts.append(f"at least: the cost of {fmt.plural(unknown, 'step')} is unknown")
    if totals.shadow_calls:
        amount = fmt.money(shadow, currency) if shadow else "an unknown amount"
        parts.append(f"{amount} of it for {fmt.plural(totals.shadow_calls, 'shadow call')}")
    others = list(totals.other_currencies.items())
    parts += [f"and {fmt.money(m.known, code)}" for code, m in others[: fmt.FEW]]
    if len(others) > fmt.FEW:
        parts.append(f"and {len(others) - fmt.FEW} more currencies")
    parts.append(f"{fmt.money(known / (totals.steps - unknown), currency)} a step")
    return ("≥ " if unknown else "") + fmt.money(known, currency), "; ".join(parts)
