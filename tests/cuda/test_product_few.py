"""Products of few rows of x against float64, beside the library's; and modules that take them."""

import copy
import ctypes
import functools
import math
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from modelnew.runtime.launch import card_of
from modelnew.runtime.plan_few import FEW, FEW_STRIDES_AT, FEW_TILES, few_splits, few_tile, launch_of_few
from modelnew.runtime.plan_product import Factors
from tests.compiled import Function, assert_closer, compiled
from tests.cuda import harness
from tests.cuda.product_data import EPS, NAMES, data, errors, normal
from tests.cuda.product_kernels import NOT_COVERED, pair, poisoned

SOURCE = """
#include "common/core.h"
#include "common/math/activations.h"
#include "cuda/product_few_launch.cuh"
using T = MN_T;
constexpr bool across = MN_ACROSS;
constexpr int tile = MN_BATCH_TILE;
struct plain_body { MN_FN auto operator()(float p) const { return mn::values(p); } };
struct two_body {
  MN_FN auto operator()(float p, float b, float r) const { return mn::values(p + b, mn::sigmoid(p) * r); }
};
struct sigmoid_body { MN_FN auto operator()(float p, float b) const { return mn::sigmoid(p + b); } };
struct mean { MN_FN auto operator()(float s, int64_t count) const { return mn::values(s / float(count)); } };
MN_EXPORT int plain(void* y, const void* x, const void* w, const int64_t* plan, mn::queue queue) {
  return mn::product_few<plain_body, mn::no_reduction, mn::no_reduction, across, tile, mn::types<T>, mn::types<T, T>>(
      {y}, {x, w}, plan, queue);
}
MN_EXPORT int two(void* y, void* z, const void* x, const void* w, const void* b, const void* r, const int64_t* plan,
                  mn::queue queue) {
  return mn::product_few<two_body, mn::no_reduction, mn::no_reduction, across, tile, mn::types<T, float>,
                         mn::types<T, T, T, float>>({y, z}, {x, w, b, r}, plan, queue);
}
MN_EXPORT int mean_of_sigmoid(void* y, const void* x, const void* w, const void* b, const int64_t* plan,
                              mn::queue queue) {
  return mn::product_few<sigmoid_body, mn::sum<float>, mean, across, tile, mn::types<float>, mn::types<T, T, T>>(
      {y}, {x, w, b}, plan, queue);
}
"""
TYPES = {torch.float32: "float", torch.float16: "mn::half", torch.bfloat16: "mn::bf16"}
VARIANTS = [(dtype, tile, across) for dtype in TYPES for tile in FEW_TILES for across in (0, 1)]


@functools.cache
def library(dtype: torch.dtype, tile: int, across: int) -> ctypes.CDLL:
    defines = [f"-DMN_T={TYPES[dtype]}", f"-DMN_BATCH_TILE={tile}", f"-DMN_ACROSS={across}"]
    return harness.library(SOURCE, ["-arch=native", *defines])


def build_all() -> None:
    """Every library, at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda variant: library(*variant), VARIANTS))


@pytest.fixture(scope="module", autouse=True)
def builds():
    if torch.cuda.is_available():
        build_all()
    torch.backends.cuda.matmul.allow_tf32 = False


def run(
    name: str, outputs: list[torch.Tensor], x: torch.Tensor, w: torch.Tensor, *others: torch.Tensor, splits: int = 0
) -> int:
    """Launches one of SOURCE's products. `splits`: 0 for as few slices as there may be."""
    factors = Factors(x.shape[0], w.shape[0], x.shape[1], x.stride(), w.stride())
    across, card = int(w.stride(1) != 1), card_of(x.device)
    reduces = outputs[0].dim() == 1
    pairs = [(y.stride(0), 0) if reduces else y.stride() for y in outputs]
    possible = few_splits(factors, x.element_size(), card)
    wanted = min(possible, key=lambda s: abs(s - splits))
    plan = launch_of_few(factors, [pairs[0], *map(pair, others)], card, reduces, wanted)
    more = [step for pair in pairs[1:] for step in pair]
    numbers = [*plan.numbers[: FEW_STRIDES_AT + 2], *more, *plan.numbers[FEW_STRIDES_AT + 2 :]]
    workspace = torch.full((max(1, plan.workspace),), 0xFF, dtype=torch.uint8, device=x.device)
    numbers.append(workspace.data_ptr())
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*outputs, x, w, *others)]
    stream = ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
    launch = getattr(library(x.dtype, few_tile(x.shape[0]), across), name)
    return int(launch(*pointers, (ctypes.c_int64 * len(numbers))(*numbers), stream))


def product(x: torch.Tensor, w: torch.Tensor, splits: int = 0) -> torch.Tensor:
    y = poisoned(x.shape[0], w.shape[0], dtype=x.dtype)
    code = run("plain", [y], x, w, splits=splits)
    assert code == 0, code
    return y


def laid(w: torch.Tensor, across: int, more: int = 0) -> torch.Tensor:
    """The weight with rows, or columns, that begin at multiples of 16 bytes; NaN is between them."""
    if across:
        return laid(w.t(), 0, more).t()
    vector = 16 // w.element_size()
    place = torch.full(
        (w.shape[0], (-(-w.shape[1] // vector) + more) * vector), torch.nan, device="cuda", dtype=w.dtype
    )
    return place[:, : w.shape[1]].copy_(w)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("across", [0, 1])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 512, 4096), (4, 512, 1024), (8, 1000, 4096), (8, 1024, 32768)])
def test_errors_are_no_larger_than_those_of_the_fp32_product(name, across, m, n, k):
    x, w = data(name, m, n, k)
    w = laid(w, across)
    ours, theirs = errors(product(x, w), x, w), errors(x @ w.T, x, w)
    assert ours[0] <= max(theirs[0], 2 * EPS), (ours, theirs)
    assert ours[1] <= max(theirs[1], EPS / 2), (ours, theirs)


@pytest.mark.parametrize("dtype", TYPES)
def test_random_shapes_and_slices(dtype):
    draw = random.Random(7)
    for _ in range(200):
        m, n, k = (int(2 ** draw.uniform(0, top)) for top in (3.16, 12, 14))
        across, splits = draw.randrange(2), draw.choice([0, 0, 2, 3, 7])
        x, w = normal(m, k).to(dtype), laid(normal(n, k).to(dtype), across, draw.randrange(3))
        truth = x.double() @ w.double().T
        sizes = x.double().abs() @ w.double().abs().T
        rounded = 0 if dtype == torch.float32 else torch.finfo(dtype).eps * truth.abs().clamp(min=2.0**-14)
        wrong = (product(x, w, splits) - truth).abs() > 2 * EPS * sizes + rounded
        assert not bool(wrong.any()), ((m, n, k), across, splits)


def test_x_of_any_strides_and_infinities():
    for dtype in TYPES:
        for across in (0, 1):
            w = laid(normal(200, 130).to(dtype), across)
            for x in (normal(130, 5).T, normal(5, 261)[:, 1::2], normal(5, 131)[:, 1:], normal(1, 130).expand(5, 130)):
                x = x.to(dtype)
                torch.testing.assert_close(product(x, w), (x.double() @ w.double().T).to(dtype))
            x = normal(5, 130).to(dtype)
            x[1, 3], x[2, 129], x[3, 0], w[7, 3], w[9, 129] = math.inf, math.nan, 0.0, math.inf, -math.inf
            truth = x.double() @ w.double().T
            torch.testing.assert_close(product(x, w), truth.to(dtype), equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("across", [0, 1])
def test_what_follows(dtype, across):
    for m, n, k, splits in ((1, 1000, 512, 0), (3, 5000, 600, 3), (8, 130, 2048, 0), (7, 4097, 4096, 2)):
        x, bias = normal(m, k).to(dtype), normal(n).to(dtype)
        w, factor = laid((normal(n, k) / k**0.5).to(dtype), across), normal(m, n)
        truth = x.double() @ w.double().T
        y, z, mean = poisoned(n, m, dtype=dtype).T, poisoned(m, n), poisoned(m)
        assert run("two", [y, z], x, w, bias, factor, splits=splits) == 0
        assert run("mean_of_sigmoid", [mean], x, w, bias, splits=splits) == 0
        torch.testing.assert_close(y, (truth + bias).to(dtype))
        torch.testing.assert_close(z, (torch.sigmoid(truth) * factor).float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mean, torch.sigmoid(truth + bias).mean(1).float(), rtol=1e-5, atol=1e-6)
        again = poisoned(m)
        assert run("mean_of_sigmoid", [again], x, w, bias, splits=splits) == 0
        assert torch.equal(again, mean)


def test_a_weight_that_begins_anywhere_is_not_covered():
    x, y = normal(4, 64), poisoned(4, 8)
    assert run("plain", [y], x, normal(8, 68)[:, 1:65]) == NOT_COVERED
    assert bool((y == -7777).all())


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("m", [2, 8])
def test_a_module(reduced, m):
    """The launch is chosen, right, and in a graph reads what is there when it is replayed."""
    model = Function(
        lambda s, x: torch.sigmoid(s.linear(x)).sum(1, keepdim=True) if reduced else s.linear(x),
        linear=nn.Linear(16384, 16384),
    ).cuda()
    x = torch.randn(m, 16384, device="cuda")
    fast, _ = compiled(model, [x])
    assert_closer(fast(x), model(x), copy.deepcopy(model).double()(x.double()))
    assert [kind for kind, _ in fast.kernels.libraries] == [FEW]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        new = fast(x)
    x.normal_()
    graph.replay()
    assert torch.equal(new, fast(x))
