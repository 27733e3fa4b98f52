"""A row's maximum over "is this the place" is the one element there: read alone, instead of looked for among all."""

from __future__ import annotations

import math
from dataclasses import replace

from modelnew.kernel.ir import Axes, Expr, Kernel, walk
from modelnew.kernel.schedule import elements_of


def with_picks(kernel: Kernel) -> Kernel:
    """Every `max(where(eq(index, place), value, -inf))` whose place is one per row becomes the value at that place.

    A place outside the row gives -inf, as the maximum over nothing does.
    """
    order = walk(kernel.results)
    elements = elements_of(kernel, order)
    along: Axes = tuple(None if axis in kernel.reduced else axis for axis in range(kernel.rank))
    made: dict[int, Expr] = {}
    for expr in order:
        again = _with(expr, tuple(made[id(arg)] for arg in expr.args))
        found = _picked(expr, elements)
        if found is not None:
            again = _value_at(*found, made, elements, along)
        made[id(expr)] = again
    return replace(kernel, results=tuple(made[id(result)] for result in kernel.results))


def _picked(expr: Expr, elements: frozenset[int]) -> tuple[Expr, Expr] | None:
    """The place and the value of which a reduction is the maximum."""
    if expr.kind != "reduce" or expr.detail != "max" or expr.args[0].detail != "where":
        return None
    condition, value, other = expr.args[0].args
    if condition.detail != "eq" or other.kind != "const" or other.detail != -math.inf:
        return None
    for index, place in (condition.args, condition.args[::-1]):
        if index.kind == "index" and id(place) not in elements:
            return place, value
    return None


def _value_at(place: Expr, value: Expr, made: dict[int, Expr], elements: frozenset[int], along: Axes) -> Expr:
    """`made`: what has become of other expressions. `along`: a reduction's axes; the result lies as that did."""
    builder, place = value.builder, made[id(place)]
    at: dict[int, Expr] = {}
    for expr in walk((value,)):
        if id(expr) not in elements:
            at[id(expr)] = made[id(expr)]
        elif expr.kind == "load":
            at[id(expr)] = builder.pick(int(expr.detail), expr.ctype, place)
        elif expr.kind == "index":
            at[id(expr)] = place
        else:
            at[id(expr)] = _with(expr, tuple(at[id(arg)] for arg in expr.args))
    inside = builder.compare(
        "and", builder.compare("ge", place, 0), builder.compare("lt", place, builder.size(place.ctype))
    )
    return builder.contiguous(builder.where(inside, at[id(value)], -math.inf), along)


def _with(expr: Expr, args: tuple[Expr, ...]) -> Expr:
    return expr if args == expr.args else expr.builder.again(expr, args)
