"""When a matrix product and what follows it are one kernel on a CUDA device, and how that one is launched.

Carried by every optimised file, so: standard library only, Python 3.9.
The numbers are what `device/cuda/product_launch.cuh` reads.
"""

import functools
import operator
from typing import NamedTuple, Optional

from modelnew.runtime.layout import Plan
from modelnew.runtime.plan_cuda import Device

_FLOAT = 4
_VECTOR = 16  # bytes that a row of the weight begins at a multiple of
LEAST_TIME = 20  # microseconds; what the library does in less, it does while the host prepares a launch
BATCH_TILES = (16, 64, 128)  # rows of x per block
HOPPER, AMPERE = "product_hopper", "product_ampere"  # kernels by the instructions of 9.0 alone, and of 8.0 and later
AMPERE_TILES = (16, 64)  # more sums would not fit in a block's registers
_UNMEASURED = (8, 12)  # major compute capabilities on which Ampere's was never timed
ACROSS_AT, TILE_AT, STRIDES_AT = 0, 5, 15  # in the numbers
MOST_BATCH_DIMS = 2
LARGEST = 1 << 30  # of m, n and k

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
    more: float  # the same of one of many units, whose first loads are made while the one before ends
    reduce: float  # more, where rows are reduced
    join: float  # for each part of k


_COSTS = {16: Cost(0.54, 4.2, 3, 2.5, 0.27), 64: Cost(0.75, 6.1, 2.5, 3.9, 0.55), 128: Cost(1.05, 8.4, 3.8, 7.9, 0.89)}
_BEFORE_MORE = 20  # microseconds that many units begin with
_TURNED = 1.3  # of the time that turned products may take as well: their stores are of fewer neighbours


class Factors(NamedTuple):
    """x[m, k] · w[n, k] summed over k: sizes, and strides in elements (x: m, k; w: n, k).

    batch: dims of several such products, outermost first; x_apart, w_apart: the factors' strides along these.
    """

    m: int
    n: int
    k: int
    x: "tuple[int, int]"
    w: "tuple[int, int]"
    batch: "tuple[int, ...]" = ()
    x_apart: "tuple[int, ...]" = ()
    w_apart: "tuple[int, ...]" = ()

    def turned(self) -> "Factors":
        """The same the other way round: w[n, k] · x[m, k]."""
        return Factors(self.n, self.m, self.k, self.w, self.x, self.batch, self.w_apart, self.x_apart)

    @property
    def batches(self) -> int:
        return _product(self.batch)

    @property
    def x_batches(self) -> int:
        """How many of x there are: 1 where all products have the same."""
        return self.batches if any(self.x_apart) else 1

    @property
    def w_batches(self) -> int:
        return self.batches if any(self.w_apart) else 1


def plan_product(
    factors: Factors,
    strides: "list[tuple[int, ...]]",
    device: Device,
    reduces: bool = False,
    alone: bool = False,
    unmeasured: bool = False,
) -> Optional[Plan]:
    """`strides`: of the outputs and the other operands along the batch's dims, m and n, outputs first; the first is the
    only output. `reduces`: along n. `alone`: nothing comes after the product but what the library's does as well.
    `unmeasured`: also on devices for which nobody knows whether the library is faster.

    None where the library's product is taken. A plan that is `turned` is one of w · xᵀ.
    """
    if factors.m == 1:  # one row is read at memory's speed by the library too
        return None
    ways = [(factors, strides)] if covers(factors) else []
    if device.capability != (9, 0):
        wanted = unmeasured and device.capability[0] in _UNMEASURED and ways
        return launch_of(factors, strides, device, reduces, *spread(factors, device), kind=AMPERE) if wanted else None
    other = factors.turned()
    if covers(other) and other.m > 1 and not reduces and (factors.batch or not ways):
        ways.append((other, [(*s[:-2], s[-1], s[-2]) for s in strides]))
    theirs = library_time(factors, alone)
    times = []
    for found, steps in ways:
        ours, tile, splits = choose(found, reduces, device)
        times.append((ours * (_TURNED if found is other else 1), tile, splits, found, steps))
    if not times or theirs < LEAST_TIME or theirs < min(times)[0]:
        return None
    _, tile, splits, found, steps = min(times)
    return launch_of(found, steps, device, reduces, tile, splits)._replace(turned=found is other)


def covers(factors: Factors) -> bool:
    """Whether the kernel can take the second one as the weight: what the copy engine brings."""
    w, sizes = factors.w, (factors.m, factors.n, factors.k, factors.batches)
    lies_well = min(w) == 1 and all(step * _FLOAT % _VECTOR == 0 for step in (w[across(factors)], *factors.w_apart))
    return lies_well and max(sizes) <= LARGEST and len(factors.batch) <= MOST_BATCH_DIMS


def across(factors: Factors) -> int:
    """1 where the weight is contiguous along n, 0 along k."""
    return int(factors.w[1] != 1)


def launch_of(
    factors: Factors,
    strides: "list[tuple[int, ...]]",
    device: Device,
    reduces: bool,
    tile: int,
    splits: int,
    kind: str = HOPPER,
) -> Plan:
    """The plan of a launch with `tile` rows of x per block and k in `splits` parts, or as many as it has steps."""
    m, n, k, x, w, batch, x_apart, w_apart = factors
    splits = min(splits, _tiles(k, K_BLOCK))
    places, workspace = _places(factors, tile, splits, reduces)
    missing = MOST_BATCH_DIMS - len(batch)
    numbers = [across(factors), device.index, m, n, k, tile, splits, device.sms, *(1,) * missing, *batch, *places]
    for steps in (strides[0], (*x_apart, *x), (*w_apart, *w), *strides[1:]):
        numbers += [*(0,) * missing, *steps]
    several = f"{factors.batches} times " if batch else ""
    why = f"{several}{m} x {n} products over {k} on tensor cores, split in halves for fp32 accuracy"
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
    tiles = _tiles(factors.n, ROWS_PER_BLOCK) * _tiles(factors.m, tile) * factors.batches
    blocks = _tiles(factors.k, K_BLOCK)

    def steps(parts: int) -> int:
        return _tiles(tiles * parts, at_once) * (_tiles(blocks, parts) + _END)

    return tile, min(_parts_of(factors.k), key=steps)


def _parts_of(k: int) -> "list[int]":
    return [parts for parts in _SPLITS if parts == 1 or parts * 4 <= _tiles(k, K_BLOCK)]


def our_time(factors: Factors, tile: int, splits: int, reduces: bool, device: Device) -> float:
    """Microseconds on the device; half of the launches measured on an H200 are within 4 % of it, 95 % within 17."""
    n, k = factors.n, factors.k
    m = factors.m * factors.x_batches
    cost = _COSTS[tile]
    units = _tiles(_tiles(n, ROWS_PER_BLOCK), CLUSTER) * _tiles(factors.m, tile) * splits * factors.batches
    rounds = _tiles(units, max(1, device.sms // CLUSTER))
    end = min(cost.end, cost.more + _BEFORE_MORE / rounds) + (cost.reduce if reduces else 0)
    each = _tiles(_tiles(k, K_BLOCK), splits) * cost.step + end
    computing = rounds * each + (splits * cost.join if splits > 1 else 0)
    moving = n * k * _FLOAT / 4.5e6 * factors.w_batches
    split = 3.4e-6 * m * k
    if factors.batch:  # the weights of several products are looked through first: nothing is remembered of them
        split = (3.4e-6 if k <= 1024 else 5e-6) * m * k + (1.4e-6 if k <= 1024 else 2.5e-6) * n * k * factors.w_batches
    return 2.6 + split + max(computing, moving) + 0.4 * min(computing, moving)


def library_time(factors: Factors, alone: bool) -> float:
    """Microseconds that the library's product takes at least, and unless it is `alone` a kernel of ours after it; by the
    same measurement, of which this is a lower edge. Few rows are read at memory's speed; more are multiplied, in tiles of 48
    at least, and k is walked step by step where it is not long enough to be split."""
    m, n, k = factors[:3]
    if factors.batch:
        elements = factors.x_batches * m * k + factors.w_batches * n * k + (factors.batches * m * n if alone else 0)
        time = 3 + max(factors.batches * max(m, 48) * n * k / 27e6, elements * _FLOAT / 4.2e6)
        return time if alone else time + 2.3 + factors.batches * m * n / 0.5e6
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
    tiles = factors.batches * m_tiles * n_tiles if splits > 1 else 0
    rows = factors.x_batches * m_tiles * tile
    sizes = (
        rows * _tiles(factors.k, K_BLOCK) * K_BLOCK * _FLOAT,
        rows * _FLOAT,
        factors.w_batches * factors.n * _FLOAT,
        (tiles + (factors.batches * m_tiles if reduces else 0)) * 4,
        tiles * splits * (tile // 2 + 2) * WORKERS * _FLOAT,
        factors.batches * factors.m * n_tiles * _PARTIAL if reduces else 0,
    )
    ends, end = [], 0
    for size in sizes:
        end += _tiles(size, _ALIGN) * _ALIGN
        ends.append(end)
    return ends[:-1], end


def _product(sizes: "tuple[int, ...]") -> int:
    return functools.reduce(operator.mul, sizes, 1)


def _tiles(size: int, tile: int) -> int:
    return -(-size // tile)
