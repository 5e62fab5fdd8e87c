"""The markup of chat templates that a server left in a text, known by its shape and not by a list of dialects.

A text is markup when nothing but tags, special tokens, JSON and `name(...)` stands in it, around a call. Whoever talks
*about* such markup writes words around it, puts it into code, or was asked for it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

_MAX_TEXT = 100_000
_MAX_PIECES = 200

_SPACE = r"[\s\u200b\u200c\u200d\u2060\ufeff]"
_NAME = r"[^\W\d][\w.:\-/]{0,127}"
_ROLE = r"(?:assistant|user|system|tool|developer|model|ipython|function|analysis|commentary|final)"
TOKEN = (  # DeepSeek writes the bars full width, Kimi and GLM with letters of their own; the shape is the same
    rf"<[|\uff5c][^<>|\uff5c\n]{{1,60}}[|\uff5c]>(?:{_ROLE}(?![\w.]))?+"
    r"|</?s>|<(?:bos|eos|pad|unk|unused\d+)>|\[/?INST\]|<</?SYS>>"
    rf"|<(?:start|end)_of_(?:turn|utterance)>(?:{_ROLE}(?!\w))?+"
)
is_template: Final = re.compile(rf"(?:{_SPACE}++|{TOKEN})*+").fullmatch
_CALLING = r"(?i:tool|func|call|invoke|action|plugin|python_tag)"
_BETWEEN = re.compile(
    rf"{_SPACE}++|[;,)]|```(?:\w+)?|{TOKEN}|\[/?[A-Z][A-Z_]{{2,30}}\]|</[^<>\n]{{1,80}}>|json(?=\s*[{{\[])"
)
_TAG = re.compile(
    rf"<[|\uff5c]?(?:DSML[|\uff5c])?(?P<name>{_NAME})(?P<rest>(?:=|\s+[\w\-]+\s*=)[^<>\n]{{1,200}})?\s*/?>"
)
_CALL = re.compile(
    rf"(?P<start>(?:(?i:call)[: ]{{1,3}}|print\(|@)?"
    rf"(?:(?:assistant)?(?:commentary|analysis)\s+)?(?:to=)?(?P<known>functions\.)?)(?P<name>{_NAME})"
    rf"(?::\d{{1,6}})?+(?:{_SPACE}++|{TOKEN}|\[ARGS\]|```(?:json)?|json(?=\s*[{{\[<]))*+(?=[({{])"
)
_REACT = re.compile(r"(?im)^\W{0,3}action\W{0,3}:.{1,200}\n\s*\W{0,3}action[ _]input\W{0,3}:")
_LABELLED = re.compile(
    rf"(?i)\W{{0,3}}(?:tool|function)(?:[ _]name)?\W{{0,3}}:\W{{0,3}}(?P<name>{_NAME})\W{{0,3}}\n\s*"
    r"\W{0,3}(?:(?:tool|function)[ _])?(?:input|args|arguments|parameters)\W{0,3}:\s*(?:(?P<json>[{\[])|[^\n]+$)"
)
_STRIPPED = re.compile(
    rf"(?:^|assistant)(?:commentary|analysis)\s*to=(?:functions\.)?{_NAME}.{{0,40}}?[{{(]", re.DOTALL
)
_THOUGHT = r"(?:\w{1,20}:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad)"
_OPENS_THOUGHT = re.compile(  # Cohere and Kimi use brackets of their own, some write "begin_of_thought"
    rf"\s*(?P<open>[<◁][|\uff5c]?|\[(?=THINK\]))(?:(?:begin|start)_(?:of_)?)?(?P<name>{_THOUGHT})(?P<shut>[|\uff5c]?[>\]▷])"
    r"(?!\s?(?:is|are|was|and|or|means|marks|opens|tags?)\b)",
    re.IGNORECASE,
)
_CLOSES_THOUGHT = re.compile(rf"(?:(?<=[.!?\n])|^)\s*</{_THOUGHT}>|\[/THINK\]", re.IGNORECASE)
_CHANNEL = re.compile(  # Gemma begins and ends a thought by reserved tokens
    r"<\|channel\|>(?:analysis|thinking)\b[^<]{0,40}<\|message\|>.*?(?:<\|end\|>|$)"
    r"|^\s*<unused\d+>thoughts?\b.*?(?:<unused\d+>|$)",
    re.DOTALL,
)
_FINAL = re.compile(r"analysis(?=[A-Z\n]).*?(?:assistantfinal|(?P<none>$))", re.DOTALL)
_USER = re.compile(
    rf"(?:{TOKEN})\s*(?:<\|(?:im_start|start|start_header_id)\|>|<start_of_turn>)(?:user|human)\b"
    rf"|(?:<\|(?:user|human)\|>|<[|\uff5c]User[|\uff5c]>|(?<=</s>)\s*\[INST\])",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]*`", re.DOTALL)
_SIGNS = re.compile(r"[{(<\[:]")
"""Without one of these nothing is the markup of a call."""
_MARK = re.compile(r"\\.|[\"'(){}\[\]]", re.DOTALL)
_ARGUMENTS = ("arguments", "args", "parameters", "input", "action_input", "tool_input")
_IDENTIFIER = re.compile(r"[A-Za-z]\w*(?:[.:\-]\w+)*")
_NAMES = ("name", "tool", "tool_name", "function", "action")


def without_thoughts(text: str) -> str:
    """Return the text behind inline reasoning, which stands there when a model is served without a reasoning parser.

    A thought ends at its last closing tag; one that never ends is the whole text.
    """
    text = _CHANNEL.sub("", text[:_MAX_TEXT]) + text[_MAX_TEXT:] if "<|channel|>" in text or "<unused" in text else text
    if opened := _OPENS_THOUGHT.match(text):
        start, name, end = (re.escape(opened[part]) for part in ("open", "name", "shut"))
        closed = re.compile(rf"{start}(?:/|end_(?:of_)?){name}{end}", re.IGNORECASE)
        return text[max((match.end() for match in closed.finditer(text)), default=len(text)) :]
    if "</" in text or "[/THINK]" in text:
        ends = [closed.end() for closed in _CLOSES_THOUGHT.finditer(text)]
        if ends:
            return text[ends[-1] :]
    if text.startswith("analysis") and (stripped := _FINAL.match(text)):
        return text if stripped["none"] is not None and _STRIPPED.search(text) else text[stripped.end() :]
    return text


def ends_in_template(text: str) -> bool:
    """Return whether a text ends in a special token, or runs on behind one as the user."""
    return "<" in text and (re.search(rf"(?:{TOKEN})\s*$", text[-200:]) is not None or runs_on(text))


def runs_on(text: str) -> bool:
    """Return whether the text goes on behind its end as the user's next turn."""
    return _USER.search(_CODE.sub("", text[:_MAX_TEXT])) is not None


def is_call(text: str, offered: Container[str], request: str) -> bool:
    """Return whether a text is nothing but the markup of calls; what the request itself speaks of was asked for."""
    if len(text) > _MAX_TEXT or not _SIGNS.search(text):
        return False
    text = text.strip()
    if _STRIPPED.match(text) or (text.startswith("analysis") and _STRIPPED.search(text)):
        return True
    if react := _REACT.search(text):
        return "action input" not in request.lower() and "```" not in text[: react.start()]
    fenced = re.fullmatch(r"```(json|tool_call|tool_code)\s*(.*?)\s*```", text, re.DOTALL)
    if text.startswith("```") and (fenced is None or fenced[1] == "json"):
        # a block of code is shown, unless it is a call in JSON and nothing else
        return fenced is not None and _is_json_call(fenced[2], offered, request)
    text = fenced[2] if fenced else text
    if (labelled := _LABELLED.match(text)) and (labelled["json"] or labelled["name"] in offered):
        return True
    listed = re.fullmatch(r"\w{0,20}(\[.*\])", text, re.DOTALL)  # functools[...]
    return (
        _is_json_call(listed[1] if listed else text, offered, request)
        or _only_calls(text, offered, request)
        or (listed is not None and _only_calls(listed[1][1:-1], offered, request))
    )


def _is_json_call(text: str, offered: Container[str], request: str) -> bool:
    """Return whether a text is JSON that names a tool and its arguments, and nobody asked for JSON."""
    if text[:1] not in "{[" or re.search(r"json|schema|example|format", request, re.IGNORECASE):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, dict) and _names_call(item, offered) for item in items)


def _names_call(item: dict[str, object], offered: Container[str]) -> bool:
    """Return whether an object is a call: of an offered tool, or in the very keys that the field's formats use."""
    inner = item.get("function")
    if isinstance(inner, dict):
        item = inner
    names = [name for key in _NAMES if isinstance(name := item.get(key), str)]
    given = [key for key in _ARGUMENTS if key in item]
    if not given or len(item) > 4:  # name, arguments, id, type
        return False
    exact = "action_input" in item or isinstance(item.get("arguments", item.get("parameters")), dict | str)
    return any(name in offered or (exact and _IDENTIFIER.fullmatch(name)) for name in names)


def _only_calls(text: str, offered: Container[str], request: str) -> bool:
    at, calls, announced = 0, 0, False
    for _ in range(_MAX_PIECES):
        while between := _BETWEEN.match(text, at):
            announced |= between[0][:1] in "<[" and re.search(_CALLING, between[0]) is not None
            at = between.end()
        if at >= len(text):
            return calls > 0
        end = _element(text, at, offered, request) or _plain(text, at, offered, announced=announced)
        if end is None:
            return False
        at, calls = end, calls + 1
    return False


def _element(text: str, at: int, offered: Container[str], request: str) -> int | None:
    """Return where the element of a call that begins here ends; None when it is none."""
    tag = _TAG.match(text, at)
    name = tag["name"] if tag else ""
    if tag is None or name in request or not (name in offered or re.search(_CALLING, name)):
        return None
    if tag[0].endswith("/>"):
        return tag.end() if tag["rest"] else None
    closing = re.compile(
        rf"</[|\uff5c]?(?:DSML[|\uff5c])?{re.escape(name)}>|<end{re.escape(name.removeprefix('start'))}>"
    )
    closed = closing.search(text, tag.end())
    end = closed.end() if closed else len(text)
    inside = text[tag.end() : closed.start() if closed else end]
    if closed is None and (
        re.sub(rf"(?:{TOKEN}|\s)+$", "", text)[-1:] not in "}])>"
        or not re.match(r"\s*(?:[\[{<]|[\w.:]+\s*[{(<])", inside)
    ):
        return None
    return end if tag["rest"] or name in offered or re.search(r"[{(<]", inside) else None


def _plain(text: str, at: int, offered: Container[str], *, announced: bool) -> int | None:
    """Return where JSON behind an announcement, or `name(...)`, ends; None when neither stands here."""
    if announced and text[at] in "{[":
        return _after_bracket(text, at, may_be_cut=True)
    call = _CALL.match(text, at)
    if call is None:
        return None
    named = call["name"] in offered or ("_" in call["name"] and text[call.end()] == "{")
    if not (announced or call["known"] or "to=" in call["start"] or named):
        return None
    return _after_bracket(text, call.end(), may_be_cut=announced)


def _after_bracket(text: str, start: int, *, may_be_cut: bool) -> int | None:
    """Return where the bracket at `start` is closed, strings left out; None when it is not.

    A call that was never closed is one, too, where a text stops like markup: that is why nobody parsed it.
    """
    depth, quote = 0, ""
    for match in _MARK.finditer(text, start):
        mark = match[0]  # a backslash takes the next letter with it
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        elif mark[0] != "\\":
            depth += 1 if mark in "([{" else -1
            if depth <= 0:
                return match.end()
    return len(text) if may_be_cut and text[-1:] in "}])>" else None
