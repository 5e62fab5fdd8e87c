"""ECMAScript patterns translated for RE2, which matches in linear time whatever the pattern.

RE2 and not `re`: `re` backtracks without end and holds the interpreter while it does. What RE2 cannot say (lookaround
in the middle, backreferences, counts over 1,000) is a `PatternError`, so that the caller can leave that keyword out.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn, Protocol

_MAX_SOURCE = 4_000
_MAX_MEMORY = 4 << 20

_ESCAPE = r"""(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})
    | (?P<hex>\\(?:u\{[0-9a-fA-F]{1,6}\} | u[0-9a-fA-F]{4} | x[0-9a-fA-F]{2}))
    | (?P<control>\\c[A-Za-z])
    | (?P<set>\\(?:[dDwWsS] | [pP]\{(?:\w\w?|Any|ASCII)\}))
    | (?P<char>\\(?:[bBtnvfr] | 0(?![0-9]) | [^A-Za-z0-9]))"""
_CLASS_TOKEN = re.compile(rf"{_ESCAPE} | (?P<plain>[^\\])", re.VERBOSE | re.DOTALL)
_TOKEN = re.compile(
    rf"""{_ESCAPE} | (?P<group>\((?:\?:|\?<[A-Za-z_]\w*>|(?!\?))) | (?P<count>(?:[*+?] | \{{\d+(?:,\d*)?\}})\??)
    | (?P<plain>[^\\(])""",
    re.VERBOSE | re.DOTALL,
)
_ONE_CLASS = re.compile(r"\^(\.|\\[dDwWsS]|\[(?:[^\\\]]|\\.)+\])\{(\d{1,9})(?:,(\d{0,9}))?\}\$", re.DOTALL)
_CONTROLS = {r"\t": 9, r"\n": 10, r"\v": 11, r"\f": 12, r"\r": 13, r"\0": 0}
_SETS = {
    r"\s": r"\s\x{b}\p{Z}\x{feff}",
    # a class cannot hold the complement of several members: these are the gaps between them
    r"\S": r"\w\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}"
    r"\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}",
    r"\p{ASCII}": r"[:ascii:]",
    r"\P{ASCII}": r"[:^ascii:]",
}
"""Members of a class in RE2's form, where it differs."""


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
    if code > 0x10FFFF:
        _refuse("a code point above U+10FFFF")
    return code + 0x100000 if 0xD800 <= code <= 0xDFFF else code  # the surrogates


def _translate(source: str, at: int, *, inner: bool) -> tuple[str, int, bool]:
    """Return RE2's form of `source` from `at` on, where it ends, and whether it branches at its top.

    `inner` text ends behind the bracket that closes it. RE2 itself refuses brackets and counts that are out of place.
    """
    out: list[str] = []
    depth, branches, last = 0, False, ""
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None:
            _refuse(_foreign(source[at:]))
        at, text = token.end(), token[0]
        if text == ")" and inner and not depth:
            return "".join(out), at, branches
        depth += (token["group"] is not None) - (text == ")")
        branches = branches or (text == "|" and not depth)
        if token["count"] and last in ("^", "$", r"\b", r"\B"):  # RE2 takes it
            _refuse("a count that stands behind nothing")
        if text == "[":
            text, at = _class(source, at)
        elif token["group"]:
            text = "(?:"
        elif text == ".":
            text = r"[^\n\r\x{2028}\x{2029}]"
        elif not token["count"] and text not in ("^", "$", "|", ")", r"\b", r"\B"):
            text = f"[{_atom(token)}]" if token["set"] else _atom(token)
        out.append(text)
        last = text
    if inner:
        _refuse("brackets that do not match")
    return "".join(out), at, branches


def _foreign(rest: str) -> str:
    if re.match(r"\\[1-9k]", rest):
        return "a back-reference"
    return "lookaround" if rest.startswith(("(?=", "(?!", "(?<")) else "syntax that is not ECMAScript's, or not RE2's"


def _atom(token: re.Match[str]) -> str:
    """Return RE2's form of a character or of a set of them."""
    text = token[0]
    if token["set"]:
        return _SETS.get(text, text)
    if token["pair"]:
        code = ord(bytes.fromhex(text.replace(r"\u", "")).decode("utf-16-be"))
    elif token["hex"]:
        code = int(text.strip(r"\ux{}"), 16)
    else:
        code = ord(text[-1]) % 32 if token["control"] else _CONTROLS.get(text, ord(text[-1]))
    return rf"\x{{{_code(code):x}}}"


def _class(source: str, at: int) -> tuple[str, int]:
    """Return the character class whose members begin at `at`, and where it ends."""
    negated = source.startswith("^", at)
    at += negated
    members: list[str] = []
    dashes: set[int] = set()
    while not source.startswith("]", at):
        token = _CLASS_TOKEN.match(source, at)
        if token is None:
            _refuse("a class that is not closed")
        at = token.end()
        if token[0] == "-":
            dashes.add(len(members))
        members.append(r"\x{8}" if token[0] == r"\b" else _atom(token))
    out: list[str] = []
    index = 0
    while index < len(members):
        ends = members[index : index + 3 : 2]  # of a range, where a dash stands between two characters
        if index + 1 in dashes and len(ends) == 2 and all(end.startswith(r"\x") for end in ends):
            out.append("-".join(ends))
            index += 3
        else:
            out.append(members[index])
            index += 1
    if not out:
        out, negated = [r"\x{0}-\x{10ffff}"], not negated
    return f"[{'^' * negated}{''.join(out)}]", at + 1
