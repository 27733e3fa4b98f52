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
_BATCH_TILES = (16, 64, 128)  # rows of x per block
_LARGEST = 1 << 30  # of m, n and k


class Factors(NamedTuple):
    """x[m, k] · w[n, k] summed over k: sizes, and strides in elements (x: m, k; w: n, k)."""

    m: int
    n: int
    k: int
    x: "tuple[int, int]"
    w: "tuple[int, int]"


def plan_product(factors: Factors, strides: "list[tuple[int, int]]", device: Device) -> Optional[Plan]:
    """`strides`: of the outputs and the other operands along m and n, outputs first; the first is the only output.

    None where the library's product is taken.
    """
    m, n, k, x, w = factors
    lies_well = w[1] == 1 and w[0] * _FLOAT % _VECTOR == 0
    if device.capability != (9, 0) or not lies_well or max(m, n, k) > _LARGEST:
        return None
    if m == 1 or m * n * k < _LEAST_WORK:  # one row is read at memory's speed by the library too
        return None
    numbers = [
        0,
        device.index,
        m,
        n,
        k,
        next((tile for tile in _BATCH_TILES if m <= tile), _BATCH_TILES[-1]),
        0,
        device.sms,
    ]
    for pair in (strides[0], x, w, *strides[1:]):
        numbers += pair
    return Plan(
        "product", tuple(numbers), f"{m} x {n} products over {k} on tensor cores, split in halves for fp32 accuracy"
    )
