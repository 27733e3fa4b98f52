"""Whole numbers in a file's text at which its code may change course: block sizes, limits, special sizes."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator

LARGEST = 1 << 24
_FOLDED: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Pow: lambda a, b: a**b if b <= 24 else 0,
    ast.LShift: lambda a, b: a << b if b <= 24 else 0,
}
_NUMBER = r"(?<![\w.])(\d{1,9})(?![\w.])"
_COMPARED = re.compile(rf"(?:[<>=!]=?|%)\s*{_NUMBER}|{_NUMBER}\s*(?:[<>=!]=|[<>%])")
_ANY = re.compile(_NUMBER)
_PRODUCT = re.compile(rf"{_NUMBER}\s*(<<|\*)\s*{_NUMBER}")


def ranked(text: str) -> list[set[int]]:
    """The numbers, those that are likelier to be a boundary first: what Python compares with, what the text of a kernel
    compares with, what else Python names, what else a kernel names. Each is in one set only."""
    python_compared: set[int] = set()
    python: set[int] = set()
    strings: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and such are the file's own
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) or (
            isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.FloorDiv))
        ):
            python_compared |= set(_numbers(node))
        elif (value := _whole(node)) is not None:
            python.add(value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    kernel = _PRODUCT.sub(_folded, "\n".join(strings))
    kernel_compared = {int(number) for pair in _COMPARED.findall(kernel) for number in pair if number}
    kernel_any = {int(number) for number in _ANY.findall(kernel)}
    found: list[set[int]] = []
    for numbers in (python_compared, kernel_compared, python, kernel_any):
        found.append({n for n in numbers if 2 <= n <= LARGEST} - set().union(*found))
    return found


def _folded(found: re.Match[str]) -> str:
    left, operator, right = int(found[1]), found[2], int(found[3])
    return str(left * right if operator == "*" else left << min(right, 64))


def _numbers(node: ast.AST) -> Iterator[int]:
    """The numbers below `node`; of an expression only what it comes to."""
    if (value := _whole(node)) is not None:
        yield value
    else:
        for inner in ast.iter_child_nodes(node):
            yield from _numbers(inner)


def _whole(node: ast.AST) -> int | None:
    """The number that a literal is, or an expression of literals, such as 1 << 12 or 32 * 1024."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and (compute := _FOLDED.get(type(node.op))) is not None:
        left, right = _whole(node.left), _whole(node.right)
        if left is not None and right is not None and max(left, right) <= LARGEST:
            return compute(left, right)
    return None
