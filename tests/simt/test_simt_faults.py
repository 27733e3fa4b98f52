"""Faults planted in the device library are caught: that the other tests pass then means something.

All faults are compiled into one copy of the library; the environment variable FAULT says which one strikes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.builds import DEVICE
from tests.product_model import AMPERE, kernel_product
from tests.simt.harness import ORDERS, Program, SimtError
from tests.simt.launches import H200, SMALL, SPREAD, WAITING, Device, misaligned, pointwise, products, rows
from tests.simt.programs import POINTWISE, SMALL_TILE, SOFTMAX

Run = Callable[[Program], None]


# Softmax, and a reduction after another.
ROWS = (
    SOFTMAX
    + """
struct twice_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    const C top = row.reduce(mn::max<C>{}, [=](C x) { return x; }, x);
    row.template put<0>(row.reduce(mn::max<C>{}, [=](C x) { return top - x; }, x));
  }
};
MN_EXPORT int launch_twice(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<twice_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}
"""
)


class Fault(NamedTuple):
    name: str
    header: str
    right: str  # text of the header
    wrong: str  # what stands there instead; IF: this fault strikes
    run: Run
    said: str  # part of the message; "" where only the result is wrong


def square(*shape: int, turned: bool = False, pitched: bool = False, offset: int = 0) -> Run:
    def run(program: Program) -> None:
        x = misaligned(np.random.default_rng(1).standard_normal(shape).astype(np.float32), offset)
        x = x.T if turned else x[:, :-1] if pitched else x
        y = np.empty(x.shape, np.float32)
        pointwise(program, "square", [y], [x], H200._replace(sms=1))
        assert (y == x * x).all()

    return run


def softmax(count: int, size: int, axis: int = 1, device: Device = H200) -> Run:
    def run(program: Program) -> None:
        x = np.random.default_rng(2).standard_normal((count, size)).astype(np.float32) + 3
        e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
        truth = e / e.sum(axis, keepdims=True)
        y = np.empty_like(x)
        for order in ORDERS:
            rows(program, "softmax", [y], [x], [axis], sweeps=2, on_chip=8, device=device, orders=(order,))
            assert np.abs(y - truth).max() <= 1e-6 * truth.max()

    return run


def twice(count: int, size: int, axis: int) -> Run:
    def run(program: Program) -> None:
        x = np.random.default_rng(2).standard_normal((count, size)).astype(np.float32)
        y = np.empty_like(x.max(axis, keepdims=True))
        for order in ORDERS:
            rows(program, "twice", [y], [x], [axis], sweeps=2, on_chip=4, orders=(order,))
            assert np.array_equal(y, x.max(axis, keepdims=True) - x.min(axis, keepdims=True))

    return run


def product(m: int, n: int, k: int, splits: int = 1) -> Run:
    """By one block after the other. Sums of what was not there are summed once more, rightly, but not to the same bits."""

    def run(program: Program) -> None:
        random = np.random.default_rng(3)
        x, w = (random.standard_normal((rows, -(-k // 4) * 4)).astype(np.float32)[:, :k] for rows in (m, n))
        y, z = np.empty((m, n), np.float32), np.empty((m, n), np.float16)
        operands = [x, w, np.zeros(n, np.float32), np.ones((m, n), np.float16)]
        one = SPREAD._replace(sms=1)
        for order in ORDERS:
            products(program, "affine", [y, z], operands, splits=splits, device=one, orders=(order,))
            if splits > 1:
                assert np.abs(y - x.astype(np.float64) @ w.astype(np.float64).T).max() <= 1e-4
            else:
                assert np.array_equal(y, kernel_product(x, w, AMPERE))

    return run


BEYOND = "e < left + IF ? from + e : from, e < left + IF)"
OUT = "heap-buffer-overflow"
CLUSTERS = SMALL._replace(sms=16, shared_per_block=26 << 10)
POINTWISE_FAULTS = [
    Fault(
        "load beyond the tail",
        "pointwise.cuh",
        "i < vectors; i += blockDim.x",
        "i < vectors + IF; i += blockDim.x",
        square(4099),
        "heap-buffer-overflow",
    ),
    Fault(
        "tail not written",
        "pointwise.cuh",
        "loose = elements - int64_t(vectors) * V;",
        "loose = elements - int64_t(vectors) * V - IF;",
        square(4099),
        "were not written",
    ),
    Fault(
        "overlapping tiles",
        "pointwise.cuh",
        "const unsigned first = blockIdx.x * (U * blockDim.x)",
        "const unsigned first = blockIdx.x * (U * blockDim.x - IF)",
        square(9000),
        "written twice",
    ),
    Fault(
        "row's tail not written",
        "pointwise.cuh",
        "if (i < to - whole) one",
        "if (i < to - whole - IF) one",
        square(2, 4100, pitched=True),
        "were not written",
    ),
    Fault(
        "no barrier in a tile",
        "transpose.cuh",
        "  __syncthreads();",
        "  if (!IF) __syncthreads();",
        square(50, 100, turned=True),
        "",
    ),
    Fault(
        "wrong shift",
        "memory.cuh",
        "misaligned & 4 ? w[i + 1]",
        "misaligned & 4 ? w[i + !IF]",
        square(60, offset=1),
        "",
    ),
]
ROW_FAULTS = [
    Fault(
        "no barrier in a block",
        "group.cuh",
        "= value;\n    block_barrier<Threads>();\n    return combine_warp",
        "= value;\n    if (!IF) block_barrier<Threads>();\n    return combine_warp",
        softmax(2, 3000),
        "",
    ),
    Fault(
        "one set of partial results",
        "group.cuh",
        "(round & 1) * (scratch_bytes / 2));\n    const int lane",
        "(round & !IF) * (scratch_bytes / 2));\n    const int lane",
        softmax(2, 3000),
        "",
    ),
    Fault(
        "wrong lane mask",
        "group.cuh",
        "__shfl_xor_sync(0xffffffffu",
        "__shfl_xor_sync(IF ? 0x0fffffffu : 0xffffffffu",
        softmax(2, 64),
        "mask",
    ),
    Fault("half the lanes", "group.cuh", "distance = 16;", "distance = 16 / (1 + IF);", softmax(2, 300), ""),
    Fault(
        "no barrier before reuse",
        "group.cuh",
        "    __syncthreads();  // the next reduction",
        "    if (!IF) __syncthreads();  // the next reduction",
        twice(60, 40, 0),
        "",
    ),
    Fault(
        "no cluster barrier",
        "group.cuh",
        "    barrier();\n    value = mine[0];",
        "    if (!IF) barrier();\n    value = mine[0];",
        softmax(2, 8200, 1, CLUSTERS),
        "",
    ),
    Fault(
        "no grid barrier",
        "group.cuh",
        "while (__ldcv(arrived) < all)",
        "while (!IF && __ldcv(arrived) < all)",
        softmax(1, 40000, 1, SPREAD),
        "",
    ),
    Fault(
        "a block too few at the barrier",
        "group.cuh",
        "(round + 1ull) * blocks;",
        "(round + 1ull) * (blocks + IF);",
        softmax(1, 40000, 1, SPREAD),
        "deadlock",
    ),
    Fault(
        "vector beyond the row",
        "row_program.cuh",
        "return first < N(elements) && first > -V;",
        "return first < N(elements) + V * IF && first > -V;",
        softmax(1, 37),
        "",
    ),
    Fault(
        "vector beyond a row of whole ones",
        "rows_registers.cuh",
        "first(u) < static_cast<int>(this->elements)",
        "first(u) < static_cast<int>(this->elements) + V * IF",
        softmax(1, 36),
        "",
    ),
    Fault(
        "elements beyond the row",
        "row_program.cuh",
        "if (whole || has(first + v)) chain",
        "if (whole || IF || has(first + v)) chain",
        softmax(3, 37),
        "",
    ),
    Fault(
        "overlapping vectors",
        "rows_chunks.cuh",
        "int64_t(step) * stride",
        "int64_t(step) * (stride - V * IF)",
        softmax(9, 9000, 1, H200._replace(sms=20)),
        "written twice",
    ),
    Fault(
        "a chunk not waited for",
        "rows_staged.cuh",
        "if (first) full(number)->wait(phase);",
        "if (first && !IF) full(number)->wait(phase);",
        softmax(2, 9000, 1, WAITING),
        "",
    ),
    Fault(
        "a place filled before all have read",
        "rows_staged.cuh",
        "free(i)->init(stage_shape::warps);",
        "free(i)->init(IF ? 1 : stage_shape::warps);",
        softmax(4, 9000, 1, WAITING),
        "",
    ),
    Fault(
        "values of a cluster not waited for",
        "rows_staged.cuh",
        "meeting(set)->wait(round >> 1 & 1);",
        "if (!IF) meeting(set)->wait(round >> 1 & 1);",
        softmax(2, 20000, 1, WAITING),
        "",
    ),
    Fault(
        "a vector of a chunk not copied",
        "rows_staged.cuh",
        "(last - first) / V * 16 : 0;",
        "((last - first) / V - IF) * 16 : 0;",
        softmax(2, 9000, 1, WAITING),
        "",
    ),
    Fault(
        "another row's chunk",
        "rows_staged.cuh",
        "ahead.enter(target);",
        "ahead.enter(IF && target > first_row ? target - teams : target);",
        softmax(7, 9000, 1, WAITING),
        "",
    ),
]

PRODUCT_FAULTS = [
    Fault(
        "a copy not waited for",
        "product_sm80.cuh",
        "    sm80::copies_wait<layout::stages - 2>();",
        "    if (!IF) sm80::copies_wait<layout::stages - 2>();",
        product(3, 20, 70),
        "",
    ),
    Fault(
        "a copy of other threads not waited for",
        "product_sm80.cuh",
        "    __syncthreads();  // what all have copied",
        "    if (!IF) __syncthreads();  // what all have copied",
        product(3, 20, 70),
        "",
    ),
    Fault(
        "a stage of the unit before written too early",
        "product_sm80.cuh",
        "  __syncthreads();  // the stages of the unit before",
        "  if (!IF) __syncthreads();  // the stages of the unit before",
        product(20, 20, 64),
        "",
    ),
    Fault(
        "beyond a row's end",
        "product_sm80.cuh",
        "e < left ? from + e : from, e < left)",
        BEYOND,
        product(3, 20, 33),
        OUT,
    ),
    Fault(
        "beyond the last row",
        "product_sm80.cuh",
        "left_n > 0 && left_k > 0",
        "left_n + IF > 0 && left_k > 0",
        product(3, 20, 32),
        OUT,
    ),
    Fault(
        "another part of x",
        "product_sm80.cuh",
        "((lane / 8 + 4) ^ (lane % 8))",
        "((lane / 8 + 4 - IF) ^ (lane % 8))",
        product(3, 20, 64),
        "",
    ),
    Fault(
        "a part of k left out", "product_finish.cuh", "p < s.splits;", "p < s.splits - IF;", product(3, 20, 70, 2), ""
    ),
]


def with_faults(folder: Path, faults: list[Fault]) -> Path:
    """A copy of the device library that has every fault, each waiting for its number."""
    device = folder / "device"
    shutil.copytree(DEVICE, device)
    for number, fault in enumerate(faults, 1):
        header = device / "cuda" / fault.header
        text = header.read_text()
        assert text.count(fault.right) == 1, f"{fault.header} has {text.count(fault.right)} times {fault.right!r}"
        header.write_text(text.replace(fault.right, fault.wrong.replace("IF", f"(planted_fault == {number})")))
    launch = device / "cuda" / "launch.cuh"
    text = launch.read_text().replace(
        "namespace mn {",
        '#include <cstdlib>\nstatic const int planted_fault = atoi(getenv("FAULT"));\nnamespace mn {',
        1,
    )
    launch.write_text(text)
    return device


SOURCES = {POINTWISE: POINTWISE_FAULTS, ROWS: ROW_FAULTS, SMALL_TILE: PRODUCT_FAULTS}
CASES = [(source, n, fault) for source, faults in SOURCES.items() for n, fault in enumerate(faults, 1)]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {source: with_faults(tmp_path_factory.mktemp("faulty"), faults) for source, faults in SOURCES.items()}


@pytest.mark.parametrize("source, number, fault", CASES, ids=[fault.name for _, _, fault in CASES])
def test_a_planted_fault_is_caught(libraries: dict[str, Path], source: str, number: int, fault: Fault) -> None:
    with Program(source, ["MN_T=float"], libraries[source], {"FAULT": "0"}) as program:
        fault.run(program)
    struck = Program(source, ["MN_T=float"], libraries[source], {"FAULT": str(number)})
    with struck, pytest.raises((SimtError, AssertionError)) as caught:
        fault.run(struck)
    assert fault.said in str(caught.value)
