"""When a matrix product and what follows it are one kernel on a CUDA device, and how that one is launched.

Carried by every optimised file, so: standard library only, Python 3.9.
The numbers are what `device/cuda/product.cuh` reads.
"""

from typing import NamedTuple, Optional

from modelnew.runtime.layout import Plan
from modelnew.runtime.plan_cuda import Device

_FLOAT = 4
_VECTOR = 16  # bytes that a row of the weight begins at a multiple of
_LEAST_WORK = 1 << 24  # multiplications; below this a launch costs more than the product
BATCH_TILES = (16, 64, 128)  # rows of x per block
STRIDES_AT = 13  # in the numbers
_LARGEST = 1 << 30  # of m, n and k

# What the kernel is made of; device/cuda/product_sums.cuh has the same numbers.
ROWS_PER_BLOCK = 128  # of the weight
K_BLOCK = 64
CLUSTER = 2  # blocks that share x
WORKERS = 256  # threads of a block that hold sums
MOST_SPLITS = 16
_PARTIAL = 16  # bytes of what a block has of one reduction, at most
_ALIGN = 256  # of each place in the workspace


class Factors(NamedTuple):
    """x[m, k] · w[n, k] summed over k: sizes, and strides in elements (x: m, k; w: n, k)."""

    m: int
    n: int
    k: int
    x: "tuple[int, int]"
    w: "tuple[int, int]"


def plan_product(
    factors: Factors, strides: "list[tuple[int, int]]", device: Device, reduces: bool = False
) -> Optional[Plan]:
    """`strides`: of the outputs and the other operands along m and n, outputs first; the first is the only output.
    `reduces`: along n.

    None where the library's product is taken.
    """
    m, n, k, _, w = factors
    lies_well = w[1] == 1 and w[0] * _FLOAT % _VECTOR == 0
    if device.capability != (9, 0) or not lies_well or max(m, n, k) > _LARGEST:
        return None
    if m == 1 or m * n * k < _LEAST_WORK:  # one row is read at memory's speed by the library too
        return None
    tile = next((tile for tile in BATCH_TILES if m <= tile), BATCH_TILES[-1])
    return launch_of(factors, strides, device, reduces, tile, choose_splits(factors, tile, device))


def launch_of(
    factors: Factors, strides: "list[tuple[int, int]]", device: Device, reduces: bool, tile: int, splits: int
) -> Plan:
    """With `tile` rows of x per block, and k in so many parts."""
    m, n, k, x, w = factors
    splits = min(splits, _tiles(k, K_BLOCK))
    places, workspace = _places(factors, tile, splits, reduces)
    numbers = [0, device.index, m, n, k, tile, splits, device.sms, *places]
    for pair in (strides[0], x, w, *strides[1:]):
        numbers += pair
    why = f"{m} x {n} products over {k} on tensor cores, split in halves for fp32 accuracy"
    return Plan("product", tuple(numbers), why, workspace)


def choose_splits(factors: Factors, tile: int, device: Device) -> int:
    """Parts of k: so many that the clusters end together, as few as do."""
    clusters = max(1, device.sms // CLUSTER)
    units = -(-_tiles(factors.n, ROWS_PER_BLOCK) // CLUSTER) * _tiles(factors.m, tile)
    blocks = _tiles(factors.k, K_BLOCK)

    def time(splits: int) -> float:
        return -(-units * splits // clusters) / splits * (1 + 0.02 * (splits - 1))

    return min((s for s in range(1, MOST_SPLITS + 1) if s == 1 or s * 8 <= blocks + 7), key=time)


def _places(factors: Factors, tile: int, splits: int, reduces: bool) -> "tuple[list[int], int]":
    """Where parts of the workspace begin, besides the first, and the bytes of all: x in halves; the units of x's rows
    and of the weight's; counters; the sums of the parts of k; what blocks have of reductions."""
    m_tiles, n_tiles = _tiles(factors.m, tile), _tiles(factors.n, ROWS_PER_BLOCK)
    tiles = m_tiles * n_tiles if splits > 1 else 0
    rows = m_tiles * tile
    sizes = (
        rows * _tiles(factors.k, K_BLOCK) * K_BLOCK * _FLOAT,
        rows * _FLOAT,
        factors.n * _FLOAT,
        (tiles + (m_tiles if reduces else 0)) * 4,
        tiles * splits * (tile // 2 + 2) * WORKERS * _FLOAT,
        factors.m * n_tiles * _PARTIAL if reduces else 0,
    )
    ends, end = [], 0
    for size in sizes:
        end += _tiles(size, _ALIGN) * _ALIGN
        ends.append(end)
    return ends[:-1], end


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)
