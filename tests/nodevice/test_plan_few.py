"""Products of few rows: how they are spread over a device, and when they are chosen."""

import random

import pytest

from modelnew.runtime.plan_cuda import Device
from modelnew.runtime.plan_few import (
    FEW,
    FEW_STRIDES_AT,
    FEW_TILES,
    few_splits,
    few_tile,
    launch_of_few,
    plan_few,
)
from modelnew.runtime.plan_product import Factors

HOPPER = Device(index=0, sms=132, capability=(9, 0), shared_per_block=227 << 10, l2_bytes=60 << 20)
TURING = Device(index=0, sms=40, capability=(7, 5), shared_per_block=64 << 10, l2_bytes=4 << 20)


def factors(m: int, n: int, k: int, across: int = 0) -> Factors:
    return Factors(m, n, k, (k, 1), (1, n) if across else (k, 1))


def test_tiles_hold_the_rows() -> None:
    assert [few_tile(m) for m in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]
    assert max(FEW_TILES) == 8


@pytest.mark.parametrize("device", [HOPPER, TURING])
def test_a_slice_fits_on_chip_and_none_is_empty(device: Device) -> None:
    draw = random.Random(3)
    for _ in range(300):
        m, k, across, itemsize = (
            draw.randint(1, 8),
            int(2 ** draw.uniform(0, 17)),
            draw.randrange(2),
            draw.choice([2, 4]),
        )
        for splits in few_splits(factors(m, 64, k, across), itemsize, device):
            size = -(-k // splits)
            assert few_tile(m) * size * 4 + across * 24576 <= device.shared_per_block
            assert (splits - 1) * -(-size // 256) * 256 < k


def test_what_the_launcher_reads() -> None:
    alone = launch_of_few(factors(3, 500, 4096), [(500, 1), (0, 1)], HOPPER, False, 1)
    assert alone.kind == FEW and alone.workspace == 0
    assert alone.numbers == (0, 0, 3, 500, 4096, 4, 1, 132, 1, 0, 0, 0, 500, 1, 4096, 1, 4096, 1, 0, 1)
    assert len(alone.numbers) == FEW_STRIDES_AT + 2 * 4
    reduced = launch_of_few(factors(3, 5000, 4096, 1), [(1, 0)], TURING, True, 2)
    counters, sums, partials = reduced.numbers[FEW_STRIDES_AT - 3 : FEW_STRIDES_AT]
    assert reduced.numbers[:2] == (1, 0) and reduced.numbers[8] == 0  # across; a device without early starts
    assert sums - counters >= 3 * 4 and partials - sums >= 2 * 3 * 5000 * 4
    assert reduced.workspace - partials >= 3 * 10 * 16
    assert all(place % 256 == 0 for place in (counters, sums, partials))


def test_chosen_where_it_is_faster_by_what_was_measured() -> None:
    def chosen(m: int, n: int, k: int, across: int = 0, device: Device = HOPPER, alone: bool = True) -> bool:
        return plan_few(factors(m, n, k, across), [(n, 1)], device, alone=alone) is not None

    assert all(chosen(m, 32768, 32768) for m in (1, 2, 3, 4, 8))
    assert chosen(2, 128256, 4096) and chosen(4, 11008, 4096)
    assert not chosen(9, 32768, 32768)  # the tensor cores are faster
    assert not chosen(1, 8192, 8192)  # the library may read one row as fast
    assert not chosen(2, 1024, 1024) and not chosen(2, 4096, 4096)  # too little to do
    assert chosen(2, 4096, 4096, alone=False)  # the library needs another kernel
    assert not chosen(4, 32768, 32768, across=1)  # not timed
    assert not chosen(4, 32768, 32768, device=TURING)
    assert not chosen(4, 32768, 32766)  # rows that do not begin at multiples of 16 bytes
    assert plan_few(factors(2, 64, 64)._replace(batch=(3,)), [(0, 64, 1)], HOPPER) is None
