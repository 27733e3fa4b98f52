"""Which plan is chosen for which sizes, strides and device: a table, so that a change of choice is seen."""

from dataclasses import dataclass

import pytest

from modelnew.runtime.layout import Layout, RowLayout, collapse
from modelnew.runtime.plan_cuda import Device, plan_pointwise, plan_rows

H200 = Device(index=0, sms=132, capability=(9, 0), shared_per_block=227 << 10, l2_bytes=50 << 20)
A100 = Device(index=0, sms=108, capability=(8, 0), shared_per_block=163 << 10, l2_bytes=40 << 20)
T4 = Device(index=1, sms=40, capability=(7, 5), shared_per_block=64 << 10, l2_bytes=4 << 20)


def pointwise(sizes: tuple[int, ...], *strides: tuple[int, ...], bytes_each: int = 4, device: Device = H200) -> str:
    layout = Layout(sizes, strides, (bytes_each,) * len(strides), 1)
    return plan_pointwise(layout, device).kind


@pytest.mark.parametrize(
    "sizes, strides, kind",
    [
        ((), ((), ()), "contiguous"),
        ((4096 * 393216,), ((1,), (1,)), "contiguous"),
        ((1000,), ((1,), (0,)), "strided"),  # a broadcast scalar
        ((4096, 393216), ((393216, 1), (393217, 1)), "rows"),  # sliced
        ((4096, 4000), ((4000, 1), (4001, 1)), "strided"),  # rows too short for blocks of their own
        ((128, 1000), ((1000, 1), (1000, 1), (0, 1)), "strided"),  # a bias
        ((128, 1000), ((1000, 1), (1000, 1), (1, 0)), "strided"),  # one per row: contiguous along it, but read once
        ((4096, 4096), ((4096, 1), (1, 4096)), "transposed"),
        ((32, 64, 3136), ((200704, 3136, 1), (200704, 1, 64)), "transposed"),  # channels last to channels first
        ((32, 3, 3136), ((9408, 3136, 1), (9408, 1, 3)), "strided"),  # 3 channels are too few for a tile
        ((4096, 8), ((8, 1), (1, 4096)), "strided"),
    ],
)
def test_pointwise_kinds(sizes: tuple[int, ...], strides: tuple[tuple[int, ...], ...], kind: str) -> None:
    assert pointwise(sizes, *strides) == kind


def test_many_turned_inputs_need_room_for_their_tiles() -> None:
    """A tile of doubles is 33 KB: a T4 has room for one, an H200 for six."""
    turned = [(1, 4096)] * 2
    assert pointwise((4096, 4096), (4096, 1), *turned[:1], bytes_each=8, device=T4) == "transposed"
    assert pointwise((4096, 4096), (4096, 1), *turned, bytes_each=8, device=T4) == "rows"
    assert pointwise((4096, 4096), (4096, 1), *turned, bytes_each=8) == "transposed"


def test_small_tensors_get_small_blocks() -> None:
    """All multiprocessors are to have work before a block grows."""
    threads = [
        plan_pointwise(Layout((n,), ((1,), (1,)), (4, 4), 1), H200).numbers[5] for n in (1, 1 << 14, 1 << 20, 1 << 24)
    ]
    assert threads == [64, 64, 128, 128]


def test_pointwise_numbers() -> None:
    plan = plan_pointwise(Layout((3, 5), ((5, 1), (0, 1)), (4, 4), 1), T4)
    assert plan.numbers == (1, 1, 15, 2, 0, 64, 0, 0, 3, 5, 5, 1, 0, 1)


@dataclass(frozen=True)
class Rows:
    """A row program over a contiguous tensor of `shape`; with weights, inputs that all rows share."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] = (-1,)
    bytes_each: int = 4
    sweeps: int = 2
    kept: int = 2  # values per element
    weights: int = 0
    targets: int = 0  # inputs with one int64 per row

    def layout(self) -> RowLayout:
        rank = len(self.shape)
        axes = {axis % rank for axis in self.axes}
        strides = [1] * rank
        for axis in reversed(range(rank - 1)):
            strides[axis] = strides[axis + 1] * self.shape[axis + 1]
        own, shared = strides, [s if a in axes else 0 for a, s in enumerate(strides)]
        per_row, step = [0] * rank, 1
        for axis in reversed([a for a in range(rank) if a not in axes]):
            per_row[axis], step = step, step * self.shape[axis]
        walked = [own, own] + [shared] * self.weights + [per_row] * self.targets
        parts = []
        for part in ([a for a in range(rank) if a not in axes], sorted(axes)):
            parts.append(collapse([self.shape[a] for a in part], [[w[a] for a in part] for w in walked]))
        (outer, outer_strides), (inner, inner_strides) = parts
        itemsizes = (self.bytes_each,) * (len(walked) - self.targets) + (8,) * self.targets
        on_chip = (self.kept + self.weights) * max(4, self.bytes_each)
        return RowLayout(
            outer, inner, outer_strides, inner_strides, itemsizes, 1, self.sweeps, on_chip, self.bytes_each
        )


@pytest.mark.parametrize(
    "rows, device, kind, says",
    [
        (Rows((1 << 20, 8)), H200, "registers", "1 threads per row"),
        (Rows((1 << 20, 64)), H200, "registers", "8 threads per row, 32 rows per block"),
        (Rows((65536, 500), bytes_each=2), H200, "registers", "32 threads per row"),
        (Rows((65536, 1024)), H200, "registers", "32 threads per row, 4 rows per block"),
        (Rows((65536, 1001)), H200, "registers", "a block of 64 threads per row"),
        (Rows((200, 1024)), H200, "registers", "a block of 64 threads per row"),
        (Rows((8192, 8192)), H200, "registers", "a block of 512 threads per row"),
        (Rows((8192, 12289)), H200, "staged", "in a block while others are worked on: one read"),
        (Rows((8192, 50257)), H200, "staged", "in a cluster of 2 blocks while"),
        (Rows((8192, 50257), weights=2), H200, "staged", "in a cluster of 2 blocks while"),
        (Rows((65536, 1024), sweeps=1, targets=1), H200, "registers", "32 threads per row, 4 rows per block"),  # cross-entropy
        (Rows((8192, 50257), sweeps=1, targets=1), H200, "block", "a block of 128 threads per row, one read"),
        (Rows((8192, 50257), sweeps=1, targets=1, bytes_each=2), H200, "block", "a block of 128 threads per row, one read"),
        (Rows((64, 50257)), H200, "grid", "4 blocks per row"),  # too few rows to keep clusters of 2 busy
        (Rows((8192, 50257)), T4, "grid", "one read"),  # no clusters
        (Rows((8192, 1 << 22)), T4, "block", "2 reads"),  # the whole device could not hold a row
        (Rows((4096, 393216)), H200, "staged", "in a cluster of 8 blocks while"),
        (Rows((4096, 393217)), H200, "staged", "in a cluster of 16 blocks while"),  # 8 had no place for what comes next
        (Rows((4096, 1_000_000)), H200, "grid", "37 blocks per row"),  # more than any cluster has room for
        (Rows((4096, 393216), bytes_each=2), H200, "staged", "in a cluster of 4 blocks while"),
        (Rows((4096, 100000), sweeps=1), H200, "block", "one read"),  # read once in any case
        (Rows((4096, 393216)), A100, "grid", "one read"),
        (Rows((16, 1 << 22)), H200, "grid", "16 rows at a time: 2 reads"),  # LayerNorm of few very long rows
        (Rows((1, 1 << 30), sweeps=1), H200, "grid", "264 blocks per row"),
        (Rows((1, 1 << 30)), H200, "grid", "2 reads"),
        (Rows((4096, 4096), sweeps=1), H200, "block", "a block of 128 threads"),
        (Rows((1 << 20, 4096), sweeps=1), H200, "block", "a block of 32 threads"),
        (Rows((4096, 4096), (0,), sweeps=1), H200, "side by side", "32 neighbouring rows"),
        (Rows((256, 4096, 4096), (0,), sweeps=1), H200, "side by side", "one read"),
        (Rows((256, 4096, 4096), (1,), sweeps=1), H200, "side by side", "one read"),
        (Rows((1 << 20, 64), (0,), sweeps=1), H200, "side by side", "each over 132 blocks"),
        (Rows((64, 1000, 3136), (1,)), H200, "side by side", "2 reads"),
        (Rows((64, 200, 3136), (1,)), H200, "side by side", "one read"),
        (Rows((64, 4, 50176), (1,)), H200, "side by side", "256 neighbouring rows"),
        (Rows((64, 64, 16384), (1,)), H200, "side by side", "128 neighbouring rows"),  # 32 elements for a thread
        (Rows((1, 64, 2000), (1,)), H200, "side by side", "32 neighbouring rows"),  # too few rows for that
        (Rows((32, 64, 56, 56), (0, 2, 3)), H200, "cluster", "cluster of 4"),  # batch norm
        (Rows((32, 64, 7, 7), (0, 2, 3)), H200, "side by side", "a block per row"),  # runs of 49: no vectors
    ],
)  # fmt: skip
def test_row_kinds(rows: Rows, device: Device, kind: str, says: str) -> None:
    plan = plan_rows(rows.layout(), device)
    assert (plan.kind, says in plan.why) == (kind, True), plan.why


@pytest.mark.parametrize("size", [1, 2, 3, 31, 64, 1000, 4097, 8192, 8193, 50257, 393216, 10**7, 2**31 + 5])
@pytest.mark.parametrize("count", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("bytes_each", [1, 2, 4, 8])
@pytest.mark.parametrize("device", [H200, A100, T4])
def test_limits_of_the_device_hold(size: int, count: int, bytes_each: int, device: Device) -> None:
    """Shared memory, threads, the capacity of registers, and that a cooperative grid is resident all at once."""
    for axes in ((-1,), (0,)):
        layout = Rows((count, size), axes, bytes_each).layout()
        plan = plan_rows(layout, device)
        a, b, c = plan.numbers[5:8]
        blocks, teams = c % 65536, c // 65536
        kept = b // 16 * 16
        if plan.kind == "staged":
            chunks = -(-layout.row_size * bytes_each // (384 * 4 * 16))
            assert a == 2 and blocks in (1, 2, 4, 8, 16) and -(-chunks // blocks) < b <= 64
            assert 6272 + b * 384 * 4 * 16 <= device.shared_per_block
            continue
        if plan.kind == "registers":
            held = a * 64 // max(4, bytes_each) * (2 if a == 32 else 1)
            assert held >= layout.row_size and b <= 512 and b % a == 0 and a & (a - 1) == 0
        elif plan.kind == "side by side":
            assert kept + 256 * 48 + 2 * 16 * 48 <= device.shared_per_block // 2 and 256 % a == 0
            assert blocks == 1 or blocks * teams <= 2 * device.sms
        else:
            assert a in (32, 64, 128, 256) and kept + 2 * 32 * 48 + 2 * 16 * 48 <= device.shared_per_block // 2
            assert plan.kind != "cluster" or blocks in [
                size for size in (2, 4, 8, 16) if size <= device.largest_cluster
            ]
            resident = device.sms * (1 if bytes_each < 4 else 2)
            assert plan.kind != "grid" or 1 < blocks * max(1, teams) <= resident
            assert plan.kind != "grid" or plan.workspace >= 8 * teams + 2 * 48 * blocks * teams
