"""The scalar functions on the GPU: launched over chosen bit patterns, their errors measured there against float64."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from modelnew.kernel.ir import FORMED, ROUNDED
from modelnew.runtime.launch import SCALARS
from modelnew.runtime.layout import Layout
from modelnew.runtime.plan_cuda import Device, plan_pointwise
from tests.cuda import harness

HEADERS = "activations base erf exp hyperbolic inverse_trig log trig".split()
ROOT_TWO = math.sqrt(0.5)


def _times_sigmoid(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """x sigmoid(v), 0 where the second is: its limit is what is asked for at -inf, not NaN."""
    return torch.where(v == -math.inf, x * 0, x * torch.sigmoid(v))


# What each function is in float64, with no cancellation of its own. `x * 0` where eager gives it (silu(-inf) is NaN).
TRUTHS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "logsigmoid": lambda x: -torch.log1p(torch.exp(-x.abs())) + x.clamp(max=0),
    "softplus": lambda x: torch.where(x > 20, x, torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)),
    "gelu": lambda x: torch.where(x == -math.inf, x * 0, x * (0.5 * torch.erfc(-x * ROOT_TWO))),
    "gelu_tanh": lambda x: _times_sigmoid(x, 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: _times_sigmoid(x, x),
    "mish": lambda x: torch.where(x == -math.inf, x * 0, x * torch.tanh(TRUTHS["softplus"](x))),
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "erf": torch.erf,
    "erfc": torch.erfc,
}
_CALLS = {"softplus": "mn::softplus(x, C(1), C(20))", **{name: f"mn::{name}<T>(x)" for name in ROUNDED}}


def library(dtype: torch.dtype) -> ctypes.CDLL:
    """A launcher per function, for tensors of this dtype."""
    lines = [f'#include "common/math/{header}.h"' for header in HEADERS]
    lines += ['#include "cuda/pointwise.cuh"', "using T = MN_T;", "using C = mn::compute_t<T>;"]
    for name in TRUTHS:
        call, before, parameters = _CALLS.get(name, f"mn::{name}(x)"), "", "C x"
        if name in FORMED:
            call, before, parameters = call.replace("(x)", "(form, x)"), "template <class Form> ", "Form& form, C x"
        lines.append(
            f"struct {name}_body {{ {before}MN_FN auto operator()({parameters}) const {{ return mn::values({call}); }} }};"
        )
        lines.append(
            f"MN_EXPORT int launch_{name}(void* y, const void* x, const int64_t* plan, mn::queue queue) {{ return "
            f"mn::pointwise<{name}_body, mn::types<T>, mn::types<T>>({{y}}, {{x}}, plan, queue); }}"
        )
    return harness.library("\n".join(lines) + "\n", ["-arch=native", f"-DMN_T={SCALARS[dtype]}"])


def evaluate(functions: ctypes.CDLL, name: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    properties = torch.cuda.get_device_properties(x.device)
    device = Device(x.device.index or 0, properties.multi_processor_count, (9, 0), 227 << 10, properties.L2_cache_size)
    plan = plan_pointwise(Layout((x.numel(),), ((1,), (1,)), (x.element_size(),) * 2, 1), device)
    numbers = (ctypes.c_int64 * len(plan.numbers))(*plan.numbers)
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    launch = getattr(functions, f"launch_{name}")
    code = launch(ctypes.c_void_p(y.data_ptr()), ctypes.c_void_p(x.data_ptr()), numbers, stream)
    assert code == 0, name
    return y


class Worst(NamedTuple):
    """ulp: the largest error. at: where. wrong: results of another kind (NaN, infinity, sign of zero) than the truth."""

    ulp: float
    at: float
    wrong: int


def worst_error(name: str, x: torch.Tensor, y: torch.Tensor) -> Worst:
    """Errors of `y` against the truth at `x`, in units of the last place of the dtype."""
    truth = TRUTHS[name](x.double())
    rounded = truth.to(y.dtype)
    wide = y.double()
    limits = torch.finfo(y.dtype)
    digits = -math.log2(limits.eps)
    exponent = torch.frexp(truth).exponent.double() - 1 - digits
    unit = torch.exp2(exponent.clamp(min=math.log2(limits.smallest_normal) - digits))
    error = (wide - truth).abs() / unit
    beyond = truth.abs() > limits.max  # rounds to infinity, or to the largest number
    edge = beyond & (wide.isinf() | (wide.abs() == limits.max)) & (wide.sign() == truth.sign())
    finite = truth.isfinite() & wide.isfinite() & ~beyond
    same = torch.where(finite, (wide != 0) | (truth != 0) | (wide.signbit() == rounded.signbit()), wide == truth)
    right = same | edge | (wide.isnan() & truth.isnan()) | (finite.logical_not() & (error <= 1))
    error = torch.where(finite, error, 0)
    at = int(error.argmax())
    return Worst(float(error[at]), float(x[at]), int((~right).sum()))


def every_16_bit_value(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(1 << 15), 1 << 15, device="cuda").to(torch.int16).view(dtype)


def floats(first: int, count: int, step: int = 1) -> torch.Tensor:
    """The floats of bit patterns first, first + step, …"""
    bits = torch.arange(count, device="cuda") * step + first
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)


def chosen(names: Sequence[str]) -> list[str]:
    return [name for name in TRUTHS if not names or name in names]
