"""The ops table: which ATen ops kernels can compute, and how.

A pointwise entry is one line: the op, and its expression. An op that is made of others (softmax, layer norm) is not here but in
`graph/decompose.py`. An op in neither place stays the library call that it was.

Arguments arrive in the op's schema order: tensors as expressions, everything else as Python values.
`operands` says in which type the op computes: "result" (PyTorch's promotion for arithmetic), "common" (comparisons: the promoted
type of the operands) or "own" (each operand keeps its type).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from modelnew.kernel.ir import FLOAT_TYPES, Builder, Expr, Number

aten = torch.ops.aten
Operands = Literal["result", "common", "own"]


class NotExpressible(Exception):
    """This use of an op has no expression (an integer division, say): it stays a library call."""


@dataclass(frozen=True)
class Pointwise:
    rule: Callable[..., Expr]
    operands: Operands = "result"


@dataclass(frozen=True)
class Reduction:
    """`operation` over dims; `mean` divides a sum by the count."""

    operation: str


POINTWISE: dict[torch._ops.OpOverload, Pointwise] = {}
REDUCTIONS: dict[torch._ops.OpOverload, Reduction] = {
    aten.sum.default: Reduction("sum"),
    aten.sum.dim_IntList: Reduction("sum"),
    aten.mean.default: Reduction("mean"),
    aten.mean.dim: Reduction("mean"),
    aten.amax.default: Reduction("max"),
    aten.amin.default: Reduction("min"),
    aten.max.default: Reduction("max"),
    aten.min.default: Reduction("min"),
    aten.prod.default: Reduction("prod"),
    aten.prod.dim_int: Reduction("prod"),
    aten.any.default: Reduction("any"),
    aten.any.dim: Reduction("any"),
    aten.any.dims: Reduction("any"),
    aten.all.default: Reduction("all"),
    aten.all.dim: Reduction("all"),
    aten.all.dims: Reduction("all"),
}


def pointwise(packet: Any, rule: Callable[..., Expr], operands: Operands = "result") -> None:
    """Enter every functional overload of `packet` (`add.Tensor`, `add.Scalar`, …) with one rule."""
    for name in packet.overloads():
        overload = getattr(packet, name)
        schema = overload._schema
        if name != "out" and not schema.is_mutable and not name.endswith("_out"):
            POINTWISE.setdefault(overload, Pointwise(rule, operands))


def call(function: str) -> Callable[[Expr], Expr]:
    return lambda x: x.builder.call(function, x)


def floats_only(rule: Callable[..., Expr]) -> Callable[..., Expr]:
    """Integer division by zero is an error in eager and a trap in C++: those stay library calls."""

    def checked(*args: Any, **kwargs: Any) -> Expr:
        if any(isinstance(arg, Expr) and arg.ctype not in FLOAT_TYPES for arg in args):
            raise NotExpressible("integer operands")
        return rule(*args, **kwargs)

    return checked


def _builder(*args: object) -> Builder:
    return next(arg.builder for arg in args if isinstance(arg, Expr))


def compare(function: str) -> Callable[..., Expr]:
    return lambda a, b: _builder(a, b).compare(function, a, b)


def binary(function: str) -> Callable[..., Expr]:
    return lambda a, b: _builder(a, b).call(function, a, b)


def where(condition: Expr, yes: Expr | Number, no: Expr | Number) -> Expr:
    result: Expr = condition.builder.where(condition, yes, no)
    return result


def greater(a: Expr, b: Expr | Number) -> Expr:
    return a.builder.compare("gt", a, b)


def less(a: Expr, b: Expr | Number) -> Expr:
    return a.builder.compare("lt", a, b)


def whole(function: str) -> Callable[[Expr], Expr]:
    """Rounding of one kind or another; integers are whole already."""
    return lambda x: x.builder.call(function, x) if x.ctype in FLOAT_TYPES else x


def maximum(a: Expr, b: Expr | Number) -> Expr:
    return a.builder.call("maximum", a, b)


def minimum(a: Expr, b: Expr | Number) -> Expr:
    return a.builder.call("minimum", a, b)


def clamp(x: Expr, low: Expr | Number | None = None, high: Expr | Number | None = None) -> Expr:
    """The bounds stand first: of two equal zeros eager's clamp returns x's."""
    if low is not None:
        x = x.builder.call("maximum", low, x)
    return x if high is None else x.builder.call("minimum", high, x)


def _add(a: Any, b: Any, alpha: Number = 1) -> Expr:
    total: Expr = a + (b if alpha == 1 else b * alpha)
    return total


def _sub(a: Any, b: Any, alpha: Number = 1) -> Expr:
    total: Expr = a - (b if alpha == 1 else b * alpha)
    return total


def _logical(function: str) -> Callable[..., Expr]:
    def rule(a: Expr, b: Expr) -> Expr:
        return a.builder.call(function, a.builder.cast(a, "bool"), b.builder.cast(b, "bool"))

    return rule


def _logical_not(x: Expr) -> Expr:
    return x.builder.call("not", x.builder.cast(x, "bool"))


def _logical_xor(a: Expr, b: Expr) -> Expr:
    return a.builder.compare("ne", a.builder.cast(a, "bool"), b.builder.cast(b, "bool"))


def _bitwise_not(x: Expr) -> Expr:
    return x.builder.call("not" if x.ctype == "bool" else "bitnot", x)


def _divide(a: Any, b: Any, rounding_mode: str | None = None) -> Expr:
    """Floor division rounds in several steps in eager and stays a library call; so does anything on integers."""
    if rounding_mode == "floor" or (
        rounding_mode and any(isinstance(v, Expr) and v.ctype not in FLOAT_TYPES for v in (a, b))
    ):
        raise NotExpressible(f"division with rounding_mode={rounding_mode!r}")
    quotient: Expr = a / b
    return quotient.builder.call("trunc", quotient) if rounding_mode == "trunc" else quotient


def _power(base: Any, exponent: Any) -> Expr:
    """Small exponents as eager has them: products and roots, not pow()."""
    if isinstance(exponent, Expr) or not isinstance(base, Expr):
        if any(isinstance(v, Expr) and v.ctype not in FLOAT_TYPES for v in (base, exponent)):
            raise NotExpressible("integer power")
        return _builder(base, exponent).call("pow", base, exponent)
    if exponent in (2, 3):
        return base * base if exponent == 2 else base * base * base
    if base.ctype not in FLOAT_TYPES:
        raise NotExpressible("integer power")
    special: dict[Number, Callable[[Expr], Expr]] = {
        0.5: call("sqrt"),
        -0.5: call("rsqrt"),
        1: lambda x: x,
        -1: lambda x: 1 / x,
        -2: lambda x: 1 / (x * x),
    }
    return special[exponent](base) if exponent in special else base.builder.call("pow", base, exponent)


def _lerp(start: Expr, end: Expr, weight: Any) -> Expr:
    near_start: Expr = start + weight * (end - start)
    near_end: Expr = end - (end - start) * (1 - weight)
    if isinstance(weight, Expr):
        return where(less(weight.builder.call("abs", weight), 0.5), near_start, near_end)
    return near_start if abs(weight) < 0.5 else near_end


def _gelu(x: Expr, approximate: str = "none") -> Expr:
    return x.builder.call("gelu" if approximate == "none" else "gelu_tanh", x)


def _elu(x: Expr, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Expr:
    negative = x.builder.call("expm1", x * input_scale if input_scale != 1 else x)
    factor = alpha * scale
    return where(greater(x, 0), x * scale if scale != 1 else x, negative * factor if factor != 1 else negative)


def _celu(x: Expr, alpha: Number = 1) -> Expr:
    return _elu(x, alpha, 1, 1 / alpha)


def _softshrink(x: Expr, lambd: Number = 0.5) -> Expr:
    return where(greater(x, lambd), x - lambd, where(less(x, -lambd), x + lambd, x * 0))


def _hardshrink(x: Expr, lambd: Number = 0.5) -> Expr:
    inside = x.builder.call("and", x.builder.compare("ge", x, -lambd), x.builder.compare("le", x, lambd))
    return where(inside, 0, x)


def _softplus(x: Expr, beta: Number = 1, threshold: Number = 20) -> Expr:
    return x.builder.call("softplus", x, beta, threshold)


def _nan_to_num(x: Expr, nan: Number | None = None, posinf: Number | None = None, neginf: Number | None = None) -> Expr:
    if posinf is None or neginf is None:
        raise NotExpressible("nan_to_num with the dtype's own limits")
    infinite = where(
        x.builder.compare("eq", x, math.inf), posinf, where(x.builder.compare("eq", x, -math.inf), neginf, x)
    )
    return where(x.builder.call("isnan", x, ctype="bool"), nan or 0, infinite)


def _predicate(function: str) -> Callable[[Expr], Expr]:
    def rule(x: Expr) -> Expr:
        if x.ctype not in FLOAT_TYPES:
            raise NotExpressible(f"{function} of an integer")
        return x.builder.call(function, x, ctype="bool")

    return rule


def _masked_fill(x: Expr, mask: Expr, value: Any) -> Expr:
    return where(x.builder.cast(mask, "bool"), value, x)


def _where(condition: Expr, yes: Any, no: Any) -> Expr:
    return where(condition.builder.cast(condition, "bool"), yes, no)


def _identity(x: Expr, **_: object) -> Expr:
    return x


# arithmetic
pointwise(aten.add, _add)
pointwise(aten.sub, _sub)
pointwise(aten.rsub, lambda a, b, alpha=1: _sub(b, a, alpha))
pointwise(aten.mul, lambda a, b: a * b)
pointwise(aten.div, _divide)
pointwise(aten.true_divide, _divide)
pointwise(aten.reciprocal, lambda x: 1 / x)
pointwise(aten.neg, lambda x: -x)
pointwise(aten.square, lambda x: x * x)
pointwise(aten.pow, _power)
pointwise(aten.fmod, floats_only(binary("fmod")))
pointwise(aten.remainder, floats_only(binary("remainder")))
pointwise(aten.addcmul, lambda x, a, b, value=1: x + a * b * value)
pointwise(aten.addcdiv, lambda x, a, b, value=1: x + value * (a / b))
pointwise(aten.lerp, _lerp)
for name in "floor ceil round trunc".split():
    pointwise(getattr(aten, name), whole(name))
pointwise(aten.abs, call("abs"))
pointwise(aten.sign, call("sign"))
POINTWISE.pop(aten.round.decimals)
POINTWISE.pop(aten.add.t, None)
for name in "sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan erf erfc".split():
    pointwise(getattr(aten, name), call(name))
pointwise(aten.atan2, binary("atan2"))

# comparisons, logic, selection
for name in "lt le gt ge eq ne".split():
    pointwise(getattr(aten, name), compare(name), "common")
pointwise(aten.logical_and, _logical("and"), "own")
pointwise(aten.logical_or, _logical("or"), "own")
pointwise(aten.logical_xor, _logical_xor, "own")
pointwise(aten.logical_not, _logical_not, "own")
pointwise(aten.bitwise_and, binary("bitand"))
pointwise(aten.bitwise_or, binary("bitor"))
pointwise(aten.bitwise_xor, binary("bitxor"))
pointwise(aten.bitwise_not, _bitwise_not)
for name in "isnan isinf isfinite".split():
    pointwise(getattr(aten, name), _predicate(name), "own")
pointwise(aten.where, _where)
pointwise(aten.masked_fill, _masked_fill)
pointwise(aten.maximum, maximum)
pointwise(aten.minimum, minimum)
pointwise(aten.clamp, clamp)
pointwise(aten.clamp_min, clamp)
pointwise(aten.clamp_max, lambda x, high: clamp(x, None, high))
pointwise(aten.nan_to_num, _nan_to_num)
pointwise(aten._to_copy, _identity)
pointwise(aten.clone, _identity)
pointwise(aten.ones_like, lambda x, **_: x.builder.const(1, x.ctype))
pointwise(aten.zeros_like, lambda x, **_: x.builder.const(0, x.ctype))
pointwise(aten.full_like, lambda x, value, **_: x.builder.const(value, x.ctype))

# activations
pointwise(aten.sigmoid, call("sigmoid"))
pointwise(aten.log_sigmoid, call("logsigmoid"))
pointwise(aten.relu, lambda x: clamp(x, 0))
pointwise(aten.relu6, lambda x: clamp(x, 0, 6))
pointwise(aten.hardtanh, lambda x, low=-1, high=1: clamp(x, low, high))
pointwise(aten.hardsigmoid, lambda x: clamp(x + 3, 0, 6) * (1 / 6))  # a division would cost most of the kernel
pointwise(aten.hardswish, lambda x: x * clamp(x + 3, 0, 6) * (1 / 6))
pointwise(aten.leaky_relu, lambda x, slope=0.01: where(greater(x, 0), x, x * slope))
pointwise(aten._prelu_kernel, lambda x, weight: where(greater(x, 0), x, weight * x))
pointwise(aten.elu, _elu)
pointwise(aten.celu, _celu)
pointwise(aten.selu, lambda x: _elu(x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946))
pointwise(aten.gelu, _gelu)
pointwise(aten.silu, call("silu"))
pointwise(aten.mish, call("mish"))
pointwise(aten.softplus, _softplus)
pointwise(aten.softshrink, _softshrink)
pointwise(aten.hardshrink, _hardshrink)
pointwise(aten.threshold, lambda x, threshold, value: where(x.builder.compare("le", x, threshold), value, x))
