"""A row program's sweeps: what is computed once per row, what is kept on chip, and which reductions share a pass."""

from __future__ import annotations

from dataclasses import dataclass

from modelnew.kernel.ir import COSTLY, Expr, Kernel, walk


@dataclass(frozen=True)
class Sweep:
    """One pass over the row: reductions whose arguments are known at this stage."""

    reductions: tuple[Expr, ...]


@dataclass(frozen=True)
class Schedule:
    """Stage k: `scalars[k]` (one value per row, used along it), then `keeps[k]` (per element, kept), then `sweeps[k]`.

    `stores` are numbers of results that vary along the row, `puts` of those with one value per row.
    """

    scalars: tuple[tuple[Expr, ...], ...]
    keeps: tuple[tuple[Expr, ...], ...]
    sweeps: tuple[Sweep, ...]
    stores: tuple[int, ...]
    puts: tuple[int, ...]
    elements: frozenset[int]  # ids of the expressions that vary along the row
    loads: tuple[int, ...]  # operands that vary along the row

    @property
    def passes(self) -> int:
        """Sweeps over the row, the store among them; keeps ride along with the first that needs them."""
        return sum(bool(sweep.reductions) for sweep in self.sweeps) + bool(self.stores)

    @property
    def kept(self) -> int:
        """Values per element of the row that want to stay on chip."""
        return len(self.loads) + sum(map(len, self.keeps))


def schedule(kernel: Kernel) -> Schedule:
    order = walk(kernel.results)
    elements = _elements(kernel, order)
    stage = _stages(order)
    reductions = [expr for expr in order if expr.kind == "reduce"]
    last = max((stage[id(expr)] for expr in order), default=0)
    stores = tuple(i for i, result in enumerate(kernel.results) if _stored_whole(kernel, i))
    puts = tuple(i for i in range(len(kernel.results)) if i not in stores)
    sweeps = tuple(Sweep(tuple(r for r in reductions if stage[id(r.args[0])] == k)) for k in range(last + 1))
    roots = [tuple(r.args[0] for r in sweep.reductions) for sweep in sweeps] + [
        tuple(kernel.results[i] for i in stores)
    ]
    kept = _shared(order, roots, elements)
    captured = {id(arg) for e in order if id(e) in elements for arg in e.args if _is_scalar(arg, elements)}
    captured |= {id(arg) for r in reductions for arg in r.args if _is_scalar(arg, elements)}
    return Schedule(
        scalars=tuple(tuple(e for e in order if id(e) in captured and stage[id(e)] == k) for k in range(last + 1)),
        keeps=tuple(tuple(e for e in kept if stage[id(e)] == k) for k in range(last + 1)),
        sweeps=sweeps,
        stores=stores,
        puts=puts,
        elements=elements,
        loads=tuple(sorted({int(e.detail) for e in order if e.kind == "load" and id(e) in elements})),
    )


def _stored_whole(kernel: Kernel, result: int) -> bool:
    return kernel.outputs[result].varies_along(kernel.reduced)


def _elements(kernel: Kernel, order: list[Expr]) -> frozenset[int]:
    """Expressions that differ along the row."""
    found: set[int] = set()
    for expr in order:
        if expr.kind == "load":
            varies = kernel.inputs[int(expr.detail)].varies_along(kernel.reduced)
        elif expr.kind in ("reduce", "const", "size"):
            varies = False
        else:
            varies = expr.kind == "index" or any(id(arg) in found for arg in expr.args)
        if varies:
            found.add(id(expr))
    return frozenset(found)


def _stages(order: list[Expr]) -> dict[int, int]:
    """How many rounds of reductions an expression waits for."""
    stage: dict[int, int] = {}
    for expr in order:
        waited = max((stage[id(arg)] for arg in expr.args), default=0)
        stage[id(expr)] = waited + (expr.kind == "reduce")
    return stage


def _is_scalar(expr: Expr, elements: frozenset[int]) -> bool:
    return id(expr) not in elements and expr.kind not in ("const", "size", "reduce")


def _shared(order: list[Expr], roots: list[tuple[Expr, ...]], elements: frozenset[int]) -> list[Expr]:
    """Costly values per element that more than one sweep needs."""
    uses: dict[int, int] = {}
    for sweep in roots:
        for expr in _within(sweep):
            uses[id(expr)] = uses.get(id(expr), 0) + 1
    return [
        e for e in order if e.kind == "call" and e.detail in COSTLY and id(e) in elements and uses.get(id(e), 0) > 1
    ]


def _within(roots: tuple[Expr, ...]) -> list[Expr]:
    """Expressions that a sweep computes: everything under its roots, but not what is inside a reduction."""
    found: dict[int, Expr] = {}
    stack = list(roots)
    while stack:
        expr = stack.pop()
        if id(expr) not in found and expr.kind != "reduce":
            found[id(expr)] = expr
            stack.extend(expr.args)
    return list(found.values())
