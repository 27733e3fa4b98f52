"""Products for the tests on a GPU: built from the device library alone, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from modelnew.runtime.launch import card_of
from modelnew.runtime.layout import Plan
from modelnew.runtime.plan_cuda import Device
from modelnew.runtime.plan_product import (
    ACROSS_AT,
    AMPERE,
    AMPERE_TILES,
    BATCH_TILES,
    HOPPER,
    MOST_BATCH_DIMS,
    STRIDES_AT,
    TILE_AT,
    choose,
    launch_of,
    spread,
)
from modelnew.runtime.product import factors_of, gathered
from tests.cuda import harness

SOURCE = """
#include "common/core.h"
#include "common/topped_exponentials.h"
#include "common/math/activations.h"
#include "common/math/log.h"
#include MN_ENTRY
using F = mn::types<float>;
struct plain_body { MN_FN auto operator()(float p) const { return mn::values(p); } };
struct bias_body { MN_FN auto operator()(float p, float b) const { return mn::values(p + b); } };
struct two_body {
  MN_FN auto operator()(float p, float b, float r) const { return mn::values(p + b, mn::sigmoid(p) * r); }
};
struct sigmoid_body { MN_FN auto operator()(float p, float b) const { return mn::sigmoid(p + b); } };
struct value_body { MN_FN auto operator()(float p) const { return p; } };
struct finish { MN_FN auto operator()(float s, int64_t) const { return mn::values(s); } };
struct mean { MN_FN auto operator()(float s, int64_t count) const { return mn::values(s / float(count)); } };
using exponentials = mn::topped_exponentials<float>;
struct exponential_body { MN_FN auto operator()(float p, float b) const { return exponentials::of(p + b); } };
struct logarithm {
  MN_FN auto operator()(const mn::topped<float>& s, int64_t) const {
    return mn::values(mn::log(s.total) + (mn::isinf(s.top) ? 0.0f : s.top));
  }
};
MN_EXPORT int plain(void* y, const void* x, const void* w, void* hints, const int64_t* plan, mn::queue queue) {
  return mn::product<plain_body, F, mn::types<float, float>>({y}, {x, w}, hints, plan, queue);
}
MN_EXPORT int plain_half(void* y, const void* x, const void* w, void* hints, const int64_t* plan, mn::queue queue) {
  return mn::product<plain_body, F, mn::types<mn::half, float>>({y}, {x, w}, hints, plan, queue);
}
MN_EXPORT int bias(void* y, const void* x, const void* w, const void* b, void* hints, const int64_t* plan,
                   mn::queue queue) {
  return mn::product<bias_body, F, mn::types<float, float, float>>({y}, {x, w, b}, hints, plan, queue);
}
MN_EXPORT int two(void* y, void* z, const void* x, const void* w, const void* b, const void* r, void* hints,
                  const int64_t* plan, mn::queue queue) {
  return mn::product<two_body, mn::types<float, mn::half>, mn::types<float, float, float, mn::half>>(
      {y, z}, {x, w, b, r}, hints, plan, queue);
}
MN_EXPORT int sigmoid_sum(void* y, const void* x, const void* w, const void* b, void* hints, const int64_t* plan,
                          mn::queue queue) {
  return mn::product_rows<sigmoid_body, mn::sum<float>, mean, F, mn::types<float, float, float>>(
      {y}, {x, w, b}, hints, plan, queue);
}
MN_EXPORT int logsumexp(void* y, const void* x, const void* w, const void* b, void* hints, const int64_t* plan,
                        mn::queue queue) {
  return mn::product_rows<exponential_body, exponentials, logarithm, F, mn::types<float, float, float>>(
      {y}, {x, w, b}, hints, plan, queue);
}
MN_EXPORT int row_max(void* y, const void* x, const void* w, void* hints, const int64_t* plan, mn::queue queue) {
  return mn::product_rows<value_body, mn::max<float>, finish, F, mn::types<float, float>>({y}, {x, w}, hints, plan, queue);
}
"""
# The program's buffers are results first, then what is read, so that the hints come last; None are taken where a second
# launch would find other ones than the first.
EXPORTS = """
MN_EXPORT int plain_alone(void* y, const void* x, const void* w, const int64_t* plan, mn::queue queue) {
  return plain(y, x, w, nullptr, plan, queue);
}
MN_EXPORT int sums(void* y, const void* x, const void* w, const void* b, const void* hints, const int64_t* plan,
                   mn::queue queue) {
  return sigmoid_sum(y, x, w, b, const_cast<void*>(hints), plan, queue);
}
MN_EXPORT int pairs(void* y, void* z, const void* x, const void* w, const void* b, const void* r, const int64_t* plan,
                    mn::queue queue) {
  return two(y, z, x, w, b, r, nullptr, plan, queue);
}
"""
NOT_COVERED = -1


TILES = {HOPPER: BATCH_TILES, AMPERE: AMPERE_TILES}
VARIANTS = tuple((kind, tile, across) for kind, tiles in TILES.items() for tile in tiles for across in (0, 1))
chosen = HOPPER  # the kernel that `run` takes; the fixture `kind` sets it


def covered(kind: str, capability: tuple[int, int]) -> bool:
    return capability == (9, 0) if kind == HOPPER else capability >= (8, 0)


def arch(kind: str) -> str:
    """What a kernel is compiled for: Ampere's for the GPU at hand, of the instructions that 8.0 has."""
    major, minor = card().capability
    return "-gencode=arch=" + ("compute_90a,code=sm_90a" if kind == HOPPER else f"compute_80,code=sm_{major}{minor}")


@functools.cache
def library(kind: str, tile: int, across: int) -> ctypes.CDLL:
    """across: 1 for weights that are contiguous along n."""
    return harness.library(SOURCE, [arch(kind), *(f"-D{define}" for define in defines(kind, tile, across))])


def defines(kind: str, tile: int, across: int) -> list[str]:
    across_too = ["MN_WEIGHT_ACROSS=1"] if across else []
    return [f'MN_ENTRY="cuda/{kind}.cuh"', f"MN_BATCH_TILE={tile}", *across_too]


def build_all(kind: str = HOPPER) -> None:
    """Every library of a kernel, at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda variant: library(*variant), [variant for variant in VARIANTS if variant[0] == kind]))


@functools.cache
def card() -> Device:
    return card_of(torch.device("cuda", torch.cuda.current_device()))


def pair(tensor: torch.Tensor) -> tuple[int, int]:
    """Strides along (m, n); a vector runs along n."""
    return (0, tensor.stride(0)) if tensor.dim() == 1 else (tensor.stride(0), tensor.stride(1))


def along(tensor: torch.Tensor, rank: int) -> tuple[int, ...]:
    """Strides along all dims of a result of that rank; of its last ones where the tensor has fewer."""
    steps = [0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return (*(0,) * (rank - len(steps)), *steps)


def plan_of(
    outputs: list[torch.Tensor],
    x: torch.Tensor,
    w: torch.Tensor,
    others: Sequence[torch.Tensor],
    tile: int = 0,
    splits: int = 0,
    kind: str | None = None,
    device: Device | None = None,
) -> Plan:
    """Outputs of one dim less than the product are one value per row. `tile`, `splits`: 0, or a tile that the kernel has
    not, for those that would be chosen. `device`: the GPU at hand if not given."""
    kind, device = kind or chosen, device or card()
    factors = factors_of(torch.matmul, x, w.transpose(-1, -2))
    assert factors is not None
    rank = len(factors.batch) + 2
    reduces = outputs[0].dim() < rank
    strides = [(*along(y, rank - 1), 0) if reduces else along(y, rank) for y in outputs]
    found = gathered(factors, [*strides, *(along(other, rank) for other in others)])
    assert found is not None
    factors, steps = found
    tiles = TILES[kind]
    wanted = (tile,) if tile in tiles else tiles
    best = choose(factors, reduces, device, wanted)[1:] if kind == HOPPER else spread(factors, device)
    tile, splits = tile if tile in tiles else best[0], splits or best[1]
    first, *more = steps[: len(outputs)]
    plan = launch_of(factors, [first, *steps[len(outputs) :]], device, reduces, tile, splits, kind)
    missing = (0,) * (MOST_BATCH_DIMS - len(factors.batch))
    quads = [step for strides in more for step in (*missing, *strides)]
    return plan._replace(numbers=(*plan.numbers[: STRIDES_AT + 4], *quads, *plan.numbers[STRIDES_AT + 4 :]))


def run(
    name: str,
    outputs: list[torch.Tensor],
    x: torch.Tensor,
    w: torch.Tensor,
    *others: torch.Tensor,
    hints: torch.Tensor | None = None,
    tile: int = 0,
    splits: int = 0,
) -> int:
    """Launches one of SOURCE's products on the current stream. Returns its code."""
    plan = plan_of(outputs, x, w, others, tile, splits)
    workspace = torch.full(
        (plan.workspace,), 0xFF, dtype=torch.uint8, device=x.device
    )  # NaN, and counters that never end
    numbers = (*plan.numbers, workspace.data_ptr())
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*outputs, x, w, *others)]
    state = ctypes.c_void_p(hints.data_ptr() if hints is not None else 0)
    stream = ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
    launch = getattr(library(plan.kind, plan.numbers[TILE_AT], plan.numbers[ACROSS_AT]), name)
    return int(launch(*pointers, state, (ctypes.c_int64 * len(numbers))(*numbers), stream))


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, -7777.0, device="cuda", dtype=dtype)


def product(x: torch.Tensor, w: torch.Tensor, **options: object) -> torch.Tensor:
    """x · wᵀ by the kernel."""
    y = poisoned(*torch.broadcast_shapes(x.shape[:-2], w.shape[:-2]), x.shape[-2], w.shape[-2])
    code = run("plain", [y], x, w, **options)  # type: ignore[arg-type]
    assert code == 0, code
    return y
