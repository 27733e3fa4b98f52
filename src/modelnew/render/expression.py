"""Expression → C++ text. The same text compiles for both targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from modelnew.kernel.ir import FORMED, INFIX, NARROW_TYPES, ROUNDED, Expr

LONGEST_LINE = 110


class Writer:
    """Writes expressions as statements: what is used more than once, or grows too long, gets a name."""

    def __init__(
        self,
        names: Mapping[int, str],
        unique: Callable[[str], str],
        size: str = "row.size()",
        divisors: Mapping[int, str] = MappingProxyType({}),
        form: str = "",
    ) -> None:
        """`names`: variables that hold expressions, by id. `size`: the text of a row's size. `divisors`: variables that
        hold what to divide by in place of an expression. `form`: a variable that says which form of a function to take."""
        self.form = form
        self.divisors = divisors
        self.size = size
        self.names = dict(names)
        self.unique = unique
        self.lines: list[str] = []

    def write(self, roots: tuple[Expr, ...]) -> list[str]:
        """Statements into `lines`; returns the text of each root."""
        uses = self._uses(roots)
        return [self._text(root, uses) for root in roots]

    def _uses(self, roots: tuple[Expr, ...]) -> dict[int, int]:
        uses: dict[int, int] = {}
        stack = list(roots)
        while stack:
            expr = stack.pop()
            uses[id(expr)] = uses.get(id(expr), 0) + 1
            if uses[id(expr)] == 1 and id(expr) not in self.names:
                stack.extend(expr.args)
        return uses

    def _text(self, expr: Expr, uses: dict[int, int]) -> str:
        if id(expr) in self.names:
            return self.names[id(expr)]
        if expr.kind == "const":
            return literal(expr)
        if expr.kind == "size":
            return f"{expr.ctype}({self.size})"
        if expr.kind == "contiguous":
            return self._text(expr.args[0], uses)
        text = self._compose(expr, uses)
        if uses[id(expr)] > 1 or len(text) > LONGEST_LINE - 30:
            name = self.unique(str(expr.detail) if expr.kind == "call" else expr.kind)
            self.lines.append(f"const auto {name} = {bare(text)};")
            self.names[id(expr)] = name
            return name
        return text

    def _compose(self, expr: Expr, uses: dict[int, int]) -> str:
        args = [self._text(arg, uses) for arg in expr.args]
        if expr.kind == "cast":
            return f"mn::cast<{expr.ctype}>({bare(args[0])})"
        if expr.kind == "round":
            return f"mn::round_to<{expr.detail}>({bare(args[0])})"
        if expr.kind == "pick":
            return f"row.template pick<{expr.detail}>({bare(args[0])})"
        if expr.kind != "call":
            raise AssertionError(f"{expr.kind} has no text of its own")
        function = str(expr.detail)
        if function == "div" and id(expr.args[1]) in self.divisors:
            args[1] = self.divisors[id(expr.args[1])]
        if function in INFIX:
            text = f"({args[0]} {INFIX[function]} {args[1]})"
        elif function in ("neg", "not", "bitnot"):
            text = {"neg": "-", "not": "!", "bitnot": "~"}[function] + args[0]
            text = f"({text})"
        else:
            storage = "<T>" if function in ROUNDED and expr.ctype == "C" else ""
            form = [self.form] if self.form and function in FORMED else []
            return f"mn::{function}{storage}({', '.join([*form, *map(bare, args)])})"
        # C++ computes narrow integers in int: bring the result back as PyTorch wraps it
        narrow = expr.ctype in NARROW_TYPES or (expr.ctype == "bool" and function not in ("and", "or", "not"))
        return f"mn::cast<{expr.ctype}>({bare(text)})" if narrow else text


def bare(text: str) -> str:
    """Without the outer parentheses, where a comma or bracket already separates."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and position < len(text) - 1:
            return text
    return text[1:-1]


def literal(expr: Expr) -> str:
    """A constant of the expression's type: the double nearest to the Python number, then converted."""
    value = expr.detail
    if expr.ctype == "bool":
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return f"{expr.ctype}(NAN)"
        if math.isinf(value):
            return f"{expr.ctype}({'-' if value < 0 else ''}INFINITY)"
        return f"{expr.ctype}({value!r})"
    if value == -(1 << 63):
        return f"{expr.ctype}(INT64_MIN)"
    return f"{expr.ctype}({value})"
