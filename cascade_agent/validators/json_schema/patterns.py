"""ECMAScript patterns translated for RE2, which matches in linear time whatever the pattern.

RE2 and not `re`: `re` backtracks without end and holds the interpreter while it does. What RE2 cannot say (lookaround
in the middle, backreferences, counts over 1,000) is a `PatternError`, so that the caller can leave that keyword out.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn, Protocol

_MAX_SOURCE = 4_000
_MAX_COUNT = 1_000
_MAX_MEMORY = 4 << 20

_TOKEN = re.compile(
    r"""\\u\{(?P<code>[0-9a-fA-F]{1,6})\}
    | \\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})
    | \\(?:u(?P<u>[0-9a-fA-F]{4}) | x(?P<x>[0-9a-fA-F]{2}) | c(?P<control>[A-Za-z]))
    | \\(?P<property>[pP])\{(?P<name>\w{1,5})\}
    | \\(?P<escape>[dDwWsSbBtnvfr] | 0(?![0-9]) | [^A-Za-z0-9])
    | (?P<group>\((?:\?:|\?<[A-Za-z_]\w*>|(?!\?)))
    | (?P<count>(?:[*+?] | \{(?P<least>\d+)(?P<most>,\d*)?\})\??)
    | (?P<plain>[^\\(])""",
    re.VERBOSE | re.DOTALL,
)
_CLASS_TOKEN = re.compile(
    _TOKEN.pattern.replace("(?P<group>", "(?P<group>(?!)")
    .replace("(?P<count>", "(?P<count>(?!)")
    .replace(r"[^\\(]", r"[^\\]"),
    _TOKEN.flags,
)
"""In a class, brackets and counts are characters like any other."""
_ONE_CLASS = re.compile(r"\^(\.|\\[dDwWsS]|\[(?:[^\\\]]|\\.)+\])\{(\d{1,9})(?:,(\d{0,9}))?\}\$", re.DOTALL)
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_LAST = 0x10FFFF
_SPACES = (
    *((9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)


class PatternError(Exception):
    """A pattern that cannot be enforced; the message says with what."""


def _refuse(reason: str) -> NoReturn:
    raise PatternError(reason)


class _Regexp(Protocol):
    """A compiled pattern of `re2`, which ships no types."""

    @property
    def programsize(self) -> int:
        """Number of instructions."""
        ...

    def search(self, text: bytes) -> object:
        """Return a match or None."""
        ...


class Pattern(NamedTuple):
    """A compiled pattern: searches that must find something or nothing, and a length. `size` counts RE2's program."""

    searches: tuple[tuple[_Regexp, bool], ...]
    shortest: int
    longest: float
    size: int

    def search(self, text: str) -> bool:
        """Return whether the pattern matches somewhere in the text."""
        if not self.shortest <= len(text) <= self.longest:
            return False
        data = _encode(text)
        return all((regex.search(data) is not None) is wanted for regex, wanted in self.searches)


def compile_pattern(source: str) -> Pattern:
    """Return the compiled pattern.

    Raises:
        PatternError: no pattern of ECMAScript, or one that RE2 cannot take.
    """
    if len(source) > _MAX_SOURCE:
        _refuse(f"more than {_MAX_SOURCE:,} characters")
    shortest, longest = 0, float("inf")
    if one := _ONE_CLASS.fullmatch(source):  # the common way to bound a length, at times over RE2's limit for counts
        shortest = int(one[2])
        longest = shortest if one[3] is None else int(one[3]) if one[3] else longest
        if longest < shortest:
            _refuse("counts out of order")
        source = f"^{one[1]}*$"
    parts: list[tuple[str, bool]] = []
    at = 1
    # Lookaheads right behind a leading `^` are searches of their own, and nothing of them is consumed.
    while source[0:1] == "^" and source[at : at + 3] in ("(?=", "(?!"):
        wanted = source[at + 2] == "="
        body, at, _ = _translate(source, at + 3, inner=True)
        parts.append((f"^(?:{body})", wanted))
    rest, _, branches = _translate(source if not parts else "^" + source[at:], 0, inner=False)
    if parts and branches:
        _refuse("a lookahead that holds for one branch alone")
    searches = tuple((_compiled(part), wanted) for part, wanted in [*parts, (rest, True)])
    return Pattern(searches, shortest, longest, sum(regex.programsize for regex, _ in searches))


def _compiled(pattern: str) -> _Regexp:
    import re2  # type: ignore[import-untyped]  # here, so that importing the library does not load it

    options = re2.Options()
    options.log_errors, options.never_capture, options.max_mem = False, True, _MAX_MEMORY
    try:
        found: _Regexp = re2.compile(pattern.encode(), options)
    except re2.error as error:
        _refuse(f"what RE2 does not take: {re.sub('[^ -~]|:.*', '', str(error.args[0], 'utf-8', 'replace'))[:80]}")
    return found


def _encode(text: str) -> bytes:
    """UTF-8; lone surrogates, which it does not have, become code points of plane 16 that nobody uses."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join([chr(_code(ord(c))) for c in text]).encode()


def _code(code: int) -> int:
    if code > _LAST:
        _refuse("a code point above U+10FFFF")
    return code + 0x100000 if 0xD800 <= code <= 0xDFFF else code  # the surrogates


def _translate(source: str, at: int, *, inner: bool) -> tuple[str, int, bool]:  # noqa: C901 - one branch per kind of token
    """Return RE2's form of `source` from `at` on, where it ends, and whether it branches at its top.

    `inner` text ends behind the bracket that closes it.
    """
    out: list[str] = []
    depth, branches, repeatable = 0, False, False
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None:
            back = re.match(r"\\[1-9k]", source[at:])
            look = source.startswith(("(?=", "(?!", "(?<"), at)
            _refuse("a back-reference" if back else "lookaround" if look else "syntax that is not ECMAScript's")
        at, mark = token.end(), token["plain"]
        if token["count"]:
            _check_count(token, repeatable=repeatable)
            out.append(token[0])
            repeatable = False
            continue
        repeatable = token["escape"] not in ("b", "B")
        if token["group"]:
            out.append("(?:")
            depth, repeatable = depth + 1, False
        elif mark == ")":
            if depth == 0 and inner:
                return "".join(out), at, branches
            out.append(")")
            depth -= 1
        elif mark == "[":
            text, at = _class(source, at)
            out.append(text)
        elif mark is not None and mark in "^$|":
            branches, repeatable = branches or (mark == "|" and depth == 0), False
            out.append(mark)
        elif mark == ".":
            out.append(r"[^\n\r\x{2028}\x{2029}]")
        else:
            code, members = _atom(token)
            out.append(token[0] if not repeatable else rf"\x{{{code:x}}}" if members is None else f"[{members}]")
        if depth < 0:
            break
    if depth or inner:
        _refuse("brackets that do not match")
    return "".join(out), at, branches


def _check_count(token: re.Match[str], *, repeatable: bool) -> None:
    least, most = token["least"], (token["most"] or "").strip(",")
    if not repeatable:
        _refuse("a count that stands behind nothing")
    if max(int((least or "0")[:9]), int((most or "0")[:9])) > _MAX_COUNT:
        _refuse(f"a count over {_MAX_COUNT:,}")


def _atom(token: re.Match[str]) -> tuple[int, str | None]:
    """Return the character that a token stands for, or (0, the members of a class in RE2's form)."""
    if escape := token["escape"]:
        if escape in _CONTROLS:
            return _CONTROLS[escape], None
        members = {"d": "0-9", "D": r"\D", "w": r"\w", "W": r"\W", "s": _ranges(_SPACES), "S": _ranges(_gaps(_SPACES))}
        return ord(escape), members.get(escape)
    if name := token["name"]:
        if name == "ASCII":
            return 0, r"\x00-\x7f" if token["property"] == "p" else r"\x{80}-\x{10ffff}"
        if name != "Any" and name[2:]:  # a general category has one letter or two
            _refuse("a property of Unicode that RE2 does not have")
        return 0, rf"\{token['property']}{{{name}}}"
    if token["high"]:
        return 0x10000 + ((int(token["high"], 16) & 0x3FF) << 10) + (int(token["low"], 16) & 0x3FF), None
    if token["control"]:
        return ord(token["control"]) % 32, None
    digits = token["code"] or token["u"] or token["x"]
    return _code(int(digits, 16) if digits else ord(token["plain"])), None


def _ranges(pairs: tuple[tuple[int, int], ...]) -> str:
    return "".join([rf"\x{{{low:x}}}-\x{{{high:x}}}" for low, high in pairs])


def _gaps(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    starts = [0, *(high + 1 for _, high in pairs)]
    return tuple(zip(starts, [*(low - 1 for low, _ in pairs), _LAST], strict=True))


def _class(source: str, at: int) -> tuple[str, int]:
    """Return the character class whose members begin at `at`, and where it ends."""
    negated = source.startswith("^", at)
    at += negated
    atoms: list[tuple[int, str | None, bool]] = []
    while not source.startswith("]", at):
        token = _CLASS_TOKEN.match(source, at)
        if token is None:
            _refuse("a class that is not closed")
        at = token.end()
        if token["escape"] == "b":
            atoms.append((8, None, False))
        else:
            atoms.append((*_atom(token), token[0] == "-"))
    out: list[str] = []
    while atoms:
        code, members, _ = atoms.pop(0)
        high = code
        if len(atoms) > 1 and atoms[0][2] and members is None and atoms[1][1] is None:
            high = atoms[1][0]
            del atoms[:2]
        if high < code:
            _refuse("a class with a range out of order")
        out.append(_ranges(((code, high),)) if members is None else members)
    if not out:
        out, negated = [_ranges(((0, _LAST),))], not negated
    return f"[{'^' * negated}{''.join(out)}]", at + 1
