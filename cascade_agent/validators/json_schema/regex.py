"""Regular expressions of strangers (ECMA-262 syntax), searched in linear time.

Law: no pattern and no text can make a search take long: a pattern becomes a finite automaton that is run with a
counted budget. What an automaton cannot say (lookaround, word boundaries, very large counts) goes to `re` only on texts
so short that the bound on its backtracking, computed from the pattern, stays small; everything else is refused when
compiled.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

_MAX_SOURCE = 10_000
_MAX_GROUPS_DEEP = 40
_MAX_NFA = 3_000
_MAX_COUNT = 1_000_000
_MAX_DFA_CELLS = 200_000
_MAX_CLASSES = 4_096
_RE_WORK = 200_000
"""Upper bound on backtracking steps granted to `re` for one search: about 10 ms."""
_CAP = 10**12
_TOP = 0x10FFFF
_HIGH, _LOW = 0xD800, 0xDC00
"""First high and first low surrogate."""
_LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 16_384, 65_536)


class PatternError(ValueError):
    """Why a pattern cannot be checked; a short text that does not quote the pattern."""


class BudgetSpent(Exception):  # noqa: N818 - a signal, not an error
    """The counted steps of one check are used up."""


class Budget:
    """Steps left for one check; one step is about a microsecond of work."""

    __slots__ = ("steps",)

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def spend(self, steps: int) -> None:
        """Take `steps` away.

        Raises:
            BudgetSpent: none are left.
        """
        self.steps -= steps
        if self.steps < 0:
            raise BudgetSpent


# ---- syntax tree ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Set:
    """Code points: sorted disjoint ranges and general categories, or all others when negated."""

    ranges: tuple[tuple[int, int], ...] = ()
    categories: tuple[tuple[frozenset[str], bool], ...] = ()
    negated: bool = False

    def has(self, char: str) -> bool:
        code = ord(char)
        at = bisect_right(self.ranges, (code, _TOP + 1)) - 1
        found = at >= 0 and self.ranges[at][1] >= code
        if not found and self.categories:
            category = unicodedata.category(char)
            found = any((category in names) is wanted for names, wanted in self.categories)
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class _Cat:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Alt:
    options: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    body: _Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class _Edge:
    kind: str  # one of: ^ $ \b \B


@dataclass(frozen=True, slots=True)
class _Look:
    body: _Node
    ahead: bool
    negated: bool


_Node = _Set | _Cat | _Alt | _Repeat | _Edge | _Look

_DIGIT = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE = (
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_SHORTHANDS = {"d": _DIGIT, "w": _WORD, "s": _SPACE}

_CATEGORIES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()  # noqa: SIM905
)
_CATEGORY_NAMES = {
    "letter": "L", "uppercase_letter": "Lu", "lowercase_letter": "Ll", "titlecase_letter": "Lt", "cased_letter": "LC",
    "modifier_letter": "Lm", "other_letter": "Lo", "mark": "M", "combining_mark": "M", "nonspacing_mark": "Mn",
    "number": "N", "decimal_number": "Nd", "digit": "Nd", "letter_number": "Nl", "other_number": "No",
    "punctuation": "P", "punct": "P", "symbol": "S", "math_symbol": "Sm", "currency_symbol": "Sc", "separator": "Z",
    "space_separator": "Zs", "other": "C", "control": "Cc", "format": "Cf",
}  # fmt: skip


def _ranges_of(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sort and join ranges."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def _complement(ranges: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    out, start = [], 0
    for low, high in ranges:
        if low > start:
            out.append((start, low - 1))
        start = high + 1
    if start <= _TOP:
        out.append((start, _TOP))
    return out


class _Parser:
    """Reads ECMA-262 syntax in Unicode mode, with the lenient forms that every engine takes outside of it."""

    def __init__(self, source: str) -> None:
        self.text = source
        self.at = 0

    def parse(self) -> _Node:
        node = self.alternatives(0)
        if self.at < len(self.text):
            msg = "unbalanced parenthesis"
            raise PatternError(msg)
        return node

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def alternatives(self, deep: int) -> _Node:
        if deep > _MAX_GROUPS_DEEP:
            msg = f"groups nested more than {_MAX_GROUPS_DEEP} deep"
            raise PatternError(msg)
        options = [self.sequence(deep)]
        while self.take("|"):
            options.append(self.sequence(deep))
        return options[0] if len(options) == 1 else _Alt(tuple(options))

    def sequence(self, deep: int) -> _Node:
        parts: list[_Node] = []
        while self.peek() not in ("", "|", ")"):
            bare = _ASSERTION.match(self.text, self.at) is not None
            parts.append(self.quantified(self.atom(deep), bare=bare))
        return parts[0] if len(parts) == 1 else _Cat(tuple(parts))

    def quantified(self, node: _Node, *, bare: bool) -> _Node:
        counts = self.quantifier()
        if counts is None:
            return node
        if bare:
            msg = "a quantifier on an assertion"
            raise PatternError(msg)
        if not self.take("?") and self.peek() == "+":
            msg = "a possessive quantifier"
            raise PatternError(msg)
        if self.peek() in ("*", "?") or self.bounds(self.at) is not None:
            msg = "a quantifier on a quantifier"
            raise PatternError(msg)
        return _Repeat(node, *counts)

    def quantifier(self) -> tuple[int, int | None] | None:
        if self.take("*"):
            return 0, None
        if self.take("+"):
            return 1, None
        if self.take("?"):
            return 0, 1
        found = self.bounds(self.at)
        if found is None:
            return None
        self.at = found[2]
        return found[0], found[1]

    def bounds(self, at: int) -> tuple[int, int | None, int] | None:
        """Read `{m}`, `{m,}` or `{m,n}`; any other brace is a plain character."""
        found = _BOUNDS.match(self.text, at)
        if found is None:
            return None
        low = _count(found[1])
        high = low if found[2] is None else None if not found[3] else _count(found[3])
        if high is not None and high < low:
            msg = "numbers out of order in a quantifier"
            raise PatternError(msg)
        return low, high, found.end()

    def atom(self, deep: int) -> _Node:
        char = self.peek()
        self.at += 1
        if char in "^$":
            return _Edge(char)
        if char == ".":
            return _Set(_LINE_ENDS, negated=True)
        if char == "(":
            return self.group(deep)
        if char == "[":
            return self.char_class()
        if char == "\\":
            return self.escape_atom()
        if char in "*+?":
            msg = "nothing to repeat"
            raise PatternError(msg)
        return _one(ord(char))

    def group(self, deep: int) -> _Node:
        look: tuple[bool, bool] | None = None
        if self.take("?"):
            for token, kind in (
                ("=", (True, False)),
                ("!", (True, True)),
                ("<=", (False, False)),
                ("<!", (False, True)),
            ):
                if self.take(token):
                    look = kind
                    break
            else:
                self.group_head()
        node = self.alternatives(deep + 1)
        if not self.take(")"):
            msg = "unbalanced parenthesis"
            raise PatternError(msg)
        return node if look is None else _Look(node, *look)

    def group_head(self) -> None:
        if self.take(":"):
            return
        found = _GROUP_NAME.match(self.text, self.at)
        if found is None:
            msg = "an unknown kind of group (inline flags, atomic group, condition)"
            raise PatternError(msg)
        self.at = found.end()

    def escape_atom(self) -> _Node:
        char = self.peek()
        if char in ("b", "B"):
            self.at += 1
            return _Edge("\\" + char)
        if char == "k" or (char and char in "123456789"):
            msg = "a back-reference"
            raise PatternError(msg)
        found = self.escape()
        return _one(found) if isinstance(found, int) else found

    def escape(self) -> int | _Set:  # noqa: PLR0911 - one return per kind of escape
        """What follows a backslash, in and outside of a class."""
        char = self.peek()
        self.at += 1
        if not char:
            msg = "a backslash at the end"
            raise PatternError(msg)
        if char.lower() in _SHORTHANDS:
            return _Set(_SHORTHANDS[char.lower()], negated=char.isupper())
        if char in "pP":
            return self.property(wanted=char == "p")
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "0" and not self.peek().isdecimal():
            return 0
        if char == "c" and self.peek().isascii() and self.peek().isalpha():
            self.at += 1
            return ord(self.text[self.at - 1]) % 32
        if char in "xu":
            return self.hexadecimal(char)
        if char.isalnum() and char.isascii():
            msg = "an escape that ECMA-262 does not know"
            raise PatternError(msg)
        return ord(char)

    def hexadecimal(self, kind: str) -> int:
        found = (_HEX2 if kind == "x" else _HEX4).match(self.text, self.at)
        if found is None:
            msg = "an incomplete hexadecimal escape"
            raise PatternError(msg)
        self.at = found.end()
        code = int(found[1] or found[2], 16) if kind == "u" else int(found[1], 16)
        if code > _TOP:
            msg = "a code point above U+10FFFF"
            raise PatternError(msg)
        if _HIGH <= code < _LOW and (low := _LOW_SURROGATE.match(self.text, self.at)):
            self.at = low.end()
            code = 0x10000 + ((code - _HIGH) << 10) + (int(low[1], 16) - _LOW)
        return code

    def property(self, *, wanted: bool) -> _Set:
        found = _PROPERTY.match(self.text, self.at)
        if found is None:
            msg = "an unknown Unicode property"
            raise PatternError(msg)
        self.at = found.end()
        name = found[1]
        if name in ("Any", "ASCII"):
            return _Set(((0, _TOP if name == "Any" else 0x7F),), negated=not wanted)
        name = _CATEGORY_NAMES.get(name.lower(), name)
        names = frozenset(("Lu", "Ll", "Lt") if name == "LC" else (c for c in _CATEGORIES if name in (c, c[0])))
        if not names:
            msg = "an unknown Unicode property"
            raise PatternError(msg)
        return _Set(categories=((names, wanted),))

    def char_class(self) -> _Set:
        negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        categories: list[tuple[frozenset[str], bool]] = []
        while not self.take("]"):
            low = self.class_member()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", "") and isinstance(low, int):
                self.at += 1
                high = self.class_member()
                if isinstance(high, int):
                    if high < low:
                        msg = "a range out of order in a character class"
                        raise PatternError(msg)
                    ranges.append((low, high))
                    continue
                ranges += [(low, low), (0x2D, 0x2D)]
                low = high
            if isinstance(low, int):
                ranges.append((low, low))
            else:
                ranges += _complement(low.ranges) if low.negated else low.ranges
                categories += low.categories
        return _Set(_ranges_of(ranges), tuple(dict.fromkeys(categories)), negated)

    def class_member(self) -> int | _Set:
        char = self.peek()
        if not char:
            msg = "a character class without an end"
            raise PatternError(msg)
        self.at += 1
        if char != "\\":
            return ord(char)
        if self.take("b"):
            return 0x08
        if self.take("-"):
            return 0x2D
        return self.escape()


_ASSERTION = re.compile(r"[\^$]|\\[bB]|\(\?<?[=!]")
_BOUNDS = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_GROUP_NAME = re.compile(r"P?<[A-Za-z_$][A-Za-z0-9_$]*>")
_HEX2 = re.compile(r"([0-9A-Fa-f]{2})")
_HEX4 = re.compile(r"(?:\{([0-9A-Fa-f]{1,8})\}|([0-9A-Fa-f]{4}))")
_LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")
_PROPERTY = re.compile(r"\{(?:(?:gc|General_Category)=)?([A-Za-z_]+)\}")


def _count(digits: str) -> int:
    if len(digits) > 7 or int(digits) > _MAX_COUNT:  # noqa: PLR2004 - digits of the limit
        msg = f"a repeat count above {_MAX_COUNT:,}"
        raise PatternError(msg)
    return int(digits)


def _one(code: int) -> _Set:
    return _Set(((code, code),))


# ---- the automaton --------------------------------------------------------------------------------------------------


class _TooBig(Exception):  # noqa: N818 - a signal
    """The automaton would need more states than allowed, or cannot say what the pattern says."""


class _State:
    """One state of the lazy automaton: the positions it stands for and where each class of characters leads."""

    __slots__ = ("accepts", "accepts_at_end", "dead", "next", "positions")

    def __init__(self, positions: tuple[int, ...], *, accepts: bool, accepts_at_end: bool, dead: bool) -> None:
        self.positions = positions
        self.accepts = accepts
        self.accepts_at_end = accepts_at_end
        self.dead = dead
        self.next: dict[int, _State] = {}


_SPLIT, _CHAR, _BOL, _EOL, _MATCH = range(5)


class _Automaton:
    """A Thompson automaton, made deterministic while it runs; its caches are bounded and may be lost at any time."""

    def __init__(self, node: _Node) -> None:
        self.ops: list[int] = []
        self.args: list[int] = []
        self.outs: list[list[int]] = []
        self.sets: dict[_Set, int] = {}
        end = self.op(_MATCH)
        self.entry = self.build(node, end)
        self.set_list = list(self.sets)
        self.lock = threading.Lock()
        self.classes: dict[str, int] = {}
        self.class_ids: dict[tuple[bool, ...], int] = {}
        self.class_bits: list[tuple[bool, ...]] = []
        self.states: dict[tuple[int, ...], _State] = {}
        self.cells = 0
        self.again = self.closure([self.entry], start=False)
        # The start state is never shared: only there may a `^` be passed, on an empty text together with a `$`.
        self.start = self.make(self.closure([self.entry], start=True), self.closure([self.entry], start=True, end=True))

    def op(self, kind: int, *outs: int, arg: int = 0) -> int:
        if len(self.ops) >= _MAX_NFA:
            raise _TooBig
        self.ops.append(kind)
        self.args.append(arg)
        self.outs.append(list(outs))
        return len(self.ops) - 1

    def build(self, node: _Node, then: int) -> int:
        """Add the states of `node` in front of the state `then`; return the entry."""
        if isinstance(node, _Set):
            return self.op(_CHAR, then, arg=self.sets.setdefault(node, len(self.sets)))
        if isinstance(node, _Cat):
            for part in reversed(node.parts):
                then = self.build(part, then)
            return then
        if isinstance(node, _Alt):
            return self.op(_SPLIT, *[self.build(option, then) for option in node.options])
        if isinstance(node, _Repeat):
            return self.build_repeat(node, then)
        if isinstance(node, _Edge) and node.kind in "^$":
            return self.op(_BOL if node.kind == "^" else _EOL, then)
        raise _TooBig

    def build_repeat(self, node: _Repeat, then: int) -> int:
        if node.high is None:
            loop = self.op(_SPLIT, then)
            self.outs[loop].append(self.build(node.body, loop))
            then = loop
        else:
            after = then
            for _ in range(node.high - node.low):
                then = self.op(_SPLIT, after, self.build(node.body, then))
        for _ in range(node.low):
            before = len(self.ops)
            then = self.build(node.body, then)
            if len(self.ops) == before:  # an empty body, however often
                break
        return then

    def closure(self, seeds: list[int], *, start: bool, end: bool = False) -> tuple[int, ...]:
        """All positions reachable without reading a character."""
        seen, stack, out = set(seeds), list(seeds), []
        while stack:
            at = stack.pop()
            kind = self.ops[at]
            if kind in (_CHAR, _MATCH, _EOL):
                out.append(at)
            if kind == _SPLIT or (kind == _BOL and start) or (kind == _EOL and end):
                for target in self.outs[at]:
                    if target not in seen:
                        seen.add(target)
                        stack.append(target)
        return tuple(sorted(out))

    def make(self, positions: tuple[int, ...], at_end: tuple[int, ...]) -> _State:
        return _State(
            positions,
            accepts=any(self.ops[p] == _MATCH for p in positions),
            accepts_at_end=any(self.ops[p] == _MATCH for p in at_end),
            dead=not positions and not self.again,
        )

    def state(self, positions: tuple[int, ...]) -> _State:
        known = self.states.get(positions)
        if known is not None:
            return known
        made = self.make(positions, self.closure(list(positions), start=False, end=True))
        self.cells += len(positions) + 8
        if self.cells > _MAX_DFA_CELLS:
            self.states = {}
            self.start.next = {}
            self.cells = 0
        self.states[positions] = made
        return made

    def class_of(self, char: str, budget: Budget) -> int:
        budget.spend(1 + len(self.set_list) // 4)
        bits = tuple([s.has(char) for s in self.set_list])
        with self.lock:
            found = self.class_ids.get(bits)
            if found is None:
                self.class_bits.append(bits)
                found = self.class_ids[bits] = len(self.class_bits) - 1
        if len(self.classes) >= _MAX_CLASSES:
            self.classes = {}
        self.classes[char] = found
        return found

    def step(self, state: _State, kind: int, budget: Budget) -> _State:
        budget.spend(1 + len(state.positions))
        bits = self.class_bits[kind]
        seeds = [self.outs[p][0] for p in state.positions if self.ops[p] == _CHAR and bits[self.args[p]]]
        reached = self.closure(seeds, start=False)
        budget.spend(len(reached))
        if self.again:
            reached = tuple(sorted({*reached, *self.again}))
        found = self.state(reached)
        state.next[kind] = found
        return found

    def search(self, text: str, budget: Budget) -> bool:
        budget.spend(len(text) >> 3)
        state = self.start
        for char in text:
            if state.accepts:
                return True
            if state.dead:
                return False
            kind = self.classes.get(char)
            if kind is None:
                kind = self.class_of(char, budget)
            found = state.next.get(kind)
            state = self.step(state, kind, budget) if found is None else found
        return state.accepts or state.accepts_at_end


# ---- the bounded use of `re` ----------------------------------------------------------------------------------------


def _source(node: _Node) -> str:
    """The pattern in the syntax of `re`.

    Raises:
        PatternError: it holds a Unicode category, which `re` cannot say.
    """
    if isinstance(node, _Set):
        return _set_source(node)
    if isinstance(node, _Cat):
        return "".join(map(_source, node.parts))
    if isinstance(node, _Alt):
        return "(?:" + "|".join(map(_source, node.options)) + ")"
    if isinstance(node, _Repeat):
        return f"(?:{_source(node.body)}){{{node.low},{'' if node.high is None else node.high}}}"
    if isinstance(node, _Edge):
        return {"^": r"\A", "$": r"\Z"}.get(node.kind, node.kind)
    return f"(?{'' if node.ahead else '<'}{'!' if node.negated else '='}{_source(node.body)})"


def _set_source(node: _Set) -> str:
    if node.categories:
        msg = "a Unicode category together with lookaround or a word boundary"
        raise PatternError(msg)
    if not node.ranges:
        return r"[\s\S]" if node.negated else "(?!)"
    inner = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in node.ranges)
    return f"[{'^' if node.negated else ''}{inner}]"


def _effort(node: _Node, length: int) -> tuple[int, int]:
    """Upper bounds of (ways to match, backtracking steps) of `node` on a text of `length`, capped."""
    if isinstance(node, _Set | _Edge):
        return 1, 1
    if isinstance(node, _Look):
        return 1, min(_CAP, _effort(node.body, length)[1] * (1 if node.ahead else length + 1))
    if isinstance(node, _Cat):
        ways, steps = 1, 1
        for part in node.parts:
            more_ways, more_steps = _effort(part, length)
            steps = min(_CAP, steps + ways * more_steps)
            ways = min(_CAP, ways * more_ways)
        return ways, steps
    if isinstance(node, _Alt):
        found = [_effort(option, length) for option in node.options]
        return min(_CAP, sum(w for w, _ in found)), min(_CAP, 1 + sum(s for _, s in found))
    return _repeat_effort(node, length)


def _repeat_effort(node: _Repeat, length: int) -> tuple[int, int]:
    body_ways, body_steps = _effort(node.body, length)
    if _can_be_empty(node.body):
        rounds = length + 1 if node.high is None else node.high
    else:
        rounds = min(length, node.low + length if node.high is None else node.high)
    if body_ways == 1:
        return max(1, rounds - min(node.low, rounds) + 1), min(_CAP, 1 + (rounds + 1) * body_steps)
    ways, total, steps = 1, 1, 1
    for _ in range(rounds):
        steps = min(_CAP, steps + ways * body_steps)
        ways = min(_CAP, ways * body_ways)
        total = min(_CAP, total + ways)
        if steps >= _CAP:
            break
    return total, steps


def _can_be_empty(node: _Node) -> bool:
    if isinstance(node, _Set):
        return False
    if isinstance(node, _Cat):
        return all(map(_can_be_empty, node.parts))
    if isinstance(node, _Alt):
        return any(map(_can_be_empty, node.options))
    if isinstance(node, _Repeat):
        return node.low == 0 or _can_be_empty(node.body)
    return True


def _anchored(node: _Node) -> bool:
    """Whether a match can only begin at the start of the text."""
    if isinstance(node, _Edge):
        return node.kind == "^"
    if isinstance(node, _Cat):
        return bool(node.parts) and (
            _anchored(node.parts[0]) or (isinstance(node.parts[0], _Look) and _anchored(_Cat(node.parts[1:])))
        )
    return isinstance(node, _Alt) and all(map(_anchored, node.options))


class _Bounded:
    """A pattern that `re` runs, on texts up to the length where its backtracking stays bounded."""

    def __init__(self, node: _Node) -> None:
        try:
            self.compiled = re.compile(_source(node), re.ASCII)
        except (re.error, OverflowError, RecursionError) as error:
            msg = "lookaround or a word boundary in a form that cannot be checked safely"
            raise PatternError(msg) from error
        self.find = self.compiled.match if _anchored(node) else self.compiled.search
        self.costs: list[tuple[int, int]] = []
        for length in _LENGTHS:
            steps = _effort(node, length)[1] * (1 if _anchored(node) else length + 1)
            if steps > _RE_WORK:
                break
            self.costs.append((length, steps))
        if not self.costs:
            msg = "backtracking without a usable bound"
            raise PatternError(msg)

    def search(self, text: str, budget: Budget) -> bool | None:
        for length, steps in self.costs:
            if len(text) <= length:
                budget.spend(steps >> 4)
                return self.find(text) is not None
        return None


class Pattern:
    """A compiled pattern. `exact` is false when `search` may answer None (unknown) on a long text."""

    __slots__ = ("_search", "exact")

    def __init__(self, source: str) -> None:
        """Compile `source`.

        Raises:
            PatternError: not a pattern of ECMA-262, or one that cannot be run in bounded time.
        """
        if len(source) > _MAX_SOURCE:
            msg = f"a pattern of more than {_MAX_SOURCE:,} characters"
            raise PatternError(msg)
        node = _Parser(source).parse()
        self._search: _Automaton | _Bounded
        try:
            self._search = _Automaton(node)
        except _TooBig:
            self._search = _Bounded(node)
        self.exact = isinstance(self._search, _Automaton)

    def search(self, text: str, budget: Budget) -> bool | None:
        """Whether the pattern matches somewhere in `text`; None when that cannot be told in bounded time.

        Raises:
            BudgetSpent: the steps of this check are used up.
        """
        return self._search.search(text, budget)


@lru_cache(maxsize=512)
def compile_pattern(source: str) -> Pattern:
    """Compile and remember a pattern.

    Raises:
        PatternError: see `Pattern`.
    """
    return Pattern(source)
