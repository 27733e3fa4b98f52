"""The largest of a row's values, and the sum of exponentials below it, as a product's kernel combines them."""

import ctypes
import math

import pytest
import torch

from tests.builds import DEVICE, built_once, headers_of
from tests.cpu.device.library import FLAGS

SOURCE = r"""
#include "common/core.h"
#include "common/topped_exponentials.h"

// Pairs, pairs of pairs, and so on: as lanes and tiles do it.
extern "C" void combined(const float* values, int64_t size, float* result) {
  using sum = mn::topped_exponentials<float>;
  sum::type at[4096];
  for (int64_t i = 0; i < size; ++i) at[i] = sum::of(values[i]);
  for (int64_t count = size; count > 1; count = (count + 1) / 2)
    for (int64_t i = 0; i < (count + 1) / 2; ++i)
      at[i] = sum::combine(at[2 * i], 2 * i + 1 < count ? at[2 * i + 1] : sum::identity());
  result[0] = at[0].top, result[1] = at[0].total, result[2] = sum::below_top(at[0]);
}
"""


@pytest.fixture(scope="module")
def combined():
    files = headers_of(DEVICE / "common")
    built = built_once("device", SOURCE, ["g++", *FLAGS, f"-I{DEVICE}", "-x", "c++"], files, lambda text: [str(text)])
    function = ctypes.CDLL(str(built)).combined

    def call(values: torch.Tensor) -> tuple[float, float, float]:
        result = torch.empty(3)
        function(
            *(ctypes.c_void_p(t.data_ptr()) for t in (values,)),
            ctypes.c_int64(len(values)),
            ctypes.c_void_p(result.data_ptr()),
        )
        return tuple(result.tolist())

    return call


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("size", [1, 2, 100, 4096])
def test_sums_err_by_few_roundings(combined, size, scale):
    torch.manual_seed(size)
    values = torch.randn(size) * scale
    top, total, below = combined(values)
    truth = float(torch.exp(values.double() - top).sum())
    assert top == float(values.max()) and below == total
    assert abs(total / truth - 1) <= 2.0**-23 * (2 + 3 * math.log2(size))
    for order in (values.sort().values, values.sort(descending=True).values):
        assert abs(combined(order)[1] / truth - 1) <= 2.0**-23 * (2 + 3 * math.log2(size))


@pytest.mark.parametrize("others", [[], [1.0], [-1e30, 5.0, -3.0], [-math.inf] * 3])
@pytest.mark.parametrize(
    "special", [[math.inf], [math.inf, math.inf], [-math.inf], [math.nan], [math.inf, math.nan], [math.inf, -math.inf]]
)
def test_infinities_and_nan_are_those_of_pytorch(combined, special, others):
    for given in (special + others, others + special):
        values = torch.tensor(given)
        top, total, below = combined(values)
        torch.testing.assert_close(top, float(values.max()), equal_nan=True)
        shift = 0.0 if math.isinf(top) else top
        logs = math.nan if math.isnan(total) else math.log(total) + shift if total > 0 else -math.inf
        torch.testing.assert_close(logs, float(torch.logsumexp(values, 0)), equal_nan=True, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(below, float(torch.exp(values - values.max()).sum()), equal_nan=True)
