"""Kernel IR: what one kernel computes, before it is text.

An `Expr` is a node of an expression DAG, made and shared by one `Builder` (equal expressions are the same object, so a
common subexpression is computed once). A `Kernel` is a domain, operands that are read or written over it, and the
expressions that are stored. Everything here is pure data: no torch, no C++.

Types are C++ names: `C` is what the tensors' dtype `T` is computed in; `float`, `double`, `int64_t` … are themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Number = bool | int | float
Axes = tuple[int | None, ...]
Kind = Literal["load", "pick", "index", "size", "const", "call", "cast", "round", "reduce", "contiguous"]

FLOAT_TYPES = frozenset({"C", "float", "double"})
NARROW_TYPES = frozenset({"int8_t", "uint8_t", "int16_t"})  # C++ computes these in int

INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "bitand": "&",
    "bitor": "|",
    "bitxor": "^",
    "and": "&&",
    "or": "||",
}
# Functions that take the type their result is rounded to, and are cheaper for some.
ROUNDED = frozenset({"sigmoid", "silu", "gelu", "gelu_tanh", "tanh"})
# Functions with a cheaper form for nearly all arguments (common/forms.h).
FORMED = frozenset({"gelu"})
REDUCTIONS = frozenset({"sum", "prod", "max", "min", "any", "all"})
# Functions that cost more than a few instructions: worth keeping between sweeps instead of computing again.
COSTLY = frozenset(
    "exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan atan2 erf erfc pow sigmoid logsigmoid"
    " softplus gelu gelu_tanh silu mish fmod remainder div sqrt rsqrt".split()
)


@dataclass(frozen=True, eq=False)
class Expr:
    """One scalar expression. `detail` is the operand's number, the constant, the function, or the reduction.

    "pick" is one element of an operand's row, where its argument says; of a place outside the row, the nearest one.
    "contiguous" is its argument, in a tensor that lies contiguously along `axes`.
    """

    kind: Kind
    ctype: str
    args: tuple[Expr, ...]
    detail: Number | str
    builder: Builder = field(repr=False)
    axes: Axes | None = None

    def __add__(self, other: Expr | Number) -> Expr:
        return self.builder.call("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return self.builder.call("add", other, self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return self.builder.call("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return self.builder.call("sub", other, self)

    def __mul__(self, other: Expr | Number) -> Expr:
        return self.builder.call("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return self.builder.call("mul", other, self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return self.builder.call("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return self.builder.call("div", other, self)

    def __neg__(self) -> Expr:
        return self.builder.call("neg", self)


class Builder:
    """Makes expressions; equal ones are made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Expr] = {}

    def _make(
        self, kind: Kind, ctype: str, args: tuple[Expr, ...], detail: Number | str, axes: Axes | None = None
    ) -> Expr:
        key = (kind, ctype, tuple(id(arg) for arg in args), type(detail), repr(detail), axes)
        if key not in self._made:
            self._made[key] = Expr(kind, ctype, args, detail, self, axes)
        return self._made[key]

    def load(self, operand: int, ctype: str) -> Expr:
        return self._make("load", ctype, (), operand)

    def pick(self, operand: int, ctype: str, place: Expr) -> Expr:
        return self._make("pick", ctype, (place,), operand)

    def index(self) -> Expr:
        """The element's position in its row."""
        return self._make("index", "int64_t", (), "")

    def const(self, value: Number, ctype: str) -> Expr:
        if ctype in FLOAT_TYPES:
            return self._make("const", ctype, (), float(value))
        return self._make("const", ctype, (), bool(value) if ctype == "bool" else int(value))

    def cast(self, value: Expr, ctype: str) -> Expr:
        if value.ctype == ctype:
            return value
        if value.kind == "const" and not isinstance(value.detail, str):
            return self.const(value.detail, ctype)
        return self._make("cast", ctype, (value,), "")

    def round(self, value: Expr, storage: str) -> Expr:
        """`value` as it would be after a store to, and a load from, the storage type."""
        return self._make("round", value.ctype, (value,), storage)

    def call(self, function: str, *args: Expr | Number, ctype: str | None = None) -> Expr:
        """A function of `mn::` (or an operator) on arguments of one type; numbers take the type of the expressions."""
        typed = [arg for arg in args if isinstance(arg, Expr)]
        common = next((arg.ctype for arg in typed if arg.ctype != "bool"), typed[0].ctype)
        exprs = tuple(arg if isinstance(arg, Expr) else self.const(arg, common) for arg in args)
        return self._make("call", ctype or common, exprs, function)

    def compare(self, function: str, left: Expr | Number, right: Expr | Number) -> Expr:
        return self.call(function, left, right, ctype="bool")

    def where(self, condition: Expr, yes: Expr | Number, no: Expr | Number) -> Expr:
        typed = next((value for value in (yes, no) if isinstance(value, Expr)), None)
        if typed is None:
            raise TypeError("where needs an expression among its values")
        yes, no = (value if isinstance(value, Expr) else self.const(value, typed.ctype) for value in (yes, no))
        return self._make("call", typed.ctype, (condition, yes, no), "where")

    def contiguous(self, value: Expr, axes: Axes) -> Expr:
        return self._make("contiguous", value.ctype, (value,), "", axes)

    def again(self, expr: Expr, args: tuple[Expr, ...]) -> Expr:
        """The same of other arguments."""
        return self._make(expr.kind, expr.ctype, args, expr.detail, expr.axes)

    def size(self, ctype: str) -> Expr:
        """How many elements a row has."""
        return self._make("size", ctype, (), "")

    def reduce(self, operation: str, value: Expr) -> Expr:
        if operation == "sum" and value.kind == "const":
            return self.size(value.ctype) * value if value.detail != 1 else self.size(value.ctype)
        return self._make("reduce", value.ctype, (value,), operation)


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or writes.

    `axes`: for each of the tensor's dims the domain's axis that it runs along, or None for a dim of size 1.
    `storage`: C++ storage type, `T` for the working dtype.
    """

    name: str
    storage: str
    axes: tuple[int | None, ...]

    def varies_along(self, axes: frozenset[int]) -> bool:
        return any(axis in axes for axis in self.axes)


@dataclass(frozen=True)
class Kernel:
    """One kernel: `results[i]` is stored to `outputs[i]` over the domain.

    `rank` counts the domain's axes; `reduced` are the axes of one row (empty: a pointwise kernel). A reduce expression runs
    over the whole row. `sources` are the lines of the model that the kernel covers. `any_rank`: operands broadcast from the right
    in any number of dims, `axes` do not matter. `product`: the input that is a matrix product, which a device with a kernel
    of family 3 computes within (product.py).
    """

    name: str
    rank: int
    reduced: frozenset[int]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    results: tuple[Expr, ...]
    sources: tuple[str, ...]
    any_rank: bool = False
    product: int | None = None

    @property
    def family(self) -> str:
        return "row program" if self.reduced else "pointwise"


def layout_of(root: Expr, kernel: Kernel) -> tuple[int | Axes, ...]:
    """What decides how a result lies: operands, or axes that it is contiguous along, as they are met from left to right.

    Eager lays out a result after the first that tells; what a reduction gives is contiguous.
    """
    of_rows: Axes = tuple(None if axis in kernel.reduced else axis for axis in range(kernel.rank))
    found: dict[int | Axes, None] = {}
    stack = [root]
    seen: set[int] = set()
    while stack:
        expr = stack.pop()
        if id(expr) in seen:
            continue
        seen.add(id(expr))
        if expr.axes is not None or expr.kind == "reduce":
            found[of_rows if expr.axes is None else expr.axes] = None
            continue
        if expr.kind == "load":
            found[int(expr.detail)] = None
        stack.extend(reversed(expr.args))
    return tuple(found)


def walk(roots: tuple[Expr, ...]) -> list[Expr]:
    """All expressions under `roots`, arguments before their users."""
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        expr, done = stack.pop()
        if done:
            order.append(expr)
        elif id(expr) not in seen:
            seen.add(id(expr))
            stack.append((expr, True))
            stack.extend((arg, False) for arg in reversed(expr.args) if id(arg) not in seen)
    return order
