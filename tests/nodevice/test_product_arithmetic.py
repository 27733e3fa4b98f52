"""The arithmetic of products on tensor cores against float64, and the layouts that the kernels share."""

import math

import numpy as np
import pytest

from modelnew.runtime import plan_product
from tests.product_model import (
    AMPERE,
    BLOCK,
    EPS,
    GROUP,
    HEADER,
    HOPPER,
    fp32_product,
    kernel_product,
    places,
    scaled_halves,
    tensor_core,
)

ROWS = COLUMNS = 8
CORES = pytest.mark.parametrize("core", [HOPPER, AMPERE], ids=["hopper", "ampere"])


def data(name, k, random):
    def normal():
        return random.standard_normal((ROWS, k))

    def wide(*shape, binades=20):
        return np.exp2(random.uniform(-binades, binades, shape)) * random.choice([-1.0, 1.0], shape)

    if name == "uniform":
        x, w = random.random((ROWS, k)), random.uniform(-1, 1, (COLUMNS, k)) / math.sqrt(k)
    elif name == "normal":
        x, w = normal(), normal()
    elif name == "positive":
        x, w = random.random((ROWS, k)), random.random((COLUMNS, k))
    elif name == "wide":
        x, w = wide(ROWS, k), wide(COLUMNS, k)
    elif name == "cancelling":
        x, w = normal(), normal()
        x[:, 1::2] = -x[:, : k - 1 : 2][:, : k // 2]
        w[:, 1::2] = (w[:, : k - 1 : 2] * (1 + 2.0**-12 * random.standard_normal(w[:, : k - 1 : 2].shape)))[:, : k // 2]
    else:
        assert name == "rows"
        x, w = normal() * wide(ROWS, 1, binades=40), normal() * wide(COLUMNS, 1, binades=40)
    return x.astype(np.float32), w.astype(np.float32)


def errors(y, x, w):
    """Largest and rms error, in units of the sum of the terms' magnitudes."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    relative = np.abs(y - x @ w.T) / (np.abs(x) @ np.abs(w).T)
    return relative.max(), np.sqrt(np.square(relative).mean())


@pytest.mark.parametrize("name", ["uniform", "normal", "positive", "wide", "cancelling", "rows"])
@pytest.mark.parametrize("k", [1, 3, 16, 33, 100, 1000, 4096])
@CORES
def test_errors_are_those_of_fp32(core, name, k):
    x, w = data(name, k, np.random.default_rng(k))
    ours, theirs = errors(kernel_product(x, w, core), x, w), errors(fp32_product(x, w), x, w)
    # Each operand keeps 22 bits and the product of the low halves is left out: at most 4 eps of a term.
    assert ours[0] <= max(theirs[0], 4 * EPS)
    assert ours[1] <= max(theirs[1], EPS)


@pytest.mark.parametrize("name", ["normal", "positive"])
@CORES
def test_long_sums_are_no_worse_than_those_of_fp32(core, name):
    x, w = data(name, 65536, np.random.default_rng(1))
    ours, theirs = errors(kernel_product(x, w, core), x, w), errors(fp32_product(x, w), x, w)
    assert ours[0] <= theirs[0]
    assert ours[1] <= theirs[1]


def test_longer_sums_in_the_tensor_core_would_show():
    """What the additions in fp32 are for: without them truncation makes positive sums too small."""
    x, w = data("positive", 4096, np.random.default_rng(2))
    x_high, _, unit = scaled_halves(x)
    w_high, _, w_unit = scaled_halves(w)
    sums = np.zeros((ROWS, COLUMNS))
    for first in range(0, 4096, 16):
        sums = tensor_core(HOPPER, sums, x_high[:, first : first + 16], w_high[:, first : first + 16])
    kept = errors(sums * unit * w_unit.T, (x_high * unit).astype(np.float32), (w_high * w_unit).astype(np.float32))
    assert kept[1] > 20 * errors(kernel_product(x, w), x, w)[1]


def test_the_plan_and_the_headers_have_the_same_sizes():
    assert HEADER["product_rows_per_block"] == plan_product.ROWS_PER_BLOCK
    assert HEADER["product_k_block"] == BLOCK * GROUP == plan_product.K_BLOCK
    assert HEADER["product_cluster"] == plan_product.CLUSTER
    assert HEADER["product_workers"] == plan_product.WORKERS
    at = (plan_product.ACROSS_AT, plan_product.TILE_AT, plan_product.STRIDES_AT)
    assert (HEADER["across_at"], HEADER["batch_tile_at"], HEADER["strides_at"]) == at


def test_small_integers_are_exact():
    random = np.random.default_rng(3)
    x, w = (random.integers(-9, 10, (rows, 1000)).astype(np.float32) for rows in (ROWS, COLUMNS))
    assert np.array_equal(kernel_product(x, w), x.astype(np.float64) @ w.T.astype(np.float64))


def test_the_two_operands_meet_at_the_same_k():
    """What a lane has of the weight stands where the fragment's position asks for x's element of the same k."""
    x_row = {}  # position in a row of high halves → k
    for piece in range(4):
        for q in range(4):
            for e in range(2):
                x_row[8 * piece + 2 * q + e] = 2 * piece + 8 * q + e
    for q in range(4):
        for step in range(2):
            chunk = 2 * q + step  # 16 bytes of the weight's row that the lane reads
            for j in range(4):
                position = 16 * step + [2 * q, 2 * q + 1, 2 * q + 8, 2 * q + 9][j]
                assert x_row[position] == 4 * chunk + j
    assert [places(step)[p] for step in range(2) for p in range(16)] == [x_row[p] for p in range(32)]


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("warp", range(8))
def test_lanes_that_read_across_together_have_banks_of_their_own(step, warp):
    """A weight whose columns are contiguous: four bytes a lane, of 8 rows and 4 steps of k; k in its own order."""
    for row8 in (0, 8):
        for i in (0, 1, 8, 9):
            banks = set()
            for lane in range(32):
                k, row = 16 * step + 2 * (lane % 4) + i, 16 * warp + lane // 4 + row8
                banks.add((row // 32 * 4096 + k * 128 + ((row % 32 // 4) ^ (k & 7)) * 16 + row % 4 * 4) // 4 % 32)
            assert len(banks) == 32


@pytest.mark.parametrize("step", [0, 1])
def test_lanes_that_read_together_have_banks_of_their_own(step):
    for first in range(0, 32, 8):  # 16 bytes a lane: eight lanes at a time
        pieces = set()
        for lane in range(first, first + 8):
            row = lane // 4
            pieces.add((row * 8 + ((2 * (lane % 4) + step) ^ (row & 7))) % 8)
        assert len(pieces) == 8
