"""The Python that an optimised file carries: the modules of `runtime/`, as one text.

Their top-level names get a leading underscore, so that they stand apart from the reference's own; where two modules use one
name, or the reference has it already, the module's name goes in front.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from importlib.resources import files

MODULES = (
    "layout",
    "plan_cpu",
    "plan_cuda",
    "plan_product",
    "plan_few",
    "toolchain",
    "cache",
    "build",
    "product",
    "quick",
    "call",
    "launch",
    "launch_product",
    "kernels",
    "guard",
    "straight",
)
PACKAGE = "modelnew.runtime"


def carry(reserved: Iterable[str] = ()) -> tuple[str, dict[str, str]]:
    """The text, and what the public names of `launch`, `kernels`, `guard` and `straight` are called in it.

    `reserved`: names that the rest of the file uses.
    """
    sources = {
        module: files("modelnew").joinpath("runtime", module + ".py").read_text(encoding="utf-8") for module in MODULES
    }
    trees = {module: ast.parse(text) for module, text in sources.items()}
    names = _names({module: _defined(tree) for module, tree in trees.items()}, set(reserved))
    imports: set[str] = set()
    parts: list[str] = []
    for module, text in sources.items():
        lines, renames = _body(module, text, trees[module], names, imports)
        heading = (ast.get_docstring(trees[module]) or "").split("\n")[0]
        parts.append(f"# ---- {module}: {heading}\n\n" + _renamed(lines, renames).strip() + "\n")
    public = {
        name: names[module, name]
        for module in ("launch", "kernels", "guard", "straight")
        for name in _defined(trees[module])
    }
    return "\n".join(sorted(imports)) + "\n\n\n" + "\n\n".join(parts), public


def _defined(tree: ast.Module) -> list[str]:
    """Top-level names that a module defines itself."""
    names: list[str] = []
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.append(statement.name)
        elif isinstance(statement, ast.Assign):
            names += [n.id for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.append(statement.target.id)
    return names


def _names(defined: dict[str, list[str]], reserved: set[str]) -> dict[tuple[str, str], str]:
    plain: dict[tuple[str, str], str] = {}
    for module, names in defined.items():
        for name in names:
            plain[module, name] = "_" + name.lstrip("_")
    taken = list(plain.values())
    return {
        (module, name): f"_{module}_{short.lstrip('_')}" if taken.count(short) > 1 or short in reserved else short
        for (module, name), short in plain.items()
    }


def _body(
    module: str, text: str, tree: ast.Module, names: dict[tuple[str, str], str], imports: set[str]
) -> tuple[str, dict[str, str]]:
    """The module's text without docstring and imports; what its names are called."""
    lines = text.splitlines()
    renames = {name: new for (owner, name), new in names.items() if owner == module}
    for position, statement in enumerate(tree.body):
        is_docstring = position == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.ImportFrom) and (statement.level or (statement.module or "").startswith(PACKAGE)):
            owner = (statement.module or "").removeprefix(PACKAGE).strip(".")
            renames.update({alias.asname or alias.name: names[owner, alias.name] for alias in statement.names})
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports.update(_single_imports(statement))
        elif not is_docstring:
            continue
        for number in range(statement.lineno - 1, statement.end_lineno or statement.lineno):
            lines[number] = ""
    return "\n".join(lines), renames


def _single_imports(statement: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(statement, ast.Import):
        return [ast.unparse(ast.Import([alias])) for alias in statement.names]
    return [ast.unparse(ast.ImportFrom(statement.module, [alias], 0)) for alias in statement.names]


def _renamed(text: str, renames: dict[str, str]) -> str:
    """`text` with names changed wherever they stand for themselves: not as attributes, not inside text."""
    lines = text.splitlines(keepends=True)
    edits: list[tuple[int, int, str, str]] = []
    previous = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_method = previous == "def" and token.line[:1].isspace()
        if token.type == tokenize.NAME and token.string in renames and previous != "." and not is_method:
            edits.append((token.start[0] - 1, token.start[1], token.string, renames[token.string]))
        elif token.type == tokenize.STRING and token.string[0] in "fF":  # one token until Python 3.12, which splits it
            edits.append((token.start[0] - 1, token.start[1], token.string, _renamed_fields(token.string, renames)))
        elif token.type == tokenize.STRING and token.string.strip("\"'") in renames:  # a type written as text
            quote = token.string[0]
            edits.append(
                (token.start[0] - 1, token.start[1], token.string, quote + renames[token.string.strip(quote)] + quote)
            )
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.string
    for line, column, old, new in reversed(edits):
        lines[line] = lines[line][:column] + new + lines[line][column + len(old) :]
    collapsed = "".join(lines)
    while "\n\n\n\n" in collapsed:
        collapsed = collapsed.replace("\n\n\n\n", "\n\n\n")
    return collapsed


def _renamed_fields(text: str, renames: dict[str, str]) -> str:
    """An f-string with the names in its fields changed."""

    def field(match: re.Match[str]) -> str:
        return re.sub(r"(?<![\w.\"'])[A-Za-z_]\w*", lambda word: renames.get(word.group(), word.group()), match.group())

    return re.sub(r"\{[^{}]*\}", field, text)
