"""The arithmetic of products on tensor cores (device/cuda/product_*.cuh), in a model of the tensor core.

The model is the published one: some products of halves and the sum so far are aligned to the largest exponent among them, cut
off some bits below it, added exactly, and cut off to fp32. The order of splits, products and additions is the kernels'; the
sizes in it are read from the headers.
"""

import re
from typing import NamedTuple

import numpy as np

from tests.builds import DEVICE

EPS = 2.0**-23
HEADERS = [
    DEVICE / "cuda" / f"product{name}.cuh" for name in ("_split", "_units", "_sums", "_sm90", "_launch", "_hopper")
]


def constants():
    """The headers' constants, by name."""
    text = "".join(header.read_text() for header in HEADERS)
    values = {}
    for declared in re.findall(r"^inline constexpr int (\w+ = [^;]*);", text, re.MULTILINE):
        for name, value in re.findall(r"(\w+) = ([^,]+)", declared):
            values[name] = eval(value, {}, values)
    return values


HEADER = constants()
GROUP = HEADER["product_group"]
LONG_SUM = HEADER["long_sum"]  # from there on fp32 additions come every second block, where k is not split
BLOCK = HEADER["groups_per_block"]  # groups


class Core(NamedTuple):
    at_once: int  # products that are added in one step
    bits: int  # that are kept below the largest of them


HOPPER, AMPERE = Core(16, 25), Core(8, 24)


def exponents(values):
    return np.frexp(values)[1]


def tensor_core(core, total, a, b):
    """total[m, n] + sum over the last dim of a[m, 16] · b[n, 16]."""
    for first in range(0, 16, core.at_once):
        total = _add(core, total, a[:, first : first + core.at_once], b[:, first : first + core.at_once])
    return total


def _add(core, total, a, b):
    terms = a[:, None, :] * b[None, :, :]  # exact in float64
    heights = np.where(terms == 0, -1000, exponents(a)[:, None, :] + exponents(b)[None, :, :] - 1)
    top = np.maximum(heights.max(2), np.where(total == 0, -1000, exponents(total)))
    unit = np.ldexp(1.0, np.maximum(top - 1 - core.bits, -900))
    whole = np.trunc(terms / unit[:, :, None]).sum(2) + np.trunc(total / unit)
    result = whole * unit
    fraction = np.ldexp(1.0, exponents(result) - 24)
    return np.where(result == 0, 0.0, np.trunc(result / fraction) * fraction)


def scaled_halves(rows):
    """Each row by a power of two to [2^14, 2^15), as high and low halves; and that power."""
    largest = np.abs(rows).max(1, keepdims=True)
    unit = np.where(largest == 0, 1.0, np.ldexp(1.0, exponents(largest) - 15))
    scaled = rows / unit
    high = scaled.astype(np.float16).astype(np.float64)
    return high, (scaled - high).astype(np.float16).astype(np.float64), unit


def too_wide(rows, unit):
    """Rows with too many elements that keep few bits: the kernel sums those in fp32."""
    size = np.abs(rows / unit)
    small, large = ((size > 0) & (size < 0.125)).sum(1), (size >= 32).sum(1)
    return small * np.where(small == 1, 32, 64) > large


def places(step, across=False):
    """Which elements of a group the product `step` of 16 takes, in the order of its fragments' positions. `across`: of a
    weight whose columns are contiguous."""
    if across:
        return list(range(16 * step, 16 * step + 16))
    return [8 * q + 4 * step + 2 * h + e for h in range(2) for q in range(4) for e in range(2)]


def kernel_product(x, w, core=HOPPER, across=False):
    """x[m, k] · w[n, k] in fp32 as the kernel for this tensor core computes it."""
    k = -(-x.shape[1] // (BLOCK * GROUP)) * BLOCK * GROUP
    x, w = (np.pad(t.astype(np.float64), ((0, 0), (0, k - t.shape[1]))) for t in (x, w))
    (x_high, x_low, x_unit), (w_high, w_low, w_unit) = scaled_halves(x), scaled_halves(w)

    def add(sums, at, small=True, large=True):
        if small:
            sums = tensor_core(core, sums, x_high[:, at], w_low[:, at])
            sums = tensor_core(core, sums, x_low[:, at], w_high[:, at])
        return tensor_core(core, sums, x_high[:, at], w_high[:, at]) if large else sums

    total = np.zeros((len(x), len(w)), np.float32)
    nothing = sums = np.zeros((len(x), len(w)))
    for group in range(k // GROUP):
        steps = [[GROUP * group + place for place in places(step, across)] for step in range(2)]
        if core == AMPERE:
            first, second = (add(nothing, at).astype(np.float32) for at in steps)
            total = total + (first + second)
            continue
        for at in steps:
            sums = add(sums, at, large=False)
        for at in steps:
            sums = add(sums, at, small=False)
        if k < LONG_SUM or group % (2 * BLOCK) == 2 * BLOCK - 1 or group + 1 == k // GROUP:
            total = total + sums.astype(np.float32)
            sums = nothing
    y = total * x_unit.astype(np.float32) * w_unit.T.astype(np.float32)
    plainly = too_wide(x, x_unit)[:, None] | too_wide(w, w_unit)
    return np.where(plainly, fp32_product(x, w), y)


def fp32_product(x, w):
    """One multiplication and addition after the other, as a plain fp32 product sums."""
    total = np.zeros((len(x), len(w)), np.float32)
    for k in range(x.shape[1]):
        total = (total + np.outer(x[:, k].astype(np.float64), w[:, k])).astype(np.float32)
    return total
