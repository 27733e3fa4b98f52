"""Family 3: a kernel one of whose operands is a matrix product, as one kernel with the product.

The product p[m, n] = sum of x[m, k] · w[n, k] never goes to memory: each of its elements becomes a `term`, and the terms are
stored, or reduced along n and the total finished. `m` stands for all dims of the kernel's domain but the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from modelnew.kernel.ir import Expr, Kernel, walk

REDUCTIONS = frozenset({"sum", "max", "min"})


@dataclass(frozen=True)
class Contraction:
    """What becomes of a product.

    term: an element's value, of the product and other operands. reductions: over a row of terms; none where they are stored,
    two where they are the largest term and the sum of exponentials below it.
    finish: the value that is stored of a row; None where there is no reduction.
    """

    term: Expr
    reductions: tuple[Expr, ...]
    finish: Expr | None

    @property
    def shifts_infinities(self) -> bool:
        """Whether a largest term is subtracted even where it is infinite, which gives NaN."""
        top, total = self.reductions
        return total.args[0].args[0].args[1] is top


def take_product(kernel: Kernel, operand: int) -> Kernel:
    """The kernel with this operand marked as a product that it can take in; as it was where it cannot."""
    marked = replace(kernel, product=operand)
    return marked if _contraction(marked) is not None else kernel


def contraction(kernel: Kernel) -> Contraction:
    """Of a kernel that takes in a product."""
    found = _contraction(kernel)
    if found is None:
        raise ValueError(f"{kernel.name} takes in no product")
    return found


def _contraction(kernel: Kernel) -> Contraction | None:
    whole = tuple(range(kernel.rank))
    if kernel.product is None or kernel.rank < 2 or len(kernel.results) != 1:
        return None
    product = kernel.inputs[kernel.product]
    if product.axes != whole or product.storage != "T" or kernel.outputs[0].storage != "T":
        return None
    result = kernel.results[0]
    order = walk((result,))
    if any(expr.kind in ("index", "pick") for expr in order):
        return None
    if not kernel.reduced:
        return Contraction(result, (), None) if kernel.outputs[0].axes == whole else None
    reductions = tuple(expr for expr in order if expr.kind == "reduce")
    one = len(reductions) == 1 and reductions[0].detail in REDUCTIONS
    if kernel.reduced != {kernel.rank - 1} or not (one or _are_exponentials(reductions)):
        return None
    rows = tuple(axis for axis in kernel.outputs[0].axes if axis is not None)
    if rows != whole[:-1] or any(r.ctype != "C" for r in reductions) or _reads_outside(result, reductions):
        return None
    return Contraction(reductions[0].args[0], reductions, result)


def _are_exponentials(reductions: tuple[Expr, ...]) -> bool:
    """A maximum M of v, and the sum of e^(v - M), of which an infinite M may count as 0."""
    if [r.detail for r in reductions] != ["max", "sum"]:
        return False
    top, total = reductions
    exp = total.args[0]
    if exp.detail != "exp" or exp.args[0].detail != "sub" or exp.args[0].args[0] is not top.args[0]:
        return False
    shift, builder = exp.args[0].args[1], top.builder
    is_infinite = builder.compare("eq", builder.call("abs", top), math.inf)
    return shift is top or shift is builder.where(is_infinite, 0, top)


def _reads_outside(result: Expr, reductions: tuple[Expr, ...]) -> bool:
    """Whether the result needs an operand besides through the reductions."""
    stack, seen = [result], {id(reduction) for reduction in reductions}
    while stack:
        expr = stack.pop()
        if id(expr) not in seen:
            seen.add(id(expr))
            if expr.kind == "load":
                return True
            stack.extend(expr.args)
    return False
