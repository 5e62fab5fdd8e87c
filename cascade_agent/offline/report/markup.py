"""HTML by construction: every text is escaped unless it is `Markup`, which only `el` makes."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
"""Characters that no page may hold, and the marks that turn the direction of the text around them."""

_WORD = 16
"""Letters of a word that fits a column of a phone; a longer one may break inside."""
_VOID = frozenset({"br", "circle", "hr", "input", "line", "meta", "path", "polygon", "polyline", "rect"})
_SVG_VOID = frozenset({"circle", "line", "path", "polygon", "polyline", "rect"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


_BREAK = Markup("<wbr>")

Child: TypeAlias = "str | int | float | Iterable[Child] | None"
Attributes: TypeAlias = Mapping[str, str | float | int | bool | None]


def escape(text: object) -> Markup:
    """Return any text as HTML that shows it; what no page may hold, or turns text around, becomes U+FFFD."""
    return Markup(html.escape(_UNSHOWABLE.sub("\ufffd", str(text)), quote=True))


def join(children: Child) -> Markup:
    """Return children one after the other; what is no `Markup` is escaped, None is nothing."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str | int | float):
        return escape(children)
    return Markup("".join(join(child) for child in children))


def el(name: str, attributes: Attributes | str | None = None, *children: Child) -> Markup:
    """Return an element. A text is its class; an attribute that is None or False is left out, True has no value."""
    named = {"class": attributes} if isinstance(attributes, str) else attributes or {}
    given = "".join(
        f" {key}" if value is True else f' {key}="{escape(value)}"'
        for key, value in named.items()
        if value is not None and value is not False
    )
    inside = join(children)
    if name in _VOID and not inside:
        return Markup(f"<{name}{given}{'/' if name in _SVG_VOID else ''}>")
    return Markup(f"<{name}{given}>{inside}</{name}>")


def breakable(text: str) -> Markup:
    """Return a name that lines break behind its underscores, not inside its words unless they are very long."""
    parts: list[Child] = []
    for word in text.replace("_", "_ ").split(" "):
        parts += [el("span", "whole" if len(word) <= _WORD else None, word), _BREAK if word.endswith("_") else " "]
    return join(parts[:-1])


def raw(text: str) -> Markup:
    """Text of this package's own files. Never for anything that was read."""
    return Markup(text)


def data_script(identifier: str, data: Any) -> Markup:
    """JSON inside of a page: ASCII only and without `<`, `>` and `&`, so no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


# ---- parts of a page ------------------------------------------------------------------------------------------------


def section(identifier: str, title: str, lead: Child, *inside: Child, kind: str = "card") -> Markup:
    """Return a part of the page with its heading and a sentence."""
    return el(
        "section",
        {"class": kind, "id": identifier, "aria-labelledby": f"{identifier}-title"},
        el("h2", {"id": f"{identifier}-title"}, title),
        el("p", "lead", lead),
        *inside,
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Child]], *, identifier: str = "") -> Markup:
    """Return figures in rows; the first column names the row, the others are numbers unless they are `td` already."""
    top = el("tr", None, *(el("th", {"scope": "col"}, name) for name in head))
    body = (
        el("tr", None, el("th", {"scope": "row"}, first), *(el("td", None, cell) for cell in row))
        for first, *row in rows
    )
    inside = (el("caption", None, caption), el("thead", None, top), el("tbody", None, *body))
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}
    return el("div", box, el("table", {"id": identifier or None, "class": "figures"}, *inside))


def behind(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    identifier: str,
    summary: str = "The numbers behind this plot",
) -> Markup:
    """Return the table behind a plot."""
    return el("details", "behind", el("summary", None, summary), table(caption, head, rows, identifier=identifier))
