"""A row program's sweeps: what is computed once per row, what is kept on chip, and which reductions share a pass."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from modelnew.kernel.ir import COSTLY, FLOAT_TYPES, Expr, Kernel, walk


@dataclass(frozen=True)
class Sweep:
    """One pass over the row: reductions whose arguments are known at this stage."""

    reductions: tuple[Expr, ...]


@dataclass(frozen=True)
class Moments:
    """The mean of `value` along the row, and the sum of its squared distances from that."""

    value: Expr
    mean: Expr
    squares: Expr


@dataclass(frozen=True)
class Exponentials:
    """The largest `value` along the row, and the sum of `exp`, e^(value - shift).

    shift: the largest, or that with 0 in the place of an infinite one. kept: later sweeps need the exponentials too.
    """

    value: Expr
    top: Expr
    shift: Expr
    exp: Expr
    total: Expr
    kept: bool


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
    stored: tuple[Expr, ...]  # the results that `stores` numbers
    put: tuple[Expr, ...]  # those that `puts` numbers
    elements: frozenset[int]  # ids of the expressions that vary along the row
    loads: tuple[int, ...]  # operands that vary along the row

    @property
    def passes(self) -> int:
        """Sweeps over the row, the store among them; keeps ride along with the first that needs them."""
        pairs = len(self.moments) + len(self.exponentials)
        return sum(bool(sweep.reductions) for sweep in self.sweeps) - pairs + bool(self.stores)

    def replaces(self, kept: Expr, stage: int) -> bool:
        """A kept value may take the place of the input that it is made of: later sweeps need only the value."""
        inputs = [expr for expr in made_for((kept,)) if expr.kind == "load" and id(expr) in self.elements]
        later = [r.args[0] for sweep in self.sweeps[stage + 1 :] for r in sweep.reductions] + list(self.stored)
        hidden = {id(expr) for keeps in self.keeps for expr in keeps}
        read = {id(expr) for root in later for expr in made_for((root,), hidden)}
        alone = len(self.keeps[stage]) == 1 and not any(self.keeps[:stage]) and not any(self.keeps[stage + 1 :])
        return alone and len(inputs) == 1 and id(inputs[0]) not in read

    @property
    def exponentials(self) -> dict[int, Exponentials]:
        """By stage: a maximum, and the sum of exponentials that is all that the next stage reduces: one call makes both."""
        found: dict[int, Exponentials] = {}
        for stage in range(len(self.sweeps) - 1):
            first, second = self.sweeps[stage].reductions, self.sweeps[stage + 1].reductions
            if len(first) == len(second) == 1 and len(self.keeps[stage + 1]) <= 1:
                pair = _exponentials(first[0], second[0], self.keeps[stage + 1])
                if pair is not None:
                    found[stage] = pair
        return found

    @property
    def moments(self) -> dict[int, Moments]:
        """By stage: a sum whose mean is all that is read of it, and the squares around that, which are all that the next
        stage sums: one call makes both."""
        found: dict[int, Moments] = {}
        for stage in range(len(self.sweeps) - 1):
            first, second = self.sweeps[stage].reductions, self.sweeps[stage + 1].reductions
            if stage - 1 not in {*found, *self.exponentials} and len(first) == len(second) == 1:
                pair = _moments(first[0], second[0])
                if pair is not None and self._only_the_mean_is_read(first[0], pair.mean):
                    found[stage] = pair
        return found

    def _only_the_mean_is_read(self, total: Expr, mean: Expr) -> bool:
        users = [expr for expr in walk((*self.stored, *self.put)) if total in expr.args]
        return users == [mean] and total not in (*self.stored, *self.put)

    def reads_later(self, expr: Expr, stage: int, hidden: Collection[int]) -> bool:
        """Whether sweeps from `stage` on, or what they need, have `expr` in them."""
        roots = [r.args[0] for sweep in self.sweeps[stage:] for r in sweep.reductions] + list(self.stored)
        roots += [scalar for scalars in self.scalars[stage:] for scalar in scalars] + list(self.put)
        return any(expr is each for root in roots for each in made_for((root,), hidden, into=True))

    @property
    def kept(self) -> int:
        """Values per element of the row that want to stay on chip."""
        return len(self.loads) + sum(map(len, self.keeps))


def schedule(kernel: Kernel) -> Schedule:
    order = walk(kernel.results)
    elements = elements_of(kernel, order)
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
    captured |= {id(kernel.results[i]) for i in stores if _is_scalar(kernel.results[i], elements)}
    return Schedule(
        scalars=tuple(tuple(e for e in order if id(e) in captured and stage[id(e)] == k) for k in range(last + 1)),
        keeps=tuple(tuple(e for e in kept if stage[id(e)] == k) for k in range(last + 1)),
        sweeps=sweeps,
        stores=stores,
        puts=puts,
        stored=tuple(kernel.results[i] for i in stores),
        put=tuple(kernel.results[i] for i in puts),
        elements=elements,
        loads=tuple(sorted({int(e.detail) for e in order if e.kind == "load" and id(e) in elements})),
    )


def _moments(total: Expr, squares: Expr) -> Moments | None:
    square = squares.args[0]
    if total.detail != "sum" or squares.detail != "sum" or total.ctype not in FLOAT_TYPES or square.detail != "mul":
        return None
    (value,), centred = total.args, square.args[0]
    if square.args[1] is not centred or centred.detail != "sub" or centred.args[0] is not value:
        return None
    mean = centred.args[1]
    found = mean.detail == "div" and mean.args[0] is total and mean.args[1].kind == "size"
    return Moments(value, mean, squares) if found else None


def _exponentials(top: Expr, total: Expr, keeps: tuple[Expr, ...]) -> Exponentials | None:
    (value,), (exp,) = top.args, total.args
    if top.detail != "max" or total.detail != "sum" or top.ctype not in FLOAT_TYPES or exp.detail != "exp":
        return None
    shifted = exp.args[0]
    if shifted.detail != "sub" or shifted.args[0] is not value or keeps not in ((), (exp,)):
        return None
    shift = shifted.args[1]
    if shift is not top and (keeps or not _is_finite_or_zero(shift, top)):
        return None
    return Exponentials(value, top, shift, exp, total, bool(keeps))


def _is_finite_or_zero(shift: Expr, top: Expr) -> bool:
    """where(abs(top) == inf, 0, top)"""
    if shift.detail != "where" or shift.args[1].detail != 0 or shift.args[2] is not top:
        return False
    condition = shift.args[0]
    if condition.detail != "eq" or condition.args[1].detail != math.inf:
        return False
    return condition.args[0].detail == "abs" and condition.args[0].args == (top,)


def _stored_whole(kernel: Kernel, result: int) -> bool:
    return kernel.outputs[result].varies_along(kernel.reduced)


def elements_of(kernel: Kernel, order: list[Expr]) -> frozenset[int]:
    """Expressions that differ along the row."""
    found: set[int] = set()
    for expr in order:
        if expr.kind == "load":
            varies = kernel.inputs[int(expr.detail)].varies_along(kernel.reduced)
        elif expr.kind in ("reduce", "pick", "const", "size"):
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
        for expr in made_for(sweep):
            uses[id(expr)] = uses.get(id(expr), 0) + 1
    return [
        e for e in order if e.kind == "call" and e.detail in COSTLY and id(e) in elements and uses.get(id(e), 0) > 1
    ]


def made_for(roots: tuple[Expr, ...], hidden: Collection[int] = (), *, into: bool = False) -> list[Expr]:
    """Expressions that a sweep computes: everything under its roots, but not what is inside a reduction, or made already.

    hidden: ids of those. into: with reductions, and what is inside.
    """
    found: dict[int, Expr] = {}
    stack = list(roots)
    while stack:
        expr = stack.pop()
        if id(expr) not in found and (into or expr.kind != "reduce") and id(expr) not in hidden:
            found[id(expr)] = expr
            stack.extend(expr.args)
    return list(found.values())
