"""The markup of chat templates as it stands in a text when a server did not parse it: special tokens and raw calls.

Law: a text is read once from left to right; what is not markup from its beginning to its end is somebody's answer.
"""

from __future__ import annotations

import re
from itertools import islice

_MAX_TEXT = 100_000
_MAX_CALLS = 64
_MAX_NAMES = 32

_SPACE = r"[\s\u200b\u200c\u200d\u2060\ufeff]++"
_ROLE = r"(?:assistant|user|system|tool|developer|model|ipython|function|analysis|commentary|final)"
_BAR = "[|\uff5c]"  # DeepSeek writes them full width
_TOKEN = (
    rf"<{_BAR}[\w\u2581 .-]{{1,40}}{_BAR}>(?:{_ROLE}(?![\w.]))?+"
    r"|</?s>|<(?:bos|eos|pad|unk)>"
    rf"|<(?:start_of_turn|end_of_turn|end_of_utterance)>(?:{_ROLE}(?!\w))?+"
    r"|\[/?INST\]|<</?SYS>>"
)
_MARKUP = re.compile(rf"(?:{_SPACE}|{_TOKEN})*+")

_BETWEEN = re.compile(
    rf"(?:{_SPACE}|[;,]|```|{_TOKEN}|\[/?TOOL_CALLS\]|</?(?:antml:)?(?:function_calls|tool_calls)>|</tool_call>)*+"
)
"""What stands around calls."""
_OPENS = re.compile(r"\[TOOL_CALLS\]|<[|\uff5c](?:python_tag|tool[\w\u2581]*|START_ACTION)[|\uff5c]>")
"""After one of these comes a call without a tag of its own."""
_NAME = r"[\w.\-/]{1,128}"
_TAG = re.compile(
    rf"""<(?:
      (?P<equal>function)=["']?(?P<a>{_NAME})["']?\s*>
    | (?P<invoke>(?:antml:)?invoke)\s+name\s*=\s*["'](?P<b>{_NAME})["']\s*>
    | (?P<call>tool_call|toolcall|function_call|functioncall)>\s*
      (?: <function=(?P<c>{_NAME})> | (?P<json>[\[{{]) | (?P<d>{_NAME})\s*(?=<|$) )
    )""",
    re.VERBOSE,
)
_FUNCTIONS = re.compile(
    rf"(?:to=)?functions\.(?P<name>[\w\-]{{1,128}})(?::\d{{1,6}})?+(?:{_SPACE}|{_TOKEN}|json(?=[\s<{{]))*+(?=[({{])"
)
_BARE = re.compile(rf"(?P<name>{_NAME})(?::\d{{1,6}})?+(?:{_SPACE}|{_TOKEN}|\[ARGS\]|```(?:json)?)*+(?=[({{])")
_NAME_KEY = re.compile(r""""(?:name|tool_name|function)"\s*:\s*"([^"\\]{1,128})\"""")
_MARK = re.compile(r"[\"'\\(){}\[\]]")
_CLOSERS = "}])>"


def is_markup(text: str) -> bool:
    """Whether a text is nothing but white space and special tokens of chat templates."""
    return _MARKUP.fullmatch(text) is not None


def raw_calls(text: str) -> list[str]:
    """Names of the calls that a text consists of; empty when it is anything but raw calls."""
    if len(text) > _MAX_TEXT:
        return []
    names: list[str] = []
    position, announced = 0, False
    for _ in range(_MAX_CALLS):
        match = _BETWEEN.match(text, position)
        start = position if match is None else match.end()
        if start == len(text):
            return names
        announced = announced or _OPENS.search(text, position, start) is not None
        found = _call(text, start, announced=announced)
        if found is None:
            return []
        names += found[0]
        position = found[1]
    return []


def _call(text: str, start: int, *, announced: bool) -> tuple[list[str], int] | None:
    """Names in the call that begins at `start`, and where it ends."""
    tag = _TAG.match(text, start)
    if tag is not None:
        name = tag["a"] or tag["b"] or tag["c"] or tag["d"]
        end = _after_tag(text, tag.end(), tag["equal"] or tag["invoke"] or tag["call"])
        return None if end is None else ([name] if name else _names(text, start, end), end)
    plain = _FUNCTIONS.match(text, start)
    if plain is not None:
        end = _after_bracket(text, plain.end())
        return None if end is None else ([plain["name"]], end)
    if not announced:
        return None
    if text[start] in "[{":
        end = _after_bracket(text, start) or _to_the_end(text)
        return None if end is None else (_names(text, start, end), end)
    bare = _BARE.match(text, start)
    if bare is None:
        return None
    end = _after_bracket(text, bare.end()) or _to_the_end(text)
    name = bare["name"]
    return None if end is None else ([name, name.removeprefix("functions."), name.removesuffix(".call")], end)


def _names(text: str, start: int, end: int) -> list[str]:
    return [match[1] for match in islice(_NAME_KEY.finditer(text, start, end), _MAX_NAMES)]


def _after_tag(text: str, start: int, tag: str) -> int | None:
    closing = f"</{tag}>"
    at = text.find(closing, start)
    return _to_the_end(text) if at < 0 else at + len(closing)


def _to_the_end(text: str) -> int | None:
    """The end of a text that stops like markup: a call that was never closed, which is why nobody parsed it."""
    return len(text) if text.rstrip()[-1:] in _CLOSERS else None


def _after_bracket(text: str, start: int) -> int | None:
    """Where the bracket at `start` is closed, strings left out; None when it is not."""
    depth, quote, escaped = 0, "", -1
    for match in _MARK.finditer(text, start):
        at = match.start()
        mark = text[at]
        if at == escaped:
            continue
        if mark == "\\":
            escaped = at + 1
        elif quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        elif mark in "([{":
            depth += 1
        else:
            depth -= 1
            if depth <= 0:
                return at + 1
    return None
