"""Family 3: a kernel one of whose operands is a matrix product, as one kernel with the product.

The product p[m, n] = sum of x[m, k] · w[n, k] never goes to memory: each of its elements becomes a `term`, and the terms are
stored, or reduced along n and the total finished. `m` stands for all dims of the kernel's domain but the last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelnew.kernel.ir import Expr, Kernel, walk

REDUCTIONS = frozenset({"sum", "max", "min"})


@dataclass(frozen=True)
class Contraction:
    """What becomes of a product.

    term: an element's value, of the product and other operands. reduction: over a row of terms; None where they are stored.
    finish: the value that is stored of a row; None where there is no reduction.
    """

    term: Expr
    reduction: Expr | None
    finish: Expr | None


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
        return Contraction(result, None, None) if kernel.outputs[0].axes == whole else None
    reductions = [expr for expr in order if expr.kind == "reduce"]
    if kernel.reduced != {kernel.rank - 1} or len(reductions) != 1 or reductions[0].detail not in REDUCTIONS:
        return None
    rows = tuple(axis for axis in kernel.outputs[0].axes if axis is not None)
    (reduction,) = reductions
    if rows != whole[:-1] or reduction.ctype != "C" or _reads_outside(result, reduction):
        return None
    return Contraction(reduction.args[0], reduction, result)


def _reads_outside(result: Expr, reduction: Expr) -> bool:
    """Whether the result needs an operand besides through the reduction."""
    stack, seen = [result], {id(reduction)}
    while stack:
        expr = stack.pop()
        if id(expr) not in seen:
            seen.add(id(expr))
            if expr.kind == "load":
                return True
            stack.extend(expr.args)
    return False
