"""A calculator as a tool: the four operations on decimals, by a small parser of its own.

There is no `eval`, no names, no powers; text, depth, digits and work are bounded before anything is computed.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation, localcontext
from typing import Annotated, Final

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import Field, ValidationError

MAX_CHARACTERS: Final = 200
_MAX_DEPTH: Final = 20
_MAX_VALUE: Final = Decimal(10) ** 15
_TOKEN: Final = re.compile(r"\s*(?:([0-9]{1,15}(?:\.[0-9]{1,10})?)|([-+*/()]))")


def evaluate(expression: str) -> Decimal:
    """The value of `+ - * /`, parentheses and decimal numbers.

    Raises:
        ToolException: too long, too deep, too large, a division by zero, or not an expression.
    """
    if len(expression) > MAX_CHARACTERS:
        msg = f"The expression is longer than {MAX_CHARACTERS} characters."
        raise ToolException(msg)
    with localcontext(Context(prec=40)):
        parser = _Parser(_tokens(expression))
        try:
            value = parser.sum(0)
        except (InvalidOperation, ZeroDivisionError) as error:
            msg = "Division by zero."
            raise ToolException(msg) from error
        if parser.left:
            msg = f"Unexpected {parser.left[-1]!r} in the expression."
            raise ToolException(msg)
        return value


def _tokens(expression: str) -> list[str]:
    tokens: list[str] = []
    position, text = 0, expression.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            msg = f"Only numbers, + - * / and parentheses are understood (position {position})."
            raise ToolException(msg)
        tokens.append(match.group(1) or match.group(2))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over reversed tokens: `left[-1]` is the next one."""

    def __init__(self, tokens: list[str]) -> None:
        self.left = tokens[::-1]

    def sum(self, depth: int) -> Decimal:
        value = self.product(depth)
        while self.left and self.left[-1] in "+-":
            sign = self.left.pop()
            right = self.product(depth)
            value = _bounded(value + right if sign == "+" else value - right)
        return value

    def product(self, depth: int) -> Decimal:
        value = self.factor(depth)
        while self.left and self.left[-1] in "*/":
            sign = self.left.pop()
            right = self.factor(depth)
            value = _bounded(value * right if sign == "*" else value / right)
        return value

    def factor(self, depth: int) -> Decimal:
        if depth > _MAX_DEPTH:
            msg = f"The expression is nested deeper than {_MAX_DEPTH}."
            raise ToolException(msg)
        if not self.left:
            msg = "The expression ends too early."
            raise ToolException(msg)
        part = self.left.pop()
        if part == "-":
            return -self.factor(depth + 1)
        if part == "(":
            value = self.sum(depth + 1)
            if not self.left or self.left.pop() != ")":
                msg = "A parenthesis is not closed."
                raise ToolException(msg)
            return value
        if part[0].isdigit():
            return Decimal(part)
        msg = f"Unexpected {part!r} in the expression."
        raise ToolException(msg)


def _bounded(value: Decimal) -> Decimal:
    if abs(value) > _MAX_VALUE:
        msg = "The result is larger than 10^15."
        raise ToolException(msg)
    return value


def calculate(
    expression: Annotated[
        str, Field(description="Numbers, + - * / and parentheses, e.g. '2 * 34.90 + 4.90'", max_length=MAX_CHARACTERS)
    ],
) -> dict[str, str]:
    """Compute an arithmetic expression exactly; the result is rounded to 2 decimals."""
    value = evaluate(expression)
    return {"expression": expression, "result": str(value.quantize(Decimal("0.01"), ROUND_HALF_UP, Context(prec=40)))}


async def _acalculate(expression: str) -> dict[str, str]:
    return calculate(expression)


def explain(error: object) -> str:
    """Return what was wrong with the arguments, one line per argument, without repeating their values."""
    found = error.errors() if isinstance(error, ValidationError) else []
    lines = [f"{'/'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in found[:5]]
    return "Invalid arguments. " + "; ".join(lines)


def calculator_tool() -> BaseTool:
    """`calculate` as a tool whose errors come back as messages with status `error`."""
    return StructuredTool.from_function(calculate, _acalculate, handle_tool_error=True, handle_validation_error=explain)
