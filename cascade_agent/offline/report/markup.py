"""HTML by construction: every text is escaped unless it is `Markup`, which only `el` and our own files make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import markupsafe
from markupsafe import Markup

_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
"""Characters that no page may hold, and the marks that turn the direction of the text around them."""

_WORD = 16
"""Letters of a word that fits a column of a phone; a longer one may break inside."""

Attributes: TypeAlias = Mapping[str, str | float | None]


def escape(value: object) -> Markup:
    """Return any text as HTML that shows it; what no page may hold, or turns text around, becomes U+FFFD."""
    if isinstance(value, Markup):
        return value
    return Markup() if value is None else markupsafe.escape(_UNSHOWABLE.sub("\ufffd", str(value)))


def join(children: Iterable[object]) -> Markup:
    """Return children one after the other, escaped."""
    return Markup().join(map(escape, children))


def el(name: str, attributes: Attributes, *children: str | None) -> Markup:
    """Return an element of a drawing; an attribute that is None is left out."""
    given = join(Markup(' {}="{}"').format(key, escape(v)) for key, v in attributes.items() if v is not None)
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, join(children))


def breakable(text: str) -> Markup:
    """Return a name that lines break behind its underscores, not inside its words unless they are very long."""
    parts: list[Markup] = []
    for word in text.replace("_", "_ ").split(" "):
        whole = Markup('<span class="whole">{}</span>') if len(word) <= _WORD else Markup("<span>{}</span>")
        parts += [whole.format(escape(word)), Markup("<wbr>") if word.endswith("_") else Markup(" ")]
    return join(parts[:-1])
