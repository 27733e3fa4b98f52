"""When a matrix product and what follows it are one kernel on a CUDA device, and how that one is launched.

Carried by every optimised file, so: standard library only, Python 3.9.
The numbers are what `device/cuda/product_launch.cuh` reads.
"""

from typing import NamedTuple, Optional

from modelnew.runtime.layout import Plan
from modelnew.runtime.plan_cuda import Device

_FLOAT = 4
_VECTOR = 16  # bytes that a row of the weight begins at a multiple of
_LEAST_TIME = 20  # microseconds; what the library does in less, it does while the host prepares a launch
BATCH_TILES = (16, 64, 128)  # rows of x per block
HOPPER, AMPERE = "product_hopper", "product_ampere"  # kernels by the instructions of 9.0 alone, and of 8.0 and later
AMPERE_TILES = (16, 64)  # more sums would not fit in a block's registers
_UNMEASURED = (8, 12)  # major compute capabilities on which Ampere's was never timed
ACROSS_AT, TILE_AT, STRIDES_AT = 0, 5, 13  # in the numbers
_LARGEST = 1 << 30  # of m, n and k

# What the kernel is made of; device/cuda/product_units.cuh has the same numbers.
ROWS_PER_BLOCK = 128  # of the weight
K_BLOCK = 64
CLUSTER = 2  # blocks that share x
WORKERS = 256  # threads of a block that hold sums
_TWO_BLOCKS = 120 << 10  # bytes of shared memory with which an SM has two blocks of Ampere's smaller tiles
_END = 8  # K_BLOCKs of k that a unit of Ampere's could do while it begins and ends
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)  # of k
_PARTIAL = 16  # bytes of what a block has of one reduction, at most
_ALIGN = 256  # of each place in the workspace


class Cost(NamedTuple):
    """Microseconds of a cluster with tiles of one size, fitted to 10,000 launches on an H200."""

    step: float  # for K_BLOCK of k
    end: float  # of a unit: from the first loads to the last stores
    reduce: float  # more, where rows are reduced
    join: float  # for each part of k


_COSTS = {16: Cost(0.54, 4.7, 2.5, 0.24), 64: Cost(0.71, 8.1, 4.0, 0.39), 128: Cost(1.02, 12.7, 8.5, 0.64)}


class Factors(NamedTuple):
    """x[m, k] · w[n, k] summed over k: sizes, and strides in elements (x: m, k; w: n, k)."""

    m: int
    n: int
    k: int
    x: "tuple[int, int]"
    w: "tuple[int, int]"


def plan_product(
    factors: Factors,
    strides: "list[tuple[int, int]]",
    device: Device,
    reduces: bool = False,
    alone: bool = False,
    unmeasured: bool = False,
) -> Optional[Plan]:
    """`strides`: of the outputs and the other operands along m and n, outputs first; the first is the only output.
    `reduces`: along n. `alone`: nothing comes after the product but what the library's does as well. `unmeasured`: also on
    devices for which nobody knows whether the library is faster.

    None where the library's product is taken.
    """
    m, n, k, _, w = factors
    lies_well = min(w) == 1 and w[across(factors)] * _FLOAT % _VECTOR == 0
    if m == 1 or not lies_well or max(m, n, k) > _LARGEST:  # one row is read at memory's speed by the library too
        return None
    if device.capability == (9, 0):
        theirs = library_time(factors, alone)
        ours, tile, splits = choose(factors, reduces, device)
        if theirs < _LEAST_TIME or theirs < ours:
            return None
        return launch_of(factors, strides, device, reduces, tile, splits)
    if unmeasured and device.capability[0] in _UNMEASURED:
        return launch_of(factors, strides, device, reduces, *spread(factors, device), kind=AMPERE)
    return None


def across(factors: Factors) -> int:
    """1 where the weight is contiguous along n, 0 along k."""
    return int(factors.w[1] != 1)


def launch_of(
    factors: Factors,
    strides: "list[tuple[int, int]]",
    device: Device,
    reduces: bool,
    tile: int,
    splits: int,
    kind: str = HOPPER,
) -> Plan:
    """The plan of a launch with `tile` rows of x per block and k in `splits` parts, or as many as it has steps."""
    m, n, k, x, w = factors
    splits = min(splits, _tiles(k, K_BLOCK))
    places, workspace = _places(factors, tile, splits, reduces)
    numbers = [across(factors), device.index, m, n, k, tile, splits, device.sms, *places]
    for pair in (strides[0], x, w, *strides[1:]):
        numbers += pair
    why = f"{m} x {n} products over {k} on tensor cores, split in halves for fp32 accuracy"
    return Plan(kind, tuple(numbers), why, workspace)


def choose(
    factors: Factors, reduces: bool, device: Device, tiles: "tuple[int, ...]" = BATCH_TILES
) -> "tuple[float, int, int]":
    """The fastest tile of these and number of parts of k, behind the time they take."""
    m = factors.m
    few = m <= 16 or (m <= 256 and factors.n * factors.k < 1 << 24)  # tiles of them do not read a large weight again
    suited = [tile for tile in tiles if (few if tile == 16 else 3 * m > tile)] or list(tiles)
    return min(
        (our_time(factors, t, parts, reduces, device), t, parts) for t in suited for parts in _parts_of(factors.k)
    )


def spread(factors: Factors, device: Device) -> "tuple[int, int]":
    """A tile and a number of parts of k for Ampere's kernel: by the steps along k that one SM does after the other, and what
    a unit takes besides. Not timed where it is used; of seven sizes on an H200 it took the fastest of the parts tried."""
    tile = AMPERE_TILES[0] if factors.m <= AMPERE_TILES[0] else AMPERE_TILES[1]
    at_once = device.sms * (2 if tile == AMPERE_TILES[0] and device.shared_per_block > _TWO_BLOCKS else 1)
    tiles, blocks = _tiles(factors.n, ROWS_PER_BLOCK) * _tiles(factors.m, tile), _tiles(factors.k, K_BLOCK)

    def steps(parts: int) -> int:
        return _tiles(tiles * parts, at_once) * (_tiles(blocks, parts) + _END)

    return tile, min(_parts_of(factors.k), key=steps)


def _parts_of(k: int) -> "list[int]":
    return [parts for parts in _SPLITS if parts == 1 or parts * 4 <= _tiles(k, K_BLOCK)]


def our_time(factors: Factors, tile: int, splits: int, reduces: bool, device: Device) -> float:
    """Microseconds on the device; half of the launches measured on an H200 are within 4 % of it, 95 % within 17."""
    m, n, k, _, _ = factors
    cost = _COSTS[tile]
    units = _tiles(_tiles(n, ROWS_PER_BLOCK), CLUSTER) * _tiles(m, tile) * splits
    rounds = _tiles(units, max(1, device.sms // CLUSTER))
    each = _tiles(_tiles(k, K_BLOCK), splits) * cost.step + cost.end + (cost.reduce if reduces else 0)
    computing = rounds * each + (splits * cost.join if splits > 1 else 0)
    moving = n * k * _FLOAT / 4.5e6
    return 2.6 + 0.0055 * m + 3.7e-6 * m * k + max(computing, moving) + 0.4 * min(computing, moving)


def library_time(factors: Factors, alone: bool) -> float:
    """Microseconds that the library's product takes at least, and unless it is `alone` a kernel of ours after it; by the
    same measurement, of which this is a lower edge. Few rows are read at memory's speed; more are multiplied, in tiles of 48
    at least, and k is walked step by step where it is not long enough to be split."""
    m, n, k, _, _ = factors
    if m <= 16:
        time = 2 + n * k * _FLOAT / (3.5e6 if m <= 2 else 2.7e6)
    else:
        time = 3 + max(m, 48) * n * k / 27e6 + 0.008 * min(k, 1024)
    time = max(time, 2 + n * k * _FLOAT / 4.2e6)
    return time if alone else time + 2.3 + m * n / 0.5e6


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
