"""The constants at the top of a reference file, and `--set NAME=VALUE`: pure functions on its text, and its import.

A constant is a name that a module-level statement sets to a literal or to arithmetic on literals and other constants:
`batch_size = 128`, `M, N = 64, 4 * width`, `scale: float = 0.5`. An override rewrites the value in place, so that what
is computed from it follows, and line numbers stay what they were.
"""

from __future__ import annotations

import ast
import symtable
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from modelnew.errors import UsageError

_PURE_CALLS = {"int", "float", "bool", "str", "min", "max", "abs", "round", "len", "sum"}


@dataclass(frozen=True)
class _Place:
    """One place in the text where a constant gets its value."""

    name: str
    value: ast.expr


def constants(source: str) -> dict[str, object]:
    """Name → value of every constant in `source`, in order; the value of a computed one is its text, as "4 * width".

    `source` must parse.
    """
    found: dict[str, object] = {}
    for place in _places(ast.parse(source)):
        try:
            found[place.name] = ast.literal_eval(place.value)
        except (ValueError, TypeError):
            found[place.name] = ast.unparse(place.value)
    return found


def override(source: str, overrides: Mapping[str, object], *, on: str) -> tuple[str, dict[str, object]]:
    """`source` with the named constants set to new values, and the values that were set.

    A value given as text is read as a Python literal. `on` names the file in errors. Raises UsageError for a name that
    is no constant of the file and for a value that cannot be read or has another type than the constant.
    """
    places = list(_places(ast.parse(source)))
    known = constants(source)
    values = {name: _value(name, given, known, on) for name, given in overrides.items()}
    lines = source.split("\n")
    for place in reversed(places):  # from the end, so that earlier positions stay right
        if place.name in values:
            _replace(lines, place.value, repr(values[place.name]))
    return "\n".join(lines), values


def override_known(source: str, overrides: Mapping[str, object], *, on: str) -> str:
    """`source` with those of the constants set that it has; other names are none of its business. As `override` otherwise."""
    known = constants(source)
    return override(source, {name: value for name, value in overrides.items() if name in known}, on=on)[0]


def imported(path: Path, name: str, overrides: Mapping[str, object]) -> ModuleType:
    """The file as module `name`, with those of its constants set that `overrides` has. Raises what the file raises."""
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = sys.modules[name] = module_from_spec(spec)
    if overrides:
        text = override_known(path.read_text(), overrides, on=str(path))
        exec(compile(text, str(path), "exec"), module.__dict__)
    else:
        loader.exec_module(module)
    return module


def read_by(source: str, name: str) -> set[str]:
    """The module's names that the class or function `name` reads, directly or through what else the module defines.

    What is computed from a constant counts as reading it; a parameter of the same name does not. `source` must parse.
    """
    reads: dict[str, set[str]] = {}
    for node in _statements(ast.parse(source)):
        for target, value in _assigned(node):
            reads.setdefault(target, set()).update(_names(value))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            head = [*node.decorator_list, *(node.bases if isinstance(node, ast.ClassDef) else [node.args])]
            reads.setdefault(node.name, set()).update(*map(_names, head))
    for scope in symtable.symtable(source, "<reference>", "exec").get_children():
        reads.setdefault(scope.get_name(), set()).update(_globals_of(scope))
    found, pending = set[str](), [name]
    while pending:
        new = reads.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _globals_of(scope: symtable.SymbolTable) -> set[str]:
    own = {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return own.union(*map(_globals_of, scope.get_children()))


def _value(name: str, given: object, known: Mapping[str, object], on: str) -> object:
    """The value to set `name` to. Errors name the option as the user typed it."""
    if name not in known:
        raise UsageError(
            f"the file has no constant {name}",
            doing=f"setting {name}={given}",
            on=on,
            hint=f"Its constants: {', '.join(f'{key}={_short(value)}' for key, value in known.items()) or 'none'}.",
        )
    old = known[name]
    try:
        value = ast.literal_eval(given.strip()) if isinstance(given, str) else given
    except (ValueError, SyntaxError):
        value = given  # text for a constant that is text needs no quotes; for any other the next test refuses it
    if not _same_kind(old, value):
        raise UsageError(
            f"{given!r} cannot replace {_short(old)}: {_kind(old)} is needed", doing=f"setting {name}={given}", on=on
        )
    return value


def _same_kind(old: object, new: object) -> bool:
    if isinstance(old, str):  # text, or a computed constant, whose kind is known only when it runs
        return isinstance(new, (str, int, float, bool, tuple, list))
    if isinstance(old, bool) or isinstance(new, bool):
        return type(old) is type(new)
    if isinstance(old, float):
        return isinstance(new, (int, float))
    if isinstance(old, (tuple, list)):
        return isinstance(new, (tuple, list))
    return old is None or isinstance(new, type(old))


def _kind(value: object) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a tuple", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _places(tree: ast.Module) -> Iterator[_Place]:
    """Every place that sets a constant, in the order of the text. A name that `+=` changes later is no constant."""
    added_to = [node.target for node in _statements(tree) if isinstance(node, ast.AugAssign)]
    changed = {target.id for target in added_to if isinstance(target, ast.Name)}
    known: set[str] = set()
    for node in _statements(tree):
        for name, value in _assigned(node):
            if name not in changed and _is_constant(value, known):
                known.add(name)
                yield _Place(name, value)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module does, those under `if`, `try` and `with` included."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop(0)
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)) and not _is_main_guard(node):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            handlers = [stmt for handler in getattr(node, "handlers", []) for stmt in handler.body]
            pending[:0] = sorted(inner + handlers, key=lambda child: child.lineno)


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Name):
            yield target.id, value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for part, part_value in zip(target.elts, value.elts, strict=True):
                if isinstance(part, ast.Name):
                    yield part.id, part_value


def _is_constant(node: ast.expr, known: set[str]) -> bool:
    match node:
        case ast.Constant(value=value):
            return value is not Ellipsis and not isinstance(value, (bytes, complex))
        case ast.Name(id=name):
            return name in known
        case ast.UnaryOp(operand=operand):
            return _is_constant(operand, known)
        case ast.BinOp(left=left, right=right):
            return _is_constant(left, known) and _is_constant(right, known)
        case ast.IfExp(body=body, orelse=orelse):
            return _is_constant(body, known) and _is_constant(orelse, known)
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return all(_is_constant(element, known) for element in elements)
        case ast.Call(func=function, args=args, keywords=[]):
            return _is_pure_call(function) and all(_is_constant(arg, known) for arg in args)
    return False


def _is_pure_call(function: ast.expr) -> bool:
    match function:
        case ast.Name(id=name):
            return name in _PURE_CALLS
        case ast.Attribute(value=ast.Name(id="math")):
            return True
    return False


def _replace(lines: list[str], node: ast.expr, text: str) -> None:
    """Puts `text` where `node` stands, keeping the number of lines."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    # ast counts columns in UTF-8 bytes
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    if last > first:
        text = f"({text}" + "\n" * (last - first) + ")"
    lines[first : last + 1] = (before + text + after).split("\n")
