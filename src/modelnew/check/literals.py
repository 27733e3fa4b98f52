"""Whole numbers in a file's text at which its code may change course: block sizes, limits, special sizes."""

from __future__ import annotations

import ast
import re
import warnings

LARGEST = 1 << 24
_NUMBER = r"(?<![\w.])(\d{1,9})(?![\w.])"
_COMPARED = re.compile(rf"(?:[<>=!]=?|%)\s*{_NUMBER}|{_NUMBER}\s*(?:[<>=!]=|[<>%])")
_ANY = re.compile(_NUMBER)


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
            python_compared |= {value for inner in ast.walk(node) if (value := _whole(inner)) is not None}
        elif (value := _whole(node)) is not None:
            python.add(value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
    kernel = "\n".join(strings)
    kernel_compared = {int(number) for pair in _COMPARED.findall(kernel) for number in pair if number}
    kernel_any = {int(number) for number in _ANY.findall(kernel)}
    found: list[set[int]] = []
    for numbers in (python_compared, kernel_compared, python, kernel_any):
        found.append({n for n in numbers if 2 <= n <= LARGEST} - set().union(*found))
    return found


def _whole(node: ast.AST) -> int | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return None
