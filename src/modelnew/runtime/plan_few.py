"""How a matrix product of few rows of x is spread over a CUDA device, and how long it takes.

Carried by every optimised file, so: standard library only, Python 3.9.
The numbers are what `device/cuda/product_few.cuh` reads.
"""

import math
from typing import Optional

from modelnew.runtime.layout import Plan
from modelnew.runtime.plan_cuda import Device
from modelnew.runtime.plan_product import LARGEST, LEAST_TIME, Factors, across, choose, library_time

FEW = "product_few"
MOST_FEW = 8
FEW_STRIDES_AT = 12  # in the numbers
FEW_TILES = (1, 2, 4, 8)  # rows of x that the code is compiled for

# What the kernels are made of; device/cuda/product_few_sums.cuh and product_few.cuh have the same numbers.
_WARPS = 12
_SLICE = 256  # elements of k that a slice is a multiple of
_SCRATCH = _WARPS * 32 * 16 * 4  # bytes, where the weight lies across
_FINISH_TILE = 512  # of n
_VECTOR = 16  # bytes
_PARTIAL = 16  # bytes of what a block has of one reduction, at most
_ALIGN = 256  # of each place in the workspace
_MOST_SLICES = 64
_START, _TURN, _FINISH = (
    4.0,
    0.2,
    3.0,
)  # microseconds: of a launch, of the warps' turn to other rows, of the second kernel
_RATE, _WARP_RATE = 33.8e3, 4e3  # bytes that an SM reads in a microsecond, and a warp alone
_MULTIPLYING = {1: 1.0, 2: 1.01, 4: 1.03, 8: 1.08}  # times longer, by the tile
_MARGIN = 1.04  # times that another way must take, for the model's own error
_CHAIN = 171  # additions one after the other, at most, where the weight lies across


def plan_few(
    factors: Factors, strides: "list[tuple[int, ...]]", device: Device, reduces: bool = False, alone: bool = False
) -> Optional[Plan]:
    """As `plan_product`, of fp32. None where another way is faster, or may be: where the weight lies across, and in 16 bits,
    nobody has timed the kernel."""
    m, n, k, w = factors.m, factors.n, factors.k, factors.w
    lies_well = w[1] == 1 and w[0] * 4 % _VECTOR == 0
    if factors.batch or m > MOST_FEW or device.capability != (9, 0) or not lies_well or max(n, k) > LARGEST:
        return None
    time, splits = choose_few(factors, reduces, device)
    theirs = library_few_time(factors, alone)
    if m > 1:
        theirs = min(theirs, choose(factors, reduces, device)[0])
    if theirs < LEAST_TIME or theirs < time * _MARGIN:
        return None
    return launch_of_few(factors, strides, device, reduces, splits)


def library_few_time(factors: Factors, alone: bool) -> float:
    """As `library_time`; by that measurement, one row is read as fast as can be."""
    one = 2 + factors.n * factors.k * 4 / 4.2e6
    return library_time(factors, alone) if factors.m > 1 else one if alone else one + 2.3 + factors.n / 0.5e6


def few_tile(m: int) -> int:
    return next(tile for tile in FEW_TILES if tile >= m)


def launch_of_few(
    factors: Factors,
    strides: "list[tuple[int, ...]]",
    device: Device,
    reduces: bool,
    splits: int,
) -> Plan:
    """The plan of a launch with k in so many slices. `strides`: as `plan_product` takes them."""
    m, n, k, x, w = factors[:5]
    tile = few_tile(m)
    stored = m * n * 4 * splits if reduces or splits > 1 else 0
    sizes = (m * 4 if reduces else 0, stored, m * tiles_of(n, _FINISH_TILE) * _PARTIAL if reduces else 0)
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += tiles_of(size, _ALIGN) * _ALIGN
    early = int(device.capability >= (9, 0))
    numbers: list[int] = [across(factors), device.index, m, n, k, tile, splits, device.sms, early, *places]
    for pair in (strides[0], x, w, *strides[1:]):
        numbers += pair
    return Plan(FEW, tuple(numbers), f"{m} x {n} products over {k} while the weight is read", end)


def choose_few(factors: Factors, reduces: bool, device: Device, itemsize: int = 4) -> "tuple[float, int]":
    """The fastest number of slices of k, behind the time that it takes."""
    found = [(few_time(factors, reduces, device, itemsize, s), s) for s in few_splits(factors, itemsize, device)]
    return min(found, default=(math.inf, 0))


def few_time(factors: Factors, reduces: bool, device: Device, itemsize: int, splits: int) -> float:
    """Microseconds on the device: of the block that has the most to read."""
    m, n, k = factors[:3]
    tile, size, vector = few_tile(m), _slice(k, splits), _VECTOR // itemsize
    rows = 32 * vector if across(factors) else few_rows(tile, itemsize)
    piece = rows * min(size, k) * itemsize  # bytes
    pieces = tiles_of(tiles_of(n, rows) * splits, device.sms)
    if across(factors):
        reading = pieces * piece / _RATE
    else:  # the last ones keep fewer warps busy
        rounds, rest = divmod(pieces, _WARPS)
        reading = rounds * (_WARPS * piece / _RATE + _TURN)
        reading += max(rest / _RATE, 1 / _WARP_RATE) * piece + _TURN if rest else 0
    adding = _FINISH + splits * m * n * 4 / 2e6 if reduces or splits > 1 else 0
    return _START + _MULTIPLYING[tile] * reading + tile * min(size, k) * 4 / 1e5 + adding


def few_rows(tile: int, itemsize: int) -> int:
    """Rows of the weight that a warp works on at a time, where they are contiguous."""
    return 1 if tile == 1 else (1 if tile <= 2 else 2) if itemsize == 4 else (2 if tile <= 4 else 4)


def few_splits(factors: Factors, itemsize: int, device: Device) -> "list[int]":
    """Numbers of slices that fit on chip."""
    lies_across, tile = across(factors), few_tile(factors.m)
    room = device.shared_per_block - (_SCRATCH if lies_across else 0)
    sums = tile * _VECTOR // itemsize  # of a lane, where the weight lies across; partial ones apart where there are few
    longest = _CHAIN * _WARPS * (4 if sums <= 8 else 2 if sums <= 16 else 1)
    step = 1 if lies_across else 8 // few_rows(tile, itemsize) * 32 * _VECTOR // itemsize
    found = []
    for splits in range(1, _MOST_SLICES + 1):
        slice_size = _slice(factors.k, splits)
        if (splits - 1) * slice_size >= factors.k:
            continue
        if lies_across and slice_size > longest:
            continue
        if tile * tiles_of(slice_size, step) * step * 4 <= room:
            found.append(splits)
    return found


def _slice(k: int, splits: int) -> int:
    return tiles_of(tiles_of(k, splits), _SLICE) * _SLICE


def tiles_of(size: int, tile: int) -> int:
    return -(-size // tile)
